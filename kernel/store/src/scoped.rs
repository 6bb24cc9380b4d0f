//! A view of a store under a prefix: what a component is given, so that it neither sees nor touches the rest.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Entry, Guard, Leadership, LeaseId, Op, Page, Range, Revision, Store, StoreError, Txn, Watch, election,
};

/// A [`Store`] whose keys are those of another one below a prefix. Errors name keys without the prefix.
#[derive(Clone, Debug)]
pub struct Scoped {
    inner: Arc<dyn Store>,
    prefix: Arc<str>,
}

/// The part of `store` under `prefix`, a path such as `/plenum/default/services/` (a missing `/` at its end is
/// added). Leases are shared with the whole store.
pub fn scoped(store: Arc<dyn Store>, prefix: &str) -> Scoped {
    let prefix =
        if prefix.is_empty() || prefix.ends_with('/') { prefix.into() } else { format!("{prefix}/") };
    Scoped { inner: store, prefix: prefix.into() }
}

impl Scoped {
    fn full(&self, key: &str) -> String {
        [&*self.prefix, key].concat()
    }

    fn relative(&self, key: String) -> String {
        key.strip_prefix(&*self.prefix).map(str::to_owned).unwrap_or(key)
    }

    fn entry(&self, entry: Entry) -> Entry {
        Entry { key: self.relative(entry.key), ..entry }
    }

    fn error(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Conflict { index, guard } => {
                StoreError::Conflict { index, guard: guard.map_key(|key| self.relative(key)) }
            }
            other => other,
        }
    }

    /// A key the component itself gave empty must not turn into the prefix.
    fn check(&self, key: &str) -> Result<(), StoreError> {
        crate::limits::check_key(key)
    }
}

#[async_trait]
impl Store for Scoped {
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        crate::limits::check_txn(&txn)?;
        let guards =
            txn.guards.into_iter().map(|guard: Guard| guard.map_key(|key| self.full(&key))).collect();
        let ops = txn.ops.into_iter().map(|op| match op {
            Op::Put { key, value, lease } => Op::Put { key: self.full(&key), value, lease },
            Op::Delete { key } => Op::Delete { key: self.full(&key) },
        });
        let txn = Txn { guards, ops: ops.collect() };
        self.inner.commit(txn).await.map_err(|e| self.error(e))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.check(key)?;
        let found = self.inner.get(&self.full(key)).await?;
        Ok(found.map(|entry| self.entry(entry)))
    }

    async fn range(&self, req: Range) -> Result<Page, StoreError> {
        let req = Range {
            prefix: self.full(&req.prefix),
            start_after: req.start_after.map(|key| self.full(&key)),
            limit: req.limit,
        };
        let page = self.inner.range(req).await?;
        let entries = page.entries.into_iter().map(|entry| self.entry(entry)).collect();
        Ok(Page { entries, ..page })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        Ok(self.inner.watch(&self.full(prefix), after).await?.scoped(self.prefix.len()))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    // Through the view, so that the leadership's guard names the key as the view does.
    async fn campaign(
        &self,
        election: &str,
        candidate: &str,
        ttl: Duration,
    ) -> Result<Leadership, StoreError> {
        election::campaign(Arc::new(self.clone()), election, candidate, ttl).await
    }
}
