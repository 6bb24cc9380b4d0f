//! Logging in and out, and what clients read before they do.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use plenum_base::policy::AccountKind;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::error::{IamError, json as read_json};
use crate::passwords::Refused;
use crate::records::User;
use crate::tokens::{claimed_uid, is_login_token};

const AUTH_COOKIE: &str = "dcos-acs-auth-cookie";
const INFO_COOKIE: &str = "dcos-acs-info-cookie";

#[derive(Deserialize)]
struct Login {
    uid: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

/// `POST /auth/login`: a uid with a password, or a service's own token.
pub(crate) async fn login(
    State(app): State<App>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, IamError> {
    let login: Login = read_json(&body)?;
    let user = match (&login.uid, &login.password, &login.token) {
        (Some(uid), Some(password), None) => with_password(&app, uid, password).await,
        (uid, None, Some(token)) => with_token(&app, uid.as_deref(), token).await,
        _ => Err(IamError::invalid("give uid and password, or uid and token")),
    };
    let uid = login.uid.as_deref().unwrap_or("?");
    let shown: String = uid.chars().take(128).collect();
    match user {
        Ok(user) => {
            let life = app.directory.config.token_life();
            let token = app.directory.signer.issue(&user.uid, life).map_err(IamError::unavailable)?;
            app.directory.audit.note(&user.uid, "login", &user.uid, "ok");
            let secure = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
            Ok(greet(&user, &token, life.as_secs(), secure))
        }
        Err(error) => {
            app.directory.audit.note(&shown, "login", &shown, error.code);
            Err(error)
        }
    }
}

async fn with_password(app: &App, uid: &str, password: &str) -> Result<User, IamError> {
    let user = app.directory.user(uid).await?;
    let hash = user.as_ref().and_then(|user| user.password.as_deref());
    match app.directory.passwords.check(uid, password, hash).await {
        Ok(good) => user.filter(|_| good).ok_or_else(IamError::credentials),
        Err(Refused::Brake) => {
            let text = "too many wrong passwords for this uid; wait a minute";
            Err(IamError::new(StatusCode::TOO_MANY_REQUESTS, "ERR_TOO_MANY_ATTEMPTS", text))
        }
        Err(Refused::Busy | Refused::Failed) => {
            Err(IamError::unavailable("too many logins at once; try again"))
        }
    }
}

async fn with_token(app: &App, uid: Option<&str>, token: &str) -> Result<User, IamError> {
    let claimed = claimed_uid(token).ok_or_else(IamError::credentials)?;
    let uid = uid.unwrap_or(&claimed);
    let user = app.directory.user(uid).await?;
    user.filter(|user| user.public_key.as_deref().is_some_and(|key| is_login_token(token, uid, key)))
        .ok_or_else(IamError::credentials)
}

/// The reply to a login: the token in the body and in cookies for browsers.
fn greet(user: &User, token: &str, seconds: u64, secure: bool) -> Response {
    let mut body = json!({"token": token});
    if user.kind == AccountKind::User {
        body["uid"] = user.uid.as_str().into();
        body["first_name"] = user.description.as_str().into();
    }
    let info = json!({"uid": user.uid, "description": user.description, "is_remote": user.is_remote()});
    let info = STANDARD.encode(info.to_string());
    let end = format!("; Path=/; Max-Age={seconds}; SameSite=Lax{}", if secure { "; Secure" } else { "" });
    let cookies = [format!("{AUTH_COOKIE}={token}{end}; HttpOnly"), format!("{INFO_COOKIE}={info}{end}")];
    with_cookies(Json(body).into_response(), &cookies)
}

fn with_cookies(mut response: Response, cookies: &[String]) -> Response {
    for cookie in cookies {
        if let Ok(value) = HeaderValue::from_str(cookie) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `GET /auth/logout`: takes the cookies back. Tokens stay valid until they end or their account does.
pub(crate) async fn logout() -> Response {
    let gone = |name: &str| format!("{name}=; Path=/; Max-Age=0; SameSite=Lax");
    with_cookies(StatusCode::OK.into_response(), &[gone(AUTH_COOKIE), gone(INFO_COOKIE)])
}

/// `GET /auth/providers`: the ways to log in, in the words that the command line client knows.
pub(crate) async fn providers() -> Json<Value> {
    let entry = |kind: &str, method: &str, text: &str| {
        json!({
            "authentication-type": kind,
            "client-method": method,
            "description": text,
            "config": {"start_flow_url": "/acs/api/v1/auth/login"},
        })
    };
    Json(json!({
        "dcos-users": entry(
            "dcos-uid-password",
            "dcos-usercredential-post-receive-authtoken",
            "Log in with a user name and a password",
        ),
        "dcos-services": entry(
            "dcos-uid-servicekey",
            "dcos-servicecredential-post-receive-authtoken",
            "Log in with a service account and its private key",
        ),
    }))
}

/// `GET /auth/jwks`: the keys that tokens are signed with.
pub(crate) async fn jwks(State(app): State<App>) -> Json<jsonwebtoken::jwk::JwkSet> {
    Json(app.directory.signer.jwks())
}

/// `GET /uiconfig`: what the console and the command line read as `/dcos-metadata/ui-config.json`.
pub(crate) async fn ui_config(State(app): State<App>) -> Json<Value> {
    Json(json!({
        "uiConfiguration": {
            "plugins": {
                "banner": {"enabled": false},
                "mesos": {"enabled": true, "logging-strategy": "logrotate"},
                "oauth": {"enabled": false},
            },
        },
        "clusterConfiguration": {"id": app.directory.cluster_id, "firstUser": false},
    }))
}
