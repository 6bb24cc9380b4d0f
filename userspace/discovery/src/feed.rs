//! What the publisher tells replicas: numbered changes of facts. Facts are small and complete in themselves, so that a replica derives names
//! and tables from each alone. Encoded as JSON, one object a line.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The format of [`struct@Copy`] and [`Delta`].
pub const FORMAT: u32 = 1;

/// All facts by key: `agent/<id>`, `framework/<id>`, `master/<n>`, `task/<framework id>/<task id>`, `vip/<name>`.
pub type Facts = BTreeMap<String, Fact>;

/// One thing that is known of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A master.
    Master {
        /// Where it is.
        address: IpAddr,
        /// Its HTTP port.
        port: u16,
        /// Whether it leads.
        leads: bool,
    },
    /// An agent.
    Agent {
        /// Where it is.
        address: IpAddr,
        /// Its HTTP port.
        port: u16,
    },
    /// A framework.
    Framework {
        /// Its name as a DNS name, such as `marathon`.
        name: String,
        /// Where its web interface is.
        address: IpAddr,
        /// Its port.
        port: u16,
    },
    /// A task that is known by name.
    Task(Task),
    /// A virtual address with a name, such as `web.marathon`.
    Address(Ipv4Addr),
}

/// A running task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name before mangling.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The framework's name as a DNS name.
    pub framework: String,
    /// The label that is its alone.
    pub canonical: String,
    /// Its agent's address.
    pub agent: IpAddr,
    /// Its container's own addresses; none with the host's network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub container: Vec<IpAddr>,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// The virtual addresses behind which it takes new connections now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serves: Vec<Serves>,
}

/// One port of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Its name, mangled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the number is one of the container's address and not of the agent's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inside: bool,
}

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A back end of a virtual address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serves {
    /// The virtual address.
    pub address: Ipv4Addr,
    /// The virtual port.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// The name of the virtual address, such as `web.marathon`; none for one asked for by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where connections go.
    pub backend: std::net::SocketAddrV4,
}

/// A change of one fact; `None` means that it is no longer so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub key: String,
    /// What it is now.
    pub fact: Option<Fact>,
}

/// One step. A replica takes the next generation of the epoch it has, or one with everything; anything else means that it missed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Names one term of a publisher; a later one has a higher epoch.
    pub epoch: u64,
    /// Counts the steps of an epoch.
    pub generation: u64,
    /// Everything, instead of changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Facts>,
    /// What changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// A line of the stream between a relay and who follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A step.
    Step(Delta),
    /// How the relay is; sent first, then each second and whenever it changes.
    Beat(Beat),
}

/// How a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Whether the publisher is heard here: what comes is the present.
    pub live: bool,
    /// The epoch of the last step here.
    pub epoch: u64,
    /// The number of the last step here.
    pub generation: u64,
}

/// A replica's last state as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// [`FORMAT`].
    pub format: u32,
    /// The epoch of the last step.
    pub epoch: u64,
    /// The number of the last step.
    pub generation: u64,
    /// Everything.
    pub facts: Facts,
}
