//! Descriptions in files: what each is, by its shape, and its id.

use serde_json::Value;

use super::read_file;
use crate::api::services::bare;
use crate::error::{CliError, Result};
use crate::screen::Screen;

/// Groups are not deeper than this.
pub(super) const DEPTH: usize = 64;

/// One description. Ids begin with a slash.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Document {
    /// An app.
    App(String, Value),
    /// A pod.
    Pod(String, Value),
    /// A group.
    Group(String, Value),
}

impl Document {
    /// By its shape: a pod has `containers`; a group has `apps`, `pods` or `groups`; everything else is an app.
    ///
    /// # Errors
    /// [`CliError::Usage`] where it is none of them.
    pub(crate) fn new(name: &str, value: Value) -> Result<Self> {
        let Value::Object(mut map) = value else {
            let text = format!(
                "{name} describes neither an app nor a pod nor a group: an object with \"id\" is expected"
            );
            return Err(CliError::Usage(text));
        };
        // Answers wrap what they show: `GET /v2/apps/ID` and `GET /v2/pods/ID::status`.
        for wrap in ["app", "spec"] {
            if !map.contains_key("cmd")
                && let Some(Value::Object(inner)) = map.get(wrap)
            {
                map = inner.clone();
            }
        }
        let has = |name: &str| map.get(name).is_some_and(Value::is_array);
        let (pod, group) = (has("containers"), has("apps") || has("groups") || has("pods"));
        let id = map.get("id").and_then(Value::as_str).map(|id| id.trim_matches('/').to_owned());
        let id = match id {
            Some(id) if !id.is_empty() || group => format!("/{id}"),
            None if group => "/".to_owned(),
            _ => {
                let text = format!("{name} describes something without \"id\"; give one, such as \"/web\"");
                return Err(CliError::Usage(text));
            }
        };
        map.insert("id".to_owned(), id.clone().into());
        let value = Value::Object(map);
        Ok(match (pod, group) {
            (_, true) => Self::Group(id, value),
            (true, _) => Self::Pod(id, bare(value)),
            _ => Self::App(id, bare(value)),
        })
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::App(..) => "app",
            Self::Pod(..) => "pod",
            Self::Group(..) => "group",
        }
    }

    pub(crate) fn id(&self) -> String {
        match self {
            Self::App(id, _) | Self::Pod(id, _) | Self::Group(id, _) => id.clone(),
        }
    }

    /// Its apps and pods.
    pub(crate) fn each(&self, tell: &mut dyn FnMut(String, &Value)) {
        match self {
            Self::App(id, value) | Self::Pod(id, value) => tell(id.clone(), value),
            Self::Group(_, value) => members(value, "", 0, tell),
        }
    }

    /// The ids of its apps.
    pub(crate) fn apps(&self) -> Vec<String> {
        self.ids(false)
    }

    /// The ids of its pods.
    pub(crate) fn pods(&self) -> Vec<String> {
        self.ids(true)
    }

    fn ids(&self, pods: bool) -> Vec<String> {
        let mut all = Vec::new();
        self.each(&mut |id, value| {
            if value.get("containers").is_some_and(Value::is_array) == pods {
                all.push(id);
            }
        });
        all
    }
}

/// The apps and pods of a group with their whole ids. Ids are relative to the group that they are in.
pub(crate) fn members(group: &Value, base: &str, depth: usize, tell: &mut dyn FnMut(String, &Value)) {
    let whole = |base: &str, value: &Value| {
        let id = value.get("id").and_then(Value::as_str).unwrap_or_default();
        if id.starts_with('/') || base.is_empty() {
            format!("/{}", id.trim_matches('/'))
        } else {
            format!("{}/{}", base.trim_end_matches('/'), id.trim_matches('/'))
        }
    };
    let here = whole(base, group);
    let list = |name: &str| group.get(name).and_then(Value::as_array).into_iter().flatten();
    for one in list("apps").chain(list("pods")) {
        tell(whole(&here, one), one);
    }
    if depth < DEPTH {
        for child in list("groups") {
            members(child, &here, depth.saturating_add(1), tell);
        }
    }
}

/// Everything that a file or a folder describes, in the order of the files' names.
pub(crate) fn read_all(path: &str, screen: &mut Screen) -> Result<Vec<Document>> {
    if !super::apply::is_folder(path) {
        let text = read_file(path, screen)?;
        let name = if path == "-" { "the standard input" } else { path };
        return read(name, &text);
    }
    let wrong = |error: std::io::Error| CliError::Usage(format!("{path} cannot be read: {error}"));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        let known = file
            .extension()
            .and_then(|end| end.to_str())
            .is_some_and(|end| ["json", "yaml", "yml"].contains(&end));
        if known && file.is_file() {
            files.push(file.to_string_lossy().into_owned());
        }
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        all.extend(read(&file, &read_file(&file, screen)?)?);
    }
    if all.is_empty() {
        return Err(CliError::Usage(format!("the folder {path} has no .json, .yaml or .yml files")));
    }
    Ok(all)
}

/// Everything that a text describes: one object, a list of them, or several YAML documents.
pub(crate) fn read(name: &str, text: &str) -> Result<Vec<Document>> {
    let values = if text.trim_start().starts_with(['{', '[']) || text.trim().is_empty() {
        vec![super::parse_document(name, text)?]
    } else {
        serde_saphyr::from_multiple_with_options::<Value>(text, super::yaml())
            .map_err(|error| CliError::Usage(format!("{name} is not valid YAML: {error}")))?
    };
    let mut all = Vec::new();
    for value in values {
        match value {
            Value::Array(items) => {
                for item in items {
                    all.push(Document::new(name, item)?);
                }
            }
            Value::Null => {}
            other => all.push(Document::new(name, other)?),
        }
    }
    if all.is_empty() {
        return Err(CliError::Usage(format!("{name} describes nothing")));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shapes_tell_what_is_described() {
        let yaml = "id: web/\ncmd: run\nuser: y\nversion: v\n---\nid: /pod\ncontainers: []\n---\n- id: a\n  cmd: x\n";
        let found = read("f", yaml).unwrap();
        assert_eq!(
            found,
            [
                Document::App("/web".into(), json!({"id": "/web", "cmd": "run", "user": "y"})),
                Document::Pod("/pod".into(), json!({"id": "/pod", "containers": []})),
                Document::App("/a".into(), json!({"id": "/a", "cmd": "x"})),
            ]
        );
        let group = json!({"id": "shop", "apps": [{"id": "web"}, {"id": "/x"}], "groups": [{"id": "db", "pods": [{"id": "pg", "containers": []}]}]});
        let found = read("f", &group.to_string()).unwrap().remove(0);
        assert_eq!((found.kind(), found.id().as_str()), ("group", "/shop"));
        assert_eq!(
            (found.apps(), found.pods()),
            (vec!["/shop/web".to_owned(), "/x".to_owned()], vec!["/shop/db/pg".to_owned()])
        );
        let shown = read("f", r#"{"app": {"id": "/web", "cmd": "x", "deployments": []}}"#).unwrap();
        assert_eq!(shown, [Document::App("/web".into(), json!({"id": "/web", "cmd": "x"}))]);
        for bad in ["[]", r#"{"cmd": "x"}"#, r#"{"id": "/"}"#, "3", "[1]", r#"{"id": 4}"#, "", "a: [1\nb: :"]
        {
            assert!(matches!(read("f", bad), Err(CliError::Usage(_))), "{bad}");
        }
    }
}
