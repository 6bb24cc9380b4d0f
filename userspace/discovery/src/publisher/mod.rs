//! The publisher: follows the master's operator stream and tells replicas what changed. What an event means is decided in [`core`].

pub mod core;
mod task;

use std::time::Duration;

use plenum_base::service::Shutdown;
use plenum_sdk::operator::{Happening, Operator};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::core::{Core, Next};
use crate::feed::Delta;

/// Agents that come back one after another cost one new subscription in this time.
const GATHER: Duration = Duration::from_millis(300);

/// While agents are only remembered by the master, it is asked anew this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A death that somebody saw before the master told it.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The framework's id.
    pub framework: String,
    /// The task's id.
    pub task: String,
}

/// Follows the stream and sends steps into `to` until the end. `connected` is told whether the stream is there.
pub async fn run(
    operator: Operator,
    mut core: Core,
    to: mpsc::Sender<Delta>,
    mut deaths: mpsc::Receiver<Ended>,
    connected: tokio::sync::watch::Sender<bool>,
    shutdown: Shutdown,
) {
    let _ = to.send(core.whole()).await;
    while !shutdown.is_triggered() {
        let follow = follow(&operator, &mut core, &to, &mut deaths, &connected);
        if shutdown.until(follow).await.is_none() {
            return;
        }
    }
}

/// One subscription, until it must be taken up anew.
async fn follow(
    operator: &Operator,
    core: &mut Core,
    to: &mpsc::Sender<Delta>,
    deaths: &mut mpsc::Receiver<Ended>,
    connected: &tokio::sync::watch::Sender<bool>,
) {
    let mut stream = operator.subscribe();
    let mut anew: Option<Instant> = None;
    loop {
        let delta = tokio::select! {
            happening = stream.recv() => match happening {
                Some(Happening::Event(event)) => {
                    connected.send_if_modified(|now| !std::mem::replace(now, true));
                    let (delta, next) = core.event(&event);
                    let look = match next {
                        Next::Resubscribe => Some(GATHER),
                        Next::GoOn => core.waits().then_some(LOOK_AGAIN),
                    };
                    if let Some(after) = look {
                        let at = Instant::now() + after;
                        anew = Some(anew.map_or(at, |set| set.min(at)));
                    }
                    delta
                }
                Some(Happening::Interrupted { reason }) => {
                    if connected.send_replace(false) {
                        tracing::warn!(reason, "the master's event stream broke; what was last known is served on");
                    }
                    None
                }
                None => return,
            },
            Some(ended) = deaths.recv() => core.ended(&ended.framework, &ended.task),
            () = tokio::time::sleep_until(anew.unwrap_or_else(Instant::now)), if anew.is_some() => return,
        };
        if let Some(delta) = delta
            && to.send(delta).await.is_err()
        {
            return;
        }
    }
}
