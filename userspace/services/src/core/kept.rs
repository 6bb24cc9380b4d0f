//! Instances that ended and have volumes. They are kept, with what is reserved for them, and launched again where their volumes are; an app
//! that misses instances uses these before it makes new ones. One that is to be wiped is in [`super::wipe`].

use plenum_api::Now;
use serde_json::{Value, json};

use super::blocker::{Blocker, Kind, PATIENCE};
use super::constraint::Neighbours;
use super::id::{InstanceId, PathId};
use super::instance::{Goal, Instance, Record, State, Status};
use super::matching::{self, Offer, Placement, Portion, Reason, Rejection, Take, Wish};
use super::offers::Held;
use super::shared::Touch;
use super::{Core, Effect, Entry, Launch, Write, records};

/// An instance that ended and waits with its volumes.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// What is stored.
    pub record: Record,
    /// How it ended; not known of one that was read from the store.
    pub state: Option<State>,
}

impl Touch for Kept {}

impl Core {
    /// Whether it is one that ended and was kept.
    pub(super) fn is_kept(&self, app: &PathId, id: &InstanceId) -> bool {
        self.state.apps.get(app).is_some_and(|entry| entry.kept.contains_key(id))
    }

    /// What runs of a kept instance must not: the next launch is to find its volumes free.
    pub(super) fn kept_heard(&mut self, status: &Status) {
        if !status.state.is_terminal() && status.state != State::Unreachable {
            let (task, agent) = (status.task.clone(), status.agent.clone());
            self.out.push(Effect::Kill { task, agent, grace: None });
        }
    }

    /// Whether an instance that ended stays for the sake of its volumes. What never ran has nothing on them: they go.
    pub(super) fn keep(&mut self, instance: &Instance, state: State, now: Now) -> Option<Write> {
        let mut record = instance.record.clone();
        if !record.is_resident() {
            return None;
        }
        let ran = record.made || matches!(state, State::Finished | State::Failed);
        let entry = self.state.apps.get_mut(&record.app)?;
        if record.goal == Goal::Wipe || entry.removing || !ran {
            return Some(self.wipe_record(record, now));
        }
        (record.goal, record.made) = (Goal::Keep, true);
        let write = records::put_instance(&record);
        self.index.insert(record.id.clone(), record.app.clone());
        entry.kept.insert(record.id.clone(), Kept { record, state: Some(state) });
        Some(write)
    }

    /// Launches what an app misses on the volumes that it has, as far as they are offered.
    pub(super) fn relaunch(&mut self, id: &PathId, hand: &mut [Held], now: Now) -> Vec<Write> {
        let mut writes = Vec::new();
        let waits = |entry: &&Entry| entry.missing > 0 && !entry.kept.is_empty();
        if self.state.apps.get(id).filter(waits).is_none() {
            return writes;
        }
        let Some(entry) = self.state.apps.get_mut(id) else { return writes };
        let mut neighbours = entry.wish.neighbours(entry.instances.values().map(|i| &*i.record.location));
        let role = entry.wanted.role().to_owned();
        for held in hand.iter_mut().filter(|held| held.offer.role == role) {
            for kept in entry.kept_in(&held.offer) {
                match entry.wish.fit_kept(&held.offer, &kept, &neighbours) {
                    Ok(placement) if entry.missing > 0 => {
                        neighbours.add(&held.offer.location);
                        entry.moved = now.mono;
                        entry.count(&held.offer, None, now);
                        let (launch, write) = entry.launch_again(kept, held, placement, now);
                        held.launches.push(launch);
                        writes.push(write);
                    }
                    Ok(_) => {}
                    Err(broken) => entry.count(&held.offer, Some(&broken), now),
                }
            }
        }
        if entry.missing > 0 && entry.fresh() == 0 {
            entry.count_elsewhere(hand, now);
        }
        if entry.missing == 0 {
            self.hungry.remove(id);
            entry.waiting = None;
        }
        writes
    }
}

impl Entry {
    /// How many of the missing instances are new ones.
    pub(super) fn fresh(&self) -> u32 {
        self.missing.saturating_sub(u32::try_from(self.kept.len()).unwrap_or(u32::MAX))
    }

    /// The kept instances of which an offer has something.
    fn kept_in(&self, offer: &Offer) -> Vec<Record> {
        let mut owners: Vec<&InstanceId> = offer.portions.iter().filter_map(Portion::owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners.into_iter().filter_map(|id| self.kept.get(id)).map(|kept| kept.record.clone()).collect()
    }

    /// The offers that have nothing of what is waited for are counted, too.
    fn count_elsewhere(&mut self, hand: &[Held], now: Now) {
        let Some(record) = self.kept.values().next().map(|kept| kept.record.clone()) else { return };
        for held in hand.iter().filter(|held| held.offer.role == record.role) {
            if self.kept_in(&held.offer).is_empty() {
                let broken = vec![elsewhere(&record, &held.offer, &[])];
                self.count(&held.offer, Some(&broken), now);
            }
        }
    }

    fn launch_again(
        &mut self,
        kept: Record,
        held: &mut Held,
        placement: Placement,
        now: Now,
    ) -> (Launch, Write) {
        let definition = std::sync::Arc::clone(&self.wanted);
        self.kept.remove(&kept.id);
        let record = Record {
            version: definition.version().to_owned(),
            config: definition.config().to_owned(),
            created: now.wall,
            // Agents may come back under another name, their volumes with them.
            agent: held.offer.agent.clone(),
            location: held.offer.location.clone(),
            launches: kept.launches.saturating_add(1),
            goal: Goal::Run,
            ..kept
        };
        self.started(record, definition, held, placement, now)
    }

    /// What is waited for that volumes have, and that is not on its way.
    pub(super) fn awaits_volumes(&self, now: Now) -> Option<Blocker> {
        let kept = self.kept.values().next().filter(|_| self.missing > 0)?;
        let record = &kept.record;
        let (id, host) = (&record.id, &record.location.host);
        let waited = self.waiting.map_or(plenum_api::Millis(0), |since| now.wall.since(since));
        let more = match self.kept.len() {
            0 | 1 => String::new(),
            count => format!(" (and {} others for theirs)", count.saturating_sub(1)),
        };
        let verdict = self.tally.nodes.get(&record.agent);
        let broken = verdict.and_then(|verdict| verdict.broken.first());
        let against = broken.filter(|b| b.reason != Reason::NoCorrespondingReservationFound);
        let (kind, said) = match against {
            Some(b) => {
                let text = format!("where {} needs {} and there is {}", b.rule, b.needed, b.had);
                (Kind::AwaitsVolume, text)
            }
            None if waited < PATIENCE => (Kind::AwaitsOffer, "which is about to be offered".to_owned()),
            None => (Kind::AwaitsVolume, "which does not offer them".to_owned()),
        };
        let text = format!("{id} waits for its volumes on the node {host}, {said}{more}");
        let fix = against.map_or_else(|| give_up(host), |b| b.fix.clone());
        let (instance, host) = (Some(id.clone()), Some(host.clone()));
        let rule = against.map(|b| b.rule.clone());
        Some(Blocker { instance, host, rule, since: self.waiting, ..Blocker::new(kind, text, fix) })
    }
}

/// What helps against a node that does not come.
pub(super) fn give_up(host: &str) -> String {
    format!(
        "bring the node {host} back, or give the data on it up: kill the instance with `wipe=true`, and a new one is launched"
    )
}

/// A kept instance in the lists of tasks.
pub fn task(kept: &Kept) -> Value {
    let record = &kept.record;
    let tasks = record.tasks().map(|(_, id)| id).next();
    json!({
        "id": tasks,
        "appId": record.app,
        "host": record.location.host,
        "ports": [],
        "servicePorts": [],
        "ipAddresses": [],
        "slaveId": record.agent,
        "state": kept.state.map_or("TASK_UNKNOWN", State::name),
        "stagedAt": Value::Null,
        "startedAt": Value::Null,
        "version": record.version,
        "localVolumes": volumes(record),
        "region": record.location.region,
        "zone": record.location.zone,
        "role": record.role,
    })
}

/// An instance's volumes as clients read them.
pub fn volumes(record: &Record) -> Vec<Value> {
    record.volumes.iter().map(|volume| volume.to_json(&record.app)).collect()
}

impl Wish {
    /// Tries `offer` for an instance that ended and has volumes: it takes what is reserved for it, and nothing else.
    ///
    /// # Errors
    /// All rules that are broken; the first one if what is reserved for it is not, or not all, in the offer.
    pub fn fit_kept(
        &self,
        offer: &Offer,
        record: &Record,
        neighbours: &Neighbours,
    ) -> Result<Placement, Vec<Rejection>> {
        let mut broken = Vec::new();
        self.places(offer, neighbours, &mut broken);
        matching::maintained(offer, &mut broken);
        let mine = |name: &str| -> Vec<(usize, &Portion)> {
            let all = offer.portions.iter().enumerate();
            all.filter(|(_, p)| p.name == name && p.owner() == Some(&record.id)).collect()
        };
        let mut takes = Vec::new();
        let mut lacks = Vec::new();
        for volume in &record.volumes {
            match mine("disk").into_iter().find(|(_, p)| p.volume() == Some(&volume.id)) {
                Some((portion, p)) => takes.push(Take { portion, amount: p.amount.clone() }),
                None => lacks.push(volume.id.as_str()),
            }
        }
        for (name, _, need) in self.scalars() {
            let plain: Vec<_> = mine(name).into_iter().filter(|(_, p)| p.volume().is_none()).collect();
            match matching::take_scalar(&plain, need) {
                Ok(taken) => takes.extend(taken),
                Err(_) => lacks.push(name),
            }
        }
        if matching::take_ports(&mine("ports"), &record.host_ports, 0, &mut takes).is_err() {
            lacks.push("ports");
        }
        if !lacks.is_empty() {
            broken.push(elsewhere(record, offer, &lacks));
        }
        broken.sort_by_key(|r| r.reason);
        let host_ports = record.host_ports.clone();
        if broken.is_empty() { Ok(Placement { takes, host_ports }) } else { Err(broken) }
    }
}

/// What is reserved for the instance is not, or not all, in this offer.
pub(super) fn elsewhere(record: &Record, offer: &Offer, lacks: &[&str]) -> Rejection {
    let (host, here) = (&record.location.host, &offer.location.host);
    let had = match lacks {
        [] => format!("{here} has nothing of it"),
        lacks => format!("{here} does not offer its {}", lacks.join(", ")),
    };
    Rejection {
        reason: Reason::NoCorrespondingReservationFound,
        rule: "volumes".to_owned(),
        needed: format!("what is reserved for {} on {host}", record.id),
        had,
        fix: format!("bring {host} back, or give its data up: kill the instance with `wipe=true`"),
    }
}
