//! Netlink from this process: messages ([`wire`]), links, addresses and routes ([`route`]), elements of nftables maps ([`elements`]). Nothing
//! here decides anything.

pub(crate) mod elements;
pub(crate) mod route;
pub(crate) mod socket;
pub(crate) mod wire;
