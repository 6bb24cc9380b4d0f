//! `plenum deploy`: apps, pods and groups from files, compared with what runs before anything is changed. What runs already as it is
//! described is left alone, so that a second run changes nothing.

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};

use super::documents::{Document, members, read_all};
use super::wait::{Goal, Waiting, until};
use crate::api::Session;
use crate::api::services::bare;
use crate::compare::{Difference, differences, text};
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::Table;
use crate::text::clean;

/// Shown by `plenum deploy --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum deploy web.json                  shows what changes, asks, deploys, waits
  plenum deploy shop/ --yes               every .json, .yaml and .yml of a folder, without a question
  plenum deploy all.yaml --dry-run        only shows what would change
  cat a.yaml b.yaml | plenum deploy -     several YAML documents are fine";

/// What to deploy.
#[derive(Args, Debug)]
pub struct DeployArguments {
    /// Files or folders: JSON or YAML, apps, pods and groups; - for the standard input
    #[arg(required = true, value_name = "FILE|FOLDER")]
    files: Vec<String>,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Supersede deployments that are under way
    #[arg(long)]
    force: bool,
    /// Whether to wait.
    #[command(flatten)]
    waiting: Waiting,
}

/// What becomes of one app, pod or group.
pub(crate) struct Plan {
    pub(crate) document: Document,
    /// There is none of that id yet.
    pub(crate) new: bool,
    pub(crate) differences: Vec<Difference>,
    /// Apps and pods of a group that its description does not name.
    pub(crate) gone: Vec<String>,
}

impl Plan {
    fn changes(&self) -> bool {
        self.new || !self.differences.is_empty() || !self.gone.is_empty()
    }

    fn word(&self) -> &'static str {
        match (self.new, self.changes()) {
            (true, _) => "new",
            (_, true) => "changed",
            _ => "unchanged",
        }
    }
}

pub(crate) async fn run(
    session: &Session,
    output: Output,
    asked: &DeployArguments,
    screen: &mut Screen,
) -> Result<()> {
    let mut documents = Vec::new();
    for file in &asked.files {
        documents.extend(read_all(file, screen)?);
    }
    let what = What { dry_run: asked.dry_run, yes: asked.yes, force: asked.force };
    carry_out(session, output, documents, &what, &asked.waiting, screen).await
}

/// How documents are deployed.
pub(crate) struct What {
    pub(crate) dry_run: bool,
    pub(crate) yes: bool,
    pub(crate) force: bool,
}

/// Shows what changes, asks, deploys and waits.
pub(crate) async fn carry_out(
    session: &Session,
    output: Output,
    documents: Vec<Document>,
    what: &What,
    waiting: &Waiting,
    screen: &mut Screen,
) -> Result<()> {
    let mut plans = Vec::new();
    for document in documents {
        plans.push(plan(session, document).await?);
    }
    let people = matches!(output, Output::Table | Output::Wide);
    if people {
        let shown = describe(&plans, screen.colour);
        screen.print(&shown)?;
    }
    let changing = plans.iter().filter(|plan| plan.changes()).count();
    if changing == 0 || what.dry_run {
        return if people { Ok(()) } else { report(screen, output, &plans) };
    }
    let question = format!("Deploy {changing} of {}?", plans.len());
    if screen.asks && !what.yes && !screen.agrees(&question)? {
        return Err(CliError::Local("nothing was changed".to_owned()));
    }
    for plan in plans.iter().filter(|plan| plan.changes()) {
        send(session, plan, what.force).await?;
    }
    for plan in plans.iter().filter(|plan| plan.changes()) {
        for id in plan.document.apps() {
            let text = until(session, &id, Goal::Running, waiting, screen).await?;
            if people {
                screen.print(&text)?;
            }
        }
        for id in plan.document.pods() {
            let text = super::wait::pod(session, &id, waiting, screen).await?;
            if people {
                screen.print(&text)?;
            }
        }
    }
    if people { Ok(()) } else { report(screen, output, &plans) }
}

fn report(screen: &mut Screen, output: Output, plans: &[Plan]) -> Result<()> {
    let rows: Vec<Value> = plans
        .iter()
        .map(|plan| {
            json!({"kind": plan.document.kind(), "id": plan.document.id(), "outcome": plan.word(),
                   "changes": plan.differences, "removed": plan.gone})
        })
        .collect();
    let out = screen.form(output, &rows, || Table::new(&[], &[], ""))?;
    screen.print(&out)
}

async fn send(session: &Session, plan: &Plan, force: bool) -> Result<()> {
    let locked =
        "another deployment changes the same: wait for it (`plenum deployment list`), or repeat with --force";
    let done = match &plan.document {
        Document::App(id, app) => session.put_app(id, app, force).await.map(drop),
        Document::Pod(id, pod) => session.put_pod(id, pod, plan.new, force).await.map(drop),
        Document::Group(_, group) => session.put_group(group, force).await.map(drop),
    };
    done.map_err(|error| error.or_else_try(409, locked))
}

async fn plan(session: &Session, document: Document) -> Result<Plan> {
    let there = |found: Result<Value>| match found {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    };
    let (present, given) = match &document {
        Document::App(id, app) => (there(session.app_value(id).await)?, app.clone()),
        Document::Pod(id, pod) => (there(session.pod(id).await)?, bare(pod.clone())),
        Document::Group(id, _) => {
            let present = there(session.group(id).await)?;
            return Ok(plan_group(document, present.as_ref()));
        }
    };
    let new = present.is_none();
    let differences = match present {
        Some(present) => differences(&as_far_as_given(&bare(present), &given), &given),
        None => Vec::new(),
    };
    Ok(Plan { document, new, differences, gone: Vec::new() })
}

/// A group is compared member by member.
fn plan_group(document: Document, present: Option<&Value>) -> Plan {
    let mut running = Map::new();
    if let Some(present) = present {
        members(present, "", 0, &mut |id, member| {
            // A pod is shown by how it is, with its description inside.
            running.insert(id, bare(member.get("spec").unwrap_or(member).clone()));
        });
    }
    let mut all = Vec::new();
    document.each(&mut |id, given| {
        let given = bare(given.clone());
        let before = running.remove(&id).map(|before| as_far_as_given(&before, &given)).unwrap_or_default();
        // The id may be written in another way.
        let found = differences(&before, &given).into_iter().filter(|one| one.path != "id");
        all.extend(found.map(|one| {
            let path = if one.path.is_empty() { id.clone() } else { format!("{id} {}", one.path) };
            Difference { path, ..one }
        }));
    });
    let mut gone = Vec::new();
    if let (Some(present), Document::Group(id, given)) = (present, &document) {
        going(present, given, id, 0, &mut gone);
    }
    Plan { document, new: present.is_none(), differences: all, gone }
}

/// What a group's new description ends: of apps, pods and groups each, those that its list does not name; a list that is not there changes
/// nothing, as in Marathon.
fn going(present: &Value, given: &Value, id: &str, depth: usize, gone: &mut Vec<String>) {
    let list = |group: &Value, name: &str| group.get(name).and_then(Value::as_array).cloned();
    let whole = |base: &str, one: &Value| {
        let own = one.get("id").and_then(Value::as_str).unwrap_or_default();
        match own.strip_prefix('/') {
            Some(own) => format!("/{}", own.trim_matches('/')),
            None => format!("{}/{}", base.trim_end_matches('/'), own.trim_matches('/')),
        }
    };
    for name in ["apps", "pods"] {
        let Some(named) = list(given, name) else { continue };
        let named: Vec<String> = named.iter().map(|one| whole(id, one)).collect();
        let running = list(present, name).unwrap_or_default();
        gone.extend(running.iter().map(|one| whole(id, one)).filter(|one| !named.contains(one)));
    }
    let Some(named) = list(given, "groups").filter(|_| depth < super::documents::DEPTH) else { return };
    for child in list(present, "groups").unwrap_or_default() {
        let inner = whole(id, &child);
        match named.iter().find(|one| whole(id, one) == inner) {
            Some(given) => going(&child, given, &inner, depth.saturating_add(1), gone),
            None => members(&child, id, 0, &mut |id, _| gone.push(id)),
        }
    }
}

/// Fields that a description takes away by not having them. All others have defaults, which the cluster shows although nobody gave them.
const TAKEN_AWAY: [&str; 18] = [
    "acceptedResourceRoles",
    "args",
    "autoscale",
    "check",
    "cmd",
    "constraints",
    "container",
    "dependencies",
    "env",
    "environment",
    "fetch",
    "healthChecks",
    "labels",
    "readinessChecks",
    "secrets",
    "tty",
    "user",
    "volumes",
];
/// Maps whose names are the user's own.
const FREE: [&str; 5] = ["env", "environment", "labels", "options", "secrets"];

/// Ports that the cluster gives where 0 is given.
const LEFT_OPEN: [&str; 2] = ["port", "servicePort"];

/// What runs, without what `given` leaves to defaults.
pub(crate) fn as_far_as_given(present: &Value, given: &Value) -> Value {
    narrow(present, given, true)
}

fn narrow(present: &Value, given: &Value, top: bool) -> Value {
    match (present, given) {
        (Value::Object(present), Value::Object(given)) => {
            let kept = present.iter().filter_map(|(name, value)| match given.get(name) {
                Some(_) if FREE.contains(&name.as_str()) => Some((name.clone(), value.clone())),
                // Who leaves a port open gets one once, and keeps it.
                Some(open) if LEFT_OPEN.contains(&name.as_str()) && open.as_u64() == Some(0) => {
                    Some((name.clone(), open.clone()))
                }
                Some(wanted) => Some((name.clone(), narrow(value, wanted, false))),
                None if top && TAKEN_AWAY.contains(&name.as_str()) && !is_empty(value) => {
                    Some((name.clone(), value.clone()))
                }
                None => None,
            });
            Value::Object(kept.collect())
        }
        (Value::Array(present), Value::Array(given)) if present.len() == given.len() => {
            present.iter().zip(given).map(|(present, given)| narrow(present, given, false)).collect()
        }
        _ => present.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn describe(plans: &[Plan], colour: bool) -> String {
    let mut out = String::new();
    for plan in plans {
        let (kind, id) = (plan.document.kind(), clean(&plan.document.id()));
        out.push_str(&format!("{kind} {id}: {}\n", plan.word()));
        if !plan.new {
            out.push_str(&text(&plan.differences, colour));
        }
        for id in &plan.gone {
            out.push_str(&format!("  - {} is removed\n", clean(id)));
        }
    }
    out
}

/// Whether a path is a folder.
pub(crate) fn is_folder(path: &str) -> bool {
    path != "-" && Path::new(path).is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_defaults_is_no_difference() {
        let present = json!({"id": "/a", "cmd": "x", "cpus": 0.1, "env": {"A": "1", "B": "2"}, "labels": {}, "constraints": [["a", "LIKE", "b"]], "instances": 3,
            "container": {"type": "MESOS", "volumes": [], "docker": {"image": "i:1", "forcePullImage": false}}, "backoffSeconds": 1});
        let given = json!({"id": "/a", "cmd": "x", "cpus": 0.1, "env": {"A": "1"}, "container": {"docker": {"image": "i:2"}}});
        let found = differences(&as_far_as_given(&present, &given), &given);
        let paths: Vec<&str> = found.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["constraints", "container.docker.image", "env.B"]);
        assert!(differences(&as_far_as_given(&present, &present), &present).is_empty());
    }

    #[test]
    fn ports_that_are_left_open_are_no_difference() {
        let present = json!({"id": "/a", "portDefinitions": [{"port": 10000, "name": "http", "protocol": "tcp"}, {"port": 10001}]});
        let changes = |given: &Value| differences(&as_far_as_given(&present, given), given).len();
        assert_eq!(
            changes(&json!({"id": "/a", "portDefinitions": [{"port": 0, "name": "http"}, {"port": 0}]})),
            0
        );
        assert_eq!(
            changes(&json!({"id": "/a", "portDefinitions": [{"port": 80, "name": "http"}, {"port": 0}]})),
            1
        );
    }

    #[test]
    fn a_group_ends_what_its_lists_do_not_name() {
        let present = json!({"id": "/g", "apps": [{"id": "/g/a"}, {"id": "/g/b"}], "pods": [{"id": "/g/p", "spec": {}}],
            "groups": [{"id": "/g/x", "apps": [{"id": "/g/x/c"}]}, {"id": "/g/y", "apps": [{"id": "/g/y/d"}]}]});
        let case = |given: Value, want: &[&str]| {
            let document = Document::new("f", given.clone()).unwrap();
            assert_eq!(plan_group(document, Some(&present)).gone, want, "{given}");
        };
        case(json!({"id": "/g", "apps": [{"id": "a"}]}), &["/g/b"]);
        case(json!({"id": "/g", "apps": [{"id": "/g/a"}, {"id": "b"}], "pods": []}), &["/g/p"]);
        case(json!({"id": "/g", "groups": [{"id": "x", "apps": []}]}), &["/g/x/c", "/g/y/d"]);
        case(json!({"id": "/g", "groups": []}), &["/g/x/c", "/g/y/d"]);
    }
}
