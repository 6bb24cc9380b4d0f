//! What protocol version 2 adds: a root file system, mounts, networks and namespaces that are joined, a seccomp filter.
//!
//! These travel in kinds of requests that version 1 does not know and therefore refuses: a description is never carried
//! out without them.

use super::{Exec, Flat, Launch, Malformed, Pid, Reader};
use crate::flat_struct;

/// Kinds of [`Mount`].
pub mod kind {
    /// A file or folder of the machine.
    pub const BIND: u8 = 1;
    /// Memory.
    pub const TMPFS: u8 = 2;
    /// Layers of an image. `source` has their folders, lowest first, with NUL between them; `source_root` is the folder whose `upper` and
    /// `work` take what is written, or empty where nothing can be.
    pub const LAYERS: u8 = 3;
    /// The folder that is there already, as a mount of its own: it stays writable where the root is not.
    pub const ITSELF: u8 = 4;
}

flat_struct! {
    /// Something mounted for the task.
    pub struct Mount {
        /// See [`kind`].
        pub kind: u8,
        /// The folder that `source` is looked for in and cannot lead out of; empty if `source` is absolute and trusted.
        pub source_root: Vec<u8>,
        /// What is bound.
        pub source: Vec<u8>,
        /// Where: below the container's root, or below the sandbox if relative.
        pub target: Vec<u8>,
        /// Make the target if it is not there. What is made on the machine's own files stays there.
        pub create: bool,
        /// Read-only, with all that is mounted below.
        pub read_only: bool,
        /// Options of a tmpfs.
        pub options: String,
    }
}

flat_struct! {
    /// A device file in the container's `/dev`.
    pub struct Device {
        /// Path below `/dev`, without a leading slash.
        pub name: Vec<u8>,
        /// A block device instead of a character device.
        pub block: bool,
        /// Major number.
        pub major: u32,
        /// Minor number.
        pub minor: u32,
        /// Permissions.
        pub mode: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
    }
}

flat_struct! {
    /// A root file system other than the machine's.
    pub struct Rootfs {
        /// Folders of the image's layers, lowest first.
        pub layers: Vec<Vec<u8>>,
        /// Takes what the container writes.
        pub upper: Vec<u8>,
        /// The overlay's own folder, on the file system of `upper`.
        pub work: Vec<u8>,
        /// An empty folder to put it together on.
        pub stage: Vec<u8>,
        /// The path at which the sandbox is shown.
        pub sandbox_target: Vec<u8>,
        /// Folders that are made if missing.
        pub folders: Vec<Vec<u8>>,
        /// Device files besides the usual ones.
        pub devices: Vec<Device>,
        /// Size of `/dev/shm`.
        pub shm_bytes: u64,
        /// Paths that are hidden.
        pub masked: Vec<Vec<u8>>,
        /// Paths that cannot be written.
        pub read_only_paths: Vec<Vec<u8>>,
        /// Nothing but the volumes, the sandbox and `/dev` can be written.
        pub read_only: bool,
    }
}

flat_struct! {
    /// Namespaces of another container that are joined.
    pub struct Share {
        /// PID 1 of that container.
        pub init: Pid,
        /// Bits of [`super::ns`]: `PID` and `IPC`.
        pub namespaces: u32,
    }
}

flat_struct! {
    /// What a container has besides what [`Launch`] says.
    pub struct Inside {
        /// Root file system; the machine's if `None`.
        pub root: Option<Rootfs>,
        /// The sandbox on the machine.
        pub sandbox: Vec<u8>,
        /// Mounts in order.
        pub mounts: Vec<Mount>,
        /// A file of a network namespace to join.
        pub network: Option<Vec<u8>>,
        /// Namespaces to join.
        pub share: Option<Share>,
        /// A seccomp program: the kernel's `struct sock_filter` records. Empty for none.
        pub filter: Vec<u8>,
    }
}

flat_struct! {
    /// A budget for each stream of output.
    pub struct Logs {
        /// A file with this many bytes is full.
        pub file_bytes: u64,
        /// Files that are kept, the one being written included.
        pub files: u32,
    }
}

flat_struct! {
    /// A limit for folders of the container, kept here for the agents to come; nothing for the supervisor to do.
    pub struct Disk {
        /// Bytes.
        pub bytes: u64,
        /// Project id of the quota that holds it; 0 if it is measured.
        pub project: u32,
        /// The folders.
        pub folders: Vec<Vec<u8>>,
    }
}

flat_struct! {
    /// The users of a container with a user namespace: 0 and on inside are these ids of the machine. With it users and groups of
    /// [`Launch::process`] are the machine's ids.
    pub struct Ids {
        /// The machine's id of the container's root.
        pub first: u32,
        /// How many.
        pub count: u32,
    }
}

impl Ids {
    /// The container's id for one of the machine's, if it has one.
    #[must_use]
    pub fn inside(&self, id: u32) -> Option<u32> {
        id.checked_sub(self.first).filter(|inside| *inside < self.count)
    }

    /// The machine's id for one of the container's.
    #[must_use]
    pub fn outside(&self, id: u32) -> Option<u32> {
        if id < self.count { self.first.checked_add(id) } else { None }
    }
}

/// What was added to [`Contain`] since: it ends the frame, and older frames end before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct More {
    /// The output goes through the supervisor, which rotates its files. `None`: the task writes to files itself.
    pub logs: Option<Logs>,
    /// The disk limit.
    pub disk: Option<Disk>,
    /// As `logs`, for standard error; `None`: as standard output.
    pub error_logs: Option<Logs>,
    /// The task has a terminal of this size; what it writes there goes to the file of standard output.
    pub terminal: Option<Size>,
    /// It has a user namespace.
    pub ids: Option<Ids>,
}

impl Flat for More {
    fn put(&self, out: &mut Vec<u8>) {
        self.logs.put(out);
        self.disk.put(out);
        self.error_logs.put(out);
        self.terminal.put(out);
        self.ids.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        fn later<T: Flat>(from: &mut Reader<'_>) -> Result<Option<T>, Malformed> {
            if from.is_empty() { Ok(None) } else { Flat::take(from) }
        }
        Ok(Self {
            logs: later(from)?,
            disk: later(from)?,
            error_logs: later(from)?,
            terminal: later(from)?,
            ids: later(from)?,
        })
    }
}

flat_struct! {
    /// A launch of version 2.
    pub struct Contain {
        /// As in version 1.
        pub launch: Launch,
        /// The rest.
        pub inside: Inside,
        /// What was added since.
        pub more: More,
    }
}

flat_struct! {
    /// A command of version 2.
    pub struct Confined {
        /// As in version 1.
        pub exec: Exec,
        /// See [`Inside::filter`].
        pub filter: Vec<u8>,
    }
}

flat_struct! {
    /// The size of a terminal.
    pub struct Size {
        /// Lines.
        pub rows: u16,
        /// Characters in a line.
        pub columns: u16,
    }
}

flat_struct! {
    /// A command that is talked to. Its ends travel with the reply `Opened`: one descriptor of a terminal, or those of
    /// the pipes of standard input, output and error.
    pub struct Session {
        /// The command.
        pub confined: Confined,
        /// A terminal of this size instead of pipes.
        pub terminal: Option<Size>,
    }
}
