//! RecordIO: `<decimal length>\n<bytes>` records on an endless stream, as Mesos frames its event streams.

use std::fmt::Write;

use bytes::{Buf, Bytes, BytesMut};

/// Bytes accepted in one record unless told otherwise.
pub const DEFAULT_LIMIT: usize = 64 << 20;

/// Digits a length may have: those of a u64.
const DIGITS: usize = 20;

/// Appends one record.
pub fn encode_into(record: &[u8], out: &mut Vec<u8>) {
    out.reserve(record.len() + 8);
    out.extend_from_slice(header(record.len()).as_bytes());
    out.extend_from_slice(record);
}

/// One record with its header.
pub fn encode(record: &[u8]) -> Bytes {
    let mut out = Vec::new();
    encode_into(record, &mut out);
    out.into()
}

/// The header of a record of this length, for those who send header and body apart.
pub fn header(length: usize) -> String {
    let mut text = String::with_capacity(8);
    let _ = writeln!(text, "{length}");
    text
}

/// Why a stream is not RecordIO. The stream cannot be read further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The header is not a decimal number and a line feed.
    #[error("the length of a record is not a decimal number")]
    BadLength,
    /// The record is larger than allowed.
    #[error("a record has {size} bytes and at most {limit} are accepted")]
    TooLarge {
        /// Bytes announced.
        size: u64,
        /// Bytes allowed.
        limit: usize,
    },
    /// The stream ended within a record.
    #[error("the stream ended within a record")]
    Truncated,
}

/// Incremental decoder: feed chunks of any size, take records.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    /// Length of the record whose header has been read.
    length: Option<usize>,
    limit: usize,
    failed: Option<RecordError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl Decoder {
    /// A decoder that accepts records of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), length: None, limit, failed: None }
    }

    /// Takes the next piece of the stream.
    pub fn feed(&mut self, chunk: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(chunk);
        }
    }

    /// The next whole record; `None` when more input is needed. After an error it repeats the error.
    pub fn next_record(&mut self) -> Result<Option<Bytes>, RecordError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.step();
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
        }
        result
    }

    fn step(&mut self) -> Result<Option<Bytes>, RecordError> {
        let length = match self.length {
            Some(length) => length,
            None => match self.header()? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        if self.buffer.len() < length {
            self.length = Some(length);
            return Ok(None);
        }
        self.length = None;
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    fn header(&mut self) -> Result<Option<usize>, RecordError> {
        let window = &self.buffer[..self.buffer.len().min(DIGITS + 1)];
        let end = window.iter().position(|b| *b == b'\n');
        let digits = &window[..end.unwrap_or(window.len())];
        if digits.len() > DIGITS || !digits.iter().all(u8::is_ascii_digit) {
            return Err(RecordError::BadLength);
        }
        let Some(end) = end else { return Ok(None) };
        let text = std::str::from_utf8(digits).map_err(|_| RecordError::BadLength)?;
        let size: u64 = text.parse().map_err(|_| RecordError::BadLength)?;
        let limit = self.limit;
        let length = usize::try_from(size).ok().filter(|l| *l <= limit);
        let length = length.ok_or(RecordError::TooLarge { size, limit })?;
        self.buffer.advance(end + 1);
        Ok(Some(length))
    }

    /// Call at the end of the stream: an error when it ended within a record.
    pub fn finish(&self) -> Result<(), RecordError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.length.is_some() || !self.buffer.is_empty() => Err(RecordError::Truncated),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(decoder: &mut Decoder) -> Result<Vec<Bytes>, RecordError> {
        let mut records = Vec::new();
        while let Some(record) = decoder.next_record()? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn a_known_stream() {
        let mut decoder = Decoder::default();
        decoder.feed(b"5\nhello0\n11\nhello");
        assert_eq!(drain(&mut decoder), Ok(vec![Bytes::from("hello"), Bytes::new()]));
        assert_eq!(decoder.finish(), Err(RecordError::Truncated));
        decoder.feed(b" world");
        assert_eq!(drain(&mut decoder), Ok(vec![Bytes::from("hello world")]));
        assert_eq!(decoder.finish(), Ok(()));
        assert_eq!(encode(b"hello").as_ref(), b"5\nhello");
    }

    #[test]
    fn bad_lengths_are_refused_for_good() {
        for bad in [
            "\n",
            "x\n",
            "-1\n",
            "+1\n",
            " 1\n",
            "1\r\n",
            "0x1\n",
            "99999999999999999999\n",
            "000000000000000000001\n",
        ] {
            let mut decoder = Decoder::new(10);
            decoder.feed(bad.as_bytes());
            assert_eq!(decoder.next_record(), Err(RecordError::BadLength), "{bad:?}");
            decoder.feed(b"1\na");
            assert_eq!(decoder.next_record(), Err(RecordError::BadLength), "{bad:?} again");
            assert_eq!(decoder.finish(), Err(RecordError::BadLength));
        }
        let mut decoder = Decoder::new(10);
        decoder.feed(b"11\n");
        assert_eq!(decoder.next_record(), Err(RecordError::TooLarge { size: 11, limit: 10 }));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_records(
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            sizes in proptest::collection::vec(1_usize..9, 1..20),
        ) {
            let mut stream = Vec::new();
            records.iter().for_each(|r| encode_into(r, &mut stream));
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            let mut rest = stream.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, tail) = rest.split_at((*size).min(rest.len()));
                decoder.feed(chunk);
                found.extend(drain(&mut decoder).expect("a valid stream"));
                rest = tail;
            }
            prop_assert_eq!(found, records);
            prop_assert_eq!(decoder.finish(), Ok(()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..10)) {
            let mut decoder = Decoder::new(100);
            let mut taken = 0;
            for chunk in &chunks {
                decoder.feed(chunk);
                taken += drain(&mut decoder).map_or(0, |records| records.iter().map(Bytes::len).sum());
            }
            prop_assert!(taken <= chunks.iter().map(Vec::len).sum());
        }
    }
}
