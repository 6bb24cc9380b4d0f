//! Ten thousand power failures. Clients commit to a store on a disk that records every step; then, for points
//! chosen by a seed, the disk is put back to what it may have held there, the store is opened on it, and what is
//! found is held against what was acknowledged and what was asked for.
//!
//! To have one failure again: `PLENUM_STORE_CRASH_SEED=<seed> cargo test -p plenum-store crash`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use plenum_store::{Change, Embedded, Options, Revision, Store, Txn, WatchEvent};
use tokio::runtime::Runtime;

use crate::contract::list;
use crate::disk::{Chance, Recorder, Step, after_power_failure};

const WORKLOADS: u64 = 200;
const POINTS: u64 = 50;
const CLIENTS: u64 = 4;
const EACH: u64 = 6;
const KEYS: usize = 12;

/// A transaction that was acknowledged: its revision, and the disk's position when its client knew.
struct Acknowledged {
    revision: u64,
    at: usize,
    id: u64,
}

/// What was done to a disk and what was promised meanwhile.
struct Run {
    before: Vec<u8>,
    steps: Vec<Step>,
    acknowledged: Vec<Acknowledged>,
    /// The position from which on there is a store at all.
    opened_at: usize,
}

/// How wrong the world is.
#[derive(Clone, Copy, PartialEq)]
enum World {
    Sound,
    /// The disk says it has synced before it has.
    LyingDisk,
    /// Clients are told before anything is synced.
    EarlyAck,
}

fn options() -> Options {
    // Little history, so that its removal is among what crashes.
    Options { history_changes: 20, cache_bytes: 1024 * 1024, ..Options::default() }
}

/// Writes one value under two to four keys: all show the same id, or none does. A counter shows the order.
fn transaction(id: u64, chance: &mut Chance) -> Txn {
    let first = chance.below(KEYS);
    let size = [8, 100, 3000][chance.below(3)];
    let mut value = id.to_be_bytes().to_vec();
    value.resize(8 + size, u8::try_from(id % 251).unwrap());
    let mut txn = Txn::new().put(format!("id/{id}"), value.clone());
    for i in 0..=chance.below(3) {
        let key = format!("k/{}", (first + i) % KEYS);
        txn = if chance.below(5) == 0 { txn.delete(key) } else { txn.put(key, value.clone()) };
    }
    txn
}

async fn work(seed: u64, world: World) -> Run {
    let disk = Recorder::with_database();
    let before = disk.bytes();
    let store = Embedded::open_on(Arc::new(disk.clone()), options()).await.unwrap();
    let opened_at = disk.position();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (store, disk) = (store.clone(), disk.clone());
        let mut chance = Chance(seed.wrapping_mul(31).wrapping_add(client));
        clients.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..EACH {
                let id = client * 100 + n;
                let txn = transaction(id, &mut chance);
                let early = disk.position();
                let revision = store.commit(txn).await.unwrap().0;
                let at = if world == World::EarlyAck { early } else { disk.position() };
                acknowledged.push(Acknowledged { revision, at, id });
            }
            acknowledged
        });
    }
    let mut acknowledged = Vec::new();
    while let Some(client) = clients.join_next().await {
        acknowledged.extend(client.unwrap());
    }
    acknowledged.sort_by_key(|one| one.revision);
    store.close().await.unwrap();
    Run { before, steps: disk.steps(), acknowledged, opened_at }
}

/// Everything the history tells, from as far back as it goes.
async fn history(store: &Embedded, last: Revision) -> Result<Vec<(u64, Vec<Change>)>, String> {
    let mut found = Vec::new();
    let mut from = Revision(0);
    'again: loop {
        let mut watch = store.watch("", from).await.unwrap();
        while found.last().map_or(from.0, |(revision, _)| *revision) < last.0 {
            match watch.next().await.map_err(|e| format!("watching: {e}"))? {
                WatchEvent::Changes { revision, changes } => found.push((revision.0, changes)),
                WatchEvent::Compacted { oldest } => {
                    from = oldest;
                    continue 'again;
                }
            }
        }
        return Ok(found);
    }
}

/// Opens the store on what a crash left and holds it against what was promised.
async fn check(disk: Vec<u8>, run: &Run, position: usize) -> Result<(), String> {
    let medium = Recorder::with(disk);
    let store =
        Embedded::open_on(Arc::new(medium), options()).await.map_err(|e| format!("it does not open: {e}"))?;
    let verdict = examine(&store, run, position).await;
    store.close().await.map_err(|e| format!("closing: {e}"))?;
    verdict
}

async fn examine(store: &Embedded, run: &Run, position: usize) -> Result<(), String> {
    let page = store.range(plenum_store::Range::default()).await.map_err(|e| format!("listing: {e}"))?;
    let promised = run.acknowledged.iter().filter(|one| one.at <= position).map(|one| one.revision).max();
    let have = page.revision.0;
    if let Some(promised) = promised.filter(|promised| *promised > have) {
        return Err(format!("revision {promised} was acknowledged, the store is at {have}"));
    }
    let entries = list(store, "", 0).await;
    let state: BTreeMap<_, _> = entries.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    // Whole transactions: those up to the store's revision, all of each, and no other.
    for one in &run.acknowledged {
        let there = state.get(format!("id/{}", one.id).as_str()).map(|entry| entry.mod_revision.0);
        let expected = (one.revision <= have).then_some(one.revision);
        if there != expected {
            return Err(format!("transaction {}: found at {there:?}, expected {expected:?}", one.id));
        }
    }
    for entry in &entries {
        let written_by = u64::from_be_bytes(entry.value[..8].try_into().unwrap());
        let marker = state.get(format!("id/{written_by}").as_str()).map(|entry| entry.mod_revision);
        if marker != Some(entry.mod_revision) {
            return Err(format!("{} is of a transaction that is not there as a whole", entry.key));
        }
        let filling = u8::try_from(written_by % 251).unwrap();
        if !entry.value[8..].iter().all(|byte| *byte == filling) {
            return Err(format!("{} is damaged", entry.key));
        }
    }
    let history = history(store, page.revision).await?;
    agree(&history, &state, have)?;
    let next = store.commit(Txn::new().put("next", 0_u64.to_be_bytes().to_vec())).await;
    match next {
        Ok(revision) if revision.0 == have + 1 => Ok(()),
        other => Err(format!("the next transaction came to {other:?} after {have}")),
    }
}

/// The history has no gap, and what it last says of each key is what the key holds.
fn agree(
    history: &[(u64, Vec<Change>)],
    state: &BTreeMap<&str, &plenum_store::Entry>,
    have: u64,
) -> Result<(), String> {
    if have > 0 && history.last().map(|(revision, _)| *revision) != Some(have) {
        return Err("the history does not end with the newest revision".to_owned());
    }
    if let Some(gap) = history.windows(2).find(|pair| pair[0].0 + 1 != pair[1].0) {
        return Err(format!("the history goes from {} to {}", gap[0].0, gap[1].0));
    }
    let mut last = BTreeMap::new();
    for change in history.iter().flat_map(|(_, changes)| changes) {
        last.insert(change.key(), change);
    }
    for (key, change) in last {
        let agrees = match (change, state.get(key)) {
            (Change::Put(entry), Some(found)) => entry == *found,
            (Change::Delete { .. }, None) => true,
            _ => false,
        };
        if !agrees {
            return Err(format!("the history and the entry of {key} differ"));
        }
    }
    Ok(())
}

/// One workload and its crashes; the first failure, with its seed.
fn workload(runtime: &Runtime, seed: u64, points: u64, world: World) -> Result<(), String> {
    let run = runtime.block_on(work(seed, world));
    for point in 0..points {
        let mut chance = Chance(seed.wrapping_mul(1_000_003).wrapping_add(point));
        // From before there is a store until after everything; mostly in the middle of it.
        let from = if chance.below(10) == 0 { 0 } else { run.opened_at };
        let position = from + chance.below(run.steps.len() + 1 - from);
        let honest = world != World::LyingDisk;
        let left = after_power_failure(&run.before, &run.steps, position, honest, &mut chance);
        runtime
            .block_on(check(left, &run, position))
            .map_err(|e| format!("seed {seed}, point {point}, after {position} steps: {e}"))?;
    }
    Ok(())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn first_seed() -> Option<u64> {
    std::env::var("PLENUM_STORE_CRASH_SEED").ok().map(|seed| seed.parse().expect("a number"))
}

/// Runs workloads on two threads.
fn all(seeds: std::ops::Range<u64>) {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for half in 0..2 {
            let seeds = seeds.clone();
            scope.spawn(move || {
                let runtime = runtime();
                for seed in seeds.filter(|seed| seed % 2 == half) {
                    if let Err(failure) = workload(&runtime, seed, POINTS, World::Sound) {
                        panic!("{failure}; again with PLENUM_STORE_CRASH_SEED={seed}");
                    }
                }
            });
        }
    });
    println!("{} power failures in {:?}", (seeds.end - seeds.start) * POINTS, begun.elapsed());
}

#[test]
fn ten_thousand_power_failures_lose_nothing() {
    match first_seed() {
        Some(seed) => all(seed..seed + 1),
        None => all(0..WORKLOADS),
    }
}

/// What the test above would say if the store were wrong.
#[test]
fn a_broken_world_is_caught() {
    let runtime = runtime();
    for (name, world) in [("a lying disk", World::LyingDisk), ("acknowledging early", World::EarlyAck)] {
        let caught = (0..20).filter_map(|seed| workload(&runtime, seed, POINTS, world).err()).count();
        assert!(caught >= 15, "{name} was caught in {caught} of 20 workloads only");
    }
}

/// Power fails again while the store is being opened after a failure, and once more.
#[test]
fn failures_while_recovering_lose_nothing() {
    let runtime = runtime();
    for seed in 0..60 {
        let run = runtime.block_on(work(seed, World::Sound));
        let mut chance = Chance(seed ^ 0xdead);
        let position = run.opened_at + chance.below(run.steps.len() + 1 - run.opened_at);
        let mut left = after_power_failure(&run.before, &run.steps, position, true, &mut chance);
        for round in 0..3 {
            let recovering = Recorder::with(left.clone());
            runtime.block_on(async {
                let opened = Embedded::open_on(Arc::new(recovering.clone()), options()).await;
                opened.unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}")).close().await.unwrap();
            });
            let steps = recovering.steps();
            let until = chance.below(steps.len() + 1);
            left = after_power_failure(&left, &steps, until, true, &mut chance);
        }
        if let Err(failure) = runtime.block_on(check(left, &run, position)) {
            panic!("seed {seed}, after {position} steps and three crashes while opening: {failure}");
        }
    }
}
