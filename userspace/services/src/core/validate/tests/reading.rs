//! Bodies that cannot be read, or contradict themselves between old and new spellings.

use serde_json::json;

use super::super::super::error::ApiError;
use super::{Case, app, pairs, parsed};

const UNREADABLE: &[Case] = &[
    (r#"{"cmd":3}"#, &[("/cmd", "error.expected.jsstring")]),
    (r#"{"cmd":""}"#, &[("/cmd", "error.minLength")]),
    (r#"{"args":"a"}"#, &[("/args", "error.expected.jsarray")]),
    (r#"{"args":["a",1]}"#, &[("/args(1)", "error.expected.jsstring")]),
    (r#"{"cpus":"one"}"#, &[("/cpus", "error.expected.jsnumber")]),
    (r#"{"cpus":0}"#, &[("/cpus", "error.min")]),
    (
        r#"{"cpus":-1,"mem":-1,"disk":-1,"gpus":-1,"instances":-1}"#,
        &[
            ("/cpus", "error.min"),
            ("/disk", "error.min"),
            ("/instances", "error.min"),
            ("/mem", "error.min"),
            ("/gpus", "error.min"),
        ],
    ),
    (r#"{"cpus":1e300,"mem":1e300}"#, &[("/cpus", "error.max"), ("/mem", "error.max")]),
    (
        r#"{"instances":1.5,"gpus":0.5}"#,
        &[("/instances", "error.expected.int"), ("/gpus", "error.expected.int")],
    ),
    (r#"{"instances":2147483648}"#, &[("/instances", "error.expected.int")]),
    (r#"{"instances":99999999999999999999}"#, &[("/instances", "error.expected.int")]),
    (r#"{"instances":2147483647}"#, &[("/instances", "error.max")]),
    (r#"{"instances":true}"#, &[("/instances", "error.expected.jsnumber")]),
    (
        r#"{"backoffFactor":0.5,"backoffSeconds":-1,"maxLaunchDelaySeconds":0.5}"#,
        &[
            ("/backoffFactor", "error.min"),
            ("/backoffSeconds", "error.min"),
            ("/maxLaunchDelaySeconds", "error.expected.int"),
        ],
    ),
    (r#"{"taskKillGracePeriodSeconds":-1}"#, &[("/taskKillGracePeriodSeconds", "error.min")]),
    (
        r#"{"upgradeStrategy":{"minimumHealthCapacity":2,"maximumOverCapacity":-0.1}}"#,
        &[
            ("/upgradeStrategy/maximumOverCapacity", "error.min"),
            ("/upgradeStrategy/minimumHealthCapacity", "error.max"),
        ],
    ),
    (
        r#"{"upgradeStrategy":{"minimumHealthCapacity":1}}"#,
        &[("/upgradeStrategy/maximumOverCapacity", "error.path.missing")],
    ),
    (r#"{"upgradeStrategy":7}"#, &[("/upgradeStrategy", "error.expected.jsobject")]),
    (
        r#"{"unreachableStrategy":{"inactiveAfterSeconds":-1,"expungeAfterSeconds":0.5}}"#,
        &[
            ("/unreachableStrategy/inactiveAfterSeconds", "error.min"),
            ("/unreachableStrategy/expungeAfterSeconds", "error.expected.long"),
        ],
    ),
    (r#"{"unreachableStrategy":"never"}"#, &[("/unreachableStrategy", "error.expected.jsobject")]),
    (r#"{"killSelection":"RANDOM"}"#, &[("/killSelection", "error.unknown.enum.literal")]),
    (
        r#"{"env":{"A":1,"B":{"secret":2},"C":{}}}"#,
        &[
            ("/env/A", "error.expected.jsstring"),
            ("/env/B/secret", "error.expected.jsstring"),
            ("/env/C/secret", "error.path.missing"),
        ],
    ),
    (r#"{"env":[]}"#, &[("/env", "error.expected.jsobject")]),
    (r#"{"labels":{"a":1}}"#, &[("/labels/a", "error.expected.jsstring")]),
    (
        r#"{"secrets":{"a":{},"b":{"source":""},"c":"x"}}"#,
        &[
            ("/secrets/a/source", "error.path.missing"),
            ("/secrets/b/source", "error.minLength"),
            ("/secrets/c", "error.expected.jsobject"),
        ],
    ),
    (
        r#"{"fetch":[{"extract":true},{"uri":"","cache":1}]}"#,
        &[
            ("/fetch(0)/uri", "error.path.missing"),
            ("/fetch(1)/uri", "error.minLength"),
            ("/fetch(1)/cache", "error.expected.jsboolean"),
        ],
    ),
    (
        r#"{"portDefinitions":[{"port":65536},{"port":-1},{"name":"A_b"},{"protocol":"sctp"},{"labels":{"VIP_0":80}}]}"#,
        &[
            ("/portDefinitions(0)/port", "error.max"),
            ("/portDefinitions(1)/port", "error.min"),
            ("/portDefinitions(2)/name", "error.pattern"),
            ("/portDefinitions(3)/protocol", "error.unknown.enum.literal"),
            ("/portDefinitions(4)/labels/VIP_0", "error.expected.jsstring"),
        ],
    ),
    (r#"{"ports":[70000]}"#, &[("/ports(0)", "error.max")]),
    (r#"{"requirePorts":"yes"}"#, &[("/requirePorts", "error.expected.jsboolean")]),
    (
        r#"{"networks":[{"mode":"bridge"},{"name":"-x"},"host"]}"#,
        &[
            ("/networks(0)/mode", "error.unknown.enum.literal"),
            ("/networks(1)/name", "error.pattern"),
            ("/networks(2)", "error.expected.jsobject"),
        ],
    ),
    (r#"{"container":{"type":"LXC"}}"#, &[("/container/type", "error.unknown.enum.literal")]),
    (r#"{"container":"x"}"#, &[("/container", "error.expected.jsobject")]),
    (r#"{"container":{"docker":{}}}"#, &[("/container/docker/image", "error.path.missing")]),
    (
        r#"{"container":{"docker":{"image":"","parameters":[{"key":"","value":"v"},{"key":"k"}],"network":"OTHER"}}}"#,
        &[
            ("/container/docker/image", "error.minLength"),
            ("/container/docker/network", "error.unknown.enum.literal"),
            ("/container/docker/parameters(0)/key", "error.minLength"),
            ("/container/docker/parameters(1)/value", "error.path.missing"),
        ],
    ),
    (
        r#"{"container":{"portMappings":[{"containerPort":"http","hostPort":1e9,"name":""}]}}"#,
        &[
            ("/container/portMappings(0)/containerPort", "error.expected.jsnumber"),
            ("/container/portMappings(0)/hostPort", "error.max"),
            ("/container/portMappings(0)/name", "error.minLength"),
            ("/container/portMappings(0)/name", "error.pattern"),
        ],
    ),
    (
        r#"{"container":{"type":"MESOS","volumes":[{"containerPath":"a"},{"containerPath":"a","hostPath":"/b","mode":"WO"}]}}"#,
        &[
            ("/container/volumes(0)/hostPath", "error.path.missing"),
            ("/container/volumes(0)/mode", "error.path.missing"),
            ("/container/volumes(1)/mode", "error.unknown.enum.literal"),
        ],
    ),
    (
        r#"{"container":{"type":"MESOS","volumes":[{"containerPath":"a","mode":"RW","persistent":{"size":-1,"type":"disk"}},{"secret":"s"}]}}"#,
        &[
            ("/container/volumes(0)/persistent/type", "error.unknown.enum.literal"),
            ("/container/volumes(0)/persistent/size", "error.min"),
            ("/container/volumes(1)/containerPath", "error.path.missing"),
        ],
    ),
    (
        r#"{"container":{"type":"MESOS","volumes":[{"containerPath":"a","mode":"RW","external":{"provider":"csi","name":"v","options":{"pluginName":"","capability":{"accessMode":"ALL","accessType":"raw"}}}}]}}"#,
        &[
            ("/container/volumes(0)/external/options/pluginName", "error.minLength"),
            ("/container/volumes(0)/external/options/capability/accessMode", "error.unknown.enum.literal"),
            ("/container/volumes(0)/external/options/capability/accessType", "error.unknown.enum.literal"),
        ],
    ),
    (
        r#"{"container":{"type":"MESOS","volumes":[{"containerPath":"a","mode":"RW","external":{"provider":"dvdi","options":{"a":1}}}]}}"#,
        &[("/container/volumes(0)/external/options/a", "error.expected.jsstring")],
    ),
    (
        r#"{"container":{"type":"MESOS","linuxInfo":{"seccomp":{"unconfined":1},"ipcInfo":{"shmSize":64}}}}"#,
        &[
            ("/container/linuxInfo/seccomp/unconfined", "error.expected.jsboolean"),
            ("/container/linuxInfo/ipcInfo/mode", "error.path.missing"),
        ],
    ),
    (
        r#"{"healthChecks":[{"protocol":"UDP"},{"protocol":"COMMAND","command":{}},{"intervalSeconds":-1,"timeoutSeconds":"a"},{"ipProtocol":"IPv5"}]}"#,
        &[
            ("/healthChecks(0)/protocol", "error.unknown.enum.literal"),
            ("/healthChecks(1)/command/value", "error.path.missing"),
            ("/healthChecks(2)/intervalSeconds", "error.min"),
            ("/healthChecks(2)/timeoutSeconds", "error.expected.jsnumber"),
            ("/healthChecks(3)/ipProtocol", "error.unknown.enum.literal"),
        ],
    ),
    (
        r#"{"check":{"exec":{"command":{"argv":[]}},"http":{"path":""}}}"#,
        &[("/check/http/path", "error.minLength"), ("/check/exec/command/argv", "error.minLength")],
    ),
    (r#"{"check":{"exec":{"command":{}}}}"#, &[("/check/exec/command/shell", "error.path.missing")]),
    (
        r#"{"readinessChecks":[{"name":"","timeoutSeconds":0,"httpStatusCodesForReady":[99]},{"httpStatusCodesForReady":[]}]}"#,
        &[
            ("/readinessChecks(0)/name", "error.minLength"),
            ("/readinessChecks(0)/timeoutSeconds", "error.min"),
            ("/readinessChecks(0)/httpStatusCodesForReady(0)", "error.min"),
            ("/readinessChecks(1)/httpStatusCodesForReady", "error.minLength"),
        ],
    ),
    (
        r#"{"residency":{"taskLostBehavior":"PANIC","relaunchEscalationTimeoutSeconds":-1}}"#,
        &[
            ("/residency/relaunchEscalationTimeoutSeconds", "error.min"),
            ("/residency/taskLostBehavior", "error.unknown.enum.literal"),
        ],
    ),
    (
        r#"{"executorResources":{"cpus":0.01,"mem":1,"disk":1}}"#,
        &[
            ("/executorResources/cpus", "error.min"),
            ("/executorResources/mem", "error.min"),
            ("/executorResources/disk", "error.min"),
        ],
    ),
    (r#"{"resourceLimits":{"mem":true}}"#, &[("/resourceLimits/mem", "error.expected.jsnumber")]),
    (
        r#"{"constraints":["hostname"],"dependencies":[1],"acceptedResourceRoles":"*"}"#,
        &[
            ("/acceptedResourceRoles", "error.expected.jsarray"),
            ("/constraints(0)", "error.expected.jsarray"),
            ("/dependencies(0)", "error.expected.jsstring"),
        ],
    ),
    (
        r#"{"role":"","tty":1,"user":[]}"#,
        &[
            ("/user", "error.expected.jsstring"),
            ("/tty", "error.expected.jsboolean"),
            ("/role", "error.minLength"),
        ],
    ),
    (r#"{"version":"yesterday"}"#, &[("/version", "error.expected.date.isoformat")]),
    (
        r#"{"ipAddress":{"discovery":{"ports":[{"number":80}]},"networkName":""}}"#,
        &[
            ("/ipAddress/discovery/ports(0)/name", "error.path.missing"),
            ("/ipAddress/networkName", "error.minLength"),
            ("/ipAddress/networkName", "error.pattern"),
        ],
    ),
];

#[test]
fn what_cannot_be_read() {
    for (body, want) in UNREADABLE {
        match app(parsed(body)) {
            Err(ApiError::BadFields(flaws)) => assert_eq!(pairs(&flaws), *want, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn old_spellings_that_contradict_themselves() {
    let cases: &[Case] = &[
        (r#"{"ports":[80,80]}"#, &[("/", "ports must be unique")]),
        (
            r#"{"ports":[80],"portDefinitions":[{"port":81}]}"#,
            &[("/", "cannot specify both ports and port definitions")],
        ),
        (r#"{"ports":[80],"ipAddress":{}}"#, &[("/", "cannot specify both an IP address and port")]),
        (
            r#"{"networks":[{"mode":"host"}],"ipAddress":{}}"#,
            &[("/", "must not specify both networks and ipAddress")],
        ),
        (
            r#"{"uris":["http://h/a b","http://h/%zz"]}"#,
            &[("/uris(0)", "URI has invalid syntax."), ("/uris(1)", "URI has invalid syntax.")],
        ),
        (
            r#"{"uris":["http://h/a"],"fetch":[{"uri":"http://h/b"}]}"#,
            &[("/uris", "may not be set in conjunction with fetch")],
        ),
        (
            r#"{"networks":[{"mode":"host"}],"container":{"type":"DOCKER","docker":{"image":"i","network":"HOST"}}}"#,
            &[("/", "must not specify both container.docker.network and networks")],
        ),
        (
            r#"{"ipAddress":{"discovery":{}},"container":{"type":"DOCKER","docker":{"image":"i"}}}"#,
            &[("/ipAddress", "ipAddress/discovery is not allowed for Docker containers")],
        ),
        (
            r#"{"container":{"type":"DOCKER","docker":{"image":"i","credential":{"principal":"p"}}}}"#,
            &[("/container/docker/credential", "must be empty")],
        ),
        (
            r#"{"container":{"type":"MESOS","docker":{"image":"i","network":"HOST","parameters":[{"key":"k","value":"v"}],"portMappings":[]}}}"#,
            &[
                ("/container/docker/network", "must be empty"),
                ("/container/docker/parameters", "must be empty"),
                ("/container/docker/portMappings", "must be empty"),
            ],
        ),
    ];
    for (body, want) in cases {
        match app(parsed(body)) {
            Err(ApiError::Invalid(flaws)) => assert_eq!(pairs(&flaws), *want, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    for (body, want) in [
        (
            r#"{"container":{"type":"DOCKER","docker":{"image":"i","network":"NONE"}}}"#,
            "unsupported docker network type NONE",
        ),
        (
            r#"{"container":{"type":"DOCKER","docker":{"image":"i","network":"BRIDGE","portMappings":[{}]},"portMappings":[{}]}}"#,
            "cannot specify both portMappings and docker.portMappings",
        ),
        (
            r#"{"ipAddress":{"networkName":"n","discovery":{"ports":[{"name":"a"}]}},"container":{"type":"MESOS","portMappings":[{}]}}"#,
            "container.portMappings and ipAddress.discovery.ports must not both be set",
        ),
    ] {
        let error = app(parsed(body)).unwrap_err();
        assert_eq!((error.status(), error.body()), (422, json!({"message": want})), "{body}");
    }
}
