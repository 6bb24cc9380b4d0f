//! Rules for texts, by Marathon's patterns, without a regular expression where one pass over the characters says it.

/// What a text must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anything.
    Any,
    /// At least and at most so many characters.
    Length(usize, usize),
    /// A name of a port or an endpoint of at most so many characters.
    Name(usize),
    /// The name of a network.
    Network,
    /// A path of an app, possibly relative.
    Id,
}

impl Rule {
    /// The errors of `text`.
    pub fn broken(self, text: &str) -> Vec<&'static str> {
        let length = text.chars().count();
        let (least, most, fits) = match self {
            Self::Any => return Vec::new(),
            Self::Length(least, most) => (least, most, true),
            Self::Name(most) => (1, most, is_name(text, b"-")),
            Self::Network => (1, 63, is_name(text, b"-_")),
            Self::Id => (1, usize::MAX, is_id(text)),
        };
        let errors = [
            (length < least, "error.minLength"),
            (length > most, "error.maxLength"),
            (!fits, "error.pattern"),
        ];
        errors.into_iter().filter(|(broken, _)| *broken).map(|(_, error)| error).collect()
    }

    /// The rule in words.
    pub fn words(self) -> String {
        match self {
            Self::Any => "text".to_owned(),
            Self::Length(1, usize::MAX) => "text, not empty".to_owned(),
            Self::Length(least, most) => format!("text of {least} to {most} characters"),
            Self::Name(usize::MAX) => "`[a-z0-9]([-a-z0-9]*[a-z0-9])?`".to_owned(),
            Self::Name(most) => format!("`[a-z0-9]([-a-z0-9]*[a-z0-9])?`, up to {most} characters"),
            Self::Network => "`[a-z0-9]([-a-z0-9_]*[a-z0-9])?`, up to 63 characters".to_owned(),
            Self::Id => {
                "path of segments `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, joined by dots, and `..`".to_owned()
            }
        }
    }
}

/// Lower-case letters and digits, with `inner` characters anywhere but at the ends.
fn is_name(text: &str, inner: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || inner.contains(b))
}

/// Segments between single slashes: names joined by dots, or `..`.
fn is_id(text: &str) -> bool {
    let segment = |part: &str| part == ".." || part.split('.').all(|label| is_name(label, b"-"));
    let inner = text.strip_prefix('/').unwrap_or(text);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    !text.is_empty() && inner.split('/').all(|part| part.is_empty() || segment(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (rule, text, want) in [
            (Rule::Name(63), "http-api", &[][..]),
            (Rule::Name(63), "", &["error.minLength", "error.pattern"]),
            (Rule::Name(3), "abcd", &["error.maxLength"]),
            (Rule::Name(63), "a_b", &["error.pattern"]),
            (Rule::Network, "a_b", &[]),
            (Rule::Network, "a-", &["error.pattern"]),
            (Rule::Length(1, 3), "äöü", &[]),
            (Rule::Id, "/a.b/c-1", &[]),
            (Rule::Id, "../a", &[]),
            (Rule::Id, "//a//b/", &[]),
            (Rule::Id, "/", &[]),
            (Rule::Id, "", &["error.minLength", "error.pattern"]),
            (Rule::Id, "/A", &["error.pattern"]),
            (Rule::Id, "/a/-b", &["error.pattern"]),
            (Rule::Id, "/a/./b", &["error.pattern"]),
            (Rule::Id, "/a b", &["error.pattern"]),
        ] {
            assert_eq!(rule.broken(text), want, "{rule:?} {text}");
        }
    }
}
