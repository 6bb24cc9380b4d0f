//! The agent's HTTP port: operator API, executor API, the older endpoints and files.
//!
//! Paths are normalised first, since clients differ: `/slave(1)` before them (also percent-encoded), `.json` behind them, doubled and
//! trailing slashes. Everybody must say who they are, but for `/health` and for executors, whose token the core checks.

// A refusal is the answer itself; it is made once a request and passed up, never stored.
#![allow(clippy::result_large_err)]

mod attach;
mod disks;
mod executor;
mod figures;
mod files;
mod metrics;
mod nested;
mod operator;
mod prometheus;
mod recordio;
mod sessions;
mod state;
mod usage;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use plenum_api::codec::Encoding;
use plenum_base::auth::{self, Authenticator, Kind, Principal};
use plenum_base::service::Shutdown;
use plenum_containers::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::config::{Config, Parts};
use crate::core::View;
use crate::files::Files;
use crate::shell::Input;
use crate::shell::fetching::Fetcher;
use crate::shell::sessions::Sessions;

/// Largest request body (bytes).
const BODY: usize = 8 * 1024 * 1024;
/// For a request's body to arrive, and for the core to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The Mesos release whose interfaces are spoken.
pub(crate) const MESOS_VERSION: &str = "1.11.0";

/// What handlers share.
pub(crate) struct Http {
    pub config: Arc<Config>,
    pub inbox: mpsc::Sender<Input>,
    pub files: Arc<Files>,
    pub runtime: Arc<dyn Runtime>,
    pub docker: Option<Arc<plenum_docker::DockerRuntime>>,
    pub sessions: Sessions,
    pub disks: disks::Disks,
    /// Containers of tasks whose terminal somebody types on.
    pub typed: Arc<attach::Typed>,
    pub fetcher: Arc<Fetcher>,
    pub authenticator: Arc<Authenticator>,
    pub started: Instant,
    pub started_wall: f64,
}

/// The routes.
pub(crate) fn router(
    config: &Arc<Config>,
    work_dir: &Path,
    inbox: mpsc::Sender<Input>,
    parts: &Parts,
    fetcher: Arc<Fetcher>,
    shutdown: &Shutdown,
) -> Router {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let http = Arc::new(Http {
        config: config.clone(),
        inbox,
        files: Arc::new(Files::new(work_dir, config.log_file.as_deref())),
        runtime: parts.runtime.clone(),
        docker: parts.docker.clone(),
        sessions: Sessions::new(parts.runtime.clone()),
        disks: Default::default(),
        typed: Default::default(),
        fetcher,
        authenticator: parts.authenticator.clone(),
        started: Instant::now(),
        started_wall: now.as_secs_f64(),
    });
    let (ending, shutdown) = (http.clone(), shutdown.clone());
    tokio::spawn(async move {
        shutdown.wait().await;
        ending.sessions.end();
    });
    Router::new().fallback(dispatch).layer(from_fn_with_state(http.clone(), gate)).with_state(http)
}

/// Lets nobody in without a principal, except where the answer says nothing or the core asks for a token of its own.
async fn gate(State(http): State<Arc<Http>>, request: Request, next: Next) -> Response {
    match normalise(request.uri().path()).as_str() {
        "/health" | "/api/v1/executor" => next.run(request).await,
        _ => auth::require(State(http.authenticator.clone()), request, next).await,
    }
}

async fn dispatch(State(http): State<Arc<Http>>, request: Request) -> Response {
    let path = normalise(request.uri().path());
    let (head, body) = request.into_parts();
    let executor = head.extensions.get::<Principal>().is_some_and(|caller| caller.kind == Kind::Executor);
    if path == "/api/v1/executor" {
        return match post(&head.method, body).await {
            Ok(body) => executor::call(&http, &head.headers, body).await,
            Err(refusal) => refusal,
        };
    }
    if executor {
        return text(StatusCode::FORBIDDEN, "An executor's token opens /api/v1/executor only.");
    }
    if path == "/api/v1" || path == "/api/v1/operator" {
        if head.method == Method::POST && recordio::is_stream(&head.headers) {
            return attach::input(&http, &head.headers, body).await.unwrap_or_else(|refusal| refusal);
        }
        return match post(&head.method, body).await {
            Ok(body) => operator::call(&http, &head.headers, body).await,
            Err(refusal) => refusal,
        };
    }
    let known = [
        "/health",
        "/state",
        "/version",
        "/flags",
        "/metrics",
        prometheus::DCOS,
        "/metrics/snapshot",
        "/monitor/statistics",
        "/containers",
        "/files/browse",
        "/files/read",
        "/files/download",
        "/files/debug",
    ];
    let metrics = path.strip_prefix(metrics::PREFIX).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    if (known.contains(&path.as_str()) || metrics.is_some())
        && head.method != Method::GET
        && head.method != Method::HEAD
    {
        return not_allowed("GET, HEAD");
    }
    if let Some(rest) = metrics {
        return metrics::answer(&http, rest).await.unwrap_or_else(|refusal| refusal);
    }
    match path.as_str() {
        "/health" => StatusCode::OK.into_response(),
        "/state" => state::state(&http).await,
        "/version" => json(&state::version()),
        "/flags" => json(&serde_json::json!({ "flags": state::flags(&http.config) })),
        "/metrics" | prometheus::DCOS => prometheus::answer(&http).await.unwrap_or_else(|refusal| refusal),
        "/metrics/snapshot" => state::metrics_endpoint(&http).await,
        "/monitor/statistics" => usage::statistics(&http, true, false).await,
        "/containers" => {
            let nested = query(&head.uri).get("show_nested").is_some_and(|value| value == "true");
            usage::statistics(&http, false, nested).await
        }
        "/files/browse" => files::browse(&http, &head.uri).await,
        "/files/read" => files::read(&http, &head.uri).await,
        "/files/download" => files::download(&http, &head.uri).await,
        "/files/debug" => files::debug(&http).await,
        _ => text(StatusCode::NOT_FOUND, "This agent has no such address."),
    }
}

/// One spelling for each address.
fn normalise(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if let Some(first) = parts.first() {
        let plain = first.replace("%28", "(").replace("%29", ")");
        if plain == "slave(1)" || plain == "slave" || plain == "agent" {
            parts.remove(0);
        }
    }
    let joined = format!("/{}", parts.join("/"));
    joined.strip_suffix(".json").map_or(joined.clone(), str::to_owned)
}

/// The body of a POST.
async fn post(method: &Method, body: Body) -> Result<Bytes, Response> {
    if method != Method::POST {
        return Err(not_allowed("POST"));
    }
    match tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than 8 MiB, or broke off."))
        }
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time.")),
    }
}

fn not_allowed(allow: &'static str) -> Response {
    let text = text(StatusCode::METHOD_NOT_ALLOWED, &format!("Expecting one of {{ {allow} }}."));
    ([(header::ALLOW, allow)], text).into_response()
}

/// How a body is encoded; 415 where it is not said or not known.
fn request_encoding(headers: &HeaderMap) -> Result<Encoding, Response> {
    let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    named.and_then(Encoding::from_media_type).ok_or_else(|| {
        let words = "Expecting 'Content-Type' of application/json or application/x-protobuf";
        text(StatusCode::UNSUPPORTED_MEDIA_TYPE, words)
    })
}

/// How the answer shall be encoded; 406 where none of the wanted can be given.
fn reply_encoding(headers: &HeaderMap) -> Result<Encoding, Response> {
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Encoding::Json) };
    let accept = accept.to_str().unwrap_or_default();
    for wanted in accept.split(',') {
        let name = wanted.split(';').next().unwrap_or_default().trim();
        if let Some(encoding) = Encoding::from_media_type(name) {
            return Ok(encoding);
        }
        if name == "*/*" || name == "application/*" {
            return Ok(Encoding::Json);
        }
    }
    let words = "Expecting 'Accept' to allow application/json or application/x-protobuf";
    Err(text(StatusCode::NOT_ACCEPTABLE, words))
}

fn text(status: StatusCode, words: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], words.to_owned()).into_response()
}

fn json(value: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// One parameter of a query, decoded; the last one counts.
fn query(uri: &Uri) -> std::collections::BTreeMap<String, String> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    pairs.map(|pairs| pairs.0.into_iter().collect()).unwrap_or_default()
}

impl Http {
    /// A picture of the agent; 503 when the core does not answer.
    pub async fn view(&self) -> Result<(View, [usize; 4]), Response> {
        let busy = || text(StatusCode::SERVICE_UNAVAILABLE, "The agent is busy or ending; try again.");
        let (reply, answer) = oneshot::channel();
        let asked = tokio::time::timeout(PATIENCE, self.inbox.send(Input::View(reply))).await;
        if !matches!(asked, Ok(Ok(()))) {
            return Err(busy());
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(view)) => Ok(view),
            _ => Err(busy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        for (path, expect) in [
            ("/state", "/state"),
            ("/state.json", "/state"),
            ("/slave(1)/state", "/state"),
            ("/slave%281%29/state.json", "/state"),
            ("//slave(1)//files/read.json/", "/files/read"),
            ("/api/v1/", "/api/v1"),
            ("/slave(1)/api/v1", "/api/v1"),
            ("/", "/"),
            ("", "/"),
            ("/slave(2)/state", "/slave(2)/state"),
        ] {
            assert_eq!(normalise(path), expect, "{path}");
        }
    }

    #[test]
    fn media_types_are_told() {
        let mut headers = HeaderMap::new();
        assert!(request_encoding(&headers).is_err());
        assert_eq!(reply_encoding(&headers).unwrap(), Encoding::Json);
        for (accept, expect) in [
            ("*/*", Some(Encoding::Json)),
            ("application/x-protobuf", Some(Encoding::Protobuf)),
            ("text/html, application/json;q=0.5", Some(Encoding::Json)),
            ("text/html", None),
        ] {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(reply_encoding(&headers).ok(), expect, "{accept}");
        }
    }
}
