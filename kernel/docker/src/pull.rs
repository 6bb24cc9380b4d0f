//! Images: whether the engine has one, and getting it, with credentials and progress.

use crate::config::DockerConfig;
use crate::credentials;
use crate::engine::{Engine, EngineError};
use crate::images::Pulled;
use crate::reference::Reference;
use crate::spec::ImageWish;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use plenum_containers::RuntimeError;
use std::collections::BTreeMap;
use std::time::Duration;

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Layers that are heard of.
    pub layers: usize,
    /// Of them, those that are there.
    pub done: usize,
    /// Bytes loaded of the layers whose size is known.
    pub bytes: u64,
    /// Their size.
    pub total: u64,
}

/// The engine's messages of a pull, added up. Pure.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<String, Layer>);

#[derive(Debug, Default, Clone, Copy)]
struct Layer {
    done: bool,
    bytes: u64,
    total: u64,
}

impl Tally {
    /// Takes a message in.
    pub fn add(&mut self, info: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&info.id, &info.status) else { return };
        // The first message names the tag instead of a layer.
        if status.starts_with("Pulling from") {
            return;
        }
        let layer = self.0.entry(id.clone()).or_default();
        let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let detail = info.progress_detail.as_ref();
        if status == "Downloading" {
            layer.bytes = number(detail.and_then(|detail| detail.current)).unwrap_or(layer.bytes);
            layer.total = number(detail.and_then(|detail| detail.total)).unwrap_or(layer.total);
        }
        if matches!(status.as_str(), "Pull complete" | "Already exists") {
            (layer.done, layer.bytes) = (true, layer.total);
        }
    }

    /// The sum.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let start = Progress { layers: self.0.len(), ..Progress::default() };
        self.0.values().fold(start, |sum, layer| Progress {
            done: sum.done + usize::from(layer.done),
            bytes: sum.bytes.saturating_add(layer.bytes),
            total: sum.total.saturating_add(layer.total),
            ..sum
        })
    }
}

/// Makes sure that the engine has the image; gives what it knows of it.
pub async fn provide(
    engine: &Engine,
    config: &DockerConfig,
    wish: &ImageWish,
    images: &Pulled,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<ImageInspect, RuntimeError> {
    let before = known(engine, &wish.name, config.call).await?;
    images.used(&wish.name);
    if !wish.force_pull
        && let Some(found) = before
    {
        return Ok(found);
    }
    match tokio::time::timeout(config.pull, pull(engine, config, wish, progress)).await {
        Ok(outcome) => outcome?,
        Err(_) => {
            let what = format!("pulling image {} within {} s", wish.name, config.pull.as_secs());
            return Err(RuntimeError::Deadline(what));
        }
    }
    match known(engine, &wish.name, config.call).await? {
        Some(found) => {
            images.pulled(&wish.name, before.and_then(|before| before.id), found.id.as_deref());
            Ok(found)
        }
        None => {
            Err(RuntimeError::Engine(format!("the Docker engine pulled {} and does not have it", wish.name)))
        }
    }
}

/// The image's name by the digest under which its registry has it. An image that was built on the machine has none.
pub fn pinned(image: &ImageInspect, name: &str) -> Option<String> {
    if name.contains('@') {
        return Some(name.to_owned());
    }
    let short = Reference::parse(name).ok()?.name;
    let digests = image.repo_digests.as_deref().unwrap_or_default();
    digests.iter().find(|digest| digest.split('@').next() == Some(&short)).cloned()
}

/// What the engine knows of an image; nothing if it has none of the name.
pub async fn known(
    engine: &Engine,
    name: &str,
    deadline: Duration,
) -> Result<Option<ImageInspect>, EngineError> {
    let ask = |docker: bollard::Docker| async move { docker.inspect_image(name).await };
    match engine.call("describe an image", deadline, ask).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn pull(
    engine: &Engine,
    config: &DockerConfig,
    wish: &ImageWish,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), RuntimeError> {
    let what = format!("pull image {}", wish.name);
    let reference = Reference::parse(&wish.name).map_err(RuntimeError::Engine)?;
    let login = match &wish.credentials {
        Some(text) => credentials::find(text, &reference.registry).map_err(RuntimeError::Engine)?,
        None => None,
    };
    engine.ready(&what, config.patience).await?;
    let Some(docker) = engine.client() else {
        return Err(EngineError::Away { what, why: "it is being connected to".into() }.into());
    };
    let options = CreateImageOptions {
        from_image: Some(reference.name),
        tag: Some(reference.tag),
        ..CreateImageOptions::default()
    };
    let mut messages = std::pin::pin!(docker.create_image(Some(options), None, login));
    let mut tally = Tally::default();
    loop {
        match tokio::time::timeout(config.pull_stall, messages.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(message))) => {
                tally.add(&message);
                progress(tally.progress());
            }
            Ok(Some(Err(error))) => {
                let error = EngineError::sort(&what, error);
                engine.note(&error);
                return Err(error.into());
            }
            // A registry that stalls is no fault of the engine.
            Err(_) => {
                let seconds = config.pull_stall.as_secs();
                return Err(RuntimeError::Deadline(format!("{what} (nothing came for {seconds} s)")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_add_up() {
        let mut tally = Tally::default();
        for message in [
            json!({"status": "Pulling from a/b", "id": "latest"}),
            json!({"status": "Pulling fs layer", "id": "one"}),
            json!({"status": "Already exists", "id": "two"}),
            json!({"status": "Downloading", "id": "one", "progressDetail": {"current": 5, "total": 10}}),
            json!({"status": "Digest: sha256:00"}),
        ] {
            tally.add(&serde_json::from_value(message).unwrap());
        }
        assert_eq!(tally.progress(), Progress { layers: 2, done: 1, bytes: 5, total: 10 });
        tally.add(&serde_json::from_value(json!({"status": "Pull complete", "id": "one"})).unwrap());
        assert_eq!(tally.progress(), Progress { layers: 2, done: 2, bytes: 10, total: 10 });
    }
}
