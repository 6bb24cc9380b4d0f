//! Images that were pulled for tasks: noted in a file, and removed from the engine when nothing has used them for long, or sooner where the disk is full.
//!
//! What the engine had before, what others pulled and what has a container, running or not, stays. The engine is never forced.

use crate::inner::Inner;
use crate::pull::known;
use bollard::query_parameters::{ListContainersOptions, RemoveImageOptions};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// However full the disk is, what was used so lately may be about to be used again: a launch is under way.
const FRESH: Duration = Duration::from_secs(600);
/// A use is written down when the one on disk is older.
const NOTE: u64 = 3600;
/// Images that are removed in one go.
const AT_ONCE: usize = 100;

/// When to remove.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pressure {
    /// What nothing has used for so long goes.
    pub unused_for: Duration,
    /// The part of the engine's disk that shall be free: below that the longest unused go first.
    pub headroom: f64,
}

/// One image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    /// Seconds since 1970.
    used: u64,
    /// The engine's id of it.
    id: String,
}

/// Images by the name that they were pulled by; what lost its name to a newer one, by its id.
#[derive(Debug, Default)]
pub struct Pulled {
    file: Option<PathBuf>,
    known: Mutex<BTreeMap<String, Image>>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Pulled {
    /// Reads what is noted. Without a file nothing is.
    #[must_use]
    pub fn open(file: Option<PathBuf>) -> Self {
        let text = file.as_ref().and_then(|file| std::fs::read(file).ok()).unwrap_or_default();
        let known = serde_json::from_slice(&text).unwrap_or_default();
        Self { file, known: Mutex::new(known) }
    }

    /// A task is about to use an image.
    pub fn used(&self, name: &str) {
        let mut known = self.known.lock();
        let Some(image) = known.get_mut(name) else { return };
        let before = std::mem::replace(&mut image.used, now());
        if image.used.saturating_sub(before) >= NOTE {
            self.write(&known);
        }
    }

    /// An image was pulled; `before` is what had its name.
    pub fn pulled(&self, name: &str, before: Option<String>, id: Option<&str>) {
        let id = id.unwrap_or_default();
        if self.file.is_none() || before.as_deref() == Some(id) {
            return;
        }
        let mut known = self.known.lock();
        let old = known.remove(name);
        match (before, old) {
            // It lost its name, and was ours.
            (Some(before), Some(old)) if before == old.id => {
                known.insert(before, Image { used: now(), ..old });
            }
            // The name is somebody's, who may count on it.
            (Some(_), _) => return self.write(&known),
            (None, _) => {}
        }
        known.insert(name.to_owned(), Image { used: now(), id: id.to_owned() });
        self.write(&known);
    }

    fn forget(&self, name: &str) {
        let mut known = self.known.lock();
        if known.remove(name).is_some() {
            self.write(&known);
        }
    }

    fn write(&self, known: &BTreeMap<String, Image>) {
        let Some(file) = &self.file else { return };
        let temp = file.with_extension("new");
        let text = serde_json::to_vec(known).unwrap_or_default();
        let written = std::fs::write(&temp, text).and_then(|()| std::fs::rename(&temp, file));
        if let Err(error) = written {
            tracing::warn!(file = %file.display(), %error, "which images were pulled cannot be noted");
        }
    }

    /// Names of what may go, longest unused first; whether each is due by its age.
    fn candidates(&self, unused_for: Duration, now: u64) -> Vec<(String, bool)> {
        let known = self.known.lock();
        let mut all: Vec<(u64, &String)> = known.iter().map(|(name, image)| (image.used, name)).collect();
        all.sort_unstable();
        let age = |used: u64| now.saturating_sub(used);
        all.into_iter()
            .filter(|(used, _)| age(*used) >= FRESH.as_secs().min(unused_for.as_secs()))
            .map(|(used, name)| (name.clone(), age(used) >= unused_for.as_secs()))
            .collect()
    }
}

/// See [`crate::DockerRuntime::collect`].
pub async fn collect(inner: &Inner, pressure: Pressure) -> Vec<String> {
    let candidates = inner.images.candidates(pressure.unused_for, now());
    let mut removed = Vec::new();
    if candidates.is_empty() || !inner.engine.health().borrow().is_ready() {
        return removed;
    }
    let root = match candidates.iter().all(|(_, due)| *due) {
        true => None,
        false => root(inner).await,
    };
    let Some(in_use) = in_use(inner).await else { return removed };
    for (name, due) in candidates.into_iter().take(AT_ONCE) {
        let full = || root.as_ref().is_some_and(|root| is_full(root, pressure.headroom));
        if !due && !full() {
            break;
        }
        match remove(inner, &name, &in_use).await {
            Some(true) => removed.push(name),
            Some(false) => inner.images.used(&name),
            // The engine has other worries.
            None => break,
        }
    }
    removed
}

/// Images of all containers, also of those that have ended.
async fn in_use(inner: &Inner) -> Option<BTreeSet<String>> {
    let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let call = |docker: bollard::Docker| async move { docker.list_containers(Some(options)).await };
    let all = inner.engine.call("list containers", inner.config.call, call).await.ok()?;
    Some(all.into_iter().filter_map(|one| one.image_id).collect())
}

/// Where the engine keeps images.
async fn root(inner: &Inner) -> Option<PathBuf> {
    let call = |docker: bollard::Docker| async move { docker.info().await };
    let info = inner.engine.call("describe itself", inner.config.call, call).await.ok()?;
    info.docker_root_dir.map(PathBuf::from)
}

fn is_full(folder: &Path, headroom: f64) -> bool {
    nix::sys::statvfs::statvfs(folder)
        .is_ok_and(|stat| (stat.blocks_available() as f64) < stat.blocks() as f64 * headroom.clamp(0.0, 1.0))
}

/// True if it is gone, false if somebody uses it.
async fn remove(inner: &Inner, name: &str, in_use: &BTreeSet<String>) -> Option<bool> {
    let Some(found) = known(&inner.engine, name, inner.config.call).await.ok()? else {
        inner.images.forget(name);
        return Some(true);
    };
    if found.id.as_ref().is_some_and(|id| in_use.contains(id)) {
        return Some(false);
    }
    let options = RemoveImageOptions { force: false, noprune: false, ..RemoveImageOptions::default() };
    let call = |docker: bollard::Docker| async move { docker.remove_image(name, Some(options), None).await };
    match inner.engine.call("remove an image", inner.config.call, call).await {
        Ok(_) => {
            inner.images.forget(name);
            Some(true)
        }
        Err(error) if error.status() == Some(404) => {
            inner.images.forget(name);
            Some(true)
        }
        // A container was made of it just now, or another image is built upon it.
        Err(error) if error.status() == Some(409) => Some(false),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_pulled_for_tasks_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("images.json");
        let pulled = Pulled::open(Some(file.clone()));
        pulled.pulled("new:1", None, Some("sha256:a"));
        // It was there, and a pull changed nothing, or gave somebody's name to newer bytes.
        pulled.pulled("there:1", Some("sha256:b".into()), Some("sha256:b"));
        pulled.pulled("there:2", Some("sha256:b".into()), Some("sha256:c"));
        pulled.pulled("new:2", None, Some("sha256:d"));
        pulled.pulled("new:2", Some("sha256:d".into()), Some("sha256:e"));
        let names = |pulled: &Pulled| pulled.known.lock().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&pulled), ["new:1", "new:2", "sha256:d"]);
        assert_eq!(names(&Pulled::open(Some(file))), ["new:1", "new:2", "sha256:d"]);
        let nowhere = Pulled::open(None);
        nowhere.pulled("x", None, Some("sha256:x"));
        assert!(names(&nowhere).is_empty());
    }

    #[test]
    fn the_longest_unused_go_first_and_fresh_ones_stay() {
        let pulled = Pulled::default();
        for (name, used) in [("old", 1_000), ("older", 10), ("fresh", 100_000)] {
            pulled.known.lock().insert(name.to_owned(), Image { used, id: String::new() });
        }
        let find = |unused_for| pulled.candidates(Duration::from_secs(unused_for), 100_100);
        assert_eq!(find(99_500), [("older".to_owned(), true), ("old".to_owned(), false)]);
        assert_eq!(find(0).len(), 3, "whoever wants them gone at once");
        pulled.used("old");
        assert!(pulled.known.lock()["old"].used > 100_100);
    }
}
