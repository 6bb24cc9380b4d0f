//! Servers and archives that mean harm: nothing outside the sandbox, nothing half-done under a final name, no waiting
//! without end.

use super::fetch::{get, gz, names, ok, quick, server};
use plenum_containers::fetch::{FetchOptions, FetchUri};
use std::time::{Duration, Instant};

#[tokio::test]
async fn bad_servers_leave_nothing_behind() {
    let server = server(|head| match head.split(' ').nth(1).unwrap_or("") {
        "/cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this".to_vec(),
        "/cut-chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello".to_vec(),
        "/stall" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this".to_vec(),
        "/stall-head" => Vec::new(),
        "/big" => ok(&[0; 5000]),
        "/big-unsaid" => [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[0; 5000]].concat(),
        "/noise" => b"\x00\xff\r\n\r\n".to_vec(),
        _ => Vec::new(),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let options = FetchOptions { max_bytes: 4000, ..quick() };
    let start = Instant::now();
    for (path, code) in [
        ("/cut", "fetch.transfer"),
        ("/cut-chunk", "fetch.transfer"),
        ("/stall", "fetch.stalled"),
        ("/stall-head", "fetch.stalled"),
        ("/big", "fetch.too_large"),
        ("/big-unsaid", "fetch.too_large"),
        ("/noise", "fetch.transfer"),
        ("/empty", "fetch.transfer"),
    ] {
        let error = get(FetchUri::new(format!("{server}{path}")), dir.path(), &options).await.unwrap_err();
        assert_eq!(error.code(), code, "{path}: {error}");
        assert_eq!(names(dir.path()), Vec::<String>::new(), "{path}");
    }
    let hurried = FetchOptions {
        stall_timeout: Duration::from_secs(60),
        deadline: Duration::from_millis(200),
        ..quick()
    };
    let error = get(FetchUri::new(format!("{server}/stall")), dir.path(), &hurried).await.unwrap_err();
    assert_eq!(error.code(), "fetch.deadline");
    assert_eq!(names(dir.path()), Vec::<String>::new());
    assert!(start.elapsed() < Duration::from_secs(10));
    let closed = get(FetchUri::new("http://127.0.0.1:9/x"), dir.path(), &options).await.unwrap_err();
    assert!(closed.to_string().contains("refused"), "{closed}");
}

#[tokio::test]
async fn servers_that_fail_are_asked_again_and_resumed() {
    const BODY: &[u8] = b"0123456789";
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let heads = std::sync::Arc::clone(&asked);
    let server = server(move |head| {
        let path = head.split(' ').nth(1).unwrap_or("").to_owned();
        let mut asked = heads.lock().unwrap();
        let before = asked.iter().filter(|head| head.contains(&format!("GET {path} "))).count();
        asked.push(head.to_ascii_lowercase().replace("get ", "GET "));
        let cut = |tag: &str| {
            format!("HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Length: 10\r\n\r\n01234").into_bytes()
        };
        let rest = |range: &str| {
            format!("HTTP/1.1 206 Part\r\nContent-Range: {range}\r\nContent-Length: 5\r\n\r\n56789")
                .into_bytes()
        };
        match (path.as_str(), before) {
            ("/busy", 0) => b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ("/cut" | "/lies" | "/gone", 0) => cut("\"a\""),
            ("/weak", 0) => cut("W/\"a\""),
            ("/cut", 1) => rest("bytes 5-9/10"),
            ("/lies", 1) => rest("bytes 4-8/10"),
            ("/gone", 1) => b"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
            ("/down", _) => b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n".to_vec(),
            _ => ok(BODY),
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    for (path, requests) in [("busy", 2), ("cut", 2), ("weak", 2), ("lies", 3), ("gone", 3)] {
        get(FetchUri::new(format!("{server}/{path}")), dir.path(), &quick()).await.unwrap();
        assert_eq!(std::fs::read(dir.path().join(path)).unwrap(), BODY, "{path}");
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        assert_eq!(asked.len(), requests, "{path}: {asked:?}");
        let resumed = asked[1].contains("range: bytes=5-") && asked[1].contains("if-range: \"a\"");
        assert_eq!(resumed, !matches!(path, "busy" | "weak"), "{path}: {asked:?}");
    }
    let error = get(FetchUri::new(format!("{server}/down")), dir.path(), &quick()).await.unwrap_err();
    assert_eq!(error.code(), "fetch.status");
    assert_eq!(asked.lock().unwrap().len(), 3, "as many attempts as are allowed");
}

#[tokio::test]
async fn content_is_what_the_uri_says() {
    // `printf hello | sha256sum`
    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let server = server(|_| ok(b"hello")).await;
    let dir = tempfile::tempdir().unwrap();
    let (source, sandbox) = (dir.path().join("source"), dir.path().join("sandbox"));
    std::fs::create_dir(&sandbox).unwrap();
    std::fs::write(&source, b"hello").unwrap();
    for base in
        [format!("{server}/remote"), source.display().to_string(), format!("file://{}", source.display())]
    {
        let wrong = FetchUri::new(format!("{base}#sha256={}", HELLO.replace('2', "3")));
        let error = get(wrong, &sandbox, &quick()).await.unwrap_err();
        assert_eq!(error.code(), "fetch.checksum", "{base}");
        assert!(error.to_string().contains(HELLO), "{error}");
        assert_eq!(names(&sandbox), Vec::<String>::new(), "{base}");
        let right = FetchUri::new(format!("{base}#sha256={HELLO}"));
        let name = get(right, &sandbox, &quick()).await.unwrap().remove(0).name;
        assert_eq!(std::fs::read(sandbox.join(&name)).unwrap(), b"hello", "{base}");
        std::fs::remove_file(sandbox.join(name)).unwrap();
    }
}

#[tokio::test]
async fn names_that_lead_outside_are_refused() {
    let server = server(|_| ok(b"x")).await;
    let dir = tempfile::tempdir().unwrap();
    let sandbox = dir.path().join("sandbox");
    std::fs::create_dir(&sandbox).unwrap();
    std::os::unix::fs::symlink(dir.path(), sandbox.join("link")).unwrap();
    for (name, code) in [
        ("../x", "fetch.escape"),
        ("/etc/x", "fetch.escape"),
        ("a/../../x", "fetch.escape"),
        ("", "fetch.escape"),
        ("link/x", "fetch.io"),
    ] {
        let uri = FetchUri { output_file: Some(name.into()), ..FetchUri::new(format!("{server}/f")) };
        assert_eq!(get(uri, &sandbox, &quick()).await.unwrap_err().code(), code, "{name}");
    }
    assert_eq!(names(dir.path()), ["sandbox"]);
    assert_eq!(names(&sandbox), ["link"]);
}

/// An archive of raw headers: the usual builder refuses to make what is needed here.
fn raw(entries: &[(u8, &str, &str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (kind, path, link, body) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.as_mut_bytes()[156] = *kind;
        header.set_mode(0o644);
        header.set_size(body.len() as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(body);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

#[tokio::test]
async fn archives_that_lead_outside_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().to_str().unwrap().to_owned();
    let huge_name = vec![b'a'; 2 << 20];
    let long = [b"../long", &[0][..]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("dotdot", raw(&[(b'0', "../evil", "", b"x")])),
        ("absolute", raw(&[(b'0', "/tmp/evil", "", b"x")])),
        ("inner dotdot", raw(&[(b'0', "a/../../evil", "", b"x")])),
        ("through a link", raw(&[(b'2', "out", &outside, b""), (b'0', "out/evil", "", b"x")])),
        (
            "folder over a link",
            raw(&[(b'2', "out", &outside, b""), (b'5', "out", "", b""), (b'0', "out/evil", "", b"x")]),
        ),
        ("hard link out", raw(&[(b'1', "copy", "../../etc/passwd", b"")])),
        ("hard link absolute", raw(&[(b'1', "copy", "/etc/passwd", b"")])),
        ("hard link through a link", raw(&[(b'2', "etc", "/etc", b""), (b'1', "copy", "etc/passwd", b"")])),
        ("long name", raw(&[(b'L', "././@LongLink", "", &long), (b'0', "x", "", b"x")])),
        ("pax name", raw(&[(b'x', "p", "", b"16 path=../evil\n"), (b'0', "x", "", b"x")])),
        ("device", raw(&[(b'3', "dev", "", b"")])),
        ("pipe", raw(&[(b'6', "pipe", "", b"")])),
        ("sparse", raw(&[(b'S', "sparse", "", b"")])),
        ("huge long name", raw(&[(b'L', "././@LongLink", "", &huge_name), (b'0', "x", "", b"x")])),
        ("pax size", raw(&[(b'x', "p", "", b"11 size=99\n"), (b'0', "x", "", b"x")])),
        ("pax noise", raw(&[(b'x', "p", "", b"99999999999999999999 a=b\n")])),
        ("pax short", raw(&[(b'x', "p", "", b"1 a=b\n")])),
        ("nul", raw(&[(b'x', "p", "", b"13 path=a\0b\n\n"), (b'0', "x", "", b"x")])),
        ("checksum", vec![b'x'; 1024]),
        ("cut", raw(&[(b'0', "whole", "", &[1; 4000])])[..2000].to_vec()),
    ];
    for (case, tar) in cases {
        for (name, body) in [("a.tar", tar.clone()), ("a.tgz", gz(&tar))] {
            let sandbox = dir.path().join("sandbox");
            std::fs::create_dir(&sandbox).unwrap();
            let source = dir.path().join(name);
            std::fs::write(&source, body).unwrap();
            let error = get(FetchUri::new(source.to_str().unwrap()), &sandbox, &quick()).await.unwrap_err();
            assert_eq!(error.code(), "fetch.archive", "{case}: {error}");
            std::fs::remove_file(source).unwrap();
            std::fs::remove_dir_all(&sandbox).unwrap();
            assert_eq!(names(dir.path()), Vec::<String>::new(), "{case}");
        }
    }
    assert!(!std::path::Path::new("/tmp/evil").exists());
}

#[tokio::test]
async fn a_link_in_the_way_is_replaced_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = dir.path().join("sandbox");
    std::fs::create_dir(&sandbox).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let tar = raw(&[(b'2', "file", victim.to_str().unwrap(), b""), (b'0', "file", "", b"mine")]);
    std::fs::write(dir.path().join("a.tar"), tar).unwrap();
    get(FetchUri::new(dir.path().join("a.tar").to_str().unwrap()), &sandbox, &quick()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(std::fs::read_to_string(sandbox.join("file")).unwrap(), "mine");
    assert!(std::fs::symlink_metadata(sandbox.join("file")).unwrap().is_file());
}

#[tokio::test]
async fn bombs_and_unknown_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = dir.path().join("sandbox");
    std::fs::create_dir(&sandbox).unwrap();
    let bomb = gz(&raw(&[(b'0', "zeros", "", &vec![0; 4 << 20])]));
    let many: Vec<_> = (0..30).map(|_| (b'0', "same", "", &b""[..])).collect();
    for (name, body, code) in [
        ("bomb.tgz", bomb, "fetch.too_large"),
        ("bomb.gz", gz(&vec![0; 4 << 20]), "fetch.too_large"),
        ("many.tar", raw(&many), "fetch.too_large"),
        ("noise.tgz", b"not gzip".to_vec(), "fetch.archive"),
        ("a.zip", b"PK".to_vec(), "fetch.archive"),
        ("a.tar.xz", b"".to_vec(), "fetch.archive"),
    ] {
        let source = dir.path().join(name);
        std::fs::write(&source, body).unwrap();
        let options = FetchOptions { max_unpacked_bytes: 1 << 20, max_entries: 20, ..quick() };
        let error = get(FetchUri::new(source.to_str().unwrap()), &sandbox, &options).await.unwrap_err();
        assert_eq!(error.code(), code, "{name}: {error}");
        let plain = FetchUri { extract: false, ..FetchUri::new(source.to_str().unwrap()) };
        get(plain, &sandbox, &options).await.unwrap();
    }
    assert!(!sandbox.join("bomb").exists(), "an unfinished file has no final name");
}

#[tokio::test]
async fn what_may_be_kept_is_fetched_once_and_asked_about() {
    use plenum_containers::fetch::Cache;
    // What the server has, and whether it answers at all.
    let state = std::sync::Arc::new(std::sync::Mutex::new(("\"a\"", &b"first"[..], 200)));
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let (has, heads) = (std::sync::Arc::clone(&state), std::sync::Arc::clone(&asked));
    let server = server(move |head| {
        heads.lock().unwrap().push(head.to_ascii_lowercase());
        let (tag, body, status) = *has.lock().unwrap();
        if status != 200 {
            return format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").into_bytes();
        }
        if head.to_ascii_lowercase().contains(&format!("if-none-match: {tag}")) {
            return b"HTTP/1.1 304 Same\r\n\r\n".to_vec();
        }
        // Slow enough for others to want the same meanwhile.
        std::thread::sleep(Duration::from_millis(50));
        let head = format!("HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let options =
        |owner| FetchOptions { owner, cache: Some(Cache::open(&cache, 1 << 20).unwrap()), ..quick() };
    let uri = FetchUri { cache: true, ..FetchUri::new(format!("{server}/x")) };
    let requests = || std::mem::take(&mut *asked.lock().unwrap());
    let fetched = |options: FetchOptions| {
        let uri = uri.clone();
        async move {
            let dir = tempfile::tempdir().unwrap();
            get(uri, dir.path(), &options).await.map(|_| std::fs::read(dir.path().join("x")).unwrap())
        }
    };
    // Several at once, one download.
    let shared = options(None);
    let all: Vec<_> = (0..4).map(|_| tokio::spawn(fetched(shared.clone()))).collect();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), b"first");
    }
    let heads = requests();
    assert_eq!(heads.iter().filter(|head| !head.contains("if-none-match")).count(), 1, "{heads:?}");
    // Another start, the same content; then another content.
    assert_eq!(fetched(options(None)).await.unwrap(), b"first");
    assert!(requests()[0].contains("if-none-match: \"a\""));
    *state.lock().unwrap() = ("\"b\"", b"second", 200);
    assert_eq!(fetched(options(None)).await.unwrap(), b"second");
    // A server that fails does not matter, one that refuses does.
    *state.lock().unwrap() = ("\"b\"", b"", 503);
    assert_eq!(fetched(options(None)).await.unwrap(), b"second");
    *state.lock().unwrap() = ("\"b\"", b"", 403);
    assert_eq!(fetched(options(None)).await.unwrap_err().code(), "fetch.status");
    // What was damaged on the disk is fetched anew.
    *state.lock().unwrap() = ("\"b\"", b"second", 200);
    let entries = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    for data in entries.filter(|path| path.extension().is_some_and(|kind| kind == "data")) {
        std::fs::write(data, "rubbish").unwrap();
    }
    assert_eq!(fetched(options(None)).await.unwrap(), b"second");
    // Users share nothing.
    requests();
    let me = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    assert_eq!(fetched(options(Some(me))).await.unwrap(), b"second");
    assert!(!requests()[0].contains("if-none-match"));
}
