//! Long-running services: Marathon's v2 API over the Mesos v1 scheduler API, as an ordinary client of the kernel.
//!
//! [`core`] decides; [`shell`] carries out (store, driver); [`http`] speaks with clients; [`wire`] makes Mesos' messages; [`reference`] says what there is.
//! [`run`] is the role.

pub mod core;
pub mod http;
pub mod reference;
pub mod shell;
pub mod wire;

use plenum_base::component::{Component, ComponentSettings, ServeError};
use plenum_base::config::Settings;
use plenum_base::leading::Leading;
use plenum_base::places::{Instance, Places, Role};
use plenum_base::service::Shutdown;
use plenum_base::tls::TlsError;
use plenum_store::{Open, StoreError, StoreSettings};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::shell::{EngineError, Phase, Setup};

/// The exit code of a scheduler that has lost its leadership: it is to be started again at once.
pub const DEPOSED: u8 = 75;

/// The settings of the service scheduler.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every role has.
    pub component: ComponentSettings,
    /// Where the records are kept.
    pub store: StoreSettings,
    /// Base addresses of the masters, on a single machine; a fleet has its map.
    pub masters: Vec<String>,
    /// The framework's name; DNS names and virtual addresses contain it.
    pub framework: String,
    /// The account tasks run as when they name none.
    pub user: String,
    /// The role of apps that name none.
    pub default_role: String,
    /// Roles of resources for apps that name none; empty: unreserved ones and those of the app's own role.
    pub default_accepted_roles: Vec<String>,
    /// Whether groups that lie in the root enforce their role where they do not say: `off` or `top`, as Marathon's `--new_group_enforce_role`.
    pub new_group_enforce_role: EnforceRole,
    /// Seconds the master keeps tasks when this process is away.
    pub failover_timeout_seconds: f64,
    /// The first service port that is given out.
    pub service_port_min: u16,
    /// The last one.
    pub service_port_max: u16,
    /// Seconds a node's unsuitable resources are refused while an app waits.
    pub refuse_seconds: u64,
}

/// Which new groups enforce their role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnforceRole {
    /// None.
    Off,
    /// Those that lie in the root.
    Top,
}

impl Config {
    /// The settings of a single-machine instance.
    #[must_use]
    pub fn at(places: &Places) -> Self {
        Self {
            component: ComponentSettings::at(places, Role::Services),
            store: StoreSettings::default(),
            masters: vec![format!("https://{}", places.address(Role::Master))],
            framework: "marathon".to_owned(),
            user: "root".to_owned(),
            default_role: "*".to_owned(),
            default_accepted_roles: Vec::new(),
            new_group_enforce_role: EnforceRole::Off,
            failover_timeout_seconds: 604_800.0,
            service_port_min: 10_000,
            service_port_max: 20_000,
            refuse_seconds: 30,
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
        if self.masters.is_empty() {
            problems.push("masters is empty; give at least one address".to_owned());
        }
        if self.service_port_min == 0 || self.service_port_min > self.service_port_max {
            problems.push("service_port_min must be above 0 and not above service_port_max".to_owned());
        }
        if !self.failover_timeout_seconds.is_finite() || self.failover_timeout_seconds < 0.0 {
            problems.push("failover_timeout_seconds must be 0 or more".to_owned());
        }
    }
}

/// Why the role ends.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The store cannot be opened.
    #[error("the store of the services: {0}")]
    Store(#[from] StoreError),
    /// What is in it cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Runs the role until `shutdown`. When the leadership is lost the process ends at once, with the code [`DEPOSED`].
///
/// # Errors
/// [`ServicesError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServicesError> {
    let component = Component::start(config.component.clone(), &shutdown)?;
    let own = &config.component;
    let open = Open {
        embedded: own.store(),
        prefix: format!("/plenum/{}/services/", own.instance.as_str()),
        endpoints: component.masters.follow_urls(Role::Etcd),
    };
    let settings = config.store.clone().files_or(&own.ca, &own.certificate, &own.key);
    let store = plenum_store::open(&settings, open).await?;
    let setup = setup(&config, &component, &shutdown)?;
    let about = http::About {
        leader: own.listen.to_string(),
        master: config.masters.join(","),
        framework: config.framework.clone(),
        failover_timeout: config.failover_timeout_seconds,
        ha: config.store.etcd,
    };
    let (phase, phases) = watch::channel(Phase::Standby(None));
    let serving = component.serve(component.authenticated(http::front(phases, about)));
    let deciding = async {
        if config.store.etcd {
            let candidate = format!("https://{}", own.listen);
            shell::contend(setup, store, &candidate, config.store.lease(), phase, &shutdown).await
        } else {
            let (handle, engine) = shell::engine(setup, store);
            phase.send_replace(Phase::Leading(handle, 0));
            engine.run(shutdown.clone()).await
        }
    };
    // Whichever ends first ends the other: an API without a scheduler would only time out.
    tokio::select! {
        biased;
        decided = deciding => {
            if matches!(decided, Err(EngineError::Deposed)) {
                // Nothing is tidied up: whatever is still on its way out of this process is void.
                tracing::error!(code = DEPOSED, "the leadership is lost");
                std::process::exit(i32::from(DEPOSED));
            }
            if matches!(decided, Err(EngineError::Abdicated)) {
                tracing::info!(code = DEPOSED, "the leadership was given up");
                std::process::exit(i32::from(DEPOSED));
            }
            shutdown.trigger();
            Ok(decided?)
        }
        served = serving => Ok(served?),
    }
}

fn setup(config: &Config, component: &Component, shutdown: &Shutdown) -> Result<Setup, TlsError> {
    let client = component.client(Role::Master)?;
    let (masters, until) = (component.masters.clone(), shutdown.clone());
    let leading = Leading::follow(Role::Master, client.clone(), masters, &config.masters, until);
    let mut setup = Setup::new(config.masters.clone(), client);
    setup.leading = Some(leading);
    setup.agents = component.client(Role::Agent)?;
    setup.framework.name.clone_from(&config.framework);
    setup.framework.user.clone_from(&config.user);
    setup.framework.failover_timeout = Some(config.failover_timeout_seconds);
    setup.framework.hostname = Some(config.component.listen.ip().to_string());
    setup.framework.webui_url = Some(format!("https://{}", config.component.listen));
    setup.settings.default_role.clone_from(&config.default_role);
    setup.settings.default_accepted_roles.clone_from(&config.default_accepted_roles);
    setup.settings.new_groups_enforce = config.new_group_enforce_role == EnforceRole::Top;
    setup.settings.service_ports = (config.service_port_min, config.service_port_max);
    setup.settings.refuse = plenum_api::Millis::from_secs(config.refuse_seconds);
    Ok(setup)
}
