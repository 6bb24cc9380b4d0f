//! What the tables hold and how a batch of work changes them. Synchronous; no threads, no clock.
//!
//! `current`: key to entry. `history`: (revision, number within it) to change, without gaps in the revisions,
//! from the oldest kept to the newest, which is always kept: it is the store's revision. `leases`: lease to its
//! time to live in milliseconds. `leased`: (lease, key). `meta`: the format.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::Options;
use super::fault::Fault;
use super::medium::{Boxed, Medium};
use super::records::{decode_change, decode_entry, encode_change, encode_entry};
use super::watching::Published;
use super::writer::Work;
use crate::{Change, Entry, LeaseId, MAX_PAGE_BYTES, Op, Page, Range, Revision, StoreError, Txn, limits};

const CURRENT: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("current");
const HISTORY: TableDefinition<'static, (u64, u32), &[u8]> = TableDefinition::new("history");
const LEASES: TableDefinition<'static, i64, u64> = TableDefinition::new("leases");
const LEASED: TableDefinition<'static, (i64, &str), ()> = TableDefinition::new("leased");
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

const FORMAT: u64 = 1;
/// History removed along with one batch, so that catching up on removal never makes a batch slow.
const REMOVE_AT_ONCE: usize = 2000;
/// Changes read from history at once.
const READ_AT_ONCE: usize = 512;

/// What the writer knows about the tables besides what is in them.
#[derive(Debug)]
pub(super) struct Engine {
    /// The newest revision.
    pub(super) revision: u64,
    changes: usize,
    bytes: usize,
    /// Moments at which revisions were the newest, for removal by age.
    ages: VecDeque<(Duration, u64)>,
}

/// A database and what is to be known about it.
pub(super) struct Opened {
    pub(super) db: Database,
    pub(super) engine: Engine,
    pub(super) leases: BTreeMap<LeaseId, Duration>,
}

/// What a batch came to.
pub(super) struct Outcome {
    /// One for each piece of work.
    pub(super) results: Vec<Result<Revision, StoreError>>,
    /// The revisions it made, in order.
    pub(super) published: Vec<Published>,
}

/// Opens a medium, making the tables if it is empty and checking and repairing it after a crash.
pub(super) fn open(medium: &dyn Medium, options: &Options, now: Duration) -> Result<Opened, Fault> {
    let backend = medium.open().map_err(|e| Fault::io(&e))?;
    let db = Database::builder().set_cache_size(options.cache_bytes).create_with_backend(Boxed(backend))?;
    let txn = db.begin_write()?;
    let format = txn.open_table(META)?.get("format")?.map(|found| found.value());
    match format {
        Some(FORMAT) => txn.abort()?,
        Some(other) => return Err(Fault::corrupt(format!("the store has the unknown format {other}"))),
        None => {
            txn.open_table(META)?.insert("format", FORMAT)?;
            txn.open_table(CURRENT)?;
            txn.open_table(HISTORY)?;
            txn.open_table(LEASES)?;
            txn.open_table(LEASED)?;
            txn.commit()?;
        }
    }
    let read = db.begin_read()?;
    let (mut revision, mut changes, mut bytes) = (0, 0, 0_usize);
    for item in read.open_table(HISTORY)?.iter()? {
        let (key, value) = item?;
        revision = key.value().0;
        changes += 1;
        bytes = bytes.saturating_add(value.value().len());
    }
    let mut leases = BTreeMap::new();
    for item in read.open_table(LEASES)?.iter()? {
        let (id, ttl) = item?;
        leases.insert(LeaseId(id.value()), Duration::from_millis(ttl.value()));
    }
    drop(read);
    let engine = Engine { revision, changes, bytes, ages: VecDeque::from([(now, revision)]) };
    Ok(Opened { db, engine, leases })
}

/// The tables of a write transaction.
struct Tables<'t> {
    current: Table<'t, &'static str, &'static [u8]>,
    history: Table<'t, (u64, u32), &'static [u8]>,
    leases: Table<'t, i64, u64>,
    leased: Table<'t, (i64, &'static str), ()>,
}

impl<'t> Tables<'t> {
    fn open(txn: &'t WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            current: txn.open_table(CURRENT)?,
            history: txn.open_table(HISTORY)?,
            leases: txn.open_table(LEASES)?,
            leased: txn.open_table(LEASED)?,
        })
    }

    fn entry(&self, key: &str) -> Result<Option<Entry>, Fault> {
        self.current.get(key)?.map(|found| decode_entry(key, found.value())).transpose()
    }
}

impl Engine {
    /// Carries out a batch as one durable transaction of the database; each piece of work sees the ones before
    /// it and fails alone. After a fault the engine and the database are of no use any more.
    pub(super) fn apply(
        &mut self,
        db: &Database,
        batch: &[&Work],
        options: &Options,
        now: Duration,
    ) -> Result<Outcome, Fault> {
        let txn = db.begin_write()?;
        let mut published = Vec::new();
        let mut results = Vec::with_capacity(batch.len());
        let mut dirty = false;
        {
            let mut tables = Tables::open(&txn)?;
            for work in batch {
                let before = published.len();
                let result = match work {
                    Work::Commit(request) => self.commit(&mut tables, request, &mut published)?,
                    Work::Grant { lease, ttl } => {
                        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                        tables.leases.insert(lease.0, millis)?;
                        dirty = true;
                        Ok(Revision(self.revision))
                    }
                    Work::End { lease } => {
                        let result = self.end(&mut tables, *lease, &mut published)?;
                        dirty |= result.is_ok();
                        result
                    }
                };
                dirty |= published.len() > before;
                results.push(result);
            }
            if dirty {
                self.remove_history(&mut tables, options, now)?;
            }
        }
        if dirty {
            txn.commit()?;
        } else {
            txn.abort()?;
        }
        Ok(Outcome { results, published })
    }

    fn commit(
        &mut self,
        tables: &mut Tables<'_>,
        request: &Txn,
        published: &mut Vec<Published>,
    ) -> Result<Result<Revision, StoreError>, Fault> {
        for (index, guard) in request.guards.iter().enumerate() {
            let entry = tables.entry(guard.key())?;
            if !guard.holds(entry.as_ref()) {
                return Ok(Err(StoreError::Conflict { index, guard: guard.clone() }));
            }
        }
        for op in &request.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && tables.leases.get(lease.0)?.is_none()
            {
                return Ok(Err(StoreError::LeaseNotFound { lease: *lease }));
            }
        }
        let revision = self.revision.saturating_add(1);
        let mut changes = Vec::with_capacity(request.ops.len());
        for op in &request.ops {
            changes.extend(change_one(tables, op, revision)?);
        }
        self.publish(tables, revision, changes, published)?;
        Ok(Ok(Revision(self.revision)))
    }

    /// Removes a lease and its keys.
    fn end(
        &mut self,
        tables: &mut Tables<'_>,
        lease: LeaseId,
        published: &mut Vec<Published>,
    ) -> Result<Result<Revision, StoreError>, Fault> {
        if tables.leases.remove(lease.0)?.is_none() {
            return Ok(Err(StoreError::LeaseNotFound { lease }));
        }
        let mut keys = Vec::new();
        for item in tables.leased.range((lease.0, "")..)? {
            let (found, ()) = item.map(|(key, _)| (key, ()))?;
            let (owner, key) = found.value();
            if owner != lease.0 {
                break;
            }
            keys.push(key.to_owned());
        }
        let revision = self.revision.saturating_add(1);
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            changes.extend(change_one(tables, &Op::Delete { key }, revision)?);
        }
        self.publish(tables, revision, changes, published)?;
        Ok(Ok(Revision(self.revision)))
    }

    /// Writes the changes of a revision into history; no changes, no revision.
    fn publish(
        &mut self,
        tables: &mut Tables<'_>,
        revision: u64,
        changes: Vec<Change>,
        published: &mut Vec<Published>,
    ) -> Result<(), Fault> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut bytes = 0_usize;
        for (number, change) in (0_u32..).zip(&changes) {
            let record = encode_change(change);
            bytes = bytes.saturating_add(record.len());
            tables.history.insert((revision, number), record.as_slice())?;
        }
        self.revision = revision;
        self.changes = self.changes.saturating_add(changes.len());
        self.bytes = self.bytes.saturating_add(bytes);
        published.push(Published { revision, changes, bytes });
        Ok(())
    }

    /// Removes the oldest history beyond what is to be kept, whole revisions at a time.
    fn remove_history(
        &mut self,
        tables: &mut Tables<'_>,
        options: &Options,
        now: Duration,
    ) -> Result<(), Fault> {
        let step = options.history_age / 64;
        if self.ages.back().is_none_or(|(at, _)| at.saturating_add(step) <= now) {
            self.ages.push_back((now, self.revision));
        }
        let (mut since, mut too_old) = (now, 0);
        while let Some((at, revision)) = self.ages.front().copied() {
            if at.saturating_add(options.history_age) > now {
                break;
            }
            (since, too_old) = (at, revision);
            self.ages.pop_front();
        }
        // Some slack, so that this is not a little work every time.
        let over = |have: usize, keep: usize| have > keep.saturating_add(keep / 8);
        let crowded = over(self.changes, options.history_changes) || over(self.bytes, options.history_bytes);
        if !crowded && too_old == 0 {
            return Ok(());
        }
        let mut removed = 0;
        let mut last = None;
        while let Some(((revision, number), len)) = first_of(&tables.history)? {
            let wanted = revision <= too_old
                || (crowded
                    && (self.changes > options.history_changes || self.bytes > options.history_bytes));
            let whole = last == Some(revision);
            if revision >= self.revision || !(whole || (wanted && removed < REMOVE_AT_ONCE)) {
                break;
            }
            tables.history.remove((revision, number))?;
            self.changes = self.changes.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(len);
            removed += 1;
            last = Some(revision);
        }
        if removed >= REMOVE_AT_ONCE && too_old > 0 {
            // The rest of what is too old goes with the next batch.
            self.ages.push_front((since, too_old));
        }
        Ok(())
    }
}

type Numbered = ((u64, u32), usize);

fn first_of(history: &Table<'_, (u64, u32), &'static [u8]>) -> Result<Option<Numbered>, Fault> {
    Ok(history.first()?.map(|(key, value)| (key.value(), value.value().len())))
}

/// Carries out one operation; `None` if it changes nothing.
fn change_one(tables: &mut Tables<'_>, op: &Op, revision: u64) -> Result<Option<Change>, Fault> {
    let key = op.key();
    let old = tables.entry(key)?;
    if let Some(lease) = old.as_ref().and_then(|old| old.lease) {
        tables.leased.remove((lease.0, key))?;
    }
    match op {
        Op::Put { value, lease, .. } => {
            let entry = Entry {
                key: key.to_owned(),
                value: value.clone(),
                create_revision: old.map_or(Revision(revision), |old| old.create_revision),
                mod_revision: Revision(revision),
                lease: *lease,
            };
            if let Some(lease) = lease {
                tables.leased.insert((lease.0, key), ())?;
            }
            tables.current.insert(key, encode_entry(&entry).as_slice())?;
            Ok(Some(Change::Put(entry)))
        }
        Op::Delete { .. } => {
            if old.is_none() {
                return Ok(None);
            }
            tables.current.remove(key)?;
            Ok(Some(Change::Delete { key: key.to_owned() }))
        }
    }
}

/// The entry at a key.
pub(super) fn get(db: &Database, key: &str) -> Result<Option<Entry>, Fault> {
    let read = db.begin_read()?;
    let table = read.open_table(CURRENT)?;
    table.get(key)?.map(|found| decode_entry(key, found.value())).transpose()
}

/// One page of entries.
pub(super) fn range(db: &Database, req: &Range) -> Result<Page, Fault> {
    use std::ops::Bound;
    let read = db.begin_read()?;
    let table = read.open_table(CURRENT)?;
    let revision = read.open_table(HISTORY)?.last()?.map_or(0, |(key, _)| key.value().0);
    let start = match req.start_after.as_deref() {
        Some(after) if after >= req.prefix.as_str() => Bound::Excluded(after),
        _ => Bound::Included(req.prefix.as_str()),
    };
    let limit = limits::page_limit(req.limit);
    let (mut entries, mut bytes, mut more) = (Vec::new(), 0_usize, false);
    for item in table.range::<&str>((start, Bound::Unbounded))? {
        let (key, value) = item?;
        let (key, value) = (key.value(), value.value());
        if !key.starts_with(&req.prefix) {
            break;
        }
        if entries.len() >= limit || bytes >= MAX_PAGE_BYTES {
            more = true;
            break;
        }
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
        entries.push(decode_entry(key, value)?);
    }
    Ok(Page { entries, more, revision: Revision(revision) })
}

/// A piece of history.
pub(super) enum Past {
    /// Revisions after the one asked for, without a gap, and whether there are more.
    Revisions(Vec<Published>),
    /// History begins later; a watch can start after this revision.
    Compacted(Revision),
}

/// History after a revision, some of it.
pub(super) fn history(db: &Database, after: u64) -> Result<Past, Fault> {
    let read = db.begin_read()?;
    let table = read.open_table(HISTORY)?;
    let from = after.saturating_add(1);
    let oldest = table.first()?.map_or(0, |(key, _)| key.value().0);
    if oldest > from {
        return Ok(Past::Compacted(Revision(oldest.saturating_sub(1))));
    }
    let mut found: Vec<Published> = Vec::new();
    let (mut changes, mut bytes) = (0_usize, 0_usize);
    for item in table.range((from, 0)..)? {
        let (key, value) = item?;
        let (revision, record) = (key.value().0, value.value());
        if found.last().is_none_or(|last| last.revision != revision) {
            if changes >= READ_AT_ONCE || bytes >= MAX_PAGE_BYTES {
                break;
            }
            found.push(Published { revision, changes: Vec::new(), bytes: 0 });
        }
        changes = changes.saturating_add(1);
        bytes = bytes.saturating_add(record.len());
        if let Some(last) = found.last_mut() {
            last.changes.push(decode_change(revision, record)?);
        }
    }
    Ok(Past::Revisions(found))
}
