//! The table of roles: where each listens, how its settings are written for one machine, how it is run. Adding a role is adding a row.

mod agent;
pub mod fleet;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use plenum_base::config::{self, Settings, Sources};
use plenum_base::places::{Places, Role};
use plenum_base::service;
use serde::Serialize;

use crate::supervise::RoleSpec;
use crate::supervise::sockets::{Listening, Place};

pub use agent::{AgentFile, remove_networks, runtime};

/// A role ends by itself within this time after it was asked to.
const GRACE: Duration = Duration::from_secs(8);

/// What the operator asked of `plenum up` that reaches the roles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choices {
    /// Callers without credentials are let in.
    pub open: bool,
}

/// The roles of a single machine, in the order in which they are started; they wait for each other by themselves.
pub const ROLES: [Role; 8] = [
    Role::Identity,
    Role::Master,
    Role::Agent,
    Role::Services,
    Role::Discovery,
    Role::Balancer,
    Role::Catalog,
    Role::Gateway,
];

/// How a role is run by hand or by the supervisor.
#[derive(clap::Args, Debug)]
pub struct RoleArguments {
    /// The role's settings (TOML). Without one, the defaults of the instance `default`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting over the file's: --set dotted.name=value. May be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Where a role listens: the names are those under which it asks for its sockets.
fn listening(places: &Places, role: Role) -> Vec<Listening> {
    let tcp = |name, address| Listening { name, place: Place::Tcp(address) };
    let mut sockets = vec![tcp("http", places.address(role))];
    match role {
        Role::Master => sockets.push(tcp("agents", places.agents_door())),
        Role::Gateway => sockets.push(tcp("https", places.gateway_tls())),
        Role::Discovery => {
            sockets.push(Listening { name: "dns-udp", place: Place::Udp(places.dns()) });
            sockets.push(tcp("dns-tcp", places.dns()));
        }
        _ => {}
    }
    sockets
}

/// What the supervisor is told of a role.
pub fn spec(places: &Places, role: Role) -> RoleSpec {
    let config = places.config(role).to_string_lossy().into_owned();
    RoleSpec {
        name: role.as_str(),
        arguments: vec!["--config".to_owned(), config],
        listening: listening(places, role),
    }
}

/// The text of a role's file on a single machine.
pub fn settings(places: &Places, role: Role, choices: Choices) -> Result<String> {
    match role {
        Role::Identity => text(&plenum_identity::Config {
            instance: places.instance.clone(),
            number: places.number,
            open: choices.open,
            ..Default::default()
        }),
        Role::Master => {
            let mut config = plenum_master::Config::at(places);
            config.component.open = choices.open;
            config.cluster = places.instance.to_string();
            text(&config)
        }
        Role::Agent => text(&AgentFile::at(places, choices)),
        Role::Services => {
            let mut config = plenum_services::Config::at(places);
            config.component.open = choices.open;
            text(&config)
        }
        Role::Catalog => {
            let mut config = plenum_catalog::Config::at(places);
            config.component.open = choices.open;
            text(&config)
        }
        Role::Discovery => {
            let mut config = plenum_discovery::Config::at(places);
            config.component.open = choices.open;
            text(&config)
        }
        Role::Balancer => {
            let mut config = plenum_balancer::Config::at(places);
            config.component.open = choices.open;
            text(&config)
        }
        Role::Gateway => {
            let mut config = plenum_gateway::Config::at(places);
            config.component.open = choices.open;
            text(&config)
        }
        Role::Etcd => anyhow::bail!("etcd has settings on the masters of a fleet only"),
    }
}

fn text<T: Serialize>(settings: &T) -> Result<String> {
    toml::to_string_pretty(settings).context("the settings cannot be written as TOML")
}

/// Runs a role until it is told to stop.
pub fn run(role: Role, arguments: &RoleArguments) -> ExitCode {
    match role {
        Role::Identity => with(role, arguments, |config: plenum_identity::Config| {
            let log = config.logging.clone();
            service::run(role.as_str(), &log, GRACE, |shutdown| plenum_identity::run(config, shutdown))
        }),
        Role::Master => with(role, arguments, |config: plenum_master::Config| {
            let log = config.component.log.clone();
            service::run(role.as_str(), &log, GRACE, |shutdown| plenum_master::run(config, shutdown))
        }),
        Role::Agent => with(role, arguments, |config: AgentFile| {
            let log = config.component.log.clone();
            plenum_base::memory::keep_little();
            service::run(role.as_str(), &log, GRACE, |shutdown| agent::run(config, shutdown))
        }),
        Role::Services => with(role, arguments, |config: plenum_services::Config| {
            let log = config.component.log.clone();
            plenum_base::memory::keep_little();
            service::run(role.as_str(), &log, GRACE, |shutdown| plenum_services::run(config, shutdown))
        }),
        Role::Catalog => with(role, arguments, |config: plenum_catalog::Config| {
            let log = config.component.log.clone();
            service::run(role.as_str(), &log, GRACE, |shutdown| plenum_catalog::run(config, shutdown))
        }),
        Role::Discovery => with(role, arguments, |config: plenum_discovery::Config| {
            let log = config.component.log.clone();
            service::run(role.as_str(), &log, GRACE, |shutdown| plenum_discovery::run(config, shutdown))
        }),
        Role::Balancer => with(role, arguments, |config: plenum_balancer::Config| {
            let log = config.component.log.clone();
            service::run(role.as_str(), &log, GRACE, |shutdown| plenum_balancer::run(config, shutdown))
        }),
        Role::Gateway => with(role, arguments, |config: plenum_gateway::Config| {
            let log = config.component.log.clone();
            service::run(role.as_str(), &log, GRACE, |shutdown| plenum_gateway::run(config, shutdown))
        }),
        Role::Etcd => with(role, arguments, |config: plenum_etcd::Config| {
            let log = config.component.log.clone();
            service::run(role.as_str(), &log, GRACE, |shutdown| plenum_etcd::run(config, shutdown))
        }),
    }
}

/// Loads a role's settings and goes on with them; every error of the settings is printed at once.
fn with<T: Settings>(role: Role, arguments: &RoleArguments, go: impl FnOnce(T) -> ExitCode) -> ExitCode {
    match load(role, arguments) {
        Ok(settings) => go(settings),
        Err(errors) => {
            eprintln!("plenum {role}: {errors}");
            ExitCode::from(2)
        }
    }
}

fn load<T: Settings>(role: Role, arguments: &RoleArguments) -> Result<T, config::ConfigErrors> {
    let sources = Sources::of_process(arguments.config.as_deref(), arguments.set.clone());
    config::load(role.as_str(), &sources)
}

/// Checks a role's settings without running it.
pub fn check(role: Role, arguments: &RoleArguments) -> Result<(), config::ConfigErrors> {
    match role {
        Role::Identity => load::<plenum_identity::Config>(role, arguments).map(drop),
        Role::Master => load::<plenum_master::Config>(role, arguments).map(drop),
        Role::Agent => load::<AgentFile>(role, arguments).map(drop),
        Role::Services => load::<plenum_services::Config>(role, arguments).map(drop),
        Role::Catalog => load::<plenum_catalog::Config>(role, arguments).map(drop),
        Role::Discovery => load::<plenum_discovery::Config>(role, arguments).map(drop),
        Role::Balancer => load::<plenum_balancer::Config>(role, arguments).map(drop),
        Role::Gateway => load::<plenum_gateway::Config>(role, arguments).map(drop),
        Role::Etcd => load::<plenum_etcd::Config>(role, arguments).map(drop),
    }
}
