//! Output: complete and in order, whatever is restarted meanwhile.

use crate::world::{assert_lines, end, eventually, world};
use plenum_containers::Runtime;
use std::time::Duration;

fn numbered(count: u32) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_the_agent_restarts() {
    let Some(world) = world().await else { return };
    let mut runtime = Some(world.runtime().await);
    let text = "i=0; while [ $i -lt 6000 ]; do i=$((i+1)); echo $i; echo $i >&2; [ $((i % 100)) -ne 0 ] || sleep 0.03; done";
    runtime.as_ref().unwrap().start(world.spec("talks", text)).await.unwrap();
    for round in 1..=4_usize {
        let some = async || (world.read("talks", "stdout").len() > round * 3000).then_some(());
        eventually("output", some).await;
        // As a kill does: nothing is closed or noted in order.
        drop(runtime.take());
        tokio::time::sleep(Duration::from_millis(150)).await;
        let next = world.runtime().await;
        assert_eq!(next.recover().await.unwrap().len(), 1);
        runtime = Some(next);
    }
    let runtime = runtime.unwrap();
    end(&runtime, "talks").await;
    assert_lines("stdout", &world.read("talks", "stdout"), &numbered(6000));
    assert_lines("stderr", &world.read("talks", "stderr"), &numbered(6000));
    runtime.destroy("talks").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_container_that_ended_while_no_agent_ran() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    runtime.start(world.spec("late", "echo first; sleep 1; seq 1 3000; exit 5")).await.unwrap();
    eventually("output", async || (world.read("late", "stdout") == "first\n").then_some(())).await;
    drop(runtime);
    let docker = world.client().await;
    eventually("the end", async || {
        let found = docker.inspect_container("mesos-late", None).await.unwrap();
        (!found.state.unwrap().running.unwrap()).then_some(())
    })
    .await;
    let runtime = world.runtime().await;
    let found = runtime.recover().await.unwrap();
    let plenum_containers::RecoveredState::Finished(exit) = &found[0].state else { panic!("{found:?}") };
    assert_eq!(exit.status, plenum_containers::ExitStatus::Code(5));
    assert_eq!(end(&runtime, "late").await.status, exit.status);
    assert_lines("stdout", &world.read("late", "stdout"), &format!("first\n{}", numbered(3000)));
    runtime.destroy("late").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_bytes_and_terminals() {
    let Some(world) = world().await else { return };
    let runtime = world.runtime().await;
    let long =
        "head -c 50000 /dev/zero | tr '\\0' x; echo; head -c 20000 /dev/zero | tr '\\0' y; echo end >&2";
    let mut tty = world.spec("tty", &format!("stty -onlcr; {long}"));
    tty.tty = true;
    runtime.start(tty).await.unwrap();
    runtime.start(world.spec("long", long)).await.unwrap();
    let lines = format!("{}\n{}", "x".repeat(50_000), "y".repeat(20_000));
    for (id, stdout, stderr) in [("long", lines.clone(), "end\n"), ("tty", format!("{lines}end\n"), "")] {
        end(&runtime, id).await;
        let found = world.read(id, "stdout");
        assert!(found == stdout, "{id}: {} bytes, {:?}...", found.len(), found.get(..80));
        assert_eq!(world.read(id, "stderr"), stderr, "{id}");
        runtime.destroy(id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_while_agent_and_engine_stumble() {
    let Some(world) = world().await else { return };
    let mut config = world.config("one");
    config.ping = Duration::from_millis(500);
    let mut runtime = Some(world.runtime_of(config.clone()).await);
    for number in 1..=10 {
        let text = format!(
            "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; [ $((i % 10)) -ne {} ] || sleep 0.2; done; exit {number}",
            number % 10
        );
        runtime.as_ref().unwrap().start(world.spec(&format!("c{number}"), &text)).await.unwrap();
    }
    for round in 0..6_u64 {
        // No wait for anything: whatever is under way is cut.
        tokio::time::sleep(Duration::from_millis(150 + round * 90)).await;
        drop(runtime.take());
        if round % 2 == 1 {
            world.signal_engine(nix::sys::signal::Signal::SIGSTOP);
        }
        let next = plenum_docker::DockerRuntime::new(config.clone()).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(next.recover().await.unwrap().len(), 10);
        assert!(began.elapsed() < Duration::from_secs(20), "an engine that is away is waited for once");
        if round % 2 == 1 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            world.signal_engine(nix::sys::signal::Signal::SIGCONT);
        }
        runtime = Some(next);
    }
    let runtime = runtime.unwrap();
    for number in 1..=10 {
        let id = format!("c{number}");
        assert_eq!(end(&runtime, &id).await.status, plenum_containers::ExitStatus::Code(number), "{id}");
        assert_lines(&id, &world.read(&id, "stdout"), &numbered(400));
        runtime.destroy(&id).await.unwrap();
    }
    assert!(world.names().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn output_keeps_its_budget() {
    let Some(world) = world().await else { return };
    let mut config = world.config("one");
    config.logs = Some(plenum_containers::LogBudget { file_bytes: 4096, files: 3 });
    let runtime = world.runtime_of(config).await;
    runtime.start(world.spec("much", "seq 1 9000")).await.unwrap();
    end(&runtime, "much").await;
    let files = ["stdout.2", "stdout.1", "stdout"].map(|name| world.read("much", name));
    let kept = files.concat();
    assert!(
        files.iter().all(|file| !file.is_empty() && file.len() <= 4096),
        "{:?}",
        files.map(|file| file.len())
    );
    assert!(numbered(9000).ends_with(&kept), "the newest, without a gap");
    assert_eq!(world.read("much", "stdout.3"), "");
    runtime.destroy("much").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_limit_is_measured() {
    let Some(world) = world().await else { return };
    let mut config = world.config("one");
    config.disk_interval = Duration::from_millis(200);
    let runtime = world.runtime_of(config).await;
    for (id, text) in [
        ("sandbox", "head -c 3000000 /dev/zero > /mnt/mesos/sandbox/f; sleep 1000"),
        ("layer", "head -c 3000000 /dev/zero > /f; sleep 1000"),
    ] {
        let mut spec = world.spec(id, text);
        spec.disk = Some(plenum_containers::DiskLimit { bytes: 1 << 20 });
        runtime.start(spec).await.unwrap();
        let found =
            tokio::time::timeout(Duration::from_secs(20), runtime.disk_exceeded(id)).await.unwrap().unwrap();
        assert!(found.used_bytes > 1 << 20 && found.limit_bytes == 1 << 20, "{id}: {found:?}");
        assert!(runtime.stats(id).await.unwrap().disk.is_some());
        runtime.destroy(id).await.unwrap();
    }
    runtime.start(world.spec("free", "true")).await.unwrap();
    assert_eq!(runtime.disk("free").await.unwrap(), None);
    assert!(runtime.disk_exceeded("free").await.is_err(), "it ends, and has no limit");
    runtime.destroy("free").await.unwrap();
}

/// The engine changes its own file while it is read: some then say all of the new one again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_doubled_when_the_engine_rotates_its_log() {
    let Some(world) = world().await else { return };
    let mut config = world.config("one");
    config.keep_output = 6 << 20;
    let runtime = world.runtime_of(config).await;
    runtime.start(world.spec("quick", "seq 1 60000; sleep 10; echo end; exec sleep 1000")).await.unwrap();
    eventually("the end", async || world.read("quick", "stdout").ends_with("end\n").then_some(())).await;
    assert_lines("stdout", &world.read("quick", "stdout"), &format!("{}end\n", numbered(60_000)));
    runtime.destroy("quick").await.unwrap();
}
