//! Frames over a Unix stream, asynchronous: the agent's side of the shim protocol.

use plenum_shim::wire::{self, Message, Reply, Request};
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

    fn take(&mut self) -> Result<Option<Reply>> {
        let bad = |malformed| Error::new(ErrorKind::InvalidData, malformed);
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = wire::payload_len(*head, wire::FRAME_MAX).map_err(bad)?;
        let Some(payload) = self.buffer.get(4..4 + len) else { return Ok(None) };
        let reply = wire::decode(payload).map_err(bad)?;
        self.buffer.drain(..4 + len);
        Ok(Some(reply))
    }
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
