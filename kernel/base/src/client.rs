//! Calling HTTP services: pooled connections, TLS with the cluster's CA, a deadline on each call, replies whole or as a stream.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use crate::connect::Reach;
use crate::connect::{Connector, connector};
use crate::tls::{Expect, Identity, TlsError};

/// What may go wrong inside a request body that is streamed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request body.
pub type CallBody = UnsyncBoxBody<Bytes, BoxError>;

/// How long a call may take when nothing else is said.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The largest reply that is collected when nothing else is said.
pub const REPLY_LIMIT: usize = 64 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request cannot be formed.
    #[error("the request to {url} cannot be formed: {reason}")]
    Request {
        /// The address.
        url: String,
        /// Why not.
        reason: String,
    },
    /// No connection, or it broke.
    #[error("{url} cannot be reached: {reason}")]
    Transport {
        /// The address.
        url: String,
        /// The chain of causes.
        reason: String,
        /// True when nothing was sent, so that the call may be repeated whatever it does.
        connect: bool,
    },
    /// The deadline passed.
    #[error("{url} did not answer within {waited:?}")]
    Deadline {
        /// The address.
        url: String,
        /// The time given.
        waited: Duration,
    },
    /// The reply is larger than allowed.
    #[error("the reply of {url} has more than {limit} bytes")]
    TooLarge {
        /// The address.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The reply has another status than a good one.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: StatusCode,
        /// The first 2,000 characters of the body.
        body: String,
    },
    /// The reply is not the JSON expected.
    #[error("the reply of {url} is not understood: {reason}")]
    Content {
        /// The address.
        url: String,
        /// Where it differs.
        reason: String,
    },
}

impl ClientError {
    /// The status of the reply, where there was one that was not good.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// How calls say who they are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `Authorization: token=<jwt>`.
    Token(String),
    /// `Authorization: Bearer <jwt>`.
    Bearer(String),
    /// HTTP basic.
    Basic {
        /// The principal.
        principal: String,
        /// The secret.
        secret: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(..)",
            Self::Bearer(_) => "Bearer(..)",
            Self::Basic { .. } => "Basic(..)",
        })
    }
}

impl Credentials {
    /// The Authorization header's value.
    #[must_use]
    pub fn header(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::Token(token) => format!("token={token}"),
            Self::Bearer(token) => format!("Bearer {token}"),
            Self::Basic { principal, secret } => {
                let pair = format!("{principal}:{secret}");
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            }
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// A pool of connections and how to make them. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<Connector, CallBody>,
    credentials: Option<Credentials>,
}

impl Client {
    /// For plain HTTP only: every TLS handshake fails, since no CA is trusted.
    ///
    /// # Errors
    /// [`TlsError::Rustls`].
    pub fn plain() -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        Ok(Self::with_tls(config))
    }

    /// Shows the component's certificate and trusts its CA; for peers within the cluster ([`Reach::CLUSTER`]).
    ///
    /// # Errors
    /// [`TlsError::Rustls`].
    pub fn with_identity(identity: &Identity, expect: Expect) -> Result<Self, TlsError> {
        Ok(Self::with_reach(identity.client_config(expect)?, Reach::CLUSTER))
    }

    /// Trusts the CA certificates in `ca` (PEM) for the addresses dialled, and shows no certificate: tools and SDKs.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn with_ca(ca: &str) -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(crate::tls::roots_of(ca)?)
            .with_no_client_auth();
        Ok(Self::with_tls(config))
    }

    /// With a TLS configuration of the caller's (see [`crate::tls::pinned_client_config`]).
    #[must_use]
    pub fn with_tls(config: ClientConfig) -> Self {
        Self::with_reach(config, Reach::WIDE)
    }

    /// As [`Client::with_tls`], giving each address `connect` to take a connection: for peers that stand in for each other.
    #[must_use]
    pub fn with_tls_within(config: ClientConfig, connect: Duration) -> Self {
        Self::with_reach(config, Reach { connect, ..Reach::CLUSTER })
    }

    /// As [`Client::with_tls`], with these deadlines.
    #[must_use]
    pub fn with_reach(config: ClientConfig, reach: Reach) -> Self {
        let pool = Pool::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(32)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector(config, reach));
        Self { pool, credentials: None }
    }

    /// The same pool with credentials on each call.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        Self { pool: self.pool.clone(), credentials: Some(credentials) }
    }

    /// Begins a call.
    pub fn call(&self, method: Method, url: &str) -> Call {
        let mut headers = HeaderMap::new();
        if let Some(value) = self.credentials.as_ref().and_then(Credentials::header) {
            headers.insert(AUTHORIZATION, value);
        }
        Call {
            client: self.clone(),
            method,
            url: url.to_owned(),
            headers,
            body: Ok(empty()),
            deadline: DEADLINE,
        }
    }

    /// Begins a GET.
    pub fn get(&self, url: &str) -> Call {
        self.call(Method::GET, url)
    }

    /// Begins a POST.
    pub fn post(&self, url: &str) -> Call {
        self.call(Method::POST, url)
    }

    /// Begins a PUT.
    pub fn put(&self, url: &str) -> Call {
        self.call(Method::PUT, url)
    }

    /// Begins a DELETE.
    pub fn delete(&self, url: &str) -> Call {
        self.call(Method::DELETE, url)
    }

    /// Sends a request as it is (a proxy's); `deadline` counts until the reply's head is there. No credentials are added.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::Deadline`].
    pub async fn forward(
        &self,
        request: Request<CallBody>,
        deadline: Duration,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let url = request.uri().to_string();
        match tokio::time::timeout(deadline, self.pool.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                Err(ClientError::Transport { url, connect: error.is_connect(), reason: causes(&error) })
            }
            Err(_) => Err(ClientError::Deadline { url, waited: deadline }),
        }
    }
}

fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// An empty request body.
#[must_use]
pub fn empty() -> CallBody {
    full(Bytes::new())
}

/// A request body that is there as a whole.
pub fn full(bytes: impl Into<Bytes>) -> CallBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The error and what caused it, in one line.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// A call that is being put together.
#[must_use = "nothing is sent before send()"]
pub struct Call {
    client: Client,
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Result<CallBody, String>,
    deadline: Duration,
}

impl Call {
    /// Sets a header; an invalid value is reported by [`Call::send`].
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => {
                self.headers.insert(name, value);
            }
            Err(_) => self.body = Err(format!("the value of the header {name} is not valid")),
        }
        self
    }

    /// Other credentials than the client's.
    pub fn credentials(mut self, credentials: &Credentials) -> Self {
        match credentials.header() {
            Some(value) => {
                self.headers.insert(AUTHORIZATION, value);
            }
            None => {
                self.body = Err("the credentials contain characters that a header cannot carry".to_owned())
            }
        }
        self
    }

    /// A JSON body; also asks for JSON unless an Accept header is set.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.body = match (self.body, serde_json::to_vec(value)) {
            (Err(earlier), _) => Err(earlier),
            (Ok(_), Ok(bytes)) => Ok(full(bytes)),
            (Ok(_), Err(error)) => Err(error.to_string()),
        };
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        self
    }

    /// Any body; set its Content-Type with [`Call::header`].
    pub fn body(mut self, body: CallBody) -> Self {
        if self.body.is_ok() {
            self.body = Ok(body);
        }
        self
    }

    /// The time until the whole reply must be there (for streams: until its head is). [`DEADLINE`] by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sends the call and waits for the reply's head, whatever its status.
    ///
    /// # Errors
    /// [`ClientError`], but not `Status`.
    pub async fn send(self) -> Result<Reply, ClientError> {
        let ends = Instant::now() + self.deadline;
        let form = |reason: String| ClientError::Request { url: self.url.clone(), reason };
        let body = self.body.map_err(form)?;
        let mut request = Request::builder()
            .method(self.method)
            .uri(&self.url)
            .body(body)
            .map_err(|error| ClientError::Request { url: self.url.clone(), reason: error.to_string() })?;
        *request.headers_mut() = self.headers;
        let response = self.client.forward(request, self.deadline).await?;
        let (head, body) = response.into_parts();
        Ok(Reply {
            url: self.url,
            status: head.status,
            headers: head.headers,
            body,
            ends,
            waited: self.deadline,
        })
    }
}

/// A reply whose head is there.
#[derive(Debug)]
pub struct Reply {
    url: String,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    ends: Instant,
    waited: Duration,
}

impl Reply {
    /// Turns any status but 2xx into an error that carries the beginning of the body.
    ///
    /// # Errors
    /// [`ClientError::Status`].
    pub async fn success(self) -> Result<Self, ClientError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let (url, status) = (self.url.clone(), self.status);
        // The status is the message, also when the body does not arrive.
        let body = self.bytes_up_to(64 * 1024).await.unwrap_or_default();
        let body = String::from_utf8_lossy(&body).chars().take(2000).collect();
        Err(ClientError::Status { url, status, body })
    }

    /// The whole body within the call's deadline, at most [`REPLY_LIMIT`] bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn bytes(self) -> Result<Bytes, ClientError> {
        self.bytes_up_to(REPLY_LIMIT).await
    }

    /// The whole body within the call's deadline, at most `limit` bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn bytes_up_to(self, limit: usize) -> Result<Bytes, ClientError> {
        let (ends, waited, url) = (self.ends, self.waited, self.url.clone());
        let mut stream = self.stream();
        let collect = async move {
            let mut all = BytesMut::new();
            while let Some(chunk) = stream.next().await? {
                if all.len() + chunk.len() > limit {
                    return Err(ClientError::TooLarge { url: stream.url, limit });
                }
                all.extend_from_slice(&chunk);
            }
            Ok(all.freeze())
        };
        match tokio::time::timeout_at(ends, collect).await {
            Ok(done) => done,
            Err(_) => Err(ClientError::Deadline { url, waited }),
        }
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let url = self.url.clone();
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ClientError::Content { url, reason: error.to_string() })
    }

    /// The body piece by piece, without a deadline: use [`Stream::next_within`].
    #[must_use]
    pub fn stream(self) -> Stream {
        Stream { url: self.url, body: self.body }
    }

    /// The body as hyper has it, for a proxy.
    pub fn into_body(self) -> Incoming {
        self.body
    }
}

/// A body that arrives piece by piece.
#[derive(Debug)]
pub struct Stream {
    url: String,
    body: Incoming,
}

impl Stream {
    /// The next piece; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    // Trailers carry nothing that anybody here reads.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    let reason = causes(&error);
                    return Err(ClientError::Transport { url: self.url.clone(), reason, connect: false });
                }
            }
        }
    }

    /// The next piece, or [`ClientError::Deadline`] when nothing arrives within `idle`.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::Deadline`].
    pub async fn next_within(&mut self, idle: Duration) -> Result<Option<Bytes>, ClientError> {
        let url = self.url.clone();
        match tokio::time::timeout(idle, self.next()).await {
            Ok(next) => next,
            Err(_) => Err(ClientError::Deadline { url, waited: idle }),
        }
    }
}
