//! Whether an instance is ready for what comes after it in a deployment, as its app's readiness check says. It is asked from its launch until it
//! says so, by the leader; who was ready once stays so. Marathon asks during deployments only, and forgets what it heard with each of them.
//!
//! What was heard is not stored: a new leader asks those again whose app is being deployed, and takes all others for ready.

use plenum_api::{Millis, Now};
use serde::Deserialize;
use serde_json::{Value, json};

use super::definition::{Definition, ONLY};
use super::id::{InstanceId, PathId};
use super::instance::{Instance, State};
use super::{Core, Effect, Entry};

/// An app's readiness check.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its name, as results show it.
    pub name: String,
    /// `HTTP` or `HTTPS`; certificates are not looked at.
    pub protocol: String,
    /// The path.
    pub path: String,
    /// The name of the port.
    pub port_name: String,
    /// Seconds from one question to the next.
    pub interval_seconds: u32,
    /// Seconds until an answer is late.
    pub timeout_seconds: u32,
    /// Statuses that say that it is ready.
    pub http_status_codes_for_ready: Vec<u16>,
    /// Whether the last answer is shown.
    pub preserve_last_response: bool,
}

impl Check {
    /// The check of an app, if it has one.
    pub fn of(definition: &Definition) -> Option<Self> {
        let check = definition.app()?.readiness_checks.first()?;
        // Bodies were read by a table that knows every field.
        Self::deserialize(check).ok()
    }
}

/// What is known of an instance that is asked, or was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readiness {
    /// It said that it is ready.
    pub ready: bool,
    /// When it is asked next (monotonic).
    next: Millis,
    /// How often in a row it said something else, or nothing.
    pub failures: u32,
    /// What was wrong the last time.
    pub wrong: Option<Box<str>>,
    /// Its last answer, where that is to be kept.
    last: Option<Box<Answer>>,
}

/// A question to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whose.
    pub app: PathId,
    /// Of which.
    pub instance: InstanceId,
    /// Where to ask.
    pub url: String,
    /// How long an answer may take.
    pub timeout: Millis,
    /// Whether what the answer says is of interest.
    pub keep: bool,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its content type.
    pub content_type: String,
    /// Its body, or the beginning of it.
    pub body: String,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Whose.
    pub app: PathId,
    /// Of which.
    pub instance: InstanceId,
    /// The answer, or why there is none.
    pub answer: Result<Answer, String>,
}

impl Instance {
    /// Has to say that it is ready before anything counts on it, if its app has a check for that.
    pub(super) fn await_readiness(&mut self, definition: &Definition) {
        self.readiness = Check::of(definition).map(|_| Box::default());
    }

    /// Whether it was never to say so, or did.
    pub(super) fn said_ready(&self) -> bool {
        self.readiness.as_ref().is_none_or(|known| known.ready)
    }

    fn is_asked(&self) -> bool {
        self.is_wanted() && self.state() == Some(State::Running) && !self.said_ready()
    }
}

impl Core {
    /// Asks those whose turn it is, and wakes up for the next ones.
    pub(super) fn ask_whether_ready(&mut self, id: &PathId, now: Now) {
        let Some(entry) = self.state.apps.get(id) else { return };
        let asked: Vec<_> = entry.instances.values().filter(|i| i.is_asked()).collect();
        if asked.is_empty() {
            return;
        }
        let is_due = |i: &Instance| i.readiness.as_ref().is_some_and(|known| known.next <= now.mono);
        let due = asked.iter().filter(|i| is_due(i)).filter_map(|i| entry.probe(i)).collect::<Vec<_>>();
        let later = asked.iter().filter(|i| !is_due(i)).filter_map(|i| Some(i.readiness.as_ref()?.next));
        self.wake.extend(later.min().map(|at| (at, id.clone())));
        for (probe, interval) in due {
            let Some(entry) = self.state.apps.get_mut(id) else { return };
            let next = now.mono + interval.max(Millis(100));
            if let Some(known) = entry.instances.get_mut(&probe.instance).and_then(|i| i.readiness.as_mut()) {
                known.next = next;
            }
            self.wake.insert((next, id.clone()));
            self.out.push(Effect::Probe(probe));
        }
    }

    /// An instance answered, or did not.
    pub(super) fn probed(&mut self, probed: Probed, now: Now) {
        let Probed { app, instance, answer } = probed;
        let Some(entry) = self.state.apps.get_mut(&app) else { return };
        let Some(asked) = entry.instances.get(&instance).filter(|i| i.is_asked()) else { return };
        let Some(check) = Check::of(entry.definition_of(&asked.record)) else { return };
        let Some(known) = entry.instances.get_mut(&instance).and_then(|i| i.readiness.as_mut()) else {
            return;
        };
        let wrong = known.hear(&check, answer);
        let moved = known.ready || known.wrong != wrong;
        known.wrong = wrong;
        if moved {
            entry.moved = now.mono;
        }
        self.dirty.insert(app);
    }

    /// After a start: those whose app is being deployed are asked again, since nobody knows what they said.
    pub(super) fn forget_readiness(&mut self) {
        let deployed: Vec<PathId> = self
            .state
            .deployments
            .values()
            .flat_map(|deployment| deployment.original.keys().cloned())
            .collect();
        for id in deployed {
            let Some(entry) = self.state.apps.get_mut(&id) else { continue };
            let versions = entry.versions.clone();
            entry.instances.change_where(
                |i| {
                    i.readiness.is_none()
                        && versions.get(&i.record.version).and_then(|d| Check::of(d)).is_some()
                },
                |i| i.readiness = Some(Box::default()),
            );
        }
    }
}

impl Readiness {
    /// Takes in an answer, and says what is wrong with it.
    fn hear(&mut self, check: &Check, answer: Result<Answer, String>) -> Option<Box<str>> {
        let status = answer.as_ref().map(|answer| answer.status);
        let wrong = match &status {
            Ok(status) if check.http_status_codes_for_ready.contains(status) => None,
            Ok(status) => Some(format!("it answers with status {status}").into_boxed_str()),
            Err(reason) => Some(reason.as_str().into()),
        };
        self.ready = wrong.is_none();
        self.failures = if self.ready { 0 } else { self.failures.saturating_add(1) };
        self.last = answer.ok().filter(|_| check.preserve_last_response).map(Box::new);
        wrong
    }
}

impl Entry {
    /// The question to an instance and how long until the next; none while it has no address.
    fn probe(&self, instance: &Instance) -> Option<(Probe, Millis)> {
        let definition = self.definition_of(&instance.record);
        let check = Check::of(definition)?;
        let (host, port) = address(definition, instance, &check.port_name)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let scheme = if check.protocol == "HTTPS" { "https" } else { "http" };
        let slash = if check.path.starts_with('/') { "" } else { "/" };
        let probe = Probe {
            app: instance.record.app.clone(),
            instance: instance.record.id.clone(),
            url: format!("{scheme}://{host}:{port}{slash}{}", check.path),
            timeout: Millis::from_secs(check.timeout_seconds.into()),
            keep: check.preserve_last_response,
        };
        Some((probe, Millis::from_secs(check.interval_seconds.into())))
    }

    /// Results of readiness checks as `readinessCheckResults` shows them; none when nothing of it is deployed.
    pub fn readiness_results(&self) -> Vec<Value> {
        if self.deployments.is_empty() {
            return Vec::new();
        }
        let one = |instance: &Instance| {
            let known = instance.readiness.as_ref()?;
            let check = Check::of(self.definition_of(&instance.record))?;
            let task = instance.record.id.task_id(ONLY, instance.record.launches);
            let mut out = json!({"name": check.name, "taskId": task, "ready": known.ready});
            if let Some(last) = &known.last {
                out["lastResponse"] =
                    json!({"status": last.status, "contentType": last.content_type, "body": last.body});
            }
            Some(out)
        };
        self.instances.values().filter_map(one).collect()
    }
}

/// Where the port of that name is reached: on the node where it has a port there, otherwise at the instance's own address.
fn address(definition: &Definition, instance: &Instance, port: &str) -> Option<(String, u16)> {
    let ports = definition.app()?.ports();
    let n = ports.iter().position(|p| p.name == Some(port))?;
    place(definition, instance, n)
}

/// The same for its n-th port.
fn place(definition: &Definition, instance: &Instance, n: usize) -> Option<(String, u16)> {
    let record = &instance.record;
    if let Some(port) = record.host_ports.get(n).copied().flatten() {
        return Some((record.location.host.clone(), port));
    }
    let (ip, _) = instance.tasks.first()?.addresses.first()?;
    Some((ip.clone(), definition.app()?.ports().get(n)?.container?))
}

/// Where its n-th port is reached, as URLs have it.
pub(super) fn reach(definition: &Definition, instance: &Instance, n: usize) -> Option<String> {
    let (host, port) = place(definition, instance, n)?;
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}
