//! Mesos' older endpoints: `/state`, `/state-summary`, `/slaves`, `/frameworks`, `/tasks`, `/roles`, `/flags`, `/metrics/snapshot`, `/teardown`,
//! `/reserve`, `/unreserve`, `/create-volumes`, `/destroy-volumes`.
//!
//! Answers without parameters are shared between readers; see `cache`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axum::body::Bytes;
use axum::response::Response;
use http::{Method, StatusCode};
use plenum_api::codec;
use plenum_api::master::{Call, call};
use plenum_api::mesos::{AgentId, FrameworkId, Resource};
use serde_json::{Map, Value as Json, json};

use super::{Asked, Front, cache, model, operator, plain, reads, url_pairs};
use crate::core::{FrameworkView, State, Task, Totals};
use crate::shell::owner::{Ended, Handle};

/// Tasks shown by `/tasks` when no limit is given.
const TASK_LIMIT: usize = 100;

pub(crate) async fn serve(front: &Front, asked: Asked) -> Response {
    let known = [
        "state",
        "state-summary",
        "slaves",
        "frameworks",
        "tasks",
        "roles",
        "flags",
        "metrics/snapshot",
        "teardown",
        "reserve",
        "unreserve",
        "create-volumes",
        "destroy-volumes",
        "weights",
        "quota",
    ];
    if !known.contains(&asked.path.as_str()) {
        return plain(StatusCode::NOT_FOUND, format!("there is no /{} here", asked.path));
    }
    if asked.path == "flags" {
        return super::json(flags(front), asked.query("jsonp"));
    }
    let handle = match front.leader(&asked.path_and_query) {
        Ok(handle) => handle,
        Err(elsewhere) => return *elsewhere,
    };
    if asked.path == "teardown" {
        return teardown(front, &handle, &asked).await;
    }
    if let "reserve" | "unreserve" | "create-volumes" | "destroy-volumes" = asked.path.as_str() {
        return change(front, &handle, &asked).await;
    }
    if asked.method != Method::GET && asked.method != Method::HEAD {
        return plain(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("/{} is read with GET; changes are calls of the operator API at /api/v1", asked.path),
        );
    }
    match answer(front, &handle, &asked).await {
        Ok(body) => super::json(body, asked.query("jsonp")),
        Err(ended) => ended.into(),
    }
}

async fn answer(front: &Front, handle: &Handle, asked: &Asked) -> Result<Bytes, Ended> {
    let own = |name: &str| asked.query(name).map(str::to_owned);
    match asked.path.as_str() {
        "state" => {
            let (cluster, flags) = (front.cluster.clone(), flag_map(front));
            front.cache.get("state", handle, move |s| bytes(&state(s, &cluster, flags))).await
        }
        "state-summary" => {
            let cluster = front.cluster.clone();
            front.cache.get("state-summary", handle, move |s| bytes(&summary(s, &cluster))).await
        }
        "metrics/snapshot" => front.cache.get("metrics", handle, |s| bytes(&json!(model::metrics(s)))).await,
        "roles" => front.cache.get("roles", handle, |s| bytes(&roles(s))).await,
        "weights" => front.cache.get("weights", handle, |s| bytes(&weights(s))).await,
        "quota" => front.cache.get("quota", handle, |s| bytes(&quota(s))).await,
        "slaves" => match own("slave_id") {
            None => front.cache.get("slaves", handle, |s| bytes(&slaves(s, None))).await,
            Some(id) => Ok(cache::encode(handle.state().await?, move |s| bytes(&slaves(s, Some(&id)))).await),
        },
        "frameworks" => match own("framework_id") {
            None => front.cache.get("frameworks", handle, |s| bytes(&frameworks(s, None))).await,
            Some(id) => {
                Ok(cache::encode(handle.state().await?, move |s| bytes(&frameworks(s, Some(&id)))).await)
            }
        },
        _ => {
            let choice = Choice::read(asked);
            Ok(cache::encode(handle.state().await?, move |s| bytes(&tasks(s, &choice))).await)
        }
    }
}

fn bytes(value: &Json) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn flag_map(front: &Front) -> Json {
    Json::Object(front.flags.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect())
}

fn flags(front: &Front) -> Bytes {
    bytes(&json!({ "flags": flag_map(front) })).into()
}

/// A framework with its tasks, executors and offers.
fn full_framework(
    s: &State,
    framework: &FrameworkView,
    totals: &Totals,
    live: &[&Arc<Task>],
    rest: &Rest,
) -> Json {
    let mut map = model::framework(framework, totals.frameworks.get(&framework.id));
    let list = |tasks: &mut dyn Iterator<Item = &Arc<Task>>| {
        Json::Array(tasks.map(|task| model::task(&task.describe())).collect())
    };
    map.insert("tasks".into(), list(&mut live.iter().copied()));
    map.insert("unreachable_tasks".into(), list(&mut framework.unreachable.iter()));
    map.insert("completed_tasks".into(), list(&mut framework.completed.iter()));
    let offers =
        rest.offers.get(&*framework.id).into_iter().flatten().map(|offer| model::offer(offer, &s.master.id));
    map.insert("offers".into(), offers.collect());
    map.insert(
        "executors".into(),
        Json::Array(rest.executors.get(&*framework.id).cloned().unwrap_or_default()),
    );
    Json::Object(map)
}

/// Offers and executors by framework.
#[derive(Default)]
struct Rest {
    offers: HashMap<String, Vec<Arc<crate::core::Offer>>>,
    executors: HashMap<String, Vec<Json>>,
}

fn rest(s: &State) -> Rest {
    let mut rest = Rest::default();
    for offer in s.offers.iter() {
        rest.offers.entry(offer.framework_id.to_string()).or_default().push(Arc::clone(offer));
    }
    for agent in s.agents.iter() {
        for (framework, info) in agent.executors() {
            rest.executors.entry(framework.to_string()).or_default().push(model::executor(info, &agent.id));
        }
    }
    rest
}

fn all_frameworks(s: &State, totals: &Totals, only: Option<&str>) -> (Json, Json) {
    let live = s.tasks_by_framework();
    let rest = rest(s);
    let wanted = |framework: &&Arc<FrameworkView>| only.is_none_or(|id| *framework.id == *id);
    let none = Vec::new();
    let running = s.frameworks.iter().filter(wanted).map(|framework| {
        let tasks = live.get(&*framework.id).unwrap_or(&none);
        full_framework(s, framework, totals, tasks, &rest)
    });
    let nothing = Rest::default();
    let completed = s
        .completed
        .iter()
        .filter(wanted)
        .map(|framework| full_framework(s, framework, totals, &[], &nothing));
    (running.collect(), completed.collect())
}

fn recovered(s: &State, only: Option<&str>) -> Json {
    let wanted = s
        .absent
        .iter()
        .filter(|(id, absent)| absent.is_recovered() && only.is_none_or(|only| *only == ***id));
    let shown = wanted.map(|(_, absent)| {
        let mut map = model::agent_info(&absent.info);
        model::name_node(&mut map, absent.node_name());
        Json::Object(map)
    });
    shown.collect()
}

/// Agents that are unreachable. Not part of Mesos' answer.
fn unreachable(s: &State, only: Option<&str>) -> Json {
    let wanted = s.absent.iter().filter(|(id, _)| only.is_none_or(|only| *only == ***id));
    let shown = wanted.filter_map(|(_, absent)| {
        let crate::core::Absence::Unreachable(since) = absent.why else { return None };
        let mut map = model::agent_info(&absent.info);
        model::name_node(&mut map, absent.node_name());
        map.insert("unreachable_time".into(), json!(since.as_secs_f64()));
        map.insert("deactivated".into(), json!(!absent.life.serves()));
        Some(Json::Object(map))
    });
    shown.collect()
}

fn state(s: &State, cluster: &str, flags: Json) -> Json {
    let totals = s.totals();
    let active = s.agents.iter().filter(|agent| agent.active()).count();
    let (frameworks, completed) = all_frameworks(s, &totals, None);
    let slaves: Vec<Json> = s
        .agents
        .iter()
        .map(|agent| {
            let mut map = model::agent(agent, totals.agents.get(&agent.id), false);
            model::reservations(&mut map, agent);
            Json::Object(map)
        })
        .collect();
    let master = &s.master;
    let pid = master.pid.clone().unwrap_or_default();
    let started = s.started.as_secs_f64();
    let mut shown = json!({
        "version": crate::MESOS_VERSION,
        "build_date": "",
        "build_time": 0.0,
        "build_user": "plenum",
        "git_tag": format!("plenum-{}", env!("CARGO_PKG_VERSION")),
        "start_time": started,
        "elected_time": started,
        "id": master.id,
        "pid": pid,
        "hostname": master.hostname,
        "capabilities": ["AGENT_UPDATE", "QUOTA_V2"],
        "activated_slaves": active,
        "deactivated_slaves": s.agents.len() - active,
        "unreachable_slaves": model::unreachable(s),
        "leader": pid,
        "leader_info": {"id": master.id, "pid": pid, "port": master.port, "hostname": master.hostname},
        "cluster": cluster,
        "flags": flags,
        "slaves": slaves,
        "recovered_slaves": recovered(s, None),
        "frameworks": frameworks,
        "completed_frameworks": completed,
        "orphan_tasks": [],
        "unregistered_frameworks": [],
    });
    if let (Json::Object(map), Some(domain)) = (&mut shown, &master.domain) {
        map.insert("domain".into(), json!(domain));
    }
    shown
}

/// States that summaries count.
const COUNTED: [&str; 10] = [
    "TASK_STAGING",
    "TASK_STARTING",
    "TASK_RUNNING",
    "TASK_KILLING",
    "TASK_FINISHED",
    "TASK_KILLED",
    "TASK_FAILED",
    "TASK_LOST",
    "TASK_ERROR",
    "TASK_UNREACHABLE",
];

#[derive(Default)]
struct Counts<'a> {
    states: BTreeMap<&'static str, usize>,
    others: BTreeSet<&'a str>,
}

impl Counts<'_> {
    fn write(&self, map: &mut Map<String, Json>, others: &str) {
        for name in COUNTED {
            map.insert(name.into(), json!(self.states.get(name).copied().unwrap_or(0)));
        }
        map.insert(others.into(), json!(self.others));
    }
}

fn summary(s: &State, cluster: &str) -> Json {
    let totals = s.totals();
    let mut by_agent: HashMap<&str, Counts<'_>> = HashMap::new();
    let mut by_framework: HashMap<&str, Counts<'_>> =
        s.frameworks.iter().map(|f| (&*f.id, Counts::default())).collect();
    let past = s.frameworks.iter().flat_map(|f| f.unreachable.iter().chain(&f.completed));
    for task in s.tasks.iter().chain(past) {
        let Some(framework) = by_framework.get_mut(&*task.framework_id) else { continue };
        let name = task.state.as_str_name();
        *framework.states.entry(name).or_default() += 1;
        framework.others.insert(&task.agent_id);
        let agent = by_agent.entry(&task.agent_id).or_default();
        *agent.states.entry(name).or_default() += 1;
        agent.others.insert(&task.framework_id);
    }
    let none = Counts::default();
    let slaves = s.agents.iter().map(|agent| {
        let mut map = model::agent(agent, totals.agents.get(&agent.id), false);
        by_agent.get(&*agent.id).unwrap_or(&none).write(&mut map, "framework_ids");
        Json::Object(map)
    });
    let frameworks = s.frameworks.iter().map(|framework| {
        let mut map = model::framework_summary(framework, totals.frameworks.get(&framework.id));
        by_framework.get(&*framework.id).unwrap_or(&none).write(&mut map, "slave_ids");
        Json::Object(map)
    });
    json!({
        "hostname": s.master.hostname,
        "cluster": cluster,
        "slaves": slaves.collect::<Vec<_>>(),
        "frameworks": frameworks.collect::<Vec<_>>(),
    })
}

fn slaves(s: &State, only: Option<&str>) -> Json {
    let totals = s.totals();
    let wanted = s.agents.iter().filter(|agent| only.is_none_or(|id| *agent.id == *id));
    let slaves: Vec<Json> = wanted
        .map(|agent| {
            let mut map = model::agent(agent, totals.agents.get(&agent.id), true);
            if agent.life.is_draining() {
                map.insert("drain_blockers".into(), model::drain_blockers(s, agent));
            }
            model::name_node(&mut map, agent.node_name());
            Json::Object(map)
        })
        .collect();
    json!({ "slaves": slaves, "recovered_slaves": recovered(s, only), "unreachable_slaves": unreachable(s, only) })
}

fn frameworks(s: &State, only: Option<&str>) -> Json {
    let (frameworks, completed) = all_frameworks(s, &s.totals(), only);
    json!({ "frameworks": frameworks, "completed_frameworks": completed, "unregistered_frameworks": [] })
}

/// The parameters of `/tasks`.
struct Choice {
    limit: usize,
    offset: usize,
    ascending: bool,
    framework: Option<String>,
    task: Option<String>,
}

impl Choice {
    fn read(asked: &Asked) -> Self {
        // As in Mesos, a negative limit is none.
        let number = |name: &str, otherwise: usize| match asked
            .query(name)
            .and_then(|text| text.parse::<i64>().ok())
        {
            Some(number) => usize::try_from(number).unwrap_or(usize::MAX),
            None => otherwise,
        };
        Self {
            limit: number("limit", TASK_LIMIT),
            offset: if asked.query("offset").is_some_and(|text| text.starts_with('-')) {
                0
            } else {
                number("offset", 0)
            },
            ascending: asked.query("order") == Some("asc"),
            framework: asked.query("framework_id").map(str::to_owned),
            task: asked.query("task_id").map(str::to_owned),
        }
    }
}

fn tasks(s: &State, choice: &Choice) -> Json {
    let known: BTreeSet<&str> = s.frameworks.iter().map(|f| &*f.id).collect();
    let live = s.tasks.iter().filter(|task| known.contains(&*task.framework_id));
    let past = s.frameworks.iter().chain(&s.completed).flat_map(|f| f.unreachable.iter().chain(&f.completed));
    let mut chosen: Vec<_> = live
        .chain(past)
        .filter(|task| choice.framework.as_ref().is_none_or(|id| *task.framework_id == **id))
        .filter(|task| choice.task.as_ref().is_none_or(|id| *task.id == **id))
        .map(|task| task.describe())
        .collect();
    // By the time of the first status; tasks without one come first going up and last going down.
    let first = |task: &plenum_api::mesos::Task| {
        task.statuses.first().map(|status| status.timestamp.unwrap_or(0.0)).unwrap_or(f64::NEG_INFINITY)
    };
    chosen.sort_by(|a, b| {
        let order = first(a).total_cmp(&first(b));
        if choice.ascending { order } else { order.reverse() }
    });
    let shown = chosen.iter().skip(choice.offset).take(choice.limit).map(model::task);
    json!({ "tasks": shown.collect::<Vec<_>>() })
}

fn roles(s: &State) -> Json {
    let roles = reads::role_views(s).into_iter().map(|(name, view)| {
        let quota = s.quotas.get(&name);
        let limit: Map<String, Json> = quota
            .iter()
            .flat_map(|q| &q.limits)
            .map(|(name, limit)| (name.clone(), json!(limit.value)))
            .collect();
        let consumed = &view.allocated.unallocate() + &view.reserved.unallocate();
        json!({
            "name": name,
            "weight": view.weight,
            "quota": {"role": name, "guarantee": {}, "limit": limit, "consumed": model::resources(&consumed)},
            "resources": model::resources(&(&view.allocated + &view.offered)),
            "allocated": model::resources(&view.allocated),
            "offered": model::resources(&view.offered),
            "reserved": model::resources(&view.reserved),
            "frameworks": view.frameworks,
        })
    });
    json!({ "roles": roles.collect::<Vec<_>>() })
}

fn weights(s: &State) -> Json {
    s.weights.iter().map(|(role, weight)| json!({"role": role, "weight": weight})).collect()
}

fn quota(s: &State) -> Json {
    json!({ "configs": s.quotas.values().collect::<Vec<_>>(), "infos": [] })
}

/// `/teardown` with `frameworkId=` in the body.
async fn teardown(front: &Front, handle: &Handle, asked: &Asked) -> Response {
    if let Some(refusal) = only_post(asked) {
        return refusal;
    }
    let form = url_pairs(&String::from_utf8_lossy(&asked.body));
    let Some((_, id)) = form.into_iter().find(|(name, _)| name == "frameworkId") else {
        return plain(StatusCode::BAD_REQUEST, "Missing 'frameworkId' query parameter in the request body");
    };
    let call = Call {
        r#type: Some(call::Type::Teardown as i32),
        teardown: Some(call::Teardown { framework_id: FrameworkId { value: id } }),
        ..Default::default()
    };
    operator::write(front, handle, asked, call::Type::Teardown, call).await
}

fn only_post(asked: &Asked) -> Option<Response> {
    (asked.method != Method::POST).then(|| {
        plain(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Expecting one of {{ 'POST' }}, but received '{}'", asked.method),
        )
    })
}

/// `/reserve` and its relatives, with `slaveId=` and a JSON list as `resources=` or `volumes=` in the body.
async fn change(front: &Front, handle: &Handle, asked: &Asked) -> Response {
    if let Some(refusal) = only_post(asked) {
        return refusal;
    }
    let form: BTreeMap<String, String> =
        url_pairs(&String::from_utf8_lossy(&asked.body)).into_iter().collect();
    let list = if asked.path.ends_with("volumes") { "volumes" } else { "resources" };
    let missing = ["slaveId", list].into_iter().find(|name| !form.contains_key(*name));
    if let Some(name) = missing {
        return plain(
            StatusCode::BAD_REQUEST,
            format!("Missing '{name}' query parameter in the request body"),
        );
    }
    let read = serde_json::from_str::<Vec<Json>>(&form[list]).map_err(|error| error.to_string());
    let read = read.and_then(|list| {
        let one = |value: &Json| codec::decode(codec::Encoding::Json, value.to_string().as_bytes());
        list.iter().map(one).collect::<Result<Vec<Resource>, _>>().map_err(|error| error.to_string())
    });
    let resources = match read {
        Ok(resources) => resources,
        Err(error) => {
            return plain(
                StatusCode::BAD_REQUEST,
                format!("Error in parsing '{list}' query parameter in the request body: {error}"),
            );
        }
    };
    let agent_id = AgentId { value: form["slaveId"].clone() };
    let mut call = Call::default();
    let kind = match asked.path.as_str() {
        "reserve" => {
            call.reserve_resources =
                Some(call::ReserveResources { agent_id, resources, ..Default::default() });
            call::Type::ReserveResources
        }
        "unreserve" => {
            call.unreserve_resources = Some(call::UnreserveResources { agent_id, resources });
            call::Type::UnreserveResources
        }
        "create-volumes" => {
            call.create_volumes = Some(call::CreateVolumes { agent_id, volumes: resources });
            call::Type::CreateVolumes
        }
        _ => {
            call.destroy_volumes = Some(call::DestroyVolumes { agent_id, volumes: resources });
            call::Type::DestroyVolumes
        }
    };
    call.set_type(kind);
    operator::write(front, handle, asked, kind, call).await
}
