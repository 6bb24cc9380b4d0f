//! The container shim, which travels inside this program and is laid down where the agent can start it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The program; empty where this one was built without it.
static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim"));

/// Writes the shim into `folder`, unless it is there, and returns its path. The folder must allow execution: `/run` often does not.
pub fn lay_down(folder: &Path) -> Result<PathBuf> {
    if SHIM.is_empty() {
        bail!("this program was built without the shim: build it with `cargo xtask build`");
    }
    let path = folder.join("plenum-shim");
    if std::fs::read(&path).is_ok_and(|there| there == SHIM) {
        return Ok(path);
    }
    // Shims of the release before may be running: a new file takes the name, theirs stays what it is.
    let fresh = folder.join("plenum-shim.new");
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let _ = std::fs::remove_file(&fresh);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&fresh)?;
        file.write_all(SHIM)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)
    };
    write().with_context(|| format!("the shim cannot be written to {}", path.display()))?;
    Ok(path)
}
