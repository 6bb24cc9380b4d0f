//! The few netlink messages by which the kernel lists and forgets tracked connections (`linux/netfilter/nfnetlink_conntrack.h`). Pure; what is
//! not understood is passed over.

use std::net::{Ipv4Addr, SocketAddrV4};

use plenum_discovery::feed::Protocol;

/// A message's header, and netfilter's after it.
const HEADER: usize = 16;
const FAMILY: usize = 4;
/// Connection tracking's messages.
const GET: u16 = 0x0101;
const NEW: u16 = 0x0100;
const DELETE: u16 = 0x0102;
/// Netlink's own.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flags: a request, answered with everything, or with a word that it is done.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// Attributes.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const SOURCE: u16 = 1;
const TARGET: u16 = 2;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const TARGET_PORT: u16 = 3;

/// A tracked connection, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The transport.
    pub protocol: Protocol,
    /// Where the first packet was sent.
    pub to: SocketAddrV4,
    /// Who answers: the back end.
    pub answers: SocketAddrV4,
    /// The attributes that name it, as the kernel wrote them.
    name: Vec<u8>,
}

/// One message of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A connection.
    Flow(Flow),
    /// The end of the answers: 0, or an error's number.
    End(i32),
}

/// Asks for every connection over IPv4.
#[must_use]
pub fn dump() -> Vec<u8> {
    message(GET, REQUEST | DUMP, &[])
}

/// Forgets one.
#[must_use]
pub fn delete(flow: &Flow) -> Vec<u8> {
    message(DELETE, REQUEST | ACKNOWLEDGE, &flow.name)
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + FAMILY + attributes.len()).unwrap_or(u32::MAX);
    let mut out = Vec::new();
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Number and sender: one request at a time needs neither.
    out.extend([0; 8]);
    // IPv4, version 0, nothing else.
    out.extend([2, 0, 0, 0]);
    out.extend(attributes);
    out
}

/// What a datagram of the kernel's holds.
#[must_use]
pub fn answers(datagram: &[u8]) -> Vec<Answer> {
    let mut out = Vec::new();
    let mut rest = datagram;
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = rest.get(HEADER..length) else { break };
        match kind {
            DONE => out.push(Answer::End(0)),
            // Errors are negative; an acknowledgement is the error 0.
            ERROR => out.push(Answer::End(u32_at(body, 0).map_or(libc::EBADMSG, |code| {
                i32::from_ne_bytes(code.to_ne_bytes()).checked_neg().unwrap_or(libc::EBADMSG)
            }))),
            NEW => out.extend(flow(body.get(FAMILY..).unwrap_or_default()).map(Answer::Flow)),
            _ => {}
        }
        let Some(next) = rest.get(padded(length)..) else { break };
        rest = next;
    }
    out
}

fn flow(attributes: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut name) = (None, None, Vec::new());
    for (kind, whole, value) in Attributes(attributes) {
        match kind {
            ORIGINAL => original = Some(tuple(value)?),
            REPLY => reply = Some(tuple(value)?),
            _ => {}
        }
        if matches!(kind, ORIGINAL | ID) {
            name.extend_from_slice(whole);
            name.resize(padded(name.len()), 0);
        }
    }
    let (original, reply) = (original?, reply?);
    let protocol = match original.protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    Some(Flow { protocol, to: original.target, answers: reply.source, name })
}

/// One direction of a connection.
struct Tuple {
    protocol: u8,
    source: SocketAddrV4,
    target: SocketAddrV4,
}

fn tuple(value: &[u8]) -> Option<Tuple> {
    let (mut source, mut target) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    let (mut protocol, mut source_port, mut target_port) = (0, 0, 0);
    for (kind, _, value) in Attributes(value) {
        for (inner, _, value) in Attributes(value) {
            match (kind, inner) {
                (TUPLE_IP, SOURCE) => source = <[u8; 4]>::try_from(value).ok()?.into(),
                (TUPLE_IP, TARGET) => target = <[u8; 4]>::try_from(value).ok()?.into(),
                (TUPLE_PROTO, NUMBER) => protocol = *value.first()?,
                (TUPLE_PROTO, SOURCE_PORT) => source_port = u16::from_be_bytes(value.try_into().ok()?),
                (TUPLE_PROTO, TARGET_PORT) => target_port = u16::from_be_bytes(value.try_into().ok()?),
                _ => {}
            }
        }
    }
    let (source, target) = (SocketAddrV4::new(source, source_port), SocketAddrV4::new(target, target_port));
    Some(Tuple { protocol, source, target })
}

/// Attributes one after another: kind, the whole of it, its value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        // The highest bits say how it is written, not what it is.
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let (whole, value) = (self.0.get(..length)?, self.0.get(4..length)?);
        self.0 = self.0.get(padded(length)..).unwrap_or_default();
        Some((kind, whole, value))
    }
}

fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(padded(out.len()), 0);
        out
    }

    fn direction(kind: u16, protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let ip = [attribute(SOURCE, &from.0), attribute(TARGET, &to.0)].concat();
        let ports = [
            attribute(NUMBER, &[protocol]),
            attribute(SOURCE_PORT, &from.1.to_be_bytes()),
            attribute(TARGET_PORT, &to.1.to_be_bytes()),
        ]
        .concat();
        // Nested attributes carry a flag.
        let inner = [attribute(TUPLE_IP | 0x8000, &ip), attribute(TUPLE_PROTO | 0x8000, &ports)].concat();
        attribute(kind | 0x8000, &inner)
    }

    fn told(protocol: u8) -> Vec<u8> {
        let (client, vip, backend) = (([10, 0, 0, 1], 4000), ([11, 0, 0, 1], 80), ([10, 0, 0, 2], 9000));
        let parts = [
            direction(ORIGINAL, protocol, client, vip),
            direction(REPLY, protocol, backend, client),
            attribute(3, &[0, 0, 1, 0x8e]),
            attribute(ID, &[1, 2, 3, 4]),
        ];
        message(NEW, 0, &parts.concat())
    }

    #[test]
    fn a_connection_is_read_and_named() {
        let mut datagram = told(6);
        datagram.extend(told(1));
        datagram.extend(told(17));
        let mut done = message(DONE, 0, &[]);
        done[0..4].copy_from_slice(&20u32.to_ne_bytes());
        datagram.extend(done);
        let answers = answers(&datagram);
        let [Answer::Flow(tcp), Answer::Flow(udp), Answer::End(0)] = &answers[..] else {
            panic!("{answers:?}")
        };
        assert_eq!((tcp.protocol, udp.protocol), (Protocol::Tcp, Protocol::Udp));
        assert_eq!(tcp.to, "11.0.0.1:80".parse().unwrap());
        assert_eq!(tcp.answers, "10.0.0.2:9000".parse().unwrap());
        let forget = delete(tcp);
        assert_eq!(u32_at(&forget, 0), u32::try_from(forget.len()).ok());
        let kinds: Vec<u16> = Attributes(&forget[20..]).map(|(kind, _, _)| kind).collect();
        assert_eq!(kinds, [ORIGINAL, ID]);
    }

    #[test]
    fn nothing_strange_is_an_accident() {
        let datagram = told(6);
        for end in 0..datagram.len() {
            let _ = answers(&datagram[..end]);
        }
        for place in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[place] = changed[place].wrapping_add(129);
            let _ = answers(&changed);
        }
        let mut error = message(ERROR, 0, &[]);
        error[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(answers(&error), [Answer::End(libc::EPERM)]);
    }
}
