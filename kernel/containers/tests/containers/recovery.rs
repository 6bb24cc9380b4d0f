//! The agent goes and comes back; the supervisor does not.

use super::harness::{eventually, skip, within, world};
use plenum_containers::{ExitReason, ExitStatus, Recovered, RecoveredState, Runtime};
use plenum_shim::proc;
use std::time::Duration;

#[tokio::test]
async fn a_killed_agent_finds_its_containers_again() {
    if skip() {
        return;
    }
    let world = world();
    // Another process plays the agent, launches, and is killed: this test program, run with one test.
    let me = std::env::current_exe().unwrap();
    let mut agent = std::process::Command::new(me)
        .args(["--exact", "recovery::agent_for_the_test_above", "--nocapture"])
        .env("PLENUM_TEST_AGENT", world.dir.path())
        .env("PLENUM_TEST_PARENT", &world.config.cgroup_parent)
        .env("PLENUM_SHIM", &world.config.shim)
        .spawn()
        .unwrap();
    let running: i32 = world.file("long", "pid").await.trim().parse().unwrap();
    world.file("short", "ready").await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    let before = proc::identify(running).unwrap();

    // One of them ends while nobody is there.
    std::fs::write(world.sandbox("short").join("stop"), "").unwrap();
    let record = world.config.run_dir.join("short").join("exit");
    eventually("the end is on record", || record.exists().then_some(())).await;

    let runtime = world.restarted();
    let found = runtime.recover().await.unwrap();
    let [long, short] = &found[..] else { panic!("{found:?}") };
    let Recovered { id, state: RecoveredState::Running, launched: Some(launched) } = long else {
        panic!("{long:?}")
    };
    assert_eq!((id.as_str(), launched.pid, launched.start_time), ("long", before.pid, before.start));
    assert!(proc::alive(&before));
    let RecoveredState::Finished(exit) = &short.state else { panic!("{short:?}") };
    assert_eq!((short.id.as_str(), exit.status), ("short", ExitStatus::Code(5)));
    assert_eq!(&runtime.wait("short").await.unwrap(), exit);

    // The adopted one obeys as before.
    runtime.kill("long", libc::SIGTERM, Duration::from_secs(5)).await.unwrap();
    let exit = within(10, runtime.wait("long")).await.unwrap();
    assert_eq!(exit.reason, ExitReason::Killed { escalated: false });
    for id in ["long", "short"] {
        runtime.destroy(id).await.unwrap();
    }
    assert_eq!(runtime.recover().await.unwrap(), vec![]);
    assert_eq!(world.groups(), Vec::<std::path::PathBuf>::new());
}

/// Does nothing unless started by the test above.
#[tokio::test]
async fn agent_for_the_test_above() {
    let Some(dir) = std::env::var_os("PLENUM_TEST_AGENT").map(std::path::PathBuf::from) else { return };
    let shim = std::env::var_os("PLENUM_SHIM").unwrap();
    let mut config = plenum_containers::RuntimeConfig::new("x", shim, dir.join("run"));
    config.cgroup_parent = std::env::var("PLENUM_TEST_PARENT").unwrap();
    let runtime = plenum_containers::NativeRuntime::new(config).unwrap();
    let spec = |id: &str, shell: &str| {
        let sandbox = dir.join("sandbox").join(id);
        std::fs::create_dir_all(&sandbox).unwrap();
        let command = plenum_containers::Command::Shell(shell.into());
        let mut spec = plenum_containers::ContainerSpec::new(id, sandbox, command);
        spec.env.insert("PATH".into(), "/usr/bin:/bin".into());
        spec
    };
    runtime
        .launch(spec("short", "echo up > ready; while ! [ -e stop ]; do sleep 0.01; done; exit 5"))
        .await
        .unwrap();
    let launched = runtime.launch(spec("long", "sleep 1000")).await.unwrap();
    std::fs::write(dir.join("sandbox/long/pid"), format!("{}\n", launched.pid)).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(launched.pid, 0, "this process should have been killed");
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_container_along() {
    if skip() {
        return;
    }
    let world = world();
    let launched = world.runtime.launch(world.spec("a", "sleep 1000 & sleep 1000")).await.unwrap();
    let away = world.runtime.launch(world.spec("b", "sleep 1000")).await.unwrap();
    let inside = proc::descendants(launched.init_pid);
    plenum_shim::sys::kill(launched.shim_pid, libc::SIGKILL).unwrap();
    let exit = within(10, world.runtime.wait("a")).await.unwrap();
    assert_eq!((exit.status, exit.reason), (ExitStatus::Unknown, ExitReason::Lost));
    eventually("nothing runs", || {
        inside.iter().all(|pid| proc::stat(*pid).is_none_or(|s| s.state == 'Z')).then_some(())
    })
    .await;

    plenum_shim::sys::kill(away.shim_pid, libc::SIGKILL).unwrap();
    eventually("it is dead", || proc::stat(away.pid).is_none().then_some(())).await;
    let runtime = world.restarted();
    let found = runtime.recover().await.unwrap();
    assert_eq!(
        found.iter().map(|f| &f.state).collect::<Vec<_>>(),
        [&RecoveredState::Lost, &RecoveredState::Lost]
    );
    for id in ["a", "b"] {
        assert_eq!(runtime.destroy(id).await.unwrap().reason, ExitReason::Lost);
    }
    assert_eq!(world.groups(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn another_boot_and_half_a_launch_are_lost() {
    if skip() {
        return;
    }
    let world = world();
    let launched = world.runtime.launch(world.spec("a", "sleep 1000")).await.unwrap();
    // As if the machine had restarted and given our own process id to somebody else.
    let bystander = std::process::Command::new("sleep").arg("1000").spawn();
    let mut bystander = bystander.unwrap();
    let pid = plenum_shim::wire::Pid { pid: i32::try_from(bystander.id()).unwrap(), start: 1 };
    let state = plenum_shim::wire::State {
        id: "old".into(),
        boot_id: plenum_shim::proc::boot_id(),
        shim: pid.clone(),
        init: pid.clone(),
        task: pid,
        ..plenum_shim::wire::State::default()
    };
    let old = world.config.run_dir.join("old");
    std::fs::create_dir(&old).unwrap();
    let frame = plenum_shim::wire::encode(&plenum_shim::wire::Reply::Status(Box::new(state)));
    std::fs::write(old.join("state"), frame).unwrap();
    std::fs::write(old.join("control.sock"), "").unwrap();
    std::fs::create_dir(world.config.run_dir.join("half")).unwrap();
    std::fs::create_dir(world.config.run_dir.join("torn")).unwrap();
    std::fs::write(world.config.run_dir.join("torn").join("exit"), [9, 0, 0, 0, 1]).unwrap();

    let runtime = world.restarted();
    let found = runtime.recover().await.unwrap();
    let states: Vec<_> = found.iter().map(|f| (f.id.as_str(), f.state.clone())).collect();
    assert_eq!(
        states,
        [
            ("a", RecoveredState::Running),
            ("half", RecoveredState::Lost),
            ("old", RecoveredState::Lost),
            ("torn", RecoveredState::Lost)
        ]
    );
    let spared = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(spared, "a process that only shares the number must live");
    // A shim that would start only now finds its folder claimed.
    assert!(world.config.run_dir.join("half").join("control.sock").exists());
    assert_eq!(found[0].launched.as_ref().unwrap().pid, launched.pid);
    for id in ["a", "half", "old", "torn"] {
        runtime.destroy(id).await.unwrap();
    }
    assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0);
}

#[tokio::test]
async fn the_groups_of_half_a_launch_are_taken_away() {
    if skip() {
        return;
    }
    let world = world();
    // The supervisor was killed between making the first group and saying what runs, and the agent with it.
    let run_dir = world.config.run_dir.join("half");
    let group = std::path::Path::new("/sys/fs/cgroup/memory").join(&world.config.cgroup_parent).join("half");
    let v1 = group.parent().is_some_and(std::path::Path::is_dir);
    let group = if v1 { group } else { world.dir.path().join("group") };
    std::fs::create_dir(&group).unwrap();
    let mut launch = world.spec("half", "true").describe(&run_dir, None, 0);
    let dir = group.as_os_str().as_encoded_bytes().to_vec();
    launch.groups = vec![plenum_shim::wire::Group { dir, ..plenum_shim::wire::Group::default() }];
    std::fs::create_dir(&run_dir).unwrap();
    let frame = plenum_shim::wire::encode(&plenum_shim::wire::Request::Launch(Box::new(launch)));
    std::fs::write(run_dir.join("launch"), frame).unwrap();
    std::fs::write(run_dir.join("control.sock"), "").unwrap();

    let runtime = world.restarted();
    let found = runtime.recover().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].state, &found[0].launched), (&RecoveredState::Lost, &None));
    runtime.destroy("half").await.unwrap();
    assert!(!group.exists() && !run_dir.exists());
}

#[tokio::test]
async fn a_supervisor_that_is_slow_keeps_its_container() {
    if skip() {
        return;
    }
    let world = world();
    let launched = world.runtime.launch(world.spec("a", "sleep 1000")).await.unwrap();
    plenum_shim::sys::kill(launched.shim_pid, libc::SIGSTOP).unwrap();
    let mut config = world.config.clone();
    config.request_deadline = Duration::from_millis(100);
    let runtime = plenum_containers::NativeRuntime::new(config).unwrap();
    let found = runtime.recover().await.unwrap();
    assert_eq!(found[0].state, RecoveredState::Running);
    let silent = runtime.signal("a", libc::SIGCONT).await.unwrap_err();
    assert_eq!(silent.code(), "container.deadline");
    assert!(proc::stat(launched.pid).is_some());
    plenum_shim::sys::kill(launched.shim_pid, libc::SIGCONT).unwrap();
    eventually("it is adopted", || proc::alive(&proc::identify(launched.shim_pid)?).then_some(())).await;
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while runtime.signal("a", libc::SIGCONT).await.is_err() {
        assert!(std::time::Instant::now() < end, "it answers again");
    }
    runtime.destroy("a").await.unwrap();
}
