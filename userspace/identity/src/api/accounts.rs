//! `/acs/api/v1/users`: accounts in DC/OS' shapes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use http::StatusCode;
use plenum_base::policy::AccountKind;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{IamError, json as read_json};
use super::{Administrator, App};
use crate::directory::{NewUser, UserChange, valid_uid};
use crate::records::User;

#[derive(Deserialize)]
pub(crate) struct Filter {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Body of PUT. Old clients send nothing, or `creator_uid` and `cluster_url`, which mean nothing here. A key that nobody knows is refused:
/// a misspelt password would make an account without one.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Put {
    #[serde(default, rename = "creator_uid")]
    _creator_uid: serde::de::IgnoredAny,
    #[serde(default, rename = "cluster_url")]
    _cluster_url: serde::de::IgnoredAny,
    description: Option<String>,
    password: Option<String>,
    public_key: Option<String>,
    secret: Option<String>,
    provider_type: Option<String>,
    provider_id: Option<String>,
}

/// Body of PATCH.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    description: Option<String>,
    password: Option<String>,
    public_key: Option<String>,
    secret: Option<String>,
}

fn shown(user: &User) -> Value {
    let mut value = json!({
        "uid": user.uid,
        "url": format!("/acs/api/v1/users/{}", user.uid),
        "description": user.description,
        "is_service": user.kind == AccountKind::Service,
        "is_remote": user.is_remote(),
        "provider_type": user.provider_type,
        "provider_id": user.provider_id,
    });
    if let Some(key) = &user.public_key {
        value["public_key"] = key.as_str().into();
    }
    value
}

/// `GET /users`, with `?type=service` the services only, else the people only.
pub(crate) async fn list(
    State(app): State<App>,
    _admin: Administrator,
    Query(filter): Query<Filter>,
) -> Result<Json<Value>, IamError> {
    let kind = match filter.kind.as_deref() {
        Some("service") => AccountKind::Service,
        None | Some("user" | "") => AccountKind::User,
        Some(_) => return Err(IamError::invalid("type must be service or left out")),
    };
    let users = app.directory.users().await?;
    let array: Vec<Value> = users.iter().filter(|user| user.kind == kind).map(shown).collect();
    Ok(Json(json!({"array": array})))
}

fn checked(uid: Result<Path<String>, PathRejection>) -> Result<String, IamError> {
    let Path(uid) = uid?;
    if valid_uid(&uid) { Ok(uid) } else { Err(IamError::invalid_uid()) }
}

/// `GET /users/{uid}`.
pub(crate) async fn show(
    State(app): State<App>,
    _admin: Administrator,
    uid: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, IamError> {
    let held = app.directory.user(&checked(uid)?).await?;
    let held = held.ok_or(crate::directory::DirectoryError::Missing("user"))?;
    Ok(Json(shown(&held)))
}

/// `PUT /users/{uid}`: 201, or 409 if there is one.
pub(crate) async fn create(
    State(app): State<App>,
    Administrator(admin): Administrator,
    uid: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<StatusCode, IamError> {
    let uid = checked(uid)?;
    let put: Put = if body.trim_ascii().is_empty() { Put::default() } else { read_json(&body)? };
    let service = put.public_key.is_some() || put.secret.is_some();
    if service && put.password.is_some() {
        return Err(IamError::invalid("a service has a public_key or a secret and no password"));
    }
    let provider = match (put.provider_type, put.provider_id) {
        (Some(kind), Some(id)) if !service && put.password.is_none() => {
            if !matches!(kind.as_str(), "oidc" | "saml" | "ldap") {
                return Err(IamError::invalid("provider_type must be oidc, saml or ldap"));
            }
            Some((kind, id.chars().take(1024).collect()))
        }
        (None, None) => None,
        _ => {
            return Err(IamError::invalid(
                "provider_type and provider_id come together and without credentials",
            ));
        }
    };
    let new = NewUser {
        description: put.description,
        password: put.password,
        public_key: put.public_key,
        secret: put.secret,
        provider,
        superuser: false,
    };
    let made = app.directory.create_user(&uid, new, &admin.uid).await;
    app.audited(&admin, "user.create", &uid, made)?;
    Ok(StatusCode::CREATED)
}

/// `PATCH /users/{uid}`: 204.
pub(crate) async fn update(
    State(app): State<App>,
    Administrator(admin): Administrator,
    uid: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<StatusCode, IamError> {
    let uid = checked(uid)?;
    let patch: Patch = read_json(&body)?;
    let change = UserChange {
        description: patch.description,
        password: patch.password,
        public_key: patch.public_key,
        secret: patch.secret,
    };
    let changed = app.directory.update_user(&uid, change).await;
    app.audited(&admin, "user.update", &uid, changed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /users/{uid}`: 204.
pub(crate) async fn remove(
    State(app): State<App>,
    Administrator(admin): Administrator,
    uid: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, IamError> {
    let uid = checked(uid)?;
    let removed = app.directory.delete_user(&uid).await;
    app.audited(&admin, "user.delete", &uid, removed)?;
    Ok(StatusCode::NO_CONTENT)
}
