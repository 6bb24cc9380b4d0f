//! A role's settings: one TOML file, then environment variables, then flags, each over the one before; every error is reported at once.
//! What the settings mean, and their defaults, belong to the role's own struct.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// A role's settings. Derive `Deserialize` with `#[serde(default, deny_unknown_fields)]` here and in nested structs, so that
/// every setting has a default and a misspelt one is an error.
pub trait Settings: DeserializeOwned {
    /// Says what is wrong with values that are well-formed one by one. Each problem is one sentence that names the setting.
    fn check(&self, _problems: &mut Vec<String>) {}
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was set: the file, the variable, the flag; empty when it concerns several.
    pub source: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.source, self.message)
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} {}:", if count == 1 { "error" } else { "errors" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file, if any. A named file that is missing is an error.
    pub file: Option<PathBuf>,
    /// Environment variables: whole names and values. Those that do not begin with the role's prefix are ignored.
    pub env: Vec<(String, String)>,
    /// Flags: dotted setting and value, such as `("tls.port", "8443")`.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// A file, this process' environment, and flags.
    #[must_use]
    pub fn of_process(file: Option<&Path>, flags: Vec<(String, String)>) -> Self {
        // A variable that is not UTF-8 cannot be a setting.
        let env =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self { file: file.map(Path::to_path_buf), env: env.collect(), flags }
    }
}

/// Reads the settings of `role`. The variable of the setting `tls.port` of the role `master` is `PLENUM_MASTER_TLS__PORT`
/// (two underscores for a dot). Values from variables and flags are taken as text where the setting is text, else read as TOML.
///
/// # Errors
/// All problems of all sources together.
pub fn load<T: Settings>(role: &str, sources: &Sources) -> Result<T, ConfigErrors> {
    let mut problems = Vec::new();
    let mut merged = Table::new();
    if let Some(path) = &sources.file {
        let source = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => read_file::<T>(&text, &source, &mut merged, &mut problems),
            Err(error) => problems.push(Problem { source, message: format!("cannot be read: {error}") }),
        }
    }
    let prefix = format!("PLENUM_{}_", role.to_ascii_uppercase());
    let mut env: Vec<_> = sources.env.iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
    env.sort();
    for (name, value) in env {
        let path = name[prefix.len()..].to_ascii_lowercase().replace("__", ".");
        set::<T>(&mut merged, &path, value, &format!("variable {name}"), &mut problems);
    }
    for (path, value) in &sources.flags {
        set::<T>(
            &mut merged,
            path,
            value,
            &format!("flag --{}", path.replace(['.', '_'], "-")),
            &mut problems,
        );
    }
    match merged.try_into::<T>() {
        Ok(settings) => {
            let mut sentences = Vec::new();
            settings.check(&mut sentences);
            problems.extend(sentences.into_iter().map(|message| Problem { source: String::new(), message }));
            if problems.is_empty() { Ok(settings) } else { Err(ConfigErrors(problems)) }
        }
        Err(error) => {
            // Each value was tried by itself before, so this is about values that only fail together.
            problems.push(Problem { source: String::new(), message: error.message().to_owned() });
            Err(ConfigErrors(problems))
        }
    }
}

fn read_file<T: Settings>(text: &str, source: &str, merged: &mut Table, problems: &mut Vec<Problem>) {
    let table: Table = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => {
            let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let message = format!("{place}{}", error.message());
            return problems.push(Problem { source: source.to_owned(), message });
        }
    };
    for (key, value) in table {
        let path = vec![key];
        let wrong = try_value::<T>(&path, &value);
        if wrong.is_empty() {
            let [key] = path.try_into().unwrap_or_default();
            merged.insert(key, value);
            continue;
        }
        problems.extend(wrong.into_iter().map(|message| Problem { source: source.to_owned(), message }));
    }
}

/// What is wrong with `value` at `path`, as far down as it can be told: an error inside a table is told for its part, not for the whole.
fn try_value<T: Settings>(path: &[String], value: &Value) -> Vec<String> {
    let Err(error) = alone(path, value).try_into::<T>() else { return Vec::new() };
    if let Value::Table(parts) = value {
        let below = parts.iter().flat_map(|(key, part)| {
            let mut path = path.to_vec();
            path.push(key.clone());
            try_value::<T>(&path, part)
        });
        let below: Vec<_> = below.collect();
        if !below.is_empty() {
            return below;
        }
    }
    vec![format!("{}: {}", path.join("."), error.message())]
}

/// A configuration that holds nothing but `value` at `path`.
fn alone(path: &[String], value: &Value) -> Table {
    let Some((first, rest)) = path.split_first() else { return Table::new() };
    let inner = if rest.is_empty() { value.clone() } else { Value::Table(alone(rest, value)) };
    Table::from_iter([(first.clone(), inner)])
}

fn set<T: Settings>(merged: &mut Table, path: &str, text: &str, source: &str, problems: &mut Vec<Problem>) {
    let path: Vec<String> = path.split('.').map(|key| key.replace('-', "_")).collect();
    let plain = Value::String(text.to_owned());
    let wrong = try_value::<T>(&path, &plain);
    let chosen = if wrong.is_empty() {
        Ok(plain)
    } else {
        match toml::from_str::<Table>(&format!("v = {text}")).ok().and_then(|mut table| table.remove("v")) {
            Some(value) => {
                let wrong = try_value::<T>(&path, &value);
                if wrong.is_empty() { Ok(value) } else { Err(wrong) }
            }
            None => Err(wrong),
        }
    };
    match chosen {
        Ok(value) => insert(merged, &path, value),
        Err(wrong) => {
            let told = wrong.into_iter().map(|message| Problem { source: source.to_owned(), message });
            problems.extend(told);
        }
    }
}

fn insert(table: &mut Table, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return;
    }
    let slot = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
    if !slot.is_table() {
        *slot = Value::Table(Table::new());
    }
    if let Value::Table(inner) = slot {
        insert(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Tls {
        port: u16,
        names: Vec<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Demo {
        listen: std::net::SocketAddr,
        label: String,
        quorum: u32,
        open: bool,
        tls: Tls,
    }

    impl Default for Demo {
        fn default() -> Self {
            let listen = "127.0.0.1:1".parse().unwrap();
            Self { listen, label: "x".into(), quorum: 1, open: false, tls: Tls::default() }
        }
    }

    impl Settings for Demo {
        fn check(&self, problems: &mut Vec<String>) {
            if self.quorum == 0 {
                problems.push("quorum must be at least 1".into());
            }
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn load_demo(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Demo, ConfigErrors> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("demo.toml");
        std::fs::write(&path, file).unwrap();
        load("demo", &Sources { file: Some(path), env: pairs(env), flags: pairs(flags) })
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let demo = load_demo(
            "label = \"file\"\nquorum = 3\n[tls]\nport = 1\nnames = [\"a\"]\n",
            &[
                ("PLENUM_DEMO_LABEL", "7"),
                ("PLENUM_DEMO_TLS__PORT", "2"),
                ("PLENUM_OTHER_QUORUM", "9"),
                ("HOME", "/"),
            ],
            &[
                ("tls.port", "3"),
                ("open", "true"),
                ("tls.names", "[\"b\", \"c\"]"),
                ("listen", "127.0.0.1:9"),
            ],
        );
        let tls = Tls { port: 3, names: vec!["b".into(), "c".into()] };
        let listen = "127.0.0.1:9".parse().unwrap();
        assert_eq!(demo.unwrap(), Demo { listen, label: "7".into(), quorum: 3, open: true, tls });
        let empty: Demo = load("demo", &Sources::default()).unwrap();
        assert_eq!(empty, Demo::default());
    }

    #[test]
    fn every_error_is_told_with_its_source() {
        let errors = load_demo(
            "lable = \"x\"\nquorum = \"many\"\n[tls]\nport = 70000\nsize = 1\n",
            &[("PLENUM_DEMO_OPEN", "maybe"), ("PLENUM_DEMO_NOPE", "1")],
            &[("listen", "here")],
        );
        let errors = errors.unwrap_err();
        let text = errors.to_string();
        assert_eq!(errors.0.len(), 7, "{text}");
        for part in [
            "lable: unknown field",
            "quorum: invalid type: string",
            "tls.port: invalid value",
            "tls.size: unknown field",
            "variable PLENUM_DEMO_OPEN: open",
            "variable PLENUM_DEMO_NOPE: nope: unknown field",
            "flag --listen: listen:",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn broken_files_and_failed_checks_are_told() {
        let text = load_demo("quorum = 1\nlabel = \n", &[("PLENUM_DEMO_OPEN", "maybe")], &[])
            .unwrap_err()
            .to_string();
        assert!(text.contains("line 2") && text.contains("PLENUM_DEMO_OPEN"), "{text}");
        assert!(load_demo("quorum = 0", &[], &[]).unwrap_err().to_string().contains("quorum must be"));
        let missing = Sources { file: Some("/nonexistent.toml".into()), ..Sources::default() };
        assert!(load::<Demo>("demo", &missing).unwrap_err().to_string().contains("cannot be read"));
        for hostile in ["\u{0}", "= =", "]", "é = 1\nx = \u{1}"] {
            assert!(load_demo(hostile, &[("PLENUM_DEMO_", hostile)], &[("..", hostile)]).is_err());
        }
    }
}
