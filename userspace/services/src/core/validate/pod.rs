//! Judges a pod that could be read, by Marathon's rules of pods and in its words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::app::Unreachable;
use super::super::error::Flaw;
use super::super::pod::{Endpoint, Pod, PodContainer};
use super::{Flaws, MOST_BYTES, decimal, is_uri, network, process, scheduling, unique};

const ONE_CHECK: &str = "Only one of http, tcp, or command may be specified";
const NAMED: &str = "networkNames must be a single item list when hostPort is specified and more than 1 container network is defined";

/// Everything that is wrong with `pod`.
pub fn pod(pod: &Pod) -> Vec<Flaw> {
    let mut flaws = Flaws(Vec::new());
    process::id(&pod.id, "/id", &mut flaws);
    if pod.id.is_root() {
        flaws.add("/id", "Path must contain at least one path element");
    }
    environment(pod, &pod.environment, "/environment", &mut flaws);
    volumes(pod, &mut flaws);
    for (i, one) in pod.containers.iter().enumerate() {
        container(pod, one, &format!("/containers({i})"), &mut flaws);
    }
    let names = unique(pod.containers.iter().map(|c| c.name.as_str()));
    flaws.unless(names, "/containers", "container names must be unique");
    network::kinds(&pod.networks, &mut flaws);
    ports(pod, &mut flaws);
    placement(pod, &mut flaws);
    let bytes = serde_json::to_vec(pod).map_or(0, |bytes| bytes.len());
    if bytes > MOST_BYTES {
        flaws.add("/", format!("the definition takes {bytes} bytes, and at most {MOST_BYTES} are kept"));
    }
    if flaws.is_empty() && pod.volumes.iter().any(|volume| volume.persistent.is_some()) {
        flaws.add("/volumes", "persistent volumes of pods are not supported yet");
    }
    flaws.0
}

fn environment(pod: &Pod, given: &std::collections::BTreeMap<String, Value>, at: &str, flaws: &mut Flaws) {
    for (i, name) in given.keys().enumerate() {
        flaws.unless(!name.is_empty(), &format!("{at}/keys({i})"), "must not be empty");
    }
    for (name, value) in given {
        let secret = value.get("secret").and_then(Value::as_str);
        let good = secret.is_none_or(|secret| pod.secrets.contains_key(secret));
        flaws.unless(good, &format!("{at}/{name}/secret"), "references an undefined secret");
    }
}

fn volumes(pod: &Pod, flaws: &mut Flaws) {
    let used: BTreeSet<&str> =
        pod.containers.iter().flat_map(|c| &c.volume_mounts).map(|mount| mount.name.as_str()).collect();
    for (i, volume) in pod.volumes.iter().enumerate() {
        let at = format!("/volumes({i})");
        let good = used.contains(volume.name.as_str());
        flaws.unless(good, &at, "volume must be referenced by at least one container");
        let known = volume.secret.as_ref().is_none_or(|secret| pod.secrets.contains_key(secret));
        flaws.unless(known, &format!("{at}/secret"), "volume.secret must refer to an existing secret");
    }
    let names = unique(pod.volumes.iter().map(|volume| volume.name.as_str()));
    flaws.unless(names, "/volumes", "volume names must be unique");
}

fn container(pod: &Pod, container: &PodContainer, at: &str, flaws: &mut Flaws) {
    environment(pod, &container.environment, &format!("{at}/environment"), flaws);
    for (i, endpoint) in container.endpoints.iter().enumerate() {
        ports_of(pod, endpoint, &format!("{at}/endpoints({i})"), flaws);
    }
    for (i, mount) in container.volume_mounts.iter().enumerate() {
        let known = pod.volumes.iter().any(|volume| volume.name == mount.name);
        let error = "Referenced Volume in VolumeMount should exist";
        flaws.unless(known, &format!("{at}/volumeMounts({i})/name"), error);
    }
    for (i, artifact) in container.artifacts.iter().enumerate() {
        flaws.unless(is_uri(&artifact.uri), &format!("{at}/artifacts({i})/uri"), "URI has invalid syntax.");
    }
    let secret =
        container.image.as_ref().and_then(|image| image.pull_config.as_ref()?.get("secret")?.as_str());
    let known = secret.is_none_or(|secret| pod.secrets.contains_key(secret));
    let error = "pullConfig.secret must refer to an existing secret";
    flaws.unless(known, &format!("{at}/image/pullConfig"), error);
    let runs = container.exec.is_some() || container.image.is_some();
    flaws.unless(runs, &format!("{at}/exec"), "a container without an image needs a command");
    if let Some(check) = &container.health_check {
        let at = format!("{at}/healthCheck");
        probe(container, check, &at, flaws);
        let seconds = |key: &str| check.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let (timeout, interval) = (seconds("timeoutSeconds"), seconds("intervalSeconds"));
        if timeout >= interval {
            let error = format!("got {timeout}, expected less than {interval}");
            flaws.add(format!("{at}/timeoutSeconds"), error);
        }
    }
    if let Some(check) = &container.check {
        probe(container, check, &format!("{at}/check"), flaws);
    }
    limits(container, at, flaws);
    let grace = container.lifecycle.and_then(|lifecycle| lifecycle.kill_grace_period_seconds);
    let good = grace.is_none_or(|grace| (0.0..=1e9).contains(&grace));
    flaws.unless(good, &format!("{at}/lifecycle/killGracePeriodSeconds"), "must be between 0 and 1000000000");
}

/// A check asks in one way, and at an endpoint of its own container.
fn probe(container: &PodContainer, check: &Value, at: &str, flaws: &mut Flaws) {
    let kinds = ["http", "tcp", "exec"].map(|kind| check.get(kind).filter(|v| !v.is_null()));
    flaws.unless(kinds.iter().flatten().count() == 1, at, ONE_CHECK);
    for (kind, found) in ["http", "tcp"].iter().zip(kinds) {
        let Some(name) = found.and_then(|probe| probe.get("endpoint")?.as_str()) else { continue };
        let known = container.endpoints.iter().any(|endpoint| endpoint.name == name);
        flaws.unless(known, &format!("{at}/{kind}/endpoint"), "contained in the container endpoints");
    }
}

fn limits(container: &PodContainer, at: &str, flaws: &mut Flaws) {
    let Some(limits) = &container.resource_limits else { return };
    for (name, request) in [("cpus", container.resources.cpus), ("mem", container.resources.mem)] {
        let path = format!("{at}/resourceLimits/{name}");
        match limits.get(name) {
            Some(Value::String(word)) if word != "unlimited" => {
                let error =
                    format!("'{word}' is an invalid resource limit. It must be 'unlimited' or a number");
                flaws.add(path, error);
            }
            Some(limit) if limit.as_f64().is_some_and(|limit| limit < request) => {
                let request = decimal(request);
                let error =
                    format!("resource limit must be greater than or equal to requested resource ({request})");
                flaws.add(path, error);
            }
            _ => {}
        }
    }
}

fn ports_of(pod: &Pod, endpoint: &Endpoint, at: &str, flaws: &mut Flaws) {
    let has = |mode: &str| pod.networks.iter().any(|n| n.mode == mode);
    let known: Vec<&str> = pod.networks.iter().filter_map(|n| n.name.as_deref()).collect();
    for (n, name) in endpoint.network_names.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            let error = format!("is not one of ({})", known.join(","));
            flaws.add(format!("{at}/networkNames({n})"), error);
        }
    }
    let port = endpoint.container_port;
    let path = format!("{at}/containerPort");
    let allowed = port.is_none() || !has("host");
    flaws.unless(allowed, &path, "is not allowed when using host-mode networking");
    let there = port.is_some() || !has("container");
    flaws.unless(there, &path, "is required when using container-mode networking");
    let protocols = unique(&endpoint.protocol);
    let error = "Duplicate protocols within the same endpoint are not allowed";
    flaws.unless(protocols, &format!("{at}/protocol"), error);
    let several = pod.networks.iter().filter(|n| n.mode == "container").count() > 1;
    let clear = !several || endpoint.host_port.is_none() || endpoint.network_names.len() == 1;
    flaws.unless(clear, at, NAMED);
}

fn ports(pod: &Pod, flaws: &mut Flaws) {
    let all = || pod.containers.iter().flat_map(|c| &c.endpoints);
    // Marathon's word.
    let error = "endpoint names nust be unique across all containers";
    flaws.unless(unique(all().map(|e| e.name.as_str())), "/", error);
    let fixed = |port: Option<u16>| port.filter(|port| *port != 0);
    let inside = unique(all().filter_map(|e| fixed(e.container_port)));
    flaws.unless(inside, "/", "container ports must be unique across all containers");
    let host = unique(all().filter_map(|e| fixed(e.host_port)));
    flaws.unless(host, "/", "host ports must be unique across all containers");
}

fn placement(pod: &Pod, flaws: &mut Flaws) {
    let rules = super::super::definition::Definition::Pod(pod.clone()).constraints();
    for (i, rule) in rules.iter().enumerate() {
        if let Some(error) = scheduling::constraint(rule) {
            flaws.add(format!("/scheduling/placement/constraints({i})"), error);
        }
    }
    if let Some(error) = scheduling::role(&pod.role) {
        flaws.add("/role", error);
    }
    if let Unreachable::Enabled { inactive_after_seconds: inactive, expunge_after_seconds: expunge } =
        &pod.scheduling.unreachable_strategy
        && inactive > expunge
    {
        let error = format!(
            "inactiveAfterSeconds ({inactive}) must be less or equal to expungeAfterSeconds, which is {expunge}"
        );
        flaws.add("/scheduling/unreachableStrategy/inactiveAfterSeconds", error);
    }
}
