//! Judging what hosts report before anything is changed: [`findings`]. Rules for one host are in [`crate::rules`]; here are those between hosts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, StoreKind};
use crate::facts::Facts;
use crate::rules;
pub use crate::schema::Severity;
use crate::spec::Store;
use crate::ways;
pub use crate::ways::{Endpoint, endpoint, endpoints_to_try, ways_to_try};

/// What is known of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Its name in the cluster.
    pub name: String,
    /// What it reports, or a sentence why it could not be asked.
    pub facts: Result<Box<Facts>, String>,
    /// Its clock against ours.
    pub clock: Option<Reading>,
}

/// A clock read over the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Milliseconds by which the host's clock is ahead of ours.
    pub ahead_ms: i64,
    /// Half of the time that asking took: the reading may be wrong by so much.
    pub unsure_ms: i64,
}

/// A way between two hosts that was tried and did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The name of the host that called.
    pub from: String,
    /// The name of the host that was called, or an endpoint of `store.endpoints` as it is written there.
    pub to: String,
    /// The port.
    pub port: u16,
    /// Why: `deadline`, `refused`, `unreachable`, `unresolved`…
    pub reason: String,
}

/// A repair that is safe: it takes nothing away that anybody may need.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "fix", rename_all = "lowercase")]
pub enum SafeFix {
    /// Loads a module of the kernel.
    Module {
        /// Its name.
        name: String,
    },
    /// Has the clock set over the network.
    Clock,
    /// Installs a package of the distribution.
    Package {
        /// Its name.
        name: String,
    },
    /// Removes what an earlier installation left, of which no data is part.
    Leftover {
        /// As in [`crate::facts::Leftover`].
        kind: String,
        /// Path or name.
        name: String,
    },
}

impl SafeFix {
    /// What it does, in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Module { name } => format!("load the kernel module {name}, now and at each boot"),
            Self::Clock => "have the clock set over the network (timedatectl set-ntp true)".to_owned(),
            Self::Package { name } => format!("install the distribution's package {name}"),
            Self::Leftover { kind, name } => format!("remove the {kind} {name}"),
        }
    }

    /// The commands of a shell that do it, as root. Names are checked: they come from hosts. None: it is not safe after all.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        let plain = |name: &str| {
            let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b'/');
            !name.is_empty() && name.len() < 200 && !name.contains("..") && name.bytes().all(fine)
        };
        match self {
            Self::Module { name } if plain(name) => {
                Some(format!("modprobe {name} && echo {name} > /etc/modules-load.d/plenum-{name}.conf"))
            }
            Self::Clock => Some("timedatectl set-ntp true".to_owned()),
            Self::Package { name } if plain(name) => Some(format!(
                "if command -v apt-get >/dev/null; then DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {name}; \
                 elif command -v dnf >/dev/null; then dnf install -y {name}; else zypper --non-interactive install {name}; fi"
            )),
            Self::Leftover { kind, name } if plain(name) && name.contains("plenum") => match kind.as_str() {
                "unit" => Some(format!(
                    "systemctl disable --now {name} 2>/dev/null; rm -f /etc/systemd/system/{name}; systemctl daemon-reload"
                )),
                "link" if name == "/usr/local/bin/plenum" => Some(format!("rm -f {name}")),
                "table" => {
                    let table = name.rsplit('/').next().unwrap_or(name);
                    Some(format!("nft delete table ip {table} 2>/dev/null || nft delete table inet {table}"))
                }
                "user" if name == "plenum" => Some("userdel plenum".to_owned()),
                _ => None,
            },
            Self::Module { .. } | Self::Package { .. } | Self::Leftover { .. } => None,
        }
    }
}

/// Something about a host that is in the way, or may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The host's name.
    pub host: String,
    /// A stable word for the rule: `kernel`, `port`, `clock`…
    pub rule: String,
    /// What is so.
    pub fact: String,
    /// What is needed.
    pub need: String,
    /// What to do.
    pub remedy: String,
    /// `error` stops the installer, `warning` does not.
    pub severity: Severity,
    /// What `--fix` does about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<SafeFix>,
}

impl<'de> Deserialize<'de> for Severity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "error" => Ok(Self::Error),
            "warning" => Ok(Self::Warning),
            other => Err(serde::de::Error::custom(format!("{other} is no severity"))),
        }
    }
}

/// Whether masters run etcd members of their own, as the file wishes and the living cluster has it.
#[must_use]
pub fn own_etcd(cluster: &Cluster, seen: &[Seen]) -> bool {
    if !cluster.store.endpoints.is_empty() {
        return false;
    }
    match cluster.store.kind {
        StoreKind::Embedded => false,
        StoreKind::Etcd => true,
        StoreKind::Auto => cluster.masters().count() > 1 || lives_on_etcd(cluster, seen),
    }
}

/// Whether the cluster keeps its state on etcd members of its own already, as a host of it says.
#[must_use]
pub fn lives_on_etcd(cluster: &Cluster, seen: &[Seen]) -> bool {
    lives_on(cluster, seen, |store| matches!(store, Store::Etcd { .. }))
}

/// Whether it keeps its state on the operator's etcd already.
#[must_use]
pub fn lives_outside(cluster: &Cluster, seen: &[Seen]) -> bool {
    lives_on(cluster, seen, |store| matches!(store, Store::External { .. }))
}

fn lives_on(cluster: &Cluster, seen: &[Seen], there: impl Fn(&Store) -> bool) -> bool {
    let mut installed = seen.iter().filter_map(|seen| seen.facts.as_ref().ok()?.installed(&cluster.name));
    installed.any(|installed| installed.shared.as_ref().is_some_and(|shared| there(&shared.store)))
}

/// All findings about the hosts that were seen, in the order of the file; those of each host in a fixed order.
#[must_use]
pub fn findings(cluster: &Cluster, seen: &[Seen], blocked: &[Blocked]) -> Vec<Finding> {
    let etcd = own_etcd(cluster, seen);
    let mut all = Vec::new();
    for one in seen {
        let Some(host) = cluster.host(&one.name) else { continue };
        match &one.facts {
            Ok(facts) => rules::host(&rules::Case { cluster, host, facts, etcd }, &mut all),
            Err(why) => all.push(Finding {
                host: one.name.clone(),
                rule: "reach".to_owned(),
                fact: why.clone(),
                need: "the installer must reach the host and be root there".to_owned(),
                remedy: "see the host's log; try `ssh` and `sudo` by hand with the same user and key"
                    .to_owned(),
                severity: Severity::Error,
                fix: None,
            }),
        }
    }
    clocks(cluster, seen, &mut all);
    twins(seen, &mut all);
    ways::judge(cluster, seen, blocked, etcd, &mut all);
    // In the order of the file, the hosts' own order kept.
    let place = |name: &str| cluster.hosts.iter().position(|host| host.name == name);
    all.sort_by_key(|finding| (place(&finding.host), std::cmp::Reverse(finding.severity)));
    all
}

/// Clocks that differ: the host furthest from the middle is named.
fn clocks(cluster: &Cluster, seen: &[Seen], all: &mut Vec<Finding>) {
    let mut read: Vec<(&str, Reading)> =
        seen.iter().filter_map(|one| Some((one.name.as_str(), one.clock?))).collect();
    if read.len() < 2 {
        return;
    }
    read.sort_by_key(|(_, reading)| reading.ahead_ms);
    let Some((_, middle)) = read.get(read.len().saturating_sub(1) / 2).copied() else { return };
    let limit = i64::from(cluster.limits.clock_skew_ms);
    for (name, reading) in read {
        let apart = reading.ahead_ms.saturating_sub(middle.ahead_ms);
        let sure = apart.saturating_abs().saturating_sub(reading.unsure_ms).saturating_sub(middle.unsure_ms);
        if sure <= limit {
            continue;
        }
        let service = seen.iter().find(|one| one.name == name).and_then(|one| one.facts.as_ref().ok());
        let service = service.and_then(|facts| facts.clock.service.clone());
        let way = if apart > 0 { "ahead of" } else { "behind" };
        let remedy = match &service {
            Some(service) => format!(
                "{service} runs and has not set it: see `chronyc tracking` or `timedatectl timesync-status`"
            ),
            None => "install chrony, or run `timedatectl set-ntp true`".to_owned(),
        };
        all.push(Finding {
            host: name.to_owned(),
            rule: "clock".to_owned(),
            fact: format!("its clock is {} ms {way} the others'", apart.saturating_abs()),
            need: format!("clocks within {limit} ms: certificates, tokens and leases depend on them"),
            remedy,
            severity: Severity::Error,
            fix: service.is_none().then_some(SafeFix::Clock),
        });
    }
}

/// Hosts that are one machine, or copies of one image.
fn twins(seen: &[Seen], all: &mut Vec<Finding>) {
    let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
    for one in seen {
        let Ok(facts) = &one.facts else { continue };
        if facts.machine_id.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(&facts.machine_id, &one.name) {
            all.push(Finding {
                host: one.name.clone(),
                rule: "machine-id".to_owned(),
                fact: format!("it has the machine id of {first}, {}", facts.machine_id),
                need:
                    "each host has its own: it is one machine named twice, or an image was copied with its id"
                        .to_owned(),
                remedy: "on a copied machine: rm /etc/machine-id; systemd-machine-id-setup; reboot"
                    .to_owned(),
                severity: Severity::Error,
                fix: None,
            });
        }
    }
}
