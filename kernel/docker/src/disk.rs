//! Disk limits of containers of the engine: measured every now and then, as native ones are where no quota counts.

use crate::container::Container;
use crate::inner::Inner;
use plenum_containers::measure::measure;
use plenum_containers::{DiskUse, RuntimeError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measuring takes at most this part of the time.
const SHARE: u32 = 20;

/// Measures until there is more than `enough`; `None` without a limit. What it writes over its image counts where the engine tells where that is.
pub async fn look(container: &Arc<Container>, enough: u64) -> Result<Option<DiskUse>, RuntimeError> {
    let record = container.record();
    let Some(limit_bytes) = record.disk_bytes else { return Ok(None) };
    let measured = tokio::task::spawn_blocking(move || {
        let sandbox = measure(&record.sandbox, enough)?;
        // A layer that is gone, or that only the engine can see, counts for nothing.
        let left = enough.saturating_sub(sandbox);
        let upper = record.upper.as_ref().map_or(0, |upper| measure(upper, left).unwrap_or(0));
        Ok::<_, std::io::Error>(sandbox.saturating_add(upper))
    });
    let used =
        measured.await.map_err(|_| RuntimeError::Refused("the work was abandoned by a shutdown".into()))?;
    let used_bytes =
        used.map_err(|error| RuntimeError::Io { what: "measuring the disk".to_owned(), error })?;
    let found = DiskUse { used_bytes, limit_bytes, by_quota: false };
    *container.disk.lock() = Some(found);
    Ok(Some(found))
}

/// See [`plenum_containers::Runtime::disk_exceeded`].
pub async fn exceeded(inner: &Arc<Inner>, id: &str) -> Result<DiskUse, RuntimeError> {
    let container = inner.running(id)?;
    let limit = container.record().disk_bytes;
    let mut exit = container.exit.subscribe();
    let mut pause = inner.config.disk_interval;
    loop {
        let wait = async {
            match limit {
                Some(_) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = exit.wait_for(Option::is_some) => return Err(RuntimeError::Ended(id.to_owned())),
            () = wait => {}
        }
        let start = Instant::now();
        // What cannot be measured now may be the next time.
        if let Ok(Some(found)) = look(&container, limit.unwrap_or(u64::MAX)).await
            && found.used_bytes > found.limit_bytes
        {
            return Ok(found);
        }
        let slow: Duration = start.elapsed().saturating_mul(SHARE);
        pause = slow.max(inner.config.disk_interval);
    }
}
