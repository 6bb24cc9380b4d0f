//! What is wrong with a cluster whose file is well formed: too few masters, one address twice, settings that contradict each other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::cluster::{Cluster, StoreKind, Sudo};
use crate::schema::{Places, Problem, Severity};
use crate::spec::Kind;
use crate::tree::At;

/// An IPv4 range: its first address and fixed bits. None for anything else, or with bits set behind the fixed ones.
#[must_use]
pub fn range(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits) = (address.parse::<Ipv4Addr>().ok()?, bits.parse::<u8>().ok()?);
    if !(8..=28).contains(&bits) {
        return None;
    }
    let rest = u32::MAX.checked_shr(u32::from(bits))?;
    (address.to_bits() & rest == 0).then_some((address, bits))
}

/// Whether the range has the address.
#[must_use]
pub fn contains(range: (Ipv4Addr, u8), address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };
    let mask = !u32::MAX.checked_shr(u32::from(range.1)).unwrap_or(0);
    address.to_bits() & mask == range.0.to_bits() & mask
}

/// Adds what is wrong to `problems`.
pub fn check(cluster: &Cluster, places: &Places, problems: &mut Vec<Problem>) {
    let mut say = |severity: Severity, path: &str, message: String| {
        let at = find(places, path);
        problems.push(Problem { at, path: path.to_owned(), message, severity });
    };
    masters(cluster, &mut say);
    hosts(cluster, &mut say);
    store(cluster, &mut say);
    for (i, host) in cluster.hosts.iter().enumerate() {
        for (name, form) in [("resources", &host.resources)] {
            if let Some(text) = form
                && !sound_resources(text)
            {
                say(Severity::Error, &format!("hosts[{i}].{name}"), RESOURCES.to_owned());
            }
        }
    }
    if let Some(text) = &cluster.agents.resources
        && !sound_resources(text)
    {
        say(Severity::Error, "agents.resources", RESOURCES.to_owned());
    }
    for (role, weight) in &cluster.weights {
        if !weight.parse::<f64>().is_ok_and(|weight| weight.is_finite() && weight > 0.0) {
            say(Severity::Error, &format!("weights.{role}"), format!("{weight} is no positive number"));
        }
    }
    if cluster.ssh.sudo == Sudo::None && cluster.ssh.user != "root" {
        let user = &cluster.ssh.user;
        say(
            Severity::Error,
            "ssh.sudo",
            format!("none with the user {user}: the installer needs root on the hosts; use auto"),
        );
    }
    if cluster.ssh.sudo == Sudo::Password
        && cluster.ssh.sudo_password == "same"
        && cluster.ssh.password == "none"
    {
        let message = "same as the login's, which has none: name one with prompt or env:NAME";
        say(Severity::Error, "ssh.sudo_password", message.to_owned());
    }
}

const RESOURCES: &str =
    "this is not how Mesos writes resources: cpus:4;mem:8192;disk:20000;ports:[31000-32000]";

/// Only the form; the agent knows what is in it.
fn sound_resources(text: &str) -> bool {
    text.trim_start().starts_with('[')
        || text.split(';').filter(|part| !part.trim().is_empty()).all(|part| {
            part.split_once(':')
                .is_some_and(|(name, value)| !name.trim().is_empty() && !value.trim().is_empty())
        })
}

/// The place of a setting, or of the nearest one around it that is in the file.
fn find(places: &Places, path: &str) -> At {
    let mut path = path;
    loop {
        if let Some(at) = places.get(path) {
            return *at;
        }
        let Some(cut) = path.rfind(['.', '[']) else { return At::default() };
        path = path.get(..cut).unwrap_or("");
    }
}

fn masters(cluster: &Cluster, say: &mut dyn FnMut(Severity, &str, String)) {
    let count = cluster.masters().count();
    if cluster.hosts.is_empty() {
        say(
            Severity::Error,
            "hosts",
            "there are no hosts: name at least one with the role master".to_owned(),
        );
        return;
    }
    match count {
        0 => say(
            Severity::Error,
            "hosts",
            "no host has the role master; one, three or five need it".to_owned(),
        ),
        n if n > 7 => say(
            Severity::Error,
            "hosts",
            format!("{n} masters: each write waits for most of them. Use 3 or 5; seven at most"),
        ),
        n if n.is_multiple_of(2) => say(
            Severity::Warning,
            "hosts",
            format!(
                "{n} masters stand the loss of no more than {} do: use an odd number",
                n.saturating_sub(1)
            ),
        ),
        _ => {}
    }
    let runs_tasks = cluster.hosts.iter().any(|host| host.is(Kind::Agent) || host.is(Kind::Public));
    if count > 0 && !runs_tasks {
        let message = "no host has the role agent or public: nothing can run until one joins";
        say(Severity::Warning, "hosts", message.to_owned());
    }
}

fn hosts(cluster: &Cluster, say: &mut dyn FnMut(Severity, &str, String)) {
    let range = range(&cluster.networks.virtual_range);
    let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for (i, host) in cluster.hosts.iter().enumerate() {
        let path = format!("hosts[{i}]");
        if let Some(before) = addresses.insert(host.address, i) {
            let message = format!("{} is the address of hosts[{before}] too", host.address);
            say(Severity::Error, &format!("{path}.address"), message);
        }
        if let Some(before) = names.insert(host.name.to_ascii_lowercase(), i) {
            let message = format!("{} is the name of hosts[{before}] too", host.name);
            say(Severity::Error, &format!("{path}.name"), message);
        }
        if host.roles.is_empty() {
            let message = "it has none: use master, agent or public".to_owned();
            say(Severity::Error, &format!("{path}.roles"), message);
        }
        if host.is(Kind::Agent) && host.is(Kind::Public) {
            let message = "agent and public exclude each other: a public one runs tasks, too".to_owned();
            say(Severity::Error, &format!("{path}.roles"), message);
        }
        if host.address.is_unspecified() || host.address.is_multicast() {
            say(
                Severity::Error,
                &format!("{path}.address"),
                format!("{} is no host's address", host.address),
            );
        }
        if host.address.is_loopback() && cluster.hosts.len() > 1 {
            let message = format!("other hosts cannot reach {}", host.address);
            say(Severity::Error, &format!("{path}.address"), message);
        }
        let region = host.region.as_ref().or(cluster.agents.region.as_ref());
        let zone = host.zone.as_ref().or(cluster.agents.zone.as_ref());
        if region.is_some() != zone.is_some() {
            let missing = if zone.is_none() { "zone" } else { "region" };
            say(Severity::Error, &path, format!("region and zone belong together; it has no {missing}"));
        }
        let overlay = Some(&cluster.networks.overlay_range).filter(|_| cluster.networks.overlay);
        if overlay.and_then(|text| self::range(text)).is_some_and(|range| contains(range, host.address)) {
            let message = format!(
                "{} lies in the range of containers, {}; choose another networks.overlay_range",
                host.address, cluster.networks.overlay_range
            );
            say(Severity::Error, &format!("{path}.address"), message);
        }
        if range.is_some_and(|range| contains(range, host.address)) {
            let message = format!(
                "{} lies in the range of virtual addresses, {}; choose another networks.virtual_range",
                host.address, cluster.networks.virtual_range
            );
            say(Severity::Error, &format!("{path}.address"), message);
        }
    }
}

fn store(cluster: &Cluster, say: &mut dyn FnMut(Severity, &str, String)) {
    let (store, count) = (&cluster.store, cluster.masters().count());
    if store.kind == StoreKind::Embedded && count > 1 {
        let message = format!("embedded is for one master, and there are {count}: use auto or etcd");
        say(Severity::Error, "store.kind", message);
    }
    if store.kind == StoreKind::Embedded && !store.endpoints.is_empty() {
        say(Severity::Error, "store.endpoints", "they contradict store.kind: embedded".to_owned());
    }
    if !store.endpoints.is_empty() && store.binary.is_some() {
        let message = "no etcd is sent where store.endpoints names yours; leave one of them out".to_owned();
        say(Severity::Error, "store.binary", message);
    }
    for (i, endpoint) in store.endpoints.iter().enumerate() {
        if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            let message = format!("{endpoint} is no URL; write https://host:2379");
            say(Severity::Error, &format!("store.endpoints[{i}]"), message);
        } else if crate::ways::endpoint(endpoint).is_none() {
            let message = format!("{endpoint} names no host and port; write https://host:2379");
            say(Severity::Error, &format!("store.endpoints[{i}]"), message);
        } else if endpoint.starts_with("http://") {
            let message = "plain HTTP: anybody on the way reads and changes the cluster's state".to_owned();
            say(Severity::Warning, &format!("store.endpoints[{i}]"), message);
        }
    }
    let https = store.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    if https && store.ca.is_none() {
        let message = "it is missing: the certificate (PEM) of the authority of that etcd".to_owned();
        say(Severity::Error, "store.ca", message);
    }
    if https && store.endpoints.iter().any(|endpoint| endpoint.starts_with("http://")) {
        let message = "all of them are https:// or none is".to_owned();
        say(Severity::Error, "store.endpoints", message);
    }
    for (name, file) in [("ca", &store.ca), ("certificate", &store.certificate), ("key", &store.key)] {
        if file.is_some() && store.endpoints.is_empty() {
            let message = "it is for an etcd of your own, and store.endpoints names none".to_owned();
            say(Severity::Error, &format!("store.{name}"), message);
        }
    }
    if store.certificate.is_some() != store.key.is_some() {
        let message = "store.certificate and store.key belong together; one is missing".to_owned();
        say(Severity::Error, "store", message);
    }
}
