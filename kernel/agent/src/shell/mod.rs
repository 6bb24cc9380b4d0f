//! The shell around the core: starts everything, owns the core in one task, and carries its effects out.

pub(crate) mod actor;
mod budget;
pub(crate) mod containers;
mod deaths;
mod doors;
mod drivers;
mod engine;
pub(crate) mod fetching;
pub(crate) mod gc;
pub(crate) mod link;
pub(crate) mod plan;
pub(crate) mod provision;
pub(crate) mod sessions;
pub(crate) mod streams;
mod voice;
pub(crate) mod volumes;
pub(crate) mod wanted;

use std::sync::Arc;

use plenum_api::Millis;
use plenum_api::mesos::DomainInfo;
use plenum_base::clock::{OsClock, OsIds};
use plenum_base::memory::AfterBursts;
use plenum_base::serve::Server;
use plenum_base::service::Shutdown;
use plenum_base::tls::ClientAuth;
use plenum_containers::RecoveredState;
use tokio::sync::{mpsc, oneshot};

use crate::config::{Config, Parts};
use crate::core::{Agent, Event, ExecutorReply, Found, FoundState, Recovery, Settings, Started, View};
use crate::devices::Devices;
use crate::disk::{RecordStore, Writer};
use crate::machine;
use containers::Containers;
use provision::Provisioner;

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder cannot be made or read.
    #[error("{what}: {error}; check the folder's owner and free space")]
    Folder {
        /// Which.
        what: String,
        /// Why.
        error: std::io::Error,
    },
    /// Resources or attributes.
    #[error("the configuration is wrong: {0}")]
    Machine(#[from] machine::MachineError),
    /// Region and zone.
    #[error(transparent)]
    Domain(#[from] crate::domain::DomainError),
    /// Containers that run cannot be found again. Starting without them would lose them.
    #[error("running containers cannot be found: {0}")]
    Runtime(#[from] plenum_containers::RuntimeError),
    /// Images, volumes, networks.
    #[error("what containers need cannot be provided: {0}")]
    Provisioner(String),
    /// What is reserved does not fit any more.
    #[error("the agent does not start: {0}")]
    Resources(String),
    /// The certificate.
    #[error("the agent's certificate cannot be used: {0}")]
    Tls(#[from] plenum_base::tls::TlsError),
}

/// What reaches the task that owns the core.
#[derive(Debug)]
pub(crate) enum Input {
    Event(Event),
    /// Somebody looks.
    View(oneshot::Sender<(View, [usize; 4])>),
    /// An executor calls.
    Executor {
        token: Option<String>,
        call: Box<plenum_api::executor::Call>,
        reply: oneshot::Sender<ExecutorAnswer>,
    },
}

/// What an executor's call is answered with.
#[derive(Debug)]
pub(crate) enum ExecutorAnswer {
    Stream(streams::ExecutorStream),
    Other(ExecutorReply),
}

/// Runs an agent until `shutdown`. Containers go on; a later agent on the same folders finds them.
///
/// # Errors
/// [`StartError`].
pub async fn run(config: Config, parts: Parts, shutdown: Shutdown) -> Result<(), StartError> {
    let config = Arc::new(config);
    let folder = |what: &std::path::Path| {
        let what = what.display().to_string();
        move |error| StartError::Folder { what, error }
    };
    std::fs::create_dir_all(config.work_dir.join("slaves")).map_err(folder(&config.work_dir))?;
    std::fs::create_dir_all(&config.run_dir).map_err(folder(&config.run_dir))?;
    let work_dir = config.work_dir.canonicalize().map_err(folder(&config.work_dir))?;
    let store = RecordStore::open(&work_dir).map_err(folder(&work_dir))?;
    let domain = crate::domain::detect(&config, &work_dir).await?;
    let settings = settings(&config, &work_dir, domain)?;
    let resolv_conf = plan::write_resolv_conf(&config).map_err(folder(&config.run_dir))?;

    let (inbox, queue) = mpsc::channel::<Input>(4096);
    let (outbox, said) = mpsc::unbounded_channel();
    let written = inbox.clone();
    let writer = Writer::start(store.clone(), move |token, result| {
        let _ = written.blocking_send(Input::Event(Event::Checkpointed { token, result }));
    })
    .map_err(folder(&work_dir))?;

    let provisioner = Provisioner::open(&config, &parts, &work_dir).map_err(StartError::Provisioner)?;
    let provisioner = Arc::new(provisioner);
    let containers = Containers::new(&config, &parts, provisioner.clone(), inbox.clone(), resolv_conf);
    if let Some(docker) = &parts.docker {
        engine::watch(docker);
    }
    let fetcher = containers.fetcher();
    let recovery = recover(&store, &parts, &containers, &provisioner).await.map_err(|error| match error {
        RecoverError::Io(error) => folder(&work_dir)(error),
        RecoverError::Runtime(error) => error.into(),
    })?;
    crate::core::check_resources(&settings.resources, &recovery.records).map_err(StartError::Resources)?;
    let rubbish = volumes::rubbish(&settings.resources, &work_dir);
    tokio::task::spawn_blocking(move || volumes::clean(&rubbish));
    let bursts = AfterBursts::default();
    tokio::spawn({
        let (bursts, shutdown) = (bursts.clone(), shutdown.clone());
        async move { shutdown.until(bursts.watch()).await }
    });
    let actor = actor::Actor {
        agent: Agent::new(settings),
        clock: OsClock,
        ids: OsIds,
        store,
        writer,
        containers,
        provisioner,
        outbox,
        inbox: inbox.clone(),
        streams: Default::default(),
        garbage: Default::default(),
        config: config.clone(),
        work_dir: work_dir.clone(),
        conn: 0,
        next_request: 0,
        replies: Default::default(),
        deaths: deaths::Deaths::new(&config.run_dir),
        shutdown: shutdown.clone(),
        bursts,
    };
    let http = crate::http::router(&config, &work_dir, inbox.clone(), &parts, fetcher, &shutdown);
    let server = Server::new(http).plain(parts.plain).tls(&parts.identity, ClientAuth::Optional)?;
    let server = tokio::spawn({
        let shutdown = shutdown.clone();
        let listener = parts.listener;
        async move { server.serve(listener, shutdown).await }
    });
    // Its port answers; whether a master is there is another matter.
    plenum_base::service::ready();
    let link = tokio::spawn(link::keep(
        doors::Doors { configured: config.masters.clone(), masters: parts.masters.clone() },
        parts.identity.clone(),
        inbox,
        said,
        shutdown.clone(),
    ));
    actor.run(queue, recovery).await;
    shutdown.trigger();
    let _ = tokio::join!(server, link);
    Ok(())
}

enum RecoverError {
    Io(std::io::Error),
    Runtime(plenum_containers::RuntimeError),
}

/// Reads the records and finds the containers; those that run are watched again.
async fn recover(
    store: &RecordStore,
    parts: &Parts,
    containers: &Containers,
    provisioner: &Provisioner,
) -> Result<Recovery, RecoverError> {
    let loaded = store.load().map_err(RecoverError::Io)?;
    if let Some((key, error)) = loaded.failed.iter().find(|(key, _)| key == "resources") {
        let words = format!("meta/{key}, the record of reservations and volumes, cannot be read: {error}");
        return Err(RecoverError::Io(std::io::Error::other(words)));
    }
    for (key, error) in loaded.failed {
        tracing::warn!(key, error, "a record cannot be read and is put aside");
        if let Err(error) = store.set_aside(&key) {
            tracing::warn!(key, %error, "it cannot be put aside either");
        }
    }
    let found = parts.runtime.recover().await.map_err(RecoverError::Runtime)?;
    let mut recovery = Recovery { records: loaded.records, containers: Vec::new() };
    for one in found {
        let state = match one.state {
            RecoveredState::Running => {
                containers.watch(&one.id);
                let provision::Provided { networks, image } = provisioner.provided(&one.id);
                FoundState::Running(Started { networks, image, ..plan::started(one.launched.as_ref()) })
            }
            RecoveredState::Finished(exit) => {
                let memory = containers::out_of_memory(&*parts.runtime, &one.id, &exit).await;
                FoundState::Exited(plan::exit(&exit, memory.as_ref()))
            }
            RecoveredState::Lost if one.launched.is_none() => FoundState::Unstarted,
            RecoveredState::Lost => FoundState::Exited(plan::exit(&plenum_containers::Exit::lost(), None)),
        };
        recovery.containers.push(Found { container: one.id, state });
    }
    Ok(recovery)
}

fn settings(
    config: &Config,
    work_dir: &std::path::Path,
    domain: Option<DomainInfo>,
) -> Result<Settings, StartError> {
    let measured = machine::measure(work_dir);
    let gpus = Devices::find(&config.devices, std::path::Path::new("/dev")).gpus();
    let resources =
        machine::resources(&config.resources, &config.default_role, measured, gpus, &config.ports)?;
    machine::check_gpus(&resources, gpus)?;
    let hostname = if config.hostname.is_empty() {
        nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
    } else {
        config.hostname.clone()
    };
    let url = match config.url.as_str() {
        "" => format!("http://{}:{}", config.ip, config.port),
        url => url.to_owned(),
    };
    let seconds = Millis::from_secs;
    Ok(Settings {
        hostname,
        ip: config.ip.clone(),
        port: config.port,
        url,
        work_dir: work_dir.display().to_string(),
        resources,
        gpus,
        overlay: provision::overlay_offer(config),
        attributes: machine::attributes(&config.attributes)?,
        domain,
        boot_id: machine::boot_id(),
        send_starting: config.send_starting,
        kill_grace: seconds(config.kill_grace),
        executor_shutdown_grace: seconds(config.executor_shutdown_grace),
        executor_registration_timeout: seconds(config.executor_registration_timeout),
        executor_reregistration_timeout: seconds(config.executor_reregistration_timeout),
        recovery_timeout: seconds(config.recovery_timeout),
        require_executor_token: config.require_executor_token,
        retry_min: seconds(config.update_retry.max(1)),
        retry_max: seconds(config.update_retry_max.max(1)),
        ..Settings::default()
    })
}
