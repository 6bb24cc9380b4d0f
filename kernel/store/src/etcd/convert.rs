//! Requests, answers and errors, translated between the store's terms and etcd's (its v3 API). No I/O.

use std::collections::BTreeSet;

use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, DeleteOptions, Error, GetOptions, KeyValue, PutOptions, ResponseHeader, TxnOp,
    TxnOpResponse, TxnResponse,
};

use crate::{Entry, Guard, LeaseId, Op, Revision, StoreError, Txn};

/// What was being done when something went wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Connect,
    Read,
    Write,
    /// A transaction; with the first lease it names.
    Commit(Option<LeaseId>),
    /// Something with a lease.
    Lease(LeaseId),
}

impl Call {
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Commit(_) | Self::Lease(_))
    }
}

/// Keys from `start` up to `end`, or one key.
pub(super) struct Span {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
}

/// What etcd reads as "no end" and "from the beginning".
const OPEN: &[u8] = b"\0";

impl Span {
    pub(super) fn key(key: &str) -> Self {
        Self { start: key.as_bytes().to_vec(), end: None }
    }

    /// All keys that start with `prefix`.
    pub(super) fn prefix(prefix: &str) -> Self {
        let mut end = prefix.as_bytes().to_vec();
        match end.last_mut() {
            // UTF-8 has no byte 0xff, so the last one can always be counted up.
            Some(last) => *last = last.saturating_add(1),
            None => end = OPEN.to_vec(),
        }
        let start = if prefix.is_empty() { OPEN.to_vec() } else { prefix.as_bytes().to_vec() };
        Self { start, end: Some(end) }
    }

    /// Of those, the ones after a key.
    pub(super) fn after(prefix: &str, after: Option<&str>) -> Self {
        let mut span = Self::prefix(prefix);
        if let Some(after) = after.filter(|after| *after >= prefix) {
            span.start = [after.as_bytes(), b"\0"].concat();
        }
        span
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end != OPEN && self.start >= *end)
    }
}

/// The transaction; should a guard not hold, it answers with each guard's key instead, without values.
pub(super) fn txn(txn: &Txn) -> etcd_client::Txn {
    let compares: Vec<Compare> = txn.guards.iter().map(compare).collect();
    let ops: Vec<TxnOp> = txn.ops.iter().map(op).collect();
    let look =
        txn.guards.iter().map(|guard| TxnOp::get(guard.key(), Some(GetOptions::new().with_keys_only())));
    etcd_client::Txn::new().when(compares).and_then(ops).or_else(look.collect::<Vec<_>>())
}

fn compare(guard: &Guard) -> Compare {
    let key = guard.key();
    match guard {
        Guard::Absent(_) => Compare::create_revision(key, CompareOp::Equal, 0),
        Guard::Exists(_) => Compare::create_revision(key, CompareOp::Greater, 0),
        // To etcd an absent key has the revision 0; to us it has none.
        Guard::ModRevision(_, revision) => {
            let revision = i64::try_from(revision.0).ok().filter(|revision| *revision > 0);
            Compare::mod_revision(key, CompareOp::Equal, revision.unwrap_or(i64::MAX))
        }
        Guard::Value(_, value) => Compare::value(key, CompareOp::Equal, value.to_vec()),
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.to_vec(), options)
        }
        Op::Delete { key } => TxnOp::delete(key.as_str(), None::<DeleteOptions>),
    }
}

pub(super) fn first_lease(txn: &Txn) -> Option<LeaseId> {
    txn.ops.iter().find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete { .. } => None,
    })
}

/// What a refused transaction found at its guards' keys.
pub(super) fn found(response: &TxnResponse, guards: usize) -> Result<Vec<Option<Entry>>, StoreError> {
    let found: Vec<_> = response
        .op_responses()
        .into_iter()
        .map(|response| match response {
            TxnOpResponse::Get(mut get) => get.take_kvs().pop().map(entry).transpose(),
            _ => Err(StoreError::broken("etcd's answer does not fit the question")),
        })
        .collect::<Result<_, _>>()?;
    if found.len() == guards { Ok(found) } else { Err(StoreError::broken("etcd's answer is incomplete")) }
}

pub(super) fn revision(header: Option<&ResponseHeader>) -> Result<Revision, StoreError> {
    let revision = header.and_then(|header| u64::try_from(header.revision()).ok());
    revision.map(Revision).ok_or_else(|| StoreError::broken("etcd's answer has no revision"))
}

/// A revision of etcd's, which are positive.
pub(super) fn number(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}

pub(super) fn key(bytes: Vec<u8>) -> Result<String, StoreError> {
    String::from_utf8(bytes)
        .map_err(|_| StoreError::broken("etcd holds a key under our prefix that is not UTF-8"))
}

pub(super) fn entry(kv: KeyValue) -> Result<Entry, StoreError> {
    let create_revision = number(kv.create_revision());
    let mod_revision = number(kv.mod_revision());
    let lease = Some(kv.lease()).filter(|lease| *lease != 0).map(LeaseId);
    let (bytes, value) = kv.into_key_value();
    Ok(Entry { key: key(bytes)?, value: Bytes::from(value), create_revision, mod_revision, lease })
}

/// gRPC's status codes that mean something here (google.rpc.Code).
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const UNIMPLEMENTED: i32 = 12;
const DATA_LOSS: i32 = 15;

pub(super) fn error(error: &Error, call: Call) -> StoreError {
    let maybe_applied = call.writes();
    match error {
        Error::GRpcStatus(status) => by_code(status.code() as i32, status.message(), call),
        Error::LeaseKeepAliveError(text) => match call {
            Call::Lease(lease) if text.contains("not found") => StoreError::LeaseNotFound { lease },
            _ => StoreError::unavailable(text.clone()),
        },
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::EndpointError(_) => {
            StoreError::invalid(format!("etcd's endpoints: {error}"))
        }
        Error::TransportError(_) if matches!(call, Call::Connect) => {
            StoreError::invalid(format!("etcd's endpoints or certificates: {}", deepest(error)))
        }
        other => StoreError::Unavailable { reason: deepest(other), maybe_applied },
    }
}

fn by_code(code: i32, message: &str, call: Call) -> StoreError {
    let maybe_applied = call.writes();
    let reason = message.to_owned();
    if is_auth_on_the_move(message) {
        // Refused before anything was done.
        return StoreError::Unavailable { reason, maybe_applied: false };
    }
    match code {
        NOT_FOUND if message.contains("lease") => match call {
            Call::Lease(lease) | Call::Commit(Some(lease)) => StoreError::LeaseNotFound { lease },
            _ => StoreError::Broken { reason },
        },
        RESOURCE_EXHAUSTED if message.contains("space") => {
            StoreError::Full { reason: format!("etcd's quota: {reason}"), maybe_applied: false }
        }
        OUT_OF_RANGE if is_too_large_text(message) => StoreError::Broken { reason },
        INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | FAILED_PRECONDITION | OUT_OF_RANGE
        | UNIMPLEMENTED | DATA_LOSS => StoreError::Broken { reason: format!("etcd refuses: {reason}") },
        // Everything else is a connection, a leader or a token that is gone for a moment.
        _ => StoreError::Unavailable { reason, maybe_applied },
    }
}

/// Whether etcd refused because its users were changed while it looked, or because it does not know yet who asks. It passes.
pub(super) fn is_auth_on_the_move(message: &str) -> bool {
    const SAID: [&str; 3] = ["revision of auth store is old", "invalid auth token", "user name is empty"];
    SAID.iter().any(|said| message.contains(said))
}

/// The same, of an error made from it.
pub(super) fn is_users_moving(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { reason, maybe_applied: false } if is_auth_on_the_move(reason))
}

/// etcd's refusal of a user, in words that say where it ended: at the part of one of these keys.
pub(super) fn denied<'a>(error: StoreError, keys: impl IntoIterator<Item = &'a str>) -> StoreError {
    match error {
        StoreError::Broken { reason } if reason.contains("permission denied") => {
            let parts: BTreeSet<&str> = keys.into_iter().map(part).collect();
            let parts = parts.into_iter().collect::<Vec<_>>().join(" or ");
            StoreError::Broken {
                reason: format!("{reason}: the user in this certificate may not use {parts}"),
            }
        }
        other => other,
    }
}

/// The part of etcd that a key is in: its first three steps, as in `/plenum/default/catalog/`.
fn part(key: &str) -> &str {
    let end = key.match_indices('/').nth(3).map(|(at, _)| at.saturating_add(1));
    end.and_then(|end| key.get(..end)).unwrap_or(key)
}

/// The innermost cause, which is the one that says something ("connection refused").
fn deepest(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    if let Error::TransportError(transport) = error {
        cause = transport;
    }
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn is_too_large_text(message: &str) -> bool {
    message.contains("message length too large")
}

/// Whether an answer was larger than we take, so that less has to be asked for.
pub(super) fn is_answer_too_large(error: &StoreError) -> bool {
    matches!(error, StoreError::Broken { reason } if is_too_large_text(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_hold_what_starts_with_their_prefix() {
        let cases = [
            ("", None, b"\0".as_slice(), b"\0".as_slice()),
            ("a/", None, b"a/", b"a0"),
            ("a/", Some("a/b"), b"a/b\0", b"a0"),
            ("a/", Some("A"), b"a/", b"a0"),
            ("", Some("x"), b"x\0", b"\0"),
            ("\u{10ffff}", None, b"\xf4\x8f\xbf\xbf", b"\xf4\x8f\xbf\xc0"),
        ];
        for (prefix, after, start, end) in cases {
            let span = Span::after(prefix, after);
            assert_eq!(
                (span.start.as_slice(), span.end.as_deref()),
                (start, Some(end)),
                "{prefix:?} {after:?}"
            );
            assert!(!span.is_empty());
        }
        assert!(Span::after("a/", Some("b")).is_empty());
    }

    #[test]
    fn a_refusal_names_the_part_that_was_asked_for() {
        let refused = || by_code(7, "etcdserver: permission denied", Call::Read);
        let cases = [
            ("/plenum/default/identity/users/a/b", "not use /plenum/default/identity/"),
            ("/plenum/default/identity/", "not use /plenum/default/identity/"),
            ("k", "not use k"),
        ];
        for (key, said) in cases {
            let error = denied(refused(), [key]);
            assert!(error.code() == "broken" && error.to_string().ends_with(said), "{error}");
        }
        let several = denied(refused(), ["/a/b/d/x", "/a/b/c/x", "/a/b/c/y"]);
        assert!(several.to_string().ends_with("not use /a/b/c/ or /a/b/d/"), "{several}");
        let other = denied(StoreError::unavailable("x"), ["k"]);
        assert_eq!(other.code(), "unavailable");
        let moving = by_code(2, "auth: revision of auth store is old", Call::Commit(None));
        assert!(is_users_moving(&moving) && !is_users_moving(&other));
    }

    #[test]
    fn statuses_become_the_stores_errors() {
        let lease = LeaseId(7);
        let cases = [
            (14, "connection refused", Call::Read, "unavailable", false),
            (14, "connection refused", Call::Commit(None), "unavailable", true),
            (16, "etcdserver: invalid auth token", Call::Read, "unavailable", false),
            (8, "etcdserver: mvcc: database space exceeded", Call::Commit(None), "full", false),
            (8, "etcdserver: too many requests", Call::Commit(None), "unavailable", true),
            (5, "etcdserver: requested lease not found", Call::Commit(Some(lease)), "lease_not_found", false),
            (5, "etcdserver: requested lease not found", Call::Lease(lease), "lease_not_found", false),
            (7, "etcdserver: permission denied", Call::Read, "broken", false),
            (2, "auth: revision of auth store is old", Call::Commit(None), "unavailable", false),
            (3, "etcdserver: revision of auth store is old", Call::Read, "unavailable", false),
            (16, "etcdserver: invalid auth token", Call::Commit(None), "unavailable", false),
            (3, "etcdserver: user name is empty", Call::Write, "unavailable", false),
        ];
        for (code, message, call, expected, maybe) in cases {
            let error = by_code(code, message, call);
            assert_eq!((error.code(), error.maybe_applied()), (expected, maybe), "{code} {message}");
        }
    }
}
