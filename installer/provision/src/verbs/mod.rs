//! The verbs: what is typed, what is shown. The work is [`crate::work`]'s, [`crate::look`]'s and [`crate::carry`]'s.

mod apply;
mod cloud;
mod init;
mod nodes;

use std::path::{Path, PathBuf};

use clap::Args;
use plenum_cli::screen::{Output, Screen};
use plenum_cli::table::{Cell, Table, Tone};
use plenum_plan::findings::{Finding, Severity};
use plenum_plan::steps::Plan;
use plenum_plan::{Cluster, plan as make_plan};
use serde_json::json;

pub use apply::Apply;
pub(crate) use apply::apply;
pub use cloud::CloudInit;
pub(crate) use cloud::cloud_init;
pub use init::Init;
pub(crate) use init::init;
pub(crate) use nodes::node;

use crate::error::{InstallError, Result};
use crate::look;
use crate::remote::SHORT;
use crate::work::{Work, load};

/// Arguments of verbs that look.
#[derive(Args, Debug, Clone)]
pub struct Look {
    /// The file that says what the cluster is to be
    #[arg(long, env = "PLENUM_CLUSTER_FILE", default_value = "cluster.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Repair what is safe to repair
    #[arg(long)]
    pub fix: bool,
}

/// Arguments of `plenum uninstall`.
#[derive(Args, Debug, Clone)]
#[command(
    after_help = "Examples:\n  plenum uninstall\n  plenum uninstall --config lab.yaml --yes\n  plenum uninstall --keep-state     the next installation goes on with it"
)]
pub struct Uninstall {
    /// The file that says what the cluster is
    #[arg(long, env = "PLENUM_CLUSTER_FILE", default_value = "cluster.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Leave the state of hosts where it is
    #[arg(long)]
    pub keep_state: bool,
}

fn begin(config: &Path, screen: &mut Screen) -> Result<Work> {
    let (cluster, _) = load(config, screen)?;
    Work::begin(cluster, config, screen)
}

/// Looks, and with `fix` repairs and looks again.
pub(crate) async fn look_at(work: &Work, fix: bool) -> Result<look::Look> {
    let seen = work.look(true).await?;
    if !fix || !seen.findings.iter().any(|finding| finding.fix.is_some()) {
        return Ok(seen);
    }
    let reached: Vec<_> = work.remotes.iter().filter(|remote| remote.program().is_ok()).cloned().collect();
    let locks = work.lock(&reached).await?;
    for finding in seen.findings.iter() {
        let Some((fix, command)) = finding.fix.as_ref().and_then(|fix| Some((fix, fix.command()?))) else {
            continue;
        };
        let remote = work.remote(&finding.host)?;
        work.progress.host(&finding.host, &fix.words());
        match remote.root(&command, b"", SHORT * 5, false).await {
            Ok(said) if said.ok() => work.progress.say(&format!("{}: did {}", finding.host, fix.words())),
            Ok(said) => work.progress.say(&format!(
                "{}: could not {}: {}",
                finding.host,
                fix.words(),
                said.complaint()
            )),
            Err(error) => work.progress.say(&format!("{}: could not {}: {error}", finding.host, fix.words())),
        }
    }
    let again = work.look(true).await;
    locks.release().await;
    again
}

fn findings_table(findings: &[Finding]) -> Table {
    let mut table = Table::new(
        &["HOST", "RULE", "WHAT IS SO", "WHAT IS NEEDED", "WHAT TO DO"],
        &[],
        "nothing is in the way",
    );
    for finding in findings {
        let tone = if finding.severity == Severity::Error { Tone::Bad } else { Tone::Busy };
        let remedy = match &finding.fix {
            Some(fix) if fix.command().is_some() => format!("{} (or --fix)", finding.remedy),
            _ => finding.remedy.clone(),
        };
        table.row(vec![
            Cell::from(&finding.host),
            Cell::toned(&finding.rule, tone),
            Cell::from(&finding.fact),
            Cell::from(&finding.need),
            remedy.into(),
        ]);
    }
    table
}

/// Findings as paragraphs: they are sentences, too long for a table.
fn findings_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let word = if finding.severity == Severity::Error { "error" } else { "warning" };
        text += &format!("{} {word} ({}): {}\n", finding.host, finding.rule, finding.fact);
        text += &format!("    needed: {}\n    do:     {}\n", finding.need, finding.remedy);
        if let Some(fix) = finding.fix.as_ref().filter(|fix| fix.command().is_some()) {
            text += &format!("    --fix:  {}\n", fix.words());
        }
    }
    text
}

/// An error where one of the findings is.
pub(crate) fn judge(findings: &[Finding]) -> Result<()> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if errors == 0 {
        return Ok(());
    }
    let word = if errors == 1 { "1 thing is" } else { &format!("{errors} things are") };
    Err(InstallError::Preflight(format!("{word} in the way; no host was changed")))
}

pub(crate) async fn preflight(look: &Look, screen: &mut Screen) -> Result<()> {
    let work = begin(&look.config, screen)?;
    let seen = look_at(&work, look.fix).await;
    work.tidy().await;
    let seen = seen?;
    work.progress.clear();
    let value = json!({"findings": seen.findings, "hosts": work.cluster.hosts.len()});
    let text = match look.output {
        Output::Table | Output::Wide if seen.findings.is_empty() => {
            format!("{} fit; nothing is in the way\n", hosts_are(work.cluster.hosts.len()))
        }
        Output::Table => findings_text(&seen.findings),
        _ => screen.form(look.output, &value, || findings_table(&seen.findings))?,
    };
    screen.print(&text)?;
    judge(&seen.findings)
}

pub(crate) fn steps_text(plan: &Plan) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        text += &format!("  {:<10} {}: {}\n", step.what.as_str(), step.host, step.why);
    }
    if !plan.unchanged.is_empty() {
        text += &format!("  unchanged  {}\n", plan.unchanged.join(", "));
    }
    for note in &plan.notes {
        text += &format!("  note: {note}\n");
    }
    text
}

pub(crate) async fn plan(look: &Look, screen: &mut Screen) -> Result<()> {
    let work = begin(&look.config, screen)?;
    let seen = work.look(false).await;
    work.tidy().await;
    let seen = seen?;
    work.progress.clear();
    let plan = make_plan(&work.cluster, &seen.seen, &work.given)?;
    let value = json!({
        "steps": plan.steps, "unchanged": plan.unchanged, "notes": plan.notes, "findings": seen.findings,
    });
    let text = match look.output {
        Output::Table | Output::Wide => {
            let nothing = if plan.steps.is_empty() { "nothing is to be done\n" } else { "" };
            format!("{}{nothing}{}", findings_text(&seen.findings), steps_text(&plan))
        }
        _ => screen.form(look.output, &value, || Table::new(&[], &[], ""))?,
    };
    Ok(screen.print(&text)?)
}

pub(crate) async fn status(look: &Look, screen: &mut Screen) -> Result<()> {
    let work = begin(&look.config, screen)?;
    let seen = work.look(false).await;
    work.tidy().await;
    let seen = seen?;
    work.progress.clear();
    let mut table =
        Table::new(&["HOST", "ADDRESS", "ROLES", "CONDITION", "VERSION", "PROBLEM"], &[], "no hosts");
    let mut rows = Vec::new();
    let mut healthy = true;
    for (host, one) in work.cluster.hosts.iter().zip(&seen.seen) {
        let there = one.facts.as_ref().ok().and_then(|facts| facts.installed(&work.cluster.name));
        let (condition, tone, problem) = match (&one.facts, there) {
            (Err(why), _) => ("unreachable", Tone::Bad, why.clone()),
            (Ok(_), None) => ("not installed", Tone::Busy, String::new()),
            (Ok(_), Some(there)) if there.digest.is_none() => {
                ("unfinished", Tone::Bad, "run `plenum install apply`".to_owned())
            }
            (Ok(_), Some(there)) if there.healthy => ("healthy", Tone::Good, String::new()),
            (Ok(_), Some(there)) => ("unhealthy", Tone::Bad, there.problems.join("; ")),
        };
        healthy &= condition == "healthy";
        let roles: Vec<&str> = host.roles.iter().map(|role| role.as_str()).collect();
        let version = there.map(|there| there.version.clone()).unwrap_or_default();
        rows.push(json!({
            "host": host.name, "address": host.address, "roles": host.roles, "condition": condition, "version": version, "problem": problem,
            "units": there.map(|there| &there.units),
        }));
        table.row(vec![
            Cell::from(&host.name),
            host.address.to_string().into(),
            roles.join(",").into(),
            Cell::toned(condition, tone),
            if version.is_empty() { "-".into() } else { version.into() },
            problem.into(),
        ]);
    }
    let text = screen.form(look.output, &json!({"healthy": healthy, "hosts": rows}), || table)?;
    Ok(screen.print(&text)?)
}

/// Asks a person, unless `yes`.
pub(crate) fn agreed(yes: bool, question: &str, screen: &mut Screen) -> Result<()> {
    if yes || screen.agrees(question)? {
        return Ok(());
    }
    let text = if screen.asks {
        "nothing was done"
    } else {
        "nothing was done: nobody can be asked here; give --yes"
    };
    Err(InstallError::Usage(text.to_owned()))
}

pub(crate) async fn uninstall(uninstall: &Uninstall, screen: &mut Screen) -> Result<()> {
    let work = begin(&uninstall.config, screen)?;
    let what = if uninstall.keep_state { "its state stays on the hosts" } else { "all of its state is lost" };
    let question = format!(
        "Remove the cluster {} from {} hosts? Its tasks end, and {what}.",
        work.cluster.name,
        work.cluster.hosts.len()
    );
    agreed(uninstall.yes, &question, screen)?;
    let ready = work.ready(&work.remotes).await;
    let mut failed: Vec<String> = Vec::new();
    for (name, done) in ready {
        if let Err(error) = done {
            failed.push(format!("{name}: {error}"));
        }
    }
    let reached: Vec<_> = work.remotes.iter().filter(|remote| remote.program().is_ok()).cloned().collect();
    let locks = work.lock(&reached).await?;
    let is_master = |cluster: &Cluster, name: &str| cluster.masters().any(|host| host.name == name);
    // Those that run tasks first: masters would only see them vanish.
    let (masters, others): (Vec<_>, Vec<_>) =
        reached.into_iter().partition(|remote| is_master(&work.cluster, &remote.name));
    let mut changed = 0_u64;
    for group in [others, masters] {
        for (name, done) in work.remove(&group, !uninstall.keep_state).await {
            match done {
                Ok(count) => changed = changed.saturating_add(count),
                Err(error) => failed.push(format!("{name}: {error}")),
            }
        }
    }
    locks.release().await;
    work.tidy().await;
    work.progress.clear();
    if failed.is_empty() {
        work.contexts.forget(&work.cluster.name)?;
        let _ = std::fs::remove_file(work.folder.join(apply::PASSWORD));
    }
    let sentence = format!("{changed} things were removed from {}", hosts(work.cluster.hosts.len()));
    screen.outcome(uninstall.output, &json!({"changed": changed, "failed": failed}), &sentence)?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(InstallError::Host(format!("{}\nRun it again for what is left", failed.join("\n"))))
}

/// "1 host", "3 hosts".
fn hosts(count: usize) -> String {
    if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") }
}

/// "1 host is", "3 hosts are".
fn hosts_are(count: usize) -> String {
    format!("{} {}", hosts(count), if count == 1 { "is" } else { "are" })
}
