//! Which ports a host of a kind listens on, and who must be able to reach them.

use plenum_base::places::{Instance, Places, Role};

use crate::spec::Kind;

/// `tcp` or `udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Who must reach a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    /// Every host of the cluster.
    Hosts,
    /// Masters only.
    Masters,
    /// The host itself.
    Itself,
}

/// A port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Who must reach it.
    pub from: From,
    /// What listens there.
    pub what: &'static str,
}

/// The ports of a host of these kinds, in order of number. `etcd`: whether masters run a member of their own.
#[must_use]
pub fn ports(kinds: &[Kind], etcd: bool) -> Vec<Port> {
    let places = Places { root: true, ..Places::of(Instance::default(), 0) };
    let mut ports = Vec::new();
    let mut add = |number, protocol, from, what| ports.push(Port { number, protocol, from, what });
    let mut role = |role: Role, from| add(places.address(role).port(), Protocol::Tcp, from, role.as_str());
    let master = kinds.contains(&Kind::Master);
    role(Role::Discovery, From::Hosts);
    role(Role::Balancer, From::Itself);
    if master {
        for control in [Role::Identity, Role::Master, Role::Services, Role::Catalog, Role::Gateway] {
            role(control, From::Hosts);
        }
    }
    if kinds.iter().any(|kind| *kind != Kind::Master) {
        role(Role::Agent, From::Hosts);
    }
    if master {
        add(places.agents_door().port(), Protocol::Tcp, From::Hosts, "master's door for agents");
        add(places.gateway_tls().port(), Protocol::Tcp, From::Hosts, "gateway over TLS");
        add(places.dns().port(), Protocol::Udp, From::Itself, "DNS");
        add(places.dns().port(), Protocol::Tcp, From::Itself, "DNS");
    }
    if master && etcd {
        add(2379, Protocol::Tcp, From::Masters, "etcd for clients");
        add(2380, Protocol::Tcp, From::Masters, "etcd for its members");
        add(2381, Protocol::Tcp, From::Masters, "etcd's caretaker");
    }
    ports.sort_unstable();
    ports
}
