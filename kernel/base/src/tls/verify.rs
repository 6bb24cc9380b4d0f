//! Verifiers that follow an identity's exchanges, and the one for a node that knows only the CA's fingerprint.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::identity::{Material, provider};
use super::{Expect, PeerCert, TlsError};

type Verified<T> = Result<T, Error>;

/// Checks client certificates against the current CA.
#[derive(Debug)]
pub(super) struct SwappedClients {
    pub(super) current: Arc<ArcSwap<Material>>,
    pub(super) mandatory: bool,
    pub(super) hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for SwappedClients {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Verified<ClientCertVerified> {
        // A certificate of our CA without a component name is nobody's.
        PeerCert::read(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        self.current.load().clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn check_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
) -> Verified<()> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    let algorithms = provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms.all)
}

/// Whether `leaf` belongs to `role` and chains to `roots` at `now`. For documents signed with a component's key.
pub(crate) fn check_signer(
    leaf: &CertificateDer<'_>,
    roots: &RootCertStore,
    role: &str,
    now: std::time::SystemTime,
) -> Result<PeerCert, TlsError> {
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    check_chain(leaf, &[], roots, UnixTime::since_unix_epoch(since))?;
    let peer = PeerCert::read(leaf)?;
    if peer.name.role == role {
        return Ok(peer);
    }
    let reason = format!("it belongs to {}, not to {role}", peer.name);
    Err(TlsError::Content { what: "the signer's certificate", reason })
}

/// Checks server certificates against the current CA and the expectation.
#[derive(Debug)]
pub(super) struct SwappedServers {
    pub(super) current: Arc<ArcSwap<Material>>,
    pub(super) expect: Expect,
}

impl ServerCertVerifier for SwappedServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Verified<ServerCertVerified> {
        check_chain(end_entity, intermediates, &self.current.load().roots, now)?;
        let right = match &self.expect {
            Expect::Address => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                true
            }
            Expect::Role(role) => peer(end_entity)?.name.role == *role,
            Expect::Name(name) => peer(end_entity)?.name == *name,
        };
        if right {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn peer(certificate: &CertificateDer<'_>) -> Verified<PeerCert> {
    PeerCert::read(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// A client without a certificate that takes any server's. For questions that carry no secret and whose answers nobody relies on, or are
/// compared with a fingerprint afterwards.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn unverified_client_config() -> Result<ClientConfig, TlsError> {
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth())
}

/// Takes any certificate; that its key is the server's is checked all the same.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Verified<ServerCertVerified> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client without a certificate that trusts the CA with the given SHA-256 fingerprint (hexadecimal), which the server sends in its
/// chain, and talks to components of `role` only. This is how a node that has nothing but a join token first speaks to identity.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn pinned_client_config(fingerprint: &str, role: &str) -> Result<ClientConfig, TlsError> {
    let verifier = Pinned { fingerprint: fingerprint.to_ascii_lowercase(), role: role.to_owned() };
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    role: String,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Verified<ServerCertVerified> {
        let ca = intermediates.iter().find(|cert| crate::pki::fingerprint(cert) == self.fingerprint);
        let ca = ca.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        check_chain(end_entity, &[], &roots, now)?;
        if peer(end_entity)?.name.role == self.role {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
