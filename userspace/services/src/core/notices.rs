//! The bodies of events on `/v2/events`. Names and fields are Marathon's; nothing else is decided here.

use plenum_api::Now;
use serde_json::{Map, Value, json};

use super::deployment::Deployment;
use super::id::{InstanceId, PathId};
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

/// Somebody began to listen to events, from this address.
pub(crate) fn attached(client: &str, now: Now) -> Notice {
    notice("event_stream_attached", json!({"remoteAddress": client}), now)
}

/// Somebody does not listen any more.
pub(crate) fn detached(client: &str, now: Now) -> Notice {
    notice("event_stream_detached", json!({"remoteAddress": client}), now)
}

pub(super) fn plain(kind: &'static str, now: Now) -> Notice {
    notice(kind, json!({}), now)
}

/// The master took us in; `again`, under the id that we had.
pub(super) fn registered(again: bool, framework: &str, master: &str, now: Now) -> Notice {
    if again {
        return notice("scheduler_reregistered_event", json!({"master": master}), now);
    }
    notice("scheduler_registered_event", json!({"frameworkId": framework, "master": master}), now)
}

/// An executor sent something. Marathon documents base64 and sends signed numbers.
pub(super) fn framework_message(executor: &str, agent: &str, data: &[u8], now: Now) -> Notice {
    let message: Vec<i8> = data.iter().map(|byte| byte.cast_signed()).collect();
    let fields = json!({"executorId": executor, "slaveId": agent, "message": message});
    notice("framework_message_event", fields, now)
}

/// A change of what is wanted below `group` was taken in; with a reason, it was refused.
pub(super) fn group_change(group: &PathId, version: &str, refused: Option<&str>, now: Now) -> Notice {
    let fields = json!({"groupId": group, "version": version});
    let Some(reason) = refused else { return notice("group_change_success", fields, now) };
    let mut failed = notice("group_change_failed", fields, now);
    failed.body["reason"] = Value::from(reason);
    failed
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

/// A task ended that nobody wrote down. Whose it was is guessed from its id, as Marathon does.
pub(super) fn unknown_terminated(task: &str, condition: &str, now: Now) -> Notice {
    let instance = InstanceId::of_task(task).map_or_else(|| task.to_owned(), |(id, ..)| id.to_string());
    let app = instance.rsplit_once('.').map_or(instance.as_str(), |(app, _)| app);
    let app = format!("/{}", app.replace('_', "/"));
    let fields = json!({"instanceId": instance, "runSpecId": app, "condition": condition});
    notice("unknown_instance_terminated_event", fields, now)
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
        let actions: Vec<Value> = step.iter().map(super::deployment::Action::to_json).collect();
        json!({"actions": actions})
    };
    deployment.steps.iter().map(step).collect()
}

pub(super) fn deployment_step(kind: &'static str, deployment: &Deployment, now: Now) -> Notice {
    let actions: Vec<Value> = deployment.current().iter().map(super::deployment::Action::to_json).collect();
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
