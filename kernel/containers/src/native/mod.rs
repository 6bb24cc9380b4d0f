//! The native runtime: one shim process a container (ADR 9).
//!
//! This module holds the table of containers; [`launch`], [`actor`], [`recover`], [`destroy`], [`helper`] and [`probe`] each
//! do one thing to one container.

mod actor;
mod attach;
mod connection;
mod destroy;
mod disk;
mod helper;
mod ids;
mod launch;
mod machine;
mod measured;
mod oom;
mod probe;
mod recover;
mod session;

pub use probe::through;

use crate::ids::{Taken, UserNamespaces};
use crate::inside::Seccomp;
use crate::isolation::Isolation;
use crate::oom::OutOfMemory;
use crate::quota::Projects;
use crate::runtime::{
    DiskUse, Enter, Entered, Exit, Launched, Probe, Probed, Recovered, Runtime, RuntimeError, Statistics,
    Usage,
};
use crate::session::{Input, Open, Output, Session};
use crate::spec::{ContainerSpec, LogBudget, check_id};
use actor::Handle;
use async_trait::async_trait;
use machine::Machine;
use parking_lot::Mutex;
use plenum_shim::wire::{Reply, Request, State};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Settings of the native runtime.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The shim program.
    pub shim: PathBuf,
    /// Folder of the runtime folders, on a file system that does not outlive a boot; made with mode 0700.
    pub run_dir: PathBuf,
    /// Parent of the containers' control groups, below each hierarchy's mount: `plenum-<instance>`.
    pub cgroup_parent: String,
    /// Time for a shim to answer a request.
    pub request_deadline: Duration,
    /// Time for [`Runtime::destroy`], after which it reports what is left.
    pub destroy_deadline: Duration,
    /// The files in which users and groups are looked up.
    pub passwd: PathBuf,
    /// See `passwd`.
    pub group: PathBuf,
    /// Budget of output for containers that name none. `None`: they write to their files themselves, without limit.
    pub logs: Option<LogBudget>,
    /// [`Seccomp::ByRoot`] is the default profile for containers with the machine's root, too.
    pub filter_host_root: bool,
    /// Ids for containers that are to have a user namespace; without them none has.
    pub user_namespaces: Option<UserNamespaces>,
    /// Project ids for disk limits; without them limits are measured.
    pub projects: Option<Projects>,
    /// How often a disk limit is measured.
    pub disk_interval: Duration,
}

impl RuntimeConfig {
    /// The defaults of an instance.
    #[must_use]
    pub fn new(instance: &str, shim: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            shim: shim.into(),
            run_dir: run_dir.into(),
            cgroup_parent: format!("plenum-{instance}"),
            request_deadline: Duration::from_secs(5),
            destroy_deadline: Duration::from_secs(15),
            passwd: "/etc/passwd".into(),
            group: "/etc/group".into(),
            logs: None,
            filter_host_root: false,
            user_namespaces: None,
            projects: None,
            disk_interval: Duration::from_secs(15),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct NativeRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    machine: Machine,
    table: Mutex<BTreeMap<String, Slot>>,
    /// Who has which ids.
    ids: Mutex<Taken>,
    /// Turns of those who start.
    starting: Semaphore,
    /// Turns of those who kill.
    ending: Semaphore,
}

/// A container's place in the table.
#[derive(Debug, Clone)]
enum Slot {
    /// Its launch is under way.
    Launching,
    /// It runs or has ended.
    Known(Arc<Handle>),
}

impl NativeRuntime {
    /// Looks at the machine, makes the runtime folder and the parents of control groups. Blocks for a few file
    /// operations. Finds no containers: call [`Runtime::recover`] next.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let dir = config.run_dir.display().to_string();
        if !config.run_dir.is_absolute() {
            let error = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(RuntimeError::Io {
                what: format!("runtime folder {dir}: give an absolute path"),
                error,
            });
        }
        launch::private_dir(&config.run_dir, true).map_err(RuntimeError::io(format!("making {dir}")))?;
        ids::try_out(&config)?;
        let machine = Machine::look(&config);
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                machine,
                table: Mutex::default(),
                ids: Mutex::default(),
                starting: Semaphore::new(launch::at_once()),
                ending: Semaphore::new(destroy::AT_ONCE),
            }),
        })
    }

    /// The states that containers were launched with; for the agent's own endpoints.
    #[must_use]
    pub fn launched(&self, id: &str) -> Option<Launched> {
        self.inner.known(id).ok().and_then(|handle| handle.state.as_ref().map(launched))
    }

    /// Removes the parents of the containers' control groups, once no container is left and nothing will be launched any more. False where one is
    /// still in use. Blocks for up to `patience`.
    pub fn remove_groups(&self, patience: Duration) -> bool {
        self.inner.machine.cgroups.remove(patience)
    }
}

impl Inner {
    fn known(&self, id: &str) -> Result<Arc<Handle>, RuntimeError> {
        match self.table.lock().get(id) {
            Some(Slot::Known(handle)) => Ok(Arc::clone(handle)),
            _ => Err(RuntimeError::NotFound(id.to_owned())),
        }
    }

    /// The state of a container that runs.
    fn running(&self, id: &str) -> Result<(Arc<Handle>, State), RuntimeError> {
        let handle = self.known(id)?;
        if handle.ended().is_some() {
            return Err(RuntimeError::Ended(id.to_owned()));
        }
        let state = handle.state.clone().ok_or_else(|| RuntimeError::NotFound(id.to_owned()))?;
        Ok((handle, state))
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.config.run_dir.join(id)
    }

    async fn ask(&self, id: &str, request: Request) -> Result<(), RuntimeError> {
        let (handle, _) = self.running(id)?;
        match handle.ask(request, self.config.request_deadline).await? {
            Reply::Done => Ok(()),
            Reply::Refused { reason } if reason == "the task has ended" => {
                Err(RuntimeError::Ended(id.to_owned()))
            }
            Reply::Refused { reason } => Err(RuntimeError::Refused(reason)),
            other => Err(RuntimeError::Refused(format!("an answer to another question: {other:?}"))),
        }
    }
}

#[async_trait]
impl Runtime for NativeRuntime {
    async fn launch(&self, mut spec: ContainerSpec) -> Result<Launched, RuntimeError> {
        spec.validate()?;
        // Without privilege the kernel takes a filter only from those who can gain none.
        let may_filter = self.inner.machine.privileged || spec.no_new_privs;
        if spec.seccomp == Seccomp::ByRoot && self.inner.config.filter_host_root && may_filter {
            spec.seccomp = Seccomp::Default;
        }
        let inner = Arc::clone(&self.inner);
        // A task of its own: a caller that gives up does not leave half a container behind.
        let work = tokio::spawn(async move { launch::launch(&inner, spec).await });
        work.await.map_err(|_| RuntimeError::Refused("the launch was abandoned by a shutdown".into()))?
    }

    async fn wait(&self, id: &str) -> Result<Exit, RuntimeError> {
        Ok(self.inner.known(id)?.wait().await)
    }

    async fn signal(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        self.inner.ask(id, Request::Signal { signal }).await
    }

    async fn kill(&self, id: &str, signal: i32, grace: Duration) -> Result<(), RuntimeError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Kill { signal, grace_ms };
        if signal != libc::SIGKILL && !grace.is_zero() {
            return self.inner.ask(id, request).await;
        }
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        destroy::kill(inner, id, request).await
    }

    async fn destroy(&self, id: &str) -> Result<Exit, RuntimeError> {
        check_id(id)?;
        let (inner, id) = (Arc::clone(&self.inner), id.to_owned());
        let work = tokio::spawn(async move { destroy::destroy(&inner, &id).await });
        work.await.map_err(|_| RuntimeError::Refused("the work was abandoned by a shutdown".into()))?
    }

    async fn recover(&self) -> Result<Vec<Recovered>, RuntimeError> {
        recover::recover(&self.inner).await
    }

    async fn usage(&self, id: &str) -> Result<Usage, RuntimeError> {
        let (_, state) = self.inner.running(id)?;
        let read = tokio::task::spawn_blocking(move || crate::cgroup::usage::read(&state));
        read.await.map_err(|_| RuntimeError::Refused("the work was abandoned by a shutdown".into()))
    }

    async fn stats(&self, id: &str) -> Result<Statistics, RuntimeError> {
        let (handle, state) = self.inner.running(id)?;
        let inner = Arc::clone(&self.inner);
        let read = tokio::task::spawn_blocking(move || measured::read(&inner, &handle, &state));
        read.await.map_err(|_| RuntimeError::Refused("the work was abandoned by a shutdown".into()))
    }

    async fn stats_of(&self, ids: &[String]) -> Vec<Option<Statistics>> {
        let running: Vec<_> = ids.iter().map(|id| self.inner.running(id).ok()).collect();
        let inner = Arc::clone(&self.inner);
        // One thread for all: to wake one for each would cost more than some of them.
        let read = tokio::task::spawn_blocking(move || {
            let one = |(handle, state): (Arc<Handle>, State)| measured::read(&inner, &handle, &state);
            running.into_iter().map(|running| running.map(one)).collect()
        });
        read.await.unwrap_or_else(|_| vec![None; ids.len()])
    }

    async fn out_of_memory(&self, id: &str) -> Option<OutOfMemory> {
        let dir = self.inner.dir(id);
        let id = id.to_owned();
        tokio::task::spawn_blocking(move || oom::find(&dir, &id)).await.ok().flatten()
    }

    async fn disk(&self, id: &str) -> Result<Option<DiskUse>, RuntimeError> {
        disk::disk(&self.inner, id).await
    }

    async fn disk_exceeded(&self, id: &str) -> Result<DiskUse, RuntimeError> {
        disk::exceeded(&self.inner, id).await
    }

    async fn open(&self, id: &str, open: Open) -> Result<Session, RuntimeError> {
        session::open(&self.inner, id, open).await
    }

    async fn listen(&self, id: &str) -> Result<tokio::sync::mpsc::Receiver<Output>, RuntimeError> {
        attach::listen(&self.inner, id).await
    }

    async fn terminal(&self, id: &str) -> Result<Option<Input>, RuntimeError> {
        attach::terminal(&self.inner, id).await
    }

    async fn enter(&self, id: &str, enter: Enter) -> Result<Entered, RuntimeError> {
        helper::enter(&self.inner, id, enter).await
    }

    async fn probe(&self, id: &str, probe: Probe, deadline: Duration) -> Result<Probed, RuntimeError> {
        let (_, state) = self.inner.running(id)?;
        probe::probe(&self.inner, &state, &probe, deadline).await
    }

    fn isolation(&self) -> &Isolation {
        &self.inner.machine.isolation
    }
}

/// The public form of a state.
fn launched(state: &State) -> Launched {
    Launched {
        id: state.id.clone(),
        pid: state.task.pid,
        start_time: state.task.start,
        boot_id: state.boot_id.clone(),
        init_pid: state.init.pid,
        shim_pid: state.shim.pid,
        cgroups: group_dirs(state),
        warnings: state.warnings.clone(),
    }
}

fn group_dirs(state: &State) -> Vec<PathBuf> {
    state.groups.iter().map(|dir| PathBuf::from(std::ffi::OsStr::from_bytes(dir))).collect()
}
