//! What every store promises. Each case is a function of a fresh, empty store; the modules `embedded` and `etcd`
//! run them all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plenum_store::{
    Change, Entry, Guard, Range, Revision, Store, StoreError, Txn, Watch, WatchEvent, copy_all, export,
    import, scoped,
};
use tokio::time::timeout;

pub type Shared = Arc<dyn Store>;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Lists every case once; `$run` is a macro that makes a test of it.
macro_rules! cases {
    ($run:ident) => {
        $run!(
            an_entry_has_a_history,
            guards_decide,
            a_conflict_names_the_first_guard_and_changes_nothing,
            nothing_changed_is_no_revision,
            limits_hold_before_any_io,
            the_largest_transactions_fit,
            pages_follow_each_other,
            large_entries_page_too,
            prefixes_at_the_edge_of_unicode,
            a_watch_delivers_everything_in_order,
            a_watch_resumes_in_the_middle,
            a_watch_keeps_up_with_a_writer,
            a_watch_of_the_future_waits,
            a_revoked_lease_takes_its_keys,
            a_lease_runs_out,
            leases_that_are_not,
            counting_together,
            one_leader_at_a_time,
            no_two_leaders_share_a_term,
            a_restarted_candidate_takes_over,
            a_leader_learns_that_it_is_none,
            a_process_that_was_stopped_does_not_think_it_leads,
            scopes_are_apart,
            a_store_is_copied,
            an_export_comes_back,
            a_copy_of_a_moving_store_is_of_one_revision
        );
    };
}
pub(crate) use cases;

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} took longer than {PATIENCE:?}"))
}

async fn put(store: &Shared, key: &str, value: &str) -> Revision {
    store.commit(Txn::new().put(key, value.to_owned())).await.unwrap()
}

async fn value(store: &dyn Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|entry| text(&entry))
}

fn text(entry: &Entry) -> String {
    String::from_utf8(entry.value.to_vec()).unwrap()
}

/// Every entry under a prefix, page by page.
pub async fn list(store: &dyn Store, prefix: &str, limit: usize) -> Vec<Entry> {
    let mut next = Some(Range { limit, ..Range::prefix(prefix) });
    let mut entries = Vec::new();
    while let Some(req) = next {
        let page = store.range(req.clone()).await.unwrap();
        assert!(limit == 0 || page.entries.len() <= limit);
        next = page.next(&req);
        entries.extend(page.entries);
    }
    entries
}

async fn current(store: &dyn Store) -> Revision {
    store.range(Range { limit: 1, ..Range::default() }).await.unwrap().revision
}

/// The next changes, as `(revision, ["+key=value" or "-key"])`.
pub async fn next(watch: &mut Watch) -> (Revision, Vec<String>) {
    match within("the next change", watch.next()).await.unwrap() {
        WatchEvent::Changes { revision, changes } => {
            let shown = changes.iter().map(|change| match change {
                Change::Put(entry) => {
                    assert_eq!(entry.mod_revision, revision);
                    format!("+{}={}", entry.key, text(entry))
                }
                Change::Delete { key } => format!("-{key}"),
            });
            (revision, shown.collect())
        }
        WatchEvent::Compacted { oldest } => panic!("compacted to {oldest}"),
    }
}

pub async fn an_entry_has_a_history(store: Shared) {
    assert_eq!(store.get("a/b").await.unwrap(), None);
    let first = put(&store, "a/b", "1").await;
    let second = put(&store, "a/b", "2").await;
    assert!(second > first);
    let entry = store.get("a/b").await.unwrap().unwrap();
    assert_eq!(
        (entry.create_revision, entry.mod_revision, &*entry.value, entry.lease),
        (first, second, b"2".as_slice(), None)
    );
    let third = store.commit(Txn::new().delete("a/b")).await.unwrap();
    assert!(third > second);
    assert_eq!(store.get("a/b").await.unwrap(), None);
    let fourth = put(&store, "a/b", "").await;
    let entry = store.get("a/b").await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision, entry.value.len()), (fourth, fourth, 0));
}

pub async fn guards_decide(store: Shared) {
    let at = put(&store, "here", "yes").await;
    let (here, gone) = (|| "here".to_owned(), || "gone".to_owned());
    let cases = [
        (Guard::Absent(gone()), true),
        (Guard::Absent(here()), false),
        (Guard::Exists(here()), true),
        (Guard::Exists(gone()), false),
        (Guard::ModRevision(here(), at), true),
        (Guard::ModRevision(here(), Revision(at.0 + 1)), false),
        (Guard::ModRevision(here(), Revision(at.0 - 1)), false),
        (Guard::ModRevision(here(), Revision(0)), false),
        (Guard::ModRevision(gone(), at), false),
        (Guard::ModRevision(gone(), Revision(0)), false),
        (Guard::Value(here(), Bytes::from_static(b"yes")), true),
        (Guard::Value(here(), Bytes::from_static(b"ye")), false),
        (Guard::Value(here(), Bytes::from_static(b"")), false),
        (Guard::Value(gone(), Bytes::from_static(b"yes")), false),
        (Guard::Value(gone(), Bytes::from_static(b"")), false),
    ];
    for (guard, holds) in cases {
        let outcome = store.commit(Txn::new().guard(guard.clone())).await;
        match outcome {
            Ok(_) => assert!(holds, "{guard} should not hold"),
            Err(StoreError::Conflict { index: 0, guard: named }) => {
                assert!(!holds && named == guard, "{guard} should hold, or be named");
            }
            Err(other) => panic!("{guard}: {other}"),
        }
    }
}

pub async fn a_conflict_names_the_first_guard_and_changes_nothing(store: Shared) {
    let at = put(&store, "a", "1").await;
    let before = current(&*store).await;
    let txn = Txn::new()
        .unchanged("a", at)
        .guard(Guard::Value("a".to_owned(), Bytes::from_static(b"other")))
        .exists("b")
        .put("a", "2")
        .put("c", "3")
        .delete("a/x");
    match store.commit(txn).await {
        Err(StoreError::Conflict { index: 1, guard: Guard::Value(key, _) }) => assert_eq!(key, "a"),
        other => panic!("{other:?}"),
    }
    assert_eq!(value(&*store, "a").await.as_deref(), Some("1"));
    assert_eq!(value(&*store, "c").await, None);
    assert_eq!(current(&*store).await, before);
    // Guards look at the state before the transaction's own operations.
    let txn = Txn::new().absent("c").put("c", "3").delete("a");
    store.commit(txn).await.unwrap();
    assert_eq!(value(&*store, "c").await.as_deref(), Some("3"));
    assert_eq!(value(&*store, "a").await, None);
}

pub async fn nothing_changed_is_no_revision(store: Shared) {
    let at = put(&store, "a", "1").await;
    assert_eq!(store.commit(Txn::new()).await.unwrap(), at);
    assert_eq!(store.commit(Txn::new().exists("a")).await.unwrap(), at);
    assert_eq!(store.commit(Txn::new().delete("b")).await.unwrap(), at);
    // The same value again is a change.
    assert!(put(&store, "a", "1").await > at);
}

pub async fn limits_hold_before_any_io(store: Shared) {
    let mut many = Txn::new().exists("x");
    for i in 0..100 {
        many = many.put(format!("k{i}"), "");
    }
    let cases = [
        (many, "too_many_operations"),
        (Txn::new().put("k", vec![0; 1024 * 1024]), "too_large"),
        (Txn::new().put("", ""), "invalid"),
        (Txn::new().exists(""), "invalid"),
        (Txn::new().put("a", "1").put("a", "2"), "invalid"),
        (Txn::new().put("a", "1").delete("a"), "invalid"),
        (Txn::new().put("a\0", "1"), "invalid"),
        (Txn::new().put("a".repeat(1025), "1"), "invalid"),
    ];
    for (txn, code) in cases {
        let error = store.commit(txn).await.unwrap_err();
        assert_eq!((error.code(), error.maybe_applied()), (code, false), "{error}");
    }
    assert_eq!(store.get("").await.unwrap_err().code(), "invalid");
    assert_eq!(list(&*store, "", 0).await, []);
}

pub async fn the_largest_transactions_fit(store: Shared) {
    let mut txn = Txn::new();
    for i in 0..50 {
        txn = txn.absent(format!("many/{i}")).put(format!("many/{i}"), vec![7; 20_000]);
    }
    store.commit(txn).await.unwrap();
    assert_eq!(list(&*store, "many/", 0).await.len(), 50);
    store.commit(Txn::new().put("big", vec![7; 1024 * 1024 - 3])).await.unwrap();
    assert_eq!(store.get("big").await.unwrap().unwrap().value.len(), 1024 * 1024 - 3);
}

pub async fn pages_follow_each_other(store: Shared) {
    for chunk in (0..250).collect::<Vec<_>>().chunks(50) {
        let txn = chunk.iter().fold(Txn::new(), |txn, i| txn.put(format!("p/{i:03}"), i.to_string()));
        store.commit(txn).await.unwrap();
    }
    let at = store.commit(Txn::new().put("o/x", "").put("p", "").put("p0", "").put("q", "")).await.unwrap();
    for limit in [1, 7, 250, 251, 0] {
        let entries = list(&*store, "p/", limit).await;
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        assert_eq!(keys, (0..250).map(|i| format!("p/{i:03}")).collect::<Vec<_>>(), "limit {limit}");
    }
    let page = store.range(Range { limit: 2, ..Range::prefix("p/") }).await.unwrap();
    assert!(page.more && page.revision == at);
    let last = Range { start_after: Some("p/247".to_owned()), limit: 2, ..Range::prefix("p/") };
    let page = store.range(last).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (2, false));
    // A start before the prefix begins with the prefix; one after it finds nothing.
    let before = Range { start_after: Some("a".to_owned()), limit: 1, ..Range::prefix("p/") };
    assert_eq!(store.range(before).await.unwrap().entries[0].key, "p/000");
    let after = Range { start_after: Some("z".to_owned()), ..Range::prefix("p/") };
    let page = store.range(after).await.unwrap();
    assert_eq!((page.entries, page.more), (vec![], false));
    assert_eq!(list(&*store, "", 100).await.len(), 254);
}

pub async fn large_entries_page_too(store: Shared) {
    for i in 0..20 {
        store.commit(Txn::new().put(format!("big/{i:02}"), vec![i; 700 * 1024])).await.unwrap();
    }
    let entries = list(&*store, "big/", 0).await;
    assert_eq!(entries.len(), 20);
    for (i, entry) in (0..).zip(&entries) {
        assert!(entry.key == format!("big/{i:02}") && entry.value.iter().all(|byte| *byte == i));
    }
    let mut watch = store.watch("big/", Revision(0)).await.unwrap();
    for i in 0..20 {
        match within("a large change", watch.next()).await.unwrap() {
            WatchEvent::Changes { changes, .. } => assert_eq!(changes[0].key(), format!("big/{i:02}")),
            other => panic!("{other:?}"),
        }
    }
}

pub async fn prefixes_at_the_edge_of_unicode(store: Shared) {
    let last = char::MAX.to_string();
    let keys =
        [format!("a{last}"), format!("a{last}x"), "b".to_owned(), last.clone(), format!("{last}{last}")];
    for key in &keys {
        put(&store, key, "").await;
    }
    let under = |prefix: String| {
        let store = store.clone();
        async move { list(&*store, &prefix, 1).await.into_iter().map(|entry| entry.key).collect::<Vec<_>>() }
    };
    assert_eq!(under(format!("a{last}")).await, keys[..2]);
    assert_eq!(under(last).await, keys[3..]);
    assert_eq!(under(String::new()).await, keys);
}

pub async fn a_watch_delivers_everything_in_order(store: Shared) {
    let mut watch = store.watch("w/", Revision(0)).await.unwrap();
    let r1 = put(&store, "w/a", "1").await;
    put(&store, "other", "x").await;
    let r2 = store.commit(Txn::new().put("w/b", "2").put("x", "x").delete("w/a")).await.unwrap();
    let r3 = store.commit(Txn::new().delete("w/b").delete("w/never")).await.unwrap();
    assert_eq!(next(&mut watch).await, (r1, vec!["+w/a=1".to_owned()]));
    assert_eq!(next(&mut watch).await, (r2, vec!["+w/b=2".to_owned(), "-w/a".to_owned()]));
    assert_eq!(next(&mut watch).await, (r3, vec!["-w/b".to_owned()]));
    assert_eq!(watch.next_within(Duration::from_millis(50)).await.unwrap(), None);
    let r4 = put(&store, "w/", "4").await;
    assert_eq!(next(&mut watch).await, (r4, vec!["+w/=4".to_owned()]));
}

pub async fn a_watch_resumes_in_the_middle(store: Shared) {
    let mut revisions = Vec::new();
    for i in 0..20 {
        revisions.push(put(&store, "k", &i.to_string()).await);
    }
    for (i, after) in revisions.iter().enumerate() {
        let mut watch = store.watch("k", *after).await.unwrap();
        for (j, revision) in revisions.iter().enumerate().skip(i + 1).take(2) {
            assert_eq!(next(&mut watch).await, (*revision, vec![format!("+k={j}")]));
        }
    }
}

pub async fn a_watch_keeps_up_with_a_writer(store: Shared) {
    let mut watch = store.watch("n/", Revision(0)).await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for i in 0..200 {
                put(&store, &format!("n/{}", i % 7), &i.to_string()).await;
            }
        }
    });
    let mut last = Revision(0);
    for i in 0..200 {
        let (revision, changes) = next(&mut watch).await;
        assert!(revision > last);
        last = revision;
        assert_eq!(changes, [format!("+n/{}={i}", i % 7)]);
    }
    writer.await.unwrap();
}

pub async fn a_watch_of_the_future_waits(store: Shared) {
    let at = put(&store, "k", "1").await;
    let mut watch = store.watch("k", Revision(at.0 + 1)).await.unwrap();
    put(&store, "k", "2").await;
    let third = put(&store, "k", "3").await;
    assert_eq!(next(&mut watch).await, (third, vec!["+k=3".to_owned()]));
}

pub async fn a_revoked_lease_takes_its_keys(store: Shared) {
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let other = store.grant(Duration::from_secs(60)).await.unwrap();
    let mut txn = Txn::new().put_leased("moved", "", lease).put_leased("freed", "", lease);
    for i in 0..20 {
        txn = txn.put_leased(format!("bound/{i:02}"), "", lease);
    }
    store.commit(txn).await.unwrap();
    assert_eq!(store.get("moved").await.unwrap().unwrap().lease, Some(lease));
    let at = store.commit(Txn::new().put_leased("moved", "", other).put("freed", "")).await.unwrap();
    assert_eq!(store.get("freed").await.unwrap().unwrap().lease, None);
    store.revoke(lease).await.unwrap();
    let left: Vec<_> = list(&*store, "", 0).await.into_iter().map(|entry| entry.key).collect();
    assert_eq!(left, ["freed", "moved"]);
    let mut watch = store.watch("", at).await.unwrap();
    let (_, mut changes) = next(&mut watch).await;
    changes.sort();
    assert_eq!(changes, (0..20).map(|i| format!("-bound/{i:02}")).collect::<Vec<_>>(), "in one revision");
    store.revoke(other).await.unwrap();
    assert_eq!(value(&*store, "moved").await, None);
}

pub async fn a_lease_runs_out(store: Shared) {
    let short = store.grant(Duration::from_millis(1)).await.unwrap();
    let kept = store.grant(Duration::from_secs(2)).await.unwrap();
    let txn = Txn::new().put_leased("short", "", short).put_leased("kept", "", kept);
    let at = store.commit(txn).await.unwrap();
    let mut watch = store.watch("", at).await.unwrap();
    let keeper = tokio::spawn({
        let store = store.clone();
        async move {
            let mut every = tokio::time::interval(Duration::from_millis(400));
            loop {
                every.tick().await;
                assert_eq!(store.keep_alive(kept).await.unwrap(), Duration::from_secs(2));
            }
        }
    });
    assert_eq!(next(&mut watch).await.1, ["-short"]);
    assert_eq!(store.keep_alive(short).await.unwrap_err().code(), "lease_not_found");
    assert!(value(&*store, "kept").await.is_some());
    keeper.abort();
    assert!(keeper.await.unwrap_err().is_cancelled());
    assert_eq!(next(&mut watch).await.1, ["-kept"]);
}

pub async fn leases_that_are_not(store: Shared) {
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.revoke(lease).await.unwrap();
    let outcomes = [
        store.revoke(lease).await.unwrap_err(),
        store.keep_alive(lease).await.unwrap_err(),
        store.commit(Txn::new().put("a", "").put_leased("b", "", lease)).await.unwrap_err(),
    ];
    for error in outcomes {
        assert_eq!((error.code(), error.maybe_applied()), ("lease_not_found", false), "{error}");
    }
    assert_eq!(list(&*store, "", 0).await, []);
    assert_eq!(store.grant(Duration::from_secs(90_000)).await.unwrap_err().code(), "invalid");
}

pub async fn counting_together(store: Shared) {
    put(&store, "n", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                loop {
                    let entry = store.get("n").await.unwrap().unwrap();
                    let more = text(&entry).parse::<u32>().unwrap() + 1;
                    let txn = Txn::new().unchanged("n", entry.mod_revision).put("n", more.to_string());
                    match store.commit(txn).await {
                        Ok(_) => break,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        });
    }
    while let Some(task) = within("counting", tasks.join_next()).await {
        task.unwrap();
    }
    assert_eq!(value(&*store, "n").await.as_deref(), Some("80"));
}

pub async fn one_leader_at_a_time(store: Shared) {
    let ttl = Duration::from_secs(2);
    assert_eq!(store.leader("e").await.unwrap(), None);
    let first = store.campaign("e", "one", ttl).await.unwrap();
    let leader = store.leader("e").await.unwrap().unwrap();
    assert_eq!((leader.candidate.as_str(), leader.term), ("one", first.term()));
    store.commit(Txn::new().guard(first.guard()).put("by", "one")).await.unwrap();
    match within("a second campaign", store.campaign("e", "two", ttl)).await {
        Err(StoreError::Held { election, holder }) => assert_eq!((&*election, &*holder), ("e", "one")),
        other => panic!("{other:?}"),
    }
    assert!(!first.is_lost(), "kept alive for longer than its time to live");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.campaign("e", "two", Duration::from_secs(20)).await }
    });
    let (guard, term, lost) = (first.guard(), first.term(), first.lost());
    first.resign().await;
    within("the end of leadership", lost).await;
    let second = within("the handover", waiting).await.unwrap().unwrap();
    assert!(second.term() > term);
    let late = store.commit(Txn::new().guard(guard).put("by", "one, late")).await;
    assert_eq!(late.unwrap_err().code(), "conflict");
    store.commit(Txn::new().guard(second.guard()).put("by", "two")).await.unwrap();
    // Another election is another matter.
    let other = store.campaign("e2", "one", ttl).await.unwrap();
    assert_eq!(other.term(), 1);
}

/// Many want to lead at once; each that does writes its term under its guard and steps down.
pub async fn no_two_leaders_share_a_term(store: Shared) {
    let mut candidates = tokio::task::JoinSet::new();
    for i in 0..6 {
        let store = store.clone();
        candidates.spawn(async move {
            let name = format!("candidate {i}");
            let leadership = store.campaign("e", &name, Duration::from_secs(20)).await.unwrap();
            assert_eq!(store.leader("e").await.unwrap().unwrap().candidate, name);
            let txn = Txn::new().guard(leadership.guard()).put("reign", leadership.term().to_string());
            let revision = store.commit(txn).await.unwrap();
            let term = leadership.term();
            leadership.resign().await;
            (revision, term)
        });
    }
    let mut reigns = Vec::new();
    while let Some(reign) = within("six reigns", candidates.join_next()).await {
        reigns.push(reign.unwrap());
    }
    reigns.sort();
    assert_eq!(reigns.iter().map(|(_, term)| *term).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}

pub async fn a_restarted_candidate_takes_over(store: Shared) {
    let ttl = Duration::from_secs(20);
    let before = store.campaign("e", "one", ttl).await.unwrap();
    let after = within("taking over from oneself", store.campaign("e", "one", ttl)).await.unwrap();
    assert!(after.term() > before.term());
    let late = store.commit(Txn::new().guard(before.guard()).put("x", "")).await;
    assert_eq!(late.unwrap_err().code(), "conflict");
    store.commit(Txn::new().guard(after.guard()).put("x", "")).await.unwrap();
    // Much sooner than the lease would tell.
    timeout(Duration::from_secs(5), before.lost()).await.expect("the former self notices");
    assert!(!after.is_lost());
}

pub async fn a_leader_learns_that_it_is_none(store: Shared) {
    let leadership = store.campaign("e", "one", Duration::from_secs(3)).await.unwrap();
    store.commit(Txn::new().delete("e/leader")).await.unwrap();
    within("the loss of leadership", leadership.lost()).await;
    assert!(leadership.is_lost());
    // Dropping one gives it up as well.
    let second = store.campaign("e", "one", Duration::from_secs(30)).await.unwrap();
    drop(second);
    let third = within("the next", store.campaign("e", "two", Duration::from_secs(20))).await.unwrap();
    assert_eq!(third.term(), 3);
}

pub async fn a_process_that_was_stopped_does_not_think_it_leads(store: Shared) {
    // A runtime of its own, whose only thread is held up: the keeper cannot run, as in a process that is stopped.
    let stopped = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let leadership = store.campaign("e", "one", Duration::from_secs(2)).await.unwrap();
            let validity = leadership.validity();
            tokio::time::sleep(Duration::from_millis(2500)).await;
            assert!(!leadership.is_lost() && validity.holds(), "renewed while it runs");
            std::thread::sleep(Duration::from_millis(2100));
            assert!(leadership.is_lost() && !validity.holds(), "at once, by the clock");
            within("the loss of leadership", leadership.lost()).await;
        });
    });
    within("the stopped process", tokio::task::spawn_blocking(|| stopped.join())).await.unwrap().unwrap();
}

pub async fn scopes_are_apart(store: Shared) {
    let a: Shared = Arc::new(scoped(store.clone(), "/plenum/a/"));
    let b: Shared = Arc::new(scoped(store.clone(), "/plenum/b"));
    let mut watch = a.watch("", Revision(0)).await.unwrap();
    put(&b, "k", "b").await;
    put(&a, "k", "a").await;
    assert_eq!(value(&*store, "/plenum/a/k").await.as_deref(), Some("a"));
    assert_eq!(value(&*b, "k").await.as_deref(), Some("b"));
    let keys: Vec<_> = list(&*a, "", 1).await.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["k"]);
    assert_eq!(next(&mut watch).await.1, ["+k=a"]);
    match a.commit(Txn::new().absent("k").put("l", "")).await {
        Err(StoreError::Conflict { guard, .. }) => assert_eq!(guard.key(), "k"),
        other => panic!("{other:?}"),
    }
    assert_eq!(a.commit(Txn::new().put("", "")).await.unwrap_err().code(), "invalid");
    let leadership = a.campaign("e", "one", Duration::from_secs(5)).await.unwrap();
    a.commit(Txn::new().guard(leadership.guard()).put("l", "")).await.unwrap();
    assert_eq!(b.leader("e").await.unwrap(), None);
    assert_eq!(a.leader("e").await.unwrap().unwrap().candidate, "one");
    // A scope within a scope.
    let inner = scoped(a.clone(), "in");
    inner.commit(Txn::new().put("x", "1")).await.unwrap();
    assert_eq!(value(&*store, "/plenum/a/in/x").await.as_deref(), Some("1"));
}

async fn fill(store: &Shared) -> BTreeMap<String, Bytes> {
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.commit(Txn::new().put_leased("alive", "", lease)).await.unwrap();
    let mut wanted = BTreeMap::new();
    for i in 0..150 {
        wanted.insert(format!("s/{i:03}"), Bytes::from(vec![0; i]));
    }
    for i in 0..3 {
        wanted.insert(format!("l/{i}"), Bytes::from(vec![9; 600_000]));
    }
    for (key, value) in &wanted {
        store.commit(Txn::new().put(key, value.clone())).await.unwrap();
    }
    wanted
}

async fn contents(store: &Shared) -> BTreeMap<String, Bytes> {
    list(&**store, "", 0).await.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

pub async fn a_store_is_copied(store: Shared) {
    let from: Shared = Arc::new(scoped(store.clone(), "from"));
    let to: Shared = Arc::new(scoped(store.clone(), "to"));
    let wanted = fill(&from).await;
    let summary = within("copying", copy_all(&*from, &*to)).await.unwrap();
    assert_eq!(contents(&to).await, wanted);
    assert!(summary.records >= 153 && summary.transactions < 20, "{summary:?}");
    let error = copy_all(&*from, &*to).await.unwrap_err();
    assert_eq!(error.code(), "invalid", "the target is no longer empty: {error}");
}

pub async fn an_export_comes_back(store: Shared) {
    let from: Shared = Arc::new(scoped(store.clone(), "from"));
    let wanted = fill(&from).await;
    let mut stream = Vec::new();
    let summary = within("exporting", export(&*from, &mut stream)).await.unwrap();
    let to: Shared = Arc::new(scoped(store.clone(), "to"));
    let read = within("importing", import(&*to, &mut stream.as_slice())).await.unwrap();
    assert_eq!(read.records, summary.records);
    assert_eq!(contents(&to).await, wanted);
    for (name, damaged) in [
        ("cut", stream[..stream.len() - 1].to_vec()),
        ("empty", Vec::new()),
        ("flipped", {
            let mut bytes = stream.clone();
            bytes[stream.len() / 2] ^= 1;
            bytes
        }),
        ("foreign", b"something else entirely".to_vec()),
    ] {
        let to = scoped(store.clone(), name);
        let error = within("importing damage", import(&to, &mut damaged.as_slice())).await.unwrap_err();
        assert_eq!(error.code(), "broken", "{name}: {error}");
    }
}

/// Pairs are always written together; a copy that shows one revision has none that differ.
pub async fn a_copy_of_a_moving_store_is_of_one_revision(store: Shared) {
    let from: Shared = Arc::new(scoped(store.clone(), "from"));
    let to: Shared = Arc::new(scoped(store.clone(), "to"));
    for chunk in (0..1500).collect::<Vec<_>>().chunks(100) {
        let txn = chunk.iter().fold(Txn::new(), |txn, i| txn.put(format!("m/{i:04}"), ""));
        from.commit(txn).await.unwrap();
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mover = tokio::spawn({
        let from = from.clone();
        async move {
            let mut i = 0_u32;
            while !*stopped.borrow() {
                let n = i.to_string();
                from.commit(Txn::new().put("a", n.clone()).put("z", n).delete(format!("m/{i:04}")))
                    .await
                    .unwrap();
                i += 1;
            }
        }
    });
    while value(&*from, "z").await.is_none() {
        tokio::task::yield_now().await;
    }
    within("copying", copy_all(&*from, &*to)).await.unwrap();
    stop.send(true).unwrap();
    mover.await.unwrap();
    let copied = contents(&to).await;
    assert_eq!(copied.get("a"), copied.get("z"));
    let last: u32 = String::from_utf8(copied["a"].to_vec()).unwrap().parse().unwrap();
    let gone = (0..=last.min(1499)).filter(|i| copied.contains_key(&format!("m/{i:04}"))).count();
    assert_eq!(gone, 0, "deleted before {last}, but copied");
}
