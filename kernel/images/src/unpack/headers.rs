//! The archive's headers: names in all their forms, extended headers of PAX and GNU, sizes. Makes entries of them; what is done with an entry is
//! `apply`. Extended headers have limits of ours, which is why this is not left to a library.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::sparse::{self, Segment};
use super::{Fault, apply::Applier};

/// Extended headers hold names and attributes; a megabyte is generous.
const EXTENDED_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file; where it has holes, what of it is there.
    File(Option<Sparse>),
    /// A folder.
    Folder,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// Another name of this.
    Link(Vec<u8>),
    /// A named pipe.
    Pipe,
    /// A device: whether it is a block device, major, minor.
    Device(bool, u32, u32),
}

/// A file with holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// Its size with the holes.
    pub size: u64,
    /// What is there.
    pub segments: Vec<Segment>,
}

/// One entry, whose data follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path as it is written.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-user-id and its like.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What extended headers say of the entry after them.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::Said,
}

/// Hands each entry of the archive to `applier`.
pub fn walk(stream: &mut dyn Read, applier: &mut Applier) -> Result<(), Fault> {
    let mut extended = Extended::default();
    while let Some(header) = block(stream)? {
        if header.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let header = Header::from_byte_slice(&header).clone();
        check_sum(&header)?;
        let size = header.entry_size()?;
        match header.entry_type() {
            EntryType::GNULongName => extended.path = Some(until_nul(whole(stream, size)?)),
            EntryType::GNULongLink => extended.link = Some(until_nul(whole(stream, size)?)),
            EntryType::XHeader => pax(&whole(stream, size)?, &mut extended)?,
            EntryType::XGlobalHeader => drop(whole(stream, size)?),
            _ => one(stream, &header, std::mem::take(&mut extended), applier)?,
        }
    }
    Ok(())
}

/// The next block; `None` at the end of the stream.
pub fn block(stream: &mut dyn Read) -> Result<Option<[u8; 512]>, Fault> {
    let mut block = [0; 512];
    let mut filled = 0;
    while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(Fault::archive("it ends in the middle")),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(block))
}

fn check_sum(header: &Header) -> Result<(), Fault> {
    let field = 148..156;
    let sum = header.as_bytes().iter().enumerate();
    let sum: u32 = sum.map(|(at, byte)| if field.contains(&at) { 32 } else { u32::from(*byte) }).sum();
    if header.cksum().is_ok_and(|written| written == sum) {
        return Ok(());
    }
    Err(Fault::archive("it is not a tar archive, or a header of it is damaged"))
}

/// An extended header's content, with its padding read.
fn whole(stream: &mut dyn Read, size: u64) -> Result<Vec<u8>, Fault> {
    if size > EXTENDED_MAX {
        return Err(Fault::archive(format!(
            "an extended header has {size} bytes; {EXTENDED_MAX} are allowed"
        )));
    }
    let mut content = Vec::new();
    (&mut *stream).take(size).read_to_end(&mut content)?;
    if content.len() as u64 != size {
        return Err(Fault::archive("it ends in the middle"));
    }
    skip(stream, padding(size))?;
    Ok(content)
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % 512
}

fn skip(stream: &mut dyn Read, bytes: u64) -> Result<(), Fault> {
    let skipped = io::copy(&mut (&mut *stream).take(bytes), &mut io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(Fault::archive("it ends in the middle")) }
}

fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

fn pax(content: &[u8], extended: &mut Extended) -> Result<(), Fault> {
    let broken = || Fault::archive("a PAX header is damaged");
    let mut rest = content;
    // Some writers pad with NUL.
    while rest.first().is_some_and(|byte| *byte != 0) {
        let space = rest.iter().take(20).position(|byte| *byte == b' ').ok_or_else(broken)?;
        let length = number(rest.get(..space).unwrap_or_default()).ok_or_else(broken)?;
        let length = usize::try_from(length).map_err(|_| broken())?;
        let record = rest.get(space + 1..length).ok_or_else(broken)?;
        let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
        rest = rest.get(length..).unwrap_or_default();
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        let (key, value) = record.split_at(equals);
        pax_record(key, value.get(1..).unwrap_or_default(), extended)?;
    }
    Ok(())
}

fn pax_record(key: &[u8], value: &[u8], extended: &mut Extended) -> Result<(), Fault> {
    let digits = || number(value).ok_or_else(|| Fault::archive("a number in a PAX header is damaged"));
    match key {
        b"path" => extended.path = Some(value.to_vec()),
        b"linkpath" => extended.link = Some(value.to_vec()),
        b"size" => extended.size = Some(digits()?),
        b"uid" => extended.uid = Some(digits()?),
        b"gid" => extended.gid = Some(digits()?),
        b"mtime" => extended.mtime = time(value),
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                extended.attributes.push((name.to_vec(), value.to_vec()));
            } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                extended.sparse.record(key, value)?;
            }
        }
    }
    Ok(())
}

pub(super) fn number(digits: &[u8]) -> Option<u64> {
    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| valid)?.parse().ok()
}

/// `[-]seconds[.fraction]`.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let nanos: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some((seconds, nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?))
}

fn one(
    stream: &mut dyn Read,
    header: &Header,
    extended: Extended,
    applier: &mut Applier,
) -> Result<(), Fault> {
    let mut size = match extended.size {
        Some(size) => size,
        None => header.entry_size()?,
    };
    let said = extended.sparse;
    let path = said.name().map(<[u8]>::to_vec).or(extended.path);
    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = extended.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
    let link = link.unwrap_or_default();
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Folder,
        EntryType::Regular | EntryType::Continuous => Kind::File(said.holes(stream, &mut size)?),
        EntryType::GNUSparse => Kind::File(Some(sparse::old(stream, header)?)),
        EntryType::Directory => Kind::Folder,
        EntryType::Symlink => Kind::Symlink(link),
        EntryType::Link => Kind::Link(link),
        EntryType::Fifo => Kind::Pipe,
        device @ (EntryType::Char | EntryType::Block) => {
            let (major, minor) = (header.device_major()?, header.device_minor()?);
            Kind::Device(device == EntryType::Block, major.unwrap_or(0), minor.unwrap_or(0))
        }
        other => {
            let reason =
                format!("{}: entries of type {:?} are not understood", shown(&path), other.as_byte());
            return Err(Fault::Archive(reason));
        }
    };
    let id = |said: Option<u64>, written: io::Result<u64>| -> Result<u32, Fault> {
        let id = said.map_or(written, Ok)?;
        // The highest number means "no change" to the kernel.
        u32::try_from(id)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| Fault::Archive(format!("{}: its owner {id} is not a user id", shown(&path))))
    };
    let entry = Entry {
        kind,
        mode: header.mode()? & 0o7777,
        uid: id(extended.uid, header.uid())?,
        gid: id(extended.gid, header.gid())?,
        mtime: extended
            .mtime
            .unwrap_or_else(|| (header.mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0)),
        attributes: extended.attributes,
        path,
    };
    let mut body = (&mut *stream).take(size);
    applier.entry(&entry, &mut body)?;
    let left = body.limit();
    skip(stream, left.saturating_add(padding(size)))
}

/// A path in a sentence.
pub fn shown(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records() {
        let mut extended = Extended::default();
        let content =
            b"12 path=a/b\n30 mtime=1700000000.500000000\n26 SCHILY.xattr.user.a=b\x00\n11 size=77\n\0\0";
        pax(content, &mut extended).unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(extended.mtime, Some((1_700_000_000, 500_000_000)));
        assert_eq!(extended.attributes, [(b"user.a".to_vec(), b"b\0".to_vec())]);
        assert_eq!(extended.size, Some(77));
    }

    #[test]
    fn damaged_pax_records() {
        for content in [
            &b"12 path=a/b"[..],
            b"99999999999999999999 path=a\n",
            b"999 path=a\n",
            b"3 a\n",
            b"0 path=a\n",
            b"2 path=a\n",
            b"-5 path=a\n",
            b"nonsense",
            b"12 size=x/b\n",
            b"11 size=-1\n",
        ] {
            assert!(pax(content, &mut Extended::default()).is_err(), "{content:?}");
        }
    }

    #[test]
    fn times() {
        for (text, want) in [
            ("5", Some((5, 0))),
            ("-5.25", Some((-5, 250_000_000))),
            ("5.1234567899", Some((5, 123_456_789))),
            ("x", None),
            ("5.x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), want, "{text}");
        }
    }
}
