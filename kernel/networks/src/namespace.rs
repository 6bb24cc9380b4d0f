//! Network namespaces as files: made by a thread of its own, kept by a bind mount, removed by unmounting. A netlink socket opened by a thread
//! inside works from any other.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::statfs;

use crate::netlink::socket::Socket;
use crate::netlink::turn;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS: u64 = 0x6e73_6673;

/// Whether `path` is a namespace that is mounted.
#[must_use]
pub fn is_there(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| u64::try_from(stat.filesystem_type().0).ok() == Some(NSFS))
}

/// Runs in a thread of its own, which may change its namespace and ends with it.
fn apart<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let ended = |_| io::Error::other("the thread that changed its namespace ended early");
    std::thread::Builder::new().name("netns".to_owned()).spawn(work)?.join().map_err(ended)?
}

/// Makes a namespace at `path`; one that is there stays.
///
/// # Errors
/// What the system says.
pub fn make(path: &Path) -> io::Result<()> {
    open(path, Six::Usual).map(drop)
}

/// What links that are made in a new namespace do with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Six {
    /// What they usually do.
    Usual,
    /// They have the addresses that they are given, and believe no router's advertisements, which any neighbour can make.
    Given,
    /// They have none.
    Off,
}

impl Six {
    /// For the namespace of this thread.
    fn set(self) -> io::Result<()> {
        let name = match self {
            Self::Usual => return Ok(()),
            Self::Given => ("accept_ra", "0"),
            Self::Off => ("disable_ipv6", "1"),
        };
        let _turn = turn();
        match fs::write(Path::new("/proc/sys/net/ipv6/conf/default").join(name.0), name.1) {
            // A kernel without IPv6.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A socket for links in the namespace at `path`, which is made if it is not there; and whether it was.
pub(crate) fn open(path: &Path, six: Six) -> io::Result<(Socket, bool)> {
    if is_there(path) {
        let namespace = File::open(path)?;
        let socket = apart(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            Socket::route()
        })?;
        return Ok((socket, true));
    }
    File::create(path)?;
    let target = path.to_owned();
    let socket = apart(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        six.set()?;
        let socket = Socket::route()?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)?;
        Ok(socket)
    })?;
    Ok((socket, false))
}

/// Removes a namespace; one that is not there is no error.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path) -> io::Result<()> {
    while is_there(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
