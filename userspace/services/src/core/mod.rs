//! The scheduler's decisions: a deterministic machine. Events go in, effects come out in the order in which they are
//! to be carried out: **whatever stands after a [`Effect::Commit`] waits until that commit is durable.** So an
//! instance is written down before it is launched, an intent before it is answered, an end before it is
//! acknowledged. A commit that fails ends the machine; its owner starts another one from the store.
//!
//! Reading order: [`app`], [`instance`], [`matching`] (nouns), [`requests`] (what people want), [`deployment`],
//! [`planner`] (what is done about it), [`status`] (what happened), [`view`] (what people read); then [`kept`] and [`wipe`] (volumes),
//! [`scaling`] (how many instances there should be), [`ended`] and [`adopt`] (what is no more, and what nobody knew of).

pub mod adopt;
pub mod app;
mod batch;
pub mod blocker;
pub mod bugs;
mod census;
pub mod condition;
pub mod constraint;
pub mod definition;
pub mod deployment;
pub mod dry;
pub mod ended;
pub mod error;
pub mod group;
pub mod group_requests;
mod health;
pub mod history;
pub mod id;
pub mod instance;
mod intake;
pub mod kept;
pub mod matching;
mod modern;
mod normal;
pub(crate) mod notices;
mod offers;
pub mod once;
mod order;
mod pins;
mod placement;
mod planner;
pub mod pod;
pub mod pod_intake;
pub mod pod_requests;
pub mod quota;
pub mod readiness;
pub mod records;
pub mod requests;
pub mod ring;
pub mod scale;
pub mod scaling;
pub mod schema;
pub mod shared;
mod status;
mod submit;
pub mod time;
mod tree;
pub mod update;
pub mod validate;
pub mod view;
pub mod volume;
pub mod wipe;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;
use plenum_api::{IdSource, Millis, Now};
use serde_json::Value;

use constraint::Location;
use definition::Definition;
use deployment::Deployment;
use id::{InstanceId, PathId};
use instance::{Instance, Record, Status};
use matching::{Offer, Rejection, Take, Wish};
use pins::Pins;
use shared::{Shared, Touch};

/// What the machine is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The role of apps that name none.
    pub default_role: String,
    /// Roles of resources that apps take which name none; empty: unreserved ones and those of the app's own role.
    pub default_accepted_roles: Vec<String>,
    /// Service ports that are given out.
    pub service_ports: (u16, u16),
    /// How long offers are kept for an app whose delay is about to end.
    pub hold: Millis,
    /// How long a node's unsuitable resources are refused while something waits.
    pub refuse: Millis,
    /// Versions kept of each app.
    pub versions: usize,
    /// Ends that are remembered of each app, of those asked for and of the others.
    pub ended_each: usize,
    /// Ends that are remembered of all apps.
    pub ended_most: usize,
    /// How long they are.
    pub ended_for: Millis,
    /// Whether groups that lie in the root enforce their role where they do not say.
    pub new_groups_enforce: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_role: "*".to_owned(),
            default_accepted_roles: Vec::new(),
            service_ports: (10_000, 20_000),
            hold: Millis::from_secs(5),
            refuse: Millis::from_secs(30),
            versions: 25,
            ended_each: 10,
            ended_most: 20_000,
            ended_for: Millis::from_secs(7 * 24 * 3600),
            new_groups_enforce: false,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The master took us in.
    Subscribed {
        /// Our id.
        framework: String,
        /// The master's address.
        master: String,
    },
    /// The master is gone; offers with it.
    Disconnected,
    /// Resources.
    Offers(Vec<Offer>),
    /// An offer is no more.
    Rescinded(String),
    /// Something happened to a task.
    Status(Box<Status>),
    /// Somebody wants something.
    Request(Box<requests::Request>),
    /// What the master holds roles to, where that is something else than before.
    Quotas(quota::Quotas),
    /// An instance was asked whether it is ready.
    Probed(Box<readiness::Probed>),
    /// Instances were measured.
    Measured(Box<scaling::Measured>),
    /// An executor sent something.
    Message {
        /// Which.
        executor: String,
        /// Its node.
        agent: String,
        /// What.
        data: Vec<u8>,
    },
    /// A call did not reach the master: what it asked for may not happen.
    CallFailed,
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Make these writes durable, all of them or none. What follows waits.
    Commit(Vec<Write>),
    /// Launch on an offer.
    Accept {
        /// The offer.
        offer: String,
        /// What is launched on it.
        launches: Vec<Launch>,
        /// Volumes that are destroyed, and reservations that are taken off.
        frees: Vec<wipe::Free>,
        /// How long what is left is refused.
        refuse: Millis,
    },
    /// Give offers back.
    Decline {
        /// The offers.
        offers: Vec<String>,
        /// How long the like are refused.
        refuse: Millis,
    },
    /// Ask a task to end.
    Kill {
        /// The task.
        task: String,
        /// Its node.
        agent: Option<String>,
        /// Until it is forced.
        grace: Option<Millis>,
    },
    /// Acknowledge a status update.
    Acknowledge {
        /// The task.
        task: String,
        /// Its node.
        agent: String,
        /// The update.
        uuid: Vec<u8>,
    },
    /// Ask for the state of these tasks and their nodes; of all, if there are none.
    Reconcile(Vec<(String, Option<String>)>),
    /// Ask for offers, forgetting refusals.
    Revive,
    /// Ask for no offers.
    Suppress,
    /// Answer a request.
    Reply {
        /// Which.
        token: u64,
        /// With what.
        reply: requests::Reply,
    },
    /// Tell those who listen.
    Publish(Notice),
    /// Ask an instance whether it is ready; [`Event::Probed`] is the answer.
    Probe(readiness::Probe),
    /// Measure instances; [`Event::Measured`] is the answer.
    Measure(Box<scaling::Measure>),
}

/// One change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Write an entry.
    Put(String, Vec<u8>),
    /// Remove it.
    Delete(String),
}

/// An instance to launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What was written down.
    pub record: Record,
    /// The definition.
    pub definition: Arc<Definition>,
    /// What it takes of the offer.
    pub takes: Vec<Take>,
    /// Images by digest, by container, where they are known.
    pub images: BTreeMap<String, String>,
}

/// An event for `/v2/events`.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Its type.
    pub kind: &'static str,
    /// Its data, `eventType` and `timestamp` included.
    pub body: Value,
}

/// An app or a pod and everything about it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is wanted.
    pub wanted: Arc<Definition>,
    /// What an instance of it asks of offers.
    pub wish: Arc<Wish>,
    /// What was wanted before, and is now, by version.
    pub versions: BTreeMap<String, Arc<Definition>>,
    /// It is to go; hidden from readers.
    pub removing: bool,
    /// Instances of older configurations are replaced. Off after a deployment was stopped by force.
    pub roll: bool,
    /// What runs.
    pub instances: Shared<InstanceId, Instance>,
    /// What ended and has volumes.
    pub kept: Shared<InstanceId, kept::Kept>,
    /// Instances to launch.
    pub missing: u32,
    /// The delay after failures.
    pub backoff: Option<Backoff>,
    /// Since when instances are missing (time of day).
    pub waiting: Option<Millis>,
    /// When something happened to it that brings it on (monotonic).
    pub moved: Millis,
    /// The last failure, as shown.
    pub last_failure: Option<Value>,
    /// What became of offers while waiting.
    pub tally: Tally,
    /// The deployments that change it, the oldest first.
    pub deployments: Vec<String>,
    /// The images of its configurations by digest: what the first instance of each resolved is what all others run.
    pub pins: Pins,
    /// What is known of it where the number of its instances is left to us.
    pub scaling: Option<Box<scaling::Scaling>>,
    /// How a list shows it, once somebody asked.
    pub shown: Shown,
}

impl Touch for Entry {
    fn touch(&mut self) {
        self.shown = Shown::default();
    }
}
impl Touch for Instance {}
impl Touch for Record {}
impl Touch for Stranger {}
impl Touch for Node {}

/// Something that was made for reading and is kept until what it shows changes. A copy begins empty.
#[derive(Debug, Default)]
pub struct Shown(std::sync::OnceLock<Box<[u8]>>);

impl Shown {
    /// It, made if nobody did yet.
    pub fn get(&self, make: impl FnOnce() -> Vec<u8>) -> &[u8] {
        self.0.get_or_init(|| make().into_boxed_slice())
    }
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A delay after failures.
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    /// Of which configuration.
    pub config: String,
    /// Now.
    pub delay: Millis,
    /// Until when nothing is launched (monotonic).
    pub until: Millis,
}

/// What became of offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Offers looked at.
    pub processed: u64,
    /// Offers that did not fit.
    pub unused: u64,
    /// When one last fitted (time of day).
    pub last_used: Option<Millis>,
    /// When one last did not.
    pub last_unused: Option<Millis>,
    /// The last verdict on each node.
    pub nodes: BTreeMap<String, NodeVerdict>,
    /// The same reasons counted over the whole wait.
    pub reasons: BTreeMap<matching::Reason, u64>,
}

/// Why a node's last offer did not do.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeVerdict {
    /// The node's name.
    pub host: String,
    /// What it broke; empty when it fitted.
    pub broken: Vec<Rejection>,
    /// When (time of day).
    pub at: Millis,
}

/// A task of ours that nobody wrote down.
#[derive(Clone, Debug, PartialEq)]
pub struct Stranger {
    /// Where.
    pub agent: Option<String>,
    /// Its state.
    pub state: instance::State,
    /// When it was first seen (time of day).
    pub since: Millis,
}

/// A node as far as it was offered.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is left of the offer.
    pub offer: Offer,
    /// When it came (time of day).
    pub at: Millis,
}

/// All that readers see. A copy costs next to nothing, and stays as it is while the machine goes on.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What the machine is set to.
    pub settings: Arc<Settings>,
    /// Apps and pods.
    pub apps: Shared<PathId, Entry>,
    /// Groups that are more than the place of something.
    pub groups: Shared<PathId, group::Group>,
    /// What past intents changed, by their moments.
    pub history: Shared<String, history::Past>,
    /// Deployments under way, the oldest first.
    pub deployments: Arc<IndexMap<String, Deployment>>,
    /// Instances that were given up and may come back.
    pub ghosts: Shared<InstanceId, Record>,
    /// Instances whose volumes are to be destroyed; with another goal than that, those of which nobody knows whose they are.
    pub wiping: Shared<InstanceId, Record>,
    /// Tasks of ours that nobody wrote down.
    pub strangers: Shared<String, Stranger>,
    /// Instances that have ended, by app.
    pub ended: Shared<PathId, ended::Past>,
    /// What nodes offered last, and what we left of it, by their ids.
    pub nodes: Shared<String, Node>,
    /// Our id at the master.
    pub framework: Option<String>,
    /// The master that has us.
    pub master: Option<String>,
    /// Quotas, as far as they were asked for.
    pub quotas: Arc<quota::Quotas>,
}

impl Snapshot {
    fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            apps: Shared::default(),
            groups: Shared::default(),
            history: Shared::default(),
            deployments: Arc::default(),
            ghosts: Shared::default(),
            wiping: Shared::default(),
            strangers: Shared::default(),
            ended: Shared::default(),
            nodes: Shared::default(),
            framework: None,
            master: None,
            quotas: Arc::default(),
        }
    }

    /// Whether a master has us.
    pub fn is_connected(&self) -> bool {
        self.master.is_some()
    }

    /// The app or pod of that id, unless it is going.
    pub fn entry(&self, id: &PathId) -> Option<&Entry> {
        self.apps.get(id).filter(|e| !e.removing)
    }

    /// Every app and pod that readers see.
    pub fn entries(&self) -> impl Iterator<Item = (&PathId, &Entry)> {
        self.apps.iter().filter(|(_, e)| !e.removing)
    }
}

/// The machine.
#[derive(Debug)]
pub struct Core {
    pub(crate) state: Snapshot,
    pub(crate) index: BTreeMap<InstanceId, PathId>,
    /// Ghosts that nobody wanted to end: they were out of reach for too long. They may take their place again while it is free.
    lapsed: BTreeSet<InstanceId>,
    /// Containers of ghosts that have ended while others of the same ghost may live.
    partly: BTreeMap<InstanceId, BTreeSet<String>>,
    wipes: wipe::Wipes,
    offers: offers::Offers,
    census: census::Census,
    /// Instances that have ended, the oldest first.
    ended_order: BTreeSet<(Millis, String, PathId)>,
    /// Where nodes are, by id, to be shared by what runs on them.
    places: BTreeMap<String, Arc<Location>>,
    dirty: BTreeSet<PathId>,
    /// Deployments to look at beside those of apps to which something happened.
    due: BTreeSet<String>,
    hungry: BTreeSet<PathId>,
    wake: BTreeSet<(Millis, PathId)>,
    reconcile_at: Option<Millis>,
    /// When those are asked about again of which nothing is known since subscribing, and how long after that once more.
    early: Option<(Millis, Millis)>,
    last_version: Millis,
    out: Vec<Effect>,
}

/// How often the master's view is compared with ours while connected; the first time soon after subscribing.
const RECONCILE_SOON: Millis = Millis::from_secs(15);
const RECONCILE_EVERY: Millis = Millis::from_secs(600);
/// A master that has just begun says nothing of nodes that are not back yet: those of which it said nothing are asked about again, at first after so long.
const RECONCILE_EARLY: Millis = Millis::from_secs(1);

impl Core {
    /// An empty machine.
    pub fn new(settings: Settings) -> Self {
        let service_ports = settings.service_ports;
        Self {
            state: Snapshot::new(settings),
            index: BTreeMap::new(),
            lapsed: BTreeSet::new(),
            partly: BTreeMap::new(),
            wipes: wipe::Wipes::default(),
            offers: offers::Offers::default(),
            census: census::Census::new(service_ports),
            ended_order: BTreeSet::new(),
            places: BTreeMap::new(),
            dirty: BTreeSet::new(),
            due: BTreeSet::new(),
            hungry: BTreeSet::new(),
            wake: BTreeSet::new(),
            reconcile_at: None,
            early: None,
            last_version: Millis(0),
            out: Vec::new(),
        }
    }

    /// Takes an event in and says what is to be done, in order.
    pub fn handle(&mut self, event: Event, now: Now, ids: &mut dyn IdSource) -> Vec<Effect> {
        match event {
            Event::Subscribed { framework, master } => self.subscribed(framework, master, now),
            Event::Disconnected => self.disconnected(now),
            Event::Offers(offers) => self.offered(offers, now),
            Event::Rescinded(id) => self.offers.remove(&id),
            Event::Status(status) => self.status(*status, now),
            Event::Request(request) => self.request(*request, now, ids),
            Event::Quotas(quotas) => self.state.quotas = Arc::new(quotas),
            Event::Probed(probed) => self.probed(*probed, now),
            Event::Measured(measured) => self.measured(*measured, now, ids),
            Event::Message { executor, agent, data } => {
                self.publish(notices::framework_message(&executor, &agent, &data, now));
            }
            Event::CallFailed => self.doubt(now),
            Event::Tick => self.tick(now),
        }
        self.plan(now, ids);
        if bugs::on(bugs::Bug::LaunchBeforeCommit) {
            self.out.sort_by_key(|effect| matches!(effect, Effect::Commit(_)));
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is wanted next (monotonic).
    pub fn next_tick(&self) -> Option<Millis> {
        let wake = self.wake.first().map(|(at, _)| *at);
        let early = self.early.map(|(at, _)| at);
        [wake, self.offers.next(), self.reconcile_at, early].into_iter().flatten().min()
    }

    /// Whether something waits to be launched.
    pub fn is_hungry(&self) -> bool {
        !self.hungry.is_empty()
    }

    /// The framework's id, if it has one.
    pub fn framework(&self) -> Option<&str> {
        self.state.framework.as_deref()
    }

    /// The roles of all apps, to subscribe with.
    pub fn roles(&self) -> BTreeSet<String> {
        let mut roles: BTreeSet<String> = self.census.roles().map(str::to_owned).collect();
        roles.extend(self.state.wiping.values().map(|record| record.role.clone()));
        roles.insert(self.state.settings.default_role.clone());
        roles
    }

    fn subscribed(&mut self, framework: String, master: String, now: Now) {
        let again = self.state.framework.as_ref() == Some(&framework);
        if !again {
            self.out.push(Effect::Commit(vec![records::put_framework(&framework)]));
        }
        self.publish(notices::registered(again, &framework, &master, now));
        self.state.framework = Some(framework);
        self.state.master = Some(master);
        self.offers.reset();
        self.reconcile(true, now);
        self.reconcile_at = Some(now.mono + RECONCILE_SOON);
        self.early = Some((now.mono + RECONCILE_EARLY, RECONCILE_EARLY));
        self.dirty.extend(self.state.apps.keys().cloned());
    }

    fn disconnected(&mut self, now: Now) {
        if self.state.master.take().is_some() {
            self.publish(notices::plain("scheduler_disconnected_event", now));
        }
        self.offers.reset();
        (self.reconcile_at, self.early) = (None, None);
    }

    /// Asks about every instance we know, then about everything the master knows.
    fn reconcile(&mut self, all: bool, now: Now) {
        // One that was accepted a moment ago may not have reached the master's books.
        let old = |i: &&Instance| all || i.state().is_none() || now.mono.since(i.since) > RECONCILE_SOON;
        let known =
            self.state.apps.values().flat_map(|e| e.instances.values()).filter(old).map(|i| &i.record);
        let of = |r: &Record| r.tasks().map(|(_, task)| (task, Some(r.agent.clone()))).collect::<Vec<_>>();
        let tasks: Vec<_> =
            known.chain(self.state.ghosts.values()).chain(self.state.wiping.values()).flat_map(of).collect();
        for chunk in tasks.chunks(1000) {
            self.out.push(Effect::Reconcile(chunk.to_vec()));
        }
        self.out.push(Effect::Reconcile(Vec::new()));
    }

    /// Asks again about what nothing is known of since subscribing, until the regular comparison comes.
    fn ask_early(&mut self, now: Now) {
        let Some((_, pause)) = self.early.filter(|(at, _)| *at <= now.mono) else { return };
        let silent = self.state.apps.values().flat_map(|e| e.instances.values());
        let silent = silent.filter(|i| i.state().is_none()).map(|i| &i.record);
        let of = |r: &Record| r.tasks().map(|(_, task)| (task, Some(r.agent.clone()))).collect::<Vec<_>>();
        let tasks: Vec<_> = silent.flat_map(of).collect();
        let next = Millis(pause.0.saturating_mul(2));
        let over = tasks.is_empty() || next >= RECONCILE_SOON;
        self.early = (!over).then_some((now.mono + next, next));
        for chunk in tasks.chunks(1000) {
            self.out.push(Effect::Reconcile(chunk.to_vec()));
        }
    }

    /// Compares views once what was on its way must have shown itself.
    fn doubt(&mut self, now: Now) {
        let at = now.mono + RECONCILE_SOON + Millis::from_secs(1);
        if self.state.master.is_some() {
            self.reconcile_at = Some(self.reconcile_at.map_or(at, |before| before.min(at)));
        }
    }

    fn tick(&mut self, now: Now) {
        while let Some((at, _)) = self.wake.first()
            && *at <= now.mono
        {
            if let Some((_, id)) = self.wake.pop_first() {
                self.dirty.insert(id);
            }
        }
        self.ask_early(now);
        if self.reconcile_at.is_some_and(|at| at <= now.mono) {
            self.reconcile(false, now);
            // The master says nothing about nodes it waits for itself: ask again soon.
            let silent = self.state.apps.values().any(|e| e.instances.values().any(|i| i.state().is_none()));
            let pause = if silent { RECONCILE_SOON } else { RECONCILE_EVERY };
            self.reconcile_at = Some(now.mono + pause);
        }
    }

    /// A version nobody had: the time of day, a little later if need be.
    fn fresh_version(&mut self, now: Now) -> String {
        let at = now.wall.max(self.last_version + Millis(1));
        self.last_version = at;
        time::text(at)
    }

    fn publish(&mut self, notice: Notice) {
        self.out.push(Effect::Publish(notice));
    }

    fn commit(&mut self, writes: Vec<Write>) {
        for chunk in writes.chunks(batch::MOST) {
            self.out.push(Effect::Commit(chunk.to_vec()));
        }
    }

    /// What readers see, as it is now.
    pub fn state(&self) -> &Snapshot {
        &self.state
    }

    fn entry(&self, id: &PathId) -> Option<&Entry> {
        self.state.entry(id)
    }

    fn entries(&self) -> impl Iterator<Item = (&PathId, &Entry)> {
        self.state.entries()
    }

    fn offered(&mut self, mut offers: Vec<Offer>, now: Now) {
        for offer in &mut offers {
            self.place_shared(&offer.agent, &mut offer.location);
            self.state.nodes.insert(offer.agent.clone(), Node { offer: offer.clone(), at: now.wall });
        }
        self.offers.add(offers, now.mono + self.state.settings.hold);
    }

    /// One description a node, however many instances remember it.
    fn place_shared(&mut self, agent: &str, location: &mut Arc<Location>) {
        match self.places.get(agent) {
            Some(known) if **known == **location => *location = Arc::clone(known),
            _ => drop(self.places.insert(agent.to_owned(), Arc::clone(location))),
        }
    }

    /// A deployment is under way.
    fn begin(&mut self, mut deployment: Deployment) {
        deployment.find_turns();
        self.due.insert(deployment.id.clone());
        for app in deployment.original.keys() {
            if let Some(entry) = self.state.apps.get_mut(app) {
                entry.deployments.push(deployment.id.clone());
            }
        }
        self.deployments_mut().insert(deployment.id.clone(), deployment);
    }

    /// A deployment is over, in whichever way.
    fn finish(&mut self, id: &str) -> Option<Deployment> {
        let deployment = self.deployments_mut().shift_remove(id)?;
        for app in deployment.original.keys() {
            if let Some(entry) = self.state.apps.get_mut(app) {
                entry.deployments.retain(|other| other != id);
            }
        }
        Some(deployment)
    }

    /// The deployments, to be changed.
    fn deployments_mut(&mut self) -> &mut IndexMap<String, Deployment> {
        Arc::make_mut(&mut self.state.deployments)
    }
}

#[cfg(test)]
mod kept_walk;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk;
