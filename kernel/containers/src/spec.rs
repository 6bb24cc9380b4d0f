//! What a container is to be, and its translation into the shim's launch description. Pure.

use crate::capabilities::CapabilitySet;
use crate::inside::{Device, Mount, Seccomp};
use crate::user::User;
use plenum_shim::wire::{self, ns};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// How the task is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `/bin/sh -c <text>`.
    Shell(String),
    /// A program with its arguments, `argv[0]` included; searched in the container's `PATH` if it has no slash.
    Argv(Vec<String>),
    /// No program: a process that waits to be ended. It keeps namespaces for others, see [`Share`].
    Hold,
}

/// Namespaces of another container, which must run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its id.
    pub with: String,
    /// Its process ids. It must outlive whoever shares them: they all end with it.
    pub pids: bool,
    /// Its IPC: System V's shared memory, semaphores and queues, and POSIX' queues.
    pub ipc: bool,
}

impl Command {
    /// The arguments as the kernel gets them.
    #[must_use]
    pub fn argv(&self) -> Vec<Vec<u8>> {
        match self {
            Command::Shell(text) => vec![b"/bin/sh".to_vec(), b"-c".to_vec(), text.as_bytes().to_vec()],
            Command::Argv(argv) => argv.iter().map(|item| item.as_bytes().to_vec()).collect(),
            Command::Hold => Vec::new(),
        }
    }
}

/// What a container may use. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Guaranteed share in thousandths of a processor; more is given when others leave it.
    pub cpu_share_millis: Option<u64>,
    /// Hard limit in thousandths of a processor.
    pub cpu_quota_millis: Option<u64>,
    /// Hard limit of memory in bytes; nothing is swapped beyond it, unless `swap` says so.
    pub memory_bytes: Option<u64>,
    /// What the memory limit does not hold may be swapped, as much as the machine has.
    pub swap: bool,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// How much of a task's output is kept, for each of its two streams. A file that is full is renamed (`stdout.1`, and
/// what was that `stdout.2`), and the oldest goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBudget {
    /// A file has at most this many bytes; at least 4096.
    pub file_bytes: u64,
    /// Files that are kept, the one being written included: 1 to 1000.
    pub files: u32,
}

/// How much the sandbox, and what is written to an image, may take of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimit {
    /// Bytes.
    pub bytes: u64,
}

/// The network a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// The machine's.
    #[default]
    Host,
    /// A network namespace of its own with only a loopback device.
    Loopback,
    /// A network namespace that exists, by the absolute path of its file.
    Join(PathBuf),
}

/// What the container sees as `/`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Root {
    /// The machine's files.
    #[default]
    Host,
    /// An image: folders stacked by overlayfs.
    Image {
        /// Unpacked layers, lowest first; absolute paths.
        layers: Vec<PathBuf>,
        /// An empty folder that takes what the container writes; the agent's to make and remove.
        upper: PathBuf,
        /// An empty folder on the same file system, for overlayfs itself.
        work: PathBuf,
    },
}

/// A container to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Letters, digits, `.`, `_`, `-`; at most 128; does not start with a dot.
    pub id: String,
    /// The sandbox; exists, belongs to the user.
    pub sandbox: PathBuf,
    /// What to run.
    pub command: Command,
    /// The whole environment; nothing is inherited from the agent.
    pub env: BTreeMap<String, String>,
    /// Relative to the sandbox; the sandbox itself if `None`. With an image also absolute, and made if missing.
    pub working_dir: Option<PathBuf>,
    /// `name`, `uid`, `name:group` or `uid:gid`; the agent's own user if `None`.
    pub user: Option<String>,
    /// Limits.
    pub limits: Limits,
    /// Resource limits (`setrlimit`).
    pub rlimits: Vec<wire::Rlimit>,
    /// The most that anything in the container can have.
    pub bounding: CapabilitySet,
    /// What a user other than root has from the start.
    pub ambient: CapabilitySet,
    /// No program gains privileges through its file's mode or capabilities.
    pub no_new_privs: bool,
    /// Users of its own: root in it has no power on the machine (images only, and nothing shared; see
    /// [`crate::RuntimeConfig::user_namespaces`]).
    pub user_namespace: bool,
    /// Network.
    pub network: Network,
    /// Host name inside; the machine's if `None`.
    pub hostname: Option<String>,
    /// Name in the sandbox that standard output is appended to.
    pub stdout: String,
    /// Name in the sandbox that standard error is appended to.
    pub stderr: String,
    /// Budget of the output; that of [`crate::RuntimeConfig::logs`] if `None`.
    pub logs: Option<LogBudget>,
    /// Budget of standard error where it differs; as `logs` if `None`.
    pub error_logs: Option<LogBudget>,
    /// The task has a terminal of this size instead of three files; its output is that of [`ContainerSpec::stdout`].
    pub terminal: Option<crate::session::Size>,
    /// Limit of disk; see [`crate::Runtime::disk_exceeded`].
    pub disk: Option<DiskLimit>,
    /// A file shown as `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// Root file system.
    pub root: Root,
    /// Volumes, mounted in this order.
    pub mounts: Vec<Mount>,
    /// Namespaces that it has in common with another container.
    pub share: Option<Share>,
    /// System calls that are refused.
    pub seccomp: Seccomp,
    /// Device files besides the usual ones (images only).
    pub devices: Vec<Device>,
    /// Device files that a container with the machine's root sees and may not use.
    pub denied_devices: Vec<Device>,
    /// Size of `/dev/shm` (images only).
    pub shm_bytes: u64,
    /// Nothing of the image can be changed (images only).
    pub readonly_root: bool,
    /// Folders that the image says are volumes: made if missing, writable whatever the root is. What the image has there is there.
    pub volumes: Vec<PathBuf>,
    /// Show also what is hidden of `/proc` and `/sys` (images only), for containers that are trusted with the machine.
    pub unmasked: bool,
    /// A file shown as `/etc/hosts` (images only).
    pub hosts: Option<PathBuf>,
    /// `oom_score_adj` of the task, -1000 to 1000.
    pub oom_score_adj: i32,
    /// File mode creation mask.
    pub umask: u32,
    /// Time for the launch, up to the task's program running.
    pub launch_deadline: Duration,
}

/// What is wrong with a [`ContainerSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The id.
    #[error("container id {0:?}: use 1 to 128 letters, digits, '.', '_' or '-', not starting with '.'")]
    Id(String),
    /// The sandbox.
    #[error("sandbox {0:?}: give an absolute path")]
    Sandbox(PathBuf),
    /// A name that must be inside the sandbox.
    #[error("{what} {name:?}: give a path inside the sandbox, without '..'")]
    Inside {
        /// Which field.
        what: &'static str,
        /// Its value.
        name: String,
    },
    /// No program.
    #[error("the command is empty")]
    EmptyCommand,
    /// A NUL byte.
    #[error("{what} contains a NUL byte")]
    Nul {
        /// Which field.
        what: String,
    },
    /// An environment variable's name.
    #[error("environment variable name {0:?}: it must not be empty or contain '='")]
    EnvName(String),
    /// One string above the kernel's limit.
    #[error("{what} has {len} bytes; the kernel takes at most {max} in one string")]
    TooLong {
        /// Which field.
        what: String,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// All strings together.
    #[error("arguments and environment have {len} bytes; the kernel takes at most {max}")]
    TooMuch {
        /// Their length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A limit of zero or beyond what the kernel counts.
    #[error("{what}: {value} is out of range")]
    Range {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: i128,
    },
    /// Host name.
    #[error("host name {0:?}: use 1 to 64 letters, digits, '.' or '-'")]
    Hostname(String),
    /// Layers of an image.
    #[error("an image needs at least one layer, and absolute paths for its folders")]
    Image,
    /// Only for those that share nothing.
    #[error("a container with a user namespace shares neither process ids nor IPC with another")]
    SharesUsers,
    /// Only for images.
    #[error("{0}: this needs an image; the container has the machine's root")]
    NeedsImage(&'static str),
}

/// The kernel's `MAX_ARG_STRLEN`, its NUL included.
const STRING_MAX: usize = 128 * 1024;
/// A quarter of the usual 8 MiB stack, which is what `execve` allows for arguments and environment.
const STRINGS_MAX: usize = 2 * 1024 * 1024;

impl ContainerSpec {
    /// A container with the defaults: agent's user, default capabilities, no limits, host network.
    #[must_use]
    pub fn new(id: impl Into<String>, sandbox: impl Into<PathBuf>, command: Command) -> Self {
        Self {
            id: id.into(),
            sandbox: sandbox.into(),
            command,
            env: BTreeMap::new(),
            working_dir: None,
            user: None,
            limits: Limits::default(),
            rlimits: Vec::new(),
            bounding: CapabilitySet::container_default(),
            ambient: CapabilitySet::NONE,
            no_new_privs: true,
            user_namespace: false,
            network: Network::Host,
            hostname: None,
            stdout: "stdout".into(),
            stderr: "stderr".into(),
            logs: None,
            error_logs: None,
            terminal: None,
            disk: None,
            resolv_conf: None,
            root: Root::Host,
            mounts: Vec::new(),
            share: None,
            seccomp: Seccomp::ByRoot,
            devices: Vec::new(),
            denied_devices: Vec::new(),
            shm_bytes: crate::inside::SHM_BYTES,
            readonly_root: false,
            volumes: Vec::new(),
            unmasked: false,
            hosts: None,
            oom_score_adj: 0,
            umask: 0o022,
            launch_deadline: Duration::from_secs(30),
        }
    }

    /// Checks everything that can be known without touching the machine.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_id(&self.id)?;
        if !self.sandbox.is_absolute() {
            return Err(SpecError::Sandbox(self.sandbox.clone()));
        }
        for (what, name) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !is_plain_name(name) {
                return Err(SpecError::Inside { what, name: name.clone() });
            }
        }
        if let Some(dir) = &self.working_dir
            && !is_inside(if self.has_image() { dir.strip_prefix("/").unwrap_or(dir) } else { dir })
        {
            return Err(SpecError::Inside { what: "working directory", name: dir.display().to_string() });
        }
        if let Some(name) = &self.hostname {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
                return Err(SpecError::Hostname(name.clone()));
            }
        }
        self.check_numbers()?;
        self.check_inside()?;
        match self.command {
            Command::Hold => Ok(()),
            _ => check_strings(&self.command.argv(), &self.env),
        }
    }

    fn check_numbers(&self) -> Result<(), SpecError> {
        let l = &self.limits;
        let top = u64::MAX / 4096;
        for (what, value, min) in [
            ("cpu share", l.cpu_share_millis, 1),
            ("cpu quota", l.cpu_quota_millis, 1),
            ("memory limit", l.memory_bytes, 1),
            ("process limit", l.pids, 1),
            ("disk limit", self.disk.map(|disk| disk.bytes), 4096),
        ] {
            if let Some(value) = value
                && !(min..=top).contains(&value)
            {
                return Err(SpecError::Range { what, value: value.into() });
            }
        }
        for logs in self.logs.iter().chain(&self.error_logs) {
            for (what, value, range) in [
                ("bytes of a log file", logs.file_bytes, 4096..=top),
                ("number of log files", logs.files.into(), 1..=1000),
            ] {
                if !range.contains(&value) {
                    return Err(SpecError::Range { what, value: value.into() });
                }
            }
        }
        if !(-1000..=1000).contains(&self.oom_score_adj) {
            return Err(SpecError::Range { what: "oom score", value: self.oom_score_adj.into() });
        }
        if self.umask > 0o777 {
            return Err(SpecError::Range { what: "umask", value: self.umask.into() });
        }
        Ok(())
    }

    /// The description for the shim. `user` is who the task becomes (`None` without privilege), `namespaces` what the
    /// machine allows.
    #[must_use]
    pub fn describe(&self, run_dir: &Path, user: Option<&User>, namespaces: u32) -> wire::Launch {
        let in_sandbox = |name: &str| self.sandbox.join(name).as_os_str().as_bytes().to_vec();
        let cwd = self.cwd();
        let net = if self.network == Network::Host { 0 } else { ns::NET };
        let process = wire::Process {
            argv: self.command.argv(),
            env: self.env.iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect(),
            cwd: cwd.as_os_str().as_bytes().to_vec(),
            uid: user.map_or(0, |user| user.uid),
            gid: user.map_or(0, |user| user.gid),
            groups: user.map(|user| user.groups.clone()).unwrap_or_default(),
            change_user: user.is_some(),
            rlimits: self.rlimits.clone(),
            bounding: self.bounding.0,
            ambient: self.ambient.0,
            no_new_privs: self.no_new_privs,
            umask: self.umask,
            oom_score_adj: Some(self.oom_score_adj),
        };
        wire::Launch {
            id: self.id.clone(),
            run_dir: run_dir.as_os_str().as_bytes().to_vec(),
            process,
            stdout: in_sandbox(&self.stdout),
            stderr: in_sandbox(&self.stderr),
            namespaces: namespaces & !ns::NET | (namespaces & net),
            hostname: self.hostname.clone(),
            resolv_conf: self.resolv_conf.as_ref().map(|file| file.as_os_str().as_bytes().to_vec()),
            groups: Vec::new(),
            own_groups: Vec::new(),
            deadline_ms: u64::try_from(self.launch_deadline.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// See [`SpecError::Id`].
pub fn check_id(id: &str) -> Result<(), SpecError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = (1..=128).contains(&id.len()) && !id.starts_with('.') && id.chars().all(fits);
    if good { Ok(()) } else { Err(SpecError::Id(id.to_owned())) }
}

/// Whether a relative path stays where it starts.
#[must_use]
pub fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".."
}

/// Checks arguments and environment against the kernel's limits.
pub fn check_strings(argv: &[Vec<u8>], env: &BTreeMap<String, String>) -> Result<(), SpecError> {
    if argv.first().is_none_or(Vec::is_empty) {
        return Err(SpecError::EmptyCommand);
    }
    let mut total = 0_usize;
    let mut check = |what: &dyn Fn() -> String, len: usize, nul: bool| {
        if nul {
            return Err(SpecError::Nul { what: what() });
        }
        if len >= STRING_MAX {
            return Err(SpecError::TooLong { what: what(), len, max: STRING_MAX - 1 });
        }
        total = total.saturating_add(len + 1 + size_of::<usize>());
        Ok(())
    };
    for (index, item) in argv.iter().enumerate() {
        check(&|| format!("argument {index}"), item.len(), item.contains(&0))?;
    }
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err(SpecError::EnvName(name.clone()));
        }
        let nul = name.contains('\0') || value.contains('\0');
        check(&|| format!("environment variable {name:?}"), name.len() + value.len() + 1, nul)?;
    }
    if total > STRINGS_MAX { Err(SpecError::TooMuch { len: total, max: STRINGS_MAX }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec::new("c", "/s", Command::Shell("true".into()))
    }

    #[test]
    fn hostile_specs_are_refused_by_name() {
        let change = |f: &dyn Fn(&mut ContainerSpec)| {
            let mut spec = spec();
            f(&mut spec);
            spec.validate().unwrap_err().to_string()
        };
        for (change, want) in [
            (change(&|s| s.id = "../x".into()), "container id"),
            (change(&|s| s.id = String::new()), "container id"),
            (change(&|s| s.sandbox = "rel".into()), "sandbox"),
            (change(&|s| s.stdout = "../x".into()), "stdout"),
            (change(&|s| s.stderr = "..".into()), "stderr"),
            (change(&|s| s.working_dir = Some("a/../..".into())), "working directory"),
            (change(&|s| s.working_dir = Some("/etc".into())), "working directory"),
            (change(&|s| s.command = Command::Argv(vec![])), "command is empty"),
            (change(&|s| s.command = Command::Shell("a\0b".into())), "argument 2 contains a NUL"),
            (change(&|s| drop(s.env.insert("A=B".into(), "x".into()))), "environment variable name"),
            (change(&|s| drop(s.env.insert("A".into(), "x\0".into()))), "\"A\" contains a NUL"),
            (change(&|s| drop(s.env.insert("A".into(), "x".repeat(200_000)))), "at most 131071"),
            (
                change(&|s| (0..30).for_each(|i| drop(s.env.insert(format!("A{i}"), "x".repeat(100_000))))),
                "2097152",
            ),
            (change(&|s| s.limits.memory_bytes = Some(0)), "memory limit"),
            (change(&|s| s.oom_score_adj = 1001), "oom score"),
            (change(&|s| s.hostname = Some("a b".into())), "host name"),
        ] {
            assert!(change.contains(want), "{change:?} should say {want:?}");
        }
        spec().validate().unwrap();
    }

    #[test]
    fn the_network_namespace_is_only_made_when_asked_for() {
        let all = ns::PID | ns::NET;
        assert_eq!(spec().describe(Path::new("/r"), None, all).namespaces, ns::PID);
        let own = ContainerSpec { network: Network::Loopback, ..spec() };
        assert_eq!(own.describe(Path::new("/r"), None, all).namespaces, all);
    }
}
