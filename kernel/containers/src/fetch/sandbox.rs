//! Files below a sandbox. Every path is walked part by part from the sandbox's own descriptor and no link is followed,
//! so that neither an archive nor what an earlier one left behind can lead outside.

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// An open sandbox.
#[derive(Debug)]
pub struct Sandbox {
    dir: Arc<OwnedFd>,
    owner: Option<(u32, u32)>,
}

/// A file that has no proper name yet; removed if it does not get one.
#[derive(Debug)]
pub struct Temporary {
    /// Open for writing.
    pub file: File,
    dir: Arc<OwnedFd>,
    name: OsString,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone if it has got its name.
        let _gone = unlinkat(&*self.dir, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// The parts of a relative path; `None` for one that is empty, absolute or has `..`.
#[must_use]
pub fn parts(path: &Path) -> Option<Vec<OsString>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!parts.is_empty()).then_some(parts)
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl Sandbox {
    /// Opens the sandbox itself, whose path is trusted.
    pub fn open(path: &Path, owner: Option<(u32, u32)>) -> Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self { dir: Arc::new(dir), owner })
    }

    /// A new file with a name of its own.
    pub fn temporary(&self) -> Result<Temporary> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        loop {
            let name = format!(".fetch-{}-{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            match openat(&*self.dir, name.as_str(), flags, Mode::from_bits_truncate(0o600)) {
                Ok(fd) => {
                    return Ok(Temporary { file: fd.into(), dir: Arc::clone(&self.dir), name: name.into() });
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Gives a complete file its owner, mode and name.
    pub fn finish(&self, temporary: Temporary, parts: &[OsString], mode: u32) -> Result<()> {
        self.own(&temporary.file, mode)?;
        let (parent, name) = self.parent(parts)?;
        Ok(renameat(&*self.dir, temporary.name.as_os_str(), &*parent, name)?)
    }

    /// Opens a file for reading.
    pub fn read(&self, parts: &[OsString]) -> Result<File> {
        let (parent, name) = self.parent(parts)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(openat(&*parent, name, flags, Mode::empty())?.into())
    }

    /// Makes a file, in the place of one that is there.
    pub fn create(&self, parts: &[OsString]) -> Result<File> {
        let (parent, name) = self.parent(parts)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        make_room(&parent, name)?;
        Ok(openat(&*parent, name, flags, Mode::from_bits_truncate(0o600))?.into())
    }

    /// Makes a folder and those above it; one that is there stays.
    pub fn folder(&self, parts: &[OsString]) -> Result<Arc<OwnedFd>> {
        let mut dir = Arc::clone(&self.dir);
        for part in parts {
            let made = mkdirat(&*dir, part.as_os_str(), Mode::from_bits_truncate(0o755));
            if !matches!(made, Ok(()) | Err(Errno::EEXIST)) {
                made?;
            }
            // A link in the way is ENOTDIR here.
            let next = openat(&*dir, part.as_os_str(), DIRECTORY, Mode::empty())?;
            if made.is_ok()
                && let Some((uid, gid)) = self.owner
            {
                fchown(&next, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
            dir = Arc::new(next);
        }
        Ok(dir)
    }

    /// Sets the mode of a folder.
    pub fn folder_mode(&self, parts: &[OsString], mode: u32) -> Result<()> {
        let dir = self.folder(parts)?;
        Ok(fchmod(&*dir, Mode::from_bits_truncate(mode & 0o777))?)
    }

    /// Makes a link that is only text to us: it is never followed here.
    pub fn symlink(&self, target: &Path, parts: &[OsString]) -> Result<()> {
        let (parent, name) = self.parent(parts)?;
        make_room(&parent, name)?;
        symlinkat(target, &*parent, name)?;
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            fchownat(&*parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Gives a file of the sandbox a second name.
    pub fn hard_link(&self, target: &[OsString], parts: &[OsString]) -> Result<()> {
        let (from, from_name) = self.parent(target)?;
        let (parent, name) = self.parent(parts)?;
        if target == parts {
            return Ok(());
        }
        make_room(&parent, name)?;
        Ok(linkat(&*from, from_name, &*parent, name, AtFlags::empty())?)
    }

    /// Owner and mode of an open file; no set-user-id bits.
    pub fn own(&self, file: &File, mode: u32) -> Result<()> {
        if let Some((uid, gid)) = self.owner {
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(fchmod(file, Mode::from_bits_truncate(mode & 0o777))?)
    }

    fn parent<'a>(&self, parts: &'a [OsString]) -> Result<(Arc<OwnedFd>, &'a OsStr)> {
        let (name, above) = parts.split_last().ok_or(Errno::EINVAL)?;
        Ok((self.folder(above)?, name.as_os_str()))
    }
}

/// Removes what has the name, unless it is a folder.
fn make_room(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
