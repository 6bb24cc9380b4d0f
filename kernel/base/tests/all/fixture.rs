//! A certificate authority, identities, a server and a policy for the tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use axum::Router;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use plenum_base::auth::{HashCost, hash_secret};
use plenum_base::pki::{Authority, LIFETIME, PeerName, San};
use plenum_base::policy::{Account, AccountKind, BasicCredential, FORMAT, Signed, Snapshot};
use plenum_base::serve::Server;
use plenum_base::service::Shutdown;
use plenum_base::tls::{Identity, IdentityFiles};
use rcgen::PublicKeyData;
use serde_json::json;

/// A cluster's CA.
pub struct Cluster {
    pub ca: Authority,
}

impl Cluster {
    pub fn new() -> Self {
        Self { ca: Authority::create("test", SystemTime::now()).unwrap() }
    }

    /// `(chain, key)` of a component at 127.0.0.1.
    pub fn issue(&self, role: &str, name: &str, now: SystemTime, lifetime: Duration) -> (String, String) {
        let name = PeerName::new("test", role, name).unwrap();
        let sans = [San::Ip("127.0.0.1".parse().unwrap()), San::Dns("localhost".into())];
        self.ca.issue_fresh(&name, &sans, now, lifetime).unwrap()
    }

    pub fn identity(&self, role: &str, name: &str) -> Identity {
        let (cert, key) = self.issue(role, name, SystemTime::now(), LIFETIME);
        Identity::from_pem(self.ca.certificate_pem(), &cert, &key).unwrap()
    }

    /// The same in files.
    pub fn files(&self, folder: &Path, role: &str, now: SystemTime, lifetime: Duration) -> IdentityFiles {
        let (cert, key) = self.issue(role, role, now, lifetime);
        let files = IdentityFiles {
            ca: folder.join("ca.pem"),
            cert: folder.join(role).join("cert.pem"),
            key: folder.join(role).join("key.pem"),
        };
        files.write(self.ca.certificate_pem(), &cert, &key).unwrap();
        files
    }
}

/// A server that ends with the test.
pub struct Running {
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    pub task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

pub async fn start(server: Server) -> Running {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let (server, switch) = (server, shutdown.clone());
    let task = tokio::spawn(async move { server.serve(listener, switch).await });
    Running { address, shutdown, task }
}

pub async fn start_plain(router: Router) -> Running {
    start(Server::new(router)).await
}

/// An RS256 key and its public form.
pub struct Signer {
    pub kid: String,
    key: EncodingKey,
    jwk: Jwk,
}

impl Signer {
    pub fn new(kid: &str) -> Self {
        use base64::Engine;
        let pair =
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        let (_, public) = {
            use x509_parser::prelude::FromDer;
            let spki = pair.subject_public_key_info();
            let (rest, parsed) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki).unwrap();
            let x509_parser::public_key::PublicKey::RSA(rsa) = parsed.parsed().unwrap() else {
                panic!("RSA")
            };
            (rest.len(), (rsa.modulus.to_vec(), rsa.exponent.to_vec()))
        };
        let b64 = |bytes: &[u8]| {
            let start = bytes.iter().position(|b| *b != 0).unwrap_or(0);
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&bytes[start..])
        };
        let jwk = json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": b64(&public.0), "e": b64(&public.1)});
        Self { kid: kid.to_owned(), key, jwk: serde_json::from_value(jwk).unwrap() }
    }

    pub fn token(&self, claims: serde_json::Value) -> String {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }

    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: vec![self.jwk.clone()] }
    }
}

/// A policy with the user `ann` and the service `spark` (secret `s3cret`).
pub fn policy(number: u64, signer: &Signer) -> Snapshot {
    let account = |kind| Account { kind, permissions: BTreeMap::new() };
    Snapshot {
        format: FORMAT,
        number,
        cluster_id: "c".into(),
        issued_at: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
        jwks: signer.jwks(),
        accounts: BTreeMap::from([
            ("ann".to_owned(), account(AccountKind::User)),
            ("spark".to_owned(), account(AccountKind::Service)),
        ]),
        basic: vec![BasicCredential {
            principal: "spark".into(),
            hash: hash_secret(b"s3cret", HashCost::Light).unwrap(),
        }],
        enforce: false,
        cluster: None,
    }
}

pub fn publish(path: &Path, snapshot: &Snapshot, identity: &Identity) {
    let signed = Signed::sign(snapshot, identity).unwrap();
    plenum_base::files::replace(path, &serde_json::to_vec(&signed).unwrap(), 0o644).unwrap();
}
