//! Intents that are larger than a transaction of the store. Their definitions are written first, which changes nothing; then one record
//! that holds all the rest: with it the intent counts, whole. Then the rest is written where it belongs, and the record goes. Whoever loads
//! the store and finds such a record goes on from there.

use serde::{Deserialize, Serialize};

use super::records::{self, Unreadable};
use super::{Core, Effect, Write};

/// A transaction of the store takes 100 operations; places are left for the leader's guard and for a request's outcome.
pub(super) const MOST: usize = 90;
/// Where the records are.
pub(super) const PREFIX: &str = "batches/";

/// What is to be written, as keys and values; no value: the key goes.
#[derive(Serialize, Deserialize)]
struct Batch {
    f: u32,
    writes: Vec<(String, Option<String>)>,
}

/// Whether this commit is the one that makes an intent count.
pub(super) fn decides(writes: &[Write]) -> bool {
    writes.iter().any(|write| matches!(write, Write::Put(key, _) if key.starts_with(PREFIX)))
}

impl Core {
    /// Commits an intent, named by the moment of it.
    pub(super) fn commit_intent(&mut self, name: &str, writes: Vec<Write>) {
        if writes.len() <= MOST {
            return self.commit(writes);
        }
        let is_new = |write: &Write| matches!(write, Write::Put(key, _) if key.starts_with("versions/"));
        let (definitions, rest): (Vec<_>, Vec<_>) = writes.into_iter().partition(is_new);
        self.commit(definitions);
        if rest.len() <= MOST {
            return self.commit(rest);
        }
        let key = format!("{PREFIX}{name}");
        let all = rest.iter().map(|write| match write {
            // Records are JSON, which is text.
            Write::Put(key, value) => (key.clone(), Some(String::from_utf8_lossy(value).into_owned())),
            Write::Delete(key) => (key.clone(), None),
        });
        let batch = Batch { f: records::FORMAT, writes: all.collect() };
        self.out.push(Effect::Commit(vec![records::put(key.clone(), &batch)]));
        self.commit(rest.into_iter().chain([Write::Delete(key)]).collect());
    }
}

/// What a store holds.
type Entries = Vec<(String, Vec<u8>)>;

/// What the store would hold if every batch in it had been carried out, and the writes that make it so.
pub(super) fn carried_out(
    entries: &[(String, Vec<u8>)],
) -> Result<Option<(Entries, Vec<Write>)>, Unreadable> {
    let batches: Vec<_> = entries.iter().filter(|(key, _)| key.starts_with(PREFIX)).collect();
    if batches.is_empty() {
        return Ok(None);
    }
    let mut all: std::collections::BTreeMap<String, Vec<u8>> = entries.iter().cloned().collect();
    let mut writes = Vec::new();
    for (key, value) in batches {
        let batch: Batch = records::read(key, value)?;
        for (key, value) in batch.writes {
            writes.push(match value {
                Some(value) => {
                    let value = value.into_bytes();
                    all.insert(key.clone(), value.clone());
                    Write::Put(key, value)
                }
                None => {
                    all.remove(&key);
                    Write::Delete(key)
                }
            });
        }
        all.remove(key);
        writes.push(Write::Delete(key.clone()));
    }
    Ok(Some((all.into_iter().collect(), writes)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use plenum_api::ids::SeededIds;
    use plenum_api::{Millis, Now};
    use serde_json::{Value, json};

    use super::super::group_requests::GroupChange;
    use super::super::id::PathId;
    use super::super::once::{OUTCOMES, Once};
    use super::super::requests::{Kind, Request};
    use super::super::{Event, Settings};
    use super::*;

    type Store = BTreeMap<String, Vec<u8>>;

    const NOW: Now = Now::new(Millis(1000), Millis(1_700_000_000_000));

    fn put(store: &mut Store, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Put(key, value) => drop(store.insert(key.clone(), value.clone())),
                Write::Delete(key) => drop(store.remove(key)),
            }
        }
    }

    fn load(store: &Store) -> Core {
        // Outcomes are not read at the start.
        let entries = store.iter().filter(|(key, _)| !key.starts_with("once"));
        let entries: Vec<_> = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
        Core::load(Settings::default(), &entries, NOW).unwrap()
    }

    fn commits(core: &mut Core, event: Event) -> Vec<Vec<Write>> {
        let effects = core.handle(event, NOW, &mut SeededIds::new(1));
        let commits = effects.into_iter().filter_map(|effect| match effect {
            Effect::Commit(writes) => Some(writes),
            _ => None,
        });
        commits.collect()
    }

    fn change(apps: usize) -> Event {
        let apps: Vec<Value> =
            (0..apps).map(|n| json!({"id": format!("a{n}"), "cmd": "x", "portDefinitions": []})).collect();
        let Value::Object(body) = json!({"apps": apps}) else { panic!() };
        let once = Once { name: "k".to_owned(), digest: "d".to_owned(), principal: "ann".to_owned() };
        let kind = Kind::Group(GroupChange::Update(PathId::parse("/g").unwrap(), body));
        let (uri, client) = (String::new(), String::new());
        Event::Request(Box::new(Request { token: 1, kind, force: true, uri, client, once: Some(once) }))
    }

    /// Wherever it breaks off, all of it counts or nothing; and what counts is finished by the next machine.
    #[test]
    fn a_large_intent_is_there_whole_or_not_at_all() {
        let mut core = Core::new(Settings::default());
        let mut store = Store::new();
        let mut seen = Vec::new();
        for (before, after) in [(0, 300), (300, 0)] {
            let all = commits(&mut core, change(after));
            assert!(all.len() > 5 && all.iter().all(|writes| writes.len() < 100), "{}", all.len());
            for writes in all {
                put(&mut store, &writes);
                let mut next = load(&store);
                let count = next.state().entries().count();
                assert!(count == before || count == after, "{count}");
                let outcome = store.keys().any(|key| key.starts_with(OUTCOMES));
                assert_eq!(outcome, after == 0 || count == after, "the outcome counts with the intent");
                seen.push(store.keys().any(|key| key.starts_with(PREFIX)));
                let mut rest = store.clone();
                commits(&mut next, Event::Tick).iter().for_each(|writes| put(&mut rest, writes));
                assert!(!rest.keys().any(|key| key.starts_with(PREFIX)), "it is finished");
                assert_eq!(load(&rest).state().entries().count(), count);
            }
        }
        assert!(seen.contains(&true) && seen.contains(&false));
        assert_eq!(core.state().entries().count(), 0);
    }
}
