//! From what is to become of apps, pods and groups to one deployment, written down in one go and answered when it is durable; and how a
//! deployment is taken back. Nothing waits in here and nothing stays locked: a newer intent with `force` replaces an older.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plenum_api::{IdSource, Now};
use serde_json::json;

use super::app::VersionInfo;
use super::definition::Definition;
use super::deployment::{self, Deployment, What};
use super::error::ApiError;
use super::group::{self, Groups};
use super::id::PathId;
use super::order::After;
use super::requests::{Reply, Target, Targets};
use super::{Core, Entry, Write, notices, records, time};

/// Versions of an app that one intent forgets at most.
const MOST_PRUNED: usize = 20;

/// What somebody wants, judged and ready to be written down.
#[derive(Default)]
pub(super) struct Intent {
    /// What belongs to it beside.
    pub(super) first: Vec<Write>,
    /// Apps and pods.
    pub(super) targets: Targets,
    /// Records of groups; their versions are filled in.
    pub(super) groups: Groups,
    /// The group that was asked for, if that is what it is about.
    pub(super) group: Option<PathId>,
    /// Replace deployments that are in the way.
    pub(super) force: bool,
}

/// The group that a change is one of: the one that holds what it changes, the root where that is more than one thing.
fn group_of(targets: &Targets) -> PathId {
    let mut ids = targets.keys();
    ids.next().filter(|_| ids.next().is_none()).map_or_else(PathId::root, PathId::parent)
}

impl Core {
    pub(super) fn submit(
        &mut self,
        targets: Targets,
        force: bool,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        self.submit_with(Vec::new(), targets, force, now, ids)
    }

    /// Writes an intent down, with what else belongs to it, and starts its deployment.
    pub(super) fn submit_with(
        &mut self,
        first: Vec<Write>,
        targets: Targets,
        force: bool,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        // A name is taken over from groups in which nothing lies.
        let new = targets.keys().filter(|id| self.entry(id).is_none());
        let groups = new.flat_map(|id| self.empty_groups(id)).map(|id| (id, None)).collect();
        self.submit_intent(Intent { first, targets, groups, group: None, force }, now, ids)
    }

    /// The same for an intent with all that belongs to it. Tells also of a refusal.
    pub(super) fn submit_intent(
        &mut self,
        mut intent: Intent,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        let about = intent.group.take().unwrap_or_else(|| group_of(&intent.targets));
        self.deploy(&about, intent, now, ids).inspect_err(|error| self.refused(&about, error, now))
    }

    /// Tells that a change below `group` was refused.
    pub(super) fn refused(&mut self, group: &PathId, error: &ApiError, now: Now) {
        let (version, reason) = (time::text(now.wall), error.to_string());
        self.publish(notices::group_change(group, &version, Some(&reason), now));
    }

    fn deploy(
        &mut self,
        about: &PathId,
        intent: Intent,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        let Intent { first, targets, mut groups, group: _, force } = intent;
        let levels = After { state: &self.state, targets: &targets, groups: &groups }.levels()?;
        let in_the_way = self.in_the_way(targets.keys());
        self.check_locks(&in_the_way, force, now)?;
        let changes: Vec<(PathId, Vec<What>)> =
            targets.iter().map(|(id, target)| (id.clone(), self.actions(id, target))).collect();
        let version = self.fresh_version(now);
        groups.values_mut().flatten().for_each(|group| version.clone_into(&mut group.version));
        let is_pod = |id: &PathId| match targets.get(id) {
            Some(Target::Be { wanted, .. }) => wanted.pod().is_some(),
            _ => self.entry(id).is_some_and(|entry| entry.wanted.pod().is_some()),
        };
        let before = |id: &PathId| self.entry(id).map(|entry| entry.wanted.version().to_owned());
        let mut deployment = Deployment {
            f: records::FORMAT,
            id: ids.uuid_text(),
            version: version.clone(),
            steps: deployment::steps(&changes, &levels),
            at: 0,
            original: targets.keys().map(|id| (id.clone(), before(id))).collect(),
            groups: groups.keys().map(|id| (id.clone(), self.state.groups.get(id).cloned())).collect(),
            turns: BTreeMap::new(),
        };
        deployment.mark_pods(is_pod);
        let mut writes = first;
        writes.push(records::put_deployment(&deployment));
        for id in in_the_way {
            writes.extend(self.supersede(&id, now));
        }
        for (id, target) in targets {
            self.retarget(&id, target, &version, &mut writes);
            self.dirty.insert(id);
        }
        self.regroup(groups, &mut writes);
        writes.extend(self.note_past(&version, &deployment.original, deployment.groups.clone()));
        self.commit_intent(&version, writes);
        let id = deployment.id.clone();
        self.publish(notices::group_change(about, &version, None, now));
        self.publish(notices::deployment_step("deployment_info", &deployment, now));
        for (app, before) in &deployment.original {
            self.tell_checks(app, &version, before.as_deref(), now);
        }
        for app in deployment.original.keys() {
            if let Some(entry) = self.state.apps.get_mut(app) {
                entry.moved = now.mono;
            }
        }
        self.begin(deployment);
        let body = json!({"version": version, "deploymentId": id});
        Ok(Reply { status: 200, body: Some(body), deployment: Some(id), location: None })
    }

    /// The deployments that change one of these.
    pub(super) fn in_the_way<'a>(&self, ids: impl Iterator<Item = &'a PathId>) -> Vec<String> {
        let (mut names, mut gone) = (Vec::new(), Vec::new());
        for id in ids {
            match self.state.apps.get(id) {
                Some(entry) => names.extend(entry.deployments.iter().map(String::as_str)),
                // One may have ended it and be at work on others still.
                None => gone.push(id),
            }
        }
        let others = self.state.deployments.values().filter(|d| gone.iter().any(|id| d.affects(id)));
        self.in_order(names.into_iter().chain(others.map(|d| d.id.as_str())))
    }

    /// Of these deployments those that there are, each once, the oldest first.
    pub(super) fn in_order<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<String> {
        let places: BTreeSet<usize> =
            names.filter_map(|name| self.state.deployments.get_index_of(name)).collect();
        let at = |place| self.state.deployments.get_index(place).map(|(name, _)| name.clone());
        places.into_iter().filter_map(at).collect()
    }

    /// The records of groups at this path and below, if nothing lies in them.
    pub(super) fn empty_groups(&self, id: &PathId) -> Vec<PathId> {
        if self.state.entries_in(id).next().is_some() {
            return Vec::new();
        }
        let own = self.state.groups.get(id).map(|group| &group.id);
        own.into_iter().chain(self.state.groups.between(id.inside()).map(|(id, _)| id)).cloned().collect()
    }

    /// Makes groups so.
    pub(super) fn regroup(&mut self, groups: Groups, writes: &mut Vec<Write>) {
        for (id, changed) in groups {
            writes.push(group::put(&id, changed.as_ref()));
            match changed {
                Some(changed) => self.state.groups.insert(id, changed),
                None => drop(self.state.groups.remove(&id)),
            }
        }
    }

    fn actions(&self, id: &PathId, target: &Target) -> Vec<What> {
        match (self.entry(id), target) {
            (_, Target::Gone) => vec![What::Stop],
            (None, Target::Be { .. }) => vec![What::Start, What::Scale],
            (Some(entry), Target::Be { wanted, restart }) => {
                let config = entry.wanted.config();
                // A deployment that is replaced may have left some behind.
                let rest = entry.roll && entry.instances.values().any(|i| i.record.config != config);
                let other = *restart || rest || entry.wanted.differs_in_config(wanted);
                if other && wanted.instances() > 0 {
                    vec![What::Restart]
                } else if other || entry.wanted.instances() != wanted.instances() || !entry.is_as_wanted() {
                    vec![What::Scale]
                } else {
                    Vec::new()
                }
            }
        }
    }

    /// Makes `target` what is wanted of the app `id`, in memory and in `writes`.
    fn retarget(&mut self, id: &PathId, target: Target, version: &str, writes: &mut Vec<Write>) {
        let (mut wanted, restart) = match target {
            Target::Gone => {
                if let Some(entry) = self.state.apps.get_mut(id) {
                    self.census.leave(entry);
                    entry.removing = true;
                    self.census.enter(entry);
                    writes.push(records::put_root(entry));
                }
                return;
            }
            Target::Be { wanted, restart } => (*wanted, restart),
        };
        let before = self.entry(id).map(|e| Arc::clone(&e.wanted));
        if let Some(old) = &before
            && !restart
            && old.version() == wanted.version()
            && **old == wanted
        {
            if let Some(entry) = self.state.apps.get_mut(id).filter(|e| !e.roll) {
                entry.roll = true;
                writes.push(records::put_root(entry));
            }
            return;
        }
        let known = self.state.apps.get(id).and_then(|e| e.versions.get(wanted.version()));
        let is_old = known.is_some_and(|old| !old.differs_in_config(&wanted));
        let now = || version.to_owned();
        let info = match &before {
            None => VersionInfo { last_scaling_at: now(), last_config_change_at: now() },
            Some(_) if restart => VersionInfo { last_scaling_at: now(), last_config_change_at: now() },
            // Going back to a version: what still runs of it stays.
            Some(_) if is_old => VersionInfo { last_scaling_at: now(), ..wanted.info().clone() },
            Some(old) if old.differs_in_config(&wanted) => {
                VersionInfo { last_scaling_at: now(), last_config_change_at: now() }
            }
            Some(old) => VersionInfo { last_scaling_at: now(), ..old.info().clone() },
        };
        wanted.stamp(version, info);
        let wanted = Arc::new(wanted);
        writes.push(records::put_version(&wanted));
        let theirs = self.state.apps.get(id).into_iter().flat_map(|entry| &entry.deployments);
        let theirs = theirs.filter_map(|name| self.state.deployments.get(name));
        let keep: Vec<String> = theirs.filter_map(|d| d.original.get(id)?.clone()).collect();
        if let Some(entry) = self.state.apps.get(id) {
            self.census.leave(entry);
        }
        let fresh = || Entry::new(Arc::clone(&wanted), BTreeMap::new());
        let Some(entry) = self.state.apps.entry(id, fresh) else { return };
        entry.versions.insert(version.to_owned(), Arc::clone(&wanted));
        entry.want(wanted);
        (entry.removing, entry.roll) = (false, true);
        self.census.enter(entry);
        entry.tally = super::Tally::default();
        // Where fewer are kept than before, the rest goes with later intents.
        let surplus = entry.versions.len().saturating_sub(self.state.settings.versions).min(MOST_PRUNED);
        for _ in 0..surplus {
            let spare = |v: &&String| **v != entry.wanted.version() && !keep.contains(v);
            // Of versions between which only the number changed the last one says it all; otherwise the oldest goes.
            let merely = entry.versions.values().zip(entry.versions.values().skip(1));
            let merely = merely.filter(|(one, next)| one.config() == next.config());
            let merely = merely.map(|(one, _)| one.version().to_owned()).find(|v| spare(&v));
            let Some(oldest) = merely.or_else(|| entry.versions.keys().find(spare).cloned()) else { break };
            entry.versions.remove(&oldest);
            writes.push(Write::Delete(records::version_key(id, &oldest)));
        }
        writes.extend(entry.drop_pins());
        writes.push(records::put_root(entry));
        self.offers.ask();
    }

    /// Marathon's refusal, as long as one of these deployments gets on: one that does not is in nobody's way.
    pub(super) fn check_locks(&self, in_the_way: &[String], force: bool, now: Now) -> Result<(), ApiError> {
        let found = in_the_way.iter().filter_map(|id| self.state.deployments.get(id));
        let locked: Vec<String> =
            found.filter(|d| !force && self.is_locked(d, now)).map(|d| d.id.clone()).collect();
        if locked.is_empty() { Ok(()) } else { Err(ApiError::Locked(locked)) }
    }

    /// Ends a deployment that a newer intent replaces.
    fn supersede(&mut self, id: &str, now: Now) -> Option<Write> {
        let deployment = self.finish(id)?;
        let reason = "replaced by a newer change";
        if !deployment.current().is_empty() {
            self.publish(notices::deployment_step("deployment_step_failure", &deployment, now));
        }
        self.publish(notices::deployment_end("deployment_failed", &deployment, Some(reason), now));
        // Whatever else it changed goes on by itself.
        self.dirty.extend(deployment.original.into_keys());
        Some(records::delete_deployment(id))
    }

    pub(super) fn cancel(
        &mut self,
        id: &str,
        force: bool,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        let missing = || ApiError::NotFound(format!("DeploymentPlan {id} does not exist"));
        let deployment = self.state.deployments.get(id).ok_or_else(missing)?.clone();
        if force {
            let mut writes: Vec<Write> = self.supersede(id, now).into_iter().collect();
            for app in deployment.original.keys() {
                if let Some(entry) = self.state.apps.get_mut(app).filter(|e| !e.removing) {
                    entry.roll = false;
                    writes.push(records::put_root(entry));
                }
            }
            self.commit(writes);
            return Ok(Reply { status: 202, body: None, deployment: Some(id.to_owned()), location: None });
        }
        let mut targets = Targets::new();
        for (app, version) in &deployment.original {
            // Also what it removed comes back.
            match version.as_ref().and_then(|version| self.state.definition_of(app, version)) {
                Some(before) => {
                    let wanted = Box::new(Definition::clone(before));
                    targets.insert(app.clone(), Target::Be { wanted, restart: false });
                }
                None if self.state.apps.contains_key(app) => {
                    targets.insert(app.clone(), Target::Gone);
                }
                None => {}
            }
        }
        let groups = self.groups_before(&deployment, &targets);
        self.submit_intent(Intent { targets, groups, force: true, ..Intent::default() }, now, ids)
    }

    /// The groups that a deployment changed, as they were. What was changed again since stays; so does a group in which something new lies.
    fn groups_before(&self, deployment: &Deployment, targets: &Targets) -> Groups {
        let is_its = |id: &PathId| match self.state.groups.get(id) {
            Some(group) => group.version == deployment.version,
            None => true,
        };
        let stays = |id: &PathId| {
            let gone = |id: &PathId| matches!(targets.get(id), Some(Target::Gone));
            self.state.entries_in(id).any(|(id, _)| !gone(id))
                || self.state.groups.between(id.inside()).any(|(id, _)| !deployment.groups.contains_key(id))
        };
        let back =
            deployment.groups.iter().filter(|(id, before)| is_its(id) && (before.is_some() || !stays(id)));
        back.map(|(id, before)| (id.clone(), before.clone())).collect()
    }
}
