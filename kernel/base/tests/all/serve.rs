//! Sniffing, mutual TLS, exchange of certificates, limits, panics and the orderly end.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use plenum_base::client::{Client, ClientError, Credentials};
use plenum_base::http_error::{JsonBody, no_such_address};
use plenum_base::pki::{LIFETIME, PeerName};
use plenum_base::serve::{ConnInfo, Limits, Plain, Server};
use plenum_base::tls::{ClientAuth, Expect, Identity, pinned_client_config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Cluster, Running, start, start_plain};

async fn who(Extension(info): Extension<ConnInfo>) -> String {
    let peer = info.peer.map_or("nobody".to_owned(), |peer| peer.name.to_string());
    format!("{} {peer}", if info.tls { "tls" } else { "plain" })
}

fn router() -> Router {
    async fn panics() -> String {
        std::future::ready(()).await;
        panic!("a defect on purpose")
    }
    async fn count(JsonBody(numbers): JsonBody<Vec<u32>>) -> String {
        numbers.len().to_string()
    }
    Router::new()
        .route("/who", get(who))
        .route("/panic", get(panics))
        .route("/count", post(count))
        .route("/endless", get(endless))
        .fallback(no_such_address)
}

/// Two pieces at once, then nothing until the client leaves.
async fn endless() -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(4);
    for piece in ["one", "two"] {
        sender.send(Ok(Bytes::from_static(piece.as_bytes()))).await.unwrap();
    }
    tokio::spawn(async move { sender.closed().await });
    let stream =
        futures_util::stream::unfold(receiver, |mut r| async { r.recv().await.map(|item| (item, r)) });
    Body::from_stream(stream)
}

async fn text(client: &Client, url: &str) -> Result<String, ClientError> {
    let bytes =
        client.get(url).deadline(Duration::from_secs(10)).send().await?.success().await?.bytes().await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Sends bytes as they are and reads until the other side closes or `enough` is in the reply.
async fn raw(server: &Running, bytes: &[u8], enough: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut reply = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&reply).contains(enough) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => reply.extend_from_slice(&buffer[..count]),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("the server answers or closes");
    String::from_utf8_lossy(&reply).into_owned()
}

const NEVER: &str = "\u{1}never\u{1}";

#[tokio::test]
async fn one_port_takes_both_and_tells_who_is_there() {
    let cluster = Cluster::new();
    let server = Server::new(router()).tls(&cluster.identity("master", "m"), ClientAuth::Optional).unwrap();
    let server = start(server).await;
    let plain = Client::plain().unwrap();
    assert_eq!(text(&plain, &server.url("http", "/who")).await.unwrap(), "plain nobody");
    let tool = Client::with_ca(cluster.ca.certificate_pem()).unwrap();
    assert_eq!(text(&tool, &server.url("https", "/who")).await.unwrap(), "tls nobody");
    let agent = cluster.identity("agent", "n1");
    for expect in [
        Expect::Address,
        Expect::Role("master".into()),
        Expect::Name(cluster.identity("master", "m").peer().name),
    ] {
        let client = Client::with_identity(&agent, expect).unwrap();
        assert_eq!(text(&client, &server.url("https", "/who")).await.unwrap(), "tls plenum://test/agent/n1");
    }
    let other = PeerName::new("test", "master", "other").unwrap();
    for expect in [Expect::Role("identity".into()), Expect::Name(other)] {
        let client = Client::with_identity(&agent, expect).unwrap();
        assert!(
            text(&client, &server.url("https", "/who")).await.is_err(),
            "another role or name than expected"
        );
    }
    let stranger = Client::with_identity(&Cluster::new().identity("agent", "n1"), Expect::Address).unwrap();
    assert!(text(&stranger, &server.url("https", "/who")).await.is_err(), "another cluster's certificate");
}

#[tokio::test]
async fn required_means_required_and_expired_is_nobody() {
    let cluster = Cluster::new();
    let server = Server::new(router()).tls(&cluster.identity("master", "m"), ClientAuth::Required).unwrap();
    let server = start(server.plain(Plain::Never)).await;
    let url = server.url("https", "/who");
    assert!(text(&Client::with_ca(cluster.ca.certificate_pem()).unwrap(), &url).await.is_err());
    let long_ago = SystemTime::now() - Duration::from_secs(3 * 24 * 3600);
    let (cert, key) = cluster.issue("agent", "old", long_ago, LIFETIME);
    let old = Identity::from_pem(cluster.ca.certificate_pem(), &cert, &key).unwrap();
    assert!(text(&Client::with_identity(&old, Expect::Address).unwrap(), &url).await.is_err());
    let good = Client::with_identity(&cluster.identity("agent", "new"), Expect::Address).unwrap();
    assert_eq!(text(&good, &url).await.unwrap(), "tls plenum://test/agent/new");
    let refused = raw(&server, b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", NEVER).await;
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("TLS_REQUIRED"), "{refused}");
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart() {
    let cluster = Cluster::new();
    let folder = tempfile::tempdir().unwrap();
    let files = cluster.files(folder.path(), "master", SystemTime::now(), LIFETIME);
    let identity = Identity::load(&files).unwrap();
    let mut changes = identity.changes();
    let server = start(Server::new(router()).tls(&identity, ClientAuth::None).unwrap()).await;
    let url = server.url("https", "/who");
    let ask = async |ca: &str| text(&Client::with_ca(ca).unwrap(), &url).await.is_ok();
    assert!(ask(cluster.ca.certificate_pem()).await);

    let watching = identity.watch(Duration::from_millis(20), server.shutdown.clone());
    changes.changed().await.unwrap();
    // A broken file changes nothing, another cluster's whole set is taken.
    std::fs::write(&files.cert, "broken").unwrap();
    assert!(identity.reload().is_err());
    assert!(ask(cluster.ca.certificate_pem()).await);
    let next = Cluster::new();
    let (cert, key) = next.issue("master", "m2", SystemTime::now(), LIFETIME);
    files.write(next.ca.certificate_pem(), &cert, &key).unwrap();
    let swapped = async {
        while identity.peer().name.name != "m2" {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), swapped).await.expect("the files are watched");
    assert!(ask(next.ca.certificate_pem()).await);
    assert!(!ask(cluster.ca.certificate_pem()).await, "the old certificate is gone");
    server.shutdown.trigger();
    watching.await.unwrap();
}

#[tokio::test]
async fn a_fingerprint_is_enough_to_find_the_right_identity() {
    let cluster = Cluster::new();
    let server = Server::new(router()).tls(&cluster.identity("identity", "i"), ClientAuth::Optional).unwrap();
    let server = start(server).await;
    let url = server.url("https", "/who");
    let client =
        |fingerprint: &str, role: &str| Client::with_tls(pinned_client_config(fingerprint, role).unwrap());
    assert_eq!(text(&client(&cluster.ca.fingerprint(), "identity"), &url).await.unwrap(), "tls nobody");
    assert!(text(&client(&cluster.ca.fingerprint(), "master"), &url).await.is_err());
    assert!(text(&client(&Cluster::new().ca.fingerprint(), "identity"), &url).await.is_err());
    assert!(text(&client("", "identity"), &url).await.is_err());
}

#[tokio::test]
async fn sessions_resume() {
    let cluster = Cluster::new();
    let server = Server::new(router()).tls(&cluster.identity("master", "m"), ClientAuth::Required).unwrap();
    let server = start(server).await;
    let config = std::sync::Arc::new(cluster.identity("agent", "n").client_config(Expect::Address).unwrap());
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let mut tls = tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        tls.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut reply = String::new();
        let _ = tls.read_to_string(&mut reply).await;
        assert!(reply.ends_with("tls plenum://test/agent/n"), "{reply}");
        kinds.push(tls.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}

#[tokio::test]
async fn streams_are_chunked_and_arrive_at_once() {
    let server = start_plain(router()).await;
    let reply = raw(&server, b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n", "3\r\ntwo\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert!(reply.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{reply}");
    assert!(reply.contains("3\r\none\r\n"), "{reply}");
    let client = Client::plain().unwrap();
    let mut stream = client.get(&server.url("http", "/endless")).send().await.unwrap().stream();
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.extend(stream.next_within(Duration::from_secs(5)).await.unwrap().unwrap());
    }
    assert_eq!(seen, b"onetwo");
    let idle = stream.next_within(Duration::from_millis(20)).await;
    assert!(matches!(idle, Err(ClientError::Deadline { .. })));
}

#[tokio::test]
async fn a_subscriber_that_leaves_is_noticed_at_once() {
    let (left, mut noticed) = tokio::sync::mpsc::channel::<&str>(4);
    let subscribe = move || {
        let left = left.clone();
        async move {
            let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(4);
            sender.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
            tokio::spawn(async move {
                sender.closed().await;
                left.send("left").await
            });
            let next = |mut r: tokio::sync::mpsc::Receiver<_>| async { r.recv().await.map(|item| (item, r)) };
            Body::from_stream(futures_util::stream::unfold(receiver, next))
        }
    };
    let server = start_plain(Router::new().route("/subscribe", post(subscribe))).await;
    let request = b"POST /subscribe HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    let reply = raw(&server, request, "first").await;
    assert!(reply.contains("first"), "{reply}");
    // `raw` closed its connection; nothing else is ever written to it.
    let gone = tokio::time::timeout(Duration::from_secs(5), noticed.recv()).await;
    assert_eq!(gone.expect("without waiting for a heartbeat"), Some("left"));
}

#[tokio::test]
async fn defects_and_hostile_bytes_end_one_request_only() {
    let server = start_plain(router()).await;
    let panicked = raw(&server, b"GET /panic HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", NEVER).await;
    assert!(panicked.starts_with("HTTP/1.1 500") && panicked.contains("INTERNAL"), "{panicked}");
    let long = vec![b'a'; 200_000];
    let huge_head = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &long, b"\r\n\r\n"].concat();
    let hostile: [&[u8]; 6] = [
        b"\x16\x03\x01\xff\xff\x00",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, only text that goes on for a while",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /count HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        &huge_head,
    ];
    for bytes in hostile {
        let reply = raw(&server, bytes, NEVER).await;
        assert!(!reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    let body = format!("[{}1]", "1,".repeat(10_000_000));
    let client = Client::plain().unwrap();
    let big = client.post(&server.url("http", "/count")).json(&()).body(plenum_base::client::full(body));
    match big.send().await {
        Ok(reply) => assert_eq!(reply.status, 413),
        // The server may close before all of it was sent.
        Err(error) => assert!(matches!(error, ClientError::Transport { .. }), "{error}"),
    }
    assert_eq!(text(&client, &server.url("http", "/who")).await.unwrap(), "plain nobody");
}

#[tokio::test]
async fn silent_connections_are_closed_and_slots_are_given_back() {
    let short = Duration::from_millis(300);
    let limits = Limits { connections: 2, handshake: short, idle: short, ..Limits::default() };
    let server = start(Server::new(router()).limits(limits)).await;
    for opening in [b"".as_slice(), b"P", b"PRI *", b"GET / HT", b"\x16\x03"] {
        let closed = raw(&server, opening, NEVER).await;
        assert!(closed.is_empty() || closed.starts_with("HTTP/1.1 408"), "{closed}");
    }
    // More than there are slots: each waits for its turn.
    let client = Client::plain().unwrap();
    for _ in 0..5 {
        assert!(
            raw(&server, b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n", NEVER).await.starts_with("HTTP/1.1 200")
        );
    }
    assert!(text(&client, &server.url("http", "/who")).await.is_ok());
}

#[tokio::test]
async fn the_end_waits_for_requests_but_not_for_ever() {
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let started = std::sync::Arc::new(tokio::sync::Notify::new());
    let (wait, begun) = (release.clone(), started.clone());
    let slow = move || async move {
        begun.notify_one();
        wait.notified().await;
        "done"
    };
    let limits = Limits { drain: Duration::from_secs(2), ..Limits::default() };
    let mut server = start(Server::new(router().route("/slow", get(slow))).limits(limits)).await;
    let client = Client::plain().unwrap();
    let url = server.url("http", "/slow");
    let waiting = tokio::spawn(async move { text(&client, &url).await });
    started.notified().await;
    let _endless = Client::plain().unwrap().get(&server.url("http", "/endless")).send().await.unwrap();
    server.shutdown.trigger();
    release.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap(), "done");
    tokio::time::timeout(Duration::from_secs(10), &mut server.task).await.expect("the drain ends").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn http2_without_tls_and_unix_sockets_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let listener = plenum_base::sockets::unix("api", &path).unwrap();
    let shutdown = plenum_base::service::Shutdown::new();
    let (server, switch) = (Server::new(router()).plain(Plain::Never), shutdown.clone());
    let task = tokio::spawn(async move { server.serve_unix(listener, switch).await });
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.ends_with("plain nobody"), "{reply}");
    shutdown.trigger();
    task.await.unwrap();

    let server = start_plain(router()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let exec = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(exec, io).await.unwrap();
    let driver = tokio::spawn(connection);
    let request =
        http::Request::get(server.url("http", "/who")).body(http_body_util::Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    drop(sender);
    let _ = driver.await;
}

#[tokio::test]
async fn calls_have_deadlines_limits_and_clear_errors() {
    let hang = || async { std::future::pending::<String>().await };
    let server = start_plain(router().route("/hang", get(hang))).await;
    let client = Client::plain().unwrap();
    let late = client.get(&server.url("http", "/hang")).deadline(Duration::from_millis(50)).send().await;
    assert!(matches!(late, Err(ClientError::Deadline { .. })));
    let body = client
        .get(&server.url("http", "/endless"))
        .deadline(Duration::from_millis(300))
        .send()
        .await
        .unwrap();
    assert!(matches!(body.bytes().await, Err(ClientError::Deadline { .. })));
    let small = client.get(&server.url("http", "/who")).send().await.unwrap();
    assert!(matches!(small.bytes_up_to(3).await, Err(ClientError::TooLarge { limit: 3, .. })));
    let missing = client.get(&server.url("http", "/none")).send().await.unwrap().success().await.unwrap_err();
    assert_eq!(missing.status(), Some(http::StatusCode::NOT_FOUND));
    assert!(missing.to_string().contains("there is nothing at /none"));
    let wrong = client.get("http://[bad").send().await;
    assert!(matches!(wrong, Err(ClientError::Request { .. })));
    let closed = client.get("http://127.0.0.1:1/").send().await;
    assert!(matches!(closed, Err(ClientError::Transport { connect: true, .. })), "{closed:?}");
    let broken =
        client.get(&server.url("http", "/who")).credentials(&Credentials::Token("a\nb".into())).send().await;
    assert!(matches!(broken, Err(ClientError::Request { .. })));
    let json = client.get(&server.url("http", "/who")).send().await.unwrap().json::<u32>().await;
    assert!(matches!(json, Err(ClientError::Content { .. })));
}
