//! What the parts of the runtime share: settings, the engine, the table of containers, and the keeper that watches over
//! the engine's health.

use crate::config::DockerConfig;
use crate::container::Container;
use crate::engine::Engine;
use crate::images::Pulled;
use crate::pull::Progress;
use crate::record::{Record, Records};
use crate::spec::DockerSpec;
use parking_lot::Mutex;
use plenum_containers::RuntimeError;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;

/// See the module.
#[derive(Debug)]
pub struct Inner {
    /// Settings.
    pub config: DockerConfig,
    /// The engine.
    pub engine: Engine,
    /// What is on disk.
    pub records: Records,
    /// Every container that is not forgotten.
    pub table: Mutex<BTreeMap<String, Slot>>,
    /// Descriptions that wait for their launch.
    pub announced: Mutex<BTreeMap<String, DockerSpec>>,
    /// Pulls under way, by container.
    pub pulls: Mutex<BTreeMap<String, Progress>>,
    /// Images that were pulled for tasks.
    pub images: Pulled,
    /// Containers of an earlier life have been looked for: what is still unknown is nobody's.
    pub recovered: AtomicBool,
}

/// A container, and who watches it.
#[derive(Debug)]
pub struct Slot {
    /// The container.
    pub container: Arc<Container>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Between two looks at an engine that is away.
const AWAY: Duration = Duration::from_millis(500);
/// Between two attempts to remove what could not be removed.
const SWEEP: Duration = Duration::from_secs(20);

impl Inner {
    /// The container of an id.
    pub fn find(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        let table = self.table.lock();
        let slot = table.get(id).ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
        Ok(Arc::clone(&slot.container))
    }

    /// One that runs.
    pub fn running(&self, id: &str) -> Result<Arc<Container>, RuntimeError> {
        let container = self.find(id)?;
        if *container.stopped.borrow() || container.ended().is_some() {
            return Err(RuntimeError::Ended(id.to_owned()));
        }
        Ok(container)
    }

    /// Puts a container in the table; an error if the id is taken.
    pub fn enter(&self, record: Record) -> Result<Arc<Container>, RuntimeError> {
        let mut table = self.table.lock();
        if table.contains_key(&record.id) {
            return Err(RuntimeError::Exists(record.id));
        }
        let id = record.id.clone();
        let container = Arc::new(Container::new(record, self.records.clone()));
        table.insert(id, Slot { container: Arc::clone(&container), tasks: Vec::new() });
        Ok(container)
    }

    /// Forgets a container, with its folder.
    pub fn forget(&self, id: &str) -> Result<(), RuntimeError> {
        self.table.lock().remove(id);
        self.pulls.lock().remove(id);
        self.records.remove(id)
    }

    /// Starts to watch a container that runs, or that has ended and whose end is to be told.
    pub fn attend(self: &Arc<Self>, container: &Arc<Container>) {
        let watch = tokio::spawn(crate::watch::watch(Arc::clone(self), Arc::clone(container)));
        let follow = tokio::spawn(crate::follow::follow(Arc::clone(self), Arc::clone(container)));
        let mut table = self.table.lock();
        match table.get_mut(&container.record().id) {
            Some(slot) if slot.tasks.is_empty() => slot.tasks = vec![watch, follow],
            _ => {
                watch.abort();
                follow.abort();
            }
        }
    }
}

/// Looks after the engine until the runtime is dropped.
pub async fn keep(inner: Weak<Inner>) {
    let mut swept = tokio::time::Instant::now();
    while let Some(inner) = inner.upgrade() {
        let back = inner.engine.look().await;
        let mut health = inner.engine.health();
        let ready = health.borrow_and_update().is_ready();
        if ready && (back || swept.elapsed() >= SWEEP) {
            swept = tokio::time::Instant::now();
            crate::destroy::sweep(&inner).await;
        }
        let pause = if ready { inner.config.ping_every } else { AWAY };
        drop(inner);
        // A call that fails is looked into at once.
        let _either = tokio::time::timeout(pause, health.changed()).await;
    }
}
