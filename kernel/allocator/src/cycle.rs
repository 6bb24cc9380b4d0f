//! One allocation cycle: filters end, then every agent where something may have become possible is offered
//! in turn.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_api::{Millis, Now};

use crate::bag::{Amount, Bag};
use crate::bits::Bits;
use crate::options::{Allocation, Grant, Stats};
use crate::state::{Agent, Allocator, meets};

/// Agents freed of retired bits in one cycle; about ten microseconds' work.
const SWEEP: usize = 256;

impl Allocator {
    /// Decides what to offer after everything reported so far. The grants are held by their frameworks from
    /// now on, as offers.
    pub fn cycle(&mut self, now: Now) -> Allocation {
        let mut out = Allocation::default();
        self.end_filters(now.mono, &mut out.stats);
        self.tree.refresh();
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut scan = std::mem::take(&mut self.scan);
        let (mut at, mut mask, mut tried) = (0, Bits::default(), Bits::default());
        loop {
            let next_dirty = dirty.first().copied();
            // Others are worth a look only while somebody they are looked at for may still take.
            let next_scanned = scan
                .intersects(&self.masks.open)
                .then(|| self.offerable.range(at..).next().copied())
                .flatten();
            let Some(place) = next_dirty.into_iter().chain(next_scanned).min() else { break };
            let all = next_dirty == Some(place);
            if all {
                dirty.remove(&place);
            }
            at = place + 1;
            if self.offerable.contains(&place) {
                out.stats.agents_visited += 1;
                tried.clear();
                let only = if all { None } else { Some(&scan) };
                self.visit(place, only, now.mono, (&mut mask, &mut tried), &mut out);
            }
        }
        // Looking never makes more possible; limits only close in a cycle.
        self.dirty.append(&mut dirty);
        scan.clear();
        out.stats.swept = self.sweep(SWEEP);
        out.next_wakeup = self.timers.first().map(|(until, _)| *until);
        out
    }

    fn end_filters(&mut self, now: Millis, stats: &mut Stats) {
        while let Some((until, place)) = self.timers.first().copied().filter(|(until, _)| *until <= now) {
            self.timers.remove(&(until, place));
            if let Some(agent) = self.agents.get_mut(place) {
                let ended = agent.filters.expire(now);
                stats.filters_ended += ended;
                if ended > 0 {
                    self.dirty.insert(place);
                }
            }
        }
    }

    /// Offers one agent until nobody who was not asked is eligible.
    fn visit(
        &mut self,
        place: u32,
        only: Option<&Bits>,
        now: Millis,
        (mask, tried): (&mut Bits, &mut Bits),
        out: &mut Allocation,
    ) {
        let mut cut = Vec::new();
        let mut fresh = false;
        loop {
            let Some(agent) = self.agents.get(place) else { return };
            if !fresh {
                self.candidates(agent, now, mask);
                mask.subtract(tried);
                if let Some(only) = only {
                    mask.intersect(only);
                }
                fresh = true;
            }
            let Some(sub) = self.tree.first(mask, &self.places.owners, &mut out.stats.compared) else {
                return;
            };
            out.stats.frameworks_visited += 1;
            if let Some(bit) = self.tree.subs.get(sub).and_then(|s| s.bit) {
                tried.insert(bit);
                mask.remove(bit);
            }
            cut.clear();
            let verdict = self.judge(agent, sub, now, &mut cut);
            for role in cut.drain(..) {
                if let Some(r) = self.tree.role_mut(role) {
                    r.cut_on.insert(place);
                }
            }
            if let Ok(bag) = verdict {
                out.grants.extend(self.grant(place, sub, &bag));
                fresh = false;
            }
        }
    }

    fn grant(&mut self, place: u32, sub: u32, bag: &Bag) -> Option<Grant> {
        let s = self.tree.subs.get(sub)?;
        let role = self.tree.role(s.role)?.path.to_string();
        let grant = Grant {
            framework: self.frameworks.get(s.framework)?.id.to_string(),
            agent: self.agents.get(place)?.id.to_string(),
            resources: self.kinds.resources(bag).allocate(&role),
            role,
        };
        self.take(place, sub, bag, true);
        // What the taker left is looked at in this visit; it needs no other.
        self.dirty.remove(&place);
        Some(grant)
    }

    /// Everybody who may be eligible for what is free on an agent: a superset of who is, by a few
    /// operations on words.
    fn candidates(&self, agent: &Agent, now: Millis, mask: &mut Bits) {
        mask.clear();
        if agent.free.is_empty() {
            return;
        }
        mask.copy_from(&self.masks.open);
        if agent.free_reserved {
            self.reserved_candidates(agent, now, mask);
        } else {
            for group in agent.filters.active(now).filter(|g| g.declined.contains(&agent.free)) {
                mask.subtract_span(&group.bits);
            }
        }
        if self.filter_gpus && agent.gpus {
            mask.intersect(&self.masks.gpus);
        }
        if agent.remote {
            mask.intersect(&self.masks.regions);
        }
        if !meets(&self.minimum, &agent.free_sums) {
            mask.intersect(&self.masks.picky);
        }
    }

    /// With reservations free, different roles see different things: everybody sees what is unreserved, and
    /// below each role that has a reservation also that and those of the roles above it. Limits do not
    /// close reservations.
    fn reserved_candidates(&self, agent: &Agent, now: Millis, mask: &mut Bits) {
        let see = |role: Option<&str>| {
            let mut view = Bag::default();
            for (id, amount) in agent.free.iter() {
                let owner = self.kinds.get(id).and_then(|k| k.reserved.as_deref());
                if owner.is_none_or(|owner| role.is_some_and(|r| crate::kinds::within(r, owner))) {
                    view.push(id, amount.clone());
                }
            }
            view
        };
        let unfiltered = |view: &Bag, mask: &mut Bits| {
            for group in agent.filters.active(now).filter(|g| g.declined.contains(view)) {
                mask.subtract_span(&group.bits);
            }
        };
        unfiltered(&see(None), mask);
        let reserved = |(id, _): (u32, &Amount)| self.kinds.get(id).and_then(|k| k.reserved.clone());
        // In order of paths a role comes before those below it.
        let roles: BTreeSet<Arc<str>> = agent.free.iter().filter_map(reserved).collect();
        for path in roles {
            let Some(role) = self.tree.find(&path) else { continue };
            let mut below = Bits::default();
            self.tree.subtree_bits(role, &mut below);
            mask.subtract(&below);
            below.intersect(&self.masks.willing);
            unfiltered(&see(Some(&path)), &mut below);
            mask.union(&below);
        }
    }
}
