//! Errors as DC/OS' identity service writes them: `{title, description, code}`.

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::directory::DirectoryError;

/// An error of this interface.
#[derive(Debug, Clone)]
pub(crate) struct IamError {
    pub(crate) status: StatusCode,
    /// One of DC/OS' `ERR_` words where it has one.
    pub(crate) code: &'static str,
    pub(crate) description: String,
}

impl IamError {
    pub(crate) fn new(status: StatusCode, code: &'static str, description: impl Into<String>) -> Self {
        Self { status, code, description: description.into() }
    }

    pub(crate) fn invalid(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ERR_INVALID_DATA", description)
    }

    pub(crate) fn invalid_uid() -> Self {
        let rule = "a uid has 1 to 128 of letters, digits and @._+- and begins with a letter or digit";
        Self::new(StatusCode::BAD_REQUEST, "ERR_INVALID_USER_ID", rule)
    }

    pub(crate) fn credentials() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "ERR_INVALID_CREDENTIALS",
            "the uid or the password or token is wrong",
        )
    }

    pub(crate) fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "ERR_UNAUTHENTICATED", "log in first")
    }

    pub(crate) fn forbidden() -> Self {
        let text = "this needs the permission dcos:adminrouter:acs or dcos:superuser";
        Self::new(StatusCode::FORBIDDEN, "ERR_FORBIDDEN", text)
    }

    pub(crate) fn unavailable(description: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ERR_UNAVAILABLE", description)
    }
}

impl From<DirectoryError> for IamError {
    fn from(error: DirectoryError) -> Self {
        let text = error.to_string();
        match error {
            DirectoryError::Exists("user") => Self::new(StatusCode::CONFLICT, "ERR_USER_EXISTS", text),
            DirectoryError::Exists("permission") => {
                Self::new(StatusCode::CONFLICT, "ERR_PERMISSION_EXISTS", text)
            }
            DirectoryError::Exists(_) => Self::new(StatusCode::CONFLICT, "ERR_EXISTS", text),
            DirectoryError::Missing("user") => Self::new(StatusCode::NOT_FOUND, "ERR_UNKNOWN_USER_ID", text),
            DirectoryError::Missing("permission") => {
                Self::new(StatusCode::NOT_FOUND, "ERR_UNKNOWN_RESOURCE_ID", text)
            }
            DirectoryError::Missing(_) => Self::new(StatusCode::NOT_FOUND, "ERR_NOT_FOUND", text),
            DirectoryError::Invalid(text) if text.starts_with("public_key") => {
                Self::new(StatusCode::BAD_REQUEST, "ERR_INVALID_PUBLIC_KEY", text)
            }
            DirectoryError::Invalid(text) => Self::invalid(text),
            DirectoryError::Pki(plenum_base::pki::PkiError::Request(_)) => Self::invalid(text),
            DirectoryError::Refused(text) => Self::new(StatusCode::FORBIDDEN, "ERR_REFUSED", text),
            DirectoryError::LastSuperuser => {
                Self::new(StatusCode::BAD_REQUEST, "ERR_NO_MORE_SUPERUSERS", text)
            }
            DirectoryError::Taken(_) => Self::new(StatusCode::CONFLICT, "ERR_EXISTS", text),
            DirectoryError::LastMaster => Self::new(StatusCode::CONFLICT, "ERR_LAST_MASTER", text),
            DirectoryError::Changed => Self::new(StatusCode::PRECONDITION_FAILED, "ERR_CHANGED", text),
            DirectoryError::NoCluster | DirectoryError::NoMember => Self::unavailable(text),
            DirectoryError::Store(plenum_store::StoreError::Full { reason, .. }) => {
                tracing::warn!(reason, "the store is full");
                Self::unavailable(
                    "the disk that holds identity's records is full: free space, then try again",
                )
            }
            DirectoryError::Store(error) => {
                tracing::warn!(%error, "the store refused");
                Self::unavailable("the store cannot do this now; try again")
            }
            DirectoryError::Failed(_) => Self::unavailable(text),
            DirectoryError::Record(_)
            | DirectoryError::Vault(_)
            | DirectoryError::Pki(_)
            | DirectoryError::Tls(_) => {
                tracing::error!(error = text, "identity's records cannot be used");
                let text = "identity cannot use its own records; its log has the particulars";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "ERR_INTERNAL", text)
            }
        }
    }
}

impl From<PathRejection> for IamError {
    fn from(_: PathRejection) -> Self {
        Self::invalid("the path is not valid")
    }
}

impl From<BytesRejection> for IamError {
    fn from(rejection: BytesRejection) -> Self {
        Self::new(rejection.status(), "ERR_INVALID_DATA", "the body is too large or did not arrive whole")
    }
}

impl IntoResponse for IamError {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = json!({"title": title, "description": self.description, "code": self.code});
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("oauthjwt"));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        }
        response
    }
}

pub(crate) async fn nothing_here() -> IamError {
    IamError::new(StatusCode::NOT_FOUND, "ERR_NOT_FOUND", "identity has nothing at this address")
}

pub(crate) async fn wrong_method() -> IamError {
    let text = "this address does not take this method; see the Allow header";
    IamError::new(StatusCode::METHOD_NOT_ALLOWED, "ERR_METHOD_NOT_ALLOWED", text)
}

/// Reads a JSON body. Clients of this interface send it with and without a Content-Type.
pub(crate) fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, IamError> {
    serde_json::from_slice(body)
        .map_err(|error| IamError::invalid(format!("the body is not the JSON expected: {error}")))
}
