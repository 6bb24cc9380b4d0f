//! What identity keeps in the store, as JSON with a format number each. Keys:
//! `site`, `policy`, `signing/<kid>`, `users/<uid>`, `members/<role>/<name>`, `join/<id>`; of a fleet also `cluster`, `settings`, `ticket`,
//! `addresses/<ip>` and `removed/<key fingerprint>`.

use std::collections::BTreeMap;

use plenum_base::cluster::ClusterMap;
use plenum_base::policy::AccountKind;
use plenum_base::tls::join::NodeKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format this release writes.
pub(crate) const FORMAT: u32 = 1;

/// A record that cannot be understood.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the record {key} in identity's store cannot be read: {reason}")]
pub struct RecordError {
    key: String,
    reason: String,
}

/// Reads a record of a known format.
pub(crate) fn read<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let fail = |reason: String| RecordError { key: key.to_owned(), reason };
    let head: Head = serde_json::from_slice(bytes).map_err(|e| fail(e.to_string()))?;
    if head.format != FORMAT {
        return Err(fail(format!("it has format {}, this release knows {FORMAT}", head.format)));
    }
    serde_json::from_slice(bytes).map_err(|e| fail(e.to_string()))
}

/// Writes a record.
pub(crate) fn write<T: Serialize>(key: &str, record: &T) -> Result<Vec<u8>, RecordError> {
    serde_json::to_vec(record).map_err(|e| RecordError { key: key.to_owned(), reason: e.to_string() })
}

/// The cluster itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Site {
    pub(crate) format: u32,
    /// Lowercase UUID, version 4: clients check the form.
    pub(crate) cluster_id: String,
    pub(crate) created: u64,
    /// The CA's certificate, PEM.
    pub(crate) ca: String,
    /// The CA's private key, sealed.
    pub(crate) ca_key: String,
}

/// The policy's number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PolicyNumber {
    pub(crate) format: u32,
    pub(crate) number: u64,
}

/// A key that signs tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SigningKey {
    pub(crate) format: u32,
    pub(crate) kid: String,
    /// PKCS #8 PEM, sealed.
    pub(crate) key: String,
    pub(crate) created: u64,
}

/// An account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) format: u32,
    pub(crate) uid: String,
    pub(crate) description: String,
    pub(crate) kind: AccountKind,
    /// `internal`, `oidc`, ...
    pub(crate) provider_type: String,
    pub(crate) provider_id: String,
    /// argon2id, PHC string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    /// A service's RSA key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) public_key: Option<String>,
    /// A framework's secret: argon2id, PHC string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
    /// Resource to actions.
    #[serde(default)]
    pub(crate) permissions: BTreeMap<String, Vec<String>>,
    pub(crate) created: u64,
    pub(crate) creator: String,
}

impl User {
    /// Somebody whose login happens elsewhere.
    pub(crate) fn is_remote(&self) -> bool {
        self.provider_type != "internal"
    }

    pub(crate) fn is_superuser(&self) -> bool {
        self.permissions.get("dcos:superuser").is_some_and(|actions| actions.iter().any(|a| a == "full"))
    }
}

/// A component that may have a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) format: u32,
    pub(crate) role: String,
    pub(crate) name: String,
    /// SHA-256 of its public key.
    pub(crate) key: String,
    /// Addresses in its certificate.
    pub(crate) addresses: Vec<String>,
    pub(crate) joined: u64,
}

/// Permission to join, held by whoever knows the token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinRecord {
    pub(crate) format: u32,
    pub(crate) id: String,
    /// What whoever joins with it becomes. Tokens of before there were kinds are for agents.
    #[serde(default)]
    pub(crate) kind: NodeKind,
    pub(crate) description: String,
    /// SHA-256 of the secret part; the secret has 128 random bits, so no slow hash is needed.
    pub(crate) secret: String,
    pub(crate) created: u64,
    pub(crate) creator: String,
    /// Seconds since the epoch.
    pub(crate) expires: u64,
    /// `None`: as often as wanted.
    pub(crate) uses_left: Option<u32>,
}

/// The masters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ClusterRecord {
    pub(crate) format: u32,
    pub(crate) map: ClusterMap,
}

/// What every host must agree on; identity does not look into it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SettingsRecord {
    pub(crate) format: u32,
    pub(crate) settings: serde_json::Value,
}

/// The secret from which the masters derive the keys of their TLS tickets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TicketRecord {
    pub(crate) format: u32,
    /// 32 bytes, sealed.
    pub(crate) secret: String,
}

/// Whose address it is: no other host gets a certificate for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressRecord {
    pub(crate) format: u32,
    pub(crate) name: String,
}

/// A key that was taken out of the cluster and never comes in again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RemovedRecord {
    pub(crate) format: u32,
    /// Whose it was: `role/name`.
    pub(crate) member: String,
    pub(crate) at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_formats_and_broken_records_have_names() {
        for (text, part) in
            [("{\"format\":2,\"number\":1}", "format 2"), ("{", "EOF"), ("{\"format\":1}", "number")]
        {
            let error = read::<PolicyNumber>("policy", text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("policy") && error.contains(part), "{error}");
        }
    }
}
