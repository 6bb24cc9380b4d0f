//! `Identity`: the parts a component shows and trusts, behind one pointer that is exchanged while connections go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use super::tickets::{Secrets, Sessions, Ticketer};
use super::verify::{SwappedClients, SwappedServers};
use super::{ClientAuth, Expect, PeerCert, TlsError};
use crate::service::Shutdown;

/// Where an identity is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The CA's certificates, PEM; several while one replaces another.
    pub ca: PathBuf,
    /// The component's certificate chain, PEM.
    pub cert: PathBuf,
    /// The component's private key, PEM.
    pub key: PathBuf,
}

impl IdentityFiles {
    /// Writes a certificate and key (mode 0600) and the CA (0644), creating folders. The certificate comes last, so that its
    /// presence says that the rest is there.
    ///
    /// # Errors
    /// [`TlsError::File`].
    pub fn write(&self, ca: &str, cert: &str, key: &str) -> Result<(), TlsError> {
        for (path, content, mode) in
            [(&self.ca, ca, 0o644), (&self.key, key, 0o600), (&self.cert, cert, 0o600)]
        {
            let fail = |source| TlsError::File { path: path.clone(), source };
            if let Some(folder) = path.parent() {
                crate::files::private_dir(folder).map_err(fail)?;
            }
            crate::files::replace(path, content.as_bytes(), mode).map_err(fail)?;
        }
        Ok(())
    }

    fn stamp(&self) -> Vec<Option<(SystemTime, u64)>> {
        [&self.ca, &self.cert, &self.key]
            .map(|path| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len()))))
            .to_vec()
    }
}

/// What is current. Built whole, exchanged whole.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) peer: PeerCert,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) clients: Arc<dyn rustls::server::danger::ClientCertVerifier>,
}

impl Material {
    fn read(ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let provider = provider();
        let roots = Arc::new(roots(ca)?);
        let chain = certificates("the certificate", cert)?;
        let leaf = chain.first().ok_or_else(|| content("the certificate", "the file has none"))?;
        let peer = PeerCert::read(leaf)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| content("the private key", e))?;
        let certified = CertifiedKey::from_der(chain, key, &provider)?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider)
            .build()
            .map_err(|e| content("the CA", e))?;
        Ok(Self { certified: Arc::new(certified), peer, roots, clients })
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn content(what: &'static str, reason: impl ToString) -> TlsError {
    TlsError::Content { what, reason: reason.to_string() }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| content(what, e))
}

/// A root store of the certificates in `pem`.
pub(super) fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("the CA", pem)? {
        store.add(certificate)?;
    }
    if store.is_empty() { Err(content("the CA", "the file has no certificate")) } else { Ok(store) }
}

/// A component's certificate, key and trusted CA. Clones share one state: a swap reaches all of them and every configuration
/// made from them, at the next handshake.
#[derive(Debug, Clone)]
pub struct Identity {
    current: Arc<ArcSwap<Material>>,
    generation: Arc<watch::Sender<u64>>,
    tickets: Arc<Secrets>,
    files: Option<Arc<IdentityFiles>>,
}

impl Identity {
    /// From PEM texts: the CA, the own chain, the own key.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn from_pem(ca: &str, cert: &str, key: &str) -> Result<Self, TlsError> {
        let material = Material::read(ca.as_bytes(), cert.as_bytes(), key.as_bytes())?;
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(material)),
            generation: Arc::new(watch::channel(0).0),
            tickets: Arc::new(Secrets::new()),
            files: None,
        })
    }

    /// From files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: &IdentityFiles) -> Result<Self, TlsError> {
        let material = load_material(files)?;
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(material)),
            generation: Arc::new(watch::channel(0).0),
            tickets: Arc::new(Secrets::new()),
            files: Some(Arc::new(files.clone())),
        })
    }

    /// The files it was loaded from.
    #[must_use]
    pub fn files(&self) -> Option<&IdentityFiles> {
        self.files.as_deref()
    }

    /// Exchanges everything for other PEM texts. What is wrong changes nothing.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn replace(&self, ca: &str, cert: &str, key: &str) -> Result<(), TlsError> {
        self.swap(Material::read(ca.as_bytes(), cert.as_bytes(), key.as_bytes())?);
        Ok(())
    }

    /// Reads the files again. What is wrong changes nothing.
    ///
    /// # Errors
    /// [`TlsError`]; also when the identity did not come from files.
    pub fn reload(&self) -> Result<(), TlsError> {
        let files =
            self.files.as_ref().ok_or_else(|| content("the identity", "it did not come from files"))?;
        self.swap(load_material(files)?);
        Ok(())
    }

    fn swap(&self, material: Material) {
        self.current.store(Arc::new(material));
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Looks at the files every `period` and reloads them after a change, until `shutdown`. A change that cannot be read (a file
    /// half copied by an operator) is logged and tried again.
    pub fn watch(&self, period: Duration, shutdown: Shutdown) -> tokio::task::JoinHandle<()> {
        let identity = self.clone();
        tokio::spawn(async move {
            let Some(files) = identity.files.clone() else { return };
            let mut seen = files.stamp();
            // The files may have changed between loading and now.
            if let Err(error) = identity.reload() {
                tracing::warn!(%error, "the certificate on disk cannot be used; keeping the one in use");
            }
            while shutdown.sleep(period).await {
                let stamp = files.stamp();
                if stamp == seen {
                    continue;
                }
                match identity.reload() {
                    Ok(()) => {
                        tracing::info!(peer = %identity.peer().name, "certificate reloaded");
                        seen = stamp;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the new certificate cannot be used; keeping the old one");
                    }
                }
            }
        })
    }

    /// Counts the exchanges; a receiver learns of each.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The own certificate's facts.
    #[must_use]
    pub fn peer(&self) -> PeerCert {
        self.current.load().peer.clone()
    }

    /// The own chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.current.load().certified.cert.clone()
    }

    /// The trusted CA certificates.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.current.load().roots)
    }

    /// The secret of the tickets that the masters share; its bytes are high entropy. Servers made earlier use it too.
    pub fn share_tickets(&self, secret: &[u8]) {
        self.tickets.share(secret);
    }

    /// A server's configuration that follows every exchange. Sessions resume by ticket, without memory in the server, and at other servers of
    /// the role that share the secret. Who serves must look whether the client's certificate has ended: a resumed session may outlive it.
    ///
    /// # Errors
    /// [`TlsError::Rustls`].
    pub fn server_config(&self, auth: ClientAuth, alpn: &[&str]) -> Result<Arc<ServerConfig>, TlsError> {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let clients = |mandatory| {
            let hints = self.current.load().clients.root_hint_subjects().to_vec();
            Arc::new(SwappedClients { current: Arc::clone(&self.current), mandatory, hints })
        };
        let builder = match auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Optional => builder.with_client_cert_verifier(clients(false)),
            ClientAuth::Required => builder.with_client_cert_verifier(clients(true)),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Resolver(Arc::clone(&self.current))));
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let label = format!("{} {auth:?} ", self.peer().name.role);
        config.ticketer = Arc::new(Ticketer::new(Arc::clone(&self.tickets), label));
        // One ticket is enough for clients that keep their connections.
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    /// A client's configuration that shows the own certificate, trusts the own CA and follows every exchange.
    ///
    /// # Errors
    /// [`TlsError::Rustls`].
    pub fn client_config(&self, expect: Expect) -> Result<ClientConfig, TlsError> {
        let sessions = Sessions::new(self.changes(), &expect);
        let verifier = SwappedServers { current: Arc::clone(&self.current), expect };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Resolver(Arc::clone(&self.current))));
        config.resumption = Resumption::store(Arc::new(sessions));
        Ok(config)
    }

    /// Signs `message` with the own key (ECDSA P-256, SHA-256, ASN.1 form), as the policy snapshot is.
    ///
    /// # Errors
    /// [`TlsError::Rustls`] when the key is of another kind.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, TlsError> {
        let current = self.current.load();
        let signer = current.certified.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        let signer = signer.ok_or_else(|| content("the private key", "it is not an ECDSA P-256 key"))?;
        Ok(signer.sign(message)?)
    }
}

fn load_material(files: &IdentityFiles) -> Result<Material, TlsError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::File { path: path.to_path_buf(), source })
    };
    Material::read(&read(&files.ca)?, &read(&files.cert)?, &read(&files.key)?)
}

/// Shows whatever certificate is current, to clients and to servers.
#[derive(Debug)]
struct Resolver(Arc<ArcSwap<Material>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
