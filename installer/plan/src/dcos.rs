//! DC/OS' `config.yaml`: keys that mean something here are used, each other one is listed with the reason why not.

use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::nearest::nearest;
use crate::schema::Walk;
use crate::settings::Form;
use crate::tree::{At, Node, Value};

/// A key of the file, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its name.
    pub key: String,
    /// Where it stands.
    pub at: At,
    /// Whether it is used.
    pub used: bool,
    /// As what, or why not.
    pub why: String,
}

/// Whether a file is one of DC/OS rather than ours.
#[must_use]
pub fn is_one(tree: &Node) -> bool {
    let has = |key: &str| tree.get(key).is_some();
    !has("hosts")
        && ["master_list", "agent_list", "bootstrap_url", "exhibitor_storage_backend"]
            .iter()
            .any(|key| has(key))
}

/// Keys that are used, and as what.
const USED: &[(&str, &str)] = &[
    ("cluster_name", "name, in lower case and with dashes"),
    ("master_list", "hosts with the role master"),
    ("agent_list", "hosts with the role agent"),
    ("public_agent_list", "hosts with the role public"),
    ("resolvers", "networks.resolvers"),
    ("ssh_user", "ssh.user"),
    ("ssh_port", "ssh.port"),
    ("ssh_key_path", "ssh.key"),
    ("superuser_username", "admin.user"),
    ("weights", "weights"),
    ("process_timeout", "limits.host_seconds"),
    ("ssh_parallelism", "limits.parallel"),
];

/// Keys that are not used, by how they begin, and why.
const UNUSED: &[(&str, &str)] = &[
    ("bootstrap_url", "there is no bootstrap machine: the program is sent over SSH"),
    ("bootstrap_", "there is no bootstrap machine"),
    ("exhibitor_", "there is no ZooKeeper: state is kept by the masters themselves, see store"),
    ("zk_", "there is no ZooKeeper"),
    ("master_discovery", "masters are found by the cluster's own map"),
    ("num_masters", "the number of masters is that of the hosts with the role, and can change"),
    (
        "master_external_loadbalancer",
        "any master's gateway serves any request; point a balancer at all of them",
    ),
    ("master_dns_bindall", "see networks.dns_on_masters"),
    ("mesos_dns_", "DNS is answered from one table of all tasks"),
    (
        "dns_search",
        "the hosts' own resolv.conf is never changed; containers take the search list of their host",
    ),
    ("dns_forward_zones", "names outside of the domain go to networks.resolvers"),
    ("dns_bind_ip_blacklist", "DNS listens on loopback addresses, and on masters' own"),
    ("dcos_overlay_", "see networks.overlay and networks.overlay_range"),
    ("dcos_l4lb_", "virtual addresses: see networks.virtual_range"),
    ("dcos_ucr_", "networks of containers are not configured here"),
    ("dcos_net_", "there is no dcos-net"),
    ("dcos_", "it configures a part of DC/OS that does not exist here"),
    ("calico_", "there is no Calico"),
    ("enable_lb", "virtual addresses are always on"),
    ("enable_ipv6", "virtual addresses are IPv4"),
    ("enable_docker_gc", "there is no Docker daemon; images are collected by size and age"),
    ("enable_gpu_isolation", "GPUs are isolated where they are offered"),
    ("gpus_are_scarce", "see settings.master"),
    ("gc_delay", "see settings.agent"),
    ("docker_", "there is no Docker daemon"),
    ("cluster_docker_", "credentials of registries belong to the apps that use them"),
    ("use_proxy", "hosts need no way to the internet; fetches of tasks take the agent's environment"),
    ("http_proxy", "hosts need no way to the internet"),
    ("https_proxy", "hosts need no way to the internet"),
    ("no_proxy", "hosts need no way to the internet"),
    (
        "mesos_",
        "settings of the resource manager: see `plenum config check master` and `agent` for what there is",
    ),
    ("marathon_", "settings of apps: see `plenum config check services`"),
    ("metronome_", "there is no Metronome process"),
    ("oauth_enabled", "every request is authenticated; there is no outside provider"),
    ("auth_cookie_", "cookies are always for TLS only where TLS is used"),
    ("superuser_password_hash", "hashes are of another kind: the first password comes from admin.password"),
    ("superuser_service_account_", "make service accounts after the installation"),
    ("security", "every component has a certificate and checks its callers', always"),
    ("ca_certificate_", "the cluster has an authority of its own"),
    ("external_certificate_", "set the gateway's certificate after the installation"),
    ("adminrouter_", "the gateway takes TLS 1.2 and 1.3 with safe ciphers"),
    ("bouncer_", "see settings.identity"),
    ("permissions_cache_", "permissions are pushed, not cached"),
    ("license_", "there are no licences"),
    ("iam_", "see settings.identity"),
    ("fault_domain_", "region and zone are settings of hosts here"),
    ("rexray_", "there is no REX-Ray"),
    ("feature_", "it switches a part of DC/OS that does not exist here"),
    ("check_time", "clocks are always compared, see limits.clock_skew_ms"),
    ("custom_checks", "there are no custom checks"),
    ("telemetry_enabled", "nothing is sent anywhere"),
    ("ui_banner", "there is no banner"),
    ("diagnostics_bundles_dir", "there are no bundles in a folder"),
    ("cosmos_config", "packages are kept in the cluster's store"),
    ("log_", "logs go to journald"),
    ("ip_detect", "each host's address stands in the file"),
    ("rack", "racks are attributes"),
    ("platform", "any systemd distribution is taken"),
    ("customer_key", "there are no customers"),
    ("s3_", "state is kept by the masters"),
    ("aws_", "state is kept by the masters"),
    ("azure_", "state is kept by the masters"),
    ("gpu_", "GPUs are offered where agents have them"),
    ("package_registry_", "packages come from repositories"),
    ("genconf_dir", "nothing is generated in a folder"),
];

/// The file as ours, and what became of each key.
pub fn convert(tree: &Node, walk: &mut Walk) -> (Json, Vec<Key>) {
    let (mut out, mut keys) = (json!({}), Vec::new());
    let Value::Map(entries) = &tree.value else { return (out, keys) };
    let mut hosts = Vec::new();
    for (key, value) in entries {
        let name = key.text.as_str();
        walk.places.insert(name.to_owned(), key.at);
        let note =
            |used: bool, why: &str| Key { key: name.to_owned(), at: key.at, used, why: why.to_owned() };
        if let Some((_, what)) = USED.iter().find(|(used, _)| *used == name) {
            keys.push(note(true, what));
            take(walk, &mut out, &mut hosts, name, value);
        } else if let Some((_, why)) = UNUSED.iter().find(|(begin, _)| name.starts_with(begin)) {
            keys.push(note(false, why));
        } else {
            let near = nearest(name, USED.iter().map(|(key, _)| *key));
            let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            keys.push(note(false, &format!("DC/OS has no such key{hint}")));
            if near.is_some() {
                walk.wrong(key.at, name, format!("DC/OS has no such key{hint}"));
            }
        }
    }
    out["hosts"] = Json::Array(hosts);
    (out, keys)
}

fn take(walk: &mut Walk, out: &mut Json, hosts: &mut Vec<Json>, name: &str, value: &Node) {
    let text = |walk: &mut Walk, form| walk.value(value, form, name);
    let kind = match name {
        "master_list" => "master",
        "agent_list" => "agent",
        "public_agent_list" => "public",
        "cluster_name" => {
            if let Some(Json::String(given)) = text(walk, Form::Text) {
                out["name"] = instance(&given).into();
            }
            return;
        }
        "weights" => {
            weights(walk, out, value);
            return;
        }
        _ => {
            let (group, word, form) = match name {
                "resolvers" => ("networks", "resolvers", Form::List(&Form::Address)),
                "ssh_user" => ("ssh", "user", Form::Text),
                "ssh_port" => ("ssh", "port", Form::Whole(1, 65535)),
                "ssh_key_path" => ("ssh", "key", Form::List(&Form::Text)),
                "superuser_username" => ("admin", "user", Form::Name),
                "process_timeout" => ("limits", "host_seconds", Form::Whole(10, 7200)),
                _ => ("limits", "parallel", Form::Whole(1, 256)),
            };
            if let Some(read) = text(walk, form) {
                out[group][word] = read;
            }
            return;
        }
    };
    // DC/OS also takes the list as a JSON text.
    let parsed = match &value.value {
        Value::Text(text) => crate::tree::parse(text).ok(),
        _ => None,
    };
    let list = parsed.as_ref().unwrap_or(value);
    for address in walk
        .value(list, Form::List(&Form::Address), name)
        .and_then(|v| v.as_array().cloned())
        .into_iter()
        .flatten()
    {
        let path = format!("hosts[{}]", hosts.len());
        walk.places.insert(path, value.at);
        hosts.push(json!({"address": address, "roles": [kind]}));
    }
}

/// `role=2,other=3`, as Mesos takes them, or a map.
fn weights(walk: &mut Walk, out: &mut Json, value: &Node) {
    if matches!(value.value, Value::Map(_)) {
        if let Some(map) = walk.value(value, Form::Words, "weights") {
            out["weights"] = map;
        }
        return;
    }
    let Some(Json::String(text)) = walk.value(value, Form::Text, "weights") else { return };
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((role, weight)) => out["weights"][role.trim()] = weight.trim().into(),
            None => walk.wrong(value.at, "weights", "write them as role=2,other=3"),
        }
    }
}

/// A cluster's name as an instance may have it.
fn instance(name: &str) -> String {
    let mapped: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(32)
        .collect();
    let trimmed = mapped.trim_matches('-').to_owned();
    if trimmed.is_empty() { "default".to_owned() } else { trimmed }
}
