//! From a body to the definition that it makes of a pod: read by [`super::schema`], with what Marathon fills in, and judged.

use serde_json::{Map, Value, json};

use super::Core;
use super::definition::Definition;
use super::error::{ApiError, Flaw};
use super::group::{enforced_role, wrong_role};
use super::id::PathId;
use super::intake::Intake;
use super::pod::Pod;
use super::requests::Target;
use super::schema::{Mode, POD, read};
use super::validate;

impl Core {
    /// The pod that `body` makes of `id`. A pod is always given whole.
    pub(super) fn wanted_pod(&self, id: &PathId, body: &Map<String, Value>) -> Result<Target, ApiError> {
        self.read_pod(id, body, &Intake::default()).map(Target::be)
    }

    /// The same, among others.
    pub(super) fn read_pod(
        &self,
        id: &PathId,
        body: &Map<String, Value>,
        intake: &Intake,
    ) -> Result<Definition, ApiError> {
        let entry = self.entry(id);
        if entry.is_some_and(|e| e.wanted.pod().is_none()) {
            return Err(ApiError::Conflict(format!("'{id}' is an app: change it at /v2/apps{id}")));
        }
        let enforced = enforced_role(&self.state, &intake.enforces, id);
        let pod = pod(id, body, enforced.as_deref().unwrap_or(&self.state.settings.default_role))?;
        let mut flaws = validate::pod(&pod);
        let wrong = wrong_role(&pod.role, enforced.as_deref(), entry.map(|entry| &*entry.wanted));
        flaws.extend(wrong.map(|error| Flaw::new("/role", error)));
        if entry.is_none() && !intake.tree {
            flaws.extend(self.namesakes(id));
        }
        if flaws.is_empty() { Ok(Definition::Pod(pod)) } else { Err(ApiError::Invalid(flaws)) }
    }
}

/// Reads a pod.
///
/// # Errors
/// What has the wrong type or is out of bounds, by path.
pub fn pod(id: &PathId, body: &Map<String, Value>, default_role: &str) -> Result<Pod, ApiError> {
    let mut given = read(&POD, body, "", Mode::Whole).map_err(ApiError::BadFields)?;
    given.insert("id".to_owned(), Value::from(id.as_str()));
    given.insert("version".to_owned(), Value::from(""));
    let base = Pod::new(id.clone(), default_role).to_json();
    for key in ["scaling", "executorResources", "role", "scheduling"] {
        if let Some(default) = base.get(key) {
            let slot = given.entry(key).or_insert_with(|| default.clone());
            fill(slot, default);
        }
    }
    ports(&mut given);
    serde_json::from_value(Value::Object(given))
        .map_err(|error| ApiError::BadFields(vec![Flaw::new("/", error.to_string())]))
}

/// Puts what is missing of an object in place.
fn fill(slot: &mut Value, default: &Value) {
    let (Value::Object(slot), Value::Object(default)) = (slot, default) else { return };
    for (key, value) in default {
        fill(slot.entry(key.clone()).or_insert_with(|| value.clone()), value);
    }
}

/// Without networks of its own a pod has the host's; ports of the host are chosen unless networks of containers are used.
fn ports(given: &mut Map<String, Value>) {
    let networks = given.entry("networks").or_insert_with(|| json!([]));
    let modes: Vec<&str> =
        networks.as_array().into_iter().flatten().filter_map(|n| n["mode"].as_str()).collect();
    let mapped = !modes.contains(&"container");
    if modes.is_empty() {
        *networks = json!([{"mode": "host"}]);
    }
    for container in given.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
        let endpoints = container.get_mut("endpoints").and_then(Value::as_array_mut);
        for endpoint in endpoints.into_iter().flatten().filter_map(Value::as_object_mut) {
            if mapped {
                endpoint.entry("hostPort").or_insert_with(|| Value::from(0));
            }
            let protocol = endpoint.entry("protocol").or_insert_with(|| json!([]));
            if protocol.as_array().is_some_and(Vec::is_empty) {
                *protocol = json!(["tcp"]);
            }
        }
    }
}
