//! The replica's copy on disk: read at start, written shortly after changes, never half.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plenum_base::files;
use plenum_base::service::Shutdown;

use super::Shared;
use super::core::Replica;
use crate::feed::Copy;

/// Changes within this time are one write.
const GATHER: Duration = Duration::from_millis(200);
/// A write that failed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// What the last life left; empty when there is nothing, or nothing that can be read.
#[must_use]
pub fn load(path: &Path) -> Replica {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Replica::default(),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the copy of names cannot be read; beginning empty");
            return Replica::default();
        }
    };
    let copy = serde_json::from_slice::<Copy>(&bytes);
    match copy.map(Replica::from_copy) {
        Ok(Some(replica)) => replica,
        Ok(None) => {
            tracing::warn!(path = %path.display(), "the copy of names is of another release; beginning empty");
            Replica::default()
        }
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the copy of names is damaged; beginning empty");
            Replica::default()
        }
    }
}

/// Writes the copy.
///
/// # Errors
/// What the operating system says.
pub fn save(path: &Path, copy: &Copy) -> std::io::Result<()> {
    let text = serde_json::to_vec(copy).map_err(std::io::Error::other)?;
    files::replace(path, &text, 0o600)
}

/// Keeps the copy current until the end, and writes it once more then.
pub async fn keep(shared: Shared, path: PathBuf, shutdown: Shutdown) {
    let mut changed = shared.changed();
    if *changed.borrow() > 0 {
        // Something changed before this began.
        changed.mark_changed();
    }
    let mut failing = false;
    loop {
        let more = shutdown.until(changed.changed()).await;
        let last = !matches!(more, Some(Ok(())));
        if !last {
            shutdown.sleep(GATHER).await;
        }
        changed.mark_unchanged();
        loop {
            let (copy, to) = (shared.copy(), path.clone());
            let saved = tokio::task::spawn_blocking(move || save(&to, &copy)).await;
            let error = match saved {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = &error {
                if !failing {
                    tracing::warn!(error, path = %path.display(), "the copy of names cannot be written; trying on");
                }
            } else if failing {
                tracing::info!("the copy of names is written again");
            }
            failing = error.is_some();
            if !failing || !shutdown.sleep(AGAIN).await {
                break;
            }
        }
        if last {
            return;
        }
    }
}
