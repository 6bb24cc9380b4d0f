//! What people want of groups: trees of apps, pods and groups in one deployment, many times as many instances, the state of an older
//! moment, settings, the end. What a tree names is as it says; what it names no more goes; what it says nothing about stays.

use std::collections::{BTreeMap, BTreeSet};

use plenum_api::{IdSource, Now};
use serde_json::{Map, Value};

use super::definition::Definition;
use super::error::{ApiError, Flaw};
use super::group::{Group, Groups};
use super::id::PathId;
use super::intake::Intake;
use super::order::After;
use super::requests::{Reply, Request, Target, Targets};
use super::submit::Intent;
use super::tree::{self, Branch, Item, Wanted};
use super::{Core, Snapshot};

/// The most instances of an app.
const MOST_INSTANCES: f64 = 1_000_000.0;

/// A change of a group.
#[derive(Clone, Debug)]
pub enum GroupChange {
    /// A new one.
    Create(PathId, Map<String, Value>),
    /// Another tree, scale or version of one; a new one if there is none.
    Update(PathId, Map<String, Value>),
    /// Its settings alone.
    Settings(PathId, Map<String, Value>),
    /// It goes with everything in it.
    Remove(PathId),
}

impl GroupChange {
    /// The group that it is about, if the body says that in a way that can be read.
    pub fn subject(&self) -> Option<PathId> {
        match self {
            Self::Create(path, body) | Self::Update(path, body) => tree::subject(path, body).ok(),
            Self::Settings(id, _) | Self::Remove(id) => Some(id.clone()),
        }
    }
}

impl Core {
    pub(super) fn change_group(
        &mut self,
        r: &Request,
        change: &GroupChange,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        match change {
            GroupChange::Create(path, body) => {
                let id = tree::subject(path, body)?;
                let wanted = tree::wanted(&id, body)?;
                if self.state.has_group(&id) {
                    let message = format!("Group {id} is already created. Use PUT to change this group.");
                    return Err(ApiError::Conflict(message));
                }
                if self.entry(&id).is_some() {
                    return Err(ApiError::Conflict(format!("An app with the path {id} already exists.")));
                }
                let intent = Intent { force: r.force, ..self.made_of(&id, wanted)? };
                let location = Some(format!("/v2/groups{id}"));
                Ok(Reply { status: 201, location, ..self.submit_intent(intent, now, ids)? })
            }
            GroupChange::Update(path, body) => {
                let id = tree::subject(path, body)?;
                let intent = Intent { force: r.force, ..self.made_of(&id, tree::wanted(&id, body)?)? };
                self.submit_intent(intent, now, ids)
            }
            GroupChange::Settings(id, body) => self.set_up_group(id, body, now),
            GroupChange::Remove(id) => {
                if !self.state.has_group(id) {
                    return Err(no_group(id));
                }
                let mut making = Making::new(&self.state);
                making.clear(id);
                let intent = Intent { force: r.force, ..making.intent(id) };
                self.submit_intent(intent, now, ids)
            }
        }
    }

    /// What is to be done for the group `id` to be as it is wanted.
    fn made_of(&self, id: &PathId, wanted: Wanted) -> Result<Intent, ApiError> {
        match wanted {
            Wanted::Scale(by) => self.scaled(id, by),
            Wanted::Version(version) => self.rolled_back(id, &version),
            Wanted::Tree(branch) => self.grown(&branch),
        }
    }

    fn scaled(&self, id: &PathId, by: f64) -> Result<Intent, ApiError> {
        if !self.state.has_group(id) {
            return Err(no_group(id));
        }
        let mut targets = Targets::new();
        for (app, entry) in self.state.entries_in(id).filter(|(_, entry)| entry.wanted.app().is_some()) {
            let instances = (f64::from(entry.wanted.instances()) * by).ceil();
            if instances > MOST_INSTANCES {
                let error = format!("'{app}' would have more than {MOST_INSTANCES} instances");
                return Err(ApiError::invalid("/scaleBy", error));
            }
            let mut wanted = Definition::clone(&entry.wanted);
            wanted.scale_to(instances as u32);
            if wanted.instances() != entry.wanted.instances() {
                targets.insert(app.clone(), Target::be(wanted));
            }
        }
        Ok(Intent { targets, group: Some(id.clone()), ..Intent::default() })
    }

    fn rolled_back(&self, id: &PathId, version: &str) -> Result<Intent, ApiError> {
        let missing = || ApiError::Refused(format!("Group {id} not available in version {version}"));
        let then = self.state.group_at(id, version).ok_or_else(missing)?;
        let mut making = Making::new(&self.state);
        let now = self.state.entries_in(id).map(|(app, _)| app);
        for gone in now.filter(|app| !then.things.contains_key(*app)) {
            making.targets.insert(gone.clone(), Target::Gone);
        }
        for (app, definition) in then.things {
            let same = self.entry(&app).is_some_and(|entry| entry.roll && *entry.wanted == *definition);
            if !same {
                making.targets.insert(app, Target::be(Definition::clone(&definition)));
            }
        }
        let records = self.state.groups.get(id).into_iter();
        let records = records.chain(self.state.groups.between(id.inside()).map(|(_, group)| group));
        for gone in records.filter(|group| !then.groups.contains_key(&group.id)) {
            making.groups.insert(gone.id.clone(), None);
        }
        for (path, group) in then.groups {
            making.regroup(path, group);
        }
        making.names(id)?;
        Ok(making.intent(id))
    }

    /// A tree as it is to be.
    fn grown(&self, branch: &Branch) -> Result<Intent, ApiError> {
        let mut making = Making::new(&self.state);
        making.settings(branch)?;
        making.branch(self, branch)?;
        making.names(&branch.id)?;
        self.assign_ports(&mut making)?;
        Ok(making.intent(&branch.id))
    }

    /// Gives service ports out once all are known that are named.
    fn assign_ports(&self, making: &mut Making<'_>) -> Result<(), ApiError> {
        let apps = || making.targets.values().filter_map(Target::wanted).filter_map(Definition::app);
        if !apps().any(|app| app.ports().iter().any(|port| port.service == 0)) {
            return Ok(());
        }
        let mut ports = self.census.ports();
        let new = apps().filter(|app| self.entry(&app.id).is_none());
        ports.take(new.flat_map(|app| app.ports().iter().map(|port| port.service).collect::<Vec<_>>()));
        let mut ports = Some(ports);
        let mut same = BTreeSet::new();
        for (id, target) in &mut making.targets {
            let Target::Be { wanted, .. } = target else { continue };
            let Definition::App(app) = &mut **wanted else { continue };
            self.assign_service_ports(app, &mut ports)?;
            if self.is_wanted(id, wanted) {
                same.insert(id.clone());
            }
        }
        making.targets.retain(|id, _| !same.contains(id));
        Ok(())
    }

    /// Whether this is what is wanted already.
    fn is_wanted(&self, id: &PathId, definition: &Definition) -> bool {
        self.entry(id).is_some_and(|entry| {
            let same = entry.wanted.instances() == definition.instances();
            entry.roll && same && !entry.wanted.differs_in_config(definition)
        })
    }

    fn set_up_group(&mut self, id: &PathId, body: &Map<String, Value>, now: Now) -> Result<Reply, ApiError> {
        let enforce = match body.get("enforceRole") {
            None | Some(Value::Null) => self.state.settings.new_groups_enforce,
            Some(Value::Bool(enforce)) => *enforce,
            Some(_) => {
                let flaw = Flaw::new("/enforceRole", "error.expected.jsboolean");
                return Err(ApiError::BadFields(vec![flaw]));
            }
        };
        if !id.is_top_level() {
            return Err(ApiError::invalid("/", "Path needs to be top-level"));
        }
        if !self.state.has_group(id) {
            return Err(no_group(id));
        }
        let before = self.state.groups.get(id).cloned();
        let mut group = before.clone().unwrap_or_else(|| Group::new(id.clone()));
        if group.enforce != Some(enforce) {
            let version = self.fresh_version(now);
            group.enforce = Some(enforce);
            version.clone_into(&mut group.version);
            let mut writes = Vec::new();
            self.regroup([(id.clone(), Some(group))].into(), &mut writes);
            writes.extend(self.note_past(&version, &BTreeMap::new(), [(id.clone(), before)].into()));
            self.commit(writes);
        }
        Ok(Reply { status: 200, body: None, deployment: None, location: None })
    }
}

fn no_group(id: &PathId) -> ApiError {
    ApiError::NotFound(format!("Group '{id}' does not exist"))
}

/// A tree on its way from what there is to what is wanted.
struct Making<'a> {
    state: &'a Snapshot,
    targets: Targets,
    groups: Groups,
    intake: Intake,
    /// What the body has named so far.
    named: BTreeSet<PathId>,
}

impl<'a> Making<'a> {
    fn new(state: &'a Snapshot) -> Self {
        let intake = Intake { tree: true, ..Intake::default() };
        Self { state, targets: Targets::new(), groups: Groups::new(), intake, named: BTreeSet::new() }
    }

    fn intent(self, id: &PathId) -> Intent {
        let (targets, groups) = (self.targets, self.groups);
        Intent { targets, groups, group: Some(id.clone()), ..Intent::default() }
    }

    /// Nothing is left of a group.
    fn clear(&mut self, id: &PathId) {
        let things = self.state.entries_in(id).map(|(app, _)| (app.clone(), Target::Gone));
        self.targets.extend(things);
        let own = self.state.groups.get(id).map(|group| &group.id);
        let below = self.state.groups.between(id.inside()).map(|(id, _)| id);
        self.groups.extend(own.into_iter().chain(below).map(|id| (id.clone(), None)));
    }

    /// What groups in the root say of their role, before anything in them is read. It does not change along with what lies in them.
    fn settings(&mut self, branch: &Branch) -> Result<(), ApiError> {
        let has_things = branch.has_things();
        let inside = if branch.id.is_root() { branch.groups.as_deref().unwrap_or_default() } else { &[] };
        let mut flaws = Vec::new();
        for one in std::iter::once(branch).chain(inside) {
            let Some(enforce) = one.enforce.filter(|_| one.id.is_top_level()) else { continue };
            let before = self.state.enforces(&one.id).filter(|_| self.state.has_group(&one.id));
            if has_things && before.is_some_and(|before| before != enforce) {
                let error = "enforceRole cannot be modified in a request that adds, removes or modifies services; please make these changes in separate requests.";
                flaws.push(Flaw::new(format!("{}/enforceRole", one.at), error));
            }
            self.intake.enforces.insert(one.id.clone(), enforce);
        }
        if flaws.is_empty() { Ok(()) } else { Err(ApiError::Invalid(flaws)) }
    }

    fn branch(&mut self, core: &Core, branch: &Branch) -> Result<(), ApiError> {
        let state = self.state;
        self.name(&branch.id, &branch.at)?;
        let mut group =
            state.groups.get(&branch.id).cloned().unwrap_or_else(|| Group::new(branch.id.clone()));
        if let Some(dependencies) = &branch.dependencies {
            group.dependencies.clone_from(dependencies);
        }
        if branch.id.is_top_level() {
            group.enforce = branch.enforce.or_else(|| state.enforces(&branch.id));
        }
        // The root is there without a record.
        if !branch.id.is_root() || !group.dependencies.is_empty() || state.groups.contains_key(&branch.id) {
            self.regroup(branch.id.clone(), group);
        }
        self.things(core, &branch.id, branch.apps.as_deref(), false)?;
        self.things(core, &branch.id, branch.pods.as_deref(), true)?;
        let Some(groups) = &branch.groups else { return Ok(()) };
        let stay: BTreeSet<&PathId> = groups.iter().map(|group| &group.id).collect();
        for gone in state.groups_of(&branch.id).iter().filter(|id| !stay.contains(id)) {
            self.clear(gone);
        }
        groups.iter().try_for_each(|group| self.branch(core, group))
    }

    /// The apps, or the pods, that lie in a group itself.
    fn things(
        &mut self,
        core: &Core,
        group: &PathId,
        items: Option<&[Item]>,
        pods: bool,
    ) -> Result<(), ApiError> {
        let Some(items) = items else { return Ok(()) };
        let here = self.state.entries_in(group).filter(|(id, _)| id.parent() == *group);
        let old = here.filter(|(_, entry)| entry.wanted.pod().is_some() == pods).map(|(id, _)| id);
        self.targets.extend(old.map(|id| (id.clone(), Target::Gone)));
        for item in items {
            self.name(&item.id, &format!("{}/id", item.at))?;
            let read = if pods {
                core.read_pod(&item.id, &item.body, &self.intake)
            } else {
                core.read_app(&item.id, &item.body, false, &self.intake)
            };
            let definition = read.map_err(|error| error.inside(&item.at))?;
            if core.is_wanted(&item.id, &definition) {
                self.targets.remove(&item.id);
            } else {
                self.targets.insert(item.id.clone(), Target::be(definition));
            }
        }
        Ok(())
    }

    fn name(&mut self, id: &PathId, at: &str) -> Result<(), ApiError> {
        if self.named.insert(id.clone()) {
            return Ok(());
        }
        let at = if at.is_empty() { "/" } else { at };
        Err(ApiError::invalid(at, format!("'{id}' is named twice")))
    }

    /// A group is to be so; one that is so already stays.
    fn regroup(&mut self, id: PathId, group: Group) {
        if self.state.groups.get(&id).is_none_or(|before| before.differs(&group)) {
            self.groups.insert(id, Some(group));
        }
    }

    /// A name is that of an app, of a pod, or of a group. What is new may take over the name of a group that is empty, but not in one go.
    fn names(&mut self, group: &PathId) -> Result<(), ApiError> {
        let after = After { state: self.state, targets: &self.targets, groups: &self.groups };
        let new = self
            .targets
            .iter()
            .filter(|(id, target)| matches!(target, Target::Be { .. }) && self.state.entry(id).is_none());
        let clash = |what: &Definition| {
            let what = if what.pod().is_some() { "Pods" } else { "Applications" };
            ApiError::invalid("/", format!("Groups and {what} may not have the same identifier."))
        };
        let mut taken = Vec::new();
        for (id, target) in new {
            let Some(wanted) = target.wanted() else { continue };
            let above = id.ancestors().find_map(|above| after.wanted(&above));
            let is_group = matches!(self.groups.get(id), Some(Some(_))) || !after.things_in(id).is_empty();
            if let Some(what) = above.or(Some(wanted).filter(|_| is_group)) {
                return Err(clash(what));
            }
            let below = self.state.groups.between(id.inside()).map(|(id, _)| id);
            taken.extend(self.state.groups.get(id).map(|group| &group.id).into_iter().chain(below).cloned());
        }
        // The group itself may stand where an app is.
        let groups = self.groups.iter().filter(|(_, changed)| changed.is_some()).map(|(id, _)| id);
        let found = groups.chain([group]).flat_map(|id| id.ancestors().chain([id.clone()]));
        let found: BTreeSet<PathId> = found.collect();
        if let Some(error) = found.iter().find_map(|id| after.wanted(id)).map(clash) {
            return Err(error);
        }
        self.groups.extend(taken.into_iter().map(|id| (id, None)));
        Ok(())
    }
}
