//! The package catalog: the Cosmos API over repositories in Universe format. What a package renders to, what an index holds and what is
//! answered are pure ([`render`], [`index`], [`api`]); repositories, the store and the service scheduler are reached from the shell.

pub mod api;
mod apps;
pub mod definition;
mod http;
pub mod index;
pub mod options;
pub mod render;
mod repositories;
pub mod template;

use std::sync::Arc;
use std::time::Duration;

use plenum_base::client::Client;
use plenum_base::component::{Component, ComponentSettings, ServeError};
use plenum_base::config::Settings;
use plenum_base::places::{Instance, Places, Role};
use plenum_base::service::Shutdown;
use plenum_base::tls::TlsError;
use plenum_store::{Embedded, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::apps::Apps;
use crate::repositories::Repositories;

/// The catalog's settings.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has.
    pub component: ComponentSettings,
    /// The release of DC/OS whose packages are shown.
    pub release: String,
    /// The service scheduler's base address.
    pub services: String,
    /// The master's base address.
    pub master: String,
    /// Seconds between looks at the repositories.
    pub refresh_seconds: u64,
}

impl Config {
    /// The settings of a single-machine instance.
    #[must_use]
    pub fn at(places: &Places) -> Self {
        Self {
            component: ComponentSettings::at(places, Role::Catalog),
            release: "2.2".to_owned(),
            services: format!("https://{}", places.address(Role::Services)),
            master: format!("https://{}", places.address(Role::Master)),
            refresh_seconds: 60,
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
        if self.refresh_seconds == 0 {
            problems.push("refresh_seconds is 0; give at least 1".to_owned());
        }
    }
}

/// Why the catalog ends.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The store cannot be opened or read.
    #[error("the catalog's store: {0}")]
    Store(#[from] StoreError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs the role until `shutdown`.
///
/// # Errors
/// [`CatalogError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), CatalogError> {
    let component = Component::start(config.component.clone(), &shutdown)?;
    let store: Arc<dyn Store> =
        Arc::new(Embedded::open(&config.component.store(), plenum_store::Options::default()).await?);
    let repositories = Arc::new(Repositories::open(store, web_client()?, config.release.clone()).await?);
    let apps = Apps {
        services: component.client(Role::Services)?,
        services_url: config.services.clone(),
        master: component.client(Role::Master)?,
        master_url: config.master.clone(),
    };
    tokio::spawn(refresh(repositories.clone(), Duration::from_secs(config.refresh_seconds), shutdown));
    let router = component.authenticated(http::router(http::Shared { repositories, apps }));
    Ok(component.serve(router).await?)
}

/// For repositories elsewhere: the certificates that this machine trusts, if it has any.
fn web_client() -> Result<Client, TlsError> {
    match std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt") {
        Ok(bundle) => Client::with_ca(&bundle).or_else(|_| Client::plain()),
        Err(_) => Client::plain(),
    }
}

async fn refresh(repositories: Arc<Repositories>, period: Duration, shutdown: Shutdown) {
    loop {
        if shutdown.until(repositories.refresh()).await.is_none() || !shutdown.sleep(period).await {
            return;
        }
    }
}
