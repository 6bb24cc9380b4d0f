//! The typed client of a cluster: one session with its address, authority and token. Apps are in [`apps`], their versions, pods,
//! groups and deployments in [`services`], packages in
//! [`packages`], tasks, nodes and their files in [`nodes`], commands inside
//! of tasks in [`exec`].

pub mod apps;
pub mod ended;
pub mod exec;
pub mod nodes;
pub mod packages;
pub mod quotas;
pub mod services;

use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE};
use plenum_base::client::{Call, Client, Credentials, Reply};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::error::{CliError, Result};
use crate::text::clean;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(30);
/// Bytes of a text that are read.
const TEXT: usize = 1 << 20;
/// Bytes of a refusal that are read.
const REFUSAL: usize = 256 * 1024;

/// A conversation with one cluster. Clones share connections.
#[derive(Debug, Clone)]
pub struct Session {
    client: Client,
    url: String,
    instance: String,
    known: bool,
}

/// Reads a field that may be null as its default: other implementations write null for what is absent.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Quantities: null is zero, and whole numbers are written as such, as the cluster writes them.
pub(crate) mod quantity {
    use serde::{Deserializer, Serializer};

    /// Up to here every whole number has a value of its own.
    const EXACT: f64 = 9e15;

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        super::or_default(deserializer)
    }

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.fract() == 0.0 && value.abs() < EXACT {
            // In range and whole.
            #[allow(clippy::cast_possible_truncation)]
            return serializer.serialize_i64(*value as i64);
        }
        serializer.serialize_f64(*value)
    }
}

/// The address without what does not belong to one; plain HTTP only where nobody can listen in.
///
/// # Errors
/// [`CliError::Usage`].
pub fn checked_url(url: &str) -> Result<String> {
    let url = url.trim();
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let full = full.trim_end_matches('/').to_owned();
    let parsed: http::Uri = full
        .parse()
        .map_err(|_| CliError::Usage(format!("{} is no address; use https://HOST[:PORT]", clean(url))))?;
    let host = parsed.host().unwrap_or_default().trim_matches(['[', ']']);
    let path = parsed.path_and_query().map_or("/", |path| path.as_str());
    if host.is_empty() || path != "/" || parsed.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(CliError::Usage(format!("{} is no address; use https://HOST[:PORT]", clean(url))));
    }
    let near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match parsed.scheme_str() {
        Some("https") => Ok(full),
        Some("http") if near => Ok(full),
        Some("http") => Err(CliError::Usage(format!(
            "{full} would send your token for everybody to read; use https://{host}"
        ))),
        _ => Err(CliError::Usage(format!("{} begins neither with https:// nor with http://", clean(url)))),
    }
}

impl Session {
    /// A session with the cluster at `url` whose authority is `ca` (PEM; may be empty for plain HTTP), as the holder of `token`.
    /// `instance` is the name that hints speak of.
    ///
    /// # Errors
    /// [`CliError::Usage`] for an address that cannot be one, [`CliError::Local`] for a CA that cannot be read.
    pub fn new(instance: &str, url: &str, ca: &str, token: Option<&str>) -> Result<Self> {
        let url = checked_url(url)?;
        let client = if ca.is_empty() { Client::plain() } else { Client::with_ca(ca) };
        let client = client.map_err(|error| {
            CliError::Local(format!(
                "the cluster's CA certificate cannot be used: {error}; run `plenum login` again"
            ))
        })?;
        let client = match token {
            Some(token) => client.with_credentials(Credentials::Token(token.to_owned())),
            None => client,
        };
        Ok(Self { client, url, instance: instance.to_owned(), known: token.is_some() })
    }

    /// Logs in with a password and gives the session and its token.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn login(
        instance: &str,
        url: &str,
        ca: &str,
        uid: &str,
        password: &str,
    ) -> Result<(Self, String)> {
        #[derive(Deserialize)]
        struct Answer {
            token: String,
        }
        let session = Self::new(instance, url, ca, None)?;
        let call = session.call(Method::POST, "/acs/api/v1/auth/login");
        let reply = call.json(&json!({"uid": uid, "password": password})).send().await?;
        if !reply.status.is_success() {
            let status = reply.status;
            let body = reply.bytes_up_to(REFUSAL).await.unwrap_or_default();
            let refusal = CliError::refusal(status, &body);
            return Err(match status.as_u16() {
                401 => CliError::NotLoggedIn(format!("{refusal}; check the user name and the password")),
                _ => refusal,
            });
        }
        let answer: Answer = read(session.url(), reply).await?;
        let session = Self::new(instance, url, ca, Some(&answer.token))?;
        Ok((session, answer.token))
    }

    /// The cluster's address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name that hints speak of.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Begins a call to a path of the gateway.
    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        self.client.call(method, &format!("{}{path}", self.url)).deadline(CALL)
    }

    /// Sends a call; every status but 2xx becomes an error.
    pub(crate) async fn send(&self, call: Call) -> Result<Reply> {
        let reply = call.send().await?;
        let status = reply.status;
        if status.is_success() {
            return Ok(reply);
        }
        if status.as_u16() == 401 {
            return Err(self.unknown());
        }
        if status.is_redirection() {
            let reason = format!("it points elsewhere ({status})");
            return Err(CliError::Answer { url: self.url.clone(), reason });
        }
        // The status is the message, also when the body does not arrive.
        let body = reply.bytes_up_to(REFUSAL).await.unwrap_or_default();
        Err(CliError::refusal(status, &body))
    }

    fn unknown(&self) -> CliError {
        let login = if self.instance == "default" {
            "plenum login".to_owned()
        } else {
            format!("plenum login --instance {}", self.instance)
        };
        CliError::NotLoggedIn(if self.known {
            format!("your login at {} has ended; run `{login}`", self.url)
        } else {
            format!("you are not logged in at {}; run `{login}`", self.url)
        })
    }

    /// Asks for a text behind the gateway, such as a page of an installed service.
    ///
    /// # Errors
    /// [`CliError`].
    pub async fn text(&self, path: &str) -> Result<String> {
        let reply = self.call(Method::GET, path).send().await?.success().await?;
        Ok(String::from_utf8_lossy(&reply.bytes_up_to(TEXT).await?).into_owned())
    }

    /// GETs JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let call = self.call(Method::GET, path).header(ACCEPT, "application/json");
        let reply = self.send(call).await?;
        read(&format!("{}{path}", self.url), reply).await
    }

    /// Sends JSON, reads JSON.
    pub(crate) async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let reply = self.send(self.call(method, path).json(body)).await?;
        read(&format!("{}{path}", self.url), reply).await
    }

    /// Asks the catalog: each of its endpoints has media types of its own.
    pub(crate) async fn ask_catalog<T: DeserializeOwned>(
        &self,
        path: &str,
        name: &str,
        version: u8,
        body: &Value,
    ) -> Result<T> {
        let request = format!("application/vnd.dcos.{name}-request+json;charset=utf-8;version=v1");
        let response = format!("application/vnd.dcos.{name}-response+json;charset=utf-8;version=v{version}");
        let call = self.call(Method::POST, path).json(body);
        let call = call.header(CONTENT_TYPE, &request).header(ACCEPT, &response);
        // An installation waits for other components.
        let reply = self.send(call.deadline(CALL * 2)).await?;
        read(&format!("{}{path}", self.url), reply).await
    }
}

async fn read<T: DeserializeOwned>(url: &str, reply: Reply) -> Result<T> {
    let bytes = reply.bytes().await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| CliError::Answer { url: clean(url), reason: clean(&error.to_string()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for (given, want) in [
            ("https://h:8443/", "https://h:8443"),
            ("h.example", "https://h.example"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80"),
            ("http://[::1]", "http://[::1]"),
            ("http://localhost", "http://localhost"),
        ] {
            assert_eq!(checked_url(given).unwrap(), want);
        }
        for bad in
            ["http://h.example", "ftp://h", "", "https://h/path", "https://u:p@h", "https://h b", "https://"]
        {
            assert!(matches!(checked_url(bad), Err(CliError::Usage(_))), "{bad}");
        }
    }
}
