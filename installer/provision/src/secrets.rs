//! Passwords: where they come from, and that they are never shown.

use plenum_cli::screen::Screen;

use crate::error::{InstallError, Result};

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes it.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Gives it to whoever needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// A secret from `prompt` or `env:NAME`; none for any other word.
///
/// # Errors
/// [`InstallError::Usage`]: the variable is not set, or there is no terminal to ask on.
pub fn from_source(source: &str, what: &str, screen: &mut Screen) -> Result<Option<Secret>> {
    if let Some(name) = source.strip_prefix("env:") {
        return match std::env::var(name) {
            Ok(text) if !text.is_empty() => Ok(Some(Secret(text))),
            _ => Err(InstallError::Usage(format!("{what}: the environment variable {name} is not set"))),
        };
    }
    if source != "prompt" {
        return Ok(None);
    }
    ask(what, screen).map(Some)
}

/// Asks for a secret.
///
/// # Errors
/// [`InstallError::Usage`] where there is no terminal, or the answer is empty.
pub fn ask(what: &str, screen: &mut Screen) -> Result<Secret> {
    if !screen.asks {
        return Err(InstallError::Usage(format!(
            "{what}: there is no terminal to ask on; use env:NAME in the configuration"
        )));
    }
    let text = screen.ask_secret(&format!("{what}: "))?;
    if text.is_empty() {
        Err(InstallError::Usage(format!("{what}: nothing was typed")))
    } else {
        Ok(Secret(text))
    }
}
