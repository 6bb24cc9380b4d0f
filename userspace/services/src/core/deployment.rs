//! Deployments: which apps an intent changes, in which order, and how far it has come. A deployment does not drive
//! anything: the planner works towards what is wanted, and a step is over when its apps are there.

use std::collections::{BTreeMap, BTreeSet};

use plenum_api::Now;
use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::id::PathId;
use super::{Core, Entry, notices, records};

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
}

/// One app's part in a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What happens.
    pub what: What,
    /// To which app.
    pub app: PathId,
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
    /// Marathon's name.
    pub fn name(self) -> &'static str {
        match self {
            What::Start => "StartApplication",
            What::Stop => "StopApplication",
            What::Scale => "ScaleApplication",
            What::Restart => "RestartApplication",
        }
    }
}

impl Deployment {
    /// The step under way.
    pub fn current(&self) -> &[Action] {
        self.steps.get(self.at).map_or(&[], Vec::as_slice)
    }

    /// Whether it changes `app`.
    pub fn affects(&self, app: &PathId) -> bool {
        self.original.contains_key(app)
    }

    /// Whether `app`'s turn has not come.
    pub fn holds(&self, app: &PathId) -> bool {
        let reached = self.steps.iter().take(self.at.saturating_add(1)).flatten().any(|a| a.app == *app);
        let later = self.steps.iter().skip(self.at.saturating_add(1)).flatten().any(|a| a.app == *app);
        later && !reached
    }
}

/// Orders the changes: what others depend on comes first, what is removed last and in reverse.
///
/// # Errors
/// The apps of a circle of dependencies.
pub fn steps(
    changes: &[(PathId, Vec<What>)],
    apps: &BTreeMap<PathId, &Definition>,
) -> Result<Vec<Vec<Action>>, Vec<PathId>> {
    let mut left: BTreeSet<&PathId> =
        changes.iter().filter(|(_, w)| !w.contains(&What::Stop)).map(|(id, _)| id).collect();
    let mut out: Vec<Vec<Action>> = Vec::new();
    let starts = changes.iter().filter(|(_, w)| w.contains(&What::Start));
    let starts: Vec<Action> = starts.map(|(app, _)| Action { what: What::Start, app: app.clone() }).collect();
    if !starts.is_empty() {
        out.push(starts);
    }
    while !left.is_empty() {
        let needs = |id: &PathId| apps.get(id).map(|a| a.dependencies()).unwrap_or_default();
        let waits = |id: &PathId| {
            let below = |dependency: &PathId| left.iter().any(|l| *l == dependency || l.is_below(dependency));
            needs(id).iter().any(below)
        };
        let ready: Vec<&PathId> = left.iter().filter(|id| !waits(id)).copied().collect();
        if ready.is_empty() {
            return Err(left.into_iter().cloned().collect());
        }
        let mut step = Vec::new();
        for id in ready {
            left.remove(id);
            let whats = changes.iter().filter(|(app, _)| app == id).flat_map(|(_, w)| w);
            let whats = whats.filter(|w| **w != What::Start);
            step.extend(whats.map(|what| Action { what: *what, app: id.clone() }));
        }
        if !step.is_empty() {
            out.push(step);
        }
    }
    let stops = changes.iter().filter(|(_, w)| w.contains(&What::Stop)).rev();
    let stops: Vec<Action> = stops.map(|(app, _)| Action { what: What::Stop, app: app.clone() }).collect();
    if !stops.is_empty() {
        out.push(stops);
    }
    Ok(out)
}

impl Entry {
    /// What keeps the app from being as wanted, in words; none when it is.
    pub fn blocker(&self) -> Option<String> {
        let config = self.wanted.config();
        let ending = self.instances.values().filter(|i| !i.is_wanted()).count();
        let wanted = || self.instances.values().filter(|i| i.is_wanted());
        if self.removing {
            let left = self.instances.len();
            return (left > 0).then(|| format!("{left} instances have not ended yet"));
        }
        let old = if self.roll { wanted().filter(|i| i.record.config != config).count() } else { 0 };
        let target = usize::try_from(self.wanted.instances()).unwrap_or(usize::MAX);
        let ready = wanted().filter(|i| i.is_ready(&self.wanted)).count();
        if old > 0 {
            return Some(format!("{old} instances of an older version are still to be replaced"));
        }
        if self.missing > 0 {
            return Some(format!("{} instances wait for a suitable offer", self.missing));
        }
        if wanted().count() != target || ready < target {
            return Some(format!("{ready} of {target} instances are running and healthy"));
        }
        (ending > 0).then(|| format!("{ending} instances have not ended yet"))
    }
}

impl Core {
    /// Moves deployments on whose current step is done. Gives the apps whose turn has come.
    pub(super) fn advance(&mut self, touched: &BTreeSet<PathId>, now: Now) -> BTreeSet<PathId> {
        let mut turn = BTreeSet::new();
        let open: Vec<String> = self
            .state
            .deployments
            .values()
            .filter(|d| d.steps.is_empty() || d.original.keys().any(|app| touched.contains(app)))
            .map(|d| d.id.clone())
            .collect();
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
            (_, Some(entry)) => entry.blocker().is_none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::app::App;
    use super::*;

    #[test]
    fn dependencies_come_first_and_circles_are_named() {
        let id = |text: &str| PathId::parse(text).unwrap();
        let app = |name: &str, needs: &[&str]| {
            let dependencies = needs.iter().map(|n| id(n)).collect();
            Definition::App(App { dependencies, ..App::new(id(name), "*") })
        };
        let (web, db, old) = (app("web", &["db"]), app("db", &[]), app("old", &[]));
        let apps = [(id("web"), &web), (id("db"), &db), (id("old"), &old)].into();
        let changes = [
            (id("web"), vec![What::Start, What::Scale]),
            (id("db"), vec![What::Restart]),
            (id("old"), vec![What::Stop]),
        ];
        let plan = steps(&changes, &apps).unwrap();
        let words: Vec<Vec<String>> =
            plan.iter().map(|s| s.iter().map(|a| format!("{:?} {}", a.what, a.app)).collect()).collect();
        assert_eq!(words, [vec!["Start /web"], vec!["Restart /db"], vec!["Scale /web"], vec!["Stop /old"]]);
        let (a, b) = (app("a", &["b"]), app("b", &["a"]));
        let apps = [(id("a"), &a), (id("b"), &b)].into();
        let circle = steps(&[(id("a"), vec![What::Scale]), (id("b"), vec![What::Scale])], &apps).unwrap_err();
        assert_eq!(circle, [id("a"), id("b")]);
    }
}
