//! GPUs, with stand-ins: character devices that every kernel has.

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use plenum_api::mesos::{Resource, TaskInfo, TaskState, value};

use crate::master::task;
use crate::world::{World, is_root};

fn on_gpu(id: &str, command: &str) -> TaskInfo {
    let scalar = Some(value::Scalar { value: 1.0 });
    let kind = value::Type::Scalar.into();
    let gpus = Resource { name: "gpus".to_owned(), r#type: kind, scalar, ..Default::default() };
    let mut info = task(id, command);
    info.resources.push(gpus);
    info
}

/// Waits until a task has written `text`.
async fn output(world: &World, id: &str, text: &str) {
    let sandbox = world.folder.path().join("work/slaves/S1/frameworks/F1/executors").join(id);
    let file = sandbox.join("runs/latest/stdout");
    let mut read = String::new();
    for _ in 0..100 {
        read = std::fs::read_to_string(&file).unwrap_or_default();
        if read == text {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{id} wrote {read:?} instead of {text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_its_tasks_alone_also_after_a_restart() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = [("gpu0", 5), ("gpu1", 7)].map(|(name, minor)| {
        let path = dir.path().join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, minor)).unwrap();
        path
    });
    let gpus = made.iter().map(|path| vec![path.clone()]).collect();
    let mut world = World::with(true, |config| {
        config.devices.gpus = gpus;
        config.devices.detect_gpus = false;
    })
    .await;
    let register = world.master.register().await;
    let offered = register.agent_info.resources.iter().find(|one| one.name == "gpus").unwrap();
    assert_eq!(offered.scalar.as_ref().unwrap().value, 2.0);
    let look = format!(
        "cd {}; for gpu in gpu0 gpu1; do head -c 1 $gpu >/dev/null 2>&1 && echo has $gpu; done; echo number $NVIDIA_VISIBLE_DEVICES",
        dir.path().display()
    );
    // Without the controller all devices are everybody's, and the launch says so.
    let held = std::fs::read_to_string("/proc/cgroups").is_ok_and(|text| text.contains("devices\t"));
    let expect = |number: &str| match (held, number) {
        (true, "") => "number\n".to_owned(),
        (true, n) => format!("has gpu{n}\nnumber {n}\n"),
        (false, n) => format!("has gpu0\nhas gpu1\nnumber {n}\n"),
    };
    world.master.run(on_gpu("first", &format!("{look}; exec sleep 1000")));
    world.master.expect("first", TaskState::TaskRunning).await;
    world.master.run(task("none", &look));
    world.master.expect("none", TaskState::TaskRunning).await;
    world.master.expect("none", TaskState::TaskFinished).await;
    world.crash();
    world.start();
    world.master.register().await;
    world.master.run(on_gpu("second", &format!("{look}; exec sleep 1000")));
    world.master.expect("second", TaskState::TaskRunning).await;
    world.master.run(on_gpu("third", &look));
    let refused = world.master.expect("third", TaskState::TaskError).await;
    assert!(refused.message.unwrap().contains("0 of the 2 here are free"));
    for (id, number) in [("first", "0"), ("none", ""), ("second", "1")] {
        output(&world, id, &expect(number)).await;
    }
    world.master.kill("second", std::time::Duration::from_secs(1));
    world.master.expect("second", TaskState::TaskKilled).await;
    world.master.run(on_gpu("fourth", &look));
    world.master.expect("fourth", TaskState::TaskRunning).await;
    world.master.expect("fourth", TaskState::TaskFinished).await;
    output(&world, "fourth", &expect("1")).await;
}
