//! What depends on what, over apps, pods and groups: circles are refused, and each thing has a level, as many as must be up one after
//! the other until it is. What depends on a group depends on all that lies in it; what a group depends on all that lies in it depends on.
//!
//! Only what can be reached from what changes is looked at, once, however deep it goes.

use std::collections::BTreeMap;

use super::Snapshot;
use super::definition::Definition;
use super::error::{ApiError, Flaw};
use super::group::Groups;
use super::id::PathId;
use super::requests::{Target, Targets};

/// A point of the graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    /// An app or a pod.
    Thing(PathId),
    /// All that lies in a group.
    Inside(PathId),
    /// What a group, and those around it, depend on.
    Needs(PathId),
}

/// The tree as a request makes it.
pub(super) struct After<'a> {
    pub(super) state: &'a Snapshot,
    pub(super) targets: &'a Targets,
    pub(super) groups: &'a Groups,
}

/// A way that is being gone: where it stands, what is left to look at from there, the deepest level seen.
type Way = Vec<(Node, Vec<Node>, usize)>;

impl After<'_> {
    /// What is wanted of an app or a pod then.
    pub(super) fn wanted(&self, id: &PathId) -> Option<&Definition> {
        match self.targets.get(id) {
            Some(Target::Be { wanted, .. }) => Some(&**wanted),
            Some(Target::Gone) => None,
            None => self.state.entry(id).map(|entry| &*entry.wanted),
        }
    }

    /// The apps and pods that lie in a group then.
    pub(super) fn things_in(&self, group: &PathId) -> Vec<PathId> {
        let old = self.state.entries_in(group).map(|(id, _)| id).filter(|id| !self.targets.contains_key(*id));
        let new = self.targets.range(range(group.inside()));
        let new = new.filter(|(_, target)| matches!(target, Target::Be { .. })).map(|(id, _)| id);
        old.chain(new).cloned().collect()
    }

    fn group_needs(&self, group: &PathId) -> &[PathId] {
        let group = match self.groups.get(group) {
            Some(changed) => changed.as_ref(),
            None => self.state.groups.get(group),
        };
        group.map(|group| group.dependencies.as_slice()).unwrap_or_default()
    }

    fn node(&self, id: &PathId) -> Node {
        if self.wanted(id).is_some() { Node::Thing(id.clone()) } else { Node::Inside(id.clone()) }
    }

    fn next(&self, node: &Node) -> Vec<Node> {
        match node {
            Node::Inside(group) => self.things_in(group).into_iter().map(Node::Thing).collect(),
            Node::Needs(group) => {
                let own = self.group_needs(group).iter().map(|id| self.node(id));
                own.chain((!group.is_root()).then(|| Node::Needs(group.parent()))).collect()
            }
            Node::Thing(id) => {
                let own = self.wanted(id).map(Definition::dependencies).unwrap_or_default();
                own.iter().map(|id| self.node(id)).chain([Node::Needs(id.parent())]).collect()
            }
        }
    }

    /// The level of each target that is to be, from 1.
    ///
    /// # Errors
    /// Marathon's refusal of circles, with what lies on one.
    pub(super) fn levels(&self) -> Result<BTreeMap<PathId, usize>, ApiError> {
        let things = self.targets.iter().filter(|(_, target)| matches!(target, Target::Be { .. }));
        let groups = self.groups.iter().filter(|(_, group)| group.is_some());
        let starts = things.map(|(id, _)| Node::Thing(id.clone()));
        let starts = starts.chain(groups.map(|(id, _)| Node::Needs(id.clone())));
        let levels = levels(starts, |node| self.next(node)).map_err(|circle| {
            let names: Vec<&str> = circle.iter().map(PathId::as_str).collect();
            ApiError::Invalid(vec![
                Flaw::new("/", "Dependency graph has cyclic dependencies."),
                Flaw::new("/dependencies", format!("leads back to where it began: {}", names.join(", "))),
            ])
        })?;
        let things = levels.into_iter().filter_map(|(node, level)| match node {
            Node::Thing(id) => Some((id, level)),
            _ => None,
        });
        Ok(things.collect())
    }
}

pub(super) fn range((from, to): (PathId, PathId)) -> (std::ops::Bound<PathId>, std::ops::Bound<PathId>) {
    (std::ops::Bound::Excluded(from), std::ops::Bound::Excluded(to))
}

/// The level of every node that can be reached, or the things on a circle.
fn levels(
    starts: impl IntoIterator<Item = Node>,
    next: impl Fn(&Node) -> Vec<Node>,
) -> Result<BTreeMap<Node, usize>, Vec<PathId>> {
    // None while it is on the way that is being gone.
    let mut known: BTreeMap<Node, Option<usize>> = BTreeMap::new();
    for start in starts {
        if known.contains_key(&start) {
            continue;
        }
        known.insert(start.clone(), None);
        let mut way: Way = vec![(start.clone(), next(&start), 0)];
        while let Some((at, rest, deepest)) = way.last_mut() {
            let Some(then) = rest.pop() else {
                let level = deepest.saturating_add(usize::from(matches!(at, Node::Thing(_))));
                known.insert(at.clone(), Some(level));
                way.pop();
                if let Some((.., above)) = way.last_mut() {
                    *above = level.max(*above);
                }
                continue;
            };
            match known.get(&then) {
                Some(Some(level)) => *deepest = (*deepest).max(*level),
                Some(None) => return Err(circle(&way, &then)),
                None => {
                    known.insert(then.clone(), None);
                    let after = next(&then);
                    way.push((then, after, 0));
                }
            }
        }
    }
    Ok(known.into_iter().filter_map(|(node, level)| Some((node, level?))).collect())
}

fn circle(way: &Way, back: &Node) -> Vec<PathId> {
    let nodes = way.iter().map(|(node, ..)| node).skip_while(|node| *node != back);
    let things = nodes.filter_map(|node| if let Node::Thing(id) = node { Some(id.clone()) } else { None });
    things.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> PathId {
        PathId::parse(&format!("/{n}")).unwrap()
    }

    fn run(start: usize, next: impl Fn(usize) -> Vec<usize>) -> Result<BTreeMap<Node, usize>, Vec<PathId>> {
        let number = |node: &Node| match node {
            Node::Thing(id) => id.as_str().trim_start_matches('/').parse::<usize>().unwrap(),
            other => panic!("{other:?}"),
        };
        let next = |node: &Node| next(number(node)).into_iter().map(|n| Node::Thing(id(n))).collect();
        levels([Node::Thing(id(start))], next)
    }

    #[test]
    fn circles_are_found_and_long_chains_are_none() {
        let chain = run(0, |n| if n < 20_000 { vec![n + 1] } else { Vec::new() }).unwrap();
        assert_eq!((chain[&Node::Thing(id(0))], chain[&Node::Thing(id(20_000))]), (20_001, 1));
        assert_eq!(run(0, |n| vec![if n == 4 { 2 } else { n + 1 }]), Err(vec![id(2), id(3), id(4)]));
        assert_eq!(run(7, |n| vec![n]), Err(vec![id(7)]));
        let diamond = run(0, |n| if n < 8 { vec![n + 1, n + 2] } else { Vec::new() }).unwrap();
        assert_eq!((diamond[&Node::Thing(id(0))], diamond[&Node::Thing(id(7))]), (9, 2));
    }
}
