//! The first start, done by whoever sets a machine up, before the role runs: the cluster, the certificates of every role on this
//! machine, the policy, and the first account. Repeating it repairs what a crash left undone and changes nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plenum_base::places::Role;
use plenum_store::{Embedded, Options, Store, StoreError, scoped};

use crate::config::Config;
use crate::directory::{Directory, DirectoryError, Make, NewUser, UserChange, valid_uid};

/// The uid of the first account.
pub(crate) const ADMIN: &str = "admin";

/// The first account, given back once and written down nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its uid.
    pub uid: String,
    /// Its password: 144 random bits.
    pub password: String,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// What a bootstrap leaves.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// The first account, if this call made it.
    pub admin: Option<Admin>,
    /// The cluster's id: a lowercase version 4 UUID.
    pub cluster_id: String,
    /// SHA-256 of the CA's certificate, hexadecimal.
    pub ca_fingerprint: String,
}

/// Why a bootstrap failed. Nothing that was done is undone; repeating goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Identity runs already, or the store is broken.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Anything else.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

/// A process that was killed a moment ago has let go of its files after so long.
const LETS_GO: Duration = Duration::from_secs(2);
const LOOKS_AGAIN: Duration = Duration::from_millis(20);

/// Opens identity's store on this machine.
pub(crate) async fn open_store(config: &Config) -> Result<Embedded, StoreError> {
    let path = config.places().store(Role::Identity);
    let moved = crate::fleet::moved(config);
    if moved.exists() {
        let reason = format!(
            "the records of {} are on etcd now ({} says so): set store.etcd = true",
            path.display(),
            moved.display()
        );
        return Err(StoreError::Broken { reason });
    }
    if let Some(folder) = path.parent() {
        plenum_base::files::private_dir(folder).map_err(|e| StoreError::Unavailable {
            reason: format!("{}: {e}", folder.display()),
            maybe_applied: false,
        })?;
    }
    let deadline = Instant::now() + LETS_GO;
    loop {
        match Embedded::open(&path, Options::default()).await {
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOOKS_AGAIN).await
            }
            opened => return opened,
        }
    }
}

/// Identity's part of a store.
pub(crate) fn own_part(config: &Config, store: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(scoped(store, &format!("/plenum/{}/identity/", config.instance)))
}

/// Makes what is missing: cluster id, CA, signing key, certificates of all roles on this machine (fresh for at least half their life
/// afterwards), the policy, and the account `admin` if there is no account with `dcos:superuser` yet. Needs that identity does not run.
///
/// # Errors
/// [`BootstrapError`].
pub async fn bootstrap(config: &Config) -> Result<Bootstrap, BootstrapError> {
    let store = open_store(config).await?;
    let done = work(config, own_part(config, Arc::new(store.clone()))).await;
    // The role opens the same file next: give the lock back before returning.
    let closed = store.close().await;
    let done = done?;
    closed?;
    Ok(done)
}

async fn work(config: &Config, store: Arc<dyn Store>) -> Result<Bootstrap, BootstrapError> {
    let directory = Directory::open(config.clone(), store, Make::IfEmpty).await?;
    for role in config.roles() {
        directory.issue_local(*role).await?;
    }
    let admin = administrator(&directory, ADMIN, None).await?;
    directory.publish().await?;
    Ok(Bootstrap {
        admin,
        cluster_id: directory.cluster_id.clone(),
        ca_fingerprint: directory.ca.fingerprint(),
    })
}

/// Makes the account `uid` where nobody may administer the cluster yet, with `password` or a new one; gives what it made.
pub(crate) async fn administrator(
    directory: &Directory,
    uid: &str,
    password: Option<String>,
) -> Result<Option<Admin>, DirectoryError> {
    if directory.users().await?.iter().any(|user| user.is_superuser()) {
        return Ok(None);
    }
    if !valid_uid(uid) {
        return Err(DirectoryError::Invalid(format!("\"{uid}\" cannot be the name of an account")));
    }
    let password = password.unwrap_or_else(new_password);
    let new = NewUser {
        description: Some("Administrator".to_owned()),
        password: Some(password.clone()),
        superuser: true,
        ..NewUser::default()
    };
    match directory.create_user(uid, new, "bootstrap").await {
        Ok(()) => {}
        // Somebody took the name without the right: give it back its meaning.
        Err(DirectoryError::Exists(_)) => {
            directory.set_permission(uid, "dcos:superuser", "full", true).await?;
            let change = UserChange { password: Some(password.clone()), ..UserChange::default() };
            directory.update_user(uid, change).await?;
        }
        Err(error) => return Err(error),
    }
    directory.audit.note("bootstrap", "user.create", uid, "ok");
    Ok(Some(Admin { uid: uid.to_owned(), password }))
}

/// Gives `uid` a new random password, for an operator on the machine who lost it. Needs that identity does not run.
///
/// # Errors
/// [`BootstrapError`].
pub async fn reset_admin(config: &Config, uid: &str) -> Result<Admin, BootstrapError> {
    let store = open_store(config).await?;
    let password = new_password();
    let set = async {
        let directory =
            Directory::open(config.clone(), own_part(config, Arc::new(store.clone())), Make::Never).await?;
        directory.set_password(uid, &password).await?;
        directory.audit.note("bootstrap", "user.password", uid, "ok");
        Ok::<(), BootstrapError>(())
    };
    let set = set.await;
    let closed = store.close().await;
    set?;
    closed?;
    Ok(Admin { uid: uid.to_owned(), password })
}

fn new_password() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>())
}
