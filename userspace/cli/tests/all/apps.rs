//! Apps: listing, changing, waiting, explaining.

use serde_json::{Value, json};

use crate::world::World;

const APPS: &str = "GET /service/marathon/v2/apps";

fn web(running: u64, busy: bool) -> Value {
    let deployments = if busy { json!([{"id": "D1"}]) } else { json!([]) };
    json!({"app": {"id": "/web", "instances": 2, "cpus": 0.1, "mem": 32, "cmd": "serve", "healthChecks": [{}], "tasksRunning": 2,
        "tasksHealthy": running, "deployments": deployments, "version": "2026-01-01T00:00:00.000Z", "tasks": [], "odd": 7}})
}

#[tokio::test]
async fn lists_have_four_forms() {
    let world = World::start().await;
    let mut second = web(2, false)["app"].take();
    second["id"] = json!("/other");
    let mut first = web(1, false)["app"].take();
    first["cmd"] = json!("serve \u{1b}[2J");
    world.gateway.answer(APPS, 200, &json!({"apps": [first, second]}));
    let table = world.run(&["app", "list"]).await;
    assert_eq!(table.code, 0, "{table:?}");
    let rows: Vec<Vec<&str>> = table.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["ID", "CONDITION", "RUNNING", "HEALTHY"]);
    assert_eq!(rows[1][..4], ["/other", "healthy", "2/2", "2/2"]);
    assert_eq!(rows[2][..4], ["/web", "waiting", "2/2", "1/2"]);
    assert_eq!(table.err, "");
    let wide = world.run(&["apps", "ls", "web", "-o", "wide"]).await;
    assert!(
        wide.out.contains("RUNS") && !wide.out.contains('\u{1b}') && !wide.out.contains("/other"),
        "{wide:?}"
    );
    let json = world.run(&["app", "list", "-o", "json"]).await.json();
    assert_eq!(
        (json[0]["id"].as_str(), json[0]["odd"].as_u64(), json.as_array().unwrap().len()),
        (Some("/web"), Some(7), 2)
    );
    let yaml = world.run(&["app", "list", "-o", "yaml"]).await;
    assert!(yaml.out.contains("id: /web") || yaml.out.contains("id: \"/web\""), "{yaml:?}");
    world.gateway.until(APPS, 4).await;
}

#[tokio::test]
async fn a_deployment_is_sent_and_waited_for() {
    let world = World::start().await;
    let put = "PUT /service/marathon/v2/apps/web";
    world.gateway.answer(put, 201, &json!({"deploymentId": "D1", "version": "v"}));
    for (running, busy) in [(0, true), (1, true), (2, false)] {
        world.gateway.answer("GET /service/marathon/v2/apps/web", 200, &web(running, busy));
    }
    let input = "id: web\ncmd: serve\ninstances: 2\nversion: old\n";
    let outcome = world.typed(&["app", "deploy", "-"], input, false).await;
    assert_eq!(
        (outcome.code, outcome.out.as_str(), outcome.err.as_str()),
        (0, "/web: 2 of 2 instances healthy\n", "")
    );
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line.starts_with(put)).unwrap();
    assert_eq!(sent.json(), json!({"id": "/web", "cmd": "serve", "instances": 2}));
    assert!(sent.line.ends_with("?partialUpdate=false&force=false"), "{}", sent.line);
    let quick = world.typed(&["app", "deploy", "-", "--no-wait", "--force"], input, false).await;
    assert_eq!(quick.out, "accepted; follow it with `plenum app show /web --watch`\n");
    assert!(world.gateway.lines().last().unwrap().ends_with("force=true"));
}

#[tokio::test]
async fn groups_and_lists_are_deployed_at_once() {
    let world = World::start().await;
    let change = json!({"deploymentId": "D1", "version": "v"});
    world.gateway.answer("PUT /service/marathon/v2/groups", 200, &change);
    world.gateway.answer("PUT /service/marathon/v2/apps", 200, &change);
    for id in ["shop/web", "shop/db"] {
        let app = json!({"app": {"id": format!("/{id}"), "instances": 1, "tasksRunning": 1}});
        world.gateway.answer(&format!("GET /service/marathon/v2/apps/{id}"), 200, &app);
    }
    let group = json!({"id": "/shop", "apps": [{"id": "web", "cmd": "x"}, {"id": "db", "cmd": "x"}]});
    let outcome = world.typed(&["app", "deploy", "-"], &group.to_string(), false).await;
    assert_eq!(
        outcome.out, "/shop/web: 1 of 1 instances running\n/shop/db: 1 of 1 instances running\n",
        "{outcome:?}"
    );
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line.starts_with("PUT")).unwrap();
    assert_eq!((sent.line.as_str(), sent.json()), ("PUT /service/marathon/v2/groups?force=false", group));
    let list = json!([{"id": "/shop/web", "cmd": "x"}, {"id": "shop/db", "cmd": "x"}]);
    let shape = world.typed(&["app", "deploy", "-", "-o", "json"], &list.to_string(), false).await.json();
    assert_eq!((&shape[0]["id"], &shape[1]["tasksRunning"]), (&json!("/shop/web"), &json!(1)));
}

#[tokio::test]
async fn progress_is_drawn_on_terminals_only() {
    let world = World::start().await;
    let at = "GET /service/marathon/v2/apps/web";
    world.gateway.answer(
        "PATCH /service/marathon/v2/apps/web",
        200,
        &json!({"deploymentId": "D1", "version": "v"}),
    );
    world.gateway.answer(at, 200, &web(1, true));
    world.gateway.answer(at, 200, &web(2, false));
    let outcome = world.typed(&["app", "scale", "/web/", "2"], "", true).await;
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "/web: 2 of 2 instances healthy\n"));
    assert_eq!(outcome.err, "\r/web: 1 of 2 instances healthy\u{1b}[K\r\u{1b}[K");
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line.starts_with("PATCH")).unwrap();
    assert_eq!(sent.json(), json!({"instances": 2}));
}

#[tokio::test]
async fn waiting_has_an_end_that_names_the_next_step() {
    let world = World::start().await;
    world.gateway.answer(
        "POST /service/marathon/v2/apps/web/restart",
        200,
        &json!({"deploymentId": "D1", "version": "v"}),
    );
    world.gateway.answer("GET /service/marathon/v2/apps/web", 200, &web(1, true));
    let outcome = world.run(&["app", "restart", "web", "--timeout", "0"]).await;
    assert_eq!(outcome.code, 1, "{outcome:?}");
    for part in ["1 of 2 instances healthy", "after 0 s", "plenum app why /web", "plenum app logs /web"] {
        assert!(outcome.err.contains(part), "{outcome:?}");
    }
}

#[tokio::test]
async fn removing_asks_a_person_and_waits_until_it_is_gone() {
    let world = World::start().await;
    let at = "GET /service/marathon/v2/apps/web";
    world.gateway.answer(at, 200, &web(2, false));
    let no = world.typed(&["app", "remove", "/web"], "n\n", true).await;
    assert_eq!(no.code, 1, "{no:?}");
    assert!(!world.gateway.lines().iter().any(|line| line.starts_with("DELETE")));
    world.gateway.answer(
        "DELETE /service/marathon/v2/apps/web",
        200,
        &json!({"deploymentId": "D2", "version": "v"}),
    );
    world.gateway.answer(at, 200, &web(2, true));
    world.gateway.answer(at, 404, &json!({"message": "App '/web' does not exist"}));
    let done = world.run(&["app", "rm", "/web"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "/web is removed\n"), "{done:?}");
    let other = "GET /service/marathon/v2/apps/other";
    world.gateway.answer(
        "DELETE /service/marathon/v2/apps/other",
        200,
        &json!({"deploymentId": "D3", "version": "v"}),
    );
    world.gateway.answer(other, 200, &json!({"app": {"id": "/other"}}));
    world.gateway.raw(other, 503, "");
    world.gateway.answer(other, 404, &json!({"message": "App '/other' does not exist"}));
    let shape = world.run(&["app", "rm", "other", "-o", "json"]).await.json();
    assert_eq!(shape, json!({"id": "/other", "deploymentId": "D3", "removed": true}));
}

#[tokio::test]
async fn why_shows_each_nodes_verdict() {
    let world = World::start().await;
    let body = json!({"app": "/big", "blocker": "1 instances wait for a suitable offer", "missing": 1, "delayLeftSeconds": 0, "deployments": [],
        "nodes": [{"agentId": "a1", "host": "n1", "fits": false, "at": "x",
                   "broken": [{"reason": "InsufficientCpus", "rule": "cpus", "needed": "100", "had": "4", "fix": "lower the app's cpus"}]}]});
    world.gateway.answer("GET /service/marathon/v2/apps/big/why", 200, &body);
    let text = world.run(&["app", "why", "big"]).await;
    assert_eq!(
        text.out,
        "/big: 1 instances wait for a suitable offer\n\n\
         NODE  VERDICT       RULE  NEEDED  HAD  NEAREST FIX\n\
         n1    does not fit  cpus  100     4    lower the app's cpus\n"
    );
    let json = world.run(&["app", "why", "big", "-o", "json"]).await.json();
    assert_eq!(json, body);
}

#[tokio::test]
async fn a_watched_view_goes_on() {
    let world = World::start().await;
    world.gateway.answer(
        "GET /mesos/slaves",
        200,
        &json!({"slaves": [{"id": "S1", "hostname": "n1", "active": true}]}),
    );
    tokio::select! {
        outcome = world.run(&["node", "list", "--watch"]) => panic!("it ended: {outcome:?}"),
        () = world.gateway.until("GET /mesos/slaves", 2) => {}
    }
}

#[tokio::test]
async fn instances_are_ended_and_apps_stopped_and_started() {
    let world = World::start().await;
    let mut app = web(2, false);
    let task =
        |id: &str| json!({"id": format!("web.instance-{id}._app.1"), "host": "n1", "state": "TASK_RUNNING"});
    app["app"]["tasks"] = json!([task("aa1"), task("bb2")]);
    world.gateway.answer("GET /service/marathon/v2/apps/web", 200, &app);
    let delete = "POST /service/marathon/v2/tasks/delete";
    world.gateway.answer(delete, 200, &json!({"tasks": []}));
    let sent = |world: &World, line: &str| {
        world.gateway.seen().into_iter().rfind(|seen| seen.line.starts_with(line)).unwrap()
    };
    let one = world.run(&["app", "kill", "web", "aa", "--scale"]).await;
    assert_eq!(one.out, "1 instances of /web are told to end; the app has 1 afterwards\n", "{one:?}");
    let seen = sent(&world, delete);
    assert!(seen.line.ends_with("?scale=true&wipe=false&force=false"), "{}", seen.line);
    assert_eq!(seen.json(), json!({"ids": ["web.instance-aa1._app.1"]}));
    // Ending all of them, or data, is asked for.
    let no = world.typed(&["app", "kill", "web", "bb", "--wipe"], "no\n", true).await;
    assert!(
        no.code == 1 && no.err.contains("destroy the data") && no.err.contains("nothing was ended"),
        "{no:?}"
    );
    let all = world.typed(&["app", "kill", "web"], "yes\n", true).await;
    assert_eq!((all.code, sent(&world, delete).json()["ids"].as_array().unwrap().len()), (0, 2), "{all:?}");

    let patch = "PATCH /service/marathon/v2/apps/web";
    world.gateway.answer(patch, 200, &json!({"deploymentId": "D1", "version": "v"}));
    assert_eq!(world.run(&["app", "stop", "web", "--no-wait"]).await.code, 0);
    assert_eq!(sent(&world, patch).json(), json!({"instances": 0}));

    // As many as before it was stopped.
    let world = World::start().await;
    world.gateway.answer(patch, 200, &json!({"deploymentId": "D1", "version": "v"}));
    let mut stopped = web(0, false);
    stopped["app"]["instances"] = json!(0);
    world.gateway.answer("GET /service/marathon/v2/apps/web", 200, &stopped);
    let versions = "GET /service/marathon/v2/apps/web/versions";
    world.gateway.answer(versions, 200, &json!({"versions": ["v1", "v3", "v2"]}));
    for (version, instances) in [("v1", 9), ("v2", 4), ("v3", 0)] {
        let mut app = web(0, false)["app"].take();
        app["instances"] = json!(instances);
        world.gateway.answer(&format!("{versions}/{version}"), 200, &app);
    }
    assert_eq!(world.run(&["app", "start", "web", "--no-wait"]).await.code, 0);
    assert_eq!(sent(&world, patch).json(), json!({"instances": 4}));
    assert_eq!(world.run(&["app", "start", "web", "7", "--no-wait"]).await.code, 0);
    assert_eq!(sent(&world, patch).json(), json!({"instances": 7}));
}

#[tokio::test]
async fn quotas_are_set_limit_by_limit() {
    let world = World::start().await;
    let role = json!({"name": "shop", "quota": {"limit": {"cpus": 4.0}, "consumed": {"cpus": 1.0}}});
    world.gateway.answer("GET /mesos/roles", 200, &json!({"roles": [role]}));
    let operate = "POST /mesos/api/v1";
    world.gateway.answer(operate, 200, &json!({}));
    let set = world.run(&["quota", "set", "shop", "--mem", "512"]).await;
    assert_eq!(set.out, "shop may have at most cpus 4, mem 512\n", "{set:?}");
    let seen = || world.gateway.seen().into_iter().rfind(|seen| seen.line == operate).unwrap().json();
    let limits = json!({"cpus": {"value": 4.0}, "mem": {"value": 512.0}});
    assert_eq!(
        seen(),
        json!({"type": "UPDATE_QUOTA", "update_quota": {"force": false, "quota_configs": [{"role": "shop", "limits": limits}]}})
    );
    assert_eq!(world.run(&["quota", "remove", "shop"]).await.out, "shop has no quota any more\n");
    assert_eq!(seen()["update_quota"]["quota_configs"], json!([{"role": "shop", "limits": {}}]));
    let none = world.run(&["quota", "remove", "other"]).await;
    assert!(none.code == 1 && none.err.contains("`plenum quota list`"), "{none:?}");
    assert_eq!(world.run(&["quota", "set", "shop"]).await.code, 2);
}
