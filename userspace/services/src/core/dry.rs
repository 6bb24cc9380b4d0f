//! What a change would do, without doing it: the machine itself carries it out on a copy of the state, on what the nodes offered last, with
//! every launch running at once and every end confirmed. So the plan is made by what would make it. Nothing of it is kept.
//!
//! Left to chance is what the copy cannot know: images that do not exist, checks that fail, what others take meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use plenum_api::{IdSource, Millis, Now};
use serde_json::{Value, json};

use super::definition::Definition;
use super::deployment::{Deployment, What};
use super::error::ApiError;
use super::id::{InstanceId, PathId};
use super::instance::{Record, State, Status};
use super::matching::{Amount, Offer, Portion, thousandths};
use super::readiness::{Answer, Check, Probe, Probed};
use super::requests::{Reply, Request};
use super::{Core, Effect, Event, Launch, Node, Snapshot, notices, time, volume};

/// Launches and ends that are played through; a larger plan is cut off there, and says so.
const MOST_MOVES: usize = 5_000;
/// Rounds without which nothing comes of it.
const MOST_ROUNDS: usize = 20_000;

/// Who does what to how many instances, by step, app and node.
type Moves = BTreeMap<(usize, PathId, String), u64>;

/// The plan of `request`: Marathon's `steps`, and as `plan` what would become of each app. Nodes count that offered something since the time
/// of day `since`; if none did, all that ever did.
///
/// # Errors
/// Those of the request itself; that deployments are in the way is no error but part of the plan.
pub fn run(
    state: Snapshot,
    request: &Request,
    since: Millis,
    now: Now,
    ids: &mut dyn IdSource,
) -> Result<Reply, ApiError> {
    let before = state.clone();
    let fresh = seen_since(&before, since);
    let nodes: Vec<&Node> = before.nodes.values().filter(|node| !fresh || node.at >= since).collect();
    let mut play = Play {
        core: machine(state),
        nodes: nodes.iter().map(|node| (node.offer.agent.clone(), node.offer.clone())).collect(),
        offered: BTreeMap::new(),
        tried: BTreeSet::new(),
        todo: VecDeque::new(),
        runs: BTreeMap::new(),
        starts: Moves::new(),
        stops: Moves::new(),
        moves: 0,
        offers: 0,
    };
    play.core.last_version = now.wall;
    play.core.state.master.get_or_insert_default();
    let request = Request { force: true, once: None, ..request.clone() };
    let reply = play.core.carry_out(&request, &request.kind, now, ids)?;
    let id = reply.deployment.unwrap_or_default();
    let Some(deployment) = play.core.state.deployments.get(&id).cloned() else {
        return Ok(answer(json!({"steps": []})));
    };
    let locks = locks(&before, &deployment, now);
    play.begin(&deployment);
    play.run(&id, now, ids);
    let oldest = nodes.iter().map(|node| node.at).min();
    let mut plan = json!({
        "changes": changes(&before, &play, &deployment),
        "steps": play.steps(),
        "waits": play.waits(&deployment, now),
        "locks": locks,
        "nodes": {"count": nodes.len(), "since": oldest.map(time::text)},
    });
    if play.moves > MOST_MOVES {
        plan["cutAfter"] = json!(MOST_MOVES);
    }
    Ok(answer(json!({"steps": notices::steps(&deployment), "plan": plan})))
}

/// A machine that goes on from there.
fn machine(state: Snapshot) -> Core {
    let mut core = Core::new(state.settings.as_ref().clone());
    state.apps.values().for_each(|entry| core.census.enter(entry));
    core.state = state;
    core
}

fn answer(body: Value) -> Reply {
    Reply { status: 200, body: Some(body), deployment: None, location: None }
}

/// The deployments for which the change would have to wait, or be forced.
fn locks(before: &Snapshot, deployment: &Deployment, now: Now) -> Value {
    let core = machine(before.clone());
    let others = core.in_the_way(deployment.original.keys());
    let locked = others.iter().filter_map(|id| core.state.deployments.get(id));
    locked.filter(|other| core.is_locked(other, now)).map(|other| json!({"id": other.id})).collect()
}

/// A change on its way through a copy of the state.
struct Play {
    core: Core,
    /// What nodes have left, by their ids.
    nodes: BTreeMap<String, Offer>,
    /// The node of each offer that was made.
    offered: BTreeMap<String, String>,
    /// Roles to which all was offered since something last moved.
    tried: BTreeSet<String>,
    /// What is heard of tasks next.
    todo: VecDeque<Event>,
    /// Where instances run that this is about, with what they take.
    runs: BTreeMap<InstanceId, (Record, Takes)>,
    starts: Moves,
    stops: Moves,
    moves: usize,
    offers: u64,
}

/// What an instance takes of its node.
type Takes = Vec<Portion>;

impl Play {
    /// Takes over what runs of the apps that are changed.
    fn begin(&mut self, deployment: &Deployment) {
        for id in deployment.original.keys() {
            let Some(entry) = self.core.state.apps.get_mut(id) else { continue };
            // A delay after failures is no part of the plan.
            entry.backoff = None;
            for instance in entry.instances.values() {
                let record = &instance.record;
                let definition = entry.definition_of(record);
                self.runs.insert(record.id.clone(), (record.clone(), takes(definition, record)));
                self.core.index.insert(record.id.clone(), id.clone());
            }
        }
        // Nothing but these is planned.
        self.core.dirty = deployment.original.keys().cloned().collect();
        self.core.out.clear();
    }

    /// Plays until the deployment is over, or nothing moves any more.
    fn run(&mut self, deployment: &str, now: Now, ids: &mut dyn IdSource) {
        let mut event = Event::Tick;
        for _ in 0..MOST_ROUNDS {
            let step = self.core.state.deployments.get(deployment).map_or(0, |d| d.at);
            let moves = self.moves;
            for effect in self.core.handle(event, now, ids) {
                self.take(step, effect);
            }
            let over = !self.core.state.deployments.contains_key(deployment);
            if over || self.moves > MOST_MOVES {
                return;
            }
            if self.moves > moves {
                self.tried.clear();
            }
            event = match self.todo.pop_front() {
                Some(event) => event,
                None => match self.offer() {
                    Some(offers) => offers,
                    // What was of no use before is of none now.
                    None => return,
                },
            };
        }
    }

    /// All nodes offer all they have, to one role of those that wait and were not served since something last moved.
    fn offer(&mut self) -> Option<Event> {
        let role = self.core.hungry_roles().into_iter().find(|role| !self.tried.contains(role))?;
        self.offered.clear();
        let mut offers = Vec::with_capacity(self.nodes.len());
        for (agent, node) in &self.nodes {
            self.offers = self.offers.saturating_add(1);
            let id = format!("dry-{:012}", self.offers);
            self.offered.insert(id.clone(), agent.clone());
            offers.push(Offer { id, role: role.clone(), ..node.clone() });
        }
        self.tried.insert(role);
        Some(Event::Offers(offers))
    }

    fn take(&mut self, step: usize, effect: Effect) {
        match effect {
            Effect::Accept { offer, launches, .. } => {
                let Some(agent) = self.offered.get(&offer).cloned() else { return };
                for launch in launches {
                    self.launched(step, &agent, &launch);
                }
            }
            Effect::Kill { task, .. } => {
                let Some((id, ..)) = InstanceId::of_task(&task) else { return };
                if let Some((record, takes)) = self.runs.remove(&id) {
                    self.moves = self.moves.saturating_add(1);
                    let key = (step, record.app.clone(), record.location.host.clone());
                    count(&mut self.stops, key);
                    if let Some(node) = self.nodes.get_mut(&record.agent) {
                        give_back(node, takes);
                    }
                    let ended = record.tasks().map(|(_, task)| heard(Status::new(task, State::Killed)));
                    self.todo.extend(ended);
                }
            }
            Effect::Probe(probe) => self.todo.extend(self.ready(probe)),
            _ => {}
        }
    }

    /// It says that it is.
    fn ready(&self, probe: Probe) -> Option<Event> {
        let Probe { app, instance, .. } = probe;
        let entry = self.core.state.apps.get(&app)?;
        let record = &entry.instances.get(&instance)?.record;
        let check = Check::of(entry.versions.get(&record.version).unwrap_or(&entry.wanted))?;
        let status = *check.http_status_codes_for_ready.first()?;
        let answer = Ok(Answer { status, ..Answer::default() });
        Some(Event::Probed(Box::new(Probed { app, instance, answer })))
    }

    fn launched(&mut self, step: usize, agent: &str, launch: &Launch) {
        let record = launch.record.clone();
        self.moves = self.moves.saturating_add(1);
        count(&mut self.starts, (step, record.app.clone(), record.location.host.clone()));
        if let Some(node) = self.nodes.get_mut(agent) {
            super::matching::subtract(node, &launch.takes);
        }
        for (name, task) in record.tasks() {
            let healthy = launch.definition.has_health_check(name).then_some(true);
            self.todo.push_back(heard(Status { healthy, ..Status::new(task, State::Running) }));
        }
        let takes = takes(&launch.definition, &record);
        self.runs.insert(record.id.clone(), (record, takes));
    }

    /// What starts and ends where, step by step.
    fn steps(&self) -> Value {
        let steps: BTreeSet<usize> = self.starts.keys().chain(self.stops.keys()).map(|(n, ..)| *n).collect();
        let of = |moves: &Moves, step: usize| -> Vec<Value> {
            let here = moves.iter().filter(|((n, ..), _)| *n == step);
            here.map(|((_, id, host), n)| json!({"id": id, "host": host, "instances": n})).collect()
        };
        let each = steps.into_iter().map(|step| {
            json!({
                "step": step.saturating_add(1),
                "start": of(&self.starts, step),
                "stop": of(&self.stops, step),
            })
        });
        each.collect()
    }

    /// What would be in the way at the end.
    fn waits(&self, deployment: &Deployment, now: Now) -> Value {
        let state = &self.core.state;
        let Some(left) = state.deployments.get(&deployment.id) else { return json!([]) };
        let apps = left.current().iter().filter_map(|action| state.apps.get(&action.app));
        let waits = apps.map(|entry| (entry, state.blockers(entry, now))).filter(|(_, all)| !all.is_empty());
        waits.map(|(entry, all)| json!({"id": entry.wanted.id(), "blockers": all})).collect()
    }
}

/// What becomes of each app and pod.
fn changes(before: &Snapshot, play: &Play, deployment: &Deployment) -> Value {
    let (starts, stops) = (by_app(&play.starts), by_app(&play.stops));
    let mut whats: BTreeMap<&PathId, What> = BTreeMap::new();
    for action in deployment.steps.iter().flatten() {
        // One that comes to be is scaled afterwards.
        whats.entry(&action.app).or_insert(action.what);
    }
    let one = |(id, what): (&PathId, What)| {
        let old = before.entry(id).map(|entry| &*entry.wanted);
        let new = play.core.state.entry(id).map(|entry| &*entry.wanted).filter(|_| what != What::Stop);
        let word = match what {
            What::Start => "create",
            What::Stop => "remove",
            What::Scale => "scale",
            What::Restart => "replace",
        };
        let instances = |of: Option<&Definition>| of.map_or(0, Definition::instances);
        let of = |moves: &BTreeMap<&PathId, u64>| moves.get(id).copied().unwrap_or(0);
        let (starts, stops) = (of(&starts), of(&stops));
        json!({
            "id": id,
            "kind": if old.or(new).is_some_and(|d| d.pod().is_some()) { "pod" } else { "app" },
            "action": word,
            "instances": {"from": instances(old), "to": instances(new)},
            "starts": starts,
            "stops": stops,
            "moves": starts.min(stops),
            "fields": fields(old, new),
        })
    };
    whats.into_iter().map(one).collect()
}

fn by_app(moves: &Moves) -> BTreeMap<&PathId, u64> {
    let mut sums = BTreeMap::new();
    for ((_, id, _), n) in moves {
        let sum: &mut u64 = sums.entry(id).or_default();
        *sum = sum.saturating_add(*n);
    }
    sums
}

/// The fields that become different.
fn fields(old: Option<&Definition>, new: Option<&Definition>) -> Vec<String> {
    let (Some(old), Some(new)) = (old, new) else { return Vec::new() };
    let (old, new) = (old.to_json(), new.to_json());
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let other = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    other.filter(|name| !["version", "versionInfo"].contains(&name.as_str())).cloned().collect()
}

fn count(moves: &mut Moves, key: (usize, PathId, String)) {
    let n = moves.entry(key).or_default();
    *n = n.saturating_add(1);
}

/// What an instance takes, as it is offered when it does not run: what has volumes keeps it.
fn takes(definition: &Definition, record: &Record) -> Takes {
    if record.is_resident() {
        return volume::claimed(definition, record, "");
    }
    let needs = definition.needs();
    let scalars = [
        ("cpus", thousandths(needs.cpus)),
        ("mem", thousandths(needs.mem)),
        ("disk", thousandths(needs.disk)),
        ("gpus", i64::from(needs.gpus).saturating_mul(1000)),
    ];
    let portion =
        |name: &str, amount| Portion { name: name.to_owned(), reserved: "*".to_owned(), amount, claim: None };
    let scalars = scalars.into_iter().filter(|(_, amount)| *amount > 0);
    let ports = record.host_ports.iter().flatten().map(|port| (u64::from(*port), u64::from(*port)));
    let ports: Vec<_> = ports.collect();
    let ports = (!ports.is_empty()).then(|| portion("ports", Amount::Ranges(ports)));
    scalars.map(|(name, amount)| portion(name, Amount::Scalar(amount))).chain(ports).collect()
}

fn heard(status: Status) -> Event {
    Event::Status(Box::new(status))
}

/// The node has again what an instance took.
fn give_back(node: &mut Offer, takes: Takes) {
    for take in takes {
        let same = |p: &&mut Portion| {
            let whose = p.owner() == take.owner() && p.volume() == take.volume();
            p.name == take.name && p.reserved == take.reserved && whose
        };
        let there = node.portions.iter_mut().find(same);
        match (there.map(|portion| &mut portion.amount), take.amount) {
            (Some(Amount::Scalar(there)), Amount::Scalar(more)) => *there = there.saturating_add(more),
            (Some(Amount::Ranges(there)), Amount::Ranges(more)) => there.extend(more),
            (_, amount) => node.portions.push(Portion { amount, ..take }),
        }
    }
}

/// Whether a node offered something since that time of day.
pub fn seen_since(state: &Snapshot, at: Millis) -> bool {
    state.nodes.values().any(|node| node.at >= at)
}
