//! Names of images: `[host[:port]/]repository[:tag][@digest]`, as the Docker engine reads them. Pure.

use std::fmt;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::settings::Settings;

/// An image by its name, with its registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The tag of a name without one.
pub const LATEST: &str = "latest";

impl Reference {
    /// Reads a name; one without a host is completed from the settings.
    ///
    /// # Errors
    /// [`ImageError::Reference`], [`ImageError::NoRegistry`].
    pub fn parse(name: &str, settings: &Settings) -> Result<Self, ImageError> {
        let wrong = |reason: &str| ImageError::Reference {
            name: name.chars().take(300).collect(),
            reason: reason.to_owned(),
        };
        if name.len() > 4096 {
            return Err(wrong("it is too long"));
        }
        let text = name.strip_prefix("docker://").unwrap_or(name);
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| wrong("what follows @ is not sha256:<64 digits>"))?;
                (rest, Some(digest))
            }
        };
        let (host, path) = match rest.split_once('/') {
            Some((host, path)) if is_host(host) => (Some(host), path),
            _ => (None, rest),
        };
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag has at most 128 letters, digits, '_', '.' and '-'"));
        }
        if path.is_empty() || path.len() > 255 || !path.split('/').all(is_component) {
            return Err(wrong(
                "a repository is made of lower-case letters and digits, with '.', '_', '-' inside and '/' between its parts",
            ));
        }
        let (registry, repository) = match host {
            Some(host) if valid_host(host) => (host.to_ascii_lowercase(), path.to_owned()),
            Some(_) => return Err(wrong("the registry's host is not valid")),
            None => {
                let registry = settings.default_registry.clone();
                let registry = registry.ok_or_else(|| ImageError::NoRegistry { name: name.to_owned() })?;
                let namespace = settings.default_namespace.as_ref().filter(|_| !path.contains('/'));
                (registry, namespace.map_or_else(|| path.to_owned(), |first| format!("{first}/{path}")))
            }
        };
        Ok(Self { registry, repository, tag: tag.map(str::to_owned), digest })
    }

    /// The registry's host, with its port where the name has one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest, where the name is pinned already.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a registry is asked for: the digest, else the tag, else [`LATEST`].
    #[must_use]
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| LATEST.to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// The first part is a host when it cannot be a repository's part of a default registry.
fn is_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':', '[']) || part.bytes().any(|b| b.is_ascii_uppercase())
}

fn valid_host(host: &str) -> bool {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        return port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    } else {
        host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)))
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().copied().is_some_and(plain) && bytes.last().copied().is_some_and(plain);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let joined =
        |separator: &str| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
    ends && separators.into_iter().all(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            default_registry: Some("hub.test".into()),
            default_namespace: Some("library".into()),
            ..Settings::default()
        }
    }

    #[test]
    fn names_are_read_as_the_engine_reads_them() {
        let digest = Digest::of(b"x").to_string();
        for (name, registry, repository, wanted) in [
            ("alpine", "hub.test", "library/alpine", "latest"),
            ("alpine:3.20", "hub.test", "library/alpine", "3.20"),
            ("team/app:v1", "hub.test", "team/app", "v1"),
            ("localhost/app", "localhost", "app", "latest"),
            ("localhost:5000/app", "localhost:5000", "app", "latest"),
            ("r.test/a/b/c:x_Y.z-1", "r.test", "a/b/c", "x_Y.z-1"),
            ("[::1]:5000/app:1", "[::1]:5000", "app", "1"),
            ("R.Test:443/app", "r.test:443", "app", "latest"),
            ("docker://r.test/app", "r.test", "app", "latest"),
            (&format!("r.test/app:tag@{digest}"), "r.test", "app", &digest),
            ("a__b/c--d.e", "hub.test", "a__b/c--d.e", "latest"),
        ] {
            let reference = Reference::parse(name, &settings()).unwrap();
            assert_eq!(
                (reference.registry(), reference.repository(), reference.wanted().as_str()),
                (registry, repository, wanted),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("r.test/{}", "a".repeat(300));
        for name in [
            "",
            ":",
            "@",
            "a:",
            "a@sha256:12",
            "UPPER",
            "r.test/UPPER",
            "r.test/",
            "r.test//a",
            "r.test/../a",
            "r.test/a/../../b",
            "r.test:port/a",
            "r.test:0/a",
            "r.test:99999/a",
            "-r.test/a",
            "a b",
            "a/.hidden",
            "a/b_",
            "a___b",
            "[::zz]/a",
            "[::1/a",
            "r.test/a?b",
            "r.test/a#b",
            "user@r.test/a",
            "a:b:c",
            "a\n",
            &long,
        ] {
            let error = Reference::parse(name, &settings()).unwrap_err();
            assert_eq!(error.code(), "IMAGE_NAME", "{name}: {error}");
        }
    }

    #[test]
    fn without_a_default_registry_the_name_needs_a_host() {
        let error = Reference::parse("alpine", &Settings::default()).unwrap_err();
        assert_eq!(error.code(), "IMAGE_NO_REGISTRY");
        assert!(error.to_string().contains("<registry host>/alpine"), "{error}");
        assert!(Reference::parse("r.test/alpine", &Settings::default()).is_ok());
    }

    #[test]
    fn written_as_it_was_read() {
        for name in ["r.test/a:1", "r.test:5/a/b", "localhost/x"] {
            assert_eq!(Reference::parse(name, &settings()).unwrap().to_string(), name);
        }
    }
}
