//! A master that has everything a scheduler asks for: every task it is asked about runs and is healthy, every launch runs at once. It knows
//! nothing that it was not told, so that a scheduler that remembers 100,000 instances finds them all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use plenum_api::codec::{self, Encoding};
use plenum_api::mesos::{AgentId, Offer, TaskId, TaskState, TaskStatus};
use plenum_api::resources::Resources;
use plenum_api::scheduler::{Call, Event, call, event};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::seed::{NODES, agent};

/// Resources of each node, offered anew each time.
const RESOURCES: &str = "cpus:64;mem:131072;disk:1048576;ports:[1025-65000]";
/// Nodes that are offered when offers are asked for.
const OFFERED: usize = 10;
/// Seconds between heartbeats.
const HEARTBEAT: f64 = 15.0;

#[derive(Debug, Default)]
struct Books {
    stream: Option<mpsc::UnboundedSender<Bytes>>,
    numbers: u64,
}

type Shared = Arc<Mutex<Books>>;

/// Serves until the runtime ends.
pub async fn serve() -> Result<SocketAddr> {
    let books: Shared = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.88.202.1:0").await?;
    let address = listener.local_addr()?;
    let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&books));
    tokio::spawn(async move { axum::serve(listener, app).await });
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs_f64(HEARTBEAT)).await;
            let beat = Event { r#type: Some(event::Type::Heartbeat.into()), ..Default::default() };
            books.lock().unwrap_or_else(PoisonError::into_inner).say(&[beat]);
        }
    });
    Ok(address)
}

async fn answer(State(books): State<Shared>, request: Request) -> Response {
    let refuse = |status: u16| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        response
    };
    let Ok(body) = axum::body::to_bytes(request.into_body(), 64 << 20).await else { return refuse(400) };
    let Ok(call) = codec::decode::<Call>(Encoding::Protobuf, &body) else { return refuse(400) };
    let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
    if call.r#type() == call::Type::Subscribe {
        return books.subscribe(&call);
    }
    books.obey(call);
    refuse(202)
}

impl Books {
    fn subscribe(&mut self, call: &Call) -> Response {
        let (to, from) = mpsc::unbounded_channel();
        self.stream = Some(to);
        let subscribed = event::Subscribed {
            framework_id: call.framework_id.clone().unwrap_or_else(|| "F".into()),
            heartbeat_interval_seconds: Some(HEARTBEAT),
            ..Default::default()
        };
        self.say(&[Event {
            r#type: Some(event::Type::Subscribed.into()),
            subscribed: Some(subscribed),
            ..Default::default()
        }]);
        let body = UnboundedReceiverStream::new(from).map(Ok::<_, Infallible>);
        let mut response = Response::new(Body::from_stream(body));
        let headers = response.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static("application/x-protobuf"));
        headers.insert("mesos-stream-id", http::HeaderValue::from_static("S"));
        response
    }

    fn obey(&mut self, call: Call) {
        let mut news = Vec::new();
        for asked in call.reconcile.iter().flat_map(|reconcile| &reconcile.tasks) {
            news.push(self.update(&asked.task_id, asked.agent_id.clone(), TaskState::TaskRunning, false));
        }
        let operations = call.accept.iter().flat_map(|accept| &accept.operations);
        for task in operations.filter_map(|o| o.launch.as_ref()).flat_map(|launch| &launch.task_infos) {
            let agent = Some(task.agent_id.clone());
            news.push(self.update(&task.task_id, agent, TaskState::TaskRunning, true));
        }
        if let Some(kill) = &call.kill {
            news.push(self.update(&kill.task_id, kill.agent_id.clone(), TaskState::TaskKilled, true));
        }
        if call.r#type() == call::Type::Revive {
            news.extend(self.offers());
        }
        self.say(&news);
    }

    fn next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn update(
        &mut self,
        task: &TaskId,
        agent: Option<AgentId>,
        state: TaskState,
        acknowledge: bool,
    ) -> Event {
        let uuid = u128::from(self.next()).to_be_bytes().to_vec();
        let mut status = TaskStatus {
            task_id: task.clone(),
            agent_id: agent,
            uuid: acknowledge.then(|| uuid.into()),
            healthy: (state == TaskState::TaskRunning).then_some(true),
            ..Default::default()
        };
        status.set_state(state);
        Event {
            r#type: Some(event::Type::Update.into()),
            update: Some(event::Update { status }),
            ..Default::default()
        }
    }

    fn offers(&mut self) -> Option<Event> {
        let resources = Resources::parse(RESOURCES, "*").ok()?.to_mesos();
        let one = |number: u64| {
            let node = usize::try_from(number).unwrap_or(0) % NODES;
            Offer {
                id: format!("O{number}").into(),
                framework_id: "F".into(),
                agent_id: agent(node).into(),
                hostname: format!("node-{node}.sim"),
                resources: resources.clone(),
                ..Default::default()
            }
        };
        let offers: Vec<Offer> = (0..OFFERED).map(|_| one(self.next())).collect();
        Some(Event {
            r#type: Some(event::Type::Offers.into()),
            offers: Some(event::Offers { offers }),
            ..Default::default()
        })
    }

    fn say(&mut self, events: &[Event]) {
        let record = |event| plenum_api::recordio::encode(&codec::encode(Encoding::Protobuf, event));
        let bytes: Vec<u8> = events.iter().flat_map(record).collect();
        if let Some(stream) = self.stream.as_ref().filter(|_| !bytes.is_empty()) {
            // A scheduler that is gone subscribes again.
            let _ = stream.send(Bytes::from(bytes));
        }
    }
}
