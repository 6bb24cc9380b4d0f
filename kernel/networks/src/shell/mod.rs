//! The shell: makes and removes what containers have, in this order: record, namespace, interfaces (or plugins), mappings. Each call runs to its
//! end on a thread that may block, also when nobody waits for it any more.

mod host;
mod inner;
mod plugins;
mod segment;
mod table;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::settings::{Overlay, Peer, Settings};
use crate::types::{Attached, Network, NetworkError, Wish, check_id, kernel};

use inner::Inner;

/// Leftovers that are removed at once.
const AT_ONCE: usize = 8;

/// The networks of one instance on this machine. Calls for one container are made one after the other; those for different ones may overlap.
#[derive(Debug, Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

/// Runs on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(kernel("a network's change")(io::Error::other(error))),
    }
}

impl Networks {
    /// Opens the folder (on a file system that is emptied at boot) and brings bridge, overlay and table to what the settings say; what is right is left
    /// alone, so that connections stay. Call [`Networks::adopt`] next.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn open(folder: PathBuf, settings: Settings) -> Result<Self, NetworkError> {
        blocking(move || {
            let inner = Inner::open(&folder, settings)?;
            inner.settle()?;
            Ok(Self { inner: Arc::new(inner) })
        })
        .await
    }

    /// The network of this name: the bridge (`mesos-bridge`, `bridge`), the overlay, or one of CNI plugins.
    ///
    /// # Errors
    /// [`NetworkError::Unknown`] with the names that there are; a folder that cannot be read.
    pub fn find(&self, name: &str) -> Result<Network, NetworkError> {
        self.inner.find(name)
    }

    /// The overlay's settings, by which [`Overlay::peer`] tells the slices of other nodes.
    #[must_use]
    pub fn overlay(&self) -> Option<&Overlay> {
        self.inner.settings.overlay.as_ref()
    }

    /// Gives a container its network. Done again for the same container, it repairs what is there and makes what is missing.
    ///
    /// # Errors
    /// [`NetworkError`]; what was made is removed by [`Networks::detach`].
    pub async fn attach(&self, container: &str, wish: &Wish) -> Result<Attached, NetworkError> {
        check_id(container)?;
        let (inner, container, wish) = (self.inner.clone(), container.to_owned(), wish.clone());
        blocking(move || inner.attach(&container, &wish)).await
    }

    /// Takes everything away that a container has. What is not there is no error.
    ///
    /// # Errors
    /// [`NetworkError`]; it is done again then.
    pub async fn detach(&self, container: &str) -> Result<(), NetworkError> {
        check_id(container)?;
        let (inner, container) = (self.inner.clone(), container.to_owned());
        blocking(move || inner.detach(&container)).await
    }

    /// At start: keeps what running containers have and repairs it, removes the rest, and compares the kernel's table.
    ///
    /// # Errors
    /// The first [`NetworkError`]; everything else was tried.
    pub async fn adopt(&self, running: &BTreeSet<String>) -> Result<(), NetworkError> {
        let (inner, running) = (self.inner.clone(), running.clone());
        let gone = {
            let (inner, running) = (inner.clone(), running.clone());
            blocking(move || inner.leftovers(&running)).await?
        };
        let mut outcome = self.remove(gone).await;
        let rest = blocking(move || inner.repair(&running)).await;
        if outcome.is_ok() {
            outcome = rest;
        }
        outcome
    }

    async fn remove(&self, gone: Vec<String>) -> Result<(), NetworkError> {
        let (mut outcome, mut gone) = (Ok(()), gone.into_iter());
        let mut workers = tokio::task::JoinSet::new();
        loop {
            while workers.len() < AT_ONCE
                && let Some(container) = gone.next()
            {
                let inner = self.inner.clone();
                workers.spawn_blocking(move || inner.detach(&container));
            }
            match workers.join_next().await {
                None => return outcome,
                Some(Ok(done)) => outcome = outcome.and(done),
                Some(Err(error)) => {
                    outcome = outcome.and(Err(kernel("remove a network")(io::Error::other(error))));
                }
            }
        }
    }

    /// The other nodes of the overlay, all of them: routes to those that are not named any more go, the rest stays as it is. Until it is called, what an
    /// earlier process was told holds. Nodes that cannot be (another family than this node's address, a slice that overlaps) are left out.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn set_peers(&self, peers: Vec<Peer>) -> Result<(), NetworkError> {
        let inner = self.inner.clone();
        blocking(move || inner.set_peers(&peers.into_iter().collect())).await
    }

    /// Removes everything that was ever made in this folder with these settings, and the folder: containers' networks, bridges, tunnel, table. What is not
    /// there is no error. No agent of the instance may run.
    ///
    /// # Errors
    /// The first [`NetworkError`]; everything else was tried.
    pub async fn teardown(folder: &Path, settings: Settings) -> Result<(), NetworkError> {
        let folder = folder.to_owned();
        let path = folder.clone();
        if !folder.exists() && !Inner::left(&folder, &settings)? {
            return Ok(());
        }
        let inner = Arc::new(blocking(move || Inner::bare(&path, settings)).await?);
        inner.end();
        let own = Self { inner: inner.clone() };
        let all = {
            let inner = inner.clone();
            blocking(move || inner.leftovers(&BTreeSet::new())).await?
        };
        let outcome = own.remove(all).await;
        let rest = blocking(move || inner.remove_all(&folder)).await;
        outcome.and(rest)
    }
}
