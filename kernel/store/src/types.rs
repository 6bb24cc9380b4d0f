//! What goes into and comes out of a store: transactions, entries, pages, changes.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A point in the store's history. Grows by at least one with each transaction that changes something; 0 is
/// before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease's number; positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A precondition of a transaction.
#[derive(Clone, PartialEq, Eq)]
pub enum Guard {
    /// There is no entry at the key.
    Absent(String),
    /// There is an entry at the key.
    Exists(String),
    /// The entry at the key was last written at exactly this revision.
    ModRevision(String, Revision),
    /// The entry at the key has exactly this value.
    Value(String, Bytes),
}

impl Guard {
    /// The key the guard looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Exists(key) | Self::ModRevision(key, _) | Self::Value(key, _) => key,
        }
    }

    /// Whether the guard holds, given the entry at its key.
    pub fn holds(&self, entry: Option<&Entry>) -> bool {
        match (self, entry) {
            (Self::Absent(_), found) => found.is_none(),
            (Self::Exists(_), found) => found.is_some(),
            (_, None) => false,
            (Self::ModRevision(_, revision), Some(found)) => found.mod_revision == *revision,
            (Self::Value(_, value), Some(found)) => found.value == *value,
        }
    }

    pub(crate) fn map_key(self, f: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Absent(key) => Self::Absent(f(key)),
            Self::Exists(key) => Self::Exists(f(key)),
            Self::ModRevision(key, revision) => Self::ModRevision(f(key), revision),
            Self::Value(key, value) => Self::Value(f(key), value),
        }
    }
}

impl fmt::Display for Guard {
    // Values are left out: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(key) => write!(f, "{key} is absent"),
            Self::Exists(key) => write!(f, "{key} exists"),
            Self::ModRevision(key, revision) => write!(f, "{key} is unchanged since revision {revision}"),
            Self::Value(key, _) => write!(f, "{key} has the expected value"),
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({self})")
    }
}

/// One change a transaction makes.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes an entry, whether there is one or not.
    Put {
        /// Where.
        key: String,
        /// What.
        value: Bytes,
        /// The entry vanishes with this lease. `None` detaches it from any lease it had.
        lease: Option<LeaseId>,
    },
    /// Removes an entry; no error if there is none.
    Delete {
        /// Where.
        key: String,
    },
}

impl Op {
    /// The key the operation writes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

impl fmt::Debug for Op {
    // Values are left out: they may be secrets and this may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value, lease: None } => write!(f, "Put({key}, {} bytes)", value.len()),
            Self::Put { key, value, lease: Some(lease) } => {
                write!(f, "Put({key}, {} bytes, lease {lease})", value.len())
            }
            Self::Delete { key } => write!(f, "Delete({key})"),
        }
    }
}

/// A transaction: all guards hold and all operations are carried out, or nothing is. A key appears in at most
/// one operation.
///
/// ```
/// # use plenum_store::Txn;
/// let txn = Txn::new().absent("apps/web").put("apps/web", "{}").delete("apps/old");
/// assert_eq!(txn.ops.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Preconditions, looked at in order.
    pub guards: Vec<Guard>,
    /// Changes.
    pub ops: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a precondition, for example [`crate::Leadership::guard`].
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Requires that there is no entry at `key`.
    #[must_use]
    pub fn absent(self, key: impl Into<String>) -> Self {
        self.guard(Guard::Absent(key.into()))
    }

    /// Requires that there is an entry at `key`.
    #[must_use]
    pub fn exists(self, key: impl Into<String>) -> Self {
        self.guard(Guard::Exists(key.into()))
    }

    /// Requires that the entry at `key` was last written at `revision`.
    #[must_use]
    pub fn unchanged(self, key: impl Into<String>, revision: Revision) -> Self {
        self.guard(Guard::ModRevision(key.into(), revision))
    }

    /// Adds an operation.
    #[must_use]
    pub fn op(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Writes an entry without a lease.
    #[must_use]
    pub fn put(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.op(Op::Put { key: key.into(), value: value.into(), lease: None })
    }

    /// Writes an entry that vanishes with `lease`.
    #[must_use]
    pub fn put_leased(self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.op(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) })
    }

    /// Removes an entry.
    #[must_use]
    pub fn delete(self, key: impl Into<String>) -> Self {
        self.op(Op::Delete { key: key.into() })
    }

    /// Guards and operations together, as counted against [`crate::MAX_OPERATIONS`].
    pub fn len(&self) -> usize {
        self.guards.len().saturating_add(self.ops.len())
    }

    /// Whether the transaction neither asks nor changes anything.
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.ops.is_empty()
    }

    /// Bytes of keys and values, as counted against [`crate::MAX_TRANSACTION_BYTES`].
    pub fn bytes(&self) -> usize {
        let guards = self.guards.iter().map(|guard| match guard {
            Guard::Value(key, value) => key.len().saturating_add(value.len()),
            other => other.key().len(),
        });
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len().saturating_add(value.len()),
            Op::Delete { key } => key.len(),
        });
        guards.chain(ops).fold(0, usize::saturating_add)
    }
}

/// A key with its value and history.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path.
    pub key: String,
    /// The component's record.
    pub value: Bytes,
    /// When the key came to be (the last time it was absent before).
    pub create_revision: Revision,
    /// When it was last written.
    pub mod_revision: Revision,
    /// The lease it vanishes with.
    pub lease: Option<LeaseId>,
}

impl fmt::Debug for Entry {
    // Values are left out: they may be secrets and this may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("bytes", &self.value.len())
            .field("create_revision", &self.create_revision.0)
            .field("mod_revision", &self.mod_revision.0)
            .field("lease", &self.lease)
            .finish()
    }
}

/// Which entries to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Keys that start with this; plain text, so end it with `/` to mean a folder. Empty: all keys.
    pub prefix: String,
    /// Keys that come after this one only; the last key of the page before.
    pub start_after: Option<String>,
    /// At most so many entries; 0 means as many as a page may hold.
    pub limit: usize,
}

impl Range {
    /// The first page of everything that starts with `prefix`.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), start_after: None, limit: 0 }
    }
}

/// A part of a listing, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// There are more after the last one.
    pub more: bool,
    /// The revision the page shows. Later pages may show later ones.
    pub revision: Revision,
}

impl Page {
    /// The request for the next page, if there is one.
    pub fn next(&self, req: &Range) -> Option<Range> {
        let last = self.entries.last().filter(|_| self.more)?;
        Some(Range { start_after: Some(last.key.clone()), ..req.clone() })
    }
}

/// What happened to one key at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written; this is the entry now.
    Put(Entry),
    /// It was removed, by a transaction or with its lease.
    Delete {
        /// The key.
        key: String,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key } => key,
        }
    }

    pub(crate) fn strip(mut self, bytes: usize) -> Self {
        let key = match &mut self {
            Self::Put(entry) => &mut entry.key,
            Self::Delete { key } => key,
        };
        *key = key.split_off(bytes.min(key.len()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_show() {
        let txn = Txn::new().guard(Guard::Value("k".to_owned(), Bytes::from_static(b"hunter2")));
        let txn = txn.put("p", "hunter2").put_leased("q", "hunter2", LeaseId(3)).delete("r");
        let entry = Entry {
            key: "p".to_owned(),
            value: Bytes::from_static(b"hunter2"),
            create_revision: Revision(1),
            mod_revision: Revision(2),
            lease: None,
        };
        let shown = format!("{txn:?} {:?} {}", Change::Put(entry), txn.guards[0]);
        let bytes = format!("{:?}", b"hunter2");
        assert!(
            shown.contains("7 bytes") && !shown.contains("hunter2") && !shown.contains(&bytes),
            "{shown}"
        );
    }
}
