//! Who is calling: certificates, tokens and basic credentials become a `Principal` (`docs/adr/0007`). What a principal may do is asked of the
//! policy; what that means is the component's business.

mod cache;
mod credentials;
mod layer;
mod source;

pub use credentials::{HashCost, hash_secret, same_bytes, verify_secret};
pub use layer::{OnlyComponent, optional, require};
pub use source::{AuthError, Authenticator, ExecutorTokens};

use crate::pki::PeerName;

/// What kind of caller a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A person.
    User,
    /// A program with a service account.
    Service,
    /// A component of this cluster, known by its certificate.
    Component,
    /// An executor, known by the token of its container.
    Executor,
    /// Nobody in particular; only under `--open`.
    Anonymous,
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The account's uid; for a component its URI name; for an executor its container id; `anonymous` for nobody.
    pub uid: String,
    /// What kind of caller it is.
    pub kind: Kind,
    /// A component's name.
    pub component: Option<PeerName>,
}

impl Principal {
    /// An account or executor.
    pub fn new(uid: impl Into<String>, kind: Kind) -> Self {
        Self { uid: uid.into(), kind, component: None }
    }

    /// A component of this cluster.
    #[must_use]
    pub fn of_component(name: PeerName) -> Self {
        Self { uid: name.to_string(), kind: Kind::Component, component: Some(name) }
    }

    /// Nobody in particular.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new("anonymous", Kind::Anonymous)
    }

    /// Whether this is a component with the given role.
    #[must_use]
    pub fn is_role(&self, role: &str) -> bool {
        self.component.as_ref().is_some_and(|name| name.role == role)
    }
}
