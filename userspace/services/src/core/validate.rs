//! Judges a definition. Each flaw carries the path and, where clients are known to look, Marathon's wording.

use super::app::{App, Container, HealthCheck};
use super::constraint::Constraint;
use super::error::Flaw;

/// Everything that is wrong with `app`.
pub fn validate(app: &App) -> Vec<Flaw> {
    let mut flaws = Flaws(Vec::new());
    process(app, &mut flaws);
    numbers(app, &mut flaws);
    networks(app, &mut flaws);
    for (i, constraint) in app.constraints.iter().enumerate() {
        if let Err(error) = Constraint::parse(constraint) {
            flaws.add(format!("/constraints({i})"), error);
        }
    }
    for (i, check) in app.health_checks.iter().enumerate() {
        health_check(app, check, &format!("/healthChecks({i})"), &mut flaws);
    }
    if let Some(container) = &app.container {
        container_flaws(container, &mut flaws);
    }
    for (name, value) in &app.env {
        let secret = value.get("secret").and_then(serde_json::Value::as_str);
        match (value.is_string(), secret) {
            (true, _) => {}
            (_, Some(secret)) if app.secrets.contains_key(secret) => {}
            (_, Some(_)) => flaws.add(format!("/env({name})"), "references an undefined secret"),
            _ => flaws.add(format!("/env({name})"), "must be a string or a reference to a secret"),
        }
    }
    flaws.0
}

struct Flaws(Vec<Flaw>);

impl Flaws {
    fn add(&mut self, path: impl Into<String>, error: impl Into<String>) {
        self.0.push(Flaw::new(path, error));
    }

    fn unless(&mut self, good: bool, path: &str, error: &str) {
        if !good {
            self.add(path, error);
        }
    }
}

fn process(app: &App, flaws: &mut Flaws) {
    let image = app.container.as_ref().is_some_and(|c| c.docker.is_some());
    let custom = !app.executor.is_empty() && app.executor != "//cmd";
    match (&app.cmd, &app.args) {
        (None, None) if !image && !custom => {
            flaws.add("/", "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.");
        }
        (Some(_), Some(_)) => flaws.add("/", "AppDefinition must not contain both 'cmd' and 'args'."),
        _ => {}
    }
    flaws.unless(app.args.as_ref().is_none_or(|a| !a.is_empty() || image), "/args", "must not be empty");
    if custom {
        flaws.add("/executor", "custom executors are not supported: leave it empty or use '//cmd'");
    }
    flaws.unless(!app.id.is_root(), "/id", "must not be the root");
    flaws.unless(app.id.as_str().len() <= 200, "/id", "must not be longer than 200 characters");
}

fn numbers(app: &App, flaws: &mut Flaws) {
    for (path, n) in [("/cpus", app.cpus), ("/mem", app.mem), ("/disk", app.disk)] {
        flaws.unless(n.is_finite() && n >= 0.0, path, "error.min");
        flaws.unless(!n.is_finite() || n <= 1e12, path, "error.max");
    }
    flaws.unless(app.instances <= 1_000_000, "/instances", "error.max");
    for (path, n) in [
        ("/upgradeStrategy/minimumHealthCapacity", app.upgrade_strategy.minimum_health_capacity),
        ("/upgradeStrategy/maximumOverCapacity", app.upgrade_strategy.maximum_over_capacity),
    ] {
        flaws.unless(n >= 0.0, path, "is less than 0");
        flaws.unless(n <= 1.0, path, "is greater than 1");
    }
    flaws.unless(app.backoff_seconds >= 0.0, "/backoffSeconds", "error.min");
    flaws.unless(app.backoff_factor >= 1.0, "/backoffFactor", "must be greater than or equal to 1.0");
    flaws.unless(app.max_launch_delay_seconds >= 0.0, "/maxLaunchDelaySeconds", "error.min");
    let grace = app.task_kill_grace_period_seconds.unwrap_or(0.0);
    flaws.unless(grace >= 0.0, "/taskKillGracePeriodSeconds", "error.min");
    if let super::app::Unreachable::Enabled {
        inactive_after_seconds: inactive,
        expunge_after_seconds: expunge,
    } = &app.unreachable_strategy
    {
        flaws.unless(*inactive >= 0.0, "/unreachableStrategy/inactiveAfterSeconds", "error.min");
        let path = "/unreachableStrategy/expungeAfterSeconds";
        flaws.unless(expunge >= inactive, path, "must be greater than or equal to inactiveAfterSeconds");
    }
}

fn networks(app: &App, flaws: &mut Flaws) {
    for (i, network) in app.networks.iter().enumerate() {
        let known = ["host", "container", "container/bridge"].contains(&network.mode.as_str());
        flaws.unless(known, &format!("/networks({i})/mode"), "error.unknown.enum.literal");
    }
    let modes: std::collections::BTreeSet<&str> = app.networks.iter().map(|n| n.mode.as_str()).collect();
    flaws.unless(modes.len() <= 1, "/networks", "may only use one mode");
    if !app.host_networking() {
        flaws.unless(app.port_definitions.is_empty(), "/portDefinitions", "must be empty");
        flaws.unless(!app.require_ports, "/requirePorts", "is only allowed with host networking");
    } else if app.container.as_ref().is_some_and(|c| !c.port_mappings.is_empty()) {
        flaws.add("/container/portMappings", "must be empty");
    }
    let mut names = std::collections::BTreeSet::new();
    for (i, port) in app.ports().iter().enumerate() {
        let list = if port.container.is_some() { "/container/portMappings" } else { "/portDefinitions" };
        if let Some(name) = port.name {
            let fits = !name.is_empty()
                && name.len() <= 63
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !name.starts_with('-')
                && !name.ends_with('-');
            let rule = "must fully match regular expression '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'";
            flaws.unless(fits, &format!("{list}({i})/name"), rule);
            flaws.unless(names.insert(name), list, "Port names must be unique.");
        }
        let protocols = ["tcp", "udp", "udp,tcp", "tcp,udp"].contains(&port.protocol);
        flaws.unless(protocols, &format!("{list}({i})/protocol"), "error.unknown.enum.literal");
    }
    let mut fixed: Vec<u16> = app.port_definitions.iter().map(|p| p.port).filter(|p| *p != 0).collect();
    let before = fixed.len();
    fixed.sort_unstable();
    fixed.dedup();
    flaws.unless(fixed.len() == before, "/portDefinitions", "Ports must be unique.");
}

fn health_check(app: &App, check: &HealthCheck, path: &str, flaws: &mut Flaws) {
    let networked = match check.protocol.as_str() {
        "COMMAND" => {
            let command = check.command.as_ref().and_then(|c| c.get("value")).and_then(|v| v.as_str());
            flaws.unless(command.is_some(), &format!("{path}/command"), "must be defined");
            false
        }
        "HTTP" | "HTTPS" | "TCP" | "MESOS_HTTP" | "MESOS_HTTPS" | "MESOS_TCP" => true,
        _ => {
            flaws.add(format!("{path}/protocol"), "error.unknown.enum.literal");
            false
        }
    };
    if networked && check.port.is_none() {
        let index = check.port_index.unwrap_or(0);
        let ok = index < app.ports().len();
        flaws.unless(ok, path, "Health check port indices must address an element of the ports array or container port mappings.");
    }
    for (name, n) in [
        ("gracePeriodSeconds", check.grace_period_seconds),
        ("intervalSeconds", check.interval_seconds),
        ("timeoutSeconds", check.timeout_seconds),
        ("delaySeconds", check.delay_seconds),
    ] {
        flaws.unless(n >= 0.0, &format!("{path}/{name}"), "error.min");
    }
    flaws.unless(
        app.health_checks.len() <= 1 || path.ends_with("(0)"),
        "/healthChecks",
        "the agent runs one health check a task: give one",
    );
}

fn container_flaws(container: &Container, flaws: &mut Flaws) {
    let known = ["MESOS", "DOCKER"].contains(&container.kind.as_str());
    flaws.unless(known, "/container/type", "error.unknown.enum.literal");
    if container.kind == "DOCKER" {
        flaws.unless(container.docker.is_some(), "/container/docker", "must not be empty");
    }
    if let Some(docker) = &container.docker {
        flaws.unless(!docker.image.trim().is_empty(), "/container/docker/image", "must not be empty");
    }
    for (i, volume) in container.volumes.iter().enumerate() {
        let path = format!("/container/volumes({i})");
        let text = |key: &str| volume.get(key).and_then(serde_json::Value::as_str);
        let target = text("containerPath").is_some_and(|p| !p.is_empty());
        flaws.unless(target, &format!("{path}/containerPath"), "must not be empty");
        if volume.get("persistent").is_some_and(|v| !v.is_null()) {
            flaws.add(format!("{path}/persistent"), "persistent volumes are not supported");
        }
        if let Some(external) = volume.get("external").filter(|v| !v.is_null()) {
            external_flaws(external, &format!("{path}/external"), flaws);
        }
        let mode = text("mode");
        flaws.unless(
            mode.is_none_or(|m| m == "RO" || m == "RW"),
            &format!("{path}/mode"),
            "error.unknown.enum.literal",
        );
    }
}

/// A volume of somebody's driver, as Marathon names it.
fn external_flaws(external: &serde_json::Value, path: &str, flaws: &mut Flaws) {
    let text = |key: &str| external.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
    flaws.unless(text("provider") == "dvdi", &format!("{path}/provider"), "is unknown provider");
    flaws.unless(!text("name").is_empty(), &format!("{path}/name"), "not defined");
    let options = external.get("options").and_then(serde_json::Value::as_object);
    let driver = options.and_then(|options| options.get("dvdi/driver")?.as_str()).unwrap_or_default();
    flaws.unless(!driver.is_empty(), &format!("{path}/options/\"dvdi/driver\""), "not defined");
    let strings = options.is_none_or(|options| options.values().all(serde_json::Value::is_string));
    flaws.unless(strings, &format!("{path}/options"), "error.expected.jsstring");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::PathId;

    #[test]
    fn flaws_carry_paths() {
        let cases: &[(&str, &[&str])] = &[
            (r#"{"cmd":"x"}"#, &[]),
            (r#"{}"#, &["/"]),
            (
                r#"{"cmd":"x","cpus":-1,"upgradeStrategy":{"minimumHealthCapacity":2}}"#,
                &["/cpus", "/upgradeStrategy/minimumHealthCapacity"],
            ),
            (r#"{"cmd":"x","constraints":[["hostname","NEAR"]]}"#, &["/constraints(0)"]),
            (
                r#"{"cmd":"x","portDefinitions":[],"healthChecks":[{"protocol":"MESOS_HTTP","portIndex":1}]}"#,
                &["/healthChecks(0)"],
            ),
            (r#"{"cmd":"x","portDefinitions":[{"port":1},{"port":1}]}"#, &["/portDefinitions"]),
            (r#"{"cmd":"x","env":{"A":{"secret":"s"}}}"#, &["/env(A)"]),
            (
                r#"{"cmd":"x","container":{"type":"MESOS","volumes":[{"containerPath":"d","persistent":{"size":1}}]}}"#,
                &["/container/volumes(0)/persistent"],
            ),
            (
                r#"{"cmd":"x","container":{"type":"MESOS","volumes":[{"containerPath":"d","external":{"name":"v","provider":"dvdi","options":{"dvdi/driver":"d"}}}]}}"#,
                &[],
            ),
            (
                r#"{"cmd":"x","container":{"type":"MESOS","volumes":[{"containerPath":"d","external":{"provider":"x","options":{"a":1}}}]}}"#,
                &[
                    "/container/volumes(0)/external/provider",
                    "/container/volumes(0)/external/name",
                    "/container/volumes(0)/external/options/\"dvdi/driver\"",
                    "/container/volumes(0)/external/options",
                ],
            ),
        ];
        for (body, want) in cases {
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            let mut app = App::new(PathId::parse("/a").unwrap(), "*");
            crate::core::update::apply(&mut app, body.as_object().unwrap(), "*").unwrap();
            let got: Vec<String> = validate(&app).into_iter().map(|f| f.path).collect();
            assert_eq!(got, *want, "{body}");
        }
    }
}
