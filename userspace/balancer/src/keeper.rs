//! Keeps the kernel's tables as discovery wants them: reads the stream, asks the core for a transaction, carries it out, compares now and then.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use plenum_base::retry::Backoff;
use plenum_base::service::Shutdown;
use plenum_discovery::replica::socket::Tables;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::conntrack;
use crate::core::{Gone, Kernel, Key, Place, Wanted, gone, plan, skeleton};
use crate::listing::{self, Found};
use crate::tool::{ToolError, Tools};

/// The kernel's tables are compared with the wanted ones this often, should somebody else have changed them.
const COMPARE: Duration = Duration::from_secs(60);
/// After a failure it is tried again this soon.
const AGAIN: Duration = Duration::from_secs(5);

/// What the role reports.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// Whether the kernel's tables are as wanted.
    pub active: bool,
    /// Whether discovery's stream is there.
    pub connected: bool,
    /// Why not, in words.
    pub problem: Option<String>,
    /// The last step that the kernel's tables reflect.
    pub generation: u64,
    /// Virtual addresses in the kernel.
    pub vips: usize,
    /// Transactions since the start.
    pub transactions: u64,
}

/// Keeps one table.
#[derive(Debug)]
pub struct Keeper {
    place: Place,
    source: Ipv4Addr,
    tools: Tools,
    wanted: Wanted,
    /// What the kernel holds; `None` when it must be looked at first.
    kernel: Option<Kernel>,
    /// Nothing is taken out of the kernel before discovery has spoken once.
    spoken: bool,
    status: watch::Sender<Status>,
    /// Hears which back ends left.
    left: Option<mpsc::UnboundedSender<BTreeSet<Gone>>>,
}

impl Keeper {
    /// A keeper of the table at `place`; connections of this machine come from `source`.
    #[must_use]
    pub fn new(place: Place, source: Ipv4Addr, tools: Tools) -> Self {
        let status = watch::Sender::new(Status::default());
        Self {
            place,
            source,
            tools,
            wanted: Wanted::default(),
            kernel: None,
            spoken: false,
            status,
            left: None,
        }
    }

    /// What is reported.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Keeps the table until the end. It stays in the kernel afterwards.
    pub async fn run(mut self, mut lines: mpsc::Receiver<Option<Tables>>, shutdown: Shutdown) {
        let (left, gone) = mpsc::unbounded_channel();
        self.left = Some(left);
        tokio::spawn(conntrack::sweep(gone, shutdown.clone()));
        let mut compare = Instant::now() + AGAIN;
        while !shutdown.is_triggered() {
            let mut touched = BTreeSet::new();
            tokio::select! {
                () = shutdown.wait() => return,
                line = lines.recv() => {
                    let Some(line) = line else { return };
                    self.hear(line, &mut touched);
                    while let Ok(line) = lines.try_recv() {
                        self.hear(line, &mut touched);
                    }
                }
                () = sleep_until(compare) => {
                    self.kernel = None;
                    compare = Instant::now() + COMPARE;
                }
            }
            let nothing = touched.is_empty() && self.kernel.is_some();
            if !self.spoken || nothing {
                continue;
            }
            let trusted = self.kernel.is_some();
            let mut worked = self.settle(touched).await;
            if trusted && worked.is_err() {
                // The kernel was not as we remembered it: look, and do it again.
                self.kernel = None;
                worked = self.settle(BTreeSet::new()).await;
            }
            if !self.report(worked) {
                self.kernel = None;
                compare = Instant::now() + AGAIN;
            }
        }
    }

    fn hear(&mut self, line: Option<Tables>, touched: &mut BTreeSet<Key>) {
        let connected = line.is_some();
        let generation = line.as_ref().map(|line| line.generation);
        if let Some(line) = &line {
            touched.extend(self.wanted.take(line));
            self.spoken = true;
        }
        self.status.send_modify(|status| {
            status.connected = connected;
            if let Some(generation) = generation {
                status.generation = generation;
            }
        });
    }

    fn report(&self, worked: Result<bool, ToolError>) -> bool {
        let vips = self.wanted.len();
        match worked {
            Ok(changed) => {
                self.status.send_modify(|status| {
                    if status.problem.take().is_some() {
                        tracing::info!("virtual addresses work");
                    }
                    status.active = true;
                    status.vips = vips;
                    status.transactions += u64::from(changed);
                });
                true
            }
            Err(error) => {
                let text = error.to_string();
                self.status.send_modify(|status| {
                    if status.problem.as_ref() != Some(&text) {
                        tracing::warn!(
                            error = text,
                            "virtual addresses cannot be brought into the kernel; trying on"
                        );
                    }
                    status.active = false;
                    status.problem = Some(text);
                });
                false
            }
        }
    }

    /// Makes the kernel's tables right; whether something was changed.
    async fn settle(&mut self, mut touched: BTreeSet<Key>) -> Result<bool, ToolError> {
        let mut prefix = String::new();
        let kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => {
                // The route belongs to what is compared: it goes when loopback is set down and up.
                self.tools.route(&self.place.range.to_string(), &self.source.to_string()).await?;
                let listed = self.tools.list(&self.place.table).await?;
                match listed.map(|text| listing::read(&text, &self.place)) {
                    Some(Found::Ours(kernel)) => {
                        touched.extend(kernel.vips.keys().copied());
                        touched.extend(kernel.slots.keys().map(|(key, _)| *key));
                        touched.extend(self.wanted.keys());
                        kernel
                    }
                    other => {
                        if let Some(Found::Foreign(why)) = other {
                            tracing::warn!(table = self.place.table, why, "the table is made anew");
                        }
                        prefix = skeleton(&self.place);
                        touched.extend(self.wanted.keys());
                        Kernel::default()
                    }
                }
            }
        };
        let planned = plan(&self.place, &kernel, &self.wanted, &touched);
        let left = planned.as_ref().map(|(_, after)| gone(&kernel, after, &touched)).unwrap_or_default();
        let (script, after) = match planned {
            Some((script, after)) => (prefix + &script, after),
            None if prefix.is_empty() => {
                self.kernel = Some(kernel);
                return Ok(false);
            }
            None => (prefix, kernel),
        };
        self.tools.apply(&script).await?;
        if let Some(to) = self.left.as_ref().filter(|_| !left.is_empty()) {
            // Its receiver ends with this keeper.
            let _ = to.send(left);
        }
        self.kernel = Some(after);
        Ok(true)
    }
}

/// Reads discovery's stream and sends its lines; `None` says that it broke. Goes on until the end.
pub async fn follow(socket: PathBuf, to: mpsc::Sender<Option<Tables>>, shutdown: Shutdown) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    while !shutdown.is_triggered() {
        if let Ok(stream) = UnixStream::connect(&socket).await {
            let mut lines = BufReader::new(stream).lines();
            while let Some(Ok(Some(text))) = shutdown.until(lines.next_line()).await {
                match serde_json::from_str::<Tables>(&text) {
                    Ok(line) => {
                        backoff.reset();
                        if to.send(Some(line)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "discovery sent something that is no table; asking anew");
                        break;
                    }
                }
            }
            if to.send(None).await.is_err() {
                return;
            }
        }
        shutdown.sleep(backoff.delay()).await;
    }
}
