//! [`DockerRuntime`]: the engine behind the trait that the agent knows.

use crate::config::DockerConfig;
use crate::engine::{Engine, Health};
use crate::images::{self, Pressure, Pulled};
use crate::inner::{Inner, keep};
use crate::pull::Progress;
use crate::record::Records;
use crate::spec::{DockerSpec, container_name};
use crate::{attach, destroy, disk, exec, kill, launch, measure, probe, recover};
use async_trait::async_trait;
use futures_util::StreamExt;
use parking_lot::Mutex;
use plenum_containers::session::{Input, Open, Output, Session};
use plenum_containers::{
    ContainerSpec, DiskUse, Enter, Entered, Exit, Isolation, Launched, OutOfMemory, Probe, Probed, Recovered,
    Runtime, RuntimeError, Statistics, Usage,
};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;

/// For one container to be measured among many.
const MEASURE: Duration = Duration::from_secs(2);
/// Containers that are measured at once.
const AT_ONCE: usize = 16;

/// Containers of a Docker engine.
#[derive(Debug)]
pub struct DockerRuntime {
    inner: Arc<Inner>,
    isolation: Isolation,
}

impl DockerRuntime {
    /// Begins to look for the engine; returns at once. Must be called within a tokio runtime.
    pub fn new(config: DockerConfig) -> Result<Self, RuntimeError> {
        let dir = config.run_dir.clone();
        std::fs::create_dir_all(&dir)
            .map_err(|error| RuntimeError::Io { what: format!("making {}", dir.display()), error })?;
        let mut isolation = Isolation::default();
        isolation.note(
            "docker",
            true,
            format!("the engine at {} separates and limits", config.socket.display()),
        );
        let inner = Arc::new(Inner {
            engine: Engine::new(config.clone()),
            records: Records(dir),
            table: Mutex::default(),
            announced: Mutex::default(),
            pulls: Mutex::default(),
            images: Pulled::open(config.images.clone()),
            recovered: AtomicBool::new(false),
            config,
        });
        tokio::spawn(keep(Arc::downgrade(&inner)));
        Ok(Self { inner, isolation })
    }

    /// Whether the engine can be relied on, now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.engine.health().borrow().clone()
    }

    /// The same, with word of each change.
    #[must_use]
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.inner.engine.health()
    }

    /// Pulls what is missing, creates and starts a container; returns when it runs. Dropping the future does not stop it.
    pub async fn start(&self, spec: DockerSpec) -> Result<Launched, RuntimeError> {
        launch::launch(&self.inner, spec).await
    }

    /// Says what a container is to be that [`Runtime::launch`] will be asked for by its id.
    pub fn announce(&self, spec: DockerSpec) {
        self.inner.announced.lock().insert(spec.id.clone(), spec);
    }

    /// Pulls the image of an announced container, so that its launch need not. May be given up by dropping the future.
    pub async fn fetch(&self, id: &str) -> Result<(), RuntimeError> {
        launch::fetch(&self.inner, id).await
    }

    /// Removes images that were pulled for tasks and that nobody uses; gives their names. Nothing without [`DockerConfig::images`].
    pub async fn collect(&self, pressure: Pressure) -> Vec<String> {
        images::collect(&self.inner, pressure).await
    }

    /// How far the pull for a container is, while there is one.
    #[must_use]
    pub fn pulling(&self, id: &str) -> Option<Progress> {
        self.inner.pulls.lock().get(id).copied()
    }

    /// The image of a container by its digest, so that others can run the same bytes; none where the engine knows no digest.
    #[must_use]
    pub fn image(&self, id: &str) -> Option<String> {
        self.inner.records.read(id).map(|record| record.image).filter(|image| !image.is_empty())
    }

    /// A container's own addresses; none on the host's network, or while it is not known to run.
    #[must_use]
    pub fn addresses(&self, id: &str) -> Vec<std::net::IpAddr> {
        self.inner.records.read(id).map(|record| record.addresses).unwrap_or_default()
    }

    /// Whether a container is this runtime's: announced, running, or not yet forgotten.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.inner.announced.lock().contains_key(id)
            || self.inner.table.lock().contains_key(id)
            || self.inner.records.read(id).is_some()
    }
}

impl Drop for DockerRuntime {
    /// Nobody watches any more; containers go on.
    fn drop(&mut self) {
        self.inner.table.lock().clear();
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    /// What the container is to be comes from [`DockerRuntime::announce`]; of `spec` only the id counts.
    async fn launch(&self, spec: ContainerSpec) -> Result<Launched, RuntimeError> {
        let announced = self.inner.announced.lock().remove(&spec.id);
        let announced = announced.ok_or_else(|| {
            RuntimeError::Engine(format!(
                "container {} was not announced as one of the Docker engine",
                spec.id
            ))
        })?;
        self.start(announced).await
    }

    async fn wait(&self, id: &str) -> Result<Exit, RuntimeError> {
        let container = self.inner.find(id)?;
        let mut exit = container.exit.subscribe();
        let seen = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        seen.ok_or_else(|| RuntimeError::NotFound(id.to_owned()))
    }

    async fn signal(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        kill::signal(&self.inner, id, signal).await
    }

    async fn kill(&self, id: &str, signal: i32, grace: Duration) -> Result<(), RuntimeError> {
        kill::kill(&self.inner, id, signal, grace).await
    }

    async fn destroy(&self, id: &str) -> Result<Exit, RuntimeError> {
        self.inner.announced.lock().remove(id);
        destroy::destroy(&self.inner, id).await
    }

    async fn recover(&self) -> Result<Vec<Recovered>, RuntimeError> {
        recover::recover(&self.inner).await
    }

    async fn usage(&self, id: &str) -> Result<Usage, RuntimeError> {
        Ok(self.stats(id).await?.usage)
    }

    async fn stats(&self, id: &str) -> Result<Statistics, RuntimeError> {
        let container = self.inner.running(id)?;
        let record = container.record();
        let files = tokio::task::spawn_blocking(move || measure::by_groups(&record)).await.ok().flatten();
        let mut found = match files {
            Some(found) => found,
            None => {
                measure::by_engine(&self.inner.engine, &container_name(id), self.inner.config.call).await?
            }
        };
        *container.usage.lock() = found.usage;
        found.disk = *container.disk.lock();
        Ok(found)
    }

    async fn stats_of(&self, ids: &[String]) -> Vec<Option<Statistics>> {
        // Some at a time, and who needs the engine for it does not hold the others up for long.
        let one = |id: String| async move { tokio::time::timeout(MEASURE, self.stats(&id)).await.ok()?.ok() };
        futures_util::stream::iter(ids.to_vec()).map(one).buffered(AT_ONCE).collect().await
    }

    async fn out_of_memory(&self, id: &str) -> Option<OutOfMemory> {
        let group = self.inner.records.read(id)?.engine_id;
        let find = move || (!group.is_empty()).then(|| plenum_containers::oom::from_kernel(&group)).flatten();
        tokio::task::spawn_blocking(find).await.ok().flatten()
    }

    async fn disk(&self, id: &str) -> Result<Option<DiskUse>, RuntimeError> {
        disk::look(&self.inner.find(id)?, u64::MAX).await
    }

    async fn disk_exceeded(&self, id: &str) -> Result<DiskUse, RuntimeError> {
        disk::exceeded(&self.inner, id).await
    }

    async fn enter(&self, id: &str, enter: Enter) -> Result<Entered, RuntimeError> {
        exec::enter(&self.inner, id, enter).await
    }

    async fn open(&self, id: &str, open: Open) -> Result<Session, RuntimeError> {
        exec::open(&self.inner, id, open).await
    }

    async fn listen(&self, id: &str) -> Result<tokio::sync::mpsc::Receiver<Output>, RuntimeError> {
        attach::listen(&self.inner, id).await
    }

    async fn terminal(&self, id: &str) -> Result<Option<Input>, RuntimeError> {
        attach::terminal(&self.inner, id).await
    }

    async fn probe(&self, id: &str, probe: Probe, deadline: Duration) -> Result<Probed, RuntimeError> {
        let container = self.inner.running(id)?;
        probe::probe(&container.record(), &probe, deadline).await
    }

    fn isolation(&self) -> &Isolation {
        &self.isolation
    }
}
