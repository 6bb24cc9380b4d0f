//! What is wanted, an app or a pod, by the questions that planning, placement and deployments ask. Nobody but those who read, show and
//! launch definitions looks which of the two it is.

use plenum_api::Millis;
use serde_json::{Map, Value};

use super::app::{App, KillSelection, Unreachable, UpgradeStrategy, VersionInfo};
use super::id::PathId;
use super::pod::{Pod, Resources};

/// One version of an app or a pod.
// It is always behind an `Arc` or a `Box`, and pods are few.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum Definition {
    /// One task an instance.
    App(App),
    /// One task a container.
    Pod(Pod),
}

/// Delays after failures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delays {
    /// The first.
    pub first: Millis,
    /// How it grows.
    pub factor: f64,
    /// Where it stops.
    pub most: Millis,
}

/// The name of an app's only container.
pub const ONLY: &str = "";

impl Definition {
    /// The path.
    pub fn id(&self) -> &PathId {
        match self {
            Self::App(app) => &app.id,
            Self::Pod(pod) => &pod.id,
        }
    }

    /// The app, if it is one.
    pub fn app(&self) -> Option<&App> {
        match self {
            Self::App(app) => Some(app),
            Self::Pod(_) => None,
        }
    }

    /// The pod, if it is one.
    pub fn pod(&self) -> Option<&Pod> {
        match self {
            Self::App(_) => None,
            Self::Pod(pod) => Some(pod),
        }
    }

    /// The moment it was made, and its name.
    pub fn version(&self) -> &str {
        match self {
            Self::App(app) => &app.version,
            Self::Pod(pod) => &pod.version,
        }
    }

    /// When what changed.
    pub fn info(&self) -> &VersionInfo {
        match self {
            Self::App(app) => &app.version_info,
            Self::Pod(pod) => &pod.version_info,
        }
    }

    /// The configuration's name: instances launched from another one are replaced.
    pub fn config(&self) -> &str {
        &self.info().last_config_change_at
    }

    /// Gives it its version.
    pub fn stamp(&mut self, version: &str, info: VersionInfo) {
        let (name, moments) = match self {
            Self::App(app) => (&mut app.version, &mut app.version_info),
            Self::Pod(pod) => (&mut pod.version, &mut pod.version_info),
        };
        (*name, *moments) = (version.to_owned(), info);
    }

    /// How many instances are wanted.
    pub fn instances(&self) -> u32 {
        match self {
            Self::App(app) => app.instances,
            Self::Pod(pod) => pod.scaling.instances,
        }
    }

    /// Wants another number of them.
    pub fn scale_to(&mut self, instances: u32) {
        match self {
            Self::App(app) => (app.instances, app.resting) = (instances, false),
            Self::Pod(pod) => pod.scaling.instances = instances,
        }
    }

    /// That there are none, if there are none, is the scheduler's own finding.
    pub fn rest(&mut self) {
        if let Self::App(app) = self {
            app.resting = app.instances == 0;
        }
    }

    /// Whether there are none by the scheduler's own finding.
    pub fn is_resting(&self) -> bool {
        self.app().is_some_and(|app| app.resting)
    }

    /// The role whose offers are used.
    pub fn role(&self) -> &str {
        match self {
            Self::App(app) => &app.role,
            Self::Pod(pod) => &pod.role,
        }
    }

    /// Reservations that may be used; none said: those of nobody and of the own role.
    pub fn accepted_roles(&self) -> &[String] {
        match self {
            Self::App(app) => app.accepted_resource_roles.as_deref().unwrap_or_default(),
            Self::Pod(pod) => &pod.scheduling.placement.accepted_resource_roles,
        }
    }

    /// Placement rules, as `[field, OPERATOR, value?]`.
    pub fn constraints(&self) -> Vec<Vec<String>> {
        match self {
            Self::App(app) => app.constraints.clone(),
            Self::Pod(pod) => {
                let rules = pod.scheduling.placement.constraints.iter();
                let parts = rules.map(|rule| {
                    let fixed = [rule.field_name.clone(), rule.operator.clone()];
                    fixed.into_iter().chain(rule.value.clone()).collect()
                });
                parts.collect()
            }
        }
    }

    /// What one instance takes.
    pub fn needs(&self) -> Resources {
        match self {
            Self::App(app) => Resources { cpus: app.cpus, mem: app.mem, disk: app.disk, gpus: app.gpus },
            Self::Pod(pod) => {
                pod.containers.iter().fold(pod.executor_resources, |sum, one| sum.and(&one.resources))
            }
        }
    }

    /// The same with its volumes, which are disk.
    pub fn needs_with_volumes(&self) -> Resources {
        let needs = self.needs();
        let volumes = self.volumes().into_iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(size));
        Resources { disk: needs.disk + volumes as f64, ..needs }
    }

    /// Where volumes that outlive an instance are mounted, and their sizes in MiB.
    pub fn volumes(&self) -> Vec<(String, u64)> {
        let volumes = self.app().and_then(|app| app.container.as_ref()).into_iter().flat_map(|c| &c.volumes);
        let one = |volume: &Value| {
            let size = volume.get("persistent")?.get("size")?.as_u64()?;
            Some((volume.get("containerPath")?.as_str()?.to_owned(), size))
        };
        volumes.filter_map(one).collect()
    }

    /// Whether its instances are bound to the nodes where their volumes are.
    pub fn is_resident(&self) -> bool {
        self.app().is_some_and(App::is_resident)
    }

    /// For each port, in order: none on the host, one that is chosen (0), or this one.
    pub fn host_ports(&self) -> Vec<Option<u16>> {
        match self {
            Self::App(app) => app.ports().iter().map(|port| port.host).collect(),
            Self::Pod(pod) => {
                let host = pod.host_networking();
                let endpoints = pod.containers.iter().flat_map(|c| &c.endpoints);
                endpoints.map(|e| e.host_port.or(host.then_some(0))).collect()
            }
        }
    }

    /// Ports for load balancers.
    pub fn service_ports(&self) -> Vec<u16> {
        match self {
            Self::App(app) => app.ports().iter().map(|port| port.service).collect(),
            Self::Pod(_) => Vec::new(),
        }
    }

    /// The containers of an instance, each a task.
    pub fn containers(&self) -> Vec<&str> {
        match self {
            Self::App(_) => vec![ONLY],
            Self::Pod(pod) => pod.containers.iter().map(|c| c.name.as_str()).collect(),
        }
    }

    /// Whether the container of that name has a health check.
    pub fn has_health_check(&self, container: &str) -> bool {
        match self {
            Self::App(app) => !app.health_checks.is_empty(),
            Self::Pod(pod) => pod.containers.iter().any(|c| c.name == container && c.health_check.is_some()),
        }
    }

    /// Whether any container has a health check.
    pub fn has_health_checks(&self) -> bool {
        self.containers().iter().any(|name| self.has_health_check(name))
    }

    /// Bounds of a rolling replacement.
    pub fn upgrade(&self) -> UpgradeStrategy {
        match self {
            Self::App(app) => app.upgrade_strategy,
            Self::Pod(pod) => pod.scheduling.upgrade,
        }
    }

    /// Who goes first when there are too many.
    pub fn kill_selection(&self) -> KillSelection {
        match self {
            Self::App(app) => app.kill_selection,
            Self::Pod(pod) => pod.scheduling.kill_selection,
        }
    }

    /// How long an unreachable instance is waited for before another one starts; none: for ever.
    pub fn unreachable_patience(&self) -> Option<Millis> {
        let strategy = match self {
            Self::App(app) => &app.unreachable_strategy,
            Self::Pod(pod) => &pod.scheduling.unreachable_strategy,
        };
        match strategy {
            Unreachable::Disabled(_) => None,
            Unreachable::Enabled { inactive_after_seconds, .. } => {
                Some(Millis::from_secs_f64(*inactive_after_seconds))
            }
        }
    }

    /// Delays after failures.
    pub fn delays(&self) -> Delays {
        let (first, factor, most) = match self {
            Self::App(app) => (app.backoff_seconds, app.backoff_factor, app.max_launch_delay_seconds),
            Self::Pod(pod) => {
                let delays = &pod.scheduling.backoff;
                (delays.backoff, delays.backoff_factor, delays.max_launch_delay)
            }
        };
        Delays { first: Millis::from_secs_f64(first), factor, most: Millis::from_secs_f64(most) }
    }

    /// How long an instance has between being asked and being forced to end: the longest of its containers.
    pub fn grace(&self) -> Option<Millis> {
        let seconds = match self {
            Self::App(app) => app.task_kill_grace_period_seconds,
            Self::Pod(pod) => {
                let each = pod.containers.iter().filter_map(|c| c.lifecycle?.kill_grace_period_seconds);
                each.max_by(f64::total_cmp)
            }
        };
        seconds.map(Millis::from_secs_f64)
    }

    /// What must be up before.
    pub fn dependencies(&self) -> &[PathId] {
        match self {
            Self::App(app) => &app.dependencies,
            Self::Pod(_) => &[],
        }
    }

    /// Whether the two differ in more than how many instances are wanted and when they were written.
    pub fn differs_in_config(&self, other: &Definition) -> bool {
        let plain = |definition: &Definition| {
            let mut copy = definition.clone();
            copy.scale_to(0);
            copy.stamp("", VersionInfo::default());
            copy
        };
        match (self, other) {
            (Self::App(one), Self::App(other)) => one.differs_in_config(other),
            _ => plain(self) != plain(other),
        }
    }

    /// The definition as JSON, in Marathon's shape.
    pub fn to_json(&self) -> Map<String, Value> {
        match self {
            Self::App(app) => app.to_json(),
            Self::Pod(pod) => pod.to_json(),
        }
    }
}
