//! The allocator's state, and what keeps its indexes true: masks of subscriptions, agents worth offering,
//! what the next cycle looks at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use plenum_api::Millis;
use plenum_api::resources::Quantities;

use crate::bag::Bag;
use crate::bits::Bits;
use crate::filters::Filters;
use crate::kinds::{Amounts, Kinds};
use crate::options::{Capabilities, Options};
use crate::share::Totals;
use crate::slab::Slab;
use crate::tree::{Minimum, RoleId, SubId, Tree};

#[derive(Clone, Debug)]
pub(crate) struct Framework {
    pub(crate) id: Arc<str>,
    /// Added and not removed; otherwise only its holdings keep it here.
    pub(crate) registered: bool,
    pub(crate) active: bool,
    pub(crate) seq: u64,
    pub(crate) capabilities: Capabilities,
    pub(crate) subs: BTreeMap<RoleId, SubId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) id: Arc<str>,
    pub(crate) hostname: String,
    pub(crate) region: Option<String>,
    pub(crate) active: bool,
    pub(crate) allowed: bool,
    pub(crate) remote: bool,
    pub(crate) gpus: bool,
    pub(crate) revocable: bool,
    pub(crate) total: Bag,
    pub(crate) held: BTreeMap<SubId, Bag>,
    /// Sum of `held` without shared resources.
    pub(crate) held_sum: Bag,
    /// Copies of shared resources in open offers.
    pub(crate) shared_offered: Bag,
    /// Everything that may be offered.
    pub(crate) free: Bag,
    /// Scalars of `free`.
    pub(crate) free_sums: Amounts,
    /// Whether anything free is reserved.
    pub(crate) free_reserved: bool,
    pub(crate) filters: Filters,
}

/// Who has which bit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    pub(crate) owners: Vec<Option<SubId>>,
    free: Vec<u32>,
    /// Bits without an owner that agents may still have in filters.
    retired: VecDeque<(u32, Bits)>,
}

/// Sets of subscriptions by bit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Masks {
    /// Active, subscribed, not suppressed.
    pub(crate) willing: Bits,
    /// Willing, and able to get something unreserved as far as limits go.
    pub(crate) open: Bits,
    pub(crate) gpus: Bits,
    pub(crate) regions: Bits,
    /// Those with a minimum of their own.
    pub(crate) picky: Bits,
}

/// Decides who is offered what. See `docs/adr/0008-allocator.md`.
#[derive(Clone, Debug)]
pub struct Allocator {
    pub(crate) kinds: Kinds,
    pub(crate) tree: Tree,
    pub(crate) filter_gpus: bool,
    pub(crate) region: Option<String>,
    pub(crate) minimum: Minimum,
    /// Minimums of single frameworks, and how many have each.
    pub(crate) minimums: BTreeMap<Minimum, usize>,
    pub(crate) frameworks: Slab<Framework>,
    pub(crate) framework_ids: BTreeMap<Arc<str>, u32>,
    pub(crate) agents: Slab<Agent>,
    pub(crate) agent_ids: BTreeMap<Arc<str>, u32>,
    pub(crate) allowed: Option<BTreeSet<String>>,
    pub(crate) places: Places,
    pub(crate) masks: Masks,
    /// Agents with something worth offering.
    pub(crate) offerable: BTreeSet<u32>,
    /// Agents to look at for everybody.
    pub(crate) dirty: BTreeSet<u32>,
    /// Subscriptions for which to look at all offerable agents.
    pub(crate) scan: Bits,
    pub(crate) timers: BTreeSet<(Millis, u32)>,
    pub(crate) revocable_agents: usize,
    pub(crate) next_seq: u64,
}

impl Allocator {
    /// An allocator that knows nobody yet.
    pub fn new(options: Options) -> Self {
        let mut kinds = Kinds::default();
        let excluded = options.excluded_from_fairness.iter().map(|n| kinds.name(n)).collect();
        let minimum = minimum_of(&mut kinds, &options.min_allocatable);
        Allocator {
            kinds,
            tree: Tree::new(Totals::new(excluded)),
            filter_gpus: options.filter_gpus,
            region: options.region,
            minimum,
            minimums: BTreeMap::new(),
            frameworks: Slab::default(),
            framework_ids: BTreeMap::new(),
            agents: Slab::default(),
            agent_ids: BTreeMap::new(),
            allowed: None,
            places: Places::default(),
            masks: Masks::default(),
            offerable: BTreeSet::new(),
            dirty: BTreeSet::new(),
            scan: Bits::default(),
            timers: BTreeSet::new(),
            revocable_agents: 0,
            next_seq: 0,
        }
    }

    // --- bits of subscriptions
    // -------------------------------------------------------------------------------

    pub(crate) fn give_bit(&mut self, sub: SubId) {
        let bit = self.places.free.pop().unwrap_or_else(|| {
            self.places.owners.push(None);
            (self.places.owners.len() - 1) as u32
        });
        if let Some(owner) = self.places.owners.get_mut(bit as usize) {
            *owner = Some(sub);
        }
        let Some(s) = self.tree.subs.get_mut(sub) else { return };
        s.bit = Some(bit);
        let role = s.role;
        if let Some(r) = self.tree.role_mut(role) {
            r.bits.insert(bit);
        }
        self.refresh_masks(sub);
    }

    /// Takes the bit away, and with it all filters; costs no look at any agent.
    pub(crate) fn take_bit(&mut self, sub: SubId) {
        let Some(s) = self.tree.subs.get_mut(sub) else { return };
        let Some(bit) = s.bit.take() else { return };
        let (filtered_on, role) = (std::mem::take(&mut s.filtered_on), s.role);
        if let Some(r) = self.tree.role_mut(role) {
            r.bits.remove(bit);
        }
        let masks = &mut self.masks;
        for mask in [
            &mut masks.willing,
            &mut masks.open,
            &mut masks.gpus,
            &mut masks.regions,
            &mut masks.picky,
            &mut self.scan,
        ] {
            mask.remove(bit);
        }
        if let Some(owner) = self.places.owners.get_mut(bit as usize) {
            *owner = None;
        }
        if filtered_on.is_empty() {
            self.places.free.push(bit);
            return;
        }
        self.places.retired.push_back((bit, filtered_on));
        // Sweeping keeps up in cycles; this bounds the bits should many be retired between two.
        if self.places.retired.len() > 64 + self.tree.subs.len() {
            self.sweep(usize::MAX);
        }
    }

    /// Clears the oldest retired bit from up to `budget` agents' filters; how many were touched.
    pub(crate) fn sweep(&mut self, budget: usize) -> u64 {
        let Some((bit, mut agents)) = self.places.retired.pop_front() else { return 0 };
        let batch: Vec<u32> = agents.iter().take(budget).collect();
        for place in &batch {
            agents.remove(*place);
            if let Some(agent) = self.agents.get_mut(*place) {
                agent.filters.forget(bit);
            }
        }
        if agents.is_empty() {
            self.places.free.push(bit);
        } else {
            self.places.retired.push_front((bit, agents));
        }
        batch.len() as u64
    }

    /// Drops the filters of a subscription; agents where one may have stood are looked at again.
    pub(crate) fn drop_filters(&mut self, sub: SubId) {
        let Some(s) = self.tree.subs.get(sub).filter(|s| s.bit.is_some() && !s.filtered_on.is_empty()) else {
            return;
        };
        let few = s.filtered_on.count() * 4 < self.offerable.len();
        if few {
            self.dirty.extend(s.filtered_on.iter().filter(|place| self.offerable.contains(place)));
        }
        let scanned = s.bit.is_some_and(|bit| self.scan.contains(bit));
        self.take_bit(sub);
        self.give_bit(sub);
        if (scanned || !few)
            && let Some(role) = self.tree.subs.get(sub).filter(|s| s.willing).map(|s| s.role)
        {
            self.look_for(sub, role);
        }
    }

    // --- masks
    // -----------------------------------------------------------------------------------------------

    /// Recomputes whether a subscription is willing and in which masks it stands; if it has become willing,
    /// all agents that have something for it are looked at.
    pub(crate) fn refresh_sub(&mut self, sub: SubId) {
        let Some(s) = self.tree.subs.get(sub) else { return };
        let willing = s.subscribed
            && !s.suppressed
            && s.bit.is_some()
            && self.frameworks.get(s.framework).is_some_and(|f| f.registered && f.active);
        let (was, role) = (s.willing, s.role);
        self.tree.set_willing(sub, willing);
        self.refresh_masks(sub);
        if willing && !was {
            self.look_for(sub, role);
        }
    }

    /// Marks everything that may have become possible for a subscription.
    pub(crate) fn look_for(&mut self, sub: SubId, role: RoleId) {
        if let Some(bit) = self.tree.subs.get(sub).and_then(|s| s.bit) {
            self.scan.insert(bit);
        }
        // Walking all agents ends when a limit closes the role, and reservations are not closed by limits.
        let reserved = self.tree.chain(role).flat_map(|(_, r)| r.reserved_on.iter());
        self.dirty.extend(reserved.filter(|place| self.offerable.contains(place)));
    }

    pub(crate) fn refresh_masks(&mut self, sub: SubId) {
        let Some(s) = self.tree.subs.get(sub) else { return };
        let (Some(bit), Some(f)) = (s.bit, self.frameworks.get(s.framework)) else { return };
        let capable = f.capabilities;
        let open = s.willing
            && (s.minimum.is_some()
                || (capable.revocable_resources && self.revocable_agents > 0)
                || !self.tree.closed(s.role));
        self.masks.willing.set(bit, s.willing);
        self.masks.open.set(bit, open);
        self.masks.gpus.set(bit, capable.gpu_resources);
        self.masks.regions.set(bit, capable.region_aware);
        self.masks.picky.set(bit, s.minimum.is_some());
    }

    /// Takes note that what the role and its ancestors consume, or their limits, changed; `less`: may have
    /// given way.
    pub(crate) fn limits_changed(&mut self, role: RoleId, less: bool) {
        let limited: Vec<RoleId> = self
            .tree
            .chain(role)
            .filter(|(_, r)| r.limits.is_some() || r.exhausted)
            .map(|(id, _)| id)
            .collect();
        for id in limited {
            let minimum = &self.minimum;
            let Some(r) = self.tree.role_mut(id) else { continue };
            let room: Vec<_> = r.headroom().collect();
            let fits =
                |part: &(usize, i64)| room.iter().all(|(name, left)| *name != part.0 || *left >= part.1);
            let exhausted =
                !room.is_empty() && !minimum.is_empty() && !minimum.iter().any(|m| m.iter().all(fits));
            let was = std::mem::replace(&mut r.exhausted, exhausted);
            if less {
                self.dirty.append(&mut r.cut_on);
            }
            if was != exhausted {
                for sub in self.tree.subtree(id) {
                    self.refresh_masks(sub);
                }
                if was {
                    self.tree.subtree_bits(id, &mut self.scan);
                }
            }
        }
    }

    // --- agents worth offering
    // -------------------------------------------------------------------------------

    /// Whether anything on the agent may be worth an offer to anybody.
    fn worth_offering(&self, agent: &Agent) -> bool {
        let enough = |minimum: &Minimum| meets(minimum, &agent.free_sums);
        agent.active
            && agent.allowed
            && !agent.free.is_empty()
            && (enough(&self.minimum) || self.minimums.keys().any(enough))
    }

    /// Brings the agent's place among those worth offering up to date and has it looked at.
    pub(crate) fn touch(&mut self, place: u32) {
        let Some(agent) = self.agents.get(place) else { return };
        if self.worth_offering(agent) {
            self.offerable.insert(place);
            self.dirty.insert(place);
        } else {
            self.offerable.remove(&place);
        }
    }

    /// As [`Self::touch`] for all agents; for what changes rarely.
    pub(crate) fn touch_all(&mut self) {
        let places: Vec<u32> = self.agents.iter().map(|(place, _)| place).collect();
        places.into_iter().for_each(|place| self.touch(place));
    }

    /// Recomputes what is free on an agent.
    pub(crate) fn refree(&mut self, place: u32) {
        let Some(agent) = self.agents.get_mut(place) else { return };
        let mut free = agent.total.clone();
        free.subtract(&agent.held_sum);
        free.subtract(&agent.shared_offered);
        agent.free_reserved = false;
        agent.free_sums = Amounts::default();
        for (id, amount) in free.iter() {
            let Some(kind) = self.kinds.get(id) else { continue };
            agent.free_reserved |= kind.reserved.is_some();
            if let Some(name) = kind.name {
                agent.free_sums.add(name, kind.quantity(amount));
            }
        }
        agent.free = free;
        self.touch(place);
    }
}

/// Whether the scalars contain one of the alternatives; no alternatives: always.
pub(crate) fn meets(minimum: &Minimum, sums: &Amounts) -> bool {
    minimum.is_empty() || minimum.iter().any(|m| m.iter().all(|(name, need)| sums.get(*name) >= *need))
}

pub(crate) fn minimum_of(kinds: &mut Kinds, alternatives: &[Quantities]) -> Minimum {
    alternatives
        .iter()
        .map(|q| q.iter().map(|(name, n)| (kinds.name(name), n.thousandths())).collect())
        .collect()
}
