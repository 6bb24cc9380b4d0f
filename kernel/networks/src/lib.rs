//! Networks of containers: a namespace by path, a bridge of the instance's own, an address, port mappings in nftables.
//!
//! The [`ports`] core decides; [`Networks`] carries it out. What a container has is written down before it is made, every step can be done
//! again, and undoing goes the other way round, so a crash between any two steps is repaired by [`Networks::attach`], [`Networks::detach`] or
//! [`Networks::adopt`]. The folder lies on a file system that is emptied at boot, as namespaces are: nothing here is synced.
//! Packets never pass this process.
//!
//! Only the bridge over IPv4 is here. Overlay and CNI are refused with [`NetworkError::Unsupported`].

pub mod addresses;
mod bridge;
pub mod namespace;
pub mod ports;
mod tool;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use bridge::Networks;
pub use ports::{Port, Protocol};

/// What the operator sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The bridge's name, at most 15 characters; each instance on a machine has its own.
    pub bridge: String,
    /// The nftables table (family `ip`): `plenum_<instance>_ports`.
    pub table: String,
    /// The containers' network; its first address is the bridge's.
    pub network: Ipv4Addr,
    /// Its prefix length, 8 to 30.
    pub bits: u8,
    /// Name servers for `resolv.conf`.
    pub dns: Vec<IpAddr>,
    /// Search domains for `resolv.conf`.
    pub search: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bridge: "plenum0".to_owned(),
            table: "plenum_ports".to_owned(),
            network: Ipv4Addr::new(172, 31, 254, 0),
            bits: 24,
            dns: Vec::new(),
            search: Vec::new(),
        }
    }
}

/// Which network a container wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The node's bridge.
    Bridge,
    /// An overlay between nodes.
    Overlay(String),
    /// A network of CNI plugins.
    Cni(String),
}

/// What a container wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where it is attached.
    pub network: Network,
    /// Its port mappings.
    pub ports: Vec<Port>,
}

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNet {
    /// The address.
    pub address: IpAddr,
    /// The prefix length.
    pub bits: u8,
}

/// What a container has: also what Mesos' `NetworkInfo` tells (`name`, `ip_addresses`, `port_mappings`, `gateway`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The network's name.
    pub name: String,
    /// The namespace to join.
    pub netns: PathBuf,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Where everything else is sent.
    pub gateway: Option<IpAddr>,
    /// Its name servers.
    pub dns: Vec<IpAddr>,
    /// Its port mappings.
    pub ports: Vec<Port>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The settings cannot be used.
    #[error("network settings: {0}")]
    Settings(&'static str),
    /// The id cannot be a file's name.
    #[error(
        "\"{0}\" cannot name a container: use 1 to 200 letters, digits, '.', '-' and '_', not beginning with '.'"
    )]
    Id(String),
    /// Not built.
    #[error("{0} networks are not supported by this agent; use the host's network or a bridge")]
    Unsupported(&'static str),
    /// No address is free.
    #[error("every address of {network}/{bits} is taken; end containers, or set a larger network")]
    Full {
        /// The network.
        network: Ipv4Addr,
        /// Its prefix length.
        bits: u8,
    },
    /// A port is 0, or held already.
    #[error(
        "host port {port} ({protocol}) cannot be mapped: it is taken by another container, asked for twice, or 0"
    )]
    Port {
        /// The host's port.
        port: u16,
        /// The transport.
        protocol: &'static str,
    },
    /// A tool did not do it.
    #[error("{tool}: {reason}")]
    Tool {
        /// Which.
        tool: String,
        /// What it said.
        reason: String,
    },
    /// A file or a namespace.
    #[error("{step} {path}: {reason}")]
    File {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
}

/// The text of `hosts` and `resolv.conf` of a container.
#[must_use]
pub fn host_files(hostname: &str, attached: &Attached, search: &[String]) -> (String, String) {
    let mut hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for net in &attached.addresses {
        let _ = writeln!(hosts, "{} {hostname}", net.address);
    }
    let mut resolv = String::new();
    if !search.is_empty() {
        let _ = writeln!(resolv, "search {}", search.join(" "));
    }
    for server in &attached.dns {
        let _ = writeln!(resolv, "nameserver {server}");
    }
    (hosts, resolv)
}

/// Whether an id can be a file's name.
fn check_id(id: &str) -> Result<(), NetworkError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.chars().all(plain) {
        return Err(NetworkError::Id(id.chars().take(200).collect()));
    }
    Ok(())
}

/// The ids that are recorded and do not run: what [`Networks::adopt`] removes.
fn leftovers<'a>(recorded: &'a BTreeSet<String>, running: &'a BTreeSet<String>) -> Vec<&'a String> {
    recorded.difference(running).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_leave_the_folder() {
        for bad in ["", ".", "..", "a/b", ".x", "a b", "a\n"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        assert!(check_id("parent.child-1_x").is_ok());
    }

    #[test]
    fn files_name_the_container_and_its_servers() {
        let net = IpNet { address: [10, 0, 0, 2].into(), bits: 24 };
        let attached = Attached {
            name: "bridge".into(),
            netns: PathBuf::new(),
            addresses: vec![net],
            gateway: None,
            dns: vec![[10, 0, 0, 1].into()],
            ports: Vec::new(),
        };
        let (hosts, resolv) = host_files("web", &attached, &["mesos".to_owned()]);
        assert!(hosts.ends_with("10.0.0.2 web\n"));
        assert_eq!(resolv, "search mesos\nnameserver 10.0.0.1\n");
    }
}
