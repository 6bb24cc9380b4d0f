//! `/v2/groups` over HTTP: what Marathon answers, and what is there afterwards.

use serde_json::{Value, json};

use super::world::World;

fn app(id: &str) -> Value {
    json!({"id": id, "cmd": "run", "instances": 0, "portDefinitions": []})
}

/// The paths and errors of a refusal.
fn details(answer: &Value) -> Vec<(&str, &str)> {
    let details = answer["details"].as_array().unwrap_or_else(|| panic!("{answer}"));
    details.iter().map(|d| (d["path"].as_str().unwrap(), d["errors"][0].as_str().unwrap())).collect()
}

#[tokio::test]
async fn groups_are_made_shown_and_removed_as_marathon_does() {
    let world = World::start().await;
    let tree = json!({"id": "shop", "apps": [app("web")], "groups": [{"id": "back", "apps": [app("db")]}]});
    let (status, headers, made) = world.send("POST", "/v2/groups", Some(&tree)).await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (201, "/v2/groups/shop"), "{made}");
    assert_eq!(headers["marathon-deployment-id"].to_str().unwrap(), made["deploymentId"].as_str().unwrap());
    for (method, path, body, status, want) in [
        (
            "POST",
            "/v2/groups",
            Some(json!({"id": "/shop"})),
            409,
            ("/message", json!("Group /shop is already created. Use PUT to change this group.")),
        ),
        (
            "POST",
            "/v2/groups",
            Some(json!({})),
            409,
            ("/message", json!("Group / is already created. Use PUT to change this group.")),
        ),
        (
            "POST",
            "/v2/groups",
            Some(json!({"id": "/shop/web"})),
            409,
            ("/message", json!("An app with the path /shop/web already exists.")),
        ),
        ("POST", "/v2/groups/parent", Some(json!({"id": "child"})), 201, ("", json!(null))),
        ("GET", "/v2/groups/parent", None, 200, ("/groups/0/id", json!("/parent/child"))),
        ("GET", "/v2/groups/none", None, 404, ("/message", json!("Group '/none' does not exist"))),
        ("GET", "/v2/groups/none/versions", None, 404, ("/message", json!("Group '/none' does not exist"))),
        (
            "GET",
            "/v2/groups/shop/versions/2020-01-01T00:00:00.000Z",
            None,
            404,
            ("/message", json!("Group '/shop' does not exist")),
        ),
        ("DELETE", "/v2/groups/none", None, 404, ("/message", json!("Group '/none' does not exist"))),
        (
            "PATCH",
            "/v2/groups/none",
            Some(json!({"enforceRole": true})),
            404,
            ("/message", json!("Group '/none' does not exist")),
        ),
        ("GET", "/v2/apps/none/*", None, 404, ("/message", json!("Group '/none' does not exist"))),
        (
            "PATCH",
            "/v2/groups/shop/back",
            Some(json!({"enforceRole": true})),
            422,
            ("/details/0/errors/0", json!("Path needs to be top-level")),
        ),
        (
            "PUT",
            "/v2/groups/shop",
            Some(json!({"version": "2020-01-01T00:00:00.000Z"})),
            422,
            ("/message", json!("Group /shop not available in version 2020-01-01T00:00:00.000Z")),
        ),
        (
            "PUT",
            "/v2/groups/shop",
            Some(json!({"scaleBy": 2, "apps": []})),
            422,
            ("/details/0/path", json!("/scaleBy")),
        ),
        (
            "PUT",
            "/v2/groups/none",
            Some(json!({"scaleBy": 2})),
            404,
            ("/message", json!("Group '/none' does not exist")),
        ),
        ("PUT", "/v2/groups/Shop", Some(json!({})), 422, ("/details/0/path", json!("/"))),
        (
            "PUT",
            "/v2/groups/shop",
            Some(json!([])),
            422,
            ("/details/0/errors/0", json!("error.expected.jsobject")),
        ),
        ("GET", "/v2/groups/shop/apps", None, 200, ("/apps/0/id", json!("/shop/back/db"))),
        ("GET", "/v2/groups/shop/tasks", None, 200, ("/tasks", json!([]))),
        ("GET", "/v2/apps/shop/*", None, 200, ("/*/1/id", json!("/shop/web"))),
        ("DELETE", "/v2/groups/shop/back?force=true", None, 200, ("", json!(null))),
        ("GET", "/v2/groups/shop/back", None, 404, ("/message", json!("Group '/shop/back' does not exist"))),
        ("DELETE", "/v2/groups?force=true", None, 200, ("", json!(null))),
        ("GET", "/v2/groups", None, 200, ("/groups", json!([]))),
        ("GET", "/v2/apps", None, 200, ("/apps", json!([]))),
    ] {
        let (got, _, answer) = world.send(method, path, body.as_ref()).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        if want.1 != json!(null) {
            assert_eq!(answer.pointer(want.0), Some(&want.1), "{method} {path}: {answer}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn what_a_tree_may_not_say() {
    let world = World::start().await;
    assert_eq!(
        world.send("POST", "/v2/groups", Some(&json!({"id": "/dev", "apps": [app("old")]}))).await.0,
        201
    );
    let separate = "enforceRole cannot be modified in a request that adds, removes or modifies services; please make these changes in separate requests.";
    let both = "Groups and Applications may not have the same identifier.";
    for (path, body, flaws) in [
        ("/dev", json!({"enforceRole": true, "apps": [app("new")]}), [("/enforceRole", separate)].as_slice()),
        (
            "",
            json!({"groups": [{"id": "other", "apps": [app("a")]}, {"id": "/dev", "enforceRole": true}]}),
            &[("/groups(1)/enforceRole", separate)],
        ),
        (
            "/foo",
            json!({"id": "sub", "apps": [app("lol/bibi")]}),
            &[("/apps(0)/id", "Identifier is not child of '/foo/sub'")],
        ),
        ("/dev", json!({"apps": [app("a"), app("/dev/a")]}), &[("/apps(1)/id", "'/dev/a' is named twice")]),
        ("/dev", json!({"groups": [{"id": "a"}, {"id": "a"}]}), &[("/groups(1)", "'/dev/a' is named twice")]),
        (
            "/dev",
            json!({"apps": [app("a")], "groups": [{"id": "a"}]}),
            &[("/groups(0)", "'/dev/a' is named twice")],
        ),
        ("/dev", json!({"groups": [{"id": "old"}]}), &[("/", both)]),
        ("/dev/old", json!({"apps": [app("x")]}), &[("/", both)]),
        (
            "/dev",
            json!({"groups": [{"id": "g", "apps": [{"id": "x"}]}]}),
            &[(
                "/groups(0)/apps(0)",
                "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.",
            )],
        ),
        (
            "/dev",
            json!({"groups": [{"id": "g", "apps": [app("x"), {"id": "y", "cmd": "z", "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0}, "role": "-x"}]}]}),
            &[("/groups(0)/apps(1)/role", "A role name must not start with a '-'.")],
        ),
        (
            "/prod",
            json!({"enforceRole": true, "groups": [{"id": "g", "apps": [{"id": "x", "cmd": "z", "role": "else"}]}]}),
            &[("/groups(0)/apps(0)/role", "got else, expected one of: [prod]")],
        ),
    ] {
        let (status, _, answer) = world.send("PUT", &format!("/v2/groups{path}"), Some(&body)).await;
        assert_eq!((status, details(&answer)), (422, flaws.to_vec()), "{path} {body}");
    }
    let apps = world.get("/v2/groups").await;
    assert_eq!(
        (&apps["groups"][0]["apps"][0]["id"], apps["groups"].as_array().unwrap().len()),
        (&json!("/dev/old"), 1)
    );
    world.stop().await;
}

#[tokio::test]
async fn groups_give_their_role_and_keep_others_out() {
    let world = World::start().await;
    let group =
        json!({"id": "/prod", "enforceRole": true, "groups": [{"id": "sleep", "apps": [app("night")]}]});
    assert_eq!(world.send("POST", "/v2/groups", Some(&group)).await.0, 201);
    for (path, body, status, role) in [
        ("/v2/apps/prod/sleep/night", json!({}), 200, "prod"),
        ("/v2/apps/prod/day", json!({"cmd": "x", "instances": 0}), 201, "prod"),
        ("/v2/apps/prod/day?force=true", json!({"role": "else"}), 422, "prod"),
        ("/v2/apps/else/day", json!({"cmd": "x", "instances": 0}), 201, "*"),
    ] {
        let (got, _, answer) = world.send("PUT", path, Some(&body)).await;
        assert_eq!(got, status, "{path} {body} {answer}");
        if status == 422 {
            assert_eq!(details(&answer), [("/role", "got else, expected one of: [prod]")]);
        }
        let shown = world.get(path.split('?').next().unwrap()).await;
        assert_eq!(shown["app"]["role"], role, "{path}");
    }
    let pod = json!({"id": "/prod/pod", "scaling": {"kind": "fixed", "instances": 0}, "containers": [{"name": "c", "exec": {"command": {"shell": "x"}}, "resources": {"cpus": 0.1, "mem": 1}}]});
    let (status, _, made) = world.send("POST", "/v2/pods", Some(&pod)).await;
    assert_eq!((status, &made["role"]), (201, &json!("prod")), "{made}");
    // Settings change alone; what an app has it may keep.
    assert_eq!(world.send("PATCH", "/v2/groups/else", Some(&json!({"enforceRole": true}))).await.0, 200);
    assert_eq!(world.get("/v2/groups/else").await["enforceRole"], true);
    let (status, _, answer) =
        world.send("PUT", "/v2/apps/else/day?force=true", Some(&json!({"role": "*", "cmd": "y"}))).await;
    assert_eq!(status, 200, "{answer}");
    let (_, _, answer) =
        world.send("PUT", "/v2/apps/else/day?force=true", Some(&json!({"role": "no"}))).await;
    assert_eq!(details(&answer), [("/role", "got no, expected one of: [else, *]")]);
    let world = world.crash().await;
    assert_eq!(world.get("/v2/groups/else").await["enforceRole"], true);
    world.stop().await;
}

#[tokio::test]
async fn what_is_embedded_in_groups() {
    let world = World::start().await;
    let tree = json!({"id": "/g", "apps": [app("a")], "groups": [{"id": "h"}]});
    assert_eq!(world.send("POST", "/v2/groups", Some(&tree)).await.0, 201);
    for (query, apps, groups, counts) in [
        ("", 1, 1, false),
        ("?embed=group.apps", 1, 0, false),
        ("?embed=group.groups", 0, 1, false),
        ("?embed=group.groups&embed=group.apps&embed=group.apps.counts", 1, 1, true),
        ("?embed=group.apps.counts", 0, 0, false),
        ("?embed=nothing", 0, 0, false),
    ] {
        let shown = world.get(&format!("/v2/groups/g{query}")).await;
        let count = |key: &str| shown[key].as_array().unwrap().len();
        assert_eq!((count("apps"), count("groups"), count("pods")), (apps, groups, 0), "{query}");
        assert_eq!(shown["apps"][0].get("tasksRunning").is_some(), counts, "{query}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_group_of_ten_thousand_apps_is_one_request() {
    let world = World::start().await;
    let groups: Vec<Value> = (0..100)
        .map(|g| json!({"id": format!("g{g}"), "apps": (0..100).map(|n| app(&format!("a{n}"))).collect::<Vec<_>>()}))
        .collect();
    let tree = json!({"groups": groups, "dependencies": ["/base"]});
    let (status, _, answer) = world.send("PUT", "/v2/groups/all", Some(&tree)).await;
    assert_eq!(status, 200, "{answer}");
    let world = world.crash().await;
    let count = |list: &Value| list["apps"].as_array().unwrap().len();
    assert_eq!(count(&world.get("/v2/apps").await), 10_000);
    world.until("/v2/deployments", |list| *list == json!([])).await;
    // Said again it changes nothing; a tree without them removes them.
    let version = world.get("/v2/groups/all?embed=x").await["version"].clone();
    assert_eq!(world.send("PUT", "/v2/groups/all", Some(&tree)).await.0, 200);
    assert_eq!(world.get("/v2/groups/all?embed=x").await["version"], version);
    assert_eq!(world.send("PUT", "/v2/groups/all?force=true", Some(&json!({"groups": []}))).await.0, 200);
    assert_eq!(count(&world.get("/v2/apps").await), 0);
    world.stop().await;
}
