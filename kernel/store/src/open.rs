//! Opens a component's store as its settings say, and keeps the connections to etcd those that are needed now: endpoints that change,
//! certificates that are renewed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    Embedded, Etcd, EtcdOptions, EtcdTls, Options, Range, Store, StoreError, StoreSettings, moved, scoped,
};

/// How often the certificate's files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What a component tells about its store, besides its settings.
#[derive(Clone, Debug)]
pub struct Open {
    /// The file of the embedded store, such as `<data>/store.redb`.
    pub embedded: PathBuf,
    /// The component's part: `/plenum/<instance>/<component>/`.
    pub prefix: String,
    /// `https://address:2379` of the cluster's own etcd, in the order in which to try them; unused when the settings name endpoints.
    /// On a single machine a channel with nothing in it.
    pub endpoints: watch::Receiver<Vec<String>>,
}

/// Opens the store: the component's part of it, whichever store it is.
///
/// etcd need not be up; until it is, calls end in `Unavailable`. It has to be called on a runtime, where the connections are cared for
/// until the store is dropped.
///
/// Errors: those of [`Embedded::open`]; `Broken` when certificates cannot be read, or when the records have been moved to the other kind
/// of store; `Invalid` for settings that make no sense.
pub async fn open(settings: &StoreSettings, open: Open) -> Result<Arc<dyn Store>, StoreError> {
    if settings.etcd {
        open_etcd(settings, open).await
    } else {
        open_embedded(&open.embedded, &open.prefix).await
    }
}

/// Opens a component's embedded store.
///
/// A file that was begun without the prefix keeps its keys as they are.
pub async fn open_embedded(path: &Path, prefix: &str) -> Result<Arc<dyn Store>, StoreError> {
    moved::check(path)?;
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| StoreError::unavailable(format!("{}: {e}", folder.display())))?;
    }
    let store: Arc<dyn Store> = Arc::new(Embedded::open(path, Options::default()).await?);
    if is_bare(store.as_ref(), prefix).await? { Ok(store) } else { Ok(Arc::new(scoped(store, prefix))) }
}

/// Whether keys are kept without the prefix. All are or none is, so that the first and the last tell.
async fn is_bare(store: &dyn Store, prefix: &str) -> Result<bool, StoreError> {
    let first = store.range(Range { limit: 1, ..Range::default() }).await?;
    Ok(first.entries.first().is_some_and(|entry| !entry.key.starts_with(prefix)))
}

async fn open_etcd(settings: &StoreSettings, open: Open) -> Result<Arc<dyn Store>, StoreError> {
    let own = settings.endpoints.is_empty();
    let tls = if settings.is_plain() { None } else { Some(settings.read_tls()?) };
    let mut endpoints = open.endpoints;
    let urls = if own { endpoints.borrow_and_update().clone() } else { settings.endpoints.clone() };
    let options = EtcdOptions { tls: tls.clone(), ..EtcdOptions::new(urls) };
    let etcd = Etcd::follow(options, moved::fence(&open.prefix)).await?;
    let follower = Follower { settings: settings.clone(), endpoints: own.then_some(endpoints), tls };
    tokio::spawn(follower.run(etcd.clone()));
    Ok(Arc::new(scoped(Arc::new(etcd), &open.prefix)))
}

/// Brings what changes outside to the store's connections.
struct Follower {
    settings: StoreSettings,
    endpoints: Option<watch::Receiver<Vec<String>>>,
    tls: Option<EtcdTls>,
}

impl Follower {
    /// Until the store is dropped.
    async fn run(mut self, etcd: Etcd) {
        let store = etcd.downgrade();
        drop(etcd);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = tokio::select! {
                () = next(&mut self.endpoints) => true,
                _ = look.tick() => false,
            };
            let Some(etcd) = store.upgrade() else { return };
            if changed && let Some(endpoints) = &mut self.endpoints {
                let urls = endpoints.borrow_and_update().clone();
                if let Err(error) = etcd.set_endpoints(urls).await {
                    tracing::warn!(%error, "etcd's new endpoints cannot be used");
                }
            }
            self.look_at_files(&etcd).await;
        }
    }

    async fn look_at_files(&mut self, etcd: &Etcd) {
        let Some(before) = &self.tls else { return };
        match self.settings.read_tls() {
            Ok(now) if now.is(before) => {}
            Ok(now) => match etcd.renew(Some(now.clone()), None).await {
                Ok(()) => {
                    tracing::info!("etcd is spoken to with the renewed certificate");
                    self.tls = Some(now);
                }
                // Half of the files may be new: they are looked at again.
                Err(error) => tracing::warn!(%error, "the renewed certificate cannot be used for etcd yet"),
            },
            Err(error) => tracing::warn!(%error, "the certificate for etcd cannot be read"),
        }
    }
}

/// The next change of the endpoints; never, where none can come.
async fn next(endpoints: &mut Option<watch::Receiver<Vec<String>>>) {
    let ended = match endpoints {
        Some(endpoints) => endpoints.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}
