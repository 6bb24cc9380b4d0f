//! The directory: identity's records behind typed operations. Each change is one transaction that also raises the policy's number; the policy
//! is published afterwards, and again by a background task if that failed.

mod members;
mod publish;
mod site;
mod users;

pub(crate) use members::JoinRequest;
pub use members::{JOIN_TOKEN_PREFIX, JoinToken, NewJoinToken};
pub(crate) use users::{NewUser, UserChange, valid_uid};

use std::sync::Arc;

use plenum_base::pki::{Authority, PkiError};
use plenum_base::places::Places;
use plenum_base::tls::{Identity, TlsError};
use plenum_store::{Range, Revision, Store, StoreError, Txn};
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, Notify, watch};

use crate::audit::Audit;
use crate::config::Config;
use crate::passwords::Passwords;
use crate::records::{self, FORMAT, PolicyNumber, RecordError};
use crate::tokens::TokenSigner;
use crate::vault::VaultError;

/// Why an operation of the directory failed.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record that cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The master key, or something sealed with it.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Certificates in files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Keys, hashes, files.
    #[error("{0}")]
    Failed(String),
    /// There is one of that name already.
    #[error("there is a {0} of that name already")]
    Exists(&'static str),
    /// There is none of that name.
    #[error("there is no {0} of that name")]
    Missing(&'static str),
    /// What was given breaks a rule; the text says which.
    #[error("{0}")]
    Invalid(String),
    /// A join token or request that is not good enough. The text does not say which part is wrong.
    #[error("{0}")]
    Refused(&'static str),
    /// The last account that may administer the cluster.
    #[error("this is the last account with dcos:superuser; give it to another one first")]
    LastSuperuser,
}

/// Identity's state and what works on it.
#[derive(Debug)]
pub(crate) struct Directory {
    store: Arc<dyn Store>,
    pub(crate) config: Config,
    pub(crate) places: Places,
    pub(crate) cluster_id: String,
    pub(crate) ca: Authority,
    pub(crate) signer: TokenSigner,
    pub(crate) passwords: Passwords,
    pub(crate) audit: Audit,
    /// The own certificate: it also signs the policy.
    pub(crate) identity: Identity,
    /// One change at a time, so that numbers and publications follow each other.
    changing: Mutex<()>,
    /// The number of the policy on disk.
    published: watch::Sender<u64>,
    /// Wakes the background task: a publication failed.
    unpublished: Notify,
}

/// A record and the revision it has.
#[derive(Debug)]
pub(crate) struct Versioned<T> {
    pub(crate) record: T,
    pub(crate) revision: Revision,
}

impl Directory {
    async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Versioned<T>>, DirectoryError> {
        let Some(entry) = self.store.get(key).await? else { return Ok(None) };
        Ok(Some(Versioned { record: records::read(key, &entry.value)?, revision: entry.mod_revision }))
    }

    async fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, DirectoryError> {
        list(self.store.as_ref(), prefix).await
    }

    /// Commits a change that every component must learn of, and publishes. The guards in `txn` decide whether it holds.
    async fn change(&self, txn: Txn) -> Result<(), DirectoryError> {
        let _one = self.changing.lock().await;
        let held = self.get::<PolicyNumber>("policy").await?;
        let held = held.ok_or_else(|| DirectoryError::Failed("the policy's number is missing".to_owned()))?;
        let next = PolicyNumber { format: FORMAT, number: held.record.number.saturating_add(1) };
        let txn = txn.unchanged("policy", held.revision).put("policy", records::write("policy", &next)?);
        self.store.commit(txn).await?;
        // The change is durable: a policy that cannot be written now is written by the publisher's next round.
        if let Err(error) = self.publish_now().await {
            self.publish_later(&error);
        }
        Ok(())
    }
}

/// All records under `prefix`.
async fn list<T: DeserializeOwned>(store: &dyn Store, prefix: &str) -> Result<Vec<T>, DirectoryError> {
    let mut found = Vec::new();
    let mut next = Some(Range::prefix(prefix));
    while let Some(range) = next {
        let page = store.range(range.clone()).await?;
        for entry in &page.entries {
            found.push(records::read(&entry.key, &entry.value)?);
        }
        next = page.next(&range);
    }
    Ok(found)
}

/// Turns a failed guard on `key` into `error`.
fn on_conflict(
    result: Result<(), DirectoryError>,
    key: &str,
    error: DirectoryError,
) -> Result<(), DirectoryError> {
    match result {
        Err(DirectoryError::Store(StoreError::Conflict { guard, .. })) if guard.key() == key => Err(error),
        other => other,
    }
}

fn now_seconds() -> u64 {
    plenum_base::clock::wall_millis() / 1000
}
