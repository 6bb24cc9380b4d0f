//! What is stored, and how it is read back. Keys: `framework`, `apps/<key>`, `versions/<key>/<version>`,
//! `instances/<id>`, `deployments/<id>`, `images/<key>/<configuration>`, `groups/<key>`, `ended/<key>/<instance>`, `history/<version>`, `batches/<version>`. Values are JSON with the format number `f`.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_api::Now;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::app::App;
use super::definition::Definition;
use super::deployment::Deployment;
use super::group::Group;
use super::history::Past;
use super::id::PathId;
use super::instance::{Goal, Instance, Record};
use super::kept::Kept;
use super::matching::Wish;
use super::pins::Pinned;
use super::pod::Pod;
use super::shared::Shared;
use super::{Core, Entry, Settings, Shown, Tally, Write, batch, time};

/// The format that is written. Older ones are read for two releases.
pub const FORMAT: u32 = 1;
/// How every record of that format begins.
const OURS: &[u8] = b"{\"f\":1,";

/// An entry of the store that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "the record {key} cannot be read: {reason}. Restore it from a backup, or start the version that wrote it"
)]
pub struct Unreadable {
    /// Which.
    pub key: String,
    /// Why.
    pub reason: String,
}

#[derive(Serialize, Deserialize)]
struct Framework {
    f: u32,
    id: String,
}

/// The root of an app or a pod: which version is wanted.
#[derive(Serialize, Deserialize)]
struct Root {
    f: u32,
    id: PathId,
    version: String,
    roll: bool,
    removing: bool,
}

#[derive(Serialize, Deserialize)]
struct Version {
    f: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    app: Option<App>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pod: Option<Pod>,
}

#[derive(Deserialize)]
struct Format {
    f: u32,
}

pub(super) fn put_framework(id: &str) -> Write {
    put("framework".to_owned(), &Framework { f: FORMAT, id: id.to_owned() })
}

pub(super) fn put_root(entry: &Entry) -> Write {
    let (id, version) = (entry.wanted.id().clone(), entry.wanted.version().to_owned());
    let (roll, removing) = (entry.roll, entry.removing);
    put(root_key(&id), &Root { f: FORMAT, id: id.clone(), version, roll, removing })
}

pub(super) fn put_version(definition: &Definition) -> Write {
    let (app, pod) = (definition.app().cloned(), definition.pod().cloned());
    put(version_key(definition.id(), definition.version()), &Version { f: FORMAT, app, pod })
}

pub(super) fn put_instance(record: &Record) -> Write {
    put(format!("instances/{}", record.id), record)
}

pub(super) fn put_deployment(deployment: &Deployment) -> Write {
    put(format!("deployments/{}", deployment.id), deployment)
}

pub(super) fn delete_instance(record: &Record) -> Write {
    Write::Delete(format!("instances/{}", record.id))
}

pub(super) fn delete_deployment(id: &str) -> Write {
    Write::Delete(format!("deployments/{id}"))
}

pub(super) fn root_key(id: &PathId) -> String {
    format!("apps/{}", id.key())
}

pub(super) fn version_key(id: &PathId, version: &str) -> String {
    format!("versions/{}/{version}", id.key())
}

pub(super) fn put<T: Serialize>(key: String, value: &T) -> Write {
    // Records are trees of plain values with text keys, which always have a JSON form.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    Write::Put(key, bytes)
}

pub(super) fn read<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Unreadable> {
    let bad = |reason: String| Unreadable { key: key.to_owned(), reason };
    // As it is written here: that needs no second reading.
    if value.starts_with(OURS) {
        return serde_json::from_slice(value).map_err(|e| bad(e.to_string()));
    }
    let format: Format = serde_json::from_slice(value).map_err(|e| bad(e.to_string()))?;
    if format.f != FORMAT {
        return Err(bad(format!("its format is {}, this version knows {FORMAT}", format.f)));
    }
    serde_json::from_slice(value).map_err(|e| bad(e.to_string()))
}

impl Core {
    /// The machine as the store remembers it. Nothing is known of the tasks until they are reconciled.
    ///
    /// # Errors
    /// The first entry that cannot be understood.
    pub fn load(settings: Settings, entries: &[(String, Vec<u8>)], now: Now) -> Result<Self, Unreadable> {
        let mut core = Self::new(settings);
        let carried_out = batch::carried_out(entries)?;
        let entries = match &carried_out {
            Some((entries, writes)) => {
                core.commit(writes.clone());
                entries
            }
            None => entries,
        };
        let mut versions: BTreeMap<PathId, BTreeMap<String, Arc<Definition>>> = BTreeMap::new();
        let (mut roots, mut instances, mut deployments) = (Vec::new(), Vec::new(), Vec::new());
        let (mut pins, mut pasts) = (Vec::new(), Vec::new());
        for (key, value) in entries {
            match key.split('/').next().unwrap_or("") {
                "framework" => core.state.framework = Some(read::<Framework>(key, value)?.id),
                "apps" => roots.push((key, read::<Root>(key, value)?)),
                "versions" => {
                    let Version { mut app, pod, .. } = read(key, value)?;
                    app.iter_mut().for_each(super::normal::settle);
                    let definition = app.map(Definition::App).or(pod.map(Definition::Pod));
                    let empty = || Unreadable {
                        key: key.clone(),
                        reason: "it is neither an app nor a pod".to_owned(),
                    };
                    let definition = Arc::new(definition.ok_or_else(empty)?);
                    let of = versions.entry(definition.id().clone()).or_default();
                    of.insert(definition.version().to_owned(), definition);
                }
                "instances" => instances.push(read::<Record>(key, value)?),
                "images" => pins.push(read::<Pinned>(key, value)?),
                "deployments" => {
                    let deployment: Deployment = read(key, value)?;
                    deployments.push(deployment);
                }
                "groups" => {
                    let group: Group = read(key, value)?;
                    core.state.groups.insert(group.id.clone(), group);
                }
                "history" => pasts.push(read::<Past>(key, value)?),
                "ended" => drop(core.keep_ended(Arc::new(read(key, value)?))),
                _ => {
                    return Err(Unreadable {
                        key: key.clone(),
                        reason: "nobody knows such a key".to_owned(),
                    });
                }
            }
        }
        for (key, root) in roots {
            let mine = versions.remove(&root.id).unwrap_or_default();
            let Some(wanted) = mine.get(&root.version).cloned() else {
                let reason = format!("its version {} is missing", root.version);
                return Err(Unreadable { key: key.clone(), reason });
            };
            core.dirty.insert(root.id.clone());
            let entry = Entry { roll: root.roll, removing: root.removing, ..Entry::new(wanted, mine) };
            core.census.enter(&entry);
            core.state.apps.insert(root.id, entry);
        }
        for pinned in pins {
            if let Some(entry) = core.state.apps.get_mut(&pinned.app) {
                entry.pins.insert(pinned.config, pinned.images);
            }
        }
        for record in instances {
            core.adopt(record, now);
        }
        for past in pasts {
            core.state.history.insert(past.version.clone(), past);
        }
        deployments.sort_by(|a, b| a.version.cmp(&b.version));
        for deployment in deployments {
            core.begin(deployment);
        }
        core.forget_readiness();
        let newest = core.state.apps.values().filter_map(|e| time::parse(e.wanted.version())).max();
        let planned = core.state.deployments.values().filter_map(|d| time::parse(&d.version)).max();
        let groups = core.state.groups.values().filter_map(|group| time::parse(&group.version)).max();
        let past = core.state.history.rev().next().and_then(|(version, _)| time::parse(version));
        core.last_version = newest.max(planned).max(groups).max(past).unwrap_or_default();
        Ok(core)
    }

    fn adopt(&mut self, mut record: Record, now: Now) {
        let agent = record.agent.clone();
        self.place_shared(&agent, &mut record.location);
        match self.state.apps.get_mut(&record.app) {
            _ if record.goal == Goal::Wipe => self.adopt_wiping(record, now),
            Some(entry) if record.goal == Goal::Keep => {
                self.index.insert(record.id.clone(), record.app.clone());
                entry.kept.insert(record.id.clone(), Kept { record, state: None });
            }
            // Whose volumes these are nobody knows: they are shown, and stay.
            None if record.is_resident() => self.adopt_wiping(record, now),
            Some(entry) if record.goal != Goal::Ghost => {
                self.index.insert(record.id.clone(), record.app.clone());
                entry.instances.insert(record.id.clone(), Instance::new(record, now.mono, false));
            }
            _ => {
                self.state.ghosts.insert(record.id.clone(), Record { goal: Goal::Ghost, ..record });
            }
        }
    }
}

impl Entry {
    /// Wants something else.
    pub(super) fn want(&mut self, wanted: Arc<Definition>) {
        self.wish = Arc::new(Wish::new(&wanted));
        self.wanted = wanted;
    }

    /// What an instance was launched from.
    pub fn definition_of(&self, record: &Record) -> &Definition {
        self.versions.get(&record.version).unwrap_or(&self.wanted)
    }

    /// An app of which nothing runs.
    pub(super) fn new(wanted: Arc<Definition>, versions: BTreeMap<String, Arc<Definition>>) -> Self {
        Self {
            wish: Arc::new(Wish::new(&wanted)),
            wanted,
            versions,
            removing: false,
            roll: true,
            instances: Shared::default(),
            kept: Shared::default(),
            missing: 0,
            backoff: None,
            waiting: None,
            moved: plenum_api::Millis(0),
            last_failure: None,
            tally: Tally::default(),
            deployments: Vec::new(),
            pins: BTreeMap::new(),
            scaling: None,
            shown: Shown::default(),
        }
    }
}
