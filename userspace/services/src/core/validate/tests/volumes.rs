//! Volumes, and apps that live with them.

use serde_json::Value;

use super::super::changes;
use super::{OPTION, app, pairs, parsed, rules_of};

/// A container with one volume.
fn with(volume: &str, more: &str) -> Value {
    let text = format!(r#"{{"cmd":"x","container":{{"type":"MESOS","volumes":[{volume}]}}{more}}}"#);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn rules_of_volumes() {
    let path = "/container/volumes(0)";
    let persistent = |info: &str| format!(r#"{{"containerPath":"d","mode":"RW","persistent":{info}}}"#);
    let in_volume = |more: &str| format!("{path}{more}");
    for (volume, more, at, error) in [
        (
            r#"{"containerPath":"/s","secret":"s"}"#.to_owned(),
            "",
            in_volume(""),
            "volume.secret must refer to an existing secret",
        ),
        (persistent(r#"{"size":0}"#), "", in_volume("/persistent/size"), "got 0, expected more than 0"),
        (
            persistent(r#"{"size":5,"maxSize":9}"#),
            "",
            in_volume("/persistent"),
            "Only mount volumes can have maxSize",
        ),
        (
            persistent(r#"{"size":5,"type":"mount","maxSize":5}"#),
            "",
            in_volume("/persistent"),
            "Max size must be larger than size",
        ),
        (
            persistent(r#"{"size":5,"constraints":[["path","LIKE","/a"]]}"#),
            "",
            in_volume("/persistent"),
            "Constraints on root volumes are not supported",
        ),
        (
            persistent(r#"{"size":5,"type":"mount","constraints":[["path","LIKE","("]]}"#),
            "",
            in_volume("/persistent/constraints(0)"),
            "Invalid regular expression",
        ),
        (
            persistent(r#"{"size":5,"type":"mount","constraints":[["path","IS","/a"]]}"#),
            "",
            in_volume("/persistent/constraints(0)"),
            "Operator must be one of LIKE, UNLIKE",
        ),
        (
            persistent(r#"{"size":5,"type":"mount","constraints":[["disk","LIKE","a"]]}"#),
            "",
            in_volume("/persistent/constraints(0)"),
            "Unsupported constraint disk,LIKE,a",
        ),
        (
            r#"{"containerPath":"a/b","mode":"RW","persistent":{"size":1}}"#.to_owned(),
            "",
            in_volume("/containerPath"),
            "value must not contain \"/\"",
        ),
        (
            r#"{"containerPath":"..","mode":"RW","persistent":{"size":1}}"#.to_owned(),
            "",
            in_volume("/containerPath"),
            "can not be one of (.,..)",
        ),
        (
            r#"{"containerPath":"a","mode":"RO","persistent":{"size":1}}"#.to_owned(),
            "",
            in_volume("/mode"),
            "does not equal RW",
        ),
        (
            persistent(r#"{"size":1}"#),
            r#","upgradeStrategy":{"minimumHealthCapacity":1,"maximumOverCapacity":1}"#,
            "/upgradeStrategy/maximumOverCapacity".to_owned(),
            "got 1.0, expected 0.0",
        ),
        (
            persistent(r#"{"size":1}"#),
            r#","unreachableStrategy":{"inactiveAfterSeconds":1,"expungeAfterSeconds":1}"#,
            "/".to_owned(),
            "unreachableStrategy must be disabled for resident tasks",
        ),
        (
            persistent(r#"{"size":1}"#),
            r#","role":"*""#,
            "/role".to_owned(),
            "Resident apps cannot have the role *",
        ),
        (
            persistent(r#"{"size":1}"#),
            r#","acceptedResourceRoles":["dev"]"#,
            "/acceptedResourceRoles".to_owned(),
            "A resident app must have `acceptedResourceRoles = [\"*\"]`.",
        ),
        (
            persistent(r#"{"size":1,"type":"path"}"#),
            "",
            in_volume("/persistent/type"),
            "persistent volumes are made on the disk of the agent's working folder (root) only",
        ),
    ] {
        rules_of(with(&volume, more), &[(&at, error)]);
    }
}

#[test]
fn rules_of_volumes_of_drivers() {
    let driven = |info: &str| format!(r#"{{"containerPath":"/d","mode":"RW","external":{info}}}"#);
    let in_volume = |more: &str| format!("/container/volumes(0){more}");
    for (volume, more, at, error) in [
        (driven(r#"{"name":"v","options":{"dvdi/driver":"d"}}"#), "", in_volume("/external/provider"), "not defined"),
        (driven(r#"{"name":"v","provider":"x","options":{"dvdi/driver":"d"}}"#), "", in_volume("/external/provider"), "is unknown provider"),
        (
            driven(r#"{"name":"v","provider":"","options":{"dvdi/driver":"d"}}"#),
            "",
            in_volume("/external/provider"),
            "must match regular expression '^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?$'",
        ),
        (driven(r#"{"name":"","provider":"dvdi","options":{"dvdi/driver":"d"}}"#), "", in_volume("/external/name"), "must not be empty"),
        (
            driven(r#"{"name":"v","provider":"dvdi","options":{"dvdi/driver":""}}"#),
            "",
            in_volume("/external/options/\"dvdi/driver\""),
            "not defined",
        ),
        (driven(r#"{"name":"v","provider":"dvdi","options":{"dvdi/driver":"d","o":"x"}}"#), "", in_volume("/external/options/keys(1)"), OPTION),
        (
            r#"{"containerPath":"/d","mode":"RO","external":{"name":"v","provider":"dvdi","options":{"dvdi/driver":"d"}}}"#.to_owned(),
            "",
            in_volume("/mode"),
            "does not equal RW",
        ),
        (
            driven(r#"{"name":"v","provider":"dvdi","options":{"dvdi/driver":"d"}}"#),
            r#","instances":2"#,
            "/".to_owned(),
            "Number of instances is limited to 1 when declaring DVDI volumes in app [/a]",
        ),
        (
            driven(r#"{"name":"v","provider":"csi","options":{"pluginName":"p","capability":{"accessMode":"SINGLE_NODE_WRITER","accessType":"block"}}}"#),
            "",
            in_volume("/external/provider"),
            "csi volumes are not supported: the agent has volume drivers (dvdi)",
        ),
    ] {
        rules_of(with(&volume, more), &[(&at, error)]);
    }
    let one = driven(r#"{"name":"v","provider":"dvdi","options":{"dvdi/driver":"d"}}"#);
    rules_of(with(&format!("{one},{one}"), ""), &[("/container/volumes", "Volume names must be unique")]);
    let shared = driven(
        r#"{"name":"v","provider":"dvdi","shared":true,"options":{"dvdi/driver":"d","dvdi/size":"3"}}"#,
    );
    rules_of(with(&shared, r#","instances":3"#), &[]);
    let docker = r#"{"container":{"type":"DOCKER","docker":{"image":"i"},"volumes":[{"containerPath":"/d","mode":"RO",
        "external":{"name":"v","size":1,"provider":"dvdi","options":{"dvdi/driver":"d","dvdi/iops":"1"}}}]}}"#;
    rules_of(
        serde_json::from_str(docker).unwrap(),
        &[
            ("/container/volumes(0)/external/options", "must only contain dvdi/driver"),
            ("/container/volumes(0)/external/size", "must be undefined for Docker containers"),
        ],
    );
}

#[test]
fn apps_with_volumes_keep_what_they_have() {
    let made = |more: &str| {
        let volume = r#"{"containerPath":"d","mode":"RW","persistent":{"size":1}}"#;
        let Value::Object(body) = with(volume, more) else { panic!() };
        app(body).unwrap()
    };
    let (before, why) = (made(""), "change resource requirements");
    assert_eq!(changes(&before, &made(r#","instances":9,"env":{"A":"1"}"#)), []);
    for (more, path, words) in [
        (r#","cpus":2"#, "/cpus", why),
        (r#","mem":2"#, "/mem", why),
        (r#","disk":2"#, "/disk", why),
        (r#","gpus":2"#, "/gpus", why),
        (r#","portDefinitions":[]"#, "/", "change host ports"),
    ] {
        let flaws = changes(&before, &made(more));
        assert_eq!(flaws.len(), 1, "{more}: {flaws:?}");
        assert!(flaws[0].path == path && flaws[0].error.contains(words), "{more}: {flaws:?}");
    }
    let flaws = changes(&before, &app(parsed("{}")).unwrap());
    assert_eq!(pairs(&flaws), [("/", "Persistent volumes can not be changed!")]);
}
