//! The balancer's core: the kernel's tables and the wanted ones in, one nftables transaction out. Pure.
//!
//! Layout of a table: `vips` sends `protocol . address . port` to the chain `spread_N` for N back ends; that chain draws a slot below N and
//! looks the back end up in `slots_tcp` or `slots_udp`, by `protocol . address . port . slot`. `numgen` takes only a constant modulus, hence
//! one chain per distinct N; nft binds a map that gives ports to one transport, hence two maps of slots. All maps are hashes, so that neither
//! loading nor a lookup depends on how many virtual addresses there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use plenum_discovery::feed::Protocol;
use plenum_discovery::range::Range;
use plenum_discovery::replica::socket::Tables;

/// The most back ends of one virtual address; more are left out.
pub const MOST: usize = 4096;

const TRANSPORTS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// A virtual address: transport, address, port.
pub type Key = (Protocol, Ipv4Addr, u16);

/// The virtual addresses and their back ends by slot.
pub type State = BTreeMap<Key, Vec<SocketAddrV4>>;

/// What the kernel holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// How many back ends each virtual address is spread over.
    pub vips: BTreeMap<Key, usize>,
    /// Back ends by virtual address and slot.
    pub slots: BTreeMap<(Key, usize), SocketAddrV4>,
    /// For which counts there are chains.
    pub chains: BTreeSet<usize>,
}

/// A back end that left a virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gone {
    /// The virtual address.
    pub key: Key,
    /// Where its connections went.
    pub backend: SocketAddrV4,
}

/// Which back ends of `keys` were there and are no longer.
#[must_use]
pub fn gone(before: &Kernel, after: &Kernel, keys: &BTreeSet<Key>) -> BTreeSet<Gone> {
    let of = |kernel: &Kernel, key: &Key| -> BTreeSet<SocketAddrV4> {
        kernel.slots.range((*key, 0)..=(*key, usize::MAX)).map(|(_, to)| *to).collect()
    };
    let mut out = BTreeSet::new();
    for key in keys {
        let stay = of(after, key);
        let left = of(before, key).into_iter().filter(|backend| !stay.contains(backend));
        out.extend(left.map(|backend| Gone { key: *key, backend }));
    }
    out
}

/// Where and for what a table is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The table's name.
    pub table: String,
    /// The range of virtual addresses.
    pub range: Range,
}

/// What is wanted, as discovery tells it.
#[derive(Debug, Clone, Default)]
pub struct Wanted(BTreeMap<Key, BTreeSet<SocketAddrV4>>);

impl Wanted {
    /// Takes a line of discovery's stream; gives the virtual addresses that it touches.
    pub fn take(&mut self, line: &Tables) -> BTreeSet<Key> {
        let mut touched = BTreeSet::new();
        if line.whole {
            touched.extend(self.0.keys().copied());
            self.0.clear();
        }
        for table in &line.tables {
            let key = (table.protocol, table.address, table.port);
            touched.insert(key);
            // Only addresses of our range reach our chains; others would be dead weight.
            if line.range.contains(table.address) && table.port != 0 && !table.backends.is_empty() {
                self.0.insert(key, table.backends.iter().copied().take(MOST).collect());
            } else {
                self.0.remove(&key);
            }
        }
        for gone in &line.gone {
            let key = (gone.protocol, gone.address, gone.port);
            self.0.remove(&key);
            touched.insert(key);
        }
        touched
    }

    /// How many virtual addresses there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every key.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<Key> {
        self.0.keys().copied().collect()
    }
}

/// The back ends by slot: who has one below the new count keeps it, the others fill the gaps. So one that leaves changes one other slot.
fn arrange(before: &[Option<SocketAddrV4>], wanted: &BTreeSet<SocketAddrV4>) -> Vec<SocketAddrV4> {
    let count = wanted.len();
    let mut placed = BTreeSet::new();
    let mut slots: Vec<Option<SocketAddrV4>> = vec![None; count];
    for (slot, old) in before.iter().take(count).enumerate() {
        if let Some(old) = old.filter(|old| wanted.contains(old))
            && placed.insert(old)
            && let Some(place) = slots.get_mut(slot)
        {
            *place = Some(old);
        }
    }
    let mut rest = wanted.iter().copied().filter(|one| !placed.contains(one));
    slots.into_iter().filter_map(|slot| slot.or_else(|| rest.next())).collect()
}

/// The transaction that turns what `kernel` says of `keys` into what is wanted, and the kernel's tables after it. `None` when all is as it should be.
#[must_use]
pub fn plan(
    place: &Place,
    kernel: &Kernel,
    wanted: &Wanted,
    keys: &BTreeSet<Key>,
) -> Option<(String, Kernel)> {
    let mut after = kernel.clone();
    let mut changes = Changes::default();
    for key in keys {
        let range = (*key, 0)..=(*key, usize::MAX);
        let held: BTreeMap<usize, SocketAddrV4> =
            kernel.slots.range(range).map(|((_, slot), to)| (*slot, *to)).collect();
        let goal = match wanted.0.get(key) {
            Some(backends) => {
                let before: Vec<Option<SocketAddrV4>> =
                    (0..backends.len()).map(|slot| held.get(&slot).copied()).collect();
                arrange(&before, backends)
            }
            None => Vec::new(),
        };
        for (slot, to) in &held {
            if goal.get(*slot) != Some(to) {
                changes.drop_slots.entry(key.0).or_default().push(slot_key(key, *slot));
                after.slots.remove(&(*key, *slot));
            }
        }
        for (slot, to) in goal.iter().enumerate() {
            if held.get(&slot) != Some(to) {
                changes.add_slots.entry(key.0).or_default().push(format!(
                    "{} : {} . {}",
                    slot_key(key, slot),
                    to.ip(),
                    to.port()
                ));
                after.slots.insert((*key, slot), *to);
            }
        }
        let spread = (!goal.is_empty()).then_some(goal.len());
        let now = kernel.vips.get(key).copied();
        if now != spread {
            if now.is_some() {
                changes.drop_vips.push(vip_key(key));
                after.vips.remove(key);
            }
            if let Some(count) = spread {
                if after.chains.insert(count) {
                    changes.chains.push(count);
                }
                changes.add_vips.push(format!("{} : goto spread_{count}", vip_key(key)));
                after.vips.insert(*key, count);
            }
        }
    }
    changes.script(place).map(|script| (script, after))
}

fn vip_key((protocol, address, port): &Key) -> String {
    format!("{} . {address} . {port}", protocol.as_str())
}

fn slot_key(key: &Key, slot: usize) -> String {
    format!("{} . {slot}", vip_key(key))
}

#[derive(Default)]
struct Changes {
    chains: Vec<usize>,
    drop_vips: Vec<String>,
    drop_slots: BTreeMap<Protocol, Vec<String>>,
    add_slots: BTreeMap<Protocol, Vec<String>>,
    add_vips: Vec<String>,
}

impl Changes {
    fn script(&self, place: &Place) -> Option<String> {
        let table = &place.table;
        let mut out = String::new();
        for count in &self.chains {
            out.push_str(&spread(table, *count));
        }
        let mut change = |what: &str, map: &str, elements: &[String]| {
            if !elements.is_empty() {
                let _ = writeln!(out, "{what} element ip {table} {map} {{ {} }}", elements.join(", "));
            }
        };
        change("delete", "vips", &self.drop_vips);
        for (what, slots) in [("delete", &self.drop_slots), ("add", &self.add_slots)] {
            for (protocol, elements) in slots {
                change(what, &format!("slots_{}", protocol.as_str()), elements);
            }
        }
        change("add", "vips", &self.add_vips);
        (!out.is_empty()).then_some(out)
    }
}

/// The chain that spreads over `count` back ends.
fn spread(table: &str, count: usize) -> String {
    let mut out = format!("add chain ip {table} spread_{count}\n");
    for protocol in TRANSPORTS {
        let _ = writeln!(
            out,
            "add rule ip {table} spread_{count} meta l4proto {0} dnat ip to meta l4proto . ip daddr . th dport . numgen random mod {count} map @slots_{0}",
            protocol.as_str()
        );
    }
    out
}

/// The table without any virtual address, made from nothing: the hooks, the maps, and what happens to connections to addresses of the range that
/// nobody serves (refused, so that clients hear it at once). What comes through this host from elsewhere goes on in this host's name: its answers
/// must come back here to be translated.
#[must_use]
pub fn skeleton(place: &Place) -> String {
    let Place { table, range } = place;
    format!(
        "add table ip {table}
delete table ip {table}
table ip {table} {{
  map vips {{ type inet_proto . ipv4_addr . inet_service : verdict; }}
  map slots_tcp {{ typeof meta l4proto . ip daddr . th dport . numgen random mod 2 : ip daddr . tcp dport; }}
  map slots_udp {{ typeof meta l4proto . ip daddr . th dport . numgen random mod 2 : ip daddr . udp dport; }}
  chain choose {{
    meta l4proto . ip daddr . th dport vmap @vips
    meta l4proto tcp reject with tcp reset
    meta l4proto udp reject
  }}
  chain arriving {{
    type nat hook prerouting priority -100; policy accept;
    ip daddr {range} jump choose
  }}
  chain leaving {{
    type nat hook output priority -100; policy accept;
    ip daddr {range} jump choose
  }}
  chain returning {{
    type nat hook postrouting priority 100; policy accept;
    oifname != \"lo\" ct status dnat ip saddr {{ 127.0.0.0/8, {range} }} masquerade
    oifname != \"lo\" ct status dnat ct original ip daddr {range} fib saddr type != local masquerade
  }}
}}
"
    )
}
