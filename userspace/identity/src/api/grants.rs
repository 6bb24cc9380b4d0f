//! Permissions of accounts: `/acs/api/v1/acls/{rid}/users/{uid}/{action}` in DC/OS' shape, without groups.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use plenum_base::auth::Principal;
use serde_json::{Value, json};

use super::error::IamError;
use super::{Administrator, App};
use crate::directory::{DirectoryError, valid_uid};

const ACTIONS: [&str; 5] = ["create", "read", "update", "delete", "full"];

/// A resource's name as clients write it: a `/` in it is `%252F`, of which the router undoes one layer and this the other.
fn resource(rid: &str) -> Result<String, IamError> {
    let rid = rid.replace("%2F", "/").replace("%2f", "/");
    let good = (1..=1024).contains(&rid.len()) && rid.bytes().all(|b| b.is_ascii_graphic());
    let wrong = || {
        IamError::new(StatusCode::BAD_REQUEST, "ERR_INVALID_RESOURCE_ID", "the resource's name is not valid")
    };
    if good { Ok(rid) } else { Err(wrong()) }
}

type Triple = Result<Path<(String, String, String)>, PathRejection>;

async fn set(app: &App, admin: &Principal, path: Triple, granted: bool) -> Result<StatusCode, IamError> {
    let Path((rid, uid, action)) = path?;
    let resource = resource(&rid)?;
    if !valid_uid(&uid) {
        return Err(IamError::invalid_uid());
    }
    if !ACTIONS.contains(&action.as_str()) {
        let text = "an action is create, read, update, delete or full";
        return Err(IamError::new(StatusCode::BAD_REQUEST, "ERR_INVALID_ACTION", text));
    }
    let done = app.directory.set_permission(&uid, &resource, &action, granted).await;
    let word = if granted { "permission.grant" } else { "permission.revoke" };
    app.audited(admin, word, &format!("{uid} {action} {resource}"), done)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT`: grants. 204, or 409 if it is granted already.
pub(crate) async fn grant(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: Triple,
) -> Result<StatusCode, IamError> {
    set(&app, &admin, path, true).await
}

/// `DELETE`: takes away.
pub(crate) async fn revoke(
    State(app): State<App>,
    Administrator(admin): Administrator,
    path: Triple,
) -> Result<StatusCode, IamError> {
    set(&app, &admin, path, false).await
}

/// `GET /users/{uid}/permissions`: what an account may do by itself.
pub(crate) async fn of_user(
    State(app): State<App>,
    _admin: Administrator,
    uid: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, IamError> {
    let Path(uid) = uid?;
    let held = app.directory.user(&uid).await?.ok_or(DirectoryError::Missing("user"))?;
    let direct: Vec<Value> =
        held.permissions.iter().map(|(rid, actions)| entry(&uid, rid, actions)).collect();
    Ok(Json(json!({"direct": direct, "groups": []})))
}

fn entry(uid: &str, rid: &str, actions: &[String]) -> Value {
    let encoded = rid.replace('/', "%252F");
    let url = |action: &str| format!("/acs/api/v1/acls/{encoded}/users/{uid}/{action}");
    let actions: Vec<Value> =
        actions.iter().map(|action| json!({"name": action, "url": url(action)})).collect();
    json!({"rid": rid, "description": "", "aclurl": format!("/acs/api/v1/acls/{encoded}"), "actions": actions})
}
