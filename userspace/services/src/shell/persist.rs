//! The core's writes and the store: loading everything, committing batches. A value too large for one entry is laid
//! down in immutable chunks first; the entry itself then flips in the transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plenum_base::retry::{self, Backoff};
use plenum_store::{Op, Range, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::room::Room;
use crate::core::Write;

/// Values above this are stored in chunks.
const CHUNK: usize = 256 * 1024;
/// Writes of one transaction; the store takes 100 operations.
const MOST_WRITES: usize = 95;
/// Bytes of one transaction; the store takes 1 MiB, keys included.
const MOST_BYTES: usize = 700 * 1024;
/// How long a commit is tried.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same for a full store while somebody waits for the answer.
const PATIENCE_FULL: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Chunked {
    chunked: String,
    count: usize,
}

/// Why the store's content cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A chunk of a value is not there.
    #[error("a part of the record {0} is missing: restore it from a backup")]
    Missing(String),
}

/// Everything in the store, chunks put together and those of nobody removed.
///
/// # Errors
/// [`LoadError`].
pub async fn load(store: &Arc<dyn Store>) -> Result<Vec<(String, Vec<u8>)>, LoadError> {
    let (mut plain, mut chunks) = (Vec::new(), BTreeMap::new());
    let mut next = Some(Range::prefix(""));
    while let Some(range) = next {
        let page = store.range(range.clone()).await?;
        next = page.next(&range);
        for entry in page.entries {
            match entry.key.strip_prefix("chunks/") {
                Some(chunk) => drop(chunks.insert(chunk.to_owned(), entry.value)),
                None => plain.push((entry.key, entry.value)),
            }
        }
    }
    let (mut out, mut used) = (Vec::with_capacity(plain.len()), BTreeSet::new());
    for (key, value) in plain {
        let Some(root) = chunked(&value) else {
            out.push((key, value.to_vec()));
            continue;
        };
        let mut whole = Vec::new();
        for n in 0..root.count {
            let name = chunk_name(&root.chunked, n);
            whole.extend_from_slice(chunks.get(&name).ok_or_else(|| LoadError::Missing(key.clone()))?);
        }
        used.insert(root.chunked);
        out.push((key, whole));
    }
    let stale: Vec<Op> = chunks
        .keys()
        .filter(|name| name.split('/').next().is_none_or(|set| !used.contains(set)))
        .map(|name| Op::Delete { key: format!("chunks/{name}") })
        .collect();
    for ops in stale.chunks(MOST_WRITES) {
        if let Err(error) = store.commit(Txn { guards: Vec::new(), ops: ops.to_vec() }).await {
            // They take room and do nothing else; on a full disk they stay for another start.
            tracing::warn!(%error, "what is left of unfinished writes could not be removed");
            break;
        }
    }
    Ok(out)
}

fn chunked(value: &Bytes) -> Option<Chunked> {
    value.starts_with(b"{\"chunked\"").then(|| serde_json::from_slice(value).ok()).flatten()
}

fn chunk_name(set: &str, n: usize) -> String {
    format!("{set}/{n:06}")
}

/// Makes batches durable, each of them wholly or not at all, in as few transactions as may be. `asked` is whether
/// somebody waits: then a full store is not waited for.
///
/// # Errors
/// The store's last answer, after patience. What was written stays written.
pub async fn commit(room: &Room, batches: Vec<Vec<Write>>, asked: bool) -> Result<(), StoreError> {
    let writer = Writer { room, hurry: asked.then(|| Instant::now() + PATIENCE_FULL) };
    let mut group: BTreeMap<String, Option<Bytes>> = BTreeMap::new();
    let mut bytes = 0usize;
    for batch in batches {
        let batch = writer.laid_down(batch).await?;
        let size: usize = batch.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len)).sum();
        if !group.is_empty() && (group.len() + batch.len() > MOST_WRITES || bytes + size > MOST_BYTES) {
            writer.flush(std::mem::take(&mut group)).await?;
            bytes = 0;
        }
        bytes += size;
        group.extend(batch);
    }
    if group.is_empty() { Ok(()) } else { writer.flush(group).await }
}

struct Writer<'a> {
    room: &'a Room,
    /// From when on a full store is final.
    hurry: Option<Instant>,
}

impl Writer<'_> {
    /// The batch with its large values replaced by roots, whose chunks are durable.
    async fn laid_down(&self, batch: Vec<Write>) -> Result<Vec<(String, Option<Bytes>)>, StoreError> {
        let mut out = Vec::with_capacity(batch.len());
        for write in batch {
            match write {
                Write::Delete(key) => out.push((key, None)),
                Write::Put(key, value) if value.len() <= CHUNK => out.push((key, Some(Bytes::from(value)))),
                Write::Put(key, value) => {
                    let set = uuid::Uuid::new_v4().to_string();
                    let mut count = 0;
                    for part in value.chunks(CHUNK) {
                        let key = format!("chunks/{}", chunk_name(&set, count));
                        self.flush([(key, Some(Bytes::copy_from_slice(part)))].into()).await?;
                        count += 1;
                    }
                    let root = serde_json::to_vec(&Chunked { chunked: set, count }).unwrap_or_default();
                    out.push((key, Some(Bytes::from(root))));
                }
            }
        }
        Ok(out)
    }

    async fn flush(&self, group: BTreeMap<String, Option<Bytes>>) -> Result<(), StoreError> {
        let ops = group.into_iter().map(|(key, value)| match value {
            Some(value) => Op::Put { key, value, lease: None },
            None => Op::Delete { key },
        });
        let txn = Txn { guards: Vec::new(), ops: ops.collect() };
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let worth = |error: &StoreError| {
            let late = self.hurry.is_some_and(|hurry| Instant::now() >= hurry);
            error.is_retryable() && !(late && matches!(error, StoreError::Full { .. }))
        };
        // Plain writes of the one owner: repeating them is harmless.
        retry::within(PATIENCE, backoff, worth, || self.room.commit(txn.clone())).await
    }
}

#[cfg(test)]
mod tests {
    use plenum_store::Embedded;

    use super::*;

    #[tokio::test]
    async fn large_values_are_chunked_and_old_chunks_swept() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        let room = Room::new(store.clone());
        let large: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let put = |value: &[u8]| {
            vec![Write::Put("versions/a/1".to_owned(), value.to_vec()), Write::Put("b".to_owned(), vec![1])]
        };
        commit(&room, vec![put(b"{}"), put(&large)], false).await.unwrap();
        let want = vec![("b".to_owned(), vec![1]), ("versions/a/1".to_owned(), large)];
        assert_eq!(load(&store).await.unwrap(), want);
        assert_eq!(store.range(Range::prefix("chunks/")).await.unwrap().entries.len(), 4);
        commit(&room, vec![put(b"{}"), vec![Write::Delete("b".to_owned())]], false).await.unwrap();
        assert_eq!(load(&store).await.unwrap(), [("versions/a/1".to_owned(), b"{}".to_vec())]);
        assert_eq!(store.range(Range::prefix("chunks/")).await.unwrap().entries.len(), 0);
    }

    #[tokio::test]
    async fn many_batches_are_split_where_the_store_ends() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        let room = Room::new(store.clone());
        let batch = |n: usize| (0..40).map(|i| Write::Put(format!("k/{n}/{i:02}"), vec![0; 10])).collect();
        commit(&room, (0..5).map(batch).collect(), false).await.unwrap();
        assert_eq!(load(&store).await.unwrap().len(), 200);
    }
}
