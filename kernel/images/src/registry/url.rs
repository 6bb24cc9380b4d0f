//! URLs of registries: hosts, redirects, query parts. Pure.

use http::Uri;

/// The host of a URL, with its port where it has one.
pub fn host_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return None;
    }
    let authority = uri.authority()?.as_str();
    let host = authority.rsplit('@').next().unwrap_or(authority);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// Scheme, host and port: where credentials may go.
pub fn origin(url: &str) -> Option<String> {
    let (scheme, _) = url.split_once("://")?;
    Some(format!("{}://{}", scheme.to_ascii_lowercase(), host_of(url)?))
}

/// Where a redirect leads.
pub fn redirect(from: &str, location: &str) -> Option<String> {
    let uri: Uri = from.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let authority = uri.authority()?.as_str();
    let target = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let target = target.split('#').next().unwrap_or_default().to_owned();
    host_of(&target).map(|_| target)
}

/// For a query's value or a form's.
pub fn escaped(text: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                escaped.push(char::from(byte))
            }
            // Writing to a text does not fail.
            _ => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}

/// The URL with another pair in its query.
pub fn with_query(url: &str, name: &str, value: &str) -> String {
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}{name}={}", escaped(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(host_of("https://u:p@H:5/x").as_deref(), Some("h:5"));
        assert_eq!(host_of("ftp://h/x"), None);
        assert_eq!(host_of("h:5"), None);
        assert_eq!(origin("HTTPS://h/x").as_deref(), Some("https://h"));
        for (location, want) in [
            ("https://x/y#z", Some("https://x/y")),
            ("//x/y", Some("https://x/y")),
            ("/y?a", Some("https://h:1/y?a")),
            ("y", Some("https://h:1/a/y")),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(redirect("https://h:1/a/b?q", location).as_deref(), want, "{location}");
        }
        assert_eq!(
            with_query("http://t/x?a=1", "scope", "repository:a b:pull"),
            "http://t/x?a=1&scope=repository:a%20b:pull"
        );
    }
}
