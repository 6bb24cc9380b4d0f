//! `plenum down`: stops the roles and the tasks of an instance, and removes what they left in the Linux kernel. State stays unless it is purged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use plenum_base::places::{Bases, Instance, Places};
use plenum_cli::context::Contexts;
use plenum_containers::Runtime as _;

use crate::roles::{self, AgentFile, Choices};
use crate::supervise::Settings;
use crate::supervise::control::{Reports, Request};

/// The supervisor has this long to stop the roles.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is to be stopped.
#[derive(clap::Args, Debug)]
pub struct Down {
    /// The instance.
    #[arg(long, env = "PLENUM_INSTANCE", default_value = "default")]
    pub instance: Instance,
    /// Also forget everything: apps, users, certificates, logs.
    #[arg(long)]
    pub purge: bool,
}

/// Stops an instance.
pub fn run(down: &Down) -> Result<()> {
    let bases = Bases::of_this_user();
    let Some(places) = bases.find(&down.instance)? else {
        println!("there is no instance {}", down.instance);
        return Ok(());
    };
    stop_roles(&places)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(stop_tasks(&places))?;
    tokio.block_on(remove_network(&places));
    if down.purge {
        remove(&places.state)?;
        remove(&places.run)?;
        Contexts::of_this_user().forget(&down.instance)?;
        // Last: until now its number must not be another's.
        bases.forget(&down.instance)?;
        println!("instance {} is gone", down.instance);
    } else {
        println!("instance {} is down; its state is in {}", down.instance, places.state.display());
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Asks the supervisor; where there is none, its roles are stopped by what it wrote down.
pub fn stop_roles(places: &Places) -> Result<()> {
    let Ok(mut reports) = Reports::ask(&Settings::control(&places.run), Request::Stop, PATIENCE) else {
        return crate::supervise::stop_orphans(&places.run);
    };
    let deadline = Instant::now() + PATIENCE;
    while let Some(report) = reports.next()? {
        if report.failed.is_some() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "the components did not stop within {} s; see {}",
                PATIENCE.as_secs(),
                places.state.join("log").display()
            );
        }
    }
    Ok(())
}

/// Ends every task: their shims outlive the agent on purpose, so that only this ends them.
async fn stop_tasks(places: &Places) -> Result<()> {
    let file = AgentFile::at(places, Choices::default());
    if !file.agent.run_dir.join("containers").exists() {
        return Ok(());
    }
    let runtime = roles::runtime(&file)?;
    for container in runtime.recover().await? {
        if let Err(error) = runtime.destroy(&container.id).await {
            eprintln!("the container {} could not be ended: {error}", container.id);
        }
    }
    // What still has processes was named above.
    let _empty = runtime.remove_groups(Duration::from_secs(2));
    Ok(())
}

/// Takes the virtual addresses and the networks of containers out of the Linux kernel.
async fn remove_network(places: &Places) {
    if !places.root {
        return;
    }
    if let Err(error) = roles::remove_networks(&AgentFile::at(places, Choices::default())).await {
        eprintln!("the networks of containers could not be removed: {error}");
    }
    let config = plenum_balancer::Config::at(places);
    let tools = plenum_balancer::Tools { nft: config.nft, ip: config.ip };
    if let Err(error) = plenum_balancer::purge(&tools, &config.table, config.range).await {
        eprintln!("the virtual addresses could not be removed: {error}");
    }
}
