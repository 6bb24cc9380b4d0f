//! One installer at a time: every host's lock is held while it is worked on, over the connection, so that it is free when we are gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::{InstallError, Result};
use crate::onhost::Held;
use crate::remote::{Remote, SHORT, quoted};
use crate::work::Work;

const BEAT: Duration = Duration::from_secs(5);
/// Longer than any run.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Locks that are held; they are given back with it.
#[derive(Debug, Default)]
pub struct Locks {
    beats: Vec<JoinHandle<()>>,
    held: Vec<JoinHandle<()>>,
}

impl Locks {
    /// Gives them back, and waits until the hosts know.
    pub async fn release(self) {
        for beat in &self.beats {
            beat.abort();
        }
        for held in self.held {
            // The connection may be gone; then the host finds out by itself.
            let _ = tokio::time::timeout(Duration::from_secs(5), held).await;
        }
    }
}

/// Who we are, for others to read.
fn owner() -> String {
    let user =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fine = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    format!("{user}@{}", host.trim()).chars().filter(fine).take(100).collect()
}

impl Work {
    /// Takes the locks of these hosts, which must be ready.
    ///
    /// # Errors
    /// [`InstallError::Busy`] names who holds one, and since when.
    pub async fn lock(&self, remotes: &[Arc<Remote>]) -> Result<Locks> {
        let mut locks = Locks::default();
        let taken = self.each(remotes, |remote| async move { take(remote, self.run.clone()).await }).await;
        let mut busy = None;
        for (name, one) in taken {
            match one {
                Ok((beat, held)) => {
                    locks.beats.push(beat);
                    locks.held.push(held);
                }
                Err(error) => busy = busy.or(Some((name, error))),
            }
        }
        match busy {
            None => Ok(locks),
            Some((name, error)) => {
                locks.release().await;
                Err(match error {
                    InstallError::Busy(why) => InstallError::Busy(format!("{name}: {why}")),
                    other => other,
                })
            }
        }
    }
}

async fn take(remote: Arc<Remote>, run: String) -> Result<(JoinHandle<()>, JoinHandle<()>)> {
    let script =
        format!("exec {} install on-host hold --owner {} --run {run}", remote.program()?, quoted(&owner()));
    let (input, mut ours) = tokio::io::duplex(64);
    let (tell, told) = oneshot::channel::<Held>();
    let holder = remote.clone();
    let held = tokio::spawn(async move {
        let mut tell = Some(tell);
        let mut line = |text: &str| {
            if let Ok(held) = serde_json::from_str::<Held>(text)
                && let Some(tell) = tell.take()
            {
                let _ = tell.send(held);
            }
        };
        if let Err(error) = holder.held(&script, input, LONGEST, &mut line).await {
            holder.log.line(&format!("the lock is given up: {error}"));
        }
    });
    let beat = tokio::spawn(async move {
        while ours.write_all(b".").await.is_ok() {
            tokio::time::sleep(BEAT).await;
        }
    });
    match tokio::time::timeout(SHORT, told).await {
        Ok(Ok(verdict)) if verdict.held => Ok((beat, held)),
        Ok(Ok(verdict)) => {
            beat.abort();
            Err(InstallError::Busy(format!(
                "another installer is at work: {} since {}. Wait for it; a lock whose holder is gone frees itself within half a minute",
                verdict.owner, verdict.since
            )))
        }
        _ => {
            beat.abort();
            Err(InstallError::Host(format!(
                "{}: its lock cannot be taken; see {}",
                remote.name,
                remote.log.path().display()
            )))
        }
    }
}
