//! A pod's definition in its normal form: containers that run together on one node, share a network and end together. Field names and
//! defaults are Marathon's. Reading what clients send is [`super::pod_update`]'s work.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::app::{Fetch, KillSelection, Network, Unreachable, VersionInfo, tidy};
use super::id::PathId;

/// One version of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// The path.
    pub id: PathId,
    /// Labels of every task.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// The moment this definition was made, and its name.
    pub version: String,
    /// The account of containers that name none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// Environment of every container; a value is a text or `{"secret": name}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub environment: BTreeMap<String, Value>,
    /// The containers, in order.
    pub containers: Vec<PodContainer>,
    /// Secrets by local name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub secrets: BTreeMap<String, Value>,
    /// Volumes that containers mount by name.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub volumes: Vec<PodVolume>,
    /// What the containers are connected with.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub networks: Vec<Network>,
    /// How many instances are wanted.
    pub scaling: Scaling,
    /// Where and how they are launched.
    pub scheduling: Scheduling,
    /// What the executor takes besides the containers.
    pub executor_resources: Resources,
    /// Namespaces that the containers share, and the like.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub linux_info: Option<Value>,
    /// The containers share the executor's control group, as before Marathon 1.11.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub legacy_shared_cgroups: Option<bool>,
    /// The role whose offers are used.
    pub role: String,
    /// When what changed. Marathon keeps it, too, and does not show it.
    #[serde(default)]
    pub version_info: VersionInfo,
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodContainer {
    /// Its name within the pod.
    pub name: String,
    /// What it runs; none: what its image says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub exec: Option<Exec>,
    /// What it takes.
    pub resources: Resources,
    /// Limits above the request, `cpus` and `mem`: a number or `"unlimited"`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resource_limits: Option<Value>,
    /// Its ports.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub endpoints: Vec<Endpoint>,
    /// Its image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image: Option<PodImage>,
    /// Environment, over that of the pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub environment: BTreeMap<String, Value>,
    /// The account it runs as.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// A health check, as `{http | tcp | exec, …}`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub health_check: Option<Value>,
    /// A check without consequences.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub check: Option<Value>,
    /// Volumes of the pod, mounted.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub volume_mounts: Vec<VolumeMount>,
    /// What is downloaded into its sandbox.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub artifacts: Vec<Fetch>,
    /// Labels of its task.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// How it ends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lifecycle: Option<Lifecycle>,
    /// A terminal for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tty: Option<bool>,
    /// Seccomp and IPC settings.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub linux_info: Option<Value>,
}

/// What a container runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// `{"shell": text}` or `{"argv": [text]}`.
    pub command: ExecCommand,
    /// The command replaces the image's entry point.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub override_entrypoint: Option<bool>,
}

/// A command line for a shell, or a program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExecCommand {
    /// For `/bin/sh -c`.
    Shell(String),
    /// The program and its arguments.
    Argv(Vec<String>),
}

/// Amounts of resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Cores.
    #[serde(default)]
    pub cpus: f64,
    /// Memory, MiB.
    #[serde(default)]
    pub mem: f64,
    /// Disk, MiB.
    #[serde(default)]
    pub disk: f64,
    /// Graphics processors.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpus: u32,
}

impl Resources {
    /// The sum.
    #[must_use]
    pub fn and(self, more: &Self) -> Self {
        Self {
            cpus: self.cpus + more.cpus,
            mem: self.mem + more.mem,
            disk: self.disk + more.disk,
            gpus: self.gpus.saturating_add(more.gpus),
        }
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its name, unique in the pod.
    pub name: String,
    /// In a network of its own; 0: as on the host.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container_port: Option<u16>,
    /// On the host; 0: chosen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_port: Option<u16>,
    /// `tcp`, `udp`, or both.
    #[serde(default = "tcp")]
    pub protocol: Vec<String>,
    /// Virtual addresses and more.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// The networks it is reached by; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub network_names: Vec<String>,
}

fn tcp() -> Vec<String> {
    vec!["tcp".to_owned()]
}

/// The image of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodImage {
    /// `DOCKER`.
    pub kind: String,
    /// Its name.
    pub id: String,
    /// Ask the registry each time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub force_pull: Option<bool>,
    /// Where credentials for the registry are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pull_config: Option<Value>,
    /// Labels for those who look.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
}

/// A volume of a pod: of the host, persistent, a secret, or else a folder that lives as long as the instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodVolume {
    /// Its name within the pod.
    pub name: String,
    /// A path of the host.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
    /// A volume that outlives instances: `{size, type…}`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub persistent: Option<Value>,
    /// A secret's local name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<String>,
}

/// Where a container sees a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// The volume.
    pub name: String,
    /// The path inside.
    pub mount_path: String,
    /// It cannot be written to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read_only: Option<bool>,
}

/// How a container ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Seconds between asking and forcing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kill_grace_period_seconds: Option<f64>,
}

/// How many instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// `fixed`.
    pub kind: String,
    /// The number.
    pub instances: u32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self { kind: "fixed".to_owned(), instances: 1 }
    }
}

/// Where instances go and how they are replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Delays after failures.
    pub backoff: PodBackoff,
    /// Bounds of a rolling replacement.
    pub upgrade: super::app::UpgradeStrategy,
    /// Placement rules.
    #[serde(default)]
    pub placement: Placement,
    /// Who goes first when there are too many.
    pub kill_selection: KillSelection,
    /// What is done about instances on nodes that cannot be reached.
    pub unreachable_strategy: Unreachable,
}

/// Delays after failures, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodBackoff {
    /// The first.
    pub backoff: f64,
    /// How it grows.
    pub backoff_factor: f64,
    /// Where it stops.
    pub max_launch_delay: f64,
}

impl Default for PodBackoff {
    fn default() -> Self {
        Self { backoff: 1.0, backoff_factor: 1.15, max_launch_delay: 300.0 }
    }
}

/// Placement rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Each of them.
    #[serde(default)]
    pub constraints: Vec<PodConstraint>,
    /// Reservations that may be used.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub accepted_resource_roles: Vec<String>,
}

/// One rule; its parts are those of an app's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodConstraint {
    /// What is looked at.
    pub field_name: String,
    /// `UNIQUE`, `CLUSTER`, …
    pub operator: String,
    /// For operators that take one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<String>,
}

impl Pod {
    /// A pod of no containers, with every default.
    pub fn new(id: PathId, role: &str) -> Self {
        Self {
            id,
            labels: BTreeMap::new(),
            version: String::new(),
            user: None,
            environment: BTreeMap::new(),
            containers: Vec::new(),
            secrets: BTreeMap::new(),
            volumes: Vec::new(),
            networks: Vec::new(),
            scaling: Scaling::default(),
            scheduling: Scheduling::default(),
            executor_resources: Resources { cpus: 0.1, mem: 32.0, disk: 10.0, gpus: 0 },
            linux_info: None,
            legacy_shared_cgroups: None,
            role: role.to_owned(),
            version_info: VersionInfo::default(),
        }
    }

    /// Whether the containers use the node's network.
    pub fn host_networking(&self) -> bool {
        self.networks.iter().all(|n| n.mode == "host")
    }

    /// The definition as JSON, in Marathon's shape.
    pub fn to_json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(mut map)) => {
                map.remove("versionInfo");
                map.into_iter().map(|(k, v)| (k, tidy(v))).collect()
            }
            _ => Map::new(),
        }
    }
}
