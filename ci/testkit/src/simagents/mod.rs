//! Many simulated agents in one process: each a real connection of mutual TLS with a certificate of its own, speaking the frames of
//! `docs/adr/0004`. [`agent`] decides what is said; this file carries it.

pub mod agent;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{TryStreamExt, stream};
use plenum_api::codec::{decode_protobuf, encode_protobuf_into};
use plenum_api::internal::{AgentFrame, AgentMessage, MasterFrame, agent_message::Kind as Say};
use plenum_base::frames::{FrameReader, FrameWriter, MAX_FRAME};
use plenum_base::pki::{Authority, PeerName};
use plenum_base::tls::{Expect, Identity};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

pub use agent::{Shape, SimAgent};

/// For connecting, for the handshake, and for each answer while registering.
const PATIENCE: Duration = Duration::from_secs(30);
/// Agents that dial at the same time.
const DIALLING: usize = 64;

type Reader = FrameReader<ReadHalf<TlsStream<TcpStream>>>;
type Writer = FrameWriter<WriteHalf<TlsStream<TcpStream>>>;

/// What a fleet has done, all agents together.
#[derive(Debug, Default)]
pub struct Counts {
    /// Agents whose connection ended.
    pub lost: AtomicU64,
    /// Updates that were sent again because no acknowledgement came.
    pub repeated: AtomicU64,
    /// Tasks that were started.
    pub started: AtomicU64,
}

/// Makes agents of one cluster.
#[derive(Debug)]
pub struct Fleet {
    authority: Authority,
    instance: String,
    master: SocketAddr,
    shape: Shape,
    /// What they have done.
    pub counts: Arc<Counts>,
}

impl Fleet {
    /// Agents that dial `master`. `authority` issues their certificates and has issued the master's.
    #[must_use]
    pub fn new(authority: Authority, instance: &str, master: SocketAddr, shape: Shape) -> Self {
        Self { authority, instance: instance.to_owned(), master, shape, counts: Arc::default() }
    }

    /// Makes the agents of these numbers and waits until the master has taken all of them in. They go on in tasks of the current runtime
    /// until it ends.
    ///
    /// # Errors
    /// When one of them is not taken in.
    pub async fn register(&self, numbers: std::ops::Range<u32>) -> Result<()> {
        stream::iter(numbers.map(Ok))
            .try_for_each_concurrent(DIALLING, |number| async move {
                self.one(number).await.with_context(|| format!("agent {number}"))
            })
            .await
    }

    async fn one(&self, number: u32) -> Result<()> {
        let name = PeerName::new(&self.instance, "agent", &format!("node-{number}"))?;
        let (certificate, key) =
            self.authority.issue_fresh(&name, &[], SystemTime::now(), Duration::from_secs(24 * 3600))?;
        let identity = Identity::from_pem(self.authority.certificate_pem(), &certificate, &key)?;
        let mut config = identity.client_config(Expect::Role("master".into()))?;
        // Nobody resumes a session here, and memory for it would be the fleet's largest.
        config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        let connect = async {
            let stream = TcpStream::connect(self.master).await?;
            stream.set_nodelay(true)?;
            let server = ServerName::IpAddress(self.master.ip().into());
            TlsConnector::from(Arc::new(config)).connect(server, stream).await
        };
        let mut stream = timeout(PATIENCE, connect).await.context("no connection in time")??;
        stream.get_mut().1.set_buffer_limit(Some(64 * 1024));
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader, MAX_FRAME);
        let mut writer = FrameWriter::new(writer, MAX_FRAME);
        let mut agent = SimAgent::new(number, self.shape.clone());
        let register = agent.register().map_err(|e| anyhow!("its resources: {e}"))?;
        say(&mut writer, vec![agent.hello(), register]).await?;
        let mut term = 0;
        let mut answers = Vec::new();
        while !agent.is_registered() {
            let frame = timeout(PATIENCE, hear(&mut reader)).await.context("no registration in time")??;
            obey(&mut agent, frame, &mut term, &mut answers)?;
        }
        if !answers.is_empty() {
            say(&mut writer, answers).await?;
        }
        let counts = Arc::clone(&self.counts);
        tokio::spawn(async move {
            let Err(error) = live(&mut agent, reader, writer, term, &counts).await;
            counts.lost.fetch_add(1, Ordering::Relaxed);
            eprintln!("simulated agent {number}: {error:#}");
        });
        Ok(())
    }
}

/// A registered agent's life; ends only with its connection.
async fn live(
    agent: &mut SimAgent,
    mut reader: Reader,
    mut writer: Writer,
    mut term: u64,
    counts: &Counts,
) -> Result<std::convert::Infallible> {
    let mut answers = Vec::new();
    loop {
        let due = agent.due();
        let tick = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let before = (agent.repeated, agent.started);
        tokio::select! {
            frame = hear(&mut reader) => obey(agent, frame?, &mut term, &mut answers)?,
            () = tick => agent.tick(Instant::now(), &mut answers),
        }
        counts.repeated.fetch_add(agent.repeated - before.0, Ordering::Relaxed);
        counts.started.fetch_add(agent.started - before.1, Ordering::Relaxed);
        if !answers.is_empty() {
            say(&mut writer, std::mem::take(&mut answers)).await?;
        }
    }
}

/// The next frame. Cancel-safe.
async fn hear(reader: &mut Reader) -> Result<MasterFrame> {
    let bytes = reader.next().await?.context("the master closed the connection")?;
    Ok(decode_protobuf(&bytes)?)
}

fn obey(agent: &mut SimAgent, frame: MasterFrame, term: &mut u64, answers: &mut Vec<Say>) -> Result<()> {
    if frame.term < *term {
        bail!("term {} is over: {term} was obeyed", frame.term);
    }
    *term = frame.term;
    let now = Instant::now();
    for kind in frame.messages.into_iter().filter_map(|message| message.kind) {
        agent.hear(kind, now, answers).map_err(|why| anyhow!("{why}"))?;
    }
    Ok(())
}

async fn say(writer: &mut Writer, kinds: Vec<Say>) -> Result<()> {
    let messages = kinds.into_iter().map(|kind| AgentMessage { kind: Some(kind) }).collect();
    let mut bytes = Vec::new();
    encode_protobuf_into(&AgentFrame { messages }, &mut bytes);
    Ok(timeout(PATIENCE, writer.send(&bytes)).await.context("the master does not read")??)
}
