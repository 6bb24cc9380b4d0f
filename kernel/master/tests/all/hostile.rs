//! What is refused: wrong types, wrong people, nonsense at both doors.

use plenum_api::internal::{Hello, goodbye::Code, master_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixture::{Agent, Cluster, Http, hello, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_have_their_status() {
    let up = Cluster::new(true).up().await;
    let json = ("Content-Type", "application/json");
    let subscribe = br#"{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n"}}}"#;
    let kill = br#"{"type":"KILL","framework_id":{"value":"x"},"kill":{"task_id":{"value":"t"}}}"#;
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16);
    let cases: &[Case<'_>] = &[
        ("GET", "/api/v1/scheduler", &[], b"", 405),
        ("POST", "/api/v1/scheduler", &[], b"{}", 400),
        ("POST", "/api/v1/scheduler", &[("Content-Type", "text/plain")], b"{}", 415),
        ("POST", "/api/v1/scheduler", &[json], b"{", 400),
        ("POST", "/api/v1/scheduler", &[json], &deep, 400),
        ("POST", "/api/v1/scheduler", &[json], b"{}", 400),
        (
            "POST",
            "/api/v1/scheduler",
            &[json],
            br#"{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u"}}}"#,
            400,
        ),
        ("POST", "/api/v1/scheduler", &[json, ("Accept", "text/html")], subscribe, 406),
        ("POST", "/api/v1/scheduler", &[json, ("Mesos-Stream-Id", "x")], subscribe, 400),
        ("POST", "/api/v1/scheduler", &[json], kill, 400),
        ("POST", "/api/v1/scheduler", &[("Content-Type", "application/x-protobuf")], b"\xff\xff\xff", 400),
        (
            "POST",
            "/api/v1",
            &[json],
            br#"{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"x"}}}"#,
            400,
        ),
        ("POST", "/api/v1", &[json], br#"{"type":"NO_SUCH_CALL"}"#, 400),
        ("POST", "/api/v1", &[json, ("Accept", "text/html")], br#"{"type":"GET_STATE"}"#, 406),
        (
            "POST",
            "/api/v1",
            &[json],
            br#"{"type":"MARK_AGENT_GONE","mark_agent_gone":{"agent_id":{"value":"x"}}}"#,
            404,
        ),
        ("POST", "/teardown", &[], b"frameworkId=nobody", 400),
        ("POST", "/teardown", &[], b"x=y", 400),
        ("GET", "/teardown", &[], b"", 405),
        ("POST", "/state", &[], b"", 405),
        ("GET", "/nothing/here", &[], b"", 404),
        ("GET", "/redirect/x", &[], b"", 404),
        ("GET", "/health", &[], b"", 200),
        ("GET", "/redirect", &[], b"", 307),
    ];
    for (method, path, headers, body, status) in cases {
        let reply = Http::ask(up.http, method, path, headers, body).await;
        assert_eq!(
            reply.status,
            *status,
            "{method} {path} {}: {}",
            String::from_utf8_lossy(&body[..body.len().min(80)]),
            reply.text()
        );
    }
    let script = Http::ask(up.http, "GET", "/flags?jsonp=show", &[], b"").await;
    assert!(script.text().starts_with("show({"), "{}", script.text());
    let redirect = Http::ask(up.http, "GET", "/redirect", &[], b"").await;
    assert_eq!(redirect.header("location"), Some(&*format!("//{}", up.http)));
    up.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_in_without_a_name() {
    let up = Cluster::new(false).up().await;
    for path in ["/state", "/api/v1", "/api/v1/scheduler", "/flags", "/nothing"] {
        let reply = Http::ask(up.http, "GET", path, &[], b"").await;
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("oauthjwt")), "{path}");
    }
    for path in ["/health", "/version"] {
        assert_eq!(Http::ask(up.http, "GET", path, &[], b"").await.status, 200, "{path}");
    }
    up.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agents_door_takes_agents_only() {
    let cluster = Cluster::new(true);
    let up = cluster.up().await;
    // No TLS at all.
    let mut raw = TcpStream::connect(up.agents).await.expect("connected");
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut rest = Vec::new();
    let _ = soon(raw.read_to_end(&mut rest)).await;
    // A component, but no agent.
    let mut other = Agent::dial(&up, &cluster.identity("services", "s"), hello()).await;
    assert!(other.hear().await.is_none());
    // A version that is not spoken; a frame that is too large; garbage.
    let identity = cluster.identity("agent", "a");
    let mut future =
        Agent::dial(&up, &identity, Hello { version_min: 7, version_max: 9, ..Default::default() }).await;
    let Some(master_message::Kind::Goodbye(goodbye)) = future.hear().await else { panic!("a goodbye") };
    assert_eq!(goodbye.code, Code::Version as i32);
    assert!(
        goodbye.message.is_some_and(|m| m.contains("1 to 1") && m.contains("7 to 9")),
        "both ranges are named"
    );
    assert!(future.hear().await.is_none());
    for bytes in [&[0xff; 64][..], b"\x08\x08\x08\x08\x08\x08"] {
        let mut agent = Agent::dial(&up, &identity, hello()).await;
        agent.hear().await;
        soon(agent.writer.send(bytes)).await.expect("sent");
        assert!(agent.hear().await.is_none(), "hung up");
    }
    assert_eq!(up.get("/slaves").await["slaves"].as_array().map(Vec::len), Some(0));
    up.down().await;
}
