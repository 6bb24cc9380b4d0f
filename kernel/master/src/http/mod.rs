//! The master's HTTP: which path is which endpoint, who may call, what a master answers that does not lead.
//!
//! Each endpoint is in a file of its own. Paths are taken as Mesos takes them: with or without `/master`, with `.json` or a slash at the end.

mod cache;
mod calls;
mod legacy;
mod model;
mod operator;
mod reads;
mod scheduler;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Shared};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use plenum_base::auth::{Authenticator, Kind, Principal};
use tokio::sync::watch;

use crate::config::Config;
use crate::core::Caller;
use crate::shell::Phase;
use crate::shell::owner::{Ended, Handle};

/// The largest body of a call.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// For a request's body to arrive.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// An answer instead of what was asked for.
pub(crate) type Refusal = Box<Response>;

/// What the endpoints share.
pub(crate) struct Front {
    pub phase: watch::Receiver<Phase>,
    pub authenticator: Arc<Authenticator>,
    pub cluster: String,
    pub listen: SocketAddr,
    /// Where clients find this master.
    pub base_url: String,
    pub heartbeat: std::time::Duration,
    /// Names and values shown as flags; nothing secret is among them.
    pub flags: Vec<(&'static str, String)>,
    pub cache: cache::Cache,
}

impl Front {
    pub fn new(
        config: &Config,
        listen: SocketAddr,
        authenticator: &Arc<Authenticator>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let flags = vec![
            ("cluster", config.cluster.clone()),
            ("hostname", config.host()),
            ("ip", listen.ip().to_string()),
            ("port", listen.port().to_string()),
            ("agent_ping_timeout", format!("{}secs", config.agent_ping_seconds)),
            ("max_agent_ping_timeouts", config.agent_ping_misses.to_string()),
            ("agent_reregister_timeout", format!("{}secs", config.agent_reregister_seconds)),
            ("max_completed_frameworks", config.completed_frameworks.to_string()),
            ("max_completed_tasks_per_framework", config.completed_tasks.to_string()),
            ("authenticate_http_readonly", (!config.component.open).to_string()),
            ("authenticate_http_readwrite", (!config.component.open).to_string()),
            ("authenticate_http_frameworks", (!config.component.open).to_string()),
            ("authenticate_agents", "true".into()),
            ("registry", if config.store.etcd { "etcd" } else { "embedded" }.into()),
            ("work_dir", config.component.data.display().to_string()),
        ];
        Self {
            phase,
            authenticator: Arc::clone(authenticator),
            cluster: config.cluster.clone(),
            listen,
            base_url: config.base_url(listen),
            heartbeat: std::time::Duration::from_secs_f64(config.heartbeat_seconds.clamp(0.01, 1e7)),
            flags,
            cache: cache::Cache::default(),
        }
    }

    /// The owner of the state, or what to answer instead.
    pub fn leader(&self, path_and_query: &str) -> Result<Handle, Refusal> {
        match &*self.phase.borrow() {
            Phase::Leading(handle) if handle.validity.holds() => Ok(handle.clone()),
            Phase::Standby(Some(leader)) => {
                Err(Box::new(redirect(&format!("{}{path_and_query}", elsewhere(&leader.candidate)))))
            }
            _ => Err(Box::new(nobody())),
        }
    }
}

impl From<Ended> for Response {
    fn from(_: Ended) -> Self {
        let mut response =
            plain(StatusCode::SERVICE_UNAVAILABLE, "this master does not lead any more: ask the leader");
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }
}

/// One request, read.
pub(crate) struct Asked {
    pub method: Method,
    /// The endpoint's path: no prefix, no suffix, no slash at the end.
    pub path: String,
    pub path_and_query: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub principal: Principal,
    pub body: Bytes,
}

impl Asked {
    /// The first value of a query parameter.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The caller as the core knows callers.
    pub fn caller(&self) -> Caller {
        // Components are trusted to say in whose name they act; nobody can be held to the name of nobody.
        let authenticated = matches!(self.principal.kind, Kind::User | Kind::Service);
        let uid = if self.principal.kind == Kind::Anonymous { "" } else { self.principal.uid.as_str() };
        Caller { uid: uid.into(), authenticated }
    }
}

/// An answer of one line.
pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

/// A JSON answer.
pub(crate) fn json(bytes: Bytes, jsonp: Option<&str>) -> Response {
    match jsonp.filter(|name| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'$'))
    }) {
        None => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Some(name) => {
            let mut script = Vec::with_capacity(bytes.len() + name.len() + 3);
            script.extend_from_slice(name.as_bytes());
            script.push(b'(');
            script.extend_from_slice(&bytes);
            script.extend_from_slice(b");");
            ([(header::CONTENT_TYPE, "text/javascript")], script).into_response()
        }
    }
}

/// A leader's address as Mesos writes it into redirects: the scheme stays the caller's.
fn elsewhere(candidate: &str) -> &str {
    candidate.split_once(':').filter(|(_, rest)| rest.starts_with("//")).map_or(candidate, |(_, rest)| rest)
}

/// Nobody leads, which passes.
fn nobody() -> Response {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "No leader elected");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Who leads, as far as this master knows.
fn leader(front: &Front) -> Response {
    let phase = front.phase.borrow().clone();
    let known = match &phase {
        Phase::Leading(handle) if handle.validity.holds() => {
            Some((front.base_url.clone(), true, handle.term))
        }
        Phase::Standby(Some(leader)) => Some((leader.candidate.clone(), false, leader.term)),
        _ => None,
    };
    let (url, own, term) =
        known.map_or((serde_json::Value::Null, false, 0), |(url, own, term)| (url.into(), own, term));
    json(serde_json::json!({"leader": url, "self": own, "term": term}).to_string().into(), None)
}

fn redirect(location: &str) -> Response {
    match HeaderValue::from_str(location) {
        Ok(location) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response(),
        Err(_) => plain(StatusCode::BAD_REQUEST, "the path cannot be part of an address"),
    }
}

/// The router of the whole master.
pub(crate) fn router(front: Front) -> Router {
    let front = Arc::new(front);
    let guard =
        axum::middleware::from_fn_with_state(Arc::clone(&front.authenticator), plenum_base::auth::optional);
    Router::new().fallback(serve).layer(guard).with_state(front)
}

/// The endpoint a path means.
fn endpoint(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.len() > 1 && parts.first() == Some(&"master") {
        parts.remove(0);
    }
    let joined = parts.join("/");
    joined.strip_suffix(".json").map(str::to_owned).unwrap_or(joined)
}

async fn serve(Shared(front): Shared<Arc<Front>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = endpoint(parts.uri.path());
    let path_and_query = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    // Open to everybody, as in Mesos: they say nothing about the cluster.
    match path.as_str() {
        "health" => return health(&front),
        "leader" => return leader(&front),
        "version" => return json(model::version(), None),
        "redirect" => return front_page(&front),
        _ if path.starts_with("redirect/") => {
            return plain(StatusCode::NOT_FOUND, "there is nothing below /redirect");
        }
        _ => {}
    }
    let Some(principal) = parts.extensions.get::<Principal>().cloned() else {
        return plenum_base::http_error::ApiError::unauthorized(
            "this request needs a token or basic credentials",
        )
        .into_response();
    };
    let announced =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let reading = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, MAX_BODY));
    let body = match announced {
        // Not waited for: it cannot be taken.
        Some(length) if length > MAX_BODY => None,
        _ => match reading.await {
            Ok(read) => read.ok(),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        },
    };
    let Some(body) = body else {
        return plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body could not be read or has more than {MAX_BODY} bytes"),
        );
    };
    let query = url_pairs(parts.uri.query().unwrap_or_default());
    let asked =
        Asked { method: parts.method, path, path_and_query, query, headers: parts.headers, principal, body };
    match asked.path.as_str() {
        "api/v1/scheduler" => scheduler::serve(&front, asked).await,
        "api/v1" | "api/v1/operator" => operator::serve(&front, asked).await,
        _ => legacy::serve(&front, asked).await,
    }
}

fn health(front: &Front) -> Response {
    match &*front.phase.borrow() {
        Phase::Leading(_) | Phase::Standby(Some(_)) => Body::empty().into_response(),
        Phase::Standby(None) => nobody(),
    }
}

fn front_page(front: &Front) -> Response {
    match &*front.phase.borrow() {
        Phase::Leading(_) => redirect(&format!("//{}", front.listen)),
        Phase::Standby(Some(leader)) => redirect(elsewhere(&leader.candidate)),
        Phase::Standby(None) => nobody(),
    }
}

/// `a=b&c=d`, percent-decoded; what cannot be decoded stays as it is.
pub(crate) fn url_pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, digits.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_endpoints() {
        for (path, meant) in [
            ("/state", "state"),
            ("/master/state.json", "state"),
            ("//master//frameworks/", "frameworks"),
            ("/master", "master"),
            ("/api/v1/operator", "api/v1/operator"),
            ("/master/api/v1", "api/v1"),
            ("/metrics/snapshot", "metrics/snapshot"),
            ("/", ""),
        ] {
            assert_eq!(endpoint(path), meant, "{path}");
        }
    }

    #[test]
    fn forms_are_decoded() {
        let pairs = url_pairs("frameworkId=a%2Fb&x=1+2&&bad=%zz&e");
        let expected = [("frameworkId", "a/b"), ("x", "1 2"), ("bad", "%zz"), ("e", "")];
        assert_eq!(pairs, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
