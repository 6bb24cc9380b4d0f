//! Identity over HTTP: DC/OS' interface under `/acs/api/v1`, and what components and nodes use under `/internal/v1`.

mod accounts;
mod error;
mod fleet;
mod grants;
mod internal;
mod login;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post, put};
use http::request::Parts;
use plenum_base::auth::{self, Authenticator, Kind, Principal};
use plenum_base::service::Shutdown;

use self::error::IamError;
use crate::directory::Directory;

/// What every handler has.
#[derive(Clone)]
pub(crate) struct App {
    directory: Arc<Directory>,
    authenticator: Arc<Authenticator>,
    shutdown: Shutdown,
}

/// All of identity's addresses.
pub(crate) fn router(directory: Arc<Directory>, shutdown: Shutdown) -> Router {
    let places = &directory.places;
    let authenticator = Authenticator::open(&places.policy(), &places.ca(), directory.config.open);
    let app = App { directory, authenticator: Arc::clone(&authenticator), shutdown };
    let open = Router::new()
        .route("/acs/api/v1/auth/login", post(login::login))
        .route("/acs/api/v1/auth/logout", get(login::logout))
        .route("/acs/api/v1/auth/providers", get(login::providers))
        .route("/acs/api/v1/auth/jwks", get(login::jwks))
        .route("/acs/api/v1/uiconfig", get(login::ui_config))
        .route("/acs/api/v1/uiconfig/", get(login::ui_config))
        .route("/internal/v1/cluster", get(internal::cluster))
        .route("/internal/v1/join", post(fleet::join))
        .route("/internal/v1/certificates/expired", post(internal::recover));
    let administration = Router::new()
        .route("/acs/api/v1/users", get(accounts::list))
        .route("/acs/api/v1/users/", get(accounts::list))
        .route(
            "/acs/api/v1/users/{uid}",
            get(accounts::show).put(accounts::create).patch(accounts::update).delete(accounts::remove),
        )
        .route("/acs/api/v1/users/{uid}/permissions", get(grants::of_user))
        .route("/acs/api/v1/acls/{rid}/users/{uid}/{action}", put(grants::grant).delete(grants::revoke))
        .route("/acs/api/v1/join-tokens", get(internal::list_joins).post(internal::create_join))
        .route("/acs/api/v1/join-tokens/{id}", delete(internal::delete_join))
        .route("/acs/api/v1/members", get(internal::list_members))
        .route("/acs/api/v1/members/{role}/{name}", delete(internal::delete_member));
    let fleet = Router::new()
        .route("/internal/v1/tokens", get(fleet::tokens).post(fleet::create_token))
        .route("/internal/v1/tokens/{id}", delete(fleet::delete_token))
        .route("/internal/v1/masters", get(fleet::masters))
        .route("/internal/v1/masters/{name}", delete(fleet::delete_master))
        .route("/internal/v1/members", get(fleet::members))
        .route("/internal/v1/members/{name}", delete(fleet::delete_host))
        .route("/internal/v1/settings", get(fleet::settings).put(fleet::put_settings))
        .route("/internal/v1/ticket-secret", get(fleet::ticket_secret));
    let components = Router::new()
        .route("/internal/v1/certificates", post(internal::renew))
        .route("/internal/v1/policy", get(internal::policy));
    let closed =
        administration.merge(fleet).merge(components).layer(from_fn_with_state(authenticator, auth::require));
    open.merge(closed)
        .fallback(error::nothing_here)
        .method_not_allowed_fallback(error::wrong_method)
        .with_state(app)
}

/// A caller who may administer accounts: one with `dcos:adminrouter:acs` or `dcos:superuser`. Components may not, least of all the
/// gateway on its own account.
pub(crate) struct Administrator(pub(crate) Principal);

impl FromRequestParts<App> for Administrator {
    type Rejection = IamError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, IamError> {
        let principal =
            Principal::from_request_parts(parts, app).await.map_err(|_| IamError::unauthenticated())?;
        if principal.is_role("gateway") {
            return Err(IamError::unauthenticated());
        }
        let person = !matches!(principal.kind, Kind::Component | Kind::Executor);
        if person && app.authenticator.allows(&principal, "dcos:adminrouter:acs", "full") {
            Ok(Self(principal))
        } else {
            Err(IamError::forbidden())
        }
    }
}

impl App {
    /// Writes the audit line of a change and turns its outcome into a reply.
    fn audited<T>(
        &self,
        principal: &Principal,
        action: &str,
        target: &str,
        outcome: Result<T, crate::directory::DirectoryError>,
    ) -> Result<T, IamError> {
        let outcome = outcome.map_err(IamError::from);
        let word = outcome.as_ref().err().map_or("ok", |error| error.code);
        self.directory.audit.note(&principal.uid, action, target, word);
        outcome
    }
}
