//! `plenum install apply`: looking, planning, carrying out, waiting, and the login of the command line here.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use plenum_cli::screen::{Output, Screen};
use plenum_cli::table::{Cell, Table};
use plenum_plan::plan as make_plan;
use plenum_plan::steps::{Action, Plan};
use serde_json::json;

use super::{agreed, findings_text, judge, look_at, steps_text};
use crate::carry::{Done, Took};
use crate::error::{InstallError, Result};
use crate::gateway;
use crate::remote::SHORT;
use crate::secrets::{Secret, ask, from_source};
use crate::work::{Work, load};

/// Where a generated password waits for the end of the installation that generated it.
pub(crate) const PASSWORD: &str = "first-password";

/// Arguments of `plenum install apply`.
#[derive(Args, Debug, Clone)]
pub struct Apply {
    /// The file that says what the cluster is to be
    #[arg(long, env = "PLENUM_CLUSTER_FILE", default_value = "cluster.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Repair what is safe to repair
    #[arg(long)]
    pub fix: bool,
}

pub(crate) async fn apply(apply: &Apply, screen: &mut Screen) -> Result<()> {
    let begun = Instant::now();
    let (cluster, _) = load(&apply.config, screen)?;
    let work = Work::begin(cluster, &apply.config, screen)?;
    let done = go(&work, apply, begun, screen).await;
    // What was sent is of use until all is done; after that each host has it in its place.
    if done.is_ok()
        || matches!(done, Err(InstallError::Preflight(_) | InstallError::Refused(_) | InstallError::Usage(_)))
    {
        work.tidy().await;
    }
    done
}

async fn go(work: &Work, apply: &Apply, begun: Instant, screen: &mut Screen) -> Result<()> {
    let mut times = Vec::new();
    let seen = look_at(work, apply.fix).await?;
    times.push(took("", "look at the hosts", 0.0, begun));
    work.progress.clear();
    if !seen.findings.is_empty() {
        screen.note(findings_text(&seen.findings).trim_end())?;
    }
    if let Err(error) = judge(&seen.findings) {
        if matches!(apply.output, Output::Json | Output::Yaml) {
            let value = json!({"error": "preflight", "findings": seen.findings});
            screen.outcome(apply.output, &value, "")?;
        }
        return Err(error);
    }
    let plan = make_plan(&work.cluster, &seen.seen, &work.given)?;
    if plan.steps.is_empty() {
        let address = settle(work, "", None, screen).await?;
        return report(work, apply, &plan, Done { times, ..Done::default() }, address, screen);
    }
    screen.note(steps_text(&plan).trim_end())?;
    agreed(apply.yes, "Take these steps?", screen)?;
    let password = if plan.steps.iter().any(|step| step.what == Action::Bootstrap) {
        Some(first_password(work, screen)?)
    } else {
        None
    };
    let locks = work.lock(&work.remotes).await?;
    let carried = work.carry(&plan, password.as_ref(), begun).await;
    let finished = match carried {
        Ok(mut done) => {
            times.append(&mut done.times);
            let from = begun.elapsed().as_secs_f64();
            let healthy = work.wait_healthy(&work.remotes).await;
            times.push(took("", "wait until healthy", from, begun));
            healthy.map(|()| Done { times, ..done })
        }
        Err(error) => Err(error),
    };
    locks.release().await;
    work.progress.clear();
    let done = finished?;
    let address = settle(work, &done.ca, password, screen).await?;
    report(work, apply, &plan, done, address, screen)
}

fn took(host: &str, step: &str, from: f64, begun: Instant) -> Took {
    let seconds = begun.elapsed().as_secs_f64() - from;
    Took { host: host.to_owned(), step: step.to_owned(), from, seconds, changed: 0 }
}

/// The first account's password: asked for, from the environment, or generated. A generated one is kept until the cluster stands: the run that
/// made it may not be the one that ends it.
fn first_password(work: &Work, screen: &mut Screen) -> Result<Secret> {
    let admin = &work.cluster.admin;
    let what = format!("Password of the first account, {}", admin.user);
    if admin.password != "generate" {
        let given = from_source(&admin.password, &what, screen)?;
        return given.map_or_else(|| ask(&what, screen), Ok);
    }
    let path = work.folder.join(PASSWORD);
    if let Ok(kept) = std::fs::read_to_string(&path)
        && !kept.trim().is_empty()
    {
        return Ok(Secret::new(kept.trim().to_owned()));
    }
    let failed = |error: &dyn std::fmt::Display| {
        InstallError::Local(format!("a password cannot be generated: {error}"))
    };
    let mut bytes = [0; 15];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|error| failed(&error))?;
    // Neither 0 and o nor 1 and l.
    let letters = b"abcdefghijkmnpqrstuvwxyz23456789";
    let text: String = bytes
        .iter()
        .filter_map(|byte| letters.get(usize::from(*byte) % letters.len()))
        .map(|b| char::from(*b))
        .collect();
    plenum_base::files::replace(&path, text.as_bytes(), plenum_base::files::SECRET)
        .map_err(|error| failed(&error))?;
    Ok(Secret::new(text))
}

/// Logs the command line in here, where a password is known and it is not already. Gives the gateway's address.
async fn settle(
    work: &Work,
    ca: &str,
    password: Option<Secret>,
    screen: &mut Screen,
) -> Result<Option<String>> {
    let cluster = &work.cluster;
    let known = work.contexts.load(&cluster.name).unwrap_or(None);
    // The run that made the cluster may have ended before it logged in here.
    let missing = known.as_ref().is_none_or(|context| context.token.is_none());
    let password = if missing { password.or_else(|| kept_password(work, screen)) } else { password };
    let Some(password) = password else {
        return Ok(known.map(|context| context.url));
    };
    let ca = if ca.is_empty() { authority(work).await } else { ca.to_owned() };
    match gateway::log_in(cluster, &ca, &password, &work.contexts).await {
        Ok(url) => {
            weights(work, screen).await?;
            if cluster.admin.password == "generate" {
                screen.note(&format!(
                    "The first account is {}, its password {}",
                    cluster.admin.user,
                    password.expose()
                ))?;
                let _ = std::fs::remove_file(work.folder.join(PASSWORD));
            }
            Ok(Some(url))
        }
        Err(error) => {
            let address =
                cluster.masters().next().map(|master| gateway::url(master.address)).unwrap_or_default();
            screen.note(&format!(
                "The cluster stands, and its gateway was not reached from here ({error}). Where it can be reached: plenum login --instance {} --url {address}",
                cluster.name
            ))?;
            if cluster.admin.password == "generate" {
                let path = work.folder.join(PASSWORD);
                screen.note(&format!("The password of {} is in {}", cluster.admin.user, path.display()))?;
            }
            Ok(None)
        }
    }
}

/// The first account's password, where nobody needs to be asked.
fn kept_password(work: &Work, screen: &mut Screen) -> Option<Secret> {
    let source = &work.cluster.admin.password;
    if source.starts_with("env:") {
        return from_source(source, "first password", screen).ok()?;
    }
    let kept = std::fs::read_to_string(work.folder.join(PASSWORD)).ok()?;
    Some(Secret::new(kept.trim().to_owned())).filter(|secret| !secret.expose().is_empty())
}

/// The cluster's CA certificate from the first master that has it; empty: none has.
async fn authority(work: &Work) -> String {
    let script = format!("cat /var/lib/plenum/{}/pki/ca.pem", work.cluster.name);
    for master in work.cluster.masters() {
        if let Ok(remote) = work.remote(&master.name)
            && let Ok(said) = remote.root(&script, b"", SHORT, false).await
            && said.ok()
        {
            return said.out;
        }
    }
    String::new()
}

/// Weights of roles, once.
async fn weights(work: &Work, screen: &mut Screen) -> Result<()> {
    if work.cluster.weights.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = work
        .cluster
        .weights
        .iter()
        .filter_map(|(role, weight)| Some(json!({"role": role, "weight": weight.parse::<f64>().ok()?})))
        .collect();
    let body = json!({"type": "UPDATE_WEIGHTS", "update_weights": {"weight_infos": list}});
    if let Err(error) = gateway::operator(&work.cluster, &work.contexts, &body).await {
        screen.note(&format!("The weights could not be set: {error}"))?;
    }
    Ok(())
}

fn report(
    work: &Work,
    apply: &Apply,
    plan: &Plan,
    done: Done,
    address: Option<String>,
    screen: &mut Screen,
) -> Result<()> {
    for note in &done.notes {
        screen.note(&format!("note: {note}"))?;
    }
    let value = json!({
        "changed": done.changed, "steps": plan.steps, "unchanged": plan.unchanged, "notes": done.notes, "times": done.times, "gateway": address,
    });
    if matches!(apply.output, Output::Json | Output::Yaml) {
        return Ok(screen.outcome(apply.output, &value, "")?);
    }
    if plan.steps.is_empty() {
        return Ok(screen
            .print(&format!("nothing changed: {} as wanted\n", super::hosts_are(plan.unchanged.len())))?);
    }
    let mut table = Table::new(&["FROM", "SECONDS", "HOST", "STEP", "CHANGES"], &[], "");
    for took in &done.times {
        table.row(vec![
            format!("{:.1}", took.from).into(),
            format!("{:.1}", took.seconds).into(),
            if took.host.is_empty() { "-".into() } else { Cell::from(&took.host) },
            Cell::from(&took.step),
            took.changed.to_string().into(),
        ]);
    }
    let mut text = table.render(screen.look(apply.output));
    text += &format!("{} is healthy on {}.\n", work.cluster.name, super::hosts(work.cluster.hosts.len()));
    if let Some(address) = address {
        let name = work.cluster.name.as_str();
        let instance = if name == "default" { String::new() } else { format!(" --instance {name}") };
        text += &format!("Its gateway: {address}. You are logged in here: plenum node list{instance}\n");
    }
    Ok(screen.print(&text)?)
}
