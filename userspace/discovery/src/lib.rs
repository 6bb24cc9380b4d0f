//! Discovery: names and virtual addresses from the cluster's state.
//!
//! The [`publisher`] turns the master's events into numbered changes of facts ([`feed`]); the node's [`replica`] derives names and tables from
//! them, keeps them on disk and goes on with the last known ones when everything else is away; [`dns`] answers lookups; [`http`] speaks the API
//! of Mesos-DNS. Publisher and replica share one process on a single machine; what goes between them is a wire format.
//!
//! Sockets: `http`, `dns-udp`, `dns-tcp`, and `replica` (a Unix socket for the balancer).

pub mod dns;
pub mod feed;
pub mod http;
pub mod names;
pub mod publisher;
pub mod range;
pub mod replica;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plenum_base::component::{Component, ComponentSettings, ServeError};
use plenum_base::config::Settings;
use plenum_base::places::{Instance, Places, Role};
use plenum_base::service::Shutdown;
use plenum_base::tls::TlsError;
use plenum_base::{files, sockets};
use plenum_sdk::operator::Operator;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::dns::answer::Site;
use crate::dns::forward::{self, Forwarder};
use crate::feed::{Fact, Facts};
use crate::range::Range;
use crate::replica::{Shared, disk};

/// Discovery's settings.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has.
    pub component: ComponentSettings,
    /// The masters' base addresses.
    pub masters: Vec<String>,
    /// Where DNS is served, over UDP and TCP, unless sockets are handed over.
    pub dns: SocketAddr,
    /// The range from which virtual addresses are taken.
    pub range: Range,
    /// How long clients may keep answers, in seconds.
    pub ttl_seconds: u32,
    /// Resolvers (`address:port`) for names that are not ours; empty for those that `resolv_conf` names at start.
    pub resolvers: Vec<SocketAddr>,
    /// The machine's own list of resolvers; read, never written.
    pub resolv_conf: PathBuf,
    /// The Unix socket on which the balancer reads tables.
    pub socket: PathBuf,
}

impl Config {
    /// The settings of a single-machine instance.
    #[must_use]
    pub fn at(places: &Places) -> Self {
        let (base, bits) = places.virtual_range();
        Self {
            component: ComponentSettings::at(places, Role::Discovery),
            masters: vec![format!("https://{}", places.address(Role::Master))],
            dns: places.dns(),
            range: Range::new(base, bits).expect("a place's range has a sensible size"),
            ttl_seconds: 5,
            resolvers: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            socket: places.run.join("replica.sock"),
        }
    }

    /// The node's copy of all names.
    #[must_use]
    pub fn copy(&self) -> PathBuf {
        self.component.data.join("copy.json")
    }

    /// The masters as facts. Which of several leads is told by none of them here: the first is taken to.
    fn master_facts(&self) -> Facts {
        let mut facts = Facts::new();
        for (number, url) in self.masters.iter().enumerate() {
            let place = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            let Ok(place) = place.trim_end_matches('/').parse::<SocketAddr>() else { continue };
            let fact = Fact::Master { address: place.ip(), port: place.port(), leads: number == 0 };
            facts.insert(format!("master/{number}"), fact);
        }
        facts
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::at(&Places::of(Instance::default(), 0))
    }
}

impl Settings for Config {
    fn check(&self, problems: &mut Vec<String>) {
        if self.masters.is_empty() {
            problems.push("masters is empty; name at least one, such as https://127.88.0.1:5050".to_owned());
        }
        if self.ttl_seconds > 3600 {
            problems.push(format!("ttl_seconds is {}; give at most 3600", self.ttl_seconds));
        }
    }
}

/// Why discovery ends.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// A folder or socket cannot be had.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs the role until `shutdown`. Names are answered before anything else is there.
///
/// # Errors
/// [`DiscoveryError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), DiscoveryError> {
    files::private_dir(&config.component.data)?;
    if let Some(folder) = config.socket.parent() {
        files::private_dir(folder)?;
    }
    let shared = Shared::new(disk::load(&config.copy()));
    serve_dns(&config, &shared, &shutdown)?;
    let listener = sockets::unix("replica", &config.socket)?;
    tokio::spawn(replica::socket::serve(listener, shared.clone(), config.range, shutdown.clone()));
    let keep = tokio::spawn(disk::keep(shared.clone(), config.copy(), shutdown.clone()));
    let served = cluster(&config, &shared, &shutdown).await;
    if served.is_ok() {
        // The last copy is written before the process ends.
        let _ = keep.await;
    }
    served
}

fn serve_dns(config: &Config, shared: &Shared, shutdown: &Shutdown) -> std::io::Result<()> {
    let udp = sockets::udp("dns-udp", config.dns)?;
    let tcp = sockets::tcp("dns-tcp", config.dns)?;
    let own = udp.local_addr()?.ip();
    let given = config.resolvers.clone();
    let resolvers = if given.is_empty() { forward::resolvers(&config.resolv_conf) } else { given };
    let site = Site { ttl: config.ttl_seconds, server: own };
    let server = dns::Server::new(shared.clone(), site, Forwarder::new(resolvers, own));
    tokio::spawn(server.clone().udp(udp, shutdown.clone()));
    tokio::spawn(server.tcp(tcp, shutdown.clone()));
    Ok(())
}

/// What needs a certificate: the master's stream and the HTTP API.
async fn cluster(config: &Config, shared: &Shared, shutdown: &Shutdown) -> Result<(), DiscoveryError> {
    let mut said = false;
    let component = loop {
        match Component::start(config.component.clone(), shutdown) {
            Ok(component) => break component,
            // Lookups are answered meanwhile; ending the process would stop them.
            Err(error) if !std::mem::replace(&mut said, true) => {
                tracing::warn!(%error, "without a certificate there is no news; answering what is known, waiting for one");
            }
            Err(_) => {}
        }
        if !shutdown.sleep(Duration::from_secs(1)).await {
            return Ok(());
        }
    };
    let (to, from) = mpsc::channel(64);
    let (_deaths, deaths) = mpsc::channel(64);
    let (connected, connection) = watch::channel(false);
    let operator = Operator::new(component.client(Role::Master)?, config.masters.clone());
    let epoch = u64::from_be_bytes(rand::random()) >> 11;
    let last = shared.copy().facts;
    let core = publisher::core::Core::new(epoch, config.range, config.master_facts(), last);
    tokio::spawn(publisher::run(operator, core, to, deaths, connected, shutdown.clone()));
    tokio::spawn(replica::follow(shared.clone(), from, shutdown.clone()));
    let about = json!({
        "domain": "mesos",
        "masters": config.masters,
        "listener": config.dns.ip().to_string(),
        "port": config.dns.port(),
        "ttl": config.ttl_seconds,
        "refreshSeconds": 0,
        "timeout": 5,
        "SOAMname": "ns1.mesos.",
        "SOARname": "root.ns1.mesos.",
        "SetTruncateBit": true,
        "IPSources": ["host", "netinfo"],
        "recurseOn": true,
    });
    let site = http::Site { shared: shared.clone(), connected: connection, config: Arc::new(about) };
    let router = component.authenticated(http::router(site));
    Ok(component.serve(router).await?)
}
