//! The embedded store: files, failing disks, leases by a clock, history.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plenum_store::{Clock, Embedded, MemoryMedium, Options, Revision, Store, StoreError, Txn, WatchEvent};

use crate::contract::{self, PATIENCE, Shared, cases, next, within};
use crate::disk::Moody;

macro_rules! contract {
    ($($case:ident),*) => {
        mod contract_on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::contract::$case(super::fresh().await).await;
            })*
        }
    };
}
cases!(contract);

async fn fresh() -> Shared {
    Arc::new(Embedded::open_in_memory().await.unwrap())
}

async fn on(disk: &Moody, options: Options) -> Embedded {
    Embedded::open_on(Arc::new(disk.clone()), options).await.unwrap()
}

async fn put(store: &Embedded, key: &str, bytes: usize) -> Result<Revision, StoreError> {
    store.commit(Txn::new().put(key, vec![7; bytes])).await
}

/// Tries until it works: for what a store does by itself after a while.
async fn eventually(store: &Embedded, key: &str) -> Revision {
    let until = Instant::now() + PATIENCE;
    loop {
        match put(store, key, 10).await {
            Ok(revision) => return revision,
            Err(e) => assert!(e.is_retryable() && Instant::now() < until, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[derive(Debug, Default)]
struct ByHand(AtomicU64);

impl Clock for ByHand {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

impl ByHand {
    fn advance(&self, store: &Embedded, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
        store.wake();
    }
}

#[tokio::test]
async fn a_file_keeps_everything_and_belongs_to_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/store.redb");
    let store = Embedded::open(&path, Options::default()).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let first = put(&store, "k", 5).await.unwrap();
    let second = put(&store, "k", 6).await.unwrap();

    let error = Embedded::open(&path, Options::default()).await.unwrap_err();
    assert!(error.code() == "in_use" && error.to_string().contains("store.redb"), "{error}");

    let mut watch = store.watch("", second).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(watch.next().await.unwrap_err().code(), "unavailable");
    assert_eq!(put(&store, "k", 7).await.unwrap_err().code(), "unavailable");
    assert_eq!(store.get("k").await.unwrap_err().code(), "unavailable");
    assert_eq!(store.watch("", second).await.unwrap_err().code(), "unavailable");

    let store = Embedded::open(&path, Options::default()).await.unwrap();
    let entry = store.get("k").await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision, entry.value.len()), (first, second, 6));
    let mut watch = store.watch("", first).await.unwrap();
    match watch.next().await.unwrap() {
        WatchEvent::Changes { revision, .. } => assert_eq!(revision, second),
        other => panic!("{other:?}"),
    }
    assert!(put(&store, "k", 7).await.unwrap() > second);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_file_of_something_else_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    std::fs::write(&path, vec![b'x'; 100_000]).unwrap();
    let error = Embedded::open(&path, Options::default()).await.unwrap_err();
    assert_eq!(error.code(), "broken", "{error}");
    let error = Embedded::open(dir.path(), Options::default()).await.unwrap_err();
    assert_eq!(error.code(), "unavailable", "a folder: {error}");
}

#[tokio::test]
async fn a_file_that_was_never_finished_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    std::fs::write(dir.path().join("store.redb.new"), vec![0; 5000]).unwrap();
    let store = Embedded::open(&path, Options::default()).await.unwrap();
    put(&store, "k", 1).await.unwrap();
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"]);
    // Many at once: one makes it and has it, the others are told.
    let path = dir.path().join("other.redb");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let path = path.clone();
        tasks.spawn(async move { Embedded::open(path, Options::default()).await });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|e| e.code() == "in_use"));
}

#[tokio::test]
async fn many_share_a_sync() {
    let disk = Moody::default();
    let store = on(&disk, Options::default()).await;
    put(&store, "warm", 1).await.unwrap();
    let before = disk.syncs();
    disk.hang(true);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..100 {
        let store = store.clone();
        tasks.spawn(async move { put(&store, &format!("k/{i}"), 10).await });
    }
    // All but the first few are in the queue by the time anything is let through.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    disk.hang(false);
    let mut revisions = Vec::new();
    while let Some(done) = within("committing", tasks.join_next()).await {
        revisions.push(done.unwrap().unwrap());
    }
    revisions.sort();
    revisions.dedup();
    assert_eq!(revisions.len(), 100, "a revision each");
    let syncs = disk.syncs() - before;
    assert!(syncs <= 10, "{syncs} syncs for 100 transactions");
}

#[tokio::test]
async fn one_alone_costs_one_sync() {
    let disk = Moody::default();
    let store = on(&disk, Options::default()).await;
    for i in 0..50 {
        put(&store, &format!("warm/{i}"), 500).await.unwrap();
    }
    let (before, size) = (disk.syncs(), disk.len());
    for i in 0..50 {
        put(&store, &format!("warm/{i}"), 500).await.unwrap();
    }
    // Nothing is synced that changes nothing, and reading syncs nothing.
    store.commit(Txn::new().exists("warm/1")).await.unwrap();
    store.commit(Txn::new().absent("warm/1")).await.unwrap_err();
    store.get("warm/1").await.unwrap();
    // Growing the file costs one more.
    let growths = u64::from(disk.len() > size) * 2;
    let syncs = disk.syncs() - before;
    assert!((50..=50 + growths).contains(&syncs), "{syncs} syncs for 50 transactions");
}

#[tokio::test]
async fn one_conflict_in_a_batch_fails_alone() {
    let disk = Moody::default();
    let store = on(&disk, Options::default()).await;
    disk.hang(true);
    let mut tasks = Vec::new();
    for i in 0..20 {
        // Each even one can win its key; each odd one comes second in the same batch.
        let txn = Txn::new().absent(format!("k/{}", i / 2)).put(format!("k/{}", i / 2), i.to_string());
        let store = store.clone();
        tasks.push(tokio::spawn(async move { store.commit(txn).await }));
        tokio::task::yield_now().await;
    }
    disk.hang(false);
    let mut won = 0;
    for task in tasks {
        match within("a batch", task).await.unwrap() {
            Ok(_) => won += 1,
            Err(e) => assert_eq!(e.code(), "conflict"),
        }
    }
    assert_eq!(won, 10);
}

#[tokio::test]
async fn a_full_disk_is_full_until_there_is_room() {
    let disk = Moody::default();
    let store = on(&disk, Options::default()).await;
    put(&store, "small", 10).await.unwrap();
    let mut watch = store.watch("after", Revision(0)).await.unwrap();
    disk.set_room(disk.len());
    let mut count = 0;
    let error = loop {
        match put(&store, &format!("fill/{count}"), 100_000).await {
            Ok(_) => count += 1,
            Err(e) => break e,
        }
        assert!(count < 1000, "the disk does not fill");
    };
    assert!(error.code() == "full" && !error.maybe_applied(), "{error}");
    assert!(store.get(&format!("fill/{count}")).await.unwrap().is_none());
    assert_eq!(store.get("small").await.unwrap().unwrap().value.len(), 10, "reading goes on");
    let again = put(&store, "more", 100_000).await.unwrap_err();
    assert_eq!(again.code(), "full", "{again}");
    disk.set_room(0);
    let revision = eventually(&store, "after").await;
    assert_eq!(store.get("after").await.unwrap().unwrap().mod_revision, revision);
    match within("the watch", watch.next()).await.unwrap() {
        WatchEvent::Changes { revision: seen, .. } => assert_eq!(seen, revision),
        other => panic!("{other:?}"),
    }
    assert!(disk.faults("full") > 0);
}

#[tokio::test]
async fn a_full_disk_takes_deletions() {
    let disk = Moody::default();
    let store = on(&disk, Options { history_bytes: 1, ..Options::default() }).await;
    for i in 0..10 {
        put(&store, &format!("fill/{i}"), 100_000).await.unwrap();
    }
    disk.set_room(disk.len());
    let until = Instant::now() + PATIENCE;
    for i in 0..10 {
        while let Err(e) = store.commit(Txn::new().delete(format!("fill/{i}"))).await {
            assert!(e.is_retryable() && Instant::now() < until, "{e}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // What was freed is used again, with no more room than before.
    for i in 0..3 {
        while let Err(e) = put(&store, &format!("again/{i}"), 100_000).await {
            assert!(e.is_retryable() && Instant::now() < until, "{e}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn failing_writes_and_syncs_pass() {
    type Switch = fn(&Moody, bool);
    let cases: [(&str, Switch); 2] = [("write", Moody::fail_writes), ("sync", Moody::fail_syncs)];
    for (what, fail) in cases {
        let disk = Moody::default();
        let store = on(&disk, Options::default()).await;
        let acknowledged = put(&store, "before", 10).await.unwrap();
        let opened = disk.opened();
        fail(&disk, true);
        for i in 0..5 {
            let error = put(&store, &format!("during/{i}"), 10).await.unwrap_err();
            assert_eq!(error.code(), "unavailable", "{what}: {error}");
        }
        assert!(disk.faults(what) > 0);
        fail(&disk, false);
        let after = eventually(&store, "after").await;
        assert!(after > acknowledged);
        assert_eq!(store.get("before").await.unwrap().unwrap().mod_revision, acknowledged, "{what}");
        assert!(disk.opened() > opened, "{what}: it was opened again");
        store.close().await.unwrap();
        let store = on(&disk, Options::default()).await;
        assert_eq!(store.get("after").await.unwrap().unwrap().mod_revision, after, "{what}");
    }
}

#[tokio::test]
async fn failing_reads_pass() {
    let disk = Moody::default();
    // Hardly any cache, so that reading reaches the disk.
    let store = on(&disk, Options { cache_bytes: 0, ..Options::default() }).await;
    for i in 0..50 {
        put(&store, &format!("k/{i}"), 5000).await.unwrap();
    }
    disk.fail_reads(true);
    let error = store.range(plenum_store::Range::prefix("k/")).await.unwrap_err();
    assert_eq!(error.code(), "unavailable", "{error}");
    disk.fail_reads(false);
    let until = Instant::now() + PATIENCE;
    loop {
        match store.range(plenum_store::Range::prefix("k/")).await {
            Ok(page) => break assert_eq!(page.entries.len(), 50),
            Err(e) => assert!(e.is_retryable() && Instant::now() < until, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_hung_disk_costs_no_more_than_the_deadline() {
    let disk = Moody::default();
    let store = on(&disk, Options { deadline: Duration::from_millis(200), ..Options::default() }).await;
    put(&store, "before", 10).await.unwrap();
    disk.hang(true);
    let asked = Instant::now();
    for i in 0..3 {
        let error = put(&store, &format!("during/{i}"), 10).await.unwrap_err();
        assert!(error.code() == "unavailable" && error.maybe_applied(), "{error}");
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "took {:?}", asked.elapsed());
    assert!(store.get("before").await.unwrap().is_some(), "reading goes on");
    assert_eq!(store.close().await.unwrap_err().code(), "unavailable");
    disk.hang(false);
    // What nobody waits for any more is not carried out late: only the first was under way.
    let reopened = tokio::time::timeout(PATIENCE, async {
        while store.get("before").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        on(&disk, Options::default()).await
    });
    let reopened = reopened.await.unwrap();
    let keys: Vec<_> =
        contract::list(&reopened, "during/", 0).await.into_iter().map(|entry| entry.key).collect();
    assert!(keys.is_empty() || keys == ["during/0"], "{keys:?}");
}

#[tokio::test]
async fn scribbled_over_is_broken() {
    let disk = Moody::default();
    let store = on(&disk, Options::default()).await;
    put(&store, "k", 10).await.unwrap();
    store.close().await.unwrap();
    disk.scribble(0);
    let error = Embedded::open_on(Arc::new(disk), Options::default()).await.unwrap_err();
    assert_eq!(error.code(), "broken", "{error}");
}

#[tokio::test]
async fn leases_go_by_the_clock_and_start_anew_when_opened() {
    let medium = MemoryMedium::default();
    let clock = Arc::new(ByHand::default());
    let options = Options { clock: clock.clone(), ..Options::default() };
    let store = Embedded::open_on(Arc::new(medium.clone()), options.clone()).await.unwrap();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    let gone = store.grant(Duration::from_secs(5)).await.unwrap();
    let txn = Txn::new().put_leased("a", "", lease).put_leased("b", "", gone);
    let at = store.commit(txn).await.unwrap();
    let mut watch = store.watch("", at).await.unwrap();
    clock.advance(&store, Duration::from_millis(4999));
    assert_eq!(store.keep_alive(lease).await.unwrap(), Duration::from_secs(10));
    clock.advance(&store, Duration::from_millis(1));
    assert_eq!(next(&mut watch).await.1, ["-b"]);
    clock.advance(&store, Duration::from_secs(9));
    store.commit(Txn::new()).await.unwrap();
    assert!(store.get("a").await.unwrap().is_some(), "9 s after it was kept alive");
    store.close().await.unwrap();
    drop(watch);

    let store = Embedded::open_on(Arc::new(medium), options).await.unwrap();
    let at = store.commit(Txn::new().put("c", "")).await.unwrap();
    let mut watch = store.watch("", at).await.unwrap();
    clock.advance(&store, Duration::from_millis(9_999));
    store.commit(Txn::new()).await.unwrap();
    assert!(store.get("a").await.unwrap().is_some(), "its whole time again");
    clock.advance(&store, Duration::from_millis(1));
    assert_eq!(next(&mut watch).await.1, ["-a"]);
    assert_eq!(store.keep_alive(lease).await.unwrap_err().code(), "lease_not_found");
    store.close().await.unwrap();
}

#[tokio::test]
async fn history_is_bounded_by_number_bytes_and_age() {
    let clock = Arc::new(ByHand::default());
    let base = Options { clock: clock.clone(), ..Options::default() };
    let cases = [
        ("number", Options { history_changes: 16, ..base.clone() }),
        ("bytes", Options { history_bytes: 16 * 130, ..base.clone() }),
        ("age", Options { history_age: Duration::from_secs(16), ..base }),
    ];
    for (what, options) in cases {
        let medium = MemoryMedium::default();
        let store = Embedded::open_on(Arc::new(medium.clone()), options.clone()).await.unwrap();
        let mut idle = store.watch("k", Revision(0)).await.unwrap();
        for _ in 0..100 {
            put(&store, "k", 100).await.unwrap();
            clock.advance(&store, Duration::from_secs(1));
        }
        // Close by it is served from memory; after opening again only the file counts.
        assert!(matches!(idle.next().await.unwrap(), WatchEvent::Changes { .. }));
        store.close().await.unwrap();
        let store = Embedded::open_on(Arc::new(medium), options).await.unwrap();
        let mut watch = store.watch("k", Revision(1)).await.unwrap();
        let oldest = match watch.next().await.unwrap() {
            WatchEvent::Compacted { oldest } => oldest,
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(watch.next().await.unwrap(), WatchEvent::Compacted { oldest }, "{what}: told again");
        assert!((78..=88).contains(&oldest.0), "{what}: history begins after {oldest}");
        let mut watch = store.watch("k", oldest).await.unwrap();
        for revision in oldest.0 + 1..=100 {
            match watch.next().await.unwrap() {
                WatchEvent::Changes { revision: seen, .. } => assert_eq!(seen.0, revision, "{what}"),
                other => panic!("{what}: {other:?}"),
            }
        }
        let mut watch = store.watch("k", Revision(oldest.0 - 1)).await.unwrap();
        assert!(matches!(watch.next().await.unwrap(), WatchEvent::Compacted { .. }), "{what}");
        assert_eq!(put(&store, "k", 1).await.unwrap(), Revision(101), "{what}: revisions go on");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_watch_far_behind_reads_the_file() {
    let store = Embedded::open_in_memory().await.unwrap();
    let mut watch = store.watch("k", Revision(0)).await.unwrap();
    for i in 0..5000 {
        if i % 100 == 99 {
            store.commit(Txn::new().put("k", i.to_string())).await.unwrap();
        } else {
            put(&store, "other", 1).await.unwrap();
        }
    }
    for i in (99..5000).step_by(100) {
        let (revision, changes) = next(&mut watch).await;
        assert_eq!((revision.0, changes), (i + 1, vec![format!("+k={i}")]));
    }
}

#[tokio::test]
async fn forgotten_handles_close_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Embedded::open(&path, Options::default()).await.unwrap();
    put(&store, "k", 1).await.unwrap();
    drop(store);
    let until = Instant::now() + PATIENCE;
    let store = loop {
        match Embedded::open(&path, Options::default()).await {
            Ok(store) => break store,
            Err(e) => assert!(e.code() == "in_use" && Instant::now() < until, "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(store.get("k").await.unwrap().is_some());
}
