//! Every rule, with its path and its words. A case is an app's body and what is said about it; where a body has nothing to run, `cmd` is
//! added.

mod autoscale;
mod odd;
mod pods;
mod reading;
mod shown;
mod volumes;

use serde_json::{Map, Value, json};

use super::super::app::App;
use super::super::error::{ApiError, Flaw};
use super::super::id::PathId;
use super::super::update;

fn app(mut body: Map<String, Value>) -> Result<App, ApiError> {
    let nothing = ["cmd", "args", "container"].iter().all(|key| !body.contains_key(*key));
    if nothing && body.remove("nothing").is_none() {
        body.insert("cmd".to_owned(), json!("run"));
    }
    let id = body.get("id").and_then(Value::as_str).unwrap_or("/a");
    let mut app = App::new(PathId::parse(id).unwrap(), "dev");
    update::apply(&mut app, &body, "dev").map(|()| app)
}

fn parsed(text: &str) -> Map<String, Value> {
    match serde_json::from_str(text) {
        Ok(Value::Object(body)) => body,
        other => panic!("{text}: {other:?}"),
    }
}

fn pairs(flaws: &[Flaw]) -> Vec<(&str, &str)> {
    flaws.iter().map(|flaw| (flaw.path.as_str(), flaw.error.as_str())).collect()
}

type Case = (&'static str, &'static [(&'static str, &'static str)]);

const SEGMENTS: &str = super::super::id::SEGMENT_RULE;
const RUNS: &str = "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.";
const PORT_INDEX: &str =
    "Health check port indices must address an element of the ports array or container port mappings.";
const CHECK_INDEX: &str =
    "check port index must address an element of the ports array or container port mappings.";
const NETWORKS: &str =
    "May specify a single host network, single bridge network, or else 1-to-n container networks";
const SEVERAL: &str = "networkNames must be a single item list when hostPort is specified and more than 1 container network is defined";
const IPV6: &str = "IPv6 can only be used for container type DOCKER and Mesos http/https/tcp health checks";
const OPTION: &str = r"must match regular expression '^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?/[A-Za-z0-9](?:[-A-Za-z0-9\._:]*[A-Za-z0-9])?$'";
const OPERATOR: &str =
    "operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER, UNLIKE or IS";
const TEXT_ONLY: &str = "IS only supports Mesos text and float values (see http://mesos.apache.org/documentation/latest/attributes-resources/)";
const MIGRATION: &str = "DCOS_PACKAGE_FRAMEWORK_NAME and DCOS_MIGRATION_API_PATH must be defined when using DCOS_MIGRATION_API_VERSION";
const RESERVED: &str =
    "must not end with any of the following reserved keywords: restart, tasks, versions, ., ..";

#[test]
fn rules_of_what_runs() {
    rules(&[
        (r#"{"cmd":"x"}"#, &[]),
        (r#"{"nothing":0}"#, &[("/", RUNS)]),
        (r#"{"cmd":"x","args":["y"]}"#, &[("/", RUNS)]),
        (r#"{"cmd":"x","args":[]}"#, &[]),
        (r#"{"container":{"type":"MESOS"}}"#, &[("/", RUNS)]),
        (r#"{"container":{"type":"MESOS","docker":{"image":"i"}}}"#, &[]),
        (
            r#"{"container":{"type":"DOCKER","volumes":[]},"cmd":"x"}"#,
            &[("/container/docker", "not defined")],
        ),
        (r#"{"container":{"volumes":[]},"cmd":"x"}"#, &[("/container/docker", "not defined")]),
        (r#"{"id":"/a/restart"}"#, &[("/id", RESERVED)]),
        (r#"{"id":"/a/tasks"}"#, &[("/id", RESERVED)]),
        (r#"{"id":"/a/versions"}"#, &[("/id", RESERVED)]),
        (
            r#"{"id":"/"}"#,
            &[("/id", "Path must contain at least one path element"), ("/", "must not be root")],
        ),
        (r#"{"dependencies":["/b/restart"]}"#, &[("/dependencies(0)", RESERVED)]),
        (r#"{"executor":"//cmd"}"#, &[]),
        (
            r#"{"executor":"/a//b"}"#,
            &[("/executor", "must fully match regular expression '^(//cmd)|(/?[^/]+(/[^/]+)*)|$'")],
        ),
        (
            r#"{"executor":"/my/executor"}"#,
            &[("/executor", "custom executors are not supported: leave it empty or use '//cmd'")],
        ),
        (r#"{"env":{"A":{"secret":"s"}}}"#, &[("/env/A/secret", "references an undefined secret")]),
        (r#"{"env":{"A":{"secret":"s"},"b-c":"any name"},"secrets":{"s":{"source":"p/q"}}}"#, &[]),
        (r#"{"env":{"":"x"}}"#, &[("/env/keys(0)", "must not be empty")]),
        (r#"{"secrets":{"":{"source":"x"}}}"#, &[("/secrets/keys(0)", "must not be empty")]),
        (
            r#"{"fetch":[{"uri":"http://h/%"},{"uri":"a.tgz"}]}"#,
            &[("/fetch(0)/uri", "URI has invalid syntax.")],
        ),
        (
            r#"{"cpus":2,"resourceLimits":{"cpus":1,"mem":"unlimited"}}"#,
            &[(
                "/resourceLimits/cpus",
                "resource limit must be greater than or equal to requested resource (2.0)",
            )],
        ),
        (
            r#"{"resourceLimits":{"mem":"Infinity","cpus":1}}"#,
            &[(
                "/resourceLimits/mem",
                "'Infinity' is an invalid resource limit. It must be 'unlimited' or a number",
            )],
        ),
        (r#"{"labels":{"DCOS_MIGRATION_API_VERSION":"v1"}}"#, &[("/", MIGRATION)]),
        (
            r#"{"labels":{"DCOS_MIGRATION_API_VERSION":"v1","DCOS_MIGRATION_API_PATH":"/p","DCOS_PACKAGE_FRAMEWORK_NAME":"n"}}"#,
            &[],
        ),
        (
            r#"{"gpus":1,"container":{"type":"DOCKER","docker":{"image":"i"}}}"#,
            &[("/", "GPU resources only work with the Mesos containerizer")],
        ),
        (
            r#"{"container":{"type":"MESOS","docker":{"image":"i","pullConfig":{"secret":"s"}}}}"#,
            &[("/container/docker/pullConfig", "pullConfig.secret must refer to an existing secret")],
        ),
        (
            r#"{"secrets":{"s":{"source":"x"}},"container":{"type":"DOCKER","docker":{"image":"i","pullConfig":{"secret":"s"}}}}"#,
            &[("/container/docker/pullConfig", "pullConfig is not supported with Docker containerizer")],
        ),
        (r#"{"unheard":{"of":1},"cpu":"typo"}"#, &[]),
    ]);
    let long = format!("/{}", "a".repeat(200));
    rules_of(json!({"id": long}), &[("/id", "must not be longer than 200 characters")]);
    match app(parsed(r#"{"dependencies":["/B"]}"#)) {
        Err(ApiError::Invalid(flaws)) => assert_eq!(pairs(&flaws), [("/dependencies(0)", SEGMENTS)]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rules_of_networks_and_ports() {
    rules(&[
        (
            r#"{"portDefinitions":[{"port":1},{"port":1},{"port":0},{"port":0}]}"#,
            &[("/portDefinitions", "Ports must be unique.")],
        ),
        (
            r#"{"portDefinitions":[{"name":"a"},{"name":"a"}]}"#,
            &[("/portDefinitions", "Port names must be unique.")],
        ),
        (
            r#"{"networks":[{"mode":"container","name":"n"}],"container":{"type":"MESOS","portMappings":[{"name":"a"},{"name":"a"}]},"cmd":"x"}"#,
            &[("/container/portMappings", "Port names must be unique.")],
        ),
        (
            r#"{"networks":[{"mode":"host","name":"n"}]}"#,
            &[("/networks", "Host networks may not have names or labels")],
        ),
        (
            r#"{"networks":[{"mode":"host","labels":{"a":"b"}}]}"#,
            &[("/networks", "Host networks may not have names or labels")],
        ),
        (
            r#"{"networks":[{"mode":"container/bridge","name":"n"}]}"#,
            &[("/networks", "Bridge networks may not have names")],
        ),
        (
            r#"{"networks":[{"mode":"container","name":"n"},{"mode":"container","name":"n"}]}"#,
            &[("/networks", "Duplicate networks are not allowed")],
        ),
        (r#"{"networks":[{"mode":"host"},{"mode":"container/bridge"}]}"#, &[("/networks", NETWORKS)]),
        (r#"{"networks":[{"mode":"host"},{"mode":"host"}]}"#, &[("/networks", NETWORKS)]),
        (
            r#"{"networks":[{"mode":"container"}]}"#,
            &[("/networks", "Network name must be specified when container network is selected.")],
        ),
        (
            r#"{"networks":[{"mode":"container","name":"m"},{"mode":"container","name":"n"}],"container":{"docker":{"image":"i"}}}"#,
            &[("/", "may only specify a single container network when using the Docker container engine")],
        ),
        (
            r#"{"networks":[{"mode":"container","name":"m"},{"mode":"container","name":"n"}],"container":{"type":"MESOS","portMappings":[{"hostPort":0},{"hostPort":0,"networkNames":["m"]},{}]},"cmd":"x"}"#,
            &[("/container/portMappings(0)", SEVERAL)],
        ),
        (
            r#"{"networks":[{"mode":"container","name":"m"}],"container":{"type":"MESOS","portMappings":[{"networkNames":["o"]}]},"cmd":"x"}"#,
            &[("/container/portMappings(0)/networkNames(0)", "is not one of (m)")],
        ),
    ]);
}

#[test]
fn rules_of_checks() {
    rules(&[
        (r#"{"healthChecks":[{"protocol":"MESOS_HTTP"}]}"#, &[]),
        (
            r#"{"portDefinitions":[],"healthChecks":[{"protocol":"MESOS_HTTP"}]}"#,
            &[("/healthChecks(0)", PORT_INDEX)],
        ),
        (r#"{"healthChecks":[{"protocol":"TCP","portIndex":1}]}"#, &[("/healthChecks(0)", PORT_INDEX)]),
        (r#"{"portDefinitions":[],"healthChecks":[{"protocol":"HTTP","port":80}]}"#, &[]),
        (r#"{"portDefinitions":[],"healthChecks":[{"protocol":"COMMAND","command":{"value":"true"}}]}"#, &[]),
        (r#"{"healthChecks":[{"protocol":"COMMAND"}]}"#, &[("/healthChecks(0)/command", "not defined")]),
        (
            r#"{"healthChecks":[{"command":{"value":"true"}}]}"#,
            &[("/healthChecks(0)/command", "is only for the protocol COMMAND")],
        ),
        (
            r#"{"healthChecks":[{"protocol":"MESOS_HTTP"},{"protocol":"MESOS_TCP"}]}"#,
            &[("/", "AppDefinition can contain at most one Mesos health check")],
        ),
        (
            r#"{"healthChecks":[{"protocol":"HTTP"},{"protocol":"TCP"}]}"#,
            &[("/healthChecks", "the agent runs one health check a task: give one")],
        ),
        (
            r#"{"healthChecks":[{"protocol":"MESOS_HTTP","ipProtocol":"IPv6"}]}"#,
            &[("/healthChecks(0)", IPV6)],
        ),
        (
            r#"{"healthChecks":[{"protocol":"HTTP","ipProtocol":"IPv6"}],"container":{"docker":{"image":"i"}}}"#,
            &[("/healthChecks(0)", IPV6)],
        ),
        (
            r#"{"healthChecks":[{"protocol":"MESOS_TCP","ipProtocol":"IPv6"}],"container":{"docker":{"image":"i"}}}"#,
            &[],
        ),
        (r#"{"check":{"tcp":{"portIndex":0}}}"#, &[]),
        (r#"{"check":{"tcp":{"portIndex":1}}}"#, &[("/check", CHECK_INDEX)]),
        (r#"{"check":{"exec":{"command":{"shell":"true"}}}}"#, &[]),
        (r#"{"check":{}}"#, &[("/check", "must have exactly one of http, tcp and exec")]),
        (r#"{"check":{"http":{"scheme":"HTTPS"}}}"#, &[("/check/http/scheme", "does not equal HTTP")]),
        (
            r#"{"check":{"http":{}},"container":{"docker":{"image":"i"}}}"#,
            &[("/", "AppDefinition must not use 'checks' if using docker")],
        ),
        (r#"{"readinessChecks":[{"portName":"default"}]}"#, &[]),
        (
            r#"{"readinessChecks":[{}]}"#,
            &[("/readinessChecks(0)/portName", "No port definition reference for portName http-api")],
        ),
        (
            r#"{"readinessChecks":[{"portName":"default","timeoutSeconds":30}]}"#,
            &[("/readinessChecks(0)/timeoutSeconds", "got 30, expected less than 30")],
        ),
        (
            r#"{"readinessChecks":[{"portName":"default"},{"portName":"default"}]}"#,
            &[("/readinessChecks/size", "got 2, expected 1 or less")],
        ),
    ]);
}

#[test]
fn rules_of_scheduling() {
    rules(&[
        (
            r#"{"constraints":[["hostname","UNIQUE"],["rack","MAX_PER","2"],["@zone","GROUP_BY"],["a","IS","b.c/1"]]}"#,
            &[],
        ),
        (
            r#"{"constraints":[["hostname"]]}"#,
            &[("/constraints(0)", "Each constraint must have either 2 or 3 fields")],
        ),
        (
            r#"{"constraints":[["a","IS","b","c"]]}"#,
            &[("/constraints(0)", "Each constraint must have either 2 or 3 fields")],
        ),
        (r#"{"constraints":[["","UNIQUE"]]}"#, &[("/constraints(0)", "illegal constraint specification")]),
        (
            r#"{"constraints":[["hostname","NEAR"],["a","unique"]]}"#,
            &[("/constraints(0)", OPERATOR), ("/constraints(1)", OPERATOR)],
        ),
        (r#"{"constraints":[["a","UNIQUE","1"]]}"#, &[("/constraints(0)", "UNIQUE does not accept a value")]),
        (
            r#"{"constraints":[["a","GROUP_BY","two"]]}"#,
            &[("/constraints(0)", "GROUP BY must define an integer value or else no value at all")],
        ),
        (
            r#"{"constraints":[["a","MAX_PER"],["b","MAX_PER","x"]]}"#,
            &[
                ("/constraints(0)", "MAX_PER requires an integer value"),
                ("/constraints(1)", "MAX_PER requires an integer value"),
            ],
        ),
        (
            r#"{"constraints":[["a","LIKE"],["b","UNLIKE"]]}"#,
            &[
                ("/constraints(0)", "LIKE and UNLIKE require a non-empty, regular expression value"),
                ("/constraints(1)", "LIKE and UNLIKE require a non-empty, regular expression value"),
            ],
        ),
        (
            r#"{"constraints":[["a","LIKE","("]]}"#,
            &[("/constraints(0)", "is not a valid regular expression")],
        ),
        (r#"{"constraints":[["a","IS","{b}"]]}"#, &[("/constraints(0)", TEXT_ONLY)]),
        (r#"{"acceptedResourceRoles":["*","dev"]}"#, &[]),
        (r#"{"acceptedResourceRoles":[]}"#, &[("/acceptedResourceRoles", "must not be empty")]),
        (
            r#"{"acceptedResourceRoles":["*","ops"]}"#,
            &[("/acceptedResourceRoles", "acceptedResourceRoles can only contain * and dev")],
        ),
        (
            r#"{"role":"*","acceptedResourceRoles":["ops"]}"#,
            &[("/acceptedResourceRoles", "acceptedResourceRoles can only contain *")],
        ),
        (r#"{"role":"a b"}"#, &[("/role", "A role name must not include a space (\\x20) character.")]),
        (r#"{"role":"a/b","acceptedResourceRoles":["a/b"]}"#, &[]),
        (r#"{"role":"a//b"}"#, &[("/role", "A role name must not be \"\".")]),
        (r#"{"role":"-a"}"#, &[("/role", "A role name must not start with a '-'.")]),
        (r#"{"role":".."}"#, &[("/role", "A role name must not be \"..\".")]),
        (r#"{"unreachableStrategy":"disabled"}"#, &[]),
        (
            r#"{"unreachableStrategy":{"inactiveAfterSeconds":9,"expungeAfterSeconds":8}}"#,
            &[(
                "/unreachableStrategy/inactiveAfterSeconds",
                "inactiveAfterSeconds (9) must be less or equal to expungeAfterSeconds, which is 8",
            )],
        ),
        (
            r#"{"instances":2,"labels":{"MARATHON_SINGLE_INSTANCE_APP":"true"}}"#,
            &[
                ("/", "Single instance app may only have one instance"),
                ("/upgradeStrategy/minimumHealthCapacity", "got 1.0, expected 0.0"),
                ("/upgradeStrategy/maximumOverCapacity", "got 1.0, expected 0.0"),
            ],
        ),
        (
            r#"{"labels":{"MARATHON_SINGLE_INSTANCE_APP":"true"},"upgradeStrategy":{"minimumHealthCapacity":0,"maximumOverCapacity":0}}"#,
            &[],
        ),
    ]);
}

#[test]
fn what_is_too_large_is_not_kept() {
    let flaws = super::validate(
        &app(parsed(&json!({"env": {"A": "x".repeat(super::MOST_BYTES)}}).to_string())).unwrap(),
    );
    assert!(flaws.len() == 1 && flaws[0].error.contains("at most 1048576 are kept"), "{flaws:?}");
}

fn rules(cases: &[Case]) {
    for (body, want) in cases {
        rules_of(Value::Object(parsed(body)), want);
    }
}

fn rules_of(body: Value, want: &[(&str, &str)]) {
    let Value::Object(fields) = body.clone() else { panic!("{body}") };
    let app = app(fields).unwrap_or_else(|error| panic!("{body}: {error:?}"));
    let mut flaws = super::validate(&app);
    flaws.retain(|flaw| flaw.error != RUNS || want.iter().any(|(_, error)| *error == RUNS));
    assert_eq!(pairs(&flaws), want, "{body}");
}
