//! What components ask of identity: certificates and the policy; and how an administrator manages join tokens and members one by one.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use plenum_base::auth::{OnlyComponent, Principal};
use plenum_base::serve::ConnInfo;
use plenum_base::tls::renew::{Issued, RecoverRequest, RenewRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{IamError, json as read_json};
use super::{Administrator, App};
use crate::directory::JoinToken;

/// `GET /internal/v1/cluster`: what anybody may know.
pub(crate) async fn cluster(State(app): State<App>) -> Json<Value> {
    Json(json!({
        "cluster_id": app.directory.cluster_id,
        "ca_fingerprint": app.directory.ca.fingerprint(),
        "ca": app.directory.ca.certificate_pem(),
    }))
}

/// `POST /internal/v1/certificates`: renews the caller's certificate.
pub(crate) async fn renew(
    State(app): State<App>,
    OnlyComponent(principal): OnlyComponent,
    Extension(conn): Extension<ConnInfo>,
    body: Bytes,
) -> Result<Json<Issued>, IamError> {
    let request: RenewRequest = read_json(&body)?;
    let peer = conn.peer.ok_or_else(IamError::unauthenticated)?;
    let issued = app.directory.renew(&peer, &request.csr).await;
    Ok(Json(app.audited(&principal, "certificate.renew", &peer.name.to_string(), issued)?))
}

/// `POST /internal/v1/certificates/expired`: the same for a member whose certificate has ended.
pub(crate) async fn recover(State(app): State<App>, body: Bytes) -> Result<Json<Issued>, IamError> {
    let request: RecoverRequest = read_json(&body)?;
    let issued = app.directory.recover(&request).await;
    let target: String = format!("{}/{}", request.role, request.name).chars().take(256).collect();
    let principal = Principal::new("holder of the key", plenum_base::auth::Kind::Anonymous);
    Ok(Json(app.audited(&principal, "certificate.recover", &target, issued)?))
}

#[derive(Deserialize)]
pub(crate) struct PolicyQuery {
    #[serde(default)]
    after: u64,
    /// Seconds, 60 at most.
    #[serde(default)]
    wait: u64,
}

/// `GET /internal/v1/policy?after=N&wait=S`: the signed policy once it is newer than N, or 204 after S seconds.
pub(crate) async fn policy(
    State(app): State<App>,
    _component: OnlyComponent,
    Query(query): Query<PolicyQuery>,
) -> Result<Response, IamError> {
    let wait = Duration::from_secs(query.wait.min(60));
    match app.shutdown.until(app.directory.policy_after(query.after, wait)).await {
        Some(Ok(Some(text))) => Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response()),
        Some(Ok(None)) => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(Err(error)) => Err(error.into()),
        None => Err(IamError::unavailable("identity is ending; try again")),
    }
}

/// `GET /acs/api/v1/join-tokens`.
pub(crate) async fn list_joins(
    State(app): State<App>,
    _admin: Administrator,
) -> Result<Json<Value>, IamError> {
    Ok(Json(json!({"array": app.directory.joins().await?})))
}

/// `POST /acs/api/v1/join-tokens`: 201 with the token, which is not shown again. A master's is for superusers: it is worth the cluster's keys.
pub(crate) async fn create_join(
    State(app): State<App>,
    Administrator(admin): Administrator,
    body: Bytes,
) -> Result<(StatusCode, Json<JoinToken>), IamError> {
    #[derive(Default, Deserialize)]
    struct Kind {
        #[serde(default)]
        kind: Value,
    }
    let kind = serde_json::from_slice::<Kind>(&body).unwrap_or_default().kind;
    if kind == "master" && !app.authenticator.allows(&admin, "dcos:superuser", "full") {
        return Err(IamError::new(
            StatusCode::FORBIDDEN,
            "ERR_FORBIDDEN",
            "this needs the permission dcos:superuser",
        ));
    }
    Ok((StatusCode::CREATED, super::fleet::make_token(&app, &admin, &body).await?))
}

/// `DELETE /acs/api/v1/join-tokens/{id}`: 204.
pub(crate) async fn delete_join(
    State(app): State<App>,
    Administrator(admin): Administrator,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, IamError> {
    let Path(id) = id?;
    let removed = app.directory.delete_join(&id).await;
    app.audited(&admin, "join-token.delete", &id.chars().take(64).collect::<String>(), removed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /acs/api/v1/members`: every component that may have certificates.
pub(crate) async fn list_members(
    State(app): State<App>,
    _admin: Administrator,
) -> Result<Json<Value>, IamError> {
    let members = app.directory.members().await?;
    let shown = members.iter().map(|member| {
        json!({
            "role": member.role,
            "name": member.name,
            "addresses": member.addresses,
            "key_fingerprint": member.key,
            "joined": member.joined,
        })
    });
    Ok(Json(json!({"array": shown.collect::<Vec<_>>()})))
}

/// `DELETE /acs/api/v1/members/{role}/{name}`: 204; its certificate is not renewed any more.
pub(crate) async fn delete_member(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, IamError> {
    let Path((role, name)) = path?;
    let removed = match plenum_base::pki::PeerName::new(app.directory.config.instance.as_str(), &role, &name)
    {
        Ok(_) => app.directory.delete_member(&role, &name).await,
        Err(_) => Err(crate::directory::DirectoryError::Missing("member")),
    };
    app.audited(&admin, "member.delete", &format!("{role}/{name}"), removed)?;
    Ok(StatusCode::NO_CONTENT)
}
