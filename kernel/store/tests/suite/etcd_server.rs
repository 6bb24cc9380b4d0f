//! An etcd of a test's own: a child process on loopback with a folder of its own, gone with the test, whichever
//! way the test ends.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plenum_store::{Etcd, EtcdOptions, EtcdTls, Store};
use tempfile::TempDir;

const PROGRAM: &str = "/usr/bin/etcd";

pub struct Server {
    dir: TempDir,
    child: Option<Child>,
    pub client_port: u16,
    peer_port: u16,
    extra: Vec<String>,
    scheme: &'static str,
}

/// Certificates for mutual TLS, in the server's folder and for the client.
pub struct Pki {
    pub client: EtcdTls,
    /// A client certificate of another authority.
    pub stranger: EtcdTls,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(extra: &[&str]) -> Self {
        let mut server = Self::new("http", extra.iter().map(ToString::to_string).collect());
        server.run();
        server.wait_ready(EtcdOptions::new([server.endpoint()])).await;
        server
    }

    pub async fn start_tls() -> (Self, Pki) {
        let mut server = Self::new("https", Vec::new());
        let pki = pki(server.dir.path());
        server.extra = vec![
            "--client-cert-auth".to_owned(),
            format!("--trusted-ca-file={}", pki.ca.display()),
            format!("--cert-file={}", pki.cert.display()),
            format!("--key-file={}", pki.key.display()),
        ];
        server.run();
        let options = EtcdOptions { tls: Some(pki.client.clone()), ..EtcdOptions::new([server.endpoint()]) };
        server.wait_ready(options).await;
        (server, pki)
    }

    fn new(scheme: &'static str, extra: Vec<String>) -> Self {
        assert!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing: this test needs Debian's package etcd-server (apt-get install etcd-server)"
        );
        let dir = tempfile::tempdir().unwrap();
        let (client_port, peer_port) = (free_port(), free_port());
        Self { dir, child: None, client_port, peer_port, extra, scheme }
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client_port)
    }

    /// Starts it, for the first time or again on the same data.
    pub fn run(&mut self) {
        let client = self.endpoint();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new(PROGRAM);
        command
            .arg("--name=test")
            .arg(format!("--data-dir={}", self.dir.path().join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            .args(["--heartbeat-interval=20", "--election-timeout=200", "--log-level=error"])
            .args(&self.extra)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.dir.path().join("log")).unwrap());
        let parent = std::process::id();
        // SAFETY: prctl and getppid are async-signal-safe and nothing else happens between fork and exec.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
                    || libc::getppid() != i32::try_from(parent).unwrap_or(0)
                {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        // The signal comes when the *thread* that started the child ends, so that must outlast the test's use of
        // it: tests here run on their harness thread, which does.
        self.child = Some(command.spawn().unwrap());
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub async fn wait_ready(&self, options: EtcdOptions) {
        let until = Instant::now() + Duration::from_secs(30);
        let options = EtcdOptions { deadline: Duration::from_secs(1), ..options };
        loop {
            let last = match Etcd::connect(options.clone()).await {
                Ok(store) => match store.get("ready").await {
                    Ok(_) => return,
                    Err(e) => e,
                },
                Err(e) => e,
            };
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "etcd does not get ready: {last}\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn store(&self) -> Etcd {
        Etcd::connect(EtcdOptions::new([self.endpoint()])).await.unwrap()
    }

    /// A client of etcd's own, for what an operator does.
    pub async fn operator(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.endpoint()], None).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn authority(name: &str) -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
}

fn pki(dir: &Path) -> Pki {
    let ours = authority("ours");
    let theirs = authority("theirs");
    let issue = |issuer: &rcgen::CertifiedIssuer<'static, rcgen::KeyPair>, name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    };
    let client = |issuer: &rcgen::CertifiedIssuer<'static, rcgen::KeyPair>| {
        let (cert, key) = issue(issuer, "client");
        EtcdTls {
            ca: ours.pem().into_bytes(),
            cert: cert.into_bytes(),
            key: key.into_bytes(),
            server_name: None,
        }
    };
    let file = |name: &str, contents: &str| {
        let path = dir.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    };
    let (cert, key) = issue(&ours, "server");
    Pki {
        client: client(&ours),
        stranger: client(&theirs),
        ca: file("ca.pem", &ours.pem()),
        cert: file("cert.pem", &cert),
        key: file("key.pem", &key),
    }
}
