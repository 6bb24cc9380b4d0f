//! YAML as a tree that remembers where each part stood, so that every error can name its line. Only the form is known here; what keys mean is
//! [`crate::schema`]'s.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A place in the text; both from 1. Zero: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct At {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it begins.
    pub at: At,
}

/// A value of YAML.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A number, and as it was written.
    Number(serde_json::Number, String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the order of the text.
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The word.
    pub text: String,
    /// Where it begins.
    pub at: At,
}

impl Node {
    /// The value without places.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(bool) => (*bool).into(),
            Value::Number(number, _) => number.clone().into(),
            Value::Text(text) => text.clone().into(),
            Value::List(list) => list.iter().map(Self::json).collect(),
            Value::Map(map) => {
                serde_json::Value::Object(map.iter().map(|(k, v)| (k.text.clone(), v.json())).collect())
            }
        }
    }

    /// A word for what kind of value it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(..) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The value of a key, where this is a map.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(map) = &self.value else { return None };
        map.iter().find(|(name, _)| name.text == key).map(|(_, node)| node)
    }
}

/// Reads YAML.
///
/// # Errors
/// Where the text is no YAML: its place, and the parser's words.
pub fn parse(text: &str) -> Result<Node, (At, String)> {
    if text.trim().is_empty() {
        return Ok(Node { value: Value::Null, at: At { line: 1, column: 1 } });
    }
    match serde_saphyr::from_str::<Spanned<Raw>>(text) {
        Ok(raw) => Ok(settle(raw, text)),
        Err(error) => {
            let at = error.location().map(|l| at(&l)).unwrap_or_default();
            // The rendered form draws the text around the error; secrets may stand there.
            let words = error.without_snippet().to_string();
            let first = words.lines().next().unwrap_or("it is not YAML").to_owned();
            Err((at, first))
        }
    }
}

fn at(location: &serde_saphyr::Location) -> At {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    At { line: small(location.line()), column: small(location.column()) }
}

/// A value as the parser gives it, with its parts' places.
enum Raw {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<Word>, Spanned<Self>)>),
}

fn settle(raw: Spanned<Raw>, text: &str) -> Node {
    let place = at(&raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Number(number) => {
            // `1.10` as a version or zone must stay what was written.
            let span = raw.referenced.span();
            let (from, length) = (usize::try_from(span.offset()), usize::try_from(span.len()));
            let written: String = match (from, length) {
                (Ok(from), Ok(length)) => text.chars().skip(from).take(length).collect(),
                _ => String::new(),
            };
            let written = written.trim().to_owned();
            let plausible = written.parse::<f64>().is_ok();
            let written = if plausible { written } else { number.to_string() };
            Value::Number(number, written)
        }
        Raw::Text(text) => Value::Text(text),
        Raw::List(list) => Value::List(list.into_iter().map(|node| settle(node, text)).collect()),
        Raw::Map(map) => Value::Map(
            map.into_iter()
                .map(|(key, node)| (Key { at: at(&key.referenced), text: key.value.0 }, settle(node, text)))
                .collect(),
        ),
    };
    Node { value, at: place }
}

/// A key: keys that look like numbers are words, too.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Raw::deserialize(deserializer)? {
            Raw::Text(text) => text,
            Raw::Number(number) => number.to_string(),
            Raw::Bool(value) => value.to_string(),
            Raw::Null => "~".to_owned(),
            Raw::List(_) | Raw::Map(_) => return Err(serde::de::Error::custom("a key must be a word")),
        }))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(serde_json::Number::from_f64(value).map_or_else(|| Raw::Text(value.to_string()), Raw::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_written_numbers_are_kept() {
        let tree = parse("# é\na: 1.10\nb:\n  - x\n  - {c: true, 7: ~}\n").unwrap();
        let Value::Map(map) = &tree.value else { panic!("{tree:?}") };
        assert_eq!((map[0].0.text.as_str(), map[0].0.at), ("a", At { line: 2, column: 1 }));
        assert_eq!(map[0].1.at, At { line: 2, column: 4 });
        assert!(matches!(&map[0].1.value, Value::Number(_, written) if written == "1.10"), "{:?}", map[0].1);
        let Value::List(list) = &map[1].1.value else { panic!() };
        assert_eq!(list[1].at.line, 5);
        assert_eq!(tree.json(), serde_json::json!({"a": 1.10, "b": ["x", {"c": true, "7": null}]}));
        let (at, words) = parse("a: [1\nb: 2").unwrap_err();
        assert!(at.line >= 1 && !words.is_empty(), "{at:?} {words}");
        assert_eq!(parse(" \n").unwrap().value, Value::Null);
    }

    #[test]
    fn hostile_text_is_an_error_at_most() {
        for text in [
            "&a [*a, *a]",
            "a: &x\n  <<: *x",
            "\u{0}",
            "? [a]\n: b",
            &"[".repeat(5000),
            "a: b: c",
            "- !!binary x",
            "a: .inf",
            "%YAML 9",
        ] {
            let _ = parse(text);
        }
    }
}
