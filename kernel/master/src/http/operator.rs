//! `/api/v1` (and `/api/v1/operator`): the operator API and its event stream.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use plenum_api::codec::{self, Encoding};
use plenum_api::master::{self, Call, call::Type, event, response};
use plenum_api::mesos::{self, offer::Operation};
use plenum_api::resources::{Resources, resources_of};
use tokio::time::{Instant, interval_at};

use super::{Asked, Front, cache, calls, plain, reads, scheduler, stream};
use crate::core::{Answer, operation_of};
use crate::shell::owner::Handle;

pub(crate) async fn serve(front: &Front, asked: Asked) -> Response {
    let call: Call = match calls::read(&asked) {
        Ok(call) => call,
        Err(refusal) => return *refusal,
    };
    let wanted = match calls::wanted(&asked.headers) {
        Ok(wanted) => wanted,
        Err(refusal) => return *refusal,
    };
    let kind = call.r#type.and_then(|kind| Type::try_from(kind).ok()).unwrap_or(Type::Unknown);
    // These are answered by every master about itself.
    if let Some(response) = reads::about_itself(front, kind) {
        return message(wanted.encoding, &response);
    }
    let handle = match front.leader(&asked.path_and_query) {
        Ok(handle) => handle,
        Err(elsewhere) => return *elsewhere,
    };
    match kind {
        Type::Unknown => {
            plain(StatusCode::BAD_REQUEST, "Failed to validate master::Call: Expecting 'type' to be present")
        }
        Type::Subscribe => subscribe(front, &handle, wanted).await,
        Type::GetAllocationExplanation => explain(&handle, wanted.encoding, call).await,
        Type::Teardown
        | Type::MarkAgentGone
        | Type::DrainAgent
        | Type::DeactivateAgent
        | Type::ReactivateAgent
        | Type::UpdateWeights
        | Type::UpdateQuota
        | Type::ReserveResources
        | Type::UnreserveResources
        | Type::CreateVolumes
        | Type::DestroyVolumes
        | Type::GrowVolume
        | Type::ShrinkVolume => write(front, &handle, &asked, kind, call).await,
        _ => match reads::of_state(kind) {
            Some(read) => get(front, &handle, kind, wanted.encoding, read).await,
            None => plain(StatusCode::NOT_IMPLEMENTED, format!("{} is not built yet", kind.as_str_name())),
        },
    }
}

fn message<M: codec::Message>(encoding: Encoding, message: &M) -> Response {
    ([(header::CONTENT_TYPE, encoding.media_type())], codec::encode(encoding, message)).into_response()
}

async fn get(front: &Front, handle: &Handle, kind: Type, encoding: Encoding, read: reads::Read) -> Response {
    let write = move |state: &crate::core::State| codec::encode(encoding, &read(state)).to_vec();
    let body = match encoding {
        // The two encodings are two answers; only the usual one is shared.
        Encoding::Json => front.cache.get(kind.as_str_name(), handle, write).await,
        Encoding::Protobuf => match handle.state().await {
            Ok(state) => Ok(cache::encode(state, write).await),
            Err(ended) => Err(ended),
        },
    };
    match body {
        Ok(body) => ([(header::CONTENT_TYPE, encoding.media_type())], body).into_response(),
        Err(ended) => ended.into(),
    }
}

async fn subscribe(front: &Front, handle: &Handle, wanted: calls::Wanted) -> Response {
    let (state, waiting, guard) = match handle.watch().await {
        Ok(watching) => watching,
        Err(ended) => return ended.into(),
    };
    let (encoding, every) = (wanted.encoding, front.heartbeat);
    let first = cache::encode(state, move |state| {
        let subscribed = event::Subscribed {
            get_state: Some(reads::state(state)),
            heartbeat_interval_seconds: Some(every.as_secs_f64()),
        };
        let event = master::Event {
            r#type: Some(event::Type::Subscribed as i32),
            subscribed: Some(subscribed),
            ..Default::default()
        };
        let mut out = stream::record(encoding, &event).to_vec();
        // At once, because some clients act on a record only when the next one begins.
        out.extend_from_slice(&heartbeat(encoding));
        out
    })
    .await;
    let beat = stream::Heartbeat {
        interval: interval_at(Instant::now() + every, every),
        record: heartbeat(encoding),
    };
    scheduler::streaming(stream::body(first, waiting, guard, encoding, Some(beat)), wanted)
}

fn heartbeat(encoding: Encoding) -> axum::body::Bytes {
    stream::record(
        encoding,
        &master::Event { r#type: Some(event::Type::Heartbeat as i32), ..Default::default() },
    )
}

/// What a call changes, as permissions name it.
fn permission(kind: Type, call: &Call) -> Vec<(String, &'static str)> {
    match kind {
        Type::Teardown => vec![("dcos:mesos:master:framework".into(), "delete")],
        Type::MarkAgentGone => vec![("dcos:mesos:master:agent".into(), "delete")],
        Type::DrainAgent if call.drain_agent.as_ref().is_some_and(|drain| drain.mark_gone()) => {
            vec![("dcos:mesos:master:agent".into(), "update"), ("dcos:mesos:master:agent".into(), "delete")]
        }
        Type::DrainAgent | Type::DeactivateAgent | Type::ReactivateAgent => {
            vec![("dcos:mesos:master:agent".into(), "update")]
        }
        Type::UpdateWeights => {
            let roles = call
                .update_weights
                .iter()
                .flat_map(|u| &u.weight_infos)
                .map(|info| info.role.clone().unwrap_or_default());
            roles.map(|role| (format!("dcos:mesos:master:weight:role:{role}"), "update")).collect()
        }
        Type::UpdateQuota => {
            let roles =
                call.update_quota.iter().flat_map(|u| &u.quota_configs).map(|config| config.role.clone());
            roles.map(|role| (format!("dcos:mesos:master:quota:role:{role}"), "update")).collect()
        }
        _ => match operation_of(call) {
            Some((_, mut operation)) => of_resources(kind, &mut operation),
            None => vec![("dcos:superuser".into(), "full")],
        },
    }
}

/// As in DC/OS: reserving and creating concern the role, undoing it whoever did it.
fn of_resources(kind: Type, operation: &mut Operation) -> Vec<(String, &'static str)> {
    let (what, action, by_role) = match kind {
        Type::ReserveResources => ("reservation", "create", true),
        Type::UnreserveResources => ("reservation", "delete", false),
        Type::DestroyVolumes => ("volume", "delete", false),
        Type::GrowVolume | Type::ShrinkVolume => ("volume", "update", true),
        _ => ("volume", "create", true),
    };
    let needed = |resource: &mesos::Resource| {
        let read = Resources::from_mesos([resource]).unwrap_or_default();
        let item = read.iter().next();
        let last = item.and_then(|item| item.reservations().last());
        let volume = item.and_then(|item| item.meta()?.disk.as_ref()?.persistence.as_ref());
        let (key, name) = match (by_role, what) {
            (true, _) => ("role", last.map(|last| last.role.clone())),
            (false, "volume") => ("principal", volume.and_then(|volume| volume.principal.clone())),
            (false, _) => ("principal", last.and_then(|last| last.principal.clone())),
        };
        let name = name.map(|name| format!(":{name}")).unwrap_or_default();
        (format!("dcos:mesos:master:{what}:{key}{name}"), action)
    };
    let mut all: Vec<_> = resources_of(operation).into_iter().map(|resource| needed(resource)).collect();
    all.sort();
    all.dedup();
    all
}

/// A call that changes something, if the caller may.
pub(crate) async fn write(front: &Front, handle: &Handle, asked: &Asked, kind: Type, call: Call) -> Response {
    let lacking = permission(kind, &call)
        .into_iter()
        .find(|(resource, action)| !front.authenticator.allows(&asked.principal, resource, action));
    if let Some((resource, action)) = lacking {
        return plain(
            StatusCode::FORBIDDEN,
            format!("'{}' is not allowed to do this: it needs {resource} {action}", asked.principal.uid),
        );
    }
    tracing::info!(principal = asked.principal.uid, call = kind.as_str_name(), "audit");
    let resources = operation_of(&call).is_some();
    match handle.operate(call, asked.caller()).await {
        // Mesos answers operators with 200 where it answers frameworks with 202, but for what agents have yet to do.
        Ok(Answer::Accepted) if !resources => scheduler::simple(Answer::Done),
        Ok(answer) => scheduler::simple(answer),
        Err(ended) => ended.into(),
    }
}

async fn explain(handle: &Handle, encoding: Encoding, call: Call) -> Response {
    use response::get_allocation_explanation::{AgentExplanation, Reason};
    let asked = call.get_allocation_explanation.unwrap_or_default();
    let shape = match Resources::from_mesos(&asked.shape) {
        Ok(shape) => shape,
        Err(e) => return plain(StatusCode::BAD_REQUEST, format!("'shape': {e}")),
    };
    let framework = asked.framework_id.map(|id| id.value).unwrap_or_default();
    let state = match handle.state().await {
        Ok(state) => state,
        Err(ended) => return ended.into(),
    };
    let Some(known) = state.frameworks.iter().find(|known| *known.id == *framework) else {
        return plain(StatusCode::BAD_REQUEST, "'framework_id' must name a registered framework");
    };
    let role = asked.role.unwrap_or_else(|| {
        known.info.roles.first().or(known.info.role.as_ref()).cloned().unwrap_or_else(|| "*".into())
    });
    let explained = match handle.explain(framework, role, shape).await {
        Ok(Ok(explained)) => explained,
        Ok(Err(reason)) => return plain(StatusCode::BAD_REQUEST, reason),
        Err(ended) => return ended.into(),
    };
    let agents = explained
        .into_iter()
        .map(|one| AgentExplanation {
            hostname: state
                .agents
                .iter()
                .find(|agent| *agent.id == *one.agent)
                .map(|agent| agent.info.hostname.clone()),
            agent_id: plenum_api::mesos::AgentId { value: one.agent.clone() },
            verdict: Some(reads::verdict(one.verdict) as i32),
            reasons: vec![Reason {
                rule: rule_name(one.rule),
                needed: Some(one.needed.clone()).filter(|text| !text.is_empty()),
                had: Some(one.had.clone()).filter(|text| !text.is_empty()),
                nearest_fix: Some(one.nearest_fix.clone()).filter(|text| !text.is_empty()),
            }],
        })
        .collect();
    let answer = master::Response {
        r#type: Some(response::Type::GetAllocationExplanation as i32),
        get_allocation_explanation: Some(response::GetAllocationExplanation { agents }),
        ..Default::default()
    };
    message(encoding, &answer)
}

/// The allocator's stable name of a rule.
fn rule_name(rule: plenum_allocator::Rule) -> String {
    serde_json::to_value(rule).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_resources_need_what_dcos_asks_for() {
        let disk = r#"{"name":"disk","type":"SCALAR","scalar":{"value":1},
            "reservations":[{"type":"DYNAMIC","role":"a/b","principal":"p"}]"#;
        let volume = format!(
            r#"{disk},"disk":{{"persistence":{{"id":"v","principal":"q"}},"volume":{{"mode":"RW","container_path":"d"}}}}}}"#
        );
        let plain = format!("{disk}}}");
        for (kind, list, resource, permission) in [
            ("RESERVE_RESOURCES", "resources", &plain, ("reservation:role:a/b", "create")),
            ("UNRESERVE_RESOURCES", "resources", &plain, ("reservation:principal:p", "delete")),
            ("CREATE_VOLUMES", "volumes", &volume, ("volume:role:a/b", "create")),
            ("DESTROY_VOLUMES", "volumes", &volume, ("volume:principal:q", "delete")),
        ] {
            let field = kind.to_ascii_lowercase();
            let body = format!(
                r#"{{"type":"{kind}","{field}":{{"agent_id":{{"value":"S"}},"{list}":[{resource},{resource}]}}}}"#
            );
            let call: Call = codec::decode(Encoding::Json, body.as_bytes()).expect("a call");
            let expect = vec![(format!("dcos:mesos:master:{}", permission.0), permission.1)];
            assert_eq!(super::permission(call.r#type(), &call), expect, "{kind}");
            // Without anything named nobody is asked for nothing.
            let empty = format!(r#"{{"type":"{kind}"}}"#);
            let call: Call = codec::decode(Encoding::Json, empty.as_bytes()).expect("a call");
            assert_eq!(super::permission(call.r#type(), &call), [("dcos:superuser".to_owned(), "full")]);
        }
    }
}
