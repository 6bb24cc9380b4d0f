//! What runs, and with what environment.

use super::super::app::App;
use super::super::id::PathId;
use super::{Flaws, MOST_BYTES, decimal, is_uri};

const NOTHING_RUNS: &str = "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.";
const EXECUTOR: &str = "must fully match regular expression '^(//cmd)|(/?[^/]+(/[^/]+)*)|$'";
/// Words after an app's path that are resources of it.
const RESERVED: [&str; 3] = ["restart", "tasks", "versions"];
const RESERVED_WORDS: &str =
    "must not end with any of the following reserved keywords: restart, tasks, versions, ., ..";

pub(super) fn process(app: &App, flaws: &mut Flaws) {
    id(&app.id, "/id", flaws);
    if app.id.is_root() {
        flaws.add("/id", "Path must contain at least one path element");
        flaws.add("/", "must not be root");
    }
    flaws.unless(app.id.as_str().len() <= 200, "/id", "must not be longer than 200 characters");
    for (i, dependency) in app.dependencies.iter().enumerate() {
        id(dependency, &format!("/dependencies({i})"), flaws);
    }
    let image = app.container.as_ref().is_some_and(|c| c.docker.is_some());
    let good = match (&app.cmd, &app.args) {
        (None, None) => image,
        (Some(_), Some(_)) => false,
        _ => true,
    };
    flaws.unless(good, "/", NOTHING_RUNS);
    flaws.unless(is_executor(&app.executor), "/executor", EXECUTOR);
    for (i, fetch) in app.fetch.iter().enumerate() {
        flaws.unless(is_uri(&fetch.uri), &format!("/fetch({i})/uri"), "URI has invalid syntax.");
    }
    limits(app, flaws);
    let bytes = serde_json::to_vec(app).map_or(0, |bytes| bytes.len());
    if bytes > MOST_BYTES {
        flaws.add("/", format!("the definition takes {bytes} bytes, and at most {MOST_BYTES} are kept"));
    }
}

pub(super) fn id(id: &PathId, path: &str, flaws: &mut Flaws) {
    let last = id.segments().next_back();
    flaws.unless(last.is_none_or(|last| !RESERVED.contains(&last)), path, RESERVED_WORDS);
}

fn is_executor(text: &str) -> bool {
    let path = text.strip_prefix('/').unwrap_or(text);
    text.is_empty() || text == "//cmd" || path.split('/').all(|part| !part.is_empty())
}

fn limits(app: &App, flaws: &mut Flaws) {
    for (name, request) in [("cpus", app.cpus), ("mem", app.mem)] {
        let limit = app.resource_limits.as_ref().and_then(|limits| limits.get(name));
        let path = format!("/resourceLimits/{name}");
        match limit {
            Some(serde_json::Value::String(word)) if word != "unlimited" => {
                let error =
                    format!("'{word}' is an invalid resource limit. It must be 'unlimited' or a number");
                flaws.add(path, error);
            }
            Some(limit) if limit.as_f64().is_some_and(|limit| limit < request) => {
                let request = decimal(request);
                let error =
                    format!("resource limit must be greater than or equal to requested resource ({request})");
                flaws.add(path, error);
            }
            _ => {}
        }
    }
}

pub(super) fn environment(app: &App, flaws: &mut Flaws) {
    for (i, name) in app.env.keys().enumerate() {
        flaws.unless(!name.is_empty(), &format!("/env/keys({i})"), "must not be empty");
    }
    for (name, value) in &app.env {
        let secret = value.get("secret").and_then(serde_json::Value::as_str);
        let good = secret.is_none_or(|secret| app.secrets.contains_key(secret));
        flaws.unless(good, &format!("/env/{name}/secret"), "references an undefined secret");
    }
    for (i, name) in app.secrets.keys().enumerate() {
        flaws.unless(!name.is_empty(), &format!("/secrets/keys({i})"), "must not be empty");
    }
    let label = |name: &str| app.labels.get(name).map_or("", String::as_str);
    let version = label("DCOS_MIGRATION_API_VERSION");
    let whole =
        !label("DCOS_PACKAGE_FRAMEWORK_NAME").is_empty() && !label("DCOS_MIGRATION_API_PATH").is_empty();
    flaws.unless(
        version.is_empty() || (version == "v1" && whole),
        "/",
        "DCOS_PACKAGE_FRAMEWORK_NAME and DCOS_MIGRATION_API_PATH must be defined when using DCOS_MIGRATION_API_VERSION",
    );
}
