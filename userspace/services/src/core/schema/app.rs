//! The v2 app.

use super::autoscale::AUTOSCALE;
use super::checks::{CHECK, HEALTH, READINESS};
use super::container::CONTAINER;
use super::network::{IP_ADDRESS, NETWORK, PORT_DEFINITION};
use super::{
    AMOUNT, Default, Field, LABELS, LONG_SECONDS, NO_SECRETS, PATH, PLENTY, PORT, Rule, SECONDS, SOME_TEXT,
    Shape, Standing, TEXT, Table,
};

pub(super) const ID: Shape = Shape::Text(Rule::Id);
/// Instances of one app; what a cluster has room for is far below.
pub(super) const INSTANCES: Shape = Shape::Whole(0, 1_000_000);
pub(super) const GPUS: Shape = Shape::Whole(0, i32::MAX as i64);

pub(super) const ARTIFACT: Table = Table {
    name: "Artifact",
    fields: &[
        Field::must("uri", PATH),
        Field::new("extract", Shape::Flag, Default::Flag(true)),
        Field::new("executable", Shape::Flag, Default::Flag(false)),
        Field::new("cache", Shape::Flag, Default::Flag(false)),
        Field::may("destPath", PATH),
    ],
};

pub(super) const SECRET_REFERENCE: Table =
    Table { name: "EnvVarSecret", fields: &[Field::must("secret", TEXT).differs(NO_SECRETS)] };
pub(super) const SECRET: Table =
    Table { name: "SecretDef", fields: &[Field::must("source", SOME_TEXT).differs(NO_SECRETS)] };

const EXECUTOR: &str = "instances have no executor of their own: the agent runs them";
const EXECUTOR_RESOURCES: Table = Table {
    name: "ExecutorResources",
    fields: &[
        Field::new("cpus", Shape::Number(0.1, PLENTY), Default::Number(0.1)).kept(EXECUTOR),
        Field::new("mem", Shape::Number(32.0, PLENTY), Default::Number(32.0)).kept(EXECUTOR),
        Field::new("disk", Shape::Number(10.0, PLENTY), Default::Number(10.0)).kept(EXECUTOR),
    ],
};

pub(super) const RESOURCE_LIMITS: Table = Table {
    name: "ResourceLimits",
    fields: &[Field::may("cpus", Shape::TextOrNumber), Field::may("mem", Shape::TextOrNumber)],
};

const UPGRADE: Table = Table {
    name: "UpgradeStrategy",
    fields: &[
        Field::must("maximumOverCapacity", Shape::Number(0.0, 1.0)),
        Field::must("minimumHealthCapacity", Shape::Number(0.0, 1.0)),
    ],
};

pub(super) const UNREACHABLE: Table = Table {
    name: "UnreachableEnabled",
    fields: &[
        Field::new("inactiveAfterSeconds", LONG_SECONDS, Default::Number(0.0)),
        Field::new("expungeAfterSeconds", LONG_SECONDS, Default::Number(0.0))
            .kept("an instance that is replaced is ended when its node is back, however long that takes"),
    ],
};

const RESIDENCY_WHY: &str =
    "Marathon passes it over as well; what is shown follows from the volumes and `unreachableStrategy`";
const RESIDENCY: Table = Table {
    name: "AppResidency",
    fields: &[
        Field::new("relaunchEscalationTimeoutSeconds", LONG_SECONDS, Default::Number(3600.0))
            .kept(RESIDENCY_WHY),
        Field::new(
            "taskLostBehavior",
            Shape::Word(&["WAIT_FOREVER", "RELAUNCH_AFTER_TIMEOUT"]),
            Default::Text("WAIT_FOREVER"),
        )
        .kept(RESIDENCY_WHY),
    ],
};

const VERSION_INFO: Table = Table {
    name: "VersionInfo",
    fields: &[shown("lastScalingAt", Shape::Moment), shown("lastConfigChangeAt", Shape::Moment)],
};

const fn shown(name: &'static str, shape: Shape) -> Field {
    Field::may(name, shape).standing(Standing::Shown)
}

/// Everything that `/v2/apps` takes and shows of an app itself.
pub const APP: Table = Table {
    name: "App",
    fields: &[
        Field::must("id", ID),
        Field::may("acceptedResourceRoles", Shape::Set(&TEXT, 0)),
        Field::may("args", Shape::List(&TEXT, 0)),
        Field::new("backoffFactor", Shape::Number(1.0, PLENTY), Default::Number(1.15)),
        Field::seconds("backoffSeconds", 1.0),
        Field::may("cmd", SOME_TEXT).differs("commands of one character are taken as well"),
        Field::may("constraints", Shape::Set(&Shape::List(&TEXT, 0), 0)),
        Field::may("container", Shape::Object(&CONTAINER)),
        Field::new("cpus", Shape::Number(0.001, PLENTY), Default::Number(1.0)),
        Field::may("dependencies", Shape::Set(&TEXT, 0))
            .differs("relative ones are so to the app's group, also in `/v2/apps`"),
        Field::new("disk", AMOUNT, Default::Number(0.0)),
        Field::may("env", Shape::Map(&Shape::TextOr(&SECRET_REFERENCE))),
        Field::new("executor", TEXT, Default::Text(""))
            .differs("empty or `//cmd`: custom executors are refused"),
        Field::may("executorResources", Shape::Object(&EXECUTOR_RESOURCES)).kept(EXECUTOR),
        Field::may("fetch", Shape::List(&Shape::Object(&ARTIFACT), 0)),
        Field::may("healthChecks", Shape::Set(&Shape::Object(&HEALTH), 0))
            .differs("one a task: the agent runs it, of whatever kind"),
        Field::may("check", Shape::Object(&CHECK)),
        Field::new("instances", INSTANCES, Default::Number(1.0)).differs("at most a million"),
        Field::new("labels", LABELS, Default::Map),
        Field::seconds("maxLaunchDelaySeconds", 300.0),
        Field::new("mem", AMOUNT, Default::Number(128.0)),
        Field::new("gpus", GPUS, Default::Number(0.0)),
        Field::may("ipAddress", Shape::Object(&IP_ADDRESS)).older("`networks` and `container.portMappings`"),
        Field::new(
            "networks",
            Shape::List(&Shape::Object(&NETWORK), 0),
            Default::Derived("`[{\"mode\": \"host\"}]`"),
        ),
        Field::may("ports", Shape::List(&PORT, 0)).older("`portDefinitions`"),
        Field::new(
            "portDefinitions",
            Shape::List(&Shape::Object(&PORT_DEFINITION), 0),
            Default::Derived("one named `default` on the host's network"),
        ),
        Field::may("readinessChecks", Shape::List(&Shape::Object(&READINESS), 0)),
        Field::new("residency", Shape::Object(&RESIDENCY), Default::Derived("with persistent volumes"))
            .kept(RESIDENCY_WHY),
        Field::may("resourceLimits", Shape::Object(&RESOURCE_LIMITS)),
        Field::new("requirePorts", Shape::Flag, Default::Flag(false)),
        Field::may("secrets", Shape::Map(&Shape::Object(&SECRET))).differs(NO_SECRETS),
        Field::may("taskKillGracePeriodSeconds", SECONDS),
        Field::new(
            "upgradeStrategy",
            Shape::Object(&UPGRADE),
            Default::Derived("1 and 1; with persistent or external volumes 0.5 healthy and nothing over"),
        ),
        Field::may("uris", Shape::List(&PATH, 0)).older("`fetch`"),
        Field::may("user", TEXT),
        Field::may("version", Shape::Moment).differs("alone: the app goes back to that version"),
        Field::may("versionInfo", Shape::Object(&VERSION_INFO)).standing(Standing::Shown),
        Field::new(
            "killSelection",
            Shape::Word(&["YOUNGEST_FIRST", "OLDEST_FIRST"]),
            Default::Text("YOUNGEST_FIRST"),
        ),
        Field::new(
            "unreachableStrategy",
            Shape::Or(&["disabled"], &Shape::Object(&UNREACHABLE)),
            Default::Derived("0 and 0; `disabled` with persistent volumes"),
        ),
        Field::may("tty", Shape::Flag),
        Field::new("role", SOME_TEXT, Default::Derived("the scheduler's default role"))
            .differs("any role is taken, also one within another, not only the default one and that of the top-level group"),
        Field::may("autoscale", Shape::Object(&AUTOSCALE))
            .differs("an addition: the number of instances follows what they use, what they are asked, or the time of day"),
        shown("tasksStaged", INSTANCES),
        shown("tasksRunning", INSTANCES),
        shown("tasksHealthy", INSTANCES),
        shown("tasksUnhealthy", INSTANCES),
        shown("deployments", Shape::List(&Shape::Map(&TEXT), 0)),
        shown("readinessCheckResults", Shape::List(&Shape::Map(&TEXT), 0)),
        shown("tasks", Shape::List(&Shape::Map(&TEXT), 0)),
        shown("lastTaskFailure", Shape::Map(&TEXT)),
        shown("taskStats", Shape::Map(&TEXT)),
        shown("autoscaleStatus", Shape::Map(&TEXT)),
    ],
};
