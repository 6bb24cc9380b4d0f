//! Bridges, tunnel and switches of the host, compared with the settings.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::netlink::route;
use crate::netlink::socket::Socket;
use crate::overlay::{self, bridge};
use crate::settings::{Names, Overlay, Peer, Settings, choose};
use crate::state::{State, decide};
use crate::types::{IpNet, NetworkError, file, kernel};

use super::inner::Inner;

/// The bridge's network, and the overlay's MTU.
pub(super) fn surroundings(settings: &Settings, names: &Names) -> Result<(IpNet, Option<u32>), NetworkError> {
    let failed = || kernel("list links");
    let mut socket = Socket::route().map_err(failed())?;
    let network = match settings.network {
        Some(network) => network,
        None => {
            let (state, others) =
                route::read(&mut socket, |name, _| *name == names.bridge).map_err(failed())?;
            let has = state.links.values().flat_map(|link| &link.addresses);
            let own = has.copied().find(|net| net.address.is_ipv4());
            let full = "network: every network that is usually taken (172.31.<n>.0/22) is in use; set one";
            choose(own, &others).ok_or_else(|| NetworkError::Settings(full.to_owned()))?
        }
    };
    let mtu = match &settings.overlay {
        Some(overlay) => {
            let outside = route::mtu_of(&mut socket, overlay.node).map_err(failed())?;
            Some(overlay::mtu(overlay, outside))
        }
        None => None,
    };
    Ok((network, mtu))
}

/// Brings bridges, tunnel and the kernel's switches to what the settings say.
pub(super) fn open(inner: &Inner) -> Result<(), NetworkError> {
    let named = inner.settings.overlay.as_ref().and_then(Overlay::named);
    compare(inner, named.as_ref())?;
    switch(inner)
}

/// Brings bridges and tunnel to what is wanted. Without peers, those that are known to the kernel stay.
pub(super) fn compare(inner: &Inner, peers: Option<&BTreeSet<Peer>>) -> Result<(), NetworkError> {
    let _turn = inner.comparing();
    let (names, settings) = (&inner.names, &inner.settings);
    let mut wanted = State::default();
    let link = bridge(&inner.bridge.network, inner.bridge.network6.as_ref());
    wanted.links.insert(names.bridge.clone(), link);
    if let Some((overlay, segment)) = settings.overlay.as_ref().zip(inner.overlay.as_ref()) {
        let own = overlay::own(names, overlay, segment.mtu.unwrap_or_default());
        wanted.links.extend(own.links);
        if let Some(peers) = peers {
            wanted = overlay::with_peers(wanted, names, overlay, peers);
        }
    }
    let failed = || kernel("compare bridges");
    let mut socket = Socket::route().map_err(failed())?;
    let ours = |name: &str, _: Option<&str>| {
        [&names.bridge, &names.overlay, &names.tunnel].iter().any(|own| *own == name)
    };
    let (found, _) = route::read(&mut socket, ours).map_err(failed())?;
    if peers.is_none() && settings.overlay.is_some() {
        wanted.routes.clone_from(&found.routes);
        wanted.neighbours.clone_from(&found.neighbours);
        wanted.forwards.clone_from(&found.forwards);
    }
    route::apply(&mut socket, &decide(&wanted, &found)).map_err(failed())
}

/// The kernel forwards packets between links, lets loopback addresses be mapped, and believes no containers that say they are routers.
fn switch(inner: &Inner) -> Result<(), NetworkError> {
    let (four, six) = (Path::new("/proc/sys/net/ipv4"), Path::new("/proc/sys/net/ipv6/conf"));
    let mut switches = vec![(four.join("ip_forward"), "1")];
    let mut ours = vec![inner.names.bridge.clone()];
    if inner.overlay.is_some() {
        ours.extend([inner.names.overlay.clone(), inner.names.tunnel.clone()]);
    }
    for link in &ours {
        if *link != inner.names.tunnel {
            switches.push((four.join("conf").join(link).join("route_localnet"), "1"));
        }
        if six.exists() {
            switches.push((six.join(link).join("accept_ra"), "0"));
        }
    }
    let forwarding = six.join("all/forwarding");
    let segments = std::iter::once(&inner.bridge).chain(&inner.overlay);
    if segments.into_iter().any(|segment| segment.network6.is_some()) && !is(&forwarding, "1") {
        keep_advertised(six, &ours).map_err(file("write below", six))?;
        switches.push((forwarding, "1"));
    }
    for (path, value) in switches {
        if !is(&path, value) {
            fs::write(&path, value).map_err(file("write", &path))?;
        }
    }
    Ok(())
}

fn is(path: &Path, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}

/// A machine that forwards ignores what routers advertise, unless it is told not to: a machine that has its own address from there would lose it.
fn keep_advertised(folder: &Path, but: &[String]) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path().join("accept_ra");
        if !but.iter().any(|name| entry.file_name() == name.as_str()) && is(&path, "1") {
            fs::write(&path, "2")?;
        }
    }
    Ok(())
}
