//! Pull credentials: by registry host, from settings or from the text of a `.docker/config.json`. Never shown.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use crate::error::ImageError;

/// Who a registry is told we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A name and a password, for basic authentication or for getting a token.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// An identity token that is traded for access tokens.
    Identity(String),
    /// A token that the registry takes as it is.
    Bearer(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// Credentials for some registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Auth {
    by_host: BTreeMap<String, Login>,
}

/// The largest `config.json`.
const CONFIG_MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl Auth {
    /// No credentials.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The same with a login for `host` (with its port, where names have one).
    #[must_use]
    pub fn with(mut self, host: &str, login: Login) -> Self {
        self.by_host.insert(host_of(host), login);
        self
    }

    /// Those of `self`, and those of `others` for hosts that `self` does not know.
    #[must_use]
    pub fn or(mut self, others: &Self) -> Self {
        for (host, login) in &others.by_host {
            self.by_host.entry(host.clone()).or_insert_with(|| login.clone());
        }
        self
    }

    /// From the text of a `.docker/config.json`. Entries kept by a credential helper are not in the file and so not here.
    ///
    /// # Errors
    /// [`ImageError::Credentials`], without the content.
    pub fn from_docker_config(text: &str) -> Result<Self, ImageError> {
        let wrong = |reason: String| ImageError::Credentials { reason };
        if text.len() > CONFIG_MAX {
            return Err(wrong("the file is larger than 1 MiB".to_owned()));
        }
        let value: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| wrong(format!("not JSON (line {}, column {})", error.line(), error.column())))?;
        // The older form of the file is the table of registries alone.
        let config: DockerConfig = if value.get("auths").is_some() {
            serde_json::from_value(value)
        } else {
            let mut table = value;
            if let Some(table) = table.as_object_mut() {
                table.retain(|_, entry| entry.is_object() && entry.get("auth").is_some());
            }
            serde_json::from_value(table).map(|auths| DockerConfig { auths })
        }
        .map_err(|_| wrong("it has no table \"auths\" of registries".to_owned()))?;
        let mut auth = Self::none();
        for (host, entry) in config.auths {
            if let Some(login) = entry.login(&host)? {
                auth = auth.with(&host, login);
            }
        }
        Ok(auth)
    }

    /// The login for a registry's host.
    #[must_use]
    pub fn login(&self, host: &str) -> Option<&Login> {
        self.by_host.get(&host_of(host))
    }
}

impl Entry {
    fn login(self, host: &str) -> Result<Option<Login>, ImageError> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Login::Identity(self.identitytoken)));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Login::Bearer(self.registrytoken)));
        }
        if !self.auth.is_empty() {
            let wrong = || ImageError::Credentials {
                reason: format!("the entry of {host:?} is not base64 of <name>:<password>"),
            };
            let text = self.auth.trim().trim_end_matches('\0');
            let bytes =
                STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).map_err(|_| wrong())?;
            let text = String::from_utf8(bytes).map_err(|_| wrong())?;
            let (user, password) = text.split_once(':').ok_or_else(wrong)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Login::Basic { user: user.to_owned(), password }));
        }
        let both = !self.username.is_empty() && !self.password.is_empty();
        Ok(both.then_some(Login::Basic { user: self.username, password: self.password }))
    }
}

/// `https://host/v1/` and `host` are the same; so are `index.host` and `host`, which is how one registry's own tool writes itself.
fn host_of(key: &str) -> String {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest).to_ascii_lowercase();
    match host.strip_prefix("index.") {
        Some(parent) if parent.contains('.') => parent.to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Login {
        Login::Basic { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn both_forms_of_the_file() {
        let entry = STANDARD.encode("me:pass:word");
        let text = format!(
            r#"{{"auths": {{"https://r.test:5000/v1/": {{"auth": "{entry}"}}, "b.test": {{"username": "u", "password": "p"}},
            "c.test": {{"identitytoken": "id"}}, "d.test": {{}}, "index.hub.test": {{"registrytoken": "t"}}}}, "credsStore": "x"}}"#
        );
        let auth = Auth::from_docker_config(&text).unwrap();
        assert_eq!(auth.login("r.test:5000"), Some(&basic("me", "pass:word")));
        assert_eq!(auth.login("B.test"), Some(&basic("u", "p")));
        assert_eq!(auth.login("c.test"), Some(&Login::Identity("id".into())));
        assert_eq!(auth.login("hub.test"), Some(&Login::Bearer("t".into())));
        assert_eq!((auth.login("d.test"), auth.login("r.test")), (None, None));
        let old = Auth::from_docker_config(&format!(r#"{{"r.test": {{"auth": "{entry}"}}}}"#)).unwrap();
        assert_eq!(old.login("r.test"), Some(&basic("me", "pass:word")));
    }

    #[test]
    fn broken_files_say_where_and_not_what() {
        for text in
            ["", "{", "[]", r#"{"auths": 1}"#, r#"{"auths": {"r.test": {"auth": "c2VjcmV0"}}}"#, "secret"]
        {
            let error = Auth::from_docker_config(text).unwrap_err();
            assert_eq!(error.code(), "IMAGE_CREDENTIALS");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert_eq!(format!("{:?}", basic("me", "secret")), "Login(..)");
    }

    #[test]
    fn the_first_of_two_wins() {
        let one = Auth::none().with("a", basic("1", "1"));
        let two = Auth::none().with("a", basic("2", "2")).with("b", basic("2", "2"));
        let both = one.or(&two);
        assert_eq!((both.login("a"), both.login("b")), (Some(&basic("1", "1")), Some(&basic("2", "2"))));
    }
}
