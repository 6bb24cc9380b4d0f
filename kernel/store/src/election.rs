//! Leader election, built on the store's own transactions, leases and watches, so that every store elects alike.
//!
//! Under an election's path live two records: `leader`, bound to the leader's lease, and `term`, which only
//! grows. Becoming leader writes both in one transaction guarded by what was read; therefore no two leaders
//! share a term, and a later leader has a higher one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
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
/// A lease is renewed so often within its time to live: what is left after one renewal fails is enough for etcd to find a new leader.
const RENEWALS: u32 = 5;
/// This part of the time to live is given away for safety.
const MARGIN: u32 = 20;

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
    validity: Validity,
    stop: Option<oneshot::Sender<oneshot::Sender<()>>>,
}

/// Whether a leadership still holds, by the clock: for whatever sends something that no transaction guards. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Validity {
    until: Arc<Mutex<Until>>,
    lost: watch::Receiver<bool>,
}

/// Until when the lease cannot have run out: by the runtime's clock, and by one that also counts while the machine sleeps.
#[derive(Clone, Copy, Debug)]
struct Until {
    runtime: Instant,
    boot: Duration,
}

impl Until {
    /// For a renewal that is about to be asked for.
    fn after(ttl: Duration) -> Self {
        // A little less, so that what is sent at the last moment arrives before it.
        let ttl = ttl.saturating_sub(ttl / MARGIN);
        Self { runtime: Instant::now() + ttl, boot: boot_time().saturating_add(ttl) }
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.runtime || boot_time() >= self.boot
    }
}

/// The time since boot, sleep included. (A process that was stopped finds that it went on.)
fn boot_time() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    // It cannot fail on Linux; the runtime's clock remains.
    now.map_or(Duration::ZERO, Duration::from)
}

impl Validity {
    /// Whether it holds right now. True only while the lease cannot have run out, however long this process slept or was stopped.
    pub fn holds(&self) -> bool {
        !*self.lost.borrow() && !self.until.lock().is_over()
    }

    /// Completes when it no longer holds.
    pub async fn ended(&self) {
        let mut lost = self.lost.clone();
        while self.holds() {
            let until = self.until.lock().runtime;
            // An error means that the keeper is gone, and with it the lease.
            if matches!(timeout_at(until, lost.wait_for(|lost| *lost)).await, Ok(Err(_))) {
                return;
            }
        }
    }
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

    /// Whether leadership is lost: it is known to be, or the lease may have run out by now.
    pub fn is_lost(&self) -> bool {
        !self.validity.holds()
    }

    /// The same for others than the one who holds the leadership.
    pub fn validity(&self) -> Validity {
        self.validity.clone()
    }

    /// Completes when leadership is lost: taken over, or its lease could not be kept alive. It completes *no
    /// later* than the lease can run out by this process' clock, even if the store cannot be reached.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let validity = self.validity.clone();
        async move { validity.ended().await }
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
    let until = Until::after(ttl);
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
            let until = Arc::new(Mutex::new(until));
            let validity = Validity { until: Arc::clone(&until), lost };
            let keeper = Keeper { store: Arc::clone(store), leader_key, revision, lease, ttl, until };
            tokio::spawn(keeper.run(lost_tx, stopped));
            Ok(Leadership { term, guard, validity, stop: Some(stop) })
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
    until: Arc<Mutex<Until>>,
}

impl Keeper {
    async fn run(self, lost: watch::Sender<bool>, stopped: oneshot::Receiver<oneshot::Sender<()>>) {
        tokio::pin!(stopped);
        let answer = tokio::select! {
            answer = &mut stopped => Some(answer),
            () = self.keep() => None,
        };
        lost.send_replace(true);
        if let Some(answer) = answer {
            let _ = timeout(RESIGN_WAIT, self.store.revoke(self.lease)).await;
            if let Ok(done) = answer {
                let _ = done.send(());
            }
        }
    }

    /// Returns when leadership is lost. It holds until the last successful renewal was *asked for*, plus the time to live: the lease
    /// cannot run out before that.
    async fn keep(&self) {
        let mut pause = self.ttl / RENEWALS;
        let watching = self.store.watch(&self.leader_key, self.revision);
        let mut watch = timeout(pause, watching).await.ok().and_then(Result::ok);
        loop {
            let until = *self.until.lock();
            if until.is_over() || timeout_at(until.runtime, self.pause(pause, &mut watch)).await.is_err() {
                return;
            }
            let next = Until::after(self.ttl);
            match timeout_at(until.runtime, self.renew()).await {
                Err(_) | Ok(Ok(false)) | Ok(Err(StoreError::LeaseNotFound { .. })) => return,
                // Too late all the same: this process slept while the answer came.
                Ok(Ok(true)) if until.is_over() => return,
                Ok(Ok(true)) => {
                    *self.until.lock() = next;
                    pause = self.ttl / RENEWALS;
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
