//! Groups as a tree, now and as they were.

use serde_json::{Map, Value, json};

use super::super::Snapshot;
use super::super::group::Group;
use super::super::history::Tree;
use super::super::id::PathId;
use super::super::tree::moment;
use super::{Embed, entry_json, pod_status};

/// What is shown of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shows {
    apps: bool,
    pods: bool,
    groups: bool,
    /// Of each app.
    app: Embed,
}

impl Shows {
    /// From the parameter's values; none given: all but the state of apps. Unknown ones are passed over, as Marathon does.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let values: Vec<&str> = values.into_iter().collect();
        let has = |word: &str| values.is_empty() || values.contains(&word);
        Self {
            apps: has("group.apps"),
            pods: has("group.pods"),
            groups: has("group.groups"),
            app: Embed::parse(values.iter().copied(), "group.apps.", Embed::default()),
        }
    }
}

/// What a group's version is when nothing ever changed it.
const NEVER: &str = "1970-01-01T00:00:00.000Z";

/// A group with its apps, pods and groups.
pub fn group(state: &Snapshot, id: &PathId, shows: Shows) -> Value {
    let here = || state.entries_in(id).filter(|(path, _)| path.parent() == *id).map(|(_, entry)| entry);
    let apps = here().filter(|entry| shows.apps && entry.wanted.app().is_some());
    let pods = here().filter(|entry| shows.pods && entry.wanted.pod().is_some());
    let inner = if shows.groups { state.groups_of(id) } else { Vec::new() };
    let parts = Parts {
        apps: apps.map(|entry| entry_json(entry, shows.app)).collect(),
        pods: pods.filter_map(|entry| pod_status(state, entry.wanted.id())).collect(),
        groups: inner.iter().map(|child| group(state, child, shows)).collect(),
    };
    let version = state.group_version(id);
    parts.json(id, state.groups.get(id), state.enforces(id), version.as_deref().unwrap_or(NEVER))
}

/// A group as it was at the moment of an intent.
pub fn group_version(state: &Snapshot, id: &PathId, version: &str, shows: Shows) -> Option<Value> {
    let version = moment(version);
    let tree = state.group_at(id, &version)?;
    Some(then(state, &tree, id, &version, shows))
}

fn then(state: &Snapshot, tree: &Tree, id: &PathId, version: &str, shows: Shows) -> Value {
    let here = || tree.things.iter().filter(|(path, _)| path.parent() == *id).map(|(_, thing)| thing);
    let json = |thing: &super::Definition| Value::Object(thing.to_json());
    let record = tree.groups.get(id);
    let enforces = record.and_then(|group| group.enforce);
    let enforces = id.is_top_level().then(|| enforces.unwrap_or(state.settings.new_groups_enforce));
    let inner = if shows.groups { tree.groups_of(id) } else { Vec::new() };
    let parts = Parts {
        apps: here().filter(|thing| shows.apps && thing.app().is_some()).map(|thing| json(thing)).collect(),
        pods: here().filter(|thing| shows.pods && thing.pod().is_some()).map(|thing| json(thing)).collect(),
        groups: inner.iter().map(|child| then(state, tree, child, version, shows)).collect(),
    };
    parts.json(id, record, enforces, version)
}

/// What lies in a group itself.
struct Parts {
    apps: Vec<Value>,
    pods: Vec<Value>,
    groups: Vec<Value>,
}

impl Parts {
    fn json(self, id: &PathId, record: Option<&Group>, enforces: Option<bool>, version: &str) -> Value {
        let mut out = Map::new();
        out.insert("id".to_owned(), json!(id));
        out.insert("apps".to_owned(), Value::from(self.apps));
        out.insert("pods".to_owned(), Value::from(self.pods));
        out.insert("groups".to_owned(), Value::from(self.groups));
        let dependencies = record.map(|group| group.dependencies.as_slice()).unwrap_or_default();
        out.insert("dependencies".to_owned(), json!(dependencies));
        out.insert("version".to_owned(), json!(version));
        // Groups within groups have no say in it.
        if let Some(enforces) = enforces {
            out.insert("enforceRole".to_owned(), json!(enforces));
        }
        Value::Object(out)
    }
}
