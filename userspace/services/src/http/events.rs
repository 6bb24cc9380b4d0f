//! `/v2/events`: server-sent events. The ring and who listens are `shell::events`'; here is what a request says about it.
//!
//! `event_type` (repeated) chooses types; `plan-format` is passed over, as plans are light since Marathon 1.8; the header `Last-Event-ID`
//! resumes.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::answer::uncached;
use super::{Api, Ask, no_such};
use crate::core::error::ApiError;
use crate::core::ring::Filter;
use crate::reference::EVENTS;

/// Answers with a stream that does not end by itself, unless its listener falls too far behind.
pub(super) fn stream(api: &Api, ask: &Ask) -> Result<Response, ApiError> {
    let body = match ask.method.as_str() {
        "GET" => {
            let listener = api.handle.events().listen(ask.last_event.as_deref(), filter(ask), &ask.client);
            let frames = futures_util::stream::unfold(listener, |mut listener| async move {
                listener.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), listener))
            });
            Body::from_stream(frames)
        }
        "HEAD" => Body::empty(),
        _ => return Err(no_such()),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    uncached(&mut response);
    Ok(response)
}

/// Types that nobody knows choose nothing; no type at all chooses everything.
fn filter(ask: &Ask) -> Filter {
    let mut named = ask.query.all("event_type").peekable();
    if named.peek().is_none() {
        return Filter::all();
    }
    Filter::only(named.filter_map(|name| EVENTS.iter().map(|(kind, _)| *kind).find(|kind| *kind == name)))
}
