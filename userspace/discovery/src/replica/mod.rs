//! A node's replica: names and tables derived from the publisher's steps, kept on disk, read by the DNS server, the HTTP API, the balancer and
//! those who follow this one. What the last steps were is kept for a while, so that whoever comes back is told those alone.

pub mod core;
pub mod disk;
pub mod records;
pub mod socket;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use plenum_base::service::Shutdown;
use tokio::sync::{broadcast, mpsc, watch};

use self::core::{Replica, VipKey};
use crate::feed::{Beat, Copy, Delta, Line};

/// How many changes a balancer may be behind before it is told everything again.
const BEHIND: usize = 256;
/// The steps that are kept for those who come back, and their bytes.
const STEPS: usize = 4096;
const BYTES: usize = 16 << 20;
/// For so long after a relay said that the publisher is heard there, it counts as heard here.
pub const LIVE: Duration = Duration::from_secs(3);

/// Whether the publisher is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Not at all.
    Never,
    /// Until then.
    Until(Instant),
    /// It is here.
    Here,
}

/// The last steps, as lines.
#[derive(Debug, Default)]
struct Recent {
    steps: VecDeque<(u64, u64, Bytes)>,
    bytes: usize,
    /// Everything as a line, with the step after which it holds.
    whole: Option<(u64, u64, Bytes)>,
}

impl Recent {
    fn push(&mut self, delta: &Delta) {
        if delta.whole.is_some() {
            (self.steps, self.bytes) = (VecDeque::new(), 0);
            return;
        }
        let Some(line) = encoded(&Line::Step(delta.clone())) else { return };
        self.bytes += line.len();
        self.steps.push_back((delta.epoch, delta.generation, line));
        while self.steps.len() > STEPS || self.bytes > BYTES {
            let Some((_, _, line)) = self.steps.pop_front() else { break };
            self.bytes -= line.len();
        }
    }

    /// What follows a step; `None` when that is not known any more.
    fn after(&self, (epoch, generation): (u64, u64)) -> Option<Vec<Bytes>> {
        let next = (epoch, generation.checked_add(1)?);
        let first = self.steps.iter().position(|(epoch, generation, _)| (*epoch, *generation) == next)?;
        Some(self.steps.iter().skip(first).map(|(_, _, line)| line.clone()).collect())
    }
}

/// A line of the stream.
pub(crate) fn encoded(line: &Line) -> Option<Bytes> {
    let mut text = serde_json::to_vec(line).ok()?;
    text.push(b'\n');
    Some(text.into())
}

/// The replica as its readers share it.
#[derive(Debug, Clone)]
pub struct Shared {
    replica: Arc<RwLock<Replica>>,
    recent: Arc<Mutex<Recent>>,
    heard: Arc<Mutex<Heard>>,
    tables: broadcast::Sender<Arc<BTreeSet<VipKey>>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    /// Begins with what is known already.
    #[must_use]
    pub fn new(replica: Replica) -> Self {
        let (tables, _) = broadcast::channel(BEHIND);
        Self {
            replica: Arc::new(RwLock::new(replica)),
            recent: Arc::default(),
            heard: Arc::new(Mutex::new(Heard::Never)),
            tables,
            changed: watch::Sender::new(0),
        }
    }

    /// Reads. The guard must not be held over a wait.
    pub fn read(&self) -> RwLockReadGuard<'_, Replica> {
        self.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step and tells everybody; false when a step was missed.
    pub fn apply(&self, delta: Delta) -> bool {
        let mut replica = self.replica.write().unwrap_or_else(PoisonError::into_inner);
        let mut recent = self.recent.lock();
        match replica.apply(delta.clone()) {
            Ok(touched) => {
                recent.push(&delta);
                drop((recent, replica));
                self.tell(touched);
                true
            }
            Err(missed) => {
                tracing::debug!(%missed, "a step of the publisher is missing");
                false
            }
        }
    }

    /// Takes a task out whose end was seen on this node; see [`Replica::bury`].
    pub fn bury(&self, framework: &str, task: &str) -> bool {
        let buried = self.replica.write().unwrap_or_else(PoisonError::into_inner).bury(framework, task);
        let known = buried.is_some();
        if let Some(touched) = buried {
            // What was told as everything held the task.
            self.recent.lock().whole = None;
            self.tell(touched);
        }
        known
    }

    fn tell(&self, touched: BTreeSet<VipKey>) {
        if !touched.is_empty() {
            // Nobody listening is no error.
            let _ = self.tables.send(Arc::new(touched));
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// What follows the step `after`, as lines: the steps since, or everything; nothing when it is the last one. And the last step.
    pub fn lines_after(&self, after: (u64, u64)) -> (Vec<Bytes>, (u64, u64)) {
        let replica = self.read();
        let now = replica.step();
        if after == now {
            return (Vec::new(), now);
        }
        let mut recent = self.recent.lock();
        if let Some(lines) = recent.after(after) {
            return (lines, now);
        }
        let whole = match &recent.whole {
            Some((epoch, generation, line)) if (*epoch, *generation) == now => Some(line.clone()),
            _ => {
                let whole = Some(replica.facts().clone());
                let delta = Delta { epoch: now.0, generation: now.1, whole, changes: Vec::new() };
                let line = encoded(&Line::Step(delta));
                recent.whole = line.clone().map(|line| (now.0, now.1, line));
                line
            }
        };
        (whole.into_iter().collect(), now)
    }

    /// The publisher is in this process, or is no longer.
    pub fn publishes(&self, here: bool) {
        *self.heard.lock() = if here { Heard::Here } else { Heard::Never };
        self.changed.send_modify(|count| *count += 1);
    }

    /// The publisher was heard of just now.
    pub fn heard(&self) {
        let mut heard = self.heard.lock();
        if *heard != Heard::Here {
            *heard = Heard::Until(Instant::now() + LIVE);
        }
    }

    /// Whether what is known is the present.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match *self.heard.lock() {
            Heard::Never => false,
            Heard::Until(until) => Instant::now() < until,
            Heard::Here => true,
        }
    }

    /// How this replica is, for those who follow it.
    #[must_use]
    pub fn beat(&self) -> Beat {
        let (epoch, generation) = self.read().step();
        Beat { live: self.is_live(), epoch, generation }
    }

    /// Told when tables change.
    #[must_use]
    pub fn tables(&self) -> broadcast::Receiver<Arc<BTreeSet<VipKey>>> {
        self.tables.subscribe()
    }

    /// Told when anything changes.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Everything, to be written down.
    #[must_use]
    pub fn copy(&self) -> Copy {
        self.read().copy()
    }
}

/// Applies what the publisher sends until it ends.
pub async fn follow(shared: Shared, mut from: mpsc::Receiver<Delta>, shutdown: Shutdown) {
    while let Some(Some(delta)) = shutdown.until(from.recv()).await {
        shared.apply(delta);
    }
}
