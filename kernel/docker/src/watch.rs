//! Waiting for the end of a container, however often the engine goes away meanwhile.

use crate::container::{Container, Doing, doing, inspect};
use crate::inner::Inner;
use crate::spec::container_name;
use bollard::query_parameters::WaitContainerOptions;
use futures_util::StreamExt;
use plenum_containers::Exit;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The engine is asked again after so long, in case it forgot to tell.
const ASK: Duration = Duration::from_secs(60);
/// Between two looks at the process while the engine is away.
const LOOK: Duration = Duration::from_millis(500);

/// Waits, then for the last output, then tells.
pub async fn watch(inner: Arc<Inner>, container: Arc<Container>) {
    let exit = tokio::select! {
        exit = by_engine(&inner, &container) => exit,
        exit = by_process(&inner, &container) => exit,
    };
    container.stopped.send_replace(true);
    let mut drained = container.drained.subscribe();
    let waited = tokio::time::timeout(inner.config.drain, drained.wait_for(|drained| *drained)).await;
    if waited.is_err() {
        let id = container.record().id;
        tracing::warn!(container = id, "the last output of a container did not come in time");
    }
    container.exit.send_replace(Some(exit));
}

async fn by_engine(inner: &Inner, container: &Container) -> Exit {
    let name = container_name(&container.record().id);
    loop {
        inner.engine.wait_ready().await;
        match inspect(&inner.engine, &name, inner.config.call).await {
            Ok(None) => return container.exit_unseen(),
            Ok(Some(found)) => match doing(&found) {
                Doing::Ended => return container.exit_of(&found),
                Doing::Waiting => return container.exit_unseen(),
                Doing::Running => {
                    if container.record().pid == 0 {
                        crate::launch::note_process(container, &found);
                    }
                }
            },
            Err(_) => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
        }
        let Some(docker) = inner.engine.client() else { continue };
        let options = WaitContainerOptions { condition: "not-running".into() };
        let mut answer = std::pin::pin!(docker.wait_container(&name, Some(options)));
        let mut health = inner.engine.health();
        // Whatever comes, the engine is asked for the whole story; an error means little (a code that is not zero is one).
        tokio::select! {
            _ = tokio::time::timeout(ASK, answer.next()) => {}
            _ = health.wait_for(|health| !health.is_ready()) => {}
        }
        // An engine that ends takes its answers with it, before anybody has noticed.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The end of a process that the engine does not tell of: it is away, or what it is made of hangs.
async fn by_process(inner: &Inner, container: &Container) -> Exit {
    let mut gone: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let record = container.record();
        if record.pid == 0 || record.alive() {
            gone = None;
            continue;
        }
        let since = gone.get_or_insert_with(Instant::now).elapsed();
        let patience = if record.killed { inner.config.give_up_killed } else { inner.config.give_up };
        if since >= patience {
            tracing::warn!(
                container = record.id,
                "the container's process is gone, and the engine does not say how"
            );
            return container.exit_unseen();
        }
    }
}
