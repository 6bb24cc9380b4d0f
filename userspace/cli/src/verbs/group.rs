//! `plenum group`: folders of apps and pods.

use clap::Subcommand;
use serde_json::{Value, json};

use super::view;
use crate::Global;
use crate::api::Session;
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::table::{Cell, Table};
use crate::text::clean;

/// Shown by `plenum group --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum group list                       all groups
  plenum group show /shop                 what is in one
  plenum group scale /shop 2              twice as many instances of each app
  plenum group remove /shop               everything in it goes";

/// What to do with groups.
#[derive(Subcommand, Debug)]
pub enum GroupVerb {
    /// Show all groups
    #[command(alias = "ls", after_help = "Examples:\n  plenum group list\n  plenum group list -o json")]
    List {
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Show what is in a group
    #[command(after_help = "Examples:\n  plenum group show /shop\n  plenum group show / -o yaml")]
    Show {
        /// The group's id
        id: String,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Multiply the instances of all apps in a group
    #[command(after_help = "Examples:\n  plenum group scale /shop 0.5")]
    Scale {
        /// The group's id
        id: String,
        /// By what
        factor: f64,
        /// Supersede deployments that are under way
        #[arg(long)]
        force: bool,
    },
    /// Remove a group and everything in it
    #[command(
        alias = "rm",
        after_help = "Examples:\n  plenum group remove /shop\n  plenum group remove /shop --yes"
    )]
    Remove {
        /// The group's id
        id: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Supersede deployments that are under way
        #[arg(long)]
        force: bool,
    },
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &GroupVerb,
    screen: &mut Screen,
) -> Result<()> {
    let output = global.output;
    match verb {
        GroupVerb::List { watch } => {
            view(screen, *watch, async |screen| {
                let root = session.group("/").await?;
                screen.form(output, &root, || list_table(&root))
            })
            .await
        }
        GroupVerb::Show { id, watch } => {
            view(screen, *watch, async |screen| {
                let group = session.group(id).await?;
                screen.form(output, &group, || members_table(&group))
            })
            .await
        }
        GroupVerb::Scale { id, factor, force } => {
            let change = session.scale_group(id, *factor, *force).await?;
            let value = json!({"id": id, "deploymentId": change.deployment_id});
            let sentence = format!("accepted; follow it with `plenum group show {} --watch`", clean(id));
            screen.outcome(output, &value, &sentence)
        }
        GroupVerb::Remove { id, yes, force } => {
            let group = session.group(id).await?;
            let mut all = Vec::new();
            members(&group, 0, &mut all);
            let question = format!("Remove {} and its {} apps and pods?", clean(id), all.len());
            if screen.asks && !yes && !screen.agrees(&question)? {
                return Err(CliError::Local("nothing was removed".to_owned()));
            }
            let change = session.remove_group(id, *force).await?;
            let value = json!({"id": id, "deploymentId": change.deployment_id});
            screen.outcome(output, &value, &format!("{}: what was in it is being ended", clean(id)))
        }
    }
}

/// Deeper groups than this do not exist.
const DEPTH: usize = 64;

fn list<'a>(group: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    group.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("-")
}

/// Apps and pods at any depth: `true` for a pod.
fn members<'a>(group: &'a Value, depth: usize, all: &mut Vec<(&'a Value, bool)>) {
    all.extend(list(group, "apps").map(|app| (app, false)));
    all.extend(list(group, "pods").map(|pod| (pod, true)));
    if depth < DEPTH {
        list(group, "groups").for_each(|child| members(child, depth + 1, all));
    }
}

fn list_table(root: &Value) -> Table {
    let mut table = Table::new(
        &["ID", "APPS", "PODS", "GROUPS", "DEPENDS ON"],
        &["VERSION"],
        "no groups; an app whose id is /a/b lies in the group /a",
    );
    let mut left: Vec<&Value> = list(root, "groups").collect();
    left.reverse();
    while let Some(group) = left.pop() {
        let needs: Vec<&str> = list(group, "dependencies").filter_map(Value::as_str).collect();
        table.row(vec![
            Cell::from(word(group, "id")),
            list(group, "apps").count().to_string().into(),
            list(group, "pods").count().to_string().into(),
            list(group, "groups").count().to_string().into(),
            if needs.is_empty() { "-".into() } else { needs.join(",").into() },
            Cell::from(word(group, "version")),
        ]);
        let mut inner: Vec<&Value> = list(group, "groups").collect();
        inner.reverse();
        left.extend(inner);
    }
    table
}

fn members_table(group: &Value) -> Table {
    let mut table = Table::new(&["ID", "KIND", "INSTANCES", "RUNNING"], &["VERSION"], "nothing is in it");
    let mut all = Vec::new();
    members(group, 0, &mut all);
    all.sort_by_key(|(one, _)| word(one, "id"));
    for (one, is_pod) in all {
        // A pod is shown by how it is, with its description inside.
        let spec = one.get("spec").unwrap_or(one);
        let wanted = if is_pod { spec.pointer("/scaling/instances") } else { one.get("instances") };
        let number =
            |value: Option<&Value>| value.and_then(Value::as_u64).map_or("-".to_owned(), |n| n.to_string());
        let stable =
            || list(one, "instances").filter(|one| word(one, "status") == "STABLE").count().to_string();
        table.row(vec![
            Cell::from(word(one, "id")),
            if is_pod { "pod".into() } else { "app".into() },
            number(wanted).into(),
            if is_pod { stable().into() } else { number(one.get("tasksRunning")).into() },
            Cell::from(word(spec, "version")),
        ]);
    }
    table
}
