//! One run of an app: what is written down before it is launched, and what was observed since.

use plenum_api::Millis;
use serde::{Deserialize, Serialize};

use super::app::App;
use super::constraint::Location;
use super::id::{AppId, InstanceId};

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

/// What is written down before the launch and never changed, but for the goal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Format number.
    pub f: u32,
    /// The id.
    pub id: InstanceId,
    /// Whose instance.
    pub app: AppId,
    /// The version it was launched from.
    pub version: String,
    /// The configuration it was launched from: `lastConfigChangeAt` of that version.
    pub config: String,
    /// When, milliseconds since the Unix epoch.
    pub created: Millis,
    /// The node.
    pub agent: String,
    /// Where the node is.
    pub location: Location,
    /// The role whose resources it uses.
    pub role: String,
    /// One an app port.
    pub host_ports: Vec<Option<u16>>,
    /// What is wanted of it.
    pub goal: Goal,
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
}

/// An instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// What is stored.
    pub record: Record,
    /// Last observed; of an instance that was read from the store, nothing yet.
    pub state: Option<State>,
    /// By its health check.
    pub healthy: Option<bool>,
    /// Failed checks in a row that were heard of.
    pub failures: u32,
    /// When `healthy` last was true and false.
    pub health_seen: (Option<Millis>, Option<Millis>),
    /// When it was first healthy.
    pub first_healthy: Option<Millis>,
    /// When it was accepted.
    pub staged: Millis,
    /// When it ran.
    pub started: Option<Millis>,
    /// When the current state began (monotonic).
    pub since: Millis,
    /// Its addresses and their protocols.
    pub addresses: Vec<(String, String)>,
    /// What its check said last.
    pub check: Option<serde_json::Value>,
    /// When it is asked again to end, or what became of it.
    pub again: Option<Millis>,
}

impl Instance {
    /// An instance that is about to be launched, or was read from the store (`launched` false).
    pub fn new(record: Record, now: Millis, launched: bool) -> Self {
        let staged = record.created;
        Self {
            record,
            state: launched.then_some(State::Staging),
            healthy: None,
            failures: 0,
            health_seen: (None, None),
            first_healthy: None,
            staged,
            started: None,
            since: now,
            addresses: Vec::new(),
            check: None,
            again: None,
        }
    }

    /// Counts towards what is wanted.
    pub fn is_wanted(&self) -> bool {
        self.record.goal == Goal::Run
    }

    /// Is being ended although nobody here asked for it: its node is being emptied, or its health check gave it up. What takes its place
    /// need not wait for its end.
    pub fn is_leaving(&self) -> bool {
        self.state == Some(State::Killing) && self.is_wanted()
    }

    /// Serves: runs and, where there is a health check, passes it.
    pub fn is_ready(&self, app: &App) -> bool {
        self.state == Some(State::Running)
            && (app.health_checks.is_empty() || self.healthy == Some(true))
            && self.is_wanted()
    }

    /// The host ports, in order.
    pub fn ports(&self) -> Vec<u16> {
        self.record.host_ports.iter().flatten().copied().collect()
    }
}

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
        }
    }
}
