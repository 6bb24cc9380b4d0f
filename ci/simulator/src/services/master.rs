//! The master, played: offers, launches, updates, reconciliation, nodes that are lost and return. It answers as the real one does.

use std::collections::{BTreeMap, BTreeSet};

use plenum_services::core::id::InstanceId;
use plenum_services::core::instance::{State, Status};
use plenum_services::core::matching::{Offer, Take};
use plenum_services::core::{Effect, Event, Launch};

use super::node::{Message, Update};
use super::{Happens, SILENCE, World, books};
use crate::check::Violation;

/// Where a node is with the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    Registered,
    /// The master before knew it.
    Recovered,
    /// It was silent for too long.
    Unreachable,
    /// An operator gave it up.
    Gone,
}

/// A task that the master knows.
#[derive(Debug)]
struct Task {
    agent: String,
    instance: String,
    state: State,
    healthy: Option<bool>,
}

/// It.
#[derive(Default)]
pub struct Master {
    pub up: bool,
    /// Counts its lives.
    epoch: u64,
    /// The scheduler's stream.
    pub stream: Option<u64>,
    streams: u64,
    told_at: u64,
    suppressed: bool,
    refused: BTreeMap<String, u64>,
    offers: BTreeMap<String, Offer>,
    number: u64,
    pub agents: BTreeMap<String, Standing>,
    tasks: BTreeMap<String, Task>,
    /// Tasks of nodes that are out of reach, and their nodes.
    unreachable: BTreeMap<String, String>,
    /// What instances hold, by instance.
    held: BTreeMap<String, (String, Vec<Take>)>,
}

impl Master {
    fn forget(&mut self, task: &str) {
        if let Some(known) = self.tasks.remove(task) {
            self.release(&known.instance);
        }
    }

    /// An instance of which nothing lives holds nothing.
    fn release(&mut self, instance: &str) {
        let lives = self.tasks.values().any(|task| task.instance == instance && !task.state.is_terminal());
        if !lives {
            self.held.remove(instance);
        }
    }

    fn of_agent(&self, agent: &str) -> Vec<String> {
        self.tasks.iter().filter(|(_, task)| task.agent == agent).map(|(id, _)| id.clone()).collect()
    }
}

/// The instance of a task.
pub fn instance_of(task: &str) -> String {
    InstanceId::of_task(task).map(|(id, ..)| id.to_string()).unwrap_or_default()
}

impl World {
    pub fn master_starts(&mut self) {
        self.master.up = true;
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_linked() {
                let conn = self.nodes[node].connect();
                let after = self.random.between(5, 5_000);
                self.later(after, Happens::Registers { node, conn });
            }
        }
        self.later(100_000, Happens::Recovered { epoch: self.master.epoch });
        self.later(1_000, Happens::Round { epoch: self.master.epoch });
    }

    pub fn master_dies(&mut self) {
        if !std::mem::take(&mut self.master.up) {
            return;
        }
        self.tell(|| "--- the master dies".to_owned());
        self.done.masters += 1;
        let master = &mut self.master;
        master.epoch += 1;
        master.stream = None;
        (master.suppressed, master.refused) = (false, BTreeMap::new());
        master.offers.clear();
        master.tasks.clear();
        master.unreachable.clear();
        master.held.clear();
        for standing in master.agents.values_mut().filter(|s| **s == Standing::Registered) {
            *standing = Standing::Recovered;
        }
        self.disconnected();
        let pause = self.random.between(100, 20_000);
        self.later(pause, Happens::MasterStarts);
    }

    pub fn recovered(&mut self, epoch: u64) {
        if epoch == self.master.epoch {
            for standing in self.master.agents.values_mut().filter(|s| **s == Standing::Recovered) {
                *standing = Standing::Unreachable;
            }
        }
    }

    pub fn subscribes(&mut self, life: u64) {
        if life != self.scheduler.life || self.scheduler.state().is_none() || self.scheduler.stream.is_some()
        {
            return;
        }
        if !self.master.up {
            return self.later(500, Happens::Subscribes { life });
        }
        self.master.streams += 1;
        self.master.stream = Some(self.master.streams);
        self.scheduler.stream = self.master.stream;
        (self.master.suppressed, self.master.refused) = (false, BTreeMap::new());
        self.master.offers.clear();
        let (framework, master) = ("F".to_owned(), "played".to_owned());
        self.announce(Event::Subscribed { framework, master });
    }

    /// Tells the scheduler something, in order.
    fn announce(&mut self, event: Event) {
        let Some(stream) = self.master.stream else { return };
        let at = (self.now + self.random.delay()).max(self.master.told_at);
        self.master.told_at = at;
        let life = self.scheduler.life;
        self.at(at, Happens::Told { life, stream: Some(stream), event: Box::new(event) });
    }

    fn announce_status(&mut self, task: &str, state: State, agent: Option<String>, healthy: Option<bool>) {
        let status = Status { agent, healthy, ..Status::new(task, state) };
        self.announce(Event::Status(Box::new(status)));
    }

    pub fn offers_round(&mut self, epoch: u64) {
        if epoch != self.master.epoch {
            return;
        }
        self.later(1_000, Happens::Round { epoch });
        if self.master.stream.is_none() || self.master.suppressed {
            return;
        }
        let mut offers = Vec::new();
        for (agent, standing) in self.master.agents.clone() {
            let refused = self.master.refused.get(&agent).is_some_and(|until| *until > self.now);
            let outstanding = self.master.offers.values().any(|offer| offer.agent == agent);
            let Some(node) = self.nodes.iter().find(|node| node.id == agent) else { continue };
            if standing != Standing::Registered || refused || outstanding {
                continue;
            }
            self.master.number += 1;
            let mut offer = books::whole(format!("O{}", self.master.number), &agent, &node.host);
            for (_, takes) in self.master.held.values().filter(|(of, _)| *of == agent) {
                books::take(&mut offer, takes);
            }
            if books::is_of_use(&offer) {
                self.master.offers.insert(offer.id.clone(), offer.clone());
                offers.push(offer);
            }
        }
        if !offers.is_empty() {
            self.announce(Event::Offers(offers));
        }
    }

    pub fn called(&mut self, life: u64, stream: u64, effect: Effect) -> Result<(), Violation> {
        if !self.master.up || self.master.stream != Some(stream) {
            if life == self.scheduler.life {
                self.call_fails(life);
            }
            return Ok(());
        }
        match effect {
            Effect::Accept { offer, launches, refuse, .. } => {
                let offer = self.master.offers.remove(&offer);
                if let Some(offer) = &offer {
                    self.master.refused.insert(offer.agent.clone(), self.now + refuse.0);
                }
                return self.accepted(offer, launches);
            }
            Effect::Decline { offers, refuse } => {
                for id in offers {
                    if let Some(offer) = self.master.offers.remove(&id) {
                        self.master.refused.insert(offer.agent, self.now + refuse.0);
                    }
                }
            }
            Effect::Kill { task, agent, .. } => self.kill(task, agent),
            Effect::Acknowledge { task, agent, uuid } => {
                if self.master.tasks.get(&task).is_some_and(|known| known.state.is_terminal()) {
                    self.master.forget(&task);
                }
                self.send_node(&agent, Message::Acknowledged { task, uuid });
            }
            Effect::Reconcile(asked) => self.reconcile(asked),
            Effect::Revive => (self.master.suppressed, self.master.refused) = (false, BTreeMap::new()),
            Effect::Suppress => self.master.suppressed = true,
            _ => {}
        }
        Ok(())
    }

    fn accepted(&mut self, offer: Option<Offer>, launches: Vec<Launch>) -> Result<(), Violation> {
        let mut left = offer.filter(|o| self.master.agents.get(&o.agent) == Some(&Standing::Registered));
        for launch in launches {
            let (agent, instance) = (launch.record.agent.clone(), launch.record.id.to_string());
            let tasks: Vec<String> = launch.record.tasks().map(|(_, id)| id).collect();
            let Some(offer) = left.as_mut() else {
                for task in tasks {
                    self.announce_status(&task, State::Dropped, Some(agent.clone()), None);
                }
                continue;
            };
            if offer.agent != agent || !books::take(offer, &launch.takes) {
                return Err(format!(
                    "{instance} takes more than the offer {} has: {:?}",
                    offer.id, launch.takes
                ));
            }
            for task in tasks {
                let (agent, instance) = (agent.clone(), instance.clone());
                let known = Task { agent, instance, state: State::Staging, healthy: None };
                self.master.tasks.insert(task, known);
            }
            self.master.held.insert(instance, (agent.clone(), launch.takes.clone()));
            self.send_node(&agent, Message::Launch(Box::new(launch)));
        }
        Ok(())
    }

    /// Sends something to a node, if it can be reached.
    fn send_node(&mut self, agent: &str, message: Message) {
        let linked =
            |node: &super::node::Node| node.id == agent && node.is_linked() && node.known == node.conn;
        let Some(n) = self.nodes.iter().position(linked) else { return };
        let at = (self.now + self.random.delay()).max(self.nodes[n].heard_at);
        self.nodes[n].heard_at = at;
        let conn = self.nodes[n].conn;
        self.at(at, Happens::AtNode { node: n, conn, message });
    }

    fn kill(&mut self, task: String, agent: Option<String>) {
        match self.master.tasks.get(&task) {
            None => self.reconcile(vec![(task, agent)]),
            Some(known) if known.state.is_terminal() => {}
            Some(known) => {
                let agent = known.agent.clone();
                self.send_node(&agent, Message::Kill { task });
            }
        }
    }

    fn reconcile(&mut self, asked: Vec<(String, Option<String>)>) {
        if asked.is_empty() {
            let all: Vec<_> =
                self.master.tasks.iter().map(|(id, task)| (id.clone(), task.agent.clone())).collect();
            return self.reconcile_each(all.into_iter().map(|(id, agent)| (id, Some(agent))).collect());
        }
        self.reconcile_each(asked);
    }

    fn reconcile_each(&mut self, asked: Vec<(String, Option<String>)>) {
        let recovering = self.master.agents.values().any(|standing| *standing == Standing::Recovered);
        for (task, agent) in asked {
            if let Some(known) = self.master.tasks.get(&task) {
                let (state, agent, healthy) = (known.state, known.agent.clone(), known.healthy);
                self.announce_status(&task, state, Some(agent), healthy);
                continue;
            }
            if let Some(agent) = self.master.unreachable.get(&task).cloned() {
                self.announce_status(&task, State::Unreachable, Some(agent), None);
                continue;
            }
            let standing = agent.as_ref().map(|agent| self.master.agents.get(agent));
            let state = match standing {
                None if recovering => continue,
                Some(Some(Standing::Recovered)) => continue,
                None | Some(None) => State::Unknown,
                Some(Some(Standing::Registered)) => State::Gone,
                Some(Some(Standing::Unreachable)) => State::Unreachable,
                Some(Some(Standing::Gone)) => State::GoneByOperator,
            };
            self.announce_status(&task, state, agent, None);
        }
    }

    /// A node said nothing for too long.
    pub fn silent(&mut self, agent: &str, conn: u64) {
        // It has come back since; one that has begun anew never will.
        if self.nodes.iter().any(|node| node.id == agent && (node.is_linked() || node.conn != conn)) {
            return;
        }
        if !self.master.up || self.master.agents.get(agent) != Some(&Standing::Registered) {
            // Another master, or this one once it is there, waits for it anew.
            return;
        }
        self.master.agents.insert(agent.to_owned(), Standing::Unreachable);
        self.master.offers.retain(|_, offer| offer.agent != agent);
        for task in self.master.of_agent(agent) {
            let ended = self.master.tasks.get(&task).is_some_and(|known| known.state.is_terminal());
            self.master.forget(&task);
            if !ended {
                self.master.unreachable.insert(task.clone(), agent.to_owned());
                self.announce_status(&task, State::Unreachable, Some(agent.to_owned()), None);
            }
        }
        self.tell(|| format!("  {agent} is out of reach"));
    }

    /// An operator gives up a node that is out of reach.
    pub fn give_up(&mut self) {
        if !self.master.up {
            return;
        }
        let lost = self.master.agents.iter().find(|(_, standing)| **standing == Standing::Unreachable);
        let Some(agent) = lost.map(|(agent, _)| agent.clone()) else { return };
        self.tell(|| format!("--- {agent} is given up"));
        self.master.agents.insert(agent.clone(), Standing::Gone);
        let tasks: Vec<String> = self
            .master
            .unreachable
            .iter()
            .filter(|(_, of)| **of == agent)
            .map(|(task, _)| task.clone())
            .collect();
        for task in tasks {
            self.master.unreachable.remove(&task);
            self.announce_status(&task, State::GoneByOperator, Some(agent.clone()), None);
        }
    }

    pub fn registers(&mut self, n: usize, conn: u64) {
        let node = &self.nodes[n];
        if node.conn != conn || !node.is_linked() {
            return;
        }
        if !self.master.up {
            return self.later(1_000, Happens::Registers { node: n, conn });
        }
        let agent = node.id.clone();
        if self.master.agents.get(&agent) == Some(&Standing::Gone) {
            self.tell(|| format!("  {agent} is turned away"));
            self.nodes[n].start_over();
            let conn = self.nodes[n].conn;
            return self.later(1_000, Happens::Registers { node: n, conn });
        }
        self.nodes[n].known = conn;
        self.master.agents.insert(agent.clone(), Standing::Registered);
        let there: BTreeMap<String, (State, Option<bool>, String, Vec<Take>)> = self.nodes[n].tasks();
        // What never arrived, or has ended and was acknowledged, is not there.
        for task in self.master.of_agent(&agent) {
            if !there.contains_key(&task) {
                let ended = self.master.tasks.get(&task).is_some_and(|known| known.state.is_terminal());
                self.master.forget(&task);
                if !ended {
                    self.announce_status(&task, State::Dropped, Some(agent.clone()), None);
                }
            }
        }
        self.master.unreachable.retain(|_, of| *of != agent);
        let before: BTreeSet<String> = self.master.tasks.keys().cloned().collect();
        for (task, (state, healthy, instance, takes)) in there {
            if before.contains(&task) {
                continue;
            }
            let held = (agent.clone(), takes);
            let known = Task { agent: agent.clone(), instance: instance.clone(), state, healthy };
            self.master.tasks.insert(task.clone(), known);
            if !state.is_terminal() {
                self.master.held.insert(instance, held);
                self.announce_status(&task, state, Some(agent.clone()), healthy);
            }
        }
        self.send_all(n);
    }

    /// A node's update arrives; it goes on to the scheduler, which acknowledges it.
    pub fn updated(&mut self, n: usize, conn: u64, task: &str, update: Update) {
        let node = &self.nodes[n];
        let agent = node.id.clone();
        if node.conn != conn
            || !self.master.up
            || self.master.agents.get(&agent) != Some(&Standing::Registered)
        {
            return;
        }
        if let Some(known) = self.master.tasks.get_mut(task)
            && !known.state.is_terminal()
        {
            (known.state, known.healthy) = (update.state, update.healthy);
            let instance = known.instance.clone();
            self.master.release(&instance);
        }
        let status = Status {
            agent: Some(agent),
            healthy: update.healthy,
            uuid: Some(update.uuid.to_le_bytes().to_vec()),
            message: update.message.to_owned(),
            ..Status::new(task, update.state)
        };
        if self.stormy && self.random.chance(30) {
            self.announce(Event::Status(Box::new(status.clone())));
        }
        self.announce(Event::Status(Box::new(status)));
    }

    /// The line to a node breaks, for a moment or for long.
    pub fn cut(&mut self, n: usize) {
        if !self.nodes[n].is_linked() {
            return;
        }
        self.done.losses += 1;
        let conn = self.nodes[n].unlink();
        let agent = self.nodes[n].id.clone();
        self.tell(|| format!("--- {agent} falls silent"));
        self.later(SILENCE, Happens::Silent { agent, conn });
        let pause = if self.random.chance(500) { 5_000 } else { 300_000 };
        let pause = self.random.between(10, pause);
        self.later(pause, Happens::Returns { node: n });
    }
}
