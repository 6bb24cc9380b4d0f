//! Changes that every component must learn of: each is one transaction that also raises the policy's number, guarded by the number that was
//! read before anything the change is decided from. So of two that overlap, on one identity or on two, the later is decided anew.

use std::time::Duration;

use plenum_store::{Revision, StoreError, Txn};
use tokio::sync::MutexGuard;

use super::{Directory, DirectoryError};
use crate::records::{self, FORMAT, PolicyNumber};

/// How often a change is decided anew before the caller is told to come back.
const TRIES: u32 = 30;
/// How long the own change may take to come back by the watch, before the records are read instead.
const COMES_BACK: Duration = Duration::from_secs(2);

/// Counts the attempts of one change.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Waits a little before every attempt but the first; refuses one too many.
    pub(super) async fn next(&mut self) -> Result<(), DirectoryError> {
        if self.0 >= TRIES {
            let text = "the same records are being changed by many others; try again";
            return Err(DirectoryError::Failed(text.to_owned()));
        }
        if self.0 > 0 {
            // Two identities that met once shall not meet again.
            let millis = rand::random::<u64>() % (4 << self.0.min(5));
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        self.0 = self.0.saturating_add(1);
        Ok(())
    }
}

/// The right to make one change: nobody else on this identity is at it, and the policy had this number before.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _one: MutexGuard<'a, ()>,
    next: PolicyNumber,
    revision: Revision,
}

impl Directory {
    /// Begins an attempt. Everything that the change is decided from is read after this.
    pub(super) async fn begin(&self, tries: &mut Tries) -> Result<Turn<'_>, DirectoryError> {
        tries.next().await?;
        let one = self.changing.lock().await;
        let held = self.get::<PolicyNumber>("policy").await?;
        let held = held.ok_or_else(|| DirectoryError::Failed("the policy's number is missing".to_owned()))?;
        // A store that was brought back from a backup goes on where the policies on disk ended.
        let number = held.record.number.max(*self.published.borrow()).saturating_add(1);
        Ok(Turn { _one: one, next: PolicyNumber { format: FORMAT, number }, revision: held.revision })
    }

    /// Commits and publishes. False: somebody was faster; begin again. A guard of `txn` itself that does not hold is a conflict.
    pub(super) async fn finish(&self, turn: Turn<'_>, txn: Txn) -> Result<bool, DirectoryError> {
        let txn = txn.unchanged("policy", turn.revision).put("policy", records::write("policy", &turn.next)?);
        let committed = match self.store.commit(txn).await {
            Ok(revision) => revision,
            Err(StoreError::Conflict { guard, .. }) if guard.key() == "policy" => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let number = turn.next.number;
        drop(turn);
        // The change is durable: a policy that cannot be written now is written by the publisher's next round.
        if let Err(error) = self.publish_change(committed, number).await {
            self.publish_later(&error);
        }
        Ok(true)
    }

    async fn publish_change(&self, committed: Revision, number: u64) -> Result<(), DirectoryError> {
        if !self.mirror.reached(committed, COMES_BACK).await {
            self.mirror.reload(self.store.as_ref()).await?;
        }
        if *self.published.borrow() >= number { Ok(()) } else { self.publish_now() }
    }
}
