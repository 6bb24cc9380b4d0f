//! The members: who has certificates, their renewals, and their removal, after which a key never comes in again.

use std::time::SystemTime;

use plenum_base::pki::{PeerName, San};
use plenum_base::places::Role;
use plenum_base::tls::renew::{Issued, RecoverRequest};
use plenum_base::tls::{PeerCert, TlsError};
use plenum_store::{StoreError, Txn};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::site::{address_key, member_key, removed_key};
use super::turn::Tries;
use super::{Directory, DirectoryError, Versioned, now_seconds};
use crate::records::{self, AddressRecord, ClusterRecord, FORMAT, Member, RemovedRecord};

impl Directory {
    /// Renews a member's certificate: the same name, the same addresses. A member that was removed, or came back with another key, gets none.
    pub(crate) async fn renew(&self, peer: &PeerCert, csr: &str) -> Result<Issued, DirectoryError> {
        const GONE: DirectoryError =
            DirectoryError::Refused("this component is not a member of the cluster any more");
        if peer.name.instance != self.config.instance.as_str() {
            return Err(GONE);
        }
        let member = self.look::<Member>(&member_key(&peer.name.role, &peer.name.name)).await?.ok_or(GONE)?;
        let issued = self.issue(csr, &peer.name, &sans_of(&member))?;
        if key_of(&issued)? != member.key || member.key != peer.key_fingerprint {
            return Err(GONE);
        }
        Ok(issued)
    }

    /// A new certificate for a member whose old one has ended while it was off. The request proves the key it joined with. Decided on the
    /// store itself: who was off for long may have been removed meanwhile.
    pub(crate) async fn recover(&self, request: &RecoverRequest) -> Result<Issued, DirectoryError> {
        const UNKNOWN: DirectoryError =
            DirectoryError::Refused("no member of this name has this key; join with a token");
        let name = PeerName::new(self.config.instance.as_str(), &request.role, &request.name)
            .map_err(|_| UNKNOWN)?;
        let member = self.get::<Member>(&member_key(&name.role, &name.name)).await?.ok_or(UNKNOWN)?.record;
        let issued = self.issue(&request.csr, &name, &sans_of(&member))?;
        if key_of(&issued)? == member.key { Ok(issued) } else { Err(UNKNOWN) }
    }

    /// All members.
    pub(crate) async fn members(&self) -> Result<Vec<Member>, DirectoryError> {
        self.list("members/").await
    }

    /// Removes one role of a host: its certificate is not renewed any more, its key never comes in again.
    pub(crate) async fn delete_member(&self, role: &str, name: &str) -> Result<(), DirectoryError> {
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            let held = self.get::<Member>(&member_key(role, name)).await?;
            let held = held.ok_or(DirectoryError::Missing("member"))?;
            match self.store.commit(remove(Txn::new(), held)?).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return other.map(|_| ()).map_err(Into::into),
            }
        }
    }

    /// Removes a host: all its roles, its address, and its place among the masters.
    pub(crate) async fn delete_host(&self, name: &str) -> Result<(), DirectoryError> {
        let mut tries = Tries::default();
        loop {
            let turn = self.begin(&mut tries).await?;
            let mut txn = Txn::new();
            let mut addresses: Vec<String> = Vec::new();
            for role in Role::EVERY {
                if let Some(held) = self.get::<Member>(&member_key(role.as_str(), name)).await? {
                    addresses.extend(held.record.addresses.iter().cloned());
                    txn = remove(txn, held)?;
                }
            }
            if txn.is_empty() {
                return Err(DirectoryError::Missing("member"));
            }
            addresses.sort();
            addresses.dedup();
            for address in addresses.iter().filter_map(|address| address.parse().ok()) {
                let key = address_key(address);
                if let Some(held) = self.get::<AddressRecord>(&key).await?
                    && held.record.name == name
                {
                    txn = txn.unchanged(key.as_str(), held.revision).delete(key.as_str());
                }
            }
            if let Some(Versioned { record, revision }) = self.get::<ClusterRecord>("cluster").await?
                && record.map.find(name).is_some()
            {
                let record =
                    ClusterRecord { format: FORMAT, map: super::masters::without(&record.map, name, true)? };
                txn = txn.unchanged("cluster", revision).put("cluster", records::write("cluster", &record)?);
            }
            match self.finish(turn, txn).await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(DirectoryError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the own certificate is that of a member.
    pub(super) async fn is_member(&self) -> Result<bool, DirectoryError> {
        let own = self.identity.peer();
        let held = self.get::<Member>(&member_key(&own.name.role, &own.name.name)).await?;
        Ok(held.is_some_and(|held| held.record.key == own.key_fingerprint))
    }

    pub(super) fn issue(&self, csr: &str, name: &PeerName, sans: &[San]) -> Result<Issued, DirectoryError> {
        let life = self.config.certificate_life();
        let certificate = self.ca.issue(csr, name, sans, SystemTime::now(), life)?;
        Ok(Issued { certificate, ca: self.ca.certificate_pem().to_owned() })
    }
}

/// Takes a member out and remembers its key.
fn remove(txn: Txn, held: Versioned<Member>) -> Result<Txn, DirectoryError> {
    let member = held.record;
    let (key, gone) = (member_key(&member.role, &member.name), removed_key(&member.key));
    let record = RemovedRecord {
        format: FORMAT,
        member: format!("{}/{}", member.role, member.name),
        at: now_seconds(),
    };
    // Two roles with one key leave one mark.
    let marked = txn.ops.iter().any(|op| op.key() == gone);
    let txn = txn.unchanged(key.as_str(), held.revision).delete(key);
    Ok(if marked { txn } else { txn.put(gone.as_str(), records::write(&gone, &record)?) })
}

fn sans_of(member: &Member) -> Vec<San> {
    member.addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

pub(super) fn key_of(issued: &Issued) -> Result<String, DirectoryError> {
    let leaf = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
    let leaf = leaf.map_err(|e| TlsError::Content { what: "the certificate", reason: e.to_string() })?;
    Ok(PeerCert::read(&leaf)?.key_fingerprint)
}
