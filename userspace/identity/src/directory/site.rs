//! Opening: the first start makes the cluster in one transaction; every start issues identity's own certificate where it is due.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use plenum_base::files;
use plenum_base::pki::{Authority, Request};
use plenum_base::places::{Places, Role};
use plenum_base::tls::{Identity, IdentityFiles};
use plenum_store::{Op, Store, StoreError, Txn};
use tokio::sync::{Mutex, watch};

use super::mirror::Mirror;
use super::{Directory, DirectoryError, list, now_seconds};
use crate::audit::Audit;
use crate::config::Config;
use crate::local;
use crate::passwords::Passwords;
use crate::records::{self, AddressRecord, FORMAT, Member, PolicyNumber, SigningKey, Site};
use crate::tokens::TokenSigner;
use crate::vault::Vault;

/// Whether a store that holds nothing becomes a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    /// It does.
    IfEmpty,
    /// It is an error: on a fleet's store only the first master's bootstrap does that.
    Never,
}

impl Directory {
    /// Opens what `store` holds (scoped to identity), or makes the cluster if it holds nothing and `make` says so.
    pub(crate) async fn open(
        config: Config,
        store: Arc<dyn Store>,
        make: Make,
    ) -> Result<Self, DirectoryError> {
        let places = config.places();
        let failed = |e: std::io::Error| DirectoryError::Failed(format!("{}: {e}", places.state.display()));
        places.create().map_err(failed)?;
        files::private_dir(&places.data(Role::Identity)).map_err(failed)?;
        let key = places.vault_key();
        let (site, vault) = match store.get("site").await? {
            Some(entry) => (records::read::<Site>("site", &entry.value)?, Vault::open(&key, false)?),
            None if make == Make::Never => return Err(DirectoryError::NoCluster),
            None => create(&config, store.as_ref(), &key).await?,
        };
        let ca_key = utf8(vault.open_sealed("site/ca_key", &site.ca_key)?)?;
        let ca = Authority::from_pem(&site.ca, &ca_key)?;
        let mut keys: Vec<SigningKey> = list(store.as_ref(), "signing/").await?;
        keys.sort_by_key(|key| key.created);
        let newest =
            keys.pop().ok_or_else(|| DirectoryError::Failed("no signing key is stored".to_owned()))?;
        let pem = utf8(vault.open_sealed(&format!("signing/{}", newest.kid), &newest.key)?)?;
        let signer = TokenSigner::from_pem(&pem).map_err(DirectoryError::Failed)?;
        write_ca(&places, &ca)?;
        local::keep_site(&places, &site)?;
        let identity = own_identity(&config, &places, &ca)?;
        let passwords = Passwords::new(config.hash_cost()).map_err(DirectoryError::Failed)?;
        Ok(Self {
            audit: Audit::open(&places.data(Role::Identity)),
            mirror: Mirror::load(store.as_ref()).await?,
            store,
            config,
            places,
            cluster_id: site.cluster_id,
            ca,
            signer,
            passwords,
            vault,
            identity,
            changing: Mutex::new(()),
            joining: Mutex::new(()),
            writing: parking_lot::Mutex::new(()),
            published: watch::Sender::new(0),
            unpublished: tokio::sync::Notify::new(),
        })
    }

    /// Issues a new certificate to identity itself once half of the old one's life is over.
    pub(crate) fn renew_own(&self) -> Result<(), DirectoryError> {
        let files = self.places.identity(Role::Identity);
        if is_fresh(&self.config, &self.ca, Role::Identity, &files) {
            return Ok(());
        }
        issue_into(&self.config, &self.ca, Role::Identity, &files)?;
        self.identity.reload()?;
        tracing::info!("identity's own certificate renewed");
        Ok(())
    }

    /// Issues a certificate into the files of `role` on this machine, unless a good one is there, and notes the member.
    pub(crate) async fn issue_local(&self, role: Role) -> Result<(), DirectoryError> {
        let files = self.places.identity(role);
        if !is_fresh(&self.config, &self.ca, role, &files) {
            issue_into(&self.config, &self.ca, role, &files)?;
        }
        let peer = Identity::load(&files)?.peer();
        let member = Member {
            format: FORMAT,
            role: peer.name.role.clone(),
            name: peer.name.name.clone(),
            key: peer.key_fingerprint,
            addresses: peer.sans.iter().map(ToString::to_string).collect(),
            joined: now_seconds(),
        };
        let key = member_key(&member.role, &member.name);
        // A restart finds the same member and writes nothing.
        if let Some(held) = self.get::<Member>(&key).await?
            && held.record.key == member.key
            && held.record.addresses == member.addresses
        {
            return Ok(());
        }
        self.store.commit(Txn::new().put(key.as_str(), records::write(&key, &member)?)).await?;
        Ok(())
    }

    /// Notes that this master's address is its own.
    pub(crate) async fn claim_address(&self) -> Result<(), DirectoryError> {
        let (Some(name), Some(address)) = (&self.config.name, self.config.address) else { return Ok(()) };
        let key = address_key(address);
        match self.get::<AddressRecord>(&key).await? {
            Some(held) if held.record.name == *name => return Ok(()),
            Some(other) => return Err(super::admission::taken_address(address, &other.record.name)),
            None => {}
        }
        let record = AddressRecord { format: FORMAT, name: name.clone() };
        self.store
            .commit(Txn::new().absent(key.as_str()).put(key.as_str(), records::write(&key, &record)?))
            .await?;
        Ok(())
    }

    /// Refuses to go on as a master that was taken out of the fleet.
    pub(crate) async fn check_member(&self) -> Result<(), DirectoryError> {
        if self.config.is_fleet() && !self.is_member().await? {
            return Err(DirectoryError::NoMember);
        }
        Ok(())
    }
}

pub(super) fn member_key(role: &str, name: &str) -> String {
    format!("members/{role}/{name}")
}

pub(super) fn address_key(address: IpAddr) -> String {
    format!("addresses/{}", address.to_canonical())
}

pub(super) fn removed_key(key_fingerprint: &str) -> String {
    format!("removed/{key_fingerprint}")
}

/// Makes the cluster: id, CA, signing key and policy number appear together or not at all.
async fn create(config: &Config, store: &dyn Store, key: &Path) -> Result<(Site, Vault), DirectoryError> {
    let vault = Vault::open(key, true)?;
    let cluster_id = uuid::Uuid::new_v4().hyphenated().to_string();
    let ca = Authority::create(config.instance.as_str(), SystemTime::now())?;
    let pem = TokenSigner::generate().map_err(DirectoryError::Failed)?;
    let signer = TokenSigner::from_pem(&pem).map_err(DirectoryError::Failed)?;
    let created = now_seconds();
    let site = Site {
        format: FORMAT,
        cluster_id,
        created,
        ca: ca.certificate_pem().to_owned(),
        ca_key: vault.seal("site/ca_key", ca.key_pem().as_bytes())?,
    };
    let place = format!("signing/{}", signer.kid());
    let signing = SigningKey {
        format: FORMAT,
        kid: signer.kid().to_owned(),
        key: vault.seal(&place, pem.as_bytes())?,
        created,
    };
    let txn = Txn::new()
        .absent("site")
        .put("site", records::write("site", &site)?)
        .put(place.as_str(), records::write(&place, &signing)?)
        .op(Op::Put {
            key: "policy".to_owned(),
            value: records::write("policy", &PolicyNumber { format: FORMAT, number: 1 })?.into(),
            lease: None,
        });
    match store.commit(txn).await {
        Ok(_) => Ok((site, vault)),
        Err(StoreError::Conflict { .. }) => {
            // Another identity was faster; with a shared store it also needs the same master key.
            let message =
                "another process made this cluster just now; copy its master key here and start again";
            Err(DirectoryError::Failed(message.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

fn utf8(bytes: Vec<u8>) -> Result<String, DirectoryError> {
    String::from_utf8(bytes).map_err(|_| DirectoryError::Failed("a stored key is not text".to_owned()))
}

fn write_ca(places: &Places, ca: &Authority) -> Result<(), DirectoryError> {
    let path = places.ca();
    if std::fs::read_to_string(&path).is_ok_and(|held| held == ca.certificate_pem()) {
        return Ok(());
    }
    files::replace(&path, ca.certificate_pem().as_bytes(), 0o644)
        .map_err(|e| DirectoryError::Failed(format!("{}: {e}", path.display())))
}

fn own_identity(config: &Config, places: &Places, ca: &Authority) -> Result<Identity, DirectoryError> {
    let files = places.identity(Role::Identity);
    if !is_fresh(config, ca, Role::Identity, &files) {
        issue_into(config, ca, Role::Identity, &files)?;
    }
    Ok(Identity::load(&files)?)
}

/// Whether the files hold a usable certificate of this CA in the first half of its life, with the name and addresses it should have.
fn is_fresh(config: &Config, ca: &Authority, role: Role, files: &IdentityFiles) -> bool {
    let Ok(identity) = Identity::load(files) else { return false };
    let ours = identity
        .chain()
        .get(1)
        .is_some_and(|issuer| plenum_base::pki::fingerprint(issuer) == ca.fingerprint());
    let peer = identity.peer();
    let right = config.peer_name(role).is_ok_and(|name| name == peer.name)
        && config.sans(role).iter().all(|san| peer.sans.contains(san));
    let half = peer.not_after.duration_since(peer.not_before).unwrap_or_default() / 2;
    ours && right && peer.is_current(SystemTime::now() + half.min(Duration::from_secs(365 * 24 * 3600)))
}

/// Issues a certificate for the key in the files, or for a new one if there is none that can be read.
fn issue_into(
    config: &Config,
    ca: &Authority,
    role: Role,
    files: &IdentityFiles,
) -> Result<(), DirectoryError> {
    let held = std::fs::read_to_string(&files.key).ok().and_then(|key| Request::for_key(&key).ok());
    let request = match held {
        Some(request) => request,
        None => Request::new()?,
    };
    let name = config.peer_name(role)?;
    let cert =
        ca.issue(&request.csr, &name, &config.sans(role), SystemTime::now(), config.certificate_life())?;
    Ok(files.write(ca.certificate_pem(), &cert, &request.key)?)
}
