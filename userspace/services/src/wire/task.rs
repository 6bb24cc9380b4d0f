//! A task from an app's definition and what was taken of an offer. The environment and the discovery information are
//! what DNS, load balancers and tasks rely on; their names are Marathon's.

use plenum_api::Millis;
use plenum_api::mesos::{
    self, CommandInfo, ContainerInfo, DiscoveryInfo, DurationInfo, Environment, HealthCheck, Image,
    KillPolicy, Label, Labels, NetworkInfo, Port, Ports, Secret, TaskInfo, TtyInfo, Volume, command_info,
    container_info, discovery_info, environment, health_check, image, network_info, secret, volume,
};
use serde_json::Value;

use crate::core::Launch;
use crate::core::app::{App, Container};
use crate::core::definition::ONLY;

/// The task of a launch on `offer`.
pub fn task_info(launch: &Launch, app: &App, offer: &mesos::Offer) -> TaskInfo {
    let record = &launch.record;
    let ports = port_numbers(app, &record.host_ports);
    TaskInfo {
        name: app.id.task_name(),
        task_id: record.id.task_id(ONLY, record.launches).into(),
        agent_id: offer.agent_id.clone(),
        resources: super::volume::resources(launch, offer),
        command: Some(command(launch, app, &ports)),
        container: container(app, &ports, launch.images.get(ONLY)),
        health_check: app.health_checks.first().map(|_| health(app, &ports)),
        check: super::checks::check(app, |n| ports.get(n).map_or(0, Numbers::own)),
        labels: labels(app.labels.iter()),
        discovery: Some(discovery(app, &ports)),
        kill_policy: app.task_kill_grace_period_seconds.map(|seconds| KillPolicy {
            grace_period: Some(DurationInfo { nanoseconds: Millis::from_secs_f64(seconds).as_nanos() }),
        }),
        limits: limits(app),
        ..Default::default()
    }
}

/// Host and container number of each of the app's ports.
struct Numbers {
    host: Option<u16>,
    inside: Option<u16>,
}

impl Numbers {
    /// What the task itself listens on.
    fn own(&self) -> u16 {
        self.inside.or(self.host).unwrap_or(0)
    }
}

fn port_numbers(app: &App, host_ports: &[Option<u16>]) -> Vec<Numbers> {
    let number = |(n, port): (usize, crate::core::app::Port<'_>)| {
        let host = host_ports.get(n).copied().flatten();
        let inside = port.container.map(|inside| if inside == 0 { host.unwrap_or(0) } else { inside });
        Numbers { host, inside }
    };
    app.ports().into_iter().enumerate().map(number).collect()
}

fn command(launch: &Launch, app: &App, ports: &[Numbers]) -> CommandInfo {
    let uris = app.fetch.iter().map(|f| command_info::Uri {
        value: f.uri.clone(),
        executable: Some(f.executable),
        extract: Some(f.extract),
        cache: Some(f.cache),
        output_file: f.dest_path.clone(),
    });
    let mut command = CommandInfo {
        uris: uris.collect(),
        environment: Some(Environment { variables: environment(launch, app, ports) }),
        user: app.user.clone(),
        shell: Some(app.cmd.is_some()),
        ..Default::default()
    };
    let image = app.container.as_ref().is_some_and(|c| c.docker.is_some());
    match (&app.cmd, &app.args) {
        (Some(cmd), _) => command.value = Some(cmd.clone()),
        (None, Some(args)) => {
            // Without an image the first argument is the program; with one it is the image's entry point.
            if !image {
                command.value = args.first().cloned();
            }
            command.arguments.clone_from(args);
        }
        (None, None) => {}
    }
    command
}

fn environment(launch: &Launch, app: &App, ports: &[Numbers]) -> Vec<environment::Variable> {
    let record = &launch.record;
    let mut plain: Vec<(String, String)> = vec![
        ("HOST".to_owned(), record.location.host.clone()),
        ("MARATHON_APP_ID".to_owned(), app.id.to_string()),
        ("MARATHON_APP_VERSION".to_owned(), app.version.clone()),
        ("MARATHON_APP_RESOURCE_CPUS".to_owned(), decimal(app.cpus)),
        ("MARATHON_APP_RESOURCE_MEM".to_owned(), decimal(app.mem)),
        ("MARATHON_APP_RESOURCE_DISK".to_owned(), decimal(app.disk)),
        ("MARATHON_APP_RESOURCE_GPUS".to_owned(), app.gpus.to_string()),
        ("MESOS_TASK_ID".to_owned(), record.id.task_id(ONLY, record.launches)),
    ];
    if let Some(docker) = app.container.as_ref().and_then(|c| c.docker.as_ref()) {
        plain.push(("MARATHON_APP_DOCKER_IMAGE".to_owned(), docker.image.clone()));
    }
    // Names and values are cut short as Marathon does: long ones do not fit where shells put them.
    let names: Vec<String> =
        app.labels.iter().filter(|(k, v)| k.len() < 255 && v.len() < 512).map(|(k, _)| variable(k)).collect();
    plain.push(("MARATHON_APP_LABELS".to_owned(), names.join(" ")));
    for (key, value) in app.labels.iter().filter(|(k, v)| k.len() < 255 && v.len() < 512) {
        plain.push((format!("MARATHON_APP_LABEL_{}", variable(key)), value.clone()));
    }
    let numbers: Vec<u16> = ports.iter().map(|p| p.host.or(p.inside).unwrap_or(0)).collect();
    for (n, (port, number)) in app.ports().iter().zip(&numbers).enumerate() {
        if n == 0 {
            plain.push(("PORT".to_owned(), number.to_string()));
        }
        plain.push((format!("PORT{n}"), number.to_string()));
        if let Some(name) = port.name {
            plain.push((format!("PORT_{}", variable(name)), number.to_string()));
        }
        let known = port.container.unwrap_or(port.service);
        if known != 0 {
            plain.push((format!("PORT_{known}"), number.to_string()));
        }
    }
    if !numbers.is_empty() {
        let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        plain.push(("PORTS".to_owned(), list.join(",")));
    }
    // What the definition says wins.
    plain.retain(|(name, _)| !app.env.contains_key(name));
    let own = plain.into_iter().map(|(name, value)| environment::Variable {
        name,
        value: Some(value),
        r#type: Some(environment::variable::Type::Value.into()),
        secret: None,
    });
    own.chain(app.env.iter().map(|(name, value)| given(app, name, value))).collect()
}

fn given(app: &App, name: &str, value: &Value) -> environment::Variable {
    let source = value.get("secret").and_then(Value::as_str).and_then(|s| app.secrets.get(s));
    if let Some(source) = source.and_then(|s| s.get("source")).and_then(Value::as_str) {
        let reference = Some(secret::Reference { name: source.to_owned(), key: None });
        let secret = Secret { r#type: Some(secret::Type::Reference.into()), reference, value: None };
        let kind = Some(environment::variable::Type::Secret.into());
        return environment::Variable {
            name: name.to_owned(),
            value: None,
            r#type: kind,
            secret: Some(secret),
        };
    }
    let value = Some(value.as_str().unwrap_or_default().to_owned());
    let kind = Some(environment::variable::Type::Value.into());
    environment::Variable { name: name.to_owned(), value, r#type: kind, secret: None }
}

/// Upper case, and an underscore for everything that a shell does not take.
pub(super) fn variable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

pub(super) fn decimal(n: f64) -> String {
    if n.fract() == 0.0 { format!("{n:.1}") } else { n.to_string() }
}

pub(super) fn labels<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> Option<Labels> {
    let labels: Vec<Label> =
        pairs.map(|(key, value)| Label { key: key.clone(), value: Some(value.clone()) }).collect();
    (!labels.is_empty()).then_some(Labels { labels })
}

fn discovery(app: &App, numbers: &[Numbers]) -> DiscoveryInfo {
    let mut ports = Vec::new();
    for (port, number) in app.ports().iter().zip(numbers) {
        for protocol in port.protocol.split(',') {
            let mut entry = Port {
                number: u32::from(number.host.unwrap_or_else(|| number.own())),
                name: port.name.map(str::to_owned),
                protocol: Some(protocol.to_owned()),
                visibility: None,
                labels: labels(port.labels.iter()),
            };
            if number.host.is_none() {
                // The number is one of the container: load balancers use its own address.
                let scope = Label { key: "network-scope".to_owned(), value: Some("container".to_owned()) };
                entry.labels.get_or_insert_with(Default::default).labels.push(scope);
            } else if port.container.is_some() {
                let scope = Label { key: "network-scope".to_owned(), value: Some("host".to_owned()) };
                entry.labels.get_or_insert_with(Default::default).labels.push(scope);
            }
            ports.push(entry);
        }
    }
    DiscoveryInfo {
        visibility: discovery_info::Visibility::Framework.into(),
        name: Some(app.id.task_name()),
        ports: Some(Ports { ports }),
        ..Default::default()
    }
}

fn health(app: &App, ports: &[Numbers]) -> HealthCheck {
    let Some(check) = app.health_checks.first() else { return HealthCheck::default() };
    let own = |n: usize| ports.get(n).map_or(0, Numbers::own);
    let port = u32::from(check.port.unwrap_or_else(|| own(check.port_index.unwrap_or(0))));
    let protocol =
        (check.ip_protocol.as_deref() == Some("IPv6")).then(|| network_info::Protocol::IPv6.into());
    let mut out = HealthCheck {
        delay_seconds: Some(check.delay_seconds),
        interval_seconds: Some(check.interval_seconds),
        timeout_seconds: Some(check.timeout_seconds),
        consecutive_failures: Some(check.max_consecutive_failures),
        grace_period_seconds: Some(check.grace_period_seconds),
        ..Default::default()
    };
    match check.protocol.as_str() {
        "COMMAND" => {
            let value = check
                .command
                .as_ref()
                .and_then(|c| c.get("value"))
                .and_then(Value::as_str)
                .map(str::to_owned);
            out.command = Some(CommandInfo { value, shell: Some(true), ..Default::default() });
            out.r#type = Some(health_check::Type::Command.into());
        }
        "TCP" | "MESOS_TCP" => {
            out.tcp = Some(health_check::TcpCheckInfo { port, protocol });
            out.r#type = Some(health_check::Type::Tcp.into());
        }
        other => {
            let scheme = if other.ends_with("HTTPS") { "https" } else { "http" };
            let path = Some(check.path.clone().unwrap_or_else(|| "/".to_owned()));
            let scheme = Some(scheme.to_owned());
            out.http =
                Some(health_check::HttpCheckInfo { port, path, scheme, statuses: Vec::new(), protocol });
            out.r#type = Some(health_check::Type::Http.into());
        }
    }
    out
}

fn limits(app: &App) -> std::collections::BTreeMap<String, mesos::value::Scalar> {
    limits_of(app.resource_limits.as_ref())
}

/// Limits above what is asked for: numbers, or `"unlimited"`.
pub(super) fn limits_of(given: Option<&Value>) -> std::collections::BTreeMap<String, mesos::value::Scalar> {
    let limit = |name: &str| {
        let value = match given?.get(name)? {
            Value::Number(n) => n.as_f64()?,
            Value::String(word) if word == "unlimited" => f64::INFINITY,
            _ => return None,
        };
        Some((name.to_owned(), mesos::value::Scalar { value }))
    };
    ["cpus", "mem"].into_iter().filter_map(limit).collect()
}

fn container(app: &App, ports: &[Numbers], pinned: Option<&String>) -> Option<ContainerInfo> {
    let plain = Container {
        kind: "MESOS".to_owned(),
        docker: None,
        volumes: Vec::new(),
        port_mappings: Vec::new(),
        linux_info: None,
    };
    let own_network = !app.host_networking();
    if app.container.is_none() && !own_network && app.tty != Some(true) {
        return None;
    }
    let from = app.container.as_ref().unwrap_or(&plain);
    let mut out = ContainerInfo {
        r#type: container_info::Type::Mesos.into(),
        // Persistent ones come with the task's resources.
        volumes: from
            .volumes
            .iter()
            .filter(|v| v.get("persistent").is_none_or(Value::is_null))
            .filter_map(|v| volume(app, v))
            .collect(),
        tty_info: (app.tty == Some(true)).then(TtyInfo::default),
        linux_info: super::checks::linux(from),
        ..Default::default()
    };
    if own_network {
        out.network_infos = networks(app, from, ports);
    }
    let image = from.docker.as_ref();
    if from.kind == "DOCKER" {
        out.r#type = container_info::Type::Docker.into();
        out.docker = image.map(|docker| container_info::DockerInfo {
            image: pinned.unwrap_or(&docker.image).clone(),
            network: Some(docker_network(app).into()),
            port_mappings: docker_ports(app, from, ports),
            privileged: Some(docker.privileged),
            parameters: docker
                .parameters
                .iter()
                .map(|p| mesos::Parameter { key: p.key.clone(), value: p.value.clone() })
                .collect(),
            force_pull_image: Some(docker.force_pull_image),
            volume_driver: None,
        });
        for network in &mut out.network_infos {
            network.port_mappings.clear();
        }
        if app.networks.iter().any(|n| n.mode == "container/bridge") {
            out.network_infos.clear();
        }
    } else {
        out.mesos = image.map(|docker| container_info::MesosInfo {
            image: Some(Image {
                r#type: image::Type::Docker.into(),
                docker: Some(image::Docker {
                    name: pinned.unwrap_or(&docker.image).clone(),
                    credential: None,
                    config: None,
                }),
                appc: None,
                cached: Some(!docker.force_pull_image),
            }),
        });
        out.mesos.get_or_insert_with(Default::default);
    }
    Some(out)
}

fn docker_network(app: &App) -> container_info::docker_info::Network {
    use container_info::docker_info::Network;
    match app.networks.first().map(|n| n.mode.as_str()) {
        Some("container/bridge") => Network::Bridge,
        Some("container") => Network::User,
        _ => Network::Host,
    }
}

fn docker_ports(
    app: &App,
    from: &Container,
    ports: &[Numbers],
) -> Vec<container_info::docker_info::PortMapping> {
    if app.host_networking() {
        return Vec::new();
    }
    let pairs = from.port_mappings.iter().zip(ports).filter_map(|(m, n)| Some((m, n.host?, n.own())));
    let each = pairs.flat_map(|(m, host, own)| m.protocol.split(',').map(move |p| (host, own, p.to_owned())));
    each.map(|(host, own, protocol)| container_info::docker_info::PortMapping {
        host_port: u32::from(host),
        container_port: u32::from(own),
        protocol: Some(protocol),
    })
    .collect()
}

fn networks(app: &App, from: &Container, ports: &[Numbers]) -> Vec<NetworkInfo> {
    let network = |n: &crate::core::app::Network| {
        let bridge = n.mode == "container/bridge";
        let name = n.name.clone().or_else(|| bridge.then(|| "mesos-bridge".to_owned()));
        let belongs =
            |names: &[String]| names.is_empty() || n.name.as_ref().is_some_and(|name| names.contains(name));
        let mappings = from.port_mappings.iter().zip(ports).filter(|(m, _)| belongs(&m.network_names));
        let pairs = mappings.filter_map(|(m, number)| Some((m, number.host?, number.own())));
        let each =
            pairs.flat_map(|(m, host, own)| m.protocol.split(',').map(move |p| (host, own, p.to_owned())));
        NetworkInfo {
            name,
            labels: labels(n.labels.iter()),
            port_mappings: each
                .map(|(host, own, protocol)| network_info::PortMapping {
                    host_port: u32::from(host),
                    container_port: u32::from(own),
                    protocol: Some(protocol),
                })
                .collect(),
            ..Default::default()
        }
    };
    app.networks.iter().map(network).collect()
}

fn volume(app: &App, value: &Value) -> Option<Volume> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mode = if text("mode").as_deref() == Some("RO") { volume::Mode::Ro } else { volume::Mode::Rw };
    let mut out = Volume {
        container_path: text("containerPath")?,
        host_path: text("hostPath"),
        mode: mode.into(),
        ..Default::default()
    };
    if let Some(name) = text("secret") {
        let source = app.secrets.get(&name)?.get("source")?.as_str()?.to_owned();
        let reference = Some(secret::Reference { name: source, key: None });
        let secret = Secret { r#type: Some(secret::Type::Reference.into()), reference, value: None };
        let kind = Some(volume::source::Type::Secret.into());
        out.source = Some(volume::Source { r#type: kind, secret: Some(secret), ..Default::default() });
    }
    if let Some(external) = value.get("external").filter(|external| !external.is_null()) {
        let kind = Some(volume::source::Type::DockerVolume.into());
        let docker_volume = Some(driver_volume(external));
        out.source = Some(volume::Source { r#type: kind, docker_volume, ..Default::default() });
    }
    Some(out)
}

/// Marathon's words for a driver's volume: what it gives the driver loses its prefix.
fn driver_volume(external: &Value) -> volume::source::DockerVolume {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let options = external.get("options").and_then(Value::as_object);
    let mut given: std::collections::BTreeMap<String, String> = options
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "dvdi/driver")
        .filter_map(|(key, value)| {
            Some((key.strip_prefix("dvdi/").unwrap_or(key).to_owned(), value.as_str()?.to_owned()))
        })
        .collect();
    if let Some(size) = external.get("size").and_then(Value::as_u64) {
        given.insert("size".to_owned(), size.to_string());
    }
    let parameter = given.into_iter().map(|(key, value)| mesos::Parameter { key, value }).collect();
    volume::source::DockerVolume {
        driver: text(options.and_then(|options| options.get("dvdi/driver"))),
        name: text(external.get("name")).unwrap_or_default(),
        driver_options: Some(mesos::Parameters { parameter }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::constraint::Location;
    use crate::core::definition::Definition;
    use crate::core::id::{InstanceId, PathId};
    use crate::core::instance::{Goal, Record};

    fn task(body: Value, host_ports: &[Option<u16>]) -> TaskInfo {
        let mut app = App::new(PathId::parse("/shop/web").unwrap(), "*");
        crate::core::update::apply(&mut app, body.as_object().unwrap(), "*").unwrap();
        let record = Record {
            f: 1,
            id: InstanceId::from_key("shop_web.instance-1"),
            app: app.id.clone(),
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
        let definition = Arc::new(Definition::App(app.clone()));
        task_info(
            &Launch { record, definition, takes: Vec::new(), images: Default::default() },
            &app,
            &mesos::Offer::default(),
        )
    }

    fn variables(task: &TaskInfo) -> std::collections::BTreeMap<String, String> {
        let all = task.command.clone().unwrap().environment.unwrap().variables;
        all.into_iter().map(|v| (v.name, v.value.unwrap_or_default())).collect()
    }

    #[test]
    fn a_volume_of_a_driver_has_its_options_without_their_prefix() {
        let task = task(
            serde_json::json!({"cmd": "serve", "container": {"type": "MESOS", "volumes": [{"containerPath": "data", "mode": "RW",
                "external": {"name": "v", "provider": "dvdi", "size": 7, "options": {"dvdi/driver": "d", "dvdi/iops": "9", "o": "x"}}}]}}),
            &[],
        );
        let container = task.container.unwrap();
        let source = container.volumes[0].source.clone().unwrap();
        assert_eq!(source.r#type(), volume::source::Type::DockerVolume);
        let volume = source.docker_volume.unwrap();
        assert_eq!((volume.driver.as_deref(), volume.name.as_str()), (Some("d"), "v"));
        let options = volume.driver_options.unwrap().parameter;
        let options: Vec<_> = options.iter().map(|o| (o.key.as_str(), o.value.as_str())).collect();
        assert_eq!(options, [("iops", "9"), ("o", "x"), ("size", "7")]);
    }

    #[test]
    fn a_host_task_has_its_names_ports_and_virtual_addresses() {
        let task = task(
            serde_json::json!({"cmd": "serve", "cpus": 0.5, "labels": {"a-b": "c"}, "env": {"HOST": "mine"},
                "portDefinitions": [{"port": 10000, "name": "http", "labels": {"VIP_0": "/web:80"}}],
                "healthChecks": [{"protocol": "MESOS_HTTP", "path": "/ok"}]}),
            &[Some(31005)],
        );
        assert_eq!(
            (task.name.as_str(), task.task_id.value.as_str()),
            ("web.shop", "shop_web.instance-1._app.1")
        );
        let env = variables(&task);
        for (name, want) in [
            ("PORT", "31005"),
            ("PORT0", "31005"),
            ("PORTS", "31005"),
            ("PORT_HTTP", "31005"),
            ("PORT_10000", "31005"),
            ("HOST", "mine"),
            ("MARATHON_APP_ID", "/shop/web"),
            ("MARATHON_APP_LABEL_A_B", "c"),
            ("MARATHON_APP_LABELS", "A_B"),
            ("MARATHON_APP_RESOURCE_CPUS", "0.5"),
            ("MARATHON_APP_RESOURCE_MEM", "128.0"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(want), "{name}");
        }
        let port = &task.discovery.unwrap().ports.unwrap().ports[0];
        assert_eq!((port.number, port.name.as_deref()), (31005, Some("http")));
        assert_eq!(port.labels.as_ref().unwrap().labels[0].key, "VIP_0");
        assert_eq!(task.health_check.unwrap().http.unwrap().port, 31005);
        assert!(task.container.is_none());
    }

    #[test]
    fn a_bridged_task_maps_its_ports() {
        let task = task(
            serde_json::json!({"networks": [{"mode": "container/bridge"}], "container": {"type": "DOCKER",
                "docker": {"image": "nginx"}, "portMappings": [{"containerPort": 80, "hostPort": 0, "protocol": "udp,tcp"}]},
                "healthChecks": [{"protocol": "TCP"}]}),
            &[Some(31005)],
        );
        let docker = task.container.unwrap().docker.unwrap();
        let ports: Vec<_> = docker.port_mappings.iter().map(|p| (p.host_port, p.container_port)).collect();
        assert_eq!(ports, [(31005, 80), (31005, 80)]);
        assert_eq!(task.health_check.unwrap().tcp.unwrap().port, 80);
        assert_eq!(task.discovery.unwrap().ports.unwrap().ports.len(), 2);
    }
}
