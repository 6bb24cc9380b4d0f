//! The first master of a fleet: made before there is an etcd, for etcd needs certificates, then carried over into it. Every step may be
//! repeated after a crash at any moment; what was done is left as it is.

use std::path::PathBuf;
use std::sync::Arc;

use plenum_base::files;
use plenum_base::places::Role;
use plenum_base::service::Shutdown;
use plenum_store::{Range, Store, StoreError, Txn, copy_all};
use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, BootstrapError, administrator, open_store, own_part};
use crate::config::Config;
use crate::directory::{Directory, DirectoryError, Make};
use crate::local;
use crate::records::{self, FORMAT, Site};
use crate::role::open_etcd;

/// Written into the new store last: everything is there.
const CARRIED: &str = "carried";
/// Deletions in one transaction.
const BATCH: usize = 50;

/// What the first master of a fleet begins with.
#[derive(Clone, Default)]
pub struct First {
    /// The uid of the first account; `admin` where it is empty.
    pub uid: String,
    /// Its password; one is made where there is none.
    pub password: Option<String>,
    /// What every host must agree on, a JSON object; null for nothing yet.
    pub settings: serde_json::Value,
}

impl std::fmt::Debug for First {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("First").field("uid", &self.uid).finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Carried {
    format: u32,
    cluster_id: String,
}

/// Makes what is missing on the first master of a fleet, in the embedded store: cluster, authority, certificates of every role (etcd's too),
/// the map with this master in it, the settings, the first account. Needs that identity does not run here, and `name` and `address` in
/// `config`. After [`carry_over`] it only sees to this host's certificates.
///
/// # Errors
/// [`BootstrapError`].
pub async fn bootstrap_fleet(config: &Config, first: &First) -> Result<Bootstrap, BootstrapError> {
    if !config.is_fleet() {
        let text = "the first master of a fleet needs a name and an address".to_owned();
        return Err(DirectoryError::Invalid(text).into());
    }
    if let Some((cluster_id, ca)) = local::known(&config.places())?.filter(|_| moved(config).exists()) {
        local::renew_due(config, &ca);
        return Ok(Bootstrap { admin: None, cluster_id, ca_fingerprint: ca.fingerprint() });
    }
    let store = open_store(config).await?;
    let done = make(config, first, own_part(config, Arc::new(store.clone()))).await;
    // Given back before returning: whoever runs next opens the same file.
    let closed = store.close().await;
    let done = done?;
    closed?;
    Ok(done)
}

async fn make(config: &Config, first: &First, store: Arc<dyn Store>) -> Result<Bootstrap, BootstrapError> {
    let directory = Directory::open(config.clone(), store, Make::IfEmpty).await?;
    for role in config.roles() {
        directory.issue_local(*role).await?;
    }
    directory.claim_address().await?;
    directory.ticket_secret().await?;
    if first.settings.is_object() && directory.settings().await?.is_none() {
        directory.put_settings(first.settings.clone(), Some(0)).await?;
    }
    let uid = if first.uid.is_empty() { crate::bootstrap::ADMIN } else { &first.uid };
    let admin = administrator(&directory, uid, first.password.clone()).await?;
    directory.enter().await?;
    directory.publish().await?;
    Ok(Bootstrap {
        admin,
        cluster_id: directory.cluster_id.clone(),
        ca_fingerprint: directory.ca.fingerprint(),
    })
}

fn embedded(config: &Config) -> PathBuf {
    config.places().store(Role::Identity)
}

/// The file that says that the records are on etcd; every role looks for it before it opens its embedded store.
pub(crate) fn moved(config: &Config) -> PathBuf {
    embedded(config).with_extension("redb.moved")
}

/// Carries identity's records over from this machine's embedded store into the one that `config.store` names (etcd, which must be up), and
/// marks the file as moved. Needs that identity does not run. `true` if something was carried. The same grows a fleet of one master: its records,
/// policy number and accounts stay what they were.
///
/// # Errors
/// [`BootstrapError`]; both stores can be used as before then, and the call repeated.
pub async fn carry_over(config: &Config) -> Result<bool, BootstrapError> {
    if !config.store.etcd {
        let text = "there is nowhere to carry the records to: set store.etcd = true".to_owned();
        return Err(DirectoryError::Invalid(text).into());
    }
    if moved(config).exists() || !embedded(config).exists() {
        return Ok(false);
    }
    let ended = Shutdown::new();
    let target = open_etcd(config, &ended).await?;
    let store = open_store(config).await?;
    let done = carry(own_part(config, Arc::new(store.clone())).as_ref(), target.as_ref()).await;
    let closed = store.close().await;
    ended.trigger();
    done?;
    closed?;
    // From here on no role opens it by mistake; the file itself is kept for whoever wants to look.
    let mark = moved(config);
    files::replace(&mark, b"etcd", files::SECRET)
        .map_err(|e| DirectoryError::Failed(format!("{}: {e}", mark.display())))?;
    Ok(true)
}

async fn carry(from: &dyn Store, to: &dyn Store) -> Result<(), BootstrapError> {
    let site = from.get("site").await?.ok_or(DirectoryError::NoCluster)?;
    let id = records::read::<Site>("site", &site.value).map_err(DirectoryError::from)?.cluster_id;
    if let Some(entry) = to.get(CARRIED).await? {
        let carried: Carried = records::read(CARRIED, &entry.value).map_err(DirectoryError::from)?;
        return if carried.cluster_id == id { Ok(()) } else { Err(foreign().into()) };
    }
    if let Some(entry) = to.get("site").await? {
        let there: Site = records::read("site", &entry.value).map_err(DirectoryError::from)?;
        if there.cluster_id != id {
            return Err(foreign().into());
        }
    }
    if from.get(CARRIED).await?.is_some() {
        // Records that were on etcd before: the mark was of that time.
        from.commit(Txn::new().delete(CARRIED)).await?;
    }
    // A part of an earlier attempt: nobody has worked with it, for no identity starts before the mark is there.
    empty(to).await?;
    copy_all(from, to).await?;
    let (ours, theirs) = (count(from).await?, count(to).await?);
    if ours != theirs {
        let text = format!("{ours} records were to be carried over, {theirs} arrived; try again");
        return Err(DirectoryError::Failed(text).into());
    }
    let mark = Carried { format: FORMAT, cluster_id: id };
    let bytes = records::write(CARRIED, &mark).map_err(DirectoryError::from)?;
    match to.commit(Txn::new().absent(CARRIED).put(CARRIED, bytes)).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn foreign() -> DirectoryError {
    let text =
        "the store holds another cluster's records: give this one an etcd, or an instance's name, of its own";
    DirectoryError::Failed(text.to_owned())
}

async fn empty(store: &dyn Store) -> Result<(), StoreError> {
    loop {
        let page = store.range(Range { limit: BATCH, ..Range::default() }).await?;
        if page.entries.is_empty() {
            return Ok(());
        }
        let delete = |txn: Txn, entry: plenum_store::Entry| txn.delete(entry.key);
        store.commit(page.entries.into_iter().fold(Txn::new().absent(CARRIED), delete)).await?;
    }
}

async fn count(store: &dyn Store) -> Result<usize, StoreError> {
    let (mut count, mut next) = (0_usize, Some(Range::default()));
    while let Some(range) = next {
        let page = store.range(range.clone()).await?;
        count = count.saturating_add(page.entries.iter().filter(|entry| entry.lease.is_none()).count());
        next = page.next(&range);
    }
    Ok(count)
}
