//! From a task as Mesos describes it (`ContainerInfo` of type `DOCKER`, `CommandInfo`, resources) to a [`DockerSpec`].
//! The rules are those of Mesos' Docker containerizer, but what cannot be given is refused, never left out in silence. Pure.

mod isolation;
mod volumes;

use crate::reference::Reference;
use crate::spec::{Dns, DockerLimits, DockerNetwork, DockerSpec, PortMapping, SpecFault};
use plenum_api::mesos::container_info::DockerInfo;
use plenum_api::mesos::container_info::docker_info::Network;
use plenum_api::mesos::environment::variable::Type as VariableType;
use plenum_api::mesos::{CommandInfo, ContainerInfo, Resource};
use std::path::Path;

/// Mesos' weight of a processor.
const SHARES: f64 = 1024.0;
/// The least weight that Mesos gives.
const LEAST_SHARES: u64 = 2;
/// The least quota, microseconds: a thousandth of a second in each tenth.
const LEAST_QUOTA_US: u64 = 1000;
/// The least memory, bytes.
const LEAST_MEMORY: u64 = 32 << 20;

/// A task, and what the agent adds.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// Container id.
    pub id: &'a str,
    /// The sandbox on the host.
    pub sandbox: &'a Path,
    /// Of type `DOCKER`.
    pub container: &'a ContainerInfo,
    /// What to run; an image may bring it.
    pub command: &'a CommandInfo,
    /// The task's resources.
    pub resources: &'a [Resource],
    /// Limits by resource name (`cpus`, `mem`), infinite for none; they replace what the resources say.
    pub limits: &'a [(String, f64)],
    /// The agent's variables; those of the command win.
    pub env: &'a [(String, String)],
    /// The text of a `config.json` with credentials of registries.
    pub credentials: Option<&'a str>,
    /// What the agent decides for every task.
    pub defaults: &'a Defaults,
}

/// What the agent decides for every task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// The resource `cpus` is also a hard limit.
    pub cpu_quota: bool,
    /// Processes and threads of a task.
    pub pids: Option<u64>,
    /// For networks that are not the host's.
    pub dns: Dns,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { cpu_quota: true, pids: None, dns: Dns::default() }
    }
}

/// The description of the task's container; its parameters have been tried.
pub fn translate(task: &Task<'_>) -> Result<DockerSpec, SpecFault> {
    let Some(docker) = &task.container.docker else {
        return Err(SpecFault::field(
            "container.docker",
            "a container of type DOCKER needs it; give `image`",
        ));
    };
    Reference::parse(&docker.image).map_err(|why| SpecFault::field("container.docker.image", why))?;
    let mut spec = DockerSpec::new(task.id, task.sandbox, docker.image.clone());
    spec.image.force_pull = docker.force_pull_image();
    spec.image.credentials = task.credentials.map(str::to_owned);
    spec.privileged = docker.privileged();
    spec.parameters = docker.parameters.iter().map(|p| (p.key.clone(), p.value.clone())).collect();
    spec.network = network(task.container, docker)?;
    spec.hostname = hostname(task.container, &spec.network)?;
    spec.ports = ports(docker, &spec.network, task.resources)?;
    spec.limits = limits(task);
    spec.dns = task.defaults.dns.clone();
    (spec.entrypoint, spec.cmd) = command(task.command)?;
    environment(task, &mut spec)?;
    volumes::apply(task, docker, &mut spec)?;
    isolation::apply(task.container, &mut spec)?;
    spec.tty = task.container.tty_info.is_some();
    crate::body::create(&spec, "", 0)?;
    Ok(spec)
}

fn network(container: &ContainerInfo, docker: &DockerInfo) -> Result<DockerNetwork, SpecFault> {
    Ok(match docker.network() {
        Network::Host => DockerNetwork::Host,
        Network::Bridge => DockerNetwork::Bridge,
        Network::None => DockerNetwork::None,
        Network::User => {
            let [info] = container.network_infos.as_slice() else {
                let why = format!(
                    "network USER takes exactly one, with a name; there are {}",
                    container.network_infos.len()
                );
                return Err(SpecFault::field("container.network_infos", why));
            };
            match info.name.as_deref() {
                Some(name) if !name.is_empty() => DockerNetwork::User(name.to_owned()),
                _ => {
                    return Err(SpecFault::field(
                        "container.network_infos.name",
                        "name a network of the engine",
                    ));
                }
            }
        }
    })
}

fn hostname(container: &ContainerInfo, network: &DockerNetwork) -> Result<Option<String>, SpecFault> {
    match (&container.hostname, network) {
        (Some(_), DockerNetwork::Host) => {
            let why =
                "a container on the host's network has the host's name; leave it out or use network BRIDGE";
            Err(SpecFault::field("container.hostname", why))
        }
        (name, _) => Ok(name.clone()),
    }
}

fn ports(
    docker: &DockerInfo,
    network: &DockerNetwork,
    resources: &[Resource],
) -> Result<Vec<PortMapping>, SpecFault> {
    let field = "container.docker.port_mappings";
    if !docker.port_mappings.is_empty() && matches!(network, DockerNetwork::Host | DockerNetwork::None) {
        return Err(SpecFault::field(field, "they need network BRIDGE or USER"));
    }
    let ranges = resources.iter().filter(|resource| resource.name == "ports");
    let ranges: Vec<_> = ranges.filter_map(|r| r.ranges.as_ref()).flat_map(|r| &r.range).collect();
    let port = |number: u32| u16::try_from(number).ok().filter(|number| *number > 0);
    docker
        .port_mappings
        .iter()
        .map(|mapping| {
            let (Some(host), Some(container)) = (port(mapping.host_port), port(mapping.container_port))
            else {
                return Err(SpecFault::field(field, "ports are from 1 to 65535"));
            };
            if !ranges.iter().any(|range| (range.begin..=range.end).contains(&u64::from(host))) {
                return Err(SpecFault::field(
                    field,
                    format!("host port {host} is not among the task's ports"),
                ));
            }
            let protocol = mapping.protocol.as_deref().unwrap_or("tcp").to_ascii_lowercase();
            if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
                return Err(SpecFault::field(field, format!("protocol {protocol:?}: use tcp, udp or sctp")));
            }
            Ok(PortMapping { host, container, protocol })
        })
        .collect()
}

fn limits(task: &Task<'_>) -> DockerLimits {
    let scalar = |name: &str| -> f64 {
        let named = task.resources.iter().filter(|resource| resource.name == name);
        named.filter_map(|resource| resource.scalar.as_ref()).map(|scalar| scalar.value).sum()
    };
    let raised = |name: &str| task.limits.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    let finite = |value: f64| (value.is_finite() && value > 0.0).then_some(value);
    let bytes = |mib: f64| ((mib * 1_048_576.0) as u64).max(LEAST_MEMORY);
    let (cpus, mem) = (finite(scalar("cpus")), finite(scalar("mem")));
    let quota = match raised("cpus") {
        Some(value) => finite(value),
        None => cpus.filter(|_| task.defaults.cpu_quota),
    };
    let memory = match raised("mem") {
        Some(value) => finite(value),
        None => mem,
    };
    DockerLimits {
        cpu_shares: cpus.map(|cpus| ((cpus * SHARES) as u64).max(LEAST_SHARES)),
        cpu_quota_us: quota.map(|cpus| ((cpus * 100_000.0) as u64).max(LEAST_QUOTA_US)),
        memory: memory.map(bytes),
        memory_reservation: raised("mem").and(mem).map(bytes),
        pids: task.defaults.pids,
    }
}

type Words = Option<Vec<String>>;

/// Entry point and arguments. A shell command replaces the image's entry point; anything else is handed to it.
fn command(command: &CommandInfo) -> Result<(Words, Words), SpecFault> {
    let value = command.value.clone().filter(|value| !value.is_empty());
    if command.shell() {
        let Some(value) = value else {
            let why = "a shell command needs it; set `shell` to false to run the image's own command";
            return Err(SpecFault::field("command.value", why));
        };
        return Ok((Some(vec!["/bin/sh".into()]), Some(vec!["-c".into(), value])));
    }
    let words: Vec<String> = value.into_iter().chain(command.arguments.iter().cloned()).collect();
    Ok((None, (!words.is_empty()).then_some(words)))
}

fn environment(task: &Task<'_>, spec: &mut DockerSpec) -> Result<(), SpecFault> {
    spec.env.extend(task.env.iter().cloned());
    for variable in task.command.environment.iter().flat_map(|environment| &environment.variables) {
        let name = &variable.name;
        let fault = |why: &str| SpecFault::field(format!("command.environment.{name}"), why);
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(fault("a name is not empty and has no '='"));
        }
        let value = match variable.r#type() {
            VariableType::Secret => {
                let secret = variable.secret.as_ref().and_then(|secret| secret.value.as_ref());
                let bytes = secret.ok_or_else(|| fault("the secret has not been resolved to its value"))?;
                String::from_utf8(bytes.data.to_vec()).map_err(|_| fault("the secret is not UTF-8"))?
            }
            VariableType::Value | VariableType::Unknown => variable.value.clone().unwrap_or_default(),
        };
        if value.contains('\0') {
            return Err(fault("the value contains a NUL byte"));
        }
        spec.env.insert(name.clone(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
