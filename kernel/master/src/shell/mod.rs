//! The shell: starts the role, campaigns, reads the store, opens the doors, ends.

mod commits;
mod door;
pub(crate) mod owner;
pub(crate) mod queue;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use plenum_base::auth::Authenticator;
use plenum_base::clock::{OsClock, OsIds};
use plenum_base::component::Component;
use plenum_base::serve::{Limits, Plain, Server};
use plenum_base::service::Shutdown;
use plenum_base::tls::{ClientAuth, Identity, TlsError};
use plenum_store::{Embedded, Etcd, EtcdOptions, Leadership, Options, Range, Store, StoreError, scoped};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::core::{Master, RecordError, Records};
use commits::Commits;
use owner::Handle;

/// How long a leadership outlives its holder.
const LEASE: Duration = Duration::from_secs(10);
/// Between looks at who leads.
const LOOK: Duration = Duration::from_secs(1);

/// Why the master ended.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// A socket or file cannot be used.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store does not work.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// A record in the store cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another master leads; start again to be a candidate.
    #[error(
        "the leadership is lost to another master: this process ends, and is a candidate again when it is started again"
    )]
    Deposed,
}

/// What this master is at the moment.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Another master leads, at this `host:port`; or nobody does, or it is not known.
    Standby(Option<String>),
    /// This one leads.
    Leading(Handle),
}

/// What a master is started with.
#[derive(Debug)]
pub struct Setup {
    /// Its settings.
    pub config: Config,
    /// Its certificate, for both doors.
    pub identity: Identity,
    /// Who may call.
    pub authenticator: Arc<Authenticator>,
    /// Where it keeps its records; the prefix is the master's own.
    pub store: Arc<dyn Store>,
    /// Where HTTP is served.
    pub http: TcpListener,
    /// Where agents dial in.
    pub agents: TcpListener,
}

/// A running master.
#[derive(Debug)]
pub struct Running {
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where agents dial in.
    pub agents: SocketAddr,
    task: tokio::task::JoinHandle<Result<(), MasterError>>,
    leading: watch::Receiver<Phase>,
}

impl Running {
    /// Waits until this master leads.
    pub async fn leads(&mut self) {
        // An error means that the master has ended; `ended` says why.
        let _ = self.leading.wait_for(|phase| matches!(phase, Phase::Leading(_))).await;
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`MasterError`].
    pub async fn ended(self) -> Result<(), MasterError> {
        self.task.await.unwrap_or_else(|e| Err(MasterError::Io(std::io::Error::other(e))))
    }
}

/// The role `master`, until `shutdown`.
///
/// # Errors
/// [`MasterError`]; after `Deposed` the process should be started again.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), MasterError> {
    let component = Component::start(config.component.clone(), &shutdown)?;
    let store: Arc<dyn Store> = if config.store.etcd.is_empty() {
        std::fs::create_dir_all(component.data())?;
        Arc::new(Embedded::open(config.component.store(), Options::default()).await?)
    } else {
        Arc::new(Etcd::connect(EtcdOptions::new(&config.store.etcd)).await?)
    };
    let prefix = format!("/plenum/{}/master/", config.component.instance.as_str());
    let setup = Setup {
        http: plenum_base::sockets::tcp("http", config.component.listen)?,
        agents: plenum_base::sockets::tcp("agents", config.agents)?,
        identity: component.identity.clone(),
        authenticator: Arc::clone(&component.authenticator),
        store: Arc::new(scoped(store, &prefix)),
        config,
    };
    let running = start(setup, shutdown)?;
    plenum_base::service::ready();
    running.ended().await
}

/// Starts a master on sockets, certificate and store of the caller's.
///
/// # Errors
/// [`MasterError`] when a socket or the certificate cannot be used.
pub fn start(setup: Setup, shutdown: Shutdown) -> Result<Running, MasterError> {
    let (http, agents) = (setup.http.local_addr()?, setup.agents.local_addr()?);
    let (phase, leading) = watch::channel(Phase::Standby(None));
    // Ends everything of this master, also when it is deposed.
    let own = shutdown.child();
    let open = setup.config.component.open;
    let router = crate::http::router(crate::http::Front::new(
        &setup.config,
        http,
        &setup.authenticator,
        leading.clone(),
    ));
    let plain = if open { Plain::Always } else { setup.config.component.plain };
    let limits = Limits { drain: Duration::from_secs(2), ..Limits::default() };
    let server =
        Server::new(router).plain(plain).limits(limits).tls(&setup.identity, ClientAuth::Optional)?;
    let authenticator = Arc::clone(&setup.authenticator);
    let door = door::Door {
        tls: setup.identity.server_config(ClientAuth::Required, &[])?,
        phase: leading.clone(),
        cluster_id: Box::new(move || authenticator.cluster_id()),
        shutdown: own.clone(),
    };
    let Setup { config, store, http: http_listener, agents: agents_listener, .. } = setup;
    let served = own.clone();
    let task = tokio::spawn(async move {
        let serving = tokio::spawn(async move { server.serve(http_listener, served).await });
        let letting = tokio::spawn(door.serve(agents_listener));
        let result = lead(&config, http, store, phase, &own).await;
        own.trigger();
        let _ = tokio::join!(serving, letting);
        result
    });
    Ok(Running { http, agents, task, leading })
}

/// Campaigns, takes the records in, and leads until the end.
async fn lead(
    config: &Config,
    http: SocketAddr,
    store: Arc<dyn Store>,
    phase: watch::Sender<Phase>,
    shutdown: &Shutdown,
) -> Result<(), MasterError> {
    let candidate = format!(
        "{}:{}",
        if config.hostname.is_empty() { http.ip().to_string() } else { config.hostname.clone() },
        http.port()
    );
    let campaign = async {
        tokio::select! {
            leadership = campaign(store.as_ref(), &candidate) => leadership,
            never = look(store.as_ref(), &phase) => match never {},
        }
    };
    let Some(leadership) = shutdown.until(campaign).await else { return Ok(()) };
    let leadership = leadership?;
    let Some(records) = shutdown.until(read(store.as_ref())).await else {
        leadership.resign().await;
        return Ok(());
    };
    let records = records?;
    tracing::info!(
        term = leadership.term(),
        agents = records.agents.len(),
        frameworks = records.frameworks.len(),
        "leading; agents and frameworks may come back"
    );
    let master = Master::recover(config.core(http), records, leadership.term(), OsClock.now(), &mut OsIds);
    let deposed = shutdown.child();
    let (guard, pressed) = (leadership.guard(), deposed.clone());
    let handle = owner::spawn(master, |inbox| Commits::start(store, guard, inbox, pressed), deposed.clone());
    phase.send_replace(Phase::Leading(handle));
    tokio::select! {
        () = leadership.lost() => {
            tracing::error!("the leadership is lost");
            deposed.trigger();
            Err(MasterError::Deposed)
        }
        () = deposed.wait() => {
            let ordered = shutdown.is_triggered();
            phase.send_replace(Phase::Standby(None));
            if ordered {
                leadership.resign().await;
                Ok(())
            } else {
                Err(MasterError::Deposed)
            }
        }
    }
}

/// Campaigns until this master leads. A store that has no room or does not answer is waited for: callers hear meanwhile that nobody leads.
async fn campaign(store: &dyn Store, candidate: &str) -> Result<Leadership, StoreError> {
    loop {
        match store.campaign("leader", candidate, LEASE).await {
            Err(error @ (StoreError::Full { .. } | StoreError::Unavailable { .. })) => {
                tracing::warn!(%error, "cannot lead yet; trying again");
                tokio::time::sleep(LOOK).await;
            }
            other => return other,
        }
    }
}

/// Keeps an eye on who leads, to send callers there.
async fn look(store: &dyn Store, phase: &watch::Sender<Phase>) -> std::convert::Infallible {
    loop {
        let leader = store.leader("leader").await.ok().flatten().map(|leader| leader.candidate);
        phase.send_if_modified(|phase| match phase {
            Phase::Standby(known) if *known != leader => {
                known.clone_from(&leader);
                true
            }
            _ => false,
        });
        tokio::time::sleep(LOOK).await;
    }
}

/// Every record of the master.
async fn read(store: &dyn Store) -> Result<Records, MasterError> {
    let mut records = Records::default();
    let mut request = Some(Range::prefix(""));
    while let Some(range) = request {
        let page = store.range(range.clone()).await?;
        for entry in &page.entries {
            records.take(entry)?;
        }
        request = page.next(&range);
    }
    Ok(records)
}
