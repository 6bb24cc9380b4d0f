//! Debian's registry, over TLS with a private authority and passwords. Skipped where it is not installed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use http::header::{CONTENT_TYPE, LOCATION};
use plenum_base::client::{Client, Credentials, full};
use plenum_images::auth::Login;
use plenum_images::{Auth, Digest, Images, Listener, Platform, Pressure, Settings};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::fixture::{Built, Tar, build, gzip, listed, noise, zstd};

const PROGRAM: &str = "/usr/bin/docker-registry";
/// `pass word`, as the registry's file of passwords has it.
const PASSWORDS: &str = "me:$2b$05$17NyB7x0uMHro5HgSv4Pluc9DBAxUf57HzG9mVOVc/97LTP8mjKuC\n";

/// A registry; it ends with its holder.
struct Registry {
    child: Child,
    host: String,
    ca: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server's certificate for loopback and its authority, PEM: authority, certificate, key.
fn certificates() -> (String, String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let server =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (ca, server.pem(), key.serialize_pem())
}

async fn start(folder: &Path) -> Registry {
    let (ca, certificate, key) = certificates();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    for (name, content) in
        [("cert.pem", &certificate), ("key.pem", &key), ("passwords", &PASSWORDS.to_owned())]
    {
        fs::write(folder.join(name), content).unwrap();
    }
    let at = folder.display();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\n\
         http: {{addr: '{host}', tls: {{certificate: {at}/cert.pem, key: {at}/key.pem}}}}\n\
         auth: {{htpasswd: {{realm: here, path: {at}/passwords}}}}\n"
    );
    fs::write(folder.join("config.yml"), config).unwrap();
    let child = Command::new(PROGRAM)
        .arg("serve")
        .arg(folder.join("config.yml"))
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut registry = Registry { child, host, ca };
    let end = Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(&registry.host).await.is_err() {
        let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(registry.child.try_wait().unwrap().is_none() && Instant::now() < end, "{}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    registry
}

impl Registry {
    /// Pushes as any tool does: blobs by upload, then the manifest.
    async fn push(&self, name: &str, tag: &str, built: &Built) {
        let login = Credentials::Basic { principal: "me".to_owned(), secret: "pass word".to_owned() };
        let client = Client::with_ca(&self.ca).unwrap().with_credentials(login);
        let base = format!("https://{}/v2/{name}", self.host);
        for (digest, bytes) in &built.blobs {
            let reply =
                client.post(&format!("{base}/blobs/uploads/")).send().await.unwrap().success().await.unwrap();
            let location = reply.headers[LOCATION].to_str().unwrap().to_owned();
            let location =
                if location.starts_with('/') { format!("https://{}{location}", self.host) } else { location };
            let sign = if location.contains('?') { '&' } else { '?' };
            let put = client.put(&format!("{location}{sign}digest={digest}")).body(full(bytes.clone()));
            put.header(CONTENT_TYPE, "application/octet-stream")
                .send()
                .await
                .unwrap()
                .success()
                .await
                .unwrap();
        }
        let manifest: serde_json::Value = serde_json::from_slice(&built.manifest).unwrap();
        let kind = manifest["mediaType"].as_str().unwrap();
        let put =
            client.call(Method::PUT, &format!("{base}/manifests/{tag}")).body(full(built.manifest.clone()));
        put.header(CONTENT_TYPE, kind).send().await.unwrap().success().await.unwrap();
    }
}

#[tokio::test]
async fn an_image_comes_from_a_real_registry_over_tls_with_credentials() {
    if !Path::new(PROGRAM).exists() {
        eprintln!("SKIPPED: {PROGRAM} is not installed (docker-registry)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = start(dir.path()).await;
    let lower = Tar::default()
        .folder("etc/", 0o755)
        .file("etc/passwd", b"web:x:33:33::/:\n")
        .file("big", &noise(3_000_000, 1))
        .end();
    let upper = Tar::default().file(".wh.big", b"").file("small", b"x").end();
    let (a, b) = (gzip(&lower), zstd(&upper));
    let built =
        build(&[(lower, a, "+gzip"), (upper, b, "+zstd")], &json!({"User": "web", "Cmd": ["/small"]}));
    registry.push("team/app", "v1", &built).await;

    // Our own second type of the same: Docker's.
    let mut docker = built.clone();
    let text = String::from_utf8(docker.manifest).unwrap();
    docker.manifest = text
        .replace(
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        )
        .replace("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
        .replace(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        )
        .replace(
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
        )
        .into_bytes();
    registry.push("team/app", "docker", &docker).await;

    let mut settings =
        Settings { default_registry: Some(registry.host.clone()), attempts: 2, ..Settings::default() };
    settings.backoff = Duration::from_millis(5);
    let store = |name: &str| dir.path().join(name);
    let auth = Auth::none()
        .with(&registry.host, Login::Basic { user: "me".to_owned(), password: "pass word".to_owned() });

    // Nobody vouches for the registry; then nobody asks; then the wrong one; then all is well.
    let images = Images::open(&store("a"), settings.clone()).unwrap();
    let reference = images.reference("team/app:v1").unwrap();
    let error = images.resolve(&reference, &auth, &Platform::here()).await.unwrap_err();
    assert_eq!(error.code(), "IMAGE_REGISTRY_UNREACHABLE");
    assert!(error.to_string().contains("certificate"), "{error}");
    settings.authorities.insert(registry.host.clone(), registry.ca.clone());
    let images = Images::open(&store("b"), settings).unwrap();
    let error = images.resolve(&reference, &Auth::none(), &Platform::here()).await.unwrap_err();
    assert_eq!(error.code(), "IMAGE_DENIED", "{error}");
    let wrong =
        Auth::none().with(&registry.host, Login::Basic { user: "me".to_owned(), password: "x".to_owned() });
    let error = images.resolve(&reference, &wrong, &Platform::here()).await.unwrap_err();
    assert_eq!(error.code(), "IMAGE_DENIED", "{error}");
    let pinned = images.resolve(&reference, &auth, &Platform::here()).await.unwrap();
    assert_eq!(pinned.digest, Digest::of(&built.manifest));
    // A download that was broken off goes on where it ended.
    let layer = &built.layers[0];
    fs::write(store("b").join("partial").join(layer.file_name()), &built.blobs[layer][..1_000_000]).unwrap();
    images.hold("c1", &pinned).await.unwrap();
    let image = images.pull(&pinned, &auth, &Listener::none()).await.unwrap();
    assert_eq!(image.config.cmd, ["/small"]);
    assert_eq!(image.user("web").unwrap().uid, 33);

    mounted_together(&image, dir.path());

    let docker = images.reference("team/app:docker").unwrap();
    let docker = images.resolve(&docker, &auth, &Platform::here()).await.unwrap();
    assert_ne!(docker.manifest, pinned.manifest);
    let same = images.pull(&docker, &auth, &Listener::none()).await.unwrap();
    assert_eq!(same.layers, image.layers, "the same layers are there once");
    let error =
        images.resolve(&images.reference("team/none").unwrap(), &auth, &Platform::here()).await.unwrap_err();
    assert_eq!(error.code(), "IMAGE_NOT_FOUND", "{error}");

    images.release("c1").await.unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(7 * 24 * 3600);
    let gone = images.collect(later, Pressure { unused_for: Duration::from_secs(1), free: 0 }).await.unwrap();
    assert_eq!((gone.images.len(), gone.layers), (2, 2));
    assert_eq!(listed(&store("b").join("layers")), Vec::<String>::new());
}

/// The kernel sees the layers as the image is meant.
fn mounted_together(image: &plenum_images::Image, dir: &Path) {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let at = dir.join("mounted");
    fs::create_dir(&at).unwrap();
    let lower: Vec<_> = image.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let options = format!("lowerdir={}", lower.join(":"));
    mount(Some("overlay"), &at, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
    let seen = listed(&at);
    umount2(&at, MntFlags::empty()).unwrap();
    assert_eq!(seen, ["etc", "small"]);
}
