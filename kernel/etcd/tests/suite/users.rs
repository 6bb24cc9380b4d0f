//! Each component is held to its own part of etcd, by its certificate.

use std::time::Duration;

use plenum_base::places::Role;
use plenum_store::{
    Etcd, EtcdOptions, EtcdTls, Open, Range, Revision, Store, StoreSettings, Txn, WatchEvent, open, scoped,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::world::{INSTANCE, World, urls, votes};

const COMPONENTS: [Role; 5] = [Role::Identity, Role::Master, Role::Services, Role::Discovery, Role::Catalog];

fn part(role: Role) -> String {
    format!("/plenum/{INSTANCE}/{role}/")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_has_its_own_part_and_no_other() {
    let world = World::new();
    let mut first = world.master(1, &[]);
    first.start();
    let status = world.until(&first, "users on", |s| s.users).await;
    assert!(status.users_wait.is_none() && status.problems.is_empty(), "{status:?}");
    // Two more join with users on.
    let mut masters = vec![first, world.master(2, &[1]), world.master(3, &[1, 2])];
    for master in &mut masters[1..] {
        master.start();
        let status = world.until(master, "votes", votes).await;
        assert!(status.users, "{status:?}");
    }
    let urls = urls(&masters);
    let root = world.store(&urls).await;
    for role in COMPONENTS {
        root.commit(Txn::new().put(format!("{}secret", part(role)), "x")).await.unwrap();
    }
    for own in COMPONENTS {
        let whole = world.store_of(own, &urls).await;
        let mine = scoped(std::sync::Arc::new(whole.clone()), &part(own));
        mine.commit(Txn::new().put("a", "1")).await.unwrap();
        assert_eq!(mine.range(Range::default()).await.unwrap().entries.len(), 2);
        let mut changes = mine.watch("", Revision(0)).await.unwrap();
        assert!(matches!(changes.next().await.unwrap(), WatchEvent::Changes { .. }));
        let leadership = mine.campaign("election", "me", Duration::from_secs(2)).await.unwrap();
        mine.commit(Txn::new().guard(leadership.guard()).put("a", "2")).await.unwrap();
        sleep(Duration::from_millis(2500)).await;
        assert!(leadership.validity().holds(), "the lease is kept alive");
        leadership.resign().await;

        for other in COMPONENTS.into_iter().filter(|other| *other != own) {
            let key = format!("{}secret", part(other));
            let read = whole.get(&key).await.unwrap_err();
            let list = whole.range(Range { prefix: part(other), ..Range::default() }).await.unwrap_err();
            let write = whole.commit(Txn::new().put(&key, "stolen")).await.unwrap_err();
            let guessed = Txn::new().exists(&key).put(format!("{}b", part(own)), "");
            let guess = whole.commit(guessed).await.unwrap_err();
            let remove = whole.commit(Txn::new().delete(&key)).await.unwrap_err();
            let follow = whole.watch(&part(other), Revision(0)).await.unwrap_err();
            for error in [read, list, write, guess, remove, follow] {
                let text = error.to_string();
                assert!(error.code() == "broken" && text.contains(&part(other)), "{own} at {other}: {text}");
            }
        }
        for everything in ["", "/plenum/", "/plenum/test/"] {
            assert!(whole.watch(everything, Revision(0)).await.is_err());
            assert!(whole.range(Range { prefix: everything.to_owned(), ..Range::default() }).await.is_err());
        }
        // It sees that its part was moved away, and can neither say so nor take it back.
        let fence = format!("/plenum/{INSTANCE}/.moved/{own}");
        assert!(whole.get(&fence).await.unwrap().is_none());
        assert!(whole.commit(Txn::new().put(&fence, "")).await.is_err());
        // Nor does it administer anything.
        let mut raw = raw(&urls[0], &world.tls_of(own)).await;
        assert!(raw.user_add("evil", "evil", None).await.is_err());
        assert!(raw.user_grant_role(own.as_str(), "root").await.is_err());
        assert!(raw.auth_disable().await.is_err());
        assert!(raw.member_add(["https://127.0.0.1:1"], None).await.is_err());
        assert!(raw.status().await.is_ok());
    }
    assert_eq!(&*root.get(&format!("{}secret", part(Role::Identity))).await.unwrap().unwrap().value, b"x");
    let status = world.until(&masters[0], "the disk", |s| s.fsync_milliseconds.is_some()).await;
    assert!(status.users && status.problems.is_empty(), "{status:?}");
    // etcd's root exists because it has to; nobody is it, with or without a password.
    for user in ["root", "etcd", "catalog"] {
        let mut raw = raw(&urls[0], &world.tls_of(Role::Catalog)).await.auth_client();
        assert!(raw.authenticate(user.to_owned(), String::new()).await.is_err(), "{user}");
    }
}

async fn raw(url: &str, tls: &EtcdTls) -> etcd_client::Client {
    let options = etcd_client::TlsOptions::new()
        .ca_certificate(etcd_client::Certificate::from_pem(&tls.ca))
        .identity(etcd_client::Identity::from_pem(&tls.cert, &tls.key));
    let options = etcd_client::ConnectOptions::new().with_tls(options);
    etcd_client::Client::connect([url], Some(options)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_an_older_release_goes_on_and_gets_users_when_all_certificates_name_them() {
    let world = World::new();
    let mut masters = [world.master(1, &[]), world.master(2, &[1])];
    // The second master's caretaker and the first one's catalog have not got new certificates yet.
    let pem = world.ca.certificate_pem();
    let second = masters[1].places.identity(Role::Etcd);
    let (cert, key) = world.issue_old(Role::Etcd, "m2", masters[1].config.address);
    second.write(pem, &cert, &key).unwrap();
    let catalog = masters[0].places.identity(Role::Catalog);
    let (cert, key) = world.issue_old(Role::Catalog, "m1", masters[0].config.address);
    catalog.write(pem, &cert, &key).unwrap();
    for master in &mut masters {
        master.start();
        world.until(master, "votes", votes).await;
    }
    let settings = StoreSettings { etcd: true, ..StoreSettings::default() };
    let settings = settings.files_or(&catalog.ca, &catalog.cert, &catalog.key);
    let (_urls, endpoints) = watch::channel(urls(&masters));
    let at = Open { embedded: std::path::PathBuf::new(), prefix: part(Role::Catalog), endpoints };
    let store = open(&settings, at).await.unwrap();
    let leadership = store.campaign("e", "me", Duration::from_secs(2)).await.unwrap();
    let mut changes = store.watch("k", Revision(0)).await.unwrap();
    let write = async || {
        store.commit(Txn::new().guard(leadership.guard()).put("k", "v")).await.unwrap();
        let seen = timeout(Duration::from_secs(5), changes.next()).await.expect("the watch goes on").unwrap();
        assert!(matches!(seen, WatchEvent::Changes { .. }));
    };
    let mut write = write;
    let waits = |why: &'static str| {
        move |s: &plenum_etcd::Status| {
            !s.users && s.users_wait.as_ref().is_some_and(|reason| reason.contains(why))
        }
    };
    let leader = async || {
        let status = world.until(&masters[0], "a leader", votes).await;
        masters.iter().position(|master| Some(&master.name) == status.leader.as_ref()).unwrap()
    };
    let led = leader().await;
    world
        .until(&masters[led], "waits", |s| s.users_wait.as_ref().is_some_and(|w| w.contains("older release")))
        .await;
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        write().await;
        assert!(!world.status(&masters[0]).await.unwrap().users, "somebody would be locked out");
        sleep(Duration::from_millis(200)).await;
    }
    // The second master is new now; the catalog of the first one is not yet.
    let (cert, key) = {
        let name = plenum_base::pki::PeerName::new(INSTANCE, "etcd", "m2").unwrap();
        let mut sans = vec![plenum_base::pki::San::Ip(masters[1].config.address)];
        sans.extend(plenum_base::pki::store_names(Role::Etcd));
        let now = std::time::SystemTime::now();
        world.ca.issue_fresh(&name, &sans, now, plenum_base::pki::LIFETIME).unwrap()
    };
    second.write(pem, &cert, &key).unwrap();
    let led = leader().await;
    world.until(&masters[led], "waits for the catalog", waits("catalog is of an older release")).await;
    write().await;
    let tls = world.tls_of(Role::Catalog);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    catalog.write(pem, &text(tls.cert), &text(tls.key)).unwrap();
    // Without a pause, over the moment in which users come on.
    let until = Instant::now() + Duration::from_secs(40);
    while !world.status(&masters[0]).await.is_some_and(|status| status.users) {
        assert!(Instant::now() < until, "users do not come on");
        for _ in 0..20 {
            write().await;
            assert!(!leadership.is_lost());
        }
    }
    for _ in 0..50 {
        write().await;
    }
    assert!(!leadership.is_lost());
    // Who comes with a certificate of before is nobody now, and is told so.
    let (cert, key) = world.issue_old(Role::Catalog, "m1", masters[0].config.address);
    let tls = EtcdTls { cert: cert.into_bytes(), key: key.into_bytes(), ..world.tls() };
    let options = EtcdOptions { tls: Some(tls), ..EtcdOptions::new(urls(&masters)) };
    let stranger = Etcd::connect(options).await.unwrap();
    let error = stranger.get(&format!("{}k", part(Role::Catalog))).await.unwrap_err();
    assert!(error.code() == "broken" && error.to_string().contains("/plenum/test/catalog/"), "{error}");
}
