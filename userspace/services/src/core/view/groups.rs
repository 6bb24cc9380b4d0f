//! Groups as a tree. They exist because apps lie in them; nothing is stored about them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::Snapshot;
use super::super::id::PathId;
use super::{Embed, entry_json};

/// Whether there is such a group: the root, or one with an app below.
pub fn group_exists(state: &Snapshot, id: &PathId) -> bool {
    id.is_root() || state.entries().any(|(app, _)| app.is_below(id))
}

/// A group with its apps and groups.
pub fn group(state: &Snapshot, id: &PathId, embed: Embed) -> Value {
    let apps = state.entries().filter(|(app, _)| app.parent() == *id && !app.is_root());
    let apps: Vec<Value> = apps.map(|(_, entry)| entry_json(entry, embed)).collect();
    let depth = id.segments().count();
    let children: BTreeSet<PathId> = state
        .entries()
        .filter(|(app, _)| app.is_below(id) && app.parent() != *id)
        .filter_map(|(app, _)| {
            let path: Vec<&str> = app.segments().take(depth.saturating_add(1)).collect();
            PathId::parse(&path.join("/")).ok()
        })
        .collect();
    let groups: Vec<Value> = children.iter().map(|child| group(state, child, embed)).collect();
    let versions = state.entries().filter(|(app, _)| app.is_below(id)).map(|(_, e)| e.wanted.version());
    let version = versions.max().unwrap_or("1970-01-01T00:00:00.000Z");
    json!({"id": id, "apps": apps, "groups": groups, "pods": [], "dependencies": [], "version": version})
}
