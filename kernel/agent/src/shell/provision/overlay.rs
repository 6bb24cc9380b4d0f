//! The overlay as the master gives it: this node's slice, and where the others are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use plenum_api::internal;
use plenum_networks::{Networks, Overlay, Settings};

use super::Provisioner;
use crate::config::Config;

/// What the master said.
#[derive(Debug, Clone, Default)]
pub(super) struct Assigned {
    slice: Option<u32>,
    nodes: BTreeMap<u32, IpAddr>,
    /// All nodes were named at least once: who is not among them is gone.
    named: bool,
}

impl Assigned {
    fn take(&mut self, news: &internal::Overlay) {
        if news.slice.is_some() {
            self.slice = news.slice;
        }
        if news.whole {
            self.nodes.clear();
            self.named = true;
        }
        // An address that makes no sense is nobody's to reach.
        let nodes = news.nodes.iter().filter_map(|node| Some((node.slice, node.address.parse().ok()?)));
        self.nodes.extend(nodes);
        for slice in &news.gone {
            self.nodes.remove(slice);
        }
    }
}

/// This node's part in the overlay as it is said to the master; none where there is no overlay, or it is set by hand.
pub(crate) fn offer(config: &Config) -> Option<internal::OverlayNode> {
    let overlay = config.networks.overlay.as_ref().filter(|overlay| overlay.by_master)?;
    let address = address(overlay, config)?;
    Some(internal::OverlayNode { slices: overlay.slices(), address: address.to_string() })
}

/// The address at which others reach this node: the one that is set, else the agent's own.
fn address(overlay: &Overlay, config: &Config) -> Option<IpAddr> {
    let set = Some(overlay.node).filter(|node| !node.is_unspecified());
    set.or_else(|| config.ip.parse().ok())
}

impl Provisioner {
    /// The master says which slice is ours, or where others are.
    pub fn overlay_news(self: &Arc<Self>, news: &internal::Overlay) {
        self.assigned().take(news);
        let this = Arc::clone(self);
        tokio::spawn(async move { this.follow_overlay().await });
    }

    fn assigned(&self) -> std::sync::MutexGuard<'_, Assigned> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings open networks to what the master said last. Those that nobody needed yet are opened with it.
    async fn follow_overlay(&self) {
        let mut open = self.networks.lock().await;
        if open.is_none() && !self.has_networks() {
            return;
        }
        match self.open_networks(&mut open).await {
            Ok(networks) => self.name_peers(&networks).await,
            Err(error) => tracing::warn!(error, "the networks cannot follow the overlay"),
        }
    }

    /// Opens the networks if they are not, or not with the slice that this node has.
    pub(super) async fn open_networks(
        &self,
        open: &mut Option<(Option<u32>, Arc<Networks>)>,
    ) -> Result<Arc<Networks>, String> {
        let slice = self.assigned().slice;
        let by_master = self.config.networks.overlay.as_ref().is_some_and(|overlay| overlay.by_master);
        let wanted = slice.filter(|_| by_master);
        if let Some((_, networks)) = open.as_ref().filter(|(with, _)| *with == wanted) {
            return Ok(Arc::clone(networks));
        }
        *open = None;
        let networks = Networks::open(self.config.network_folder(), self.network_settings(slice)).await;
        let networks = Arc::new(networks.map_err(|error| error.to_string())?);
        *open = Some((wanted, Arc::clone(&networks)));
        self.name_peers(&networks).await;
        Ok(networks)
    }

    fn network_settings(&self, slice: Option<u32>) -> Settings {
        let mut settings = self.config.networks.clone();
        if settings.dns.is_empty() {
            settings.dns = self.config.dns.iter().filter_map(|server| server.parse().ok()).collect();
        }
        if let Some(overlay) = settings.overlay.take() {
            let node = address(&overlay, &self.config).unwrap_or(overlay.node);
            settings.overlay = match slice {
                Some(slice) if overlay.by_master => {
                    Some(Overlay { slice, node, peers: Vec::new(), ..overlay })
                }
                // Until the master has said which slice is ours there is none.
                None if overlay.by_master => None,
                _ => Some(Overlay { node, ..overlay }),
            };
        }
        settings
    }

    async fn name_peers(&self, networks: &Networks) {
        let assigned = self.assigned().clone();
        let Some(overlay) = networks.overlay().filter(|overlay| overlay.by_master && assigned.named) else {
            return;
        };
        let peers = assigned.nodes.iter().filter_map(|(slice, node)| overlay.peer(*slice, *node)).collect();
        if let Err(error) = networks.set_peers(peers).await {
            tracing::warn!(%error, "the ways to other nodes of the overlay are not as they should be");
        }
    }

    /// Why a network of this name is not there yet, if it is the overlay.
    pub(super) fn why_no_overlay(&self, name: &str) -> Option<String> {
        let overlay = self.config.networks.overlay.as_ref()?;
        (overlay.by_master && overlay.name == name && self.assigned().slice.is_none()).then(|| {
            format!("the master has given this node no slice of the network {name}: its range is full, or the master is an older one")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_add_up() {
        let node = |slice, address: &str| internal::overlay::Node { slice, address: address.to_owned() };
        let mut assigned = Assigned::default();
        assigned.take(&internal::Overlay { slice: Some(4), ..Default::default() });
        assert!(!assigned.named, "of a restart only the slice is known");
        let nodes = vec![node(1, "10.0.0.1"), node(2, "fd00::2"), node(3, "nonsense")];
        assigned.take(&internal::Overlay { slice: Some(4), whole: true, nodes, ..Default::default() });
        assigned.take(&internal::Overlay {
            nodes: vec![node(5, "10.0.0.5")],
            gone: vec![1],
            ..Default::default()
        });
        let known: Vec<String> =
            assigned.nodes.iter().map(|(slice, node)| format!("{slice} {node}")).collect();
        assert_eq!((assigned.slice, known.join(", ").as_str()), (Some(4), "2 fd00::2, 5 10.0.0.5"));
    }
}
