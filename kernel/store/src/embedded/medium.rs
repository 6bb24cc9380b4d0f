//! Where an embedded store's bytes are: a file, or memory for tests.
//!
//! A medium can be opened again and again, because redb gives a database up after any failed read or write.

use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use parking_lot::RwLock;
use redb::backends::FileBackend;
use redb::{BackendError, Database, DatabaseError, StorageBackend, StorageError};

/// How long another process may take to make the file.
const CREATE_WAIT: Duration = Duration::from_secs(5);

/// Something a database can be opened on.
#[doc(hidden)]
pub trait Medium: Send + Sync + Debug {
    /// Opens it, making it if need be.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;
    /// What to call it in an error.
    fn name(&self) -> String;
}

/// redb wants a sized type.
#[derive(Debug)]
pub(super) struct Boxed(pub(super) Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}

/// A file on disk.
#[derive(Debug)]
pub(super) struct FileMedium {
    path: PathBuf,
    opened_before: AtomicBool,
}

impl FileMedium {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), opened_before: AtomicBool::new(false) }
    }
}

impl FileMedium {
    fn parent(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Whether there is a file with anything in it.
    fn is_there(&self) -> io::Result<bool> {
        match std::fs::metadata(&self.path) {
            Ok(found) => Ok(found.len() > 0),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes the file under another name and moves it into place when it is complete and durable: a crash half-way
    /// leaves nothing that looks like a damaged store. Only one process does so at a time.
    fn create(&self) -> io::Result<()> {
        let parent = self.parent();
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let folder = File::open(parent)?;
        let until = Instant::now() + CREATE_WAIT;
        while let Err(TryLockError::WouldBlock) = folder.try_lock() {
            if Instant::now() >= until {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process is making the store's file",
                ));
            }
            std::thread::sleep(CREATE_WAIT / 100);
        }
        if self.is_there()? {
            return Ok(());
        }
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        let _ = std::fs::remove_file(&draft);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&draft)?;
        let made = disk_file(file.try_clone()?).and_then(|disk| {
            let db = Database::builder().create_with_backend(disk).map_err(into_io)?;
            db.close().map_err(into_io)?;
            file.sync_all()
        });
        if let Err(e) = made.and_then(|()| std::fs::rename(&draft, &self.path)) {
            let _ = std::fs::remove_file(&draft);
            return Err(e);
        }
        // The file's name must be as durable as what will be acknowledged in it.
        folder.sync_all()
    }
}

fn into_io(error: DatabaseError) -> io::Error {
    match error {
        DatabaseError::Storage(StorageError::Io(e)) => e,
        other => io::Error::other(other),
    }
}

fn disk_file(file: File) -> io::Result<DiskFile> {
    let same = file.try_clone()?;
    let inner = FileBackend::new(file).map_err(into_io)?;
    Ok(DiskFile { inner, file: same })
}

impl Medium for FileMedium {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        if !self.is_there()? {
            self.create()?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        if self.opened_before.swap(true, Ordering::AcqRel) {
            // After a failed sync the kernel may hold pages that it calls clean and that are not on the disk.
            // What is built on from here must be what the disk has.
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        Ok(Box::new(disk_file(file)?))
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// redb's file, but growing takes the room at once, so that a full disk refuses the growth and never a write to
/// what the file already has: reading, deleting and reopening go on working.
#[derive(Debug)]
struct DiskFile {
    inner: FileBackend,
    file: File,
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.inner.len()?;
        if len > old {
            let number = |n: u64| i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
            match fallocate(&self.file, FallocateFlags::empty(), number(old)?, number(len - old)?) {
                Ok(()) => return Ok(()),
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
                Err(e) => {
                    // What was taken before the room ran out is given back; if not, the next opening does.
                    let _ = self.inner.set_len(old);
                    return Err(e.into());
                }
            }
        }
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// Memory that keeps its contents between openings, for as long as it or a clone lives.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct MemoryMedium(Arc<RwLock<Vec<u8>>>);

impl Medium for MemoryMedium {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

fn span(offset: u64, len: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let end = start.checked_add(len).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(start..end)
}

impl StorageBackend for MemoryMedium {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.read();
        let found = bytes.get(span(offset, out.len())?).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.0.write().resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.write();
        let place = bytes.get_mut(span(offset, data.len())?).ok_or(io::ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(data);
        Ok(())
    }
}
