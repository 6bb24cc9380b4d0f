//! The shell: starts the role, campaigns, reads the store, opens the doors, ends.

mod commits;
mod door;
pub(crate) mod owner;
pub(crate) mod queue;
mod warm;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use plenum_base::auth::Authenticator;
use plenum_base::clock::{OsClock, OsIds};
use plenum_base::component::Component;
use plenum_base::places::Role;
use plenum_base::serve::{Limits, Plain, Server};
use plenum_base::service::Shutdown;
use plenum_base::tls::{ClientAuth, Identity, TlsError};
use plenum_store::{Guard, Leader, Leadership, Open, Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::core::{Master, RecordError};
use commits::Commits;
use owner::Handle;
use warm::Warm;

/// How long a leadership outlives its holder where nobody else could lead: the store's file is this process' own.
const ALONE: Duration = Duration::from_secs(10);
/// Between looks at who leads, where nothing tells of a change.
const LOOK: Duration = Duration::from_secs(1);
/// After a copy of the records could not be made or followed.
const AGAIN: Duration = Duration::from_millis(200);
/// The election.
const ELECTION: &str = "leader";
/// Where the store says who leads.
const LEADER: &str = "leader/leader";

/// The exit code of a master that has lost its leadership: it is to be started again at once.
pub const DEPOSED: u8 = 75;

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
    Store(StoreError),
    /// A record in the store cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another master leads; start again to be a candidate.
    #[error(
        "the leadership is lost to another master: this process ends, and is a candidate again when it is started again"
    )]
    Deposed,
}

impl From<StoreError> for MasterError {
    /// What a leader writes hangs on its leadership and on nothing else: where that condition does not hold, another one leads.
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Conflict { .. }) { Self::Deposed } else { Self::Store(error) }
    }
}

/// What this master is at the moment.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Another master leads; or nobody does, or it is not known.
    Standby(Option<Leader>),
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

/// The role `master`, until `shutdown`. When the leadership is lost the process ends at once, with the code [`DEPOSED`].
///
/// # Errors
/// [`MasterError`].
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), MasterError> {
    let component = Component::start(config.component.clone(), &shutdown)?;
    let own = &config.component;
    let settings = config.store.clone().files_or(&own.ca, &own.certificate, &own.key);
    let open = Open {
        embedded: own.store(),
        prefix: format!("/plenum/{}/master/", own.instance.as_str()),
        endpoints: component.masters.follow_urls(Role::Etcd),
    };
    let store = plenum_store::open(&settings, open).await?;
    let setup = Setup {
        http: plenum_base::sockets::tcp("http", config.component.listen)?,
        agents: plenum_base::sockets::tcp("agents", config.agents)?,
        identity: component.identity.clone(),
        authenticator: Arc::clone(&component.authenticator),
        store,
        config,
    };
    let running = start(setup, shutdown)?;
    plenum_base::service::ready();
    match running.ended().await {
        Err(error @ MasterError::Deposed) => {
            // Nothing is tidied up: whatever is still on its way out of this process is void.
            tracing::error!(code = DEPOSED, "{error}");
            std::process::exit(i32::from(DEPOSED))
        }
        ended => ended,
    }
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
        if matches!(result, Err(MasterError::Deposed)) {
            serving.abort();
            letting.abort();
            return result;
        }
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
    let candidate = config.base_url(http);
    let lease = if config.store.etcd { config.store.lease() } else { ALONE };
    let mut copy = None;
    let campaign = async {
        tokio::select! {
            leadership = campaign(store.as_ref(), &candidate, lease) => leadership,
            never = stand_by(store.as_ref(), &phase, &mut copy) => match never {},
        }
    };
    let Some(leadership) = shutdown.until(campaign).await else { return Ok(()) };
    let leadership = leadership?;
    let elected = std::time::Instant::now();
    phase.send_replace(Phase::Standby(None));
    let revision = match leadership.guard() {
        Guard::ModRevision(_, revision) => Some(revision),
        _ => None,
    };
    let Some(records) = shutdown.until(warm::records(copy, store.as_ref(), revision)).await else {
        leadership.resign().await;
        return Ok(());
    };
    let records = match records {
        Ok(records) => records,
        // Somebody else may manage; this one begins anew.
        Err(error) => {
            leadership.resign().await;
            return Err(error);
        }
    };
    tracing::info!(
        term = leadership.term(),
        agents = records.agents.len(),
        frameworks = records.frameworks.len(),
        milliseconds = elected.elapsed().as_millis(),
        "leading; agents and frameworks may come back"
    );
    let master = Master::recover(config.core(http), records, leadership.term(), OsClock.now(), &mut OsIds);
    let deposed = shutdown.child();
    let (guard, pressed) = (leadership.guard(), deposed.clone());
    let commits = |inbox| Commits::start(store, guard, inbox, pressed);
    let handle = owner::spawn(master, commits, leadership.validity(), deposed.clone());
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
async fn campaign(store: &dyn Store, candidate: &str, lease: Duration) -> Result<Leadership, StoreError> {
    loop {
        match store.campaign(ELECTION, candidate, lease).await {
            // Somebody leads, and long may they: this one goes on waiting.
            Err(StoreError::Held { .. }) => {}
            Err(error @ (StoreError::Full { .. } | StoreError::Unavailable { .. })) => {
                tracing::warn!(%error, "cannot lead yet; trying again");
                tokio::time::sleep(LOOK).await;
            }
            other => return other,
        }
    }
}

/// Keeps an eye on who leads, to send callers there, and on the records, to have them when this one leads.
async fn stand_by(
    store: &dyn Store,
    phase: &watch::Sender<Phase>,
    copy: &mut Option<Warm>,
) -> std::convert::Infallible {
    loop {
        look(store, phase).await;
        let again = match copy {
            None => match Warm::read(store).await {
                Ok(read) => {
                    *copy = Some(read);
                    false
                }
                Err(error) => {
                    tracing::debug!(%error, "the records cannot be read yet");
                    true
                }
            },
            Some(warm) => match tokio::time::timeout(LOOK, follow(warm)).await {
                Err(_) | Ok(Ok(())) => false,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the copy of the records is made anew");
                    *copy = None;
                    true
                }
            },
        };
        if again {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Takes changes in until one says that somebody else leads, or nobody.
async fn follow(warm: &mut Warm) -> Result<(), warm::Stale> {
    while !warm.follow(LEADER).await? {}
    Ok(())
}

async fn look(store: &dyn Store, phase: &watch::Sender<Phase>) {
    let leader = store.leader(ELECTION).await.ok().flatten();
    phase.send_if_modified(|phase| match phase {
        Phase::Standby(known) if *known != leader => {
            *known = leader;
            true
        }
        _ => false,
    });
}
