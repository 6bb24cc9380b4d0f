//! `POST /api/v1/executor`: calls of custom executors, and the stream of events of a subscription.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use plenum_api::codec::{self, Encoding};
use plenum_api::{executor, recordio};
use tokio::sync::oneshot;

use super::{Http, PATIENCE, reply_encoding, request_encoding, text};
use crate::core::ExecutorReply;
use crate::shell::streams::ExecutorStream;
use crate::shell::{ExecutorAnswer, Input};

pub(super) async fn call(http: &Http, headers: &HeaderMap, body: Bytes) -> Response {
    match answer(http, headers, body).await {
        Ok(response) | Err(response) => response,
    }
}

async fn answer(http: &Http, headers: &HeaderMap, body: Bytes) -> Result<Response, Response> {
    let encoding = request_encoding(headers)?;
    let call: executor::Call = codec::decode(encoding, &body)
        .map_err(|error| text(StatusCode::BAD_REQUEST, &format!("Failed to parse the call: {error}")))?;
    // Only a subscription is answered with a body.
    let wanted = match call.r#type() {
        executor::call::Type::Subscribe => reply_encoding(headers)?,
        _ => Encoding::Json,
    };
    let busy = || text(StatusCode::SERVICE_UNAVAILABLE, "The agent is busy or ending; try again.");
    let (reply, answered) = oneshot::channel();
    let input = Input::Executor { token: token(headers), call: Box::new(call), reply };
    if !matches!(tokio::time::timeout(PATIENCE, http.inbox.send(input)).await, Ok(Ok(()))) {
        return Err(busy());
    }
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(ExecutorAnswer::Stream(stream))) => Ok(events(stream, wanted)),
        Ok(Ok(ExecutorAnswer::Other(ExecutorReply::Accepted))) => Ok(StatusCode::ACCEPTED.into_response()),
        Ok(Ok(ExecutorAnswer::Other(ExecutorReply::Refused { status, message }))) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            let refusal = text(status, &message);
            if status == StatusCode::UNAUTHORIZED {
                return Err(([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response());
            }
            Err(refusal)
        }
        _ => Err(busy()),
    }
}

/// The executor's token: `Bearer`, or DC/OS' `token=`.
fn token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("token="))?;
    Some(token.trim().to_owned())
}

fn events(stream: ExecutorStream, encoding: Encoding) -> Response {
    let records = futures_util::stream::unfold(stream, move |mut stream| async move {
        let event: Arc<executor::Event> = stream.events.recv().await?;
        let record = codec::encode(encoding, event.as_ref());
        Some((Ok::<Bytes, std::convert::Infallible>(recordio::encode(&record)), stream))
    });
    ([(header::CONTENT_TYPE, encoding.media_type())], Body::from_stream(records)).into_response()
}
