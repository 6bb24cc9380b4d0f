//! Tracked connections (`linux/netfilter/nfnetlink_conntrack.h`). Datagrams have no end that anybody could see: those of a caller who goes on sending
//! would be sent where the port led when the caller began, or nowhere if it led nowhere.

use std::io;

use super::socket::Socket;
use super::wire::{ACKNOWLEDGE, Message};

const DELETE: u16 = 0x0102;
const ORIGINAL: u16 = 1;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const NUMBER: u16 = 1;
const TARGET_PORT: u16 = 3;
/// What of the original direction is compared: the transport, and the port that is called.
const COMPARED: u32 = 1 << 3 | 1 << 5;
const UDP: u8 = 17;

/// Forgets every flow of datagrams to this port, over IPv4 or IPv6. A kernel that cannot (before 5.8) lets them end by themselves.
pub(crate) fn forget(socket: &mut Socket, v4: bool, port: u16) -> io::Result<()> {
    let family = u8::try_from(if v4 { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or_default();
    // A version other than 0 says that the family counts.
    let message = Message::new(DELETE, ACKNOWLEDGE, &[family, 1, 0, 0])
        .nest(ORIGINAL, |tuple| {
            tuple.nest(TUPLE_PROTOCOL, |protocol| {
                protocol.put(NUMBER, &[UDP]).put(TARGET_PORT, &port.to_be_bytes())
            })
        })
        .nest(FILTER, |filter| filter.put(FILTER_ORIGINAL, &COMPARED.to_ne_bytes()));
    socket.change(vec![message], &[libc::EINVAL, libc::EOPNOTSUPP, libc::ENOENT])
}
