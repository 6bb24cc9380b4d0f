//! Reads a value by its shape: what comes out has known fields only, each of its type and within its bounds, with defaults filled in.
//! Unknown fields are passed over and `null` is as good as absent, as in Marathon.

use serde_json::{Map, Value};

use super::{Default, Field, Shape, Sign, Table};
use crate::core::error::Flaw;

/// So many flaws are told of, and the rest is not looked for.
const MOST_FLAWS: usize = 100;

/// How much of an object has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What is required, and defaults are filled in.
    Whole,
    /// Whatever there is; a `null` is kept, it asks for the default.
    Partial,
}

/// Reads `body` by `table`.
///
/// # Errors
/// All that is wrong, by path below `at`.
pub fn read(
    table: &Table,
    body: &Map<String, Value>,
    at: &str,
    mode: Mode,
) -> Result<Map<String, Value>, Vec<Flaw>> {
    let mut flaws = Vec::new();
    let out = object(table, body, at, mode, &mut flaws);
    if flaws.is_empty() { Ok(out) } else { Err(flaws) }
}

fn object(
    table: &Table,
    body: &Map<String, Value>,
    at: &str,
    mode: Mode,
    flaws: &mut Vec<Flaw>,
) -> Map<String, Value> {
    let mut out = Map::new();
    for field in table.fields.iter().filter(|f| f.is_read()) {
        let path = format!("{at}/{}", field.name);
        match body.get(field.name) {
            Some(Value::Null) if mode == Mode::Partial => {
                drop(out.insert(field.name.to_owned(), Value::Null))
            }
            Some(given) if !given.is_null() || field.default == Default::Required => {
                if let Some(read) = value(&field.shape, given, &path, flaws) {
                    out.insert(field.name.to_owned(), read);
                }
            }
            _ if mode == Mode::Partial => {}
            _ if field.default == Default::Required => flaws.push(Flaw::new(path, "error.path.missing")),
            _ => {
                if let Some(default) = default(field) {
                    out.insert(field.name.to_owned(), default);
                }
            }
        }
    }
    out
}

/// What a field is where it is left out, if that is anything.
pub(super) fn default(field: &Field) -> Option<Value> {
    Some(match field.default {
        Default::Required | Default::Absent | Default::Derived(_) => return None,
        Default::Number(n) => number(n),
        Default::Text(text) => Value::from(text),
        Default::Flag(flag) => Value::from(flag),
        Default::List => Value::Array(Vec::new()),
        Default::Map => Value::Object(Map::new()),
    })
}

/// A number, without a fraction where it has none.
#[allow(clippy::cast_possible_truncation)]
fn number(n: f64) -> Value {
    if n.fract() == 0.0 && n.abs() < 9e15 { Value::from(n as i64) } else { Value::from(n) }
}

fn value(shape: &Shape, given: &Value, at: &str, flaws: &mut Vec<Flaw>) -> Option<Value> {
    let mut wrong = |error: &str| -> Option<Value> {
        flaws.push(Flaw::new(at, error));
        None
    };
    match (shape, given) {
        (Shape::Text(rule), Value::String(text)) => {
            let broken = rule.broken(text);
            for error in &broken {
                wrong(error);
            }
            broken.is_empty().then(|| given.clone())
        }
        (Shape::Text(_), _) => wrong("error.expected.jsstring"),
        (Shape::Moment, Value::String(text)) => {
            let good = text.parse::<jiff::Timestamp>().is_ok();
            if good { Some(given.clone()) } else { wrong("error.expected.date.isoformat") }
        }
        (Shape::Moment, _) => wrong("error.expected.date"),
        (Shape::Whole(least, most), Value::Number(n)) => whole(n, *least, *most, &mut wrong),
        (Shape::Number(least, most), Value::Number(n)) => {
            let n = n.as_f64().unwrap_or(f64::INFINITY);
            bounded(n, *least, *most, &mut wrong).then(|| number(n))
        }
        (Shape::Whole(..) | Shape::Number(..), _) => wrong("error.expected.jsnumber"),
        (Shape::Flag, Value::Bool(_)) => Some(given.clone()),
        (Shape::Flag, _) => wrong("error.expected.jsboolean"),
        (Shape::Word(words), given) => {
            let known =
                given.as_str().and_then(|text| words.iter().find(|word| word.eq_ignore_ascii_case(text)));
            if known.is_none() {
                wrong("error.unknown.enum.literal");
            }
            known.map(|word| Value::from(*word))
        }
        (Shape::List(of, least), Value::Array(items)) => list(of, items, (*least, false), at, flaws),
        (Shape::Set(of, least), Value::Array(items)) => list(of, items, (*least, true), at, flaws),
        (Shape::List(..) | Shape::Set(..), _) => wrong("error.expected.jsarray"),
        (Shape::Map(of), Value::Object(pairs)) => {
            let mut read = Map::new();
            for (key, one) in pairs {
                if flaws.len() >= MOST_FLAWS {
                    break;
                }
                if let Some(one) = value(of, one, &format!("{at}/{key}"), flaws) {
                    read.insert(key.clone(), one);
                }
            }
            Some(Value::Object(read))
        }
        (Shape::TextOr(_) | Shape::TextOrNumber, Value::String(_)) => Some(given.clone()),
        (Shape::TextOrNumber, Value::Number(n)) => Some(number(n.as_f64().unwrap_or(f64::INFINITY))),
        (Shape::TextOrNumber, _) => wrong("error.expected.jsnumber"),
        (Shape::Object(table) | Shape::TextOr(table), Value::Object(body)) => {
            Some(Value::Object(object(table, body, at, Mode::Whole, flaws)))
        }
        (Shape::OneOf(kinds), Value::Object(body)) => {
            let there = kinds.iter().find(|(sign, _)| match sign {
                Sign::Has(key) => body.get(*key).is_some_and(|v| !v.is_null()),
                Sign::Is(key, word) => body.get(*key).and_then(Value::as_str) == Some(word),
                Sign::Else => true,
            });
            let (_, table) = there.or(kinds.last())?;
            Some(Value::Object(object(table, body, at, Mode::Whole, flaws)))
        }
        (Shape::TextOr(_), _) => wrong("error.expected.jsstring"),
        (Shape::Map(_) | Shape::Object(_) | Shape::OneOf(_), _) => wrong("error.expected.jsobject"),
        (Shape::Or(words, _), Value::String(text)) if words.iter().any(|word| word == text) => {
            Some(given.clone())
        }
        (Shape::Or(_, other), _) => value(other, given, at, flaws),
    }
}

fn whole(
    n: &serde_json::Number,
    least: i64,
    most: i64,
    wrong: &mut impl FnMut(&str) -> Option<Value>,
) -> Option<Value> {
    let word = if most > i64::from(i32::MAX) { "error.expected.long" } else { "error.expected.int" };
    let fits = |n: i64| most > i64::from(i32::MAX) || i32::try_from(n).is_ok();
    // 2.0 is a whole number, too.
    let read =
        n.as_i64().or_else(|| n.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).and_then(exact));
    match read.filter(|n| fits(*n)) {
        None => wrong(word),
        Some(n) if n < least => wrong("error.min"),
        Some(n) if n > most => wrong("error.max"),
        Some(n) => Some(Value::from(n)),
    }
}

#[allow(clippy::cast_possible_truncation)]
fn exact(n: f64) -> Option<i64> {
    Some(n as i64)
}

fn bounded(n: f64, least: f64, most: f64, wrong: &mut impl FnMut(&str) -> Option<Value>) -> bool {
    if n < least {
        wrong("error.min");
    }
    if n > most {
        wrong("error.max");
    }
    n >= least && n <= most
}

fn list(
    of: &Shape,
    items: &[Value],
    (least, once): (usize, bool),
    at: &str,
    flaws: &mut Vec<Flaw>,
) -> Option<Value> {
    let before = flaws.len();
    let mut read: Vec<Value> = Vec::with_capacity(items.len());
    let mut seen = std::collections::HashSet::new();
    for (i, item) in items.iter().enumerate() {
        if flaws.len() >= MOST_FLAWS {
            break;
        }
        if let Some(item) = value(of, item, &format!("{at}({i})"), flaws)
            && (!once || seen.insert(item.to_string()))
        {
            read.push(item);
        }
    }
    if flaws.len() == before && read.len() < least {
        flaws.push(Flaw::new(at, "error.minLength"));
    }
    Some(Value::Array(read))
}
