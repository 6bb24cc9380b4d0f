//! What works: names, platforms, packings, layers in overlayfs' form, credentials, mirrors, pins, progress.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::sync::{Arc, Mutex};

use plenum_images::{
    Auth, Digest, Image, ImageError, Images, Listener, Platform, Settings, Stage, auth::Login,
};
use serde_json::json;
use tar::EntryType;

use crate::fixture::{Tar, build, close, gzip, noise, one, pin, pull, pull_as, quick, zstd};
use crate::registry::{Fake, Fault, Guard};

fn basic(user: &str, password: &str) -> Login {
    Login::Basic { user: user.to_owned(), password: password.to_owned() }
}

#[tokio::test]
async fn layers_take_overlayfs_form() {
    let fake = Fake::start().await;
    let lower = Tar::default()
        .folder("tmp/", 0o1777)
        .folder("etc/", 0o755)
        .owned("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n", 0o644, 0, 0)
        .owned("bin/su", b"#!", 0o4755, 0, 0)
        .owned("home/web", b"mine", 0o600, 33, 34)
        .hard_link("bin/su2", "bin/su")
        .symlink("bin/sh", "/bin/su")
        .pax(&[
            ("SCHILY.xattr.user.note", b"yes"),
            ("SCHILY.xattr.trusted.evil", b"no"),
            ("mtime", b"1234.5"),
        ])
        .file("marked", b"x")
        .file("gone", b"x")
        .folder("hidden", 0o755)
        .file("hidden/a", b"x")
        .raw(crate::fixture::header("pipe", EntryType::Fifo, 0, 0o644), b"")
        .end();
    let upper = Tar::default()
        .file("tmp/new", b"y")
        .file(".wh.gone", b"")
        .file("hidden/.wh..wh..opq", b"")
        .file("hidden/b", b"y")
        .file(".wh..wh.plnk", b"")
        .end();
    let config = json!({"Entrypoint": ["/bin/sh"], "User": "web", "WorkingDir": "/srv"});
    let (a, b) = (gzip(&lower), zstd(&upper));
    fake.push("app", "1", &build(&[(lower, a, "+gzip"), (upper, b, "+zstd")], &config));
    for unpacker in [None, Some(vec![env!("CARGO_BIN_EXE_plenum-unpack").into()])] {
        let settings = Settings { unpacker, ..quick(&fake) };
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path(), settings).unwrap();
        as_meant(&pull(&images, "app:1").await.unwrap());
    }
}

fn as_meant(image: &Image) {
    assert_eq!(image.config.entrypoint, ["/bin/sh"]);
    assert_eq!(image.notes, Vec::<String>::new());
    let [lower, upper] = &image.layers[..] else { panic!("{:?}", image.layers) };
    let at = |path: &str| fs::symlink_metadata(lower.join(path)).unwrap();
    assert_eq!(at("bin/su").mode() & 0o7777, 0o4755);
    assert_eq!((at("bin/su").nlink(), at("bin/su").ino()), (2, at("bin/su2").ino()));
    assert_eq!((at("home/web").uid(), at("home/web").gid()), (33, 34));
    assert_eq!(fs::read_link(lower.join("bin/sh")).unwrap().to_str(), Some("/bin/su"));
    assert_eq!((at("marked").mtime(), at("marked").mtime_nsec()), (1234, 500_000_000));
    assert_eq!(at("tmp").mtime(), 1_700_000_000, "a folder's time, although something was put into it");
    assert!(at("pipe").file_type().is_fifo());
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(lower.join("marked"), "user.note", &mut value), Ok(3));
    assert!(rustix::fs::getxattr(lower.join("marked"), "trusted.evil", &mut value).is_err());
    let gone = fs::symlink_metadata(upper.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(rustix::fs::getxattr(upper.join("hidden"), "trusted.overlay.opaque", &mut value), Ok(1));
    assert!(!upper.join(".wh..wh.plnk").exists());
    // The upper archive does not mention /tmp; it is as below and not as folders usually are.
    assert_eq!(fs::metadata(upper.join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
    let user = image.user(image.config.user.as_deref().unwrap()).unwrap();
    assert_eq!((user.uid, user.gid), (33, 34));
}

#[tokio::test]
async fn what_is_here_costs_no_request_and_layers_are_shared() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let base = Tar::default().file("base", &noise(10_000, 1)).end();
    let (top_a, top_b) = (Tar::default().file("a", b"a").end(), Tar::default().file("b", b"b").end());
    let layer = |plain: &Vec<u8>| (plain.clone(), gzip(plain), "+gzip");
    fake.push("app", "a", &build(&[layer(&base), layer(&top_a)], &json!({})));
    fake.push("app", "b", &build(&[layer(&base), layer(&top_b), layer(&top_b)], &json!({})));
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let pinned = pin(&images, "app:a", &Auth::none()).await.unwrap();
    let a = images.pull(&pinned, &Auth::none(), &Listener::none()).await.unwrap();
    let before = fake.requests();
    assert_eq!(images.pull(&pinned, &Auth::none(), &Listener::none()).await.unwrap(), a);
    let by_digest = pin(&images, &format!("app@{}", pinned.digest), &Auth::none()).await.unwrap();
    assert_eq!(by_digest, pinned);
    assert_eq!(images.find(&pinned).as_ref(), Some(&a));
    assert_eq!(fake.requests(), before, "everything is here");
    let b = pull(&images, "app:b").await.unwrap();
    assert_eq!(b.layers[0], a.layers[0]);
    assert_eq!(b.layers.len(), 3, "the same bytes twice are two layers");
    let base = Digest::of(&gzip(&base)).to_string();
    let downloads =
        fake.content.lock().unwrap().seen.iter().filter(|(path, ..)| path.ends_with(&base)).count();
    assert_eq!(downloads, 1);
    // Packed layers are not kept.
    assert!(
        fs::read_dir(dir.path().join("blobs"))
            .unwrap()
            .all(|entry| !entry.unwrap().path().ends_with(base.replace(':', "-")))
    );
    // After a restart, too; and only one process has the store.
    assert!(matches!(Images::open(dir.path(), quick(&fake)), Err(ImageError::Busy { .. })));
    close(images).await;
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    assert_eq!(images.find(&pinned), Some(a));
}

#[tokio::test]
async fn the_tag_moves_and_the_pin_does_not() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    fake.push("app", "latest", &one(Tar::default().file("v1", b"").end()));
    let pinned = pin(&images, "app", &Auth::none()).await.unwrap();
    fake.push("app", "latest", &one(Tar::default().file("v2", b"").end()));
    let image = images.pull(&pinned, &Auth::none(), &Listener::none()).await.unwrap();
    assert!(image.layers[0].join("v1").exists());
    assert_ne!(pin(&images, "app", &Auth::none()).await.unwrap(), pinned);
    let text = serde_json::to_string(&pinned).unwrap();
    assert_eq!(serde_json::from_str::<plenum_images::Pinned>(&text).unwrap(), pinned);
}

#[tokio::test]
async fn an_index_is_chosen_from_by_platform() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let built = one(Tar::default().file("here", b"").end());
    let digest = fake.push("app", "single", &built);
    let here = Platform::here().architecture;
    let offer = |digest: &Digest, architecture: &str| json!({"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
    let index =
        json!({"schemaVersion": 2, "manifests": [offer(&Digest::of(b"x"), "other"), offer(&digest, &here)]});
    let index = index.to_string();
    fake.push_document("app", "many", index.as_bytes());
    let pinned = pin(&images, "app:many", &Auth::none()).await.unwrap();
    assert_eq!((&pinned.digest, &pinned.manifest), (&Digest::of(index.as_bytes()), &digest));
    assert!(
        images.pull(&pinned, &Auth::none(), &Listener::none()).await.unwrap().layers[0].join("here").exists()
    );
    let reference = images.reference("app:many").unwrap();
    let error = images.resolve(&reference, &Auth::none(), &Platform::linux("s390x")).await.unwrap_err();
    assert_eq!(error.code(), "IMAGE_PLATFORM");
    // A single image that is for something else.
    let mut other = pin(&images, "app:single", &Auth::none()).await.unwrap();
    other.platform = Platform::linux("s390x");
    let error = images.pull(&other, &Auth::none(), &Listener::none()).await.unwrap_err();
    assert_eq!(error.code(), "IMAGE_PLATFORM", "{error}");
}

#[tokio::test]
async fn credentials_as_the_registry_asks_for_them() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let built = one(Tar::default().file("x", b"").end());
    fake.push("team/app", "1", &built);
    let pair = "bWU6c2VjcmV0".to_owned();
    for (guard, anybody) in
        [(Guard::Basic(pair.clone()), false), (Guard::Bearer(Some(pair)), false), (Guard::Bearer(None), true)]
    {
        fake.guard(guard.clone());
        let folder = dir.path().join(format!("{anybody}{}", fake.requests()));
        let images = Images::open(&folder, quick(&fake)).unwrap();
        let nobody = pull(&images, "team/app:1").await;
        assert_eq!(nobody.is_ok(), anybody, "{guard:?}");
        if let Err(error) = nobody {
            assert_eq!(error.code(), "IMAGE_DENIED");
            assert!(error.to_string().contains("credentials"), "{error}");
            let wrong = Auth::none().with(&fake.host, basic("me", "wrong"));
            let error = pull_as(&images, "team/app:1", &wrong).await.unwrap_err();
            assert!(error.code() == "IMAGE_DENIED" && !error.to_string().contains("wrong"), "{error}");
            let text = format!(r#"{{"auths": {{"http://{}/v2/": {{"auth": "bWU6c2VjcmV0"}}}}}}"#, fake.host);
            let auth = Auth::from_docker_config(&text).unwrap();
            pull_as(&images, "team/app:1", &auth).await.unwrap();
        }
    }
}

#[tokio::test]
async fn credentials_do_not_follow_redirects_or_leave_tls() {
    let (fake, other, dir) = (Fake::start().await, Fake::start().await, tempfile::tempdir().unwrap());
    let built = one(Tar::default().file("x", b"").end());
    fake.push("app", "1", &built);
    other.push("app", "1", &built);
    fake.guard(Guard::Basic("bWU6c2VjcmV0".to_owned()));
    let blob = built.layers[0].to_string();
    fake.fault(&blob, Fault::Redirect(format!("http://{}/v2/app/blobs/{blob}", other.host)), 9);
    let mut settings = quick(&fake);
    let auth = Auth::none().with(&fake.host, basic("me", "secret"));
    let images = Images::open(&dir.path().join("a"), settings.clone()).unwrap();
    let error = pull_as(&images, "app:1", &auth).await.unwrap_err();
    assert!(error.to_string().contains("without TLS"), "{error}");
    settings.insecure.insert(other.host.clone());
    let images = Images::open(&dir.path().join("b"), settings.clone()).unwrap();
    pull_as(&images, "app:1", &auth).await.unwrap();
    let seen = other.content.lock().unwrap().seen.clone();
    assert!(seen.len() == 1 && seen[0].2.is_none(), "{seen:?}");
    // A token service without TLS gets no password.
    fake.guard(Guard::Realm("http://127.0.0.1:1/token".to_owned()));
    let images = Images::open(&dir.path().join("c"), settings).unwrap();
    let error = pull_as(&images, "app:1", &auth).await.unwrap_err();
    assert!(error.to_string().contains("without TLS"), "{error}");
}

#[tokio::test]
async fn mirrors_come_first_and_the_registry_last() {
    let (fake, mirror, dir) = (Fake::start().await, Fake::start().await, tempfile::tempdir().unwrap());
    let built = one(Tar::default().file("x", &noise(5000, 3)).end());
    fake.push("app", "1", &built);
    let mut settings = quick(&fake);
    settings.insecure.insert(mirror.host.clone());
    let (lying, dead) = (format!("http://{}", mirror.host), "http://127.0.0.1:1".to_owned());
    settings.insecure.insert("127.0.0.1:1".to_owned());
    settings.mirrors.insert(fake.host.clone(), vec![dead, lying]);
    // A mirror without the image, then one that changes it, then a good one.
    let images = Images::open(&dir.path().join("a"), settings.clone()).unwrap();
    pull(&images, "app:1").await.unwrap();
    assert!(mirror.requests() >= 3 && fake.requests() == 3, "{mirror:?} {fake:?}");
    mirror.push("app", "1", &built);
    mirror.fault(&built.layers[0], Fault::Other(noise(built.blobs[&built.layers[0]].len(), 9)), 1);
    let images = Images::open(&dir.path().join("b"), settings.clone()).unwrap();
    pull(&images, "app:1").await.unwrap();
    assert_eq!(fake.requests(), 4, "only the layer that the mirror changed");
    let images = Images::open(&dir.path().join("c"), settings).unwrap();
    pull(&images, "app:1").await.unwrap();
    assert_eq!(fake.requests(), 4);
}

#[tokio::test]
async fn progress_is_told_and_three_layers_come_at_once() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let layers: Vec<_> = (0..8)
        .map(|n| {
            let plain = Tar::default().file(&format!("f{n}"), &noise(20_000, n)).end();
            let packed = gzip(&plain);
            (plain, packed, "+gzip")
        })
        .collect();
    fake.push("app", "1", &build(&layers, &json!({})));
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = Arc::clone(&heard);
    let pinned = pin(&images, "app:1", &Auth::none()).await.unwrap();
    let listener = Listener::new(move |progress| ears.lock().unwrap().push(progress));
    images.pull(&pinned, &Auth::none(), &listener).await.unwrap();
    let heard = heard.lock().unwrap();
    for (index, (_, packed, _)) in layers.iter().enumerate() {
        let of: Vec<_> = heard.iter().filter(|progress| progress.index == index).collect();
        let stages: Vec<_> = of.iter().map(|progress| progress.stage).collect();
        assert!(stages.is_sorted() && stages.contains(&Stage::Downloading), "{stages:?}");
        let last = of.last().unwrap();
        assert_eq!(
            (last.stage, last.done, last.total, last.layers),
            (Stage::Ready, packed.len() as u64, packed.len() as u64, 8)
        );
    }
    let most = fake.most_busy.load(std::sync::atomic::Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at once");
    assert_eq!(fake.still_busy(), 0);
}

#[tokio::test]
async fn two_pulls_at_once_download_once() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let built = one(Tar::default().file("x", &noise(100_000, 5)).end());
    fake.push("app", "1", &built);
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    let (a, b, c) = tokio::join!(pull(&images, "app:1"), pull(&images, "app:1"), pull(&images, "app:1"));
    assert_eq!((a.unwrap(), b.unwrap()), (c.clone().unwrap(), c.unwrap()));
    let layer = built.layers[0].to_string();
    let downloads =
        fake.content.lock().unwrap().seen.iter().filter(|(path, ..)| path.ends_with(&layer)).count();
    assert_eq!(downloads, 1);
}

#[tokio::test]
async fn a_name_without_a_registry_needs_the_setting() {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(dir.path(), Settings::default()).unwrap();
    assert_eq!(images.reference("app").unwrap_err().code(), "IMAGE_NO_REGISTRY");
}
