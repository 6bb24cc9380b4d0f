//! The body of a request for a group, taken apart: which groups it names, what lies in each, where in the body that was said. Paths that
//! are relative are so to the group in which they stand. What it makes of the groups that there are is [`super::group_requests`]' question.

use serde_json::{Map, Value};

use super::error::{ApiError, Flaw};
use super::id::PathId;
use super::schema::{GROUP, Mode, read};
use super::time;

/// What Marathon says of a field that has to be there.
const MISSING: &str = "error.path.missing";

type Body = Map<String, Value>;

/// What is wanted of a group.
#[derive(Debug)]
pub(super) enum Wanted {
    /// All in it gets so many times as many instances.
    Scale(f64),
    /// As it was at that moment.
    Version(String),
    /// This.
    Tree(Box<Branch>),
}

/// A group with what is said of it; what is not said stays as it is.
#[derive(Debug)]
pub(super) struct Branch {
    /// The path.
    pub(super) id: PathId,
    /// Where in the body it stands.
    pub(super) at: String,
    /// All apps in it.
    pub(super) apps: Option<Vec<Item>>,
    /// All pods in it.
    pub(super) pods: Option<Vec<Item>>,
    /// All groups in it.
    pub(super) groups: Option<Vec<Branch>>,
    /// What it depends on.
    pub(super) dependencies: Option<Vec<PathId>>,
    /// Whether it enforces its role.
    pub(super) enforce: Option<bool>,
}

/// An app or a pod of a group.
#[derive(Debug)]
pub(super) struct Item {
    /// The path.
    pub(super) id: PathId,
    /// Where in the body it stands.
    pub(super) at: String,
    /// The definition; paths in it are from the root.
    pub(super) body: Body,
}

impl Branch {
    /// Whether it says anything of apps or pods.
    pub(super) fn has_things(&self) -> bool {
        let below = self.groups.iter().flatten().any(Branch::has_things);
        self.apps.is_some() || self.pods.is_some() || below
    }
}

/// The group that a request is about: the one of the path, or what the body names from there.
///
/// # Errors
/// The id is none.
pub(super) fn subject(path: &PathId, body: &Body) -> Result<PathId, ApiError> {
    match body.get("id") {
        None | Some(Value::Null) => Ok(path.clone()),
        Some(Value::String(text)) => {
            PathId::resolve(text, Some(path)).map_err(|error| ApiError::invalid("/id", error))
        }
        Some(_) => Err(ApiError::BadFields(vec![Flaw::new("/id", "error.expected.jsstring")])),
    }
}

/// Reads the body of a request for the group `id`.
///
/// # Errors
/// What cannot be read or contradicts itself, by its path within the body.
pub(super) fn wanted(id: &PathId, body: &Body) -> Result<Wanted, ApiError> {
    read(&GROUP, body, "", Mode::Partial).map_err(ApiError::BadFields)?;
    let mut flaws = Vec::new();
    alone(body, "", &mut flaws);
    let wanted = match (text(body, "version"), body.get("scaleBy").and_then(Value::as_f64)) {
        (Some(version), _) => Wanted::Version(moment(version)),
        (None, Some(by)) => Wanted::Scale(by),
        (None, None) => Wanted::Tree(Box::new(branch(id, body.clone(), String::new(), &mut flaws))),
    };
    let (missing, wrong): (Vec<Flaw>, Vec<Flaw>) = flaws.into_iter().partition(|flaw| flaw.error == MISSING);
    match (missing.is_empty(), wrong.is_empty()) {
        (true, true) => Ok(wanted),
        (true, false) => Err(ApiError::Invalid(wrong)),
        (false, _) => Err(ApiError::BadFields(missing)),
    }
}

/// A moment as versions are written.
pub(super) fn moment(text: &str) -> String {
    time::parse(text).map_or_else(|| text.to_owned(), time::text)
}

fn text<'a>(body: &'a Body, key: &str) -> Option<&'a str> {
    body.get(key).and_then(Value::as_str)
}

/// Going back and scaling stand alone.
fn alone(body: &Body, at: &str, flaws: &mut Vec<Flaw>) {
    let given = GROUP.fields.iter().filter(|field| body.get(field.name).is_some_and(|v| !v.is_null()));
    let given: Vec<&str> = given.map(|field| field.name).collect();
    for key in ["version", "scaleBy"] {
        if given.contains(&key) && given.len() > 1 {
            let error = "not allowed in conjunction with other properties.";
            flaws.push(Flaw::new(format!("{at}/{key}"), error));
        }
    }
}

fn branch(id: &PathId, mut body: Body, at: String, flaws: &mut Vec<Flaw>) -> Branch {
    let groups = list(&mut body, "groups").map(|groups| {
        let each = groups.into_iter().enumerate();
        let each = each.filter_map(|(i, group)| child(id, group, format!("{at}/groups({i})"), flaws));
        each.collect()
    });
    let dependencies = list(&mut body, "dependencies").map(|all| {
        let texts = all.iter().map(|one| one.as_str().unwrap_or_default());
        paths(id, texts, &format!("{at}/dependencies"), flaws)
    });
    let enforce = body.get("enforceRole").and_then(Value::as_bool);
    if enforce == Some(true) && !id.is_top_level() {
        let error = format!("enforceRole can only be set for top-level groups, and {id} is not top-level");
        flaws.push(Flaw::new(format!("{at}/enforceRole"), error));
    }
    let apps = items(id, &mut body, "apps", &at, flaws);
    let pods = items(id, &mut body, "pods", &at, flaws);
    Branch { id: id.clone(), at, apps, pods, groups, dependencies, enforce }
}

fn child(parent: &PathId, group: Value, at: String, flaws: &mut Vec<Flaw>) -> Option<Branch> {
    let Value::Object(body) = group else { return None };
    let id = inner(parent, text(&body, "id"), &at, flaws)?;
    if id.parent() != *parent {
        flaws.push(Flaw::new(at, "Group has to be child of groups with parent id"));
        return None;
    }
    alone(&body, &at, flaws);
    Some(branch(&id, body, at, flaws))
}

fn inner(parent: &PathId, text: Option<&str>, at: &str, flaws: &mut Vec<Flaw>) -> Option<PathId> {
    let id = text.ok_or(MISSING).and_then(|text| PathId::resolve(text, Some(parent)));
    id.map_err(|error| flaws.push(Flaw::new(format!("{at}/id"), error))).ok()
}

fn list(body: &mut Body, key: &str) -> Option<Vec<Value>> {
    match body.remove(key) {
        Some(Value::Array(items)) => Some(items),
        _ => None,
    }
}

fn items(group: &PathId, body: &mut Body, key: &str, at: &str, flaws: &mut Vec<Flaw>) -> Option<Vec<Item>> {
    let all = list(body, key)?.into_iter().enumerate();
    let each = all.filter_map(|(i, value)| {
        let Value::Object(mut body) = value else { return None };
        if let Some(Value::Object(spec)) = body.get_mut("spec").filter(|_| key == "pods") {
            body = std::mem::take(spec);
        }
        let at = format!("{at}/{key}({i})");
        let id = inner(group, text(&body, "id"), &at, flaws)?;
        if id.parent() != *group {
            flaws.push(Flaw::new(format!("{at}/id"), format!("Identifier is not child of '{group}'")));
            return None;
        }
        body.insert("id".to_owned(), Value::from(id.as_str()));
        if let Some(given) = body.get("dependencies").and_then(Value::as_array) {
            let texts = given.iter().filter_map(Value::as_str);
            let all = paths(group, texts, &format!("{at}/dependencies"), flaws);
            body.insert("dependencies".to_owned(), all.iter().map(PathId::as_str).collect());
        }
        Some(Item { id, at, body })
    });
    Some(each.collect())
}

/// Paths from the root, each once.
fn paths<'a>(
    base: &PathId,
    texts: impl Iterator<Item = &'a str>,
    at: &str,
    flaws: &mut Vec<Flaw>,
) -> Vec<PathId> {
    let mut all: Vec<PathId> = Vec::new();
    for (i, text) in texts.enumerate() {
        match PathId::resolve(text, Some(base)) {
            Ok(id) if all.contains(&id) => {}
            Ok(id) => all.push(id),
            Err(error) => flaws.push(Flaw::new(format!("{at}({i})"), error)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(id: &str, body: Value) -> Result<Wanted, ApiError> {
        wanted(&PathId::parse(id).unwrap(), body.as_object().unwrap())
    }

    #[test]
    fn paths_are_relative_to_the_group_in_which_they_stand() {
        let body = json!({"dependencies": ["../x", "/y"], "groups": [
            {"id": "b", "apps": [{"id": "c", "cmd": "x", "dependencies": ["d", "../../e", "/f"]}],
             "pods": [{"spec": {"id": "/a/b/p", "containers": [{"name": "c", "resources": {"cpus": 1, "mem": 1}}]}}]}
        ]});
        let Wanted::Tree(tree) = read("/a", body).unwrap() else { panic!() };
        let names = |ids: &[PathId]| ids.iter().map(PathId::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(names(tree.dependencies.as_deref().unwrap()), "/x /y");
        assert!(tree.apps.is_none() && tree.has_things());
        let inside = &tree.groups.as_ref().unwrap()[0];
        let app = &inside.apps.as_ref().unwrap()[0];
        assert_eq!(
            (inside.id.as_str(), app.id.as_str(), app.at.as_str()),
            ("/a/b", "/a/b/c", "/groups(0)/apps(0)")
        );
        assert_eq!(app.body["dependencies"], json!(["/a/b/d", "/e", "/f"]));
        assert_eq!(inside.pods.as_ref().unwrap()[0].id.as_str(), "/a/b/p");
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        let alone = "not allowed in conjunction with other properties.";
        let role = "enforceRole can only be set for top-level groups, and /prod/second is not top-level";
        let moment = "2020-01-01T00:00:00.000Z";
        for (body, path, error) in [
            (json!({"version": moment, "apps": []}), "/version", alone),
            (json!({"id": "/prod", "scaleBy": 2}), "/scaleBy", alone),
            (json!({"groups": [{"id": "x", "scaleBy": 2}]}), "/groups(0)/scaleBy", alone),
            (
                json!({"enforceRole": true, "groups": [{"id": "second", "enforceRole": true}]}),
                "/groups(0)/enforceRole",
                role,
            ),
            (
                json!({"groups": [{"id": "a/b"}]}),
                "/groups(0)",
                "Group has to be child of groups with parent id",
            ),
            (
                json!({"apps": [{"id": "lol/bibi", "cmd": "x"}]}),
                "/apps(0)/id",
                "Identifier is not child of '/prod'",
            ),
            (
                json!({"groups": [{"id": "g", "apps": [{"id": "/a", "cmd": "x"}]}]}),
                "/groups(0)/apps(0)/id",
                "Identifier is not child of '/prod/g'",
            ),
        ] {
            match read("/prod", body.clone()) {
                Err(ApiError::Invalid(flaws)) => {
                    assert_eq!(flaws, [Flaw::new(path, error)], "{body}");
                }
                other => panic!("{body}: {other:?}"),
            }
        }
        for (body, path, error) in [
            (json!({"apps": {}}), "/apps", "error.expected.jsarray"),
            (json!({"groups": [7]}), "/groups(0)", "error.expected.jsobject"),
            (
                json!({"groups": [{"id": "g", "apps": [{"id": "a", "mem": "x"}]}]}),
                "/groups(0)/apps(0)/mem",
                "error.expected.jsnumber",
            ),
            (json!({"scaleBy": -1}), "/scaleBy", "error.min"),
            (json!({"version": "soon"}), "/version", "error.expected.date.isoformat"),
            (json!({"enforceRole": "yes"}), "/enforceRole", "error.expected.jsboolean"),
            (json!({"groups": [{"apps": []}]}), "/groups(0)/id", "error.path.missing"),
            (json!({"id": 7}), "/id", "error.expected.jsstring"),
        ] {
            assert_eq!(
                read("/prod", body.clone()).unwrap_err(),
                ApiError::BadFields(vec![Flaw::new(path, error)]),
                "{body}"
            );
        }
    }
}
