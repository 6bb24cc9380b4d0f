//! One container's connection to its shim: a task that asks on behalf of callers and learns of the end.

use super::connection::{self, Connection};
use crate::runtime::{Exit, RuntimeError};
use plenum_shim::launch::EXIT;
use plenum_shim::wire::{Reply, Request, State};
use plenum_shim::{cgroup, proc};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

type Ask = (Request, oneshot::Sender<Reply>);

/// What the table keeps of a container.
#[derive(Debug)]
pub struct Handle {
    /// As launched; `None` for one that never was.
    pub state: Option<State>,
    /// What measuring it needs and found.
    pub measured: super::measured::Measured,
    asks: mpsc::Sender<Ask>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Handle {
    /// A container with a shim; `connection` is one that has subscribed. Without one, the shim is dialled in the
    /// background for as long as it lives.
    pub fn supervised(state: State, run_dir: PathBuf, connection: Option<Connection>) -> Self {
        let (asks, requests) = mpsc::channel(8);
        let (announce, exit) = watch::channel(None);
        let actor = Actor { state: state.clone(), run_dir };
        tokio::spawn(async move {
            let end = actor.run(connection, requests).await;
            announce.send_replace(Some(end));
        });
        Self { state: Some(state), measured: Default::default(), asks, exit }
    }

    /// A container that has ended.
    pub fn ended_with(state: Option<State>, exit: Exit) -> Self {
        let (asks, _) = mpsc::channel(1);
        let (_, exit) = watch::channel(Some(exit));
        Self { state, measured: Default::default(), asks, exit }
    }

    /// The end, if it has come.
    pub fn ended(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits for the end.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let end = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        // Without a sender and without an end, the runtime is shutting down.
        end.unwrap_or_else(Exit::lost)
    }

    /// Asks the shim.
    pub async fn ask(&self, request: Request, deadline: Duration) -> Result<Reply, RuntimeError> {
        let id = || self.state.as_ref().map_or_else(String::new, |state| state.id.clone());
        let ask = async {
            let (answer, answered) = oneshot::channel();
            self.asks.send((request, answer)).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(deadline, ask).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(RuntimeError::Ended(id())),
            Err(_) => Err(RuntimeError::Deadline(format!("a request to the shim of container {}", id()))),
        }
    }
}

struct Actor {
    state: State,
    run_dir: PathBuf,
}

impl Actor {
    async fn run(self, mut connection: Option<Connection>, mut requests: mpsc::Receiver<Ask>) -> Exit {
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(live) = connection.take() {
                pause = Duration::from_millis(5);
                if let Some(exit) = serve(live, &mut requests).await {
                    return exit;
                }
            }
            // Not connected. A shim that lives is only slow; one that is dead has left a record or has been killed.
            let alive = proc::alive(&self.state.shim);
            if let Some(exit) = recorded(&self.run_dir) {
                return exit;
            }
            if !alive {
                return self.lost().await;
            }
            let greeting =
                tokio::time::timeout(Duration::from_secs(5), connection::greet(&self.run_dir)).await;
            connection = greeting.ok().flatten().map(|(_, connection)| connection);
            if connection.is_none() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }

    async fn lost(self) -> Exit {
        let work = move || kill_leftovers(&self.state);
        let _shutting_down = tokio::task::spawn_blocking(work).await;
        Exit::lost()
    }
}

/// Serves requests over a connection until it ends; answers with the end of the container if that was announced.
async fn serve(mut live: Connection, requests: &mut mpsc::Receiver<Ask>) -> Option<Exit> {
    // Who waits for the next reply. One request is under way at a time.
    let mut waiting: Option<oneshot::Sender<Reply>> = None;
    loop {
        tokio::select! {
            reply = live.inbox.next(&mut live.stream) => match reply {
                Ok(Reply::Exited(exit)) => return Some(Exit::from_wire(&exit)),
                Ok(reply) => {
                    if let Some(waiting) = waiting.take() {
                        let _gave_up = waiting.send(reply);
                    }
                }
                Err(_) => return None,
            },
            Some((request, answer)) = requests.recv(), if waiting.is_none() => {
                // A failure shows in the next read.
                if connection::write(&mut live.stream, &request).await.is_ok() {
                    waiting = Some(answer);
                }
            }
        }
    }
}

/// The record of the end, if there is one.
pub fn recorded(run_dir: &Path) -> Option<Exit> {
    match connection::read_file::<Reply>(&run_dir.join(EXIT)) {
        Ok(Reply::Exited(exit)) => Some(Exit::from_wire(&exit)),
        _ => None,
    }
}

/// Kills what a dead supervisor may have left: the kernel killed init with it, unless the container had no init of its
/// own namespace.
pub fn kill_leftovers(state: &State) {
    if state.boot_id != proc::boot_id() {
        return;
    }
    for dir in super::group_dirs(state) {
        if cgroup::put(&dir.join("cgroup.kill"), "1").is_err() {
            for pid in cgroup::members(&dir) {
                let _gone = plenum_shim::sys::kill(pid, libc::SIGKILL);
            }
        }
    }
    for who in [&state.shim, &state.init, &state.task] {
        if let Ok(fd) = plenum_shim::sys::pidfd_open(who.pid)
            && proc::alive(who)
        {
            let _gone = plenum_shim::sys::pidfd_signal(std::os::fd::AsFd::as_fd(&fd), libc::SIGKILL);
        }
    }
}
