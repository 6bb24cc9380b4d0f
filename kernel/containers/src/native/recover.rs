//! Recovery after a restart of the agent: every folder is a container that runs, has ended, or is lost.

use super::actor::{Handle, ended_unseen, kill_leftovers, recorded};
use super::connection::{self, Inbox};
use super::{Inner, Slot, launched};
use crate::runtime::{Exit, Recovered, RecoveredState, RuntimeError};
use crate::spec::check_id;
use plenum_shim::launch::{CONTROL, STATE};
use plenum_shim::wire::{Reply, Request, State};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;

/// See [`crate::Runtime::recover`]. Containers are looked at one after the other: each takes a fraction of a millisecond.
pub async fn recover(inner: &Arc<Inner>) -> Result<Vec<Recovered>, RuntimeError> {
    let mut found = Vec::new();
    for id in folders(inner)? {
        if inner.table.lock().contains_key(&id) {
            continue;
        }
        let dir = inner.dir(&id);
        let (handle, state) = look(inner, &dir).await;
        found.push(Recovered { id: id.clone(), state, launched: handle.state.as_ref().map(launched) });
        inner.table.lock().insert(id, Slot::Known(Arc::new(handle)));
    }
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
    let finished = |exit: Exit| {
        let state = saved(dir);
        (Handle::ended_with(state, exit.clone()), RecoveredState::Finished(exit))
    };
    if let Some(exit) = recorded(dir) {
        return finished(exit);
    }
    match adopt(dir, inner.config.request_deadline).await {
        Some((state, stream, inbox)) => {
            (Handle::connected(state, dir.to_owned(), stream, inbox), RecoveredState::Running)
        }
        None => {
            let exit = match saved(dir) {
                Some(state) => ended_unseen(dir.to_owned(), state).await,
                None => recorded(dir).unwrap_or_else(Exit::lost),
            };
            if exit != Exit::lost() {
                return finished(exit);
            }
            let state = saved(dir);
            if let Some(state) = &state {
                kill_leftovers(state);
            }
            (Handle::ended_with(state, exit), RecoveredState::Lost)
        }
    }
}

fn saved(dir: &Path) -> Option<State> {
    match connection::read_file::<Reply>(&dir.join(STATE)) {
        Ok(Reply::Status(state)) => Some(*state),
        _ => None,
    }
}

/// Connects to a live shim. A folder without a control socket is claimed first, so that a shim which is only now
/// starting (its agent died in the middle of a launch) gives up instead of running unseen.
async fn adopt(dir: &Path, deadline: Duration) -> Option<(State, UnixStream, Inbox)> {
    let control = dir.join(CONTROL);
    let claimed = std::fs::OpenOptions::new().write(true).create_new(true).open(&control);
    match claimed {
        Ok(_) => return None,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => tracing::warn!(path = %control.display(), %error, "a container's folder cannot be claimed"),
    }
    tokio::time::timeout(deadline, greet(dir)).await.ok().flatten()
}

/// A supervisor in the middle of a launch answers when the launch is over.
async fn greet(dir: &Path) -> Option<(State, UnixStream, Inbox)> {
    let mut stream = connection::dial(dir).await.ok()?;
    let mut inbox = Inbox::default();
    let mut state = None;
    for request in [connection::hello(), Request::Status, Request::Subscribe] {
        connection::write(&mut stream, &request).await.ok()?;
        match inbox.next(&mut stream).await.ok()? {
            Reply::Status(found) => state = Some(*found),
            Reply::Hello { .. } | Reply::Done => {}
            // `Exited` means that it ended just now; the record will say so.
            _ => return None,
        }
    }
    Some((state?, stream, inbox))
}
