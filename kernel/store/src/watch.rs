//! The consumer's end of a watch, the same for every store.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Change, Revision, StoreError};

/// What a watch has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes under the prefix of one revision (which is one transaction, or one lease's end).
    Changes {
        /// The revision.
        revision: Revision,
        /// The changes; never empty.
        changes: Vec<Change>,
    },
    /// Changes the watch had not seen are no longer kept. An ordinary outcome: list again and open a new watch;
    /// this one repeats the answer.
    Compacted {
        /// The oldest revision a watch can start after.
        oldest: Revision,
    },
}

/// Where a watch gets its events. `next` must be cancel safe.
#[async_trait]
pub(crate) trait WatchSource: Send {
    async fn next(&mut self) -> Result<WatchEvent, StoreError>;
}

/// A stream of changes, in revision order, without gaps. See [`crate::Store::watch`].
pub struct Watch {
    source: Box<dyn WatchSource>,
    strip: usize,
}

impl Watch {
    pub(crate) fn new(source: impl WatchSource + 'static) -> Self {
        Self { source: Box::new(source), strip: 0 }
    }

    pub(crate) fn scoped(mut self, prefix_bytes: usize) -> Self {
        self.strip = self.strip.saturating_add(prefix_bytes);
        self
    }

    /// The next event. Waits for as long as nothing changes; a lost connection is taken up again from where it
    /// broke. Cancel safe: dropping the future loses nothing.
    ///
    /// After `Unavailable` the watch can be asked again and goes on without a gap; other errors are final.
    pub async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        let event = self.source.next().await?;
        Ok(match event {
            WatchEvent::Changes { revision, changes } if self.strip > 0 => {
                let changes = changes.into_iter().map(|change| change.strip(self.strip)).collect();
                WatchEvent::Changes { revision, changes }
            }
            other => other,
        })
    }

    /// As [`Watch::next`], but `None` if nothing happened for `wait`.
    pub async fn next_within(&mut self, wait: Duration) -> Result<Option<WatchEvent>, StoreError> {
        match tokio::time::timeout(wait, self.next()).await {
            Ok(event) => event.map(Some),
            Err(_) => Ok(None),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
