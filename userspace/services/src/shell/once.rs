//! Requests that may be repeated: one of the same key at a time; what was carried out before is answered from the store. Outcomes are
//! pruned when they have been kept long enough.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plenum_api::Now;
use plenum_base::clock::OsClock;
use plenum_store::{Range, Store, StoreError};
use tokio::sync::OwnedMutexGuard;

use super::persist;
use super::room::Room;
use crate::core::Write;
use crate::core::error::ApiError;
use crate::core::once::{KEPT, Once, Outcome, TIMES, time_of};
use crate::core::requests::Reply;

/// Outcomes removed in one transaction; two entries each.
const BATCH: usize = 40;
/// Between looks at what has been kept long enough.
const EVERY: Duration = Duration::from_secs(300);
/// After a batch that may not have been the last.
const SOON: Duration = Duration::from_millis(500);
/// How long a repetition waits for the first.
const PATIENCE: Duration = Duration::from_secs(20);

type Turns = Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// Who is at work under which key. Clones know the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Turns);

/// The right to carry a request of a key out; others of the key wait.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    name: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that wait hold it, too.
        if turns.get(&self.name).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.name);
        }
    }
}

impl Keys {
    /// Waits until nobody else is at work under this key.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] when that takes too long.
    pub(super) async fn turn(&self, once: &Once) -> Result<Turn, ApiError> {
        let one = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(once.name.clone()).or_default())
        };
        let mut turn = Turn { turns: Arc::clone(&self.0), name: once.name.clone(), guard: None };
        let busy = "a request with this idempotency key is still being carried out: ask again in a moment";
        let waited = tokio::time::timeout(PATIENCE, one.lock_owned()).await;
        turn.guard = Some(waited.map_err(|_| ApiError::Conflict(busy.to_owned()))?);
        Ok(turn)
    }
}

/// What came of the request before; none if it was not carried out.
///
/// # Errors
/// [`ApiError::KeyReused`] when another request had the key; [`ApiError::Unavailable`] when the store cannot say.
pub(super) async fn before(store: &dyn Store, once: &Once, now: Now) -> Result<Option<Reply>, ApiError> {
    let unknown = |reason: String| {
        ApiError::Unavailable(format!(
            "whether this was carried out before cannot be found out ({reason}): try again"
        ))
    };
    let entry = store.get(&once.key()).await.map_err(|error| unknown(error.to_string()))?;
    let Some(entry) = entry else { return Ok(None) };
    let outcome = Outcome::read(&entry.value).map_err(unknown)?;
    if !outcome.counts(now.wall) {
        return Ok(None);
    }
    if outcome.digest == once.digest { Ok(Some(outcome.reply())) } else { Err(ApiError::KeyReused) }
}

/// Prunes until dropped. Failures cost nothing: what stays is looked at again.
pub(super) async fn prune(room: Room, store: Arc<dyn Store>) {
    loop {
        let pause = match prune_some(&room, store.as_ref(), OsClock.now()).await {
            Ok(BATCH) => SOON,
            Ok(_) => EVERY,
            Err(error) => {
                tracing::debug!(%error, "outcomes that are old could not be pruned");
                EVERY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Removes a batch of outcomes that have been kept long enough; says how many.
pub(super) async fn prune_some(room: &Room, store: &dyn Store, now: Now) -> Result<usize, StoreError> {
    let page = store.range(Range { limit: BATCH, ..Range::prefix(TIMES) }).await?;
    let mut writes = Vec::new();
    let mut count = 0;
    for entry in &page.entries {
        let Some((at, name)) = time_of(&entry.key) else { continue };
        if now.wall.since(at) < KEPT {
            break;
        }
        count += 1;
        writes.push(Write::Delete(entry.key.clone()));
        let key = format!("{}{name}", crate::core::once::OUTCOMES);
        let outcome = store.get(&key).await?;
        // The key may have been used again since.
        let is_this = |value: &[u8]| Outcome::read(value).is_ok_and(|outcome| outcome.at == at);
        if outcome.is_some_and(|outcome| is_this(&outcome.value)) {
            writes.push(Write::Delete(key));
        }
    }
    if !writes.is_empty() {
        persist::commit(room, vec![writes], false).await?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use plenum_api::Millis;
    use plenum_store::Embedded;

    use super::*;
    use crate::core::once::{OUTCOMES, time_key};
    use crate::shell::Lead;

    fn once(name: &str) -> Once {
        Once { name: name.to_owned(), digest: "d".to_owned(), principal: "ann".to_owned() }
    }

    fn outcome(name: &str, at: u64) -> Vec<Write> {
        let value = format!(r#"{{"f":1,"at":{at},"digest":"d","principal":"ann","status":200}}"#);
        vec![
            Write::Put(once(name).key(), value.into_bytes()),
            Write::Put(time_key(Millis(at), name), Vec::new()),
        ]
    }

    #[tokio::test]
    async fn outcomes_are_found_and_pruned_in_batches() {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        let room = Room::new(store.clone(), Lead::alone());
        let old: Vec<Vec<Write>> = (0..100).map(|n| outcome(&format!("old{n:03}"), 1000 + n)).collect();
        persist::commit(&room, old, false).await.unwrap();
        // Used again a day later: the time of the first use must not remove the second.
        let day = KEPT.0;
        persist::commit(&room, vec![outcome("old000", 1500 + day), outcome("new", 2000 + day)], false)
            .await
            .unwrap();
        let now = Now::new(Millis(1), Millis(2000 + day));
        let mut counts = Vec::new();
        while counts.last() != Some(&0) {
            counts.push(prune_some(&room, store.as_ref(), now).await.unwrap());
        }
        assert_eq!(counts, [40, 40, 20, 0]);
        assert_eq!(store.range(Range::prefix(OUTCOMES)).await.unwrap().entries.len(), 2);
        assert_eq!(store.range(Range::prefix(TIMES)).await.unwrap().entries.len(), 2);
        let reply = before(store.as_ref(), &once("new"), now).await.unwrap();
        assert_eq!(reply.map(|reply| reply.status), Some(200));
        let another = Once { digest: "e".to_owned(), ..once("new") };
        assert_eq!(before(store.as_ref(), &another, now).await, Err(ApiError::KeyReused));
        let later = Now::new(Millis(1), Millis(2000 + 2 * day));
        assert_eq!(before(store.as_ref(), &another, later).await, Ok(None), "after its time a key is free");
        assert_eq!(before(store.as_ref(), &once("none"), now).await, Ok(None));
    }

    #[tokio::test]
    async fn one_of_a_key_at_a_time() {
        let keys = Keys::default();
        let first = keys.turn(&once("a")).await.unwrap();
        let other = keys.turn(&once("b")).await.unwrap();
        let waiting = {
            let keys = keys.clone();
            tokio::spawn(async move { keys.turn(&once("a")).await.map(|_| ()) })
        };
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap().unwrap();
        drop(other);
        assert!(keys.0.lock().unwrap().is_empty(), "nothing is kept of keys that nobody uses");
    }
}
