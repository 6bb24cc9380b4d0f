//! Namespaces that exist already: a network by its file, process ids and IPC of another container of the pod.

use crate::failure::{At, Step, failed};
use crate::files::path;
use crate::proc;
use crate::wire::{Inside, Share, ns};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use std::fs::File;

/// Namespaces of process ids are joined by what is cloned next, so the supervisor calls this before it clones init.
pub fn process_ids(inside: &Inside) -> Step<()> {
    match &inside.share {
        Some(share) if share.namespaces & ns::PID != 0 => enter(share, "pid", CloneFlags::CLONE_NEWPID),
        _ => Ok(()),
    }
}

/// The others, joined by init itself before it does anything else.
pub fn others(inside: &Inside) -> Step<()> {
    if let Some(share) = inside.share.as_ref().filter(|share| share.namespaces & ns::IPC != 0) {
        enter(share, "ipc", CloneFlags::CLONE_NEWIPC)?;
    }
    if let Some(network) = &inside.network {
        let file = File::open(path(network)).at("open network namespace", network)?;
        setns(file, CloneFlags::CLONE_NEWNET).at("enter network namespace", network)?;
    }
    Ok(())
}

/// Opened first and checked second: the number may have been given to another process.
fn enter(share: &Share, name: &str, flag: CloneFlags) -> Step<()> {
    let file = format!("/proc/{}/ns/{name}", share.init.pid);
    let open = File::open(&file).at("open namespace", &file)?;
    if !proc::alive(&share.init) {
        return Err(failed("find container to share with", share.init.pid.to_string(), Errno::ESRCH));
    }
    setns(open, flag).at("enter namespace", name)
}
