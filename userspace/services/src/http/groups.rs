//! `/v2/groups` and everything below. An id may end in a word that is also an endpoint; the endpoint wins, as in Marathon.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::answer::json_answer;
use super::{Api, Ask, no_such};
use crate::core::condition::Subject;
use crate::core::error::ApiError;
use crate::core::group_requests::GroupChange;
use crate::core::id::PathId;
use crate::core::requests::Kind;
use crate::core::view::{Embed, Shows};
use crate::core::{Snapshot, view};

pub(super) async fn dispatch(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    let force = ask.query.flag("force", false)?;
    match (ask.method.as_str(), rest) {
        ("GET" | "HEAD", [path @ .., "apps"]) => {
            let embed = Embed::LIST.and(Embed::apps(ask.query.all("embed")));
            found(api, id(path)?, move |state, id| {
                let below = state.entries_in(id).filter_map(|(app, _)| view::app(state, app, embed));
                Some(json!({"apps": below.collect::<Vec<_>>()}))
            })
            .await
        }
        ("GET" | "HEAD", [path @ .., "tasks"]) => {
            found(api, id(path)?, |state, id| {
                let below = state.entries_in(id).filter_map(|(app, _)| view::app_tasks(state, app));
                Some(json!({"tasks": below.flatten().collect::<Vec<_>>()}))
            })
            .await
        }
        ("GET" | "HEAD", [path @ .., "versions"]) => {
            found(api, id(path)?, |state, id| state.group_versions(id).map(Value::from)).await
        }
        ("GET" | "HEAD", [path @ .., "versions", version]) => {
            let version = (*version).to_owned();
            let shows = Shows::parse(ask.query.all("embed"));
            found(api, id(path)?, move |state, id| view::group_version(state, id, &version, shows)).await
        }
        ("GET" | "HEAD", path) => {
            let shows = Shows::parse(ask.query.all("embed"));
            let id = id(path)?;
            let subject = Subject::Group(id.clone());
            let look = move |state: &Snapshot| -> Result<(Value, String), ApiError> {
                let tag = state.tag(&subject).ok_or_else(|| missing(id.as_str()))?;
                Ok((view::group(state, &id, shows), tag))
            };
            let (body, tag) = api.handle.read(move |state, _| look(state)).await??;
            Ok(ask.tagged(&body, &tag))
        }
        ("POST", path) => change(api, ask, GroupChange::Create(wanted_id(path)?, ask.object()?), force).await,
        ("PUT", path) => change(api, ask, GroupChange::Update(wanted_id(path)?, ask.object()?), force).await,
        ("PATCH", path) => change(api, ask, GroupChange::Settings(id(path)?, ask.object()?), force).await,
        ("DELETE", path) => change(api, ask, GroupChange::Remove(id(path)?), force).await,
        _ => Err(no_such()),
    }
}

async fn change(api: &Api, ask: &Ask, change: GroupChange, force: bool) -> Result<Response, ApiError> {
    match change.subject() {
        Some(id) => ask.change_of(api, Subject::Group(id), Kind::Group(change), force).await,
        None => ask.change(api, Kind::Group(change), force).await,
    }
}

fn id(parts: &[&str]) -> Result<PathId, ApiError> {
    let text = parts.join("/");
    PathId::parse(&text).map_err(|_| missing(&format!("/{text}")))
}

/// The same, of a group that need not be there yet.
fn wanted_id(parts: &[&str]) -> Result<PathId, ApiError> {
    PathId::parse(&parts.join("/")).map_err(|error| ApiError::invalid("/", error))
}

fn missing(id: &str) -> ApiError {
    ApiError::NotFound(format!("Group '{id}' does not exist"))
}

/// Looks at a group that has to be there, or what `look` finds of it.
async fn found(
    api: &Api,
    id: PathId,
    look: impl FnOnce(&Snapshot, &PathId) -> Option<Value> + Send + 'static,
) -> Result<Response, ApiError> {
    let name = id.clone();
    let read = api.handle.read(move |state, _| if state.has_group(&id) { look(state, &id) } else { None });
    read.await?.map(|body| json_answer(StatusCode::OK, &body)).ok_or_else(|| missing(name.as_str()))
}
