//! Admission: join tokens, the members who may have certificates, and their renewals.

use std::net::IpAddr;
use std::time::SystemTime;

use plenum_base::auth::same_bytes;
use plenum_base::pki::{PeerName, San, hex};
use plenum_base::tls::renew::{Issued, RecoverRequest};
use plenum_base::tls::{PeerCert, TlsError};
use plenum_store::{StoreError, Txn};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::site::member_key;
use super::{Directory, DirectoryError, now_seconds};
use crate::records::{self, FORMAT, JoinRecord, Member};

/// How every join token begins.
pub const JOIN_TOKEN_PREFIX: &str = "plenum1";
/// The longest life of a join token: 30 days, in seconds.
const LONGEST: u64 = 30 * 24 * 3600;

const BAD_TOKEN: DirectoryError =
    DirectoryError::Refused("the join token is not valid, used up or expired; ask for a new one");

/// A join token to be made. Body of `POST /acs/api/v1/join-tokens`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewJoinToken {
    /// What it is for.
    pub description: String,
    /// Life in seconds, an hour by default.
    pub ttl_seconds: Option<u64>,
    /// How many nodes may join with it: one by default, 0 for as many as want to.
    pub uses: Option<u32>,
}

/// A join token as it is listed. The token itself is only in the reply that made it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinToken {
    /// Names it.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// Who made it.
    pub creator: String,
    /// Seconds since the epoch.
    pub expires: u64,
    /// How many nodes may still join; `None` for as many as want to.
    pub uses_left: Option<u32>,
    /// The token: `plenum1.<id>.<secret>.<fingerprint of the CA>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Body of `POST /internal/v1/join`.
#[derive(Debug, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) token: String,
    /// The node's name.
    pub(crate) name: String,
    /// PKCS #10, PEM.
    pub(crate) csr: String,
}

impl JoinToken {
    fn of(record: JoinRecord, token: Option<String>) -> Self {
        Self {
            id: record.id,
            description: record.description,
            creator: record.creator,
            expires: record.expires,
            uses_left: record.uses_left,
            token,
        }
    }
}

fn join_key(id: &str) -> String {
    format!("join/{id}")
}

fn digest(secret: &str) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref())
}

/// The id and secret of a token, if it has the form of one.
fn split_token(token: &str) -> Option<(&str, &str)> {
    let mut parts = token.trim().split('.');
    let (prefix, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
    let good = prefix == JOIN_TOKEN_PREFIX && id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit());
    good.then_some((id, secret))
}

impl Directory {
    /// Makes a join token.
    pub(crate) async fn create_join(
        &self,
        new: NewJoinToken,
        creator: &str,
    ) -> Result<JoinToken, DirectoryError> {
        let life = new.ttl_seconds.unwrap_or(3600);
        if !(1..=LONGEST).contains(&life) {
            return Err(DirectoryError::Invalid(format!("ttl_seconds must be between 1 and {LONGEST}")));
        }
        if new.description.len() > 1024 {
            return Err(DirectoryError::Invalid("the description may have 1024 bytes".to_owned()));
        }
        let (id, secret) = (hex(&rand::random::<[u8; 8]>()), hex(&rand::random::<[u8; 16]>()));
        let token = format!("{JOIN_TOKEN_PREFIX}.{id}.{secret}.{}", self.ca.fingerprint());
        let record = JoinRecord {
            format: FORMAT,
            id: id.clone(),
            description: new.description,
            secret: digest(&secret),
            created: now_seconds(),
            creator: creator.to_owned(),
            expires: now_seconds().saturating_add(life),
            uses_left: match new.uses.unwrap_or(1) {
                0 => None,
                uses => Some(uses),
            },
        };
        let key = join_key(&id);
        self.store
            .commit(Txn::new().absent(key.as_str()).put(key.as_str(), records::write(&key, &record)?))
            .await?;
        Ok(JoinToken::of(record, Some(token)))
    }

    /// The join tokens that can still be used. Those whose time is over are removed on the way.
    pub(crate) async fn joins(&self) -> Result<Vec<JoinToken>, DirectoryError> {
        let now = now_seconds();
        let mut usable = Vec::new();
        for record in self.list::<JoinRecord>("join/").await? {
            if record.expires > now {
                usable.push(JoinToken::of(record, None));
            } else {
                self.store.commit(Txn::new().delete(join_key(&record.id))).await?;
            }
        }
        Ok(usable)
    }

    /// Revokes a join token.
    pub(crate) async fn delete_join(&self, id: &str) -> Result<(), DirectoryError> {
        let key = join_key(id);
        match self.store.commit(Txn::new().exists(key.as_str()).delete(key.as_str())).await {
            Err(StoreError::Conflict { .. }) => Err(DirectoryError::Missing("join token")),
            other => other.map(|_| ()).map_err(Into::into),
        }
    }

    /// Admits an agent: counts the token down and notes the member in one transaction, then issues the certificate, valid for
    /// the address the request came from. The same node may repeat a request whose reply was lost, with the same key.
    pub(crate) async fn join(
        &self,
        request: &JoinRequest,
        from: Option<IpAddr>,
    ) -> Result<Issued, DirectoryError> {
        let name = PeerName::new(self.config.instance.as_str(), "agent", &request.name).map_err(|_| {
            DirectoryError::Invalid("the name must have 1 to 128 of letters, digits and ._-".to_owned())
        })?;
        let (id, secret) = split_token(&request.token).ok_or(BAD_TOKEN)?;
        // Issued before the token is counted: a bad request must not use it up.
        let sans: Vec<San> = from.map(|address| San::Ip(address.to_canonical())).into_iter().collect();
        let issued = self.issue(&request.csr, &name, &sans)?;
        let member = Member {
            format: FORMAT,
            role: name.role.clone(),
            name: name.name.clone(),
            key: key_of(&issued)?,
            addresses: sans.iter().map(ToString::to_string).collect(),
            joined: now_seconds(),
        };
        for _ in 0..5 {
            let held = self.get::<JoinRecord>(&join_key(id)).await?;
            let held =
                held.filter(|held| same_bytes(digest(secret).as_bytes(), held.record.secret.as_bytes()));
            let Some(held) = held.filter(|held| held.record.expires > now_seconds()) else {
                return Err(BAD_TOKEN);
            };
            let Some(txn) = self.admission(&member, held.record, held.revision).await? else {
                return Ok(issued);
            };
            match self.store.commit(txn).await {
                Ok(_) => return Ok(issued),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DirectoryError::Failed("many nodes are joining at once; try again".to_owned()))
    }

    /// The transaction that admits `member` with the token `join`; `None` if the member is in already.
    async fn admission(
        &self,
        member: &Member,
        mut join: JoinRecord,
        revision: plenum_store::Revision,
    ) -> Result<Option<Txn>, DirectoryError> {
        let key = member_key(&member.role, &member.name);
        if let Some(held) = self.get::<Member>(&key).await? {
            if held.record.key == member.key {
                return Ok(None);
            }
            return Err(DirectoryError::Exists("node with another key"));
        }
        match join.uses_left.as_mut() {
            Some(0) => return Err(BAD_TOKEN),
            Some(left) => *left -= 1,
            None => {}
        }
        let place = join_key(&join.id);
        let txn = Txn::new()
            .unchanged(place.as_str(), revision)
            .absent(key.as_str())
            .put(place.as_str(), records::write(&place, &join)?)
            .put(key.as_str(), records::write(&key, member)?);
        Ok(Some(txn))
    }

    /// Renews a member's certificate: the same name, the same addresses. A member that was removed, or came back with another key, gets none.
    pub(crate) async fn renew(&self, peer: &PeerCert, csr: &str) -> Result<Issued, DirectoryError> {
        const GONE: DirectoryError =
            DirectoryError::Refused("this component is not a member of the cluster any more");
        if peer.name.instance != self.config.instance.as_str() {
            return Err(GONE);
        }
        let member =
            self.get::<Member>(&member_key(&peer.name.role, &peer.name.name)).await?.ok_or(GONE)?.record;
        let sans: Vec<San> = member.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        let issued = self.issue(csr, &peer.name, &sans)?;
        if key_of(&issued)? != member.key || member.key != peer.key_fingerprint {
            return Err(GONE);
        }
        Ok(issued)
    }

    /// A new certificate for a member whose old one has ended while it was off. The request proves the key it joined with.
    pub(crate) async fn recover(&self, request: &RecoverRequest) -> Result<Issued, DirectoryError> {
        const UNKNOWN: DirectoryError =
            DirectoryError::Refused("no member of this name has this key; join with a token");
        let name = PeerName::new(self.config.instance.as_str(), &request.role, &request.name)
            .map_err(|_| UNKNOWN)?;
        let member = self.get::<Member>(&member_key(&name.role, &name.name)).await?.ok_or(UNKNOWN)?.record;
        let sans: Vec<San> = member.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        let issued = self.issue(&request.csr, &name, &sans)?;
        if key_of(&issued)? == member.key { Ok(issued) } else { Err(UNKNOWN) }
    }

    /// All members.
    pub(crate) async fn members(&self) -> Result<Vec<Member>, DirectoryError> {
        self.list("members/").await
    }

    /// Removes a member: its certificate is not renewed any more, and its name is free.
    pub(crate) async fn delete_member(&self, role: &str, name: &str) -> Result<(), DirectoryError> {
        let key = member_key(role, name);
        match self.store.commit(Txn::new().exists(key.as_str()).delete(key.as_str())).await {
            Err(StoreError::Conflict { .. } | StoreError::Invalid { .. }) => {
                Err(DirectoryError::Missing("member"))
            }
            other => other.map(|_| ()).map_err(Into::into),
        }
    }

    fn issue(&self, csr: &str, name: &PeerName, sans: &[San]) -> Result<Issued, DirectoryError> {
        let life = self.config.certificate_life();
        let certificate = self.ca.issue(csr, name, sans, SystemTime::now(), life)?;
        Ok(Issued { certificate, ca: self.ca.certificate_pem().to_owned() })
    }
}

fn key_of(issued: &Issued) -> Result<String, DirectoryError> {
    let leaf = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
    let leaf = leaf.map_err(|e| TlsError::Content { what: "the certificate", reason: e.to_string() })?;
    Ok(PeerCert::read(&leaf)?.key_fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_a_form() {
        let good = format!("plenum1.0123456789abcdef.{}.{}", "a".repeat(32), "b".repeat(64));
        assert_eq!(split_token(&good), Some(("0123456789abcdef", &*"a".repeat(32))));
        for bad in [
            "",
            "plenum1",
            "plenum1.x.y",
            "plenum2.0123456789abcdef.y.z",
            "plenum1.0123456789abcde/.y.z",
            "plenum1....",
        ] {
            assert_eq!(split_token(bad), None, "{bad}");
        }
    }
}
