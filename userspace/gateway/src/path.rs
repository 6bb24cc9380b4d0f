//! Request paths, taken apart once: segments decoded for matching, the rest kept exactly as it was sent. A path that two readers could
//! understand differently is refused here, before anything is matched.

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not of the form `/...`.
    #[error("the path must begin with a slash")]
    Form,
    /// A `.` or `..` segment, plain or encoded.
    #[error("the path must not contain . or .. segments, encoded or not")]
    Dots,
    /// A percent sign without two hexadecimal digits after it.
    #[error("the path has a percent sign that encodes nothing")]
    Encoding,
    /// An encoded control character.
    #[error("the path must not contain control characters")]
    Control,
}

/// One non-empty segment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    /// Decoded once.
    text: String,
    /// Where it ends in the raw path.
    end: usize,
}

/// A checked path. Empty segments (doubled slashes) count for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    raw: &'a str,
    segments: Vec<Segment>,
}

impl<'a> Path<'a> {
    /// Reads a raw path (without its query).
    ///
    /// # Errors
    /// [`PathError`].
    pub fn read(raw: &'a str) -> Result<Self, PathError> {
        if !raw.starts_with('/') {
            return Err(PathError::Form);
        }
        let mut segments = Vec::new();
        let mut end = 0;
        for part in raw.split('/') {
            end += part.len();
            if !part.is_empty() {
                segments.push(Segment { text: decode(part)?, end });
            }
            end += 1;
        }
        Ok(Self { raw, segments })
    }

    /// How many segments there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The `n`-th segment, decoded once; empty beyond the end.
    #[must_use]
    pub fn segment(&self, n: usize) -> &str {
        self.segments.get(n).map_or("", |segment| &segment.text)
    }

    /// The segments from `from` to `to`, decoded once.
    pub fn segments(&self, from: usize, to: usize) -> impl Iterator<Item = &str> {
        self.segments.iter().skip(from).take(to.saturating_sub(from)).map(|segment| segment.text.as_str())
    }

    /// What follows the first `n` segments, as it was sent: empty, or beginning with a slash.
    #[must_use]
    pub fn rest(&self, n: usize) -> &'a str {
        let end = n.checked_sub(1).and_then(|last| self.segments.get(last)).map_or(0, |segment| segment.end);
        self.raw.get(end..).unwrap_or_default()
    }

    /// The path up to the end of the `n`-th segment, as it was sent, but beginning with one slash: `//a/b` in a redirect is a host.
    #[must_use]
    pub fn up_to(&self, n: usize) -> &'a str {
        let end = n.checked_sub(1).and_then(|last| self.segments.get(last)).map_or(0, |segment| segment.end);
        let path = self.raw.get(..end).unwrap_or_default();
        let doubled = path.len() - path.trim_start_matches('/').len();
        path.get(doubled.saturating_sub(1)..).unwrap_or_default()
    }
}

/// Decodes one segment once and refuses what it must not hold.
fn decode(part: &str) -> Result<String, PathError> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (Some(high), Some(low)) = (after.first().and_then(hex), after.get(1).and_then(hex)) else {
            return Err(PathError::Encoding);
        };
        bytes.push(high << 4 | low);
        rest = after.get(2..).unwrap_or_default();
    }
    if bytes.iter().any(u8::is_ascii_control) {
        return Err(PathError::Control);
    }
    // An encoded slash or a backslash is a separator to some readers.
    if bytes.split(|byte| matches!(byte, b'/' | b'\\')).any(|piece| piece == b"." || piece == b"..") {
        return Err(PathError::Dots);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Percent-encodes everything but unreserved characters.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.extend(char::from_digit(u32::from(nibble), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_and_kept() {
        let path = Path::read("//service///a%20b/v2/apps//x?").unwrap();
        assert_eq!(path.len(), 5);
        assert_eq!(path.segments(0, 3).collect::<Vec<_>>(), ["service", "a b", "v2"]);
        assert_eq!(path.rest(2), "/v2/apps//x?");
        assert_eq!((path.up_to(2), path.rest(0)), ("/service///a%20b", "//service///a%20b/v2/apps//x?"));
        assert_eq!((path.rest(5), path.rest(9), path.segment(9)), ("", "//service///a%20b/v2/apps//x?", ""));
        assert_eq!(Path::read("/a/").unwrap().rest(1), "/");
        assert!(Path::read("/").unwrap().is_empty());
        assert_eq!(Path::read("/slave%281%29/%252e%252e").unwrap().segment(0), "slave(1)");
        assert_eq!(Path::read("/%ff").unwrap().segment(0), "\u{fffd}");
    }

    #[test]
    fn hostile_paths_are_refused() {
        let cases = [
            ("", PathError::Form),
            ("*", PathError::Form),
            ("http://other/", PathError::Form),
            ("/a/../b", PathError::Dots),
            ("/a/.", PathError::Dots),
            ("/%2e%2E/x", PathError::Dots),
            ("/a%2f..%2fb", PathError::Dots),
            ("/a%5c..", PathError::Dots),
            ("/..%2f", PathError::Dots),
            ("/%", PathError::Encoding),
            ("/%4", PathError::Encoding),
            ("/%zz", PathError::Encoding),
            ("/%+1", PathError::Encoding),
            ("/%00", PathError::Control),
            ("/a%0d%0ab", PathError::Control),
        ];
        for (raw, error) in cases {
            assert_eq!(Path::read(raw), Err(error), "{raw}");
        }
        for good in ["/...", "/a..b", "/.a", "/a%2fb", "/%25"] {
            assert!(Path::read(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn encoding_leaves_unreserved_characters() {
        assert_eq!(encode("aZ-._~0 /é"), "aZ-._~0%20%2F%C3%A9");
    }
}
