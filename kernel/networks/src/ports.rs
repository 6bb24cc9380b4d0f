//! Port mappings as nftables elements: what is held, what a change makes of it, and the transaction that says so. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

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

/// Where mappings live in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The table (family `ip`).
    pub table: String,
    /// The bridge.
    pub bridge: String,
    /// The containers' network.
    pub network: Ipv4Addr,
    /// Its prefix length.
    pub bits: u8,
}

/// Who holds a port and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The container.
    pub container: String,
    /// Its address and port.
    pub to: SocketAddrV4,
}

/// Every mapping of the node.
pub type Mappings = BTreeMap<(Protocol, u16), Target>;

/// The first asked-for port that somebody else holds, or that is asked for twice or is 0.
#[must_use]
pub fn conflict(held: &Mappings, container: &str, ports: &[Port]) -> Option<Port> {
    ports
        .iter()
        .enumerate()
        .find(|(at, port)| {
            let taken = held.get(&(port.protocol, port.host)).is_some_and(|t| t.container != container);
            let twice = ports.iter().take(*at).any(|o| (o.protocol, o.host) == (port.protocol, port.host));
            port.host == 0 || port.container == 0 || taken || twice
        })
        .map(|(_, port)| *port)
}

/// `held` with exactly these mappings for `container`.
#[must_use]
pub fn with(held: &Mappings, container: &str, address: Ipv4Addr, ports: &[Port]) -> Mappings {
    let mut after = held.clone();
    after.retain(|_, target| target.container != container);
    for port in ports {
        let to = SocketAddrV4::new(address, port.container);
        after.insert((port.protocol, port.host), Target { container: container.to_owned(), to });
    }
    after
}

/// The transaction that leads from `before` to `after`; `None` when nothing changes.
#[must_use]
pub fn change(place: &Place, before: &Mappings, after: &Mappings) -> Option<String> {
    let mut out = String::new();
    for ((protocol, port), target) in before {
        if after.get(&(*protocol, *port)).map(|t| t.to) != Some(target.to) {
            let _ =
                writeln!(out, "delete element ip {} ports_{} {{ {port} }}", place.table, protocol.as_str());
        }
    }
    for (key, target) in after {
        if before.get(key).map(|t| t.to) != Some(target.to) {
            out.push_str(&element(place, *key, target.to));
        }
    }
    (!out.is_empty()).then_some(out)
}

fn element(place: &Place, (protocol, port): (Protocol, u16), to: SocketAddrV4) -> String {
    let (table, map) = (&place.table, protocol.as_str());
    format!("add element ip {table} ports_{map} {{ {port} : {} . {} }}\n", to.ip(), to.port())
}

/// The whole table, made anew in one transaction: whatever the kernel had, it has this afterwards. What the host sends to its own loopback address
/// reaches containers as the bridge's address; what containers send to loopback addresses is dropped, since the bridge routes those.
#[must_use]
pub fn whole(place: &Place, held: &Mappings) -> String {
    let Place { table, bridge, network, bits } = place;
    let range = format!("{network}/{bits}");
    let mut out = format!(
        "add table ip {table}
delete table ip {table}
table ip {table} {{
  map ports_tcp {{ type inet_service : ipv4_addr . inet_service; }}
  map ports_udp {{ type inet_service : ipv4_addr . inet_service; }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop
    iifname != {{ \"lo\", \"{bridge}\" }} ip daddr 127.0.0.0/8 drop
  }}
  chain arriving {{
    type nat hook prerouting priority -90; policy accept;
    fib daddr type local dnat ip to tcp dport map @ports_tcp
    fib daddr type local dnat ip to udp dport map @ports_udp
  }}
  chain sent {{
    type nat hook output priority -90; policy accept;
    fib daddr type local dnat ip to tcp dport map @ports_tcp
    fib daddr type local dnat ip to udp dport map @ports_udp
  }}
  chain leaving {{
    type nat hook postrouting priority 90; policy accept;
    oifname \"{bridge}\" ip saddr 127.0.0.0/8 masquerade
    oifname \"{bridge}\" ct status dnat ip saddr {range} masquerade
    oifname != \"{bridge}\" ip saddr {range} ip daddr != {range} masquerade
  }}
}}
"
    );
    for (key, target) in held {
        out.push_str(&element(place, *key, target.to));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_touch_what_differs_and_ports_have_one_holder() {
        let place = Place { table: "t".into(), bridge: "b".into(), network: [10, 0, 0, 0].into(), bits: 24 };
        let port = Port { host: 8080, container: 80, protocol: Protocol::Tcp };
        let one = with(&Mappings::new(), "a", [10, 0, 0, 2].into(), &[port]);
        let added = change(&place, &Mappings::new(), &one).unwrap();
        assert_eq!(added, "add element ip t ports_tcp { 8080 : 10.0.0.2 . 80 }\n");
        assert_eq!(change(&place, &one, &one), None);
        let gone = change(&place, &one, &with(&one, "a", [10, 0, 0, 2].into(), &[])).unwrap();
        assert_eq!(gone, "delete element ip t ports_tcp { 8080 }\n");
        assert_eq!(conflict(&one, "b", &[port]), Some(port));
        assert_eq!(conflict(&one, "a", &[port]), None);
        assert_eq!(conflict(&one, "a", &[port, port]), Some(port));
        assert!(whole(&place, &one).ends_with(&added));
    }
}
