//! The allocator and the reference side by side: every event goes to both, every answer is compared, the
//! books are checked.

use std::collections::{BTreeMap, BTreeSet};

use plenum_allocator::reference::Reference;
use plenum_allocator::{AgentSpec, Allocation, Allocator, FrameworkSpec, Grant, Holding, Options, Verdict};
use plenum_api::resources::{Quantities, Resources};
use plenum_api::{Millis, Now};

/// Something a framework holds, as a master would remember it.
#[derive(Clone, Debug)]
pub struct Held {
    pub framework: String,
    pub role: String,
    pub agent: String,
    pub resources: Resources,
    pub offered: bool,
}

impl Held {
    pub fn holding(&self) -> Holding<'_> {
        let Held { framework, role, agent, resources, offered } = self;
        Holding { framework, role, agent, resources, offered: *offered }
    }
}

pub struct Pair {
    pub real: Allocator,
    pub naive: Reference,
    pub now: Now,
    pub held: Vec<Held>,
    pub agents: BTreeMap<String, AgentSpec>,
    pub frameworks: BTreeMap<String, FrameworkSpec>,
    /// Agents whose total was lowered under what was held of them.
    shrunk: BTreeSet<String>,
}

impl Pair {
    pub fn new(options: Options) -> Self {
        Pair {
            real: Allocator::new(options.clone()),
            naive: Reference::new(options),
            now: Now::new(Millis(1000), Millis(0)),
            held: Vec::new(),
            agents: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            shrunk: BTreeSet::new(),
        }
    }

    pub fn add_agent(&mut self, id: &str, spec: &AgentSpec) {
        let ok = self.real.add_agent(id, spec).is_ok();
        assert_eq!(ok, self.naive.add_agent(id, spec));
        if ok {
            self.agents.insert(id.to_string(), spec.clone());
        }
    }

    pub fn update_agent(&mut self, id: &str, spec: &AgentSpec) {
        let ok = self.real.update_agent(id, spec).is_ok();
        assert_eq!(ok, self.naive.update_agent(id, spec));
        if ok {
            self.shrunk.insert(id.to_string());
            self.agents.insert(id.to_string(), spec.clone());
        }
    }

    pub fn remove_agent(&mut self, id: &str) {
        assert_eq!(self.real.remove_agent(id).is_ok(), self.naive.remove_agent(id));
        self.held.retain(|h| h.agent != id);
        self.agents.remove(id);
        self.shrunk.remove(id);
    }

    pub fn agent_active(&mut self, id: &str, active: bool) {
        let real = if active { self.real.activate_agent(id) } else { self.real.deactivate_agent(id) };
        assert_eq!(real.is_ok(), self.naive.set_agent_active(id, active));
    }

    pub fn add_framework(&mut self, id: &str, spec: &FrameworkSpec, active: bool) {
        let ok = self.real.add_framework(id, spec, active).is_ok();
        assert_eq!(ok, self.naive.add_framework(id, spec, active));
        if ok {
            self.frameworks.insert(id.to_string(), spec.clone());
        }
    }

    pub fn update_framework(&mut self, id: &str, spec: &FrameworkSpec) {
        let ok = self.real.update_framework(id, spec).is_ok();
        assert_eq!(ok, self.naive.update_framework(id, spec));
        if ok {
            self.frameworks.insert(id.to_string(), spec.clone());
        }
    }

    pub fn remove_framework(&mut self, id: &str) {
        assert_eq!(self.real.remove_framework(id).is_ok(), self.naive.remove_framework(id));
        self.frameworks.remove(id);
    }

    pub fn framework_active(&mut self, id: &str, active: bool) {
        let real = if active { self.real.activate_framework(id) } else { self.real.deactivate_framework(id) };
        assert_eq!(real.is_ok(), self.naive.set_framework_active(id, active));
    }

    pub fn suppress(&mut self, id: &str, roles: &BTreeSet<String>) {
        assert_eq!(self.real.suppress(id, roles).is_ok(), self.naive.suppress(id, roles));
    }

    pub fn revive(&mut self, id: &str, roles: &BTreeSet<String>) {
        assert_eq!(self.real.revive(id, roles).is_ok(), self.naive.revive(id, roles));
    }

    pub fn weight(&mut self, role: &str, weight: f64) {
        self.real.set_weight(role, weight).unwrap();
        self.naive.set_weight(role, weight);
    }

    pub fn quota(&mut self, role: &str, limits: Option<&Quantities>) {
        self.real.set_quota(role, limits).unwrap();
        self.naive.set_quota(role, limits);
    }

    pub fn allow(&mut self, hostnames: Option<BTreeSet<String>>) {
        self.real.set_allowed_agents(hostnames.clone());
        self.naive.set_allowed_agents(hostnames);
    }

    pub fn hold(&mut self, held: Held) {
        let ok = self.real.hold(held.holding()).is_ok();
        assert_eq!(ok, self.naive.hold(held.holding()));
        if ok {
            self.shrunk.insert(held.agent.clone());
            self.held.push(held);
        }
    }

    /// Gives back a part of what is held at `index`; what stays becomes use.
    pub fn recover(&mut self, index: usize, part: &Resources, refuse: Option<Millis>) {
        let held = &mut self.held[index];
        let back = Held { resources: part.clone(), ..held.clone() };
        self.real.recover(back.holding(), refuse, self.now.mono).unwrap();
        assert!(self.naive.recover(back.holding(), refuse, self.now.mono));
        held.resources -= part;
        if held.resources.is_empty() {
            self.held.remove(index);
        } else if held.offered {
            let rest = held.clone();
            held.offered = false;
            self.real.accepted(rest.holding()).unwrap();
            assert!(self.naive.accepted(rest.holding()));
        }
    }

    pub fn convert(&mut self, index: usize, from: &Resources, into: &Resources) {
        let part = Held { resources: from.clone(), ..self.held[index].clone() };
        self.real.convert(part.holding(), into).unwrap();
        assert!(self.naive.convert(part.holding(), into));
        let held = &mut self.held[index];
        held.resources -= from;
        held.resources += into;
    }

    pub fn convert_free(&mut self, agent: &str, from: &Resources, into: &Resources) {
        assert_eq!(
            self.real.convert_free(agent, from, into).is_ok(),
            self.naive.convert_free(agent, from, into)
        );
    }

    pub fn free(&mut self, agent: &str) -> Resources {
        self.naive.free(agent).unwrap_or_default()
    }

    pub fn cycle(&mut self) -> Allocation {
        let allocation = self.real.cycle(self.now);
        let expected = self.naive.cycle(self.now);
        assert_eq!(show(&allocation.grants), show(&expected));
        assert_eq!(allocation.grants, expected);
        for grant in &allocation.grants {
            self.held.push(Held {
                framework: grant.framework.clone(),
                role: grant.role.clone(),
                agent: grant.agent.clone(),
                resources: grant.resources.unallocate(),
                offered: true,
            });
        }
        self.check();
        let again = self.real.cycle(self.now);
        assert_eq!(again.grants, [], "a cycle left something to offer");
        allocation
    }

    /// The books agree with what was told and granted, and nobody is eligible any more.
    pub fn check(&mut self) {
        let ids: Vec<String> = self.agents.keys().cloned().collect();
        for id in &ids {
            let report = self.real.agent_report(id).unwrap();
            assert_eq!(report.free, self.naive.free(id).unwrap(), "free on {id}");
            let mut sums: BTreeMap<(&str, &str), Resources> = BTreeMap::new();
            for held in self.held.iter().filter(|h| h.agent == *id) {
                *sums.entry((&held.framework, &held.role)).or_default() += held.resources.clone();
            }
            let reported: BTreeMap<(&str, &str), Resources> =
                report.held.iter().map(|h| ((&*h.framework, &*h.role), h.resources.clone())).collect();
            assert_eq!(reported, sums, "held on {id}");
            let mut all = Resources::new();
            report.held.iter().for_each(|h| all += h.resources.filter(|i| !i.is_shared()));
            if !self.shrunk.contains(id) {
                assert!(report.total.contains(&all), "{id} is over-allocated");
                let mut sum = report.free.filter(|i| !i.is_shared());
                sum += &all;
                assert_eq!(sum, report.total.filter(|i| !i.is_shared()), "conservation on {id}");
            }
        }
        for (id, spec) in &self.frameworks {
            for role in &spec.roles {
                let told = self.real.explain(id, role, &Resources::new(), self.now).unwrap();
                assert_eq!(told.len(), ids.len());
                for e in told {
                    assert_ne!(
                        e.verdict,
                        Verdict::Fits,
                        "{id} in {role} is eligible and was not offered {}",
                        e.agent
                    );
                }
            }
        }
    }
}

pub fn show(grants: &[Grant]) -> Vec<String> {
    let line = |g: &Grant| {
        // The order of items carries no meaning.
        let mut items: Vec<String> = g.resources.unallocate().iter().map(ToString::to_string).collect();
        items.sort();
        format!("{} {} {} {}", g.agent, g.framework, g.role, items.join("; "))
    };
    grants.iter().map(line).collect()
}
