//! What readers see: a snapshot of everything, taken in a moment and read elsewhere.
//!
//! Owns the snapshot and its sums; how it is written (protobuf, JSON, the older JSON) is the shell's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use plenum_api::mesos::{self, TimeInfo};
use plenum_api::resources::Resources;
use plenum_api::{Millis, master::response, quota, scheduler};

use super::slab::Snapshot;
use super::state::{Absent, Agent, Framework, Offer, Task};
use super::{Master, Metrics};

/// A framework as readers see it.
#[derive(Debug)]
pub struct FrameworkView {
    /// Its id.
    pub id: Arc<str>,
    /// As it described itself.
    pub info: Arc<mesos::FrameworkInfo>,
    /// Who subscribed it.
    pub principal: Arc<str>,
    /// Whether it has a stream; offers go to connected frameworks only, so this is also whether it is active.
    pub connected: bool,
    /// Known from before the last start, and not subscribed since.
    pub recovered: bool,
    /// Time of day of its first subscription.
    pub registered: Millis,
    /// Time of day of its latest subscription.
    pub reregistered: Millis,
    /// Time of day of its removal.
    pub unregistered: Option<Millis>,
    /// Which agents get to be offered to it.
    pub constraints: Option<Arc<scheduler::OfferConstraints>>,
    /// Tasks on agents that may come back.
    pub unreachable: Vec<Arc<Task>>,
    /// Ended tasks, oldest first.
    pub completed: Vec<Arc<Task>>,
}

/// The whole state at one moment.
#[derive(Debug, Clone)]
pub struct State {
    /// Equal generations are equal states.
    pub generation: u64,
    /// The master's description of itself.
    pub master: mesos::MasterInfo,
    /// Time of day when it began to lead.
    pub started: Millis,
    /// The term of its leadership.
    pub term: u64,
    /// Registered agents.
    pub agents: Snapshot<Agent>,
    /// Live tasks.
    pub tasks: Snapshot<Task>,
    /// Open offers.
    pub offers: Snapshot<Offer>,
    /// Frameworks that may have tasks, by registration.
    pub frameworks: Vec<Arc<FrameworkView>>,
    /// Removed frameworks, oldest first.
    pub completed: Vec<Arc<FrameworkView>>,
    /// Agents that are known and not registered, by id.
    pub absent: Arc<BTreeMap<Arc<str>, Absent>>,
    /// Weights that were set, by role.
    pub weights: BTreeMap<String, f64>,
    /// Quotas that were set, by role.
    pub quotas: BTreeMap<String, quota::QuotaConfig>,
    /// Counters.
    pub metrics: Metrics,
}

/// Used and offered resources of one agent or framework.
#[derive(Debug, Clone, Default)]
pub struct Share {
    /// In use by tasks and executors.
    pub used: Resources,
    /// In open offers.
    pub offered: Resources,
}

/// Sums over tasks, executors and offers.
#[derive(Debug, Default)]
pub struct Totals {
    /// By agent id.
    pub agents: HashMap<Arc<str>, Share>,
    /// By framework id.
    pub frameworks: HashMap<Arc<str>, Share>,
}

impl Totals {
    fn add(&mut self, agent: &Arc<str>, framework: &Arc<str>, sum: &Resources, offered: bool) {
        for share in [
            self.agents.entry(Arc::clone(agent)).or_default(),
            self.frameworks.entry(Arc::clone(framework)).or_default(),
        ] {
            if offered {
                share.offered += sum;
            } else {
                share.used += sum;
            }
        }
    }
}

impl FrameworkView {
    pub(crate) fn of(framework: &Framework, unregistered: Option<Millis>) -> Self {
        Self {
            id: Arc::clone(&framework.id),
            info: Arc::clone(&framework.info),
            principal: Arc::clone(&framework.principal),
            connected: framework.stream.is_some(),
            recovered: framework.recovered,
            registered: framework.registered,
            reregistered: framework.reregistered,
            unregistered,
            constraints: framework.constraints.clone(),
            unreachable: framework.unreachable.values().cloned().collect(),
            completed: framework.completed.iter().cloned().collect(),
        }
    }

    /// As the operator API writes it.
    pub fn message(
        &self,
        allocated: &[mesos::Resource],
        offered: &[mesos::Resource],
    ) -> response::get_frameworks::Framework {
        response::get_frameworks::Framework {
            framework_info: (*self.info).clone(),
            active: self.connected,
            connected: self.connected,
            recovered: self.recovered,
            registered_time: Some(time(self.registered)),
            reregistered_time: Some(time(self.reregistered)),
            unregistered_time: self.unregistered.map(time),
            allocated_resources: allocated.to_vec(),
            offered_resources: offered.to_vec(),
            offer_constraints: self.constraints.as_deref().cloned(),
            ..Default::default()
        }
    }
}

/// A time of day as Mesos writes it.
pub(crate) fn time(at: Millis) -> TimeInfo {
    TimeInfo { nanoseconds: at.as_nanos() }
}

/// An agent as the operator API writes it.
pub(crate) fn agent_message(
    agent: &Agent,
    used: &Resources,
    offered: &Resources,
) -> response::get_agents::Agent {
    response::get_agents::Agent {
        agent_info: (*agent.info).clone(),
        active: agent.active(),
        deactivated: Some(!agent.life.serves()),
        drain_info: agent.life.drain.map(|drain| drain.info()),
        estimated_drain_start_time: agent.life.drain.map(|drain| time(drain.started)),
        version: agent.version.to_string(),
        pid: Some(format!("slave(1)@{}", agent.api_address())),
        registered_time: Some(time(agent.registered)),
        reregistered_time: agent.reregistered.map(time),
        total_resources: agent.total.to_mesos(),
        allocated_resources: used.to_mesos(),
        offered_resources: offered.to_mesos(),
        capabilities: agent.capabilities.to_vec(),
        node_name: agent.node_name().map(str::to_owned),
        ..Default::default()
    }
}

impl Agent {
    /// Its executors, each with the id of its framework.
    pub fn executors(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<mesos::ExecutorInfo>)> {
        self.executors.values().map(|executor| (&executor.framework_id, &executor.info))
    }

    /// Operations on its resources that are under way, or whose result nobody has taken note of.
    pub fn operations(&self) -> impl Iterator<Item = &mesos::Operation> {
        self.operations.values().map(|operation| &**operation)
    }

    /// `ip:port` of its HTTP API, as far as is known.
    pub fn api_address(&self) -> String {
        if let Some(url) = &self.url {
            return url.split_once("://").map_or(&**url, |(_, rest)| rest).trim_end_matches('/').to_owned();
        }
        let ip = self.address.rsplit_once(':').map_or(&*self.address, |(ip, _)| ip);
        format!("{ip}:{}", self.info.port.unwrap_or(5051))
    }

    /// As the operator API writes it.
    pub fn message(&self, share: Option<&Share>) -> response::get_agents::Agent {
        let none = Share::default();
        let share = share.unwrap_or(&none);
        agent_message(self, &share.used, &share.offered)
    }
}

impl Offer {
    /// Its id, under the id of the master that made it.
    pub fn id_under(&self, master: &str) -> String {
        format!("{master}-O{}", self.number)
    }
}

impl Absent {
    /// Whether it may still come back from before the start.
    pub fn is_recovered(&self) -> bool {
        self.why == super::state::Absence::Recovered
    }
}

impl State {
    /// Sums what is used and offered; costs a pass over all live tasks.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for task in self.tasks.iter().filter(|task| task.held) {
            totals.add(&task.agent_id, &task.framework_id, &task.resources(), false);
        }
        for agent in self.agents.iter() {
            for executor in agent.executors.values() {
                totals.add(&agent.id, &executor.framework_id, &executor.resources, false);
            }
        }
        for offer in self.offers.iter() {
            totals.add(&offer.agent_id, &offer.framework_id, &offer.resources, true);
        }
        totals
    }

    /// Live tasks of frameworks that are not removed, by framework id.
    pub fn tasks_by_framework(&self) -> HashMap<&str, Vec<&Arc<Task>>> {
        let mut by: HashMap<&str, Vec<&Arc<Task>>> =
            self.frameworks.iter().map(|f| (&*f.id, Vec::new())).collect();
        for task in self.tasks.iter() {
            if let Some(tasks) = by.get_mut(&*task.framework_id) {
                tasks.push(task);
            }
        }
        by
    }
}

impl Master {
    /// The state as it is now. Costs little, and nothing while nothing changes.
    pub fn state(&mut self) -> Arc<State> {
        if let Some(shown) = &self.shown {
            return Arc::clone(shown);
        }
        let mut frameworks = Vec::with_capacity(self.frameworks.len());
        for framework in self.frameworks.values_mut().filter(|framework| framework.stored) {
            let view = match &framework.view {
                Some(view) => Arc::clone(view),
                None => {
                    let view = Arc::new(FrameworkView::of(framework, None));
                    framework.view = Some(Arc::clone(&view));
                    view
                }
            };
            frameworks.push(view);
        }
        let mut metrics = self.metrics.clone();
        metrics.set("master/allocator_disagreements", self.ledger.disagreements);
        let state = Arc::new(State {
            generation: self.generation,
            master: self.settings.master_info.clone(),
            started: self.started,
            term: self.term,
            agents: self.agents.snapshot(),
            tasks: self.tasks.snapshot(),
            offers: self.offers.snapshot(),
            frameworks,
            completed: self.completed.iter().cloned().collect(),
            absent: Arc::clone(&self.absent),
            weights: self.weights.clone(),
            quotas: self.quotas.clone(),
            metrics,
        });
        self.shown = Some(Arc::clone(&state));
        state
    }

    /// The allocator, for questions about what it decides.
    pub fn allocator(&self) -> &plenum_allocator::Allocator {
        self.ledger.allocator()
    }
}
