//! The records of the state machine: agents, frameworks, tasks, executors, offers.
//!
//! Only data and questions about it. Who changes a record, and what follows, is in the file of that concern.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use plenum_api::mesos::{self, TaskState};
use plenum_api::resources::Resources;
use plenum_api::{Millis, scheduler};
use prost::Message;

use super::event::{AgentIdentity, ConnId, StreamId};
use super::registry::Life;

/// A framework's number in this master; never used twice.
pub(crate) type FrameworkKey = u32;
/// An agent's place in the slab.
pub(crate) type AgentKey = u32;
/// A task's place in the slab.
pub(crate) type TaskKey = u32;

/// An agent that has registered with this master since it leads.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its id.
    pub id: Arc<str>,
    /// As it described itself, with its id filled in.
    pub info: Arc<mesos::AgentInfo>,
    /// Which key may speak for it, and its node's name.
    pub identity: Arc<AgentIdentity>,
    /// Version of its program.
    pub version: Arc<str>,
    /// `ip:port` of its connection, or of its last one.
    pub address: Arc<str>,
    /// Where its own HTTP API is, when it says so.
    pub url: Option<Arc<str>>,
    /// What it can do.
    pub capabilities: Arc<Vec<mesos::agent_info::Capability>>,
    /// What it has, reservations included.
    pub total: Arc<Resources>,
    /// Its connection while it has one.
    pub conn: Option<ConnId>,
    /// Time of day of its first registration with this master.
    pub registered: Millis,
    /// Time of day of its latest registration after the first.
    pub reregistered: Option<Millis>,
    /// Live tasks on it.
    pub(crate) tasks: BTreeSet<TaskKey>,
    /// Executors on it, by framework and executor id.
    pub(crate) executors: BTreeMap<(FrameworkKey, Arc<str>), Executor>,
    /// Offers made of it.
    pub(crate) offers: BTreeSet<u64>,
    /// Operations on its resources that are under way, or whose result nobody has taken note of, by uuid.
    pub(crate) operations: BTreeMap<Bytes, Arc<mesos::Operation>>,
    /// When it counts as unreachable unless it is back.
    pub(crate) away_at: Option<Millis>,
    /// A change of its record is being stored; nothing else is begun meanwhile.
    pub(crate) leaving: bool,
    /// Whether operators let it serve.
    pub life: Life,
}

impl Agent {
    /// The name of its node, where it is known.
    pub fn node_name(&self) -> Option<&str> {
        Some(&*self.identity.node).filter(|name| !name.is_empty())
    }

    /// Whether it is connected and in service, hence offered.
    pub fn active(&self) -> bool {
        self.conn.is_some() && self.life.serves()
    }

    /// Whether it writes down what operations make of its resources.
    pub(crate) fn takes_operations(&self) -> bool {
        self.has(mesos::agent_info::capability::Type::AgentOperationFeedback)
    }

    /// Whether it makes persistent volumes larger and smaller.
    pub(crate) fn resizes(&self) -> bool {
        self.has(mesos::agent_info::capability::Type::ResizeVolume)
    }

    fn has(&self, kind: mesos::agent_info::capability::Type) -> bool {
        self.capabilities.iter().any(|capability| capability.r#type == Some(kind as i32))
    }
}

/// An executor with resources of its own.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    /// Whose it is.
    pub framework_id: Arc<str>,
    /// As the framework described it.
    pub info: Arc<mesos::ExecutorInfo>,
    /// What is held for it, allocated to the framework's role.
    pub resources: Arc<Resources>,
}

/// Why an agent that is known is not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// It was registered before the master started and has not come back yet.
    Recovered,
    /// It was away too long; since this time of day.
    Unreachable(Millis),
    /// An operator gave it up for ever, at this time of day.
    Gone(Millis),
}

/// An agent that is known but not registered.
#[derive(Debug, Clone)]
pub struct Absent {
    /// Why.
    pub why: Absence,
    /// As it described itself.
    pub info: Arc<mesos::AgentInfo>,
    /// Which key may speak for it, and its node's name.
    pub(crate) identity: Arc<AgentIdentity>,
    /// Whether operators let it serve.
    pub life: Life,
}

impl Absent {
    /// The name of its node, where it is known.
    pub fn node_name(&self) -> Option<&str> {
        Some(&*self.identity.node).filter(|name| !name.is_empty())
    }
}

/// A framework's stream.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// Where events go.
    pub id: StreamId,
    /// The `Mesos-Stream-Id` its calls must carry.
    pub header: Arc<str>,
}

/// What a framework says it can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // four independent flags of the wire format
pub(crate) struct Abilities {
    pub partition_aware: bool,
    pub multi_role: bool,
    /// It reads stacks of reservations.
    pub refined: bool,
}

impl Abilities {
    /// Reads them from the description.
    pub fn of(info: &mesos::FrameworkInfo) -> Self {
        use mesos::framework_info::capability::Type;
        let has = |kind: Type| info.capabilities.iter().any(|c| c.r#type == Some(kind as i32));
        Self {
            partition_aware: has(Type::PartitionAware),
            multi_role: has(Type::MultiRole),
            refined: has(Type::ReservationRefinement),
        }
    }
}

/// A framework that may have tasks: subscribed, away, or recovered.
#[derive(Debug)]
pub struct Framework {
    /// Its id.
    pub id: Arc<str>,
    /// As it described itself, with its id filled in.
    pub info: Arc<mesos::FrameworkInfo>,
    /// Who subscribed it first; nobody else may speak for it.
    pub principal: Arc<str>,
    pub(crate) abilities: Abilities,
    /// Time of day of its first subscription with this master (or, recovered, ever).
    pub registered: Millis,
    /// Time of day of its latest subscription.
    pub reregistered: Millis,
    /// Known from before the last start, and not subscribed since.
    pub recovered: bool,
    /// Its stream while it has one.
    pub(crate) stream: Option<Stream>,
    /// The newest stream whose subscription is still being stored.
    pub(crate) subscribing: Option<StreamId>,
    /// Its description has been stored at least once.
    pub(crate) stored: bool,
    /// It has been subscribed before.
    pub(crate) seen: bool,
    /// The operator streams have heard of it.
    pub(crate) announced: bool,
    /// Its removal is being stored.
    pub(crate) leaving: bool,
    pub(crate) suppressed: BTreeSet<String>,
    pub(crate) constraints: Option<Arc<scheduler::OfferConstraints>>,
    /// Live tasks by id.
    pub(crate) tasks: HashMap<Arc<str>, TaskKey>,
    /// Tasks on agents that are unreachable and may come back, by id.
    pub(crate) unreachable: BTreeMap<Arc<str>, Arc<Task>>,
    /// Ended tasks, oldest first.
    pub(crate) completed: VecDeque<Arc<Task>>,
    pub(crate) offers: BTreeSet<u64>,
    pub(crate) heartbeat_at: Millis,
    pub(crate) failover_at: Option<Millis>,
    /// What readers see of it; made again after a change.
    pub(crate) view: Option<Arc<super::view::FrameworkView>>,
}

impl Framework {
    /// Whether it has a stream.
    pub fn connected(&self) -> bool {
        self.stream.is_some()
    }

    /// How long it may stay away.
    pub(crate) fn failover(&self) -> Millis {
        let seconds = self.info.failover_timeout.unwrap_or(0.0);
        // Saturating: the validation has refused what is not a number or negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Millis((seconds.clamp(0.0, 3.2e9) * 1000.0) as u64)
    }
}

/// A task as the master knows it. The descriptive part is kept encoded.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its id.
    pub id: Arc<str>,
    /// The framework's id.
    pub framework_id: Arc<str>,
    /// The agent's id.
    pub agent_id: Arc<str>,
    /// The newest state known.
    pub state: TaskState,
    pub(crate) framework: FrameworkKey,
    pub(crate) agent: AgentKey,
    /// Whether the allocator still counts its resources as taken.
    pub(crate) held: bool,
    /// The update the framework was sent last: state and identity.
    pub(crate) sent: Option<(TaskState, [u8; 16])>,
    /// To be killed once its agent is back, and how.
    pub(crate) kill: Option<Option<mesos::KillPolicy>>,
    /// Everything that does not change: an encoded `Task` without state and statuses.
    pub(crate) body: Bytes,
    /// Statuses, oldest first, each an encoded `TaskStatus` without `data`.
    pub(crate) statuses: Vec<Bytes>,
}

/// Whether a state is an end.
pub fn is_terminal(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::TaskFinished
            | TaskState::TaskFailed
            | TaskState::TaskKilled
            | TaskState::TaskError
            | TaskState::TaskLost
            | TaskState::TaskDropped
            | TaskState::TaskGone
            | TaskState::TaskGoneByOperator
    )
}

impl Task {
    /// A record of `task`, which carries no statuses it should keep.
    pub(crate) fn new(task: &mesos::Task, framework: FrameworkKey, agent: AgentKey) -> Self {
        Self {
            id: task.task_id.value.as_str().into(),
            framework_id: task.framework_id.value.as_str().into(),
            agent_id: task.agent_id.value.as_str().into(),
            state: TaskState::try_from(task.state).unwrap_or(TaskState::TaskStaging),
            framework,
            agent,
            held: false,
            sent: None,
            kill: None,
            body: task.encode_to_vec().into(),
            statuses: Vec::new(),
        }
    }

    /// What the record describes, statuses included.
    pub fn describe(&self) -> mesos::Task {
        // The body was encoded by this process; should it not decode, an empty description is still a task with an id.
        let mut task = mesos::Task::decode(self.body.clone()).unwrap_or_default();
        task.state = self.state as i32;
        task.statuses =
            self.statuses.iter().filter_map(|s| mesos::TaskStatus::decode(s.clone()).ok()).collect();
        task.status_update_state = self.sent.map(|(state, _)| state as i32);
        task.status_update_uuid = self.sent.map(|(_, uuid)| Bytes::copy_from_slice(&uuid));
        task
    }

    /// Its resources, allocated to a role.
    pub(crate) fn resources(&self) -> Resources {
        let body = mesos::Task::decode(self.body.clone()).unwrap_or_default();
        // They were checked when the task came in.
        Resources::from_mesos(&body.resources).unwrap_or_default()
    }

    /// The executor it runs on; none for a command task.
    pub(crate) fn executor(&self) -> Option<mesos::ExecutorId> {
        mesos::Task::decode(self.body.clone()).unwrap_or_default().executor_id
    }

    /// Its newest status.
    pub(crate) fn last_status(&self) -> Option<mesos::TaskStatus> {
        mesos::TaskStatus::decode(self.statuses.last()?.clone()).ok()
    }

    /// Adds a status; one of the same state as the last replaces it. Returns whether the state is a new one. The payload of the framework
    /// (`data`) is not kept: it may be large and is never shown.
    pub(crate) fn push_status(&mut self, status: &mesos::TaskStatus) -> bool {
        let mut kept = status.clone();
        kept.data = None;
        let repeated = self.last_status().is_some_and(|last| last.state == kept.state);
        if repeated {
            self.statuses.pop();
        }
        self.statuses.push(kept.encode_to_vec().into());
        self.statuses.shrink_to_fit();
        !repeated
    }
}

/// Resources of one agent that a framework may use, until it answers or they are taken back.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its number; the id is the master's id, `-O` and this.
    pub(crate) number: u64,
    pub(crate) framework: FrameworkKey,
    pub(crate) agent: AgentKey,
    /// The framework's id.
    pub framework_id: Arc<str>,
    /// The agent's id.
    pub agent_id: Arc<str>,
    /// The role they are offered to.
    pub role: Arc<str>,
    /// What is offered, allocated to the role.
    pub resources: Arc<Resources>,
}

impl Framework {
    /// Keeps an ended task, and not too many of them.
    pub(crate) fn complete(&mut self, task: Arc<Task>, keep: usize) {
        self.completed.push_back(task);
        while self.completed.len() > keep {
            self.completed.pop_front();
        }
    }
}

impl Offer {
    /// As the allocator knows it.
    pub(crate) fn holding(&self) -> plenum_allocator::Holding<'_> {
        plenum_allocator::Holding {
            framework: &self.framework_id,
            role: &self.role,
            agent: &self.agent_id,
            resources: &self.resources,
            offered: true,
        }
    }
}
