//! User namespaces: ids of the container's own, which are ids without power on the machine.
//!
//! Everything of a container is prepared by the machine's root as without one: its files are shown by mounts that map
//! owners, so that on the disk they keep theirs. The namespace is made and mapped from outside and entered last, by the
//! task right before it becomes its user and by init. In a description users are the machine's ids ([`wire::Ids`]): who
//! does not know of the namespace gives nobody more than those.

use crate::beneath::{self, by_descriptor};
use crate::failure::{At, Step, failed, refused};
use crate::files::path;
use crate::sys::{self, Cloned};
use crate::wire::{self, Pid, Process};
use crate::{proc, task};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, pipe2, setfsgid, setfsuid, setgroups, setresgid, setresuid};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// A user namespace that exists.
#[derive(Debug)]
pub struct Ids {
    namespace: OwnedFd,
    range: wire::Ids,
}

impl Ids {
    /// Makes one. A process that does nothing has it until we hold it, and ends with us.
    pub fn make(range: &wire::Ids) -> Step<Self> {
        const STEP: &str = "make user namespace";
        let (wait, hold) = pipe2(OFlag::O_CLOEXEC).at(STEP, "")?;
        match sys::clone(u64::from(libc::CLONE_NEWUSER.cast_unsigned()), None).at(STEP, "")? {
            Cloned::Child => {
                drop(hold);
                let _until_it_is_held = nix::unistd::read(&wait, &mut [0; 1]);
                sys::exit_now(0)
            }
            Cloned::Parent { pid, pidfd: _ } => {
                drop(wait);
                let made = map(pid, range);
                drop(hold);
                let _reaped = sys::wait_raw(pid, true);
                made
            }
        }
    }

    /// That of a running container's init.
    pub fn of(init: &Pid) -> Step<Self> {
        let (file, table) = (format!("/proc/{}/ns/user", init.pid), format!("/proc/{}/uid_map", init.pid));
        let namespace = File::open(&file).at("open namespace", &file)?.into();
        let text = std::fs::read_to_string(&table).at("read user namespace", &table)?;
        if !proc::alive(init) {
            return Err(failed("find container", init.pid.to_string(), Errno::ESRCH));
        }
        let mut words = text.split_ascii_whitespace().map(str::parse);
        match (words.next(), words.next(), words.next(), words.next()) {
            // The machine's own ids would be power over it.
            (Some(Ok(0)), Some(Ok(first @ 1..)), Some(Ok(count)), None) => {
                Ok(Self { namespace, range: wire::Ids { first, count } })
            }
            _ => Err(refused("read user namespace: it is not a container's", &table)),
        }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// The machine's id of the container's root.
    #[must_use]
    pub fn first(&self) -> u32 {
        self.range.first
    }

    /// A description with the container's ids instead of the machine's.
    pub fn inside(&self, process: &Process) -> Step<Process> {
        let groups = process.groups.iter().map(|gid| self.range.inside(*gid)).collect::<Option<Vec<_>>>();
        match (self.range.inside(process.uid), self.range.inside(process.gid), groups) {
            (Some(uid), Some(gid), Some(groups)) if process.change_user => {
                Ok(Process { uid, gid, groups, ..process.clone() })
            }
            _ => Err(refused("check user: it is none of the container's", process.uid.to_string())),
        }
    }

    /// From now on files are made by the container's root, with the rights of the machine's.
    pub fn act(&self) -> Step<()> {
        const STEP: &str = "make files as the container's root";
        setfsgid(Gid::from_raw(self.range.first));
        setfsuid(Uid::from_raw(self.range.first));
        // The change takes those that concern files away.
        sys::capset(task::permitted(), 0).at(STEP, "")
    }

    /// The end of that.
    pub fn rest(&self) {
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
    }

    /// Enters it and becomes its root.
    pub fn become_root(&self) -> Step<()> {
        const STEP: &str = "become the container's root";
        enter(self.namespace())?;
        setgroups(&[]).at(STEP, "groups")?;
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(gid, gid, gid).at(STEP, "group")?;
        setresuid(uid, uid, uid).at(STEP, "user")
    }
}

/// Enters a user namespace.
pub fn enter(namespace: BorrowedFd<'_>) -> Step<()> {
    setns(namespace, CloneFlags::CLONE_NEWUSER).at("enter namespace", "user")
}

fn map(pid: i32, range: &wire::Ids) -> Step<Ids> {
    for name in ["gid_map", "uid_map"] {
        let file = format!("/proc/{pid}/{name}");
        let line = format!("0 {} {}\n", range.first, range.count);
        std::fs::write(&file, &line).at("map ids of user namespace", line.trim_end())?;
    }
    let file = format!("/proc/{pid}/ns/user");
    let namespace = File::open(&file).at("open namespace", &file)?.into();
    Ok(Ids { namespace, range: range.clone() })
}

/// Ties the caller to its parent again: the kernel unties whoever changes its user. `report` is a socket whose other end the parent has.
pub fn tie(report: &OwnedFd) -> Step<()> {
    const STEP: &str = "tie to supervisor";
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).at(STEP, "")?;
    let mut look = [PollFd::new(report.as_fd(), PollFlags::empty())];
    let gone = poll(&mut look, PollTimeout::ZERO).at(STEP, "")? > 0;
    if gone { Err(refused("tie to supervisor: it has gone", "")) } else { Ok(()) }
}

/// A copy of a mount, not mounted anywhere, that shows files with the container's ids.
pub fn shown(source: BorrowedFd<'_>, ids: &Ids, deep: bool, subject: &[u8]) -> Step<OwnedFd> {
    let copy = sys::copy_mount(source, deep).at("copy mount", subject)?;
    sys::map_mount(copy.as_fd(), ids.namespace(), deep).at(
        "show files with the container's ids (the file system has to support id-mapped mounts)",
        subject,
    )?;
    Ok(copy)
}

/// The same over the folder itself, where overlayfs takes it from.
pub fn shown_in_place(folder: BorrowedFd<'_>, ids: &Ids, subject: &[u8]) -> Step<OwnedFd> {
    let copy = shown(folder, ids, false, subject)?;
    sys::move_mount(copy.as_fd(), folder).at("mount with the container's ids", subject)?;
    Ok(copy)
}

/// Lets whoever is in a network without rights over it listen at any port, as root can elsewhere.
pub fn open_ports() -> std::io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
}

/// `plenum-shim try-ids <first> <count> <folder>…`: whether containers can have ids of their own here, with files in
/// these folders; images' layers are in the first. Says why not on standard error.
pub fn run_trial() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2);
    let mut number = || arguments.next()?.to_str()?.parse::<u32>().ok();
    let (Some(first), Some(count)) = (number(), number()) else { return ExitCode::from(2) };
    let folders: Vec<std::ffi::OsString> = arguments.collect();
    let folders: Vec<&Path> = folders.iter().map(Path::new).collect();
    let Some(scratch) = folders.first().map(|folder| folder.join(format!(".try-ids-{}", std::process::id())))
    else {
        return ExitCode::from(2);
    };
    // Mounts go with the process that made them; before that, what is below cannot be removed.
    let status = match sys::clone(0, None) {
        Ok(Cloned::Child) => {
            let tried = trial(&wire::Ids { first, count }, &folders, &scratch);
            if let Err(failure) = &tried {
                say(failure);
            }
            sys::exit_now(i32::from(tried.is_err()))
        }
        Ok(Cloned::Parent { pid, .. }) => sys::wait_raw(pid, true).ok().flatten().map(|(_, status)| status),
        Err(_) => None,
    };
    let _not_there = std::fs::remove_dir_all(&scratch);
    if status == Some(0) { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn say(failure: &crate::wire::Failed) {
    let subject = String::from_utf8_lossy(&failure.subject);
    let why = match failure.errno {
        0 => String::new(),
        errno => format!(": {}", std::io::Error::from_raw_os_error(errno)),
    };
    eprintln!("{} ({subject}){why}", failure.step);
}

fn trial(range: &wire::Ids, folders: &[&Path], scratch: &Path) -> Step<()> {
    let ids = Ids::make(range)?;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).at("own mounts", "")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).at("own mounts", "")?;
    for folder in folders {
        let name = folder.as_os_str().as_bytes();
        shown(beneath::trusted(name)?.as_fd(), &ids, false, name)?;
    }
    try_overlay(&ids, scratch)
}

/// An image in small: a layer, a folder for what is written, and something written by the container's root.
fn try_overlay(ids: &Ids, scratch: &Path) -> Step<()> {
    let root = wire::Rootfs {
        layers: vec![scratch.join("layer").as_os_str().as_bytes().to_vec()],
        upper: scratch.join("own/upper").as_os_str().as_bytes().to_vec(),
        work: scratch.join("own/work").as_os_str().as_bytes().to_vec(),
        stage: scratch.join("stage").as_os_str().as_bytes().to_vec(),
        ..wire::Rootfs::default()
    };
    for folder in [&root.layers[0], &root.upper, &root.work, &root.stage] {
        std::fs::create_dir_all(path(folder)).at("make folder", folder)?;
    }
    ids.act()?;
    let assembled = crate::overlay::assemble(&root, Some(ids))?;
    let made = beneath::make(assembled.as_fd(), b"made", true)?;
    let meta = std::fs::metadata(by_descriptor(made.as_fd())).at("read owner", "")?;
    ids.rest();
    let owner = std::os::unix::fs::MetadataExt::uid(&meta);
    if owner == ids.first() {
        Ok(())
    } else {
        Err(refused("overlayfs does not follow the ids of its layers", owner.to_string()))
    }
}

/// Holds the task until init has become the container's root: who enters the container by init must find no power there.
#[derive(Debug)]
pub struct Gate(OwnedFd, OwnedFd);

impl Gate {
    /// Closed.
    pub fn new() -> Step<Self> {
        pipe2(OFlag::O_CLOEXEC).map(|(wait, hold)| Self(wait, hold)).at("make pipes", "")
    }

    /// Waits until the other process has dropped its half.
    pub fn wait(self) {
        let Self(wait, hold) = self;
        drop(hold);
        let _opened = nix::unistd::read(&wait, &mut [0; 1]);
    }
}

/// Gives standard descriptors, which may be opened anew by name, to the container's user. (Without a namespace it has the same ids as theirs.)
pub fn give(descriptors: &[RawFd], process: &Process, ids: Option<&Ids>) {
    if ids.is_none() {
        return;
    }
    for fd in descriptors {
        // Where it is not a pipe of ours, or nothing at all, it stays whose it was.
        let _not_given = sys::give_pipe(*fd, process.uid, process.gid);
    }
}

/// A raw descriptor to enter by, for code that rearranges descriptors.
#[must_use]
pub fn door(ids: Option<&Ids>) -> Option<RawFd> {
    ids.map(|ids| ids.namespace().as_raw_fd())
}
