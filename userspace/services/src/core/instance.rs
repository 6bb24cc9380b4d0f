//! One run of an app: what is written down before it is launched, and what was observed since.

use std::sync::Arc;

use plenum_api::Millis;
use serde::{Deserialize, Serialize};

use super::constraint::Location;
use super::definition::{Definition, ONLY};
use super::id::{InstanceId, PathId};
use super::readiness::Readiness;
use super::volume::Local;

/// A task's state, in Mesos' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Accepted, not yet at the agent's executor.
    Staging,
    /// Being started.
    Starting,
    /// Runs.
    Running,
    /// Was asked to end.
    Killing,
    /// Its node cannot be reached; it may come back.
    Unreachable,
    /// Ended by itself, successfully.
    Finished,
    /// Ended by itself, not successfully.
    Failed,
    /// Ended as asked.
    Killed,
    /// Was not acceptable.
    Error,
    /// Is gone, somehow.
    Lost,
    /// Never started.
    Dropped,
    /// Its node is gone.
    Gone,
    /// An operator said that its node is gone.
    GoneByOperator,
    /// Nobody knows it.
    Unknown,
}

impl State {
    /// Every state with its name.
    pub const NAMES: [(State, &'static str); 14] = [
        (State::Staging, "TASK_STAGING"),
        (State::Starting, "TASK_STARTING"),
        (State::Running, "TASK_RUNNING"),
        (State::Killing, "TASK_KILLING"),
        (State::Unreachable, "TASK_UNREACHABLE"),
        (State::Finished, "TASK_FINISHED"),
        (State::Failed, "TASK_FAILED"),
        (State::Killed, "TASK_KILLED"),
        (State::Error, "TASK_ERROR"),
        (State::Lost, "TASK_LOST"),
        (State::Dropped, "TASK_DROPPED"),
        (State::Gone, "TASK_GONE"),
        (State::GoneByOperator, "TASK_GONE_BY_OPERATOR"),
        (State::Unknown, "TASK_UNKNOWN"),
    ];

    /// Mesos' name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(s, _)| *s == self).map_or("TASK_UNKNOWN", |(_, name)| name)
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(s, _)| *s)
    }

    /// Whether there is no way out.
    pub fn is_terminal(self) -> bool {
        self >= State::Finished
    }

    /// Whether something that has ended so can never be heard of again in another state: its node itself said how it ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Killed | Self::Error)
    }

    /// Whether a container that ended so leaves the others of its pod alone. One that fails takes them along; so one of which the master
    /// knows nothing any more while another one lives did its work, and that was acknowledged.
    pub fn leaves_others(self) -> bool {
        matches!(self, Self::Finished | Self::Gone | Self::Unknown)
    }

    /// Marathon's word in `instance_changed_event`.
    pub fn condition(self) -> &'static str {
        match self {
            State::GoneByOperator => "Gone",
            other => {
                let name = format!("{other:?}");
                CONDITIONS.iter().find(|c| **c == name).copied().unwrap_or("Unknown")
            }
        }
    }
}

const CONDITIONS: [&str; 12] = [
    "Staging",
    "Starting",
    "Running",
    "Killing",
    "Unreachable",
    "Finished",
    "Failed",
    "Killed",
    "Error",
    "Lost",
    "Dropped",
    "Gone",
];

/// What is written down before the launch and never changed, but for the goal and the number of launches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Format number.
    pub f: u32,
    /// The id.
    pub id: InstanceId,
    /// Whose instance.
    pub app: PathId,
    /// The version it was launched from.
    pub version: String,
    /// The configuration it was launched from: `lastConfigChangeAt` of that version.
    pub config: String,
    /// When, milliseconds since the Unix epoch.
    pub created: Millis,
    /// The node.
    pub agent: String,
    /// Where the node is. Shared with the node's other instances.
    pub location: Arc<Location>,
    /// The role whose resources it uses.
    pub role: String,
    /// One a port.
    pub host_ports: Vec<Option<u16>>,
    /// What is wanted of it.
    pub goal: Goal,
    /// The names of a pod's containers; empty for an app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<String>,
    /// How often it was launched. More than once only where it has volumes.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub launches: u32,
    /// Its volumes; they stay when it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Local>,
    /// Something ran on its volumes: there may be data on them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
}

fn once() -> u32 {
    1
}

fn is_once(n: &u32) -> bool {
    *n == 1
}

impl Record {
    /// Whether it is bound to a node by its volumes.
    pub fn is_resident(&self) -> bool {
        !self.volumes.is_empty()
    }

    /// Its containers and the ids of their tasks, of the latest launch.
    pub fn tasks(&self) -> impl Iterator<Item = (&str, String)> {
        let only = self.containers.is_empty().then_some(ONLY);
        let names = only.into_iter().chain(self.containers.iter().map(String::as_str));
        names.map(|name| (name, self.id.task_id(name, self.launches)))
    }
}

/// What is wanted of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// To run.
    Run,
    /// To end.
    Stop,
    /// To end if it ever comes back: it was unreachable and has been replaced.
    Ghost,
    /// It ended, and waits with its volumes to be launched again.
    Keep,
    /// To end, and its volumes to be destroyed.
    Wipe,
}

/// What was observed of one container of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// The container's name; [`ONLY`] of an app.
    pub name: String,
    /// Last observed; of an instance that was read from the store, nothing yet.
    pub state: Option<State>,
    /// When that began (time of day).
    pub since: Millis,
    /// By its health check.
    pub healthy: Option<bool>,
    /// Failed checks in a row that were heard of.
    pub failures: u32,
    /// What was said when its check last failed.
    pub sick: Option<Box<str>>,
    /// When `healthy` last was true and false.
    pub health_seen: (Option<Millis>, Option<Millis>),
    /// When it was first healthy.
    pub first_healthy: Option<Millis>,
    /// When it ran.
    pub started: Option<Millis>,
    /// Its addresses and their protocols.
    pub addresses: Vec<(String, String)>,
    /// What its check said last.
    pub check: Option<serde_json::Value>,
    /// What was said with its end.
    pub message: String,
}

impl Task {
    fn new(name: &str, state: Option<State>, since: Millis) -> Self {
        Self {
            name: name.to_owned(),
            state,
            since,
            healthy: None,
            failures: 0,
            sick: None,
            health_seen: (None, None),
            first_healthy: None,
            started: None,
            addresses: Vec::new(),
            check: None,
            message: String::new(),
        }
    }
}

/// An instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// What is stored.
    pub record: Record,
    /// One a container.
    pub tasks: Vec<Task>,
    /// When it was accepted.
    pub staged: Millis,
    /// When the current state began (monotonic).
    pub since: Millis,
    /// When it is asked again to end, or what became of it.
    pub again: Option<Millis>,
    /// What its readiness check says; none where nobody asks.
    pub readiness: Option<Box<Readiness>>,
}

impl Instance {
    /// An instance that is about to be launched, or was read from the store (`launched` false).
    pub fn new(record: Record, now: Millis, launched: bool) -> Self {
        let staged = record.created;
        let state = launched.then_some(State::Staging);
        let tasks = record.tasks().map(|(name, _)| Task::new(name, state, staged)).collect();
        Self { record, tasks, staged, since: now, again: None, readiness: None }
    }

    /// The state of the whole; none while nothing is known of a part. One that fails takes the others with it, and the end is that of
    /// the worst.
    pub fn state(&self) -> Option<State> {
        let mut living = None;
        let mut ended = None;
        for task in &self.tasks {
            let state = task.state?;
            let slot = if state.is_terminal() { &mut ended } else { &mut living };
            *slot = (*slot).max_by_rank(state);
        }
        match (living, ended) {
            (Some(state), None) => Some(state),
            (Some(state), Some(ended)) if ended.leaves_others() => Some(state),
            (Some(State::Unreachable), _) => Some(State::Unreachable),
            (Some(_), Some(_)) => Some(State::Killing),
            (None, ended) => ended,
        }
    }

    /// The container of that name.
    pub fn task_mut(&mut self, name: &str) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|task| task.name == name)
    }

    /// Counts towards what is wanted.
    pub fn is_wanted(&self) -> bool {
        self.record.goal == Goal::Run
    }

    /// Is being ended although nobody here asked for it: its node is being emptied, or its health check gave it up. What takes its place
    /// need not wait for its end.
    pub fn is_leaving(&self) -> bool {
        self.is_wanted() && self.state() == Some(State::Killing)
    }

    /// Serves: runs and, where there are checks of health or readiness, passes them.
    pub fn is_ready(&self, definition: &Definition) -> bool {
        let passes = |task: &Task| match task.state {
            Some(State::Running) => task.healthy == Some(true) || !definition.has_health_check(&task.name),
            // A container of a pod that did its work.
            state => state.is_some_and(State::leaves_others),
        };
        let runs = self.is_wanted() && self.state() == Some(State::Running);
        runs && self.said_ready() && self.tasks.iter().all(passes)
    }

    /// Runs, and nothing that is to say whether it serves has said anything yet.
    pub fn is_starting(&self, definition: &Definition) -> bool {
        !self.said_ready() || self.lacks_health(definition)
    }

    /// Whether one of its health checks has not said anything yet.
    pub fn lacks_health(&self, definition: &Definition) -> bool {
        let silent = |task: &Task| task.healthy.is_none() && definition.has_health_check(&task.name);
        self.tasks.iter().any(silent)
    }

    /// Health of the whole: false if a check says so, true if all that there are pass.
    pub fn healthy(&self) -> Option<bool> {
        let known = self.tasks.iter().filter_map(|task| task.healthy);
        known.reduce(|all, one| all && one)
    }

    /// When the last container began to run.
    pub fn started(&self) -> Option<Millis> {
        self.tasks.iter().filter_map(|task| task.started).max()
    }

    /// The host ports, in order.
    pub fn ports(&self) -> Vec<u16> {
        self.record.host_ports.iter().flatten().copied().collect()
    }
}

trait Worse {
    /// The worse of the two.
    fn max_by_rank(self, other: State) -> Option<State>;
}

impl Worse for Option<State> {
    fn max_by_rank(self, other: State) -> Option<State> {
        let rank = |state: State| WORST_FIRST.iter().position(|s| *s == state).unwrap_or(usize::MAX);
        Some(self.filter(|mine| rank(*mine) <= rank(other)).unwrap_or(other))
    }
}

/// The order in which the state of one container is that of its pod.
const WORST_FIRST: [State; 14] = [
    State::Error,
    State::Failed,
    State::GoneByOperator,
    State::Gone,
    State::Dropped,
    State::Lost,
    State::Unknown,
    State::Unreachable,
    State::Killing,
    State::Staging,
    State::Starting,
    State::Running,
    State::Killed,
    State::Finished,
];

/// A status update, reduced to what the core looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Of which task.
    pub task: String,
    /// Its state.
    pub state: State,
    /// Where.
    pub agent: Option<String>,
    /// In words.
    pub message: String,
    /// Mesos' reason, without interpretation.
    pub reason: Option<String>,
    /// By its health check.
    pub healthy: Option<bool>,
    /// To acknowledge.
    pub uuid: Option<Vec<u8>>,
    /// Addresses and protocols.
    pub addresses: Vec<(String, String)>,
    /// What its check said.
    pub check: Option<serde_json::Value>,
    /// The image it runs, by digest.
    pub image: Option<String>,
}

impl Status {
    /// A bare status.
    pub fn new(task: impl Into<String>, state: State) -> Self {
        Self {
            task: task.into(),
            state,
            agent: None,
            message: String::new(),
            reason: None,
            healthy: None,
            uuid: None,
            addresses: Vec::new(),
            check: None,
            image: None,
        }
    }
}
