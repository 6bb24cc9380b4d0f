//! Puts what clients send onto a definition: read by [`super::schema`], in today's spelling by [`super::modern`], with what follows from
//! it filled in by [`super::normal`]. Unknown fields are ignored, as Marathon does; whether the outcome makes sense is
//! [`super::validate`]'s question.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::app::App;
use super::error::{ApiError, Flaw};
use super::id::PathId;
use super::schema::{APP, Mode, read};
use super::{modern, normal};

/// Puts the fields of `body` onto `app`. What is absent stays; `null` gives the default back.
///
/// # Errors
/// The fields that have the wrong type or are out of bounds, by path; old spellings that contradict today's.
pub fn apply(app: &mut App, body: &Map<String, Value>, default_role: &str) -> Result<(), ApiError> {
    let body = read(&APP, body, "", Mode::Partial).map_err(ApiError::BadFields)?;
    let body = modern::modern(body)?;
    let before = app.clone();
    let defaults = App::new(app.id.clone(), default_role);
    let mut reader = Reader { body: &body, flaws: Vec::new(), wrong: Vec::new() };
    process(app, &defaults, &mut reader);
    placement(app, &defaults, &mut reader);
    connections(app, &defaults, &mut reader);
    life(app, &defaults, &mut reader);
    if !reader.flaws.is_empty() {
        return Err(ApiError::BadFields(reader.flaws));
    }
    if !reader.wrong.is_empty() {
        return Err(ApiError::Invalid(reader.wrong));
    }
    normal::finish(app, &before, &body);
    Ok(())
}

/// Whether a partial update makes sense with a version: that asks to go back, and leaves no room for anything else.
///
/// # Errors
/// There is something else.
pub fn check_version(body: &Map<String, Value>) -> Result<(), ApiError> {
    let given = |key: &str| body.get(key).is_some_and(|v| !v.is_null());
    let others =
        APP.fields.iter().any(|f| !["id", "version"].contains(&f.name) && f.is_read() && given(f.name));
    if given("version") && others {
        let error = "The 'version' field may only be combined with the 'id' field.";
        return Err(ApiError::invalid("/", error));
    }
    Ok(())
}

fn process(app: &mut App, defaults: &App, r: &mut Reader<'_>) {
    r.option("cmd", &mut app.cmd);
    r.option("args", &mut app.args);
    app.args = app.args.take().filter(|args| !args.is_empty());
    // Who changes to the other way of saying what runs need not take the first one back.
    if r.given("cmd") && !r.given("args") && app.cmd.is_some() {
        app.args = None;
    }
    if r.given("args") && !r.given("cmd") && app.args.is_some() {
        app.cmd = None;
    }
    r.option("user", &mut app.user);
    r.value("env", &mut app.env, &defaults.env);
    r.value("executor", &mut app.executor, &defaults.executor);
    r.option("executorResources", &mut app.executor_resources);
    r.option("resourceLimits", &mut app.resource_limits);
    r.value("cpus", &mut app.cpus, &defaults.cpus);
    r.value("mem", &mut app.mem, &defaults.mem);
    r.value("disk", &mut app.disk, &defaults.disk);
    r.value("gpus", &mut app.gpus, &defaults.gpus);
    r.value("instances", &mut app.instances, &defaults.instances);
    r.value("fetch", &mut app.fetch, &defaults.fetch);
    r.value("labels", &mut app.labels, &defaults.labels);
    r.value("secrets", &mut app.secrets, &defaults.secrets);
    r.option("tty", &mut app.tty);
}

fn placement(app: &mut App, defaults: &App, r: &mut Reader<'_>) {
    r.value("constraints", &mut app.constraints, &defaults.constraints);
    r.option("acceptedResourceRoles", &mut app.accepted_resource_roles);
    r.value("role", &mut app.role, &defaults.role);
    let mut dependencies: Vec<String> = Vec::new();
    r.value("dependencies", &mut dependencies, &Vec::new());
    if r.given("dependencies") {
        app.dependencies.clear();
        // What is relative is so to the root; in the body of a group it was resolved before.
        let base = PathId::root();
        for (i, text) in dependencies.iter().enumerate() {
            match PathId::resolve(text, Some(&base)) {
                Ok(id) if app.dependencies.contains(&id) => {}
                Ok(id) => app.dependencies.push(id),
                Err(error) => r.wrong.push(Flaw::new(format!("/dependencies({i})"), error)),
            }
        }
    }
}

fn connections(app: &mut App, defaults: &App, r: &mut Reader<'_>) {
    r.option("container", &mut app.container);
    r.value("networks", &mut app.networks, &defaults.networks);
    if app.networks.is_empty() {
        app.networks.clone_from(&defaults.networks);
    }
    r.value("portDefinitions", &mut app.port_definitions, &defaults.port_definitions);
    r.value("requirePorts", &mut app.require_ports, &defaults.require_ports);
}

fn life(app: &mut App, defaults: &App, r: &mut Reader<'_>) {
    r.value("backoffSeconds", &mut app.backoff_seconds, &defaults.backoff_seconds);
    r.value("backoffFactor", &mut app.backoff_factor, &defaults.backoff_factor);
    r.value("maxLaunchDelaySeconds", &mut app.max_launch_delay_seconds, &defaults.max_launch_delay_seconds);
    r.value("healthChecks", &mut app.health_checks, &defaults.health_checks);
    r.option("check", &mut app.check);
    r.value("readinessChecks", &mut app.readiness_checks, &defaults.readiness_checks);
    r.value("upgradeStrategy", &mut app.upgrade_strategy, &defaults.upgrade_strategy);
    r.option("autoscale", &mut app.autoscale);
    r.option("taskKillGracePeriodSeconds", &mut app.task_kill_grace_period_seconds);
    r.value("killSelection", &mut app.kill_selection, &defaults.kill_selection);
    r.value("unreachableStrategy", &mut app.unreachable_strategy, &defaults.unreachable_strategy);
}

struct Reader<'a> {
    body: &'a Map<String, Value>,
    /// What cannot be read.
    flaws: Vec<Flaw>,
    /// What can, and makes no sense.
    wrong: Vec<Flaw>,
}

impl Reader<'_> {
    fn given(&self, key: &str) -> bool {
        self.body.contains_key(key)
    }

    fn value<T: DeserializeOwned + Clone>(&mut self, key: &str, into: &mut T, default: &T) {
        match self.body.get(key) {
            None => {}
            Some(Value::Null) => *into = default.clone(),
            Some(value) => self.read(key, value, into),
        }
    }

    fn option<T: DeserializeOwned>(&mut self, key: &str, into: &mut Option<T>) {
        match self.body.get(key) {
            None => {}
            Some(Value::Null) => *into = None,
            Some(value) => self.read(key, value, into),
        }
    }

    /// By now the value has the shape that the type wants; where it has not, the two have come apart.
    fn read<T: DeserializeOwned>(&mut self, key: &str, value: &Value, into: &mut T) {
        match T::deserialize(value) {
            Ok(read) => *into = read,
            Err(error) => self.flaws.push(Flaw::new(format!("/{key}"), error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<App, ApiError> {
        let mut app = App::new(PathId::parse("/a").unwrap(), "*");
        apply(&mut app, body.as_object().unwrap(), "*").map(|()| app)
    }

    #[test]
    fn updates_keep_what_they_do_not_name() {
        let mut app = read(json!({"cmd": "x", "cpus": 2, "env": {"A": "1"}})).unwrap();
        app.version = "v1".to_owned();
        apply(&mut app, json!({"args": ["y"], "cpus": null}).as_object().unwrap(), "*").unwrap();
        assert_eq!((app.cmd, app.args, app.cpus, app.env.len()), (None, Some(vec!["y".to_owned()]), 1.0, 1));
    }

    #[test]
    fn a_version_stands_alone() {
        let check = |body: Value| check_version(body.as_object().unwrap());
        assert_eq!(check(json!({"version": "v", "id": "/a"})), Ok(()));
        assert_eq!(check(json!({"version": "v", "cmd": null, "tasksRunning": 3})), Ok(()));
        let error = "The 'version' field may only be combined with the 'id' field.";
        assert_eq!(check(json!({"version": "v", "instances": 1})), Err(ApiError::invalid("/", error)));
    }

    #[test]
    fn the_table_has_the_defaults_of_a_new_app() {
        let shown = App::new(PathId::parse("/a").unwrap(), "*").to_json();
        for field in APP.fields.iter().filter(|f| f.is_read()) {
            if let Some(default) = field.default_value() {
                assert_eq!(shown.get(field.name), Some(&default), "{}", field.name);
            }
        }
    }
}
