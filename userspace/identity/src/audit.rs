//! The audit log: one JSON object a line for every change, with who made it. Appended to a file; never holds secrets.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::json;

/// The file's name in identity's data folder.
pub const AUDIT_FILE: &str = "audit.log";
/// At this size the file is renamed to `audit.log.1`, which replaces the one before.
const MOST: u64 = 64 * 1024 * 1024;

/// The open log.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Audit {
    pub(crate) fn open(folder: &Path) -> Self {
        Self { path: folder.join(AUDIT_FILE), file: Mutex::new(None) }
    }

    /// Notes that `principal` did `action` to `target`. A log that cannot be written (a full disk) does not undo what
    /// happened; the line goes to the process' log then.
    pub(crate) fn note(&self, principal: &str, action: &str, target: &str, outcome: &str) {
        let time = jiff::Timestamp::now();
        let line = json!({
            "time": time.to_string(), "principal": principal, "action": action, "target": target, "outcome": outcome,
        });
        if let Err(error) = self.append(&format!("{line}\n")) {
            tracing::error!(%error, %line, "the audit log cannot be written");
        }
    }

    fn append(&self, line: &str) -> std::io::Result<()> {
        let mut slot = self.file.lock();
        if let Some(file) = slot.as_ref()
            && file.metadata()?.len() >= MOST
        {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *slot = None;
        }
        let file = match slot.as_mut() {
            Some(file) => file,
            None => slot.insert(OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?),
        };
        // One write: lines of two writers never mix.
        file.write_all(line.as_bytes())
    }
}
