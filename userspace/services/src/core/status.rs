//! What happened to tasks: ours, those we gave up, and those nobody knows. An update is acknowledged after everything
//! that must be durable about it stands before it in the effects.

use plenum_api::{Millis, Now};
use serde_json::json;

use super::health::Before;
use super::id::{InstanceId, PathId};
use super::instance::{Goal, Instance, Record, State, Status, Task};
use super::{Backoff, Core, Effect, Entry, Notice, Stranger, Write, health, notices, records, time};

/// An instance that ran for so long starts the delay over when it fails.
const SETTLED: Millis = Millis::from_secs(60);

impl Core {
    pub(super) fn status(&mut self, status: Status, now: Now) {
        let whose = InstanceId::of_task(&status.task);
        match whose.map(|(id, container, launch)| (self.index.get(&id).cloned(), id, container, launch)) {
            Some((Some(app), id, ..)) if self.is_kept(&app, &id) => self.kept_heard(&status),
            Some((Some(app), id, container, launch)) => {
                let place = Place { app: &app, id: &id, container, launch };
                self.seen(&place, &status, now);
            }
            Some((None, id, ..)) if self.state.ghosts.contains_key(&id) => self.ghost(&id, &status, now),
            Some((None, id, ..)) if self.state.wiping.contains_key(&id) => {
                self.wiping_heard(&id, &status, now)
            }
            _ => self.stranger(&status, now),
        }
        if let (Some(uuid), Some(agent)) = (status.uuid, status.agent) {
            self.out.push(Effect::Acknowledge { task: status.task, agent, uuid });
        }
    }

    /// Something about a container of an instance that we know.
    fn seen(&mut self, place: &Place<'_>, status: &Status, now: Now) {
        let Some(entry) = self.state.apps.get_mut(place.app) else { return };
        let Some(instance) = entry.instances.get_mut(place.id) else { return };
        if instance.record.launches != place.launch || instance.task_mut(place.container).is_none() {
            // Of an earlier launch: it must not run beside the later one.
            if !status.state.is_terminal() {
                let (task, agent) = (status.task.clone(), status.agent.clone());
                self.out.push(Effect::Kill { task, agent, grace: None });
            }
            return;
        }
        let (before, since) = (Before::of(instance, place.container), instance.since);
        if before.task.is_some_and(State::is_final) {
            // The master forgets what has ended and was acknowledged. What it answers about it is no news.
            return;
        }
        let Some(task) = instance.task_mut(place.container) else { return };
        let health = task.note(status, now);
        let changed = before.task != Some(status.state);
        let state = instance.state();
        if state != before.state {
            instance.since = now.mono;
        }
        if changed || health {
            entry.moved = now.mono;
        }
        if state.is_some_and(State::is_terminal) {
            return self.ended(place, (&before, since), status, now);
        }
        let settled = instance_settled(entry, place.id);
        let news = entry.told(place, &before, status, now);
        self.commit(settled);
        let Some(entry) = self.state.apps.get_mut(place.app) else { return };
        // It takes the others with it, and what comes in their place must not wait for the end of the last.
        if changed
            && status.state.is_terminal()
            && !status.state.leaves_others()
            && let Some(instance) = entry.instances.get(place.id).cloned()
        {
            entry.note_failure(&instance.record, status, now);
            entry.back_off(&instance, (before.state, since), status, now);
        }
        self.pin(place.app, place.id, place.container, status);
        self.dirty.insert(place.app.clone());
        for notice in news {
            self.publish(notice);
        }
    }

    /// The last of an instance's containers ended. `before` is what was known of it, and since when it was in that state.
    fn ended(&mut self, place: &Place<'_>, (before, since): (&Before, Millis), status: &Status, now: Now) {
        let Some(entry) = self.state.apps.get_mut(place.app) else { return };
        let news = entry.told(place, before, status, now);
        let Some(instance) = entry.instances.remove(place.id) else { return };
        self.index.remove(place.id);
        if instance.is_wanted() {
            entry.note_failure(&instance.record, status, now);
            // One that failed before has set the delay already; one that did its work has not.
            let failed =
                |state: State| state.is_terminal() && state != State::Killed && !state.leaves_others();
            let mut others = instance.tasks.iter().filter(|task| task.name != place.container);
            if !others.any(|task| task.state.is_some_and(failed)) {
                entry.back_off(&instance, (before.state, since), status, now);
            }
        }
        self.dirty.insert(place.app.clone());
        if before.state == Some(State::Staging) && matches!(status.state, State::Lost | State::Unknown) {
            // Should the launch be on its way in spite of that, it must not run unknown to us.
            for (_, task) in instance.record.tasks() {
                let agent = Some(instance.record.agent.clone());
                self.out.push(Effect::Kill { task, agent, grace: None });
            }
        }
        let ended = instance.state().unwrap_or(status.state);
        let kept = self.keep(&instance, ended, now);
        let mut writes = vec![kept.unwrap_or_else(|| records::delete_instance(&instance.record))];
        writes.extend(self.remember_end(&instance, now));
        self.commit(writes);
        for notice in news {
            self.publish(notice);
        }
        self.tell_gone(place.app, &instance.record.version, now);
    }

    /// One that we gave up came back, or is finally known to have ended.
    fn ghost(&mut self, id: &InstanceId, status: &Status, now: Now) {
        if status.state.is_terminal() {
            if !self.has_ended(id, &status.task) {
                if !status.state.leaves_others() {
                    // It is coming to its end: nothing to be taken back.
                    self.lapsed.remove(id);
                }
                // Others of its containers may run: they have to be heard of as well.
                return self.doubt(now);
            }
            self.lapsed.remove(id);
            self.partly.remove(id);
            if let Some(record) = self.state.ghosts.remove(id) {
                let mut instance = Instance::new(record, now.mono, false);
                for task in &mut instance.tasks {
                    task.state = Some(status.state);
                    task.message.clone_from(&status.message);
                }
                let mut writes = vec![records::delete_instance(&instance.record)];
                writes.extend(self.remember_end(&instance, now));
                self.commit(writes);
                self.publish(notices::status_update(&instance, status, now));
                self.publish(notices::instance_changed(&instance, status.state.condition(), now));
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

    /// Notes that one of a ghost's containers has ended. Says whether that was the last of them.
    fn has_ended(&mut self, id: &InstanceId, task: &str) -> bool {
        let Some(record) = self.state.ghosts.get(id) else { return true };
        let Some((_, container, _)) = InstanceId::of_task(task) else { return false };
        let ended = self.partly.entry(id.clone()).or_default();
        ended.insert(container.to_owned());
        record.tasks().all(|(name, _)| ended.contains(name))
    }

    /// A ghost whose place nobody has taken yet has it again: ending what serves in order to launch the same would help nobody.
    fn take_back(&mut self, id: &InstanceId, status: &Status, now: Now) -> bool {
        if status.state != State::Running || !self.lapsed.contains(id) {
            return false;
        }
        let Some(record) = self.state.ghosts.get(id) else { return false };
        let app = record.app.clone();
        let Some(entry) = self.state.apps.get_mut(&app) else { return false };
        let fits = !entry.removing && record.config == entry.wanted.config();
        if !fits || entry.decide().missing == 0 {
            return false;
        }
        let record = Record { goal: Goal::Run, ..record.clone() };
        self.state.ghosts.remove(id);
        self.lapsed.remove(id);
        self.partly.remove(id);
        self.index.insert(id.clone(), app);
        let write = records::put_instance(&record);
        entry.missing = entry.missing.saturating_sub(1);
        entry.instances.insert(id.clone(), Instance::new(record.clone(), now.mono, false));
        self.commit(vec![write]);
        if !record.containers.is_empty() {
            // Of containers that have ended nobody says anything by himself.
            self.doubt(now);
        }
        if let Some((_, container, launch)) = InstanceId::of_task(&status.task) {
            self.seen(&Place { app: &record.app, id, container, launch }, status, now);
        }
        true
    }

    /// Nobody wrote it down. It is shown, and left alone until somebody decides.
    fn stranger(&mut self, status: &Status, now: Now) {
        if status.state.is_terminal() {
            self.state.strangers.remove(&status.task);
            self.publish(notices::unknown_terminated(&status.task, status.state.condition(), now));
            return;
        }
        if status.state == State::Unreachable && !self.state.strangers.contains_key(&status.task) {
            // Its node is out of reach: that says nothing of whether there is such a task. If it runs, the node says so once it is back.
            return;
        }
        let (agent, state) = (status.agent.clone(), status.state);
        let fresh = || Stranger { agent, state, since: now.wall };
        if let Some(stranger) = self.state.strangers.entry(&status.task, fresh) {
            stranger.state = state;
        }
    }
}

impl Status {
    /// Whether the node went, and the task with it: that says nothing about the app.
    pub(super) fn is_nodes_fault(&self) -> bool {
        matches!(self.state, State::Gone | State::GoneByOperator)
            || self.reason.as_deref() == Some("REASON_AGENT_DRAINING")
    }
}

/// Something runs on an instance's volumes for the first time: that is written down.
fn instance_settled(entry: &mut Entry, id: &InstanceId) -> Vec<Write> {
    let first = |i: &Instance| {
        let runs = matches!(i.state(), Some(State::Starting | State::Running));
        i.record.is_resident() && !i.record.made && runs
    };
    if !entry.instances.get(id).is_some_and(first) {
        return Vec::new();
    }
    let Some(instance) = entry.instances.get_mut(id) else { return Vec::new() };
    instance.record.made = true;
    vec![records::put_instance(&instance.record)]
}

/// Which container of which instance.
struct Place<'a> {
    app: &'a PathId,
    id: &'a InstanceId,
    container: &'a str,
    launch: u32,
}

impl Task {
    /// Takes in what was observed. Says whether its health changed.
    fn note(&mut self, status: &Status, now: Now) -> bool {
        if self.state != Some(status.state) {
            self.since = now.wall;
        }
        self.state = Some(status.state);
        if status.state == State::Running {
            self.started.get_or_insert(now.wall);
        }
        if status.state.is_terminal() {
            self.message.clone_from(&status.message);
        }
        if !status.addresses.is_empty() {
            self.addresses.clone_from(&status.addresses);
        }
        if status.check.is_some() {
            self.check.clone_from(&status.check);
        }
        let changed = status.healthy.is_some_and(|healthy| self.healthy != Some(healthy));
        if let Some(healthy) = status.healthy {
            self.note_health(healthy, now);
        }
        if status.healthy == Some(false) && status.state == State::Running && !status.message.is_empty() {
            self.sick = Some(status.message.as_str().into());
        }
        changed
    }

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
    /// What is told of a status that was taken in.
    fn told(&self, place: &Place<'_>, before: &Before, status: &Status, now: Now) -> Vec<Notice> {
        let Some(instance) = self.instances.get(place.id) else { return Vec::new() };
        let definition = self.versions.get(&instance.record.version).unwrap_or(&self.wanted);
        health::told(instance, definition, (place.container, before), status, now)
    }

    fn note_failure(&mut self, record: &Record, status: &Status, now: Now) {
        if matches!(status.state, State::Finished | State::Killed) {
            return;
        }
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
    fn back_off(&mut self, instance: &Instance, before: (Option<State>, Millis), status: &Status, now: Now) {
        if status.state == State::Killed || status.is_nodes_fault() || instance.record.goal != Goal::Run {
            return;
        }
        let config = self.wanted.config();
        if instance.record.config != config {
            return;
        }
        let delays = self.wanted.delays();
        let ran = before.0 == Some(State::Running) && now.mono.since(before.1) >= SETTLED;
        let delay = match &self.backoff {
            Some(before) if before.config == config && !ran => {
                // Several that fail together are one failure.
                if before.until > now.mono {
                    return;
                }
                Millis::from_secs_f64(before.delay.as_secs_f64() * delays.factor)
            }
            _ => delays.first,
        };
        let delay = delay.min(delays.most);
        self.backoff = Some(Backoff { config: config.to_owned(), delay, until: now.mono + delay });
    }
}
