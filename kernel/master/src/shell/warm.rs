//! A candidate's copy of the master's records: read once, then followed, so that being elected costs no reading.
//!
//! Owns which changes the copy has seen. Who leads is `lead`'s business; what the records mean is the core's.

use std::time::Duration;

use plenum_store::{Change, Range, Revision, Store, StoreError, Watch, WatchEvent};
use tokio::time::{Instant, timeout_at};

use super::MasterError;
use crate::core::Records;

/// For the last changes to arrive after the election; then everything is read anew.
const CATCH_UP: Duration = Duration::from_millis(500);

/// The copy.
#[derive(Debug)]
pub(crate) struct Warm {
    records: Records,
    watch: Watch,
    /// The newest revision whose changes are in it.
    seen: Revision,
}

/// Why a copy cannot be followed any further: it is to be read anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stale {
    #[error("changes are missing that the store no longer has")]
    Compacted,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Record(#[from] crate::core::RecordError),
}

impl Warm {
    /// Reads everything.
    pub async fn read(store: &dyn Store) -> Result<Self, MasterError> {
        let mut records = Records::default();
        let mut first = None;
        let mut request = Some(Range::prefix(""));
        while let Some(range) = request {
            let page = store.range(range.clone()).await?;
            // Later pages may be newer; what the watch repeats of them does no harm.
            first.get_or_insert(page.revision);
            for entry in &page.entries {
                records.take(entry)?;
            }
            request = page.next(&range);
        }
        let seen = first.unwrap_or(Revision(0));
        let watch = store.watch("", seen).await?;
        Ok(Self { records, watch, seen })
    }

    /// Waits for the next changes and takes them in. Says whether one was at `key`. Cancel safe.
    pub async fn follow(&mut self, key: &str) -> Result<bool, Stale> {
        match self.watch.next().await? {
            WatchEvent::Compacted { .. } => Err(Stale::Compacted),
            WatchEvent::Changes { revision, changes } => {
                let mut at_key = false;
                for change in &changes {
                    at_key |= change.key() == key;
                    match change {
                        Change::Put(entry) => self.records.take(entry)?,
                        Change::Delete { key } => self.records.forget(key),
                    }
                }
                self.seen = self.seen.max(revision);
                Ok(at_key)
            }
        }
    }

    /// The records as of `revision`, at which this candidate was elected: nobody else's change can come after it.
    pub async fn up_to(mut self, revision: Revision) -> Result<Records, Stale> {
        let end = Instant::now() + CATCH_UP;
        while self.seen < revision {
            match timeout_at(end, self.follow("")).await {
                Ok(followed) => drop(followed?),
                Err(_) => return Err(Stale::Compacted),
            }
        }
        Ok(self.records)
    }
}

/// Every record, from the copy if there is a good one.
pub(crate) async fn records(
    copy: Option<Warm>,
    store: &dyn Store,
    elected: Option<Revision>,
) -> Result<Records, MasterError> {
    if let (Some(copy), Some(elected)) = (copy, elected) {
        match copy.up_to(elected).await {
            Ok(records) => return Ok(records),
            Err(error) => tracing::info!(%error, "the records are read anew"),
        }
    }
    Ok(Warm::read(store).await?.records)
}
