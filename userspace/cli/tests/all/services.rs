//! Versions of apps, pods, groups, deployments; deploying from files; taking over from elsewhere.

use serde_json::{Value, json};

use crate::world::World;

const ROOT: &str = "/service/marathon/v2";

fn version(version: &str, level: &str) -> Value {
    json!({"id": "/web", "cmd": "serve", "cpus": 0.1, "mem": 32, "instances": 2, "env": {"LEVEL": level}, "version": version})
}

/// A world in which /web has three versions, the newest a restart.
async fn world() -> World {
    let world = World::start().await;
    let versions = json!({"versions": ["2026-01-01T00:00:00.000Z", "2026-01-03T00:00:00.000Z", "2026-01-02T00:00:00.000Z"]});
    world.gateway.answer(&format!("GET {ROOT}/apps/web/versions"), 200, &versions);
    for (day, level) in [("01", "info"), ("02", "debug"), ("03", "debug")] {
        let of = format!("2026-01-{day}T00:00:00.000Z");
        let line = format!("GET {ROOT}/apps/web/versions/2026-01-{day}T00%3A00%3A00.000Z");
        world.gateway.answer(&line, 200, &version(&of, level));
    }
    let mut now = version("2026-01-03T00:00:00.000Z", "debug");
    now["tasksRunning"] = json!(2);
    world.gateway.answer(&format!("GET {ROOT}/apps/web"), 200, &json!({"app": now}));
    world
}

#[tokio::test]
async fn history_says_what_each_version_changed() {
    let world = world().await;
    let done = world.run(&["app", "history", "web"]).await;
    let rows: Vec<&str> = done.out.lines().map(|line| line.rsplit("  ").next().unwrap()).collect();
    assert_eq!(rows, ["CHANGED", "nothing: a restart", "env.LEVEL", "the oldest that is kept"], "{done:?}");
    let last = world.run(&["app", "history", "web", "-n", "1", "-o", "json"]).await.json();
    assert_eq!(last, json!([{"version": "2026-01-03T00:00:00.000Z", "changes": []}]));
    let done = world.run(&["app", "diff", "web"]).await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "web:\n  ~ env.LEVEL: \"info\" -> \"debug\"\n"),
        "{done:?}"
    );
}

#[tokio::test]
async fn a_rollback_goes_to_what_was_different() {
    let world = world().await;
    let put = format!("PUT {ROOT}/apps/web");
    world.gateway.answer(&put, 200, &json!({"deploymentId": "D1", "version": "v"}));
    let no = world.typed(&["app", "rollback", "web"], "n\n", true).await;
    assert_eq!(no.code, 1, "{no:?}");
    assert!(!world.gateway.lines().iter().any(|line| line.starts_with("PUT")));
    let done = world.run(&["app", "rollback", "web"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "/web: 2 of 2 instances running\n"), "{done:?}");
    assert!(done.err.contains("~ env.LEVEL: \"debug\" -> \"info\""), "{done:?}");
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line.starts_with("PUT")).unwrap();
    assert_eq!(sent.json(), json!({"version": "2026-01-01T00:00:00.000Z"}));
    let same = world.run(&["app", "rollback", "web", "--to", "2026-01-02T00:00:00.000Z"]).await;
    assert!(same.code == 0 && same.err.contains("nothing to do"), "{same:?}");
    let none = world.run(&["app", "rollback", "web", "--to", "x"]).await;
    assert!(none.code != 0, "{none:?}");
}

#[tokio::test]
async fn variables_are_set_and_taken_away() {
    let world = world().await;
    world.gateway.answer(
        &format!("PATCH {ROOT}/apps/web"),
        200,
        &json!({"deploymentId": "D1", "version": "v"}),
    );
    assert_eq!(world.run(&["app", "env", "web"]).await.out, "NAME   VALUE\nLEVEL  debug\n");
    let done = world.run(&["app", "env", "web", "A=b=c", "--unset", "LEVEL", "--no-wait"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line.starts_with("PATCH")).unwrap();
    assert_eq!(sent.json(), json!({"env": {"A": "b=c"}}));
    for bad in [
        &["app", "env", "web", "A"][..],
        &["app", "env", "web", "=x"],
        &["app", "env", "web", "--unset", "B"],
    ] {
        assert_eq!(world.run(bad).await.code, 2, "{bad:?}");
    }
}

#[tokio::test]
async fn only_what_differs_is_deployed() {
    let world = world().await;
    let pod = json!({"id": "/pod", "scaling": {"kind": "fixed", "instances": 1}, "containers": [{"name": "a", "resources": {"cpus": 1, "mem": 1}}], "version": "v"});
    world.gateway.answer(
        &format!("GET {ROOT}/pods/pod"),
        404,
        &json!({"message": "Pod '/pod' does not exist"}),
    );
    let text = "id: /web\ncmd: serve\nenv: {LEVEL: debug}\n---\nid: /pod\ncontainers: [{name: a, resources: {cpus: 1, mem: 1}}]\n";
    let dry = world.typed(&["deploy", "-", "--dry-run"], text, false).await;
    assert_eq!((dry.code, dry.out.as_str()), (0, "app /web: unchanged\npod /pod: new\n"), "{dry:?}");
    world.gateway.answer(&format!("POST {ROOT}/pods"), 201, &pod);
    let status = json!({"id": "/pod", "status": "STABLE", "instances": [{"status": "STABLE"}], "spec": pod});
    world.gateway.answer(&format!("GET {ROOT}/pods/pod::status"), 200, &status);
    world.gateway.answer(&format!("GET {ROOT}/deployments"), 200, &json!([]));
    let done = world.typed(&["deploy", "-", "--yes"], text, false).await;
    assert!(done.code == 0 && done.out.ends_with("/pod: 1 of 1 instances stable\n"), "{done:?}");
    assert!(!world.gateway.lines().iter().any(|line| line.starts_with("PUT")), "the app is left alone");
    let bad = world.typed(&["deploy", "-"], "cmd: x\n", false).await;
    assert!(bad.code == 2 && bad.err.contains("\"id\""), "{bad:?}");
}

#[tokio::test]
async fn pods_groups_and_deployments_are_shown() {
    let world = World::start().await;
    let pod = json!({"id": "/pod", "status": "DEGRADED", "spec": {"version": "v", "scaling": {"instances": 2}, "containers": [{"name": "a"}, {"name": "b"}]},
        "instances": [{"id": "pod.1", "status": "STABLE", "agentHostname": "n1", "containers": [
            {"name": "a", "status": "TASK_RUNNING", "endpoints": [{"allocatedHostPort": 31000}], "conditions": [{"name": "healthy", "value": "true"}]}]}]});
    world.gateway.answer(&format!("GET {ROOT}/pods/::status"), 200, &json!([pod]));
    world.gateway.answer(&format!("GET {ROOT}/pods/pod::status"), 200, &pod);
    let list = world.run(&["pod", "list"]).await;
    assert_eq!(
        list.out, "ID    CONDITION  STABLE  CONTAINERS  CHANGED\n/pod  degraded   1/2     a,b         -\n",
        "{list:?}"
    );
    let show = world.run(&["pod", "show", "pod"]).await;
    assert!(
        show.out.contains("pod.1     a          running  healthy  n1    31000")
            && show.out.contains("plenum app why /pod"),
        "{show:?}"
    );
    let root = json!({"id": "/", "groups": [{"id": "/g", "apps": [{"id": "/g/a", "instances": 1, "tasksRunning": 1}], "pods": [pod], "groups": [], "dependencies": ["/h"]}]});
    world.gateway.answer(&format!("GET {ROOT}/groups"), 200, &root);
    let groups = world.run(&["group", "list"]).await;
    assert_eq!(groups.out, "ID  APPS  PODS  GROUPS  DEPENDS ON\n/g  1     1     0       /h\n", "{groups:?}");
    let one = json!({"id": "D-1234", "affectedApps": ["/web"], "affectedPods": ["/pod"], "currentStep": 1, "totalSteps": 2});
    world.gateway.answer(&format!("GET {ROOT}/deployments"), 200, &json!([one]));
    let shown = world.run(&["deployment", "list"]).await;
    assert_eq!(shown.out, "ID      CHANGES    STEP  AGE\nD-1234  /web,/pod  1/2   -\n", "{shown:?}");
    world.gateway.answer(
        &format!("DELETE {ROOT}/deployments/D-1234"),
        200,
        &json!({"deploymentId": "D2", "version": "v"}),
    );
    assert_eq!(world.run(&["deployment", "cancel", "D-12", "--stop"]).await.code, 0);
    assert!(world.gateway.lines().last().unwrap().ends_with("force=true"), "{:?}", world.gateway.lines());
    assert_eq!(world.run(&["deployment", "cancel", "E"]).await.code, 2);
}

#[tokio::test]
async fn a_marathon_is_taken_over_from_a_file() {
    let world = World::start().await;
    let none =
        |id: &str| world.gateway.answer(&format!("GET {ROOT}/apps/{id}"), 404, &json!({"message": "no"}));
    none("shop/web");
    none("other");
    let apps = json!({"id": "/", "groups": [{"id": "/shop", "apps": [
        {"id": "/shop/web", "cmd": "x", "instances": 3, "tasksRunning": 3, "uris": [], "constraints": [["rack", "LIKE", "a"]],
         "container": {"type": "MESOS", "volumes": [{"containerPath": "d", "persistent": {"size": 1}, "mode": "RW"}, {"hostPath": "/srv", "containerPath": "/s", "mode": "RO"}]}}]}],
        "apps": [{"id": "/other", "cmd": "y"}]});
    let done = world
        .typed(&["import", "marathon", "-", "--dry-run", "--group", "/shop"], &apps.to_string(), false)
        .await;
    assert_eq!((done.code, done.out.as_str()), (0, "app /shop/web: new\n"), "{done:?}");
    for part in ["persistent volumes do not come over", "/srv", "rack LIKE a"] {
        assert!(done.err.contains(part), "{part}: {done:?}");
    }
    world.gateway.answer(
        &format!("PUT {ROOT}/apps/shop/web"),
        201,
        &json!({"deploymentId": "D1", "version": "v"}),
    );
    let done = world
        .typed(
            &["import", "marathon", "-", "--group", "shop", "--stopped", "--no-wait"],
            &apps.to_string(),
            false,
        )
        .await;
    assert_eq!(done.code, 0, "{done:?}");
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line.starts_with("PUT")).unwrap().json();
    assert_eq!((&sent["instances"], sent.get("uris"), sent.get("tasksRunning")), (&json!(0), None, None));
    let nothing =
        world.typed(&["import", "marathon", "-", "--group", "/nope"], &apps.to_string(), false).await;
    assert_eq!(nothing.code, 2, "{nothing:?}");
}
