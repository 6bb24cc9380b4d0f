//! What the kernel has, what it should have, and the changes in between. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::types::IpNet;

/// A hardware address.
pub type Mac = [u8; 6];

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A bridge.
    Bridge,
    /// A tunnel between nodes.
    Tunnel {
        /// The virtual network.
        vni: u32,
        /// The UDP port.
        port: u16,
        /// This node's address.
        local: IpAddr,
    },
    /// One end of a pair.
    Pair,
    /// Anything else: it is not made here.
    Other,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: Kind,
    /// Whether it is switched on.
    pub up: bool,
    /// The bridge that it belongs to.
    pub master: Option<String>,
    /// Its MTU; none wanted: whatever it is.
    pub mtu: Option<u32>,
    /// Its hardware address; none wanted: whatever it is.
    pub mac: Option<Mac>,
    /// Whether a bridge sends back what came from it.
    pub hairpin: bool,
    /// Its addresses, those of the link itself (`fe80::/10`) left out.
    pub addresses: BTreeSet<IpNet>,
}

impl Link {
    /// A link that is switched on and has nothing else.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let addresses = BTreeSet::new();
        Self { kind, up: true, master: None, mtu: None, mac: None, hairpin: false, addresses }
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// By whom, which need not be an address of the link's network.
    pub via: IpAddr,
    /// By which link.
    pub link: String,
}

/// A neighbour's hardware address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// On which link.
    pub link: String,
    /// The neighbour.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// Which node has a hardware address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// The tunnel.
    pub link: String,
    /// The hardware address.
    pub mac: Mac,
    /// The node.
    pub node: IpAddr,
}

/// What is ours in one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Links by name.
    pub links: BTreeMap<String, Link>,
    /// Routes.
    pub routes: BTreeSet<Route>,
    /// Neighbours.
    pub neighbours: BTreeSet<Neighbour>,
    /// Nodes by hardware address.
    pub forwards: BTreeSet<Forward>,
}

/// One change of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Removes a node of a tunnel.
    RemoveForward(Forward),
    /// Removes a neighbour.
    RemoveNeighbour(Neighbour),
    /// Removes a route.
    RemoveRoute(Route),
    /// Removes a link.
    RemoveLink(String),
    /// Removes an address of a link.
    RemoveAddress(String, IpNet),
    /// Makes a link; addresses follow.
    MakeLink(String, Link),
    /// Sets what is not none.
    SetLink {
        /// The link.
        name: String,
        /// Its hardware address.
        mac: Option<Mac>,
        /// Its MTU.
        mtu: Option<u32>,
        /// Its bridge.
        master: Option<String>,
        /// Switched on.
        up: bool,
        /// Sent back what came from it.
        hairpin: bool,
    },
    /// Gives a link an address.
    AddAddress(String, IpNet),
    /// Adds or replaces a neighbour.
    AddNeighbour(Neighbour),
    /// Adds or replaces a node of a tunnel.
    AddForward(Forward),
    /// Adds or replaces a route.
    AddRoute(Route),
}

/// What leads from `found` to `wanted`, in an order that works; nothing where they agree, so that what is right is left alone. A link of the
/// wrong kind is made anew, and with it what hangs on it.
#[must_use]
pub fn decide(wanted: &State, found: &State) -> Vec<Change> {
    let stays = |name: &str| match (wanted.links.get(name), found.links.get(name)) {
        (Some(wanted), Some(found)) => wanted.kind == found.kind || wanted.kind == Kind::Other,
        // Of a link that is not spoken of, only what hangs on it is looked at.
        (None, None) => true,
        _ => false,
    };
    let mut out = Vec::new();
    // What hangs on a link that goes, goes with it.
    let forwards = found.forwards.iter().filter(|one| !wanted.forwards.contains(*one) && stays(&one.link));
    out.extend(forwards.cloned().map(Change::RemoveForward));
    let neighbours =
        found.neighbours.iter().filter(|one| !wanted.neighbours.contains(*one) && stays(&one.link));
    out.extend(neighbours.cloned().map(Change::RemoveNeighbour));
    let routes = found.routes.iter().filter(|one| !wanted.routes.contains(*one) && stays(&one.link));
    out.extend(routes.cloned().map(Change::RemoveRoute));
    out.extend(found.links.keys().filter(|name| !stays(name)).cloned().map(Change::RemoveLink));
    for (name, link) in &wanted.links {
        match found.links.get(name).filter(|_| stays(name)) {
            Some(has) => adjust(&mut out, name, link, has),
            None => {
                out.push(Change::MakeLink(name.clone(), link.clone()));
                out.extend(link.addresses.iter().map(|net| Change::AddAddress(name.clone(), *net)));
            }
        }
    }
    let new = |link: &str| !stays(link);
    let neighbours =
        wanted.neighbours.iter().filter(|one| new(&one.link) || !found.neighbours.contains(*one));
    out.extend(neighbours.cloned().map(Change::AddNeighbour));
    let forwards = wanted.forwards.iter().filter(|one| new(&one.link) || !found.forwards.contains(*one));
    out.extend(forwards.cloned().map(Change::AddForward));
    let routes = wanted.routes.iter().filter(|one| new(&one.link) || !found.routes.contains(*one));
    out.extend(routes.cloned().map(Change::AddRoute));
    out
}

fn adjust(out: &mut Vec<Change>, name: &str, wanted: &Link, has: &Link) {
    let differs = |mac: &Mac| has.mac != Some(*mac);
    let mac = wanted.mac.filter(differs);
    let mtu = wanted.mtu.filter(|mtu| has.mtu != Some(*mtu));
    let master = wanted.master.clone().filter(|_| wanted.master != has.master);
    let up = wanted.up && !has.up;
    // Another bridge forgets it.
    let hairpin = wanted.hairpin && (!has.hairpin || master.is_some());
    if mac.is_some() || mtu.is_some() || master.is_some() || up || hairpin {
        out.push(Change::SetLink { name: name.to_owned(), mac, mtu, master, up, hairpin });
    }
    let name = || name.to_owned();
    // First the new ones: a link without any address loses its routes.
    out.extend(wanted.addresses.difference(&has.addresses).map(|net| Change::AddAddress(name(), *net)));
    if wanted.kind != Kind::Other {
        out.extend(
            has.addresses.difference(&wanted.addresses).map(|net| Change::RemoveAddress(name(), *net)),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn bridge() -> State {
        let mut link = Link::new(Kind::Bridge);
        link.mac = Some([2, 0, 0, 0, 0, 1]);
        link.addresses.insert(net("10.0.0.1/24"));
        State { links: BTreeMap::from([("b".to_owned(), link)]), ..State::default() }
    }

    fn tunnel(vni: u32) -> State {
        let local = IpAddr::from([192, 0, 2, 1]);
        let link = Link::new(Kind::Tunnel { vni, port: 4789, local });
        let (name, mac) = ("v".to_owned(), [2, 0, 0, 0, 0, 9]);
        State {
            links: BTreeMap::from([(name.clone(), link)]),
            routes: BTreeSet::from([Route {
                to: net("9.0.1.0/24"),
                via: [9, 0, 1, 0].into(),
                link: name.clone(),
            }]),
            neighbours: BTreeSet::from([Neighbour { link: name.clone(), address: [9, 0, 1, 0].into(), mac }]),
            forwards: BTreeSet::from([Forward { link: name, mac, node: [192, 0, 2, 2].into() }]),
        }
    }

    fn changed(change: impl FnOnce(&mut Link)) -> State {
        let mut state = bridge();
        change(state.links.get_mut("b").unwrap());
        state
    }

    fn named(changes: &[Change]) -> Vec<&'static str> {
        let name = |change: &Change| match change {
            Change::RemoveForward(_) => "-forward",
            Change::RemoveNeighbour(_) => "-neighbour",
            Change::RemoveRoute(_) => "-route",
            Change::RemoveLink(_) => "-link",
            Change::RemoveAddress(..) => "-address",
            Change::MakeLink(..) => "+link",
            Change::SetLink { .. } => "=link",
            Change::AddAddress(..) => "+address",
            Change::AddNeighbour(_) => "+neighbour",
            Change::AddForward(_) => "+forward",
            Change::AddRoute(_) => "+route",
        };
        changes.iter().map(name).collect()
    }

    #[test]
    fn only_what_differs_is_changed() {
        let other = |kind| {
            let mut state = bridge();
            state.links.insert("b".into(), Link::new(kind));
            state
        };
        let no_peers = State { links: tunnel(1).links, ..State::default() };
        let cases = [
            (bridge(), bridge(), vec![]),
            (bridge(), State::default(), vec!["+link", "+address"]),
            (State::default(), bridge(), vec!["-link"]),
            (bridge(), changed(|link| link.up = false), vec!["=link"]),
            (bridge(), changed(|link| link.mac = Some([9; 6])), vec!["=link"]),
            (bridge(), changed(|link| link.mtu = Some(9000)), vec![]),
            (changed(|link| link.mtu = Some(1450)), changed(|link| link.mtu = Some(1500)), vec!["=link"]),
            (bridge(), changed(|link| link.addresses.clear()), vec!["+address"]),
            (bridge(), changed(|link| link.addresses.extend([net("10.9.0.1/8")])), vec!["-address"]),
            (bridge(), other(Kind::Pair), vec!["-link", "+link", "+address"]),
            (other(Kind::Other), bridge(), vec![]),
            (tunnel(1), tunnel(1), vec![]),
            (tunnel(1), no_peers.clone(), vec!["+neighbour", "+forward", "+route"]),
            (no_peers, tunnel(1), vec!["-forward", "-neighbour", "-route"]),
            (tunnel(2), tunnel(1), vec!["-link", "+link", "+neighbour", "+forward", "+route"]),
        ];
        for (at, (wanted, found, expected)) in cases.iter().enumerate() {
            assert_eq!(named(&decide(wanted, found)), *expected, "case {at}");
        }
    }

    #[test]
    fn a_pair_in_the_wrong_bridge_is_moved_and_told_to_send_back() {
        let pair = |master: &str, hairpin| {
            let link = Link { master: Some(master.to_owned()), hairpin, ..Link::new(Kind::Pair) };
            State { links: BTreeMap::from([("p".to_owned(), link)]), ..State::default() }
        };
        assert!(decide(&pair("b", true), &pair("b", true)).is_empty());
        let change = |master: Option<&str>| {
            let (name, master) = ("p".to_owned(), master.map(str::to_owned));
            vec![Change::SetLink { name, mac: None, mtu: None, master, up: false, hairpin: true }]
        };
        assert_eq!(decide(&pair("b", true), &pair("c", true)), change(Some("b")));
        assert_eq!(decide(&pair("b", true), &pair("b", false)), change(None));
    }

    /// Carries a change out on a state, as the kernel does: what hangs on a link goes with it, and nothing can be done to one that is not there.
    fn carry_out(state: &mut State, change: Change) {
        match change {
            Change::RemoveForward(one) => assert!(state.forwards.remove(&one)),
            Change::RemoveNeighbour(one) => assert!(state.neighbours.remove(&one)),
            Change::RemoveRoute(one) => assert!(state.routes.remove(&one)),
            Change::RemoveLink(name) => {
                assert!(state.links.remove(&name).is_some());
                state.forwards.retain(|one| one.link != name);
                state.neighbours.retain(|one| one.link != name);
                state.routes.retain(|one| one.link != name);
            }
            Change::RemoveAddress(name, net) => {
                assert!(state.links.get_mut(&name).unwrap().addresses.remove(&net));
            }
            Change::MakeLink(name, link) => {
                let link = Link { addresses: BTreeSet::new(), ..link };
                assert!(state.links.insert(name, link).is_none());
            }
            Change::SetLink { name, mac, mtu, master, up, hairpin } => {
                let link = state.links.get_mut(&name).unwrap();
                link.mac = mac.or(link.mac);
                link.mtu = mtu.or(link.mtu);
                if master.is_some() {
                    (link.master, link.hairpin) = (master, false);
                }
                link.up |= up;
                link.hairpin |= hairpin;
            }
            Change::AddAddress(name, net) => {
                assert!(state.links.get_mut(&name).unwrap().addresses.insert(net));
            }
            Change::AddNeighbour(one) => {
                assert!(state.links.contains_key(&one.link) && state.neighbours.insert(one));
            }
            Change::AddForward(one) => {
                assert!(state.links.contains_key(&one.link) && state.forwards.insert(one));
            }
            Change::AddRoute(one) => {
                assert!(state.links.contains_key(&one.link) && state.routes.insert(one));
            }
        }
    }

    fn any_link() -> impl Strategy<Value = Link> {
        let kinds = prop_oneof![
            Just(Kind::Bridge),
            Just(Kind::Pair),
            (1u32..3).prop_map(|vni| Kind::Tunnel { vni, port: 1, local: [192, 0, 2, 1].into() }),
        ];
        let addresses =
            proptest::collection::btree_set((0u8..4).prop_map(|n| net(&format!("10.0.0.{n}/24"))), 0..3);
        let bridge = prop_oneof![Just("x".to_owned()), Just("y".to_owned())];
        let master = proptest::option::of(bridge);
        (kinds, any::<bool>(), master, 1400u32..1402, 0u8..2, any::<bool>(), addresses).prop_map(
            |(kind, up, master, mtu, mac, hairpin, addresses)| Link {
                kind,
                up,
                master,
                mtu: Some(mtu),
                mac: Some([mac; 6]),
                hairpin,
                addresses,
            },
        )
    }

    fn any_state() -> impl Strategy<Value = State> {
        let links = proptest::collection::btree_map("[a-c]", any_link(), 0..4);
        (links, proptest::collection::btree_set((0usize..3, 0u8..3), 0..4)).prop_map(|(links, hanging)| {
            let names: Vec<String> = links.keys().cloned().collect();
            let mut state = State { links, ..State::default() };
            for (at, n) in hanging {
                let Some(link) = names.get(at).cloned() else { continue };
                let address = IpAddr::from([9, 0, n, 0]);
                state.routes.insert(Route {
                    to: net(&format!("9.0.{n}.0/24")),
                    via: address,
                    link: link.clone(),
                });
                state.neighbours.insert(Neighbour { link: link.clone(), address, mac: [n; 6] });
                state.forwards.insert(Forward { link, mac: [n; 6], node: [192, 0, 2, n].into() });
            }
            state
        })
    }

    proptest! {
        #[test]
        fn changes_lead_from_what_there_is_to_what_is_wanted(wanted in any_state(), found in any_state()) {
            let mut state = found.clone();
            for change in decide(&wanted, &found) {
                carry_out(&mut state, change);
            }
            // Nothing is switched off, and no link leaves its bridge for none.
            let mut expected = wanted.clone();
            for (name, link) in &mut expected.links {
                if let Some(has) = found.links.get(name).filter(|has| has.kind == link.kind) {
                    link.up |= has.up;
                    let moved = link.master.is_some() && link.master != has.master;
                    link.hairpin |= has.hairpin && !moved;
                    link.master = link.master.take().or_else(|| has.master.clone());
                }
            }
            prop_assert_eq!(&state, &expected);
            prop_assert_eq!(decide(&wanted, &state), vec![]);
        }
    }
}
