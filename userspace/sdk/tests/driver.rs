//! The drivers against a master in this process that follows a script: what is sent, and what comes of chunking,
//! redirects, refusals, silence and errors.
#![allow(clippy::unwrap_used)] // A test ends where something unexpected happens.

mod fleet;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use plenum_sdk::mesos::{self, FrameworkInfo};
use plenum_sdk::scheduler::{self, Call, Event, Events, Happening, Options, event};
use plenum_sdk::{Client, Credentials, Encoding, operator};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// What the master does with the next subscription.
enum Step {
    /// Streams what the sender gives, in these very chunks.
    Stream(mpsc::UnboundedReceiver<Bytes>),
    /// Points elsewhere.
    Redirect(String),
    /// Refuses.
    Status(u16),
}

#[derive(Default)]
struct Script {
    steps: VecDeque<Step>,
    calls: Vec<(Option<String>, Option<String>, Value)>,
}

type Shared = Arc<Mutex<Script>>;

/// A master on a port of its own; it ends with the test's runtime.
async fn master() -> (SocketAddr, Shared) {
    let shared = Shared::default();
    let app = axum::Router::new().fallback(serve).with_state(shared.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, shared)
}

async fn serve(State(shared): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let media = header("content-type").unwrap();
    let encoding = Encoding::from_media_type(&media).unwrap();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    // Both APIs have the call's type in a field of that name.
    let call: Value = match (encoding, head.uri.path()) {
        (Encoding::Json, _) => serde_json::from_slice(&body).unwrap(),
        (_, "/api/v1/scheduler") => {
            serde_json::to_value(plenum_api::codec::decode::<Call>(encoding, &body).unwrap()).unwrap()
        }
        _ => serde_json::to_value(plenum_api::codec::decode::<operator::Call>(encoding, &body).unwrap())
            .unwrap(),
    };
    let subscribe = call["type"] == "SUBSCRIBE";
    let step = {
        let mut script = shared.lock().unwrap();
        script.calls.push((header("mesos-stream-id"), header("authorization"), call));
        if subscribe { script.steps.pop_front().unwrap_or(Step::Status(503)) } else { Step::Status(202) }
    };
    match step {
        Step::Stream(chunks) => Response::builder()
            .header("content-type", media)
            .header("mesos-stream-id", "S1")
            .body(Body::from_stream(
                UnboundedReceiverStream::new(chunks).map(Ok::<_, std::convert::Infallible>),
            ))
            .unwrap(),
        Step::Redirect(location) => {
            Response::builder().status(307).header("location", location).body(Body::empty()).unwrap()
        }
        Step::Status(status) => Response::builder().status(status).body(Body::from("no")).unwrap(),
    }
}

/// Adds a subscription to the script; what is sent goes to the driver.
fn stream(shared: &Shared) -> mpsc::UnboundedSender<Bytes> {
    let (to, from) = mpsc::unbounded_channel();
    shared.lock().unwrap().steps.push_back(Step::Stream(from));
    to
}

fn record(encoding: Encoding, event: &Event) -> Bytes {
    plenum_api::recordio::encode(&plenum_api::codec::encode(encoding, event))
}

fn subscribed(heartbeat: f64) -> Event {
    let subscribed = event::Subscribed {
        framework_id: "F".into(),
        heartbeat_interval_seconds: Some(heartbeat),
        ..Default::default()
    };
    Event { r#type: Some(event::Type::Subscribed.into()), subscribed: Some(subscribed), ..Default::default() }
}

fn update(task: &str) -> Event {
    let status = mesos::TaskStatus {
        task_id: task.into(),
        state: mesos::TaskState::TaskRunning.into(),
        agent_id: Some("A".into()),
        uuid: Some(Bytes::from_static(&[7; 16])),
        ..Default::default()
    };
    let update = Some(event::Update { status });
    Event { r#type: Some(event::Type::Update.into()), update, ..Default::default() }
}

fn options(masters: &[SocketAddr]) -> Options {
    let framework = FrameworkInfo { user: "u".into(), name: "n".into(), ..Default::default() };
    let mut options = Options::new(masters.iter().map(ToString::to_string), framework);
    options.pause = (Duration::from_millis(1), Duration::from_millis(20));
    options
}

async fn next(events: &mut Events) -> Happening {
    tokio::time::timeout(Duration::from_secs(20), events.next())
        .await
        .expect("something happens")
        .expect("the driver lives")
}

fn client() -> Client {
    Client::plain().unwrap()
}

/// Waits until the master has seen a call of this type.
async fn seen(shared: &Shared, kind: &str) -> (Option<String>, Option<String>, Value) {
    for _ in 0..2000 {
        let found = shared.lock().unwrap().calls.iter().find(|c| c.2["type"] == kind).cloned();
        if let Some(call) = found {
            return call;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no {kind} was sent");
}

#[tokio::test]
async fn records_come_whole_however_they_are_cut_in_both_encodings() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let (address, shared) = master().await;
        let to = stream(&shared);
        let (scheduler, mut events) =
            scheduler::connect(client(), Options { encoding, auto_acknowledge: true, ..options(&[address]) });
        let mut bytes = record(encoding, &subscribed(15.0)).to_vec();
        bytes.extend(record(encoding, &update("t1")));
        bytes.extend(record(
            encoding,
            &Event { r#type: Some(event::Type::Heartbeat.into()), ..Default::default() },
        ));
        bytes.extend(record(encoding, &update("t2")));
        for piece in bytes.chunks(3) {
            to.send(Bytes::copy_from_slice(piece)).unwrap();
        }
        assert!(
            matches!(next(&mut events).await, Happening::Subscribed { framework_id, .. } if framework_id.value == "F")
        );
        for task in ["t1", "t2"] {
            assert_eq!(next(&mut events).await, Happening::Event(Box::new(update(task))), "{encoding:?}");
        }
        let (stream_id, _, call) = seen(&shared, "ACKNOWLEDGE").await;
        assert_eq!((stream_id.as_deref(), &call["framework_id"]["value"]), (Some("S1"), &json!("F")));
        scheduler.kill("t1".into(), None, None).await.unwrap();
        assert_eq!(seen(&shared, "KILL").await.2["kill"]["task_id"]["value"], "t1");
    }
}

#[tokio::test]
async fn redirects_and_masters_that_do_not_lead_are_passed_over() {
    let (leader, led) = master().await;
    let (other, script) = master().await;
    script.lock().unwrap().steps.extend([
        Step::Redirect("//127.0.0.9:1/api/v1/scheduler".into()),
        Step::Redirect(format!("//{leader}/api/v1/scheduler")),
    ]);
    led.lock().unwrap().steps.push_back(Step::Status(503));
    let to = stream(&led);
    to.send(record(Encoding::Protobuf, &subscribed(15.0))).unwrap();
    let (_scheduler, mut events) = scheduler::connect(client(), options(&[other, leader]));
    let happening = next(&mut events).await;
    assert!(
        matches!(happening, Happening::Subscribed { master, .. } if master == format!("http://{leader}"))
    );
    assert_eq!(led.lock().unwrap().calls.len(), 2);
    assert_eq!(script.lock().unwrap().calls.len(), 2, "nobody outside the list was asked");
}

#[tokio::test]
async fn a_lost_subscription_is_taken_up_again_with_the_same_id() {
    let (address, shared) = master().await;
    let (first, second) = (stream(&shared), stream(&shared));
    let (scheduler, mut events) = scheduler::connect(client(), options(&[address]));
    first.send(record(Encoding::Protobuf, &subscribed(15.0))).unwrap();
    assert!(matches!(next(&mut events).await, Happening::Subscribed { .. }));
    assert!(scheduler.is_subscribed());
    // Within a record.
    first.send(Bytes::from_static(b"100\nabc")).unwrap();
    drop(first);
    assert!(matches!(next(&mut events).await, Happening::Disconnected { .. }));
    second.send(record(Encoding::Protobuf, &subscribed(15.0))).unwrap();
    assert!(matches!(next(&mut events).await, Happening::Subscribed { .. }));
    let calls = shared.lock().unwrap().calls.clone();
    assert_eq!(calls[0].2["framework_id"], Value::Null);
    assert_eq!(calls[1].2["framework_id"]["value"], "F");
    assert_eq!(calls[1].2["subscribe"]["framework_info"]["id"]["value"], "F");
}

#[tokio::test]
async fn a_silent_master_is_given_up_after_five_heartbeats() {
    let (address, shared) = master().await;
    let (first, second) = (stream(&shared), stream(&shared));
    let (_scheduler, mut events) = scheduler::connect(client(), options(&[address]));
    let begin = std::time::Instant::now();
    first.send(record(Encoding::Protobuf, &subscribed(0.05))).unwrap();
    second.send(record(Encoding::Protobuf, &subscribed(15.0))).unwrap();
    assert!(matches!(next(&mut events).await, Happening::Subscribed { .. }));
    assert!(matches!(next(&mut events).await, Happening::Disconnected { .. }));
    assert!(begin.elapsed() >= Duration::from_millis(250));
    assert!(matches!(next(&mut events).await, Happening::Subscribed { .. }));
}

#[tokio::test]
async fn an_error_event_and_a_refusal_end_the_driver() {
    let (address, shared) = master().await;
    let to = stream(&shared);
    let (scheduler, mut events) = scheduler::connect(client(), options(&[address]));
    to.send(record(Encoding::Protobuf, &subscribed(15.0))).unwrap();
    let error = Some(event::Error { message: "Framework has been removed".to_owned() });
    let error = Event { r#type: Some(event::Type::Error.into()), error, ..Default::default() };
    to.send(record(Encoding::Protobuf, &error)).unwrap();
    assert!(matches!(next(&mut events).await, Happening::Subscribed { .. }));
    assert_eq!(
        next(&mut events).await,
        Happening::Failed { reason: "Framework has been removed".to_owned() }
    );
    assert_eq!(events.next().await, None);
    assert!(scheduler.revive(Vec::new()).await.is_err());

    shared.lock().unwrap().steps.push_back(Step::Status(400));
    let (_scheduler, mut events) = scheduler::connect(client(), options(&[address]));
    assert!(matches!(next(&mut events).await, Happening::Failed { .. }));
}

#[tokio::test]
async fn credentials_go_with_each_call() {
    let (address, shared) = master().await;
    let to = stream(&shared);
    let credentials = Credentials::Basic { principal: "p".to_owned(), secret: "s".to_owned() };
    let (scheduler, mut events) =
        scheduler::connect(client().with_credentials(credentials), options(&[address]));
    to.send(record(Encoding::Protobuf, &subscribed(15.0))).unwrap();
    next(&mut events).await;
    scheduler.decline(vec!["o".into()], 1.0).await.unwrap();
    assert_eq!(seen(&shared, "SUBSCRIBE").await.1.as_deref(), Some("Basic cDpz"));
    assert_eq!(seen(&shared, "DECLINE").await.1.as_deref(), Some("Basic cDpz"));
}

#[tokio::test]
async fn the_operator_stream_is_taken_up_again() {
    let (address, shared) = master().await;
    let (first, second) = (stream(&shared), stream(&shared));
    let heartbeat =
        operator::Event { r#type: Some(operator::event::Type::Heartbeat.into()), ..Default::default() };
    let bytes = plenum_api::recordio::encode(&plenum_api::codec::encode(Encoding::Protobuf, &heartbeat));
    first.send(bytes.clone()).unwrap();
    drop(first);
    second.send(bytes).unwrap();
    let operator = operator::Operator::new(client(), [address.to_string()]);
    let mut events = operator.subscribe();
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let next = tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
        kinds.push(matches!(next, operator::Happening::Event(_)));
    }
    assert_eq!(kinds, [true, false, true]);
    let call = operator::Call { r#type: Some(operator::call::Type::GetHealth.into()), ..Default::default() };
    // 202 with a body that is no message: an answer without content is none, anything else is named.
    assert!(operator.call(&call).await.is_err());
}
