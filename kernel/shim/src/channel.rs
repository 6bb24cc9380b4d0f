//! Frames over a Unix stream socket, blocking: the first exchange of a launch, and the helpers.

use crate::proc;
use crate::wire::{self, Message, Reply, Request};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;

/// Reads one message.
pub fn read<M: Message>(from: &mut UnixStream, max: usize) -> Result<M> {
    wire::decode(&read_payload(from, max)?).map_err(|malformed| Error::new(ErrorKind::InvalidData, malformed))
}

/// Reads one payload.
pub fn read_payload(from: &mut UnixStream, max: usize) -> Result<Vec<u8>> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let len =
        wire::payload_len(head, max).map_err(|malformed| Error::new(ErrorKind::InvalidData, malformed))?;
    let mut payload = vec![0; len];
    from.read_exact(&mut payload)?;
    Ok(payload)
}

/// Writes one message.
pub fn write<M: Message>(to: &mut UnixStream, message: &M) -> Result<()> {
    to.write_all(&wire::encode(message))
}

/// Takes the agent's hello. Refuses one with no common version; the answer is [`hello`]'s.
pub fn take_hello(from: &mut UnixStream) -> Result<u16> {
    match read::<Request>(from, wire::CONTROL_FRAME_MAX)? {
        Request::Hello { min, max } => match wire::common_version(min, max) {
            Some(version) => Ok(version),
            None => {
                let reason = no_common_version(min, max);
                write(from, &Reply::Refused { reason: reason.clone() })?;
                Err(Error::new(ErrorKind::Unsupported, reason))
            }
        },
        _ => Err(Error::new(ErrorKind::InvalidData, "the first frame was not a hello")),
    }
}

/// The sentence for two ends that cannot talk.
#[must_use]
pub fn no_common_version(min: u16, max: u16) -> String {
    format!("this shim speaks protocol {} to {}, the agent {min} to {max}", wire::VERSION_MIN, wire::VERSION)
}

/// This process's answer to a hello.
#[must_use]
pub fn hello(version: u16) -> Reply {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    Reply::Hello { version, shim: proc::identify(pid).unwrap_or_default() }
}
