//! The overlay: what a node's tunnel, bridge and routes are, given its slice and the other nodes. Each node routes the other slices through the
//! tunnel to that slice's first address, whose hardware address follows from the slice, so that nothing needs to be asked or told. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::settings::{Names, Overlay, Peer};
use crate::state::{Forward, Kind, Link, Mac, Neighbour, Route, State};
use crate::types::{IpNet, number};

/// What the tunnel's headers take of a packet, over IPv4 and IPv6.
const HEADERS: [u32; 2] = [50, 70];
/// An interface's MTU where none is known.
const USUAL: u32 = 1500;
/// The number of a tunnel's own address in its IPv6 slice: beyond all containers.
const TUNNEL6: u128 = 1 << 32;

/// The hardware address of the tunnel of a slice.
fn mac(slice: &IpNet) -> Mac {
    hardware(0x0a, slice.network().address)
}

/// A hardware address made of an IPv4 address.
pub(crate) fn hardware(first: u8, address: IpAddr) -> Mac {
    let [.., a, b, c, d] = number(address).to_be_bytes();
    [first, 0x50, a, b, c, d]
}

/// The tunnel's addresses of a slice, by which its node is the next hop.
fn hops(slice: &IpNet, slice6: Option<&IpNet>) -> Vec<IpNet> {
    let four = slice.nth(0).map(|address| IpNet { address, bits: 32 });
    let six = slice6.and_then(|six| six.nth(TUNNEL6)).map(|address| IpNet { address, bits: 128 });
    four.into_iter().chain(six).collect()
}

/// The MTU inside, where the node's interface has `outside`.
#[must_use]
pub(crate) fn mtu(overlay: &Overlay, outside: Option<u32>) -> u32 {
    let headers = if overlay.node.is_ipv4() { HEADERS[0] } else { HEADERS[1] };
    overlay.mtu.unwrap_or_else(|| outside.unwrap_or(USUAL).saturating_sub(headers).max(1280))
}

/// Tunnel and bridge of this node.
pub(crate) fn own(names: &Names, overlay: &Overlay, mtu: u32) -> State {
    let mut state = State::default();
    let Some((slice, slice6)) = overlay.slice(overlay.slice) else { return state };
    let (vni, port, local) = (overlay.vni, overlay.port, overlay.node);
    let mut tunnel = Link::new(Kind::Tunnel { vni, port, local });
    tunnel.mac = Some(mac(&slice));
    tunnel.mtu = Some(mtu);
    tunnel.addresses.extend(hops(&slice, slice6.as_ref()));
    let mut bridge = bridge(&slice, slice6.as_ref());
    bridge.mtu = Some(mtu);
    state.links.insert(names.tunnel.clone(), tunnel);
    state.links.insert(names.overlay.clone(), bridge);
    state
}

/// A bridge with the first addresses of its networks. Its hardware address is its own: otherwise it would be that of some container.
pub(crate) fn bridge(network: &IpNet, network6: Option<&IpNet>) -> Link {
    let mut link = Link::new(Kind::Bridge);
    link.mac = network.nth(1).map(|address| hardware(0x06, address));
    for net in std::iter::once(network).chain(network6) {
        link.addresses.extend(net.nth(1).map(|address| IpNet { address, bits: net.bits }));
    }
    link
}

/// Adds what leads to the other nodes. Those that cannot be reached from this one (another family, a slice of this node's or of one before)
/// are left out.
pub(crate) fn with_peers(
    mut state: State,
    names: &Names,
    overlay: &Overlay,
    peers: &BTreeSet<Peer>,
) -> State {
    let link = &names.tunnel;
    let own = overlay.slice(overlay.slice).map(|(slice, _)| slice);
    let mut taken: Vec<IpNet> = own.into_iter().collect();
    for peer in peers {
        let usable = peer.node.is_ipv4() == overlay.node.is_ipv4()
            && peer.node != overlay.node
            && peer.slice.address.is_ipv4()
            && !taken.iter().any(|slice| slice.overlaps(&peer.slice));
        if !usable {
            continue;
        }
        taken.push(peer.slice);
        let mac = mac(&peer.slice);
        state.forwards.insert(Forward { link: link.clone(), mac, node: peer.node });
        let slices = [Some(peer.slice), peer.slice6.filter(|six| six.address.is_ipv6())];
        let six = slices[1].filter(|_| overlay.range6.is_some());
        for hop in hops(&peer.slice, six.as_ref()) {
            let to = slices.iter().flatten().find(|slice| slice.address.is_ipv4() == hop.address.is_ipv4());
            let Some(to) = to else { continue };
            state.neighbours.insert(Neighbour { link: link.clone(), address: hop.address, mac });
            state.routes.insert(Route { to: to.network(), via: hop.address, link: link.clone() });
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::Settings;

    fn overlay() -> Overlay {
        Overlay {
            node: [192, 0, 2, 1].into(),
            range6: Some("fd01::/48".parse().unwrap()),
            ..Overlay::default()
        }
    }

    #[test]
    fn a_peer_is_reached_by_its_slices() {
        let (overlay, names) = (overlay(), Names::new(Path::new("/x"), &Settings::default()));
        let peer = overlay.peer(1, [192, 0, 2, 2].into()).unwrap();
        let state = with_peers(own(&names, &overlay, 1450), &names, &overlay, &[peer].into());
        let told: Vec<String> =
            state.routes.iter().map(|route| format!("{} via {}", route.to, route.via)).collect();
        assert_eq!(told, ["9.0.1.0/24 via 9.0.1.0", "fd01:0:0:1::/64 via fd01::1:0:1:0:0"]);
        assert_eq!((state.neighbours.len(), state.forwards.len()), (2, 1));
        // What the peer itself has.
        let there = own(&names, &Overlay { slice: 1, node: peer.node, ..overlay }, 1450);
        let tunnel = &there.links[&names.tunnel];
        assert_eq!(tunnel.mac, state.forwards.first().map(|forward| forward.mac));
        for neighbour in &state.neighbours {
            assert!(tunnel.addresses.iter().any(|net| net.address == neighbour.address));
        }
    }

    #[test]
    fn peers_that_cannot_be_are_left_out() {
        let (overlay, names) = (overlay(), Names::new(Path::new("/x"), &Settings::default()));
        let peer = |number, node: IpAddr| overlay.peer(number, node).unwrap();
        let good = peer(2, [192, 0, 2, 3].into());
        let peers = [
            peer(0, [192, 0, 2, 2].into()),
            peer(1, overlay.node),
            peer(1, "fd02::1".parse().unwrap()),
            good,
            peer(2, [192, 0, 2, 4].into()),
        ];
        let state = with_peers(State::default(), &names, &overlay, &peers.into());
        assert_eq!(state.forwards.iter().map(|one| one.node).collect::<Vec<_>>(), [good.node]);
    }

    #[test]
    fn room_is_left_for_the_tunnel() {
        let six = Overlay { node: "fd02::1".parse().unwrap(), ..Overlay::default() };
        assert_eq!(mtu(&overlay(), Some(9000)), 8950);
        assert_eq!(mtu(&overlay(), None), 1450);
        assert_eq!(mtu(&six, Some(1500)), 1430);
        assert_eq!(mtu(&Overlay { mtu: Some(1400), ..six }, Some(1500)), 1400);
    }
}
