//! What people want: requests become targets, targets one deployment, written down in one transaction and answered
//! when it is durable. Nothing waits in here and nothing stays locked: a newer intent with `force` replaces an older.

use std::collections::BTreeMap;
use std::sync::Arc;

use plenum_api::{IdSource, Now};
use serde_json::{Map, Value, json};

use super::app::{App, VersionInfo};
use super::definition::Definition;
use super::deployment::{self, Deployment, What};
use super::error::{ApiError, Flaw};
use super::id::{InstanceId, PathId};
use super::instance::Goal;
use super::once::Once;
use super::{Core, Effect, Entry, Write, notices, records, update, validate, view};

/// A request that changes something.
#[derive(Clone, Debug)]
pub struct Request {
    /// For the answer.
    pub token: u64,
    /// What.
    pub kind: Kind,
    /// Replace deployments that are in the way.
    pub force: bool,
    /// The path it came by, for `api_post_event`.
    pub uri: String,
    /// The client's address, for the same.
    pub client: String,
    /// Its idempotency key: what comes of the request is written with it. Whether it is a repetition was looked at before.
    pub once: Option<Once>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A new app.
    Create(Map<String, Value>),
    /// A change of an app, or a new one if there is none.
    Update {
        /// Which.
        id: PathId,
        /// The fields.
        body: Map<String, Value>,
        /// Fields that are absent stay as they are.
        partial: bool,
    },
    /// Changes of several apps in one deployment.
    UpdateMany {
        /// Each with its `id`.
        bodies: Vec<Map<String, Value>>,
        /// Fields that are absent stay as they are.
        partial: bool,
        /// An app that is there already is a conflict.
        create: bool,
    },
    /// An app goes.
    Remove(PathId),
    /// A group goes with everything in it.
    RemoveGroup(PathId),
    /// All instances of an app are replaced.
    Restart(PathId),
    /// Instances end; they are replaced unless the app shrinks with them.
    Kill(Killing),
    /// A deployment is undone, or with force just forgotten.
    Cancel(String),
    /// An app's delay ends now.
    ResetDelay(PathId),
}

/// Which instances end.
#[derive(Clone, Debug)]
pub struct Killing {
    /// Only of this app, which must exist.
    pub app: Option<PathId>,
    /// These tasks; all of the app if none.
    pub tasks: Option<Vec<String>>,
    /// Only on this host.
    pub host: Option<String>,
    /// Shrink the app.
    pub scale: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body; none for an empty one.
    pub body: Option<Value>,
    /// For the header `Marathon-Deployment-Id`.
    pub deployment: Option<String>,
    /// For the header `Location`.
    pub location: Option<String>,
}

impl Reply {
    fn ok(status: u16, body: Value) -> Self {
        Self { status, body: Some(body), deployment: None, location: None }
    }
}

/// What is to become of an app.
enum Target {
    /// This; `restart` replaces instances even if nothing changed.
    Be { wanted: Box<Definition>, restart: bool },
    /// To go.
    Gone,
}

type Targets = BTreeMap<PathId, Target>;

/// At most so many apps in one request: their roots flip in one transaction.
const MOST_APPS: usize = 80;

impl Core {
    pub(super) fn request(&mut self, request: Request, now: Now, ids: &mut dyn IdSource) {
        let (token, from) = (request.token, self.out.len());
        let reply = match self.carry_out(&request, now, ids) {
            Ok(reply) => {
                if let Some(once) = &request.once {
                    self.remember(from, once, &reply, now);
                }
                reply
            }
            // What is refused changes nothing: a repetition is judged anew.
            Err(error) => Reply::ok(error.status(), error.body()),
        };
        self.out.push(Effect::Reply { token, reply });
    }

    fn carry_out(&mut self, r: &Request, now: Now, ids: &mut dyn IdSource) -> Result<Reply, ApiError> {
        match &r.kind {
            Kind::Create(body) => self.create(r, body, now, ids),
            Kind::Update { id, body, partial } => {
                let existed = self.entry(id).is_some();
                let target = self.updated(id, body, *partial)?;
                self.announce(r, &target, now);
                let targets = [(id.clone(), target)].into();
                let result = self.submit(targets, r.force, now, ids)?;
                let created = (!existed).then(|| format!("/v2/apps{id}"));
                Ok(Reply { status: if existed { 200 } else { 201 }, location: created, ..result })
            }
            Kind::UpdateMany { bodies, partial, create } => {
                let mut targets = Targets::new();
                for (i, body) in bodies.iter().enumerate() {
                    let id = body_id(body)?
                        .ok_or_else(|| ApiError::invalid(&format!("({i})/id"), "error.path.missing"))?;
                    if *create && self.entry(&id).is_some() {
                        return Err(ApiError::Conflict(format!("An app with id [{id}] already exists.")));
                    }
                    targets.insert(id.clone(), self.updated(&id, body, *partial)?);
                }
                self.submit(targets, r.force, now, ids)
            }
            Kind::Remove(id) => {
                self.entry(id).ok_or_else(|| ApiError::no_app(id))?;
                self.submit([(id.clone(), Target::Gone)].into(), r.force, now, ids)
            }
            Kind::RemoveGroup(group) => {
                let below = self.entries().filter(|(id, _)| id.is_below(group));
                let targets: Targets = below.map(|(id, _)| (id.clone(), Target::Gone)).collect();
                if targets.is_empty() && !group.is_root() {
                    return Err(ApiError::NotFound(format!("Group '{group}' does not exist")));
                }
                self.submit(targets, r.force, now, ids)
            }
            Kind::Restart(id) => {
                let entry = self.entry(id).ok_or_else(|| ApiError::no_app(id))?;
                let wanted = Box::new(Definition::clone(&entry.wanted));
                self.submit([(id.clone(), Target::Be { wanted, restart: true })].into(), r.force, now, ids)
            }
            Kind::Kill(which) => self.kill(which, r.force, now, ids),
            Kind::Cancel(id) => self.cancel(id, r.force, now, ids),
            Kind::ResetDelay(id) => {
                let entry = self.state.apps.get_mut(id).filter(|e| e.missing > 0);
                let entry = entry.ok_or_else(|| {
                    ApiError::NotFound(format!("Application {id} not found in tasks queue."))
                })?;
                entry.backoff = None;
                self.dirty.insert(id.clone());
                self.offers.ask();
                Ok(Reply { status: 204, body: None, deployment: None, location: None })
            }
        }
    }

    fn create(
        &mut self,
        r: &Request,
        body: &Map<String, Value>,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        let missing = || ApiError::BadFields(vec![Flaw::new("/id", "error.path.missing")]);
        let id = body_id(body)?.ok_or_else(missing)?;
        if self.entry(&id).is_some() {
            return Err(ApiError::Conflict(format!("An app with id [{id}] already exists.")));
        }
        let target = self.updated(&id, body, false)?;
        self.announce(r, &target, now);
        let result = self.submit([(id.clone(), target)].into(), r.force, now, ids)?;
        let shown = view::app(&self.state, &id, view::Embed::ALL_BUT_TASKS.with_tasks()).unwrap_or_default();
        let location = Some(format!("/v2/apps{id}"));
        Ok(Reply { status: 201, body: Some(shown), location, ..result })
    }

    /// The definition that `body` makes of the app `id`.
    fn updated(&self, id: &PathId, body: &Map<String, Value>, partial: bool) -> Result<Target, ApiError> {
        let entry = self.entry(id);
        let before = entry.and_then(|e| e.wanted.app());
        if entry.is_some() && before.is_none() {
            return Err(ApiError::Conflict(format!("'{id}' is a pod: change it at /v2/pods{id}")));
        }
        if let (Some(entry), Some(version)) = (entry, only_version(body)) {
            let old = entry.versions.get(version);
            let old = old.ok_or_else(|| {
                ApiError::NotFound(format!("App '{id}' does not exist in version {version}"))
            })?;
            return Ok(Target::Be { wanted: Box::new(Definition::clone(old)), restart: false });
        }
        if id.is_root() {
            return Err(ApiError::invalid("/id", "must not be the root"));
        }
        if let Some(given) = body_id(body)?
            && given != *id
        {
            return Err(ApiError::invalid("/id", format!("must be {id}, or left out")));
        }
        let mut app = match before {
            Some(app) if partial => app.clone(),
            _ => App::new(id.clone(), &self.state.settings.default_role),
        };
        update::apply(&mut app, body, &self.state.settings.default_role).map_err(ApiError::BadFields)?;
        let accepted = &self.state.settings.default_accepted_roles;
        if app.accepted_resource_roles.is_none() && !accepted.is_empty() {
            app.accepted_resource_roles = Some(accepted.clone());
        }
        let flaws = validate::validate(&app);
        if !flaws.is_empty() {
            return Err(ApiError::Invalid(flaws));
        }
        self.assign_service_ports(&mut app)?;
        Ok(Target::Be { wanted: Box::new(Definition::App(app)), restart: false })
    }

    /// Gives service ports to ports that have none, that no app uses.
    fn assign_service_ports(&self, app: &mut App) -> Result<(), ApiError> {
        let used = self.entries().filter(|(id, _)| **id != app.id);
        let mut used: std::collections::BTreeSet<u16> =
            used.flat_map(|(_, e)| e.wanted.service_ports()).collect();
        used.extend(app.ports().iter().map(|p| p.service));
        let host = app.host_networking();
        let exact = app.require_ports;
        let (first, last) = self.state.settings.service_ports;
        let mut next = first..=last;
        let mut fresh = || {
            let port = next.find(|p| !used.contains(p));
            port.ok_or_else(|| ApiError::invalid("/portDefinitions", "no service port is left: give one"))
        };
        if host && !exact {
            for port in app.port_definitions.iter_mut().filter(|p| p.port == 0) {
                port.port = fresh()?;
            }
        } else if !host && let Some(container) = &mut app.container {
            for mapping in container.port_mappings.iter_mut().filter(|m| m.service_port == 0) {
                mapping.service_port = fresh()?;
            }
        }
        Ok(())
    }

    fn announce(&mut self, r: &Request, target: &Target, now: Now) {
        if let Target::Be { wanted, .. } = target {
            let fields = json!({"clientIp": r.client, "uri": r.uri, "appDefinition": wanted.to_json()});
            self.publish(notices::notice("api_post_event", fields, now));
        }
    }

    fn submit(
        &mut self,
        targets: Targets,
        force: bool,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        self.submit_with(Vec::new(), targets, force, now, ids)
    }

    /// Writes an intent down, with what else belongs to it, and starts its deployment.
    fn submit_with(
        &mut self,
        first: Vec<Write>,
        targets: Targets,
        force: bool,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        if targets.len() > MOST_APPS {
            let error = format!("{} apps in one request, at most {MOST_APPS}: split it", targets.len());
            return Err(ApiError::invalid("/", error));
        }
        let in_the_way: Vec<String> = self
            .state
            .deployments
            .values()
            .filter(|d| targets.keys().any(|id| d.affects(id)))
            .map(|d| d.id.clone())
            .collect();
        if !force && !in_the_way.is_empty() {
            return Err(ApiError::Locked(in_the_way));
        }
        let changes: Vec<(PathId, Vec<What>)> =
            targets.iter().map(|(id, target)| (id.clone(), self.actions(id, target))).collect();
        let apps: BTreeMap<PathId, &Definition> =
            targets
                .iter()
                .filter_map(|(id, t)| {
                    if let Target::Be { wanted, .. } = t { Some((id.clone(), &**wanted)) } else { None }
                })
                .collect();
        let steps = deployment::steps(&changes, &apps).map_err(|circle| {
            let names: Vec<&str> = circle.iter().map(PathId::as_str).collect();
            ApiError::invalid(
                "/dependencies",
                format!("Dependency graph has cyclic dependencies: {}", names.join(", ")),
            )
        })?;
        let version = self.fresh_version(now);
        let deployment = Deployment {
            f: records::FORMAT,
            id: ids.uuid_text(),
            version: version.clone(),
            steps,
            at: 0,
            original: targets
                .keys()
                .map(|id| (id.clone(), self.entry(id).map(|e| e.wanted.version().to_owned())))
                .collect(),
        };
        let mut writes = first;
        writes.push(records::put_deployment(&deployment));
        for id in in_the_way {
            writes.extend(self.supersede(&id, now));
        }
        for (id, target) in targets {
            self.retarget(&id, target, &version, &mut writes);
            self.dirty.insert(id);
        }
        self.commit_intent(writes);
        let id = deployment.id.clone();
        let group = json!({"groupId": "/", "version": version});
        self.publish(notices::notice("group_change_success", group, now));
        self.publish(notices::deployment_step("deployment_info", &deployment, now));
        self.begin(deployment);
        let body = json!({"version": version, "deploymentId": id});
        Ok(Reply { status: 200, body: Some(body), deployment: Some(id), location: None })
    }

    fn actions(&self, id: &PathId, target: &Target) -> Vec<What> {
        match (self.entry(id), target) {
            (_, Target::Gone) => vec![What::Stop],
            (None, Target::Be { .. }) => vec![What::Start, What::Scale],
            (Some(entry), Target::Be { wanted, restart }) => {
                let config = entry.wanted.config();
                // A deployment that is replaced may have left some behind.
                let rest = entry.roll && entry.instances.values().any(|i| i.record.config != config);
                if *restart || rest || entry.wanted.differs_in_config(wanted) {
                    vec![What::Restart]
                } else if entry.wanted.instances() != wanted.instances() || entry.blocker().is_some() {
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
                    entry.removing = true;
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
        let keep: Vec<String> =
            self.state.deployments.values().filter_map(|d| d.original.get(id)?.clone()).collect();
        let fresh = || Entry::new(Arc::clone(&wanted), BTreeMap::new());
        let Some(entry) = self.state.apps.entry(id, fresh) else { return };
        entry.versions.insert(version.to_owned(), Arc::clone(&wanted));
        entry.want(wanted);
        (entry.removing, entry.roll) = (false, true);
        entry.tally = super::Tally::default();
        while entry.versions.len() > self.state.settings.versions {
            let spare = |v: &&String| **v != entry.wanted.version() && !keep.contains(v);
            let Some(oldest) = entry.versions.keys().find(spare).cloned() else { break };
            entry.versions.remove(&oldest);
            writes.push(Write::Delete(records::version_key(id, &oldest)));
            if writes.len() >= 80 {
                break;
            }
        }
        writes.extend(entry.drop_pins());
        writes.push(records::put_root(entry));
        self.offers.ask();
    }

    /// Ends a deployment that a newer intent replaces.
    fn supersede(&mut self, id: &str, now: Now) -> Option<Write> {
        let deployment = self.finish(id)?;
        let reason = "replaced by a newer change";
        self.publish(notices::deployment_end("deployment_failed", &deployment, Some(reason), now));
        // Whatever else it changed goes on by itself.
        self.dirty.extend(deployment.original.into_keys());
        Some(records::delete_deployment(id))
    }

    fn cancel(&mut self, id: &str, force: bool, now: Now, ids: &mut dyn IdSource) -> Result<Reply, ApiError> {
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
            let entry = self.state.apps.get(app);
            let before = version.as_ref().and_then(|v| entry.and_then(|e| e.versions.get(v)));
            match before {
                Some(before) => {
                    let wanted = Box::new(Definition::clone(before));
                    targets.insert(app.clone(), Target::Be { wanted, restart: false });
                }
                None if entry.is_some() => {
                    targets.insert(app.clone(), Target::Gone);
                }
                None => {}
            }
        }
        self.submit(targets, true, now, ids)
    }
}

/// Parameters of ending instances, gathered.
struct Victims {
    shown: Vec<Value>,
    by_app: BTreeMap<PathId, Vec<InstanceId>>,
    strangers: Vec<(String, Option<String>)>,
}

impl Core {
    fn kill(
        &mut self,
        which: &Killing,
        force: bool,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        let (app, tasks) = (which.app.as_ref(), which.tasks.as_deref());
        if let Some(app) = app {
            self.entry(app).ok_or_else(|| ApiError::no_app(app))?;
        }
        let victims = self.victims(app, tasks, which.host.as_deref());
        let targets: Targets = if which.scale { self.shrunk(&victims) } else { Targets::new() };
        let locked = |d: &&Deployment| targets.keys().any(|id| d.affects(id));
        let in_the_way: Vec<String> =
            self.state.deployments.values().filter(locked).map(|d| d.id.clone()).collect();
        if !force && !in_the_way.is_empty() {
            return Err(ApiError::Locked(in_the_way));
        }
        let mut writes = Vec::new();
        for (app, instances) in &victims.by_app {
            let Some(entry) = self.state.apps.get_mut(app) else { continue };
            for id in instances {
                if let Some(instance) = entry.instances.get_mut(id) {
                    instance.record.goal = Goal::Stop;
                    writes.push(records::put_instance(&instance.record));
                }
            }
            self.dirty.insert(app.clone());
        }
        for (task, agent) in victims.strangers {
            self.out.push(Effect::Kill { task, agent, grace: None });
        }
        if which.scale {
            let ending = writes.clone();
            // Those that end do so in any case.
            return self.submit_with(writes, targets, true, now, ids).inspect_err(|_| self.commit(ending));
        }
        self.commit(writes);
        let single = app.is_some() && tasks.is_some();
        let body = match (single, victims.shown.first()) {
            (true, Some(task)) => json!({"task": task}),
            (true, None) => {
                return Err(ApiError::NotFound(format!(
                    "Task '{}' does not exist",
                    tasks.unwrap_or(&[]).join(", ")
                )));
            }
            _ if app.is_some() || tasks.is_some() => json!({"tasks": victims.shown}),
            _ => json!({}),
        };
        Ok(Reply::ok(200, body))
    }

    fn victims(&self, app: Option<&PathId>, tasks: Option<&[String]>, host: Option<&str>) -> Victims {
        let mut out = Victims { shown: Vec::new(), by_app: BTreeMap::new(), strangers: Vec::new() };
        let named = |id: &InstanceId| {
            tasks.is_none_or(|t| {
                t.iter().any(|t| t == id.as_str() || InstanceId::of_task(t).is_some_and(|(of, ..)| of == *id))
            })
        };
        for (app_id, entry) in self.entries().filter(|(id, _)| app.is_none_or(|a| a == *id)) {
            let fits = |host: &str, at: &super::constraint::Location| at.host == host;
            for instance in entry.instances.values() {
                let record = &instance.record;
                if named(&record.id) && host.is_none_or(|h| fits(h, &record.location)) {
                    out.shown.extend(view::tasks_of(entry, instance));
                    out.by_app.entry(app_id.clone()).or_default().push(record.id.clone());
                }
            }
        }
        for task in tasks.filter(|_| app.is_none()).unwrap_or_default() {
            if let Some(stranger) = self.state.strangers.get(task) {
                out.strangers.push((task.clone(), stranger.agent.clone()));
            }
        }
        out
    }

    /// The apps with as many instances fewer as are about to end.
    fn shrunk(&self, victims: &Victims) -> Targets {
        let mut targets = Targets::new();
        for (id, instances) in &victims.by_app {
            let Some(entry) = self.entry(id) else { continue };
            let wanted =
                instances.iter().filter(|i| entry.instances.get(i).is_some_and(|i| i.is_wanted())).count();
            let mut fewer = Definition::clone(&entry.wanted);
            fewer.scale_to(fewer.instances().saturating_sub(u32::try_from(wanted).unwrap_or(u32::MAX)));
            targets.insert(id.clone(), Target::Be { wanted: Box::new(fewer), restart: false });
        }
        targets
    }
}

fn body_id(body: &Map<String, Value>) -> Result<Option<PathId>, ApiError> {
    match body.get("id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            PathId::parse(text).map(Some).map_err(|error| ApiError::invalid("/id", error))
        }
        Some(_) => Err(ApiError::BadFields(vec![Flaw::new("/id", "error.expected.jsstring")])),
    }
}

/// The version of a body that has nothing else (an `id` aside): going back.
fn only_version(body: &Map<String, Value>) -> Option<&str> {
    let others = body.keys().any(|k| k != "version" && k != "id");
    body.get("version").and_then(Value::as_str).filter(|_| !others)
}
