//! Serving HTTP: one port for TLS and plain HTTP, HTTP/1.1 and HTTP/2, told apart by the first bytes; limits, deadlines and an orderly end.
//! Who is calling is `auth`; what is answered is the router.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::FutureExt;
use http::Request;
use hyper::body::Incoming;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::http_error::ApiError;
use crate::prefixed::Prefixed;
use crate::service::Shutdown;
use crate::tls::{ALPN_HTTP, ClientAuth, Identity, PeerCert, TlsError};

/// The beginning of every HTTP/2 connection without TLS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of every TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a handler can know about the connection; in the request's extensions.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The other end; none for Unix sockets.
    pub remote: Option<SocketAddr>,
    /// Our end; none for Unix sockets.
    pub local: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The client certificate's facts, already verified.
    pub peer: Option<PeerCert>,
}

/// Where plain HTTP is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plain {
    /// Nowhere.
    Never,
    /// Where the other end is this machine: a loopback address, the address that was called, or a Unix socket.
    #[default]
    Loopback,
    /// Everywhere: the operator opened it.
    Always,
}

/// Bounds of a server. Every wait has a deadline and every resource an end.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// For the first byte, and for the TLS handshake.
    pub handshake: Duration,
    /// For a request's head, and for how long a kept connection may be idle.
    pub idle: Duration,
    /// Bytes of a body that extractors take; a route may set another `DefaultBodyLimit`.
    pub body: usize,
    /// Bytes of a request's head.
    pub head: usize,
    /// Concurrent streams on one HTTP/2 connection.
    pub streams: u32,
    /// How long open requests have to end after the switch was pressed.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(180),
            body: 16 * 1024 * 1024,
            head: 64 * 1024,
            streams: 250,
            drain: Duration::from_secs(10),
        }
    }
}

impl ConnInfo {
    /// Whether the other end is this machine: a Unix socket, loopback, or the very address that was called (executors find their agent
    /// so). No other machine can have that one: the kernel answers it over loopback, so that nobody else completes a handshake from it. A
    /// program here that forwards for others (a proxy, `ssh -L`) passes for this machine, as it does on loopback: this says where plain
    /// HTTP may be spoken, and nothing about who speaks.
    #[must_use]
    pub fn is_near(&self) -> bool {
        let own = |remote: IpAddr| self.local.is_some_and(|local| local.ip().to_canonical() == remote);
        self.remote.map(|remote| remote.ip().to_canonical()).is_none_or(|ip| ip.is_loopback() || own(ip))
    }
}

/// A kind of listener.
trait Accept: Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = std::io::Result<(Self::Stream, ConnInfo)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> std::io::Result<(TcpStream, ConnInfo)> {
        let (stream, remote) = self.accept().await?;
        // Without effect on throughput of streams, but each small event leaves at once.
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().ok();
        Ok((stream, ConnInfo { remote: Some(remote), local, tls: false, peer: None }))
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> std::io::Result<(UnixStream, ConnInfo)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, ConnInfo { remote: None, local: None, tls: false, peer: None }))
    }
}

/// A server of one router on any number of listeners. Clones are cheap and serve the same.
#[derive(Clone)]
pub struct Server {
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    plain: Plain,
    limits: Arc<Limits>,
    slots: Arc<Semaphore>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("plain", &self.plain)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Serves plain HTTP on loopback until told otherwise.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self {
            router,
            tls: None,
            plain: Plain::Loopback,
            limits: Arc::default(),
            slots: Arc::new(Semaphore::new(0)),
        }
        .limits(Limits::default())
    }

    /// Also serves TLS with a component's identity. Client certificates are asked for as `auth` says.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn tls(mut self, identity: &Identity, auth: ClientAuth) -> Result<Self, TlsError> {
        self.tls = Some(identity.server_config(auth, ALPN_HTTP)?);
        Ok(self)
    }

    /// Also serves TLS with a configuration of the caller's (a gateway with certificates of its own).
    #[must_use]
    pub fn tls_config(mut self, config: Arc<ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Says where plain HTTP is taken.
    #[must_use]
    pub fn plain(mut self, plain: Plain) -> Self {
        self.plain = plain;
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.slots = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
        self.limits = Arc::new(limits);
        self
    }

    fn router(&self) -> Router {
        self.router.clone().layer(DefaultBodyLimit::max(self.limits.body))
    }

    /// Serves `listener` until `shutdown`, then lets open requests end (at most `Limits::drain`).
    /// The listener is closed first; one that was handed over stays open in the supervisor.
    pub async fn serve(&self, listener: TcpListener, shutdown: Shutdown) {
        self.accept_all(&listener, &shutdown).await;
    }

    /// As [`Server::serve`], on a Unix socket; plain HTTP is always taken there, since its file's permissions guard it.
    pub async fn serve_unix(&self, listener: UnixListener, shutdown: Shutdown) {
        self.accept_all(&listener, &shutdown).await;
    }

    async fn accept_all<L: Accept>(&self, listener: &L, shutdown: &Shutdown) {
        let connections = TaskTracker::new();
        let router = self.router();
        // Ends whatever is left after the drain.
        let abort = Shutdown::new();
        loop {
            let next = async {
                let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
                Some((slot, listener.next().await))
            };
            let Some(Some((slot, accepted))) = shutdown.until(next).await else { break };
            match accepted {
                Ok((stream, info)) => {
                    let one = Connection {
                        router: router.clone(),
                        tls: self.tls.clone(),
                        plain: self.plain,
                        limits: Arc::clone(&self.limits),
                        shutdown: shutdown.clone(),
                        _slot: slot,
                    };
                    let abort = abort.clone();
                    connections.spawn(async move { abort.until(one.run(stream, info)).await });
                }
                Err(error) => {
                    // A connection that broke while waiting is nothing; no free descriptors is worth a pause.
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        connections.close();
        if tokio::time::timeout(self.limits.drain, connections.wait()).await.is_err() {
            tracing::info!(open = connections.len(), "connections did not end in time; closing them");
            abort.trigger();
            connections.wait().await;
        }
    }
}

/// One accepted connection.
struct Connection {
    router: Router,
    tls: Option<Arc<ServerConfig>>,
    plain: Plain,
    limits: Arc<Limits>,
    shutdown: Shutdown,
    _slot: OwnedSemaphorePermit,
}

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tls,
    Http1,
    Http2,
    /// More bytes are needed.
    Unclear,
}

fn sniff(head: &[u8]) -> Kind {
    match head.first() {
        None => Kind::Unclear,
        Some(&TLS_HANDSHAKE) => Kind::Tls,
        Some(_) if head.starts_with(PREFACE) => Kind::Http2,
        Some(_) if PREFACE.starts_with(head) => Kind::Unclear,
        Some(_) => Kind::Http1,
    }
}

/// Reads until it is clear what the connection is; `None` when it ended before.
async fn first_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Option<(Kind, BytesMut)>> {
    let mut head = BytesMut::with_capacity(PREFACE.len());
    loop {
        let kind = sniff(&head);
        if kind != Kind::Unclear {
            return Ok(Some((kind, head)));
        }
        let room = PREFACE.len() - head.len();
        if (&mut *stream).take(room as u64).read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
}

impl Connection {
    async fn run<S>(self, mut stream: S, mut info: ConnInfo)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let begin =
            self.shutdown.until(tokio::time::timeout(self.limits.handshake, first_bytes(&mut stream))).await;
        let Some(Ok(Ok(Some((kind, head))))) = begin else { return };
        let stream = Prefixed::new(head.freeze(), stream);
        if kind != Kind::Tls {
            return Box::pin(self.plain_http(kind, stream, info)).await;
        }
        let Some(config) = self.tls.clone() else { return };
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        let stream = match tokio::time::timeout(self.limits.handshake, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(remote = ?info.remote, %error, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        };
        let session = stream.get_ref().1;
        let http2 = session.alpn_protocol() == Some(b"h2".as_slice());
        if let Some(certificate) = session.peer_certificates().and_then(<[_]>::first) {
            // The handshake verified it, or a ticket resumed a session that did: then its time may be over.
            match PeerCert::read(certificate) {
                Ok(peer) if peer.is_current(SystemTime::now()) => info.peer = Some(peer),
                _ => return,
            }
        }
        info.tls = true;
        Box::pin(self.http(if http2 { Kind::Http2 } else { Kind::Http1 }, stream, info)).await;
    }

    async fn plain_http<S>(self, kind: Kind, stream: S, info: ConnInfo)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let taken = match self.plain {
            Plain::Always => true,
            Plain::Loopback => info.is_near(),
            Plain::Never => info.remote.is_none(),
        };
        if taken {
            return self.http(kind, stream, info).await;
        }
        let refused = Self { router: Router::new().fallback(only_tls), ..self };
        refused.http(kind, stream, info).await;
    }

    async fn http<S>(self, kind: Kind, stream: S, info: ConnInfo)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, limits, shutdown, _slot, .. } = self;
        let service = service_fn(move |request| answer(router.clone(), request, info.clone()));
        let io = TokioIo::new(stream);
        // Boxed apart: a connection takes the memory of the one protocol it speaks.
        if kind == Kind::Http2 {
            Box::pin(http2(io, service, limits, shutdown)).await;
        } else {
            Box::pin(http1(io, service, limits, shutdown)).await;
        }
    }
}

async fn http2<S, A>(io: TokioIo<S>, service: A, limits: Arc<Limits>, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: HttpService<Incoming, ResBody = axum::body::Body, Error = Infallible>,
    A::Future: Send + 'static,
{
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(60))
        .keep_alive_timeout(Duration::from_secs(30));
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    log_end(ended);
}

async fn http1<S, A>(io: TokioIo<S>, service: A, limits: Arc<Limits>, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: HttpService<Incoming, ResBody = axum::body::Body, Error = Infallible>,
    A::Future: Send + 'static,
{
    // Without half-closed connections: the end of a subscriber is noticed when it happens, not at the next write.
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.idle).max_buf_size(limits.head.max(8192));
    let connection = builder.serve_connection(io, service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    log_end(ended);
}

fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(error = crate::client::causes(&error), "connection ended");
    }
}

async fn only_tls() -> ApiError {
    let message = "this address takes plain HTTP from its own machine only; use https";
    ApiError::new(http::StatusCode::FORBIDDEN, "TLS_REQUIRED", message)
}

/// Runs the router; a panic in a handler is a 500 and ends nothing else.
async fn answer(
    mut router: Router,
    mut request: Request<Incoming>,
    info: ConnInfo,
) -> Result<Response, Infallible> {
    if let Some(remote) = info.remote {
        request.extensions_mut().insert(ConnectInfo(remote));
    }
    request.extensions_mut().insert(info);
    let path = request.uri().path().to_owned();
    let call = std::panic::catch_unwind(AssertUnwindSafe(|| router.call(request)));
    let answered = match call {
        Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
        Err(panic) => Err(panic),
    };
    match answered {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(path, "a handler panicked");
            let message = "this request met a defect; the log of this component has the particulars";
            Ok(ApiError::internal(message).into_response())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_near() {
        let from = |remote: Option<&str>, local: Option<&str>| {
            let read = |text: &str| text.parse().unwrap();
            ConnInfo { remote: remote.map(read), local: local.map(read), tls: false, peer: None }.is_near()
        };
        let own = Some("10.0.0.1:5051");
        assert!(from(None, None), "a Unix socket");
        assert!(from(Some("127.0.0.9:4000"), own) && from(Some("[::ffff:127.0.0.1]:4000"), own));
        assert!(from(Some("10.0.0.1:4000"), own), "the address that was called");
        assert!(
            from(Some("[::ffff:10.0.0.1]:4000"), own) && from(Some("[fd00::1]:4000"), Some("[fd00::1]:80"))
        );
        assert!(!from(Some("10.0.0.2:4000"), own) && !from(Some("172.17.0.2:4000"), own));
        assert!(!from(Some("10.0.0.1:4000"), None), "our end is not known");
    }

    #[test]
    fn first_bytes_tell_the_kind() {
        let cases: [(&[u8], Kind); 8] = [
            (b"", Kind::Unclear),
            (b"\x16\x03\x01", Kind::Tls),
            (b"GET / HTTP/1.1", Kind::Http1),
            (b"P", Kind::Unclear),
            (b"PO", Kind::Http1),
            (b"PRI * HTTP/2.0\r\n", Kind::Unclear),
            (PREFACE, Kind::Http2),
            (b"\x00\xff", Kind::Http1),
        ];
        for (head, kind) in cases {
            assert_eq!(sniff(head), kind, "{head:?}");
        }
    }
}
