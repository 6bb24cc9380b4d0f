//! What the agent's records say and how they are framed: `PLNM`, format number, checksum, protobuf.

use bytes::Bytes;
use plenum_api::mesos::{
    ExecutorInfo, FrameworkInfo, NetworkInfo, Operation, Resource, TaskInfo, TaskStatus,
};
use prost::Message;

use super::event::RecordWrite;

const MAGIC: &[u8; 4] = b"PLNM";
/// The format written. Formats before it that can still be read: none.
const FORMAT: u32 = 1;
const HEADER: usize = 16;

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It does not begin as one of ours.
    #[error("it is not a record of an agent")]
    NotOurs,
    /// Written by a release this one cannot read.
    #[error("it has format {0}; this release reads format {FORMAT}")]
    Format(u32),
    /// The bytes changed on the disk.
    #[error("its checksum does not fit; the disk may be failing")]
    Checksum,
    /// The body is not what its key promises.
    #[error("its body cannot be decoded: {0}")]
    Body(String),
}

/// Record `agent`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AgentRecord {
    #[prost(string, tag = "1")]
    pub agent_id: String,
    #[prost(string, tag = "2")]
    pub cluster_id: String,
    #[prost(string, tag = "3")]
    pub hostname: String,
}

/// Record `term`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TermRecord {
    #[prost(uint64, tag = "1")]
    pub term: u64,
}

/// Record `drain`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DrainRecord {
    #[prost(bool, tag = "1")]
    pub mark_gone: bool,
    /// Milliseconds.
    #[prost(uint64, optional, tag = "2")]
    pub max_grace: Option<u64>,
    /// Wall time, milliseconds.
    #[prost(uint64, tag = "3")]
    pub began: u64,
}

/// Record `overlay`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OverlayRecord {
    /// The number of this node's slice.
    #[prost(uint32, tag = "1")]
    pub slice: u32,
}

/// Record `boot_id`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BootRecord {
    #[prost(string, tag = "1")]
    pub boot_id: String,
}

/// Key of the record of what operations made.
pub(crate) const RECORD: &str = "resources";

/// Record `resources`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResourcesRecord {
    /// Dynamic reservations and persistent volumes.
    #[prost(message, repeated, tag = "1")]
    pub resources: Vec<Resource>,
    /// Oldest first.
    #[prost(message, repeated, tag = "2")]
    pub operations: Vec<OperationRecord>,
}

/// An operation that is through, in the record `resources`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperationRecord {
    #[prost(message, optional, tag = "1")]
    pub operation: Option<Operation>,
    /// Somebody took note of the result.
    #[prost(bool, tag = "2")]
    pub acknowledged: bool,
}

/// Record `frameworks/<F>/framework`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FrameworkRecord {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "2")]
    pub info: Option<FrameworkInfo>,
    #[prost(bool, tag = "3")]
    pub terminating: bool,
}

/// Record `frameworks/<F>/executors/<E>`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExecutorRecord {
    #[prost(string, tag = "1")]
    pub framework_id: String,
    #[prost(message, optional, tag = "2")]
    pub info: Option<ExecutorInfo>,
    #[prost(string, tag = "3")]
    pub container_id: String,
    #[prost(string, tag = "4")]
    pub directory: String,
    #[prost(string, tag = "5")]
    pub token: String,
    /// Numbers of the GPUs it has.
    #[prost(uint32, repeated, tag = "6")]
    pub gpus: Vec<u32>,
}

/// Record `frameworks/<F>/tasks/<T>`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TaskRecord {
    #[prost(string, tag = "1")]
    pub framework_id: String,
    #[prost(message, optional, tag = "2")]
    pub info: Option<TaskInfo>,
    /// Set for tasks of a custom executor.
    #[prost(string, optional, tag = "3")]
    pub executor_id: Option<String>,
    #[prost(string, tag = "4")]
    pub container_id: String,
    #[prost(string, tag = "5")]
    pub directory: String,
    #[prost(bytes = "bytes", tag = "6")]
    pub launch_id: Bytes,
    /// The container's own process was started (or the task was handed to its executor).
    #[prost(bool, tag = "7")]
    pub started: bool,
    #[prost(uint32, optional, tag = "8")]
    pub pid: Option<u32>,
    #[prost(message, repeated, tag = "9")]
    pub networks: Vec<NetworkInfo>,
    /// Newest status, acknowledged or not.
    #[prost(message, optional, tag = "10")]
    pub latest: Option<TaskStatus>,
    /// Updates not acknowledged, oldest first.
    #[prost(message, repeated, tag = "11")]
    pub pending: Vec<TaskStatus>,
    /// Wall time of the start, milliseconds.
    #[prost(uint64, tag = "12")]
    pub started_at: u64,
    /// Wall time of the end, milliseconds; 0 while it runs.
    #[prost(uint64, tag = "13")]
    pub finished_at: u64,
    /// Everything was acknowledged: only remembers that the id was used.
    #[prost(bool, tag = "14")]
    pub tombstone: bool,
    /// As `KillCause`'s number; 0 when no kill was asked for.
    #[prost(uint32, tag = "15")]
    pub killed: u32,
    /// Update ids of the executor that were acknowledged lately.
    #[prost(bytes = "bytes", repeated, tag = "16")]
    pub known_uuids: Vec<Bytes>,
    /// Its executor is a pod; the container is the task's own.
    #[prost(bool, tag = "17")]
    pub pod: bool,
    /// It was launched with a group.
    #[prost(bool, tag = "18")]
    pub group: bool,
    /// The image it runs, by digest.
    #[prost(string, tag = "19")]
    pub image: String,
    /// Numbers of the GPUs it has.
    #[prost(uint32, repeated, tag = "20")]
    pub gpus: Vec<u32>,
}

/// Frames a record for the disk.
pub(crate) fn seal(record: &impl Message) -> Vec<u8> {
    let payload = record.encode_to_vec();
    let mut body = Vec::with_capacity(HEADER + payload.len());
    body.extend_from_slice(MAGIC);
    body.extend_from_slice(&FORMAT.to_le_bytes());
    body.extend_from_slice(&checksum(&payload).to_le_bytes());
    body.extend_from_slice(&payload);
    body
}

/// Opens a record.
pub(crate) fn open<M: Message + Default>(body: &[u8]) -> Result<M, RecordError> {
    let (header, payload) = body.split_at_checked(HEADER).ok_or(RecordError::NotOurs)?;
    let (magic, rest) = header.split_at(4);
    if magic != MAGIC {
        return Err(RecordError::NotOurs);
    }
    let (format, sum) = rest.split_at(4);
    let format = u32::from_le_bytes(format.try_into().map_err(|_| RecordError::NotOurs)?);
    if format != FORMAT {
        return Err(RecordError::Format(format));
    }
    let sum = u64::from_le_bytes(sum.try_into().map_err(|_| RecordError::NotOurs)?);
    if sum != checksum(payload) {
        return Err(RecordError::Checksum);
    }
    M::decode(payload).map_err(|error| RecordError::Body(error.to_string()))
}

/// FNV-1a: enough to notice a damaged block, no secret is at stake.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A write of a record.
pub(crate) fn put(key: String, record: &impl Message) -> RecordWrite {
    RecordWrite { key, body: Some(seal(record)) }
}

/// A deletion.
pub(crate) fn delete(key: String) -> RecordWrite {
    RecordWrite { key, body: None }
}

/// Key of a framework's record.
pub(crate) fn framework_key(framework: &str) -> String {
    format!("frameworks/{}/framework", segment(framework))
}

/// Key of an executor's record.
pub(crate) fn executor_key(framework: &str, executor: &str) -> String {
    format!("frameworks/{}/executors/{}", segment(framework), segment(executor))
}

/// Key of a task's record.
pub(crate) fn task_key(framework: &str, task: &str) -> String {
    format!("frameworks/{}/tasks/{}", segment(framework), segment(task))
}

/// An id as one file name: distinct for distinct ids, at most 255 bytes, never hidden. Ids are inside the records, so that this need
/// not be undone.
fn segment(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for (at, byte) in id.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("%2E"),
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' | b':' | b'@' | b'=' => {
                name.push(char::from(byte));
            }
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    if name.is_empty() || name.len() > 200 {
        let mut cut = name.len().min(150);
        while !name.is_char_boundary(cut) {
            cut -= 1;
        }
        name.truncate(cut);
        name.push_str(&format!("%~{:016x}{:016x}", checksum(id.as_bytes()), second_checksum(id)));
    }
    name
}

/// A second, independent sum, so that two long ids do not meet by chance.
fn second_checksum(id: &str) -> u64 {
    id.bytes().fold(0x9e37_79b9_7f4a_7c15, |hash: u64, byte| {
        (hash.rotate_left(9) ^ u64::from(byte)).wrapping_mul(0xff51_afd7_ed55_8ccd)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_damage_is_named() {
        let record = TermRecord { term: 7 };
        let body = seal(&record);
        assert_eq!(open::<TermRecord>(&body), Ok(record));
        let mut flipped = body.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut newer = body.clone();
        newer[4] = 9;
        for (bytes, error) in [
            (b"".to_vec(), RecordError::NotOurs),
            (b"{\"json\": true, \"x\": 1}".to_vec(), RecordError::NotOurs),
            (body[..body.len() - 1].to_vec(), RecordError::Checksum),
            (flipped, RecordError::Checksum),
            (newer, RecordError::Format(9)),
        ] {
            assert_eq!(open::<TermRecord>(&bytes), Err(error));
        }
    }

    #[test]
    fn ids_become_distinct_file_names() {
        let long_a = format!("{}a", "x".repeat(300));
        let long_b = format!("{}b", "x".repeat(300));
        let ids = ["a", ".", "..", ".tmp-0", "%2E", "a/b", "a%2Fb", "ä", "", &long_a, &long_b, "A"];
        let names: std::collections::BTreeSet<String> = ids.iter().map(|id| segment(id)).collect();
        assert_eq!(names.len(), ids.len());
        for name in names {
            assert!(!name.starts_with('.') && !name.contains('/') && name.len() <= 255, "{name}");
        }
    }
}
