//! Golden lines for the routing decision.

use std::fmt::Write as _;

use serde_json::json;

use super::*;

fn table() -> Table {
    let app = |id: &str, name: &str, state: &str, keep: bool| {
        json!({
            "id": id,
            "labels": {
                "DCOS_SERVICE_NAME": name, "DCOS_SERVICE_SCHEME": "http", "DCOS_SERVICE_PORT_INDEX": "0",
                "DCOS_SERVICE_REWRITE_REQUEST_URLS": if keep { "false" } else { "true" },
            },
            "networks": [{"mode": "host"}],
            "tasks": [{"id": format!("{name}.1"), "state": state, "host": "10.0.0.2", "ports": [31000]}],
        })
    };
    let mut table = Table::default();
    table.put_all(&json!({"apps": [
        app("/hello", "hello", "TASK_RUNNING", false), app("/g/deep", "group/deep/app", "TASK_RUNNING", true),
        app("/still", "still", "TASK_STAGING", false), app("/thief", "marathon", "TASK_RUNNING", false),
        app("/thief2", "metronome", "TASK_RUNNING", false), app("/long", "group", "TASK_STAGING", false),
    ]}));
    table.put_frameworks(&json!({"frameworks": [
        {"id": "fw-1", "name": "kafka", "webui_url": "http://10.0.0.9:90/ui"},
        {"id": "fw-2", "name": "dull", "webui_url": ""},
    ]}));
    table
}

fn show(routed: &Routed) -> String {
    let mut text = match &routed.access {
        Access::Anyone => "anyone".to_owned(),
        Access::Account => "account".to_owned(),
        Access::Permission(resource) => resource.trim_start_matches("dcos:adminrouter:").to_owned(),
    };
    match &routed.decision {
        Decision::Relay(relay) => {
            let target = match &relay.target {
                Target::Service { key, secure, instances } => {
                    let all: Vec<String> =
                        instances.iter().map(|i| format!("{}:{}", i.host, i.port)).collect();
                    format!("{key}{}[{}]", if *secure { "+tls" } else { "" }, all.join(","))
                }
                other => format!("{other:?}"),
            };
            let _ = write!(text, " -> {target} {} ({}={})", relay.path, relay.public, relay.private);
        }
        other => {
            let _ = write!(text, " -> {other:?}");
        }
    }
    text
}

const GOLDEN: &str = r#"
GET / => anyone -> Page(Home)
HEAD // => anyone -> Page(Home)
POST / => anyone -> ReadOnly
CONNECT /mesos/ => anyone -> NoSuchMethod
TRACE / => anyone -> NoSuchMethod
GET * => anyone -> Bad(Form)
GET /mesos/../acs => anyone -> Bad(Dots)
GET /service/hello/%2e%2e/x => anyone -> Bad(Dots)
GET /service/hello/a%2f..%2f..%2fmesos => anyone -> Bad(Dots)
GET /%00 => anyone -> Bad(Control)
POST /acs/api/v1/auth/login => anyone -> Identity /acs/api/v1/auth/login (/acs=/acs)
GET /acs/api/v1/auth/providers => anyone -> Identity /acs/api/v1/auth/providers (/acs=/acs)
GET /acs/api/v1/authority => acs -> Identity /acs/api/v1/authority (/acs=/acs)
PUT /acs/api/v1/acls/dcos:x%252Fy/users/ann/full => acs -> Identity /acs/api/v1/acls/dcos:x%252Fy/users/ann/full (/acs=/acs)
GET /acs/api/v1%2fauth/users => account -> Nothing
GET /acs/internal/v1/policy => account -> Nothing
GET /internal/v1/policy => account -> Nothing
GET /login => anyone -> Page(Login)
GET /assets/gateway.js => anyone -> Page(Script)
GET /assets/other => anyone -> Nothing
GET /ca/dcos-ca.crt => anyone -> Page(Ca)
GET /ca/api/v2/info => account -> Nothing
GET /dcos-metadata/ui-config.json => anyone -> Identity /acs/api/v1/uiconfig (/dcos-metadata/ui-config.json=/acs/api/v1/uiconfig)
GET /dcos-metadata/dcos-version.json => anyone -> Page(Version)
GET /dcos-metadata/bootstrap-config.json => account -> Nothing
GET /metadata => account -> Page(Metadata)
HEAD /pkgpanda/active.buildinfo.full.json => account -> Page(BuildInfo)
PUT /metadata => account -> ReadOnly
GET /cluster/v1/links => account -> Nothing
GET /mesos => ops:mesos -> Moved("/mesos/")
GET /mesos/ => ops:mesos -> Master / (/mesos=)
GET /mesos/master/state.json => ops:mesos -> Master /master/state.json (/mesos=)
POST //mesos//api/v1 => ops:mesos -> Master //api/v1 (/mesos=)
GET /slave/20f-S1/state.json => ops:slave -> Agent("20f-S1") /state.json (/slave/20f-S1=)
GET /agent/20f%2DS1/slave%281%29/state => ops:slave -> Agent("20f-S1") /slave%281%29/state (/agent/20f%2DS1=)
GET /agent/20f-S1 => ops:slave -> Agent("20f-S1") / (/agent/20f-S1=)
GET /agent/ => ops:slave -> Nothing
GET /agent/a%20b/x => ops:slave -> Nothing
GET /agent/a@evil.example/x => ops:slave -> Nothing
GET /service/marathon => service:marathon -> Moved("/service/marathon/")
GET /service/marathon/v2/apps//a/b => service:marathon -> Services /v2/apps//a/b (/service/marathon=)
GET /marathon/v2/info => service:marathon -> Services /v2/info (/marathon=)
GET /marathon => service:marathon -> Services / (/marathon=)
GET /service => account -> NoService("")
GET /service/ => account -> NoService("")
GET /service/hello => service:hello -> Moved("/service/hello/")
GET //service/evil.example => service:evil.example -> Moved("/service/evil.example/")
GET /service/nobody => service:nobody -> Moved("/service/nobody/")
GET /service/hello/ => service:hello -> hello[10.0.0.2:31000] / (/service/hello=)
GET /service/h%65llo/a%2Fb//c => service:hello -> hello[10.0.0.2:31000] /a%2Fb//c (/service/h%65llo=)
GET /service/group/deep/app/x => service:group/deep/app -> app.deep.group[10.0.0.2:31000] /service/group/deep/app/x (/service/group/deep/app=/service/group/deep/app)
GET /service/app.deep.group/x => service:app.deep.group -> app.deep.group[10.0.0.2:31000] /service/app.deep.group/x (/service/app.deep.group=/service/app.deep.group)
GET /service/group/other => service:group -> group[] /other (/service/group=)
GET /service/still/x => service:still -> still[] /x (/service/still=)
GET /service/metronome/v1/jobs => service:metronome -> NoService("metronome")
GET /service/kafka/v1/plans => service:kafka -> Framework("http://10.0.0.9:90") /ui/v1/plans (/service/kafka=/ui)
GET /service/fw-1/ => service:fw-1 -> Framework("http://10.0.0.9:90") /ui/ (/service/fw-1=/ui)
GET /service/dull/ => service:dull -> NoService("dull")
GET /service/nobody/x => service:nobody -> NoService("nobody")
POST /package/search => package -> Catalog /package/search (/package=/package)
POST /package/repository/list => package -> Catalog /package/repository/list (/package=/package)
POST /cosmos/service/describe => package -> Catalog /service/describe (/cosmos/service=/service)
GET /cosmos/other => account -> Nothing
GET /capabilities => account -> Catalog /capabilities (/capabilities=/capabilities)
GET /mesos_dns/v1/hosts/leader.mesos => ops:mesos-dns -> Discovery /v1/hosts/leader.mesos (/mesos_dns=)
GET /net/v1/vips => ops:networking -> Discovery /v1/vips (/net=)
GET /system/health/v1 => ops:system-health -> Page(Health)
GET /system/health/v1/units => ops:system-health -> Page(HealthUnits)
GET /system/health/v1/nodes => ops:system-health -> Page(HealthNodes)
GET /system/health/v1/nodes/x => account -> Nothing
GET /system/v1/agent/S1/metrics/v0/containers/c => ops:system-metrics -> Agent("S1") /system/v1/metrics/v0/containers/c (/system/v1/agent/S1=/system/v1)
GET /system/v1/agent/S1/metrics => ops:system-metrics -> Agent("S1") /system/v1/metrics (/system/v1/agent/S1=/system/v1)
GET /system/v1/agent/S1/other => account -> Nothing
GET /system/v1/agent/a%2Fb/metrics/v0/node => account -> Nothing
GET /plenum/v1/status => account -> Page(Status)
POST /plenum/v1/status => account -> ReadOnly
POST /plenum/v1/tokens => dcos:superuser -> Identity /internal/v1/tokens (/plenum/v1=/internal/v1)
DELETE /plenum/v1/tokens/a => dcos:superuser -> Identity /internal/v1/tokens/a (/plenum/v1=/internal/v1)
PUT /plenum/v1/settings => dcos:superuser -> Identity /internal/v1/settings (/plenum/v1=/internal/v1)
POST /plenum/v1/join => account -> Nothing
GET /plenum => account -> Nothing
GET /favicon.ico => account -> Nothing
"#;

#[test]
fn golden() {
    let table = table();
    let mut lines = 0;
    for line in GOLDEN.lines().filter(|line| !line.is_empty()) {
        let (asked, wanted) = line.split_once(" => ").unwrap();
        let (method, path) = asked.split_once(' ').unwrap();
        let routed = route(&method.parse().unwrap(), path, &table);
        assert_eq!(show(&routed), wanted, "{asked}");
        lines += 1;
    }
    assert!(lines > 50);
}

#[test]
fn names_have_an_end() {
    let table = table();
    let long = format!("/service/{}", "a/".repeat(20_000));
    assert!(matches!(route(&Method::GET, &long, &table).decision, Decision::NoService(_)));
}
