//! The HTTP port against those who mean no good, and those without a name.

use plenum_api::agent::{Call, Response, call::Type};
use plenum_api::codec::{self, Encoding};
use plenum_base::client::{Client, full};

use crate::world::{World, is_root};

async fn post(world: &World, path: &str, media: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let mut call = Client::plain().unwrap().post(&world.url(path));
    if !media.is_empty() {
        call = call.header(http::header::CONTENT_TYPE, media);
    }
    let reply = call.body(full(body)).send().await.unwrap();
    let status = reply.status.as_u16();
    (status, reply.bytes().await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_a_name_is_told_anything() {
    if !is_root() {
        return;
    }
    let world = World::with(false, |_| {}).await;
    world.up().await;
    for path in ["/state", "/files/read?path=/x", "/flags", "/metrics/snapshot", "/containers", "/nowhere"] {
        assert_eq!(world.get(path).await.0, 401, "{path}");
    }
    assert_eq!(post(&world, "/api/v1", "application/json", br#"{"type":"GET_STATE"}"#.to_vec()).await.0, 401);
    assert_eq!(world.get("/health").await.0, 200);
    let subscribe = br#"{"type":"SUBSCRIBE","framework_id":{"value":"F"},"executor_id":{"value":"E"}}"#;
    assert_eq!(post(&world, "/api/v1/executor", "application/json", subscribe.to_vec()).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_api_answers_in_both_encodings() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    world.up().await;
    for kind in [
        Type::GetHealth,
        Type::GetVersion,
        Type::GetFlags,
        Type::GetMetrics,
        Type::GetState,
        Type::GetTasks,
        Type::GetContainers,
        Type::GetAgent,
        Type::GetFrameworks,
        Type::GetExecutors,
    ] {
        let mut call = Call::default();
        call.set_type(kind);
        let (status, body) = post(
            &world,
            "/api/v1",
            "application/x-protobuf",
            codec::encode(Encoding::Protobuf, &call).to_vec(),
        )
        .await;
        assert_eq!(status, 200, "{kind:?}");
        let reply: Response = codec::decode(Encoding::Json, &body).unwrap();
        assert_eq!(reply.r#type().as_str_name(), kind.as_str_name());
    }
    let (status, _) =
        post(&world, "/api/v1", "application/json", br#"{"type":"LAUNCH_CONTAINER"}"#.to_vec()).await;
    assert!(status == 501 || status == 400, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_get_their_4xx() {
    if !is_root() {
        return;
    }
    let world = World::new().await;
    world.up().await;
    let json = "application/json";
    let protobuf = "application/x-protobuf";
    let deep = format!("{}{}", "{\"a\":".repeat(5000), "1").into_bytes();
    let bodies: Vec<(&str, Vec<u8>, &[u16])> = vec![
        (json, b"".to_vec(), &[400]),
        (json, b"{".to_vec(), &[400]),
        (json, b"null".to_vec(), &[400]),
        (json, b"[]".to_vec(), &[400]),
        (json, b"{\"type\":7}".to_vec(), &[400]),
        (json, b"{\"type\":\"NO_SUCH\"}".to_vec(), &[400]),
        (json, b"{\"type\":\"READ_FILE\"}".to_vec(), &[400]),
        (
            json,
            b"{\"type\":\"READ_FILE\",\"read_file\":{\"path\":\"../etc/passwd\",\"offset\":0}}".to_vec(),
            &[400, 404],
        ),
        (json, b"{\"type\":\"LIST_FILES\",\"list_files\":{\"path\":\"/etc\"}}".to_vec(), &[400, 404]),
        (json, vec![0xff; 100], &[400]),
        (json, deep, &[400]),
        (json, vec![b' '; 9 << 20], &[400, 413]),
        (protobuf, vec![0xff; 100], &[400]),
        (protobuf, vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[400]),
        ("text/plain", b"{}".to_vec(), &[415]),
        ("", b"{}".to_vec(), &[415]),
    ];
    for path in ["/api/v1", "/api/v1/executor", "/slave(1)/api/v1"] {
        for (media, body, expect) in &bodies {
            let (status, answer) = post(&world, path, media, body.clone()).await;
            // To the executor API a call of the operator API is one without the ids that are required.
            let shown = &body[..body.len().min(60)];
            assert!(
                expect.contains(&status) || (path.ends_with("executor") && status == 400),
                "{path} {media} {:?}: {status} {}",
                String::from_utf8_lossy(shown),
                String::from_utf8_lossy(&answer)
            );
        }
        assert_eq!(world.get(path).await.0, 405, "{path}");
    }
    for (path, expect) in [
        ("/files/read", 400),
        ("/files/read?path=", 400),
        ("/files/read?path=/etc/passwd", 404),
        ("/files/read?path=/etc/passwd&offset=-2", 400),
        ("/files/read?path=/etc/passwd&offset=x", 400),
        ("/files/read?path=/etc/passwd&length=99999999999999999999", 400),
        ("/files/browse?path=/", 404),
        ("/files/browse?path=%00", 404),
        ("/files/download?path=..%2f..%2fetc%2fpasswd", 404),
        ("/no/such/thing", 404),
        ("/state/../../etc", 404),
    ] {
        assert_eq!(world.get(path).await.0, expect, "{path}");
    }
    assert_eq!(post(&world, "/state", json, vec![]).await.0, 405);
    assert_eq!(world.get("/health").await.0, 200);
    assert!(!world.log().contains("panicked"), "{}", world.log());
}
