//! What a `ContainerInfo` asks for besides limits: image, network, volumes. Pure. What cannot be given is refused with a sentence, never
//! left out in silence.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use plenum_api::mesos::container_info::Type as ContainerType;
use plenum_api::mesos::container_info::docker_info::Network as DockerNetwork;
use plenum_api::mesos::linux_info::IpcMode;
use plenum_api::mesos::volume::source::{Type as SourceType, sandbox_path};
use plenum_api::mesos::{
    ContainerInfo, Image, LinuxInfo, NetworkInfo, Secret, TaskInfo, Volume, image, volume,
};
use plenum_networks::{Port, Protocol};

use super::drivers::DriverVolume;

/// Mesos' name of the bridge that maps ports; Marathon uses it for `container/bridge`.
const BRIDGE: [&str; 2] = ["mesos-bridge", "bridge"];

/// Of the engine's options, the one that the agent's own runtime takes, too.
pub(crate) const READ_ONLY_PARAMETER: &str = "read-only";
/// The label of a task that asks for the same. Mesos' containers have no field for it.
const READ_ONLY_LABEL: &str = "PLENUM_READ_ONLY_ROOT";

/// Everything a launch needs to have before its container can be described.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    pub image: Option<WantedImage>,
    pub network: WantedNetwork,
    pub volumes: Vec<WantedVolume>,
    /// Everything the machine has, as with the engine's `--privileged`.
    pub privileged: bool,
    /// Nothing of the image can be changed.
    pub read_only: bool,
    /// What it has in common with the others of its pod.
    pub share: Sharing,
}

/// What a pod's tasks have in common besides network and volumes, where they ask for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sharing {
    /// They see each other's processes.
    pub pids: bool,
    /// IPC and `/dev/shm`.
    pub ipc: bool,
}

impl Sharing {
    /// Whether it is asked for.
    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// What is asked of the container above.
    pub fn asked(info: &LinuxInfo) -> Self {
        Self { pids: info.share_pid_namespace(), ipc: info.ipc_mode() == IpcMode::ShareParent }
    }
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedImage {
    /// As the user wrote it.
    pub name: String,
    /// Ask the registry what the name means now, even if the image is here.
    pub refresh: bool,
    /// Text of a `config.json` with credentials that came with it.
    pub credentials: Option<String>,
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum WantedNetwork {
    /// The machine's.
    #[default]
    Host,
    /// None but its own loopback.
    Loopback,
    /// One of the agent's.
    Own(Own),
}

/// A network of the agent's and what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    /// Its name as the framework said it; `None` for the bridge.
    pub name: Option<String>,
    pub ports: Vec<Port>,
    pub labels: BTreeMap<String, String>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedVolume {
    pub source: VolumeSource,
    /// Absolute, or relative to the sandbox.
    pub target: PathBuf,
    pub read_only: bool,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VolumeSource {
    /// A path of the machine, absolute.
    Host(PathBuf),
    /// A folder in the container's own sandbox; made if it is missing.
    Sandbox(PathBuf),
    /// A folder in the pod's sandbox; made if it is missing.
    Pod(PathBuf),
    /// A file with this content.
    Secret(Vec<u8>),
    /// Another's, by its driver.
    Driver(DriverVolume),
    /// What an image has.
    Image(WantedImage),
    /// The same once it is here: the folders of its layers, lowest first.
    Layers(Vec<PathBuf>),
}

/// Whether the container is described in the engine's words.
pub(crate) fn is_docker(info: &ContainerInfo) -> bool {
    info.r#type() == ContainerType::Docker
}

/// Reads it.
pub(crate) fn wanted(info: &ContainerInfo) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    if is_docker(info) {
        docker(&mut wanted, info)?;
    } else {
        if info.docker.is_some() {
            return Err("`container.docker` needs the type DOCKER; with the type MESOS an image is \
                        `container.mesos.image`"
                .to_owned());
        }
        wanted.image = info.mesos.as_ref().and_then(|mesos| mesos.image.as_ref()).map(image).transpose()?;
        wanted.network = network(&info.network_infos)?;
    }
    wanted.share = info.linux_info.as_ref().map(Sharing::asked).unwrap_or_default();
    wanted.volumes = info.volumes.iter().map(volume).collect::<Result<_, _>>()?;
    Ok(wanted)
}

/// Whether a task asks by its label for a root that it cannot change.
pub(crate) fn read_only_by_label(task: &TaskInfo) -> Result<bool, String> {
    let mut labels = task.labels.iter().flat_map(|labels| &labels.labels);
    let label = labels.rfind(|label| label.key == READ_ONLY_LABEL);
    label.map_or(Ok(false), |label| switch(READ_ONLY_LABEL, label.value()))
}

fn switch(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{name}={other}: say true or false")),
    }
}

fn image(image: &Image) -> Result<WantedImage, String> {
    if image.r#type() != image::Type::Docker {
        return Err("this agent runs images of the type DOCKER (OCI) only".to_owned());
    }
    let docker = image.docker.as_ref().ok_or("the image of type DOCKER has no `docker`")?;
    let credentials =
        docker.config.as_ref().map(|config| secret(config, "the image's `config`")).transpose()?;
    let text = |bytes| String::from_utf8(bytes).map_err(|_| "the image's `config` is not UTF-8".to_owned());
    let refresh = !image.cached();
    Ok(WantedImage { name: docker.name.clone(), refresh, credentials: credentials.map(text).transpose()? })
}

/// The engine's words for what the agent's own runtime can do as well.
fn docker(wanted: &mut Wanted, info: &ContainerInfo) -> Result<(), String> {
    let docker = info.docker.as_ref().ok_or("`container.docker` is missing: the type is DOCKER")?;
    let refresh = docker.force_pull_image();
    wanted.image = Some(WantedImage { name: docker.image.clone(), refresh, credentials: None });
    wanted.privileged = docker.privileged();
    for parameter in &docker.parameters {
        if parameter.key != READ_ONLY_PARAMETER {
            return Err(format!(
                "this agent has no Docker engine, and of `docker.parameters` its own runtime takes \
                 `{READ_ONLY_PARAMETER}` only, not `{}`",
                parameter.key
            ));
        }
        wanted.read_only = switch(READ_ONLY_PARAMETER, &parameter.value)?;
    }
    let named = info.network_infos.iter().find_map(|network| network.name.clone());
    let map = |mapping: &plenum_api::mesos::container_info::docker_info::PortMapping| {
        port(mapping.host_port, mapping.container_port, mapping.protocol.as_deref())
    };
    let ports = docker.port_mappings.iter().map(map).collect::<Result<Vec<Port>, _>>()?;
    wanted.network = match docker.network() {
        DockerNetwork::Host => WantedNetwork::Host,
        DockerNetwork::None => WantedNetwork::Loopback,
        DockerNetwork::Bridge => WantedNetwork::Own(Own { name: None, ports, labels: BTreeMap::new() }),
        DockerNetwork::User => {
            let name = named.ok_or("the network USER needs a name in `network_infos`")?;
            WantedNetwork::Own(Own { name: Some(name), ports, labels: BTreeMap::new() })
        }
    };
    Ok(())
}

fn network(infos: &[NetworkInfo]) -> Result<WantedNetwork, String> {
    let named: Vec<&NetworkInfo> = infos.iter().filter(|info| info.name.is_some()).collect();
    let info = match named.as_slice() {
        [] if infos.iter().any(|info| !info.port_mappings.is_empty()) => {
            return Err("port mappings need a network with a name, such as mesos-bridge".to_owned());
        }
        [] => return Ok(WantedNetwork::Host),
        [one] => *one,
        [one, two, ..] => {
            return Err(format!(
                "a container joins one network of this agent, not both '{}' and '{}'",
                one.name(),
                two.name()
            ));
        }
    };
    let ports = info.port_mappings.iter();
    let ports = ports.map(|one| port(one.host_port, one.container_port, one.protocol.as_deref()));
    let labels = info.labels.iter().flat_map(|labels| &labels.labels);
    let labels = labels.map(|label| (label.key.clone(), label.value.clone().unwrap_or_default())).collect();
    let name = info.name.clone().filter(|name| !BRIDGE.contains(&name.as_str()));
    Ok(WantedNetwork::Own(Own { name, ports: ports.collect::<Result<_, _>>()?, labels }))
}

fn port(host: u32, container: u32, protocol: Option<&str>) -> Result<Port, String> {
    let number = |value: u32| {
        u16::try_from(value).ok().filter(|value| *value > 0).ok_or(format!("{value} is not a port"))
    };
    let protocol = match protocol.unwrap_or("tcp").to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(format!("a port mapping has the protocol '{other}'; use tcp or udp")),
    };
    Ok(Port { host: number(host)?, container: number(container)?, protocol })
}

fn volume(volume: &Volume) -> Result<WantedVolume, String> {
    let shown = &volume.container_path;
    let target = PathBuf::from(shown);
    let inside = |path: &Path| {
        path.components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir | Component::RootDir))
    };
    if shown.is_empty() || !inside(&target) {
        return Err(format!("the volume's container path '{shown}' must not be empty or contain '..'"));
    }
    let source = source(volume).map_err(|reason| format!("the volume for '{shown}': {reason}"))?;
    let path = match &source {
        VolumeSource::Host(path) | VolumeSource::Sandbox(path) | VolumeSource::Pod(path) => path,
        _ => Path::new(""),
    };
    if !inside(path) {
        return Err(format!("the volume for '{shown}': its source must not contain '..'"));
    }
    Ok(WantedVolume { source, target, read_only: volume.mode() == volume::Mode::Ro })
}

fn source(volume: &Volume) -> Result<VolumeSource, String> {
    if let Some(wanted) = &volume.image {
        if volume.source.is_some() || volume.host_path.is_some() {
            return Err("it names an image and another source; leave one of them out".to_owned());
        }
        return image(wanted).map(VolumeSource::Image);
    }
    let Some(source) = &volume.source else {
        let path = volume.host_path.as_ref().ok_or("it names no source")?;
        return Ok(host_or_sandbox(path));
    };
    match source.r#type() {
        SourceType::HostPath => {
            let path = source.host_path.as_ref().ok_or("a HOST_PATH needs `host_path`")?;
            Ok(host_or_sandbox(&path.path))
        }
        SourceType::SandboxPath => {
            let from = source.sandbox_path.as_ref().ok_or("a SANDBOX_PATH needs `sandbox_path`")?;
            let path = PathBuf::from(&from.path);
            if path.is_absolute() || from.path.is_empty() {
                return Err("a SANDBOX_PATH is relative to the sandbox".to_owned());
            }
            match from.r#type() {
                sandbox_path::Type::Parent => Ok(VolumeSource::Pod(path)),
                sandbox_path::Type::Self_ | sandbox_path::Type::Unknown => Ok(VolumeSource::Sandbox(path)),
            }
        }
        SourceType::Secret => {
            let from = source.secret.as_ref().ok_or("a SECRET needs `secret`")?;
            Ok(VolumeSource::Secret(secret(from, "its secret")?))
        }
        SourceType::DockerVolume => {
            let volume = source.docker_volume.as_ref().ok_or("a DOCKER_VOLUME needs `docker_volume`")?;
            driver_volume(volume).map(VolumeSource::Driver)
        }
        SourceType::CsiVolume => Err("CSI volumes are not supported by this agent".to_owned()),
        SourceType::Unknown => Err("its source has no type this agent knows".to_owned()),
    }
}

fn driver_volume(volume: &volume::source::DockerVolume) -> Result<DriverVolume, String> {
    let driver = volume.driver.clone().ok_or("a DOCKER_VOLUME needs a `driver`")?;
    if !super::drivers::is_name(&driver) {
        return Err(format!("'{driver}' is no name of a volume driver"));
    }
    if volume.name.is_empty() || volume.name.len() > 255 || volume.name.contains(['/', '\0', '\n']) {
        return Err(format!("'{}' is no name of a volume", volume.name));
    }
    let options = volume.driver_options.iter().flat_map(|options| &options.parameter);
    let options = options.map(|option| (option.key.clone(), option.value.clone())).collect();
    Ok(DriverVolume { driver, name: volume.name.clone(), options })
}

/// As in Mesos a relative path of the host lies in the sandbox.
fn host_or_sandbox(path: &str) -> VolumeSource {
    let path = PathBuf::from(path);
    if path.is_absolute() { VolumeSource::Host(path) } else { VolumeSource::Sandbox(path) }
}

fn secret(secret: &Secret, what: &str) -> Result<Vec<u8>, String> {
    let value = secret.value.as_ref().map(|value| value.data.to_vec());
    value.ok_or_else(|| format!("{what}: secrets by reference are not supported by this agent"))
}

#[cfg(test)]
mod tests {
    use plenum_api::codec::{self, Encoding};
    use serde_json::json;

    use super::*;

    fn read(json: &serde_json::Value) -> Result<Wanted, String> {
        let info: ContainerInfo = codec::decode(Encoding::Json, json.to_string().as_bytes()).unwrap();
        wanted(&info)
    }

    fn own(name: Option<&str>, ports: Vec<Port>) -> WantedNetwork {
        WantedNetwork::Own(Own { name: name.map(str::to_owned), ports, labels: BTreeMap::new() })
    }

    #[test]
    fn images_and_networks_are_read_in_both_forms() {
        let image =
            |name: &str, refresh| Some(WantedImage { name: name.to_owned(), refresh, credentials: None });
        let tcp = Port { host: 31000, container: 80, protocol: Protocol::Tcp };
        let udp = Port { protocol: Protocol::Udp, ..tcp };
        let mapping = json!({"host_port": 31000, "container_port": 80});
        let mapping_udp = json!({"host_port": 31000, "container_port": 80, "protocol": "udp"});
        let mesos = json!({"type": "MESOS", "mesos": {"image": {"type": "DOCKER", "docker": {"name": "a/b"}}},
            "network_infos": [{"name": "mesos-bridge", "port_mappings": [mapping]}]});
        let fresh = json!({"type": "MESOS",
            "mesos": {"image": {"type": "DOCKER", "cached": false, "docker": {"name": "a/b"}}},
            "network_infos": [{"name": "dcos", "port_mappings": [mapping_udp]}]});
        let docker = json!({"type": "DOCKER", "docker": {"image": "a/b", "network": "BRIDGE",
            "port_mappings": [mapping], "force_pull_image": true}});
        let user = json!({"type": "DOCKER", "docker": {"image": "a/b", "network": "USER"},
            "network_infos": [{"name": "n"}]});
        let none = json!({"type": "DOCKER", "docker": {"image": "a/b", "network": "NONE"}});
        let host = json!({"type": "MESOS", "network_infos": [{}]});
        for (json, expect_image, network) in [
            (mesos, image("a/b", false), own(None, vec![tcp])),
            (fresh, image("a/b", true), own(Some("dcos"), vec![udp])),
            (docker, image("a/b", true), own(None, vec![tcp])),
            (user, image("a/b", false), own(Some("n"), vec![])),
            (none, image("a/b", false), WantedNetwork::Loopback),
            (host, None, WantedNetwork::Host),
        ] {
            let wanted = read(&json).unwrap();
            assert_eq!((wanted.image, wanted.network), (expect_image, network), "{json}");
        }
    }

    #[test]
    fn a_read_only_root_is_asked_for_by_option_or_label() {
        let docker = |value: &str| {
            read(&json!({"type": "DOCKER",
                "docker": {"image": "a", "parameters": [{"key": "read-only", "value": value}]}}))
        };
        let label = |value: &str| {
            let labels =
                json!([{"key": "other", "value": "x"}, {"key": "PLENUM_READ_ONLY_ROOT", "value": value}]);
            let task = json!({"name": "t", "task_id": {"value": "t"}, "agent_id": {"value": "a"},
                "labels": {"labels": labels}});
            let task: TaskInfo = codec::decode(Encoding::Json, task.to_string().as_bytes()).unwrap();
            read_only_by_label(&task)
        };
        for (value, want) in [("true", Some(true)), ("", Some(true)), ("false", Some(false)), ("yes", None)] {
            assert_eq!(docker(value).ok().map(|wanted| wanted.read_only), want, "{value}");
            assert_eq!(label(value).ok(), want, "{value}");
        }
        assert_eq!(read_only_by_label(&TaskInfo::default()), Ok(false));
    }

    #[test]
    fn volumes_have_their_sources() {
        let volume = |mut volume: serde_json::Value| {
            volume["container_path"] = json!("data");
            volume["mode"] = json!("RO");
            read(&json!({"type": "MESOS", "volumes": [volume]})).map(|wanted| wanted.volumes[0].clone())
        };
        let sandbox = |kind: &str| json!({"source": {"type": "SANDBOX_PATH", "sandbox_path": {"type": kind, "path": "a/b"}}});
        let secret = json!({"type": "VALUE", "value": {"data": "aGk="}});
        for (json, expect) in [
            (json!({"host_path": "/srv/x"}), VolumeSource::Host("/srv/x".into())),
            (json!({"host_path": "x"}), VolumeSource::Sandbox("x".into())),
            (sandbox("SELF"), VolumeSource::Sandbox("a/b".into())),
            (sandbox("PARENT"), VolumeSource::Pod("a/b".into())),
            (json!({"source": {"type": "SECRET", "secret": secret}}), VolumeSource::Secret(b"hi".to_vec())),
            (
                json!({"image": {"type": "DOCKER", "cached": false, "docker": {"name": "a/b"}}}),
                VolumeSource::Image(WantedImage { name: "a/b".to_owned(), refresh: true, credentials: None }),
            ),
            (
                json!({"source": {"type": "DOCKER_VOLUME", "docker_volume": {"driver": "d", "name": "v",
                    "driver_options": {"parameter": [{"key": "size", "value": "1"}]}}}}),
                VolumeSource::Driver(DriverVolume {
                    driver: "d".to_owned(),
                    name: "v".to_owned(),
                    options: BTreeMap::from([("size".to_owned(), "1".to_owned())]),
                }),
            ),
        ] {
            let volume = volume(json.clone()).unwrap();
            assert_eq!((volume.source, volume.read_only), (expect, true), "{json}");
        }
    }

    #[test]
    fn what_cannot_be_given_is_refused_with_its_name() {
        let volume = |path: &str, host: &str| {
            json!({"type": "MESOS",
                "volumes": [{"container_path": path, "mode": "RW", "host_path": host}]})
        };
        let parameters = json!({"type": "DOCKER",
            "docker": {"image": "a", "parameters": [{"key": "ulimit", "value": "x"}]}});
        let two = json!({"type": "MESOS", "network_infos": [{"name": "a"}, {"name": "b"}]});
        let port = json!({"type": "MESOS", "network_infos":
            [{"name": "a", "port_mappings": [{"host_port": 70000, "container_port": 1}]}]});
        let driver = |volume: serde_json::Value| {
            json!({"type": "MESOS", "volumes": [{"container_path": "x", "mode": "RW",
                "source": {"type": "DOCKER_VOLUME", "docker_volume": volume}}]})
        };
        for (json, word) in [
            (driver(json!({"name": "v"})), "driver"),
            (driver(json!({"driver": "../d", "name": "v"})), "name of a volume driver"),
            (driver(json!({"driver": "d", "name": "a/b"})), "no name of a volume"),
            (volume("../x", "/srv"), "container path"),
            (volume("", "/srv"), "container path"),
            (volume("x", "/srv/../etc"), "'..'"),
            (
                json!({"type": "MESOS", "volumes": [{"container_path": "x", "mode": "RO", "host_path": "/srv",
                    "image": {"type": "DOCKER", "docker": {"name": "a"}}}]}),
                "another source",
            ),
            (parameters, "ulimit"),
            (two, "one network"),
            (port, "70000"),
            (json!({"type": "DOCKER"}), "container.docker"),
            (json!({"type": "MESOS", "docker": {"image": "a"}}), "type DOCKER"),
            (json!({"type": "MESOS", "mesos": {"image": {"type": "APPC"}}}), "OCI"),
        ] {
            let refusal = read(&json).unwrap_err();
            assert!(refusal.contains(word), "{json}: {refusal}");
        }
    }
}
