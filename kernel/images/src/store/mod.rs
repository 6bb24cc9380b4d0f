//! The content store of a node: blobs by digest, unpacked layers by what they make together with those below, records of complete images, holds.
//! Everything appears by a rename, so that a crash leaves what was there before or what comes after; the rest is in `tmp` and goes at the next
//! open. Blocks.
//!
//! ```text
//! lock                      one process
//! blobs/<digest>            manifests, configurations, layers that wait to be unpacked
//! partial/<digest>          downloads that are not complete
//! layers/<chain>/fs         an unpacked layer; <chain> is the first half of its chain id
//! layers/<chain>/layer.json what it is
//! images/<digest>.json      an image that is complete; its time of change is its last use
//! holds/<container>         the manifest that the container runs
//! tags/<digest of a name>   what the name meant last
//! tmp/                      what is being made or removed
//! ```

pub mod collect;
mod holds;
pub(crate) mod layers;
mod tags;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use plenum_base::files;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::ImageError;
use crate::pins::Pinned;
pub use layers::LayerNote;

const FOLDERS: [&str; 7] = ["blobs", "partial", "layers", "images", "holds", "tags", "tmp"];
/// Nothing of ours in these folders is larger.
const RECORD_MAX: u64 = 1 << 20;

/// A complete image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its manifest.
    pub manifest: Digest,
    /// Its configuration.
    pub config: Digest,
    /// The chain ids of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes that its layers unpacked to.
    pub bytes: u64,
    /// As which it was pulled first.
    pub pinned: Pinned,
    /// Other documents that lead to it: indexes.
    #[serde(default)]
    pub indexes: BTreeSet<Digest>,
}

/// The store. One process has it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
    next: AtomicU64,
    /// What pulls that go on need, by file name, with how many of them do. Whoever removes something holds the lock while it looks and renames.
    wanted: Mutex<BTreeMap<String, u32>>,
}

impl Store {
    /// Opens or makes the store, and throws away what was half made.
    ///
    /// # Errors
    /// [`ImageError::Busy`], [`ImageError::Io`], [`ImageError::DiskFull`].
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        let io = |error| ImageError::io(format!("opening the image store {}", folder.display()))(error);
        // Nobody else may run the set-user-id programs of images.
        files::private_dir(folder).map_err(io)?;
        let lock =
            File::options().write(true).create(true).truncate(false).open(folder.join("lock")).map_err(io)?;
        take(&lock, folder)?;
        for name in FOLDERS {
            files::private_dir(&folder.join(name)).map_err(io)?;
        }
        let store = Self {
            folder: folder.to_owned(),
            _lock: lock,
            next: AtomicU64::new(0),
            wanted: Mutex::default(),
        };
        for name in names(&store.folder.join("tmp")).map_err(io)? {
            store.clear(&store.folder.join("tmp").join(name)).map_err(io)?;
        }
        // Files that a crash left beside the one they were to replace.
        for part in ["blobs", "images", "holds", "tags"] {
            for name in
                names(&store.folder.join(part)).map_err(io)?.iter().filter(|name| name.ends_with(".tmp"))
            {
                fs::remove_file(store.folder.join(part).join(name)).map_err(io)?;
            }
        }
        Ok(store)
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.file_name())
    }

    pub(crate) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("partial").join(digest.file_name())
    }

    fn record_path(&self, manifest: &Digest) -> PathBuf {
        self.folder.join("images").join(format!("{}.json", manifest.file_name()))
    }

    /// A new name in `tmp`.
    pub(crate) fn temporary(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folder.join("tmp").join(format!("{}-{number}", std::process::id()))
    }

    /// Bytes that are free on the store's disk.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn free(&self) -> Result<u64, ImageError> {
        let found = rustix::fs::statvfs(&self.folder).map_err(io::Error::from);
        let found = found.map_err(ImageError::io("looking at the image store's disk"))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Keeps a document whose digest was checked.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::DiskFull`].
    pub fn put(&self, digest: &Digest, content: &[u8]) -> Result<(), ImageError> {
        let path = self.blob_path(digest);
        if path.exists() {
            return Ok(());
        }
        files::replace(&path, content, 0o600).map_err(ImageError::io("keeping a document of an image"))
    }

    /// A document that was kept, if it is there and still what its digest says.
    #[must_use]
    pub fn get(&self, digest: &Digest, limit: u64) -> Option<Vec<u8>> {
        let content = read(&self.blob_path(digest), limit).ok()?;
        digest.matches(&content).then_some(content)
    }

    /// The record of an image whose layers are all there.
    #[must_use]
    pub fn record(&self, manifest: &Digest) -> Option<Record> {
        let record = self.read_record(&self.record_path(manifest))?;
        (record.manifest == *manifest && record.layers.iter().all(|id| self.has_layer(id))).then_some(record)
    }

    fn read_record(&self, path: &Path) -> Option<Record> {
        serde_json::from_slice(&read(path, RECORD_MAX).ok()?).ok()
    }

    /// Records a complete image.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::DiskFull`].
    pub fn put_record(&self, record: &Record) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(record).unwrap_or_default();
        files::replace(&self.record_path(&record.manifest), &bytes, 0o600)
            .map_err(ImageError::io("recording an image"))
    }

    /// The image was used now.
    pub fn touch(&self, manifest: &Digest, now: SystemTime) {
        let file = File::options().write(true).open(self.record_path(manifest));
        // It is only remembered for collection.
        let _ = file.and_then(|file| file.set_modified(now));
    }

    /// All complete images with their last use.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn records(&self) -> Result<Vec<(Record, SystemTime)>, ImageError> {
        let folder = self.folder.join("images");
        let mut records = Vec::new();
        for name in names(&folder).map_err(ImageError::io("listing images"))? {
            let path = folder.join(name);
            let used = fs::metadata(&path).and_then(|found| found.modified());
            if let (Some(record), Ok(used)) = (self.read_record(&path), used) {
                records.push((record, used));
            }
        }
        Ok(records)
    }

    /// Removes a folder or a file at once, however long what is in it takes: it is renamed first.
    fn discard(&self, path: &Path) -> io::Result<PathBuf> {
        let temporary = self.temporary();
        fs::rename(path, &temporary)?;
        Ok(temporary)
    }

    /// Removes what is in `tmp`, following nothing.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => {
                let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
                Ok(crate::unpack::remove_beneath(File::open(folder)?, name)?)
            }
            Ok(_) => fs::remove_file(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// As [`Store::remove`], while a process that was unpacking there may still be ending: it was killed with its agent, but not at once.
    fn clear(&self, path: &Path) -> io::Result<()> {
        for _ in 0..20 {
            match self.remove(path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                done => return done,
            }
        }
        self.remove(path)
    }

    /// Says that a pull needs these until the guard is dropped.
    pub(crate) fn want(self: &std::sync::Arc<Self>, names: Vec<String>) -> Wanted {
        let mut wanted = self.wanted.lock();
        for name in &names {
            *wanted.entry(name.clone()).or_default() += 1;
        }
        drop(wanted);
        Wanted { store: std::sync::Arc::clone(self), names }
    }

    /// Removes the packed form of layers that nobody but the caller needs.
    pub(crate) fn drop_packed(&self, blobs: &[Digest]) {
        let wanted = self.wanted.lock();
        for digest in blobs {
            if wanted.get(&digest.file_name()).is_none_or(|pulls| *pulls <= 1) {
                // It is found again at collection.
                let _ = fs::remove_file(self.blob_path(digest));
            }
        }
    }
}

/// Takes the lock; waits a moment for one who is just ending, or who is between fork and exec and has a copy of it.
fn take(lock: &File, folder: &Path) -> Result<(), ImageError> {
    for attempt in 0..25 {
        if attempt > 0 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(ImageError::io(format!("locking the image store {}", folder.display()))(error));
            }
        }
    }
    Err(ImageError::Busy { folder: folder.display().to_string() })
}

/// What a pull needs and nobody removes.
#[derive(Debug)]
pub(crate) struct Wanted {
    store: std::sync::Arc<Store>,
    names: Vec<String>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut wanted = self.store.wanted.lock();
        for name in &self.names {
            match wanted.get_mut(name) {
                Some(pulls) if *pulls > 1 => *pulls -= 1,
                _ => drop(wanted.remove(name)),
            }
        }
    }
}

/// The names in a folder that are text; nothing of ours is not.
pub(crate) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// A file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut content = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}
