//! The v2 pod.

use super::app::{ARTIFACT, GPUS, ID, INSTANCES, RESOURCE_LIMITS, SECRET, SECRET_REFERENCE, UNREACHABLE};
use super::checks::EXEC;
use super::container::{LINUX, PULL_CONFIG};
use super::network::NETWORK;
use super::{
    AMOUNT, Default, Field, LABELS, PATH, PLENTY, PORT, Rule, SECONDS, SOME_TEXT, Shape, TEXT, Table,
};

/// A name of a container, an endpoint or a volume.
const NAME: Shape = Shape::Text(Rule::Name(63));

const RESOURCES: Table = Table {
    name: "Resources",
    fields: &[
        Field::must("cpus", Shape::Number(0.0, PLENTY)),
        Field::must("mem", AMOUNT),
        Field::new("disk", AMOUNT, Default::Number(0.0)),
        Field::new("gpus", GPUS, Default::Number(0.0)),
    ],
};

const EXECUTOR_RESOURCES: Table = Table {
    name: "PodExecutorResources",
    fields: &[
        Field::new("cpus", Shape::Number(0.0, PLENTY), Default::Number(0.1)),
        Field::new("mem", AMOUNT, Default::Number(32.0)),
        Field::new("disk", AMOUNT, Default::Number(10.0)),
    ],
};

const ENDPOINT: Table = Table {
    name: "Endpoint",
    fields: &[
        Field::must("name", NAME),
        Field::may("containerPort", PORT),
        Field::may("hostPort", PORT),
        Field::new(
            "protocol",
            Shape::List(&Shape::Word(&["tcp", "udp"]), 0),
            Default::Derived("`[\"tcp\"]`"),
        ),
        Field::may("labels", LABELS),
        Field::may("networkNames", Shape::List(&TEXT, 0)),
    ],
};

const IMAGE: Table = Table {
    name: "Image",
    fields: &[
        Field::must("kind", Shape::Word(&["DOCKER"])),
        Field::must("id", SOME_TEXT),
        Field::may("forcePull", Shape::Flag),
        Field::may("pullConfig", Shape::Object(&PULL_CONFIG)),
        Field::may("labels", LABELS),
    ],
};

const HTTP: Table = Table {
    name: "HttpCheck",
    fields: &[
        Field::must("endpoint", NAME),
        Field::may("path", PATH),
        Field::may("scheme", Shape::Word(&["HTTP", "HTTPS"])),
    ],
};
const TCP: Table = Table { name: "TcpCheck", fields: &[Field::must("endpoint", NAME)] };

const HEALTH: Table = Table {
    name: "HealthCheck",
    fields: &[
        Field::may("http", Shape::Object(&HTTP)),
        Field::may("tcp", Shape::Object(&TCP)),
        Field::may("exec", Shape::Object(&EXEC)),
        Field::seconds("gracePeriodSeconds", 300.0),
        Field::seconds("intervalSeconds", 60.0),
        Field::new("maxConsecutiveFailures", SECONDS, Default::Number(3.0)),
        Field::seconds("timeoutSeconds", 20.0),
        Field::seconds("delaySeconds", 15.0),
    ],
};

const CHECK: Table = Table {
    name: "Check",
    fields: &[
        Field::may("http", Shape::Object(&HTTP)),
        Field::may("tcp", Shape::Object(&TCP)),
        Field::may("exec", Shape::Object(&EXEC)),
        Field::seconds("intervalSeconds", 60.0),
        Field::seconds("timeoutSeconds", 20.0),
        Field::seconds("delaySeconds", 15.0),
    ],
};

const MOUNT: Table = Table {
    name: "VolumeMount",
    fields: &[Field::must("name", NAME), Field::must("mountPath", PATH), Field::may("readOnly", Shape::Flag)],
};

const LIFECYCLE: Table =
    Table { name: "Lifecycle", fields: &[Field::may("killGracePeriodSeconds", Shape::Number(0.0, PLENTY))] };

const COMMAND: Table = Table {
    name: "MesosExec",
    fields: &[Field::must("command", super::checks::COMMANDS), Field::may("overrideEntrypoint", Shape::Flag)],
};

const ENVIRONMENT: Shape = Shape::Map(&Shape::TextOr(&SECRET_REFERENCE));

const CONTAINER: Table = Table {
    name: "PodContainer",
    fields: &[
        Field::must("name", NAME),
        Field::may("exec", Shape::Object(&COMMAND)),
        Field::must("resources", Shape::Object(&RESOURCES)),
        Field::may("resourceLimits", Shape::Object(&RESOURCE_LIMITS)),
        Field::may("endpoints", Shape::List(&Shape::Object(&ENDPOINT), 0)),
        Field::may("image", Shape::Object(&IMAGE)),
        Field::may("environment", ENVIRONMENT),
        Field::may("user", TEXT),
        Field::may("healthCheck", Shape::Object(&HEALTH)),
        Field::may("check", Shape::Object(&CHECK)),
        Field::may("volumeMounts", Shape::List(&Shape::Object(&MOUNT), 0)),
        Field::may("artifacts", Shape::List(&Shape::Object(&ARTIFACT), 0)),
        Field::may("labels", LABELS),
        Field::may("lifecycle", Shape::Object(&LIFECYCLE)),
        Field::may("tty", Shape::Flag),
        Field::may("linuxInfo", Shape::Object(&LINUX)),
    ],
};

const NO_PERSISTENT: &str = "persistent volumes of pods are not built yet";
const PERSISTENT: Table =
    Table { name: "PersistentVolumeInfo", fields: &[Field::must("size", AMOUNT).refused(NO_PERSISTENT)] };

const VOLUME: Table = Table {
    name: "PodVolume",
    fields: &[
        Field::must("name", NAME),
        Field::may("host", PATH),
        Field::may("persistent", Shape::Object(&PERSISTENT)).refused(NO_PERSISTENT),
        Field::may("secret", SOME_TEXT).differs(super::NO_SECRETS),
    ],
};

const SCALING: Table = Table {
    name: "FixedPodScalingPolicy",
    fields: &[
        Field::new("kind", Shape::Word(&["fixed"]), Default::Text("fixed")),
        Field::new("instances", INSTANCES, Default::Number(1.0)).differs("at most a million"),
    ],
};

const BACKOFF: Table = Table {
    name: "PodSchedulingBackoffStrategy",
    fields: &[
        Field::new("backoff", Shape::Number(0.0, PLENTY), Default::Number(1.0)),
        Field::new("backoffFactor", Shape::Number(0.0, PLENTY), Default::Number(1.15)),
        Field::new("maxLaunchDelay", Shape::Number(0.0, PLENTY), Default::Number(300.0)),
    ],
};

const UPGRADE: Table = Table {
    name: "PodUpgradeStrategy",
    fields: &[
        Field::new("minimumHealthCapacity", Shape::Number(0.0, 1.0), Default::Number(1.0)),
        Field::new("maximumOverCapacity", Shape::Number(0.0, 1.0), Default::Number(1.0)),
    ],
};

const CONSTRAINT: Table = Table {
    name: "Constraint",
    fields: &[
        Field::must("fieldName", SOME_TEXT),
        Field::must(
            "operator",
            Shape::Word(&["UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS"]),
        ),
        Field::may("value", TEXT),
    ],
};

const PLACEMENT: Table = Table {
    name: "PodPlacementPolicy",
    fields: &[
        Field::may("constraints", Shape::Set(&Shape::Object(&CONSTRAINT), 0)),
        Field::may("acceptedResourceRoles", Shape::Set(&TEXT, 0)),
    ],
};

const SCHEDULING: Table = Table {
    name: "PodSchedulingPolicy",
    fields: &[
        Field::may("backoff", Shape::Object(&BACKOFF)),
        Field::may("upgrade", Shape::Object(&UPGRADE)),
        Field::may("placement", Shape::Object(&PLACEMENT)),
        Field::may("killSelection", Shape::Word(&["YOUNGEST_FIRST", "OLDEST_FIRST"])),
        Field::may("unreachableStrategy", Shape::Or(&["disabled"], &Shape::Object(&UNREACHABLE))),
    ],
};

/// Everything that `/v2/pods` takes and shows of a pod itself.
pub const POD: Table = Table {
    name: "Pod",
    fields: &[
        Field::must("id", ID),
        Field::may("labels", LABELS),
        Field::may("version", Shape::Moment)
            .kept("Marathon passes it over as well: each change makes its own"),
        Field::may("user", SOME_TEXT),
        Field::may("environment", ENVIRONMENT),
        Field::must("containers", Shape::List(&Shape::Object(&CONTAINER), 1)),
        Field::may("secrets", Shape::Map(&Shape::Object(&SECRET))),
        Field::may("volumes", Shape::List(&Shape::Object(&VOLUME), 0)),
        Field::may("networks", Shape::List(&Shape::Object(&NETWORK), 0)),
        Field::may("scaling", Shape::Object(&SCALING)),
        Field::may("scheduling", Shape::Object(&SCHEDULING)),
        Field::may("executorResources", Shape::Object(&EXECUTOR_RESOURCES)),
        Field::may("role", SOME_TEXT),
        Field::may("linuxInfo", Shape::Object(&LINUX)),
        Field::may("legacySharedCgroups", Shape::Flag)
            .kept("each container has limits of its own, which hold its own processes"),
    ],
};
