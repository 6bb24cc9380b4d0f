//! Links, addresses, routes and neighbours (`linux/rtnetlink.h`, `if_link.h`, `neighbour.h`): the kernel's state read, changes carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::socket::Socket;
use super::wire::{
    ACKNOWLEDGE, Answer, Attributes, CREATE, DUMP, EXCLUSIVE, Message, REPLACE, address, octets, text,
    u16_at, u32_at,
};
use crate::state::{Change, Forward, Kind, Link, Mac, Neighbour, Route, State};
use crate::types::IpNet;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const GET_NEIGHBOUR: u16 = 30;

/// Attributes of links.
mod link {
    pub const ADDRESS: u16 = 1;
    pub const NAME: u16 = 3;
    pub const MTU: u16 = 4;
    pub const MASTER: u16 = 10;
    pub const INFO: u16 = 18;
    pub const NAMESPACE: u16 = 28;
    pub const INFO_KIND: u16 = 1;
    pub const INFO_DATA: u16 = 2;
    pub const INFO_PORT_KIND: u16 = 4;
    pub const INFO_PORT_DATA: u16 = 5;
    pub const PEER: u16 = 1;
    pub const HAIRPIN: u16 = 4;
    pub const SNOOPING: u16 = 23;
    pub const VNI: u16 = 1;
    pub const LOCAL: u16 = 4;
    pub const LEARNING: u16 = 7;
    pub const PORT: u16 = 15;
    pub const LOCAL6: u16 = 17;
}

const UP: u32 = 1;
/// IPv6 does not look for another with the same address, so that it can be used at once.
const NO_SEARCH: u8 = 2;
/// Whose routes these are: one number of our own, so that nobody else's are touched.
const OURS: u8 = 0x9d;
const MAIN: u8 = 254;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;
const ON_LINK: u32 = 4;
const PERMANENT: u16 = 0x80;
const SELF: u8 = 2;
const BRIDGE: u8 = 7;

/// What may be said when what is to be removed is gone.
const GONE: [i32; 5] = [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::EINVAL];

/// A pair to be made: the host's end with its bridge, the container's end in its namespace.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub name: &'a str,
    pub master: &'a str,
    pub inside: &'a str,
    pub mac: Mac,
    pub mtu: Option<u32>,
    pub netns: BorrowedFd<'a>,
    /// The host's switches of IPv6, by link; none on a kernel without.
    pub switches: Option<&'a File>,
}

fn link_head(index: u32, flags: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(index.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Which flags are spoken of.
    out.extend(flags.to_ne_bytes());
    out
}

fn short(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn family(address: IpAddr) -> u8 {
    short(usize::try_from(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0))
}

/// The number of a link; `None` when there is none of this name.
pub(crate) fn index(socket: &mut Socket, name: &str) -> io::Result<Option<u32>> {
    let message = Message::new(GET_LINK, 0, &link_head(0, 0)).text(link::NAME, name);
    match socket.get(message, |answer| u32_at(answer.body, 4)) {
        Ok(index) => Ok(Some(index)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a pair: the host's end switched on, in its bridge, and sent back what came from it. The kernel switches on no end whose peer is not
/// there yet, so the other one is left off. [`io::ErrorKind::AlreadyExists`] when
/// there is a link of this name.
pub(crate) fn make_pair(socket: &mut Socket, pair: &Pair<'_>) -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the bridge {} is gone", pair.master));
    let master = index(socket, pair.master)?.ok_or_else(missing)?;
    let namespace = u32::try_from(pair.netns.as_raw_fd()).unwrap_or(u32::MAX);
    let mtu = |message: Message| match pair.mtu {
        Some(mtu) => message.put(link::MTU, &mtu.to_ne_bytes()),
        None => message,
    };
    let peer = |data: Message| {
        data.nest(link::PEER, |peer| {
            let peer = peer.raw(&link_head(0, 0)).text(link::NAME, pair.inside).put(link::ADDRESS, &pair.mac);
            mtu(peer.put(link::NAMESPACE, &namespace.to_ne_bytes()))
        })
    };
    let make = Message::new(NEW_LINK, CREATE | EXCLUSIVE | ACKNOWLEDGE, &link_head(0, 0))
        .text(link::NAME, pair.name)
        .put(link::MASTER, &master.to_ne_bytes())
        .nest(link::INFO, |info| info.text(link::INFO_KIND, "veth").nest(link::INFO_DATA, peer));
    socket.change(vec![mtu(make)], &[])?;
    // A bridge's port has no addresses, and those that IPv6 would give it cost all others time.
    if let Some(switches) = pair.switches {
        let path = format!("{}/disable_ipv6", pair.name);
        let switch = openat(switches, path.as_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        File::from(switch).write_all(b"1")?;
    }
    let set = port(Message::new(NEW_LINK, ACKNOWLEDGE, &link_head(0, UP)).text(link::NAME, pair.name));
    socket.change(vec![set], &[])
}

/// A bridge sends back what came from this link: a container that calls its own mapped port needs it where bridged packets are filtered.
fn port(message: Message) -> Message {
    message.nest(link::INFO, |info| {
        info.text(link::INFO_PORT_KIND, "bridge")
            .nest(link::INFO_PORT_DATA, |data| data.put(link::HAIRPIN, &[1]))
    })
}

/// Removes a link; one that is not there is no error.
pub(crate) fn remove_link(socket: &mut Socket, name: &str) -> io::Result<()> {
    let message = Message::new(DELETE_LINK, ACKNOWLEDGE, &link_head(0, 0)).text(link::NAME, name);
    socket.change(vec![message], &[libc::ENODEV])
}

/// Carries changes out, in their order. Pairs are made by [`make_pair`] instead.
pub(crate) fn apply(socket: &mut Socket, changes: &[Change]) -> io::Result<()> {
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    for change in changes {
        let name = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", spoken(change)));
        if let Change::MakeLink(link, _) | Change::RemoveLink(link) = change {
            numbers.remove(link);
        }
        let link = match change {
            Change::RemoveLink(_) | Change::MakeLink(..) => None,
            Change::SetLink { name, .. } | Change::AddAddress(name, _) | Change::RemoveAddress(name, _) => {
                Some(name)
            }
            Change::AddRoute(Route { link, .. })
            | Change::RemoveRoute(Route { link, .. })
            | Change::AddNeighbour(Neighbour { link, .. })
            | Change::RemoveNeighbour(Neighbour { link, .. })
            | Change::AddForward(Forward { link, .. })
            | Change::RemoveForward(Forward { link, .. }) => Some(link),
        };
        let number = match link {
            None => 0,
            Some(link) => match numbers.get(link) {
                Some(number) => *number,
                None => {
                    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no link {link}"));
                    let number = index(socket, link).map_err(name)?.ok_or_else(missing)?;
                    numbers.insert(link.clone(), number);
                    number
                }
            },
        };
        let fine: &[i32] = match change {
            Change::RemoveForward(_)
            | Change::RemoveNeighbour(_)
            | Change::RemoveRoute(_)
            | Change::RemoveLink(_)
            | Change::RemoveAddress(..) => &GONE,
            Change::AddAddress(..) => &[libc::EEXIST],
            _ => &[],
        };
        let messages = messages(socket, change, number).map_err(name)?;
        socket.change(messages, fine).map_err(name)?;
    }
    Ok(())
}

fn spoken(change: &Change) -> String {
    match change {
        Change::RemoveLink(name) => format!("remove {name}"),
        Change::MakeLink(name, _) => format!("make {name}"),
        Change::SetLink { name, .. } => format!("set {name}"),
        Change::AddAddress(name, net) | Change::RemoveAddress(name, net) => format!("{net} of {name}"),
        Change::AddRoute(route) | Change::RemoveRoute(route) => format!("route to {}", route.to),
        Change::AddNeighbour(one) | Change::RemoveNeighbour(one) => format!("neighbour {}", one.address),
        Change::AddForward(one) | Change::RemoveForward(one) => format!("node {}", one.node),
    }
}

fn messages(socket: &mut Socket, change: &Change, number: u32) -> io::Result<Vec<Message>> {
    Ok(match change {
        Change::RemoveLink(name) => {
            vec![Message::new(DELETE_LINK, ACKNOWLEDGE, &link_head(0, 0)).text(link::NAME, name)]
        }
        Change::MakeLink(name, link) => vec![make(name, link)],
        Change::SetLink { mac, mtu, master, up, hairpin, .. } => {
            let mut out = Message::new(NEW_LINK, ACKNOWLEDGE, &link_head(number, if *up { UP } else { 0 }));
            if let Some(mac) = mac {
                out = out.put(link::ADDRESS, mac);
            }
            if let Some(mtu) = mtu {
                out = out.put(link::MTU, &mtu.to_ne_bytes());
            }
            if let Some(master) = master {
                let master = index(socket, master)?.ok_or(io::ErrorKind::NotFound)?;
                out = out.put(link::MASTER, &master.to_ne_bytes());
            }
            let mut all = vec![out];
            if *hairpin {
                all.push(port(Message::new(NEW_LINK, ACKNOWLEDGE, &link_head(number, 0))));
            }
            all
        }
        Change::AddAddress(_, net) => vec![address_message(NEW_ADDRESS, CREATE | REPLACE, number, net)],
        Change::RemoveAddress(_, net) => vec![address_message(DELETE_ADDRESS, 0, number, net)],
        Change::AddRoute(route) => vec![route_message(NEW_ROUTE, CREATE | REPLACE, number, route)],
        Change::RemoveRoute(route) => vec![route_message(DELETE_ROUTE, 0, number, route)],
        Change::AddNeighbour(one) => {
            let head = neighbour_head(family(one.address), number, 0);
            vec![neighbour(NEW_NEIGHBOUR, CREATE | REPLACE, &head, one.address, Some(one.mac))]
        }
        Change::RemoveNeighbour(one) => {
            let head = neighbour_head(family(one.address), number, 0);
            vec![neighbour(DELETE_NEIGHBOUR, 0, &head, one.address, None)]
        }
        Change::AddForward(one) => {
            let head = neighbour_head(BRIDGE, number, SELF);
            vec![neighbour(NEW_NEIGHBOUR, CREATE | REPLACE, &head, one.node, Some(one.mac))]
        }
        Change::RemoveForward(one) => {
            let head = neighbour_head(BRIDGE, number, SELF);
            vec![neighbour(DELETE_NEIGHBOUR, 0, &head, one.node, Some(one.mac))]
        }
    })
}

fn make(name: &str, link: &Link) -> Message {
    let up = if link.up { UP } else { 0 };
    let mut out =
        Message::new(NEW_LINK, CREATE | EXCLUSIVE | ACKNOWLEDGE, &link_head(0, up)).text(link::NAME, name);
    if let Some(mac) = link.mac {
        out = out.put(link::ADDRESS, &mac);
    }
    if let Some(mtu) = link.mtu {
        out = out.put(link::MTU, &mtu.to_ne_bytes());
    }
    match &link.kind {
        Kind::Tunnel { vni, port, local } => out.nest(link::INFO, |info| {
            info.text(link::INFO_KIND, "vxlan").nest(link::INFO_DATA, |data| {
                let local_kind = if local.is_ipv4() { link::LOCAL } else { link::LOCAL6 };
                data.put(link::VNI, &vni.to_ne_bytes())
                    .put(local_kind, &octets(*local))
                    .put(link::LEARNING, &[0])
                    .put(link::PORT, &port.to_be_bytes())
            })
        }),
        // What is sent to many goes to all: who asked for it need not be known, which costs time with each port.
        _ => out.nest(link::INFO, |info| {
            info.text(link::INFO_KIND, "bridge").nest(link::INFO_DATA, |data| data.put(link::SNOOPING, &[0]))
        }),
    }
}

fn address_message(kind: u16, flags: u16, number: u32, net: &IpNet) -> Message {
    let mut head = vec![family(net.address), net.bits, NO_SEARCH, 0];
    head.extend(number.to_ne_bytes());
    let bytes = octets(net.address);
    Message::new(kind, flags | ACKNOWLEDGE, &head).put(1, &bytes).put(2, &bytes)
}

fn route_message(kind: u16, flags: u16, number: u32, route: &Route) -> Message {
    let mut head = vec![family(route.to.address), route.to.bits, 0, 0, MAIN, OURS, 0, UNICAST];
    head.extend(ON_LINK.to_ne_bytes());
    let mut out = Message::new(kind, flags | ACKNOWLEDGE, &head);
    if route.to.bits > 0 {
        out = out.put(1, &octets(route.to.network().address));
    }
    out.put(5, &octets(route.via)).put(4, &number.to_ne_bytes())
}

fn neighbour_head(family: u8, number: u32, flags: u8) -> Vec<u8> {
    let mut head = vec![family, 0, 0, 0];
    head.extend(number.to_ne_bytes());
    head.extend(PERMANENT.to_ne_bytes());
    head.extend([flags, 0]);
    head
}

fn neighbour(kind: u16, flags: u16, head: &[u8], who: IpAddr, mac: Option<Mac>) -> Message {
    let out = Message::new(kind, flags | ACKNOWLEDGE, head).put(1, &octets(who));
    match mac {
        Some(mac) => out.put(2, &mac),
        None => out,
    }
}

/// The state of the namespace of the socket, as far as `ours` says that a link (its name, its master's name) is ours. Addresses of all other
/// links are given besides.
pub(crate) fn read(
    socket: &mut Socket,
    ours: impl Fn(&str, Option<&str>) -> bool,
) -> io::Result<(State, Vec<IpNet>)> {
    let all = socket.list(&Message::new(GET_LINK, DUMP, &link_head(0, 0)), |answer| {
        read_link(answer).into_iter().collect()
    })?;
    let names: BTreeMap<u32, String> = all.iter().map(|one| (one.number, one.name.clone())).collect();
    let mut state = State::default();
    for mut one in all {
        one.link.master = one.master.and_then(|master| names.get(&master)).cloned();
        if ours(&one.name, one.link.master.as_deref()) {
            state.links.insert(one.name, one.link);
        }
    }
    let mut others = Vec::new();
    let head = [0; 8];
    for (number, net) in socket
        .list(&Message::new(GET_ADDRESS, DUMP, &head), |answer| read_address(answer).into_iter().collect())?
    {
        match names.get(&number).and_then(|name| state.links.get_mut(name)) {
            Some(link) => drop(link.addresses.insert(net)),
            None => others.push(net),
        }
    }
    let known: BTreeMap<u32, String> =
        names.into_iter().filter(|(_, name)| state.links.contains_key(name)).collect();
    let routes = socket.list(&Message::new(GET_ROUTE, DUMP, &[0; 12]), |answer| {
        read_route(answer, &known).into_iter().collect()
    })?;
    state.routes = routes.into_iter().collect();
    let tunnels: BTreeMap<u32, String> = known
        .into_iter()
        .filter(|(_, name)| state.links.get(name).is_some_and(|l| matches!(l.kind, Kind::Tunnel { .. })))
        .collect();
    if tunnels.is_empty() {
        return Ok((state, others));
    }
    let request = Message::new(GET_NEIGHBOUR, DUMP, &[0; 12]);
    let neighbours = socket.list(&request, |answer| {
        let found = read_neighbour(answer, &tunnels);
        found.map(|(link, address, mac)| Neighbour { link, address, mac }).into_iter().collect()
    })?;
    state.neighbours = neighbours.into_iter().collect();
    let mut head = [0; 12];
    head[0] = BRIDGE;
    let forwards: BTreeSet<Forward> = socket
        .list(&Message::new(GET_NEIGHBOUR, DUMP, &head), |answer| {
            let found = read_neighbour(answer, &tunnels);
            found.map(|(link, node, mac)| Forward { link, mac, node }).into_iter().collect()
        })?
        .into_iter()
        .collect();
    state.forwards = forwards;
    Ok((state, others))
}

/// A link, its number, and its master's.
struct Found {
    number: u32,
    name: String,
    master: Option<u32>,
    link: Link,
}

fn read_link(answer: &Answer<'_>) -> Option<Found> {
    if answer.kind != NEW_LINK {
        return None;
    }
    let mut found = Found {
        number: u32_at(answer.body, 4)?,
        name: String::new(),
        master: None,
        link: Link { up: u32_at(answer.body, 8)? & UP != 0, ..Link::new(Kind::Other) },
    };
    for (kind, value) in Attributes::after(answer.body, 16) {
        match kind {
            link::NAME => found.name = text(value),
            link::ADDRESS => found.link.mac = value.try_into().ok(),
            link::MTU => found.link.mtu = u32_at(value, 0),
            link::MASTER => found.master = u32_at(value, 0),
            link::INFO => read_info(value, &mut found.link),
            _ => {}
        }
    }
    Some(found)
}

fn read_info(info: &[u8], link: &mut Link) {
    let (mut kind, mut data, mut of_port) = (String::new(), None, None);
    for (attribute, value) in Attributes(info) {
        match attribute {
            link::INFO_KIND => kind = text(value),
            link::INFO_DATA => data = Some(value),
            link::INFO_PORT_DATA => of_port = Some(value),
            _ => {}
        }
    }
    let port = Attributes(of_port.unwrap_or_default());
    link.hairpin = port.into_iter().any(|(kind, value)| kind == link::HAIRPIN && value.first() == Some(&1));
    link.kind = match kind.as_str() {
        "bridge" => Kind::Bridge,
        "veth" => Kind::Pair,
        "vxlan" => {
            let (mut vni, mut port, mut local) = (0, 0, IpAddr::from([0, 0, 0, 0]));
            for (kind, value) in Attributes(data.unwrap_or_default()) {
                match kind {
                    link::VNI => vni = u32_at(value, 0).unwrap_or(0),
                    link::PORT => port = u16_at(value, 0).map_or(0, u16::from_be),
                    link::LOCAL | link::LOCAL6 => local = address(value).unwrap_or(local),
                    _ => {}
                }
            }
            Kind::Tunnel { vni, port, local }
        }
        _ => Kind::Other,
    };
}

fn read_address(answer: &Answer<'_>) -> Option<(u32, IpNet)> {
    let (bits, scope) = (*answer.body.get(1)?, *answer.body.get(3)?);
    if answer.kind != NEW_ADDRESS || scope >= SCOPE_LINK {
        return None;
    }
    let (mut own, mut local) = (None, None);
    for (kind, value) in Attributes::after(answer.body, 8) {
        match kind {
            1 => own = address(value),
            2 => local = address(value),
            _ => {}
        }
    }
    Some((u32_at(answer.body, 4)?, IpNet { address: local.or(own)?, bits }))
}

fn read_route(answer: &Answer<'_>, known: &BTreeMap<u32, String>) -> Option<Route> {
    let (bits, protocol) = (*answer.body.get(1)?, *answer.body.get(5)?);
    if answer.kind != NEW_ROUTE || protocol != OURS {
        return None;
    }
    let (mut to, mut via, mut by) = (None, None, None);
    for (kind, value) in Attributes::after(answer.body, 12) {
        match kind {
            1 => to = address(value),
            4 => by = u32_at(value, 0),
            5 => via = address(value),
            _ => {}
        }
    }
    let via = via?;
    let nowhere = if via.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
    let to = IpNet { address: to.unwrap_or(nowhere), bits };
    Some(Route { to, via, link: known.get(&by?)?.clone() })
}

fn read_neighbour(answer: &Answer<'_>, tunnels: &BTreeMap<u32, String>) -> Option<(String, IpAddr, Mac)> {
    if answer.kind != NEW_NEIGHBOUR || u16_at(answer.body, 8)? & PERMANENT == 0 {
        return None;
    }
    let link = tunnels.get(&u32_at(answer.body, 4)?)?.clone();
    let (mut who, mut mac) = (None, None);
    for (kind, value) in Attributes::after(answer.body, 12) {
        match kind {
            1 => who = address(value),
            2 => mac = value.try_into().ok(),
            _ => {}
        }
    }
    Some((link, who?, mac?))
}

/// The MTU of the link that has an address.
pub(crate) fn mtu_of(socket: &mut Socket, node: IpAddr) -> io::Result<Option<u32>> {
    let (state, _) = read(socket, |_, _| true)?;
    let has = |link: &&Link| link.addresses.iter().any(|net| net.address == node);
    Ok(state.links.values().find(has).and_then(|link| link.mtu))
}
