//! Disk limits: by a project quota where the file system has it, otherwise by measuring every now and then.

use super::{Inner, connection};
use crate::Source;
use crate::measure::measure;
use crate::runtime::{DiskUse, RuntimeError};
use crate::spec::{ContainerSpec, Root};
use caps::Capability;
use plenum_shim::launch::LAUNCH;
use plenum_shim::wire::{Disk, Request};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measuring takes at most this part of the time.
const SHARE: u32 = 20;

/// What is kept of a container's limit with its launch, so that an agent that comes later finds it. Sets the quota. Blocks.
pub fn prepare(inner: &Inner, spec: &ContainerSpec, notes: &mut Vec<String>) -> Option<Disk> {
    let limit = spec.disk?;
    let mut folders = vec![spec.sandbox.clone()];
    if let Root::Image { upper, work, .. } = &spec.root {
        // The kernel makes files in one and moves them to the other, which it refuses between projects.
        folders.extend([upper.clone(), work.clone()]);
    }
    for mount in &spec.mounts {
        if let Source::Image { over: Some(over), .. } = &mount.source {
            folders.extend([over.join("upper"), over.join("work")]);
        }
    }
    let project = inner.config.projects.as_ref().map_or(0, |projects| {
        let held = match spec.bounding.has(Capability::CAP_SYS_RESOURCE) {
            // The kernel holds them to no quota.
            true => Err("the task has CAP_SYS_RESOURCE".to_owned()),
            false => projects.limit(&folders, limit.bytes).map_err(|error| error.to_string()),
        };
        held.unwrap_or_else(|why| {
            notes.push(format!("the disk limit is measured, not held by a quota: {why}"));
            0
        })
    });
    let folders = folders.into_iter().map(|folder| folder.into_os_string().into_encoded_bytes()).collect();
    Some(Disk { bytes: limit.bytes, project, folders })
}

pub fn saved(run_dir: &Path) -> Option<Disk> {
    match connection::read_file::<Request>(&run_dir.join(LAUNCH)) {
        Ok(Request::Contain(contain)) => contain.more.disk,
        _ => None,
    }
}

fn folders(disk: &Disk) -> impl Iterator<Item = PathBuf> + '_ {
    disk.folders.iter().map(|folder| PathBuf::from(OsStr::from_bytes(folder)))
}

/// Lifts a quota when the container is destroyed. Blocks.
pub fn lift(inner: &Inner, run_dir: &Path) {
    let Some(projects) = &inner.config.projects else { return };
    if let Some(disk) = saved(run_dir).filter(|disk| disk.project != 0)
        && let Err(error) = projects.release(disk.project)
    {
        tracing::warn!(project = disk.project, %error, "a disk quota stays in force");
    }
}

/// See [`crate::Runtime::disk`]. Blocks.
pub fn used(inner: &Inner, disk: &Disk, enough: u64) -> std::io::Result<u64> {
    let mut total = 0_u64;
    let mut counted = std::collections::BTreeSet::new();
    for folder in folders(disk) {
        total = total.saturating_add(match &inner.config.projects {
            Some(projects) if disk.project != 0 => {
                use std::os::unix::fs::MetadataExt;
                // An id counts for a whole file system.
                if !counted.insert(std::fs::metadata(&folder)?.dev()) {
                    continue;
                }
                projects.used(&folder, disk.project)?
            }
            _ => measure(&folder, enough.saturating_sub(total))?,
        });
    }
    Ok(total)
}

async fn look(inner: &Arc<Inner>, disk: &Disk, enough: u64) -> Result<DiskUse, RuntimeError> {
    let (inner, disk) = (Arc::clone(inner), disk.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let used_bytes = used(&inner, &disk, enough).map_err(RuntimeError::io("measuring the disk"))?;
        Ok(DiskUse { used_bytes, limit_bytes: disk.bytes, by_quota: disk.project != 0 })
    });
    looked.await.map_err(|_| RuntimeError::Refused("the work was abandoned by a shutdown".into()))?
}

/// See [`crate::Runtime::disk`].
pub async fn disk(inner: &Arc<Inner>, id: &str) -> Result<Option<DiskUse>, RuntimeError> {
    inner.known(id)?;
    match saved(&inner.dir(id)) {
        Some(disk) => look(inner, &disk, u64::MAX).await.map(Some),
        None => Ok(None),
    }
}

/// See [`crate::Runtime::disk_exceeded`].
pub async fn exceeded(inner: &Arc<Inner>, id: &str) -> Result<DiskUse, RuntimeError> {
    let (handle, _) = inner.running(id)?;
    let ended = || RuntimeError::Ended(id.to_owned());
    let limit = saved(&inner.dir(id)).filter(|disk| disk.project == 0);
    let Some(disk) = limit else {
        handle.wait().await;
        return Err(ended());
    };
    let mut pause = inner.config.disk_interval;
    loop {
        tokio::select! {
            _ = handle.wait() => return Err(ended()),
            () = tokio::time::sleep(pause) => {}
        }
        let start = Instant::now();
        // What cannot be measured now may be the next time.
        if let Ok(found) = look(inner, &disk, disk.bytes).await {
            handle.measured.note_disk(found);
            if found.used_bytes > disk.bytes {
                return Ok(found);
            }
        }
        let slow: Duration = start.elapsed().saturating_mul(SHARE);
        pause = slow.max(inner.config.disk_interval);
    }
}
