//! The package catalog: the Cosmos API over repositories in Universe format. What a package renders to, what an index holds and what is
//! answered are pure ([`render`], [`index`], [`api`]); repositories, the store and the service scheduler are reached from the shell.

pub mod api;
mod apps;
pub mod definition;
mod http;
pub mod index;
mod once;
pub mod options;
mod peer;
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
use plenum_base::turns::Turns;
use plenum_store::{Open, Store, StoreError, StoreSettings};
use serde::{Deserialize, Serialize};

use crate::apps::Apps;
use crate::once::Plans;
use crate::peer::Peer;
use crate::repositories::Repositories;

/// The catalog's settings.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has.
    pub component: ComponentSettings,
    /// Where the records are kept.
    pub store: StoreSettings,
    /// The release of DC/OS whose packages are shown.
    pub release: String,
    /// The service scheduler's base address, on a single machine; a fleet has its map.
    pub services: String,
    /// The master's base address, likewise.
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
            store: StoreSettings::default(),
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
        problems.extend(self.store.problems());
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
    let own = &config.component;
    let open = Open {
        embedded: own.store(),
        prefix: format!("/plenum/{}/catalog/", own.instance.as_str()),
        endpoints: component.masters.follow_urls(Role::Etcd),
    };
    let settings = config.store.clone().files_or(&own.ca, &own.certificate, &own.key);
    let store = plenum_store::open(&settings, open).await?;
    let Some(repositories) = repositories(&config, Arc::clone(&store), &shutdown).await? else {
        return Ok(());
    };
    let peer = |role: Role, url: &str| {
        let turns = Turns::new(component.masters.clone(), role, vec![url.to_owned()]);
        Ok::<_, TlsError>(Peer::new(component.client(role)?, turns))
    };
    let apps = Apps {
        services: peer(Role::Services, &config.services)?,
        master: peer(Role::Master, &config.master)?,
    };
    let plans = Plans::new(store);
    let period = Duration::from_secs(config.refresh_seconds);
    tokio::spawn(refresh(repositories.clone(), plans.clone(), period, shutdown.clone()));
    let followed = repositories.clone();
    tokio::spawn(async move { shutdown.until(followed.follow()).await });
    let router = component.authenticated(http::router(http::Shared { repositories, apps, plans }));
    Ok(component.serve(router).await?)
}

/// Reads the list of repositories; while a fleet's store has no majority yet, again and again.
async fn repositories(
    config: &Config,
    store: Arc<dyn Store>,
    shutdown: &Shutdown,
) -> Result<Option<Arc<Repositories>>, CatalogError> {
    let client = web_client()?;
    loop {
        match Repositories::open(Arc::clone(&store), client.clone(), config.release.clone()).await {
            Ok(repositories) => return Ok(Some(Arc::new(repositories))),
            Err(error) if config.store.etcd && error.is_retryable() => {
                tracing::warn!(%error, "the cluster's store cannot be asked yet; trying again");
                if !shutdown.sleep(Duration::from_secs(1)).await {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// For repositories elsewhere: the certificates that this machine trusts, if it has any.
fn web_client() -> Result<Client, TlsError> {
    match std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt") {
        Ok(bundle) => Client::with_ca(&bundle).or_else(|_| Client::plain()),
        Err(_) => Client::plain(),
    }
}

async fn refresh(repositories: Arc<Repositories>, plans: Plans, period: Duration, shutdown: Shutdown) {
    let round = async || {
        repositories.refresh().await;
        if let Err(error) = plans.prune().await {
            tracing::debug!(%error, "plans that are old could not be pruned");
        }
    };
    while shutdown.until(round()).await.is_some() && shutdown.sleep(period).await {}
}
