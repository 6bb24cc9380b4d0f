//! Who may enter, what is passed on of them, and what is served from here.

use http::Method;
use plenum_base::client::Client;
use serde_json::Value;

use crate::fixture::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_enters_without_credentials() {
    let world = World::new().await;
    let paths = [
        "/mesos/state",
        "/service/marathon/v2/apps",
        "/metadata",
        "/pkgpanda/active.buildinfo.full.json",
        "/acs/api/v1/users",
        "/package/search",
        "/agent/S1/state",
        "/service/x/",
        "/net/v1/vips",
        "/system/health/v1",
        "/nothing",
    ];
    for path in paths {
        for headers in [
            &[][..],
            &[("authorization", "token=wrong")],
            &[("cookie", "dcos-acs-auth-cookie=wrong")],
            &[("authorization", "Basic bm86bm8=")],
            &[("authorization", "gibberish")],
        ] {
            let (status, headers, body) = world.ask(Method::GET, path, headers).await;
            assert_eq!(status, 401, "{path}");
            assert_eq!(headers["www-authenticate"], "oauthjwt");
            assert!(
                headers["content-type"].to_str().unwrap().starts_with("text/html")
                    && body.contains("/login?then=")
            );
        }
    }
    let (status, headers, body) = world.ask(Method::HEAD, "/pkgpanda/active.buildinfo.full.json", &[]).await;
    assert_eq!((status, headers["www-authenticate"].as_bytes(), body.as_str()), (401, &b"oauthjwt"[..], ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_credentials_opens() {
    let world = World::new().await;
    let token = &world.token;
    let cases = [
        ("authorization", format!("token={token}")),
        ("authorization", format!("Bearer {token}")),
        ("authorization", "Basic c3Bhcms6czNjcmV0".to_owned()),
        ("cookie", format!("a=1; dcos-acs-auth-cookie={token}; dcos-acs-info-cookie=x; b=2")),
    ];
    for (name, value) in &cases {
        let (status, _, body) = world.ask(Method::GET, "/mesos/state", &[(name, value)]).await;
        assert_eq!(status, 200, "{name}: {body}");
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&told["role"], &told["peer"]), (&"master".into(), &"gateway".into()));
        let headers = &told["headers"];
        let expected = if *name == "cookie" { format!("token={token}") } else { value.clone() };
        assert_eq!(headers["authorization"][0], expected);
        assert_eq!(
            headers.get("cookie").map(|c| &c[0]),
            (*name == "cookie").then(|| Value::from("a=1; b=2")).as_ref()
        );
        assert_eq!(headers["x-real-ip"][0], "127.0.0.1");
        assert_eq!(
            (&headers["x-forwarded-proto"][0], &headers["host"][0]),
            (&"http".into(), &world.http.to_string().into())
        );
    }
    // A page of another site must not use a visitor's cookie.
    let cookie = format!("dcos-acs-auth-cookie={token}");
    let own = format!("http://{}", world.http);
    for (origin, status) in [("https://evil.example", 401), (own.as_str(), 200)] {
        let asked =
            world.ask(Method::POST, "/mesos/api/v1", &[("cookie", &cookie), ("origin", origin)]).await;
        assert_eq!(asked.0, status, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_addresses_need_nothing_and_show_no_certificate() {
    let world = World::new().await;
    for (path, reached) in [
        ("/acs/api/v1/auth/login", "/acs/api/v1/auth/login"),
        ("/dcos-metadata/ui-config.json", "/acs/api/v1/uiconfig"),
    ] {
        // An old token beside a login hinders nobody, and proves nothing either.
        let (status, _, body) = world.ask(Method::POST, path, &[("authorization", "token=old")]).await;
        assert_eq!(status, 200);
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&told["role"], &told["uri"], &told["peer"]),
            (&"identity".into(), &reached.into(), &Value::Null)
        );
        assert!(told["headers"].get("authorization").is_none());
    }
    for (path, part) in [
        ("/", "Plenum"),
        ("/login", "password"),
        ("/assets/gateway.js", "auth/login"),
        ("/assets/gateway.css", "body"),
        ("/ca/dcos-ca.crt", "BEGIN CERTIFICATE"),
        ("/dcos-metadata/dcos-version.json", "\"dcos-variant\":\"open\""),
    ] {
        let (status, _, body) = world.ask(Method::GET, path, &[]).await;
        assert!(status == 200 && body.contains(part), "{path}: {status} {body}");
        assert!(!body.contains("PRIVATE"));
        let (status, _, body) = world.ask(Method::HEAD, path, &[]).await;
        assert!(status == 200 && body.is_empty(), "HEAD {path}");
        assert_eq!(world.ask(Method::POST, path, &[]).await.0, 405);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_tell_what_clients_read() {
    let world = World::new().await;
    let metadata = world.told("/metadata").await;
    assert_eq!(metadata["CLUSTER_ID"], "11111111-2222-4333-8444-555555555555");
    assert!(metadata["PUBLIC_IPV4"].as_str().unwrap().starts_with("127."));
    assert!(world.told("/pkgpanda/active.buildinfo.full.json").await["plenum"].is_object());
    let health = world.told("/system/health/v1").await;
    let units = health["units"].as_array().unwrap();
    assert!(units.len() == 6 && units.iter().all(|unit| unit["health"] == 0), "{units:?}");
    assert_eq!(world.get("/cluster/v1/links").await.0, 404);
    // The same over TLS.
    let ca = world.ask(Method::GET, "/ca/dcos-ca.crt", &[]).await.2;
    let secure = Client::with_ca(&ca).unwrap();
    for address in [world.https, world.http] {
        let reply =
            secure.get(&format!("https://localhost:{}/dcos-metadata/dcos-version.json", address.port()));
        let version: Value = reply.send().await.unwrap().json().await.unwrap();
        assert_eq!(version["version"], "2.2.0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_count_where_they_are_enforced() {
    let world = World::with(true, |_| {}).await;
    assert_eq!(world.get("/mesos/state").await.0, 200);
    assert_eq!(world.get("/metadata").await.0, 200);
    for path in ["/agent/S1/state", "/service/marathon/v2/apps", "/package/search", "/acs/api/v1/users"] {
        let (status, _, body) = world.get(path).await;
        assert!(status == 403 && body.contains("dcos:adminrouter:"), "{path}: {status} {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_cluster_lets_everybody_in_as_nobody() {
    let world = World::with(false, |config| config.component.open = true).await;
    for headers in [&[][..], &[("cookie", "dcos-acs-auth-cookie=stale")]] {
        let (status, _, body) = world.ask(Method::GET, "/mesos/state", headers).await;
        assert_eq!(status, 200, "{body}");
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(told["peer"], Value::Null, "nobody is taken for the gateway");
    }
    assert_eq!(world.ask(Method::GET, "/mesos/state", &[("authorization", "token=wrong")]).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_may_be_sent_on_to_tls() {
    let world = World::with(false, |config| config.redirect_to_tls = true).await;
    let (status, headers, _) = world.ask(Method::GET, "/mesos/state?x=1", &[]).await;
    let port = world.https.port();
    assert_eq!(status, 301);
    let location = headers["location"].to_str().unwrap();
    assert!(
        location.starts_with("https://127.0.0.1") && location.ends_with("/mesos/state?x=1"),
        "{location} {port}"
    );
    assert_eq!(world.ask(Method::POST, "/mesos/api/v1", &[]).await.0, 308);
}
