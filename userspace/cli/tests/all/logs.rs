//! Logs: the sandbox is found on the node, the last lines are read, what is added follows.

use serde_json::{Value, json};

use crate::world::World;

const DIR: &str = "/w/slaves/S1/frameworks/F/executors/web.instance-aaaa/runs/c";

fn agent(tasks: &[&str]) -> Value {
    let executors: Vec<Value> = tasks
        .iter()
        .map(|id| json!({"id": id, "directory": format!("/w/{id}"), "tasks": [{"id": id}]}))
        .collect();
    json!({"frameworks": [{"executors": executors}]})
}

fn read(path: &str, query: &str) -> String {
    format!("GET /agent/S1/files/read?path={path}&{query}")
}

#[tokio::test]
async fn the_last_lines_of_a_task_are_printed() {
    let world = World::start().await;
    let state = json!({"slaves": [{"id": "S1", "hostname": "n1"}], "frameworks": [{"name": "marathon", "tasks": [
        {"id": "web.instance-aaaa", "name": "web", "slave_id": "S1", "state": "TASK_RUNNING"}]}]});
    world.gateway.answer("GET /mesos/state", 200, &state);
    let executors = json!([{"id": "web.instance-aaaa", "directory": DIR, "tasks": []}]);
    world.gateway.answer(
        "GET /agent/S1/state",
        200,
        &json!({"frameworks": [{"completed_executors": executors}]}),
    );
    let file = format!("{DIR}/stdout");
    let text = "one\ntwo ö\nthree\n";
    world.gateway.answer(&read(&file, "offset=-1"), 200, &json!({"offset": text.len(), "data": ""}));
    world.gateway.answer(
        &read(&file, &format!("offset=0&length={}", text.len())),
        200,
        &json!({"offset": 0, "data": text}),
    );
    world.gateway.answer(
        &read(&file, "offset=4&length=13"),
        200,
        &json!({"offset": 4, "data": "two ö\nthree\n"}),
    );
    let last = world.run(&["task", "logs", "web", "-n", "2"]).await;
    assert_eq!((last.code, last.out.as_str()), (0, "two ö\nthree\n"), "{last:?}");
    let all = world.run(&["task", "logs", "web.inst"]).await;
    assert_eq!((all.code, all.out.as_str()), (0, text), "{all:?}");
    let none = world.run(&["task", "logs", "web", "-n", "0"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, ""), "{none:?}");
    world.gateway.answer(
        &format!("GET /agent/S1/files/browse?path={DIR}"),
        200,
        &json!([{"path": file}, {"path": format!("{DIR}/stderr")}]),
    );
    let other = world.run(&["task", "logs", "web", "--file", "nothing"]).await;
    assert!(other.code == 1 && other.err.contains("--file names one of: stdout, stderr"), "{other:?}");
    let unknown = world.run(&["task", "logs", "nobody"]).await;
    assert_eq!(unknown.code, 2, "{unknown:?}");
}

#[tokio::test]
async fn a_followed_task_ends_with_the_task() {
    let world = World::start().await;
    let state = |list: &str| json!({"frameworks": [{"name": "marathon", list: [{"id": "t.1", "name": "t", "slave_id": "S1"}]}]});
    world.gateway.answer("GET /mesos/state", 200, &state("tasks"));
    world.gateway.answer("GET /mesos/state", 200, &state("completed_tasks"));
    world.gateway.answer("GET /agent/S1/state", 200, &agent(&["t.1"]));
    let size = read("/w/t.1/stdout", "offset=-1");
    for end in [2, 2, 5, 1] {
        world.gateway.answer(&size, 200, &json!({"offset": end, "data": ""}));
    }
    for (query, data) in
        [("offset=0&length=2", "a\n"), ("offset=2&length=3", "bc\n"), ("offset=0&length=1", "d")]
    {
        world.gateway.answer(&read("/w/t.1/stdout", query), 200, &json!({"offset": 0, "data": data}));
    }
    // It was rotated between two looks; what came before that is in the other file now.
    world.gateway.answer(&read("/w/t.1/stdout.1", "offset=-1"), 200, &json!({"offset": 7, "data": ""}));
    let rest = json!({"offset": 5, "data": "+\n"});
    world.gateway.answer(&read("/w/t.1/stdout.1", "offset=5&length=2"), 200, &rest);
    let outcome = world.run(&["task", "logs", "t.1", "-f"]).await;
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "a\nbc\n+\nd"), "{outcome:?}");
}

#[tokio::test]
async fn an_apps_instances_are_told_apart() {
    let world = World::start().await;
    let app = json!({"app": {"id": "/web", "instances": 2, "tasks": [
        {"id": "web.instance-aaaa1111bbbb", "slaveId": "S1"}, {"id": "web.instance-cccc2222dddd", "slaveId": "S1"}]}});
    world.gateway.answer("GET /service/marathon/v2/apps/web", 200, &app);
    let ids = ["web.instance-aaaa1111bbbb", "web.instance-cccc2222dddd"];
    world.gateway.answer("GET /agent/S1/state", 200, &agent(&ids));
    for (id, text) in ids.iter().zip(["x\ny", "z\n"]) {
        let file = format!("/w/{id}/stdout");
        world.gateway.answer(&read(&file, "offset=-1"), 200, &json!({"offset": text.len()}));
        world.gateway.answer(
            &read(&file, &format!("offset=0&length={}", text.len())),
            200,
            &json!({"offset": 0, "data": text}),
        );
    }
    let outcome = world.run(&["app", "logs", "web"]).await;
    assert_eq!(
        (outcome.code, outcome.out.as_str()),
        (0, "aaaa1111 | x\naaaa1111 | y\ncccc2222 | z\n"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn without_instances_the_last_failure_is_shown() {
    let world = World::start().await;
    let at = "GET /service/marathon/v2/apps/web";
    world.gateway.answer(at, 200, &json!({"app": {"id": "/web", "instances": 1, "lastTaskFailure": {"taskId": "web.1", "slaveId": "S1"}}}));
    world.gateway.answer(at, 200, &json!({"app": {"id": "/web", "instances": 1}}));
    world.gateway.answer("GET /agent/S1/state", 200, &agent(&["web.1"]));
    world.gateway.answer(&read("/w/web.1/stdout", "offset=-1"), 200, &json!({"offset": 4}));
    world.gateway.answer(
        &read("/w/web.1/stdout", "offset=0&length=4"),
        200,
        &json!({"offset": 0, "data": "boom"}),
    );
    let failed = world.run(&["app", "logs", "web"]).await;
    assert_eq!((failed.code, failed.out.as_str()), (0, "boom"), "{failed:?}");
    assert!(failed.err.contains("no instance is running"), "{failed:?}");
    let never = world.run(&["app", "logs", "web"]).await;
    assert!(never.code == 1 && never.err.contains("plenum app why /web"), "{never:?}");
}

#[tokio::test]
async fn what_a_dead_instance_printed_is_found() {
    let world = World::start().await;
    let at = "GET /service/marathon/v2/apps/web/ended";
    let ended = |id: &str, asked: bool| {
        json!({"instanceId": format!("web.instance-{id}"), "host": "node-1", "slaveId": "S1", "endedAt": "2026-01-01T00:00:00.000Z",
            "asked": asked, "tasks": [{"id": format!("web.instance-{id}._app.1"), "state": "TASK_FAILED", "message": "exited with status 3"}]})
    };
    for _ in 0..4 {
        world.gateway.answer(
            at,
            200,
            &json!({"ended": [ended("cc", true), ended("bb", false), ended("aa", false)]}),
        );
    }
    world.gateway.answer("GET /agent/S1/state", 200, &agent(&["web.instance-bb._app.1"]));
    let file = "/w/web.instance-bb._app.1/stdout";
    world.gateway.answer(&read(file, "offset=-1"), 200, &json!({"offset": 4}));
    world.gateway.answer(&read(file, "offset=0&length=4"), 200, &json!({"offset": 0, "data": "boom"}));
    let failed = world.run(&["app", "logs", "web", "--dead"]).await;
    assert_eq!((failed.code, failed.out.as_str()), (0, "boom"), "{failed:?}");
    for part in ["web.instance-bb on node-1 ended", "exited with status 3"] {
        assert!(failed.err.contains(part), "{failed:?}");
    }
    world.gateway.answer("GET /agent/S1/state", 200, &agent(&[]));
    let gone = world.run(&["app", "logs", "web", "aa", "--dead"]).await;
    assert!(gone.code == 1 && gone.err.contains("agent.gc_delay"), "{gone:?}");
    let unknown = world.run(&["app", "logs", "web", "zz", "--dead"]).await;
    assert!(unknown.code != 0 && unknown.err.contains("plenum app ended web"), "{unknown:?}");
    let all = world.run(&["app", "ended", "web"]).await;
    assert!(
        all.out.contains("it was asked to") && all.out.contains("TASK_FAILED: exited with status 3"),
        "{all:?}"
    );
}
