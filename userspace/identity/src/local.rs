//! What a master can do without the store: issue the certificates of its own roles. Needed because the store itself (etcd) and everything that
//! reaches it live by certificates: a fleet that was off for longer than they are good for comes back by itself, and one without a majority
//! keeps what it has. The authority's key lies beside the master key, sealed with it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use plenum_base::files;
use plenum_base::pki::{Authority, Request};
use plenum_base::places::{Places, Role};
use plenum_base::service::Shutdown;
use plenum_base::tls::Identity;

use crate::config::Config;
use crate::directory::DirectoryError;
use crate::records::{self, Site};
use crate::vault::Vault;

/// How often the certificates are looked at.
const ROUND: Duration = Duration::from_secs(20);

fn site_file(places: &Places) -> PathBuf {
    places.data(Role::Identity).join("site.json")
}

/// Keeps a copy of the cluster's record beside the master key.
pub(crate) fn keep_site(places: &Places, site: &Site) -> Result<(), DirectoryError> {
    let path = site_file(places);
    let text = records::write("site", site)?;
    if std::fs::read(&path).is_ok_and(|held| held == text) {
        return Ok(());
    }
    files::replace(&path, &text, files::SECRET)
        .map_err(|e| DirectoryError::Failed(format!("{}: {e}", path.display())))
}

/// The cluster's id and authority as this master knows them; `None` on one that has none yet.
pub(crate) fn known(places: &Places) -> Result<Option<(String, Authority)>, DirectoryError> {
    let Ok(text) = std::fs::read(site_file(places)) else { return Ok(None) };
    let site: Site = records::read("site", &text)?;
    let vault = Vault::open(&places.vault_key(), false)?;
    let key = vault.open_sealed("site/ca_key", &site.ca_key)?;
    let key = String::from_utf8(key)
        .map_err(|_| DirectoryError::Failed("the authority's key is not text".to_owned()))?;
    Ok(Some((site.cluster_id, Authority::from_pem(&site.ca, &key)?)))
}

/// Issues anew, for the same key, name and addresses, every certificate of this host's roles that has ended or soon will (in a fleet
/// that works, the roles have renewed theirs long before), and every one of a release whose certificates did not name etcd's user.
/// Gives the roles.
pub(crate) fn renew_due(config: &Config, ca: &Authority) -> Vec<Role> {
    let mut renewed = Vec::new();
    for role in config.roles() {
        match renew_one(config, ca, *role) {
            Ok(true) => renewed.push(*role),
            Ok(false) => {}
            Err(error) => tracing::warn!(%role, %error, "the certificate could not be issued anew"),
        }
    }
    renewed
}

fn renew_one(config: &Config, ca: &Authority, role: Role) -> Result<bool, DirectoryError> {
    let files = config.places().identity(role);
    // What is not there, or not whole, belongs to a join or a bootstrap that has not ended.
    let Ok(identity) = Identity::load(&files) else { return Ok(false) };
    let peer = identity.peer();
    let ours = identity.chain().last().is_some_and(|c| plenum_base::pki::fingerprint(c) == ca.fingerprint());
    let life = peer.not_after.duration_since(peer.not_before).unwrap_or_default();
    let good = peer.store_user() != Some(false) && peer.is_current(SystemTime::now() + life / 8);
    if !ours || peer.name.role != role.as_str() || good {
        return Ok(false);
    }
    let key = std::fs::read_to_string(&files.key)
        .map_err(|e| DirectoryError::Failed(format!("{}: {e}", files.key.display())))?;
    let csr = Request::for_key(&key)?.csr;
    let chain = ca.issue(&csr, &peer.name, &peer.sans, SystemTime::now(), config.certificate_life())?;
    files::replace(&files.cert, chain.as_bytes(), files::SECRET)
        .map_err(|e| DirectoryError::Failed(format!("{}: {e}", files.cert.display())))?;
    Ok(true)
}

/// Looks after the certificates of this master's roles until `shutdown`.
pub(crate) async fn keep(config: Config, shutdown: Shutdown) {
    loop {
        look(&config);
        if !shutdown.sleep(ROUND).await {
            return;
        }
    }
}

/// Looks once.
pub(crate) fn look(config: &Config) {
    match known(&config.places()) {
        Ok(Some((_, ca))) => {
            let renewed = renew_due(config, &ca);
            if !renewed.is_empty() {
                tracing::warn!(
                    ?renewed,
                    "certificates had (nearly) ended or were of an older release; this master issued new ones to itself"
                );
            }
        }
        Ok(None) => {}
        Err(error) => tracing::error!(%error, "certificates of this master cannot be looked after"),
    }
}
