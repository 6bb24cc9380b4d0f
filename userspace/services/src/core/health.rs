//! What is told about health: which checks there are, what they find, and what comes of it. The checks themselves run on the agents.
//!
//! A version's checks count as there from the moment when it is wanted until it is not and nothing runs of it. Pods have health, and no
//! checks that anybody is told of, as in Marathon.

use plenum_api::Now;
use serde_json::json;

use super::app::HealthCheck;
use super::definition::Definition;
use super::id::PathId;
use super::instance::{Instance, State, Status, Task};
use super::notices::{self, notice};
use super::{Core, Entry, Notice};

/// What `unhealthy_instance_kill_event` was called once. Sent to those alone who ask for it by this name.
pub(super) const UNHEALTHY_TASK_KILL: &str = "unhealthy_task_kill_event";

/// An instance and one of its tasks before a status was taken in.
pub(super) struct Before {
    /// The task's state.
    pub(super) task: Option<State>,
    /// Whether its check had passed.
    pub(super) alive: bool,
    /// The instance's state.
    pub(super) state: Option<State>,
    /// Health of the whole.
    pub(super) healthy: Option<bool>,
}

impl Before {
    pub(super) fn of(instance: &Instance, container: &str) -> Self {
        let task = instance.tasks.iter().find(|task| task.name == container);
        Self {
            task: task.and_then(|task| task.state),
            alive: task.is_some_and(|task| task.healthy == Some(true)),
            state: instance.state(),
            healthy: instance.healthy(),
        }
    }
}

/// All that is told of a status that was taken in.
pub(super) fn told(
    instance: &Instance,
    definition: &Definition,
    (container, before): (&str, &Before),
    status: &Status,
    now: Now,
) -> Vec<Notice> {
    let mut out = Vec::new();
    if before.task != Some(status.state) {
        out.push(notices::status_update(instance, status, now));
    }
    if let Some(state) = instance.state().filter(|state| before.state != Some(*state)) {
        out.push(notices::instance_changed(instance, state.condition(), now));
    }
    let task = instance.tasks.iter().find(|task| task.name == container);
    if let (Some(task), Some(check)) = (task, definition.app().and_then(|app| app.health_checks.first())) {
        findings(instance, task, check, before, status, now, &mut out);
    }
    if instance.healthy() != before.healthy {
        let record = &instance.record;
        let fields = json!({
            "instanceId": record.id,
            "runSpecId": record.app,
            "runSpecVersion": record.version,
            "healthy": instance.healthy(),
        });
        out.push(notice("instance_health_changed_event", fields, now));
    }
    out
}

fn findings(
    instance: &Instance,
    task: &Task,
    check: &HealthCheck,
    before: &Before,
    status: &Status,
    now: Now,
    out: &mut Vec<Notice>,
) {
    let record = &instance.record;
    // What reconciliation repeats is no new finding, and has no id to be acknowledged by.
    let found = status.uuid.is_some() && status.state == State::Running;
    if found && status.healthy == Some(false) {
        let fields =
            json!({"appId": record.app, "taskId": record.id, "instanceId": record.id, "healthCheck": check});
        out.push(notice("failed_health_check_event", fields, now));
    }
    if is_killed_for(instance, before, status) {
        let fields = json!({
            "appId": record.app,
            "taskId": status.task,
            "instanceId": record.id,
            "version": record.version,
            "reason": task.sick.as_deref().unwrap_or("unknown"),
            "host": record.location.host,
            "slaveId": record.agent,
        });
        for kind in ["unhealthy_instance_kill_event", UNHEALTHY_TASK_KILL] {
            out.push(notice(kind, fields.clone(), now));
        }
    }
    let alive = task.healthy == Some(true);
    if status.healthy.is_some() && alive != before.alive {
        let fields = json!({
            "appId": record.app,
            "instanceId": record.id,
            "taskId": status.task,
            "version": record.version,
            "alive": alive,
        });
        out.push(notice("health_status_changed_event", fields, now));
    }
}

/// Whether this is the beginning of an end that its health check, and nobody else, brings upon an instance.
fn is_killed_for(instance: &Instance, before: &Before, status: &Status) -> bool {
    let begins =
        matches!(status.state, State::Killing | State::Killed) && before.task != Some(State::Killing);
    begins && status.healthy == Some(false) && instance.is_wanted() && !status.is_nodes_fault()
}

impl Entry {
    fn checks_of(&self, version: &str) -> &[HealthCheck] {
        let definition = self.versions.get(version).and_then(|definition| definition.app());
        definition.map_or(&[], |app| &app.health_checks)
    }

    /// Events about the end of a version's checks; none while it is wanted or something runs of it.
    fn removed_checks(&self, version: &str, now: Now) -> Vec<Notice> {
        let checks = self.checks_of(version);
        let runs = || self.instances.values().any(|instance| instance.record.version == version);
        if checks.is_empty() || self.wanted.version() == version || runs() {
            return Vec::new();
        }
        checks.iter().map(|_| removed(self.wanted.id(), now)).collect()
    }

    /// Those about all that are left when the app is gone.
    pub(super) fn last_checks(&self, now: Now) -> Vec<Notice> {
        self.checks_of(self.wanted.version()).iter().map(|_| removed(self.wanted.id(), now)).collect()
    }
}

fn removed(app: &PathId, now: Now) -> Notice {
    notice("remove_health_check_event", json!({"appId": app}), now)
}

impl Core {
    /// Tells of the checks that come with the version `new` of an app, and of those that go with the one before.
    pub(super) fn tell_checks(&mut self, app: &PathId, new: &str, before: Option<&str>, now: Now) {
        let Some(entry) = self.state.apps.get(app).filter(|entry| entry.wanted.version() == new) else {
            return;
        };
        let added = |check: &HealthCheck| {
            let fields = json!({"appId": app, "version": new, "healthCheck": check});
            notice("add_health_check_event", fields, now)
        };
        let mut told: Vec<Notice> = entry.checks_of(new).iter().map(added).collect();
        told.extend(before.into_iter().flat_map(|before| entry.removed_checks(before, now)));
        told.into_iter().for_each(|notice| self.publish(notice));
    }

    /// Tells of the checks that went with the last instance of a version.
    pub(super) fn tell_gone(&mut self, app: &PathId, version: &str, now: Now) {
        let told = self.state.apps.get(app).map(|entry| entry.removed_checks(version, now));
        told.into_iter().flatten().for_each(|notice| self.publish(notice));
    }
}
