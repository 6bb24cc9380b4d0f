//! Volumes, and the order in which a container's files are put together.

use crate::beneath::{self, by_descriptor};
use crate::failure::{At, Step, refused};
use crate::files::path;
use crate::ids::{self, Ids};
use crate::overlay;
use crate::sys;
use crate::wire::{Inside, Mount, kind};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

const NONE: Option<&str> = None;
/// `MOUNT_ATTR_RDONLY`, `_NOSUID` and `_NODEV` of `mount_setattr(2)`.
const ATTR: [u64; 3] = [1, 2, 4];

/// Puts an image's root together and makes it the root of this mount namespace.
pub fn image(inside: &Inside, ids: Option<&Ids>) -> Step<()> {
    let Some(root) = &inside.root else { return Ok(()) };
    let before = umask(Mode::empty());
    let assembled = overlay::assemble(root, ids)?;
    let at = assembled.as_fd();
    overlay::system(at, root, ids)?;
    for folder in &root.folders {
        beneath::make(at, folder, true)?;
    }
    let sandbox = Mount {
        kind: kind::BIND,
        source: inside.sandbox.clone(),
        target: root.sandbox_target.clone(),
        create: true,
        ..Mount::default()
    };
    volume(at, &sandbox, ids)?;
    for wanted in &inside.mounts {
        if wanted.target.first() == Some(&b'/') {
            volume(at, wanted, ids)?;
        } else {
            let target = [root.sandbox_target.as_slice(), b"/", &wanted.target].concat();
            volume(at, &Mount { target, ..wanted.clone() }, ids)?;
        }
    }
    overlay::restrict(at, root)?;
    umask(before);
    pivot(at)?;
    if root.read_only {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
        mount(NONE, "/", NONE, flags, NONE).at("make root read-only", "/")?;
    }
    Ok(())
}

/// The old root is stacked below the new one and taken away, so that nothing of it can be reached.
fn pivot(root: BorrowedFd<'_>) -> Step<()> {
    const STEP: &str = "change root";
    let old = beneath::trusted(b"/")?;
    nix::unistd::fchdir(root).at(STEP, "")?;
    nix::unistd::pivot_root(".", ".").at(STEP, "")?;
    nix::unistd::fchdir(&old).at(STEP, "")?;
    umount2(".", MntFlags::MNT_DETACH).at(STEP, "unmount the machine's")?;
    nix::unistd::chdir("/").at(STEP, "/")
}

/// Volumes of a container with the machine's root: absolute targets exist already, relative ones are in the sandbox.
pub fn on_host(inside: &Inside) -> Step<()> {
    let before = umask(Mode::empty());
    let (root, sandbox) = (beneath::trusted(b"/")?, beneath::trusted(&inside.sandbox)?);
    for wanted in &inside.mounts {
        let absolute = wanted.target.first() == Some(&b'/');
        volume(if absolute { root.as_fd() } else { sandbox.as_fd() }, wanted, None)?;
    }
    umask(before);
    Ok(())
}

fn volume(at: BorrowedFd<'_>, wanted: &Mount, ids: Option<&Ids>) -> Step<()> {
    let hold = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    match wanted.kind {
        kind::BIND => bind(at, wanted, ids),
        kind::TMPFS => {
            let target = target(at, wanted, true)?;
            let flags = hold | if wanted.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
            let place = by_descriptor(target.as_fd());
            mount(Some("tmpfs"), place.as_str(), Some("tmpfs"), flags, Some(wanted.options.as_str()))
                .at("mount volume", &wanted.target)
        }
        kind::LAYERS => {
            overlay::volume(target(at, wanted, true)?.as_fd(), wanted, ids)?;
            let mounted = beneath::resolve(at, &wanted.target)?;
            let all = hold | if wanted.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
            restrict(mounted.as_fd(), all).at("restrict volume", &wanted.target)
        }
        kind::ITSELF => {
            let target = target(at, wanted, true)?;
            let place = by_descriptor(target.as_fd());
            mount(Some(place.as_str()), place.as_str(), NONE, MsFlags::MS_BIND, NONE)
                .at("mount volume", &wanted.target)?;
            restrict(beneath::resolve(at, &wanted.target)?.as_fd(), hold)
                .at("restrict volume", &wanted.target)
        }
        _ => Err(refused("an unknown kind of volume", &wanted.target)),
    }
}

fn target(at: BorrowedFd<'_>, wanted: &Mount, folder: bool) -> Step<std::os::fd::OwnedFd> {
    if wanted.create {
        beneath::make(at, &wanted.target, folder)
    } else {
        beneath::resolve(at, &wanted.target)
    }
}

fn bind(at: BorrowedFd<'_>, wanted: &Mount, ids: Option<&Ids>) -> Step<()> {
    let source = if wanted.source_root.is_empty() {
        beneath::trusted(&wanted.source)?
    } else {
        beneath::inside(beneath::trusted(&wanted.source_root)?.as_fd(), &wanted.source)?
    };
    let folder = beneath::is_folder(source.as_fd());
    let target = target(at, wanted, folder)?;
    if beneath::is_folder(target.as_fd()) != folder {
        return Err(refused("mount volume: a folder needs a folder, a file a file", &wanted.target));
    }
    if let Some(ids) = ids {
        let shown = ids::shown(source.as_fd(), ids, true, &wanted.target)?;
        sys::move_mount(shown.as_fd(), target.as_fd()).at("mount volume", &wanted.target)?;
    } else {
        let (from, to) = (by_descriptor(source.as_fd()), by_descriptor(target.as_fd()));
        mount(Some(from.as_str()), to.as_str(), NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
            .at("mount volume", &wanted.target)?;
    }
    let mounted = beneath::resolve(at, &wanted.target)?;
    let hold = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if wanted.read_only {
        read_only(mounted.as_fd(), hold).at("make read-only", &wanted.target)
    } else {
        restrict(mounted.as_fd(), hold).at("restrict volume", &wanted.target)
    }
}

/// Takes the right to write from a mount and those below it.
pub fn read_only(mounted: BorrowedFd<'_>, more: MsFlags) -> nix::Result<()> {
    restrict(mounted, more | MsFlags::MS_RDONLY)
}

/// Before Linux 5.12 only the mount itself can be changed, not those below it.
fn restrict(mounted: BorrowedFd<'_>, flags: MsFlags) -> nix::Result<()> {
    let each = [MsFlags::MS_RDONLY, MsFlags::MS_NOSUID, MsFlags::MS_NODEV];
    let set = each.iter().zip(ATTR).filter(|(flag, _)| flags.contains(**flag)).map(|(_, bit)| bit).sum();
    match sys::mount_attributes(mounted, set, true) {
        Err(Errno::ENOSYS) => {
            let place = format!("/proc/self/fd/{}", mounted.as_raw_fd());
            mount(NONE, path(place.as_bytes()), NONE, flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT, NONE)
        }
        other => other,
    }
}
