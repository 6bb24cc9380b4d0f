//! Errors of the gateway itself: JSON for programs, a page for browsers, always with the name of the component and what to do.

use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

/// An error.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The status.
    pub status: StatusCode,
    /// A stable word.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Failure {
    /// Makes one.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// The component could not be reached for as long as it was waited for.
    pub fn unreachable(who: &str) -> Self {
        let message = format!(
            "{who} cannot be reached; it may be starting. Try again in a moment, and see `plenum status` if it stays away"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNREACHABLE", message)
    }

    /// The component broke off before it answered.
    pub fn broken(who: &str) -> Self {
        let message = format!(
            "{who} broke the connection before it answered; whether the request was carried out is not known. Look before you repeat it"
        );
        Self::new(StatusCode::BAD_GATEWAY, "BROKEN", message)
    }

    /// The leader was lost before it answered, and the request cannot be repeated by us.
    pub fn lost(who: &str) -> Self {
        let message = format!(
            "{who} was lost before it answered, and another one takes over; whether the request was carried out is not known. Look, then repeat it; \
             a request with the header Idempotency-Key is repeated for you and applied once"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "LEADER_LOST", message)
    }

    /// Nobody leads.
    pub fn leaderless(who: &str) -> Self {
        let message = format!(
            "none of the masters leads as {who} at the moment, so nothing is changed or told; what runs goes on. Try again in a moment; \
             `plenum cluster status` shows what is missing if it stays so"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "NO_LEADER", message)
    }

    /// The component did not answer in time.
    pub fn late(who: &str) -> Self {
        let message = format!("{who} did not answer in time; see its log if this happens again");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "TIMEOUT", message)
    }

    /// The reply; a page where the caller prefers one.
    pub fn answer(&self, headers: &HeaderMap) -> Response {
        let mut response = if wants_page(headers) {
            page(self.status, &self.message)
        } else {
            let body = json!({"code": self.code, "message": self.message}).to_string();
            (self.status, [(CONTENT_TYPE, "application/json")], body).into_response()
        };
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Whether the caller is a browser that shows pages.
pub fn wants_page(headers: &HeaderMap) -> bool {
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accepts.is_some_and(|text| text.to_ascii_lowercase().contains("text/html"))
}

/// 401: always a page, as in DC/OS, with the challenge that clients compare as a whole.
pub fn unauthorized(back: &str, message: &str) -> Response {
    let login = format!("/login?then={}", crate::path::encode(back));
    let body = frame(
        "Log in first",
        &format!("<p>{}</p><p><a href=\"{login}\">Log in</a></p>", escape(message)),
        &format!("<meta http-equiv=\"refresh\" content=\"0;url={login}\">"),
    );
    let mut response = html(StatusCode::UNAUTHORIZED, body);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("oauthjwt"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn page(status: StatusCode, message: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    html(status, frame(title, &format!("<p>{}</p><p><a href=\"/\">Start page</a></p>", escape(message)), ""))
}

/// A page of ours. `title` and `body` are HTML already.
pub fn frame(title: &str, body: &str, head: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} - Plenum</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <link rel=\"stylesheet\" href=\"/assets/gateway.css\">{head}</head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )
}

/// A page as a reply: nothing may be loaded into it or frame it but what is ours.
pub fn html(status: StatusCode, body: String) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'";
    let mut response = (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], body).into_response();
    let headers = response.headers_mut();
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("content-security-policy", HeaderValue::from_static(POLICY));
    response
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
