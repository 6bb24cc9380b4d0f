//! Hosts that join: what each kind of token is good for, races for a token, hostile requests, and many at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use plenum_base::client::{Client, Credentials};
use plenum_base::pki::Request;
use plenum_base::places::Role;
use plenum_base::tls::join::{JoinError, NodeKind, NodeRequest, join_node};
use plenum_base::tls::renew::renew;
use plenum_base::tls::{Expect, Identity};
use serde_json::{Value, json};

use crate::etcd::Server;
use crate::fixture::{host, join_as};
use crate::fleet::Master;

const AGENT: [Role; 3] = [Role::Agent, Role::Discovery, Role::Balancer];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn each_kind_of_token_is_good_for_its_roles() {
    let etcd = Server::start().await;
    let one = Master::first(&etcd).await;
    let url = one.url("https");
    let token = one.token(json!({"kind": "agent", "uses": 1})).await;
    let ask = |csrs: BTreeMap<Role, String>| NodeRequest {
        name: "n1".into(),
        address: address("127.0.1.1"),
        names: vec![],
        csrs,
    };
    // Asking what it is for uses nothing up.
    let told = join_node(std::slice::from_ref(&url), &token, &ask(BTreeMap::new())).await.unwrap();
    assert_eq!(
        (told.kind, told.instance.as_str(), told.vault_key.is_some()),
        (NodeKind::Agent, "test", false)
    );
    assert_eq!(told.settings["virtual_range"], "11.0.0.0/16");
    assert_eq!(told.cluster.masters[0].name, "m1");

    let node = tempfile::tempdir().unwrap();
    let places = host(node.path());
    for role in [Role::Master, Role::Etcd, Role::Identity, Role::Gateway, Role::Services, Role::Catalog] {
        let refused = join_as(&url, &token, "n1", address("127.0.1.1"), &[Role::Agent, role], &places).await;
        assert!(refused.unwrap_err().to_string().contains("does not admit such a role"), "{role}");
    }
    // The first master is off: the next is asked.
    let dead = "https://127.0.0.99:1".to_owned();
    let requests = plenum_base::tls::join::prepare(&places, &AGENT).unwrap();
    let csrs = requests.iter().map(|(role, request)| (*role, request.csr.clone())).collect();
    let joined = join_node(&[dead.clone(), url.clone()], &token, &ask(csrs)).await.unwrap();
    assert!(joined.vault_key.is_none(), "the cluster's keys are for masters");
    plenum_base::tls::join::install(&places, &joined, &requests).unwrap();
    for role in AGENT {
        let peer = Identity::load(&places.identity(role)).unwrap().peer();
        assert_eq!(peer.name.to_string(), format!("plenum://test/{role}/n1"));
        // Above all none of the names that open the store.
        assert_eq!(peer.sans.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.1.1"]);
    }
    // The reply was lost: the same keys, the same token, once more. Another host: no.
    join_as(&url, &token, "n1", address("127.0.1.1"), &AGENT, &places).await.unwrap();
    let other = tempfile::tempdir().unwrap();
    let late =
        join_as(&url, &token, "n2", address("127.0.1.2"), &AGENT, &host(other.path())).await.unwrap_err();
    assert!(late.to_string().contains("used up"), "{late}");
    let nobody = join_node(&[], &token, &ask(BTreeMap::new())).await.unwrap_err();
    assert!(matches!(nobody, JoinError::Nobody));
    assert!(join_node(&[dead], &token, &ask(BTreeMap::new())).await.is_err());

    let public = one.token(json!({"kind": "public"})).await;
    let told = join_as(&url, &public, "p1", address("127.0.1.3"), &AGENT, &host(other.path())).await.unwrap();
    assert_eq!(told.kind, NodeKind::Public);
    let (_, members) = one.call(Method::GET, "/members", None).await;
    let names: Vec<&str> =
        members["members"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m1", "n1", "p1"]);
}

#[tokio::test]
async fn two_joins_with_one_use_at_two_masters_are_one_host() {
    let etcd = Server::start().await;
    let one = Master::first(&etcd).await;
    let two = Master::joined("m2", 12, &etcd, &one).await;
    for round in 0..4_u8 {
        let token = one.token(json!({"kind": "agent"})).await;
        let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
        let racing = folders.iter().enumerate().map(|(n, folder)| {
            let url = if n % 2 == 0 { one.url("https") } else { two.url("https") };
            let (token, name) = (token.clone(), format!("r{round}-{n}"));
            let at = IpAddr::from([127, 0, 2 + round, u8::try_from(n).unwrap() + 1]);
            async move { join_as(&url, &token, &name, at, &AGENT, &host(folder.path())).await.is_ok() }
        });
        let won = futures_util::future::join_all(racing).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    }
    // The same host at both masters at once, with the same keys: one use.
    let token = one.token(json!({"kind": "agent"})).await;
    let folder = tempfile::tempdir().unwrap();
    let places = host(folder.path());
    plenum_base::tls::join::prepare(&places, &AGENT).unwrap();
    let (one_url, two_url) = (one.url("https"), two.url("https"));
    let (left, right) = tokio::join!(
        join_as(&one_url, &token, "same", address("127.0.9.1"), &AGENT, &places),
        join_as(&two_url, &token, "same", address("127.0.9.1"), &AGENT, &places),
    );
    assert!(left.is_ok() && right.is_ok(), "{left:?} {right:?}");
    // The same name with other keys, the same address with another name.
    let many = one.token(json!({"kind": "agent", "uses": 0})).await;
    let other = tempfile::tempdir().unwrap();
    let taken = join_as(&one_url, &many, "same", address("127.0.9.2"), &AGENT, &host(other.path())).await;
    assert!(taken.unwrap_err().to_string().contains("another key"));
    for held in ["127.0.9.1", "127.0.0.11", "::ffff:127.0.0.11"] {
        let taken = join_as(&two_url, &many, "thief", address(held), &AGENT, &host(other.path())).await;
        assert!(taken.unwrap_err().to_string().contains("is the address of"), "{held}");
    }
}

#[tokio::test]
async fn hostile_requests_get_nothing_and_use_nothing_up() {
    let etcd = Server::start().await;
    let one = Master::first(&etcd).await;
    let token = one.token(json!({"kind": "agent"})).await;
    let csr = Request::new().unwrap().csr;
    let good = json!({"token": token, "name": "n1", "address": "127.0.1.1", "csrs": {"agent": csr}});
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body.to_string()
    };
    let deep = "[".repeat(100_000);
    let many: BTreeMap<String, &str> = (0..2000).map(|n| (format!("role{n}"), "x")).collect();
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[2] = "0".repeat(32);
    let bodies = [
        String::new(),
        "{".to_owned(),
        deep,
        "null".to_owned(),
        json!([good]).to_string(),
        with("token", json!(parts.join("."))),
        with("token", json!("")),
        with("token", json!(7)),
        with("token", json!("plenum1.0123456789abcdef.x.y")),
        with("name", json!("")),
        with("name", json!("../../site")),
        with("name", json!("a/b")),
        with("name", json!("identity")),
        with("name", json!("-rf")),
        with("name", json!("x".repeat(129))),
        with("name", json!("n1\u{0}")),
        with("address", json!("")),
        with("address", json!("0.0.0.0")),
        with("address", json!("255.255.255.255")),
        with("address", json!("host.example")),
        with("address", json!("127.0.0.11")),
        with("csrs", json!({"agent": ""})),
        with("csrs", json!({"agent": csr, "master": csr})),
        with("csrs", json!({"Agent": csr})),
        with("csrs", json!({"../identity": csr})),
        with("csrs", json!({"agent": "x".repeat(100_000)})),
        with("csrs", json!(many)),
        with("csrs", json!([csr])),
        with("csrs", Value::Null),
        with("names", json!("x")),
    ];
    let client = Client::plain().unwrap();
    let url = format!("{}/internal/v1/join", one.url("http"));
    for body in bodies {
        let shown: String = body.chars().take(200).collect();
        let call = client.post(&url).body(plenum_base::client::full(body));
        let reply = call.send().await.unwrap();
        assert!(reply.status.is_client_error(), "{} for {shown}", reply.status);
        let text = String::from_utf8(reply.bytes().await.unwrap().to_vec()).unwrap();
        assert!(!text.contains("CERTIFICATE"), "{shown}: {text}");
    }
    // Names are for masters; an agent's certificate has its address and nothing else.
    let reply = client
        .post(&url)
        .body(plenum_base::client::full(with("names", json!(["gateway.example"]))))
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
    let joined: Value = reply.json().await.unwrap();
    let leaf = joined["certificates"]["agent"].as_str().unwrap();
    let path = tempfile::tempdir().unwrap();
    std::fs::write(path.path().join("leaf"), leaf).unwrap();
    assert!(!String::from_utf8_lossy(&der(leaf)).contains("gateway.example"));
    assert!(joined.get("vault_key").is_none());
}

fn der(pem: &str) -> Vec<u8> {
    use base64::Engine;
    let first = pem.split("-----END").next().unwrap().lines().skip(1).collect::<String>();
    base64::engine::general_purpose::STANDARD.decode(first).unwrap()
}

#[tokio::test]
async fn tokens_settings_and_secrets_are_for_those_who_may() {
    let etcd = Server::start().await;
    let one = Master::first(&etcd).await;
    let two = Master::joined("m2", 12, &etcd, &one).await;
    let as_role = |role: Role| {
        let own = Identity::load(&one.places().identity(role)).unwrap();
        Client::with_identity(&own, Expect::Role("identity".into())).unwrap()
    };
    let base = format!("{}/internal/v1", one.url("https"));
    for path in ["/tokens", "/masters", "/members", "/settings", "/ticket-secret"] {
        let url = format!("{base}{path}");
        assert_eq!(as_role(Role::Agent).get(&url).send().await.unwrap().status, 403, "{path}");
        let plain = format!("{}/internal/v1{path}", one.url("http"));
        assert_eq!(Client::plain().unwrap().get(&plain).send().await.unwrap().status, 401, "{path}");
    }
    for role in [Role::Master, Role::Gateway, Role::Discovery] {
        let status = as_role(role).get(&format!("{base}/tokens")).send().await.unwrap().status.as_u16();
        assert!(status == 403 || status == 401, "{role}");
    }
    // A superuser, directly or through the gateway, which shows its own certificate too.
    let login = one.login().await.unwrap();
    let token = Credentials::Token(login);
    let through = as_role(Role::Gateway).with_credentials(token.clone());
    let made =
        through.post(&format!("{base}/tokens")).json(&json!({"kind": "agent", "uses": 5, "ttl_seconds": 60}));
    let made: Value = made.send().await.unwrap().success().await.unwrap().json().await.unwrap();
    assert_eq!(
        (made["kind"].as_str(), made["uses_left"].as_u64(), made["creator"].as_str()),
        (Some("agent"), Some(5), Some("ops"))
    );
    assert_eq!(made["masters"], json!(["127.0.0.11", "127.0.0.12"]));
    let (_, listed) = two.call(Method::GET, "/tokens", None).await;
    let listed = listed["tokens"].as_array().unwrap().clone();
    assert!(listed.iter().any(|t| t["id"] == made["id"]) && listed.iter().all(|t| t.get("token").is_none()));
    let id = made["id"].as_str().unwrap();
    assert_eq!(two.call(Method::DELETE, &format!("/tokens/{id}"), None).await.0, 204);
    assert_eq!(one.call(Method::DELETE, &format!("/tokens/{id}"), None).await.0, 404);
    for bad in [
        json!({"kind": "root"}),
        json!({"kind": "master", "ttl_seconds": 90_000}),
        json!({"uses": -1}),
        json!({"kinds": 1}),
    ] {
        assert_eq!(one.call(Method::POST, "/tokens", Some(bad.clone())).await.0, 400, "{bad}");
    }
    // The same secret from every identity, made once.
    let secret = async |master: &Master| {
        let url = format!("{}/internal/v1/ticket-secret", master.url("https"));
        let reply = as_role(Role::Master).get(&url).send().await.unwrap().success().await.unwrap();
        assert_eq!(reply.headers["cache-control"], "no-store");
        reply.json::<Value>().await.unwrap()["secret"].as_str().unwrap().to_owned()
    };
    let (left, right) = (secret(&one).await, secret(&two).await);
    assert!(left == right && left.len() == 44);

    assert_eq!(one.call(Method::PUT, "/settings", Some(json!({"domain": "mesos"}))).await.0, 204);
    let (_, settings) = two.call(Method::GET, "/settings", None).await;
    assert_eq!(settings, json!({"domain": "mesos"}));
    for bad in [json!([]), json!("x"), Value::Null, json!({"x": "y".repeat(300_000)})] {
        assert_eq!(one.call(Method::PUT, "/settings", Some(bad)).await.0, 400);
    }
    let stale = as_role(Role::Identity).put(&format!("{base}/settings")).json(&json!({}));
    let stale = stale.header(http::header::IF_MATCH, "\"1\"").send().await.unwrap();
    assert_eq!(stale.status, 412);
    assert_eq!(two.call(Method::GET, "/settings", None).await.1, json!({"domain": "mesos"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_renew_at_once() {
    let etcd = Server::start().await;
    let one = Master::first(&etcd).await;
    let two = Master::joined("m2", 12, &etcd, &one).await;
    let token = one.token(json!({"kind": "agent", "uses": 0})).await;
    // A thousand hosts have a thousand disks; here their files are in memory.
    let folder = match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm").unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let count = 1000_u32;
    let name = |n: u32| format!("n{n}");
    let start = Instant::now();
    // They join a hundred at a time, as an autoscaling group would be quick.
    for batch in 0..count / 100 {
        let joins = (batch * 100..(batch + 1) * 100).map(|n| {
            let url = if n % 2 == 0 { one.url("https") } else { two.url("https") };
            let (token, places) = (token.clone(), host(&folder.path().join(name(n))));
            let [.., c, d] = (n + 1).to_be_bytes();
            async move {
                join_as(&url, &token, &name(n), [127, 77, c, d].into(), &[Role::Agent], &places)
                    .await
                    .map(drop)
            }
        });
        for joined in futures_util::future::join_all(joins).await {
            joined.unwrap();
        }
    }
    let joined = start.elapsed();
    let agents: Vec<Identity> = (0..count)
        .map(|n| Identity::load(&host(&folder.path().join(name(n))).identity(Role::Agent)).unwrap())
        .collect();
    let start = Instant::now();
    let renewals = agents.iter().enumerate().map(|(n, agent)| {
        let url = if n % 2 == 0 { one.url("https") } else { two.url("https") };
        async move {
            // As they do it: whoever got no answer in time asks again.
            while let Err(error) = renew(agent, &url).await {
                assert!(start.elapsed() < Duration::from_secs(90), "{error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
    futures_util::future::join_all(renewals).await;
    let renewed = start.elapsed();
    println!("{count} hosts joined in {joined:?}, renewed at once in {renewed:?}");
    // Both ends, unoptimized, share the machine with whatever else runs on it; on its own it takes three seconds.
    assert!(renewed < Duration::from_secs(90), "{renewed:?}");
}
