//! What is held in memory, and the blocking bodies of the calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::addresses::Pool;
use crate::cni;
use crate::netlink::route;
use crate::netlink::socket::Socket;
use crate::ports::{Mappings, Place};
use crate::records::{Folder, Record};
use crate::settings::{Names, PAIR, Peer, Settings, check};
use crate::types::{Attached, IpNet, Network, NetworkError, Wish, file, kernel};

use super::host;
use super::segment::{Segment, demolish};
use super::table::Table;

/// Names by which the bridge is known.
const BRIDGE: [&str; 2] = ["mesos-bridge", "bridge"];

/// Everything behind [`super::Networks`].
#[derive(Debug)]
pub(super) struct Inner {
    pub settings: Settings,
    pub names: Names,
    pub folder: Folder,
    pub bridge: Segment,
    pub overlay: Option<Segment>,
    held: Mutex<Held>,
    table: Table,
    /// Held while links of the host are compared and changed.
    comparing: Mutex<()>,
    /// Whether the table is left alone.
    ending: AtomicBool,
}

/// What is known of containers.
#[derive(Debug)]
pub(super) struct Held {
    pub records: BTreeMap<String, Record>,
    bridge: Pool,
    overlay: Option<Pool>,
    pub mappings: Mappings,
}

impl Held {
    fn pool(&mut self, network: &Network) -> Option<&mut Pool> {
        match network {
            Network::Bridge => Some(&mut self.bridge),
            Network::Overlay(_) => self.overlay.as_mut(),
            Network::Cni(_) | Network::Named(_) => None,
        }
    }

    fn forget(&mut self, container: &str) {
        self.records.remove(container);
        self.bridge.free(container);
        if let Some(pool) = &mut self.overlay {
            pool.free(container);
        }
    }
}

impl Inner {
    /// Opens, and makes bridge and overlay.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, NetworkError> {
        let inner = Self::bare(folder, settings)?;
        inner.folder.share()?;
        host::open(&inner)?;
        Ok(inner)
    }

    /// Looks at everything and makes nothing but the folder.
    pub fn bare(folder: &Path, settings: Settings) -> Result<Self, NetworkError> {
        check(&settings)?;
        let names = Names::new(folder, &settings);
        let files = Folder::open(folder)?;
        let (network, mtu) = host::surroundings(&settings, &names)?;
        // A kernel without IPv6 has none.
        let switches = fs::File::open("/proc/sys/net/ipv6/conf").ok().map(Arc::new);
        let bridge = Segment {
            name: "bridge".to_owned(),
            bridge: names.bridge.clone(),
            network,
            network6: settings.network6,
            mtu: None,
            switches: switches.clone(),
        };
        let overlay = settings.overlay.as_ref().and_then(|overlay| {
            let (network, network6) = overlay.slice(overlay.slice)?;
            let (name, bridge) = (overlay.name.clone(), names.overlay.clone());
            Some(Segment { name, bridge, network, network6, mtu, switches: switches.clone() })
        });
        let mut places = vec![Place {
            bridge: bridge.bridge.clone(),
            ranges: std::iter::once(network).chain(settings.network6).collect(),
            relay: settings.relay(),
        }];
        if let Some(overlay) = &settings.overlay {
            let ranges = std::iter::once(overlay.range).chain(overlay.range6).collect();
            places.push(Place { bridge: names.overlay.clone(), ranges, relay: settings.relay() });
        }
        let held = Held {
            records: BTreeMap::new(),
            bridge: Pool::new(bridge.network),
            overlay: overlay.as_ref().map(|overlay| Pool::new(overlay.network)),
            mappings: Mappings::default(),
        };
        let table = Table::new(&names.table, places);
        let (held, comparing, ending) = (Mutex::new(held), Mutex::new(()), AtomicBool::new(false));
        let inner = Self { settings, names, folder: files, bridge, overlay, held, table, comparing, ending };
        inner.load()?;
        Ok(inner)
    }

    /// Whether a bridge with the names of this folder and these settings is there.
    pub fn left(folder: &Path, settings: &Settings) -> Result<bool, NetworkError> {
        let names = Names::new(folder, settings);
        let failed = || kernel("look for links");
        let mut socket = Socket::route().map_err(failed())?;
        Ok(route::index(&mut socket, &names.bridge).map_err(failed())?.is_some())
    }

    /// Takes over what records say.
    fn load(&self) -> Result<(), NetworkError> {
        let (records, _) = self.folder.load()?;
        let mut held = self.held();
        for (container, record) in records {
            let free = held.pool(&record.network).is_none_or(|pool| pool.note(record.number, &container));
            if free || matches!(record.network, Network::Cni(_)) {
                let to = self.target(&record);
                held.mappings.set(&container, to, &record.ports);
            }
            held.records.insert(container, record);
        }
        Ok(())
    }

    pub fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of whoever compares links of the host.
    pub fn comparing(&self) -> MutexGuard<'_, ()> {
        self.comparing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the kernel's table to what is held.
    pub fn settle(&self) -> Result<(), NetworkError> {
        if self.ending.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.table.settle(|all| self.held().mappings.take(all))
    }

    /// The segment of a network of ours.
    fn segment(&self, network: &Network) -> Option<&Segment> {
        match network {
            Network::Bridge => Some(&self.bridge),
            Network::Overlay(name) => self.overlay.as_ref().filter(|overlay| overlay.name == *name),
            Network::Cni(_) | Network::Named(_) => None,
        }
    }

    /// Where the ports of a record lead.
    fn target(&self, record: &Record) -> (Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>) {
        let (mut four, mut six) = (None, None);
        let addresses = self.segment(&record.network).map(|segment| segment.addresses(record.number));
        for net in addresses.unwrap_or_default() {
            match net.address {
                IpAddr::V4(v4) => four = Some(v4),
                IpAddr::V6(v6) => six = Some(v6),
            }
        }
        (four, six)
    }

    /// The network of a name.
    pub fn find(&self, name: &str) -> Result<Network, NetworkError> {
        if BRIDGE.contains(&name) {
            return Ok(Network::Bridge);
        }
        if self.overlay.as_ref().is_some_and(|overlay| overlay.name == name) {
            return Ok(Network::Overlay(name.to_owned()));
        }
        let folder = self.settings.cni.config.as_deref();
        if cni::find(folder, name)?.is_some() {
            return Ok(Network::Cni(name.to_owned()));
        }
        let known = [BRIDGE[0].to_owned()].into_iter();
        let known =
            known.chain(self.overlay.iter().map(|overlay| overlay.name.clone())).chain(cni::names(folder));
        let known = known.collect::<Vec<_>>().join(", ").chars().take(1000).collect();
        Err(NetworkError::Unknown { name: name.chars().take(200).collect(), known })
    }

    /// [`super::Networks::attach`].
    pub fn attach(&self, container: &str, wish: &Wish) -> Result<Attached, NetworkError> {
        let network = match &wish.network {
            Network::Named(name) | Network::Cni(name) | Network::Overlay(name) => self.find(name)?,
            Network::Bridge => Network::Bridge,
        };
        let before = self.held().records.get(container).map(|record| record.network.clone());
        if before.is_some_and(|before| before != network) {
            self.detach(container)?;
        }
        if let Network::Cni(name) = &network {
            return self.attach_by_plugins(container, name, wish);
        }
        let record = self.reserve(container, &network, wish)?;
        let segment = self.segment(&network).ok_or_else(|| unknown(&network))?;
        let (netns, link) = (self.folder.netns(container), self.names.pair(container));
        segment.build(&netns, &link, record.number, |socket| {
            let (state, _) = route::read(socket, |name, _| name == link)?;
            Ok(state.links.into_values().next())
        })?;
        self.settle()?;
        let mut attached = record.attached(&segment.name, netns);
        attached.addresses = segment.addresses(record.number);
        attached.gateway = segment.gateways().first().copied();
        attached.dns = self.settings.servers(attached.gateway);
        attached.search.clone_from(&self.settings.search);
        Ok(attached)
    }

    /// Writes the intent down and takes address and ports.
    fn reserve(&self, container: &str, network: &Network, wish: &Wish) -> Result<Record, NetworkError> {
        let mut held = self.held();
        self.free_ports(&held, container, wish)?;
        let pool = held.pool(network).ok_or_else(|| unknown(network))?;
        let subnet = pool.network();
        let number = match wish.addresses.iter().find(|address| address.is_ipv4()) {
            Some(address) => numbered(subnet, *address)
                .filter(|number| pool.note(*number, container))
                .ok_or_else(|| NetworkError::Refused {
                    name: format!("{subnet}"),
                    reason: format!("the address {address} is not one of its free addresses"),
                })?,
            None => pool.take(container).ok_or(NetworkError::Full { network: subnet })?,
        };
        let record = Record {
            network: network.clone(),
            number,
            ports: wish.ports.clone(),
            labels: wish.labels.clone(),
            addresses: wish.addresses.clone(),
            cni: None,
        };
        self.note(&mut held, container, &record)?;
        Ok(record)
    }

    /// Whether the wish's ports are free.
    pub fn free_ports(&self, held: &Held, container: &str, wish: &Wish) -> Result<(), NetworkError> {
        match held.mappings.conflict(container, &wish.ports) {
            Some(port) => Err(NetworkError::Port { port: port.host, protocol: port.protocol.as_str() }),
            None => Ok(()),
        }
    }

    /// Writes a record down and holds what it says.
    pub fn note(&self, held: &mut Held, container: &str, record: &Record) -> Result<(), NetworkError> {
        if let Err(error) = self.folder.write(container, record) {
            if !held.records.contains_key(container) {
                held.forget(container);
            }
            return Err(error);
        }
        held.mappings.set(container, self.target(record), &record.ports);
        held.records.insert(container.to_owned(), record.clone());
        Ok(())
    }

    /// [`super::Networks::detach`].
    pub fn detach(&self, container: &str) -> Result<(), NetworkError> {
        let kept = {
            let mut held = self.held();
            held.mappings.set(container, (None, None), &[]);
            held.records.get(container).cloned()
        };
        self.settle()?;
        if let Some(record) = kept.filter(|record| record.cni.is_some()) {
            self.detach_by_plugins(container, &record)?;
        }
        demolish(&self.folder.netns(container), &self.names.pair(container))?;
        self.folder.forget(container)?;
        self.held().forget(container);
        Ok(())
    }

    /// Containers of which something is here and which do not run.
    pub fn leftovers(&self, running: &BTreeSet<String>) -> Result<Vec<String>, NetworkError> {
        let (records, mut others) = self.folder.load()?;
        others.extend(records.into_keys());
        others.extend(self.held().records.keys().cloned());
        Ok(others.difference(running).cloned().collect())
    }

    /// Compares everything of running containers with the kernel's state; pairs that are nobody's go.
    pub fn repair(&self, running: &BTreeSet<String>) -> Result<(), NetworkError> {
        let records: BTreeMap<String, Record> = self.held().records.clone();
        let mut outcome = {
            let _turn = self.comparing();
            self.repair_links(&records, running)
        };
        self.table.forget();
        let settled = self.settle();
        if outcome.is_ok() {
            outcome = settled;
        }
        outcome
    }

    fn repair_links(
        &self,
        records: &BTreeMap<String, Record>,
        running: &BTreeSet<String>,
    ) -> Result<(), NetworkError> {
        let failed = || kernel("compare links");
        let mut socket = Socket::route().map_err(failed())?;
        let bridges = [&self.names.bridge, &self.names.overlay];
        let ours = |name: &str, master: Option<&str>| {
            name.starts_with(PAIR)
                && master.is_some_and(|master| bridges.iter().any(|bridge| *bridge == master))
        };
        let names: BTreeMap<String, &String> =
            records.keys().map(|container| (self.names.pair(container), container)).collect();
        let (state, _) =
            route::read(&mut socket, |name, master| names.contains_key(name) || ours(name, master))
                .map_err(failed())?;
        let mut outcome = Ok(());
        for link in state.links.keys().filter(|link| !names.contains_key(*link)) {
            outcome =
                outcome.and(route::remove_link(&mut socket, link).map_err(kernel(format!("remove {link}"))));
        }
        for (link, container) in names {
            let netns = self.folder.netns(container);
            // A container that runs has its namespace: where its file is gone, another one would not help.
            if let Some(record) = records.get(container).filter(|_| running.contains(container))
                && let Some(segment) = self.segment(&record.network)
                && crate::namespace::is_there(&netns)
            {
                let outer = state.links.get(&link).cloned();
                outcome = outcome.and(segment.build(&netns, &link, record.number, |_| Ok(outer)));
            }
        }
        outcome
    }

    /// [`super::Networks::set_peers`].
    pub fn set_peers(&self, peers: &BTreeSet<Peer>) -> Result<(), NetworkError> {
        if self.overlay.is_none() && !peers.is_empty() {
            return Err(NetworkError::Settings(
                "there are nodes of an overlay, and no overlay is set".to_owned(),
            ));
        }
        host::compare(self, Some(peers))
    }

    /// The last part of [`super::Networks::teardown`].
    pub fn remove_all(&self, folder: &Path) -> Result<(), NetworkError> {
        let failed = || kernel("remove links");
        let mut socket = Socket::route().map_err(failed())?;
        let mut outcome = Ok(());
        for link in [&self.names.tunnel, &self.names.overlay, &self.names.bridge] {
            outcome = outcome.and(route::remove_link(&mut socket, link).map_err(failed()));
        }
        outcome = outcome.and(self.table.remove());
        outcome = outcome.and(self.folder.unshare());
        let removed: Result<(), std::io::Error> = match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        outcome.and(removed.map_err(file("remove", folder)))
    }

    /// From now on the table is left alone.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// A container's namespace.
    pub fn netns(&self, container: &str) -> PathBuf {
        self.folder.netns(container)
    }
}

fn unknown(network: &Network) -> NetworkError {
    NetworkError::Unknown { name: format!("{network:?}"), known: "no overlay is set".to_owned() }
}

/// The number of an address in its network.
fn numbered(network: IpNet, address: IpAddr) -> Option<u32> {
    let at = crate::types::number(address).checked_sub(crate::types::number(network.address))?;
    u32::try_from(at).ok().filter(|_| network.contains(address))
}
