//! Pods: groups of tasks under an executor without a process.

use plenum_api::internal::{self, agent_message::Kind as Say, master_message::Kind as Hear};
use plenum_api::mesos::executor_info::Type as ExecutorType;
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{CommandInfo, ExecutorInfo, TaskInfo, TaskState, TaskStatus};

use super::script::*;
use crate::core::*;

fn pod() -> ExecutorInfo {
    let mut info = ExecutorInfo { executor_id: "P".into(), ..Default::default() };
    info.set_type(ExecutorType::Default);
    info
}

fn order(stage: &mut Stage, executor: ExecutorInfo, tasks: &[TaskInfo], group: bool, launch: &'static [u8]) {
    stage.master(vec![Hear::RunTasks(internal::RunTasks {
        framework_info: framework(&[]),
        executor: Some(executor),
        tasks: tasks.to_vec(),
        is_group: Some(group),
        launch_id: bytes::Bytes::from_static(launch),
    })]);
}

/// Acknowledges everything until nothing is said any more; gives task and state in order.
fn said(stage: &mut Stage) -> Vec<(String, TaskState)> {
    let mut said = Vec::new();
    loop {
        let updates = stage.updates();
        if updates.is_empty() {
            return said;
        }
        for status in updates {
            said.push((status.task_id.value.clone(), status.state()));
            stage.acknowledge(&status);
        }
    }
}

fn pair(task: &str, state: TaskState) -> (String, TaskState) {
    (task.to_owned(), state)
}

/// A running group of `a` and `b`; gives their launches.
fn group() -> (Stage, Launch, Launch) {
    let mut stage = Stage::registered();
    order(&mut stage, pod(), &[task("a"), task("b")], true, b"g");
    let (a, b) = (stage.launch(), stage.launch());
    let starting = said(&mut stage);
    assert_eq!(starting, [pair("a", TaskState::TaskStarting), pair("b", TaskState::TaskStarting)]);
    stage.launched(&a.container);
    stage.launched(&b.container);
    assert_eq!(
        said(&mut stage),
        [pair("a", TaskState::TaskRunning), pair("b", TaskState::TaskRunning)],
        "RUNNING follows STARTING"
    );
    stage.out.clear();
    (stage, a, b)
}

fn exited_executors(stage: &Stage) -> usize {
    let exited = |effect: &&Effect| {
        matches!(effect, Effect::Send(kind)
            if matches!(kind.as_ref(), Say::ExecutorExited(exited) if exited.executor_id.value == "P"))
    };
    stage.out.iter().filter(exited).count()
}

fn kills(stage: &Stage) -> Vec<String> {
    let kill = |effect: &Effect| match effect {
        Effect::Kill { container, .. } => Some(container.clone()),
        _ => None,
    };
    stage.out.iter().filter_map(kill).collect()
}

#[test]
fn a_group_has_one_sandbox_and_a_container_each() {
    let (stage, a, b) = group();
    assert_ne!(a.container, b.container);
    assert_eq!((a.executor.as_str(), b.executor.as_str()), ("P", "P"));
    let sandbox = a.directory.strip_suffix("/tasks/a").expect("a task's sandbox is below the pod's");
    assert_eq!(b.directory, format!("{sandbox}/tasks/b"));
    assert!(sandbox.contains("/executors/P/runs/"), "{sandbox}");
    let env = |name: &str| a.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(env("MESOS_TASK_ID"), Some("a"));
    assert_eq!(env("MESOS_EXECUTOR_ID"), Some("P"));
    assert_eq!(env("MESOS_SANDBOX"), Some(a.directory.as_str()));
    let view = stage.agent.view();
    let executors = &view.frameworks[0].executors;
    assert_eq!(executors.len(), 1);
    assert_eq!((executors[0].tasks.len(), executors[0].directory.as_str()), (2, sandbox));
    assert!(!stage.agent.live_containers().contains(&executors[0].container), "a pod has no process");
}

#[test]
fn statuses_name_the_container_below_the_pods() {
    let mut stage = Stage::registered();
    order(&mut stage, pod(), &[task("a")], true, b"g");
    let launch = stage.launch();
    let status: TaskStatus = stage.updates().remove(0);
    let id = status.container_status.and_then(|status| status.container_id).unwrap();
    assert_eq!(id.value, launch.container);
    let parent = id.parent.expect("a nested id has a parent").value;
    assert!(launch.directory.ends_with(&format!("/runs/{parent}/tasks/a")), "{}", launch.directory);
    assert_eq!(status.executor_id.unwrap().value, "P");
}

#[test]
fn how_one_ends_decides_about_the_others() {
    // (how `a` ends, what is said of it, whether `b` is killed)
    let table = [
        (ExitStatus::Code(0), TaskState::TaskFinished, false),
        (ExitStatus::Code(3), TaskState::TaskFailed, true),
        (ExitStatus::Signal(9), TaskState::TaskFailed, true),
    ];
    for (status, state, falls) in table {
        let (mut stage, a, b) = group();
        stage.exited(&a.container, status);
        assert_eq!(kills(&stage), if falls { vec![b.container.clone()] } else { vec![] }, "{status:?}");
        assert_eq!(said(&mut stage), [pair("a", state)], "{status:?}");
        assert_eq!(exited_executors(&stage), 0, "the pod lives while `b` does");
        stage.exited(&b.container, if falls { ExitStatus::Signal(15) } else { ExitStatus::Code(0) });
        let last = if falls { TaskState::TaskKilled } else { TaskState::TaskFinished };
        assert_eq!(said(&mut stage), [pair("b", last)]);
        assert_eq!(exited_executors(&stage), 1);
        assert!(!stage.disk.keys().any(|key| key.contains("/executors/")), "its record is gone");
        let retired = stage.out.iter().filter(|effect| matches!(effect, Effect::Retire { .. })).count();
        assert_eq!(retired, 1, "the sandboxes of the tasks go with the pod's");
    }
}

#[test]
fn killing_one_kills_the_group() {
    let (mut stage, a, b) = group();
    stage.kill("a", Some(1_000));
    assert_eq!(kills(&stage), vec![a.container.clone()], "the others are killed when it has ended");
    stage.exited(&a.container, ExitStatus::Signal(15));
    assert_eq!(kills(&stage), [a.container, b.container.clone()]);
    stage.exited(&b.container, ExitStatus::Signal(15));
    assert_eq!(said(&mut stage), [pair("a", TaskState::TaskKilled), pair("b", TaskState::TaskKilled)]);
}

#[test]
fn tasks_that_came_alone_do_not_fall_with_others() {
    let (mut stage, a, b) = group();
    order(&mut stage, pod(), &[task("c")], false, b"alone");
    let c = stage.launch();
    stage.launched(&c.container);
    assert!(c.directory.starts_with(a.directory.trim_end_matches("/tasks/a")), "the same pod");
    stage.exited(&c.container, ExitStatus::Code(1));
    assert!(kills(&stage).is_empty());
    stage.exited(&a.container, ExitStatus::Code(1));
    assert_eq!(kills(&stage), [b.container]);
}

#[test]
fn one_that_cannot_be_launched_takes_the_group_along() {
    let mut stage = Stage::registered();
    order(&mut stage, pod(), &[task("a"), task("b")], true, b"g");
    let (a, b) = (stage.launch(), stage.launch());
    said(&mut stage);
    let (stage_of, message) = (LaunchStage::Start, "no such program".to_owned());
    stage.event(Event::LaunchFailed { container: a.container, stage: stage_of, message: message.clone() });
    assert!(stage.out.contains(&Effect::Destroy { container: b.container.clone() }));
    stage.event(Event::LaunchFailed { container: b.container, stage: stage_of, message });
    let updates = stage.updates();
    let short: Vec<_> = updates.iter().map(|status| (status.state(), status.reason())).collect();
    let expect = [
        (TaskState::TaskFailed, Reason::ContainerLaunchFailed),
        (TaskState::TaskKilled, Reason::TaskKilledDuringLaunch),
    ];
    assert_eq!(short, expect);
}

#[test]
fn a_group_is_taken_whole_or_refused_whole() {
    let no_command = TaskInfo { command: None, ..task("b") };
    let mut custom = pod();
    custom.set_type(ExecutorType::Custom);
    custom.command = Some(CommandInfo { value: Some("x".to_owned()), ..Default::default() });
    let commanded = ExecutorInfo { command: custom.command.clone(), ..pod() };
    for (executor, second) in [(pod(), no_command), (custom, task("b")), (commanded, task("b"))] {
        let mut stage = Stage::registered();
        order(&mut stage, executor, &[task("a"), second], true, b"g");
        assert!(!stage.out.iter().any(|effect| matches!(effect, Effect::Launch(_))));
        let refused = [pair("a", TaskState::TaskError), pair("b", TaskState::TaskError)];
        assert_eq!(said(&mut stage), refused);
        assert!(!stage.disk.keys().any(|key| key.contains("/executors/")));
    }
    let mut stage = Stage::registered();
    stage.full = Some("no space left".to_owned());
    order(&mut stage, pod(), &[task("a"), task("b")], true, b"g");
    assert_eq!(said(&mut stage), [pair("a", TaskState::TaskLost), pair("b", TaskState::TaskLost)]);
    assert!(!stage.out.iter().any(|effect| matches!(effect, Effect::Launch(_))));
}

#[test]
fn a_pod_killed_before_it_is_written_is_not_launched() {
    let mut stage = Stage::registered();
    stage.hold = true;
    order(&mut stage, pod(), &[task("a"), task("b")], true, b"g");
    stage.kill("a", None);
    stage.release();
    assert!(!stage.out.iter().any(|effect| matches!(effect, Effect::Launch(_))));
    assert_eq!(said(&mut stage), [pair("a", TaskState::TaskKilled), pair("b", TaskState::TaskKilled)]);
    assert_eq!(exited_executors(&stage), 1);
}

#[test]
fn shutdown_and_drain_end_every_task() {
    for drain in [false, true] {
        let (mut stage, a, b) = group();
        if drain {
            stage.master(vec![Hear::DrainAgent(internal::DrainAgent { config: Default::default() })]);
        } else {
            let which = internal::ShutdownExecutor { framework_id: "F".into(), executor_id: "P".into() };
            stage.master(vec![Hear::ShutdownExecutor(which)]);
        }
        assert_eq!(kills(&stage), [a.container.clone(), b.container.clone()], "drain {drain}");
        stage.pass(4_500);
        assert!(stage.out.contains(&Effect::Destroy { container: a.container.clone() }), "drain {drain}");
        stage.exited(&a.container, ExitStatus::Signal(9));
        stage.exited(&b.container, ExitStatus::Signal(9));
        assert_eq!(said(&mut stage), [pair("a", TaskState::TaskKilled), pair("b", TaskState::TaskKilled)]);
        assert_eq!(exited_executors(&stage), 1);
    }
}

#[test]
fn a_restart_finds_the_pod_again() {
    let running = |launch: &Launch| Found {
        container: launch.container.clone(),
        state: FoundState::Running(Started::default()),
    };
    // Both live on.
    let (mut stage, a, b) = group();
    stage.pass(2_000);
    stage.restart(vec![running(&a), running(&b)]);
    stage.register();
    assert!(stage.updates().is_empty());
    assert!(!stage.out.iter().any(|effect| matches!(effect, Effect::Destroy { .. } | Effect::Launch(_))));
    stage.exited(&a.container, ExitStatus::Code(1));
    assert_eq!(kills(&stage), vec![b.container.clone()], "it is still one group");
    stage.exited(&b.container, ExitStatus::Signal(15));
    assert_eq!(said(&mut stage), [pair("a", TaskState::TaskFailed), pair("b", TaskState::TaskKilled)]);
    assert_eq!(exited_executors(&stage), 1);
    // Whichever was lost meanwhile, the other is killed.
    for lost in ["a", "b"] {
        let (mut stage, a, b) = group();
        stage.pass(2_000);
        let left = if lost == "a" { &b } else { &a };
        stage.restart(vec![running(left)]);
        stage.register();
        assert_eq!(kills(&stage), vec![left.container.clone()], "{lost} was lost");
        assert_eq!(said(&mut stage), [pair(lost, TaskState::TaskFailed)]);
        assert_eq!(exited_executors(&stage), 0);
    }
    // One finished and was acknowledged; the other lives, and so does the pod.
    let (mut stage, a, b) = group();
    stage.exited(&a.container, ExitStatus::Code(0));
    said(&mut stage);
    stage.pass(5_000);
    stage.restart(vec![running(&b)]);
    stage.register();
    assert!(kills(&stage).is_empty() && exited_executors(&stage) == 0);
    assert!(stage.disk.keys().any(|key| key.contains("/executors/")));
}

#[test]
fn what_the_pod_has_for_all_reaches_each_container() {
    use plenum_api::mesos::{ContainerInfo, NetworkInfo};
    let mut shared = ContainerInfo { hostname: Some("pod".to_owned()), ..Default::default() };
    shared.network_infos = vec![NetworkInfo { name: Some("net".to_owned()), ..Default::default() }];
    let executor = ExecutorInfo { container: Some(shared), ..pod() };
    let mut stage = Stage::registered();
    order(&mut stage, executor, &[task("a"), task("b")], true, b"g");
    for _ in 0..2 {
        let info = stage.launch().container_info.expect("the pod's container is given to each task");
        assert_eq!(info.network_infos[0].name.as_deref(), Some("net"));
        assert_eq!(info.hostname.as_deref(), Some("pod"));
    }
}
