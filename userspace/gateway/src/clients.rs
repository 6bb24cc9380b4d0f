//! Clients for everything that requests are relayed to. A relay that carries its caller's credentials shows the gateway's certificate; one
//! that carries none shows none either, so that nobody is ever taken for the gateway itself.

use std::sync::Arc;
use std::time::Duration;

use plenum_base::client::Client;
use plenum_base::component::Component;
use plenum_base::places::Role;
use plenum_base::tls::{Expect, TlsError};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::route::Target;

/// How long a master has to take a connection: one that is switched off must not hold requests up, another one may be there.
const MASTER: Duration = Duration::from_millis(500);
/// The same for nodes and what runs there; longer than it takes to send a lost packet anew.
const NODE: Duration = Duration::from_millis(1500);

/// Clients for one role.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Shows the gateway's certificate.
    pub known: Client,
    /// Shows none.
    pub nameless: Client,
}

impl Pair {
    fn new(component: &Component, role: Role, connect: Duration) -> Result<Self, TlsError> {
        let config = component.identity.client_config(Expect::Role(role.as_str().to_owned()))?;
        let known = Client::with_tls_within(config.clone(), connect);
        let mut nameless = config;
        nameless.client_auth_cert_resolver = Arc::new(NoCertificate);
        Ok(Self { known, nameless: Client::with_tls_within(nameless, connect) })
    }
}

/// All clients.
#[derive(Debug, Clone)]
pub struct Clients {
    /// For identity.
    pub identity: Pair,
    /// For the master.
    pub master: Pair,
    /// For the service scheduler.
    pub services: Pair,
    /// For the catalog.
    pub catalog: Pair,
    /// For discovery.
    pub discovery: Pair,
    /// For agents.
    pub agent: Pair,
    /// For installed services and frameworks: shows no certificate and trusts any.
    pub foreign: Client,
}

impl Clients {
    /// The one for a target, for a relay with or without credentials.
    pub fn of(&self, target: &Target, with_credentials: bool) -> &Client {
        let pair = match target {
            Target::Identity => &self.identity,
            Target::Master => &self.master,
            Target::Services => &self.services,
            Target::Catalog => &self.catalog,
            Target::Discovery => &self.discovery,
            Target::Agent(_) => &self.agent,
            Target::Service { .. } | Target::Framework(_) => return &self.foreign,
        };
        if with_credentials { &pair.known } else { &pair.nameless }
    }

    /// Makes them.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(component: &Component) -> Result<Self, TlsError> {
        Ok(Self {
            identity: Pair::new(component, Role::Identity, MASTER)?,
            master: Pair::new(component, Role::Master, MASTER)?,
            services: Pair::new(component, Role::Services, MASTER)?,
            catalog: Pair::new(component, Role::Catalog, MASTER)?,
            discovery: Pair::new(component, Role::Discovery, MASTER)?,
            agent: Pair::new(component, Role::Agent, NODE)?,
            foreign: foreign()?,
        })
    }
}

/// Installed services bring certificates of their own making, which nobody here can check; what is known about them is the address at
/// which the cluster itself runs them.
fn foreign() -> Result<Client, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Client::with_tls_within(config, NODE))
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
