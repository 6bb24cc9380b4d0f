//! The older endpoints that describe the agent: state, version, flags, metrics.

use std::collections::BTreeMap;

use axum::response::Response;
use plenum_api::mesos;
use plenum_api::mesos::executor_info::Type as ExecutorType;
use serde_json::{Map, Value, json};

use super::Http;
use crate::config::Config;
use crate::core::{ExecutorView, FrameworkView, TaskView, View};

pub(super) fn version() -> Value {
    json!({ "version": super::MESOS_VERSION, "plenum_version": env!("CARGO_PKG_VERSION") })
}

/// Settings under the names that Mesos' flags have, where there is one. None of them is secret.
pub(super) fn flags_list(config: &Config) -> Vec<(String, String)> {
    let seconds = |value: u64| format!("{value}secs");
    let list = [
        ("master", config.masters.join(",")),
        ("work_dir", config.work_dir.display().to_string()),
        ("runtime_dir", config.run_dir.display().to_string()),
        ("hostname", config.hostname.clone()),
        ("ip", config.ip.clone()),
        ("port", config.port.to_string()),
        ("resources", config.resources.clone()),
        ("default_role", config.default_role.clone()),
        ("attributes", config.attributes.clone()),
        ("cgroups_enable_cfs", config.cpu_quota.to_string()),
        ("authenticate_http_executors", config.require_executor_token.to_string()),
        ("executor_registration_timeout", seconds(config.executor_registration_timeout)),
        ("executor_reregistration_timeout", seconds(config.executor_reregistration_timeout)),
        ("executor_shutdown_grace_period", seconds(config.executor_shutdown_grace)),
        ("recovery_timeout", seconds(config.recovery_timeout)),
        ("gc_delay", seconds(config.gc_delay)),
        ("gc_disk_headroom", config.gc_disk_headroom.to_string()),
        ("disk_watch_interval", seconds(config.gc_interval)),
    ];
    list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

pub(super) fn flags(config: &Config) -> Value {
    flags_list(config)
        .into_iter()
        .map(|(name, value)| (name, Value::String(value)))
        .collect::<Map<_, _>>()
        .into()
}

/// Resources as the older endpoints show them: sums of scalars, ranges as text.
fn resource_map<'a>(resources: impl IntoIterator<Item = &'a mesos::Resource>) -> Value {
    let mut scalars: BTreeMap<String, f64> =
        ["cpus", "gpus", "mem", "disk"].into_iter().map(|name| (name.to_owned(), 0.0)).collect();
    let mut ranges: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for resource in resources {
        if let Some(scalar) = &resource.scalar {
            *scalars.entry(resource.name.clone()).or_default() += scalar.value;
        }
        if let Some(list) = &resource.ranges {
            let all = ranges.entry(resource.name.clone()).or_default();
            all.extend(list.range.iter().map(|range| (range.begin, range.end)));
        }
    }
    let mut map = Map::new();
    for (name, value) in scalars {
        map.insert(name, number((value * 1000.0).round() / 1000.0));
    }
    for (name, mut list) in ranges {
        list.sort_unstable();
        let text: Vec<String> = list.iter().map(|(begin, end)| format!("{begin}-{end}")).collect();
        map.insert(name, json!(format!("[{}]", text.join(", "))));
    }
    Value::Object(map)
}

/// Whole numbers without a fraction, as Mesos writes them.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

fn role(resource: &mesos::Resource) -> Option<&str> {
    let refined = resource.reservations.last().and_then(|reservation| reservation.role.as_deref());
    refined.or(resource.role.as_deref()).filter(|role| *role != "*")
}

fn reserved(resources: &[mesos::Resource], full: bool) -> Value {
    let mut roles: BTreeMap<&str, Vec<&mesos::Resource>> = BTreeMap::new();
    for resource in resources {
        if let Some(role) = role(resource) {
            roles.entry(role).or_default().push(resource);
        }
    }
    let shown = |list: Vec<&mesos::Resource>| {
        if full { json!(list) } else { resource_map(list) }
    };
    roles.into_iter().map(|(role, list)| (role.to_owned(), shown(list))).collect::<Map<_, _>>().into()
}

fn attributes(view: &View) -> Value {
    let mut map = Map::new();
    for attribute in &view.agent.attributes {
        let value = if let Some(text) = &attribute.text {
            json!(text.value)
        } else if let Some(scalar) = &attribute.scalar {
            number(scalar.value)
        } else {
            let list = attribute.ranges.iter().flat_map(|ranges| &ranges.range);
            let text: Vec<String> = list.map(|range| format!("{}-{}", range.begin, range.end)).collect();
            json!(format!("[{}]", text.join(", ")))
        };
        map.insert(attribute.name.clone(), value);
    }
    Value::Object(map)
}

pub(super) async fn state(http: &Http) -> Response {
    match http.view().await {
        Ok((view, _)) => super::json(&state_json(http, &view)),
        Err(refusal) => refusal,
    }
}

fn state_json(http: &Http, view: &View) -> Value {
    let resources = &view.agent.resources;
    let free: Vec<&mesos::Resource> = resources.iter().filter(|one| role(one).is_none()).collect();
    let list = |completed: bool| -> Vec<Value> {
        let chosen = view.frameworks.iter().filter(|framework| framework.completed == completed);
        chosen.map(framework_json).collect()
    };
    json!({
        "version": super::MESOS_VERSION,
        "plenum_version": env!("CARGO_PKG_VERSION"),
        "start_time": http.started_wall,
        "id": view.agent_id,
        "pid": format!("slave(1)@{}:{}", http.config.ip, http.config.port),
        "hostname": view.agent.hostname,
        "capabilities": ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT", "AGENT_OPERATION_FEEDBACK", "RESIZE_VOLUME", "AGENT_DRAINING", "TASK_RESOURCE_LIMITS"],
        "resources": resource_map(resources),
        "reserved_resources": reserved(resources, false),
        "reserved_resources_full": reserved(resources, true),
        "unreserved_resources": resource_map(free.iter().copied()),
        "unreserved_resources_full": free,
        "attributes": attributes(view),
        "domain": view.agent.domain,
        "registered": view.registered,
        "draining": view.draining,
        "term": view.term,
        "flags": flags(&http.config),
        "docker_engine": docker_engine(http),
        "frameworks": list(false),
        "completed_frameworks": list(true),
    })
}

/// Whether the Docker engine can be relied on; nothing where there is none.
fn docker_engine(http: &Http) -> Value {
    match http.docker.as_ref().map(|docker| docker.health()) {
        None => Value::Null,
        Some(plenum_docker::Health::Ready { api }) => json!({"state": "ready", "api": api}),
        Some(plenum_docker::Health::Degraded { why }) => json!({"state": "degraded", "reason": why}),
    }
}

fn framework_json(framework: &FrameworkView) -> Value {
    let info = &framework.info;
    let list = |completed: bool| -> Vec<Value> {
        let chosen = framework.executors.iter().filter(|executor| executor.completed == completed);
        chosen.map(|executor| executor_json(&framework.id, executor)).collect()
    };
    json!({
        "id": framework.id,
        "name": info.name,
        "user": info.user,
        "failover_timeout": info.failover_timeout(),
        "checkpoint": info.checkpoint(),
        "hostname": info.hostname.clone().unwrap_or_default(),
        "webui_url": info.webui_url.clone().unwrap_or_default(),
        "principal": info.principal.clone().unwrap_or_default(),
        "capabilities": info.capabilities.iter().map(|one| one.r#type().as_str_name()).collect::<Vec<_>>(),
        "role": info.role(),
        "roles": info.roles,
        "executors": list(false),
        "completed_executors": list(true),
    })
}

fn executor_json(framework: &str, executor: &ExecutorView) -> Value {
    let tasks = |stages: &[&str]| -> Vec<Value> {
        let chosen = executor.tasks.iter().filter(|task| stages.contains(&task.stage));
        chosen.map(|task| task_json(framework, task)).collect()
    };
    json!({
        "id": executor.info.executor_id.value,
        "name": executor.info.name.clone().unwrap_or_default(),
        "source": executor.info.executor_id.value,
        "container": executor.container,
        "directory": executor.directory,
        "pid": executor.pid,
        "type": match executor.info.r#type() {
            _ if executor.command => "COMMAND",
            ExecutorType::Default => "DEFAULT",
            _ => "CUSTOM",
        },
        "resources": resource_map(&executor.info.resources),
        "tasks": tasks(&["pending", "launched", "terminated"]),
        "queued_tasks": tasks(&["queued"]),
        "completed_tasks": tasks(&["completed"]),
    })
}

fn task_json(framework: &str, view: &TaskView) -> Value {
    let task = &view.task;
    let statuses: Vec<Value> = task
        .statuses
        .iter()
        .map(|status| {
            let mut one = json!({ "state": status.state().as_str_name(), "timestamp": status.timestamp });
            if let Some(map) = one.as_object_mut() {
                if let Some(container) = &status.container_status {
                    map.insert("container_status".to_owned(), json!(container));
                }
                if let Some(healthy) = status.healthy {
                    map.insert("healthy".to_owned(), json!(healthy));
                }
            }
            one
        })
        .collect();
    json!({
        "id": task.task_id.value,
        "name": task.name,
        "framework_id": framework,
        "executor_id": task.executor_id.as_ref().map(|id| id.value.clone()).unwrap_or_default(),
        "slave_id": task.agent_id.value,
        "state": task.state().as_str_name(),
        "resources": resource_map(&task.resources),
        "statuses": statuses,
        "labels": task.labels.as_ref().map(|labels| json!(labels.labels)),
        "discovery": task.discovery,
        "container": task.container,
        "health_check": task.health_check,
        "user": task.user,
    })
}

/// Counters and gauges under Mesos' names.
pub(super) async fn metrics(http: &Http) -> Result<BTreeMap<String, f64>, Response> {
    let (view, counts) = http.view().await?;
    let mut all = metrics_of(http, &view, counts);
    all.extend(system());
    Ok(all)
}

/// The machine, under Mesos' names.
fn system() -> impl Iterator<Item = (String, f64)> {
    let file = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
    let (load, memory) = (file("/proc/loadavg"), file("/proc/meminfo"));
    let number = |word: &str| word.parse::<f64>().ok();
    let loads: Vec<f64> = load.split_ascii_whitespace().take(3).filter_map(number).collect();
    let bytes = |key: &str| {
        let rest = memory.lines().find_map(|line| line.strip_prefix(key))?;
        number(rest.split_ascii_whitespace().next()?).map(|kibibytes| kibibytes * 1024.0)
    };
    let cpus = std::thread::available_parallelism().ok().map(|count| count.get() as f64);
    let all = [
        ("cpus_total", cpus),
        ("load_1min", loads.first().copied()),
        ("load_5min", loads.get(1).copied()),
        ("load_15min", loads.get(2).copied()),
        ("mem_total_bytes", bytes("MemTotal:")),
        ("mem_free_bytes", bytes("MemFree:")),
    ];
    all.into_iter().filter_map(|(name, value)| Some((format!("system/{name}"), value?)))
}

/// What a picture of the agent tells.
pub(super) fn metrics_of(http: &Http, view: &crate::core::View, counts: [usize; 4]) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let mut put = |name: &str, value: f64| {
        all.insert(format!("slave/{name}"), value);
    };
    for (name, count) in
        ["tasks_staging", "tasks_running", "tasks_terminated", "tasks_remembered"].iter().zip(counts)
    {
        put(name, count as f64);
    }
    put("registered", f64::from(u8::from(view.registered)));
    put("uptime_secs", http.started.elapsed().as_secs_f64());
    put("frameworks_active", view.frameworks.iter().filter(|one| !one.completed).count() as f64);
    let executors = view.frameworks.iter().flat_map(|framework| &framework.executors);
    put("executors_running", executors.filter(|executor| !executor.completed).count() as f64);
    for name in ["cpus", "gpus", "mem", "disk"] {
        let total = view.agent.resources.iter().filter(|one| one.name == name);
        let total: f64 = total.filter_map(|one| one.scalar.as_ref()).map(|scalar| scalar.value).sum();
        put(&format!("{name}_total"), total);
        let used = used(view, name);
        put(&format!("{name}_used"), used);
        put(&format!("{name}_percent"), if total > 0.0 { used / total } else { 0.0 });
    }
    all.extend(http.fetcher.figures().map(|(name, value)| (name.to_owned(), value)));
    all
}

/// What tasks and executors that live were given.
fn used(view: &crate::core::View, name: &str) -> f64 {
    let executors = view.frameworks.iter().flat_map(|framework| &framework.executors);
    let live = executors.filter(|executor| !executor.completed);
    let given = live.flat_map(|executor| {
        let tasks =
            executor.tasks.iter().filter(|task| matches!(task.stage, "pending" | "queued" | "launched"));
        let own = executor.info.resources.iter().filter(|_| !executor.command);
        own.chain(tasks.flat_map(|task| &task.task.resources))
    });
    let named = given.filter(|one| one.name == name);
    named.filter_map(|one| one.scalar.as_ref()).map(|scalar| scalar.value).sum()
}

pub(super) async fn metrics_endpoint(http: &Http) -> Response {
    match metrics(http).await {
        Ok(metrics) => super::json(&json!(metrics)),
        Err(refusal) => refusal,
    }
}
