//! Requests that want to be understood in two ways, to reach what has no door, or to cost much.

use std::time::Duration;

use crate::fixture::{Raw, World};

/// The first line of the reply, or nothing where the connection was only closed.
async fn status(world: &World, request: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::to(world.http).await;
    raw.send(request).await;
    let reply = tokio::time::timeout(Duration::from_secs(15), raw.rest()).await.unwrap();
    reply.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_lead_nowhere_else() {
    let world = World::new().await;
    let cases = [
        ("/service/marathon/../../internal/v1/policy", "400"),
        ("/acs/api/v1/auth/../users", "400"),
        ("/acs/api/v1/auth/%2e%2e/users", "400"),
        ("/acs/api/v1/auth/..%2fusers", "400"),
        ("/acs/api/v1/auth/%2E%2E%5cusers", "400"),
        ("/acs/api/v1/auth/.%2e/.%2e/.%2e/.%2e/internal/v1/policy", "400"),
        ("/agent/127.0.0.1:1/state", "404"),
        ("/agent/S1%2f..%2fx/state", "400"),
        ("/agent/http:%2f%2fevil/state", "404"),
        ("/mesos/%00", "400"),
        ("/mesos/%0d%0aX:%20y", "400"),
        ("/mesos/%zz", "400"),
        ("/internal/v1/policy", "404"),
        ("/assets/..%2f..%2fetc/passwd", "400"),
        ("/ca/../key.pem", "400"),
        ("http://evil.example/nothing", "404"),
        ("http://evil.example/metadata", "200"),
    ];
    for (path, wanted) in cases {
        let token = &world.token;
        let line = status(
            &world,
            format!(
                "GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: token={token}\r\nConnection: close\r\n\r\n"
            ),
        )
        .await;
        assert!(line.contains(wanted), "{path}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_are_refused() {
    let world = World::new().await;
    let token = &world.token;
    let head = format!("Host: h\r\nAuthorization: token={token}\r\nConnection: close\r\n");
    let many: String = (0..2000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let cases = [
        ("two hosts", format!("GET /metadata HTTP/1.1\r\nHost: a\r\n{head}\r\n"), "400"),
        (
            "two lengths",
            format!("POST /package/x HTTP/1.1\r\n{head}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
            "400",
        ),
        (
            "a length that is none",
            format!("POST /package/x HTTP/1.1\r\n{head}Content-Length: +1\r\n\r\nx"),
            "400",
        ),
        (
            "chunked not last",
            format!("POST /package/x HTTP/1.1\r\n{head}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
            "400",
        ),
        (
            "a bad chunk",
            format!("POST /package/x HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "400|502",
        ),
        ("a folded header", format!("GET /metadata HTTP/1.1\r\n{head}X-A: b\r\n c\r\n\r\n"), "400"),
        (
            "a space before the colon",
            format!("GET /metadata HTTP/1.1\r\n{head}Content-Length : 5\r\n\r\n"),
            "400",
        ),
        ("two credentials", format!("GET /metadata HTTP/1.1\r\n{head}Authorization: token=x\r\n\r\n"), "401"),
        (
            "chunks that make no sense",
            format!("POST /package/x HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n"),
            "400",
        ),
        ("a tunnel", format!("CONNECT evil.example:443 HTTP/1.1\r\n{head}\r\n"), "405"),
        ("a trace", format!("TRACE / HTTP/1.1\r\n{head}\r\n"), "405"),
        ("all of it", format!("OPTIONS * HTTP/1.1\r\n{head}\r\n"), "400"),
        ("no HTTP", "hello\r\n\r\n".to_owned(), "400"),
        ("many headers", format!("GET /metadata HTTP/1.1\r\n{head}{many}\r\n"), "431"),
        (
            "a huge header",
            format!("GET /metadata HTTP/1.1\r\n{head}X-A: {}\r\n\r\n", "x".repeat(200_000)),
            "431",
        ),
        ("a huge path", format!("GET /{} HTTP/1.1\r\n{head}\r\n", "x".repeat(200_000)), "414|431"),
    ];
    for (name, request, wanted) in &cases {
        let line = status(&world, request).await;
        assert!(wanted.split('|').any(|one| line.contains(one)), "{name}: {line:?}");
    }
    assert_eq!(world.get("/metadata").await.0, 200, "it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_smuggled_past_the_check() {
    let world = World::new().await;
    let token = &world.token;
    // The credentials named as belonging to this connection: they must not get lost on the way, with our certificate left standing.
    let request = format!(
        "GET /mesos/x HTTP/1.1\r\nHost: h\r\nAuthorization: token={token}\r\nConnection: close, authorization, x-forwarded-for\r\n\r\n"
    );
    let mut raw = Raw::to(world.http).await;
    raw.send(request).await;
    let reply = raw.rest().await;
    assert!(
        reply.contains(&format!("token={token}")) && reply.contains("\"x-forwarded-for\":[\"127.0.0.1\"]"),
        "{reply}"
    );
    // A length and chunks at once: what comes after the chunks is a request of its own, and never the target's business.
    let request = format!(
        "POST /package/x HTTP/1.1\r\nHost: h\r\nAuthorization: token={token}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    );
    let mut raw = Raw::to(world.http).await;
    raw.send(request).await;
    let reply = raw.rest().await;
    let kept_apart = reply.contains("connection: close") || reply.contains("401 Unauthorized");
    assert!(reply.contains("\"bytes\":5") && kept_apart, "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_do_not_keep_others_out() {
    let world = World::new().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut raw = Raw::to(world.http).await;
        raw.send("GET /metadata HTTP/1.1\r\nX-Slow: ").await;
        held.push(raw);
    }
    assert_eq!(world.get("/metadata").await.0, 200);
    drop(held);
}
