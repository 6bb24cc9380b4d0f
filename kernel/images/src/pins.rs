//! A name that was resolved once: every instance that uses it runs the same bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::platform::Platform;

/// An image by digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pinned {
    /// The registry's host.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// What the name meant when it was resolved: a manifest, or an index of manifests. `<registry>/<repository>@<digest>` is the same
    /// on every node, whatever its processor.
    pub digest: Digest,
    /// The manifest for the platform; the same as `digest` where there is no index.
    pub manifest: Digest,
    /// The platform it was resolved for.
    pub platform: Platform,
}

impl Pinned {
    /// The name that means this and nothing else.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
