//! Nodes that join with a token, renew, are removed; and the policy that follows them.

use std::time::Duration;

use http::Method;
use plenum_base::client::Client;
use plenum_base::pki::Request;
use plenum_base::places::Role;
use plenum_base::policy::Signed;
use plenum_base::policy_feed;
use plenum_base::tls::join::JoinError;
use plenum_base::tls::renew::{RenewRequest, renew};
use plenum_base::tls::{Expect, Identity, IdentityFiles};
use serde_json::{Value, json};

use crate::fixture::{Site, host, join, join_at};

/// An address of the loopback network for each name of these tests.
fn address_of(name: &str) -> std::net::IpAddr {
    let sum = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let [_, b, c, d] = sum.to_be_bytes();
    [127, b, c, d].into()
}

async fn token(site: &Site, body: Value) -> String {
    let (status, made) = site.admin(Method::POST, "/join-tokens", Some(body)).await;
    assert_eq!(status, 201, "{made}");
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_node_joins_renews_and_is_removed() {
    let site = Site::start().await;
    let node = tempfile::tempdir().unwrap();
    let token = token(&site, json!({"description": "rack 1"})).await;
    let identity = join(&site.url("https"), &token, "node-1", node.path()).await.unwrap();
    let peer = identity.peer();
    assert_eq!(peer.name.to_string(), "plenum://test/agent/node-1");
    assert_eq!(peer.sans.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1"]);
    // The reply of the first call may have been lost: the same key may ask again.
    join(&site.url("https"), &token, "node-1", node.path()).await.unwrap();

    let before = identity.peer().not_after;
    // Certificates count in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    renew(&identity, &site.url("https")).await.unwrap();
    let after = identity.peer();
    assert!(after.not_after > before);
    assert_eq!((&after.name, &after.key_fingerprint), (&peer.name, &peer.key_fingerprint));

    let client = Client::with_identity(&identity, Expect::Role("identity".into())).unwrap();
    let other_key = RenewRequest { csr: Request::new().unwrap().csr };
    let url = format!("{}/internal/v1/certificates", site.url("https"));
    assert_eq!(client.post(&url).json(&other_key).send().await.unwrap().status, 403, "another key");
    assert_eq!(client.post(&url).json(&json!({"csr": "x"})).send().await.unwrap().status, 400);

    let (_, members) = site.admin(Method::GET, "/members", None).await;
    assert!(members["array"].as_array().unwrap().iter().any(|m| m["name"] == "node-1"));
    assert_eq!(site.admin(Method::DELETE, "/members/agent/node-1", None).await.0, 204);
    assert_eq!(site.admin(Method::DELETE, "/members/agent/node-1", None).await.0, 404);
    assert!(renew(&identity, &site.url("https")).await.is_err(), "no member any more");
    let joins: Vec<_> = site.audit().into_iter().filter(|l| l["action"] == "member.join").collect();
    assert!(!joins.is_empty() && joins.iter().all(|line| line["target"] == "node-1"));
    assert!(!format!("{joins:?}").contains(token.split('.').nth(2).unwrap()), "the secret is not in the log");
}

#[tokio::test]
async fn tokens_are_counted_revoked_and_end() {
    let site = Site::start().await;
    let url = site.url("https");
    let try_join = async |token: &str, name: &str| {
        let node = tempfile::tempdir().unwrap();
        join_at(&url, token, name, address_of(name), node.path()).await
    };
    let once = token(&site, json!({})).await;
    try_join(&once, "n1").await.unwrap();
    assert!(try_join(&once, "n2").await.is_err(), "used up");
    let many = token(&site, json!({"uses": 0})).await;
    for name in ["m1", "m2", "m3"] {
        try_join(&many, name).await.unwrap();
    }
    let taken = try_join(&many, "m1").await.unwrap_err();
    assert!(taken.to_string().contains("409"), "a name is not taken over by another key: {taken}");

    let two = token(&site, json!({"uses": 2})).await;
    let racing: Vec<_> = futures_util::future::join_all((0..6).map(|n| {
        let (two, try_join) = (&two, &try_join);
        async move { try_join(two, &format!("r{n}")).await.is_ok() }
    }))
    .await;
    assert_eq!(racing.iter().filter(|joined| **joined).count(), 2, "two uses are two nodes");

    let (_, listed) = site.admin(Method::GET, "/join-tokens", None).await;
    assert!(listed["array"].as_array().unwrap().iter().all(|t| t.get("token").is_none()));
    let id = many.split('.').nth(1).unwrap();
    assert_eq!(site.admin(Method::DELETE, &format!("/join-tokens/{id}"), None).await.0, 204);
    assert!(try_join(&many, "m4").await.is_err(), "revoked");
    let short = token(&site, json!({"ttl_seconds": 1})).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(try_join(&short, "late").await.is_err(), "expired");
    let (_, listed) = site.admin(Method::GET, "/join-tokens", None).await;
    let gone = short.split('.').nth(1).unwrap();
    assert!(listed["array"].as_array().unwrap().iter().all(|t| t["id"] != gone));
    for body in [json!({"ttl_seconds": 0}), json!({"ttl_seconds": 99_999_999}), json!({"what": 1})] {
        assert_eq!(site.admin(Method::POST, "/join-tokens", Some(body)).await.0, 400);
    }
}

#[tokio::test]
async fn wrong_tokens_and_requests_get_nothing() {
    let site = Site::start().await;
    let good = token(&site, json!({})).await;
    let mut parts: Vec<&str> = good.split('.').collect();
    let secret = "0".repeat(32);
    parts[2] = &secret;
    let node = tempfile::tempdir().unwrap();
    let refused = join(&site.url("https"), &parts.join("."), "n", node.path()).await.unwrap_err();
    assert!(refused.to_string().contains("403"), "{refused}");
    let parts: Vec<&str> = good.split('.').collect();
    let another_ca = format!("{}.{}.{}.{}", parts[0], parts[1], parts[2], "a".repeat(64));
    let stranger = join(&site.url("https"), &another_ca, "n", node.path()).await.unwrap_err();
    assert!(
        stranger.to_string().contains("cannot be reached"),
        "the token is not sent to another cluster: {stranger}"
    );
    assert!(matches!(join(&site.url("https"), "x", "n", node.path()).await, Err(JoinError::Token)));
    for name in ["", "a/b", "../x", "a b", &"x".repeat(200)] {
        assert!(join(&site.url("https"), &good, name, node.path()).await.is_err(), "{name}");
    }
    let csr = Request::new().unwrap().csr;
    let csrs = json!({"agent": csr});
    for body in [
        json!({}),
        json!({"token": "plenum1.0.0.0", "name": "n", "address": "127.0.0.1", "csrs": csrs}),
        json!({"token": "plenum1.................", "name": "n", "address": "127.0.0.1", "csrs": csrs}),
        json!({"token": good, "name": "n", "address": "127.0.0.1", "csrs": {"agent": "x"}}),
        json!({"token": good, "name": "n", "address": "127.0.0.1", "csrs": {"agent": 1}}),
        json!({"token": good, "name": "n", "address": "127.0.0.1", "csr": csr}),
    ] {
        let (status, _) = site.send(Method::POST, "/internal/v1/join", None, Some(body.clone())).await;
        assert!(status.is_client_error(), "{status} {body}");
    }
    join(&site.url("https"), &good, "n", node.path()).await.expect("none of these used the token up");
}

#[tokio::test]
async fn a_node_that_was_off_for_long_comes_back_by_itself() {
    let site = Site::start().await;
    let node = tempfile::tempdir().unwrap();
    let files = host(node.path()).identity(Role::Agent);
    let token = token(&site, json!({})).await;
    let identity = join(&site.url("https"), &token, "node-1", node.path()).await.unwrap();
    // In place of waiting: the same key, a certificate that ended yesterday.
    let ended = ended_certificate(&site, &identity, &files);
    files
        .write(
            &std::fs::read_to_string(&files.ca).unwrap(),
            &ended,
            &std::fs::read_to_string(&files.key).unwrap(),
        )
        .unwrap();
    let back = Identity::load(&files).unwrap();
    assert!(!back.peer().is_current(std::time::SystemTime::now()));
    renew(&back, &site.url("https")).await.unwrap();
    assert!(back.peer().is_current(std::time::SystemTime::now()));
    assert_eq!(back.peer().key_fingerprint, identity.peer().key_fingerprint);

    let foreign = Request::new().unwrap().csr;
    for body in [
        json!({"role": "agent", "name": "node-1", "csr": foreign}),
        json!({"role": "agent", "name": "node-2", "csr": foreign}),
        json!({"role": "../x", "name": "", "csr": foreign}),
    ] {
        let (status, _) =
            site.send(Method::POST, "/internal/v1/certificates/expired", None, Some(body)).await;
        assert_eq!(status, 403);
    }
}

/// A certificate for the node's key that ended a day ago. Another CA signed it, since the site's key is sealed; nobody looks at that here.
fn ended_certificate(site: &Site, identity: &Identity, files: &IdentityFiles) -> String {
    let csr = Request::for_key(&std::fs::read_to_string(&files.key).unwrap()).unwrap().csr;
    let then = std::time::SystemTime::now() - Duration::from_secs(48 * 3600);
    let ca = plenum_base::pki::Authority::create("elsewhere", then).unwrap();
    let leaf = ca.issue(&csr, &identity.peer().name, &[], then, Duration::from_secs(24 * 3600)).unwrap();
    // The renewal reads the CA to trust from the chain, which is the site's.
    let first = leaf.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned();
    first + &std::fs::read_to_string(site.places().ca()).unwrap()
}

#[tokio::test]
async fn the_policy_reaches_other_machines() {
    let site = Site::start().await;
    let node = tempfile::tempdir().unwrap();
    let agent = Identity::load(&site.places().identity(Role::Agent)).unwrap();
    let path = node.path().join("policy.json");
    let url = site.url("https");
    let first = policy_feed::fetch(&agent, &url, &path, 0, Duration::from_secs(5)).await.unwrap();
    assert!(first > 0);
    let same = policy_feed::fetch(&agent, &url, &path, first, Duration::ZERO).await.unwrap();
    assert_eq!(same, first, "nothing newer");
    let waiting = policy_feed::fetch(&agent, &url, &path, first, Duration::from_secs(20));
    let change = site.admin(Method::PUT, "/users/ann", Some(json!({"password": "ann-pass"})));
    let (newer, made) = tokio::join!(waiting, change);
    assert_eq!(made.0, 201);
    assert!(newer.unwrap() > first);
    let signed: Signed = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(signed.open(&agent.roots()).unwrap().accounts.contains_key("ann"));
}
