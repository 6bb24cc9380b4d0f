//! Leading, and standing by: of several schedulers on one store one decides. The others say who it is, and one of them takes over.
//!
//! What a deposed leader could still do is prevented in three places: each of its transactions fails (the guard), its calls to the master
//! and its answers are not sent (the clock), and the master takes calls of the newest subscription only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plenum_base::clock::OsClock;
use plenum_base::service::Shutdown;
use plenum_store::{Guard, Leader, Leadership, Range, Store, StoreError, Validity};
use tokio::sync::watch;

use super::{EngineError, Handle, Setup, engine_led};

/// The election. Its records are below this path.
pub(crate) const ELECTION: &str = "election";
/// Between looks at who leads, where nothing tells of a change.
const LOOK: Duration = Duration::from_secs(1);
/// After the store could not be asked.
const AGAIN: Duration = Duration::from_millis(200);

/// The right to decide. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Lead(Option<Held>);

#[derive(Clone, Debug)]
struct Held {
    term: u64,
    guard: Guard,
    validity: Validity,
}

impl Lead {
    /// Where nobody else could decide: the store is this process' own.
    #[must_use]
    pub fn alone() -> Self {
        Self(None)
    }

    /// By a leadership, for as long as it lasts.
    #[must_use]
    pub fn by(leadership: &Leadership) -> Self {
        Self(Some(Held {
            term: leadership.term(),
            guard: leadership.guard(),
            validity: leadership.validity(),
        }))
    }

    /// Whether it holds right now, however long this process was stopped a moment ago.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.as_ref().is_none_or(|held| held.validity.holds())
    }

    /// What no other process or term of this scheduler has: the term, or the moment (milliseconds since the Unix epoch) where there are none.
    pub(super) fn number(&self) -> u64 {
        self.0.as_ref().map_or_else(|| OsClock.now().wall.0, |held| held.term)
    }

    /// The precondition of each transaction.
    pub(super) fn guards(&self) -> Vec<Guard> {
        self.0.iter().map(|held| held.guard.clone()).collect()
    }

    /// Whether this error means that somebody else leads.
    pub(super) fn is_over(&self, error: &StoreError) -> bool {
        self.0.is_some() && matches!(error, StoreError::Conflict { .. })
    }
}

/// What this process is.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Another one leads; or nobody does, or it is not known.
    Standby(Option<Leader>),
    /// This one, in this term; 0 where it is the only one.
    Leading(Handle, u64),
}

/// Campaigns as `candidate` (this process' base URL), then schedules until `shutdown` or until the leadership is lost.
///
/// # Errors
/// [`EngineError`]. After [`EngineError::Deposed`] the process has to end at once.
pub async fn contend(
    setup: Setup,
    store: Arc<dyn Store>,
    candidate: &str,
    lease: Duration,
    phase: watch::Sender<Phase>,
    shutdown: &Shutdown,
) -> Result<(), EngineError> {
    let campaign = async {
        tokio::select! {
            leadership = campaign(store.as_ref(), candidate, lease) => leadership,
            never = look(store.as_ref(), &phase) => match never {},
        }
    };
    let Some(leadership) = shutdown.until(campaign).await else { return Ok(()) };
    let leadership = leadership?;
    let term = leadership.term();
    tracing::info!(term, "leading");
    let (handle, engine) = engine_led(setup, store, Lead::by(&leadership));
    // Whoever asks from now on waits for what is being read.
    phase.send_replace(Phase::Leading(handle, term));
    let ended = tokio::select! {
        biased;
        () = leadership.lost() => Err(EngineError::Deposed),
        ended = engine.run(shutdown.child()) => ended,
    };
    if !matches!(ended, Err(EngineError::Deposed)) {
        // Nobody is kept waiting for the lease.
        phase.send_replace(Phase::Standby(None));
        leadership.resign().await;
    }
    ended
}

/// Campaigns until this process leads. A store that has no room or does not answer is waited for.
async fn campaign(store: &dyn Store, candidate: &str, lease: Duration) -> Result<Leadership, StoreError> {
    let mut told: Option<Instant> = None;
    loop {
        match store.campaign(ELECTION, candidate, lease).await {
            Err(StoreError::Held { .. }) => {}
            Err(error) if error.is_retryable() => {
                if told.is_none_or(|at| at.elapsed() > Duration::from_secs(30)) {
                    tracing::warn!(%error, "cannot lead yet; trying again");
                    told = Some(Instant::now());
                }
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}

/// Keeps an eye on who leads, to send callers there.
async fn look(store: &dyn Store, phase: &watch::Sender<Phase>) -> std::convert::Infallible {
    loop {
        let seen = async {
            let page = store.range(Range { limit: 1, ..Range::prefix(format!("{ELECTION}/")) }).await?;
            let leader = store.leader(ELECTION).await?;
            Ok::<_, StoreError>((page.revision, leader))
        };
        let (revision, leader) = match seen.await {
            Ok((revision, leader)) => (Some(revision), leader),
            Err(_) => (None, None),
        };
        phase.send_if_modified(|phase| match phase {
            Phase::Standby(known) if *known != leader => {
                *known = leader;
                true
            }
            _ => false,
        });
        let Some(revision) = revision else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        match store.watch(&format!("{ELECTION}/"), revision).await {
            // Whatever it says, and also when it says nothing, is a reason to look again.
            Ok(mut watch) => drop(watch.next_within(LOOK).await),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}
