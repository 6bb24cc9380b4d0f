//! Registries that fail: statuses, stalls, breaks, lies about lengths and digests, documents without end; full disks; crashes; pulls given up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use plenum_images::{Auth, Digest, Images, Listener, Settings};
use serde_json::json;

use crate::fixture::{Built, Tar, build, close, gzip, listed, noise, one, pin, pull, quick};
use crate::registry::{Fake, Fault};

fn large(seed: u64) -> Built {
    one(Tar::default().file("x", &noise(900_000, seed)).end())
}

/// Nothing is half there.
fn is_tidy(folder: &Path) {
    assert_eq!(listed(&folder.join("tmp")), Vec::<String>::new());
    assert_eq!(listed(&folder.join("images")).len(), listed(&folder.join("layers")).len());
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let built = large(1);
    let digest = fake.push("app", "1", &built);
    fake.fault("/manifests/1", Fault::Status(503), 2);
    fake.fault(built.config.clone().unwrap(), Fault::Status(429), 1);
    fake.fault(&built.layers[0], Fault::Status(500), 1);
    fake.fault(&built.layers[0], Fault::Break(300_000), 1);
    fake.fault(&built.layers[0], Fault::Stall(100_000), 1);
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let image = pull(&images, "app:1").await.unwrap();
    assert_eq!(image.pinned.digest, digest);
    let ranges = fake.ranges();
    assert_eq!(ranges.len(), 2, "it went on where it broke: {ranges:?}");
    assert!(ranges[0] == "bytes=300000-" && ranges[1] == "bytes=400000-", "{ranges:?}");
    is_tidy(dir.path());
}

#[tokio::test]
async fn what_does_not_pass_is_told() {
    let built = large(2);
    let layer = built.layers[0].to_string();
    let size = built.blobs[&built.layers[0]].len();
    let cases = [
        ("/manifests/1", Fault::Status(500), "IMAGE_REGISTRY_UNREACHABLE"),
        ("/manifests/1", Fault::Status(403), "IMAGE_DENIED"),
        ("/manifests/1", Fault::Status(404), "IMAGE_NOT_FOUND"),
        ("/manifests/1", Fault::Status(400), "IMAGE_REGISTRY_UNREACHABLE"),
        ("/manifests/1", Fault::Stall(10), "IMAGE_REGISTRY_STALLED"),
        ("/manifests/1", Fault::Other(b"<html>".to_vec()), "IMAGE_CONTENT"),
        ("/manifests/1", Fault::Endless(100 << 20), "IMAGE_TOO_LARGE"),
        ("/manifests/1", Fault::Redirect("/v2/app/manifests/1".to_owned()), "IMAGE_REGISTRY_UNREACHABLE"),
        (&layer, Fault::Status(404), "IMAGE_NOT_FOUND"),
        (&layer, Fault::Stall(10), "IMAGE_REGISTRY_STALLED"),
        (&layer, Fault::Break(10), "IMAGE_REGISTRY_UNREACHABLE"),
        (&layer, Fault::Other(noise(size, 77)), "IMAGE_DIGEST"),
        (&layer, Fault::Other(noise(size - 5, 77)), "IMAGE_REGISTRY_UNREACHABLE"),
        (&layer, Fault::Other(noise(size + 5, 77)), "IMAGE_TOO_LARGE"),
        (&layer, Fault::Endless(100 << 20), "IMAGE_TOO_LARGE"),
    ];
    for (path, fault, code) in cases {
        let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
        fake.push("app", "1", &built);
        fake.fault(path, fault.clone(), u32::MAX);
        let images = Images::open(dir.path(), quick(&fake)).unwrap();
        let shown: String = format!("{fault:?}").chars().take(30).collect();
        let done = tokio::time::timeout(Duration::from_secs(30), pull(&images, "app:1")).await;
        let error = done.unwrap_or_else(|_| panic!("{path} {shown} hung")).unwrap_err();
        assert_eq!(error.code(), code, "{path} {shown}: {error}");
        assert!(error.to_string().len() < 600, "{error}");
        is_tidy(dir.path());
        // It was the registry's fault and is over with it.
        fake.content.lock().unwrap().guard = None;
        let fake = Fake::start().await;
        fake.push("app", "1", &built);
        close(images).await;
        let images = Images::open(dir.path(), quick(&fake)).unwrap();
        pull(&images, "app:1").await.unwrap();
        is_tidy(dir.path());
    }
}

#[tokio::test]
async fn a_download_goes_on_after_a_restart_and_bad_parts_are_thrown_away() {
    for (what, fault) in
        [("goes on", None), ("no ranges", Some(Fault::NoRange)), ("wrong range", Some(Fault::WrongRange))]
    {
        let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
        let built = large(3);
        fake.push("app", "1", &built);
        fake.fault(&built.layers[0], Fault::Stall(500_000), 99);
        let mut settings = quick(&fake);
        settings.attempts = 1;
        let images = Images::open(dir.path(), settings.clone()).unwrap();
        pull(&images, "app:1").await.unwrap_err();
        close(images).await;
        let partial = dir.path().join("partial").join(built.layers[0].file_name());
        assert_eq!(fs::metadata(&partial).unwrap().len(), 500_000, "{what}");
        {
            let mut content = fake.content.lock().unwrap();
            content.seen.clear();
            let last = fault.clone();
            drop(content);
            clear_faults(&fake);
            if let Some(fault) = last {
                fake.fault(&built.layers[0], fault, 1);
            }
        }
        settings.attempts = 3;
        let images = Images::open(dir.path(), settings.clone()).unwrap();
        pull(&images, "app:1").await.unwrap();
        assert_eq!(fake.ranges().first().map(String::as_str), Some("bytes=500000-"), "{what}");
        assert!(!partial.exists());
        is_tidy(dir.path());
    }
    // A part that is not what it should be, and one that is too long.
    for length in [1000, 10_000_000] {
        let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
        let built = large(4);
        fake.push("app", "1", &built);
        let images = Images::open(dir.path(), quick(&fake)).unwrap();
        fs::write(dir.path().join("partial").join(built.layers[0].file_name()), noise(length, 8)).unwrap();
        pull(&images, "app:1").await.unwrap();
        is_tidy(dir.path());
    }
}

fn clear_faults(fake: &Fake) {
    fake.clear_faults();
}

#[tokio::test]
async fn a_crash_leaves_only_what_the_next_start_removes() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let built = large(5);
    fake.push("app", "1", &built);
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"x").unwrap();
    let store = dir.path().join("store");
    drop(Images::open(&store, quick(&fake)).unwrap());
    // A layer in the making, with a link that leads out; a record and a hold in the making.
    fs::create_dir_all(store.join("tmp/1-0/fs/etc")).unwrap();
    symlink(&outside, store.join("tmp/1-0/fs/out")).unwrap();
    symlink(&outside, store.join("tmp/1-1")).unwrap();
    fs::write(store.join("images/sha256-x.json.1.1.tmp"), b"{").unwrap();
    fs::write(store.join("holds/c.1.1.tmp"), b"{").unwrap();
    // A layer whose note is missing, under the name of the one to come.
    let name: String =
        Digest::of(&Tar::default().file("x", &noise(900_000, 5)).end()).hex().chars().take(32).collect();
    fs::create_dir_all(store.join("layers").join(&name).join("fs/wrong")).unwrap();
    let images = Images::open(&store, quick(&fake)).unwrap();
    assert_eq!(listed(&store.join("tmp")), Vec::<String>::new());
    assert_eq!(listed(&outside), ["precious"]);
    assert!(listed(&store.join("images")).is_empty() && listed(&store.join("holds")).is_empty());
    let image = pull(&images, "app:1").await.unwrap();
    assert!(image.layers[0].join("x").exists() && !image.layers[0].join("wrong").exists());
    is_tidy(&store);
}

#[tokio::test]
async fn a_pull_that_is_given_up_stops_and_leaves_nothing() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let built = large(6);
    fake.push("app", "1", &built);
    fake.fault(&built.layers[0], Fault::Stall(1000), 1);
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(100), pull(&images, "app:1")).await;
    assert!(given_up.is_err());
    pull(&images, "app:1").await.unwrap();
    is_tidy(dir.path());
}

/// A small file system of its own; unmounted with its holder.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(bytes: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        nix::mount::mount(
            Some("none"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        Self(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_left() {
    let (fake, disk) = (Fake::start().await, Disk::of("3m"));
    // Too large packed; then too large unpacked.
    fake.push("app", "packed", &one(Tar::default().file("x", &noise(4 << 20, 7)).end()));
    fake.push("app", "unpacked", &one(Tar::default().file("x", &vec![1; 8 << 20]).end()));
    fake.push("app", "small", &one(Tar::default().file("x", b"x").end()));
    let store = disk.0.path().join("store");
    let images = Images::open(&store, quick(&fake)).unwrap();
    for tag in ["packed", "unpacked"] {
        let error = pull(&images, &format!("app:{tag}")).await.unwrap_err();
        assert_eq!(error.code(), "IMAGE_DISK_FULL", "{error}");
        assert!(error.may_pass());
        is_tidy(&store);
        assert_eq!(listed(&store.join("partial")), Vec::<String>::new());
    }
    pull(&images, "app:small").await.unwrap();
}

#[tokio::test]
async fn documents_that_do_not_fit_together() {
    let plain = Tar::default().file("x", b"x").end();
    let other = Tar::default().file("y", b"y").end();
    let packed = gzip(&plain);
    // The configuration names another layer than the manifest has.
    let swapped = build(&[(other.clone(), packed.clone(), "+gzip")], &json!({}));
    let mut fewer = build(&[(plain.clone(), packed.clone(), "+gzip")], &json!({}));
    let mut manifest: serde_json::Value = serde_json::from_slice(&fewer.manifest).unwrap();
    manifest["layers"] = json!([]);
    fewer.manifest = manifest.to_string().into_bytes();
    let mut huge = build(&[(plain.clone(), packed.clone(), "+gzip")], &json!({}));
    let mut manifest: serde_json::Value = serde_json::from_slice(&huge.manifest).unwrap();
    manifest["layers"][0]["size"] = json!(u64::MAX);
    huge.manifest = manifest.to_string().into_bytes();
    let mut config = build(&[(plain, packed, "+gzip")], &json!({}));
    let mut manifest: serde_json::Value = serde_json::from_slice(&config.manifest).unwrap();
    manifest["config"]["size"] = json!(100 << 20);
    config.manifest = manifest.to_string().into_bytes();
    for (built, code) in [
        (swapped, "IMAGE_DIGEST"),
        (fewer, "IMAGE_CONTENT"),
        (huge, "IMAGE_TOO_LARGE"),
        (config, "IMAGE_TOO_LARGE"),
        (build(&[], &json!({})), "IMAGE_CONTENT"),
    ] {
        let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
        fake.push("app", "1", &built);
        let images = Images::open(dir.path(), quick(&fake)).unwrap();
        let error = pull(&images, "app:1").await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        is_tidy(dir.path());
    }
    // An index that leads to itself in two steps.
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let offer = |digest: &Digest| {
        json!({"schemaVersion": 2, "manifests": [{"digest": digest, "size": 1}]}).to_string()
    };
    let inner = offer(&Digest::of(b"x"));
    fake.push_document("app", &Digest::of(inner.as_bytes()).to_string(), inner.as_bytes());
    fake.push_document("app", "1", offer(&Digest::of(inner.as_bytes())).as_bytes());
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let error = pin(&images, "app:1", &Auth::none()).await.unwrap_err();
    assert!(error.to_string().contains("another index"), "{error}");
    // A pin whose manifest the registry answers with something else.
    fake.push("app", "2", &large(9));
    let mut pinned = pin(&images, "app:2", &Auth::none()).await.unwrap();
    pinned.manifest = Digest::of(b"something");
    fake.push_document("app", &pinned.manifest.to_string(), b"{}");
    let error = images.pull(&pinned, &Auth::none(), &Listener::none()).await.unwrap_err();
    assert_eq!(error.code(), "IMAGE_DIGEST");
}

const STORE: &str = "PLENUM_TEST_STORE";
const HOST: &str = "PLENUM_TEST_REGISTRY";

/// Not a test: what the next one starts and kills.
#[tokio::test]
#[ignore = "started by the test that kills it"]
async fn victim() {
    let (Ok(store), Ok(host)) = (std::env::var(STORE), std::env::var(HOST)) else { return };
    let settings = Settings {
        default_registry: Some(host.clone()),
        insecure: [host].into(),
        unpacker: Some(vec![env!("CARGO_BIN_EXE_plenum-unpack").into()]),
        ..Settings::default()
    };
    let images = Images::open(Path::new(&store), settings).unwrap();
    let pinned = pin(&images, "app:1", &Auth::none()).await.unwrap();
    images.hold("c", &pinned).await.unwrap();
    images.pull(&pinned, &Auth::none(), &Listener::none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_the_store_is_whole_at_the_next_start() {
    let layers: Vec<_> = (0..4)
        .map(|n| {
            let files = (0..200).fold(Tar::default(), |tar, file| {
                tar.file(&format!("f{n}-{file}"), &noise(4000, n * 1000 + file))
            });
            let plain = files.end();
            let packed = gzip(&plain);
            (plain, packed, "+gzip")
        })
        .collect();
    let fake = Fake::start().await;
    fake.push("app", "1", &build(&layers, &json!({})));
    let mut unfinished = 0;
    for delay in [5, 15, 30, 45, 60, 75, 90, 120, 150, 200, 250, 300, 400, 600] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::victim", "--ignored"])
            .env(STORE, dir.path())
            .env(HOST, &fake.host)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(delay)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let images = Images::open(dir.path(), quick(&fake)).unwrap();
        assert_eq!(listed(&dir.path().join("tmp")), Vec::<String>::new(), "{delay} ms");
        let there = listed(&dir.path().join("layers")).len();
        unfinished += usize::from(listed(&dir.path().join("images")).is_empty());
        // What has a name is whole, and what is missing is got.
        let image = pull(&images, "app:1").await.unwrap();
        for (n, layer) in image.layers.iter().enumerate() {
            assert_eq!(listed(layer).len(), 200, "{delay} ms, {there} layers were there");
            let file = fs::read(layer.join(format!("f{n}-199"))).unwrap();
            assert_eq!(file, noise(4000, n as u64 * 1000 + 199));
        }
        assert_eq!(listed(&dir.path().join("tmp")), Vec::<String>::new());
    }
    assert!(unfinished > 0, "every kill came too late to prove anything");
}
