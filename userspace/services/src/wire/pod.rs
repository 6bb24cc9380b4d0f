//! A pod's launch: one executor of Mesos' default type and a task for each container, from the definition and what was taken of an offer. Names,
//! environment and discovery are Marathon's.

use std::collections::BTreeMap;

use plenum_api::Millis;
use plenum_api::mesos::{
    self, CommandInfo, ContainerInfo, DiscoveryInfo, DurationInfo, Environment, ExecutorInfo, HealthCheck,
    Image, KillPolicy, Label, NetworkInfo, Port, Ports, Secret, TaskInfo, TtyInfo, Volume, command_info,
    container_info, discovery_info, environment, executor_info, health_check, image, network_info, secret,
    volume,
};
use serde_json::Value;

use super::checks;
use super::share::Shares;
use super::task::{decimal, labels, limits_of, variable};
use crate::core::Launch;
use crate::core::pod::{Endpoint, ExecCommand, Pod, PodContainer};

/// Folders of volumes that live as long as the instance, in its sandbox.
const EPHEMERAL: &str = "volumes/";
/// Marathon's name of the bridge.
const BRIDGE: &str = "mesos-bridge";

/// The executor and the tasks of a launch on `offer`, in the order of the containers.
pub fn group(
    launch: &Launch,
    pod: &Pod,
    framework: &str,
    offer: &mesos::Offer,
) -> (ExecutorInfo, Vec<TaskInfo>) {
    let mut shares = Shares::new(offer, &launch.takes);
    let own = shares.take(&pod.executor_resources);
    let numbers = numbers(launch, pod);
    let mut tasks = Vec::new();
    for container in &pod.containers {
        let resources = shares.take(&container.resources);
        tasks.push(task(launch, pod, container, &numbers, offer, resources));
    }
    let resources = own.into_iter().chain(shares.rest("ports")).collect();
    (executor(launch, pod, framework, &numbers, resources), tasks)
}

/// An endpoint with its ports.
struct Numbers<'a> {
    container: &'a str,
    endpoint: &'a Endpoint,
    /// On the host, if it has one there.
    host: Option<u16>,
}

impl Numbers<'_> {
    /// In the container's network.
    fn inside(&self) -> Option<u16> {
        match self.endpoint.container_port {
            Some(0) => self.host,
            port => port,
        }
    }
}

fn numbers<'a>(launch: &Launch, pod: &'a Pod) -> Vec<Numbers<'a>> {
    let endpoints = pod.containers.iter().flat_map(|c| c.endpoints.iter().map(move |e| (c, e)));
    let host = |n: usize| launch.record.host_ports.get(n).copied().flatten();
    endpoints
        .enumerate()
        .map(|(n, (container, endpoint))| Numbers { container: &container.name, endpoint, host: host(n) })
        .collect()
}

/// The executor's id, which is the instance's with Marathon's prefix.
pub fn executor_id(instance: &str) -> String {
    format!("instance-{instance}")
}

fn executor(
    launch: &Launch,
    pod: &Pod,
    framework: &str,
    numbers: &[Numbers<'_>],
    resources: Vec<mesos::Resource>,
) -> ExecutorInfo {
    let mut container = ContainerInfo { r#type: container_info::Type::Mesos.into(), ..Default::default() };
    container.network_infos = pod.networks.iter().filter_map(|n| network(n, numbers)).collect();
    container.linux_info = pod.linux_info.as_ref().map(checks::linux_of);
    ExecutorInfo {
        r#type: Some(executor_info::Type::Default.into()),
        executor_id: executor_id(launch.record.id.as_str()).into(),
        framework_id: Some(framework.into()),
        resources,
        container: Some(container),
        labels: labels(pod.labels.iter()),
        ..Default::default()
    }
}

fn network(network: &crate::core::app::Network, numbers: &[Numbers<'_>]) -> Option<NetworkInfo> {
    let name = match network.mode.as_str() {
        "host" => return None,
        "container/bridge" => network.name.clone().unwrap_or_else(|| BRIDGE.to_owned()),
        _ => network.name.clone()?,
    };
    let belongs = |e: &Endpoint| e.network_names.is_empty() || e.network_names.contains(&name);
    let mapped = numbers.iter().filter(|n| belongs(n.endpoint));
    let pairs = mapped.filter_map(|n| Some((n.endpoint, n.host?, n.inside().or(n.host)?)));
    let port_mappings = pairs.flat_map(|(endpoint, host, inside)| {
        endpoint.protocol.iter().map(move |protocol| network_info::PortMapping {
            host_port: u32::from(host),
            container_port: u32::from(inside),
            protocol: Some(protocol.clone()),
        })
    });
    let port_mappings = port_mappings.collect();
    Some(NetworkInfo {
        labels: labels(network.labels.iter()),
        port_mappings,
        name: Some(name),
        ..Default::default()
    })
}

fn task(
    launch: &Launch,
    pod: &Pod,
    container: &PodContainer,
    numbers: &[Numbers<'_>],
    offer: &mesos::Offer,
    resources: Vec<mesos::Resource>,
) -> TaskInfo {
    let record = &launch.record;
    let grace = container.lifecycle.and_then(|lifecycle| lifecycle.kill_grace_period_seconds);
    TaskInfo {
        name: container.name.clone(),
        task_id: record.id.task_id(&container.name, record.launches).into(),
        agent_id: offer.agent_id.clone(),
        resources,
        command: Some(command(launch, pod, container, numbers)),
        container: container_info(pod, container, launch.images.get(&container.name)),
        health_check: container.health_check.as_ref().and_then(|check| health(pod, check, numbers)),
        check: container.check.as_ref().and_then(|check| {
            checks::check_of(check, |endpoint| port_of(pod, numbers, endpoint).unwrap_or(0))
        }),
        labels: labels(container.labels.iter()),
        discovery: Some(discovery(pod, container, numbers)),
        kill_policy: grace.map(|seconds| KillPolicy {
            grace_period: Some(DurationInfo { nanoseconds: Millis::from_secs_f64(seconds).as_nanos() }),
        }),
        limits: limits_of(container.resource_limits.as_ref()),
        ..Default::default()
    }
}

fn command(launch: &Launch, pod: &Pod, container: &PodContainer, numbers: &[Numbers<'_>]) -> CommandInfo {
    let uris = container.artifacts.iter().map(|f| command_info::Uri {
        value: f.uri.clone(),
        executable: Some(f.executable),
        extract: Some(f.extract),
        cache: Some(f.cache),
        output_file: f.dest_path.clone(),
    });
    let mut command = CommandInfo {
        uris: uris.collect(),
        environment: Some(Environment { variables: variables(launch, pod, container, numbers) }),
        user: container.user.clone().or_else(|| pod.user.clone()),
        // Without a command the image's counts.
        shell: Some(false),
        ..Default::default()
    };
    let Some(exec) = &container.exec else { return command };
    match &exec.command {
        ExecCommand::Shell(line) => (command.shell, command.value) = (Some(true), Some(line.clone())),
        ExecCommand::Argv(argv) => {
            // Without an image the first is the program in any case; with one, its entry point comes before, unless it is replaced.
            if container.image.is_none() || exec.override_entrypoint == Some(true) {
                command.value = argv.first().cloned();
            }
            command.arguments.clone_from(argv);
        }
    }
    command
}

/// What the definition says is overruled by what the launch knows.
fn variables(
    launch: &Launch,
    pod: &Pod,
    container: &PodContainer,
    numbers: &[Numbers<'_>],
) -> Vec<environment::Variable> {
    let record = &launch.record;
    let mut plain: BTreeMap<String, String> = BTreeMap::new();
    let mut put = |name: &str, value: String| drop(plain.insert(name.to_owned(), value));
    for (name, value) in pod.environment.iter().chain(&container.environment) {
        if let Some(text) = value.as_str() {
            put(name, text.to_owned());
        }
    }
    put("HOST", record.location.host.clone());
    put("MESOS_TASK_ID", record.id.task_id(&container.name, record.launches));
    put("MESOS_EXECUTOR_ID", executor_id(record.id.as_str()));
    put("MARATHON_APP_ID", pod.id.to_string());
    put("MARATHON_APP_VERSION", pod.version.clone());
    put("MARATHON_CONTAINER_ID", container.name.clone());
    let takes = &container.resources;
    put("MARATHON_CONTAINER_RESOURCE_CPUS", decimal(takes.cpus));
    put("MARATHON_CONTAINER_RESOURCE_MEM", decimal(takes.mem));
    put("MARATHON_CONTAINER_RESOURCE_DISK", decimal(takes.disk));
    put("MARATHON_CONTAINER_RESOURCE_GPUS", takes.gpus.to_string());
    let both: BTreeMap<&String, &String> = pod.labels.iter().chain(&container.labels).collect();
    let short: Vec<_> = both.into_iter().filter(|(k, v)| k.len() < 255 && v.len() < 512).collect();
    put("MARATHON_APP_LABELS", short.iter().map(|(k, _)| variable(k)).collect::<Vec<_>>().join(" "));
    for (key, value) in short {
        put(&format!("MARATHON_APP_LABEL_{}", variable(key)), value.clone());
    }
    let on_host = pod.host_networking();
    for one in numbers {
        let name = variable(&one.endpoint.name);
        let inside = one.inside();
        for (prefix, port) in [
            ("ENDPOINT", if on_host { one.host } else { inside }),
            ("EP_HOST", one.host),
            ("EP_CONTAINER", inside),
        ] {
            if let Some(port) = port {
                put(&format!("{prefix}_{name}"), port.to_string());
            }
        }
    }
    let own = plain.into_iter().map(|(name, value)| environment::Variable {
        name,
        value: Some(value),
        r#type: Some(environment::variable::Type::Value.into()),
        secret: None,
    });
    let given = pod.environment.iter().chain(&container.environment);
    let secrets =
        given.filter_map(|(name, value)| Some((name, reference(pod, value.get("secret")?.as_str()?)?)));
    own.chain(secrets.map(|(name, secret)| environment::Variable {
        name: name.clone(),
        value: None,
        r#type: Some(environment::variable::Type::Secret.into()),
        secret: Some(secret),
    }))
    .collect()
}

/// The secret that the pod calls so.
fn reference(pod: &Pod, name: &str) -> Option<Secret> {
    let source = pod.secrets.get(name)?.get("source")?.as_str()?.to_owned();
    let reference = Some(secret::Reference { name: source, key: None });
    Some(Secret { r#type: Some(secret::Type::Reference.into()), reference, value: None })
}

fn container_info(pod: &Pod, container: &PodContainer, pinned: Option<&String>) -> Option<ContainerInfo> {
    let mut out = ContainerInfo { r#type: container_info::Type::Mesos.into(), ..Default::default() };
    out.volumes = container
        .volume_mounts
        .iter()
        .filter_map(|mount| {
            let from = pod.volumes.iter().find(|volume| volume.name == mount.name)?;
            volume_info(pod, from, mount)
        })
        .collect();
    out.mesos = container.image.as_ref().map(|from| {
        let config = from.pull_config.as_ref().and_then(|c| reference(pod, c.get("secret")?.as_str()?));
        container_info::MesosInfo {
            image: Some(Image {
                r#type: image::Type::Docker.into(),
                docker: Some(image::Docker {
                    name: pinned.unwrap_or(&from.id).clone(),
                    credential: None,
                    config,
                }),
                appc: None,
                cached: from.force_pull.map(|force| !force),
            }),
        }
    });
    out.tty_info = (container.tty == Some(true)).then(TtyInfo::default);
    out.linux_info = container.linux_info.as_ref().map(checks::linux_of);
    let empty = ContainerInfo { r#type: container_info::Type::Mesos.into(), ..Default::default() };
    (out != empty).then_some(out)
}

fn volume_info(
    pod: &Pod,
    from: &crate::core::pod::PodVolume,
    mount: &crate::core::pod::VolumeMount,
) -> Option<Volume> {
    let mode = if mount.read_only == Some(true) { volume::Mode::Ro } else { volume::Mode::Rw };
    let mut out =
        Volume { mode: mode.into(), container_path: mount.mount_path.clone(), ..Default::default() };
    if let Some(path) = &from.host {
        out.host_path = Some(path.clone());
        return Some(out);
    }
    if let Some(name) = &from.secret {
        let kind = Some(volume::source::Type::Secret.into());
        let secret = Some(reference(pod, name)?);
        out.source = Some(volume::Source { r#type: kind, secret, ..Default::default() });
        return Some(out);
    }
    let path = match &from.persistent {
        Some(_) => from.name.clone(),
        None => format!("{EPHEMERAL}{}", from.name),
    };
    let parent = volume::source::sandbox_path::Type::Parent.into();
    out.source = Some(volume::Source {
        r#type: Some(volume::source::Type::SandboxPath.into()),
        sandbox_path: Some(volume::source::SandboxPath { r#type: Some(parent), path }),
        ..Default::default()
    });
    Some(out)
}

/// Where the endpoint of that name is listened at by its container.
fn port_of(pod: &Pod, numbers: &[Numbers<'_>], endpoint: &str) -> Option<u16> {
    let found = numbers.iter().find(|n| n.endpoint.name == endpoint)?;
    if pod.host_networking() { found.host } else { found.inside() }
}

fn health(pod: &Pod, check: &Value, numbers: &[Numbers<'_>]) -> Option<HealthCheck> {
    let some = |value: &Value, key: &str| value.get(key).filter(|v| !v.is_null()).cloned();
    let seconds =
        |key: &str, default: f64| Some(some(check, key).and_then(|v| v.as_f64()).unwrap_or(default));
    let failures = some(check, "maxConsecutiveFailures").and_then(|v| v.as_u64()).unwrap_or(3);
    // Defaults are those of Marathon's pods.
    let mut out = HealthCheck {
        delay_seconds: seconds("delaySeconds", 15.0),
        interval_seconds: seconds("intervalSeconds", 60.0),
        timeout_seconds: seconds("timeoutSeconds", 20.0),
        grace_period_seconds: seconds("gracePeriodSeconds", 300.0),
        consecutive_failures: u32::try_from(failures).ok(),
        ..Default::default()
    };
    let port = |probe: &Value| {
        let name = some(probe, "endpoint")?;
        Some(u32::from(port_of(pod, numbers, name.as_str()?)?))
    };
    if let Some(http) = some(check, "http") {
        let text = |key: &str| some(&http, key).and_then(|v| v.as_str().map(str::to_owned));
        let scheme = text("scheme").unwrap_or_else(|| "http".to_owned()).to_lowercase();
        out.r#type = Some(health_check::Type::Http.into());
        out.http = Some(health_check::HttpCheckInfo {
            port: port(&http)?,
            path: Some(text("path").unwrap_or_else(|| "/".to_owned())),
            scheme: Some(scheme),
            ..Default::default()
        });
    } else if let Some(tcp) = some(check, "tcp") {
        out.r#type = Some(health_check::Type::Tcp.into());
        out.tcp = Some(health_check::TcpCheckInfo { port: port(&tcp)?, ..Default::default() });
    } else {
        out.r#type = Some(health_check::Type::Command.into());
        out.command = Some(checks::command(&some(&some(check, "exec")?, "command")?)?);
    }
    Some(out)
}

fn discovery(pod: &Pod, container: &PodContainer, numbers: &[Numbers<'_>]) -> DiscoveryInfo {
    let mine = numbers.iter().filter(|n| n.container == container.name);
    let ports = mine.flat_map(|one| {
        let number = one.host.or_else(|| one.inside()).unwrap_or(0);
        let scope = match (one.host, pod.host_networking()) {
            (_, true) => None,
            (Some(_), _) => Some("host"),
            (None, _) => Some("container"),
        };
        one.endpoint.protocol.iter().map(move |protocol| {
            let mut labels = labels(one.endpoint.labels.iter());
            if let Some(scope) = scope {
                let label = Label { key: "network-scope".to_owned(), value: Some(scope.to_owned()) };
                labels.get_or_insert_with(Default::default).labels.push(label);
            }
            Port {
                number: u32::from(number),
                name: Some(one.endpoint.name.clone()),
                protocol: Some(protocol.clone()),
                visibility: None,
                labels,
            }
        })
    });
    DiscoveryInfo {
        visibility: discovery_info::Visibility::Framework.into(),
        name: Some(pod.id.task_name()),
        ports: Some(Ports { ports: ports.collect() }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::core::constraint::Location;
    use crate::core::definition::Definition;
    use crate::core::id::{InstanceId, PathId};
    use crate::core::instance::{Goal, Record};

    fn made(body: &Value, host_ports: &[Option<u16>]) -> (ExecutorInfo, Vec<TaskInfo>) {
        let id = PathId::parse("/shop/pod").unwrap();
        let mut body = body.as_object().unwrap().clone();
        body.insert("id".to_owned(), json!("/shop/pod"));
        let pod = crate::core::pod_intake::pod(&id, &body, "*").unwrap();
        let record = Record {
            f: 1,
            id: InstanceId::from_key("shop_pod.instance-1"),
            app: id,
            version: "v".to_owned(),
            config: "v".to_owned(),
            created: Millis(0),
            agent: "a".to_owned(),
            location: Arc::new(Location { host: "h".to_owned(), ..Location::default() }),
            role: "*".to_owned(),
            host_ports: host_ports.to_vec(),
            goal: Goal::Run,
            volumes: Vec::new(),
            made: false,
            containers: Vec::new(),
            launches: 1,
        };
        let definition = Arc::new(Definition::Pod(pod.clone()));
        let images = [("web".to_owned(), "shop/web@sha256:1".to_owned())].into();
        group(&Launch { record, definition, takes: Vec::new(), images }, &pod, "F", &mesos::Offer::default())
    }

    fn variables_of(task: &TaskInfo) -> BTreeMap<&str, &str> {
        let given = task.command.as_ref().unwrap().environment.as_ref().unwrap();
        given.variables.iter().filter_map(|v| Some((v.name.as_str(), v.value.as_deref()?))).collect()
    }

    #[test]
    fn a_group_shares_what_is_the_pods() {
        let (executor, tasks) = made(
            &json!({"labels": {"tier": "front"}, "user": "nobody", "networks": [{"mode": "container/bridge"}], "volumes": [{"name": "v"}, {"name": "h", "host": "/srv"}],
                "environment": {"A": "pod", "B": "pod"},
                "containers": [
                    {"name": "web", "resources": {"cpus": 0.1, "mem": 32}, "image": {"kind": "DOCKER", "id": "shop/web"}, "environment": {"B": "web"},
                     "exec": {"command": {"argv": ["-v", "x"]}}, "lifecycle": {"killGracePeriodSeconds": 1.5},
                     "endpoints": [{"name": "http", "containerPort": 80, "protocol": ["tcp", "udp"]}, {"name": "admin", "containerPort": 0}],
                     "healthCheck": {"http": {"endpoint": "http", "scheme": "HTTPS"}}, "volumeMounts": [{"name": "v", "mountPath": "m"}]},
                    {"name": "side", "resources": {"cpus": 0.1, "mem": 32}, "user": "root", "exec": {"command": {"argv": ["run", "x"]}},
                     "volumeMounts": [{"name": "h", "mountPath": "/h", "readOnly": true}]}]}),
            &[Some(1000), Some(1001)],
        );
        assert_eq!(executor.executor_id.value, "instance-shop_pod.instance-1");
        let network = &executor.container.as_ref().unwrap().network_infos[0];
        assert_eq!(network.name.as_deref(), Some("mesos-bridge"));
        let mapped: Vec<_> = network
            .port_mappings
            .iter()
            .map(|m| (m.host_port, m.container_port, m.protocol.as_deref().unwrap()))
            .collect();
        assert_eq!(mapped, [(1000, 80, "tcp"), (1000, 80, "udp"), (1001, 1001, "tcp")]);
        let ids: Vec<&str> = tasks.iter().map(|task| task.task_id.value.as_str()).collect();
        assert_eq!(ids, ["shop_pod.instance-1.web.1", "shop_pod.instance-1.side.1"]);
        let (web, side) = (&tasks[0], &tasks[1]);
        let said = variables_of(web);
        let want = [
            ("A", "pod"),
            ("B", "web"),
            ("ENDPOINT_HTTP", "80"),
            ("EP_HOST_HTTP", "1000"),
            ("EP_CONTAINER_ADMIN", "1001"),
        ];
        for (name, value) in want {
            assert_eq!(said.get(name), Some(&value), "{name}");
        }
        assert_eq!(said["MARATHON_APP_LABEL_TIER"], "front");
        assert_eq!(variables_of(side)["B"], "pod");
        let commands: Vec<_> = tasks.iter().map(|task| task.command.as_ref().unwrap()).collect();
        assert_eq!(
            (commands[0].value.as_deref(), &commands[0].arguments[..]),
            (None, &["-v".to_owned(), "x".to_owned()][..])
        );
        assert_eq!(commands[1].value.as_deref(), Some("run"));
        assert_eq!(
            [commands[0].user.as_deref(), commands[1].user.as_deref()],
            [Some("nobody"), Some("root")]
        );
        assert_eq!(web.kill_policy.unwrap().grace_period.unwrap().nanoseconds, 1_500_000_000);
        let check = web.health_check.as_ref().unwrap();
        let http = check.http.as_ref().unwrap();
        assert_eq!((http.port, http.scheme.as_deref(), check.delay_seconds), (80, Some("https"), Some(15.0)));
        let container = web.container.as_ref().unwrap();
        let image = container.mesos.as_ref().unwrap().image.as_ref().unwrap().docker.as_ref().unwrap();
        assert_eq!(image.name, "shop/web@sha256:1", "every instance runs the same bytes");
        let from = container.volumes[0].source.as_ref().unwrap().sandbox_path.as_ref().unwrap();
        assert_eq!(from.path, "volumes/v");
        let volume = &side.container.as_ref().unwrap().volumes[0];
        assert_eq!((volume.host_path.as_deref(), volume.mode), (Some("/srv"), volume::Mode::Ro.into()));
    }

    #[test]
    fn on_the_hosts_network_the_ports_are_the_hosts() {
        let (executor, tasks) = made(
            &json!({"containers": [{"name": "web", "resources": {"cpus": 0.1, "mem": 32}, "exec": {"command": {"shell": "serve"}},
                "endpoints": [{"name": "http"}], "healthCheck": {"tcp": {"endpoint": "http"}}}]}),
            &[Some(31005)],
        );
        assert!(executor.container.unwrap().network_infos.is_empty());
        assert_eq!(variables_of(&tasks[0])["ENDPOINT_HTTP"], "31005");
        assert_eq!(tasks[0].health_check.as_ref().unwrap().tcp.as_ref().unwrap().port, 31005);
        let port = &tasks[0].discovery.as_ref().unwrap().ports.as_ref().unwrap().ports[0];
        assert_eq!((port.number, port.name.as_deref()), (31005, Some("http")));
    }
}
