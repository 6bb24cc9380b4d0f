//! Relays to components and agents: paths, streams, bodies, silence and absence.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures_util::StreamExt;
use http::Method;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::fixture::{Raw, SOON, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_and_queries_reach_their_components() {
    let world = World::new().await;
    let cases = [
        ("/mesos/master/state.json?x=%20&_ts=1", "master", "/master/state.json?x=%20&_ts=1"),
        ("/service/marathon/v2/info", "services", "/v2/info"),
        ("/service/marathon/v2/queue//a/b", "services", "/v2/queue//a/b"),
        ("/marathon/v2/info", "services", "/v2/info"),
        ("/slave/S1/slave%281%29/state", "agent", "/slave%281%29/state"),
        (
            "/agent/S1/files/read.json?path=/a%20b&offset=-1",
            "agent",
            "/files/read.json?path=/a%20b&offset=-1",
        ),
        ("/package/search", "catalog", "/package/search"),
        ("/cosmos/service/describe", "catalog", "/service/describe"),
        ("/capabilities", "catalog", "/capabilities"),
        ("/mesos_dns/v1/hosts/leader.mesos", "discovery", "/v1/hosts/leader.mesos"),
        ("/net/v1/nodes", "discovery", "/v1/nodes"),
        ("/acs/api/v1/users", "identity", "/acs/api/v1/users"),
    ];
    for (path, role, uri) in cases {
        let told = world.told(path).await;
        assert_eq!((&told["role"], &told["uri"]), (&role.into(), &uri.into()), "{path}");
    }
    assert_eq!(world.get("/agent/S9/state").await.0, 404);
    let (status, headers, _) = world.get("/mesos").await;
    assert_eq!((status, headers["location"].as_bytes()), (301, &b"/mesos/"[..]));
    let (status, headers, _) = world.get("//service/evil.example?q=1").await;
    assert_eq!((status, headers["location"].as_bytes()), (301, &b"/service/evil.example/?q=1"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_pass_piece_by_piece() {
    let world = World::new().await;
    let (sender, _) = tokio::sync::broadcast::channel::<&'static str>(8);
    let source = sender.clone();
    let stream = move || {
        let pieces = futures_util::stream::unfold(source.subscribe(), |mut pieces| async move {
            Some((pieces.recv().await.ok()?, pieces))
        });
        let first = futures_util::stream::once(async { "data: 0\n\n" });
        let body = Body::from_stream(first.chain(pieces).map(Ok::<_, std::convert::Infallible>));
        std::future::ready(
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap(),
        )
    };
    let address =
        world.play(Router::new().route("/events", axum::routing::get(stream)).fallback(async || "{}")).await;
    world.install("stream", &[address]);
    world.installed("/service/stream/").await;
    let url = format!("http://{}/service/stream/events", world.http);
    let call = world.client.get(&url).header(http::header::AUTHORIZATION, &format!("token={}", world.token));
    let mut stream = call.send().await.unwrap().stream();
    assert_eq!(stream.next_within(SOON).await.unwrap().unwrap(), "data: 0\n\n");
    for piece in ["data: 1\n\n", "data: 2\n\n"] {
        sender.send(piece).unwrap();
        assert_eq!(stream.next_within(SOON).await.unwrap().unwrap(), piece, "at once, not at the end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_have_a_limit_with_and_without_a_length() {
    let world = World::with(false, |config| config.body_bytes = 1000).await;
    let head = format!(
        "POST /package/search HTTP/1.1\r\nHost: h\r\nAuthorization: token={}\r\nConnection: close\r\n",
        world.token
    );
    let chunk = format!("258\r\n{}\r\n", "x".repeat(0x258));
    let cases = [
        (format!("Content-Length: 600\r\n\r\n{}", "x".repeat(600)), "\"bytes\":600"),
        (format!("Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"), "\"bytes\":600"),
        (format!("Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\nX-Trailer: 1\r\n\r\n"), "\"bytes\":600"),
        ("Content-Length: 1001\r\n\r\n".to_owned(), "413"),
        (format!("Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"), "413"),
    ];
    for (rest, wanted) in cases {
        let mut raw = Raw::to(world.http).await;
        raw.send(format!("{head}{rest}")).await;
        let reply = raw.until(wanted).await;
        assert!(!reply.to_lowercase().contains("x-trailer"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_body_passes_while_it_arrives() {
    let world = World::new().await;
    let address = world.play(crate::fixture::echo_router("store")).await;
    world.install("store", &[address]);
    world.installed("/service/store/").await;
    let size = 24 << 20;
    let mut raw = Raw::to(world.http).await;
    let token = &world.token;
    raw.send(format!(
        "PUT /service/store/x HTTP/1.1\r\nHost: h\r\nAuthorization: token={token}\r\nContent-Length: {size}\r\n\r\n"
    ))
    .await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..24 {
        raw.send(&piece).await;
    }
    raw.until(&format!("\"bytes\":{size}")).await;
}

/// Somebody's input to a command on an agent: it flows both ways, is as long as it likes, and may be quiet for longer than anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_flow_both_ways_and_may_be_quiet() {
    let world = World::with(false, |config| {
        config.body_bytes = 1000;
        config.stall_seconds = 1;
    })
    .await;
    let head = |path: &str, media: &str| {
        format!(
            "POST /agent/S1{path} HTTP/1.1\r\nHost: h\r\nAuthorization: token={}\r\nContent-Type: {media}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            world.token
        )
    };
    let records = "application/recordio";
    let mut raw = Raw::to(world.http).await;
    raw.send(head("/mirror", records)).await;
    for (n, pause) in [(1, 0), (2, 0), (3, 1500)] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let piece = format!("{}piece {n}", "x".repeat(600));
        raw.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        raw.until(&format!("piece {n}")).await;
    }
    raw.send("0\r\n\r\n").await;
    raw.rest().await;
    // The answer comes at the end, however long that takes.
    let mut raw = Raw::to(world.http).await;
    raw.send(head("/count", records)).await;
    raw.send("5\r\nhello\r\n").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    raw.send("5\r\nhello\r\n0\r\n\r\n").await;
    raw.until("counted 10").await;
    // Anything else has its deadline and its limit.
    let mut raw = Raw::to(world.http).await;
    raw.send(head("/count", "application/json")).await;
    raw.send("5\r\nhello\r\n").await;
    raw.until("408").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_has_an_end() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    // Accepts, reads and says nothing.
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let world = World::with(false, |config| config.catalog = format!("http://{address}")).await;
    let began = Instant::now();
    let (status, _, body) = world.get("/package/search").await;
    assert!(status == 504 && body.contains("the catalog") && body.contains("TIMEOUT"), "{status} {body}");
    assert!(began.elapsed() < Duration::from_secs(10));
    // A body that stops arriving.
    let mut raw = Raw::to(world.http).await;
    let head = format!(
        "POST /package/search HTTP/1.1\r\nHost: h\r\nAuthorization: token={}\r\nContent-Length: 9\r\n\r\nx",
        world.token
    );
    raw.send(head).await;
    raw.until("408").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_component_is_named_and_waited_for() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let world = World::with(false, |config| config.catalog = format!("http://{address}")).await;
    let (status, headers, body) = world.get("/package/search").await;
    assert!(
        status == 503 && headers.contains_key("retry-after") && body.contains("the catalog"),
        "{status} {body}"
    );
    let token = format!("token={}", world.token);
    let page =
        world.ask(Method::GET, "/package/x", &[("authorization", &token), ("accept", "text/html")]).await;
    assert!(page.0 == 503 && page.2.contains("<h1>") && page.2.contains("the catalog"));
    let health = world.told("/system/health/v1").await;
    let catalog = health["units"].as_array().unwrap().iter().find(|unit| unit["name"] == "catalog").unwrap();
    assert_eq!(catalog["health"], 1);

    // It starts while a request waits, which carries a body.
    let patient = World::with(false, |config| {
        config.catalog = format!("http://{address}");
        config.patience_seconds = 15;
    });
    let patient = patient.await;
    let url = format!("http://{}/package/search", patient.http);
    let call =
        patient.client.post(&url).header(http::header::AUTHORIZATION, &format!("token={}", patient.token));
    let waiting = tokio::spawn(call.json(&serde_json::json!({"query": "x"})).deadline(SOON).send());
    let began = TcpListener::bind(address).await.unwrap();
    let shutdown = plenum_base::service::Shutdown::new();
    let switch = shutdown.clone();
    tokio::spawn(async move {
        plenum_base::serve::Server::new(crate::fixture::echo_router("late")).serve(began, switch).await;
    });
    let told: Value = waiting.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!((&told["role"], &told["start"]), (&"late".into(), &r#"{"query":"x"}"#.into()));
    shutdown.trigger();
}

/// What the first connection gets before it is cut: nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_reply_is_asked_for_again_only_where_that_does_no_harm() {
    let flaky = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = flaky.local_addr().unwrap();
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((mut stream, _)) = flaky.accept().await {
            count += 1;
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let post = head[..read].starts_with(b"POST");
            if !post && count % 2 == 0 {
                use tokio::io::AsyncWriteExt;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                    .await;
            }
        }
    });
    let world = World::with(false, |config| config.catalog = format!("http://{address}")).await;
    assert_eq!(world.get("/package/x").await.2, "ok");
    let token = format!("token={}", world.token);
    let (status, _, body) = world.ask(Method::POST, "/package/x", &[("authorization", &token)]).await;
    assert!(status == 502 && body.contains("the catalog"), "{status} {body}");
}
