//! What of Marathon's v2 API is there, as one document: `docs/reference/marathon-v2.md`, written from the tables that requests are read
//! by and from those in here. What each says is held against the running server, and all of it against the list of what there should be.

pub mod answers;
pub mod endpoints;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::core::schema::{APP, Default, Field, GROUP, POD, Shape, Standing, Table};

pub use answers::{ANSWERS, EVENTS};
pub use endpoints::{ENDPOINTS, Endpoint};

const HEAD: &str = "\
# Marathon v2: what is there

This page is written by the tests of `userspace/services` (`UPDATE_GOLDEN=1`) from the tables that requests are read by.
\"Works\" means: as in Marathon 1.11. Everything that is kept without effect, refused or not there says so, and why.

Refusals have Marathon's statuses, messages and paths: 400 `Invalid JSON` for what is no JSON; 422 `Invalid JSON` with `details` for fields that
are missing, of the wrong type or out of bounds (`error.path.missing`, `error.expected.jsnumber`, `error.min`, …); 422 `Object is not valid` with
`details` for what breaks a rule; 422 with a message alone for old spellings that cannot be brought into today's. Of very many errors a hundred are told.

What differs on purpose:

* `null` for a field gives its default back; Marathon passes it over, so that nothing can be taken back by a partial update.
* A partial update with `cmd` takes `args` back, and the other way round; Marathon refuses it.
* What `GET` shows makes the same app when it is sent: also health checks on an app's default port have `portIndex` 0.
* A definition takes at most 1 MiB, a body 16 MiB; amounts end at 10^12, instances at a million.
* Circles of dependencies are named.
* A group that exists only because something lies in it goes with the last of that; one that was named in a request for groups stays.
* A group's tree may have `pods`. In it nothing may be named twice, and flaws of its apps have their paths within the tree.
* Apps, pods and groups have an `ETag`; `If-Match` and `If-None-Match` are heeded where one is read, changed or removed (304, 412).
* `enforceRole` that is left out stays as it is; what lies in no group that enforces its role may name any role.
* Unknown routes are answered with 404, not 500. A scheduler that does not lead answers 307 and names the one that does; the gateway follows.
* Unknown fields are passed over, as in Marathon.
";

/// The document.
#[must_use]
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    out.push_str("\n## Requests\n\n| Request | Parameters | |\n|---|---|---|\n");
    for endpoint in ENDPOINTS {
        let query = endpoint.query.iter().map(|(name, standing)| match standing {
            Standing::Works => format!("`{name}`"),
            other => format!("`{name}` ({})", words(*other)),
        });
        let query = query.collect::<Vec<_>>().join(", ");
        let methods = endpoint.methods.join(", ");
        let _ = writeln!(out, "| {methods} `{}` | {query} | {} |", endpoint.path, words(endpoint.standing));
    }
    out.push_str("\n## Fields of apps\n");
    let mut seen = BTreeSet::new();
    table(&APP, &mut seen, &mut out);
    out.push_str("\n## Fields of pods\n");
    table(&POD, &mut seen, &mut out);
    out.push_str("\n## Fields of groups\n");
    table(&GROUP, &mut seen, &mut out);
    out.push_str("\n## Fields of answers\n");
    for (name, fields) in ANSWERS {
        let _ = write!(out, "\n### {name}\n\n| Field | |\n|---|---|\n");
        list(fields, &mut out);
    }
    out.push_str("\n## Types of events\n\n| Type | |\n|---|---|\n");
    list(EVENTS, &mut out);
    out
}

fn list(fields: &[(&str, Standing)], out: &mut String) {
    for (name, standing) in fields {
        let _ = writeln!(out, "| `{name}` | {} |", words(*standing));
    }
}

fn words(standing: Standing) -> String {
    match standing {
        Standing::Works => "works".to_owned(),
        Standing::Shown => "shown".to_owned(),
        Standing::Differs(how) => format!("works; {how}"),
        Standing::Kept(why) => format!("kept without effect: {why}"),
        Standing::Older(now) => format!("older spelling of {now}"),
        Standing::Refused(why) => format!("refused: {why}"),
        Standing::Missing(why) => format!("not there: {why}"),
    }
}

/// A table and, below it, those of the objects in it, each once.
fn table(table: &'static Table, seen: &mut BTreeSet<&'static str>, out: &mut String) {
    if !seen.insert(table.name) {
        return;
    }
    let _ = write!(out, "\n### {}\n\n| Field | Value | Left out | |\n|---|---|---|---|\n", table.name);
    for field in table.fields {
        let (value, absent) = (value(&field.shape), absent(field));
        let _ = writeln!(out, "| `{}` | {value} | {absent} | {} |", field.name, words(field.standing));
    }
    for field in table.fields {
        inner(&field.shape, &mut |inside| self::table(inside, seen, out));
    }
}

/// The tables within a shape.
pub(crate) fn inner(shape: &Shape, each: &mut dyn FnMut(&'static Table)) {
    match shape {
        Shape::Object(table) | Shape::TextOr(table) => each(table),
        Shape::OneOf(kinds) => kinds.iter().for_each(|(_, table)| each(table)),
        Shape::List(of, _) | Shape::Set(of, _) | Shape::Map(of) | Shape::Or(_, of) => inner(of, each),
        _ => {}
    }
}

fn absent(field: &Field) -> String {
    match field.default {
        Default::Required => "an error".to_owned(),
        Default::Absent => String::new(),
        Default::Number(n) => n.to_string(),
        Default::Text(text) => format!("`\"{text}\"`"),
        Default::Flag(flag) => flag.to_string(),
        Default::List => "`[]`".to_owned(),
        Default::Map => "`{}`".to_owned(),
        Default::Derived(how) => how.to_owned(),
    }
}

fn value(shape: &Shape) -> String {
    let choice = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    match shape {
        Shape::Text(rule) => rule.words(),
        Shape::Whole(least, i64::MAX) => format!("whole number from {least}"),
        Shape::Whole(least, most) => format!("whole number, {least} to {most}"),
        Shape::Number(least, most) => format!("number, {least} to {most}"),
        Shape::Flag => "`true` or `false`".to_owned(),
        Shape::Word(words) => choice(words),
        Shape::List(of, 0) => format!("list of {}", value(of)),
        Shape::List(of, least) => format!("list of at least {least} {}", value(of)),
        Shape::Set(of, 0) => format!("set of {}", value(of)),
        Shape::Set(of, least) => format!("set of at least {least} {}", value(of)),
        Shape::Map(of) => format!("names with {}", value(of)),
        Shape::Object(table) => table.name.to_owned(),
        Shape::OneOf(kinds) => kinds.iter().map(|(_, table)| table.name).collect::<Vec<_>>().join(" or "),
        Shape::Or(words, of) => format!("{} or {}", choice(words), value(of)),
        Shape::TextOr(table) => format!("text or {}", table.name),
        Shape::TextOrNumber => "`unlimited` or number".to_owned(),
        Shape::Moment => "moment (RFC 3339)".to_owned(),
    }
}
