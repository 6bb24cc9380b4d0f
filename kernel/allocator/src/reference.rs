//! What a cycle offers, in plain loops over everything: the definition that tests and the benchmark hold
//! the allocator to.
//!
//! Nothing here is fast and nothing is remembered that could be computed. It works on [`Resources`]
//! themselves, shares with the allocator only the rounding of filters' ends and of totals, and is for
//! measurement and tests only.

mod books;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_api::resources::{Item, Quantities, Resources};
use plenum_api::{Millis, Now};

use crate::filters;
use crate::kinds::within;
use crate::options::{AgentSpec, FrameworkSpec, Grant, Holding, Options};
use books::Books;

struct Framework {
    id: String,
    active: bool,
    spec: FrameworkSpec,
}

/// Who declined what, and until when: by framework and role.
type Filters = BTreeMap<(String, String), Vec<(Arc<Resources>, Millis)>>;

struct Held {
    framework: String,
    role: String,
    resources: Resources,
}

struct Agent {
    id: String,
    spec: AgentSpec,
    active: bool,
    held: Vec<Held>,
    shared_offered: Resources,
    filters: Arc<Filters>,
}

/// The same events as [`crate::Allocator`]'s, the same offers; each event returns whether it was accepted.
pub struct Reference {
    options: Options,
    /// In order of registration.
    frameworks: Vec<Framework>,
    agents: Vec<Option<Agent>>,
    weights: BTreeMap<String, f64>,
    limits: BTreeMap<String, Quantities>,
    allowed: Option<BTreeSet<String>>,
}

impl Reference {
    /// Knows nobody yet.
    pub fn new(options: Options) -> Self {
        Reference {
            options,
            frameworks: Vec::new(),
            agents: Vec::new(),
            weights: BTreeMap::new(),
            limits: BTreeMap::new(),
            allowed: None,
        }
    }

    fn agent(&mut self, id: &str) -> Option<&mut Agent> {
        self.agents.iter_mut().flatten().find(|a| a.id == id)
    }

    fn framework(&mut self, id: &str) -> Option<&mut Framework> {
        self.frameworks.iter_mut().find(|f| f.id == id)
    }

    /// As the allocator's.
    pub fn add_agent(&mut self, id: &str, spec: &AgentSpec) -> bool {
        if self.agent(id).is_some() {
            return false;
        }
        let agent = Agent {
            id: id.to_string(),
            spec: spec.clone(),
            active: true,
            held: Vec::new(),
            shared_offered: Resources::new(),
            filters: Arc::default(),
        };
        match self.agents.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(agent),
            None => self.agents.push(Some(agent)),
        }
        true
    }

    /// As the allocator's.
    pub fn update_agent(&mut self, id: &str, spec: &AgentSpec) -> bool {
        let Some(agent) = self.agent(id) else { return false };
        if agent.spec.total != spec.total {
            agent.filters = Arc::default();
        }
        agent.spec = spec.clone();
        true
    }

    /// As the allocator's.
    pub fn remove_agent(&mut self, id: &str) -> bool {
        let place = self.agents.iter_mut().find(|a| a.as_ref().is_some_and(|a| a.id == id));
        place.map(|place| *place = None).is_some()
    }

    /// As the allocator's `activate_agent` and `deactivate_agent`.
    pub fn set_agent_active(&mut self, id: &str, active: bool) -> bool {
        self.agent(id).map(|a| a.active = active).is_some()
    }

    /// As the allocator's.
    pub fn set_allowed_agents(&mut self, hostnames: Option<BTreeSet<String>>) {
        self.allowed = hostnames;
    }

    /// As the allocator's.
    pub fn add_framework(&mut self, id: &str, spec: &FrameworkSpec, active: bool) -> bool {
        if self.framework(id).is_some() {
            return false;
        }
        self.frameworks.push(Framework { id: id.to_string(), active, spec: spec.clone() });
        true
    }

    /// As the allocator's.
    pub fn update_framework(&mut self, id: &str, spec: &FrameworkSpec) -> bool {
        let Some(framework) = self.framework(id) else { return false };
        let gone: Vec<String> = framework.spec.roles.difference(&spec.roles).cloned().collect();
        framework.spec = spec.clone();
        gone.iter().for_each(|role| self.drop_filters(id, role));
        true
    }

    /// As the allocator's.
    pub fn remove_framework(&mut self, id: &str) -> bool {
        let Some(at) = self.frameworks.iter().position(|f| f.id == id) else { return false };
        let framework = self.frameworks.remove(at);
        framework.spec.roles.iter().for_each(|role| self.drop_filters(id, role));
        true
    }

    /// As the allocator's `activate_framework` and `deactivate_framework`.
    pub fn set_framework_active(&mut self, id: &str, active: bool) -> bool {
        let Some(framework) = self.framework(id) else { return false };
        framework.active = active;
        let roles = framework.spec.roles.clone();
        if !active {
            roles.iter().for_each(|role| self.drop_filters(id, role));
        }
        true
    }

    /// As the allocator's.
    pub fn suppress(&mut self, id: &str, roles: &BTreeSet<String>) -> bool {
        let Some(framework) = self.framework(id) else { return false };
        let all = framework.spec.roles.iter().filter(|r| roles.is_empty() || roles.contains(*r));
        framework.spec.suppressed.extend(all.cloned());
        true
    }

    /// As the allocator's.
    pub fn revive(&mut self, id: &str, roles: &BTreeSet<String>) -> bool {
        let Some(framework) = self.framework(id) else { return false };
        let concerned = |r: &String| roles.is_empty() || roles.contains(r);
        framework.spec.suppressed.retain(|r| !concerned(r));
        let revived: Vec<String> = framework.spec.roles.iter().filter(|r| concerned(r)).cloned().collect();
        revived.iter().for_each(|role| self.drop_filters(id, role));
        true
    }

    fn drop_filters(&mut self, framework: &str, role: &str) {
        let key = (framework.to_string(), role.to_string());
        // What agents share they go on sharing.
        let mut done: Vec<(Arc<Filters>, Arc<Filters>)> = Vec::new();
        for agent in self.agents.iter_mut().flatten().filter(|a| a.filters.contains_key(&key)) {
            if let Some((_, without)) = done.iter().find(|(with, _)| Arc::ptr_eq(with, &agent.filters)) {
                agent.filters = without.clone();
                continue;
            }
            let with = agent.filters.clone();
            Arc::make_mut(&mut agent.filters).remove(&key);
            done.push((with, agent.filters.clone()));
        }
    }

    /// As the allocator's.
    pub fn set_weight(&mut self, role: &str, weight: f64) {
        self.weights.insert(role.to_string(), weight);
    }

    /// As the allocator's.
    pub fn set_quota(&mut self, role: &str, limits: Option<&Quantities>) {
        match limits {
            Some(limits) => self.limits.insert(role.to_string(), limits.clone()),
            None => self.limits.remove(role),
        };
    }

    /// As the allocator's.
    pub fn hold(&mut self, holding: Holding<'_>) -> bool {
        let resources = holding.resources.unallocate();
        let Some(agent) = self.agent(holding.agent) else { return false };
        if holding.offered {
            agent.shared_offered += resources.shared();
        }
        let mine = |h: &&mut Held| h.framework == holding.framework && h.role == holding.role;
        match agent.held.iter_mut().find(mine) {
            Some(held) => held.resources += resources,
            None => agent.held.push(Held {
                framework: holding.framework.to_string(),
                role: holding.role.to_string(),
                resources,
            }),
        }
        true
    }

    /// As the allocator's.
    pub fn recover(&mut self, holding: Holding<'_>, refuse: Option<Millis>, now: Millis) -> bool {
        if !self.give_back(holding) {
            return false;
        }
        if let Some(refuse) = refuse {
            self.refuse(holding, refuse, now);
        }
        if let Some(agent) = self.agent(holding.agent) {
            agent.held.retain(|h| !h.resources.is_empty());
        }
        true
    }

    fn give_back(&mut self, holding: Holding<'_>) -> bool {
        let resources = holding.resources.unallocate();
        let Some(agent) = self.agent(holding.agent) else { return false };
        if resources.is_empty() {
            return true;
        }
        let mine = |h: &&mut Held| h.framework == holding.framework && h.role == holding.role;
        let Some(held) = agent.held.iter_mut().find(mine) else { return false };
        let Some(rest) = held.resources.checked_sub(&resources) else { return false };
        held.resources = rest;
        if holding.offered {
            agent.shared_offered -= &resources.shared();
        }
        true
    }

    /// As the allocator's.
    pub fn refuse(&mut self, holding: Holding<'_>, refuse: Millis, now: Millis) {
        let subscribed =
            self.framework(holding.framework).is_some_and(|f| f.spec.roles.contains(holding.role));
        let resources = Arc::new(holding.resources.unallocate());
        let Some(agent) =
            self.agent(holding.agent).filter(|_| subscribed && refuse.get() > 0 && !resources.is_empty())
        else {
            return;
        };
        let key = (holding.framework.to_string(), holding.role.to_string());
        let list = Arc::make_mut(&mut agent.filters).entry(key).or_default();
        list.push((resources, filters::end(now, refuse)));
    }

    /// Gives all other agents the filters of this one; they share memory until they differ.
    pub fn copy_filters_everywhere(&mut self, from: &str) {
        let Some(filters) = self.agent(from).map(|a| a.filters.clone()) else { return };
        self.agents.iter_mut().flatten().for_each(|a| a.filters = filters.clone());
    }

    /// As the allocator's.
    pub fn convert(&mut self, holding: Holding<'_>, into: &Resources) -> bool {
        if !self.give_back(holding) {
            return false;
        }
        if let Some(agent) = self.agent(holding.agent) {
            agent.spec.total -= &holding.resources.unallocate();
            agent.spec.total += into;
        }
        self.hold(Holding { resources: into, ..holding })
    }

    /// As the allocator's.
    pub fn convert_free(&mut self, agent: &str, from: &Resources, into: &Resources) -> bool {
        let Some(agent) = self.agent(agent) else { return false };
        if !agent.free().contains(from) {
            return false;
        }
        agent.spec.total -= from;
        agent.spec.total += into;
        true
    }

    /// As the allocator's.
    pub fn accepted(&mut self, holding: Holding<'_>) -> bool {
        let Some(agent) = self.agent(holding.agent) else { return false };
        agent.shared_offered -= &holding.resources.unallocate().shared();
        true
    }

    /// What is free on an agent.
    pub fn free(&mut self, agent: &str) -> Option<Resources> {
        self.agent(agent).map(|a| a.free())
    }

    /// Visits everybody everywhere.
    pub fn cycle(&mut self, now: Now) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut books = Books::of(self);
        for place in 0..self.agents.len() {
            // Nothing free is nothing to offer to anybody.
            if self.agents.get(place).is_none_or(|a| a.as_ref().is_none_or(|a| a.free().is_empty())) {
                continue;
            }
            let mut asked = BTreeSet::new();
            loop {
                let next = books.order.iter().filter(|sub| !asked.contains(*sub)).find_map(|sub| {
                    let agent = self.agents.get(place)?.as_ref()?;
                    let offer = self.judge(agent, self.frameworks.get(sub.0)?, &sub.1, &books, now.mono)?;
                    Some((sub.clone(), agent.id.clone(), offer))
                });
                let Some(((framework, role), agent, offer)) = next else { break };
                asked.insert((framework, role.clone()));
                let framework = self.frameworks.get(framework).map(|f| f.id.clone()).unwrap_or_default();
                let resources = offer.allocate(&role);
                let grant = Grant { framework, role, agent, resources };
                self.hold(Holding {
                    framework: &grant.framework,
                    role: &grant.role,
                    agent: &grant.agent,
                    resources: &grant.resources,
                    offered: true,
                });
                grants.push(grant);
                books = Books::of(self);
            }
        }
        grants
    }

    fn judge(
        &self,
        agent: &Agent,
        framework: &Framework,
        role: &str,
        books: &Books,
        now: Millis,
    ) -> Option<Resources> {
        let (spec, can) = (&framework.spec, framework.spec.capabilities);
        let remote = self.options.region.is_some()
            && agent.spec.region.is_some()
            && agent.spec.region != self.options.region;
        let allowed = self.allowed.as_ref().is_none_or(|a| a.contains(&agent.spec.hostname));
        if !agent.active
            || !allowed
            || !framework.active
            || spec.suppressed.contains(role)
            || (self.options.filter_gpus && !agent.spec.total.gpus().is_zero() && !can.gpu_resources)
            || (remote && !can.region_aware)
        {
            return None;
        }
        let visible = agent.free().filter(|item| {
            item.reservation_role().is_none_or(|owner| within(role, owner))
                && (!item.is_revocable() || can.revocable_resources)
                && (!item.is_shared() || can.shared_resources)
                && (item.reservations().len() < 2 || can.reservation_refinement)
        });
        let offer = self.cut(&visible, role, books);
        let minimum = spec.min_allocatable.get(role).unwrap_or(&self.options.min_allocatable);
        let sums = offer.quantities();
        if offer.is_empty() || (!minimum.is_empty() && !minimum.iter().any(|m| sums.contains(m))) {
            return None;
        }
        let filters = agent.filters.get(&(framework.id.clone(), role.to_string()));
        let filtered =
            filters.into_iter().flatten().any(|(declined, until)| *until > now && declined.contains(&offer));
        (!filtered).then_some(offer)
    }

    /// Cuts unreserved scalars to what the limits of the role and of those above it leave.
    fn cut(&self, visible: &Resources, role: &str, books: &Books) -> Resources {
        let mut left: Vec<Quantities> = Vec::new();
        let mut names = Vec::new();
        for (limited, limits) in self.limits.iter().filter(|(limited, _)| within(role, limited)) {
            let consumed = books.consumed.get(limited).cloned().unwrap_or_default();
            let room = limits.iter().map(|(name, limit)| (name.clone(), limit - consumed.get(name)));
            names.extend(limits.iter().map(|(name, _)| name.clone()));
            left.push(room.collect());
        }
        let mut offer = Resources::new();
        for item in visible.iter() {
            let limited =
                item.amount().filter(|_| books::counts_against_limits(item) && names.contains(item.name()));
            let Some(have) = limited else {
                offer.add_item(item.clone());
                continue;
            };
            let mut give = have;
            for room in &left {
                if let Some(room) = room.find(item.name()) {
                    give = give.min(room).max(Default::default());
                }
            }
            let whole = item.meta().is_some_and(|m| m.is_indivisible());
            if whole && give < have {
                continue;
            }
            for room in left.iter_mut() {
                if let Some(had) = room.find(item.name()) {
                    room.set(item.name().clone(), had - give);
                }
            }
            let meta = item.meta().cloned().unwrap_or_default();
            offer.add_item(Item::new(item.name().clone(), plenum_api::resources::Value::Scalar(give), meta));
        }
        offer
    }
}

impl Agent {
    fn free(&self) -> Resources {
        let mut free = self.spec.total.clone();
        for held in &self.held {
            free -= &held.resources.filter(|i| !i.is_shared());
        }
        free -= &self.shared_offered;
        free
    }
}
