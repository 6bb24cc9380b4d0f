//! `plenum pod`: groups of containers that run together.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{now, view};
use crate::Global;
use crate::api::Session;
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::table::{Cell, Table, Tone};
use crate::text::{age_of, clean};

/// Shown by `plenum pod --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum deploy web-pod.json              create or replace a pod
  plenum pod list                         all pods and how they are
  plenum pod show /web                    its instances, container by container
  plenum pod kill /web INSTANCE           another instance takes its place";

/// What to do with pods.
#[derive(Subcommand, Debug)]
pub enum PodVerb {
    /// Show all pods
    #[command(alias = "ls", after_help = "Examples:\n  plenum pod list\n  plenum pod list --watch")]
    List {
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Show one pod, its instances and their containers
    #[command(after_help = "Examples:\n  plenum pod show /web\n  plenum pod show /web -o json")]
    Show {
        /// The pod's id
        id: String,
        /// Go on showing it
        #[arg(long, short)]
        watch: bool,
    },
    /// Change the number of instances
    #[command(after_help = "Examples:\n  plenum pod scale /web 3")]
    Scale {
        /// The pod's id
        id: String,
        /// How many
        instances: u64,
        /// Supersede deployments of the same pod that are under way
        #[arg(long)]
        force: bool,
    },
    /// End instances; others take their place
    #[command(
        after_help = "Examples:\n  plenum pod kill /web web.instance-0b0bd0fd-7e0a-4d5f-a0a1-000000000000"
    )]
    Kill {
        /// The pod's id
        id: String,
        /// The instances, as `plenum pod show` names them
        #[arg(required = true)]
        instances: Vec<String>,
    },
    /// Remove a pod and its instances
    #[command(alias = "rm", after_help = "Examples:\n  plenum pod remove /web")]
    Remove {
        /// The pod's id
        id: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub(crate) async fn run(
    session: &Session,
    global: &Global,
    verb: &PodVerb,
    screen: &mut Screen,
) -> Result<()> {
    let output = global.output;
    match verb {
        PodVerb::List { watch } => {
            view(screen, *watch, async |screen| {
                let pods = session.pods().await?;
                screen.form(output, &pods, || list_table(&pods, now()))
            })
            .await
        }
        PodVerb::Show { id, watch } => {
            view(screen, *watch, async |screen| {
                let pod = session.pod_status(id).await?;
                match output {
                    Output::Table | Output::Wide => Ok(show_text(&pod, screen, output)),
                    _ => screen.form(output, &pod, || list_table(&[], 0)),
                }
            })
            .await
        }
        PodVerb::Scale { id, instances, force } => {
            let mut pod = session.pod(id).await?;
            pod["scaling"] = json!({"kind": "fixed", "instances": instances});
            session.put_pod(id, &pod, false, *force).await?;
            told(
                screen,
                output,
                id,
                &format!("scaled to {instances}; follow it with `plenum pod show {id} --watch`"),
            )
        }
        PodVerb::Kill { id, instances } => {
            for instance in instances {
                session.kill_pod(id, instance).await?;
            }
            told(screen, output, id, "asked to end; others take their place")
        }
        PodVerb::Remove { id, yes } => {
            let pod = session.pod_status(id).await?;
            let question = format!("Remove {} and its {} instances?", clean(id), instances(&pod).len());
            if screen.asks && !yes && !screen.agrees(&question)? {
                return Err(CliError::Local("nothing was removed".to_owned()));
            }
            session.remove_pod(id, true).await?;
            told(screen, output, id, "its instances are being ended")
        }
    }
}

fn told(screen: &mut Screen, output: Output, id: &str, text: &str) -> Result<()> {
    let id = format!("/{}", id.trim_matches('/'));
    screen.outcome(output, &json!({"id": id, "outcome": text}), &format!("{}: {text}", clean(&id)))
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("-")
}

fn instances(pod: &Value) -> Vec<&Value> {
    pod.get("instances").and_then(Value::as_array).into_iter().flatten().collect()
}

fn containers(value: &Value) -> Vec<&Value> {
    value.get("containers").and_then(Value::as_array).into_iter().flatten().collect()
}

/// A state of a pod or an instance.
fn state(value: &Value) -> Cell {
    let status = word(value, "status").to_ascii_lowercase();
    let tone = match status.as_str() {
        "stable" => Tone::Good,
        "staging" | "pending" => Tone::Busy,
        "degraded" => Tone::Bad,
        _ => Tone::Plain,
    };
    Cell::toned(status, tone)
}

fn list_table(pods: &[Value], now: i64) -> Table {
    let head = ["ID", "CONDITION", "STABLE", "CONTAINERS", "CHANGED"];
    let mut table = Table::new(&head, &["VERSION"], "no pods; `plenum deploy FILE` makes one");
    for pod in pods {
        let wanted = pod.pointer("/spec/scaling/instances").and_then(Value::as_u64).unwrap_or(0);
        let stable = instances(pod).iter().filter(|one| word(one, "status") == "STABLE").count();
        let names: Vec<&str> = pod
            .get("spec")
            .map(containers)
            .unwrap_or_default()
            .into_iter()
            .map(|c| word(c, "name"))
            .collect();
        let version = pod.pointer("/spec/version").and_then(Value::as_str).unwrap_or("-");
        table.row(vec![
            Cell::from(word(pod, "id")),
            state(pod),
            format!("{stable}/{wanted}").into(),
            names.join(",").into(),
            age_of(now, version).into(),
            Cell::from(version),
        ]);
    }
    table
}

fn show_text(pod: &Value, screen: &Screen, output: Output) -> String {
    let mut table = Table::new(
        &["INSTANCE", "CONTAINER", "STATE", "HEALTH", "NODE", "PORTS"],
        &["TASK", "ADDRESS"],
        "no instances",
    );
    for instance in instances(pod) {
        for container in containers(instance) {
            let health = container.get("conditions").and_then(Value::as_array).into_iter().flatten();
            let health =
                health.filter(|one| word(one, "name") == "healthy").map(|one| word(one, "value")).next();
            let (health, tone) = match health {
                Some("true") => ("healthy", Tone::Good),
                Some(_) => ("unhealthy", Tone::Bad),
                None => ("-", Tone::Plain),
            };
            let ports = container.get("endpoints").and_then(Value::as_array).into_iter().flatten();
            let ports: Vec<String> =
                ports.filter_map(|e| Some(e.get("allocatedHostPort")?.as_u64()?.to_string())).collect();
            let address = instance.pointer("/networks/0/addresses/0").and_then(Value::as_str).unwrap_or("-");
            table.row(vec![
                Cell::from(word(instance, "id")),
                Cell::from(word(container, "name")),
                super::app::task_state(word(container, "status")),
                Cell::toned(health, tone),
                Cell::from(word(instance, "agentHostname")),
                if ports.is_empty() { "-".into() } else { ports.join(",").into() },
                Cell::from(word(container, "containerId")),
                Cell::from(address),
            ]);
        }
    }
    let stable = instances(pod).iter().filter(|one| word(one, "status") == "STABLE").count();
    let wanted = pod.pointer("/spec/scaling/instances").and_then(Value::as_u64).unwrap_or(0);
    let mut out = format!(
        "{}: {}, {stable} of {wanted} instances stable\n\n{}",
        clean(word(pod, "id")),
        word(pod, "status").to_ascii_lowercase(),
        table.render(screen.look(output))
    );
    if (stable as u64) < wanted {
        out.push_str(&format!(
            "\nnext: `plenum app why {}` says what it waits for\n",
            clean(word(pod, "id"))
        ));
    }
    out
}
