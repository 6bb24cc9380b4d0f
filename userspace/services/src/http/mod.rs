//! The v2 API over HTTP. Paths hold app ids, which hold slashes, so they are taken apart here and not by a router:
//! doubled and trailing slashes do not matter, booleans may be written in any case.

mod answer;
mod apps;
mod events;
mod groups;
mod once;
mod others;
mod pods;
mod query;
mod standby;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderName, Method, StatusCode};
use plenum_base::serve::ConnInfo;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::core::condition::{Condition, Conditional, Subject, Tags};
use crate::core::error::ApiError;
use crate::core::once::Once;
use crate::shell::{Asked, Handle, Phase};
use answer::{failure, json_answer, text_answer};
use query::{Query, decode};

/// The largest body.
const BODY: usize = 16 * 1024 * 1024;
/// For a request's body to arrive.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// What `/v2/info` and `/v2/leader` tell about this process.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// `host:port` under which others reach this process.
    pub leader: String,
    /// The master's address, as configured.
    pub master: String,
    /// The framework's name.
    pub framework: String,
    /// The failover timeout, seconds.
    pub failover_timeout: f64,
    /// Whether others stand by.
    pub ha: bool,
}

/// What every request finds: whether this process decides, and what it tells about itself.
#[derive(Debug)]
struct Front {
    phase: watch::Receiver<Phase>,
    about: About,
}

/// What every request to the one that decides needs.
#[derive(Debug)]
struct Api {
    handle: Handle,
    about: About,
}

/// One request, taken apart.
struct Ask {
    method: Method,
    path: Vec<String>,
    query: Query,
    body: Vec<u8>,
    accept: String,
    uri: String,
    client: String,
    /// `Last-Event-ID`: after which event a stream is to go on.
    last_event: Option<String>,
    once: Option<Once>,
    condition: Condition,
}

/// The API over `handle`, which always decides. Authentication is the caller's.
pub fn router(handle: Handle, about: About) -> Router {
    front(watch::channel(Phase::Leading(handle, 0)).1, about)
}

/// The API of one of several processes: while another one decides, callers are sent there. Authentication is the caller's.
pub fn front(phase: watch::Receiver<Phase>, about: About) -> Router {
    Router::new().fallback(serve).with_state(Arc::new(Front { phase, about }))
}

async fn serve(State(front): State<Arc<Front>>, request: Request<Body>) -> Response {
    let (head, body) = request.into_parts();
    let path: Vec<String> =
        head.uri.path().split('/').filter(|s| !s.is_empty()).map(|s| decode(s, false)).collect();
    let phase = front.phase.borrow().clone();
    let handle = match standby::answer(&front.about, &phase, &head, &path) {
        Ok(handle) => handle,
        Err(response) => return *response,
    };
    let header = |name: http::HeaderName| {
        head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned()
    };
    let client = head
        .extensions
        .get::<ConnInfo>()
        .and_then(|c| c.remote)
        .map_or(String::new(), |r| r.ip().to_string());
    let body = match tokio::time::timeout(BODY_TIME, to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => bytes.to_vec(),
        Err(_) => {
            let message = "The request's body did not arrive in time.";
            return json_answer(StatusCode::REQUEST_TIMEOUT, &json!({"message": message}));
        }
        Ok(Err(_)) => {
            let message = format!("The request's body has more than {BODY} bytes, or broke off.");
            return json_answer(StatusCode::PAYLOAD_TOO_LARGE, &json!({"message": message}));
        }
    };
    let once = match once::of(&head, &body) {
        Ok(once) => once,
        Err(error) => return failure(&error),
    };
    let ask = Ask {
        method: head.method.clone(),
        path,
        query: Query::parse(head.uri.query().unwrap_or("")),
        body,
        accept: header(http::header::ACCEPT),
        uri: head.uri.path().to_owned(),
        client,
        last_event: Some(header(HeaderName::from_static("last-event-id"))).filter(|id| !id.is_empty()),
        once,
        condition: Condition {
            is: tags(&head.headers, &http::header::IF_MATCH),
            is_not: tags(&head.headers, &http::header::IF_NONE_MATCH),
        },
    };
    let api = Api { handle, about: front.about.clone() };
    let answer = dispatch(&api, ask).await.unwrap_or_else(|error| failure(&error));
    // Whoever was deposed meanwhile knows nothing for certain any more.
    if api.handle.leads() { answer } else { standby::nobody() }
}

/// The tags of a header, over all its lines.
fn tags(headers: &http::HeaderMap, name: &http::HeaderName) -> Option<Tags> {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| Tags::parse(&lines.join(",")))
}

async fn dispatch(api: &Api, ask: Ask) -> Result<Response, ApiError> {
    let path: Vec<&str> = ask.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["v2", "apps", rest @ ..] => apps::dispatch(api, &ask, rest).await,
        ["v2", "groups", rest @ ..] => groups::dispatch(api, &ask, rest).await,
        ["v2", "tasks", rest @ ..] => others::tasks(api, &ask, rest).await,
        ["v2", "deployments", rest @ ..] => others::deployments(api, &ask, rest).await,
        ["v2", "queue", rest @ ..] => others::queue(api, &ask, rest).await,
        ["v2", "pods", rest @ ..] => pods::dispatch(api, &ask, rest).await,
        ["v2", "plugins"] => Ok(json_answer(StatusCode::OK, &json!({"plugins": []}))),
        ["v2", "events"] => events::stream(api, &ask),
        ["v2", "info"] => others::info(api).await,
        ["v2", "leader"] if ask.method == http::Method::DELETE => {
            api.handle.abdicate();
            Ok(json_answer(StatusCode::OK, &json!({"message": "Leadership abdicated"})))
        }
        ["metrics"] => others::metrics(api).await,
        ["metrics", "prometheus"] => others::prometheus(api).await,
        [] => Ok(text_answer("")),
        _ => Err(no_such()),
    }
}

fn no_such() -> ApiError {
    ApiError::NotFound("URI not found".to_owned())
}

impl Ask {
    /// The body as JSON; an empty one is an empty object.
    fn json(&self) -> Result<Value, ApiError> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(json!({}));
        }
        serde_json::from_slice(&self.body).map_err(|error| ApiError::BadJson(error.to_string()))
    }

    /// The body as a JSON object.
    fn object(&self) -> Result<serde_json::Map<String, Value>, ApiError> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::NoJson);
        }
        match self.json()? {
            Value::Object(map) => Ok(map),
            _ => {
                Err(ApiError::BadFields(vec![crate::core::error::Flaw::new("/", "error.expected.jsobject")]))
            }
        }
    }

    /// The same of one thing, as which the client may have described it in the request's conditions.
    async fn change_of(
        &self,
        api: &Api,
        subject: Subject,
        kind: crate::core::requests::Kind,
        force: bool,
    ) -> Result<Response, ApiError> {
        if self.condition.is_empty() {
            return self.change(api, kind, force).await;
        }
        let conditional = Conditional { subject, condition: self.condition.clone(), then: kind };
        self.change(api, crate::core::requests::Kind::If(Box::new(conditional)), force).await
    }

    /// What a client reads, with its tag; nothing if the client has said that it knows it.
    fn tagged(&self, body: &Value, tag: &str) -> Response {
        if self.condition.is_known(tag) { answer::unchanged(tag) } else { answer::tagged(body, tag) }
    }

    /// Asks for a change that this request stands for.
    async fn change(
        &self,
        api: &Api,
        kind: crate::core::requests::Kind,
        force: bool,
    ) -> Result<Response, ApiError> {
        let asked =
            Asked { force, uri: self.uri.clone(), client: self.client.clone(), once: self.once.clone() };
        if self.query.flag("dryRun", false)? {
            return api.handle.plan(kind, asked).await.map(answer::reply);
        }
        api.handle.change(kind, asked).await.map(answer::reply)
    }
}
