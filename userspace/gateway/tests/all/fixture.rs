//! A gateway with a policy, played components that tell what reached them, and raw connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use plenum_base::auth::{HashCost, hash_secret};
use plenum_base::client::Client;
use plenum_base::pki::{Authority, LIFETIME, PeerName, San};
use plenum_base::policy::{Account, AccountKind, BasicCredential, FORMAT, Signed, Snapshot};
use plenum_base::serve::{ConnInfo, Plain, Server};
use plenum_base::service::Shutdown;
use plenum_base::tls::{ClientAuth, Identity, IdentityFiles};
use plenum_gateway::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// Nothing in these tests takes longer.
pub const SOON: Duration = Duration::from_secs(20);

/// What a played scheduler knows.
#[derive(Clone)]
pub struct Scheduler {
    pub apps: Arc<Mutex<BTreeMap<String, Value>>>,
    events: broadcast::Sender<String>,
}

impl Scheduler {
    /// Changes an app and says so.
    pub fn set(&self, app: Value) {
        let id = app["id"].as_str().unwrap().to_owned();
        self.apps.lock().insert(id, app.clone());
        let event = json!({"eventType": "api_post_event", "appDefinition": {"id": app["id"]}});
        let _ = self.events.send(format!("event: api_post_event\ndata: {event}\n\n"));
    }
}

pub struct World {
    _folder: tempfile::TempDir,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub token: String,
    pub client: Client,
    pub scheduler: Scheduler,
    pub ca: Arc<Authority>,
    pub shutdown: Shutdown,
    pub config: Config,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

pub fn identity(ca: &Authority, role: &str) -> (Identity, String, String) {
    let sans = [San::Ip("127.0.0.1".parse().unwrap()), San::Dns("localhost".into())];
    let name = PeerName::new("test", role, role).unwrap();
    let (cert, key) = ca.issue_fresh(&name, &sans, SystemTime::now(), LIFETIME).unwrap();
    (Identity::from_pem(ca.certificate_pem(), &cert, &key).unwrap(), cert, key)
}

fn sign_policy(path: &Path, ca: &Authority, enforce: bool) -> String {
    let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap();
    jwk.common.key_id = Some("k".into());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let permissions = BTreeMap::from([("dcos:adminrouter:ops:mesos".to_owned(), vec!["full".to_owned()])]);
    let ann = Account { kind: AccountKind::User, permissions };
    let spark = Account { kind: AccountKind::Service, permissions: BTreeMap::new() };
    let hash = hash_secret(b"s3cret", HashCost::Light).unwrap();
    let snapshot = Snapshot {
        format: FORMAT,
        number: 1,
        cluster_id: "11111111-2222-4333-8444-555555555555".into(),
        issued_at: now,
        jwks: JwkSet { keys: vec![jwk] },
        accounts: BTreeMap::from([("ann".to_owned(), ann), ("spark".to_owned(), spark)]),
        basic: vec![BasicCredential { principal: "spark".into(), hash }],
        enforce,
        cluster: None,
    };
    let signed = Signed::sign(&snapshot, &identity(ca, "identity").0).unwrap();
    std::fs::write(path, serde_json::to_vec(&signed).unwrap()).unwrap();
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("k".into());
    jsonwebtoken::encode(&header, &json!({"uid": "ann", "exp": now + 600}), &key).unwrap()
}

/// Serves until the world ends.
pub async fn serve(server: Server, shutdown: &Shutdown) -> SocketAddr {
    serve_at("127.0.0.1:0".parse().unwrap(), server, shutdown).await
}

/// The same at an address of the test's choice.
pub async fn serve_at(at: SocketAddr, server: Server, shutdown: &Shutdown) -> SocketAddr {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let switch = shutdown.clone();
    tokio::spawn(async move { server.serve(listener, switch).await });
    address
}

/// Tells what reached it.
async fn echo(State(role): State<&'static str>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let conn = parts.extensions.get::<ConnInfo>().unwrap();
    let peer = conn.peer.as_ref().map(|peer| peer.name.role.clone());
    let headers: BTreeMap<String, Vec<String>> = parts
        .headers
        .keys()
        .map(|name| {
            let values =
                parts.headers.get_all(name).iter().map(|v| v.to_str().unwrap_or("?").to_owned()).collect();
            (name.to_string(), values)
        })
        .collect();
    let Ok(body) = body.collect().await else { return http::StatusCode::BAD_REQUEST.into_response() };
    let body = body.to_bytes();
    let told = json!({"role": role, "method": parts.method.as_str(), "uri": parts.uri.to_string(), "peer": peer,
        "headers": headers, "bytes": body.len(), "start": String::from_utf8_lossy(&body[..body.len().min(100)])});
    axum::Json(told).into_response()
}

pub fn echo_router(role: &'static str) -> Router {
    Router::new().fallback(echo).with_state(role)
}

/// An agent: besides what all do, it gives back a body while it arrives, or counts it to its end.
fn agent_router() -> Router {
    let mirror = async |request: Request| Response::new(request.into_body());
    let count = async |request: Request| {
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap_or_default();
        format!("counted {}", body.len())
    };
    echo_router("agent")
        .route("/mirror", axum::routing::post(mirror))
        .route("/count", axum::routing::post(count))
}

async fn scheduler(State(state): State<Scheduler>, request: Request) -> Response {
    match request.uri().path() {
        "/v2/events" => {
            let listener = state.events.subscribe();
            let frames = futures_util::stream::unfold(listener, |mut listener| async move {
                Some((listener.recv().await.ok()?, listener))
            });
            let first = futures_util::stream::once(async { ":\n\n".to_owned() });
            let body = Body::from_stream(first.chain(frames).map(Ok::<_, std::convert::Infallible>));
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
        }
        "/v2/apps"
            if request.uri().query().is_some_and(|query| query.contains("label=DCOS_SERVICE_NAME")) =>
        {
            axum::Json(json!({"apps": state.apps.lock().values().collect::<Vec<_>>()})).into_response()
        }
        path if path.starts_with("/v2/apps/") => {
            match state.apps.lock().get(path.strip_prefix("/v2/apps").unwrap()) {
                Some(app) => axum::Json(json!({"app": app})).into_response(),
                None => http::StatusCode::NOT_FOUND.into_response(),
            }
        }
        _ => echo(State("services"), request).await,
    }
}

async fn master(State(agent): State<SocketAddr>, request: Request) -> Response {
    let frameworks = json!([{"id": "fw-1", "name": "kafka", "webui_url": format!("http://{agent}/ui")}]);
    match (request.uri().path(), request.uri().query()) {
        ("/slaves", Some("slave_id=S1")) => {
            axum::Json(json!({"slaves": [{"id": "S1", "pid": format!("slave(1)@{agent}")}]})).into_response()
        }
        ("/slaves", _) => axum::Json(json!({"slaves": []})).into_response(),
        ("/state-summary", None) => axum::Json(json!({"frameworks": frameworks})).into_response(),
        _ => echo(State("master"), request).await,
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(false, |_| {}).await
    }

    /// With other settings, and with permissions enforced or not.
    pub async fn with(enforce: bool, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let ca = Authority::create("test", SystemTime::now()).unwrap();
        let policy = folder.path().join("policy.json");
        let token = sign_policy(&policy, &ca, enforce);
        let (_, cert, key) = identity(&ca, "gateway");
        let at = |name: &str| folder.path().join(name);
        let files = IdentityFiles { ca: at("ca.pem"), cert: at("cert.pem"), key: at("key.pem") };
        files.write(ca.certificate_pem(), &cert, &key).unwrap();
        let state = Scheduler { apps: Arc::default(), events: broadcast::channel(64).0 };
        let played = async |role: &'static str, router: Router| {
            let server = Server::new(router).tls(&identity(&ca, role).0, ClientAuth::Optional).unwrap();
            serve(server, &shutdown).await
        };
        let agent = played("agent", agent_router()).await;
        let mut config = Config {
            head_seconds: 1,
            stall_seconds: 2,
            patience_seconds: 1,
            etcd: true,
            ..Config::default()
        };
        let base = |address: SocketAddr| format!("https://{address}");
        config.component.identity = base(played("identity", echo_router("identity")).await);
        config.master = base(played("master", Router::new().fallback(master).with_state(agent)).await);
        config.services =
            base(played("services", Router::new().fallback(scheduler).with_state(state.clone())).await);
        config.catalog = base(played("catalog", echo_router("catalog")).await);
        config.discovery = base(played("discovery", echo_router("discovery")).await);
        config.component.policy = policy;
        (config.component.ca, config.component.certificate, config.component.key) =
            (files.ca, files.cert, files.key);
        config.component.plain = Plain::Loopback;
        change(&mut config);
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (plain, tls) = (bind().await, bind().await);
        let (http, https) = (plain.local_addr().unwrap(), tls.local_addr().unwrap());
        let (switch, own) = (shutdown.clone(), config.clone());
        tokio::spawn(async move { plenum_gateway::run_on(own, switch, plain, tls).await.unwrap() });
        let client = Client::with_ca(ca.certificate_pem()).unwrap();
        Self {
            _folder: folder,
            http,
            https,
            token,
            client,
            scheduler: state,
            ca: Arc::new(ca),
            shutdown,
            config,
        }
    }

    /// `(status, headers, body)` of a request with the token.
    pub async fn get(&self, path: &str) -> (u16, http::HeaderMap, String) {
        self.ask(http::Method::GET, path, &[("authorization", &format!("token={}", self.token))]).await
    }

    pub async fn ask(
        &self,
        method: http::Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (u16, http::HeaderMap, String) {
        let mut call = self.client.call(method, &format!("http://{}{path}", self.http)).deadline(SOON);
        for (name, value) in headers {
            call = call.header(name.parse().unwrap(), value);
        }
        let reply = call.send().await.unwrap();
        let (status, headers) = (reply.status.as_u16(), reply.headers.clone());
        (status, headers, String::from_utf8(reply.bytes().await.unwrap().to_vec()).unwrap())
    }

    /// What a component says that reached it.
    pub async fn told(&self, path: &str) -> Value {
        let (status, _, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A service of a test's own, on plain HTTP.
    pub async fn play(&self, router: Router) -> SocketAddr {
        serve(Server::new(router), &self.shutdown).await
    }

    /// An installed service with instances at these addresses.
    pub fn install(&self, name: &str, at: &[SocketAddr]) {
        let tasks: Vec<Value> = at
            .iter()
            .enumerate()
            .map(|(n, address)| {
                json!({"id": format!("{name}.{n}"),
            "state": "TASK_RUNNING", "host": address.ip().to_string(), "ports": [address.port()]})
            })
            .collect();
        self.scheduler.set(json!({"id": format!("/{name}"), "tasks": tasks, "networks": [{"mode": "host"}],
            "labels": {"DCOS_SERVICE_NAME": name, "DCOS_SERVICE_SCHEME": "http", "DCOS_SERVICE_PORT_INDEX": "0"}}));
    }

    /// Asks until the service is known, which the events bring about.
    pub async fn installed(&self, path: &str) -> Value {
        let end = tokio::time::Instant::now() + SOON;
        loop {
            let (status, _, body) = self.get(path).await;
            if status == 200 {
                return serde_json::from_str(&body).unwrap_or(Value::String(body));
            }
            assert!(tokio::time::Instant::now() < end, "{status} {body}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A raw connection.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn to(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until `wanted` has been there.
    pub async fn until(&mut self, wanted: &str) -> String {
        let mut all = Vec::new();
        let read = async {
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&all).contains(wanted) {
                let count = self.0.read(&mut buffer).await.unwrap_or(0);
                if count == 0 {
                    break;
                }
                all.extend_from_slice(&buffer[..count]);
            }
        };
        tokio::time::timeout(SOON, read).await.unwrap_or_else(|_| panic!("no {wanted:?} in time"));
        let text = String::from_utf8_lossy(&all).into_owned();
        assert!(text.contains(wanted), "no {wanted:?} in {text:?}");
        text
    }

    /// Reads to the end.
    pub async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = tokio::time::timeout(SOON, self.0.read_to_end(&mut all)).await.expect("the end in time");
        String::from_utf8_lossy(&all).into_owned()
    }
}
