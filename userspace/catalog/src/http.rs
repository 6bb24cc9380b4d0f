//! The Cosmos API over HTTP: types are negotiated, bodies read, the pure answers of [`crate::api`] written.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use plenum_base::auth::Principal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::bodies::{
    DescribeRequest, InstallRequest, ListRequest, ListResponse, ListVersionsRequest, RepositoriesResponse,
    RepositoryAddRequest, RepositoryDeleteRequest, RepositoryEntry, SearchRequest, SearchResponse,
    UninstallRequest, UninstallResponse,
};
use crate::api::error::{self, CosmosError};
use crate::api::media::{self, Endpoint};
use crate::api::packages;
use crate::apps::{Apps, As};
use crate::definition::without_nulls;
use crate::once::{Key, Plan, Plans};
use crate::repositories::Repositories;

/// What clients branch on.
const CAPABILITIES: [&str; 1] = ["PACKAGE_MANAGEMENT"];
const CAPABILITIES_TYPE: &str = "application/vnd.dcos.capabilities+json;charset=utf-8;version=v1";

/// What handlers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The repositories.
    pub repositories: Arc<Repositories>,
    /// The way to the service scheduler.
    pub apps: Apps,
    /// What repeated requests mean.
    pub plans: Plans,
}

/// Every route; authentication is laid over them by the caller.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/package/search", post(search))
        .route("/package/describe", post(describe))
        .route("/package/list-versions", post(list_versions))
        .route("/package/list", post(list))
        .route("/package/render", post(render))
        .route("/package/install", post(install))
        .route("/package/uninstall", post(uninstall))
        .route("/package/repository/list", post(repository_list))
        .route("/package/repository/add", post(repository_add))
        .route("/package/repository/delete", post(repository_delete))
        .route("/capabilities", get(capabilities))
        .fallback(|| async { CosmosError { status: 404, ..CosmosError::body("no such endpoint") } })
        .with_state(shared)
}

impl IntoResponse for CosmosError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        typed(status, error::MEDIA_TYPE, &self)
    }
}

fn typed<T: Serialize>(status: StatusCode, media_type: &str, body: &T) -> Response {
    let mut response = (status, serde_json::to_vec(body).unwrap_or_default()).into_response();
    if let Ok(value) = HeaderValue::from_str(media_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// A negotiated request.
struct Negotiated<T> {
    endpoint: Endpoint,
    version: u8,
    body: T,
}

impl<T> Negotiated<T> {
    fn read(endpoint: Endpoint, headers: &HeaderMap, body: &Bytes) -> Result<Self, CosmosError>
    where
        T: DeserializeOwned,
    {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let version = endpoint.negotiate(text(header::CONTENT_TYPE), text(header::ACCEPT))?;
        let body = serde_json::from_slice(body).map_err(|error| CosmosError::body(&error.to_string()))?;
        Ok(Self { endpoint, version, body })
    }

    fn answer<A: Serialize>(&self, answer: A) -> Response {
        match serde_json::to_value(answer) {
            Ok(answer) => {
                typed(StatusCode::OK, &self.endpoint.response(self.version), &without_nulls(answer))
            }
            Err(error) => CosmosError::unhandled(error.to_string()).into_response(),
        }
    }
}

type Answer = Result<Response, CosmosError>;

async fn search(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = Negotiated::<SearchRequest>::read(media::SEARCH, &headers, &body)?;
    let packages = shared.repositories.with_index(|index| index.search(request.body.query.as_deref()));
    Ok(request.answer(SearchResponse { packages }))
}

async fn describe(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = Negotiated::<DescribeRequest>::read(media::DESCRIBE, &headers, &body)?;
    let version = request.version;
    let answer = shared.repositories.with_index(|index| packages::describe(index, &request.body, version))?;
    Ok(request.answer(answer))
}

async fn list_versions(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = Negotiated::<ListVersionsRequest>::read(media::LIST_VERSIONS, &headers, &body)?;
    let name = &request.body.package_name;
    Ok(request.answer(shared.repositories.with_index(|index| packages::list_versions(index, name))?))
}

async fn render(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = Negotiated::<InstallRequest>::read(media::RENDER, &headers, &body)?;
    Ok(request.answer(shared.repositories.with_index(|index| packages::rendered(index, &request.body))?))
}

async fn install(
    State(shared): State<Shared>,
    principal: Principal,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request = Negotiated::<InstallRequest>::read(media::INSTALL, &headers, &body)?;
    let key = Key::of("install", &headers, &principal.uid, &body)?;
    let plan = async || install_plan(&shared, &request);
    let bound = shared.plans.bind(key.as_ref(), plan).await?;
    let Plan::Install { app, answer } = &bound.plan else { return Err(CosmosError::key_reused()) };
    let mut answer = answer.clone();
    if let Some(app) = app {
        let by = As { principal: &principal.uid, key: &bound.key };
        match shared.apps.create(app, by).await {
            Ok(id) => answer["appId"] = Value::from(id),
            Err(error) => {
                if error.status < 500 {
                    shared.plans.forget(key.as_ref(), &bound).await;
                }
                return Err(error);
            }
        }
    }
    Ok(request.answer(answer))
}

/// What the request means now.
fn install_plan(shared: &Shared, request: &Negotiated<InstallRequest>) -> Result<Plan, CosmosError> {
    let (package, app) = shared.repositories.with_index(|index| {
        let entry =
            packages::find(index, &request.body.package_name, request.body.package_version.as_deref())?;
        let app = match entry.package.marathon {
            Some(_) => Some(packages::app(entry, &request.body)?),
            None => None,
        };
        Ok::<_, CosmosError>((entry.package.clone(), app))
    })?;
    if app.is_none() && request.version == 1 {
        return Err(CosmosError::no_template(&package.name, &package.version));
    }
    let answer = serde_json::to_value(packages::installed(&package, None));
    Ok(Plan::Install { app, answer: answer.map_err(|error| CosmosError::unhandled(error.to_string()))? })
}

async fn list(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let request = Negotiated::<ListRequest>::read(media::LIST, &headers, &body)?;
    let packages = packages::list(&shared.apps.installed().await?, &request.body);
    Ok(request.answer(ListResponse { packages }))
}

async fn uninstall(
    State(shared): State<Shared>,
    principal: Principal,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request = Negotiated::<UninstallRequest>::read(media::UNINSTALL, &headers, &body)?;
    let key = Key::of("uninstall", &headers, &principal.uid, &body)?;
    let plan = async || uninstall_plan(&shared, &request.body).await;
    let bound = shared.plans.bind(key.as_ref(), plan).await?;
    let Plan::Uninstall { apps, answer } = &bound.plan else { return Err(CosmosError::key_reused()) };
    if !bound.done {
        for (number, (id, framework)) in apps.iter().enumerate() {
            let key = format!("{}-{number}", bound.key);
            shared.apps.delete(id, As { principal: &principal.uid, key: &key }).await?;
            if let Some(framework) = framework {
                shared.apps.teardown(framework).await?;
            }
        }
        shared.plans.done(key.as_ref(), &bound).await;
    }
    Ok(request.answer(answer))
}

/// What the request means now.
async fn uninstall_plan(shared: &Shared, request: &UninstallRequest) -> Result<Plan, CosmosError> {
    let installed = shared.apps.installed().await?;
    let chosen = packages::chosen(&installed, request)?;
    let apps = chosen.iter().map(|app| (app.id.clone(), app.framework.clone())).collect();
    let results = chosen.into_iter().map(packages::InstalledApp::uninstalled).collect();
    let answer = serde_json::to_value(UninstallResponse { results });
    Ok(Plan::Uninstall { apps, answer: answer.map_err(|error| CosmosError::unhandled(error.to_string()))? })
}

async fn repository_list(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    // The body is an empty object, or the literal null.
    let request = Negotiated::<Value>::read(media::REPOSITORY_LIST, &headers, &body)?;
    Ok(request.answer(RepositoriesResponse { repositories: shared.repositories.list() }))
}

async fn repository_add(
    State(shared): State<Shared>,
    principal: Principal,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request = Negotiated::<RepositoryAddRequest>::read(media::REPOSITORY_ADD, &headers, &body)?;
    let RepositoryAddRequest { name, uri, index } = &request.body;
    let known = uri == crate::repositories::BUILT_IN;
    let web = uri.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if !known && !web {
        return Err(CosmosError::uri_syntax(uri));
    }
    let entry = RepositoryEntry { name: name.clone(), uri: uri.clone() };
    shared.repositories.add(entry, *index, &principal.uid).await?;
    Ok(request.answer(RepositoriesResponse { repositories: shared.repositories.list() }))
}

async fn repository_delete(
    State(shared): State<Shared>,
    principal: Principal,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request = Negotiated::<RepositoryDeleteRequest>::read(media::REPOSITORY_DELETE, &headers, &body)?;
    let RepositoryDeleteRequest { name, uri } = &request.body;
    shared.repositories.delete(name.as_deref(), uri.as_deref(), &principal.uid).await?;
    Ok(request.answer(RepositoriesResponse { repositories: shared.repositories.list() }))
}

async fn capabilities() -> Response {
    let names: Vec<_> = CAPABILITIES.iter().map(|name| json!({ "name": name })).collect();
    typed(StatusCode::OK, CAPABILITIES_TYPE, &json!({ "capabilities": names }))
}
