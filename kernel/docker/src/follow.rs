//! Carrying the output of a container from the engine into its sandbox, over restarts of both.

use crate::container::Container;
use crate::inner::Inner;
use crate::journal;
use crate::output::{Output, Stream};
use crate::spec::container_name;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use bytes::Bytes;
use futures_util::StreamExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Entries that are written in one go.
const TOGETHER: usize = 256;
/// Before the engine is asked again.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a note of the position waits for more output.
const IDLE: Duration = Duration::from_millis(700);

/// Follows until the container has ended and all it said is written.
pub async fn follow(inner: Arc<Inner>, container: Arc<Container>) {
    let record = container.record();
    let open = {
        let (record, records, budget) = (record.clone(), inner.records.clone(), inner.config.logs);
        move || Output::open(&record, &records, budget)
    };
    let mut output = match tokio::task::spawn_blocking(open).await {
        Ok(Ok(output)) => Some(output),
        failed => {
            tracing::warn!(container = record.id, ?failed, "the output of a container has nowhere to go");
            None
        }
    };
    while let Some(held) = output.take() {
        let stopped = *container.stopped.borrow();
        let log = Log::of(&container);
        let (back, end) = pass(&inner, &record.id, held, !stopped, &log).await;
        match end {
            // Asked after the end, the engine has said everything.
            End::Complete if stopped => break,
            End::Complete => {}
            End::Gone => break,
            End::Broken(why) => tracing::debug!(container = record.id, why, "following output broke off"),
        }
        output = back;
        let mut stopped = container.stopped.subscribe();
        drop(tokio::time::timeout(PAUSE, stopped.wait_for(|stopped| *stopped)).await);
        inner.engine.wait_ready().await;
    }
    container.drained.send_replace(true);
}

/// The engine's own file of the output. An engine that begins another one while it reads this may stay with the old one, and be silent for good.
struct Log {
    path: Option<PathBuf>,
    inode: Option<u64>,
}

impl Log {
    /// As it is before the engine is asked.
    fn of(container: &Container) -> Self {
        let path = container.record().log_path;
        let inode = path.as_deref().and_then(inode);
        Self { path, inode }
    }

    /// Whether there is another file in its place.
    fn is_another(&self) -> bool {
        let now = self.path.as_deref().and_then(inode);
        self.inode.is_some() && now.is_some() && now != self.inode
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).ok()?).into()
}

enum End {
    /// The engine's answer ended well.
    Complete,
    /// The engine knows nothing of the container, or cannot give its output.
    Gone,
    /// It broke off.
    Broken(String),
}

/// One answer of the engine.
async fn pass(inner: &Inner, id: &str, mut output: Output, follow: bool, log: &Log) -> (Option<Output>, End) {
    let Some(docker) = inner.engine.client() else {
        return (Some(output), End::Broken("the engine is away".into()));
    };
    let options = LogsOptions {
        follow,
        stdout: true,
        stderr: true,
        since: output.again(),
        timestamps: true,
        tail: "all".into(),
        ..LogsOptions::default()
    };
    let entries = docker.logs(&container_name(id), Some(options));
    let mut entries = std::pin::pin!(entries.ready_chunks(TOGETHER));
    // Without following, an engine that stops in the middle is not waited for.
    let patience = if follow { IDLE } else { inner.config.call };
    loop {
        let some = match tokio::time::timeout(patience, entries.next()).await {
            Ok(Some(some)) => some,
            Ok(None) => {
                output.note();
                return (Some(output), End::Complete);
            }
            Err(_) if follow => {
                if output.is_unnoted() {
                    output.note();
                }
                if log.is_another() {
                    return (Some(output), End::Broken("the engine has begun another file".into()));
                }
                continue;
            }
            Err(_) => return (Some(output), End::Broken("the engine fell silent".into())),
        };
        let mut good = Vec::with_capacity(some.len());
        let mut failed = None;
        for item in some {
            match item {
                Ok(entry) => good.extend(sort(entry)),
                Err(error) => failed = Some(error),
            }
        }
        let written = tokio::task::spawn_blocking(move || {
            let outcome = output.write(&good);
            (output, outcome)
        });
        match written.await {
            Ok((back, Ok(true))) => output = back,
            Ok((back, Ok(false))) => return (Some(back), End::Broken("the engine repeats itself".into())),
            Ok((back, Err(error))) => {
                // A full disk, most likely. What could not be written is asked for again.
                tracing::warn!(container = id, %error, "output cannot be written");
                return (reopen(inner, id, back).await, End::Broken(error.to_string()));
            }
            Err(error) => return (None, End::Broken(error.to_string())),
        }
        if let Some(error) = failed {
            let error = crate::engine::EngineError::sort("give output", error);
            let gone = matches!(error.status(), Some(404 | 501)) || said_unreadable(&error);
            return (Some(output), if gone { End::Gone } else { End::Broken(error.to_string()) });
        }
    }
}

/// After a failed write the file tells how far it is.
async fn reopen(inner: &Inner, id: &str, failed: Output) -> Option<Output> {
    drop(failed);
    tokio::time::sleep(PAUSE).await;
    let record = inner.records.read(id)?;
    let (records, budget) = (inner.records.clone(), inner.config.logs);
    tokio::task::spawn_blocking(move || Output::open(&record, &records, budget)).await.ok()?.ok()
}

/// Some drivers of logs keep nothing that could be read.
fn said_unreadable(error: &crate::engine::EngineError) -> bool {
    error.to_string().contains("does not support reading")
}

fn sort(entry: LogOutput) -> Option<(Stream, i64, Bytes)> {
    let (stream, message, terminal) = match entry {
        LogOutput::StdOut { message } => (Stream::Out, message, false),
        LogOutput::StdErr { message } => (Stream::Err, message, false),
        LogOutput::Console { message } => (Stream::Out, message, true),
        LogOutput::StdIn { .. } => return None,
    };
    let (at, text) = journal::parse(&message)?;
    if terminal && let Some(clean) = journal::without_inner_stamps(&message, text) {
        return Some((stream, at, clean.into()));
    }
    Some((stream, at, message.slice_ref(text)))
}
