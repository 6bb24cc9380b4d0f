//! What both drivers share: posting a call, following a redirect, reading records from a stream.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, LOCATION};
use plenum_api::codec::{self, Encoding, Message};
use plenum_api::recordio::{Decoder, RecordError};
use plenum_base::client::{Client, ClientError, Reply, Stream, full};

/// The header that names a subscription.
pub(crate) const STREAM_ID: HeaderName = HeaderName::from_static("mesos-stream-id");

/// Why a call was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no subscription at the moment; wait for the next one.
    #[error("not subscribed at the moment: wait until the driver has found a master")]
    NotSubscribed,
    /// Nobody answered.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The master does not lead, or not yet.
    #[error("{url} does not lead: {reason}")]
    NotLeading {
        /// Whom we asked.
        url: String,
        /// What it said.
        reason: String,
    },
    /// The master refused.
    #[error("{url} refused with {status}: {reason}")]
    Refused {
        /// Whom we asked.
        url: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        reason: String,
    },
    /// What came back is not what was promised.
    #[error("{url} answered something that is not understood: {reason}")]
    Content {
        /// Whom we asked.
        url: String,
        /// Why.
        reason: String,
    },
}

impl CallError {
    /// Whether asking again later, perhaps another master, may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotSubscribed | Self::Client(_) | Self::NotLeading { .. } | Self::Content { .. } => true,
            // Credentials are renewed while we run.
            Self::Refused { status, .. } => {
                status.is_server_error() || matches!(status.as_u16(), 401 | 403 | 408 | 429)
            }
        }
    }
}

/// One request.
pub(crate) struct Ask<'a> {
    pub(crate) url: &'a str,
    pub(crate) encoding: Encoding,
    pub(crate) stream_id: Option<&'a str>,
    pub(crate) body: Bytes,
    pub(crate) deadline: Duration,
}

/// What came of it.
pub(crate) enum Answer {
    /// 2xx.
    Good(Reply),
    /// Ask there instead.
    Elsewhere(String),
}

/// Posts a call.
pub(crate) async fn post(client: &Client, ask: Ask<'_>) -> Result<Answer, CallError> {
    let media = ask.encoding.media_type();
    let mut call = client.post(ask.url).header(CONTENT_TYPE, media).header(ACCEPT, media);
    if let Some(id) = ask.stream_id {
        call = call.header(STREAM_ID, id);
    }
    let reply = call.deadline(ask.deadline).body(full(ask.body)).send().await?;
    let url = ask.url.to_owned();
    if reply.status.is_success() {
        return Ok(Answer::Good(reply));
    }
    let status = reply.status;
    if status.is_redirection() {
        let location = reply.headers.get(LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        let target = location.and_then(|l| redirect(&url, &l));
        let missing = || CallError::NotLeading { url, reason: format!("{status} without a usable Location") };
        return target.map(Answer::Elsewhere).ok_or_else(missing);
    }
    let reason = reply.bytes_up_to(4096).await.unwrap_or_default();
    let reason: String = String::from_utf8_lossy(&reason).chars().take(500).collect();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return Err(CallError::NotLeading { url, reason: format!("{status} {reason}") });
    }
    Err(CallError::Refused { url, status, reason })
}

/// Where a redirect leads; `//host:port/path` keeps the scheme, a path keeps the host.
pub(crate) fn redirect(from: &str, location: &str) -> Option<String> {
    let (scheme, rest) = from.split_once("://")?;
    if location.contains("://") {
        return Some(location.to_owned());
    }
    if let Some(host) = location.strip_prefix("//") {
        return (!host.is_empty() && !host.starts_with('/')).then(|| format!("{scheme}://{host}"));
    }
    let authority = rest.split('/').next()?;
    location.starts_with('/').then(|| format!("{scheme}://{authority}{location}"))
}

/// Typed records from a reply's body.
pub(crate) struct Records {
    url: String,
    body: Stream,
    decoder: Decoder,
    encoding: Encoding,
    ready: VecDeque<Bytes>,
}

impl Records {
    pub(crate) fn new(url: &str, reply: Reply) -> Self {
        let named = reply.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let inner = reply.headers.get("message-content-type").and_then(|v| v.to_str().ok());
        let encoding = inner.or(named).and_then(Encoding::from_media_type).unwrap_or(Encoding::Json);
        let decoder = Decoder::default();
        Self { url: url.to_owned(), body: reply.stream(), decoder, encoding, ready: VecDeque::new() }
    }

    /// The next record; `None` when the master ended the stream.
    pub(crate) async fn next<T: Message>(&mut self, idle: Duration) -> Result<Option<T>, CallError> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return codec::decode(self.encoding, &record)
                    .map(Some)
                    .map_err(|e| self.content(e.to_string()));
            }
            let chunk = self.body.next_within(idle).await?;
            let Some(chunk) = chunk else {
                return self.decoder.finish().map(|()| None).map_err(|e| self.content(e.to_string()));
            };
            self.decoder.feed(&chunk);
            let mut take = || -> Result<(), RecordError> {
                while let Some(record) = self.decoder.next_record()? {
                    self.ready.push_back(record);
                }
                Ok(())
            };
            take().map_err(|e| self.content(e.to_string()))?;
        }
    }

    fn content(&self, reason: String) -> CallError {
        CallError::Content { url: self.url.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let from = "https://a:5050/api/v1/scheduler";
        for (location, want) in [
            ("//b:5050/api/v1/scheduler", Some("https://b:5050/api/v1/scheduler")),
            ("http://b:1/x", Some("http://b:1/x")),
            ("/x", Some("https://a:5050/x")),
            ("//", None),
            ("x", None),
        ] {
            assert_eq!(redirect(from, location).as_deref(), want, "{location}");
        }
    }
}
