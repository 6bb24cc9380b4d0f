//! Commands that clients run inside running containers: which there are, who talks to them, how they ended.
//!
//! Owns the table, its bounds, and the moments when a command is killed: with its connection, with its container, on request, with the
//! agent. What is asked over HTTP and how it is answered is in `http`; how a command gets into a container is the runtime's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plenum_api::mesos::ContainerId;
use plenum_containers::{ExitStatus, Hold, Input, Open, Output, Runtime, RuntimeError};
use tokio::sync::{mpsc, watch};

/// Commands at once in one container.
const PER_CONTAINER: usize = 32;
/// Commands at once on this agent.
const ALL: usize = 512;
/// Ends that are remembered until somebody removes them; beyond, the oldest are forgotten.
const ENDS: usize = 1024;
/// For a runtime to start a command.
const PATIENCE: Duration = Duration::from_secs(20);
/// What has left the command's own session may hold its output open; so long without a word, and the output is at its end.
const LINGER: Duration = Duration::from_secs(2);
/// Those who listen to one command besides the one who started it.
const LISTENERS: usize = 8;
/// Pieces (of at most 32 KiB) that wait for one of them; one who is slower is let go.
const WAITING: usize = 64;
/// The signal that no command can refuse.
pub(crate) const SIGKILL: i32 = 9;

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// One of this id runs, or ran.
    #[error("a container of this id is there already")]
    Exists,
    /// Too many.
    #[error("{0}")]
    Full(String),
    /// The runtime refused, or the container has ended meanwhile.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The runtime did not answer.
    #[error("the command was not running within {} s", PATIENCE.as_secs())]
    Late,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// Code or signal.
    pub status: ExitStatus,
    /// What the runtime said where nobody knows.
    pub failure: Option<String>,
}

/// A command inside a container, running or ended.
#[derive(Debug)]
pub(crate) struct Nested {
    /// Its id below its parent's.
    pub id: ContainerId,
    /// The container that it is in, as the runtime calls it.
    pub host: String,
    /// It has a terminal.
    pub terminal: bool,
    /// Its input; whoever holds the lock is connected to it.
    pub input: Arc<tokio::sync::Mutex<Input>>,
    hold: Mutex<Option<Hold>>,
    killed: AtomicBool,
    listeners: Mutex<Vec<mpsc::Sender<Output>>>,
    end: watch::Sender<Option<End>>,
}

impl Nested {
    /// Sends a signal; `false` if it has ended.
    pub fn kill(&self, signal: i32) -> bool {
        let mut hold = lock(&self.hold);
        if signal != SIGKILL {
            return hold.as_ref().is_some_and(|hold| hold.signal(signal));
        }
        let running = hold.take().is_some();
        if running {
            self.killed.store(true, Ordering::Release);
        }
        running
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Waits for its end. Has no deadline of its own.
    pub async fn wait(&self) -> End {
        let mut end = self.end.subscribe();
        let found = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        found.unwrap_or(End { status: ExitStatus::Unknown, failure: None })
    }

    /// Everything that it writes from now on; `None` where too many listen or it has ended.
    pub fn listen(&self) -> Option<mpsc::Receiver<Output>> {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| !listener.is_closed());
        if listeners.len() >= LISTENERS || self.ended().is_some() {
            return None;
        }
        let (to, output) = mpsc::channel(WAITING);
        listeners.push(to);
        Some(output)
    }

    fn share(&self, piece: &Output) {
        lock(&self.listeners).retain(|listener| listener.try_send(piece.clone()).is_ok());
    }
}

/// What a command writes. Reading is what moves it on: a command whose output nobody takes is held up. Dropping this kills the command.
#[derive(Debug)]
pub(crate) struct Feed {
    nested: Arc<Nested>,
    output: mpsc::Receiver<Output>,
}

impl Feed {
    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Option<Output> {
        let (nested, output) = (&self.nested, &mut self.output);
        let lingers = async {
            nested.wait().await;
            tokio::time::sleep(LINGER).await;
        };
        let piece = tokio::select! {
            biased;
            piece = output.recv() => piece,
            () = lingers => None,
        };
        match &piece {
            Some(piece) => nested.share(piece),
            None => {
                // A command that closes its output may go on without; how it ends is part of what it says.
                nested.wait().await;
                lock(&nested.listeners).clear();
            }
        }
        piece
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.nested.kill(SIGKILL);
        lock(&self.nested.listeners).clear();
    }
}

/// The table. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Sessions(Arc<Inner>);

struct Inner {
    runtime: Arc<dyn Runtime>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    nested: BTreeMap<String, Arc<Nested>>,
    /// Being started: key and container.
    opening: BTreeMap<String, String>,
    /// Those that have ended, the oldest first.
    ended: VecDeque<String>,
}

/// Gives a place in the table back where a start is broken off.
struct Place<'a> {
    sessions: &'a Sessions,
    key: String,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.sessions.0.table).opening.remove(&self.key);
    }
}

impl Sessions {
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self(Arc::new(Inner { runtime, table: Mutex::default() }))
    }

    /// Kills all of them: the agent ends, and they would with it; so their clients hear of it.
    pub fn end(&self) {
        let all: Vec<Arc<Nested>> = lock(&self.0.table).nested.values().cloned().collect();
        for nested in all {
            nested.kill(SIGKILL);
        }
    }

    /// Starts a command in the container `host` under an id of its own.
    pub async fn open(
        &self,
        id: &ContainerId,
        host: &str,
        open: Open,
    ) -> Result<(Arc<Nested>, Feed), OpenError> {
        let key = key(id);
        let place = self.reserve(&key, host)?;
        let terminal = open.terminal.is_some();
        let opened = tokio::time::timeout(PATIENCE, self.0.runtime.open(host, open)).await;
        let session = opened.map_err(|_| OpenError::Late)??;
        let nested = Arc::new(Nested {
            id: id.clone(),
            host: host.to_owned(),
            terminal,
            input: Arc::new(tokio::sync::Mutex::new(session.input)),
            hold: Mutex::new(Some(session.hold)),
            killed: AtomicBool::new(false),
            listeners: Mutex::default(),
            end: watch::channel(None).0,
        });
        lock(&self.0.table).nested.insert(key.clone(), nested.clone());
        drop(place);
        let (this, watched) = (self.clone(), nested.clone());
        tokio::spawn(async move { this.watch(&key, &watched, session.exit.await.ok()).await });
        Ok((nested.clone(), Feed { nested, output: session.output }))
    }

    fn reserve(&self, key: &str, host: &str) -> Result<Place<'_>, OpenError> {
        let mut table = lock(&self.0.table);
        if table.nested.contains_key(key) || table.opening.contains_key(key) {
            return Err(OpenError::Exists);
        }
        let running = table.nested.values().filter(|one| one.ended().is_none()).map(|one| &one.host);
        let (mut all, mut here) = (0, 0);
        for other in running.chain(table.opening.values()) {
            all += 1;
            here += usize::from(other == host);
        }
        if here >= PER_CONTAINER {
            return Err(OpenError::Full(format!(
                "{here} commands run inside the container {host} already; end some of them (KILL_CONTAINER) or wait"
            )));
        }
        if all >= ALL {
            return Err(OpenError::Full(format!(
                "{all} commands run inside containers of this agent already; end some of them or wait"
            )));
        }
        table.opening.insert(key.to_owned(), host.to_owned());
        Ok(Place { sessions: self, key: key.to_owned() })
    }

    async fn watch(&self, key: &str, nested: &Nested, exit: Option<Result<ExitStatus, RuntimeError>>) {
        lock(&nested.hold).take();
        let (status, failure) = match exit {
            Some(Ok(status)) => (status, None),
            Some(Err(error)) => (ExitStatus::Unknown, Some(error.to_string())),
            None => (ExitStatus::Unknown, Some("nobody saw its end".to_owned())),
        };
        let killed = nested.killed.load(Ordering::Acquire);
        let status =
            if killed && status == ExitStatus::Unknown { ExitStatus::Signal(SIGKILL) } else { status };
        nested.end.send_replace(Some(End { status, failure: failure.filter(|_| !killed) }));
        let mut table = lock(&self.0.table);
        table.ended.push_back(key.to_owned());
        if table.ended.len() > ENDS
            && let Some(oldest) = table.ended.pop_front()
        {
            table.nested.remove(&oldest);
        }
    }

    /// The one of this id.
    pub fn find(&self, id: &ContainerId) -> Option<Arc<Nested>> {
        lock(&self.0.table).nested.get(&key(id)).cloned()
    }

    /// Those that run.
    pub fn running(&self) -> Vec<Arc<Nested>> {
        lock(&self.0.table).nested.values().filter(|one| one.ended().is_none()).cloned().collect()
    }

    /// Forgets one that has ended; `false` if it runs.
    pub fn remove(&self, id: &ContainerId) -> bool {
        let key = key(id);
        let mut table = lock(&self.0.table);
        if table.opening.contains_key(&key) || table.nested.get(&key).is_some_and(|one| one.ended().is_none())
        {
            return false;
        }
        table.nested.remove(&key);
        table.ended.retain(|other| *other != key);
        true
    }

    /// Forgets the ends of commands whose containers are no more.
    pub fn forget_without(&self, containers: &BTreeSet<&str>) {
        let mut table = lock(&self.0.table);
        let gone = |one: &Nested| one.ended().is_some() && !containers.contains(one.host.as_str());
        table.nested.retain(|_, one| !gone(one));
        let Table { nested, ended, .. } = &mut *table;
        ended.retain(|key| nested.contains_key(key));
    }
}

/// An id in one word: its ancestors' first, with dots between.
pub(crate) fn key(id: &ContainerId) -> String {
    match &id.parent {
        Some(parent) => format!("{}.{}", key(parent), id.value),
        None => id.value.clone(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_word() {
        let parent = ContainerId { value: "pod".to_owned(), parent: None };
        let child = ContainerId { value: "a".to_owned(), parent: Some(Box::new(parent)) };
        let id = ContainerId { value: "s".to_owned(), parent: Some(Box::new(child)) };
        assert_eq!(key(&id), "pod.a.s");
    }
}
