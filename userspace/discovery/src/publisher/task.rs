//! What the publisher keeps of a task, taken out of Mesos' messages, and the fact that it makes of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use plenum_api::mesos::{self, TaskState};

use crate::feed::{self, Protocol, Serves};
use crate::names::{self, Wanted};

/// A task as the master tells it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) framework: String,
    pub(super) agent: String,
    ports: Vec<Port>,
    checked: bool,
    state: TaskState,
    healthy: Option<bool>,
    container: Vec<IpAddr>,
}

#[derive(Debug, Clone)]
struct Port {
    port: feed::Port,
    vips: Vec<(Wanted, u16)>,
}

/// Gives the address and, if it has one, the name of what a task asks for; none if it was refused.
pub(super) type Addresses<'a> = &'a dyn Fn(&Wanted) -> Option<(Ipv4Addr, Option<String>)>;

/// Whether a task in this state has ended for good.
pub(super) fn is_terminal(state: TaskState) -> bool {
    use TaskState as S;
    matches!(
        state,
        S::TaskFinished
            | S::TaskFailed
            | S::TaskKilled
            | S::TaskLost
            | S::TaskError
            | S::TaskDropped
            | S::TaskGone
            | S::TaskGoneByOperator
    )
}

pub(super) fn state(number: i32) -> TaskState {
    TaskState::try_from(number).unwrap_or(TaskState::TaskUnknown)
}

fn text(value: Option<&String>) -> Option<String> {
    value.filter(|text| !text.is_empty()).cloned()
}

impl Known {
    /// From the whole description.
    pub(super) fn of(task: &mesos::Task) -> Self {
        let discovery = task.discovery.as_ref();
        let mut known = Self {
            name: text(discovery.and_then(|d| d.name.as_ref())).unwrap_or_else(|| task.name.clone()),
            id: task.task_id.value.clone(),
            framework: task.framework_id.value.clone(),
            agent: task.agent_id.value.clone(),
            ports: discovery.and_then(|d| d.ports.as_ref()).map(|p| ports(&p.ports)).unwrap_or_default(),
            checked: task.health_check.as_ref().is_some_and(is_check),
            state: state(task.state),
            healthy: None,
            container: Vec::new(),
        };
        if known.ports.is_empty() {
            known.ports = resource_ports(&task.resources);
        }
        for status in &task.statuses {
            known.hear(status);
        }
        known
    }

    /// A status of it, in order.
    fn hear(&mut self, status: &mesos::TaskStatus) {
        // A running task that says nothing of its health is as healthy as it was: its agent may have restarted and not checked yet.
        let runs = state(status.state) == TaskState::TaskRunning;
        if status.healthy.is_some() || !runs {
            self.healthy = status.healthy;
        }
        let networks = status.container_status.iter().flat_map(|status| &status.network_infos);
        let addresses: Vec<IpAddr> = networks
            .flat_map(|network| &network.ip_addresses)
            .filter_map(|address| address.ip_address.as_ref()?.parse().ok())
            .collect();
        if !addresses.is_empty() {
            self.container = addresses;
        }
    }

    /// A status of it that came as an event.
    pub(super) fn update(&mut self, status: &mesos::TaskStatus, now: TaskState) {
        self.state = now;
        self.hear(status);
    }

    /// The virtual addresses that it asks for.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        self.ports.iter().flat_map(|port| port.vips.iter().map(|(wanted, _)| wanted))
    }

    /// It can be found by name: it runs, and no check says otherwise.
    fn found(&self) -> bool {
        self.state == TaskState::TaskRunning && self.healthy != Some(false)
    }

    /// It takes new connections: it runs, and its check, if it has one, says that it is healthy.
    fn takes(&self) -> bool {
        self.found() && (!self.checked || self.healthy == Some(true))
    }

    /// The fact, if there is one to tell. `addresses` gives the address of what is asked for, unless it was refused.
    pub(super) fn fact(
        &self,
        framework: &str,
        agent: IpAddr,
        addresses: Addresses<'_>,
    ) -> Option<feed::Fact> {
        if !self.found() {
            return None;
        }
        let container: Vec<IpAddr> = self.container.iter().copied().filter(|ip| *ip != agent).collect();
        let mut serves = Vec::new();
        for port in self.ports.iter().filter(|_| self.takes()) {
            let to =
                if port.port.inside { container.iter().copied().find(IpAddr::is_ipv4) } else { Some(agent) };
            let Some(IpAddr::V4(to)) = to else { continue };
            for (wanted, number) in &port.vips {
                let Some((address, name)) = addresses(wanted) else { continue };
                let backend = SocketAddrV4::new(to, port.port.number);
                serves.push(Serves { address, port: *number, protocol: port.port.protocol, name, backend });
            }
        }
        Some(feed::Fact::Task(feed::Task {
            name: self.name.clone(),
            id: self.id.clone(),
            framework: names::domain(&framework.replace('/', "-")),
            canonical: names::canonical(&self.name, &self.id, &self.agent),
            agent,
            container,
            ports: self.ports.iter().map(|port| port.port.clone()).collect(),
            serves,
        }))
    }
}

/// A check without a kind and without a body checks nothing.
fn is_check(check: &mesos::HealthCheck) -> bool {
    check.r#type.is_some() || check.command.is_some() || check.http.is_some() || check.tcp.is_some()
}

fn protocol(name: Option<&String>) -> Option<Protocol> {
    match name.map(|name| name.to_ascii_lowercase()).as_deref() {
        None | Some("" | "tcp") => Some(Protocol::Tcp),
        Some("udp") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn ports(given: &[mesos::Port]) -> Vec<Port> {
    let mut out = Vec::new();
    for port in given {
        let (Ok(number), Some(protocol)) = (u16::try_from(port.number), protocol(port.protocol.as_ref()))
        else {
            continue;
        };
        if number == 0 {
            continue;
        }
        let labels = port.labels.as_ref().map(|labels| labels.labels.as_slice()).unwrap_or_default();
        let scope =
            labels.iter().find(|label| label.key == "network-scope").and_then(|label| label.value.as_deref());
        let asks = labels.iter().filter(|label| names::is_vip_key(&label.key));
        let vips = asks.filter_map(|label| names::wanted(label.value.as_deref()?)).collect();
        let name = port.name.as_deref().map(names::label).filter(|name| !name.is_empty());
        out.push(Port {
            port: feed::Port { number, protocol, name, inside: scope == Some("container") },
            vips,
        });
    }
    out
}

/// A task that says nothing of its ports has those that it was given.
fn resource_ports(resources: &[mesos::Resource]) -> Vec<Port> {
    let ranges = resources.iter().filter(|r| r.name == "ports").filter_map(|r| r.ranges.as_ref());
    let mut out = Vec::new();
    for range in ranges.flat_map(|ranges| &ranges.range) {
        // A whole host's range is no list of listening ports.
        for number in (range.begin..=range.end).take(64) {
            let Ok(number) = u16::try_from(number) else { continue };
            let port = feed::Port { number, protocol: Protocol::Tcp, name: None, inside: false };
            out.push(Port { port, vips: Vec::new() });
        }
    }
    out
}
