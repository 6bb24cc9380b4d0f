//! Bodies that break rules, over HTTP: statuses, messages and paths, whatever their size or form; nothing is made, and nothing breaks.

use serde_json::{Value, json};

use super::world::World;

/// The paths and errors of a refusal.
fn details(answer: &Value) -> Vec<(&str, &str)> {
    let details = answer["details"].as_array().unwrap_or_else(|| panic!("{answer}"));
    details.iter().map(|d| (d["path"].as_str().unwrap(), d["errors"][0].as_str().unwrap())).collect()
}

#[tokio::test]
async fn bodies_that_are_no_json_of_ours() {
    let world = World::start().await;
    let deep = format!("{{\"id\":\"/a\",\"labels\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    for (method, path, body) in [
        ("POST", "/v2/apps", "{not json".to_owned()),
        ("POST", "/v2/apps", r#"{"id":"/a","cpus":NaN}"#.to_owned()),
        ("POST", "/v2/apps", r#"{"id":"/a","cpus":1e999}"#.to_owned()),
        ("POST", "/v2/apps", r#"{"id":"/a","cpus":-Infinity}"#.to_owned()),
        ("PUT", "/v2/apps/a", r#"{"cmd":"x""#.to_owned()),
        ("PUT", "/v2/apps", "[{]".to_owned()),
        ("POST", "/v2/apps", deep),
        ("POST", "/v2/apps", "\"\\ud800\"".to_owned()),
    ] {
        let (status, _, answer) = world.raw(method, path, body.clone().into_bytes()).await;
        assert_eq!((status, &answer["message"]), (400, &json!("Invalid JSON")), "{method} {path} {answer}");
        assert!(answer["details"].is_string(), "{answer}");
    }
    let (status, _, answer) = world.raw("POST", "/v2/apps", b"  ".to_vec()).await;
    assert_eq!((status, &answer["message"]), (400, &json!("Please specify data in JSON format")));
    for (method, path, body, want) in [
        ("POST", "/v2/apps", json!([]), [("/", "error.expected.jsobject")].as_slice()),
        ("PUT", "/v2/apps", json!({}), &[("/", "error.expected.jsarray")]),
        ("PUT", "/v2/apps", json!([7]), &[("(0)", "error.expected.jsobject")]),
        (
            "PUT",
            "/v2/apps",
            json!([{"id": "/a", "cmd": "x"}, {"id": "/b", "cpus": "x"}]),
            &[("(1)/cpus", "error.expected.jsnumber")],
        ),
        ("PUT", "/v2/apps", json!([{"cmd": "x"}]), &[("(0)/id", "error.path.missing")]),
        ("POST", "/v2/apps", json!({"cmd": "x"}), &[("/id", "error.path.missing")]),
        ("POST", "/v2/apps", json!({"id": 1}), &[("/id", "error.expected.jsstring")]),
        (
            "POST",
            "/v2/apps",
            json!({"cpus": "x", "mem": -1}),
            &[("/id", "error.path.missing"), ("/cpus", "error.expected.jsnumber"), ("/mem", "error.min")],
        ),
        (
            "PUT",
            "/v2/groups/g",
            json!({"groups": [{"id": "h", "apps": [{"id": "a", "cmd": "x"}, {"id": "b", "ports": [-1]}]}]}),
            &[("/groups(0)/apps(1)/ports(0)", "error.min")],
        ),
        ("POST", "/v2/apps", json!({"id": ""}), &[("/id", "error.minLength")]),
        ("POST", "/v2/apps", json!({"id": "/Web"}), &[("/id", "error.pattern")]),
        (
            "PUT",
            "/v2/apps/a",
            json!({"mem": -1, "disk": "x"}),
            &[("/disk", "error.expected.jsnumber"), ("/mem", "error.min")],
        ),
    ] {
        let (status, _, answer) = world.send(method, path, Some(&body)).await;
        assert_eq!(
            (status, &answer["message"]),
            (422, &json!("Invalid JSON")),
            "{method} {path} {body}: {answer}"
        );
        assert_eq!(details(&answer), want, "{method} {path} {body}");
    }
    assert_eq!(world.get("/v2/apps").await, json!({"apps": []}));
    world.stop().await;
}

#[tokio::test]
async fn objects_that_are_not_valid() {
    let world = World::start().await;
    let app = |id: &str, more: Value| {
        let mut app = json!({"id": id, "cmd": "run", "portDefinitions": []});
        app.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app
    };
    let made = |id: &str, more: Value| ("POST", "/v2/apps".to_owned(), app(id, more), 201, Vec::new());
    let both = "Groups and Applications may not have the same identifier.";
    let circle = "Dependency graph has cyclic dependencies.";
    for (method, path, body, want, flaws) in [
        made("/a", json!({"dependencies": ["/b", "/g"]})),
        made("/b", json!({})),
        made("/g/c", json!({})),
        (
            "PUT",
            "/v2/apps/b?force=true".to_owned(),
            json!({"dependencies": ["/b"]}),
            422,
            vec![("/", circle), ("/dependencies", "leads back to where it began: /b")],
        ),
        (
            "PUT",
            "/v2/apps/b?force=true".to_owned(),
            json!({"dependencies": ["/a"]}),
            422,
            vec![("/", circle), ("/dependencies", "leads back to where it began: /b, /a")],
        ),
        // By way of a group.
        (
            "PUT",
            "/v2/apps/g/c?force=true".to_owned(),
            json!({"dependencies": ["/a"]}),
            422,
            vec![("/", circle), ("/dependencies", "leads back to where it began: /g/c, /a")],
        ),
        ("POST", "/v2/apps".to_owned(), app("/a/x", json!({})), 422, vec![("/", both)]),
        ("POST", "/v2/apps".to_owned(), app("/g", json!({})), 422, vec![("/", both)]),
        (
            "PUT",
            "/v2/apps/Web".to_owned(),
            json!({"cmd": "x"}),
            422,
            vec![(
                "/id",
                "must fully match regular expression '^(([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])\\.)*([a-z0-9]|[a-z0-9][a-z0-9\\-]*[a-z0-9])|(\\.|\\.\\.)$'",
            )],
        ),
        (
            "PUT",
            "/v2/apps/a".to_owned(),
            json!({"version": "2020-01-01T00:00:00.000Z", "instances": 2}),
            422,
            vec![("/", "The 'version' field may only be combined with the 'id' field.")],
        ),
        // Which app is meant the path has said.
        ("PUT", "/v2/apps/a?force=true".to_owned(), json!({"id": "/other", "instances": 2}), 200, Vec::new()),
    ] {
        let (status, _, answer) = world.send(method, &path, Some(&body)).await;
        assert_eq!(status, want, "{method} {path} {body}: {answer}");
        if want == 422 {
            assert_eq!(
                (&answer["message"], details(&answer)),
                (&json!("Object is not valid"), flaws),
                "{method} {path}"
            );
        }
    }
    let (status, _, answer) = world.send("PATCH", "/v2/apps/none", Some(&json!({"cmd": "x"}))).await;
    assert_eq!((status, &answer["message"]), (404, &json!("App '/none' does not exist")));
    let (status, _, answer) =
        world.send("PATCH", "/v2/apps", Some(&json!([{"id": "/none", "cmd": "x"}]))).await;
    assert_eq!((status, &answer["message"]), (404, &json!("App '/none' does not exist")));
    assert_eq!(world.get("/v2/apps/a").await["app"]["instances"], 2);
    world.stop().await;
}

#[tokio::test]
async fn bodies_of_any_size() {
    let world = World::start().await;
    let text = |bytes: usize| "x".repeat(bytes);
    // 10 MB in one value, in many labels, in a field that nobody knows, in errors.
    let labels: serde_json::Map<String, Value> =
        (0..150_000).map(|n| (format!("label-{n}"), json!(text(50)))).collect();
    let wrong: Vec<Value> = (0..1_000_000).map(|_| json!("x")).collect();
    for (body, status, path) in [
        (json!({"id": "/a", "cmd": text(10_000_000)}), 422, "/"),
        (json!({"id": "/a", "cmd": "x", "labels": labels}), 422, "/"),
        (json!({"id": "/a", "cmd": "x", "ports": wrong}), 422, "/ports(0)"),
        (json!({"id": text(10_000_000), "cmd": "x"}), 422, "/id"),
    ] {
        let (got, _, answer) = world.send("POST", "/v2/apps", Some(&body)).await;
        assert_eq!((got, &answer["details"][0]["path"]), (status, &json!(path)));
        let details = answer["details"].as_array().unwrap().len();
        assert!(details <= 101, "{details} details");
    }
    let unknown = json!({"id": "/a", "cmd": "x", "unheard": text(10_000_000)});
    assert_eq!(world.send("POST", "/v2/apps", Some(&unknown)).await.0, 201);
    let (status, _, _) = world.raw("POST", "/v2/apps", vec![b' '; 17 * 1024 * 1024]).await;
    assert_eq!(status, 413);
    // Together they are more than a transaction takes.
    let apps: Vec<Value> = (0..60)
        .map(|n| json!({"id": format!("/many/{n}"), "cmd": "x", "env": {"A": text(100_000)}}))
        .collect();
    let (status, _, answer) = world.send("PUT", "/v2/apps", Some(&json!(apps))).await;
    assert_eq!(status, 200, "{answer}");
    let world = world.crash().await;
    let shown = world.get("/v2/apps/many/59").await;
    assert_eq!(shown["app"]["env"]["A"].as_str().map(str::len), Some(100_000));
    world.stop().await;
}

#[tokio::test]
async fn what_is_embedded_in_apps() {
    let world = World::start().await;
    assert_eq!(world.send("POST", "/v2/apps", Some(&json!({"id": "/a", "cmd": "x"}))).await.0, 201);
    let keys =
        ["tasks", "tasksRunning", "deployments", "lastTaskFailure", "readinessCheckResults", "taskStats"];
    // Counts and deployments always; a single app has its tasks as well.
    for (query, list, one) in [
        ("", [false, true, true, false, false, false], [true, true, true, false, false, false]),
        (
            "?embed=apps.tasks",
            [true, true, true, false, false, false],
            [true, true, true, false, false, false],
        ),
        (
            "?embed=app.readiness&embed=apps.taskStats",
            [false, true, true, false, true, true],
            [true, true, true, false, true, true],
        ),
        (
            "?embed=apps.nothing",
            [false, true, true, false, false, false],
            [true, true, true, false, false, false],
        ),
    ] {
        let listed = world.get(&format!("/v2/apps{query}")).await["apps"][0].clone();
        let shown = world.get(&format!("/v2/apps/a{query}")).await["app"].clone();
        assert_eq!(keys.map(|key| listed.get(key).is_some()), list, "{query}");
        assert_eq!(keys.map(|key| shown.get(key).is_some()), one, "{query}");
    }
    world.stop().await;
}

#[tokio::test]
async fn ports_that_are_left_open_stay_what_they_are() {
    let world = World::start().await;
    for id in ["/a", "/b"] {
        assert_eq!(
            world.send("POST", "/v2/apps", Some(&json!({"id": id, "cmd": "x", "instances": 0}))).await.0,
            201
        );
    }
    let port = |app: &Value| app["app"]["portDefinitions"][0]["port"].clone();
    let before = world.get("/v2/apps/b").await;
    assert_eq!(port(&before), 10_001);
    assert_eq!(world.send("DELETE", "/v2/apps/a", None).await.0, 200);
    world.until("/v2/apps", |list| list["apps"].as_array().is_some_and(|apps| apps.len() == 1)).await;
    let same = json!({"cmd": "x", "instances": 0});
    let two = json!({"cmd": "x", "portDefinitions": [{"name": "default"}, {"name": "more"}]});
    let mut first = true;
    for (path, body, ports) in [
        ("/v2/apps/b?partialUpdate=false&force=true", &same, json!([10_001])),
        ("/v2/apps/b?force=true", &two, json!([10_001, 10_000])),
        ("/v2/apps/b?partialUpdate=false&force=true", &same, json!([10_001])),
    ] {
        assert_eq!(world.send("PUT", path, Some(body)).await.0, 200);
        let shown = world.get("/v2/apps/b").await;
        let got: Vec<&Value> =
            shown["app"]["portDefinitions"].as_array().unwrap().iter().map(|p| &p["port"]).collect();
        assert_eq!(json!(got), ports, "{path}");
        // The same definition is no change.
        let changed = |app: &Value| app["app"]["versionInfo"]["lastConfigChangeAt"].clone();
        if first {
            assert_eq!(changed(&shown), changed(&before));
        }
        first = false;
    }
    world.stop().await;
}
