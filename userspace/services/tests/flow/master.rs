//! A master that does as the test says and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::StreamExt;
use plenum_api::codec::{self, Encoding};
use plenum_api::mesos::{Offer, Resource, TaskInfo, TaskState, TaskStatus, offer, resource, value};
use plenum_api::scheduler::{Call, Event, call, event};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

#[derive(Debug, Default)]
struct Seen {
    calls: Vec<Call>,
    stream: Option<mpsc::UnboundedSender<Bytes>>,
    ended: usize,
    number: u8,
}

/// The master. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Master {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Master {
    pub async fn start() -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let app = axum::Router::new().fallback(serve).with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, seen }
    }

    fn send(&self, kind: event::Type, fill: impl FnOnce(&mut Event)) {
        let mut event = Event { r#type: Some(kind.into()), ..Default::default() };
        fill(&mut event);
        let seen = self.seen.lock().unwrap();
        seen.stream.as_ref().expect("subscribed").send(record(&event)).expect("the subscription lives");
    }

    /// Offers a node's resources.
    pub fn offer(&self, cpus: f64, mem: f64) {
        self.offer_to("*", vec![scalar("cpus", cpus), scalar("mem", mem)], true);
    }

    /// Offers these resources, and perhaps some ports, to a role.
    pub fn offer_to(&self, role: &str, mut resources: Vec<Resource>, ports: bool) {
        let number = self.next();
        if ports {
            resources.push(Resource {
                name: "ports".to_owned(),
                r#type: value::Type::Ranges.into(),
                ranges: Some(value::Ranges { range: vec![value::Range { begin: 31000, end: 31100 }] }),
                ..Default::default()
            });
        }
        let allocation = resource::AllocationInfo { role: Some(role.to_owned()) };
        let offer = Offer {
            id: format!("O{number}").into(),
            framework_id: "F".into(),
            agent_id: "A".into(),
            hostname: "node".to_owned(),
            resources,
            allocation_info: Some(allocation),
            ..Default::default()
        };
        self.send(event::Type::Offers, |e| e.offers = Some(event::Offers { offers: vec![offer] }));
    }

    /// The operations of the n-th ACCEPT.
    pub async fn accepted(&self, n: usize) -> Vec<offer::Operation> {
        let nth = |calls: &[Call]| calls.iter().filter_map(|c| c.accept.as_ref()).nth(n - 1).cloned();
        self.wait("accept", nth).await.operations
    }

    fn next(&self) -> u8 {
        let mut seen = self.seen.lock().unwrap();
        seen.number += 1;
        seen.number
    }

    /// Sends what an executor says.
    pub fn message(&self, task: &TaskInfo, data: &'static [u8]) {
        let (agent_id, executor_id) = (task.agent_id.clone(), task.task_id.value.as_str().into());
        let message = event::Message { agent_id, executor_id, data: Bytes::from_static(data) };
        self.send(event::Type::Message, |e| e.message = Some(message));
    }

    /// Breaks the subscription off.
    pub fn hang_up(&self) {
        self.seen.lock().unwrap().stream = None;
    }

    /// Reports a task's state.
    pub fn update(&self, task: &TaskInfo, state: &str, healthy: Option<bool>) {
        let status = TaskStatus {
            task_id: task.task_id.clone(),
            state: TaskState::from_str_name(state).unwrap().into(),
            agent_id: Some(task.agent_id.clone()),
            uuid: Some(Bytes::from(vec![self.next(); 16])),
            healthy,
            message: (healthy == Some(false)).then(|| "Health check timed out".to_owned()),
            ..Default::default()
        };
        self.send(event::Type::Update, |e| e.update = Some(event::Update { status }));
    }

    /// Waits until what was asked fits.
    async fn wait<T>(&self, what: &str, look: impl Fn(&[Call]) -> Option<T>) -> T {
        for _ in 0..3000 {
            if let Some(found) = look(&self.seen.lock().unwrap().calls) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let kinds: Vec<_> = self.seen.lock().unwrap().calls.iter().map(|c| c.r#type()).collect();
        panic!("no {what}: {kinds:?}");
    }

    /// All tasks launched so far, once there are `count`.
    pub async fn launched(&self, count: usize) -> Vec<TaskInfo> {
        self.wait("launch", |calls| {
            let accepts = calls.iter().filter_map(|c| c.accept.as_ref()).flat_map(|a| &a.operations);
            let tasks: Vec<TaskInfo> =
                accepts.filter_map(|o| o.launch.as_ref()).flat_map(|l| l.task_infos.clone()).collect();
            (tasks.len() >= count).then_some(tasks)
        })
        .await
    }

    /// How many calls were made so far.
    pub fn calls(&self) -> usize {
        self.seen.lock().unwrap().calls.len()
    }

    /// Launches and kills among the calls after the first `calls`.
    pub fn launches_since(&self, calls: usize) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.calls.iter().skip(calls).filter(|call| call.accept.is_some() || call.kill.is_some()).count()
    }

    /// Waits for so many acknowledgements.
    pub async fn acknowledged(&self, count: usize) {
        self.count("acknowledgement", call::Type::Acknowledge, count).await;
    }

    /// Waits for so many revivals.
    pub async fn revived(&self, count: usize) {
        self.count("revive", call::Type::Revive, count).await;
    }

    async fn count(&self, what: &str, kind: call::Type, count: usize) {
        self.wait(what, |calls| (calls.iter().filter(|c| c.r#type() == kind).count() >= count).then_some(()))
            .await;
    }

    /// Waits for a reconciliation that names tasks.
    pub async fn reconciled(&self) {
        let named = |c: &Call| c.reconcile.as_ref().is_some_and(|r| !r.tasks.is_empty());
        self.wait("reconciliation", |calls| calls.iter().any(named).then_some(())).await;
    }

    /// Ends tasks as they are asked to, until it is so many over the master's whole life.
    pub async fn end_killed(&self, count: usize) {
        loop {
            let done = self.seen.lock().unwrap().ended;
            if done >= count {
                return;
            }
            let kill = self.wait("kill", |calls| calls.iter().filter_map(|c| c.kill.clone()).nth(done)).await;
            self.seen.lock().unwrap().ended += 1;
            let task = TaskInfo { task_id: kill.task_id, agent_id: "A".into(), ..Default::default() };
            self.update(&task, "TASK_KILLED", None);
        }
    }

    /// The ids that subscriptions came with.
    pub fn framework_ids(&self) -> Vec<Option<String>> {
        let seen = self.seen.lock().unwrap();
        let subscriptions = seen.calls.iter().filter(|c| c.r#type() == call::Type::Subscribe);
        subscriptions.map(|c| c.framework_id.as_ref().map(|id| id.value.clone())).collect()
    }
}

/// So much of something.
pub fn scalar(name: &str, n: f64) -> Resource {
    Resource {
        name: name.to_owned(),
        r#type: value::Type::Scalar.into(),
        scalar: Some(value::Scalar { value: n }),
        ..Default::default()
    }
}

fn record(event: &Event) -> Bytes {
    plenum_api::recordio::encode(&codec::encode(Encoding::Protobuf, event))
}

async fn serve(State(seen): State<Arc<Mutex<Seen>>>, request: Request) -> Response {
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let call: Call = codec::decode(Encoding::Protobuf, &body).unwrap();
    let subscribe = call.r#type() == call::Type::Subscribe;
    let mut seen = seen.lock().unwrap();
    seen.calls.push(call);
    if !subscribe {
        return Response::builder().status(202).body(Body::empty()).unwrap();
    }
    let (to, from) = mpsc::unbounded_channel();
    let subscribed = event::Subscribed { framework_id: "F".into(), ..Default::default() };
    let event = Event {
        r#type: Some(event::Type::Subscribed.into()),
        subscribed: Some(subscribed),
        ..Default::default()
    };
    to.send(record(&event)).unwrap();
    seen.stream = Some(to);
    Response::builder()
        .header("content-type", "application/x-protobuf")
        .header("mesos-stream-id", "S")
        .body(Body::from_stream(UnboundedReceiverStream::new(from).map(Ok::<_, std::convert::Infallible>)))
        .unwrap()
}
