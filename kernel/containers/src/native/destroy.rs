//! Destroying: kill what is left, remove what is left, forget. Repeatable.

use super::actor::{Handle, kill_leftovers, recorded};
use super::{Inner, Slot, disk, group_dirs};
use crate::runtime::{Exit, RuntimeError};
use plenum_shim::wire::{Pid, Request, State};
use plenum_shim::{cgroup, proc};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a container may take before the next one has its turn.
const TURN: Duration = Duration::from_millis(500);
/// Containers that are being killed at a time.
pub const AT_ONCE: usize = 4;

/// See [`crate::Runtime::destroy`].
pub async fn destroy(inner: &Arc<Inner>, id: &str) -> Result<Exit, RuntimeError> {
    let handle = match inner.known(id) {
        Ok(handle) => handle,
        Err(error) => return forget_folder(inner, id, error),
    };
    let end = Instant::now() + inner.config.destroy_deadline;
    if handle.ended().is_none() {
        // The kernel takes a global lock for every control group that goes: a crowd of supervisors would queue up
        // behind each other. One that hangs holds its place for a moment only.
        let turn = tokio::time::timeout(TURN, inner.ending.acquire()).await;
        let killed = ask_to_kill(&handle, inner.config.destroy_deadline / 3);
        match tokio::time::timeout(TURN, killed).await {
            Ok(()) => {}
            Err(_) => {
                drop(turn);
                ask_to_kill(&handle, inner.config.destroy_deadline / 3).await;
            }
        }
    }
    let run_dir = inner.dir(id);
    let state = handle.state.clone();
    let work = {
        let (inner, run_dir, id) = (Arc::clone(inner), run_dir.clone(), id.to_owned());
        move || {
            disk::lift(&inner, &run_dir);
            state.map_or_else(|| remove_folder(&run_dir), |state| remove(&state, &run_dir, &id, end))
        }
    };
    let removed = tokio::task::spawn_blocking(work).await;
    removed.map_err(|_| RuntimeError::Refused("the work was abandoned by a shutdown".into()))??;
    let exit =
        tokio::time::timeout(Duration::from_secs(1), handle.wait()).await.unwrap_or_else(|_| Exit::lost());
    inner.table.lock().remove(id);
    inner.ids.lock().give_back(id);
    Ok(exit)
}

/// Kills at once, in turn with others: each has its place until the container has ended, or for a moment. Answers when the shim has.
pub async fn kill(inner: Arc<Inner>, id: String, request: Request) -> Result<(), RuntimeError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    // A task of its own keeps the place after the answer.
    tokio::spawn(async move {
        let turn = tokio::time::timeout(inner.config.request_deadline, inner.ending.acquire()).await;
        let asked = inner.ask(&id, request).await;
        let dies = asked.is_ok();
        let _gave_up = tell.send(asked);
        if dies && let Ok(handle) = inner.known(&id) {
            let _or_it_takes_long = tokio::time::timeout(TURN, handle.wait()).await;
        }
        drop(turn);
    });
    told.await.map_err(|_| RuntimeError::Refused("the work was abandoned by a shutdown".into()))?
}

/// A folder that is not in the table is only removed if it is known to have ended.
fn forget_folder(inner: &Inner, id: &str, error: RuntimeError) -> Result<Exit, RuntimeError> {
    let launching = matches!(inner.table.lock().get(id), Some(Slot::Launching));
    let exit = recorded(&inner.dir(id)).filter(|_| !launching).ok_or(error)?;
    remove_folder(&inner.dir(id))?;
    inner.ids.lock().give_back(id);
    Ok(exit)
}

async fn ask_to_kill(handle: &Handle, patience: Duration) {
    let kill = Request::Kill { signal: libc::SIGKILL, grace_ms: 0 };
    if handle.ask(kill, patience).await.is_ok() {
        let _then_by_force = tokio::time::timeout(patience, handle.wait()).await;
    }
}

/// The ordinary way costs a wait for the supervisor, which has tidied up; force is for what is left after that. (Asking
/// v1 for the members of a group is expensive, so it is only done then.)
fn remove(state: &State, run_dir: &Path, id: &str, end: Instant) -> Result<(), RuntimeError> {
    let here = state.boot_id == proc::boot_id();
    let dirs = group_dirs(state);
    if here {
        await_end(&state.shim, Duration::from_millis(500));
        let processes = [&state.shim, &state.init, &state.task];
        if processes.iter().any(|who| proc::alive(who)) || !cgroup::remove_dirs(&dirs, Duration::ZERO) {
            force(state, &dirs, id, end)?;
        }
    }
    remove_folder(run_dir)
}

/// Waits for a process without asking again and again.
fn await_end(who: &Pid, patience: Duration) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let Ok(fd) = plenum_shim::sys::pidfd_open(who.pid) else { return };
    if proc::alive(who) {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let _ended_or_late = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

fn force(state: &State, dirs: &[PathBuf], id: &str, end: Instant) -> Result<(), RuntimeError> {
    let left = || -> Vec<String> {
        let named = [("supervisor", &state.shim), ("init", &state.init), ("task", &state.task)];
        let alive = named.iter().filter(|(_, who)| proc::alive(who));
        let mut left: Vec<String> =
            alive.map(|(what, who)| format!("{what} (process {})", who.pid)).collect();
        for dir in dirs {
            let members = cgroup::members(dir);
            if !members.is_empty() {
                left.push(format!("processes {members:?} in {}", dir.display()));
            }
        }
        left
    };
    let mut pause = Duration::from_micros(500);
    loop {
        kill_leftovers(state);
        let left = left();
        if left.is_empty() {
            break;
        }
        if Instant::now() >= end {
            return Err(RuntimeError::Undead { id: id.to_owned(), left: left.join(", ") });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    let patience = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(500));
    if cgroup::remove_dirs(dirs, patience) {
        return Ok(());
    }
    Err(RuntimeError::Undead { id: id.to_owned(), left: "a control group that is busy".into() })
}

fn remove_folder(run_dir: &Path) -> Result<(), RuntimeError> {
    match std::fs::remove_dir_all(run_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RuntimeError::Io { what: format!("removing {}", run_dir.display()), error })
        }
        _ => Ok(()),
    }
}
