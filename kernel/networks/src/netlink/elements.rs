//! Elements of nftables maps by netlink (`linux/netfilter/nf_tables.h`): listed, and changed in one transaction.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use super::socket::Socket;
use super::wire::{ACKNOWLEDGE, Answer, Attributes, CREATE, DUMP, Message, octets};
use crate::ports::{Element, Elements, MAPS, Map};

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW: u16 = 0x0a0c;
const GET: u16 = 0x0a0d;
const DELETE: u16 = 0x0a0e;
/// Family `inet`, and netfilter's own numbering of versions.
const INET: [u8; 4] = [1, 0, 0, 0];
/// A transaction of nftables.
const TRANSACTION: [u8; 4] = [0, 0, 0, 10];
const TABLE: u16 = 1;
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ITEM: u16 = 1;
const KEY: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
/// Elements of one message, whose length has 16 bits.
const AT_ONCE: usize = 400;

/// Every element of the table's maps. [`io::ErrorKind::NotFound`] when a map is missing.
pub(crate) fn list(socket: &mut Socket, table: &str) -> io::Result<Elements> {
    let mut out = BTreeMap::new();
    for map in MAPS {
        let request = Message::new(GET, DUMP, &INET).text(TABLE, table).text(SET, map.name());
        out.extend(socket.list(&request, |answer| read(answer, map))?);
    }
    Ok(out)
}

fn read(answer: &Answer<'_>, map: Map) -> Vec<Element> {
    let lists = Attributes::after(answer.body, INET.len()).filter(|(kind, _)| *kind == ELEMENTS);
    lists.flat_map(|(_, items)| Attributes(items)).filter_map(|(_, item)| element(item, map)).collect()
}

fn element(item: &[u8], map: Map) -> Option<Element> {
    let value = |wanted: u16| {
        let (_, data) = Attributes(item).find(|(kind, _)| *kind == wanted)?;
        Attributes(data).find(|(kind, _)| *kind == VALUE).map(|(_, value)| value)
    };
    let port = u16::from_be_bytes(value(KEY)?.get(..2)?.try_into().ok()?);
    let data = value(DATA)?;
    let (address, rest) = data.split_at_checked(if map.is_v4() { 4 } else { 16 })?;
    let to = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
    Some(((map, port), SocketAddr::new(super::wire::address(address)?, to)))
}

/// Removes and adds elements; all or nothing.
pub(crate) fn change(socket: &mut Socket, table: &str, gone: &[Element], new: &[Element]) -> io::Result<()> {
    let mut messages = vec![Message::new(BATCH_BEGIN, 0, &TRANSACTION)];
    for (kind, flags, elements) in [(DELETE, 0, gone), (NEW, CREATE, new)] {
        for map in MAPS {
            let these: Vec<&Element> = elements.iter().filter(|((of, _), _)| *of == map).collect();
            for some in these.chunks(AT_ONCE) {
                let message = Message::new(kind, flags | ACKNOWLEDGE, &INET);
                let message = message.text(TABLE, table).text(SET, map.name());
                messages.push(message.nest(ELEMENTS, |list| {
                    some.iter()
                        .fold(list, |list, element| list.nest(ITEM, |item| write(item, element, kind == NEW)))
                }));
            }
        }
    }
    messages.push(Message::new(BATCH_END, 0, &TRANSACTION));
    socket.change(messages, &[])
}

fn write(item: Message, ((_, port), to): &Element, whole: bool) -> Message {
    let item = item.nest(KEY, |key| key.put(VALUE, &port.to_be_bytes()));
    if !whole {
        return item;
    }
    // Each part of a joined value begins at a multiple of four bytes.
    let mut value = octets(to.ip());
    value.extend(to.port().to_be_bytes());
    value.extend([0; 2]);
    item.nest(DATA, |data| data.put(VALUE, &value))
}
