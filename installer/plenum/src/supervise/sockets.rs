//! Listening sockets, opened once by the supervisor and lent to each process of a role in turn, so that a restart refuses
//! nobody: while the role is away, connections queue in the kernel.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use plenum_base::sockets::{bind_tcp, bind_udp};

/// Where a role listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A UDP address.
    Udp(SocketAddr),
}

/// One listening socket of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The name under which the role asks for it (`LISTEN_FDNAMES`).
    pub name: &'static str,
    /// Where.
    pub place: Place,
}

/// Opens one listening socket.
pub fn open(listening: &Listening) -> Result<OwnedFd> {
    let opened = match listening.place {
        Place::Tcp(address) => bind_tcp(address),
        Place::Udp(address) => bind_udp(address),
    };
    opened.with_context(|| format!("is another program using the address of the socket {}?", listening.name))
}
