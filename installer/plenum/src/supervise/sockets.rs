//! Listening sockets, opened once by the supervisor and lent to each process of a role in turn, so that a restart refuses
//! nobody: while the role is away, connections queue in the kernel.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Where a role listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A UDP address.
    Udp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// One listening socket of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The name under which the role asks for it (`LISTEN_FDNAMES`).
    pub name: &'static str,
    /// Where.
    pub place: Place,
}

/// Connections that may wait while a role restarts.
const BACKLOG: i32 = 4096;

/// Opens one listening socket.
pub fn open(listening: &Listening) -> Result<OwnedFd> {
    let opened = match &listening.place {
        Place::Tcp(address) => tcp(*address).with_context(|| taken(address, "TCP")),
        Place::Udp(address) => {
            UdpSocket::bind(address).map(OwnedFd::from).with_context(|| taken(address, "UDP"))
        }
        Place::Unix(path) => {
            // A socket file without a listener behind it is what a killed supervisor leaves.
            let _ = std::fs::remove_file(path);
            UnixListener::bind(path).map(OwnedFd::from).with_context(|| format!("bind {}", path.display()))
        }
    };
    opened.with_context(|| format!("socket {}", listening.name))
}

fn taken(address: &SocketAddr, protocol: &str) -> String {
    format!("{protocol} {address} cannot be opened: is another program, or another instance, using it?")
}

fn tcp(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(OwnedFd::from(TcpListener::from(socket)))
}
