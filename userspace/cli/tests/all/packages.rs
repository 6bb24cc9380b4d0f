//! Packages, with the media types that the catalog insists on.

use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn packages_are_found_described_and_listed() {
    let world = World::start().await;
    world.gateway.answer("POST /package/search", 200, &json!({"packages": [{"name": "hello", "currentVersion": "1.0.0", "versions": {"1.0.0": 0}, "description": "A web service"}]}));
    world.gateway.answer(
        "POST /package/describe",
        200,
        &json!({"package": {"name": "hello", "version": "1.0.0", "description": "A web service"}}),
    );
    world.gateway.answer("POST /package/list", 200, &json!({"packages": []}));
    let found = world.run(&["package", "search", "hel*"]).await;
    assert_eq!(found.out, "NAME   VERSION  DESCRIPTION\nhello  1.0.0    A web service\n", "{found:?}");
    let sent = world.gateway.seen().pop().unwrap();
    assert_eq!(sent.json(), json!({"query": "hel*"}));
    assert_eq!(
        sent.headers["content-type"],
        "application/vnd.dcos.package.search-request+json;charset=utf-8;version=v1"
    );
    assert_eq!(
        sent.headers["accept"],
        "application/vnd.dcos.package.search-response+json;charset=utf-8;version=v1"
    );
    let described = world.run(&["package", "describe", "hello", "--version", "1.0.0"]).await;
    assert_eq!(described.out, "hello 1.0.0\nA web service\n");
    let sent = world.gateway.seen().pop().unwrap();
    assert_eq!(sent.json(), json!({"packageName": "hello", "packageVersion": "1.0.0"}));
    assert!(sent.headers["accept"].ends_with("package.describe-response+json;charset=utf-8;version=v3"));
    let list = world.run(&["package", "list"]).await;
    assert_eq!(list.out, "no packages are installed; `plenum package search` shows what there is\n");
    assert_eq!(world.run(&["package", "list", "-o", "json"]).await.json(), json!([]));
}

#[tokio::test]
async fn an_installation_is_waited_for_and_its_notes_are_shown() {
    let world = World::start().await;
    let answer = json!({"packageName": "hello", "packageVersion": "1.0.0", "appId": "/hello", "postInstallNotes": "Ask it.\u{1b}"});
    world.gateway.answer("POST /package/install", 200, &answer);
    let at = "GET /service/marathon/v2/apps/hello";
    world.gateway.answer(
        at,
        200,
        &json!({"app": {"id": "/hello", "instances": 1, "tasksRunning": 0, "deployments": [{"id": "D"}]}}),
    );
    world.gateway.answer(at, 200, &json!({"app": {"id": "/hello", "instances": 1, "tasksRunning": 1}}));
    let file = world.dir.path().join("options.yaml");
    std::fs::write(&file, "hello:\n  cpus: 0.2\n").unwrap();
    let words =
        ["package", "install", "hello", "--options", file.to_str().unwrap(), "--set", "hello.instances=1"];
    let done = world.run(&words).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(
        done.out,
        "installed hello 1.0.0 as /hello\n/hello: 1 of 1 instances running\n\nAsk it.\u{fffd}\n"
    );
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line == "POST /package/install").unwrap();
    assert_eq!(
        sent.json(),
        json!({"packageName": "hello", "options": {"hello": {"cpus": 0.2, "instances": 1}}})
    );
    assert!(sent.headers["accept"].ends_with("version=v2"));
    let shape = world.run(&["package", "install", "hello", "-o", "json", "--no-wait"]).await.json();
    assert_eq!(shape["appId"], "/hello");
}

#[tokio::test]
async fn refusals_of_the_catalog_are_told() {
    let world = World::start().await;
    let errors = json!([{"instance": "/hello/cpus", "message": "is no number"}]);
    let install = "POST /package/install";
    world.gateway.answer(
        install,
        400,
        &json!({"type": "JsonSchemaMismatch", "message": "Options do not fit", "data": {"errors": errors}}),
    );
    world.gateway.answer(
        install,
        409,
        &json!({"type": "PackageAlreadyInstalled", "message": "Package is already installed"}),
    );
    let wrong = world.run(&["package", "install", "hello"]).await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("Options do not fit (400)\n  /hello/cpus: is no number\nnext: "), "{wrong:?}");
    let twice = world.run(&["package", "install", "hello"]).await;
    assert!(twice.code == 1 && twice.err.contains("--app-id"), "{twice:?}");
}

#[tokio::test]
async fn uninstalling_waits_and_repositories_change() {
    let world = World::start().await;
    let results = json!({"results": [{"packageName": "hello", "appId": "/hello", "packageVersion": "1.0.0", "postUninstallNotes": "Bye."}]});
    world.gateway.answer("POST /package/uninstall", 200, &results);
    let done = world.run(&["package", "uninstall", "hello", "--all"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "uninstalled hello (/hello)\nBye.\n"), "{done:?}");
    let sent = world.gateway.seen().into_iter().find(|seen| seen.line == "POST /package/uninstall").unwrap();
    assert_eq!(sent.json(), json!({"packageName": "hello", "all": true}));
    let repositories = json!({"repositories": [{"name": "mine", "uri": "https://x/repo"}]});
    for (path, words, body) in [
        ("list", vec!["list"], json!({})),
        (
            "add",
            vec!["add", "mine", "https://x/repo", "--index", "0"],
            json!({"name": "mine", "uri": "https://x/repo", "index": 0}),
        ),
        ("delete", vec!["remove", "mine"], json!({"name": "mine"})),
    ] {
        world.gateway.answer(&format!("POST /package/repository/{path}"), 200, &repositories);
        let outcome = world.run(&[vec!["package", "repo"], words].concat()).await;
        assert_eq!(outcome.out, "NAME  ADDRESS\nmine  https://x/repo\n", "{outcome:?}");
        let sent = world.gateway.seen().pop().unwrap();
        assert_eq!(sent.json(), body);
        let wanted =
            format!("application/vnd.dcos.package.repository.{path}-request+json;charset=utf-8;version=v1");
        assert_eq!(sent.headers["content-type"], wanted);
    }
}
