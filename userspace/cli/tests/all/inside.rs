//! Verbs that look into tasks: commands, files, copies, figures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::world::World;

const API: &str = "POST /agent/S1/api/v1";

fn task(state: &str) -> Value {
    json!({"id": "web.1", "name": "web", "framework_id": "F", "slave_id": "S1", "state": state, "statuses": [
        {"state": state, "timestamp": 1, "container_status": {"container_id": {"value": "c1"}}}]})
}

/// A cluster with one task on one node.
async fn world(state: &str) -> World {
    let world = World::start().await;
    let node = json!({"id": "S1", "hostname": "10.0.0.7", "node_name": "n7"});
    let frameworks = json!([{"name": "marathon", "tasks": [task(state)]}]);
    world.gateway.answer("GET /mesos/state", 200, &json!({"slaves": [node], "frameworks": frameworks}));
    world
}

fn data(kind: &str, text: &str) -> String {
    let io = json!({"type": "DATA", "data": {"type": kind, "data": STANDARD.encode(text)}}).to_string();
    format!("{}\n{io}", io.len())
}

fn wait(status: i32) -> Value {
    json!({"type": "WAIT_CONTAINER", "wait_container": {"exit_status": status}})
}

#[tokio::test]
async fn a_command_says_what_it_says_and_its_code_is_ours() {
    let world = world("TASK_RUNNING").await;
    let beat = r#"{"type":"CONTROL","control":{"type":"HEARTBEAT"}}"#;
    let output =
        format!("{}{}\n{beat}{}", data("STDOUT", "out\u{1b}[1m\n"), beat.len(), data("STDERR", "err\n"));
    world.gateway.raw(API, 200, &output);
    world.gateway.raw(API, 200, "");
    world.gateway.answer(API, 200, &wait(3 << 8));
    world.gateway.raw(API, 200, "");
    let done = world.run(&["task", "exec", "web", "--", "ls", "-l", "-o", "x"]).await;
    assert_eq!((done.code, done.out.as_str()), (3, "out\u{1b}[1m\n"), "{done:?}");
    assert!(done.err.starts_with("err\n"), "{done:?}");
    let calls: Vec<_> = world.gateway.seen().into_iter().filter(|seen| seen.line == API).collect();
    let launch = &calls[0].json()["launch_nested_container_session"];
    assert_eq!(
        launch["command"],
        json!({"shell": false, "value": "ls", "arguments": ["ls", "-l", "-o", "x"]})
    );
    assert_eq!(launch["container_id"]["parent"], json!({"value": "c1"}));
    assert_eq!(calls[0].headers["accept"], "application/recordio");
    assert_eq!(calls[0].headers["message-accept"], "application/json");
    let said = &calls[1];
    assert_eq!(said.headers["message-content-type"], "application/json");
    assert!(said.body.contains(r#""data":"""#), "it has no input, and is told so: {}", said.body);
    assert_eq!(calls[2].json()["wait_container"]["container_id"], launch["container_id"]);
    assert_eq!(calls[3].json()["type"], "REMOVE_CONTAINER");
}

#[tokio::test]
async fn what_cannot_be_done_names_the_next_step() {
    let world = world("TASK_RUNNING").await;
    world.gateway.raw(
        API,
        400,
        "The command cannot be started: execve (vi): No such file or directory (os error 2)",
    );
    let done = world.run(&["task", "exec", "web", "vi"]).await;
    assert_eq!(done.code, 127);
    assert!(done.err.contains("there is no program vi inside the task"), "{done:?}");
    let ended = self::world("TASK_FAILED").await;
    let done = ended.run(&["task", "exec", "web", "ls"]).await;
    assert_eq!(done.code, 1);
    assert!(done.err.contains("`plenum task logs web.1`"), "{done:?}");
    let quiet = self::world("TASK_RUNNING").await;
    quiet.gateway.raw(API, 500, "I/O switchboard server was disabled for this container");
    let done = quiet.run(&["task", "attach", "web"]).await;
    assert!(done.code == 1 && done.err.contains("plenum task logs -f web.1"), "{done:?}");
    let done = quiet.run(&["task", "exec", "-it", "web", "sh"]).await;
    assert!(done.code == 2 && done.err.contains("leave -t out"), "{done:?}");
    assert_eq!(quiet.run(&["task", "exec", "web"]).await.code, 2, "no command");
    assert_eq!(quiet.run(&["task", "cp", "a", "b"]).await.code, 2);
}

/// A world in which the task's sandbox is known.
async fn with_sandbox() -> World {
    let world = world("TASK_RUNNING").await;
    let executor = json!({"id": "web.1", "type": "COMMAND", "directory": "/sb", "tasks": [{"id": "web.1"}]});
    world.gateway.answer("GET /agent/S1/state", 200, &json!({"frameworks": [{"executors": [executor]}]}));
    let entry = |path: &str, mode: &str| json!({"path": path, "size": 5, "mtime": 1.0, "mode": mode, "uid": "root", "gid": "root"});
    let list = json!([
        entry("/sb/logs", "drwxr-xr-x"),
        entry("/sb/a", "-rw-r--r--"),
        entry("/sb/link", "lrwxrwxrwx")
    ]);
    world.gateway.answer("GET /agent/S1/files/browse?path=/sb", 200, &list);
    world.gateway.answer(
        "GET /agent/S1/files/browse?path=/sb/logs",
        200,
        &json!([entry("/sb/logs/b", "-rw-r--r--")]),
    );
    for (path, text) in [("/sb/a", "hello"), ("/sb/logs/b", "below")] {
        world.gateway.raw(&format!("GET /agent/S1/files/download?path={path}"), 200, text);
    }
    world
}

#[tokio::test]
async fn files_are_listed_and_copied() {
    let world = with_sandbox().await;
    let done = world.run(&["task", "files", "web"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("logs/") && done.out.contains("link"), "{done:?}");
    assert_eq!(world.run(&["task", "files", "web", "-o", "json"]).await.json()[1]["path"], "/sb/a");
    let here = |name: &str| world.dir.path().join(name).to_string_lossy().into_owned();
    let done = world.run(&["task", "cp", "web:a", &here("one")]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(std::fs::read_to_string(here("one")).unwrap(), "hello");
    assert_eq!(world.run(&["task", "cp", "web:a", "-"]).await.out, "hello");
    let copied = world.run(&["task", "cp", "web:", &here("all"), "-o", "json"]).await.json();
    assert_eq!((&copied["files"], &copied["bytes"]), (&json!(2), &json!(10)));
    assert_eq!(std::fs::read_to_string(here("all/logs/b")).unwrap(), "below");
    assert!(!world.dir.path().join("all/link").exists(), "links stay where they are");
    let missing = world.run(&["task", "cp", "web:nothing", &here("none")]).await;
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("plenum task files"), "{missing:?}");
    assert!(!world.dir.path().join("none").exists());
}

#[tokio::test]
async fn tasks_show_their_nodes_name_and_what_they_use() {
    let world = world("TASK_RUNNING").await;
    let listed = world.run(&["task", "list"]).await;
    assert!(listed.out.contains("n7") && !listed.out.contains("10.0.0.7"), "{listed:?}");
    let at = |seconds: f64| {
        json!([{"container_id": "c1", "statistics": {"timestamp": seconds, "cpus_user_time_secs": seconds,
            "mem_total_bytes": 3 << 20, "cpus_limit": 2.0}}])
    };
    world.gateway.answer("GET /agent/S1/containers", 200, &at(1.0));
    world.gateway.answer("GET /agent/S1/containers", 200, &at(2.0));
    let used = world.run(&["task", "stats", "-o", "json"]).await.json();
    assert_eq!(
        (&used[0]["id"], &used[0]["node"], &used[0]["cpus"]),
        (&json!("web.1"), &json!("n7"), &json!(1.0))
    );
}
