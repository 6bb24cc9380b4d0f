//! Installations and uninstallations that may be repeated. What such a request means is written down before anything is done about it; a
//! repetition, through whichever catalog, does exactly that again, under the same key of the service scheduler, which knows whether it was
//! done. A record is kept for a day.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use plenum_store::{Guard, Range, Revision, Store, StoreError, Txn};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::api::error::CosmosError;

/// The header.
pub const HEADER: &str = "idempotency-key";
const FORMAT: u32 = 1;
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Where the records are.
const PREFIX: &str = "once/";
/// Records removed in one transaction.
const BATCH: usize = 50;
/// How often a write is tried anew that another catalog was faster with.
const TRIES: usize = 5;

/// What a request means, decided when it came first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// An app is created, where the package has one.
    Install {
        /// The app.
        app: Option<Map<String, Value>>,
        /// The answer, but for the app's id.
        answer: Value,
    },
    /// Apps are deleted and their frameworks torn down.
    Uninstall {
        /// Ids, with the framework's name where there is one.
        apps: Vec<(String, Option<String>)>,
        /// The answer.
        answer: Value,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    /// Seconds since the Unix epoch.
    at: u64,
    digest: String,
    principal: String,
    plan: Plan,
    /// Whether nothing is left to do.
    done: bool,
}

/// A request's key.
#[derive(Clone, Debug)]
pub struct Key {
    name: String,
    digest: String,
    principal: String,
}

/// A plan and the key that its calls to the service scheduler have.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The plan.
    pub plan: Plan,
    /// Whether nothing is left to do.
    pub done: bool,
    /// For the calls; each adds its number.
    pub key: String,
    record: Option<(Record, Revision)>,
}

impl Key {
    /// The key of a request to `endpoint`; none where it has none.
    pub fn of(
        endpoint: &str,
        headers: &HeaderMap,
        principal: &str,
        body: &[u8],
    ) -> Result<Option<Self>, CosmosError> {
        let mut keys = headers.get_all(HEADER).iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let key = key.as_bytes();
        let good = (1..=255).contains(&key.len()) && key.iter().all(|c| (0x20..0x7f).contains(c));
        if !good || keys.next().is_some() {
            return Err(CosmosError::bad_key());
        }
        let name = digest([principal.as_bytes(), key]);
        let digest = digest([endpoint.as_bytes(), body]);
        Ok(Some(Self { name, digest, principal: principal.to_owned() }))
    }
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The records.
#[derive(Clone, Debug)]
pub struct Plans(Arc<dyn Store>);

impl Plans {
    /// On the catalog's store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// The plan of a request: that of its first coming, else the one that `make` makes, written down. Without a key nothing is written, and
    /// a fresh key serves for the calls of this one time.
    pub async fn bind<F>(&self, key: Option<&Key>, make: F) -> Result<Bound, CosmosError>
    where
        F: AsyncFnOnce() -> Result<Plan, CosmosError>,
    {
        let Some(key) = key else {
            let key = format!("catalog-{}", uuid::Uuid::new_v4());
            return Ok(Bound { plan: make().await?, done: false, key, record: None });
        };
        let failed = |error: StoreError| CosmosError::store(&error.to_string());
        let mut make = Some(make);
        let mut made = None;
        for _ in 0..TRIES {
            let found = self.read(&key.name).await.map_err(failed)?;
            let revision = found.as_ref().map(|(_, revision)| *revision);
            if let Some((record, revision)) = found
                && seconds().saturating_sub(record.at) < KEPT.as_secs()
            {
                return if record.digest == key.digest {
                    Ok(bound(key, record, revision))
                } else {
                    Err(CosmosError::key_reused())
                };
            }
            if let Some(make) = make.take() {
                made = Some(make().await?);
            }
            let Some(plan) = made.clone() else { break };
            let (digest, principal) = (key.digest.clone(), key.principal.clone());
            let record = Record { format: FORMAT, at: seconds(), digest, principal, plan, done: false };
            match self.write(&key.name, &record, revision).await {
                Ok(revision) => return Ok(bound(key, record, revision)),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(CosmosError::store("somebody else is writing the same: try again"))
    }

    /// Nothing is left to do: repetitions are only answered. A failure costs a repetition some calls.
    pub async fn done(&self, key: Option<&Key>, bound: &Bound) {
        let (Some(key), Some((record, revision))) = (key, &bound.record) else { return };
        if !record.done {
            let record = Record { done: true, ..record.clone() };
            if let Err(error) = self.write(&key.name, &record, Some(*revision)).await {
                tracing::debug!(%error, "a plan could not be marked as done");
            }
        }
    }

    /// The plan was refused and changed nothing: a repetition is judged anew.
    pub async fn forget(&self, key: Option<&Key>, bound: &Bound) {
        let (Some(key), Some((_, revision))) = (key, &bound.record) else { return };
        let path = format!("{PREFIX}{}", key.name);
        let txn = Txn::new().guard(Guard::ModRevision(path.clone(), *revision)).delete(path);
        if let Err(error) = self.0.commit(txn).await {
            tracing::debug!(%error, "a plan that was refused could not be forgotten");
        }
    }

    /// Removes what has been kept long enough. Every catalog does; removing twice changes nothing.
    pub async fn prune(&self) -> Result<(), StoreError> {
        let mut next = Some(Range::prefix(PREFIX));
        while let Some(range) = next {
            let page = self.0.range(range.clone()).await?;
            next = page.next(&range);
            let is_old = |value: &[u8]| {
                serde_json::from_slice::<Record>(value)
                    .is_ok_and(|record| seconds().saturating_sub(record.at) >= KEPT.as_secs())
            };
            let old: Vec<_> = page.entries.iter().filter(|entry| is_old(&entry.value)).collect();
            for some in old.chunks(BATCH / 2) {
                let mut txn = Txn::new();
                for entry in some {
                    txn = txn
                        .guard(Guard::ModRevision(entry.key.clone(), entry.mod_revision))
                        .delete(&entry.key);
                }
                match self.0.commit(txn).await {
                    Ok(_) | Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn read(&self, name: &str) -> Result<Option<(Record, Revision)>, StoreError> {
        let Some(entry) = self.0.get(&format!("{PREFIX}{name}")).await? else { return Ok(None) };
        let broken = |reason: String| StoreError::Broken { reason: format!("the record of a key: {reason}") };
        let record: Record =
            serde_json::from_slice(&entry.value).map_err(|error| broken(error.to_string()))?;
        if record.format == FORMAT {
            Ok(Some((record, entry.mod_revision)))
        } else {
            Err(broken("of a newer release".to_owned()))
        }
    }

    async fn write(
        &self,
        name: &str,
        record: &Record,
        before: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        let key = format!("{PREFIX}{name}");
        let value =
            serde_json::to_vec(record).map_err(|error| StoreError::Broken { reason: error.to_string() })?;
        let guard = match before {
            Some(revision) => Guard::ModRevision(key.clone(), revision),
            None => Guard::Absent(key.clone()),
        };
        self.0.commit(Txn::new().guard(guard).put(key, value)).await
    }
}

fn bound(key: &Key, record: Record, revision: Revision) -> Bound {
    let (plan, done) = (record.plan.clone(), record.done);
    Bound { plan, done, key: format!("catalog-{}", key.name), record: Some((record, revision)) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use plenum_store::Embedded;
    use serde_json::json;

    use super::*;

    fn key(key: &str, body: &str) -> Key {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_str(key).unwrap());
        Key::of("install", &headers, "ann", body.as_bytes()).unwrap().unwrap()
    }

    fn plan(n: u64) -> Plan {
        Plan::Install { app: None, answer: json!({ "n": n }) }
    }

    #[tokio::test]
    async fn the_first_plan_of_a_key_stays_until_it_is_refused_or_old() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        // Two catalogs on one store.
        let (one, two) = (Plans::new(store.clone()), Plans::new(store.clone()));
        let (k, other) = (key("k", "a"), key("k", "b"));
        let first = one.bind(Some(&k), async || Ok(plan(1))).await.unwrap();
        let again = two.bind(Some(&k), async || Ok(plan(2))).await.unwrap();
        assert_eq!((&again.plan, &again.key, again.done), (&plan(1), &first.key, false));
        let reused = two.bind(Some(&other), async || Ok(plan(3))).await.unwrap_err();
        assert_eq!((reused.status, reused.kind), (422, "IdempotencyKeyReused"));
        one.forget(Some(&k), &first).await;
        let anew = two.bind(Some(&other), async || Ok(plan(3))).await.unwrap();
        assert_eq!(anew.plan, plan(3), "what was refused binds nobody");
        two.done(Some(&other), &anew).await;
        assert!(one.bind(Some(&other), async || Ok(plan(4))).await.unwrap().done);
        one.prune().await.unwrap();
        assert!(one.bind(Some(&other), async || Ok(plan(4))).await.unwrap().done, "it is not old");
        let record = Record {
            format: 1,
            at: 1000,
            digest: k.digest.clone(),
            principal: "ann".to_owned(),
            plan: plan(5),
            done: true,
        };
        store.commit(Txn::new().put("once/old", serde_json::to_vec(&record).unwrap())).await.unwrap();
        one.prune().await.unwrap();
        assert_eq!(store.range(Range::prefix(PREFIX)).await.unwrap().entries.len(), 1);
    }

    #[tokio::test]
    async fn without_a_key_nothing_is_written_and_bad_keys_are_refused() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        let plans = Plans::new(store.clone());
        let bound = plans.bind(None, async || Ok(plan(1))).await.unwrap();
        plans.done(None, &bound).await;
        assert!(store.range(Range::prefix("")).await.unwrap().entries.is_empty());
        for bad in ["", "\u{e9}", &"x".repeat(256)] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_bytes(bad.as_bytes()).unwrap());
            assert_eq!(Key::of("install", &headers, "ann", b"").unwrap_err().status, 400, "{bad}");
        }
    }
}
