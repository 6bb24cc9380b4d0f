//! What goes wrong, and the exit codes.

use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn refusals_are_shown_with_their_details() {
    let world = World::start().await;
    let put = "PUT /service/marathon/v2/apps/web";
    let details = json!([{"path": "/cpus", "errors": ["must not be negative"]}]);
    world.gateway.answer(put, 422, &json!({"message": "Object is not valid", "details": details}));
    world.gateway.answer(put, 409, &json!({"message": "App is locked", "deployments": [{"id": "D7"}]}));
    let deploy = ["app", "deploy", "-"];
    let invalid = world.typed(&deploy, "{\"id\": \"/web\"}", false).await;
    assert_eq!(
        (invalid.code, invalid.err.as_str()),
        (1, "Object is not valid (422)\n  /cpus: must not be negative")
    );
    let locked = world.typed(&deploy, "{\"id\": \"/web\"}", false).await;
    assert_eq!(locked.code, 1);
    assert!(
        locked.err.starts_with("App is locked (409)\n  deployment D7\nnext: ")
            && locked.err.contains("--force"),
        "{locked:?}"
    );
    let missing = world.run(&["app", "show", "/none"]).await;
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("(404)"), "{missing:?}");
}

#[tokio::test]
async fn an_ended_login_says_so() {
    let world = World::start().await;
    world.remember(Some("old"));
    let outcome = world.run(&["task", "list"]).await;
    assert_eq!(outcome.code, 4);
    assert!(
        outcome.err.contains("has ended; run `plenum login`") && !outcome.err.contains("old"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn nobody_there_is_told_apart() {
    let world = World::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let outcome = world.run(&["app", "list", "--url", &format!("http://127.0.0.1:{port}")]).await;
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.err.contains("cannot be reached") && outcome.err.contains("plenum up"), "{outcome:?}");
    let unknown = world.run(&["app", "list", "--instance", "none"]).await;
    assert_eq!(unknown.code, 4, "{unknown:?}");
}

#[tokio::test]
async fn strange_answers_are_errors_in_words() {
    let world = World::start().await;
    let at = "GET /mesos/slaves";
    for body in [
        "",
        "<html>hello</html>",
        "[]",
        "{\"slaves\": 3}",
        "{\"slaves\": [{}]}",
        "{\"slaves\": [{\"id\": \"S\", \"active\": \"yes\"}]}",
    ] {
        world.gateway.raw(at, 200, body);
    }
    for _ in 0..6 {
        let outcome = world.run(&["node", "list"]).await;
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.err.contains("is not understood"), "{outcome:?}");
    }
    world.gateway.raw("GET /mesos/state", 302, "");
    let elsewhere = world.run(&["task", "list"]).await;
    assert!(elsewhere.code == 1 && elsewhere.err.contains("points elsewhere"), "{elsewhere:?}");
    world.gateway.raw("GET /service/marathon/v2/apps", 503, "<h1>later\u{1b}[31m</h1>");
    let later = world.run(&["app", "list"]).await;
    assert!(
        later.code == 1 && later.err.contains("later\u{fffd}[31m (503)\nnext: the component behind"),
        "{later:?}"
    );
    let nested = format!("{{\"apps\": {}", "[".repeat(100_000));
    world.gateway.raw("GET /service/marathon/v2/apps/deep", 200, &nested);
    let deep = world.run(&["app", "show", "deep"]).await;
    assert!(deep.code == 1 && deep.err.contains("is not understood"), "{deep:?}");
}

#[tokio::test]
async fn words_that_make_no_sense_end_with_two() {
    let world = World::start().await;
    for words in [
        vec!["app"],
        vec!["app", "scale", "/web", "-3"],
        vec!["app", "scale", "/web", "many"],
        vec!["app", "list", "-o", "xml"],
        vec!["app", "show", "/"],
        vec!["app", "deploy", "/no/such/file"],
        vec!["node", "list", "--instance", "Not_A_Name"],
        vec!["package", "install", "hello", "--set", "nonsense"],
        vec!["package", "uninstall", "hello", "--all", "--app-id", "/x"],
        vec!["app", "list", "--url", "ftp://x"],
    ] {
        let outcome = world.run(&words).await;
        assert_eq!(outcome.code, 2, "{words:?}: {outcome:?}");
    }
    let script = world.run(&["completion", "bash"]).await;
    assert!(script.code == 0 && script.out.contains("_plenum"), "{script:?}");
}
