//! Names of images as `docker run` takes them: which registry, which tag. Pure.

/// The registry of names that say none, as credentials are filed under it.
pub const HUB: &str = "https://index.docker.io/v1/";

/// What a pull is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host and port of the registry; [`HUB`] where the name has none.
    pub registry: String,
    /// The name as the engine takes it, without a tag; with the digest if there is one.
    pub name: String,
    /// The tag; empty with a digest.
    pub tag: String,
}

impl Reference {
    /// Parses a name; a sentence if it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > 1024 || text.contains(bad) || text.starts_with(['-', '/', ':']) {
            return Err(format!("{text:?} is no name of an image; write it as registry/name:tag"));
        }
        let first = text.split('/').next().unwrap_or_default();
        let has_host = text.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        let hub = !has_host || matches!(first, "docker.io" | "index.docker.io");
        let registry = if hub { HUB.to_owned() } else { first.to_owned() };
        let (name, tag) = if text.contains('@') {
            (text, "")
        } else {
            // A colon before the last slash belongs to the registry's port.
            match text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
                Some((name, tag)) => (name, tag),
                None => (text, "latest"),
            }
        };
        Ok(Self { registry, name: name.to_owned(), tag: tag.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, registry, name, tag) in [
            ("busybox", HUB, "busybox", "latest"),
            ("library/busybox:1.36", HUB, "library/busybox", "1.36"),
            ("docker.io/a/b", HUB, "docker.io/a/b", "latest"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000", "127.0.0.1:5000/a", "latest"),
            ("localhost/a:x", "localhost", "localhost/a", "x"),
            ("r.example:5000/a/b:x", "r.example:5000", "r.example:5000/a/b", "x"),
            ("r.example/a@sha256:00", "r.example", "r.example/a@sha256:00", ""),
        ] {
            let parsed = Reference::parse(text).unwrap();
            assert_eq!((&*parsed.registry, &*parsed.name, &*parsed.tag), (registry, name, tag), "{text}");
        }
        for bad in ["", "a b", "-x", "/a", ":a", "a\n"] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }
}
