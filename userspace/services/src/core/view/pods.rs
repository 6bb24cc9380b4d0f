//! Pods and how they are, in Marathon's shape.

use serde_json::{Value, json};

use super::super::id::PathId;
use super::super::instance::{Instance, State, Task};
use super::super::pod::{Pod, PodContainer, Resources};
use super::super::{Entry, Snapshot, ended, time};

/// Every pod's definition.
pub fn pods(state: &Snapshot) -> Value {
    state
        .entries()
        .filter(|(_, e)| e.wanted.pod().is_some())
        .map(|(_, e)| Value::Object(e.wanted.to_json()))
        .collect()
}

/// One pod's definition.
pub fn pod(state: &Snapshot, id: &PathId) -> Option<Value> {
    let entry = state.entry(id)?;
    entry.wanted.pod().map(|pod| Value::Object(pod.to_json()))
}

/// The moments of all versions of a pod, the newest first.
pub fn pod_versions(state: &Snapshot, id: &PathId) -> Option<Value> {
    let entry = state.entry(id).filter(|e| e.wanted.pod().is_some())?;
    Some(entry.versions.keys().rev().map(|version| Value::from(version.as_str())).collect())
}

/// One version of a pod.
pub fn pod_version(state: &Snapshot, id: &PathId, version: &str) -> Option<Value> {
    let entry = state.entry(id).filter(|e| e.wanted.pod().is_some())?;
    entry.versions.get(version).map(|definition| Value::Object(definition.to_json()))
}

/// How all pods are.
pub fn pod_statuses(state: &Snapshot) -> Value {
    state.entries().filter_map(|(id, _)| pod_status(state, id)).collect()
}

/// How a pod is.
pub fn pod_status(state: &Snapshot, id: &PathId) -> Option<Value> {
    let entry = state.entry(id)?;
    let pod = entry.wanted.pod()?;
    let instances: Vec<Value> =
        entry.instances.values().map(|instance| instance_status(entry, instance)).collect();
    let stable = instances.iter().filter(|one| one["status"] == "STABLE").count();
    let whole = u32::try_from(stable).is_ok_and(|stable| stable >= pod.scaling.instances);
    let since = entry.instances.values().map(since).max().map_or_else(|| pod.version.clone(), time::text);
    Some(json!({
        "id": id,
        "spec": pod.to_json(),
        "status": if whole { "STABLE" } else { "DEGRADED" },
        "statusSince": since,
        "instances": instances,
        "terminationHistory": state.terminations(id),
        "lastUpdated": since,
        "lastChanged": since,
    }))
}

/// When something last happened to it.
fn since(instance: &Instance) -> plenum_api::Millis {
    instance.tasks.iter().map(|task| task.since).max().unwrap_or(instance.staged)
}

/// What is shown of an instance that was asked to end.
pub fn killed(instance: &Instance) -> Value {
    let record = &instance.record;
    json!({
        "instanceId": {"idString": record.id},
        "agentInfo": {"host": record.location.host, "agentId": record.agent, "attributes": []},
        "runSpecVersion": record.version,
    })
}

fn instance_status(entry: &Entry, instance: &Instance) -> Value {
    let record = &instance.record;
    let definition = entry.definition_of(record);
    let Some(pod) = definition.pod() else { return Value::Null };
    let containers: Vec<Value> = instance.tasks.iter().map(|task| container(pod, instance, task)).collect();
    let ailing = containers.iter().any(|one| {
        one["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["name"] == "healthy" && c["value"] == "false")
    });
    let (status, message) = match instance.state() {
        None | Some(State::Staging | State::Starting) => ("STAGING", None),
        Some(State::Unreachable) => ("DEGRADED", Some("pod instance has become unreachable")),
        Some(State::Running) if ailing => ("DEGRADED", Some("at least one container is not healthy")),
        Some(State::Running) => ("STABLE", None),
        Some(_) => ("TERMINAL", None),
    };
    let takes = pod.containers.iter().fold(pod.executor_resources, |sum, one| sum.and(&one.resources));
    let at = time::text(since(instance));
    let mut out = json!({
        "id": record.id,
        "status": status,
        "statusSince": at,
        "agentId": record.agent,
        "agentHostname": record.location.host,
        "resources": amounts(&takes),
        "networks": networks(pod, instance),
        "containers": containers,
        "conditions": [],
        "localVolumes": [],
        "specReference": format!("/v2/pods{}::versions/{}", pod.id, record.version),
        "lastUpdated": at,
        "lastChanged": at,
        "role": record.role,
    });
    let region = record.location.region.as_ref().map(|text| ("agentRegion", text.as_str()));
    let zone = record.location.zone.as_ref().map(|text| ("agentZone", text.as_str()));
    for (key, text) in [region, zone, message.map(|text| ("message", text))].into_iter().flatten() {
        out[key] = Value::from(text);
    }
    out
}

fn amounts(takes: &Resources) -> Value {
    // Sums are those of thousandths, as Mesos keeps them.
    let exact = |amount: f64| (amount * 1000.0).round() / 1000.0;
    json!({"cpus": exact(takes.cpus), "mem": exact(takes.mem), "disk": exact(takes.disk), "gpus": takes.gpus})
}

/// The containers share one address of each network.
fn networks(pod: &Pod, instance: &Instance) -> Vec<Value> {
    let mut addresses: Vec<&str> = Vec::new();
    for (address, _) in instance.tasks.iter().flat_map(|task| &task.addresses) {
        if !addresses.contains(&address.as_str()) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Vec::new();
    }
    let first = pod.networks.first();
    let name = first.and_then(|n| {
        n.name.clone().or_else(|| (n.mode == "container/bridge").then(|| "mesos-bridge".to_owned()))
    });
    let mut out = json!({"addresses": addresses});
    if let Some(name) = name {
        out["name"] = Value::from(name);
    }
    vec![out]
}

fn container(pod: &Pod, instance: &Instance, task: &Task) -> Value {
    let spec = pod.containers.iter().find(|one| one.name == task.name);
    let id = instance.record.id.task_id(&task.name, instance.record.launches);
    let at = time::text(task.since);
    let state = task.state.unwrap_or(State::Staging);
    let mut out = json!({
        "name": task.name,
        "status": state.name(),
        "statusSince": at,
        "containerId": id,
        "endpoints": [],
        "conditions": [],
        "lastUpdated": at,
        "lastChanged": at,
    });
    let ended = state.is_terminal().then(|| ended::termination(state.name(), &task.message)).flatten();
    if let Some(termination) = ended {
        out["termination"] = termination;
    }
    let Some(spec) = spec else { return out };
    if !state.is_terminal() {
        out["resources"] = amounts(&spec.resources);
        out["endpoints"] = endpoints(pod, spec, instance, task).into();
    }
    let began = !matches!(state, State::Staging | State::Starting);
    if spec.health_check.is_some() && began {
        let reason = match task.healthy {
            Some(_) => "health-reported-by-mesos",
            None => "health-unreported-by-mesos",
        };
        out["conditions"] = json!([{
            "name": "healthy",
            "value": (task.healthy == Some(true)).to_string(),
            "reason": reason,
            "lastChanged": at,
            "lastUpdated": at,
        }]);
    }
    out
}

fn endpoints(pod: &Pod, spec: &PodContainer, instance: &Instance, task: &Task) -> Vec<Value> {
    let all = pod.containers.iter().flat_map(|c| c.endpoints.iter().map(move |e| (c, e)));
    let checked = spec.health_check.as_ref().and_then(|check| {
        let probe = ["http", "tcp"].iter().find_map(|kind| check.get(*kind).filter(|v| !v.is_null()))?;
        probe.get("endpoint")?.as_str()
    });
    let mine = all.zip(&instance.record.host_ports).filter(|((of, _), _)| of.name == spec.name);
    mine.map(|((_, endpoint), port)| {
        let mut out = json!({"name": endpoint.name});
        if let Some(port) = port {
            out["allocatedHostPort"] = Value::from(*port);
        }
        if let (true, Some(healthy)) = (checked == Some(endpoint.name.as_str()), task.healthy) {
            out["healthy"] = Value::from(healthy);
        }
        out
    })
    .collect()
}
