//! The policy snapshot: what identity publishes and every component checks requests with, without asking anybody. Signed with identity's
//! certificate, numbered so that an older one never replaces a newer one.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;

use crate::cluster::ClusterMap;
use crate::tls::{Identity, TlsError, check_signer};

/// The format written by this release.
pub const FORMAT: u32 = 1;

/// What kind of account a uid is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountKind {
    /// A person.
    User,
    /// A program.
    Service,
}

/// An account as components know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Person or program.
    pub kind: AccountKind,
    /// What it may do: resource (a permission string such as `dcos:mesos:master:framework:role:*`) to actions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub permissions: BTreeMap<String, Vec<String>>,
}

/// A framework's basic credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasicCredential {
    /// The principal, which is the uid.
    pub principal: String,
    /// The secret's argon2id hash as a PHC string.
    pub hash: String,
}

/// Everything a component needs to know who is calling and what they may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`FORMAT`].
    pub format: u32,
    /// Grows with each publication.
    pub number: u64,
    /// The cluster's id.
    pub cluster_id: String,
    /// Seconds since the epoch.
    pub issued_at: u64,
    /// The keys that sign tokens.
    pub jwks: jsonwebtoken::jwk::JwkSet,
    /// Accounts by uid. A token of a uid that is not here is refused.
    pub accounts: BTreeMap<String, Account>,
    /// Basic credentials.
    pub basic: Vec<BasicCredential>,
    /// False: every account may do everything, as in DC/OS' open edition. True: only what its permissions say.
    pub enforce: bool,
    /// The masters; none on a single machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterMap>,
}

impl Snapshot {
    /// Whether `uid` may do `action` on `resource`. A permission on a resource holds for everything below it (`:` and `/` separate);
    /// `full` holds for every action; `dcos:superuser` holds for everything.
    #[must_use]
    pub fn allows(&self, uid: &str, resource: &str, action: &str) -> bool {
        let Some(account) = self.accounts.get(uid) else { return false };
        let grants = |actions: &[String]| actions.iter().any(|held| held == "full" || held == action);
        !self.enforce
            || account.permissions.iter().any(|(held, actions)| {
                (held == "dcos:superuser" || is_at_or_below(resource, held)) && grants(actions)
            })
    }
}

fn is_at_or_below(resource: &str, held: &str) -> bool {
    resource
        .strip_prefix(held)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']) || held.ends_with([':', '/']))
}

/// A snapshot as it is on disk: the exact signed text, the signature, and the signer's certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Signed {
    /// The snapshot's JSON, exactly as signed.
    pub snapshot: String,
    /// ECDSA P-256 with SHA-256 over the text, ASN.1 form, base64.
    pub signature: String,
    /// The signer's certificate, DER, base64.
    pub certificate: String,
}

/// Why a snapshot is not believed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// JSON or base64 that does not parse.
    #[error("the policy cannot be read: {0}")]
    Unreadable(String),
    /// Signature or certificate is wrong.
    #[error("the policy is not signed by this cluster's identity: {0}")]
    Signature(String),
    /// Written by a later release.
    #[error("the policy has format {0}, which this release does not know")]
    Format(u32),
    /// Older than the one in use.
    #[error("the policy has number {found}, but {known} was seen already")]
    Stale {
        /// Its number.
        found: u64,
        /// The highest seen.
        known: u64,
    },
}

impl Signed {
    /// Signs `snapshot` with a component's identity.
    ///
    /// # Errors
    /// [`TlsError`] when the key cannot sign.
    pub fn sign(snapshot: &Snapshot, signer: &Identity) -> Result<Self, TlsError> {
        let text = serde_json::to_string(snapshot)
            .map_err(|e| TlsError::Content { what: "the policy", reason: e.to_string() })?;
        let chain = signer.chain();
        let leaf = chain.first().map(|leaf| STANDARD.encode(leaf)).unwrap_or_default();
        Ok(Self {
            signature: STANDARD.encode(signer.sign(text.as_bytes())?),
            snapshot: text,
            certificate: leaf,
        })
    }

    /// Checks the signature against the CA and reads the snapshot. The signer's certificate must have been valid when it signed, not
    /// now: components go on with the last snapshot while identity is down.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn open(&self, roots: &RootCertStore) -> Result<Snapshot, PolicyError> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|e| PolicyError::Unreadable(e.to_string()));
        let leaf = CertificateDer::from(decode(&self.certificate)?);
        let signature = decode(&self.signature)?;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&leaf)
            .map_err(|e| PolicyError::Signature(e.to_string()))?;
        let key = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            parsed.public_key().subject_public_key.data.as_ref(),
        );
        key.verify(self.snapshot.as_bytes(), &signature)
            .map_err(|_| PolicyError::Signature("the signature does not match".to_owned()))?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |e: serde_json::Error| PolicyError::Unreadable(e.to_string());
        let Format { format } = serde_json::from_str(&self.snapshot).map_err(unreadable)?;
        if format != FORMAT {
            return Err(PolicyError::Format(format));
        }
        let snapshot: Snapshot = serde_json::from_str(&self.snapshot).map_err(unreadable)?;
        let signed_at: SystemTime = UNIX_EPOCH
            .checked_add(Duration::from_secs(snapshot.issued_at))
            .ok_or_else(|| PolicyError::Unreadable("issued_at is out of range".to_owned()))?;
        check_signer(&leaf, roots, "identity", signed_at)
            .map_err(|e| PolicyError::Signature(e.to_string()))?;
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(enforce: bool, permissions: &[(&str, &[&str])]) -> Snapshot {
        let permissions = permissions
            .iter()
            .map(|(rid, actions)| ((*rid).to_owned(), actions.iter().map(|a| (*a).to_owned()).collect()));
        let account = Account { kind: AccountKind::User, permissions: permissions.collect() };
        Snapshot {
            format: FORMAT,
            number: 1,
            cluster_id: "c".into(),
            issued_at: 0,
            jwks: jsonwebtoken::jwk::JwkSet { keys: vec![] },
            accounts: BTreeMap::from([("ann".to_owned(), account)]),
            basic: vec![],
            enforce,
            cluster: None,
        }
    }

    #[test]
    fn permissions_hold_for_what_is_below() {
        let marathon = "dcos:service:marathon:marathon:services:/a";
        let policy = snapshot(true, &[(marathon, &["read"]), ("dcos:mesos:master", &["full"])]);
        let cases = [
            (marathon, "read", true),
            ("dcos:service:marathon:marathon:services:/a/b", "read", true),
            ("dcos:service:marathon:marathon:services:/ab", "read", false),
            (marathon, "update", false),
            ("dcos:mesos:master:task:user:root", "create", true),
            ("dcos:mesos:masters", "create", false),
            ("dcos:superuser", "full", false),
        ];
        for (resource, action, allowed) in cases {
            assert_eq!(policy.allows("ann", resource, action), allowed, "{resource} {action}");
            assert!(!policy.allows("bob", resource, action));
            assert!(snapshot(false, &[]).allows("ann", resource, action));
            assert!(!snapshot(false, &[]).allows("bob", resource, action));
            assert!(snapshot(true, &[("dcos:superuser", &["full"])]).allows("ann", resource, action));
        }
    }
}
