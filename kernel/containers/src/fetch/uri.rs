//! Sources: what a URI means, what it is called, and how it is shown without its secrets. Pure.

use super::FetchError;
use http::Uri;
use plenum_images::Digest;
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

/// Splits off a fragment that says what the content must be: `#sha256=<hex>` or `#sha512=<hex>`, also as one of several
/// parts separated by `&`. Another fragment stays where it is: it may be part of a file's name.
pub fn checksum(text: &str) -> Result<(&str, Option<Digest>), FetchError> {
    let text = text.trim();
    let Some((rest, fragment)) = text.rsplit_once('#') else { return Ok((text, None)) };
    let refuse = |reason: &str| FetchError::Uri { uri: cut_secrets(rest), reason: reason.to_owned() };
    let mut wanted = None;
    for part in fragment.split('&') {
        match part.split_once('=') {
            Some((algorithm @ ("sha256" | "sha512"), hex)) => {
                let digest = format!("{algorithm}:{}", hex.to_ascii_lowercase()).parse();
                wanted = Some(digest.map_err(|_| {
                    refuse("a checksum is #sha256= and 64, or #sha512= and 128 hexadecimal digits")
                })?);
            }
            Some(("md5" | "sha1" | "sha224" | "sha384", _)) => {
                return Err(refuse("checksums are checked by #sha256= or #sha512= only"));
            }
            _ => {}
        }
    }
    Ok(if wanted.is_some() { (rest, wanted) } else { (text, None) })
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
    fn checksums_are_fragments() {
        let (short, long) = ("aB".repeat(32), "cd".repeat(64));
        for (text, want) in [
            (format!("http://h/x#sha256={short}"), Ok(("http://h/x", Some("sha256:abab")))),
            (format!(" /a#b#sha512={long} "), Ok(("/a#b", Some("sha512:cdcd")))),
            (format!("http://h/x#egg=y&sha256={short}"), Ok(("http://h/x", Some("sha256:abab")))),
            ("/a#b".to_owned(), Ok(("/a#b", None))),
            ("http://h/x?y".to_owned(), Ok(("http://h/x?y", None))),
            (format!("http://u:pw@h/x#sha256={long}"), Err(())),
            ("/a#sha256=".to_owned(), Err(())),
            (format!("/a#sha512={short}"), Err(())),
            ("/a#md5=d41d8cd98f00b204e9800998ecf8427e".to_owned(), Err(())),
        ] {
            let found = checksum(&text).map(|(rest, digest)| (rest, digest.map(|d| d.to_string())));
            match (found, want) {
                (Ok((rest, digest)), Ok((want, begins))) => {
                    assert_eq!(rest, want);
                    assert_eq!(digest.is_some(), begins.is_some(), "{text}");
                    assert!(digest.unwrap_or_default().starts_with(begins.unwrap_or("")), "{text}");
                }
                (Err(error), Err(())) => assert!(!error.to_string().contains("pw"), "{error}"),
                (found, want) => panic!("{text}: {found:?}, not {want:?}"),
            }
        }
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
