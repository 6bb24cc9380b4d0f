//! What must survive a restart of the agent: one folder a container with its record and how far its output is written.

use plenum_containers::RuntimeError;
use plenum_containers::spec::check_id;
use plenum_shim::wire::Pid;
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const RECORD: &str = "record.json";
const OUTPUT: &str = "output.json";

/// A container that was asked for. Written before the engine hears of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Container id.
    pub id: String,
    /// The sandbox.
    pub sandbox: PathBuf,
    /// File of standard output in it.
    pub stdout: String,
    /// File of standard error in it.
    pub stderr: String,
    /// The engine's own id of it; empty before it runs.
    #[serde(default)]
    pub engine_id: String,
    /// What its sandbox, and what it writes over its image, may take of the disk, bytes.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Where it writes over its image, if the engine tells.
    #[serde(default)]
    pub upper: Option<PathBuf>,
    /// The file that the engine keeps its output in, if the engine tells.
    #[serde(default)]
    pub log_path: Option<PathBuf>,
    /// Its first process on the host; 0 before it runs.
    #[serde(default)]
    pub pid: i32,
    /// Start time of that process, which tells it from a later one of the same number.
    #[serde(default)]
    pub start: u64,
    /// The boot it runs in.
    #[serde(default)]
    pub boot_id: String,
    /// Its own addresses; none on the host's network.
    #[serde(default)]
    pub addresses: Vec<std::net::IpAddr>,
    /// It has been created at least once.
    #[serde(default)]
    pub created: bool,
    /// The signal that asks it to end, if not SIGTERM.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// The image by its digest, where the engine knows one.
    #[serde(default)]
    pub image: String,
    /// A kill was asked for.
    #[serde(default)]
    pub killed: bool,
    /// Nobody wants it any more: it is to be removed as soon as the engine can.
    #[serde(default)]
    pub doomed: bool,
}

impl Record {
    /// Its first process.
    #[must_use]
    pub fn task(&self) -> Pid {
        Pid { pid: self.pid, start: self.start }
    }

    /// Whether that process still runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.pid > 0 && self.boot_id == plenum_shim::proc::boot_id() && plenum_shim::proc::alive(&self.task())
    }
}

/// How far a stream of output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Written {
    /// The engine's time of the last entry, nanoseconds since 1970.
    pub at: i64,
    /// Entries of that very time.
    pub same: u32,
    /// Length of the file after it.
    pub len: u64,
}

/// How far both are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Standard output, or a terminal.
    pub out: Written,
    /// Standard error.
    pub err: Written,
}

/// The folder of folders.
#[derive(Debug, Clone)]
pub struct Records(pub PathBuf);

impl Records {
    fn file(&self, id: &str, name: &str) -> PathBuf {
        self.0.join(id).join(name)
    }

    /// Writes a record.
    pub fn write(&self, record: &Record) -> Result<(), RuntimeError> {
        let dir = self.0.join(&record.id);
        std::fs::create_dir_all(&dir).map_err(io("making", &dir))?;
        put(&self.file(&record.id, RECORD), &serde_json::to_vec(record).unwrap_or_default())
    }

    /// Reads a record; nothing if there is none or it makes no sense.
    #[must_use]
    pub fn read(&self, id: &str) -> Option<Record> {
        let text = std::fs::read(self.file(id, RECORD)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.id == id).then_some(record)
    }

    /// All records.
    #[must_use]
    pub fn all(&self) -> Vec<Record> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut ids: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.retain(|id| check_id(id).is_ok());
        ids.sort_unstable();
        ids.iter().filter_map(|id| self.read(id)).collect()
    }

    /// Forgets a container.
    pub fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let dir = self.0.join(id);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("removing", &dir)(error)),
            _ => Ok(()),
        }
    }

    /// Notes how far the output is written. The folder of a container that is forgotten stays away.
    pub fn write_position(&self, id: &str, position: &Position) -> Result<(), RuntimeError> {
        put(&self.file(id, OUTPUT), &serde_json::to_vec(position).unwrap_or_default())
    }

    /// How far the output is written; from the beginning if it is not known.
    #[must_use]
    pub fn position(&self, id: &str) -> Position {
        let text = std::fs::read(self.file(id, OUTPUT)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

/// Replaces a file in one step.
fn put(path: &Path, bytes: &[u8]) -> Result<(), RuntimeError> {
    let temp = path.with_extension("new");
    let write = || {
        let mut file = std::fs::File::create(&temp)?;
        file.write_all(bytes)?;
        std::fs::rename(&temp, path)
    };
    write().map_err(io("writing", path))
}

fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> RuntimeError {
    let what = format!("{what} {}", path.display());
    move |error| RuntimeError::Io { what, error }
}
