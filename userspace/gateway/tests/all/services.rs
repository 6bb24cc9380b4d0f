//! Installed services and frameworks: found at once, redirects translated, WebSocket, and the death of an instance that nobody sees.

use axum::Router;
use axum::response::IntoResponse;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::fixture::{Raw, World, echo_router};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_there_as_soon_as_it_is_installed() {
    let world = World::new().await;
    assert_eq!(world.get("/service/shop/x").await.0, 404);
    let address = world.play(echo_router("shop")).await;
    world.install("shop", &[address]);
    let told = world.installed("/service/shop/a%2Fb//c?d=e").await;
    assert_eq!((&told["role"], &told["uri"]), (&"shop".into(), &"/a%2Fb//c?d=e".into()));
    assert_eq!(told["headers"]["authorization"][0], format!("token={}", world.token));
    let (status, headers, _) = world.get("/service/shop?q").await;
    assert_eq!((status, headers["location"].as_bytes()), (301, &b"/service/shop/?q"[..]));
    // A password is nobody's but the cluster's.
    let (status, _, body) =
        world.ask(Method::GET, "/service/shop/", &[("authorization", "Basic c3Bhcms6czNjcmV0")]).await;
    assert!(status == 200 && !body.contains("Basic"), "{body}");
    // None of its instances runs: a while of waiting, then a word that says so.
    world.install("shop", &[]);
    let (status, _, body) = loop {
        let reply = world.get("/service/shop/").await;
        if reply.0 != 200 {
            break reply;
        }
    };
    assert!(status == 503 && body.contains("none of its instances"), "{status} {body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_framework_is_found_by_name_and_id() {
    let world = World::new().await;
    // Its web address is that of the played agent, which takes plain HTTP too.
    for name in ["kafka", "fw-1"] {
        let told = world.told(&format!("/service/{name}/v1/plans")).await;
        assert_eq!((&told["uri"], &told["peer"]), (&"/ui/v1/plans".into(), &serde_json::Value::Null));
    }
    let (status, _, body) = world.get("/service/nobody/x").await;
    assert!(status == 404 && body.contains("service not found"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_and_cookies_come_back_translated() {
    let world = World::new().await;
    let reply = || async {
        let headers = [
            ("location", "/next?x=1"),
            ("set-cookie", "dcos-acs-auth-cookie=evil"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
        ];
        (StatusCode::FOUND, headers).into_response()
    };
    let address =
        world.play(Router::new().route("/go", axum::routing::get(reply)).fallback(async || "1")).await;
    world.install("web", &[address]);
    world.installed("/service/web/").await;
    let (status, headers, _) = world.get("/service/web/go").await;
    assert_eq!((status, headers["location"].as_bytes()), (302, &b"/service/web/next?x=1"[..]));
    assert!(headers.get("set-cookie").is_none() && headers.get("x-hop").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_an_instance_is_not_seen() {
    let world = World::new().await;
    let dead: Vec<_> = {
        let mut free = Vec::new();
        for _ in 0..4 {
            free.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        free.iter().map(|listener| listener.local_addr().unwrap()).collect()
    };
    let living = world.play(echo_router("living")).await;
    world.install("many", &[dead[0], dead[1], living, dead[2], dead[3]]);
    world.installed("/service/many/").await;
    for n in 0..20 {
        let url = format!("http://{}/service/many/", world.http);
        let call =
            world.client.post(&url).header(http::header::AUTHORIZATION, &format!("token={}", world.token));
        let told: serde_json::Value = call.json(&n).send().await.unwrap().json().await.unwrap();
        assert_eq!(
            (&told["role"], &told["start"]),
            (&"living".into(), &n.to_string().into()),
            "also with a body"
        );
    }
    // One that takes connections and drops them: only what does no harm twice is asked of another.
    let dropping = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dropping.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = dropping.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    world.install("pair", &[address, living]);
    world.installed("/service/pair/").await;
    for _ in 0..10 {
        assert_eq!(world.told("/service/pair/").await["role"], "living");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_passes_in_both_directions() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Speaks just enough: agrees, then returns what it gets in capitals.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                if !head.contains("upgrade: websocket") {
                    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
                    return stream.write_all(reply).await.unwrap();
                }
                assert!(head.contains("sec-websocket-key: abc") && !head.contains("dcos-acs"));
                let agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: xyz\r\n\r\n";
                stream.write_all(agreed.as_bytes()).await.unwrap();
                let mut buffer = [0; 64];
                loop {
                    let count = stream.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        return;
                    }
                    stream.write_all(&buffer[..count].to_ascii_uppercase()).await.unwrap();
                }
            });
        }
    });
    world.install("chat", &[address]);
    world.installed("/service/chat/").await;
    let mut raw = Raw::to(world.http).await;
    let token = &world.token;
    raw.send(format!(
        "GET /service/chat/ws HTTP/1.1\r\nHost: h\r\nCookie: dcos-acs-auth-cookie={token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n"
    ))
    .await;
    let agreed = raw.until("\r\n\r\n").await.to_lowercase();
    assert!(agreed.starts_with("http/1.1 101") && agreed.contains("sec-websocket-accept: xyz"), "{agreed}");
    assert!(agreed.contains("upgrade: websocket"));
    for text in ["hello", "again"] {
        raw.send(text).await;
        raw.until(&text.to_uppercase()).await;
    }
    // Another protocol is not passed on, and neither is an upgrade of a component.
    for (path, protocol) in [("/service/chat/", "h2c"), ("/mesos/state", "websocket")] {
        let mut raw = Raw::to(world.http).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: token={token}\r\nConnection: Upgrade, close\r\nUpgrade: {protocol}\r\n\r\n")).await;
        let reply = raw.rest().await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        assert!(!reply.to_lowercase().contains(r#""upgrade""#), "{reply}");
    }
}
