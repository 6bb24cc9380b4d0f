//! An app's definition in its normal form: what is stored, compared and shown. Reading what clients send is
//! [`super::update`]'s work, and judging it [`super::validate`]'s.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::id::PathId;

/// One version of an app. Field names are Marathon's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct App {
    /// The path.
    pub id: PathId,
    /// Shell command; excludes `args` unless there is an image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cmd: Option<String>,
    /// Argument vector.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub args: Option<Vec<String>>,
    /// The account tasks run as.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// Environment; a value is a text or `{"secret": name}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub env: BTreeMap<String, Value>,
    /// How many instances are wanted.
    pub instances: u32,
    /// Cores of one instance.
    pub cpus: f64,
    /// Memory of one instance, MiB.
    pub mem: f64,
    /// Disk of one instance, MiB.
    pub disk: f64,
    /// Graphics processors of one instance.
    pub gpus: u32,
    /// Custom executor; empty is the command executor.
    #[serde(default)]
    pub executor: String,
    /// Resources of a custom executor.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub executor_resources: Option<Value>,
    /// Limits above the request, `cpus` and `mem`: a number or `"unlimited"`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resource_limits: Option<Value>,
    /// Placement rules: `[field, OPERATOR, value?]`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub constraints: Vec<Vec<String>>,
    /// What is downloaded into the sandbox.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fetch: Vec<Fetch>,
    /// Seconds before a failed instance is tried again.
    pub backoff_seconds: f64,
    /// How that delay grows.
    pub backoff_factor: f64,
    /// Where it stops.
    pub max_launch_delay_seconds: f64,
    /// Image and volumes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<Container>,
    /// How instances are connected.
    pub networks: Vec<Network>,
    /// Ports on the host; only with host networking.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub port_definitions: Vec<PortDefinition>,
    /// The numbers in `port_definitions` are host ports to be had exactly.
    pub require_ports: bool,
    /// Health checks.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub health_checks: Vec<HealthCheck>,
    /// A check without consequences.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub check: Option<Value>,
    /// Readiness checks: asked during deployments.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub readiness_checks: Vec<Value>,
    /// How many instances there are to be, where that is left to the scheduler.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub autoscale: Option<Box<Value>>,
    /// There are no instances because the scheduler found so, not because people want none. Not part of the API.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub resting: bool,
    /// Apps that must be up before.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub dependencies: Vec<PathId>,
    /// How a new version replaces the old one.
    pub upgrade_strategy: UpgradeStrategy,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Reservations that may be used.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accepted_resource_roles: Option<Vec<String>>,
    /// The role whose offers are used.
    pub role: String,
    /// Secrets by local name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub secrets: BTreeMap<String, Value>,
    /// Seconds between asking and forcing an instance to end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub task_kill_grace_period_seconds: Option<f64>,
    /// A terminal for the task.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tty: Option<bool>,
    /// Who goes first when there are too many.
    pub kill_selection: KillSelection,
    /// What is done about instances on nodes that cannot be reached.
    pub unreachable_strategy: Unreachable,
    /// The moment this definition was made, and its name.
    pub version: String,
    /// When what changed.
    pub version_info: VersionInfo,
}

/// Moments of the last changes. Instances whose `config` is older than `last_config_change_at` are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// The number of instances changed.
    pub last_scaling_at: String,
    /// Anything else changed.
    pub last_config_change_at: String,
}

/// Something to download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetch {
    /// From where.
    pub uri: String,
    /// Unpack archives.
    #[serde(default = "yes")]
    pub extract: bool,
    /// Set the executable bit.
    #[serde(default)]
    pub executable: bool,
    /// Keep a copy on the node.
    #[serde(default)]
    pub cache: bool,
    /// The file's name in the sandbox.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dest_path: Option<String>,
}

fn yes() -> bool {
    true
}

/// How a container is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// `MESOS` or `DOCKER`.
    #[serde(rename = "type", default = "mesos")]
    pub kind: String,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub docker: Option<Docker>,
    /// Volumes.
    #[serde(default)]
    pub volumes: Vec<Value>,
    /// Ports of a container with a network of its own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub port_mappings: Vec<PortMapping>,
    /// Seccomp and IPC settings.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub linux_info: Option<Value>,
}

fn mesos() -> String {
    "MESOS".to_owned()
}

/// An image and how it is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Docker {
    /// The image's name.
    pub image: String,
    /// Ask the registry each time.
    #[serde(default)]
    pub force_pull_image: bool,
    /// All privileges.
    #[serde(default)]
    pub privileged: bool,
    /// Arguments for the Docker command.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
    /// Where credentials for the registry are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pull_config: Option<Value>,
}

/// One argument for the Docker command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A network an instance joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// `host`, `container` or `container/bridge`.
    pub mode: String,
    /// Which, for `container`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Labels for the network's driver.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
}

/// A port on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDefinition {
    /// The service port, or with `requirePorts` the host port. 0: chosen.
    #[serde(default)]
    pub port: u16,
    /// `tcp`, `udp` or `udp,tcp`.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// For DNS and the environment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Virtual addresses and more.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
}

fn tcp() -> String {
    "tcp".to_owned()
}

/// A port of a container and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Inside. 0: the same as the host port.
    #[serde(default)]
    pub container_port: u16,
    /// On the node. 0: chosen; none: not reachable there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_port: Option<u16>,
    /// The number load balancers use.
    #[serde(default)]
    pub service_port: u16,
    /// `tcp`, `udp` or `udp,tcp`.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// For DNS and the environment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Virtual addresses and more.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The networks it belongs to.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub network_names: Vec<String>,
}

/// A health check, carried out by the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// `MESOS_HTTP`, `MESOS_HTTPS`, `MESOS_TCP`, `COMMAND`, `HTTP`, `HTTPS` or `TCP`.
    #[serde(default = "http")]
    pub protocol: String,
    /// What is asked for over HTTP.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// A fixed port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// Which of the app's ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port_index: Option<usize>,
    /// `{"value": shell command}`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<Value>,
    /// Seconds after the start in which failures do not count.
    #[serde(default = "n300")]
    pub grace_period_seconds: f64,
    /// Seconds between checks.
    #[serde(default = "n60")]
    pub interval_seconds: f64,
    /// Seconds after which a check failed.
    #[serde(default = "n20")]
    pub timeout_seconds: f64,
    /// Failures in a row that end the instance.
    #[serde(default = "n3")]
    pub max_consecutive_failures: u32,
    /// Seconds before the first check.
    #[serde(default = "n15")]
    pub delay_seconds: f64,
    /// `IPv4` or `IPv6`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ip_protocol: Option<String>,
    /// Accept 1xx answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ignore_http1xx: Option<bool>,
}

fn http() -> String {
    "HTTP".to_owned()
}
fn n300() -> f64 {
    300.0
}
fn n60() -> f64 {
    60.0
}
fn n20() -> f64 {
    20.0
}
fn n15() -> f64 {
    15.0
}
fn n3() -> u32 {
    3
}

/// Bounds of a rolling replacement, as parts of `instances`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStrategy {
    /// At least this part stays healthy.
    #[serde(default = "one")]
    pub minimum_health_capacity: f64,
    /// At most this part is added.
    #[serde(default = "one")]
    pub maximum_over_capacity: f64,
}

fn one() -> f64 {
    1.0
}

impl Default for UpgradeStrategy {
    fn default() -> Self {
        Self { minimum_health_capacity: 1.0, maximum_over_capacity: 1.0 }
    }
}

/// Who goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KillSelection {
    /// The newest.
    #[default]
    #[serde(rename = "YOUNGEST_FIRST")]
    Youngest,
    /// The oldest.
    #[serde(rename = "OLDEST_FIRST")]
    Oldest,
}

/// What is done about unreachable instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Unreachable {
    /// They are waited for: the text `disabled`.
    Disabled(String),
    /// They are replaced and forgotten after a while.
    #[serde(rename_all = "camelCase")]
    Enabled {
        /// Seconds until a replacement starts.
        #[serde(default)]
        inactive_after_seconds: f64,
        /// Seconds until it is no longer shown.
        #[serde(default)]
        expunge_after_seconds: f64,
    },
}

impl Default for Unreachable {
    fn default() -> Self {
        Self::Enabled { inactive_after_seconds: 0.0, expunge_after_seconds: 0.0 }
    }
}

impl App {
    /// A definition with every default.
    pub fn new(id: PathId, role: &str) -> Self {
        Self {
            id,
            cmd: None,
            args: None,
            user: None,
            env: BTreeMap::new(),
            instances: 1,
            cpus: 1.0,
            mem: 128.0,
            disk: 0.0,
            gpus: 0,
            executor: String::new(),
            executor_resources: None,
            resource_limits: None,
            constraints: Vec::new(),
            fetch: Vec::new(),
            backoff_seconds: 1.0,
            backoff_factor: 1.15,
            max_launch_delay_seconds: 300.0,
            container: None,
            networks: vec![Network { mode: "host".to_owned(), name: None, labels: BTreeMap::new() }],
            port_definitions: Vec::new(),
            require_ports: false,
            health_checks: Vec::new(),
            check: None,
            readiness_checks: Vec::new(),
            autoscale: None,
            resting: false,
            dependencies: Vec::new(),
            upgrade_strategy: UpgradeStrategy::default(),
            labels: BTreeMap::new(),
            accepted_resource_roles: None,
            role: role.to_owned(),
            secrets: BTreeMap::new(),
            task_kill_grace_period_seconds: None,
            tty: None,
            kill_selection: KillSelection::default(),
            unreachable_strategy: Unreachable::default(),
            version: String::new(),
            version_info: VersionInfo::default(),
        }
    }

    /// Whether instances share the node's network.
    pub fn host_networking(&self) -> bool {
        self.networks.iter().all(|n| n.mode == "host")
    }

    /// The app's ports in order, whichever way they are written.
    pub fn ports(&self) -> Vec<Port<'_>> {
        match (&self.container, self.host_networking()) {
            (Some(container), false) => container
                .port_mappings
                .iter()
                .map(|m| Port {
                    host: m.host_port,
                    container: Some(m.container_port),
                    service: m.service_port,
                    protocol: &m.protocol,
                    name: m.name.as_deref(),
                    labels: &m.labels,
                })
                .collect(),
            _ => self
                .port_definitions
                .iter()
                .map(|d| Port {
                    host: Some(if self.require_ports { d.port } else { 0 }),
                    container: None,
                    service: d.port,
                    protocol: &d.protocol,
                    name: d.name.as_deref(),
                    labels: &d.labels,
                })
                .collect(),
        }
    }

    /// Whether the two differ in more than how many instances are wanted and when they were written.
    pub fn differs_in_config(&self, other: &App) -> bool {
        let plain = |app: &App| {
            let versions = (String::new(), VersionInfo::default());
            App {
                instances: 0,
                autoscale: None,
                resting: false,
                version: versions.0,
                version_info: versions.1,
                ..app.clone()
            }
        };
        plain(self) != plain(other)
    }

    /// Whether it has volumes that outlive its instances.
    pub fn is_resident(&self) -> bool {
        self.has_volumes("persistent")
    }

    /// Whether it has volumes of that kind: `persistent`, `external`, `secret`.
    pub fn has_volumes(&self, kind: &str) -> bool {
        let volumes = self.container.iter().flat_map(|c| &c.volumes);
        volumes.into_iter().any(|volume| volume.get(kind).is_some_and(|v| !v.is_null()))
    }

    /// The definition as JSON, in Marathon's shape.
    pub fn to_json(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => {
                let mut map: Map<String, Value> = map.into_iter().map(|(k, v)| (k, tidy(v))).collect();
                self.show(&mut map);
                map
            }
            _ => Map::new(),
        }
    }

    /// What is shown depends on the network, and on volumes: lists of ports are there even when they are empty.
    fn show(&self, map: &mut Map<String, Value>) {
        // Ours: who sends back what was read does not say it.
        map.remove("resting");
        if self.host_networking() {
            map.entry("portDefinitions").or_insert_with(|| Value::Array(Vec::new()));
        } else if let Some(Value::Object(container)) = map.get_mut("container") {
            container.entry("portMappings").or_insert_with(|| Value::Array(Vec::new()));
        }
        if self.is_resident() {
            let seconds = match &self.unreachable_strategy {
                Unreachable::Disabled(_) => 3600.0,
                Unreachable::Enabled { inactive_after_seconds, .. } => *inactive_after_seconds,
            };
            let residency = serde_json::json!({"relaunchEscalationTimeoutSeconds": seconds, "taskLostBehavior": "WAIT_FOREVER"});
            map.insert("residency".to_owned(), tidy(residency));
        }
    }
}

/// Whole numbers are written without a fraction, as Marathon does.
pub(super) fn tidy(value: Value) -> Value {
    match value {
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() && f.fract() == 0.0 && f.abs() < 9e15 => Value::from(f as i64),
            _ => Value::Number(n),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(tidy).collect()),
        Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (k, tidy(v))).collect()),
        other => other,
    }
}

/// One port, whichever way it was written.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// On the node: none, chosen (0), or this one.
    pub host: Option<u16>,
    /// In a container with a network of its own.
    pub container: Option<u16>,
    /// For load balancers.
    pub service: u16,
    /// `tcp`, `udp` or `udp,tcp`.
    pub protocol: &'a str,
    /// For DNS and the environment.
    pub name: Option<&'a str>,
    /// Virtual addresses and more.
    pub labels: &'a BTreeMap<String, String>,
}
