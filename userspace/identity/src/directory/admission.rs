//! Admission: a host with a join token gets certificates for its roles. The token is counted, the members and the address are noted, in one
//! transaction; the same host may repeat a request whose reply was lost.

use std::collections::BTreeMap;
use std::net::IpAddr;

use plenum_base::pki::{PeerName, San, store_names};
use plenum_base::places::Role;
use plenum_base::tls::join::{JoinBody, Joined, NodeKind};
use plenum_base::tls::renew::Issued;
use plenum_store::{StoreError, Txn};

use super::invite::{BAD_TOKEN, join_key};
use super::members::key_of;
use super::site::{address_key, member_key, removed_key};
use super::turn::Tries;
use super::{Directory, DirectoryError, Versioned, now_seconds};
use crate::records::{self, AddressRecord, ClusterRecord, FORMAT, JoinRecord, Member, RemovedRecord};

/// The most DNS names beside a master's address.
const NAMES: usize = 16;
/// The longest certificate request in bytes.
const CSR: usize = 16 * 1024;

/// A host at the door: what it will be if the token is good for it.
struct Candidate {
    name: String,
    address: IpAddr,
    members: Vec<Member>,
    certificates: BTreeMap<Role, String>,
}

/// What is to be done about a candidate.
enum Step {
    /// It is in already, exactly so.
    In,
    /// This lets it in. With `true` it also changes the map of masters.
    Admit(Txn, bool),
}

impl Directory {
    /// Answers a host that wants to join. `from` is where the request came from.
    pub(crate) async fn join(
        &self,
        request: &JoinBody,
        from: Option<IpAddr>,
    ) -> Result<Joined, DirectoryError> {
        let held = self.token(&request.token).await?.record;
        let kind = held.kind;
        let certificates = if request.csrs.is_empty() {
            BTreeMap::new()
        } else {
            // Issued before the token is counted: a bad request must not use it up.
            let candidate = self.candidate(request, kind, from)?;
            // Nobody else counts a token with a number down here meanwhile; one without is not written at all.
            let _one = match held.uses_left {
                Some(_) => Some(self.joining.lock().await),
                None => None,
            };
            self.admit(&request.token, &candidate).await?;
            candidate.certificates
        };
        let cluster = self.get::<ClusterRecord>("cluster").await?.map(|held| held.record.map);
        let is_master = kind == NodeKind::Master && !certificates.is_empty();
        Ok(Joined {
            ca: self.ca.certificate_pem().to_owned(),
            certificates,
            instance: self.config.instance.to_string(),
            number: self.config.number,
            kind,
            cluster: cluster.unwrap_or_default(),
            settings: self.settings().await?.map_or(serde_json::Value::Null, |held| held.record),
            vault_key: is_master.then(|| self.vault.key_text()),
        })
    }

    /// Checks what is asked for against the token's kind, and issues it.
    fn candidate(
        &self,
        request: &JoinBody,
        kind: NodeKind,
        from: Option<IpAddr>,
    ) -> Result<Candidate, DirectoryError> {
        let address = request.address.to_canonical();
        check_address(address, from)?;
        let mut sans = vec![San::Ip(address)];
        if kind == NodeKind::Master {
            sans.extend([San::Ip([127, 0, 0, 1].into()), San::Dns("localhost".to_owned())]);
            sans.extend(checked_names(&request.names)?);
        }
        sans.sort();
        sans.dedup();
        let mut candidate = Candidate {
            name: request.name.clone(),
            address,
            members: Vec::new(),
            certificates: BTreeMap::new(),
        };
        for (word, csr) in &request.csrs {
            let role: Option<Role> = word.parse().ok();
            let role = role.filter(|role| kind.roles().contains(role)).ok_or(DirectoryError::Refused(
                "the join token does not admit such a role; that of an agent is good for agent, discovery and balancer",
            ))?;
            if csr.len() > CSR {
                return Err(DirectoryError::Invalid(format!("a certificate request may have {CSR} bytes")));
            }
            let name = self.host_peer(role, &request.name)?;
            let mut sans = sans.clone();
            if kind == NodeKind::Master {
                sans.extend(store_names(role));
            }
            let issued = self.issue(csr, &name, &sans)?;
            candidate.members.push(self.member_of(&name, &issued, &sans)?);
            candidate.certificates.insert(role, issued.certificate);
        }
        Ok(candidate)
    }

    /// A host's name is a component's name, and that of no role: those belong to datacenters of one machine.
    fn host_peer(&self, role: Role, name: &str) -> Result<PeerName, DirectoryError> {
        let plain = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.parse::<Role>().is_err();
        let peer = PeerName::new(self.config.instance.as_str(), role.as_str(), name).ok().filter(|_| plain);
        peer.ok_or_else(|| {
            let rule = "the name must have 1 to 128 of letters, digits and ._-, begin with a letter or digit, and not be a role's";
            DirectoryError::Invalid(rule.to_owned())
        })
    }

    fn member_of(&self, name: &PeerName, issued: &Issued, sans: &[San]) -> Result<Member, DirectoryError> {
        Ok(Member {
            format: FORMAT,
            role: name.role.clone(),
            name: name.name.clone(),
            key: key_of(issued)?,
            addresses: sans.iter().map(ToString::to_string).collect(),
            joined: now_seconds(),
        })
    }

    async fn admit(&self, token: &str, candidate: &Candidate) -> Result<(), DirectoryError> {
        let mut tries = Tries::default();
        loop {
            tries.next().await?;
            let held = self.token(token).await?;
            let (txn, map) = match self.step(held, candidate).await? {
                Step::In => return Ok(()),
                Step::Admit(txn, map) => (txn, map),
            };
            let committed = if map {
                // The map is read again in its turn: two changes of it never overlap.
                self.admit_back(txn, &candidate.name).await
            } else {
                self.store.commit(txn).await.map(|_| true).map_err(Into::into)
            };
            match committed {
                Ok(true) => return Ok(()),
                Ok(false) | Err(DirectoryError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets a master back in that was taken out: its name leaves the list of those that leave.
    async fn admit_back(&self, txn: Txn, name: &str) -> Result<bool, DirectoryError> {
        let turn = self.begin(&mut Tries::default()).await?;
        let txn = match self.get::<ClusterRecord>("cluster").await? {
            Some(Versioned { mut record, revision }) => {
                record.map.leaving.retain(|leaving| leaving != name);
                record.map.number = record.map.number.saturating_add(1);
                txn.unchanged("cluster", revision).put("cluster", records::write("cluster", &record)?)
            }
            None => txn,
        };
        self.finish(turn, txn).await
    }

    /// Decides about a candidate by what is stored now.
    async fn step(&self, held: Versioned<JoinRecord>, candidate: &Candidate) -> Result<Step, DirectoryError> {
        let mut txn = Txn::new();
        let mut new = false;
        for member in &candidate.members {
            let (next, is_new) = self.admit_member(txn, member).await?;
            txn = next;
            new |= is_new;
        }
        let place = address_key(candidate.address);
        match self.get::<AddressRecord>(&place).await? {
            Some(other) if other.record.name != candidate.name => {
                return Err(taken_address(candidate.address, &other.record.name));
            }
            Some(own) => txn = txn.unchanged(place.as_str(), own.revision),
            None => {
                let record = AddressRecord { format: FORMAT, name: candidate.name.clone() };
                txn = txn.absent(place.as_str()).put(place.as_str(), records::write(&place, &record)?);
                new = true;
            }
        }
        let kind = held.record.kind;
        let map = kind == NodeKind::Master && self.is_leaving(&candidate.name).await?;
        if !new && !map {
            return Ok(Step::In);
        }
        let place = join_key(&held.record.id);
        let Versioned { mut record, revision } = held;
        txn = txn.unchanged(place.as_str(), revision);
        if let Some(left) = record.uses_left.as_mut() {
            *left = left.checked_sub(1).ok_or(BAD_TOKEN)?;
            txn = txn.put(place.as_str(), records::write(&place, &record)?);
        }
        Ok(Step::Admit(txn, map))
    }

    /// Adds one role of a candidate; true where it was not there exactly so.
    async fn admit_member(&self, txn: Txn, member: &Member) -> Result<(Txn, bool), DirectoryError> {
        let key = member_key(&member.role, &member.name);
        let put = |txn: Txn| Ok::<_, DirectoryError>(txn.put(key.as_str(), records::write(&key, member)?));
        let Some(held) = self.get::<Member>(&key).await? else {
            let gone = removed_key(&member.key);
            if self.get::<RemovedRecord>(&gone).await?.is_some() {
                return Err(DirectoryError::Refused(
                    "this host was taken out of the cluster with this key; remove the key's file and join again",
                ));
            }
            return Ok((put(txn.absent(key.as_str()).absent(gone))?, true));
        };
        if held.record.key != member.key {
            let text = format!(
                "{} is in the cluster with another key: remove it (`plenum node remove {}`), or join under another name",
                member.name, member.name
            );
            return Err(DirectoryError::Taken(text));
        }
        let txn = txn.unchanged(key.as_str(), held.revision);
        if held.record.addresses == member.addresses { Ok((txn, false)) } else { Ok((put(txn)?, true)) }
    }

    async fn is_leaving(&self, name: &str) -> Result<bool, DirectoryError> {
        let cluster = self.get::<ClusterRecord>("cluster").await?;
        Ok(cluster.is_some_and(|held| held.record.map.leaving.iter().any(|leaving| leaving == name)))
    }
}

pub(super) fn taken_address(address: IpAddr, holder: &str) -> DirectoryError {
    let text = format!(
        "{address} is the address of {holder} in this cluster: remove that host first, or give another address"
    );
    DirectoryError::Taken(text)
}

/// An address at which a host can be reached. One of the loopback network is for hosts that ask from there.
fn check_address(address: IpAddr, from: Option<IpAddr>) -> Result<(), DirectoryError> {
    let local = from.is_none_or(|from| from.to_canonical().is_loopback());
    let broadcast = matches!(address, IpAddr::V4(four) if four.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast || (address.is_loopback() && !local) {
        let text = format!("address: {address} is no address at which other hosts reach this one");
        return Err(DirectoryError::Invalid(text));
    }
    Ok(())
}

fn checked_names(names: &[String]) -> Result<Vec<San>, DirectoryError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let good =
        |name: &String| name.len() <= 253 && name.parse::<IpAddr>().is_err() && name.split('.').all(label);
    if names.len() > NAMES || !names.iter().all(good) {
        let text = format!("names: at most {NAMES} DNS names are expected");
        return Err(DirectoryError::Invalid(text));
    }
    Ok(names.iter().map(|name| San::Dns(name.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_checked() {
        let far = Some("10.0.0.9".parse().unwrap());
        let near = Some("127.0.0.1".parse().unwrap());
        for (address, from, good) in [
            ("10.0.0.1", far, true),
            ("fd00::1", far, true),
            ("127.0.0.5", near, true),
            ("127.0.0.5", far, false),
            ("0.0.0.0", near, false),
            ("::", far, false),
            ("224.0.0.1", far, false),
            ("255.255.255.255", far, false),
        ] {
            assert_eq!(check_address(address.parse().unwrap(), from).is_ok(), good, "{address}");
        }
        let names =
            |names: &[&str]| checked_names(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["a.example", "b"]).unwrap().len(), 2);
        for bad in [&[""][..], &["*.x"], &["a..b"], &["10.0.0.1"], &["a b"], &["ä"], &["a"; 17]] {
            assert!(names(bad).is_err(), "{bad:?}");
        }
    }
}
