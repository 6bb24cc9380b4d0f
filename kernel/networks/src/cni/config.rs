//! Files of CNI networks. Whoever writes them is trusted as the operator is; what they say is checked all the same.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::{NetworkError, file};

/// The most that a file may hold.
const MOST: u64 = 1 << 20;

/// A network: its plugins in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct List {
    /// The interface's version that plugins are told.
    #[serde(rename = "cniVersion", default = "oldest")]
    pub version: String,
    /// The network's name.
    pub name: String,
    /// Whether CHECK is not wanted.
    #[serde(rename = "disableCheck", default)]
    pub unchecked: bool,
    /// Each plugin's part.
    #[serde(default)]
    pub plugins: Vec<Value>,
}

/// What a file without a version means.
fn oldest() -> String {
    "0.2.0".to_owned()
}

impl List {
    /// The version's first two numbers; those that cannot be read are 0.
    pub fn version(&self) -> (u32, u32) {
        let mut numbers = self.version.split('.').map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Whether some plugin has a capability.
    pub fn can(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| declares(plugin, capability))
    }
}

/// Whether a plugin has a capability.
pub(super) fn declares(plugin: &Value, capability: &str) -> bool {
    plugin.get("capabilities").and_then(|all| all.get(capability)).and_then(Value::as_bool) == Some(true)
}

/// The network of this name. When there is none, the error says which there are, and which files cannot be read.
pub(crate) fn find(folder: Option<&Path>, name: &str) -> Result<Option<List>, NetworkError> {
    Ok(all(folder)?.into_iter().filter_map(|(_, list)| list.ok()).find(|list| list.name == name))
}

/// The networks that there are; of files that cannot be read, the reason.
pub(crate) fn names(folder: Option<&Path>) -> Vec<String> {
    let all = all(folder).unwrap_or_default();
    all.into_iter()
        .map(|(path, list)| match list {
            Ok(list) => list.name,
            Err(reason) => format!("{} cannot be used ({reason})", path.display()),
        })
        .collect()
}

type Files = Vec<(PathBuf, Result<List, String>)>;

/// Every file, by name.
fn all(folder: Option<&Path>) -> Result<Files, NetworkError> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(file("list", folder)(error)),
    };
    paths.sort();
    let kind = |path: &Path| path.extension().and_then(|end| end.to_str()).map(str::to_owned);
    Ok(paths
        .into_iter()
        .filter_map(|path| match kind(&path).as_deref() {
            Some("conflist") => Some((load(&path, true), path)),
            Some("conf" | "json") => Some((load(&path, false), path)),
            _ => None,
        })
        .map(|(list, path)| (path, list))
        .collect())
}

fn load(path: &Path, chain: bool) -> Result<List, String> {
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MOST + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MOST) {
        return Err("it is larger than 1 MiB".to_owned());
    }
    parse(&text, chain)
}

/// A file's text: a chain, or one plugin.
pub(super) fn parse(text: &[u8], chain: bool) -> Result<List, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let plugin = value.clone();
    let mut list: List = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if !chain {
        list.plugins = vec![plugin];
    }
    if list.name.is_empty() {
        return Err("it has no name".to_owned());
    }
    if list.plugins.is_empty() {
        return Err("it has no plugins".to_owned());
    }
    if list.version() < (0, 1) || list.version() >= (2, 0) {
        return Err(format!("version {} of CNI is not supported; use 0.1.0 to 1.1.0", list.version));
    }
    for plugin in &list.plugins {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        // It names a program below the folders of plugins, and nothing else.
        if kind.is_empty() || kind.contains('/') || kind.contains('\0') || kind == "." || kind == ".." {
            return Err(format!("\"{kind}\" names no plugin"));
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_single_plugins_are_read() {
        let chain = br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"b"}]}"#;
        let list = parse(chain, true).unwrap();
        assert_eq!((list.plugins.len(), list.version()), (2, (1, 0)));
        let list = parse(br#"{"name":"m","type":"c","capabilities":{"ips":true}}"#, false).unwrap();
        assert_eq!((list.plugins.len(), list.version()), (1, (0, 2)));
        assert!(list.can("ips") && !list.can("portMappings"));
        let parse = |text: &str| super::parse(text.as_bytes(), true);
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"name":"n"}"#,
            r#"{"name":"","plugins":[{"type":"a"}]}"#,
            r#"{"name":"n","plugins":[{"type":"../a"}]}"#,
            r#"{"name":"n","plugins":[{}]}"#,
            r#"{"name":"n","plugins":["a"]}"#,
            r#"{"name":"n","plugins":[{"type":".."}]}"#,
            r#"{"cniVersion":"9.0.0","name":"n","plugins":[{"type":"a"}]}"#,
            r#"{"cniVersion":"zero","name":"n","plugins":[{"type":"a"}]}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_found_by_name_and_bad_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("10-a.conf", r#"{"name":"a","type":"t"}"#);
        write("20-b.conflist", "{");
        write("notes.txt", r#"{"name":"c","type":"t"}"#);
        let found = |name| find(Some(dir.path()), name).unwrap().is_some();
        assert!(found("a") && !found("b") && !found("c"));
        assert!(names(Some(dir.path())).join(", ").contains("20-b.conflist cannot be used"));
        assert!(find(Some(&dir.path().join("none")), "a").unwrap().is_none());
        assert!(find(None, "a").unwrap().is_none());
    }
}
