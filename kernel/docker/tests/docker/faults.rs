//! Engines that hang, die and come back.

use crate::world::{PATIENCE, end, eventually, world};
use nix::sys::signal::Signal;
use plenum_containers::{ExitReason, ExitStatus, RecoveredState, Runtime, RuntimeError};
use plenum_docker::{DockerRuntime, Health};
use std::time::{Duration, Instant};

async fn degraded(runtime: &DockerRuntime) -> String {
    let mut health = runtime.watch_health();
    let seen = tokio::time::timeout(PATIENCE, health.wait_for(|health| !health.is_ready())).await;
    match &*seen.unwrap().unwrap() {
        Health::Degraded { why } => why.clone(),
        Health::Ready { .. } => unreachable!(),
    }
}

async fn ready(runtime: &DockerRuntime) {
    let mut health = runtime.watch_health();
    tokio::time::timeout(PATIENCE, health.wait_for(Health::is_ready)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_holds_up_nobody() {
    let Some(world) = world().await else { return };
    let mut config = world.config("one");
    config.ping = Duration::from_secs(1);
    config.call = Duration::from_secs(2);
    config.patience = Duration::from_secs(1);
    config.give_up_killed = Duration::from_secs(2);
    config.drain = Duration::from_secs(1);
    let runtime = world.runtime_of(config.clone()).await;
    for id in ["killed", "ends", "stays"] {
        let text = if id == "ends" { "echo up; sleep 4; echo over; exit 6" } else { "echo up; sleep 1000" };
        runtime.start(world.spec(id, text)).await.unwrap();
        eventually("output", async || world.read(id, "stdout").contains("up").then_some(())).await;
    }
    world.signal_engine(Signal::SIGSTOP);
    let why = degraded(&runtime).await;
    assert!(why.contains("did not answer within 1 s") && why.contains("d.sock"), "{why}");
    // New containers fail by their deadline, with the reason.
    let began = Instant::now();
    let said = runtime.start(world.spec("new", "true")).await.unwrap_err().to_string();
    assert!(said.contains("did not answer") && began.elapsed() < Duration::from_secs(15), "{said}");
    // What runs is measured and killed without the engine.
    assert!(runtime.stats("stays").await.unwrap().usage.memory_bytes.is_some());
    runtime.kill("killed", 15, Duration::from_millis(500)).await.unwrap();
    let exit = end(&runtime, "killed").await;
    let want = (ExitStatus::Signal(9), ExitReason::Killed { escalated: true });
    assert_eq!((exit.status, exit.reason), want);
    assert!(matches!(runtime.destroy("killed").await, Err(RuntimeError::Undead { .. })));
    // A restart of the agent meanwhile loses nobody.
    drop(runtime);
    let runtime = DockerRuntime::new(config).unwrap();
    let found = runtime.recover().await.unwrap();
    let states: Vec<_> = found.iter().map(|found| (found.id.as_str(), found.state.clone())).collect();
    assert_eq!(states, [("ends", RecoveredState::Running), ("stays", RecoveredState::Running)]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.signal_engine(Signal::SIGCONT);
    ready(&runtime).await;
    assert_eq!(end(&runtime, "ends").await.status, ExitStatus::Code(6));
    eventually("output", async || (world.read("ends", "stdout") == "up\nover\n").then_some(())).await;
    // What could not be removed is removed now, and what failed to start never starts.
    eventually("removal", async || {
        let mut names = world.names().await;
        names.sort();
        (names == ["/mesos-ends", "/mesos-stays"]).then_some(())
    })
    .await;
    for id in ["ends", "stays"] {
        runtime.destroy(id).await.unwrap();
    }
    eventually("removal", async || {
        std::fs::read_dir(world.at("run-one")).unwrap().next().is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_and_comes_back() {
    let Some(mut world) = world().await else { return };
    let runtime = world.runtime().await;
    let counts = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; sleep 0.1; done; exit 8";
    runtime.start(world.spec("counts", counts)).await.unwrap();
    runtime.start(world.spec("ends", "sleep 2; exit 9")).await.unwrap();
    eventually("output", async || world.read("counts", "stdout").contains("5\n").then_some(())).await;
    world.kill_engine();
    let why = degraded(&runtime).await;
    assert!(why.contains("containers go on"), "{why}");
    // One of them ends while nobody looks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.start_engine();
    ready(&runtime).await;
    assert_eq!(end(&runtime, "ends").await.status, ExitStatus::Code(9));
    assert_eq!(end(&runtime, "counts").await.status, ExitStatus::Code(8));
    let want: String = (1..=60).map(|number| format!("{number}\n")).collect();
    assert_eq!(world.read("counts", "stdout"), want);
    runtime.start(world.spec("new", "exit 1")).await.unwrap();
    assert_eq!(end(&runtime, "new").await.status, ExitStatus::Code(1));
    for id in ["ends", "counts", "new"] {
        runtime.destroy(id).await.unwrap();
    }
    assert!(world.names().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_hangs_in_the_middle_is_undone_later() {
    let Some(world) = world().await else { return };
    let mut config = world.config("one");
    config.ping_every = Duration::from_secs(20);
    config.call = Duration::from_secs(2);
    config.ping = Duration::from_secs(1);
    let runtime = world.runtime_of(config).await;
    // The engine is still believed to be well when it is asked.
    world.signal_engine(Signal::SIGSTOP);
    let mut spec = world.spec("half", "sleep 1000");
    spec.launch_deadline = Duration::from_secs(2);
    let said = runtime.start(spec).await.unwrap_err().to_string();
    assert!(said.contains("within"), "{said}");
    world.signal_engine(Signal::SIGCONT);
    ready(&runtime).await;
    eventually("removal", async || {
        let gone = world.names().await.is_empty();
        (gone && std::fs::read_dir(world.at("run-one")).unwrap().next().is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_engine_the_agent_still_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mut config =
        plenum_docker::DockerConfig::new("one", folder.path().join("none.sock"), folder.path().join("run"));
    config.patience = Duration::from_millis(300);
    let runtime = DockerRuntime::new(config).unwrap();
    assert!(runtime.recover().await.unwrap().is_empty());
    let spec = plenum_docker::DockerSpec::new("a", folder.path(), "image");
    let said = runtime.start(spec).await.unwrap_err().to_string();
    assert!(said.contains("none.sock"), "{said}");
    assert!(matches!(runtime.wait("a").await, Err(RuntimeError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_any_more_is_removed() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    runtime.start(world.spec("old", "sleep 1000")).await.unwrap();
    drop(runtime);
    // The machine has restarted: no records, and the agent is up before the engine.
    std::fs::remove_dir_all(world.at("run-one")).unwrap();
    world.signal_engine(Signal::SIGSTOP);
    let mut config = world.config("one");
    config.ping = Duration::from_secs(1);
    let runtime = DockerRuntime::new(config).unwrap();
    assert!(runtime.recover().await.unwrap().is_empty());
    world.signal_engine(Signal::SIGCONT);
    eventually("removal", async || world.names().await.is_empty().then_some(())).await;
}

/// The engine answers, but what it is made of does not: every call about a container hangs.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_inside() {
    let Some(world) = world().await else { return };
    let mut config = world.config("one");
    config.call = Duration::from_secs(2);
    config.patience = Duration::from_secs(2);
    config.give_up_killed = Duration::from_secs(2);
    config.drain = Duration::from_secs(1);
    let runtime = world.runtime_of(config).await;
    for id in ["killed", "stays"] {
        runtime.start(world.spec(id, "echo up; sleep 1000")).await.unwrap();
        eventually("output", async || world.read(id, "stdout").contains("up").then_some(())).await;
    }
    world.signal("containerd", Signal::SIGSTOP);
    runtime.kill("killed", 15, Duration::from_millis(500)).await.unwrap();
    let exit = end(&runtime, "killed").await;
    assert_eq!(exit.reason, ExitReason::Killed { escalated: true }, "{exit:?}");
    let mut spec = world.spec("new", "true");
    spec.launch_deadline = Duration::from_secs(2);
    let said = runtime.start(spec).await.unwrap_err().to_string();
    assert!(said.contains("within"), "{said}");
    let began = Instant::now();
    let _one_or_the_other = runtime.destroy("killed").await;
    assert!(began.elapsed() < Duration::from_secs(30));
    world.signal("containerd", Signal::SIGCONT);
    eventually("removal", async || (world.names().await == ["/mesos-stays"]).then_some(())).await;
    let _one_or_the_other = runtime.destroy("killed").await;
    runtime.destroy("stays").await.unwrap();
    eventually("removal", async || {
        std::fs::read_dir(world.at("run-one")).unwrap().next().is_none().then_some(())
    })
    .await;
}
