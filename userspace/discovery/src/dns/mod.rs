//! The DNS server: sockets around [`answer`]. Queries for our zones are answered in place; others wait elsewhere and hold nobody up.

pub mod answer;
pub mod forward;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::Rcode;
use plenum_base::service::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::answer::{Outcome, Site, Transport};
use self::forward::{Failed, Forwarder};
use crate::replica::Shared;

/// A connection that says nothing, or takes nothing, for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 256;

/// What answers queries.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Shared,
    site: Arc<Site>,
    forwarder: Forwarder,
}

impl Server {
    /// Answers from `shared`, and asks `forwarder` for what is not ours.
    #[must_use]
    pub fn new(shared: Shared, site: Site, forwarder: Forwarder) -> Self {
        Self { shared, site: Arc::new(site), forwarder }
    }

    /// Answers on both sockets until the end, in tasks of its own.
    pub fn serve(&self, (udp, tcp): (UdpSocket, TcpListener), shutdown: &Shutdown) {
        tokio::spawn(self.clone().udp(udp, shutdown.clone()));
        tokio::spawn(self.clone().tcp(tcp, shutdown.clone()));
    }

    fn answer(&self, packet: &[u8], transport: Transport) -> Outcome {
        answer::answer(packet, &self.shared.read(), &self.site, transport)
    }

    async fn elsewhere(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match self.forwarder.ask(packet, transport).await {
            Ok(answer) => Some(answer),
            Err(Failed::Nobody) => answer::failure(packet, Rcode::REFUSED),
            Err(Failed::Silent) => answer::failure(packet, Rcode::SERVFAIL),
        }
    }

    /// Answers datagrams until the end.
    pub async fn udp(self, socket: UdpSocket, shutdown: Shutdown) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; 4096];
        while let Some(received) = shutdown.until(socket.recv_from(&mut buffer)).await {
            let (length, from) = match received {
                Ok(received) => received,
                // An earlier answer's ICMP error, or memory that is short: the next one may go well.
                Err(error) => {
                    tracing::debug!(%error, "receiving a query");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let packet = buffer.get(..length).unwrap_or_default();
            match self.answer(packet, Transport::Udp) {
                Outcome::Reply(reply) => {
                    if let Err(error) = socket.try_send_to(&reply, from) {
                        tracing::debug!(%error, %from, "an answer could not be sent");
                    }
                }
                Outcome::Forward => {
                    let (server, socket, packet) = (self.clone(), Arc::clone(&socket), packet.to_vec());
                    tokio::spawn(async move {
                        if let Some(reply) = server.elsewhere(&packet, Transport::Udp).await {
                            let _ = socket.send_to(&reply, from).await;
                        }
                    });
                }
                Outcome::Drop => {}
            }
        }
    }

    /// Answers connections until the end.
    pub async fn tcp(self, listener: TcpListener, shutdown: Shutdown) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        while let Some(accepted) = shutdown.until(listener.accept()).await {
            match accepted {
                Ok((stream, from)) => {
                    // One too many is closed at once: a client that floods must not make others wait.
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
                    let (server, shutdown) = (self.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        let _slot = slot;
                        if let Some(Err(error)) = shutdown.until(server.connection(stream, from)).await {
                            tracing::debug!(%error, %from, "a DNS connection");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a DNS connection could not be accepted");
                    shutdown.sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream, _from: SocketAddr) -> std::io::Result<()> {
        loop {
            let length = match timeout(IDLE, stream.read_u16()).await? {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut packet = vec![0; usize::from(length)];
            timeout(IDLE, stream.read_exact(&mut packet)).await??;
            let reply = match self.answer(&packet, Transport::Tcp) {
                Outcome::Reply(reply) => Some(reply),
                Outcome::Forward => self.elsewhere(&packet, Transport::Tcp).await,
                Outcome::Drop => None,
            };
            let Some(reply) = reply else { return Ok(()) };
            let length = u16::try_from(reply.len()).map_err(std::io::Error::other)?;
            timeout(IDLE, stream.write_all(&[&length.to_be_bytes()[..], &reply].concat())).await??;
        }
    }
}
