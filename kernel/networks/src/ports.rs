//! Port mappings: who holds which port, what that is in the kernel's maps, and the table's text. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::types::IpNet;

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As nft spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One mapping that a container asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The port of the host.
    pub host: u16,
    /// The port inside.
    pub container: u16,
    /// The transport.
    pub protocol: Protocol,
}

/// Who holds a port and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The container.
    pub container: String,
    /// Its port.
    pub port: u16,
    /// Its address; none where something else maps the port (CNI).
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// A port of the host.
pub type HostPort = (Protocol, u16);

/// Every mapping of the node, and which have changed since somebody asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mappings {
    held: BTreeMap<HostPort, Target>,
    of: BTreeMap<String, Vec<HostPort>>,
    changed: BTreeSet<HostPort>,
}

/// One of the table's maps, from ports of the host to addresses and ports of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Map {
    /// TCP over IPv4.
    Tcp4,
    /// UDP over IPv4.
    Udp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv6.
    Udp6,
}

/// All maps.
pub const MAPS: [Map; 4] = [Map::Tcp4, Map::Udp4, Map::Tcp6, Map::Udp6];

impl Map {
    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp4 => "ports4_tcp",
            Self::Udp4 => "ports4_udp",
            Self::Tcp6 => "ports6_tcp",
            Self::Udp6 => "ports6_udp",
        }
    }

    /// Whether it leads to IPv4 addresses.
    #[must_use]
    pub fn is_v4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Udp4)
    }
}

/// One element.
pub type Element = ((Map, u16), SocketAddr);

/// What the maps hold.
pub type Elements = BTreeMap<(Map, u16), SocketAddr>;

impl Mappings {
    /// The first asked-for port that somebody else holds, or that is asked for twice or is 0.
    #[must_use]
    pub fn conflict(&self, container: &str, ports: &[Port]) -> Option<Port> {
        let mut seen = BTreeSet::new();
        let mut refused = |port: &Port| {
            let key = (port.protocol, port.host);
            let taken = self.held.get(&key).is_some_and(|target| target.container != container);
            let twice = !seen.insert(key);
            port.host == 0 || port.container == 0 || taken || twice
        };
        ports.iter().find(|port| refused(port)).copied()
    }

    /// Gives `container` exactly these mappings.
    pub fn set(&mut self, container: &str, to: (Option<Ipv4Addr>, Option<Ipv6Addr>), ports: &[Port]) {
        let old = self.of.remove(container).unwrap_or_default();
        for key in old {
            self.held.remove(&key);
            self.changed.insert(key);
        }
        let (v4, v6) = to;
        for port in ports {
            let key = (port.protocol, port.host);
            let target = Target { container: container.to_owned(), port: port.container, v4, v6 };
            self.held.insert(key, target);
            self.changed.insert(key);
        }
        if !ports.is_empty() {
            let keys = ports.iter().map(|port| (port.protocol, port.host)).collect();
            self.of.insert(container.to_owned(), keys);
        }
    }

    /// What the kernel's maps should hold, all of it, or for the keys that have changed since this was last asked; and those keys.
    pub fn take(&mut self, all: bool) -> (Option<BTreeSet<(Map, u16)>>, Elements) {
        let changed = std::mem::take(&mut self.changed);
        let mut out = Elements::new();
        if all {
            self.held.iter().for_each(|(key, target)| target.elements(*key, &mut out));
            return (None, out);
        }
        let mut keys = BTreeSet::new();
        for key in changed {
            keys.extend(maps(key.0).map(|map| (map, key.1)));
            if let Some(target) = self.held.get(&key) {
                target.elements(key, &mut out);
            }
        }
        (Some(keys), out)
    }
}

/// The maps of a transport.
fn maps(protocol: Protocol) -> [Map; 2] {
    match protocol {
        Protocol::Tcp => [Map::Tcp4, Map::Tcp6],
        Protocol::Udp => [Map::Udp4, Map::Udp6],
    }
}

impl Target {
    /// The mapping as the kernel's maps hold it.
    fn elements(&self, (protocol, port): HostPort, out: &mut Elements) {
        let [four, six] = maps(protocol);
        out.extend(self.v4.map(|ip| ((four, port), SocketAddr::new(ip.into(), self.port))));
        out.extend(self.v6.map(|ip| ((six, port), SocketAddr::new(ip.into(), self.port))));
    }
}

/// What must be removed and what must be added to lead from `before` to `after`; one that leads elsewhere is both.
#[must_use]
pub fn change(before: &Elements, after: &Elements) -> (Vec<Element>, Vec<Element>) {
    let differ = |one: &Elements, other: &Elements| -> Vec<Element> {
        one.iter().filter(|(key, to)| other.get(key) != Some(to)).map(|(key, to)| (*key, *to)).collect()
    };
    (differ(before, after), differ(after, before))
}

/// One bridge and what may be behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The bridge.
    pub bridge: String,
    /// Where containers talk to each other with their own addresses: the bridge's network, or the overlay's range.
    pub ranges: Vec<IpNet>,
    /// A name server on the host's loopback, which containers reach at the bridge's address.
    pub relay: Option<std::net::Ipv4Addr>,
}

/// The table without its elements, as one transaction that can be done again: its chains get these rules, its maps keep what they have, and
/// connections stay. What the host sends to its own loopback address reaches containers as the bridge's address; what comes from elsewhere
/// to loopback addresses is dropped, since bridges route those.
#[must_use]
pub fn table(name: &str, places: &[Place]) -> String {
    let mut out = format!("add table inet {name}\n");
    for map in MAPS {
        let kind = if map.is_v4() { "ipv4_addr" } else { "ipv6_addr" };
        let map = map.name();
        let _ = writeln!(out, "add map inet {name} {map} {{ type inet_service : {kind} . inet_service; }}");
    }
    for (chain, kind) in [
        ("guard", "filter hook prerouting priority -300"),
        ("arriving", "nat hook prerouting priority -90"),
        ("sent", "nat hook output priority -90"),
        ("leaving", "nat hook postrouting priority 90"),
    ] {
        let _ = writeln!(out, "add chain inet {name} {chain} {{ type {kind}; policy accept; }}");
        let _ = writeln!(out, "flush chain inet {name} {chain}");
    }
    let mut rule = |chain: &str, text: &str| {
        let _ = writeln!(out, "add rule inet {name} {chain} {text}");
    };
    rule("guard", "iifname != \"lo\" ip daddr 127.0.0.0/8 drop");
    for chain in ["arriving", "sent"] {
        // The kernel takes no answer to ::1 from elsewhere. Left alone it is refused at once, and callers try the next address.
        for (family, maps, but) in [("ip", "ports4", ""), ("ip6", "ports6", "ip6 daddr != ::1 ")] {
            for transport in ["tcp", "udp"] {
                let to = format!("dnat {family} to {transport} dport map @{maps}_{transport}");
                rule(chain, &format!("fib daddr type local {but}{to}"));
            }
        }
    }
    for Place { bridge, ranges, relay } in places {
        for transport in ["udp", "tcp"].iter().filter(|_| relay.is_some()) {
            let to = relay.unwrap_or(std::net::Ipv4Addr::LOCALHOST);
            let asked = format!("iifname \"{bridge}\" fib daddr type local {transport} dport 53");
            rule("arriving", &format!("{asked} dnat ip to {to}:53"));
        }
        rule("leaving", &format!("oifname \"{bridge}\" ip saddr 127.0.0.0/8 masquerade"));
        for range in ranges {
            let family = if range.address.is_ipv4() { "ip" } else { "ip6" };
            rule(
                "leaving",
                &format!("oifname \"{bridge}\" ct status dnat {family} saddr {range} masquerade"),
            );
            rule(
                "leaving",
                &format!(
                    "oifname != \"{bridge}\" {family} saddr {range} {family} daddr != {range} masquerade"
                ),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_touch_what_differs_and_ports_have_one_holder() {
        let port = Port { host: 8080, container: 80, protocol: Protocol::Tcp };
        let to = (Some([10, 0, 0, 2].into()), Some("fd00::2".parse().unwrap()));
        let mut one = Mappings::default();
        one.set("a", to, &[port]);
        let (keys, held) = one.take(false);
        let expected: [Element; 2] = [
            ((Map::Tcp4, 8080), "10.0.0.2:80".parse().unwrap()),
            ((Map::Tcp6, 8080), "[fd00::2]:80".parse().unwrap()),
        ];
        assert_eq!(keys, Some(expected.iter().map(|(key, _)| *key).collect()));
        assert_eq!(one.take(false), (Some(BTreeSet::new()), Elements::new()), "it is asked for once");
        assert_eq!(one.take(true), (None, held.clone()));
        assert_eq!(change(&Elements::new(), &held), (vec![], expected.to_vec()));
        assert_eq!(change(&held, &held), (vec![], vec![]));
        assert_eq!(change(&held, &Elements::new()), (expected.to_vec(), vec![]));
        assert_eq!(one.conflict("b", &[port]), Some(port));
        assert_eq!(one.conflict("a", &[port]), None);
        assert_eq!(one.conflict("a", &[port, port]), Some(port));
        assert!(one.conflict("b", &[Port { protocol: Protocol::Udp, ..port }]).is_none());
        assert!(one.conflict("b", &[Port { host: 1, container: 0, ..port }]).is_some());
        let mut moved = one.clone();
        moved.set("a", (Some([10, 0, 0, 3].into()), to.1), &[port]);
        let (gone, new) = change(&held, &moved.take(false).1);
        assert_eq!((gone, new), (vec![expected[0]], vec![(expected[0].0, "10.0.0.3:80".parse().unwrap())]));
        moved.set("a", to, &[]);
        let (keys, left) = moved.take(false);
        assert_eq!((keys.map(|keys| keys.len()), left.len()), (Some(2), 0));
        moved.set("c", (None, None), &[port]);
        assert!(moved.take(true).1.is_empty() && moved.conflict("a", &[port]).is_some());
    }

    #[test]
    fn the_table_keeps_its_maps() {
        let place = Place { bridge: "b".into(), ranges: vec!["10.0.0.0/24".parse().unwrap()], relay: None };
        let plain = table("t", std::slice::from_ref(&place));
        assert!(!plain.contains("dport 53"));
        let relay = Some([127, 88, 1, 53].into());
        let text = table("t", &[Place { relay, ..place }]);
        let rule = "add rule inet t arriving iifname \"b\" fib daddr type local udp dport 53 dnat ip to 127.88.1.53:53";
        assert!(text.contains(rule), "{text}");
        assert!(!text.contains("delete") && !text.contains("flush map") && !text.contains("flush table"));
        assert!(text.contains("oifname != \"b\" ip saddr 10.0.0.0/24 ip daddr != 10.0.0.0/24 masquerade"));
    }
}
