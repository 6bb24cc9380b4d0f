//! From start to removal.

use crate::world::{end, eventually, world};
use plenum_containers::{ExitReason, ExitStatus, Runtime, RuntimeError};
use plenum_docker::ImageWish;
use std::time::Duration;

const TERM: i32 = 15;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_ends_and_goes() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    let mut spec = world.spec(
        "a",
        "echo out; echo err >&2; echo $A $MESOS_CONTAINER_NAME; echo x > $MESOS_SANDBOX/made; exit 3",
    );
    spec.env.insert("A".into(), "b c".into());
    let launched = runtime.start(spec.clone()).await.unwrap();
    assert_eq!(launched.id, "a");
    assert!(matches!(runtime.start(spec).await, Err(RuntimeError::Exists(_))));
    let exit = end(&runtime, "a").await;
    assert_eq!((exit.status, exit.reason, exit.oom), (ExitStatus::Code(3), ExitReason::Ended, false));
    assert!(exit.finished_ms.is_some());
    assert_eq!(world.read("a", "stdout"), "out\nb c mesos-a\n");
    assert_eq!(world.read("a", "stderr"), "err\n");
    assert_eq!(world.read("a", "made"), "x\n");
    assert!(matches!(runtime.signal("a", TERM).await, Err(RuntimeError::Ended(_))));
    assert_eq!(world.names().await, ["/mesos-a"]);
    assert_eq!(runtime.destroy("a").await.unwrap(), exit);
    assert!(matches!(runtime.destroy("a").await, Err(RuntimeError::NotFound(_))));
    assert!(world.names().await.is_empty());
    assert_eq!(std::fs::read_dir(world.at("run-one")).unwrap().count(), 0, "nothing is left on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_end_and_made_to() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    let obeys = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done";
    runtime.start(world.spec("obeys", obeys)).await.unwrap();
    // PID 1 without a handler does not notice SIGTERM at all.
    runtime.start(world.spec("ignores", "echo up; sleep 1000")).await.unwrap();
    let mut own = world.spec("own", "trap 'exit 9' USR1; echo up; while :; do sleep 0.1; done");
    own.parameters.push(("stop-signal".into(), "SIGUSR1".into()));
    runtime.start(own).await.unwrap();
    let mut init = world.spec("init", "echo up; exec sleep 1000");
    init.parameters.push(("init".into(), "true".into()));
    runtime.start(init).await.unwrap();
    for id in ["obeys", "ignores", "own", "init"] {
        eventually("start", async || world.read(id, "stdout").contains("up").then_some(())).await;
    }
    let grace = Duration::from_secs(30);
    runtime.kill("obeys", TERM, grace).await.unwrap();
    runtime.kill("own", TERM, grace).await.unwrap();
    runtime.kill("init", TERM, grace).await.unwrap();
    runtime.kill("ignores", TERM, Duration::from_millis(500)).await.unwrap();
    for (id, code, escalated) in
        [("obeys", 7, false), ("own", 9, false), ("init", 143, false), ("ignores", 137, true)]
    {
        let exit = end(&runtime, id).await;
        let want = (ExitStatus::Code(code), ExitReason::Killed { escalated });
        assert_eq!((exit.status, exit.reason), want, "{id}");
        runtime.destroy(id).await.unwrap();
    }
    assert_eq!(world.read("obeys", "stdout"), "up\nbye\n");
    // What runs is destroyed without asking.
    runtime.start(world.spec("runs", "sleep 1000")).await.unwrap();
    let exit = runtime.destroy("runs").await.unwrap();
    assert_eq!(exit.reason, ExitReason::Killed { escalated: false });
    assert!(world.names().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_are_measured() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    let mut spec = world.spec("limited", "sleep 1000");
    spec.limits.memory = Some(48 << 20);
    spec.limits.cpu_shares = Some(512);
    spec.limits.cpu_quota_us = Some(50_000);
    spec.limits.pids = Some(20);
    let launched = runtime.start(spec).await.unwrap();
    assert!(launched.pid > 1 && launched.shim_pid > 1 && !launched.cgroups.is_empty(), "{launched:?}");
    let stats = runtime.stats("limited").await.unwrap();
    let usage = stats.usage;
    assert_eq!(usage.memory_limit_bytes, Some(48 << 20));
    assert!(usage.cpu_ns.is_some() && usage.memory_bytes.is_some_and(|bytes| bytes > 0), "{usage:?}");
    assert_eq!(stats.processes, Some(1));
    let read = |name: &str| {
        let files = launched.cgroups.iter().filter_map(|dir| std::fs::read_to_string(dir.join(name)).ok());
        files.map(|text| text.trim().to_owned()).next()
    };
    let quota = read("cpu.cfs_quota_us").or_else(|| read("cpu.max")).unwrap();
    assert!(["50000", "50000 100000"].contains(&&*quota), "{quota}");
    if let Some(shares) = read("cpu.shares") {
        assert_eq!(shares, "512");
    }
    assert_eq!(read("pids.max").unwrap(), "20");
    runtime.destroy("limited").await.unwrap();

    let mut greedy = world.spec("greedy", "exec tail /dev/zero");
    greedy.limits.memory = Some(16 << 20);
    runtime.start(greedy).await.unwrap();
    let exit = end(&runtime, "greedy").await;
    assert_eq!((exit.reason, exit.oom), (ExitReason::OutOfMemory, true), "{exit:?}");
    runtime.destroy("greedy").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_fails_leaves_nothing_and_says_why() {
    let Some(world) = world().await else { return };
    let mut config = world.config("one");
    config.pull = Duration::from_secs(20);
    let runtime = world.runtime_of(config).await;
    let mut program = world.spec("program", "");
    program.entrypoint = Some(vec!["/bin/absent".into()]);
    let mut image = world.spec("image", "true");
    image.image = ImageWish { name: "127.0.0.1:9/absent".into(), force_pull: false, credentials: None };
    let mut network = world.spec("network", "true");
    network.network = plenum_docker::DockerNetwork::User("absent".into());
    let mut parameter = world.spec("parameter", "true");
    parameter.parameters.push(("memroy".into(), "1g".into()));
    for (spec, want) in [
        (program, "/bin/absent"),
        (image, "127.0.0.1:9"),
        (network, "network absent"),
        (parameter, "nearest is \"memory\""),
        (world.spec("../x", "true"), "container id"),
    ] {
        let id = spec.id.clone();
        let said = runtime.start(spec).await.unwrap_err().to_string();
        assert!(said.contains(want), "{said:?} should say {want:?}");
        assert!(matches!(runtime.wait(&id).await, Err(RuntimeError::NotFound(_))));
    }
    assert!(world.names().await.is_empty());
    assert_eq!(std::fs::read_dir(world.at("run-one")).unwrap().count(), 0, "nothing is left on record");
}
