//! The cluster's certificate authority and the names in its certificates. Who may have a certificate is decided by identity; TLS by `tls`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::places::Role;

/// How long a component's certificate is valid by default.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How far certificates are dated back, for machines whose clocks differ.
pub const SKEW: Duration = Duration::from_secs(15 * 60);
/// How long the cluster's CA is valid.
pub const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The name in the certificates of those who may be clients of the cluster's etcd, which takes nobody else: a certificate of the
/// cluster's authority alone is not enough, for agents have one too.
pub const STORE_CLIENT: &str = "client.store.plenum.internal";
/// The name in the certificates of etcd's members, which take only each other as peers.
pub const STORE_MEMBER: &str = "member.store.plenum.internal";

/// The names that let a role of a master speak to the cluster's etcd. Given to hosts that are masters only.
#[must_use]
pub fn store_names(role: Role) -> Vec<San> {
    let names: &[&str] = match role {
        Role::Etcd => &[STORE_CLIENT, STORE_MEMBER],
        Role::Identity | Role::Master | Role::Services | Role::Discovery | Role::Catalog => &[STORE_CLIENT],
        Role::Agent | Role::Balancer | Role::Gateway => &[],
    };
    names.iter().map(|name| San::Dns((*name).to_owned())).collect()
}

/// The user of etcd that the bearer of a certificate with these names is: its role, where it is let at etcd at all. It is the
/// certificate's common name, which etcd goes by.
#[must_use]
pub fn store_user(role: &str, sans: &[San]) -> Option<Role> {
    let role: Role = role.parse().ok()?;
    let gate = |san: &San| matches!(san, San::Dns(name) if name == STORE_CLIENT);
    (!store_names(role).is_empty() && sans.iter().any(gate)).then_some(role)
}

/// Why a certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The name breaks the rule.
    #[error("\"{0}\" is no component name; it has the form plenum://instance/role/name")]
    Name(String),
    /// PEM or DER does not parse.
    #[error("{what} cannot be read: {reason}")]
    Unreadable {
        /// What was read.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// The request is signed wrongly or uses a key that is not accepted.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// Making keys or certificates failed.
    #[error("the certificate could not be made: {0}")]
    Failed(String),
}

/// Who a component is: the URI name in its certificate, `plenum://<instance>/<role>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerName {
    /// The instance (cluster).
    pub instance: String,
    /// The role, such as `master`.
    pub role: String,
    /// The name within the role: an agent's node name, or the role again where there is one.
    pub name: String,
}

impl PeerName {
    /// Checks and makes a name. Each part has 1 to 128 of letters, digits, `.`, `_` and `-`.
    ///
    /// # Errors
    /// [`PkiError::Name`].
    pub fn new(instance: &str, role: &str, name: &str) -> Result<Self, PkiError> {
        let valid = |part: &str| {
            (1..=128).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if ![instance, role, name].into_iter().all(valid) {
            return Err(PkiError::Name(format!("plenum://{instance}/{role}/{name}")));
        }
        Ok(Self { instance: instance.to_owned(), role: role.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plenum://{}/{}/{}", self.instance, self.role, self.name)
    }
}

impl FromStr for PeerName {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let mut parts = text.strip_prefix("plenum://").unwrap_or_default().split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(instance), Some(role), Some(name), None) => Self::new(instance, role, name),
            _ => Err(PkiError::Name(text.chars().take(300).collect())),
        }
    }
}

/// An address at which a component is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl FromStr for San {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Dns(text.to_owned()), Self::Ip))
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

/// A new key and the request for its certificate. The request's content is only the key: the authority decides every name.
pub struct Request {
    /// PKCS #10, PEM.
    pub csr: String,
    /// The private key, PKCS #8, PEM. A secret.
    pub key: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("csr", &self.csr).finish_non_exhaustive()
    }
}

impl Request {
    /// Makes a P-256 key and a request.
    ///
    /// # Errors
    /// [`PkiError::Failed`].
    pub fn new() -> Result<Self, PkiError> {
        Self::from_key(KeyPair::generate().map_err(failed)?)
    }

    /// A request for a key that exists, as for a renewal.
    ///
    /// # Errors
    /// [`PkiError::Unreadable`], [`PkiError::Failed`].
    pub fn for_key(key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| unreadable("the private key", e))?;
        Self::from_key(key)
    }

    fn from_key(key: KeyPair) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;
        Ok(Self { csr, key: key.serialize_pem() })
    }
}

/// The cluster's certificate authority: an ECDSA P-256 key and its self-signed certificate.
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new authority called after `cluster`.
    ///
    /// # Errors
    /// [`PkiError::Failed`].
    pub fn create(cluster: &str, now: SystemTime) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Plenum");
        params.distinguished_name.push(DnType::CommonName, format!("Plenum CA of {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - SKEW).into();
        params.not_after = (now + CA_LIFETIME).into();
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// Reads an authority back.
    ///
    /// # Errors
    /// [`PkiError::Unreadable`].
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(|e| unreadable("the CA's key", e))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|e| unreadable("the CA's certificate", e))?;
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|e| unreadable("the CA's certificate", e))?;
        Ok(Self { pem: certificate.to_owned(), der, issuer })
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The private key, PEM. A secret.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// SHA-256 of the certificate in lowercase hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// Issues a certificate for the key of a request (PEM); every other wish in the request is ignored. The result is the certificate
    /// followed by the authority's, PEM.
    ///
    /// # Errors
    /// [`PkiError::Request`] for a request that does not parse or does not prove its key; [`PkiError::Failed`].
    pub fn issue(
        &self,
        csr: &str,
        name: &PeerName,
        sans: &[San],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let request =
            CertificateSigningRequestParams::from_pem(csr).map_err(|e| PkiError::Request(e.to_string()))?;
        self.sign(&request.public_key, name, sans, now, lifetime)
    }

    /// Makes a key and issues its certificate: `(chain, key)`, both PEM.
    ///
    /// # Errors
    /// [`PkiError::Failed`].
    pub fn issue_fresh(
        &self,
        name: &PeerName,
        sans: &[San],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(String, String), PkiError> {
        let key = KeyPair::generate().map_err(failed)?;
        Ok((self.sign(&key, name, sans, now, lifetime)?, key.serialize_pem()))
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        name: &PeerName,
        sans: &[San],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // To etcd the common name is the user. For everybody else the URI is what counts; with its slash the name is no user of
        // etcd's. It has at most 64 characters.
        let common = match store_user(&name.role, sans) {
            Some(user) => user.as_str().to_owned(),
            None => format!("{}/{}", name.role, name.name).chars().take(64).collect(),
        };
        params.distinguished_name.push(DnType::CommonName, common);
        let ia5 = |text: String| Ia5String::try_from(text).map_err(failed);
        params.subject_alt_names.push(SanType::URI(ia5(name.to_string())?));
        for san in sans {
            params.subject_alt_names.push(match san {
                San::Dns(dns) => SanType::DnsName(ia5(dns.clone())?),
                San::Ip(address) => SanType::IpAddress(*address),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - SKEW).into();
        params.not_after = (now + lifetime).into();
        let certificate = params.signed_by(key, &self.issuer).map_err(failed)?;
        Ok(format!("{}{}", certificate.pem(), self.pem))
    }
}

/// SHA-256 of a certificate in lowercase hexadecimal.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref())
}

/// Lowercase hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        text
    })
}

fn failed(error: impl fmt::Display) -> PkiError {
    PkiError::Failed(error.to_string())
}

fn unreadable(what: &'static str, error: impl fmt::Display) -> PkiError {
    PkiError::Unreadable { what, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_both_ways() {
        let name: PeerName = "plenum://default/agent/node-1.a".parse().unwrap();
        assert_eq!(
            (name.role.as_str(), name.to_string().as_str()),
            ("agent", "plenum://default/agent/node-1.a")
        );
        let long = format!("plenum://a/b/{}", "x".repeat(129));
        for bad in [
            "",
            "plenum://",
            "plenum://a/b",
            "plenum://a/b/c/d",
            "http://a/b/c",
            "plenum://a//c",
            "plenum://a/b/c d",
            &long,
        ] {
            assert!(bad.parse::<PeerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_survives_being_written_down() {
        let ca = Authority::create("test", SystemTime::now()).unwrap();
        let again = Authority::from_pem(ca.certificate_pem(), &ca.key_pem()).unwrap();
        assert_eq!(ca.fingerprint(), again.fingerprint());
        assert_eq!(ca.fingerprint().len(), 64);
        assert!(!format!("{ca:?}").contains("PRIVATE"));
        assert!(Authority::from_pem("x", &ca.key_pem()).is_err());
        assert!(Authority::from_pem(ca.certificate_pem(), "x").is_err());
    }

    #[test]
    fn the_common_name_is_the_user_of_etcd_where_there_is_one() {
        let ca = Authority::create("test", SystemTime::now()).unwrap();
        let common = |role: &str, name: &str, sans: &[San]| {
            let name = PeerName::new("test", role, name).unwrap();
            let (pem, _) = ca.issue_fresh(&name, sans, SystemTime::now(), LIFETIME).unwrap();
            let cert = crate::tls::PeerCert::read_pem(pem.as_bytes()).unwrap();
            (cert.common_name.clone(), cert.store_user())
        };
        let gate = [San::Dns(STORE_CLIENT.to_owned())];
        for role in [Role::Etcd, Role::Identity, Role::Master, Role::Services, Role::Discovery, Role::Catalog]
        {
            assert_eq!(common(role.as_str(), "m1", &store_names(role)), (role.to_string(), Some(true)));
        }
        // On an agent discovery is nobody to etcd, and no name makes anybody a user.
        assert_eq!(common("discovery", "a1", &[]), ("discovery/a1".to_owned(), None));
        assert_eq!(common("agent", "a1", &gate), ("agent/a1".to_owned(), None));
        assert_eq!(common("root", "root", &gate), ("root/root".to_owned(), None));
    }

    #[test]
    fn only_the_key_of_a_request_is_used() {
        let ca = Authority::create("test", SystemTime::now()).unwrap();
        let name = PeerName::new("test", "agent", "n1").unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        wish.distinguished_name.push(DnType::CommonName, "root");
        let csr = wish.serialize_request(&key).unwrap().pem().unwrap();
        let pem =
            ca.issue(&csr, &name, &["127.0.0.1".parse().unwrap()], SystemTime::now(), LIFETIME).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let facts = crate::tls::PeerCert::read(&der).unwrap();
        assert_eq!(facts.name, name);
        assert!(!String::from_utf8_lossy(&der).contains("evil.example"));
        assert_eq!(facts.common_name, "agent/n1");
        assert!(facts.not_after > SystemTime::now() + LIFETIME - Duration::from_secs(60));
        for hostile in
            ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", "\u{0}"]
        {
            assert!(matches!(
                ca.issue(hostile, &name, &[], SystemTime::now(), LIFETIME),
                Err(PkiError::Request(_))
            ));
        }
    }
}
