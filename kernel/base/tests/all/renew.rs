//! Renewal against a stand-in for identity.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::routing::post;
use axum::{Extension, Json, Router};
use plenum_base::pki::{Authority, LIFETIME, PeerName, San};
use plenum_base::places::Role;
use plenum_base::serve::{ConnInfo, Server};
use plenum_base::service::Shutdown;
use plenum_base::tls::renew::{Issued, RecoverRequest, RenewRequest, keep_fresh, renew};
use plenum_base::tls::{ClientAuth, Identity};
use plenum_base::turns::Turns;

use crate::fixture::{Cluster, start};

fn issuer(ca: Arc<Authority>) -> Router {
    let issue = async move |Extension(info): Extension<ConnInfo>, Json(request): Json<RenewRequest>| {
        let peer = info.peer.unwrap();
        let cert = ca.issue(&request.csr, &peer.name, &peer.sans, SystemTime::now(), LIFETIME).unwrap();
        Json(Issued { certificate: cert, ca: ca.certificate_pem().to_owned() })
    };
    Router::new().route("/internal/v1/certificates", post(issue))
}

#[tokio::test]
async fn a_certificate_in_its_second_half_is_renewed_and_keeps_its_key() {
    let cluster = Cluster::new();
    let ca = Arc::new(Authority::from_pem(cluster.ca.certificate_pem(), &cluster.ca.key_pem()).unwrap());
    let server =
        Server::new(issuer(ca)).tls(&cluster.identity("identity", "i"), ClientAuth::Required).unwrap();
    let server = start(server).await;
    let folder = tempfile::tempdir().unwrap();
    let half_over = SystemTime::now() - Duration::from_secs(13 * 3600);
    let files = cluster.files(folder.path(), "agent", half_over, LIFETIME);
    let identity = Identity::load(&files).unwrap();
    let before = identity.peer();
    let mut changes = identity.changes();
    let shutdown = Shutdown::new();
    let from = Turns::fixed(Role::Identity, vec![server.url("https", "")]);
    let task = tokio::spawn(keep_fresh(identity.clone(), from, shutdown.clone()));
    tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.expect("it is due").unwrap();
    let after = identity.peer();
    assert_eq!(
        (&after.name, &after.key_fingerprint, &after.sans),
        (&before.name, &before.key_fingerprint, &before.sans)
    );
    assert!(after.not_after > before.not_after);
    assert_eq!(Identity::load(&files).unwrap().peer(), after, "it is on disk, too");
    shutdown.trigger();
    task.await.unwrap();

    // What cannot be had changes nothing.
    drop(server);
    assert!(renew(&identity, "https://127.0.0.1:1").await.is_err());
    assert_eq!(identity.peer(), after);
}

/// Knows the members' keys, and gives those whose certificate has ended a new one.
fn recovery(ca: Arc<Authority>) -> Router {
    let issue = async move |Extension(info): Extension<ConnInfo>, Json(request): Json<RecoverRequest>| {
        assert!(info.peer.is_none(), "nothing of a certificate that has ended");
        let name = PeerName::new("test", &request.role, &request.name).unwrap();
        let sans = [San::Ip("127.0.0.1".parse().unwrap())];
        let cert = ca.issue(&request.csr, &name, &sans, SystemTime::now(), LIFETIME).unwrap();
        Json(Issued { certificate: cert, ca: ca.certificate_pem().to_owned() })
    };
    Router::new().route("/internal/v1/certificates/expired", post(issue))
}

#[tokio::test]
async fn a_node_that_was_off_until_its_certificate_ended_comes_back_though_the_first_master_is_gone() {
    let cluster = Cluster::new();
    let ca = Arc::new(Authority::from_pem(cluster.ca.certificate_pem(), &cluster.ca.key_pem()).unwrap());
    let server =
        Server::new(recovery(ca)).tls(&cluster.identity("identity", "i"), ClientAuth::Optional).unwrap();
    let server = start(server).await;
    // One refuses, one takes connections and never says a word, as a stopped process does; the third is alive.
    let refusing = "https://127.0.0.1:1".to_owned();
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("https://{}", mute.local_addr().unwrap());
    let from = Turns::fixed(Role::Identity, vec![refusing, mute, server.url("https", "")]);
    let folder = tempfile::tempdir().unwrap();
    let long_ago = SystemTime::now() - 3 * LIFETIME;
    let files = cluster.files(folder.path(), "agent", long_ago, LIFETIME);
    let identity = Identity::load(&files).unwrap();
    let before = identity.peer();
    assert!(!before.is_current(SystemTime::now()));
    let mut changes = identity.changes();
    let shutdown = Shutdown::new();
    let task = tokio::spawn(keep_fresh(identity.clone(), from, shutdown.clone()));
    tokio::time::timeout(Duration::from_secs(30), changes.changed()).await.expect("it comes back").unwrap();
    let after = identity.peer();
    assert!(after.is_current(SystemTime::now()));
    assert_eq!((&after.name, &after.key_fingerprint), (&before.name, &before.key_fingerprint));
    shutdown.trigger();
    task.await.unwrap();
}
