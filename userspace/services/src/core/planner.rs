//! What is done about the difference between what is wanted and what runs. Level-triggered: it looks at the state as
//! it is, so it does not matter how it came about or how often it is asked.

use std::collections::BTreeSet;

use plenum_api::{IdSource, Millis, Now};

use super::app::KillSelection;
use super::bugs::{self, Bug};
use super::definition::Definition;
use super::id::{InstanceId, PathId};
use super::instance::{Goal, Instance, State};
use super::{Core, Effect, Entry, Tally, Write, notices, records};

/// After so long an instance that did not end is asked again.
const KILL_AGAIN: Millis = Millis::from_secs(10);

/// What the numbers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) missing: u32,
    pub(super) stop: Vec<InstanceId>,
}

impl Core {
    /// Plans every app that something happened to, moves deployments on, and uses offers.
    pub(super) fn plan(&mut self, now: Now, ids: &mut dyn IdSource) {
        let mut touched = std::mem::take(&mut self.dirty);
        loop {
            for id in &touched {
                self.plan_app(id, now);
            }
            touched = self.advance(&touched, now);
            if touched.is_empty() {
                break;
            }
        }
        self.place(now, ids);
    }

    fn plan_app(&mut self, id: &PathId, now: Now) {
        let Some(entry) = self.state.apps.get(id) else { return };
        let mut deployments = entry.deployments.iter().filter_map(|name| self.state.deployments.get(name));
        let holds = deployments.any(|deployment| deployment.holds(id));
        let mut writes = self.wipe_left(id, now);
        let Some(entry) = self.state.apps.get_mut(id) else { return };
        let (given_up, wake, lapsed) = entry.give_up_unreachable(now);
        writes.extend(given_up);
        let ghosts: Vec<InstanceId> = entry
            .instances
            .values()
            .filter(|i| i.record.goal == Goal::Ghost)
            .map(|i| i.record.id.clone())
            .collect();
        let (mut news, mut gone) = (Vec::new(), Vec::new());
        for ghost in ghosts {
            if let Some(instance) = entry.instances.remove(&ghost) {
                self.index.remove(&ghost);
                if lapsed.contains(&ghost) {
                    self.lapsed.insert(ghost.clone());
                }
                news.push(notices::instance_changed(&instance, "UnreachableInactive", now));
                gone.push(instance.record.version.clone());
                if !bugs::on(Bug::ForgottenUnreachable) {
                    self.state.ghosts.insert(ghost, instance.record);
                }
            }
        }
        let decision = if holds { Decision::default() } else { entry.decide() };
        for victim in &decision.stop {
            if let Some(instance) = entry.instances.get_mut(victim) {
                let wipe = entry.removing && instance.record.is_resident();
                instance.record.goal = if wipe { Goal::Wipe } else { Goal::Stop };
                writes.push(records::put_instance(&instance.record));
            }
        }
        if !decision.stop.is_empty() {
            entry.moved = now.mono;
        }
        let more = decision.missing > entry.missing;
        entry.missing = decision.missing;
        if entry.missing == 0 {
            (entry.waiting, entry.tally) = (None, Tally::default());
            self.hungry.remove(id);
        } else {
            entry.waiting.get_or_insert(now.wall);
            self.hungry.insert(id.clone());
        }
        let held_until = entry.held_until();
        if entry.missing > 0 && held_until > now.mono {
            let early = held_until.since(self.state.settings.hold);
            self.wake.insert((if early > now.mono { early } else { held_until }, id.clone()));
        }
        if entry.missing > 0 && (more || held_until > Millis(0)) {
            self.offers.ask();
        }
        self.wake.extend(wake.map(|at| (at, id.clone())));
        self.commit(writes);
        news.into_iter().for_each(|notice| self.publish(notice));
        gone.into_iter().for_each(|version| self.tell_gone(id, &version, now));
        self.end_instances(id, now);
        self.ask_whether_ready(id, now);
        self.look_at_load(id, now);
        self.bury(id, now);
    }

    /// Asks instances that are to end to do so, again after a while.
    fn end_instances(&mut self, id: &PathId, now: Now) {
        if self.state.master.is_none() {
            return;
        }
        let Some(entry) = self.state.apps.get_mut(id) else { return };
        let grace = entry.wanted.grace();
        let again = now.mono + KILL_AGAIN.max(grace.unwrap_or_default());
        let again_due = |at: Millis| at <= now.mono && !bugs::on(Bug::KilledOnce);
        let due = |i: &Instance| !i.is_wanted() && i.again.is_none_or(again_due);
        entry.instances.change_where(due, |instance| {
            instance.again = Some(again);
            self.wake.insert((again, id.clone()));
            for (_, task) in instance.record.tasks() {
                let agent = Some(instance.record.agent.clone());
                self.out.push(Effect::Kill { task, agent, grace });
            }
        });
    }

    /// Removes an app that is to go once nothing of it runs.
    fn bury(&mut self, id: &PathId, now: Now) {
        if !self.state.apps.get(id).is_some_and(|e| e.removing && e.instances.is_empty()) {
            return;
        }
        let Some(entry) = self.state.apps.remove(id) else { return };
        self.census.leave(&entry);
        self.hungry.remove(id);
        self.due.extend(entry.deployments.iter().cloned());
        let versions = entry.versions.keys().map(|v| Write::Delete(records::version_key(id, v)));
        // The root last: an app whose versions are half gone is still one that is to go. Loading needs its version.
        let current = records::version_key(id, entry.wanted.version());
        let mut writes: Vec<Write> =
            versions.filter(|w| !matches!(w, Write::Delete(key) if *key == current)).collect();
        writes.extend(entry.all_pins());
        writes.push(Write::Delete(records::root_key(id)));
        writes.push(Write::Delete(current));
        let last = writes.split_off(writes.len().saturating_sub(2));
        self.commit(writes);
        self.commit(last);
        entry.last_checks(now).into_iter().for_each(|notice| self.publish(notice));
        self.publish(notices::notice("app_terminated_event", serde_json::json!({"appId": id}), now));
    }
}

impl Entry {
    /// Gives instances up that are out of reach for too long, or that are to end anyway: they become ghosts, which are
    /// ended when they come back. Says when to look again, and which were wanted to the last.
    fn give_up_unreachable(&mut self, now: Now) -> (Vec<Write>, Option<Millis>, BTreeSet<InstanceId>) {
        let patience = self.wanted.unreachable_patience();
        let (mut writes, mut lapsed) = (Vec::new(), BTreeSet::new());
        let until = |i: &Instance| patience.map(|p| i.since + p);
        let lost = |i: &Instance| i.state() == Some(State::Unreachable);
        // What has volumes is waited for: nothing else has its data.
        let ends = |i: &Instance| !i.is_wanted() || until(i).is_some_and(|at| at <= now.mono);
        let over = |i: &Instance| ends(i) && !i.record.is_resident();
        let waited = self.instances.values().filter(|i| lost(i) && !over(i)).filter_map(until);
        let wake = waited.min();
        let removing = self.removing;
        self.instances.change_where(
            |i| lost(i) && over(i),
            |instance| {
                if instance.is_wanted() && !removing {
                    lapsed.insert(instance.record.id.clone());
                }
                instance.record.goal = Goal::Ghost;
                writes.push(records::put_instance(&instance.record));
            },
        );
        (writes, wake, lapsed)
    }

    /// How many instances to add and which to end, from the numbers alone.
    pub(super) fn decide(&self) -> Decision {
        let config = self.wanted.config();
        let wanted = || self.instances.values().filter(|i| i.is_wanted() && !i.is_leaving());
        if self.removing {
            let wanted = || self.instances.values().filter(|i| i.is_wanted());
            return Decision { missing: 0, stop: wanted().map(|i| i.record.id.clone()).collect() };
        }
        let target = usize::try_from(self.wanted.instances()).unwrap_or(usize::MAX);
        let is_old = |i: &&Instance| self.roll && i.record.config != config;
        let old: Vec<&Instance> = wanted().filter(is_old).collect();
        let new: Vec<&Instance> = wanted().filter(|i| !is_old(i)).collect();
        let alive = self.instances.len();
        // Whoever is still ending has its place until it has ended; only replacing a version, or what others are taking away, may go
        // above the target.
        let replacing =
            self.instances.values().any(|i| i.is_leaving() || (self.roll && i.record.config != config));
        let (least, most) = if replacing { bounds(&self.wanted) } else { (0, target) };
        let missing = target.saturating_sub(new.len()).min(most.saturating_sub(alive));
        let mut stop = self.surplus(&new, new.len().saturating_sub(target));
        if !old.is_empty() {
            let stopped: BTreeSet<&InstanceId> = stop.iter().collect();
            let ready = wanted().filter(|i| self.is_ready(i) && !stopped.contains(&i.record.id)).count();
            let least = if bugs::on(Bug::CapacityIgnored) { 0 } else { least };
            let stop_old = self.old_to_stop(old, ready.saturating_sub(least));
            stop.extend(stop_old);
        }
        Decision { missing: u32::try_from(missing).unwrap_or(u32::MAX), stop }
    }

    /// Readiness by the definition an instance was launched from.
    fn is_ready(&self, instance: &Instance) -> bool {
        instance.is_ready(self.definition_of(&instance.record))
    }

    fn surplus(&self, of: &[&Instance], count: usize) -> Vec<InstanceId> {
        let mut order = of.to_vec();
        self.sort_victims(&mut order);
        order.into_iter().take(count).map(|i| i.record.id.clone()).collect()
    }

    /// Those that serve nobody go at once, the others as far as enough are left.
    fn old_to_stop(&self, mut old: Vec<&Instance>, mut spare: usize) -> Vec<InstanceId> {
        self.sort_victims(&mut old);
        let mut stop = Vec::new();
        for instance in old {
            // Nothing is known of it since we started: it may well serve.
            if instance.state().is_none() {
                continue;
            }
            if self.is_ready(instance) {
                if spare == 0 {
                    continue;
                }
                spare -= 1;
            }
            stop.push(instance.record.id.clone());
        }
        stop
    }

    fn sort_victims(&self, victims: &mut [&Instance]) {
        victims.sort_by(|a, b| {
            let age = match self.wanted.kill_selection() {
                KillSelection::Youngest => b.record.created.cmp(&a.record.created),
                KillSelection::Oldest => a.record.created.cmp(&b.record.created),
            };
            let ready = self.is_ready(a).cmp(&self.is_ready(b));
            ready.then(age).then_with(|| a.record.id.cmp(&b.record.id))
        });
    }
}

/// The least that must stay ready and the most that may be alive while instances are replaced. When the two leave no
/// room to move, one more is allowed, as in Marathon.
fn bounds(definition: &Definition) -> (usize, usize) {
    let (target, upgrade) = (f64::from(definition.instances()), definition.upgrade());
    let least = (target * upgrade.minimum_health_capacity).ceil() as usize;
    if definition.is_resident() {
        // The new one starts where the old one's data is: the old one ends first, whatever the strategy says.
        let most = target as usize;
        return (least.min(most.saturating_sub(1)), most);
    }
    let most = (target * (1.0 + upgrade.maximum_over_capacity)).floor() as usize;
    (least, if most <= least { least.saturating_add(1) } else { most })
}

#[cfg(test)]
mod tests {
    use super::super::app::App;
    use super::*;

    #[test]
    fn bounds_leave_room_to_move() {
        for (instances, minimum, over, want) in [
            (1, 1.0, 1.0, (1, 2)),
            (1, 1.0, 0.0, (1, 2)),
            (1, 0.5, 0.0, (1, 2)),
            (2, 0.5, 0.0, (1, 2)),
            (4, 1.0, 0.2, (4, 5)),
            (10, 0.9, 0.2, (9, 12)),
            (3, 0.0, 0.0, (0, 3)),
            (0, 1.0, 1.0, (0, 1)),
        ] {
            let mut app = App::new(PathId::parse("/a").unwrap(), "*");
            app.instances = instances;
            app.upgrade_strategy.minimum_health_capacity = minimum;
            app.upgrade_strategy.maximum_over_capacity = over;
            assert_eq!(bounds(&Definition::App(app)), want, "{instances} {minimum} {over}");
        }
    }
}
