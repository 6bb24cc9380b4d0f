//! Health checks, checks and readiness checks.

use super::network::PORT_NAME;
use super::{Default, Field, PATH, PORT, SECONDS, SOME_TEXT, Shape, Sign, TEXT, Table};

const COMMAND: Table = Table { name: "AppCommandCheck", fields: &[Field::must("value", TEXT)] };

pub(super) const HEALTH: Table = Table {
    name: "AppHealthCheck",
    fields: &[
        Field::may("command", Shape::Object(&COMMAND)),
        Field::seconds("gracePeriodSeconds", 300.0),
        Field::may("ignoreHttp1xx", Shape::Flag)
            .kept("the agent takes 200 to 399 for success, so 1xx answers fail"),
        Field::seconds("intervalSeconds", 60.0),
        Field::new("maxConsecutiveFailures", SECONDS, Default::Number(3.0)).differs(
            "the agent counts, for `HTTP`, `HTTPS` and `TCP` as well; 0 ends the task at the first failure",
        ),
        Field::may("path", TEXT),
        Field::may("port", PORT),
        Field::may("portIndex", PORT),
        Field::new(
            "protocol",
            Shape::Word(&["HTTP", "HTTPS", "TCP", "COMMAND", "MESOS_TCP", "MESOS_HTTP", "MESOS_HTTPS"]),
            Default::Text("HTTP"),
        )
        .differs("`HTTP`, `HTTPS` and `TCP` are run by the agent too, in the task's network"),
        Field::new("ipProtocol", Shape::Word(&["IPv4", "IPv6"]), Default::Text("IPv4")),
        Field::new("timeoutSeconds", SECONDS, Default::Number(20.0)),
        Field::seconds("delaySeconds", 15.0),
    ],
};

const SHELL: Table = Table { name: "ShellCommand", fields: &[Field::must("shell", SOME_TEXT)] };
const ARGV: Table = Table { name: "ArgvCommand", fields: &[Field::must("argv", Shape::List(&TEXT, 1))] };
/// A line for a shell, or a program with its arguments.
pub(super) const COMMANDS: Shape = Shape::OneOf(&[(Sign::Has("argv"), &ARGV), (Sign::Else, &SHELL)]);
pub(super) const EXEC: Table = Table { name: "CommandCheck", fields: &[Field::must("command", COMMANDS)] };

const HTTP: Table = Table {
    name: "AppHttpCheck",
    fields: &[
        Field::may("portIndex", PORT),
        Field::may("port", PORT),
        Field::may("path", PATH),
        Field::new("scheme", Shape::Word(&["HTTP", "HTTPS"]), Default::Text("HTTP"))
            .differs("`HTTPS` is refused; Marathon fails at it"),
    ],
};
const TCP: Table =
    Table { name: "AppTcpCheck", fields: &[Field::may("portIndex", PORT), Field::may("port", PORT)] };

pub(super) const CHECK: Table = Table {
    name: "AppCheck",
    fields: &[
        Field::may("http", Shape::Object(&HTTP)),
        Field::may("tcp", Shape::Object(&TCP)),
        Field::may("exec", Shape::Object(&EXEC)),
        Field::seconds("intervalSeconds", 60.0),
        Field::seconds("timeoutSeconds", 20.0),
        Field::seconds("delaySeconds", 15.0),
    ],
};

pub(super) const READINESS: Table = Table {
    name: "ReadinessCheck",
    fields: &[
        Field::new("name", SOME_TEXT, Default::Text("readinessCheck")),
        Field::new("protocol", Shape::Word(&["HTTP", "HTTPS"]), Default::Text("HTTP")),
        Field::new("path", PATH, Default::Text("/")),
        Field::new("portName", PORT_NAME, Default::Text("http-api")),
        Field::seconds("intervalSeconds", 30.0),
        Field::new("timeoutSeconds", Shape::Whole(1, i32::MAX as i64), Default::Number(10.0)),
        Field::new(
            "httpStatusCodesForReady",
            Shape::Set(&Shape::Whole(100, 999), 1),
            Default::Derived("`[200]`"),
        ),
        Field::new("preserveLastResponse", Shape::Flag, Default::Flag(false)),
    ],
};
