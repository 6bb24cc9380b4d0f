//! Output with a budget: nothing is lost but the oldest, and nothing that the machine cannot write stops a task.

use super::harness::{World, eventually, skip, within, world};
use plenum_containers::{ContainerSpec, ExitStatus, LogBudget, Runtime};
use std::time::{Duration, Instant};

fn spec(world: &World, id: &str, shell: &str, file_bytes: u64, files: u32) -> ContainerSpec {
    let mut spec = world.spec(id, shell);
    spec.logs = Some(LogBudget { file_bytes, files });
    spec
}

/// The files of a stream, oldest first, as one.
fn whole(world: &World, id: &str, name: &str) -> (usize, String) {
    let sandbox = world.sandbox(id);
    let mut number = 0;
    while sandbox.join(format!("{name}.{}", number + 1)).exists() {
        number += 1;
    }
    let mut text = String::new();
    for old in (1..=number).rev() {
        text += &std::fs::read_to_string(sandbox.join(format!("{name}.{old}"))).unwrap();
    }
    (number + 1, text + &std::fs::read_to_string(sandbox.join(name)).unwrap())
}

#[tokio::test]
async fn a_loud_task_is_rotated_without_loss() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "seq 100000; echo end >&2; echo again > /dev/stdout; exit 3";
    let mut spec = spec(&world, "a", shell, 50_000, 100);
    spec.user = Some("nobody".into());
    std::os::unix::fs::chown(world.sandbox("a"), Some(65534), None).unwrap();
    let (exit, _) = world.run(spec).await;
    assert_eq!(exit.status, ExitStatus::Code(3));
    let (files, text) = whole(&world, "a", "stdout");
    let want: String = (1..=100_000).map(|n| format!("{n}\n")).collect::<String>() + "again\n";
    assert!(text == want, "{} bytes of {}", text.len(), want.len());
    assert_eq!(files, want.len().div_ceil(50_000));
    assert_eq!(whole(&world, "a", "stderr"), (1, "end\n".into()));
    use std::os::unix::fs::MetadataExt;
    for name in ["stdout", "stdout.1", "stderr"] {
        let meta = std::fs::metadata(world.sandbox("a").join(name)).unwrap();
        assert!(meta.len() <= 50_000 && meta.uid() == 65534, "{name}: {meta:?}");
    }
}

#[tokio::test]
async fn the_budget_holds_and_the_newest_is_kept() {
    if skip() {
        return;
    }
    let world = world();
    let mut config = world.config.clone();
    config.logs = Some(LogBudget { file_bytes: 4096, files: 3 });
    let runtime = plenum_containers::NativeRuntime::new(config).unwrap();
    runtime.launch(world.spec("a", "seq 20000")).await.unwrap();
    within(20, runtime.wait("a")).await.unwrap();
    runtime.destroy("a").await.unwrap();
    let (files, text) = whole(&world, "a", "stdout");
    let all: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(files, 3);
    assert!(all.ends_with(&text) && (8192..=12_288).contains(&text.len()), "{}", text.len());
}

#[tokio::test]
async fn each_stream_may_have_its_own_budget() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "seq 20000; seq 20000 >&2";
    let mut own = spec(&world, "own", shell, 4096, 2);
    own.error_logs = Some(LogBudget { file_bytes: 8192, files: 3 });
    // Without one for both, the other is a file that the task writes itself.
    let mut one = world.spec("one", shell);
    one.error_logs = Some(LogBudget { file_bytes: 4096, files: 1 });
    for (spec, out, err) in [(own, (2, 8192), (3, 24_576)), (one, (1, 108_894), (1, 4096))] {
        let id = spec.id.clone();
        world.runtime.launch(spec).await.unwrap();
        within(20, world.runtime.wait(&id)).await.unwrap();
        world.runtime.destroy(&id).await.unwrap();
        for (name, (files, most)) in [("stdout", out), ("stderr", err)] {
            let (found, text) = whole(&world, &id, name);
            assert_eq!(found, files, "{id} {name}");
            assert!(text.len() <= most && text.ends_with("20000\n"), "{id} {name}: {}", text.len());
        }
    }
}

#[tokio::test]
async fn output_is_there_at_once_and_goes_on_without_the_agent() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "echo one; while ! test -e go; do sleep 0.02; done; echo two; sleep 1000";
    world.runtime.launch(spec(&world, "a", shell, 4096, 2)).await.unwrap();
    assert_eq!(world.file("a", "stdout").await, "one\n");
    let next = world.restarted();
    within(10, next.recover()).await.unwrap();
    std::fs::write(world.sandbox("a").join("go"), "").unwrap();
    eventually("the second line is there", || (world.stdout("a") == "one\ntwo\n").then_some(())).await;
    next.destroy("a").await.unwrap();
}

#[tokio::test]
async fn a_quiet_task_costs_no_wake_ups_and_a_full_disk_stops_nobody() {
    if skip() {
        return;
    }
    let world = world();
    let quiet = world.runtime.launch(spec(&world, "q", "echo up; sleep 1000", 4096, 2)).await.unwrap();
    world.file("q", "stdout").await;
    let switches = || {
        let text = std::fs::read_to_string(format!("/proc/{}/status", quiet.shim_pid)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    // Longer than any rest of a stream.
    let end = Instant::now() + Duration::from_millis(100);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = switches();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(switches(), before, "the supervisor sleeps");
    world.runtime.destroy("q").await.unwrap();

    // A file system of 64 KiB for the sandbox.
    let sandbox = world.sandbox("f");
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=0777", "none"])
        .arg(&sandbox)
        .status();
    if !mount.unwrap().success() {
        println!("SKIPPED: no tmpfs can be mounted");
        return;
    }
    let shell = "seq 200000; echo done >&2; exit 5";
    let (exit, _) = {
        let spec = spec(&world, "f", shell, 1 << 20, 2);
        world.runtime.launch(spec).await.unwrap();
        let exit = within(20, world.runtime.wait("f")).await.unwrap();
        (exit, world.runtime.destroy("f").await.unwrap())
    };
    let size = std::fs::metadata(sandbox.join("stdout")).unwrap().len();
    let unmounted = std::process::Command::new("umount").arg(&sandbox).status().unwrap();
    assert!(unmounted.success());
    assert_eq!(exit.status, ExitStatus::Code(5), "it went on to its end");
    assert!(size <= 64 << 10, "{size}");
}

#[tokio::test]
async fn a_loud_task_costs_its_supervisor_little() {
    if skip() {
        return;
    }
    let world = world();
    let shell = "head -c 256M /dev/zero; echo done > done; sleep 1000";
    let launched = world.runtime.launch(spec(&world, "a", shell, 8 << 20, 3)).await.unwrap();
    let start = Instant::now();
    world.file("a", "done").await;
    let took = start.elapsed();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", launched.shim_pid)).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // User and system time in hundredths of a second.
    let (user, system): (u64, u64) = (fields[11].parse().unwrap(), fields[12].parse().unwrap());
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", launched.shim_pid)).unwrap();
    let private = smaps.lines().find(|line| line.starts_with("Private_Dirty")).unwrap().to_owned();
    println!("256 MiB in {took:?}: user {user}0 ms, system {system}0 ms; {private}");
    assert!(user <= 100 && system <= 300, "user {user}, system {system}");
    world.runtime.destroy("a").await.unwrap();
}
