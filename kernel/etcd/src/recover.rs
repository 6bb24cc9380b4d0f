//! When a majority of the masters is lost: this member goes on alone, from the data it has; the others join it anew. Nothing is done while
//! a majority answers, unless it is forced; the data is copied first.
//!
//! While the role runs, it does this itself: it is asked by a file in its folder, and answers with another.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use plenum_base::files;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::Config;
use crate::admin::Admin;
use crate::folder::{Folder, Note};
use crate::member::{ask, others};
use crate::process::{Begin, Running};

/// How long the others may take to say that they are a majority.
const ASK: Duration = Duration::from_secs(3);
/// How long etcd may take to come up alone.
const START: Duration = Duration::from_secs(60);
/// How long the running role may take for all of it.
const REQUEST: Duration = Duration::from_secs(120);

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Where the data is kept as it was before.
    pub copy: PathBuf,
    /// The newest revision that there is.
    pub revision: i64,
    /// The names of the members that are no longer: they join anew when they start.
    pub dropped: Vec<String>,
}

/// Why nothing was done.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum RecoverError {
    /// The others go on.
    #[error(
        "{0} answers and has a leader, so no majority is lost: members that are gone are replaced with `plenum node replace`; use --force only if that one is lost, too"
    )]
    Majority(String),
    /// There is nothing to recover from.
    #[error("there is no data of a member in {0}: run this on a master that has some, or restore a backup")]
    NoData(String),
    /// Files.
    #[error("the member's folder cannot be used: {0}")]
    Folder(String),
    /// etcd did not come up.
    #[error("etcd does not come up alone: {reason}; its data as it was before is in {copy}", copy = copy.display())]
    Start {
        /// Why.
        reason: String,
        /// Where the data is kept.
        copy: PathBuf,
    },
    /// The running role said nothing.
    #[error("the role etcd did not answer within {0} s: see its log")]
    Silent(u64),
}

impl From<std::io::Error> for RecoverError {
    fn from(error: std::io::Error) -> Self {
        Self::Folder(error.to_string())
    }
}

#[derive(Serialize, Deserialize)]
struct Request {
    forced: bool,
}

/// Makes the member here a cluster of one: by the role, if it runs, else directly.
///
/// # Errors
/// [`RecoverError`].
pub async fn recover(config: &Config, forced: bool) -> Result<Recovered, RecoverError> {
    let folder = Folder::new(&config.component.data);
    if let Some(_lock) = folder.lock()? {
        let masters = &config.component.masters;
        let others = others(config, masters, folder.note().as_ref());
        return perform(config, &folder, &others, forced).await;
    }
    let _ = std::fs::remove_file(folder.outcome_file());
    let request = serde_json::to_vec(&Request { forced }).map_err(|e| RecoverError::Folder(e.to_string()))?;
    files::replace(&folder.request_file(), &request, 0o600)?;
    let until = Instant::now() + REQUEST;
    while Instant::now() < until {
        if let Ok(text) = std::fs::read(folder.outcome_file()) {
            let _ = std::fs::remove_file(folder.outcome_file());
            let outcome: Result<Result<Recovered, RecoverError>, _> = serde_json::from_slice(&text);
            return outcome.map_err(|e| RecoverError::Folder(e.to_string()))?;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let _ = std::fs::remove_file(folder.request_file());
    Err(RecoverError::Silent(REQUEST.as_secs()))
}

/// Whether the role is asked to do it, and by force.
pub(crate) fn requested(folder: &Folder) -> Option<bool> {
    let text = std::fs::read(folder.request_file()).ok()?;
    Some(serde_json::from_slice::<Request>(&text).is_ok_and(|request| request.forced))
}

/// Tells the one who asked.
pub(crate) fn answer(folder: &Folder, outcome: &Result<Recovered, RecoverError>) -> std::io::Result<()> {
    files::replace(&folder.outcome_file(), &serde_json::to_vec(outcome)?, 0o600)?;
    std::fs::remove_file(folder.request_file())
}

/// Does it. The member here must not run; the folder's lock is the caller's.
pub(crate) async fn perform(
    config: &Config,
    folder: &Folder,
    others: &[IpAddr],
    forced: bool,
) -> Result<Recovered, RecoverError> {
    if !folder.has_data() {
        return Err(RecoverError::NoData(folder.data().display().to_string()));
    }
    if let Some(cluster) = ask(config, others, ASK).await
        && !forced
    {
        return Err(RecoverError::Majority(cluster.admin.url().to_owned()));
    }
    let note = folder.note();
    let copy = folder.copy_aside("before-recover")?;
    tracing::warn!(copy = %copy.display(), forced, "going on alone from the data of this member");
    let failed = |reason: String| RecoverError::Start { reason, copy: copy.clone() };
    let mut running =
        Running::start(config, folder, &Begin::Alone).await.map_err(|e| failed(e.to_string()))?;
    let alone = tokio::select! {
        how = running.ended() => Err(how),
        alone = wait_alone(config) => alone,
    };
    // The flag is for this one start only; the caller starts etcd again without it.
    running.stop().await;
    let (note_now, revision) = alone.map_err(failed)?;
    folder.set_out(false)?;
    folder.write_note(&note_now)?;
    let dropped = note.iter().flat_map(|note| &note.members).filter(|member| member.id != note_now.id);
    let mut dropped: Vec<String> = dropped.map(|member| member.name.clone()).collect();
    dropped.sort();
    Ok(Recovered { copy: copy.clone(), revision, dropped })
}

/// Waits until the member leads a cluster of itself.
async fn wait_alone(config: &Config) -> Result<(Note, i64), String> {
    let until = Instant::now() + START;
    let mut last = "it does not answer".to_owned();
    while Instant::now() < until {
        let asked = async {
            let admin = Admin::at(config, config.address).await?;
            Ok::<_, crate::admin::AdminError>((admin.how().await?, admin.members().await?))
        };
        match asked.await {
            Ok((how, members)) if how.leader == how.id && how.id != 0 && members.len() == 1 => {
                return Ok((Note { id: how.id, cluster: how.cluster, members }, how.revision));
            }
            Ok((_, members)) => last = format!("it still counts {} members", members.len()),
            Err(error) => last = error.to_string(),
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err(last)
}
