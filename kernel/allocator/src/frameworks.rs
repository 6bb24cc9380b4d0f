//! Frameworks and roles come, go and change: subscriptions, suppress and revive, weights, limits.

use std::collections::BTreeSet;
use std::sync::Arc;

use plenum_api::resources::Quantities;

use crate::ledger::check_role;
use crate::options::{AllocatorError, FrameworkSpec};
use crate::state::{Allocator, Framework, minimum_of};
use crate::tree::{Minimum, RoleId, Sub, SubId};

type Done = Result<(), AllocatorError>;

impl Allocator {
    /// Takes a framework in, active or not. What it already holds stays with it.
    pub fn add_framework(&mut self, id: &str, spec: &FrameworkSpec, active: bool) -> Done {
        if self.framework_ids.get(id).and_then(|f| self.frameworks.get(*f)).is_some_and(|f| f.registered) {
            return Err(AllocatorError::Exists(id.to_string()));
        }
        check_roles(spec)?;
        let key = self.ensure_framework(id);
        let seq = self.next_seq;
        self.next_seq += 1;
        let Some(framework) = self.frameworks.get_mut(key) else { return Ok(()) };
        (framework.registered, framework.active, framework.seq) = (true, active, seq);
        let subs: Vec<SubId> = framework.subs.values().copied().collect();
        for sub in subs {
            if let Some(s) = self.tree.subs.get_mut(sub) {
                s.seq = seq;
            }
        }
        self.subscribe(key, spec);
        Ok(())
    }

    /// Replaces what is known of a framework: roles come with their suppression, roles that are gone lose
    /// their filters.
    pub fn update_framework(&mut self, id: &str, spec: &FrameworkSpec) -> Done {
        let key = self.framework(id)?;
        check_roles(spec)?;
        self.subscribe(key, spec);
        Ok(())
    }

    fn subscribe(&mut self, key: u32, spec: &FrameworkSpec) {
        let Some(framework) = self.frameworks.get_mut(key) else { return };
        let more = framework.capabilities != spec.capabilities;
        framework.capabilities = spec.capabilities;
        let old: Vec<(RoleId, SubId)> = framework.subs.iter().map(|(r, s)| (*r, *s)).collect();
        for (role, sub) in old {
            if self.tree.role(role).is_some_and(|r| !spec.roles.contains(&*r.path)) {
                self.unsubscribe(sub);
            }
        }
        for path in &spec.roles {
            let sub = self.ensure_sub(key, path);
            let alternatives = spec.min_allocatable.get(path).map(Vec::as_slice);
            let changed = self.set_minimum(sub, alternatives);
            let Some(s) = self.tree.subs.get_mut(sub) else { continue };
            s.suppressed = spec.suppressed.contains(path);
            let (role, was_willing) = (s.role, s.willing);
            if !s.subscribed {
                s.subscribed = true;
                self.give_bit(sub);
            }
            self.refresh_sub(sub);
            if (more || changed) && was_willing && self.tree.subs.get(sub).is_some_and(|s| s.willing) {
                self.look_for(sub, role);
            }
        }
    }

    fn unsubscribe(&mut self, sub: SubId) {
        self.set_minimum(sub, None);
        if let Some(s) = self.tree.subs.get_mut(sub) {
            (s.subscribed, s.suppressed) = (false, false);
        }
        self.refresh_sub(sub);
        self.take_bit(sub);
        self.forget_sub_if_idle(sub);
    }

    /// Gives a subscription a minimum of its own; whether it is another than before.
    fn set_minimum(&mut self, sub: SubId, alternatives: Option<&[Quantities]>) -> bool {
        let new: Option<Minimum> = alternatives.map(|a| minimum_of(&mut self.kinds, a));
        let Some(s) = self.tree.subs.get_mut(sub).filter(|s| s.minimum != new) else { return false };
        let old = std::mem::replace(&mut s.minimum, new.clone());
        let mut wider = false;
        if let Some(new) = new {
            let users = self.minimums.entry(new).or_insert(0);
            *users += 1;
            wider = *users == 1;
        }
        if let Some(old) = old
            && let Some(users) = self.minimums.get_mut(&old)
        {
            *users -= 1;
            if *users == 0 {
                self.minimums.remove(&old);
                wider = true;
            }
        }
        self.refresh_masks(sub);
        // Which agents are worth offering depends on the set of minimums alone.
        if wider {
            self.touch_all();
        }
        true
    }

    /// Offers it nothing more, drops its filters and forgets its subscriptions. What it holds stays charged
    /// until it is recovered.
    pub fn remove_framework(&mut self, id: &str) -> Done {
        let key = self.framework(id)?;
        let subs: Vec<SubId> =
            self.frameworks.get(key).map(|f| f.subs.values().copied().collect()).unwrap_or_default();
        if let Some(f) = self.frameworks.get_mut(key) {
            (f.registered, f.active) = (false, false);
        }
        subs.into_iter().for_each(|sub| self.unsubscribe(sub));
        self.forget_framework_if_idle(key);
        Ok(())
    }

    /// The framework is connected: it gets offers.
    pub fn activate_framework(&mut self, id: &str) -> Done {
        self.set_framework_active(id, true)
    }

    /// The framework is away: it gets no offers, and its filters are dropped.
    pub fn deactivate_framework(&mut self, id: &str) -> Done {
        self.set_framework_active(id, false)
    }

    fn set_framework_active(&mut self, id: &str, active: bool) -> Done {
        let key = self.framework(id)?;
        let Some(framework) = self.frameworks.get_mut(key) else { return Ok(()) };
        framework.active = active;
        let subs: Vec<SubId> = framework.subs.values().copied().collect();
        for sub in subs {
            self.refresh_sub(sub);
            if !active {
                self.drop_filters(sub);
            }
        }
        Ok(())
    }

    /// Makes no offers to the framework in these of its roles (empty: in all) until it revives them.
    pub fn suppress(&mut self, id: &str, roles: &BTreeSet<String>) -> Done {
        for sub in self.subs_in(id, roles)? {
            if let Some(s) = self.tree.subs.get_mut(sub) {
                s.suppressed = true;
            }
            self.refresh_sub(sub);
        }
        Ok(())
    }

    /// Ends suppression and drops filters in these of its roles (empty: in all).
    pub fn revive(&mut self, id: &str, roles: &BTreeSet<String>) -> Done {
        for sub in self.subs_in(id, roles)? {
            self.drop_filters(sub);
            if let Some(s) = self.tree.subs.get_mut(sub) {
                s.suppressed = false;
            }
            self.refresh_sub(sub);
        }
        Ok(())
    }

    fn subs_in(&self, id: &str, roles: &BTreeSet<String>) -> Result<Vec<SubId>, AllocatorError> {
        let key = self.framework(id)?;
        let wanted = |role: &RoleId| {
            roles.is_empty() || self.tree.role(*role).is_some_and(|r| roles.contains(&*r.path))
        };
        let subs = self.frameworks.get(key).into_iter().flat_map(|f| &f.subs);
        let subscribed = |sub: &SubId| self.tree.subs.get(*sub).is_some_and(|s| s.subscribed);
        Ok(subs.filter(|(role, _)| wanted(role)).map(|(_, sub)| *sub).filter(subscribed).collect())
    }

    /// Sets the weight of a role among its siblings; 1 is the default.
    pub fn set_weight(&mut self, role: &str, weight: f64) -> Done {
        check_role(role)?;
        if !weight.is_finite() || weight <= 0.0 {
            return Err(AllocatorError::BadWeight(role.to_string()));
        }
        let id = self.tree.ensure(role);
        if let Some(r) = self.tree.role_mut(id) {
            r.weight = weight;
        }
        self.tree.set_stale();
        self.tree.prune(id);
        Ok(())
    }

    /// Limits what the role and those below it consume, by scalar name; `None`, or nothing in it: no limits.
    pub fn set_quota(&mut self, role: &str, limits: Option<&Quantities>) -> Done {
        check_role(role)?;
        let limits: Vec<_> = limits
            .into_iter()
            .flat_map(Quantities::iter)
            .map(|(name, n)| (self.kinds.name(name), n.thousandths()))
            .collect();
        let id = self.tree.ensure(role);
        if let Some(r) = self.tree.role_mut(id) {
            r.limits = (!limits.is_empty()).then_some(limits);
            self.dirty.append(&mut r.cut_on);
        }
        self.limits_changed(id, true);
        self.tree.prune(id);
        Ok(())
    }

    // --- records
    // ---------------------------------------------------------------------------------------------

    pub(crate) fn framework(&self, id: &str) -> Result<u32, AllocatorError> {
        let known = |f: &u32| self.frameworks.get(*f).is_some_and(|f| f.registered);
        let key = self.framework_ids.get(id).copied().filter(known);
        key.ok_or_else(|| AllocatorError::UnknownFramework(id.to_string()))
    }

    pub(crate) fn find_sub(&self, framework: &str, role: &str) -> Option<SubId> {
        let framework = self.frameworks.get(*self.framework_ids.get(framework)?)?;
        framework.subs.get(&self.tree.find(role)?).copied()
    }

    pub(crate) fn ensure_framework(&mut self, id: &str) -> u32 {
        if let Some(key) = self.framework_ids.get(id) {
            return *key;
        }
        let id: Arc<str> = Arc::from(id);
        let key = self.frameworks.insert(Framework {
            id: id.clone(),
            registered: false,
            active: false,
            seq: 0,
            capabilities: Default::default(),
            subs: Default::default(),
        });
        self.framework_ids.insert(id, key);
        key
    }

    pub(crate) fn ensure_sub(&mut self, framework: u32, role: &str) -> SubId {
        let role = self.tree.ensure(role);
        let seq = match self.frameworks.get(framework) {
            Some(f) => match f.subs.get(&role) {
                Some(sub) => return *sub,
                None => f.seq,
            },
            None => 0,
        };
        let sub = self.tree.subs.insert(Sub {
            framework,
            role,
            subscribed: false,
            suppressed: false,
            willing: false,
            bit: None,
            minimum: None,
            allocated: Default::default(),
            share: Default::default(),
            seq,
            filtered_on: Default::default(),
            agents: Default::default(),
        });
        if let Some(f) = self.frameworks.get_mut(framework) {
            f.subs.insert(role, sub);
        }
        if let Some(r) = self.tree.role_mut(role) {
            r.subs.insert(sub);
        }
        sub
    }

    pub(crate) fn forget_sub_if_idle(&mut self, sub: SubId) {
        let Some(s) = self.tree.subs.get(sub).filter(|s| !s.subscribed && s.agents.is_empty()) else {
            return;
        };
        let (framework, role) = (s.framework, s.role);
        self.tree.subs.remove(sub);
        if let Some(r) = self.tree.role_mut(role) {
            r.subs.remove(&sub);
        }
        self.tree.prune(role);
        if let Some(f) = self.frameworks.get_mut(framework) {
            f.subs.remove(&role);
        }
        self.forget_framework_if_idle(framework);
    }

    fn forget_framework_if_idle(&mut self, key: u32) {
        if self.frameworks.get(key).is_some_and(|f| !f.registered && f.subs.is_empty())
            && let Some(f) = self.frameworks.remove(key)
        {
            self.framework_ids.remove(&f.id);
        }
    }
}

fn check_roles(spec: &FrameworkSpec) -> Done {
    spec.roles.iter().try_for_each(|role| check_role(role))
}
