//! Containers: image, ports, and what the kernel grants them.

use super::network::{PORT_NAME, PROTOCOL};
use super::volumes::VOLUME;
use super::{Default, Field, LABELS, PORT, SOME_TEXT, Shape, TEXT, Table};

const CREDENTIAL: Table = Table {
    name: "DockerCredentials",
    fields: &[
        Field::must("principal", TEXT).refused("Marathon refuses it as well since 1.5: use `pullConfig`"),
        Field::may("secret", TEXT).refused("Marathon refuses it as well since 1.5: use `pullConfig`"),
    ],
};

pub(super) const PULL_CONFIG: Table =
    Table { name: "DockerPullConfig", fields: &[Field::must("secret", SOME_TEXT).kept(NO_PULL_CONFIG)] };
const NO_PULL_CONFIG: &str = "it is not handed to the agent yet, which has credentials of its own";

const PARAMETER: Table =
    Table { name: "DockerParameter", fields: &[Field::must("key", SOME_TEXT), Field::must("value", TEXT)] };

const MAPPINGS: Shape = Shape::List(&Shape::Object(&PORT_MAPPING), 0);

const PORT_MAPPING: Table = Table {
    name: "ContainerPortMapping",
    fields: &[
        Field::new("containerPort", PORT, Default::Number(0.0)),
        Field::new("hostPort", PORT, Default::Derived("nothing; 0 with `container/bridge`")),
        Field::new("labels", LABELS, Default::Map),
        Field::may("name", PORT_NAME),
        Field::new("protocol", PROTOCOL, Default::Text("tcp")),
        Field::new("servicePort", PORT, Default::Number(0.0)),
        Field::may("networkNames", Shape::List(&TEXT, 0)),
    ],
};

const DOCKER: Table = Table {
    name: "DockerContainer",
    fields: &[
        Field::may("credential", Shape::Object(&CREDENTIAL))
            .refused("Marathon refuses it as well since 1.5: use `pullConfig`"),
        Field::may("pullConfig", Shape::Object(&PULL_CONFIG)).kept(NO_PULL_CONFIG),
        Field::new("forcePullImage", Shape::Flag, Default::Flag(false)),
        Field::must("image", SOME_TEXT),
        Field::may("network", Shape::Word(&["BRIDGE", "HOST", "NONE", "USER"])).older("`networks`"),
        Field::new("parameters", Shape::List(&Shape::Object(&PARAMETER), 0), Default::List),
        Field::may("portMappings", MAPPINGS).older("`container.portMappings`"),
        Field::new("privileged", Shape::Flag, Default::Flag(false)),
    ],
};

const SECCOMP: Table = Table {
    name: "Seccomp",
    fields: &[Field::may("profileName", TEXT), Field::new("unconfined", Shape::Flag, Default::Flag(false))],
};

const IPC: Table = Table {
    name: "IPCInfo",
    fields: &[
        Field::must("mode", Shape::Word(&["PRIVATE", "SHARE_PARENT"])),
        Field::may("shmSize", Shape::Whole(0, i32::MAX as i64)),
    ],
};

pub(super) const LINUX: Table = Table {
    name: "LinuxInfo",
    fields: &[Field::may("seccomp", Shape::Object(&SECCOMP)), Field::may("ipcInfo", Shape::Object(&IPC))],
};

pub(super) const CONTAINER: Table = Table {
    name: "Container",
    fields: &[
        Field::new("type", Shape::Word(&["MESOS", "DOCKER"]), Default::Text("DOCKER")),
        Field::may("docker", Shape::Object(&DOCKER)),
        Field::may("linuxInfo", Shape::Object(&LINUX)),
        Field::new("volumes", Shape::List(&VOLUME, 0), Default::List),
        Field::new(
            "portMappings",
            MAPPINGS,
            Default::Derived("one mapping of container port 0 off the host's network"),
        ),
    ],
};
