//! The HTTP API of Mesos-DNS (`/v1/version`, `config`, `hosts`, `services`, `enumerate`), the virtual addresses, and the role's own status.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use plenum_base::cluster::Masters;
use plenum_base::leading::Answer;
use serde_json::{Value, json};

use crate::feed::Fact;
use crate::fleet::Seen;
use crate::relay::{self, Relay};
use crate::replica::Shared;
use crate::replica::core::VipTable;
use crate::replica::records::{self, Data};

/// What the API answers from.
#[derive(Debug, Clone)]
pub struct Site {
    /// Names and tables.
    pub shared: Shared,
    /// What this process is, and what it hears.
    pub seen: Seen,
    /// Who the masters are.
    pub masters: Masters,
    /// What `/v1/config` shows.
    pub config: Arc<Value>,
}

/// The routes.
pub fn router(site: Site, relay: Relay) -> Router {
    let feed = Router::new().route("/internal/v1/feed", get(relay::feed)).with_state(relay);
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/config", get(config))
        .route("/v1/hosts/{host}", get(hosts))
        .route("/v1/services/{service}", get(services))
        .route("/v1/enumerate", get(enumerate))
        .route("/v1/vips", get(vips))
        .route("/net/v1/vips", get(vips))
        .route("/status", get(status))
        .route("/leader", get(leader))
        .with_state(site)
        .merge(feed)
}

async fn leader(State(site): State<Site>) -> Json<Answer> {
    let led = site.seen.led.borrow().clone();
    Json(Answer { leader: led.leader, own: led.own, term: led.term })
}

async fn version() -> Json<Value> {
    Json(json!({
        "Service": "Mesos-DNS",
        "URL": "https://mesosphere.github.io/mesos-dns",
        "Version": env!("CARGO_PKG_VERSION"),
    }))
}

async fn config(State(site): State<Site>) -> Json<Value> {
    let mut config = (*site.config).clone();
    if let Some(object) = config.as_object_mut() {
        let masters: Vec<String> = site.masters.list().iter().map(ToString::to_string).collect();
        object.insert("masters".to_owned(), json!(masters));
    }
    Json(config)
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

async fn hosts(State(site): State<Site>, Path(host): Path<String>) -> Json<Value> {
    let name = plain(&host);
    let replica = site.shared.read();
    let mut found: Vec<Value> = Vec::new();
    for data in replica.find(&name).data() {
        let ip = match data {
            Data::A(ip) => ip.to_string(),
            Data::Aaaa(ip) => ip.to_string(),
            Data::Srv { .. } => continue,
        };
        found.push(json!({"host": format!("{name}."), "ip": ip}));
    }
    if found.is_empty() {
        found.push(json!({"host": "", "ip": ""}));
    }
    Json(Value::Array(found))
}

async fn services(State(site): State<Site>, Path(service): Path<String>) -> Json<Value> {
    let name = plain(&service);
    let replica = site.shared.read();
    let mut found = Vec::new();
    for data in replica.find(&name).data() {
        let Data::Srv { target, port } = data else { continue };
        let address = replica.find(target).data().find_map(|data| match data {
            Data::A(ip) => Some(ip.to_string()),
            Data::Aaaa(ip) => Some(ip.to_string()),
            Data::Srv { .. } => None,
        });
        found.push(json!({
            "service": format!("{name}."),
            "host": format!("{target}."),
            "ip": address.unwrap_or_default(),
            "port": port.to_string(),
        }));
    }
    if found.is_empty() {
        found.push(json!({"service": "", "host": "", "ip": "", "port": ""}));
    }
    Json(Value::Array(found))
}

async fn enumerate(State(site): State<Site>) -> Json<Value> {
    let replica = site.shared.read();
    let mut frameworks: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (key, fact) in replica.facts() {
        let Fact::Task(task) = fact else { continue };
        let records: Vec<Value> = records::of(key, fact)
            .into_iter()
            .map(|(name, data)| {
                let (kind, host) = match data {
                    Data::A(ip) => ("A", ip.to_string()),
                    Data::Aaaa(ip) => ("AAAA", ip.to_string()),
                    Data::Srv { target, port } => ("SRV", format!("{target}.:{port}")),
                };
                json!({"name": format!("{name}."), "host": host, "rtype": kind})
            })
            .collect();
        let entry = json!({"name": task.name, "id": task.id, "records": records});
        frameworks.entry(&task.framework).or_default().push(entry);
    }
    let frameworks: Vec<Value> =
        frameworks.into_iter().map(|(name, tasks)| json!({"name": name, "tasks": tasks})).collect();
    Json(json!({"frameworks": frameworks}))
}

async fn vips(State(site): State<Site>) -> Json<Value> {
    let tables: Vec<VipTable> = site.shared.read().vips().collect();
    let entry = |table: VipTable| {
        let host = match &table.name {
            Some(name) => format!("{name}.{}", crate::names::L4LB),
            None => table.address.to_string(),
        };
        let backend: Vec<Value> =
            table.backends.iter().map(|to| json!({"ip": to.ip().to_string(), "port": to.port()})).collect();
        json!({
            "vip": format!("{host}:{}", table.port),
            "address": table.address.to_string(),
            "protocol": table.protocol.as_str(),
            "backend": backend,
        })
    };
    Json(Value::Array(tables.into_iter().map(entry).collect()))
}

async fn status(State(site): State<Site>) -> Json<Value> {
    let connected = *site.seen.connected.borrow();
    let mode = format!("{:?}", *site.seen.mode.borrow()).to_ascii_lowercase();
    let leader = site.seen.led.borrow().leader.clone();
    let live = site.shared.is_live();
    let replica = site.shared.read();
    let (epoch, generation) = replica.step();
    let tasks = replica.facts().keys().filter(|key| key.starts_with("task/")).count();
    Json(json!({
        "connected": connected,
        "mode": mode,
        "live": live,
        "publisher": leader,
        "epoch": epoch,
        "generation": generation,
        "tasks": tasks,
        "vips": replica.vips().count(),
    }))
}
