//! From offer to end: launching, refusing, updating, acknowledging, killing, reconciling.

use super::*;
use plenum_api::mesos::task_status::Reason;

const FULL: &str = "cpus:4; mem:4096; ports:[31000-32000]";

fn cluster() -> (Rig, ConnId, String, StreamId, String) {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    (rig, conn, agent, stream, framework)
}

#[test]
fn a_task_runs_ends_and_gives_its_resources_back_once() {
    let (mut rig, conn, agent, stream, framework) = cluster();
    let full = rig.master.allocator().agent_report(&agent).expect("known").total.to_string();
    let offers = rig.offers(stream);
    assert_eq!(offers.len(), 1, "all of the agent in one offer");
    assert_eq!(offers[0].allocation_info.as_ref().and_then(|a| a.role.as_deref()), Some("dev"));
    rig.accept(stream, &framework, &[&offers[0]], vec![task("t", &agent, "cpus:1;mem:64")]);
    let Some(Kind::RunTasks(run)) = rig.told(conn).pop() else { panic!("a launch") };
    assert_eq!((run.tasks.len(), run.executor.is_none(), run.launch_id.len()), (1, true, 16));
    assert_eq!(
        run.tasks[0].resources[0].allocation_info.as_ref().and_then(|a| a.role.as_deref()),
        Some("dev")
    );
    rig.update(conn, &framework, "t", TaskState::TaskRunning, 1);
    assert_eq!(rig.updates(stream).len(), 1);
    rig.acknowledge(stream, &framework, &agent, "t", 1);
    assert!(matches!(rig.told(conn).pop(), Some(Kind::AcknowledgeStatus(ack)) if ack.uuid[..] == [1; 16]));
    rig.update(conn, &framework, "t", TaskState::TaskFinished, 2);
    let free: Resources = rig
        .master
        .allocator()
        .agent_report(&agent)
        .expect("known")
        .held
        .iter()
        .map(|h| h.resources.clone())
        .fold(Resources::new(), |a, b| &a + &b);
    assert!(free.cpus().as_f64() <= 3.0, "the task holds nothing; at most the rest is offered again");
    // A repeated update changes nothing, and is passed on.
    rig.update(conn, &framework, "t", TaskState::TaskFinished, 2);
    assert_eq!(rig.updates(stream).len(), 2);
    rig.acknowledge(stream, &framework, &agent, "t", 2);
    rig.acknowledge(stream, &framework, &agent, "t", 2);
    let state = rig.master.state();
    assert_eq!((state.tasks.len(), state.frameworks[0].completed.len()), (0, 1));
    let shown = state.frameworks[0].completed[0].describe();
    assert_eq!(shown.state, TaskState::TaskFinished as i32);
    assert_eq!(
        shown.statuses.iter().map(|s| s.state).collect::<Vec<_>>(),
        [TaskState::TaskRunning as i32, TaskState::TaskFinished as i32]
    );
    rig.handle(Event::StreamClosed { stream });
    assert_eq!(rig.free(&agent), full, "everything is free again");
    assert_eq!(full, FULL);
}

#[test]
fn bad_tasks_are_refused_one_by_one() {
    let (mut rig, conn, agent, stream, framework) = cluster();
    let offers = rig.offers(stream);
    let mut both = task("both", &agent, "cpus:1");
    both.executor = Some(mesos::ExecutorInfo { executor_id: "e".into(), ..Default::default() });
    let mut neither = task("neither", &agent, "cpus:1");
    neither.command = None;
    let mut negative = task("negative", &agent, "cpus:1");
    negative.resources[0].scalar = Some(mesos::value::Scalar { value: -1.0 });
    let mut foreign = task("foreign", &agent, "cpus:1");
    foreign.resources[0].allocation_info =
        Some(mesos::resource::AllocationInfo { role: Some("other".into()) });
    let mut limited = task("limited", &agent, "cpus:1");
    limited.limits.insert("cpus".into(), mesos::value::Scalar { value: 0.5 });
    let tasks = vec![
        task("big", &agent, "cpus:5"),
        task("../up", &agent, "cpus:1"),
        task("", &agent, "cpus:1"),
        task("elsewhere", "nowhere", "cpus:1"),
        mesos::TaskInfo { resources: Vec::new(), ..task("nothing", &agent, "cpus:1") },
        both,
        neither,
        negative,
        foreign,
        limited,
        task("good", &agent, "cpus:3"),
        task("good", &agent, "cpus:1"),
        task("rest", &agent, "cpus:2"),
    ];
    rig.accept(stream, &framework, &[&offers[0]], tasks);
    let refused = rig.updates(stream);
    assert_eq!(refused.len(), 12, "{refused:#?}");
    for status in &refused {
        assert_eq!(
            (status.state, status.reason),
            (TaskState::TaskError as i32, Some(Reason::TaskInvalid as i32)),
            "{}",
            status.task_id
        );
        assert!(status.uuid.is_none() && status.message.as_ref().is_some_and(|m| !m.is_empty()));
    }
    let launched: Vec<_> = rig
        .told(conn)
        .into_iter()
        .filter_map(|k| if let Kind::RunTasks(run) = k { Some(run.tasks.len()) } else { None })
        .collect();
    assert_eq!(launched, [1]);
}

#[test]
fn an_offer_is_spent_once() {
    let (mut rig, conn, agent, stream, framework) = cluster();
    let offers = rig.offers(stream);
    rig.accept(stream, &framework, &[&offers[0]], vec![task("one", &agent, "cpus:1")]);
    rig.told(conn);
    rig.accept(stream, &framework, &[&offers[0]], vec![task("two", &agent, "cpus:1")]);
    let lost = rig.updates(stream);
    assert_eq!(
        (lost.len(), lost[0].state, lost[0].reason),
        (1, TaskState::TaskDropped as i32, Some(Reason::InvalidOffers as i32))
    );
    assert!(rig.told(conn).is_empty());
    // A good offer named beside a bad one comes back.
    let again = rig.offers(stream);
    assert_eq!(again.len(), 1);
    rig.accept(stream, &framework, &[&again[0], &offers[0]], vec![task("three", &agent, "cpus:1")]);
    assert_eq!(rig.updates(stream).len(), 1);
    assert_eq!(rig.offers(stream).len(), 1, "offered again");
    // Somebody else's offer is as good as none.
    let (other, other_id) = rig.framework("g");
    let stolen =
        rig.master.state().offers.iter().next().map(|o| o.id_under(rig.master.id())).expect("an open offer");
    let stolen = mesos::Offer { id: mesos::OfferId { value: stolen }, ..Default::default() };
    rig.accept(other, &other_id, &[&stolen], vec![task("theft", &agent, "cpus:1")]);
    assert_eq!(rig.updates(other).len(), 1);
    assert_eq!(rig.master.state().offers.len(), 1);
}

#[test]
fn declined_resources_stay_away_until_the_filter_ends_or_revive() {
    let (mut rig, _, _, stream, framework) = cluster();
    let decline = |rig: &mut Rig, seconds: f64| {
        let offers = rig.offers(stream);
        assert_eq!(offers.len(), 1);
        let decline = call::Decline {
            offer_ids: vec![offers[0].id.clone()],
            filters: Some(mesos::Filters { refuse_seconds: Some(seconds) }),
        };
        assert_eq!(
            rig.call(stream, &framework, call::Type::Decline, |c| c.decline = Some(decline)),
            Answer::Accepted
        );
    };
    decline(&mut rig, 10.0);
    rig.pass(9_000);
    assert!(rig.offers(stream).is_empty());
    rig.pass(2_000);
    decline(&mut rig, 1e12);
    rig.pass(100_000);
    assert!(rig.offers(stream).is_empty());
    rig.call(stream, &framework, call::Type::Revive, |_| {});
    decline(&mut rig, f64::NAN);
    rig.pass(6_000);
    assert_eq!(rig.offers(stream).len(), 1, "nonsense is the default of five seconds");
    rig.call(stream, &framework, call::Type::Suppress, |_| {});
}

#[test]
fn kill_reaches_the_agent_now_or_when_it_is_back() {
    let (mut rig, conn, agent, stream, framework) = cluster();
    rig.running("t", conn, stream, &framework);
    let kill = |rig: &mut Rig, task: &str| {
        let kill = call::Kill { task_id: task.into(), agent_id: None, kill_policy: None };
        assert_eq!(rig.call(stream, &framework, call::Type::Kill, |c| c.kill = Some(kill)), Answer::Accepted);
    };
    rig.handle(Event::AgentDisconnected { conn });
    kill(&mut rig, "t");
    let running = mesos::Task {
        name: "t".into(),
        task_id: "t".into(),
        framework_id: framework.as_str().into(),
        agent_id: agent.as_str().into(),
        state: TaskState::TaskRunning as i32,
        resources: resources("cpus:1;mem:64"),
        ..Default::default()
    };
    let register = Register {
        agent_info: agent_info("a"),
        agent_id: Some(agent.as_str().into()),
        tasks: vec![running],
        ..Default::default()
    };
    let conn = rig.register("a", register);
    let told = rig.told(conn);
    assert!(matches!(told[0], Kind::Reregistered(_)), "{told:?}");
    assert!(told.iter().any(|k| matches!(k, Kind::KillTask(kill) if kill.task_id.value == "t")));
    kill(&mut rig, "t");
    assert!(matches!(rig.told(conn).pop(), Some(Kind::KillTask(_))));
    kill(&mut rig, "unknown");
    let answer = rig.updates(stream).pop().expect("reconciled");
    assert_eq!(
        (answer.state, answer.reason),
        (TaskState::TaskUnknown as i32, Some(Reason::Reconciliation as i32))
    );
}

#[test]
fn reconciliation_says_what_is_known() {
    let (mut rig, conn, agent, stream, framework) = cluster();
    rig.running("t", conn, stream, &framework);
    let ask = |rig: &mut Rig, tasks: &[(&str, Option<&str>)]| {
        let tasks = tasks
            .iter()
            .map(|(task, agent)| call::reconcile::Task {
                task_id: (*task).into(),
                agent_id: agent.map(Into::into),
            })
            .collect();
        rig.call(stream, &framework, call::Type::Reconcile, |c| {
            c.reconcile = Some(call::Reconcile { tasks })
        });
        rig.updates(stream)
    };
    let implicit = ask(&mut rig, &[]);
    assert_eq!(implicit.len(), 1);
    assert!(implicit[0].uuid.is_none() && implicit[0].state == TaskState::TaskRunning as i32);
    let states: Vec<i32> =
        ask(&mut rig, &[("t", None), ("x", Some(&agent)), ("x", Some("nobody")), ("x", None)])
            .iter()
            .map(|s| s.state)
            .collect();
    assert_eq!(
        states,
        [
            TaskState::TaskRunning as i32,
            TaskState::TaskGone as i32,
            TaskState::TaskUnknown as i32,
            TaskState::TaskUnknown as i32
        ]
    );
    // The agent is lost.
    rig.handle(Event::AgentDisconnected { conn });
    rig.pass(80_000);
    let lost = rig.updates(stream).pop().expect("an update");
    assert_eq!(
        (lost.state, lost.reason),
        (TaskState::TaskUnreachable as i32, Some(Reason::AgentRemoved as i32))
    );
    assert!(lost.unreachable_time.is_some());
    let states: Vec<i32> =
        ask(&mut rig, &[("t", None), ("y", Some(&agent))]).iter().map(|s| s.state).collect();
    assert_eq!(states, [TaskState::TaskUnreachable as i32; 2]);
    assert!(ask(&mut rig, &[]).is_empty());
}

#[test]
fn executors_hold_resources_of_their_own_until_they_end() {
    let (mut rig, conn, agent, stream, framework) = cluster();
    let offers = rig.offers(stream);
    let executor = mesos::ExecutorInfo {
        executor_id: "e".into(),
        command: Some(mesos::CommandInfo { value: Some("./run".into()), ..Default::default() }),
        resources: resources("cpus:1;mem:32"),
        ..Default::default()
    };
    let with = |name: &str| mesos::TaskInfo {
        command: None,
        executor: Some(executor.clone()),
        ..task(name, &agent, "cpus:1;mem:32")
    };
    let mut changed = with("changed");
    changed.executor.as_mut().expect("set").resources = resources("cpus:2");
    rig.accept(stream, &framework, &[&offers[0]], vec![with("one"), with("two"), changed]);
    let Some(Kind::RunTasks(run)) = rig.told(conn).pop() else { panic!("a launch") };
    assert_eq!((run.tasks.len(), run.executor.is_some()), (2, true), "both in one message");
    assert_eq!(rig.updates(stream).len(), 1, "an executor cannot be two");
    let offers = rig.offers(stream);
    assert_eq!(Resources::from_mesos(&offers[0].resources).expect("valid").cpus().as_f64(), 1.0);
    assert_eq!(offers[0].executor_ids, [mesos::ExecutorId::from("e")]);
    rig.update(conn, &framework, "one", TaskState::TaskFinished, 1);
    rig.update(conn, &framework, "two", TaskState::TaskFailed, 2);
    let exited = internal::ExecutorExited {
        framework_id: framework.as_str().into(),
        executor_id: "e".into(),
        status: Some(9),
    };
    rig.say(conn, agent_message::Kind::ExecutorExited(exited.clone()));
    rig.say(conn, agent_message::Kind::ExecutorExited(exited));
    let failures = rig.events(stream, event::Type::Failure);
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].failure.as_ref().and_then(|f| f.status), Some(9));
    rig.handle(Event::StreamClosed { stream });
    assert_eq!(rig.free(&agent), FULL);
}

#[test]
fn hostile_updates_change_nothing() {
    let (mut rig, conn, _, stream, framework) = cluster();
    rig.running("t", conn, stream, &framework);
    let (other_conn, _) = rig.agent("b");
    // Another agent speaks of a task that is not its own.
    rig.update(other_conn, &framework, "t", TaskState::TaskFailed, 9);
    assert_eq!(rig.master.state().tasks.iter().next().map(|t| t.state), Some(TaskState::TaskRunning));
    let passed_on = rig.updates(stream);
    assert_ne!(passed_on[0].agent_id, None, "and in its own name only");
    // A uuid of the wrong size, a state that does not exist, a message before registering.
    let status = mesos::TaskStatus {
        task_id: "t".into(),
        state: 1,
        uuid: Some(vec![1; 3].into()),
        ..Default::default()
    };
    let update = internal::StatusUpdate {
        framework_id: framework.as_str().into(),
        status: status.clone(),
        ..Default::default()
    };
    rig.say(conn, agent_message::Kind::StatusUpdate(update.clone()));
    let status = mesos::TaskStatus { state: 77, uuid: None, ..status };
    rig.say(conn, agent_message::Kind::StatusUpdate(internal::StatusUpdate { status, ..update }));
    assert!(rig.updates(stream).is_empty());
    let stranger = rig.connect("c");
    rig.update(stranger, &framework, "t", TaskState::TaskFailed, 9);
    assert!(rig.closed_conns.contains(&stranger));
    let again = Register { agent_info: agent_info("a"), ..Default::default() };
    rig.say(conn, agent_message::Kind::Register(again));
    assert!(rig.closed_conns.contains(&conn), "registering twice is a fault");
}
