//! Groups as things of their own: what one depends on, whether it enforces its role, when it last changed. One that exists only because
//! something lies in it has no record, and goes with the last of that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::definition::Definition;
use super::id::PathId;
use super::shared::Touch;
use super::{Entry, Snapshot, Write, records};

/// What is stored of a group, at `groups/<key>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Format number.
    pub f: u32,
    /// The path.
    pub id: PathId,
    /// What must be up before anything in it is.
    pub dependencies: Vec<PathId>,
    /// Whether what lies in it must have its role. Only groups that lie in the root say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// When it was last changed.
    pub version: String,
}

impl Touch for Group {}

/// Groups as they are to become; none: the record goes.
pub type Groups = BTreeMap<PathId, Option<Group>>;

impl Group {
    /// An empty one.
    pub fn new(id: PathId) -> Self {
        Self { f: records::FORMAT, id, dependencies: Vec::new(), enforce: None, version: String::new() }
    }

    /// Whether the two differ in more than when they were written.
    pub fn differs(&self, other: &Group) -> bool {
        self.dependencies != other.dependencies || self.enforce != other.enforce
    }
}

/// Where a group's record is.
fn key(id: &PathId) -> String {
    // The root has no segments; a colon stands in no id.
    if id.is_root() { "groups/:".to_owned() } else { format!("groups/{}", id.key()) }
}

/// The write that makes a group so.
pub(super) fn put(id: &PathId, group: Option<&Group>) -> Write {
    match group {
        Some(group) => records::put(key(id), group),
        None => Write::Delete(key(id)),
    }
}

impl Snapshot {
    /// Every app and pod in a group, at any depth, that readers see.
    pub fn entries_in(&self, group: &PathId) -> impl DoubleEndedIterator<Item = (&PathId, &Entry)> {
        self.apps.between(group.inside()).filter(|(_, entry)| !entry.removing)
    }

    /// Whether there is such a group: the root, one with a record, or one in which something lies.
    pub fn has_group(&self, id: &PathId) -> bool {
        id.is_root()
            || self.groups.contains_key(id)
            || self.entries_in(id).next().is_some()
            || self.groups.between(id.inside()).next().is_some()
    }

    /// The groups that lie in this one itself.
    pub fn groups_of(&self, id: &PathId) -> Vec<PathId> {
        let things = self.entries_in(id).map(|(path, _)| path);
        children(id, things, self.groups.between(id.inside()).map(|(path, _)| path))
    }

    /// Whether a group that lies in the root enforces its role; of any other there is nothing to say.
    pub fn enforces(&self, id: &PathId) -> Option<bool> {
        let said = self.groups.get(id).and_then(|group| group.enforce);
        id.is_top_level().then(|| said.unwrap_or(self.settings.new_groups_enforce))
    }

    /// The moment of the newest intent that changed the group or something in it.
    pub fn group_version(&self, id: &PathId) -> Option<String> {
        let touched =
            self.history.rev().find(|(_, past)| past.touches(id)).map(|(version, _)| version.clone());
        touched.or_else(|| {
            let things = self.entries_in(id).map(|(_, entry)| entry.wanted.version());
            let below = self.groups.between(id.inside()).map(|(_, group)| group);
            let groups = self.groups.get(id).into_iter().chain(below).map(|group| group.version.as_str());
            things.chain(groups).max().map(str::to_owned)
        })
    }

    /// What names this state of a group and all in it, and no other.
    pub fn group_tag(&self, id: &PathId) -> String {
        let mut hash = Sha256::new();
        let mut add = |path: &PathId, version: &str| {
            for part in [path.as_str(), version] {
                hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(part);
            }
        };
        let below = self.groups.between(id.inside()).map(|(_, group)| group);
        for group in self.groups.get(id).into_iter().chain(below) {
            add(&group.id, &group.version);
        }
        for (path, entry) in self.entries_in(id) {
            add(path, entry.wanted.version());
        }
        let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{digest}", self.group_version(id).unwrap_or_default())
    }
}

/// The groups that lie in `id` itself, because things or groups lie in it, at any depth.
pub(super) fn children<'a>(
    id: &PathId,
    things: impl Iterator<Item = &'a PathId>,
    groups: impl Iterator<Item = &'a PathId>,
) -> Vec<PathId> {
    let child = |path: &PathId| {
        let mut at = path.clone();
        while at.parent() != *id && !at.is_root() {
            at = at.parent();
        }
        at
    };
    let mut all: Vec<PathId> = things.filter(|path| path.parent() != *id).chain(groups).map(child).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The role that an app or a pod has to have, if its outermost group enforces one. `new` says it of groups that are just being changed.
pub(super) fn enforced_role(state: &Snapshot, new: &BTreeMap<PathId, bool>, id: &PathId) -> Option<String> {
    let top = id.top()?;
    let enforces = new.get(&top).copied().or_else(|| state.enforces(&top)).unwrap_or(false);
    enforces.then(|| top.segments().collect())
}

/// Marathon's refusal of a role that the group does not allow. What an app has already it may keep.
pub(super) fn wrong_role(role: &str, enforced: Option<&str>, before: Option<&Definition>) -> Option<String> {
    let kept = before.map(Definition::role);
    let enforced = enforced.filter(|enforced| *enforced != role && kept != Some(role))?;
    let kept = kept.filter(|kept| *kept != enforced).map_or(String::new(), |kept| format!(", {kept}"));
    Some(format!("got {role}, expected one of: [{enforced}{kept}]"))
}
