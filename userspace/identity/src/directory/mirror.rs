//! A copy of identity's records in memory that follows the store by a watch: what the policy is made of, and what is known while the store
//! cannot be asked. Deciding is done on the store itself.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use plenum_base::service::Shutdown;
use plenum_store::{Change, Range, Revision, Store, StoreError, WatchEvent};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::records::{self, RecordError};

/// Records that nobody reads from here, and of which there may be many.
const LEFT_OUT: &str = "removed/";
/// The pause after the store could not be asked.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct View {
    entries: BTreeMap<String, Bytes>,
    revision: Revision,
}

/// The copy.
#[derive(Debug)]
pub(super) struct Mirror {
    view: RwLock<View>,
    /// The revision that is shown, and whether a watch keeps it so.
    shown: watch::Sender<(Revision, bool)>,
}

impl Mirror {
    /// Reads everything.
    pub(super) async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let this = Self { view: RwLock::default(), shown: watch::Sender::new((Revision::default(), false)) };
        this.reload(store).await?;
        Ok(this)
    }

    /// Reads everything anew. Pages may show later revisions than the first; what changed in between is seen once more by the watch.
    pub(super) async fn reload(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut entries = BTreeMap::new();
        let mut first = None;
        let mut next = Some(Range::default());
        while let Some(range) = next {
            let page = store.range(range.clone()).await?;
            first.get_or_insert(page.revision);
            next = page.next(&range);
            let kept = page.entries.into_iter().filter(|entry| !entry.key.starts_with(LEFT_OUT));
            entries.extend(kept.map(|entry| (entry.key, entry.value)));
        }
        let revision = first.unwrap_or_default();
        *self.view.write() = View { entries, revision };
        self.shown.send_modify(|shown| shown.0 = revision);
        Ok(())
    }

    /// A record.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, RecordError> {
        let found = self.view.read().entries.get(key).cloned();
        found.map(|bytes| records::read(key, &bytes)).transpose()
    }

    /// `key` and all records under `prefix`, both as of one revision.
    pub(super) fn with_list<T: DeserializeOwned, U: DeserializeOwned>(
        &self,
        prefix: &str,
        key: &str,
    ) -> Result<(Vec<T>, Option<U>), RecordError> {
        let view = self.view.read();
        let under = view.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let listed = under.map(|(key, bytes)| records::read(key, bytes)).collect::<Result<_, _>>()?;
        let one = view.entries.get(key).map(|bytes| records::read(key, bytes)).transpose()?;
        Ok((listed, one))
    }

    /// Learns of each change.
    pub(super) fn changes(&self) -> watch::Receiver<(Revision, bool)> {
        self.shown.subscribe()
    }

    /// Waits until `revision` is shown; false when that takes longer than `wait`, or nothing follows the store.
    pub(super) async fn reached(&self, revision: Revision, wait: Duration) -> bool {
        let mut shown = self.shown.subscribe();
        let reached = shown.wait_for(|(at, follows)| *at >= revision || !follows);
        let reached = tokio::time::timeout(wait, reached).await;
        matches!(reached, Ok(Ok(shown)) if shown.0 >= revision)
    }

    /// Follows the store until `shutdown`.
    pub(super) async fn follow(&self, store: &dyn Store, shutdown: &Shutdown) {
        loop {
            let after = self.view.read().revision;
            let ended = shutdown.until(self.follow_from(store, after)).await;
            self.shown.send_modify(|shown| shown.1 = false);
            let Some(error) = ended else { return };
            tracing::warn!(%error, "identity's records cannot be followed; reading them again");
            loop {
                if !shutdown.sleep(PAUSE).await {
                    return;
                }
                match shutdown.until(self.reload(store)).await {
                    None => return,
                    Some(Ok(())) => break,
                    Some(Err(error)) => tracing::debug!(%error, "identity's records cannot be read"),
                }
            }
        }
    }

    async fn follow_from(&self, store: &dyn Store, after: Revision) -> StoreError {
        let mut watch = match store.watch("", after).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        self.shown.send_modify(|shown| shown.1 = true);
        loop {
            match watch.next().await {
                Ok(WatchEvent::Changes { revision, changes }) => self.apply(revision, changes),
                Ok(WatchEvent::Compacted { oldest }) => return StoreError::Compacted { oldest },
                // The watch goes on from where it was.
                Err(error) if error.is_retryable() => tokio::time::sleep(PAUSE).await,
                Err(error) => return error,
            }
        }
    }

    fn apply(&self, revision: Revision, changes: Vec<Change>) {
        let mut view = self.view.write();
        for change in changes {
            match change {
                Change::Put(entry) if entry.key.starts_with(LEFT_OUT) => {}
                Change::Put(entry) => {
                    view.entries.insert(entry.key, entry.value);
                }
                Change::Delete { key } => {
                    view.entries.remove(&key);
                }
            }
        }
        view.revision = view.revision.max(revision);
        drop(view);
        self.shown.send_modify(|shown| shown.0 = shown.0.max(revision));
    }
}
