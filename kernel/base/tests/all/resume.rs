//! TLS sessions that go on at another server.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::routing::get;
use axum::{Extension, Router};
use plenum_base::pki::LIFETIME;
use plenum_base::serve::{ConnInfo, Server};
use plenum_base::tls::{ClientAuth, Expect, Identity};

use crate::fixture::{Cluster, Running, start};

/// One TLS connection to `server`, through one request; whether the session was resumed, and the answer.
async fn resumed(config: &Arc<rustls::ClientConfig>, server: &Running) -> (bool, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let name = rustls_pki_types::ServerName::IpAddress(server.address.ip().into());
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    // Refused is closed, with or without a word.
    let _ = stream.read_to_string(&mut text).await;
    let kind = stream.get_ref().1.handshake_kind();
    (kind == Some(rustls::HandshakeKind::Resumed), text)
}

#[tokio::test]
async fn a_session_of_one_master_resumes_at_another_but_not_beyond_the_clients_certificate() {
    let cluster = Cluster::new();
    let who = async |Extension(info): Extension<ConnInfo>| info.peer.unwrap().name.to_string();
    let router = || Router::new().route("/who", get(who));
    let master = |name: &str, secret: u8| {
        let identity = cluster.identity("master", name);
        identity.share_tickets(&[secret; 32]);
        Server::new(router()).tls(&identity, ClientAuth::Required).unwrap()
    };
    let (one, two, stranger) =
        (start(master("m1", 1)).await, start(master("m2", 1)).await, start(master("m3", 9)).await);
    let agent = cluster.identity("agent", "a");
    let config = Arc::new(agent.client_config(Expect::Role("master".into())).unwrap());
    let name = "plenum://test/agent/a";
    for (server, expected) in [(&one, false), (&two, true), (&one, true), (&stranger, false), (&two, false)] {
        let (resumed, text) = resumed(&config, server).await;
        assert_eq!(resumed, expected);
        assert!(text.ends_with(name), "{text}");
    }

    // A renewed certificate begins anew.
    let (cert, key) = cluster.issue("agent", "a", SystemTime::now(), LIFETIME);
    agent.replace(cluster.ca.certificate_pem(), &cert, &key).unwrap();
    assert!(!resumed(&config, &one).await.0);
    assert!(resumed(&config, &two).await.0);

    // The session lives on, the certificate ends: nobody is served by it.
    let short = SystemTime::now() - LIFETIME + Duration::from_secs(3);
    let (cert, key) = cluster.issue("agent", "b", short, LIFETIME);
    let brief = Identity::from_pem(cluster.ca.certificate_pem(), &cert, &key).unwrap();
    let config = Arc::new(brief.client_config(Expect::Role("master".into())).unwrap());
    assert!(resumed(&config, &one).await.1.ends_with("/agent/b"));
    while brief.peer().is_current(SystemTime::now()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (again, text) = resumed(&config, &two).await;
    assert!(again && text.is_empty(), "{text}");
}
