//! Which certificates a download trusts: the machine's bundle and, if given, a file of the operator's.

use super::FetchError;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::path::Path;
use std::sync::Arc;

/// Where distributions keep their bundle.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A configuration for clients. Reads files: call it where blocking is allowed for a moment.
pub fn config(ca_file: Option<&Path>) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    if let Some(bundle) = BUNDLES.iter().find(|bundle| Path::new(bundle).exists()) {
        // One certificate that this library does not take must not cost the others.
        roots.add_parsable_certificates(certificates(Path::new(bundle))?);
    }
    if let Some(file) = ca_file {
        for certificate in certificates(file)? {
            roots
                .add(certificate)
                .map_err(|error| FetchError::Trust(format!("{}: {error}", file.display())))?;
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Trust(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, FetchError> {
    let name = |error: &dyn std::fmt::Display| FetchError::Trust(format!("{}: {error}", file.display()));
    let pem = std::fs::read(file).map_err(|error| name(&error))?;
    CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| name(&error))
}
