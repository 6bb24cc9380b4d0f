//! Carries entries out: files, folders, links, whiteouts in overlayfs' form, owners, modes, attributes, times.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod,
    fchown, fsetxattr, futimens, linkat, makedev, mknodat, openat2, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::headers::{Entry, Kind, Sparse, shown};
use super::tree::{CONFINED, Inner, Tree, hide_below, is_whiteout, kind_of};
use super::{Fault, Limits};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What one union file system kept for itself under names like this means nothing to anybody else.
const META: &[u8] = b".wh..wh.";

/// Notes that are kept.
const NOTES_MAX: usize = 20;
/// Bytes of paths whose times are set at the end; folders beyond keep the time of unpacking.
const TIMES_MAX: usize = 32 << 20;
/// The largest value of an extended attribute; the kernel's own bound.
const ATTRIBUTE_MAX: usize = 64 * 1024;

/// Makes a layer of entries.
#[derive(Debug)]
pub struct Applier {
    tree: Tree,
    entries: u64,
    entries_max: u64,
    size_max: u64,
    devices: bool,
    notes: Vec<String>,
    times: Vec<(Vec<u8>, Timestamps)>,
    times_bytes: usize,
}

impl Applier {
    /// Into an empty folder.
    pub fn new(into: OwnedFd, below: Vec<OwnedFd>, limits: &Limits) -> Result<Self, Fault> {
        Ok(Self {
            tree: Tree::new(into, below)?,
            entries: 0,
            entries_max: limits.entries,
            size_max: limits.bytes,
            devices: limits.devices,
            notes: Vec::new(),
            times: Vec::new(),
            times_bytes: 0,
        })
    }

    /// Carries one entry out.
    pub fn entry(&mut self, entry: &Entry, body: &mut dyn Read) -> Result<(), Fault> {
        self.entries += 1;
        if self.entries > self.entries_max {
            return Err(Fault::Bomb(format!("{} entries", self.entries_max)));
        }
        let path = Inner::parse(&entry.path)?;
        if path.through_whiteout() {
            return Err(Fault::Archive(format!("{} is within a whiteout", shown(&entry.path))));
        }
        let Some((name, above)) = path.split() else {
            if entry.kind != Kind::Folder {
                return Err(Fault::archive("its root is not a folder"));
            }
            let root = self.tree.folder(b"")?;
            return self.dress_folder(&root, Vec::new(), entry);
        };
        // The kernel's own words are worth nothing without the path.
        self.named(name, above, &path, entry, body).map_err(|fault| match fault {
            Fault::Archive(reason) if !reason.contains('"') => {
                Fault::Archive(format!("{}: {reason}", shown(&entry.path)))
            }
            other => other,
        })
    }

    fn named(
        &mut self,
        name: &OsStr,
        above: Vec<u8>,
        path: &Inner,
        entry: &Entry,
        body: &mut dyn Read,
    ) -> Result<(), Fault> {
        let bytes = name.as_bytes();
        if let Some(hidden) = bytes.strip_prefix(WHITEOUT) {
            return self.whiteout(bytes, hidden, &above);
        }
        if let Kind::Device(..) = entry.kind
            && !self.may_make(entry)
        {
            return Ok(());
        }
        let parent = self.tree.folder(&above)?;
        if entry.kind == Kind::Folder {
            let there = kind_of(&parent, name)?;
            let keep = there.is_none_or(|there| {
                is_whiteout(&there) || FileType::from_raw_mode(there.st_mode) == FileType::Directory
            });
            if !keep {
                self.tree.make_room(&parent, name)?;
            }
            let folder = self.tree.make_folder(&parent, name, &entry.path)?;
            return self.dress_folder(&folder, path.joined(), entry);
        }
        if let Kind::Link(target) = &entry.kind {
            return self.link(target, path, &parent, name);
        }
        self.tree.make_room(&parent, name)?;
        match &entry.kind {
            Kind::File(sparse) => self.file(&parent, name, sparse.as_ref(), entry, body),
            Kind::Symlink(target) => symlink(&parent, name, target, entry),
            Kind::Pipe => node(&parent, name, FileType::Fifo, 0, entry),
            Kind::Device(block, major, minor) => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                node(&parent, name, kind, makedev(*major, *minor), entry)
            }
            Kind::Folder | Kind::Link(_) => Ok(()),
        }
    }

    fn whiteout(&mut self, name: &[u8], hidden: &[u8], above: &[u8]) -> Result<(), Fault> {
        if name == OPAQUE {
            return hide_below(&*self.tree.folder(above)?);
        }
        if name.starts_with(META) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Fault::Archive(format!("the whiteout {} hides nothing", shown(name))));
        }
        let parent = self.tree.folder(above)?;
        self.tree.white_out(&parent, OsStr::from_bytes(hidden))
    }

    /// Device nodes are left out unless they are allowed; 0/0 is overlayfs' own and is never made.
    fn may_make(&mut self, entry: &Entry) -> bool {
        let own = matches!(entry.kind, Kind::Device(false, 0, 0));
        if !self.devices || own {
            self.note(format!("the device {} is left out", shown(&entry.path)));
        }
        self.devices && !own
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    fn link(&mut self, target: &[u8], path: &Inner, parent: &OwnedFd, name: &OsStr) -> Result<(), Fault> {
        let missing =
            || Fault::Archive(format!("it links to {}, which the layer does not have", shown(target)));
        let target_path = Inner::parse(target)?;
        if target_path == *path {
            return Ok(());
        }
        let (from, above) = target_path.split().ok_or_else(missing)?;
        let folder = self.tree.existing(&above).map_err(|_| missing())?;
        let there = kind_of(&folder, from)?.filter(|there| !is_whiteout(there)).ok_or_else(missing)?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return Err(Fault::Archive(format!("it is a hard link to the folder {}", shown(target))));
        }
        self.tree.make_room(parent, name)?;
        // What made room may have been what the link leads to.
        match linkat(&folder, from, parent, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Err(missing()),
            done => Ok(done?),
        }
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        sparse: Option<&Sparse>,
        entry: &Entry,
        body: &mut dyn Read,
    ) -> Result<(), Fault> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat2(parent, name, flags, Mode::from_raw_mode(0o600), CONFINED)?);
        match sparse {
            None => {
                io::copy(body, &mut file)?;
            }
            Some(sparse) => {
                if sparse.size > self.size_max {
                    return Err(Fault::Bomb(format!("{} bytes", self.size_max)));
                }
                file.set_len(sparse.size)?;
                for segment in &sparse.segments {
                    file.seek(SeekFrom::Start(segment.at))?;
                    if io::copy(&mut (&mut *body).take(segment.length), &mut file)? != segment.length {
                        return Err(Fault::archive("it ends in the middle"));
                    }
                }
            }
        }
        let file = OwnedFd::from(file);
        self.dress(&file, entry)?;
        Ok(futimens(&file, &times(entry))?)
    }

    fn dress_folder(&mut self, folder: &OwnedFd, path: Vec<u8>, entry: &Entry) -> Result<(), Fault> {
        self.dress(folder, entry)?;
        // What is put into the folder later would change its time.
        if self.times_bytes + path.len() < TIMES_MAX {
            self.times_bytes += path.len() + size_of::<(Vec<u8>, Timestamps)>();
            self.times.push((path, times(entry)));
        }
        Ok(())
    }

    /// Owner first: a change of it takes set-user-id bits and capabilities away.
    fn dress(&mut self, file: &OwnedFd, entry: &Entry) -> Result<(), Fault> {
        fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        fchmod(file, Mode::from_raw_mode(entry.mode))?;
        for (name, value) in &entry.attributes {
            let known = name == b"security.capability" || name.starts_with(b"user.");
            // overlayfs has names of its own here, too.
            if !known || name.starts_with(b"user.overlay.") {
                continue;
            }
            if name.len() > 255 || name.contains(&0) || value.len() > ATTRIBUTE_MAX {
                return Err(Fault::archive("an extended attribute of it is too large"));
            }
            match fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Ok(()) => {}
                // Some file systems have room for one block only, and say that there is no space.
                Err(Errno::NOTSUP | Errno::NOSPC | Errno::TOOBIG | Errno::PERM) => {
                    let what = format!("the attribute {} of {} is left out", shown(name), shown(&entry.path));
                    self.note(what);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sets the times of folders; returns the number of entries and the notes.
    pub fn finish(self) -> Result<(u64, Vec<String>), Fault> {
        for (path, times) in &self.times {
            // A later entry may have replaced it.
            if let Ok(folder) = self.tree.existing(path) {
                futimens(&folder, times)?;
            }
        }
        Ok((self.entries, self.notes))
    }
}

fn times(entry: &Entry) -> Timestamps {
    let (seconds, nanos) = entry.mtime;
    let at = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: at, last_modification: at }
}

fn own(parent: &OwnedFd, name: &OsStr, entry: &Entry) -> Result<(), Fault> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    Ok(chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn symlink(parent: &OwnedFd, name: &OsStr, target: &[u8], entry: &Entry) -> Result<(), Fault> {
    if target.is_empty() || target.len() > 4095 || target.contains(&0) {
        return Err(Fault::archive("its target is not a path"));
    }
    // Only text to us: nobody follows it here.
    symlinkat(OsStr::from_bytes(target), parent, name)?;
    own(parent, name, entry)?;
    Ok(utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn node(parent: &OwnedFd, name: &OsStr, kind: FileType, device: u64, entry: &Entry) -> Result<(), Fault> {
    mknodat(parent, name, kind, Mode::empty(), device)?;
    own(parent, name, entry)?;
    // The name was made just now and is no link.
    chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    Ok(utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
}
