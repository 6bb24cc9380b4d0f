//! The roles' settings on a host of a fleet: what its spec says in each role's own words, with the operator's overrides on top.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use plenum_base::config::Settings;
use plenum_base::places::{AGENTS_DOOR, Role};
use plenum_host::Host;
use plenum_networks::{IpNet, Overlay};
use plenum_plan::spec::{Kind, Store};
use serde::Serialize;
use toml::{Table, Value};

use super::agent::AgentFile;

/// The text of a role's file. The error names every wrong override.
pub fn settings(host: &Host, role: Role) -> Result<String, String> {
    let places = host.places();
    let spec = &host.spec;
    let with_store = || store(host, role);
    match role {
        Role::Identity => {
            let config = plenum_identity::Config {
                instance: spec.instance.clone(),
                state: Some(places.state.clone()),
                run: Some(places.run.clone()),
                listen: Some(host.listen(role)),
                ..Default::default()
            };
            let masters = host.masters().iter().map(ToString::to_string).collect::<Vec<_>>();
            let mut sets = with_store();
            sets.push(("name".into(), spec.name.clone().into()));
            sets.push(("address".into(), spec.address.to_string().into()));
            sets.push(("masters".into(), masters.into()));
            text(host, role, &config, sets)
        }
        Role::Master => {
            let mut config = plenum_master::Config::at(&places);
            config.component = host.component(role);
            config.agents = SocketAddr::new(spec.address, AGENTS_DOOR);
            config.cluster = spec.instance.to_string();
            if let (Some(region), Some(zone)) = (&spec.region, &spec.zone) {
                config.region.clone_from(region);
                config.zone.clone_from(zone);
            }
            text(host, role, &config, with_store())
        }
        Role::Agent => text(host, role, &agent(host)?, Vec::new()),
        Role::Services => {
            let mut config = plenum_services::Config::at(&places);
            config.component = host.component(role);
            config.masters = bases(host, Role::Master);
            // As in DC/OS: offers of public nodes come in, and are for apps that ask for them.
            config.default_role = "slave_public".to_owned();
            config.default_accepted_roles = vec!["*".to_owned()];
            text(host, role, &config, with_store())
        }
        Role::Catalog => {
            let mut config = plenum_catalog::Config::at(&places);
            config.component = host.component(role);
            config.services = own(host, Role::Services);
            config.master = own(host, Role::Master);
            text(host, role, &config, with_store())
        }
        Role::Discovery => {
            let mut config = plenum_discovery::Config::at(&places);
            config.component = host.component(role);
            config.masters = bases(host, Role::Master);
            config.socket = places.run.join("discovery/replica.sock");
            config.dns_also = host.dns().into_iter().skip(1).collect();
            config.resolvers = resolvers(host)?;
            let mut sets = if host.is_master() { with_store() } else { Vec::new() };
            sets.push(("range".into(), spec.shared.virtual_range.clone().into()));
            text(host, role, &config, sets)
        }
        Role::Balancer => {
            let mut config = plenum_balancer::Config::at(&places);
            config.component = host.component(role);
            config.socket = places.run.join("discovery/replica.sock");
            config.source = match spec.address {
                IpAddr::V4(address) => address,
                IpAddr::V6(_) => Ipv4Addr::LOCALHOST,
            };
            text(host, role, &config, vec![("range".into(), spec.shared.virtual_range.clone().into())])
        }
        Role::Gateway => {
            let mut config = plenum_gateway::Config::at(&places);
            config.component = host.component(role);
            config.listen_tls = SocketAddr::new(spec.address, 443);
            config.master = own(host, Role::Master);
            config.services = own(host, Role::Services);
            config.catalog = own(host, Role::Catalog);
            config.discovery = own(host, Role::Discovery);
            config.etcd = host.has_etcd();
            text(host, role, &config, Vec::new())
        }
        Role::Etcd => {
            let (name, masters) = (&spec.name, host.masters());
            let mut config = plenum_etcd::Config::at(&places, name, spec.address, masters, host.founder);
            config.component = host.component(role);
            if let Some(program) = host.etcd_program() {
                config.program = program;
            }
            text(host, role, &config, Vec::new())
        }
    }
}

fn own(host: &Host, role: Role) -> String {
    format!("https://{}", host.listen(role))
}

fn bases(host: &Host, role: Role) -> Vec<String> {
    let base = |address: IpAddr| format!("https://{}", SocketAddr::new(address, role.port()));
    host.masters().into_iter().map(base).collect()
}

/// Name servers, with or without a port.
fn resolvers(host: &Host) -> Result<Vec<SocketAddr>, String> {
    let read = |text: &String| {
        text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53))).map_err(|_| {
            format!("networks.resolvers: \"{text}\" is no address of a name server, such as 10.0.0.2 or 10.0.0.2:53")
        })
    };
    host.spec.shared.resolvers.iter().map(read).collect()
}

type Sets = Vec<(String, Value)>;

/// Where a control role keeps its records.
fn store(host: &Host, role: Role) -> Sets {
    let files = host.places().identity(role);
    let path = |path: std::path::PathBuf| Value::String(path.display().to_string());
    let set = |name: &str, value: Value| (format!("store.{name}"), value);
    match &host.spec.shared.store {
        Store::Embedded => Vec::new(),
        Store::Etcd { .. } => vec![
            set("etcd", true.into()),
            set("ca", path(host.ca(role))),
            set("certificate", path(files.cert)),
            set("key", path(files.key)),
        ],
        Store::External { endpoints, ca, certificate } => {
            let folder = host.store_folder();
            let mut sets = vec![set("etcd", true.into()), set("endpoints", endpoints.clone().into())];
            if !ca.is_empty() {
                sets.push(set("ca", path(folder.join("ca.pem"))));
            }
            if !certificate.is_empty() {
                sets.push(set("certificate", path(folder.join("cert.pem"))));
                sets.push(set("key", path(folder.join("key.pem"))));
            }
            sets
        }
    }
}

fn agent(host: &Host) -> Result<AgentFile, String> {
    let (places, spec) = (host.places(), &host.spec);
    let mut attributes = spec.shared.attributes.clone();
    attributes.extend(spec.attributes.clone());
    let attributes: Vec<String> = attributes.iter().map(|(name, value)| format!("{name}:{value}")).collect();
    let doors = host.masters().into_iter().map(|ip| SocketAddr::new(ip, AGENTS_DOOR).to_string()).collect();
    let mut agent = plenum_agent::Config {
        masters: doors,
        work_dir: places.data(Role::Agent),
        run_dir: places.run.join("agent"),
        log_file: None,
        ip: spec.address.to_string(),
        hostname: spec.address.to_string(),
        port: Role::Agent.port(),
        resources: spec.resources.clone().unwrap_or_default(),
        attributes: attributes.join(";"),
        region: spec.region.clone(),
        zone: spec.zone.clone(),
        dns: vec![places.dns().ip().to_string()],
        ..Default::default()
    };
    if spec.is(Kind::Public) {
        agent.default_role = "slave_public".to_owned();
        agent.ports = plenum_agent::machine::PUBLIC_PORTS.to_owned();
    }
    agent.networks.overlay = overlay(host)?;
    Ok(AgentFile { cgroup: Some(host.names.tasks_group()), component: host.component(Role::Agent), agent })
}

/// The network between containers of all hosts. The master says which part of the range is this host's.
fn overlay(host: &Host) -> Result<Option<Overlay>, String> {
    let shared = &host.spec.shared;
    let Some(range) = &shared.overlay_range else { return Ok(None) };
    let read = |name: &str, text: &String| {
        text.parse()
            .map_err(|_| format!("networks.{name}: \"{text}\" is no range such as 9.0.0.0/8 or fd01::/48"))
    };
    let range: IpNet = read("overlay_range", range)?;
    let range6 = shared.overlay_range6.as_ref().map(|text| read("overlay_range6", text)).transpose()?;
    // A host has room for 250 containers where the range is large, and for fewer where it is small.
    let slice_bits = range.bits.saturating_add(4).clamp(24, 29);
    Ok(Some(Overlay { range, range6, slice_bits, node: host.spec.address, ..Overlay::default() }))
}

/// The file's text, once the settings in it were read back and judged.
fn text<T: Serialize + Settings>(host: &Host, role: Role, config: &T, sets: Sets) -> Result<String, String> {
    let mut table = Table::try_from(config).map_err(|error| format!("{role}: {error}"))?;
    for (name, value) in sets {
        put(&mut table, &name, Some(value));
    }
    for overrides in [&host.spec.shared.settings, &host.spec.settings] {
        for (name, value) in overrides.get(role.as_str()).into_iter().flatten() {
            put(&mut table, name, from_json(value));
        }
    }
    let text = toml::to_string_pretty(&table).map_err(|error| format!("{role}: {error}"))?;
    let read: T = toml::from_str(&text).map_err(|error| {
        format!("settings of {role}: {}", error.message().lines().next().unwrap_or_default())
    })?;
    let mut problems = Vec::new();
    read.check(&mut problems);
    if problems.is_empty() { Ok(text) } else { Err(format!("settings of {role}: {}", problems.join("; "))) }
}

/// Sets a name with dots; none takes the setting out, so that the default holds.
fn put(table: &mut Table, name: &str, value: Option<Value>) {
    let (first, rest) = match name.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (name, None),
    };
    match (rest, value) {
        (Some(rest), value) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
        (None, Some(value)) => {
            table.insert(first.to_owned(), value);
        }
        (None, None) => {
            table.remove(first);
        }
    }
}

fn from_json(value: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match value {
        Json::Null => return None,
        Json::Bool(on) => Value::Boolean(*on),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Integer(whole),
            None => Value::Float(number.as_f64()?),
        },
        Json::String(text) => Value::String(text.clone()),
        Json::Array(items) => Value::Array(items.iter().filter_map(from_json).collect()),
        Json::Object(fields) => Value::Table(
            fields.iter().filter_map(|(name, value)| Some((name.clone(), from_json(value)?))).collect(),
        ),
    })
}
