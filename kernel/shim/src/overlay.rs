//! The root of an image: its layers with a writable one on top, and the file systems a program expects in it.

use crate::beneath::{self, by_descriptor};
use crate::failure::{At, Step, refused};
use crate::wire::{Device, Rootfs};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mkdirat, mknodat};
use nix::unistd::{FchownatFlags, Gid, Uid, fchownat, symlinkat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const NONE: Option<&str> = None;
/// Options of a mount are one page at most, its NUL included.
const OPTIONS_MAX: usize = 4095;

/// Mounts the layers; the descriptor is of the new root. Folders are named by descriptor, which is short whatever their
/// names are and leaves no character in them a meaning.
pub fn assemble(root: &Rootfs) -> Step<OwnedFd> {
    let folders = root.layers.iter().rev().map(|layer| beneath::trusted(layer)).collect::<Step<Vec<_>>>()?;
    let (upper, work) = (beneath::trusted(&root.upper)?, beneath::trusted(&root.work)?);
    let lower: Vec<String> = folders.iter().map(|fd| by_descriptor(fd.as_fd())).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        by_descriptor(upper.as_fd()),
        by_descriptor(work.as_fd())
    );
    if lower.is_empty() || options.len() > OPTIONS_MAX {
        return Err(refused(
            "an image needs at least one layer and has fewer than 180",
            lower.len().to_string(),
        ));
    }
    let stage = crate::files::path(&root.stage);
    // Device files that an image brings are not devices.
    mount(Some("overlay"), stage, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str()))
        .at("mount image", &root.stage)?;
    beneath::trusted(&root.stage)
}

/// `/proc`, `/sys` and `/dev`. An image in which one of them is a link is refused.
pub fn system(at: BorrowedFd<'_>, root: &Rootfs) -> Step<()> {
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
        node(dev.as_fd(), device)?;
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
    put(at, b"dev/pts", "devpts", terminals, Some("newinstance,ptmxmode=0666,mode=0620,gid=5"))?;
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
    let name = crate::files::path(&device.name);
    if let Some(parent) = name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        beneath::make(dev, std::os::unix::ffi::OsStrExt::as_bytes(parent.as_os_str()), true)?;
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
