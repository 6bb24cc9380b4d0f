//! What goes into the agent's core and what comes out: the whole interface between decisions and the world.

use bytes::Bytes;
use plenum_api::Millis;
use plenum_api::internal::{MasterFrame, agent_message};
use plenum_api::mesos::{CommandInfo, ContainerInfo, LinuxInfo, NetworkInfo, Resource, TaskInfo};
use plenum_api::{executor, mesos};

/// A record to write (`body`) or to delete (`None`). The key is a path below `<work_dir>/meta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordWrite {
    /// Where.
    pub key: String,
    /// What; `None` deletes.
    pub body: Option<Vec<u8>>,
}

/// Names a task on this agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// Framework id.
    pub framework: String,
    /// Task id.
    pub task: String,
}

/// Names a custom executor on this agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutorKey {
    /// Framework id.
    pub framework: String,
    /// Executor id.
    pub executor: String,
}

/// How the first process of a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Nobody knows.
    Unknown,
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// How.
    pub status: ExitStatus,
    /// The kernel killed something in it for want of memory.
    pub oom: bool,
    /// Something outside of it ended it: whoever ran it is gone.
    pub abnormal: bool,
    /// More for people, may be empty.
    pub message: String,
}

/// What is known once a container's own process has been started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Started {
    /// Process id on the host.
    pub pid: Option<u32>,
    /// Addresses; empty means the host's own.
    pub networks: Vec<NetworkInfo>,
    /// The image it runs, by digest; empty: none.
    pub image: String,
}

/// Why a launch did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchStage {
    /// A URI could not be fetched.
    Fetch,
    /// The image cannot be had.
    Image,
    /// A volume cannot be mounted.
    Volume,
    /// The network cannot be joined.
    Network,
    /// Sandbox, isolation, or the program itself.
    Start,
}

/// A container the runtime knows at start.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its id.
    pub container: String,
    /// What it does.
    pub state: FoundState,
}

/// What a found container does.
#[derive(Debug, Clone, PartialEq)]
pub enum FoundState {
    /// It runs and is watched again.
    Running(Started),
    /// It ended while nobody looked.
    Exited(Exit),
    /// Its launch had begun, but no process of the task was ever started.
    Unstarted,
}

/// What a restart starts from.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// Every record that could be read: key and body.
    pub records: Vec<(String, Vec<u8>)>,
    /// Every container the runtime knows.
    pub containers: Vec<Found>,
}

/// Which of a task's two checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckKind {
    /// `TaskInfo.health_check`: failures kill.
    Health,
    /// `TaskInfo.check`: results are reported.
    Generic,
}

/// What a check does, inside the task's namespaces.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// Runs a command; its exit code counts.
    Command(Box<CommandInfo>),
    /// GETs a path.
    Http {
        /// `http` or `https` (certificates are not verified, as in Mesos).
        scheme: String,
        /// Port on the task's loopback address.
        port: u16,
        /// Path with its slash.
        path: String,
        /// Over IPv6.
        ipv6: bool,
    },
    /// Opens a connection.
    Tcp {
        /// Port on the task's loopback address.
        port: u16,
        /// Over IPv6.
        ipv6: bool,
    },
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Exit code of the command.
    Exit(i32),
    /// HTTP status.
    Status(u16),
    /// Whether the connection was accepted.
    Connected(bool),
    /// No answer in time.
    TimedOut,
    /// It could not be made.
    Error(String),
}

/// A probe to carry out; answered by [`Event::CheckDone`] with the same task, kind and generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// The task.
    pub task: TaskKey,
    /// Which check.
    pub kind: CheckKind,
    /// Which run of it.
    pub generation: u64,
    /// Where.
    pub container: String,
    /// What.
    pub probe: Probe,
    /// Give up after (milliseconds).
    pub timeout: Millis,
}

/// The pod that a container is part of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pod {
    /// Its container's id: what the tasks share is kept under it until [`Effect::Release`] of it.
    pub container: String,
    /// Its sandbox.
    pub directory: String,
    /// Persistent volumes of its own and of its tasks: they can be seen in its sandbox.
    pub volumes: Vec<Resource>,
    /// What it has for those of its tasks that share it.
    pub linux: Option<LinuxInfo>,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Its id, chosen here.
    pub container: String,
    /// Framework id.
    pub framework: String,
    /// Executor id (the task id for a command task).
    pub executor: String,
    /// The task, unless the container is a custom executor.
    pub task: Option<Box<TaskInfo>>,
    /// What to run, with its URIs.
    pub command: CommandInfo,
    /// Image, volumes, networks, isolation.
    pub container_info: Option<ContainerInfo>,
    /// To enforce.
    pub resources: Vec<Resource>,
    /// Limits above the resources: name to value (may be infinite).
    pub limits: Vec<(String, f64)>,
    /// Who runs it; empty means the agent's own user.
    pub user: String,
    /// The command names the user; otherwise it is the framework's, and an image may name another.
    pub user_named: bool,
    /// What it is part of.
    pub pod: Option<Pod>,
    /// The sandbox on the host.
    pub directory: String,
    /// Environment of the agent's making; the command's own wins over it.
    pub env: Vec<(String, String)>,
    /// Numbers of the GPUs it has.
    pub gpus: Vec<u32>,
}

/// A call of an executor that was authenticated as `container`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorCall {
    /// Where the answer goes.
    pub request: u64,
    /// The token that came with it (not yet compared); `None` if there was none.
    pub token: Option<String>,
    /// What it says.
    pub call: executor::Call,
}

/// Answer to an executor's HTTP call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutorReply {
    /// 200 and a stream of events, which is named by the container.
    Stream {
        /// Container of the executor.
        container: String,
    },
    /// 202.
    Accepted,
    /// A refusal: HTTP status and text.
    Refused {
        /// 400, 401, 403 or 503.
        status: u16,
        /// What is wrong.
        message: String,
    },
}

/// What can happen to an agent.
#[derive(Debug, Clone)]
pub enum Event {
    /// Always first, once.
    Recovered(Recovery),
    /// A connection to a master stands (TLS done, nothing said yet).
    Connected {
        /// Number of the connection.
        conn: u64,
    },
    /// It is gone.
    Disconnected {
        /// Number of the connection.
        conn: u64,
    },
    /// A frame of the master.
    Master {
        /// The connection it came on.
        conn: u64,
        /// What it says.
        frame: MasterFrame,
    },
    /// A checkpoint was written, or not.
    Checkpointed {
        /// Of the effect.
        token: u64,
        /// The error in words.
        result: Result<(), String>,
    },
    /// A container's own process has been started.
    Launched {
        /// Which.
        container: String,
        /// What is known about it.
        started: Started,
    },
    /// A container could not be started; nothing of it is left.
    LaunchFailed {
        /// Which.
        container: String,
        /// How far it came.
        stage: LaunchStage,
        /// Why.
        message: String,
    },
    /// A container has ended.
    Exited {
        /// Which.
        container: String,
        /// How.
        exit: Exit,
    },
    /// A container takes more of the disk than it may.
    DiskExceeded {
        /// Which.
        container: String,
    },
    /// A probe is through.
    CheckDone {
        /// The task.
        task: TaskKey,
        /// Which check.
        kind: CheckKind,
        /// Which run.
        generation: u64,
        /// What it saw.
        outcome: ProbeOutcome,
    },
    /// An executor called.
    ExecutorCall(Box<ExecutorCall>),
    /// An executor's event stream broke. `stream` is the request number it was opened with.
    ExecutorGone {
        /// Container of the executor.
        container: String,
        /// Request that opened the stream.
        stream: u64,
    },
    /// The sandbox of an ended container was collected.
    Collected {
        /// Which.
        container: String,
    },
    /// Folders of volumes are as they were wanted, or are not.
    VolumesDone {
        /// Of the effect.
        token: u64,
        /// The error in words.
        result: Result<(), String>,
    },
    /// Time has passed.
    Tick,
}

/// How loud a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Worth a line.
    Info,
    /// Somebody should look.
    Warn,
}

/// What the shell shall do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Where the slices of the overlay are, and which is this node's.
    Overlay(Box<plenum_api::internal::Overlay>),
    /// Say this to the connected master; lost if there is none.
    Send(Box<agent_message::Kind>),
    /// Close the connection and dial again.
    Disconnect {
        /// Why, for the log.
        reason: String,
    },
    /// Write these records and answer with [`Event::Checkpointed`].
    Checkpoint {
        /// Comes back.
        token: u64,
        /// What to write.
        writes: Vec<RecordWrite>,
    },
    /// Make the folders of persistent volumes, and take those of others away with what is in them; answered with [`Event::VolumesDone`].
    Volumes {
        /// Comes back.
        token: u64,
        /// Made if they are missing.
        make: Vec<Resource>,
        /// Gone if they are there.
        remove: Vec<Resource>,
    },
    /// Put a record that makes no sense out of the way.
    SetAside {
        /// Which.
        key: String,
    },
    /// Start a container; answered by `Launched` (then later `Exited`) or `LaunchFailed`.
    Launch(Box<Launch>),
    /// Ask a container to end (SIGTERM); what is left after the grace period is killed.
    Kill {
        /// Which.
        container: String,
        /// Milliseconds.
        grace: Millis,
    },
    /// End a container with everything in it, also one that is still being launched. It answers as it would have: `Exited` or `LaunchFailed`.
    Destroy {
        /// Which.
        container: String,
    },
    /// The end of this container is written down: the runtime may forget it.
    Release {
        /// Which.
        container: String,
    },
    /// Carry out a probe.
    Check(Box<Check>),
    /// Answer an executor's call.
    ExecutorReply {
        /// Of the call.
        request: u64,
        /// What to say.
        reply: ExecutorReply,
    },
    /// An event for an executor's stream.
    ExecutorSend {
        /// Container of the executor.
        container: String,
        /// What to say.
        event: Box<executor::Event>,
    },
    /// Close an executor's stream.
    ExecutorClose {
        /// Container of the executor.
        container: String,
    },
    /// Nobody needs this sandbox any more: collect it later, then say [`Event::Collected`].
    Retire {
        /// Container it belonged to.
        container: String,
        /// Its folder.
        directory: String,
        /// Since when (milliseconds of wall time).
        since: Millis,
    },
    /// A line for the log.
    Report {
        /// How loud.
        level: Level,
        /// What.
        text: String,
    },
    /// The agent was told to leave: end the process with success.
    Stop {
        /// Why.
        reason: String,
    },
}

/// The last word about a task that has ended and been acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub struct Tombstone {
    /// What it was.
    pub task: mesos::Task,
    /// Its container.
    pub container: String,
    /// Its sandbox.
    pub directory: String,
    /// Launch that started it.
    pub launch_id: Bytes,
    /// When it ended (wall time).
    pub finished: Millis,
}
