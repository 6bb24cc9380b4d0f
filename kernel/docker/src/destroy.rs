//! Removing a container for good, by its name: now, or when the engine is back.

use crate::container::{Container, inspect};
use crate::engine::EngineError;
use crate::inner::Inner;
use crate::spec::container_name;
use bollard::query_parameters::RemoveContainerOptions;
use plenum_containers::{Exit, RuntimeError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// For the end to come after a kill.
const END: Duration = Duration::from_secs(10);
/// Between two looks at a removal that is under way.
const LOOK: Duration = Duration::from_millis(100);

/// See [`plenum_containers::Runtime::destroy`].
pub async fn destroy(inner: &Arc<Inner>, id: &str) -> Result<Exit, RuntimeError> {
    let known = inner.find(id).ok();
    if known.is_none() && inner.records.read(id).is_none() && !is_ours(inner, id).await? {
        return Err(RuntimeError::NotFound(id.to_owned()));
    }
    let exit = match &known {
        Some(container) => {
            container.change(|record| record.doomed = true);
            end(inner, container).await
        }
        None => Exit::lost(),
    };
    match remove(inner, id).await {
        Ok(()) => {
            inner.forget(id)?;
            Ok(exit)
        }
        Err(error) => Err(RuntimeError::Undead { id: id.to_owned(), left: error.to_string() }),
    }
}

/// Whether the engine has a container of this name that this agent made.
async fn is_ours(inner: &Inner, id: &str) -> Result<bool, EngineError> {
    let found = inspect(&inner.engine, &container_name(id), inner.config.call).await?;
    let labels = found.and_then(|found| found.config).and_then(|config| config.labels).unwrap_or_default();
    Ok(labels.get(crate::body::LABEL_INSTANCE) == Some(&inner.config.instance))
}

/// Kills what runs, and waits a while for its end and its last output.
async fn end(inner: &Arc<Inner>, container: &Arc<Container>) -> Exit {
    if let Some(exit) = container.ended() {
        return exit;
    }
    let id = container.record().id;
    let _ended = crate::kill::kill(inner, &id, nix::libc::SIGKILL, END).await;
    let mut exit = container.exit.subscribe();
    let seen = tokio::time::timeout(END, exit.wait_for(Option::is_some)).await;
    match seen {
        Ok(Ok(exit)) => exit.clone().unwrap_or_else(Exit::lost),
        _ => container.exit_unseen(),
    }
}

/// Removes the engine's container of this id with its unnamed volumes; none is as good, and somebody else's stays.
async fn remove(inner: &Inner, id: &str) -> Result<(), EngineError> {
    let name = container_name(id);
    if !is_ours(inner, id).await? {
        return Ok(());
    }
    let until = tokio::time::Instant::now() + inner.config.call;
    loop {
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        let call = |docker: bollard::Docker| {
            let name = name.clone();
            async move { docker.remove_container(&name, Some(options)).await }
        };
        match inner.engine.call("remove a container", inner.config.call, call).await {
            Ok(()) => return Ok(()),
            Err(error) if error.status() == Some(404) => return Ok(()),
            // A removal is under way, or the end of the container.
            Err(error) if error.status() == Some(409) && tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes a container that nobody wants; if it cannot be now, the keeper tries again.
pub async fn remove_doomed(inner: &Inner, id: &str) {
    let doomed = inner.records.read(id).is_none_or(|record| record.doomed);
    if !doomed || inner.table.lock().contains_key(id) {
        return;
    }
    match remove(inner, id).await {
        Ok(()) => {
            if let Err(error) = inner.records.remove(id) {
                tracing::warn!(container = id, %error, "the record of a container cannot be removed");
            }
        }
        Err(error) => tracing::warn!(container = id, %error, "what is left of a container is removed later"),
    }
}

/// Removes everything that could not be removed when it was to be.
pub async fn sweep(inner: &Arc<Inner>) {
    let records = inner.records.clone();
    let all = tokio::task::spawn_blocking(move || records.all()).await.unwrap_or_default();
    for record in all.into_iter().filter(|record| record.doomed) {
        let known = inner.find(&record.id).ok();
        match known {
            // Somebody tried to destroy it; that it is asked for again is not certain.
            Some(container) if container.ended().is_some() => {
                if destroy(inner, &record.id).await.is_ok() {
                    tracing::info!(container = record.id, "what was left of a container is removed");
                }
            }
            Some(_) => {}
            None => remove_doomed(inner, &record.id).await,
        }
    }
    if inner.recovered.load(Ordering::Acquire) {
        sweep_unknown(inner).await;
    }
}

/// Removes what carries our label and is not known: the agent started, without records, before the engine did. A launch
/// is on record before the engine hears of it.
async fn sweep_unknown(inner: &Inner) {
    for found in crate::recover::labelled(inner).await {
        let known = inner.table.lock().contains_key(&found.id) || inner.records.read(&found.id).is_some();
        if !known {
            tracing::info!(container = found.id, "a container that nobody knows any more is removed");
            remove_doomed(inner, &found.id).await;
        }
    }
}
