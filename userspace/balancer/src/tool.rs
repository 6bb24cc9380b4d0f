//! Runs `nft` and `ip` with a deadline, and says plainly why they cannot be used.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// A transaction has this long. The kernel may wait for a grace period, which a busy machine stretches.
const DEADLINE: Duration = Duration::from_secs(20);

/// Why a tool did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not there or cannot be started.
    #[error(
        "{tool} cannot be started: {reason}; install it (Debian: nftables, iproute2) to have virtual addresses"
    )]
    Missing {
        /// Which.
        tool: String,
        /// Why.
        reason: std::io::Error,
    },
    /// It said no.
    #[error("{tool} refused: {reason}")]
    Refused {
        /// Which.
        tool: String,
        /// What it said.
        reason: String,
    },
    /// It did not end.
    #[error("{tool} did not end within {} s", DEADLINE.as_secs())]
    Slow {
        /// Which.
        tool: String,
    },
}

impl ToolError {
    /// Whether the thing that was named does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason.contains("No such file or directory"))
    }
}

/// The tools.
#[derive(Debug, Clone)]
pub struct Tools {
    /// `nft`.
    pub nft: PathBuf,
    /// `ip`.
    pub ip: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self { nft: PathBuf::from("nft"), ip: PathBuf::from("ip") }
    }
}

/// Where system tools are, also for processes whose PATH does not name them.
const PATHS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

async fn run(tool: &Path, arguments: &[&str], input: Option<&str>) -> Result<Vec<u8>, ToolError> {
    let name = || tool.file_name().unwrap_or(tool.as_os_str()).to_string_lossy().into_owned();
    let path = std::env::var("PATH").map_or_else(|_| PATHS.to_owned(), |path| format!("{path}:{PATHS}"));
    let work = async {
        let mut child = Command::new(tool)
            .args(arguments)
            .env("PATH", path)
            .env("LC_ALL", "C")
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // A tool that ends early says why on its other outputs.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(DEADLINE, work)
        .await
        .map_err(|_| ToolError::Slow { tool: name() })?
        .map_err(|reason| ToolError::Missing { tool: name(), reason })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let mut reason: String = text.trim().chars().take(500).collect();
    if reason.contains("Operation not permitted") {
        reason.push_str(" (virtual addresses need root, or the capability CAP_NET_ADMIN)");
    }
    Err(ToolError::Refused { tool: name(), reason })
}

impl Tools {
    /// Carries a transaction out: all of it or nothing.
    ///
    /// # Errors
    /// [`ToolError`].
    pub async fn apply(&self, script: &str) -> Result<(), ToolError> {
        run(&self.nft, &["-f", "-"], Some(script)).await.map(drop)
    }

    /// What a table holds; `None` when there is none.
    ///
    /// # Errors
    /// [`ToolError`].
    pub async fn list(&self, table: &str) -> Result<Option<Vec<u8>>, ToolError> {
        match run(&self.nft, &["-j", "list", "table", "ip", table], None).await {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the range an address of this machine, so that `connect()` has a route and a source on any machine.
    ///
    /// # Errors
    /// [`ToolError`].
    pub async fn route(&self, range: &str, source: &str) -> Result<(), ToolError> {
        run(&self.ip, &["-4", "route", "replace", "local", range, "dev", "lo", "src", source], None)
            .await
            .map(drop)
    }

    /// Takes the route away; one that is not there is no error.
    ///
    /// # Errors
    /// [`ToolError`].
    pub async fn unroute(&self, range: &str) -> Result<(), ToolError> {
        match run(&self.ip, &["-4", "route", "del", "local", range, "dev", "lo"], None).await {
            Err(ToolError::Refused { reason, .. }) if reason.contains("No such process") => Ok(()),
            done => done.map(drop),
        }
    }

    /// Takes a table away; one that is not there is no error.
    ///
    /// # Errors
    /// [`ToolError`].
    pub async fn drop_table(&self, table: &str) -> Result<(), ToolError> {
        // Adding first makes deleting a table that is not there succeed.
        self.apply(&format!("add table ip {table}\ndelete table ip {table}\n")).await
    }
}
