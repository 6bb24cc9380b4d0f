//! The master's side of the allocator: the only ledger of what is free.
//!
//! Turns the master's records into what the allocator takes. A refusal of the allocator means that the two disagree; it is counted, never
//! fatal: the next registration of the agent sets it right.

use std::borrow::Cow;
use std::collections::BTreeSet;

use plenum_allocator::{AgentSpec, Allocation, Allocator, Capabilities, FrameworkSpec, Holding, Options};
use plenum_api::mesos::{self, framework_info::capability::Type};
use plenum_api::resources::{Quantities, Resources, role::STAR};
use plenum_api::{Millis, Now, quota};

use super::state::{Agent, Framework};

/// The allocator, and whom it knows.
#[derive(Debug)]
pub(super) struct Ledger {
    allocator: Allocator,
    /// Disagreements so far.
    pub disagreements: u64,
    frameworks: BTreeSet<String>,
}

impl Ledger {
    pub fn new(options: Options) -> Self {
        Self { allocator: Allocator::new(options), disagreements: 0, frameworks: BTreeSet::new() }
    }

    fn note<E>(&mut self, result: Result<(), E>) {
        if result.is_err() {
            self.disagreements += 1;
        }
    }

    /// Adds an agent, or says what it has now.
    pub fn put_agent(&mut self, agent: &Agent, new: bool) {
        let spec = AgentSpec {
            total: (*agent.total).clone(),
            region: agent
                .info
                .domain
                .as_ref()
                .and_then(|d| d.fault_domain.as_ref())
                .map(|d| d.region.name.clone()),
            hostname: agent.info.hostname.clone(),
        };
        let result = if new {
            self.allocator
                .add_agent(&agent.id, &spec)
                .and_then(|()| self.allocator.deactivate_agent(&agent.id))
        } else {
            self.allocator.update_agent(&agent.id, &spec)
        };
        self.note(result);
    }

    pub fn set_agent_active(&mut self, id: &str, active: bool) {
        let result =
            if active { self.allocator.activate_agent(id) } else { self.allocator.deactivate_agent(id) };
        self.note(result);
    }

    /// Forgets an agent and whatever is held of it.
    pub fn remove_agent(&mut self, id: &str) {
        let result = self.allocator.remove_agent(id);
        self.note(result);
    }

    /// Adds a framework, or says what it wants now.
    pub fn put_framework(&mut self, framework: &Framework) {
        let info = &framework.info;
        let has = |kind: Type| info.capabilities.iter().any(|c| c.r#type == Some(kind as i32));
        let spec = FrameworkSpec {
            roles: super::frameworks::roles(info).into_iter().collect(),
            suppressed: framework.suppressed.clone(),
            capabilities: Capabilities {
                gpu_resources: has(Type::GpuResources),
                region_aware: has(Type::RegionAware),
                revocable_resources: has(Type::RevocableResources),
                shared_resources: has(Type::SharedResources),
                reservation_refinement: has(Type::ReservationRefinement),
            },
            min_allocatable: info
                .offer_filters
                .iter()
                .filter_map(|(role, filters)| Some((role.clone(), minimum(filters)?)))
                .collect(),
        };
        let result = if self.frameworks.insert(framework.id.to_string()) {
            self.allocator.add_framework(&framework.id, &spec, false)
        } else {
            self.allocator.update_framework(&framework.id, &spec)
        };
        self.note(result);
    }

    pub fn set_framework_active(&mut self, id: &str, active: bool) {
        if !self.frameworks.contains(id) {
            return;
        }
        let result = if active {
            self.allocator.activate_framework(id)
        } else {
            self.allocator.deactivate_framework(id)
        };
        self.note(result);
    }

    /// Makes no more offers to it. What it holds stays held until it is released.
    pub fn remove_framework(&mut self, id: &str) {
        if self.frameworks.remove(id) {
            let result = self.allocator.remove_framework(id);
            self.note(result);
        }
    }

    /// Charges resources, allocated to their roles, to a framework.
    pub fn hold(&mut self, framework: &str, agent: &str, resources: &Resources) {
        for role in roles(resources) {
            let resources = allocated(resources, role);
            let result = self.allocator.hold(Holding {
                framework,
                role,
                agent,
                resources: &resources,
                offered: false,
            });
            self.note(result);
        }
    }

    /// Takes used resources back.
    pub fn release(&mut self, framework: &str, agent: &str, resources: &Resources) {
        for role in roles(resources) {
            let resources = allocated(resources, role);
            let holding = Holding { framework, role, agent, resources: &resources, offered: false };
            let result = self.allocator.recover(holding, None, Millis(0));
            self.note(result);
        }
    }

    /// Takes back what is offered and was not accepted; with `refuse`, it is not offered to the framework for so long.
    pub fn unoffer(&mut self, holding: Holding<'_>, refuse: Option<Millis>, now: Millis) {
        let result = self.allocator.recover(holding, refuse, now);
        self.note(result);
    }

    /// What was offered is in use from now on.
    pub fn accepted(&mut self, holding: Holding<'_>) {
        let result = self.allocator.accepted(holding);
        self.note(result);
    }

    /// Turns held resources of an agent into others.
    pub fn convert(&mut self, holding: Holding<'_>, into: &Resources) {
        let result = self.allocator.convert(holding, into);
        self.note(result);
    }

    /// Turns free resources of an agent into others, if they are free.
    pub fn convert_free(&mut self, agent: &str, from: &Resources, into: &Resources) -> bool {
        self.allocator.convert_free(agent, from, into).is_ok()
    }

    pub fn revive(&mut self, framework: &str, roles: &[String]) {
        let result = self.allocator.revive(framework, &roles.iter().cloned().collect());
        self.note(result);
    }

    pub fn suppress(&mut self, framework: &str, roles: &[String]) {
        let result = self.allocator.suppress(framework, &roles.iter().cloned().collect());
        self.note(result);
    }

    pub fn set_weight(&mut self, role: &str, weight: f64) {
        let result = self.allocator.set_weight(role, weight);
        self.note(result);
    }

    pub fn set_quota(&mut self, config: &quota::QuotaConfig) {
        let limits = Quantities::from_wire(&config.limits);
        let result = self.allocator.set_quota(&config.role, (!limits.is_empty()).then_some(&limits));
        self.note(result);
    }

    pub fn cycle(&mut self, now: Now) -> Allocation {
        self.allocator.cycle(now)
    }

    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }
}

fn minimum(filters: &mesos::OfferFilters) -> Option<Vec<Quantities>> {
    let minimum = filters.min_allocatable_resources.as_ref()?;
    Some(minimum.quantities.iter().map(|q| Quantities::from_wire(&q.quantities)).collect())
}

/// The roles that resources are allocated to; those of no role count as everybody's.
fn roles(resources: &Resources) -> BTreeSet<&str> {
    resources.iter().map(|item| item.allocation_role().unwrap_or(STAR)).collect()
}

fn allocated<'a>(resources: &'a Resources, role: &str) -> Cow<'a, Resources> {
    if resources.iter().all(|item| item.allocation_role().unwrap_or(STAR) == role) {
        return Cow::Borrowed(resources);
    }
    Cow::Owned(resources.filter(|item| item.allocation_role().unwrap_or(STAR) == role))
}
