//! `plenum app edit` and `plenum app env`: changes by hand.

use std::process::Command;

use clap::Args;
use serde_json::{Map, Value, json};

use super::wait::Waiting;
use super::{app, parse_document};
use crate::api::Session;
use crate::api::services::bare;
use crate::compare::{differences, text};
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::{Cell, Table};
use crate::text::{clean, plain};

/// What to edit.
#[derive(Args, Debug)]
pub struct Edit {
    /// The app's id
    id: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Supersede deployments of the same app that are under way
    #[arg(long)]
    force: bool,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

/// What to set.
#[derive(Args, Debug)]
pub struct Env {
    /// The app's id
    id: String,
    /// Variables to set; without any, and without --unset, all are shown
    #[arg(value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// A variable to take away; may be repeated
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    /// Supersede deployments of the same app that are under way
    #[arg(long)]
    force: bool,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

/// Gives the description to the person's editor and deploys what comes back. What was typed is never lost: it stays in its file until it
/// was taken.
pub(crate) async fn edit(session: &Session, output: Output, asked: &Edit, screen: &mut Screen) -> Result<()> {
    let shown = session.app_value(&asked.id).await?;
    let version = shown.get("version").cloned();
    let before = bare(shown);
    let local =
        |error: &dyn std::fmt::Display| CliError::Local(format!("the description cannot be edited: {error}"));
    let yaml = serde_saphyr::to_string(&before).map_err(|error| local(&error))?;
    let (uid, mark) = (nix::unistd::getuid(), uuid::Uuid::new_v4());
    let path = std::env::temp_dir().join(format!("plenum-edit-{uid}-{mark}.yaml"));
    write_private(&path, &yaml).map_err(|error| local(&error))?;
    let edited = run_editor(&path);
    let untouched = std::fs::read_to_string(&path).is_ok_and(|text| text == yaml);
    if untouched {
        let _ = std::fs::remove_file(&path);
        edited?;
        return screen.note(&format!("{}: nothing was changed", clean(&asked.id)));
    }
    edited?;
    let typed = std::fs::read_to_string(&path).map_err(|error| local(&error))?;
    let kept = format!("what you typed is kept in {}", path.display());
    let keep = |error: CliError| CliError::Local(format!("{error}; {kept}"));
    let after = parse_document("what you typed", &typed).map_err(keep)?;
    let found = differences(&before, &after);
    if found.is_empty() {
        let _ = std::fs::remove_file(&path);
        return screen.note(&format!("{}: nothing was changed", clean(&asked.id)));
    }
    screen.note(text(&found, false).trim_end_matches('\n'))?;
    if screen.asks && !asked.yes && !screen.agrees("Deploy this?")? {
        return Err(CliError::Local(format!("nothing was changed; {kept}")));
    }
    // Somebody else's change in between must not be undone unseen.
    if session.app_value(&asked.id).await.map_err(keep)?.get("version") != version.as_ref() {
        return Err(CliError::Local(format!(
            "{} was changed by somebody else meanwhile: edit it again; {kept}",
            clean(&asked.id)
        )));
    }
    let change = session.put_app(&asked.id, &after, asked.force).await;
    change.map_err(|error| keep(error.or_else_try(409, app::LOCKED)))?;
    let _ = std::fs::remove_file(&path);
    app::settle(session, output, &asked.id, &asked.waiting, screen).await
}

/// A file that only this user reads: environments hold passwords often enough.
fn write_private(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn run_editor(path: &std::path::Path) -> Result<()> {
    let named =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let editor = named.unwrap_or_else(|| "vi".to_owned());
    // The variable may have arguments, as every program that uses it takes it.
    let status =
        Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("editor").arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CliError::Local(format!(
            "the editor `{editor}` ended with {status}: nothing was changed; what was typed, if anything was, is kept in {}",
            path.display()
        ))),
        Err(error) => {
            Err(CliError::Local(format!("the editor `{editor}` cannot be started ({error}); set EDITOR")))
        }
    }
}

pub(crate) async fn env(session: &Session, output: Output, asked: &Env, screen: &mut Screen) -> Result<()> {
    let shown = session.app_value(&asked.id).await?;
    let before = shown.get("env").and_then(Value::as_object).cloned().unwrap_or_default();
    if asked.set.is_empty() && asked.unset.is_empty() {
        let out = screen.form(output, &before, || table(&before))?;
        return screen.print(&out);
    }
    let mut after = before.clone();
    for pair in &asked.set {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            CliError::Usage(format!(
                "{} is no NAME=VALUE; to take a variable away use --unset NAME",
                clean(pair)
            ))
        })?;
        after.insert(name.to_owned(), value.into());
    }
    for name in &asked.unset {
        if after.remove(name).is_none() {
            return Err(CliError::Usage(format!(
                "{} has no variable {}; `plenum app env {}` shows those that it has",
                clean(&asked.id),
                clean(name),
                clean(&asked.id)
            )));
        }
    }
    if before == after {
        return screen.note(&format!("{}: nothing changes", clean(&asked.id)));
    }
    let change = session.patch_app(&asked.id, &json!({"env": after}), asked.force).await;
    change.map_err(|error| error.or_else_try(409, app::LOCKED))?;
    app::settle(session, output, &asked.id, &asked.waiting, screen).await
}

fn table(variables: &Map<String, Value>) -> Table {
    let mut table = Table::new(&["NAME", "VALUE"], &[], "no variables");
    for (name, value) in variables {
        let text = match value.get("secret").and_then(Value::as_str) {
            Some(secret) => format!("the secret {secret}"),
            None => plain(value),
        };
        table.row(vec![Cell::from(name), text.into()]);
    }
    table
}
