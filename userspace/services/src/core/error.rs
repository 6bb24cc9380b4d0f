//! Refusals in Marathon's shapes: a status, a message and, where there are any, details by path.

use serde_json::{Value, json};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 400: the body is not JSON.
    #[error("Invalid JSON: {0}")]
    BadJson(String),
    /// 400: a field has the wrong type.
    #[error("Invalid JSON")]
    BadFields(Vec<Flaw>),
    /// 400: a query parameter makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// 404: there is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// 409: running deployments affect the same apps.
    #[error(
        "App is locked by one or more deployments. Override with the option '?force=true'. View details at '/v2/deployments/<DEPLOYMENT_ID>'."
    )]
    Locked(Vec<String>),
    /// 409: it is there already.
    #[error("{0}")]
    Conflict(String),
    /// 422: well-formed and not acceptable.
    #[error("Object is not valid")]
    Invalid(Vec<Flaw>),
    /// 422: the idempotency key belongs to another request.
    #[error(
        "This idempotency key was used for another request. A key stands for one request: repeat that one as it was, or take a new key."
    )]
    KeyReused,
    /// 503: not now.
    #[error("{0}")]
    Unavailable(String),
}

/// One thing that is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Where: `/upgradeStrategy/minimumHealthCapacity`.
    pub path: String,
    /// What.
    pub error: String,
}

impl Flaw {
    /// A flaw at `path`.
    pub fn new(path: impl Into<String>, error: impl Into<String>) -> Self {
        Self { path: path.into(), error: error.into() }
    }
}

impl ApiError {
    /// `App '/x' does not exist`.
    pub fn no_app(id: impl std::fmt::Display) -> Self {
        Self::NotFound(format!("App '{id}' does not exist"))
    }

    /// One flaw of an object.
    pub fn invalid(path: &str, error: impl Into<String>) -> Self {
        Self::Invalid(vec![Flaw::new(path, error)])
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadJson(_) | Self::BadFields(_) | Self::BadRequest(_) => 400,
            Self::NotFound(_) => 404,
            Self::Locked(_) | Self::Conflict(_) => 409,
            Self::Invalid(_) | Self::KeyReused => 422,
            Self::Unavailable(_) => 503,
        }
    }

    /// The body.
    pub fn body(&self) -> Value {
        match self {
            Self::BadJson(details) => json!({"message": "Invalid JSON", "details": details}),
            Self::BadFields(flaws) | Self::Invalid(flaws) => {
                json!({"message": self.to_string(), "details": details(flaws)})
            }
            Self::Locked(ids) => {
                let ids: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
                json!({"message": self.to_string(), "deployments": ids})
            }
            _ => json!({"message": self.to_string()}),
        }
    }
}

/// Flaws with one entry a path, in the order the paths first appeared.
fn details(flaws: &[Flaw]) -> Vec<Value> {
    let mut paths: Vec<(&str, Vec<&str>)> = Vec::new();
    for flaw in flaws {
        match paths.iter_mut().find(|(path, _)| *path == flaw.path) {
            Some((_, errors)) => errors.push(&flaw.error),
            None => paths.push((&flaw.path, vec![&flaw.error])),
        }
    }
    paths.into_iter().map(|(path, errors)| json!({"path": path, "errors": errors})).collect()
}
