//! Discovery: names and virtual addresses from the cluster's state.
//!
//! The [`publisher`] turns the master's events into numbered changes of facts ([`feed`]); the node's [`replica`] derives names and tables from
//! them, keeps them on disk and goes on with the last known ones when everything else is away; [`dns`] answers lookups; [`http`] speaks the API
//! of Mesos-DNS. On a single machine publisher and replica share one process. In a fleet ([`fleet`]) the publishers on the masters elect one of
//! them ([`lead`]), every master relays what it tells ([`relay`]), and every other host follows a relay ([`follow`]).
//!
//! Sockets: `http`, `dns-udp`, `dns-tcp` (these two once for each address, in the order of the settings), and `replica` (a Unix socket for the
//! balancer). The node's agent tells deaths on a Unix datagram socket ([`deaths`]).

pub mod deaths;
pub mod dns;
pub mod feed;
pub mod fleet;
pub mod follow;
pub mod http;
pub mod lead;
pub mod names;
pub mod publisher;
pub mod range;
pub mod relay;
pub mod replica;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plenum_base::component::{Component, ComponentSettings, ServeError};
use plenum_base::config::Settings;
use plenum_base::places::{Instance, Places, Role};
use plenum_base::service::Shutdown;
use plenum_base::tls::TlsError;
use plenum_base::{files, sockets};
use plenum_store::StoreSettings;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::dns::answer::Site;
use crate::dns::forward::{self, Forwarder};
use crate::fleet::Seen;
use crate::range::Range;
use crate::replica::{Shared, disk};

/// Discovery's settings.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has.
    pub component: ComponentSettings,
    /// The masters' base addresses on a single machine; those of a fleet are told by its map.
    pub masters: Vec<String>,
    /// Where the publishers of a fleet elect one of them.
    pub store: StoreSettings,
    /// Where DNS is served, over UDP and TCP, unless sockets are handed over.
    pub dns: SocketAddr,
    /// Where else DNS is served, such as the host's own address. What cannot be had yet is tried again.
    pub dns_also: Vec<SocketAddr>,
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
    /// The Unix datagram socket on which the node's agent tells deaths; `deaths.sock` beside the other one where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deaths: Option<PathBuf>,
}

impl Config {
    /// The settings of a single-machine instance.
    #[must_use]
    pub fn at(places: &Places) -> Self {
        let (base, bits) = places.virtual_range();
        Self {
            component: ComponentSettings::at(places, Role::Discovery),
            masters: vec![format!("https://{}", places.address(Role::Master))],
            store: StoreSettings::default(),
            dns: places.dns(),
            dns_also: Vec::new(),
            range: Range::new(base, bits).expect("a place's range has a sensible size"),
            ttl_seconds: 5,
            resolvers: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            socket: places.run.join("replica.sock"),
            deaths: None,
        }
    }

    /// The node's copy of all names.
    #[must_use]
    pub fn copy(&self) -> PathBuf {
        self.component.data.join("copy.json")
    }

    /// Where the node's agent tells deaths.
    #[must_use]
    pub fn deaths(&self) -> PathBuf {
        self.deaths.clone().unwrap_or_else(|| self.socket.with_file_name("deaths.sock"))
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
        problems.extend(self.store.problems());
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
    let told = deaths::bind(&config.deaths())?;
    tokio::spawn(deaths::hear(told, shared.clone(), shutdown.clone()));
    let keep = tokio::spawn(disk::keep(shared.clone(), config.copy(), shutdown.clone()));
    let served = cluster(&config, &shared, &shutdown).await;
    if served.is_ok() {
        // The last copy is written before the process ends.
        let _ = keep.await;
    }
    served
}

fn serve_dns(config: &Config, shared: &Shared, shutdown: &Shutdown) -> std::io::Result<()> {
    let sockets = (sockets::udp("dns-udp", config.dns)?, sockets::tcp("dns-tcp", config.dns)?);
    let first = sockets.0.local_addr()?.ip();
    let own: Vec<IpAddr> = config.dns_also.iter().map(SocketAddr::ip).chain([first]).collect();
    let given = config.resolvers.clone();
    let resolvers = if given.is_empty() { forward::resolvers(&config.resolv_conf) } else { given };
    let forwarder = Forwarder::new(resolvers, &own);
    let server = |address: IpAddr| {
        let site = Site { ttl: config.ttl_seconds, server: address };
        dns::Server::new(shared.clone(), site, forwarder.clone())
    };
    server(first).serve(sockets, shutdown);
    for address in config.dns_also.clone() {
        let (server, shutdown) = (server(address.ip()), shutdown.clone());
        tokio::spawn(serve_dns_also(address, server, shutdown));
    }
    Ok(())
}

/// An address that is not there yet (a network that comes up later) must not keep the others from answering.
async fn serve_dns_also(address: SocketAddr, server: dns::Server, shutdown: Shutdown) {
    let mut said = false;
    loop {
        let bound =
            sockets::udp("dns-udp", address).and_then(|udp| Ok((udp, sockets::tcp("dns-tcp", address)?)));
        match bound {
            Ok(sockets) => return server.serve(sockets, &shutdown),
            Err(error) if !std::mem::replace(&mut said, true) => {
                tracing::warn!(%error, "names are not answered there; trying on");
            }
            Err(_) => {}
        }
        if !shutdown.sleep(Duration::from_secs(2)).await {
            return;
        }
    }
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
    let seen = Seen::new();
    let (masters, own) = (component.masters.clone(), shutdown.clone());
    let work = tokio::spawn(fleet::run(config.clone(), shared.clone(), component.clone(), seen.clone(), own));
    let about = json!({
        "domain": "mesos",
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
    let site = http::Site { shared: shared.clone(), seen, masters, config: Arc::new(about) };
    let relay = relay::Relay { shared: shared.clone(), shutdown: shutdown.clone() };
    let router = component.authenticated(http::router(site, relay));
    component.serve(router).await?;
    // Whoever publishes steps down, so that another one takes over at once.
    match work.await {
        Ok(done) => done,
        Err(_) => Ok(()),
    }
}
