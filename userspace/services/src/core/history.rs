//! What past intents changed, so that a group can be seen and had again as it was. Kept: the last [`MOST`] intents, and of their changes
//! not more than [`MOST_CHANGES`]. An app's definition is found among its versions, or, once it was removed, with the intent that did so.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::app::App;
use super::definition::Definition;
use super::group::{Group, Groups, children};
use super::id::PathId;
use super::order::range;
use super::pod::Pod;
use super::shared::Touch;
use super::{Core, Snapshot, Write, records};

/// Intents that are remembered.
const MOST: usize = 100;
/// Changes of apps that are remembered, over all intents.
const MOST_CHANGES: usize = 20_000;

/// What one intent changed, by how it was before; at `history/<version>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// Format number.
    pub f: u32,
    /// The moment of the intent.
    pub version: String,
    /// Apps and pods with the version that was wanted before; none where there was none.
    pub things: BTreeMap<PathId, Option<String>>,
    /// Records of groups.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: Groups,
    /// Definitions of what was removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Kept>,
}

impl Touch for Past {}

/// A definition that nothing else holds any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept(pub Arc<Definition>);

#[derive(Serialize)]
struct KeptOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a App>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a Pod>,
}

#[derive(Deserialize)]
struct KeptIn {
    app: Option<App>,
    pod: Option<Pod>,
}

impl Serialize for Kept {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        KeptOut { app: self.0.app(), pod: self.0.pod() }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let KeptIn { app, pod } = KeptIn::deserialize(from)?;
        let definition = app.map(Definition::App).or(pod.map(Definition::Pod));
        let empty = || serde::de::Error::custom("it is neither an app nor a pod");
        definition.map(|definition| Self(Arc::new(definition))).ok_or_else(empty)
    }
}

impl Past {
    /// Whether it changed the group or something in it.
    pub fn touches(&self, group: &PathId) -> bool {
        self.groups.contains_key(group)
            || self.things.range(range(group.inside())).next().is_some()
            || self.groups.range(range(group.inside())).next().is_some()
    }
}

/// A group as it was.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Apps and pods in it.
    pub things: BTreeMap<PathId, Arc<Definition>>,
    /// Its own record and those of the groups in it.
    pub groups: BTreeMap<PathId, Group>,
}

impl Tree {
    /// The groups that lay in `id` itself.
    pub(super) fn groups_of(&self, id: &PathId) -> Vec<PathId> {
        let things = self.things.range(range(id.inside())).map(|(path, _)| path);
        children(id, things, self.groups.range(range(id.inside())).map(|(path, _)| path))
    }
}

/// A group on the way back: names and versions.
struct Back<'a> {
    group: &'a PathId,
    things: BTreeMap<PathId, String>,
    groups: BTreeMap<PathId, Group>,
}

impl<'a> Back<'a> {
    fn now(state: &Snapshot, group: &'a PathId) -> Self {
        let things = state.entries_in(group).map(|(id, e)| (id.clone(), e.wanted.version().to_owned()));
        let own = state.groups.get(group).map(|record| (group.clone(), record.clone()));
        let below = state.groups.between(group.inside()).map(|(id, record)| (id.clone(), record.clone()));
        Self { group, things: things.collect(), groups: own.into_iter().chain(below).collect() }
    }

    fn undo(&mut self, past: &Past) {
        for (id, before) in past.things.range(range(self.group.inside())) {
            match before {
                Some(version) => drop(self.things.insert(id.clone(), version.clone())),
                None => drop(self.things.remove(id)),
            }
        }
        let own = past.groups.get_key_value(self.group).into_iter();
        for (id, before) in past.groups.range(range(self.group.inside())).chain(own) {
            match before {
                Some(record) => drop(self.groups.insert(id.clone(), record.clone())),
                None => drop(self.groups.remove(id)),
            }
        }
    }

    fn exists(&self) -> bool {
        self.group.is_root() || !self.things.is_empty() || !self.groups.is_empty()
    }

    /// The newest moment in it.
    fn newest(&self) -> Option<&str> {
        let groups = self.groups.values().map(|group| group.version.as_str());
        self.things.values().map(String::as_str).chain(groups).max()
    }

    fn is_whole(&self, state: &Snapshot, kept: &Lost<'_>) -> bool {
        self.things.iter().all(|(id, version)| state.definition(id, version, kept).is_some())
    }
}

/// Definitions of what was removed, by path and version.
type Lost<'a> = BTreeMap<(&'a PathId, &'a str), &'a Arc<Definition>>;

impl Snapshot {
    fn lost(&self) -> Lost<'_> {
        let all = self.history.values().flat_map(|past| &past.gone);
        all.map(|Kept(definition)| ((definition.id(), definition.version()), definition)).collect()
    }

    fn definition<'a>(&'a self, id: &PathId, version: &str, lost: &Lost<'a>) -> Option<&'a Arc<Definition>> {
        let own = self.apps.get(id).and_then(|entry| entry.versions.get(version));
        own.or_else(|| lost.get(&(id, version)).copied())
    }

    /// A version of an app or a pod, also of one that was removed.
    pub(super) fn definition_of(&self, id: &PathId, version: &str) -> Option<&Arc<Definition>> {
        self.definition(id, version, &self.lost())
    }

    /// The versions of a group that can be had again, the newest first; none if there is no such group.
    pub fn group_versions(&self, id: &PathId) -> Option<Vec<String>> {
        if !self.has_group(id) {
            return None;
        }
        let lost = self.lost();
        let mut back = Back::now(self, id);
        let mut all = Vec::new();
        for (version, past) in self.history.rev().filter(|(_, past)| past.touches(id)) {
            if back.exists() && back.is_whole(self, &lost) {
                all.push(version.clone());
            }
            back.undo(past);
        }
        let first = back.newest().filter(|_| back.is_whole(self, &lost)).map(str::to_owned);
        all.extend(first.filter(|first| !all.contains(first)));
        Some(all)
    }

    /// The group as it was at `version`, the moment of an intent; none if that is not known any more, or it was not there.
    pub fn group_at(&self, id: &PathId, version: &str) -> Option<Tree> {
        let mut back = Back::now(self, id);
        for (_, past) in self.history.rev().take_while(|(at, _)| at.as_str() > version) {
            back.undo(past);
        }
        let known = self.history.contains_key(version) || back.newest() == Some(version);
        if !known || !back.exists() {
            return None;
        }
        let lost = self.lost();
        let find = |(id, version): (PathId, String)| {
            let definition = self.definition(&id, &version, &lost).map(Arc::clone)?;
            Some((id, definition))
        };
        let things: Option<_> = back.things.into_iter().map(find).collect();
        Some(Tree { things: things?, groups: back.groups })
    }
}

impl Core {
    /// Remembers what an intent changed, and forgets what is too old. `before` are the versions that were wanted, of all that it may have
    /// changed.
    pub(super) fn note_past(
        &mut self,
        version: &str,
        before: &BTreeMap<PathId, Option<String>>,
        groups: Groups,
    ) -> Vec<Write> {
        let mut past = Past { f: records::FORMAT, version: version.to_owned(), groups, ..Past::default() };
        for (id, before) in before {
            let Some(entry) = self.state.apps.get(id) else { continue };
            if entry.removing {
                past.gone.extend(self.named(id).into_iter().map(Kept));
            }
            if entry.removing || before.as_deref() != Some(entry.wanted.version()) {
                past.things.insert(id.clone(), before.clone());
            }
        }
        if past.things.is_empty() && past.groups.is_empty() {
            return Vec::new();
        }
        let mut writes = vec![records::put(key(version), &past)];
        self.state.history.insert(version.to_owned(), past);
        let size = |past: &Past| past.things.len().saturating_add(past.groups.len());
        let mut sizes: usize = self.state.history.values().map(size).sum();
        while self.state.history.len() > 1
            && (self.state.history.len() > MOST || sizes > MOST_CHANGES.max(before.len()))
        {
            let Some(oldest) = self.state.history.keys().next().cloned() else { break };
            let gone = self.state.history.remove(&oldest);
            sizes = sizes.saturating_sub(gone.as_ref().map_or(0, size));
            writes.push(Write::Delete(key(&oldest)));
        }
        writes
    }

    /// The versions of something that is about to go which older intents name, and the one that is wanted.
    fn named(&self, id: &PathId) -> Vec<Arc<Definition>> {
        let Some(entry) = self.state.apps.get(id) else { return Vec::new() };
        let older = self.state.history.values().filter_map(|past| past.things.get(id)?.as_deref());
        let names: std::collections::BTreeSet<&str> = older.chain([entry.wanted.version()]).collect();
        names.iter().filter_map(|name| entry.versions.get(*name)).map(Arc::clone).collect()
    }
}

fn key(version: &str) -> String {
    format!("history/{version}")
}
