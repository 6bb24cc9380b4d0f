//! Authentication in an axum router: a middleware that puts the principal into the request, and an extractor that takes it out.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;

use super::{AuthError, Authenticator, Principal};
use crate::http_error::ApiError;
use crate::serve::ConnInfo;

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Missing | AuthError::Invalid => Self::unauthorized(error.to_string()),
            AuthError::Busy => Self::unavailable(error.to_string()),
        }
    }
}

/// The body is set aside meanwhile: it cannot be shared between threads, and so neither could the future.
async fn identify(authenticator: &Authenticator, parts: &Parts) -> Result<Principal, AuthError> {
    let peer = parts.extensions.get::<ConnInfo>().and_then(|conn| conn.peer.as_ref());
    authenticator.identify(peer.map(|peer| &peer.name), &parts.headers).await
}

/// Middleware: 401 without a principal, else the handler can take [`Principal`] as an argument.
/// `router.layer(axum::middleware::from_fn_with_state(authenticator, auth::require))`
pub async fn require(
    State(authenticator): State<Arc<Authenticator>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match identify(&authenticator, &parts).await {
        Ok(principal) => {
            parts.extensions.insert(principal);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// Middleware: requests without credentials pass too, without a principal; wrong credentials are 401.
pub async fn optional(
    State(authenticator): State<Arc<Authenticator>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match identify(&authenticator, &parts).await {
        Ok(principal) => {
            parts.extensions.insert(principal);
        }
        Err(AuthError::Missing) => {}
        Err(error) => return ApiError::from(error).into_response(),
    }
    next.run(Request::from_parts(parts, body)).await
}

/// The principal as an extractor; 401 where no middleware found one.
impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| AuthError::Missing.into())
    }
}

/// A component's principal as an extractor: 403 for everybody else.
#[derive(Debug, Clone)]
pub struct OnlyComponent(pub Principal);

impl<S: Send + Sync> FromRequestParts<S> for OnlyComponent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let principal = Principal::from_request_parts(parts, state).await?;
        if principal.component.is_some() {
            Ok(Self(principal))
        } else {
            Err(ApiError::forbidden("only components of this cluster may call this address"))
        }
    }
}
