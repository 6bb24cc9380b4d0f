//! `plenum`: one binary with every role of the datacenter, the supervisor of a single machine, and the verbs of the command line. This file
//! only tells them apart.

mod demo;
mod down;
mod hello;
mod host;
mod roles;
mod shim;
mod supervise;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use plenum_base::places::{Instance, Role};
use plenum_cli::screen::{Output, Screen};
use plenum_cli::table::{Cell, Table, Tone};
use roles::RoleArguments;

/// A datacenter operating system: makes a fleet of Linux machines behave like one computer.
#[derive(Parser, Debug)]
#[command(name = "plenum", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a datacenter of one node on this machine
    #[command(
        after_help = "Examples:\n  plenum up                     stay in the foreground\n  plenum up --detach            leave it running\n  plenum up --instance second   a second one beside the first"
    )]
    Up(up::Up),
    /// Stop it
    #[command(after_help = "Examples:\n  plenum down\n  plenum down --purge   forget everything")]
    Down(down::Down),
    /// Show the components and how they are
    #[command(after_help = "Examples:\n  plenum status\n  plenum status -o json")]
    Status(Status),
    /// Make a cluster of hosts, over SSH
    Install {
        /// What to do.
        #[command(subcommand)]
        verb: plenum_provision::InstallVerb,
    },
    /// Take a cluster off its hosts, over SSH
    Uninstall(plenum_provision::Uninstall),
    /// What the installer runs on a host of a fleet
    #[command(hide = true)]
    Host {
        /// What to do.
        #[command(subcommand)]
        verb: host::Verb,
    },
    /// Make this machine a host of a fleet, with a join token
    #[command(
        after_help = "Examples:\n  plenum join 10.0.0.1 --token-file /run/token\n  echo \"$TOKEN\" | plenum join 10.0.0.1 --token -"
    )]
    Join(host::Join),
    /// Look at settings
    Config {
        /// What to do.
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Look after the cluster's store: etcd's members, backups, recovery
    Store(plenum_etcd::command::Command),
    #[command(hide = true)]
    Supervise(Supervise),
    #[command(hide = true)]
    Hello(hello::Hello),
    /// What the agent has unpack a layer of an image, in a process of its own
    #[command(hide = true)]
    UnpackLayer {
        /// What to do, as JSON.
        order: String,
    },
    #[command(flatten)]
    Verb(plenum_cli::Verb),
    #[command(flatten)]
    Role(RoleCommand),
}

/// The roles; started by the supervisor or by systemd, seldom by hand.
#[derive(Subcommand, Debug)]
enum RoleCommand {
    /// Run the role identity: users, tokens, certificates
    #[command(hide = true)]
    Identity(RoleArguments),
    /// Run the role master: the resource manager
    #[command(hide = true)]
    Master(RoleArguments),
    /// Run the role agent: the node agent
    #[command(hide = true)]
    Agent(RoleArguments),
    /// Run the role services: long-running services
    #[command(hide = true)]
    Services(RoleArguments),
    /// Run the role discovery: names and DNS
    #[command(hide = true)]
    Discovery(RoleArguments),
    /// Run the role balancer: virtual addresses
    #[command(hide = true)]
    Balancer(RoleArguments),
    /// Run the role catalog: packages
    #[command(hide = true)]
    Catalog(RoleArguments),
    /// Run the role gateway: the front door
    #[command(hide = true)]
    Gateway(RoleArguments),
    /// Run the role etcd: a master's member of the cluster's store
    #[command(hide = true)]
    Etcd(RoleArguments),
}

impl RoleCommand {
    fn parts(&self) -> (Role, &RoleArguments) {
        match self {
            Self::Identity(arguments) => (Role::Identity, arguments),
            Self::Master(arguments) => (Role::Master, arguments),
            Self::Agent(arguments) => (Role::Agent, arguments),
            Self::Services(arguments) => (Role::Services, arguments),
            Self::Discovery(arguments) => (Role::Discovery, arguments),
            Self::Balancer(arguments) => (Role::Balancer, arguments),
            Self::Catalog(arguments) => (Role::Catalog, arguments),
            Self::Gateway(arguments) => (Role::Gateway, arguments),
            Self::Etcd(arguments) => (Role::Etcd, arguments),
        }
    }
}

#[derive(clap::Args, Debug)]
struct Status {
    /// The instance.
    #[arg(long, env = "PLENUM_INSTANCE", default_value = "default")]
    instance: Instance,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Subcommand, Debug)]
enum ConfigVerb {
    /// Check a role's settings and print all errors at once
    #[command(after_help = "Examples:\n  plenum config check master --config /etc/plenum/master.toml")]
    Check {
        /// The role, such as master.
        role: Role,
        /// Its file and settings over it.
        #[command(flatten)]
        arguments: RoleArguments,
    },
}

#[derive(clap::Args, Debug)]
struct Supervise {
    /// The instance.
    #[arg(long)]
    instance: Instance,
}

fn main() -> ExitCode {
    // Whoever started this may have signals blocked, as the supervisor has: blocked ones would be inherited, and a role that does not hear
    // that it shall end is killed in the end. Nothing is lost where it fails.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    let done = match Arguments::parse().command {
        Command::Up(up) => up::run(&up),
        Command::Down(down) => down::run(&down),
        Command::Status(status) => print_status(&status),
        Command::Config { verb: ConfigVerb::Check { role, arguments } } => {
            roles::check(role, &arguments).map(|()| println!("ok")).map_err(Into::into)
        }
        Command::Host { verb } => return host::run(&verb),
        Command::Join(join) => return host::join(&join),
        Command::Store(store) => plenum_etcd::command::run(&store),
        Command::Supervise(supervise) => up::supervise(&supervise.instance),
        Command::Hello(hello) => hello::run(&hello),
        Command::UnpackLayer { order } => return plenum_images::unpack::child::main(&order),
        Command::Install { verb } => return plenum_provision::install(&verb),
        Command::Uninstall(uninstall) => return plenum_provision::uninstall(&uninstall),
        Command::Verb(verb) if verb.installs().is_some() => {
            return verb
                .installs()
                .map_or(ExitCode::FAILURE, |(verb, output)| plenum_provision::node(verb, output));
        }
        Command::Verb(verb) => return plenum_cli::run(&verb, <Arguments as clap::CommandFactory>::command),
        Command::Role(command) => {
            let (role, arguments) = command.parts();
            return roles::run(role, arguments);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plenum: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_status(status: &Status) -> anyhow::Result<()> {
    if let Some(host) = plenum_host::status::status(&status.instance)? {
        return print_host(status, &host);
    }
    let report = up::status(&status.instance)?;
    let mut screen = Screen::of_this_process();
    let text = screen.form(status.output, &report, || {
        let head = ["COMPONENT", "CONDITION", "PID", "RESTARTS", "LAST EXIT"];
        let mut table = Table::new(&head, &["LOG"], "no components");
        for role in &report.roles {
            let tone = if role.condition == "running" { Tone::Good } else { Tone::Bad };
            table.row(vec![
                Cell::from(&role.role),
                Cell::toned(&role.condition, tone),
                role.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()).into(),
                role.restarts.to_string().into(),
                role.last_exit.clone().unwrap_or_else(|| "-".to_owned()).into(),
                Cell::from(&role.log),
            ]);
        }
        table
    })?;
    Ok(screen.print(&text)?)
}

/// A host of a fleet: its units.
fn print_host(status: &Status, host: &plenum_host::status::HostStatus) -> anyhow::Result<()> {
    let mut screen = Screen::of_this_process();
    let text = screen.form(status.output, host, || {
        let head = ["UNIT", "CONDITION", "PID", "RESTARTS"];
        let mut table = Table::new(&head, &["STATUS"], "no units");
        for unit in &host.units {
            let tone = if unit.condition == "active" { Tone::Good } else { Tone::Bad };
            table.row(vec![
                Cell::from(&unit.unit),
                Cell::toned(&unit.condition, tone),
                unit.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()).into(),
                unit.restarts.to_string().into(),
                Cell::from(&unit.status),
            ]);
        }
        table
    })?;
    screen.print(&text)?;
    for problem in host.problems.iter().filter(|_| status.output == Output::Table) {
        eprintln!("{problem}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Arguments::command().debug_assert();
    }
}
