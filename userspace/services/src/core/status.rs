//! What happened to tasks: ours, those we gave up, and those nobody knows. An update is acknowledged after everything
//! that must be durable about it stands before it in the effects.

use plenum_api::{Millis, Now};
use serde_json::json;

use super::id::{AppId, InstanceId};
use super::instance::{Goal, Instance, Record, State, Status};
use super::{Backoff, Core, Effect, Entry, Stranger, notices, records, time};

/// An instance that ran for so long starts the delay over when it fails.
const SETTLED: Millis = Millis::from_secs(60);

impl Core {
    pub(super) fn status(&mut self, status: Status, now: Now) {
        let instance = InstanceId::of_task(&status.task);
        let app = instance.as_ref().and_then(|i| self.index.get(i)).cloned();
        match (instance, app) {
            (Some(instance), Some(app)) if status.state.is_terminal() => {
                self.ended(&app, &instance, &status, now)
            }
            (Some(instance), Some(app)) => self.observed(&app, &instance, &status, now),
            (Some(instance), None) if self.ghosts.contains_key(&instance) => {
                self.ghost(&instance, &status, now)
            }
            _ => self.stranger(&status, now),
        }
        if let (Some(uuid), Some(agent)) = (status.uuid, status.agent) {
            self.out.push(Effect::Acknowledge { task: status.task, agent, uuid });
        }
    }

    fn ended(&mut self, app: &AppId, id: &InstanceId, status: &Status, now: Now) {
        let Some(entry) = self.apps.get_mut(app) else { return };
        let Some(mut instance) = entry.instances.remove(id) else { return };
        self.index.remove(id);
        let staged = instance.state == Some(State::Staging);
        instance.healthy = status.healthy.or(instance.healthy);
        if instance.is_wanted() {
            entry.note_failure(&instance, status, now);
            entry.back_off(&instance, status, now);
        }
        self.dirty.insert(app.clone());
        if staged && matches!(status.state, State::Lost | State::Unknown) {
            // Should the launch be on its way in spite of that, it must not run unknown to us.
            let (task, agent) = instance.record.task_and_agent();
            self.out.push(Effect::Kill { task, agent, grace: None });
        }
        self.commit(vec![records::delete_instance(&instance.record)]);
        self.publish(notices::status_update(&instance, status, now));
        self.publish(notices::instance_changed(&instance, status.state.condition(), now));
    }

    fn observed(&mut self, app: &AppId, id: &InstanceId, status: &Status, now: Now) {
        let Some(instance) = self.apps.get_mut(app).and_then(|e| e.instances.get_mut(id)) else { return };
        let changed = instance.state != Some(status.state);
        if changed {
            instance.since = now.mono;
        }
        instance.state = Some(status.state);
        if status.state == State::Running {
            instance.started.get_or_insert(now.wall);
        }
        if !status.addresses.is_empty() {
            instance.addresses.clone_from(&status.addresses);
        }
        if status.check.is_some() {
            instance.check.clone_from(&status.check);
        }
        let health = status.healthy.filter(|h| instance.healthy != Some(*h));
        if let Some(healthy) = status.healthy {
            instance.note_health(healthy, now);
        }
        let mut news = Vec::new();
        if changed {
            news.push(notices::status_update(instance, status, now));
            news.push(notices::instance_changed(instance, status.state.condition(), now));
        }
        if let Some(healthy) = health {
            news.extend(notices::health_changed(instance, healthy, now));
        }
        self.dirty.insert(app.clone());
        for notice in news {
            self.publish(notice);
        }
    }

    /// One that we gave up came back, or is finally known to have ended.
    fn ghost(&mut self, id: &InstanceId, status: &Status, now: Now) {
        if status.state.is_terminal() {
            self.lapsed.remove(id);
            if let Some(record) = self.ghosts.remove(id) {
                self.commit(vec![records::delete_instance(&record)]);
            }
        } else if status.state != State::Unreachable {
            if self.take_back(id, status, now) {
                return;
            }
            self.lapsed.remove(id);
            let (task, agent) = (status.task.clone(), status.agent.clone());
            self.out.push(Effect::Kill { task, agent, grace: None });
            // Should the kill get lost, the next comparison of views shows it.
            self.doubt(now);
        }
    }

    /// A ghost whose place nobody has taken yet has it again: ending what serves in order to launch the same would help nobody.
    fn take_back(&mut self, id: &InstanceId, status: &Status, now: Now) -> bool {
        if status.state != State::Running || !self.lapsed.contains(id) {
            return false;
        }
        let Some(record) = self.ghosts.get(id) else { return false };
        let app = record.app.clone();
        let Some(entry) = self.apps.get_mut(&app) else { return false };
        let fits = !entry.removing && record.config == entry.app.version_info.last_config_change_at;
        if !fits || entry.decide().missing == 0 {
            return false;
        }
        let record = Record { goal: Goal::Run, ..record.clone() };
        self.ghosts.remove(id);
        self.lapsed.remove(id);
        self.index.insert(id.clone(), app);
        let write = records::put_instance(&record);
        entry.missing = entry.missing.saturating_sub(1);
        entry.instances.insert(id.clone(), Instance::new(record.clone(), now.mono, false));
        self.commit(vec![write]);
        self.observed(&record.app, id, status, now);
        true
    }

    /// Nobody wrote it down. It is shown, and left alone until somebody decides.
    fn stranger(&mut self, status: &Status, now: Now) {
        if status.state.is_terminal() {
            self.strangers.remove(&status.task);
            let fields = json!({"instanceId": status.task, "condition": status.state.condition()});
            self.publish(notices::notice("unknown_instance_terminated_event", fields, now));
            return;
        }
        let (agent, state) = (status.agent.clone(), status.state);
        let stranger = self.strangers.entry(status.task.clone());
        stranger.or_insert(Stranger { agent, state, since: now.wall }).state = state;
    }
}

impl Status {
    /// Whether the node went, and the task with it: that says nothing about the app.
    fn is_nodes_fault(&self) -> bool {
        matches!(self.state, State::Gone | State::GoneByOperator)
            || self.reason.as_deref() == Some("REASON_AGENT_DRAINING")
    }
}

impl Instance {
    fn note_health(&mut self, healthy: bool, now: Now) {
        self.healthy = Some(healthy);
        if healthy {
            self.failures = 0;
            self.health_seen.0 = Some(now.wall);
            self.first_healthy.get_or_insert(now.wall);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.health_seen.1 = Some(now.wall);
        }
    }
}

impl Entry {
    fn note_failure(&mut self, instance: &Instance, status: &Status, now: Now) {
        if matches!(status.state, State::Finished | State::Killed) {
            return;
        }
        let record = &instance.record;
        self.last_failure = Some(json!({
            "appId": record.app,
            "host": record.location.host,
            "message": status.message,
            "state": status.state.name(),
            "taskId": status.task,
            "timestamp": time::text(now.wall),
            "version": record.version,
            "slaveId": record.agent,
        }));
    }

    /// Launches wait after an end that nobody asked for; longer after each, anew after a long run.
    fn back_off(&mut self, instance: &Instance, status: &Status, now: Now) {
        if status.state == State::Killed || status.is_nodes_fault() || instance.record.goal != Goal::Run {
            return;
        }
        let config = &self.app.version_info.last_config_change_at;
        if instance.record.config != *config {
            return;
        }
        let first = Millis::from_secs_f64(self.app.backoff_seconds);
        let most = Millis::from_secs_f64(self.app.max_launch_delay_seconds);
        let ran = instance.state == Some(State::Running) && now.mono.since(instance.since) >= SETTLED;
        let delay = match &self.backoff {
            Some(before) if before.config == *config && !ran => {
                // Several that fail together are one failure.
                if before.until > now.mono {
                    return;
                }
                Millis::from_secs_f64(before.delay.as_secs_f64() * self.app.backoff_factor)
            }
            _ => first,
        };
        let delay = delay.min(most);
        self.backoff = Some(Backoff { config: config.clone(), delay, until: now.mono + delay });
    }
}
