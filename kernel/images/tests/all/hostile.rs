//! Layers that are made to hurt: each is refused with a sentence, or made harmless; nothing outside its folder is touched and nothing is left.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use plenum_images::{Image, ImageError, Images, Settings};
use serde_json::json;
use tar::EntryType;

use crate::fixture::{Tar, build, gzip, header, listed, noise, one, pull, quick, zstd};
use crate::registry::Fake;

async fn unpacked(
    layer: Vec<u8>,
    change: impl FnOnce(&mut Settings),
    into: &Path,
) -> Result<Image, ImageError> {
    let fake = Fake::start().await;
    fake.push("app", "1", &one(layer));
    let mut settings = quick(&fake);
    change(&mut settings);
    // In this process and in a confined one: the same comes of it.
    let apart =
        Settings { unpacker: Some(vec![env!("CARGO_BIN_EXE_plenum-unpack").into()]), ..settings.clone() };
    let dir = tempfile::tempdir().unwrap();
    let other = pull(&Images::open(dir.path(), apart).unwrap(), "app:1").await;
    let images = Images::open(into, settings).unwrap();
    let done = pull(&images, "app:1").await;
    match (&done, &other) {
        (Ok(one), Ok(other)) => {
            assert_eq!((one.bytes, &one.notes), (other.bytes, &other.notes));
            assert_eq!(listed(&one.layers[0]), listed(&other.layers[0]));
        }
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        different => panic!("{different:?}"),
    }
    assert_eq!(listed(&dir.path().join("tmp")), Vec::<String>::new());
    done
}

/// A folder with something precious beside the store.
fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious"), b"precious").unwrap();
    let store = dir.path().join("store");
    (dir, store)
}

#[tokio::test]
async fn nothing_leads_out() {
    let t = Tar::default;
    let deep = "d/".repeat(250);
    let cases = [
        ("upwards", t().file("../evil", b"x").end(), Some("leads upwards")),
        ("upwards within", t().file("a/../../../evil", b"x").end(), Some("leads upwards")),
        ("through a link", t().symlink("a", "/").file("a/evil", b"x").end(), Some("symbolic link")),
        (
            "through a link upwards",
            t().symlink("a", "../../../..").file("a/evil", b"x").end(),
            Some("symbolic link"),
        ),
        (
            "through two links",
            t().symlink("a", ".").symlink("b", "a/..").file("b/c/evil", b"x").end(),
            Some("symbolic link"),
        ),
        (
            "a folder over a link's target",
            t().symlink("a", "/tmp").folder("a/evil", 0o755).end(),
            Some("symbolic link"),
        ),
        ("a link to the host's file", t().hard_link("shadow", "/etc/shadow").end(), Some("does not have")),
        ("a link upwards", t().hard_link("shadow", "../../../../etc/shadow").end(), Some("leads upwards")),
        (
            "a link through a link",
            t().symlink("a", "/etc").hard_link("shadow", "a/shadow").end(),
            Some("does not have"),
        ),
        (
            "a link to a folder",
            t().folder("a", 0o755).hard_link("b", "a").end(),
            Some("hard link to the folder"),
        ),
        ("a link to the root", t().hard_link("b", "/").end(), Some("does not have")),
        ("a whiteout upwards", t().file(".wh...", b"").end(), Some("hides nothing")),
        ("a whiteout of nothing", t().file(".wh.", b"").end(), Some("hides nothing")),
        ("within a whiteout", t().file(".wh.a/b", b"").end(), Some("within a whiteout")),
        (
            "a whiteout through a link",
            t().symlink("a", "/etc").file("a/.wh.passwd", b"").end(),
            Some("symbolic link"),
        ),
        (
            "opaque through a link",
            t().symlink("a", "/etc").file("a/.wh..wh..opq", b"").end(),
            Some("symbolic link"),
        ),
        ("a file as a folder", t().file("a", b"x").file("a/b", b"x").end(), Some("not a folder")),
        ("the root as a link", t().symlink("./", "/etc").end(), Some("root is not a folder")),
        ("NUL in a name", t().pax(&[("path", b"a\0b")]).file("x", b"").end(), Some("NUL")),
        ("too deep", t().pax(&[("path", deep.as_bytes())]).folder("x", 0o755).end(), Some("too deep")),
        ("a link without a target", t().symlink("a", "").end(), Some("not a path")),
        (
            "an owner beyond numbers",
            t().pax(&[("uid", b"4294967295")]).file("x", b"").end(),
            Some("not a user id"),
        ),
        (
            "an unknown entry",
            t().raw(header("x", EntryType::new(b'V'), 0, 0o644), b"").end(),
            Some("not understood"),
        ),
        ("an absolute path", t().file("/etc/evil", b"x").end(), None),
        ("a link that only points out", t().symlink("a", "/etc/shadow").end(), None),
        (
            "a link replaced by a folder",
            t().symlink("a", "/etc").folder("a", 0o755).file("a/evil", b"x").end(),
            None,
        ),
        ("a link replaced by a file", t().symlink("a", "/precious").file("a", b"x").end(), None),
        ("a folder replaced by a file", t().folder("a", 0o755).file("a/b", b"").file("a", b"x").end(), None),
    ];
    for (what, layer, word) in cases {
        let (dir, store) = place();
        let done = unpacked(layer, |_| (), &store).await;
        match (&done, word) {
            (Ok(_), None) => {}
            (Err(error @ ImageError::Archive { .. }), Some(word)) => {
                assert!(error.to_string().contains(word), "{what}: {error}");
                assert!(
                    listed(&store.join("layers")).is_empty() && listed(&store.join("tmp")).is_empty(),
                    "{what}"
                );
            }
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!(listed(dir.path()), ["precious", "store"], "{what}");
        assert_eq!(fs::read(dir.path().join("precious")).unwrap(), b"precious", "{what}");
        assert!(!Path::new("/evil").exists() && !Path::new("/etc/evil").exists(), "{what}");
    }
}

#[tokio::test]
async fn an_absolute_path_begins_at_the_layers_root() {
    let (_dir, store) = place();
    let image = unpacked(Tar::default().file("/etc/evil", b"x").end(), |_| (), &store).await.unwrap();
    assert_eq!(fs::read(image.layers[0].join("etc/evil")).unwrap(), b"x");
}

#[tokio::test]
async fn devices_are_left_out_unless_allowed() {
    let layer = Tar::default()
        .device("null", EntryType::Char, 1, 3)
        .device("disk", EntryType::Block, 8, 0)
        .device("whiteout", EntryType::Char, 0, 0)
        .end();
    let (_dir, store) = place();
    let image = unpacked(layer.clone(), |_| (), &store).await.unwrap();
    assert_eq!(listed(&image.layers[0]), Vec::<String>::new());
    assert_eq!(image.notes.len(), 3, "{:?}", image.notes);
    assert!(image.notes[1].contains("disk"));
    let (_dir, store) = place();
    let image = unpacked(layer, |settings| settings.devices = true, &store).await.unwrap();
    assert_eq!(listed(&image.layers[0]), ["disk", "null"], "overlayfs' own device is never made");
    let null = fs::metadata(image.layers[0].join("null")).unwrap();
    assert!(
        null.file_type().is_char_device()
            && null.rdev() == rustix::fs::makedev(1, 3)
            && null.mode() & 0o777 == 0o666
    );
}

#[tokio::test]
async fn bombs_meet_their_bounds() {
    let zeros = Tar::default().file("zeros", &vec![0; 80 << 20]).end();
    let files = (0..200).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), b"")).end();
    // Holes: nothing on disk, but as large as one likes.
    let sparse = |size: &str| {
        Tar::default()
            .pax(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", b"0,3")])
            .file("holes", b"abc")
            .end()
    };
    let tera = (1_u64 << 40).to_string();
    type Change = fn(&mut Settings);
    let cases: [(&str, Vec<u8>, Change, &str); 5] = [
        ("ratio", zeros.clone(), |_| (), "bytes"),
        ("size", zeros, |settings| (settings.unpacked_max, settings.ratio_max) = (1 << 20, 100_000), "bytes"),
        ("entries", files, |settings| settings.entries_max = 100, "100 entries"),
        ("holes", sparse(&tera), |_| (), "bytes"),
        ("holes without end", sparse("18446744073709551615"), |_| (), "sparse"),
    ];
    for (what, layer, change, word) in cases {
        let (_dir, store) = place();
        let error = unpacked(layer, change, &store).await.unwrap_err();
        assert!(matches!(error.code(), "IMAGE_LAYER_LIMIT" | "IMAGE_LAYER"), "{what}: {error}");
        assert!(error.to_string().contains(word), "{what}: {error}");
        assert!(listed(&store.join("tmp")).is_empty() && listed(&store.join("layers")).is_empty(), "{what}");
    }
    // The bound is of the image: what layers below have taken counts.
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let layer = |n: u8| {
        let plain = Tar::default().file(&format!("f{n}"), &noise(600_000, u64::from(n))).end();
        (plain.clone(), gzip(&plain), "+gzip")
    };
    fake.push("app", "1", &build(&[layer(1), layer(2)], &json!({})));
    let images = Images::open(dir.path(), Settings { unpacked_max: 1_000_000, ..quick(&fake) }).unwrap();
    assert_eq!(pull(&images, "app:1").await.unwrap_err().code(), "IMAGE_LAYER_LIMIT");
}

#[tokio::test]
async fn damaged_archives() {
    let fine = Tar::default().file("a", &noise(5000, 1)).end();
    let mut flipped = fine.clone();
    flipped[5] = b'z';
    let long = header("x", EntryType::XHeader, 2 << 20, 0o644);
    let name = header("x", EntryType::GNULongName, u64::MAX / 2, 0o644);
    let mut huge = header("a", EntryType::Regular, 0, 0o644);
    huge.set_size(u64::MAX >> 2);
    for (what, layer) in [
        ("not an archive", noise(5000, 2)),
        ("a header changed", flipped),
        ("cut in a file", fine[..2000].to_vec()),
        ("cut in a header", fine[..100].to_vec()),
        ("a large PAX header", Tar::default().raw(long, &[b'0'; 2 << 20]).end()),
        ("a long name without end", Tar::default().raw(name, b"x").end()),
        ("a size without end", Tar::default().raw(huge, b"x").end()),
        (
            "a broken PAX record",
            Tar::default().raw(header("x", EntryType::XHeader, 5, 0o644), b"99 x=").end(),
        ),
    ] {
        let (_dir, store) = place();
        let error = unpacked(layer, |_| (), &store).await.unwrap_err();
        assert_eq!(error.code(), "IMAGE_LAYER", "{what}: {error}");
        assert!(listed(&store.join("tmp")).is_empty() && listed(&store.join("layers")).is_empty(), "{what}");
    }
    // Damaged packing: cut, garbage behind a good beginning.
    let (gz, zs) = (gzip(&fine), zstd(&fine));
    for packed in
        [gz[..gz.len() / 2].to_vec(), zs[..zs.len() / 2].to_vec(), [&gz[..50], &noise(500, 1)[..]].concat()]
    {
        let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
        fake.push("app", "1", &build(&[(fine.clone(), packed, "+gzip")], &json!({})));
        let images = Images::open(dir.path(), quick(&fake)).unwrap();
        assert_eq!(pull(&images, "app:1").await.unwrap_err().code(), "IMAGE_LAYER");
        assert!(listed(&dir.path().join("tmp")).is_empty());
    }
    // Something else than the configuration says, behind the archive's end.
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let more = [&fine[..], b"more"].concat();
    fake.push("app", "1", &build(&[(fine, gzip(&more), "+gzip")], &json!({})));
    let images = Images::open(dir.path(), quick(&fake)).unwrap();
    assert_eq!(pull(&images, "app:1").await.unwrap_err().code(), "IMAGE_DIGEST");
}

#[tokio::test]
async fn unusual_but_honest_archives() {
    let name = format!("{}/{}", "n".repeat(200), "m".repeat(200));
    let mut sparse = header("old", EntryType::GNUSparse, 6, 0o644);
    {
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.set_real_size(5000);
        for (run, (at, length)) in gnu.sparse.iter_mut().zip([(0, 3), (4000, 3)]) {
            run.set_offset(at);
            run.set_length(length);
        }
    }
    let mut in_data = b"2\n0\n3\n4000\n3\n".to_vec();
    in_data.resize(512, 0);
    in_data.extend_from_slice(b"abcdef");
    let mut long_link = header("l", EntryType::GNULongLink, 300, 0o644);
    long_link.set_mtime(0);
    let target = "t".repeat(299);
    let layer = Tar::default()
        .pax(&[("path", name.as_bytes())])
        .file("short", b"long")
        .raw(
            header("L", EntryType::GNULongName, name.len() as u64 + 3, 0o644),
            format!("{name}-2\0").as_bytes(),
        )
        .file("short", b"gnu")
        .raw(long_link, format!("{target}\0").as_bytes())
        .symlink("link", "short")
        .raw(sparse, b"abcdef")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"new"),
            ("GNU.sparse.realsize", b"5000"),
        ])
        .file("GNUSparseFile.0/new", &in_data)
        .pax(&[("size", b"4"), ("mtime", b"-5.5")])
        .raw(header("sized", EntryType::Regular, 4, 0o644), b"size")
        .raw(header("V7/", EntryType::Regular, 0, 0o755), b"")
        .file("last", b"last")
        .end();
    let (_dir, store) = place();
    let image = unpacked(layer, |_| (), &store).await.unwrap();
    let root = &image.layers[0];
    assert_eq!(fs::read(root.join(&name)).unwrap(), b"long");
    assert_eq!(fs::read(root.join(format!("{name}-2"))).unwrap(), b"gnu");
    assert_eq!(fs::read_link(root.join("link")).unwrap().to_str(), Some(target.as_str()));
    for file in ["old", "new"] {
        let content = fs::read(root.join(file)).unwrap();
        assert_eq!(
            (content.len(), &content[..3], &content[4000..4003]),
            (5000, &b"abc"[..], &b"def"[..]),
            "{file}"
        );
        assert!(content[3..4000].iter().all(|byte| *byte == 0));
    }
    assert!(!root.join("GNUSparseFile.0").exists());
    assert_eq!(fs::metadata(root.join("sized")).unwrap().mtime(), -5);
    assert!(root.join("V7").is_dir());
    assert_eq!(fs::read(root.join("last")).unwrap(), b"last");
}

#[tokio::test]
async fn a_store_behind_a_link_is_the_operators_choice_and_layers_stay_in_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink(dir.path().join("real"), dir.path().join("store")).unwrap();
    let image =
        unpacked(Tar::default().file("a", b"x").end(), |_| (), &dir.path().join("store")).await.unwrap();
    assert!(image.layers[0].join("a").exists());
    assert_eq!(fs::metadata(dir.path().join("real/layers")).unwrap().mode() & 0o777, 0o700);
}
