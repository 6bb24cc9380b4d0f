//! The directory: identity's records behind typed operations. Several identities work on the same records at once: every write is a guarded
//! transaction. Each change that components must know also raises the policy's number; the policy is published by every identity.

mod admission;
mod invite;
mod masters;
mod members;
mod mirror;
mod publish;
mod shared;
mod site;
mod turn;
mod users;

pub use invite::{JOIN_TOKEN_PREFIX, JoinToken, NewJoinToken};
pub(crate) use site::Make;
pub(crate) use users::{NewUser, UserChange, valid_uid};

use std::sync::Arc;
use std::time::Duration;

use plenum_base::pki::{Authority, PkiError};
use plenum_base::places::Places;
use plenum_base::tls::{Identity, TlsError};
use plenum_store::{Range, Revision, Store, StoreError};
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, Notify, watch};

use self::mirror::Mirror;
use crate::audit::Audit;
use crate::config::Config;
use crate::passwords::Passwords;
use crate::records::{self, RecordError};
use crate::tokens::TokenSigner;
use crate::vault::{Vault, VaultError};

/// How long the store is asked before what is known is taken instead.
const ASK: Duration = Duration::from_secs(2);

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
    /// A name or address that belongs to another host.
    #[error("{0}")]
    Taken(String),
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
    /// The last master that stays.
    #[error("this is the last master; add another one first, or uninstall the cluster")]
    LastMaster,
    /// The settings were changed since they were read.
    #[error("the settings were changed meanwhile; read them again")]
    Changed,
    /// The store has no cluster in it, and this is not the place to make one.
    #[error(
        "the store holds no cluster: make it on the first master and carry it over, or let this host join one"
    )]
    NoCluster,
    /// This host's identity is no member any more.
    #[error("this host was taken out of the cluster, or lost its keys; let it join again with a new token")]
    NoMember,
}

/// Identity's state and what works on it.
#[derive(Debug)]
pub(crate) struct Directory {
    store: Arc<dyn Store>,
    mirror: Mirror,
    pub(crate) config: Config,
    pub(crate) places: Places,
    pub(crate) cluster_id: String,
    pub(crate) ca: Authority,
    pub(crate) signer: TokenSigner,
    pub(crate) passwords: Passwords,
    pub(crate) audit: Audit,
    vault: Vault,
    /// The own certificate: it also signs the policy.
    pub(crate) identity: Identity,
    /// One change at a time on this identity: it need not be faster than itself.
    changing: Mutex<()>,
    /// One node at a time counts a token down, for the same reason.
    joining: Mutex<()>,
    /// One writer of the policy's file at a time.
    writing: parking_lot::Mutex<()>,
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

    /// A record to read only. While the store has no majority, what it held last: logins and renewals go on.
    async fn look<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, DirectoryError> {
        let asked = tokio::time::timeout(ASK, self.get::<T>(key)).await;
        match asked {
            Ok(Err(DirectoryError::Store(StoreError::Unavailable { .. }))) | Err(_) => {
                Ok(self.mirror.get(key)?)
            }
            Ok(found) => Ok(found?.map(|held| held.record)),
        }
    }

    async fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, DirectoryError> {
        list(self.store.as_ref(), prefix).await
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
fn on_conflict<T>(
    result: Result<T, DirectoryError>,
    key: &str,
    error: DirectoryError,
) -> Result<T, DirectoryError> {
    match result {
        Err(DirectoryError::Store(StoreError::Conflict { guard, .. })) if guard.key() == key => Err(error),
        other => other,
    }
}

fn now_seconds() -> u64 {
    plenum_base::clock::wall_millis() / 1000
}
