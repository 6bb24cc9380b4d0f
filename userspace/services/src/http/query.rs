//! Query strings, percent-encoding and label selectors.

use std::collections::BTreeMap;

use crate::core::error::ApiError;

/// The parameters of a request, in order.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key, true), decode(value, true))
        };
        Self(text.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A boolean in any case; without a value it is true.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ApiError> {
        match self.get(key).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(default),
            Some("" | "true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(ApiError::BadRequest(format!("{key} is true or false, not '{other}'"))),
        }
    }
}

/// Undoes percent-encoding once; what is not well-formed stays as it is.
pub(super) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(i) {
        let hex =
            bytes.get(i.saturating_add(1)..i.saturating_add(3)).and_then(|h| std::str::from_utf8(h).ok());
        match (byte, hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                i += 3;
                continue;
            }
            (b'+', _) if plus => out.push(b' '),
            _ => out.push(*byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Conditions on labels, all of which must hold.
#[derive(Debug)]
pub(super) struct Selector(Vec<(String, Condition)>);

#[derive(Debug)]
enum Condition {
    Exists,
    In(Vec<String>, bool),
}

impl Selector {
    /// Reads `key`, `key==v`, `key!=v`, `key in (a,b)`, `key notin (a,b)`, joined by commas; a backslash takes the
    /// next character as it is.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::BadRequest(format!("The label selector '{text}' cannot be read."));
        let mut conditions = Vec::new();
        for part in split(text, ',') {
            let part = part.trim();
            let set = |word: &str, wanted: bool| {
                let (key, rest) = part.split_once(word)?;
                let list = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
                let values = split(list, ',').iter().map(|v| plain(v.trim())).collect();
                Some((plain(key.trim()), Condition::In(values, wanted)))
            };
            let one = |word: &str, wanted: bool| {
                let (key, value) = part.split_once(word)?;
                Some((plain(key.trim()), Condition::In(vec![plain(value.trim())], wanted)))
            };
            let found = set(" notin ", false)
                .or_else(|| set(" in ", true))
                .or_else(|| one("!=", false))
                .or_else(|| one("==", true))
                .or_else(|| (!part.contains(' ')).then(|| (plain(part), Condition::Exists)));
            let found = found.filter(|(key, _)| !key.is_empty()).ok_or_else(bad)?;
            conditions.push(found);
        }
        Ok(Self(conditions))
    }

    pub(super) fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, condition)| match (condition, labels.get(key)) {
            (Condition::Exists, value) => value.is_some(),
            (Condition::In(values, wanted), Some(value)) => values.contains(value) == *wanted,
            // A label that is not there has none of the values.
            (Condition::In(_, wanted), None) => !wanted,
        })
    }
}

/// Parts between separators that stand neither after a backslash nor in parentheses.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut depth, mut escaped) = (vec![String::new()], 0u32, false);
    for c in text.chars() {
        match c {
            _ if escaped => {}
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            c if c == separator && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    parts
}

fn plain(text: &str) -> String {
    let (mut out, mut escaped) = (String::new(), false);
    for c in text.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(c);
            escaped = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse("force=False&embed=a&embed=b%2Fc&x=1+2&flag&odd=%zz");
        assert_eq!(query.flag("force", true), Ok(false));
        assert_eq!(query.flag("flag", false), Ok(true));
        assert_eq!(query.flag("none", true), Ok(true));
        assert!(query.flag("x", true).is_err());
        assert_eq!(query.all("embed").collect::<Vec<_>>(), ["a", "b/c"]);
        assert_eq!((query.get("x"), query.get("odd")), (Some("1 2"), Some("%zz")));
    }

    #[test]
    fn selectors() {
        let labels = [("env", "prod"), ("a,b", "c")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (text, want) in [
            ("env", true),
            ("none", false),
            ("env==prod", true),
            ("env==test", false),
            ("env!=test", true),
            ("none!=x", true),
            ("env in (test,prod)", true),
            ("env notin (test,prod)", false),
            ("env==prod,none", false),
            (r"a\,b==c", true),
        ] {
            assert_eq!(Selector::parse(text).unwrap().fits(&labels), want, "{text}");
        }
        assert!(Selector::parse("a b").is_err());
    }
}
