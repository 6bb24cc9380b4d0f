//! What the allocator is told and what it answers: settings, descriptions of frameworks and agents, grants,
//! errors.

use std::collections::{BTreeMap, BTreeSet};

use plenum_api::Millis;
use plenum_api::resources::{Amount, Name, Quantities, Resources};

/// Settings of the whole cluster; fixed for the life of an allocator.
#[derive(Clone, Debug)]
pub struct Options {
    /// An offer must contain all of at least one of these; empty: anything is worth offering. Mesos' flag
    /// `min_allocatable_resources`.
    pub min_allocatable: Vec<Quantities>,
    /// Offer agents with GPUs only to frameworks with GPU_RESOURCES. Mesos' flag `filter_gpu_resources`.
    pub filter_gpus: bool,
    /// The master's region; agents that name another one are remote.
    pub region: Option<String>,
    /// Scalars that no dominant share is made of. Mesos' flag `fair_sharing_excluded_resource_names`.
    pub excluded_from_fairness: BTreeSet<Name>,
}

impl Default for Options {
    fn default() -> Self {
        let one =
            |name: Name, thousandths| Quantities::from_iter([(name, Amount::from_thousandths(thousandths))]);
        Options {
            min_allocatable: vec![one(Name::CPUS, 10), one(Name::MEM, 32_000)],
            filter_gpus: true,
            region: None,
            excluded_from_fairness: BTreeSet::new(),
        }
    }
}

/// What a framework says it can handle; the names of Mesos' capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// GPU_RESOURCES
    pub gpu_resources: bool,
    /// REGION_AWARE
    pub region_aware: bool,
    /// REVOCABLE_RESOURCES
    pub revocable_resources: bool,
    /// SHARED_RESOURCES
    pub shared_resources: bool,
    /// RESERVATION_REFINEMENT
    pub reservation_refinement: bool,
}

/// A framework as the allocator needs to know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameworkSpec {
    /// Roles it is subscribed to, full paths.
    pub roles: BTreeSet<String>,
    /// Those of its roles in which it wants no offers for now.
    pub suppressed: BTreeSet<String>,
    /// What it can handle.
    pub capabilities: Capabilities,
    /// Per role, what makes an offer worth its while instead of the cluster's setting (`offer_filters`).
    pub min_allocatable: BTreeMap<String, Vec<Quantities>>,
}

/// An agent as the allocator needs to know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentSpec {
    /// Everything it has, reserved or not, none of it allocated.
    pub total: Resources,
    /// Its region, if it names one.
    pub region: Option<String>,
    /// Its host name, for [`crate::Allocator::set_allowed_agents`].
    pub hostname: String,
}

/// Resources of an agent in the hands of a framework under a role: offered or used.
#[derive(Clone, Copy, Debug)]
pub struct Holding<'a> {
    /// Framework id.
    pub framework: &'a str,
    /// The role they are allocated to.
    pub role: &'a str,
    /// Agent id.
    pub agent: &'a str,
    /// The resources; whom they are allocated to is not looked at.
    pub resources: &'a Resources,
    /// Whether they stand in an open offer (true) or are used. Matters to shared resources only.
    pub offered: bool,
}

/// One offer to make: everything of one agent that one framework gets under one role.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Framework id.
    pub framework: String,
    /// The role it is made to.
    pub role: String,
    /// Agent id.
    pub agent: String,
    /// Allocated to the role.
    pub resources: Resources,
}

/// How much a cycle looked at: the cost that must follow change, not size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Agents whose resources were considered.
    pub agents_visited: u64,
    /// Subscriptions judged against an agent.
    pub frameworks_visited: u64,
    /// Subscriptions and roles compared or stepped over to find the next in DRF order.
    pub compared: u64,
    /// Filter groups that ended.
    pub filters_ended: u64,
    /// Agents freed of bits that belong to nobody any more (bounded in each cycle).
    pub swept: u64,
}

/// The outcome of a cycle.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocation {
    /// Offers to make, in the order they were decided.
    pub grants: Vec<Grant>,
    /// When the next filter ends, on the monotonic clock: call [`crate::Allocator::cycle`] then at the
    /// latest.
    pub next_wakeup: Option<Millis>,
    /// What it took.
    pub stats: Stats,
}

/// Why an event was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocatorError {
    /// No framework of this id was added.
    #[error("framework {0} is not known; add it first")]
    UnknownFramework(String),
    /// No agent of this id was added.
    #[error("agent {0} is not known; add it first")]
    UnknownAgent(String),
    /// The id is in use.
    #[error("{0} was added before; update it instead")]
    Exists(String),
    /// The framework does not hold what is to be given back or converted.
    #[error("framework {framework} does not hold these resources of agent {agent} under role {role}")]
    NotHeld {
        /// Framework id.
        framework: String,
        /// Role of the holding.
        role: String,
        /// Agent id.
        agent: String,
    },
    /// The agent does not have what is to be converted, or it is not free.
    #[error("agent {0} does not have these resources free")]
    NotFree(String),
    /// A weight must be a positive, finite number.
    #[error("the weight of role {0} must be a positive number")]
    BadWeight(String),
    /// Not a role, or nested deeper than anyone needs.
    #[error("{0}")]
    BadRole(String),
}
