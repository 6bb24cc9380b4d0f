//! Files with holes, in the four ways GNU tar has written them. The map is checked whole before anything is written.

use std::io::Read;

use tar::{GnuSparseHeader, Header};

use super::Fault;
use super::headers::{Sparse, block, number};

/// A run of bytes that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub at: u64,
    /// Its length.
    pub length: u64,
}

/// More runs than this in one file is an attack.
const SEGMENTS_MAX: usize = 65_536;

fn broken() -> Fault {
    Fault::archive("the map of a sparse file is damaged")
}

/// What PAX records say of a sparse file.
#[derive(Debug, Default)]
pub struct Said {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    major: u64,
    numbers: Vec<u64>,
    mapped: bool,
}

impl Said {
    /// One record, without its prefix.
    pub fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let digits = || number(value).ok_or_else(broken);
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(digits()?),
            b"major" => self.major = digits()?,
            b"offset" | b"numbytes" => {
                self.mapped = true;
                self.push(digits()?)?;
            }
            b"map" => {
                self.mapped = true;
                for part in value.split(|byte| *byte == b',').filter(|part| !part.is_empty()) {
                    self.push(number(part).ok_or_else(broken)?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, number: u64) -> Result<(), Fault> {
        if self.numbers.len() >= 2 * SEGMENTS_MAX {
            return Err(broken());
        }
        self.numbers.push(number);
        Ok(())
    }

    /// The file's own name, which replaces the archive's.
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// The map, if the file has one. Where it is a part of the data, it is read and taken off `data`.
    pub fn holes(self, stream: &mut dyn Read, data: &mut u64) -> Result<Option<Sparse>, Fault> {
        let Some(size) = self.size else { return Ok(None) };
        let numbers = match (self.major, self.mapped) {
            (1, _) => in_data(stream, data)?,
            (_, true) => self.numbers,
            _ => return Ok(None),
        };
        Ok(Some(checked(&numbers, size, *data)?))
    }
}

/// Decimal numbers, each with a line feed: how many runs, then where and how long; padded to a block.
fn in_data(stream: &mut dyn Read, data: &mut u64) -> Result<Vec<u64>, Fault> {
    let (mut numbers, mut digits, mut wanted) = (Vec::new(), Vec::new(), None);
    while wanted != Some(numbers.len()) {
        *data = data.checked_sub(512).ok_or_else(broken)?;
        for byte in block(stream)?.ok_or_else(broken)? {
            if byte != b'\n' {
                digits.push(byte);
                if digits.len() > 20 {
                    return Err(broken());
                }
                continue;
            }
            let value = number(&digits).ok_or_else(broken)?;
            digits.clear();
            if wanted.is_some() {
                numbers.push(value);
            } else {
                let runs = usize::try_from(value).ok().filter(|runs| *runs <= SEGMENTS_MAX);
                wanted = Some(runs.ok_or_else(broken)? * 2);
            }
            if wanted == Some(numbers.len()) {
                break;
            }
        }
    }
    Ok(numbers)
}

/// The oldest form: four runs in the header, more in blocks after it.
pub fn old(stream: &mut dyn Read, header: &Header) -> Result<Sparse, Fault> {
    let gnu = header.as_gnu().ok_or_else(broken)?;
    let mut numbers = Vec::new();
    let mut push = |run: &GnuSparseHeader| -> Result<(), Fault> {
        if run.offset.iter().chain(&run.numbytes).all(|byte| *byte == 0) {
            return Ok(());
        }
        if numbers.len() >= 2 * SEGMENTS_MAX {
            return Err(broken());
        }
        numbers.push(run.offset()?);
        numbers.push(run.length()?);
        Ok(())
    };
    gnu.sparse.iter().try_for_each(&mut push)?;
    let mut more = gnu.is_extended();
    while more {
        let extension = block(stream)?.ok_or_else(broken)?;
        let (runs, rest) = extension.split_at(504);
        for run in runs.chunks_exact(24) {
            let (at, length) = run.split_at(12);
            let at = at.try_into().map_err(|_| broken())?;
            push(&GnuSparseHeader { offset: at, numbytes: length.try_into().map_err(|_| broken())? })?;
        }
        more = rest.first() == Some(&1);
    }
    checked(&numbers, gnu.real_size()?, header.entry_size()?)
}

fn checked(numbers: &[u64], size: u64, data: u64) -> Result<Sparse, Fault> {
    let (mut end, mut total) = (0_u64, 0_u64);
    let mut segments = Vec::with_capacity(numbers.len() / 2);
    if !numbers.len().is_multiple_of(2) || i64::try_from(size).is_err() {
        return Err(broken());
    }
    for pair in numbers.chunks_exact(2) {
        let [at, length] = *pair else { return Err(broken()) };
        if at < end {
            return Err(broken());
        }
        end = at.checked_add(length).filter(|end| *end <= size).ok_or_else(broken)?;
        total += length;
        segments.push(Segment { at, length });
    }
    if total != data {
        return Err(broken());
    }
    Ok(Sparse { size, segments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let fine = checked(&[0, 5, 100, 5, 200, 0], 200, 10).unwrap();
        assert_eq!(fine.segments.len(), 3);
        for (numbers, size, data) in [
            (&[0, 5, 3, 5][..], 200, 10),
            (&[0, 5, 100][..], 200, 5),
            (&[100, 200][..], 200, 200),
            (&[u64::MAX, 2][..], u64::MAX / 2, 2),
            (&[0, 5][..], 200, 6),
            (&[0, 5][..], u64::MAX, 5),
        ] {
            assert!(checked(numbers, size, data).is_err(), "{numbers:?}");
        }
    }

    #[test]
    fn the_map_in_the_data() {
        let mut content = b"2\n0\n3\n10\n4\n".to_vec();
        content.resize(512, 0);
        let mut said = Said::default();
        for (key, value) in
            [(&b"major"[..], &b"1"[..]), (b"minor", b"0"), (b"name", b"f"), (b"realsize", b"20")]
        {
            said.record(key, value).unwrap();
        }
        let mut data = 512 + 7;
        let sparse = said.holes(&mut &content[..], &mut data).unwrap().unwrap();
        assert_eq!(data, 7);
        assert_eq!(sparse.segments, [Segment { at: 0, length: 3 }, Segment { at: 10, length: 4 }]);
        for text in ["99999999\n", "2\nx\n", "1", "18446744073709551616\n"] {
            let mut content = text.as_bytes().to_vec();
            content.resize(512, 0);
            let said = Said { size: Some(20), major: 1, ..Said::default() };
            assert!(said.holes(&mut &content[..], &mut 600).is_err(), "{text}");
        }
    }
}
