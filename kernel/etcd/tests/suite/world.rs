//! Masters for tests: each an address of 127/8, a folder, certificates, and the role `etcd` as a task, which is killed by dropping it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use plenum_base::client::Client;
use plenum_base::pki::{Authority, LIFETIME, PeerName, San, store_names};
use plenum_base::places::{Bases, Instance, Places, Role};
use plenum_base::policy::{Signed, Snapshot};
use plenum_base::service::Shutdown;
use plenum_base::tls::{Expect, Identity, IdentityFiles};
use plenum_etcd::{Config, Status};
use plenum_store::{Etcd, EtcdOptions, EtcdTls};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

pub const INSTANCE: &str = "test";

pub struct World {
    pub folder: TempDir,
    pub ca: Authority,
    net: [u8; 2],
    map: u64,
}

pub struct Master {
    pub name: String,
    pub config: Config,
    pub places: Places,
    running: Option<(Shutdown, JoinHandle<()>)>,
}

impl World {
    pub fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        plenum_base::service::install_crypto();
        let pid = std::process::id().to_le_bytes();
        let net = [100 + pid[1] % 100, pid[0] ^ NEXT.fetch_add(1, Ordering::Relaxed).rotate_left(4)];
        let ca = Authority::create(INSTANCE, SystemTime::now()).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), ca, net, map: 0 }
    }

    pub fn address(&self, host: u8) -> IpAddr {
        IpAddr::from([127, self.net[0], self.net[1], host])
    }

    pub fn places(&self, name: &str) -> Places {
        let base = |what: &str| self.folder.path().join(name).join(what);
        let bases = Bases { state: base("state"), run: base("run"), root: true };
        let instance: Instance = INSTANCE.parse().unwrap();
        bases.places(instance, 0)
    }

    fn issue(&self, files: &IdentityFiles, role: &str, name: &str, address: IpAddr) {
        let name = PeerName::new(INSTANCE, role, name).unwrap();
        let mut sans = vec![San::Ip(address), San::Ip([127, 0, 0, 1].into())];
        sans.extend(store_names(Role::Etcd));
        let (cert, key) = self.ca.issue_fresh(&name, &sans, SystemTime::now(), LIFETIME).unwrap();
        files.write(self.ca.certificate_pem(), &cert, &key).unwrap();
    }

    /// A master that does not run yet. The first one begins the cluster.
    pub fn master(&self, host: u8, masters: &[u8]) -> Master {
        let name = format!("m{host}");
        let places = self.places(&name);
        places.create().unwrap();
        let address = self.address(host);
        let files = places.identity(Role::Etcd);
        self.issue(&files, "etcd", &name, address);
        let masters = masters.iter().map(|host| self.address(*host)).collect();
        let mut config = Config::at(&places, &name, address, masters, host == 1);
        config.quota_mebibytes = 64;
        Master { name, config, places, running: None }
    }

    /// A master with another certificate, from its files.
    pub fn reissue(&self, master: &Master) {
        self.issue(&master.places.identity(Role::Etcd), "etcd", &master.name, master.config.address);
    }

    fn identity(&self, role: &str) -> Identity {
        let name = PeerName::new(INSTANCE, role, "test").unwrap();
        let (cert, key) = self.ca.issue_fresh(&name, &[], SystemTime::now(), LIFETIME).unwrap();
        Identity::from_pem(self.ca.certificate_pem(), &cert, &key).unwrap()
    }

    pub fn tls(&self) -> EtcdTls {
        self.tls_of(Role::Services)
    }

    /// What a role shows to etcd.
    pub fn tls_of(&self, role: Role) -> EtcdTls {
        let name = PeerName::new(INSTANCE, role.as_str(), "test").unwrap();
        let mut sans = vec![San::Ip([127, 0, 0, 1].into())];
        sans.extend(store_names(role));
        let (cert, key) = self.ca.issue_fresh(&name, &sans, SystemTime::now(), LIFETIME).unwrap();
        let ca = self.ca.certificate_pem().as_bytes().to_vec();
        EtcdTls { ca, cert: cert.into_bytes(), key: key.into_bytes(), server_name: None }
    }

    /// The whole of etcd, as an operator has it.
    pub async fn store(&self, urls: &[String]) -> Etcd {
        self.store_of(Role::Etcd, urls).await
    }

    /// As a role has it.
    pub async fn store_of(&self, role: Role, urls: &[String]) -> Etcd {
        let options = EtcdOptions { tls: Some(self.tls_of(role)), ..EtcdOptions::new(urls) };
        Etcd::connect(options).await.unwrap()
    }

    /// A certificate and its key as releases made them before etcd had users.
    pub fn issue_old(&self, role: Role, name: &str, address: IpAddr) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer_key = rcgen::KeyPair::from_pem(&self.ca.key_pem()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(self.ca.certificate_pem(), issuer_key).unwrap();
        let mut names = vec![address.to_string(), "127.0.0.1".to_owned()];
        names.extend(store_names(role).iter().map(ToString::to_string));
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        let uri = format!("plenum://{INSTANCE}/{role}/{name}");
        params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("{role}/{name}"));
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (SystemTime::now() - Duration::from_secs(900)).into();
        params.not_after = (SystemTime::now() + LIFETIME).into();
        let cert = params.signed_by(&key, &issuer).unwrap();
        (format!("{}{}", cert.pem(), self.ca.certificate_pem()), key.serialize_pem())
    }

    /// The cluster's map, on the disk of each of `masters`.
    pub fn publish(&mut self, masters: &[&Master], leaving: &[&str]) {
        self.map += 1;
        let nodes: Vec<_> =
            masters.iter().map(|m| json!({"name": m.name, "address": m.config.address})).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let snapshot: Snapshot = serde_json::from_value(json!({
            "format": 1, "number": self.map, "cluster_id": "c", "issued_at": now, "jwks": {"keys": []},
            "accounts": {}, "basic": [], "enforce": false,
            "cluster": {"number": self.map, "masters": nodes, "leaving": leaving},
        }))
        .unwrap();
        let signed = Signed::sign(&snapshot, &self.identity("identity")).unwrap();
        let text = serde_json::to_vec(&signed).unwrap();
        for master in masters {
            plenum_base::files::replace(&master.places.policy(), &text, 0o600).unwrap();
        }
    }

    pub async fn status(&self, master: &Master) -> Option<Status> {
        let client =
            Client::with_identity(&self.identity("gateway"), Expect::Role("etcd".to_owned())).unwrap();
        let url = format!("https://{}/v1/status", SocketAddr::new(master.config.address, 2381));
        let reply = client.get(&url).deadline(Duration::from_secs(5)).send().await.ok()?;
        reply.success().await.ok()?.json().await.ok()
    }

    /// Waits until the status is as it should be.
    pub async fn until(&self, master: &Master, what: &str, is: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + Duration::from_secs(40);
        let mut last = None;
        while Instant::now() < end {
            if let Some(status) = self.status(master).await {
                if is(&status) {
                    return status;
                }
                last = Some(status);
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("{}: {what}: {last:#?}", master.name);
    }

    /// Three members, each with a vote.
    pub async fn three(&self) -> [Master; 3] {
        let mut masters = [self.master(1, &[]), self.master(2, &[1]), self.master(3, &[1, 2])];
        for master in &mut masters {
            master.start();
            self.until(master, "votes", votes).await;
        }
        masters
    }
}

pub fn votes(status: &Status) -> bool {
    status.phase == plenum_etcd::Phase::Running && status.leader.is_some()
}

impl Master {
    pub fn start(&mut self) {
        let (config, shutdown) = (self.config.clone(), Shutdown::new());
        let ending = shutdown.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = plenum_etcd::run(config, ending).await {
                panic!("the role ended: {error}");
            }
        });
        self.running = Some((shutdown, task));
    }

    /// Ends the role and its etcd without warning.
    pub async fn kill(&mut self) {
        let (_, task) = self.running.take().unwrap();
        task.abort();
        let _ = task.await;
        // The port is free once the kernel has taken etcd down.
        self.until_refused().await;
    }

    pub async fn stop(&mut self) {
        let (shutdown, task) = self.running.take().unwrap();
        shutdown.trigger();
        task.await.unwrap();
        self.until_refused().await;
    }

    async fn until_refused(&self) {
        let address = SocketAddr::new(self.config.address, 2379);
        let end = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            assert!(Instant::now() < end, "etcd of {} goes on", self.name);
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.config.address, 2379))
    }

    pub fn folder(&self) -> PathBuf {
        self.config.component.data.clone()
    }

    /// As after its disk was replaced.
    pub fn wipe(&self) {
        std::fs::remove_dir_all(self.folder()).unwrap();
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.running {
            task.abort();
        }
    }
}

pub fn urls(masters: &[Master]) -> Vec<String> {
    masters.iter().map(Master::url).collect()
}

pub fn entries(folder: &Path, prefix: &str) -> usize {
    let all = std::fs::read_dir(folder).unwrap();
    all.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(prefix)).count()
}
