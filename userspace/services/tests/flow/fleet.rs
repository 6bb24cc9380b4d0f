//! Several schedulers on one etcd: who leads, who takes over, and what is never done twice.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, Method};
use plenum_base::client::{Client, ClientError, full};
use plenum_base::service::Shutdown;
use plenum_services::http::About;
use plenum_services::shell::{Phase, Setup, contend};
use plenum_store::{Entry, Leadership, LeaseId, Page, Range, Revision, Store, StoreError, Txn, Watch};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::etcd::{self, Server};
use super::master::Master;

const LEASE: Duration = Duration::from_secs(2);

/// Where the store lets its scheduler die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    /// Never.
    None,
    /// The transaction of the write is not sent.
    Before,
    /// It is carried out, and nobody hears of it.
    After,
}

/// A store that stands still at the step: what asked it goes no further, as if it had been killed there.
#[derive(Debug)]
struct Fatal {
    store: Arc<dyn Store>,
    step: Arc<AtomicU8>,
}

#[async_trait]
impl Store for Fatal {
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        let is_write = txn.ops.iter().any(|op| op.key().starts_with("once/"));
        let step = self.step.load(Ordering::SeqCst);
        if is_write && step == Step::Before as u8 {
            std::future::pending::<()>().await;
        }
        let done = self.store.commit(txn).await;
        if is_write && step == Step::After as u8 {
            std::future::pending::<()>().await;
        }
        done
    }
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.store.range(range).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.store.watch(prefix, after).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.store.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }
    async fn campaign(
        &self,
        election: &str,
        candidate: &str,
        ttl: Duration,
    ) -> Result<Leadership, StoreError> {
        self.store.campaign(election, candidate, ttl).await
    }
}

/// One scheduler, with a runtime of its own so that all of it can be killed at once.
struct One {
    runtime: Option<tokio::runtime::Runtime>,
    address: SocketAddr,
    step: Arc<AtomicU8>,
}

async fn run(
    endpoint: String,
    step: Arc<AtomicU8>,
    master: SocketAddr,
    listener: tokio::net::TcpListener,
) -> String {
    let store = Arc::new(Fatal { store: etcd::connect(&endpoint).await, step });
    let setup = Setup::new(vec![format!("http://{master}")], Client::plain().unwrap());
    let address = listener.local_addr().unwrap();
    let (phase, phases) = watch::channel(Phase::Standby(None));
    let about = About { leader: address.to_string(), ha: true, ..About::default() };
    let router = plenum_services::http::front(phases, about);
    let serving: JoinHandle<()> = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let ended = contend(setup, store, &format!("http://{address}"), LEASE, phase, &Shutdown::new()).await;
    serving.abort();
    format!("{ended:?}")
}

impl One {
    fn start(endpoint: &str, master: &Master) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let step = Arc::new(AtomicU8::new(Step::None as u8));
        let (endpoint, counted, master) = (endpoint.to_owned(), step.clone(), master.address);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            run(endpoint, counted, master, listener).await
        });
        Self { runtime: Some(runtime), address, step }
    }

    /// Ends it wherever it stands; nothing is given back.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    async fn leads(&self) -> u64 {
        for _ in 0..4000 {
            if let Ok((200, _, answer)) = send(self.address, "GET", "/leader", None, None).await
                && answer["self"] == true
            {
                return answer["term"].as_u64().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} does not lead", self.address);
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: Option<&Value>,
) -> Result<(u16, HeaderMap, Value), ClientError> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let body = body.map_or(Vec::new(), |body| body.to_string().into_bytes());
    let mut call = Client::plain().unwrap().call(method, &format!("http://{to}{path}")).body(full(body));
    if let Some(key) = key {
        call = call.header(HeaderName::from_static("idempotency-key"), key);
    }
    let reply = call.deadline(Duration::from_secs(15)).send().await?;
    let (status, headers) = (reply.status.as_u16(), reply.headers.clone());
    let bytes = reply.bytes().await?;
    Ok((status, headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}

async fn until(to: SocketAddr, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..2000 {
        if let Ok((200, _, answer)) = send(to, "GET", path, None, None).await {
            last = answer;
            if fits(&last) {
                return last;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("GET {path} stays {last}");
}

fn app(id: &str, instances: u32) -> Value {
    json!({"id": id, "cmd": "run", "cpus": 0.1, "mem": 32, "instances": instances, "portDefinitions": []})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_at_any_step_of_a_write_leaves_it_to_be_repeated_once() {
    let (etcd, master) = (Server::start().await, Master::start().await);
    let mut leader = One::start(&etcd.endpoint, &master);
    let mut term = leader.leads().await;
    for (n, step) in [Step::Before, Step::After, Step::None].into_iter().enumerate() {
        let other = One::start(&etcd.endpoint, &master);
        let (key, id) = (format!("key {n}"), format!("/app{n}"));
        let (path, body) = ("/v2/apps", app(&id, 1));
        // One that stands by sends everybody to the leader.
        let leading = format!("http://{}", leader.address);
        until(other.address, "/leader", |answer| {
            answer["leader"] == leading.as_str() && answer["self"] == false
        })
        .await;
        let (status, headers, _) =
            send(other.address, "POST", "/v2/apps?x=1", Some(&key), Some(&body)).await.unwrap();
        assert_eq!(
            (status, headers["location"].to_str().unwrap()),
            (307, format!("{leading}/v2/apps?x=1").as_str())
        );
        assert_eq!(send(other.address, "GET", "/ping", None, None).await.unwrap().0, 200);
        let marathons = send(other.address, "GET", "/v2/leader", None, None).await.unwrap().2;
        assert_eq!(marathons["leader"], leader.address.to_string());

        leader.step.store(step as u8, Ordering::SeqCst);
        let first = if step == Step::None {
            Some(send(leader.address, "POST", path, Some(&key), Some(&body)).await.unwrap())
        } else {
            let (to, key, body) = (leader.address, key.clone(), body.clone());
            let asking = tokio::spawn(async move { send(to, "POST", path, Some(&key), Some(&body)).await });
            // It stands still at the step; whether the transaction was carried out is seen in the store.
            let store = etcd.store().await;
            if step == Step::After {
                for _ in 0..1000 {
                    let outcomes = store.range(Range::prefix("once/")).await.unwrap().entries;
                    if outcomes.len() > n - 1 {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } else {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            assert!(!asking.is_finished(), "nobody hears of it");
            leader.kill();
            assert!(asking.await.unwrap().is_err());
            None
        };
        leader.kill();
        let begin = Instant::now();
        let next = other.leads().await;
        assert!(next > term && begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
        (term, leader) = (next, other);

        let (status, headers, answer) =
            send(leader.address, "POST", path, Some(&key), Some(&body)).await.unwrap();
        assert_eq!((status, &answer["id"]), (201, &json!(id)), "{step:?}: {answer}");
        if let Some((status_before, headers_before, answer_before)) = first {
            assert_eq!((status, &answer), (status_before, &answer_before));
            assert_eq!(headers["marathon-deployment-id"], headers_before["marathon-deployment-id"]);
        }
        let again = send(leader.address, "POST", path, Some(&key), Some(&body)).await.unwrap();
        assert_eq!((again.0, again.2), (status, answer), "a repetition gets the same answer");
        let versions = until(leader.address, &format!("/v2/apps{id}/versions"), |_| true).await;
        assert_eq!(versions["versions"].as_array().unwrap().len(), 1, "{step:?}: it was applied once");
        let (status, _, refusal) =
            send(leader.address, "POST", path, Some(&key), Some(&app("/other", 1))).await.unwrap();
        assert_eq!(status, 422, "{refusal}");
        // Without the key it is another request.
        assert_eq!(send(leader.address, "POST", path, None, Some(&body)).await.unwrap().0, 409);
    }
    let ids = master.framework_ids();
    assert!(ids.iter().skip(1).all(|id| id.as_deref() == Some("F")), "the framework goes on: {ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_change_goes_on_under_the_next_leader() {
    let (etcd, master) = (Server::start().await, Master::start().await);
    let mut first = One::start(&etcd.endpoint, &master);
    first.leads().await;
    until(first.address, "/v2/info", |info| info["frameworkId"] == "F").await;
    assert_eq!(send(first.address, "POST", "/v2/apps", None, Some(&app("/web", 3))).await.unwrap().0, 201);
    master.offer(4.0, 1000.0);
    let old = master.launched(3).await;
    for task in &old {
        master.update(task, "TASK_RUNNING", None);
    }
    until(first.address, "/v2/deployments", |list| *list == json!([])).await;
    let change =
        json!({"cmd": "run2", "upgradeStrategy": {"minimumHealthCapacity": 1, "maximumOverCapacity": 0.4}});
    let (status, _, answer) =
        send(first.address, "PUT", "/v2/apps/web", Some("roll"), Some(&change)).await.unwrap();
    assert_eq!(status, 200);
    master.offer(4.0, 1000.0);
    let fourth = master.launched(4).await.remove(3);
    // The leader dies with one of three replaced halfway.
    let second = One::start(&etcd.endpoint, &master);
    first.kill();
    second.leads().await;
    until(second.address, "/v2/info", |info| info["frameworkId"] == "F").await;
    let again = send(second.address, "PUT", "/v2/apps/web", Some("roll"), Some(&change)).await.unwrap();
    assert_eq!((again.0, &again.2), (200, &answer), "the change is known and not made again");
    for task in old.iter().chain([&fourth]) {
        master.update(task, "TASK_RUNNING", None);
    }
    for count in 1..=3 {
        master.end_killed(count).await;
        if count < 3 {
            master.offer(4.0, 1000.0);
            let task = master.launched(4 + count).await.remove(3 + count);
            master.update(&task, "TASK_RUNNING", None);
        }
    }
    until(second.address, "/v2/deployments", |list| *list == json!([])).await;
    let shown = until(second.address, "/v2/apps/web", |app| app["app"]["tasksRunning"] == 3).await;
    assert_eq!(shown["app"]["cmd"], "run2");
    let launched = master.launched(6).await;
    let ids: std::collections::BTreeSet<_> = launched.iter().map(|task| task.task_id.value.clone()).collect();
    assert_eq!((launched.len(), ids.len()), (6, 6), "three old, three new, none twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_apps_are_taken_over_quickly() {
    let (etcd, master) = (Server::start().await, Master::start().await);
    let mut first = One::start(&etcd.endpoint, &master);
    first.leads().await;
    for part in 0..20 {
        let apps: Vec<Value> = (0..50).map(|n| app(&format!("/g{part}/a{n}"), 1)).collect();
        let (status, _, answer) =
            send(first.address, "PUT", "/v2/apps", None, Some(&json!(apps))).await.unwrap();
        assert_eq!(status, 200, "{answer}");
    }
    let before = master.framework_ids().len();
    let second = One::start(&etcd.endpoint, &master);
    first.kill();
    second.leads().await;
    let begin = Instant::now();
    while master.framework_ids().len() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let subscribed = begin.elapsed();
    println!("1,000 apps: subscribed again {} ms after the election", subscribed.as_millis());
    // Generous: tests run unoptimised and side by side.
    assert!(subscribed < Duration::from_secs(3), "{subscribed:?}");
    let apps = until(second.address, "/v2/apps", |_| true).await;
    assert_eq!(apps["apps"].as_array().unwrap().len(), 1000);
}

/// The scheduler of a process of its own; a test starts this very program for it.
#[tokio::test]
async fn helper_of_the_stopped_leader() {
    let Ok(text) = std::env::var("PLENUM_TEST_SCHEDULER") else { return };
    let [endpoint, master, listen] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    let step = Arc::new(AtomicU8::new(Step::None as u8));
    let ended = run(endpoint.to_owned(), step, master.parse().unwrap(), listener).await;
    std::process::exit(if ended.contains("Deposed") { 75 } else { 1 });
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).status();
        assert!(status.unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_does_nothing_when_it_goes_on() {
    let (etcd, master) = (Server::start().await, Master::start().await);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "flow::fleet::helper_of_the_stopped_leader"])
        .env("PLENUM_TEST_SCHEDULER", format!("{} {} {address}", etcd.endpoint, master.address))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut process = Process(child.unwrap());
    until(address, "/v2/info", |info| info["frameworkId"] == "F").await;
    assert_eq!(send(address, "POST", "/v2/apps", None, Some(&app("/web", 2))).await.unwrap().0, 201);
    let old = until(address, "/leader", |answer| answer["self"] == true).await;
    process.signal("STOP");
    // What it finds when it goes on: an offer for what it misses, and a request.
    master.offer(4.0, 1000.0);
    let late =
        tokio::spawn(
            async move { send(address, "POST", "/v2/apps", Some("late"), Some(&app("/late", 1))).await },
        );
    let next = One::start(&etcd.endpoint, &master);
    assert!(next.leads().await > old["term"].as_u64().unwrap());
    until(next.address, "/v2/info", |info| info["frameworkId"] == "F").await;
    let calls = master.calls();
    process.signal("CONT");
    let status = tokio::task::spawn_blocking(move || process.0.wait().unwrap()).await.unwrap();
    assert_eq!(status.code(), Some(75), "it ends by itself");
    let answered = late.await.unwrap();
    assert!(!matches!(answered, Ok((200..=299, ..))), "{answered:?}");
    assert_eq!(master.launches_since(calls), 0, "the old leader's offer is not used");
    assert_eq!(send(next.address, "GET", "/v2/apps/late", None, None).await.unwrap().0, 404);
    master.offer(4.0, 1000.0);
    assert_eq!(master.launched(2).await.len(), 2);
    assert_eq!(
        send(next.address, "POST", "/v2/apps", Some("late"), Some(&app("/late", 1))).await.unwrap().0,
        201
    );
}
