//! What differs between two descriptions, path by path. Pure.

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::Value;

use crate::text::clean;

/// A value is shown up to so many characters.
const SHOWN: usize = 100;

/// One place where two descriptions differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Where, as in `container.docker.image` or `healthChecks[0].path`.
    pub path: String,
    /// What was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What is there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Everything that differs, in the order of the paths. What is null is not there; numbers of the same value are the same.
#[must_use]
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut all = Vec::new();
    walk("", before, after, &mut all);
    all
}

fn walk(path: &str, before: &Value, after: &Value, all: &mut Vec<Difference>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                walk(&at, &of(old), &of(new), all);
            }
        }
        (Value::Array(old), Value::Array(new))
            if old.len() == new.len() && new.iter().all(Value::is_object) =>
        {
            for (n, (old, new)) in old.iter().zip(new).enumerate() {
                walk(&format!("{path}[{n}]"), old, new, all);
            }
        }
        _ if same(before, after) => {}
        _ => {
            let there = |value: &Value| (!value.is_null()).then(|| value.clone());
            all.push(Difference { path: path.to_owned(), before: there(before), after: there(after) });
        }
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// Lines for people, each with a sign in front: what is new, what is gone, what is something else.
#[must_use]
pub fn text(differences: &[Difference], colour: bool) -> String {
    let mut out = String::new();
    for one in differences {
        let (sign, tone, line) = match (&one.before, &one.after) {
            (None, Some(new)) => ('+', AnsiColor::Green, format!("{}: {}", clean(&one.path), short(new))),
            (Some(old), None) => ('-', AnsiColor::Red, format!("{}: {}", clean(&one.path), short(old))),
            (old, new) => {
                let part = |value: &Option<Value>| value.as_ref().map(short).unwrap_or_default();
                ('~', AnsiColor::Yellow, format!("{}: {} -> {}", clean(&one.path), part(old), part(new)))
            }
        };
        let style = if colour { tone.on_default() } else { Style::new() };
        out.push_str(&format!("  {style}{sign} {line}{style:#}\n"));
    }
    out
}

/// The paths that differ, for a cell.
#[must_use]
pub fn summary(differences: &[Difference]) -> String {
    let mut names: Vec<&str> = differences.iter().map(|one| one.path.as_str()).collect();
    let more = names.len().saturating_sub(4);
    names.truncate(4);
    let list = names.join(", ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}

fn short(value: &Value) -> String {
    let text = clean(&value.to_string());
    if text.chars().count() <= SHOWN {
        return text;
    }
    text.chars().take(SHOWN).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_by_their_path() {
        let before = json!({"cpus": 1, "env": {"A": "x", "B": "y"}, "cmd": null, "healthChecks": [{"path": "/"}], "constraints": [["a", "LIKE"]], "mem": 32});
        let after = json!({"cpus": 1.0, "env": {"A": "z", "C": "\u{1b}[2J"}, "healthChecks": [{"path": "/up"}], "constraints": [], "mem": 64});
        let found = differences(&before, &after);
        assert_eq!(
            text(&found, false),
            "  ~ constraints: [[\"a\",\"LIKE\"]] -> []\n  ~ env.A: \"x\" -> \"z\"\n  - env.B: \"y\"\n  + env.C: \"\\u001b[2J\"\n\
             \x20 ~ healthChecks[0].path: \"/\" -> \"/up\"\n  ~ mem: 32 -> 64\n"
        );
        assert_eq!(summary(&found), "constraints, env.A, env.B, env.C and 2 more");
        assert!(differences(&after, &after).is_empty());
        assert!(text(&found, true).contains("\u{1b}[32m+ env.C"));
    }
}
