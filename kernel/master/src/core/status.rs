//! Status updates: from agents to frameworks, acknowledgements back, updates of the master's own; the end of a task's record.
//!
//! Owns `tasks`: release of what a task holds, and moving ended tasks to the framework's history.

use std::sync::Arc;

use bytes::Bytes;
use plenum_api::internal::{self, StatusUpdate, master_message::Kind};
use plenum_api::mesos::{self, TaskState, TaskStatus, task_status};
use plenum_api::scheduler::{self, call};
use plenum_api::{Now, mesos::task_status::Reason};

use super::lookup::{agent_id, event, framework_id, task_id};
use super::state::{AgentKey, FrameworkKey, Task, TaskKey, is_terminal};
use super::{Master, Turn};

impl Master {
    /// A task changed. The update goes to the framework as it is; the record follows the newest state.
    pub(super) fn status_update(&mut self, t: &mut Turn<'_>, agent_key: AgentKey, update: StatusUpdate) {
        self.metrics.count("master/messages_status_update");
        let Some(agent) = self.agents.get(agent_key) else { return };
        let mut status = update.status;
        // An agent speaks for itself only.
        status.agent_id = Some(agent_id(&agent.id));
        if status.executor_id.is_none() {
            status.executor_id = update.executor_id;
        }
        let uuid = match &status.uuid {
            None => None,
            Some(uuid) => match <[u8; 16]>::try_from(&uuid[..]) {
                Ok(uuid) => Some(uuid),
                Err(_) => {
                    t.warn(format!(
                        "agent {} sent an update of task {} whose uuid is not 16 bytes",
                        agent.id, status.task_id
                    ));
                    self.metrics.count("master/invalid_status_updates");
                    return;
                }
            },
        };
        let Some(state) = TaskState::try_from(status.state).ok() else { return };
        let latest = update.latest_state.and_then(|s| TaskState::try_from(s).ok()).unwrap_or(state);
        let Some(framework) = self.framework_key(&update.framework_id.value) else {
            self.update_of_dead_framework(t, agent_key, &update.framework_id.value, &status, latest);
            return;
        };
        self.metrics.count("master/valid_status_updates");
        let task = self
            .task_of(framework, &status.task_id.value)
            .filter(|(_, task)| task.agent == agent_key)
            .map(|(key, _)| key);
        if let Some(task) = task {
            self.take_status(t, task, &status, state, latest, uuid);
        }
        let mut update = event(scheduler::event::Type::Update);
        update.update = Some(scheduler::event::Update { status });
        self.send(t, framework, update);
    }

    /// Brings a task's record up to date.
    fn take_status(
        &mut self,
        t: &mut Turn<'_>,
        key: TaskKey,
        status: &TaskStatus,
        state: TaskState,
        latest: TaskState,
        uuid: Option<[u8; 16]>,
    ) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let was = task.state;
        if !is_terminal(was) {
            task.state = latest;
        }
        let fresh = task.push_status(status);
        if let Some(uuid) = uuid {
            task.sent = Some((state, uuid));
        }
        let ended = !is_terminal(was) && is_terminal(latest);
        if ended {
            self.count_end(latest);
            self.release_task(key);
            self.allocate_soon(t);
        }
        let checked = [Reason::TaskCheckStatusUpdated as i32, Reason::TaskHealthCheckStatusUpdated as i32];
        if (fresh || status.reason.is_some_and(|reason| checked.contains(&reason)))
            && let Some(task) = self.tasks.get(key).cloned()
        {
            self.publish_task_updated(t, &task, status);
        }
        if uuid.is_none() && is_terminal(state) {
            self.complete_task(key);
        }
        self.touch();
    }

    /// Updates of a dead framework's tasks: nobody will acknowledge them, so the master does, and takes the resources back.
    fn update_of_dead_framework(
        &mut self,
        t: &mut Turn<'_>,
        agent: AgentKey,
        framework: &str,
        status: &TaskStatus,
        latest: TaskState,
    ) {
        if let Some(uuid) = &status.uuid {
            self.acknowledge_to(t, agent, framework, status.task_id.clone(), uuid.clone());
        }
        if !is_terminal(latest) {
            return;
        }
        let Some(record) = self.agents.get(agent) else { return };
        let orphan = record.tasks.iter().copied().find(|key| {
            self.tasks
                .get(*key)
                .is_some_and(|task| *task.id == *status.task_id.value && *task.framework_id == *framework)
        });
        if let Some(orphan) = orphan {
            self.forget_task(orphan);
            self.allocate_soon(t);
        }
    }

    /// ACKNOWLEDGE: the framework has the update; the agent may send the next one.
    pub(super) fn acknowledge(
        &mut self,
        t: &mut Turn<'_>,
        framework: FrameworkKey,
        acknowledge: call::Acknowledge,
    ) {
        self.metrics.count("master/messages_status_update_acknowledgement");
        let Ok(uuid) = <[u8; 16]>::try_from(&acknowledge.uuid[..]) else { return };
        let Some((agent, _)) = self.agent_by_id(&acknowledge.agent_id.value) else {
            self.metrics.count("master/invalid_status_update_acknowledgements");
            return;
        };
        self.metrics.count("master/valid_status_update_acknowledgements");
        let known =
            self.task_of(framework, &acknowledge.task_id.value).filter(|(_, task)| task.agent == agent);
        if let Some((key, task)) = known
            && task.sent.is_some_and(|(state, sent)| sent == uuid && is_terminal(state))
        {
            self.complete_task(key);
        }
        let Some(id) = self.frameworks.get(&framework).map(|f| Arc::clone(&f.id)) else { return };
        self.acknowledge_to(t, agent, &id, acknowledge.task_id, acknowledge.uuid);
    }

    fn acknowledge_to(
        &self,
        t: &mut Turn<'_>,
        agent: AgentKey,
        framework: &str,
        task_id: mesos::TaskId,
        uuid: Bytes,
    ) {
        let message = internal::AcknowledgeStatus { framework_id: framework_id(framework), task_id, uuid };
        self.tell(t, agent, Kind::AcknowledgeStatus(message));
    }

    /// Gives back what a task holds, once.
    pub(super) fn release_task(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get_mut(key).filter(|task| task.held) else { return };
        task.held = false;
        let (framework, agent, resources) =
            (Arc::clone(&task.framework_id), Arc::clone(&task.agent_id), task.resources());
        self.ledger.release(&framework, &agent, &resources);
    }

    /// Takes a task out of every table, and gives back what it may still hold.
    pub(super) fn forget_task(&mut self, key: TaskKey) -> Option<Arc<Task>> {
        self.release_task(key);
        let task = self.tasks.remove(key)?;
        if let Some(agent) = self.agents.get_mut(task.agent) {
            agent.tasks.remove(&key);
            if agent.life.is_draining() {
                self.emptied.insert(task.agent);
            }
        }
        if let Some(framework) = self.frameworks.get_mut(&task.framework)
            && framework.tasks.get(&task.id) == Some(&key)
        {
            framework.tasks.remove(&task.id);
        }
        self.touch();
        Some(task)
    }

    /// Moves an ended task to its framework's history.
    pub(super) fn complete_task(&mut self, key: TaskKey) {
        let keep = self.settings.completed_tasks;
        let Some(task) = self.forget_task(key) else { return };
        let framework = task.framework;
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            framework.complete(task, keep);
        }
        self.touch_framework(framework);
    }

    /// A status that the master itself states about a task. It has no uuid: it is not acknowledged.
    pub(super) fn master_status(
        &self,
        now: Now,
        task: &Task,
        state: TaskState,
        reason: Reason,
        message: &str,
    ) -> TaskStatus {
        let mut status = plain_status(now, &task.id, state, reason, message);
        status.agent_id = Some(agent_id(&task.agent_id));
        status.executor_id = task.executor();
        status
    }

    /// Sends a status of the master's own to a framework.
    pub(super) fn send_update(&self, t: &mut Turn<'_>, framework: FrameworkKey, status: TaskStatus) {
        let mut update = event(scheduler::event::Type::Update);
        update.update = Some(scheduler::event::Update { status });
        self.send(t, framework, update);
    }

    pub(super) fn count_end(&mut self, state: TaskState) {
        let name = match state {
            TaskState::TaskFinished => "master/tasks_finished",
            TaskState::TaskFailed => "master/tasks_failed",
            TaskState::TaskKilled => "master/tasks_killed",
            TaskState::TaskLost => "master/tasks_lost",
            TaskState::TaskError => "master/tasks_error",
            TaskState::TaskDropped => "master/tasks_dropped",
            TaskState::TaskGone => "master/tasks_gone",
            TaskState::TaskGoneByOperator => "master/tasks_gone_by_operator",
            _ => return,
        };
        self.metrics.count(name);
    }
}

/// A status about a task that may be unknown.
pub(super) fn plain_status(
    now: Now,
    task: &str,
    state: TaskState,
    reason: Reason,
    message: &str,
) -> TaskStatus {
    TaskStatus {
        task_id: task_id(task),
        state: state as i32,
        source: Some(task_status::Source::Master as i32),
        reason: Some(reason as i32),
        message: Some(message.to_owned()),
        timestamp: Some(now.wall.as_secs_f64()),
        ..Default::default()
    }
}
