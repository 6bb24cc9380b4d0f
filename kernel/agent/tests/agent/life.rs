//! Command tasks in real containers.

use std::time::Duration;

use plenum_api::mesos::health_check::Type as HealthType;
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{CommandInfo, HealthCheck, TaskState, command_info};

use crate::master::task;
use crate::world::{World, is_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_finishes_and_leaves_its_files() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    let register = world.master.register().await;
    assert_eq!(register.agent_info.hostname, "test-agent");
    assert!(register.agent_info.resources.iter().any(|one| one.name == "ports"));
    let source = world.folder.path().join("input.txt");
    std::fs::write(&source, "fetched\n").unwrap();
    let mut info =
        task("hello", "echo out $MESOS_TASK_ID; cat input.txt; echo err >&2; pwd; echo $MESOS_SANDBOX");
    if let Some(command) = &mut info.command {
        let value = format!("file://{}", source.display());
        command.uris.push(command_info::Uri { value, ..Default::default() });
    }
    world.master.run(info);
    let running = world.master.expect("hello", TaskState::TaskRunning).await;
    let status = running.container_status.unwrap();
    assert!(status.executor_pid.unwrap() > 0);
    assert_eq!(status.network_infos[0].ip_addresses[0].ip_address.as_deref(), Some("127.0.0.1"));
    let done = world.master.expect("hello", TaskState::TaskFinished).await;
    assert_eq!(done.message.as_deref(), Some("Command exited with status 0"));
    let container = status.container_id.unwrap().value;
    // What people and tools look at.
    let state = world.get_json("/slave(1)/state.json").await;
    assert_eq!(state["id"], "S1");
    let executor = &state["completed_frameworks"][0]["completed_executors"][0];
    assert_eq!(executor["id"], "hello");
    let directory = executor["directory"].as_str().unwrap().to_owned();
    assert!(directory.ends_with(&format!("/slaves/S1/frameworks/F1/executors/hello/runs/{container}")));
    let path = format!("{directory}/stdout");
    let read = world.get_json(&format!("/files/read.json?path={path}&offset=0&length=4000")).await;
    let expect = format!("out hello\nfetched\n{directory}\n{directory}\n");
    assert_eq!(read, serde_json::json!({ "offset": 0, "data": expect }));
    let end = world.get_json(&format!("/slave%281%29/files/read?path={path}&length=0&offset=-1")).await;
    assert_eq!(end, serde_json::json!({ "offset": expect.len(), "data": "" }));
    let metrics = world.get_json("/metrics/snapshot").await;
    let fetches = |how: &str| metrics[format!("containerizer/fetcher/task_fetches_{how}")].as_f64();
    assert_eq!((fetches("succeeded"), fetches("failed")), (Some(1.0), Some(0.0)));
    let latest = directory.replace(&container, "latest");
    let (status, body) = world.get(&format!("/files/download?path={latest}/stderr")).await;
    assert_eq!((status, body.as_slice()), (200, b"err\n".as_slice()));
    let list = world.get_json(&format!("/files/browse?path={directory}")).await;
    let names: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["path"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    assert_eq!(names, ["input.txt", "stderr", "stdout"]);
    assert_eq!(world.get_json("/files/debug").await[&directory], directory.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_are_polite_first() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    world.master.run(task("polite", "trap 'exit 0' TERM; while :; do sleep 0.1; done"));
    world.master.expect("polite", TaskState::TaskRunning).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.master.kill("polite", Duration::from_secs(20));
    let killed = world.master.expect("polite", TaskState::TaskKilled).await;
    assert_eq!(killed.message.as_deref(), Some("Command exited with status 0"));
    world.master.run(task("stubborn", "trap '' TERM; while :; do sleep 0.1; done"));
    world.master.expect("stubborn", TaskState::TaskRunning).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = std::time::Instant::now();
    world.master.kill("stubborn", Duration::from_secs(1));
    let killed = world.master.expect("stubborn", TaskState::TaskKilled).await;
    assert_eq!(killed.message.as_deref(), Some("Command terminated with signal Killed"));
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    world.master.run(task("absent", "exec /no/such/program"));
    let status = world.master.expect("absent", TaskState::TaskRunning).await;
    assert!(status.reason.is_none());
    let failed = world.master.expect("absent", TaskState::TaskFailed).await;
    assert_eq!(failed.message.as_deref(), Some("Command exited with status 127"));
    let mut missing = task("missing", "true");
    if let Some(command) = &mut missing.command {
        command
            .uris
            .push(command_info::Uri { value: "file:///no/such/file".to_owned(), ..Default::default() });
    }
    world.master.run(missing);
    let failed = world.master.expect("missing", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ContainerLaunchFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_outlive_an_agent_that_is_killed() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    world.master.run(task("long", "sleep 600"));
    world.master.run(task("short", "sleep 2; exit 7"));
    let long = world.master.status("long", None).await;
    let pid = long.container_status.as_ref().unwrap().executor_pid.unwrap();
    world.crash();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("sleep"));
    world.start();
    let register = world.master.register().await;
    assert_eq!(register.agent_id.as_ref().unwrap().value, "S1");
    assert_eq!(register.highest_term, Some(1));
    let found = register.tasks.iter().find(|one| one.task_id.value == "long").unwrap();
    assert_eq!(found.state(), TaskState::TaskRunning);
    let pending = register.pending_updates.iter().find(|one| one.status.task_id.value == "long").unwrap();
    assert_eq!(pending.status.uuid, long.uuid);
    let mut again = world.master.status("long", None).await;
    assert_eq!(again.uuid, long.uuid, "the update is the same one");
    assert_eq!(again.container_status.as_ref().unwrap().executor_pid, Some(pid));
    world.master.acknowledge(&again);
    // What ended meanwhile is learnt, in order.
    let mut seen = Vec::new();
    while seen.last() != Some(&TaskState::TaskFailed) {
        let status = world.master.status("short", None).await;
        world.master.acknowledge(&status);
        seen.push(status.state());
        again = status;
    }
    assert_eq!(again.message.as_deref(), Some("Command exited with status 7"));
    seen.dedup();
    assert!(seen.len() <= 2, "{seen:?}");
    world.master.kill("long", Duration::from_secs(5));
    let killed = world.master.expect("long", TaskState::TaskKilled).await;
    assert_eq!(killed.message.as_deref(), Some("Command terminated with signal Terminated"));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_health_check_kills() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    let mut info = task("sick", "touch well; sleep 600");
    let command = CommandInfo { value: Some("test -e well && rm well".to_owned()), ..Default::default() };
    info.health_check = Some(HealthCheck {
        r#type: Some(HealthType::Command as i32),
        command: Some(command),
        delay_seconds: Some(0.5),
        interval_seconds: Some(0.2),
        timeout_seconds: Some(10.0),
        grace_period_seconds: Some(0.0),
        consecutive_failures: Some(2),
        ..Default::default()
    });
    world.master.run(info);
    world.master.expect("sick", TaskState::TaskRunning).await;
    let healthy = world.master.expect("sick", TaskState::TaskRunning).await;
    assert_eq!((healthy.healthy, healthy.reason()), (Some(true), Reason::TaskHealthCheckStatusUpdated));
    for _ in 0..2 {
        let sick = world.master.expect("sick", TaskState::TaskRunning).await;
        assert_eq!(sick.healthy, Some(false), "{sick:?}");
    }
    let killed = world.master.expect("sick", TaskState::TaskKilled).await;
    assert_eq!(killed.healthy, Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_the_reason() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    world.master.run(task("fat", "head -c 300m /dev/zero | tail -c 200m | wc -c; exit 1"));
    world.master.expect("fat", TaskState::TaskRunning).await;
    let failed = world.master.expect("fat", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ContainerLimitationMemory, "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_disk_is_the_reason() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    let mut info = task("large", "head -c 8m /dev/zero > file; sleep 600");
    let mut disk = info.resources[1].clone();
    disk.name = "disk".to_owned();
    disk.scalar = Some(plenum_api::mesos::value::Scalar { value: 4.0 });
    info.resources.push(disk);
    world.master.run(info);
    world.master.expect("large", TaskState::TaskRunning).await;
    let failed = world.master.expect("large", TaskState::TaskFailed).await;
    assert_eq!(failed.reason(), Reason::ContainerLimitationDisk, "{failed:?}");
}
