//! What one host is told to be: [`HostSpec`], how it gets in ([`Apply`], with the secrets that must not be kept), and the lines by which
//! `plenum host apply` reports ([`Event`]). These are the interface between the installer's two halves; JSON in both directions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use plenum_base::places::Instance;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The form of [`HostSpec`] that this release writes. A host refuses a newer one.
pub const FORMAT: u32 = 1;

/// What a host is for. A host may be master and agent, or master and public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Runs the control roles.
    Master,
    /// Runs tasks.
    Agent,
    /// Runs tasks that face the outside: its resources have the role `slave_public`.
    Public,
}

impl Kind {
    /// Every kind, in the order in which hosts come in.
    pub const ALL: [Self; 3] = [Self::Master, Self::Agent, Self::Public];

    /// The word in files and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Agent => "agent",
            Self::Public => "public",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("\"{text}\" is no role of a host: use master, agent or public"))
    }
}

/// Where the cluster's state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Store {
    /// In each control role's own file: one master only.
    Embedded,
    /// On etcd, one member a master, with certificates of the cluster's own authority.
    Etcd {
        /// Where the program comes from.
        program: EtcdProgram,
    },
    /// On an etcd that somebody else runs.
    External {
        /// Its client URLs.
        endpoints: Vec<String>,
        /// PEM: the authority of its certificates; empty where it is spoken to without TLS.
        ca: String,
        /// PEM: our certificate there; empty where it asks for none. Its key is in [`Secrets::store_key`].
        certificate: String,
    },
}

/// Where the program `etcd` comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EtcdProgram {
    /// The host has it: the distribution's package. Its own service is stopped and disabled.
    Package,
    /// It is sent along: SHA-256 in hexadecimal. Where it lies is told in [`Apply::etcd`].
    Sent(String),
}

/// What every host of a cluster must agree on: the settings that identity gives to a host that joins (`/internal/v1/settings`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Virtual addresses are from this range, `11.0.0.0/16`. Never changes in the life of a cluster.
    pub virtual_range: String,
    /// The second-level domain of names of tasks, `mesos`.
    pub domain: String,
    /// Name servers that are asked for all other names; empty: those of each host.
    pub resolvers: Vec<String>,
    /// Whether masters answer DNS on their own address too, not only on each host's loopback.
    pub dns_on_masters: bool,
    /// The range of the network between containers of all hosts; none: there is no such network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_range: Option<String>,
    /// Its IPv6 range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_range6: Option<String>,
    /// Where state is kept.
    pub store: Store,
    /// Attributes of agents that say nothing else.
    pub attributes: BTreeMap<String, String>,
    /// Overrides of roles' settings on every host: role, then the setting's name with dots, then its value.
    pub settings: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
}

/// What a host is to be. The same wishes give the same bytes, so [`HostSpec::digest`] tells whether a host is up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// [`FORMAT`] of the release that wrote it.
    pub format: u32,
    /// The cluster's name; also of the state folder, the units and the control groups.
    pub instance: Instance,
    /// The release that the host is to run: that of the program that applies the spec.
    pub version: String,
    /// The host's name in the cluster, unique there.
    pub name: String,
    /// The address at which every other host reaches it.
    pub address: IpAddr,
    /// What it is for: sorted, no kind twice, not empty.
    pub kinds: Vec<Kind>,
    /// The masters' addresses to start with; once in, a host follows the cluster's map. That they alone changed needs no restart.
    pub masters: Vec<IpAddr>,
    /// Fault domain.
    pub region: Option<String>,
    /// Zone in the region.
    pub zone: Option<String>,
    /// Attributes of the agent, over [`Shared::attributes`].
    pub attributes: BTreeMap<String, String>,
    /// Resources that the agent offers, as Mesos writes them (`cpus:4;mem:2048`); none: what the machine has.
    pub resources: Option<String>,
    /// Overrides of this host's roles, over [`Shared::settings`].
    pub settings: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    /// What all hosts agree on.
    pub shared: Shared,
}

impl HostSpec {
    /// Whether the host is of that kind.
    #[must_use]
    pub fn is(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// SHA-256 of the spec's bytes, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        // Neither a map with odd keys nor a failing Serialize is in there.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        hex(&Sha256::digest(&bytes))
    }
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How a host comes into its cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "lowercase")]
pub enum Entry {
    /// It is the first: makes the authority, the first account and the store. Where that has been done already, nothing is done.
    Bootstrap {
        /// Name of the first account.
        user: String,
        /// Its password.
        password: String,
    },
    /// It asks masters for its certificates. Where it has them already, nothing is done.
    Join {
        /// Masters to ask, tried in turn.
        at: Vec<IpAddr>,
        /// A join token for every kind of the host: `plenum1.<id>.<secret>.<fingerprint>`.
        token: String,
    },
    /// It is in already; if it is not, `apply` fails without changing anything.
    Member,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bootstrap { user, .. } => write!(f, "Bootstrap({user})"),
            Self::Join { at, .. } => write!(f, "Join({at:?})"),
            Self::Member => f.write_str("Member"),
        }
    }
}

/// Secrets that `apply` needs beside the way in.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// PEM: the key of [`Store::External`]'s certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_key: Option<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

/// The standard input of `plenum host apply`: one JSON document.
///
/// `apply` copies the program that it runs from, and what is sent along, to `/opt/plenum/<version>/`, and does the rest from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// What the host is to be.
    pub spec: HostSpec,
    /// How it comes in.
    pub entry: Entry,
    /// Where the etcd that was sent along lies, if [`EtcdProgram::Sent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<String>,
    /// Other secrets.
    #[serde(default)]
    pub secrets: Secrets,
}

/// One line of the standard output of `plenum host apply` and `plenum host remove`: JSON, tagged by `event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// Something begins; for the line of progress.
    Step {
        /// What, without a full stop: "starting the control roles".
        what: String,
    },
    /// Something on the host was made, changed, started or removed.
    Changed {
        /// `file`, `folder`, `user`, `unit`, `link`, `store`, `certificate`, `sysctl`…
        kind: String,
        /// Its path or name.
        name: String,
    },
    /// Something worth knowing; nothing failed.
    Note {
        /// A sentence.
        text: String,
    },
    /// The last line: all is as the spec says, and every unit that was started is ready.
    Done {
        /// How many [`Event::Changed`] there were.
        changed: u32,
        /// PEM: the cluster's CA certificate.
        ca: String,
        /// [`HostSpec::digest`] of what is there now; empty after `remove`.
        digest: String,
    },
    /// The last line instead of [`Event::Done`]: it went wrong, and may be tried again.
    Failed {
        /// A stable word: `bootstrap`, `join`, `store`, `start`, `spec`, `files`, `busy`…
        code: String,
        /// A sentence with what to do.
        message: String,
    },
}
