//! What the master keeps in the store: keys, records, formats.
//!
//! Owns writing a record as an operation and reading records at start. When something is stored is decided where it happens.
//! Each value is JSON with a `format` number; format 1 is the only one so far.

use std::collections::BTreeMap;

use plenum_api::{Millis, mesos, quota};
use plenum_store::{Entry, Op};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format this release writes, and the newest it reads.
const FORMAT: u32 = 1;

/// A record that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer release.
    #[error(
        "record {key} has format {format}; this release reads up to {FORMAT}: start the release that wrote it, or a newer one"
    )]
    Newer {
        /// Where.
        key: String,
        /// Its format.
        format: u32,
    },
    /// Not a record of this kind.
    #[error(
        "record {key} cannot be read ({reason}): restore the store from a copy, or delete this key if the loss is known to be harmless"
    )]
    Broken {
        /// Where.
        key: String,
        /// What the parser said.
        reason: String,
    },
}

/// Whether an agent is admitted, lost or given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It may run tasks.
    Admitted,
    /// It was away too long.
    Unreachable,
    /// It must not come back.
    Gone,
}

/// Whether operators let an agent serve. The usual is: they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    /// It is offered nothing.
    pub deactivated: bool,
    /// It is draining or drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// How an agent is drained, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// No task gets more grace than this; none: each gets what its kill policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_grace: Option<Millis>,
    /// Once drained, it is gone for ever.
    pub mark_gone: bool,
    /// Time of day when it began.
    pub started: Millis,
    /// Nothing runs on it any more.
    pub drained: bool,
}

impl Life {
    /// Whether nothing was said about it.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is offered.
    pub fn serves(&self) -> bool {
        !self.deactivated && self.drain.is_none()
    }

    /// Whether it still has to become empty.
    pub fn is_draining(&self) -> bool {
        self.drain.is_some_and(|drain| !drain.drained)
    }
}

impl Drain {
    /// As messages say it.
    pub fn config(&self) -> mesos::DrainConfig {
        mesos::DrainConfig {
            max_grace_period: self
                .max_grace
                .map(|grace| mesos::DurationInfo { nanoseconds: grace.as_nanos() }),
            mark_gone: Some(self.mark_gone),
        }
    }

    /// As messages say it.
    pub fn info(&self) -> mesos::DrainInfo {
        let state = if self.drained { mesos::DrainState::Drained } else { mesos::DrainState::Draining };
        mesos::DrainInfo { state: state as i32, config: self.config() }
    }
}

/// `agent/<id>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// As it described itself.
    pub info: mesos::AgentInfo,
    /// Which key may speak for it.
    pub identity: String,
    /// The name of its node; empty where it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// What it is.
    pub state: AgentState,
    /// Time of day since when it is.
    pub since: Millis,
    /// Who caused the change.
    pub principal: String,
    /// Whether operators let it serve.
    #[serde(default, skip_serializing_if = "Life::is_usual")]
    pub life: Life,
}

/// `framework/<id>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameworkRecord {
    /// As it described itself.
    pub info: mesos::FrameworkInfo,
    /// Who subscribed it.
    pub principal: String,
    /// Time of day of its first subscription.
    pub registered: Millis,
}

/// `removed/<id>`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedRecord {
    /// The name it had.
    pub name: String,
    /// Time of day of its removal.
    pub at: Millis,
    /// Who removed it; the framework itself when its time ran out.
    pub principal: String,
}

/// `weight/<role>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightRecord {
    /// Above zero.
    pub weight: f64,
    /// Who set it.
    pub principal: String,
}

/// `quota/<role>`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuotaRecord {
    /// Limits and guarantees.
    pub config: quota::QuotaConfig,
    /// Who set it.
    pub principal: String,
}

/// `slice/<number>`: who has a slice of the overlay's range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceRecord {
    /// The agent's id.
    pub agent: String,
    /// The address at which other nodes reach it.
    pub address: String,
}

/// Everything in the store, by id or role.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// Agents.
    pub agents: BTreeMap<String, AgentRecord>,
    /// Frameworks.
    pub frameworks: BTreeMap<String, FrameworkRecord>,
    /// Removed frameworks.
    pub removed: BTreeMap<String, RemovedRecord>,
    /// Weights of roles.
    pub weights: BTreeMap<String, WeightRecord>,
    /// Quotas of roles.
    pub quotas: BTreeMap<String, QuotaRecord>,
    /// Slices of the overlay's range, by number.
    pub slices: BTreeMap<String, SliceRecord>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    format: u32,
    #[serde(flatten)]
    record: T,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

fn parse<T: DeserializeOwned>(entry: &Entry) -> Result<T, RecordError> {
    let broken = |e: serde_json::Error| RecordError::Broken { key: entry.key.clone(), reason: e.to_string() };
    let FormatOnly { format } = serde_json::from_slice(&entry.value).map_err(broken)?;
    if format > FORMAT {
        return Err(RecordError::Newer { key: entry.key.clone(), format });
    }
    serde_json::from_slice(&entry.value).map_err(broken)
}

fn put<T: Serialize>(kind: &str, name: &str, record: &T) -> Op {
    // Serializing plain records to memory fails only for maps with keys that are not strings, and there are none.
    let value = serde_json::to_vec(&Versioned { format: FORMAT, record }).unwrap_or_default();
    Op::Put { key: key(kind, name), value: value.into(), lease: None }
}

/// The key of a record. Ids and roles may hold any character but are one component of the path.
fn key(kind: &str, name: &str) -> String {
    let mut key = String::with_capacity(kind.len() + 1 + name.len());
    key.push_str(kind);
    key.push('/');
    for c in name.chars() {
        match c {
            '%' => key.push_str("%25"),
            '/' => key.push_str("%2F"),
            c => key.push(c),
        }
    }
    key
}

fn name(component: &str) -> String {
    component.replace("%2F", "/").replace("%25", "%")
}

/// Stores an agent.
pub(crate) fn put_agent(id: &str, record: &AgentRecord) -> Op {
    put("agent", id, record)
}

/// Stores a framework.
pub(crate) fn put_framework(id: &str, record: &FrameworkRecord) -> Op {
    put("framework", id, record)
}

/// Stores that a framework is dead.
pub(crate) fn put_removed(id: &str, record: &RemovedRecord) -> Op {
    put("removed", id, record)
}

/// Stores a weight.
pub(crate) fn put_weight(role: &str, record: &WeightRecord) -> Op {
    put("weight", role, record)
}

/// Stores a quota.
pub(crate) fn put_quota(role: &str, record: &QuotaRecord) -> Op {
    put("quota", role, record)
}

/// Stores who has a slice.
pub(crate) fn put_slice(number: u32, record: &SliceRecord) -> Op {
    put("slice", &number.to_string(), record)
}

/// Forgets a record of a kind: `agent`, `framework`, `removed`, `weight`, `quota` or `slice`.
pub(crate) fn delete(kind: &str, id: &str) -> Op {
    Op::Delete { key: key(kind, id) }
}

impl Records {
    /// Takes in one entry of the store. Keys of other kinds (the election's) are passed over.
    ///
    /// # Errors
    ///
    /// [`RecordError`] names the key that cannot be read.
    pub fn take(&mut self, entry: &Entry) -> Result<(), RecordError> {
        let Some((kind, id)) = entry.key.split_once('/') else { return Ok(()) };
        let id = name(id);
        match kind {
            "agent" => drop(self.agents.insert(id, parse(entry)?)),
            "framework" => drop(self.frameworks.insert(id, parse(entry)?)),
            "removed" => drop(self.removed.insert(id, parse(entry)?)),
            "weight" => drop(self.weights.insert(id, parse(entry)?)),
            "quota" => drop(self.quotas.insert(id, parse(entry)?)),
            "slice" => drop(self.slices.insert(id, parse(entry)?)),
            _ => {}
        }
        Ok(())
    }

    /// Takes out what was under a key of the store.
    pub fn forget(&mut self, key: &str) {
        let Some((kind, id)) = key.split_once('/') else { return };
        let id = name(id);
        match kind {
            "agent" => drop(self.agents.remove(&id)),
            "framework" => drop(self.frameworks.remove(&id)),
            "removed" => drop(self.removed.remove(&id)),
            "weight" => drop(self.weights.remove(&id)),
            "quota" => drop(self.quotas.remove(&id)),
            "slice" => drop(self.slices.remove(&id)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use plenum_store::Revision;

    use super::*;

    fn entry(op: Op) -> Entry {
        let Op::Put { key, value, .. } = op else { panic!("a put") };
        Entry { key, value, create_revision: Revision(1), mod_revision: Revision(1), lease: None }
    }

    #[test]
    fn records_come_back_as_written() {
        let weight = WeightRecord { weight: 2.5, principal: "op".into() };
        let removed = RemovedRecord { name: "m".into(), at: Millis(7), principal: "op".into() };
        let mut records = Records::default();
        records.take(&entry(put_weight("eng/a%b", &weight))).expect("readable");
        records.take(&entry(put_removed("f1", &removed))).expect("readable");
        assert_eq!(records.weights.get("eng/a%b"), Some(&weight));
        assert_eq!(records.removed.get("f1"), Some(&removed));
    }

    #[test]
    fn an_unknown_record_is_an_error_with_a_name() {
        for (value, newer) in
            [(&b"{\"format\":9}"[..], true), (b"{}", false), (b"\xff", false), (b"{\"format\":1}", false)]
        {
            let mut entry = entry(put_removed(
                "f1",
                &RemovedRecord { name: String::new(), at: Millis(0), principal: String::new() },
            ));
            entry.value = bytes::Bytes::copy_from_slice(value);
            let error = Records::default().take(&entry).expect_err("refused");
            assert_eq!(matches!(error, RecordError::Newer { .. }), newer);
            assert!(error.to_string().contains("removed/f1"), "{error}");
        }
    }
}
