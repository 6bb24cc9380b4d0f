//! An etcd of a test's own, on loopback with a folder of its own; gone with the test, whichever way the test ends.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use plenum_store::{Etcd, EtcdOptions, Store, scoped};

const PROGRAM: &str = "/usr/bin/etcd";

pub struct Server {
    child: Child,
    pub endpoint: String,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub async fn start() -> Self {
        assert!(
            std::path::Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing: install Debian's package etcd-server"
        );
        let folder = tempfile::tempdir().unwrap();
        let endpoint = format!("http://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let child = Command::new(PROGRAM)
            .arg("--name=test")
            .arg(format!("--data-dir={}", folder.path().join("data").display()))
            .arg(format!("--listen-client-urls={endpoint}"))
            .arg(format!("--advertise-client-urls={endpoint}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            .args([
                "--heartbeat-interval=20",
                "--election-timeout=200",
                "--log-level=error",
                "--unsafe-no-fsync",
            ])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, endpoint, _folder: folder };
        for _ in 0..400 {
            if server.store().await.get("ready").await.is_ok() {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer");
    }

    /// A connection of its own to the services' part.
    pub async fn store(&self) -> Arc<dyn Store> {
        connect(&self.endpoint).await
    }
}

pub async fn connect(endpoint: &str) -> Arc<dyn Store> {
    let etcd = Etcd::connect(EtcdOptions::new([endpoint.to_owned()])).await.unwrap();
    Arc::new(scoped(Arc::new(etcd), "/plenum/test/services/"))
}
