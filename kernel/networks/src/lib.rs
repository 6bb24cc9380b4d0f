//! Networks of containers: a namespace by path; a bridge of the instance's own, an overlay between nodes, or networks of CNI plugins; addresses
//! (IPv4, and IPv6 where a range is set) and port mappings in nftables.
//!
//! The cores decide and touch nothing: [`state`] (links, routes), [`ports`] (mappings), [`addresses`], the overlay's. [`Networks`] carries it
//! out, by netlink from this process. What a container has is written down before it is made, every step can be done again, and undoing goes the
//! other way round, so a crash between any two steps is repaired by [`Networks::attach`], [`Networks::detach`] or [`Networks::adopt`]. The folder
//! lies on a file system that is emptied at boot, as namespaces are: nothing here is synced. Packets never pass this process, and nothing changes
//! while it is away.

pub mod addresses;
mod cni;
pub mod namespace;
mod netlink;
mod overlay;
pub mod ports;
mod records;
mod settings;
mod shell;
pub mod state;
mod tool;
mod types;

pub use ports::{Port, Protocol};
pub use settings::{Cni, OtherNode, Overlay, Peer, Settings};
pub use shell::Networks;
pub use types::{Attached, IpNet, Network, NetworkError, Wish, host_files};
