//! Which DNS records a fact stands for. Pure and local: one fact, its records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::feed::{Fact, Port, Protocol, Task};
use crate::names::{DCOS, L4LB, MESOS, label};

/// What a name has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A service: where and on which port.
    Srv {
        /// The name of the host.
        target: String,
        /// The port.
        port: u16,
    },
}

impl From<IpAddr> for Data {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::A(v4),
            IpAddr::V6(v6) => Self::Aaaa(v6),
        }
    }
}

/// A record: its name in lower case without the last dot, and what it says.
pub type Record = (String, Data);

/// The records of one fact. `key` is the fact's key.
#[must_use]
pub fn of(key: &str, fact: &Fact) -> Vec<Record> {
    let mut out = Vec::new();
    match fact {
        Fact::Master { address, port, leads } => master(key, *address, *port, *leads, &mut out),
        Fact::Agent { address, port } => {
            out.push((format!("slave.{MESOS}"), (*address).into()));
            out.push((format!("_slave._tcp.{MESOS}"), srv(format!("slave.{MESOS}"), *port)));
        }
        Fact::Framework { name, address, port } if !name.is_empty() => {
            let host = format!("{name}.{MESOS}");
            out.push((host.clone(), (*address).into()));
            if *port != 0 {
                out.push((format!("_framework._tcp.{host}"), srv(host, *port)));
            }
        }
        Fact::Framework { .. } => {}
        Fact::Task(of) => task(of, &mut out),
        Fact::Address(address) => {
            let name = key.strip_prefix("vip/").unwrap_or(key);
            out.push((format!("{name}.{L4LB}"), Data::A(*address)));
        }
    }
    out
}

fn srv(target: String, port: u16) -> Data {
    Data::Srv { target, port }
}

fn master(key: &str, address: IpAddr, port: u16, leads: bool, out: &mut Vec<Record>) {
    let number = key.strip_prefix("master/").unwrap_or("0");
    let mut names =
        vec![format!("master.{MESOS}"), format!("master{number}.{MESOS}"), format!("master.{DCOS}")];
    if leads {
        names.extend([format!("leader.{MESOS}"), format!("leader.{DCOS}")]);
        for protocol in ["tcp", "udp"] {
            out.push((format!("_leader._{protocol}.{MESOS}"), srv(format!("leader.{MESOS}"), port)));
        }
    }
    out.extend(names.into_iter().map(|name| (name, address.into())));
}

fn task(task: &Task, out: &mut Vec<Record>) {
    let (name, framework) = (label(&task.name), task.framework.as_str());
    if name.is_empty() || framework.is_empty() {
        return;
    }
    let canonical = &task.canonical;
    // Mesos-DNS looks for addresses in the order `host, netinfo`: the host always has one.
    for host in [&name, canonical] {
        out.push((format!("{host}.{framework}.{MESOS}"), task.agent.into()));
        out.push((format!("{host}.{framework}.slave.{MESOS}"), task.agent.into()));
    }
    let own = if task.container.is_empty() { std::slice::from_ref(&task.agent) } else { &task.container[..] };
    let on_host = task.ports.iter().any(|port| !port.inside);
    let auto = if on_host { std::slice::from_ref(&task.agent) } else { own };
    for (kind, addresses) in
        [("autoip", auto), ("agentip", std::slice::from_ref(&task.agent)), ("containerip", own)]
    {
        for address in addresses {
            out.push((format!("{name}.{framework}.{kind}.{DCOS}"), (*address).into()));
        }
    }
    for port in &task.ports {
        services(task, &name, port, out);
    }
}

fn services(task: &Task, name: &str, port: &Port, out: &mut Vec<Record>) {
    let Task { framework, canonical, .. } = task;
    let protocol = match port.protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
    };
    let mut zones = vec![MESOS.to_owned()];
    if !port.inside {
        zones.push(format!("slave.{MESOS}"));
    }
    for zone in zones {
        let target = format!("{canonical}.{framework}.{zone}");
        let service = format!("_{name}.{protocol}.{framework}.{zone}");
        if let Some(port_name) = &port.name {
            out.push((format!("_{port_name}.{service}"), srv(target.clone(), port.number)));
        }
        out.push((service, srv(target, port.number)));
    }
}
