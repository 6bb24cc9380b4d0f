//! The running role: the store, the HTTP server, the background tasks, and their end.

use std::sync::Arc;
use std::time::Duration;

use plenum_base::auth::Authenticator;
use plenum_base::cluster::Masters;
use plenum_base::places::Role;
use plenum_base::serve::{Limits, Server};
use plenum_base::service::{Shutdown, ready};
use plenum_base::sockets;
use plenum_base::tls::{ClientAuth, TlsError};
use plenum_store::{Open, Store, StoreError};

use crate::api;
use crate::bootstrap::{open_store, own_part};
use crate::config::Config;
use crate::directory::{Directory, DirectoryError, Make};
use crate::local;

/// The name of the listening socket when it is handed over.
const SOCKET: &str = "http";
/// The pause before a store that is not there yet is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Why the role ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is in it cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be served.
    #[error(transparent)]
    Listen(#[from] std::io::Error),
}

/// Runs identity until `shutdown`, on the embedded store of this machine or on etcd, as the settings say.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    if config.is_fleet() {
        // Before anything is opened: the store, too, is reached with a certificate.
        local::look(&config);
        tokio::spawn(local::keep(config.clone(), shutdown.clone()));
    }
    if config.store.etcd {
        let store = open_etcd(&config, &shutdown).await?;
        return serve(config, store, shutdown).await;
    }
    let store = open_store(&config).await?;
    let ended = run_on(config, Arc::new(store.clone()), shutdown).await;
    let closed = store.close().await;
    ended?;
    Ok(closed?)
}

/// Runs identity on a store that the caller opened and closes.
///
/// # Errors
/// [`RunError`].
pub async fn run_on(config: Config, store: Arc<dyn Store>, shutdown: Shutdown) -> Result<(), RunError> {
    let store = own_part(&config, store);
    serve(config, store, shutdown).await
}

/// Identity's part of the fleet's store. It follows the masters.
pub(crate) async fn open_etcd(config: &Config, shutdown: &Shutdown) -> Result<Arc<dyn Store>, StoreError> {
    let places = config.places();
    let authenticator = Authenticator::open(&places.policy(), &places.ca(), false);
    tokio::spawn(Arc::clone(&authenticator).keep_looking(shutdown.clone()));
    let masters = Masters::follow(&authenticator, &config.masters, config.address);
    let files = places.identity(Role::Identity);
    let settings = config.store.clone().files_or(&files.ca, &files.cert, &files.key);
    let prefix = format!("/plenum/{}/identity/", config.instance);
    let open =
        Open { embedded: places.store(Role::Identity), prefix, endpoints: masters.follow_urls(Role::Etcd) };
    plenum_store::open(&settings, open).await
}

/// Opens the directory; while a fleet's store has no majority yet, again and again.
async fn open_directory(
    config: &Config,
    store: &Arc<dyn Store>,
    shutdown: &Shutdown,
) -> Result<Option<Directory>, DirectoryError> {
    let make = if config.is_fleet() { Make::Never } else { Make::IfEmpty };
    let mut told = false;
    loop {
        let opening = async {
            let directory = Directory::open(config.clone(), Arc::clone(store), make).await?;
            directory.check_member().await?;
            directory.enter().await?;
            directory.publish_first().await?;
            if config.is_fleet() {
                // The masters open each other's TLS tickets.
                directory.identity.share_tickets(&directory.ticket_secret().await?);
            }
            Ok(directory)
        };
        match shutdown.until(opening).await {
            None => return Ok(None),
            Some(Err(DirectoryError::Store(error))) if config.store.etcd && error.is_retryable() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the cluster's store cannot be asked yet; trying again");
                }
                if !shutdown.sleep(PAUSE).await {
                    return Ok(None);
                }
            }
            Some(other) => return other.map(Some),
        }
    }
}

/// Runs identity on its part of a store.
async fn serve(config: Config, store: Arc<dyn Store>, shutdown: Shutdown) -> Result<(), RunError> {
    let Some(directory) = open_directory(&config, &store, &shutdown).await? else { return Ok(()) };
    let directory = Arc::new(directory);
    let listener = sockets::tcp(SOCKET, directory.config.listen())?;
    let address = listener.local_addr()?;
    let router = api::router(Arc::clone(&directory), shutdown.clone());
    let server = Server::new(router)
        .tls(&directory.identity, ClientAuth::Optional)?
        .plain(directory.config.plain)
        .limits(Limits { body: 1024 * 1024, ..Limits::default() });
    let following = tokio::spawn({
        let (directory, shutdown) = (Arc::clone(&directory), shutdown.child());
        async move { directory.follow(shutdown).await }
    });
    let publishing = tokio::spawn({
        let (directory, shutdown) = (Arc::clone(&directory), shutdown.child());
        async move { directory.keep_published(shutdown).await }
    });
    tracing::info!(%address, cluster = directory.cluster_id, "identity serves");
    ready();
    server.serve(listener, shutdown).await;
    // They end with the same switch; a panic in them was logged by the hook.
    let _ = tokio::join!(following, publishing);
    Ok(())
}
