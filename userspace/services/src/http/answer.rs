//! Responses with the headers that all of them carry.

use axum::body::Body;
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderName, LOCATION, PRAGMA};
use http::{HeaderValue, StatusCode};
use serde_json::Value;

use crate::core::error::ApiError;
use crate::core::requests::Reply;

const DEPLOYMENT: HeaderName = HeaderName::from_static("marathon-deployment-id");

/// Headers that keep caches from answering for us.
pub(super) fn uncached(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(EXPIRES, HeaderValue::from_static("0"));
}

fn answer(status: StatusCode, media: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    uncached(&mut response);
    response
}

/// A JSON body.
pub(super) fn json_answer(status: StatusCode, body: &Value) -> Response {
    json_bytes(status, body.to_string().into_bytes())
}

/// A JSON body with its tag.
pub(super) fn tagged(body: &Value, tag: &str) -> Response {
    with_tag(json_answer(StatusCode::OK, body), tag)
}

/// The client has it.
pub(super) fn unchanged(tag: &str) -> Response {
    with_tag(answer(StatusCode::NOT_MODIFIED, "application/json", Body::empty()), tag)
}

fn with_tag(mut response: Response, tag: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

/// A JSON body that is written already.
pub(super) fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    answer(status, "application/json", Body::from(body))
}

/// A text body.
pub(super) fn text_answer(text: impl Into<String>) -> Response {
    answer(StatusCode::OK, "text/plain; charset=utf-8", Body::from(text.into()))
}

/// A refusal.
pub(super) fn failure(error: &ApiError) -> Response {
    json_answer(
        StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        &error.body(),
    )
}

/// The core's answer.
pub(super) fn reply(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match &reply.body {
        Some(body) => json_answer(status, body),
        None => answer(status, "application/json", Body::empty()),
    };
    for (name, value) in [(DEPLOYMENT, reply.deployment), (LOCATION, reply.location)] {
        if let Some(value) = value.and_then(|v| HeaderValue::from_str(&v).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
