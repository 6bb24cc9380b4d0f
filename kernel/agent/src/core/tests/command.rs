//! The life of command tasks.

use plenum_api::Millis;
use plenum_api::internal::{self, master_message::Kind as Hear};
use plenum_api::mesos::framework_info::capability::Type as CapabilityType;
use plenum_api::mesos::health_check::{TcpCheckInfo, Type as HealthType};
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{DurationInfo, HealthCheck, TaskState};

use super::script::*;
use crate::core::*;

#[test]
fn a_task_is_written_down_launched_told_and_remembered() {
    let mut stage = Stage::registered();
    stage.hold = true;
    stage.run(task("t"));
    assert!(stage.take().is_empty(), "nothing happens before the intent is on the disk");
    stage.release();
    let launch = stage.launch();
    assert_eq!(launch.directory, format!("/w/slaves/S/frameworks/F/executors/t/runs/{}", launch.container));
    let get = |name: &str| launch.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(get("MESOS_TASK_ID"), Some("t"));
    assert_eq!(get("MESOS_CONTAINER_ID"), Some(launch.container.as_str()));
    assert_eq!(get("MESOS_SANDBOX"), Some(launch.directory.as_str()));
    assert!(stage.updates().is_empty(), "RUNNING is said only when the process runs");
    stage.launched(&launch.container);
    let status = stage.expect(say(TaskState::TaskRunning));
    let container = status.container_status.unwrap();
    assert_eq!(container.executor_pid, Some(42));
    assert_eq!(container.container_id.unwrap().value, launch.container);
    assert_eq!(container.network_infos[0].ip_addresses[0].ip_address.as_deref(), Some("127.0.0.1"));
    stage.exited(&launch.container, ExitStatus::Code(0));
    let done = say(TaskState::TaskFinished).message("Command exited with status 0");
    stage.expect(done);
    let out = stage.take();
    assert!(out.iter().any(|effect| matches!(effect, Effect::Release { .. })));
    assert!(out.iter().any(|effect| matches!(effect, Effect::Retire { .. })));
    assert_eq!(stage.agent.task_counts(), [0, 0, 0, 1]);
}

#[test]
fn ends_have_mesos_words() {
    let table = [
        (ExitStatus::Code(0), false, TaskState::TaskFinished, "Command exited with status 0"),
        (ExitStatus::Code(3), false, TaskState::TaskFailed, "Command exited with status 3"),
        (ExitStatus::Signal(9), false, TaskState::TaskFailed, "Command terminated with signal Killed"),
        (ExitStatus::Signal(15), true, TaskState::TaskKilled, "Command terminated with signal Terminated"),
        (ExitStatus::Code(0), true, TaskState::TaskKilled, "Command exited with status 0"),
        (ExitStatus::Unknown, false, TaskState::TaskFailed, "Failed to get exit status for Command"),
    ];
    for (status, kill, state, words) in table {
        let mut stage = Stage::registered();
        let container = stage.running(task("t"));
        if kill {
            stage.kill("t", None);
        }
        stage.exited(&container, status);
        stage.expect(say(state).message(words));
    }
}

#[test]
fn too_much_memory_is_named() {
    for (status, oom, state) in [
        (ExitStatus::Signal(9), true, TaskState::TaskFailed),
        (ExitStatus::Code(137), true, TaskState::TaskFailed),
        (ExitStatus::Code(0), true, TaskState::TaskFinished),
    ] {
        let mut stage = Stage::registered();
        let container = stage.running(task("t"));
        stage.event(Event::Exited {
            container,
            exit: Exit { status, oom, abnormal: false, message: String::new() },
        });
        let update = stage.update();
        assert_eq!(update.state, state);
        let limited = update.reason == Some(Reason::ContainerLimitationMemory);
        assert_eq!(limited, state == TaskState::TaskFailed, "{update:?}");
    }
}

#[test]
fn an_end_from_outside_is_the_executors() {
    for (kill, reason) in [(false, Some(Reason::ExecutorTerminated)), (true, None)] {
        let mut stage = Stage::registered();
        let container = stage.running(task("t"));
        if kill {
            stage.kill("t", None);
            stage.take();
        }
        let status = ExitStatus::Unknown;
        stage.event(Event::Exited {
            container,
            exit: Exit { status, oom: false, abnormal: true, message: "lost".into() },
        });
        let update = stage.update();
        assert_eq!((update.reason, update.state == TaskState::TaskKilled), (reason, kill), "{update:?}");
        assert!(update.message.as_deref().is_some_and(|said| said.ends_with("; lost")), "{update:?}");
    }
}

#[test]
fn too_much_disk_ends_a_task_at_once_and_is_named() {
    let mut stage = Stage::registered();
    let container = stage.running(task("t"));
    stage.event(Event::DiskExceeded { container: container.clone() });
    let destroyed =
        |effect: &Effect| matches!(effect, Effect::Destroy { container: one } if *one == container);
    assert!(stage.take().iter().any(destroyed));
    stage.exited(&container, ExitStatus::Signal(9));
    let update = stage.update();
    assert_eq!(
        (update.state, update.reason),
        (TaskState::TaskFailed, Some(Reason::ContainerLimitationDisk)),
        "{update:?}"
    );
}

#[test]
fn what_cannot_be_launched_is_reported() {
    for (stage_of, words) in
        [(LaunchStage::Fetch, "Failed to fetch: no"), (LaunchStage::Start, "Failed to launch container: no")]
    {
        let mut stage = Stage::registered();
        stage.run(task("t"));
        let container = stage.launch().container;
        stage.event(Event::LaunchFailed { container, stage: stage_of, message: "no".to_owned() });
        stage.expect(say(TaskState::TaskFailed).agent().reason(Reason::ContainerLaunchFailed).message(words));
        assert_eq!(stage.agent.task_counts(), [0, 0, 0, 1]);
    }
}

#[test]
fn kills_have_a_grace_period_that_only_shrinks() {
    let mut stage = Stage::registered();
    let mut info = task("t");
    info.kill_policy = Some(policy(20_000));
    let container = stage.running(info);
    let kill = |grace| Effect::Kill { container: container.clone(), grace: Millis(grace) };
    stage.kill("t", None);
    assert_eq!(stage.take(), vec![kill(20_000)]);
    stage.kill("t", Some(30_000));
    assert_eq!(stage.take(), vec![], "longer is no news");
    stage.pass(2_000);
    stage.kill("t", Some(5_000));
    assert_eq!(stage.take(), vec![kill(3_000)]);
    stage.pass(3_900);
    assert_eq!(stage.take(), vec![]);
    stage.pass(200);
    assert_eq!(
        stage.take(),
        vec![Effect::Destroy { container: container.clone() }],
        "and if it does not help"
    );
    stage.exited(&container, ExitStatus::Signal(9));
    stage.expect(say(TaskState::TaskKilled).message("Command terminated with signal Killed"));
    stage.pass(60_000);
    assert!(!stage.take().iter().any(|effect| matches!(effect, Effect::Destroy { .. })));
}

#[test]
fn killing_is_said_to_those_who_want_it() {
    let mut stage = Stage::registered();
    stage.run_as(framework(&[CapabilityType::TaskKillingState]), task("t"), b"l");
    let container = stage.launch().container;
    stage.launched(&container);
    stage.expect(say(TaskState::TaskRunning));
    stage.kill("t", None);
    stage.expect(say(TaskState::TaskKilling));
    stage.exited(&container, ExitStatus::Signal(15));
    stage.expect(say(TaskState::TaskKilled).message("Command terminated with signal Terminated"));
}

#[test]
fn a_kill_may_come_too_early() {
    // Before the intent is on the disk.
    let mut stage = Stage::registered();
    stage.hold = true;
    stage.run(task("t"));
    stage.kill("t", None);
    stage.release();
    let killed = say(TaskState::TaskKilled).agent().reason(Reason::TaskKilledDuringLaunch);
    stage.expect(killed.message("The task was killed before it was launched"));
    assert!(!stage.take().iter().any(|effect| matches!(effect, Effect::Launch(_))));
    // While it is being launched: called off.
    let mut stage = Stage::registered();
    stage.run(task("t"));
    let container = stage.launch().container;
    stage.kill("t", None);
    assert_eq!(stage.take(), vec![Effect::Destroy { container: container.clone() }]);
    stage.event(Event::LaunchFailed { container, stage: LaunchStage::Start, message: "off".to_owned() });
    let killed = say(TaskState::TaskKilled).reason(Reason::TaskKilledDuringLaunch);
    stage.expect(killed.message("The task was killed while it was being launched"));
    // While it is being launched, and the launch was faster.
    let mut stage = Stage::registered();
    stage.run(task("t"));
    let container = stage.launch().container;
    stage.kill("t", None);
    stage.launched(&container);
    stage.expect(say(TaskState::TaskRunning));
    assert!(stage.take().iter().any(|effect| matches!(effect, Effect::Kill { .. })));
    stage.exited(&container, ExitStatus::Signal(9));
    stage.expect(say(TaskState::TaskKilled).message("Command terminated with signal Killed"));
}

#[test]
fn health_checks_report_and_kill() {
    let mut info = task("t");
    info.health_check = Some(HealthCheck {
        r#type: Some(HealthType::Tcp as i32),
        tcp: Some(TcpCheckInfo { port: 80, ..Default::default() }),
        delay_seconds: Some(1.0),
        interval_seconds: Some(1.0),
        timeout_seconds: Some(2.0),
        consecutive_failures: Some(2),
        grace_period_seconds: Some(0.0),
        ..Default::default()
    });
    let mut stage = Stage::registered();
    let container = stage.running(info);
    let news = || say(TaskState::TaskRunning).reason(Reason::TaskHealthCheckStatusUpdated);
    let answer = |stage: &mut Stage, outcome: ProbeOutcome| {
        stage.pass(1_000);
        let check = stage.take().into_iter().find_map(|effect| match effect {
            Effect::Check(check) => Some(check),
            _ => None,
        });
        let check = check.expect("a check is due");
        assert_eq!(check.timeout, Millis(2_000));
        let done =
            Event::CheckDone { task: check.task, kind: check.kind, generation: check.generation, outcome };
        stage.event(done.clone());
        stage.event(done);
    };
    answer(&mut stage, ProbeOutcome::Connected(true));
    stage.expect(news().healthy(true));
    answer(&mut stage, ProbeOutcome::Connected(true));
    assert!(stage.updates().is_empty(), "no news, no update; and a repeated answer counts once");
    answer(&mut stage, ProbeOutcome::Connected(false));
    stage.expect(news().healthy(false).message("Health check could not connect"));
    answer(&mut stage, ProbeOutcome::Connected(true));
    stage.expect(news().healthy(true));
    answer(&mut stage, ProbeOutcome::TimedOut);
    stage.expect(news().healthy(false).message("Health check timed out"));
    answer(&mut stage, ProbeOutcome::TimedOut);
    stage.expect(news().healthy(false).message("Health check timed out"));
    assert!(stage.take().contains(&Effect::Kill { container: container.clone(), grace: Millis(3_000) }));
    stage.exited(&container, ExitStatus::Signal(15));
    let words = "Command terminated with signal Terminated";
    stage.expect(say(TaskState::TaskKilled).healthy(false).message(words));
}

#[test]
fn a_check_that_is_never_answered_times_out() {
    let mut info = task("t");
    info.health_check = Some(HealthCheck {
        r#type: Some(HealthType::Tcp as i32),
        tcp: Some(TcpCheckInfo { port: 80, ..Default::default() }),
        delay_seconds: Some(0.0),
        grace_period_seconds: Some(0.0),
        ..Default::default()
    });
    let mut stage = Stage::registered();
    stage.running(info);
    stage.pass(26_000);
    assert_eq!(stage.update().message.as_deref(), Some("Health check timed out"));
}

#[test]
fn time_to_complete_ends() {
    let mut info = task("t");
    info.max_completion_time = Some(DurationInfo { nanoseconds: 5_000_000_000 });
    let mut stage = Stage::registered();
    let container = stage.running(info);
    stage.pass(4_999);
    assert!(stage.take().is_empty());
    stage.pass(2);
    assert_eq!(stage.take(), vec![Effect::Kill { container: container.clone(), grace: Millis(3_000) }]);
    stage.exited(&container, ExitStatus::Signal(15));
    let failed = say(TaskState::TaskFailed).reason(Reason::MaxCompletionTimeReached);
    stage.expect(failed.message("Command terminated with signal Terminated"));
}

#[test]
fn bad_tasks_are_refused_and_never_written() {
    let mut no_command = task("t");
    no_command.command = None;
    let mut other_agent = task("t");
    other_agent.agent_id = "X".into();
    let mut bad_check = task("t");
    bad_check.health_check = Some(HealthCheck::default());
    let table = [
        (no_command, Reason::TaskInvalid),
        (other_agent, Reason::TaskInvalid),
        (task("a/b"), Reason::TaskInvalid),
        (task(".."), Reason::TaskInvalid),
        (task(&"x".repeat(300)), Reason::TaskInvalid),
        (bad_check, Reason::TaskInvalid),
    ];
    for (info, reason) in table {
        let mut stage = Stage::registered();
        let before = stage.disk.clone();
        stage.run(info);
        let updates = stage.updates();
        assert_eq!(updates.len(), 1);
        assert_eq!((updates[0].state(), updates[0].reason()), (TaskState::TaskError, reason));
        stage.pass(10_000);
        assert_eq!(stage.updates(), updates, "repeated until it is acknowledged");
        stage.acknowledge(&updates[0]);
        stage.pass(60_000);
        assert!(stage.updates().is_empty());
        assert_eq!(stage.disk, before);
        assert_eq!(stage.agent.task_counts(), [0; 4]);
    }
}

#[test]
fn task_groups_are_refused_clearly() {
    let mut stage = Stage::registered();
    stage.master(vec![Hear::RunTasks(internal::RunTasks {
        framework_info: framework(&[]),
        tasks: vec![task("a"), task("b")],
        is_group: Some(true),
        ..Default::default()
    })]);
    let reasons: Vec<Reason> = stage.updates().iter().map(|status| status.reason()).collect();
    assert_eq!(reasons, [Reason::TaskGroupInvalid, Reason::TaskGroupInvalid]);
}

#[test]
fn an_id_is_launched_once() {
    let mut stage = Stage::registered();
    let container = stage.running(task("t"));
    stage.run(task("t"));
    assert!(stage.take().is_empty(), "the same order again is silent");
    stage.exited(&container, ExitStatus::Code(0));
    stage.expect(say(TaskState::TaskFinished).message("Command exited with status 0"));
    stage.take();
    stage.run(task("t"));
    assert!(stage.take().is_empty(), "also after its end");
    stage.pass(5_000);
    stage.restart(vec![]);
    stage.register();
    stage.take();
    stage.run(task("t"));
    assert!(stage.take().is_empty(), "also after a restart");
    stage.run_as(framework(&[]), task("t"), b"another order");
    assert_eq!(stage.update().state, TaskState::TaskError);
}

#[test]
fn a_torn_down_framework_leaves_nothing() {
    let mut stage = Stage::registered();
    let container = stage.running(task("t"));
    stage.master(vec![Hear::ShutdownFramework(internal::ShutdownFramework { framework_id: "F".into() })]);
    assert_eq!(stage.take(), vec![Effect::Kill { container: container.clone(), grace: Millis(5_000) }]);
    stage.run_as(framework(&[]), task("u"), b"l2");
    assert_eq!(stage.update().reason, Some(Reason::FrameworkRemoved));
    stage.exited(&container, ExitStatus::Signal(15));
    let updates = stage.updates();
    assert_eq!((updates[0].state(), updates[0].reason()), (TaskState::TaskKilled, Reason::FrameworkRemoved));
    // Nobody acknowledges for a framework that is gone: the agent gives up, and remembers the id.
    stage.pass(600_000);
    assert_eq!(stage.agent.task_counts(), [0, 0, 0, 1]);
    stage.event(Event::Collected { container });
    assert_eq!(stage.agent.task_counts(), [0; 4]);
    assert!(!stage.disk.keys().any(|key| key.starts_with("frameworks")), "{:?}", stage.disk.keys());
}

#[test]
fn draining_kills_within_its_limit_and_takes_nothing() {
    let mut stage = Stage::registered();
    let mut info = task("t");
    info.kill_policy = Some(policy(60_000));
    let container = stage.running(info);
    let config = plenum_api::mesos::DrainConfig {
        max_grace_period: Some(DurationInfo { nanoseconds: 2_000_000_000 }),
        ..Default::default()
    };
    stage.master(vec![Hear::DrainAgent(internal::DrainAgent { config })]);
    assert_eq!(stage.take(), vec![Effect::Kill { container: container.clone(), grace: Millis(2_000) }]);
    stage.run_as(framework(&[CapabilityType::PartitionAware]), task("u"), b"l2");
    let update = stage.update();
    assert_eq!((update.state, update.reason), (TaskState::TaskDropped, Some(Reason::AgentDraining)));
    stage.exited(&container, ExitStatus::Signal(15));
    assert_eq!(stage.update().reason, Some(Reason::AgentDraining));
}

#[test]
fn a_drain_is_remembered_over_a_restart_and_ends_when_the_master_says_so() {
    let mut stage = Stage::registered();
    let mut info = task("t");
    info.kill_policy = Some(policy(60_000));
    stage.run_as(framework(&[CapabilityType::PartitionAware]), info, b"l1");
    let container = stage.launch().container;
    stage.launched(&container);
    stage.expect(say(TaskState::TaskRunning));
    stage.take();
    let config = plenum_api::mesos::DrainConfig {
        max_grace_period: Some(DurationInfo { nanoseconds: 20_000_000_000 }),
        mark_gone: Some(true),
    };
    stage.master(vec![Hear::DrainAgent(internal::DrainAgent { config })]);
    assert_eq!(stage.take(), vec![Effect::Kill { container: container.clone(), grace: Millis(20_000) }]);
    stage.pass(5_000);
    let running = FoundState::Running(Started::default());
    stage.restart(vec![Found { container: container.clone(), state: running }]);
    let killed = stage.take();
    let graces: Vec<Millis> = killed
        .iter()
        .filter_map(|effect| if let Effect::Kill { grace, .. } = effect { Some(*grace) } else { None })
        .collect();
    assert_eq!(graces, [Millis(15_000)], "{killed:?}");
    stage.register();
    let said = |stage: &mut Stage| {
        stage.take().into_iter().find_map(|effect| match effect {
            Effect::Send(say) => match *say {
                internal::agent_message::Kind::Register(register) => Some(register.draining),
                _ => None,
            },
            _ => None,
        })
    };
    assert_eq!(said(&mut stage), Some(Some(config)));
    stage.exited(&container, ExitStatus::Signal(15));
    let update = stage.update();
    assert_eq!((update.state, update.reason), (TaskState::TaskGoneByOperator, Some(Reason::AgentDraining)));
    stage.master(vec![Hear::ResumeAgent(internal::ResumeAgent {})]);
    assert!(!stage.disk.contains_key("drain"));
    stage.event(Event::Disconnected { conn: stage.conn });
    stage.register();
    assert_eq!(said(&mut stage), Some(None));
}

#[test]
fn a_drain_that_is_called_off_kills_nothing_more_and_what_is_being_killed_ends() {
    let mut stage = Stage::registered();
    let mut info = task("t");
    info.kill_policy = Some(policy(60_000));
    let container = stage.running(info);
    let config = plenum_api::mesos::DrainConfig {
        max_grace_period: Some(DurationInfo { nanoseconds: 2_000_000_000 }),
        mark_gone: Some(true),
    };
    stage.master(vec![Hear::DrainAgent(internal::DrainAgent { config })]);
    assert_eq!(stage.take(), vec![Effect::Kill { container: container.clone(), grace: Millis(2_000) }]);
    stage.master(vec![Hear::ResumeAgent(internal::ResumeAgent {})]);
    assert!(!stage.disk.contains_key("drain"));
    stage.run_as(framework(&[CapabilityType::PartitionAware]), task("u"), b"l2");
    let other = stage.launch().container;
    stage.launched(&other);
    stage.expect(say(TaskState::TaskRunning));
    stage.take();
    stage.exited(&container, ExitStatus::Signal(15));
    assert_eq!(stage.update().state, TaskState::TaskKilled, "the agent stays, so it is not gone");
    stage.pass(10_000);
    let more = stage.take();
    let hits = |effect: &Effect| matches!(effect, Effect::Kill { container, .. } | Effect::Destroy { container } if *container == other);
    assert!(!more.iter().any(hits), "{more:?}");
}

#[test]
fn kills_of_the_unknown_are_answered() {
    let mut stage = Stage::registered();
    stage.kill("nobody", None);
    let update = stage.update();
    assert_eq!((update.state, update.reason), (TaskState::TaskLost, Some(Reason::TaskUnknown)));
}
