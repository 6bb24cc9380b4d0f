//! The verbs of the command line that talk to a cluster's gateway: [`Verb`] is flattened into the command `plenum`, [`run`] carries one out.
//! Verbs about this machine (`up`, `down`, `status`) are the installer's. The typed client under the verbs is [`api`].

pub mod api;
pub mod compare;
pub mod context;
pub mod error;
pub mod install;
pub mod screen;
pub mod table;
pub mod text;
mod trust;
mod verbs;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use plenum_base::places::Instance;

use crate::context::Contexts;
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::verbs::{app, apply, cluster, deployment, group, import, login, node, package, pod, quota, task};

/// What all verbs take: which cluster, and how results are printed.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// The cluster's name: an instance on this machine, or what `plenum login` called it
    #[arg(long, global = true, env = "PLENUM_INSTANCE", default_value = "default", value_name = "NAME")]
    pub instance: Instance,
    /// The gateway's address, where it is not the one known under that name
    #[arg(long, global = true, env = "PLENUM_URL", value_name = "URL")]
    pub url: Option<String>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

impl Global {
    /// The address that was given. An empty environment variable is none.
    pub(crate) fn url(&self) -> Option<&str> {
        self.url.as_deref().filter(|url| !url.is_empty())
    }
}

/// The verbs. Each carries its [`Global`], so that they do not get in the way of other verbs beside them.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Log in to a cluster
    #[command(after_help = login::EXAMPLES)]
    Login {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// Its own arguments.
        #[command(flatten)]
        arguments: login::LoginArguments,
    },
    /// Forget a login
    #[command(after_help = "Examples:\n  plenum logout\n  plenum logout --instance lab")]
    Logout {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
    },
    /// Find, install and remove packages
    #[command(alias = "packages", after_help = package::EXAMPLES)]
    Package {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: package::PackageVerb,
    },
    /// Deploy, change and look into apps
    #[command(alias = "apps", after_help = app::EXAMPLES)]
    App {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: app::AppVerb,
    },
    /// Deploy apps, pods and groups from files: shows what changes, asks, waits
    #[command(after_help = apply::EXAMPLES)]
    Deploy {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// Its own arguments.
        #[command(flatten)]
        arguments: apply::DeployArguments,
    },
    /// Look into pods and change them
    #[command(alias = "pods", after_help = pod::EXAMPLES)]
    Pod {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: pod::PodVerb,
    },
    /// Look into groups of apps and pods, and change them
    #[command(alias = "groups", after_help = group::EXAMPLES)]
    Group {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: group::GroupVerb,
    },
    /// Look at changes under way, and take them back
    #[command(alias = "deployments", after_help = deployment::EXAMPLES)]
    Deployment {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: deployment::DeploymentVerb,
    },
    /// Look at quotas of roles, and set them
    #[command(alias = "quotas", after_help = quota::EXAMPLES)]
    Quota {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: quota::QuotaVerb,
    },
    /// Take over what runs elsewhere
    Import {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// From where.
        #[command(subcommand)]
        verb: import::ImportVerb,
    },
    /// Look into tasks, of whatever framework
    #[command(alias = "tasks", after_help = task::EXAMPLES)]
    Task {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: task::TaskVerb,
    },
    /// Look at the nodes
    #[command(alias = "nodes", after_help = node::EXAMPLES)]
    Node {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: node::NodeVerb,
    },
    /// Look at the cluster as a whole
    #[command(after_help = cluster::EXAMPLES)]
    Cluster {
        /// Which cluster, and how results are printed.
        #[command(flatten)]
        global: Global,
        /// What to do.
        #[command(subcommand)]
        verb: cluster::ClusterVerb,
    },
    /// Print a script that completes words in a shell
    #[command(
        after_help = "Examples:\n  plenum completion bash > /etc/bash_completion.d/plenum\n  plenum completion zsh > ~/.zfunc/_plenum"
    )]
    Completion {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Carries out a verb on the streams and with the contexts of this process, and gives the exit code: 0 ok, 1 refused or failed, 2 usage,
/// 3 unreachable, 4 not logged in. `whole` is the command that the verbs are part of, for completion.
#[must_use]
pub fn run(verb: &Verb, whole: fn() -> clap::Command) -> ExitCode {
    let mut screen = Screen::of_this_process();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(execute(verb, whole, &Contexts::of_this_user(), &mut screen));
            // A name that is still being looked up must not hold the prompt back.
            runtime.shutdown_background();
            done
        }
        Err(error) => Err(CliError::Local(format!("the verb cannot be started: {error}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::Closed | CliError::Exited(_)) {
                // Where nobody can be told, the code tells.
                let _ = screen.note(&format!("plenum: {error}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Carries out a verb on streams and with contexts of the caller's.
///
/// # Errors
/// [`CliError`].
pub async fn execute(
    verb: &Verb,
    whole: fn() -> clap::Command,
    contexts: &Contexts,
    screen: &mut Screen,
) -> Result<()> {
    let session = |global: &Global| contexts.session(&global.instance, global.url());
    match verb {
        Verb::Login { global, arguments } => login::login(contexts, global, arguments, screen).await,
        Verb::Logout { global } => login::logout(contexts, global, screen),
        Verb::Package { global, verb } => package::run(&session(global)?, global, verb, screen).await,
        Verb::App { global, verb } => app::run(&session(global)?, global, verb, screen).await,
        Verb::Deploy { global, arguments } => {
            apply::run(&session(global)?, global.output, arguments, screen).await
        }
        Verb::Pod { global, verb } => pod::run(&session(global)?, global, verb, screen).await,
        Verb::Group { global, verb } => group::run(&session(global)?, global, verb, screen).await,
        Verb::Deployment { global, verb } => deployment::run(&session(global)?, global, verb, screen).await,
        Verb::Quota { global, verb } => quota::run(&session(global)?, global, verb, screen).await,
        Verb::Import { global, verb } => import::run(&session(global)?, global, verb, screen).await,
        Verb::Task { global, verb } => task::run(&session(global)?, global, verb, screen).await,
        Verb::Node { global, verb } => node::run(&session(global)?, global, verb, screen).await,
        Verb::Cluster { global, verb } => cluster::run(&session(global)?, global, verb, screen).await,
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut whole(), "plenum", &mut script);
            screen.print(&String::from_utf8_lossy(&script))
        }
    }
}
