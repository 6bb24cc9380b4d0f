//! What a spec means on the host, pure: its roles, their sockets and folders, the settings that every role shares.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use plenum_base::component::ComponentSettings;
use plenum_base::places::{AGENTS_DOOR, Places, Role};
use plenum_plan::HostSpec;
use plenum_plan::spec::{EtcdProgram, Kind, Store};

use crate::names::{Names, PROGRAMS, USER};
use crate::units::{self, Socket};

/// etcd's caretaker answers here.
pub const CARETAKER: u16 = 2381;

/// A host as its spec has it.
#[derive(Debug, Clone)]
pub struct Host {
    /// The spec.
    pub spec: HostSpec,
    /// The instance's names.
    pub names: Names,
    /// It began the cluster.
    pub founder: bool,
}

/// A folder with its owner and mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where.
    pub path: PathBuf,
    /// `root` or the system user.
    pub user: &'static str,
    /// Permissions.
    pub mode: u32,
}

/// Where a role of a host without identity keeps the policy: each follows it for itself, as none may write another's files.
#[must_use]
pub fn followed(places: &Places, role: Role) -> PathBuf {
    places.data(role).join("policy.json")
}

/// The one of those that every host without identity has.
#[must_use]
pub fn followed_policy(places: &Places) -> PathBuf {
    followed(places, Role::Discovery)
}

impl Host {
    /// The host of a spec.
    #[must_use]
    pub fn new(spec: HostSpec) -> Self {
        let names = Names::of(&spec.instance);
        Self { spec, names, founder: false }
    }

    /// The instance's places here.
    #[must_use]
    pub fn places(&self) -> Places {
        self.names.places()
    }

    /// Whether it runs the control roles.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.spec.is(Kind::Master)
    }

    /// Whether it runs tasks.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        self.spec.is(Kind::Agent) || self.spec.is(Kind::Public)
    }

    /// Whether it has a member of the cluster's own etcd.
    #[must_use]
    pub fn has_etcd(&self) -> bool {
        self.is_master() && matches!(self.spec.shared.store, Store::Etcd { .. })
    }

    /// Whether its control roles keep their records on an etcd that the operator runs.
    #[must_use]
    pub fn has_external_store(&self) -> bool {
        self.is_master() && matches!(self.spec.shared.store, Store::External { .. })
    }

    /// Where an operator's own etcd has its certificates here: `ca.pem`, `cert.pem` and `key.pem`.
    #[must_use]
    pub fn store_folder(&self) -> PathBuf {
        self.places().state.join("store")
    }

    /// Its roles in the order in which they start.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        if self.has_etcd() {
            roles.push(Role::Etcd);
        }
        for role in Role::ALL {
            let here = match role {
                Role::Agent => self.is_agent(),
                Role::Discovery | Role::Balancer => true,
                _ => self.is_master(),
            };
            if here {
                roles.push(role);
            }
        }
        roles
    }

    /// The masters to start with; a master is one of them itself.
    #[must_use]
    pub fn masters(&self) -> Vec<IpAddr> {
        let mut masters = self.spec.masters.clone();
        if self.is_master() && !masters.contains(&self.spec.address) {
            masters.push(self.spec.address);
        }
        masters
    }

    /// Where a role serves HTTP.
    #[must_use]
    pub fn listen(&self, role: Role) -> SocketAddr {
        let port = if role == Role::Etcd { CARETAKER } else { role.port() };
        SocketAddr::new(self.spec.address, port)
    }

    /// The addresses of DNS: loopback for the host's own containers, and a master's own for others where that is wanted.
    #[must_use]
    pub fn dns(&self) -> Vec<SocketAddr> {
        let mut addresses = vec![SocketAddr::new(self.places().dns().ip(), 53)];
        if self.is_master() && self.spec.shared.dns_on_masters {
            addresses.push(SocketAddr::new(self.spec.address, 53));
        }
        addresses
    }

    /// A role's listening sockets.
    #[must_use]
    pub fn sockets(&self, role: Role) -> Vec<Socket> {
        if role == Role::Etcd {
            // etcd opens its own.
            return Vec::new();
        }
        let tcp = |name, port| Socket {
            name,
            udp: false,
            addresses: vec![SocketAddr::new(self.spec.address, port)],
        };
        let mut sockets = vec![tcp("http", self.listen(role).port())];
        match role {
            Role::Master => sockets.push(tcp("agents", AGENTS_DOOR)),
            Role::Gateway => sockets.push(tcp("https", 443)),
            Role::Discovery => {
                sockets.push(Socket { name: "dns-udp", udp: true, addresses: self.dns() });
                sockets.push(Socket { name: "dns-tcp", udp: false, addresses: self.dns() });
            }
            _ => {}
        }
        sockets
    }

    /// An etcd that was sent along; none: the distribution's.
    #[must_use]
    pub fn etcd_program(&self) -> Option<PathBuf> {
        match self.spec.shared.store {
            Store::Etcd { program: EtcdProgram::Sent(_) } => {
                Some(PathBuf::from(PROGRAMS).join(&self.spec.version).join("etcd"))
            }
            _ => None,
        }
    }

    /// What every role's file begins with.
    #[must_use]
    pub fn component(&self, role: Role) -> ComponentSettings {
        let places = self.places();
        let files = places.identity(role);
        let masters = self.masters();
        let identity = if self.is_master() { Some(self.spec.address) } else { masters.first().copied() };
        let identity = identity.unwrap_or(self.spec.address);
        ComponentSettings {
            instance: self.spec.instance.clone(),
            listen: self.listen(role),
            data: places.data(role),
            ca: self.ca(role),
            certificate: files.cert,
            key: files.key,
            policy: if self.is_master() { places.policy() } else { followed(&places, role) },
            identity: format!("https://{}", SocketAddr::new(identity, Role::Identity.port())),
            follow_policy: !self.is_master(),
            masters,
            ..ComponentSettings::at(&places, role)
        }
    }

    /// The CA as one role knows it: renewal writes it, and a role writes to folders of its own only.
    #[must_use]
    pub fn ca(&self, role: Role) -> PathBuf {
        match role {
            Role::Identity => self.places().ca(),
            role => self.places().pki().join(role.as_str()).join("ca.pem"),
        }
    }

    /// The folders of the instance, parents first. Parents can be passed through, since tasks of other users live below the agent's;
    /// what they hold is private.
    #[must_use]
    pub fn folders(&self) -> Vec<Folder> {
        let places = self.places();
        let folder = |path: PathBuf, user, mode| Folder { path, user, mode };
        let parent = |path: &std::path::Path| path.parent().map(PathBuf::from).unwrap_or_default();
        let mut folders = vec![
            folder(parent(&places.state), "root", 0o711),
            folder(places.state.clone(), "root", 0o711),
            folder(places.state.join("config"), USER, 0o700),
            folder(places.state.join("log"), USER, 0o700),
            folder(places.pki(), USER, 0o700),
            folder(parent(&places.run), "root", 0o711),
            folder(places.run.clone(), "root", 0o711),
        ];
        if self.is_master() {
            folders.push(folder(places.state.join("policy"), USER, 0o700));
        }
        if self.has_external_store() {
            folders.push(folder(self.store_folder(), USER, 0o700));
        }
        for role in self.roles() {
            let mode = if role == Role::Agent { 0o711 } else { 0o700 };
            folders.push(folder(places.data(role), units::user(role), mode));
            folders.push(folder(places.pki().join(role.as_str()), units::user(role), 0o700));
            for path in units::writes(&self.names, role) {
                if !folders.iter().any(|there| there.path == path) {
                    folders.push(folder(path, units::user(role), 0o700));
                }
            }
        }
        folders
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use plenum_plan::spec::Shared;

    pub fn spec(kinds: &[Kind]) -> HostSpec {
        HostSpec {
            format: plenum_plan::spec::FORMAT,
            instance: plenum_base::places::Instance::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: "m1".to_owned(),
            address: "10.0.0.1".parse().unwrap(),
            kinds: kinds.to_vec(),
            masters: vec!["10.0.0.9".parse().unwrap()],
            region: None,
            zone: None,
            attributes: Default::default(),
            resources: None,
            settings: Default::default(),
            shared: Shared {
                virtual_range: "11.0.0.0/16".to_owned(),
                domain: "mesos".to_owned(),
                resolvers: Vec::new(),
                dns_on_masters: true,
                overlay_range: None,
                overlay_range6: None,
                store: Store::Etcd { program: EtcdProgram::Package },
                attributes: Default::default(),
                settings: Default::default(),
            },
        }
    }

    #[test]
    fn kinds_decide_about_roles_and_where_the_policy_comes_from() {
        let words = |host: &Host| host.roles().iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" ");
        let master = Host::new(spec(&[Kind::Master]));
        assert_eq!(words(&master), "etcd identity master services discovery balancer catalog gateway");
        let agent = Host::new(spec(&[Kind::Public]));
        assert_eq!(words(&agent), "agent discovery balancer");
        assert!(Host::new(spec(&[Kind::Master, Kind::Agent])).roles().contains(&Role::Agent));
        assert_eq!(master.masters().len(), 2, "itself too");
        let settings = agent.component(Role::Balancer);
        assert!(settings.follow_policy && settings.policy.ends_with("balancer/policy.json"));
        assert_eq!(settings.identity, "https://10.0.0.9:8101");
        assert!(!master.component(Role::Balancer).follow_policy);
        assert_eq!(master.component(Role::Etcd).listen.port(), CARETAKER);
        assert_eq!(master.dns().len(), 2);
        assert_eq!(agent.dns().len(), 1);
    }

    #[test]
    fn an_etcd_of_the_operators_has_no_member_here() {
        let mut spec = spec(&[Kind::Master]);
        let endpoints = vec!["https://10.0.0.8:2379".to_owned()];
        spec.shared.store = Store::External { endpoints, ca: "CA".to_owned(), certificate: String::new() };
        let host = Host::new(spec.clone());
        assert!(host.has_external_store() && !host.has_etcd() && !host.roles().contains(&Role::Etcd));
        let keeps = |host: &Host| host.folders().iter().any(|folder| folder.path == host.store_folder());
        assert!(keeps(&host));
        spec.kinds = vec![Kind::Agent];
        assert!(!keeps(&Host::new(spec)), "an agent has no business with the store");
    }

    #[test]
    fn what_tasks_pass_through_can_be_passed_and_no_more() {
        let host = Host::new(spec(&[Kind::Master, Kind::Agent]));
        for folder in host.folders() {
            let way = ["/var/lib/plenum", "/var/lib/plenum/default", "/var/lib/plenum/default/agent"];
            let run = ["/run/plenum", "/run/plenum/default"];
            let path = folder.path.to_str().unwrap();
            let open = way.contains(&path) || run.contains(&path);
            assert_eq!(folder.mode, if open { 0o711 } else { 0o700 }, "{path}");
        }
    }
}
