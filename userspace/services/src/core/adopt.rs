//! Tasks of ours that nobody wrote down: after an older state of the store was restored, for instance. They are listed, and somebody decides:
//! they are ended (as any task is), or adopted: then they are instances of their app, as if it had launched them.
//!
//! What an adopted instance was launched from is not known. It counts as one of the app's present version, so nothing is replaced for being
//! adopted; its ports are not known either, and it is reached where its status says.

use std::sync::Arc;

use plenum_api::Now;
use serde_json::{Value, json};

use super::definition::ONLY;
use super::error::ApiError;
use super::id::{InstanceId, PathId};
use super::instance::{Goal, Instance, Record};
use super::requests::Reply;
use super::{Core, Effect, Entry, Snapshot, Stranger, records};

impl Snapshot {
    /// The app whose instance a task of ours was by its id, if there is such an app.
    pub fn app_of_stranger(&self, task: &str) -> Option<&Entry> {
        let (instance, container, _) = InstanceId::of_task(task)?;
        let (app, _) = instance.as_str().rsplit_once(".instance-")?;
        // Names have no underscores: in the ids of tasks these stand for slashes.
        let id = PathId::parse(&format!("/{}", app.replace('_', "/"))).ok()?;
        let entry = self.apps.get(&id)?;
        (container == ONLY && !entry.removing && entry.wanted.app().is_some()).then_some(entry)
    }
}

impl Core {
    /// Makes these tasks instances of their apps; all of them, or none.
    pub(super) fn adopt_tasks(&mut self, tasks: &[String], now: Now) -> Result<Reply, ApiError> {
        let mut records: Vec<Record> = Vec::new();
        for task in tasks {
            let record = self.adopted(task)?;
            if !records.iter().any(|other| other.id == record.id) {
                records.push(record);
            }
        }
        let writes = records.iter().map(records::put_instance).collect();
        self.commit(writes);
        let mut asked = Vec::new();
        let shown: Vec<Value> = records
            .iter()
            .map(|r| json!({"id": r.id, "appId": r.app, "slaveId": r.agent, "host": r.location.host}))
            .collect();
        for record in records {
            let (id, app) = (record.id.clone(), record.app.clone());
            for (_, task) in record.tasks() {
                self.state.strangers.remove(&task);
                asked.push((task, Some(record.agent.clone())));
            }
            self.index.insert(id.clone(), app.clone());
            if let Some(entry) = self.state.apps.get_mut(&app) {
                entry.instances.insert(id, Instance::new(record, now.mono, false));
            }
            self.dirty.insert(app);
        }
        // How they are the master says.
        if !asked.is_empty() {
            self.out.push(Effect::Reconcile(asked));
        }
        Ok(Reply { status: 200, body: Some(json!({"adopted": shown})), deployment: None, location: None })
    }

    fn adopted(&self, task: &str) -> Result<Record, ApiError> {
        let stranger: &Stranger = self.state.strangers.get(task).ok_or_else(|| {
            ApiError::NotFound(format!("No task '{task}' is unknown: see /v2/tasks/unknown"))
        })?;
        let cannot = |why: &str| Err(ApiError::Conflict(format!("Task '{task}' cannot be adopted: {why}")));
        let Some(entry) = self.state.app_of_stranger(task) else {
            return cannot("there is no app that it could belong to");
        };
        let Some((id, _, launches)) = InstanceId::of_task(task) else {
            return cannot("there is no app that it could belong to");
        };
        if entry.wanted.is_resident() {
            return cannot("which volumes it has is not known");
        }
        let Some((agent, location)) =
            stranger.agent.as_ref().and_then(|agent| Some((agent, self.places.get(agent)?)))
        else {
            return cannot("its node has not offered anything yet: try again once it has");
        };
        Ok(Record {
            f: records::FORMAT,
            id,
            app: entry.wanted.id().clone(),
            version: entry.wanted.version().to_owned(),
            config: entry.wanted.config().to_owned(),
            created: stranger.since,
            agent: agent.clone(),
            location: Arc::clone(location),
            role: entry.wanted.role().to_owned(),
            host_ports: Vec::new(),
            goal: Goal::Run,
            containers: Vec::new(),
            launches,
            volumes: Vec::new(),
            made: false,
        })
    }
}
