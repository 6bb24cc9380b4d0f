//! Netlink messages as bytes (`linux/netlink.h`). Pure. What is not understood is passed over.

/// A message's header.
const HEADER: usize = 16;
/// An attribute whose value is attributes.
const NESTED: u16 = 0x8000;

/// Flags.
pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACKNOWLEDGE: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
/// A dump during which something changed.
pub(crate) const INTERRUPTED: u16 = 0x10;

/// Netlink's own kinds.
pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;

/// A message being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    pub flags: u16,
}

impl Message {
    /// A message of a kind, with the fixed part of its family.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        put_at(&mut bytes, 4, &kind.to_ne_bytes());
        put_at(&mut bytes, 6, &(flags | REQUEST).to_ne_bytes());
        bytes.extend(fixed);
        Self { bytes, flags }
    }

    /// Adds an attribute.
    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.pad();
        self
    }

    /// Adds a text, with the zero at its end.
    pub fn text(self, kind: u16, text: &str) -> Self {
        let bytes: Vec<u8> = text.bytes().chain([0]).collect();
        self.put(kind, &bytes)
    }

    /// Adds an attribute of attributes.
    pub fn nest(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        let mut out = inner(self);
        let length = u16::try_from(out.bytes.len() - start).unwrap_or(u16::MAX);
        put_at(&mut out.bytes, start, &length.to_ne_bytes());
        put_at(&mut out.bytes, start + 2, &(kind | NESTED).to_ne_bytes());
        out
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(padded(self.bytes.len()), 0);
    }

    /// The bytes to send, under this number.
    pub fn finish(mut self, number: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        put_at(&mut self.bytes, 0, &length.to_ne_bytes());
        put_at(&mut self.bytes, 8, &number.to_ne_bytes());
        self.bytes
    }
}

fn put_at(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// A message of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub kind: u16,
    pub flags: u16,
    pub number: u32,
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// The error's number of an [`ERROR`]; 0 is an acknowledgement.
    pub fn code(&self) -> i32 {
        u32_at(self.body, 0).map_or(libc::EBADMSG, |code| {
            i32::from_ne_bytes(code.to_ne_bytes()).checked_neg().unwrap_or(libc::EBADMSG)
        })
    }
}

/// What a datagram of the kernel's holds.
pub(crate) fn answers(datagram: &[u8]) -> Vec<Answer<'_>> {
    let mut out = Vec::new();
    let mut rest = datagram;
    while let (Some(length), Some(kind), Some(flags), Some(number)) =
        (u32_at(rest, 0), u16_at(rest, 4), u16_at(rest, 6), u32_at(rest, 8))
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = rest.get(HEADER..length) else { break };
        out.push(Answer { kind, flags, number, body });
        let Some(next) = rest.get(padded(length)..) else { break };
        rest = next;
    }
    out
}

/// Attributes one after another: kind and value.
pub(crate) struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// Those behind a fixed part.
    pub fn after(body: &'a [u8], fixed: usize) -> Self {
        Self(body.get(fixed..).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        // The highest bits say how it is written, not what it is.
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A text without the zero at its end.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// An address by its length.
pub(crate) fn address(value: &[u8]) -> Option<std::net::IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(Into::into),
        16 => <[u8; 16]>::try_from(value).ok().map(Into::into),
        _ => None,
    }
}

/// An address's bytes.
pub(crate) fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = Message::new(16, ACKNOWLEDGE, &[7; 8])
            .text(3, "eth0")
            .nest(18, |inner| inner.text(1, "veth").nest(2, |data| data.put(1, &[1, 2, 3])));
        let bytes = message.finish(42);
        assert_eq!(bytes.len() % 4, 0);
        let two = [bytes.clone(), bytes].concat();
        let found = answers(&two);
        assert_eq!(found.len(), 2);
        let first = found[0];
        assert_eq!((first.kind, first.flags, first.number), (16, ACKNOWLEDGE | REQUEST, 42));
        let outer: Vec<_> = Attributes::after(first.body, 8).collect();
        assert_eq!((outer[0].0, text(outer[0].1)), (3, "eth0".to_owned()));
        let inner: Vec<_> = Attributes(outer[1].1).collect();
        assert_eq!((outer[1].0, inner[0].0, text(inner[0].1)), (18, 1, "veth".to_owned()));
        assert_eq!(Attributes(inner[1].1).next(), Some((1, &[1u8, 2, 3][..])));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for answer in answers(&bytes) {
                answer.code();
                for (_, value) in Attributes::after(answer.body, 8) {
                    address(value);
                    text(value);
                    Attributes(value).for_each(drop);
                }
            }
        }
    }
}
