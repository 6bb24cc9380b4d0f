//! The table of roles: where each listens, how its settings are written for one machine, how it is run. Adding a role is adding a row.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use plenum_base::config::{self, Settings, Sources};
use plenum_base::places::{Places, Role};
use plenum_base::service::{self, Logging, Shutdown};
use serde::Serialize;

use crate::supervise::RoleSpec;
use crate::supervise::sockets::{Listening, Place};

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
