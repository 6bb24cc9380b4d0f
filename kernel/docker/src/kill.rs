//! Signals: by the engine, and to the process itself where the engine does not answer.

use crate::container::Container;
use crate::engine::EngineError;
use crate::inner::Inner;
use crate::spec::container_name;
use bollard::query_parameters::KillContainerOptions;
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;
use plenum_containers::RuntimeError;
use std::sync::Arc;
use std::time::Duration;

/// For the engine to pass a signal on; the process itself is signalled after that.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two kills of what does not end.
const AGAIN: Duration = Duration::from_secs(5);

/// Sends a signal to the container's first process.
pub async fn signal(inner: &Inner, id: &str, signal: i32) -> Result<(), RuntimeError> {
    let container = inner.running(id)?;
    deliver(inner, &container, signal.to_string()).await
}

async fn deliver(inner: &Inner, container: &Container, signal: String) -> Result<(), RuntimeError> {
    let id = container.record().id;
    let ready = inner.engine.health().borrow().is_ready();
    let outcome = if ready {
        let options = KillContainerOptions { signal: signal.clone() };
        let name = container_name(&id);
        let call = |docker: bollard::Docker| async move { docker.kill_container(&name, Some(options)).await };
        inner.engine.call("signal a container", PATIENCE, call).await
    } else {
        Err(EngineError::Away { what: "signal a container".into(), why: "it is degraded".into() })
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.status(), Some(404 | 409)) => Err(RuntimeError::Ended(id)),
        Err(error) if error.status().is_some() => Err(error.into()),
        Err(error) => direct(container, &signal).ok_or_else(|| error.into()),
    }
}

/// Signals the container's first process by its number, if it is still the same process.
pub fn direct(container: &Container, signal: &str) -> Option<()> {
    let record = container.record();
    let number = signal.parse().ok().and_then(|number: i32| Signal::try_from(number).ok());
    let signal = number.or_else(|| named(signal))?;
    (record.alive() && send(Pid::from_raw(record.pid), signal).is_ok()).then_some(())
}

fn named(name: &str) -> Option<Signal> {
    let name = name.to_ascii_uppercase();
    let full = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    full.parse().ok()
}

/// Asks a container to end, and makes it after `grace`.
pub async fn kill(inner: &Arc<Inner>, id: &str, signal: i32, grace: Duration) -> Result<(), RuntimeError> {
    let container = inner.running(id)?;
    container.change(|record| record.killed = true);
    container.off.send_replace(true);
    let asked = match container.record().stop_signal {
        Some(own) if signal == Signal::SIGTERM as i32 => own,
        _ => signal.to_string(),
    };
    let inner = Arc::clone(inner);
    let id = id.to_owned();
    tokio::spawn(async move {
        let asks = deliver(&inner, &container, asked);
        // The grace period begins with the request, not with the engine's answer.
        let (asked, ()) = tokio::join!(asks, over(&container, grace));
        if let Err(error) = asked
            && !*container.stopped.borrow()
        {
            tracing::warn!(container = id, %error, "a container could not be asked to end");
        }
        while !*container.stopped.borrow() && inner.find(&id).is_ok() {
            *container.escalated.lock() = signal != Signal::SIGKILL as i32;
            if let Err(error) = deliver(&inner, &container, (Signal::SIGKILL as i32).to_string()).await {
                tracing::debug!(container = id, %error, "a container could not be killed");
            }
            over(&container, AGAIN).await;
        }
    });
    Ok(())
}

/// Waits for the end, but not longer than this.
async fn over(container: &Container, within: Duration) {
    let mut stopped = container.stopped.subscribe();
    drop(tokio::time::timeout(within, stopped.wait_for(|stopped| *stopped)).await);
}
