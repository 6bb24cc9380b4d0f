//! Has etcd hold each component to its own part: the shell around [`crate::users`], in the caretaker of the member that leads.
//!
//! From the moment that etcd enforces its users, a certificate that names none is of no use. Those of releases before users do not. So every
//! master tells whether all certificates on it do, and only when each of them says so it is begun.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use plenum_base::auth::OnlyComponent;
use plenum_base::client::Client;
use plenum_base::places::Role;
use plenum_base::tls::PeerCert;
use serde::{Deserialize, Serialize};

use crate::admin::{Admin, AdminError};
use crate::config::CARETAKER;
use crate::join::Listed;
use crate::member::address;
use crate::status::Shared;
use crate::users::{COMPONENTS, Step, Users, steps};

/// How old a certificate is before everybody on the machine has taken it up: roles look at their files every 5 s.
const SETTLED: Duration = Duration::from_secs(10);
/// How long another master may take to say that it is ready.
const ASK: Duration = Duration::from_secs(2);

/// The answer of `GET /v1/users`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Whether all certificates on this master name etcd's users.
    ready: bool,
    /// Which does not.
    #[serde(default)]
    reason: String,
}

pub(crate) async fn answer(_: OnlyComponent, State(shared): State<Arc<Shared>>) -> Json<Ready> {
    Json(match here(&shared.config.component.certificate, SystemTime::now()) {
        Ok(()) => Ready { ready: true, reason: String::new() },
        Err(reason) => Ready { ready: false, reason },
    })
}

/// Where a role of this machine has its certificate: beside the caretaker's.
fn beside(own: &Path, role: Role) -> Option<PathBuf> {
    Some(own.parent()?.parent()?.join(role.as_str()).join(own.file_name()?))
}

/// Whether every certificate on this machine with which etcd is spoken to names its user, and has done so for a while.
fn here(own: &Path, now: SystemTime) -> Result<(), String> {
    let look = |path: &Path, role: Role| {
        let unreadable = |e: &dyn std::fmt::Display| format!("the certificate of {role} cannot be read: {e}");
        let chain = std::fs::read(path).map_err(|e| unreadable(&e))?;
        let changed = std::fs::metadata(path).and_then(|file| file.modified()).map_err(|e| unreadable(&e))?;
        let cert = PeerCert::read_pem(&chain).map_err(|e| unreadable(&e))?;
        // One of the future is as good as new.
        let age = now.duration_since(changed).unwrap_or_default();
        match cert.store_user() {
            Some(true) if age >= SETTLED => Ok(()),
            Some(true) => Err(format!("the certificate of {role} was renewed a moment ago")),
            Some(false) => Err(format!("the certificate of {role} is of an older release")),
            None => Err(format!("the certificate of {role} does not open etcd")),
        }
    };
    look(own, Role::Etcd)?;
    for role in COMPONENTS {
        // One that cannot be looked for is looked at, which says why not.
        if let Some(path) = beside(own, role).filter(|path| !matches!(path.try_exists(), Ok(false))) {
            look(&path, role)?;
        }
    }
    Ok(())
}

/// Whether every master is ready; else who is not, and why.
async fn everywhere(shared: &Shared, client: &Client, members: &[Listed]) -> Result<(), String> {
    let config = &shared.config;
    here(&config.component.certificate, SystemTime::now())
        .map_err(|reason| format!("{}: {reason}", config.name))?;
    if let Some(new) = members.iter().find(|member| member.client_urls.is_empty()) {
        return Err(format!("the member at {} has not started yet", new.peer_urls.join(", ")));
    }
    let urls = members.iter().flat_map(|member| &member.client_urls);
    let mut others: Vec<IpAddr> = urls.filter_map(|url| address(url)).collect();
    others
        .extend(shared.component.masters.map().iter().flat_map(|map| &map.masters).map(|node| node.address));
    others.sort();
    others.dedup();
    others.retain(|address| *address != config.address);
    let asked = others.into_iter().map(|address| async move {
        let url = format!("https://{}/v1/users", SocketAddr::new(address, CARETAKER));
        let answer =
            async { client.get(&url).deadline(ASK).send().await?.success().await?.json::<Ready>().await };
        match answer.await {
            Ok(Ready { ready: true, .. }) => None,
            Ok(Ready { reason, .. }) => Some(format!("{address}: {reason}")),
            Err(error) => Some(format!("the master {address} does not tell: {error}")),
        }
    });
    join_all(asked).await.into_iter().flatten().next().map_or(Ok(()), Err)
}

/// One look from the member that leads, and all steps there are. Says why users are not enforced yet, where they are not.
pub(crate) async fn round(
    shared: &Shared,
    client: &Client,
    own: &Admin,
    members: &[Listed],
) -> Result<Option<String>, AdminError> {
    let there = own.users().await?;
    let on = enforced(shared, own).await?;
    let ready = if on { Ok(()) } else { everywhere(shared, client, members).await };
    let wanted = Users::wanted(&shared.config.component.instance);
    for step in steps(&there, &wanted, !on && ready.is_ok()) {
        tracing::info!(?step, "etcd's users");
        own.change_users(&step).await?;
        if step == Step::Enforce {
            shared.set_users();
        }
    }
    Ok(ready.err())
}

/// Whether etcd enforces its users, as far as this member knows. Once it does it always will.
pub(crate) async fn enforced(shared: &Shared, own: &Admin) -> Result<bool, AdminError> {
    if !shared.users() && own.users_enforced().await? {
        shared.set_users();
    }
    Ok(shared.users())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::folder::Folder;
    use crate::process::{Begin, Running};
    use crate::users::{Right, Span};
    use plenum_base::pki::{Authority, LIFETIME, PeerName, San, store_names};
    use plenum_base::places::{Bases, Places};
    use tokio::time::{Instant, sleep};

    #[test]
    fn a_machine_is_ready_when_every_certificate_names_its_user() {
        plenum_base::service::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ca = Authority::create("test", now).unwrap();
        let own = folder.path().join("etcd/cert.pem");
        let write = |role: Role, sans: &[San]| {
            let path = beside(&own, role).unwrap();
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let name = PeerName::new("test", role.as_str(), "m1").unwrap();
            let (cert, _) = ca.issue_fresh(&name, sans, now, LIFETIME).unwrap();
            std::fs::write(path, cert).unwrap();
        };
        let later = now + Duration::from_secs(60);
        let reason = |at| here(&own, at).unwrap_err();
        assert!(reason(later).contains("cannot be read"));
        write(Role::Etcd, &store_names(Role::Etcd));
        assert!(reason(SystemTime::now()).contains("a moment ago"));
        assert_eq!(here(&own, later), Ok(()));
        write(Role::Catalog, &store_names(Role::Catalog));
        assert_eq!(here(&own, later), Ok(()));
        write(Role::Services, &[]);
        assert!(reason(later).contains("services"));
        std::fs::write(beside(&own, Role::Services).unwrap(), "x").unwrap();
        assert!(reason(later).contains("services"));
    }

    fn places(folder: &Path) -> Places {
        let bases = Bases { state: folder.join("state"), run: folder.join("run"), root: true };
        bases.places("test".parse().unwrap(), 0)
    }

    /// An etcd that nobody cares for, at an address of 127/8.
    async fn bare(folder: &Path, host: u8) -> (Config, Running, Admin) {
        plenum_base::service::install_crypto();
        let places = places(folder);
        places.create().unwrap();
        let pid = std::process::id().to_le_bytes();
        let address = IpAddr::from([127, 220 + pid[1] % 30, pid[0], host]);
        let ca = Authority::create("test", SystemTime::now()).unwrap();
        let name = PeerName::new("test", "etcd", "m1").unwrap();
        let mut sans = store_names(Role::Etcd);
        sans.push(San::Ip(address));
        let (cert, key) = ca.issue_fresh(&name, &sans, SystemTime::now(), LIFETIME).unwrap();
        places.identity(Role::Etcd).write(ca.certificate_pem(), &cert, &key).unwrap();
        let config = Config::at(&places, "m1", address, Vec::new(), true);
        let data = Folder::new(&config.component.data);
        let _lock = data.lock().unwrap();
        let running = Running::start(&config, &data, &Begin::New).await.unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let admin = Admin::at(&config, address).await.unwrap();
            if admin.users().await.is_ok() {
                return (config, running, admin);
            }
            assert!(Instant::now() < until, "etcd does not come up");
            sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_step_is_taken_by_a_real_etcd_and_can_be_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let (config, running, admin) = bare(folder.path(), 1).await;
        let wanted = Users::wanted(&config.component.instance);
        let all = steps(&Users::default(), &wanted, true);
        for (done, step) in all.iter().enumerate() {
            // As after a caretaker that was killed here.
            let there = admin.users().await.unwrap();
            assert_eq!(steps(&there, &wanted, true), all[done..], "after {done} steps");
            assert!(!admin.users_enforced().await.unwrap());
            admin.change_users(step).await.unwrap();
            admin.change_users(step).await.unwrap();
        }
        assert_eq!(admin.users().await.unwrap(), wanted);
        assert!(admin.users_enforced().await.unwrap());
        let extra = [
            Step::AddRole("extra".to_owned()),
            Step::Give { user: "catalog".to_owned(), role: "extra".to_owned() },
            Step::Grant("catalog".to_owned(), Span { key: b"a".to_vec(), end: Vec::new() }, Right::Write),
            Step::Grant("catalog".to_owned(), Span { key: b"a".to_vec(), end: b"b".to_vec() }, Right::Read),
        ];
        for step in &extra {
            admin.change_users(step).await.unwrap();
        }
        let back = steps(&admin.users().await.unwrap(), &wanted, false);
        assert_eq!(back.len(), 3, "{back:?}");
        for step in back.iter().chain(&back) {
            admin.change_users(step).await.unwrap();
        }
        let after = admin.users().await.unwrap();
        assert_eq!(
            (after.users, after.roles["catalog"].clone()),
            (wanted.users, wanted.roles["catalog"].clone())
        );
        running.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_caretakers_at_once_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let (config, running, one) = bare(folder.path(), 2).await;
        let two = Admin::at(&config, config.address).await.unwrap();
        let wanted = Users::wanted(&config.component.instance);
        let takes = async |admin: &Admin| {
            // Each with what it saw before the other one did anything.
            for step in steps(&admin.users().await?, &wanted, true) {
                admin.change_users(&step).await?;
            }
            Ok::<(), AdminError>(())
        };
        let (first, second) = tokio::join!(takes(&one), takes(&two));
        first.unwrap();
        second.unwrap();
        assert_eq!(one.users().await.unwrap(), wanted);
        assert!(two.users_enforced().await.unwrap());
        running.stop().await;
    }
}
