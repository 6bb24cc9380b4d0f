//! Older spellings in today's: `uris`, `ports`, `ipAddress`, `container.docker.network` and its `portMappings`. Bodies come in with
//! every value of its type already; what contradicts itself is refused, in Marathon's words.

use serde_json::{Map, Value, json};

use super::error::{ApiError, Flaw};
use super::validate::is_uri;

type Body = Map<String, Value>;

/// The network whose name stands for the bridge.
const BRIDGE: &str = "mesos-bridge";

/// `body` in today's spelling.
///
/// # Errors
/// [`ApiError::Invalid`] and [`ApiError::Refused`] for bodies that say the same thing twice, or something that is no more.
pub(super) fn modern(mut body: Body) -> Result<Body, ApiError> {
    let flaws = contradictions(&body);
    if !flaws.is_empty() {
        return Err(ApiError::Invalid(flaws));
    }
    if let Some(Value::Array(uris)) = body.remove("uris").filter(|uris| !is_empty(Some(uris))) {
        let fetch = uris
            .iter()
            .map(|uri| json!({"uri": uri, "extract": is_archive(uri), "executable": false, "cache": false}));
        body.insert("fetch".to_owned(), fetch.collect());
    }
    let address = body.remove("ipAddress").filter(|address| !address.is_null());
    if let Some(networks) = networks(&body, address.as_ref())? {
        body.insert("networks".to_owned(), networks);
    }
    if address.is_some() && is_absent(body.get("container")) {
        body.insert("container".to_owned(), json!({"type": "MESOS", "volumes": []}));
    }
    if let Some(Value::Object(container)) = body.get_mut("container") {
        mappings(container, address.as_ref())?;
    }
    if let Some(ports @ Value::Array(_)) = body.remove("ports")
        && is_absent(body.get("portDefinitions"))
    {
        let ports = ports.as_array().into_iter().flatten();
        let ports = ports.map(|port| json!({"port": port, "protocol": "tcp"}));
        body.insert("portDefinitions".to_owned(), ports.collect());
    }
    Ok(body)
}

fn is_absent(value: Option<&Value>) -> bool {
    value.is_none_or(Value::is_null)
}

/// Not there, or a list without items.
fn is_empty(value: Option<&Value>) -> bool {
    value.is_none_or(|v| v.is_null() || v.as_array().is_some_and(Vec::is_empty))
}

/// What old and new spellings say against each other.
fn contradictions(body: &Body) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let mut unless = |good: bool, path: &str, error: &str| {
        if !good {
            flaws.push(Flaw::new(path, error));
        }
    };
    let container = body.get("container");
    let docker = container.and_then(|c| c.get("docker"));
    let of_docker = |key: &str| docker.and_then(|d| d.get(key)).filter(|v| !v.is_null());
    let kind = container.and_then(|c| c.get("type")).and_then(Value::as_str);
    let path = |key: &str| format!("/container/docker/{key}");
    unless(of_docker("credential").is_none(), &path("credential"), "must be empty");
    if kind == Some("MESOS") {
        unless(of_docker("network").is_none(), &path("network"), "must be empty");
        unless(is_empty(of_docker("parameters")), &path("parameters"), "must be empty");
        unless(of_docker("portMappings").is_none(), &path("portMappings"), "must be empty");
    }
    let address = body.get("ipAddress").filter(|v| !v.is_null());
    let discovers = address.is_some_and(|a| !is_absent(a.get("discovery")));
    let both = kind == Some("DOCKER") && discovers;
    unless(!both, "/ipAddress", "ipAddress/discovery is not allowed for Docker containers");
    let uris = body.get("uris").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (i, uri) in uris.iter().enumerate() {
        let good = uri.as_str().is_some_and(is_uri);
        unless(good, &format!("/uris({i})"), "URI has invalid syntax.");
    }
    let both = !uris.is_empty() && !is_empty(body.get("fetch"));
    unless(!both, "/uris", "may not be set in conjunction with fetch");
    let networks = !is_empty(body.get("networks"));
    let both = of_docker("network").is_some() && networks;
    unless(!both, "/", "must not specify both container.docker.network and networks");
    unless(!(address.is_some() && networks), "/", "must not specify both networks and ipAddress");
    let ports = body.get("ports").and_then(Value::as_array);
    let mut fixed: Vec<u64> =
        ports.into_iter().flatten().filter_map(Value::as_u64).filter(|p| *p != 0).collect();
    let count = fixed.len();
    fixed.sort_unstable();
    fixed.dedup();
    unless(fixed.len() == count, "/", "ports must be unique");
    let definitions = body.get("portDefinitions");
    let ported = !is_empty(body.get("ports")) || !is_empty(definitions);
    unless(address.is_none() || !ported, "/", "cannot specify both an IP address and port");
    let same = |ports: &Vec<Value>, definitions: &Vec<Value>| {
        ports.len() == definitions.len()
            && ports.iter().zip(definitions).all(|(p, d)| d.get("port") == Some(p))
    };
    let agree = match (ports, definitions.and_then(Value::as_array)) {
        (Some(ports), Some(definitions)) => same(ports, definitions),
        _ => true,
    };
    unless(agree, "/", "cannot specify both ports and port definitions");
    flaws
}

/// Today's networks for what an old body asks for; none if it asks for nothing by an old name.
fn networks(body: &Body, address: Option<&Value>) -> Result<Option<Value>, ApiError> {
    let docker = body.get("container").and_then(|c| c.get("docker"));
    let kind = docker.and_then(|d| d.get("network")).and_then(Value::as_str);
    let field = |key: &str| address.and_then(|a| a.get(key)).filter(|v| !v.is_null()).cloned();
    let name = field("networkName");
    let mode = match (kind, &name) {
        (None, _) if address.is_none() => return Ok(None),
        (None, Some(name)) if name == BRIDGE => "container/bridge",
        (None | Some("USER"), _) => "container",
        (Some("HOST"), _) => return Ok(Some(json!([{"mode": "host"}]))),
        (Some("BRIDGE"), _) => "container/bridge",
        (Some(other), _) => {
            return Err(ApiError::Refused(format!("unsupported docker network type {other}")));
        }
    };
    let mut network = json!({"mode": mode});
    if let Some(name) = name.filter(|_| mode == "container") {
        network["name"] = name;
    }
    if let Some(labels) = field("labels") {
        network["labels"] = labels;
    }
    Ok(Some(json!([network])))
}

/// Puts port mappings where they are today.
fn mappings(container: &mut Body, address: Option<&Value>) -> Result<(), ApiError> {
    let both = |what: &str| Err(ApiError::Refused(what.to_owned()));
    if let Some(Value::Object(docker)) = container.get_mut("docker") {
        docker.remove("network");
        if let Some(older) = docker.remove("portMappings").filter(|v| !v.is_null()) {
            match (is_empty(container.get("portMappings")), is_empty(Some(&older))) {
                (false, false) => return both("cannot specify both portMappings and docker.portMappings"),
                (false, true) => {}
                (true, _) => drop(container.insert("portMappings".to_owned(), older)),
            }
        }
    }
    let ports = address.and_then(|a| a.get("discovery")?.get("ports")?.as_array()).filter(|p| !p.is_empty());
    let Some(ports) = ports else { return Ok(()) };
    if container.get("portMappings").is_some_and(|m| !m.is_null()) {
        return both("container.portMappings and ipAddress.discovery.ports must not both be set");
    }
    let mapping = |port: &Value| {
        let labels = port.get("labels").cloned().unwrap_or_else(|| json!({}));
        json!({"containerPort": port["number"], "servicePort": 0, "name": port["name"],
            "protocol": port["protocol"], "labels": labels})
    };
    container.insert("portMappings".to_owned(), ports.iter().map(mapping).collect());
    Ok(())
}

/// Whether a download is unpacked where nothing says so: by the end of its path.
fn is_archive(uri: &Value) -> bool {
    let path = uri.as_str().unwrap_or("").split(['?', '#']).next().unwrap_or("");
    [".tar", ".gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".zip"]
        .iter()
        .any(|end| path.ends_with(end))
}
