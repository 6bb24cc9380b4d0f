//! Offers in hand: kept for a moment when an app is about to need them, used ([`super::placement`] says for what), or given back; and asking
//! the master for more or for none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_api::{IdSource, Millis, Now};

use super::definition::{Definition, ONLY};
use super::id::{InstanceId, PathId};
use super::instance::{Goal, Instance, Record};
use super::matching::{self, Offer, Placement, Rejection};
use super::wipe::Free;
use super::{Core, Effect, Entry, Launch, NodeVerdict, Write, notices, records, volume};

/// How long offers are refused when nothing waits. Asking again forgets it.
const REFUSE_LONG: Millis = Millis::from_secs(3600);
/// How long what an accepted offer leaves is refused.
const REFUSE_REST: Millis = Millis::from_secs(5);
/// How long offers are asked for when somebody wants to see what there is.
const LOOK: Millis = Millis::from_secs(2);
/// Asking for offers more often than this would only load the master.
const REVIVE_EVERY: Millis = Millis::from_secs(1);

/// The offers, and what the master was asked.
#[derive(Debug, Default)]
pub(super) struct Offers {
    held: BTreeMap<String, Held>,
    /// The master was told that we want none.
    suppressed: bool,
    /// Something new waits that the refusals so far did not know of.
    ask: bool,
    last_revive: Option<Millis>,
    revive_at: Option<Millis>,
    /// Offers are asked for until then, although nothing waits, for somebody to see what there is.
    look_until: Option<Millis>,
}

/// An offer in hand.
#[derive(Debug)]
pub(super) struct Held {
    /// What is left of it.
    pub(super) offer: Offer,
    /// Until when it is kept.
    until: Millis,
    /// What is launched with it.
    pub(super) launches: Vec<Launch>,
    /// What of it is taken apart.
    pub(super) frees: Vec<Free>,
}

impl Offers {
    pub(super) fn add(&mut self, offers: Vec<Offer>, until: Millis) {
        for offer in offers {
            self.held
                .insert(offer.id.clone(), Held { offer, until, launches: Vec::new(), frees: Vec::new() });
        }
    }

    /// All that are in hand, for a while; the order is that of their ids.
    pub(super) fn take(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.held).into_values().collect()
    }

    pub(super) fn put_back(&mut self, hand: Vec<Held>) {
        self.held = hand.into_iter().map(|held| (held.offer.id.clone(), held)).collect();
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.held.remove(id);
    }

    /// The master is new or gone: no offers, no refusals, and it sends some unless told otherwise.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn ask(&mut self) {
        self.ask = true;
    }

    pub(super) fn next(&self) -> Option<Millis> {
        let held = self.held.values().map(|h| h.until).min();
        held.into_iter().chain(self.revive_at).chain(self.look_until).min()
    }
}

impl Core {
    /// Uses the offers in hand for what waits and settles what is left.
    pub(super) fn place(&mut self, now: Now, ids: &mut dyn IdSource) {
        if self.state.master.is_none() {
            return;
        }
        if !self.offers.held.is_empty() {
            if self.is_wiping() {
                let mut hand = self.offers.take();
                self.free(&mut hand, now);
                self.offers.put_back(hand);
            }
            let ready: Vec<PathId> = self.hungry_within(now.mono).cloned().collect();
            if !ready.is_empty() {
                self.fill(&ready, now, ids);
            }
        }
        self.settle(now);
    }

    /// Apps that miss instances and whose delay is over at `at`.
    fn hungry_within(&self, at: Millis) -> impl Iterator<Item = &PathId> {
        let due = move |id: &&PathId| {
            self.state.apps.get(*id).is_some_and(|e| e.missing > 0 && e.held_until() <= at)
        };
        self.hungry.iter().filter(due)
    }

    /// The roles of what misses instances.
    pub(super) fn hungry_roles(&self) -> BTreeSet<String> {
        let hungry = self.hungry.iter().filter_map(|id| self.state.apps.get(id));
        hungry.map(|entry| entry.wanted.role().to_owned()).collect()
    }

    /// Accepts, keeps or declines what is in hand, then asks for more or for none.
    fn settle(&mut self, now: Now) {
        let waiting = self.hungry_within(now.mono).next().is_some();
        let soon = waiting || self.hungry_within(now.mono + self.state.settings.hold).next().is_some();
        let hungry = !self.hungry.is_empty();
        let wiping = self.wiping_on();
        let (mut keep, mut back, mut again) = (BTreeMap::new(), Vec::new(), Vec::new());
        for (id, held) in std::mem::take(&mut self.offers.held) {
            if !held.launches.is_empty() || !held.frees.is_empty() {
                for launch in &held.launches {
                    let staged = Instance::new(launch.record.clone(), now.mono, true);
                    self.publish(notices::instance_changed(&staged, "Provisioned", now));
                }
                if let Some(node) = self.state.nodes.get_mut(&held.offer.agent) {
                    node.offer = held.offer;
                }
                let Held { launches, frees, .. } = held;
                self.out.push(Effect::Accept { offer: id, launches, frees, refuse: REFUSE_REST });
            } else if soon && !waiting && held.until > now.mono {
                keep.insert(id, held);
            } else if wiping.contains(&held.offer.agent) {
                again.push(id);
            } else {
                back.push(id);
            }
        }
        self.offers.held = keep;
        if !again.is_empty() {
            self.out.push(Effect::Decline { offers: again, refuse: REFUSE_REST });
        }
        if !back.is_empty() {
            let refuse = if hungry { self.state.settings.refuse } else { REFUSE_LONG };
            self.out.push(Effect::Decline { offers: back, refuse });
        }
        self.offers.look_until = self.offers.look_until.filter(|until| *until > now.mono);
        self.steer(waiting || soon || !wiping.is_empty() || self.offers.look_until.is_some(), now);
    }

    /// Asks for offers, to see what nodes have.
    pub(super) fn look_around(&mut self, now: Now) {
        if self.state.master.is_some() {
            self.offers.look_until = Some(now.mono + LOOK);
            self.offers.ask();
        }
    }

    fn steer(&mut self, wanted: bool, now: Now) {
        let offers = &mut self.offers;
        let due = offers.revive_at.is_some_and(|at| at <= now.mono);
        if !wanted {
            (offers.ask, offers.revive_at) = (false, None);
            if !offers.suppressed {
                offers.suppressed = true;
                self.out.push(Effect::Suppress);
            }
        } else if offers.suppressed || offers.ask || due {
            let earliest = offers.last_revive.map_or(now.mono, |at| at + REVIVE_EVERY);
            if offers.suppressed || earliest <= now.mono {
                offers.suppressed = false;
                offers.last_revive = Some(now.mono);
                (offers.ask, offers.revive_at) = (false, None);
                self.out.push(Effect::Revive);
            } else {
                (offers.ask, offers.revive_at) = (false, Some(earliest));
            }
        }
    }
}

impl Entry {
    /// Until when failures hold launches back.
    pub(super) fn held_until(&self) -> Millis {
        let config = self.wanted.config();
        self.backoff.as_ref().filter(|b| b.config == config).map_or(Millis(0), |b| b.until)
    }

    pub(super) fn count(&mut self, offer: &Offer, broken: Option<&Vec<Rejection>>, now: Now) {
        let tally = &mut self.tally;
        tally.processed = tally.processed.saturating_add(1);
        match broken {
            None => tally.last_used = Some(now.wall),
            Some(broken) => {
                tally.unused = tally.unused.saturating_add(1);
                tally.last_unused = Some(now.wall);
                if let Some(first) = broken.first() {
                    let count = tally.reasons.entry(first.reason).or_default();
                    *count = count.saturating_add(1);
                }
            }
        }
        let broken = broken.cloned().unwrap_or_default();
        let verdict = NodeVerdict { host: offer.location.host.clone(), broken, at: now.wall };
        tally.nodes.insert(offer.agent.clone(), verdict);
    }

    pub(super) fn launch(
        &mut self,
        held: &mut Held,
        placement: Placement,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> (Launch, Write) {
        let definition = Arc::clone(&self.wanted);
        let names = definition.containers().into_iter().filter(|name| *name != ONLY);
        let record = Record {
            f: records::FORMAT,
            id: InstanceId::fresh(definition.id(), ids),
            app: definition.id().clone(),
            version: definition.version().to_owned(),
            config: definition.config().to_owned(),
            containers: names.map(str::to_owned).collect(),
            launches: 1,
            created: now.wall,
            agent: held.offer.agent.clone(),
            location: held.offer.location.clone(),
            role: held.offer.role.clone(),
            host_ports: placement.host_ports.clone(),
            goal: Goal::Run,
            volumes: volume::fresh(&definition, ids),
            made: false,
        };
        self.started(record, definition, held, placement, now)
    }

    /// An instance is about to be launched.
    pub(super) fn started(
        &mut self,
        record: Record,
        definition: Arc<Definition>,
        held: &mut Held,
        placement: Placement,
        now: Now,
    ) -> (Launch, Write) {
        matching::subtract(&mut held.offer, &placement.takes);
        let mut instance = Instance::new(record.clone(), now.mono, true);
        instance.await_readiness(&definition);
        self.instances.insert(record.id.clone(), instance);
        self.missing = self.missing.saturating_sub(1);
        let write = records::put_instance(&record);
        (Launch { record, definition, takes: placement.takes, images: self.pinned() }, write)
    }
}
