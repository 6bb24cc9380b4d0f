//! The gateway: the one front door. Which request goes where is pure ([`route`], over [`table`] and [`path`]); sockets, callers and relays
//! are the shell's. Whoever is behind it checks again who is calling.

mod answers;
mod body;
mod clients;
mod cluster;
mod directory;
mod door;
mod follow;
mod headers;
mod pages;
pub mod path;
mod proxy;
pub mod route;
mod status;
pub mod table;
mod upgrade;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use plenum_base::component::{Component, ComponentSettings, ServeError};
use plenum_base::config::Settings;
use plenum_base::places::{Instance, Places, Role};
use plenum_base::serve::Server;
use plenum_base::service::Shutdown;
use plenum_base::sockets;
use plenum_base::tls::{ALPN_HTTP, ClientAuth, TlsError};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::clients::Clients;
use crate::cluster::{Addresses, Cluster};
use crate::directory::Directory;
use crate::door::Door;
use crate::pages::Pages;
use crate::proxy::{Bounds, Proxy};
use crate::status::Overview;

/// The gateway's settings. `component.listen` is the plain port (socket `http`); both ports tell TLS from plain HTTP by the first byte.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has.
    pub component: ComponentSettings,
    /// The TLS port (socket `https`).
    pub listen_tls: SocketAddr,
    /// The master's base address.
    pub master: String,
    /// The service scheduler's base address.
    pub services: String,
    /// The catalog's base address.
    pub catalog: String,
    /// Discovery's base address.
    pub discovery: String,
    /// The release of DC/OS whose interfaces are spoken; clients choose their plug-ins by it.
    pub release: String,
    /// The address under which the cluster is known outside; the listening one where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_address: Option<IpAddr>,
    /// Whether plain HTTP is sent on to TLS.
    pub redirect_to_tls: bool,
    /// Bytes of a request's body to a component.
    pub body_bytes: u64,
    /// Bytes of a request's body to an installed service.
    pub service_body_bytes: u64,
    /// Seconds a component has from a request's end to its reply's head.
    pub head_seconds: u64,
    /// The same for agents and installed services; also how many seconds a request's body may pause.
    pub stall_seconds: u64,
    /// Seconds for which a component or service that cannot be reached is waited for.
    pub patience_seconds: u64,
    /// Seconds for which a new leader is waited for in a fleet, where that is longer.
    pub failover_seconds: u64,
    /// Whether the masters of a fleet run members of the cluster's own etcd.
    pub etcd: bool,
    /// Whether installed services see their callers' tokens, as in DC/OS. Passwords they never see.
    pub tokens_to_services: bool,
}

impl Config {
    /// The settings of a single-machine instance.
    #[must_use]
    pub fn at(places: &Places) -> Self {
        let base = |role| format!("https://{}", places.address(role));
        Self {
            component: ComponentSettings::at(places, Role::Gateway),
            listen_tls: places.gateway_tls(),
            master: base(Role::Master),
            services: base(Role::Services),
            catalog: base(Role::Catalog),
            discovery: base(Role::Discovery),
            release: "2.2.0".to_owned(),
            public_address: None,
            redirect_to_tls: false,
            body_bytes: 1 << 30,
            service_body_bytes: 32 << 30,
            head_seconds: 60,
            stall_seconds: 600,
            patience_seconds: 5,
            failover_seconds: 10,
            etcd: false,
            tokens_to_services: true,
        }
    }

    fn addresses(&self) -> Addresses {
        let trimmed = |text: &str| text.trim_end_matches('/').to_owned();
        Addresses {
            identity: trimmed(&self.component.identity),
            master: trimmed(&self.master),
            services: trimmed(&self.services),
            catalog: trimmed(&self.catalog),
            discovery: trimmed(&self.discovery),
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            head: Duration::from_secs(self.head_seconds),
            stall: Duration::from_secs(self.stall_seconds),
            patience: Duration::from_secs(self.patience_seconds),
            failover: Duration::from_secs(self.failover_seconds),
            body: self.body_bytes,
            service_body: self.service_body_bytes,
            tokens_to_services: self.tokens_to_services,
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
        for (name, value) in [("head_seconds", self.head_seconds), ("stall_seconds", self.stall_seconds)] {
            if !(1..=86_400).contains(&value) {
                problems.push(format!("{name} is {value}; give 1 to 86400"));
            }
        }
        for (name, value) in
            [("patience_seconds", self.patience_seconds), ("failover_seconds", self.failover_seconds)]
        {
            if value > 600 {
                problems.push(format!("{name} is {value}; give at most 600"));
            }
        }
        let addresses = self.addresses();
        let all = [
            ("component.identity", addresses.identity),
            ("master", addresses.master),
            ("services", addresses.services),
            ("catalog", addresses.catalog),
            ("discovery", addresses.discovery),
        ];
        for (name, text) in all {
            let uri: Result<http::Uri, _> = text.parse();
            let good = uri.is_ok_and(|uri| {
                uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
            });
            if !good {
                problems.push(format!("{name} is \"{text}\"; give it the form https://HOST:PORT"));
            }
        }
    }
}

/// Why the gateway ends.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs the role until `shutdown`, on the sockets `http` and `https` or, where they are not handed over, on the configured addresses.
///
/// # Errors
/// [`GatewayError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), GatewayError> {
    let plain = sockets::tcp("http", config.component.listen).map_err(ServeError::Listen)?;
    let tls = sockets::tcp("https", config.listen_tls).map_err(ServeError::Listen)?;
    run_on(config, shutdown, plain, tls).await
}

/// As [`run`], on listeners that are there already.
///
/// # Errors
/// [`GatewayError`].
pub async fn run_on(
    config: Config,
    shutdown: Shutdown,
    plain: TcpListener,
    tls: TcpListener,
) -> Result<(), GatewayError> {
    let component = Component::start(config.component.clone(), &shutdown)?;
    let clients = Clients::new(&component)?;
    let cluster = Cluster::follow(&component, &clients, config.addresses());
    let directory = Arc::new(Directory::new(clients.master.known.clone(), cluster.master.clone()));
    let (following, leading) = (clients.services.known.clone(), cluster.services.clone());
    tokio::spawn(follow::follow(Arc::clone(&directory), following, leading, shutdown.clone()));
    let overview = Overview::new(&component, &clients, cluster.clone(), config.etcd)?;
    let proxy = Proxy::new(clients, cluster, directory, config.bounds(), shutdown.clone());
    let door = Door {
        authenticator: Arc::clone(&component.authenticator),
        proxy,
        pages: Pages {
            release: config.release.clone(),
            address: config.public_address.unwrap_or(config.component.listen.ip()),
            ca: config.component.ca.clone(),
            overview,
        },
        tls_port: config.redirect_to_tls.then(|| config.listen_tls.port()),
        open: config.component.open,
    };
    // No certificates are asked for: components do not come through the front door, and browsers would prompt for one.
    let shown = component.identity.server_config(ClientAuth::None, ALPN_HTTP)?;
    let server = Server::new(door::router(Arc::new(door))).plain(config.component.plain).tls_config(shown);
    plenum_base::service::ready();
    tokio::join!(server.serve(plain, shutdown.clone()), server.serve(tls, shutdown));
    Ok(())
}
