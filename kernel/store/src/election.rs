//! Leader election, built on the store's own transactions, leases and watches, so that every store elects alike.
//!
//! Under an election's path live two records: `leader`, bound to the leader's lease, and `term`, which only
//! grows. Becoming leader writes both in one transaction guarded by what was read; therefore no two leaders
//! share a term, and a later leader has a higher one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{Entry, Guard, LeaseId, Revision, Store, StoreError, Txn, Watch, limits};

/// The format of the election's records.
const FORMAT: u32 = 1;
/// How long a leader that steps down waits for the store to hear of it.
const RESIGN_WAIT: Duration = Duration::from_secs(2);
/// Pause after a refused attempt that nobody holds the election against.
const RETRY: Duration = Duration::from_millis(50);

#[derive(Serialize, Deserialize)]
struct LeaderRecord {
    format: u32,
    candidate: String,
    term: u64,
}

#[derive(Serialize, Deserialize)]
struct TermRecord {
    format: u32,
    term: u64,
}

/// Who leads an election, as read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The name the leader campaigned under.
    pub candidate: String,
    /// Its term.
    pub term: u64,
    /// Since when.
    pub since: Revision,
}

/// Being the leader. Dropping it steps down, in the background; [`Leadership::resign`] waits for it.
#[derive(Debug)]
pub struct Leadership {
    term: u64,
    guard: Guard,
    lost: watch::Receiver<bool>,
    stop: Option<oneshot::Sender<oneshot::Sender<()>>>,
}

impl Leadership {
    /// The precondition for each of the leader's transactions, through the store that was campaigned on: it
    /// fails once somebody else leads.
    pub fn guard(&self) -> Guard {
        self.guard.clone()
    }

    /// The leader's term: higher than that of every leader before. For what cannot be guarded by a transaction.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether leadership is known to be lost.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Completes when leadership is lost: taken over, or its lease could not be kept alive. It completes *no
    /// later* than the lease can run out by this process' clock, even if the store cannot be reached.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut lost = self.lost.clone();
        async move {
            // An error means that the keeper is gone, and with it the lease.
            let _ = lost.wait_for(|lost| *lost).await;
        }
    }

    /// Steps down so that another candidate can lead at once; waits for the store to know, two seconds at most.
    pub async fn resign(mut self) {
        let (done, wait) = oneshot::channel();
        if self.stop.take().is_some_and(|stop| stop.send(done).is_ok()) {
            let _ = timeout(RESIGN_WAIT, wait).await;
        }
    }
}

pub(crate) fn leader_key(election: &str) -> String {
    format!("{}/leader", election.trim_end_matches('/'))
}

fn term_key(election: &str) -> String {
    format!("{}/term", election.trim_end_matches('/'))
}

pub(crate) fn read_leader(entry: &Entry) -> Result<Leader, StoreError> {
    let record: LeaderRecord = parse(entry)?;
    check_format(entry, record.format)?;
    Ok(Leader { candidate: record.candidate, term: record.term, since: entry.mod_revision })
}

fn read_term(entry: Option<&Entry>) -> Result<u64, StoreError> {
    let Some(entry) = entry else { return Ok(0) };
    let record: TermRecord = parse(entry)?;
    check_format(entry, record.format)?;
    Ok(record.term)
}

fn parse<T: for<'de> Deserialize<'de>>(entry: &Entry) -> Result<T, StoreError> {
    serde_json::from_slice(&entry.value)
        .map_err(|e| StoreError::broken(format!("the election record {} cannot be read: {e}", entry.key)))
}

fn check_format(entry: &Entry, format: u32) -> Result<(), StoreError> {
    if format == FORMAT {
        return Ok(());
    }
    Err(StoreError::broken(format!("the election record {} has the unknown format {format}", entry.key)))
}

fn record<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|e| StoreError::broken(format!("an election record cannot be made: {e}")))
}

/// See [`Store::campaign`].
pub(crate) async fn campaign(
    store: Arc<dyn Store>,
    election: &str,
    candidate: &str,
    ttl: Duration,
) -> Result<Leadership, StoreError> {
    let ttl = limits::round_ttl(ttl)?;
    let give_up = Instant::now() + ttl + ttl / 2;
    loop {
        let leader = store.get(&leader_key(election)).await?;
        let holder = leader.as_ref().map(read_leader).transpose()?;
        if let Some(holder) = holder.filter(|holder| holder.candidate != candidate) {
            if Instant::now() >= give_up {
                return Err(StoreError::Held { election: election.to_owned(), holder: holder.candidate });
            }
            wait_for_change(&*store, election, holder.since, give_up).await?;
            continue;
        }
        match try_take(&store, election, candidate, ttl, leader).await {
            Err(StoreError::Conflict { .. } | StoreError::LeaseNotFound { .. })
                if Instant::now() < give_up =>
            {
                sleep(RETRY).await;
            }
            other => return other,
        }
    }
}

/// Waits until the leader's record changes, or `until`; a compacted watch is reason enough to look again.
async fn wait_for_change(
    store: &dyn Store,
    election: &str,
    after: Revision,
    until: Instant,
) -> Result<(), StoreError> {
    let mut watch = store.watch(&leader_key(election), after).await?;
    match timeout_at(until, watch.next()).await {
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(e)) => Err(e),
    }
}

async fn try_take(
    store: &Arc<dyn Store>,
    election: &str,
    candidate: &str,
    ttl: Duration,
    leader: Option<Entry>,
) -> Result<Leadership, StoreError> {
    let (leader_key, term_key) = (leader_key(election), term_key(election));
    let term_entry = store.get(&term_key).await?;
    let term = read_term(term_entry.as_ref())?.saturating_add(1);
    let asked = Instant::now();
    let lease = store.grant(ttl).await?;
    let unchanged = |key: &str, entry: Option<&Entry>| match entry {
        None => Guard::Absent(key.to_owned()),
        Some(entry) => Guard::ModRevision(key.to_owned(), entry.mod_revision),
    };
    let txn = Txn::new()
        .guard(unchanged(&leader_key, leader.as_ref()))
        .guard(unchanged(&term_key, term_entry.as_ref()))
        .put(&term_key, record(&TermRecord { format: FORMAT, term })?)
        .put_leased(
            &leader_key,
            record(&LeaderRecord { format: FORMAT, candidate: candidate.to_owned(), term })?,
            lease,
        );
    match store.commit(txn).await {
        Ok(revision) => {
            let guard = Guard::ModRevision(leader_key.clone(), revision);
            let (lost_tx, lost) = watch::channel(false);
            let (stop, stopped) = oneshot::channel();
            let keeper = Keeper { store: Arc::clone(store), leader_key, revision, lease, ttl };
            tokio::spawn(keeper.run(asked, lost_tx, stopped));
            Ok(Leadership { term, guard, lost, stop: Some(stop) })
        }
        Err(e) => {
            // Not needed any more; if this fails as well it runs out by itself. After an uncertain outcome
            // this also takes back a leadership nobody knows of.
            let _ = store.revoke(lease).await;
            Err(e)
        }
    }
}

/// Keeps a leadership's lease alive and looks whether it still is one.
struct Keeper {
    store: Arc<dyn Store>,
    leader_key: String,
    revision: Revision,
    lease: LeaseId,
    ttl: Duration,
}

impl Keeper {
    async fn run(
        self,
        asked: Instant,
        lost: watch::Sender<bool>,
        stopped: oneshot::Receiver<oneshot::Sender<()>>,
    ) {
        tokio::pin!(stopped);
        let answer = tokio::select! {
            answer = &mut stopped => Some(answer),
            () = self.keep(asked) => None,
        };
        lost.send_replace(true);
        if let Some(answer) = answer {
            let _ = timeout(RESIGN_WAIT, self.store.revoke(self.lease)).await;
            if let Ok(done) = answer {
                let _ = done.send(());
            }
        }
    }

    /// Returns when leadership is lost. `valid_from` is when the last successful renewal was *asked for*: the
    /// lease cannot run out before that plus its time to live.
    async fn keep(&self, mut valid_from: Instant) {
        let mut pause = self.ttl / 3;
        let watching = self.store.watch(&self.leader_key, self.revision);
        let mut watch = timeout(pause, watching).await.ok().and_then(Result::ok);
        loop {
            let end = valid_from + self.ttl;
            if timeout_at(end, self.pause(pause, &mut watch)).await.is_err() {
                return;
            }
            let asked = Instant::now();
            match timeout_at(end, self.renew()).await {
                Err(_) | Ok(Ok(false)) | Ok(Err(StoreError::LeaseNotFound { .. })) => return,
                Ok(Ok(true)) => {
                    valid_from = asked;
                    pause = self.ttl / 3;
                }
                Ok(Err(_)) => pause = (self.ttl / 20).max(RETRY),
            }
        }
    }

    /// Sleeps, but not on when something happens to the record: that is looked at right away. A watch that has
    /// said something, or failed, is not asked again; looking at every renewal remains.
    async fn pause(&self, pause: Duration, watch: &mut Option<Watch>) {
        let event = async {
            match watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        if timeout(pause, event).await.is_ok() {
            *watch = None;
        }
    }

    /// Whether the lease was renewed and the record is still ours.
    async fn renew(&self) -> Result<bool, StoreError> {
        self.store.keep_alive(self.lease).await?;
        let entry = self.store.get(&self.leader_key).await?;
        Ok(entry.is_some_and(|entry| entry.mod_revision == self.revision))
    }
}
