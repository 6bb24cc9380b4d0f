//! Unpacking a layer into an empty folder of its own. The archive is hostile until proven otherwise: every path is opened beneath the layer's
//! root without following a link, and bytes, entries and their ratio have bounds. Blocks: run it where that is allowed.

mod apply;
pub mod child;
mod decoder;
mod headers;
mod sparse;
mod tree;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use tree::remove_beneath;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::error::is_full;
use apply::Applier;
use decoder::decoder;

/// What a layer may become.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the unpacked archive.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Make device nodes.
    pub devices: bool,
}

/// A layer to unpack.
#[derive(Debug)]
pub struct Work {
    /// The packed layer.
    pub packed: File,
    /// The empty folder.
    pub into: OwnedFd,
    /// The roots of the unpacked layers below, lowest first: folders that the archive does not mention take their attributes from there.
    pub below: Vec<OwnedFd>,
    /// The bounds.
    pub limits: Limits,
    /// What the unpacked archive's digest must be.
    pub diff_id: Digest,
    /// Set from outside to stop.
    pub stop: Arc<AtomicBool>,
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Bytes of the unpacked archive.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// What was left out, for the user.
    pub notes: Vec<String>,
}

/// Why a layer is not unpacked.
#[derive(Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Fault {
    /// The archive is broken or hostile.
    #[error("{0}")]
    Archive(String),
    /// A bound is met.
    #[error("more than {0}")]
    Bomb(String),
    /// The content is not what the configuration says.
    #[error("the unpacked layer has the digest {0}")]
    Digest(Digest),
    /// No space.
    #[error("the disk is full")]
    Full,
    /// Stopped from outside.
    #[error("stopped")]
    Stopped,
}

impl Fault {
    fn archive(reason: impl Into<String>) -> Self {
        Self::Archive(reason.into())
    }
}

/// Faults that pass through readers.
#[derive(Debug, Clone, Copy, thiserror::Error)]
enum Halt {
    #[error("a bound is met")]
    Bound(u64),
    #[error("stopped")]
    Stopped,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if is_full(&error) {
            return Self::Full;
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            match error.downcast_ref::<Halt>() {
                Some(Halt::Bound(bytes)) => return Self::Bomb(format!("{bytes} bytes")),
                Some(Halt::Stopped) => return Self::Stopped,
                None => {}
            }
            cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::archive("it ends in the middle");
        }
        Self::Archive(error.to_string())
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// Unpacks a layer and checks its digest. After a fault the folder holds whatever was there by then: throw it away.
///
/// # Errors
/// [`Fault`].
pub fn unpack(work: Work) -> Result<Unpacked, Fault> {
    let packed = decoder(work.packed)?;
    let mut stream = Metered {
        inner: packed,
        hasher: work.diff_id.hasher(),
        read: 0,
        limit: work.limits.bytes,
        stop: work.stop,
    };
    let mut applier = Applier::new(work.into, work.below, &work.limits)?;
    headers::walk(&mut stream, &mut applier)?;
    // The digest is of everything, also of what follows the archive's end.
    io::copy(&mut stream, &mut io::sink())?;
    let found = stream.hasher.finish();
    if found != work.diff_id {
        return Err(Fault::Digest(found));
    }
    let (entries, notes) = applier.finish()?;
    Ok(Unpacked { bytes: stream.read, entries, notes })
}

/// Counts, hashes, and stops.
struct Metered {
    inner: Box<dyn Read>,
    hasher: Hasher,
    read: u64,
    limit: u64,
    stop: Arc<AtomicBool>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(Halt::Stopped));
        }
        let n = self.inner.read(buffer)?;
        self.read = self.read.saturating_add(n as u64);
        if self.read > self.limit {
            return Err(io::Error::other(Halt::Bound(self.limit)));
        }
        self.hasher.update(buffer.get(..n).unwrap_or_default());
        Ok(n)
    }
}
