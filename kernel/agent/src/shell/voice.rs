//! What the agent says to a task's user where they look first: in the task's own standard error.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Writes lines to `stderr` of a sandbox; the file is opened when there is something to say.
#[derive(Debug)]
pub(super) struct Voice {
    at: PathBuf,
    file: Mutex<Option<std::fs::File>>,
}

impl Voice {
    pub(super) fn new(sandbox: &Path) -> Self {
        Self { at: sandbox.join("stderr"), file: Mutex::new(None) }
    }

    /// Says a line. What cannot be said here is in the status if it matters.
    pub(super) fn say(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            let mut options = std::fs::OpenOptions::new();
            options.append(true).create(true).mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            *file = options.open(&self.at).ok();
        }
        if let Some(file) = file.as_mut() {
            let _unsaid = writeln!(file, "{line}");
        }
    }
}
