//! `/v2/events`: server-sent events. A listener that is too slow loses the oldest; it is told so in a comment and goes
//! on, since listeners take events as a hint to look again.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::StreamExt;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use plenum_base::clock::OsClock;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::answer::uncached;
use super::{Api, Ask};
use crate::core::{Notice, time};

/// A comment goes out when nothing else did for so long.
const ALIVE: Duration = Duration::from_secs(15);

pub(super) fn stream(api: &Api, ask: &Ask) -> Response {
    let wanted: BTreeSet<String> = ask.query.all("event_type").map(str::to_owned).collect();
    let listener = api.handle.listen();
    let attached = attached(&ask.client);
    api.handle.publish(attached);
    let frames = futures_util::stream::unfold((listener, wanted), |(mut listener, wanted)| async move {
        loop {
            match tokio::time::timeout(ALIVE, listener.recv()).await {
                Err(_) => return Some((Bytes::from_static(b":\n\n"), (listener, wanted))),
                Ok(Err(RecvError::Closed)) => return None,
                Ok(Err(RecvError::Lagged(n))) => {
                    return Some((Bytes::from(format!(": {n} events were lost\n\n")), (listener, wanted)));
                }
                Ok(Ok(notice)) if wanted.is_empty() || wanted.contains(notice.kind) => {
                    let frame = format!("event: {}\ndata: {}\n\n", notice.kind, notice.body);
                    return Some((Bytes::from(frame), (listener, wanted)));
                }
                Ok(Ok(_)) => {}
            }
        }
    });
    let frames = futures_util::stream::once(async { Bytes::from_static(b":\n\n") }).chain(frames);
    let mut response = Response::new(Body::from_stream(frames.map(Ok::<_, Infallible>)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    uncached(&mut response);
    response
}

fn attached(client: &str) -> Notice {
    let kind = "event_stream_attached";
    let timestamp = time::text(OsClock.now().wall);
    Notice { kind, body: json!({"eventType": kind, "remoteAddress": client, "timestamp": timestamp}) }
}
