//! Persistent volumes under a real master: a framework reserves, creates, writes, loses everything by kill -9, and finds its data.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use plenum_api::internal::{self, agent_message::Kind as Said, master_message::Kind as Order};
use plenum_api::mesos::{self, OperationState};
use plenum_api::recordio::Decoder;
use plenum_base::auth::Authenticator;
use plenum_base::client::{Client, Stream, full};
use plenum_base::service::{LogFormat, Logging, Shutdown, init_tracing, install_crypto};
use plenum_base::tls::Identity;
use plenum_store::{Embedded, Options};
use serde_json::{Value, json};

use crate::world::{World, files, is_root};

const CHILD: &str = "PLENUM_AGENT_TEST_MASTER";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test: what the master process runs. As a test it does nothing.
#[test]
fn master_process() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    install_crypto();
    init_tracing(&Logging { format: LogFormat::Compact, filter: "info".to_owned() });
    let ports: Vec<SocketAddr> =
        serde_json::from_slice(&std::fs::read(folder.join("master.json")).unwrap()).unwrap();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let store = Embedded::open(folder.join("store.redb"), Options::default()).await.unwrap();
        let mut config = plenum_master::Config::default();
        config.component.open = true;
        let setup = plenum_master::Setup {
            config,
            identity: Identity::load(&files(&folder.join("master"))).unwrap(),
            authenticator: Authenticator::open(
                Path::new("/nonexistent/policy"),
                Path::new("/nonexistent/ca"),
                true,
            ),
            store: Arc::new(store),
            http: tokio::net::TcpListener::bind(ports[0]).await.unwrap(),
            agents: tokio::net::TcpListener::bind(ports[1]).await.unwrap(),
        };
        let running = plenum_master::start(setup, Shutdown::new()).unwrap();
        running.ended().await.unwrap();
    });
}

/// A real master in a process of its own.
struct Master {
    folder: PathBuf,
    http: SocketAddr,
    child: Option<Child>,
}

impl Master {
    fn ports() -> Vec<SocketAddr> {
        let held: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        held.iter().map(|one| one.local_addr().unwrap()).collect()
    }

    fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("master.log"));
        let log = log.unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["volumes::master_process", "--exact", "--nocapture"])
            .env(CHILD, &self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// kill -9.
    fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.http);
        Client::plain().unwrap().get(&url).send().await.unwrap().json().await.unwrap()
    }

    /// The only agent, once it is registered and looks as wanted.
    async fn agent(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = std::time::Instant::now();
        loop {
            let agents = self.get("/slaves").await;
            let agent = &agents["slaves"][0];
            if agent.is_object() && wanted(agent) {
                return agent.clone();
            }
            assert!(began.elapsed() < PATIENCE, "{agent:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.join("master.log")).unwrap_or_default();
            eprintln!("--- log of the master\n{log}");
        }
        self.crash();
    }
}

/// A framework that talks JSON.
struct Framework {
    url: String,
    id: String,
    header: String,
    stream: Stream,
    records: Decoder,
    /// Events that nobody has asked for yet.
    seen: Vec<Value>,
}

impl Framework {
    async fn subscribe(http: SocketAddr, id: Option<&str>) -> Self {
        let url = format!("http://{http}/api/v1/scheduler");
        let capabilities: Vec<Value> = ["MULTI_ROLE", "RESERVATION_REFINEMENT", "PARTITION_AWARE"]
            .iter()
            .map(|name| json!({ "type": name }))
            .collect();
        let mut info = json!({
            "user": "root", "name": "keeper", "principal": "p", "roles": ["data"], "failover_timeout": 3600,
            "capabilities": capabilities,
        });
        let mut call = json!({"type": "SUBSCRIBE"});
        if let Some(id) = id {
            info["id"] = json!({ "value": id });
            call["framework_id"] = info["id"].clone();
        }
        call["subscribe"] = json!({ "framework_info": info });
        let began = std::time::Instant::now();
        let reply = loop {
            // Who was killed does not lead at once.
            match Client::plain().unwrap().post(&url).json(&call).send().await {
                Ok(reply) if reply.status.as_u16() == 200 => break reply,
                other => assert!(began.elapsed() < PATIENCE, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let header = reply.headers["mesos-stream-id"].to_str().unwrap().to_owned();
        let (id, records) = (String::new(), Decoder::new(1 << 24));
        let mut this = Self { url, id, header, stream: reply.stream(), records, seen: Vec::new() };
        let subscribed = this.event("SUBSCRIBED", |_| true).await;
        this.id = subscribed["subscribed"]["framework_id"]["value"].as_str().unwrap().to_owned();
        this
    }

    /// The first event of a type that is as wanted.
    async fn event(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = std::time::Instant::now();
        loop {
            if let Some(at) = self.seen.iter().position(|one| one["type"] == kind && wanted(one)) {
                return self.seen.remove(at);
            }
            assert!(began.elapsed() < PATIENCE, "no {kind}; seen: {:#?}", self.seen);
            let piece = self.stream.next_within(PATIENCE).await.unwrap().expect("the stream goes on");
            self.records.feed(&piece);
            while let Some(record) = self.records.next_record().unwrap() {
                self.seen.push(serde_json::from_slice(&record).unwrap());
            }
        }
    }

    async fn call(&self, kind: &str, field: &str, body: Value) {
        let mut call = json!({"type": kind, "framework_id": {"value": self.id}});
        call[field] = body;
        let header = HeaderName::from_static("mesos-stream-id");
        let call = Client::plain().unwrap().post(&self.url).json(&call).header(header, &self.header);
        let reply = call.send().await.unwrap();
        let status = reply.status;
        assert_eq!(status, 202, "{}", String::from_utf8_lossy(&reply.bytes().await.unwrap()));
    }

    /// The next offer that is as wanted; others are declined.
    async fn offer(&mut self, wanted: impl Fn(&str) -> bool) -> Value {
        loop {
            let offers = self.event("OFFERS", |_| true).await;
            let offer = offers["offers"]["offers"][0].clone();
            if wanted(&offer["resources"].to_string()) {
                return offer;
            }
            let body = json!({"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 0.1}});
            self.call("DECLINE", "decline", body).await;
        }
    }

    async fn accept(&self, offer: &Value, operations: Vec<Value>) {
        let body =
            json!({"offer_ids": [offer["id"]], "operations": operations, "filters": {"refuse_seconds": 0.1}});
        self.call("ACCEPT", "accept", body).await;
    }

    /// The next status of a task that is not the one before, acknowledged.
    async fn status(&mut self, task: &str) -> Value {
        let update = self.event("UPDATE", |one| one["update"]["status"]["task_id"]["value"] == task).await;
        let status = update["update"]["status"].clone();
        if !status["uuid"].is_null() {
            let body =
                json!({"agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]});
            self.call("ACKNOWLEDGE", "acknowledge", body).await;
        }
        status
    }

    async fn ends(&mut self, task: &str) -> Value {
        loop {
            let status = self.status(task).await;
            if !["TASK_STARTING", "TASK_RUNNING", "TASK_STAGING"].contains(&status["state"].as_str().unwrap())
            {
                return status;
            }
        }
    }

    /// The result of an operation, acknowledged.
    async fn result(&mut self, id: &str) -> String {
        let wanted = |one: &Value| one["update_operation_status"]["status"]["operation_id"]["value"] == id;
        let update = self.event("UPDATE_OPERATION_STATUS", wanted).await;
        let status = &update["update_operation_status"]["status"];
        assert!(!status["uuid"].is_null(), "this is not the agent's word: {status:#}");
        let body = json!({"agent_id": status["agent_id"], "operation_id": status["operation_id"],
                          "uuid": status["uuid"]["value"]});
        self.call("ACKNOWLEDGE_OPERATION_STATUS", "acknowledge_operation_status", body).await;
        status["state"].as_str().unwrap().to_owned()
    }
}

fn disk(amount: u32) -> Value {
    json!({"name": "disk", "type": "SCALAR", "scalar": {"value": amount},
           "reservations": [{"type": "DYNAMIC", "role": "data", "principal": "p"}]})
}

fn volume(amount: u32, path: &str) -> Value {
    let mut volume = disk(amount);
    volume["disk"] = json!({"persistence": {"id": "kept-1", "principal": "p"},
                            "volume": {"mode": "RW", "container_path": path}});
    volume
}

fn operation(kind: &str, list: &str, what: Value) -> Value {
    let mut operation = json!({"type": kind, "id": {"value": kind}});
    operation[kind.to_ascii_lowercase()] = json!({ list: what });
    operation
}

fn launch(id: &str, offer: &Value, volume: Value, command: &str) -> Value {
    let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}});
    json!({"type": "LAUNCH", "launch": {"task_infos": [{
        "name": id, "task_id": {"value": id}, "agent_id": offer["agent_id"],
        "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), volume],
        "command": {"value": command, "user": "nobody"},
    }]}})
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Kills a container with its supervisor.
fn kill_container(pid: &str) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().to_owned();
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap();
    assert!(name.starts_with("plenum"), "{name} is no supervisor of ours");
    for victim in [parent.as_str(), pid] {
        let victim = nix::unistd::Pid::from_raw(victim.parse().unwrap());
        let _ = nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_found_again_after_everything_was_killed() {
    if !is_root() {
        return;
    }
    let ports = Master::ports();
    let mut world = World::with(true, |config| config.masters = vec![ports[1].to_string()]).await;
    let folder = world.folder.path().to_owned();
    std::fs::write(folder.join("master.json"), serde_json::to_vec(&ports).unwrap()).unwrap();
    let mut master = Master { folder: folder.clone(), http: ports[0], child: None };
    master.start();
    let mut framework = Framework::subscribe(ports[0], None).await;
    let offer = framework.offer(|_| true).await;
    // Reserve, create, and use it, all in one call.
    let write = "id -un > data/who && echo kept > data/file && exec sleep 600";
    framework
        .accept(
            &offer,
            vec![
                operation("RESERVE", "resources", json!([disk(64)])),
                operation("CREATE", "volumes", json!([volume(48, "data")])),
                launch("first", &offer, volume(48, "data"), write),
            ],
        )
        .await;
    assert_eq!(framework.result("RESERVE").await, "OPERATION_FINISHED");
    assert_eq!(framework.result("CREATE").await, "OPERATION_FINISHED");
    let running = framework.status("first").await;
    assert_eq!(running["state"], "TASK_RUNNING", "{running}");
    let place = folder.join("work/volumes/roles/data/kept-1");
    eventually("the task writes", || place.join("file").exists()).await;
    assert_eq!(
        std::fs::read_to_string(place.join("who")).unwrap(),
        "nobody\n",
        "it belongs to the task's user"
    );
    let shown = master.agent(|agent| !agent["reserved_resources_full"]["data"].is_null()).await;
    assert!(shown["reserved_resources_full"].to_string().contains("kept-1"), "{shown:#}");
    assert!(
        master.get("/state").await["slaves"][0]["reserved_resources_full"].to_string().contains("kept-1")
    );
    // kill -9 of everything.
    let pid = running["container_status"]["executor_pid"].to_string();
    master.crash();
    world.crash();
    kill_container(&pid);
    drop(framework.stream);
    master.start();
    world.start();
    let mut framework = Framework::subscribe(ports[0], Some(&framework.id)).await;
    let end = framework.ends("first").await;
    assert_ne!(end["state"], "TASK_FINISHED", "{end}");
    let offer = framework.offer(|resources| resources.contains("kept-1") && resources.contains("cpus")).await;
    // Under another name, and again with what was written there; nobody else's task may have a volume that is not there.
    let look = "test \"$(cat again/file)\" = kept && echo more >> again/file && stat -c %U again";
    let mut wrong = volume(48, "again");
    wrong["disk"]["persistence"]["id"] = json!("other");
    framework
        .accept(
            &offer,
            vec![launch("wrong", &offer, wrong, "true"), launch("second", &offer, volume(48, "again"), look)],
        )
        .await;
    assert_eq!(framework.ends("wrong").await["state"], "TASK_ERROR");
    let end = framework.ends("second").await;
    assert_eq!(end["state"], "TASK_FINISHED", "{end}");
    assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "kept\nmore\n");
    // Only DESTROY removes it.
    // What was used together may come back in parts.
    let whole = |resources: &str| resources.contains("kept-1") && resources.contains(r#""value":16.0"#);
    let offer = framework.offer(whole).await;
    framework
        .accept(
            &offer,
            vec![
                operation("DESTROY", "volumes", json!([volume(48, "x")])),
                operation("UNRESERVE", "resources", json!([disk(64)])),
            ],
        )
        .await;
    assert_eq!(framework.result("DESTROY").await, "OPERATION_FINISHED");
    assert_eq!(framework.result("UNRESERVE").await, "OPERATION_FINISHED");
    assert!(!place.exists(), "out of reach when it is said");
    let aside = folder.join("work/volumes/.destroyed");
    eventually("what was destroyed is removed", || {
        std::fs::read_dir(&aside).is_ok_and(|mut rest| rest.next().is_none())
    })
    .await;
    assert!(world.log().contains("destroyed volumes are removed"));
    operators(&master, &offer, &folder).await;
}

/// The same by operators' endpoints.
async fn operators(master: &Master, offer: &Value, folder: &Path) {
    let id = offer["agent_id"]["value"].as_str().unwrap();
    let place = folder.join("work/volumes/roles/data/kept-1");
    let post = async |path: &str, list: &str, what: Value| {
        let text = what.to_string();
        let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let call = Client::plain().unwrap().post(&format!("http://{}{path}", master.http));
        let reply = call.body(full(format!("slaveId={id}&{list}={escaped}"))).send().await.unwrap();
        (reply.status.as_u16(), String::from_utf8_lossy(&reply.bytes().await.unwrap()).into_owned())
    };
    assert_eq!(post("/reserve", "resources", json!([disk(16)])).await.0, 202);
    assert_eq!(post("/master/create-volumes", "volumes", json!([volume(16, "x")])).await.0, 202);
    eventually("the agent makes it", || place.is_dir()).await;
    let (status, words) = post("/create-volumes", "volumes", json!([volume(16, "x")])).await;
    assert!(status == 400 && words.contains("not unique"), "{status} {words}");
    let (status, words) = post("/unreserve", "volumes", json!([])).await;
    assert!(status == 400 && words.contains("Missing 'resources'"), "{status} {words}");
    assert_eq!(post("/destroy-volumes", "volumes", json!([volume(16, "x")])).await.0, 202);
    eventually("the agent takes it away", || !place.exists()).await;
    assert_eq!(post("/unreserve", "resources", json!([disk(16)])).await.0, 202);
    master.agent(|agent| agent["reserved_resources_full"] == json!({})).await;
}

fn read<M: plenum_api::codec::Message>(value: &Value) -> M {
    plenum_api::codec::decode(plenum_api::codec::Encoding::Json, value.to_string().as_bytes()).unwrap()
}

/// Orders of a master that decides nothing, carried out one by one.
async fn carry_out(world: &mut World, orders: &[Value]) {
    for (number, info) in orders.iter().enumerate() {
        let uuid = mesos::Uuid { value: vec![u8::try_from(number).unwrap(); 16].into() };
        let operation = mesos::Operation { info: read(info), uuid, ..Default::default() };
        world.master.order(Order::ApplyOperation(internal::ApplyOperation { framework_id: None, operation }));
        let update = loop {
            if let Said::OperationUpdate(update) = world.master.hear().await {
                break update;
            }
        };
        assert_eq!(update.status.state(), OperationState::OperationFinished, "{update:?}");
        world.master.order(Order::AcknowledgeOperation(internal::AcknowledgeOperation {
            operation_uuid: update.operation_uuid,
            status_uuid: update.status.uuid.unwrap(),
        }));
    }
}

/// Tasks of a pod see its persistent volume through its sandbox, as Marathon's pods ask for it; so does a task its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_seen_through_the_sandbox() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    carry_out(
        &mut world,
        &[
            operation("RESERVE", "resources", json!([disk(64)])),
            operation("CREATE", "volumes", json!([volume(48, "kept")])),
        ],
    )
    .await;
    let place = world.folder.path().join("work/volumes/roles/data/kept-1");
    let through = |kind: &str, path: &str| {
        json!({"type": "MESOS", "volumes": [{"mode": "RW", "container_path": "mine",
               "source": {"type": "SANDBOX_PATH", "sandbox_path": {"type": kind, "path": path}}}]})
    };
    let mut executor: mesos::ExecutorInfo =
        read(&json!({"executor_id": {"value": "pod"}, "type": "DEFAULT"}));
    executor.resources.push(read(&volume(48, "kept")));
    let mut task = crate::master::task("first", "echo pod > mine/file");
    task.container = Some(read(&through("PARENT", "kept")));
    let framework = mesos::FrameworkInfo { id: Some("F1".into()), user: "root".into(), ..Default::default() };
    world.master.order(Order::RunTasks(internal::RunTasks {
        framework_info: framework,
        executor: Some(executor),
        tasks: vec![task],
        is_group: Some(true),
        launch_id: bytes::Bytes::from_static(b"group"),
    }));
    world.master.expect("first", mesos::TaskState::TaskStarting).await;
    world.master.expect("first", mesos::TaskState::TaskRunning).await;
    world.master.expect("first", mesos::TaskState::TaskFinished).await;
    assert_eq!(std::fs::read_to_string(place.join("file")).unwrap(), "pod\n");
    let mut task =
        crate::master::task("second", "cat kept/file && echo own > mine/deep && cat kept/sub/deep");
    task.resources.push(read(&volume(48, "kept")));
    task.container = Some(read(&through("SELF", "kept/sub")));
    world.master.run(task);
    world.master.expect("second", mesos::TaskState::TaskRunning).await;
    let end = world.master.expect("second", mesos::TaskState::TaskFinished).await;
    assert_eq!(std::fs::read_to_string(place.join("sub/deep")).unwrap(), "own\n", "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_less_than_is_reserved_does_not_start() {
    if !is_root() {
        return;
    }
    let mut world = World::new().await;
    world.master.register().await;
    let orders = [
        operation("RESERVE", "resources", json!([disk(900)])),
        operation("CREATE", "volumes", json!([volume(900, "x")])),
    ];
    carry_out(&mut world, &orders).await;
    let place = world.folder.path().join("work/volumes/roles/data/kept-1");
    assert!(place.is_dir());
    world.crash();
    let path = world.folder.path().join("config.json");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, before.replace("disk:1024", "disk:512")).unwrap();
    world.start();
    let began = std::time::Instant::now();
    while !world.log().contains("do not hold any more") {
        assert!(began.elapsed() < PATIENCE, "{}", world.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.crash();
    assert!(world.log().contains("configure at least as much as before"));
    std::fs::write(&path, before).unwrap();
    world.start();
    let register = world.master.register().await;
    assert!(register.checkpointed_resources.iter().any(|one| one.disk.is_some()));
    assert!(place.is_dir());
}
