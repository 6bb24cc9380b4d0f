//! Trusting a cluster for the first time: its CA certificate, fetched from the cluster itself, is shown by its fingerprint, and used only
//! after somebody, or an argument, agreed. Nothing secret is sent before.

use std::time::Duration;

use http::header::ACCEPT;
use plenum_base::client::Client;
use plenum_base::pki;
use plenum_base::tls::unverified_client_config;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::error::{CliError, Result};

/// A CA certificate is smaller than this.
const LARGEST: usize = 64 * 1024;

/// The CA certificate that the cluster at `url` gives, whoever it is that answers: [`fingerprint`] is for making sure.
pub(crate) async fn fetch(url: &str) -> Result<String> {
    let tls = unverified_client_config().map_err(|error| CliError::Local(error.to_string()))?;
    let client = Client::with_tls(tls);
    let at = format!("{url}/ca/dcos-ca.crt");
    let call = client.get(&at).header(ACCEPT, "*/*").deadline(Duration::from_secs(15));
    let reply = call.send().await?;
    if !reply.status.is_success() {
        let reason = format!("it gives no CA certificate: status {}", reply.status);
        return Err(CliError::Answer { url: at, reason });
    }
    let bytes = reply.bytes_up_to(LARGEST).await?;
    let text = String::from_utf8_lossy(&bytes);
    let first = first_certificate(&text).filter(|first| fingerprint(first).is_ok());
    let strange = || CliError::Answer { url: at, reason: "it is no certificate".to_owned() };
    first.map(|first| format!("{first}\n")).ok_or_else(strange)
}

/// The first certificate alone: a second one behind it would be trusted without its fingerprint having been seen.
fn first_certificate(pem: &str) -> Option<&str> {
    const END: &str = "-----END CERTIFICATE-----";
    let from = pem.get(pem.find("-----BEGIN CERTIFICATE-----")?..)?;
    from.get(..from.find(END)?.checked_add(END.len())?)
}

/// SHA-256 of the first certificate in `pem`, as `AB:CD:…`.
pub(crate) fn fingerprint(pem: &str) -> Result<String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
        CliError::Usage("the CA certificate is not PEM (-----BEGIN CERTIFICATE-----)".to_owned())
    })?;
    let hex = pki::fingerprint(&der).to_ascii_uppercase();
    Ok(hex.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair)).collect::<Vec<_>>().join(":"))
}

/// Whether two fingerprints are the same, however they are written: with colons or without, in any case, with `sha256:` in front.
pub(crate) fn same(one: &str, other: &str) -> bool {
    let bare = |text: &str| {
        let lower = text.trim().to_ascii_lowercase();
        let hex = lower.strip_prefix("sha256:").or(lower.strip_prefix("sha256=")).unwrap_or(&lower);
        hex.chars().filter(|c| !matches!(c, ':' | ' ')).collect::<String>()
    };
    bare(one) == bare(other) && bare(one).len() == 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_compared_however_written() {
        let hex = "0123456789abcdef".repeat(4);
        let colons = hex
            .as_bytes()
            .chunks(2)
            .map(|p| String::from_utf8_lossy(p).to_uppercase())
            .collect::<Vec<_>>()
            .join(":");
        assert!(same(&hex, &colons));
        assert!(same(&format!(" SHA256:{colons}\n"), &hex));
        assert!(!same(&hex, &hex.replace('0', "1")));
        assert!(!same("", ""));
        assert!(matches!(fingerprint("no"), Err(CliError::Usage(_))));
        let one = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----";
        assert_eq!(first_certificate(&format!("x\n{one}\n{one}\n")), Some(one));
        assert_eq!(first_certificate("-----END CERTIFICATE-----"), None);
    }
}
