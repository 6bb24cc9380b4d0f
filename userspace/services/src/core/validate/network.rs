//! Networks and ports.

use super::super::app::{App, Network};
use super::{Flaws, unique};

pub(super) fn networks(app: &App, flaws: &mut Flaws) {
    kinds(&app.networks, flaws);
    let docker = app.container.as_ref().is_some_and(|c| c.kind == "DOCKER");
    let error = "may only specify a single container network when using the Docker container engine";
    let several = app.networks.iter().filter(|n| n.mode == "container").count() > 1;
    flaws.unless(!docker || !several, "/", error);
}

/// One of the host's, one bridge, or any number of containers' networks.
pub(super) fn kinds(networks: &[Network], flaws: &mut Flaws) {
    let count = |mode: &str| networks.iter().filter(|n| n.mode == mode).count();
    let named = |n: &Network| n.name.as_ref().is_some_and(|name| !name.is_empty());
    let of = |mode: &'static str| networks.iter().filter(move |n| n.mode == mode);
    let plain = of("host").all(|n| !named(n) && n.labels.is_empty());
    flaws.unless(plain, "/networks", "Host networks may not have names or labels");
    flaws.unless(!of("container/bridge").any(named), "/networks", "Bridge networks may not have names");
    let nameless = of("container").filter(|n| n.name.is_none()).count();
    let names = unique(networks.iter().filter_map(|n| n.name.as_deref()));
    flaws.unless(nameless < 2 && names, "/networks", "Duplicate networks are not allowed");
    let one_kind = match (count("host"), count("container/bridge"), count("container")) {
        (host, 0, 0) => host <= 1,
        (0, bridge, 0) => bridge <= 1,
        (0, 0, _) => true,
        _ => false,
    };
    let error = "May specify a single host network, single bridge network, or else 1-to-n container networks";
    flaws.unless(one_kind, "/networks", error);
    let error = "Network name must be specified when container network is selected.";
    flaws.unless(nameless == 0, "/networks", error);
}

pub(super) fn ports(app: &App, flaws: &mut Flaws) {
    let names = |list: &[Option<&str>]| unique(list.iter().filter_map(|name| *name));
    let defined: Vec<Option<&str>> = app.port_definitions.iter().map(|p| p.name.as_deref()).collect();
    flaws.unless(names(&defined), "/portDefinitions", "Port names must be unique.");
    let fixed = app.port_definitions.iter().map(|p| p.port).filter(|port| *port != 0);
    flaws.unless(unique(fixed), "/portDefinitions", "Ports must be unique.");
    let Some(container) = &app.container else { return };
    let at = "/container/portMappings";
    let mapped: Vec<Option<&str>> = container.port_mappings.iter().map(|p| p.name.as_deref()).collect();
    flaws.unless(names(&mapped), at, "Port names must be unique.");
    let several = app.networks.iter().filter(|n| n.mode == "container").count() > 1;
    let known: Vec<&str> = app.networks.iter().filter_map(|n| n.name.as_deref()).collect();
    for (i, mapping) in container.port_mappings.iter().enumerate() {
        let error = "networkNames must be a single item list when hostPort is specified and more than 1 container network is defined";
        let clear = !several || mapping.host_port.is_none() || mapping.network_names.len() == 1;
        flaws.unless(clear, &format!("{at}({i})"), error);
        for (n, name) in mapping.network_names.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let error = format!("is not one of ({})", known.join(","));
                flaws.add(format!("{at}({i})/networkNames({n})"), error);
            }
        }
    }
}
