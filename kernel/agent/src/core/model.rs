//! The core's memory: frameworks, tasks, executors, update streams.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use plenum_api::Millis;
use plenum_api::mesos::{ExecutorInfo, FrameworkInfo, NetworkInfo, TaskInfo, TaskState, TaskStatus};

use super::checks::Checker;
use super::event::{CheckKind, ExecutorKey, TaskKey};

/// A framework with something on this agent.
#[derive(Debug, Clone)]
pub(crate) struct Framework {
    pub info: FrameworkInfo,
    /// It was torn down: everything is being killed, nothing new is taken.
    pub terminating: bool,
    /// Its record is on the disk.
    pub durable: bool,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The intent is being written down.
    Intent,
    /// Its container is being started.
    Launching,
    /// It waits for its executor to subscribe.
    Queued,
    /// Its process runs, or its executor has it.
    Running,
    /// A terminal status exists.
    Ended,
}

/// Who wanted a task to end. The numbers are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillCause {
    Framework = 1,
    Health = 2,
    Completion = 3,
    Teardown = 4,
    Drain = 5,
    DrainGone = 6,
    Shutdown = 7,
    /// Another task of its group failed or was killed.
    Group = 8,
    /// It took more of the disk than it may.
    Disk = 9,
}

impl KillCause {
    pub fn from_number(number: u32) -> Option<Self> {
        [
            Self::Framework,
            Self::Health,
            Self::Completion,
            Self::Teardown,
            Self::Drain,
            Self::DrainGone,
            Self::Shutdown,
            Self::Group,
            Self::Disk,
        ]
        .into_iter()
        .find(|cause| *cause as u32 == number)
    }
}

/// A kill under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    pub cause: KillCause,
    /// When it began; `None` until the container is there to be killed.
    pub began: Option<Millis>,
    /// When everything left is killed.
    pub deadline: Millis,
}

/// An update that was not acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub status: TaskStatus,
    /// It may be sent once the record of this revision is on the disk.
    pub revision: u64,
}

/// The updates of one task, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    pub pending: VecDeque<Pending>,
    /// When the first of them is sent again; `None`: it was not sent yet.
    pub retry_at: Option<Millis>,
    pub backoff: Millis,
    /// How often the first was sent.
    pub attempts: u32,
}

/// A task.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub framework: String,
    pub info: TaskInfo,
    /// Id of its custom executor or pod; `None` for a command task.
    pub executor: Option<String>,
    /// Its executor is a pod: the container is its own.
    pub pod: bool,
    /// It came with others in a group, which all have its `launch_id`.
    pub group: bool,
    pub container: String,
    pub directory: String,
    pub launch_id: Bytes,
    pub phase: Phase,
    pub latest: Option<TaskStatus>,
    pub stream: Stream,
    pub kill: Option<Kill>,
    pub pid: Option<u32>,
    pub networks: Vec<NetworkInfo>,
    /// The image it runs, by digest; empty: none.
    pub image: String,
    /// Numbers of the GPUs it has.
    pub gpus: Vec<u32>,
    pub checks: BTreeMap<CheckKind, Checker>,
    pub started_at: Millis,
    pub finished_at: Millis,
    /// When `max_completion_time` is over (mono).
    pub completes_by: Option<Millis>,
    /// Lives in memory only: the answer to a launch that was refused.
    pub volatile: bool,
    /// Counts changes of the record; the newest that is on the disk.
    pub revision: u64,
    pub durable_revision: u64,
    /// A write failed and is tried again at this time.
    pub rewrite_at: Option<Millis>,
    /// Update ids of the executor, newest last.
    pub known_uuids: VecDeque<Bytes>,
    /// Update ids of the executor that it was not yet told are safe.
    pub unconfirmed: Vec<Bytes>,
    /// The runtime was told to forget the container.
    pub released: bool,
}

impl Task {
    pub fn new(framework: &str, info: TaskInfo, launch_id: Bytes) -> Self {
        Self {
            framework: framework.to_owned(),
            info,
            executor: None,
            pod: false,
            group: false,
            container: String::new(),
            directory: String::new(),
            launch_id,
            phase: Phase::Intent,
            latest: None,
            stream: Stream::default(),
            kill: None,
            pid: None,
            networks: Vec::new(),
            image: String::new(),
            gpus: Vec::new(),
            checks: BTreeMap::new(),
            started_at: Millis(0),
            finished_at: Millis(0),
            completes_by: None,
            volatile: false,
            revision: 0,
            durable_revision: 0,
            rewrite_at: None,
            known_uuids: VecDeque::new(),
            unconfirmed: Vec::new(),
            released: false,
        }
    }

    /// Newest state, acknowledged or not.
    pub fn state(&self) -> TaskState {
        self.latest.as_ref().map_or(TaskState::TaskStaging, |status| status.state())
    }

    /// Its executor's id as frameworks see it: a command task's is its own id.
    pub fn executor_id(&self) -> &str {
        self.executor.as_deref().unwrap_or(&self.info.task_id.value)
    }
}

/// Where a custom executor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecutorPhase {
    /// The intent is being written down.
    Intent,
    /// Its container is being started, or it was started and has not subscribed.
    Registering,
    /// It has a stream.
    Subscribed,
    /// It shall end.
    Terminating,
}

/// A custom executor.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    pub info: ExecutorInfo,
    pub container: String,
    pub directory: String,
    pub token: String,
    pub phase: ExecutorPhase,
    /// Its process runs.
    pub launched: bool,
    pub pid: Option<u32>,
    pub networks: Vec<NetworkInfo>,
    /// Request number of its stream.
    pub stream: Option<u64>,
    /// When waiting ends: to subscribe, or to shut down.
    pub deadline: Option<Millis>,
    /// Why its tasks end with it, if that is known already.
    pub verdict: Option<Verdict>,
    /// Next heartbeat on its stream.
    pub heartbeat_at: Option<Millis>,
    /// It was found by a restarted agent.
    pub recovered: bool,
    /// Numbers of the GPUs it has.
    pub gpus: Vec<u32>,
}

/// What is said about tasks whose executor ends.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub reason: plenum_api::mesos::task_status::Reason,
    pub message: String,
}

/// A mark in time at which something has to be looked at. What is due is decided from the thing itself, so a mark that has become
/// pointless does no harm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    Task(TaskKey),
    Executor(ExecutorKey),
    Master,
    Flush,
    Drain,
    Operations,
}
