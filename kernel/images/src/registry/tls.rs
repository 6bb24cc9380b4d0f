//! Which certificates a registry must have: of an authority that the machine trusts, or of the operator's for that registry.

use std::path::Path;
use std::sync::Arc;

use plenum_base::client::Client;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::settings::Settings;

/// Where distributions keep their bundle.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A client for one host. Reads files.
pub fn client(settings: &Settings, host: &str) -> Result<Client, String> {
    let mut roots = RootCertStore::empty();
    if settings.trust_machine
        && let Some(bundle) = BUNDLES.iter().map(Path::new).find(|bundle| bundle.exists())
    {
        let pem = std::fs::read(bundle).map_err(|error| format!("{}: {error}", bundle.display()))?;
        // One certificate that this library does not take must not cost the others.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    }
    for key in ["*", host] {
        let Some(pem) = settings.authorities.get(key) else { continue };
        let wrong =
            |error: &dyn std::fmt::Display| format!("the authority set for {key} is not usable: {error}");
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Client::with_tls(config))
}
