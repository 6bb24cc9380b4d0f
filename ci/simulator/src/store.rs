//! The store that all masters share, as they see it: records, and one lease of leadership that runs out by the store's own clock.

use std::collections::BTreeMap;

use plenum_master::core::{Life, Records};
use plenum_store::{Entry, Op, Revision};

use crate::check::Violation;

/// How long a leader that is silent stays one.
pub const LEASE: u64 = 2_000;

/// Who leads.
#[derive(Clone, Copy, Debug)]
struct Lease {
    master: usize,
    until: u64,
}

/// What is durable.
#[derive(Default)]
pub struct Store {
    records: BTreeMap<String, bytes::Bytes>,
    term: u64,
    lease: Option<Lease>,
}

impl Store {
    /// Whether this master leads under this term: the guard of its transactions.
    pub fn holds(&self, master: usize, term: u64, now: u64) -> bool {
        self.term == term && self.lease.is_some_and(|lease| lease.master == master && lease.until > now)
    }

    /// A campaign. Gives the term to lead under. A candidate takes over from its own former self at once.
    pub fn campaign(&mut self, master: usize, now: u64) -> Option<u64> {
        if self.lease.is_some_and(|lease| lease.master != master && lease.until > now) {
            return None;
        }
        self.term += 1;
        self.lease = Some(Lease { master, until: now + LEASE });
        Some(self.term)
    }

    /// Whether the lease could be renewed.
    pub fn renew(&mut self, master: usize, term: u64, now: u64) -> bool {
        let holds = self.holds(master, term, now);
        if holds {
            self.lease = Some(Lease { master, until: now + LEASE });
        }
        holds
    }

    /// Carries a transaction out.
    pub fn apply(&mut self, ops: Vec<Op>) {
        for op in ops {
            match op {
                Op::Put { key, value, .. } => drop(self.records.insert(key, value)),
                Op::Delete { key } => drop(self.records.remove(&key)),
            }
        }
    }

    /// Everything, for a new leader.
    pub fn records(&self) -> Result<Records, Violation> {
        let mut records = Records::default();
        for key in self.records.keys() {
            self.take(key, &mut records)?;
        }
        Ok(records)
    }

    fn take(&self, key: &str, records: &mut Records) -> Result<(), Violation> {
        let Some(value) = self.records.get(key) else { return Ok(()) };
        let revision = Revision(1);
        let (key, value) = (key.to_owned(), value.clone());
        let entry = Entry { key, value, create_revision: revision, mod_revision: revision, lease: None };
        records.take(&entry).map_err(|error| format!("the store cannot be read: {error}"))
    }

    /// What operators have made of an agent.
    pub fn life(&self, agent: &str) -> Result<Life, Violation> {
        let mut records = Records::default();
        self.take(&format!("agent/{agent}"), &mut records)?;
        Ok(records.agents.get(agent).map(|record| record.life).unwrap_or_default())
    }

    /// Whether a framework is removed.
    pub fn removed(&self, framework: &str) -> bool {
        self.knows("removed", framework) || !self.knows("framework", framework)
    }

    /// Whether anybody is known durably under `kind/id`.
    pub fn knows(&self, kind: &str, id: &str) -> bool {
        self.records.contains_key(&format!("{kind}/{id}"))
    }
}
