//! Recovery after a restart of the agent: every folder is a container that runs, has ended, or is lost.

use super::actor::{Handle, kill_leftovers, recorded};
use super::connection::{self, Connection};
use super::{Inner, Slot, ids, launched};
use crate::runtime::{Exit, Recovered, RecoveredState, RuntimeError};
use crate::spec::check_id;
use plenum_shim::launch::{CONTROL, LAUNCH, STATE};
use plenum_shim::proc;
use plenum_shim::wire::{Reply, Request, State};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Containers that are looked at together; a slow shim then costs the others nothing.
const TOGETHER: usize = 64;

/// See [`crate::Runtime::recover`].
pub async fn recover(inner: &Arc<Inner>) -> Result<Vec<Recovered>, RuntimeError> {
    let mut found = Vec::new();
    let mut ids = folders(inner)?;
    ids.retain(|id| !inner.table.lock().contains_key(id));
    for some in ids.chunks(TOGETHER) {
        let mut looks = JoinSet::new();
        for id in some {
            let (inner, id) = (Arc::clone(inner), id.clone());
            looks.spawn(async move {
                let (handle, state) = look(&inner, &inner.dir(&id)).await;
                ids::find(&inner, &id, &inner.dir(&id));
                (id, handle, state)
            });
        }
        while let Some(looked) = looks.join_next().await {
            let Ok((id, handle, state)) = looked else { continue };
            let begun = handle.state.as_ref().filter(|state| state.task.pid > 0);
            found.push(Recovered { id: id.clone(), state, launched: begun.map(launched) });
            inner.table.lock().insert(id, Slot::Known(Arc::new(handle)));
        }
    }
    found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

fn folders(inner: &Inner) -> Result<Vec<String>, RuntimeError> {
    let dir = &inner.config.run_dir;
    let entries = std::fs::read_dir(dir).map_err(RuntimeError::io(format!("reading {}", dir.display())))?;
    let named = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut ids: Vec<String> = named.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    ids.retain(|id| check_id(id).is_ok());
    ids.sort_unstable();
    Ok(ids)
}

async fn look(inner: &Inner, dir: &Path) -> (Handle, RecoveredState) {
    let ended = |state: Option<State>, exit: Exit| {
        let finding =
            if exit == Exit::lost() { RecoveredState::Lost } else { RecoveredState::Finished(exit.clone()) };
        (Handle::ended_with(state, exit), finding)
    };
    if let Some(exit) = recorded(dir) {
        return ended(saved(dir), exit);
    }
    if let Some((state, connection)) = adopt(dir, inner.config.request_deadline).await {
        return (Handle::supervised(state, dir.to_owned(), Some(connection)), RecoveredState::Running);
    }
    let state = saved(dir);
    if let Some(state) =
        state.as_ref().filter(|state| proc::alive(&state.shim) && state.boot_id == proc::boot_id())
    {
        // It lives and does not answer: stopped, or the machine is busy. Its container is not ours to kill for that.
        tracing::warn!(id = %state.id, shim = state.shim.pid, "a supervisor does not answer yet; it is dialled on");
        return (Handle::supervised(state.clone(), dir.to_owned(), None), RecoveredState::Running);
    }
    // Written between the first look and the supervisor's end, perhaps.
    let exit = recorded(dir).unwrap_or_else(Exit::lost);
    // A launch that was killed half way has no state, but may have made control groups.
    let state = state.or_else(|| intended(dir));
    if let Some(state) = state.as_ref().filter(|_| exit == Exit::lost()) {
        kill_leftovers(state);
    }
    ended(state, exit)
}

/// What a launch was about to make, as far as it can outlive its supervisor.
fn intended(dir: &Path) -> Option<State> {
    let launch = match connection::read_file::<Request>(&dir.join(LAUNCH)) {
        Ok(Request::Launch(launch)) => *launch,
        Ok(Request::Contain(contain)) => contain.launch,
        _ => return None,
    };
    let groups = launch.groups.into_iter().map(|group| group.dir).collect();
    Some(State { id: launch.id, boot_id: proc::boot_id(), groups, ..State::default() })
}

fn saved(dir: &Path) -> Option<State> {
    match connection::read_file::<Reply>(&dir.join(STATE)) {
        Ok(Reply::Status(state)) => Some(*state),
        _ => None,
    }
}

/// Connects to a live shim. A folder without a control socket is claimed first, so that a shim which is only now
/// starting (its agent died in the middle of a launch) gives up instead of running unseen.
async fn adopt(dir: &Path, deadline: Duration) -> Option<(State, Connection)> {
    let control = dir.join(CONTROL);
    let claimed = std::fs::OpenOptions::new().write(true).create_new(true).open(&control);
    match claimed {
        Ok(_) => return None,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            tracing::warn!(path = %control.display(), %error, "a container's folder cannot be claimed")
        }
    }
    // Without a state the launch is still going on, if the socket is listened on at all: it has its own deadline.
    let patience = match saved(dir) {
        Some(_) => deadline,
        None => launch_deadline(dir).unwrap_or(deadline) + deadline,
    };
    tokio::time::timeout(patience, connection::greet(dir)).await.ok().flatten()
}

fn launch_deadline(dir: &Path) -> Option<Duration> {
    match connection::read_file::<Request>(&dir.join(LAUNCH)) {
        Ok(Request::Launch(launch)) => Some(Duration::from_millis(launch.deadline_ms.min(600_000))),
        Ok(Request::Contain(contain)) => Some(Duration::from_millis(contain.launch.deadline_ms.min(600_000))),
        _ => None,
    }
}
