//! Errors as JSON: one shape for all of our own endpoints, `{"code", "message", "details"?}`. Interfaces with a shape of their own (Mesos,
//! Marathon, Cosmos, identity) map their errors themselves.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An error that a client sees.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{status} {code}: {message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// A stable word, such as `NOT_FOUND`.
    pub code: &'static str,
    /// A sentence that says what to do.
    pub message: String,
    /// Machine-readable particulars; left out when null.
    pub details: Value,
}

#[derive(Serialize)]
struct Body<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Value::is_null")]
    details: &'a Value,
}

impl ApiError {
    /// An error without details.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: Value::Null }
    }

    /// Adds details.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// 400: the request does not parse or breaks a rule.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// 401 with the challenge that DC/OS clients compare as a whole.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    /// 403: known, but not allowed.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let message = "this address exists, but does not take this method; see the Allow header";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
    }

    /// 406: none of the accepted media types can be given.
    pub fn not_acceptable(offered: &str) -> Self {
        let message = format!("the Accept header allows none of: {offered}");
        Self::new(StatusCode::NOT_ACCEPTABLE, "NOT_ACCEPTABLE", message)
    }

    /// 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body may have at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", message)
    }

    /// 415.
    pub fn unsupported_media_type(expected: &str) -> Self {
        let message = format!("the Content-Type must be one of: {expected}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message)
    }

    /// 429.
    pub fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", message)
    }

    /// 500. The text must not tell secrets; the cause goes to the log.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", message)
    }

    /// 503: not now; clients try again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "TIMEOUT", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body { code: self.code, message: &self.message, details: &self.details };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("oauthjwt"));
        }
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A fallback handler: 404 as JSON. Use as `router.fallback(http_error::no_such_address)`.
pub async fn no_such_address(uri: http::Uri) -> ApiError {
    ApiError::not_found(format!("there is nothing at {}", uri.path()))
}

/// A fallback for known addresses with another method. Use as `router.method_not_allowed_fallback(http_error::wrong_method)`.
pub async fn wrong_method() -> ApiError {
    ApiError::method_not_allowed()
}

/// Whether a Content-Type header value names JSON: `application/json`, any `+json` type, with or without parameters.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads a JSON body and says where it is wrong.
///
/// # Errors
/// 400 with line, column and path of the fault.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let mut message = format!("the body is not the JSON expected here: {error}");
        if bytes.is_empty() {
            "the body is empty; JSON is expected here".clone_into(&mut message);
        }
        ApiError::bad_request(message)
    })
}

/// Takes a JSON body: 415 for another Content-Type (a missing one is taken as JSON), 413 beyond the limit, 400 where it does not parse.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if let Some(value) = request.headers().get(header::CONTENT_TYPE)
            && !value.to_str().is_ok_and(is_json)
        {
            return Err(ApiError::unsupported_media_type("application/json"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let status = rejection.status();
            if status == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::new(status, "PAYLOAD_TOO_LARGE", "the body is larger than this address takes")
            } else {
                ApiError::bad_request("the body could not be read to its end")
            }
        })?;
        parse_json(&bytes).map(JsonBody)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::DefaultBodyLimit;
    use axum::routing::post;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn call(method: &str, path: &str, content: Option<&str>, body: &str) -> (StatusCode, Value) {
        async fn sum(JsonBody(numbers): JsonBody<Vec<i64>>) -> String {
            numbers.len().to_string()
        }
        let router = Router::new()
            .route("/sum", post(sum))
            .fallback(no_such_address)
            .method_not_allowed_fallback(wrong_method)
            .layer(DefaultBodyLimit::max(32));
        let mut request = Request::builder().method(method).uri(path);
        if let Some(content) = content {
            request = request.header("content-type", content);
        }
        let response = router.oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn each_fault_has_its_status_and_code() {
        let long = format!("[{}]", "1,".repeat(40));
        let cases = [
            ("POST", "/sum", Some("application/json; charset=utf-8"), "[1]", 200, Value::Null),
            ("POST", "/sum", None, "[1]", 200, Value::Null),
            ("POST", "/sum", Some("application/vnd.x+json"), "[]", 200, Value::Null),
            ("POST", "/sum", Some("text/plain"), "[1]", 415, "UNSUPPORTED_MEDIA_TYPE".into()),
            ("POST", "/sum", None, "[1,", 400, "BAD_REQUEST".into()),
            ("POST", "/sum", None, "", 400, "BAD_REQUEST".into()),
            ("POST", "/sum", None, "{\"a\":1}", 400, "BAD_REQUEST".into()),
            ("POST", "/sum", None, &long, 413, "PAYLOAD_TOO_LARGE".into()),
            ("GET", "/sum", None, "", 405, "METHOD_NOT_ALLOWED".into()),
            ("GET", "/none", None, "", 404, "NOT_FOUND".into()),
        ];
        for (method, path, content, body, status, code) in cases {
            let (got, json) = call(method, path, content, body).await;
            if code.is_null() {
                assert_eq!(got, status, "{method} {path} {content:?} {body}");
            } else {
                assert_eq!(
                    (got.as_u16(), &json["code"]),
                    (status, &code),
                    "{method} {path} {content:?} {body}"
                );
                assert!(!json["message"].as_str().unwrap().is_empty());
            }
        }
    }

    #[test]
    fn challenges_and_details_are_there() {
        let response = ApiError::unauthorized("log in").into_response();
        assert_eq!(response.headers()["www-authenticate"], "oauthjwt");
        let error = ApiError::conflict("taken").with_details(serde_json::json!({"by": "x"}));
        assert_eq!(error.into_response().status(), 409);
    }
}
