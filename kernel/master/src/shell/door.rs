//! The agents' door: mutual TLS, frames both ways, the hello (`docs/adr/0004`). Decoding and encoding happen here, in the connection's own task.

use std::sync::Arc;
use std::time::Duration;

use plenum_api::codec::{decode_protobuf, encode_protobuf_into};
use plenum_api::internal::{AgentFrame, AgentMessage, Goodbye, Hello, MasterFrame, MasterMessage};
use plenum_api::internal::{agent_message, goodbye::Code, master_message};
use plenum_base::frames::{FrameError, FrameReader, FrameWriter, MAX_FRAME};
use plenum_base::service::Shutdown;
use plenum_base::tls::PeerCert;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Phase;
use super::owner::{Handle, Input};
use super::queue::{Waiting, queue};
use crate::core::{AgentIdentity, ConnId, Peer};

/// The protocol version spoken here; there is one so far.
const VERSION: u32 = 1;
/// For the handshake and for the hello.
const GREETING: Duration = Duration::from_secs(10);
/// For one write; an agent that takes longer does not read.
const WRITE: Duration = Duration::from_secs(30);
/// Handshakes at once. More wait in the kernel's queue, so that a storm of agents does not starve the calls.
const HANDSHAKES: usize = 64;
/// Bytes of messages collected into one frame; far below the frame's limit.
const FRAME: usize = 4 * 1024 * 1024;

/// What every connection needs.
pub(crate) struct Door {
    pub tls: Arc<ServerConfig>,
    pub phase: watch::Receiver<Phase>,
    /// The cluster agents must belong to, once it is known.
    pub cluster_id: Box<dyn Fn() -> Option<String> + Send + Sync>,
    pub shutdown: Shutdown,
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

/// An agent that may speak.
struct Greeted {
    /// What its certificate says.
    identity: Arc<AgentIdentity>,
    reader: FrameReader<ReadHalf<Stream>>,
    writer: FrameWriter<WriteHalf<Stream>>,
    /// Who owns the state.
    handle: Handle,
    /// What came along with the hello.
    rest: Vec<AgentMessage>,
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
enum DoorError {
    #[error("handshake: {0}")]
    Tls(#[from] std::io::Error),
    #[error("the client's certificate is not usable: {0}")]
    Certificate(String),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("a message that cannot be read: {0}")]
    Decode(#[from] plenum_api::codec::DecodeError),
    #[error("the other end was too slow")]
    Slow,
    #[error("{0}")]
    Refused(String),
}

impl Door {
    /// Lets agents in until the end.
    pub async fn serve(self, listener: TcpListener) {
        let door = Arc::new(self);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let next = async {
                let slot = Arc::clone(&handshakes).acquire_owned().await.ok()?;
                Some((slot, listener.accept().await))
            };
            let Some(Some((slot, accepted))) = door.shutdown.until(next).await else { return };
            match accepted {
                // No handshake is spent on an agent that has to go elsewhere: it sees the end at once and tries the next master.
                Ok((stream, _)) if !door.leads() => drop(stream),
                Ok((stream, address)) => {
                    let door = Arc::clone(&door);
                    tokio::spawn(async move {
                        let shutdown = door.shutdown.clone();
                        let talk = door.connection(stream, address.to_string(), slot);
                        if let Some(Err(error)) = shutdown.until(talk).await {
                            tracing::debug!(%address, %error, "an agent's connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "accept failed at the agents' door");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn leads(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Leading(handle) if handle.validity.holds())
    }

    async fn connection(
        &self,
        stream: TcpStream,
        address: String,
        slot: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<(), DoorError> {
        // On its own, since what a handshake needs is much, and what stays of it is little.
        let Some(greeted) = Box::pin(self.welcome(stream)).await? else { return Ok(()) };
        drop(slot);
        let Greeted { identity, reader, writer, handle, rest } = greeted;
        let conn = handle.conn();
        let (sender, waiting) = queue(handle.validity.clone());
        let peer = Peer { identity, address: address.into() };
        if handle.send(Input::AgentOpened(conn, peer, sender)).await.is_err() {
            return Ok(());
        }
        let ended = async {
            tokio::select! {
                ended = read(&handle, conn, reader, rest) => ended,
                ended = write(&handle, writer, waiting) => ended,
            }
        }
        .await;
        let _ = handle.send(Input::AgentClosed(conn)).await;
        ended
    }

    /// Handshake and hello; nothing when the agent left or was sent away.
    async fn welcome(&self, stream: TcpStream) -> Result<Option<Greeted>, DoorError> {
        // Small messages leave at once.
        let _ = stream.set_nodelay(true);
        let mut stream = timeout(GREETING, TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream))
            .await
            .map_err(|_| DoorError::Slow)??;
        // An idle connection keeps as little as possible.
        stream.get_mut().1.set_buffer_limit(Some(64 * 1024));
        let identity: Arc<AgentIdentity> = {
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let first = certificates.first().ok_or_else(|| DoorError::Certificate("there is none".into()))?;
            let peer = PeerCert::read(first).map_err(|e| DoorError::Certificate(e.to_string()))?;
            // A resumed session may outlive the certificate it began with.
            if !peer.is_current(std::time::SystemTime::now()) {
                return Err(DoorError::Certificate("it has ended".into()));
            }
            if peer.name.role != "agent" {
                return Err(DoorError::Certificate(format!("it is for role {}, not agent", peer.name.role)));
            }
            Arc::new(AgentIdentity { key: peer.key_fingerprint.into(), node: peer.name.name.into() })
        };
        let (reader, writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader, MAX_FRAME);
        let mut writer = FrameWriter::new(writer, MAX_FRAME);
        let greeted = self.greet(&mut reader, &mut writer).await?;
        Ok(greeted.map(|(handle, rest)| Greeted { identity, reader, writer, handle, rest }))
    }

    /// The hello of both sides. Returns who owns the state, and what came along with the hello; nothing when the agent was sent away.
    async fn greet<S: AsyncRead + AsyncWrite>(
        &self,
        reader: &mut FrameReader<ReadHalf<S>>,
        writer: &mut FrameWriter<WriteHalf<S>>,
    ) -> Result<Option<(Handle, Vec<AgentMessage>)>, DoorError> {
        let Some(frame) = timeout(GREETING, reader.next()).await.map_err(|_| DoorError::Slow)?? else {
            return Ok(None);
        };
        let frame: AgentFrame = decode_protobuf(&frame)?;
        let mut messages = frame.messages.into_iter();
        let Some(agent_message::Kind::Hello(hello)) = messages.next().and_then(|message| message.kind) else {
            return refuse(writer, 0, Code::Protocol, "the first message must be Hello".into()).await;
        };
        let Phase::Leading(handle) = self.phase.borrow().clone() else {
            return refuse(
                writer,
                0,
                Code::NotLeader,
                "this master does not lead: connect to the leader".into(),
            )
            .await;
        };
        if hello.version_min > VERSION || hello.version_max < VERSION {
            let text = format!(
                "this master speaks protocol versions {VERSION} to {VERSION}, the agent {} to {}",
                hello.version_min, hello.version_max
            );
            return refuse(writer, handle.term, Code::Version, text).await;
        }
        let ours = (self.cluster_id)();
        if let (Some(ours), Some(theirs)) = (&ours, hello.cluster_id.as_ref().filter(|id| !id.is_empty()))
            && ours != theirs
        {
            let text = format!("this is cluster {ours}, the agent belongs to {theirs}");
            return refuse(writer, handle.term, Code::Cluster, text).await;
        }
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: Vec::new(),
            cluster_id: ours,
            program_version: Some(env!("CARGO_PKG_VERSION").into()),
        };
        send(writer, handle.term, vec![MasterMessage { kind: Some(master_message::Kind::Hello(hello)) }])
            .await?;
        Ok(Some((handle, messages.collect())))
    }
}

async fn refuse<T, W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    term: u64,
    code: Code,
    message: String,
) -> Result<Option<T>, DoorError> {
    let goodbye = Goodbye { code: code as i32, message: Some(message.clone()) };
    send(writer, term, vec![MasterMessage { kind: Some(master_message::Kind::Goodbye(goodbye)) }]).await?;
    let _ = timeout(GREETING, writer.close()).await;
    Err(DoorError::Refused(message))
}

async fn send<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    term: u64,
    messages: Vec<MasterMessage>,
) -> Result<(), DoorError> {
    let mut bytes = Vec::new();
    encode_protobuf_into(&MasterFrame { term, messages }, &mut bytes);
    timeout(WRITE, writer.send(&bytes)).await.map_err(|_| DoorError::Slow)??;
    Ok(())
}

async fn read<R: AsyncRead + Unpin>(
    handle: &Handle,
    conn: ConnId,
    mut reader: FrameReader<R>,
    rest: Vec<AgentMessage>,
) -> Result<(), DoorError> {
    if !rest.is_empty() && handle.send(Input::AgentFrame(conn, rest)).await.is_err() {
        return Ok(());
    }
    while let Some(bytes) = reader.next().await? {
        let frame: AgentFrame = decode_protobuf(&bytes)?;
        if handle.send(Input::AgentFrame(conn, frame.messages)).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn write<W: AsyncWrite + Unpin>(
    handle: &Handle,
    mut writer: FrameWriter<W>,
    mut waiting: Waiting<Vec<MasterMessage>>,
) -> Result<(), DoorError> {
    let mut batches = Vec::new();
    loop {
        if waiting.take(&mut batches, 64).await == 0 {
            let _ = timeout(GREETING, writer.close()).await;
            return Ok(());
        }
        for bytes in frames(handle.term, &mut batches) {
            timeout(WRITE, writer.send(&bytes)).await.map_err(|_| DoorError::Slow)??;
        }
        batches.shrink_to(4);
    }
}

/// Messages in as few frames as their sizes allow, encoded. Apart from `write`, because a message is large as a value, and what is alive
/// where a task waits is memory of every idle connection.
fn frames(term: u64, batches: &mut Vec<Vec<MasterMessage>>) -> Vec<Vec<u8>> {
    let mut frames = Vec::with_capacity(1);
    let mut messages = Vec::new();
    let mut size = 0;
    let mut finish = |messages: Vec<MasterMessage>| {
        let mut bytes = Vec::new();
        encode_protobuf_into(&MasterFrame { term, messages }, &mut bytes);
        frames.push(bytes);
    };
    for message in batches.drain(..).flatten() {
        let length = prost::Message::encoded_len(&message);
        if size + length > FRAME && !messages.is_empty() {
            finish(std::mem::take(&mut messages));
            size = 0;
        }
        size += length;
        messages.push(message);
    }
    if !messages.is_empty() {
        finish(messages);
    }
    frames
}

#[cfg(test)]
mod tests {
    use plenum_api::internal::FrameworkMessage;

    use super::*;

    #[test]
    fn large_messages_are_cut_into_frames_in_order() {
        let message = |n: u8, size: usize| MasterMessage {
            kind: Some(master_message::Kind::FrameworkMessage(FrameworkMessage {
                framework_id: "f".into(),
                executor_id: "e".into(),
                data: vec![n; size].into(),
            })),
        };
        let mut batches = vec![vec![message(0, 8), message(1, FRAME)], vec![message(2, 8), message(3, 8)]];
        let all: Vec<MasterMessage> = batches.iter().flatten().cloned().collect();
        let frames: Vec<MasterFrame> =
            frames(7, &mut batches).iter().map(|bytes| decode_protobuf(bytes).expect("a frame")).collect();
        assert_eq!(
            frames.iter().map(|f| (f.term, f.messages.len())).collect::<Vec<_>>(),
            [(7, 1), (7, 1), (7, 2)]
        );
        assert_eq!(frames.into_iter().flat_map(|f| f.messages).collect::<Vec<_>>(), all);
    }
}
