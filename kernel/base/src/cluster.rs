//! Who the masters are (`docs/adr/0014`): the cluster's map, and the handle by which a role follows it. Identity decides about the map and
//! publishes it in the policy snapshot; the authenticator reads that; nobody keeps a list of masters beside it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::auth::Authenticator;
use crate::places::Role;

/// The masters of a cluster, as identity publishes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Grows with each change.
    pub number: u64,
    /// Every master, also one that is leaving.
    pub masters: Vec<MasterNode>,
    /// The names of masters that are being taken out: nothing new begins there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
}

/// One master.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MasterNode {
    /// The host's name, as in its certificates.
    pub name: String,
    /// Its address, at which every role of control listens.
    pub address: IpAddr,
}

impl ClusterMap {
    /// The addresses in the order in which to try them: those that stay, then those that leave.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let of = |leaving: bool| {
            let chosen = self.masters.iter().filter(move |node| self.leaving.contains(&node.name) == leaving);
            chosen.map(|node| node.address)
        };
        of(false).chain(of(true)).collect()
    }

    /// The master of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&MasterNode> {
        self.masters.iter().find(|node| node.name == name)
    }
}

/// Follows the masters: the map of the newest policy snapshot, else the addresses that the host starts with, else none, which is a single
/// machine. Clones follow the same.
#[derive(Debug, Clone)]
pub struct Masters {
    map: watch::Receiver<Option<Arc<ClusterMap>>>,
    start: Arc<[IpAddr]>,
    own: Option<IpAddr>,
}

impl Masters {
    /// Follows the snapshots that `authenticator` reads. `start` holds until one has a map; the master at `own` is tried first.
    #[must_use]
    pub fn follow(authenticator: &Authenticator, start: &[IpAddr], own: Option<IpAddr>) -> Self {
        Self { map: authenticator.cluster(), start: start.into(), own }
    }

    /// Always the same masters: tools, tests.
    #[must_use]
    pub fn fixed(masters: &[IpAddr]) -> Self {
        Self { map: watch::channel(None).1, start: masters.into(), own: None }
    }

    /// Follows maps from elsewhere: tests.
    #[must_use]
    pub fn from_watch(map: watch::Receiver<Option<Arc<ClusterMap>>>) -> Self {
        Self { map, start: Arc::default(), own: None }
    }

    /// The masters' addresses in the order in which to try them; empty on a single machine.
    #[must_use]
    pub fn list(&self) -> Vec<IpAddr> {
        let map = self.map.borrow().clone();
        let mut list = match map {
            Some(map) if !map.masters.is_empty() => map.addresses(),
            _ => self.start.to_vec(),
        };
        if let Some(place) = list.iter().position(|address| Some(*address) == self.own)
            && let Some(before) = list.get_mut(..=place)
        {
            before.rotate_right(1);
        }
        list
    }

    /// The newest map; `None` on a single machine and before the first snapshot of a fleet.
    #[must_use]
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.map.borrow().clone()
    }

    /// Whether this is a fleet.
    #[must_use]
    pub fn is_fleet(&self) -> bool {
        !self.list().is_empty()
    }

    /// The base URLs of `role` on every master, without a slash at the end; empty on a single machine.
    #[must_use]
    pub fn urls(&self, role: Role) -> Vec<String> {
        let port = if role == Role::Gateway { 443 } else { role.port() };
        self.sockets(port).into_iter().map(|socket| format!("https://{socket}")).collect()
    }

    /// `urls(role)` in a fleet, `configured` on a single machine.
    #[must_use]
    pub fn or(&self, role: Role, configured: &[String]) -> Vec<String> {
        let urls = self.urls(role);
        if urls.is_empty() { configured.to_vec() } else { urls }
    }

    /// `port` of every master.
    #[must_use]
    pub fn sockets(&self, port: u16) -> Vec<SocketAddr> {
        self.list().into_iter().map(|address| SocketAddr::new(address, port)).collect()
    }

    /// The base URLs of `role`, followed for as long as the receiver is held: for a store that keeps connections.
    #[must_use]
    pub fn follow_urls(&self, role: Role) -> watch::Receiver<Vec<String>> {
        let mut masters = self.clone();
        let (to, urls) = watch::channel(masters.urls(role));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = masters.changed() => {}
                    () = to.closed() => return,
                }
                let now = masters.urls(role);
                to.send_if_modified(|urls| {
                    *urls != now && {
                        *urls = now;
                        true
                    }
                });
            }
        });
        urls
    }

    /// Waits for the next map after the one last waited for (a fresh clone may return at once). Never returns where none can come.
    pub async fn changed(&mut self) {
        if self.map.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(number: u64, masters: &[(&str, &str)], leaving: &[&str]) -> Arc<ClusterMap> {
        let node = |(name, address): &(&str, &str)| MasterNode {
            name: (*name).into(),
            address: address.parse().unwrap(),
        };
        let leaving = leaving.iter().map(|name| (*name).to_owned()).collect();
        Arc::new(ClusterMap { number, masters: masters.iter().map(node).collect(), leaving })
    }

    #[tokio::test]
    async fn the_map_comes_before_the_settings_and_they_before_a_single_machine() {
        let configured = ["https://127.88.0.1:5050".to_owned()];
        let single = Masters::fixed(&[]);
        assert!(!single.is_fleet());
        assert_eq!(single.or(Role::Master, &configured), configured);

        let (sender, receiver) = watch::channel(None);
        let start: Arc<[IpAddr]> = Arc::new(["10.0.0.9".parse().unwrap()]);
        let mut masters = Masters { map: receiver, start, own: Some("10.0.0.3".parse().unwrap()) };
        assert_eq!(masters.urls(Role::Etcd), ["https://10.0.0.9:2379"]);
        sender.send_replace(Some(map(1, &[("a", "10.0.0.1"), ("b", "fd00::2"), ("c", "10.0.0.3")], &["a"])));
        masters.changed().await;
        let expected = ["https://10.0.0.3:5050", "https://[fd00::2]:5050", "https://10.0.0.1:5050"];
        assert_eq!(masters.or(Role::Master, &configured), expected, "own first, leaving last");
        assert_eq!(masters.urls(Role::Gateway)[0], "https://10.0.0.3:443");
        assert_eq!(masters.sockets(5055)[1].to_string(), "[fd00::2]:5055");
        drop(sender);
        assert_eq!(masters.list().len(), 3);
        let ended = tokio::time::timeout(std::time::Duration::from_millis(20), masters.changed()).await;
        assert!(ended.is_err(), "nothing comes any more, and that is no change");
    }

    #[test]
    fn maps_read_what_they_write() {
        let written = serde_json::to_string(&*map(4, &[("a", "10.0.0.1")], &[])).unwrap();
        assert_eq!(written, r#"{"number":4,"masters":[{"name":"a","address":"10.0.0.1"}]}"#);
        assert_eq!(serde_json::from_str::<ClusterMap>(&written).unwrap(), *map(4, &[("a", "10.0.0.1")], &[]));
        let only_leaving = map(1, &[("a", "10.0.0.1")], &["a"]);
        assert_eq!(only_leaving.addresses().len(), 1);
        assert!(only_leaving.find("a").is_some() && only_leaving.find("b").is_none());
    }
}
