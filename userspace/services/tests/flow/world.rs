//! A scheduler with its store and its master, and a client of its API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use plenum_base::client::{Client, Stream, full};
use plenum_base::serve::Server;
use plenum_base::service::Shutdown;
use plenum_services::http::About;
use plenum_services::shell::{Setup, engine};
use plenum_store::{Embedded, Store};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::master::Master;

pub struct World {
    pub master: Master,
    store: Arc<dyn Store>,
    pub address: SocketAddr,
    shutdown: Shutdown,
    running: Vec<JoinHandle<()>>,
}

impl World {
    pub async fn start() -> Self {
        let store: Arc<dyn Store> = Arc::new(Embedded::open_in_memory().await.unwrap());
        Self::on(store, Master::start().await).await
    }

    async fn on(store: Arc<dyn Store>, master: Master) -> Self {
        let setup = Setup::new(vec![format!("http://{}", master.address)], Client::plain().unwrap());
        let (handle, engine) = engine(setup, store.clone());
        let about = About { leader: "here:8080".to_owned(), ..About::default() };
        let router = plenum_services::http::router(handle, about);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let until = shutdown.clone();
        let deciding = tokio::spawn(async move { engine.run(until).await.unwrap() });
        let serving = tokio::spawn(async move { Server::new(router).serve(listener, Shutdown::new()).await });
        let world = Self { master, store, address, shutdown, running: vec![deciding, serving] };
        world.until("/v2/info", |info| info["frameworkId"] == "F").await;
        world
    }

    /// Drops the scheduler where it stands and starts another one on the same store.
    pub async fn crash(self) -> Self {
        for task in &self.running {
            task.abort();
        }
        for task in self.running {
            assert!(task.await.is_err_and(|e| e.is_cancelled()));
        }
        Self::on(self.store, self.master).await
    }

    pub async fn stop(mut self) {
        self.shutdown.trigger();
        self.running.remove(0).await.unwrap();
        self.running.remove(0).abort();
    }

    /// Waits until the scheduler ends by itself, and says why.
    pub async fn ended(mut self) -> String {
        let why = self.running.remove(0).await.expect_err("it ends with an error").into_panic();
        why.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, HeaderMap, Value) {
        self.raw(method, path, body.map_or(Vec::new(), |b| b.to_string().into_bytes())).await
    }

    /// The same with headers.
    pub async fn with(
        &self,
        headers: &[(&'static str, &str)],
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, HeaderMap, Value) {
        self.call(headers, method, path, body.map_or(Vec::new(), |b| b.to_string().into_bytes())).await
    }

    pub async fn raw(&self, method: &str, path: &str, body: Vec<u8>) -> (u16, HeaderMap, Value) {
        self.call(&[], method, path, body).await
    }

    async fn call(
        &self,
        headers: &[(&'static str, &str)],
        method: &str,
        path: &str,
        body: Vec<u8>,
    ) -> (u16, HeaderMap, Value) {
        let url = format!("http://{}{path}", self.address);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut call = Client::plain().unwrap().call(method, &url).body(full(body));
        for (name, value) in headers {
            call = call.header(http::HeaderName::from_static(name), value);
        }
        let reply = call.header(http::header::CONTENT_TYPE, "application/json").send().await.unwrap();
        let (status, headers) = (reply.status.as_u16(), reply.headers.clone());
        let bytes = reply.bytes().await.unwrap();
        (status, headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, _, body) = self.send("GET", path, None).await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// Asks until the answer fits.
    pub async fn until(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..2000 {
            last = self.send("GET", path, None).await.2;
            if fits(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("GET {path} stays {last}");
    }

    pub async fn events(&self, query: &str) -> Events {
        self.events_after(query, None).await
    }

    /// Events after the one of this id.
    pub async fn events_after(&self, query: &str, last: Option<&str>) -> Events {
        let url = format!("http://{}/v2/events?plan-format=light&{query}", self.address);
        let mut call = Client::plain().unwrap().get(&url);
        if let Some(last) = last {
            call = call.header(http::HeaderName::from_static("last-event-id"), last);
        }
        let reply = call.send().await.unwrap();
        assert_eq!(reply.headers["content-type"], "text/event-stream");
        Events { stream: reply.stream(), text: String::new() }
    }
}

/// One event as it came.
#[derive(Debug)]
pub struct Heard {
    pub kind: String,
    pub id: String,
    pub data: Value,
}

/// A listener of `/v2/events`.
pub struct Events {
    stream: Stream,
    text: String,
}

impl Events {
    /// Reads until an event of this type; its data.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let heard = self.next().await.expect("events go on");
            if heard.kind == kind {
                return heard.data;
            }
        }
    }

    /// The next event; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                let line = |name: &str| frame.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
                if let Some(kind) = line("event: ") {
                    let data: Value = serde_json::from_str(&line("data: ").unwrap()).unwrap();
                    assert_eq!(data["eventType"], kind.as_str());
                    assert!(data["timestamp"].is_string(), "{data}");
                    return Some(Heard { kind, id: line("id: ").unwrap(), data });
                }
            }
            let chunk = self.stream.next_within(Duration::from_secs(20)).await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
