//! Holds and collection.

use std::fs;
use std::time::{Duration, SystemTime};

use plenum_images::{Auth, Images, Listener, Pinned, Pressure};
use serde_json::json;

use crate::fixture::{Tar, build, close, gzip, listed, noise, pin, quick};
use crate::registry::Fake;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn three(fake: &Fake, images: &Images) -> Vec<Pinned> {
    let layer = |plain: Vec<u8>| (plain.clone(), gzip(&plain), "+gzip");
    let base = Tar::default().file("base", &noise(10_000, 1)).end();
    let mut pins = Vec::new();
    for name in ["a", "b", "c"] {
        let own = Tar::default().file(name, name.as_bytes()).end();
        fake.push("app", name, &build(&[layer(base.clone()), layer(own)], &json!({})));
        let pinned = pin(images, &format!("app:{name}"), &Auth::none()).await.unwrap();
        images.pull(&pinned, &Auth::none(), &Listener::none()).await.unwrap();
        pins.push(pinned);
    }
    pins
}

#[tokio::test]
async fn what_is_held_stays_and_the_rest_goes_by_age() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let pins = three(&fake, &images).await;
    images.hold("c1", &pins[0]).await.unwrap();
    images.hold("c2", &pins[0]).await.unwrap();
    images.hold("c3", &pins[1]).await.unwrap();
    let age = Pressure { unused_for: DAY, free: 0 };
    let now = SystemTime::now();
    assert!(images.collect(now, age).await.unwrap().images.is_empty(), "nothing is old");
    let collected = images.collect(now + 2 * DAY, age).await.unwrap();
    assert_eq!(collected.images, [pins[2].name()]);
    assert_eq!(collected.layers, 1, "the layer that others have stays");
    // Holds are on disk: a restart knows them.
    close(images).await;
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let holds = images.holds().unwrap();
    assert_eq!(holds.keys().collect::<Vec<_>>(), ["c1", "c2", "c3"]);
    assert_eq!(holds["c1"].as_ref(), Some(&pins[0]));
    for container in ["c1", "c3", "c3", "never"] {
        images.release(container).await.unwrap();
    }
    let collected = images.collect(now + 2 * DAY, age).await.unwrap();
    assert_eq!(collected.images, [pins[1].name()]);
    assert!(images.find(&pins[0]).is_some(), "one container is left");
    images.release("c2").await.unwrap();
    images.collect(now + 4 * DAY, age).await.unwrap();
    for folder in ["layers", "blobs", "images", "partial", "holds", "tmp"] {
        assert_eq!(listed(&dir.path().join(folder)), Vec::<String>::new(), "{folder}");
    }
}

#[tokio::test]
async fn under_pressure_the_least_recently_used_goes_first() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let pins = three(&fake, &images).await;
    images.hold("c", &pins[1]).await.unwrap();
    let now = SystemTime::now() + Duration::from_secs(600);
    let everything = Pressure { unused_for: DAY, free: u64::MAX };
    let collected = images.collect(now, everything).await.unwrap();
    assert_eq!(collected.images, [pins[0].name(), pins[2].name()]);
    let image = images.find(&pins[1]).expect("it is held");
    assert!(image.layers.iter().all(|layer| layer.exists()));
    // Just pulled: about to be held.
    images.pull(&pins[0], &Auth::none(), &Listener::none()).await.unwrap();
    assert!(images.collect(SystemTime::now(), everything).await.unwrap().images.is_empty());
}

#[tokio::test]
async fn leftovers_go_in_their_time_and_a_hold_that_cannot_be_read_stops_everything() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let pins = three(&fake, &images).await;
    fs::write(dir.path().join("partial/sha256-abc"), b"x").unwrap();
    fs::create_dir_all(dir.path().join("layers/orphan/fs")).unwrap();
    fs::write(dir.path().join("holds/odd"), b"{").unwrap();
    let age = Pressure { unused_for: Duration::ZERO, free: u64::MAX };
    let later = SystemTime::now() + 2 * DAY;
    let nothing = images.collect(later, age).await.unwrap();
    assert!(nothing.images.is_empty() && dir.path().join("layers/orphan").exists());
    images.release("odd").await.unwrap();
    images.hold("c", &pins[0]).await.unwrap();
    let soon = SystemTime::now() + Duration::from_secs(60);
    images.collect(soon, Pressure { unused_for: DAY, free: 0 }).await.unwrap();
    assert!(dir.path().join("layers/orphan").exists() && dir.path().join("partial/sha256-abc").exists());
    let collected = images.collect(later, Pressure { unused_for: 3 * DAY, free: 0 }).await.unwrap();
    assert_eq!((collected.images.len(), collected.layers), (0, 1));
    assert!(!dir.path().join("layers/orphan").exists() && !dir.path().join("partial/sha256-abc").exists());
    assert!(images.find(&pins[0]).is_some());
}

#[tokio::test]
async fn names_of_containers_are_no_paths() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let pins = three(&fake, &images).await;
    for name in ["", ".", "..", "../x", "a/b", "a\0", ".hidden", &"x".repeat(300)] {
        assert!(images.hold(name, &pins[0]).await.is_err(), "{name:?}");
        assert!(images.release(name).await.is_err(), "{name:?}");
    }
}
