//! A node's replica: names and tables derived from the publisher's steps, kept on disk, read by the DNS server, the HTTP API and the balancer.

pub mod core;
pub mod disk;
pub mod records;
pub mod socket;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use plenum_base::service::Shutdown;
use tokio::sync::{broadcast, mpsc, watch};

use self::core::{Replica, VipKey};
use crate::feed::{Copy, Delta};

/// How many changes a balancer may be behind before it is told everything again.
const BEHIND: usize = 256;

/// The replica as its readers share it.
#[derive(Debug, Clone)]
pub struct Shared {
    replica: Arc<RwLock<Replica>>,
    tables: broadcast::Sender<Arc<BTreeSet<VipKey>>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    /// Begins with what is known already.
    #[must_use]
    pub fn new(replica: Replica) -> Self {
        let (tables, _) = broadcast::channel(BEHIND);
        Self { replica: Arc::new(RwLock::new(replica)), tables, changed: watch::Sender::new(0) }
    }

    /// Reads. The guard must not be held over a wait.
    pub fn read(&self) -> RwLockReadGuard<'_, Replica> {
        self.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step and tells everybody; false when a step was missed.
    pub fn apply(&self, delta: Delta) -> bool {
        let applied = self.replica.write().unwrap_or_else(PoisonError::into_inner).apply(delta);
        match applied {
            Ok(touched) => {
                if !touched.is_empty() {
                    // Nobody listening is no error.
                    let _ = self.tables.send(Arc::new(touched));
                }
                self.changed.send_modify(|count| *count += 1);
                true
            }
            Err(missed) => {
                tracing::warn!(%missed, "a step of the publisher is missing");
                false
            }
        }
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
