//! Putting a plan onto hosts over SSH: `plenum install`, `plenum uninstall`, and nodes that are added, removed and replaced. What is to be done
//! is decided by `installer/plan`, and done on the hosts by `installer/host`; here is what lies between.

pub mod carry;
pub mod edit;
pub mod error;
pub mod gateway;
pub mod lock;
pub mod log;
pub mod look;
pub mod onhost;
pub mod payload;
pub mod progress;
pub mod remote;
pub mod secrets;
pub mod ssh;
mod verbs;
pub mod work;

use std::process::ExitCode;

use clap::Subcommand;
use plenum_cli::install::NodeInstall;
use plenum_cli::screen::{Output, Screen};

use crate::error::{InstallError, Result};
pub use crate::verbs::{Apply, CloudInit, Init, Look, Uninstall};

const INSTALL: &str = "Examples:
  plenum install init --master 10.0.0.1 --agent 10.0.0.2,10.0.0.3
  plenum install preflight
  plenum install apply
  plenum install status";

/// Making a cluster of hosts, over SSH.
#[derive(Subcommand, Debug)]
#[command(after_help = INSTALL)]
pub enum InstallVerb {
    /// Write a configuration: by a few questions, or from flags
    #[command(
        after_help = "Examples:\n  plenum install init\n  plenum install init --master 10.0.0.1,10.0.0.2,10.0.0.3 --agent 10.0.0.4 --ssh-user ops --file lab.yaml\n  plenum install init --from config.yaml     take over one of DC/OS"
    )]
    Init(Init),
    /// Look whether the hosts are fit, changing nothing
    #[command(
        after_help = "Examples:\n  plenum install preflight\n  plenum install preflight --fix     repair what is safe to repair"
    )]
    Preflight(Look),
    /// Show the steps from what is to what is wanted, taking none
    #[command(after_help = "Examples:\n  plenum install plan\n  plenum install plan -o json")]
    Plan(Look),
    /// Take the steps; again after a failure it does what is left
    #[command(
        after_help = "Examples:\n  plenum install apply\n  plenum install apply --config lab.yaml --yes -o json"
    )]
    Apply(Apply),
    /// Show how the hosts are
    #[command(after_help = "Examples:\n  plenum install status\n  plenum install status -o json")]
    Status(Look),
    /// Print user data for machines of a cloud that join by themselves
    #[command(
        after_help = "Examples:\n  plenum install cloud-init --role agent --ttl 7d --uses 0 > user-data\n  plenum install cloud-init --role agent --binary-url https://files.example/plenum"
    )]
    CloudInit(CloudInit),
    /// What runs on the hosts
    #[command(hide = true)]
    OnHost {
        /// What to do.
        #[command(subcommand)]
        verb: onhost::OnHost,
    },
}

/// Carries out `plenum install …`.
#[must_use]
pub fn install(verb: &InstallVerb) -> ExitCode {
    if let InstallVerb::OnHost { verb } = verb {
        return end(onhost::run(verb), Output::Table);
    }
    let output = match verb {
        InstallVerb::Preflight(look) | InstallVerb::Plan(look) | InstallVerb::Status(look) => look.output,
        InstallVerb::Apply(apply) => apply.output,
        _ => Output::Table,
    };
    run(output, async |screen| match verb {
        InstallVerb::Init(init) => verbs::init(init, screen),
        InstallVerb::Preflight(look) => verbs::preflight(look, screen).await,
        InstallVerb::Plan(look) => verbs::plan(look, screen).await,
        InstallVerb::Apply(apply) => verbs::apply(apply, screen).await,
        InstallVerb::Status(look) => verbs::status(look, screen).await,
        InstallVerb::CloudInit(cloud) => verbs::cloud_init(cloud, screen).await,
        InstallVerb::OnHost { .. } => Ok(()),
    })
}

/// Carries out `plenum uninstall`.
#[must_use]
pub fn uninstall(uninstall: &Uninstall) -> ExitCode {
    run(uninstall.output, async |screen| verbs::uninstall(uninstall, screen).await)
}

/// Carries out `plenum node add|remove|replace`.
#[must_use]
pub fn node(verb: &NodeInstall, output: Output) -> ExitCode {
    run(output, async |screen| verbs::node(verb, output, screen).await)
}

fn run(output: Output, work: impl AsyncFnOnce(&mut Screen) -> Result<()>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(InstallError::Local(error.to_string())), output),
    };
    let done = runtime.block_on(async {
        let mut screen = Screen::of_this_process();
        tokio::select! {
            done = work(&mut screen) => done,
            _ = tokio::signal::ctrl_c() => Err(InstallError::Local(
                "interrupted. What is done stays done; what a host was just told it may still finish. Run the same command again to go on".to_owned(),
            )),
        }
    });
    runtime.shutdown_background();
    end(done, output)
}

fn end(done: Result<()>, output: Output) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    eprintln!("plenum: {error}");
    if matches!(output, Output::Json | Output::Yaml) && !matches!(error, InstallError::Preflight(_)) {
        println!("{}", serde_json::json!({"error": error.code(), "message": error.to_string()}));
    }
    ExitCode::from(error.exit_code())
}
