//! The trait that the agent knows, and its types. Implementations are in modules of their own.

use crate::isolation::Isolation;
use crate::oom::OutOfMemory;
use crate::session::{Input, Open, Output, Session};
use crate::spec::{Command, ContainerSpec, SpecError};
use crate::user::UserError;
use async_trait::async_trait;
use plenum_shim::wire;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub use crate::cgroup::stats::{DeviceIo, Stall, Statistics};
pub use crate::cgroup::usage::Usage;

/// Starts, watches and ends containers. Every call returns by a deadline.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Starts a container; returns when the task's own program is running. Dropping the future does not stop it.
    async fn launch(&self, spec: ContainerSpec) -> Result<Launched, RuntimeError>;

    /// Waits for the end; may be asked any number of times until `destroy`. Has no deadline of its own.
    async fn wait(&self, id: &str) -> Result<Exit, RuntimeError>;

    /// Sends a signal to the task's own process.
    async fn signal(&self, id: &str, signal: i32) -> Result<(), RuntimeError>;

    /// Sends a signal to the task's process group; kills everything if it has not ended after `grace`. Returns at
    /// once: the end comes from [`Runtime::wait`]. A later call may shorten the grace period.
    async fn kill(&self, id: &str, signal: i32, grace: Duration) -> Result<(), RuntimeError>;

    /// Kills whatever is left, removes control groups and the runtime folder, forgets the container. The sandbox stays.
    async fn destroy(&self, id: &str) -> Result<Exit, RuntimeError>;

    /// After a restart of the agent: finds every container of the runtime folder, adopts what runs.
    async fn recover(&self) -> Result<Vec<Recovered>, RuntimeError>;

    /// Measures a running container.
    async fn usage(&self, id: &str) -> Result<Usage, RuntimeError>;

    /// Measures a running container in full; only what [`Runtime::usage`] knows where there is no more.
    async fn stats(&self, id: &str) -> Result<Statistics, RuntimeError> {
        self.usage(id).await.map(Statistics::from)
    }

    /// Measures many; `None` for each that does not run, or cannot be measured.
    async fn stats_of(&self, ids: &[String]) -> Vec<Option<Statistics>> {
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            all.push(self.stats(id).await.ok());
        }
        all
    }

    /// What is known of a container that ended for want of memory, until it is destroyed.
    async fn out_of_memory(&self, _id: &str) -> Option<OutOfMemory> {
        None
    }

    /// What a container takes of the disk, if it has a limit. May take long where no quota counts.
    async fn disk(&self, _id: &str) -> Result<Option<DiskUse>, RuntimeError> {
        Ok(None)
    }

    /// Waits until a container is found to take more of the disk than its limit; [`RuntimeError::Ended`] if it ends before,
    /// as it always does without a limit or with one that the kernel holds. The caller decides what becomes of it.
    async fn disk_exceeded(&self, id: &str) -> Result<DiskUse, RuntimeError> {
        self.wait(id).await?;
        Err(RuntimeError::Ended(id.to_owned()))
    }

    /// Runs a command inside a running container, as the task's user, with its limits.
    async fn enter(&self, id: &str, enter: Enter) -> Result<Entered, RuntimeError>;

    /// Starts a command inside a running container that is talked to while it runs. It is killed when the session is
    /// dropped, and ends with the agent.
    async fn open(&self, id: &str, _open: Open) -> Result<Session, RuntimeError> {
        Err(RuntimeError::Refused(format!("the runtime of container {id} has no sessions")))
    }

    /// What a task's own program writes from now on; ends with it.
    async fn listen(&self, id: &str) -> Result<tokio::sync::mpsc::Receiver<Output>, RuntimeError> {
        Err(RuntimeError::Refused(format!("nobody can listen to container {id} in its runtime")))
    }

    /// The way into the terminal of a task's own program; `None` where it has none.
    async fn terminal(&self, id: &str) -> Result<Option<Input>, RuntimeError> {
        Err(RuntimeError::Refused(format!("the runtime of container {id} has no terminals")))
    }

    /// Connects to something inside the container's network.
    async fn probe(&self, id: &str, probe: Probe, deadline: Duration) -> Result<Probed, RuntimeError>;

    /// What separates and limits containers on this machine, and what does not and why.
    fn isolation(&self) -> &Isolation;
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// Container id.
    pub id: String,
    /// The task's own process, as the host numbers it.
    pub pid: i32,
    /// Its start time in clock ticks since boot: with `boot_id`, what tells it from a later process of this number.
    pub start_time: u64,
    /// The boot it runs in.
    pub boot_id: String,
    /// PID 1 of the container.
    pub init_pid: i32,
    /// Its supervisor.
    pub shim_pid: i32,
    /// Folders of its control groups.
    pub cgroups: Vec<std::path::PathBuf>,
    /// What was asked for and is not in force.
    pub warnings: Vec<String>,
}

/// What a container takes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes.
    pub used_bytes: u64,
    /// Its limit.
    pub limit_bytes: u64,
    /// The kernel refuses more (EDQUOT); otherwise somebody has to measure.
    pub by_quota: bool,
}

/// How the task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody saw it.
    Unknown,
}

/// Why the container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// The task ended by itself, well or badly.
    Ended,
    /// A kill was asked for.
    Killed {
        /// The grace period ran out.
        escalated: bool,
    },
    /// It used more memory than its limit.
    OutOfMemory,
    /// PID 1 of the container was killed from outside.
    InitDied,
    /// The supervisor was killed, or the machine restarted; the container was killed with it.
    Lost,
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Code or signal of the task.
    pub status: ExitStatus,
    /// Why.
    pub reason: ExitReason,
    /// The end is due to the memory limit (short for the reason).
    pub oom: bool,
    /// Processes that were killed for want of memory; the task may have survived some of them.
    pub oom_kills: u64,
    /// Wall clock of the end in milliseconds since 1970, if it was seen.
    pub finished_ms: Option<u64>,
    /// Processor time of the whole container, nanoseconds.
    pub cpu_ns: u64,
    /// Largest amount of memory, bytes; 0 if not counted.
    pub memory_peak: u64,
    /// Processes that could not be started because the container had as many as it may have.
    pub forks_refused: u64,
}

impl Exit {
    /// The end that nobody saw.
    #[must_use]
    pub fn lost() -> Self {
        let (status, reason) = (ExitStatus::Unknown, ExitReason::Lost);
        Self {
            status,
            reason,
            oom: false,
            oom_kills: 0,
            finished_ms: None,
            cpu_ns: 0,
            memory_peak: 0,
            forks_refused: 0,
        }
    }

    /// From the shim's record.
    #[must_use]
    pub fn from_wire(exit: &wire::Exit) -> Self {
        let status = match (exit.code, exit.signal) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, Some(signal)) => ExitStatus::Signal(signal),
            (None, None) => ExitStatus::Unknown,
        };
        // A task that survives the loss of a process and ends well was not ended by its limit.
        let oom = exit.oom_kills > 0 && status != ExitStatus::Code(0) && !exit.kill_requested;
        let reason = match () {
            () if oom => ExitReason::OutOfMemory,
            () if exit.kill_requested => ExitReason::Killed { escalated: exit.escalated },
            () if exit.init_died => ExitReason::InitDied,
            () => ExitReason::Ended,
        };
        Self {
            status,
            reason,
            oom,
            oom_kills: exit.oom_kills,
            finished_ms: Some(exit.finished_ms),
            cpu_ns: exit.cpu_ns,
            memory_peak: exit.memory_peak,
            forks_refused: exit.forks_refused.0,
        }
    }
}

/// A container found by [`Runtime::recover`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Container id.
    pub id: String,
    /// What it is doing.
    pub state: RecoveredState,
    /// What was known of it when it started, unless it never did.
    pub launched: Option<Launched>,
}

/// See [`Recovered`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveredState {
    /// It runs and is watched again.
    Running,
    /// It ended while nobody was watching.
    Finished(Exit),
    /// It is gone without a record; what was left of it has been killed.
    Lost,
}

/// A command for [`Runtime::enter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enter {
    /// The command.
    pub command: Command,
    /// Added to the task's environment.
    pub env: BTreeMap<String, String>,
    /// After this it is killed.
    pub deadline: Duration,
}

/// The outcome of [`Runtime::enter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// How it ended.
    pub status: ExitStatus,
    /// The deadline passed.
    pub timed_out: bool,
    /// The first 64 KiB of standard output and standard error together, in the order read.
    pub output: Vec<u8>,
}

/// A connection for [`Runtime::probe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Connect and close.
    Tcp {
        /// Where.
        to: SocketAddr,
    },
    /// `GET` over HTTP/1.1.
    Http {
        /// Where.
        to: SocketAddr,
        /// Path and query.
        path: String,
        /// `Host` header; the address if `None`.
        host: Option<String>,
        /// Over TLS. Certificates are not verified: a probe asks whether something answers.
        tls: bool,
    },
}

/// The outcome of [`Runtime::probe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// It could be connected to.
    Connected,
    /// It answered with this HTTP status.
    Status(u16),
    /// It did not, in words; includes a deadline that passed.
    Failed(String),
}

/// What can go wrong with a container.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The description makes no sense.
    #[error("the container description is refused: {0}")]
    Spec(#[from] SpecError),
    /// The user does not exist.
    #[error(transparent)]
    User(#[from] UserError),
    /// The id is taken.
    #[error("container {0} exists already; destroy it first or use another id")]
    Exists(String),
    /// Nothing is known of it.
    #[error("there is no container {0}")]
    NotFound(String),
    /// It has ended.
    #[error("container {0} has ended")]
    Ended(String),
    /// A step failed.
    #[error("{}", step_text(step, *errno, subject))]
    Step {
        /// The step, by its stable name.
        step: String,
        /// The kernel's error number, or 0.
        errno: i32,
        /// Path or value concerned.
        subject: String,
    },
    /// The shim would not.
    #[error("the shim refused: {0}")]
    Refused(String),
    /// Ids for a user namespace, or why there are none.
    #[error("{0}")]
    Ids(String),
    /// The engine that keeps the container would not, or cannot be asked.
    #[error("{0}")]
    Engine(String),
    /// The shim program cannot be started.
    #[error("{path} cannot be started: {error}; check the path and that it may be executed")]
    Shim {
        /// Its path.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A deadline passed.
    #[error("{0} did not finish in time")]
    Deadline(String),
    /// Something could not be killed or removed.
    #[error("container {id} is not gone: {left}; asking again is safe")]
    Undead {
        /// Container id.
        id: String,
        /// What is left.
        left: String,
    },
    /// A file of the runtime folder.
    #[error("{what}: {error}")]
    Io {
        /// What was done with what.
        what: String,
        /// Why it failed.
        error: std::io::Error,
    },
}

fn step_text(step: &str, errno: i32, subject: &str) -> String {
    let mut text = step.to_owned();
    if !subject.is_empty() {
        text = format!("{text} ({subject})");
    }
    if errno != 0 {
        text = format!("{text}: {}", std::io::Error::from_raw_os_error(errno));
    }
    text
}

impl RuntimeError {
    /// A stable code for logs and users.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            RuntimeError::Spec(_) => "container.spec",
            RuntimeError::User(_) => "container.user",
            RuntimeError::Exists(_) => "container.exists",
            RuntimeError::NotFound(_) => "container.not_found",
            RuntimeError::Ended(_) => "container.ended",
            RuntimeError::Step { .. } => "container.step",
            RuntimeError::Refused(_) => "container.refused",
            RuntimeError::Ids(_) => "container.ids",
            RuntimeError::Engine(_) => "container.engine",
            RuntimeError::Shim { .. } => "container.shim",
            RuntimeError::Deadline(_) => "container.deadline",
            RuntimeError::Undead { .. } => "container.undead",
            RuntimeError::Io { .. } => "container.io",
        }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| RuntimeError::Io { what, error }
    }

    /// A failed step of the shim. Arguments and environment may hold secrets: only a variable's name is shown.
    pub(crate) fn step(failed: wire::Failed) -> Self {
        let mut subject = String::from_utf8_lossy(&failed.subject).into_owned();
        if failed.step == "check environment" {
            subject.truncate(subject.find('=').unwrap_or(0));
        } else if failed.step == "check arguments" {
            subject.clear();
        } else if subject.len() > 512 {
            subject = subject.chars().take(512).chain("...".chars()).collect();
        }
        RuntimeError::Step { step: failed.step, errno: failed.errno, subject }
    }
}
