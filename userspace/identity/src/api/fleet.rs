//! What a fleet asks of identity: join tokens, hosts that join and are removed, the masters, the settings that every host must agree on, and
//! the secret of the masters' TLS tickets.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, FromRequestParts, Path, Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use plenum_base::auth::{Kind, OnlyComponent, Principal};
use plenum_base::cluster::ClusterMap;
use plenum_base::serve::ConnInfo;
use plenum_base::tls::join::JoinBody;
use plenum_base::tls::tickets::SHARING;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::error::{IamError, json as read_json};
use crate::directory::{DirectoryError, JoinToken, NewJoinToken};

/// A caller who may change the fleet: a superuser, or root on a master, who holds identity's own key.
pub(crate) struct Operator(pub(crate) Principal);

impl FromRequestParts<App> for Operator {
    type Rejection = IamError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, IamError> {
        let principal =
            Principal::from_request_parts(parts, app).await.map_err(|_| IamError::unauthenticated())?;
        if principal.is_role("gateway") {
            return Err(IamError::unauthenticated());
        }
        let may = match principal.kind {
            Kind::Component => principal.is_role("identity"),
            Kind::Executor => false,
            _ => app.authenticator.allows(&principal, "dcos:superuser", "full"),
        };
        if may {
            return Ok(Self(principal));
        }
        let text = "this needs the permission dcos:superuser";
        Err(IamError::new(StatusCode::FORBIDDEN, "ERR_FORBIDDEN", text))
    }
}

/// Answers that hold secrets are kept by nobody on the way.
fn unkept<T: IntoResponse>(answer: T) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `POST /internal/v1/join`: certificates for the roles of a host that has a join token.
pub(crate) async fn join(
    State(app): State<App>,
    Extension(conn): Extension<ConnInfo>,
    body: Bytes,
) -> Result<Response, IamError> {
    let request: JoinBody = read_json(&body)?;
    let joined = app.directory.join(&request, conn.remote.map(|remote| remote.ip())).await;
    if request.csrs.is_empty() && joined.is_ok() {
        // It only asked what the token is for.
        return Ok(unkept(Json(joined?)));
    }
    // Nobody is logged in: the token's public part says who let the host in.
    let id: String = request.token.split('.').nth(1).unwrap_or("?").chars().take(16).collect();
    let principal = Principal::new(format!("join-token {id}"), Kind::Anonymous);
    let name: String = request.name.chars().take(128).collect();
    Ok(unkept(Json(app.audited(&principal, "member.join", &name, joined)?)))
}

/// `GET /internal/v1/tokens`.
pub(crate) async fn tokens(State(app): State<App>, _operator: Operator) -> Result<Json<Value>, IamError> {
    Ok(Json(json!({"tokens": app.directory.joins().await?})))
}

/// `POST /internal/v1/tokens`: 201 with the token, which is not shown again.
pub(crate) async fn create_token(
    State(app): State<App>,
    Operator(operator): Operator,
    body: Bytes,
) -> Result<(StatusCode, Response), IamError> {
    Ok((StatusCode::CREATED, unkept(make_token(&app, &operator, &body).await?)))
}

/// Makes a token of what the body says.
pub(crate) async fn make_token(
    app: &App,
    principal: &Principal,
    body: &[u8],
) -> Result<Json<JoinToken>, IamError> {
    let new: NewJoinToken =
        if body.trim_ascii().is_empty() { NewJoinToken::default() } else { read_json(body)? };
    let kind = new.kind;
    let made = app.directory.create_join(new, &principal.uid).await;
    let id = made.as_ref().map(|token| token.id.clone()).unwrap_or_default();
    Ok(Json(app.audited(principal, "join-token.create", &format!("{kind} {id}"), made)?))
}

/// `DELETE /internal/v1/tokens/{id}`: 204.
pub(crate) async fn delete_token(
    State(app): State<App>,
    Operator(operator): Operator,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, IamError> {
    let Path(id) = id?;
    let removed = app.directory.delete_join(&id).await;
    let shown: String = id.chars().take(64).collect();
    app.audited(&operator, "join-token.delete", &shown, removed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /internal/v1/masters`: the cluster's map.
pub(crate) async fn masters(
    State(app): State<App>,
    _operator: Operator,
) -> Result<Json<ClusterMap>, IamError> {
    Ok(Json(app.directory.masters().await?))
}

#[derive(Deserialize)]
pub(crate) struct Removal {
    /// Out of the map at once, not only leaving.
    #[serde(default)]
    gone: bool,
}

/// `DELETE /internal/v1/masters/{name}`: the master leaves; with `?gone=true` it is out of the map. 204, again and again.
pub(crate) async fn delete_master(
    State(app): State<App>,
    Operator(operator): Operator,
    name: Result<Path<String>, PathRejection>,
    Query(removal): Query<Removal>,
) -> Result<StatusCode, IamError> {
    let Path(name) = name?;
    let done = app.directory.take_out(&name, removal.gone).await;
    let word = if removal.gone { "master.remove" } else { "master.leave" };
    app.audited(&operator, word, &name.chars().take(128).collect::<String>(), done)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /internal/v1/members`: every host that has certificates, with its roles.
pub(crate) async fn members(State(app): State<App>, _operator: Operator) -> Result<Json<Value>, IamError> {
    let mut hosts: std::collections::BTreeMap<String, (Vec<String>, Vec<String>, u64)> = Default::default();
    for member in app.directory.members().await? {
        let host = hosts.entry(member.name).or_default();
        host.0.push(member.role);
        host.1.extend(member.addresses);
        host.2 = host.2.max(member.joined);
    }
    let shown = hosts.into_iter().map(|(name, (roles, mut addresses, joined))| {
        addresses.sort();
        addresses.dedup();
        json!({"name": name, "roles": roles, "addresses": addresses, "joined": joined})
    });
    Ok(Json(json!({"members": shown.collect::<Vec<_>>()})))
}

/// `DELETE /internal/v1/members/{name}`: 204; the host's certificates are not renewed any more, and its keys never come in again.
pub(crate) async fn delete_host(
    State(app): State<App>,
    Operator(operator): Operator,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, IamError> {
    let Path(name) = name?;
    let known = plenum_base::pki::PeerName::new("x", "agent", &name).is_ok();
    let removed = match known {
        true => app.directory.delete_host(&name).await,
        false => Err(DirectoryError::Missing("member")),
    };
    app.audited(&operator, "member.delete", &name.chars().take(128).collect::<String>(), removed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /internal/v1/settings`: what every host must agree on, `{}` where nobody put any; its revision is the `ETag`.
pub(crate) async fn settings(State(app): State<App>, _operator: Operator) -> Result<Response, IamError> {
    let (value, revision) = match app.directory.settings().await? {
        Some(held) => (held.record, held.revision.0),
        None => (json!({}), 0),
    };
    let mut response = Json(value).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// `PUT /internal/v1/settings`: 204. With `If-Match` only in place of those that have that `ETag`, else 412.
pub(crate) async fn put_settings(
    State(app): State<App>,
    Operator(operator): Operator,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, IamError> {
    let settings: Value = read_json(&body)?;
    let expected = match headers.get(header::IF_MATCH) {
        None => None,
        Some(tag) => {
            let number = tag.to_str().ok().and_then(|tag| tag.trim_matches('"').parse::<u64>().ok());
            Some(number.ok_or_else(|| IamError::invalid("If-Match is no ETag of these settings"))?)
        }
    };
    let put = app.directory.put_settings(settings, expected).await;
    app.audited(&operator, "settings.put", "settings", put)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /internal/v1/ticket-secret`: 32 bytes in base64, for the roles of control.
pub(crate) async fn ticket_secret(
    State(app): State<App>,
    OnlyComponent(principal): OnlyComponent,
) -> Result<Response, IamError> {
    if !SHARING.iter().any(|role| principal.is_role(role)) {
        let text = "only the roles of control share this secret";
        return Err(IamError::new(StatusCode::FORBIDDEN, "ERR_FORBIDDEN", text));
    }
    let secret = app.directory.ticket_secret().await?;
    Ok(unkept(Json(json!({"secret": STANDARD.encode(secret)}))))
}
