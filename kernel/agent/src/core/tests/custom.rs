//! Custom executors.

use bytes::Bytes;
use plenum_api::executor::{self, Call, call, event::Type as Told};
use plenum_api::internal::{self, agent_message::Kind as Say, master_message::Kind as Hear};
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{CommandInfo, ExecutorInfo, TaskInfo, TaskState, TaskStatus};

use super::script::*;
use crate::core::*;

fn custom(id: &str) -> TaskInfo {
    let command = CommandInfo { value: Some("./executor".to_owned()), ..Default::default() };
    let executor = ExecutorInfo { executor_id: "E".into(), command: Some(command), ..Default::default() };
    TaskInfo { command: None, executor: Some(executor), ..task(id) }
}

struct Executor {
    container: String,
    token: String,
}

impl Stage {
    fn launch_executor(&mut self) -> Executor {
        let launch = self.launch();
        assert!(launch.task.is_none());
        let get = |name: &str| launch.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        for name in ["MESOS_AGENT_ENDPOINT", "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "MESOS_CHECKPOINT"] {
            assert!(get(name).is_some(), "{name}");
        }
        let token = get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN").unwrap();
        assert!(token.len() >= 64);
        self.launched(&launch.container);
        Executor { container: launch.container, token }
    }

    fn call(&mut self, executor: &Executor, kind: call::Type, fill: impl FnOnce(&mut Call)) -> ExecutorReply {
        self.call_with(Some(executor.token.clone()), kind, fill)
    }

    fn call_with(
        &mut self,
        token: Option<String>,
        kind: call::Type,
        fill: impl FnOnce(&mut Call),
    ) -> ExecutorReply {
        let mut call = Call { executor_id: "E".into(), framework_id: "F".into(), ..Default::default() };
        call.set_type(kind);
        fill(&mut call);
        self.event(Event::ExecutorCall(Box::new(ExecutorCall { request: 77, token, call })));
        let at = self.out.iter().position(|effect| matches!(effect, Effect::ExecutorReply { .. }));
        match self.out.remove(at.expect("a call is answered")) {
            Effect::ExecutorReply { request: 77, reply } => reply,
            other => panic!("{other:?}"),
        }
    }

    fn subscribe(&mut self, executor: &Executor) -> ExecutorReply {
        self.call(executor, call::Type::Subscribe, |call| call.subscribe = Some(Default::default()))
    }

    /// What the executor was told since the last look.
    fn told(&mut self) -> Vec<executor::Event> {
        let mut told = Vec::new();
        self.out.retain(|effect| match effect {
            Effect::ExecutorSend { event, .. } => {
                told.push(event.as_ref().clone());
                false
            }
            _ => true,
        });
        told
    }

    fn kinds(&mut self) -> Vec<Told> {
        self.told().iter().map(executor::Event::r#type).collect()
    }

    fn say_update(&mut self, executor: &Executor, task: &str, state: TaskState, uuid: u8) -> ExecutorReply {
        let status = status(task, state, uuid);
        self.call(executor, call::Type::Update, |call| call.update = Some(call::Update { status }))
    }
}

fn status(task: &str, state: TaskState, uuid: u8) -> TaskStatus {
    let mut status = TaskStatus {
        task_id: task.into(),
        uuid: Some(Bytes::copy_from_slice(&[uuid; 16])),
        data: Some(Bytes::from_static(b"data")),
        ..Default::default()
    };
    status.set_state(state);
    status
}

/// An executor that has subscribed and runs task `t`.
fn subscribed() -> (Stage, Executor) {
    let mut stage = Stage::registered();
    stage.run(custom("t"));
    let executor = stage.launch_executor();
    assert_eq!(stage.kinds(), [], "the task waits for its executor");
    assert_eq!(stage.subscribe(&executor), ExecutorReply::Stream { container: executor.container.clone() });
    assert_eq!(stage.kinds(), [Told::Subscribed, Told::Launch]);
    assert_eq!(stage.say_update(&executor, "t", TaskState::TaskRunning, 1), ExecutorReply::Accepted);
    assert_eq!(stage.kinds(), [Told::Acknowledged]);
    let running = stage.expect(say(TaskState::TaskRunning));
    assert_eq!(running.uuid.as_deref(), Some([1_u8; 16].as_slice()), "the executor's id is kept");
    assert_eq!(running.data.as_deref(), Some(b"data".as_slice()));
    assert!(running.container_status.is_some());
    stage.out.clear();
    (stage, executor)
}

#[test]
fn tasks_updates_messages_and_kills_pass_through() {
    let (mut stage, executor) = subscribed();
    stage.run_as(framework(&[]), custom("u"), b"l2");
    assert_eq!(stage.kinds(), [Told::Launch], "a second task needs no second executor");
    assert_eq!(stage.say_update(&executor, "t", TaskState::TaskRunning, 1), ExecutorReply::Accepted);
    assert_eq!(stage.kinds(), [Told::Acknowledged], "a repeated update is acknowledged again");
    assert!(stage.updates().is_empty(), "and not told again");
    let data = Bytes::from_static(b"hello");
    let message =
        internal::FrameworkMessage { framework_id: "F".into(), executor_id: "E".into(), data: data.clone() };
    stage.master(vec![Hear::FrameworkMessage(message)]);
    assert_eq!(stage.told()[0].message.as_ref().unwrap().data, data);
    stage.call(&executor, call::Type::Message, |call| {
        call.message = Some(call::Message { data: data.clone() })
    });
    assert!(stage.take().iter().any(|effect| matches!(effect, Effect::Send(kind)
        if matches!(kind.as_ref(), Say::ExecutorMessage(message) if message.data == data))));
    stage.kill("t", Some(9_000));
    let told = stage.told();
    let kill = told[0].kill.as_ref().unwrap();
    assert_eq!(kill.kill_policy.as_ref().unwrap().grace_period.as_ref().unwrap().nanoseconds, 9_000_000_000);
    stage.say_update(&executor, "t", TaskState::TaskKilled, 2);
    assert_eq!(stage.updates()[0].state(), TaskState::TaskKilled);
}

#[test]
fn an_update_is_acknowledged_only_when_it_is_on_the_disk() {
    let (mut stage, executor) = subscribed();
    stage.hold = true;
    stage.say_update(&executor, "t", TaskState::TaskFinished, 2);
    assert_eq!(stage.kinds(), []);
    stage.say_update(&executor, "t", TaskState::TaskFinished, 2);
    assert_eq!(stage.kinds(), [], "nor when it is repeated meanwhile");
    stage.release();
    assert_eq!(stage.kinds(), [Told::Acknowledged]);
}

#[test]
fn calls_without_the_token_are_refused() {
    let (mut stage, executor) = subscribed();
    for token in [
        None,
        Some(String::new()),
        Some("x".repeat(executor.token.len())),
        Some(format!("{}x", executor.token)),
    ] {
        let reply = stage.call_with(token, call::Type::Subscribe, |_| {});
        assert!(matches!(reply, ExecutorReply::Refused { status: 401, .. }), "{reply:?}");
    }
    let none = |call: &mut Call| call.executor_id = "unknown".into();
    assert!(matches!(
        stage.call(&executor, call::Type::Subscribe, none),
        ExecutorReply::Refused { status: 401, .. }
    ));
}

#[test]
fn bad_calls_have_their_answers() {
    let (mut stage, executor) = subscribed();
    let mut refused = |kind, fill: &dyn Fn(&mut Call)| match stage.call(&executor, kind, fill) {
        ExecutorReply::Refused { status, .. } => status,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(call::Type::Update, &|_| {}), 400);
    assert_eq!(refused(call::Type::Message, &|_| {}), 400);
    assert_eq!(refused(call::Type::Unknown, &|_| {}), 400);
    let short = |call: &mut Call| {
        let mut status = status("t", TaskState::TaskRunning, 9);
        status.uuid = Some(Bytes::from_static(b"short"));
        call.update = Some(call::Update { status });
    };
    assert_eq!(refused(call::Type::Update, &short), 400);
    let staging =
        |call: &mut Call| call.update = Some(call::Update { status: status("t", TaskState::TaskStaging, 9) });
    assert_eq!(refused(call::Type::Update, &staging), 400);
    let container = executor.container.clone();
    stage.event(Event::ExecutorGone { container, stream: 77 });
    let reply = stage.call(&executor, call::Type::Heartbeat, |_| {});
    assert!(matches!(reply, ExecutorReply::Refused { status: 403, .. }));
}

#[test]
fn an_executor_that_ends_takes_its_tasks_along() {
    let (mut stage, executor) = subscribed();
    stage.exited(&executor.container, ExitStatus::Signal(9));
    let updates = stage.updates();
    assert_eq!(
        (updates[0].state(), updates[0].reason()),
        (TaskState::TaskFailed, Reason::ExecutorTerminated)
    );
    let out = stage.take();
    let exited = |effect: &Effect| {
        matches!(effect, Effect::Send(kind)
            if matches!(kind.as_ref(), Say::ExecutorExited(exited) if exited.status == Some(9)))
    };
    assert!(out.iter().any(exited));
    assert!(out.iter().any(|effect| matches!(effect, Effect::Retire { .. })));
    stage.acknowledge(&updates[0]);
    stage.run_as(framework(&[]), custom("u"), b"l2");
    assert_ne!(stage.launch().container, executor.container, "the next task gets a new one");
}

#[test]
fn an_executor_that_does_not_subscribe_is_given_up() {
    let mut stage = Stage::registered();
    stage.run(custom("t"));
    let executor = stage.launch_executor();
    stage.pass(59_000);
    assert!(stage.take().is_empty());
    stage.pass(2_000);
    assert_eq!(stage.take(), vec![Effect::Destroy { container: executor.container.clone() }]);
    stage.exited(&executor.container, ExitStatus::Signal(9));
    let updates = stage.updates();
    assert_eq!(updates[0].reason(), Reason::ExecutorRegistrationTimeout);
    assert_eq!(updates[0].state(), TaskState::TaskFailed);
}

#[test]
fn shutdown_asks_then_destroys() {
    let (mut stage, executor) = subscribed();
    let which = internal::ShutdownExecutor { framework_id: "F".into(), executor_id: "E".into() };
    stage.master(vec![Hear::ShutdownExecutor(which)]);
    assert_eq!(stage.kinds(), [Told::Shutdown]);
    stage.pass(4_900);
    assert!(stage.take().is_empty());
    stage.pass(200);
    assert_eq!(stage.take(), vec![Effect::Destroy { container: executor.container }]);
}

#[test]
fn a_restarted_agent_waits_for_its_executors() {
    let (mut stage, executor) = subscribed();
    stage.pass(3_000);
    let found = || {
        let state = FoundState::Running(Started::default());
        vec![Found { container: executor.container.clone(), state }]
    };
    // It comes back with an update that was made meanwhile.
    stage.restart(found());
    stage.register();
    stage.take();
    let reply = stage.call(&executor, call::Type::Subscribe, |call| {
        let mut lists = call::Subscribe::default();
        lists.unacknowledged_updates.push(call::Update { status: status("t", TaskState::TaskFinished, 2) });
        call.subscribe = Some(lists);
    });
    assert!(matches!(reply, ExecutorReply::Stream { .. }));
    assert_eq!(stage.kinds(), [Told::Subscribed, Told::Acknowledged], "nothing is launched twice");
    assert_eq!(stage.updates()[0].state(), TaskState::TaskFinished);
    // It does not come back.
    let (mut stage, executor) = subscribed();
    stage.pass(3_000);
    let state = FoundState::Running(Started::default());
    stage.restart(vec![Found { container: executor.container.clone(), state }]);
    stage.register();
    stage.take();
    stage.pass(11_000);
    assert_eq!(stage.take(), vec![Effect::Destroy { container: executor.container.clone() }]);
    stage.exited(&executor.container, ExitStatus::Signal(9));
    assert_eq!(stage.updates()[0].reason(), Reason::ExecutorReregistrationTimeout);
    // It ended meanwhile.
    let (mut stage, _) = subscribed();
    stage.pass(3_000);
    stage.restart(vec![]);
    stage.register();
    assert_eq!(stage.updates()[0].reason(), Reason::ExecutorTerminated);
}

#[test]
fn heartbeats_keep_the_stream_alive() {
    let (mut stage, _) = subscribed();
    stage.pass(3_660_000);
    assert_eq!(stage.kinds(), [Told::Heartbeat, Told::Heartbeat]);
}
