//! Reading `cluster.yaml`: a walk over the located tree that tells all that is wrong at once, each with its line and the nearest right key.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::cluster::Cluster;
use crate::nearest::nearest;
use crate::settings::{Form, SETTINGS, below, setting};
use crate::tree::{At, Node, Value, parse};
use crate::{check, dcos};

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Warning,
    /// Nothing is begun before it is put right.
    Error,
}

/// Something wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    pub at: At,
    /// The setting: `hosts[1].address`.
    pub path: String,
    /// What, and what to do.
    pub message: String,
    /// How bad.
    pub severity: Severity,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.severity == Severity::Error { "error" } else { "warning" };
        if self.at.line > 0 {
            write!(f, "line {}, column {}: ", self.at.line, self.at.column)?;
        }
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        write!(f, "{word}: {path}{}", self.message)
    }
}

/// What a file says.
#[derive(Debug, Clone)]
pub struct Read {
    /// The cluster; none where there is an error.
    pub cluster: Option<Cluster>,
    /// All that is wrong, in the order of the file.
    pub problems: Vec<Problem>,
    /// Keys of a DC/OS file, and what became of each; empty for our own form.
    pub foreign: Vec<dcos::Key>,
}

impl Read {
    /// Whether there is an error among the problems.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

/// Places of settings: `hosts[1].address`.
pub type Places = BTreeMap<String, At>;

/// Reads a file, ours or DC/OS' `config.yaml`.
#[must_use]
pub fn read(text: &str) -> Read {
    let tree = match parse(text) {
        Ok(tree) => tree,
        Err((at, words)) => {
            let message = format!("this is no YAML: {words}");
            let problem = Problem { at, path: String::new(), message, severity: Severity::Error };
            return Read { cluster: None, problems: vec![problem], foreign: Vec::new() };
        }
    };
    let mut walk = Walk::default();
    let (json, foreign) = if dcos::is_one(&tree) {
        let (json, foreign) = dcos::convert(&tree, &mut walk);
        (json, foreign)
    } else {
        (walk.map(&tree, "", ""), Vec::new())
    };
    let Walk { mut problems, places } = walk;
    let mut cluster = None;
    if !problems.iter().any(|problem| problem.severity == Severity::Error) {
        match serde_json::from_value::<Cluster>(named(json)) {
            Ok(read) => cluster = Some(read),
            Err(error) => problems.push(Problem {
                at: At::default(),
                path: String::new(),
                message: error.to_string(),
                severity: Severity::Error,
            }),
        }
    }
    if let Some(cluster) = &cluster {
        check::check(cluster, &places, &mut problems);
    }
    problems.sort_by_key(|problem| (problem.at, problem.path.clone()));
    let read = Read { cluster, problems, foreign };
    if read.failed() { Read { cluster: None, ..read } } else { read }
}

/// Gives hosts without a name one.
fn named(mut json: Json) -> Json {
    for host in json.get_mut("hosts").and_then(Json::as_array_mut).into_iter().flatten() {
        if let Some(host) = host.as_object_mut()
            && !host.contains_key("name")
            && let Some(address) = host.get("address").and_then(Json::as_str)
        {
            let name = address.replace(['.', ':'], "-");
            host.insert("name".to_owned(), name.into());
        }
    }
    json
}

/// What was found on the way.
#[derive(Debug, Default)]
pub struct Walk {
    /// All that is wrong.
    pub problems: Vec<Problem>,
    /// Where each setting stands.
    pub places: Places,
}

impl Walk {
    /// Notes an error.
    pub fn wrong(&mut self, at: At, path: &str, message: impl Into<String>) {
        let (path, message) = (path.to_owned(), message.into());
        self.problems.push(Problem { at, path, message, severity: Severity::Error });
    }

    /// A map of the table: `table` is its prefix there (`hosts[]`), `path` where it stands in the file (`hosts[1]`).
    fn map(&mut self, node: &Node, table: &str, path: &str) -> Json {
        let mut json = Map::new();
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            _ => {
                let words = below(table).join(", ");
                self.wrong(node.at, path, format!("this is {}; a map of {words} is expected", node.kind()));
                return Json::Object(json);
            }
        };
        let known = below(table);
        for (key, value) in entries {
            let join = |prefix: &str| {
                if prefix.is_empty() { key.text.clone() } else { format!("{prefix}.{}", key.text) }
            };
            let (in_table, in_file) = (join(table), join(path));
            self.places.insert(in_file.clone(), key.at);
            if json.contains_key(&key.text) {
                self.wrong(key.at, &in_file, "it is given twice");
                continue;
            }
            if !known.contains(&key.text.as_str()) {
                self.wrong(key.at, &in_file, unknown(&key.text, table, &known));
                continue;
            }
            let read = if let Some(setting) = setting(&in_table) {
                self.value(value, setting.form, &in_file)
            } else if !below(&format!("{in_table}[]")).is_empty() {
                Some(self.list(value, &format!("{in_table}[]"), &in_file))
            } else {
                Some(self.map(value, &in_table, &in_file))
            };
            if let Some(read) = read {
                json.insert(key.text.clone(), read);
            }
        }
        for setting in SETTINGS.iter().filter(|setting| setting.default.is_empty()) {
            let must = setting.path.strip_prefix(table).and_then(|rest| rest.strip_prefix('.'));
            let Some(word) = must.filter(|_| !table.is_empty()) else { continue };
            if word != "name" && !word.contains('.') && !entries.iter().any(|(key, _)| key.text == word) {
                self.wrong(node.at, path, format!("{word} is missing: {}", setting.help));
            }
        }
        Json::Object(json)
    }

    fn list(&mut self, node: &Node, table: &str, path: &str) -> Json {
        match &node.value {
            Value::List(list) => list
                .iter()
                .enumerate()
                .map(|(i, part)| {
                    let path = format!("{path}[{i}]");
                    self.places.insert(path.clone(), part.at);
                    self.map(part, table, &path)
                })
                .collect(),
            Value::Null => Json::Array(Vec::new()),
            _ => {
                self.wrong(node.at, path, format!("this is {}; a list is expected", node.kind()));
                Json::Array(Vec::new())
            }
        }
    }

    /// A setting's value; none where it is left out or wrong, which is then noted.
    pub fn value(&mut self, node: &Node, form: Form, path: &str) -> Option<Json> {
        if node.value == Value::Null {
            return None;
        }
        let read = match form {
            Form::List(each) => return self.values(node, *each, path),
            Form::Words => return self.words(node, path),
            Form::Overrides => return self.overrides(node, path),
            Form::Bool => match node.value {
                Value::Bool(value) => Ok(value.into()),
                _ => Err(String::new()),
            },
            Form::Whole(low, high) => match &node.value {
                Value::Number(number, _) => number
                    .as_u64()
                    .filter(|n| (u64::from(low)..=u64::from(high)).contains(n))
                    .map(Json::from)
                    .ok_or_else(String::new),
                _ => Err(String::new()),
            },
            _ => self.scalar(node, form),
        };
        match read {
            Ok(value) => Some(value),
            Err(hint) => {
                self.wrong(
                    node.at,
                    path,
                    format!("{} is not what is expected: {}{hint}", shown(node), form.words()),
                );
                None
            }
        }
    }

    fn scalar(&self, node: &Node, form: Form) -> Result<Json, String> {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Number(_, written) => written.clone(),
            Value::Bool(value) => value.to_string(),
            _ => return Err(String::new()),
        };
        let text = text.trim().to_owned();
        let fits = match form {
            Form::Name => {
                let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                (1..=253).contains(&text.len()) && text.bytes().all(fine)
            }
            Form::Instance => text.parse::<plenum_base::places::Instance>().is_ok(),
            Form::Address => text.parse::<std::net::IpAddr>().is_ok(),
            Form::Range => check::range(&text).is_some(),
            Form::Choice(words) => {
                if !words.contains(&text.as_str()) {
                    let near = nearest(&text, words.iter().copied());
                    return Err(near.map(|near| format!("; did you mean {near}?")).unwrap_or_default());
                }
                true
            }
            Form::Source(words) => {
                let named = text.strip_prefix("env:").is_some_and(|name| !name.is_empty());
                if !named && !words.contains(&text.as_str()) {
                    // It may be the password itself.
                    return Err(". Passwords themselves are never written here".to_owned());
                }
                true
            }
            _ => true,
        };
        if fits { Ok(text.into()) } else { Err(String::new()) }
    }

    fn values(&mut self, node: &Node, each: Form, path: &str) -> Option<Json> {
        let Value::List(list) = &node.value else {
            return Some(Json::Array(self.value(node, each, path).into_iter().collect()));
        };
        let mut values = Vec::new();
        for (i, part) in list.iter().enumerate() {
            let path = format!("{path}[{i}]");
            self.places.insert(path.clone(), part.at);
            values.extend(self.value(part, each, &path));
        }
        Some(Json::Array(values))
    }

    fn words(&mut self, node: &Node, path: &str) -> Option<Json> {
        let Value::Map(entries) = &node.value else {
            self.wrong(
                node.at,
                path,
                format!("this is {}; {} is expected", node.kind(), Form::Words.words()),
            );
            return None;
        };
        let mut json = Map::new();
        for (key, value) in entries {
            let path = format!("{path}.{}", key.text);
            if let Some(value) = self.value(value, Form::Text, &path) {
                json.insert(key.text.clone(), value);
            }
        }
        Some(Json::Object(json))
    }

    fn overrides(&mut self, node: &Node, path: &str) -> Option<Json> {
        let Value::Map(roles) = &node.value else {
            self.wrong(
                node.at,
                path,
                format!("this is {}; {} is expected", node.kind(), Form::Overrides.words()),
            );
            return None;
        };
        let mut json = Map::new();
        for (role, settings) in roles {
            let at = format!("{path}.{}", role.text);
            let words = ROLES;
            if !words.contains(&role.text.as_str()) {
                let near = nearest(&role.text, words.iter().copied());
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                self.wrong(
                    role.at,
                    &at,
                    format!("there is no such role{hint} There are {}", words.join(", ")),
                );
                continue;
            }
            if !matches!(settings.value, Value::Map(_)) {
                self.wrong(settings.at, &at, "a map of the role's settings is expected");
                continue;
            }
            let mut flat = Map::new();
            flatten(&settings.json(), "", &mut flat);
            json.insert(role.text.clone(), Json::Object(flat));
        }
        Some(Json::Object(json))
    }
}

/// Roles whose settings can be overridden.
pub const ROLES: &[&str] =
    &["identity", "master", "agent", "services", "discovery", "balancer", "catalog", "gateway", "etcd"];

/// Settings within settings become names with dots, as `--set` has them.
fn flatten(json: &Json, prefix: &str, flat: &mut Map<String, Json>) {
    match json {
        Json::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(value, &name, flat);
            }
        }
        other if !prefix.is_empty() => {
            flat.insert(prefix.to_owned(), other.clone());
        }
        _ => {}
    }
}

fn unknown(word: &str, table: &str, known: &[&'static str]) -> String {
    if let Some(near) = nearest(word, known.iter().copied()) {
        return format!("there is no such setting; did you mean {near}?");
    }
    let last = |setting: &&crate::settings::Setting| setting.path.rsplit('.').next() == Some(word);
    if let Some(elsewhere) = SETTINGS.iter().find(last) {
        return format!("there is no such setting here; did you mean {}?", elsewhere.path);
    }
    let place = if table.is_empty() { "at the top".to_owned() } else { format!("below {table}") };
    format!("there is no such setting; {place} there are {}", known.join(", "))
}

/// A value as it may be shown: what might be a secret is not.
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Text(text) if text.len() <= 40 && !text.contains(char::is_whitespace) => format!("\"{text}\""),
        Value::Number(_, written) => written.clone(),
        Value::Bool(value) => value.to_string(),
        _ => node.kind().to_owned(),
    }
}
