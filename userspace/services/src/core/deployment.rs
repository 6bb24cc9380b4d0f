//! Deployments: which apps an intent changes, in which order, and how far it has come. A deployment does not drive
//! anything: the planner works towards what is wanted, and a step is over when its apps are there.

use std::collections::{BTreeMap, BTreeSet};

use plenum_api::Now;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::group::Groups;
use super::id::PathId;
use super::{Core, notices, records};

/// A change on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Format number.
    pub f: u32,
    /// Its id, a UUID.
    pub id: String,
    /// When it was made.
    pub version: String,
    /// What is done, one step after the other.
    pub steps: Vec<Vec<Action>>,
    /// The step that is under way; counted from 0.
    pub at: usize,
    /// Each app's version before; none for a new app.
    pub original: BTreeMap<PathId, Option<String>>,
    /// The records of groups that it changed, as they were before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: Groups,
    /// The step at which each app gets instances or loses some; see [`Deployment::holds`].
    #[serde(skip)]
    pub turns: BTreeMap<PathId, usize>,
}

/// One app's part in a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What happens.
    pub what: What,
    /// To which app.
    pub app: PathId,
    /// It is a pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pod: bool,
}

impl Action {
    /// As clients read it.
    pub fn to_json(&self) -> Value {
        let (suffix, key) = if self.pod { ("Pod", "pod") } else { ("Application", "app") };
        json!({"action": format!("{}{suffix}", self.what.name()), key: self.app})
    }
}

/// What happens to an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// It comes to be.
    Start,
    /// It goes.
    Stop,
    /// Its number changes.
    Scale,
    /// Its instances are replaced.
    Restart,
}

impl What {
    /// Marathon's word; what it is about follows.
    pub fn name(self) -> &'static str {
        match self {
            What::Start => "Start",
            What::Stop => "Stop",
            What::Scale => "Scale",
            What::Restart => "Restart",
        }
    }
}

impl Deployment {
    /// The step under way.
    pub fn current(&self) -> &[Action] {
        self.steps.get(self.at).map_or(&[], Vec::as_slice)
    }

    /// Notes which of what it changes are pods.
    pub(super) fn mark_pods(&mut self, is_pod: impl Fn(&PathId) -> bool) {
        for action in self.steps.iter_mut().flatten() {
            action.pod = is_pod(&action.app);
        }
    }

    /// What it changes: apps, or pods.
    pub fn affected(&self, pods: bool) -> Vec<&PathId> {
        let is_pod = |id: &PathId| self.steps.iter().flatten().any(|a| a.app == *id && a.pod);
        self.original.keys().filter(|id| is_pod(id) == pods).collect()
    }

    /// Whether all that it changes is the number of one app's instances.
    pub fn only_scales(&self) -> bool {
        self.original.len() == 1 && self.steps.iter().flatten().all(|action| action.what == What::Scale)
    }

    /// Whether it changes `app`.
    pub fn affects(&self, app: &PathId) -> bool {
        self.original.contains_key(app)
    }

    /// Whether `app`'s turn has not come. That it comes to be, without instances, is none.
    pub fn holds(&self, app: &PathId) -> bool {
        self.turns.get(app).is_some_and(|turn| *turn > self.at)
    }

    /// Finds out whose turn is when.
    pub(super) fn find_turns(&mut self) {
        let steps = self.steps.iter().enumerate();
        let turns = steps.flat_map(|(n, step)| step.iter().map(move |action| (n, action)));
        let turns = turns.filter(|(_, action)| action.what != What::Start);
        self.turns = turns.map(|(n, action)| (action.app.clone(), n)).collect();
    }
}

/// Orders the changes as Marathon does: what goes ends first, so that there is room; then what is new comes to be, without instances; then
/// one step a level of dependencies, the lowest first.
pub fn steps(changes: &[(PathId, Vec<What>)], levels: &BTreeMap<PathId, usize>) -> Vec<Vec<Action>> {
    let mut order: BTreeMap<usize, Vec<Action>> = BTreeMap::new();
    for (app, whats) in changes {
        // Levels begin at 1; those two steps are below all.
        let level = levels.get(app).map_or(2, |level| level.saturating_add(2));
        for what in whats {
            let at = match what {
                What::Stop => 0,
                What::Start => 1,
                What::Scale | What::Restart => level,
            };
            let action = Action { what: *what, app: app.clone(), pod: false };
            order.entry(at).or_default().push(action);
        }
    }
    order.into_values().collect()
}

impl Core {
    /// Moves deployments on whose current step is done. Gives the apps whose turn has come.
    pub(super) fn advance(&mut self, touched: &BTreeSet<PathId>, now: Now) -> BTreeSet<PathId> {
        let mut turn = BTreeSet::new();
        let due = std::mem::take(&mut self.due);
        let entries = touched.iter().filter_map(|app| self.state.apps.get(app));
        let names = entries.flat_map(|entry| &entry.deployments).chain(&due).map(String::as_str);
        let open = self.in_order(names);
        for id in open {
            while self.step_done(&id) {
                let Some(deployment) = self.deployments_mut().get_mut(&id) else { break };
                let done = notices::deployment_step("deployment_step_success", deployment, now);
                if !deployment.steps.is_empty() {
                    deployment.at = deployment.at.saturating_add(1);
                    self.publish(done);
                }
                let Some(deployment) = self.state.deployments.get(&id) else { break };
                if deployment.at < deployment.steps.len() {
                    turn.extend(deployment.current().iter().map(|a| a.app.clone()));
                    let info = notices::deployment_step("deployment_info", deployment, now);
                    let write = records::put_deployment(deployment);
                    self.commit(vec![write]);
                    self.publish(info);
                    continue;
                }
                let Some(deployment) = self.finish(&id) else { break };
                self.commit(vec![records::delete_deployment(&id)]);
                self.publish(notices::deployment_end("deployment_success", &deployment, None, now));
            }
        }
        turn
    }

    fn step_done(&self, id: &str) -> bool {
        let Some(deployment) = self.state.deployments.get(id) else { return false };
        deployment.current().iter().all(|action| match (action.what, self.state.apps.get(&action.app)) {
            (What::Start, _) | (_, None) => true,
            (What::Stop, Some(_)) => false,
            (_, Some(entry)) => entry.is_as_wanted(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PathId {
        PathId::parse(text).unwrap()
    }

    #[test]
    fn steps_follow_levels_and_what_goes_makes_room_first() {
        let changes = [
            (id("web"), vec![What::Start, What::Scale]),
            (id("db"), vec![What::Restart]),
            (id("same"), vec![]),
            (id("old"), vec![What::Stop]),
            (id("far"), vec![What::Scale]),
        ];
        let levels = [("web", 2), ("db", 1), ("same", 1), ("far", 7)].map(|(name, n)| (id(name), n)).into();
        let plan = steps(&changes, &levels);
        let words: Vec<Vec<String>> =
            plan.iter().map(|s| s.iter().map(|a| format!("{:?} {}", a.what, a.app)).collect()).collect();
        let want = [
            vec!["Stop /old"],
            vec!["Start /web"],
            vec!["Restart /db"],
            vec!["Scale /web"],
            vec!["Scale /far"],
        ];
        assert_eq!(words, want);
    }
}
