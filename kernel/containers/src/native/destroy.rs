//! Destroying: kill what is left, remove what is left, forget. Repeatable.

use super::actor::{Handle, kill_leftovers, recorded};
use super::{Inner, Slot, group_dirs};
use crate::runtime::{Exit, RuntimeError};
use plenum_shim::wire::{Request, State};
use plenum_shim::{cgroup, proc};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See [`crate::Runtime::destroy`].
pub async fn destroy(inner: &Arc<Inner>, id: &str) -> Result<Exit, RuntimeError> {
    let handle = match inner.known(id) {
        Ok(handle) => handle,
        Err(error) => return forget_folder(inner, id, error),
    };
    let end = Instant::now() + inner.config.destroy_deadline;
    if handle.ended().is_none() {
        ask_to_kill(&handle, inner.config.destroy_deadline / 3).await;
    }
    let run_dir = inner.dir(id);
    let state = handle.state.clone();
    let work = {
        let (run_dir, id) = (run_dir.clone(), id.to_owned());
        move || state.map_or_else(|| remove_folder(&run_dir), |state| remove(&state, &run_dir, &id, end))
    };
    let removed = tokio::task::spawn_blocking(work).await;
    removed.map_err(|_| RuntimeError::Refused("the work was abandoned by a shutdown".into()))??;
    let exit =
        tokio::time::timeout(Duration::from_secs(1), handle.wait()).await.unwrap_or_else(|_| Exit::lost());
    inner.table.lock().remove(id);
    Ok(exit)
}

/// A folder that is not in the table is only removed if it is known to have ended.
fn forget_folder(inner: &Inner, id: &str, error: RuntimeError) -> Result<Exit, RuntimeError> {
    let launching = matches!(inner.table.lock().get(id), Some(Slot::Launching));
    let exit = recorded(&inner.dir(id)).filter(|_| !launching).ok_or(error)?;
    remove_folder(&inner.dir(id))?;
    Ok(exit)
}

async fn ask_to_kill(handle: &Handle, patience: Duration) {
    let kill = Request::Kill { signal: libc::SIGKILL, grace_ms: 0 };
    if handle.ask(kill, patience).await.is_ok() {
        let _then_by_force = tokio::time::timeout(patience, handle.wait()).await;
    }
}

/// Force, for what did not end by being asked; then the groups and the folder.
fn remove(state: &State, run_dir: &Path, id: &str, end: Instant) -> Result<(), RuntimeError> {
    let here = state.boot_id == proc::boot_id();
    let left = || -> Vec<String> {
        let named = [("supervisor", &state.shim), ("init", &state.init), ("task", &state.task)];
        let alive = named.iter().filter(|(_, who)| here && proc::alive(who));
        let mut left: Vec<String> =
            alive.map(|(what, who)| format!("{what} (process {})", who.pid)).collect();
        for dir in group_dirs(state) {
            let members = cgroup::members(&dir);
            if !members.is_empty() {
                left.push(format!("processes {members:?} in {}", dir.display()));
            }
        }
        left
    };
    // A supervisor that has just announced the end needs a moment for its last steps.
    let polite = Instant::now() + Duration::from_millis(500);
    let mut pause = Duration::from_micros(200);
    while !left().is_empty() {
        let now = Instant::now();
        if now >= end {
            return Err(RuntimeError::Undead { id: id.to_owned(), left: left().join(", ") });
        }
        if now >= polite || recorded(run_dir).is_none() {
            kill_leftovers(state);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    let dirs = group_dirs(state);
    let patience = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(500));
    if !cgroup::remove_dirs(&dirs, patience) {
        return Err(RuntimeError::Undead { id: id.to_owned(), left: "a control group that is busy".into() });
    }
    remove_folder(run_dir)
}

fn remove_folder(run_dir: &Path) -> Result<(), RuntimeError> {
    match std::fs::remove_dir_all(run_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RuntimeError::Io { what: format!("removing {}", run_dir.display()), error })
        }
        _ => Ok(()),
    }
}
