//! The tree of roles and the subscriptions in it: who comes next in DRF order, who is over a limit. Knows
//! no agents beyond their numbers.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::bits::Bits;
use crate::kinds::{Amounts, NameId};
use crate::share::{Share, Totals};
use crate::slab::Slab;

pub(crate) type RoleId = u32;
pub(crate) type SubId = u32;
pub(crate) const ROOT: RoleId = 0;

/// What may be worth offering: each an alternative, all parts of which are needed.
pub(crate) type Minimum = Vec<Vec<(NameId, i64)>>;

/// A framework in a role: subscribed to it, or only holding something under it.
#[derive(Clone, Debug)]
pub(crate) struct Sub {
    pub(crate) framework: u32,
    pub(crate) role: RoleId,
    pub(crate) subscribed: bool,
    pub(crate) suppressed: bool,
    /// Wants offers: in the order and in the mask.
    pub(crate) willing: bool,
    /// Its place in masks and filters while subscribed; changes when its filters are dropped.
    pub(crate) bit: Option<u32>,
    /// Its own minimum, when it has one.
    pub(crate) minimum: Option<Minimum>,
    /// All it holds, in scalars that count for fairness.
    pub(crate) allocated: Amounts,
    pub(crate) share: Share,
    /// Its framework's order of registration.
    pub(crate) seq: u64,
    /// Agents that may have a filter with its bit (at least those that do).
    pub(crate) filtered_on: Bits,
    /// Agents it holds something of.
    pub(crate) agents: BTreeSet<u32>,
}

/// A child in the order of a role: share, then name; the role's own frameworks have no name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry(Share, Option<Arc<str>>, RoleId);

#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) path: Arc<str>,
    name: Arc<str>,
    pub(crate) parent: RoleId,
    depth: u32,
    children: BTreeMap<Arc<str>, RoleId>,
    pub(crate) weight: f64,
    pub(crate) limits: Option<Vec<(NameId, i64)>>,
    /// Reserved on any agent to this role or below.
    pub(crate) reserved: Amounts,
    /// Unreserved, not revocable, and allocated to this role or below.
    pub(crate) used: Amounts,
    /// Everything allocated to this role or below.
    pub(crate) allocated: Amounts,
    direct: Amounts,
    pub(crate) share: Share,
    direct_share: Share,
    /// Willing subscriptions in the subtree.
    willing: u32,
    order: BTreeSet<Entry>,
    own: BTreeSet<(Share, u64, SubId)>,
    pub(crate) subs: BTreeSet<SubId>,
    /// The bits of `subs`.
    pub(crate) bits: Bits,
    /// Nothing worth offering fits under the own limits.
    pub(crate) exhausted: bool,
    /// Agents where an offer below here was cut by the limits since they last gave way.
    pub(crate) cut_on: BTreeSet<u32>,
    /// Agents with something reserved to exactly this role.
    pub(crate) reserved_on: BTreeSet<u32>,
}

impl Role {
    fn new(path: Arc<str>, name: Arc<str>, parent: RoleId, depth: u32) -> Self {
        let empty = Amounts::default;
        Role {
            path,
            name,
            parent,
            depth,
            children: BTreeMap::new(),
            weight: 1.0,
            limits: None,
            reserved: empty(),
            used: empty(),
            allocated: empty(),
            direct: empty(),
            share: Share::default(),
            direct_share: Share::default(),
            willing: 0,
            order: BTreeSet::new(),
            own: BTreeSet::new(),
            subs: BTreeSet::new(),
            bits: Bits::default(),
            exhausted: false,
            cut_on: BTreeSet::new(),
            reserved_on: BTreeSet::new(),
        }
    }

    /// What may still be consumed of each limited scalar; negative when over the limit.
    pub(crate) fn headroom(&self) -> impl Iterator<Item = (NameId, i64)> + '_ {
        let left = |(name, limit): &(NameId, i64)| {
            (*name, limit.saturating_sub(self.reserved.get(*name)).saturating_sub(self.used.get(*name)))
        };
        self.limits.iter().flatten().map(left)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    roles: Slab<Role>,
    by_path: BTreeMap<Arc<str>, RoleId>,
    pub(crate) subs: Slab<Sub>,
    pub(crate) totals: Totals,
    stale: bool,
}

impl Tree {
    pub(crate) fn new(totals: Totals) -> Self {
        let mut roles = Slab::default();
        roles.insert(Role::new(Arc::from(""), Arc::from(""), ROOT, 0));
        Tree { roles, by_path: BTreeMap::new(), subs: Slab::default(), totals, stale: false }
    }

    pub(crate) fn role(&self, id: RoleId) -> Option<&Role> {
        self.roles.get(id)
    }

    pub(crate) fn role_mut(&mut self, id: RoleId) -> Option<&mut Role> {
        self.roles.get_mut(id)
    }

    pub(crate) fn find(&self, path: &str) -> Option<RoleId> {
        self.by_path.get(path).copied()
    }

    pub(crate) fn roles(&self) -> impl Iterator<Item = (RoleId, &Role)> {
        self.roles.iter().filter(|(id, _)| *id != ROOT)
    }

    /// The role of this path, made with its ancestors if need be.
    pub(crate) fn ensure(&mut self, path: &str) -> RoleId {
        if let Some(id) = self.find(path) {
            return id;
        }
        let (mut parent, mut depth) = (ROOT, 0);
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            depth += 1;
            let prefix = path.get(..end).unwrap_or(path);
            if let Some(id) = self.find(prefix) {
                parent = id;
                continue;
            }
            let full: Arc<str> = Arc::from(prefix);
            let name: Arc<str> = Arc::from(prefix.rsplit_once('/').map_or(prefix, |(_, name)| name));
            let id = self.roles.insert(Role::new(full.clone(), name.clone(), parent, depth));
            self.by_path.insert(full, id);
            if let Some(p) = self.role_mut(parent) {
                p.children.insert(name, id);
            }
            parent = id;
        }
        parent
    }

    /// Forgets a role, and then its ancestors, if nothing is said about it any more.
    pub(crate) fn prune(&mut self, mut id: RoleId) {
        while id != ROOT {
            let idle = self.role(id).is_some_and(|r| {
                r.children.is_empty()
                    && r.subs.is_empty()
                    && r.limits.is_none()
                    && r.weight == 1.0
                    && r.reserved_on.is_empty()
            });
            if !idle {
                return;
            }
            let Some(role) = self.roles.remove(id) else { return };
            self.by_path.remove(&role.path);
            if let Some(parent) = self.role_mut(role.parent) {
                parent.children.remove(&role.name);
            }
            id = role.parent;
        }
    }

    /// The role and its ancestors, without the root.
    pub(crate) fn chain(&self, id: RoleId) -> impl Iterator<Item = (RoleId, &Role)> {
        std::iter::successors(self.role(id).map(|r| (id, r)), |(_, r)| {
            self.role(r.parent).map(|p| (r.parent, p))
        })
        .take_while(|(id, _)| *id != ROOT)
    }

    /// Whether some limit at or above the role leaves nothing worth offering.
    pub(crate) fn closed(&self, id: RoleId) -> bool {
        self.chain(id).any(|(_, r)| r.exhausted)
    }

    /// All subscriptions in the role and below.
    pub(crate) fn subtree(&self, id: RoleId) -> Vec<SubId> {
        let (mut list, mut stack) = (Vec::new(), vec![id]);
        while let Some(role) = stack.pop().and_then(|id| self.role(id)) {
            list.extend(&role.subs);
            stack.extend(role.children.values());
        }
        list
    }

    /// Adds the bits of all subscriptions in the role and below.
    pub(crate) fn subtree_bits(&self, id: RoleId, bits: &mut Bits) {
        let mut stack = vec![id];
        while let Some(role) = stack.pop().and_then(|id| self.role(id)) {
            bits.union(&role.bits);
            stack.extend(role.children.values());
        }
    }

    // --- order
    // -----------------------------------------------------------------------------------------------

    /// Puts a subscription in or out of the order.
    pub(crate) fn set_willing(&mut self, sub: SubId, willing: bool) {
        let Some(s) = self.subs.get_mut(sub) else { return };
        if s.willing == willing {
            return;
        }
        s.willing = willing;
        let (key, mut id) = ((s.share, s.seq, sub), s.role);
        let Some(role) = self.role_mut(id) else { return };
        let direct = Entry(role.direct_share, None, id);
        if willing {
            role.own.insert(key);
            role.order.insert(direct);
        } else {
            role.own.remove(&key);
            if role.own.is_empty() {
                role.order.remove(&direct);
            }
        }
        loop {
            let Some(role) = self.role_mut(id) else { return };
            role.willing = if willing { role.willing + 1 } else { role.willing.saturating_sub(1) };
            if id == ROOT {
                return;
            }
            let (entry, parent) = (Entry(role.share, Some(role.name.clone()), id), role.parent);
            let (first, last) = (willing && role.willing == 1, !willing && role.willing == 0);
            if let Some(p) = self.role_mut(parent) {
                if first {
                    p.order.insert(entry);
                } else if last {
                    p.order.remove(&entry);
                }
            }
            id = parent;
        }
    }

    /// Takes an allocation (factor 1) or its end (-1) into account: `all` counts for fairness, `consumed`
    /// against limits.
    pub(crate) fn charge(&mut self, sub: SubId, all: &Amounts, consumed: &Amounts, factor: i64) {
        let Tree { roles, subs, totals, .. } = self;
        let Some(s) = subs.get_mut(sub) else { return };
        s.allocated.apply(all, factor);
        let new = totals.share(&s.allocated, 1.0);
        let old = std::mem::replace(&mut s.share, new);
        let mut id = s.role;
        if let Some(role) = roles.get_mut(id) {
            if s.willing && old != new {
                role.own.remove(&(old, s.seq, sub));
                role.own.insert((new, s.seq, sub));
            }
            role.direct.apply(all, factor);
            let new = totals.share(&role.direct, 1.0);
            let old = std::mem::replace(&mut role.direct_share, new);
            if old != new && role.order.remove(&Entry(old, None, id)) {
                role.order.insert(Entry(new, None, id));
            }
        }
        while id != ROOT {
            let Some(role) = roles.get_mut(id) else { return };
            role.allocated.apply(all, factor);
            role.used.apply(consumed, factor);
            let new = totals.share(&role.allocated, role.weight);
            let old = std::mem::replace(&mut role.share, new);
            let (name, parent) = (role.name.clone(), role.parent);
            if old != new
                && let Some(p) = roles.get_mut(parent)
            {
                let mut entry = Entry(old, Some(name), id);
                if p.order.remove(&entry) {
                    entry.0 = new;
                    p.order.insert(entry);
                }
            }
            id = parent;
        }
    }

    /// All shares are to be computed anew before the next question about order.
    pub(crate) fn set_stale(&mut self) {
        self.stale = true;
    }

    /// Computes all shares and orders anew if need be.
    pub(crate) fn refresh(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let Tree { roles, subs, totals, .. } = self;
        let mut own: BTreeMap<RoleId, Vec<(Share, u64, SubId)>> = BTreeMap::new();
        for (id, sub) in subs.iter_mut() {
            sub.share = totals.share(&sub.allocated, 1.0);
            if sub.willing {
                own.entry(sub.role).or_default().push((sub.share, sub.seq, id));
            }
        }
        let mut order: BTreeMap<RoleId, Vec<Entry>> = BTreeMap::new();
        for (id, role) in roles.iter_mut() {
            role.share = totals.share(&role.allocated, role.weight);
            role.direct_share = totals.share(&role.direct, 1.0);
            role.own = own.remove(&id).unwrap_or_default().into_iter().collect();
            if !role.own.is_empty() {
                order.entry(id).or_default().push(Entry(role.direct_share, None, id));
            }
            if role.willing > 0 && id != ROOT {
                order.entry(role.parent).or_default().push(Entry(role.share, Some(role.name.clone()), id));
            }
        }
        for (id, role) in roles.iter_mut() {
            role.order = order.remove(&id).unwrap_or_default().into_iter().collect();
        }
    }

    /// Which of two subscriptions comes first.
    pub(crate) fn compare(&self, a: SubId, b: SubId) -> Ordering {
        let (Some(sa), Some(sb)) = (self.subs.get(a), self.subs.get(b)) else { return a.cmp(&b) };
        if sa.role == sb.role {
            return (sa.share, sa.seq, a).cmp(&(sb.share, sb.seq, b));
        }
        let (mut left, mut right) = ((sa.role, None), (sb.role, None));
        let depth = |id: RoleId| self.role(id).map_or(0, |r| r.depth);
        let up = |(id, _): (RoleId, Option<RoleId>)| (self.role(id).map_or(ROOT, |r| r.parent), Some(id));
        while depth(left.0) > depth(right.0) {
            left = up(left);
        }
        while depth(right.0) > depth(left.0) {
            right = up(right);
        }
        while left.0 != right.0 {
            (left, right) = (up(left), up(right));
        }
        let key = |(at, from): (RoleId, Option<RoleId>)| match from.and_then(|id| self.role(id)) {
            Some(child) => (child.share, Some(&child.name)),
            None => (self.role(at).map_or(Share::default(), |r| r.direct_share), None),
        };
        key(left).cmp(&key(right))
    }

    /// The first in order whose bit is in the mask. Few are compared with each other; many are walked in
    /// order until one is met, for as many steps as comparing them would take.
    pub(crate) fn first(&self, mask: &Bits, owners: &[Option<SubId>], compared: &mut u64) -> Option<SubId> {
        let count = mask.count();
        if count > 8 {
            let mut steps = count;
            let found = self.walk(ROOT, mask, &mut steps);
            *compared += (count - steps) as u64;
            if found.is_some() {
                return found;
            }
        }
        *compared += count as u64;
        let owner = |bit: u32| owners.get(bit as usize).copied().flatten();
        mask.iter().filter_map(owner).min_by(|a, b| self.compare(*a, *b))
    }

    fn walk(&self, at: RoleId, mask: &Bits, steps: &mut usize) -> Option<SubId> {
        let role = self.role(at)?;
        for Entry(_, name, id) in &role.order {
            if *steps == 0 {
                return None;
            }
            *steps -= 1;
            if name.is_some() {
                if let Some(found) = self.walk(*id, mask, steps) {
                    return Some(found);
                }
                continue;
            }
            for (_, _, sub) in &role.own {
                if *steps == 0 {
                    return None;
                }
                *steps -= 1;
                if self.subs.get(*sub).and_then(|s| s.bit).is_some_and(|bit| mask.contains(bit)) {
                    return Some(*sub);
                }
            }
        }
        None
    }
}
