//! Durable state: transactions, watches, leases and leader election behind one trait, [`Store`].
//!
//! ```
//! # async fn example() -> Result<(), plenum_store::StoreError> {
//! use std::{sync::Arc, time::Duration};
//! use plenum_store::{Embedded, Options, Range, Store, Txn, scoped};
//!
//! let whole: Arc<dyn Store> = Arc::new(Embedded::open("/var/lib/plenum/default/services/store.redb", Options::default()).await?);
//! let store = scoped(whole, "/plenum/default/services/");
//! let leader = store.campaign("election", "node-1", Duration::from_secs(10)).await?;
//! store.commit(Txn::new().guard(leader.guard()).absent("apps/web").put("apps/web", "{}")).await?;
//! let page = store.range(Range::prefix("apps/")).await?;
//! let mut watch = store.watch("apps/", page.revision).await?;
//! let event = watch.next_within(Duration::from_secs(1)).await?;
//! # Ok(()) }
//! ```
//!
//! Two implementations keep the same promises and pass the same test suite: [`Embedded`] (a redb file inside
//! the process that owns the data) and [`Etcd`] (several nodes). What the records *mean*, their format
//! numbers included, is left to the components; the store moves bytes.

mod copy;
mod election;
mod embedded;
mod error;
mod etcd;
mod limits;
pub mod moved;
mod open;
mod scoped;
mod settings;
mod types;
mod watch;

use std::time::Duration;

use async_trait::async_trait;

pub use copy::{CopySummary, copy_all, export, import};
pub use election::{Leader, Leadership, Validity};
#[doc(hidden)]
pub use embedded::{Clock, Medium, MemoryMedium, SystemClock};
pub use embedded::{Embedded, Options};
pub use error::StoreError;
pub use etcd::{Etcd, EtcdOptions, EtcdTls};
pub use limits::{MAX_KEY_BYTES, MAX_OPERATIONS, MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, MAX_TRANSACTION_BYTES};
pub use open::{Open, open, open_embedded};
pub use scoped::{Scoped, scoped};
pub use settings::StoreSettings;
pub use types::{Change, Entry, Guard, LeaseId, Op, Page, Range, Revision, Txn};
pub use watch::{Watch, WatchEvent};

/// A durable, ordered, watchable map from UTF-8 paths to bytes. Object safe: share it as `Arc<dyn Store>`.
///
/// Every call has a deadline of its own and ends in [`StoreError::Unavailable`] when it passes; only
/// [`Watch::next`] waits for as long as nothing happens.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Carries out all of `txn` or nothing of it. `Ok` means durable.
    ///
    /// The revision is the one at which the transaction's changes appear to readers and watches; a transaction
    /// that changes nothing (no operations, or deletes of absent keys only) gives the current revision.
    ///
    /// Errors: [`StoreError::Conflict`] names the first guard that did not hold; `TooManyOperations`,
    /// `TooLarge` and `Invalid` are found before any I/O; see [`StoreError::maybe_applied`] for the others.
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError>;

    /// The entry at `key`, as of the newest durable revision.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// One page of entries in key order. A page holds at most [`MAX_PAGE_ENTRIES`] entries and about
    /// [`MAX_PAGE_BYTES`] of them, whatever `req` asks; go on with [`Page::next`].
    async fn range(&self, req: Range) -> Result<Page, StoreError>;

    /// Changes of keys that start with `prefix`, in revision order, beginning with the first revision after
    /// `after`. To follow a listing, give the revision of its *first* page.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;

    /// A new lease. Keys put with it vanish when it is revoked or was not kept alive for `ttl`, which is rounded
    /// up to whole seconds and at least two (etcd's least with its usual settings).
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time to live anew and returns it. `LeaseNotFound` once it has run out.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError>;

    /// Ends a lease; its keys vanish in one revision. `LeaseNotFound` if there is none.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Waits to become the leader of `election` (a path; its records live under it), for `ttl` and a little
    /// longer at most; then [`StoreError::Held`] names the holder and the caller campaigns again.
    ///
    /// `candidate` names one process, unique in the election: a candidate that restarts takes over from its own
    /// former self at once, with a higher term. Leadership is kept up by a task of the calling runtime.
    async fn campaign(
        &self,
        election: &str,
        candidate: &str,
        ttl: Duration,
    ) -> Result<Leadership, StoreError>;

    /// Who leads `election` now, if anybody.
    async fn leader(&self, election: &str) -> Result<Option<Leader>, StoreError> {
        let entry = self.get(&election::leader_key(election)).await?;
        entry.map(|e| election::read_leader(&e)).transpose()
    }
}
