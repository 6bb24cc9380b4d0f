//! A log file a host: what was run there and what it said. Secrets go to a command's input, which is never logged.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A host's log. Losing a line of it never stops the work.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Mutex<Option<std::fs::File>>,
}

impl Log {
    /// Opens the log of a host below `folder`; 0600.
    #[must_use]
    pub fn open(folder: &Path, host: &str) -> Self {
        let name: String = host
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .collect();
        let path = folder.join(format!("{name}.log"));
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(&path).ok();
        Self { path, file: Mutex::new(file) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a line with the time.
    pub fn line(&self, text: &str) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let text: String = text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
        if let Ok(mut file) = self.file.lock()
            && let Some(file) = file.as_mut()
        {
            let _ = writeln!(file, "{now} {text}");
        }
    }
}

/// The folder of the installer's state for a cluster: logs, and what must outlive a broken run.
/// `$XDG_STATE_HOME/plenum/install/<name>`, else below `~/.local/state`; `PLENUM_INSTALL_STATE` replaces the part before the name.
#[must_use]
pub fn folder(home: &Path, cluster: &str) -> PathBuf {
    let env = |key: &str| std::env::var_os(key).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = env("PLENUM_INSTALL_STATE")
        .or_else(|| env("XDG_STATE_HOME").map(|path| path.join("plenum/install")))
        .unwrap_or_else(|| home.join(".local/state/plenum/install"));
    base.join(cluster)
}
