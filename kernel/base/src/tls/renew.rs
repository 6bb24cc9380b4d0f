//! Keeping a component's certificate fresh: at half its life a new one is asked of identity over mutual TLS, written down, swapped in.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Expect, Identity, TlsError, pinned_client_config};
use crate::client::{Client, ClientError, Reach};
use crate::files;
use crate::pki::{PkiError, Request};
use crate::retry::Backoff;
use crate::service::Shutdown;
use crate::turns::Turns;

/// Body of `POST /internal/v1/certificates`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS #10, PEM.
    pub csr: String,
}

/// Body of `POST /internal/v1/certificates/expired`: a machine that was off for longer than its certificate's life cannot show it any
/// more. The request is signed with the member's key, and a certificate is of use to the holder of that key only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoverRequest {
    /// The member's role.
    pub role: String,
    /// The member's name.
    pub name: String,
    /// PKCS #10, PEM, for the key the member joined with.
    pub csr: String,
}

/// Reply of `POST /internal/v1/certificates` and of `POST /internal/v1/join`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Issued {
    /// The certificate followed by the CA's, PEM.
    pub certificate: String,
    /// The CA certificates to trust, PEM.
    pub ca: String,
}

/// Why a renewal failed. All of these are tried again.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The identity did not come from files.
    #[error("the identity has no files to renew")]
    NoFiles,
    /// The list of masters is empty.
    #[error("no identity is known to ask: name it in the settings")]
    Nobody,
    /// Files, or what identity sent, cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The request could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Identity could not be asked.
    #[error("identity could not be asked: {0}")]
    Client(#[from] ClientError),
}

/// The longest pause while the certificate has ended: nothing works without it.
const ENDED: Duration = Duration::from_secs(30);

/// When the certificate should be renewed: half its life, counted from the end so that backdating does not matter.
fn due(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_after - life / 2
}

/// Renews `identity` in good time until `shutdown`, at any identity of `from`.
/// Failures are logged and tried again, from a second up to five minutes apart (half a minute once the certificate has ended).
pub async fn keep_fresh(identity: Identity, mut from: Turns, shutdown: Shutdown) {
    let quick = || Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
    let mut backoff = quick();
    loop {
        let own = identity.peer();
        let wait = due(own.not_before, own.not_after).duration_since(SystemTime::now()).unwrap_or_default();
        // The wall clock may jump and machines sleep: look again at least every minute.
        if !wait.is_zero() {
            if !shutdown.sleep(wait.min(Duration::from_secs(60))).await {
                return;
            }
            continue;
        }
        match shutdown.until(renew_at(&identity, &mut from)).await {
            None => return,
            Some(Ok(())) => {
                tracing::info!(peer = %own.name, "certificate renewed");
                backoff = quick();
            }
            // On masters identity sees to the files by itself where nobody can be asked.
            Some(Err(_)) if take_newer(&identity) => backoff = quick(),
            Some(Err(error)) => {
                let left = own.not_after.duration_since(SystemTime::now()).unwrap_or_default();
                tracing::warn!(%error, seconds_left = left.as_secs(), "the certificate could not be renewed");
            }
        }
        // Also after a success: a certificate that is due at once must not become a busy loop.
        let ended = !identity.peer().is_current(SystemTime::now());
        let pause = if ended { backoff.delay().min(ENDED) } else { backoff.delay() };
        if !shutdown.sleep(pause).await {
            return;
        }
    }
}

/// Takes the certificate in the files where it is newer than the one in use.
fn take_newer(identity: &Identity) -> bool {
    let held = identity.files().and_then(|files| Identity::load(files).ok());
    let newer = held.is_some_and(|held| held.peer().not_after > identity.peer().not_after);
    newer && identity.reload().is_ok()
}

/// Renews once at the first identity that does it.
///
/// # Errors
/// The last one's [`RenewError`].
pub async fn renew_at(identity: &Identity, from: &mut Turns) -> Result<(), RenewError> {
    let renewed = from.ask(|url| async move { renew(identity, &url).await });
    renewed.await.unwrap_or(Err(RenewError::Nobody))
}

/// Renews once: asks, checks, writes `cert.pem` and `ca.pem`, swaps. The key stays the same. A certificate that has ended already is
/// replaced, too, as long as identity knows the member's key.
///
/// # Errors
/// [`RenewError`]; files and identity are then as before.
pub async fn renew(identity: &Identity, url: &str) -> Result<(), RenewError> {
    let files = identity.files().ok_or(RenewError::NoFiles)?;
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(|source| TlsError::File { path: path.to_path_buf(), source })
    };
    let key = read(&files.key)?;
    let request = RenewRequest { csr: Request::for_key(&key)?.csr };
    let peer = identity.peer();
    let issued: Issued = if peer.is_current(SystemTime::now()) {
        let client = Client::with_identity(identity, Expect::Role("identity".to_owned()))?;
        ask(&client, &format!("{url}/internal/v1/certificates"), &request).await?
    } else {
        let chain = identity.chain();
        let fingerprint = chain.last().map(crate::pki::fingerprint).unwrap_or_default();
        let client = Client::with_reach(pinned_client_config(&fingerprint, "identity")?, Reach::CLUSTER);
        let request = RecoverRequest { role: peer.name.role, name: peer.name.name, csr: request.csr };
        ask(&client, &format!("{url}/internal/v1/certificates/expired"), &request).await?
    };
    // What cannot be used together is not written.
    Identity::from_pem(&issued.ca, &issued.certificate, &key)?;
    let write = |path: &std::path::Path, text: &str, mode| {
        files::replace(path, text.as_bytes(), mode)
            .map_err(|source| TlsError::File { path: path.to_path_buf(), source })
    };
    if read(&files.ca)? != issued.ca {
        write(&files.ca, &issued.ca, 0o644)?;
    }
    write(&files.cert, &issued.certificate, files::SECRET)?;
    identity.replace(&issued.ca, &issued.certificate, &key)?;
    Ok(())
}

async fn ask(client: &Client, url: &str, body: &impl Serialize) -> Result<Issued, ClientError> {
    client.post(url).deadline(Duration::from_secs(10)).json(body).send().await?.success().await?.json().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_certificate_in_the_files_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = super::super::IdentityFiles { ca: path("ca"), cert: path("cert"), key: path("key") };
        let now = SystemTime::now();
        let ca = crate::pki::Authority::create("c", now).unwrap();
        let name = crate::pki::PeerName::new("c", "etcd", "m1").unwrap();
        let request = Request::new().unwrap();
        let write = |life: u64| {
            let cert = ca.issue(&request.csr, &name, &[], now, Duration::from_secs(life)).unwrap();
            files.write(ca.certificate_pem(), &cert, &request.key).unwrap();
        };
        write(10);
        let identity = Identity::load(&files).unwrap();
        assert!(!take_newer(&identity));
        write(100);
        let before = identity.peer().not_after;
        assert!(take_newer(&identity) && identity.peer().not_after > before);
        std::fs::write(&files.cert, "broken").unwrap();
        assert!(!take_newer(&identity));
    }

    #[test]
    fn half_the_life_is_when_it_is_due() {
        let start = SystemTime::now();
        assert_eq!(due(start, start + Duration::from_secs(100)), start + Duration::from_secs(50));
        assert_eq!(due(start, start), start);
    }
}
