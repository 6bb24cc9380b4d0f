//! RECONCILE: what the master knows of tasks, asked by name or for all of them.

use plenum_api::mesos::{TaskState, TaskStatus, TimeInfo, task_status::Reason};
use plenum_api::scheduler::call::reconcile::Task as Asked;

use super::lookup::agent_id;
use super::state::{Absence, FrameworkKey, Task};
use super::status::plain_status;
use super::{Master, Turn};

impl Master {
    /// Answers with updates of reason RECONCILIATION and without uuid, one a task. An empty list asks for all live tasks.
    pub(super) fn reconcile(&mut self, t: &mut Turn<'_>, framework: FrameworkKey, asked: Vec<Asked>) {
        self.metrics.count("master/messages_reconcile_tasks");
        let statuses: Vec<TaskStatus> = if asked.is_empty() {
            let Some(record) = self.frameworks.get(&framework) else { return };
            let mut tasks: Vec<_> = record.tasks.values().filter_map(|key| self.tasks.get(*key)).collect();
            tasks.sort_unstable_by(|a, b| a.id.cmp(&b.id));
            tasks.into_iter().map(|task| self.known(t, task)).collect()
        } else {
            asked.iter().filter_map(|asked| self.answer(t, framework, asked)).collect()
        };
        for status in statuses {
            self.send_update(t, framework, status);
        }
    }

    /// The state of a known task: the one its framework was sent last, so that a newer update still comes as news.
    fn known(&self, t: &Turn<'_>, task: &Task) -> TaskStatus {
        let state = task.sent.map_or(task.state, |(state, _)| state);
        let last = task.last_status();
        let mut status = self.master_status(
            t.now,
            task,
            state,
            Reason::Reconciliation,
            "Reconciliation: Latest task state",
        );
        if let Some(last) = last {
            status.healthy = last.healthy;
            status.check_status = last.check_status;
            status.labels = last.labels;
            status.container_status = last.container_status;
        }
        status
    }

    fn answer(&self, t: &Turn<'_>, framework: FrameworkKey, asked: &Asked) -> Option<TaskStatus> {
        if let Some((_, task)) = self.task_of(framework, &asked.task_id.value) {
            return Some(self.known(t, task));
        }
        let record = self.frameworks.get(&framework)?;
        let aware = record.abilities.partition_aware;
        let says = |state: TaskState, message: &str| {
            let state = if aware { state } else { TaskState::TaskLost };
            let mut status =
                plain_status(t.now, &asked.task_id.value, state, Reason::Reconciliation, message);
            status.agent_id.clone_from(&asked.agent_id);
            status
        };
        if let Some(task) = record.unreachable.get(asked.task_id.value.as_str()) {
            let mut status = says(TaskState::TaskUnreachable, "Reconciliation: Task is unreachable");
            status.agent_id = Some(agent_id(&task.agent_id));
            status.unreachable_time = self.unreachable_time(&task.agent_id);
            return Some(status);
        }
        let Some(agent) = asked.agent_id.as_ref().map(|id| id.value.as_str()) else {
            // Whoever has not come back yet may have it: no answer is better than a wrong one.
            return (self.recovering == 0)
                .then(|| says(TaskState::TaskUnknown, "Reconciliation: Task is unknown"));
        };
        if self.agent_keys.contains_key(agent) {
            return Some(says(TaskState::TaskGone, "Reconciliation: Task is unknown to the agent"));
        }
        match self.absent.get(agent).map(|absent| absent.why) {
            Some(Absence::Recovered) => None,
            Some(Absence::Unreachable(_)) => {
                let mut status = says(TaskState::TaskUnreachable, "Reconciliation: Agent is unreachable");
                status.unreachable_time = self.unreachable_time(agent);
                Some(status)
            }
            Some(Absence::Gone(_)) => {
                Some(says(TaskState::TaskGoneByOperator, "Reconciliation: Task is gone by operator"))
            }
            None => Some(says(TaskState::TaskUnknown, "Reconciliation: Task is unknown")),
        }
    }

    fn unreachable_time(&self, agent: &str) -> Option<TimeInfo> {
        match self.absent.get(agent)?.why {
            Absence::Unreachable(at) => Some(TimeInfo { nanoseconds: at.as_nanos() }),
            Absence::Recovered | Absence::Gone(_) => None,
        }
    }
}
