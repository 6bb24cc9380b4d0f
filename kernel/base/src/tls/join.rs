//! Joining a cluster: a host that has nothing but a join token gets the certificates of its roles from identity, and what every host must
//! know. Who may join is identity's decision; starting roles is the caller's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::{Identity, TlsError, check_signer, pinned_client_config};
use crate::client::{Client, ClientError};
use crate::cluster::ClusterMap;
use crate::files;
use crate::pki::{PkiError, Request};
use crate::places::{Places, Role};

/// How long one master is given to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// What a host is for, as a join token says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Runs the roles of control; may be an agent too.
    Master,
    /// Runs tasks.
    #[default]
    Agent,
    /// Runs tasks that face the outside.
    Public,
}

impl NodeKind {
    /// The word in tokens' lists and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Agent => "agent",
            Self::Public => "public",
        }
    }

    /// The roles for which a host of this kind gets certificates.
    #[must_use]
    pub fn roles(self) -> &'static [Role] {
        match self {
            Self::Master => &Role::EVERY,
            Self::Agent | Self::Public => &[Role::Agent, Role::Discovery, Role::Balancer],
        }
    }
}

impl std::fmt::Display for NodeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NodeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Master, Self::Agent, Self::Public]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("\"{text}\" is no kind of host: use master, agent or public"))
    }
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token has not the form `plenum1.<id>.<secret>.<fingerprint>`.
    #[error("this is no join token; make one with `plenum node token create`")]
    Token,
    /// No address of a master was given.
    #[error("the address of a master is needed to join")]
    Nobody,
    /// What a master sent does not fit the request or the token.
    #[error("the answer of {url} cannot be used: {reason}")]
    Answer {
        /// The master's base.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Files, or what identity sent, cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The key could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Identity could not be asked, is another cluster's, or refused.
    #[error("identity: {0}")]
    Client(#[from] ClientError),
}

/// What a host asks for.
#[derive(Debug, Clone)]
pub struct NodeRequest {
    /// Its name in the cluster.
    pub name: String,
    /// The address at which every other host reaches it.
    pub address: IpAddr,
    /// DNS names for its certificates beside the address. Heeded for masters only.
    pub names: Vec<String>,
    /// A certificate request (PKCS #10, PEM) for each role. None at all only asks what the token is for, and uses nothing up.
    pub csrs: BTreeMap<Role, String>,
}

/// Body of `POST /internal/v1/join`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinBody {
    /// The token. A secret.
    pub token: String,
    /// The host's name.
    pub name: String,
    /// The address at which it is reached.
    pub address: IpAddr,
    /// DNS names beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Certificate requests by role.
    pub csrs: BTreeMap<String, String>,
}

/// What a host is given: the reply of `POST /internal/v1/join`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Joined {
    /// The CA certificates to trust, PEM.
    pub ca: String,
    /// The chain of each role asked for, PEM.
    pub certificates: BTreeMap<Role, String>,
    /// The cluster's name.
    pub instance: String,
    /// The instance's number K.
    pub number: u8,
    /// What the token is for.
    pub kind: NodeKind,
    /// The masters.
    #[serde(default)]
    pub cluster: ClusterMap,
    /// What every host must agree on; null where nothing was put there.
    #[serde(default)]
    pub settings: serde_json::Value,
    /// For masters: identity's master key, 32 bytes in base64. A secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_key: Option<String>,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined")
            .field("instance", &self.instance)
            .field("kind", &self.kind)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// The fingerprint of the CA that a join token names.
fn fingerprint(token: &str) -> Option<&str> {
    let parts: Vec<&str> = token.trim().split('.').collect();
    match parts.as_slice() {
        ["plenum1", _, _, fingerprint] if fingerprint.len() == 64 => Some(fingerprint),
        _ => None,
    }
}

/// Joins: asks identity at each of `urls` (bases such as `https://10.0.0.1:8101`) in turn until one answers. The token is only sent to a
/// server that proves to belong to the CA the token names, and every certificate in the answer is checked against it. Nothing is written
/// down, and repeating it with the same keys gives the same.
///
/// # Errors
/// [`JoinError`]; that of the last master tried.
pub async fn join_node(urls: &[String], token: &str, request: &NodeRequest) -> Result<Joined, JoinError> {
    let print = fingerprint(token).ok_or(JoinError::Token)?;
    let client = Client::with_tls(pinned_client_config(print, "identity")?);
    let csrs = request.csrs.iter().map(|(role, csr)| (role.as_str().to_owned(), csr.clone()));
    let body = JoinBody {
        token: token.trim().to_owned(),
        name: request.name.clone(),
        address: request.address,
        names: request.names.clone(),
        csrs: csrs.collect(),
    };
    let mut last = JoinError::Nobody;
    for url in urls {
        match ask(&client, url, &body).await {
            Ok(joined) => {
                check(&joined, print, request)
                    .map_err(|reason| JoinError::Answer { url: url.clone(), reason })?;
                return Ok(joined);
            }
            // A refusal holds on every master.
            Err(error) if error.status().is_some_and(|status| status.is_client_error()) => {
                return Err(error.into());
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn ask(client: &Client, url: &str, body: &JoinBody) -> Result<Joined, ClientError> {
    let call = client.post(&format!("{}/internal/v1/join", url.trim_end_matches('/')));
    call.deadline(ANSWER).json(body).send().await?.success().await?.json().await
}

/// Whether the answer has what was asked for, from the CA that the token names.
fn check(joined: &Joined, print: &str, request: &NodeRequest) -> Result<(), String> {
    let ca = CertificateDer::pem_slice_iter(joined.ca.as_bytes())
        .flatten()
        .find(|cert| crate::pki::fingerprint(cert).eq_ignore_ascii_case(print))
        .ok_or("its CA is not the one that the token names")?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|e| format!("its CA: {e}"))?;
    joined.instance.parse::<crate::places::Instance>().map_err(|e| e.to_string())?;
    for role in request.csrs.keys() {
        let chain = joined.certificates.get(role).ok_or(format!("the certificate of {role} is missing"))?;
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes())
            .map_err(|e| format!("the certificate of {role}: {e}"))?;
        let peer = check_signer(&leaf, &roots, role.as_str(), std::time::SystemTime::now())
            .map_err(|e| format!("the certificate of {role}: {e}"))?;
        if peer.name.instance != joined.instance || peer.name.name != request.name {
            return Err(format!("the certificate of {role} is for {}", peer.name));
        }
    }
    Ok(())
}

/// A key and request for each of `roles`: those that an earlier attempt left in the files of `places`, else new ones, which are written
/// there first. So a join whose reply was lost is repeated with the same keys.
///
/// # Errors
/// [`JoinError::Tls`], [`JoinError::Pki`].
pub fn prepare(places: &Places, roles: &[Role]) -> Result<BTreeMap<Role, Request>, JoinError> {
    let mut requests = BTreeMap::new();
    for role in roles {
        let path = places.identity(*role).key;
        let held = std::fs::read_to_string(&path).ok().and_then(|key| Request::for_key(&key).ok());
        let request = match held {
            Some(request) => request,
            None => {
                let request = Request::new()?;
                write(&path, request.key.as_bytes(), files::SECRET)?;
                request
            }
        };
        requests.insert(*role, request);
    }
    Ok(requests)
}

/// Writes what was given where this host's roles look for it: the CA, the certificate of each role, and on masters identity's master key.
/// What does not fit together is refused before anything is written.
///
/// # Errors
/// [`JoinError::Tls`], [`JoinError::Answer`].
pub fn install(
    places: &Places,
    joined: &Joined,
    requests: &BTreeMap<Role, Request>,
) -> Result<(), JoinError> {
    let missing =
        |role: &Role| JoinError::Answer { url: "identity".to_owned(), reason: format!("no key for {role}") };
    for (role, chain) in &joined.certificates {
        let request = requests.get(role).ok_or_else(|| missing(role))?;
        Identity::from_pem(&joined.ca, chain, &request.key)?;
    }
    if let Some(key) = &joined.vault_key {
        use base64::Engine;
        let bytes = base64::engine::general_purpose::STANDARD.decode(key).unwrap_or_default();
        if bytes.len() != 32 {
            let reason = "identity's master key has not 32 bytes".to_owned();
            return Err(JoinError::Answer { url: "identity".to_owned(), reason });
        }
        write(&places.vault_key(), &bytes, files::SECRET)?;
    }
    for (role, chain) in &joined.certificates {
        let request = requests.get(role).ok_or_else(|| missing(role))?;
        places.identity(*role).write(&joined.ca, chain, &request.key)?;
    }
    Ok(())
}

fn write(path: &std::path::Path, content: &[u8], mode: u32) -> Result<(), TlsError> {
    let fail = |source| TlsError::File { path: path.to_path_buf(), source };
    if let Some(folder) = path.parent() {
        files::private_dir(folder).map_err(fail)?;
    }
    files::replace(path, content, mode).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, LIFETIME, PeerName};

    #[test]
    fn tokens_name_their_ca() {
        let print = "f".repeat(64);
        assert_eq!(fingerprint(&format!(" plenum1.id.secret.{print}\n")), Some(print.as_str()));
        for bad in [
            "",
            "plenum1.id.secret.short",
            &format!("plenum2.id.secret.{print}"),
            &format!("plenum1.id.{print}"),
        ] {
            assert_eq!(fingerprint(bad), None);
        }
    }

    #[test]
    fn kinds_have_words_and_roles() {
        for kind in [NodeKind::Master, NodeKind::Agent, NodeKind::Public] {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("Master".parse::<NodeKind>().is_err());
        assert!(NodeKind::Master.roles().contains(&Role::Etcd));
        assert!(!NodeKind::Public.roles().contains(&Role::Identity));
    }

    #[test]
    fn answers_that_do_not_fit_are_refused() {
        let now = std::time::SystemTime::now();
        let (ca, other) = (Authority::create("c", now).unwrap(), Authority::create("c", now).unwrap());
        let key = Request::new().unwrap();
        let issue = |ca: &Authority, role: &str, name: &str| {
            let name = PeerName::new("c", role, name).unwrap();
            ca.issue(&key.csr, &name, &[], now, LIFETIME).unwrap()
        };
        let request = NodeRequest {
            name: "n1".into(),
            address: "10.0.0.1".parse().unwrap(),
            names: vec![],
            csrs: BTreeMap::from([(Role::Agent, key.csr.clone())]),
        };
        let answer = |ca: &Authority, chain: Option<String>| Joined {
            ca: ca.certificate_pem().to_owned(),
            certificates: chain.map(|chain| (Role::Agent, chain)).into_iter().collect(),
            instance: "c".into(),
            number: 0,
            kind: NodeKind::Agent,
            cluster: ClusterMap::default(),
            settings: serde_json::Value::Null,
            vault_key: Some("c2VjcmV0".into()),
        };
        let good = answer(&ca, Some(issue(&ca, "agent", "n1")));
        let print = ca.fingerprint();
        assert_eq!(check(&good, &print, &request), Ok(()));
        assert!(!format!("{good:?}").contains("c2VjcmV0"));
        for (joined, part) in [
            (answer(&other, Some(issue(&other, "agent", "n1"))), "not the one"),
            (answer(&ca, Some(issue(&other, "agent", "n1"))), "certificate of agent"),
            (answer(&ca, Some(issue(&ca, "master", "n1"))), "belongs to"),
            (answer(&ca, Some(issue(&ca, "agent", "n2"))), "is for"),
            (answer(&ca, Some("x".into())), "certificate of agent"),
            (answer(&ca, None), "missing"),
        ] {
            let refused = check(&joined, &print, &request).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn keys_are_kept_for_the_next_attempt_and_wrong_answers_write_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bases = crate::places::Bases { state: dir.path().into(), run: dir.path().into(), root: false };
        let places = bases.places("c".parse().unwrap(), 0);
        let first = prepare(&places, &[Role::Agent, Role::Etcd]).unwrap();
        let again = prepare(&places, &[Role::Agent, Role::Etcd]).unwrap();
        assert_eq!(first[&Role::Etcd].key, again[&Role::Etcd].key);
        let now = std::time::SystemTime::now();
        let ca = Authority::create("c", now).unwrap();
        let chain = |role: &str, csr: &str| {
            ca.issue(csr, &PeerName::new("c", role, "n1").unwrap(), &[], now, LIFETIME).unwrap()
        };
        let joined = |csr: &str, vault: &str| Joined {
            ca: ca.certificate_pem().to_owned(),
            certificates: BTreeMap::from([(Role::Agent, chain("agent", csr))]),
            instance: "c".into(),
            number: 0,
            kind: NodeKind::Master,
            cluster: ClusterMap::default(),
            settings: serde_json::Value::Null,
            vault_key: Some(vault.to_owned()),
        };
        let key = "A".repeat(43) + "=";
        let foreign = Request::new().unwrap().csr;
        assert!(install(&places, &joined(&foreign, &key), &first).is_err(), "not our key");
        assert!(install(&places, &joined(&first[&Role::Agent].csr, "AAAA"), &first).is_err(), "no key");
        assert!(!places.ca().exists() && !places.vault_key().exists());
        install(&places, &joined(&first[&Role::Agent].csr, &key), &first).unwrap();
        Identity::load(&places.identity(Role::Agent)).unwrap();
        assert_eq!(std::fs::read(places.vault_key()).unwrap(), [0; 32]);
    }
}
