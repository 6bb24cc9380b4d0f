//! What must always hold, and what must hold in the end. Looked at from outside where that is possible: what nodes run, what is in the store, what
//! is launched; of the core's own books only what it decided is compared with the rules.

use std::collections::{BTreeMap, BTreeSet};

use plenum_services::core::definition::Definition;
use plenum_services::core::id::PathId;
use plenum_services::core::instance::{Goal, Instance};
use plenum_services::core::{Entry, Snapshot};

use super::master::{Standing, instance_of};
use super::node::Run;
use super::{Happens, World};
use crate::check::Violation;

/// One too many may run for so long, while everybody can talk to everybody.
const EXCESS: u64 = 90_000;

/// What was seen so far.
#[derive(Default)]
pub struct Seen {
    launched: BTreeSet<String>,
    /// Since when more of an app runs than may.
    excess: BTreeMap<String, u64>,
}

/// The least that must serve and the most that may be there while instances are replaced, by Marathon's rule: where the two leave no room, one more.
fn bounds(definition: &Definition) -> (usize, usize) {
    let (target, upgrade) = (f64::from(definition.instances()), definition.upgrade());
    let least = (target * upgrade.minimum_health_capacity).ceil() as usize;
    let most = (target * (1.0 + upgrade.maximum_over_capacity)).floor() as usize;
    (least, if most <= least { least + 1 } else { most })
}

fn serves(entry: &Entry, instance: &Instance) -> bool {
    instance.is_ready(entry.versions.get(&instance.record.version).unwrap_or(&entry.wanted))
}

/// Whether an instance is not of the version that is wanted.
fn is_old(entry: &Entry, instance: &Instance) -> bool {
    instance.record.config != entry.wanted.config()
}

impl Seen {
    /// A launch goes out.
    pub fn launches(&mut self, instance: &str, store: &BTreeMap<String, Vec<u8>>) -> Result<(), Violation> {
        if !self.launched.insert(instance.to_owned()) {
            return Err(format!("{instance} is launched twice"));
        }
        if !store.contains_key(&format!("instances/{instance}")) {
            return Err(format!("{instance} is launched before it is written down"));
        }
        Ok(())
    }

    /// The core decided something: capacities of upgrades hold.
    pub fn decided(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        asked_to_kill: bool,
    ) -> Result<(), Violation> {
        for (id, entry) in after.apps.iter() {
            let Some(old) = before.apps.get(id) else { continue };
            if std::ptr::eq(old, entry) || entry.removing {
                continue;
            }
            if !asked_to_kill {
                Self::enough_serve(id, old, entry)?;
            }
            Self::not_too_many(id, old, entry)?;
        }
        Ok(())
    }

    fn enough_serve(id: &PathId, before: &Entry, after: &Entry) -> Result<(), Violation> {
        let ended = after.instances.iter().filter(|(key, instance)| {
            let ran = before.instances.get(*key).is_some_and(|old| old.record.goal == Goal::Run);
            let mut was = (*instance).clone();
            was.record.goal = Goal::Run;
            ran && instance.record.goal == Goal::Stop && serves(after, &was)
        });
        let ended = ended.count();
        let left = after.instances.values().filter(|instance| serves(after, instance)).count();
        let (least, _) = bounds(&after.wanted);
        if ended > 0 && left < least {
            return Err(format!(
                "{id}: {ended} instances that serve are ended and {left} are left, of {} at least {least} have to be",
                after.wanted.instances()
            ));
        }
        Ok(())
    }

    fn not_too_many(id: &PathId, before: &Entry, after: &Entry) -> Result<(), Violation> {
        let fresh = after.instances.keys().filter(|key| !before.instances.contains_key(*key)).count();
        let alive = after.instances.len();
        let replacing = after.instances.values().any(|i| is_old(after, i) || i.is_leaving());
        let target = after.wanted.instances() as usize;
        let most = if replacing { bounds(&after.wanted).1.max(target) } else { target };
        if fresh > 0 && alive > most {
            return Err(format!("{id}: {fresh} instances are launched and {alive} are there, {most} may be"));
        }
        Ok(())
    }
}

impl World {
    /// Looks at what may be wrong for a while only; then for whether all is as wanted.
    pub fn look(&mut self) -> Result<(), Violation> {
        self.later(5_000, Happens::Look);
        self.too_many_for_too_long()?;
        if self.operator.is_heard() {
            match self.as_wanted() {
                Ok(()) => drop(self.good_since.get_or_insert(self.now)),
                Err(wrong) => {
                    self.tell(|| format!("  not yet: {wrong}"));
                    self.good_since = None;
                }
            }
        }
        Ok(())
    }

    /// What runs on nodes that can be reached, by app.
    fn reachable(&self) -> BTreeMap<&str, Vec<(&String, &Run)>> {
        let mut all: BTreeMap<&str, Vec<(&String, &Run)>> = BTreeMap::new();
        let there = |id: &str| self.master.agents.get(id) == Some(&Standing::Registered);
        for node in self.nodes.iter().filter(|node| node.is_linked() && there(&node.id)) {
            for (id, run) in node.runs.iter().filter(|(_, run)| run.lives()) {
                all.entry(&run.app).or_default().push((id, run));
            }
        }
        all
    }

    /// Whether scheduler and master hear each other.
    fn can_talk(&self) -> bool {
        self.master.up && self.scheduler.stream.is_some() && self.scheduler.stream == self.master.stream
    }

    fn too_many_for_too_long(&mut self) -> Result<(), Violation> {
        let Some(state) = self.scheduler.state().filter(|_| self.can_talk()) else {
            self.seen.excess.clear();
            return Ok(());
        };
        let mut excess = BTreeMap::new();
        for (app, runs) in self.reachable() {
            let entry = PathId::parse(app).ok().and_then(|id| state.apps.get(&id));
            let may = entry.map_or(0, |entry| {
                match entry.deployments.is_empty() && !entry.instances.values().any(|i| is_old(entry, i)) {
                    true => entry.wanted.instances() as usize,
                    false => bounds(&entry.wanted)
                        .1
                        .max(entry.wanted.instances() as usize)
                        .max(entry.instances.len()),
                }
            });
            if runs.len() > may {
                let since = self.seen.excess.get(app).copied().unwrap_or(self.now);
                if self.now > since + EXCESS {
                    let ids: Vec<&String> = runs.iter().map(|(id, _)| *id).collect();
                    return Err(format!("{app}: {} run for {EXCESS} ms, {may} may: {ids:?}", runs.len()));
                }
                excess.insert(app.to_owned(), since);
            }
        }
        self.seen.excess = excess;
        Ok(())
    }

    /// Whether all is as the operator said last.
    pub fn as_wanted(&self) -> Result<(), Violation> {
        let state = self.scheduler.state().ok_or("nobody decides")?;
        let runs = self.reachable();
        for (id, wanted) in &self.operator.last {
            let there: &[(&String, &Run)] = runs.get(id).map_or(&[], Vec::as_slice);
            let count = wanted.as_ref().map_or(0, |wanted| wanted.instances);
            if there.len() as u64 != count {
                let ids: Vec<_> = there.iter().map(|(id, run)| format!("{id} ({})", run.cmd)).collect();
                return Err(format!("{id}: {} run, {count} are wanted: {}", there.len(), ids.join(" ")));
            }
            if let Some(wanted) = wanted
                && let Some((id, run)) = there.iter().find(|(_, run)| run.cmd != wanted.cmd || !run.serves())
            {
                return Err(format!("{id} runs {} instead of {}, or does not serve", run.cmd, wanted.cmd));
            }
            let known = PathId::parse(id).ok().and_then(|id| state.apps.get(&id));
            if known.is_some() != wanted.is_some() {
                return Err(format!("{id}: it is there, or not, against the operator's word"));
            }
            if let Some(entry) = known.filter(|entry| !entry.is_as_wanted()) {
                return Err(format!("{id}: by its own books it is not as wanted: missing {}", entry.missing));
            }
        }
        if let Some(deployment) = state.deployments.keys().next() {
            return Err(format!("the deployment {deployment} has not ended"));
        }
        self.nothing_else(state)
    }

    /// Nothing runs, and nothing is stored, that nobody wants.
    fn nothing_else(&self, state: &Snapshot) -> Result<(), Violation> {
        let wanted: BTreeSet<&str> =
            state.apps.values().flat_map(|entry| entry.instances.keys()).map(|id| id.as_str()).collect();
        for (app, runs) in self.reachable() {
            if let Some((id, _)) = runs.iter().find(|(id, _)| !wanted.contains(id.as_str())) {
                return Err(format!("{id} of {app} runs and nobody wants it"));
            }
        }
        if let Some(stranger) = state.strangers.keys().next() {
            return Err(format!("{stranger} was not written down by anybody ({})", instance_of(stranger)));
        }
        let lost = |agent: &str| self.nodes.iter().all(|node| node.id != agent);
        if let Some(ghost) = state.ghosts.values().find(|record| !lost(&record.agent)) {
            return Err(format!("{} is given up, and its node is there", ghost.id));
        }
        for key in self.scheduler.store().keys() {
            let (kind, rest) = key.split_once('/').unwrap_or((key, ""));
            let known = match kind {
                "instances" => {
                    wanted.contains(rest) || state.ghosts.values().any(|ghost| ghost.id.as_str() == rest)
                }
                "deployments" | "batches" => false,
                _ => true,
            };
            if !known {
                return Err(format!("{key} is stored and nobody needs it"));
            }
        }
        Ok(())
    }
}
