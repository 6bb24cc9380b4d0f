//! The publisher's core: operator events in, numbered changes of facts out. Pure; the stream and the replicas are elsewhere.
//!
//! A master that has just started knows no task until its agents have registered again. What was last known of an agent that the master only
//! *remembers* is therefore kept until the agent is back, or is given up by the master.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use plenum_api::master::{Event, event, response};
use plenum_api::mesos;

use super::task::{Known, is_terminal, state};
use crate::feed::{Change, Delta, Fact, Facts};
use crate::names::{self, Wanted};
use crate::range::{Assigner, Range};

/// What an event asks of the shell beyond a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    GoOn,
    /// Take up the stream anew: an agent that came back brought tasks that the stream does not tell.
    Resubscribe,
}

#[derive(Debug, Clone)]
struct Framework {
    name: String,
    place: Option<(IpAddr, u16)>,
}

/// The core.
#[derive(Debug)]
pub struct Core {
    epoch: u64,
    generation: u64,
    range: Range,
    agents: BTreeMap<String, (IpAddr, u16)>,
    /// Remembered by the master, or by us from before it told anything: what they run is kept as it was.
    away: BTreeSet<String>,
    frameworks: BTreeMap<String, Framework>,
    tasks: BTreeMap<String, Known>,
    /// Facts of tasks that are kept although the master does not tell them at the moment, with their agents.
    kept: BTreeMap<String, IpAddr>,
    addresses: Assigner,
    /// By address' name: the tasks that ask for it; and the other way round.
    askers: BTreeMap<String, BTreeSet<String>>,
    asked: BTreeMap<String, BTreeSet<String>>,
    masters: Facts,
    published: Facts,
    /// What the store says was given out: held for its name while not all agents have told what they run.
    reserved: BTreeMap<String, Ipv4Addr>,
}

fn task_key(framework: &str, task: &str) -> String {
    format!("task/{framework}/{task}")
}

impl Core {
    /// A publisher that begins with what was known last. `masters` are told as they are.
    #[must_use]
    pub fn new(epoch: u64, range: Range, masters: Facts, last: Facts) -> Self {
        Self::with_reserved(epoch, range, masters, last, BTreeMap::new())
    }

    /// As [`Core::new`]; `reserved` says which name has which address, whatever was known last says.
    #[must_use]
    pub fn with_reserved(
        epoch: u64,
        range: Range,
        masters: Facts,
        last: Facts,
        reserved: BTreeMap<String, Ipv4Addr>,
    ) -> Self {
        let mut addresses = Assigner::new(range);
        for (name, address) in &reserved {
            addresses.remember(name, *address);
        }
        let mut askers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut kept = BTreeMap::new();
        for (key, fact) in &last {
            match fact {
                Fact::Address(address) => {
                    let name = key.strip_prefix("vip/").unwrap_or(key);
                    addresses.remember(name, *address);
                    askers.entry(name.to_owned()).or_default();
                }
                Fact::Task(task) => {
                    kept.insert(key.clone(), task.agent);
                    for serves in &task.serves {
                        let name = serves.name.clone().unwrap_or_else(|| serves.address.to_string());
                        addresses.remember(&name, serves.address);
                        asked.entry(key.clone()).or_default().insert(name.clone());
                        askers.entry(name).or_default().insert(key.clone());
                    }
                }
                _ => {}
            }
        }
        let mut published = last;
        published.retain(|key, _| !key.starts_with("master/"));
        published.extend(masters.clone());
        for name in reserved.keys() {
            let address = addresses.address(name).map(Fact::Address);
            published.extend(address.map(|address| (format!("vip/{name}"), address)));
        }
        let away = BTreeSet::new();
        let (agents, frameworks, tasks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            epoch,
            generation: 0,
            range,
            agents,
            away,
            frameworks,
            tasks,
            kept,
            addresses,
            askers,
            asked,
            masters,
            published,
            reserved,
        }
    }

    /// The masters are these now.
    pub fn masters(&mut self, masters: Facts) -> Option<Delta> {
        let mut touched: BTreeSet<String> = self.masters.keys().chain(masters.keys()).cloned().collect();
        touched.retain(|key| self.masters.get(key) != masters.get(key));
        self.masters = masters;
        self.publish(touched)
    }

    /// Everything, as the first step of the epoch or for a replica that missed one.
    #[must_use]
    pub fn whole(&self) -> Delta {
        let whole = Some(self.published.clone());
        Delta { epoch: self.epoch, generation: self.generation, whole, changes: Vec::new() }
    }

    /// Takes an event; gives the changes, if it changed anything.
    pub fn event(&mut self, event: &Event) -> (Option<Delta>, Next) {
        let mut touched = BTreeSet::new();
        let mut next = Next::GoOn;
        match event.r#type.and_then(|kind| event::Type::try_from(kind).ok()) {
            Some(event::Type::Subscribed) => {
                if let Some(state) = event.subscribed.as_ref().and_then(|s| s.get_state.as_ref()) {
                    self.snapshot(state);
                    touched.extend(self.published.keys().cloned());
                    touched.extend(self.tasks.keys().cloned());
                    touched.extend(self.agents.keys().map(|id| format!("agent/{id}")));
                    touched.extend(self.frameworks.keys().map(|id| format!("framework/{id}")));
                }
            }
            Some(event::Type::TaskAdded) => {
                if let Some(added) = &event.task_added {
                    touched.extend(self.add_task(&added.task));
                }
            }
            Some(event::Type::TaskUpdated) => {
                if let Some(updated) = &event.task_updated {
                    touched.extend(self.update_task(updated));
                }
            }
            Some(event::Type::AgentAdded) => {
                if let Some(added) = &event.agent_added {
                    let id = added.agent.agent_info.id.as_ref().map_or("", |id| id.value.as_str());
                    // A new agent has no tasks yet; one that was here before brings some.
                    if self.away.contains(id) || added.agent.reregistered_time.is_some() {
                        next = Next::Resubscribe;
                    }
                    touched.extend(self.add_agent(&added.agent));
                }
            }
            Some(event::Type::AgentRemoved) => {
                if let Some(removed) = &event.agent_removed {
                    touched.extend(self.remove_agent(&removed.agent_id.value));
                }
            }
            Some(event::Type::FrameworkAdded | event::Type::FrameworkUpdated) => {
                let added = event.framework_added.as_ref().map(|e| &e.framework);
                let updated = event.framework_updated.as_ref().map(|e| &e.framework);
                if let Some(framework) = added.or(updated) {
                    touched.extend(self.add_framework(&framework.framework_info));
                }
            }
            Some(event::Type::FrameworkRemoved) => {
                if let Some(id) = event.framework_removed.as_ref().and_then(|e| e.framework_info.id.as_ref())
                {
                    touched.extend(self.remove_framework(&id.value));
                }
            }
            _ => {}
        }
        (self.publish(touched), next)
    }

    fn forget(&mut self, key: &str) {
        self.tasks.remove(key);
        self.kept.remove(key);
    }

    fn snapshot(&mut self, state: &response::GetState) {
        self.agents.clear();
        self.tasks.clear();
        let frameworks = std::mem::take(&mut self.frameworks);
        if let Some(agents) = &state.get_agents {
            for agent in &agents.agents {
                self.add_agent(agent);
            }
            let remembered = agents.recovered_agents.iter().filter_map(|info| info.id.as_ref());
            self.away = remembered.map(|id| id.value.clone()).collect();
        }
        if let Some(told) = &state.get_frameworks {
            for framework in &told.frameworks {
                self.add_framework(&framework.framework_info);
            }
        }
        // A framework that is not told keeps its name for tasks that are kept.
        for (id, framework) in frameworks {
            self.frameworks.entry(id).or_insert(framework);
        }
        if let Some(told) = &state.get_tasks {
            for task in told.tasks.iter().chain(&told.orphan_tasks) {
                self.add_task(task);
            }
        }
        let addresses: BTreeSet<IpAddr> = self
            .away
            .iter()
            .filter_map(|id| match self.published.get(&format!("agent/{id}")) {
                Some(Fact::Agent { address, .. }) => Some(*address),
                _ => None,
            })
            .collect();
        let active: BTreeSet<IpAddr> = self.agents.values().map(|(address, _)| *address).collect();
        self.kept = self
            .published
            .iter()
            .filter(|(key, _)| !self.tasks.contains_key(*key))
            .filter_map(|(key, fact)| match fact {
                Fact::Task(task) if addresses.contains(&task.agent) && !active.contains(&task.agent) => {
                    Some((key.clone(), task.agent))
                }
                _ => None,
            })
            .collect();
    }

    fn add_agent(&mut self, agent: &response::get_agents::Agent) -> Option<String> {
        let id = agent.agent_info.id.as_ref()?.value.clone();
        let told = agent.pid.as_deref().and_then(|pid| pid.rsplit_once('@')).map_or("", |(_, place)| place);
        let place = place(told).or_else(|| {
            let port = agent.agent_info.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(5051);
            agent.agent_info.hostname.parse().ok().map(|address| (address, port))
        })?;
        self.away.remove(&id);
        let key = format!("agent/{id}");
        self.agents.insert(id, place);
        Some(key)
    }

    fn remove_agent(&mut self, id: &str) -> Vec<String> {
        let key = format!("agent/{id}");
        let address = match self.published.get(&key) {
            Some(Fact::Agent { address, .. }) => Some(*address),
            _ => None,
        };
        self.agents.remove(id);
        self.away.remove(id);
        let mut gone: Vec<String> =
            self.tasks.iter().filter(|(_, task)| task.agent == id).map(|(key, _)| key.clone()).collect();
        gone.extend(
            self.kept.iter().filter(|(_, agent)| Some(**agent) == address).map(|(key, _)| key.clone()),
        );
        for key in &gone {
            self.forget(key);
        }
        gone.push(key);
        gone
    }

    fn add_framework(&mut self, info: &mesos::FrameworkInfo) -> Vec<String> {
        let Some(id) = info.id.as_ref().map(|id| id.value.clone()) else { return Vec::new() };
        let web =
            info.webui_url.as_deref().and_then(|url| url.split_once("://")).map_or("", |(_, rest)| rest);
        let host = info.hostname.as_deref().and_then(|host| host.parse().ok()).map(|address| (address, 0));
        let place = place(web.split('/').next().unwrap_or_default()).or(host);
        let framework = Framework { name: info.name.clone(), place };
        let renamed = self.frameworks.get(&id).is_none_or(|old| old.name != framework.name);
        let mut touched = vec![format!("framework/{id}")];
        if renamed {
            touched.extend(
                self.tasks.iter().filter(|(_, task)| task.framework == id).map(|(key, _)| key.clone()),
            );
        }
        self.frameworks.insert(id, framework);
        touched
    }

    fn remove_framework(&mut self, id: &str) -> Vec<String> {
        self.frameworks.remove(id);
        let of = format!("task/{id}/");
        let mut touched: Vec<String> =
            self.tasks.keys().chain(self.kept.keys()).filter(|key| key.starts_with(&of)).cloned().collect();
        for key in &touched {
            self.forget(key);
        }
        touched.push(format!("framework/{id}"));
        touched
    }

    fn add_task(&mut self, task: &mesos::Task) -> Option<String> {
        if is_terminal(state(task.state)) {
            return None;
        }
        let key = task_key(&task.framework_id.value, &task.task_id.value);
        self.kept.remove(&key);
        self.tasks.insert(key.clone(), Known::of(task));
        Some(key)
    }

    fn update_task(&mut self, updated: &event::TaskUpdated) -> Option<String> {
        let key = task_key(&updated.framework_id.value, &updated.status.task_id.value);
        let now = state(updated.state);
        if is_terminal(now) {
            self.forget(&key);
        } else {
            self.tasks.get_mut(&key)?.update(&updated.status, now);
        }
        Some(key)
    }

    /// The name under which a virtual address is given out.
    fn vip_name(framework: &str, wanted: &Wanted) -> String {
        match wanted {
            Wanted::Named(name) => {
                let framework = names::vip(framework);
                if framework.is_empty() { name.clone() } else { format!("{name}.{framework}") }
            }
            Wanted::Literal(address) => address.to_string(),
        }
    }

    /// Gives the task's virtual addresses out, and takes back those that it asks for no longer.
    fn settle(&mut self, key: &str) -> BTreeSet<String> {
        let mut asks = BTreeMap::new();
        if let Some(task) = self.tasks.get(key)
            && let Some(framework) = self.frameworks.get(&task.framework)
        {
            for wanted in task.wanted() {
                asks.insert(Self::vip_name(&framework.name, wanted), wanted.clone());
            }
        }
        let mut changed = BTreeSet::new();
        if self.kept.contains_key(key) {
            return changed;
        }
        let before = self.asked.remove(key).unwrap_or_default();
        for name in before.iter().filter(|name| !asks.contains_key(*name)) {
            if let Some(askers) = self.askers.get_mut(name) {
                askers.remove(key);
            }
            changed.insert(name.clone());
        }
        let mut now = BTreeSet::new();
        for (name, wanted) in asks {
            let given = match wanted {
                Wanted::Named(_) => self.addresses.named(&name).is_some(),
                Wanted::Literal(address) => self.addresses.literal(address),
            };
            if given {
                self.askers.entry(name.clone()).or_default().insert(key.to_owned());
                now.insert(name.clone());
                changed.insert(name);
            }
        }
        if !now.is_empty() {
            self.asked.insert(key.to_owned(), now);
        }
        changed
    }

    fn fact(&self, key: &str) -> Option<Fact> {
        let (kind, id) = key.split_once('/')?;
        match kind {
            "agent" => match self.agents.get(id) {
                Some((address, port)) => Some(Fact::Agent { address: *address, port: *port }),
                None if self.away.contains(id) => self.published.get(key).cloned(),
                None => None,
            },
            "framework" => {
                let framework = self.frameworks.get(id)?;
                let (address, port) = framework.place?;
                Some(Fact::Framework {
                    name: names::domain(&framework.name.replace('/', "-")),
                    address,
                    port,
                })
            }
            "task" => {
                if self.kept.contains_key(key) {
                    return self.published.get(key).cloned();
                }
                let task = self.tasks.get(key)?;
                let framework = &self.frameworks.get(&task.framework)?.name;
                let agent = self.agents.get(&task.agent)?.0;
                task.fact(framework, agent, &|wanted| {
                    let name = Self::vip_name(framework, wanted);
                    let address = self.addresses.address(&name)?;
                    let named = matches!(wanted, Wanted::Named(_));
                    (named || wanted == &Wanted::Literal(address)).then(|| (address, named.then_some(name)))
                })
            }
            "vip" => {
                // An address asked for by number is no name.
                if id.parse::<Ipv4Addr>().is_ok() {
                    return None;
                }
                self.addresses.address(id).map(Fact::Address)
            }
            _ => self.masters.get(key).cloned(),
        }
    }

    /// Works out the facts of these keys and tells those that are new.
    fn publish(&mut self, touched: BTreeSet<String>) -> Option<Delta> {
        let mut keys = BTreeSet::new();
        for key in touched {
            if key.starts_with("task/") {
                keys.extend(self.settle(&key).into_iter().map(|name| format!("vip/{name}")));
            }
            keys.insert(key);
        }
        for key in &keys {
            if let Some(name) = key.strip_prefix("vip/")
                && self.askers.get(name).is_none_or(BTreeSet::is_empty)
                && (self.away.is_empty() || !self.reserved.contains_key(name))
            {
                self.askers.remove(name);
                self.addresses.release(name);
            }
        }
        let mut changes = Vec::new();
        for key in keys {
            let fact = self.fact(&key);
            if fact.as_ref() == self.published.get(&key) {
                continue;
            }
            match &fact {
                Some(fact) => self.published.insert(key.clone(), fact.clone()),
                None => self.published.remove(&key),
            };
            changes.push(Change { key, fact });
        }
        if changes.is_empty() {
            return None;
        }
        self.generation += 1;
        Some(Delta { epoch: self.epoch, generation: self.generation, whole: None, changes })
    }

    /// Whether something is kept for an agent that the master only remembers. The stream does not tell when the master gives such an agent
    /// up, so that one has to look again.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.kept.is_empty()
    }

    /// The range from which names get their addresses.
    #[must_use]
    pub fn range(&self) -> Range {
        self.range
    }
}

/// `ip:port`, or an IP address alone.
fn place(text: &str) -> Option<(IpAddr, u16)> {
    if let Ok(place) = text.parse::<std::net::SocketAddr>() {
        return Some((place.ip(), place.port()));
    }
    text.parse().ok().map(|address| (address, 0))
}
