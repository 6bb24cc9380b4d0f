//! An etcd of a test's own, without TLS or with the certificates of a master: a child process on loopback with a folder of its own, gone with the test.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plenum_base::tls::IdentityFiles;
use plenum_store::{Etcd, EtcdOptions, Store};

const PROGRAM: &str = "/usr/bin/etcd";

pub struct Server {
    dir: tempfile::TempDir,
    child: Option<Child>,
    client: u16,
    peer: u16,
    /// Mutual TLS at this address.
    tls: Option<(std::net::IpAddr, IdentityFiles)>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub async fn start() -> Self {
        assert!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing: this test needs Debian's package etcd-server (apt-get install etcd-server)"
        );
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { dir, child: None, client: free_port(), peer: free_port(), tls: None };
        server.run().await;
        server
    }

    /// One that is not started yet, for clients of `files`' authority only, showing `files`.
    pub fn secured(address: std::net::IpAddr, files: IdentityFiles) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, child: None, client: free_port(), peer: free_port(), tls: Some((address, files)) }
    }

    pub fn endpoint(&self) -> String {
        match &self.tls {
            Some((address, _)) => format!("https://{address}:{}", self.client),
            None => format!("http://127.0.0.1:{}", self.client),
        }
    }

    fn tls_arguments(&self) -> Vec<String> {
        let Some((_, files)) = &self.tls else { return Vec::new() };
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        vec![
            "--client-cert-auth".to_owned(),
            format!("--client-cert-allowed-hostname={}", plenum_base::pki::STORE_CLIENT),
            file("trusted-ca-file", &files.ca),
            file("cert-file", &files.cert),
            file("key-file", &files.key),
        ]
    }

    /// Starts it, for the first time or again on the same data.
    pub async fn run(&mut self) {
        let (client, peer) = (self.endpoint(), format!("http://127.0.0.1:{}", self.peer));
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
            .args(self.tls_arguments())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        if self.tls.is_some() {
            // Whoever uses it waits for it: here nobody has a certificate that it would take.
            return;
        }
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let options =
                EtcdOptions { deadline: Duration::from_secs(1), ..EtcdOptions::new([self.endpoint()]) };
            if let Ok(store) = Etcd::connect(options).await
                && store.get("ready").await.is_ok()
            {
                return;
            }
            assert!(Instant::now() < until, "etcd does not get ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
