//! Where an instance keeps its files and at which addresses its roles are found (`docs/adr/0006`). Nothing else may invent a path or a port.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::files;

/// The port of a master's door for agents.
pub const AGENTS_DOOR: u16 = 5055;

/// One kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Users, tokens, certificates.
    Identity,
    /// Resource manager.
    Master,
    /// Node agent.
    Agent,
    /// Long-running services and jobs.
    Services,
    /// DNS and cluster state.
    Discovery,
    /// Virtual addresses.
    Balancer,
    /// Packages.
    Catalog,
    /// The front door.
    Gateway,
    /// The cluster's store, on the masters of a fleet only.
    Etcd,
}

impl Role {
    /// The roles of a single machine, in the order in which they start.
    pub const ALL: [Self; 8] = [
        Self::Identity,
        Self::Master,
        Self::Agent,
        Self::Services,
        Self::Discovery,
        Self::Balancer,
        Self::Catalog,
        Self::Gateway,
    ];

    /// Every role of a fleet, in the order in which they start.
    pub const EVERY: [Self; 9] = [
        Self::Etcd,
        Self::Identity,
        Self::Master,
        Self::Agent,
        Self::Services,
        Self::Discovery,
        Self::Balancer,
        Self::Catalog,
        Self::Gateway,
    ];

    /// The port on which it serves HTTP (the gateway as root: plain 80, with TLS 443; etcd: its clients').
    #[must_use]
    pub fn port(self) -> u16 {
        match self {
            Self::Identity => 8101,
            Self::Master => 5050,
            Self::Agent => 5051,
            Self::Services => 8080,
            Self::Discovery => 8123,
            // Not a port of DC/OS: the balancer only answers its own node's diagnostics.
            Self::Balancer => 8124,
            Self::Catalog => 7070,
            Self::Gateway => 80,
            Self::Etcd => 2379,
        }
    }

    /// The word used on the command line, in paths and in certificates.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Master => "master",
            Self::Agent => "agent",
            Self::Services => "services",
            Self::Discovery => "discovery",
            Self::Balancer => "balancer",
            Self::Catalog => "catalog",
            Self::Gateway => "gateway",
            Self::Etcd => "etcd",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        Self::EVERY
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| PlaceError::Role(text.to_owned()))
    }
}

/// The name of an instance: 1 to 32 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Instance(String);

impl Instance {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Instance {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(valid) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PlaceError::Instance(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Instance {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        text.parse()
    }
}

impl From<Instance> for String {
    fn from(instance: Instance) -> Self {
        instance.0
    }
}

/// Why a place cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The instance's name breaks the rule.
    #[error("\"{0}\" is no instance name: use 1 to 32 of a-z, 0-9 and -")]
    Instance(String),
    /// No role of that name.
    #[error("\"{0}\" is no role")]
    Role(String),
    /// All numbers are taken.
    #[error("256 instances exist already; remove one")]
    TooMany,
    /// The table of instances cannot be read or written.
    #[error("the table of instances {path}: {reason}")]
    Table {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The folders of all instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bases {
    /// Holds one folder of state an instance.
    pub state: PathBuf,
    /// Holds one runtime folder an instance.
    pub run: PathBuf,
    /// Whether the process may use privileged ports.
    pub root: bool,
}

impl Bases {
    /// The bases for this user, from the environment (`XDG_STATE_HOME`, `XDG_RUNTIME_DIR`, `HOME`).
    /// `PLENUM_STATE_BASE` and `PLENUM_RUN_BASE` move them, for tests and for odd machines.
    #[must_use]
    pub fn of_this_user() -> Self {
        let env = |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
        Self::choose(nix::unistd::geteuid().as_raw(), &env)
    }

    fn choose(uid: u32, env: &dyn Fn(&str) -> Option<PathBuf>) -> Self {
        let root = uid == 0;
        let absolute = |key: &str| env(key).filter(|path| path.is_absolute());
        let (state, run) = if root {
            (PathBuf::from("/var/lib/plenum"), PathBuf::from("/run/plenum"))
        } else {
            let home = || absolute("HOME").unwrap_or_else(|| PathBuf::from(format!("/tmp/plenum-{uid}")));
            let state = absolute("XDG_STATE_HOME").unwrap_or_else(|| home().join(".local/state"));
            let run = absolute("XDG_RUNTIME_DIR")
                .unwrap_or_else(|| PathBuf::from(format!("/tmp/plenum-{uid}-run")));
            (state.join("plenum"), run.join("plenum"))
        };
        Self {
            state: absolute("PLENUM_STATE_BASE").unwrap_or(state),
            run: absolute("PLENUM_RUN_BASE").unwrap_or(run),
            root,
        }
    }

    /// The places of `instance`, giving it the lowest free number if it has none yet (`default` always has 0).
    /// The table is `instances.json` in the state base; a lock file beside it keeps two callers apart.
    ///
    /// # Errors
    /// [`PlaceError::TooMany`], [`PlaceError::Table`].
    pub fn open(&self, instance: &Instance) -> Result<Places, PlaceError> {
        let number = self.change_table(|table| match table.get(instance) {
            Some(number) => Ok((*number, false)),
            None => {
                let number = free_number(table, instance).ok_or(PlaceError::TooMany)?;
                table.insert(instance.clone(), number);
                Ok((number, true))
            }
        })?;
        Ok(self.places(instance.clone(), number))
    }

    /// The places of `instance` if it has a number; gives it none.
    ///
    /// # Errors
    /// [`PlaceError::Table`].
    pub fn find(&self, instance: &Instance) -> Result<Option<Places>, PlaceError> {
        let mut known = self.instances()?.into_iter();
        let found = known.find(|(known, _)| known == instance);
        Ok(found.map(|(instance, number)| self.places(instance, number)))
    }

    /// Frees the number of an instance that is gone. One that has none is no error.
    ///
    /// # Errors
    /// [`PlaceError::Table`].
    pub fn forget(&self, instance: &Instance) -> Result<(), PlaceError> {
        self.change_table(|table| Ok(((), table.remove(instance).is_some())))
    }

    /// Reads the table under its lock, and writes it where `change` says that it changed.
    fn change_table<T>(
        &self,
        change: impl FnOnce(&mut Table) -> Result<(T, bool), PlaceError>,
    ) -> Result<T, PlaceError> {
        let path = self.state.join("instances.json");
        let fail = |reason: String| PlaceError::Table { path: path.clone(), reason };
        files::private_dir(&self.state).map_err(|e| fail(e.to_string()))?;
        let lock = fs::File::create(self.state.join("instances.lock")).map_err(|e| fail(e.to_string()))?;
        lock.lock().map_err(|e| fail(e.to_string()))?;
        let mut table = read_table(&path).map_err(&fail)?;
        let (value, changed) = change(&mut table)?;
        if changed {
            let text = serde_json::to_vec_pretty(&table).map_err(|e| fail(e.to_string()))?;
            files::replace(&path, &text, 0o644).map_err(|e| fail(e.to_string()))?;
        }
        Ok(value)
    }

    /// The places of `instance` under these bases with a number that is already known.
    #[must_use]
    pub fn places(&self, instance: Instance, number: u8) -> Places {
        Places {
            state: self.state.join(instance.as_str()),
            run: self.run.join(instance.as_str()),
            instance,
            number,
            root: self.root,
        }
    }

    /// Every recorded instance and its number.
    ///
    /// # Errors
    /// [`PlaceError::Table`].
    pub fn instances(&self) -> Result<Vec<(Instance, u8)>, PlaceError> {
        let path = self.state.join("instances.json");
        let table = read_table(&path).map_err(|reason| PlaceError::Table { path, reason })?;
        Ok(table.into_iter().collect())
    }
}

type Table = std::collections::BTreeMap<Instance, u8>;

fn read_table(path: &Path) -> Result<Table, String> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Table::new()),
        Err(error) => Err(error.to_string()),
    }
}

/// Lets every user pass through a folder, and nobody else than its owner see what is in it.
fn passable(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let meta = fs::metadata(folder)?;
    // One that is another's, or open already, is as somebody wanted it.
    if meta.uid() != nix::unistd::geteuid().as_raw() || meta.permissions().mode() & 0o077 != 0 {
        return Ok(());
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711))
}

fn free_number(table: &Table, instance: &Instance) -> Option<u8> {
    if *instance == Instance::default() {
        return Some(0);
    }
    (1..=u8::MAX).find(|number| table.values().all(|taken| taken != number))
}

/// The files and addresses of one instance on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The instance's name.
    pub instance: Instance,
    /// Its number K, 0 for `default`.
    pub number: u8,
    /// The state folder.
    pub state: PathBuf,
    /// The runtime folder: sockets and what does not outlive a reboot.
    pub run: PathBuf,
    /// Whether privileged ports are used.
    pub root: bool,
}

impl Places {
    /// The places of an instance whose number is known, for this user.
    #[must_use]
    pub fn of(instance: Instance, number: u8) -> Self {
        Bases::of_this_user().places(instance, number)
    }

    /// Creates the state and runtime folders. What they hold is private (0700); as root the folders on the way to sandboxes can be passed
    /// through (0711), since tasks of other users live in there.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create(&self) -> io::Result<()> {
        for folder in
            [self.pki(), self.state.join("policy"), self.state.join("config"), self.state.join("log")]
        {
            files::private_dir(&folder)?;
        }
        if self.root {
            for folder in self.state.parent().into_iter().chain([self.state.as_path()]) {
                passable(folder)?;
            }
        }
        files::private_dir(&self.run)
    }

    /// Creates the roles' own folders, private to them; the agent's can be passed through as root.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn create_data(&self) -> io::Result<()> {
        for role in Role::ALL {
            files::private_dir(&self.data(role))?;
        }
        if self.root { passable(&self.data(Role::Agent)) } else { Ok(()) }
    }

    /// The folder of certificates.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// The cluster CA's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.pki().join("ca.pem")
    }

    /// The certificate, key and CA of a role.
    #[must_use]
    pub fn identity(&self, role: Role) -> crate::tls::IdentityFiles {
        let folder = self.pki().join(role.as_str());
        crate::tls::IdentityFiles {
            ca: self.ca(),
            cert: folder.join("cert.pem"),
            key: folder.join("key.pem"),
        }
    }

    /// The key with which identity seals what is secret in its store; on masters only.
    #[must_use]
    pub fn vault_key(&self) -> PathBuf {
        self.data(Role::Identity).join("master.key")
    }

    /// The signed policy snapshot.
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.state.join("policy/policy.json")
    }

    /// A role's configuration.
    #[must_use]
    pub fn config(&self, role: Role) -> PathBuf {
        self.state.join("config").join(format!("{role}.toml"))
    }

    /// A role's log.
    #[must_use]
    pub fn log(&self, role: Role) -> PathBuf {
        self.state.join("log").join(format!("{role}.log"))
    }

    /// A role's own data.
    #[must_use]
    pub fn data(&self, role: Role) -> PathBuf {
        self.state.join(role.as_str())
    }

    /// A role's embedded store.
    #[must_use]
    pub fn store(&self, role: Role) -> PathBuf {
        self.data(role).join("store.redb")
    }

    /// The node's address on a single machine: 127.88.K.1.
    #[must_use]
    pub fn node(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, 88, self.number, 1))
    }

    /// Where a role serves HTTP on a single machine. The gateway without root is on 8081.
    #[must_use]
    pub fn address(&self, role: Role) -> SocketAddr {
        let port = match role {
            Role::Gateway if !self.root => 8081,
            _ => role.port(),
        };
        SocketAddr::new(self.node(), port)
    }

    /// The gateway's TLS port: 443, without root 8443.
    #[must_use]
    pub fn gateway_tls(&self) -> SocketAddr {
        SocketAddr::new(self.node(), if self.root { 443 } else { 8443 })
    }

    /// The master's door for agents.
    #[must_use]
    pub fn agents_door(&self) -> SocketAddr {
        SocketAddr::new(self.node(), AGENTS_DOOR)
    }

    /// The DNS server: 127.88.K.53, port 53 (1053 without root).
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        let address = Ipv4Addr::new(127, 88, self.number, 53);
        SocketAddr::new(IpAddr::V4(address), if self.root { 53 } else { 1053 })
    }

    /// The range of virtual addresses, 11.K.0.0 with 16 fixed bits.
    #[must_use]
    pub fn virtual_range(&self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::new(11, self.number, 0, 0), 16)
    }

    /// The instance's nftables table; a dash becomes an underscore, as nft's names want.
    #[must_use]
    pub fn nft_table(&self) -> String {
        format!("plenum_{}", self.instance.as_str().replace('-', "_"))
    }

    /// The instance's control group.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("plenum-{}", self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["default", "a", "ab-9", &"x".repeat(32)] {
            assert_eq!(good.parse::<Instance>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "a/b", "..", "a_b", "ä", "a b", &"x".repeat(33)] {
            assert!(bad.parse::<Instance>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bases_follow_the_user() {
        let none = |_: &str| None;
        let root = Bases::choose(0, &none);
        assert_eq!((root.state, root.run, root.root), ("/var/lib/plenum".into(), "/run/plenum".into(), true));
        let user = Bases::choose(5, &|key| match key {
            "HOME" => Some("/home/u".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/5".into()),
            "XDG_STATE_HOME" => Some("relative".into()),
            _ => None,
        });
        assert_eq!(user.state, PathBuf::from("/home/u/.local/state/plenum"));
        assert_eq!(user.run, PathBuf::from("/run/user/5/plenum"));
        assert!(!user.root);
    }

    #[test]
    fn numbers_are_stable_and_lowest_first() {
        let dir = tempfile::tempdir().unwrap();
        let bases = Bases { state: dir.path().join("s"), run: dir.path().join("r"), root: false };
        let open = |name: &str| bases.open(&name.parse().unwrap()).unwrap();
        assert_eq!(open("b").number, 1);
        assert_eq!(open("default").number, 0);
        assert_eq!(open("c").number, 2);
        assert_eq!(open("b").number, 1);
        let find = |name: &str| bases.find(&name.parse().unwrap()).unwrap().map(|places| places.number);
        assert_eq!((find("c"), find("nobody")), (Some(2), None));
        bases.forget(&"b".parse().unwrap()).unwrap();
        assert_eq!((find("b"), open("d").number, find("c")), (None, 1, Some(2)));
        assert_eq!(bases.instances().unwrap().len(), 3);
        fs::write(bases.state.join("instances.json"), "{").unwrap();
        assert!(matches!(bases.open(&"b".parse().unwrap()), Err(PlaceError::Table { .. })));
    }

    #[test]
    fn addresses_follow_the_number() {
        let bases = Bases { state: "/s".into(), run: "/r".into(), root: false };
        let places = bases.places("my-lab".parse().unwrap(), 3);
        assert_eq!(places.address(Role::Master).to_string(), "127.88.3.1:5050");
        assert_eq!(places.address(Role::Gateway).to_string(), "127.88.3.1:8081");
        assert_eq!(places.dns().to_string(), "127.88.3.53:1053");
        assert_eq!(places.virtual_range().0.to_string(), "11.3.0.0");
        assert_eq!(places.nft_table(), "plenum_my_lab");
        assert_eq!(places.identity(Role::Agent).cert, PathBuf::from("/s/my-lab/pki/agent/cert.pem"));
        let root = Bases { root: true, ..bases }.places(Instance::default(), 0);
        assert_eq!(root.address(Role::Gateway).to_string(), "127.88.0.1:80");
        assert_eq!(root.dns().port(), 53);
    }
}
