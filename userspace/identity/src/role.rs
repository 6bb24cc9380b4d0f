//! The running role: the store, the HTTP server, the background tasks, and their end.

use std::sync::Arc;

use plenum_base::serve::{Limits, Server};
use plenum_base::service::{Shutdown, ready};
use plenum_base::sockets;
use plenum_base::tls::{ClientAuth, TlsError};
use plenum_store::{Store, StoreError};

use crate::api;
use crate::bootstrap::{open_store, own_part};
use crate::config::Config;
use crate::directory::{Directory, DirectoryError};

/// The name of the listening socket when it is handed over.
const SOCKET: &str = "http";

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

/// Runs identity with the embedded store of this machine until `shutdown`.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
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
    let directory = Arc::new(Directory::open(config, store).await?);
    directory.publish_first().await?;
    let listener = sockets::tcp(SOCKET, directory.config.listen())?;
    let address = listener.local_addr()?;
    let router = api::router(Arc::clone(&directory), shutdown.clone());
    let server = Server::new(router)
        .tls(&directory.identity, ClientAuth::Optional)?
        .plain(directory.config.plain)
        .limits(Limits { body: 1024 * 1024, ..Limits::default() });
    let background = tokio::spawn({
        let (directory, shutdown) = (Arc::clone(&directory), shutdown.child());
        async move { directory.keep_published(shutdown).await }
    });
    tracing::info!(%address, cluster = directory.cluster_id, "identity serves");
    ready();
    server.serve(listener, shutdown).await;
    // It ends with the same switch; a panic in it was logged by the hook.
    let _ = background.await;
    Ok(())
}
