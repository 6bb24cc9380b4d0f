//! From a body to the definition that it makes of an app: read, judged, with its service ports.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::app::App;
use super::census::Ports;
use super::definition::Definition;
use super::error::{ApiError, Flaw};
use super::group::{enforced_role, wrong_role};
use super::id::PathId;
use super::requests::Target;
use super::scale::Spec;
use super::schema::Rule;
use super::{Core, update, validate};

/// What is known while the apps and pods of one request are read.
#[derive(Default)]
pub(super) struct Intake {
    /// Groups in the root that are just being changed, and whether they enforce their role.
    pub(super) enforces: BTreeMap<PathId, bool>,
    /// Names are judged over the whole tree, by who reads it.
    pub(super) tree: bool,
}

impl Core {
    /// The definition that `body` makes of the app `id`. Its own `id` counts for nothing: the request has said which is meant.
    pub(super) fn updated(
        &self,
        id: &PathId,
        body: &Map<String, Value>,
        partial: bool,
    ) -> Result<Target, ApiError> {
        let mut definition = self.read_app(id, body, partial, &Intake::default())?;
        if let Definition::App(app) = &mut definition {
            self.assign_service_ports(app, &mut None)?;
        }
        Ok(Target::be(definition))
    }

    /// The same without service ports where none are said.
    pub(super) fn read_app(
        &self,
        id: &PathId,
        body: &Map<String, Value>,
        partial: bool,
        intake: &Intake,
    ) -> Result<Definition, ApiError> {
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
            return Ok(Definition::clone(old));
        }
        if partial {
            update::check_version(body)?;
        }
        let enforced = enforced_role(&self.state, &intake.enforces, id);
        let role = enforced.as_deref().unwrap_or(&self.state.settings.default_role);
        let mut app = match before {
            Some(app) if partial => app.clone(),
            _ => App::new(id.clone(), role),
        };
        update::apply(&mut app, body, role)?;
        left_to_us(&mut app, body, before);
        let accepted = &self.state.settings.default_accepted_roles;
        if app.accepted_resource_roles.is_none() && !accepted.is_empty() {
            let own = |role: &&String| *role == "*" || **role == app.role;
            let accepted: Vec<String> = accepted.iter().filter(own).cloned().collect();
            app.accepted_resource_roles = Some(accepted).filter(|accepted| !accepted.is_empty());
        }
        let mut flaws = validate::validate(&app);
        let wrong = wrong_role(&app.role, enforced.as_deref(), entry.map(|entry| &*entry.wanted));
        flaws.extend(wrong.map(|error| Flaw::new("/role", error)));
        match before {
            Some(before) => flaws.extend(validate::changes(before, &app)),
            None if intake.tree => {}
            None => flaws.extend(self.namesakes(id)),
        }
        if flaws.is_empty() { Ok(Definition::App(app)) } else { Err(ApiError::Invalid(flaws)) }
    }

    /// A name is that of an app or of a group in which something lies.
    pub(super) fn namesakes(&self, id: &PathId) -> Option<Flaw> {
        let below = self.state.entries_in(id).next().is_some();
        let clash = below || id.ancestors().any(|above| self.entry(&above).is_some());
        clash.then(|| Flaw::new("/", "Groups and Applications may not have the same identifier."))
    }

    /// Gives service ports to ports that have none: those that the app had before and no longer names, then such that no app uses. So a
    /// definition that leaves them open makes the same app each time. `ports` is what is taken, once it was looked up.
    pub(super) fn assign_service_ports(
        &self,
        app: &mut App,
        ports: &mut Option<Ports>,
    ) -> Result<(), ApiError> {
        let (host, exact) = (app.host_networking(), app.require_ports);
        let open = if host {
            !exact && app.port_definitions.iter().any(|port| port.port == 0)
        } else {
            app.ports().iter().any(|port| port.service == 0)
        };
        if !open {
            return Ok(());
        }
        let ports = ports.get_or_insert_with(|| self.census.ports());
        let before = self.entry(&app.id).map(|entry| entry.wanted.service_ports()).unwrap_or_default();
        let mut own: Vec<u16> = Vec::new();
        let named: Vec<u16> = app.ports().iter().map(|port| port.service).collect();
        for port in before {
            let free = ports.free_again(port) && !named.contains(&port) && !own.contains(&port);
            if free && ports.is_ours(port) {
                own.push(port);
            }
        }
        ports.take(named);
        let mut own = own.into_iter();
        let mut fresh = || {
            let port = own.next().or_else(|| ports.next());
            let port = port
                .ok_or_else(|| ApiError::invalid("/portDefinitions", "no service port is left: give one"))?;
            ports.take([port]);
            Ok::<u16, ApiError>(port)
        };
        if host {
            for port in app.port_definitions.iter_mut().filter(|p| p.port == 0) {
                port.port = fresh()?;
            }
        } else if let Some(container) = &mut app.container {
            for mapping in container.port_mappings.iter_mut().filter(|m| m.service_port == 0) {
                mapping.service_port = fresh()?;
            }
        }
        Ok(())
    }
}

/// Who leaves the number of instances to the scheduler, and does not name one, means what it found. So does who sends back the whole of
/// what was read; who names 0 and nothing else about it wants none.
fn left_to_us(app: &mut App, body: &Map<String, Value>, before: Option<&App>) {
    let given = |key: &str| body.get(key).is_some_and(|value| !value.is_null());
    let named = given("instances");
    app.resting = false;
    let Some(spec) = Spec::of(app) else { return };
    if !named {
        app.instances = before.map_or(spec.min, |before| before.instances);
    }
    let ours = before.map_or(!named, |before| before.resting && (!named || given("autoscale")));
    app.resting = ours && app.instances == 0;
}

/// The id in a body, if there is one.
///
/// # Errors
/// It is no id.
pub(super) fn body_id(body: &Map<String, Value>) -> Result<Option<PathId>, ApiError> {
    let bad = |error: &str| Flaw::new("/id", error);
    match body.get("id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            let broken = Rule::Id.broken(text);
            if !broken.is_empty() {
                return Err(ApiError::BadFields(broken.into_iter().map(bad).collect()));
            }
            PathId::parse(text).map(Some).map_err(|error| ApiError::invalid("/id", error))
        }
        Some(_) => Err(ApiError::BadFields(vec![bad("error.expected.jsstring")])),
    }
}

/// The version of a body that has nothing else (an `id` aside): going back.
fn only_version(body: &Map<String, Value>) -> Option<&str> {
    let others = body.iter().any(|(k, v)| k != "version" && k != "id" && !v.is_null());
    body.get("version").and_then(Value::as_str).filter(|_| !others)
}
