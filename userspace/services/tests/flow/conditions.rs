//! Conditional requests, requests that only ask what would happen, and requests that are in each other's way.

use http::HeaderMap;
use serde_json::{Value, json};

use super::world::World;

fn tag(headers: &HeaderMap) -> String {
    headers["etag"].to_str().unwrap().to_owned()
}

fn idle(id: &str) -> Value {
    json!({"id": id, "cmd": "run", "instances": 0, "portDefinitions": []})
}

fn pod(id: &str, cmd: &str) -> Value {
    json!({"id": id, "scaling": {"kind": "fixed", "instances": 0},
        "containers": [{"name": "c", "exec": {"command": {"shell": cmd}}, "resources": {"cpus": 0.1, "mem": 1}}]})
}

#[tokio::test]
async fn what_was_changed_meanwhile_is_not_overwritten() {
    let world = World::start().await;
    assert_eq!(world.send("POST", "/v2/apps", Some(&idle("/g/app"))).await.0, 201);
    assert_eq!(world.send("POST", "/v2/pods", Some(&pod("/g/pod", "x"))).await.0, 201);
    let changes = [
        ("/v2/apps/g/app", json!({"cmd": "other"}), json!({"cmd": "third"})),
        ("/v2/pods/g/pod", pod("/g/pod", "other"), pod("/g/pod", "third")),
        ("/v2/groups/g", json!({"apps": [idle("app")]}), json!({"apps": []})),
    ];
    for (path, first, second) in changes {
        let (status, headers, _) = world.send("GET", path, None).await;
        let seen = tag(&headers);
        assert_eq!((status, headers.contains_key("etag")), (200, true), "{path}");
        let known = [("if-none-match", seen.as_str())];
        let (status, headers, body) = world.with(&known, "GET", path, None).await;
        assert_eq!((status, tag(&headers), body), (304, seen.clone(), Value::Null), "{path}");
        let (status, _, answer) = world.with(&[("if-none-match", "*")], "PUT", path, Some(&first)).await;
        assert_eq!(status, 412, "{path} is there already: {answer}");
        let condition = [("if-match", seen.as_str())];
        assert_eq!(world.with(&condition, "PUT", path, Some(&first)).await.0, 200, "{path}");
        let (status, _, answer) = world.with(&condition, "PUT", path, Some(&second)).await;
        assert!(
            status == 412 && answer["message"].as_str().unwrap().contains("was changed meanwhile"),
            "{answer}"
        );
        assert_eq!(world.with(&condition, "DELETE", path, None).await.0, 412, "{path}");
        let (status, headers, _) = world.with(&known, "GET", path, None).await;
        assert_eq!(status, 200, "{path} is another one now");
        let now = tag(&headers);
        assert_eq!(world.with(&[("if-match", &now)], "PUT", path, Some(&second)).await.0, 200, "{path}");
    }
    // Of the group that is named by the body.
    let named = json!({"id": "/new"});
    assert_eq!(world.with(&[("if-match", "*")], "PUT", "/v2/groups", Some(&named)).await.0, 412);
    assert_eq!(world.with(&[("if-none-match", "*")], "PUT", "/v2/groups", Some(&named)).await.0, 200);
    assert_eq!(
        world.with(&[("if-match", "*")], "PUT", "/v2/apps/none", Some(&json!({"cmd": "x"}))).await.0,
        412
    );
    world.stop().await;
}

#[tokio::test]
async fn of_requests_at_once_one_wins() {
    let world = World::start().await;
    let app = |cmd: &str| json!({"id": "app", "cmd": cmd, "cpus": 0.1, "mem": 1});
    assert_eq!(world.send("POST", "/v2/groups", Some(&json!({"id": "/g", "apps": [app("0")]}))).await.0, 201);
    world.master.offer(4.0, 1000.0);
    let task = world.master.launched(1).await.remove(0);
    world.master.update(&task, "TASK_RUNNING", None);
    world.until("/v2/deployments", |list| *list == json!([])).await;
    let (seen, bodies) = (tag(&world.send("GET", "/v2/groups/g", None).await.1), ["1", "2"]);
    let trees = bodies.map(|cmd| json!({"apps": [app(cmd)]}));
    let [one, two] = &trees;
    // The lock of the winner's deployment is what the other one hears of.
    let both = tokio::join!(
        world.send("PUT", "/v2/groups/g", Some(one)),
        world.send("PUT", "/v2/groups/g", Some(two))
    );
    let mut answers = [both.0, both.1];
    answers.sort_by_key(|answer| answer.0);
    let [won, lost] = &answers;
    assert_eq!((won.0, lost.0), (200, 409), "{won:?} {lost:?}");
    assert_eq!(lost.2["deployments"][0]["id"], won.2["deploymentId"]);
    // With what they saw before, neither of two more is carried out, forced or not.
    for query in ["", "?force=true"] {
        let path = format!("/v2/groups/g{query}");
        assert_eq!(world.with(&[("if-match", &seen)], "PUT", &path, Some(one)).await.0, 412, "{query}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let world = World::start().await;
    let tree = json!({"id": "/test", "apps": [{"id": "app", "cmd": "run", "cpus": 1, "mem": 10}]});
    let (status, headers, plan) = world.send("PUT", "/v2/groups/test?dryRun=true", Some(&tree)).await;
    assert_eq!(status, 200, "{plan}");
    assert!(!headers.contains_key("marathon-deployment-id"));
    let steps = json!([
        {"actions": [{"action": "StartApplication", "app": "/test/app"}]},
        {"actions": [{"action": "ScaleApplication", "app": "/test/app"}]},
    ]);
    assert_eq!(plan["steps"], steps);
    assert_eq!(plan["plan"]["waits"][0]["blockers"][0]["kind"], "noOffer");
    assert_eq!(world.get("/v2/apps").await, json!({"apps": []}));
    // It asked for offers, and what comes counts.
    let app = json!({"id": "/a", "cmd": "run", "cpus": 1, "mem": 10});
    let asking = world.send("POST", "/v2/apps?dryRun=true", Some(&app));
    let offering = async {
        world.master.revived(2).await;
        world.master.offer(4.0, 1000.0);
    };
    let ((status, _, plan), ()) = tokio::join!(asking, offering);
    assert_eq!((status, plan["plan"]["nodes"]["count"].as_u64()), (200, Some(1)), "{plan}");
    assert_eq!(plan["plan"]["steps"][0]["start"][0]["id"], "/a", "{plan}");
    for (method, path, body, status) in [
        ("PUT", "/v2/apps/b?dryRun=true", Some(json!({"cmd": "x"})), 200),
        ("POST", "/v2/apps?dryRun=true", Some(json!({"id": "/b"})), 422),
        ("DELETE", "/v2/apps/b?dryRun=true", None, 404),
        ("POST", "/v2/pods?dryRun=true", Some(pod("/p", "x")), 200),
        ("POST", "/v2/groups?dryRun=maybe", Some(json!({"id": "/q"})), 400),
        ("DELETE", "/v2/groups?dryRun=true", None, 200),
    ] {
        let (got, _, answer) = world.send(method, path, body.as_ref()).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
    }
    assert_eq!(world.get("/v2/groups").await["groups"], json!([]));
    assert_eq!((world.get("/v2/apps").await, world.get("/v2/pods").await), (json!({"apps": []}), json!([])));
    world.stop().await;
}
