//! Tasks of the type DOCKER that the Docker engine runs: what the engine is told, and what it may be told.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plenum_api::mesos::NetworkInfo;
use plenum_api::mesos::container_info::DockerInfo;
use plenum_api::mesos::container_info::docker_info::Network;
use plenum_api::mesos::network_info::{IpAddress, PortMapping};
use plenum_api::mesos::{ContainerInfo, network_info};
use plenum_docker::reach::reach;
use plenum_docker::translate::{Defaults, Task, translate};
use plenum_docker::{Dns, DockerRuntime, DockerSpec, Health};

use crate::config::Config;
use crate::core::Launch;

/// The description for the engine, of a launch whose container is of the type DOCKER.
pub(crate) fn spec(
    launch: &Launch,
    info: &ContainerInfo,
    config: &Config,
    credentials: Option<&str>,
) -> Result<DockerSpec, String> {
    if !launch.gpus.is_empty() {
        return Err("GPUs are given to containers of the type MESOS only: change `container.type`".to_owned());
    }
    let defaults = Defaults {
        cpu_quota: config.cpu_quota,
        pids: (config.task_processes > 0).then_some(config.task_processes),
        dns: Dns { servers: config.dns.clone(), search: config.dns_search.clone() },
    };
    let task = Task {
        id: &launch.container,
        sandbox: Path::new(&launch.directory),
        container: info,
        command: &launch.command,
        resources: &launch.resources,
        limits: &launch.limits,
        env: &launch.env,
        credentials,
        defaults: &defaults,
    };
    let spec = translate(&task).map_err(|fault| fault.to_string())?;
    let reach = reach(&spec).map_err(|fault| fault.to_string())?;
    if let Some(why) = reach.machine.filter(|_| !config.allow_privileged) {
        return Err(format!("the container could do anything to the machine ({why}); {PRIVILEGED}"));
    }
    for path in reach.paths {
        allowed(&config.host_paths, &path)?;
    }
    Ok(spec)
}

/// What the operator can do about a refusal of this kind.
pub(crate) const PRIVILEGED: &str =
    "let the operator set `agent.allow_privileged` on nodes whose tasks are trusted";

/// The engine follows links itself, so it is their end that must be allowed.
fn allowed(folders: &[PathBuf], path: &Path) -> Result<(), String> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let within =
        |folder: &PathBuf| real.starts_with(folder.canonicalize().unwrap_or_else(|_| folder.clone()));
    let plain = !real.components().any(|part| part == std::path::Component::ParentDir);
    if plain && folders.iter().any(within) {
        return Ok(());
    }
    Err(format!(
        "the host path {} is not allowed on this agent; let the operator add it to `agent.host_paths`, \
         or use a volume of the engine",
        path.display()
    ))
}

/// As Mesos reports the network of a container of the engine; nothing where it has the machine's.
pub(crate) fn networks(docker: &DockerRuntime, id: &str, info: &ContainerInfo) -> Vec<NetworkInfo> {
    let Some(wanted) = info.docker.as_ref().filter(|docker| docker.network() != Network::Host) else {
        return Vec::new();
    };
    let address = |address: std::net::IpAddr| {
        let mut known = IpAddress { ip_address: Some(address.to_string()), ..Default::default() };
        known.set_protocol(if address.is_ipv4() {
            network_info::Protocol::IPv4
        } else {
            network_info::Protocol::IPv6
        });
        known
    };
    let addresses: Vec<IpAddress> = docker.addresses(id).into_iter().map(address).collect();
    let name = info.network_infos.iter().find_map(|network| network.name.clone());
    let name = name.or_else(|| (wanted.network() == Network::Bridge).then(|| "bridge".to_owned()));
    vec![NetworkInfo { name, ip_addresses: addresses, port_mappings: mappings(wanted), ..Default::default() }]
}

fn mappings(docker: &DockerInfo) -> Vec<PortMapping> {
    let mapping = |port: &plenum_api::mesos::container_info::docker_info::PortMapping| PortMapping {
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: port.protocol.clone(),
    };
    docker.port_mappings.iter().map(mapping).collect()
}

/// Tells the log when the engine goes and when it is back.
pub(crate) fn watch(docker: &Arc<DockerRuntime>) {
    let mut health = docker.watch_health();
    tokio::spawn(async move {
        while health.changed().await.is_ok() {
            match &*health.borrow_and_update() {
                Health::Ready { api } => tracing::info!(api, "the Docker engine answers"),
                Health::Degraded { why } => {
                    tracing::warn!(
                        why,
                        "degraded: the Docker engine cannot be relied on; tasks that run go on"
                    );
                }
            }
        }
    });
}
