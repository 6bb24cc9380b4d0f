//! What people read, in Marathon's shapes. Only from the machine's state: nothing here changes or waits.

mod groups;
mod pods;
mod queue;

use std::borrow::Cow;

use serde_json::{Map, Value, json};

pub use groups::{Shows, group, group_version};
pub use pods::{killed, pod, pod_status, pod_statuses, pod_version, pod_versions, pods};
pub use queue::{queue, why};

use super::definition::Definition;
use super::id::PathId;
use super::instance::{Instance, State, Task};
use super::{Entry, Snapshot, kept, notices, time};

/// What is shown with an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Embed {
    /// Its tasks.
    pub tasks: bool,
    /// How many there are.
    pub counts: bool,
    /// Deployments that change it.
    pub deployments: bool,
    /// The last failure.
    pub last_failure: bool,
    /// Results of readiness checks.
    pub readiness: bool,
    /// Statistics by version.
    pub stats: bool,
}

impl Embed {
    /// What a list shows when nothing is asked for.
    pub const LIST: Embed = Embed {
        tasks: false,
        counts: true,
        deployments: true,
        last_failure: false,
        readiness: false,
        stats: false,
    };
    /// What a single app shows in any case.
    pub const APP: Embed = Embed {
        tasks: true,
        counts: true,
        deployments: true,
        last_failure: true,
        readiness: false,
        stats: false,
    };

    /// This and that.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            tasks: self.tasks || other.tasks,
            counts: self.counts || other.counts,
            deployments: self.deployments || other.deployments,
            last_failure: self.last_failure || other.last_failure,
            readiness: self.readiness || other.readiness,
            stats: self.stats || other.stats,
        }
    }

    /// From the parameter's values for apps, `app.tasks` or `apps.tasks`. Unknown ones are ignored, as Marathon does.
    pub fn apps<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let bare =
            |value: &'a str| value.strip_prefix("apps.").or(value.strip_prefix("app.")).unwrap_or(value);
        Self::parse(values.into_iter().map(bare), "", Embed::default())
    }

    /// From the parameter's values that begin with `prefix`. None given: `default`. Unknown ones are ignored.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>, prefix: &str, default: Embed) -> Self {
        let (mut embed, mut any) = (Embed::default(), false);
        for value in values {
            any = true;
            let Some(word) = value.strip_prefix(prefix) else { continue };
            match word {
                "tasks" => (embed.tasks, embed.deployments) = (true, true),
                "count" | "counts" => embed.counts = true,
                "deployments" => embed.deployments = true,
                "lastTaskFailure" => embed.last_failure = true,
                "readiness" => embed.readiness = true,
                "taskStats" => embed.stats = true,
                "failures" => (embed.tasks, embed.deployments, embed.last_failure) = (true, true, true),
                _ => {}
            }
        }
        if any { embed } else { default }
    }
}

/// An app, if readers see it.
pub fn app(state: &Snapshot, id: &PathId, embed: Embed) -> Option<Value> {
    state.entry(id).filter(|entry| entry.wanted.app().is_some()).map(|entry| entry_json(entry, embed))
}

/// An app in a list, as JSON. What lists show when nothing is asked for is made once and kept until the app changes.
pub fn listed(entry: &Entry, embed: Embed) -> Cow<'_, [u8]> {
    let make = || entry_json(entry, embed).to_string().into_bytes();
    if embed == Embed::LIST { Cow::Borrowed(entry.shown.get(make)) } else { Cow::Owned(make()) }
}

fn entry_json(entry: &Entry, embed: Embed) -> Value {
    let mut out = entry.wanted.to_json();
    if embed.counts {
        let count = |test: &dyn Fn(&Instance) -> bool| entry.instances.values().filter(|i| test(i)).count();
        let checked = entry.wanted.has_health_checks();
        let healthy = |want: bool| {
            count(&|i| i.state() == Some(State::Running) && i.healthy() == Some(want) && checked)
        };
        let staged = |i: &Instance| matches!(i.state(), Some(State::Staging | State::Starting));
        out.insert("tasksStaged".to_owned(), json!(count(&staged)));
        out.insert("tasksRunning".to_owned(), json!(count(&|i| i.state() == Some(State::Running))));
        out.insert("tasksHealthy".to_owned(), json!(healthy(true)));
        out.insert("tasksUnhealthy".to_owned(), json!(healthy(false)));
    }
    if embed.deployments {
        out.insert("deployments".to_owned(), entry.deployments.iter().map(|id| json!({"id": id})).collect());
    }
    if embed.tasks {
        out.insert("tasks".to_owned(), all_tasks(entry).collect());
    }
    if embed.readiness {
        out.insert("readinessCheckResults".to_owned(), Value::from(entry.readiness_results()));
    }
    if embed.last_failure
        && let Some(failure) = &entry.last_failure
    {
        out.insert("lastTaskFailure".to_owned(), failure.clone());
    }
    if let Some(status) = entry.autoscale_status() {
        out.insert("autoscaleStatus".to_owned(), status.clone());
    }
    if embed.stats {
        out.insert("taskStats".to_owned(), stats(entry));
    }
    Value::Object(out)
}

fn stats(entry: &Entry) -> Value {
    let of = |test: &dyn Fn(&Instance) -> bool| {
        let some: Vec<&Instance> = entry.instances.values().filter(|i| test(i)).collect();
        let count = |test: &dyn Fn(&Instance) -> bool| some.iter().filter(|i| test(i)).count();
        json!({"stats": {"counts": {
            "staged": count(&|i| matches!(i.state(), Some(State::Staging | State::Starting))),
            "running": count(&|i| i.state() == Some(State::Running)),
            "healthy": count(&|i| i.healthy() == Some(true)),
            "unhealthy": count(&|i| i.healthy() == Some(false)),
        }}})
    };
    let info = entry.wanted.info();
    json!({
        "startedAfterLastScaling": of(&|i| time::text(i.record.created) >= info.last_scaling_at),
        "withLatestConfig": of(&|i| i.record.config == info.last_config_change_at),
        "withOutdatedConfig": of(&|i| i.record.config != info.last_config_change_at),
        "totalSummary": of(&|_| true),
    })
}

/// The tasks of all instances, then those of instances that ended and have volumes.
fn all_tasks(entry: &Entry) -> impl Iterator<Item = Value> {
    let running = entry.instances.values().flat_map(|i| tasks_of(entry, i));
    running.chain(entry.kept.values().map(kept::task))
}

/// The tasks of an instance.
pub fn tasks_of(entry: &Entry, instance: &Instance) -> Vec<Value> {
    let definition = entry.definition_of(&instance.record);
    let ids = instance.record.tasks();
    let pairs = ids.filter_map(|(name, id)| Some((instance.tasks.iter().find(|t| t.name == name)?, id)));
    pairs.map(|(task, id)| one_task(definition, instance, task, &id)).collect()
}

fn one_task(definition: &Definition, instance: &Instance, task: &Task, id: &str) -> Value {
    let record = &instance.record;
    let moment = |at: Option<plenum_api::Millis>| at.map_or(Value::Null, |at| Value::from(time::text(at)));
    let addresses =
        task.addresses.iter().map(|(ip, protocol)| json!({"ipAddress": ip, "protocol": protocol}));
    let services = definition.service_ports();
    let mut out = json!({
        "id": id,
        "appId": record.app,
        "host": record.location.host,
        "ports": instance.ports(),
        "servicePorts": services,
        "ipAddresses": addresses.collect::<Vec<_>>(),
        "slaveId": record.agent,
        "state": task.state.map_or("TASK_STAGING", State::name),
        "stagedAt": time::text(instance.staged),
        "startedAt": moment(task.started),
        "version": record.version,
        "localVolumes": kept::volumes(record),
        "region": record.location.region,
        "zone": record.location.zone,
        "role": record.role,
    });
    if let Some(alive) = task.healthy.filter(|_| definition.has_health_check(&task.name)) {
        out["healthCheckResults"] = json!([{
            "alive": alive,
            "consecutiveFailures": task.failures,
            "firstSuccess": moment(task.first_healthy),
            "lastSuccess": moment(task.health_seen.0),
            "lastFailure": moment(task.health_seen.1),
            "lastFailureCause": task.sick,
            "instanceId": record.id,
        }]);
    }
    if let Some(check) = &task.check {
        out["checkResult"] = check.clone();
    }
    out
}

/// Every task; `states` of `staging` and `running` narrow it down.
pub fn tasks(state: &Snapshot, states: &[&str]) -> Vec<Value> {
    let fits = |i: &Instance| match i.state() {
        Some(State::Running) => states.contains(&"running"),
        Some(State::Staging | State::Starting) => states.contains(&"staging"),
        _ => false,
    };
    let mut all = Vec::new();
    for (_, entry) in state.entries() {
        if states.is_empty() {
            all.extend(all_tasks(entry));
        } else {
            let some = entry.instances.values().filter(|i| fits(i));
            all.extend(some.flat_map(|i| tasks_of(entry, i)));
        }
    }
    all
}

/// The tasks of one app.
pub fn app_tasks(state: &Snapshot, id: &PathId) -> Option<Vec<Value>> {
    state.entry(id).map(|e| all_tasks(e).collect())
}

/// Tasks as the tab separated table that old load balancers read: app, service port, addresses.
pub fn tasks_text(state: &Snapshot) -> String {
    let mut out = String::new();
    for (id, entry) in state.entries() {
        let Some(app) = entry.wanted.app() else { continue };
        let name = id.safe();
        let running = |i: &&Instance| i.state() == Some(State::Running);
        for (n, port) in app.ports().iter().enumerate() {
            out.push_str(&format!("{name}\t{}\t", port.service));
            for i in entry.instances.values().filter(running) {
                if let Some(host_port) = i.record.host_ports.get(n).copied().flatten() {
                    out.push_str(&format!("{}:{host_port}\t", i.record.location.host));
                }
            }
            out.push('\n');
        }
        if app.ports().is_empty() {
            let hosts: Vec<&str> =
                entry.instances.values().filter(running).map(|i| i.record.location.host.as_str()).collect();
            out.push_str(&format!("{name}\t \t{}\n", hosts.join("\t")));
        }
    }
    out
}

/// The versions of an app, newest first.
pub fn versions(state: &Snapshot, id: &PathId) -> Option<Vec<String>> {
    state.entry(id).map(|e| e.versions.keys().rev().cloned().collect())
}

/// One version of an app.
pub fn version(state: &Snapshot, id: &PathId, version: &str) -> Option<Value> {
    state.entry(id)?.versions.get(version).map(|definition| Value::Object(definition.to_json()))
}

/// Deployments under way.
pub fn deployments(state: &Snapshot) -> Vec<Value> {
    let one = |d: &super::deployment::Deployment| {
        let actions: Vec<Value> = d
            .current()
            .iter()
            .map(|a| {
                let mut action = a.to_json();
                let results = state.apps.get(&a.app).map(super::Entry::readiness_results);
                action["readinessCheckResults"] = Value::from(results.unwrap_or_default());
                action
            })
            .collect();
        json!({
            "id": d.id,
            "version": d.version,
            "affectedApps": d.affected(false),
            "affectedPods": d.affected(true),
            "steps": notices::steps(d),
            "currentActions": actions,
            "currentStep": d.at.saturating_add(1),
            "totalSteps": d.steps.len(),
        })
    };
    state.deployments.values().map(one).collect()
}

/// Tasks of ours that nobody wrote down, and instances that were given up.
pub fn strangers(state: &Snapshot) -> Value {
    let strangers: Vec<Value> = state
        .strangers
        .iter()
        .map(|(task, s)| {
            let app = state.app_of_stranger(task).map(|entry| entry.wanted.id());
            json!({"id": task, "appId": app, "slaveId": s.agent, "state": s.state.name(), "since": time::text(s.since)})
        })
        .collect();
    let ghosts: Vec<Value> = state
        .ghosts
        .values()
        .flat_map(|r| {
            r.tasks().map(
                move |(_, id)| json!({"id": id, "appId": r.app, "slaveId": r.agent, "host": r.location.host}),
            )
        })
        .collect();
    json!({"unknown": strangers, "replaced": ghosts, "volumes": state.leftovers()})
}

/// Numbers for `/metrics`.
pub fn counts(state: &Snapshot) -> Map<String, Value> {
    let instances = || state.entries().flat_map(|(_, e)| e.instances.values());
    let count = |want: State| instances().filter(|i| i.state() == Some(want)).count();
    let waiting: u64 = state.entries().map(|(_, e)| u64::from(e.missing)).sum();
    [
        ("service.mesosphere.marathon.app.count", json!(state.entries().count())),
        ("service.mesosphere.marathon.deployment.active.count", json!(state.deployments.len())),
        ("service.mesosphere.marathon.task.running.count", json!(count(State::Running))),
        ("service.mesosphere.marathon.task.staged.count", json!(count(State::Staging))),
        ("plenum.services.instances.missing", json!(waiting)),
        ("plenum.services.instances.replaced", json!(state.ghosts.len())),
        ("plenum.services.tasks.unknown", json!(state.strangers.len())),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
