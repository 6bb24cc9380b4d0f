//! Bringing the policy to other machines: a node without identity asks for each newer one and writes it where its components read it.

use std::path::PathBuf;
use std::time::Duration;

use crate::client::{Client, ClientError};
use crate::files;
use crate::policy::{PolicyError, Signed};
use crate::retry::Backoff;
use crate::service::Shutdown;
use crate::tls::{Expect, Identity, TlsError};
use crate::turns::Turns;

/// Why a policy did not arrive. All of these are tried again.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Identity could not be asked.
    #[error("identity could not be asked: {0}")]
    Client(#[from] ClientError),
    /// What it sent is not signed by this cluster's identity.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file cannot be written.
    #[error("the policy cannot be written: {0}")]
    File(#[from] std::io::Error),
    /// The list of masters is empty.
    #[error("no identity is known to ask: name it in the settings")]
    Nobody,
}

/// How long identity holds a question for a newer policy. Short, since one that is silently gone is left only after it.
const WAIT: Duration = Duration::from_secs(10);
/// How much longer its answer may take.
const GRACE: Duration = Duration::from_secs(5);

/// Keeps the policy at `path` current until `shutdown`, from any identity of `from`.
pub async fn keep_current(identity: Identity, mut from: Turns, path: PathBuf, shutdown: Shutdown) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
    let mut number = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice::<Signed>(&text).ok())
        .and_then(|signed| signed.open(&identity.roots()).ok())
        .map_or(0, |snapshot| snapshot.number);
    while !shutdown.is_triggered() {
        let newer = from.ask(|url| {
            let (identity, path) = (&identity, &path);
            async move { fetch(identity, &url, path, number, WAIT).await }
        });
        match shutdown.until(newer).await.map(|newer| newer.unwrap_or(Err(FeedError::Nobody))) {
            None => return,
            Some(Ok(newest)) => {
                number = newest;
                backoff.reset();
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the policy could not be brought up to date; trying again");
                shutdown.sleep(backoff.delay()).await;
            }
        }
    }
}

/// Asks once for a policy newer than `after`, waiting up to `wait` for it, and writes it. Returns the number that is on disk then.
///
/// # Errors
/// [`FeedError`].
pub async fn fetch(
    identity: &Identity,
    url: &str,
    path: &std::path::Path,
    after: u64,
    wait: Duration,
) -> Result<u64, FeedError> {
    let client = Client::with_identity(identity, Expect::Role("identity".to_owned()))?;
    let address = format!("{url}/internal/v1/policy?after={after}&wait={}", wait.as_secs());
    let reply = client.get(&address).deadline(wait + GRACE).send().await?.success().await?;
    if reply.status == http::StatusCode::NO_CONTENT {
        return Ok(after);
    }
    let bytes = reply.bytes().await?;
    let signed: Signed =
        serde_json::from_slice(&bytes).map_err(|error| PolicyError::Unreadable(error.to_string()))?;
    let snapshot = signed.open(&identity.roots())?;
    if snapshot.number < after {
        return Err(PolicyError::Stale { found: snapshot.number, known: after }.into());
    }
    files::replace(path, &bytes, files::SECRET)?;
    Ok(snapshot.number)
}
