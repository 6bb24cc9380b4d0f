//! Images by digest. The first instance of a configuration says which bytes its tag stood for; all later ones run those, whatever the tag
//! stands for by then, until another configuration is deployed. Going back to a version runs what it ran before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::{InstanceId, PathId};
use super::instance::{Goal, Status};
use super::{Core, Entry, Write, records};

/// By configuration and container.
pub type Pins = BTreeMap<String, BTreeMap<String, String>>;

/// What is stored of one configuration, at `images/<key>/<configuration>`.
#[derive(Serialize, Deserialize)]
pub(super) struct Pinned {
    pub(super) f: u32,
    pub(super) app: PathId,
    pub(super) config: String,
    pub(super) images: BTreeMap<String, String>,
}

fn key(app: &PathId, config: &str) -> String {
    format!("images/{}/{config}", app.key())
}

impl Entry {
    /// The images of the present configuration.
    pub(super) fn pinned(&self) -> BTreeMap<String, String> {
        self.pins.get(self.wanted.config()).cloned().unwrap_or_default()
    }

    /// Forgets configurations that no version has any more.
    pub(super) fn drop_pins(&mut self) -> Vec<Write> {
        let kept: std::collections::BTreeSet<&str> = self.versions.values().map(|v| v.config()).collect();
        let gone: Vec<String> =
            self.pins.keys().filter(|config| !kept.contains(config.as_str())).cloned().collect();
        for config in &gone {
            self.pins.remove(config);
        }
        gone.iter().map(|config| Write::Delete(key(self.wanted.id(), config))).collect()
    }

    /// Every record of pins, to be deleted.
    pub(super) fn all_pins(&self) -> Vec<Write> {
        self.pins.keys().map(|config| Write::Delete(key(self.wanted.id(), config))).collect()
    }
}

impl Core {
    /// Notes which image a container runs. The first word counts: an instance that resolved something else, because the tag moved just
    /// then, is replaced.
    pub(super) fn pin(&mut self, app: &PathId, id: &InstanceId, container: &str, status: &Status) {
        let Some(image) = &status.image else { return };
        let Some(entry) = self.state.apps.get(app) else { return };
        let Some(config) = entry.instances.get(id).map(|instance| instance.record.config.clone()) else {
            return;
        };
        match entry.pins.get(&config).and_then(|images| images.get(container)) {
            Some(known) if digest(known) == digest(image) => return,
            Some(_) => return self.replace(app, id),
            // Of a configuration that nobody can want again nothing needs to be known.
            None if !entry.versions.values().any(|version| version.config() == config) => return,
            None => {}
        }
        let Some(entry) = self.state.apps.get_mut(app) else { return };
        let images = entry.pins.entry(config.clone()).or_default();
        images.insert(container.to_owned(), image.clone());
        let images = images.clone();
        let pinned = Pinned { f: records::FORMAT, app: app.clone(), config: config.clone(), images };
        self.commit(vec![records::put(key(app, &config), &pinned)]);
    }

    fn replace(&mut self, app: &PathId, id: &InstanceId) {
        let instance = self.state.apps.get_mut(app).and_then(|entry| entry.instances.get_mut(id));
        if let Some(instance) = instance.filter(|instance| instance.is_wanted()) {
            instance.record.goal = Goal::Stop;
            let write = records::put_instance(&instance.record);
            self.commit(vec![write]);
        }
    }
}

/// The same bytes may be had under several names.
fn digest(image: &str) -> &str {
    image.rsplit_once('@').map_or(image, |(_, digest)| digest)
}
