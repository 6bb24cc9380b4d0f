//! Three masters' discoveries as processes on a real etcd, a node that follows them, and a played master that tells them what runs. Their
//! leader is killed, then the next one, then all: names keep their addresses and the node goes on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use plenum_base::pki::{Authority, LIFETIME, PeerName, San};
use plenum_base::places::{Bases, Role};
use plenum_base::serve::Server;
use plenum_base::service::Shutdown;
use plenum_base::tls::{ClientAuth, Identity};
use plenum_discovery::{Config, run};
use plenum_sdk::operator::Event;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixDatagram};
use tokio::sync::broadcast;

use crate::events::{added, snapshot, task, updated};

const PATIENCE: Duration = Duration::from_secs(40);

/// A child that ends with the test.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn etcd(dir: &Path) -> (Process, String) {
    let program = "/usr/bin/etcd";
    assert!(
        Path::new(program).exists(),
        "{program} is missing: this test needs Debian's package etcd-server"
    );
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (client, peer) = (format!("http://{}", free()), format!("http://{}", free()));
    let child = Command::new(program)
        .args(["--data-dir", dir.join("etcd").to_str().unwrap(), "--log-level", "error"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Process(child), client)
}

/// The leading master: tells everybody who subscribes what runs, and then each event.
#[derive(Clone)]
struct Master {
    base: String,
    tasks: Arc<Mutex<BTreeMap<String, Value>>>,
    events: broadcast::Sender<Event>,
}

impl Master {
    /// A task runs and is healthy from now on.
    fn start(&self, id: &str, port: u16) {
        let mut told = task(id, 0, port, "TASK_RUNNING");
        told["statuses"] = json!([{"task_id": {"value": id}, "state": "TASK_RUNNING", "healthy": true}]);
        self.tasks.lock().insert(id.to_owned(), told.clone());
        let _ = self.events.send(added(told));
        let _ = self.events.send(updated(id, "TASK_RUNNING", Some(true)));
    }
}

fn record(event: &Event) -> String {
    let body = serde_json::to_string(event).unwrap();
    format!("{}\n{body}", body.len())
}

async fn leader(State(master): State<Master>) -> axum::Json<Value> {
    axum::Json(json!({"leader": master.base, "self": true, "term": 1}))
}

async fn subscribe(State(master): State<Master>) -> axum::response::Response {
    let listener = master.events.subscribe();
    let first = record(&snapshot(&[0], &[], master.tasks.lock().values().cloned().collect()));
    let rest = stream::unfold(listener, |mut listener| async move {
        Some((record(&listener.recv().await.ok()?), listener))
    });
    let body = stream::once(async { first }).chain(rest).map(Ok::<_, std::convert::Infallible>);
    let reply = axum::response::Response::builder().header("content-type", "application/json");
    reply.body(Body::from_stream(body)).unwrap()
}

struct Fleet {
    dir: tempfile::TempDir,
    authority: Authority,
    block: [u8; 3],
    etcd: String,
    client: plenum_sdk::Client,
}

impl Fleet {
    fn address(&self, n: u8) -> IpAddr {
        let [a, b, c] = self.block;
        Ipv4Addr::new(a, b, c, n).into()
    }

    /// A host's discovery: on a master for `n` up to 3.
    fn config(&self, n: u8, life: &str) -> Config {
        let base = self.dir.path().join(format!("{n}-{life}"));
        let bases = Bases { state: base.join("s"), run: base.join("r"), root: false };
        let places = bases.places("fleet".parse().unwrap(), 0);
        places.create().unwrap();
        let mut config = Config::at(&places);
        let address = self.address(n);
        config.component.listen = SocketAddr::new(address, Role::Discovery.port());
        config.component.open = true;
        config.component.masters = (1..=3).map(|n| self.address(n)).collect();
        config.dns = SocketAddr::new(address, 1053);
        config.resolv_conf = base.join("no-resolv.conf");
        config.store.etcd = n <= 3;
        config.store.endpoints = if n <= 3 { vec![self.etcd.clone()] } else { Vec::new() };
        let (chain, key) = self.issue("discovery", address);
        let files = places.identity(Role::Discovery);
        std::fs::create_dir_all(files.cert.parent().unwrap()).unwrap();
        std::fs::write(&files.ca, self.authority.certificate_pem()).unwrap();
        std::fs::write(&files.key, key).unwrap();
        std::fs::write(&files.cert, chain).unwrap();
        config
    }

    fn issue(&self, role: &str, address: IpAddr) -> (String, String) {
        let name = PeerName::new("fleet", role, role).unwrap();
        self.authority.issue_fresh(&name, &[San::Ip(address)], SystemTime::now(), LIFETIME).unwrap()
    }

    fn start(&self, n: u8, life: &str) -> Process {
        let path: PathBuf = self.dir.path().join(format!("{n}-{life}.json"));
        std::fs::write(&path, serde_json::to_vec(&self.config(n, life)).unwrap()).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fleet::role", "--ignored", "--nocapture"])
            .env("PLENUM_TEST_DISCOVERY", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Process(child)
    }

    async fn get(&self, n: u8, path: &str) -> Option<Value> {
        let url = format!("http://{}:8123{path}", self.address(n));
        let call = self.client.get(&url).deadline(Duration::from_secs(2)).send().await.ok()?;
        call.success().await.ok()?.json().await.ok()
    }

    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> (T, Duration) {
        let began = Instant::now();
        loop {
            if let Some(found) = look().await {
                return (found, began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "{what} did not come about");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The virtual address that `n` knows, once it has so many back ends.
    async fn vip(&self, n: u8, backends: usize) -> (String, Duration) {
        let what = format!("host {n} with {backends} back ends");
        self.until(&what, async || {
            let vips = self.get(n, "/v1/vips").await?;
            let one = vips.as_array()?.first()?;
            let enough = one["backend"].as_array()?.len() == backends;
            enough.then(|| one["address"].as_str().map(str::to_owned))?
        })
        .await
    }

    /// Who of these publishes, and its term.
    async fn publisher(&self, of: &[u8]) -> ((u8, u64), Duration) {
        self.until("a publisher", async || {
            for n in of {
                let told = self.get(*n, "/leader").await.unwrap_or_default();
                if told["self"] == true {
                    return Some((*n, told["term"].as_u64()?));
                }
            }
            None
        })
        .await
    }

    async fn status(&self, n: u8) -> Value {
        self.get(n, "/status").await.unwrap_or_default()
    }
}

#[test]
#[ignore = "a process that another test starts"]
fn role() {
    let Ok(path) = std::env::var("PLENUM_TEST_DISCOVERY") else { return };
    plenum_base::service::install_crypto();
    let config: Config = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(config, Shutdown::new())).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_come_and_go_and_addresses_stay() {
    plenum_base::service::install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let (_etcd, url) = etcd(dir.path());
    let process = std::process::id();
    let fleet = Fleet {
        authority: Authority::create("fleet", SystemTime::now()).unwrap(),
        block: [127, 150 + u8::try_from(process / 250 % 100).unwrap(), u8::try_from(process % 250).unwrap()],
        etcd: url,
        client: plenum_sdk::Client::plain().unwrap(),
        dir,
    };
    let shutdown = Shutdown::new();
    let master = Master {
        base: format!("https://{}:5050", fleet.address(2)),
        tasks: Arc::default(),
        events: broadcast::channel(64).0,
    };
    let router = Router::new()
        .route("/leader", get(leader))
        .route("/api/v1", post(subscribe))
        .with_state(master.clone());
    let (chain, key) = fleet.issue("master", fleet.address(2));
    let identity = Identity::from_pem(fleet.authority.certificate_pem(), &chain, &key).unwrap();
    let server = Server::new(router).tls(&identity, ClientAuth::Optional).unwrap();
    let listener = TcpListener::bind(SocketAddr::new(fleet.address(2), 5050)).await.unwrap();
    let switch = shutdown.clone();
    tokio::spawn(async move { server.serve(listener, switch).await });

    let mut masters: BTreeMap<u8, Process> = (1..=3).map(|n| (n, fleet.start(n, "first"))).collect();
    let node = fleet.config(9, "node");
    let deaths = node.deaths();
    let running = tokio::spawn(run(node, shutdown.clone()));
    master.start("one", 9000);
    let (address, _) = fleet.vip(9, 1).await;
    for n in 1..=3 {
        assert_eq!(fleet.vip(n, 1).await.0, address, "the same on every host");
    }
    let ((first, term), _) = fleet.publisher(&[1, 2, 3]).await;
    let epoch = fleet.status(9).await["epoch"].as_u64().unwrap();

    // The publisher is killed: another one takes over, with a higher term and epoch and the same addresses.
    masters.remove(&first).unwrap().kill();
    master.start("two", 9002);
    let left: Vec<u8> = masters.keys().copied().collect();
    let (again, took) = fleet.vip(9, 2).await;
    assert_eq!(again, address);
    assert!(took < Duration::from_secs(15), "{took:?}");
    eprintln!("a change reached the node {took:?} after the publisher's death");
    let ((second, later), _) = fleet.publisher(&left).await;
    assert!(later > term);
    let status = fleet.status(9).await;
    assert!(status["epoch"].as_u64().unwrap() > epoch && status["mode"] == "follower", "{status}");
    assert_eq!(status["live"], true);
    hosts_know_the_masters(&fleet).await;

    // A master whose disk is new: the store says what was given out.
    masters.remove(&second).unwrap().kill();
    let third = *masters.keys().next().unwrap();
    masters.insert(first, fleet.start(first, "second"));
    assert_eq!(fleet.vip(first, 2).await.0, address);
    let ((last, _), _) = fleet.publisher(&[third, first]).await;
    assert_eq!(fleet.vip(9, 2).await.0, address);

    // A death that the node's own agent tells is known here before any master says so.
    let tell = UnixDatagram::unbound().unwrap();
    tell.send_to(br#"{"framework":"fw","task":"two"}"#, &deaths).await.unwrap();
    let (_, took) = fleet.vip(9, 1).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(fleet.vip(last, 2).await.0, address, "only the node knows");

    // Nobody publishes any more: the node goes on with what it knows, and says that it is old.
    masters.clear();
    fleet.until("old news", async || (fleet.status(9).await["live"] == false).then_some(())).await;
    assert_eq!(fleet.vip(9, 1).await.0, address);
    shutdown.trigger();
    running.await.unwrap().unwrap();
}

async fn hosts_know_the_masters(fleet: &Fleet) {
    let (found, _) = fleet
        .until("the leading master by name", async || {
            let hosts = fleet.get(9, "/v1/hosts/leader.mesos").await?;
            (hosts[0]["ip"] != "").then_some(hosts)
        })
        .await;
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["ip"], fleet.address(2).to_string());
    let all = fleet.get(9, "/v1/hosts/master.mesos").await.unwrap();
    assert_eq!(all.as_array().unwrap().len(), 3);
    let one = fleet.get(9, "/v1/hosts/master1.mesos").await.unwrap();
    assert_eq!(one[0]["ip"], fleet.address(2).to_string());
}
