//! Agents coming, going, coming back; the master restarting underneath them.

use super::*;

fn rejoin(agent: &str, tasks: Vec<mesos::Task>, frameworks: Vec<mesos::FrameworkInfo>) -> Register {
    Register {
        agent_info: agent_info("a"),
        agent_id: Some(agent.into()),
        version: "1".into(),
        tasks,
        frameworks,
        ..Default::default()
    }
}

fn running(task: &str, framework: &str, agent: &str) -> mesos::Task {
    mesos::Task {
        name: task.into(),
        task_id: task.into(),
        framework_id: framework.into(),
        agent_id: agent.into(),
        state: TaskState::TaskRunning as i32,
        resources: Resources::parse("cpus:1;mem:64", "*").expect("resources").allocate("dev").to_mesos(),
        ..Default::default()
    }
}

fn goodbyes(rig: &mut Rig, conn: ConnId) -> Vec<i32> {
    rig.told(conn)
        .into_iter()
        .filter_map(|k| if let Kind::Goodbye(g) = k { Some(g.code) } else { None })
        .collect()
}

#[test]
fn admission_is_stored_before_the_agent_hears_of_it() {
    let mut rig = Rig::new();
    rig.hold = true;
    let conn = rig.register("a", Register { agent_info: agent_info("a"), ..Default::default() });
    assert!(rig.told(conn).is_empty());
    rig.settle(Err("full".into()));
    assert_eq!(goodbyes(&mut rig, conn), [internal::goodbye::Code::Closing as i32]);
    assert!(rig.store.is_empty());
    let conn = rig.register("a", Register { agent_info: agent_info("a"), ..Default::default() });
    rig.settle(Ok(()));
    assert!(matches!(rig.told(conn)[..], [Kind::Registered(_)]));
    assert_eq!(rig.store.len(), 1);
    // One whose connection broke meanwhile never heard its id: the record goes away again.
    let conn = rig.register("b", Register { agent_info: agent_info("b"), ..Default::default() });
    rig.handle(Event::AgentDisconnected { conn });
    rig.settle(Ok(()));
    rig.settle(Ok(()));
    assert_eq!(rig.store.len(), 1);
}

#[test]
fn a_known_agent_comes_back_without_a_write_and_replaces_its_old_connection() {
    let mut rig = Rig::new();
    let (old, agent) = rig.agent("a");
    rig.hold = true;
    let new = rig.register("a", rejoin(&agent, vec![], vec![]));
    assert!(rig.waiting.is_empty());
    assert!(matches!(rig.told(new)[..], [Kind::Reregistered(_)]));
    assert_eq!(goodbyes(&mut rig, old), [internal::goodbye::Code::Replaced as i32]);
    rig.handle(Event::AgentDisconnected { conn: old });
    assert!(
        rig.master.state().agents.iter().all(|agent| agent.active()),
        "the old connection's end is nothing"
    );
    let thief = rig.register("another key", rejoin(&agent, vec![], vec![]));
    assert_eq!(goodbyes(&mut rig, thief), [internal::goodbye::Code::Identity as i32]);
}

#[test]
fn silence_makes_an_agent_unreachable_and_answers_keep_it() {
    let mut rig = Rig::new();
    rig.mute = true;
    let (conn, agent) = rig.agent("a");
    for _ in 0..10 {
        rig.pass(4_000);
        let pings: Vec<u64> = rig
            .told(conn)
            .into_iter()
            .filter_map(|k| if let Kind::Ping(p) = k { Some(p.seq) } else { None })
            .collect();
        assert_eq!(pings.len(), 1);
        rig.say(conn, agent_message::Kind::Pong(internal::Pong { seq: pings[0] }));
    }
    assert!(rig.closed_conns.is_empty());
    rig.pass(100_000);
    assert_eq!(rig.closed_conns, [conn]);
    assert!(rig.store[&format!("agent/{agent}")].windows(11).any(|w| w == b"unreachable"));
    assert_eq!(rig.master.state().agents.len(), 0);
    // Back again: admitted in the store first.
    rig.hold = true;
    let conn = rig.register("a", rejoin(&agent, vec![], vec![]));
    assert!(rig.told(conn).is_empty());
    rig.settle(Ok(()));
    assert!(matches!(rig.told(conn)[..], [Kind::Reregistered(_)]));
    assert_eq!(rig.master.state().agents.len(), 1);
}

#[test]
fn an_agent_that_returns_while_its_loss_is_stored_is_not_lost() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    rig.hold = true;
    rig.handle(Event::AgentDisconnected { conn });
    rig.pass(80_000);
    assert_eq!(rig.waiting.len(), 1);
    let conn = rig.register("a", rejoin(&agent, vec![running("t", &framework, &agent)], vec![]));
    rig.settle(Ok(()));
    rig.settle(Ok(()));
    assert!(rig.updates(stream).is_empty());
    assert!(matches!(rig.told(conn)[..], [Kind::Reregistered(_)]));
    assert!(rig.store[&format!("agent/{agent}")].windows(8).any(|w| w == b"admitted"));
    assert_eq!(rig.master.state().tasks.len(), 1);
}

#[test]
fn tasks_survive_a_restart_of_the_master() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    let mut rig = rig.restarted();
    let state = rig.master.state();
    assert_eq!((state.agents.len(), state.absent.len(), state.frameworks.len()), (0, 1, 1));
    assert!(state.frameworks[0].recovered);
    let mut info = framework_info("f");
    info.id = Some(framework.as_str().into());
    rig.hold = true;
    let stream = rig.subscribe(info, "alice");
    assert_eq!(
        rig.subscribed(stream).as_deref(),
        Some(&*framework),
        "nothing changed, so nothing is written"
    );
    // Before the agent is back: no answer, rather than a wrong one.
    let asked = |agent: Option<&str>| {
        vec![call::reconcile::Task { task_id: "t".into(), agent_id: agent.map(Into::into) }]
    };
    for agent in [None, Some(agent.as_str())] {
        rig.call(stream, &framework, call::Type::Reconcile, |c| {
            c.reconcile = Some(call::Reconcile { tasks: asked(agent) })
        });
        assert!(rig.updates(stream).is_empty());
    }
    let conn =
        rig.register("a", rejoin(&agent, vec![running("t", &framework, &agent)], vec![framework_info("f")]));
    assert!(matches!(&rig.told(conn)[..], [Kind::Reregistered(r)] if r.frameworks.len() == 1));
    rig.call(stream, &framework, call::Type::Reconcile, |c| {
        c.reconcile = Some(call::Reconcile { tasks: asked(None) })
    });
    assert_eq!(rig.updates(stream).pop().map(|s| s.state), Some(TaskState::TaskRunning as i32));
    let offers = rig.offers(stream);
    assert_eq!(
        Resources::from_mesos(&offers[0].resources).expect("valid").cpus().as_f64(),
        3.0,
        "the task's share is not offered"
    );
    rig.update(conn, &framework, "t", TaskState::TaskFinished, 3);
    rig.acknowledge(stream, &framework, &agent, "t", 3);
    assert_eq!(rig.master.state().tasks.len(), 0);
}

#[test]
fn who_does_not_come_back_after_a_restart_is_unreachable() {
    let mut rig = Rig::new();
    let (_, agent) = rig.agent("a");
    rig.framework("f");
    let mut rig = rig.restarted();
    rig.pass(599_000);
    assert!(rig.master.state().absent.values().all(|absent| absent.is_recovered()));
    rig.pass(2_000);
    assert!(rig.store[&format!("agent/{agent}")].windows(11).any(|w| w == b"unreachable"));
    assert!(
        !rig.store.keys().any(|key| key.starts_with("framework/")),
        "the framework had at least as long, and is removed now"
    );
}

#[test]
fn what_the_agent_does_not_name_is_asked_for() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    let conn = rig.register("a", rejoin(&agent, vec![], vec![]));
    let Some(Kind::Reregistered(back)) = rig.told(conn).into_iter().next() else { panic!("reregistered") };
    assert_eq!(back.reconciliations.len(), 1);
    assert_eq!(back.reconciliations[0].task_ids, [mesos::TaskId::from("t")]);
    rig.update(conn, &framework, "t", TaskState::TaskDropped, 5);
    assert_eq!(rig.updates(stream).len(), 1);
}

#[test]
fn gone_is_for_ever() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    let gone = |agent: &str| master::Call {
        r#type: Some(master::call::Type::MarkAgentGone as i32),
        mark_agent_gone: Some(master::call::MarkAgentGone { agent_id: agent.into() }),
        ..Default::default()
    };
    assert!(matches!(rig.operate(gone("nobody")), Some(Answer::Refused(404, _))));
    assert_eq!(rig.operate(gone(&agent)), Some(Answer::Done));
    assert!(rig.told(conn).iter().any(|k| matches!(k, Kind::ShutdownAgent(_))));
    assert_eq!(rig.updates(stream).pop().map(|s| s.state), Some(TaskState::TaskGoneByOperator as i32));
    assert_eq!(rig.operate(gone(&agent)), Some(Answer::Done), "again is no harm");
    let mut rig = rig.restarted();
    let conn = rig.register("a", rejoin(&agent, vec![], vec![]));
    assert_eq!(goodbyes(&mut rig, conn), [internal::goodbye::Code::Gone as i32]);
}

#[test]
fn frameworks_that_only_an_agent_knows_are_taken_in_and_dead_ones_stopped() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    rig.handle(Event::AgentDisconnected { conn });
    rig.call(stream, &framework, call::Type::Teardown, |_| {});
    let mut unknown = framework_info("u");
    unknown.id = Some("from-elsewhere".into());
    let tasks = vec![running("t", &framework, &agent), running("x", "from-elsewhere", &agent)];
    let conn = rig.register("a", rejoin(&agent, tasks, vec![unknown]));
    let told = rig.told(conn);
    let stopped: Vec<_> = told
        .iter()
        .filter_map(|k| {
            if let Kind::ShutdownFramework(s) = k { Some(s.framework_id.value.clone()) } else { None }
        })
        .collect();
    assert_eq!(stopped, std::slice::from_ref(&framework));
    let state = rig.master.state();
    assert_eq!(state.frameworks.iter().map(|f| f.id.to_string()).collect::<Vec<_>>(), ["from-elsewhere"]);
    assert_eq!(state.tasks_by_framework()["from-elsewhere"].len(), 1);
    // Both tasks run until the agent says otherwise, so neither share is free.
    assert!(rig.free(&agent).contains("cpus:2"), "{}", rig.free(&agent));
    rig.update(conn, &framework, "t", TaskState::TaskKilled, 4);
    assert!(
        rig.told(conn).iter().any(|k| matches!(k, Kind::AcknowledgeStatus(_))),
        "nobody else would acknowledge it"
    );
    assert!(rig.free(&agent).contains("cpus:3"), "{}", rig.free(&agent));
}

#[test]
fn a_task_that_was_out_of_reach_is_told_to_run_when_its_agent_is_back() {
    let mut rig = Rig::new();
    let (conn, agent) = rig.agent("a");
    let (stream, framework) = rig.framework("f");
    rig.running("t", conn, stream, &framework);
    rig.handle(Event::AgentDisconnected { conn });
    rig.pass(80_000);
    assert_eq!(rig.updates(stream).pop().map(|s| s.state), Some(TaskState::TaskUnreachable as i32));
    rig.register("a", rejoin(&agent, vec![running("t", &framework, &agent)], vec![]));
    let back = rig.updates(stream);
    let reason = mesos::task_status::Reason::AgentReregistered as i32;
    assert_eq!(back.len(), 1);
    assert_eq!((back[0].state, back[0].reason), (TaskState::TaskRunning as i32, Some(reason)));
    assert!(back[0].uuid.is_none(), "the master's own word wants no acknowledgement");
    assert_eq!(back[0].agent_id, Some(agent.as_str().into()));
}
