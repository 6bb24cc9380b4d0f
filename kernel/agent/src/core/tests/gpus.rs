//! GPUs: each has one owner, across restarts.

use plenum_api::internal;
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{Resource, TaskInfo, TaskState, value};

use super::script::*;
use crate::core::*;

fn with_gpus(id: &str, count: f64) -> TaskInfo {
    let scalar = Some(value::Scalar { value: count });
    TaskInfo {
        resources: vec![Resource { name: "gpus".to_owned(), scalar, ..Default::default() }],
        ..task(id)
    }
}

fn stage(gpus: u32) -> Stage {
    let mut stage = Stage::with(Settings {
        gpus,
        work_dir: "/w".to_owned(),
        boot_id: "boot-1".to_owned(),
        master_silence: Millis(u64::MAX / 2),
        ..Settings::default()
    });
    stage.register();
    stage.out.clear();
    stage
}

fn started(stage: &mut Stage, task: TaskInfo) -> (String, Vec<u32>) {
    stage.run(task);
    let launch = stage.launch();
    stage.launched(&launch.container);
    stage.expect(say(TaskState::TaskRunning));
    stage.out.clear();
    (launch.container, launch.gpus)
}

#[test]
fn a_gpu_has_one_owner_until_its_end() {
    let mut stage = stage(3);
    let (first, gpus) = started(&mut stage, with_gpus("a", 2.0));
    assert_eq!(gpus, [0, 1]);
    assert_eq!(started(&mut stage, task("plain")).1, [0u32; 0]);
    let (_, gpus) = started(&mut stage, with_gpus("b", 1.0));
    assert_eq!(gpus, [2]);
    stage.run(with_gpus("c", 1.0));
    let refused = stage.update();
    assert_eq!((refused.state, refused.reason), (TaskState::TaskError, Some(Reason::ContainerLaunchFailed)));
    assert!(refused.message.unwrap().contains("asks for 1 GPUs and 0 of the 3 here are free"));
    stage.exited(&first, ExitStatus::Code(0));
    assert_eq!(started_after_end(&mut stage), [0, 1]);
}

fn started_after_end(stage: &mut Stage) -> Vec<u32> {
    for status in stage.updates() {
        stage.acknowledge(&status);
    }
    started(stage, with_gpus("d", 2.0)).1
}

#[test]
fn a_restarted_agent_knows_whose_they_are() {
    let mut stage = stage(2);
    let (container, _) = started(&mut stage, with_gpus("a", 1.0));
    let found = FoundState::Running(Started { pid: Some(42), ..Started::default() });
    stage.restart(vec![Found { container, state: found }]);
    stage.register();
    stage.out.clear();
    assert_eq!(started(&mut stage, with_gpus("b", 1.0)).1, [1]);
}

#[test]
fn without_known_files_numbers_are_not_given() {
    let mut stage = stage(0);
    assert_eq!(started(&mut stage, with_gpus("a", 4.0)).1, [0u32; 0]);
}

#[test]
fn an_order_is_not_promised_more_than_there_is() {
    let mut stage = stage(1);
    let order = internal::RunTasks {
        framework_info: framework(&[]),
        tasks: vec![with_gpus("a", 1.0), with_gpus("b", 1.0)],
        launch_id: bytes::Bytes::from_static(b"launch"),
        ..Default::default()
    };
    stage.master(vec![plenum_api::internal::master_message::Kind::RunTasks(order)]);
    assert_eq!(stage.launch().gpus, [0]);
    assert_eq!(stage.update().state, TaskState::TaskError);
}
