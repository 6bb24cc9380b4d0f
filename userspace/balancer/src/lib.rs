//! The balancer: virtual addresses in the Linux kernel.
//!
//! Discovery says which virtual address has which back ends; the [`core`] compares that with the kernel's tables and writes one nftables
//! transaction; the [`keeper`] carries it out. Packets never pass this process: while it is away, the kernel goes on with the last tables.
//!
//! A back end that leaves gets no new connection; those that it has stay with it until they end (the kernel's connection tracking keeps
//! their translation), unless its host is gone, or they are datagrams, which never end ([`conntrack`]). Socket: `http`.

pub mod conntrack;
pub mod core;
pub mod keeper;
pub mod listing;
pub mod tool;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use plenum_base::component::{Component, ComponentSettings, ServeError};
use plenum_base::config::Settings;
use plenum_base::places::{Instance, Places, Role};
use plenum_base::service::Shutdown;
use plenum_discovery::range::Range;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::core::Place;
use crate::keeper::{Keeper, Status};
pub use crate::tool::{ToolError, Tools};

/// The balancer's settings.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has.
    pub component: ComponentSettings,
    /// The Unix socket on which discovery tells tables.
    pub socket: PathBuf,
    /// The nftables table (family `ip`).
    pub table: String,
    /// The range of virtual addresses.
    pub range: Range,
    /// From which address this machine's own connections to virtual addresses come.
    pub source: Ipv4Addr,
    /// The program `nft`.
    pub nft: PathBuf,
    /// The program `ip`.
    pub ip: PathBuf,
}

impl Config {
    /// The settings of a single-machine instance.
    #[must_use]
    pub fn at(places: &Places) -> Self {
        let (base, bits) = places.virtual_range();
        let tools = Tools::default();
        let source = match places.node() {
            IpAddr::V4(node) => node,
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
        };
        Self {
            component: ComponentSettings::at(places, Role::Balancer),
            socket: places.run.join("replica.sock"),
            table: places.nft_table(),
            range: Range::new(base, bits).expect("a place's range has a sensible size"),
            source,
            nft: tools.nft,
            ip: tools.ip,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::at(&Places::of(Instance::default(), 0))
    }
}

impl Settings for Config {
    fn check(&self, problems: &mut Vec<String>) {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let begins = self.table.starts_with(|c: char| c.is_ascii_alphabetic());
        if !begins || !self.table.chars().all(plain) || self.table.len() > 64 {
            problems.push(format!("table is \"{}\"; use up to 64 letters, digits and _", self.table));
        }
    }
}

/// Why the balancer ends.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// The address cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs the role until `shutdown`. The tables stay in the kernel; [`purge`] takes them out.
///
/// # Errors
/// [`BalancerError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), BalancerError> {
    let place = Place { table: config.table.clone(), range: config.range };
    let tools = Tools { nft: config.nft.clone(), ip: config.ip.clone() };
    let keeper = Keeper::new(place, config.source, tools);
    let status = keeper.status();
    let (to, lines) = mpsc::channel(64);
    tokio::spawn(keeper::follow(config.socket.clone(), to, shutdown.clone()));
    let keeping = tokio::spawn(keeper.run(lines, shutdown.clone()));
    let mut said = false;
    let component = loop {
        match Component::start(config.component.clone(), &shutdown) {
            Ok(component) => break component,
            // The tables are kept meanwhile; ending the process would stop that.
            Err(error) if !std::mem::replace(&mut said, true) => {
                tracing::warn!(%error, "without a certificate nobody is told the status; waiting for one");
            }
            Err(_) => {}
        }
        if !shutdown.sleep(Duration::from_secs(1)).await {
            return Ok(());
        }
    };
    let router = Router::new().route("/status", get(show)).with_state(status);
    component.serve(component.authenticated(router)).await?;
    // A transaction that has begun is finished.
    let _ = keeping.await;
    Ok(())
}

async fn show(State(status): State<watch::Receiver<Status>>) -> Json<Status> {
    Json(status.borrow().clone())
}

/// Takes an instance's table and route out of the kernel, for `plenum down`. What is not there is no error.
///
/// # Errors
/// [`ToolError`], of the table before the route.
pub async fn purge(tools: &Tools, table: &str, range: Range) -> Result<(), ToolError> {
    let tables = tools.drop_table(table).await;
    let route = tools.unroute(&range.to_string()).await;
    tables.and(route)
}
