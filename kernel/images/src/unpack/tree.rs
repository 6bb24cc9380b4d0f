//! The files of a layer that is being unpacked. Every path is opened beneath the layer's root without following a link of any kind, so that nothing
//! in an archive leads out of it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Uid, XattrFlags, fchmod, fchown,
    fsetxattr, fstat, mkdirat, mknodat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use super::Fault;
use super::headers::shown;

/// What overlayfs calls a folder that hides those below it.
const OPAQUE: &str = "trusted.overlay.opaque";

/// The deepest folder. More would only be there to hurt whoever removes it.
const DEPTH_MAX: usize = 200;

/// Beneath, and over no link.
pub const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A path within the layer: its parts, none of them empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    parts: Vec<Vec<u8>>,
}

impl Inner {
    /// Reads a path of an archive. One that begins with `/` begins at the layer's root, as everywhere in images.
    pub fn parse(path: &[u8]) -> Result<Self, Fault> {
        let wrong = |why: &str| Fault::Archive(format!("the path {} {why}", shown(path)));
        if path.len() > 4096 {
            return Err(wrong("is too long"));
        }
        if path.contains(&0) {
            return Err(wrong("has a NUL character"));
        }
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        let parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
        if parts.iter().any(|part| part == b"..") {
            return Err(wrong("leads upwards"));
        }
        if parts.iter().any(|part| part.len() > 255) || parts.len() > DEPTH_MAX {
            return Err(wrong("is too long or too deep"));
        }
        Ok(Self { parts })
    }

    /// The last part and the path of the folder it is in; `None` for the root itself.
    pub fn split(&self) -> Option<(&OsStr, Vec<u8>)> {
        let (name, above) = self.parts.split_last()?;
        Some((OsStr::from_bytes(name), above.join(&b'/')))
    }

    /// The path without a slash before it; empty for the root.
    pub fn joined(&self) -> Vec<u8> {
        self.parts.join(&b'/')
    }

    /// Whether a folder on the way is named like a whiteout.
    pub fn through_whiteout(&self) -> bool {
        self.parts.split_last().is_some_and(|(_, above)| above.iter().any(|part| part.starts_with(b".wh.")))
    }
}

/// The layer's folder.
#[derive(Debug)]
pub struct Tree {
    root: Rc<OwnedFd>,
    below: Vec<OwnedFd>,
    /// The folder that was used last.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
}

impl Tree {
    /// Takes an empty folder; it becomes like the root of the layer below.
    pub fn new(root: OwnedFd, below: Vec<OwnedFd>) -> Result<Self, Fault> {
        let tree = Self { root: Rc::new(root), below, last: None };
        tree.like_below(b"", &tree.root)?;
        Ok(tree)
    }

    /// Opens a folder, making what is missing on the way.
    pub fn folder(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Fault> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Rc::clone(folder));
        }
        let folder = match self.open(path) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
                    Some(slash) => {
                        (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default())
                    }
                    None => (&[][..], path),
                };
                let parent = self.folder(above)?;
                let folder = self.make_folder(&parent, OsStr::from_bytes(name), path)?;
                self.like_below(path, &folder)?;
                folder
            }
            Err(Errno::LOOP) => {
                return Err(Fault::Archive(format!("the path {} goes through a symbolic link", shown(path))));
            }
            Err(errno) => return Err(errno.into()),
        };
        let folder = Rc::new(folder);
        self.last = Some((path.to_vec(), Rc::clone(&folder)));
        Ok(folder)
    }

    /// The folder of an existing path; nothing is made.
    pub fn existing(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return openat2(&self.root, ".", FOLDER, Mode::empty(), CONFINED);
        }
        self.open(path)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        openat2(&self.root, OsStr::from_bytes(path), FOLDER, Mode::empty(), CONFINED)
    }

    /// Makes a folder, or opens the one that is there; a whiteout that is there makes it opaque. Anything else is no folder.
    pub fn make_folder(&mut self, parent: &OwnedFd, name: &OsStr, path: &[u8]) -> Result<OwnedFd, Fault> {
        let hidden = match kind_of(parent, name)? {
            Some(there) if is_whiteout(&there) => {
                unlinkat(parent, name, AtFlags::empty())?;
                true
            }
            Some(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                return Ok(openat2(parent, name, FOLDER, Mode::empty(), CONFINED)?);
            }
            Some(there) => {
                let link = FileType::from_raw_mode(there.st_mode) == FileType::Symlink;
                let why = if link {
                    "goes through a symbolic link"
                } else {
                    "is not a folder, but has something in it"
                };
                return Err(Fault::Archive(format!("the path {} {why}", shown(path))));
            }
            None => false,
        };
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        let folder = openat2(parent, name, FOLDER, Mode::empty(), CONFINED)?;
        fchmod(&folder, Mode::from_raw_mode(0o755))?;
        if hidden {
            hide_below(&folder)?;
        }
        Ok(folder)
    }

    /// Removes what has the name, whatever it is; returns whether it was a whiteout.
    pub fn make_room(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<bool, Fault> {
        let Some(there) = kind_of(parent, name)? else { return Ok(false) };
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            self.last = None;
            remove_beneath(parent, name)?;
        } else {
            unlinkat(parent, name, AtFlags::empty())?;
        }
        Ok(is_whiteout(&there))
    }

    /// Hides a name of the layers below.
    pub fn white_out(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Fault> {
        match kind_of(parent, name)? {
            // What this layer has itself stays, and hides what is below.
            Some(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                hide_below(&openat2(parent, name, FOLDER, Mode::empty(), CONFINED)?)
            }
            Some(_) => Ok(()),
            None => Ok(mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)?),
        }
    }

    /// A folder that the archive does not mention is like the one that it covers.
    fn like_below(&self, path: &[u8], folder: &OwnedFd) -> Result<(), Fault> {
        let Some(found) = self.below.iter().rev().find_map(|layer| covered(layer, path)) else {
            return Ok(());
        };
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            fchown(folder, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
            fchmod(folder, Mode::from_raw_mode(found.st_mode as RawMode & 0o7777))?;
        }
        Ok(())
    }
}

/// Hides everything in the folder that layers below have.
pub fn hide_below(folder: &OwnedFd) -> Result<(), Fault> {
    Ok(fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())?)
}

/// What a layer below has under this path; also a whiteout, where the search ends.
fn covered(layer: &OwnedFd, path: &[u8]) -> Option<Stat> {
    if path.is_empty() {
        return fstat(layer).ok();
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat2(layer, OsStr::from_bytes(path), flags, Mode::empty(), CONFINED).ok()?;
    fstat(&found).ok()
}

/// What has the name, if anything.
pub fn kind_of(parent: &OwnedFd, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// overlayfs' form of "gone": a character device 0/0.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes a folder and everything in it, following nothing.
pub(crate) fn remove_beneath(parent: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    {
        let folder = openat2(parent.as_fd(), name, FOLDER, Mode::empty(), CONFINED)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.push(entry.file_name().to_owned());
            }
        }
        for entry in names {
            let entry = OsStr::from_bytes(entry.to_bytes());
            match unlinkat(&folder, entry, AtFlags::empty()) {
                Err(Errno::ISDIR) => remove_beneath(&folder, entry)?,
                done => done?,
            }
        }
    }
    unlinkat(parent.as_fd(), name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_archives() {
        for (path, want) in [
            ("a/b", Some("a/b")),
            ("./a//b/", Some("a/b")),
            ("/etc/passwd", Some("etc/passwd")),
            ("///", Some("")),
            (".", Some("")),
            ("../a", None),
            ("a/../../b", None),
            ("a/..", None),
            ("a\0b", None),
        ] {
            let parsed = Inner::parse(path.as_bytes()).ok().map(|inner| inner.joined());
            assert_eq!(parsed.as_deref(), want.map(str::as_bytes), "{path}");
        }
        assert!(Inner::parse("a/".repeat(300).as_bytes()).is_err());
        assert!(Inner::parse("a".repeat(300).as_bytes()).is_err());
    }
}
