//! Paths below a root that somebody else filled: resolved by the kernel (`openat2`) so that neither `..` nor a link
//! leads out of it, and made where they are missing.

use crate::failure::{At, Step, failed, refused};
use crate::files::path;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, PathBuf};

/// Whether something is a folder.
pub fn is_folder(fd: BorrowedFd<'_>) -> bool {
    fstat(fd)
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR)
}

/// The name under which this process can hand a descriptor to a system call that wants a path.
#[must_use]
pub fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A trusted path of the machine.
pub fn trusted(name: &[u8]) -> Step<OwnedFd> {
    open_with(AT_FDCWD, name, ResolveFlag::empty()).at("open", name)
}

/// A path that must stay below `root`: one that would leave it is an error.
pub fn inside(root: BorrowedFd<'_>, name: &[u8]) -> Step<OwnedFd> {
    let name = relative(name)?;
    let flags = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    open_with(root, name.as_os_str().as_bytes(), flags).at("open source", name.as_os_str().as_bytes())
}

/// A path as a process sees it whose root is `root`: links stay within.
pub fn resolve(root: BorrowedFd<'_>, name: &[u8]) -> Step<OwnedFd> {
    let name = relative(name)?;
    let flags = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    open_with(root, name.as_os_str().as_bytes(), flags).at("find target", name.as_os_str().as_bytes())
}

/// Like [`resolve`], for places where an image has no business with a link.
pub fn plain(root: BorrowedFd<'_>, name: &[u8]) -> Step<OwnedFd> {
    let name = relative(name)?;
    let flags = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
    open_with(root, name.as_os_str().as_bytes(), flags).at("find target", name.as_os_str().as_bytes())
}

/// Makes a path as far as it is missing, a folder or an empty file, and opens it.
pub fn make(root: BorrowedFd<'_>, name: &[u8], folder: bool) -> Step<OwnedFd> {
    match resolve(root, name) {
        Err(failure) if failure.errno == Errno::ENOENT as i32 => {}
        other => return other,
    }
    let full = relative(name)?;
    let (Some(parent), Some(last)) = (full.parent(), full.file_name()) else {
        return Err(refused("make target", name));
    };
    let parent = if parent.as_os_str().is_empty() {
        resolve(root, b".")?
    } else {
        make(root, parent.as_os_str().as_bytes(), true)?
    };
    let made = if folder {
        mkdirat(&parent, last, Mode::from_bits_truncate(0o755))
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&parent, last, flags, Mode::from_bits_truncate(0o644)).map(drop)
    };
    match made {
        // A link that leads nowhere has the name: the last look below says so.
        Ok(()) | Err(Errno::EEXIST) => resolve(root, name),
        Err(errno) => Err(failed("make target", name, errno)),
    }
}

/// Without leading slashes. `..` is refused, not resolved: nobody has a reason to write it.
fn relative(name: &[u8]) -> Step<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path(name).components() {
        match part {
            Component::Normal(part) => plain.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(refused("a path with '..'", name)),
        }
    }
    if plain.as_os_str().is_empty() {
        plain.push(".");
    }
    Ok(plain)
}

fn open_with<F: AsFd>(root: F, name: &[u8], resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    // EAGAIN: something was renamed meanwhile and the kernel could not be sure.
    for _ in 0..64 {
        match openat2(root.as_fd(), path(name), how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out_of_a_hostile_root() {
        let base = std::env::temp_dir().join(format!("plenum-beneath-{}", std::process::id()));
        let root = base.join("root");
        std::fs::create_dir_all(root.join("deep")).unwrap();
        std::fs::create_dir_all(base.join("outside")).unwrap();
        let outside = base.join("outside");
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../outside", root.join("upwards")).unwrap();
        symlink("../../../../../..", root.join("deep/far")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = trusted(root.as_os_str().as_bytes()).unwrap();
        for name in ["absolute/x/y", "upwards/x", "deep/far/z", "magic/m", "new/a/b"] {
            // Made within, or not at all.
            let _made_or_not = make(fd.as_fd(), name.as_bytes(), true);
        }
        assert!(make(fd.as_fd(), b"new/a/file", false).is_ok_and(|file| !is_folder(file.as_fd())));
        assert!(root.join("deep").join("..").join("z").exists());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        for (name, errno) in [("loop", libc::ELOOP), ("new/a/file/x", libc::ENOTDIR), ("../outside", 0)] {
            assert_eq!(make(fd.as_fd(), name.as_bytes(), true).unwrap_err().errno, errno, "{name}");
        }
        for name in ["absolute", "upwards", "deep/far"] {
            assert_eq!(inside(fd.as_fd(), name.as_bytes()).unwrap_err().errno, libc::EXDEV, "{name}");
            assert_eq!(plain(fd.as_fd(), name.as_bytes()).unwrap_err().errno, libc::ELOOP, "{name}");
        }
        std::fs::remove_dir_all(&base).unwrap();
    }
}
