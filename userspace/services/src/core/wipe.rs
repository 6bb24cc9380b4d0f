//! Instances whose volumes are to be destroyed, and their reservations taken off: when their node offers them. Their records stay until
//! that was seen to be done; an app that was removed need not be there any more.
//!
//! Only what a record says is destroyed. What carries our labels and is nobody's is shown, and left alone ([`Snapshot::strays`]).

use std::collections::{BTreeMap, BTreeSet};

use plenum_api::{Millis, Now};
use serde_json::{Value, json};

use super::id::{InstanceId, PathId};
use super::instance::{Goal, Record, State, Status};
use super::kept::volumes;
use super::matching::{Amount, Offer, Portion};
use super::offers::Held;
use super::{Core, Effect, Snapshot, Write, records};

/// An offer that comes so long after we asked for something was made after it.
const SETTLES: Millis = Millis::from_secs(6);
/// What a node did not offer twice, so far apart, it does not have.
const APART: Millis = Millis::from_secs(10);

/// Volumes to destroy, and reservations to take off.
#[derive(Clone, Debug, PartialEq)]
pub struct Free {
    /// Whose.
    pub instance: InstanceId,
    /// By their places in [`Offer::portions`].
    pub portions: Vec<usize>,
}

/// How far one is.
#[derive(Clone, Copy, Debug)]
struct Wiping {
    /// Since when we know what its node has.
    since: Millis,
    /// The node was told to.
    asked: bool,
    /// Its node first offered nothing of it.
    absent: Option<Millis>,
    /// It may be running still.
    busy: bool,
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Wipes(BTreeMap<InstanceId, Wiping>);

impl Wipes {
    fn anew(&mut self, id: &InstanceId, busy: bool, now: Now) {
        self.0.insert(id.clone(), Wiping { since: now.mono, asked: false, absent: None, busy });
    }
}

impl Core {
    /// Whether nodes are asked for volumes that are to go.
    pub(super) fn is_wiping(&self) -> bool {
        self.state.wiping.values().any(|record| record.goal == Goal::Wipe)
    }

    /// The nodes on which volumes are to go.
    pub(super) fn wiping_on(&self) -> BTreeSet<String> {
        self.state.wiping.values().filter(|r| r.goal == Goal::Wipe).map(|r| r.agent.clone()).collect()
    }

    /// Has an instance's volumes destroyed once they are offered. It must have been taken out of its app's instances.
    pub(super) fn wipe_record(&mut self, mut record: Record, now: Now) -> Write {
        record.goal = Goal::Wipe;
        self.index.remove(&record.id);
        self.wipes.anew(&record.id, false, now);
        let write = records::put_instance(&record);
        self.state.wiping.insert(record.id.clone(), record);
        self.offers.ask();
        write
    }

    /// The same for one that was read from the store.
    pub(super) fn adopt_wiping(&mut self, record: Record, now: Now) {
        self.wipes.anew(&record.id, false, now);
        self.state.wiping.insert(record.id.clone(), record);
    }

    /// Wipes these instances of an app: those that run once they have ended.
    pub(super) fn wipe_instances(&mut self, of: &PathId, instances: &[InstanceId], now: Now) -> Vec<Write> {
        let mut writes = Vec::new();
        for id in instances {
            let Some(entry) = self.state.apps.get_mut(of) else { return writes };
            if let Some(instance) = entry.instances.get_mut(id) {
                instance.record.goal = if instance.record.is_resident() { Goal::Wipe } else { Goal::Stop };
                writes.push(records::put_instance(&instance.record));
            } else if let Some(kept) = entry.kept.remove(id) {
                writes.push(self.wipe_record(kept.record, now));
            }
        }
        self.dirty.insert(of.clone());
        writes
    }

    /// What an app that is to go has kept goes; so does, without waiting for its end, what is to be wiped on a node that is out of reach.
    pub(super) fn wipe_left(&mut self, id: &PathId, now: Now) -> Vec<Write> {
        let Some(entry) = self.state.apps.get(id) else { return Vec::new() };
        let kept = entry.kept.keys().filter(|_| entry.removing);
        let kept: Vec<InstanceId> = kept.cloned().collect();
        let lost = entry.instances.values().filter(|i| i.record.goal == Goal::Wipe);
        let lost = lost.filter(|i| i.state() == Some(State::Unreachable));
        let lost: Vec<InstanceId> = lost.map(|i| i.record.id.clone()).collect();
        if kept.is_empty() && lost.is_empty() {
            return Vec::new();
        }
        let mut writes = self.wipe_instances(id, &kept, now);
        self.dirty.remove(id);
        for id_lost in lost {
            let gone = self.state.apps.get_mut(id).and_then(|entry| entry.instances.remove(&id_lost));
            if let Some(instance) = gone {
                writes.push(self.wipe_record(instance.record, now));
                self.wipes.anew(&id_lost, true, now);
            }
        }
        writes
    }

    /// What is heard of an instance that is to be wiped: it must not run.
    pub(super) fn wiping_heard(&mut self, id: &InstanceId, status: &Status, now: Now) {
        let is_ours = self.state.wiping.get(id).is_some_and(|record| record.goal == Goal::Wipe);
        if !is_ours || status.state == State::Unreachable {
            return;
        }
        self.wipes.anew(id, !status.state.is_terminal(), now);
        if !status.state.is_terminal() {
            let (task, agent) = (status.task.clone(), status.agent.clone());
            self.out.push(Effect::Kill { task, agent, grace: None });
            self.doubt(now);
        }
    }

    /// Destroys what the offers in hand have of it, and forgets what is seen to be gone.
    pub(super) fn free(&mut self, hand: &mut [Held], now: Now) {
        let mut gone = Vec::new();
        for held in hand {
            let offered = owners(&held.offer);
            for id in &offered {
                let Some(record) = self.state.wiping.get(id).filter(|r| r.goal == Goal::Wipe) else {
                    continue;
                };
                if record.agent != held.offer.agent {
                    let record = Record { agent: held.offer.agent.clone(), ..record.clone() };
                    self.state.wiping.insert(id.clone(), record);
                }
                self.wipes.anew(id, false, now);
                if let Some(wiping) = self.wipes.0.get_mut(id) {
                    wiping.asked = true;
                }
                held.free(id);
            }
            for record in self.state.wiping.values() {
                let here = record.goal == Goal::Wipe && record.agent == held.offer.agent;
                if here && !offered.contains(&record.id) && self.wipes.is_over(&record.id, now.mono) {
                    gone.push(record.clone());
                }
            }
        }
        let mut writes = Vec::new();
        for record in gone {
            if self.state.wiping.remove(&record.id).is_some() {
                self.wipes.0.remove(&record.id);
                writes.push(records::delete_instance(&record));
            }
        }
        self.commit(writes);
    }
}

impl Wipes {
    /// Whether nothing is left of it, now that its node offers what it has, and nothing of it.
    fn is_over(&mut self, id: &InstanceId, now: Millis) -> bool {
        let Some(wiping) = self.0.get_mut(id) else { return false };
        if wiping.busy || now < wiping.since + SETTLES {
            return false;
        }
        let first = *wiping.absent.get_or_insert(now);
        wiping.asked || now >= first + APART
    }
}

impl Held {
    /// All of an instance goes back to everybody.
    fn free(&mut self, id: &InstanceId) {
        let mine = self.offer.portions.iter_mut().enumerate().filter(|(_, p)| p.owner() == Some(id));
        let mut portions = Vec::new();
        for (n, portion) in mine {
            portions.push(n);
            portion.amount = match portion.amount {
                Amount::Scalar(_) => Amount::Scalar(0),
                Amount::Ranges(_) => Amount::Ranges(Vec::new()),
            };
            portion.claim = None;
        }
        self.frees.push(Free { instance: id.clone(), portions });
    }
}

/// The instances for which something of an offer is reserved.
fn owners(offer: &Offer) -> BTreeSet<InstanceId> {
    offer.portions.iter().filter_map(Portion::owner).cloned().collect()
}

impl Snapshot {
    /// Volumes that wait to be destroyed, and what carries our labels and belongs to nobody that we know.
    pub fn leftovers(&self) -> Value {
        let wiping = self.wiping.values().map(|record| {
            json!({
                "instanceId": record.id,
                "appId": record.app,
                "host": record.location.host,
                "slaveId": record.agent,
                "localVolumes": volumes(record),
                "wiped": record.goal == Goal::Wipe,
            })
        });
        wiping.chain(self.strays()).collect()
    }

    /// What nodes offered that is reserved for instances of ours which nobody wrote down.
    fn strays(&self) -> Vec<Value> {
        let mut found: BTreeMap<(&str, &InstanceId), Vec<&str>> = BTreeMap::new();
        for node in self.nodes.values() {
            for portion in &node.offer.portions {
                let Some(claim) = &portion.claim else { continue };
                if self.framework.as_deref() == Some(&claim.framework) && !self.knows(&claim.instance) {
                    let volumes = found.entry((node.offer.agent.as_str(), &claim.instance)).or_default();
                    volumes.extend(claim.volume.as_deref());
                }
            }
        }
        let host = |agent: &str| self.nodes.get(agent).map(|node| node.offer.location.host.clone());
        let one = |((agent, id), volumes): (&(&str, &InstanceId), &Vec<&str>)| {
            let volumes: Vec<Value> = volumes.iter().map(|id| json!({"persistenceId": id})).collect();
            json!({
                "instanceId": id,
                "appId": Value::Null,
                "host": host(agent),
                "slaveId": agent,
                "localVolumes": volumes,
                "wiped": false,
            })
        };
        found.iter().map(one).collect()
    }

    fn knows(&self, id: &InstanceId) -> bool {
        self.wiping.contains_key(id)
            || self.ghosts.contains_key(id)
            || self.apps.values().any(|entry| entry.instances.contains_key(id) || entry.kept.contains_key(id))
    }
}
