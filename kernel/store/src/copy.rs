//! Copying a whole store: to another one (how one node grows into a cluster) or to and from a stream (backup).
//!
//! Entries bound to a lease are left out: they say who is alive now. What changes while the copy runs is
//! replayed, so that the copy shows one revision. Everything moves in transactions within the limits.
//!
//! The stream: `PLNMSTOR`, a format byte (1), then records: a tag byte; `P` put (u32 key length, key, u32 value
//! length, value), `D` delete (u32 key length, key), `E` end (u64 number of records, u64 FNV-1a hash of all bytes
//! before the tag). Numbers are big-endian.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::{
    Change, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Op, Range, Revision, Store, StoreError,
    Txn, Watch, WatchEvent,
};

const MAGIC: &[u8; 9] = b"PLNMSTOR\x01";
/// How long one step of a stream or a replay may take.
const STEP: Duration = Duration::from_secs(60);
/// Written for a moment to find the end of what changed during the copy.
const MARKER: &str = "copy-marker";

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopySummary {
    /// Records moved; a key that changed while the copy ran counts more than once.
    pub records: u64,
    /// Transactions written (0 for an export).
    pub transactions: u64,
    /// The revision of the source that the copy shows (of the target, for an import).
    pub revision: Revision,
}

/// Copies everything from one store to another, which must hold nothing but leased entries.
///
/// Errors: `Invalid` if the target is not empty; those of either store. After an error the target holds a part.
pub async fn copy_all(from: &dyn Store, to: &dyn Store) -> Result<CopySummary, StoreError> {
    require_empty(to).await?;
    let mut source = Source::open(from).await?;
    let mut sink = Sink::new(to);
    while let Some(ops) = source.next().await? {
        for op in ops {
            sink.push(op).await?;
        }
    }
    sink.flush().await?;
    Ok(CopySummary { revision: source.revision, ..sink.summary })
}

/// Writes everything `store` holds to a stream that [`import`] reads.
pub async fn export(
    store: &dyn Store,
    writer: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<CopySummary, StoreError> {
    let mut source = Source::open(store).await?;
    let mut hash = Fnv::default();
    let mut records = 0_u64;
    put(writer, &mut hash, MAGIC).await?;
    while let Some(ops) = source.next().await? {
        let mut chunk = Vec::new();
        for op in ops {
            records = records.saturating_add(1);
            encode(&op, &mut chunk)?;
        }
        put(writer, &mut hash, &chunk).await?;
    }
    let mut end = vec![b'E'];
    end.extend(records.to_be_bytes());
    end.extend(hash.0.to_be_bytes());
    put(writer, &mut hash, &end).await?;
    step(writer.flush()).await?;
    Ok(CopySummary { records, transactions: 0, revision: source.revision })
}

/// Reads a stream that [`export`] wrote into `store`, which must hold nothing but leased entries.
///
/// Errors: `Invalid` if the target is not empty; `Broken` if the stream is cut off, damaged or of an unknown
/// format. After an error the target holds a part.
pub async fn import(
    store: &dyn Store,
    reader: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<CopySummary, StoreError> {
    require_empty(store).await?;
    let mut input = Input { reader, hash: Fnv::default() };
    let mut magic = [0; MAGIC.len()];
    input.fill(&mut magic).await?;
    if &magic != MAGIC {
        return Err(StoreError::broken("the stream is not a store's export, or of an unknown format"));
    }
    let mut sink = Sink::new(store);
    loop {
        let expected = input.hash.0;
        let mut tag = [0; 1];
        input.fill(&mut tag).await?;
        match &tag {
            b"P" => {
                let (key, value) = (input.text().await?, input.field(MAX_TRANSACTION_BYTES).await?);
                sink.push(Op::Put { key, value: Bytes::from(value), lease: None }).await?;
            }
            b"D" => {
                let key = input.text().await?;
                sink.push(Op::Delete { key }).await?;
            }
            b"E" => {
                let (records, hash) = (input.number().await?, input.number().await?);
                if records != sink.summary.records || hash != expected {
                    return Err(StoreError::broken("the export is damaged: its checksum does not match"));
                }
                sink.flush().await?;
                return Ok(sink.summary);
            }
            _ => return Err(StoreError::broken("the export is damaged: unknown record")),
        }
    }
}

async fn require_empty(store: &dyn Store) -> Result<(), StoreError> {
    let mut next = Some(Range::default());
    while let Some(req) = next {
        let page = store.range(req.clone()).await?;
        if let Some(entry) = page.entries.iter().find(|entry| entry.lease.is_none()) {
            return Err(StoreError::invalid(format!("the target is not empty: it holds {}", entry.key)));
        }
        next = page.next(&req);
    }
    Ok(())
}

/// Everything a store holds, as operations, in the end as of one revision.
struct Source<'a> {
    store: &'a dyn Store,
    next: Option<Range>,
    first: Option<Revision>,
    replay: Option<(Watch, Revision)>,
    /// The newest revision shown so far.
    revision: Revision,
}

impl<'a> Source<'a> {
    async fn open(store: &'a dyn Store) -> Result<Self, StoreError> {
        let next = Some(Range::default());
        Ok(Self { store, next, first: None, replay: None, revision: Revision(0) })
    }

    async fn next(&mut self) -> Result<Option<Vec<Op>>, StoreError> {
        if let Some(req) = self.next.take() {
            let page = self.store.range(req.clone()).await?;
            self.next = page.next(&req);
            let first = *self.first.get_or_insert(page.revision);
            self.revision = page.revision;
            if self.next.is_none() && page.revision != first {
                self.replay = Some(self.mark(first).await?);
            }
            return Ok(Some(page.entries.into_iter().map(Change::Put).map(to_op).collect()));
        }
        let Some((watch, until)) = &mut self.replay else { return Ok(None) };
        if self.revision >= *until {
            return Ok(None);
        }
        match watch.next_within(STEP).await? {
            Some(WatchEvent::Changes { revision, changes }) => {
                self.revision = revision;
                Ok(Some(changes.into_iter().map(to_op).collect()))
            }
            Some(WatchEvent::Compacted { .. }) => {
                Err(StoreError::unavailable("the store changes faster than it can be copied"))
            }
            None => Err(StoreError::deadline(STEP, false)),
        }
    }

    /// Opens the replay and makes a change in the source whose arrival shows that everything before it has
    /// arrived. The marker's key is leased and thereby left out of copies; its deletion is harmless.
    async fn mark(&self, first: Revision) -> Result<(Watch, Revision), StoreError> {
        let watch = self.store.watch("", first).await?;
        let lease = self.store.grant(Duration::from_secs(5)).await?;
        let until = self.store.commit(Txn::new().put_leased(MARKER, "", lease)).await?;
        self.store.revoke(lease).await?;
        Ok((watch, until))
    }
}

/// A leased entry becomes a deletion: its key may have been copied before it had a lease.
fn to_op(change: Change) -> Op {
    match change {
        Change::Put(entry) if entry.lease.is_none() => {
            Op::Put { key: entry.key, value: entry.value, lease: None }
        }
        Change::Put(entry) => Op::Delete { key: entry.key },
        Change::Delete { key } => Op::Delete { key },
    }
}

/// Gathers operations into transactions within the limits.
struct Sink<'a> {
    store: &'a dyn Store,
    txn: Txn,
    bytes: usize,
    summary: CopySummary,
}

impl<'a> Sink<'a> {
    fn new(store: &'a dyn Store) -> Self {
        Self { store, txn: Txn::new(), bytes: 0, summary: CopySummary::default() }
    }

    async fn push(&mut self, op: Op) -> Result<(), StoreError> {
        let bytes = match &op {
            Op::Put { key, value, .. } => key.len().saturating_add(value.len()),
            Op::Delete { key } => key.len(),
        };
        let full = self.bytes.saturating_add(bytes) > MAX_TRANSACTION_BYTES;
        // The scope's prefix counts as well, so stay clear of the limit with many small records.
        let many = self.txn.ops.len() >= MAX_OPERATIONS || self.bytes >= MAX_TRANSACTION_BYTES / 2;
        if full || many || self.txn.ops.iter().any(|other| other.key() == op.key()) {
            self.flush().await?;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.summary.records = self.summary.records.saturating_add(1);
        self.txn.ops.push(op);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let txn = std::mem::take(&mut self.txn);
        self.bytes = 0;
        if !txn.is_empty() {
            self.summary.revision = self.store.commit(txn).await?;
            self.summary.transactions = self.summary.transactions.saturating_add(1);
        }
        Ok(())
    }
}

fn encode(op: &Op, out: &mut Vec<u8>) -> Result<(), StoreError> {
    match op {
        Op::Put { key, value, .. } => {
            out.push(b'P');
            field(key.as_bytes(), out)?;
            field(value, out)
        }
        Op::Delete { key } => {
            out.push(b'D');
            field(key.as_bytes(), out)
        }
    }
}

fn field(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError> {
    let len = u32::try_from(bytes.len()).map_err(|_| StoreError::broken("a record is longer than 4 GiB"))?;
    out.extend(len.to_be_bytes());
    out.extend(bytes);
    Ok(())
}

async fn put(
    writer: &mut (dyn AsyncWrite + Send + Unpin),
    hash: &mut Fnv,
    bytes: &[u8],
) -> Result<(), StoreError> {
    hash.add(bytes);
    step(writer.write_all(bytes)).await
}

async fn step<T>(io: impl Future<Output = std::io::Result<T>>) -> Result<T, StoreError> {
    match timeout(STEP, io).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(StoreError::broken("the export is cut off"))
        }
        Ok(Err(e)) => Err(StoreError::unavailable(format!("the stream failed: {e}"))),
        Err(_) => Err(StoreError::deadline(STEP, false)),
    }
}

struct Input<'a> {
    reader: &'a mut (dyn AsyncRead + Send + Unpin),
    hash: Fnv,
}

impl Input<'_> {
    async fn fill(&mut self, out: &mut [u8]) -> Result<(), StoreError> {
        step(self.reader.read_exact(out)).await?;
        self.hash.add(out);
        Ok(())
    }

    async fn number(&mut self) -> Result<u64, StoreError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes).await?;
        Ok(u64::from_be_bytes(bytes))
    }

    async fn field(&mut self, most: usize) -> Result<Vec<u8>, StoreError> {
        let mut len = [0; 4];
        self.fill(&mut len).await?;
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if len > most {
            return Err(StoreError::broken("the export is damaged: a field is too long"));
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    async fn text(&mut self) -> Result<String, StoreError> {
        let bytes = self.field(MAX_KEY_BYTES).await?;
        String::from_utf8(bytes).map_err(|_| StoreError::broken("the export is damaged: a key is not UTF-8"))
    }
}

/// FNV-1a, 64 bits: finds damage, not forgery.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
