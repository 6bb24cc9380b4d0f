//! Sources: what a URI means, what it is called, and how it is shown without its secrets. Pure.

use super::FetchError;
use http::Uri;
use std::path::PathBuf;

/// Where something comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A server.
    Http(Uri),
    /// A file of this machine.
    File(PathBuf),
}

impl Source {
    /// Understands a URI or an absolute path.
    pub fn parse(text: &str, local_files: bool) -> Result<Self, FetchError> {
        let text = text.trim();
        let refuse = |reason: &str| FetchError::Uri { uri: cut_secrets(text), reason: reason.to_owned() };
        let path = text.strip_prefix("file://localhost/").or_else(|| text.strip_prefix("file:///"));
        let path =
            path.map(|rest| format!("/{rest}")).or_else(|| text.starts_with('/').then(|| text.to_owned()));
        if let Some(path) = path {
            if !local_files {
                return Err(refuse("files of the machine are not allowed here"));
            }
            return Ok(Source::File(path.into()));
        }
        let lower = text.to_ascii_lowercase();
        if !(lower.starts_with("http://") || lower.starts_with("https://")) {
            return Err(refuse("use http://, https://, file:/// or an absolute path"));
        }
        // A fragment is not part of what is asked for.
        let text = text.split('#').next().unwrap_or(text);
        let uri: Uri = text.parse().map_err(|_| refuse("not a valid URI"))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err(refuse("the host is missing"));
        }
        Ok(Source::Http(uri))
    }

    /// For messages: without user, password and query.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Source::Http(uri) => shown(uri),
            Source::File(path) => path.display().to_string(),
        }
    }

    /// The last part of the path.
    pub fn file_name(&self) -> Result<String, FetchError> {
        let path = match self {
            Source::Http(uri) => uri.path().to_owned(),
            Source::File(path) => path.to_string_lossy().into_owned(),
        };
        let name = path.rsplit('/').next().unwrap_or("");
        if name.is_empty() || name == "." || name == ".." {
            let reason = "it does not end in a file name; set output_file".into();
            return Err(FetchError::Uri { uri: self.shown(), reason });
        }
        Ok(name.to_owned())
    }
}

/// See [`Source::shown`].
#[must_use]
pub fn shown(uri: &Uri) -> String {
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let host = host.rsplit('@').next().unwrap_or("");
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("http"), uri.path())
}

fn cut_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or("");
    let text = match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => text.to_owned(),
    };
    text.chars().take(200).collect()
}

/// User and password of a URI, as they are written.
#[must_use]
pub fn credentials(uri: &Uri) -> Option<&str> {
    uri.authority()?.as_str().rsplit_once('@').map(|(user, _)| user)
}

/// Where a redirect leads, or why it is not followed.
pub fn redirect(from: &Uri, location: &str) -> Result<Uri, &'static str> {
    let scheme = from.scheme_str().unwrap_or("http");
    let host = from.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or(""));
    let target = match location {
        _ if location.contains("://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{host}{location}"),
        _ => {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{host}{folder}/{location}")
        }
    };
    let target = target.split('#').next().unwrap_or("");
    let uri: Uri = target.parse().map_err(|_| "the redirect is not a valid URI")?;
    match (scheme, uri.scheme_str()) {
        (_, Some("https")) | ("http", Some("http")) => Ok(uri),
        ("https", Some("http")) => Err("the redirect leads from https to http"),
        _ => Err("the redirect leads to another protocol"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_their_names() {
        for (text, shown, name) in [
            ("http://h/a/b.tgz?sig=secret#f", "http://h/a/b.tgz", Some("b.tgz")),
            ("HTTPS://user:pw@h:8443/x", "https://h:8443/x", Some("x")),
            ("file:///etc/passwd", "/etc/passwd", Some("passwd")),
            ("file://localhost/etc/passwd", "/etc/passwd", Some("passwd")),
            (" /etc/passwd ", "/etc/passwd", Some("passwd")),
            ("http://h", "http://h/", None),
            ("http://h/a/..", "http://h/a/..", None),
        ] {
            let source = Source::parse(text, true).unwrap();
            assert_eq!(
                (source.shown().as_str(), source.file_name().ok().as_deref()),
                (shown, name),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_fetched_is_refused_without_showing_secrets() {
        for text in [
            "ftp://user:secret@h/x?secret",
            "hdfs:/x",
            "relative",
            "",
            "http://",
            "http://us er@h/secret?secret",
        ] {
            let error = Source::parse(text, true).unwrap_err().to_string();
            assert!(!error.contains("secret@") && !error.contains("?secret"), "{error}");
        }
        assert!(Source::parse("/etc/passwd", false).is_err());
    }

    #[test]
    fn redirects() {
        let from: Uri = "https://u:p@h:1/a/b?q".parse().unwrap();
        for (location, want) in [
            ("https://x/y#z", Ok("https://x/y")),
            ("//x/y", Ok("https://x/y")),
            ("/y", Ok("https://h:1/y")),
            ("y?z", Ok("https://h:1/a/y?z")),
            ("http://x/y", Err("the redirect leads from https to http")),
            ("ftp://x/y", Err("the redirect leads to another protocol")),
        ] {
            assert_eq!(
                redirect(&from, location).map(|uri| uri.to_string()),
                want.map(str::to_owned),
                "{location}"
            );
        }
    }
}
