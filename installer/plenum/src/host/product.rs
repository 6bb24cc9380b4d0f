//! What `plenum-host` needs of the roles: their settings, the cluster's beginning, the move of state to etcd, their network.

use std::future::Future;

use plenum_base::client::Client;
use plenum_base::places::Role;
use plenum_base::tls::{Expect, Identity};
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

/// How long a call to etcd may take.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// Roles that keep records.
const WITH_STORE: [Role; 4] = [Role::Identity, Role::Master, Role::Services, Role::Catalog];

/// Identity's settings as they are on this host.
fn identity(host: &Host) -> Result<plenum_identity::Config, String> {
    let text = roles::fleet::settings(host, Role::Identity)?;
    toml::from_str(&text).map_err(|error| error.to_string())
}

/// The host's own member, which runs, or the etcd that the operator has.
async fn etcd(host: &Host, settings: &plenum_store::StoreSettings) -> Result<plenum_store::Etcd, String> {
    if host.has_external_store() {
        let own = host.places().identity(Role::Identity);
        let options = settings.clone().files_or(&own.ca, &own.cert, &own.key).options();
        let options =
            plenum_store::EtcdOptions { deadline: DEADLINE, ..options.map_err(|error| error.to_string())? };
        let connected = plenum_store::Etcd::connect(options).await;
        let told = |error| format!("store.endpoints, {}: {error}", settings.endpoints.join(", "));
        return connected.map_err(told);
    }
    let files = host.places().identity(Role::Etcd);
    let read =
        |path: &std::path::Path| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let tls = plenum_store::EtcdTls {
        ca: read(&files.ca)?,
        cert: read(&files.cert)?,
        key: read(&files.key)?,
        server_name: None,
    };
    let url = format!("https://{}", std::net::SocketAddr::new(host.spec.address, Role::Etcd.port()));
    let options = plenum_store::EtcdOptions {
        tls: Some(tls),
        deadline: DEADLINE,
        ..plenum_store::EtcdOptions::new([url])
    };
    plenum_store::Etcd::connect(options).await.map_err(|error| error.to_string())
}

impl Product for Roles {
    fn settings(&self, host: &Host, role: Role) -> Result<String, String> {
        roles::fleet::settings(host, role)
    }

    fn bootstrap(&self, host: &Host, user: &str, password: &str) -> Result<(), String> {
        let config = identity(host)?;
        let settings = serde_json::to_value(&host.spec.shared).map_err(|error| error.to_string())?;
        let password = Some(password.to_owned()).filter(|password| !password.is_empty());
        let first = plenum_identity::First { uid: user.to_owned(), password, settings };
        let made = wait(plenum_identity::bootstrap_fleet(&config, &first))?;
        made.map(drop).map_err(|error| error.to_string())
    }

    fn has_embedded(&self, host: &Host) -> bool {
        let places = host.places();
        WITH_STORE.into_iter().any(|role| {
            let file = places.store(role);
            file.exists() && !plenum_store::moved::marker(&file).exists()
        })
    }

    fn carry_over(&self, host: &Host) -> Result<(), String> {
        let config = identity(host)?;
        wait(async {
            let etcd = etcd(host, &config.store).await?;
            // Identity's own first: it knows its records, and marks them as whole.
            plenum_identity::carry_over(&config).await.map_err(|error| error.to_string())?;
            let moved = plenum_etcd::move_store(&host.places(), &etcd, plenum_etcd::Target::Etcd).await;
            moved.map(drop).map_err(|error| error.to_string())
        })?
    }

    fn votes(&self, host: &Host) -> Result<Option<String>, String> {
        let url = format!("https://{}/v1/status", host.listen(Role::Etcd));
        let files = host.places().identity(Role::Identity);
        let asked = wait(async {
            let identity = Identity::load(&files).map_err(|error| error.to_string())?;
            let client = Client::with_identity(&identity, Expect::Role(Role::Etcd.as_str().to_owned()))
                .map_err(|error| error.to_string())?;
            let reply =
                client.get(&url).deadline(DEADLINE).send().await.map_err(|error| error.to_string())?;
            let reply = reply.success().await.map_err(|error| error.to_string())?;
            reply.json::<plenum_etcd::Status>().await.map_err(|error| error.to_string())
        })?;
        let status = asked?;
        let votes = status.phase == plenum_etcd::Phase::Running;
        Ok((!votes).then(|| format!("{:?} {}", status.phase, status.doing)))
    }

    fn remove_network(&self, host: &Host) -> Result<(), String> {
        let text = roles::fleet::settings(host, Role::Balancer)?;
        let config: plenum_balancer::Config = toml::from_str(&text).map_err(|error| error.to_string())?;
        let tools = plenum_balancer::Tools { nft: config.nft, ip: config.ip };
        let purged = wait(plenum_balancer::purge(&tools, &config.table, config.range))?;
        let text = roles::fleet::settings(host, Role::Agent)?;
        let agent: roles::AgentFile = toml::from_str(&text).map_err(|error| error.to_string())?;
        wait(roles::remove_networks(&agent))?
            .map_err(|error| format!("networks of containers: {error:#}"))?;
        purged.map_err(|error| error.to_string())
    }
}
