//! One container's connection to its shim: a task that asks on behalf of callers and learns of the end.

use super::connection::{self, Inbox};
use crate::runtime::{Exit, RuntimeError};
use plenum_shim::launch::EXIT;
use plenum_shim::wire::{Reply, Request, State};
use plenum_shim::{cgroup, proc};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

type Ask = (Request, oneshot::Sender<Reply>);

/// What the table keeps of a container.
#[derive(Debug)]
pub struct Handle {
    /// As launched; `None` for one that never was.
    pub state: Option<State>,
    asks: mpsc::Sender<Ask>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Handle {
    /// A container whose shim is connected (and has subscribed it).
    pub fn connected(state: State, run_dir: PathBuf, stream: UnixStream, inbox: Inbox) -> Self {
        let (asks, requests) = mpsc::channel(8);
        let (announce, exit) = watch::channel(None);
        let actor = Actor { state: state.clone(), run_dir, stream, inbox, waiting: None };
        tokio::spawn(async move {
            let end = actor.run(requests).await;
            announce.send_replace(Some(end));
        });
        Self { state: Some(state), asks, exit }
    }

    /// A container that has ended.
    pub fn ended_with(state: Option<State>, exit: Exit) -> Self {
        let (asks, _) = mpsc::channel(1);
        let (_, exit) = watch::channel(Some(exit));
        Self { state, asks, exit }
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
    stream: UnixStream,
    inbox: Inbox,
    /// Who waits for the next reply. One request is under way at a time.
    waiting: Option<oneshot::Sender<Reply>>,
}

impl Actor {
    async fn run(mut self, mut requests: mpsc::Receiver<Ask>) -> Exit {
        loop {
            tokio::select! {
                reply = self.inbox.next(&mut self.stream) => match reply {
                    Ok(Reply::Exited(exit)) => return Exit::from_wire(&exit),
                    Ok(reply) => {
                        if let Some(waiting) = self.waiting.take() {
                            let _gave_up = waiting.send(reply);
                        }
                    }
                    Err(_) => return ended_unseen(self.run_dir, self.state).await,
                },
                Some((request, answer)) = requests.recv(), if self.waiting.is_none() => {
                    if connection::write(&mut self.stream, &request).await.is_ok() {
                        self.waiting = Some(answer);
                    }
                }
            }
        }
    }
}

/// The connection is gone without an announcement: the record says how it ended; if there is none, nobody knows.
pub async fn ended_unseen(run_dir: PathBuf, state: State) -> Exit {
    let look = move || {
        for _ in 0..50 {
            if let Some(exit) = recorded(&run_dir) {
                return exit;
            }
            if !proc::alive(&state.shim) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        kill_leftovers(&state);
        // Between the last look and the shim's death it may have been written.
        recorded(&run_dir).unwrap_or_else(Exit::lost)
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_else(|_| Exit::lost())
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
