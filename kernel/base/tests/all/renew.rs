//! Renewal against a stand-in for identity.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::routing::post;
use axum::{Extension, Json, Router};
use plenum_base::pki::{Authority, LIFETIME};
use plenum_base::serve::{ConnInfo, Server};
use plenum_base::service::Shutdown;
use plenum_base::tls::renew::{Issued, RenewRequest, keep_fresh, renew};
use plenum_base::tls::{ClientAuth, Identity};

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
    let task = tokio::spawn(keep_fresh(identity.clone(), server.url("https", ""), shutdown.clone()));
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
