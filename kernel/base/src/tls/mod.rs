//! A component's identity in TLS: its certificate, key and the cluster's CA, loaded from files and swapped while running.
//! Issuing is `pki`; serving and calling are `serve` and `client`.

mod identity;
pub mod join;
mod peer;
pub mod renew;
pub mod tickets;
mod verify;

pub use identity::{Identity, IdentityFiles};
pub use peer::PeerCert;
pub(crate) use verify::check_signer;
pub use verify::{pinned_client_config, unverified_client_config};

pub use crate::pki::PeerName;

use std::path::PathBuf;

/// Whether a server asks for client certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without a valid certificate the handshake fails.
    Required,
    /// A certificate is asked for; a wrong one fails the handshake, none is fine.
    Optional,
    /// None is asked for.
    None,
}

/// Whom a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Whoever has a certificate of our CA for the address dialled.
    Address,
    /// A component of our CA with this role, at whatever address.
    Role(String),
    /// Exactly this component, at whatever address.
    Name(PeerName),
}

/// Application protocols for a server of HTTP/2 and HTTP/1.1.
pub const ALPN_HTTP: &[&str] = &["h2", "http/1.1"];

/// Why an identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// PEM or certificate content that is not usable.
    #[error("{what} is not usable: {reason}")]
    Content {
        /// Which part.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// rustls refused the parts together.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The CA certificates in `pem` as a root store.
///
/// # Errors
/// [`TlsError`].
pub fn roots_of(pem: &str) -> Result<rustls::RootCertStore, TlsError> {
    identity::roots(pem.as_bytes())
}
