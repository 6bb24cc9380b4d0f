//! Connections to etcd's members, one each, and which of them is used: the first in the list that answers. A member that is gone
//! without a word is noticed by asking it; what waits for it is told.
//!
//! An [`Endpoint`] lives once: one that died is replaced by a new one, with a new connection, when its member answers again. So nothing
//! waits on a connection whose packets are long lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, StatusResponse};
use futures_util::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::EtcdOptions;
use super::convert::{self, Call};
use crate::StoreError;

/// gRPC's own probe of a connection: etcd takes it amiss below 5 s. It clears up; noticing is [`Pool::look`]'s.
const PROBE: Duration = Duration::from_secs(10);
const PROBE_ANSWER: Duration = Duration::from_secs(5);
/// How long connecting may take at first. One that takes longer is given twice as much the next time, up to [`LONGEST_CONNECT`]: where
/// machines are overloaded, handshakes that are broken off and begun again would be the load that keeps them so.
const CONNECT: Duration = Duration::from_secs(1);
const LONGEST_CONNECT: Duration = Duration::from_secs(8);
/// How often members are looked after.
const TICK: Duration = Duration::from_millis(200);
/// A member in use that has said nothing for so long is asked.
const QUIET: Duration = Duration::from_millis(400);
/// The others are asked this often, which keeps their connections warm.
const IDLE: Duration = Duration::from_secs(3);
/// How long a member may take to say how it is; two misses in a row and it is given up. One that was slow lately and did answer may take
/// four times as long as it took, up to [`LONGEST_ANSWER`].
pub(super) const ANSWER: Duration = Duration::from_millis(400);
const LONGEST_ANSWER: Duration = Duration::from_secs(3);
const MISSES: u32 = 2;
/// A dead member is asked at each tick at first, later this often.
const LATER: Duration = Duration::from_secs(1);
const AT_FIRST: Duration = Duration::from_secs(10);
/// A member that was slow or has come back is not preferred for so long.
const SUSPECT: Duration = Duration::from_secs(1);

/// What has become of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// Another connection has taken its place; calls may end on it, streams should move.
    Replaced,
    /// It does not answer; nothing is to be waited for.
    Dead,
}

/// One connection to one member.
pub(super) struct Endpoint {
    url: String,
    pub(super) client: Client,
    life: watch::Sender<Life>,
    times: Mutex<Times>,
    /// The newest raft term it has told.
    term: AtomicU64,
}

struct Times {
    heard: Option<Instant>,
    asked: Instant,
    died: Option<Instant>,
    /// When it was last tried anew in vain.
    refused: Option<Instant>,
    reviving: bool,
    suspect_until: Option<Instant>,
    misses: u32,
    /// How long the next attempt to connect anew may take.
    connect: Duration,
    /// How long answers took lately: the longest, fading.
    took: Duration,
}

impl Endpoint {
    /// Makes the connection's handle; nothing is sent yet.
    async fn new(url: &str, options: &EtcdOptions, within: Duration) -> Result<Arc<Self>, StoreError> {
        let mut connect = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(within)
            .with_keep_alive(PROBE, PROBE_ANSWER)
            .with_keep_alive_while_idle(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = &options.tls {
            connect = connect.with_tls(tls.options());
        }
        let client =
            Client::connect([url], Some(connect)).await.map_err(|e| convert::error(&e, Call::Connect))?;
        let now = Instant::now();
        let times = Times {
            heard: None,
            asked: now,
            died: None,
            refused: None,
            reviving: false,
            suspect_until: None,
            misses: 0,
            connect: CONNECT,
            took: Duration::ZERO,
        };
        Ok(Arc::new(Self {
            url: url.to_owned(),
            client,
            life: watch::channel(Life::Alive).0,
            times: Mutex::new(times),
            term: AtomicU64::new(0),
        }))
    }

    /// Gives the user's name and password, for which a token is kept from then on.
    async fn log_in(&self, options: &EtcdOptions) -> Result<(), StoreError> {
        let Some(user) = options.user.clone() else { return Ok(()) };
        let mut client = self.client.clone();
        match timeout(options.deadline, client.update_user(Some(user))).await {
            Ok(done) => done.map_err(|e| convert::error(&e, Call::Connect)),
            Err(_) => Err(StoreError::deadline(options.deadline, false)),
        }
    }

    fn is_alive(&self) -> bool {
        *self.life.borrow() == Life::Alive
    }

    /// An answer has come.
    pub(super) fn heard(&self, term: u64) {
        let mut times = self.times.lock();
        times.heard = Some(Instant::now());
        times.misses = 0;
        self.term.fetch_max(term, Ordering::Relaxed);
    }

    pub(super) fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// Whether it has answered so lately that it need not be asked how it is.
    pub(super) fn is_fresh(&self) -> bool {
        self.times.lock().heard.is_some_and(|heard| heard.elapsed() < QUIET + TICK)
    }

    /// It was slow once: others come first for a while.
    pub(super) fn suspect(&self) {
        self.times.lock().suspect_until = Some(Instant::now() + SUSPECT);
    }

    fn is_suspect(&self) -> bool {
        self.times.lock().suspect_until.is_some_and(|until| Instant::now() < until)
    }

    /// It does not answer: whoever waits for it hears so.
    pub(super) fn bury(&self, why: &dyn std::fmt::Display) {
        let died = self.life.send_if_modified(|life| {
            let first = *life == Life::Alive;
            *life = Life::Dead;
            first
        });
        if died {
            self.times.lock().died = Some(Instant::now());
            tracing::info!(endpoint = self.url, reason = %why, "etcd's member does not answer");
        }
    }

    fn replace(&self) {
        self.life.send_if_modified(|life| {
            *life == Life::Alive && {
                *life = Life::Replaced;
                true
            }
        });
    }

    /// Completes when the member is given up.
    pub(super) async fn died(&self) {
        let _ = self.life.subscribe().wait_for(|life| *life == Life::Dead).await;
    }

    /// Completes when the endpoint is no longer the one to use.
    pub(super) async fn ended(&self) {
        let _ = self.life.subscribe().wait_for(|life| *life != Life::Alive).await;
    }

    /// Asks how it is. Fine is a member with a vote that knows a leader.
    pub(super) async fn ask(&self, within: Duration) -> Result<StatusResponse, StoreError> {
        self.times.lock().asked = Instant::now();
        let began = Instant::now();
        let mut client = self.client.clone();
        let status = match timeout(within, client.status()).await {
            Ok(Ok(status)) => status,
            Ok(Err(e)) => return Err(convert::error(&e, Call::Read)),
            Err(_) => return Err(StoreError::deadline(within, false)),
        };
        if status.leader() == 0 {
            return Err(StoreError::unavailable("etcd's member knows no leader"));
        }
        if status.is_learner() {
            return Err(StoreError::unavailable("etcd's member has no vote yet"));
        }
        self.heard(status.raft_term());
        let mut times = self.times.lock();
        times.took = began.elapsed().max(times.took * 7 / 8);
        drop(times);
        Ok(status)
    }

    /// How long it may take to say how it is.
    pub(super) fn patience(&self) -> Duration {
        (self.times.lock().took * 4).clamp(ANSWER, LONGEST_ANSWER)
    }

    /// Whether a dead member is to be tried anew now, which is then under way.
    fn begin_reviving(&self) -> bool {
        let mut times = self.times.lock();
        let dead_for = times.died.map_or(Duration::ZERO, |died| died.elapsed());
        let due = !times.reviving && (dead_for < AT_FIRST || times.asked.elapsed() >= LATER);
        if due {
            times.reviving = true;
            times.asked = Instant::now();
        }
        due
    }

    /// What is due for a member that is alive.
    async fn look(self: Arc<Self>) {
        let in_use = Arc::strong_count(&self) > 2;
        let quiet = {
            let times = self.times.lock();
            let last = times.heard.map_or(times.asked, |heard| heard.max(times.asked));
            last.elapsed()
        };
        if quiet < if in_use { QUIET } else { IDLE } {
            return;
        }
        match self.ask(self.patience()).await {
            Ok(_) => {}
            // It does not say how it is, but it answers.
            Err(StoreError::Broken { .. }) => self.heard(0),
            Err(error) => {
                let misses = {
                    let mut times = self.times.lock();
                    times.misses = times.misses.saturating_add(1);
                    times.suspect_until = Some(Instant::now() + SUSPECT);
                    times.misses
                };
                if misses >= MISSES {
                    self.bury(&error);
                }
            }
        }
    }
}

/// All members, as far as they are known.
pub(super) struct Pool {
    pub(super) options: RwLock<EtcdOptions>,
    slots: RwLock<Vec<Arc<Endpoint>>>,
    /// Counts attempts to revive members.
    rounds: watch::Sender<u64>,
    wake: Arc<Notify>,
    last_error: Mutex<Option<StoreError>>,
}

impl Pool {
    /// Prepares the connections and looks after them for as long as the pool is held. Nobody need answer yet, unless there is a user.
    pub(super) async fn open(options: EtcdOptions) -> Result<Arc<Self>, StoreError> {
        let slots = endpoints(&options).await?;
        let pool = Arc::new(Self {
            options: RwLock::new(options),
            slots: RwLock::new(slots),
            rounds: watch::channel(0).0,
            wake: Arc::new(Notify::new()),
            last_error: Mutex::new(None),
        });
        tokio::spawn(look_after(Arc::downgrade(&pool)));
        Ok(pool)
    }

    /// Uses other options from now on: every connection is made anew, under way calls end on the old ones.
    pub(super) async fn renew(&self, options: EtcdOptions) -> Result<(), StoreError> {
        let slots = endpoints(&options).await?;
        *self.options.write() = options;
        let old = std::mem::replace(&mut *self.slots.write(), slots);
        old.iter().for_each(|endpoint| endpoint.replace());
        Ok(())
    }

    /// Uses these members from now on; connections to those that stay are kept.
    pub(super) async fn set_urls(&self, urls: Vec<String>) -> Result<(), StoreError> {
        let options = EtcdOptions { endpoints: urls, ..self.options.read().clone() };
        let old = self.slots.read().clone();
        let mut slots = Vec::new();
        for url in &options.endpoints {
            match old.iter().find(|endpoint| endpoint.url == *url) {
                Some(kept) => slots.push(Arc::clone(kept)),
                None => {
                    let endpoint = Endpoint::new(url, &options, CONNECT).await?;
                    if let Err(error) = endpoint.log_in(&options).await {
                        endpoint.bury(&error);
                    }
                    slots.push(endpoint);
                }
            }
        }
        let gone = old.iter().filter(|endpoint| !options.endpoints.contains(&endpoint.url));
        gone.for_each(|endpoint| endpoint.replace());
        *self.slots.write() = slots;
        *self.options.write() = options;
        self.wake.notify_one();
        Ok(())
    }

    /// The members to use, best first: those that answer, in the list's order; lately slow ones after the others.
    pub(super) fn order(&self) -> Vec<Arc<Endpoint>> {
        let slots = self.slots.read();
        let alive = slots.iter().filter(|endpoint| endpoint.is_alive());
        let (suspect, good): (Vec<_>, Vec<_>) = alive.cloned().partition(|endpoint| endpoint.is_suspect());
        good.into_iter().chain(suspect).collect()
    }

    /// Waits until some member answers. When all have been tried anew in vain, the last reason is the error.
    pub(super) async fn someone(&self, until: Instant) -> Result<(), StoreError> {
        let began = Instant::now();
        let mut rounds = self.rounds.subscribe();
        while self.order().is_empty() {
            if self.slots.read().is_empty() {
                return Err(StoreError::unavailable("no member of etcd is known yet"));
            }
            let tried = |endpoint: &Arc<Endpoint>| endpoint.times.lock().refused.is_some_and(|at| at > began);
            let in_vain = self.slots.read().iter().all(tried);
            self.wake.notify_one();
            if in_vain || timeout_at(until, rounds.changed()).await.is_err() {
                let reason = self.last_error.lock().clone();
                return Err(reason.unwrap_or_else(|| StoreError::unavailable("no member of etcd answers")));
            }
        }
        Ok(())
    }

    /// A call to `endpoint` failed in a way that says that another one should be tried.
    pub(super) fn failed(&self, endpoint: &Endpoint, error: &StoreError) {
        *self.last_error.lock() = Some(error.clone());
        endpoint.bury(error);
        self.wake.notify_one();
    }

    /// One round of looking after the members. Dead ones take their own time.
    async fn look(self: &Arc<Self>) {
        let (alive, dead): (Vec<_>, Vec<_>) =
            self.slots.read().iter().cloned().partition(|endpoint| endpoint.is_alive());
        for endpoint in dead.into_iter().filter(|endpoint| endpoint.begin_reviving()) {
            let pool = Arc::clone(self);
            tokio::spawn(async move {
                pool.revive(&endpoint).await;
                endpoint.times.lock().reviving = false;
                pool.rounds.send_modify(|round| *round = round.wrapping_add(1));
            });
        }
        join_all(alive.into_iter().map(Endpoint::look)).await;
    }

    /// Tries a new connection to a dead member, and puts it in the old one's place if it answers.
    async fn revive(&self, dead: &Arc<Endpoint>) {
        let options = self.options.read().clone();
        let within = dead.times.lock().connect;
        let revived = async {
            let endpoint = Endpoint::new(&dead.url, &options, within).await?;
            endpoint.log_in(&EtcdOptions { deadline: within, ..options }).await?;
            match endpoint.ask(within).await {
                // A user may not ask how etcd is, and is answered all the same.
                Ok(_) | Err(StoreError::Broken { .. }) => Ok(endpoint),
                Err(error) => Err(error),
            }
        };
        match revived.await {
            Ok(endpoint) => {
                endpoint.suspect();
                let mut slots = self.slots.write();
                if let Some(slot) = slots.iter_mut().find(|slot| Arc::ptr_eq(slot, dead)) {
                    tracing::info!(endpoint = dead.url, "etcd's member answers again");
                    *slot = endpoint;
                }
            }
            Err(error) => {
                *self.last_error.lock() = Some(error);
                let mut times = dead.times.lock();
                times.refused = Some(Instant::now());
                if times.asked.elapsed() >= within {
                    times.connect = (within * 2).min(LONGEST_CONNECT);
                }
            }
        }
    }
}

/// A connection to each member. With a user, one at least must have let it in.
async fn endpoints(options: &EtcdOptions) -> Result<Vec<Arc<Endpoint>>, StoreError> {
    let mut made = Vec::new();
    for url in &options.endpoints {
        made.push(Endpoint::new(url, options, CONNECT).await?);
    }
    let entered = join_all(made.iter().map(|endpoint| endpoint.log_in(options))).await;
    let mut refused = None;
    for (endpoint, entered) in made.iter().zip(entered) {
        if let Err(error) = entered {
            endpoint.bury(&error);
            refused = Some(error);
        }
    }
    match refused {
        Some(error) if made.iter().all(|endpoint| !endpoint.is_alive()) => Err(error),
        _ => Ok(made),
    }
}

async fn look_after(pool: std::sync::Weak<Pool>) {
    loop {
        // The pool is not held while nothing is done: it ends with its last user.
        let Some(wake) = pool.upgrade().map(|pool| Arc::clone(&pool.wake)) else { return };
        if timeout(TICK, wake.notified()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let Some(pool) = pool.upgrade() else { return };
        pool.look().await;
    }
}
