//! What a request under an idempotency key came to, so that a repetition is answered and not carried out. The outcome is written in the
//! transaction of the intent; who may repeat and how long one waits for the other is the shell's.
//!
//! Keys of the store: `once/<name>` has the outcome, `once-at/<milliseconds>/<name>` says when it was written, for the pruning.

use plenum_api::{Millis, Now};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::requests::Reply;
use super::{Core, Effect, Write, batch, records};

/// How long an outcome is kept.
pub const KEPT: Millis = Millis::from_secs(24 * 3600);
/// Larger bodies are not kept: a repetition hears the status, the headers and that the body was too large.
const MOST_BODY: usize = 64 * 1024;
/// Where outcomes are.
pub const OUTCOMES: &str = "once/";
/// Where their times are.
pub const TIMES: &str = "once-at/";
/// A transaction that has more writes gets no outcome on top.
const ROOM: usize = 91;

/// A request's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Made from the caller's name and the key: 64 hexadecimal digits.
    pub name: String,
    /// Made from method, path, query and body: the same key with another digest is another request.
    pub digest: String,
    /// The caller.
    pub principal: String,
}

/// An outcome as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    f: u32,
    /// When it was written (time of day).
    pub at: Millis,
    /// Of which request.
    pub digest: String,
    /// Whose.
    pub principal: String,
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deployment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
}

impl Outcome {
    /// Reads a record.
    ///
    /// # Errors
    /// In words, when it is of another format or damaged.
    pub fn read(value: &[u8]) -> Result<Self, String> {
        let outcome: Self = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        if outcome.f == records::FORMAT { Ok(outcome) } else { Err(format!("its format is {}", outcome.f)) }
    }

    /// Whether it counts at this time of day.
    pub fn counts(&self, wall: Millis) -> bool {
        wall.since(self.at) < KEPT
    }

    /// The answer again.
    pub fn reply(self) -> Reply {
        Reply { status: self.status, body: self.body, deployment: self.deployment, location: self.location }
    }
}

impl Once {
    /// Where the outcome is.
    pub fn key(&self) -> String {
        format!("{OUTCOMES}{}", self.name)
    }

    fn writes(&self, reply: &Reply, now: Now) -> [Write; 2] {
        let is_small = |body: &Value| body.to_string().len() <= MOST_BODY;
        let large =
            || json!({"message": "This was carried out before; its answer was too large to be kept."});
        let outcome = Outcome {
            f: records::FORMAT,
            at: now.wall,
            digest: self.digest.clone(),
            principal: self.principal.clone(),
            status: reply.status,
            body: reply.body.as_ref().map(|body| if is_small(body) { body.clone() } else { large() }),
            deployment: reply.deployment.clone(),
            location: reply.location.clone(),
        };
        [records::put(self.key(), &outcome), Write::Put(time_key(now.wall, &self.name), Vec::new())]
    }
}

/// Where the time of an outcome is; keys are in the order of time.
pub fn time_key(at: Millis, name: &str) -> String {
    format!("{TIMES}{:016}/{name}", at.0)
}

/// The time and the name in such a key.
pub fn time_of(key: &str) -> Option<(Millis, &str)> {
    let (at, name) = key.strip_prefix(TIMES)?.split_once('/')?;
    Some((Millis(at.parse().ok()?), name))
}

impl Core {
    /// Puts the outcome into the transaction that makes the request count, whose effects begin at `from`: the one that says so, else the
    /// last; into one of its own, if it has none.
    pub(super) fn remember(&mut self, from: usize, once: &Once, reply: &Reply, now: Now) {
        let writes = once.writes(reply, now);
        let commits = self.out.iter_mut().skip(from);
        let commits = commits
            .filter_map(|effect| if let Effect::Commit(writes) = effect { Some(writes) } else { None });
        let last = commits.reduce(|best, next| if batch::decides(best) { best } else { next });
        match last.filter(|last| last.len() <= ROOM) {
            Some(last) => last.extend(writes),
            None => self.out.push(Effect::Commit(writes.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_read_what_was_written_and_times_are_in_order() {
        let once = Once { name: "ab".repeat(32), digest: "d".to_owned(), principal: "ann".to_owned() };
        let now = Now::new(Millis(5), Millis(1_700_000_000_000));
        let reply = Reply {
            status: 201,
            body: Some(json!({"id": "/a"})),
            deployment: None,
            location: Some("/v2/apps/a".to_owned()),
        };
        let [Write::Put(key, value), Write::Put(time, empty)] = once.writes(&reply, now) else { panic!() };
        assert_eq!((key, empty), (once.key(), Vec::new()));
        assert_eq!(time_of(&time), Some((now.wall, once.name.as_str())));
        let outcome = Outcome::read(&value).unwrap();
        assert!(outcome.counts(now.wall + Millis::from_secs(86_399)) && !outcome.counts(now.wall + KEPT));
        assert_eq!(outcome.reply(), reply);
        assert!(time_key(Millis(9), "z") < time_key(Millis(10), "a"));
        let large = Reply { body: Some(Value::from("x".repeat(MOST_BODY))), ..reply };
        let [Write::Put(_, value), _] = once.writes(&large, now) else { panic!() };
        assert!(value.len() < 1000, "a body beyond the bound is not kept");
        assert!(Outcome::read(b"{}").is_err() && time_of("once-at/x/y").is_none());
    }
}
