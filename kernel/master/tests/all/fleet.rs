//! Several masters as processes on one real etcd: who leads, who sends callers where, a leader that is killed and one that is stopped and
//! wakes up deposed.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plenum_api::codec::{Encoding, decode_protobuf};
use plenum_api::internal::{MasterFrame, Register, agent_message, master_message};
use plenum_api::mesos::{self, TaskState};
use plenum_api::scheduler::{call, event};
use plenum_base::auth::Authenticator;
use plenum_base::service::{Shutdown, install_crypto};
use plenum_base::tls::{Identity, IdentityFiles};
use plenum_master::{Config, DEPOSED, MasterError, Setup, start};
use plenum_store::{Open, StoreSettings, open};
use tokio::net::TcpListener;

use super::fixture::{Agent, At, Cluster, Http, hello, soon};
use super::flow::{self, Framework};

/// A child that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }
}

fn free_port() -> u16 {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

fn etcd(folder: &Path) -> (Process, String) {
    let (client, peer) = (free_port(), free_port());
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let child = Command::new("/usr/bin/etcd")
        .args(["--name=test", "--heartbeat-interval=20", "--election-timeout=200", "--log-level=error"])
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .arg(format!("--initial-cluster=test={peer}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's package etcd-server: apt-get install etcd-server");
    (Process(child), client)
}

struct Master {
    process: Process,
    at: At,
}

impl Master {
    /// This very program again, as a master.
    fn start(cluster: &Cluster, endpoint: &str, name: &str) -> Self {
        let folder = cluster.folder.path();
        let (cert, key) = cluster.issue("master", name);
        for (file, text) in [("ca.pem", cluster.ca.certificate_pem()), ("cert.pem", &cert), ("key.pem", &key)]
        {
            std::fs::write(folder.join(file), text).expect("written");
        }
        let mut child = Command::new(std::env::current_exe().expect("a program"))
            .args(["fleet::a_master_as_a_process", "--exact", "--ignored", "--nocapture"])
            .env("PLENUM_TEST_FOLDER", folder)
            .env("PLENUM_TEST_ETCD", endpoint)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let process = Process(child);
        let addresses = output.lines().map_while(Result::ok).find_map(|line| {
            let (http, agents) =
                line.strip_prefix("serves ")?.split_once(' ').map(|(a, b)| (a.parse(), b.parse()))?;
            Some((http.ok()?, agents.ok()?))
        });
        let (http, agents): (SocketAddr, SocketAddr) = addresses.expect("it serves");
        Self { process, at: At { http, agents } }
    }

    async fn leader(&self) -> serde_json::Value {
        self.at.get("/leader").await
    }

    /// Waits until this master says of itself that it leads, or names a leader.
    async fn until(&self, own: bool) -> serde_json::Value {
        let end = Instant::now() + Duration::from_secs(15);
        loop {
            let leader = self.leader().await;
            if leader["self"] == own && !leader["leader"].is_null() {
                return leader;
            }
            assert!(Instant::now() < end, "{leader}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The child's side; does nothing when it is run for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of the other tests"]
async fn a_master_as_a_process() {
    let Some(folder) = std::env::var_os("PLENUM_TEST_FOLDER").map(PathBuf::from) else { return };
    install_crypto();
    let endpoint = std::env::var("PLENUM_TEST_ETCD").expect("an address");
    let settings = StoreSettings { etcd: true, endpoints: vec![endpoint], ..StoreSettings::default() };
    let place = Open {
        embedded: folder.join("unused"),
        prefix: "/plenum/test/master/".into(),
        endpoints: tokio::sync::watch::channel(Vec::new()).1,
    };
    let store = open(&settings, place).await.expect("a store");
    let files = IdentityFiles {
        ca: folder.join("ca.pem"),
        cert: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    let mut config = Config { heartbeat_seconds: 0.5, store: settings, ..Config::default() };
    config.component.open = true;
    let setup = Setup {
        config,
        identity: Identity::load(&files).expect("an identity"),
        authenticator: Authenticator::open(Path::new("/nonexistent/p"), Path::new("/nonexistent/c"), true),
        store,
        http: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        agents: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
    };
    let running = start(setup, Shutdown::new()).expect("started");
    println!("\nserves {} {}", running.http, running.agents);
    // As `run` does.
    let code = match running.ended().await {
        Err(MasterError::Deposed) => i32::from(DEPOSED),
        ended => {
            eprintln!("{ended:?}");
            1
        }
    };
    std::process::exit(code);
}

/// The agent dials in as it would after losing its master, with what it runs; the update that nobody acknowledged comes again.
async fn comes_back(
    at: &At,
    identity: &Identity,
    id: &str,
    framework: &str,
    task: &mesos::Task,
) -> (Agent, mesos::MasterInfo) {
    let mut agent = Agent::dial(at, identity, hello()).await;
    assert!(matches!(agent.hear().await, Some(master_message::Kind::Hello(_))));
    let info = mesos::FrameworkInfo {
        id: Some(framework.into()),
        user: "root".into(),
        name: "f".into(),
        failover_timeout: Some(600.0),
        ..Default::default()
    };
    let agent_message::Kind::Register(register) = flow::register(Some(id), vec![task.clone()]) else {
        panic!("a registration")
    };
    agent.say(vec![agent_message::Kind::Register(Register { frameworks: vec![info], ..register })]).await;
    let Some(master_message::Kind::Reregistered(again)) = agent.hear().await else { panic!("known") };
    assert!(again.reconciliations.is_empty());
    agent.say(vec![flow::update(framework, "t", TaskState::TaskRunning, 1)]).await;
    (agent, again.master_info.expect("set"))
}

/// What still comes on the connection to a master that was stopped; its end is waited for.
async fn last_words(mut agent: Agent) -> Vec<master_message::Kind> {
    let mut words = Vec::new();
    while let Ok(Some(bytes)) = soon(agent.reader.next()).await {
        let frame: MasterFrame = decode_protobuf(&bytes).expect("a frame");
        words.extend(frame.messages.into_iter().filter_map(|message| message.kind));
    }
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_dies_and_another_goes_on_and_a_deposed_one_says_nothing() {
    let cluster = Cluster::new(true);
    let (_etcd, endpoint) = etcd(cluster.folder.path());
    let one = Master::start(&cluster, &endpoint, "m1");
    let first = one.until(true).await;
    let two = Master::start(&cluster, &endpoint, "m2");
    let known = two.until(false).await;
    assert_eq!(known["leader"], format!("https://{}", one.at.http));
    assert_eq!((&known["leader"], &known["term"]), (&first["leader"], &first["term"]));
    // The one that stands by sends callers on and lets no agent in.
    for path in ["/master/state?x=1", "/redirect"] {
        let reply = Http::ask(two.at.http, "GET", path, &[], b"").await;
        let query = if path == "/redirect" { "" } else { path };
        assert_eq!(
            (reply.status, reply.header("location")),
            (307, Some(&*format!("//{}{query}", one.at.http)))
        );
    }
    let body = br#"{"type":"GET_AGENTS"}"#;
    let reply =
        Http::ask(two.at.http, "POST", "/api/v1", &[("Content-Type", "application/json")], body).await;
    assert_eq!(reply.status, 307);
    let mut refused = soon(tokio::net::TcpStream::connect(two.at.agents)).await.expect("connected");
    let end = soon(tokio::io::AsyncReadExt::read(&mut refused, &mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");

    // A launch whose update is not acknowledged yet, and the plug is pulled.
    let (mut agent, id, identity) = flow::join(&one.at, &cluster).await;
    let mut framework = Framework::subscribe(&one.at, Encoding::Json, None).await;
    let offers = framework.next(event::Type::Offers).await.offers.expect("set").offers;
    let accept = flow::launch(&id, &offers);
    assert_eq!(framework.call(&one.at, call::Type::Accept, |c| c.accept = Some(accept)).await, 202);
    assert!(matches!(agent.hear().await, Some(master_message::Kind::RunTasks(_))));
    let state = one.at.get("/tasks").await;
    assert_eq!(state["tasks"][0]["id"], "t");
    one.process.signal("-KILL");
    let died = Instant::now();
    let second = two.until(true).await;
    println!("a new leader after {} ms", died.elapsed().as_millis());
    assert!(second["term"].as_u64() > first["term"].as_u64());
    drop(one);

    let task = mesos::Task {
        name: "t".into(),
        task_id: "t".into(),
        framework_id: framework.id.as_str().into(),
        agent_id: id.as_str().into(),
        state: TaskState::TaskRunning as i32,
        resources: plenum_api::resources::Resources::parse("cpus:1;mem:64", "*")
            .expect("resources")
            .allocate("*")
            .to_mesos(),
        ..Default::default()
    };
    let mut framework = Framework::subscribe(&two.at, Encoding::Json, Some(&framework.id)).await;
    let (mut agent, _) = comes_back(&two.at, &identity, &id, &framework.id, &task).await;
    assert_eq!(Some(agent.term), second["term"].as_u64());
    let told = framework.next(event::Type::Update).await.update.expect("set").status;
    assert_eq!(told.uuid.as_deref(), Some(&[1; 16][..]), "the update that nobody had acknowledged");
    let acknowledge =
        call::Acknowledge { agent_id: id.as_str().into(), task_id: "t".into(), uuid: vec![1; 16].into() };
    let sent = framework.call(&two.at, call::Type::Acknowledge, |c| c.acknowledge = Some(acknowledge)).await;
    assert_eq!(sent, 202);
    assert!(matches!(agent.hear().await, Some(master_message::Kind::AcknowledgeStatus(_))));
    let tasks = two.at.get("/tasks").await;
    assert_eq!(tasks["tasks"].as_array().map(Vec::len), Some(1), "{tasks}");
    deposed(&cluster, &endpoint, two, agent, framework, (&identity, &id, &task)).await;
}

/// The leader is stopped until another leads, then goes on.
async fn deposed(
    cluster: &Cluster,
    endpoint: &str,
    mut old: Master,
    mut agent: Agent,
    mut framework: Framework,
    (identity, id, task): (&Identity, &str, &mesos::Task),
) {
    let new = Master::start(cluster, endpoint, "m3");
    new.until(false).await;
    old.process.signal("-STOP");
    // It will find these when it wakes: an update to pass on, and a kill to order.
    agent.say(vec![flow::update(&framework.id, "t", TaskState::TaskRunning, 2)]).await;
    let kill = br#"{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"AGENT"}}}"#;
    let kill = String::from_utf8_lossy(kill).replace("AGENT\"}", &format!("{id}\"}}"));
    let to = old.at.http;
    let late = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut io = tokio::net::TcpStream::connect(to).await.expect("the kernel accepts");
        let head = format!(
            "POST /api/v1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            kill.len()
        );
        io.write_all((head + &kill).as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        // It may also be reset.
        let _ = io.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    });
    let stopped = Instant::now();
    let leads = new.until(true).await;
    println!("a new leader {} ms after the old one was stopped", stopped.elapsed().as_millis());
    let (fresh, _) = comes_back(&new.at, identity, id, &framework.id, task).await;
    assert_eq!(Some(fresh.term), leads["term"].as_u64());

    old.process.signal("-CONT");
    let words = last_words(agent).await;
    let harmless = |kind: &master_message::Kind| matches!(kind, master_message::Kind::Ping(_));
    assert!(words.iter().all(harmless), "nothing but pings from before: {words:?}");
    let mut events = Vec::new();
    while let Some(event) = framework.stream.record::<plenum_api::scheduler::Event>(Encoding::Json).await {
        events.push(event.r#type);
    }
    assert!(!events.contains(&Some(event::Type::Update as i32)), "{events:?}");
    let answer = soon(late).await.expect("joined");
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    let end = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = old.process.0.try_wait().expect("a child") {
            break status;
        }
        assert!(Instant::now() < end, "it ends");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(status.code(), Some(i32::from(DEPOSED)));
    let agents = new.at.get("/slaves").await;
    assert_eq!(
        agents["slaves"][0]["deactivated"], false,
        "what the deposed one was asked for did not happen"
    );
    drop(fresh);
}
