//! The authenticator: turns what a request carries into a principal, by the policy snapshot on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};

use super::cache::Cache;
use super::credentials::Presented;
use super::{Kind, Principal, verify_secret};
use crate::cluster::ClusterMap;
use crate::pki::PeerName;
use crate::policy::{AccountKind, PolicyError, Signed, Snapshot};
use crate::service::Shutdown;

/// How long good basic credentials are believed without another hash.
const BASIC_GOOD: Duration = Duration::from_secs(300);
/// How long wrong basic credentials are refused without another hash.
const BASIC_WRONG: Duration = Duration::from_secs(10);
/// How long a checked token is believed; never beyond its own end.
const TOKEN_GOOD: Duration = Duration::from_secs(60);
/// How often the policy file is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a request waits for its turn to have a secret hashed.
const QUEUE: Duration = Duration::from_secs(5);

/// Why there is no principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The request carries no credentials.
    #[error("no credentials were given; log in first")]
    Missing,
    /// The credentials are wrong, expired or of an unknown kind.
    #[error("the credentials are not valid; log in again")]
    Invalid,
    /// Too many secrets are being checked at once.
    #[error("too many logins at once; try again")]
    Busy,
}

/// Checks the tokens that an agent gave its executors. Only agents have one.
pub trait ExecutorTokens: Send + Sync {
    /// The executor the token belongs to.
    fn check(&self, token: &str) -> Option<Principal>;
}

/// What is used of the current snapshot.
struct Current {
    snapshot: Snapshot,
    keys: BTreeMap<String, DecodingKey>,
}

/// Tells who is calling. Share one in an `Arc`.
pub struct Authenticator {
    policy: PathBuf,
    ca: PathBuf,
    open: bool,
    current: ArcSwap<Option<Current>>,
    cluster: watch::Sender<Option<Arc<ClusterMap>>>,
    looked: Mutex<Looked>,
    cache: Cache,
    hashing: Arc<Semaphore>,
    executors: Option<Arc<dyn ExecutorTokens>>,
}

struct Looked {
    next: Instant,
    stamp: Option<(SystemTime, u64, u64)>,
    highest: u64,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("policy", &self.policy)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    uid: String,
    exp: u64,
}

impl Authenticator {
    /// Uses the policy and CA at these paths (`Places::policy`, `Places::ca`); both may appear later, and nobody but components is known
    /// until then. `open` lets requests without credentials in as `Anonymous`.
    #[must_use]
    pub fn open(policy: &Path, ca: &Path, open: bool) -> Arc<Self> {
        Arc::new(Self::make(policy, ca, open, None))
    }

    /// As [`Authenticator::open`], and also knows the tokens of executors.
    #[must_use]
    pub fn with_executors(
        policy: &Path,
        ca: &Path,
        open: bool,
        tokens: Arc<dyn ExecutorTokens>,
    ) -> Arc<Self> {
        Arc::new(Self::make(policy, ca, open, Some(tokens)))
    }

    fn make(policy: &Path, ca: &Path, open: bool, executors: Option<Arc<dyn ExecutorTokens>>) -> Self {
        let this = Self {
            policy: policy.to_path_buf(),
            ca: ca.to_path_buf(),
            open,
            current: ArcSwap::from_pointee(None),
            cluster: watch::channel(None).0,
            looked: Mutex::new(Looked { next: Instant::now(), stamp: None, highest: 0 }),
            cache: Cache::new(),
            // Each hash takes 19 MiB and tens of milliseconds of a processor.
            hashing: Arc::new(Semaphore::new(2)),
            executors,
        };
        this.look(true);
        this
    }

    /// The number of the snapshot in use; 0 without one.
    #[must_use]
    pub fn policy_number(&self) -> u64 {
        self.look(false);
        self.current.load().as_ref().as_ref().map_or(0, |current| current.snapshot.number)
    }

    /// The cluster's id, once a policy is there.
    #[must_use]
    pub fn cluster_id(&self) -> Option<String> {
        self.look(false);
        self.current.load().as_ref().as_ref().map(|current| current.snapshot.cluster_id.clone())
    }

    /// The cluster's map of the newest snapshot. It only moves while somebody asks this authenticator something, or keeps it looking.
    #[must_use]
    pub fn cluster(&self) -> watch::Receiver<Option<Arc<ClusterMap>>> {
        self.look(false);
        self.cluster.subscribe()
    }

    /// Looks at the policy's file until `shutdown`, also while nobody calls.
    pub async fn keep_looking(self: Arc<Self>, shutdown: Shutdown) {
        while shutdown.sleep(Duration::from_millis(500)).await {
            self.look(false);
        }
    }

    fn publish(&self, map: Option<&ClusterMap>) {
        self.cluster.send_if_modified(|current| {
            let changed = current.as_deref() != map;
            if changed {
                *current = map.cloned().map(Arc::new);
            }
            changed
        });
    }

    /// Whether the principal may do `action` on `resource`. Components may do everything here (they check each other's role
    /// where it matters), executors nothing; accounts by the policy; nobody only under `--open`.
    #[must_use]
    pub fn allows(&self, principal: &Principal, resource: &str, action: &str) -> bool {
        match principal.kind {
            Kind::Component => true,
            Kind::Executor => false,
            Kind::Anonymous => self.open,
            Kind::User | Kind::Service => {
                self.look(false);
                let current = self.current.load();
                current.as_ref().as_ref().is_some_and(|c| c.snapshot.allows(&principal.uid, resource, action))
            }
        }
    }

    /// Who is calling: `peer` is the client certificate's name, `headers` the request's. A request that the gateway relays belongs to
    /// whom its Authorization header names.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn identify(
        &self,
        peer: Option<&PeerName>,
        headers: &HeaderMap,
    ) -> Result<Principal, AuthError> {
        let presented = Presented::read(headers);
        if let Some(name) = peer {
            // The gateway relays its callers' requests: what they carry says who they are.
            if name.role != "gateway" || presented == Presented::Nothing {
                return Ok(Principal::of_component(name.clone()));
            }
        }
        self.look(false);
        match &presented {
            Presented::Nothing if self.open => Ok(Principal::anonymous()),
            Presented::Nothing => Err(AuthError::Missing),
            Presented::Unknown => Err(AuthError::Invalid),
            Presented::Token(token) => self.token(token).ok_or(AuthError::Invalid),
            Presented::Basic(principal, secret) => self.basic(principal, secret).await,
        }
    }

    /// Who a bare token belongs to, such as one from a cookie.
    #[must_use]
    pub fn token(&self, token: &str) -> Option<Principal> {
        let now = Instant::now();
        if let Some(executor) = self.executors.as_ref().and_then(|executors| executors.check(token)) {
            return Some(executor);
        }
        let current = self.current.load_full();
        let known = current.as_ref().as_ref().and_then(|current| {
            let number = current.snapshot.number;
            if let Some(known) = self.cache.get(token.as_bytes(), number, now) {
                return known;
            }
            let (principal, left) = check_token(current, token)?;
            self.cache.put(token.as_bytes(), number, Some(principal.clone()), now, left.min(TOKEN_GOOD));
            Some(principal)
        });
        if known.is_some() || !self.newer_than(&current) {
            return known;
        }
        // The policy changed just now: an account made a moment ago is in it.
        let current = self.current.load_full();
        current
            .as_ref()
            .as_ref()
            .and_then(|current| check_token(current, token))
            .map(|(principal, _)| principal)
    }

    async fn basic(&self, principal: &str, secret: &str) -> Result<Principal, AuthError> {
        let before = self.current.load_full();
        let found = self.basic_once(principal, secret).await;
        if found == Err(AuthError::Invalid) && self.newer_than(&before) {
            self.basic_once(principal, secret).await
        } else {
            found
        }
    }

    /// True when another policy than `before` is in use: it changed just now, or somebody else's look took it in the meantime.
    fn newer_than(&self, before: &Arc<Option<Current>>) -> bool {
        self.look(true) || !Arc::ptr_eq(before, &self.current.load_full())
    }

    async fn basic_once(&self, principal: &str, secret: &str) -> Result<Principal, AuthError> {
        let current = self.current.load_full();
        let Some(current) = current.as_ref() else { return Err(AuthError::Invalid) };
        let number = current.snapshot.number;
        // The length keeps ("a", "b:c") and ("a:b", "c") apart.
        let credentials = format!("basic {} {principal}:{secret}", principal.len()).into_bytes();
        if let Some(known) = self.cache.get(&credentials, number, Instant::now()) {
            return known.ok_or(AuthError::Invalid);
        }
        let held = current.snapshot.basic.iter().find(|held| held.principal == principal);
        // An unknown principal costs as much as a wrong secret, so that nobody can ask which ones exist.
        let hash = held.or(current.snapshot.basic.first()).map(|held| held.hash.clone());
        let exists = held.is_some();
        let permit = tokio::time::timeout(QUEUE, Arc::clone(&self.hashing).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(AuthError::Busy) };
        let secret = secret.as_bytes().to_vec();
        let good = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            hash.is_some_and(|hash| verify_secret(&secret, &hash))
        });
        let good = good.await.unwrap_or(false) && exists;
        let account = current.snapshot.accounts.get(principal);
        let found = account.filter(|_| good).map(|account| Principal::new(principal, kind(account.kind)));
        let lasting = if found.is_some() { BASIC_GOOD } else { BASIC_WRONG };
        self.cache.put(&credentials, number, found.clone(), Instant::now(), lasting);
        found.ok_or(AuthError::Invalid)
    }

    /// Rereads the policy when its file changed; at most every [`LOOK`] unless `now`. True when another one is in use afterwards.
    fn look(&self, now: bool) -> bool {
        // Somebody else is looking: their result is as good, and who must know now waits for it (one short read).
        let mut looked = if now {
            self.looked.lock()
        } else {
            let Some(looked) = self.looked.try_lock() else { return false };
            looked
        };
        let time = Instant::now();
        if !now && time < looked.next {
            return false;
        }
        looked.next = time + LOOK;
        let stamp = stamp(&self.policy);
        if stamp == looked.stamp || stamp.is_none() {
            return false;
        }
        match self.read(looked.highest) {
            Ok(current) => {
                looked.stamp = stamp;
                looked.highest = current.snapshot.number;
                self.publish(current.snapshot.cluster.as_ref());
                self.current.store(Arc::new(Some(current)));
                true
            }
            Err(error @ (PolicyError::Signature(_) | PolicyError::Stale { .. } | PolicyError::Format(_))) => {
                looked.stamp = stamp;
                tracing::error!(%error, path = %self.policy.display(), "the policy is refused; keeping the last good one");
                false
            }
            Err(error) => {
                tracing::warn!(%error, path = %self.policy.display(), "the policy cannot be read");
                false
            }
        }
    }

    fn read(&self, highest: u64) -> Result<Current, PolicyError> {
        let unreadable = |e: &dyn std::fmt::Display| PolicyError::Unreadable(e.to_string());
        let text = std::fs::read(&self.policy).map_err(|e| unreadable(&e))?;
        let signed: Signed = serde_json::from_slice(&text).map_err(|e| unreadable(&e))?;
        let ca = std::fs::read_to_string(&self.ca).map_err(|e| unreadable(&e))?;
        let roots = crate::tls::roots_of(&ca).map_err(|e| unreadable(&e))?;
        let snapshot = signed.open(&roots)?;
        if snapshot.number < highest {
            return Err(PolicyError::Stale { found: snapshot.number, known: highest });
        }
        let mut keys = BTreeMap::new();
        for jwk in &snapshot.jwks.keys {
            // A key we cannot use is not an error: a later release may sign with it too.
            if let (Some(id), Ok(key)) = (&jwk.common.key_id, DecodingKey::from_jwk(jwk)) {
                keys.insert(id.clone(), key);
            }
        }
        Ok(Current { snapshot, keys })
    }
}

fn kind(kind: AccountKind) -> Kind {
    match kind {
        AccountKind::User => Kind::User,
        AccountKind::Service => Kind::Service,
    }
}

/// Modification time, length and inode: an atomic replacement always changes the last.
fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// The token's principal and how long it is still valid.
fn check_token(current: &Current, token: &str) -> Option<(Principal, Duration)> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    // DC/OS' tokens may come without a key id: then any of the (one or two) keys may be the one.
    let keys: Vec<&DecodingKey> = match &header.kid {
        Some(id) => current.keys.get(id).into_iter().collect(),
        None => current.keys.values().take(4).collect(),
    };
    let mut validation = Validation::new(Algorithm::RS256);
    validation.leeway = 0;
    validation.validate_aud = false;
    validation.set_required_spec_claims(&["exp"]);
    let claims =
        keys.into_iter().find_map(|key| jsonwebtoken::decode::<Claims>(token, key, &validation).ok())?.claims;
    let account = current.snapshot.accounts.get(&claims.uid)?;
    let left = claims.exp.saturating_sub(crate::clock::wall_millis() / 1000);
    Some((Principal::new(claims.uid, kind(account.kind)), Duration::from_secs(left)))
}
