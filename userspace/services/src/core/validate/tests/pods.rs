//! The rules of pods. A case is what differs from a pod of one container, and what is said about it.

use serde_json::{Map, Value, json};

use super::super::super::error::{ApiError, Flaw};
use super::super::super::id::PathId;
use super::super::super::pod::Pod;
use super::super::super::pod_intake;
use super::{pairs, parsed};

fn read(body: &Map<String, Value>) -> Result<Pod, ApiError> {
    let id = body.get("id").and_then(Value::as_str).unwrap_or("/a");
    let pod = pod_intake::pod(&PathId::parse(id).unwrap(), body, "dev")?;
    let flaws = super::super::pod(&pod);
    if flaws.is_empty() { Ok(pod) } else { Err(ApiError::Invalid(flaws)) }
}

/// A pod of one container with `more` in the container and `outer` in the pod.
fn body(more: &str, outer: &str) -> Map<String, Value> {
    let mut container =
        parsed(r#"{"name":"c","resources":{"cpus":0.1,"mem":32},"exec":{"command":{"shell":"x"}}}"#);
    container.extend(parsed(more));
    let mut body =
        Map::from_iter([("id".to_owned(), json!("/a")), ("containers".to_owned(), json!([container]))]);
    body.extend(parsed(outer));
    body.retain(|_, value| !value.is_null());
    body
}

fn said(more: &str, outer: &str) -> Vec<Flaw> {
    match read(&body(more, outer)) {
        Ok(_) => Vec::new(),
        Err(ApiError::Invalid(flaws) | ApiError::BadFields(flaws)) => flaws,
        Err(other) => panic!("{more} {outer}: {other:?}"),
    }
}

/// What differs in the container, what in the pod, and what is said.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

fn check(cases: &[Case]) {
    for (more, outer, want) in cases {
        let flaws = said(more, outer);
        assert_eq!(pairs(&flaws), *want, "{more} {outer}");
    }
}

#[test]
fn rules_of_a_container() {
    let http = r#"{"endpoints":[{"name":"web"}],"healthCheck":{"http":{"endpoint":"web"}}}"#;
    check(&[
        ("{}", "{}", &[]),
        (http, "{}", &[]),
        (r#"{"bogus":1}"#, "{}", &[]),
        (r#"{"name":"Big"}"#, "{}", &[("/containers(0)/name", "error.pattern")]),
        (r#"{"resources":{"mem":1}}"#, "{}", &[("/containers(0)/resources/cpus", "error.path.missing")]),
        (
            r#"{"exec":null,"image":{"kind":"APPC","id":"i"}}"#,
            "{}",
            &[("/containers(0)/image/kind", "error.unknown.enum.literal")],
        ),
        (r#"{"exec":null,"image":{"kind":"DOCKER","id":"i"}}"#, "{}", &[]),
        (
            r#"{"exec":null}"#,
            "{}",
            &[("/containers(0)/exec", "a container without an image needs a command")],
        ),
        (
            r#"{"healthCheck":{"tcp":{"endpoint":"web"}}}"#,
            "{}",
            &[("/containers(0)/healthCheck/tcp/endpoint", "contained in the container endpoints")],
        ),
        (
            r#"{"healthCheck":{}}"#,
            "{}",
            &[("/containers(0)/healthCheck", "Only one of http, tcp, or command may be specified")],
        ),
        (
            r#"{"healthCheck":{"exec":{"command":{"shell":"x"}},"timeoutSeconds":9,"intervalSeconds":9}}"#,
            "{}",
            &[("/containers(0)/healthCheck/timeoutSeconds", "got 9, expected less than 9")],
        ),
        (
            r#"{"environment":{"A":{"secret":"s"}}}"#,
            "{}",
            &[("/containers(0)/environment/A/secret", "references an undefined secret")],
        ),
        (r#"{"environment":{"A":{"secret":"s"}}}"#, r#"{"secrets":{"s":{"source":"/x"}}}"#, &[]),
        (
            r#"{"artifacts":[{"uri":"http://a b"}]}"#,
            "{}",
            &[("/containers(0)/artifacts(0)/uri", "URI has invalid syntax.")],
        ),
        (
            r#"{"resourceLimits":{"cpus":0.05,"mem":"all"}}"#,
            "{}",
            &[
                (
                    "/containers(0)/resourceLimits/cpus",
                    "resource limit must be greater than or equal to requested resource (0.1)",
                ),
                (
                    "/containers(0)/resourceLimits/mem",
                    "'all' is an invalid resource limit. It must be 'unlimited' or a number",
                ),
            ],
        ),
    ]);
}

#[test]
fn rules_of_the_whole() {
    let mount = r#"{"volumeMounts":[{"name":"v","mountPath":"m"}]}"#;
    check(&[
        ("{}", r#"{"containers":[]}"#, &[("/containers", "error.minLength")]),
        ("{}", r#"{"containers":null}"#, &[("/containers", "error.path.missing")]),
        ("{}", r#"{"id":"/a/restart"}"#, &[("/id", super::RESERVED)]),
        (
            "{}",
            r#"{"containers":[{"name":"c","resources":{"cpus":1,"mem":1},"exec":{"command":{"shell":"x"}}},
                              {"name":"c","resources":{"cpus":1,"mem":1},"exec":{"command":{"shell":"x"}}}]}"#,
            &[("/containers", "container names must be unique")],
        ),
        (
            mount,
            "{}",
            &[("/containers(0)/volumeMounts(0)/name", "Referenced Volume in VolumeMount should exist")],
        ),
        (mount, r#"{"volumes":[{"name":"v"}]}"#, &[]),
        (
            "{}",
            r#"{"volumes":[{"name":"v"}]}"#,
            &[("/volumes(0)", "volume must be referenced by at least one container")],
        ),
        (mount, r#"{"volumes":[{"name":"v"},{"name":"v"}]}"#, &[("/volumes", "volume names must be unique")]),
        (
            r#"{"endpoints":[{"name":"a","containerPort":80}]}"#,
            "{}",
            &[(
                "/containers(0)/endpoints(0)/containerPort",
                "is not allowed when using host-mode networking",
            )],
        ),
        (
            r#"{"endpoints":[{"name":"a"}]}"#,
            r#"{"networks":[{"mode":"container","name":"n"}]}"#,
            &[(
                "/containers(0)/endpoints(0)/containerPort",
                "is required when using container-mode networking",
            )],
        ),
        (
            r#"{"endpoints":[{"name":"a","hostPort":8080},{"name":"a","hostPort":8080}]}"#,
            "{}",
            &[
                ("/", "endpoint names nust be unique across all containers"),
                ("/", "host ports must be unique across all containers"),
            ],
        ),
        (
            "{}",
            r#"{"networks":[{"mode":"host"},{"mode":"container","name":"n"}]}"#,
            &[("/networks", super::NETWORKS)],
        ),
        (
            "{}",
            r#"{"scheduling":{"unreachableStrategy":{"inactiveAfterSeconds":9,"expungeAfterSeconds":8}}}"#,
            &[(
                "/scheduling/unreachableStrategy/inactiveAfterSeconds",
                "inactiveAfterSeconds (9) must be less or equal to expungeAfterSeconds, which is 8",
            )],
        ),
        ("{}", r#"{"scaling":{"instances":-1}}"#, &[("/scaling/instances", "error.min")]),
        ("{}", r#"{"scaling":{"kind":"spread"}}"#, &[("/scaling/kind", "error.unknown.enum.literal")]),
    ]);
}

/// What Marathon fills in is there, and what was given comes back.
#[test]
fn defaults() {
    let shown = read(&body(r#"{"endpoints":[{"name":"a"}]}"#, "{}")).unwrap().to_json();
    assert_eq!(shown["networks"], json!([{"mode": "host"}]));
    assert_eq!(shown["scaling"], json!({"kind": "fixed", "instances": 1}));
    assert_eq!(shown["executorResources"], json!({"cpus": 0.1, "mem": 32, "disk": 10}));
    assert_eq!(shown["role"], "dev");
    assert_eq!(
        shown["containers"][0]["endpoints"],
        json!([{"name": "a", "hostPort": 0, "protocol": ["tcp"]}])
    );
    let wide = r#"{"scheduling":{"backoff":{"backoff":3},"placement":{"constraints":[{"fieldName":"hostname","operator":"UNIQUE"}]},
        "unreachableStrategy":"disabled"},"executorResources":{"cpus":0.2}}"#;
    let shown = read(&body("{}", wide)).unwrap().to_json();
    assert_eq!(
        shown["scheduling"]["backoff"],
        json!({"backoff": 3, "backoffFactor": 1.15, "maxLaunchDelay": 300})
    );
    assert_eq!(shown["scheduling"]["unreachableStrategy"], "disabled");
    assert_eq!(
        shown["scheduling"]["placement"]["constraints"],
        json!([{"fieldName": "hostname", "operator": "UNIQUE"}])
    );
    assert_eq!(shown["executorResources"], json!({"cpus": 0.2, "mem": 32, "disk": 10}));
}
