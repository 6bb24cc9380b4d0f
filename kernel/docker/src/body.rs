//! From a [`DockerSpec`] to what the engine's API takes. Pure.

use crate::parameters;
use crate::spec::{
    DockerNetwork, DockerSpec, DockerVolume, SANDBOX, SpecFault, VolumeSource, container_name,
};
use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    MountVolumeOptions, MountVolumeOptionsDriverConfig, NetworkingConfig, PortBinding, ResourcesUlimits,
};
use std::collections::HashMap;

/// Label with the agent's name: what tells our containers from others'.
pub const LABEL_INSTANCE: &str = "io.plenum.instance";
/// Label with the container id.
pub const LABEL_ID: &str = "io.plenum.container";
/// Label with the sandbox.
pub const LABEL_SANDBOX: &str = "io.plenum.sandbox";
/// Label with the names of the two files of output, a slash between them.
pub const LABEL_FILES: &str = "io.plenum.files";
/// Period that quotas are counted in, microseconds.
const PERIOD_US: i64 = 100_000;

/// What is sent, while parameters are applied to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// The container.
    pub body: ContainerCreateBody,
    /// Its host side.
    pub host: HostConfig,
    /// Its end of the network.
    pub endpoint: EndpointSettings,
}

/// The request that creates the container of `spec` for the agent `instance`. `keep` is how many bytes of output the
/// engine keeps by itself.
pub fn create(spec: &DockerSpec, instance: &str, keep: u64) -> Result<ContainerCreateBody, SpecFault> {
    let mut draft = Draft { body: body(spec, instance), host: host(spec, keep), ..Draft::default() };
    for port in &spec.ports {
        publish(&mut draft, "", port.host, &format!("{}/{}", port.container, port.protocol));
    }
    for (name, value) in &spec.parameters {
        parameters::apply(&mut draft, name, value)?;
    }
    Ok(finish(draft))
}

fn body(spec: &DockerSpec, instance: &str) -> ContainerCreateBody {
    let mut env = spec.env.clone();
    env.insert("MESOS_SANDBOX".into(), SANDBOX.into());
    env.insert("MESOS_CONTAINER_NAME".into(), container_name(&spec.id));
    let own = [
        (LABEL_INSTANCE, instance.to_owned()),
        (LABEL_ID, spec.id.clone()),
        (LABEL_SANDBOX, spec.sandbox.display().to_string()),
        (LABEL_FILES, format!("{}/{}", spec.stdout, spec.stderr)),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    ContainerCreateBody {
        hostname: spec.hostname.clone(),
        image: Some(spec.image.name.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.cmd.clone(),
        env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
        labels: Some(spec.labels.clone().into_iter().chain(own).collect()),
        tty: Some(spec.tty),
        // Who attaches to a terminal types there.
        open_stdin: spec.tty.then_some(true),
        ..ContainerCreateBody::default()
    }
}

fn host(spec: &DockerSpec, keep: u64) -> HostConfig {
    let limits = &spec.limits;
    let number = |value: Option<u64>| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    let sandbox = DockerVolume {
        source: VolumeSource::Path(spec.sandbox.clone()),
        target: SANDBOX.into(),
        read_only: false,
        propagation: None,
    };
    let mut host = HostConfig {
        network_mode: Some(spec.network.mode().to_owned()),
        privileged: Some(spec.privileged),
        cpu_shares: number(limits.cpu_shares),
        cpu_quota: number(limits.cpu_quota_us),
        cpu_period: limits.cpu_quota_us.map(|_| PERIOD_US),
        memory: number(limits.memory),
        memory_swap: number(limits.memory),
        memory_reservation: number(limits.memory_reservation),
        pids_limit: number(limits.pids),
        shm_size: number(spec.shm_bytes),
        ipc_mode: spec.ipc.clone(),
        pid_mode: spec.host_pids.then(|| "host".to_owned()),
        volume_driver: spec.volume_driver.clone(),
        // Two files of half of it: the older one goes when the newer one is full.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([
                ("max-size".into(), (keep / 2).max(4096).to_string()),
                ("max-file".into(), "2".into()),
            ])),
        }),
        ..HostConfig::default()
    };
    if let Some(kept) = &spec.capabilities {
        host.cap_drop = Some(vec!["ALL".into()]);
        host.cap_add = Some(kept.clone());
    }
    if spec.seccomp_unconfined {
        host.security_opt = Some(vec!["seccomp=unconfined".into()]);
    }
    if spec.network != DockerNetwork::Host && !spec.dns.servers.is_empty() {
        host.dns = Some(spec.dns.servers.clone());
        host.dns_search = Some(spec.dns.search.clone());
    }
    let limit = |(name, soft, hard): &(String, i64, i64)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(*soft),
        hard: Some(*hard),
    };
    if !spec.ulimits.is_empty() {
        host.ulimits = Some(spec.ulimits.iter().map(limit).collect());
    }
    for volume in std::iter::once(&sandbox).chain(&spec.volumes) {
        mount(&mut host, spec, volume);
    }
    host
}

fn mount(host: &mut HostConfig, spec: &DockerSpec, volume: &DockerVolume) {
    match &volume.source {
        // A bind is one text with colons between its parts; a mount has fields, but its source must exist.
        VolumeSource::Path(path) if volume.target == SANDBOX || path.display().to_string().contains(':') => {
            host.mounts.get_or_insert_default().push(Mount {
                typ: Some(MountType::BIND),
                source: Some(path.display().to_string()),
                target: Some(volume.target.clone()),
                read_only: Some(volume.read_only),
                ..Mount::default()
            });
        }
        VolumeSource::Path(path) => {
            let mut words = vec![if volume.read_only { "ro" } else { "rw" }];
            words.extend(volume.propagation);
            let bind = format!("{}:{}:{}", path.display(), volume.target, words.join(","));
            host.binds.get_or_insert_default().push(bind);
        }
        VolumeSource::Named { name, driver, options } => {
            let driver = driver.clone().or_else(|| spec.volume_driver.clone());
            let config = MountVolumeOptionsDriverConfig {
                name: driver,
                options: (!options.is_empty()).then(|| options.clone().into_iter().collect()),
            };
            let options = MountVolumeOptions { driver_config: Some(config), ..MountVolumeOptions::default() };
            host.mounts.get_or_insert_default().push(Mount {
                typ: Some(MountType::VOLUME),
                source: Some(name.clone()),
                target: Some(volume.target.clone()),
                read_only: Some(volume.read_only),
                volume_options: Some(options),
                ..Mount::default()
            });
        }
    }
}

/// Makes a port of the host lead to `port` (`number/protocol`).
pub(crate) fn publish(draft: &mut Draft, address: &str, host: u16, port: &str) {
    expose(draft, port);
    let ports = draft.host.port_bindings.get_or_insert_default();
    let number = if host == 0 { String::new() } else { host.to_string() };
    let bindings = ports.entry(port.to_owned()).or_default().get_or_insert_default();
    bindings.push(PortBinding { host_ip: Some(address.to_owned()), host_port: Some(number) });
}

/// Says that the container listens at `port` (`number/protocol`).
pub(crate) fn expose(draft: &mut Draft, port: &str) {
    let ports = draft.body.exposed_ports.get_or_insert_default();
    if !ports.iter().any(|known| known == port) {
        ports.push(port.to_owned());
    }
}

fn finish(draft: Draft) -> ContainerCreateBody {
    let Draft { mut body, host, endpoint } = draft;
    if endpoint != EndpointSettings::default() {
        let network = host.network_mode.clone().unwrap_or_default();
        let endpoints_config = Some(HashMap::from([(network, endpoint)]));
        body.networking_config = Some(NetworkingConfig { endpoints_config });
    }
    body.host_config = Some(host);
    body
}
