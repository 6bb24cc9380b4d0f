//! Whether the store has room. While it is full, a change is refused before the core hears of it: the core takes what it has decided for
//! certain, so that a write that cannot be made costs it its life and a reading of everything.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use plenum_store::{Store, StoreError, Txn};

use super::Lead;
use crate::core::error::ApiError;

/// What is written to see whether there is room. No root names this chunk: the next start removes what a crash leaves of it.
const PROBE: &str = "chunks/probe/000000";
/// Bytes of it: about what a small app takes, its version and its deployment.
const PROBE_BYTES: usize = 8 * 1024;

/// The store as its leader writes to it, and whether it was full the last time. Clones are cheap and know the same.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    store: Arc<dyn Store>,
    lead: Lead,
    full: Arc<Mutex<Option<String>>>,
}

impl Room {
    /// Room until a write says otherwise.
    pub(crate) fn new(store: Arc<dyn Store>, lead: Lead) -> Self {
        Self { store, lead, full: Arc::default() }
    }

    pub(super) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The right by which is written.
    pub(super) fn lead(&self) -> &Lead {
        &self.lead
    }

    /// Writes as the leader, and remembers whether there was room.
    pub(super) async fn commit(&self, mut txn: Txn) -> Result<(), StoreError> {
        txn.guards.extend(self.lead.guards());
        let result = self.store.commit(txn).await.map(|_| ());
        let full = match &result {
            Err(StoreError::Full { reason, .. }) => Some(reason.clone()),
            _ => None,
        };
        *self.full.lock().unwrap_or_else(PoisonError::into_inner) = full;
        result
    }

    fn is_full(&self) -> Option<String> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes while there is room. After a write that found none, another small one has to succeed first.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] with the reason.
    pub(super) async fn check(&self) -> Result<(), ApiError> {
        if self.is_full().is_none() {
            return Ok(());
        }
        let probe = Txn::new().put(PROBE, Bytes::from(vec![0; PROBE_BYTES]));
        let result = match self.commit(probe).await {
            Ok(()) => self.commit(Txn::new().delete(PROBE)).await,
            Err(error) => Err(error),
        };
        result.map_err(|_| self.refusal())
    }

    /// Why a change cannot be answered now.
    pub(super) fn refusal(&self) -> ApiError {
        ApiError::Unavailable(match self.is_full() {
            Some(reason) => format!(
                "the disk that holds the scheduler's records is full ({reason}): nothing was changed; free space, then try again"
            ),
            None => "the scheduler is being restarted, or its store does not answer: try again".to_owned(),
        })
    }
}
