//! Watches on an embedded store: from memory while they keep up, from the history table when they do not.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::engine::{self, Past};
use super::{Embedded, Progress, closed};
use crate::watch::WatchSource;
use crate::{Change, Revision, StoreError, WatchEvent};

/// Revisions and bytes kept in memory for watches.
const RING_REVISIONS: usize = 4096;
const RING_BYTES: usize = 8 * 1024 * 1024;

/// All changes of one revision.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) revision: u64,
    pub(super) changes: Vec<Change>,
    pub(super) bytes: usize,
}

impl Published {
    fn under(&self, prefix: &str) -> Option<WatchEvent> {
        let mut changes = self.changes.iter().filter(|change| change.key().starts_with(prefix)).peekable();
        changes.peek()?;
        Some(WatchEvent::Changes { revision: Revision(self.revision), changes: changes.cloned().collect() })
    }
}

/// The newest revisions, without gaps.
#[derive(Debug, Default)]
pub(super) struct Ring {
    revisions: VecDeque<Arc<Published>>,
    bytes: usize,
}

impl Ring {
    pub(super) fn push(&mut self, published: Published) {
        if self.revisions.back().is_some_and(|last| last.revision.saturating_add(1) != published.revision) {
            self.clear();
        }
        self.bytes = self.bytes.saturating_add(published.bytes);
        self.revisions.push_back(Arc::new(published));
        while self.revisions.len() > RING_REVISIONS || (self.bytes > RING_BYTES && self.revisions.len() > 1) {
            let Some(gone) = self.revisions.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(gone.bytes);
        }
    }

    pub(super) fn clear(&mut self) {
        self.revisions.clear();
        self.bytes = 0;
    }

    /// The first event under a prefix after `cursor`, which moves as far as was looked at; `None` if the ring
    /// does not reach back to it.
    fn next(&self, cursor: &mut u64, prefix: &str) -> Option<Option<WatchEvent>> {
        let front = self.revisions.front()?.revision;
        let skip = usize::try_from(cursor.saturating_add(1).checked_sub(front)?).ok()?;
        for published in self.revisions.iter().skip(skip) {
            *cursor = published.revision;
            if let Some(event) = published.under(prefix) {
                return Some(Some(event));
            }
        }
        Some(None)
    }
}

pub(super) struct EmbeddedWatch {
    store: Embedded,
    prefix: String,
    /// Everything up to this revision has been delivered or is in `pending`.
    cursor: u64,
    pending: VecDeque<WatchEvent>,
    progress: watch::Receiver<Progress>,
}

impl EmbeddedWatch {
    pub(super) fn new(store: Embedded, prefix: &str, after: Revision) -> Self {
        let progress = store.shared.progress.subscribe();
        Self { store, prefix: prefix.to_owned(), cursor: after.0, pending: VecDeque::new(), progress }
    }
}

#[async_trait]
impl WatchSource for EmbeddedWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let cursor = self.cursor;
            let progress = self.progress.wait_for(|p| p.closed || p.revision > cursor).await;
            if progress.map_err(|_| closed())?.closed {
                return Err(closed());
            }
            let near = self.store.shared.ring.read().next(&mut self.cursor, &self.prefix);
            match near {
                Some(Some(event)) => return Ok(event),
                Some(None) => continue,
                None => {}
            }
            match self.store.read(move |db| engine::history(db, cursor)).await? {
                Past::Compacted(oldest) => return Ok(WatchEvent::Compacted { oldest }),
                Past::Revisions(found) => {
                    for published in found {
                        self.cursor = published.revision;
                        self.pending.extend(published.under(&self.prefix));
                    }
                }
            }
        }
    }
}
