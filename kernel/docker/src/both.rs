//! Two runtimes as one: a container that was announced to the Docker engine is its, any other is native.

use crate::runtime::DockerRuntime;
use async_trait::async_trait;
use plenum_containers::session::{Input, Open, Output, Session};
use plenum_containers::{
    ContainerSpec, DiskUse, Enter, Entered, Exit, Isolation, Launched, OutOfMemory, Probe, Probed, Recovered,
    Runtime, RuntimeError, Statistics, Usage,
};
use std::sync::Arc;
use std::time::Duration;

/// Passes each call to the runtime that has the container.
pub struct Both {
    native: Arc<dyn Runtime>,
    docker: Arc<DockerRuntime>,
}

impl Both {
    /// Of these two.
    #[must_use]
    pub fn new(native: Arc<dyn Runtime>, docker: Arc<DockerRuntime>) -> Self {
        Self { native, docker }
    }

    fn of(&self, id: &str) -> &dyn Runtime {
        if self.docker.has(id) { &*self.docker } else { &*self.native }
    }
}

#[async_trait]
impl Runtime for Both {
    async fn launch(&self, spec: ContainerSpec) -> Result<Launched, RuntimeError> {
        self.of(&spec.id).launch(spec).await
    }

    async fn wait(&self, id: &str) -> Result<Exit, RuntimeError> {
        self.of(id).wait(id).await
    }

    async fn signal(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        self.of(id).signal(id, signal).await
    }

    async fn kill(&self, id: &str, signal: i32, grace: Duration) -> Result<(), RuntimeError> {
        self.of(id).kill(id, signal, grace).await
    }

    async fn destroy(&self, id: &str) -> Result<Exit, RuntimeError> {
        self.of(id).destroy(id).await
    }

    async fn recover(&self) -> Result<Vec<Recovered>, RuntimeError> {
        let (native, docker) = tokio::join!(self.native.recover(), self.docker.recover());
        let mut all = native?;
        all.extend(docker?);
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    async fn usage(&self, id: &str) -> Result<Usage, RuntimeError> {
        self.of(id).usage(id).await
    }

    async fn stats(&self, id: &str) -> Result<Statistics, RuntimeError> {
        self.of(id).stats(id).await
    }

    async fn stats_of(&self, ids: &[String]) -> Vec<Option<Statistics>> {
        let (theirs, ours): (Vec<String>, Vec<String>) =
            ids.iter().cloned().partition(|id| self.docker.has(id));
        let (native, docker) = tokio::join!(self.native.stats_of(&ours), self.docker.stats_of(&theirs));
        let (mut native, mut docker) = (native.into_iter(), docker.into_iter());
        let mut theirs = theirs.iter().peekable();
        let one = |id: &String| match theirs.next_if(|next| *next == id) {
            Some(_) => docker.next().flatten(),
            None => native.next().flatten(),
        };
        ids.iter().map(one).collect()
    }

    async fn out_of_memory(&self, id: &str) -> Option<OutOfMemory> {
        self.of(id).out_of_memory(id).await
    }

    async fn disk(&self, id: &str) -> Result<Option<DiskUse>, RuntimeError> {
        self.of(id).disk(id).await
    }

    async fn disk_exceeded(&self, id: &str) -> Result<DiskUse, RuntimeError> {
        self.of(id).disk_exceeded(id).await
    }

    async fn enter(&self, id: &str, enter: Enter) -> Result<Entered, RuntimeError> {
        self.of(id).enter(id, enter).await
    }

    async fn open(&self, id: &str, open: Open) -> Result<Session, RuntimeError> {
        self.of(id).open(id, open).await
    }

    async fn listen(&self, id: &str) -> Result<tokio::sync::mpsc::Receiver<Output>, RuntimeError> {
        self.of(id).listen(id).await
    }

    async fn terminal(&self, id: &str) -> Result<Option<Input>, RuntimeError> {
        self.of(id).terminal(id).await
    }

    async fn probe(&self, id: &str, probe: Probe, deadline: Duration) -> Result<Probed, RuntimeError> {
        self.of(id).probe(id, probe, deadline).await
    }

    fn isolation(&self) -> &Isolation {
        self.native.isolation()
    }
}
