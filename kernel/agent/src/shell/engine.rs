//! Tasks of the type DOCKER that the Docker engine runs: what the engine is told, and what it may be told.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plenum_api::mesos::NetworkInfo;
use plenum_api::mesos::container_info::DockerInfo;
use plenum_api::mesos::container_info::docker_info::Network;
use plenum_api::mesos::network_info::{IpAddress, PortMapping};
use plenum_api::mesos::volume::Mode;
use plenum_api::mesos::{ContainerInfo, Parameter, network_info};
use plenum_containers::DiskLimit;
use plenum_docker::reach::reach;
use plenum_docker::spec::SANDBOX;
use plenum_docker::translate::{Defaults, Task, translate};
use plenum_docker::{Dns, DockerRuntime, DockerSpec, DockerVolume, Health, VolumeSource};

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
    let info = with_read_only(launch, info)?;
    let task = Task {
        id: &launch.container,
        sandbox: Path::new(&launch.directory),
        container: &info,
        command: &launch.command,
        resources: &launch.resources,
        limits: &launch.limits,
        env: &launch.env,
        credentials,
        defaults: &defaults,
    };
    let mut spec = translate(&task).map_err(|fault| fault.to_string())?;
    let reach = reach(&spec).map_err(|fault| fault.to_string())?;
    if let Some(why) = reach.machine.filter(|_| !config.allow_privileged) {
        return Err(format!("the container could do anything to the machine ({why}); {PRIVILEGED}"));
    }
    for driver in reach.drivers {
        super::drivers::allowed(&config.volume_drivers, &driver)?;
    }
    for path in reach.paths {
        allowed(&config.host_paths, Path::new(&launch.directory), &path)?;
    }
    spec.disk =
        super::plan::disk(&launch.resources).filter(|_| config.enforce_disk).map(|bytes| DiskLimit { bytes });
    // Its own data, wherever that lies: nothing that has to be allowed.
    for (source, volume) in super::volumes::mounts_of(&launch.resources, &config.work_dir)? {
        let target = Path::new(SANDBOX).join(&volume.container_path);
        spec.volumes.push(DockerVolume {
            source: VolumeSource::Path(source),
            target: target.display().to_string(),
            read_only: volume.mode() == Mode::Ro,
            propagation: None,
        });
    }
    Ok(spec)
}

/// The task's label for a root that it cannot change, in the engine's words. An option of the task's own counts more.
fn with_read_only<'a>(launch: &Launch, info: &'a ContainerInfo) -> Result<Cow<'a, ContainerInfo>, String> {
    let mut info = Cow::Borrowed(info);
    let asked = launch.task.as_deref().map_or(Ok(false), super::wanted::read_only_by_label)?;
    let key = super::wanted::READ_ONLY_PARAMETER;
    if asked
        && let Some(docker) = &info.docker
        && docker.parameters.iter().all(|one| one.key != key)
        && let Some(docker) = &mut info.to_mut().docker
    {
        docker.parameters.push(Parameter { key: key.to_owned(), value: "true".to_owned() });
    }
    Ok(info)
}

/// Gives persistent volumes to the task's user, once they are known to be there.
pub(crate) async fn give_volumes(
    launch: &Launch,
    work_dir: &Path,
    owner: Option<(u32, u32)>,
) -> Result<(), String> {
    if !super::volumes::any(&launch.resources) {
        return Ok(());
    }
    let (resources, work_dir) = (launch.resources.clone(), work_dir.to_path_buf());
    let given = tokio::task::spawn_blocking(move || super::volumes::give(&resources, &work_dir, owner));
    given.await.map_err(|error| error.to_string())?
}

/// What the operator can do about a refusal of this kind.
pub(crate) const PRIVILEGED: &str =
    "let the operator set `agent.allow_privileged` on nodes whose tasks are trusted";

/// The engine follows links itself, so it is their end that must be allowed. What is in the container's own sandbox is: nobody but the agent has
/// written there before it runs.
fn allowed(folders: &[PathBuf], sandbox: &Path, path: &Path) -> Result<(), String> {
    let real = real(path).unwrap_or_default();
    let within =
        |folder: &PathBuf| real.starts_with(folder.canonicalize().unwrap_or_else(|_| folder.clone()));
    let plain = real.is_absolute() && !real.components().any(|part| part == std::path::Component::ParentDir);
    if plain && (folders.iter().any(within) || within(&sandbox.to_path_buf())) {
        return Ok(());
    }
    Err(format!(
        "the host path {} is not allowed on this agent; let the operator add it to `agent.host_paths`, \
         or use a volume of the engine",
        path.display()
    ))
}

/// Where a path leads: the engine makes what is missing of it, behind the links of what is there. Nothing if nobody can tell.
fn real(path: &Path) -> Option<PathBuf> {
    let there = path.ancestors().find(|above| above.symlink_metadata().is_ok())?;
    let rest = path.strip_prefix(there).ok()?;
    let real = there.canonicalize().ok()?;
    Some(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
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

/// Removes images that nothing uses.
pub(crate) async fn collect_images(docker: &DockerRuntime, config: &Config) {
    let pressure = plenum_docker::Pressure {
        unused_for: std::time::Duration::from_secs(config.images.gc_delay),
        headroom: config.gc_disk_headroom,
    };
    for image in docker.collect(pressure).await {
        tracing::info!(image, "image removed from the Docker engine: nothing uses it");
    }
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

#[cfg(test)]
mod tests {
    use plenum_api::codec::{self, Encoding};
    use plenum_api::mesos::{CommandInfo, Resource};
    use serde_json::{Value, json};

    use super::*;

    fn read<T: codec::Message>(json: &Value) -> T {
        codec::decode(Encoding::Json, json.to_string().as_bytes()).unwrap()
    }

    fn launch(directory: &Path, resources: &[Value]) -> Launch {
        Launch {
            container: "c".to_owned(),
            framework: "f".to_owned(),
            executor: "e".to_owned(),
            task: None,
            command: CommandInfo { value: Some("true".to_owned()), ..CommandInfo::default() },
            container_info: None,
            resources: resources.iter().map(read::<Resource>).collect(),
            limits: Vec::new(),
            user: "root".to_owned(),
            user_named: false,
            pod: None,
            gpus: Vec::new(),
            directory: directory.display().to_string(),
            env: Vec::new(),
        }
    }

    fn with(volumes: Value) -> ContainerInfo {
        read(&json!({"type": "DOCKER", "docker": {"image": "a"}, "volumes": volumes}))
    }

    fn disk(mib: f64, volume: Value) -> Value {
        json!({"name": "disk", "type": "SCALAR", "scalar": {"value": mib}, "role": "r", "disk": volume})
    }

    #[test]
    fn a_label_makes_the_root_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut launch = launch(folder.path(), &[]);
        let option = |value: &str| {
            let parameters = json!([{"key": "read-only", "value": value}]);
            read::<ContainerInfo>(
                &json!({"type": "DOCKER", "docker": {"image": "a", "parameters": parameters}}),
            )
        };
        let labels = json!([{"key": "PLENUM_READ_ONLY_ROOT", "value": "true"}]);
        let task = json!({"name": "t", "task_id": {"value": "t"}, "agent_id": {"value": "a"}, "labels": {"labels": labels}});
        let found = |launch: &Launch, info: &ContainerInfo| {
            let info = with_read_only(launch, info).unwrap();
            spec(launch, &info, &Config::default(), None).unwrap();
            let docker = info.docker.clone().unwrap();
            docker.parameters.into_iter().map(|one| format!("{}={}", one.key, one.value)).collect::<Vec<_>>()
        };
        assert!(found(&launch, &with(json!([]))).is_empty());
        launch.task = Some(Box::new(read(&task)));
        assert_eq!(found(&launch, &with(json!([]))), ["read-only=true"]);
        assert_eq!(found(&launch, &option("false")), ["read-only=false"]);
    }

    #[test]
    fn persistent_volumes_are_mounted_and_the_rest_of_the_disk_is_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { work_dir: folder.path().into(), ..Config::default() };
        let volume = json!({"persistence": {"id": "p1"}, "volume": {"container_path": "data", "mode": "RW"}});
        let resources = [disk(64.0, volume), disk(32.0, Value::Null)];
        let spec = spec(&launch(folder.path(), &resources), &with(json!([])), &config, None).unwrap();
        let [volume] = spec.volumes.as_slice() else { panic!("{:?}", spec.volumes) };
        assert_eq!(volume.source, VolumeSource::Path(folder.path().join("volumes/roles/r/p1")));
        assert_eq!((volume.target.as_str(), volume.read_only), ("/mnt/mesos/sandbox/data", false));
        assert_eq!(spec.disk, Some(DiskLimit { bytes: 32 << 20 }));
    }

    #[test]
    fn the_engine_mounts_what_is_allowed_and_what_is_in_the_sandbox() {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = folder.path().join("sandbox");
        std::fs::create_dir_all(sandbox.join("in")).unwrap();
        for (name, target) in [("out", "/etc"), ("dangling", "/no/such"), ("within", "in")] {
            std::os::unix::fs::symlink(target, sandbox.join(name)).unwrap();
        }
        let config = Config { host_paths: vec![folder.path().join("open")], ..Config::default() };
        let ask = |volume: Value| spec(&launch(&sandbox, &[]), &with(json!([volume])), &config, None);
        let host = |path: &str| json!({"container_path": "/x", "host_path": path, "mode": "RW"});
        for (path, good) in [
            ("in", true),
            ("new/folder", true),
            ("within/new", true),
            ("out", false),
            ("out/new", false),
            ("dangling", false),
            ("dangling/new", false),
            ("/etc", false),
        ] {
            let asked = ask(host(path));
            assert_eq!(asked.is_ok(), good, "{path}: {:?}", asked.err());
        }
        let open = folder.path().join("open/a").display().to_string();
        assert!(ask(host(&open)).is_ok());
        let driver = |driver: &str, options: Value| {
            json!({"container_path": "/x", "mode": "RW", "source": {"type": "DOCKER_VOLUME", "docker_volume":
                {"driver": driver, "name": "v", "driver_options": {"parameter": options}}}})
        };
        let refusal = ask(driver("vendor", json!([]))).unwrap_err();
        assert!(refusal.contains("agent.volume_drivers"), "{refusal}");
        assert!(ask(driver("local", json!([]))).is_ok());
        let refusal = ask(driver("local", json!([{"key": "device", "value": "/etc"}]))).unwrap_err();
        assert!(refusal.contains("/etc is not allowed"), "{refusal}");
    }
}
