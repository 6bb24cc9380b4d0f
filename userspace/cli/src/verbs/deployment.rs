//! `plenum deployment`: changes under way.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{now, view, why};
use crate::Global;
use crate::api::Session;
use crate::api::apps::Deployment;
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::{Cell, Table};
use crate::text::{age_of, clean};

/// Shown by `plenum deployment --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum deployment list                  what is under way
  plenum deployment show 0b0b             how far one is, and what is in its way
  plenum deployment cancel 0b0b           take back what it did
  plenum deployment cancel 0b0b --stop    leave everything as it is now";

/// What to do with deployments. An id may be cut short.
#[derive(Subcommand, Debug)]
pub enum DeploymentVerb {
    /// Show what is under way
    #[command(
        alias = "ls",
        after_help = "Examples:\n  plenum deployment list\n  plenum deployment list --watch"
    )]
    List {
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Show how far a deployment is, and what is in its way
    #[command(after_help = "Examples:\n  plenum deployment show 0b0b --watch")]
    Show {
        /// The deployment's id
        id: String,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// End a deployment, and take back what it did
    #[command(
        alias = "rollback",
        after_help = "Examples:\n  plenum deployment cancel 0b0b\n  plenum deployment cancel 0b0b --stop"
    )]
    Cancel {
        /// The deployment's id
        id: String,
        /// Take nothing back: everything stays as it is now
        #[arg(long)]
        stop: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &DeploymentVerb,
    screen: &mut Screen,
) -> Result<()> {
    let output = global.output;
    match verb {
        DeploymentVerb::List { watch } => {
            view(screen, *watch, async |screen| {
                let all = session.deployments().await?;
                screen.form(output, &all, || list_table(&all, now()))
            })
            .await
        }
        DeploymentVerb::Show { id, watch } => {
            view(screen, *watch, async |screen| {
                let one = session.deployment(id).await?;
                match output {
                    Output::Table | Output::Wide => show_text(session, &one, screen, output).await,
                    _ => screen.form(output, &one, || list_table(&[], 0)),
                }
            })
            .await
        }
        DeploymentVerb::Cancel { id, stop, yes } => {
            let one = session.deployment(id).await?;
            let what =
                if *stop { "Stop it and leave everything as it is now" } else { "Take back what it did" };
            let question = format!("Deployment {} of {}: {what}?", clean(&one.id), clean(&affected(&one)));
            if screen.asks && !yes && !screen.agrees(&question)? {
                return Err(CliError::Local("nothing was changed".to_owned()));
            }
            session.cancel(&one.id, *stop).await?;
            let text = if *stop { "stopped" } else { "being taken back; see `plenum deployment list`" };
            screen.outcome(
                output,
                &json!({"id": one.id, "outcome": text}),
                &format!("{}: {text}", clean(&one.id)),
            )
        }
    }
}

fn affected(one: &Deployment) -> String {
    let pods = one.other.get("affectedPods").and_then(Value::as_array).into_iter().flatten();
    let pods = pods.filter_map(Value::as_str).map(str::to_owned);
    one.affected_apps.iter().cloned().chain(pods).collect::<Vec<_>>().join(",")
}

fn list_table(all: &[Deployment], now: i64) -> Table {
    let mut table = Table::new(&["ID", "CHANGES", "STEP", "AGE"], &["VERSION"], "nothing is being deployed");
    for one in all {
        let version = one.other.get("version").and_then(Value::as_str).unwrap_or("-");
        table.row(vec![
            Cell::from(&one.id),
            affected(one).into(),
            format!("{}/{}", one.current_step, one.total_steps).into(),
            age_of(now, version).into(),
            Cell::from(version),
        ]);
    }
    table
}

async fn show_text(session: &Session, one: &Deployment, screen: &Screen, output: Output) -> Result<String> {
    let actions = one.other.get("currentActions").and_then(Value::as_array).into_iter().flatten();
    let word = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut out = format!(
        "{}: step {} of {}, changes {}\n",
        clean(&one.id),
        one.current_step,
        one.total_steps,
        clean(&affected(one))
    );
    for action in actions {
        let Some(id) = word(action, "app").or_else(|| word(action, "pod")) else { continue };
        let what = word(action, "action").unwrap_or_default();
        out.push_str(&format!("\n{} {}\n", clean(&what), clean(&id)));
        // A pod of an earlier version, or one that has just gone, explains nothing.
        if let Ok(reasons) = session.why(&id).await {
            out.push_str(&why::text(&reasons, screen.look(output), now()));
        }
    }
    Ok(out)
}
