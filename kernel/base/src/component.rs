//! What a role needs to be a component of the cluster: its certificate (kept fresh), who may call it, clients for its peers, and a
//! server that tells TLS from plain HTTP. The role brings settings and a router.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use serde::{Deserialize, Serialize};

use crate::auth::{self, Authenticator};
use crate::client::Client;
use crate::cluster::Masters;
use crate::leading::Leading;
use crate::places::{Instance, Places, Role};
use crate::serve::{Plain, Server};
use crate::service::{Logging, Shutdown};
use crate::tls::renew::keep_fresh;
use crate::tls::tickets::keep_shared;
use crate::tls::{ClientAuth, Expect, Identity, IdentityFiles, TlsError};
use crate::turns::Turns;

/// Settings that every role has, under `[component]` in its file. The defaults are those of the instance `default` on one machine.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComponentSettings {
    /// The instance's name.
    pub instance: Instance,
    /// Where the role serves HTTP, unless a socket is handed over.
    pub listen: SocketAddr,
    /// The role's own folder.
    pub data: PathBuf,
    /// The folder with `ca.pem`.
    pub ca: PathBuf,
    /// The role's certificate.
    pub certificate: PathBuf,
    /// The role's key.
    pub key: PathBuf,
    /// The policy snapshot that identity publishes.
    pub policy: PathBuf,
    /// Where identity renews certificates.
    pub identity: String,
    /// The masters that the host starts with; empty on a single machine. The policy's map takes their place once it is there.
    pub masters: Vec<IpAddr>,
    /// Whether the policy is brought here from identity, as on machines where identity does not run.
    pub follow_policy: bool,
    /// Whether callers without credentials are let in, as `Anonymous`.
    pub open: bool,
    /// Where plain HTTP is taken.
    pub plain: Plain,
    /// What is logged.
    pub log: Logging,
}

impl ComponentSettings {
    /// The settings of a role of a single-machine instance.
    #[must_use]
    pub fn at(places: &Places, role: Role) -> Self {
        let files = places.identity(role);
        Self {
            instance: places.instance.clone(),
            listen: places.address(role),
            data: places.data(role),
            ca: files.ca,
            certificate: files.cert,
            key: files.key,
            policy: places.policy(),
            identity: format!("https://{}", places.address(Role::Identity)),
            masters: Vec::new(),
            follow_policy: false,
            open: false,
            plain: Plain::Loopback,
            log: Logging::default(),
        }
    }

    fn files(&self) -> IdentityFiles {
        IdentityFiles { ca: self.ca.clone(), cert: self.certificate.clone(), key: self.key.clone() }
    }

    /// The role's embedded store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.data.join("store.redb")
    }
}

impl Default for ComponentSettings {
    fn default() -> Self {
        // A role says in its own default which one it is; this one only fills what it leaves out.
        Self::at(&Places::of(Instance::default(), 0), Role::Master)
    }
}

/// A running component.
#[derive(Debug, Clone)]
pub struct Component {
    /// Its certificate.
    pub identity: Identity,
    /// Who may call.
    pub authenticator: Arc<Authenticator>,
    /// Where the masters are.
    pub masters: Masters,
    /// Its settings.
    pub settings: ComponentSettings,
    /// Pressed when the process shall end.
    pub shutdown: Shutdown,
}

impl Component {
    /// Loads the certificate, keeps it fresh from now on, and knows callers by the policy.
    ///
    /// # Errors
    /// [`TlsError`] when the certificate cannot be read.
    pub fn start(settings: ComponentSettings, shutdown: &Shutdown) -> Result<Self, TlsError> {
        let identity = Identity::load(&settings.files())?;
        let authenticator = Authenticator::open(&settings.policy, &settings.ca, settings.open);
        let masters = Masters::follow(&authenticator, &settings.masters, Some(settings.listen.ip()));
        tokio::spawn(Arc::clone(&authenticator).keep_looking(shutdown.clone()));
        let from = Turns::new(masters.clone(), Role::Identity, vec![settings.identity.clone()]);
        tokio::spawn(keep_fresh(identity.clone(), from.clone(), shutdown.clone()));
        let (shared, whose) = (identity.clone(), masters.clone());
        tokio::spawn(keep_shared(shared, whose, from.clone(), shutdown.clone()));
        if settings.follow_policy {
            let to = settings.policy.clone();
            tokio::spawn(crate::policy_feed::keep_current(identity.clone(), from, to, shutdown.clone()));
        }
        Ok(Self { identity, authenticator, masters, settings, shutdown: shutdown.clone() })
    }

    /// A client that shows this component's certificate and talks only to the role `peer`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn client(&self, peer: Role) -> Result<Client, TlsError> {
        Client::with_identity(&self.identity, Expect::Role(peer.as_str().to_owned()))
    }

    /// Follows who leads `role`; `configured` is where it is on a single machine.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn leading(&self, role: Role, configured: &[String]) -> Result<Leading, TlsError> {
        let (client, masters) = (self.client(role)?, self.masters.clone());
        Ok(Leading::follow(role, client, masters, configured, self.shutdown.clone()))
    }

    /// The router behind authentication: requests without a principal are 401.
    pub fn authenticated(&self, router: Router) -> Router {
        router.layer(axum::middleware::from_fn_with_state(Arc::clone(&self.authenticator), auth::require))
    }

    /// Serves on the socket handed over as `http`, or on the configured address, until the end; says `ready` once it listens.
    ///
    /// # Errors
    /// When the address cannot be bound, or the certificate not used.
    pub async fn serve(&self, router: Router) -> Result<(), ServeError> {
        let listener = crate::sockets::tcp("http", self.settings.listen)?;
        let server =
            Server::new(router).plain(self.settings.plain).tls(&self.identity, ClientAuth::Optional)?;
        crate::service::ready();
        server.serve(listener, self.shutdown.clone()).await;
        Ok(())
    }

    /// The role's own folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.settings.data
    }
}

/// Why a component does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be bound.
    #[error(transparent)]
    Listen(#[from] std::io::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
