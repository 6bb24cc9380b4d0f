//! What people want of pods. Answers and their statuses are those of Marathon's `/v2/pods`.

use plenum_api::{IdSource, Now};
use serde_json::{Map, Value, json};

use super::error::{ApiError, Flaw};
use super::id::{InstanceId, PathId};
use super::intake::body_id;
use super::requests::{Reply, Request, Target, Targets};
use super::{Core, notices, view};

/// A change of a pod.
#[derive(Clone, Debug)]
pub enum PodChange {
    /// A new one.
    Create(Map<String, Value>),
    /// Another definition of one; a new one if there is none.
    Update(PathId, Map<String, Value>),
    /// It goes.
    Remove(PathId),
    /// Instances end; others take their place.
    Kill {
        /// Of which pod.
        id: PathId,
        /// Which.
        instances: Vec<String>,
        /// It was asked for by its name.
        one: bool,
    },
}

impl Core {
    pub(super) fn change_pod(
        &mut self,
        r: &Request,
        change: &PodChange,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        match change {
            PodChange::Create(body) => {
                let missing = || ApiError::BadFields(vec![Flaw::new("/id", "error.path.missing")]);
                let id = body_id(body)?.ok_or_else(missing)?;
                if let Some(entry) = self.entry(&id) {
                    let what = if entry.wanted.pod().is_some() { "A pod" } else { "An app" };
                    return Err(ApiError::Conflict(format!("{what} with id [{id}] already exists.")));
                }
                let target = self.wanted_pod(&id, body)?;
                let location = Some(format!("/v2/pods{id}"));
                let reply = self.submit([(id.clone(), target)].into(), r.force, now, ids)?;
                self.told(r, "pod_created_event", now);
                Ok(Reply { status: 201, body: view::pod(&self.state, &id), location, ..reply })
            }
            PodChange::Update(id, body) => {
                if body_id(body)?.is_some_and(|given| given != *id) {
                    let given = body.get("id").and_then(Value::as_str).unwrap_or_default();
                    let words = format!("'{id}' does not match definition's id ('{given}')");
                    return Err(ApiError::BadRequest(words));
                }
                let mut body = body.clone();
                body.insert("id".to_owned(), Value::from(id.as_str()));
                let target = self.wanted_pod(id, &body)?;
                let reply = self.submit([(id.clone(), target)].into(), r.force, now, ids)?;
                self.told(r, "pod_updated_event", now);
                Ok(Reply { status: 200, body: view::pod(&self.state, id), ..reply })
            }
            PodChange::Remove(id) => {
                self.known_pod(id)?;
                let targets: Targets = [(id.clone(), Target::Gone)].into();
                let reply = self.submit(targets, r.force, now, ids)?;
                self.told(r, "pod_deleted_event", now);
                Ok(Reply { status: 202, body: None, ..reply })
            }
            PodChange::Kill { id, instances, one } => self.kill_pods(id, instances, *one),
        }
    }

    fn told(&mut self, r: &Request, kind: &'static str, now: Now) {
        let fields = json!({"clientIp": r.client, "uri": r.uri});
        self.publish(notices::notice(kind, fields, now));
    }

    fn known_pod(&self, id: &PathId) -> Result<(), ApiError> {
        let known = self.entry(id).is_some_and(|entry| entry.wanted.pod().is_some());
        if known { Ok(()) } else { Err(ApiError::no_pod(id)) }
    }

    fn kill_pods(&mut self, id: &PathId, instances: &[String], one: bool) -> Result<Reply, ApiError> {
        self.known_pod(id)?;
        let mut shown = Vec::new();
        let mut going: Vec<InstanceId> = Vec::new();
        if let Some(entry) = self.state.apps.get(id) {
            for instance in entry.instances.values() {
                if instances.iter().any(|name| name == instance.record.id.as_str()) {
                    shown.push(view::killed(instance));
                    going.push(instance.record.id.clone());
                }
            }
        }
        self.stop_instances(id, &going);
        let body = match (one, shown.first()) {
            (false, _) => Value::Array(shown),
            (true, Some(first)) => first.clone(),
            (true, None) => {
                let name = instances.first().map_or("", String::as_str);
                return Err(ApiError::NotFound(format!("Task '{name}' does not exist")));
            }
        };
        Ok(Reply { status: 200, body: Some(body), deployment: None, location: None })
    }
}
