//! The agent's records on disk: one file a record below `<work_dir>/meta`, replaced atomically, many at once.
//!
//! What a record says is `core::records`' business; this file owns how bytes get to the disk and back. Order of a batch: all
//! temporary files are written and synced, then all are renamed, then each touched folder is synced once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use crate::core::RecordWrite;

/// Records larger than this are not read back: nothing the agent writes comes near (bytes).
const MAX_RECORD: u64 = 32 * 1024 * 1024;
/// Folders deeper than this below `meta` are not ours.
const MAX_DEPTH: usize = 6;
/// Name prefix of files that are being written.
const TEMP: &str = ".tmp-";
/// Where records that could not be read are put.
const SET_ASIDE: &str = "unreadable";

/// The folder of records.
#[derive(Debug, Clone)]
pub struct RecordStore {
    root: PathBuf,
}

/// What a start found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Key and body of each record, in key order.
    pub records: Vec<(String, Vec<u8>)>,
    /// Files that could not be read at all: key and error text.
    pub failed: Vec<(String, String)>,
}

impl RecordStore {
    /// Opens (and creates, mode 0700) `<work_dir>/meta`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(work_dir: &Path) -> io::Result<Self> {
        let root = work_dir.join("meta");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root })
    }

    /// Reads every record. Leftover temporary files are removed.
    ///
    /// # Errors
    /// When `meta` itself cannot be listed; single files that fail are named in the result.
    pub fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        self.walk(&self.root, "", 0, &mut loaded)?;
        loaded.records.sort();
        Ok(loaded)
    }

    fn walk(&self, dir: &Path, prefix: &str, depth: usize, out: &mut Loaded) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                out.failed.push((format!("{prefix}?"), "the file name is not UTF-8".to_owned()));
                continue;
            };
            let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if depth < MAX_DEPTH
                    && key != SET_ASIDE
                    && let Err(error) = self.walk(&entry.path(), &key, depth + 1, out)
                {
                    out.failed.push((key, error.to_string()));
                }
            } else if name.starts_with(TEMP) {
                let _ = fs::remove_file(entry.path());
            } else if kind.is_file() {
                match read_bounded(&entry.path()) {
                    Ok(body) => out.records.push((key, body)),
                    Err(error) => out.failed.push((key, error.to_string())),
                }
            }
        }
        Ok(())
    }

    /// Moves a record out of the way, so that it is not tried again and can be looked at.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, key: &str) -> io::Result<()> {
        let from = self.path(key)?;
        let dir = self.root.join(SET_ASIDE);
        fs::create_dir_all(&dir)?;
        let mut flat = key.replace('/', "+");
        let mut cut = flat.len().min(200);
        while !flat.is_char_boundary(cut) {
            cut -= 1;
        }
        flat.truncate(cut);
        fs::rename(from, dir.join(flat))
    }

    /// Makes all the writes durable. Later writes of a key win over earlier ones.
    ///
    /// # Errors
    /// The first I/O error. Some records may then have been replaced, none is torn.
    pub fn apply(&self, writes: &[RecordWrite]) -> io::Result<()> {
        let mut last: BTreeMap<&str, Option<&[u8]>> = BTreeMap::new();
        for write in writes {
            last.insert(&write.key, write.body.as_deref());
        }
        let mut staged: Vec<(PathBuf, PathBuf)> = Vec::new();
        let result = self.stage_and_rename(&last, &mut staged);
        if result.is_err() {
            for (temp, _) in &staged {
                let _ = fs::remove_file(temp);
            }
        }
        result
    }

    fn stage_and_rename(
        &self,
        last: &BTreeMap<&str, Option<&[u8]>>,
        staged: &mut Vec<(PathBuf, PathBuf)>,
    ) -> io::Result<()> {
        let mut touched = BTreeSet::new();
        for (number, (key, body)) in last.iter().enumerate() {
            let Some(body) = body else { continue };
            let path = self.path(key)?;
            let parent = path.parent().unwrap_or(&self.root).to_path_buf();
            self.make_parents(&parent, &mut touched)?;
            let temp = parent.join(format!("{TEMP}{number}"));
            staged.push((temp.clone(), path));
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
            file.write_all(body)?;
            file.sync_all()?;
            touched.insert(parent);
        }
        for (temp, path) in staged.iter() {
            fs::rename(temp, path)?;
        }
        for (key, _) in last.iter().filter(|(_, body)| body.is_none()) {
            let path = self.path(key)?;
            match fs::remove_file(&path) {
                Ok(()) => {
                    touched.extend(path.parent().map(Path::to_path_buf));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for dir in &touched {
            File::open(dir)?.sync_all()?;
        }
        for (key, _) in last.iter().filter(|(_, body)| body.is_none()) {
            self.prune(&self.path(key)?);
        }
        Ok(())
    }

    /// Creates missing folders and remembers which existing folder got a new entry.
    fn make_parents(&self, dir: &Path, touched: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let mut missing = vec![dir.to_path_buf()];
        let mut at = dir;
        while let Some(parent) = at.parent() {
            touched.insert(parent.to_path_buf());
            if parent.is_dir() {
                break;
            }
            missing.push(parent.to_path_buf());
            at = parent;
        }
        for dir in missing.iter().rev() {
            match fs::DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes folders that a deletion left empty; a folder that is not empty stays, silently.
    fn prune(&self, path: &Path) {
        let mut at = path.parent();
        while let Some(dir) = at {
            if dir == self.root || !dir.starts_with(&self.root) || fs::remove_dir(dir).is_err() {
                return;
            }
            at = dir.parent();
        }
    }

    fn path(&self, key: &str) -> io::Result<PathBuf> {
        let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains('\0');
        if key.split('/').any(bad) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "record key is not a plain path"));
        }
        Ok(self.root.join(key))
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut body = Vec::new();
    file.take(MAX_RECORD + 1).read_to_end(&mut body)?;
    if body.len() as u64 > MAX_RECORD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is larger than 32 MiB"));
    }
    Ok(body)
}

/// One checkpoint to write and whom to tell.
pub struct Job {
    /// The core's token.
    pub token: u64,
    /// The records.
    pub writes: Vec<RecordWrite>,
}

/// The thread that owns the folder: takes whatever has queued up as one batch.
pub struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the thread. `done` is called on it with each token and its result, in the order of submission.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        store: RecordStore,
        done: impl Fn(u64, Result<(), String>) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new().name("agent-records".to_owned()).spawn(move || {
            while let Ok(first) = queue.recv() {
                let mut batch = vec![first];
                while batch.len() < 256
                    && let Ok(job) = queue.try_recv()
                {
                    batch.push(job);
                }
                write_batch(&store, batch, &done);
            }
        })?;
        Ok(Self { jobs })
    }

    /// Hands a job over; false when the thread is gone.
    pub fn submit(&self, job: Job) -> bool {
        self.jobs.send(job).is_ok()
    }
}

/// A batch that fails is tried job by job, so that one record too large for what is left does not refuse the others.
fn write_batch(store: &RecordStore, batch: Vec<Job>, done: &impl Fn(u64, Result<(), String>)) {
    let (tokens, writes): (Vec<u64>, Vec<Vec<RecordWrite>>) =
        batch.into_iter().map(|job| (job.token, job.writes)).unzip();
    let all: Vec<RecordWrite> = writes.iter().flatten().cloned().collect();
    match store.apply(&all) {
        Ok(()) => tokens.iter().for_each(|token| done(*token, Ok(()))),
        Err(error) if tokens.len() == 1 => done(tokens[0], Err(error.to_string())),
        Err(_) => {
            for (token, writes) in tokens.iter().zip(&writes) {
                done(*token, store.apply(writes).map_err(|error| error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, body: &[u8]) -> RecordWrite {
        RecordWrite { key: key.to_owned(), body: Some(body.to_vec()) }
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("plenum-agent-disk-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn writes_replace_delete_and_come_back() {
        let dir = scratch("roundtrip");
        let store = RecordStore::open(&dir).unwrap();
        store.apply(&[put("term", b"1"), put("frameworks/f/tasks/t", b"a"), put("term", b"2")]).unwrap();
        fs::write(dir.join("meta/frameworks/f/.tmp-0"), b"half").unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(
            loaded.records,
            vec![("frameworks/f/tasks/t".to_owned(), b"a".to_vec()), ("term".to_owned(), b"2".to_vec())]
        );
        assert!(!dir.join("meta/frameworks/f/.tmp-0").exists());
        store.apply(&[RecordWrite { key: "frameworks/f/tasks/t".to_owned(), body: None }]).unwrap();
        assert!(!dir.join("meta/frameworks").exists(), "empty folders go too");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn keys_cannot_leave_the_folder() {
        let dir = scratch("keys");
        let store = RecordStore::open(&dir).unwrap();
        for key in ["../x", "a/../../x", "", "/x", "a//b", "a\0b"] {
            assert!(store.apply(&[put(key, b"x")]).is_err(), "{key:?}");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn unreadable_records_are_put_aside_and_not_loaded_again() {
        let dir = scratch("aside");
        let store = RecordStore::open(&dir).unwrap();
        store.apply(&[put("frameworks/f/framework", b"garbage"), put("agent", b"x")]).unwrap();
        store.set_aside("frameworks/f/framework").unwrap();
        let keys: Vec<String> = store.load().unwrap().records.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, vec!["agent".to_owned()]);
        assert!(dir.join("meta/unreadable/frameworks+f+framework").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_job_that_fails_does_not_fail_its_batch() {
        let dir = scratch("batch");
        let store = RecordStore::open(&dir).unwrap();
        let answers = std::sync::Mutex::new(Vec::new());
        let done = |token, result: Result<(), String>| answers.lock().unwrap().push((token, result.is_ok()));
        let jobs = vec![
            Job { token: 1, writes: vec![put("a", b"1")] },
            Job { token: 2, writes: vec![put("../no", b"2")] },
            Job { token: 3, writes: vec![put("c", b"3")] },
        ];
        write_batch(&store, jobs, &done);
        assert_eq!(*answers.lock().unwrap(), vec![(1, true), (2, false), (3, true)]);
        assert_eq!(store.load().unwrap().records.len(), 2);
        fs::remove_dir_all(dir).unwrap();
    }
}
