//! Groups, tasks, deployments, the queue, pods and what this process tells about itself.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::{json_answer, text_answer};
use super::{Api, Ask, no_such};
use crate::core::error::{ApiError, Flaw};
use crate::core::id::PathId;
use crate::core::requests::{Killing, Kind};
use crate::core::view;

/// Whether a client asks for plain text rather than JSON.
pub(super) fn wants_text(accept: &str) -> bool {
    accept.contains("text/plain") && !accept.contains("json")
}

pub(super) async fn groups(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    let force = ask.query.flag("force", false)?;
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", [path @ .., "apps"]) => {
            let id = group_id(path)?;
            let apps = api.handle.read(move |state, _| {
                let below = state.entries().filter(|(app, _)| app.is_below(&id));
                below.filter_map(|(app, _)| view::app(state, app, view::Embed::LIST)).collect::<Vec<_>>()
            });
            Ok(json_answer(StatusCode::OK, &json!({"apps": apps.await?})))
        }
        ("GET" | "HEAD", path) => {
            let id = group_id(path)?;
            let default = view::Embed { counts: true, deployments: true, ..view::Embed::default() };
            let embed = view::Embed::parse(ask.query.all("embed"), "group.apps.", default);
            let missing = ApiError::NotFound(format!("Group '{id}' does not exist"));
            let body = api
                .handle
                .read(move |state, _| view::group_exists(state, &id).then(|| view::group(state, &id, embed)));
            body.await?.map(|body| json_answer(StatusCode::OK, &body)).ok_or(missing)
        }
        ("POST" | "PUT", path) => {
            let mut body = ask.object()?;
            if ["scaleBy", "version"].iter().any(|k| body.contains_key(*k)) {
                return Err(ApiError::invalid(
                    "/",
                    "groups cannot be scaled or rolled back: change their apps",
                ));
            }
            let base = group_id(path)?;
            let own = body.remove("id").and_then(|v| v.as_str().map(str::to_owned));
            let base = match own {
                Some(text) => PathId::resolve(&text, Some(&base)).map_err(|e| ApiError::invalid("/id", e))?,
                None => base,
            };
            let mut bodies = Vec::new();
            flatten(&base, body, "", 0, &mut bodies)?;
            let create = ask.method == http::Method::POST;
            ask.change(api, Kind::UpdateMany { bodies, partial: false, create }, force).await.map(
                |mut response| {
                    if create {
                        *response.status_mut() = StatusCode::CREATED;
                    }
                    response
                },
            )
        }
        ("DELETE", path) => ask.change(api, Kind::RemoveGroup(group_id(path)?), force).await,
        _ => Err(no_such()),
    }
}

fn group_id(parts: &[&str]) -> Result<PathId, ApiError> {
    let text = parts.join("/");
    PathId::parse(&text).map_err(|_| ApiError::NotFound(format!("Group '/{text}' does not exist")))
}

/// The apps of a group's description, with absolute ids.
fn flatten(
    base: &PathId,
    mut group: Map<String, Value>,
    at: &str,
    depth: usize,
    out: &mut Vec<Map<String, Value>>,
) -> Result<(), ApiError> {
    let take = |group: &mut Map<String, Value>, key: &str| match group.remove(key) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    if depth > 32 {
        return Err(ApiError::invalid(at, "groups are nested more than 32 deep"));
    }
    if group.get("pods").and_then(Value::as_array).is_some_and(|pods| !pods.is_empty()) {
        return Err(ApiError::invalid(&format!("{at}/pods"), "pods are not supported"));
    }
    let bad = |path: &str, error: &str| ApiError::BadFields(vec![Flaw::new(path, error)]);
    let resolve = |path: &str, body: &Map<String, Value>| {
        let text = body
            .get("id")
            .and_then(Value::as_str)
            .ok_or_else(|| bad(&format!("{path}/id"), "error.path.missing"))?;
        PathId::resolve(text, Some(base)).map_err(|e| ApiError::invalid(&format!("{path}/id"), e))
    };
    for (i, app) in take(&mut group, "apps").into_iter().enumerate() {
        let path = format!("{at}/apps({i})");
        let Value::Object(mut app) = app else { return Err(bad(&path, "error.expected.jsobject")) };
        let id = resolve(&path, &app)?;
        app.insert("id".to_owned(), Value::from(id.as_str()));
        out.push(app);
    }
    for (i, child) in take(&mut group, "groups").into_iter().enumerate() {
        let path = format!("{at}/groups({i})");
        let Value::Object(child) = child else { return Err(bad(&path, "error.expected.jsobject")) };
        let id = resolve(&path, &child)?;
        flatten(&id, child, &path, depth.saturating_add(1), out)?;
    }
    Ok(())
}

pub(super) async fn tasks(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", []) if wants_text(&ask.accept) => {
            Ok(text_answer(api.handle.read(|state, _| view::tasks_text(state)).await?))
        }
        ("GET" | "HEAD", []) => {
            let states = ask.query.all("status").chain(ask.query.all("status[]"));
            let states: Vec<String> = states.map(str::to_owned).collect();
            let tasks = api.handle.read(move |state, _| {
                let states: Vec<&str> = states.iter().map(String::as_str).collect();
                view::tasks(state, &states)
            });
            Ok(json_answer(StatusCode::OK, &json!({"tasks": tasks.await?})))
        }
        ("GET" | "HEAD", ["unknown"]) => {
            let body = api.handle.read(|state, _| view::strangers(state)).await?;
            Ok(json_answer(StatusCode::OK, &body))
        }
        ("POST", ["delete"]) => {
            let body = ask.object()?;
            let wrong = || ApiError::BadFields(vec![Flaw::new("/ids", "error.expected.jsarray")]);
            let ids = body.get("ids").and_then(Value::as_array).ok_or_else(wrong)?;
            let tasks = ids
                .iter()
                .map(|v| v.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(wrong)?;
            let scale = ask.query.flag("scale", false)?;
            if scale && ask.query.flag("wipe", false)? {
                return Err(ApiError::BadRequest(
                    "You cannot use scale and wipe at the same time.".to_owned(),
                ));
            }
            let kind = Kind::Kill(Killing { app: None, tasks: Some(tasks), host: None, scale });
            ask.change(api, kind, ask.query.flag("force", false)?).await
        }
        _ => Err(no_such()),
    }
}

pub(super) async fn deployments(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", []) => {
            let list = api.handle.read(|state, _| view::deployments(state)).await?;
            Ok(json_answer(StatusCode::OK, &Value::from(list)))
        }
        ("DELETE", [id]) => {
            let force = ask.query.flag("force", false)?;
            ask.change(api, Kind::Cancel((*id).to_owned()), force).await
        }
        _ => Err(no_such()),
    }
}

pub(super) async fn queue(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", []) => {
            let offers = ask.query.all("embed").any(|e| e == "lastUnusedOffers");
            let body = api.handle.read(move |state, now| view::queue(state, now, offers)).await?;
            Ok(json_answer(StatusCode::OK, &body))
        }
        ("DELETE", [app @ .., "delay"]) if !app.is_empty() => {
            ask.change(api, Kind::ResetDelay(super::apps::id(app)?), false).await
        }
        _ => Err(no_such()),
    }
}

/// There are no pods; those who look find none, those who make some are told.
pub(super) fn pods(ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", [] | ["::status"]) => Ok(json_answer(StatusCode::OK, &json!([]))),
        ("GET" | "HEAD" | "PUT" | "DELETE", [.., last]) => {
            let id = last.split("::").next().unwrap_or("");
            Err(ApiError::NotFound(format!("Pod '/{id}' does not exist")))
        }
        _ => Err(ApiError::invalid("/", "pods are not supported by this version")),
    }
}

pub(super) async fn info(api: &Api) -> Result<Response, ApiError> {
    let framework = api.handle.read(|state, _| state.framework.clone()).await?;
    let about = &api.about;
    let body = json!({
        "name": "marathon",
        "version": "1.11.24",
        "buildref": concat!("plenum-", env!("CARGO_PKG_VERSION")),
        "elected": true,
        "leader": about.leader,
        "frameworkId": framework,
        "marathon_config": {
            "master": about.master,
            "framework_name": about.framework,
            "failover_timeout": about.failover_timeout,
            "checkpoint": true,
            "ha": about.ha,
            "features": ["gpu_resources", "secrets"],
        },
        "zookeeper_config": {},
        "http_config": {},
    });
    Ok(json_answer(StatusCode::OK, &body))
}

pub(super) async fn metrics(api: &Api) -> Result<Response, ApiError> {
    let counts = api.handle.read(|state, _| view::counts(state)).await?;
    let gauges: Map<String, Value> =
        counts.into_iter().map(|(name, value)| (name, json!({"value": value}))).collect();
    let body = json!({
        "version": "4.0.0", "gauges": gauges, "counters": {}, "histograms": {}, "meters": {}, "timers": {},
    });
    Ok(json_answer(StatusCode::OK, &body))
}
