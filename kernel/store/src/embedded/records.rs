//! How entries and changes lie in the tables. Each value opens with a format byte; numbers are big-endian.

use bytes::Bytes;

use super::fault::Fault;
use crate::{Change, Entry, LeaseId, Revision};

const FORMAT: u8 = 1;
const PUT: u8 = b'P';
const DELETE: u8 = b'D';

/// The value of `current`: format, create revision, modification revision, lease (0: none), value.
pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.value.len().saturating_add(25));
    out.push(FORMAT);
    out.extend(entry.create_revision.0.to_be_bytes());
    out.extend(entry.mod_revision.0.to_be_bytes());
    out.extend(entry.lease.map_or(0, |lease| lease.0).to_be_bytes());
    out.extend(&entry.value);
    out
}

pub(super) fn decode_entry(key: &str, bytes: &[u8]) -> Result<Entry, Fault> {
    let mut input = Input { key, bytes };
    input.format()?;
    Ok(Entry {
        key: key.to_owned(),
        create_revision: Revision(input.number()?),
        mod_revision: Revision(input.number()?),
        lease: input.lease()?,
        value: Bytes::copy_from_slice(input.bytes),
    })
}

/// The value of `history`: format, kind, then of a put: create revision, lease, u16 key length, key, value; of a
/// deletion: u16 key length, key. The modification revision is the table's key.
pub(super) fn encode_change(change: &Change) -> Vec<u8> {
    let mut out = Vec::new();
    let key_field = |out: &mut Vec<u8>, key: &str| {
        // Keys are at most MAX_KEY_BYTES long, which was checked before any of this.
        out.extend(u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(key.as_bytes());
    };
    out.push(FORMAT);
    match change {
        Change::Put(entry) => {
            out.reserve(entry.value.len().saturating_add(entry.key.len()).saturating_add(20));
            out.push(PUT);
            out.extend(entry.create_revision.0.to_be_bytes());
            out.extend(entry.lease.map_or(0, |lease| lease.0).to_be_bytes());
            key_field(&mut out, &entry.key);
            out.extend(&entry.value);
        }
        Change::Delete { key } => {
            out.push(DELETE);
            key_field(&mut out, key);
        }
    }
    out
}

pub(super) fn decode_change(revision: u64, bytes: &[u8]) -> Result<Change, Fault> {
    let mut input = Input { key: "a change", bytes };
    input.format()?;
    let [kind] = input.take::<1>()?;
    match kind {
        PUT => {
            let create_revision = Revision(input.number()?);
            let lease = input.lease()?;
            let key = input.key_field()?;
            let value = Bytes::copy_from_slice(input.bytes);
            Ok(Change::Put(Entry { key, value, create_revision, mod_revision: Revision(revision), lease }))
        }
        DELETE => Ok(Change::Delete { key: input.key_field()? }),
        other => Err(Fault::corrupt(format!("a change at revision {revision} is of unknown kind {other}"))),
    }
}

struct Input<'a> {
    key: &'a str,
    bytes: &'a [u8],
}

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or_else(|| Fault::corrupt(format!("the record of {} is too short", self.key)))?;
        self.bytes = rest;
        Ok(*head)
    }

    fn format(&mut self) -> Result<(), Fault> {
        match self.take::<1>()? {
            [FORMAT] => Ok(()),
            [other] => {
                Err(Fault::corrupt(format!("the record of {} has the unknown format {other}", self.key)))
            }
        }
    }

    fn number(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn lease(&mut self) -> Result<Option<LeaseId>, Fault> {
        Ok(Some(i64::from_be_bytes(self.take()?)).filter(|id| *id != 0).map(LeaseId))
    }

    fn key_field(&mut self) -> Result<String, Fault> {
        let len = usize::from(u16::from_be_bytes(self.take()?));
        let (key, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or_else(|| Fault::corrupt(format!("the record of {} is too short", self.key)))?;
        self.bytes = rest;
        String::from_utf8(key.to_vec())
            .map_err(|_| Fault::corrupt(format!("the record of {} holds a key that is not UTF-8", self.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(lease: Option<LeaseId>) -> Entry {
        Entry {
            key: "a/b".to_owned(),
            value: Bytes::from_static(b"\x00value"),
            create_revision: Revision(3),
            mod_revision: Revision(9),
            lease,
        }
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        for lease in [None, Some(LeaseId(7))] {
            let before = entry(lease);
            assert_eq!(decode_entry("a/b", &encode_entry(&before)).unwrap(), before);
            let change = Change::Put(before);
            assert_eq!(decode_change(9, &encode_change(&change)).unwrap(), change);
        }
        let gone = Change::Delete { key: "ü".to_owned() };
        assert_eq!(decode_change(9, &encode_change(&gone)).unwrap(), gone);
    }

    #[test]
    fn cut_off_or_unknown_records_are_errors() {
        let good = encode_change(&Change::Put(entry(None)));
        for len in 0..23 {
            assert!(decode_change(9, &good[..len]).is_err(), "{len} bytes");
        }
        for len in 0..25 {
            assert!(decode_entry("k", &encode_entry(&entry(None))[..len]).is_err(), "{len} bytes");
        }
        assert!(decode_entry("k", &[2; 40]).is_err());
        assert!(decode_change(1, &[1, b'X', 0, 0]).is_err());
    }
}
