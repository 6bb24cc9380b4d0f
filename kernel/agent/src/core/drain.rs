//! Draining: everything is killed within a grace, nothing new is taken, and that is remembered over restarts until the master ends it.
//!
//! Owns `Agent::draining` and its record. How one task is killed is in `kill`.

use plenum_api::Millis;
use plenum_api::mesos::framework_info::capability::Type as Capability;
use plenum_api::mesos::task_status::Reason;
use plenum_api::mesos::{DrainConfig, TaskState, TaskStatus};

use super::event::{Effect, ExecutorKey, Level, TaskKey};
use super::model::{KillCause, Mark, Phase};
use super::records::{self, DrainRecord};
use super::{Agent, Cx, wire};

/// Where the record is.
pub(super) const KEY: &str = "drain";
/// What is left of executors after the grace is destroyed so much later.
const DESTROY_AFTER: Millis = Millis(1_000);

/// A drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draining {
    /// No task gets more grace than this, counted from when this agent was told.
    pub max_grace: Option<Millis>,
    pub mark_gone: bool,
    /// When all grace is over (mono), if it ever is.
    pub until: Option<Millis>,
}

impl Draining {
    pub fn cause(&self) -> KillCause {
        if self.mark_gone { KillCause::DrainGone } else { KillCause::Drain }
    }

    /// As the master said it.
    pub fn config(&self) -> DrainConfig {
        DrainConfig {
            max_grace_period: self.max_grace.map(wire::duration_info),
            mark_gone: Some(self.mark_gone),
        }
    }
}

impl Agent {
    /// The master orders a drain, or repeats the order.
    pub(super) fn drain(&mut self, config: &DrainConfig, cx: &mut Cx<'_>) {
        let max_grace = config.max_grace_period.as_ref().map(wire::duration);
        let mark_gone = config.mark_gone();
        let repeated =
            self.draining.filter(|known| (known.max_grace, known.mark_gone) == (max_grace, mark_gone));
        if repeated.is_none() {
            cx.report(Level::Info, "The agent is draining: its tasks are killed, no new ones are taken");
            let record =
                DrainRecord { mark_gone, max_grace: max_grace.map(|grace| grace.0), began: cx.now.wall.0 };
            cx.writes.push(records::put(KEY.to_owned(), &record));
            let until = max_grace.map(|grace| cx.after(grace));
            self.draining = Some(Draining { max_grace, mark_gone, until });
        }
        self.drain_on(cx);
    }

    /// The master has ended the drain.
    pub(super) fn resume(&mut self, cx: &mut Cx<'_>) {
        if self.draining.take().is_some() {
            cx.report(Level::Info, "The agent is in service again");
            cx.writes.push(records::delete(KEY.to_owned()));
        }
    }

    /// A drain from before a restart.
    pub(super) fn read_drain(&mut self, record: &DrainRecord, cx: &Cx<'_>) {
        let max_grace = record.max_grace.map(Millis);
        // A clock that was set back must not lengthen it.
        let spent = cx.now.wall.since(Millis(record.began));
        let until = max_grace.map(|grace| cx.after(grace - spent));
        self.draining = Some(Draining { max_grace, mark_gone: record.mark_gone, until });
    }

    /// Kills what is still there.
    pub(super) fn drain_on(&mut self, cx: &mut Cx<'_>) {
        let Some(draining) = self.draining else { return };
        let tasks: Vec<TaskKey> = self.tasks.keys().cloned().collect();
        for key in tasks {
            let own = self.tasks.get(&key).and_then(|task| wire::grace(task.info.kill_policy.as_ref()));
            let grace = self.drain_grace(own.unwrap_or(self.settings.kill_grace), cx);
            self.kill_task(&key, Some(grace), draining.cause(), cx);
        }
        if let Some(until) = draining.until {
            self.mark(until + DESTROY_AFTER, Mark::Drain);
        }
    }

    /// A grace that ends with the drain's.
    pub(super) fn drain_grace(&self, own: Millis, cx: &Cx<'_>) -> Millis {
        let left = self.draining.and_then(|draining| draining.until).map(|until| until.since(cx.now.mono));
        left.map_or(own, |left| own.min(left))
    }

    /// The grace is over. Command tasks are destroyed by their own deadlines; executors that keep tasks alive are destroyed here.
    pub(super) fn drain_due(&mut self, cx: &mut Cx<'_>) {
        let Some(until) = self.draining.and_then(|draining| draining.until) else { return };
        if until + DESTROY_AFTER > cx.now.mono {
            return;
        }
        let live = self.tasks.iter().filter(|(_, task)| task.phase != Phase::Ended);
        let keep = live.filter_map(|(key, task)| {
            Some(ExecutorKey { framework: key.framework.clone(), executor: task.executor.clone()? })
        });
        let executors: std::collections::BTreeSet<ExecutorKey> = keep.collect();
        for key in executors {
            if self.executors.get(&key).is_some_and(|one| one.is_pod()) {
                self.destroy_pod(&key, cx);
            } else if let Some(executor) = self.executors.get(&key) {
                cx.out.push(Effect::Destroy { container: executor.container.clone() });
            }
        }
    }

    /// A task that is killed while the agent drains goes away for that reason, whoever said it; where the agent will be gone, so is the task.
    pub(super) fn drained_status(&self, framework: &str, status: &mut TaskStatus) {
        let Some(draining) = self.draining else { return };
        let state = status.state();
        if !matches!(state, TaskState::TaskKilling | TaskState::TaskKilled) {
            return;
        }
        status.set_reason(Reason::AgentDraining);
        let known = self.frameworks.get(framework);
        if draining.mark_gone
            && state == TaskState::TaskKilled
            && known.is_some_and(|known| wire::capable(&known.info, Capability::PartitionAware))
        {
            status.set_state(TaskState::TaskGoneByOperator);
        }
    }
}
