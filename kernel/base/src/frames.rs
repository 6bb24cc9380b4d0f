//! Length-delimited frames: a 4-byte big-endian length, then that many bytes (`docs/adr/0004`). What is inside is the protocol's business.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest frame of the private protocols, in bytes.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Room while nothing of a frame is there: enough for most frames, and kept by every idle connection.
const IDLE: usize = 512;
/// Room for more of a frame.
const MORE: usize = 4096;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than allowed; the connection cannot be used any more.
    #[error("a frame of {size} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Announced or given size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection ended inside a frame.
    #[error("the connection ended inside a frame")]
    Truncated,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads frames. Cancel-safe: what has been read stays in the buffer when a call of [`FrameReader::next`] is dropped.
#[derive(Debug)]
pub struct FrameReader<R> {
    io: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames of at most `limit` bytes from `io`.
    pub fn new(io: R, limit: usize) -> Self {
        Self { io, buffer: BytesMut::new(), limit }
    }

    /// The next frame; `None` when the other side closed between two frames.
    ///
    /// # Errors
    /// [`FrameError`]; the reader is of no further use then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            if let Some(frame) = self.split()? {
                return Ok(Some(frame));
            }
            // Room grows with what arrives: an announced length alone allocates nothing, and who waits for a next frame waits with little.
            self.buffer.reserve(if self.buffer.is_empty() { IDLE } else { MORE });
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }

    fn split(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let size = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if size > self.limit {
            return Err(FrameError::TooLarge { size, limit: self.limit });
        }
        if self.buffer.len() < size + 4 {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(size + 4);
        if self.buffer.is_empty() {
            // An idle connection keeps no buffer.
            self.buffer = BytesMut::new();
        }
        Ok(Some(frame.split_off(4).freeze()))
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    io: W,
    limit: usize,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames of at most `limit` bytes to `io`.
    pub fn new(io: W, limit: usize) -> Self {
        Self { io, limit }
    }

    /// Writes one frame and flushes. Not cancel-safe: a dropped call may leave half a frame on the wire.
    ///
    /// # Errors
    /// [`FrameError`].
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        let limit = self.limit.min(u32::MAX as usize);
        let Some(size) = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= limit) else {
            return Err(FrameError::TooLarge { size: payload.len(), limit });
        };
        // One write for small frames, so that they leave in one TLS record and one packet.
        if payload.len() <= 16 * 1024 {
            let mut frame = BytesMut::with_capacity(payload.len() + 4);
            frame.put_u32(size);
            frame.put_slice(payload);
            self.io.write_all(&frame).await?;
        } else {
            self.io.write_all(&size.to_be_bytes()).await?;
            self.io.write_all(payload).await?;
        }
        self.io.flush().await?;
        Ok(())
    }

    /// Says goodbye to the transport (TLS close, FIN).
    ///
    /// # Errors
    /// [`FrameError::Io`].
    pub async fn close(&mut self) -> Result<(), FrameError> {
        Ok(self.io.shutdown().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_any_cutting() {
        let frames: Vec<Vec<u8>> = vec![vec![], vec![1], vec![7; 5000], b"last".to_vec()];
        let mut wire = Vec::new();
        let mut writer = FrameWriter::new(&mut wire, MAX_FRAME);
        for frame in &frames {
            writer.send(frame).await.unwrap();
        }
        for cut in [1, 2, 3, 7, 4096] {
            let (mut near, far) = tokio::io::duplex(cut);
            let bytes = wire.clone();
            let feed = tokio::spawn(async move { near.write_all(&bytes).await });
            let mut reader = FrameReader::new(far, MAX_FRAME);
            for frame in &frames {
                assert_eq!(reader.next().await.unwrap().unwrap(), frame);
            }
            assert!(reader.next().await.unwrap().is_none());
            feed.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn hostile_lengths_and_ends_are_errors() {
        let mut reader = FrameReader::new(&[0xff, 0xff, 0xff, 0xff, 1][..], 100);
        assert!(matches!(reader.next().await, Err(FrameError::TooLarge { limit: 100, .. })));
        for short in [&[0u8, 0][..], &[0, 0, 0, 3, 1][..]] {
            assert!(matches!(FrameReader::new(short, 100).next().await, Err(FrameError::Truncated)));
        }
        let mut writer = FrameWriter::new(Vec::new(), 3);
        assert!(matches!(writer.send(b"four").await, Err(FrameError::TooLarge { size: 4, limit: 3 })));
    }
}
