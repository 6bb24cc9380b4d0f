//! The lines by which `apply` and `remove` report ([`plenum_plan::spec::Event`]), and why they fail.

use std::path::Path;

use plenum_plan::spec::Event;

/// Why a host could not be made. Each kind has a stable code; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// What was asked makes no sense on this host.
    #[error("{0}")]
    Spec(String),
    /// Another one is at work on this host.
    #[error("another `plenum host` works on this machine; wait for its end")]
    Busy,
    /// A file or folder.
    #[error("{path}: {reason}")]
    Files {
        /// Which.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// A system user, or another thing that the host's programs make.
    #[error("{0}")]
    System(String),
    /// The cluster's beginning.
    #[error("the cluster could not be begun: {0}")]
    Bootstrap(String),
    /// The way in.
    #[error("the host could not join: {0}")]
    Join(String),
    /// etcd or the embedded store.
    #[error("the store: {0}")]
    Store(String),
    /// A unit does not come up.
    #[error("{unit} does not come up: {reason}")]
    Start {
        /// Which.
        unit: String,
        /// Why, with the last lines of its log.
        reason: String,
    },
}

impl HostError {
    /// The stable word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spec(_) => "spec",
            Self::Busy => "busy",
            Self::Files { .. } => "files",
            Self::System(_) => "system",
            Self::Bootstrap(_) => "bootstrap",
            Self::Join(_) => "join",
            Self::Store(_) => "store",
            Self::Start { .. } => "start",
        }
    }

    /// With the path that it is about; for `map_err`.
    pub(crate) fn at<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.display().to_string();
        move |error| Self::Files { path, reason: error.to_string() }
    }
}

/// Takes the lines, and counts the changes.
pub struct Report<'a> {
    write: &'a mut dyn FnMut(&Event),
    changed: u32,
}

impl std::fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").field("changed", &self.changed).finish_non_exhaustive()
    }
}

impl<'a> Report<'a> {
    /// Lines go to `write`.
    pub fn new(write: &'a mut dyn FnMut(&Event)) -> Self {
        Self { write, changed: 0 }
    }

    /// Something begins.
    pub fn step(&mut self, what: impl Into<String>) {
        (self.write)(&Event::Step { what: what.into() });
    }

    /// Something was changed.
    pub fn changed(&mut self, kind: &str, name: impl std::fmt::Display) {
        self.changed = self.changed.saturating_add(1);
        (self.write)(&Event::Changed { kind: kind.to_owned(), name: name.to_string() });
    }

    /// Something worth knowing.
    pub fn note(&mut self, text: impl Into<String>) {
        (self.write)(&Event::Note { text: text.into() });
    }

    /// The last line.
    pub fn end(&mut self, outcome: Result<(String, String), HostError>) {
        let event = match outcome {
            Ok((ca, digest)) => Event::Done { changed: self.changed, ca, digest },
            Err(error) => Event::Failed { code: error.code().to_owned(), message: error.to_string() },
        };
        (self.write)(&event);
    }
}
