//! What a thousand listeners of `/v2/events` cost those who change and read apps meanwhile, and what each takes of memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use plenum_testkit::process::cpu_time;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::leader::{self, Leader};
use super::{Spread, WAIT, master, seed, spread};
use crate::figures::Figures;

/// By how much answers may be later with many listeners than with one.
const LATER: f64 = 2.0;
/// Memory of each, in KiB, at most.
const EACH: f64 = 64.0;
/// Changes a second.
const RATE: f64 = 10.0;
/// How every frame begins.
const FRAME: &[u8] = b"event: ";

/// Many listeners in a thread of their own; each counts the events it has seen.
struct Listeners {
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
    seen: Vec<Arc<AtomicU64>>,
}

/// Changes and reads apps beside one listener, then beside `listeners`.
pub fn run(
    figures: &mut Figures,
    runtime: &tokio::runtime::Runtime,
    records: BTreeMap<String, Vec<u8>>,
    apps: usize,
    (listeners, changes): (usize, usize),
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let address = runtime.block_on(async {
        leader::write(folder.path(), records).await?;
        master::serve().await
    })?;
    let leader = Leader::start(folder.path(), &format!("http://{address}"))?;
    let instances = apps * seed::EACH as usize;
    let mut all = Listeners::new(leader.address)?;
    runtime.block_on(async {
        let name = "service.mesosphere.marathon.task.running.count";
        leader.until("/metrics", WAIT, |m| m["gauges"][name]["value"] == json!(instances)).await?;
        all.add(1)?;
        load(&leader, apps, changes).await?;
        let one = load(&leader, apps, changes).await?;
        let before = leader.memory()?;
        all.add(listeners - 1)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle = leader.memory()?;
        let (from, encoded_before) = (all.counts(), encoded(&leader).await?);
        let many = load(&leader, apps, changes).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (after, encoded_after) = (leader.memory()?, encoded(&leader).await?);
        let events: Vec<u64> = all.counts().iter().zip(from).map(|(now, before)| now - before).collect();
        let kib = |more: u64| more.saturating_sub(before) as f64 / 1024.0 / (listeners - 1).max(1) as f64;
        figures.at_most(format!("memory of each of {listeners} listeners"), kib(idle), "KiB", EACH);
        figures.at_most(
            format!("memory of each of {listeners} listeners after the events"),
            kib(after),
            "KiB",
            EACH,
        );
        for (what, one, many) in [("PUT", one.puts, many.puts), ("GET", one.gets, many.gets)] {
            figures.note(format!("{what} of an app, p99, 1 listener"), one.p99, "ms");
            figures.note(format!("{what} of an app, p99, {listeners} listeners"), many.p99, "ms");
            let later = many.p99 / one.p99.max(1e-6);
            figures.at_most(format!("{what} of an app, p99: 1 listener to {listeners}"), later, "×", LATER);
        }
        let most = events.iter().max().copied().unwrap_or(0);
        let least = events.iter().min().copied().unwrap_or(0);
        ensure!(most > 0, "nobody saw an event");
        figures.note("events a listener saw", most as f64, "");
        let times = (encoded_after - encoded_before) / most as f64;
        figures.exactly(format!("times an event was encoded for {listeners} listeners"), times, "", 1.0);
        figures.exactly("events that the least attentive of them missed", (most - least) as f64, "", 0.0);
        let sent = events.iter().sum::<u64>() as f64;
        let more = many.cpu.saturating_sub(one.cpu).as_secs_f64() * 1e6;
        figures.note("scheduler's CPU for an event to a listener", more / sent, "µs");
        anyhow::Ok(())
    })?;
    leader.stop();
    Ok(())
}

/// Events that the scheduler has encoded so far, by its own count.
async fn encoded(leader: &Leader) -> Result<f64> {
    let metrics = leader.get("/metrics").await?.0;
    metrics["counters"]["plenum.services.events.encoded"]["count"].as_f64().context("events are not counted")
}

struct Loaded {
    puts: Spread,
    gets: Spread,
    cpu: Duration,
}

/// Scales apps there and back at a fixed rate and reads each right after.
async fn load(leader: &Leader, apps: usize, changes: usize) -> Result<Loaded> {
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    let before = cpu_time(leader.id())?;
    let began = Instant::now();
    for n in 0..changes {
        sleep_until(began + Duration::from_secs_f64(n as f64 / RATE)).await;
        let path = format!("/v2/apps/{}", seed::id(n / 2 % apps));
        let more = u32::from(n % 2 == 0);
        let body = json!({"instances": seed::EACH + more});
        puts.push(leader.change(Method::PUT, &format!("{path}?force=true"), Some(&body)).await?);
        gets.push(leader.get(&path).await?.1);
    }
    leader.until("/v2/deployments", WAIT, |list| *list == json!([])).await?;
    let cpu = cpu_time(leader.id())?.saturating_sub(before);
    Ok(Loaded { puts: spread(puts), gets: spread(gets), cpu })
}

impl Listeners {
    fn new(address: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { address, runtime, seen: Vec::new() })
    }

    /// So many more; all of them listen when this returns.
    fn add(&mut self, count: usize) -> Result<()> {
        let (ready, is_ready) = std::sync::mpsc::channel();
        for _ in 0..count {
            let seen = Arc::new(AtomicU64::new(0));
            self.seen.push(Arc::clone(&seen));
            let (address, ready) = (self.address, ready.clone());
            self.runtime.spawn(async move {
                if let Err(error) = listen(address, &seen, ready).await {
                    eprintln!("a listener: {error:#}");
                }
            });
        }
        for _ in 0..count {
            is_ready.recv_timeout(WAIT).context("a listener got no answer")?;
        }
        Ok(())
    }

    fn counts(&self) -> Vec<u64> {
        self.seen.iter().map(|seen| seen.load(Ordering::Relaxed)).collect()
    }
}

/// Counts how many events begin on a connection, until it ends.
async fn listen(address: SocketAddr, seen: &AtomicU64, ready: std::sync::mpsc::Sender<()>) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /v2/events HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut ready = Some(ready);
    let mut buffer = vec![0; 16 * 1024];
    let mut kept = 0;
    loop {
        let Some(free) = buffer.get_mut(kept..) else { return Ok(()) };
        let read = stream.read(free).await?;
        if read == 0 {
            return Ok(());
        }
        ready.take().map(|ready| ready.send(()));
        let filled = kept + read;
        let bytes = buffer.get(..filled).unwrap_or_default();
        let found = bytes.windows(FRAME.len()).filter(|part| *part == FRAME).count();
        seen.fetch_add(found as u64, Ordering::Relaxed);
        // What may be the beginning of a frame; a whole one is not counted twice.
        let from = filled.saturating_sub(FRAME.len() - 1);
        kept = filled - from;
        buffer.copy_within(from..filled, 0);
    }
}
