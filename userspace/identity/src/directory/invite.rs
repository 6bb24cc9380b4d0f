//! Join tokens: making, listing, revoking. What a token lets in is `admission`'s concern.

use std::net::IpAddr;

use plenum_base::auth::same_bytes;
use plenum_base::pki::hex;
use plenum_base::tls::join::NodeKind;
use plenum_store::{StoreError, Txn};
use serde::{Deserialize, Serialize};

use super::{Directory, DirectoryError, Versioned, now_seconds};
use crate::records::{self, ClusterRecord, FORMAT, JoinRecord};

/// How every join token begins.
pub const JOIN_TOKEN_PREFIX: &str = "plenum1";
/// The longest life of a join token: 30 days, in seconds.
const LONGEST: u64 = 30 * 24 * 3600;
/// The longest life of a master's: whoever has it gets the cluster's keys.
const LONGEST_OF_MASTER: u64 = 24 * 3600;

pub(super) const BAD_TOKEN: DirectoryError =
    DirectoryError::Refused("the join token is not valid, used up or expired; ask for a new one");

/// A join token to be made. Body of `POST /internal/v1/tokens` and `POST /acs/api/v1/join-tokens`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewJoinToken {
    /// What whoever joins with it becomes: an agent by default.
    pub kind: NodeKind,
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
    /// What whoever joins with it becomes.
    #[serde(default)]
    pub kind: NodeKind,
    /// What it is for.
    pub description: String,
    /// Who made it.
    pub creator: String,
    /// Seconds since the epoch.
    #[serde(default)]
    pub created: u64,
    /// Seconds since the epoch.
    pub expires: u64,
    /// How many nodes may still join; `None` for as many as want to.
    pub uses_left: Option<u32>,
    /// The token: `plenum1.<id>.<secret>.<fingerprint of the CA>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The masters to join at, in the reply that made it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masters: Vec<IpAddr>,
}

impl JoinToken {
    fn of(record: JoinRecord) -> Self {
        Self {
            id: record.id,
            kind: record.kind,
            description: record.description,
            creator: record.creator,
            created: record.created,
            expires: record.expires,
            uses_left: record.uses_left,
            token: None,
            masters: Vec::new(),
        }
    }
}

pub(super) fn join_key(id: &str) -> String {
    format!("join/{id}")
}

fn digest(secret: &str) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref())
}

/// The id and secret of a token, if it has the form of one.
pub(super) fn split_token(token: &str) -> Option<(&str, &str)> {
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
        let longest = if new.kind == NodeKind::Master { LONGEST_OF_MASTER } else { LONGEST };
        if !(1..=longest).contains(&life) {
            let text = format!("ttl_seconds of a token of kind {} must be between 1 and {longest}", new.kind);
            return Err(DirectoryError::Invalid(text));
        }
        if new.kind == NodeKind::Master && !self.config.is_fleet() {
            let text = "a datacenter of one machine takes no other masters; install a fleet for that";
            return Err(DirectoryError::Invalid(text.to_owned()));
        }
        if new.description.len() > 1024 {
            return Err(DirectoryError::Invalid("the description may have 1024 bytes".to_owned()));
        }
        let (id, secret) = (hex(&rand::random::<[u8; 8]>()), hex(&rand::random::<[u8; 16]>()));
        let token = format!("{JOIN_TOKEN_PREFIX}.{id}.{secret}.{}", self.ca.fingerprint());
        let record = JoinRecord {
            format: FORMAT,
            id: id.clone(),
            kind: new.kind,
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
        let cluster = self.look::<ClusterRecord>("cluster").await?;
        let masters = cluster.map(|held| held.map.addresses()).unwrap_or_default();
        Ok(JoinToken { token: Some(token), masters, ..JoinToken::of(record) })
    }

    /// The join tokens that can still be used. Those whose time is over are removed on the way.
    pub(crate) async fn joins(&self) -> Result<Vec<JoinToken>, DirectoryError> {
        let now = now_seconds();
        let mut usable = Vec::new();
        for record in self.list::<JoinRecord>("join/").await? {
            if record.expires > now {
                usable.push(JoinToken::of(record));
            } else {
                self.store.commit(Txn::new().delete(join_key(&record.id))).await?;
            }
        }
        Ok(usable)
    }

    /// Revokes a join token.
    pub(crate) async fn delete_join(&self, id: &str) -> Result<(), DirectoryError> {
        if id.len() != 16 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(DirectoryError::Missing("join token"));
        }
        let key = join_key(id);
        match self.store.commit(Txn::new().exists(key.as_str()).delete(key.as_str())).await {
            Err(StoreError::Conflict { .. }) => Err(DirectoryError::Missing("join token")),
            other => other.map(|_| ()).map_err(Into::into),
        }
    }

    /// The record of a token that is good: known, its secret right, its time not over. How often it was used is not looked at.
    pub(super) async fn token(&self, token: &str) -> Result<Versioned<JoinRecord>, DirectoryError> {
        let (id, secret) = split_token(token).ok_or(BAD_TOKEN)?;
        let held = self.get::<JoinRecord>(&join_key(id)).await?;
        let right = |held: &Versioned<JoinRecord>| {
            same_bytes(digest(secret).as_bytes(), held.record.secret.as_bytes())
                && held.record.expires > now_seconds()
        };
        held.filter(right).ok_or(BAD_TOKEN)
    }
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
