//! Archives of the kinds besides tar and gzip: what is in them comes out, and hostile zips stay inside.

use crate::fetch::{get, names, quick};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plenum_containers::fetch::{FetchOptions, FetchUri};
use std::io::{Cursor, Write};
use std::os::unix::fs::PermissionsExt;
use zip::write::SimpleFileOptions;

/// A tar with `a/run` (executable, `hi`), packed with the usual programs.
const XZ: &str = "/Td6WFoAAATm1rRGAgAhARYAAAB0L+Wj4Af/AD9dADCLykeT5VqnXWq6dOgtb02aiyVc50rgnY7AAxVzfacFgqNVYuiq0fS0jtLLsleVmqXgJrTMjNx+Uh76T/w7AAAAZBYfK0eRz/UAAVuAEAAAAOTL40SxxGf7AgAAAAAEWVo=";
const BZ2: &str = "QlpoOTFBWSZTWQwzLD0AACzbgMmQQADrgAAIYGEeAAgIIABUQmgAAGmgkinqaA9QaaBXEp8iBmQF1pwJzvoIYLP1MbsiGEVdD1xQl6aAGhpUyTiREfi7kinChIBhmWHo";

enum Entry<'a> {
    File(&'a str, u32, &'a [u8]),
    Link(&'a str, &'a str),
}

fn zipped(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        match entry {
            Entry::File(name, mode, content) => {
                let options = SimpleFileOptions::default().unix_permissions(*mode);
                archive.start_file(*name, options).unwrap();
                archive.write_all(content).unwrap();
            }
            Entry::Link(name, target) => {
                archive.add_symlink(*name, *target, SimpleFileOptions::default()).unwrap();
            }
        }
    }
    archive.finish().unwrap().into_inner()
}

fn plain_tar() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o755);
    archive.append_data(&mut header, "a/run", &b"hi\n"[..]).unwrap();
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn every_kind_is_unpacked() {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let zip = zipped(&[Entry::File("a/run", 0o755, b"hi\n"), Entry::Link("a/link", "run")]);
    for (name, body) in [
        ("app.tar.xz", STANDARD.decode(XZ).unwrap()),
        ("app.TXZ", STANDARD.decode(XZ).unwrap()),
        ("app.tbz2", STANDARD.decode(BZ2).unwrap()),
        ("app.tar.zst", ruzstd::encoding::compress_to_vec(&plain_tar()[..], level)),
        ("app.zip", zip),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = dir.path().join("sandbox");
        std::fs::create_dir(&sandbox).unwrap();
        let source = dir.path().join(name);
        std::fs::write(&source, body).unwrap();
        get(FetchUri::new(source.to_str().unwrap()), &sandbox, &quick()).await.unwrap();
        assert_eq!(std::fs::read(sandbox.join("a/run")).unwrap(), b"hi\n", "{name}");
        let mode = sandbox.join("a/run").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{name}");
        if name.ends_with(".zip") {
            assert_eq!(std::fs::read_link(sandbox.join("a/link")).unwrap().to_str(), Some("run"));
        }
    }
}

#[tokio::test]
async fn hostile_zips_stay_inside_and_within_their_bounds() {
    let names_of_many: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    let many: Vec<Entry<'_>> = names_of_many.iter().map(|name| Entry::File(name, 0o644, b"")).collect();
    let zeros = vec![0; 4 << 20];
    let long = "x".repeat(5000);
    for (name, body, code) in [
        ("out", zipped(&[Entry::File("../out", 0o644, b"x")]), "fetch.archive"),
        ("absolute", zipped(&[Entry::File("/tmp/out", 0o644, b"x")]), "fetch.archive"),
        ("through", zipped(&[Entry::Link("l", "/tmp"), Entry::File("l/out", 0o644, b"x")]), "fetch.archive"),
        ("bomb", zipped(&[Entry::File("zeros", 0o644, &zeros)]), "fetch.too_large"),
        ("many", zipped(&many), "fetch.too_large"),
        ("link", zipped(&[Entry::Link("l", &long)]), "fetch.archive"),
        ("cut", zipped(&[Entry::File("a", 0o644, b"x")])[..40].to_vec(), "fetch.archive"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = dir.path().join("sandbox");
        std::fs::create_dir(&sandbox).unwrap();
        let source = dir.path().join(format!("{name}.zip"));
        std::fs::write(&source, body).unwrap();
        let options = FetchOptions { max_unpacked_bytes: 1 << 20, max_entries: 20, ..quick() };
        let error = get(FetchUri::new(source.to_str().unwrap()), &sandbox, &options).await.unwrap_err();
        assert_eq!(error.code(), code, "{name}: {error}");
        assert!(!names(dir.path()).contains(&"out".to_owned()), "{name}");
    }
}
