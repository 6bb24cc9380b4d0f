//! `plenum app deploy`: apps from a file. What a file holds replaces the app's whole description.

use serde_json::Value;

use super::wait::{Goal, Waiting, until};
use super::{app, parse_document, read_file};
use crate::api::Session;
use crate::api::services::SHOWN_ONLY;
use crate::error::{CliError, Result};
use crate::screen::{Output, Screen};
use crate::text::clean;

/// Shown by `plenum app deploy --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum app deploy web.json
  plenum app deploy web.yaml --no-wait
  echo '{\"id\": \"/sleep\", \"cmd\": \"sleep 1000\", \"cpus\": 0.1, \"mem\": 32}' | plenum app deploy -
  plenum app show /web -o json > web.json; $EDITOR web.json; plenum app deploy web.json";

/// What a file asks for.
#[derive(Debug, PartialEq)]
enum Wanted {
    /// One app.
    One(String, Value),
    /// Several.
    Many(Vec<String>, Value),
    /// A group.
    Group(Vec<String>, Value),
}

pub(crate) async fn run(
    session: &Session,
    output: Output,
    file: &str,
    force: bool,
    waiting: &Waiting,
    screen: &mut Screen,
) -> Result<()> {
    let text = read_file(file, screen)?;
    let name = if file == "-" { "the standard input" } else { file };
    let wanted = read(name, parse_document(name, &text)?)?;
    let next =
        "another deployment changes the same apps: wait for it, or repeat with --force to supersede it";
    let (change, ids) = match &wanted {
        Wanted::One(id, app) => (session.put_app(id, app, force).await, vec![id.clone()]),
        Wanted::Many(ids, apps) => (session.put_apps(apps, force).await, ids.clone()),
        Wanted::Group(ids, group) => (session.put_group(group, force).await, ids.clone()),
    };
    change.map_err(|error| error.or_else_try(409, next))?;
    if let [id] = ids.as_slice() {
        return app::settle(session, output, id, waiting, screen).await;
    }
    let mut apps = Vec::new();
    for id in &ids {
        let text = until(session, id, Goal::Running, waiting, screen).await?;
        if matches!(output, Output::Table | Output::Wide) {
            screen.print(&text)?;
        } else {
            apps.push(session.app(id).await?);
        }
    }
    if matches!(output, Output::Table | Output::Wide) {
        return Ok(());
    }
    let text = screen.form(output, &apps, || app::list_table(&apps, super::now()))?;
    screen.print(&text)
}

/// Takes a document apart.
fn read(name: &str, document: Value) -> Result<Wanted> {
    match document {
        Value::Array(items) => {
            let mut ids = Vec::new();
            let mut apps = Vec::new();
            for item in items {
                let (id, app) = one(name, item)?;
                ids.push(id);
                apps.push(app);
            }
            if ids.is_empty() {
                return Err(CliError::Usage(format!("{name} is a list without apps")));
            }
            Ok(Wanted::Many(ids, apps.into()))
        }
        Value::Object(map) if map.contains_key("apps") || map.contains_key("groups") => {
            let group = Value::Object(map);
            let mut ids = Vec::new();
            members("", &group, 0, &mut ids);
            Ok(Wanted::Group(ids, group))
        }
        other => one(name, other).map(|(id, app)| Wanted::One(id, app)),
    }
}

fn one(name: &str, document: Value) -> Result<(String, Value)> {
    let Value::Object(mut map) = document else {
        return Err(CliError::Usage(format!("{name} describes no app: an object with \"id\" is expected")));
    };
    // The answer to `GET /v2/apps/ID` wraps the app.
    if let (1, Some(Value::Object(inner))) = (map.len(), map.get("app")) {
        map = inner.clone();
    }
    let id = map.get("id").and_then(Value::as_str).map(|id| id.trim_matches('/').to_owned());
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(CliError::Usage(format!(
            "{name} describes an app without \"id\"; give one, such as \"/web\""
        )));
    };
    map.retain(|key, _| !SHOWN_ONLY.contains(&key.as_str()));
    let id = format!("/{id}");
    map.insert("id".to_owned(), id.clone().into());
    Ok((clean(&id), Value::Object(map)))
}

/// The ids of a group's apps.
fn members(base: &str, group: &Value, depth: usize, ids: &mut Vec<String>) {
    let own = |value: &Value| {
        let id = value.get("id").and_then(Value::as_str).unwrap_or_default();
        if id.starts_with('/') || id.is_empty() && base.is_empty() {
            id.trim_end_matches('/').to_owned()
        } else if id.is_empty() {
            base.to_owned()
        } else {
            format!("{base}/{}", id.trim_matches('/'))
        }
    };
    let here = if depth == 0 { format!("/{}", own(group).trim_matches('/')) } else { own(group) };
    let here = here.trim_end_matches('/').to_owned();
    for app in group.get("apps").and_then(Value::as_array).into_iter().flatten() {
        let id = app.get("id").and_then(Value::as_str).unwrap_or_default();
        let full = if id.starts_with('/') { id.to_owned() } else { format!("{here}/{id}") };
        ids.push(clean(&full));
    }
    // Deeper groups are the cluster's to refuse.
    if depth < 32 {
        for child in group.get("groups").and_then(Value::as_array).into_iter().flatten() {
            members(&here, child, depth + 1, ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_taken_apart() {
        let read = |value: Value| super::read("f", value);
        assert_eq!(
            read(json!({"id": "web/", "cmd": "x", "version": "v", "tasksRunning": 1})).unwrap(),
            Wanted::One("/web".into(), json!({"id": "/web", "cmd": "x"}))
        );
        assert_eq!(
            read(json!({"app": {"id": "/web", "cmd": "x", "deployments": []}})).unwrap(),
            Wanted::One("/web".into(), json!({"id": "/web", "cmd": "x"}))
        );
        assert_eq!(
            read(json!([{"id": "a"}, {"id": "/b/c"}])).unwrap(),
            Wanted::Many(vec!["/a".into(), "/b/c".into()], json!([{"id": "/a"}, {"id": "/b/c"}]))
        );
        let group = json!({"id": "/shop", "apps": [{"id": "web"}, {"id": "/x"}], "groups": [{"id": "db", "apps": [{"id": "pg"}]}]});
        assert_eq!(
            read(group.clone()).unwrap(),
            Wanted::Group(vec!["/shop/web".into(), "/x".into(), "/shop/db/pg".into()], group)
        );
        for bad in
            [json!([]), json!({"cmd": "x"}), json!({"id": "/"}), json!(3), json!([1]), json!({"id": 4})]
        {
            assert!(matches!(read(bad.clone()), Err(CliError::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn yaml_and_json_are_read_and_faults_named() {
        let yaml = parse_document("f", "id: /web\ncmd: run\ncpus: 0.5\n").unwrap();
        assert_eq!(yaml, json!({"id": "/web", "cmd": "run", "cpus": 0.5}));
        let error = parse_document("f.json", "{\"id\": ").unwrap_err().to_string();
        assert!(error.contains("f.json is not valid JSON") && error.contains("line 1"), "{error}");
        assert!(parse_document("f", "  \n").is_err());
        assert!(parse_document("f", "a: [1\nb: :").is_err());
    }
}
