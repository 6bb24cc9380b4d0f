//! What a certificate says about its owner.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{PeerName, TlsError};
use crate::pki::{San, hex};

/// The facts of a component's certificate. Reading verifies nothing: the handshake did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCert {
    /// The URI name.
    pub name: PeerName,
    /// SHA-256 of the public key (SubjectPublicKeyInfo) in lowercase hexadecimal: stays the same over renewals.
    pub key_fingerprint: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// The DNS names and addresses it is valid for.
    pub sans: Vec<San>,
    /// The common name: to etcd, the user. Nobody else goes by it.
    pub common_name: String,
}

impl PeerCert {
    /// Reads a certificate that must have exactly one `plenum://` name.
    ///
    /// # Errors
    /// [`TlsError::Content`].
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let content = |reason: String| TlsError::Content { what: "the certificate", reason };
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| content(e.to_string()))?;
        let mut names: Vec<PeerName> = Vec::new();
        let mut sans = Vec::new();
        let extension = parsed.subject_alternative_name().map_err(|e| content(e.to_string()))?;
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => names.extend(uri.parse().ok()),
                GeneralName::DNSName(dns) => sans.push(San::Dns((*dns).to_owned())),
                GeneralName::IPAddress(bytes) => sans.extend(address(bytes)),
                _ => {}
            }
        }
        let name = match <[PeerName; 1]>::try_from(names) {
            Ok([name]) => name,
            Err(names) => return Err(content(format!("it has {} component names, not one", names.len()))),
        };
        let common = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let key = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, parsed.public_key().raw);
        Ok(Self {
            name,
            key_fingerprint: hex(key.as_ref()),
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
            sans,
            common_name: common.unwrap_or_default().to_owned(),
        })
    }

    /// Reads the first certificate of a chain, PEM.
    ///
    /// # Errors
    /// [`TlsError::Content`].
    pub fn read_pem(chain: &[u8]) -> Result<Self, TlsError> {
        let first = CertificateDer::from_pem_slice(chain);
        let content = |e: rustls_pki_types::pem::Error| TlsError::Content {
            what: "the certificate",
            reason: e.to_string(),
        };
        Self::read(&first.map_err(content)?)
    }

    /// Whether etcd takes the bearer for the user that its role has there; `None` where it has none. (Certificates of releases
    /// before users have another common name.)
    #[must_use]
    pub fn store_user(&self) -> Option<bool> {
        let user = crate::pki::store_user(&self.name.role, &self.sans)?;
        Some(self.common_name == user.as_str())
    }

    /// Whether it is valid at `now`. A resumed session may outlive the certificate it began with, so servers ask again.
    #[must_use]
    pub fn is_current(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

fn address(bytes: &[u8]) -> Option<San> {
    let four = <[u8; 4]>::try_from(bytes).map(|four| San::Ip(four.into()));
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|sixteen| San::Ip(sixteen.into()))).ok()
}
