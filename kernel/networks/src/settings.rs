//! What the operator sets, and the names and networks that follow from it. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::types::{IpNet, NetworkError, hash};

/// What the operator sets. What is empty is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The instance's name, by which its interfaces and tables are told from another's on this machine. Empty: a name made of the folder's.
    pub instance: String,
    /// The bridge's name, at most 15 characters. Empty: `plb` and the instance's tag.
    pub bridge: String,
    /// The nftables table (family `inet`). Empty: `plenum_`, the instance's tag and `_net`.
    pub table: String,
    /// The bridge's network; its first address is the bridge's. None: the highest `172.31.<n>.0/22` of which the machine has no address.
    pub network: Option<IpNet>,
    /// The bridge's IPv6 network, /48 to /96. None: no IPv6.
    pub network6: Option<IpNet>,
    /// Name servers for `resolv.conf`. One at a loopback address of the host is reached at the bridge's address, port 53.
    pub dns: Vec<IpAddr>,
    /// Search domains for `resolv.conf`.
    pub search: Vec<String>,
    /// The overlay between nodes.
    pub overlay: Option<Overlay>,
    /// Networks of CNI plugins.
    pub cni: Cni,
}

impl Settings {
    /// The name server on the host's loopback that containers are led to.
    pub(crate) fn relay(&self) -> Option<Ipv4Addr> {
        self.dns.iter().find_map(|server| match server {
            IpAddr::V4(server) if server.is_loopback() => Some(*server),
            _ => None,
        })
    }

    /// The name servers of a container: one on the host's loopback is reached at the bridge's address, and not at all without one.
    pub(crate) fn servers(&self, gateway: Option<IpAddr>) -> Vec<IpAddr> {
        let relay = self.relay().and(gateway).filter(IpAddr::is_ipv4);
        let others = self.dns.iter().copied().filter(|server| !server.is_loopback());
        relay.into_iter().chain(others).collect()
    }
}

/// An overlay: each node has a slice of one range, by the slice's number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overlay {
    /// Its name.
    pub name: String,
    /// The range of all nodes together.
    pub range: IpNet,
    /// The prefix length of a slice, at most 29.
    pub slice_bits: u8,
    /// The master gives this node its slice and names the others. Who owns the networks sees to it; `slice` and `peers` are set otherwise.
    pub by_master: bool,
    /// The number of this node's slice, counted from 0. Not two nodes have the same.
    pub slice: u32,
    /// The IPv6 range. None: no IPv6.
    pub range6: Option<IpNet>,
    /// The prefix length of an IPv6 slice, 48 to 80.
    pub slice6_bits: u8,
    /// This node's address, which the other nodes reach.
    pub node: IpAddr,
    /// The number of the virtual network, below 2²⁴; equal on all nodes.
    pub vni: u32,
    /// The UDP port of the tunnel; equal on all nodes.
    pub port: u16,
    /// The containers' MTU. None: that of the interface with the node's address, less the tunnel's headers.
    pub mtu: Option<u32>,
    /// The other nodes, where they are known beforehand. Empty: [`crate::Networks::set_peers`] names them.
    pub peers: Vec<OtherNode>,
}

/// A node of an overlay in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherNode {
    /// The number of its slice.
    pub slice: u32,
    /// Its address.
    pub node: IpAddr,
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            name: "dcos".to_owned(),
            range: IpNet { address: Ipv4Addr::new(9, 0, 0, 0).into(), bits: 8 },
            slice_bits: 24,
            by_master: true,
            slice: 0,
            range6: None,
            slice6_bits: 64,
            node: Ipv4Addr::UNSPECIFIED.into(),
            vni: 1024,
            port: 4789,
            mtu: None,
            peers: Vec::new(),
        }
    }
}

impl Overlay {
    /// The slice with this number, and its IPv6 counterpart; `None` when the range has no such slice.
    #[must_use]
    pub fn slice(&self, number: u32) -> Option<(IpNet, Option<IpNet>)> {
        let slice = nth_slice(&self.range, self.slice_bits, number)?;
        let slice6 = match &self.range6 {
            Some(range) => Some(nth_slice(range, self.slice6_bits, number)?),
            None => None,
        };
        Some((slice, slice6))
    }

    /// The nodes that the settings name; `None` when they name none.
    pub(crate) fn named(&self) -> Option<std::collections::BTreeSet<Peer>> {
        let peers = self.peers.iter().filter_map(|other| self.peer(other.slice, other.node));
        (!self.peers.is_empty()).then(|| peers.collect())
    }

    /// The node with this slice and address, as [`crate::Networks::set_peers`] takes it.
    #[must_use]
    pub fn peer(&self, number: u32, node: IpAddr) -> Option<Peer> {
        let (slice, slice6) = self.slice(number)?;
        Some(Peer { node, slice, slice6 })
    }
}

impl Overlay {
    /// How many slices the ranges have.
    #[must_use]
    pub fn slices(&self) -> u32 {
        let of = |range: &IpNet, bits: u8| {
            1u32.checked_shl(u32::from(bits.saturating_sub(range.bits))).unwrap_or(u32::MAX)
        };
        let four = of(&self.range, self.slice_bits);
        self.range6.as_ref().map_or(four, |range| four.min(of(range, self.slice6_bits)))
    }
}

fn nth_slice(range: &IpNet, bits: u8, number: u32) -> Option<IpNet> {
    let free = u32::from(range.width().checked_sub(bits)?);
    if bits < range.bits {
        return None;
    }
    let at = u128::from(number).checked_mul(1u128.checked_shl(free)?)?;
    Some(IpNet { address: range.nth(at)?, bits })
}

/// Another node of the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its address, of the same family as this node's.
    pub node: IpAddr,
    /// Its slice.
    pub slice: IpNet,
    /// Its IPv6 slice.
    pub slice6: Option<IpNet>,
}

/// Where CNI networks and plugins are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cni {
    /// Folder of `*.conflist`, `*.conf` and `*.json` files, read at each attach. None: no such networks.
    pub config: Option<PathBuf>,
    /// Folders in which plugins are looked for, in order.
    pub plugins: Vec<PathBuf>,
    /// Longest time of one call of one plugin, in seconds.
    pub deadline: u64,
}

impl Default for Cni {
    fn default() -> Self {
        Self { config: None, plugins: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()], deadline: 30 }
    }
}

/// The names of one instance's things in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// The bridge.
    pub bridge: String,
    /// The overlay's bridge.
    pub overlay: String,
    /// The overlay's tunnel.
    pub tunnel: String,
    /// The table.
    pub table: String,
}

impl Names {
    /// The names in `folder`.
    pub fn new(folder: &Path, settings: &Settings) -> Self {
        let instance = &settings.instance;
        let short = !instance.is_empty()
            && instance.len() <= 8
            && instance.chars().all(|c| c.is_ascii_alphanumeric());
        let tag = if short {
            instance.clone()
        } else if instance.is_empty() {
            format!("{:010x}", hash(&[&folder.to_string_lossy()]) >> 24)
        } else {
            format!("{:010x}", hash(&["instance", instance]) >> 24)
        };
        let or = |set: &str, chosen: String| if set.is_empty() { chosen } else { set.to_owned() };
        Self {
            bridge: or(&settings.bridge, format!("plb{tag}")),
            overlay: format!("plo{tag}"),
            tunnel: format!("plv{tag}"),
            table: or(&settings.table, format!("plenum_{tag}_net")),
        }
    }

    /// The host's end of a container's pair: 15 characters at most, so a hash of bridge and container.
    pub fn pair(&self, container: &str) -> String {
        format!("{PAIR}{:012x}", hash(&[&self.bridge, container]) >> 16)
    }
}

/// What the names of the host's ends of pairs begin with.
pub(crate) const PAIR: &str = "pv";

/// The bridge's network where none is set: the one it has, or the highest of ours that touches no address of the machine.
pub(crate) fn choose(own: Option<IpNet>, others: &[IpNet]) -> Option<IpNet> {
    // A bridge has at most 1,023 links.
    let candidates =
        || (0..64u8).rev().map(|n| IpNet { address: Ipv4Addr::new(172, 31, n * 4, 0).into(), bits: 22 });
    let ours = own.map(|net| net.network()).filter(|net| candidates().any(|one| one == *net));
    ours.or_else(|| candidates().find(|net| !others.iter().any(|other| other.overlaps(net))))
}

/// Whether the settings can be used.
pub(crate) fn check(settings: &Settings) -> Result<(), NetworkError> {
    let plain = |text: &str, most: usize| {
        text.is_empty()
            || text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.len() <= most
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let refuse = |what: &str| Err(NetworkError::Settings(what.to_owned()));
    if !plain(&settings.bridge, 15) {
        return refuse("bridge: use up to 15 letters, digits and _");
    }
    if !plain(&settings.table, 64) {
        return refuse("table: use up to 64 letters, digits and _");
    }
    let exact = |net: &IpNet| net.network() == *net;
    if let Some(net) = &settings.network
        && (!net.address.is_ipv4() || !(8..=29).contains(&net.bits) || !exact(net))
    {
        return refuse("network: use an IPv4 network of /8 to /29 without bits behind its prefix");
    }
    if let Some(net) = &settings.network6
        && (!net.address.is_ipv6() || !(48..=96).contains(&net.bits) || !exact(net))
    {
        return refuse("network6: use an IPv6 network of /48 to /96 without bits behind its prefix");
    }
    let Some(overlay) = &settings.overlay else { return Ok(()) };
    if overlay.name.is_empty() || overlay.name.len() > 200 {
        return refuse("overlay.name: use 1 to 200 characters");
    }
    if !overlay.range.address.is_ipv4() || !exact(&overlay.range) || !(8..=29).contains(&overlay.slice_bits) {
        return refuse(
            "overlay.range: use an IPv4 network without bits behind its prefix, and slices of /8 to /29",
        );
    }
    if let Some(range) = &overlay.range6
        && (!range.address.is_ipv6() || !exact(range) || !(48..=80).contains(&overlay.slice6_bits))
    {
        return refuse(
            "overlay.range6: use an IPv6 network without bits behind its prefix, and slices of /48 to /80",
        );
    }
    if overlay.slice(overlay.slice).is_none() {
        return refuse("overlay.slice: the range has no slice of this number and size");
    }
    if overlay.peers.iter().any(|other| overlay.slice(other.slice).is_none()) {
        return refuse("overlay.peers: the range has no slice of one of these numbers");
    }
    if overlay.node.is_unspecified() {
        return refuse("overlay.node: set the address at which other nodes reach this one");
    }
    if overlay.vni == 0 || overlay.vni >= 1 << 24 || overlay.port == 0 {
        return refuse("overlay.vni: use 1 to 16777215; overlay.port: not 0");
    }
    if overlay.mtu.is_some_and(|mtu| !(1280..=65_000).contains(&mtu)) {
        return refuse("overlay.mtu: use 1280 to 65000");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_server_on_the_loopback_is_reached_at_the_bridge() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let settings =
            Settings { dns: vec![ip("9.9.9.9"), ip("127.88.1.53"), ip("::1")], ..Settings::default() };
        assert_eq!(settings.relay(), Some(Ipv4Addr::new(127, 88, 1, 53)));
        assert_eq!(settings.servers(Some(ip("172.31.0.1"))), [ip("172.31.0.1"), ip("9.9.9.9")]);
        assert_eq!(settings.servers(None), [ip("9.9.9.9")]);
    }

    #[test]
    fn slices_are_counted_from_the_start_of_the_range() {
        let overlay = Overlay { range6: Some(net("fd01::/48")), ..Overlay::default() };
        assert_eq!(overlay.slice(3), Some((net("9.0.3.0/24"), Some(net("fd01:0:0:3::/64")))));
        assert_eq!(overlay.slice(65_535).map(|s| s.0), Some(net("9.255.255.0/24")));
        assert_eq!(overlay.slice(65_536), None);
        assert_eq!(overlay.slices(), 65_536);
        assert_eq!(overlay.named(), None);
        let node: IpAddr = [192, 0, 2, 2].into();
        let named = Overlay { peers: vec![OtherNode { slice: 3, node }], ..overlay.clone() };
        assert_eq!(named.named(), overlay.peer(3, node).map(|peer| [peer].into()));
        let narrow = Overlay { slice_bits: 7, ..overlay };
        assert_eq!(narrow.slice(0), None);
    }

    #[test]
    fn names_are_an_instances_own_and_fit() {
        let (a, b) = (Path::new("/run/a"), Path::new("/run/b"));
        let unnamed = Settings::default();
        assert_ne!(Names::new(a, &unnamed), Names::new(b, &unnamed));
        let long = Settings { instance: "a-very-long-instance".into(), ..Settings::default() };
        let short = Settings { instance: "default".into(), ..Settings::default() };
        assert_eq!(Names::new(a, &long), Names::new(b, &long));
        assert_eq!(Names::new(a, &short).bridge, "plbdefault");
        for settings in [unnamed, long, short] {
            let names = Names::new(a, &settings);
            for name in [&names.bridge, &names.overlay, &names.tunnel, &names.pair("x")] {
                assert!(name.len() <= 15, "{name}");
            }
            assert!(names.table.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        }
    }

    #[test]
    fn a_free_network_is_chosen_and_kept() {
        assert_eq!(choose(None, &[]), Some(net("172.31.252.0/22")));
        assert_eq!(choose(None, &[net("172.31.254.1/24")]), Some(net("172.31.248.0/22")));
        assert_eq!(choose(None, &[net("172.31.250.9/20")]), Some(net("172.31.236.0/22")));
        assert_eq!(choose(Some(net("172.31.8.1/22")), &[]), Some(net("172.31.8.0/22")));
        assert_eq!(choose(Some(net("10.0.0.1/24")), &[]), Some(net("172.31.252.0/22")));
        assert_eq!(choose(None, &[net("172.16.0.0/12")]), None);
    }

    #[test]
    fn unusable_settings_are_refused() {
        let good = Settings::default();
        assert!(check(&good).is_ok());
        let node: IpAddr = [10, 0, 0, 1].into();
        let overlay = |change: fn(&mut Overlay)| {
            let mut overlay = Overlay { node, ..Overlay::default() };
            change(&mut overlay);
            Settings { overlay: Some(overlay), ..Settings::default() }
        };
        assert!(check(&overlay(|_| {})).is_ok());
        for bad in [
            Settings { bridge: "a-b".into(), ..good.clone() },
            Settings { bridge: "a".repeat(16), ..good.clone() },
            Settings { table: "x; flush ruleset".into(), ..good.clone() },
            Settings { network: Some(net("10.0.0.1/24")), ..good.clone() },
            Settings { network: Some(net("10.0.0.0/31")), ..good.clone() },
            Settings { network: Some(net("fd00::/64")), ..good.clone() },
            Settings { network6: Some(net("fd00::/40")), ..good.clone() },
            overlay(|o| o.node = IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            overlay(|o| o.vni = 1 << 24),
            overlay(|o| o.slice = 1 << 16),
            overlay(|o| o.slice_bits = 30),
            overlay(|o| o.mtu = Some(100)),
            overlay(|o| o.range6 = Some(IpNet { address: [10, 0, 0, 0].into(), bits: 8 })),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
