//! How a host comes into its cluster: the first one makes it, others join with a token; and what hosts that come by themselves will be told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use plenum_base::client::Client;
use plenum_base::places::Role;
use plenum_base::tls::join::{self, Joined, NodeRequest};
use plenum_base::tls::{Expect, Identity};
use plenum_plan::spec::{Entry, Shared};

use crate::events::{HostError, Report};
use crate::files;
use crate::layout::Host;
use crate::product::Product;

const PATIENCE: Duration = Duration::from_secs(60);

/// The host's roles that have no certificate yet.
fn missing(host: &Host) -> Vec<Role> {
    let places = host.places();
    host.roles().into_iter().filter(|role| !places.identity(*role).cert.exists()).collect()
}

/// Whether the way in is open, before anything is changed.
///
/// # Errors
/// [`HostError::Spec`] for a member that is none.
pub fn check(host: &Host, entry: &Entry) -> Result<(), HostError> {
    let missing = missing(host);
    if !matches!(entry, Entry::Member) || missing.is_empty() {
        return Ok(());
    }
    let roles: Vec<&str> = missing.iter().map(|role| role.as_str()).collect();
    Err(HostError::Spec(format!(
        "the host has no certificates for {} and no way to get them: it needs a join token",
        roles.join(", ")
    )))
}

fn wait<T>(work: impl Future<Output = T>) -> Result<T, HostError> {
    plenum_base::service::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| HostError::System(error.to_string()))?;
    Ok(runtime.block_on(work))
}

/// Makes or fetches what is missing; `begun`: the cluster was made here before. True: something was.
///
/// # Errors
/// [`HostError::Bootstrap`], [`HostError::Join`].
pub fn enter(
    host: &Host,
    entry: &Entry,
    begun: bool,
    product: &dyn Product,
    report: &mut Report<'_>,
) -> Result<bool, HostError> {
    let missing = missing(host);
    match entry {
        Entry::Bootstrap { user, password } if !begun => {
            report.step("authority, certificates and the first account");
            product.bootstrap(host, user, password).map_err(HostError::Bootstrap)?;
            Ok(true)
        }
        Entry::Join { at, token } if !missing.is_empty() => {
            report.step("joining the cluster");
            let urls: Vec<String> = at
                .iter()
                .map(|address| format!("https://{}", SocketAddr::new(*address, Role::Identity.port())))
                .collect();
            join_with(host, &urls, token, &missing)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn join_with(host: &Host, urls: &[String], token: &str, roles: &[Role]) -> Result<(), HostError> {
    let refused = |error: join::JoinError| HostError::Join(error.to_string());
    let places = host.places();
    let requests = join::prepare(&places, roles).map_err(refused)?;
    let request = NodeRequest {
        name: host.spec.name.clone(),
        address: host.spec.address,
        names: Vec::new(),
        csrs: requests.iter().map(|(role, request)| (*role, request.csr.clone())).collect(),
    };
    let joined = ask(urls, token, &request)?;
    if joined.instance != host.spec.instance.as_str() {
        let text = format!("the masters' cluster is {}, not {}", joined.instance, host.spec.instance);
        return Err(HostError::Join(text));
    }
    join::install(&places, &joined, &requests).map_err(refused)
}

/// Asks masters in turn; one that does not answer at all is asked again for a while, as it may be starting.
///
/// # Errors
/// [`HostError::Join`].
pub fn ask(urls: &[String], token: &str, request: &NodeRequest) -> Result<Joined, HostError> {
    let asked = wait(async {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            match join::join_node(urls, token, request).await {
                Err(join::JoinError::Client(error))
                    if error.status().is_none_or(|status| status.is_server_error())
                        && !is_stranger(&error)
                        && tokio::time::Instant::now() < end =>
                {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                outcome => return outcome,
            }
        }
    })?;
    asked.map_err(|error| match error {
        join::JoinError::Client(error) if is_stranger(&error) => HostError::Join(format!(
            "who answers there does not belong to the cluster that the token is of, and was told nothing of it; check the address and the token ({error})"
        )),
        error => HostError::Join(error.to_string()),
    })
}

/// Whether another authority's certificate was shown: waiting would not change that.
fn is_stranger(error: &plenum_base::client::ClientError) -> bool {
    error.to_string().contains("UnknownIssuer")
}

/// Gives every role its copy of the CA's certificate; those that renewed theirs since keep it.
///
/// # Errors
/// [`HostError::Files`].
pub fn copy_ca(host: &Host) -> Result<(), HostError> {
    let from = host.places().ca();
    let ca = std::fs::read_to_string(&from).map_err(HostError::at(&from))?;
    for role in host.roles() {
        let to: PathBuf = host.ca(role);
        if !to.exists() {
            plenum_base::files::replace(&to, ca.as_bytes(), 0o644).map_err(HostError::at(&to))?;
        }
    }
    Ok(())
}

/// Puts the shared settings where identity has others. True: they were.
///
/// # Errors
/// [`HostError::Store`].
pub fn share(host: &Host) -> Result<bool, HostError> {
    let failed = |error: &dyn std::fmt::Display| HostError::Store(format!("the shared settings: {error}"));
    let files = host.places().identity(Role::Identity);
    let shared = host.spec.shared.clone();
    let url = format!("https://{}/internal/v1/settings", host.listen(Role::Identity));
    wait(async {
        let identity = Identity::load(&files).map_err(|error| failed(&error))?;
        let client = Client::with_identity(&identity, Expect::Role("identity".to_owned()))
            .map_err(|error| failed(&error))?;
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            match share_once(&client, &url, &shared).await {
                Ok(changed) => return Ok(changed),
                Err(error) if tokio::time::Instant::now() >= end => return Err(failed(&error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    })?
}

async fn share_once(
    client: &Client,
    url: &str,
    shared: &Shared,
) -> Result<bool, plenum_base::client::ClientError> {
    let deadline = Duration::from_secs(10);
    let there: serde_json::Value =
        client.get(url).deadline(deadline).send().await?.success().await?.json().await?;
    // What a later release put there and this one does not know must not be taken away by reading and writing it.
    let known = serde_json::from_value::<Shared>(there).ok();
    if known.as_ref() == Some(shared) {
        return Ok(false);
    }
    client.put(url).deadline(deadline).json(shared).send().await?.success().await?;
    Ok(true)
}

/// Keys by role, for those who join without a spec yet.
#[must_use]
pub fn nothing_asked(name: &str, address: std::net::IpAddr) -> NodeRequest {
    NodeRequest { name: name.to_owned(), address, names: Vec::new(), csrs: BTreeMap::new() }
}

/// Whether the host has its certificates.
#[must_use]
pub fn is_member(host: &Host) -> bool {
    missing(host).is_empty() && files::user(crate::names::USER).is_some()
}
