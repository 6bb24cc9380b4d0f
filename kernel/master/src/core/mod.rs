//! The master's decisions: a deterministic state machine.
//!
//! [`Master::handle`] takes one [`Event`] and returns what is to be done, [`Master::next_tick`] says when it wants to be woken. No socket, clock,
//! thread or log is touched here. Each concern is a file: it owns the events of that concern and the parts of the state they change.

mod accept;
mod agents;
mod away;
mod changes;
mod conversions;
mod event;
mod executors;
mod frameworks;
mod kill;
mod launch;
mod ledger;
mod life;
mod lookup;
mod metrics;
mod offers;
mod operations;
mod operator;
mod overlay;
mod publish;
mod reconcile;
mod recover;
mod registry;
mod rejoin;
mod settings;
mod slab;
mod state;
mod status;
mod subscribe;
mod teardown;
mod timers;
mod validate;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use plenum_api::{IdSource, Millis, Now};
use plenum_store::Op;

pub use changes::operation_of;
pub use event::{AgentIdentity, Answer, Caller, ConnId, Effect, Event, Peer, ReplyId, StreamId, Token};
pub use metrics::Metrics;
pub use registry::{
    AgentRecord, AgentState, Drain, FrameworkRecord, Life, QuotaRecord, RecordError, Records, RemovedRecord,
    WeightRecord,
};
pub use settings::Settings;
pub use slab::Snapshot;
pub use state::{Absence, Absent, Agent, Framework, Offer, Task, is_terminal};
pub use view::{FrameworkView, Share, State, Totals};

use agents::Connection;
use slab::Slab;
use state::{AgentKey, FrameworkKey};
use timers::{Timer, Timers};

/// The state machine. One task owns it.
#[derive(Debug)]
pub struct Master {
    settings: Arc<Settings>,
    /// This start's own id; prefix of the ids it gives out.
    id: Arc<str>,
    started: Millis,
    term: u64,
    ledger: ledger::Ledger,
    agents: Slab<Agent>,
    agent_keys: HashMap<Arc<str>, AgentKey>,
    connections: BTreeMap<ConnId, Connection>,
    absent: Arc<BTreeMap<Arc<str>, Absent>>,
    /// What operators want of agents, where it is not the usual: stored, or being stored. Agents' records show it once it is stored.
    lives: BTreeMap<Arc<str>, Life>,
    /// Agents whose end is being stored.
    dooming: BTreeSet<Arc<str>>,
    /// Draining agents of which something ended in this turn.
    emptied: BTreeSet<AgentKey>,
    /// Agents in `absent` that may still come back from before the start.
    recovering: usize,
    frameworks: BTreeMap<FrameworkKey, Framework>,
    framework_keys: HashMap<Arc<str>, FrameworkKey>,
    streams: HashMap<StreamId, FrameworkKey>,
    next_framework: FrameworkKey,
    /// Dead ids with the time of day they died.
    removed: BTreeMap<Arc<str>, Millis>,
    completed: VecDeque<Arc<FrameworkView>>,
    tasks: Slab<Task>,
    offers: Slab<Offer>,
    offer_keys: HashMap<u64, u32>,
    weights: BTreeMap<String, f64>,
    quotas: BTreeMap<String, plenum_api::quota::QuotaConfig>,
    timers: Timers,
    /// When the next allocation is due, if one is.
    allocate_at: Option<Millis>,
    allocated_at: Millis,
    overlay: overlay::Overlay,
    /// When changes of the overlay are told.
    overlay_at: Option<Millis>,
    pending: HashMap<Token, Pending>,
    next: Numbers,
    metrics: Metrics,
    watched: bool,
    generation: u64,
    shown: Option<Arc<State>>,
}

/// Counters behind the ids this master gives out.
#[derive(Debug, Default)]
struct Numbers {
    agent: u64,
    framework: u64,
    offer: u64,
    token: u64,
    ping: u64,
}

/// What waits for a change of the store.
#[derive(Debug)]
enum Pending {
    /// An agent is admitted or back.
    Admit(Box<rejoin::Admission>),
    /// An agent is unreachable.
    Unreachable(Arc<str>),
    /// An agent is given up.
    Gone(Option<ReplyId>, Arc<str>),
    /// What an operator wants of an agent.
    Life(Option<ReplyId>, Box<life::Wish>),
    /// A framework's description.
    Subscribe(FrameworkKey, Box<frameworks::Subscription>),
    /// A framework's changed description, by UPDATE_FRAMEWORK.
    Update(ReplyId, FrameworkKey, Box<frameworks::Change>),
    /// A framework is removed.
    Teardown(Vec<ReplyId>, FrameworkKey, String),
    /// Weights.
    Weights(ReplyId, Vec<(String, f64)>),
    /// Quotas.
    Quotas(ReplyId, Vec<plenum_api::quota::QuotaConfig>),
    /// Nobody waits.
    Tidy,
}

/// What one event is handled with.
pub(crate) struct Turn<'a> {
    now: Now,
    ids: &'a mut dyn IdSource,
    out: Vec<Effect>,
}

impl Turn<'_> {
    fn reply(&mut self, reply: ReplyId, answer: Answer) {
        self.out.push(Effect::Reply { reply, answer });
    }

    fn log(&mut self, message: String) {
        self.out.push(Effect::Log { warn: false, message });
    }

    fn warn(&mut self, message: String) {
        self.out.push(Effect::Log { warn: true, message });
    }
}

/// Checks a scheduler call by itself, and that the caller does not claim another's name; what is wrong is a sentence.
///
/// # Errors
/// The sentence.
pub fn check_call(call: &plenum_api::scheduler::Call, caller: &Caller) -> Result<(), String> {
    validate::call(call, caller)
}

/// The roles a framework takes resources for.
pub fn roles_of(info: &plenum_api::mesos::FrameworkInfo) -> Vec<String> {
    frameworks::roles(info)
}

impl Master {
    /// Takes in one event. The effects are to be carried out in order.
    pub fn handle(&mut self, event: Event, now: Now, ids: &mut dyn IdSource) -> Vec<Effect> {
        let mut turn = Turn { now, ids, out: Vec::new() };
        let t = &mut turn;
        match event {
            Event::AgentConnected { conn, peer } => self.agent_connected(t, conn, peer),
            Event::AgentMessage { conn, message } => self.agent_message(t, conn, *message),
            Event::AgentDisconnected { conn } => self.agent_disconnected(t, conn),
            Event::Subscribe { stream, stream_id, call, caller } => {
                self.subscribe(t, state::Stream { id: stream, header: stream_id }, *call, &caller);
            }
            Event::Call { reply, stream_id, call, caller } => {
                self.scheduler_call(t, reply, stream_id.as_deref(), *call, &caller)
            }
            Event::StreamClosed { stream } => self.stream_closed(t, stream),
            Event::Operator { reply, call, caller } => self.operator_call(t, reply, *call, &caller),
            Event::Committed { token, result } => self.committed(t, token, result),
            Event::Tick => {}
        }
        self.tick(t);
        self.look_at_emptied(t);
        self.note_sent(t);
        turn.out
    }

    /// The next `mono` at which `Event::Tick` is wanted.
    pub fn next_tick(&self) -> Option<Millis> {
        self.timers.next()
    }

    /// The term of the leadership under which this master decides; part of every frame to an agent.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// This start's own id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Whether anyone listens to [`Effect::Publish`]; events are not built for nobody.
    pub fn set_watched(&mut self, watched: bool) {
        if watched && !self.watched {
            // Whoever listens first has just been shown all of them.
            for framework in self.frameworks.values_mut().filter(|framework| framework.stored) {
                framework.announced = true;
            }
        }
        self.watched = watched;
    }

    fn tick(&mut self, t: &mut Turn<'_>) {
        while let Some((at, timer)) = self.timers.due(t.now.mono) {
            match timer {
                Timer::Allocate => self.allocation_due(t, at),
                Timer::Heartbeat(framework) => self.heartbeat_due(t, framework, at),
                Timer::Failover(framework) => self.failover_due(t, framework, at),
                Timer::Ping(agent) => self.ping_due(t, agent, at),
                Timer::Away(agent) => self.away_due(t, agent, at),
                Timer::Recovered => self.recovery_due(t),
                Timer::Offer(offer) => self.offer_due(t, offer),
                Timer::Drain(agent) => drop(self.emptied.insert(agent)),
                Timer::Overlay => self.overlay_due(t),
            }
        }
    }

    /// Asks for a change of the store.
    fn commit(&mut self, t: &mut Turn<'_>, ops: Vec<Op>, pending: Pending) {
        self.next.token += 1;
        let token = Token(self.next.token);
        self.pending.insert(token, pending);
        t.out.push(Effect::Commit { token, ops });
    }

    fn committed(&mut self, t: &mut Turn<'_>, token: Token, result: Result<(), String>) {
        let Some(pending) = self.pending.remove(&token) else { return };
        match pending {
            Pending::Admit(admission) => self.admit_committed(t, *admission, result),
            Pending::Unreachable(id) => self.unreachable_committed(t, &id, result),
            Pending::Life(reply, wish) => self.life_committed(t, reply, *wish, result),
            Pending::Gone(reply, id) => self.gone_committed(t, reply, &id, result),
            Pending::Subscribe(framework, subscription) => {
                self.subscribe_committed(t, framework, *subscription, result)
            }
            Pending::Update(reply, framework, change) => {
                self.update_committed(t, reply, framework, *change, result)
            }
            Pending::Teardown(replies, framework, principal) => {
                self.teardown_committed(t, &replies, framework, &principal, result)
            }
            Pending::Weights(reply, weights) => self.weights_committed(t, reply, weights, result),
            Pending::Quotas(reply, quotas) => self.quotas_committed(t, reply, quotas, result),
            Pending::Tidy => {
                if let Err(reason) = result {
                    t.warn(format!("a record that is no longer needed could not be deleted: {reason}"));
                }
            }
        }
    }

    /// Something that readers see has changed.
    fn touch(&mut self) {
        self.generation += 1;
        self.shown = None;
    }
}
