//! Carries the core's effects out. One task owns the core; one makes writes durable and lets go what waited for them;
//! one talks to the master. When the store fails for good the core is thrown away and read back from the store.

mod caller;
pub mod events;
mod lead;
mod loads;
mod once;
mod persist;
mod quotas;
mod readiness;
mod room;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plenum_api::mesos::{self, FrameworkInfo, framework_info};
use plenum_api::{Millis, Now};
use plenum_base::clock::{OsClock, OsIds};
use plenum_base::leading::Leading;
use plenum_base::memory::{self, AfterBursts};
use plenum_base::retry::Backoff;
use plenum_base::service::Shutdown;
use plenum_sdk::Client;
use plenum_sdk::operator::Operator;
use plenum_sdk::scheduler::{self, Events, Happening, Options, Scheduler};
use plenum_store::{Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::core::dry;
use crate::core::error::ApiError;
use crate::core::once::Once;
use crate::core::readiness::Probe;
use crate::core::records::Unreadable;
use crate::core::requests::{Kind, Reply, Request};
use crate::core::scaling::Measure;
use crate::core::{Core, Effect, Event, Settings, Snapshot, Write};
use crate::wire;

use events::Streams;
use room::Room;

pub use lead::{Lead, Phase, contend};
pub use persist::LoadError;

/// How long a request may wait for its answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long nodes have to say what they have, when somebody asks what a change would do.
const LOOK: Duration = Duration::from_secs(1);
/// Between looks whether they did.
const SOON: Duration = Duration::from_millis(50);
/// An answer is with its client after so long.
const ANSWERED: Duration = Duration::from_millis(100);
/// A life of the core that lasted so long was no failure to start.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// Of so many events the core takes in, one counts as work that is worth looking for memory to give back.
const NOTED: u64 = 64;

/// Where the scheduler is and who it is.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Masters, `http(s)://host:port`.
    pub masters: Vec<String>,
    /// Follows who leads, in a fleet.
    pub leading: Option<Leading>,
    /// How they are called.
    pub client: Client,
    /// How agents are called, which are asked what instances use.
    pub agents: Client,
    /// The framework: name, user, failover timeout, addresses. Roles and id are filled in.
    pub framework: FrameworkInfo,
    /// The core's settings.
    pub settings: Settings,
    /// The encoding of calls.
    pub encoding: plenum_sdk::Encoding,
}

impl Setup {
    /// A framework named `marathon`, as DNS names and virtual addresses expect.
    pub fn new(masters: Vec<String>, client: Client) -> Self {
        use framework_info::capability::Type;
        let kinds = [
            Type::TaskKillingState,
            Type::GpuResources,
            Type::PartitionAware,
            Type::MultiRole,
            Type::ReservationRefinement,
            Type::RegionAware,
        ];
        let framework = FrameworkInfo {
            user: "root".to_owned(),
            name: "marathon".to_owned(),
            failover_timeout: Some(604_800.0),
            checkpoint: Some(true),
            capabilities: kinds
                .iter()
                .map(|k| framework_info::Capability { r#type: Some((*k).into()) })
                .collect(),
            ..Default::default()
        };
        let encoding = plenum_sdk::Encoding::Protobuf;
        Self {
            masters,
            leading: None,
            agents: client.clone(),
            client,
            framework,
            settings: Settings::default(),
            encoding,
        }
    }
}

/// Why the scheduler cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store's content cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The store does not let anybody lead.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else leads.
    #[error("the leadership is lost: this process has to be started again")]
    Deposed,
    /// Somebody asked this process to give the leadership up.
    #[error("the leadership was given up: this process has to be started again")]
    Abdicated,
    /// A record cannot be understood.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// Above so many apps and pods, reading is done where it may block.
const MANY: usize = 500;

enum Message {
    Write { request: Box<Request>, answer: oneshot::Sender<Reply> },
    Look(oneshot::Sender<Snapshot>),
    Abdicate,
}

/// Asks the scheduler. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Handle {
    to: mpsc::Sender<Message>,
    events: Streams,
    tokens: Arc<AtomicU64>,
    room: Room,
    keys: once::Keys,
}

/// How a change is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Replace deployments that are in the way.
    pub force: bool,
    /// The path it came by.
    pub uri: String,
    /// The client's address.
    pub client: String,
    /// Its idempotency key.
    pub once: Option<Once>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Write { .. } => "Write",
            Self::Look(_) => "Look",
            Self::Abdicate => "Abdicate",
        })
    }
}

impl Handle {
    /// Asks for a change; the answer comes when it is durable. With a key, a change that was carried out before is only answered.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] when the scheduler cannot answer now; [`ApiError::KeyReused`], [`ApiError::Conflict`] about the key.
    pub async fn change(&self, kind: Kind, asked: Asked) -> Result<Reply, ApiError> {
        let gone = || self.room.refusal();
        let this = self.clone();
        let work = async move {
            let Some(once) = asked.once.clone() else { return this.carry_out(kind, asked).await };
            let _turn = this.keys.turn(&once).await?;
            match once::before(this.room.store(), &once, OsClock.now()).await? {
                Some(reply) => Ok(reply),
                None => this.carry_out(kind, asked).await,
            }
        };
        // On a task of its own: a client that goes away must not free the key while the change is under way.
        let done = tokio::time::timeout(DEADLINE, tokio::spawn(work)).await;
        let reply = done.map_err(|_| gone())?.map_err(|_| gone())??;
        // Of what a deposed leader says nobody knows whether it is still so.
        if self.leads() { Ok(reply) } else { Err(gone()) }
    }

    async fn carry_out(&self, kind: Kind, asked: Asked) -> Result<Reply, ApiError> {
        self.room.check().await?;
        let gone = || self.room.refusal();
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let Asked { force, uri, client, once } = asked;
        let request = Box::new(Request { token, kind, force, uri, client, once });
        let (answer, answered) = oneshot::channel();
        self.to.send(Message::Write { request, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// Says what a change would do; nothing is changed.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] when the scheduler cannot answer now; those of the change itself.
    pub async fn plan(&self, kind: Kind, asked: Asked) -> Result<Reply, ApiError> {
        let since = OsClock.now().wall;
        let around = Asked::default();
        // Where nobody answers, what was offered before counts.
        let _ = tokio::time::timeout(LOOK, self.carry_out(Kind::LookAround, around)).await;
        let mut state = self.look().await?;
        let until = Instant::now() + LOOK;
        while !dry::seen_since(&state, since) && state.is_connected() && Instant::now() < until {
            tokio::time::sleep(SOON).await;
            state = self.look().await?;
        }
        // The others follow at once.
        tokio::time::sleep(SOON).await;
        let state = self.look().await?;
        let Asked { force, uri, client, .. } = asked;
        let request = Request { token: 0, kind, force, uri, client, once: None };
        let work = move || dry::run(state, &request, since, OsClock.now(), &mut OsIds);
        tokio::task::spawn_blocking(work).await.map_err(|_| self.room.refusal())?
    }

    /// Whether this process still decides.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.room.lead().holds()
    }

    /// Looks at the state.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] when the scheduler cannot answer now.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Snapshot, Now) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let state = self.look().await?;
        let now = OsClock.now();
        if state.apps.len() < MANY {
            return Ok(look(&state, now));
        }
        let work = tokio::task::spawn_blocking(move || look(&state, now));
        work.await.map_err(|_| self.room.refusal())
    }

    /// The state as it is now, to be read for as long as it takes.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] when the scheduler cannot answer now.
    pub async fn look(&self) -> Result<Snapshot, ApiError> {
        let gone = || self.room.refusal();
        let (answer, answered) = oneshot::channel();
        let ask = async {
            self.to.send(Message::Look(answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())
        };
        tokio::time::timeout(DEADLINE, ask).await.map_err(|_| gone())?
    }

    /// Has this process give the leadership up, once whoever asked for that has had an answer. What was decided before is carried out.
    pub fn abdicate(&self) {
        let to = self.to.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ANSWERED).await;
            // It may be over already.
            let _ = to.send(Message::Abdicate).await;
        });
    }

    /// The events and those who listen.
    #[must_use]
    pub fn events(&self) -> &Streams {
        &self.events
    }
}

/// The scheduler, to be run.
#[derive(Debug)]
pub struct Engine {
    setup: Setup,
    room: Room,
    store: Arc<dyn Store>,
    from: mpsc::Receiver<Message>,
    events: Streams,
}

/// A scheduler on `store` and the handle to ask it.
pub fn engine(setup: Setup, store: Arc<dyn Store>) -> (Handle, Engine) {
    engine_led(setup, store, Lead::alone())
}

/// The same where several could decide, and this one does by `lead`.
pub fn engine_led(setup: Setup, store: Arc<dyn Store>, lead: Lead) -> (Handle, Engine) {
    let (to, from) = mpsc::channel(1024);
    let events = Streams::new(lead.number());
    let room = Room::new(Arc::clone(&store), lead);
    let keys = once::Keys::default();
    let handle = Handle { to, events: events.clone(), tokens: Arc::default(), room: room.clone(), keys };
    (handle, Engine { setup, room, store, from, events })
}

struct Ending(Streams);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Why a life of the core ended.
enum End {
    Shutdown,
    /// The store failed; read it anew.
    Store(StoreError),
    /// The master will not have this framework any more.
    Refused(String),
    /// The right to decide is over.
    Deposed,
    /// It was given up.
    Abdicated,
}

impl Engine {
    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// [`EngineError`] when the store's content cannot be used at the start, or somebody else leads. Later failures are waited out.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), EngineError> {
        let pruning = once::prune(self.room.clone(), Arc::clone(&self.store));
        let (events, lead) = (self.events.clone(), self.room.lead().clone());
        // Also when this is dropped: a stream of events that says nothing any more must not look like one where nothing happens.
        let _ending = Ending(events.clone());
        tokio::select! {
            ended = self.lives(shutdown) => ended,
            () = pruning => Ok(()),
            () = events.pump(&lead) => Err(EngineError::Deposed),
        }
    }

    async fn lives(mut self, shutdown: Shutdown) -> Result<(), EngineError> {
        // Readers wait meanwhile, so it stays short.
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        let mut first = true;
        loop {
            let began = Instant::now();
            let core = match self.load().await {
                Ok(core) => core,
                Err(error) if first => return Err(error),
                Err(error) => {
                    tracing::error!(%error, "the store cannot be read; trying again");
                    if !shutdown.sleep(backoff.delay()).await {
                        return Ok(());
                    }
                    continue;
                }
            };
            if !std::mem::take(&mut first) {
                // What the last life decided and did not carry out, nobody was told of.
                self.events.cut();
            }
            match self.live(core, &shutdown).await {
                End::Shutdown => return Ok(()),
                End::Deposed => return Err(EngineError::Deposed),
                End::Abdicated => return Err(EngineError::Abdicated),
                End::Store(error) if self.room.lead().is_over(&error) => return Err(EngineError::Deposed),
                End::Store(error) => tracing::error!(%error, "the store failed; reading it anew"),
                End::Refused(reason) => {
                    tracing::warn!(%reason, "the master refused the framework; registering anew");
                    if reason.contains("removed") || reason.contains("completed") {
                        let forget = vec![vec![Write::Delete("framework".to_owned())]];
                        if let Err(error) = persist::commit(&self.room, forget, false).await {
                            tracing::error!(%error, "the framework's id could not be forgotten");
                        }
                    }
                }
            }
            if began.elapsed() > LONG_LIFE {
                backoff.reset();
            }
            if !shutdown.sleep(backoff.delay()).await {
                return Ok(());
            }
        }
    }

    async fn load(&self) -> Result<Core, EngineError> {
        let entries = persist::load(&self.room).await?;
        let core = Core::load(self.setup.settings.clone(), &entries, OsClock.now())?;
        drop(entries);
        // For a moment everything was there three times: as it is stored, as it is read, as it is kept. Failing means that the process ends.
        let _ = tokio::task::spawn_blocking(memory::give_back).await;
        Ok(core)
    }

    /// One life of the core.
    async fn live(&mut self, core: Core, shutdown: &Shutdown) -> End {
        let framework = self.framework(&core);
        let roles = framework.roles.clone();
        let mut options = Options::new(self.setup.masters.clone(), framework);
        options.encoding = self.setup.encoding;
        options.leading.clone_from(&self.setup.leading);
        let (scheduler, happenings) = scheduler::connect(self.setup.client.clone(), options);
        let (orders, orders_out) = mpsc::unbounded_channel();
        let (failed_in, failed) = mpsc::channel(1);
        let (effects, effects_out) = mpsc::unbounded_channel();
        let (broken_in, broken) = oneshot::channel();
        let caller =
            tokio::spawn(caller::run(scheduler.clone(), self.room.lead().clone(), orders_out, failed_in));
        let (room, events) = (self.room.clone(), self.events.clone());
        let (probes, probes_out) = mpsc::unbounded_channel();
        let (measures, measures_out) = mpsc::unbounded_channel();
        let ways = Ways { events, orders, probes, measures };
        let carrier = tokio::spawn(carry(room, ways, effects_out, broken_in));
        let (hungry, hungry_out) = watch::channel(false);
        let (learnt_in, learnt) = mpsc::channel(64);
        let operator = Operator::new(self.setup.client.clone(), self.setup.masters.clone());
        let operator = match &self.setup.leading {
            Some(leading) => operator.led_by(leading.clone()),
            None => operator,
        };
        let asking = tokio::spawn(quotas::follow(operator.clone(), hungry_out, learnt_in.clone()));
        let bursts = AfterBursts::default();
        // Ends with this life, however that ends.
        let mut resting = tokio::task::JoinSet::new();
        resting.spawn({
            let bursts = bursts.clone();
            async move { bursts.watch().await }
        });
        resting.spawn(readiness::ask(probes_out, learnt_in.clone()));
        resting.spawn(loads::measure(operator, self.setup.agents.clone(), measures_out, learnt_in));
        let life = Life {
            core,
            events: 0,
            bursts,
            hungry,
            learnt,
            effects,
            happenings,
            scheduler,
            failed,
            roles,
            framework: self.setup.framework.clone(),
            lead: self.room.lead().clone(),
        };
        let end = life.run(&mut self.from, broken, shutdown).await;
        drop(resting);
        asking.abort();
        // The carrier ends when its channel is drained, the caller with it: what was decided is still carried out.
        let _ = tokio::time::timeout(Duration::from_secs(5), async {
            let _ = carrier.await;
            let _ = caller.await;
        })
        .await;
        end
    }

    fn framework(&self, core: &Core) -> FrameworkInfo {
        FrameworkInfo {
            id: core.framework().map(Into::into),
            roles: core.roles().into_iter().collect(),
            ..self.setup.framework.clone()
        }
    }
}

/// What wakes the core.
enum What {
    Happened(Option<Happening>),
    CallFailed,
    Asked(Option<Message>),
    Learnt(Event),
    Tick,
}

/// What goes to the carrier, in order.
enum Parcel {
    Offers(Vec<mesos::Offer>),
    Forget,
    Effects(Vec<Effect>, Option<(u64, oneshot::Sender<Reply>)>),
}

struct Life {
    core: Core,
    /// Events that the core took in.
    events: u64,
    bursts: AfterBursts,
    hungry: watch::Sender<bool>,
    /// What was asked for beside the master's own stream.
    learnt: mpsc::Receiver<Event>,
    effects: mpsc::UnboundedSender<Parcel>,
    happenings: Events,
    scheduler: Scheduler,
    failed: mpsc::Receiver<()>,
    roles: Vec<String>,
    framework: FrameworkInfo,
    lead: Lead,
}

impl Life {
    async fn run(
        mut self,
        messages: &mut mpsc::Receiver<Message>,
        mut broken: oneshot::Receiver<StoreError>,
        shutdown: &Shutdown,
    ) -> End {
        loop {
            let tick = self.core.next_tick();
            // Each in its turn: after a restart the master says something of every task, and whoever asks meanwhile must not wait for the last.
            let what = tokio::select! {
                () = shutdown.wait() => return End::Shutdown,
                error = &mut broken => {
                    return error.map_or(End::Shutdown, End::Store);
                }
                happening = self.happenings.next() => What::Happened(happening),
                Some(()) = self.failed.recv() => What::CallFailed,
                message = messages.recv() => What::Asked(message),
                Some(event) = self.learnt.recv() => What::Learnt(event),
                () = until(tick) => What::Tick,
            };
            // This process may have been stopped for any time right before: nothing is decided on what it knows from then.
            if !self.lead.holds() {
                return End::Deposed;
            }
            if let Some(end) = self.take(what) {
                return end;
            }
        }
    }

    fn take(&mut self, what: What) -> Option<End> {
        match what {
            What::Happened(Some(Happening::Failed { reason })) => return Some(End::Refused(reason)),
            What::Happened(None) => return Some(End::Refused("the driver ended".to_owned())),
            What::Happened(Some(happening)) => self.happened(happening),
            What::CallFailed => self.feed(Event::CallFailed, None),
            What::Asked(None) => return Some(End::Shutdown),
            What::Asked(Some(Message::Abdicate)) => return Some(End::Abdicated),
            What::Asked(Some(Message::Look(answer))) => {
                // The asker may have gone away.
                let _ = answer.send(self.core.state().clone());
            }
            What::Asked(Some(Message::Write { request, answer })) => {
                let token = request.token;
                self.feed(Event::Request(request), Some((token, answer)));
                self.check_roles();
            }
            What::Learnt(event) => self.feed(event, None),
            What::Tick => self.feed(Event::Tick, None),
        }
        let hungry = self.core.is_hungry();
        self.hungry.send_if_modified(|known| std::mem::replace(known, hungry) != hungry);
        None
    }

    fn feed(&mut self, event: Event, answer: Option<(u64, oneshot::Sender<Reply>)>) {
        self.events = self.events.wrapping_add(1);
        if self.events.is_multiple_of(NOTED) {
            self.bursts.note();
        }
        let effects = self.core.handle(event, OsClock.now(), &mut OsIds);
        if !effects.is_empty() || answer.is_some() {
            // The carrier ends first only when the store broke, which the loop is told of.
            let _ = self.effects.send(Parcel::Effects(effects, answer));
        }
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Subscribed { framework_id, master } => {
                let _ = self.effects.send(Parcel::Forget);
                self.feed(Event::Subscribed { framework: framework_id.value, master }, None);
            }
            Happening::Disconnected { reason } => {
                tracing::warn!(%reason, "the master is gone");
                let _ = self.effects.send(Parcel::Forget);
                self.feed(Event::Disconnected, None);
            }
            Happening::Event(event) => {
                if let Some(offers) = event.offers {
                    let seen = offers.offers.iter().map(wire::offer).collect();
                    let _ = self.effects.send(Parcel::Offers(offers.offers));
                    self.feed(Event::Offers(seen), None);
                } else if let Some(rescind) = event.rescind {
                    self.feed(Event::Rescinded(rescind.offer_id.value), None);
                } else if let Some(message) = event.message {
                    let (executor, agent) = (message.executor_id.value, message.agent_id.value);
                    self.feed(Event::Message { executor, agent, data: message.data.into() }, None);
                } else if let Some(status) = event.update.and_then(|u| wire::status(&u.status)) {
                    self.feed(Event::Status(Box::new(status)), None);
                }
            }
            Happening::Failed { .. } => {}
        }
    }

    /// Offers come only for roles the master was told of.
    fn check_roles(&mut self) {
        let roles: Vec<String> = self.core.roles().into_iter().collect();
        if roles == self.roles {
            return;
        }
        self.roles.clone_from(&roles);
        let framework = FrameworkInfo { roles, ..self.framework.clone() };
        let scheduler = self.scheduler.clone();
        tokio::spawn(async move {
            if let Err(error) = scheduler.update_framework(framework).await {
                tracing::warn!(%error, "the master was not told of new roles; they count from the next subscription on");
            }
        });
    }
}

async fn until(tick: Option<Millis>) {
    match tick {
        None => std::future::pending().await,
        Some(at) => {
            let left = at.since(OsClock.now().mono);
            tokio::time::sleep(Duration::from_millis(left.0.max(1))).await;
        }
    }
}

/// Where effects go that are not written down.
struct Ways {
    events: Streams,
    orders: mpsc::UnboundedSender<caller::Order>,
    probes: mpsc::UnboundedSender<Probe>,
    measures: mpsc::UnboundedSender<Box<Measure>>,
}

/// Makes what must be durable durable, many parcels at once, then lets the rest go in order.
async fn carry(
    room: Room,
    ways: Ways,
    mut parcels: mpsc::UnboundedReceiver<Parcel>,
    broken: oneshot::Sender<StoreError>,
) {
    let mut answers: HashMap<u64, oneshot::Sender<Reply>> = HashMap::new();
    let mut some = Vec::new();
    while parcels.recv_many(&mut some, 256).await > 0 {
        let (mut commits, mut rest) = (Vec::new(), Vec::new());
        for parcel in some.drain(..) {
            match parcel {
                Parcel::Offers(offers) => rest.push(Err(caller::Order::Offers(offers))),
                Parcel::Forget => rest.push(Err(caller::Order::Forget)),
                Parcel::Effects(effects, answer) => {
                    answers.extend(answer);
                    for effect in effects {
                        match effect {
                            Effect::Commit(writes) => commits.push(writes),
                            other => rest.push(Ok(other)),
                        }
                    }
                }
            }
        }
        if let Err(error) = persist::commit(&room, commits, !answers.is_empty()).await {
            // Dropping the answers tells those who wait.
            let _ = broken.send(error);
            return;
        }
        for one in rest {
            let order = match one {
                Err(order) => order,
                Ok(Effect::Reply { token, reply }) => {
                    if let Some(answer) = answers.remove(&token) {
                        let _ = answer.send(reply);
                    }
                    continue;
                }
                Ok(Effect::Publish(notice)) => {
                    ways.events.publish(&notice);
                    continue;
                }
                Ok(Effect::Probe(probe)) => {
                    // Nobody asks any more: the life is over.
                    let _ = ways.probes.send(probe);
                    continue;
                }
                Ok(Effect::Measure(measure)) => {
                    let _ = ways.measures.send(measure);
                    continue;
                }
                Ok(effect) => caller::Order::Call(Box::new(effect)),
            };
            let _ = ways.orders.send(order);
        }
    }
}
