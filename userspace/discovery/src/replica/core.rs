//! The replica's core: facts by step in, names and tables out. Pure; every change costs what it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::records::{self, Data};
use crate::feed::{Change, Copy, Delta, FORMAT, Fact, Facts, Protocol};

/// So many deaths are remembered; the publisher hears of each within seconds.
const GRAVES: usize = 4096;

/// Why a step cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("step {found} came after step {had}: everything is needed again")]
pub struct Missed {
    had: u64,
    found: u64,
}

/// The key of a virtual address' table.
pub type VipKey = (Protocol, Ipv4Addr, u16);

/// A virtual address and where its new connections go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipTable {
    /// The transport.
    pub protocol: Protocol,
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// Its name, such as `web.marathon`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The back ends, sorted, each once.
    pub backends: Vec<SocketAddrV4>,
}

/// What a name has, each with how many facts say so.
#[derive(Debug, Default)]
struct Node {
    data: BTreeMap<Data, u32>,
    /// Names below this one: a name without data but with names below it exists.
    below: u32,
}

#[derive(Debug, Default)]
struct Vip {
    name: Option<String>,
    backends: BTreeMap<SocketAddrV4, u32>,
}

/// What a lookup finds.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a>(Option<&'a Node>);

impl<'a> Found<'a> {
    /// Whether the name exists, with data or only as part of others.
    #[must_use]
    pub fn exists(self) -> bool {
        self.0.is_some()
    }

    /// What it has.
    pub fn data(self) -> impl Iterator<Item = &'a Data> {
        self.0.into_iter().flat_map(|node| node.data.keys())
    }
}

/// The core.
#[derive(Debug, Default)]
pub struct Replica {
    epoch: u64,
    generation: u64,
    facts: Facts,
    names: HashMap<String, Node>,
    vips: BTreeMap<VipKey, Vip>,
    /// Tasks whose end the node's own agent told, oldest first: ids never come to life again.
    graves: VecDeque<String>,
    buried: BTreeSet<String>,
}

impl Replica {
    /// With what a copy says. A copy of another format is not taken.
    #[must_use]
    pub fn from_copy(copy: Copy) -> Option<Self> {
        if copy.format != FORMAT {
            return None;
        }
        let mut replica = Self { epoch: copy.epoch, generation: copy.generation, ..Self::default() };
        let mut touched = BTreeSet::new();
        for (key, fact) in copy.facts {
            replica.set(&key, Some(fact), &mut touched);
        }
        Some(replica)
    }

    /// Everything, to be written down.
    #[must_use]
    pub fn copy(&self) -> Copy {
        Copy { format: FORMAT, epoch: self.epoch, generation: self.generation, facts: self.facts.clone() }
    }

    /// Takes a step; gives the keys of the tables that changed.
    ///
    /// # Errors
    /// [`Missed`] when a step is missing; nothing was changed then.
    pub fn apply(&mut self, delta: Delta) -> Result<BTreeSet<VipKey>, Missed> {
        let mut touched = BTreeSet::new();
        if let Some(whole) = delta.whole {
            let gone: Vec<String> =
                self.facts.keys().filter(|key| !whole.contains_key(*key)).cloned().collect();
            for (key, fact) in whole {
                self.set(&key, Some(fact), &mut touched);
            }
            for key in gone {
                self.set(&key, None, &mut touched);
            }
        } else if delta.epoch != self.epoch || delta.generation != self.generation + 1 {
            return Err(Missed { had: self.generation, found: delta.generation });
        }
        for Change { key, fact } in delta.changes {
            self.set(&key, fact, &mut touched);
        }
        (self.epoch, self.generation) = (delta.epoch, delta.generation);
        Ok(touched)
    }

    /// Takes a task out whose end was seen here, whatever the publisher says of it until it hears of that too. Gives the keys of the tables
    /// that changed; `None` when nothing was known of the task.
    pub fn bury(&mut self, framework: &str, task: &str) -> Option<BTreeSet<VipKey>> {
        let key = format!("task/{framework}/{task}");
        if self.buried.insert(key.clone()) {
            if self.graves.len() >= GRAVES
                && let Some(oldest) = self.graves.pop_front()
            {
                self.buried.remove(&oldest);
            }
            self.graves.push_back(key.clone());
        }
        let known = self.facts.contains_key(&key);
        let mut touched = BTreeSet::new();
        self.set(&key, None, &mut touched);
        known.then_some(touched)
    }

    fn set(&mut self, key: &str, fact: Option<Fact>, touched: &mut BTreeSet<VipKey>) {
        let fact = fact.filter(|_| !self.buried.contains(key));
        if fact.as_ref() == self.facts.get(key) {
            return;
        }
        // First what comes, then what goes: what both say never vanishes in between.
        if let Some(fact) = &fact {
            for (name, data) in records::of(key, fact) {
                self.add_record(name, data);
            }
            self.serve(fact, true, touched);
        }
        let old = match fact {
            Some(fact) => self.facts.insert(key.to_owned(), fact),
            None => self.facts.remove(key),
        };
        if let Some(old) = old {
            for (name, data) in records::of(key, &old) {
                self.remove_record(&name, &data);
            }
            self.serve(&old, false, touched);
        }
    }

    fn add_record(&mut self, name: String, data: Data) {
        for parent in parents(&name) {
            self.node(parent).below += 1;
        }
        *self.node(&name).data.entry(data).or_default() += 1;
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.names.entry(name.to_owned()).or_default()
    }

    fn remove_record(&mut self, name: &str, data: &Data) {
        if let Some(node) = self.names.get_mut(name) {
            if let Some(count) = node.data.get_mut(data) {
                *count -= 1;
                if *count == 0 {
                    node.data.remove(data);
                }
            }
            self.tidy(name);
        }
        for parent in parents(name) {
            if let Some(node) = self.names.get_mut(parent) {
                node.below = node.below.saturating_sub(1);
                self.tidy(parent);
            }
        }
    }

    fn tidy(&mut self, name: &str) {
        if self.names.get(name).is_some_and(|node| node.data.is_empty() && node.below == 0) {
            self.names.remove(name);
        }
    }

    fn serve(&mut self, fact: &Fact, on: bool, touched: &mut BTreeSet<VipKey>) {
        let Fact::Task(task) = fact else { return };
        for serves in &task.serves {
            let at = (serves.protocol, serves.address, serves.port);
            let vip = self.vips.entry(at).or_default();
            if on {
                vip.name.clone_from(&serves.name);
                *vip.backends.entry(serves.backend).or_default() += 1;
            } else if let Some(count) = vip.backends.get_mut(&serves.backend) {
                *count -= 1;
                if *count == 0 {
                    vip.backends.remove(&serves.backend);
                }
            }
            if vip.backends.is_empty() {
                self.vips.remove(&at);
            }
            touched.insert(at);
        }
    }

    /// What a name has. The name is in lower case, without the last dot.
    #[must_use]
    pub fn find(&self, name: &str) -> Found<'_> {
        Found(self.names.get(name))
    }

    /// One table; `None` when it has no back end.
    #[must_use]
    pub fn vip(&self, key: &VipKey) -> Option<VipTable> {
        let vip = self.vips.get(key)?;
        let (protocol, address, port) = *key;
        let backends: Vec<SocketAddrV4> = vip.backends.keys().copied().collect();
        (!backends.is_empty()).then(|| VipTable { protocol, address, port, name: vip.name.clone(), backends })
    }

    /// All tables.
    pub fn vips(&self) -> impl Iterator<Item = VipTable> {
        self.vips.keys().filter_map(|key| self.vip(key))
    }

    /// All facts.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The last step: epoch and number.
    #[must_use]
    pub fn step(&self) -> (u64, u64) {
        (self.epoch, self.generation)
    }
}

/// The names above a name, without the top one.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        rest = rest.split_once('.')?.1;
        Some(rest)
    })
}
