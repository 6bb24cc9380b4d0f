//! The overlay network between nodes: which agent has which slice of its range, and who is told where the slices are.
//!
//! A slice is its agent's from its admission until the agent is gone: the number is stored with the admission, in the same transaction, so
//! that no two agents ever have the same, whoever leads. Agents that are out of reach keep theirs, and their routes. What changes is told to
//! all that take part at most twice a second, however much it is; an agent that registers is told everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_api::Millis;
use plenum_api::internal::{self, master_message::Kind, overlay};
use plenum_store::Op;

use super::registry::{self, SliceRecord};
use super::state::AgentKey;
use super::timers::Timer;
use super::{Master, Turn};

/// Changes are gathered for so long before they are told.
const GATHER: Millis = Millis(500);

/// Slices and nodes.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    nodes: BTreeMap<u32, Node>,
    slices: BTreeMap<Arc<str>, u32>,
    /// Slices about which not everybody was told the newest.
    changed: BTreeSet<u32>,
}

#[derive(Debug, Clone, PartialEq)]
struct Node {
    agent: Arc<str>,
    address: String,
}

/// What a registration asks of the store.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Claim {
    /// To be stored with the admission.
    pub op: Op,
    /// The slice was not the agent's before: it is free again if this cannot be stored.
    pub fresh: bool,
}

impl Overlay {
    /// Takes in what is stored.
    pub fn restore(&mut self, slice: u32, record: SliceRecord) {
        let agent: Arc<str> = record.agent.into();
        self.slices.insert(Arc::clone(&agent), slice);
        self.nodes.insert(slice, Node { agent, address: record.address });
    }

    /// A registering agent wants its slice. Gives what is to be stored, if anything is.
    pub fn claim(&mut self, agent: &Arc<str>, wish: &internal::OverlayNode) -> Option<Claim> {
        let known = self.slices.get(agent).copied();
        let slice = known.or_else(|| self.free(wish.slices))?;
        let node = Node { agent: Arc::clone(agent), address: wish.address.clone() };
        if self.nodes.get(&slice) == Some(&node) {
            return None;
        }
        let record = SliceRecord { agent: agent.to_string(), address: node.address.clone() };
        self.nodes.insert(slice, node);
        self.slices.insert(Arc::clone(agent), slice);
        self.changed.insert(slice);
        Some(Claim { op: registry::put_slice(slice, &record), fresh: known.is_none() })
    }

    /// The number after the highest, so that one that was given back is used again last; else the lowest that is free.
    fn free(&self, slices: u32) -> Option<u32> {
        let next = self.nodes.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        if next < slices {
            return Some(next);
        }
        (0..slices).find(|slice| !self.nodes.contains_key(slice))
    }

    /// An agent is gone for good. Gives what is to be stored.
    pub fn release(&mut self, agent: &str) -> Option<Op> {
        let slice = self.slices.remove(agent)?;
        self.nodes.remove(&slice);
        self.changed.insert(slice);
        Some(registry::delete("slice", &slice.to_string()))
    }

    /// Everything, for the agent `agent`.
    fn whole(&self, agent: &str) -> internal::Overlay {
        let own = self.slices.get(agent).copied();
        let others = self.nodes.iter().filter(|(slice, _)| Some(**slice) != own);
        internal::Overlay {
            slice: own,
            whole: true,
            nodes: others.map(|(slice, node)| named(*slice, node)).collect(),
            gone: Vec::new(),
        }
    }

    /// What changed since this was asked last.
    fn news(&mut self) -> internal::Overlay {
        let mut news = internal::Overlay { slice: None, whole: false, nodes: Vec::new(), gone: Vec::new() };
        for slice in std::mem::take(&mut self.changed) {
            match self.nodes.get(&slice) {
                Some(node) => news.nodes.push(named(slice, node)),
                None => news.gone.push(slice),
            }
        }
        news
    }
}

fn named(slice: u32, node: &Node) -> overlay::Node {
    overlay::Node { slice, address: node.address.clone() }
}

impl Master {
    /// Tells an agent that takes part what its slice is and where the others are.
    pub(super) fn tell_overlay(&self, t: &mut Turn<'_>, key: AgentKey, id: &str) {
        self.tell(t, key, Kind::Overlay(self.overlay.whole(id)));
    }

    /// Has changes told, if there are any, once some time has passed.
    pub(super) fn overlay_soon(&mut self, t: &mut Turn<'_>) {
        if !self.overlay.changed.is_empty() {
            let at = t.now.mono + GATHER;
            let due = self.overlay_at.get_or_insert(at);
            self.timers.set(*due, Timer::Overlay);
        }
    }

    /// Tells all that take part what has changed.
    pub(super) fn overlay_due(&mut self, t: &mut Turn<'_>) {
        self.overlay_at = None;
        let news = self.overlay.news();
        let keys = self.overlay.slices.iter().filter_map(|(id, own)| Some((*own, *self.agent_keys.get(id)?)));
        for (own, key) in keys.collect::<Vec<_>>() {
            let nodes = news.nodes.iter().filter(|node| node.slice != own).cloned().collect::<Vec<_>>();
            if !nodes.is_empty() || !news.gone.is_empty() {
                self.tell(t, key, Kind::Overlay(internal::Overlay { nodes, ..news.clone() }));
            }
        }
    }

    /// Who has which slice: number, agent, address.
    pub fn overlay_nodes(&self) -> impl Iterator<Item = (u32, &str, &str)> {
        self.overlay.nodes.iter().map(|(slice, node)| (*slice, &*node.agent, node.address.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_once_and_those_given_back_last() {
        let mut overlay = Overlay::default();
        let agent = |name: &str| -> Arc<str> { name.into() };
        let wish = |address: &str| internal::OverlayNode { slices: 3, address: address.to_owned() };
        for (name, fresh) in [("a", true), ("b", true)] {
            assert_eq!(overlay.claim(&agent(name), &wish(name)).map(|claim| claim.fresh), Some(fresh));
        }
        assert_eq!(overlay.claim(&agent("a"), &wish("a")), None, "nothing new");
        assert!(!overlay.claim(&agent("a"), &wish("a2")).unwrap().fresh, "another address is stored");
        assert!(overlay.release("a").is_some());
        overlay.claim(&agent("c"), &wish("c"));
        assert_eq!(overlay.slices.get("c"), Some(&2));
        overlay.claim(&agent("d"), &wish("d"));
        assert_eq!(overlay.slices.get("d"), Some(&0), "now that there is no other");
        assert_eq!(overlay.claim(&agent("e"), &wish("e")), None);
        assert_eq!(overlay.whole("e").slice, None, "the range is full");
        let whole = overlay.whole("c");
        assert_eq!(
            (whole.slice, whole.nodes.iter().map(|n| n.slice).collect::<Vec<_>>()),
            (Some(2), vec![0, 1])
        );
        let news = overlay.news();
        assert_eq!(news.nodes.iter().map(|n| n.slice).collect::<Vec<_>>(), [0, 1, 2]);
        overlay.release("b");
        assert_eq!((overlay.news().gone, overlay.news().gone), (vec![1], vec![]));
    }
}
