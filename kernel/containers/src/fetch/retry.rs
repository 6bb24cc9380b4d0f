//! Which failures of a server are worth another attempt, and how a download goes on where it broke off. Pure.

use super::FetchError;
use http::header::{CONTENT_RANGE, ETAG, LAST_MODIFIED, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// A server may ask for this much patience.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// So many new bytes are progress: failures before them are forgotten.
const WORTH: u64 = 256 * 1024;

/// A failed attempt.
#[derive(Debug)]
pub enum Failure {
    /// It would fail again.
    Final(FetchError),
    /// It may do next time, after this long if the server said so.
    Again(FetchError, Option<Duration>),
}

/// By the status and headers of an answer that is not the content.
pub fn refused(uri: String, status: StatusCode, headers: &HeaderMap) -> Failure {
    let error = FetchError::Status { uri, status: status.as_u16() };
    if !matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) {
        return Failure::Final(error);
    }
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Failure::Again(error, seconds.map(|seconds| Duration::from_secs(seconds).min(PAUSE_MAX)))
}

/// Whether an error of a client is about certificates: these do not mend themselves.
pub fn untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = match inner {
            Some(inner) => inner.downcast_ref::<rustls::Error>(),
            None => error.downcast_ref::<rustls::Error>(),
        };
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What is known of a download across its attempts.
#[derive(Debug, Default)]
pub struct State {
    /// Bytes that are here.
    pub done: u64,
    /// Of how many, if the server said so.
    pub total: Option<u64>,
    /// What tells this content from a later one; without it a download begins anew.
    validator: Option<String>,
    /// Most that was ever here.
    best: u64,
    failed: u32,
}

/// Where the bytes of an answer belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the beginning; what is here is of no use.
    Beginning,
    /// After what is here.
    End,
    /// Nowhere: begin anew by another attempt.
    Nowhere,
}

impl State {
    /// What to send to get the rest only: first byte and validator.
    pub fn rest(&self) -> Option<(u64, &str)> {
        Some((self.done, self.validator.as_deref()?)).filter(|(done, _)| *done > 0)
    }

    /// What the server calls the content that is here.
    pub fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Learns from the headers of an answer with content; `length` is that of its body.
    pub fn place(&mut self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> Place {
        let found = validator(headers);
        if status != StatusCode::PARTIAL_CONTENT {
            self.validator = found;
            self.total = length;
            return Place::Beginning;
        }
        let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(range);
        let same = found.is_none() || found == self.validator;
        let fits = range.is_some_and(|(begin, total)| {
            begin == self.done && (total.is_none() || self.total.is_none() || total == self.total)
        });
        if same && fits && self.rest().is_some() { Place::End } else { Place::Nowhere }
    }

    /// Whether another attempt may be made after a failed one.
    pub fn again(&mut self, attempts: u32) -> bool {
        // Only what was never here before is progress, or a server that breaks off at the same place had no end.
        if self.done >= self.best.saturating_add(WORTH) {
            self.failed = 0;
        }
        self.best = self.best.max(self.done);
        self.failed = self.failed.saturating_add(1);
        self.failed < attempts.max(1)
    }
}

/// A strong entity tag, else the time of the last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let strong = text(ETAG).filter(|tag| tag.starts_with('"'));
    strong.or_else(|| text(LAST_MODIFIED)).map(str::to_owned)
}

/// `bytes 5-9/10`: 5 and 10.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    Some((span.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_is_asked_again() {
        for (status, after, want) in [
            (404, None, None),
            (403, Some("5"), None),
            (503, Some("5"), Some(Some(5))),
            (429, Some("86400"), Some(Some(60))),
            (500, Some("Wed, 21 Oct 2015 07:28:00 GMT"), Some(None)),
            (504, None, Some(None)),
        ] {
            let sent: Vec<_> = after.map(|after| ("retry-after", after)).into_iter().collect();
            let found = match refused("u".into(), StatusCode::from_u16(status).unwrap(), &headers(&sent)) {
                Failure::Final(_) => None,
                Failure::Again(_, pause) => Some(pause.map(|pause| pause.as_secs())),
            };
            assert_eq!(found, want, "{status} {after:?}");
        }
    }

    #[test]
    fn parts_are_put_together_only_if_they_are_of_one_content() {
        let begun = |tag: &str| {
            let mut state = State::default();
            let place = state.place(StatusCode::OK, &headers(&[("etag", tag)]), Some(10));
            assert_eq!(place, Place::Beginning);
            state.done = 5;
            state
        };
        for (tag, answer, want) in [
            ("\"a\"", vec![("content-range", "bytes 5-9/10")], Place::End),
            ("\"a\"", vec![("content-range", "bytes 5-9/*"), ("etag", "\"a\"")], Place::End),
            ("\"a\"", vec![("content-range", "bytes 5-9/10"), ("etag", "\"b\"")], Place::Nowhere),
            ("\"a\"", vec![("content-range", "bytes 4-9/10")], Place::Nowhere),
            ("\"a\"", vec![("content-range", "bytes 5-9/11")], Place::Nowhere),
            ("\"a\"", vec![("content-range", "items 5-9/10")], Place::Nowhere),
            ("\"a\"", vec![], Place::Nowhere),
            ("W/\"a\"", vec![("content-range", "bytes 5-9/10")], Place::Nowhere),
        ] {
            let mut state = begun(tag);
            assert_eq!(state.rest().is_some(), tag == "\"a\"");
            let place = state.place(StatusCode::PARTIAL_CONTENT, &headers(&answer), Some(5));
            assert_eq!(place, want, "{tag} {answer:?}");
        }
    }

    #[test]
    fn only_progress_earns_patience() {
        let mut state = State::default();
        for round in 1..=10 {
            state.done = round * WORTH;
            assert!(state.again(2), "it goes on");
        }
        state.done = 0;
        assert!(!state.again(2));
        state.done = 10 * WORTH;
        assert!(!state.again(2), "that was here before");
    }
}
