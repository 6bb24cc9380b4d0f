//! Whether a role is there and for how long its certificate is good: one TLS handshake tells both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use plenum_base::places::Role;
use plenum_base::tls::{Expect, Identity, PeerCert};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Shakes hands as this component.
#[derive(Debug)]
pub struct Probe {
    identity: Identity,
}

impl Probe {
    /// With this identity.
    pub fn new(identity: Identity) -> Self {
        Self { identity }
    }

    /// Until when the role's certificate is good. Waits for as long as the other side lets it: bound it.
    ///
    /// # Errors
    /// Why nobody is there, in words.
    pub async fn look(&self, role: Role, at: SocketAddr) -> Result<SystemTime, String> {
        let expect = Expect::Role(role.as_str().to_owned());
        let mut config = self.identity.client_config(expect).map_err(|error| error.to_string())?;
        // A resumed session would show the certificate of its beginning.
        config.resumption = rustls::client::Resumption::disabled();
        let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
        let name = ServerName::IpAddress(at.ip().into());
        let connection = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let connection = connection.map_err(|error| error.to_string())?;
        let shown = connection.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.ok_or_else(|| "it showed no certificate".to_owned())?;
        PeerCert::read(certificate).map(|peer| peer.not_after).map_err(|error| error.to_string())
    }
}
