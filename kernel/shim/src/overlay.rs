//! The root of an image: its layers with a writable one on top, and the file systems a program expects in it.

use crate::beneath::{self, by_descriptor};
use crate::failure::{At, Step, refused};
use crate::files::path;
use crate::ids::{self, Ids};
use crate::sys;
use crate::wire::{Device, Mount, Rootfs};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mkdirat, mknodat};
use nix::unistd::{FchownatFlags, Gid, Uid, chown, fchownat, symlinkat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const NONE: Option<&str> = None;
/// Options of a mount are one page at most, its NUL included.
const OPTIONS_MAX: usize = 4095;

/// Mounts the layers; the descriptor is of the new root. Folders are named by descriptor, which is short whatever their
/// names are and leaves no character in them a meaning.
pub fn assemble(root: &Rootfs, ids: Option<&Ids>) -> Step<OwnedFd> {
    let layers = root.layers.iter().map(Vec::as_slice);
    let stack = Stack::find(layers, Some((&root.upper, &root.work)), ids)?;
    // Device files that an image brings are not devices.
    stack.mount(path(&root.stage), MsFlags::MS_NODEV, ("mount image", &root.stage))?;
    beneath::trusted(&root.stage)
}

/// Mounts layers somewhere else than as a root: what is written goes to folders beside them, or nothing can be, for which the caller sees.
pub fn volume(target: BorrowedFd<'_>, wanted: &Mount, ids: Option<&Ids>) -> Step<()> {
    const STEP: &str = "mount volume";
    let layers: Vec<&[u8]> = wanted.source.split(|byte| *byte == 0).collect();
    let place = by_descriptor(target);
    // One alone makes no overlay.
    if let (true, [one]) = (wanted.source_root.is_empty(), layers.as_slice()) {
        let folder = beneath::trusted(one)?;
        let Some(ids) = ids else {
            let from = by_descriptor(folder.as_fd());
            return mount(Some(from.as_str()), place.as_str(), NONE, MsFlags::MS_BIND, NONE)
                .at(STEP, &wanted.target);
        };
        let shown = ids::shown(folder.as_fd(), ids, false, one)?;
        return sys::move_mount(shown.as_fd(), target).at(STEP, &wanted.target);
    }
    let own = |name: &[u8]| [&wanted.source_root, b"/".as_slice(), name].concat();
    let (upper, work) = (own(b"upper"), own(b"work"));
    let over = (!wanted.source_root.is_empty()).then_some((upper.as_slice(), work.as_slice()));
    let stack = Stack::find(layers.into_iter(), over, ids)?;
    stack.mount(Path::new(&place), MsFlags::empty(), (STEP, &wanted.target))
}

/// Folders that become one.
struct Stack {
    /// Highest first.
    lower: Vec<OwnedFd>,
    /// Where what is written goes, and the file system's own.
    over: Option<(OwnedFd, OwnedFd)>,
    /// Mounts over the folders that show them with the container's ids.
    placed: Vec<OwnedFd>,
}

impl Stack {
    /// Layers come lowest first.
    fn find<'a>(
        layers: impl DoubleEndedIterator<Item = &'a [u8]>,
        over: Option<(&[u8], &[u8])>,
        ids: Option<&Ids>,
    ) -> Step<Self> {
        let mut placed = Vec::new();
        let mut open = |name: &[u8]| -> Step<OwnedFd> {
            let folder = beneath::trusted(name)?;
            let Some(ids) = ids else { return Ok(folder) };
            let shown = ids::shown_in_place(folder.as_fd(), ids, name)?;
            placed.push(shown.try_clone().at("open", name)?);
            Ok(shown)
        };
        let lower = layers.rev().map(&mut open).collect::<Step<Vec<_>>>()?;
        let over = match over {
            None => None,
            Some((upper, work)) if ids.is_none() => Some((beneath::trusted(upper)?, beneath::trusted(work)?)),
            // The two have to be of one mount.
            Some((upper, work)) => {
                let (both, upper, work) = together(upper, work)?;
                let both = open(both)?;
                Some((beneath::plain(both.as_fd(), upper)?, beneath::plain(both.as_fd(), work)?))
            }
        };
        Ok(Self { lower, over, placed })
    }

    fn mount(&self, on: &Path, flags: MsFlags, (step, subject): (&str, &[u8])) -> Step<()> {
        let lower: Vec<String> = self.lower.iter().map(|fd| by_descriptor(fd.as_fd())).collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        if let Some((upper, work)) = &self.over {
            let (upper, work) = (by_descriptor(upper.as_fd()), by_descriptor(work.as_fd()));
            options.push_str(&format!(",upperdir={upper},workdir={work}"));
        }
        if lower.is_empty() || options.len() > OPTIONS_MAX {
            let words = "an image needs at least one layer and has fewer than 180";
            return Err(refused(words, lower.len().to_string()));
        }
        mount(Some("overlay"), on, Some("overlay"), flags, Some(options.as_str())).at(step, subject)?;
        // It has copies of its own now, and a layer may be wanted again.
        for placed in &self.placed {
            umount2(by_descriptor(placed.as_fd()).as_str(), MntFlags::MNT_DETACH).at(step, subject)?;
        }
        Ok(())
    }
}

/// The folder that two others are in, and their names there.
fn together<'a>(upper: &'a [u8], work: &'a [u8]) -> Step<(&'a [u8], &'a [u8], &'a [u8])> {
    let (one, two) = (path(upper), path(work));
    match (one.parent(), one.file_name(), two.file_name()) {
        (Some(both), Some(one), Some(other)) if two.parent() == Some(both) => {
            Ok((both.as_os_str().as_bytes(), one.as_bytes(), other.as_bytes()))
        }
        _ => Err(refused("what is written over an image has to be in one folder with its work folder", work)),
    }
}

/// `/proc`, `/sys` and `/dev`. An image in which one of them is a link is refused.
pub fn system(at: BorrowedFd<'_>, root: &Rootfs, ids: Option<&Ids>) -> Step<()> {
    let first = ids.map_or(0, Ids::first);
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    put(at, b"proc", "proc", quiet, None)?;
    put(at, b"sys", "sysfs", quiet | MsFlags::MS_RDONLY, None)?;
    put(at, b"dev", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some("mode=755,size=65536k"))?;
    let dev = beneath::plain(at, b"dev")?;
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        node(dev.as_fd(), &usual(name, 1, minor))?;
    }
    node(dev.as_fd(), &usual("tty", 5, 0))?;
    for device in &root.devices {
        let (uid, gid) = (device.uid.saturating_add(first), device.gid.saturating_add(first));
        node(dev.as_fd(), &Device { uid, gid, ..device.clone() })?;
    }
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlinkat(to, dev.as_fd(), name).at("make link in /dev", name)?;
    }
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(dev.as_fd(), name, Mode::from_bits_truncate(0o755)).at("make folder in /dev", name)?;
    }
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = format!("newinstance,ptmxmode=0666,mode=0620,gid={}", first.saturating_add(5));
    put(at, b"dev/pts", "devpts", terminals, Some(&options))?;
    if let Some(ids) = ids {
        let terminals = beneath::plain(at, b"dev/pts")?;
        let (uid, gid) = (Uid::from_raw(ids.first()), Gid::from_raw(ids.first()));
        chown(by_descriptor(terminals.as_fd()).as_str(), Some(uid), Some(gid)).at("own", "dev/pts")?;
    }
    let shm = format!("mode=1777,size={}", root.shm_bytes);
    put(at, b"dev/shm", "tmpfs", quiet, Some(&shm))?;
    put(at, b"dev/mqueue", "mqueue", quiet, None)
}

fn put(at: BorrowedFd<'_>, name: &[u8], kind: &str, flags: MsFlags, options: Option<&str>) -> Step<()> {
    let target = match beneath::plain(at, name) {
        Err(failure) if failure.errno == libc::ENOENT => {
            beneath::make(at, name, true)?;
            beneath::plain(at, name)?
        }
        other => other?,
    };
    mount(Some(kind), by_descriptor(target.as_fd()).as_str(), Some(kind), flags, options).at("mount", name)
}

fn usual(name: &str, major: u32, minor: u32) -> Device {
    Device { name: name.into(), block: false, major, minor, mode: 0o666, uid: 0, gid: 0 }
}

fn node(dev: BorrowedFd<'_>, device: &Device) -> Step<()> {
    const STEP: &str = "make device file";
    let name = path(&device.name);
    if let Some(parent) = name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        beneath::make(dev, parent.as_os_str().as_bytes(), true)?;
    }
    let kind = if device.block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    let number = makedev(device.major.into(), device.minor.into());
    let mode = Mode::from_bits_truncate(device.mode & 0o777);
    mknodat(dev, name, kind, mode, number).at(STEP, &device.name)?;
    fchmodat(dev, name, mode, FchmodatFlags::FollowSymlink).at(STEP, &device.name)?;
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (Some(Uid::from_raw(device.uid)), Some(Gid::from_raw(device.gid)));
        fchownat(dev, name, uid, gid, FchownatFlags::AT_SYMLINK_NOFOLLOW).at(STEP, &device.name)?;
    }
    Ok(())
}

/// Hides paths and takes the right to write from others; what an image or kernel does not have needs neither.
pub fn restrict(at: BorrowedFd<'_>, root: &Rootfs) -> Step<()> {
    for name in &root.masked {
        let Some(target) = existing(at, name)? else { continue };
        let folder = beneath::is_folder(target.as_fd());
        let place = by_descriptor(target.as_fd());
        if folder {
            let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("tmpfs"), place.as_str(), Some("tmpfs"), flags, Some("size=4k,mode=555"))
                .at("hide", name)?;
        } else {
            let null = beneath::plain(at, b"dev/null")?;
            mount(Some(by_descriptor(null.as_fd()).as_str()), place.as_str(), NONE, MsFlags::MS_BIND, NONE)
                .at("hide", name)?;
        }
    }
    for name in &root.read_only_paths {
        let Some(target) = existing(at, name)? else { continue };
        let place = by_descriptor(target.as_fd());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(place.as_str()), place.as_str(), NONE, flags, NONE).at("make read-only", name)?;
        let mounted = beneath::resolve(at, name)?;
        crate::mounts::read_only(mounted.as_fd(), MsFlags::empty()).at("make read-only", name)?;
    }
    Ok(())
}

fn existing(at: BorrowedFd<'_>, name: &[u8]) -> Step<Option<OwnedFd>> {
    match beneath::resolve(at, name) {
        Ok(found) => Ok(Some(found)),
        Err(failure) if [libc::ENOENT, libc::ENOTDIR].contains(&failure.errno) => Ok(None),
        Err(failure) => Err(failure),
    }
}
