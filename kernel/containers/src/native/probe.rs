//! TCP and HTTP probes, the same code for both networks: only the socket differs.

use super::{Inner, helper};
use crate::runtime::{Probe, Probed, RuntimeError};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use plenum_shim::wire::State;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// See [`crate::Runtime::probe`].
pub async fn probe(
    inner: &Arc<Inner>,
    state: &State,
    probe: &Probe,
    deadline: Duration,
) -> Result<Probed, RuntimeError> {
    match tokio::time::timeout(deadline, attempt(inner, state, probe)).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(Probed::Failed(format!("no answer within {} ms", deadline.as_millis()))),
    }
}

async fn attempt(inner: &Arc<Inner>, state: &State, probe: &Probe) -> Result<Probed, RuntimeError> {
    let (Probe::Tcp { to } | Probe::Http { to, .. }) = probe;
    let socket = helper::socket(inner, state, to.is_ipv6()).await?;
    Ok(through(TcpSocket::from_std_stream(std::net::TcpStream::from(socket)), probe).await)
}

/// Carries a probe out through a socket that was made in the network it is about. Has no deadline.
pub async fn through(socket: TcpSocket, probe: &Probe) -> Probed {
    let (Probe::Tcp { to } | Probe::Http { to, .. }) = probe;
    let stream = match socket.connect(*to).await {
        Ok(stream) => stream,
        Err(error) => return Probed::Failed(format!("connecting to {to}: {error}")),
    };
    let Probe::Http { path, host, tls, .. } = probe else { return Probed::Connected };
    let host = host.clone().unwrap_or_else(|| to.to_string());
    let asked = match tls {
        false => get(stream, path, &host).await,
        true => get_tls(stream, to, path, &host).await,
    };
    asked.map_or_else(Probed::Failed, Probed::Status)
}

async fn get_tls(stream: TcpStream, to: &SocketAddr, path: &str, host: &str) -> Result<u16, String> {
    let config = plenum_base::tls::unverified_client_config().map_err(|error| format!("TLS: {error}"))?;
    let name = rustls_pki_types::ServerName::try_from(host.to_owned())
        .unwrap_or_else(|_| rustls_pki_types::ServerName::IpAddress(to.ip().into()));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
    get(stream, path, host).await
}

async fn get<S>(stream: S, path: &str, host: &str) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let request = http::Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::USER_AGENT, "plenum-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| format!("the request cannot be made: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    driver.abort();
    response.map(|response| response.status().as_u16()).map_err(|error| format!("HTTP: {error}"))
}
