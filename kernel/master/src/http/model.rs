//! Mesos' older JSON: how tasks, agents, frameworks and resources look in `/state` and its relatives. Field names are Mesos' own.

use std::collections::BTreeMap;

use axum::body::Bytes;
use plenum_api::mesos::{self, Resource, TaskState};
use plenum_api::resources::{Format, Resources, Value};
use serde_json::{Map, Value as Json, json};

use crate::core::{Agent, FrameworkView, Offer, Share, State};

/// A message as Mesos' JSON of protobuf.
fn proto<T: serde::Serialize>(message: &T) -> Json {
    serde_json::to_value(message).unwrap_or(Json::Null)
}

/// Time of day in seconds.
fn seconds(at: plenum_api::Millis) -> Json {
    json!(at.as_secs_f64())
}

/// `{cpus, gpus, mem, disk, …}`: scalars summed, ranges and sets as text; what may be taken back has its own names.
pub(crate) fn resources(resources: &Resources) -> Json {
    let mut sums: BTreeMap<String, f64> =
        ["cpus", "gpus", "mem", "disk"].map(|name| (name.to_owned(), 0.0)).into();
    let mut texts: BTreeMap<String, Json> = BTreeMap::new();
    for item in resources {
        let name =
            if item.is_revocable() { format!("{}_revocable", item.name()) } else { item.name().to_string() };
        match item.value() {
            Value::Scalar(amount) => *sums.entry(name).or_default() += amount.as_f64(),
            Value::Ranges(_) => {
                let all = resources.filter(|other| {
                    other.name() == item.name() && other.is_revocable() == item.is_revocable()
                });
                texts.insert(name, Json::String(all.ranges(item.name()).to_string()));
            }
            other => drop(texts.insert(name, Json::String(other.to_string()))),
        }
    }
    // Sums of thousandths, without the noise of binary fractions.
    let mut map: Map<String, Json> =
        sums.into_iter().map(|(name, sum)| (name, number((sum * 1000.0).round() / 1000.0))).collect();
    map.extend(texts);
    Json::Object(map)
}

/// Whole numbers without a fraction, as Mesos writes them.
fn number(value: f64) -> Json {
    // Exact: far below 2^53 in thousandths.
    #[allow(clippy::cast_possible_truncation)]
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

fn wire(list: &[Resource]) -> Json {
    resources(&Resources::from_mesos(list).unwrap_or_default())
}

fn labels(labels: &mesos::Labels) -> Json {
    proto(&labels.labels)
}

fn status(status: &mesos::TaskStatus) -> Json {
    let mut map = Map::new();
    map.insert("state".into(), json!(state_name(status.state)));
    map.insert("timestamp".into(), json!(status.timestamp.unwrap_or(0.0)));
    if let Some(list) = &status.labels {
        map.insert("labels".into(), labels(list));
    }
    if let Some(container) = &status.container_status {
        map.insert("container_status".into(), container_status(container));
    }
    if let Some(healthy) = status.healthy {
        map.insert("healthy".into(), json!(healthy));
    }
    Json::Object(map)
}

fn container_status(status: &mesos::ContainerStatus) -> Json {
    let mut shown = proto(status);
    if let Json::Object(map) = &mut shown {
        map.retain(|name, _| matches!(name.as_str(), "container_id" | "network_infos" | "cgroup_info"));
        for info in map.get_mut("network_infos").and_then(Json::as_array_mut).into_iter().flatten() {
            // Labels are a bare list here.
            if let Some(list) = info.get_mut("labels")
                && let Some(inner) = list.get_mut("labels").map(Json::take)
            {
                *list = inner;
            }
        }
    }
    shown
}

fn state_name(state: i32) -> &'static str {
    TaskState::try_from(state).unwrap_or(TaskState::TaskUnknown).as_str_name()
}

/// A task.
pub(crate) fn task(task: &mesos::Task) -> Json {
    let role = task.resources.first().and_then(|r| r.allocation_info.as_ref()).and_then(|a| a.role.clone());
    let mut shown = json!({
        "id": task.task_id.value,
        "name": task.name,
        "framework_id": task.framework_id.value,
        "executor_id": task.executor_id.as_ref().map_or("", |id| id.value.as_str()),
        "slave_id": task.agent_id.value,
        "state": state_name(task.state),
        "resources": wire(&task.resources),
        "role": role.unwrap_or_else(|| "*".into()),
        "statuses": task.statuses.iter().map(status).collect::<Vec<_>>(),
    });
    let Json::Object(map) = &mut shown else { return shown };
    if !task.limits.is_empty() {
        let limits: Map<String, Json> =
            task.limits.iter().map(|(name, limit)| (name.clone(), json!(limit.value))).collect();
        map.insert("limits".into(), Json::Object(limits));
    }
    if let Some(user) = &task.user {
        map.insert("user".into(), json!(user));
    }
    if let Some(list) = &task.labels {
        map.insert("labels".into(), labels(list));
    }
    if let Some(discovery) = &task.discovery {
        map.insert("discovery".into(), proto(discovery));
    }
    if let Some(container) = &task.container {
        map.insert("container".into(), proto(container));
    }
    if let Some(check) = &task.health_check {
        map.insert("health_check".into(), proto(check));
    }
    shown
}

fn command(command: &mesos::CommandInfo) -> Json {
    let mut map = Map::new();
    if let Some(shell) = command.shell {
        map.insert("shell".into(), json!(shell));
    }
    if let Some(value) = &command.value {
        map.insert("value".into(), json!(value));
    }
    map.insert("argv".into(), json!(command.arguments));
    if let Some(environment) = &command.environment {
        map.insert("environment".into(), proto(environment));
    }
    let uris = command
        .uris
        .iter()
        .map(|uri| json!({"value": uri.value, "executable": uri.executable.unwrap_or(false)}));
    map.insert("uris".into(), uris.collect());
    Json::Object(map)
}

/// An executor, with the id of its agent.
pub(crate) fn executor(info: &mesos::ExecutorInfo, agent: &str) -> Json {
    let mut shown = json!({
        "executor_id": info.executor_id.value,
        "name": info.name.as_deref().unwrap_or_default(),
        "framework_id": info.framework_id.as_ref().map_or("", |id| id.value.as_str()),
        "command": info.command.as_ref().map_or_else(|| json!({"argv": [], "uris": []}), command),
        "resources": wire(&info.resources),
        "slave_id": agent,
    });
    let Json::Object(map) = &mut shown else { return shown };
    if let Some(first) = info.resources.first() {
        let role = first.allocation_info.as_ref().and_then(|a| a.role.as_deref()).unwrap_or("*");
        map.insert("role".into(), json!(role));
    }
    if let Some(list) = &info.labels {
        map.insert("labels".into(), labels(list));
    }
    if let Some(kind) = info.r#type.and_then(|kind| mesos::executor_info::Type::try_from(kind).ok()) {
        map.insert("type".into(), json!(kind.as_str_name()));
    }
    shown
}

fn attributes(list: &[mesos::Attribute]) -> Json {
    use plenum_api::resources::Ranges;
    let value = |attribute: &mesos::Attribute| match (
        &attribute.scalar,
        &attribute.ranges,
        &attribute.set,
        &attribute.text,
    ) {
        (Some(scalar), ..) => number(scalar.value),
        (_, Some(ranges), ..) => json!(Ranges::from(ranges).to_string()),
        (_, _, Some(set), _) => json!(format!("{{{}}}", set.item.join(", "))),
        (.., Some(text)) => json!(text.value),
        _ => Json::Null,
    };
    Json::Object(list.iter().map(|attribute| (attribute.name.clone(), value(attribute))).collect())
}

/// An agent's description of itself.
pub(crate) fn agent_info(info: &mesos::AgentInfo) -> Map<String, Json> {
    let mut map = Map::new();
    map.insert("id".into(), json!(info.id.as_ref().map_or("", |id| id.value.as_str())));
    map.insert("hostname".into(), json!(info.hostname));
    map.insert("port".into(), json!(info.port.unwrap_or(5051)));
    map.insert("attributes".into(), attributes(&info.attributes));
    if let Some(domain) = &info.domain {
        map.insert("domain".into(), proto(domain));
    }
    map
}

/// Adds the name of an agent's node. Not part of Mesos' answer.
pub(crate) fn name_node(map: &mut Map<String, Json>, name: Option<&str>) {
    if let Some(name) = name {
        map.insert("node_name".into(), json!(name));
    }
}

/// What a draining agent waits for: tasks that run, and ended ones whose frameworks have not acknowledged that. Not part of Mesos' answer.
pub(crate) fn drain_blockers(state: &State, agent: &Agent) -> Json {
    let Some(drain) = agent.life.drain.filter(|drain| !drain.drained) else { return json!([]) };
    let tasks = state.tasks.iter().filter(|task| task.agent_id == agent.id);
    let blocker = |task: &std::sync::Arc<crate::core::Task>| {
        let described = task.describe();
        let framework = state.frameworks.iter().find(|framework| framework.id == task.framework_id);
        let own = described.kill_policy.as_ref().and_then(|policy| policy.grace_period.as_ref());
        let own = own.map(|grace| plenum_api::Millis::from_nanos(grace.nanoseconds));
        let grace = match (own, drain.max_grace) {
            (Some(own), Some(most)) => Some(own.min(most)),
            (own, most) => own.or(most),
        };
        json!({
            "task_id": &*task.id,
            "name": described.name,
            "framework_id": &*task.framework_id,
            "framework_name": framework.map_or("", |framework| framework.info.name.as_str()),
            "state": task.state.as_str_name(),
            "since": described.statuses.last().and_then(|status| status.timestamp),
            "killed_by": grace.map(|grace| (drain.started + grace).as_secs_f64()),
            "waits_for": if crate::core::is_terminal(task.state) { "acknowledgement" } else { "end" },
        })
    };
    tasks.map(blocker).collect()
}

/// An agent. `full` adds the resources with everything said about them.
pub(crate) fn agent(agent: &Agent, share: Option<&Share>, full: bool) -> Map<String, Json> {
    let none = Share::default();
    let share = share.unwrap_or(&none);
    let mut map = agent_info(&agent.info);
    map.insert("pid".into(), json!(format!("slave(1)@{}", agent.api_address())));
    map.insert("registered_time".into(), seconds(agent.registered));
    if let Some(at) = agent.reregistered {
        map.insert("reregistered_time".into(), seconds(at));
    }
    map.insert("resources".into(), resources(&agent.total));
    map.insert("used_resources".into(), resources(&share.used));
    map.insert("offered_resources".into(), resources(&share.offered));
    let roles = agent.total.reservation_roles();
    let reserved = roles.iter().map(|role| ((*role).to_owned(), resources(&agent.total.reserved(role))));
    map.insert("reserved_resources".into(), Json::Object(reserved.collect()));
    map.insert("unreserved_resources".into(), resources(&agent.total.unreserved()));
    map.insert("active".into(), json!(agent.active()));
    map.insert("deactivated".into(), json!(!agent.life.serves()));
    if let Some(drain) = agent.life.drain {
        map.insert("drain_info".into(), proto(&drain.info()));
        map.insert("estimated_drain_start_time_seconds".into(), number((drain.started.0 / 1000) as f64));
    }
    map.insert("version".into(), json!(&*agent.version));
    let capability = |c: &mesos::agent_info::Capability| {
        c.r#type
            .and_then(|kind| mesos::agent_info::capability::Type::try_from(kind).ok())
            .map(|kind| kind.as_str_name())
    };
    map.insert(
        "capabilities".into(),
        json!(agent.capabilities.iter().filter_map(capability).collect::<Vec<_>>()),
    );
    if full {
        let both = |resources: &Resources| proto(&resources.to_mesos_as(Format::Both));
        reservations(&mut map, agent);
        map.insert("used_resources_full".into(), both(&share.used));
        map.insert("offered_resources_full".into(), both(&share.offered));
    }
    map
}

/// Adds what is reserved of an agent, with everything said about it.
pub(crate) fn reservations(map: &mut Map<String, Json>, agent: &Agent) {
    let both = |resources: &Resources| proto(&resources.to_mesos_as(Format::Both));
    let roles = agent.total.reservation_roles().into_iter();
    let reserved = roles.map(|role| (role.to_owned(), both(&agent.total.reserved(role))));
    map.insert("reserved_resources_full".into(), Json::Object(reserved.collect()));
    map.insert("unreserved_resources_full".into(), both(&agent.total.unreserved()));
}

/// An offer.
pub(crate) fn offer(offer: &Offer, master: &str) -> Json {
    json!({
        "id": offer.id_under(master),
        "framework_id": &*offer.framework_id,
        "allocation_info": {"role": &*offer.role},
        "slave_id": &*offer.agent_id,
        "resources": resources(&offer.resources),
    })
}

/// What `/state-summary` says of a framework, and `/state` too.
pub(crate) fn framework_summary(framework: &FrameworkView, share: Option<&Share>) -> Map<String, Json> {
    let none = Share::default();
    let share = share.unwrap_or(&none);
    let info = &framework.info;
    let capability = |c: &mesos::framework_info::Capability| {
        c.r#type
            .and_then(|kind| mesos::framework_info::capability::Type::try_from(kind).ok())
            .map(|kind| kind.as_str_name())
    };
    let mut map = Map::new();
    map.insert("id".into(), json!(&*framework.id));
    map.insert("name".into(), json!(info.name));
    map.insert("used_resources".into(), resources(&share.used));
    map.insert("offered_resources".into(), resources(&share.offered));
    map.insert(
        "capabilities".into(),
        json!(info.capabilities.iter().filter_map(capability).collect::<Vec<_>>()),
    );
    map.insert("hostname".into(), json!(info.hostname.as_deref().unwrap_or_default()));
    map.insert("webui_url".into(), json!(info.webui_url.as_deref().unwrap_or_default()));
    map.insert("active".into(), json!(framework.connected));
    map.insert("connected".into(), json!(framework.connected));
    map.insert("recovered".into(), json!(framework.recovered));
    map
}

/// What `/state` and `/frameworks` say of a framework, less its tasks, executors and offers.
pub(crate) fn framework(framework: &FrameworkView, share: Option<&Share>) -> Map<String, Json> {
    let mut map = framework_summary(framework, share);
    let info = &framework.info;
    map.insert("user".into(), json!(info.user));
    map.insert("failover_timeout".into(), number(info.failover_timeout.unwrap_or(0.0)));
    map.insert("checkpoint".into(), json!(info.checkpoint.unwrap_or(false)));
    map.insert("registered_time".into(), seconds(framework.registered));
    map.insert("unregistered_time".into(), framework.unregistered.map_or(json!(0.0), seconds));
    if let Some(principal) = &info.principal {
        map.insert("principal".into(), json!(principal));
    }
    let sum = share.map(|share| &share.used + &share.offered).unwrap_or_default();
    map.insert("resources".into(), resources(&sum));
    if framework.reregistered != framework.registered {
        map.insert("reregistered_time".into(), seconds(framework.reregistered));
    }
    let roles = crate::core::roles_of(info);
    match (info.roles.is_empty(), roles.first()) {
        (true, Some(role)) => map.insert("role".into(), json!(role)),
        _ => map.insert("roles".into(), json!(roles)),
    };
    if let Some(list) = &info.labels {
        map.insert("labels".into(), labels(list));
    }
    map.insert("offer_constraints".into(), framework.constraints.as_deref().map_or_else(|| json!({}), proto));
    map
}

/// Counters and gauges under Mesos' names.
pub(crate) fn metrics(state: &State) -> BTreeMap<String, f64> {
    #[allow(clippy::cast_precision_loss)] // counters far below 2^53
    let float = |n: usize| n as f64;
    #[allow(clippy::cast_precision_loss)]
    let mut all: BTreeMap<String, f64> =
        state.metrics.iter().map(|(name, value)| (name.to_owned(), value as f64)).collect();
    let mut set = |name: &str, value: f64| {
        all.insert(format!("master/{name}"), value);
    };
    let connected = state.frameworks.iter().filter(|f| f.connected).count();
    let active = state.agents.iter().filter(|agent| agent.active()).count();
    set("elected", 1.0);
    set("frameworks_active", float(connected));
    set("frameworks_connected", float(connected));
    set("frameworks_disconnected", float(state.frameworks.len() - connected));
    set("frameworks_inactive", float(state.frameworks.len() - connected));
    set("slaves_active", float(active));
    set("slaves_connected", float(active));
    set("slaves_disconnected", float(state.agents.len() - active));
    set("slaves_inactive", float(state.agents.len() - active));
    set("slaves_unreachable", float(unreachable(state)));
    set("outstanding_offers", float(state.offers.len()));
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for task in state.tasks.iter() {
        *counts.entry(task.state.as_str_name()).or_default() += 1;
    }
    for name in ["TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"] {
        set(
            &name.replace("TASK_", "tasks_").to_ascii_lowercase(),
            float(counts.get(name).copied().unwrap_or(0)),
        );
    }
    set("tasks_unreachable", float(state.frameworks.iter().map(|f| f.unreachable.len()).sum()));
    let totals = state.totals();
    let (mut total, mut used) = (Resources::new(), Resources::new());
    for agent in state.agents.iter() {
        total += &agent.total.unallocate();
    }
    for share in totals.agents.values() {
        used += &share.used;
    }
    for (name, total, used) in [
        ("cpus", total.cpus(), used.cpus()),
        ("mem", total.mem(), used.mem()),
        ("disk", total.disk(), used.disk()),
        ("gpus", total.gpus(), used.gpus()),
    ] {
        set(&format!("{name}_total"), total.as_f64());
        set(&format!("{name}_used"), used.as_f64());
        set(
            &format!("{name}_percent"),
            if total.as_f64() > 0.0 { used.as_f64() / total.as_f64() } else { 0.0 },
        );
    }
    all
}

/// How many agents are unreachable.
pub(crate) fn unreachable(state: &State) -> usize {
    state.absent.values().filter(|absent| matches!(absent.why, crate::core::Absence::Unreachable(_))).count()
}

/// `/version`.
pub(crate) fn version() -> Bytes {
    json!({
        "version": crate::MESOS_VERSION,
        "build_date": "",
        "build_time": 0.0,
        "build_user": "plenum",
        "git_tag": format!("plenum-{}", env!("CARGO_PKG_VERSION")),
    })
    .to_string()
    .into()
}
