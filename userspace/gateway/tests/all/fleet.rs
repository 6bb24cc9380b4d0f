//! Three played masters at addresses of a test's own, whose leader is what the test says, and which fall silent when told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use parking_lot::Mutex;
use plenum_base::places::Role;
use plenum_base::serve::Server;
use plenum_base::tls::ClientAuth;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::fixture::{World, echo_router, identity, serve_at};

/// What all played masters know.
pub struct Script {
    pub addresses: [Ipv4Addr; 3],
    /// Who leads, and its term.
    leader: Mutex<(Option<usize>, u64)>,
    /// Where standbys say that the leader is, where that is elsewhere.
    pub liar: Mutex<Option<String>>,
    /// Who answers nothing any more, as if switched off.
    silent: watch::Sender<[bool; 3]>,
    /// What reached whom: master, method, path, body.
    pub seen: Mutex<Vec<(usize, String, String)>>,
    /// Who leads without saying so to `GET /leader`.
    pub whisper: Mutex<bool>,
}

impl Script {
    pub fn lead(&self, leader: Option<usize>) {
        let mut now = self.leader.lock();
        *now = (leader, now.1 + 1);
    }

    pub fn silence(&self, who: usize) {
        self.silent.send_modify(|silent| silent[who] = true);
    }

    pub fn seen(&self) -> Vec<(usize, String, String)> {
        self.seen.lock().clone()
    }

    async fn until_loud(&self, who: usize) {
        if self.silent.borrow()[who] {
            std::future::pending::<()>().await;
        }
    }
}

/// A role of one master.
#[derive(Clone)]
struct Played {
    script: Arc<Script>,
    role: Role,
    number: usize,
}

impl Played {
    fn base(&self, number: usize) -> String {
        format!("https://{}:{}", self.script.addresses[number], self.role.port())
    }
}

async fn answer(State(played): State<Played>, request: Request) -> Response {
    let script = &played.script;
    script.until_loud(played.number).await;
    let (leader, term) = *script.leader.lock();
    let own = leader == Some(played.number);
    let path = request.uri().path().to_owned();
    if path == "/leader" {
        let whisper = *script.whisper.lock();
        let named = leader.filter(|_| !whisper).map(|number| played.base(number));
        return axum::Json(json!({"leader": named, "self": own && !whisper, "term": term})).into_response();
    }
    if !own {
        let there = script.liar.lock().clone().or_else(|| leader.map(|number| played.base(number)));
        return match there {
            Some(base) => {
                (StatusCode::TEMPORARY_REDIRECT, [("location", format!("{base}{path}"))]).into_response()
            }
            None => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response(),
        };
    }
    let method = request.method().to_string();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    script.seen.lock().push((played.number, format!("{method} {path}"), body.clone()));
    if path == "/stream" {
        let pieces = futures_util::stream::unfold(0, |n| async move {
            if n > 0 {
                tokio::time::sleep(Duration::from_secs(3600)).await;
            }
            Some((Ok::<_, std::convert::Infallible>("piece\n"), n + 1))
        });
        return axum::body::Body::from_stream(pieces).into_response();
    }
    if path == "/falls-silent" && played.number == 0 {
        script.silence(played.number);
        script.until_loud(played.number).await;
    }
    axum::Json(json!({"master": played.number, "body": body, "method": method})).into_response()
}

/// A gateway in front of them.
pub struct Fleet {
    pub world: World,
    pub script: Arc<Script>,
}

impl Fleet {
    /// With the first master leading. `dead` masters take no connection, and refuse none either.
    pub async fn new(dead: &[usize]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id() % 60_000;
        let address = |n: u8| {
            Ipv4Addr::new(
                127,
                100 + u8::try_from(number).unwrap(),
                u8::try_from(process / 250).unwrap(),
                u8::try_from(process % 50).unwrap() * 5 + n,
            )
        };
        let addresses = [address(1), address(2), address(3)];
        let script = Arc::new(Script {
            addresses,
            leader: Mutex::new((Some(0), 1)),
            liar: Mutex::default(),
            silent: watch::channel([false; 3]).0,
            seen: Mutex::default(),
            whisper: Mutex::new(false),
        });
        let world = World::with(false, |config| {
            config.component.masters = addresses.map(IpAddr::V4).into();
            config.failover_seconds = 8;
            config.head_seconds = 30;
        })
        .await;
        for number in (0..3).filter(|number| !dead.contains(number)) {
            for role in [Role::Master, Role::Services] {
                let played = Played { script: Arc::clone(&script), role, number };
                play(&world, addresses[number], role, Router::new().fallback(answer).with_state(played))
                    .await;
            }
            for (role, name) in [(Role::Identity, "identity"), (Role::Catalog, "catalog")] {
                play(&world, addresses[number], role, echo_router(name)).await;
            }
        }
        for number in dead {
            for role in [Role::Master, Role::Services, Role::Identity, Role::Catalog, Role::Etcd] {
                black_hole(SocketAddr::new(addresses[*number].into(), role.port())).await;
            }
        }
        Self { world, script }
    }

    /// `(status, headers, body)` of a request with the token, and how long it took.
    pub async fn ask(&self, method: http::Method, path: &str, headers: &[(&str, &str)], body: &str) -> Told {
        let began = std::time::Instant::now();
        let url = format!("http://{}{path}", self.world.http);
        let mut call = self.world.client.call(method, &url).deadline(crate::fixture::SOON);
        call = call.header(http::header::AUTHORIZATION, &format!("token={}", self.world.token));
        for (name, value) in headers {
            call = call.header(name.parse().unwrap(), value);
        }
        if !body.is_empty() {
            call = call.body(plenum_base::client::full(body.to_owned()));
        }
        let reply = call.send().await.unwrap();
        let (status, headers) = (reply.status.as_u16(), reply.headers.clone());
        let body = String::from_utf8(reply.bytes().await.unwrap().to_vec()).unwrap();
        Told { status, headers, body, took: began.elapsed() }
    }
}

/// A reply.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
    pub took: Duration,
}

async fn play(world: &World, at: Ipv4Addr, role: Role, router: Router) {
    let server =
        Server::new(router).tls(&identity(&world.ca, role.as_str()).0, ClientAuth::Optional).unwrap();
    serve_at(SocketAddr::new(at.into(), role.port()), server, &world.shutdown).await;
}

/// An address that drops every packet that would open a connection, as a host does that is switched off: a queue that is full.
async fn black_hole(at: SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(at).unwrap();
    let listener: TcpListener = socket.listen(1).unwrap();
    let mut kept = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(at)).await
    {
        kept.push(stream);
        assert!(kept.len() < 64, "the queue never fills");
    }
    // For as long as the test's process.
    std::mem::forget((listener, kept));
}
