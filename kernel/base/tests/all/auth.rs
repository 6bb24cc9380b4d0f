//! Certificates, tokens, basic credentials, and everything that only looks like them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::routing::get;
use axum::{Router, middleware};
use base64::Engine;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use plenum_base::auth::{
    AuthError, Authenticator, ExecutorTokens, Kind, OnlyComponent, Principal, optional, require,
};
use plenum_base::client::{Client, Credentials};
use plenum_base::pki::{LIFETIME, PeerName};
use plenum_base::policy::Signed;
use plenum_base::serve::Server;
use plenum_base::tls::{ClientAuth, Expect, Identity};
use serde_json::json;

use crate::fixture::{Cluster, Signer, policy, publish, start};

struct Site {
    _folder: tempfile::TempDir,
    policy: std::path::PathBuf,
    ca: std::path::PathBuf,
    cluster: Cluster,
    identity: Identity,
    signer: Signer,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::new();
        let (policy, ca) = (folder.path().join("policy.json"), folder.path().join("ca.pem"));
        std::fs::write(&ca, cluster.ca.certificate_pem()).unwrap();
        let identity = cluster.identity("identity", "i");
        Self { _folder: folder, policy, ca, cluster, identity, signer: Signer::new("k1") }
    }

    fn publish(&self, number: u64) {
        publish(&self.policy, &policy(number, &self.signer), &self.identity);
    }

    fn authenticator(&self, open: bool) -> Arc<Authenticator> {
        Authenticator::open(&self.policy, &self.ca, open)
    }
}

fn seconds(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + from_now
}

fn header(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
}

fn basic(pair: &str) -> HeaderMap {
    header(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

#[tokio::test]
async fn good_credentials_become_principals() {
    let site = Site::new();
    site.publish(3);
    let auth = site.authenticator(false);
    assert_eq!((auth.policy_number(), auth.cluster_id().as_deref()), (3, Some("c")));
    let token = site.signer.token(json!({"uid": "ann", "exp": seconds(60)}));
    for form in [format!("token={token}"), format!("Bearer {token}"), format!("token={token}")] {
        let found = auth.identify(None, &header(&form)).await.unwrap();
        assert_eq!(found, Principal::new("ann", Kind::User));
        assert!(auth.allows(&found, "dcos:any", "full"));
    }
    for _ in 0..2 {
        let found = auth.identify(None, &basic("spark:s3cret")).await;
        assert_eq!(found.unwrap(), Principal::new("spark", Kind::Service));
    }
    let agent = PeerName::new("test", "agent", "n1").unwrap();
    let found = auth.identify(Some(&agent), &HeaderMap::new()).await.unwrap();
    assert_eq!((found.kind, found.uid.as_str()), (Kind::Component, "plenum://test/agent/n1"));
    assert!(found.is_role("agent") && !found.is_role("master"));
}

#[tokio::test]
async fn wrong_credentials_are_refused() {
    let site = Site::new();
    site.publish(1);
    let auth = site.authenticator(false);
    assert_eq!(auth.identify(None, &HeaderMap::new()).await, Err(AuthError::Missing));
    let sign = |claims| site.signer.token(claims);
    let good = sign(json!({"uid": "ann", "exp": seconds(60)}));
    let (head, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let b64 = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let none = format!(
        "{}.{}.",
        b64("{\"alg\":\"none\"}"),
        b64(&json!({"uid": "ann", "exp": seconds(60)}).to_string())
    );
    let modulus = serde_json::to_string(&site.signer.jwks()).unwrap();
    let confused = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
        &json!({"uid": "ann", "exp": seconds(60)}),
        &jsonwebtoken::EncodingKey::from_secret(modulus.as_bytes()),
    );
    let tokens = [
        sign(json!({"uid": "ann", "exp": seconds(-1)})),
        sign(json!({"uid": "ann"})),
        sign(json!({"exp": seconds(60)})),
        sign(json!({"uid": "gone", "exp": seconds(60)})),
        sign(json!({"uid": 7, "exp": seconds(60)})),
        Signer::new("k1").token(json!({"uid": "ann", "exp": seconds(60)})),
        Signer::new("other").token(json!({"uid": "ann", "exp": seconds(60)})),
        format!("{head}.{}.{signature}", b64(&json!({"uid": "spark", "exp": seconds(60)}).to_string())),
        none,
        confused.unwrap(),
        String::new(),
        "...".to_owned(),
        "a".repeat(10_000),
    ];
    for token in tokens {
        let found = auth.identify(None, &header(&format!("token={token}"))).await;
        assert_eq!(found, Err(AuthError::Invalid), "{token:.60}");
    }
    for pair in ["spark:wrong", "nobody:s3cret", "ann:s3cret", "spark:", ":", "spark:s3cret "] {
        for _ in 0..2 {
            assert_eq!(auth.identify(None, &basic(pair)).await, Err(AuthError::Invalid), "{pair}");
        }
    }
    // Open means that no credentials are needed, not that wrong ones are good.
    let open = site.authenticator(true);
    assert_eq!(open.identify(None, &HeaderMap::new()).await.unwrap(), Principal::anonymous());
    assert_eq!(open.identify(None, &basic("spark:wrong")).await, Err(AuthError::Invalid));
}

#[tokio::test]
async fn the_policy_is_reread_never_older_never_forged() {
    let site = Site::new();
    let auth = site.authenticator(false);
    let token = header(&format!("token={}", site.signer.token(json!({"uid": "ann", "exp": seconds(60)}))));
    assert_eq!(auth.identify(None, &token).await, Err(AuthError::Invalid), "no policy yet");
    site.publish(5);
    assert!(auth.identify(None, &token).await.is_ok(), "a failed check looks at the file at once");

    let mut without = policy(6, &site.signer);
    without.accounts.remove("ann");
    publish(&site.policy, &without, &site.identity);
    let gone = async {
        while auth.identify(None, &token).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("a deleted account ends its tokens");

    // None of these brings ann back.
    let newer = policy(7, &site.signer);
    let other_cluster = Cluster::new().identity("identity", "i");
    publish(&site.policy, &newer, &other_cluster);
    assert!(auth.identify(None, &token).await.is_err(), "another CA");
    publish(&site.policy, &newer, &site.cluster.identity("agent", "n1"));
    assert!(auth.identify(None, &token).await.is_err(), "another role");
    publish(&site.policy, &policy(2, &site.signer), &site.identity);
    assert!(auth.identify(None, &token).await.is_err(), "an older number");
    let mut forged = Signed::sign(&without, &site.identity).unwrap();
    forged.snapshot = serde_json::to_string(&newer).unwrap();
    for content in [serde_json::to_vec(&forged).unwrap(), b"{".to_vec(), b"".to_vec(), vec![0xff; 100]] {
        plenum_base::files::replace(&site.policy, &content, 0o644).unwrap();
        assert!(auth.identify(None, &token).await.is_err());
        assert_eq!(auth.policy_number(), 6, "the last good one stays");
    }
    // Signed while the signer's certificate was valid, read long after.
    let then = SystemTime::now() - Duration::from_secs(40 * 3600);
    let (cert, key) = site.cluster.issue("identity", "i", then, LIFETIME);
    let old = Identity::from_pem(site.cluster.ca.certificate_pem(), &cert, &key).unwrap();
    publish(&site.policy, &newer, &old);
    assert!(auth.identify(None, &token).await.is_err(), "signed after the certificate ended");
    site.publish(8);
    assert!(auth.identify(None, &token).await.is_ok());
}

struct OneExecutor;

impl ExecutorTokens for OneExecutor {
    fn check(&self, token: &str) -> Option<Principal> {
        (token == "executor-token").then(|| Principal::new("container-1", Kind::Executor))
    }
}

#[tokio::test]
async fn routers_know_their_callers() {
    let site = Site::new();
    site.publish(1);
    let auth = Authenticator::with_executors(&site.policy, &site.ca, false, Arc::new(OneExecutor));
    let who = |principal: Principal| async move { principal.uid };
    let maybe = |principal: Option<axum::Extension<Principal>>| async move {
        principal.map_or("nobody".to_owned(), |axum::Extension(p)| p.uid)
    };
    let inner = |OnlyComponent(principal): OnlyComponent| async move { principal.uid };
    let closed = Router::new()
        .route("/who", get(who))
        .route("/internal", get(inner))
        .layer(middleware::from_fn_with_state(auth.clone(), require));
    let half =
        Router::new().route("/maybe", get(maybe)).layer(middleware::from_fn_with_state(auth, optional));
    let server =
        Server::new(closed.merge(half)).tls(&site.cluster.identity("master", "m"), ClientAuth::Optional);
    let server = start(server.unwrap()).await;
    let token = Credentials::Token(site.signer.token(json!({"uid": "ann", "exp": seconds(60)})));
    let spark = Credentials::Basic { principal: "spark".into(), secret: "s3cret".into() };
    let wrong = Credentials::Bearer("x".into());
    let executor = Credentials::Bearer("executor-token".into());
    let plain = Client::plain().unwrap();
    let role = |role: &str| {
        Client::with_identity(&site.cluster.identity(role, "one"), Expect::Role("master".into())).unwrap()
    };
    let (agent, gateway) = (role("agent"), role("gateway"));
    let cases = [
        (&plain, "http", None, "/who", 401, ""),
        (&plain, "http", Some(&wrong), "/who", 401, ""),
        (&plain, "http", Some(&token), "/who", 200, "ann"),
        (&plain, "http", Some(&spark), "/who", 200, "spark"),
        (&plain, "http", Some(&executor), "/who", 200, "container-1"),
        (&plain, "http", Some(&token), "/internal", 403, ""),
        (&plain, "http", None, "/maybe", 200, "nobody"),
        (&plain, "http", Some(&token), "/maybe", 200, "ann"),
        (&plain, "http", Some(&wrong), "/maybe", 401, ""),
        (&agent, "https", None, "/internal", 200, "plenum://test/agent/one"),
        (&agent, "https", Some(&token), "/who", 200, "plenum://test/agent/one"),
        (&gateway, "https", None, "/internal", 200, "plenum://test/gateway/one"),
        (&gateway, "https", Some(&token), "/who", 200, "ann"),
        (&gateway, "https", Some(&token), "/internal", 403, ""),
        (&gateway, "https", Some(&wrong), "/who", 401, ""),
    ];
    for (client, scheme, credentials, path, status, body) in cases {
        let mut call = client.get(&server.url(scheme, path));
        if let Some(credentials) = credentials {
            call = call.credentials(credentials);
        }
        let reply = call.send().await.unwrap();
        assert_eq!(reply.status, status, "{scheme} {credentials:?} {path}");
        if status == 401 {
            assert_eq!(reply.headers["www-authenticate"], "oauthjwt");
        }
        let bytes = reply.bytes().await.unwrap();
        assert!(body.is_empty() || bytes == body.as_bytes(), "{path}: {bytes:?}");
    }
}
