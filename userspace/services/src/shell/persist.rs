//! The core's writes and the store: loading everything, committing batches. A value too large for one entry is laid
//! down in immutable chunks first; the entry itself then flips in the transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use plenum_base::retry::{self, Backoff};
use plenum_store::{Entry, Op, Range, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::room::Room;
use crate::core::Write;
use crate::core::once::{OUTCOMES, TIMES};

/// Values above this are stored in chunks.
const CHUNK: usize = 256 * 1024;
/// Above this, where all values of a transaction together are too much: as many as there may be of these fit.
const FEW: usize = 4 * 1024;
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
    /// A key that makes no sense to this version.
    #[error("the record {0} cannot be read: nobody knows such a key. Start the version that wrote it")]
    Unknown(String),
    /// A chunk of a value is not there.
    #[error("a part of the record {0} is missing: restore it from a backup")]
    Missing(String),
}

/// What is below the component's prefix, by the first part of the key. Nothing of [`ASIDE`] is read at the start.
const KINDS: [&str; 11] = [
    "apps/",
    "batches/",
    "chunks/",
    "deployments/",
    "ended/",
    "framework",
    "groups/",
    "history/",
    "images/",
    "instances/",
    "versions/",
];
/// What others in here read when they need it.
const ASIDE: [&str; 3] = ["election/", OUTCOMES, TIMES];

/// Everything in the store that the core knows, chunks put together and those of nobody removed. The kinds are read side by side: only the
/// leader writes, and whoever calls this leads.
///
/// # Errors
/// [`LoadError`].
pub async fn load(room: &Room) -> Result<Vec<(String, Vec<u8>)>, LoadError> {
    let store = room.store();
    let (kinds, ()) = tokio::try_join!(try_join_all(KINDS.map(|kind| all(store, kind))), check_kinds(store))?;
    let (mut plain, mut chunks) = (Vec::new(), BTreeMap::new());
    for entry in kinds.into_iter().flatten() {
        match entry.key.strip_prefix("chunks/") {
            Some(chunk) => drop(chunks.insert(chunk.to_owned(), entry.value)),
            None => plain.push((entry.key, entry.value)),
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
        if let Err(error) = room.commit(Txn { guards: Vec::new(), ops: ops.to_vec() }).await {
            // They take room and do nothing else; on a full disk they stay for another start.
            tracing::warn!(%error, "what is left of unfinished writes could not be removed");
            break;
        }
    }
    Ok(out)
}

async fn all(store: &dyn Store, prefix: &str) -> Result<Vec<Entry>, LoadError> {
    let mut entries = Vec::new();
    let mut next = Some(Range::prefix(prefix));
    while let Some(range) = next {
        let page = store.range(range.clone()).await?;
        next = page.next(&range);
        entries.extend(page.entries);
    }
    Ok(entries)
}

/// A kind that nobody here knows was written by a newer version. Each kind is passed over as a whole.
async fn check_kinds(store: &dyn Store) -> Result<(), LoadError> {
    let mut after = String::new();
    loop {
        let range = Range { start_after: Some(after), limit: 1, ..Range::prefix("") };
        let Some(entry) = store.range(range).await?.entries.into_iter().next() else { return Ok(()) };
        let known = KINDS.iter().chain(&ASIDE).find(|kind| entry.key.starts_with(**kind));
        after = match known {
            // The last key that begins so, and no other.
            Some(kind) => format!("{kind}\u{10ffff}"),
            None => return Err(LoadError::Unknown(entry.key)),
        };
    }
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
        let size = |write: &Write| if let Write::Put(_, value) = write { value.len() } else { 0 };
        // Many middling values together are too much for one transaction as well.
        let most = if batch.iter().map(size).sum::<usize>() > MOST_BYTES { FEW } else { CHUNK };
        for write in batch {
            match write {
                Write::Delete(key) => out.push((key, None)),
                Write::Put(key, value) if value.len() <= most => out.push((key, Some(Bytes::from(value)))),
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
        // Plain writes of the one owner: repeating them is harmless, also when the first try was carried out after all.
        retry::within(PATIENCE, backoff, worth, || self.room.commit(txn.clone())).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plenum_store::Embedded;

    use super::*;
    use crate::shell::Lead;

    #[tokio::test]
    async fn large_values_are_chunked_and_old_chunks_swept() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        let room = Room::new(store.clone(), Lead::alone());
        let large: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let put = |value: &[u8]| {
            vec![
                Write::Put("versions/a/1".to_owned(), value.to_vec()),
                Write::Put("apps/b".to_owned(), vec![1]),
            ]
        };
        commit(&room, vec![put(b"{}"), put(&large)], false).await.unwrap();
        let want = vec![("apps/b".to_owned(), vec![1]), ("versions/a/1".to_owned(), large)];
        assert_eq!(load(&room).await.unwrap(), want);
        assert_eq!(store.range(Range::prefix("chunks/")).await.unwrap().entries.len(), 4);
        commit(&room, vec![put(b"{}"), vec![Write::Delete("apps/b".to_owned())]], false).await.unwrap();
        assert_eq!(load(&room).await.unwrap(), [("versions/a/1".to_owned(), b"{}".to_vec())]);
        assert_eq!(store.range(Range::prefix("chunks/")).await.unwrap().entries.len(), 0);
    }

    #[tokio::test]
    async fn many_batches_are_split_where_the_store_ends() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        let room = Room::new(store.clone(), Lead::alone());
        let batch =
            |n: usize| (0..40).map(|i| Write::Put(format!("instances/{n}-{i:02}"), vec![0; 10])).collect();
        commit(&room, (0..5).map(batch).collect(), false).await.unwrap();
        assert_eq!(load(&room).await.unwrap().len(), 200);
        let aside =
            ["election/leader", "once/a", "once-at/1/a"].map(|key| Write::Put(key.to_owned(), vec![1]));
        commit(&room, vec![aside.into()], false).await.unwrap();
        assert_eq!(load(&room).await.unwrap().len(), 200, "what others read is passed over");
        commit(&room, vec![vec![Write::Put("pods/a".to_owned(), vec![1])]], false).await.unwrap();
        assert!(matches!(load(&room).await, Err(LoadError::Unknown(key)) if key == "pods/a"));
    }
}
