//! Runs programs (`nft`, plugins) with a deadline. A program that is not done then is killed with all that it started.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::NetworkError;

const DEADLINE: Duration = Duration::from_secs(20);
const PATHS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The most that a program may say.
const MOST: u64 = 1 << 20;

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: ExitStatus,
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
}

/// Runs nft with a script.
///
/// # Errors
/// [`NetworkError::Tool`].
pub(crate) async fn nft(script: &str) -> Result<(), NetworkError> {
    let failed = |reason: String| NetworkError::Tool { tool: "nft".to_owned(), reason };
    let ended = run(Path::new("nft"), &["-f", "-"], &BTreeMap::new(), script.as_bytes(), DEADLINE)
        .await
        .map_err(|reason| failed(format!("{reason} (Debian: nftables)")))?;
    if ended.status.success() { Ok(()) } else { Err(failed(said(&ended.errors))) }
}

/// The beginning of what a program said.
pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().chars().take(500).collect()
}

/// Runs a program with nothing of our environment but a path.
///
/// # Errors
/// A sentence: it is missing, or did not end in time.
pub(crate) async fn run(
    program: &Path,
    arguments: &[&str],
    environment: &BTreeMap<&str, String>,
    input: &[u8],
    deadline: Duration,
) -> Result<Ended, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATHS)
        .env("LC_ALL", "C")
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program that ends early says why on its error output.
                let _ = stdin.write_all(input).await;
            }
        };
        let ((), output, errors) = tokio::join!(feed, hear(stdout), hear(stderr));
        Ok(Ended { status: child.wait().await?, output: output?, errors: errors? })
    };
    let result: Result<std::io::Result<Ended>, _> = timeout(deadline, work).await;
    if !matches!(&result, Ok(Ok(_)))
        && let Some(group) = group
    {
        // The first of the group is not waited for yet, so its number is nobody else's.
        let _ = killpg(group, Signal::SIGKILL);
    }
    match result {
        Ok(Ok(ended)) => Ok(ended),
        Ok(Err(error)) => Err(format!("{}: {error}", program.display())),
        Err(_) => Err(format!("{} did not end within {} s", program.display(), deadline.as_secs())),
    }
}

async fn hear(from: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    if let Some(from) = from {
        from.take(MOST + 1).read_to_end(&mut out).await?;
    }
    if u64::try_from(out.len()).is_ok_and(|length| length > MOST) {
        return Err(std::io::Error::other("it says more than 1 MiB"));
    }
    Ok(out)
}
