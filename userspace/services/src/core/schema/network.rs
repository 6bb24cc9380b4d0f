//! Networks, ports of the host and the older ways of asking for an address.

use super::{Default, Field, LABELS, PORT, Rule, Shape, TEXT, Table};

/// Names of protocols.
pub(super) const PROTOCOL: Shape = Shape::Word(&["tcp", "udp", "udp,tcp"]);
/// A port's name; old apps have longer ones than DNS takes.
pub(super) const PORT_NAME: Shape = Shape::Text(Rule::Name(usize::MAX));

pub(super) const NETWORK: Table = Table {
    name: "Network",
    fields: &[
        Field::may("name", Shape::Text(Rule::Network)),
        Field::new(
            "mode",
            Shape::Word(&["container", "container/bridge", "host"]),
            Default::Text("container"),
        ),
        Field::may("labels", LABELS),
    ],
};

pub(super) const PORT_DEFINITION: Table = Table {
    name: "PortDefinition",
    fields: &[
        Field::new("port", PORT, Default::Number(0.0)),
        Field::may("labels", LABELS),
        Field::may("name", PORT_NAME),
        Field::new("protocol", PROTOCOL, Default::Text("tcp")),
    ],
};

const DISCOVERY_PORT: Table = Table {
    name: "IpDiscoveryPort",
    fields: &[
        Field::new("number", PORT, Default::Number(0.0)).older("`container.portMappings[].containerPort`"),
        Field::must("name", PORT_NAME).older("`container.portMappings[].name`"),
        Field::new("protocol", PROTOCOL, Default::Text("tcp")).older("`container.portMappings[].protocol`"),
        Field::may("labels", LABELS).older("`container.portMappings[].labels`"),
    ],
};

const DISCOVERY: Table = Table {
    name: "IpDiscovery",
    fields: &[Field::may("ports", Shape::List(&Shape::Object(&DISCOVERY_PORT), 0))
        .older("`container.portMappings`")],
};

pub(super) const IP_ADDRESS: Table = Table {
    name: "IpAddress",
    fields: &[
        Field::may("discovery", Shape::Object(&DISCOVERY)).older("`container.portMappings`"),
        Field::may("groups", Shape::Set(&TEXT, 0)).older("nothing; Marathon passes it over as well"),
        Field::may("labels", LABELS).older("`networks[].labels`"),
        Field::may("networkName", Shape::Text(Rule::Network)).older("`networks[].name`"),
    ],
};
