//! The relay: tells what this replica has to those who follow it, over HTTP with mutual TLS. `GET /internal/v1/feed?epoch=E&generation=G`
//! answers lines ([`Line`]): how the relay is, then what follows that step (or everything), then each step as it comes, and a beat a second.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use plenum_base::auth::OnlyComponent;
use plenum_base::http_error::ApiError;
use plenum_base::places::Role;
use plenum_base::service::Shutdown;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::feed::Line;
use crate::replica::{Shared, encoded};

/// How often a relay says how it is.
pub const BEAT: Duration = Duration::from_secs(1);
/// A follower that takes nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);
/// Lines on their way to one follower.
const AHEAD: usize = 16;

/// What a follower has already.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct From {
    epoch: u64,
    generation: u64,
}

/// What the relay serves from.
#[derive(Debug, Clone)]
pub struct Relay {
    /// The replica.
    pub shared: Shared,
    /// Ends the streams.
    pub shutdown: Shutdown,
}

/// Answers a follower. Only components of the role discovery follow.
///
/// # Errors
/// 403 for everybody else.
pub async fn feed(
    State(relay): State<Relay>,
    OnlyComponent(who): OnlyComponent,
    Query(from): Query<From>,
) -> Result<Response, ApiError> {
    if !who.is_role(Role::Discovery.as_str()) {
        return Err(ApiError::forbidden("only discovery on another host follows this stream"));
    }
    let (to, lines) = mpsc::channel(AHEAD);
    tokio::spawn(pump(relay, (from.epoch, from.generation), to));
    let pieces =
        stream::unfold(
            lines,
            |mut lines| async move { Some((Ok::<_, Infallible>(lines.recv().await?), lines)) },
        );
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}

async fn pump(relay: Relay, mut at: (u64, u64), to: mpsc::Sender<Bytes>) {
    let mut changed = relay.shared.changed();
    loop {
        changed.mark_unchanged();
        let (steps, now) = relay.shared.lines_after(at);
        at = now;
        let beat = encoded(&Line::Beat(relay.shared.beat()));
        for line in beat.into_iter().chain(steps) {
            if to.send_timeout(line, PATIENCE).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = relay.shutdown.wait() => return,
            () = to.closed() => return,
            () = tokio::time::sleep(BEAT) => {}
            more = changed.changed() => if more.is_err() { return },
        }
    }
}
