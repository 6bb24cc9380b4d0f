//! What this process is in the cluster: alone it publishes for itself; on a master of a fleet it stands for election, and follows whoever is
//! elected; on every other host it follows the relays on the masters. It changes from one to the other when the cluster's map does.

use std::net::IpAddr;
use std::time::Duration;

use plenum_base::component::Component;
use plenum_base::leading::Leading;
use plenum_base::places::Role;
use plenum_base::service::Shutdown;
use plenum_base::tls::Expect;
use plenum_sdk::Client;
use plenum_store::{Open, open};
use tokio::sync::{mpsc, watch};

use crate::lead::{Candidate, Led};
use crate::publisher::core::Core;
use crate::publisher::{self, Upstream};
use crate::replica::{self, Shared};
use crate::{Config, DiscoveryError, follow, names};

/// How long a master has to take a connection.
const CONNECT: Duration = Duration::from_millis(700);
/// While the store cannot be opened it is tried again after this time.
const AGAIN: Duration = Duration::from_secs(2);

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// There is nobody else: it publishes for itself.
    Alone,
    /// One of those who may publish.
    Candidate,
    /// One of those who only follow.
    Follower,
}

/// What a process at `own` is, with these masters, and with the cluster's store or without.
#[must_use]
pub fn mode(masters: &[IpAddr], own: IpAddr, store: bool) -> Mode {
    if masters.is_empty() || (!store && masters == [own]) {
        Mode::Alone
    } else if store && masters.contains(&own) {
        Mode::Candidate
    } else {
        Mode::Follower
    }
}

/// What the others see of this process.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it is.
    pub mode: watch::Sender<Mode>,
    /// Whether the master's stream is there.
    pub connected: watch::Sender<bool>,
    /// Who publishes.
    pub led: watch::Sender<Led>,
}

impl Seen {
    /// Nothing has begun yet.
    #[must_use]
    pub fn new() -> Self {
        let (mode, connected, led) = (
            watch::Sender::new(Mode::Follower),
            watch::Sender::new(false),
            watch::Sender::new(Led::default()),
        );
        Self { mode, connected, led }
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::new()
    }
}

/// What the modes are made from.
#[derive(Debug, Clone)]
struct Parts {
    config: Config,
    shared: Shared,
    component: Component,
    upstream: Upstream,
    relays: Client,
    seen: Seen,
    own: String,
}

/// Is what it has to be until `shutdown`.
///
/// # Errors
/// When the certificate cannot be used.
pub async fn run(
    config: Config,
    shared: Shared,
    component: Component,
    seen: Seen,
    shutdown: Shutdown,
) -> Result<(), DiscoveryError> {
    let client = |role: Role| -> Result<Client, DiscoveryError> {
        let expect = Expect::Role(role.as_str().to_owned());
        Ok(Client::with_tls_within(component.identity.client_config(expect)?, CONNECT))
    };
    let (mut masters, address) = (component.masters.clone(), component.settings.listen.ip());
    let master = client(Role::Master)?;
    let leading =
        Leading::follow(Role::Master, master.clone(), masters.clone(), &config.masters, shutdown.clone());
    let upstream = Upstream { client: master, leading, masters: masters.clone() };
    let own = format!("https://{}", component.settings.listen);
    let store = config.store.etcd;
    let parts = Parts { relays: client(Role::Discovery)?, config, shared, component, upstream, seen, own };
    let mut now = mode(&masters.list(), address, store);
    while !shutdown.is_triggered() {
        tracing::info!(mode = ?now, "names");
        parts.seen.mode.send_replace(now);
        let stop = shutdown.child();
        let work = tokio::spawn(begin(now, parts.clone(), stop.clone()));
        loop {
            if shutdown.until(masters.changed()).await.is_none() {
                break;
            }
            let next = mode(&masters.list(), address, store);
            if next != now {
                now = next;
                break;
            }
        }
        stop.trigger();
        // Whoever leads steps down before the process ends.
        let _ = work.await;
    }
    Ok(())
}

async fn begin(mode: Mode, parts: Parts, stop: Shutdown) {
    match mode {
        Mode::Alone => alone(parts, stop).await,
        Mode::Candidate => candidate(parts, stop).await,
        Mode::Follower => follower(parts, stop).await,
    }
}

async fn alone(parts: Parts, stop: Shutdown) {
    let Parts { config, shared, upstream, seen, own, .. } = parts;
    let copy = shared.copy();
    let core = Core::new(copy.epoch.saturating_add(1), config.range, upstream.facts(), copy.facts);
    let (to, steps) = mpsc::channel(64);
    seen.led.send_replace(Led { leader: Some(own), own: true, term: 0 });
    shared.publishes(true);
    tokio::join!(
        publisher::run(upstream, core, to, seen.connected, stop.clone()),
        replica::follow(shared.clone(), steps, stop)
    );
    shared.publishes(false);
    seen.led.send_replace(Led::default());
}

async fn candidate(parts: Parts, stop: Shutdown) {
    let Parts { config, shared, component, upstream, relays, seen, own } = parts;
    let (sources, from) = watch::channel(Vec::new());
    tokio::spawn(follow::follow(shared.clone(), relays, from, 0, stop.clone()));
    tokio::spawn(point(seen.led.subscribe(), sources, own.clone(), stop.clone()));
    let settings = component.settings.clone();
    let store = config.store.clone().files_or(&settings.ca, &settings.certificate, &settings.key);
    let endpoints = endpoints(&component, &stop);
    let at = Open {
        embedded: settings.store(),
        prefix: format!("/plenum/{}/discovery/", settings.instance),
        endpoints,
    };
    let mut said = false;
    let opened = loop {
        match open(&store, at.clone()).await {
            Ok(opened) => break opened,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "the store cannot be opened; following others, trying on");
                }
            }
        }
        if !stop.sleep(AGAIN).await {
            return;
        }
    };
    let candidate = Candidate {
        store: opened,
        lease: store.lease(),
        url: own,
        upstream,
        range: config.range,
        shared,
        connected: seen.connected,
        led: seen.led,
    };
    candidate.run(stop).await;
}

/// Where etcd is, as the map changes.
fn endpoints(component: &Component, stop: &Shutdown) -> watch::Receiver<Vec<String>> {
    let mut masters = component.masters.clone();
    let (to, endpoints) = watch::channel(masters.urls(Role::Etcd));
    let stop = stop.clone();
    tokio::spawn(async move {
        while stop.until(masters.changed()).await.is_some() {
            let now = masters.urls(Role::Etcd);
            to.send_if_modified(|urls| std::mem::replace(urls, now.clone()) != now);
        }
    });
    endpoints
}

/// Follows who publishes, unless that is this process.
async fn point(mut led: watch::Receiver<Led>, to: watch::Sender<Vec<String>>, own: String, stop: Shutdown) {
    loop {
        let now = led.borrow_and_update().clone();
        let sources: Vec<String> =
            now.leader.filter(|leader| !now.own && *leader != own).into_iter().collect();
        to.send_if_modified(|list| std::mem::replace(list, sources.clone()) != sources);
        if !matches!(stop.until(led.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

async fn follower(parts: Parts, stop: Shutdown) {
    let Parts { shared, component, relays, own, .. } = parts;
    let mut masters = component.masters.clone();
    let sources = |masters: &plenum_base::cluster::Masters| {
        // In one order on every host; each begins somewhere else.
        let mut urls = masters.urls(Role::Discovery);
        urls.retain(|url| *url != own);
        urls.sort_unstable();
        urls
    };
    let (to, from) = watch::channel(sources(&masters));
    let following = follow::follow(shared, relays, from, names::hash(&own), stop.clone());
    tokio::pin!(following);
    loop {
        tokio::select! {
            () = &mut following => return,
            () = masters.changed() => {
                let now = sources(&masters);
                to.send_if_modified(|list| std::mem::replace(list, now.clone()) != now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_is() {
        let at = |n: u8| IpAddr::from([10, 0, 0, n]);
        for (masters, store, wanted) in [
            (vec![], false, Mode::Alone),
            (vec![], true, Mode::Alone),
            (vec![at(1)], false, Mode::Alone),
            (vec![at(1)], true, Mode::Candidate),
            (vec![at(2), at(1), at(3)], true, Mode::Candidate),
            (vec![at(2), at(1)], false, Mode::Follower),
            (vec![at(2)], true, Mode::Follower),
        ] {
            assert_eq!(mode(&masters, at(1), store), wanted, "{masters:?} {store}");
        }
    }
}
