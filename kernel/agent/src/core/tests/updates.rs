//! Streams of updates, terms, registration.

use plenum_api::internal::{self, agent_message::Kind as Say, goodbye::Code, master_message::Kind as Hear};
use plenum_api::mesos::TaskState;
use plenum_api::mesos::framework_info::capability::Type as CapabilityType;
use plenum_api::mesos::task_status::Reason;

use super::script::*;
use crate::core::*;

#[test]
fn the_next_update_waits_for_the_acknowledgement() {
    let mut stage = Stage::registered();
    stage.run(task("t"));
    let container = stage.launch().container;
    stage.launched(&container);
    let running = stage.updates();
    stage.exited(&container, ExitStatus::Code(0));
    assert!(stage.updates().is_empty());
    let mut wrong = running[0].clone();
    wrong.uuid = Some(bytes::Bytes::from_static(&[0; 16]));
    stage.acknowledge(&wrong);
    assert!(stage.updates().is_empty(), "an acknowledgement of something else changes nothing");
    stage.acknowledge(&running[0]);
    let finished = stage.updates();
    assert_eq!(finished[0].state(), TaskState::TaskFinished);
    stage.acknowledge(&running[0]);
    assert_eq!(stage.agent.task_counts(), [0, 0, 1, 0]);
    stage.acknowledge(&finished[0]);
    assert_eq!(stage.agent.task_counts(), [0, 0, 0, 1]);
}

#[test]
fn updates_are_repeated_ten_seconds_doubling_to_ten_minutes() {
    let mut stage = Stage::registered();
    stage.run(task("t"));
    let container = stage.launch().container;
    stage.launched(&container);
    let first = stage.updates();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let begin = stage.now.mono;
        for _ in 0..1_000 {
            stage.pass(1_000);
            if !stage.updates().is_empty() {
                break;
            }
        }
        waits.push((stage.now.mono - begin).0 / 1000);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    stage.acknowledge(&first[0]);
    stage.pass(3_600_000);
    assert!(stage.updates().is_empty());
}

#[test]
fn nothing_is_sent_that_is_not_on_the_disk() {
    let mut stage = Stage::registered();
    stage.run(task("t"));
    let container = stage.launch().container;
    stage.full = Some("No space left on device".to_owned());
    stage.launched(&container);
    assert!(stage.updates().is_empty());
    stage.pass(60_000);
    assert!(stage.updates().is_empty());
    stage.full = None;
    stage.pass(5_000);
    stage.expect(say(TaskState::TaskRunning));
}

#[test]
fn a_full_disk_refuses_launches_and_touches_nothing_else() {
    let mut stage = Stage::registered();
    let container = stage.running(task("old"));
    stage.full = Some("No space left on device".to_owned());
    stage.run_as(framework(&[]), task("new"), b"l2");
    let updates = stage.updates();
    assert_eq!(updates[0].state(), TaskState::TaskLost);
    assert!(updates[0].message().contains("No space left on device"));
    assert!(!stage.take().iter().any(|effect| matches!(effect, Effect::Launch(_) | Effect::Destroy { .. })));
    stage.acknowledge(&updates[0]);
    assert_eq!(stage.agent.task_counts(), [0, 1, 0, 0]);
    stage.full = None;
    stage.run_as(framework(&[]), task("new"), b"l3");
    assert_ne!(stage.launch().container, container);
}

#[test]
fn a_new_connection_hears_everything() {
    let mut stage = Stage::registered();
    stage.run(task("t"));
    let container = stage.launch().container;
    let conn = stage.conn;
    stage.event(Event::Disconnected { conn });
    stage.launched(&container);
    stage.exited(&container, ExitStatus::Code(1));
    assert!(stage.updates().is_empty());
    stage.pass(120_000);
    stage.conn += 1;
    let conn = stage.conn;
    stage.event(Event::Connected { conn });
    stage.master(vec![Hear::Hello(internal::Hello { version_min: 1, version_max: 3, ..Default::default() })]);
    let register = stage.take().into_iter().find_map(|effect| match effect {
        Effect::Send(kind) => match *kind {
            Say::Register(register) => Some(register),
            _ => None,
        },
        _ => None,
    });
    let register = register.expect("it registers");
    assert_eq!(register.agent_id.unwrap().value, "S");
    assert_eq!(register.frameworks.len(), 1);
    assert_eq!(register.tasks.len(), 1);
    assert_eq!(register.tasks[0].state(), TaskState::TaskFailed);
    assert_eq!(register.tasks[0].status_update_state(), TaskState::TaskRunning);
    let states: Vec<TaskState> =
        register.pending_updates.iter().map(|update| update.status.state()).collect();
    assert_eq!(states, [TaskState::TaskRunning, TaskState::TaskFailed]);
    assert_eq!(register.highest_term, Some(1));
    stage.master(vec![Hear::Reregistered(internal::Reregistered {
        agent_id: "S".into(),
        ..Default::default()
    })]);
    stage.expect(say(TaskState::TaskRunning));
    stage.expect(say(TaskState::TaskFailed).message("Command exited with status 1"));
}

fn goodbyes(stage: &mut Stage) -> Vec<Code> {
    let take = stage.take();
    let code = |effect: Effect| match effect {
        Effect::Send(kind) => match *kind {
            Say::Goodbye(goodbye) => Some(goodbye.code()),
            _ => None,
        },
        _ => None,
    };
    take.into_iter().filter_map(code).collect()
}

#[test]
fn terms_are_written_before_they_are_obeyed_and_never_go_back() {
    let mut stage = Stage::registered();
    stage.hold = true;
    stage.term = 5;
    stage.run(task("t"));
    stage.run(task("u"));
    assert_eq!(stage.agent.term(), 1);
    assert!(stage.take().is_empty());
    stage.release();
    assert_eq!(stage.agent.term(), 5);
    let launches = stage.take().iter().filter(|effect| matches!(effect, Effect::Launch(_))).count();
    assert_eq!(launches, 2);
    stage.restart(vec![]);
    assert_eq!(stage.agent.term(), 5);
    stage.term = 4;
    stage.register();
    assert_eq!(goodbyes(&mut stage), [Code::StaleTerm]);
    assert!(!stage.agent.is_registered());
    // A term that cannot be written down is not obeyed.
    let mut stage = Stage::registered();
    stage.full = Some("full".to_owned());
    stage.term = 2;
    stage.run(task("t"));
    assert_eq!((stage.agent.term(), stage.agent.is_registered()), (1, false));
    assert!(!stage.take().iter().any(|effect| matches!(effect, Effect::Launch(_))));
}

#[test]
fn strangers_are_refused() {
    let hello = |min, max, cluster: &str| internal::Hello {
        version_min: min,
        version_max: max,
        cluster_id: Some(cluster.to_owned()),
        ..Default::default()
    };
    for (hello, code) in [(hello(2, 9, ""), Code::Version), (hello(1, 1, "other"), Code::Cluster)] {
        let settings = Settings { cluster_id: "mine".to_owned(), ..Settings::default() };
        let mut stage = Stage::with(settings);
        stage.conn = 1;
        stage.event(Event::Connected { conn: 1 });
        stage.master(vec![Hear::Hello(hello)]);
        assert_eq!(goodbyes(&mut stage), [code]);
    }
    // Orders before the registration is through.
    let mut stage = Stage::new();
    stage.conn = 1;
    stage.event(Event::Connected { conn: 1 });
    stage.run(task("t"));
    assert_eq!(goodbyes(&mut stage), [Code::Protocol]);
    // Frames of a connection that is over.
    let mut stage = Stage::registered();
    stage.conn = 0;
    stage.run(task("t"));
    assert!(stage.take().is_empty());
}

#[test]
fn a_silent_master_is_given_up() {
    let mut stage = Stage::with(Settings::default());
    stage.register();
    stage.take();
    stage.pass(29_000);
    stage.master(vec![Hear::Ping(internal::Ping { seq: 9, connected: None })]);
    assert!(
        matches!(&stage.take()[0], Effect::Send(kind) if matches!(kind.as_ref(), Say::Pong(pong) if pong.seq == 9))
    );
    stage.pass(29_000);
    assert!(stage.agent.is_registered());
    stage.pass(2_000);
    assert!(!stage.agent.is_registered());
    assert!(stage.take().iter().any(|effect| matches!(effect, Effect::Disconnect { .. })));
}

#[test]
fn the_identity_is_kept_until_a_master_takes_it_away() {
    let mut stage = Stage::registered();
    let container = stage.running(task("t"));
    stage.restart(vec![Found {
        container: container.clone(),
        state: FoundState::Running(Started::default()),
    }]);
    assert_eq!(stage.agent.agent_id(), "S");
    stage.conn += 1;
    let conn = stage.conn;
    stage.event(Event::Connected { conn });
    stage.master(vec![Hear::Hello(internal::Hello { version_min: 1, version_max: 1, ..Default::default() })]);
    stage.take();
    stage
        .master(vec![Hear::Registered(internal::Registered { agent_id: "S2".into(), ..Default::default() })]);
    assert!(stage.take().contains(&Effect::Destroy { container }), "what ran under the old name is nobody's");
    assert_eq!(stage.agent.agent_id(), "S2");
    assert_eq!(stage.agent.task_counts(), [0; 4]);
    stage.restart(vec![]);
    assert_eq!(stage.agent.agent_id(), "S2");
}

#[test]
fn reconciliation_tells_what_is_known() {
    let mut stage = Stage::registered();
    stage.running(task("t"));
    let task_ids = vec!["t".into(), "nobody".into()];
    stage.master(vec![Hear::ReconcileTasks(internal::ReconcileTasks {
        framework_id: "F".into(),
        task_ids,
        ..Default::default()
    })]);
    let updates = stage.updates();
    let seen: Vec<_> = updates.iter().map(|one| (one.state(), one.reason(), one.uuid.is_some())).collect();
    assert_eq!(
        seen,
        [
            (TaskState::TaskRunning, Reason::Reconciliation, false),
            (TaskState::TaskLost, Reason::Reconciliation, true)
        ]
    );
    // Of a framework that never came this far the master says what it understands.
    stage.master(vec![Hear::ReconcileTasks(internal::ReconcileTasks {
        framework_id: "G".into(),
        task_ids: vec!["nobody".into()],
        framework_info: Some(framework(&[CapabilityType::PartitionAware])),
    })]);
    assert_eq!(stage.updates()[0].state(), TaskState::TaskDropped);
}
