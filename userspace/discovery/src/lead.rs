//! Which publisher tells the others: an election in the store, a higher epoch for each term, and the addresses that names have, written down
//! before they are told. Losing the lease ends the publishing and not the process: names are answered on, and what a deposed publisher might
//! still say carries an epoch that is over.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use plenum_base::service::Shutdown;
use plenum_store::{Leadership, Store, StoreError, Txn};
use tokio::sync::{mpsc, watch};

use crate::feed::{Change, Delta, Fact};
use crate::publisher::core::Core;
use crate::publisher::{self, Upstream};
use crate::range::Range;
use crate::replica::Shared;

/// The election's path.
const ELECTION: &str = "election";
/// The last epoch that was given to a term, as decimal text.
const EPOCH: &str = "epoch";
/// Holds `vips/<name>`: the address of the name as text.
const VIPS: &str = "vips/";
/// Names in one transaction, besides the guard.
const CHUNK: usize = 64;
/// Between attempts while the store is away.
const AGAIN: Duration = Duration::from_millis(300);
/// How often the store is asked who leads: a campaign that goes on does not tell.
const HEAR: Duration = Duration::from_millis(500);

/// Who publishes, as far as this process knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Led {
    /// The base URL of the one who does.
    pub leader: Option<String>,
    /// Whether it is this one.
    pub own: bool,
    /// The term.
    pub term: u64,
}

/// What a candidate needs.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Discovery's part of the cluster's store.
    pub store: Arc<dyn Store>,
    /// How long a silent leader stays one.
    pub lease: Duration,
    /// This process' base URL.
    pub url: String,
    /// Where the publisher hears of the cluster.
    pub upstream: Upstream,
    /// The range of virtual addresses.
    pub range: Range,
    /// What is told.
    pub shared: Shared,
    /// Told whether the master's stream is there.
    pub connected: watch::Sender<bool>,
    /// Told who publishes.
    pub led: watch::Sender<Led>,
}

/// A term's beginning failed.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the record {0} is not understood")]
    Record(String),
}

impl Candidate {
    /// Stands for election, and publishes when elected, until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let mut said = false;
        let (listener, listening) = (self.clone(), shutdown.clone());
        tokio::spawn(async move {
            while listening.until(listener.hear()).await.is_some() && listening.sleep(HEAR).await {}
        });
        while !shutdown.is_triggered() {
            let campaign = self.store.campaign(ELECTION, &self.url, self.lease);
            match shutdown.until(campaign).await {
                None => return,
                Some(Ok(leadership)) => {
                    said = false;
                    self.serve(leadership, &shutdown).await;
                }
                Some(Err(StoreError::Held { .. })) => said = false,
                Some(Err(error)) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(%error, "the store cannot be asked who publishes names; what is known is served on");
                    }
                    shutdown.sleep(AGAIN).await;
                }
            }
        }
    }

    /// Learns who leads now.
    async fn hear(&self) {
        if self.led.borrow().own {
            return;
        }
        let Ok(leader) = self.store.leader(ELECTION).await else { return };
        let led = leader.map_or_else(Led::default, |leader| Led {
            own: false,
            term: leader.term,
            // Our own former life leads nothing.
            leader: Some(leader.candidate).filter(|candidate| *candidate != self.url),
        });
        // Elected meanwhile: that is newer.
        self.led.send_if_modified(|now| !now.own && std::mem::replace(now, led.clone()) != led);
    }

    async fn serve(&self, leadership: Leadership, shutdown: &Shutdown) {
        let (term, lost) = (leadership.term(), leadership.lost());
        let begun = shutdown.until(self.begin(&leadership)).await;
        let core = match begun {
            Some(Ok(core)) => core,
            Some(Err(error)) => {
                tracing::warn!(%error, term, "elected, but the records cannot be read; trying again");
                leadership.resign().await;
                shutdown.sleep(AGAIN).await;
                return;
            }
            None => return leadership.resign().await,
        };
        tracing::info!(term, "publishing names");
        self.led.send_replace(Led { leader: Some(self.url.clone()), own: true, term });
        let stop = shutdown.child();
        let (to, steps) = mpsc::channel(64);
        let (upstream, connected) = (self.upstream.clone(), self.connected.clone());
        tokio::spawn(publisher::run(upstream, core, to, connected, stop.clone()));
        tokio::select! {
            () = lost => tracing::warn!(term, "somebody else publishes names now, or the store is away"),
            () = self.tell(&leadership, steps) => tracing::warn!(term, "the addresses of names cannot be written down"),
            () = shutdown.wait() => {}
        }
        stop.trigger();
        self.shared.publishes(false);
        self.led.send_replace(Led::default());
        leadership.resign().await;
    }

    /// The first transaction of a term: its epoch. And what was given out before.
    async fn begin(&self, leadership: &Leadership) -> Result<Core, BeginError> {
        let broken = |key: &str| BeginError::Record(key.to_owned());
        let entry = self.store.get(EPOCH).await?;
        let before = match &entry {
            Some(entry) => {
                text(&entry.value).and_then(|text| text.parse().ok()).ok_or_else(|| broken(EPOCH))?
            }
            None => 0u64,
        };
        let copy = self.shared.copy();
        let epoch = before.max(copy.epoch).saturating_add(1);
        self.store.commit(Txn::new().guard(leadership.guard()).put(EPOCH, epoch.to_string())).await?;
        let mut reserved = BTreeMap::new();
        let mut asked = plenum_store::Range::prefix(VIPS);
        loop {
            let page = self.store.range(asked.clone()).await?;
            for entry in &page.entries {
                let name = entry.key.strip_prefix(VIPS).ok_or_else(|| broken(&entry.key))?;
                let address: Ipv4Addr = text(&entry.value)
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| broken(&entry.key))?;
                reserved.insert(name.to_owned(), address);
            }
            match page.next(&asked) {
                Some(next) => asked = next,
                None => break,
            }
        }
        // Names that this copy knows and the store does not are written with the first change that touches them.
        let known = copy.facts.iter().filter_map(|(key, fact)| match fact {
            Fact::Address(address) => Some((key.strip_prefix("vip/")?.to_owned(), *address)),
            _ => None,
        });
        let missing: Vec<(String, Option<Ipv4Addr>)> = known
            .filter(|(name, _)| !reserved.contains_key(name))
            .map(|(name, at)| (name, Some(at)))
            .collect();
        self.write(leadership, &missing).await?;
        Ok(Core::with_reserved(epoch, self.range, self.upstream.facts(), copy.facts, reserved))
    }

    /// Tells steps until the publisher ends, or an address can no longer be written down under this leadership.
    async fn tell(&self, leadership: &Leadership, mut steps: mpsc::Receiver<Delta>) {
        while let Some(delta) = steps.recv().await {
            let given = addresses(&delta);
            loop {
                match self.write(leadership, &given).await {
                    Ok(()) => break,
                    // The lease says for how long this is worth trying.
                    Err(error) if error.is_retryable() && !leadership.is_lost() => {
                        tracing::debug!(%error, "writing the addresses of names");
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "writing the addresses of names");
                        return;
                    }
                }
            }
            if leadership.is_lost() {
                return;
            }
            let first = delta.whole.is_some();
            self.shared.apply(delta);
            if first {
                self.shared.publishes(true);
            }
        }
    }

    /// Writes which name has which address, or has none any more.
    async fn write(
        &self,
        leadership: &Leadership,
        names: &[(String, Option<Ipv4Addr>)],
    ) -> Result<(), StoreError> {
        for chunk in names.chunks(CHUNK) {
            let mut txn = Txn::new().guard(leadership.guard());
            for (name, address) in chunk {
                let key = format!("{VIPS}{name}");
                txn = match address {
                    Some(address) => txn.put(key, address.to_string()),
                    None => txn.delete(key),
                };
            }
            self.store.commit(txn).await?;
        }
        Ok(())
    }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// What a step changes about addresses.
fn addresses(delta: &Delta) -> Vec<(String, Option<Ipv4Addr>)> {
    let given = |change: &Change| {
        let name = change.key.strip_prefix("vip/")?.to_owned();
        let address = match &change.fact {
            Some(Fact::Address(address)) => Some(*address),
            _ => None,
        };
        Some((name, address))
    };
    delta.changes.iter().filter_map(given).collect()
}
