//! Reads what clients send, field by field, old spellings included, onto a definition. Unknown fields are ignored,
//! as Marathon does; whether the outcome makes sense is [`super::validate`]'s question.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::app::{App, PortDefinition, Unreachable};
use super::error::Flaw;
use super::id::PathId;

/// Puts the fields of `body` onto `app`. What is absent stays; `null` gives the default back.
///
/// # Errors
/// The fields that have the wrong type, by path.
pub fn apply(app: &mut App, body: &Map<String, Value>, default_role: &str) -> Result<(), Vec<Flaw>> {
    let defaults = App::new(app.id.clone(), default_role);
    let body = modern(body);
    let mut reader = Reader { body: &body, flaws: Vec::new() };
    process(app, &defaults, &mut reader);
    placement(app, &defaults, &mut reader);
    connections(app, &defaults, &mut reader);
    life(app, &defaults, &mut reader);
    if reader.flaws.is_empty() { Ok(()) } else { Err(reader.flaws) }
}

fn process(app: &mut App, defaults: &App, r: &mut Reader<'_>) {
    r.option("cmd", &mut app.cmd);
    r.option("args", &mut app.args);
    if r.given("cmd") && !r.given("args") && app.cmd.is_some() {
        app.args = None;
    }
    if r.given("args") && !r.given("cmd") && app.args.is_some() {
        app.cmd = None;
    }
    r.option("user", &mut app.user);
    r.map("env", &mut app.env);
    r.value("executor", &mut app.executor, &defaults.executor);
    r.option("executorResources", &mut app.executor_resources);
    r.option("resourceLimits", &mut app.resource_limits);
    r.value("cpus", &mut app.cpus, &defaults.cpus);
    r.value("mem", &mut app.mem, &defaults.mem);
    r.value("disk", &mut app.disk, &defaults.disk);
    r.value("gpus", &mut app.gpus, &defaults.gpus);
    r.value("instances", &mut app.instances, &defaults.instances);
    r.list("fetch", &mut app.fetch);
    r.value("labels", &mut app.labels, &defaults.labels);
    r.map("secrets", &mut app.secrets);
    r.option("tty", &mut app.tty);
}

fn placement(app: &mut App, defaults: &App, r: &mut Reader<'_>) {
    r.list("constraints", &mut app.constraints);
    r.option("acceptedResourceRoles", &mut app.accepted_resource_roles);
    r.value("role", &mut app.role, &defaults.role);
    let mut dependencies: Vec<String> = app.dependencies.iter().map(ToString::to_string).collect();
    r.list("dependencies", &mut dependencies);
    if r.given("dependencies") {
        app.dependencies.clear();
        let base = app.id.parent();
        for (i, text) in dependencies.iter().enumerate() {
            match PathId::resolve(text, Some(&base)) {
                Ok(id) => app.dependencies.push(id),
                Err(error) => r.flaws.push(Flaw::new(format!("/dependencies({i})"), error)),
            }
        }
    }
}

fn connections(app: &mut App, defaults: &App, r: &mut Reader<'_>) {
    r.option("container", &mut app.container);
    r.list("networks", &mut app.networks);
    if app.networks.is_empty() {
        app.networks.clone_from(&defaults.networks);
    }
    r.list("portDefinitions", &mut app.port_definitions);
    r.value("requirePorts", &mut app.require_ports, &defaults.require_ports);
    if app.host_networking() {
        if let Some(container) = &mut app.container
            && !container.port_mappings.is_empty()
            && !r.given("portDefinitions")
        {
            // Mappings mean nothing on the host's network; Marathon refuses them, which validation does.
            app.port_definitions.clear();
        }
        // An app that says nothing about its ports gets one, as in Marathon.
        if app.version.is_empty() && !r.given("portDefinitions") && app.port_definitions.is_empty() {
            let name = Some("default".to_owned());
            app.port_definitions.push(PortDefinition {
                port: 0,
                protocol: "tcp".to_owned(),
                name,
                labels: BTreeMap::new(),
            });
        }
    } else if !r.given("portDefinitions") {
        app.port_definitions.clear();
    }
}

fn life(app: &mut App, defaults: &App, r: &mut Reader<'_>) {
    r.value("backoffSeconds", &mut app.backoff_seconds, &defaults.backoff_seconds);
    r.value("backoffFactor", &mut app.backoff_factor, &defaults.backoff_factor);
    r.value("maxLaunchDelaySeconds", &mut app.max_launch_delay_seconds, &defaults.max_launch_delay_seconds);
    r.list("healthChecks", &mut app.health_checks);
    r.option("check", &mut app.check);
    r.list("readinessChecks", &mut app.readiness_checks);
    r.value("upgradeStrategy", &mut app.upgrade_strategy, &defaults.upgrade_strategy);
    r.option("taskKillGracePeriodSeconds", &mut app.task_kill_grace_period_seconds);
    r.value("killSelection", &mut app.kill_selection, &defaults.kill_selection);
    let before = app.unreachable_strategy.clone();
    r.value("unreachableStrategy", &mut app.unreachable_strategy, &defaults.unreachable_strategy);
    if matches!(&app.unreachable_strategy, Unreachable::Disabled(word) if word != "disabled") {
        app.unreachable_strategy = before;
        r.flaws.push(Flaw::new("/unreachableStrategy", "error.expected.jsobject"));
    }
}

struct Reader<'a> {
    body: &'a Map<String, Value>,
    flaws: Vec<Flaw>,
}

impl Reader<'_> {
    fn given(&self, key: &str) -> bool {
        self.body.contains_key(key)
    }

    fn value<T: DeserializeOwned + Clone>(&mut self, key: &str, into: &mut T, default: &T) {
        match self.body.get(key) {
            None => {}
            Some(Value::Null) => *into = default.clone(),
            Some(value) => self.read(&format!("/{key}"), value, into),
        }
    }

    fn option<T: DeserializeOwned>(&mut self, key: &str, into: &mut Option<T>) {
        match self.body.get(key) {
            None => {}
            Some(Value::Null) => *into = None,
            Some(value) => self.read(&format!("/{key}"), value, into),
        }
    }

    fn map(&mut self, key: &str, into: &mut BTreeMap<String, Value>) {
        self.value(key, into, &BTreeMap::new());
    }

    fn list<T: DeserializeOwned>(&mut self, key: &str, into: &mut Vec<T>) {
        match self.body.get(key) {
            None => {}
            Some(Value::Null) => into.clear(),
            Some(Value::Array(items)) => {
                let mut read = Vec::with_capacity(items.len());
                for (i, item) in items.iter().enumerate() {
                    let mut one = None;
                    self.read(&format!("/{key}({i})"), item, &mut one);
                    read.extend(one);
                }
                *into = read;
            }
            Some(_) => self.flaws.push(Flaw::new(format!("/{key}"), "error.expected.jsarray")),
        }
    }

    fn read<T: DeserializeOwned>(&mut self, path: &str, value: &Value, into: &mut T) {
        match serde_json::from_value(value.clone()) {
            Ok(read) => *into = read,
            Err(error) => self.flaws.push(Flaw::new(path, wording(&error.to_string()))),
        }
    }
}

/// Marathon's word for the commonest mistakes, else the parser's sentence.
fn wording(error: &str) -> String {
    let expected = error.rsplit("expected ").next().unwrap_or("");
    match expected {
        e if e.starts_with("f64") || e.starts_with('u') || e.starts_with('i') => {
            "error.expected.jsnumber".to_owned()
        }
        e if e.starts_with("a string") => "error.expected.jsstring".to_owned(),
        e if e.starts_with("a boolean") => "error.expected.jsboolean".to_owned(),
        e if e.starts_with("a sequence") => "error.expected.jsarray".to_owned(),
        e if e.starts_with("a map") || e.starts_with("struct") => "error.expected.jsobject".to_owned(),
        _ => error.to_owned(),
    }
}

/// The body in today's spelling: `uris`, `ports`, `ipAddress`, `container.docker.network` and its `portMappings` are
/// rewritten unless today's field is there, too.
fn modern(body: &Map<String, Value>) -> Map<String, Value> {
    let mut body = body.clone();
    if let Some(Value::Array(uris)) = body.remove("uris")
        && !body.contains_key("fetch")
    {
        let fetch = uris.iter().map(|uri| json!({"uri": uri, "extract": is_archive(uri)})).collect();
        body.insert("fetch".to_owned(), Value::Array(fetch));
    }
    if let Some(Value::Array(ports)) = body.remove("ports")
        && !body.contains_key("portDefinitions")
    {
        let ports = ports.iter().map(|port| json!({"port": port, "protocol": "tcp"})).collect();
        body.insert("portDefinitions".to_owned(), Value::Array(ports));
    }
    if let Some(Value::Object(address)) = body.remove("ipAddress")
        && !body.contains_key("networks")
    {
        let mut network = json!({"mode": "container"});
        for (from, to) in [("networkName", "name"), ("labels", "labels")] {
            if let Some(value) = address.get(from) {
                network[to] = value.clone();
            }
        }
        body.insert("networks".to_owned(), json!([network]));
    }
    modern_docker(&mut body);
    body
}

fn modern_docker(body: &mut Map<String, Value>) {
    let Some(Value::Object(container)) = body.get_mut("container") else { return };
    let Some(Value::Object(docker)) = container.get_mut("docker") else { return };
    let network = docker.remove("network");
    let mappings = docker.remove("portMappings");
    if let Some(mappings) = mappings.filter(|m| !m.is_null()) {
        container.entry("portMappings").or_insert(mappings);
    }
    let mode = match network.as_ref().and_then(Value::as_str) {
        Some("BRIDGE") => "container/bridge",
        Some("HOST") => "host",
        Some("USER") => "container",
        _ => return,
    };
    if mode == "host" {
        container.remove("portMappings");
    }
    body.entry("networks").or_insert_with(|| json!([{"mode": mode}]));
}

fn is_archive(uri: &Value) -> bool {
    let path = uri.as_str().unwrap_or("").split(['?', '#']).next().unwrap_or("");
    [".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip", ".tar"]
        .iter()
        .any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<App, Vec<Flaw>> {
        let mut app = App::new(PathId::parse("/a").unwrap(), "*");
        apply(&mut app, body.as_object().unwrap(), "*").map(|()| app)
    }

    #[test]
    fn old_spellings_become_new_ones() {
        let app = read(json!({
            "cmd": "x", "uris": ["http://h/a.tgz", "http://h/b.bin"], "ports": [0, 8080],
        }))
        .unwrap();
        assert_eq!(app.fetch.iter().map(|f| f.extract).collect::<Vec<_>>(), [true, false]);
        assert_eq!(app.port_definitions.iter().map(|p| p.port).collect::<Vec<_>>(), [0, 8080]);
        let app = read(json!({
            "container": {"type": "DOCKER", "docker": {"image": "i", "network": "BRIDGE",
                "portMappings": [{"containerPort": 80, "hostPort": 0}]}},
        }))
        .unwrap();
        assert_eq!(app.networks[0].mode, "container/bridge");
        assert_eq!(app.container.unwrap().port_mappings[0].container_port, 80);
        assert!(app.port_definitions.is_empty());
    }

    #[test]
    fn an_app_without_ports_gets_one() {
        assert_eq!(read(json!({"cmd": "x"})).unwrap().port_definitions.len(), 1);
        assert_eq!(read(json!({"cmd": "x", "portDefinitions": []})).unwrap().port_definitions.len(), 0);
    }

    #[test]
    fn wrong_types_are_named_by_path() {
        let flaws =
            read(json!({"cpus": "one", "instances": 1, "portDefinitions": [{"port": "x"}], "cmd": 3}))
                .unwrap_err();
        let flaws: Vec<_> = flaws.iter().map(|f| (f.path.as_str(), f.error.as_str())).collect();
        assert_eq!(
            flaws,
            [
                ("/cmd", "error.expected.jsstring"),
                ("/cpus", "error.expected.jsnumber"),
                ("/portDefinitions(0)", "error.expected.jsnumber")
            ]
        );
    }

    #[test]
    fn updates_keep_what_they_do_not_name() {
        let mut app = read(json!({"cmd": "x", "cpus": 2, "env": {"A": "1"}})).unwrap();
        app.version = "v1".to_owned();
        apply(&mut app, json!({"args": ["y"], "cpus": null}).as_object().unwrap(), "*").unwrap();
        assert_eq!((app.cmd, app.args, app.cpus, app.env.len()), (None, Some(vec!["y".to_owned()]), 1.0, 1));
    }
}
