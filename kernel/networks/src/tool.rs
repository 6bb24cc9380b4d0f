//! Runs `nft`, `ip` and `nsenter` with a deadline.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::NetworkError;

const DEADLINE: Duration = Duration::from_secs(20);
const PATHS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a tool with `input`.
///
/// # Errors
/// [`NetworkError::Tool`]: it is missing, said no, or did not end in time (it is killed then).
pub(crate) async fn run(tool: &str, arguments: &[&str], input: &str) -> Result<(), NetworkError> {
    let failed = |reason: String| NetworkError::Tool { tool: tool.to_owned(), reason };
    let work = async {
        let mut child = Command::new(tool)
            .args(arguments)
            .env("PATH", PATHS)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that ends early says why on its error output.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match timeout(DEADLINE, work).await {
        Err(_) => Err(failed(format!("did not end within {} s", DEADLINE.as_secs()))),
        Ok(Err(error)) => {
            Err(failed(format!("cannot be run: {error} (Debian: nftables, iproute2, util-linux)")))
        }
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect()))
        }
    }
}
