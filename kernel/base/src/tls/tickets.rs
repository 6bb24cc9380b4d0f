//! TLS sessions that every master resumes (`docs/adr/0014`): tickets are sealed with keys derived from a secret that the masters share, the
//! role, whether clients show certificates, and the hour. So a failover is no storm of full handshakes. Without the secret (a single
//! machine, an agent) a process knows only its own tickets. The secret is in memory only, and brought from identity each hour.
//!
//! A ticket carries the client's certificate as it was verified; servers look again whether it has ended (`serve`).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::server::ProducesTickets;
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::sync::watch;

use super::{Expect, Identity, TlsError};
use crate::client::{Client, ClientError};
use crate::cluster::Masters;
use crate::retry::Backoff;
use crate::service::Shutdown;
use crate::turns::Turns;

/// The roles whose servers share the secret: those of control. Roles that agents have too are not among them, because who has the secret
/// could pass for anybody.
pub const SHARING: [&str; 5] = ["identity", "master", "services", "catalog", "gateway"];

/// Hours for which a ticket is good, beside the one it was made in.
const HOURS: u64 = 2;
/// First byte of a ticket under the shared secret.
const SHARED: u8 = 1;
/// First byte of a ticket under the process' own.
const OWN: u8 = 2;
/// Kind and hour.
const HEAD: usize = 9;

/// The secrets of a process.
pub(super) struct Secrets {
    own: Prk,
    shared: ArcSwapOption<Prk>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    pub(super) fn new() -> Self {
        let own: [u8; 32] = rand::random();
        Self { own: extract(&own), shared: ArcSwapOption::empty() }
    }

    pub(super) fn share(&self, secret: &[u8]) {
        self.shared.store(Some(Arc::new(extract(secret))));
    }
}

fn extract(secret: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, b"plenum tls tickets").extract(secret)
}

/// Seals and opens the tickets of one kind of server.
pub(super) struct Ticketer {
    secrets: Arc<Secrets>,
    /// Role, and how clients are authenticated: a session of one that asks for no certificate is none of one that does.
    label: String,
    hour: fn() -> u64,
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticketer").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Ticketer {
    pub(super) fn new(secrets: Arc<Secrets>, label: String) -> Self {
        Self { secrets, label, hour: || crate::clock::wall_millis() / 3_600_000 }
    }

    fn key(&self, kind: u8, hour: u64) -> Option<LessSafeKey> {
        let shared = self.secrets.shared.load();
        let secret = match kind {
            SHARED => shared.as_deref()?,
            OWN => &self.secrets.own,
            _ => return None,
        };
        let info = [self.label.as_bytes(), &hour.to_be_bytes()];
        let okm = secret.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(HOURS * 3600).unwrap_or(3600)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let kind = if self.secrets.shared.load().is_some() { SHARED } else { OWN };
        let hour = (self.hour)();
        let mut ticket = vec![kind];
        ticket.extend_from_slice(&hour.to_be_bytes());
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = plain.to_vec();
        let head = Aad::from(ticket.clone());
        let nonce_once = Nonce::assume_unique_for_key(nonce);
        self.key(kind, hour)?.seal_in_place_append_tag(nonce_once, head, &mut sealed).ok()?;
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, rest) = ticket.split_first_chunk::<HEAD>()?;
        let (kind, hour) = head.split_first_chunk::<1>()?;
        let hour = u64::from_be_bytes(*hour.first_chunk()?);
        let now = (self.hour)();
        // One hour ahead: masters' clocks differ a little.
        if hour > now.saturating_add(1) || hour.saturating_add(HOURS) < now {
            return None;
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.key(kind[0], hour)?.open_in_place(nonce, Aad::from(head), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

/// A client's sessions. With servers that share their tickets, a session is the role's, not the address'. Sessions of an earlier certificate of
/// the client are not used any more, since servers would refuse them once it ends.
#[derive(Debug)]
pub(super) struct Sessions {
    held: ClientSessionMemoryCache,
    generation: watch::Receiver<u64>,
    of_role: bool,
}

impl Sessions {
    pub(super) fn new(generation: watch::Receiver<u64>, expect: &Expect) -> Self {
        let of_role = matches!(expect, Expect::Role(role) if SHARING.contains(&role.as_str()));
        Self { held: ClientSessionMemoryCache::new(256), generation, of_role }
    }

    /// The name under which a session is kept.
    fn name(&self, server: &ServerName<'_>) -> ServerName<'static> {
        let server = if self.of_role { "role".into() } else { server.to_str().replace(':', "-") };
        let name = format!("g{}.{server}", *self.generation.borrow());
        // It is made of letters that names may have; were it not, one name for all would still be right, only less often useful.
        ServerName::try_from(name).unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.held.set_kx_hint(self.name(&server), group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.held.kx_hint(&self.name(server))
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.held.set_tls12_session(self.name(&server), value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.held.tls12_session(&self.name(server))
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.held.remove_tls12_session(&self.name(server));
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.held.insert_tls13_ticket(self.name(&server), value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.held.take_tls13_ticket(&self.name(server))
    }
}

/// Why the secret did not come. All of these are tried again.
#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("what identity sent is no secret of 32 bytes")]
    Content,
}

/// Keeps the shared secret of `identity`'s tickets current while this is a fleet, until `shutdown`. Returns at once for roles that do not share.
pub async fn keep_shared(identity: Identity, mut masters: Masters, mut from: Turns, shutdown: Shutdown) {
    if !SHARING.contains(&identity.peer().name.role.as_str()) {
        return;
    }
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        if !masters.is_fleet() {
            if shutdown.until(masters.changed()).await.is_none() {
                return;
            }
            continue;
        }
        let asked = from.ask(|url| {
            let identity = &identity;
            async move { fetch(identity, &url).await }
        });
        let pause = match shutdown.until(asked).await {
            None => return,
            Some(Some(Ok(secret))) => {
                identity.share_tickets(&secret);
                backoff.reset();
                Duration::from_secs(3600)
            }
            Some(Some(Err(error))) => {
                tracing::debug!(%error, "the secret of TLS tickets could not be had; trying again");
                backoff.delay()
            }
            Some(None) => backoff.delay(),
        };
        if !shutdown.sleep(pause).await {
            return;
        }
    }
}

async fn fetch(identity: &Identity, url: &str) -> Result<Vec<u8>, SecretError> {
    #[derive(Deserialize)]
    struct Body {
        secret: String,
    }
    let client = Client::with_identity(identity, Expect::Role("identity".to_owned()))?;
    let call = client.get(&format!("{url}/internal/v1/ticket-secret")).deadline(Duration::from_secs(5));
    let body: Body = call.send().await?.success().await?.json().await?;
    STANDARD.decode(body.secret).ok().filter(|secret| secret.len() == 32).ok_or(SecretError::Content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticketer(secret: Option<u8>, label: &str, hour: fn() -> u64) -> Ticketer {
        let secrets = Secrets::new();
        if let Some(byte) = secret {
            secrets.share(&[byte; 32]);
        }
        Ticketer { hour, ..Ticketer::new(Arc::new(secrets), label.to_owned()) }
    }

    #[test]
    fn tickets_open_with_the_same_secret_kind_and_time_only() {
        let ours = ticketer(Some(1), "master", || 1000);
        let ticket = ours.encrypt(b"session").unwrap();
        assert_ne!(ticket, ours.encrypt(b"session").unwrap());
        let opens = |by: Ticketer| by.decrypt(&ticket).is_some();
        assert_eq!(ours.decrypt(&ticket).unwrap(), b"session");
        for good in [|| 999, || 1000, || 1001, || 1002] {
            assert!(opens(ticketer(Some(1), "master", good)), "at {}", good());
        }
        for late in [|| 998, || 1003, || u64::MAX, || 0] {
            assert!(!opens(ticketer(Some(1), "master", late)), "at {}", late());
        }
        assert!(!opens(ticketer(Some(2), "master", || 1000)));
        assert!(!opens(ticketer(Some(1), "services", || 1000)));
        assert!(!opens(ticketer(None, "master", || 1000)));
    }

    #[test]
    fn without_a_shared_secret_each_process_is_alone_and_nothing_hostile_opens() {
        let (one, other) = (ticketer(None, "master", || 7), ticketer(None, "master", || 7));
        let ticket = one.encrypt(b"session").unwrap();
        assert!(one.decrypt(&ticket).is_some() && other.decrypt(&ticket).is_none());
        for length in 0..ticket.len() {
            assert_eq!(one.decrypt(&ticket[..length]), None);
            let mut flipped = ticket.clone();
            flipped[length] ^= 1;
            assert_eq!(one.decrypt(&flipped), None);
        }
        // A process that came to share later still opens what it gave before.
        one.secrets.share(&[1; 32]);
        assert!(one.decrypt(&ticket).is_some());
    }
}
