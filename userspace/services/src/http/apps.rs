//! `/v2/apps` and everything below. An id may end in a word that is also an endpoint; the endpoint wins, as in
//! Marathon.

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::answer::{json_answer, json_bytes, text_answer};
use super::query::Selector;
use super::{Api, Ask, no_such};
use crate::core::condition::Subject;
use crate::core::error::{ApiError, Flaw};
use crate::core::id::PathId;
use crate::core::requests::{Killing, Kind};
use crate::core::{Snapshot, view};

pub(super) async fn dispatch(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    let method = ask.method.as_str();
    match (method, rest) {
        ("GET" | "HEAD", []) => list(api, ask, None).await,
        ("POST", []) => {
            let kind = Kind::Create(ask.object()?);
            ask.change(api, kind, ask.query.flag("force", false)?).await
        }
        ("PUT" | "PATCH", []) => many(api, ask).await,
        ("GET" | "HEAD", [group @ .., "*"]) => {
            let group = id(group)?;
            let name = group.clone();
            if !api.handle.read(move |state, _| state.has_group(&name)).await? {
                return Err(ApiError::NotFound(format!("Group '{group}' does not exist")));
            }
            list(api, ask, Some(group)).await
        }
        (_, [app @ .., "restart"]) if ask.method == Method::POST && !app.is_empty() => {
            let id = id(app)?;
            let force = ask.query.flag("force", false)?;
            ask.change_of(api, Subject::App(id.clone()), Kind::Restart(id), force).await
        }
        ("GET" | "HEAD", [app @ .., "tasks"]) if !app.is_empty() => tasks(api, ask, id(app)?).await,
        ("DELETE", [app @ .., "tasks"]) if !app.is_empty() => kill(api, ask, id(app)?, None).await,
        ("DELETE", [app @ .., "tasks", task]) if !app.is_empty() => {
            kill(api, ask, id(app)?, Some(task)).await
        }
        ("GET" | "HEAD", [app @ .., "versions"]) if !app.is_empty() => versions(api, id(app)?).await,
        ("GET" | "HEAD", [app @ .., "versions", version]) if !app.is_empty() => {
            one_version(api, id(app)?, version).await
        }
        ("GET" | "HEAD", [app @ .., "ended"]) if !app.is_empty() => ended(api, id(app)?).await,
        ("GET" | "HEAD", [app @ .., "why"]) if !app.is_empty() => why(api, id(app)?).await,
        ("GET" | "HEAD", app) => show(api, ask, id(app)?).await,
        ("PUT" | "PATCH", app) => {
            // Only PUT makes an app that is not there.
            if method == "PATCH" {
                let name = id(app)?;
                found(api, name.clone(), |state, id| state.entry(id).map(|_| Value::Null)).await?;
            }
            let partial = method == "PATCH" || ask.query.flag("partialUpdate", true)?;
            let id = wanted_id(app)?;
            let kind = Kind::Update { id: id.clone(), body: ask.object()?, partial };
            ask.change_of(api, Subject::App(id), kind, ask.query.flag("force", false)?).await
        }
        ("DELETE", app) => {
            let id = id(app)?;
            let force = ask.query.flag("force", true)?;
            ask.change_of(api, Subject::App(id.clone()), Kind::Remove(id), force).await
        }
        _ => Err(no_such()),
    }
}

/// The id that the parts of a path make.
pub(super) fn id(parts: &[&str]) -> Result<PathId, ApiError> {
    let text = parts.join("/");
    PathId::parse(&text).map_err(|_| ApiError::no_app(format!("/{text}")))
}

/// The same, of an app that need not be there yet.
fn wanted_id(parts: &[&str]) -> Result<PathId, ApiError> {
    PathId::parse(&parts.join("/")).map_err(|error| ApiError::invalid("/id", error))
}

async fn list(api: &Api, ask: &Ask, group: Option<PathId>) -> Result<Response, ApiError> {
    let embed = view::Embed::LIST.and(view::Embed::apps(ask.query.all("embed")));
    let text = |key: &str| ask.query.get(key).map(str::to_owned);
    let (cmd, id) = (text("cmd"), text("id"));
    let selector = ask.query.get("label").map(Selector::parse).transpose()?;
    let key = if group.is_some() { "*" } else { "apps" };
    let body = api
        .handle
        .read(move |state, _| {
            let fits = |app: &crate::core::app::App| {
                let has = |inside: &str, part: &Option<String>| {
                    part.as_ref().is_none_or(|p| inside.contains(p.as_str()))
                };
                has(app.cmd.as_deref().unwrap_or(""), &cmd)
                    && has(app.id.as_str(), &id)
                    && selector.as_ref().is_none_or(|s| s.fits(&app.labels))
                    && group.as_ref().is_none_or(|g| app.id.is_below(g))
            };
            let entries = state.entries().filter(|(_, e)| e.wanted.app().is_some_and(fits));
            let mut body = format!("{{\"{key}\":[").into_bytes();
            for (n, (_, entry)) in entries.enumerate() {
                if n > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(&view::listed(entry, embed));
            }
            body.extend_from_slice(b"]}");
            body
        })
        .await?;
    Ok(json_bytes(StatusCode::OK, body))
}

async fn show(api: &Api, ask: &Ask, id: PathId) -> Result<Response, ApiError> {
    let embed = view::Embed::APP.and(view::Embed::apps(ask.query.all("embed")));
    let subject = Subject::App(id.clone());
    let look = move |state: &Snapshot| -> Result<(Value, String), ApiError> {
        let app = view::app(state, &id, embed).ok_or_else(|| ApiError::no_app(&id))?;
        Ok((json!({"app": app}), state.tag(&subject).unwrap_or_default()))
    };
    let (body, tag) = api.handle.read(move |state, _| look(state)).await??;
    Ok(ask.tagged(&body, &tag))
}

async fn found(
    api: &Api,
    id: PathId,
    look: impl FnOnce(&Snapshot, &PathId) -> Option<Value> + Send + 'static,
) -> Result<Response, ApiError> {
    let name = id.clone();
    let body = api.handle.read(move |state, _| look(state, &id)).await?;
    body.map(|body| json_answer(StatusCode::OK, &body)).ok_or_else(|| ApiError::no_app(name))
}

async fn many(api: &Api, ask: &Ask) -> Result<Response, ApiError> {
    let partial = ask.method == Method::PATCH || ask.query.flag("partialUpdate", true)?;
    let wrong = |path: String| ApiError::BadFields(vec![Flaw::new(path, "error.expected.jsobject")]);
    let Value::Array(items) = ask.json()? else {
        return Err(ApiError::BadFields(vec![Flaw::new("/", "error.expected.jsarray")]));
    };
    let mut bodies: Vec<Map<String, Value>> = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let Value::Object(body) = item else { return Err(wrong(format!("({i})"))) };
        bodies.push(body);
    }
    if ask.method == Method::PATCH {
        // Only PUT makes apps that are not there.
        let ids = bodies.iter().filter_map(|body| PathId::parse(body.get("id")?.as_str()?).ok());
        let ids: Vec<PathId> = ids.collect();
        let missing = api.handle.read(move |state, _| ids.into_iter().find(|id| state.entry(id).is_none()));
        if let Some(id) = missing.await? {
            return Err(ApiError::no_app(id));
        }
    }
    let kind = Kind::UpdateMany { bodies, partial };
    ask.change(api, kind, ask.query.flag("force", false)?).await
}

async fn tasks(api: &Api, ask: &Ask, id: PathId) -> Result<Response, ApiError> {
    if !super::others::wants_text(&ask.accept) {
        return found(api, id, |state, id| view::app_tasks(state, id).map(|tasks| json!({"tasks": tasks})))
            .await;
    }
    let name = id.safe();
    let text = api.handle.read(|state, _| view::tasks_text(state)).await?;
    let mine = text.lines().filter(|line| line.split('\t').next() == Some(name.as_str()));
    Ok(text_answer(mine.map(|line| format!("{line}\n")).collect::<String>()))
}

async fn kill(api: &Api, ask: &Ask, app: PathId, task: Option<&str>) -> Result<Response, ApiError> {
    let scale = ask.query.flag("scale", false)?;
    let wipe = ask.query.flag("wipe", false)?;
    if scale && wipe {
        return Err(ApiError::BadRequest("You cannot use scale and wipe at the same time.".to_owned()));
    }
    let tasks = task.map(|t| vec![t.to_owned()]);
    let host = ask.query.get("host").filter(|h| !h.is_empty() && *h != "*").map(str::to_owned);
    let kind = Kind::Kill(Killing { app: Some(app), tasks, host, scale, wipe });
    ask.change(api, kind, ask.query.flag("force", false)?).await
}

async fn versions(api: &Api, id: PathId) -> Result<Response, ApiError> {
    found(api, id, |state, id| view::versions(state, id).map(|versions| json!({"versions": versions}))).await
}

async fn one_version(api: &Api, id: PathId, version: &str) -> Result<Response, ApiError> {
    let (asked, name) = (version.to_owned(), version.to_owned());
    let missing = format!("App '{id}' does not exist in version {name}");
    let body = api.handle.read(move |state, _| view::version(state, &id, &asked)).await?;
    body.map(|body| json_answer(StatusCode::OK, &body)).ok_or(ApiError::NotFound(missing))
}

async fn why(api: &Api, id: PathId) -> Result<Response, ApiError> {
    let name = id.clone();
    let body = api.handle.read(move |state, now| view::why(state, &id, now)).await?;
    body.map(|body| json_answer(StatusCode::OK, &body)).ok_or_else(|| ApiError::no_app(name))
}

/// Instances of an app or a pod that have ended, also when it is gone itself.
async fn ended(api: &Api, id: PathId) -> Result<Response, ApiError> {
    let name = id.clone();
    let body = api.handle.read(move |state, now| state.ended_of(&id, now)).await?;
    body.map(|body| json_answer(StatusCode::OK, &body)).ok_or_else(|| ApiError::no_app(name))
}
