//! What is said to this crate and by it: wishes, what a container has, errors, the text of its files.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ports::Port;

/// Which network a container wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The node's bridge.
    Bridge,
    /// The overlay between nodes, by its name.
    Overlay(String),
    /// A network of CNI plugins, by its name.
    Cni(String),
    /// Whichever has this name: the bridge (`mesos-bridge`, `bridge`), the overlay, or one of CNI plugins.
    Named(String),
}

/// What a container wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Where it is attached.
    pub network: Network,
    /// Its port mappings.
    pub ports: Vec<Port>,
    /// Labels of the network; kept, and told again in [`Attached`]. Plugins get them as `args.org.apache.mesos.network_info`.
    pub labels: BTreeMap<String, String>,
    /// Addresses that it must have (of our own networks: one IPv4 address); usually none.
    pub addresses: Vec<IpAddr>,
}

impl Wish {
    /// A network and nothing else.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self { network, ports: Vec::new(), labels: BTreeMap::new(), addresses: Vec::new() }
    }
}

/// An address with the length of its network's prefix. Written `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpNet {
    /// The address.
    pub address: IpAddr,
    /// The prefix length.
    pub bits: u8,
}

impl IpNet {
    /// All bits of its family: 32 or 128.
    #[must_use]
    pub fn width(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    fn mask(&self) -> u128 {
        let free = u32::from(self.width().saturating_sub(self.bits));
        u128::MAX.checked_shl(free).unwrap_or(0)
    }

    /// Its network's first address, with the same prefix.
    #[must_use]
    pub fn network(&self) -> Self {
        Self { address: address(number(self.address) & self.mask(), self.address), bits: self.bits }
    }

    /// Whether an address lies in its network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        other.is_ipv4() == self.address.is_ipv4() && (number(other) ^ number(self.address)) & self.mask() == 0
    }

    /// Whether the two networks share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let wide = if self.bits < other.bits { self } else { other };
        let narrow = if self.bits < other.bits { other } else { self };
        wide.contains(narrow.address)
    }

    /// The `at`th address of its network; `None` when it has fewer.
    #[must_use]
    pub fn nth(&self, at: u128) -> Option<IpAddr> {
        let first = self.network();
        let found = address(number(first.address).checked_add(at)?, self.address);
        (self.contains(found) && number(found) >= at).then_some(found)
    }
}

/// An address as a number.
#[must_use]
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// A number as an address of the family of `like`.
fn address(number: u128, like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        IpAddr::V4(u32::try_from(number & u128::from(u32::MAX)).unwrap_or(u32::MAX).into())
    } else {
        IpAddr::V6(number.into())
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for IpNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("\"{text}\" is no network: write an address and its prefix length, such as 10.0.0.0/8")
        };
        let (address, bits) = text.split_once('/').ok_or_else(bad)?;
        let net =
            Self { address: address.parse().map_err(|_| bad())?, bits: bits.parse().map_err(|_| bad())? };
        if net.bits > net.width() { Err(bad()) } else { Ok(net) }
    }
}

impl TryFrom<String> for IpNet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<IpNet> for String {
    fn from(net: IpNet) -> Self {
        net.to_string()
    }
}

/// What a container has: also what Mesos' `NetworkInfo` tells (`name`, `ip_addresses`, `port_mappings`, `labels`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The network's name: `bridge`, the overlay's, or the CNI network's.
    pub name: String,
    /// The namespace to join.
    pub netns: PathBuf,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Where everything else is sent (IPv4 where it has both).
    pub gateway: Option<IpAddr>,
    /// Its name servers.
    pub dns: Vec<IpAddr>,
    /// Its search domains, the network's own first.
    pub search: Vec<String>,
    /// Its port mappings.
    pub ports: Vec<Port>,
    /// The wish's labels.
    pub labels: BTreeMap<String, String>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The settings cannot be used.
    #[error("network settings: {0}")]
    Settings(String),
    /// The id cannot be a file's name.
    #[error(
        "\"{0}\" cannot name a container: use 1 to 200 letters, digits, '.', '-' and '_', not beginning with '.'"
    )]
    Id(String),
    /// No such network.
    #[error("this agent has no network \"{name}\"; it has: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The network cannot do what is asked.
    #[error("network \"{name}\": {reason}")]
    Refused {
        /// The network.
        name: String,
        /// Why.
        reason: String,
    },
    /// No address is free.
    #[error("every address of {network} is taken; end containers, or set a larger network")]
    Full {
        /// The network.
        network: IpNet,
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
    /// A tool or a plugin did not do it.
    #[error("{tool}: {reason}")]
    Tool {
        /// Which.
        tool: String,
        /// What it said.
        reason: String,
    },
    /// The kernel did not do it.
    #[error("{step}: {reason}")]
    Kernel {
        /// What was done.
        step: String,
        /// What the system says.
        reason: io::Error,
    },
    /// A file or a namespace.
    #[error("{step} {path}: {reason}")]
    File {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
}

/// Turns the system's word on a file into an error.
pub(crate) fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |reason| NetworkError::File { step, path, reason }
}

/// Turns the system's word on a step into an error.
pub(crate) fn kernel(step: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let step = step.into();
    move |reason| NetworkError::Kernel { step, reason }
}

/// The text of `hosts` and `resolv.conf` of a container. `search` comes after the network's own domains.
#[must_use]
pub fn host_files(hostname: &str, attached: &Attached, search: &[String]) -> (String, String) {
    let mut hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for net in &attached.addresses {
        let _ = writeln!(hosts, "{} {hostname}", net.address);
    }
    let mut domains: Vec<&str> = Vec::new();
    for domain in attached.search.iter().chain(search) {
        if !domains.contains(&domain.as_str()) {
            domains.push(domain);
        }
    }
    let mut resolv = String::new();
    if !domains.is_empty() {
        let _ = writeln!(resolv, "search {}", domains.join(" "));
    }
    for server in &attached.dns {
        let _ = writeln!(resolv, "nameserver {server}");
    }
    (hosts, resolv)
}

/// Whether an id can be a file's name.
pub(crate) fn check_id(id: &str) -> Result<(), NetworkError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.chars().all(plain) {
        return Err(NetworkError::Id(id.chars().take(200).collect()));
    }
    Ok(())
}

/// FNV-1a of some words.
pub(crate) fn hash(words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
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
    fn networks_count_and_overlap() {
        let net: IpNet = "10.1.2.3/24".parse().unwrap();
        assert_eq!(net.network().to_string(), "10.1.2.0/24");
        assert_eq!(net.nth(255), Some([10, 1, 2, 255].into()));
        assert_eq!(net.nth(256), None);
        let top: IpNet = "255.255.255.0/24".parse().unwrap();
        assert_eq!(top.nth(300), None);
        assert!("10.0.0.0/8".parse::<IpNet>().unwrap().overlaps(&net));
        assert!(!"10.1.3.0/24".parse::<IpNet>().unwrap().overlaps(&net));
        assert!(!"fd00::/8".parse::<IpNet>().unwrap().overlaps(&net));
        let six: IpNet = "fd00::/64".parse().unwrap();
        assert_eq!(six.nth(258), Some("fd00::102".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<IpNet>().unwrap().contains([9, 9, 9, 9].into()));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<IpNet>().is_err(), "{bad}");
        }
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
            search: vec!["own".to_owned(), "mesos".to_owned()],
            ports: Vec::new(),
            labels: BTreeMap::new(),
        };
        let (hosts, resolv) = host_files("web", &attached, &["mesos".to_owned()]);
        assert!(hosts.ends_with("10.0.0.2 web\n"));
        assert_eq!(resolv, "search own mesos\nnameserver 10.0.0.1\n");
    }
}
