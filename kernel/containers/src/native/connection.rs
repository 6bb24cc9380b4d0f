//! Frames over a Unix stream, asynchronous: the agent's side of the shim protocol.

use plenum_shim::wire::{self, Message, Reply, Request, State};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Writes one message.
pub async fn write<M: Message>(to: &mut UnixStream, message: &M) -> Result<()> {
    to.write_all(&wire::encode(message)).await
}

/// Reads frames; keeps what came early, so that a read that is cancelled loses nothing.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: Vec<u8>,
}

impl Inbox {
    /// The next reply.
    pub async fn next(&mut self, from: &mut UnixStream) -> Result<Reply> {
        loop {
            if let Some(reply) = self.take()? {
                return Ok(reply);
            }
            if from.read_buf(&mut self.buffer).await? == 0 {
                return Err(Error::from(ErrorKind::UnexpectedEof));
            }
        }
    }

    /// Puts in what was read by other means.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn take(&mut self) -> Result<Option<Reply>> {
        let bad = |malformed| Error::new(ErrorKind::InvalidData, malformed);
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = wire::payload_len(*head, wire::FRAME_MAX).map_err(bad)?;
        let Some(payload) = self.buffer.get(4..4 + len) else { return Ok(None) };
        let reply = wire::decode(payload).map_err(bad)?;
        self.buffer.drain(..4 + len);
        if self.buffer.is_empty() {
            // A thousand of these wait for a word, most of them for days.
            self.buffer = Vec::new();
        }
        Ok(Some(reply))
    }
}

/// A stream with what has been read of it.
#[derive(Debug)]
pub struct Connection {
    /// The stream.
    pub stream: UnixStream,
    /// What was read and not yet taken.
    pub inbox: Inbox,
}

/// Connects to a live shim: its state, and a connection that will hear of the end. A supervisor in the middle of a
/// launch answers when the launch is over; callers set a deadline.
pub async fn greet(run_dir: &Path) -> Option<(State, Connection)> {
    let mut stream = dial(run_dir).await.ok()?;
    let mut inbox = Inbox::default();
    let mut state = None;
    for request in [hello(), Request::Status, Request::Subscribe] {
        write(&mut stream, &request).await.ok()?;
        match inbox.next(&mut stream).await.ok()? {
            Reply::Status(found) => state = Some(*found),
            Reply::Hello { .. } | Reply::Done => {}
            // `Exited` means that it ended just now; the record will say so.
            _ => return None,
        }
    }
    Some((state?, Connection { stream, inbox }))
}

/// The opening of every connection.
#[must_use]
pub fn hello() -> Request {
    Request::Hello { min: wire::VERSION_MIN, max: wire::VERSION }
}

/// Dials a control socket. Goes through a descriptor of the folder, because the address of a socket has only 108 bytes.
pub async fn dial(run_dir: &Path) -> Result<UnixStream> {
    let dir = std::fs::File::open(run_dir)?;
    let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), plenum_shim::launch::CONTROL);
    UnixStream::connect(path).await
}

/// Reads a file that holds one frame.
pub fn read_file<M: Message>(file: &Path) -> Result<M> {
    let bytes = std::fs::read(file)?;
    let payload = bytes.get(4..).unwrap_or_default();
    wire::decode(payload).map_err(|malformed| Error::new(ErrorKind::InvalidData, malformed))
}
