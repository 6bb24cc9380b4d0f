//! The settings of the role `identity`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use plenum_base::auth::HashCost;
use plenum_base::config::Settings;
use plenum_base::pki::{PeerName, San};
use plenum_base::places::{Bases, Instance, Places, Role};
use plenum_base::serve::Plain;
use plenum_base::service::Logging;
use plenum_store::StoreSettings;
use serde::{Deserialize, Serialize};

/// The settings of the role `identity`. Every one has a default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The instance's name.
    pub instance: Instance,
    /// The instance's number K.
    pub number: u8,
    /// The instance's state folder; by default the one of this user and instance.
    pub state: Option<PathBuf>,
    /// The instance's runtime folder; by default the one of this user and instance.
    pub run: Option<PathBuf>,
    /// This master's name in the fleet; none on a single machine. Goes with `address`.
    pub name: Option<String>,
    /// The address at which every other host of the fleet reaches this master; none on a single machine.
    pub address: Option<IpAddr>,
    /// The masters to begin with, until the cluster's map is known here.
    pub masters: Vec<IpAddr>,
    /// Where HTTP is served; by default port 8101 of `address`, or of the instance's node address.
    pub listen: Option<SocketAddr>,
    /// Where plain HTTP is taken.
    pub plain: Plain,
    /// DNS names and addresses, beside those of the node, for the certificates issued at bootstrap.
    pub addresses: Vec<String>,
    /// Life of a component's certificate in hours.
    pub certificate_hours: u32,
    /// Life of a login's token in days.
    pub token_days: u32,
    /// False: every account may do everything, as in DC/OS' open edition. True: only what its permissions say.
    pub enforce_permissions: bool,
    /// Lets requests without credentials in everywhere.
    pub open: bool,
    /// Hashes passwords with next to no work. For tests only: no file, variable or flag can set it.
    #[serde(skip)]
    pub weak_hashes: bool,
    /// Where the records are kept: in a file of this machine, or on etcd.
    pub store: StoreSettings,
    /// What is logged.
    pub logging: Logging,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: Instance::default(),
            number: 0,
            state: None,
            run: None,
            name: None,
            address: None,
            masters: Vec::new(),
            listen: None,
            plain: Plain::Loopback,
            addresses: Vec::new(),
            certificate_hours: 24,
            token_days: 5,
            enforce_permissions: false,
            open: false,
            weak_hashes: false,
            store: StoreSettings::default(),
            logging: Logging::default(),
        }
    }
}

impl Settings for Config {
    fn check(&self, problems: &mut Vec<String>) {
        if !(1..=24 * 365).contains(&self.certificate_hours) {
            problems.push("certificate_hours must be between 1 and 8760".to_owned());
        }
        if !(1..=365).contains(&self.token_days) {
            problems.push("token_days must be between 1 and 365".to_owned());
        }
        if self.name.is_some() != self.address.is_some() {
            problems.push(
                "name and address are set both (a master of a fleet) or neither (a single machine)"
                    .to_owned(),
            );
        }
        if self.store.etcd && self.address.is_none() {
            problems.push("store.etcd needs this master's name and address".to_owned());
        }
        if let Some(name) = &self.name
            && PeerName::new("x", "identity", name).is_err()
        {
            problems.push("name must have 1 to 128 of letters, digits and ._-".to_owned());
        }
        problems.extend(self.store.problems());
        let wrong = |name: &&String| name.is_empty() || name.len() > 253 || !name.is_ascii();
        if let Some(name) = self.addresses.iter().find(wrong) {
            problems.push(format!("addresses: \"{name}\" is no DNS name or IP address"));
        }
    }
}

impl Config {
    /// The instance's files and addresses.
    #[must_use]
    pub fn places(&self) -> Places {
        let mut places = Bases::of_this_user().places(self.instance.clone(), self.number);
        if let Some(state) = &self.state {
            places.state.clone_from(state);
        }
        if let Some(run) = &self.run {
            places.run.clone_from(run);
        }
        places
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        let fleet = self.address.map(|address| SocketAddr::new(address, Role::Identity.port()));
        self.listen.or(fleet).unwrap_or_else(|| self.places().address(Role::Identity))
    }

    /// Whether this is a master of a fleet.
    pub(crate) fn is_fleet(&self) -> bool {
        self.address.is_some() && self.name.is_some()
    }

    /// The name of a role of this host in its certificate: the host's in a fleet, the role's own on a single machine.
    pub(crate) fn peer_name(&self, role: Role) -> Result<PeerName, plenum_base::pki::PkiError> {
        let name = self.name.as_deref().filter(|_| self.is_fleet()).unwrap_or(role.as_str());
        PeerName::new(self.instance.as_str(), role.as_str(), name)
    }

    /// The roles of this host that identity issues certificates to by itself.
    pub(crate) fn roles(&self) -> &'static [Role] {
        if self.is_fleet() { &Role::EVERY } else { &Role::ALL }
    }

    pub(crate) fn certificate_life(&self) -> Duration {
        Duration::from_secs(u64::from(self.certificate_hours) * 3600)
    }

    pub(crate) fn token_life(&self) -> Duration {
        Duration::from_secs(u64::from(self.token_days) * 24 * 3600)
    }

    pub(crate) fn hash_cost(&self) -> HashCost {
        if self.weak_hashes { HashCost::Light } else { HashCost::Full }
    }

    /// The names of a role's certificate issued at bootstrap.
    pub(crate) fn sans(&self, role: Role) -> Vec<San> {
        let own = self.address.unwrap_or_else(|| self.places().node());
        let mut sans = vec![San::Ip(own), San::Ip([127, 0, 0, 1].into()), San::Dns("localhost".into())];
        if self.is_fleet() {
            sans.extend(plenum_base::pki::store_names(role));
        }
        sans.extend(self.listen.map(|listen| San::Ip(listen.ip())));
        sans.extend(self.addresses.iter().filter_map(|name| name.parse().ok()));
        sans.sort();
        sans.dedup();
        sans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_has_its_own_names_and_a_single_machine_stays_what_it_was() {
        let single = Config::default();
        let mut problems = Vec::new();
        single.check(&mut problems);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(single.peer_name(Role::Agent).unwrap().to_string(), "plenum://default/agent/agent");
        assert_eq!(single.listen().to_string(), "127.88.0.1:8101");
        assert_eq!((single.roles().len(), single.sans(Role::Master).len()), (8, 3));

        let address = "10.0.0.1".parse().ok();
        let fleet = Config { name: Some("m1".into()), address, ..Config::default() };
        assert_eq!(fleet.peer_name(Role::Etcd).unwrap().to_string(), "plenum://default/etcd/m1");
        assert_eq!(fleet.listen().to_string(), "10.0.0.1:8101");
        let has = |role, name: &str| fleet.sans(role).contains(&San::Dns(name.to_owned()));
        assert!(has(Role::Master, plenum_base::pki::STORE_CLIENT));
        assert!(!has(Role::Agent, plenum_base::pki::STORE_CLIENT));
        assert!(!has(Role::Master, plenum_base::pki::STORE_MEMBER));
        assert!(fleet.sans(Role::Agent).contains(&San::Ip("10.0.0.1".parse().unwrap())));

        let store = StoreSettings { etcd: true, lease_seconds: 0, ..StoreSettings::default() };
        let wrong = Config { name: Some("a/b".into()), address: None, store, ..Config::default() };
        wrong.check(&mut problems);
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
