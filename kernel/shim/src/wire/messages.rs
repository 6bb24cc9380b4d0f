//! The messages themselves. Paths and arguments are byte strings, as the kernel has them.

use super::{Appended, Confined, Contain, Flat, Malformed, Message, Reader, Session};
use crate::flat_struct;

/// Namespace bits of [`Launch::namespaces`].
pub mod ns {
    /// Own process ids; init is PID 1.
    pub const PID: u32 = 1;
    /// Own mounts.
    pub const MOUNT: u32 = 2;
    /// Own System V IPC and POSIX queues.
    pub const IPC: u32 = 4;
    /// Own host name.
    pub const UTS: u32 = 8;
    /// Own network with only a loopback device.
    pub const NET: u32 = 16;
    /// Own view of control groups.
    pub const CGROUP: u32 = 32;
    /// With [`PID`]: the ids are those of another container, whose PID 1 is another's.
    pub const PID_SHARED: u32 = 64;
    /// Own users. Never in [`Launch::namespaces`]: [`super::More::ids`] says which; in [`State::namespaces`] for those who enter.
    pub const USER: u32 = 128;
}

flat_struct! {
    /// A resource limit as `setrlimit(2)` takes it; `u64::MAX` is unlimited.
    pub struct Rlimit {
        /// The kernel's number of the resource (`RLIMIT_*`).
        pub resource: u32,
        /// The limit in force.
        pub soft: u64,
        /// How far the task may raise it.
        pub hard: u64,
    }
}

flat_struct! {
    /// What one process is to become: everything between `fork` and `execve`.
    pub struct Process {
        /// The program and its arguments; a program without a slash is looked for in the environment's `PATH`.
        pub argv: Vec<Vec<u8>>,
        /// `NAME=value` strings.
        pub env: Vec<Vec<u8>>,
        /// The working directory.
        pub cwd: Vec<u8>,
        /// User id.
        pub uid: u32,
        /// Primary group id.
        pub gid: u32,
        /// Supplementary groups; none are kept from the agent.
        pub groups: Vec<u32>,
        /// Whether user, groups and capabilities are changed at all (they cannot be without privilege).
        pub change_user: bool,
        /// Resource limits.
        pub rlimits: Vec<Rlimit>,
        /// Capability bounding set, a bit per capability number.
        pub bounding: u64,
        /// Capabilities that a user other than root keeps across `execve`.
        pub ambient: u64,
        /// Set `no_new_privs`.
        pub no_new_privs: bool,
        /// File mode creation mask.
        pub umask: u32,
        /// `oom_score_adj`, if it is to be set.
        pub oom_score_adj: Option<i32>,
    }
}

flat_struct! {
    /// A value for a control file.
    pub struct Write {
        /// File name in the group's folder.
        pub file: String,
        /// What is written.
        pub value: String,
    }
}

flat_struct! {
    /// A control group of the container in one hierarchy.
    pub struct Group {
        /// Its folder; made by the shim, removed at the end.
        pub dir: Vec<u8>,
        /// Settings written before anything runs in it.
        pub writes: Vec<Write>,
        /// The v2 tree: entered at birth (`CLONE_INTO_CGROUP`).
        pub unified: bool,
        /// Has `cgroup.kill`.
        pub kill: bool,
        /// The v1 freezer.
        pub freezer: bool,
        /// A file of this group that has an `oom_kill` counter.
        pub oom_file: Option<String>,
    }
}

flat_struct! {
    /// Everything needed to start a container.
    pub struct Launch {
        /// Container id.
        pub id: String,
        /// The container's runtime folder.
        pub run_dir: Vec<u8>,
        /// The task.
        pub process: Process,
        /// File that standard output is appended to; empty for `/dev/null`.
        pub stdout: Vec<u8>,
        /// File that standard error is appended to; empty for `/dev/null`.
        pub stderr: Vec<u8>,
        /// Bits of [`ns`].
        pub namespaces: u32,
        /// Host name inside, with [`ns::UTS`].
        pub hostname: Option<String>,
        /// File to show as `/etc/resolv.conf`, with [`ns::MOUNT`].
        pub resolv_conf: Option<Vec<u8>>,
        /// The container's control groups.
        pub groups: Vec<Group>,
        /// Groups that the supervisor itself moves to; they exist.
        pub own_groups: Vec<Group>,
        /// Milliseconds until a launch that has not succeeded is given up.
        pub deadline_ms: u64,
    }
}

flat_struct! {
    /// A process, named so that a recycled number is not taken for it.
    pub struct Pid {
        /// Process id as the host sees it.
        pub pid: i32,
        /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
        pub start: u64,
    }
}

flat_struct! {
    /// A running container: the content of `state` and of the replies `Launched` and `Status`.
    pub struct State {
        /// Container id.
        pub id: String,
        /// `/proc/sys/kernel/random/boot_id`.
        pub boot_id: String,
        /// The supervisor.
        pub shim: Pid,
        /// PID 1 of the container.
        pub init: Pid,
        /// The task's own process.
        pub task: Pid,
        /// Bits of [`ns`] that are in force.
        pub namespaces: u32,
        /// Folders of the container's control groups.
        pub groups: Vec<Vec<u8>>,
        /// What could not be done, in words.
        pub warnings: Vec<String>,
    }
}

flat_struct! {
    /// How a container ended: the content of `exit` and of the reply `Exited`.
    pub struct Exit {
        /// Exit code, if the task ended by itself.
        pub code: Option<i32>,
        /// The signal that ended it otherwise.
        pub signal: Option<i32>,
        /// Processes of the container that the kernel killed for want of memory.
        pub oom_kills: u64,
        /// A kill was asked for before the end.
        pub kill_requested: bool,
        /// The grace period ran out and everything was killed.
        pub escalated: bool,
        /// The deadline passed (commands run by `exec` only).
        pub timed_out: bool,
        /// The status is that of PID 1, which died before it could report the task's.
        pub init_died: bool,
        /// Wall clock at the end, milliseconds since 1970.
        pub finished_ms: u64,
        /// Processor time of the whole container, nanoseconds.
        pub cpu_ns: u64,
        /// Largest amount of memory of the container in bytes, where the kernel counts it.
        pub memory_peak: u64,
        /// Processes that could not be started because the container had as many as it may have.
        pub forks_refused: Appended,
    }
}

flat_struct! {
    /// A step that failed.
    pub struct Failed {
        /// The step's name.
        pub step: String,
        /// The kernel's error number; 0 where there is none.
        pub errno: i32,
        /// Path or value concerned; empty if none.
        pub subject: Vec<u8>,
    }
}

flat_struct! {
    /// A command to run inside a container.
    pub struct Exec {
        /// PID 1 of the container.
        pub init: Pid,
        /// Bits of [`ns`] to join.
        pub namespaces: u32,
        /// Folders of the control groups to join.
        pub groups: Vec<Vec<u8>>,
        /// The command.
        pub process: Process,
        /// Milliseconds until it is killed.
        pub deadline_ms: u64,
    }
}

flat_struct! {
    /// A stream socket to make inside a container's network namespace.
    pub struct Socket {
        /// PID 1 of the container.
        pub init: Pid,
        /// IPv6 instead of IPv4.
        pub v6: bool,
    }
}

/// What an agent asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Opens a connection: the versions the agent speaks.
    Hello {
        /// Oldest.
        min: u16,
        /// Newest.
        max: u16,
    },
    /// Start the container (descriptor 0 of `launch` only).
    Launch(Box<Launch>),
    /// Send a signal to the task's process.
    Signal {
        /// Signal number.
        signal: i32,
    },
    /// Send a signal to the task's process group and kill everything when the grace period is over.
    Kill {
        /// Signal number; SIGKILL kills everything at once.
        signal: i32,
        /// Grace period in milliseconds.
        grace_ms: u64,
    },
    /// Asks for the [`State`].
    Status,
    /// Asks to be told of the end.
    Subscribe,
    /// Run a command (descriptor 0 of `exec` only).
    Exec(Box<Exec>),
    /// Make a socket (descriptor 0 of `socket` only).
    Socket(Socket),
    /// Start the container (descriptor 0 of `launch` only), with what version 2 adds.
    Contain(Box<Contain>),
    /// Run a command (descriptor 0 of `exec` only) under a filter.
    Confined(Box<Confined>),
    /// Run a command (descriptor 0 of `exec` only) and hand over its ends.
    Session(Box<Session>),
    /// Asks for the task's terminal: the answer is [`Reply::Opened`] with a descriptor, to write to and to size. What the task writes
    /// there is the supervisor's to read.
    Terminal,
}

impl Message for Request {
    fn kind(&self) -> u8 {
        match self {
            Request::Hello { .. } => 1,
            Request::Launch(_) => 2,
            Request::Signal { .. } => 3,
            Request::Kill { .. } => 4,
            Request::Status => 5,
            Request::Subscribe => 6,
            Request::Exec(_) => 7,
            Request::Socket(_) => 8,
            Request::Contain(_) => 9,
            Request::Confined(_) => 10,
            Request::Session(_) => 11,
            Request::Terminal => 12,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            Request::Hello { min, max } => {
                min.put(out);
                max.put(out);
            }
            Request::Launch(launch) => launch.put(out),
            Request::Signal { signal } => signal.put(out),
            Request::Kill { signal, grace_ms } => {
                signal.put(out);
                grace_ms.put(out);
            }
            Request::Status | Request::Subscribe | Request::Terminal => {}
            Request::Exec(exec) => exec.put(out),
            Request::Socket(socket) => socket.put(out),
            Request::Contain(contain) => contain.put(out),
            Request::Confined(confined) => confined.put(out),
            Request::Session(session) => session.put(out),
        }
    }

    fn take_body(kind: u8, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match kind {
            1 => Request::Hello { min: Flat::take(from)?, max: Flat::take(from)? },
            2 => Request::Launch(Box::new(Flat::take(from)?)),
            3 => Request::Signal { signal: Flat::take(from)? },
            4 => Request::Kill { signal: Flat::take(from)?, grace_ms: Flat::take(from)? },
            5 => Request::Status,
            6 => Request::Subscribe,
            7 => Request::Exec(Box::new(Flat::take(from)?)),
            8 => Request::Socket(Flat::take(from)?),
            9 => Request::Contain(Box::new(Flat::take(from)?)),
            10 => Request::Confined(Box::new(Flat::take(from)?)),
            11 => Request::Session(Box::new(Flat::take(from)?)),
            12 => Request::Terminal,
            _ => return Err(Malformed("an unknown kind of request")),
        })
    }
}

/// What a shim answers. `Exited` also comes unasked to whoever subscribed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The version that both speak, and who is answering.
    Hello {
        /// Highest common version.
        version: u16,
        /// The supervisor or helper.
        shim: Pid,
    },
    /// The task's `execve` succeeded.
    Launched(Box<State>),
    /// It did not come to that.
    Failed(Failed),
    /// Done.
    Done,
    /// The container as it is.
    Status(Box<State>),
    /// The end.
    Exited(Box<Exit>),
    /// A request that makes no sense here.
    Refused {
        /// Why.
        reason: String,
    },
    /// The command of a session runs, or here is the terminal; descriptors come along.
    Opened,
}

impl Message for Reply {
    fn kind(&self) -> u8 {
        match self {
            Reply::Hello { .. } => 1,
            Reply::Launched(_) => 2,
            Reply::Failed(_) => 3,
            Reply::Done => 4,
            Reply::Status(_) => 5,
            Reply::Exited(_) => 6,
            Reply::Refused { .. } => 7,
            Reply::Opened => 8,
        }
    }

    fn put_body(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Hello { version, shim } => {
                version.put(out);
                shim.put(out);
            }
            Reply::Launched(state) | Reply::Status(state) => state.put(out),
            Reply::Failed(failed) => failed.put(out),
            Reply::Done | Reply::Opened => {}
            Reply::Exited(exit) => exit.put(out),
            Reply::Refused { reason } => reason.put(out),
        }
    }

    fn take_body(kind: u8, from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match kind {
            1 => Reply::Hello { version: Flat::take(from)?, shim: Flat::take(from)? },
            2 => Reply::Launched(Box::new(Flat::take(from)?)),
            3 => Reply::Failed(Flat::take(from)?),
            4 => Reply::Done,
            5 => Reply::Status(Box::new(Flat::take(from)?)),
            6 => Reply::Exited(Box::new(Flat::take(from)?)),
            7 => Reply::Refused { reason: Flat::take(from)? },
            8 => Reply::Opened,
            _ => return Err(Malformed("an unknown kind of reply")),
        })
    }
}
