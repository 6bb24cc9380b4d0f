//! One bridge and a container's pair behind it: namespace, links, addresses, default route. Blocking calls of a few microseconds each.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use crate::namespace::{self, Six};
use crate::netlink::route::{self, Pair};
use crate::netlink::socket::Socket;
use crate::netlink::turn;
use crate::overlay::hardware;
use crate::state::{Kind, Link, Route, State, decide};
use crate::types::{IpNet, NetworkError, file, kernel};

/// The interface inside.
const INSIDE: &str = "eth0";

/// A network of ours on this node.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// Its name for users.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// Its addresses.
    pub network: IpNet,
    /// Its IPv6 addresses: those with the same number.
    pub network6: Option<IpNet>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// The host's switches of IPv6, by link. Kept open: the kernel finds a path to them the slower, the more namespaces there are.
    pub switches: Option<Arc<File>>,
}

impl Segment {
    fn networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        std::iter::once(self.network).chain(self.network6)
    }

    /// The addresses of a number.
    pub fn addresses(&self, number: u32) -> Vec<IpNet> {
        let one = |net: IpNet| Some(IpNet { address: net.nth(u128::from(number))?, bits: net.bits });
        self.networks().filter_map(one).collect()
    }

    /// The bridge's addresses: where everything else is sent.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.networks().filter_map(|net| net.nth(1)).collect()
    }

    /// The host's end of a pair.
    pub fn outer(&self) -> Link {
        let master = Some(self.bridge.clone());
        Link { master, mtu: self.mtu, hairpin: true, ..Link::new(Kind::Pair) }
    }

    /// What is inside a container's namespace.
    fn inner(&self, number: u32) -> State {
        let mut state = State::default();
        state.links.insert("lo".to_owned(), Link::new(Kind::Other));
        let addresses: BTreeSet<IpNet> = self.addresses(number).into_iter().collect();
        let link = Link { mtu: self.mtu, addresses, ..Link::new(Kind::Pair) };
        state.links.insert(INSIDE.to_owned(), link);
        for via in self.gateways() {
            let all = IpNet { address: via, bits: 0 };
            state.routes.insert(Route { to: all.network(), via, link: INSIDE.to_owned() });
        }
        state
    }

    /// What a namespace has in which nothing but a new pair was made.
    fn begun(&self, number: u32) -> State {
        let mut state = self.inner(number);
        state.routes.clear();
        for link in state.links.values_mut() {
            link.addresses.clear();
            link.up = false;
        }
        state
    }

    /// Makes or repairs everything of a container. `outer` is its link in the host, where that is known.
    pub fn build(
        &self,
        netns: &Path,
        link: &str,
        number: u32,
        outer: impl FnOnce(&mut Socket) -> io::Result<Option<Link>>,
    ) -> Result<(), NetworkError> {
        let six = if self.network6.is_some() { Six::Given } else { Six::Off };
        let (mut inside, was) = namespace::open(netns, six).map_err(file("make the namespace", netns))?;
        let failed = |what: &str| kernel(format!("{what} {link}"));
        let _turn = turn();
        let mut host = Socket::route().map_err(failed("open a socket for"))?;
        let mut found = None;
        if was {
            let (state, _) = route::read(&mut inside, |name, _| name == "lo" || name == INSIDE)
                .map_err(failed("look into the namespace of"))?;
            let outer = outer(&mut host).map_err(failed("look at"))?;
            // Two ends, or none: half a pair is none.
            if let Some(outer) = outer
                && state.links.get(INSIDE).is_some_and(|inner| inner.kind == Kind::Pair)
            {
                let one = |link_state: Link| State {
                    links: [(link.to_owned(), link_state)].into(),
                    ..State::default()
                };
                route::apply(&mut host, &decide(&one(self.outer()), &one(outer)))
                    .map_err(failed("repair"))?;
                found = Some(state);
            }
        }
        let found = match found {
            Some(found) => found,
            None => {
                self.pair(&mut host, netns, link, number).map_err(failed("make"))?;
                self.begun(number)
            }
        };
        route::apply(&mut inside, &decide(&self.inner(number), &found))
            .map_err(failed("set up the namespace of"))
    }

    fn pair(&self, host: &mut Socket, netns: &Path, name: &str, number: u32) -> io::Result<()> {
        let namespace = File::open(netns)?;
        let first = self.addresses(number).first().map_or(self.network.address, |net| net.address);
        let pair = Pair {
            name,
            master: &self.bridge,
            inside: INSIDE,
            // Who had the address before had this one as well, so that nobody knows a wrong one.
            mac: hardware(0x02, first),
            mtu: self.mtu,
            netns: namespace.as_fd(),
            switches: self.switches.as_deref(),
        };
        match route::make_pair(host, &pair) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                route::remove_link(host, name)?;
                route::make_pair(host, &pair)
            }
            other => other,
        }
    }
}

/// Removes a container's pair and its namespace. What is not there is no error.
pub(super) fn demolish(netns: &Path, link: &str) -> Result<(), NetworkError> {
    let failed = || kernel(format!("remove {link}"));
    let mut host = Socket::route().map_err(failed())?;
    route::remove_link(&mut host, link).map_err(failed())?;
    namespace::remove(netns).map_err(file("remove the namespace", netns))
}
