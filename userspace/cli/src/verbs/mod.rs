//! The verbs, one file a noun, and what they share.

pub(crate) mod app;
pub(crate) mod apply;
pub(crate) mod cluster;
pub(crate) mod deploy;
pub(crate) mod deployment;
mod documents;
pub(crate) mod edit;
mod ended;
pub(crate) mod group;
pub(crate) mod import;
mod kill;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod node_find;
mod node_life;
pub(crate) mod package;
pub(crate) mod pod;
pub(crate) mod quota;
pub(crate) mod task;
mod task_exec;
mod task_files;
mod task_stats;
pub(crate) mod token;
mod unknown;
pub(crate) mod versions;
pub(crate) mod wait;
pub(crate) mod why;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::error::{CliError, Result};
use crate::screen::Screen;

/// How often a watched view is drawn anew.
const WATCH: Duration = Duration::from_secs(2);

/// The time of day, milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Prints a view once, or again and again: over the one before on a terminal, elsewhere each time it differs.
pub(crate) async fn view(
    screen: &mut Screen,
    watch: bool,
    mut draw: impl AsyncFnMut(&Screen) -> Result<String>,
) -> Result<()> {
    let mut last = String::new();
    loop {
        let text = match draw(screen).await {
            // What was there once comes back.
            Err(error) if watch && !last.is_empty() && error.may_pass() => {
                screen.note(&error.to_string())?;
                tokio::time::sleep(WATCH).await;
                continue;
            }
            drawn => drawn?,
        };
        if !watch {
            return screen.print(&text);
        }
        if text != last {
            screen.wipe()?;
            screen.print(&text)?;
            last = text;
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// A file's text, or the standard input's for `-`.
pub(crate) fn read_file(path: &str, screen: &mut Screen) -> Result<String> {
    if path == "-" {
        return screen.read_all();
    }
    std::fs::read_to_string(path).map_err(|error| CliError::Usage(format!("{path} cannot be read: {error}")))
}

/// YAML 1.2: `yes`, `no`, `on`, `off`, `y` and `n` are words.
pub(crate) fn yaml() -> serde_saphyr::Options {
    serde_saphyr::options! { strict_booleans: true }
}

/// JSON or YAML.
pub(crate) fn parse_document(name: &str, text: &str) -> Result<Value> {
    let begin = text.trim_start();
    if begin.is_empty() {
        return Err(CliError::Usage(format!("{name} is empty; JSON or YAML is expected")));
    }
    if begin.starts_with(['{', '[']) {
        // A file that begins so may still be YAML; JSON's words about what is wrong are the better ones.
        return serde_json::from_str(text).or_else(|error| {
            serde_saphyr::from_str_with_options(text, yaml())
                .map_err(|_| CliError::Usage(format!("{name} is not valid JSON: {error}")))
        });
    }
    serde_saphyr::from_str_with_options(text, yaml())
        .map_err(|error| CliError::Usage(format!("{name} is not valid YAML: {error}")))
}
