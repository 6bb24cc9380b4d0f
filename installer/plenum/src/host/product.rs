//! What `plenum-host` needs of the roles: their settings, the cluster's beginning, the move of state to etcd, their network.

use std::future::Future;

use plenum_base::places::Role;
use plenum_host::{Host, Product};

use crate::roles;

/// The roles of this program.
#[derive(Debug, Clone, Copy)]
pub struct Roles;

fn wait<T>(work: impl Future<Output = T>) -> Result<T, String> {
    plenum_base::service::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    Ok(runtime.map_err(|error| error.to_string())?.block_on(work))
}

impl Product for Roles {
    fn settings(&self, host: &Host, role: Role) -> Result<String, String> {
        roles::fleet::settings(host, role)
    }

    fn bootstrap(&self, host: &Host, user: &str, password: &str) -> Result<(), String> {
        let _ = (host, user, password);
        Err("this release has no fleets".to_owned())
    }

    fn has_embedded(&self, host: &Host) -> bool {
        let _ = host;
        false
    }

    fn carry_over(&self, host: &Host) -> Result<(), String> {
        let _ = host;
        Err("this release has no etcd".to_owned())
    }

    fn remove_network(&self, host: &Host) -> Result<(), String> {
        let text = roles::fleet::settings(host, Role::Balancer)?;
        let config: plenum_balancer::Config = toml::from_str(&text).map_err(|error| error.to_string())?;
        let tools = plenum_balancer::Tools { nft: config.nft, ip: config.ip };
        wait(plenum_balancer::purge(&tools, &config.table, config.range))?.map_err(|error| error.to_string())
    }
}
