//! What each agent has and who holds it: agents come and go, resources are held, given back, converted. The
//! only ledger of what is free.

use std::sync::Arc;

use plenum_api::Millis;
use plenum_api::resources::{Resources, role};

use crate::bag::{Amount, Bag};
use crate::filters;
use crate::kinds::{Amounts, Kind};
use crate::options::{AgentSpec, AllocatorError, Holding};
use crate::state::{Agent, Allocator};
use crate::tree::SubId;

type Done = Result<(), AllocatorError>;

impl Allocator {
    // --- agents
    // ----------------------------------------------------------------------------------------------

    /// Takes an agent in, active. Report what frameworks already use on it with [`Self::hold`] before the
    /// next cycle.
    pub fn add_agent(&mut self, id: &str, spec: &AgentSpec) -> Done {
        if self.agent_ids.contains_key(id) {
            return Err(AllocatorError::Exists(id.to_string()));
        }
        let id: Arc<str> = Arc::from(id);
        let place = self.agents.insert(Agent {
            id: id.clone(),
            hostname: spec.hostname.clone(),
            region: None,
            active: true,
            allowed: false,
            remote: false,
            gpus: false,
            revocable: false,
            total: Bag::default(),
            held: Default::default(),
            held_sum: Bag::default(),
            shared_offered: Bag::default(),
            free: Bag::default(),
            free_sums: Amounts::default(),
            free_reserved: false,
            filters: Default::default(),
        });
        self.agent_ids.insert(id, place);
        self.describe(place, spec);
        Ok(())
    }

    /// Replaces what is known of an agent. If its resources changed, all filters on it are dropped.
    pub fn update_agent(&mut self, id: &str, spec: &AgentSpec) -> Done {
        let place = self.place(id)?;
        self.describe(place, spec);
        Ok(())
    }

    fn describe(&mut self, place: u32, spec: &AgentSpec) {
        let total = self.kinds.bag(&spec.total);
        let (allowed, region) = (self.is_allowed(&spec.hostname), self.region.clone());
        let Some(agent) = self.agents.get_mut(place) else { return };
        agent.hostname.clone_from(&spec.hostname);
        agent.region.clone_from(&spec.region);
        agent.remote = region.is_some() && spec.region.is_some() && spec.region != region;
        agent.allowed = allowed;
        if agent.total != total {
            agent.filters.clear();
        }
        self.set_total(place, total);
        self.collect_kinds();
    }

    /// Forgets an agent with all that is held of it.
    pub fn remove_agent(&mut self, id: &str) -> Done {
        let place = self.place(id)?;
        self.set_total(place, Bag::default());
        let held = self.agents.get_mut(place).map(|a| std::mem::take(&mut a.held)).unwrap_or_default();
        for (sub, bag) in held {
            self.charge(sub, &bag, -1);
            if let Some(s) = self.tree.subs.get_mut(sub) {
                s.agents.remove(&place);
            }
            self.forget_sub_if_idle(sub);
        }
        self.agents.remove(place);
        self.agent_ids.remove(id);
        self.offerable.remove(&place);
        self.dirty.remove(&place);
        Ok(())
    }

    /// Offers the agent again.
    pub fn activate_agent(&mut self, id: &str) -> Done {
        self.set_agent_active(id, true)
    }

    /// Offers nothing of the agent; what is held stays held.
    pub fn deactivate_agent(&mut self, id: &str) -> Done {
        self.set_agent_active(id, false)
    }

    fn set_agent_active(&mut self, id: &str, active: bool) -> Done {
        let place = self.place(id)?;
        if let Some(agent) = self.agents.get_mut(place) {
            agent.active = active;
        }
        self.touch(place);
        Ok(())
    }

    /// Offers only agents with these host names; `None`: all. Mesos' whitelist.
    pub fn set_allowed_agents(&mut self, hostnames: Option<std::collections::BTreeSet<String>>) {
        self.allowed = hostnames;
        let allowed = &self.allowed;
        for (_, agent) in self.agents.iter_mut() {
            agent.allowed = allowed.as_ref().is_none_or(|a| a.contains(&agent.hostname));
        }
        self.touch_all();
    }

    fn is_allowed(&self, hostname: &str) -> bool {
        self.allowed.as_ref().is_none_or(|a| a.contains(hostname))
    }

    pub(crate) fn place(&self, agent: &str) -> Result<u32, AllocatorError> {
        self.agent_ids.get(agent).copied().ok_or_else(|| AllocatorError::UnknownAgent(agent.to_string()))
    }

    /// Replaces the resources of an agent and everything derived from them.
    fn set_total(&mut self, place: u32, total: Bag) {
        let Some(agent) = self.agents.get_mut(place) else { return };
        let old = std::mem::replace(&mut agent.total, total);
        let Some(agent) = self.agents.get(place) else { return };
        let new = agent.total.clone();
        let (mut gpus, mut revocable) = (false, false);
        for (id, amount) in new.iter() {
            let Some(kind) = self.kinds.get(id) else { continue };
            gpus |= kind.text() == "gpus" && kind.quantity(amount) > 0;
            revocable |= kind.revocable;
        }
        let had_revocable = agent.revocable;
        if let Some(agent) = self.agents.get_mut(place) {
            (agent.gpus, agent.revocable) = (gpus, revocable);
        }
        // New reservations are there before old ones go, so that a role in between is not taken for idle.
        self.account_total(place, &new, 1);
        self.account_total(place, &old, -1);
        let count = self.revocable_agents;
        self.revocable_agents = (count + usize::from(revocable)).saturating_sub(usize::from(had_revocable));
        if (count == 0) != (self.revocable_agents == 0) {
            let subs: Vec<SubId> = self.tree.subs.iter().map(|(id, _)| id).collect();
            subs.into_iter().for_each(|sub| self.refresh_masks(sub));
        }
        self.refree(place);
    }

    /// Adds to, or takes from, the cluster's totals and the roles' reservations what an agent has.
    fn account_total(&mut self, place: u32, total: &Bag, factor: i64) {
        let mut sums = Amounts::default();
        let mut reserved: Vec<(Arc<str>, Amounts)> = Vec::new();
        for (id, amount) in total.iter() {
            let Some(kind) = self.kinds.get(id) else { continue };
            if let Some(name) = kind.name {
                sums.add(name, kind.quantity(amount));
            }
            // What cannot be a role has no limits and no subscribers.
            let Some(role) = kind.reserved.as_ref().filter(|r| check_role(r).is_ok()) else { continue };
            let index = reserved.iter().position(|(r, _)| r == role).unwrap_or_else(|| {
                reserved.push((role.clone(), Amounts::default()));
                reserved.len() - 1
            });
            if let (Some((_, amounts)), Some(name)) = (reserved.get_mut(index), kind.name) {
                amounts.add(name, kind.quantity(amount));
            }
        }
        if self.tree.totals.apply(&sums, factor) {
            self.tree.set_stale();
        }
        for (path, amounts) in reserved {
            let role = self.tree.ensure(&path);
            let chain: Vec<u32> = self.tree.chain(role).map(|(id, _)| id).collect();
            for id in chain {
                if let Some(r) = self.tree.role_mut(id) {
                    r.reserved.apply(&amounts, factor);
                }
            }
            let still = self.agents.get(place).is_some_and(|a| {
                let to_role = |id| self.kinds.get(id).is_some_and(|k| k.reserved.as_ref() == Some(&path));
                a.total.iter().any(|(id, _)| to_role(id))
            });
            if let Some(r) = self.tree.role_mut(role) {
                if still {
                    r.reserved_on.insert(place);
                } else {
                    r.reserved_on.remove(&place);
                }
            }
            self.limits_changed(role, factor < 0);
            self.tree.prune(role);
        }
    }

    // --- holdings
    // --------------------------------------------------------------------------------------------

    /// Records that a framework has resources it was not granted by a cycle: tasks of an agent that
    /// registers again, copies of a shared volume that one more task uses. Neither the framework nor the
    /// role need be known. More than the agent has is recorded too.
    pub fn hold(&mut self, holding: Holding<'_>) -> Done {
        let place = self.place(holding.agent)?;
        check_role(holding.role)?;
        let bag = self.kinds.bag(holding.resources);
        if bag.is_empty() {
            return Ok(());
        }
        let framework = self.ensure_framework(holding.framework);
        let sub = self.ensure_sub(framework, holding.role);
        self.take(place, sub, &bag, holding.offered);
        Ok(())
    }

    /// Takes resources back. With `refuse`, offers of the agent contained in them are held back from that
    /// framework in that role for so long (zero: not at all; at most 365 days).
    pub fn recover(&mut self, holding: Holding<'_>, refuse: Option<Millis>, now: Millis) -> Done {
        let place = self.place(holding.agent)?;
        let bag = self.kinds.bag(holding.resources);
        if bag.is_empty() {
            return Ok(());
        }
        let sub = self.holder(place, &holding, &bag)?;
        if let Some(refuse) = refuse.filter(|r| r.get() > 0) {
            self.add_filter(place, sub, bag.clone(), filters::end(now, refuse));
        }
        self.give_back(place, sub, &bag, holding.offered);
        self.forget_sub_if_idle(sub);
        Ok(())
    }

    /// Holds offers of these resources back as a decline of them would, without one.
    pub fn refuse(&mut self, holding: Holding<'_>, refuse: Millis, now: Millis) -> Done {
        let place = self.place(holding.agent)?;
        let bag = self.kinds.bag(holding.resources);
        let sub = self
            .find_sub(holding.framework, holding.role)
            .ok_or_else(|| AllocatorError::UnknownFramework(holding.framework.to_string()))?;
        if refuse.get() > 0 {
            self.add_filter(place, sub, bag, filters::end(now, refuse));
        }
        Ok(())
    }

    /// Turns held resources into others, as RESERVE, UNRESERVE, CREATE and DESTROY do; the agent's total
    /// changes alike.
    pub fn convert(&mut self, holding: Holding<'_>, into: &Resources) -> Done {
        let place = self.place(holding.agent)?;
        let (from, into) = (self.kinds.bag(holding.resources), self.kinds.bag(into));
        let sub = self.holder(place, &holding, &from)?;
        self.give_back(place, sub, &from, holding.offered);
        self.convert_total(place, &from, &into);
        self.take(place, sub, &into, holding.offered);
        self.collect_kinds();
        Ok(())
    }

    /// Turns free resources of an agent into others: an operator's RESERVE and the like.
    pub fn convert_free(&mut self, agent: &str, from: &Resources, into: &Resources) -> Done {
        let place = self.place(agent)?;
        let (from, into) = (self.kinds.bag(from), self.kinds.bag(into));
        if !self.agents.get(place).is_some_and(|a| a.free.contains(&from)) {
            return Err(AllocatorError::NotFree(agent.to_string()));
        }
        self.convert_total(place, &from, &into);
        self.collect_kinds();
        Ok(())
    }

    /// An open offer became use: shared resources in it may be offered to others again.
    pub fn accepted(&mut self, holding: Holding<'_>) -> Done {
        let place = self.place(holding.agent)?;
        let bag = self.kinds.bag(holding.resources);
        self.holder(place, &holding, &bag)?;
        let (shared, _) = self.split(&bag);
        if !shared.is_empty()
            && let Some(agent) = self.agents.get_mut(place)
        {
            agent.shared_offered.subtract(&shared);
            self.refree(place);
        }
        Ok(())
    }

    fn convert_total(&mut self, place: u32, from: &Bag, into: &Bag) {
        let Some(agent) = self.agents.get(place) else { return };
        let mut total = agent.total.clone();
        total.subtract(from);
        total.add(into);
        self.set_total(place, total);
    }

    fn holder(&self, place: u32, holding: &Holding<'_>, bag: &Bag) -> Result<SubId, AllocatorError> {
        self.find_sub(holding.framework, holding.role)
            .filter(|sub| {
                let held = self.agents.get(place).and_then(|a| a.held.get(sub));
                held.is_some_and(|held| held.contains(bag))
            })
            .ok_or_else(|| AllocatorError::NotHeld {
                framework: holding.framework.to_string(),
                role: holding.role.to_string(),
                agent: holding.agent.to_string(),
            })
    }

    fn add_filter(&mut self, place: u32, sub: SubId, declined: Bag, until: Millis) {
        let Some((bit, s)) = self.tree.subs.get_mut(sub).and_then(|s| Some((s.bit?, s))) else { return };
        s.filtered_on.insert(place);
        if let Some(agent) = self.agents.get_mut(place) {
            agent.filters.add(bit, declined, until);
            self.timers.insert((until, place));
        }
    }

    /// Shared copies and the rest.
    fn split(&self, bag: &Bag) -> (Bag, Bag) {
        let (mut shared, mut rest) = (Bag::default(), Bag::default());
        for (id, amount) in bag.iter() {
            let is_shared = self.kinds.get(id).is_some_and(|k| k.shared);
            if is_shared { shared.push(id, amount.clone()) } else { rest.push(id, amount.clone()) }
        }
        (shared, rest)
    }

    /// Moves resources from free to held.
    pub(crate) fn take(&mut self, place: u32, sub: SubId, bag: &Bag, offered: bool) {
        let (shared, rest) = self.split(bag);
        let Some(agent) = self.agents.get_mut(place) else { return };
        agent.held.entry(sub).or_default().add(bag);
        agent.held_sum.add(&rest);
        if offered {
            agent.shared_offered.add(&shared);
        }
        if let Some(s) = self.tree.subs.get_mut(sub) {
            s.agents.insert(place);
        }
        self.charge(sub, bag, 1);
        self.refree(place);
    }

    fn give_back(&mut self, place: u32, sub: SubId, bag: &Bag, offered: bool) {
        let (shared, rest) = self.split(bag);
        let Some(agent) = self.agents.get_mut(place) else { return };
        if let Some(held) = agent.held.get_mut(&sub) {
            held.subtract(bag);
            if held.is_empty() {
                agent.held.remove(&sub);
                if let Some(s) = self.tree.subs.get_mut(sub) {
                    s.agents.remove(&place);
                }
            }
        }
        agent.held_sum.subtract(&rest);
        if offered {
            agent.shared_offered.subtract(&shared);
        }
        self.charge(sub, bag, -1);
        self.refree(place);
    }

    fn charge(&mut self, sub: SubId, bag: &Bag, factor: i64) {
        let (mut all, mut consumed) = (Amounts::default(), Amounts::default());
        for (id, amount) in bag.iter() {
            let Some(kind) = self.kinds.get(id) else { continue };
            let Some(name) = kind.name.filter(|_| !kind.shared) else { continue };
            all.add(name, kind.quantity(amount));
            if is_limited(kind, amount) {
                consumed.add(name, kind.quantity(amount));
            }
        }
        self.tree.charge(sub, &all, &consumed, factor);
        if let Some(role) = self.tree.subs.get(sub).map(|s| s.role).filter(|_| !consumed.is_zero()) {
            self.limits_changed(role, factor < 0);
        }
    }

    fn collect_kinds(&mut self) {
        if !self.kinds.wants_collection() {
            return;
        }
        let bags = self.agents.iter().flat_map(|(_, a)| {
            [&a.total, &a.held_sum, &a.shared_offered, &a.free]
                .into_iter()
                .chain(a.held.values())
                .chain(a.filters.bags())
        });
        self.kinds.collect(bags);
    }
}

/// Whether such an amount counts against limits when it is allocated, and is cut by them.
pub(crate) fn is_limited(kind: &Kind, amount: &Amount) -> bool {
    matches!(amount, Amount::Scalar(_)) && kind.reserved.is_none() && !kind.revocable && !kind.shared
}

/// Refuses what cannot be a role; levels are bounded so that no walk is long.
pub(crate) fn check_role(path: &str) -> Done {
    role::validate(path).map_err(|e| AllocatorError::BadRole(e.to_string()))?;
    if path.len() > 1024 || path.split('/').count() > 32 {
        return Err(AllocatorError::BadRole(format!(
            "a role has at most 32 levels and 1024 bytes, not {}",
            path.len()
        )));
    }
    Ok(())
}
