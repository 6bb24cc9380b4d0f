//! Project quotas: an id for the folders of a container, and a limit that the kernel holds it to (ext4 with `prjquota`, xfs
//! with `pquota`).
//!
//! Ids come from a range and are kept in a folder, a file for each that is in use with the names of its folders. An id is
//! free again once those folders are gone, not before: what is left of them still counts.

use nix::errno::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where ids come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projects {
    /// The folder that remembers them; outlives a boot, as folders of containers do.
    pub folder: PathBuf,
    /// The first id.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl Projects {
    /// Holds folders, with what is in them, to a number of bytes together. They exist. Gives the id; the same for the same
    /// folders. Without a quota on their file system an error, and nothing has changed. Blocks.
    pub fn limit(&self, folders: &[PathBuf], bytes: u64) -> Result<u32> {
        // Before an id is taken: is this a file system with quotas at all?
        for folder in folders {
            usage(&open(folder)?, self.first)?;
        }
        let project = self.allot(folders)?;
        let held = folders.iter().try_for_each(|folder| {
            set(&open(folder)?, project, bytes)?;
            mark(folder, project)
        });
        held.map(|()| project)
    }

    /// Lifts the limit. The id stays taken until the folders are gone. Blocks.
    pub fn release(&self, project: u32) -> Result<()> {
        for folder in self.folders(project)? {
            match open(&folder) {
                Ok(file) => set(&file, project, 0)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Bytes in use by an id on the file system of a folder. Blocks.
    pub fn used(&self, folder: &Path, project: u32) -> Result<u64> {
        usage(&open(folder)?, project)
    }

    fn file(&self, project: u32) -> PathBuf {
        self.folder.join(project.to_string())
    }

    fn folders(&self, project: u32) -> Result<Vec<PathBuf>> {
        let text = fs::read(self.file(project))?;
        let names = text.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| PathBuf::from(OsStr::from_bytes(name))).collect())
    }

    fn allot(&self, folders: &[PathBuf]) -> Result<u32> {
        // One agent has the folder, with several launches at a time.
        static TURN: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
        let _turn = TURN.lock();
        fs::create_dir_all(&self.folder)?;
        let mut taken = std::collections::BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            let Some(project) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let known = self.folders(project)?;
            if known == folders {
                return Ok(project);
            }
            if known.iter().any(|folder| folder.exists()) {
                taken.insert(project);
            }
        }
        let content =
            folders.iter().flat_map(|name| [name.as_os_str().as_bytes(), b"\0"]).collect::<Vec<_>>().concat();
        for project in self.first..self.first.saturating_add(self.count) {
            if taken.contains(&project) {
                continue;
            }
            // What a crash leaves half-written is overwritten, and no number.
            let new = self.folder.join("new");
            let mut out = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
            out.write_all(&content)?;
            out.sync_all()?;
            fs::rename(&new, self.file(project))?;
            File::open(&self.folder)?.sync_all()?;
            return Ok(project);
        }
        Err(Error::new(ErrorKind::QuotaExceeded, "all project ids are in use; give a larger range"))
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Marks a folder and what is in it already. Nothing of the container runs yet.
fn mark(folder: &Path, project: u32) -> Result<()> {
    attribute(&open(folder)?, project, true)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            mark(&entry.path(), project)?;
        } else if kind.is_file() {
            attribute(&open(&entry.path())?, project, false)?;
        }
    }
    Ok(())
}

/// The kernel's `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    rest: [u8; 8],
}

fn attribute(file: &File, project: u32, inherit: bool) -> Result<()> {
    const GET: libc::c_ulong = 0x801c_581f;
    const SET: libc::c_ulong = 0x401c_5820;
    const INHERIT: u32 = 0x200;
    let mut attributes = Attributes::default();
    // SAFETY: the record is the kernel's, 28 bytes, and alive during the call.
    #[allow(unsafe_code)]
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), GET as _, &raw mut attributes) })?;
    attributes.project = project;
    attributes.flags |= if inherit { INHERIT } else { 0 };
    // SAFETY: as above.
    #[allow(unsafe_code)]
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), SET as _, &raw const attributes) })?;
    Ok(())
}

/// The kernel's `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Quota {
    /// In KiB.
    hard: u64,
    soft: u64,
    /// In bytes.
    used: u64,
    inodes: [u64; 3],
    times: [u64; 2],
    valid: u32,
}

fn quotactl(file: &File, command: u32, project: u32, quota: &mut Quota) -> Result<()> {
    const PROJECT: u32 = 2;
    const QUOTACTL_FD: libc::c_long = 443;
    // SAFETY: the record is the kernel's and alive during the call.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::syscall(
            QUOTACTL_FD,
            file.as_raw_fd(),
            command << 8 | PROJECT,
            project,
            std::ptr::from_mut(quota),
        )
    };
    Errno::result(done)?;
    Ok(())
}

fn usage(file: &File, project: u32) -> Result<u64> {
    const GET: u32 = 0x80_0007;
    let mut quota = Quota::default();
    quotactl(file, GET, project, &mut quota)?;
    Ok(quota.used)
}

fn set(file: &File, project: u32, bytes: u64) -> Result<()> {
    const SET: u32 = 0x80_0008;
    const LIMITS: u32 = 1;
    let hard = if bytes == 0 { 0 } else { (bytes / 1024).max(1) };
    quotactl(file, SET, project, &mut Quota { hard, soft: 0, valid: LIMITS, ..Quota::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_remembered_and_free_when_their_folders_are_gone() {
        let base = tempfile::tempdir().unwrap();
        let projects = Projects { folder: base.path().join("ids"), first: 70, count: 2 };
        let folder = |name: &str| {
            let dir = base.path().join(name);
            fs::create_dir_all(&dir).unwrap();
            dir
        };
        let (a, b, c) = (vec![folder("a"), folder("a2")], vec![folder("b")], vec![folder("c")]);
        assert_eq!(projects.allot(&a).unwrap(), 70);
        assert_eq!(projects.allot(&b).unwrap(), 71);
        assert_eq!(projects.clone().allot(&a).unwrap(), 70, "found again");
        assert_eq!(projects.folders(70).unwrap(), a);
        assert_eq!(projects.allot(&c).unwrap_err().kind(), ErrorKind::QuotaExceeded);
        fs::remove_dir(&a[0]).unwrap();
        assert!(projects.allot(&c).is_err(), "one of its folders is left");
        fs::remove_dir(&a[1]).unwrap();
        assert_eq!(projects.allot(&c).unwrap(), 70);
    }

    #[test]
    fn a_file_system_without_quotas_is_an_error_and_takes_no_id() {
        let base = tempfile::tempdir_in("/dev/shm").unwrap();
        let projects = Projects { folder: base.path().join("ids"), first: 70, count: 2 };
        assert!(projects.limit(&[base.path().to_owned()], 1 << 20).is_err());
        assert!(!projects.folder.exists());
    }
}
