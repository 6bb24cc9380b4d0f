//! Identities of several masters on one etcd: bootstrap and carrying over, the map, concurrent writes, an etcd that is away, removal.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use plenum_base::client::{Client, Credentials};
use plenum_base::places::{Places, Role};
use plenum_base::policy::{Signed, Snapshot};
use plenum_base::service::Shutdown;
use plenum_base::tls::renew::renew;
use plenum_base::tls::{Expect, Identity};
use plenum_identity::{Config, First, RunError, bootstrap_fleet, carry_over, run};
use plenum_store::StoreSettings;
use serde_json::{Value, json};

use crate::etcd::Server;
use crate::fixture::{config, join_as};

const PASSWORD: &str = "the-first-password";

/// A master of a fleet on loopback: its own folder, its own address.
pub struct Master {
    /// Gone with this value.
    _folder: tempfile::TempDir,
    pub config: Config,
    running: Option<(Shutdown, tokio::task::JoinHandle<Result<(), RunError>>)>,
}

fn settings(folder: &Path, name: &str, host: u8, endpoint: &str) -> Config {
    let address: IpAddr = [127, 0, 0, host].into();
    let port = std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
    Config {
        name: Some(name.to_owned()),
        address: Some(address),
        listen: Some(SocketAddr::new(address, port)),
        store: StoreSettings { etcd: true, endpoints: vec![endpoint.to_owned()], ..StoreSettings::default() },
        ..config(folder)
    }
}

impl Master {
    pub fn new(name: &str, host: u8, endpoint: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = settings(folder.path(), name, host, endpoint);
        Self { _folder: folder, config, running: None }
    }

    /// The first master, carried over to etcd and running.
    pub async fn first(etcd: &Server) -> Self {
        let mut master = Self::new("m1", 11, &etcd.endpoint());
        bootstrap_fleet(&master.config, &first()).await.unwrap();
        assert!(carry_over(&master.config).await.unwrap());
        master.start().await;
        master
    }

    /// Another master, which joined at `at`.
    pub async fn joined(name: &str, host: u8, etcd: &Server, at: &Self) -> Self {
        let mut master = Self::new(name, host, &etcd.endpoint());
        let token = at.token(json!({"kind": "master"})).await;
        let address = master.config.address.unwrap();
        join_as(&at.url("https"), &token, name, address, &Role::EVERY, &master.places()).await.unwrap();
        master.start().await;
        master
    }

    pub fn places(&self) -> Places {
        self.config.places()
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.config.listen.unwrap())
    }

    pub async fn start(&mut self) {
        let shutdown = Shutdown::new();
        let task = tokio::spawn(run(self.config.clone(), shutdown.clone()));
        self.running = Some((shutdown, task));
        let client = Client::plain().unwrap();
        for _ in 0..1000 {
            if let Some((_, task)) = &self.running
                && task.is_finished()
            {
                let (_, task) = self.running.take().unwrap();
                panic!("identity ended: {:?}", task.await);
            }
            if client.get(&format!("{}/internal/v1/cluster", self.url("http"))).send().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("identity does not answer");
    }

    pub async fn stop(&mut self) {
        let (shutdown, task) = self.running.take().unwrap();
        shutdown.trigger();
        task.await.unwrap().unwrap();
    }

    /// Ends at once, in the middle of whatever it does.
    pub fn abort(&mut self) {
        let (_, task) = self.running.take().unwrap();
        task.abort();
    }

    /// A call as root on this master: with identity's own certificate.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let own = Identity::load(&self.places().identity(Role::Identity)).unwrap();
        let client = Client::with_identity(&own, Expect::Role("identity".into())).unwrap();
        let mut call = client.call(method, &format!("{}/internal/v1{path}", self.url("https")));
        if let Some(body) = body {
            call = call.json(&body);
        }
        let reply = call.send().await.unwrap();
        let status = reply.status.as_u16();
        (status, serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    pub async fn token(&self, body: Value) -> String {
        let (status, made) = self.call(Method::POST, "/tokens", Some(body)).await;
        assert_eq!(status, 201, "{made}");
        made["token"].as_str().unwrap().to_owned()
    }

    pub async fn login(&self) -> Option<String> {
        let body = json!({"uid": "ops", "password": PASSWORD});
        let call = Client::plain().unwrap().post(&format!("{}/acs/api/v1/auth/login", self.url("http")));
        let reply = call.deadline(Duration::from_secs(20)).json(&body).send().await.unwrap();
        let body: Value = reply.json().await.ok()?;
        body["token"].as_str().map(str::to_owned)
    }

    /// The policy on this master's disk, if it is signed as it must be.
    pub fn policy(&self) -> Snapshot {
        let own = Identity::load(&self.places().identity(Role::Identity)).unwrap();
        let text = std::fs::read(self.places().policy()).unwrap();
        serde_json::from_slice::<Signed>(&text).unwrap().open(&own.roots()).unwrap()
    }

    /// Waits until the policy here is as wanted; says how long that took.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Duration {
        let start = Instant::now();
        while !wanted(&self.policy()) {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?}", self.policy());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }

    fn names(&self) -> Vec<String> {
        let map = self.policy().cluster.unwrap_or_default();
        map.masters.into_iter().map(|node| node.name).collect()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if let Some((shutdown, _)) = &self.running {
            shutdown.trigger();
        }
    }
}

fn first() -> First {
    First {
        uid: "ops".to_owned(),
        password: Some(PASSWORD.to_owned()),
        settings: json!({"virtual_range": "11.0.0.0/16"}),
    }
}

#[tokio::test]
async fn the_first_master_is_made_before_etcd_and_carried_over_once() {
    let etcd = Server::start().await;
    let mut master = Master::new("m1", 11, &etcd.endpoint());
    let made = bootstrap_fleet(&master.config, &first()).await.unwrap();
    assert_eq!(made.admin.unwrap().uid, "ops");
    let places = master.places();
    for role in Role::EVERY {
        let peer = Identity::load(&places.identity(role)).unwrap().peer();
        assert_eq!(peer.name.to_string(), format!("plenum://test/{role}/m1"));
        let sans: Vec<String> = peer.sans.iter().map(ToString::to_string).collect();
        assert!(
            sans.contains(&"127.0.0.11".to_owned()) && sans.contains(&"127.0.0.1".to_owned()),
            "{sans:?}"
        );
    }
    let map = master.policy().cluster.unwrap();
    assert_eq!(
        (map.number, master.names()),
        (1, vec!["m1".to_owned()]),
        "who starts etcd reads the map already"
    );
    let again = bootstrap_fleet(&master.config, &first()).await.unwrap();
    assert!(again.admin.is_none() && again.cluster_id == made.cluster_id);

    // Before it is carried over, nothing begins on etcd: neither a cluster of its own nor anything else.
    let early = run(master.config.clone(), Shutdown::new()).await.unwrap_err();
    assert!(early.to_string().contains("holds no cluster"), "{early}");
    let number = master.policy().number;
    assert!(carry_over(&master.config).await.unwrap());
    assert!(!carry_over(&master.config).await.unwrap(), "once");
    let after = bootstrap_fleet(&master.config, &first()).await.unwrap();
    assert_eq!((after.cluster_id, after.ca_fingerprint), (made.cluster_id, made.ca_fingerprint));
    let back = Config { store: StoreSettings::default(), ..master.config.clone() };
    let refused = run(back, Shutdown::new()).await.unwrap_err();
    assert!(refused.to_string().contains("on etcd now"), "{refused}");

    master.start().await;
    assert!(master.policy().number >= number);
    assert!(master.login().await.is_some());
    let (status, settings) = master.call(Method::GET, "/settings", None).await;
    assert_eq!((status, settings["virtual_range"].as_str()), (200, Some("11.0.0.0/16")));
    let (_, map) = master.call(Method::GET, "/masters", None).await;
    assert_eq!(map["masters"], json!([{"name": "m1", "address": "127.0.0.11"}]));
}

#[tokio::test]
async fn carrying_over_is_finished_after_a_crash_and_never_mixes_clusters() {
    let etcd = Server::start().await;
    let master = Master::new("m1", 11, &etcd.endpoint());
    bootstrap_fleet(&master.config, &first()).await.unwrap();
    let (before, places) = (master.policy(), master.places());
    // Killed in the middle: a part is on etcd, and some of it is gone here since.
    let store = plenum_store::scoped(
        std::sync::Arc::new(
            plenum_store::Etcd::connect(plenum_store::EtcdOptions::new([etcd.endpoint()])).await.unwrap(),
        ),
        "/plenum/test/identity/",
    );
    use plenum_store::Store;
    store.commit(plenum_store::Txn::new().put("users/ghost", "{}").put("policy", "{}")).await.unwrap();
    assert!(carry_over(&master.config).await.unwrap());
    assert!(store.get("users/ghost").await.unwrap().is_none());
    // Killed before the file was marked: it is marked, and what is on etcd stays.
    std::fs::remove_file(places.store(Role::Identity).with_extension("redb.moved")).unwrap();
    store.commit(plenum_store::Txn::new().put("users/later", "{}")).await.unwrap();
    assert!(carry_over(&master.config).await.unwrap());
    assert!(store.get("users/later").await.unwrap().is_some());
    assert_eq!(before.cluster.unwrap().masters.len(), 1);
    let other = Master::new("m1", 12, &etcd.endpoint());
    bootstrap_fleet(&other.config, &first()).await.unwrap();
    let refused = carry_over(&other.config).await.unwrap_err();
    assert!(refused.to_string().contains("another cluster"), "{refused}");
}

#[tokio::test]
async fn what_one_changes_all_publish_and_no_write_is_lost() {
    let etcd = Server::start().await;
    let one = Master::first(&etcd).await;
    let mut two = Master::joined("m2", 12, &etcd, &one).await;
    one.until("the new master is in the map", |p| p.cluster.as_ref().is_some_and(|m| m.masters.len() == 2))
        .await;
    let tokens = [one.login().await.unwrap(), two.login().await.unwrap()];
    let client = Client::plain().unwrap();
    // The same account at both at once: one makes it. Others: all are made.
    let put = |master: &Master, token: &str, uid: String| {
        let call = client.put(&format!("{}/acs/api/v1/users/{uid}", master.url("http")));
        let call = call.credentials(&Credentials::Token(token.to_owned())).deadline(Duration::from_secs(60));
        let call = call.json(&json!({"password": "pass-word"}));
        async move { call.send().await.unwrap().status.as_u16() }
    };
    let racing = (0..20).map(|n| {
        let uid = if n < 10 { format!("own{n}") } else { format!("same{n}") };
        let (left, right) = (put(&one, &tokens[0], uid.clone()), put(&two, &tokens[1], uid));
        async move { tokio::join!(left, right) }
    });
    for (left, right) in futures_util::future::join_all(racing).await {
        let mut both = [left, right];
        both.sort_unstable();
        assert_eq!(both, [201, 409]);
    }
    let ready = |p: &Snapshot| p.accounts.len() == 21;
    let numbers = (one.policy().number, two.policy().number);
    assert!(one.until("all accounts", ready).await < Duration::from_secs(1));
    assert!(two.until("all accounts", ready).await < Duration::from_secs(1));
    assert!(numbers.0.min(numbers.1) > 20);

    // A change through one is on the other's disk within a second.
    let start = Instant::now();
    assert_eq!(put(&one, &tokens[0], "quick".to_owned()).await, 201);
    two.until("the change", |p| p.accounts.contains_key("quick")).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // One ends abruptly under writes; what was acknowledged is there, numbers only grow.
    let number = two.policy().number;
    two.abort();
    for n in 0..5 {
        assert_eq!(put(&one, &tokens[0], format!("more{n}")).await, 201);
    }
    two.start().await;
    two.until("what was missed", |p| p.accounts.contains_key("more4") && p.number > number).await;
    assert_eq!(one.policy().number, two.policy().number);
    assert!(two.login().await.is_some());
}

#[tokio::test]
async fn the_last_superuser_stays_even_when_two_are_removed_at_once() {
    let etcd = Server::start().await;
    let one = Master::first(&etcd).await;
    let two = Master::joined("m2", 12, &etcd, &one).await;
    let token = one.login().await.unwrap();
    let client = Client::plain().unwrap().with_credentials(Credentials::Token(token));
    let users = |master: &Master, uid: &str| format!("{}/acs/api/v1/users/{uid}", master.url("http"));
    for round in 0..3 {
        let uid = format!("second{round}");
        assert_eq!(
            client
                .put(&users(&one, &uid))
                .json(&json!({"password": "pass-word"}))
                .send()
                .await
                .unwrap()
                .status,
            201
        );
        let acl = format!("{}/acs/api/v1/acls/dcos:superuser/users/{uid}/full", one.url("http"));
        assert_eq!(client.put(&acl).send().await.unwrap().status, 204);
        let take = |master: &Master, uid: &str| {
            let acl = format!("{}/acs/api/v1/acls/dcos:superuser/users/{uid}/full", master.url("http"));
            client.delete(&acl).deadline(Duration::from_secs(30))
        };
        let (left, right) = (take(&one, "ops").send(), take(&two, &uid).send());
        let (left, right) = tokio::join!(left, right);
        let mut both = [left.unwrap().status.as_u16(), right.unwrap().status.as_u16()];
        both.sort_unstable();
        assert_eq!(both, [204, 400], "one stays");
        // As it was: the first is the only one again.
        let back = format!("{}/acs/api/v1/acls/dcos:superuser/users/ops/full", one.url("http"));
        client.put(&back).send().await.unwrap();
        let _ = take(&two, &uid).send().await;
    }
}

#[tokio::test]
async fn without_a_majority_logins_and_renewals_go_on_and_writes_are_refused() {
    let mut etcd = Server::start().await;
    let master = Master::first(&etcd).await;
    let token = master.login().await.unwrap();
    let agent = Identity::load(&master.places().identity(Role::Agent)).unwrap();
    etcd.kill();
    assert!(master.login().await.is_some(), "whoever was known logs in");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let before = agent.peer().not_after;
    renew(&agent, &master.url("https")).await.unwrap();
    assert!(agent.peer().not_after > before);
    let client = Client::plain().unwrap().with_credentials(Credentials::Token(token));
    let url = format!("{}/acs/api/v1/users/ann", master.url("http"));
    let put = || client.put(&url).deadline(Duration::from_secs(40)).json(&json!({"password": "pass-word"}));
    let refused = put().send().await.unwrap();
    assert_eq!(refused.status, 503);
    let refused: Value = refused.json().await.unwrap();
    assert!(refused["description"].as_str().unwrap().contains("try again"), "{refused}");
    etcd.run().await;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let status = put().send().await.unwrap().status.as_u16();
        // 409: the first attempt's write did arrive.
        if status == 201 || status == 409 {
            break;
        }
        assert!(Instant::now() < until, "{status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    master.until("the account", |p| p.accounts.contains_key("ann")).await;
}

#[tokio::test]
async fn a_fleet_that_was_off_until_everything_ended_comes_back_by_itself() {
    // etcd as on a master: it shows the certificate of its role, and takes clients of the cluster's authority only.
    let mut master = Master::new("m1", 11, "https://127.0.0.11:1");
    let places = master.places();
    let mut etcd = Server::secured(master.config.address.unwrap(), places.identity(Role::Etcd));
    master.config.store.endpoints = vec![etcd.endpoint()];
    bootstrap_fleet(&master.config, &first()).await.unwrap();
    etcd.run().await;
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = carry_over(&master.config).await {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    master.start().await;
    // Only the roles that keep records there get in, though all have certificates of the same authority.
    for (role, may) in
        [(Role::Services, true), (Role::Agent, false), (Role::Balancer, false), (Role::Gateway, false)]
    {
        let asked = store_as(&places, role, &etcd).await;
        assert_eq!(asked.is_ok(), may, "{role}: {asked:?}");
    }
    master.stop().await;
    etcd.kill();
    // In place of waiting: certificates of the same keys and this cluster's authority that ended a day ago.
    let ca = authority(&master);
    let roles = [Role::Etcd, Role::Identity, Role::Agent];
    for role in roles {
        let files = places.identity(role);
        let peer = Identity::load(&files).unwrap().peer();
        let key = std::fs::read_to_string(&files.key).unwrap();
        let csr = plenum_base::pki::Request::for_key(&key).unwrap().csr;
        let then = std::time::SystemTime::now() - Duration::from_secs(48 * 3600);
        let ended = ca.issue(&csr, &peer.name, &peer.sans, then, Duration::from_secs(24 * 3600)).unwrap();
        std::fs::write(&files.cert, ended).unwrap();
        assert!(!Identity::load(&files).unwrap().peer().is_current(std::time::SystemTime::now()));
    }
    // Neither speaks to the other now, whichever is first: identity sees to the certificates, etcd reads them at the next handshake.
    etcd.run().await;
    master.start().await;
    for role in roles {
        let peer = Identity::load(&places.identity(role)).unwrap().peer();
        assert!(peer.is_current(std::time::SystemTime::now()), "{role}");
    }
    assert!(master.login().await.is_some());
}

/// Reads from etcd with a role's certificate.
async fn store_as(places: &Places, role: Role, etcd: &Server) -> Result<(), plenum_store::StoreError> {
    use plenum_store::Store;
    let files = places.identity(role);
    let read = |path: &Path| std::fs::read(path).unwrap();
    let (ca, cert, key) = (read(&files.ca), read(&files.cert), read(&files.key));
    let tls = plenum_store::EtcdTls { ca, cert, key, server_name: None };
    let deadline = Duration::from_secs(2);
    let options = plenum_store::EtcdOptions::new([etcd.endpoint()]);
    let store =
        plenum_store::Etcd::connect(plenum_store::EtcdOptions { tls: Some(tls), deadline, ..options })
            .await?;
    store.get("/x").await.map(drop)
}

/// The cluster's authority, opened as identity itself does: sealed beside the master key.
fn authority(master: &Master) -> plenum_base::pki::Authority {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    use base64::Engine;
    let places = master.places();
    let site: Value =
        serde_json::from_slice(&std::fs::read(places.data(Role::Identity).join("site.json")).unwrap())
            .unwrap();
    let key = std::fs::read(places.vault_key()).unwrap();
    let sealed = base64::engine::general_purpose::STANDARD.decode(site["ca_key"].as_str().unwrap()).unwrap();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(&sealed[1..13]).unwrap();
    let mut content = sealed[13..].to_vec();
    let plain = key.open_in_place(nonce, Aad::from(b"site/ca_key"), &mut content).unwrap();
    let pem = String::from_utf8(plain.to_vec()).unwrap();
    plenum_base::pki::Authority::from_pem(site["ca"].as_str().unwrap(), &pem).unwrap()
}

#[tokio::test]
async fn masters_leave_and_come_back_only_with_a_new_token() {
    let etcd = Server::start().await;
    let one = Master::first(&etcd).await;
    let mut two = Master::joined("m2", 12, &etcd, &one).await;
    assert_eq!(one.call(Method::DELETE, "/masters/nobody", None).await.0, 404);
    assert_eq!(one.call(Method::DELETE, "/masters/m2", None).await.0, 204);
    assert_eq!(one.call(Method::DELETE, "/masters/m2", None).await.0, 204, "again");
    let (status, refused) = one.call(Method::DELETE, "/masters/m1", None).await;
    assert_eq!((status, refused["code"].as_str()), (409, Some("ERR_LAST_MASTER")));
    two.until("it leaves", |p| {
        p.cluster.as_ref().is_some_and(|m| m.leaving == ["m2"] && m.masters.len() == 2)
    })
    .await;
    assert_eq!(one.call(Method::DELETE, "/masters/m2?gone=true", None).await.0, 204);
    one.until("it is out", |p| p.cluster.as_ref().is_some_and(|m| m.masters.len() == 1)).await;
    // Started again it stays out; what it has is still good.
    two.stop().await;
    two.start().await;
    assert_eq!(one.names(), ["m1"]);

    let old = Identity::load(&two.places().identity(Role::Agent)).unwrap();
    assert_eq!(one.call(Method::DELETE, "/members/m2", None).await.0, 204);
    assert_eq!(one.call(Method::DELETE, "/members/m2", None).await.0, 404);
    assert!(renew(&old, &one.url("https")).await.is_err(), "not renewed");
    let token = one.token(json!({"kind": "master"})).await;
    let address = two.config.address.unwrap();
    let places = two.places();
    let again = join_as(&one.url("https"), &token, "m2", address, &Role::EVERY, &places).await.unwrap_err();
    assert!(again.to_string().contains("taken out"), "the old keys never come in again: {again}");
    two.stop().await;
    let ended = run(two.config.clone(), Shutdown::new()).await.unwrap_err();
    assert!(ended.to_string().contains("taken out of the cluster"), "{ended}");
    // With new keys and the same token it is a master again.
    std::fs::remove_dir_all(places.pki()).unwrap();
    join_as(&one.url("https"), &token, "m2", address, &Role::EVERY, &places).await.unwrap();
    one.until("it leaves no more", |p| p.cluster.as_ref().is_some_and(|m| m.leaving.is_empty())).await;
    two.start().await;
    one.until("it is back", |p| p.cluster.as_ref().is_some_and(|m| m.masters.len() == 2)).await;
}
