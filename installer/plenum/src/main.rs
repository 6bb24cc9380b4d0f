//! `plenum`: one binary with every role of the datacenter, the supervisor of a single machine, and the verbs of the command line. This file
//! only tells them apart.

mod demo;
mod down;
mod hello;
mod roles;
mod shim;
mod supervise;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use plenum_base::places::{Instance, Role};
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
    Status(Status),
    /// Check a role's settings and print all errors at once
    ConfigCheck(ConfigCheck),
    #[command(hide = true)]
    Supervise(Supervise),
    #[command(hide = true)]
    Hello(hello::Hello),
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

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(clap::Args, Debug)]
struct ConfigCheck {
    /// The role, such as master.
    role: Role,
    #[command(flatten)]
    arguments: RoleArguments,
}

#[derive(clap::Args, Debug)]
struct Supervise {
    /// The instance.
    #[arg(long)]
    instance: Instance,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(up) => up::run(&up),
        Command::Down(down) => down::run(&down),
        Command::Status(status) => print_status(&status),
        Command::ConfigCheck(check) => {
            roles::check(check.role, &check.arguments).map(|()| println!("ok")).map_err(Into::into)
        }
        Command::Supervise(supervise) => up::supervise(&supervise.instance),
        Command::Hello(hello) => hello::run(&hello),
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
    let report = up::status(&status.instance)?;
    if status.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{:<12} {:<11} {:>8} {:>9}  LOG", "COMPONENT", "CONDITION", "PID", "RESTARTS");
    for role in &report.roles {
        let pid = role.pid.map(|pid| pid.to_string()).unwrap_or_default();
        println!("{:<12} {:<11} {pid:>8} {:>9}  {}", role.role, role.condition, role.restarts, role.log);
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
