//! `/api/v1/scheduler`: calls of frameworks, and the stream of a subscribed one.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use plenum_api::codec;
use plenum_api::ids::IdSource;
use plenum_api::mesos::framework_info::capability::Type as Ability;
use plenum_api::scheduler::{Call, call::Type};
use plenum_base::clock::OsIds;

use super::{Asked, Front, calls, plain, stream};
use crate::core::{Answer, check_call};
use crate::shell::owner::Handle;

const STREAM_ID: &str = "mesos-stream-id";

pub(crate) async fn serve(front: &Front, asked: Asked) -> Response {
    let handle = match front.leader(&asked.path_and_query) {
        Ok(handle) => handle,
        Err(elsewhere) => return *elsewhere,
    };
    let call: Call = match calls::read(&asked) {
        Ok(call) => call,
        Err(refusal) => return *refusal,
    };
    if call.r#type == Some(Type::Subscribe as i32) {
        return subscribe(front, &handle, &asked, call).await;
    }
    let stream_id = asked.header(STREAM_ID).map(Arc::from);
    match handle.call(stream_id, call, asked.caller()).await {
        Ok(Answer::Scheduler(response)) => match calls::wanted(&asked.headers) {
            Ok(wanted) => {
                let body = codec::encode(wanted.encoding, &*response);
                ([(header::CONTENT_TYPE, wanted.encoding.media_type())], body).into_response()
            }
            Err(refusal) => *refusal,
        },
        Ok(answer) => simple(answer),
        Err(ended) => ended.into(),
    }
}

/// Answers that have no message for schedulers in them.
pub(crate) fn simple(answer: Answer) -> Response {
    match answer {
        Answer::Accepted => (StatusCode::ACCEPTED, Body::empty()).into_response(),
        Answer::Refused(status, reason) => {
            plain(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), reason)
        }
        Answer::Done | Answer::Scheduler(_) | Answer::Operator(_) => Body::empty().into_response(),
    }
}

async fn subscribe(front: &Front, handle: &Handle, asked: &Asked, call: Call) -> Response {
    let wanted = match calls::wanted(&asked.headers) {
        Ok(wanted) => wanted,
        Err(refusal) => return *refusal,
    };
    if asked.headers.contains_key(STREAM_ID) {
        return plain(
            StatusCode::BAD_REQUEST,
            "Subscribe calls should not include the 'Mesos-Stream-Id' header",
        );
    }
    let caller = asked.caller();
    if let Err(reason) = check_call(&call, &caller) {
        return plain(StatusCode::BAD_REQUEST, format!("Failed to validate scheduler::Call: {reason}"));
    }
    if let Some(role) = forbidden_role(front, asked, &call) {
        let resource = format!("dcos:mesos:master:framework:role:{role}");
        return plain(
            StatusCode::FORBIDDEN,
            format!(
                "'{}' is not allowed to register a framework in role '{role}': it needs {resource} create",
                asked.principal.uid
            ),
        );
    }
    let header: Arc<str> = OsIds.uuid_text().into();
    match handle.subscribe(Arc::clone(&header), call, caller).await {
        Ok((waiting, guard)) => {
            let body = stream::body(Bytes::new(), waiting, guard, wanted.encoding, None);
            let mut response = streaming(body, wanted);
            // A uuid is a valid header.
            if let Ok(value) = HeaderValue::from_str(&header) {
                response.headers_mut().insert("Mesos-Stream-Id", value);
            }
            response
        }
        Err(ended) => ended.into(),
    }
}

/// A response whose body is a stream of records.
pub(crate) fn streaming(body: Body, wanted: calls::Wanted) -> Response {
    let (media, messages) = wanted.stream_types();
    let mut response = ([(header::CONTENT_TYPE, media)], body).into_response();
    if let Some(messages) = messages {
        response.headers_mut().insert("Message-Content-Type", HeaderValue::from_static(messages));
    }
    response
}

/// The first role of a subscription that the caller has no permission for.
fn forbidden_role(front: &Front, asked: &Asked, call: &Call) -> Option<String> {
    let info = &call.subscribe.as_ref()?.framework_info;
    let multi = info.capabilities.iter().any(|c| c.r#type == Some(Ability::MultiRole as i32));
    let roles =
        if multi { info.roles.clone() } else { vec![info.role.clone().unwrap_or_else(|| "*".into())] };
    roles.into_iter().find(|role| {
        let resource = format!("dcos:mesos:master:framework:role:{role}");
        !front.authenticator.allows(&asked.principal, &resource, "create")
    })
}
