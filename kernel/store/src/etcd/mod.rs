//! The store on etcd: several nodes, an engine that is not ours. Same promises as the embedded one.
//!
//! How requests and errors are translated is [`convert`]'s concern, which member is asked [`pool`]'s, how a call gets past one that
//! does not answer [`calls`]', how a watch survives a lost connection [`watching`]'s. Compacting (`--auto-compaction-retention`), quotas, members and alarms are the operator's: when etcd's
//! quota is exceeded, it refuses writes (`Full`) until its NOSPACE alarm is disarmed.

mod calls;
mod convert;
mod pool;
mod watching;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Certificate, Client, GetOptions, Identity, TlsOptions};
use tokio::sync::OnceCell;

use crate::{
    Entry, Guard, Leadership, LeaseId, Op, Page, Range, Revision, Store, StoreError, Txn, Watch, election,
    limits,
};
use convert::{Call, Span};
use pool::Pool;
use watching::EtcdWatch;

/// The largest answer taken to one request. Pages are made smaller until they fit.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Where etcd is and how to get in.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `https://host:2379` of each member.
    pub endpoints: Vec<String>,
    /// Mutual TLS; for `http://` endpoints `None`.
    pub tls: Option<EtcdTls>,
    /// Name and password, if etcd's authentication is on and does not go by certificate.
    pub user: Option<(String, String)>,
    /// How long any call waits for its answer.
    pub deadline: Duration,
}

impl EtcdOptions {
    /// Members without TLS; add it before anything leaves the machine.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            user: None,
            deadline: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.tls.is_some())
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("deadline", &self.deadline)
            .finish()
    }
}

/// Certificates for mutual TLS, all PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Who signs the members' certificates.
    pub ca: Vec<u8>,
    /// Our certificate, with the chain above it.
    pub cert: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// The name to expect in the members' certificates; `None`: the endpoint's host.
    pub server_name: Option<String>,
}

impl EtcdTls {
    /// Whether both hold the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.ca == other.ca
            && self.cert == other.cert
            && self.key == other.key
            && self.server_name == other.server_name
    }
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl EtcdTls {
    fn options(&self) -> TlsOptions {
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.cert, &self.key));
        match &self.server_name {
            Some(name) => tls.domain_name(name),
            None => tls,
        }
    }
}

/// A handle on a store in etcd; clones are the same store. Each component is given its part by
/// [`crate::scoped`], and on etcd a user whose role ends at the same prefix.
#[derive(Clone)]
pub struct Etcd {
    pool: Arc<Pool>,
    /// A key that must not be there, and whether that has been seen to.
    fence: Arc<(Option<String>, OnceCell<()>)>,
}

/// A handle that does not keep the store open.
pub(crate) struct WeakEtcd {
    pool: Weak<Pool>,
    fence: Arc<(Option<String>, OnceCell<()>)>,
}

impl WeakEtcd {
    pub(crate) fn upgrade(&self) -> Option<Etcd> {
        Some(Etcd { pool: self.pool.upgrade()?, fence: Arc::clone(&self.fence) })
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("options", &*self.pool.options.read()).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Makes a handle. etcd need not be up yet, unless `user` is given, which asks it for a token.
    ///
    /// Errors: `Invalid` for endpoints or certificates that make no sense; `Broken` if the user is refused.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(StoreError::invalid("etcd's endpoints: there is none"));
        }
        Ok(Self { pool: Pool::open(options).await?, fence: Arc::default() })
    }

    /// As [`Etcd::connect`], but endpoints may come later; and everything is refused while there is a key `fence`.
    pub(crate) async fn follow(options: EtcdOptions, fence: String) -> Result<Self, StoreError> {
        Ok(Self { pool: Pool::open(options).await?, fence: Arc::new((Some(fence), OnceCell::new())) })
    }

    pub(crate) fn downgrade(&self) -> WeakEtcd {
        WeakEtcd { pool: Arc::downgrade(&self.pool), fence: Arc::clone(&self.fence) }
    }

    /// Connects anew, for a certificate or password that has been renewed; all clones use the new connections
    /// from now on, watches soon.
    pub async fn renew(
        &self,
        tls: Option<EtcdTls>,
        user: Option<(String, String)>,
    ) -> Result<(), StoreError> {
        let options = self.pool.options.read().clone();
        self.pool.renew(EtcdOptions { tls, user, ..options }).await
    }

    /// Uses these members from now on, the first ones preferred. Connections to those that stay are kept.
    pub async fn set_endpoints(&self, urls: Vec<String>) -> Result<(), StoreError> {
        self.pool.set_urls(urls).await
    }

    fn deadline(&self) -> Duration {
        self.pool.options.read().deadline
    }

    /// Sees to it, once, that this part of etcd is the one in use.
    async fn opened(&self) -> Result<(), StoreError> {
        let Some(fence) = &self.fence.0 else { return Ok(()) };
        let unfenced = Self { pool: Arc::clone(&self.pool), fence: Arc::default() };
        self.fence.1.get_or_try_init(|| crate::moved::check_fence(&unfenced, fence)).await.map(|_| ())
    }

    async fn get_span(
        &self,
        span: &Span,
        options: GetOptions,
    ) -> Result<etcd_client::GetResponse, StoreError> {
        Box::pin(self.opened()).await?;
        let options = match &span.end {
            Some(end) => options.with_range(end.clone()),
            None => options,
        };
        let get = |client: Client| {
            let (start, options) = (span.start.clone(), options.clone());
            let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
            async move { kv.get(start, Some(options)).await }
        };
        let found = self.pool.hedged(Call::Read, get).await;
        found.map_err(|error| convert::denied(error, [&*String::from_utf8_lossy(&span.start)]))
    }

    /// Which guard of a refused transaction did not hold. What etcd answered shows each key's revisions; a value
    /// has to be looked at once more, for it may be too large to be sent along.
    async fn name_conflict(&self, txn: Txn, found: Vec<Option<Entry>>) -> Result<StoreError, StoreError> {
        let mut last_value = None;
        for (index, (guard, entry)) in txn.guards.into_iter().zip(found).enumerate() {
            let holds = match (&guard, &entry) {
                (Guard::Value(key, _), Some(_)) => {
                    let now = self.get(key).await?;
                    let holds = guard.holds(now.as_ref());
                    if holds {
                        last_value = Some((index, guard.clone()));
                    }
                    holds
                }
                (guard, entry) => guard.holds(entry.as_ref()),
            };
            if !holds {
                return Ok(StoreError::Conflict { index, guard });
            }
        }
        // All hold by now: a value that was changed has been changed back.
        let (index, guard) = last_value.ok_or_else(|| StoreError::broken("etcd refused guards that hold"))?;
        Ok(StoreError::Conflict { index, guard })
    }
}

#[async_trait]
impl Store for Etcd {
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        limits::check_txn(&txn)?;
        let request = convert::txn(&txn);
        self.opened().await?;
        let call = Call::Commit(convert::first_lease(&txn));
        let keys = || txn.ops.iter().map(Op::key).chain(txn.guards.iter().map(Guard::key));
        let response = self.pool.commit(call, request).await;
        let response = response.map_err(|error| convert::denied(error, keys()))?;
        let revision = convert::revision(response.header())?;
        if response.succeeded() {
            return Ok(revision);
        }
        let found = convert::found(&response, txn.guards.len())?;
        Err(self.name_conflict(txn, found).await?)
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        limits::check_key(key)?;
        let mut response = self.get_span(&Span::key(key), GetOptions::new()).await?;
        response.take_kvs().pop().map(convert::entry).transpose()
    }

    async fn range(&self, req: Range) -> Result<Page, StoreError> {
        limits::check_prefix(&req.prefix)?;
        limits::check_prefix(req.start_after.as_deref().unwrap_or_default())?;
        let span = Span::after(&req.prefix, req.start_after.as_deref());
        if span.is_empty() {
            // Nothing can be there; ask for the revision all the same.
            let options = GetOptions::new().with_limit(1).with_keys_only();
            let response = self.get_span(&Span::prefix(&req.prefix), options).await?;
            let revision = convert::revision(response.header())?;
            return Ok(Page { entries: Vec::new(), more: false, revision });
        }
        let mut limit = limits::page_limit(req.limit);
        loop {
            let wanted = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut response = match self.get_span(&span, GetOptions::new().with_limit(wanted)).await {
                Err(e) if convert::is_answer_too_large(&e) && limit > 1 => {
                    limit /= 2;
                    continue;
                }
                other => other?,
            };
            let revision = convert::revision(response.header())?;
            let more = response.more();
            let entries = response.take_kvs().into_iter().map(convert::entry).collect::<Result<_, _>>()?;
            return Ok(Page { entries, more, revision });
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        limits::check_prefix(prefix)?;
        self.opened().await?;
        let mut watch = EtcdWatch::new(self.clone(), prefix, after);
        // So that a refused prefix or an unreachable etcd shows here and not only later.
        watch.connect().await?;
        Ok(Watch::new(watch))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = limits::round_ttl(ttl)?;
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        // Asked twice, one of the leases is unused and runs out.
        let grant = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        Ok(LeaseId(self.pool.hedged(Call::Write, grant).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        // The first answer only tells whether the lease is there; the second has its time to live.
        let keep = |mut client: Client| async move {
            let (mut keeper, mut answers) = client.lease_keep_alive(lease.0).await?;
            keeper.keep_alive().await?;
            Ok(answers.message().await?.map_or(0, |answer| answer.ttl()))
        };
        let ttl = self.pool.hedged(Call::Lease(lease), keep).await?;
        match u64::try_from(ttl) {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(StoreError::LeaseNotFound { lease }),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoke = |mut client: Client| async move { client.lease_revoke(lease.0).await };
        self.pool.hedged(Call::Lease(lease), revoke).await.map(|_| ())
    }

    async fn campaign(
        &self,
        election: &str,
        candidate: &str,
        ttl: Duration,
    ) -> Result<Leadership, StoreError> {
        election::campaign(Arc::new(self.clone()), election, candidate, ttl).await
    }
}
