//! The publisher: follows the leading master's operator stream and tells replicas what changed. What an event means is decided in [`core`].

pub mod core;
mod task;

use std::net::SocketAddr;
use std::time::Duration;

use plenum_base::client::Client;
use plenum_base::cluster::Masters;
use plenum_base::leading::Leading;
use plenum_base::places::Role;
use plenum_base::service::Shutdown;
use plenum_sdk::operator::{Happening, Operator};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::core::{Core, Next};
use crate::feed::{Delta, Fact, Facts};

/// Agents that come back one after another cost one new subscription in this time.
const GATHER: Duration = Duration::from_millis(300);

/// While agents are only remembered by the master, it is asked anew this often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Where the publisher hears of the cluster.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Calls masters.
    pub client: Client,
    /// Who of them leads.
    pub leading: Leading,
    /// Who they are.
    pub masters: Masters,
}

impl Upstream {
    /// The masters as facts, numbered as in the cluster's map. On a single machine the one there is leads.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let leader = self.leading.leader().map(|leader| leader.url);
        let fleet = self.leading.is_fleet();
        // The order of the map is the same for everybody; that of the list begins with this host.
        let mapped = self.masters.map().map(|map| {
            let port = Role::Master.port();
            map.masters.iter().map(|node| SocketAddr::new(node.address, port)).collect::<Vec<_>>()
        });
        let places = mapped.filter(|places| !places.is_empty()).unwrap_or_else(|| {
            let mut places: Vec<SocketAddr> =
                self.leading.list().iter().filter_map(|url| place(url)).collect();
            if fleet {
                places.sort_unstable();
            }
            places
        });
        let led = leader.as_deref().and_then(place);
        let fact = |(number, place): (usize, SocketAddr)| {
            let leads = if fleet { led == Some(place) } else { number == 0 };
            (format!("master/{number}"), Fact::Master { address: place.ip(), port: place.port(), leads })
        };
        places.into_iter().enumerate().map(fact).collect()
    }
}

/// `https://address:port` as an address.
fn place(url: &str) -> Option<SocketAddr> {
    let place = url.split_once("://").map_or(url, |(_, rest)| rest);
    place.trim_end_matches('/').parse().ok()
}

/// Follows the stream and sends steps into `to` until the end. `connected` is told whether the stream is there.
pub async fn run(
    upstream: Upstream,
    mut core: Core,
    to: mpsc::Sender<Delta>,
    connected: watch::Sender<bool>,
    shutdown: Shutdown,
) {
    let _ = to.send(core.whole()).await;
    while !shutdown.is_triggered() && !to.is_closed() {
        let follow = follow(&upstream, &mut core, &to, &connected);
        if shutdown.until(follow).await.is_none() {
            break;
        }
    }
    connected.send_replace(false);
}

/// One subscription, until it must be taken up anew.
async fn follow(
    upstream: &Upstream,
    core: &mut Core,
    to: &mpsc::Sender<Delta>,
    connected: &watch::Sender<bool>,
) {
    let leader = upstream.leading.leader();
    let mut masters = upstream.masters.clone();
    let mut leaders = upstream.leading.changes();
    let base = upstream.leading.place();
    let mut stream = Operator::new(upstream.client.clone(), upstream.leading.places()).subscribe();
    // Another leader: the stream of the last one may be silent for long before it breaks.
    let moved = upstream.leading.moved_since(&base, leader.as_ref());
    tokio::pin!(moved);
    let mut anew: Option<Instant> = None;
    if let Some(delta) = core.masters(upstream.facts())
        && to.send(delta).await.is_err()
    {
        return;
    }
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
                    upstream.leading.look();
                    None
                }
                None => return,
            },
            () = &mut moved => {
                connected.send_replace(false);
                return;
            }
            () = masters.changed() => core.masters(upstream.facts()),
            Ok(()) = leaders.changed() => core.masters(upstream.facts()),
            () = to.closed() => return,
            () = tokio::time::sleep_until(anew.unwrap_or_else(Instant::now)), if anew.is_some() => return,
        };
        if let Some(delta) = delta
            && to.send(delta).await.is_err()
        {
            return;
        }
    }
}
