//! Records of a single machine go to etcd and come back, and survive a backup.

use std::time::Duration;

use plenum_base::places::{Places, Role};
use plenum_etcd::{MoveError, Target, backup, move_store, restore};
use plenum_store::{Embedded, Open, Options, Store, StoreSettings, Txn, open, open_embedded, scoped};
use tokio::sync::watch;

use crate::world::{World, votes};

const SERVICES: &str = "/plenum/test/services/";
const MASTER: &str = "/plenum/test/master/";

/// As a single machine has them: one component with the prefix in its keys, one without, one with an election behind it.
async fn fill(places: &Places) -> u64 {
    let file = |role| {
        std::fs::create_dir_all(places.data(role)).unwrap();
        places.store(role)
    };
    let bare = Embedded::open(file(Role::Services), Options::default()).await.unwrap();
    for i in 0..1500 {
        bare.commit(Txn::new().put(format!("apps/{i:05}"), vec![b'x'; i % 300])).await.unwrap();
    }
    bare.close().await.unwrap();
    let master = open_embedded(&file(Role::Master), MASTER).await.unwrap();
    master.commit(Txn::new().put("frameworks/a", "f")).await.unwrap();
    let mut term = 0;
    for _ in 0..3 {
        let leadership = master.campaign("leader", "single", Duration::from_secs(2)).await.unwrap();
        term = leadership.term();
        leadership.resign().await;
    }
    drop(master);
    term
}

async fn set_up() -> (World, crate::world::Master) {
    let world = World::new();
    let mut master = world.master(1, &[]);
    master.start();
    world.until(&master, "votes", votes).await;
    (world, master)
}

async fn open_settled(path: &std::path::Path, prefix: &str) -> std::sync::Arc<dyn Store> {
    // The last handle closes the file in the background.
    for _ in 0..100 {
        match open_embedded(path, prefix).await {
            Err(e) if e.code() == "in_use" => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other.unwrap(),
        }
    }
    panic!("{} stays in use", path.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_move_to_etcd_and_back_and_terms_only_grow() {
    let (world, master) = set_up().await;
    let places = world.places("single");
    let term = fill(&places).await;
    world.until(&master, "users on", |s| s.users).await;
    let etcd = world.store(&[master.url()]).await;
    let services = scoped(std::sync::Arc::new(etcd.clone()), SERVICES);

    // A component that runs is not moved away under its feet.
    let running = open_settled(&places.store(Role::Services), SERVICES).await;
    let refused = move_store(&places, &etcd, Target::Etcd).await.unwrap_err();
    assert!(matches!(refused, MoveError::Store { ref source, .. } if source.code() == "in_use"), "{refused}");
    drop(running);
    drop(open_settled(&places.store(Role::Services), SERVICES).await);
    // An earlier move was killed half-way.
    etcd.commit(Txn::new().put("/plenum/test/.moving/services", "").put(format!("{SERVICES}apps/half"), "x"))
        .await
        .unwrap();

    let moved = move_all(&places, &etcd, Target::Etcd).await;
    let counts: Vec<(&str, u64)> = moved.iter().map(|m| (m.component.as_str(), m.records)).collect();
    assert_eq!(counts, [("identity", 0), ("master", 2), ("services", 1500), ("catalog", 0)]);
    assert!(services.get("apps/half").await.unwrap().is_none());
    assert_eq!(services.get("apps/00299").await.unwrap().unwrap().value.len(), 299);
    let closed = open_embedded(&places.store(Role::Services), SERVICES).await.unwrap_err();
    assert!(closed.code() == "broken" && closed.to_string().contains("store.etcd = true"), "{closed}");
    let again = move_all(&places, &etcd, Target::Etcd).await;
    assert!(again.iter().all(|part| part.already) && again[2].digest == moved[2].digest);

    let on_etcd = scoped(std::sync::Arc::new(etcd.clone()), MASTER);
    let leadership = on_etcd.campaign("leader", "fleet", Duration::from_secs(2)).await.unwrap();
    assert!(leadership.term() > term, "{} after {term}", leadership.term());
    let term = leadership.term();
    let refused = move_store(&places, &etcd, Target::Embedded).await.unwrap_err();
    assert!(refused.to_string().contains("led by fleet"), "{refused}");
    leadership.resign().await;
    services.commit(Txn::new().put("apps/new", "made on etcd")).await.unwrap();

    let back = move_all(&places, &etcd, Target::Embedded).await;
    assert_eq!((back[1].records, back[2].records), (2, 1501));
    let own = open_settled(&places.store(Role::Services), SERVICES).await;
    assert!(own.get("apps/new").await.unwrap().is_some());
    drop(own);
    let own = open_settled(&places.store(Role::Master), MASTER).await;
    let leadership = own.campaign("leader", "single", Duration::from_secs(2)).await.unwrap();
    assert!(leadership.term() > term);
    leadership.resign().await;
    drop(own);

    // A component that still goes to etcd is stopped there.
    let files = places_files(&world, &places);
    let settings = StoreSettings { etcd: true, endpoints: vec![master.url()], ..StoreSettings::default() };
    let settings = settings.files_or(&files[0], &files[1], &files[2]);
    let endpoints = watch::channel(Vec::new()).1;
    let at = Open { embedded: places.store(Role::Services), prefix: SERVICES.to_owned(), endpoints };
    let stale = open(&settings, at.clone()).await.unwrap();
    let error = stale.get("apps/new").await.unwrap_err();
    assert!(error.code() == "broken" && error.to_string().contains("store.etcd = false"), "{error}");

    // And there once more: what is stale on etcd is replaced.
    drop(open_settled(&places.store(Role::Master), MASTER).await);
    let third = move_all(&places, &etcd, Target::Etcd).await;
    assert_eq!(third[2].records, 1501);
    assert!(open(&settings, at).await.unwrap().get("apps/new").await.unwrap().is_some());
}

/// Moves once the files that were just closed are free.
async fn move_all(places: &Places, etcd: &plenum_store::Etcd, to: Target) -> Vec<plenum_etcd::Moved> {
    for _ in 0..100 {
        match move_store(places, etcd, to).await {
            Err(MoveError::Store { source, .. }) if source.code() == "in_use" => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other.unwrap(),
        }
    }
    panic!("a file stays in use");
}

fn places_files(world: &World, places: &Places) -> [std::path::PathBuf; 3] {
    let tls = world.tls();
    [("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)].map(|(name, content)| {
        let path = places.state.join(name);
        std::fs::write(&path, content).unwrap();
        path
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back() {
    let (world, master) = set_up().await;
    let places = world.places("single");
    fill(&places).await;
    let etcd = world.store(&[master.url()]).await;
    let folder = world.folder.path().join("backup");
    let mut written = backup(&places, None, &folder).await;
    for _ in 0..100 {
        if !matches!(&written, Err(MoveError::Store { source, .. }) if source.code() == "in_use") {
            break;
        }
        std::fs::remove_dir_all(&folder).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        written = backup(&places, None, &folder).await;
    }
    assert_eq!(written.unwrap().len(), 2);
    assert!(backup(&places, None, &folder).await.is_err(), "nothing is overwritten");
    let read = restore(&places, Some(&etcd), &folder).await.unwrap();
    assert_eq!(read.iter().map(|part| part.records).collect::<Vec<_>>(), [2, 1500]);
    let refused = restore(&places, Some(&etcd), &folder).await.unwrap_err();
    assert!(matches!(refused, MoveError::Occupied { .. }), "{refused}");
    let second = world.folder.path().join("second");
    assert_eq!(backup(&places, Some(&etcd), &second).await.unwrap().len(), 4);
    let file = second.join("services.backup");
    let mut bytes = std::fs::read(&file).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&file, bytes).unwrap();
    let other = world.places("other");
    let broken = restore(&other, None, &second).await.unwrap_err();
    assert!(broken.to_string().contains("cut off"), "{broken}");
}
