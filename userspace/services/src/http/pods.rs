//! `/v2/pods` and everything below. What comes after `::` asks for something of the pod whose id stands before.

use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use super::answer::json_answer;
use super::{Api, Ask, no_such};
use crate::core::condition::Subject;
use crate::core::error::ApiError;
use crate::core::id::PathId;
use crate::core::pod_requests::PodChange;
use crate::core::requests::Kind;
use crate::core::{Snapshot, view};

pub(super) async fn dispatch(api: &Api, ask: &Ask, rest: &[&str]) -> Result<Response, ApiError> {
    let path = rest.join("/");
    let (id, of) = match path.split_once("::") {
        Some((id, of)) => (id.trim_end_matches('/'), Some(of)),
        None => (path.as_str(), None),
    };
    let force = ask.query.flag("force", false)?;
    match (ask.method.as_str(), id, of) {
        // Only asks whether there are pods.
        ("HEAD", "", None) => Ok(json_answer(StatusCode::OK, &Value::Null)),
        ("GET", "", None) => every(api, view::pods).await,
        ("GET" | "HEAD", "", Some("status")) => every(api, view::pod_statuses).await,
        ("POST", "", None) => ask.change(api, Kind::Pod(PodChange::Create(ask.object()?)), force).await,
        ("GET" | "HEAD", id, None) => show(api, ask, parse(id)?).await,
        ("PUT", id, None) if !id.is_empty() => {
            let id = PathId::parse(id).map_err(|error| ApiError::invalid("/id", error))?;
            let change = PodChange::Update(id.clone(), ask.object()?);
            ask.change_of(api, Subject::Pod(id), Kind::Pod(change), force).await
        }
        ("DELETE", id, None) => {
            let id = parse(id)?;
            ask.change_of(api, Subject::Pod(id.clone()), Kind::Pod(PodChange::Remove(id)), force).await
        }
        ("GET" | "HEAD", id, Some("status")) => found(api, parse(id)?, view::pod_status).await,
        ("GET" | "HEAD", id, Some("versions")) => found(api, parse(id)?, view::pod_versions).await,
        ("GET" | "HEAD", id, Some(of)) if of.starts_with("versions/") => {
            let version = of.trim_start_matches("versions/").to_owned();
            found(api, parse(id)?, move |state, id| view::pod_version(state, id, &version)).await
        }
        ("DELETE", id, Some("instances")) => {
            let wrong = || ApiError::BadRequest("give an array of the ids of instances".to_owned());
            let Value::Array(items) = ask.json()? else { return Err(wrong()) };
            let ids: Option<Vec<String>> =
                items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            let change = PodChange::Kill { id: parse(id)?, instances: ids.ok_or_else(wrong)?, one: false };
            ask.change(api, Kind::Pod(change), force).await
        }
        ("DELETE", id, Some(of)) if of.starts_with("instances/") => {
            let instances = vec![of.trim_start_matches("instances/").to_owned()];
            let change = PodChange::Kill { id: parse(id)?, instances, one: true };
            ask.change(api, Kind::Pod(change), force).await
        }
        _ => Err(no_such()),
    }
}

fn parse(text: &str) -> Result<PathId, ApiError> {
    PathId::parse(text).map_err(|_| ApiError::no_pod(format!("/{text}")))
}

async fn show(api: &Api, ask: &Ask, id: PathId) -> Result<Response, ApiError> {
    let subject = Subject::Pod(id.clone());
    let look = move |state: &Snapshot| -> Result<(Value, String), ApiError> {
        let pod = view::pod(state, &id).ok_or_else(|| ApiError::no_pod(&id))?;
        Ok((pod, state.tag(&subject).unwrap_or_default()))
    };
    let (body, tag) = api.handle.read(move |state, _| look(state)).await??;
    Ok(ask.tagged(&body, &tag))
}

async fn every(api: &Api, look: fn(&Snapshot) -> Value) -> Result<Response, ApiError> {
    let body = api.handle.read(move |state, _| look(state)).await?;
    Ok(json_answer(StatusCode::OK, &body))
}

async fn found(
    api: &Api,
    id: PathId,
    look: impl FnOnce(&Snapshot, &PathId) -> Option<Value> + Send + 'static,
) -> Result<Response, ApiError> {
    let name = id.clone();
    let body = api.handle.read(move |state, _| look(state, &id)).await?;
    body.map(|body| json_answer(StatusCode::OK, &body)).ok_or_else(|| ApiError::no_pod(name))
}
