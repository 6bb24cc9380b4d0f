//! The ways between hosts, and from masters to an etcd that somebody else runs: which are to be tried, and what those mean that do not
//! work.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::{Cluster, Host};
use crate::findings::{Blocked, Finding, Seen, Severity};
use crate::ports::{self, From, Port, Protocol};
use crate::spec::Kind;

/// Which ways are to be tried: for each host the addresses and ports that it must reach.
#[must_use]
pub fn ways_to_try(cluster: &Cluster, etcd: bool) -> Vec<(String, Vec<(IpAddr, u16)>)> {
    let of = |from: &Host| {
        let others = cluster.hosts.iter().filter(|to| to.name != from.name);
        others.flat_map(|to| needed(from, to, etcd).into_iter().map(|port| (to.address, port))).collect()
    };
    cluster.hosts.iter().map(|from| (from.name.clone(), of(from))).collect()
}

/// Where an endpoint of `store.endpoints` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL as the file has it.
    pub url: String,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; without one the scheme's own, as the store's client takes it.
    pub port: u16,
}

impl Endpoint {
    /// `host:port`, brackets around addresses of IPv6. Has no character that means something to a shell's word but brackets.
    #[must_use]
    pub fn target(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Reads an endpoint; none where it is no `http(s)://host[:port]`.
#[must_use]
pub fn endpoint(url: &str) -> Option<Endpoint> {
    let (rest, usual) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, 443),
        (None, Some(rest)) => (rest, 80),
        (None, None) => return None,
    };
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match place.strip_prefix('[') {
        Some(six) => {
            let (host, port) = six.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
        }
        None => place.split_once(':').map_or((place, Some("")), |(host, port)| (host, Some(port))),
    };
    let port = match port? {
        "" if !place.ends_with(':') => usual,
        port => port.parse().ok().filter(|port| *port != 0)?,
    };
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    let plain = !host.is_empty() && host.len() < 254 && !host.starts_with('-') && host.bytes().all(fine);
    plain.then(|| Endpoint { url: url.to_owned(), host: host.to_owned(), port })
}

/// The endpoints of an etcd that somebody else runs: every master is to call each of them.
#[must_use]
pub fn endpoints_to_try(cluster: &Cluster) -> Vec<Endpoint> {
    cluster.store.endpoints.iter().filter_map(|url| endpoint(url)).collect()
}

/// The TCP ports of `to` that `from` calls.
fn needed(from: &Host, to: &Host, etcd: bool) -> Vec<u16> {
    let calls = |port: &&Port| match port.from {
        From::Hosts => true,
        From::Masters => from.is(Kind::Master),
        From::Itself => false,
    };
    let ports = ports::ports(&to.kinds(), etcd);
    ports.iter().filter(|port| port.protocol == Protocol::Tcp).filter(calls).map(|port| port.number).collect()
}

/// What the ways that do not work say: a port that none of two or more callers reaches is the matter of the host that was called, one
/// finding a host; the others are one finding a pair, of the host that called.
pub(crate) fn judge(
    cluster: &Cluster,
    seen: &[Seen],
    blocked: &[Blocked],
    etcd: bool,
    all: &mut Vec<Finding>,
) {
    let mut shut: BTreeMap<&str, Vec<&Blocked>> = BTreeMap::new();
    let mut pairs: BTreeMap<(usize, usize), Vec<&Blocked>> = BTreeMap::new();
    let place = |name: &str| cluster.hosts.iter().position(|host| host.name == name);
    for one in blocked {
        if let Some(to) = cluster.store.endpoints.iter().find(|url| **url == one.to) {
            all.extend(cluster.host(&one.from).map(|from| store_away(cluster, seen, from, to, &one.reason)));
            continue;
        }
        let (Some(from), Some(to)) = (place(&one.from), place(&one.to)) else { continue };
        if is_shut(cluster, seen, blocked, etcd, one) {
            shut.entry(&one.to).or_default().push(one);
        } else {
            pairs.entry((from, to)).or_default().push(one);
        }
    }
    for (name, list) in shut {
        if let Some(host) = cluster.host(name) {
            all.push(closed(host, list, etcd));
        }
    }
    for ((from, to), list) in pairs {
        if let (Some(from), Some(to)) = (cluster.hosts.get(from), cluster.hosts.get(to)) {
            all.push(cut(from, to, list, etcd));
        }
    }
}

/// Whether everybody who could call the port was kept out, and that is more than one.
fn is_shut(cluster: &Cluster, seen: &[Seen], blocked: &[Blocked], etcd: bool, one: &Blocked) -> bool {
    let Some(to) = cluster.host(&one.to) else { return false };
    let looked = seen.iter().filter(|seen| seen.facts.is_ok() && seen.name != to.name);
    let callers: BTreeSet<&str> = looked
        .filter_map(|seen| cluster.host(&seen.name))
        .filter(|from| needed(from, to, etcd).contains(&one.port))
        .map(|from| from.name.as_str())
        .collect();
    let kept_out = |name: &&str| {
        blocked.iter().any(|other| other.from == **name && other.to == one.to && other.port == one.port)
    };
    callers.len() > 1 && callers.iter().all(kept_out)
}

/// A master does not reach an endpoint of the operator's etcd. Where the cluster lives it is a warning: etcd goes on without some members.
fn store_away(cluster: &Cluster, seen: &[Seen], from: &Host, url: &str, reason: &str) -> Finding {
    let facts = seen.iter().find(|one| one.name == from.name).and_then(|one| one.facts.as_ref().ok());
    let lives = facts.is_some_and(|facts| facts.installed(&cluster.name).is_some());
    let (host, port) = endpoint(url).map(|at| (at.host, at.port)).unwrap_or_default();
    let first = match reason {
        "unresolved" => format!("make the name {host} known on {} (DNS or /etc/hosts)", from.name),
        "refused" => format!(
            "start etcd there, listening for clients on that address, or see what refuses port {port}"
        ),
        _ => format!("open TCP port {port} of {host} for {} in the firewalls in between", from.name),
    };
    Finding {
        host: from.name.clone(),
        rule: "store".to_owned(),
        fact: format!("it does not reach {url} of store.endpoints ({reason})"),
        need: "each master reaches every endpoint of the etcd that store.endpoints names".to_owned(),
        remedy: format!(
            "{first}, or correct store.endpoints; test on {} with `nc -vz {host} {port}`",
            from.name
        ),
        severity: if lives { Severity::Warning } else { Severity::Error },
        fix: None,
    }
}

fn closed(host: &Host, list: Vec<&Blocked>, etcd: bool) -> Finding {
    let callers: BTreeSet<&str> = list.iter().map(|one| one.from.as_str()).collect();
    let (words, first) = words(host, list, etcd);
    Finding {
        host: host.name.clone(),
        rule: "way".to_owned(),
        fact: format!(
            "none of the {} hosts that call it ({}) reach it on TCP {words}",
            callers.len(),
            host.address
        ),
        need: "hosts reach each other on these ports".to_owned(),
        remedy: format!(
            "open them in the firewall of {}: `nft list ruleset` shows its rules; test from another host with `nc -vz {} {first}`",
            host.name, host.address
        ),
        severity: Severity::Error,
        fix: None,
    }
}

fn cut(from: &Host, to: &Host, list: Vec<&Blocked>, etcd: bool) -> Finding {
    let (words, first) = words(to, list, etcd);
    Finding {
        host: from.name.clone(),
        rule: "way".to_owned(),
        fact: format!("it does not reach {} ({}) on TCP {words}", to.name, to.address),
        need: "hosts reach each other on these ports".to_owned(),
        remedy: format!(
            "open them in the firewalls of {} and in between; test with `nc -vz {} {first}`",
            to.name, to.address
        ),
        severity: Severity::Error,
        fix: None,
    }
}

/// The ports of a list in words, each with what it is for and why it does not answer; and the first one.
fn words(to: &Host, mut list: Vec<&Blocked>, etcd: bool) -> (String, u16) {
    list.sort_by_key(|one| one.port);
    list.dedup_by_key(|one| one.port);
    let ports = ports::ports(&to.kinds(), etcd);
    let what = |port: u16| ports.iter().find(|known| known.number == port).map_or("", |known| known.what);
    let words: Vec<String> =
        list.iter().map(|one| format!("{} ({}: {})", one.port, what(one.port), one.reason)).collect();
    (words.join(", "), list.first().map_or(0, |one| one.port))
}
