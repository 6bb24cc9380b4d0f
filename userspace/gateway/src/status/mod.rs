//! `GET /plenum/v1/status`: how the whole cluster is, asked of every master at once. Each part has a deadline, so that a dead master is a line
//! and never a wait. What is wrong with what was found is said by [`report`], which is pure.

mod probe;
mod report;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use plenum_base::client::Client;
use plenum_base::cluster::MasterNode;
use plenum_base::component::Component;
use plenum_base::leading::Leading;
use plenum_base::places::Role;
use plenum_base::tls::TlsError;
use serde_json::Value;
use tokio::sync::Mutex;

use self::probe::Probe;
pub use self::report::{Agents, Led, MasterStatus, RoleStatus, Status, nodes, units};
use crate::clients::Clients;
use crate::cluster::Cluster;

/// How long each part has.
const DEADLINE: Duration = Duration::from_millis(1500);
/// The same for etcd's caretaker, which asks every member in its turn.
const CARETAKER_DEADLINE: Duration = Duration::from_millis(2500);
/// A status this young is told again, so that many who watch cost as much as one.
const FRESH: Duration = Duration::from_millis(900);
/// Where etcd's caretaker answers.
const CARETAKER: u16 = 2381;
/// What runs on every master of a fleet.
const ROLES: [Role; 8] = [
    Role::Etcd,
    Role::Identity,
    Role::Master,
    Role::Services,
    Role::Discovery,
    Role::Balancer,
    Role::Catalog,
    Role::Gateway,
];

/// Looks at the cluster when asked.
#[derive(Debug)]
pub struct Overview {
    cluster: Cluster,
    own: IpAddr,
    etcd: bool,
    master: Client,
    caretaker: Client,
    probe: Probe,
    last: Mutex<Option<(Instant, Arc<Status>)>>,
}

impl Overview {
    /// Looks with this component's certificate. `etcd`: masters run members of the cluster's own.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(
        component: &Component,
        clients: &Clients,
        cluster: Cluster,
        etcd: bool,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            cluster,
            own: component.settings.listen.ip(),
            etcd,
            master: clients.master.known.clone(),
            caretaker: component.client(Role::Etcd)?,
            probe: Probe::new(component.identity.clone()),
            last: Mutex::new(None),
        })
    }

    /// How everything is now, or was a moment ago.
    pub async fn look(&self) -> Arc<Status> {
        let mut last = self.last.lock().await;
        if let Some((at, status)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Arc::clone(status);
        }
        let status = Arc::new(self.ask().await);
        *last = Some((Instant::now(), Arc::clone(&status)));
        status
    }

    async fn ask(&self) -> Status {
        let map = self.cluster.masters.map();
        let leaving = map.as_ref().map(|map| map.leaving.clone()).unwrap_or_default();
        let named = map.map(|map| map.masters.clone()).filter(|masters| !masters.is_empty());
        // Before the first map only addresses are known.
        let known = named.unwrap_or_else(|| {
            let nameless = |address: IpAddr| MasterNode { name: address.to_string(), address };
            self.cluster.masters.list().into_iter().map(nameless).collect()
        });
        let fleet = !known.is_empty();
        let asked = async {
            if fleet {
                join_all(known.iter().map(|node| self.ask_master(node, leaving.contains(&node.name)))).await
            } else {
                vec![self.ask_this_machine().await]
            }
        };
        let (masters, agents) = tokio::join!(asked, self.ask_agents());
        let led = |role: Role, leading: &Leading| {
            let leader = leading.leader()?;
            let host = host(&leader.url);
            let name = known.iter().find(|node| Some(node.address) == host).map(|node| node.name.clone());
            Some((
                role.as_str().to_owned(),
                Led { name: name.unwrap_or_default(), url: leader.url, term: leader.term },
            ))
        };
        let cluster = &self.cluster;
        let leaders = [
            led(Role::Master, &cluster.master),
            led(Role::Services, &cluster.services),
            led(Role::Discovery, &cluster.discovery),
        ];
        report::of(fleet, masters, leaders.into_iter().flatten().collect(), agents)
    }

    async fn ask_master(&self, node: &MasterNode, leaving: bool) -> MasterStatus {
        let roles = ROLES.into_iter().filter(|role| self.etcd || *role != Role::Etcd).map(|role| {
            let port = if role == Role::Gateway { 443 } else { role.port() };
            self.ask_role(role, SocketAddr::new(node.address, port))
        });
        let url = format!("https://{}/v1/status", SocketAddr::new(node.address, CARETAKER));
        let etcd = async {
            let told = ask_json(&self.caretaker, &url, CARETAKER_DEADLINE).await;
            told.unwrap_or_else(|problem| serde_json::json!({ "error": problem }))
        };
        let etcd = async { if self.etcd { Some(etcd.await) } else { None } };
        let (roles, etcd) = tokio::join!(join_all(roles), etcd);
        MasterStatus {
            name: node.name.clone(),
            address: node.address.to_string(),
            leaving,
            here: node.address == self.own,
            roles: roles.into_iter().collect(),
            etcd,
        }
    }

    /// A single machine has its roles where its settings say.
    async fn ask_this_machine(&self) -> MasterStatus {
        let roles = [Role::Identity, Role::Master, Role::Services, Role::Discovery, Role::Catalog];
        let asked = roles.map(|role| async move {
            let base = self.cluster.of(role).into_iter().next().unwrap_or_default();
            match authority(&base).and_then(|authority| authority.parse().ok()) {
                Some(at) => self.ask_role(role, at).await,
                None => (role.as_str().to_owned(), RoleStatus::down(format!("{base} is no address"))),
            }
        });
        MasterStatus {
            name: "this machine".to_owned(),
            address: self.own.to_string(),
            leaving: false,
            here: true,
            roles: join_all(asked).await.into_iter().collect(),
            etcd: None,
        }
    }

    async fn ask_role(&self, role: Role, at: SocketAddr) -> (String, RoleStatus) {
        let seen = tokio::time::timeout(DEADLINE, self.probe.look(role, at)).await;
        let status = match seen {
            Ok(Ok(until)) => RoleStatus::up(until.duration_since(SystemTime::now()).unwrap_or_default()),
            Ok(Err(reason)) => RoleStatus::down(reason),
            Err(_) => RoleStatus::down(format!("no answer within {} ms", DEADLINE.as_millis())),
        };
        (role.as_str().to_owned(), status)
    }

    /// Counts of agents, from the leading master's gauges.
    async fn ask_agents(&self) -> Option<Agents> {
        let url = format!("{}/metrics/snapshot", self.cluster.master.place());
        let gauges = ask_json(&self.master, &url, DEADLINE).await.ok()?;
        // Gauges are whole numbers written as floats.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = |name: &str| {
            let value = gauges.get(format!("master/{name}")).and_then(Value::as_f64)?;
            Some(value.clamp(0.0, 1e9) as u64)
        };
        Some(Agents {
            active: count("slaves_active")?,
            inactive: count("slaves_inactive").unwrap_or(0),
            unreachable: count("slaves_unreachable").unwrap_or(0),
        })
    }
}

async fn ask_json(client: &Client, url: &str, deadline: Duration) -> Result<Value, String> {
    let call =
        async { client.get(url).deadline(deadline).send().await?.success().await?.json::<Value>().await };
    call.await.map_err(|error| error.to_string())
}

fn authority(base: &str) -> Option<&str> {
    base.split_once("://").map(|(_, authority)| authority.trim_end_matches('/'))
}

fn host(base: &str) -> Option<IpAddr> {
    authority(base)?.parse::<SocketAddr>().ok().map(|at| at.ip())
}
