//! The shell: makes and removes what a container on the bridge has, in this order: record, address, namespace, interfaces, mappings.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex as Lock, PoisonError};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::addresses::Pool;
use crate::ports::{self, Mappings, Place};
use crate::tool::run;
use crate::{Attached, IpNet, Network, NetworkError, Port, Settings, Wish, check_id, leftovers, namespace};

/// Changes of nftables are collected this long.
const COLLECT: Duration = Duration::from_millis(10);

/// What is written down before anything is made.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    ports: Vec<Port>,
}

/// The networks of one instance on this machine. Calls for one container are made one after the other; those for different ones may overlap.
#[derive(Debug)]
pub struct Networks {
    folder: PathBuf,
    settings: Settings,
    place: Place,
    pool: Pool,
    /// Held while an address is looked for.
    taking: Lock<()>,
    wanted: Lock<Mappings>,
    /// What the kernel's table has; `None` when it must be made anew.
    kernel: Mutex<Option<Mappings>>,
}

fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |reason| NetworkError::File { step, path, reason }
}

impl Networks {
    /// Opens the folder (on a file system that is emptied at boot) and makes the bridge. Call [`Networks::adopt`] next.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn open(folder: PathBuf, settings: Settings) -> Result<Self, NetworkError> {
        check(&settings)?;
        for part in ["containers", "addresses", "netns"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(file("create", &path))?;
        }
        let place = Place {
            table: settings.table.clone(),
            bridge: settings.bridge.clone(),
            network: settings.network,
            bits: settings.bits,
        };
        let pool = Pool::new(folder.join("addresses"), settings.network, settings.bits);
        let (bridge, bits) = (&settings.bridge, settings.bits);
        let made = if if_nametoindex(bridge.as_str()).is_ok() {
            String::new()
        } else {
            format!("link add {bridge} type bridge\n")
        };
        let own = gateway(&settings);
        run(
            "ip",
            &["-batch", "-"],
            &format!("{made}addr replace {own}/{bits} dev {bridge}\nlink set {bridge} up\n"),
        )
        .await?;
        for path in ["ip_forward".to_owned(), format!("conf/{bridge}/route_localnet")] {
            let path = Path::new("/proc/sys/net/ipv4").join(path);
            fs::write(&path, "1").map_err(file("write", &path))?;
        }
        let (taking, wanted, kernel) = (Lock::new(()), Lock::default(), Mutex::new(None));
        Ok(Self { folder, settings, place, pool, taking, wanted, kernel })
    }

    fn record(&self, container: &str) -> PathBuf {
        self.folder.join("containers").join(container)
    }

    fn netns(&self, container: &str) -> PathBuf {
        self.folder.join("netns").join(container)
    }

    /// Gives a container its network. Done again for the same container, it makes what is missing.
    ///
    /// # Errors
    /// [`NetworkError`]; what was made is removed by [`Networks::detach`].
    pub async fn attach(&self, container: &str, wish: &Wish) -> Result<Attached, NetworkError> {
        check_id(container)?;
        match wish.network {
            Network::Bridge => {}
            Network::Overlay(_) => return Err(NetworkError::Unsupported("overlay")),
            Network::Cni(_) => return Err(NetworkError::Unsupported("CNI")),
        }
        let address = self.reserve(container, &wish.ports)?;
        let netns = self.netns(container);
        namespace::make(&netns).map_err(file("make the namespace", &netns))?;
        self.link(container, address, &netns).await?;
        self.settle().await?;
        Ok(Attached {
            name: "bridge".to_owned(),
            netns,
            addresses: vec![IpNet { address: address.into(), bits: self.settings.bits }],
            gateway: Some(gateway(&self.settings).into()),
            dns: self.settings.dns.clone(),
            ports: wish.ports.clone(),
        })
    }

    /// Writes the intent down and takes address and ports.
    fn reserve(&self, container: &str, wish: &[Port]) -> Result<Ipv4Addr, NetworkError> {
        let _turn = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(port) = ports::conflict(&wanted, container, wish) {
            return Err(NetworkError::Port { port: port.host, protocol: port.protocol.as_str() });
        }
        let path = self.record(container);
        let temporary = path.with_file_name(format!(".{container}"));
        let text = serde_json::to_vec(&Record { ports: wish.to_vec() }).map_err(io::Error::from);
        text.and_then(|text| fs::write(&temporary, text))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(file("write", &path))?;
        let full = || NetworkError::Full { network: self.settings.network, bits: self.settings.bits };
        let taken = self.pool.take(container).map_err(file("take an address in", &self.folder))?;
        let address = taken.ok_or_else(full)?;
        *wanted = ports::with(&wanted, container, address, wish);
        Ok(address)
    }

    async fn link(&self, container: &str, address: Ipv4Addr, netns: &Path) -> Result<(), NetworkError> {
        let (name, bridge, path) =
            (interface(&self.settings.bridge, container), &self.settings.bridge, netns.display());
        if if_nametoindex(name.as_str()).is_err() {
            let made = format!("link add {name} type veth peer name eth0 netns {path}\n");
            run("ip", &["-batch", "-"], &made).await?;
        }
        // Where br_netfilter is loaded, a container that calls its own mapped port is sent back through the same interface.
        // Where br_netfilter is loaded, a container that calls its own mapped port is sent back through the same interface.
        run(
            "ip",
            &["-batch", "-"],
            &format!("link set {name} master {bridge} up\nlink set {name} type bridge_slave hairpin on\n"),
        )
        .await?;
        let (own, bits) = (gateway(&self.settings), self.settings.bits);
        let inside = format!(
            "link set lo up\naddr replace {address}/{bits} dev eth0\nlink set eth0 up\nroute replace default via {own}\n"
        );
        run("nsenter", &[&format!("--net={path}"), "ip", "-batch", "-"], &inside).await
    }

    /// Takes everything away that a container has. What is not there is no error.
    ///
    /// # Errors
    /// [`NetworkError`]; it is done again then.
    pub async fn detach(&self, container: &str) -> Result<(), NetworkError> {
        check_id(container)?;
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, to| to.container != container);
        self.settle().await?;
        let name = interface(&self.settings.bridge, container);
        if if_nametoindex(name.as_str()).is_ok() {
            run("ip", &["-batch", "-"], &format!("link del {name}\n")).await?;
        }
        let netns = self.netns(container);
        namespace::remove(&netns).map_err(file("remove the namespace", &netns))?;
        self.pool.free(container).map_err(file("free the address in", &self.folder))?;
        let path = self.record(container);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// At start: keeps what running containers have, removes the rest, and makes the kernel's table anew.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn adopt(&self, running: &BTreeSet<String>) -> Result<(), NetworkError> {
        let held = self.pool.held().map_err(file("list", &self.folder))?;
        let mut known: BTreeSet<String> = held.iter().map(|(_, who)| who.clone()).collect();
        for part in ["containers", "netns"] {
            let path = self.folder.join(part);
            for entry in fs::read_dir(&path).map_err(file("list", &path))?.flatten() {
                // A temporary file begins with a dot and is written over.
                known.extend(
                    entry.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned),
                );
            }
        }
        {
            let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            for (address, who) in held.iter().filter(|(_, who)| running.contains(who)) {
                let text = fs::read(self.record(who)).unwrap_or_default();
                if let Ok(record) = serde_json::from_slice::<Record>(&text) {
                    *wanted = ports::with(&wanted, who, *address, &record.ports);
                }
            }
        }
        for container in leftovers(&known, running) {
            self.detach(container).await?;
        }
        *self.kernel.lock().await = None;
        self.settle().await
    }

    /// Brings the kernel's table to what is wanted. Whoever waits for the lock finds its change done by the one before.
    async fn settle(&self) -> Result<(), NetworkError> {
        let snapshot = || self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut kernel = self.kernel.lock().await;
        if kernel.as_ref() == Some(&snapshot()) {
            return Ok(());
        }
        tokio::time::sleep(COLLECT).await;
        let goal = snapshot();
        // Unknown until it has worked, also when this call is dropped.
        if let Some(before) = kernel.take() {
            let done = match ports::change(&self.place, &before, &goal) {
                Some(script) => run("nft", &["-f", "-"], &script).await,
                None => Ok(()),
            };
            if done.is_ok() {
                *kernel = Some(goal);
                return Ok(());
            }
        }
        run("nft", &["-f", "-"], &ports::whole(&self.place, &goal)).await?;
        *kernel = Some(goal);
        Ok(())
    }
}

fn gateway(settings: &Settings) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(settings.network).saturating_add(1))
}

/// The host's end of a container's pair: 15 characters at most, so a hash (FNV-1a) of bridge and container.
fn interface(bridge: &str, container: &str) -> String {
    let bytes = bridge.bytes().chain([0]).chain(container.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("pv{:012x}", hash >> 16)
}

fn check(settings: &Settings) -> Result<(), NetworkError> {
    let plain = |text: &str, most: usize| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.len() <= most
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !plain(&settings.bridge, 15) {
        return Err(NetworkError::Settings("bridge: use up to 15 letters, digits and _"));
    }
    if !plain(&settings.table, 64) {
        return Err(NetworkError::Settings("table: use up to 64 letters, digits and _"));
    }
    if !(8..=30).contains(&settings.bits) {
        return Err(NetworkError::Settings("bits: use 8 to 30"));
    }
    if u32::from(settings.network).trailing_zeros() < 32 - u32::from(settings.bits) {
        return Err(NetworkError::Settings("network: it has bits set behind its prefix"));
    }
    Ok(())
}
