//! One resource of a normalised collection.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::{Amount, Meta, Ranges, Reservation};

/// The name of a resource. The usual names need no memory of their own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Repr);

// `Other` never holds one of the names before it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Cpus,
    Mem,
    Disk,
    Gpus,
    Ports,
    Other(Arc<str>),
}

impl Name {
    /// Processors.
    pub const CPUS: Name = Name(Repr::Cpus);
    /// Memory in MiB.
    pub const MEM: Name = Name(Repr::Mem);
    /// Disk in MiB.
    pub const DISK: Name = Name(Repr::Disk);
    /// Graphics processors.
    pub const GPUS: Name = Name(Repr::Gpus);
    /// TCP and UDP ports of the host.
    pub const PORTS: Name = Name(Repr::Ports);

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Cpus => "cpus",
            Repr::Mem => "mem",
            Repr::Disk => "disk",
            Repr::Gpus => "gpus",
            Repr::Ports => "ports",
            Repr::Other(name) => name,
        }
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Name(match name {
            "cpus" => Repr::Cpus,
            "mem" => Repr::Mem,
            "disk" => Repr::Disk,
            "gpus" => Repr::Gpus,
            "ports" => Repr::Ports,
            other => Repr::Other(other.into()),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The value of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A quantity.
    Scalar(Amount),
    /// Numbers, such as ports.
    Ranges(Ranges),
    /// Words.
    Set(BTreeSet<String>),
}

impl Value {
    /// True for nothing at all.
    pub fn is_empty(&self) -> bool {
        match self {
            // Below zero is what is left of a subtraction that asked for more than there was.
            Value::Scalar(amount) => *amount <= Amount::ZERO,
            Value::Ranges(ranges) => ranges.is_empty(),
            Value::Set(set) => set.is_empty(),
        }
    }

    /// True when `other` is of the same type and part of this.
    pub fn contains(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Scalar(a), Value::Scalar(b)) => a >= b,
            (Value::Ranges(a), Value::Ranges(b)) => a.contains(b),
            (Value::Set(a), Value::Set(b)) => b.is_subset(a),
            _ => false,
        }
    }

    pub(super) fn same_type(&self, other: &Value) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Adds a value of the same type; others change nothing.
    pub(super) fn add(&mut self, other: &Value) {
        match (self, other) {
            (Value::Scalar(a), Value::Scalar(b)) => *a += *b,
            (Value::Ranges(a), Value::Ranges(b)) => *a = a.union(b),
            (Value::Set(a), Value::Set(b)) => a.extend(b.iter().cloned()),
            _ => debug_assert!(false, "callers compare types first"),
        }
    }

    /// Takes a value of the same type away; others change nothing.
    pub(super) fn sub(&mut self, other: &Value) {
        match (self, other) {
            (Value::Scalar(a), Value::Scalar(b)) => *a -= *b,
            (Value::Ranges(a), Value::Ranges(b)) => *a = a.difference(b),
            (Value::Set(a), Value::Set(b)) => a.retain(|item| !b.contains(item)),
            _ => debug_assert!(false, "callers compare types first"),
        }
    }

    /// What both have.
    pub(super) fn common(&self, other: &Value) -> Option<Value> {
        let both = match (self, other) {
            (Value::Scalar(a), Value::Scalar(b)) => Value::Scalar(*a.min(b)),
            (Value::Ranges(a), Value::Ranges(b)) => Value::Ranges(a.intersection(b)),
            (Value::Set(a), Value::Set(b)) => Value::Set(a.intersection(b).cloned().collect()),
            _ => return None,
        };
        (!both.is_empty()).then_some(both)
    }
}

/// One resource: a name, a value and what is said about it.
#[derive(Clone, Debug)]
pub struct Item {
    pub(super) name: Name,
    pub(super) value: Value,
    /// `None` for plain resources, which are most of them.
    pub(super) meta: Option<Arc<Meta>>,
    /// How many copies of a shared resource; 1 for the others.
    pub(super) copies: u32,
}

impl Item {
    /// An item; `meta` that says nothing is left out.
    pub fn new(name: Name, value: Value, meta: Meta) -> Self {
        let meta = (!meta.is_plain()).then(|| Arc::new(meta));
        Self { name, value, meta, copies: 1 }
    }

    /// A plain scalar.
    pub fn scalar(name: Name, amount: Amount) -> Self {
        Self { name, value: Value::Scalar(amount), meta: None, copies: 1 }
    }

    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The quantity of a scalar.
    pub fn amount(&self) -> Option<Amount> {
        match self.value {
            Value::Scalar(amount) => Some(amount),
            _ => None,
        }
    }

    /// What is said about it; `None` when nothing is.
    pub fn meta(&self) -> Option<&Meta> {
        self.meta.as_deref()
    }

    /// Copies of a shared resource; 1 for the others.
    pub fn copies(&self) -> u32 {
        self.copies
    }

    /// The stack of reservations, outermost first.
    pub fn reservations(&self) -> &[Reservation] {
        self.meta().map_or(&[], |m| &m.reservations)
    }

    /// The role of the innermost reservation; `None` when unreserved.
    pub fn reservation_role(&self) -> Option<&str> {
        self.reservations().last().map(|r| r.role.as_str())
    }

    /// The role it is allocated to.
    pub fn allocation_role(&self) -> Option<&str> {
        self.meta()?.allocation.as_deref()
    }

    /// True when it may be taken back.
    pub fn is_revocable(&self) -> bool {
        self.meta().is_some_and(|m| m.revocable)
    }

    /// True when several may use it.
    pub fn is_shared(&self) -> bool {
        self.meta().is_some_and(|m| m.shared)
    }

    /// True for a persistent volume.
    pub fn is_persistent_volume(&self) -> bool {
        self.meta().is_some_and(|m| m.persistence_id().is_some())
    }

    /// True when tasks of the role may use it: unreserved, or reserved for the role or one above it.
    pub fn is_allocatable_to(&self, role: &str) -> bool {
        self.reservation_role().is_none_or(|r| r == role || super::role::is_strict_subrole(role, r))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies == 0 || self.value.is_empty()
    }

    pub(super) fn same_meta(&self, other: &Item) -> bool {
        match (&self.meta, &other.meta) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        }
    }

    /// The same name, type and metadata.
    pub(super) fn same_kind(&self, other: &Item) -> bool {
        self.name == other.name && self.value.same_type(&other.value) && self.same_meta(other)
    }

    pub(super) fn is_indivisible(&self) -> bool {
        self.meta().is_some_and(Meta::is_indivisible)
    }

    /// The same item with other metadata.
    pub(super) fn with_meta(&self, meta: Meta) -> Item {
        let meta = (!meta.is_plain()).then(|| Arc::new(meta));
        Item { name: self.name.clone(), value: self.value.clone(), meta, copies: self.copies }
    }

    /// A copy of the metadata to change.
    pub(super) fn meta_owned(&self) -> Meta {
        self.meta().cloned().unwrap_or_default()
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.value == other.value
            && self.copies == other.copies
            && self.same_meta(other)
    }
}

impl Eq for Item {}
