//! The processes beside the framework: a master and the simulated agents, both this program started again, and what they use.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use plenum_base::auth::Authenticator;
use plenum_base::pki::{Authority, PeerName};
use plenum_base::service::{Logging, Shutdown, init_tracing, install_crypto};
use plenum_base::tls::{Identity, IdentityFiles};
use plenum_store::{Embedded, Options};
use plenum_testkit::process::{Helper, allow_many_files, cpu_time, die_with};
use plenum_testkit::simagents::{Fleet, Shape};
use tokio::net::TcpListener;

/// The first argument of a process that is not the framework.
const ROLE: &str = "kernel-role";
/// The instance in every certificate.
const INSTANCE: &str = "bench";
/// Where the master listens; ports are whatever is free.
const ADDRESS: &str = "127.88.200.1:0";
/// Enough for a thousand tasks of the benchmark on each agent.
const RESOURCES: &str = "cpus:64;mem:131072;disk:1048576;ports:[31000-32000]";
/// For a process to be up.
const START: Duration = Duration::from_secs(30);
/// For all agents to be registered.
const REGISTER: Duration = Duration::from_secs(90);

/// A master and its agents.
pub struct Cluster {
    /// The master's process.
    pub master: Helper,
    agents: Helper,
    /// Where the master serves HTTP.
    pub http: SocketAddr,
    _folder: tempfile::TempDir,
}

/// What the agents have counted.
pub struct Counts {
    /// Agents whose connection ended.
    pub lost: u64,
    /// Updates sent again.
    pub repeated: u64,
    /// Tasks started.
    pub started: u64,
}

/// Processor time of each process.
#[derive(Clone, Copy)]
pub struct Cpu {
    /// The master.
    pub master: Duration,
    /// All simulated agents.
    pub agents: Duration,
    /// The framework.
    pub framework: Duration,
}

impl Cpu {
    /// Both, one process after the other.
    pub fn map_with(self, other: Self, f: impl Fn(Duration, Duration) -> Duration) -> Self {
        Self {
            master: f(self.master, other.master),
            agents: f(self.agents, other.agents),
            framework: f(self.framework, other.framework),
        }
    }
}

impl Cluster {
    /// Starts a master with an empty store, and the process for the agents.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ca = Authority::create(INSTANCE, SystemTime::now())?;
        let name = PeerName::new(INSTANCE, "master", "m1")?;
        let (certificate, key) =
            ca.issue_fresh(&name, &[], SystemTime::now(), Duration::from_secs(24 * 3600))?;
        files(folder.path()).write(ca.certificate_pem(), &certificate, &key)?;
        plenum_base::files::replace(&ca_key(folder.path()), ca.key_pem().as_bytes(), 0o600)?;
        let master = start("master", folder.path(), &[])?;
        let line = master.line(START).context("the master does not start")?;
        let (http, door) = line.split_once(' ').context("the master does not say where it is")?;
        let agents = start("agents", folder.path(), &[door.to_owned()])?;
        Ok(Self { http: http.parse()?, master, agents, _folder: folder })
    }

    /// Registers agents until there are `count`.
    pub fn register(&mut self, count: u32) -> Result<()> {
        self.agents.say(&format!("register {count}"))?;
        let line = self.agents.line(REGISTER).context("not all agents were registered")?;
        if line != "registered" {
            bail!("not all agents were registered: {line}");
        }
        Ok(())
    }

    /// What the agents have counted.
    pub fn counts(&mut self) -> Result<Counts> {
        self.agents.say("counts")?;
        let line = self.agents.line(START)?;
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next().context("a short line")?.context("no number");
        Ok(Counts { lost: next()?, repeated: next()?, started: next()? })
    }

    /// Bytes of the master's heap that are in use; pages that are not in use are given back to the system.
    pub fn trim(&mut self) -> Result<u64> {
        self.master.say("trim")?;
        Ok(self.master.line(START)?.parse()?)
    }

    /// What each process has used so far.
    pub fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu {
            master: cpu_time(self.master.id())?,
            agents: cpu_time(self.agents.id())?,
            framework: cpu_time(std::process::id())?,
        })
    }

    /// Ends both processes.
    pub fn stop(self) {
        self.agents.stop(Duration::from_secs(2));
        self.master.stop(Duration::from_secs(10));
    }
}

fn files(folder: &Path) -> IdentityFiles {
    IdentityFiles {
        ca: folder.join("ca.pem"),
        cert: folder.join("master.pem"),
        key: folder.join("master.key"),
    }
}

fn ca_key(folder: &Path) -> PathBuf {
    folder.join("ca.key")
}

fn start(role: &str, folder: &Path, more: &[String]) -> Result<Helper> {
    let folder = folder.to_str().context("the temporary folder's name is no text")?;
    let parent = std::process::id().to_string();
    let mut arguments = vec![ROLE.to_owned(), role.to_owned(), parent, folder.to_owned()];
    arguments.extend_from_slice(more);
    Helper::start(&std::env::current_exe()?, &arguments)
}

/// Does what this process was started for, when it is not the framework's.
pub fn role(arguments: &[String]) -> Option<Result<()>> {
    match arguments {
        [first, role, parent, folder, more @ ..] if first == ROLE => {
            Some(be(role, parent, Path::new(folder), more))
        }
        _ => None,
    }
}

fn be(role: &str, parent: &str, folder: &Path, more: &[String]) -> Result<()> {
    die_with(parent.parse()?)?;
    allow_many_files()?;
    install_crypto();
    let filter = std::env::var("PLENUM_BENCH_LOG").unwrap_or_else(|_| "warn".into());
    init_tracing(&Logging { filter, ..Logging::default() });
    match (role, more) {
        ("master", []) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(master(folder))
        }
        ("agents", [door]) => {
            // All of them share one thread: they are many, and each does little.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(agents(folder, door.parse()?))
        }
        _ => bail!("there is no role {role}"),
    }
}

/// Lines of the standard input; the channel closes at its end.
fn input() -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (to, lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn master(folder: &Path) -> Result<()> {
    let store = Arc::new(Embedded::open(folder.join("store.redb"), Options::default()).await?);
    let mut config = plenum_master::Config::default();
    config.component.open = true;
    let shutdown = Shutdown::new();
    let nothing = Path::new("/nonexistent");
    let setup = plenum_master::Setup {
        config,
        identity: Identity::load(&files(folder))?,
        authenticator: Authenticator::open(nothing, nothing, true),
        store: Arc::<Embedded>::clone(&store),
        http: TcpListener::bind(ADDRESS).await?,
        agents: TcpListener::bind(ADDRESS).await?,
    };
    let mut running = plenum_master::start(setup, shutdown.clone())?;
    running.leads().await;
    println!("{} {}", running.http, running.agents);
    let mut input = input();
    while input.recv().await.is_some() {
        println!("{}", trim());
    }
    shutdown.trigger();
    running.ended().await?;
    store.close().await?;
    Ok(())
}

/// Gives pages that nothing is on back to the system. Returns the bytes the program itself has taken and not given back.
#[allow(unsafe_code)]
fn trim() -> usize {
    // SAFETY: both calls take the allocator's own locks and touch no memory of the program.
    let info = unsafe {
        libc::malloc_trim(0);
        libc::mallinfo2()
    };
    info.uordblks + info.hblkhd
}

async fn agents(folder: &Path, door: SocketAddr) -> Result<()> {
    let certificate = std::fs::read_to_string(files(folder).ca)?;
    let authority = Authority::from_pem(&certificate, &std::fs::read_to_string(ca_key(folder))?)?;
    let shape = Shape { resources: RESOURCES.into(), lifetime: None };
    let fleet = Fleet::new(authority, INSTANCE, door, shape);
    let mut registered = 0;
    let mut input = input();
    while let Some(line) = input.recv().await {
        if let Some(count) = line.strip_prefix("register ") {
            let count = count.parse()?;
            match fleet.register(registered..count).await {
                Ok(()) => println!("registered"),
                Err(error) => println!("{error:#}"),
            }
            registered = count;
        } else {
            let read = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
            let counts = &fleet.counts;
            println!("{} {} {}", read(&counts.lost), read(&counts.repeated), read(&counts.started));
        }
    }
    Ok(())
}
