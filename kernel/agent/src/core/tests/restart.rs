//! What a restart finds.

use plenum_api::mesos::TaskState;
use plenum_api::mesos::task_status::Reason;

use super::script::*;
use crate::core::*;

fn found(container: &str, state: FoundState) -> Found {
    Found { container: container.to_owned(), state }
}

fn alive() -> FoundState {
    FoundState::Running(Started { pid: Some(42), ..Started::default() })
}

fn ended(status: ExitStatus) -> FoundState {
    FoundState::Exited(Exit { status, oom: false, abnormal: false, message: String::new() })
}

#[test]
fn a_running_task_is_adopted_and_nothing_is_said_twice() {
    let mut stage = Stage::registered();
    let container = stage.running(task("t"));
    stage.pass(5_000);
    stage.restart(vec![found(&container, alive())]);
    stage.register();
    assert!(stage.updates().is_empty());
    assert_eq!(stage.agent.task_counts(), [0, 1, 0, 0]);
    stage.exited(&container, ExitStatus::Code(0));
    stage.expect(say(TaskState::TaskFinished).message("Command exited with status 0"));
}

#[test]
fn an_unacknowledged_update_survives_with_its_id() {
    let mut stage = Stage::registered();
    stage.run(task("t"));
    let container = stage.launch().container;
    stage.launched(&container);
    let before = stage.updates();
    stage.restart(vec![found(&container, alive())]);
    stage.register();
    let after = stage.updates();
    assert_eq!(after[0].uuid, before[0].uuid);
    assert_eq!(after.len(), 1);
    stage.acknowledge(&after[0]);
    stage.pass(60_000);
    assert!(stage.updates().is_empty());
}

#[test]
fn what_is_found_decides_what_is_said() {
    // (how far the task came, what the runtime found, reboot, what is said)
    let lost = |state, words: &str| say(state).agent().reason(Reason::AgentRestarted).message(words);
    let table: Vec<(&str, Option<FoundState>, bool, Vec<Short>)> = vec![
        (
            "intent",
            None,
            false,
            vec![lost(TaskState::TaskLost, "The agent restarted before the task was launched")],
        ),
        (
            "intent",
            Some(FoundState::Unstarted),
            false,
            vec![lost(TaskState::TaskLost, "The agent restarted before the task was launched")],
        ),
        ("intent", Some(alive()), false, vec![say(TaskState::TaskRunning)]),
        (
            "intent",
            Some(ended(ExitStatus::Code(0))),
            false,
            vec![say(TaskState::TaskFinished).message("Command exited with status 0")],
        ),
        (
            "running",
            Some(ended(ExitStatus::Code(7))),
            false,
            vec![say(TaskState::TaskFailed).message("Command exited with status 7")],
        ),
        (
            "running",
            None,
            true,
            vec![lost(TaskState::TaskFailed, "The machine was restarted while the task ran")],
        ),
        (
            "running",
            None,
            false,
            vec![lost(
                TaskState::TaskFailed,
                "The agent restarted and found nothing left of the task's container",
            )],
        ),
        (
            "killed",
            Some(ended(ExitStatus::Signal(15))),
            false,
            vec![say(TaskState::TaskKilled).message("Command terminated with signal Terminated")],
        ),
    ];
    for (progress, state, reboot, expect) in table {
        let mut stage = Stage::registered();
        let container = match progress {
            "intent" => {
                stage.run(task("t"));
                stage.launch().container
            }
            _ => stage.running(task("t")),
        };
        if progress == "killed" {
            stage.kill("t", None);
        }
        stage.pass(2_000);
        if reboot {
            stage.settings.boot_id = "boot-2".to_owned();
        }
        let found: Vec<Found> = state.clone().into_iter().map(|state| found(&container, state)).collect();
        stage.restart(found);
        assert!(!stage.out.iter().any(|effect| matches!(effect, Effect::Launch(_))), "never launched again");
        stage.register();
        for expect in expect {
            stage.expect(expect);
        }
        stage.pass(5_000);
        let live = matches!(state, Some(FoundState::Running(_)));
        assert_eq!(stage.agent.task_counts(), if live { [0, 1, 0, 0] } else { [0, 0, 0, 1] }, "{progress}");
    }
}

#[test]
fn a_kill_under_way_goes_on() {
    let mut stage = Stage::registered();
    let container = stage.running(task("t"));
    stage.kill("t", None);
    stage.restart(vec![found(&container, alive())]);
    assert!(stage.take().iter().any(|effect| matches!(effect, Effect::Kill { .. })));
    stage.register();
    stage.exited(&container, ExitStatus::Signal(15));
    stage.expect(say(TaskState::TaskKilled).message("Command terminated with signal Terminated"));
}

#[test]
fn containers_that_belong_to_nobody_are_removed() {
    let mut stage = Stage::registered();
    stage.restart(vec![found("stray", alive()), found("dead", ended(ExitStatus::Code(0)))]);
    let out = stage.take();
    assert!(out.contains(&Effect::Destroy { container: "stray".to_owned() }));
    assert!(out.contains(&Effect::Release { container: "dead".to_owned() }));
    stage.exited("stray", ExitStatus::Signal(9));
    assert_eq!(stage.take(), vec![Effect::Release { container: "stray".to_owned() }]);
}

#[test]
fn damaged_records_are_put_aside_and_the_rest_is_used() {
    let mut stage = Stage::registered();
    let container = stage.running(task("t"));
    stage.run_as(framework(&[]), task("u"), b"l2");
    let other = stage.launch().container;
    stage.launched(&other);
    stage.pass(3_000);
    let keys: Vec<String> = stage.disk.keys().filter(|key| key.ends_with("/t")).cloned().collect();
    stage.disk.insert("nonsense".to_owned(), b"x".to_vec());
    stage.restart_with(vec![found(&container, alive()), found(&other, alive())], &[&keys[0]]);
    let out = stage.take();
    assert!(out.contains(&Effect::SetAside { key: keys[0].clone() }));
    assert!(out.contains(&Effect::SetAside { key: "nonsense".to_owned() }));
    assert!(out.contains(&Effect::Destroy { container }));
    assert_eq!(stage.agent.task_counts(), [0, 1, 0, 0]);
}

#[test]
fn a_crash_at_any_write_loses_nothing_and_launches_nothing_twice() {
    // The same story, cut off after each event; whatever was on the disk then must lead to one terminal state in the end.
    for cut in 0..6 {
        let mut stage = Stage::registered();
        let mut launches = 0;
        stage.hold = cut == 0;
        stage.run(task("t"));
        let container = stage.out.iter().find_map(|effect| match effect {
            Effect::Launch(launch) => Some(launch.container.clone()),
            _ => None,
        });
        launches += usize::from(container.is_some());
        let name = container.clone().unwrap_or_default();
        if cut >= 2 {
            stage.launched(&name);
        }
        let mut heard: Vec<TaskState> = Vec::new();
        if cut >= 3 {
            stage.hold = cut == 3;
            for status in stage.updates() {
                heard.push(status.state());
                stage.acknowledge(&status);
            }
        }
        if cut >= 4 {
            stage.hold = cut == 4;
            stage.exited(&name, ExitStatus::Code(0));
        }
        // An ended container stays known to the runtime until the agent releases it.
        let released = stage.out.iter().any(|effect| matches!(effect, Effect::Release { .. }));
        let known = container.filter(|_| !released);
        let state = if cut >= 4 { ended(ExitStatus::Code(0)) } else { alive() };
        stage.restart(known.iter().map(|container| found(container, state.clone())).collect());
        stage.register();
        if (1..4).contains(&cut) {
            stage.exited(&name, ExitStatus::Code(0));
        }
        for _ in 0..5 {
            for status in stage.updates() {
                heard.push(status.state());
                stage.acknowledge(&status);
            }
        }
        launches += stage.out.iter().filter(|effect| matches!(effect, Effect::Launch(_))).count();
        assert!(launches <= 1);
        if cut > 0 {
            assert_eq!(heard.last(), Some(&TaskState::TaskFinished), "cut {cut}: {heard:?}");
            let terminals = heard.iter().filter(|state| **state == TaskState::TaskFinished).count();
            assert_eq!(terminals, 1, "cut {cut}: {heard:?}");
            assert_eq!(stage.agent.task_counts(), [0, 0, 0, 1], "cut {cut}");
        } else {
            assert_eq!(stage.agent.task_counts(), [0; 4], "it was never written, so it never was");
        }
    }
}
