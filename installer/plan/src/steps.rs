//! From a cluster that is wished and the hosts as they are to the steps between: [`plan`]. The same input gives the same bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Host, StoreKind};
use crate::facts::{Facts, Installed};
use crate::findings::{Seen, own_etcd};
use crate::spec::{EtcdProgram, FORMAT, HostSpec, Kind, Shared, Store};

/// What is known beside the file and the hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// The release that is to run.
    pub version: String,
    /// SHA-256 of the etcd that is sent along, in hexadecimal.
    pub etcd: Option<String>,
    /// PEM: the authority of the operator's own etcd.
    pub store_ca: String,
    /// PEM: our certificate there.
    pub store_certificate: String,
}

/// When a step is taken. Those of one stage follow one another on masters, and run side by side elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The master that makes the cluster, or that takes the others along to another store.
    First,
    /// The other masters, one by one.
    Masters,
    /// Agents and public nodes, side by side.
    Hosts,
    /// What has left the file.
    Leaving,
}

/// What is done to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It makes the cluster.
    Bootstrap,
    /// It comes into the cluster.
    Join,
    /// It is told what differs.
    Update,
    /// What should run is started again.
    Repair,
    /// It is taken out of the cluster's map.
    Leave,
}

impl Action {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Join => "join",
            Self::Update => "update",
            Self::Repair => "repair",
            Self::Leave => "leave",
        }
    }
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub stage: Stage,
    /// The host's name.
    pub host: String,
    /// What is done.
    pub what: Action,
    /// Why, a sentence without a full stop.
    pub why: String,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps in their order.
    pub steps: Vec<Step>,
    /// Names of hosts that are as they should be.
    pub unchanged: Vec<String>,
    /// What each host of the file is to be.
    pub specs: BTreeMap<String, HostSpec>,
    /// Worth knowing.
    pub notes: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Some host could not be asked.
    #[error("{0} could not be asked, and a plan needs to know every host: {1}")]
    Unknown(String, String),
    /// Hosts of another cluster of the same name.
    #[error(
        "{one} and {other} belong to two different clusters, both named {name}; take one of them out of the file, or remove its cluster first \
         with `plenum host remove` there"
    )]
    Strangers {
        /// A host.
        one: String,
        /// Another.
        other: String,
        /// The name of both clusters.
        name: String,
    },
    /// The cluster lives, and none of its masters is in the file.
    #[error(
        "{0} belongs to this cluster already, and no master in the file does: name the cluster's masters ({1}); to make a new cluster, remove the \
         old one from {0} first"
    )]
    NoMaster(String, String),
    /// A setting that cannot change.
    #[error(
        "{setting} is {is} in the living cluster and {wanted} in the file; it cannot change while the cluster lives: {why}"
    )]
    Fixed {
        /// The setting.
        setting: &'static str,
        /// As it is.
        is: String,
        /// As it is wished.
        wanted: String,
        /// Why not.
        why: &'static str,
    },
    /// Too many masters would go at once.
    #[error(
        "{} of {before} masters are no longer in the file ({}): without a majority the cluster's state is lost. Take them out one at a time with \
         `plenum node remove NAME`",
        gone.len(), gone.join(", ")
    )]
    Majority {
        /// Masters in the cluster's map.
        before: usize,
        /// Those that are not in the file.
        gone: Vec<String>,
    },
    /// A host's address or name changed.
    #[error("{0}")]
    Moved(String),
}

/// The steps from what is to what is wished.
///
/// # Errors
/// [`Refusal`]: what is wished would be unsafe, or too little is known.
pub fn plan(cluster: &Cluster, seen: &[Seen], given: &Given) -> Result<Plan, Refusal> {
    let hosts = known(cluster, seen)?;
    let world = World::new(cluster, &hosts)?;
    let store = store(cluster, seen, given, &world)?;
    fixed(cluster, &hosts)?;
    let shared = shared(cluster, store);
    let mut plan = Plan::default();
    for (host, _) in &hosts {
        plan.specs.insert(host.name.clone(), spec(cluster, host, &shared, &given.version));
    }
    for (host, facts) in &hosts {
        let Some(spec) = plan.specs.get(&host.name) else { continue };
        let digest = spec.digest();
        match step(&world, host, facts.installed(&cluster.name), spec, &digest) {
            Some((what, why)) => {
                let stage = stage(&world, host);
                plan.steps.push(Step { stage, host: host.name.clone(), what, why });
            }
            None => plan.unchanged.push(host.name.clone()),
        }
    }
    leaving(cluster, &world, &mut plan)?;
    // Within a stage: new masters before those that are only told of them, then the file's order, which the sort keeps.
    plan.steps.sort_by_key(|step| (step.stage, step.what == Action::Update && step.stage == Stage::Masters));
    Ok(plan)
}

fn known<'a>(cluster: &'a Cluster, seen: &'a [Seen]) -> Result<Vec<(&'a Host, &'a Facts)>, Refusal> {
    let find = |host: &'a Host| {
        let one = seen.iter().find(|one| one.name == host.name);
        match one.map(|one| &one.facts) {
            Some(Ok(facts)) => Ok((host, &**facts)),
            Some(Err(why)) => Err(Refusal::Unknown(host.name.clone(), why.clone())),
            None => Err(Refusal::Unknown(host.name.clone(), "it was not asked".to_owned())),
        }
    };
    cluster.hosts.iter().map(find).collect()
}

/// The cluster as it lives.
struct World {
    /// Its authority, if it lives.
    authority: Option<String>,
    /// The name of the host that makes it, or leads others along.
    first: String,
    /// Masters in the cluster's map: names and addresses.
    masters: Vec<(String, IpAddr)>,
}

impl World {
    fn new(cluster: &Cluster, hosts: &[(&Host, &Facts)]) -> Result<Self, Refusal> {
        let mut authority: Option<(String, &str)> = None;
        let mut masters: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut living = None;
        for (host, facts) in hosts {
            let Some(installed) = facts.installed(&cluster.name) else { continue };
            let Some(own) = &installed.authority else { continue };
            match &authority {
                Some((known, other)) if known != own => {
                    return Err(Refusal::Strangers {
                        one: (*other).to_owned(),
                        other: host.name.clone(),
                        name: cluster.name.to_string(),
                    });
                }
                Some(_) => {}
                None => authority = Some((own.clone(), &host.name)),
            }
            for master in &installed.masters {
                masters.insert(master.address, master.name.clone());
            }
            // The master that got furthest goes first.
            let rank = (installed.digest.is_some(), installed.healthy);
            if host.is(Kind::Master)
                && installed.kinds.contains(&Kind::Master)
                && living.as_ref().is_none_or(|(best, _)| rank > *best)
            {
                living = Some((rank, host.name.clone()));
            }
        }
        let first = match (&authority, living) {
            (_, Some((_, name))) => name,
            (None, None) => cluster.masters().next().map(|host| host.name.clone()).unwrap_or_default(),
            (Some((_, host)), None) => {
                let names: Vec<String> =
                    masters.iter().map(|(address, name)| format!("{name} {address}")).collect();
                let names = if names.is_empty() { "unknown".to_owned() } else { names.join(", ") };
                return Err(Refusal::NoMaster((*host).to_owned(), names));
            }
        };
        let masters = masters.into_iter().map(|(address, name)| (name, address)).collect();
        Ok(Self { authority: authority.map(|(authority, _)| authority), first, masters })
    }
}

/// What cannot change while the cluster lives.
fn fixed(cluster: &Cluster, hosts: &[(&Host, &Facts)]) -> Result<(), Refusal> {
    for (host, facts) in hosts {
        let Some(installed) = facts.installed(&cluster.name) else { continue };
        if installed.digest.is_none() {
            continue;
        }
        if let Some(shared) = &installed.shared {
            for (setting, is, wanted, why) in [
                (
                    "networks.virtual_range",
                    &shared.virtual_range,
                    &cluster.networks.virtual_range,
                    "running tasks hold addresses of it",
                ),
                (
                    "networks.domain",
                    &shared.domain,
                    &cluster.networks.domain,
                    "running tasks know each other by names of it",
                ),
            ] {
                if is != wanted {
                    return Err(Refusal::Fixed { setting, is: is.clone(), wanted: wanted.clone(), why });
                }
            }
        }
        if let Some(address) = installed.address
            && address != host.address
        {
            return Err(Refusal::Moved(format!(
                "{} is in the cluster at {address}, and the file has {}: an address cannot change. Use `plenum node replace`",
                host.name, host.address
            )));
        }
        if !installed.name.is_empty() && installed.name != host.name {
            return Err(Refusal::Moved(format!(
                "{} is in the cluster as {}, and the file calls it {}: name it {} (`name: {}`, or --name), or remove the node and add it again",
                host.address, installed.name, host.name, installed.name, installed.name
            )));
        }
        let gone: Vec<&str> =
            installed.kinds.iter().filter(|kind| !host.is(**kind)).map(|kind| kind.as_str()).collect();
        if !gone.is_empty() {
            return Err(Refusal::Moved(format!(
                "{} is {} in the cluster and no longer in the file: first `plenum node remove {}`, then add it with its new roles",
                host.name,
                gone.join(" and "),
                host.name
            )));
        }
    }
    Ok(())
}

fn store(cluster: &Cluster, seen: &[Seen], given: &Given, world: &World) -> Result<Store, Refusal> {
    let on_etcd = crate::findings::lives_on_etcd(cluster, seen);
    if cluster.store.kind == StoreKind::Embedded && on_etcd && world.authority.is_some() {
        return Err(Refusal::Fixed {
            setting: "store.kind",
            is: "etcd".to_owned(),
            wanted: "embedded".to_owned(),
            why: "see `plenum store move`; one master on etcd is fine, too",
        });
    }
    let outside = !cluster.store.endpoints.is_empty();
    let lived_outside = crate::findings::lives_outside(cluster, seen);
    if world.authority.is_some() && (outside && on_etcd || !outside && lived_outside) {
        let word = |yours: bool| if yours { "an etcd of yours" } else { "the masters' own etcd" }.to_owned();
        return Err(Refusal::Fixed {
            setting: "store.endpoints",
            is: word(lived_outside),
            wanted: word(outside),
            why: "the records would stay behind; `plenum store backup` and a new cluster take them along",
        });
    }
    if outside {
        return Ok(Store::External {
            endpoints: cluster.store.endpoints.clone(),
            ca: given.store_ca.clone(),
            certificate: given.store_certificate.clone(),
        });
    }
    if !own_etcd(cluster, seen) {
        return Ok(Store::Embedded);
    }
    let program = given.etcd.clone().map_or(EtcdProgram::Package, EtcdProgram::Sent);
    Ok(Store::Etcd { program })
}

fn shared(cluster: &Cluster, store: Store) -> Shared {
    Shared {
        virtual_range: cluster.networks.virtual_range.clone(),
        domain: cluster.networks.domain.clone(),
        resolvers: cluster.networks.resolvers.clone(),
        dns_on_masters: cluster.networks.dns_on_masters,
        overlay_range: Some(cluster.networks.overlay_range.clone()).filter(|_| cluster.networks.overlay),
        overlay_range6: cluster.networks.overlay_range6.clone().filter(|_| cluster.networks.overlay),
        store,
        attributes: cluster.agents.attributes.clone(),
        settings: cluster.settings.clone(),
    }
}

fn spec(cluster: &Cluster, host: &Host, shared: &Shared, version: &str) -> HostSpec {
    HostSpec {
        format: FORMAT,
        instance: cluster.name.clone(),
        version: version.to_owned(),
        name: host.name.clone(),
        address: host.address,
        kinds: host.kinds(),
        masters: cluster.masters().map(|master| master.address).collect(),
        region: host.region.clone().or_else(|| cluster.agents.region.clone()),
        zone: host.zone.clone().or_else(|| cluster.agents.zone.clone()),
        attributes: host.attributes.clone(),
        resources: host.resources.clone().or_else(|| cluster.agents.resources.clone()),
        settings: host.settings.clone(),
        shared: shared.clone(),
    }
}

fn step(
    world: &World,
    host: &Host,
    installed: Option<&Installed>,
    spec: &HostSpec,
    digest: &str,
) -> Option<(Action, String)> {
    let first = host.name == world.first;
    let kinds: Vec<&str> = spec.kinds.iter().map(|kind| kind.as_str()).collect();
    let kinds = kinds.join(" and ");
    let Some(installed) = installed.filter(|installed| installed.authority.is_some()) else {
        return Some(if first {
            (Action::Bootstrap, format!("there is no cluster yet; it becomes its first {kinds}"))
        } else {
            (Action::Join, format!("it is not in the cluster; it becomes {kinds}"))
        });
    };
    match &installed.digest {
        None if first && world.masters.iter().all(|(_, address)| *address == host.address) => {
            Some((Action::Bootstrap, "it was begun and not finished".to_owned()))
        }
        None => Some((Action::Join, "it was begun and not finished".to_owned())),
        Some(there) if there != digest => {
            let added: Vec<&str> = spec
                .kinds
                .iter()
                .filter(|kind| !installed.kinds.contains(kind))
                .map(|kind| kind.as_str())
                .collect();
            if !added.is_empty() {
                return Some((Action::Join, format!("it becomes {}, too", added.join(" and "))));
            }
            Some((Action::Update, differs(installed, spec)))
        }
        Some(_) if !installed.healthy => {
            let why = installed.problems.first().cloned().unwrap_or_else(|| "a unit does not run".to_owned());
            Some((Action::Repair, why.trim_end_matches('.').to_owned()))
        }
        Some(_) => None,
    }
}

/// What differs between what is and what is wished, as far as the host reports it.
fn differs(installed: &Installed, spec: &HostSpec) -> String {
    if installed.version != spec.version && !installed.version.is_empty() {
        return format!("it runs {}, and this is {}", installed.version, spec.version);
    }
    let Some(shared) = &installed.shared else { return "its settings differ".to_owned() };
    let mut what = Vec::new();
    if std::mem::discriminant(&shared.store) != std::mem::discriminant(&spec.shared.store) {
        what.push("where state is kept");
    } else if shared.store != spec.shared.store {
        what.push("the store's settings");
    }
    if shared.resolvers != spec.shared.resolvers || shared.dns_on_masters != spec.shared.dns_on_masters {
        what.push("names");
    }
    let overlay = |shared: &Shared| (shared.overlay_range.clone(), shared.overlay_range6.clone());
    if overlay(shared) != overlay(&spec.shared) {
        what.push("the network between containers");
    }
    if shared.attributes != spec.shared.attributes {
        what.push("attributes");
    }
    if shared.settings != spec.shared.settings {
        what.push("settings of roles");
    }
    if what.is_empty() {
        return "the masters or its own settings differ".to_owned();
    }
    format!("changed: {}", what.join(", "))
}

fn stage(world: &World, host: &Host) -> Stage {
    if host.name == world.first {
        Stage::First
    } else if host.is(Kind::Master) {
        Stage::Masters
    } else {
        Stage::Hosts
    }
}

/// Masters that are in the cluster's map and no longer in the file.
fn leaving(cluster: &Cluster, world: &World, plan: &mut Plan) -> Result<(), Refusal> {
    let stays = |address: &IpAddr| cluster.masters().any(|host| host.address == *address);
    let gone: Vec<String> =
        world.masters.iter().filter(|(_, address)| !stays(address)).map(|(name, _)| name.clone()).collect();
    if gone.len().saturating_mul(2) >= world.masters.len() && !gone.is_empty() {
        return Err(Refusal::Majority { before: world.masters.len(), gone });
    }
    for name in gone {
        plan.notes.push(format!(
            "{name} leaves the cluster, but what runs on it stays: on it, run `plenum host remove`"
        ));
        let why = "it is a master of the cluster and no longer in the file".to_owned();
        plan.steps.push(Step { stage: Stage::Leaving, host: name, what: Action::Leave, why });
    }
    Ok(())
}
