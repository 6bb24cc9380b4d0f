//! One agent process in a folder of its own, and the scripted master it talks to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use plenum_agent::{Config, Parts};
use plenum_base::auth::Authenticator;
use plenum_base::client::Client;
use plenum_base::pki::{Authority, PeerName, San};
use plenum_base::serve::Plain;
use plenum_base::service::{LogFormat, Logging, Shutdown, init_tracing, install_crypto};
use plenum_base::tls::{Identity, IdentityFiles};
use plenum_containers::{NativeRuntime, Runtime, RuntimeConfig};

use crate::master::Master;

const CHILD: &str = "PLENUM_AGENT_TEST_FOLDER";

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The shim: `PLENUM_SHIM`, or built beside the tests.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        if let Some(path) = std::env::var_os("PLENUM_SHIM") {
            return path.into();
        }
        let profile = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "-q", "-p", "plenum-shim", "--offline", "--target-dir"])
            .arg(profile.parent().unwrap())
            .status()
            .unwrap();
        assert!(built.success(), "the shim does not build");
        profile.join("plenum-shim")
    })
}

pub struct World {
    pub folder: tempfile::TempDir,
    pub master: Master,
    pub port: u16,
    instance: String,
    child: Option<Child>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(true, |_| {}).await
    }

    pub async fn with(open: bool, change: impl FnOnce(&mut Config)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        install_crypto();
        let instance = format!("at{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("plenum-agent-").tempdir().unwrap();
        let now = SystemTime::now();
        let ca = Authority::create("test", now).unwrap();
        let local = [San::Ip("127.0.0.1".parse().unwrap())];
        let issue = |role: &str| {
            let name = PeerName::new(&instance, role, "one").unwrap();
            ca.issue_fresh(&name, &local, now, Duration::from_secs(3600)).unwrap()
        };
        let (cert, key) = issue("master");
        let identity = Identity::from_pem(ca.certificate_pem(), &cert, &key).unwrap();
        files(&folder.path().join("master")).write(ca.certificate_pem(), &cert, &key).unwrap();
        let master = Master::start(&identity).await;
        let (cert, key) = issue("agent");
        files(folder.path()).write(ca.certificate_pem(), &cert, &key).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut config = Config {
            masters: vec![master.address.to_string()],
            work_dir: folder.path().join("work"),
            run_dir: folder.path().join("run"),
            hostname: "test-agent".to_owned(),
            ip: "127.0.0.1".to_owned(),
            port,
            resources: "cpus:2;mem:512;disk:1024".to_owned(),
            update_retry: 1,
            ..Config::default()
        };
        change(&mut config);
        std::fs::write(folder.path().join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        std::fs::write(folder.path().join("instance"), &instance).unwrap();
        std::fs::write(folder.path().join("open"), if open { "yes" } else { "no" }).unwrap();
        shim();
        let mut world = Self { folder, master, port, instance, child: None };
        world.start();
        world
    }

    /// Starts the agent process.
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["world::agent_process", "--exact", "--nocapture"])
            .env(CHILD, self.folder.path())
            .env("PLENUM_SHIM", shim())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// kill -9.
    pub fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The agent's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// GET; status and body.
    pub async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let reply = Client::plain().unwrap().get(&self.url(path)).send().await.unwrap();
        let status = reply.status.as_u16();
        (status, reply.bytes().await.unwrap().to_vec())
    }

    pub async fn get_json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Waits until the HTTP port answers.
    pub async fn up(&self) {
        for _ in 0..200 {
            if let Ok(reply) = Client::plain().unwrap().get(&self.url("/health")).send().await
                && reply.status.as_u16() == 200
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the agent does not come up: {}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the agent\n{}", self.log());
        }
        self.crash();
        let config = RuntimeConfig::new(&self.instance, shim(), self.folder.path().join("containers"));
        let networks = self.folder.path().join("run/networks");
        let clean = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio.block_on(async {
                let Ok(runtime) = NativeRuntime::new(config) else { return };
                for found in runtime.recover().await.unwrap_or_default() {
                    let _ = runtime.destroy(&found.id).await;
                }
                // Bridges and tables are the machine's, not the folder's.
                if networks.exists() {
                    let settings = plenum_networks::Settings::default();
                    let _ = plenum_networks::Networks::teardown(&networks, settings).await;
                }
            });
        });
        let _ = clean.join();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let parent = hierarchy.path().join(format!("plenum-{}", self.instance));
            let _ = std::fs::remove_dir(parent.join("shims"));
            let _ = std::fs::remove_dir(parent);
        }
    }
}

pub fn files(folder: &Path) -> IdentityFiles {
    IdentityFiles { ca: folder.join("ca.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") }
}

/// Not a test: what the agent process runs. As a test it does nothing.
#[test]
fn agent_process() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    install_crypto();
    init_tracing(&Logging { format: LogFormat::Compact, filter: "info".to_owned() });
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let config: Config = serde_json::from_str(&read("config.json")).unwrap();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let mut runtime = RuntimeConfig::new(&read("instance"), shim(), folder.join("containers"));
        runtime.disk_interval = Duration::from_millis(200);
        runtime.user_namespaces = config.users_of_containers();
        let parts = Parts {
            identity: Identity::load(&files(&folder)).unwrap(),
            authenticator: Authenticator::open(
                &folder.join("policy"),
                &folder.join("ca.pem"),
                read("open") == "yes",
            ),
            masters: plenum_base::cluster::Masters::fixed(&[]),
            plain: Plain::Loopback,
            listener: tokio::net::TcpListener::bind(("127.0.0.1", config.port)).await.unwrap(),
            runtime: std::sync::Arc::new(NativeRuntime::new(runtime).unwrap()),
            docker: None,
            unpacker: None,
        };
        plenum_agent::run(config, parts, Shutdown::new()).await.unwrap();
    });
}
