//! The scheduler as a process of its own: this program started again, with a store on disk, the API on loopback, and a master that it is told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use plenum_base::client::{Client, full};
use plenum_base::service::{Logging, Shutdown, init_tracing, install_crypto};
use plenum_services::http::{About, router};
use plenum_services::shell::{Setup, engine};
use plenum_store::{Embedded, Options, Store, Txn};
use plenum_testkit::process::{Helper, allow_many_files, die_with, memory};
use serde_json::Value;
use tokio::net::TcpListener;

/// The first argument of such a process.
const ROLE: &str = "services-leader";
/// Where it listens.
const ADDRESS: &str = "127.88.201.1:0";
/// For a process to be up.
const START: Duration = Duration::from_secs(60);
/// Writes of one transaction.
const BATCH: usize = 95;

/// A scheduler.
pub struct Leader {
    process: Helper,
    client: Client,
    /// Where it serves the API.
    pub address: SocketAddr,
}

/// An answer: its status and its body.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The bytes.
    pub body: Vec<u8>,
}

impl Leader {
    /// Starts one on the store in `folder`, which is made if it is not there, for the master at `master`. It serves when this returns;
    /// whether it has read its store is another question.
    pub fn start(folder: &Path, master: &str) -> Result<Self> {
        let folder = folder.to_str().context("the temporary folder's name is no text")?;
        let parent = std::process::id().to_string();
        let arguments = [ROLE, &parent, folder, master].map(str::to_owned);
        let process = Helper::start(&std::env::current_exe()?, &arguments)?;
        let address = process.line(START).context("the scheduler does not start")?.parse()?;
        Ok(Self { process, client: Client::plain()?, address })
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Bytes that it has of the machine's memory.
    pub fn memory(&self) -> Result<u64> {
        memory(self.process.id())
    }

    /// The most it ever had.
    pub fn peak(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// One request.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let url = format!("http://{}{path}", self.address);
        let bytes = body.map_or(Vec::new(), |body| body.to_string().into_bytes());
        let call = self.client.call(method, &url).body(full(bytes)).deadline(START);
        let reply = call.header(http::header::CONTENT_TYPE, "application/json").send().await?;
        let status = reply.status.as_u16();
        Ok(Answer { status, body: reply.bytes_up_to(1 << 30).await?.to_vec() })
    }

    /// The JSON at a path, and how long it took until it was here.
    pub async fn get(&self, path: &str) -> Result<(Value, Duration)> {
        let began = Instant::now();
        let answer = self.send(Method::GET, path, None).await?;
        let took = began.elapsed();
        ensure!(answer.status == 200, "GET {path}: {}", answer.status);
        Ok((serde_json::from_slice(&answer.body)?, took))
    }

    /// Asks for a change, which must be taken; how long it took.
    pub async fn change(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Duration> {
        let began = Instant::now();
        let answer = self.send(method.clone(), path, body).await?;
        let took = began.elapsed();
        let said = String::from_utf8_lossy(&answer.body);
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {said}", answer.status);
        Ok(took)
    }

    /// Asks for the JSON at `path` until it fits; the time until then.
    pub async fn until(
        &self,
        path: &str,
        within: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        while began.elapsed() < within {
            let answer = self.send(Method::GET, path, None).await;
            if let Ok(answer) = answer
                && answer.status == 200
                && fits(&serde_json::from_slice(&answer.body)?)
            {
                return Ok(began.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("{path} did not come to what was waited for in {within:?}")
    }

    /// Ends the process.
    pub fn stop(self) {
        self.process.stop(Duration::from_secs(10));
    }
}

/// Writes records into a new store in `folder`, as a scheduler would have.
pub async fn write(folder: &Path, records: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<()> {
    let store = Embedded::open(file(folder), Options::default()).await?;
    let mut txn = Txn::new();
    for (key, value) in records {
        txn = txn.put(key, value);
        if txn.len() == BATCH {
            store.commit(std::mem::take(&mut txn)).await?;
        }
    }
    if !txn.is_empty() {
        store.commit(txn).await?;
    }
    Ok(store.close().await?)
}

fn file(folder: &Path) -> std::path::PathBuf {
    folder.join("services.redb")
}

/// Is the scheduler, when this process was started for that.
pub fn role(arguments: &[String]) -> Option<Result<()>> {
    match arguments {
        [first, parent, folder, master] if first == ROLE => Some(be(parent, Path::new(folder), master)),
        _ => None,
    }
}

fn be(parent: &str, folder: &Path, master: &str) -> Result<()> {
    die_with(parent.parse()?)?;
    allow_many_files()?;
    install_crypto();
    let filter = std::env::var("PLENUM_BENCH_LOG").unwrap_or_else(|_| "warn".into());
    init_tracing(&Logging { filter, ..Logging::default() });
    // As the role does.
    plenum_base::memory::keep_little();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(lead(folder, master))
}

async fn lead(folder: &Path, master: &str) -> Result<()> {
    let listener = TcpListener::bind(ADDRESS).await?;
    println!("{}", listener.local_addr()?);
    let store: Arc<dyn Store> = Arc::new(Embedded::open(file(folder), Options::default()).await?);
    let setup = Setup::new(vec![master.to_owned()], Client::plain()?);
    let (handle, engine) = engine(setup, store);
    let router = router(handle, About::default());
    let shutdown = Shutdown::new();
    let until = shutdown.clone();
    let ended = tokio::task::spawn_blocking(|| {
        // Its end asks this process to end.
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|n| n > 0) {}
    });
    tokio::select! {
        ran = engine.run(until) => Ok(ran?),
        served = axum::serve(listener, router) => Ok(served?),
        _ = ended => {
            shutdown.trigger();
            Ok(())
        }
    }
}
