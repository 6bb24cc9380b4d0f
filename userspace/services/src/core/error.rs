//! Refusals in Marathon's shapes: a status, a message and, where there are any, details by path.

use serde_json::{Value, json};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 400: the body is not JSON.
    #[error("Invalid JSON: {0}")]
    BadJson(String),
    /// 400: there is no body.
    #[error("Please specify data in JSON format")]
    NoJson,
    /// 422: a field is missing, has the wrong type or is out of bounds.
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
    /// 422: an old spelling that cannot be brought into today's.
    #[error("{0}")]
    Refused(String),
    /// 412: it is not as the client believes.
    #[error("{0}")]
    Precondition(String),
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

    /// `Pod '/x' does not exist`.
    pub fn no_pod(id: impl std::fmt::Display) -> Self {
        Self::NotFound(format!("Pod '{id}' does not exist"))
    }

    /// One flaw of an object.
    pub fn invalid(path: &str, error: impl Into<String>) -> Self {
        Self::Invalid(vec![Flaw::new(path, error)])
    }

    /// The same within something larger, as far as that is said: what could not be read is below `path`.
    #[must_use]
    pub fn below(self, path: &str) -> Self {
        match self {
            Self::BadFields(flaws) => {
                let within = |flaw: Flaw| Flaw { path: format!("{path}{}", flaw.path), ..flaw };
                Self::BadFields(flaws.into_iter().map(within).collect())
            }
            other => other,
        }
    }

    /// The same of a part of something larger, whatever is said.
    #[must_use]
    pub fn inside(self, path: &str) -> Self {
        let within = |flaw: Flaw| {
            let below = if flaw.path == "/" { "" } else { flaw.path.as_str() };
            Flaw { path: format!("{path}{below}"), ..flaw }
        };
        match self {
            Self::BadFields(flaws) => Self::BadFields(flaws.into_iter().map(within).collect()),
            Self::Invalid(flaws) => Self::Invalid(flaws.into_iter().map(within).collect()),
            other => other,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::BadJson(_) | Self::NoJson | Self::BadRequest(_) => 400,
            Self::NotFound(_) => 404,
            Self::Locked(_) | Self::Conflict(_) => 409,
            Self::Precondition(_) => 412,
            Self::BadFields(_) | Self::Invalid(_) | Self::Refused(_) | Self::KeyReused => 422,
            Self::Unavailable(_) => 503,
        }
    }

    /// The body.
    pub fn body(&self) -> Value {
        match self {
            Self::BadJson(details) => json!({"message": "Invalid JSON", "details": details}),
            Self::NoJson => {
                json!({"message": self.to_string(), "details": "No content to map due to end-of-input"})
            }
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
