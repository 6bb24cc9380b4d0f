//! The settings of the role `etcd`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use plenum_base::component::ComponentSettings;
use plenum_base::config::Settings;
use plenum_base::places::{Instance, Places, Role};
use serde::{Deserialize, Serialize};

/// The port on which the caretaker tells how the member is.
pub const CARETAKER: u16 = 2381;
/// The port for the other members.
pub const PEERS: u16 = 2380;

/// Settings of a member. Every one has a default but the host's name and address.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has. `listen` is where the status is served (port 2381), `data` the member's folder, `masters` whom to ask to be let in.
    pub component: ComponentSettings,
    /// The member's name: the host's, as in the cluster's map.
    pub name: String,
    /// The host's address, where clients (2379) and members (2380) reach it.
    pub address: IpAddr,
    /// Whether this is the first member, which begins a new cluster if it has no data and no other master is known.
    pub bootstrap: bool,
    /// The program; a bare name is looked up in `PATH`, then in `/usr/bin`.
    pub program: PathBuf,
    /// Milliseconds between heartbeats of etcd's leader.
    pub heartbeat_milliseconds: u32,
    /// Milliseconds without a heartbeat after which another leader is elected.
    pub election_milliseconds: u32,
    /// How many mebibytes the data may take; beyond that etcd refuses writes and raises an alarm.
    pub quota_mebibytes: u32,
    /// For how many minutes changes are kept, for those who follow them.
    pub history_minutes: u32,
    /// A learner that was not seen for so many minutes is removed: a host that died while it joined must not keep others out.
    pub stale_learner_minutes: u32,
}

impl Config {
    /// The settings of the member of a host: its name as in its certificates, its address, the masters to ask.
    #[must_use]
    pub fn at(places: &Places, name: &str, address: IpAddr, masters: Vec<IpAddr>, bootstrap: bool) -> Self {
        let mut component = ComponentSettings::at(places, Role::Etcd);
        component.listen = SocketAddr::new(address, CARETAKER);
        component.masters = masters;
        Self {
            component,
            name: name.to_owned(),
            address,
            bootstrap,
            program: PathBuf::from("etcd"),
            heartbeat_milliseconds: 100,
            election_milliseconds: 500,
            quota_mebibytes: 2048,
            history_minutes: 10,
            stale_learner_minutes: 10,
        }
    }

    pub(crate) fn client_url(&self) -> String {
        client_url(self.address)
    }

    pub(crate) fn peer_url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.address, PEERS))
    }

    /// The program's path.
    pub(crate) fn program(&self) -> PathBuf {
        if self.program.components().count() > 1 {
            return self.program.clone();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = std::env::split_paths(&path).collect::<Vec<_>>();
        folders.push(PathBuf::from("/usr/bin"));
        let found = folders.into_iter().map(|folder| folder.join(&self.program)).find(|file| file.is_file());
        found.unwrap_or_else(|| self.program.clone())
    }

    pub(crate) fn quota_bytes(&self) -> u64 {
        u64::from(self.quota_mebibytes) * 1024 * 1024
    }
}

/// Where clients reach the member of a master.
pub(crate) fn client_url(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, Role::Etcd.port()))
}

impl Default for Config {
    fn default() -> Self {
        let places = Places::of(Instance::default(), 0);
        Self::at(&places, "", places.node(), Vec::new(), false)
    }
}

impl Settings for Config {
    fn check(&self, problems: &mut Vec<String>) {
        if self.name.is_empty() || self.name.contains(['=', ',']) {
            problems.push("name is the host's name, without = and comma".to_owned());
        }
        if self.heartbeat_milliseconds < 10 || self.election_milliseconds < self.heartbeat_milliseconds * 5 {
            problems.push(
                "heartbeat_milliseconds is at least 10 and election_milliseconds at least five times as much"
                    .to_owned(),
            );
        }
        if self.election_milliseconds > 50_000 {
            problems.push("election_milliseconds is at most 50000".to_owned());
        }
        if !(2..=8192).contains(&self.quota_mebibytes) {
            problems.push("quota_mebibytes must be between 2 and 8192".to_owned());
        }
        if self.history_minutes == 0 || self.stale_learner_minutes == 0 {
            problems.push("history_minutes and stale_learner_minutes are at least 1".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_need_a_name_and_nothing_else() {
        let check = |config: &Config| {
            let mut problems = Vec::new();
            config.check(&mut problems);
            problems
        };
        assert_eq!(check(&Config::default()).len(), 1);
        let good = Config { name: "m1".to_owned(), ..Config::default() };
        assert_eq!(check(&good), Vec::<String>::new());
        let bad = Config {
            heartbeat_milliseconds: 400,
            quota_mebibytes: 1,
            history_minutes: 0,
            ..Config::default()
        };
        assert_eq!(check(&bad).len(), 4);
        assert!(good.program().is_absolute(), "{:?}", good.program());
    }
}
