//! Why the installer could not do something: a stable code, and a sentence with what to do.

/// The result of everything here.
pub type Result<T> = std::result::Result<T, InstallError>;

/// Why something could not be done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InstallError {
    /// What was typed, or a file that was named, makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The configuration has errors, which have been printed.
    #[error("{0}")]
    Config(String),
    /// Preflight found something; nothing was changed.
    #[error("{0}")]
    Preflight(String),
    /// There is no plan for this.
    #[error("{0}")]
    Refused(String),
    /// A host cannot be reached, or does not know us.
    #[error("{0}")]
    Connect(String),
    /// The connection broke while something ran. It may be tried again.
    #[error("{0}")]
    Cut(String),
    /// The host did what it was told, and it failed.
    #[error("{0}")]
    Host(String),
    /// sudo does not let us.
    #[error("{0}")]
    Sudo(String),
    /// Another installer is at work.
    #[error("{0}")]
    Busy(String),
    /// Something did not come about in time.
    #[error("{0}")]
    Deadline(String),
    /// Something on this machine.
    #[error("{0}")]
    Local(String),
}

impl InstallError {
    /// The stable word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Config(_) => "config",
            Self::Preflight(_) => "preflight",
            Self::Refused(_) => "refused",
            Self::Connect(_) => "connect",
            Self::Cut(_) => "cut",
            Self::Host(_) => "host",
            Self::Sudo(_) => "sudo",
            Self::Busy(_) => "busy",
            Self::Deadline(_) => "deadline",
            Self::Local(_) => "local",
        }
    }

    /// 1 refused or failed, 2 usage or configuration, 3 unreachable.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config(_) => 2,
            Self::Connect(_) | Self::Cut(_) => 3,
            _ => 1,
        }
    }
}

impl From<plenum_cli::error::CliError> for InstallError {
    fn from(error: plenum_cli::error::CliError) -> Self {
        Self::Local(error.to_string())
    }
}

impl From<plenum_plan::steps::Refusal> for InstallError {
    fn from(refusal: plenum_plan::steps::Refusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}
