//! What a registry asks for when it answers 401: the `WWW-Authenticate` header. Pure.

/// How a registry wants to be told who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// Where tokens are given.
        realm: String,
        /// For whom.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

/// Reads one header's value; a Bearer challenge is preferred where there are several.
pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut found = None;
    for header in headers.take(10) {
        let header = header.trim_start();
        let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            found = found.or(Some(Challenge::Basic));
        } else if scheme.eq_ignore_ascii_case("bearer") {
            let pairs = pairs(rest);
            let value = |name: &str| {
                pairs.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
            };
            if let Some(realm) = value("realm") {
                return Some(Challenge::Bearer { realm, service: value("service"), scope: value("scope") });
            }
        }
    }
    found
}

/// `name="value"` or `name=value`, with commas between them.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while pairs.len() < 20 {
        let Some((name, after)) = rest.split_once('=') else { break };
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let end = after.find(',').unwrap_or(after.len());
                let (value, next) = after.split_at(end);
                (value.trim().to_owned(), next)
            }
        };
        pairs.push((name.trim_matches([' ', ',', '\t']).to_owned(), value));
        rest = next;
    }
    pairs
}

/// The text up to the closing quote, and what follows it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (headers, want) in [
            (
                &[r#"Bearer realm="https://t.test/token",service="r.test",scope="repository:a:pull,push""#][..],
                bearer("https://t.test/token", Some("r.test"), Some("repository:a:pull,push")),
            ),
            (&[r#"bearer realm=https://t.test/, service=x"#], bearer("https://t.test/", Some("x"), None)),
            (&[r#"Basic realm="x""#], Some(Challenge::Basic)),
            (&[r#"Basic realm="x""#, r#"Bearer realm="y""#], bearer("y", None, None)),
            (&[r#"Bearer realm="a\"b"#], bearer("a\"b", None, None)),
            (&["Bearer"], None),
            (&["Negotiate"], None),
            (&["", "===", "Bearer ===,,,\"\""], None),
        ] {
            assert_eq!(parse(headers.iter().copied()), want, "{headers:?}");
        }
    }
}
