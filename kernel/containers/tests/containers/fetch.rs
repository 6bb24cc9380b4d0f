//! The fetcher against a server on a loopback address.

use plenum_containers::fetch::{FetchError, FetchOptions, FetchUri, Fetched, Progress, fetch};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers each request by its path; one connection a request.
pub async fn server(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&answer)));
        }
    });
    format!("http://{address}")
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Arc<impl Fn(&str) -> Vec<u8>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 1];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let _client_gone = stream.write_all(&answer(&head)).await;
    let path = head.split(' ').nth(1).unwrap_or("");
    if path.contains("stall") {
        std::future::pending::<()>().await;
    }
    let _client_gone = stream.shutdown().await;
}

pub fn ok(body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A small archive with everything that may be in one.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut file = |path: &str, mode: u32, body: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        tar.append_data(&mut header, path, body).unwrap();
    };
    file("./app/bin/run", 0o4755, b"#!/bin/sh\n");
    file(&format!("app/{}", "long/".repeat(60)), 0o755, b"");
    file(&format!("app/{}name", "deep/".repeat(50)), 0o600, b"deep");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o555);
    tar.append_data(&mut header, "app/closed", &b""[..]).unwrap();
    header.set_entry_type(tar::EntryType::Symlink);
    tar.append_link(&mut header, "app/current", "bin/run").unwrap();
    tar.append_link(&mut header, "app/outside", "/etc/passwd").unwrap();
    header.set_entry_type(tar::EntryType::Link);
    tar.append_link(&mut header, "app/again", "app/bin/run").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(6);
    tar.append_data(&mut header, "app/closed/in", &b"inside"[..]).unwrap();
    tar.into_inner().unwrap()
}

pub fn quick() -> FetchOptions {
    FetchOptions {
        stall_timeout: Duration::from_millis(300),
        attempts: 3,
        backoff: Duration::from_millis(10),
        deadline: Duration::from_secs(20),
        ..FetchOptions::default()
    }
}

pub async fn get(uri: FetchUri, sandbox: &Path, options: &FetchOptions) -> Result<Vec<Fetched>, FetchError> {
    fetch(&[uri], sandbox, options, Arc::new(|_| {})).await
}

/// Everything in a sandbox.
pub fn names(sandbox: &Path) -> Vec<String> {
    let entries =
        std::fs::read_dir(sandbox).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

#[tokio::test]
async fn archives_are_unpacked_and_files_have_their_owner() {
    let server = server(|head| match head.split(' ').nth(1).unwrap_or("") {
        "/app.tgz" => ok(&gz(&archive())),
        "/app.tar" => ok(&archive()),
        "/tool?token=secret" => ok(b"tool"),
        "/notes.gz" => ok(&gz(b"notes")),
        other => panic!("{other}"),
    })
    .await;
    let root = nix::unistd::geteuid().is_root();
    let owner = root.then_some((65534, 65534));
    let options = FetchOptions { owner, ..quick() };
    for name in ["app.tgz", "app.tar"] {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = dir.path();
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = {
            let told = Arc::clone(&told);
            Arc::new(move |step: Progress| told.lock().unwrap().push(step))
        };
        let uris = [
            FetchUri::new(format!("{server}/{name}")),
            FetchUri {
                executable: true,
                output_file: Some("bin/tool".into()),
                ..FetchUri::new(format!("{server}/tool?token=secret"))
            },
            FetchUri::new(format!("{server}/notes.gz")),
        ];
        let fetched = fetch(&uris, sandbox, &options, listener).await.unwrap();
        assert_eq!(fetched.iter().map(|f| f.entries.is_some()).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(names(sandbox), ["app", name, "bin", "notes", "notes.gz"]);
        let read = |path: &str| std::fs::read_to_string(sandbox.join(path)).unwrap();
        assert_eq!((read("app/bin/run").as_str(), read("notes").as_str()), ("#!/bin/sh\n", "notes"));
        assert_eq!(read(&format!("app/{}name", "deep/".repeat(50))), "deep");
        assert_eq!(read("app/closed/in"), "inside");
        let meta = |path: &str| std::fs::symlink_metadata(sandbox.join(path)).unwrap();
        let modes = ["app/bin/run", "app/closed", "bin/tool", name].map(|path| meta(path).mode() & 0o7777);
        assert_eq!(modes, [0o755, 0o555, 0o755, 0o644], "no set-user-id bit, closed folders last");
        assert_eq!(meta("app/bin/run").mtime(), 1_000_000_000);
        assert_eq!(meta("app/again").ino(), meta("app/bin/run").ino());
        assert_eq!(std::fs::read_link(sandbox.join("app/outside")).unwrap(), Path::new("/etc/passwd"));
        if root {
            for path in ["app", "app/bin/run", "app/current", "app/closed", "bin", "bin/tool", "notes"] {
                assert_eq!((meta(path).uid(), meta(path).gid()), (65534, 65534), "{path}");
            }
            assert_eq!(std::fs::metadata("/etc/passwd").unwrap().uid(), 0);
        }
        let told = format!("{:?}", told.lock().unwrap());
        assert!(
            told.contains("Unpacking") && told.contains("Finished") && !told.contains("secret"),
            "{told}"
        );
        std::fs::set_permissions(sandbox.join("app/closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn redirects_and_credentials() {
    let other = server(|head| {
        assert!(!head.to_ascii_lowercase().contains("authorization"), "credentials went to another server");
        ok(b"there")
    })
    .await;
    let target = other.clone();
    let server = server(move |head| match head.split(' ').nth(1).unwrap_or("") {
        "/a/moved" => b"HTTP/1.1 302 Found\r\nLocation: ../b?c\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "/a/../b?c" => {
            assert!(head.contains("Basic dXNlcjpwdw=="), "{head}");
            format!("HTTP/1.1 307 Go\r\nLocation: {target}/x\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }
        "/loop" => b"HTTP/1.1 301 Moved\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let with_user = server.replace("http://", "http://user:pw@");
    get(FetchUri::new(format!("{with_user}/a/moved")), dir.path(), &quick()).await.unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("moved")).unwrap(), "there");
    let error = get(FetchUri::new(format!("{server}/loop")), dir.path(), &quick()).await.unwrap_err();
    assert!(matches!(&error, FetchError::Transfer { reason, .. } if reason.contains("redirects")), "{error}");
    let error = get(FetchUri::new(format!("{with_user}/none?k=v")), dir.path(), &quick()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{server}/none: the server answered 404"));
    assert_eq!(names(dir.path()), ["moved"]);
}

#[tokio::test]
async fn https_trusts_what_it_is_told_to() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("https://{}/file", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, Arc::new(|_: &str| ok(b"secret"))).await;
                }
            });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let error = get(FetchUri::new(&uri), dir.path(), &quick()).await.unwrap_err();
    assert!(
        matches!(&error, FetchError::Transfer { reason, .. } if reason.contains("certificate")),
        "{error}"
    );
    assert_eq!(names(dir.path()), Vec::<String>::new());
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let options = FetchOptions { ca_file: Some(ca), ..quick() };
    get(FetchUri::new(&uri), dir.path(), &options).await.unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "secret");
}

#[tokio::test]
async fn files_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = dir.path().join("sandbox");
    std::fs::create_dir(&sandbox).unwrap();
    let source = dir.path().join("source.tar");
    std::fs::write(&source, archive()).unwrap();
    get(FetchUri::new(format!("file://{}", source.display())), &sandbox, &quick()).await.unwrap();
    let kept = FetchUri {
        extract: false,
        output_file: Some("kept.tar".into()),
        ..FetchUri::new(source.to_str().unwrap())
    };
    get(kept, &sandbox, &quick()).await.unwrap();
    assert_eq!(names(&sandbox), ["app", "kept.tar", "source.tar"]);
    std::fs::set_permissions(sandbox.join("app/closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
    for (uri, code) in [("/no/such/file", "fetch.io"), ("/dev/zero", "fetch.uri"), ("/", "fetch.uri")] {
        assert_eq!(get(FetchUri::new(uri), &sandbox, &quick()).await.unwrap_err().code(), code, "{uri}");
    }
    let none = FetchOptions { local_files: false, ..quick() };
    assert_eq!(get(FetchUri::new("/etc/passwd"), &sandbox, &none).await.unwrap_err().code(), "fetch.uri");
}
