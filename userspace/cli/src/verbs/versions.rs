//! `plenum app history`, `diff` and `rollback`: what an app was, and making it that again.

use clap::Args;
use serde_json::{Value, json};

use super::documents::read;
use super::wait::Waiting;
use super::{app, now, read_file};
use crate::api::Session;
use crate::api::services::bare;
use crate::compare::{differences, summary, text};
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::{Cell, Table};
use crate::text::{age_of, clean};

/// What to compare.
#[derive(Args, Debug)]
pub struct Diff {
    /// The app's id
    id: String,
    /// The version that is compared with the present one; the one before it where none is given
    from: Option<String>,
    /// Another version instead of the present one
    to: Option<String>,
    /// A file (JSON or YAML) that would take the place of the present version; - for the standard input
    #[arg(long, short, conflicts_with_all = ["from", "to"])]
    file: Option<String>,
}

/// What to go back to.
#[derive(Args, Debug)]
pub struct Rollback {
    /// The app's id
    id: String,
    /// The version, as `plenum app history` shows it; the newest that differs from the present one where none is given
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
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

pub(crate) async fn history(
    session: &Session,
    output: Output,
    (id, count): (&str, usize),
    screen: &mut Screen,
) -> Result<()> {
    let versions = session.app_versions(id).await?;
    let mut all: Vec<(String, Value)> = Vec::new();
    for version in versions.iter().take(count.saturating_add(1)) {
        let value = bare(session.app_version(id, version).await?);
        all.push((version.clone(), value));
    }
    let changes = |n: usize| -> Option<Vec<crate::compare::Difference>> {
        let ((_, new), (_, old)) = (all.get(n)?, all.get(n.checked_add(1)?)?);
        Some(differences(old, new))
    };
    let shown: Vec<Value> = (0..all.len().min(count))
        .map(|n| {
            let version = all.get(n).map(|(version, _)| version.as_str());
            json!({"version": version, "changes": changes(n)})
        })
        .collect();
    let table = || {
        let mut table = Table::new(&["VERSION", "AGE", "CHANGED"], &[], "no versions");
        for (n, (version, _)) in all.iter().take(count).enumerate() {
            let what = match changes(n) {
                Some(changes) if changes.is_empty() => "nothing: a restart".to_owned(),
                Some(changes) => summary(&changes),
                None => "the oldest that is kept".to_owned(),
            };
            table.row(vec![Cell::from(version), age_of(now(), version).into(), what.into()]);
        }
        table
    };
    let out = screen.form(output, &shown, table)?;
    screen.print(&out)
}

pub(crate) async fn diff(session: &Session, output: Output, asked: &Diff, screen: &mut Screen) -> Result<()> {
    let id = &asked.id;
    let (before, after) = if let Some(file) = &asked.file {
        let text = read_file(file, screen)?;
        let wanted = format!("/{}", id.trim_matches('/'));
        let mut given = None;
        for document in read(file, &text)? {
            document.each(&mut |id, value| {
                if id == wanted {
                    given = Some(bare(value.clone()));
                }
            });
        }
        let given =
            given.ok_or_else(|| CliError::Usage(format!("{file} does not describe {}", clean(&wanted))))?;
        let present = bare(session.app_value(id).await?);
        (super::apply::as_far_as_given(&present, &given), given)
    } else {
        let present = session.app_value(id).await?;
        let after = match &asked.to {
            Some(version) => session.app_version(id, version).await?,
            None => present.clone(),
        };
        let before = match &asked.from {
            Some(version) => session.app_version(id, version).await?,
            None => other_version(session, id, &present).await?.1,
        };
        (bare(before), bare(after))
    };
    let found = differences(&before, &after);
    let out = match output {
        Output::Table | Output::Wide if found.is_empty() => format!("{}: nothing differs\n", clean(id)),
        Output::Table | Output::Wide => format!("{}:\n{}", clean(id), text(&found, screen.colour)),
        _ => screen.form(output, &found, || Table::new(&[], &[], ""))?,
    };
    screen.print(&out)
}

/// The newest version that says something else than `present`.
async fn other_version(session: &Session, id: &str, present: &Value) -> Result<(String, Value)> {
    let newest = present.get("version").and_then(Value::as_str).unwrap_or_default();
    let mine = bare(present.clone());
    for version in session.app_versions(id).await? {
        if version == newest {
            continue;
        }
        let value = session.app_version(id, &version).await?;
        if !differences(&mine, &bare(value.clone())).is_empty() {
            return Ok((version, value));
        }
    }
    Err(CliError::Usage(format!(
        "{} has no other version that is kept; `plenum app history {}` shows those that are",
        clean(id),
        clean(id)
    )))
}

/// How many instances an app has, or had before it was stopped; one where nobody remembers.
pub(crate) async fn instances_before(session: &Session, id: &str) -> Result<u64> {
    let count = |value: &Value| value.get("instances").and_then(Value::as_u64).filter(|count| *count > 0);
    if let Some(count) = count(&session.app_value(id).await?) {
        return Ok(count);
    }
    for version in session.app_versions(id).await? {
        if let Some(count) = count(&session.app_version(id, &version).await?) {
            return Ok(count);
        }
    }
    Ok(1)
}

pub(crate) async fn rollback(
    session: &Session,
    output: Output,
    asked: &Rollback,
    screen: &mut Screen,
) -> Result<()> {
    let present = session.app_value(&asked.id).await?;
    let (version, then) = match &asked.to {
        Some(version) => {
            let unknown = format!("`plenum app history {}` shows the versions that are kept", asked.id);
            let then = session.app_version(&asked.id, version).await;
            (version.clone(), then.map_err(|error| error.or_else_try(404, &unknown))?)
        }
        None => other_version(session, &asked.id, &present).await?,
    };
    let found = differences(&bare(present), &bare(then));
    if found.is_empty() {
        return screen.note(&format!("{} is as it was in {version}: nothing to do", clean(&asked.id)));
    }
    screen.note(&format!("{} becomes what it was in {version}:", clean(&asked.id)))?;
    screen.note(text(&found, false).trim_end_matches('\n'))?;
    if screen.asks && !asked.yes && !screen.agrees("Go back to it?")? {
        return Err(CliError::Local("nothing was changed".to_owned()));
    }
    let change = session.roll_back(&asked.id, &version, asked.force).await;
    change.map_err(|error| error.or_else_try(409, app::LOCKED))?;
    app::settle(session, output, &asked.id, &asked.waiting, screen).await
}
