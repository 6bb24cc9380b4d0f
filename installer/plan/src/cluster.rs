//! `cluster.yaml` as types, every setting with its default. Reading it with all errors at once is [`crate::schema`]'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use plenum_base::places::Instance;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::spec::Kind;

/// What a cluster is to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// The cluster's name: of state folders, units and the laptop's context.
    pub name: Instance,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// How hosts are reached.
    pub ssh: Ssh,
    /// Where state is kept.
    pub store: StoreWish,
    /// Names and addresses.
    pub networks: Networks,
    /// What agents have that say nothing else.
    pub agents: Agents,
    /// Overrides of roles' settings on every host: role, name with dots, value.
    pub settings: BTreeMap<String, BTreeMap<String, Value>>,
    /// Weights of roles, as numbers in text.
    pub weights: BTreeMap<String, String>,
    /// The first account.
    pub admin: Admin,
    /// How the installer works.
    pub limits: Limits,
}

impl Cluster {
    /// The masters, in the order of the file: the first makes the cluster.
    pub fn masters(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.is(Kind::Master))
    }

    /// The host of that name or address.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name || host.address.to_string() == name)
    }
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name in the cluster; by default its address with dashes.
    pub name: String,
    /// The address at which all other hosts reach it.
    pub address: IpAddr,
    /// What it is for.
    pub roles: Vec<Kind>,
    /// How it is reached, where that differs.
    #[serde(default, skip_serializing_if = "SshOverride::is_empty")]
    pub ssh: SshOverride,
    /// Fault domain.
    #[serde(default)]
    pub region: Option<String>,
    /// Zone in the region.
    #[serde(default)]
    pub zone: Option<String>,
    /// Attributes of its agent.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Resources of its agent, as Mesos writes them.
    #[serde(default)]
    pub resources: Option<String>,
    /// Overrides of its roles' settings.
    #[serde(default)]
    pub settings: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Host {
    /// Whether it is of that kind.
    #[must_use]
    pub fn is(&self, kind: Kind) -> bool {
        self.roles.contains(&kind)
    }

    /// Its kinds, sorted, none twice.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| self.is(*kind)).collect()
    }
}

/// How sudo is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sudo {
    /// Not at all as root; else without a password if that works, else with one.
    #[default]
    Auto,
    /// With a password.
    Password,
    /// Never: the user is root.
    None,
}

/// How hosts are reached over SSH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ssh {
    /// User name.
    pub user: String,
    /// Port.
    pub port: u16,
    /// Key files; none: the agent's, then `~/.ssh/id_ed25519`, `id_ecdsa` and `id_rsa`.
    pub key: Vec<String>,
    /// Whether the agent at `SSH_AUTH_SOCK` is asked.
    pub agent: bool,
    /// Where the password comes from: `none`, `prompt` or `env:NAME`.
    pub password: String,
    /// A host in between: `user@host:port`. Several, with commas: one behind the other.
    pub jump: Option<String>,
    /// sudo.
    pub sudo: Sudo,
    /// Where sudo's password comes from: `same` (as the login's), `prompt` or `env:NAME`.
    pub sudo_password: String,
    /// `strict`, `accept-new`, or the path of a file that is used strictly.
    pub known_hosts: String,
    /// Folder on the hosts that the program is sent to; programs must be allowed to run there.
    pub folder: String,
}

impl Default for Ssh {
    fn default() -> Self {
        Self {
            user: "root".to_owned(),
            port: 22,
            key: Vec::new(),
            agent: true,
            password: "none".to_owned(),
            jump: None,
            sudo: Sudo::Auto,
            sudo_password: "same".to_owned(),
            known_hosts: "strict".to_owned(),
            folder: "/var/tmp".to_owned(),
        }
    }
}

/// What differs for one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SshOverride {
    /// Address or name for SSH, where it is not the host's address in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// User name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Key files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// A host in between; `none` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<String>,
    /// sudo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sudo: Option<Sudo>,
}

impl SshOverride {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which kind of store is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// Embedded for one master, etcd for more.
    #[default]
    Auto,
    /// In each role's file.
    Embedded,
    /// On etcd.
    Etcd,
}

/// Where state is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreWish {
    /// Which kind.
    pub kind: StoreKind,
    /// Path here of an etcd program to send along; none: the hosts have the distribution's package.
    pub binary: Option<String>,
    /// Client URLs of an etcd that somebody else runs.
    pub endpoints: Vec<String>,
    /// Path here: its authority (PEM).
    pub ca: Option<String>,
    /// Path here: our certificate there.
    pub certificate: Option<String>,
    /// Path here: its key.
    pub key: Option<String>,
}

/// Names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Networks {
    /// Virtual addresses.
    pub virtual_range: String,
    /// Domain of tasks' names.
    pub domain: String,
    /// Whether masters answer DNS on their own address.
    pub dns_on_masters: bool,
    /// Name servers for all other names; none: each host's own.
    pub resolvers: Vec<String>,
    /// Whether there is a network between containers of all hosts.
    pub overlay: bool,
    /// Its range; each host has a part of it.
    pub overlay_range: String,
    /// Its IPv6 range; none: no IPv6.
    pub overlay_range6: Option<String>,
}

impl Default for Networks {
    fn default() -> Self {
        Self {
            virtual_range: "11.0.0.0/16".to_owned(),
            domain: "mesos".to_owned(),
            dns_on_masters: true,
            resolvers: Vec::new(),
            overlay: true,
            overlay_range: "9.0.0.0/8".to_owned(),
            overlay_range6: None,
        }
    }
}

/// What agents have that say nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agents {
    /// Attributes.
    pub attributes: BTreeMap<String, String>,
    /// Resources, as Mesos writes them; none: what the machine has.
    pub resources: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Zone.
    pub zone: Option<String>,
}

/// The first account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Its name.
    pub user: String,
    /// Where its password comes from: `generate`, `prompt` or `env:NAME`.
    pub password: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { user: "admin".to_owned(), password: "generate".to_owned() }
    }
}

/// How the installer works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Hosts worked on at the same time.
    pub parallel: u16,
    /// Seconds until an SSH connection must stand.
    pub connect_seconds: u16,
    /// Seconds that one host may take to be made.
    pub host_seconds: u16,
    /// Seconds until the whole must be healthy at the end.
    pub healthy_seconds: u16,
    /// MiB of memory that a master must have.
    pub master_memory_mib: u32,
    /// MiB of memory that an agent must have.
    pub agent_memory_mib: u32,
    /// MiB that must be free below the state folder.
    pub disk_free_mib: u32,
    /// Milliseconds by which clocks may differ.
    pub clock_skew_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            parallel: 16,
            connect_seconds: 15,
            host_seconds: 300,
            healthy_seconds: 180,
            master_memory_mib: 1024,
            agent_memory_mib: 512,
            disk_free_mib: 2048,
            clock_skew_ms: 500,
        }
    }
}
