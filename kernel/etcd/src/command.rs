//! `plenum store …`: what an operator does with the store of an instance, as root on a master.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use plenum_base::client::Client;
use plenum_base::component::ComponentSettings;
use plenum_base::config::{self, Sources};
use plenum_base::places::{Bases, Instance, Places, Role};
use plenum_base::tls::{Expect, Identity};
use plenum_store::{Etcd, EtcdOptions, EtcdTls, Store as _, StoreSettings};
use serde::Deserialize;

use crate::config::{CARETAKER, client_url};
use crate::{Config, Moved, Status, Target};

/// How long any call to etcd may take here.
const DEADLINE: Duration = Duration::from_secs(10);

/// Look after the cluster's store
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  plenum store status\n  plenum store backup /root/plenum-backup\n  plenum store recover     a majority of the masters is lost for good"
)]
pub struct Command {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// The instance.
    #[arg(long, env = "PLENUM_INSTANCE", default_value = "default", global = true)]
    pub instance: Instance,
}

/// The verbs of `plenum store`.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show the members of etcd, how they are and what to do
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Go on from this master alone, when a majority of the masters is lost
    Recover {
        /// Also while a majority answers. What only the others have is lost.
        #[arg(long)]
        force: bool,
    },
    /// Carry the records over to etcd, or back to this machine's own files; the control roles must be stopped
    Move {
        /// Where to.
        #[arg(long, value_enum)]
        to: Target,
        /// `https://host:2379` of a member, instead of this cluster's own. May be repeated.
        #[arg(long = "endpoint", value_name = "URL")]
        endpoints: Vec<String>,
    },
    /// Write all records to files in a new folder
    Backup {
        /// The folder; it must not exist.
        folder: PathBuf,
    },
    /// Read a backup into a store that holds nothing
    Restore {
        /// The folder.
        folder: PathBuf,
    },
}

/// Runs the command and prints what it did.
///
/// # Errors
/// In sentences for the operator.
pub fn run(command: &Command) -> Result<()> {
    plenum_base::service::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(carry_out(command))
}

async fn carry_out(command: &Command) -> Result<()> {
    let found = Bases::of_this_user().find(&command.instance)?;
    let places =
        found.with_context(|| format!("there is no instance {} on this machine", command.instance))?;
    match &command.verb {
        Verb::Status { json } => show_status(&places, *json).await,
        Verb::Recover { force } => {
            let config = member(&places)?
                .context("this machine runs no member of etcd, so there is nothing to recover from")?;
            let done = crate::recover(&config, *force).await?;
            println!("this master goes on alone, with everything up to revision {}", done.revision);
            println!("its data as it was before is kept in {}", done.copy.display());
            if !done.dropped.is_empty() {
                println!("no longer members, they join anew when they start: {}", done.dropped.join(", "));
            }
            Ok(())
        }
        Verb::Move { to, endpoints } => {
            let etcd = connect(&places, endpoints).await?;
            print(&crate::move_store(&places, &etcd, *to).await?);
            match to {
                Target::Etcd => println!("set store.etcd = true for the control roles, then start them"),
                Target::Embedded => println!("set store.etcd = false for the control roles, then start them"),
            }
            Ok(())
        }
        Verb::Backup { folder } => {
            print(&crate::backup(&places, current(&places).await?.as_ref(), folder).await?);
            println!(
                "keep {} with it: secrets in the backup are sealed with that key",
                places.vault_key().display()
            );
            Ok(())
        }
        Verb::Restore { folder } => {
            print(&crate::restore(&places, current(&places).await?.as_ref(), folder).await?);
            Ok(())
        }
    }
}

fn print(all: &[Moved]) {
    for part in all {
        let note = if part.already { " (already there)" } else { "" };
        println!("{:<10} {:>8} records{note}", part.component, part.records);
    }
}

/// The settings of this machine's member, if it has one.
fn member(places: &Places) -> Result<Option<Config>> {
    let file = places.config(Role::Etcd);
    if !file.exists() {
        return Ok(None);
    }
    Ok(Some(config::load("etcd", &Sources::of_process(Some(&file), Vec::new()))?))
}

/// etcd, if that is where the records of this machine's components are.
async fn current(places: &Places) -> Result<Option<Etcd>> {
    let moved = |role| plenum_store::moved::marker(&places.store(role)).exists();
    if external(places)?.is_some() {
        return Ok(Some(connect(places, &[]).await?));
    }
    let on_etcd =
        crate::moving::COMPONENTS.into_iter().any(|role| moved(role) || !places.store(role).exists());
    if on_etcd && member(places)?.is_some() { Ok(Some(connect(places, &[]).await?)) } else { Ok(None) }
}

/// What a control role's file says about its store, and nothing else of it.
#[derive(Deserialize)]
struct WithStore {
    #[serde(default)]
    store: StoreSettings,
}

/// The etcd that the operator runs, if the records of this machine's components are there.
fn external(places: &Places) -> Result<Option<StoreSettings>> {
    let file = places.config(Role::Identity);
    if !file.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    // What is wrong in the file is said without quoting it.
    let Ok(WithStore { store }) = toml::from_str(&text) else {
        bail!("{} cannot be read as settings", file.display())
    };
    if store.endpoints.is_empty() {
        return Ok(None);
    }
    let own = places.identity(Role::Identity);
    Ok(Some(store.files_or(&own.ca, &own.cert, &own.key)))
}

async fn connect(places: &Places, endpoints: &[String]) -> Result<Etcd> {
    if let Some(store) = external(places)?.filter(|_| endpoints.is_empty()) {
        let told = || store.endpoints.join(", ");
        let options = EtcdOptions { deadline: DEADLINE, ..store.options().with_context(told)? };
        return Etcd::connect(options).await.with_context(told);
    }
    let member = member(places)?;
    let files =
        member.as_ref().map_or_else(|| ComponentSettings::at(places, Role::Etcd), |m| m.component.clone());
    let mut urls = endpoints.to_vec();
    if urls.is_empty() {
        let Some(member) = &member else {
            bail!("this machine runs no member of etcd: name one with --endpoint https://host:2379");
        };
        urls.push(member.client_url());
        urls.extend(member.component.masters.iter().map(|address| client_url(*address)));
        urls.dedup();
    }
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    let tls = EtcdTls {
        ca: read(&files.ca)?,
        cert: read(&files.certificate)?,
        key: read(&files.key)?,
        server_name: None,
    };
    let options = EtcdOptions { tls: Some(tls), deadline: DEADLINE, ..EtcdOptions::new(urls) };
    Ok(Etcd::connect(options).await?)
}

async fn show_status(places: &Places, json: bool) -> Result<()> {
    if let Some(store) = external(places)? {
        return show_external(places, &store, json).await;
    }
    let Some(member) = member(places)? else {
        if !places.config(Role::Identity).exists() {
            bail!("this host is no master, so it keeps no records: ask on a master");
        }
        println!("the records are in this machine's own files, below {}", places.state.display());
        return Ok(());
    };
    let files = &member.component;
    let text = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let identity = Identity::from_pem(&text(&files.ca)?, &text(&files.certificate)?, &text(&files.key)?)?;
    let client = Client::with_identity(&identity, Expect::Role(Role::Etcd.as_str().to_owned()))?;
    let url = format!("https://{}/v1/status", std::net::SocketAddr::new(member.address, CARETAKER));
    let reply = client.get(&url).deadline(DEADLINE).send().await;
    let reply = reply.context("the role etcd of this master does not answer: is it running?")?;
    let status: Status = reply.success().await?.json().await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(());
    }
    let leader = status.leader.as_deref().unwrap_or("nobody");
    println!("{}", format!("{} is {:?} {}", status.name, status.phase, status.doing).trim_end());
    println!("leader {leader}, term {}, {} of {} MiB", status.term, status.db_size >> 20, status.quota >> 20);
    println!("{}", who_may(&status));
    for member in &status.members {
        let health = if member.healthy { "well" } else { "NOT WELL" };
        let vote = if member.votes { "votes" } else { "learner" };
        let mut line = format!("  {:<16} {:<32} {vote:<8} {health:<9}", member.name, member.url);
        if member.lag > 0 {
            line += &format!(" {} behind", member.lag);
        }
        line += &format!(" {}", member.reason);
        println!("{}", line.trim_end());
    }
    status.problems.iter().for_each(|problem| println!("! {problem}"));
    status.warnings.iter().for_each(|warning| println!("~ {warning}"));
    Ok(())
}

/// Whether components are kept apart, in a line.
fn who_may(status: &Status) -> String {
    if status.users {
        return "users on: each component reads and writes its own records only".to_owned();
    }
    let why = status.users_wait.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("users off until the certificates of all masters name them{why}")
}

/// Members, quota and backups of an etcd that somebody else runs are theirs: it is told where it is, and whether it answers.
async fn show_external(places: &Places, store: &StoreSettings, json: bool) -> Result<()> {
    let answers =
        async { connect(places, &[]).await?.get("plenum").await.map_err(anyhow::Error::from) }.await;
    let problem = answers.err().map(|error| format!("{error:#}"));
    if json {
        let told = serde_json::json!({"endpoints": store.endpoints, "answers": problem.is_none(), "problem": problem});
        println!("{}", serde_json::to_string_pretty(&told)?);
        return Ok(());
    }
    println!("the records are on an etcd of yours: {}", store.endpoints.join(", "));
    match problem {
        None => println!("it answers; its members, quota and backups are yours to look after"),
        Some(problem) => println!("! it does not answer: {problem}"),
    }
    Ok(())
}
