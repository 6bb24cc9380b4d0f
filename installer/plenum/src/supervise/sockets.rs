//! Listening sockets, opened once by the supervisor and lent to each process of a role in turn, so that a restart refuses
//! nobody: while the role is away, connections queue in the kernel.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

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

/// A process that was killed a moment ago has let go of its addresses after so long.
const LETS_GO: Duration = Duration::from_secs(2);
const LOOKS_AGAIN: Duration = Duration::from_millis(20);

/// Opens one listening socket.
pub fn open(listening: &Listening) -> Result<OwnedFd> {
    let deadline = Instant::now() + LETS_GO;
    let opened = loop {
        let opened = match listening.place {
            Place::Tcp(address) => bind_tcp(address),
            Place::Udp(address) => bind_udp(address),
        };
        match opened {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(LOOKS_AGAIN);
            }
            opened => break opened,
        }
    };
    opened.with_context(|| format!("is another program using the address of the socket {}?", listening.name))
}
