//! A master on ephemeral ports, a plain HTTP client that sees every byte, and an agent made of frames.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use plenum_api::codec::{Encoding, Message, decode, decode_protobuf, encode};
use plenum_api::internal::{AgentFrame, AgentMessage, Hello, MasterFrame, agent_message, master_message};
use plenum_api::recordio::Decoder;
use plenum_base::auth::Authenticator;
use plenum_base::frames::{FrameReader, FrameWriter, MAX_FRAME};
use plenum_base::pki::{Authority, PeerName};
use plenum_base::service::{Shutdown, install_crypto};
use plenum_base::tls::{Expect, Identity};
use plenum_master::{Config, Running, Setup, start};
use plenum_store::{Embedded, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Nothing in these tests takes longer.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("in time")
}

pub struct Cluster {
    pub ca: Authority,
    pub folder: tempfile::TempDir,
    pub open: bool,
}

/// Where a master is.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub http: SocketAddr,
    pub agents: SocketAddr,
}

pub struct Up {
    pub at: At,
    running: Running,
    store: Arc<Embedded>,
    shutdown: Shutdown,
}

impl Cluster {
    pub fn new(open: bool) -> Self {
        install_crypto();
        Self {
            ca: Authority::create("test", SystemTime::now()).expect("a CA"),
            folder: tempfile::tempdir().expect("a folder"),
            open,
        }
    }

    pub fn identity(&self, role: &str, name: &str) -> Identity {
        let (cert, key) = self.issue(role, name);
        Identity::from_pem(self.ca.certificate_pem(), &cert, &key).expect("an identity")
    }

    pub fn issue(&self, role: &str, name: &str) -> (String, String) {
        let name = PeerName::new("test", role, name).expect("a name");
        let issued = self.ca.issue_fresh(&name, &[], SystemTime::now(), Duration::from_secs(3600));
        let (cert, key) = issued.expect("a certificate");
        (cert, key)
    }

    pub async fn up(&self) -> Up {
        let store = Arc::new(
            Embedded::open(self.folder.path().join("store.redb"), Options::default()).await.expect("a store"),
        );
        let mut config = Config { heartbeat_seconds: 0.5, ..Config::default() };
        config.component.open = self.open;
        let shutdown = Shutdown::new();
        let setup = Setup {
            config,
            identity: self.identity("master", "m1"),
            authenticator: Authenticator::open(
                Path::new("/nonexistent/policy"),
                Path::new("/nonexistent/ca"),
                self.open,
            ),
            store: Arc::<Embedded>::clone(&store),
            http: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            agents: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        };
        let mut running = start(setup, shutdown.clone()).expect("started");
        soon(running.leads()).await;
        let at = At { http: running.http, agents: running.agents };
        Up { at, running, store, shutdown }
    }
}

impl std::ops::Deref for Up {
    type Target = At;

    fn deref(&self) -> &At {
        &self.at
    }
}

impl Up {
    pub async fn down(self) {
        self.shutdown.trigger();
        soon(self.running.ended()).await.expect("an orderly end");
        self.store.close().await.expect("closed");
    }
}

impl At {
    pub async fn get(&self, path: &str) -> serde_json::Value {
        let reply = Http::ask(self.http, "GET", path, &[], b"").await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        serde_json::from_slice(&reply.body).expect("JSON")
    }

    pub async fn operate<T: Message>(&self, encoding: Encoding, call: &plenum_api::master::Call) -> T {
        let headers = [("Content-Type", encoding.media_type()), ("Accept", encoding.media_type())];
        let reply = Http::ask(self.http, "POST", "/api/v1/operator", &headers, &encode(encoding, call)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        decode(encoding, &reply.body).expect("an answer")
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, HTTP/1.1 by hand.
pub struct Http {
    io: TcpStream,
    buffer: Vec<u8>,
    pub head: Reply,
    records: Decoder,
}

impl Http {
    pub async fn send(
        to: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Self {
        let mut io = soon(TcpStream::connect(to)).await.expect("connected");
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        io.write_all(&bytes).await.expect("sent");
        let mut this = Self {
            io,
            buffer: Vec::new(),
            head: Reply { status: 0, headers: Vec::new(), body: Vec::new() },
            records: Decoder::new(1 << 24),
        };
        let end = loop {
            if let Some(at) = this.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            assert!(this.fill().await, "a head");
        };
        let head = String::from_utf8(this.buffer.drain(..end + 4).collect()).expect("text");
        let mut lines = head.trim_end().split("\r\n");
        let status =
            lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).expect("a status");
        let headers =
            lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        this.head = Reply { status, headers, body: Vec::new() };
        this
    }

    async fn fill(&mut self) -> bool {
        soon(self.io.read_buf(&mut self.buffer)).await.expect("readable") > 0
    }

    pub fn chunked(&self) -> bool {
        self.head.header("transfer-encoding") == Some("chunked")
    }

    /// The next chunk; none at the end.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..at]).expect("text"), 16)
                    .expect("a size");
                if self.buffer.len() >= at + 2 + size + 2 {
                    let chunk = self.buffer[at + 2..at + 2 + size].to_vec();
                    self.buffer.drain(..at + 2 + size + 2);
                    return (size > 0).then_some(chunk);
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    pub async fn ask(
        to: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut this = Self::send(to, method, path, headers, body).await;
        if this.chunked() {
            while let Some(chunk) = this.chunk().await {
                this.head.body.extend(chunk);
            }
        } else {
            while this.fill().await {}
            this.head.body = std::mem::take(&mut this.buffer);
        }
        this.head
    }

    /// The next record of a stream; none at the end.
    pub async fn record<T: Message>(&mut self, encoding: Encoding) -> Option<T> {
        loop {
            if let Some(record) = self.records.next_record().expect("records") {
                return Some(decode(encoding, &record).expect("a message"));
            }
            let chunk = self.chunk().await?;
            self.records.feed(&chunk);
        }
    }
}

/// An agent without machinery.
pub struct Agent {
    pub reader: FrameReader<ReadHalf<TlsStream<TcpStream>>>,
    pub writer: FrameWriter<WriteHalf<TlsStream<TcpStream>>>,
    queue: std::collections::VecDeque<master_message::Kind>,
    pub term: u64,
}

impl Agent {
    /// Dials in and says hello.
    pub async fn dial(up: &At, identity: &Identity, hello: Hello) -> Self {
        let config = identity.client_config(Expect::Role("master".into())).expect("a configuration");
        let io = soon(TcpStream::connect(up.agents)).await.expect("connected");
        let stream =
            soon(TlsConnector::from(Arc::new(config)).connect("localhost".try_into().expect("a name"), io))
                .await
                .expect("a handshake");
        let (reader, writer) = tokio::io::split(stream);
        let mut agent = Self {
            reader: FrameReader::new(reader, MAX_FRAME),
            writer: FrameWriter::new(writer, MAX_FRAME),
            queue: Default::default(),
            term: 0,
        };
        agent.say(vec![agent_message::Kind::Hello(hello)]).await;
        agent
    }

    pub async fn say(&mut self, kinds: Vec<agent_message::Kind>) {
        let frame = AgentFrame {
            messages: kinds.into_iter().map(|kind| AgentMessage { kind: Some(kind) }).collect(),
        };
        let mut bytes = Vec::new();
        plenum_api::codec::encode_protobuf_into(&frame, &mut bytes);
        soon(self.writer.send(&bytes)).await.expect("sent");
    }

    /// The next message that is no ping; pings are answered. None when the master hung up.
    pub async fn hear(&mut self) -> Option<master_message::Kind> {
        loop {
            match self.queue.pop_front() {
                Some(master_message::Kind::Ping(ping)) => {
                    let pong = plenum_api::internal::Pong { seq: ping.seq };
                    self.say(vec![agent_message::Kind::Pong(pong)]).await;
                }
                Some(kind) => return Some(kind),
                None => {
                    let bytes = soon(self.reader.next()).await.ok().flatten()?;
                    let frame: MasterFrame = decode_protobuf(&bytes).expect("a frame");
                    self.term = frame.term;
                    self.queue.extend(frame.messages.into_iter().filter_map(|m| m.kind));
                }
            }
        }
    }
}

pub fn hello() -> Hello {
    Hello { version_min: 1, version_max: 1, ..Default::default() }
}
