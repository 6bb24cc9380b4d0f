//! What people want: requests become targets, and targets one deployment ([`super::submit`]).

use std::collections::BTreeMap;

use plenum_api::{IdSource, Now};
use serde_json::{Map, Value, json};

use super::condition::Conditional;
use super::definition::Definition;
use super::error::{ApiError, Flaw};
use super::group_requests::GroupChange;
use super::id::{InstanceId, PathId};
use super::instance::Goal;
use super::intake::body_id;
use super::once::Once;
use super::pod_requests::PodChange;
use super::{Core, Effect, Entry, Write, kept, notices, records, schema, view};

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
    },
    /// An app goes.
    Remove(PathId),
    /// Offers are asked for, so that it is known what nodes have.
    LookAround,
    /// Something else, if something holds.
    If(Box<Conditional>),
    /// Something is wanted of groups.
    Group(GroupChange),
    /// All instances of an app are replaced.
    Restart(PathId),
    /// Instances end; they are replaced unless the app shrinks with them.
    Kill(Killing),
    /// Tasks that nobody wrote down become instances of their apps.
    Adopt(Vec<String>),
    /// A deployment is undone, or with force just forgotten.
    Cancel(String),
    /// An app's delay ends now.
    ResetDelay(PathId),
    /// Something is wanted of pods.
    Pod(PodChange),
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
    /// Their volumes go as well, also those of instances that ended.
    pub wipe: bool,
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
pub(super) enum Target {
    /// This; `restart` replaces instances even if nothing changed.
    Be { wanted: Box<Definition>, restart: bool },
    /// To go.
    Gone,
}

impl Target {
    /// To be this.
    pub(super) fn be(wanted: Definition) -> Self {
        Self::Be { wanted: Box::new(wanted), restart: false }
    }

    /// What it is to be, if it is.
    pub(super) fn wanted(&self) -> Option<&Definition> {
        match self {
            Self::Be { wanted, .. } => Some(wanted),
            Self::Gone => None,
        }
    }
}

pub(super) type Targets = BTreeMap<PathId, Target>;

impl Core {
    pub(super) fn request(&mut self, request: Request, now: Now, ids: &mut dyn IdSource) {
        let (token, from) = (request.token, self.out.len());
        let reply = match self.carry_out(&request, &request.kind, now, ids) {
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

    pub(super) fn carry_out(
        &mut self,
        r: &Request,
        kind: &Kind,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        match kind {
            Kind::LookAround => {
                self.look_around(now);
                Ok(Reply { status: 204, body: None, deployment: None, location: None })
            }
            Kind::If(conditional) => {
                let Conditional { subject, condition, then } = &**conditional;
                condition.check(subject, self.state.tag(subject).as_deref())?;
                self.carry_out(r, then, now, ids)
            }
            Kind::Create(body) => self.create(r, body, now, ids),
            Kind::Update { id, body, partial } => {
                let existed = self.entry(id).is_some();
                let target = self.updated(id, body, *partial)?;
                let targets = [(id.clone(), target)].into();
                let result = self.submit(targets, r.force, now, ids)?;
                self.announce(r, id, now);
                let created = (!existed).then(|| format!("/v2/apps{id}"));
                Ok(Reply { status: if existed { 200 } else { 201 }, location: created, ..result })
            }
            Kind::UpdateMany { bodies, partial } => {
                let mut targets = Targets::new();
                for (i, body) in bodies.iter().enumerate() {
                    let inside = |error: ApiError| error.below(&format!("({i})"));
                    let missing = || ApiError::BadFields(vec![Flaw::new("/id", "error.path.missing")]);
                    let id = body_id(body).and_then(|id| id.ok_or_else(missing)).map_err(inside)?;
                    targets.insert(id.clone(), self.updated(&id, body, *partial).map_err(inside)?);
                }
                self.submit(targets, r.force, now, ids)
            }
            Kind::Remove(id) => {
                self.app_entry(id)?;
                self.submit([(id.clone(), Target::Gone)].into(), r.force, now, ids)
            }
            Kind::Restart(id) => {
                let entry = self.app_entry(id)?;
                let wanted = Box::new(Definition::clone(&entry.wanted));
                self.submit([(id.clone(), Target::Be { wanted, restart: true })].into(), r.force, now, ids)
            }
            Kind::Kill(which) => self.kill(which, r.force, now, ids),
            Kind::Adopt(tasks) => self.adopt_tasks(tasks, now),
            Kind::Group(change) => self.change_group(r, change, now, ids),
            Kind::Pod(change) => self.change_pod(r, change, now, ids),
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

    /// The app of that id; a pod is none.
    fn app_entry(&self, id: &PathId) -> Result<&Entry, ApiError> {
        let entry = self.entry(id).filter(|entry| entry.wanted.app().is_some());
        entry.ok_or_else(|| ApiError::no_app(id))
    }

    fn create(
        &mut self,
        r: &Request,
        body: &Map<String, Value>,
        now: Now,
        ids: &mut dyn IdSource,
    ) -> Result<Reply, ApiError> {
        // All that cannot be read is told at once, the id as well.
        schema::read(&schema::APP, body, "", schema::Mode::Whole).map_err(ApiError::BadFields)?;
        let missing = || ApiError::BadFields(vec![Flaw::new("/id", "error.path.missing")]);
        let id = body_id(body)?.ok_or_else(missing)?;
        if self.entry(&id).is_some() {
            let error = ApiError::Conflict(format!("An app with id [{id}] already exists."));
            self.refused(&id.parent(), &error, now);
            return Err(error);
        }
        let target = self.updated(&id, body, false)?;
        let result = self.submit([(id.clone(), target)].into(), r.force, now, ids)?;
        self.announce(r, &id, now);
        let shown = view::app(&self.state, &id, view::Embed::LIST).unwrap_or_default();
        let location = Some(format!("/v2/apps{id}"));
        Ok(Reply { status: 201, body: Some(shown), location, ..result })
    }

    fn announce(&mut self, r: &Request, app: &PathId, now: Now) {
        if let Some(wanted) = self.entry(app).map(|entry| &entry.wanted) {
            let fields = json!({"clientIp": r.client, "uri": r.uri, "appDefinition": wanted.to_json()});
            self.publish(notices::notice("api_post_event", fields, now));
        }
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
            self.app_entry(app)?;
        }
        let victims = self.victims(app, tasks, which.host.as_deref());
        let targets: Targets = if which.scale { self.shrunk(&victims) } else { Targets::new() };
        let in_the_way = self.in_the_way(targets.keys());
        self.check_locks(&in_the_way, force, now)?;
        let mut writes = Vec::new();
        for (app, instances) in &victims.by_app {
            writes.extend(if which.wipe {
                self.wipe_instances(app, instances, now)
            } else {
                self.wind_down(app, instances)
            });
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

    /// Lets instances end.
    pub(super) fn stop_instances(&mut self, of: &PathId, instances: &[InstanceId]) {
        let writes = self.wind_down(of, instances);
        self.commit(writes);
    }

    fn wind_down(&mut self, of: &PathId, instances: &[InstanceId]) -> Vec<Write> {
        let mut writes = Vec::new();
        let Some(entry) = self.state.apps.get_mut(of) else { return writes };
        for id in instances {
            if let Some(instance) = entry.instances.get_mut(id) {
                instance.record.goal = Goal::Stop;
                writes.push(records::put_instance(&instance.record));
            }
        }
        self.dirty.insert(of.clone());
        writes
    }

    fn victims(&self, app: Option<&PathId>, tasks: Option<&[String]>, host: Option<&str>) -> Victims {
        let mut out = Victims { shown: Vec::new(), by_app: BTreeMap::new(), strangers: Vec::new() };
        let named = |id: &InstanceId| {
            tasks.is_none_or(|t| {
                t.iter().any(|t| t == id.as_str() || InstanceId::of_task(t).is_some_and(|(of, ..)| of == *id))
            })
        };
        let one = app.and_then(|id| Some((id, self.entry(id)?)));
        let all = app.is_none().then(|| self.entries()).into_iter().flatten();
        for (app_id, entry) in one.into_iter().chain(all) {
            let fits = |host: &str, at: &super::constraint::Location| at.host == host;
            for instance in entry.instances.values() {
                let record = &instance.record;
                if named(&record.id) && host.is_none_or(|h| fits(h, &record.location)) {
                    out.shown.extend(view::tasks_of(entry, instance));
                    out.by_app.entry(app_id.clone()).or_default().push(record.id.clone());
                }
            }
            for kept in entry.kept.values() {
                let record = &kept.record;
                if named(&record.id) && host.is_none_or(|h| fits(h, &record.location)) {
                    out.shown.push(kept::task(kept));
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
