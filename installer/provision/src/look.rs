//! Looking at hosts without changing them: facts, clocks, the ways between every two of them, and those to an etcd outside.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use plenum_plan::facts::{Dialed, Facts, Opened, Reached};
use plenum_plan::findings::{
    Blocked, Endpoint, Finding, Seen, endpoints_to_try, findings, own_etcd, ways_to_try,
};
use plenum_plan::ports;
use tokio::sync::oneshot;

use crate::error::{InstallError, Result};
use crate::remote::{Remote, SHORT};
use crate::work::Work;

/// Seconds that hosts answer for a check of the ways; they end before when it is done.
const LISTEN: u64 = 60;
const FACTS: Duration = Duration::from_secs(90);

/// What was seen.
#[derive(Debug, Clone)]
pub struct Look {
    /// Each host.
    pub seen: Vec<Seen>,
    /// Ways that do not work.
    pub blocked: Vec<Blocked>,
    /// What is in the way.
    pub findings: Vec<Finding>,
}

/// What a host reports of itself.
///
/// # Errors
/// [`InstallError`].
pub async fn facts(remote: &Remote) -> Result<Facts> {
    let said = remote.root(&format!("{} host facts", remote.program()?), b"", FACTS, true).await?;
    if !said.ok() {
        return Err(InstallError::Host(format!("its facts cannot be told: {}", said.complaint())));
    }
    serde_json::from_str(&said.out)
        .map_err(|error| InstallError::Host(format!("its facts are not understood: {error}")))
}

impl Work {
    /// Looks at every host. With `ways`, also at the ways between them, unless all of them live in the cluster already.
    ///
    /// # Errors
    /// [`InstallError`] of this machine; what hosts cannot tell is in the findings.
    pub async fn look(&self, ways: bool) -> Result<Look> {
        let ready = self.ready(&self.remotes).await;
        let failed: BTreeMap<String, String> =
            ready.into_iter().filter_map(|(name, done)| Some((name, done.err()?.to_string()))).collect();
        let reached: Vec<Arc<Remote>> =
            self.remotes.iter().filter(|remote| !failed.contains_key(&remote.name)).cloned().collect();
        // Clocks alone, before the machines are busy with the rest.
        let clocks = self.each(&reached, |remote| async move { remote.clock().await }).await;
        let clocks: BTreeMap<String, _> =
            clocks.into_iter().filter_map(|(name, read)| Some((name, read.ok()??))).collect();
        let told = self
            .each(&reached, |remote| async move {
                self.progress.host(&remote.name, "looking at the host");
                facts(&remote).await
            })
            .await;
        let mut told: BTreeMap<String, Result<Facts>> = told.into_iter().collect();
        let seen: Vec<Seen> = self
            .remotes
            .iter()
            .map(|remote| {
                let facts = match (failed.get(&remote.name), told.remove(&remote.name)) {
                    (Some(why), _) => Err(why.clone()),
                    (None, Some(Ok(facts))) => Ok(Box::new(facts)),
                    (None, Some(Err(error))) => Err(error.to_string()),
                    (None, None) => Err("it was not asked".to_owned()),
                };
                Seen { name: remote.name.clone(), facts, clock: clocks.get(&remote.name).copied() }
            })
            .collect();
        let lives = seen.iter().all(|one| {
            let facts = one.facts.as_ref().ok();
            facts.and_then(|facts| facts.installed(&self.cluster.name)).is_some_and(|there| there.healthy)
        });
        let mut blocked = if ways && !lives { self.ways(&reached, &seen).await } else { Vec::new() };
        if ways {
            blocked.extend(self.stores(&reached).await);
        }
        for remote in &reached {
            self.progress.host(&remote.name, "looked at");
        }
        let findings = findings(&self.cluster, &seen, &blocked);
        Ok(Look { seen, blocked, findings })
    }

    /// Has every master call every endpoint of an etcd that somebody else runs.
    async fn stores(&self, reached: &[Arc<Remote>]) -> Vec<Blocked> {
        let endpoints = endpoints_to_try(&self.cluster);
        let is_master = |remote: &&Arc<Remote>| self.cluster.masters().any(|host| host.name == remote.name);
        let masters: Vec<Arc<Remote>> = reached.iter().filter(is_master).cloned().collect();
        if endpoints.is_empty() {
            return Vec::new();
        }
        let endpoints = &endpoints;
        let answers = self
            .each(&masters, |remote| async move {
                self.progress.host(&remote.name, "trying the ways to the store");
                reach(&remote, endpoints).await
            })
            .await;
        let mut blocked = Vec::new();
        for (from, told) in answers {
            let told: Result<Vec<Reached>> = told;
            for endpoint in endpoints {
                let reason = match &told {
                    Ok(told) => match told.iter().find(|one| one.target == endpoint.target()) {
                        Some(one) if one.ok => continue,
                        Some(one) => one.reason.clone(),
                        None => "not tried".to_owned(),
                    },
                    Err(error) => format!("not tried: {error}"),
                };
                let (to, port) = (endpoint.url.clone(), endpoint.port);
                blocked.push(Blocked { from: from.clone(), to, port, reason });
            }
        }
        blocked
    }

    /// Tries the ways between hosts: all listen where nobody does, then all dial.
    async fn ways(&self, reached: &[Arc<Remote>], seen: &[Seen]) -> Vec<Blocked> {
        let etcd = own_etcd(&self.cluster, seen);
        let mut listeners = Vec::new();
        let mut ends = Vec::new();
        for remote in reached {
            let Some(host) = self.cluster.host(&remote.name) else { continue };
            let (tell, told) = oneshot::channel();
            let (input, end) = tokio::io::duplex(64);
            ends.push(end);
            let numbers: Vec<String> = ports::ports(&host.kinds(), etcd)
                .iter()
                .filter(|port| port.protocol == ports::Protocol::Tcp && port.from != ports::From::Itself)
                .map(|port| port.number.to_string())
                .collect();
            let (remote, address) = (remote.clone(), host.address);
            let task =
                tokio::spawn(async move { listen(&remote, address, &numbers.join(","), input, tell).await });
            listeners.push((host, told, task));
        }
        let mut open: BTreeMap<IpAddr, (String, Opened)> = BTreeMap::new();
        let mut tasks = Vec::new();
        for (host, told, task) in listeners {
            if let Ok(Ok(opened)) = tokio::time::timeout(SHORT, told).await {
                open.insert(host.address, (host.name.clone(), opened));
            }
            tasks.push(task);
        }
        let tries = ways_to_try(&self.cluster, etcd);
        let open = &open;
        let answers = self
            .each(reached, |remote| {
                let ways = tries.iter().find(|(name, _)| *name == remote.name).map(|(_, ways)| ways.clone());
                async move {
                    self.progress.host(&remote.name, "trying the ways to the other hosts");
                    let ways: Vec<_> = ways
                        .unwrap_or_default()
                        .into_iter()
                        .filter(|(to, _)| open.contains_key(to))
                        .collect();
                    dial(&remote, &ways).await
                }
            })
            .await;
        drop(ends);
        for task in tasks {
            // They end with their input; one that does not ends by its own deadline.
            let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
        }
        let mut blocked = Vec::new();
        for (from, dialed) in answers {
            for one in dialed.unwrap_or_default().into_iter().filter(|one| !one.ok) {
                let Some((to, opened)) = open.get(&one.address) else { continue };
                // Where something else has the port, a refusal says nothing about the way.
                let taken = opened.taken.contains(&one.port);
                if !(taken && one.reason == "refused") {
                    blocked.push(Blocked {
                        from: from.clone(),
                        to: to.clone(),
                        port: one.port,
                        reason: one.reason,
                    });
                }
            }
        }
        blocked
    }
}

async fn listen(
    remote: &Remote,
    address: IpAddr,
    ports: &str,
    input: tokio::io::DuplexStream,
    tell: oneshot::Sender<Opened>,
) -> Result<()> {
    // The child goes when our input ends: the ports must be free again at once.
    let script = format!(
        "{} host check --listen {LISTEN} --address {address} --ports {ports} < /dev/null & p=$!; cat > /dev/null; kill $p 2>/dev/null; wait $p",
        remote.program()?
    );
    let mut tell = Some(tell);
    let mut line = |text: &str| {
        if let Ok(opened) = serde_json::from_str::<Opened>(text)
            && let Some(tell) = tell.take()
        {
            // Whoever waited may have given up.
            let _ = tell.send(opened);
        }
    };
    remote.held(&script, input, Duration::from_secs(LISTEN * 2), &mut line).await.map(|_| ())
}

async fn reach(remote: &Remote, endpoints: &[Endpoint]) -> Result<Vec<Reached>> {
    let list: Vec<String> = endpoints.iter().map(Endpoint::target).collect();
    // Quoted for the brackets; other characters that mean something are in no target.
    let script = format!("{} host check --reach '{}'", remote.program()?, list.join(","));
    let said = remote.root(&script, b"", SHORT, true).await?;
    serde_json::from_str(&said.out).map_err(|error| {
        InstallError::Host(format!("the check of the ways to the store is not understood: {error}"))
    })
}

async fn dial(remote: &Remote, ways: &[(IpAddr, u16)]) -> Result<Vec<Dialed>> {
    if ways.is_empty() {
        return Ok(Vec::new());
    }
    let list: Vec<String> =
        ways.iter().map(|(address, port)| std::net::SocketAddr::new(*address, *port).to_string()).collect();
    let script = format!("{} host check --dial {}", remote.program()?, list.join(","));
    let said = remote.root(&script, b"", SHORT, true).await?;
    serde_json::from_str(&said.out)
        .map_err(|error| InstallError::Host(format!("the check of the ways is not understood: {error}")))
}
