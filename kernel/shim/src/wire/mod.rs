//! The private protocol between agent and shim: frames, versions and messages.
//!
//! A frame is a 4-byte little-endian length and a payload; a payload is a version (u16), a kind (u8) and a flat body.
//! Fields are only appended, and bytes after the last known field are ignored, so that a shim started by an older
//! release can be adopted by a newer agent and the other way round.

pub mod flat;
#[cfg(test)]
mod golden;
mod inside;
mod messages;

pub use flat::{Appended, Flat, Malformed, Reader};
pub use inside::*;
pub use messages::*;

/// The version this crate speaks.
pub const VERSION: u16 = 2;
/// The oldest version this crate understands.
pub const VERSION_MIN: u16 = 1;
/// The largest payload of a launch description or command. The kernel takes at most 6 MiB of arguments and environment.
pub const FRAME_MAX: usize = 8 * 1024 * 1024;
/// The largest payload of any other request.
pub const CONTROL_FRAME_MAX: usize = 64 * 1024;

/// A message that has a kind.
pub trait Message: Sized {
    /// The number that opens the body.
    fn kind(&self) -> u8;
    /// Appends the body.
    fn put_body(&self, out: &mut Vec<u8>);
    /// Reads the body of a message of this kind.
    fn take_body(kind: u8, from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// The whole frame, length included.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    let mut out = vec![0; 4];
    VERSION.put(&mut out);
    message.kind().put(&mut out);
    message.put_body(&mut out);
    let len = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&len.to_le_bytes());
    out
}

/// A message from a payload (a frame without its length).
pub fn decode<M: Message>(payload: &[u8]) -> Result<M, Malformed> {
    let mut from = Reader::new(payload);
    let version = u16::take(&mut from)?;
    if version < VERSION_MIN {
        return Err(Malformed("a protocol version that is no longer spoken"));
    }
    let kind = u8::take(&mut from)?;
    M::take_body(kind, &mut from)
}

/// The length of a payload from a frame's first four bytes, if it is within `max`.
pub fn payload_len(head: [u8; 4], max: usize) -> Result<usize, Malformed> {
    let len = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if len > max { Err(Malformed("a frame above the size limit")) } else { Ok(len) }
}

/// The version both ends speak: the highest common one.
#[must_use]
pub fn common_version(min: u16, max: u16) -> Option<u16> {
    let version = max.min(VERSION);
    (version >= min && version >= VERSION_MIN).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch() -> Launch {
        Launch {
            id: "c1".into(),
            run_dir: b"/run/x".to_vec(),
            process: Process {
                argv: vec![b"/bin/sh".to_vec(), b"-c".to_vec()],
                env: vec![b"A=\xff".to_vec()],
                rlimits: vec![Rlimit { resource: 7, soft: 1, hard: u64::MAX }],
                ..Process::default()
            },
            groups: vec![Group {
                dir: b"/sys/fs/cgroup/cpu/x".to_vec(),
                writes: vec![Write { file: "cpu.shares".into(), value: "2".into() }],
                ..Group::default()
            }],
            ..Launch::default()
        }
    }

    fn inside() -> Inside {
        Inside {
            root: Some(Rootfs {
                layers: vec![b"/a".to_vec(), b"/b".to_vec()],
                devices: vec![Device { name: b"x".to_vec(), major: 1, minor: 3, ..Device::default() }],
                ..Rootfs::default()
            }),
            mounts: vec![Mount { kind: kind::TMPFS, target: b"/t".to_vec(), ..Mount::default() }],
            network: Some(b"/run/netns/x".to_vec()),
            share: Some(Share { init: Pid { pid: 1, start: 2 }, namespaces: ns::PID }),
            ..Inside::default()
        }
    }

    #[test]
    fn messages_come_back_as_they_went() {
        let requests = [
            Request::Hello { min: 1, max: 9 },
            Request::Launch(Box::new(launch())),
            Request::Contain(Box::new(Contain {
                launch: launch(),
                inside: inside(),
                more: More {
                    logs: Some(Logs { file_bytes: 1 << 20, files: 3 }),
                    disk: None,
                    error_logs: Some(Logs { file_bytes: 4096, files: 1 }),
                    terminal: Some(Size { rows: 24, columns: 80 }),
                    ids: Some(Ids { first: 1 << 20, count: 65_536 }),
                },
            })),
            Request::Confined(Box::new(Confined { filter: vec![6; 8], ..Confined::default() })),
            Request::Signal { signal: 15 },
            Request::Kill { signal: 15, grace_ms: 3000 },
            Request::Status,
            Request::Subscribe,
            Request::Terminal,
        ];
        for request in requests {
            let frame = encode(&request);
            let len = payload_len([frame[0], frame[1], frame[2], frame[3]], FRAME_MAX).unwrap();
            assert_eq!(len, frame.len() - 4);
            assert_eq!(decode::<Request>(&frame[4..]).unwrap(), request);
        }
    }

    #[test]
    fn every_cut_and_every_length_is_an_error_not_a_panic() {
        let contain = Contain { launch: launch(), inside: inside(), more: More::default() };
        let request = Request::Contain(Box::new(contain));
        let frame = encode(&request);
        let before = frame.len() - 5;
        for end in before..before + 5 {
            assert_eq!(decode::<Request>(&frame[4..end]).unwrap(), request, "a frame from before `more`");
        }
        for end in 4..before {
            assert!(decode::<Request>(&frame[4..end]).is_err(), "cut at {end}");
        }
        for at in 7..frame.len() - 4 {
            let mut bad = frame.clone();
            bad[at..at + 4].copy_from_slice(&[0xff; 4]);
            let _outcome: Result<Request, Malformed> = decode(&bad[4..]);
        }
        assert!(payload_len([0xff; 4], FRAME_MAX).is_err());
    }

    #[test]
    fn appended_fields_are_ignored() {
        let mut frame = encode(&Request::Signal { signal: 9 });
        frame.extend_from_slice(b"later");
        assert_eq!(decode::<Request>(&frame[4..]).unwrap(), Request::Signal { signal: 9 });
    }

    #[test]
    fn the_highest_common_version_wins() {
        for (min, max, want) in
            [(1, 1, Some(1)), (1, 2, Some(2)), (1, 9, Some(2)), (3, 9, None), (0, 0, None)]
        {
            assert_eq!(common_version(min, max), want, "{min}..{max}");
        }
    }
}
