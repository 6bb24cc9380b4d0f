//! What tasks fetched, kept on the node for the next ones that ask for the same and say that it may be kept.
//!
//! A file is kept by its URI and the user who fetched it, with its digest, so that what was damaged on the disk is noticed when it is copied
//! out. Kept files are never changed and never linked: a task gets a copy. Names appear by renaming, so that whatever is killed when, a file
//! is whole or not there. The cache has a size; who was not asked for longest goes first. Nothing depends on it: where it fails, the
//! server is asked.

use parking_lot::Mutex;
use plenum_images::Digest;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Files of this kind are not complete.
const PART: &str = "part";
/// The content.
const DATA: &str = "data";
/// What is known of it.
const NOTE: &str = "note";

/// A cache. Clones are the same.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    capacity: u64,
    used: AtomicU64,
    next: AtomicU64,
    /// One at a time fetches what several want.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Something that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub file: File,
    pub digest: Digest,
    /// What the server calls this content.
    pub validator: Option<String>,
}

impl Cache {
    /// Opens a folder for the owner alone and removes what is not complete. Blocks for a moment.
    ///
    /// # Errors
    /// Those of the folder.
    pub fn open(folder: &Path, capacity: u64) -> Result<Self> {
        plenum_base::files::private_dir(folder)?;
        let inner = Inner {
            folder: folder.to_owned(),
            capacity,
            used: AtomicU64::new(0),
            next: AtomicU64::new(0),
            turns: Mutex::default(),
        };
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let whole = match path.extension().and_then(|kind| kind.to_str()) {
                Some(NOTE) => path.with_extension(DATA).exists(),
                Some(DATA) => path.with_extension(NOTE).exists(),
                _ => false,
            };
            if !whole {
                std::fs::remove_file(path)?;
            }
        }
        inner.used.store(inner.all()?.iter().map(|(_, size, _)| size).sum(), Ordering::Relaxed);
        Ok(Self(Arc::new(inner)))
    }

    /// Bytes kept.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Most bytes kept.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.0.capacity
    }

    /// The name of what `owner` fetches from `uri`. URIs may hold passwords, so they are not in it.
    pub(super) fn key(owner: Option<(u32, u32)>, uri: &str) -> String {
        let who = owner.map_or("-".to_owned(), |(uid, gid)| format!("{uid}:{gid}"));
        Digest::of(format!("{who} {uri}").as_bytes()).hex().to_owned()
    }

    /// Waits until nobody else fetches the same.
    pub(super) async fn turn(&self, key: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.turns.lock();
            // Those that nobody holds or waits for are of no use.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    /// What is kept under a name.
    pub(super) fn find(&self, key: &str) -> Option<Kept> {
        let (note, data) = (self.0.path(key, NOTE), self.0.path(key, DATA));
        let text = std::fs::read_to_string(&note).ok()?;
        let mut lines = text.lines();
        let digest = lines.next()?.parse().ok()?;
        let validator = lines.next().map(str::to_owned).filter(|line| !line.is_empty());
        let file = File::open(data).ok()?;
        // When it was last asked for. One that cannot say so is asked for less often than it seems.
        let _ = File::options().append(true).open(note).and_then(|file| file.set_modified(SystemTime::now()));
        Some(Kept { file, digest, validator })
    }

    /// Keeps a copy of what was fetched, unless it is too large.
    pub(super) fn keep(&self, key: &str, mut from: File, validator: Option<&str>) -> Result<()> {
        let size = from.metadata()?.len();
        self.forget(key);
        if size > self.0.capacity || !self.0.make_room(size)? {
            return Ok(());
        }
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let part = self.0.folder.join(format!("{key}-{number}.{PART}"));
        let done = self.0.lay_down(key, &part, &mut from, validator.unwrap_or_default());
        match &done {
            Ok(()) => drop(self.0.used.fetch_add(size, Ordering::Relaxed)),
            Err(_) => drop(std::fs::remove_file(&part)),
        }
        done
    }

    /// Removes what is kept under a name.
    pub(super) fn forget(&self, key: &str) {
        self.0.remove(key);
    }
}

impl Inner {
    fn path(&self, key: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{key}.{kind}"))
    }

    fn lay_down(&self, key: &str, part: &Path, from: &mut File, validator: &str) -> Result<()> {
        let mut to = File::options().write(true).create_new(true).open(part)?;
        from.rewind()?;
        let digest = copy(from, &mut to)?;
        std::fs::rename(part, self.path(key, DATA))?;
        // Without its note a content counts for nothing.
        let mut note = File::options().write(true).create(true).truncate(true).open(part)?;
        writeln!(note, "{digest}\n{}", validator.lines().next().unwrap_or_default())?;
        std::fs::rename(part, self.path(key, NOTE))
    }

    /// Name, size and time of last use of everything.
    fn all(&self) -> Result<Vec<(String, u64, SystemTime)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().and_then(|kind| kind.to_str()) != Some(DATA) {
                continue;
            }
            let Some(key) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            // It may go while we look.
            let (Ok(data), Ok(note)) = (path.metadata(), self.path(key, NOTE).metadata()) else { continue };
            all.push((key.to_owned(), data.len(), note.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
        }
        Ok(all)
    }

    /// Removes what was not asked for longest until so much fits. Whoever copies from a file that goes has it open.
    fn make_room(&self, size: u64) -> Result<bool> {
        let fits = || self.used.load(Ordering::Relaxed).saturating_add(size) <= self.capacity;
        if fits() {
            return Ok(true);
        }
        let mut all = self.all()?;
        all.sort_by_key(|(_, _, used)| *used);
        for (key, ..) in all {
            if fits() {
                break;
            }
            self.remove(&key);
        }
        Ok(fits())
    }

    fn remove(&self, key: &str) {
        let data = self.path(key, DATA);
        let size = data.metadata().map_or(0, |meta| meta.len());
        // The note first: what is left without one is removed by the next start.
        let _ = std::fs::remove_file(self.path(key, NOTE));
        if std::fs::remove_file(data).is_ok() {
            let less = |used: u64| Some(used.saturating_sub(size));
            let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

impl Kept {
    /// Copies it to the end of `to`; gives its size.
    ///
    /// # Errors
    /// `InvalidData` when it is not what was kept.
    pub fn copy_to(mut self, to: &mut File) -> Result<u64> {
        to.set_len(0)?;
        to.rewind()?;
        let found = copy(&mut self.file, to)?;
        if found != self.digest {
            return Err(Error::new(ErrorKind::InvalidData, "it was damaged on the disk"));
        }
        to.stream_position()
    }
}

/// Copies all that is left; gives its digest.
fn copy(from: &mut File, to: &mut File) -> Result<Digest> {
    let mut hasher = Digest::of(b"").hasher();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = from.read(&mut buffer)?;
        let piece = buffer.get(..n).unwrap_or_default();
        if piece.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(piece);
        to.write_all(piece)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, content: &[u8]) -> File {
        let path = dir.join("content");
        std::fs::write(&path, content).unwrap();
        File::open(path).unwrap()
    }

    fn content(kept: Kept, dir: &Path) -> Result<Vec<u8>> {
        let path = dir.join("copy");
        let mut to = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        kept.copy_to(&mut to)?;
        std::fs::read(path)
    }

    #[test]
    fn what_is_kept_comes_back_until_others_need_the_room() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        let cache = Cache::open(&folder, 10).unwrap();
        for (key, bytes) in [("a", b"aaaa"), ("b", b"bbbb")] {
            cache.keep(key, file(dir.path(), bytes), Some("\"1\"")).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let kept = cache.find("a").unwrap();
        assert_eq!(kept.validator.as_deref(), Some("\"1\""));
        assert_eq!(content(kept, dir.path()).unwrap(), b"aaaa");
        cache.keep("c", file(dir.path(), b"cccc"), None).unwrap();
        assert!(cache.find("b").is_none(), "a was asked for later");
        cache.keep("d", file(dir.path(), b"too large a file"), None).unwrap();
        assert!(cache.find("d").is_none() && cache.find("a").is_some() && cache.find("c").is_some());
        assert_eq!(cache.used(), 8);
        std::fs::write(folder.join("e-1.part"), b"half").unwrap();
        std::fs::write(folder.join("f.data"), b"no note").unwrap();
        let again = Cache::open(&folder, 10).unwrap();
        assert_eq!((again.used(), std::fs::read_dir(&folder).unwrap().count()), (8, 4));
        assert_eq!(again.find("c").unwrap().validator, None);
    }

    #[test]
    fn what_was_damaged_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("cache");
        let cache = Cache::open(&folder, 100).unwrap();
        cache.keep("a", file(dir.path(), b"aaaa"), None).unwrap();
        for damage in [&b"aaab"[..], b"aaa", b""] {
            std::fs::write(folder.join("a.data"), damage).unwrap();
            let error = content(cache.find("a").unwrap(), dir.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
        cache.forget("a");
        assert!(cache.find("a").is_none());
    }

    #[test]
    fn names_tell_users_and_not_passwords() {
        let uri = "https://me:secret@h/x";
        assert_ne!(Cache::key(Some((1, 1)), uri), Cache::key(Some((2, 2)), uri));
        assert_eq!(Cache::key(None, uri).len(), 64);
    }
}
