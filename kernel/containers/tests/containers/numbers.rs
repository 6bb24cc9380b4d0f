//! Figures: latency of a launch, private memory of the shim, and that many containers leave nothing behind.

use super::harness::{eventually, quick_world, skip, within};
use plenum_containers::{Command, ContainerSpec, Runtime};
use std::time::Instant;

/// Sum of a field of `/proc/PID/smaps_rollup`, KiB.
fn private_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let fields = text.lines().filter(|line| line.starts_with("Private_"));
    fields.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// Microseconds that a process has been on a processor, and waiting for one.
fn scheduled(pid: i32) -> [u64; 2] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse::<u64>().unwrap() / 1000);
    [fields.next().unwrap(), fields.next().unwrap()]
}

fn sleeper(world: &super::harness::World, id: &str) -> ContainerSpec {
    ContainerSpec { command: Command::Argv(vec!["/bin/sleep".into(), "1000".into()]), ..world.spec(id, "") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_is_quick_and_a_shim_is_small() {
    if skip() {
        return;
    }
    let world = quick_world();
    let mut micros = Vec::new();
    let mut processor = [0, 0];
    for i in 0..50 {
        let spec = sleeper(&world, &format!("c{i}"));
        let start = Instant::now();
        let launched = world.runtime.launch(spec).await.unwrap();
        micros.push(start.elapsed().as_micros());
        for pid in [launched.shim_pid, launched.init_pid, launched.pid] {
            let [on, waited] = scheduled(pid);
            processor = [processor[0] + on, processor[1] + waited];
        }
        if i == 49 {
            let (shim, init) = (private_kib(launched.shim_pid), private_kib(launched.init_pid));
            println!("private memory: supervisor {shim} KiB, init {init} KiB");
            assert!(shim + init < 512, "supervisor {shim} KiB and init {init} KiB");
        }
    }
    micros.sort_unstable();
    println!("launch: median {} us, p90 {} us of 50", micros[25], micros[45]);
    let [on, waited] = processor.map(|us| us / 50);
    println!("of it supervisor, init and task: {on} us on a processor, {waited} us waiting for one");
    let start = Instant::now();
    for i in 0..50 {
        world.runtime.destroy(&format!("c{i}")).await.unwrap();
    }
    println!("destroy: mean {} us of 50", start.elapsed().as_micros() / 50);
    // Generous: shared machines and debug builds. The figures are printed.
    assert!(micros[25] < 250_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_containers_leave_nothing_behind() {
    if skip() {
        return;
    }
    let world = std::sync::Arc::new(quick_world());
    let mounts = world.mounts();
    let start = Instant::now();
    let launches: Vec<_> = (0..200)
        .map(|i| {
            let world = std::sync::Arc::clone(&world);
            tokio::spawn(
                async move { world.runtime.launch(sleeper(&world, &format!("c{i}"))).await.unwrap() },
            )
        })
        .collect();
    let mut pids = Vec::new();
    for launch in launches {
        let launched = within(60, launch).await.unwrap();
        pids.extend([launched.pid, launched.init_pid, launched.shim_pid]);
    }
    println!("launch rate: {:.0}/s over 200 at once", 200.0 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    let ends: Vec<_> = (0..200)
        .map(|i| {
            let world = std::sync::Arc::clone(&world);
            tokio::spawn(async move { world.runtime.destroy(&format!("c{i}")).await.unwrap() })
        })
        .collect();
    for end in ends {
        within(60, end).await.unwrap();
    }
    println!("destroy rate: {:.0}/s over 200 at once", 200.0 / start.elapsed().as_secs_f64());
    eventually("no process is left", || {
        pids.iter().all(|pid| plenum_shim::proc::stat(*pid).is_none()).then_some(())
    })
    .await;
    assert_eq!(world.groups(), Vec::<std::path::PathBuf>::new());
    assert_eq!(world.mounts(), mounts);
    assert_eq!(std::fs::read_dir(&world.config.run_dir).unwrap().count(), 0);
}

fn median(micros: &mut [u128]) -> u128 {
    micros.sort_unstable();
    micros[micros.len() / 2]
}

/// From the request to the known end of `/bin/true`, next to the same namespaces made by `unshare`, turn by turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_to_end_beside_unshare() {
    if skip() {
        return;
    }
    let world = quick_world();
    let (mut ours, mut theirs, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    let run = |program: &str, args: &[&str]| {
        let start = Instant::now();
        let status = std::process::Command::new(program).args(args).status().unwrap();
        assert!(status.success());
        start.elapsed().as_micros()
    };
    for i in 0..40 {
        floor.push(run("/bin/true", &[]));
        theirs.push(run("unshare", &["-m", "-u", "-i", "-p", "-f", "--mount-proc", "/bin/true"]));
        let id = format!("c{i}");
        let spec = ContainerSpec { command: Command::Argv(vec!["/bin/true".into()]), ..world.spec(&id, "") };
        let start = Instant::now();
        world.runtime.launch(spec).await.unwrap();
        within(20, world.runtime.wait(&id)).await.unwrap();
        ours.push(start.elapsed().as_micros());
        world.runtime.destroy(&id).await.unwrap();
    }
    let (ours, theirs, floor) = (median(&mut ours), median(&mut theirs), median(&mut floor));
    println!("start to end: container {ours} us, unshare {theirs} us, spawn {floor} us");
    // A busy machine preempts each process of the chain: the ratio is for reading, the bound for catching waits.
    assert!(ours < 500_000, "{ours} us beside {theirs} us");
}

/// The thousandth container costs what the first did. Long: run it by name with `--ignored`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a thousand containers"]
async fn a_thousand_containers() {
    if skip() {
        return;
    }
    let world = quick_world();
    let mut micros = Vec::new();
    let mut shims = Vec::new();
    for i in 0..1000 {
        let spec = sleeper(&world, &format!("c{i}"));
        let start = Instant::now();
        shims.push(world.runtime.launch(spec).await.unwrap().shim_pid);
        micros.push(start.elapsed().as_micros());
    }
    let (first, last) = (median(&mut micros[..100]), median(&mut micros[900..]));
    println!("launch: first hundred {first} us, last hundred {last} us");
    let mut private: Vec<u128> = shims.iter().map(|pid| u128::from(private_kib(*pid))).collect();
    println!("supervisor of a thousand: median {} KiB", median(&mut private));
    for i in 0..1000 {
        world.runtime.destroy(&format!("c{i}")).await.unwrap();
    }
    assert!(last < first * 4, "first hundred {first} us, last hundred {last} us");
}

/// Processor time of this process so far, user and kernel, microseconds.
fn spent() -> [i64; 2] {
    use nix::sys::time::TimeValLike;
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD);
    let usage = usage.unwrap();
    [usage.user_time().num_microseconds(), usage.system_time().num_microseconds()]
}

/// The same of all threads, together.
fn spent_by_all() -> i64 {
    use nix::sys::time::TimeValLike;
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
}

/// Whoever scrapes a thousand containers shall not be noticed: less than 200 us each. Debug builds take longer over the text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measuring_costs_little() {
    if skip() {
        return;
    }
    let world = quick_world();
    let ids: Vec<String> = (0..60).map(|i| format!("m{i}")).collect();
    for id in &ids {
        world.runtime.launch(sleeper(&world, id)).await.unwrap();
    }
    let states: Vec<_> = ids.iter().map(|id| world.runtime.launched(id).unwrap()).collect();
    assert!(world.runtime.stats_of(&ids).await.iter().all(Option::is_some));
    let read = move || {
        let before = spent();
        for launched in &states {
            let groups = launched.cgroups.iter();
            let state = plenum_shim::wire::State {
                groups: groups.map(|dir| dir.as_os_str().as_encoded_bytes().to_vec()).collect(),
                init: plenum_shim::wire::Pid { pid: launched.init_pid, start: 0 },
                ..plenum_shim::wire::State::default()
            };
            let found = plenum_containers::cgroup::stats::read(&state);
            assert!(found.usage.cpu_ns.is_some(), "{found:?}");
        }
        let after = spent();
        [after[0] - before[0], after[1] - before[1]].map(|us| us / 60)
    };
    let before = spent_by_all();
    let again = world.runtime.stats_of(&ids).await;
    let after = spent_by_all();
    assert!(again.iter().all(Option::is_some));
    println!("again, while it is idle: {} us", (after - before) / 60);
    let [user, kernel] = tokio::task::spawn_blocking(read).await.unwrap();
    println!("measuring one container: {user} us of ours, {kernel} us of the kernel's");
    for id in &ids {
        world.runtime.destroy(id).await.unwrap();
    }
    assert!(user + kernel < 3000, "{user} and {kernel} us");
}
