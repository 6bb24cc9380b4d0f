//! One container in memory: its record, what has been asked of it, how it ended.

use crate::engine::{Engine, EngineError};
use crate::record::{Record, Records};
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Status};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use plenum_containers::{DiskUse, Exit, ExitReason, ExitStatus, Launched, Usage};
use std::time::Duration;
use tokio::sync::watch;

/// A container that was asked for and is not yet forgotten.
#[derive(Debug)]
pub struct Container {
    /// What is on disk.
    record: Mutex<Record>,
    records: Records,
    /// The grace period of a kill ran out.
    pub escalated: Mutex<bool>,
    /// What was measured last.
    pub usage: Mutex<Usage>,
    /// What of its disk limit was measured last.
    pub disk: Mutex<Option<DiskUse>>,
    /// Its launch is called off.
    pub off: watch::Sender<bool>,
    /// How it ended, when that is known and its output is written.
    pub exit: watch::Sender<Option<Exit>>,
    /// Its process has ended.
    pub stopped: watch::Sender<bool>,
    /// All of its output is written.
    pub drained: watch::Sender<bool>,
}

impl Container {
    /// One that is not running yet.
    pub fn new(record: Record, records: Records) -> Self {
        Self {
            record: Mutex::new(record),
            records,
            escalated: Mutex::new(false),
            usage: Mutex::default(),
            disk: Mutex::default(),
            off: watch::Sender::new(false),
            exit: watch::Sender::new(None),
            stopped: watch::Sender::new(false),
            drained: watch::Sender::new(false),
        }
    }

    /// Its record as it is now.
    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// Changes the record, on disk too. What cannot be written is known until the agent restarts, and said.
    pub fn change(&self, change: impl FnOnce(&mut Record)) {
        let mut record = self.record.lock();
        change(&mut record);
        if let Err(error) = self.records.write(&record) {
            tracing::warn!(container = record.id, %error, "the record of a container cannot be written");
        }
    }

    /// How it ended, if that is known.
    pub fn ended(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Its end, as the engine tells it.
    pub fn exit_of(&self, found: &ContainerInspectResponse) -> Exit {
        let state = found.state.clone().unwrap_or_default();
        let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
        let status = code.map_or(ExitStatus::Unknown, ExitStatus::Code);
        let killed = self.record.lock().killed;
        let told = state.oom_killed.unwrap_or(false);
        let kills = u64::from(told || (status == ExitStatus::Code(137) && !killed && self.ran_out()));
        // A task that survives the loss of a process and ends well was not ended by its limit.
        let oom = kills > 0 && status != ExitStatus::Code(0) && !killed;
        let reason = match () {
            () if oom => ExitReason::OutOfMemory,
            () if killed => ExitReason::Killed { escalated: *self.escalated.lock() },
            () => ExitReason::Ended,
        };
        let finished = state.finished_at.and_then(|time| time.parse::<jiff::Timestamp>().ok());
        Exit {
            status,
            reason,
            oom,
            oom_kills: kills,
            finished_ms: finished
                .and_then(|time| u64::try_from(time.as_millisecond()).ok())
                .filter(|ms| *ms > 0),
            ..self.counted()
        }
    }

    /// Whether the kernel says that it killed something for its memory: the engine hears of that on another way than of the end, and may say
    /// nothing when the end comes first. Takes some milliseconds, for a task that was killed and not by us.
    fn ran_out(&self) -> bool {
        let group = self.record.lock().engine_id.clone();
        !group.is_empty() && plenum_containers::oom::from_kernel(&group).is_some()
    }

    /// An end of which the engine tells nothing.
    pub fn exit_unseen(&self) -> Exit {
        let mut exit = self.counted();
        if self.record.lock().killed {
            let escalated = *self.escalated.lock();
            exit.reason = ExitReason::Killed { escalated };
            if escalated {
                exit.status = ExitStatus::Signal(Signal::SIGKILL as i32);
            }
        }
        exit
    }

    fn counted(&self) -> Exit {
        let usage = *self.usage.lock();
        Exit {
            cpu_ns: usage.cpu_ns.unwrap_or(0),
            memory_peak: usage.memory_peak_bytes.unwrap_or(0),
            forks_refused: 0,
            ..Exit::lost()
        }
    }

    /// What the agent is told of a running container.
    pub fn launched(&self, warnings: Vec<String>) -> Launched {
        let record = self.record.lock();
        let stat = plenum_shim::proc::stat(record.pid).filter(|stat| stat.start == record.start);
        Launched {
            id: record.id.clone(),
            pid: record.pid,
            start_time: record.start,
            boot_id: record.boot_id.clone(),
            init_pid: record.pid,
            shim_pid: stat.map_or(0, |stat| stat.parent),
            cgroups: crate::measure::groups(record.pid),
            warnings,
        }
    }
}

/// What the engine says a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It was made and never started.
    Waiting,
    /// It runs.
    Running,
    /// It has ended.
    Ended,
}

/// Reads it from the engine's description.
pub fn doing(found: &ContainerInspectResponse) -> Doing {
    let state = found.state.clone().unwrap_or_default();
    match state.status {
        Some(Status::CREATED) => Doing::Waiting,
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => Doing::Ended,
        _ if state.running.unwrap_or(false) => Doing::Running,
        _ => Doing::Ended,
    }
}

/// The engine's description of a container; nothing if it has none of this name.
pub async fn inspect(
    engine: &Engine,
    name: &str,
    deadline: Duration,
) -> Result<Option<ContainerInspectResponse>, EngineError> {
    let call = |docker: bollard::Docker| async move {
        docker.inspect_container(name, None::<bollard::query_parameters::InspectContainerOptions>).await
    };
    match engine.call("describe a container", deadline, call).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}
