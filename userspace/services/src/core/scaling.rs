//! Apps that leave the number of their instances to the scheduler: they are measured at intervals, and what [`super::scale`] finds becomes an
//! intent like anybody's: a version, a deployment, durable before it is carried out. What was measured is not stored: a new leader looks
//! for a while before it takes anything away.
//!
//! An app of which people want no instance is left alone; so is one that is being deployed.

use std::collections::BTreeMap;

use plenum_api::{IdSource, Millis, Now};
use serde_json::{Value, json};

use super::definition::{Definition, ONLY};
use super::deployment::Deployment;
use super::id::{InstanceId, PathId};
use super::instance::{Instance, State};
use super::readiness::reach;
use super::requests::Target;
use super::scale::{Found, Kind, Load, Metric, Spec};
use super::{Core, Effect, Entry, notices, time};

/// A question that has no answer after so long will get none.
const FORGOTTEN: Millis = Millis::from_secs(120);

/// Instances to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Whose.
    pub app: PathId,
    /// When that was wanted (monotonic); the answer says it again.
    pub asked: Millis,
    /// Them.
    pub parts: Vec<Part>,
    /// The counter that each of them is asked for, if one is.
    pub counter: Option<String>,
}

/// An instance to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub instance: InstanceId,
    /// Its node's id.
    pub agent: String,
    /// The executor under which the node counts what it uses.
    pub executor: String,
    /// Where its own counter is, if that is asked for.
    pub url: Option<String>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Whose.
    pub app: PathId,
    /// When that was wanted, as the question said it.
    pub asked: Millis,
    /// Of those of which anything is known.
    pub readings: Vec<(InstanceId, Reading)>,
}

/// What is known of an instance. Each with its moment, as seconds of whatever clock it was read by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Seconds of processor time since it was launched.
    pub cpu: Option<(f64, f64)>,
    /// Bytes of memory.
    pub memory: Option<f64>,
    /// Requests since it was launched.
    pub requests: Option<(f64, f64)>,
}

/// What is known of an app that leaves its number to us.
#[derive(Clone, Debug, Default)]
pub struct Scaling {
    /// When it was measured last (monotonic).
    looked: Option<Millis>,
    /// Whether the answer to that is under way, and of which counter.
    asked: Option<Option<Counter>>,
    /// Since when there are metrics and instances to measure (monotonic).
    since: Option<Millis>,
    /// The last readings, and the counter that they are of.
    last: (Option<Counter>, BTreeMap<InstanceId, Reading>),
    /// Numbers that were found, each with the last time (monotonic): whether one was within a window needs no more.
    past: Vec<(Millis, u32)>,
    /// What people are told.
    status: Option<Value>,
}

/// Where a counter is: its name, its page, the index of its port.
type Counter = (Option<String>, String, usize);

impl Core {
    /// Has an app measured whose turn it is, and wakes up for the next time.
    pub(super) fn look_at_load(&mut self, id: &PathId, now: Now) {
        let Some(entry) = self.state.apps.get(id) else { return };
        let Some(spec) = entry.wanted.app().and_then(Spec::of).filter(|_| !entry.removing) else {
            if entry.scaling.is_some()
                && let Some(entry) = self.state.apps.get_mut(id)
            {
                entry.scaling = None;
            }
            return;
        };
        if let Some(due) =
            entry.scaling.as_ref().and_then(|scaling| scaling.due(&spec)).filter(|due| *due > now.mono)
        {
            self.wake.insert((due, id.clone()));
            return;
        }
        let counted = spec.metrics.iter().find(|metric| metric.kind == Kind::Requests);
        let parts: Vec<Part> = match spec.metrics.is_empty() {
            true => Vec::new(),
            false => entry.running().filter_map(|i| entry.part(i, counted)).collect(),
        };
        let counter = counted.and_then(|metric| metric.counter.clone());
        let of = counted.map(Metric::place);
        if let Some(entry) = self.state.apps.get_mut(id) {
            let scaling = entry.scaling.get_or_insert_default();
            (scaling.looked, scaling.asked) = (Some(now.mono), Some(of));
            self.wake.extend(scaling.due(&spec).map(|due| (due, id.clone())));
        }
        self.out.push(Effect::Measure(Box::new(Measure {
            app: id.clone(),
            asked: now.mono,
            parts,
            counter,
        })));
    }

    /// An app was measured: its number may change.
    pub(super) fn measured(&mut self, measured: Measured, now: Now, ids: &mut dyn IdSource) {
        let Measured { app: id, asked, readings } = measured;
        let Some(entry) = self.state.apps.get_mut(&id).filter(|entry| !entry.removing) else { return };
        let Some(spec) = entry.wanted.app().and_then(Spec::of) else { return };
        let scaling = entry.scaling.get_or_insert_default();
        let Some(of) = scaling.asked.take_if(|_| scaling.looked == Some(asked)) else { return };
        self.wake.extend(scaling.due(&spec).map(|due| (due, id.clone())));
        let current = entry.wanted.instances();
        let loads = entry.loads(&spec, (of, readings));
        let (min, max, schedule) = spec.limits(now.wall);
        let by_schedule = spec.metrics.is_empty() || current == 0;
        let mut found = match (current, by_schedule) {
            (0, _) if !entry.wanted.is_resting() => {
                Found { count: 0, why: "no instances are wanted: that is left so".to_owned() }
            }
            (_, true) => Found { count: min, why: "as many as the schedule says".to_owned() },
            (_, false) => spec.wish(current, &loads).unwrap_or_else(|| Found {
                count: current,
                why: "nothing is known yet of what it uses".to_owned(),
            }),
        };
        let wish = found.count;
        if by_schedule {
            entry.scaling.get_or_insert_default().forget();
        } else {
            found = entry.settle(&spec, found, now, (min, max));
        }
        let theirs = entry.deployments.iter().filter_map(|name| self.state.deployments.get(name));
        // One that only changes the number gives way: what it waits for may not be needed any more.
        let busy = !theirs.into_iter().all(Deployment::only_scales);
        if busy && found.count != current {
            found = Found { count: current, why: format!("{}; a deployment is under way", found.why) };
        }
        let figures: Vec<Value> =
            spec.metrics.iter().zip(&loads).map(|(metric, load)| figure(metric, load)).collect();
        let mut status = json!({
            "current": current, "desired": found.count, "wish": wish, "why": found.why, "min": min, "max": max,
            "at": time::text(now.wall), "metrics": figures,
        });
        if let Some(schedule) = schedule {
            status["schedule"] = Value::from(schedule.start.as_str());
        }
        entry.scaling.get_or_insert_default().status = Some(status.clone());
        if found.count != current {
            self.resize(&id, found.count, status, now, ids);
        }
    }

    /// The number changes, as if somebody had asked for it.
    fn resize(&mut self, id: &PathId, count: u32, status: Value, now: Now, ids: &mut dyn IdSource) {
        let Some(entry) = self.state.apps.get_mut(id) else { return };
        let mut wanted = Definition::clone(&entry.wanted);
        wanted.scale_to(count);
        wanted.rest();
        match self.submit([(id.clone(), Target::be(wanted))].into(), true, now, ids) {
            Ok(_) => {
                let mut fields = status;
                fields["appId"] = json!(id);
                self.publish(notices::notice("autoscale_event", fields, now));
            }
            Err(error) => {
                if let Some(status) = self
                    .state
                    .apps
                    .get_mut(id)
                    .and_then(|entry| entry.scaling.as_mut())
                    .and_then(|scaling| scaling.status.as_mut())
                {
                    status["why"] =
                        Value::from(format!("{}; refused: {error}", status["why"].as_str().unwrap_or("")));
                }
            }
        }
    }
}

impl Entry {
    /// Instances that run and are not told to end. What one uses while it starts says nothing about its load.
    fn running(&self) -> impl Iterator<Item = &Instance> {
        let runs = |i: &&Instance| i.is_wanted() && i.state() == Some(State::Running);
        self.instances.values().filter(runs).filter(|i| !i.is_starting(self.definition_of(&i.record)))
    }

    fn part(&self, instance: &Instance, counted: Option<&Metric>) -> Option<Part> {
        let record = &instance.record;
        let definition = self.definition_of(record);
        let url = counted.and_then(|metric| {
            let slash = if metric.path.starts_with('/') { "" } else { "/" };
            let place = reach(definition, instance, metric.port_index)?;
            Some(format!("http://{place}{slash}{}", metric.path))
        });
        // The command executor of a task has its id.
        let executor = record.id.task_id(ONLY, record.launches);
        Some(Part { instance: record.id.clone(), agent: record.agent.clone(), executor, url })
    }

    /// The loads of all metrics by these readings, of that counter, and the last ones.
    fn loads(
        &mut self,
        spec: &Spec,
        (of, readings): (Option<Counter>, Vec<(InstanceId, Reading)>),
    ) -> Vec<Load> {
        let needs = self.wanted.needs();
        let running: Vec<InstanceId> = self.running().map(|i| i.record.id.clone()).collect();
        let readings: BTreeMap<InstanceId, Reading> = readings.into_iter().collect();
        let scaling = self.scaling.get_or_insert_default();
        let (counted, before) = std::mem::replace(&mut scaling.last, (of, readings));
        let (of, after) = &scaling.last;
        // What another counter says is no growth of this one.
        let same = counted == *of;
        let value = |kind: Kind, id: &InstanceId| {
            let (now, then) = (after.get(id)?, before.get(id));
            match kind {
                Kind::Cpu => Some(rate(now.cpu?, then?.cpu?)? / needs.cpus),
                Kind::Memory => Some(now.memory? / (needs.mem * 1_048_576.0)),
                Kind::Requests => rate(now.requests?, then.filter(|_| same)?.requests?),
            }
        };
        let wanted = self.wanted.instances();
        let load = |metric: &Metric| {
            let known: Vec<f64> = running.iter().filter_map(|id| value(metric.kind, id)).collect();
            let unknown = wanted.saturating_sub(u32::try_from(known.len()).unwrap_or(u32::MAX));
            Load { known, unknown }
        };
        spec.metrics.iter().map(load).collect()
    }

    /// What becomes of a number that was just found, with what was found before.
    fn settle(&mut self, spec: &Spec, found: Found, now: Now, limits: (u32, u32)) -> Found {
        let current = self.wanted.instances();
        let scaling = self.scaling.get_or_insert_default();
        scaling.note(found.count, now.mono, spec.longest_window());
        let since = *scaling.since.get_or_insert(now.mono);
        spec.settle(current, found, &scaling.past, (now.mono, since), limits)
    }

    /// What is found about the number of its instances, where that is left to us.
    pub fn autoscale_status(&self) -> Option<&Value> {
        self.scaling.as_ref()?.status.as_ref()
    }
}

impl Scaling {
    /// When it is measured next (monotonic); none: at once. While an answer is under way nothing else is asked.
    fn due(&self, spec: &Spec) -> Option<Millis> {
        let after = if self.asked.is_some() { FORGOTTEN.max(spec.interval()) } else { spec.interval() };
        self.looked.map(|at| at + after)
    }

    /// Begins anew: nothing is measured, so nothing holds.
    fn forget(&mut self) {
        self.since = None;
        self.past.clear();
        self.last.1.clear();
    }

    /// Remembers that a number was found.
    fn note(&mut self, count: u32, now: Millis, longest: Millis) {
        self.past.retain(|(at, other)| *other != count && now.since(*at) <= longest);
        self.past.push((now, count));
    }
}

/// What one value grew by in a second since another one was read; none where it began anew.
fn rate((value, at): (f64, f64), (before, then): (f64, f64)) -> Option<f64> {
    (at > then && value >= before).then(|| (value - before) / (at - then))
}

/// A metric as people read it.
fn figure(metric: &Metric, load: &Load) -> Value {
    let mean = match load.known.len() {
        0 => Value::Null,
        count => json!(load.known.iter().sum::<f64>() / count as f64),
    };
    json!({
        "type": metric.kind.name(), "value": mean, "target": metric.target,
        "known": load.known.len(), "unknown": load.unknown,
    })
}
