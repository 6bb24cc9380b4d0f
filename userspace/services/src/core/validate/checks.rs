//! Health checks, checks and readiness checks.

use serde_json::Value;

use super::super::app::App;
use super::Flaws;

const PORT_INDEX: &str =
    "Health check port indices must address an element of the ports array or container port mappings.";
const CHECK_INDEX: &str =
    "check port index must address an element of the ports array or container port mappings.";
const IPV6: &str = "IPv6 can only be used for container type DOCKER and Mesos http/https/tcp health checks";
const MESOS: [&str; 3] = ["MESOS_HTTP", "MESOS_HTTPS", "MESOS_TCP"];

/// Whether it is clear which of `ports` is meant.
fn is_clear(port: bool, index: Option<usize>, ports: usize) -> bool {
    match index {
        Some(index) => index < ports,
        None => port || ports == 1,
    }
}

pub(super) fn health(app: &App, flaws: &mut Flaws) {
    let ports = app.ports().len();
    let docker = app.container.as_ref().is_some_and(|c| c.kind == "DOCKER");
    for (i, check) in app.health_checks.iter().enumerate() {
        let path = format!("/healthChecks({i})");
        let by_command = check.protocol == "COMMAND";
        let commanded = check.command.is_some();
        flaws.unless(!by_command || commanded, &format!("{path}/command"), "not defined");
        let error = "is only for the protocol COMMAND";
        flaws.unless(by_command || !commanded, &format!("{path}/command"), error);
        let clear = by_command || is_clear(check.port.is_some(), check.port_index, ports);
        flaws.unless(clear, &path, PORT_INDEX);
        let sixth = check.ip_protocol.as_deref() == Some("IPv6");
        let can = docker && MESOS.contains(&check.protocol.as_str());
        flaws.unless(!sixth || can, &path, IPV6);
    }
    let mesos = app.health_checks.iter().filter(|c| MESOS.contains(&c.protocol.as_str()));
    flaws.unless(mesos.count() <= 1, "/", "AppDefinition can contain at most one Mesos health check");
}

pub(super) fn check(app: &App, flaws: &mut Flaws) {
    let Some(check) = &app.check else { return };
    let some = |key: &str| check.get(key).filter(|v| !v.is_null());
    let kinds = ["http", "tcp", "exec"].into_iter().filter(|key| some(key).is_some()).count();
    flaws.unless(kinds == 1, "/check", "must have exactly one of http, tcp and exec");
    let docker = app.container.as_ref().is_some_and(|c| c.kind == "DOCKER");
    flaws.unless(!docker, "/", "AppDefinition must not use 'checks' if using docker");
    if let Some(probe) = some("http").or(some("tcp")) {
        let index = probe.get("portIndex").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let port = probe.get("port").is_some_and(|v| !v.is_null());
        flaws.unless(is_clear(port, index, app.ports().len()), "/check", CHECK_INDEX);
        let scheme = probe.get("scheme").and_then(Value::as_str);
        flaws.unless(scheme != Some("HTTPS"), "/check/http/scheme", "does not equal HTTP");
    }
}

pub(super) fn readiness(app: &App, flaws: &mut Flaws) {
    let count = app.readiness_checks.len();
    if count > 1 {
        flaws.add("/readinessChecks/size", format!("got {count}, expected 1 or less"));
    }
    let names: Vec<&str> = app.ports().iter().filter_map(|port| port.name).collect();
    for (i, check) in app.readiness_checks.iter().enumerate() {
        let path = format!("/readinessChecks({i})");
        let name = check.get("portName").and_then(Value::as_str).unwrap_or_default();
        if !names.contains(&name) {
            flaws
                .add(format!("{path}/portName"), format!("No port definition reference for portName {name}"));
        }
        let seconds = |key: &str| check.get(key).and_then(Value::as_i64).unwrap_or(0);
        let (timeout, interval) = (seconds("timeoutSeconds"), seconds("intervalSeconds"));
        if timeout >= interval {
            flaws.add(
                format!("{path}/timeoutSeconds"),
                format!("got {timeout}, expected less than {interval}"),
            );
        }
    }
}
