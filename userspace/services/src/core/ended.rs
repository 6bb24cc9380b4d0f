//! Instances that have ended: where they ran and why they are no more, so that what they printed is found as long as their node keeps it. Of each app
//! and pod the last few are remembered, those that somebody asked to end apart from those that did not; for a set time; also when the app is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_api::{Millis, Now};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::definition::ONLY;
use super::id::{InstanceId, PathId};
use super::instance::{Instance, State};
use super::shared::Touch;
use super::{Core, Snapshot, Write, records, time};

/// How it is stored: by app and instance.
pub(super) const PREFIX: &str = "ended/";

/// One that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Format number.
    f: u32,
    /// Its id.
    pub id: InstanceId,
    /// Which launch of it: one with volumes has several ends.
    #[serde(default)]
    launch: u32,
    /// Whose it was.
    pub app: PathId,
    /// The version it was launched from.
    pub version: String,
    /// The node's id.
    pub agent: String,
    /// The node's name.
    pub host: String,
    /// When it was launched (time of day).
    pub staged: Millis,
    /// When it began to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Millis>,
    /// When it ended.
    pub ended: Millis,
    /// Whether it was asked to.
    pub asked: bool,
    /// Its tasks.
    pub tasks: Vec<EndedTask>,
}

/// A task of such an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedTask {
    /// Its id.
    pub id: String,
    /// The container's name; [`ONLY`] of an app.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// Its last state, in Mesos' words.
    pub state: String,
    /// What was said with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Those of one app, the oldest first.
pub type Past = Vec<Arc<Ended>>;

impl Touch for Past {}

impl Ended {
    fn of(instance: &Instance, now: Now) -> Self {
        let record = &instance.record;
        let ids: BTreeMap<&str, String> = record.tasks().collect();
        let tasks = instance.tasks.iter().map(|task| EndedTask {
            id: ids.get(task.name.as_str()).cloned().unwrap_or_default(),
            container: task.name.clone(),
            state: task.state.map_or("TASK_UNKNOWN", State::name).to_owned(),
            message: task.message.clone(),
        });
        Self {
            f: records::FORMAT,
            id: record.id.clone(),
            launch: record.launches,
            app: record.app.clone(),
            version: record.version.clone(),
            agent: record.agent.clone(),
            host: record.location.host.clone(),
            staged: instance.staged,
            started: instance.started(),
            ended: now.wall,
            asked: !instance.is_wanted(),
            tasks: tasks.collect(),
        }
    }

    fn key(&self) -> String {
        format!("{PREFIX}{}/{}", self.app.key(), self.name())
    }

    fn name(&self) -> String {
        format!("{}.{}", self.id, self.launch)
    }

    /// As `GET /v2/apps/<id>/ended` shows it.
    fn to_json(&self) -> Value {
        let task = |task: &EndedTask| {
            let mut out = json!({"id": task.id, "state": task.state, "message": task.message});
            if task.container != ONLY {
                out["container"] = Value::from(task.container.as_str());
            }
            out
        };
        json!({
            "instanceId": self.id,
            "version": self.version,
            "host": self.host,
            "slaveId": self.agent,
            "stagedAt": time::text(self.staged),
            "startedAt": self.started.map(time::text),
            "endedAt": time::text(self.ended),
            "asked": self.asked,
            "tasks": self.tasks.iter().map(task).collect::<Vec<_>>(),
        })
    }

    /// As an item of a pod's `terminationHistory`.
    fn termination(&self) -> Value {
        let container = |task: &EndedTask| {
            let mut out = json!({"containerId": task.id, "lastKnownState": task.state});
            if let Some(termination) = termination(&task.state, &task.message) {
                out["termination"] = termination;
            }
            out
        };
        let mut out = json!({
            "instanceID": self.id,
            "startedAt": time::text(self.started.unwrap_or(self.staged)),
            "terminatedAt": time::text(self.ended),
            "containers": self.tasks.iter().map(container).collect::<Vec<_>>(),
        });
        if let Some(first) = self.tasks.iter().find(|task| !task.message.is_empty()) {
            out["message"] = Value::from(first.message.as_str());
        }
        out
    }
}

/// How a container ended, as pods show it: with its exit code where that is known. Nothing where nothing is.
pub(super) fn termination(state: &str, message: &str) -> Option<Value> {
    let said = message.strip_prefix("Command exited with status ");
    let digits = said.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
    let code = match digits.and_then(|digits| digits.parse::<u32>().ok()) {
        None if state == State::Finished.name() => Some(0),
        code => code,
    };
    let mut out = serde_json::Map::new();
    out.extend(code.map(|code| ("exitCode".to_owned(), Value::from(code))));
    out.extend((!message.is_empty()).then(|| ("message".to_owned(), Value::from(message))));
    (!out.is_empty()).then_some(Value::Object(out))
}

impl Snapshot {
    /// What ended of an app or a pod and is remembered, the last one first; none where nobody knows the id.
    pub fn ended_of(&self, id: &PathId, now: Now) -> Option<Value> {
        let past = self.ended.get(id);
        if past.is_none() && self.entry(id).is_none() {
            return None;
        }
        let young = |one: &&Arc<Ended>| now.wall.since(one.ended) <= self.settings.ended_for;
        let all = past.into_iter().flatten().rev().filter(young);
        Some(json!({"ended": all.map(|one| one.to_json()).collect::<Vec<_>>()}))
    }

    /// What ended of a pod, the last one first.
    pub(super) fn terminations(&self, id: &PathId) -> Vec<Value> {
        self.ended.get(id).into_iter().flatten().rev().map(|one| one.termination()).collect()
    }
}

impl Core {
    /// Remembers an instance that has ended, and forgets others for it. Gives what is to be written.
    pub(super) fn remember_end(&mut self, instance: &Instance, now: Now) -> Vec<Write> {
        let one = Arc::new(Ended::of(instance, now));
        let mut writes = vec![records::put(one.key(), &*one)];
        let mut forgotten = self.keep_ended(one);
        let (long, most) = (self.state.settings.ended_for, self.state.settings.ended_most);
        while let Some((at, name, app)) = self.ended_order.first().cloned()
            && (now.wall.since(at) > long || self.ended_order.len() > most)
        {
            forgotten.extend(self.forget_ended(&app, &name));
        }
        writes.extend(forgotten.iter().map(|one| Write::Delete(one.key())));
        writes
    }

    /// Puts one among those of its app; gives the one that has to go for it.
    pub(super) fn keep_ended(&mut self, one: Arc<Ended>) -> Vec<Arc<Ended>> {
        let (app, most) = (one.app.clone(), self.state.settings.ended_each);
        self.ended_order.insert((one.ended, one.name(), app.clone()));
        let Some(past) = self.state.ended.entry(&app, Vec::new) else { return Vec::new() };
        let like = |other: &&Arc<Ended>| other.asked == one.asked;
        let at = past.iter().take_while(|other| other.ended <= one.ended).count();
        past.insert(at, Arc::clone(&one));
        let oldest = past.iter().find(like).filter(|_| past.iter().filter(like).count() > most).cloned();
        oldest.into_iter().filter_map(|oldest| self.forget_ended(&app, &oldest.name())).collect()
    }

    fn forget_ended(&mut self, app: &PathId, name: &str) -> Option<Arc<Ended>> {
        let past = self.state.ended.get_mut(app)?;
        let at = past.iter().position(|one| one.name() == name)?;
        let one = past.remove(at);
        if past.is_empty() {
            self.state.ended.remove(app);
        }
        self.ended_order.remove(&(one.ended, one.name(), one.app.clone()));
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_where_they_are_known() {
        let of = termination;
        assert_eq!(of("TASK_FINISHED", ""), Some(json!({"exitCode": 0})));
        let said = "Command exited with status 3; the log has more";
        assert_eq!(of("TASK_FAILED", said), Some(json!({"exitCode": 3, "message": said})));
        let killed = "Command terminated with signal Killed";
        assert_eq!(of("TASK_KILLED", killed), Some(json!({"message": killed})));
        assert_eq!(of("TASK_LOST", ""), None);
    }
}
