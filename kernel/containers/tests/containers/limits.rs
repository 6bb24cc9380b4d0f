//! Limits: in the kernel's files, and in what happens when they are met.

use super::harness::{skip, within, world};
use plenum_containers::{ExitReason, ExitStatus, Limits, OutOfMemory, Runtime};

#[tokio::test]
async fn limits_are_in_the_kernels_files() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec = world.spec("a", "echo up > ready; sleep 100");
    spec.limits = Limits {
        cpu_share_millis: Some(500),
        cpu_quota_millis: Some(250),
        memory_bytes: Some(64 << 20),
        swap: false,
        pids: Some(20),
    };
    let launched = world.runtime.launch(spec).await.unwrap();
    assert_eq!(launched.warnings, Vec::<String>::new());
    world.file("a", "ready").await;
    let read = |names: [&str; 2]| {
        let files = launched.cgroups.iter().flat_map(|dir| names.map(|name| dir.join(name)));
        files
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), (64 << 20).to_string());
    let together = read(["memory.memsw.limit_in_bytes", "memory.swap.max"]);
    assert!(["", "0", &(64 << 20).to_string()].contains(&together.as_str()), "{together}");
    assert_eq!(read(["pids.max", "pids.max"]), "20");
    assert!(["512", "20"].contains(&read(["cpu.shares", "cpu.weight"]).as_str()));
    assert!(["25000", "25000 100000"].contains(&read(["cpu.cfs_quota_us", "cpu.max"]).as_str()));
    for dir in &launched.cgroups {
        assert!(plenum_shim::cgroup::members(dir).contains(&launched.pid), "{}", dir.display());
        assert!(!plenum_shim::cgroup::members(dir).contains(&launched.shim_pid), "{}", dir.display());
    }
    let usage = world.runtime.usage("a").await.unwrap();
    assert_eq!(
        (usage.memory_limit_bytes, usage.task_only, usage.oom_kills),
        (Some(64 << 20), false, Some(0))
    );
    assert!(
        usage.cpu_ns.unwrap() > 0 && usage.memory_bytes.unwrap() > 0 && usage.pids.unwrap() >= 3,
        "{usage:?}"
    );
    world.runtime.destroy("a").await.unwrap();
    for dir in &launched.cgroups {
        assert!(!dir.exists(), "{}", dir.display());
    }
}

#[tokio::test]
async fn running_out_of_memory_is_said() {
    if skip() {
        return;
    }
    let world = world();
    // One line without an end.
    let mut spec = world.spec("a", "exec tail /dev/zero");
    spec.limits.memory_bytes = Some(16 << 20);
    let (exit, _) = world.run(spec).await;
    assert_eq!(
        (exit.status, exit.reason, exit.oom),
        (ExitStatus::Signal(9), ExitReason::OutOfMemory, true),
        "{exit:?}"
    );
    assert!(exit.oom_kills >= 1 && exit.memory_peak >= 15 << 20, "{exit:?}");

    let (exit, _) = world.run(world.spec("b", "head -c 30000000 /dev/zero | tail > /dev/null")).await;
    assert_eq!((exit.status, exit.oom), (ExitStatus::Code(0), false), "without a limit it is fine");
}

#[tokio::test]
async fn what_ran_when_memory_was_full_is_known() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec = world.spec("full", "sleep 1000 & exec tail /dev/zero");
    spec.id = format!("full-{}", std::process::id());
    let id = spec.id.clone();
    spec.limits.memory_bytes = Some(16 << 20);
    world.runtime.launch(spec).await.unwrap();
    within(20, world.runtime.wait(&id)).await.unwrap();
    let check = |known: OutOfMemory| {
        assert_eq!(known.limit_bytes, Some(16 << 20));
        assert!(known.used_bytes.unwrap() >= 15 << 20, "{known:?}");
        // The kernel writes ten reports in five seconds at most, and not every machine lets its log be read.
        if let Some(first) = known.running.first() {
            assert_eq!((first.name.as_str(), known.killed.as_deref()), ("tail", Some("tail")), "{known:?}");
            assert!(known.running.iter().any(|one| one.name == "sleep"), "{known:?}");
        }
        known.words()
    };
    let words = check(world.runtime.out_of_memory(&id).await.unwrap());
    assert!(words.starts_with("Requested: 16.0MB Maximum Used: 1"), "{words}");
    println!("{words}");
    // An agent that was away finds it all the same.
    let later = world.restarted();
    later.recover().await.unwrap();
    check(later.out_of_memory(&id).await.unwrap());
    later.destroy(&id).await.unwrap();
}

#[tokio::test]
async fn a_full_process_limit_stops_forks() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec = world.spec("a", "for i in $(seq 50); do sleep 100 & done; echo more");
    spec.limits.pids = Some(10);
    let (exit, output) = world.run(spec).await;
    assert_ne!(exit.status, ExitStatus::Code(0), "{output}");
    assert_eq!(output, "");
    assert!(exit.forks_refused > 0, "{exit:?}");
}

#[tokio::test]
async fn what_is_not_writable_is_a_warning() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec = world.spec("a", "true");
    // More than the kernel takes: the write fails, the launch does not, and the file is named.
    spec.limits.pids = Some(u64::MAX / 4096);
    let launched = world.runtime.launch(spec).await.unwrap();
    assert!(
        launched.warnings.iter().any(|w| w.contains("pids.max") && w.contains("failed")),
        "{:?}",
        launched.warnings
    );
    world.runtime.wait("a").await.unwrap();
    world.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn statistics_count_processes_and_threads() {
    if skip() {
        return;
    }
    let world = world();
    let mut spec = world.spec("a", "sleep 1000 & sleep 1000 & echo up > ready; wait");
    spec.limits.memory_bytes = Some(64 << 20);
    world.runtime.launch(spec).await.unwrap();
    world.file("a", "ready").await;
    let stats = world.runtime.stats("a").await.unwrap();
    // Init, the shell and two that sleep.
    assert_eq!((stats.processes, stats.threads), (Some(4), Some(4)));
    assert_eq!(stats.usage.memory_limit_bytes, Some(64 << 20));
    assert!(stats.memory_mapped_bytes.is_some() && stats.usage.cpu_ns.is_some(), "{stats:?}");
    assert_eq!((stats.network, stats.disk), (None, None), "the machine's network, and no limit");
    if std::path::Path::new("/sys/fs/cgroup/memory/memory.pressure_level").exists() {
        assert_eq!(stats.memory_pressure, Some([0, 0, 0]));
    }
    let many = world.runtime.stats_of(&["none".to_owned(), "a".to_owned()]).await;
    assert_eq!((many.len(), many[0].is_none()), (2, true));
    assert_eq!(many[1].as_ref().unwrap().processes, Some(4));
    // What happens in it is seen at once, also after it was idle.
    world.runtime.signal("a", libc::SIGKILL).await.unwrap();
    within(10, world.runtime.wait("a")).await.unwrap();
    assert!(world.runtime.stats("a").await.is_err());
    world.runtime.destroy("a").await.unwrap();
}
