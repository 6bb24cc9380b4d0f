//! What keeps an app or a pod from being as wanted, as data: which instance, which check, which rule, since when, and what would help. Made
//! of the same state that the planner decides by.
//!
//! Owns no decision but one: whether something is on its way by itself ([`Kind::is_on_the_way`]), which is what a deployment's lock asks.

use plenum_api::{Millis, Now};
use serde::Serialize;

use super::deployment::Deployment;
use super::id::InstanceId;
use super::instance::{Instance, Record, State};
use super::matching::Rejection;
use super::{Core, Entry, NodeVerdict, Snapshot, time};

/// A deployment whose apps have not moved for so long holds no lock.
pub(super) const PATIENCE: Millis = Millis::from_secs(5);
/// After an end that nobody asked for the app counts as failing for so long, unless it serves meanwhile.
const FAILING: Millis = Millis::from_secs(60);
/// Blockers that are named one by one; the others are counted.
const NAMED: usize = 10;

/// What sort of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// No master takes our calls.
    NoMaster,
    /// Instances end by themselves; launches wait in between.
    Failing,
    /// The quota of its role is used up.
    QuotaFull,
    /// No node offers what is asked for.
    NothingFits,
    /// A health check fails.
    Unhealthy,
    /// An instance says that it is not ready.
    Unready,
    /// An instance's node is out of reach.
    Unreachable,
    /// An instance that ended waits for its volumes, and its node does not offer them.
    AwaitsVolume,
    /// Nothing has been offered yet.
    NoOffer,
    /// An offer is about to be used.
    AwaitsOffer,
    /// Nothing is known of an instance since this scheduler started.
    AwaitsNews,
    /// An instance starts.
    Starts,
    /// It runs, and its health check has not answered yet.
    AwaitsHealth,
    /// It runs, and its readiness check has not answered yet.
    AwaitsReadiness,
    /// Instances of an older version are replaced one after the other.
    Replaces,
    /// Instances end.
    Ends,
}

impl Kind {
    /// Whether it passes by itself, as far as one can see.
    pub fn is_on_the_way(self) -> bool {
        self >= Kind::NoOffer
    }
}

/// One thing in the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocker {
    /// What sort.
    pub kind: Kind,
    /// In a sentence.
    pub text: String,
    /// Of which instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// On which node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Which health check, by its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<usize>,
    /// Which rule of placement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Since when (time of day).
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "moment")]
    pub since: Option<Millis>,
    /// What would help.
    pub fix: String,
}

fn moment<S: serde::Serializer>(at: &Option<Millis>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => to.serialize_str(&time::text(*at)),
        None => to.serialize_none(),
    }
}

impl Blocker {
    pub(super) fn new(kind: Kind, text: impl Into<String>, fix: impl Into<String>) -> Self {
        let (text, fix) = (text.into(), fix.into());
        Self { kind, text, instance: None, host: None, check: None, rule: None, since: None, fix }
    }

    fn of(self, instance: &Instance, since: Millis) -> Self {
        let (id, host) = (instance.record.id.clone(), instance.record.location.host.clone());
        Self { instance: Some(id), host: Some(host), since: Some(since), ..self }
    }
}

impl Snapshot {
    /// What is in an app's way, the worst first; nothing when it is as wanted.
    pub fn blockers(&self, entry: &Entry, now: Now) -> Vec<Blocker> {
        let mut all = entry.blockers(now);
        // What is launched again has its resources already.
        if entry.fresh() > 0
            && !entry.removing
            && let Some(full) = self.quota_full(entry)
        {
            // What offers lack is then what the quota leaves of them.
            all.retain(|one| !matches!(one.kind, Kind::NothingFits | Kind::NoOffer | Kind::AwaitsOffer));
            all.push(full);
        }
        if entry.missing > 0 && !entry.removing {
            all.extend(self.given_up(entry));
        }
        if !all.is_empty() && !self.is_connected() {
            let text = "no master is connected, so nothing can be launched or ended";
            all.push(Blocker::new(Kind::NoMaster, text, "see `plenum status`"));
        }
        all.sort_by_key(|blocker| blocker.kind);
        all
    }
}

impl Snapshot {
    /// Instances that were given up with their nodes, while others are still missing in their place.
    fn given_up(&self, entry: &Entry) -> Vec<Blocker> {
        let id = entry.wanted.id();
        let mut lost = self.ghosts.values().filter(|record| record.app == *id);
        let named: Vec<&Record> = lost.by_ref().take(NAMED).collect();
        let more = lost.count();
        let mut all: Vec<Blocker> = named
            .into_iter()
            .map(|record| {
                let host = &record.location.host;
                let text = format!(
                    "the node {host} of {} is out of reach, and another instance is to take its place",
                    record.id
                );
                let fix = format!("bring the node back, or have room for another one: {host} counts no more");
                let (instance, host) = (Some(record.id.clone()), Some(host.clone()));
                Blocker { instance, host, since: entry.waiting, ..Blocker::new(Kind::Unreachable, text, fix) }
            })
            .collect();
        if let (true, Some(last)) = (more > 0, all.last_mut()) {
            last.text.push_str(&format!("; so are {more} more"));
        }
        all
    }
}

impl Core {
    /// Whether a change of what a deployment changes has to wait for it, or be forced: only while it gets on.
    pub(super) fn is_locked(&self, deployment: &Deployment, now: Now) -> bool {
        let apps = deployment.current().iter().filter_map(|action| self.state.apps.get(&action.app));
        let mut moved = Millis(0);
        for entry in apps {
            if self.state.blockers(entry, now).iter().any(|blocker| !blocker.kind.is_on_the_way()) {
                return false;
            }
            moved = moved.max(entry.moved);
        }
        now.mono.since(moved) < PATIENCE
    }
}

impl Entry {
    /// Whether one of its health checks has not passed.
    fn lacks_health(&self, instance: &Instance) -> bool {
        instance.lacks_health(self.definition_of(&instance.record))
    }

    /// Whether nothing is left to do.
    pub fn is_as_wanted(&self) -> bool {
        if self.removing {
            return self.instances.is_empty();
        }
        let target = usize::try_from(self.wanted.instances()).unwrap_or(usize::MAX);
        let config = self.wanted.config();
        self.missing == 0
            && self.instances.len() == target
            && self
                .instances
                .values()
                .all(|i| i.is_ready(&self.wanted) && !(self.roll && i.record.config != config))
    }

    /// What is in its way as far as it knows itself, in no order.
    fn blockers(&self, now: Now) -> Vec<Blocker> {
        if self.is_as_wanted() {
            return Vec::new();
        }
        let mut all = Vec::new();
        if !self.removing {
            all.extend(self.awaits_volumes(now));
            all.extend(self.launching(now));
            all.extend(self.replacing());
            self.living(&mut all);
        }
        let ending: Vec<&Instance> = self.instances.values().filter(|i| !i.is_wanted()).collect();
        if let Some(first) = ending.iter().min_by_key(|i| i.since) {
            let text = match ending.len() {
                1 => "an instance has not ended yet".to_owned(),
                count => format!("{count} instances have not ended yet"),
            };
            let fix = "it is asked again until its node confirms; its grace period may be long";
            all.push(Blocker::new(Kind::Ends, text, fix).of(first, first.staged));
        }
        all
    }

    /// What keeps missing instances from being launched.
    fn launching(&self, now: Now) -> Option<Blocker> {
        let config = self.wanted.config();
        let failing = self.backoff.as_ref().filter(|backoff| {
            let serves =
                self.instances.values().any(|i| i.record.config == config && i.is_ready(&self.wanted));
            backoff.config == config && now.mono < backoff.until + FAILING && !serves
        });
        if let Some(backoff) = failing.filter(|_| self.missing > 0 || !self.has_ready()) {
            return Some(self.failing(backoff.until.since(now.mono)));
        }
        let what = match self.fresh() {
            0 => return None,
            1 => "an instance waits".to_owned(),
            count => format!("{count} instances wait"),
        };
        let nodes = &self.tally.nodes;
        let since = self.waiting;
        if nodes.is_empty() {
            let text = format!("{what} for an offer; none has come yet to the role {}", self.wanted.role());
            let fix = "see whether nodes are up and have room (`plenum node list`), and whether other frameworks use up the role's quota";
            return Some(Blocker { since, ..Blocker::new(Kind::NoOffer, text, fix) });
        }
        let Some((node, nearest)) = nearest(nodes.values()) else {
            let text = format!("{what} for the next offer of a node that suits");
            return Some(Blocker { since, ..Blocker::new(Kind::AwaitsOffer, text, "none is needed") });
        };
        let seen = match nodes.len() {
            1 => "the one node that was looked at does not suit".to_owned(),
            count => format!("none of {count} nodes that were looked at suits"),
        };
        let Rejection { rule, needed, had, .. } = nearest;
        let text = format!(
            "{what}, and {seen}; nearest is {}, where {rule} needs {needed} and there is {had}",
            node.host
        );
        Some(Blocker {
            host: Some(node.host.clone()),
            rule: Some(nearest.rule.clone()),
            since,
            ..Blocker::new(Kind::NothingFits, text, nearest.fix.clone())
        })
    }

    fn has_ready(&self) -> bool {
        self.instances.values().any(|i| i.is_ready(&self.wanted))
    }

    fn failing(&self, left: Millis) -> Blocker {
        let said = |field: &str| {
            let text = self.last_failure.as_ref()?.get(field)?.as_str()?;
            Some(text.to_owned()).filter(|text| !text.is_empty())
        };
        let message =
            said("message").or_else(|| said("state")).unwrap_or_else(|| "no reason was given".to_owned());
        let next = match left.0.div_ceil(1000) {
            0 => String::new(),
            seconds => format!(" (the next one is launched in {seconds} s)"),
        };
        let text = format!("instances fail{next}: {message}");
        let fix = format!(
            "see `plenum app logs {}`, and deploy a corrected version: it is taken at once",
            self.wanted.id()
        );
        Blocker { host: said("host"), since: self.waiting, ..Blocker::new(Kind::Failing, text, fix) }
    }

    fn replacing(&self) -> Option<Blocker> {
        let config = self.wanted.config();
        let old = self.instances.values().filter(|i| self.roll && i.is_wanted() && i.record.config != config);
        let old = old.count();
        let text = match old {
            0 => return None,
            1 => "an instance of an older version is still to be replaced".to_owned(),
            count => format!("{count} instances of an older version are still to be replaced"),
        };
        Some(Blocker::new(
            Kind::Replaces,
            text,
            "they go as newer ones become ready (`upgradeStrategy` says how many at a time)",
        ))
    }

    /// What is wrong with instances that are there and are not ready.
    fn living(&self, all: &mut Vec<Blocker>) {
        let waits = self.instances.values().filter(|i| i.is_wanted() && !i.is_ready(&self.wanted));
        let mut left = 0_usize;
        for instance in waits {
            if all.len() >= NAMED {
                left = left.saturating_add(1);
                continue;
            }
            all.push(self.living_one(instance));
        }
        if let (true, Some(last)) = (left > 0, all.last_mut()) {
            last.text.push_str(&format!("; {left} more are not ready"));
        }
    }

    fn living_one(&self, instance: &Instance) -> Blocker {
        let id = &instance.record.id;
        let worst = instance.tasks.iter().find(|task| task.healthy == Some(false));
        let began = instance.tasks.iter().map(|task| task.since).max().unwrap_or(instance.staged);
        let blocker = match instance.state() {
            None => Blocker::new(
                Kind::AwaitsNews,
                format!("nothing is known of {id} yet"),
                "its node is being asked",
            ),
            Some(State::Unreachable) => {
                let fix = match self.wanted.unreachable_patience() {
                    Some(patience) => format!(
                        "bring the node back; otherwise the instance is replaced {} s after it was lost",
                        patience.0 / 1000
                    ),
                    None if instance.record.is_resident() => {
                        super::kept::give_up(&instance.record.location.host)
                    }
                    None => {
                        "bring the node back, or kill the instance: its `unreachableStrategy` is disabled"
                            .to_owned()
                    }
                };
                Blocker::new(Kind::Unreachable, format!("the node of {id} is out of reach"), fix)
            }
            Some(State::Killing) => {
                Blocker::new(Kind::Ends, format!("{id} is being ended"), "another one takes its place")
            }
            Some(State::Running) => match worst {
                Some(task) => {
                    let text = format!("the health check of {id} fails ({})", in_a_row(task.failures));
                    let fix = format!(
                        "see `plenum task logs {id}`; if the check is wrong, deploy a corrected one: it is taken at once"
                    );
                    let since = task.health_seen.1.unwrap_or(began);
                    return Blocker { check: Some(0), ..Blocker::new(Kind::Unhealthy, text, fix) }
                        .of(instance, since);
                }
                None if !self.lacks_health(instance) => unready(instance),
                None => Blocker::new(
                    Kind::AwaitsHealth,
                    format!("{id} runs, and its health check has not answered yet"),
                    "the grace period of its check says how long that may take",
                ),
            },
            Some(_) => Blocker::new(
                Kind::Starts,
                format!("{id} is being started"),
                format!("see `plenum task logs {id} --stderr` for how far its image and files are"),
            ),
        };
        blocker.of(instance, began)
    }
}

/// How often something failed.
fn in_a_row(failures: u32) -> String {
    match failures {
        0 | 1 => "once".to_owned(),
        n => format!("{n} times in a row"),
    }
}

/// An instance whose health is in order, and which has not said that it is ready.
fn unready(instance: &Instance) -> Blocker {
    let (id, known) = (&instance.record.id, instance.readiness.as_deref());
    let Some((known, wrong)) = known.and_then(|known| Some((known, known.wrong.as_ref()?))) else {
        let text = format!("{id} runs, and its readiness check has not answered yet");
        return Blocker::new(
            Kind::AwaitsReadiness,
            text,
            "it is asked again every `intervalSeconds` of the check",
        );
    };
    let text = format!("{id} is not ready: {wrong} ({})", in_a_row(known.failures));
    let fix = format!(
        "see `plenum task logs {id}` for what it does; if the check is wrong, deploy a corrected one: it is taken at once"
    );
    Blocker::new(Kind::Unready, text, fix)
}

/// The node that breaks the fewest rules, and the first of them; none if one suits.
fn nearest<'a>(nodes: impl Iterator<Item = &'a NodeVerdict>) -> Option<(&'a NodeVerdict, &'a Rejection)> {
    let node = nodes.min_by_key(|node| node.broken.len())?;
    Some((node, node.broken.first()?))
}
