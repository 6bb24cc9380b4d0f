//! What a certificate says about its owner.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
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
        let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let key = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, parsed.public_key().raw);
        Ok(Self {
            name,
            key_fingerprint: hex(key.as_ref()),
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
            sans,
        })
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
