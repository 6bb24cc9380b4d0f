//! Connections that the kernel still translates to back ends that have left. Datagrams have no end that anybody could see, so theirs are
//! forgotten at once, and the next datagram takes another back end. A connection of TCP stays with a back end that still answers, or whose
//! host refuses: it drains, or hears its end from there. Where neither comes, the host is gone: the connection is forgotten, and its next
//! packet is answered with a reset instead of by nobody.

pub mod wire;

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use plenum_base::service::Shutdown;
use plenum_discovery::feed::Protocol;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::wire::{Answer, Flow};
use crate::core::Gone;

/// Netlink's family of netfilter.
const NETFILTER: i32 = 12;
/// The kernel answers within this time.
const DEADLINE: Duration = Duration::from_secs(5);
/// A host that neither takes nor refuses a connection for so long is gone.
const PROBE: Duration = Duration::from_millis(1500);
/// Hosts that are asked at once.
const PROBES: usize = 64;
/// What fits one answer of the kernel's.
const BUFFER: usize = 64 * 1024;

/// Forgets connections to back ends as they leave, until the end.
pub async fn sweep(mut gone: mpsc::UnboundedReceiver<BTreeSet<Gone>>, shutdown: Shutdown) {
    let mut said = false;
    while let Some(Some(mut gone)) = shutdown.until(gone.recv()).await {
        let streams: Vec<Gone> = gone.iter().filter(|one| one.key.0 == Protocol::Tcp).copied().collect();
        gone.retain(|one| one.key.0 == Protocol::Udp);
        let Some(dead) = shutdown.until(silent(&streams)).await else { return };
        gone.extend(streams.into_iter().filter(|one| dead.contains(one.backend.ip())));
        if gone.is_empty() {
            continue;
        }
        let cut = tokio::task::spawn_blocking(move || cut(&gone)).await;
        match cut.map_err(io::Error::other).and_then(|cut| cut) {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "connections to back ends that left are forgotten"),
            Err(error) if !std::mem::replace(&mut said, true) => {
                tracing::warn!(%error, "connections to back ends that left cannot be forgotten; they end by themselves");
            }
            Err(_) => {}
        }
    }
}

/// The hosts of these back ends that say nothing at all.
async fn silent(gone: &[Gone]) -> BTreeSet<Ipv4Addr> {
    // One back end speaks for its host.
    let mut asked: Vec<SocketAddrV4> = gone.iter().map(|one| one.backend).collect();
    asked.sort_unstable();
    asked.dedup_by_key(|backend| *backend.ip());
    let mut dead = BTreeSet::new();
    for some in asked.chunks(PROBES) {
        let mut probes = tokio::task::JoinSet::new();
        for backend in some.iter().copied() {
            probes.spawn(async move { (*backend.ip(), is_silent(backend).await) });
        }
        while let Some(Ok((host, silent))) = probes.join_next().await {
            if silent {
                dead.insert(host);
            }
        }
    }
    dead
}

async fn is_silent(backend: SocketAddrV4) -> bool {
    match timeout(PROBE, TcpStream::connect(SocketAddr::V4(backend))).await {
        Ok(Ok(_)) => false,
        Ok(Err(error)) => error.kind() != io::ErrorKind::ConnectionRefused,
        Err(_) => true,
    }
}

/// Forgets the kernel's connections to these; gives their count.
///
/// # Errors
/// What the operating system says.
pub fn cut(gone: &BTreeSet<Gone>) -> io::Result<usize> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(NETFILTER.into()))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    let mut found: Vec<Flow> = Vec::new();
    exchange(&socket, &wire::dump(), |flow| {
        let to = |one: &Gone| {
            one.key == (flow.protocol, *flow.to.ip(), flow.to.port()) && one.backend == flow.answers
        };
        if gone.iter().any(to) {
            found.push(flow);
        }
    })?;
    let mut count = 0;
    for flow in found {
        match exchange(&socket, &wire::delete(&flow), |_| {}) {
            Ok(()) => count += 1,
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Sends a message and hears the answers to their end.
fn exchange(socket: &Socket, message: &[u8], mut flow: impl FnMut(Flow)) -> io::Result<()> {
    socket.send(message)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = (&mut &*socket).read(&mut buffer)?;
        for answer in wire::answers(buffer.get(..length).unwrap_or_default()) {
            match answer {
                Answer::Flow(one) => flow(one),
                Answer::End(0) => return Ok(()),
                Answer::End(code) => return Err(io::Error::from_raw_os_error(code)),
            }
        }
    }
}
