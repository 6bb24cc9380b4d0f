//! The document is what the tables say, and the tables have all that the list of interfaces names.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

#[test]
fn the_document_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/marathon-v2.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, markdown()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == markdown(),
        "write docs/reference/marathon-v2.md anew: UPDATE_GOLDEN=1 cargo test -p plenum-services --lib reference"
    );
}

#[test]
fn tables_name_each_field_once_and_kinds_of_events_are_those_that_are_sent() {
    let mut names = BTreeSet::new();
    fields(&APP, &mut BTreeSet::new(), &mut names);
    assert!(names.len() > 100, "{names:?}");
    fields(&POD, &mut BTreeSet::new(), &mut names);
    let mut source = String::new();
    for folder in ["src/core", "src/http"] {
        for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() && !path.ends_with("tests.rs") {
                source.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    for (kind, standing) in EVENTS {
        let sent = source.contains(&format!("\"{kind}\""));
        assert_eq!(
            sent,
            !matches!(standing, Standing::Missing(_)),
            "{kind}: say in reference/answers.rs whether it is sent"
        );
    }
}

/// Every field's name below `table`.
fn fields(table: &'static Table, seen: &mut BTreeSet<&'static str>, names: &mut BTreeSet<&'static str>) {
    if !seen.insert(table.name) {
        return;
    }
    let mut here = BTreeSet::new();
    for field in table.fields {
        assert!(here.insert(field.name), "{} has {} twice", table.name, field.name);
        names.insert(field.name);
        inner(&field.shape, &mut |inside| fields(inside, seen, names));
    }
}

/// The lines of a section's tables, by cells.
fn rows(text: &str, section: &str) -> Vec<Vec<String>> {
    let rest = text.split_once(&format!("### {section}")).unwrap_or_else(|| panic!("no section {section}")).1;
    let rest = rest.split("\n### ").next().unwrap_or_default();
    let tables = rest.lines().filter(|line| line.starts_with("| ")).skip(1);
    tables
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// What stands between back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Names that begin with a small letter.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// Words of the list that are values, kinds or prose, not fields.
const NO_FIELDS: &[&str] = &[
    "a",
    "z0",
    "v",
    "or",
    "cmd",
    "number",
    "tcp",
    "udp",
    "host",
    "bridge",
    "root",
    "path",
    "mount",
    "dvdi",
    "driver",
    "unlimited",
    "api",
    "dep",
    "false",
    "true",
    "field",
    "wipe",
];

#[test]
fn nothing_that_the_list_of_interfaces_names_is_missing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/dcos-map.md");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not here", path.display());
        return;
    };
    let mut known = BTreeSet::new();
    fields(&APP, &mut BTreeSet::new(), &mut known);
    known.extend(NO_FIELDS);
    // Kinds of volumes, levels and actions that are spelled like fields.
    known.extend([
        "csi",
        "disabled",
        "container",
        "hostname",
        "region",
        "zone",
        "withOutdatedConfig",
        "totalSummary",
    ]);
    known.extend(["startedAfterLastScaling", "withLatestConfig", "checkResult", "failures"]);
    let listed = rows(&text, "3.3");
    let listed: BTreeSet<&str> = listed.iter().flat_map(|row| quoted(&row[1]).flat_map(names)).collect();
    let missing: Vec<_> = listed.difference(&known).collect();
    assert!(listed.len() > 100 && missing.is_empty(), "fields of the list in no table: {missing:?}");
    let section = text.split_once("### 3.4").and_then(|(_, rest)| rest.split("\n### ").next()).unwrap();
    let mut pods: BTreeSet<&str> = answers::POD_STATUS.iter().flat_map(|(path, _)| names(path)).collect();
    fields(&POD, &mut BTreeSet::new(), &mut pods);
    let values = ["fixed", "ephemeral"];
    let listed = quoted(section).flat_map(names).filter(|name| !values.contains(name));
    let missing: Vec<&str> = listed.filter(|name| !pods.contains(name)).collect();
    assert!(missing.is_empty(), "fields of pods in no table: {missing:?}");
    let listed: Vec<(String, String)> = rows(&text, "3.2").iter().flat_map(|row| requests(&row[0])).collect();
    let is_there = |(method, path): &&(String, String)| {
        ENDPOINTS.iter().any(|e| e.path == path && e.methods.contains(&method.as_str()))
    };
    let missing: Vec<_> = listed.iter().filter(|request| !is_there(request)).collect();
    assert!(listed.len() > 50 && missing.is_empty(), "requests of the list in no table: {missing:?}");
    let events: BTreeSet<&str> = EVENTS.iter().map(|(kind, _)| *kind).collect();
    let sentence = text.split_once("SSE event types: ").unwrap().1.split_once(". Frame").unwrap().0;
    for kind in sentence.split(", ").map(|kind| kind.split(' ').next().unwrap()) {
        assert!(events.contains(kind), "the event {kind} is in no table");
    }
}

/// The requests that a cell names: methods, then paths between back quotes, of which parts in brackets may be left out.
fn requests(cell: &str) -> Vec<(String, String)> {
    let (mut methods, mut fresh, mut out) = (vec!["GET".to_owned()], true, Vec::new());
    for (n, part) in cell.split('`').enumerate() {
        if n % 2 == 0 {
            // A row of bare paths says behind a path what else is done with it.
            let said = n == 0 || !cell.starts_with('`');
            for word in part.split(|c: char| !c.is_ascii_alphabetic()) {
                if said && ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&word) {
                    if std::mem::take(&mut fresh) {
                        methods.clear();
                    }
                    methods.push(word.to_owned());
                }
            }
            fresh = true;
            continue;
        }
        let part = if part.starts_with("::") { format!("/v2/pods/{{id}}{part}") } else { part.to_owned() };
        let paths = match (part.split_once('['), part.split_once(']')) {
            (Some((head, rest)), Some((_, tail))) => {
                let option = rest.split_once(']').map_or(rest, |(option, _)| option);
                vec![format!("{head}{tail}"), format!("{head}{option}{tail}")]
            }
            _ => vec![part],
        };
        for path in paths {
            let path = path.trim_end_matches('/').replace("{v}", "{version}");
            let path = if path.is_empty() { "/".to_owned() } else { path };
            out.extend(methods.iter().map(|method| (method.clone(), path.clone())));
        }
    }
    out
}
