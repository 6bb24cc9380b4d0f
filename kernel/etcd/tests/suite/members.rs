//! Joining, leaving, replacing, the quota, recovery.

use std::time::Duration;

use plenum_base::places::Role;
use plenum_etcd::{Phase, RecoverError, recover};
use plenum_store::{Etcd, EtcdOptions, Store, Txn};
use tokio::time::{Instant, sleep};

use crate::world::{World, entries, urls, votes};

fn well(count: usize) -> impl Fn(&plenum_etcd::Status) -> bool {
    move |status| {
        votes(status)
            && status.members.len() == count
            && status.members.iter().all(|member| member.healthy && member.votes)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_grows_to_three_a_dead_one_is_replaced_and_one_leaves() {
    let mut world = World::new();
    let mut masters = world.three().await;
    let status = world.until(&masters[0], "three members", well(3)).await;
    assert!(status.problems.is_empty() && status.certificate_days > 0.5, "{status:?}");
    let store = world.store(&urls(&masters)).await;
    store.commit(Txn::new().put("k", "before")).await.unwrap();

    // The disk of the third is replaced.
    masters[2].kill().await;
    store.commit(Txn::new().put("k", "meanwhile")).await.unwrap();
    let sick = world.until(&masters[0], "one is missing", |s| s.members.iter().any(|m| !m.healthy)).await;
    assert!(sick.problems.iter().any(|p| p.contains("plenum node replace m3")), "{:?}", sick.problems);
    let id = |s: &plenum_etcd::Status| s.members.iter().find(|m| m.name == "m3").map(|m| m.id.clone());
    masters[2].wipe();
    masters[2].start();
    let again = world.until(&masters[2], "replaced", well(3)).await;
    assert_ne!(id(&again), id(&status), "another member of the same name");
    let own = world.store(&[masters[2].url()]).await;
    assert_eq!(&*own.get("k").await.unwrap().unwrap().value, b"meanwhile");

    // Its certificate is renewed while it runs; etcd shows the new one to the next who asks, and nobody notices.
    world.reissue(&masters[2]);
    let own = world.store(&[masters[2].url()]).await;
    assert!(own.get("k").await.unwrap().is_some());

    // The leader leaves: another one takes over and takes it out.
    let leader = again.leader.unwrap();
    let all: Vec<_> = masters.iter().collect();
    world.publish(&all, &[&leader]);
    let (left, stay): (Vec<_>, Vec<_>) = masters.iter().partition(|m| m.name == leader);
    world.until(stay[0], "two members", well(2)).await;
    let out = world.until(left[0], "is out", |s| s.phase == Phase::Removed).await;
    assert!(out.problems.is_empty(), "{:?}", out.problems);
    assert_eq!(entries(&left[0].folder(), "aside-"), 1);
    // It is wanted again.
    world.publish(&all, &[]);
    world.until(left[0], "is back", well(3)).await;
    for master in &mut masters {
        master.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_of_joining_it_joins() {
    let world = World::new();
    let mut first = world.master(1, &[]);
    first.start();
    world.until(&first, "votes", votes).await;
    let mut second = world.master(2, &[1]);
    for moment in [0, 150, 300, 600, 1000, 1500] {
        second.start();
        sleep(Duration::from_millis(moment)).await;
        second.kill().await;
    }
    second.start();
    world.until(&second, "votes", votes).await;
    world.until(&first, "two members", well(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_is_cleaned_up() {
    let world = World::new();
    let mut master = world.master(1, &[]);
    master.config.quota_mebibytes = 24;
    master.start();
    world.until(&master, "votes", votes).await;
    let store = world.store(&[master.url()]).await;
    let mut full = None;
    // On a busy machine the caretaker may have cured a full quota before the next write hears of it: then it fills up once more.
    for _ in 0..600 {
        // The same key again and again: all of it is history.
        if let Err(error) = store.commit(Txn::new().put("k", vec![7; 700_000])).await {
            full = Some(error.code());
            break;
        }
    }
    assert_eq!(full, Some("full"));
    let alarmed = world.until(&master, "the alarm shows", |s| !s.alarms.is_empty()).await;
    assert!(alarmed.problems.iter().any(|p| p.contains("NOSPACE at m1")), "{:?}", alarmed.problems);
    world.until(&master, "the alarm is cured", |s| s.alarms.is_empty() && s.db_size < 4 << 20).await;
    store.commit(Txn::new().put("k", "works again")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_goes_on_alone_and_the_others_join_it() {
    let world = World::new();
    let mut masters = world.three().await;
    let store = world.store(&urls(&masters)).await;
    for i in 0..20 {
        store.commit(Txn::new().put(format!("k{i}"), "v")).await.unwrap();
    }
    world.until(&masters[0], "users on", |s| s.users).await;
    let refused = recover(&masters[0].config, false).await.unwrap_err();
    assert!(matches!(refused, RecoverError::Majority(_)), "{refused}");
    world.until(&masters[0], "nothing was done", well(3)).await;

    masters[1].kill().await;
    masters[2].kill().await;
    world
        .until(&masters[0], "no leader", |s| {
            s.leader.is_none() && s.problems.iter().any(|p| p.contains("recover"))
        })
        .await;
    let began = Instant::now();
    let done = recover(&masters[0].config, false).await.unwrap();
    assert!(done.copy.join("member").exists());
    assert_eq!(done.dropped, ["m2", "m3"]);
    world.until(&masters[0], "alone", well(1)).await;
    println!("recovered from one of three in {:?}", began.elapsed());
    for i in 0..20 {
        assert!(store.get(&format!("k{i}")).await.unwrap().is_some(), "k{i}");
    }
    store.commit(Txn::new().put("after", "v")).await.unwrap();
    // Both of the others come back at once with their old data: they would be a majority of what was.
    masters[1].start();
    masters[2].start();
    for master in &masters {
        world.until(master, "three again", well(3)).await;
    }
    let last = world.store(&[masters[2].url()]).await;
    assert!(last.get("after").await.unwrap().is_some());
    assert!(entries(&masters[2].folder(), "aside-") >= 1);

    // Recovery of a member whose role does not run.
    for master in &mut masters {
        master.stop().await;
    }
    let done = recover(&masters[1].config, false).await.unwrap();
    assert_eq!(done.dropped.len(), 2);
    masters[1].start();
    world.until(&masters[1], "alone", well(1)).await;
    let alone = world.store(&[masters[1].url()]).await;
    assert!(alone.get("after").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_roles_without_records_open_nothing() {
    let world = World::new();
    let mut one = world.master(1, &[]);
    one.start();
    world.until(&one, "votes", votes).await;
    let urls = [one.url()];
    for (role, may) in [(Role::Master, true), (Role::Agent, false), (Role::Gateway, false)] {
        let deadline = Duration::from_secs(2);
        let options = EtcdOptions { tls: Some(world.tls_of(role)), deadline, ..EtcdOptions::new(&urls) };
        let asked = match Etcd::connect(options).await {
            Ok(store) => store.get(&format!("/plenum/test/{role}/x")).await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(asked.is_ok(), may, "{role}: {asked:?}");
    }
    one.stop().await;
}
