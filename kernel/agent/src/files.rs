//! Files of this agent that may be read over HTTP: sandboxes under their real paths, and the agent's own log.
//!
//! Tasks own what is inside their sandboxes, symbolic links, pipes and device nodes included. So a path is split in two: the part down
//! to the run's folder is made of names the agent chose, the rest is opened by the kernel with `RESOLVE_BENEATH`, first without
//! touching it (`O_PATH`), and read only when it is a regular file or a folder.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Most bytes that one read answers with (Mesos: 16 pages).
pub const MAX_READ: u64 = 16 * 4096;
/// Most entries of a folder that are listed.
const MAX_ENTRIES: usize = 10_000;
/// `slaves/<S>/frameworks/<F>/executors/<E>/runs/<container>`: the fixed words and where the names stand.
const SHAPE: [&str; 8] = ["slaves", "", "frameworks", "", "executors", "", "runs", ""];

/// Why a file cannot be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilesError {
    /// No such path, or not one that is served.
    #[error("There is no such file or folder, or it is not one that this agent serves.")]
    NotFound,
    /// The path is a folder where a file is needed.
    #[error("Cannot read a directory.")]
    Directory,
    /// The path is a file where a folder is needed.
    #[error("This is a file, not a directory.")]
    NotDirectory,
    /// A pipe, socket or device.
    #[error("Only regular files can be read.")]
    NotRegular,
    /// The operating system refused.
    #[error("The file cannot be read: {0}.")]
    Io(String),
}

/// One entry of a folder, as `/files/browse` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Virtual path.
    pub path: String,
    /// Hard links.
    pub nlink: u64,
    /// Bytes.
    pub size: u64,
    /// Modification time: seconds since 1970.
    pub mtime: f64,
    /// `st_mode`.
    pub mode: u32,
    /// Owner's name, or number.
    pub uid: String,
    /// Group's name, or number.
    pub gid: String,
}

/// What may be served.
#[derive(Debug, Clone)]
pub struct Files {
    work_dir: PathBuf,
    /// Virtual path to one real file.
    named: BTreeMap<String, PathBuf>,
}

impl Files {
    /// Serves sandboxes below `work_dir` and `log` (if there is one) as `/slave/log` and `/agent/log`.
    pub fn new(work_dir: &Path, log: Option<&Path>) -> Self {
        let mut named = BTreeMap::new();
        for name in ["/slave/log", "/agent/log"] {
            if let Some(log) = log {
                named.insert(name.to_owned(), log.to_path_buf());
            }
        }
        Self { work_dir: work_dir.to_path_buf(), named }
    }

    /// The fixed virtual paths and their real ones.
    pub fn named(&self) -> &BTreeMap<String, PathBuf> {
        &self.named
    }

    /// Lists a folder, by name.
    ///
    /// # Errors
    /// As [`FilesError`] says.
    pub fn browse(&self, path: &str) -> Result<Vec<Entry>, FilesError> {
        let fd = self.open_path(path)?;
        let meta = metadata(&fd)?;
        if !meta.is_dir() {
            return Err(FilesError::NotDirectory);
        }
        let base = path.trim_end_matches('/');
        let mut names = NameCache::default();
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(proc_path(&fd)).map_err(io_error)?.take(MAX_ENTRIES) {
            let entry = entry.map_err(io_error)?;
            // Never follows: what a link points to is decided when it is opened.
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            let name = entry.file_name();
            entries.push(Entry {
                path: format!("{base}/{}", name.to_string_lossy()),
                nlink: meta.nlink(),
                size: meta.size(),
                mtime: meta.mtime() as f64,
                mode: meta.mode(),
                uid: names.user(meta.uid()),
                gid: names.group(meta.gid()),
            });
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Reads at most [`MAX_READ`] bytes from `offset`; gives the file's size and the bytes. Without a length: to the end.
    ///
    /// # Errors
    /// As [`FilesError`] says.
    pub fn read(&self, path: &str, offset: u64, length: Option<u64>) -> Result<(u64, Vec<u8>), FilesError> {
        let (mut file, size) = self.open(path)?;
        if offset >= size || length == Some(0) {
            return Ok((size, Vec::new()));
        }
        let length = length.unwrap_or(u64::MAX).min(MAX_READ);
        file.seek(SeekFrom::Start(offset)).map_err(io_error)?;
        let mut data = Vec::new();
        file.take(length).read_to_end(&mut data).map_err(io_error)?;
        Ok((size, data))
    }

    /// Opens a regular file for reading; gives its size at that moment.
    ///
    /// # Errors
    /// As [`FilesError`] says.
    pub fn open(&self, path: &str) -> Result<(File, u64), FilesError> {
        let fd = self.open_path(path)?;
        let meta = metadata(&fd)?;
        if meta.is_dir() {
            return Err(FilesError::Directory);
        }
        if !meta.is_file() {
            return Err(FilesError::NotRegular);
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
            .open(proc_path(&fd))
            .map_err(io_error)?;
        Ok((file, meta.len()))
    }

    /// A descriptor that only names the file (`O_PATH`).
    fn open_path(&self, path: &str) -> Result<OwnedFd, FilesError> {
        if path.contains('\0') || path.len() > 4096 {
            return Err(FilesError::NotFound);
        }
        if let Some(real) = self.named.get(path.trim_end_matches('/')) {
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(nix::libc::O_PATH | nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
                .open(real)
                .map_err(io_error)?;
            return Ok(file.into());
        }
        let (run, rest) = self.split(path)?;
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY | nix::libc::O_CLOEXEC)
            .open(run)
            .map_err(io_error)?;
        if rest.as_os_str().is_empty() {
            return Ok(dir.into());
        }
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&dir, &rest, how).map_err(|errno| match errno {
            nix::errno::Errno::EXDEV | nix::errno::Errno::ELOOP => FilesError::NotFound,
            other => io_error(other.into()),
        })
    }

    /// Splits a virtual path into the folder of a run and the path inside it, checking each component.
    fn split(&self, path: &str) -> Result<(PathBuf, PathBuf), FilesError> {
        let inside = Path::new(path).strip_prefix(&self.work_dir).map_err(|_| FilesError::NotFound)?;
        let mut parts = Vec::new();
        for part in inside.components() {
            match part {
                std::path::Component::Normal(part) => parts.push(part.to_str().ok_or(FilesError::NotFound)?),
                std::path::Component::CurDir => {}
                _ => return Err(FilesError::NotFound),
            }
        }
        let fits = parts.len() >= SHAPE.len()
            && SHAPE.iter().zip(&parts).all(|(want, have)| want.is_empty() || want == have);
        if !fits {
            return Err(FilesError::NotFound);
        }
        let (head, rest) = parts.split_at(SHAPE.len());
        let mut run = self.work_dir.clone();
        run.extend(head);
        Ok((run, rest.iter().collect()))
    }
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn metadata(fd: &OwnedFd) -> Result<std::fs::Metadata, FilesError> {
    std::fs::metadata(proc_path(fd)).map_err(io_error)
}

fn io_error(error: std::io::Error) -> FilesError {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => FilesError::NotFound,
        _ => FilesError::Io(error.to_string()),
    }
}

/// `ls -l`'s ten letters.
pub fn mode_letters(mode: u32) -> String {
    let kind = match mode & nix::libc::S_IFMT {
        nix::libc::S_IFDIR => 'd',
        nix::libc::S_IFLNK => 'l',
        nix::libc::S_IFIFO => 'p',
        nix::libc::S_IFSOCK => 's',
        nix::libc::S_IFCHR => 'c',
        nix::libc::S_IFBLK => 'b',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, true) => 'x',
            (false, false) => '-',
            (true, true) => set,
            (true, false) => set.to_ascii_uppercase(),
        });
    }
    text
}

/// Names of users and groups, asked once a listing.
#[derive(Default)]
struct NameCache {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl NameCache {
    fn user(&mut self, id: u32) -> String {
        let lookup = || plenum_base::users::lookup(&id.to_string()).map(|user| user.name);
        self.users.entry(id).or_insert_with(|| lookup().unwrap_or_else(|| id.to_string())).clone()
    }

    fn group(&mut self, id: u32) -> String {
        let lookup = || plenum_base::users::lookup_group(&id.to_string()).map(|group| group.name);
        self.groups.entry(id).or_insert_with(|| lookup().unwrap_or_else(|| id.to_string())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn fixture(name: &str) -> (PathBuf, String, Files) {
        let dir = std::env::temp_dir().join(format!("plenum-agent-files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let run = dir.join("slaves/S/frameworks/F/executors/E/runs/C");
        fs::create_dir_all(run.join("sub")).unwrap();
        fs::write(run.join("stdout"), b"hello\n").unwrap();
        fs::create_dir_all(dir.join("meta")).unwrap();
        fs::write(dir.join("meta/agent"), b"secret").unwrap();
        symlink("C", run.parent().unwrap().join("latest")).unwrap();
        let files = Files::new(&dir, None);
        (dir, run.to_str().unwrap().to_owned(), files)
    }

    #[test]
    fn reads_with_offset_and_length() {
        let (dir, run, files) = fixture("read");
        let stdout = format!("{run}/stdout");
        let all: &[u8] = b"hello\n";
        for (offset, length, expect) in [
            (0, None, all),
            (0, Some(0), b"".as_slice()),
            (1, Some(2), b"el".as_slice()),
            (6, None, b"".as_slice()),
            (u64::MAX, Some(5), b"".as_slice()),
        ] {
            assert_eq!(files.read(&stdout, offset, length), Ok((6, expect.to_vec())), "{offset} {length:?}");
        }
        assert_eq!(files.read(&run, 0, None), Err(FilesError::Directory));
        let latest = run.replace("runs/C", "runs/latest");
        assert_eq!(files.read(&format!("{latest}/stdout"), 0, None), Ok((6, all.to_vec())));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn nothing_outside_a_run_is_reachable() {
        let (dir, run, files) = fixture("escape");
        let at = |rest: &str| format!("{run}/{rest}");
        symlink("/etc/passwd", at("absolute")).unwrap();
        symlink("../../../../../../../../meta/agent", at("relative")).unwrap();
        symlink("/proc/self/environ", at("proc")).unwrap();
        symlink("stdout", at("fine")).unwrap();
        nix::unistd::mkfifo(Path::new(&at("pipe")), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [
            at("absolute"),
            at("relative"),
            at("proc"),
            at("../../../../../../../../meta/agent"),
            at("sub/../../C/stdout"),
            "/etc/passwd".to_owned(),
            "/slave/log".to_owned(),
            String::new(),
            format!("{}/meta/agent", dir.display()),
            format!("{}/slaves/S/frameworks/F/executors/E/runs", dir.display()),
            format!("{}/slaves/../meta/agent", dir.display()),
            at("nul\0byte"),
        ] {
            assert_eq!(files.read(&path, 0, None), Err(FilesError::NotFound), "{path}");
        }
        assert_eq!(files.read(&at("pipe"), 0, None), Err(FilesError::NotRegular));
        assert_eq!(files.read(&at("fine"), 0, None).unwrap().0, 6);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn lists_with_modes_and_owners() {
        let (dir, run, files) = fixture("browse");
        let entries = files.browse(&format!("{run}/")).unwrap();
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, vec![format!("{run}/stdout"), format!("{run}/sub")]);
        assert_eq!(entries[0].size, 6);
        assert!(mode_letters(entries[0].mode).starts_with("-rw"));
        assert!(mode_letters(entries[1].mode).starts_with("drwx"));
        assert_eq!(files.browse(&format!("{run}/stdout")), Err(FilesError::NotDirectory));
        assert_eq!(mode_letters(0o104755), "-rwsr-xr-x");
        assert_eq!(mode_letters(0o41777), "drwxrwxrwt");
        fs::remove_dir_all(dir).unwrap();
    }
}
