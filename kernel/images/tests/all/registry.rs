//! A registry with faults, as a small server on loopback.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use plenum_images::Digest;
use std::sync::Mutex;

use crate::fixture::Built;

/// What a registry does wrong with one thing, a number of times.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status.
    Status(u16),
    /// The first bytes, then nothing any more, the connection open.
    Stall(usize),
    /// The first bytes, then a broken connection.
    Break(usize),
    /// Other bytes.
    Other(Vec<u8>),
    /// More bytes than there are, without saying how many.
    Endless(u64),
    /// The wrong part of a range.
    WrongRange,
    /// Ranges are not understood: everything is sent.
    NoRange,
    /// Somewhere else.
    Redirect(String),
}

/// How callers must say who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// `Authorization: Basic` of this pair in base64.
    Basic(String),
    /// Tokens from `/token`, given to those with this pair; `None`: to anybody.
    Bearer(Option<String>),
    /// As `Bearer`, but the realm is this.
    Realm(String),
}

#[derive(Debug, Default)]
pub struct Content {
    /// By `<repository>/<tag or digest>`.
    manifests: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    /// By the end of the path; the number is how often it is still done.
    faults: Vec<(String, Fault, u32)>,
    /// Requests with their range and authorization.
    pub seen: Vec<(String, Option<String>, Option<String>)>,
    pub guard: Option<Guard>,
}

#[derive(Clone)]
pub struct Fake {
    pub host: String,
    pub content: Arc<Mutex<Content>>,
    busy: Arc<AtomicU32>,
    pub most_busy: Arc<AtomicU32>,
    _server: Arc<Server>,
}

struct Server(tokio::task::JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fake {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Mutex::new(Content::default()));
        let (busy, most_busy) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let state = (Arc::clone(&content), Arc::clone(&busy), Arc::clone(&most_busy), host.clone());
        let app = axum::Router::new().fallback(answer).with_state(state);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { host, content, busy, most_busy, _server: Arc::new(Server(server)) }
    }

    pub fn push(&self, repository: &str, tag: &str, built: &Built) -> Digest {
        let digest = Digest::of(&built.manifest);
        let mut content = self.content.lock().unwrap();
        for name in [tag.to_owned(), digest.to_string()] {
            content.manifests.insert(format!("{repository}/{name}"), built.manifest.clone());
        }
        content.blobs.extend(built.blobs.iter().map(|(digest, bytes)| (digest.to_string(), bytes.clone())));
        digest
    }

    pub fn push_document(&self, repository: &str, tag: &str, bytes: &[u8]) {
        self.content.lock().unwrap().manifests.insert(format!("{repository}/{tag}"), bytes.to_vec());
    }

    pub fn fault(&self, path_end: impl ToString, fault: Fault, times: u32) {
        self.content.lock().unwrap().faults.push((path_end.to_string(), fault, times));
    }

    pub fn guard(&self, guard: Guard) {
        self.content.lock().unwrap().guard = Some(guard);
    }

    pub fn requests(&self) -> usize {
        self.content.lock().unwrap().seen.len()
    }

    pub fn ranges(&self) -> Vec<String> {
        self.content.lock().unwrap().seen.iter().filter_map(|(_, range, _)| range.clone()).collect()
    }

    pub fn still_busy(&self) -> u32 {
        self.busy.load(Ordering::SeqCst)
    }
}

type Shared = (Arc<Mutex<Content>>, Arc<AtomicU32>, Arc<AtomicU32>, String);

async fn answer(State((content, busy, most, host)): State<Shared>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let path = request.uri.path().to_owned();
    let query = request.uri.query().unwrap_or_default().to_owned();
    let text = |name: header::HeaderName| {
        request.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let (range, authorization) = (text(header::RANGE), text(header::AUTHORIZATION));
    let fault = {
        let mut content = content.lock().unwrap();
        content.seen.push((format!("{} {path}", request.method), range.clone(), authorization.clone()));
        if let Some(refused) = guarded(&content, &path, &query, authorization.as_deref(), &host) {
            return refused;
        }
        let found = content.faults.iter_mut().find(|(end, _, times)| path.ends_with(end) && *times > 0);
        found.map(|(_, fault, times)| {
            *times -= 1;
            fault.clone()
        })
    };
    if request.method != Method::GET {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let body = {
        let content = content.lock().unwrap();
        let mut parts = path.trim_start_matches("/v2/").rsplitn(3, '/');
        let (last, kind, repository) = (parts.next(), parts.next(), parts.next());
        match (last, kind, repository) {
            (Some(name), Some("manifests"), Some(repository)) => {
                content.manifests.get(&format!("{repository}/{name}")).cloned()
            }
            (Some(digest), Some("blobs"), Some(_)) => content.blobs.get(digest).cloned(),
            _ => None,
        }
    };
    let Some(body) = body else { return (StatusCode::NOT_FOUND, "{\"errors\":[]}").into_response() };
    if path.contains("/blobs/") {
        most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        busy.fetch_sub(1, Ordering::SeqCst);
    }
    respond(body, range.as_deref(), fault)
}

fn guarded(
    content: &Content,
    path: &str,
    query: &str,
    authorization: Option<&str>,
    host: &str,
) -> Option<Response> {
    let ask = |challenge: String| {
        Some((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], "{}").into_response())
    };
    match content.guard.as_ref()? {
        Guard::Basic(pair) if authorization == Some(&format!("Basic {pair}")) => None,
        Guard::Basic(_) => ask("Basic realm=\"here\"".to_owned()),
        Guard::Bearer(pair) if path == "/token" => {
            let known = pair.as_ref().is_none_or(|pair| authorization == Some(&format!("Basic {pair}")));
            if !known {
                return Some(StatusCode::UNAUTHORIZED.into_response());
            }
            assert!(
                query.contains("service=fake%20registry") && query.contains("scope=repository:"),
                "{query}"
            );
            Some((StatusCode::OK, "{\"token\": \"leave\", \"expires_in\": 300}").into_response())
        }
        Guard::Bearer(_) if authorization == Some("Bearer leave") => None,
        Guard::Bearer(_) => ask(format!("Bearer realm=\"http://{host}/token\",service=\"fake registry\"")),
        Guard::Realm(realm) => ask(format!("Bearer realm=\"{realm}\",service=\"x\"")),
    }
}

fn respond(body: Vec<u8>, range: Option<&str>, fault: Option<Fault>) -> Response {
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let total = body.len();
    let (status, mut headers, rest) = match (from, &fault) {
        (Some(from), None | Some(Fault::Break(_) | Fault::Stall(_) | Fault::WrongRange)) if from < total => {
            let shown = if matches!(fault, Some(Fault::WrongRange)) { from + 1 } else { from };
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONTENT_RANGE,
                format!("bytes {shown}-{}/{total}", total - 1).parse().unwrap(),
            );
            (StatusCode::PARTIAL_CONTENT, headers, body[from..].to_vec())
        }
        (Some(from), None) if from >= total => return StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
        _ => (StatusCode::OK, HeaderMap::new(), body),
    };
    let length = rest.len();
    match fault {
        Some(Fault::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Redirect(to)) => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
        }
        Some(Fault::Other(bytes)) => (status, bytes).into_response(),
        Some(Fault::Endless(bytes)) => {
            let pieces =
                (0..bytes.div_ceil(1 << 20)).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b' '; 1 << 20])));
            (StatusCode::OK, Body::from_stream(futures_util::stream::iter(pieces))).into_response()
        }
        Some(Fault::Stall(bytes)) => {
            let first = Bytes::from(rest[..bytes.min(length)].to_vec());
            let stream = futures_util::stream::once(async { Ok::<_, Infallible>(first) })
                .chain(futures_util::stream::pending());
            headers.insert(header::CONTENT_LENGTH, length.into());
            (status, headers, Body::from_stream(stream)).into_response()
        }
        Some(Fault::Break(bytes)) => {
            let first = Bytes::from(rest[..bytes.min(length)].to_vec());
            let broken = futures_util::stream::once(async {
                // Let what was sent arrive first.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::Error::other("broken"))
            });
            let stream = futures_util::stream::once(async { Ok(first) }).chain(broken);
            headers.insert(header::CONTENT_LENGTH, length.into());
            (status, headers, Body::from_stream(stream)).into_response()
        }
        _ => (status, headers, rest).into_response(),
    }
}

/// For the log of a failed test.
impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seen: BTreeMap<_, _> =
            self.content.lock().unwrap().seen.iter().map(|(a, b, _)| (a.clone(), b.clone())).collect();
        write!(f, "{seen:?}")
    }
}

impl Fake {
    /// Everything works from now on.
    pub fn clear_faults(&self) {
        self.content.lock().unwrap().faults.clear();
    }
}
