//! What follows from the rest of an app: ports that nobody spoke of, containers that a network implies, defaults that volumes change.
//! The rules and their order are Marathon's.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::app::{
    App, Container, HealthCheck, Network, PortDefinition, PortMapping, Unreachable, UpgradeStrategy,
};

/// Completes `app`, which was `before` until `body` (in today's spelling) was put onto it.
pub(super) fn finish(app: &mut App, before: &App, body: &Map<String, Value>) {
    let given = |key: &str| body.get(key).is_some_and(|v| !v.is_null());
    let fresh = before.version.is_empty();
    ports(app, before, body);
    let any = !app.ports().is_empty();
    if given("healthChecks") {
        for check in &mut app.health_checks {
            health(check, any);
        }
    }
    for check in &mut app.readiness_checks {
        if check.get("httpStatusCodesForReady").is_none() {
            check["httpStatusCodesForReady"] = json!([200]);
        }
    }
    if let Some(container) = &mut app.container {
        contained(container);
    }
    let wiped = |key: &str| body.get(key).is_some_and(Value::is_null);
    if (fresh && !given("upgradeStrategy")) || wiped("upgradeStrategy") {
        let stays = app.is_resident() || app.has_volumes("external");
        let strategy = UpgradeStrategy { minimum_health_capacity: 0.5, maximum_over_capacity: 0.0 };
        app.upgrade_strategy = if stays { strategy } else { UpgradeStrategy::default() };
    }
    if (fresh && !given("unreachableStrategy")) || wiped("unreachableStrategy") {
        let resident = app.is_resident();
        app.unreachable_strategy =
            if resident { Unreachable::Disabled("disabled".to_owned()) } else { Unreachable::default() };
    }
}

/// Brings what an earlier release wrote into the form of today, so that the same body makes the same app.
pub(super) fn settle(app: &mut App) {
    let any = !app.ports().is_empty();
    for check in &mut app.health_checks {
        health(check, any);
    }
}

/// Ports are of the host or of the container, as the network is; what is said in the other way counts for nothing but their number.
fn ports(app: &mut App, before: &App, body: &Map<String, Value>) {
    let fresh = before.version.is_empty();
    let given = |key: &str| body.get(key).is_some_and(|v| !v.is_null());
    let hosted = before.host_networking();
    let known = given("portDefinitions") || (!fresh && hosted && !body.contains_key("portDefinitions"));
    let definitions = known.then(|| std::mem::take(&mut app.port_definitions));
    let mapped = match body.get("container") {
        Some(container) => container.get("portMappings").is_some_and(|m| !m.is_null()),
        None => !fresh && !hosted,
    };
    if app.host_networking() {
        app.port_definitions = definitions.unwrap_or_else(|| vec![port_definition()]);
        if let Some(container) = &mut app.container {
            container.port_mappings.clear();
        }
        return;
    }
    app.port_definitions.clear();
    app.require_ports = false;
    let bridged = app.networks.iter().any(is_bridge);
    let wanted = if app.container.is_some() { definitions.map_or(0, |d| d.len()) } else { 0 };
    let container = app.container.get_or_insert_with(empty_container);
    if !mapped {
        container.port_mappings = vec![port_mapping(Some("default"))];
    }
    while container.port_mappings.len() < wanted {
        container.port_mappings.push(port_mapping(None));
    }
    if bridged {
        for mapping in &mut container.port_mappings {
            mapping.host_port.get_or_insert(0);
        }
    }
}

fn is_bridge(network: &Network) -> bool {
    network.mode == "container/bridge"
}

fn port_definition() -> PortDefinition {
    let name = Some("default".to_owned());
    PortDefinition { port: 0, protocol: "tcp".to_owned(), name, labels: BTreeMap::new() }
}

fn port_mapping(name: Option<&str>) -> PortMapping {
    PortMapping {
        container_port: 0,
        host_port: None,
        service_port: 0,
        protocol: "tcp".to_owned(),
        name: name.map(str::to_owned),
        labels: BTreeMap::new(),
        network_names: Vec::new(),
    }
}

fn empty_container() -> Container {
    Container {
        kind: "MESOS".to_owned(),
        docker: None,
        volumes: Vec::new(),
        port_mappings: Vec::new(),
        linux_info: None,
    }
}

/// What a container of its type has no use for goes.
fn contained(container: &mut Container) {
    if container.kind == "DOCKER" {
        container.linux_info = None;
    } else if let Some(docker) = &mut container.docker {
        docker.privileged = false;
    }
    for volume in &mut container.volumes {
        if let Some(Value::Object(persistent)) = volume.get_mut("persistent") {
            let kind = if persistent.contains_key("profileName") { "mount" } else { "root" };
            persistent.entry("type").or_insert_with(|| Value::from(kind));
        }
    }
}

/// A check has the fields that its protocol has a use for, and unless it says which port, the first one if there is `any`.
fn health(check: &mut HealthCheck, any: bool) {
    let http = check.protocol.contains("HTTP");
    let marathons = ["HTTP", "HTTPS", "TCP"].contains(&check.protocol.as_str());
    if check.protocol == "COMMAND" {
        (check.port, check.port_index) = (None, None);
    } else if any && check.port.is_none() && check.port_index.is_none() {
        check.port_index = Some(0);
    }
    if !http {
        check.path = None;
    }
    check.ignore_http1xx = (http && marathons).then_some(check.ignore_http1xx.unwrap_or(false));
    check.ip_protocol.get_or_insert_with(|| "IPv4".to_owned());
}
