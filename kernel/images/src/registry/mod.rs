//! The registry client: the OCI distribution interface over HTTP, with authentication, redirects, mirrors and retries. Gives documents and bytes;
//! where they are kept is the store's business.

mod challenge;
pub mod download;
mod request;
mod tls;
mod url;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::{ACCEPT, CONTENT_LENGTH, RETRY_AFTER};
use parking_lot::Mutex;
use plenum_base::client::{Client, ClientError, Reply};
use plenum_base::retry::Backoff;

use crate::auth::Auth;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest;
use crate::settings::Settings;
use request::Token;

/// A whole document takes at most this long, all of its pieces together.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(120);
/// The longest pause that a registry may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A repository in a registry, and who asks.
#[derive(Debug, Clone)]
pub struct Repository<'a> {
    /// The registry's host.
    pub registry: &'a str,
    /// The repository.
    pub name: &'a str,
    /// Credentials.
    pub auth: &'a Auth,
}

/// A server that may have what is asked for: a mirror or the registry itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://host:port`, perhaps with a path.
    pub base: String,
    /// The host with its port, for credentials and messages.
    pub host: String,
}

/// Why a request did not give what it should.
#[derive(Debug)]
pub enum Failure {
    /// Worth another attempt, after a pause where the registry asks for one.
    Again(String, Option<Duration>),
    /// Nothing arrived.
    Stalled,
    /// There is no such thing here.
    Missing,
    /// Not for us.
    Denied(String),
    /// This server is of no use.
    Useless(ImageError),
}

impl Failure {
    fn from_client(error: ClientError) -> Self {
        match error {
            ClientError::Deadline { .. } => Self::Stalled,
            ClientError::Transport { reason, .. } => Self::Again(reason, None),
            other => Self::Again(other.to_string(), None),
        }
    }

    fn into_error(self, endpoint: &Endpoint, repository: &str, what: &str, stall: Duration) -> ImageError {
        let registry = endpoint.host.clone();
        match self {
            Self::Again(reason, _) => ImageError::Unreachable { registry, reason },
            Self::Stalled => {
                ImageError::Stalled { registry, what: what.to_owned(), seconds: stall.as_secs().max(1) }
            }
            Self::Missing => ImageError::NotFound { registry, what: what.to_owned() },
            Self::Denied(reason) => {
                ImageError::Denied { registry, repository: repository.to_owned(), reason }
            }
            Self::Useless(error) => error,
        }
    }
}

/// Speaks to registries. Holds connections and tokens.
#[derive(Debug)]
pub struct Registries {
    settings: Settings,
    clients: Mutex<HashMap<String, Client>>,
    tokens: Mutex<HashMap<String, Token>>,
}

impl Registries {
    /// With the operator's settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, clients: Mutex::default(), tokens: Mutex::default() }
    }

    /// The servers to ask, in order: the registry's mirrors, then itself.
    fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, ImageError> {
        let mut endpoints = Vec::new();
        for mirror in self.settings.mirrors.get(registry).into_iter().flatten() {
            let base = mirror.trim_end_matches('/').to_owned();
            let host = url::host_of(&base).ok_or_else(|| ImageError::Unreachable {
                registry: registry.to_owned(),
                reason: "one of its mirrors is not a URL: write https://host:port".to_owned(),
            })?;
            endpoints.push(Endpoint { base, host });
        }
        let scheme = if self.settings.insecure.contains(registry) { "http" } else { "https" };
        endpoints.push(Endpoint { base: format!("{scheme}://{registry}"), host: registry.to_owned() });
        for endpoint in &endpoints {
            if endpoint.base.starts_with("http://") && !self.settings.insecure.contains(&endpoint.host) {
                let reason = format!(
                    "{} is meant to be used without TLS but is not listed as insecure",
                    endpoint.host
                );
                return Err(ImageError::Unreachable { registry: registry.to_owned(), reason });
            }
        }
        Ok(endpoints)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.settings.backoff, self.settings.backoff.saturating_mul(20))
    }

    /// A manifest or index by tag or digest, with its digest. Its bytes are what the digest says.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn document(
        &self,
        from: &Repository<'_>,
        wanted: &str,
    ) -> Result<(Vec<u8>, Digest), ImageError> {
        let path = format!("/v2/{}/manifests/{wanted}", from.name);
        let what = format!("image {}:{wanted}", from.name).replace(":sha256:", "@sha256:");
        let (bytes, said) = self
            .small(
                from,
                &path,
                Some(manifest::ACCEPT),
                &what,
                self.settings.manifest_max,
                &wanted.parse().ok(),
            )
            .await?;
        let digest = Digest::of(&bytes);
        let expected = wanted.parse().ok().or(said);
        match expected {
            Some(expected) if !expected.matches(&bytes) => {
                Err(ImageError::Digest { what, expected, found: digest })
            }
            Some(expected) => Ok((bytes, expected)),
            None => Ok((bytes, digest)),
        }
    }

    /// A small blob as a whole, checked.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn blob(
        &self,
        from: &Repository<'_>,
        digest: &Digest,
        limit: u64,
    ) -> Result<Vec<u8>, ImageError> {
        let path = format!("/v2/{}/blobs/{digest}", from.name);
        let what = format!("{}@{digest}", from.name);
        Ok(self.small(from, &path, None, &what, limit, &Some(digest.clone())).await?.0)
    }

    /// Asks one server after the other, each several times.
    async fn small(
        &self,
        from: &Repository<'_>,
        path: &str,
        accept: Option<&str>,
        what: &str,
        limit: u64,
        expected: &Option<Digest>,
    ) -> Result<(Vec<u8>, Option<Digest>), ImageError> {
        let endpoints = self.endpoints(from.registry)?;
        let mut last = None;
        for (index, endpoint) in endpoints.iter().enumerate() {
            // Where there is another server, this one is not waited for as long.
            let attempts = if index + 1 < endpoints.len() { 2 } else { self.settings.attempts.max(1) };
            let mut backoff = self.backoff();
            for attempt in 1..=attempts {
                let failure = match self.once(endpoint, from, path, accept, what, limit).await {
                    Ok((bytes, said)) => match expected {
                        Some(digest) if !digest.matches(&bytes) => Failure::Useless(ImageError::Digest {
                            what: format!("{what} from {}", endpoint.host),
                            expected: digest.clone(),
                            found: Digest::of(&bytes),
                        }),
                        _ => return Ok((bytes, said)),
                    },
                    Err(failure) => failure,
                };
                let again = attempt < attempts;
                let pause = match &failure {
                    Failure::Again(_, pause) if again => {
                        Some(pause.unwrap_or(Duration::ZERO).max(backoff.delay()))
                    }
                    Failure::Stalled if again => Some(backoff.delay()),
                    _ => None,
                };
                last = Some(failure.into_error(endpoint, from.name, what, self.settings.stall));
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => break,
                }
            }
        }
        Err(last.unwrap_or_else(|| nobody(from.registry)))
    }

    async fn once(
        &self,
        endpoint: &Endpoint,
        from: &Repository<'_>,
        path: &str,
        accept: Option<&str>,
        what: &str,
        limit: u64,
    ) -> Result<(Vec<u8>, Option<Digest>), Failure> {
        let headers: Vec<_> = accept.map(|accept| (ACCEPT, accept.to_owned())).into_iter().collect();
        let reply = accepted(self.get(endpoint, from, path, &headers).await?)?;
        let too_large = || Failure::Useless(ImageError::TooLarge { what: what.to_owned(), limit });
        if announced(&reply).is_some_and(|bytes| bytes > limit) {
            return Err(too_large());
        }
        let said = reply.headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
        let said = said.and_then(|said| said.parse().ok());
        let mut stream = reply.stream();
        let (mut all, ends) = (Vec::new(), Instant::now() + DOCUMENT_DEADLINE);
        while let Some(piece) = stream.next_within(self.settings.stall).await.map_err(Failure::from_client)? {
            if (all.len() + piece.len()) as u64 > limit {
                return Err(too_large());
            }
            if Instant::now() > ends {
                return Err(Failure::Stalled);
            }
            all.extend_from_slice(&piece);
        }
        Ok((all, said))
    }
}

fn nobody(registry: &str) -> ImageError {
    ImageError::Unreachable { registry: registry.to_owned(), reason: "there is no server to ask".to_owned() }
}

fn announced(reply: &Reply) -> Option<u64> {
    reply.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Sorts replies that are not what was asked for.
fn accepted(reply: Reply) -> Result<Reply, Failure> {
    let status = reply.status;
    if status.is_success() {
        return Ok(reply);
    }
    match status {
        StatusCode::NOT_FOUND => Err(Failure::Missing),
        StatusCode::FORBIDDEN => Err(Failure::Denied("it answers that access is forbidden".to_owned())),
        StatusCode::UNAUTHORIZED => Err(Failure::Denied("it does not accept the credentials".to_owned())),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(again(&reply)),
        _ if status.is_server_error() => Err(again(&reply)),
        _ => Err(Failure::Useless(ImageError::Unreachable {
            registry: "the registry".to_owned(),
            reason: format!("it answered {status}"),
        })),
    }
}

fn again(reply: &Reply) -> Failure {
    let pause = reply.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let pause = pause.map(|seconds| Duration::from_secs(seconds).min(PAUSE_MAX));
    Failure::Again(format!("it answered {}", reply.status), pause)
}
