//! A container's network: one of the agent's, joined by its namespace; a pod's containers share one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use plenum_api::mesos::network_info::{IpAddress, PortMapping};
use plenum_api::mesos::{Label, Labels, NetworkInfo, network_info};
use plenum_containers::{ContainerSpec, Network};
use plenum_networks::{Attached, Network as Kind, Networks, Protocol, Wish};

use super::{Failure, Provided, Provisioner, blocking};
use crate::core::{Launch, LaunchStage};
use crate::shell::wanted::Own;

/// Mesos' name of the bridge.
const BRIDGE: &str = "mesos-bridge";

impl Provisioner {
    pub(super) async fn provide_network(
        &self,
        spec: &mut ContainerSpec,
        launch: &Launch,
        own: &Own,
        provided: &mut Provided,
    ) -> Result<(), Failure> {
        // A pod's network is the pod's.
        let holder = launch.pod.as_ref().map_or(&launch.container, |pod| &pod.container);
        let lock = {
            let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(pods.entry(holder.clone()).or_default())
        };
        let attached = {
            let _turn = lock.lock().await;
            let networks = self.networks().await?;
            self.note(holder, |kept| kept.network = true);
            if let Some(why) = own.name.as_deref().and_then(|name| self.why_no_overlay(name)) {
                return Err((LaunchStage::Network, why));
            }
            let network = match &own.name {
                None => Kind::Bridge,
                Some(name) => Kind::Named(name.clone()),
            };
            let wish = Wish { ports: own.ports.clone(), labels: own.labels.clone(), ..Wish::new(network) };
            networks.attach(holder, &wish).await.map_err(|error| (LaunchStage::Network, error.to_string()))?
        };
        spec.network = Network::Join(attached.netns.clone());
        let hostname = spec.hostname.get_or_insert_with(|| holder.clone()).clone();
        let (hosts, resolv) = plenum_networks::host_files(&hostname, &attached, &self.config.dns_search);
        let folder = self.files.join(&launch.container);
        self.note(&launch.container, |kept| kept.files = true);
        let has_servers = !attached.dns.is_empty();
        if spec.has_image() {
            spec.hosts = Some(folder.join("hosts"));
        }
        if has_servers {
            spec.resolv_conf = Some(folder.join("resolv.conf"));
        }
        provided.networks = vec![info(&attached, own)];
        blocking(LaunchStage::Network, move || write(&folder, &hosts, &resolv)).await
    }

    /// The networks, opened when they are first needed.
    pub(super) async fn networks(&self) -> Result<Arc<Networks>, Failure> {
        if !self.privileged {
            let words = "this agent does not run as root, so its containers share the machine's network";
            return Err((LaunchStage::Network, words.to_owned()));
        }
        let mut open = self.networks.lock().await;
        self.open_networks(&mut open).await.map_err(|error| (LaunchStage::Network, error))
    }

    /// Whether an earlier agent, or this one, ever made a network.
    pub(super) fn has_networks(&self) -> bool {
        self.privileged && self.config.network_folder().exists()
    }
}

fn write(folder: &Path, hosts: &str, resolv: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    plenum_base::files::private_dir(folder).map_err(failed)?;
    for (name, text) in [("hosts", hosts), ("resolv.conf", resolv)] {
        std::fs::write(folder.join(name), text).map_err(failed)?;
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(folder.join(name), readable).map_err(failed)?;
    }
    Ok(())
}

/// As Mesos reports it.
fn info(attached: &Attached, own: &Own) -> NetworkInfo {
    let address = |net: &plenum_networks::IpNet| {
        let mut address = IpAddress { ip_address: Some(net.address.to_string()), ..Default::default() };
        address.set_protocol(if net.address.is_ipv4() {
            network_info::Protocol::IPv4
        } else {
            network_info::Protocol::IPv6
        });
        address
    };
    let mapping = |port: &plenum_networks::Port| PortMapping {
        host_port: u32::from(port.host),
        container_port: u32::from(port.container),
        protocol: Some(if port.protocol == Protocol::Tcp { "tcp" } else { "udp" }.to_owned()),
    };
    let labels = |labels: &BTreeMap<String, String>| Labels {
        labels: labels
            .iter()
            .map(|(key, value)| Label { key: key.clone(), value: Some(value.clone()) })
            .collect(),
    };
    NetworkInfo {
        name: Some(own.name.clone().unwrap_or_else(|| BRIDGE.to_owned())),
        ip_addresses: attached.addresses.iter().map(address).collect(),
        port_mappings: attached.ports.iter().map(mapping).collect(),
        labels: (!own.labels.is_empty()).then(|| labels(&own.labels)),
        ..Default::default()
    }
}
