//! Network namespaces as files: made by a thread of its own, kept by a bind mount, removed by unmounting.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::statfs;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS: u64 = 0x6e73_6673;

/// Whether `path` is a namespace that is mounted.
#[must_use]
pub fn is_there(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| u64::try_from(stat.filesystem_type().0).ok() == Some(NSFS))
}

/// Makes a namespace at `path`; one that is there stays.
///
/// # Errors
/// What the system says.
pub fn make(path: &Path) -> io::Result<()> {
    if is_there(path) {
        return Ok(());
    }
    File::create(path)?;
    let target = path.to_owned();
    // Only this thread changes its namespace, and it ends here.
    let worker = std::thread::spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)?;
        Ok(())
    });
    worker.join().map_err(|_| io::Error::other("the thread that makes a namespace ended early"))?
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
