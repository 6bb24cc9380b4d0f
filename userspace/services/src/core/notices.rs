//! The bodies of events on `/v2/events`. Names and fields are Marathon's; nothing else is decided here.

use plenum_api::Now;
use serde_json::{Map, Value, json};

use super::deployment::Deployment;
use super::id::InstanceId;
use super::instance::{Instance, Status};
use super::{Notice, time};

/// An event of `kind` with these fields.
pub(super) fn notice(kind: &'static str, fields: Value, now: Now) -> Notice {
    let mut body = match fields {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    body.insert("eventType".to_owned(), Value::from(kind));
    body.insert("timestamp".to_owned(), Value::from(time::text(now.wall)));
    Notice { kind, body: Value::Object(body) }
}

pub(super) fn plain(kind: &'static str, now: Now) -> Notice {
    notice(kind, json!({}), now)
}

pub(super) fn registered(kind: &'static str, framework: &str, master: &str, now: Now) -> Notice {
    notice(kind, json!({"frameworkId": framework, "master": master}), now)
}

pub(super) fn status_update(instance: &Instance, status: &Status, now: Now) -> Notice {
    let record = &instance.record;
    let task = InstanceId::of_task(&status.task);
    let task = task.and_then(|(_, container, _)| instance.tasks.iter().find(|task| task.name == container));
    let addresses: Vec<Value> = task
        .iter()
        .flat_map(|task| &task.addresses)
        .map(|(ip, protocol)| json!({"ipAddress": ip, "protocol": protocol}))
        .collect();
    let fields = json!({
        "slaveId": record.agent,
        "taskId": status.task,
        "taskStatus": status.state.name(),
        "message": status.message,
        "appId": record.app,
        "host": record.location.host,
        "ipAddresses": addresses,
        "ports": instance.ports(),
        "version": record.version,
    });
    notice("status_update_event", fields, now)
}

pub(super) fn instance_changed(instance: &Instance, condition: &str, now: Now) -> Notice {
    let record = &instance.record;
    let fields = json!({
        "instanceId": record.id,
        "condition": condition,
        "runSpecId": record.app,
        "agentId": record.agent,
        "host": record.location.host,
        "runSpecVersion": record.version,
    });
    notice("instance_changed_event", fields, now)
}

pub(super) fn health_changed(instance: &Instance, task: &str, alive: bool, now: Now) -> [Notice; 2] {
    let record = &instance.record;
    let old = json!({
        "appId": record.app,
        "instanceId": record.id,
        "taskId": task,
        "version": record.version,
        "alive": alive,
    });
    let new = json!({
        "instanceId": record.id,
        "runSpecId": record.app,
        "runSpecVersion": record.version,
        "healthy": alive,
    });
    [notice("health_status_changed_event", old, now), notice("instance_health_changed_event", new, now)]
}

/// A deployment's plan as it stands in events. `original` and `target` were whole groups once; events are light since Marathon 1.8, but
/// clients go on reading an object in either place.
pub(super) fn plan(deployment: &Deployment) -> Value {
    json!({
        "id": deployment.id,
        "version": deployment.version,
        "original": {"id": "/"},
        "target": {"id": "/", "version": deployment.version},
        "steps": steps(deployment),
    })
}

pub(super) fn steps(deployment: &Deployment) -> Value {
    let step = |step: &Vec<super::deployment::Action>| {
        let actions: Vec<Value> =
            step.iter().map(|a| json!({"action": a.what.name(), "app": a.app})).collect();
        json!({"actions": actions})
    };
    deployment.steps.iter().map(step).collect()
}

pub(super) fn deployment_step(kind: &'static str, deployment: &Deployment, now: Now) -> Notice {
    let actions: Vec<Value> =
        deployment.current().iter().map(|a| json!({"action": a.what.name(), "app": a.app})).collect();
    notice(kind, json!({"plan": plan(deployment), "currentStep": {"actions": actions}}), now)
}

pub(super) fn deployment_end(
    kind: &'static str,
    deployment: &Deployment,
    reason: Option<&str>,
    now: Now,
) -> Notice {
    let mut fields = json!({"id": deployment.id, "plan": plan(deployment)});
    if let Some(reason) = reason {
        fields["reason"] = Value::from(reason);
    }
    notice(kind, fields, now)
}
