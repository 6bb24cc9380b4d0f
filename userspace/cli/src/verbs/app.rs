//! `plenum app`: the verbs about apps, and how apps look in tables.

use clap::Subcommand;
use serde_json::json;

use super::wait::{Goal, Waiting, until};
use super::{deploy, edit, ended, kill, logs, now, unknown, versions, view, why};
use crate::Global;
use crate::api::Session;
use crate::api::apps::{App, Task};
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::{Cell, Table, Tone};
use crate::text::{age_of, clean, mebibytes, number};

/// Shown by `plenum app --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum app deploy web.json              create or replace an app and wait until it is healthy
  plenum app list                         all apps and how they are
  plenum app scale /web 5                 five instances
  plenum app why /web                     why instances are not running, node by node
  plenum app logs /web -f                 what all instances print
  plenum app rollback /web                what it was before the last change
  plenum app show /web -o json            everything, for programs";

/// What to do with apps.
#[derive(Subcommand, Debug)]
pub enum AppVerb {
    /// Show all apps
    #[command(
        alias = "ls",
        after_help = "Examples:\n  plenum app list\n  plenum app list --watch\n  plenum app list -o json"
    )]
    List {
        /// Only apps whose id holds this
        filter: Option<String>,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Show one app and its instances
    #[command(
        after_help = "Examples:\n  plenum app show /web\n  plenum app show /web --watch\n  plenum app show /web -o yaml"
    )]
    Show {
        /// The app's id
        id: String,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Create or replace apps from a file
    #[command(after_help = deploy::EXAMPLES)]
    Deploy {
        /// JSON or YAML: an app, a list of apps, or a group; - for the standard input
        file: String,
        /// Supersede deployments of the same apps that are under way
        #[arg(long)]
        force: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Change the number of instances
    #[command(
        after_help = "Examples:\n  plenum app scale /web 5\n  plenum app scale /web 0      stop it, keep its description"
    )]
    Scale {
        /// The app's id
        id: String,
        /// How many
        instances: u64,
        /// Supersede deployments of the same app that are under way
        #[arg(long)]
        force: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// End all instances and keep the description
    #[command(after_help = "Examples:\n  plenum app stop /web\n  plenum app start /web 3      run it again")]
    Stop {
        /// The app's id
        id: String,
        /// Supersede deployments of the same app that are under way
        #[arg(long)]
        force: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Run an app again that was stopped
    #[command(after_help = "Examples:\n  plenum app start /web\n  plenum app start /web 3")]
    Start {
        /// The app's id
        id: String,
        /// How many instances; without it, as many as there were before it was stopped
        instances: Option<u64>,
        /// Supersede deployments of the same app that are under way
        #[arg(long)]
        force: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// End instances; others take their place
    #[command(after_help = kill::EXAMPLES)]
    Kill(kill::Killing),
    /// Show what runs or lies on nodes and is wanted by nobody
    #[command(after_help = unknown::EXAMPLES)]
    Unknown {
        /// End these tasks
        #[arg(long, value_name = "TASK", num_args = 1..)]
        end: Vec<String>,
        /// Go on showing it
        #[arg(long, short, conflicts_with = "end")]
        watch: bool,
    },
    /// Make tasks that nobody knows instances of their apps
    #[command(after_help = "Examples:\n  plenum app unknown\n  plenum app adopt web.instance-3f2a….1")]
    Adopt {
        /// The ids of the tasks
        #[arg(required = true)]
        tasks: Vec<String>,
    },
    /// Replace all instances, a few at a time
    #[command(after_help = "Examples:\n  plenum app restart /web\n  plenum app restart /web --no-wait")]
    Restart {
        /// The app's id
        id: String,
        /// Supersede deployments of the same app that are under way
        #[arg(long)]
        force: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Remove an app and its instances
    #[command(
        alias = "rm",
        after_help = "Examples:\n  plenum app remove /web\n  plenum app remove /web --yes   without a question"
    )]
    Remove {
        /// The app's id
        id: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Whether to wait.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Print what the instances print
    #[command(
        after_help = "Examples:\n  plenum app logs /web\n  plenum app logs /web -f\n  plenum app logs /web --dead\n  plenum app logs /web --file stderr -n 200"
    )]
    Logs {
        /// The app's id
        id: String,
        /// Of this instance alone: its id, or the beginning of what tells it apart
        #[arg(id = "INSTANCE")]
        instance: Option<String>,
        /// Of an instance that has ended; without INSTANCE, of the last one that failed
        #[arg(long, conflicts_with = "follow")]
        dead: bool,
        /// How much, and from where.
        #[command(flatten)]
        logs: logs::Logs,
    },
    /// Show instances that have ended, and why
    #[command(
        after_help = "Examples:\n  plenum app ended /web\n  plenum app logs /web --dead          what the last one that failed printed\n  plenum app logs /web 3f2a --dead     what that one did"
    )]
    Ended {
        /// The app's or pod's id; it may be gone
        id: String,
    },
    /// Show what the app was, version by version
    #[command(after_help = "Examples:\n  plenum app history /web\n  plenum app history /web -n 3 -o json")]
    History {
        /// The app's id
        id: String,
        /// So many versions at most
        #[arg(long, short = 'n', value_name = "NUMBER", default_value_t = 10)]
        count: usize,
    },
    /// Compare two versions, or a file with what runs
    #[command(
        after_help = "Examples:\n  plenum app diff /web                               the last change\n  plenum app diff /web 2026-01-01T00:00:00.000Z      from that version to now\n  plenum app diff /web --file web.json               what deploying the file would change"
    )]
    Diff(versions::Diff),
    /// Make the app what it was
    #[command(
        after_help = "Examples:\n  plenum app rollback /web                           before the last change\n  plenum app rollback /web --to 2026-01-01T00:00:00.000Z"
    )]
    Rollback(versions::Rollback),
    /// Change the app's description in your editor
    #[command(after_help = "Examples:\n  plenum app edit /web\n  EDITOR='code --wait' plenum app edit /web")]
    Edit(edit::Edit),
    /// Show or change the app's environment
    #[command(
        after_help = "Examples:\n  plenum app env /web\n  plenum app env /web LEVEL=debug COLOUR=blue\n  plenum app env /web --unset LEVEL"
    )]
    Env(edit::Env),
    /// Say why instances are not running, node by node
    #[command(after_help = "Examples:\n  plenum app why /web\n  plenum app why /web -o json")]
    Why {
        /// The app's id
        id: String,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
}

pub(crate) const LOCKED: &str =
    "wait for the other deployment (`plenum app show ID --watch`), or repeat with --force to supersede it";

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &AppVerb,
    screen: &mut Screen,
) -> Result<()> {
    let output = global.output;
    match verb {
        AppVerb::List { filter, watch } => {
            view(screen, *watch, async |screen| {
                let mut apps = session.apps().await?;
                apps.retain(|app| filter.as_ref().is_none_or(|part| app.id.contains(part.as_str())));
                screen.form(output, &apps, || list_table(&apps, now()))
            })
            .await
        }
        AppVerb::Show { id, watch } => {
            view(screen, *watch, async |screen| {
                let app = session.app(id).await?;
                match output {
                    Output::Table | Output::Wide => Ok(show_text(&app, screen, output, now())),
                    _ => screen.form(output, &app, || list_table(&[], 0)),
                }
            })
            .await
        }
        AppVerb::Deploy { file, force, waiting } => {
            deploy::run(session, output, file, *force, waiting, screen).await
        }
        AppVerb::Scale { id, instances, force, waiting } => {
            let change = session.scale(id, *instances, *force).await;
            change.map_err(|error| error.or_else_try(409, LOCKED))?;
            settle(session, output, id, waiting, screen).await
        }
        AppVerb::Stop { id, force, waiting } => {
            let change = session.scale(id, 0, *force).await;
            change.map_err(|error| error.or_else_try(409, LOCKED))?;
            settle(session, output, id, waiting, screen).await
        }
        AppVerb::Start { id, instances, force, waiting } => {
            let instances = match instances {
                Some(instances) => *instances,
                None => versions::instances_before(session, id).await?,
            };
            let change = session.scale(id, instances, *force).await;
            change.map_err(|error| error.or_else_try(409, LOCKED))?;
            settle(session, output, id, waiting, screen).await
        }
        AppVerb::Unknown { end, watch } if end.is_empty() => {
            unknown::list(session, output, *watch, screen).await
        }
        AppVerb::Unknown { end, .. } => unknown::end(session, output, end, screen).await,
        AppVerb::Adopt { tasks } => unknown::adopt(session, output, tasks, screen).await,
        AppVerb::Kill(what) => kill::run(session, output, what, screen).await,
        AppVerb::Restart { id, force, waiting } => {
            let change = session.restart(id, *force).await;
            change.map_err(|error| error.or_else_try(409, LOCKED))?;
            settle(session, output, id, waiting, screen).await
        }
        AppVerb::Remove { id, yes, waiting } => remove(session, output, (id, *yes), waiting, screen).await,
        AppVerb::Logs { id, instance, dead: true, logs } => {
            logs::of_dead(session, (id, instance.as_deref()), logs, screen).await
        }
        AppVerb::Logs { id, instance, logs, .. } => {
            logs::of_app(session, (id, instance.as_deref()), logs, screen).await
        }
        AppVerb::Ended { id } => ended::list(session, output, id, screen).await,
        AppVerb::History { id, count } => versions::history(session, output, (id, *count), screen).await,
        AppVerb::Diff(asked) => versions::diff(session, output, asked, screen).await,
        AppVerb::Rollback(asked) => versions::rollback(session, output, asked, screen).await,
        AppVerb::Edit(asked) => edit::edit(session, output, asked, screen).await,
        AppVerb::Env(asked) => edit::env(session, output, asked, screen).await,
        AppVerb::Why { id, watch } => {
            view(screen, *watch, async |screen| {
                let reasons = session.why(id).await?;
                match output {
                    Output::Table | Output::Wide => Ok(why::text(&reasons, screen.look(output), now())),
                    _ => screen.form(output, &reasons, || list_table(&[], 0)),
                }
            })
            .await
        }
    }
}

/// Waits, and prints the outcome: a sentence, or the app.
pub(crate) async fn settle(
    session: &Session,
    output: Output,
    id: &str,
    waiting: &Waiting,
    screen: &mut Screen,
) -> Result<()> {
    let text = until(session, id, Goal::Running, waiting, screen).await?;
    match output {
        Output::Table | Output::Wide => screen.print(&text),
        _ => {
            let app = session.app(id).await?;
            let text = screen.form(output, &app, || list_table(&[], 0))?;
            screen.print(&text)
        }
    }
}

async fn remove(
    session: &Session,
    output: Output,
    (id, yes): (&str, bool),
    waiting: &Waiting,
    screen: &mut Screen,
) -> Result<()> {
    let app = session.app(id).await?;
    let question = format!("Remove {} and its {} instances?", clean(&app.id), app.instances);
    if screen.asks && !yes && !screen.agrees(&question)? {
        return Err(CliError::Local("nothing was removed".to_owned()));
    }
    let change = session.remove(&app.id, true).await?;
    let text = until(session, &app.id, Goal::Gone, waiting, screen).await?;
    let value = json!({"id": app.id, "deploymentId": change.deployment_id, "removed": !waiting.no_wait});
    screen.outcome(output, &value, text.trim_end())
}

/// How an app is, in a word.
fn condition(app: &App) -> (&'static str, Tone) {
    if !app.deployments.is_empty() {
        ("deploying", Tone::Busy)
    } else if app.instances == 0 {
        ("stopped", Tone::Plain)
    } else if app.tasks_unhealthy > 0 {
        ("unhealthy", Tone::Bad)
    } else if app.good() < app.instances {
        ("waiting", Tone::Bad)
    } else if app.health_checks.is_empty() {
        ("running", Tone::Good)
    } else {
        ("healthy", Tone::Good)
    }
}

fn what(app: &App) -> String {
    let image = app.other.get("container").and_then(|c| c.pointer("/docker/image")).and_then(|v| v.as_str());
    let cmd = app.other.get("cmd").and_then(|v| v.as_str());
    clean(image.or(cmd).unwrap_or("-"))
}

pub(crate) fn list_table(apps: &[App], now: i64) -> Table {
    let head = ["ID", "CONDITION", "RUNNING", "HEALTHY", "CPUS", "MEM", "CHANGED"];
    let mut table = Table::new(
        &head,
        &["PACKAGE", "VERSION", "RUNS"],
        "no apps; `plenum app deploy FILE` or `plenum package install NAME` makes one",
    );
    let mut sorted: Vec<&App> = apps.iter().collect();
    sorted.sort_by(|a, b| a.id.cmp(&b.id));
    for app in sorted {
        let (word, tone) = condition(app);
        let healthy = if app.health_checks.is_empty() {
            "-".to_owned()
        } else {
            format!("{}/{}", app.tasks_healthy, app.instances)
        };
        table.row(vec![
            Cell::from(&app.id),
            Cell::toned(word, tone),
            format!("{}/{}", app.tasks_running, app.instances).into(),
            healthy.into(),
            number(app.cpus).into(),
            mebibytes(app.mem).into(),
            age_of(now, &app.version).into(),
            app.labels.get("DCOS_PACKAGE_NAME").map_or("-", String::as_str).into(),
            Cell::from(&app.version),
            what(app).into(),
        ]);
    }
    table
}

fn health(task: &Task) -> (&'static str, Tone) {
    if task.health_check_results.is_empty() {
        ("-", Tone::Plain)
    } else if task.health_check_results.iter().all(|result| result.alive) {
        ("healthy", Tone::Good)
    } else {
        ("unhealthy", Tone::Bad)
    }
}

/// A Mesos state without its prefix, and its tone.
pub(crate) fn task_state(state: &str) -> Cell {
    let word = state.strip_prefix("TASK_").unwrap_or(state).to_ascii_lowercase();
    let tone = match word.as_str() {
        "running" | "finished" => Tone::Good,
        "staging" | "starting" | "killing" => Tone::Busy,
        "" | "killed" => Tone::Plain,
        _ => Tone::Bad,
    };
    Cell::toned(if word.is_empty() { "-" } else { &word }, tone)
}

fn task_table(app: &App, now: i64) -> Table {
    let mut table = Table::new(
        &["INSTANCE", "STATE", "HEALTH", "NODE", "PORTS", "AGE"],
        &["NODE ID", "VERSION"],
        "no instances",
    );
    let mut tasks: Vec<&Task> = app.tasks.iter().collect();
    tasks.sort_by(|a, b| (&a.staged_at, &a.id).cmp(&(&b.staged_at, &b.id)));
    for task in tasks {
        let (word, tone) = health(task);
        let ports: Vec<String> = task.ports.iter().map(u16::to_string).collect();
        let since = if task.started_at.is_empty() { &task.staged_at } else { &task.started_at };
        table.row(vec![
            Cell::from(&task.id),
            task_state(&task.state),
            Cell::toned(word, tone),
            Cell::from(&task.host),
            if ports.is_empty() { "-".into() } else { ports.join(",").into() },
            age_of(now, since).into(),
            Cell::from(&task.slave_id),
            Cell::from(&task.version),
        ]);
    }
    table
}

fn show_text(app: &App, screen: &Screen, output: Output, now: i64) -> String {
    let (word, _) = condition(app);
    let mut out = format!(
        "{}: {word}, {} of {} instances running, {} CPUs and {} each, changed {} ago\nruns: {}\n",
        clean(&app.id),
        app.tasks_running,
        app.instances,
        number(app.cpus),
        mebibytes(app.mem),
        age_of(now, &app.version),
        what(app)
    );
    if let Some(failure) = &app.last_task_failure {
        out.push_str(&format!(
            "last failure: {} ago on {}: {} {}\n",
            age_of(now, &failure.timestamp),
            clean(&failure.host),
            clean(&failure.state),
            clean(&failure.message)
        ));
    }
    if let Some(scaling) = &app.autoscale_status {
        out.push_str(&format!("{}\n", why::number(&clean(&app.id), scaling, now)));
    }
    out.push('\n');
    out.push_str(&task_table(app, now).render(screen.look(output)));
    if app.good() < app.instances {
        out.push_str(&format!("\nnext: `plenum app why {}` says what it waits for\n", clean(&app.id)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps() -> Vec<App> {
        serde_json::from_value(json!([
            {"id": "/web", "instances": 3, "cpus": 0.5, "mem": 1536, "version": "2026-01-01T00:00:00.000Z", "tasksRunning": 3, "tasksHealthy": 3,
             "healthChecks": [{}], "labels": {"DCOS_PACKAGE_NAME": "hello"}, "container": {"docker": {"image": "nginx:1"}}},
            {"id": "/big", "instances": 2, "cpus": 100, "mem": 32, "version": "2026-01-01T00:00:58.000Z", "tasksRunning": 0, "cmd": "run\nmore"},
            {"id": "/off", "instances": 0, "cpus": 0.1, "mem": 32, "version": null},
            {"id": "/new", "instances": 1, "deployments": [{"id": "D1"}], "tasksStaged": 1},
            {"id": "/sick", "instances": 1, "tasksRunning": 1, "tasksUnhealthy": 1, "healthChecks": [{}]}
        ]))
        .unwrap()
    }

    const NOW: i64 = 1_767_225_660_000;

    #[test]
    fn a_list_shows_how_apps_are() {
        let text = list_table(&apps(), NOW).render(crate::table::Look::default());
        assert_eq!(
            text,
            "ID     CONDITION  RUNNING  HEALTHY  CPUS  MEM   CHANGED\n\
             /big   waiting    0/2      -        100   32M   2s\n\
             /new   deploying  0/1      -        0     0M    -\n\
             /off   stopped    0/0      -        0.1   32M   -\n\
             /sick  unhealthy  1/1      0/1      0     0M    -\n\
             /web   healthy    3/3      3/3      0.5   1.5G  60s\n"
        );
        let wide = list_table(&apps(), NOW).render(crate::table::Look { wide: true, ..Default::default() });
        assert!(wide.contains("hello    2026-01-01T00:00:00.000Z  nginx:1\n"), "{wide}");
        assert!(wide.contains("run more\n"));
    }

    #[test]
    fn one_app_is_shown_with_its_instances_and_the_next_step() {
        let app: App = serde_json::from_value(json!({
            "id": "/web", "instances": 2, "cpus": 1, "mem": 128, "cmd": "serve", "version": "2026-01-01T00:00:00.000Z",
            "tasksRunning": 1,
            "lastTaskFailure": {"host": "n2", "state": "TASK_FAILED", "message": "exited with 1", "timestamp": "2026-01-01T00:00:30.000Z"},
            "tasks": [{"id": "web.1", "host": "n1", "ports": [31000, 31001], "state": "TASK_RUNNING", "startedAt": "2026-01-01T00:00:00.000Z",
                       "healthCheckResults": [{"alive": true}]}]
        }))
        .unwrap();
        let screen =
            Screen::new(Box::new(std::io::sink()), Box::new(std::io::sink()), Box::new(std::io::empty()));
        assert_eq!(
            show_text(&app, &screen, Output::Table, NOW),
            "/web: waiting, 1 of 2 instances running, 1 CPUs and 128M each, changed 60s ago\n\
             runs: serve\n\
             last failure: 30s ago on n2: TASK_FAILED exited with 1\n\n\
             INSTANCE  STATE    HEALTH   NODE  PORTS        AGE\n\
             web.1     running  healthy  n1    31000,31001  60s\n\n\
             next: `plenum app why /web` says what it waits for\n"
        );
    }

    #[test]
    fn fields_of_others_survive() {
        let given = json!({"id": "/a", "cpus": 0.1, "mem": 16, "odd": {"x": [1]}, "tasks": [{"id": "t", "ipAddresses": []}]});
        let app: App = serde_json::from_value(given).unwrap();
        let back = serde_json::to_value(&app).unwrap();
        assert_eq!(back["cpus"].to_string() + " " + &back["mem"].to_string(), "0.1 16");
        assert_eq!((&back["odd"]["x"][0], &back["tasks"][0]["ipAddresses"]), (&json!(1), &json!([])));
    }
}
