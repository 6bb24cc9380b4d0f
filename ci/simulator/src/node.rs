//! A node: an agent's process that dies and comes back, its disk, and the containers, which live on without it.

use std::collections::{BTreeMap, BTreeSet};

use plenum_agent::core::{
    Agent, Effect, Event, Exit, ExitStatus, Found, FoundState, Launch, LaunchStage, Level, ProbeOutcome,
    RecordWrite, Recovery, Settings, Started,
};
use plenum_api::Millis;
use plenum_api::internal::{self, AgentMessage, MasterFrame, agent_message};
use plenum_api::mesos::Offer;
use plenum_api::resources::{Amount, Item, Name, Resources};

use crate::check::Violation;
use crate::random::Random;
use crate::world::{Bug, Happens, World};

/// A container as the runtime knows it.
struct Container {
    framework: String,
    task: String,
    resources: Resources,
    state: ContainerState,
}

#[derive(Clone, PartialEq)]
enum ContainerState {
    Launching,
    /// Destroyed before it started.
    Doomed,
    Running,
    Exited(Exit),
}

/// One machine.
pub struct Node {
    core: Option<Agent>,
    life: u64,
    total: Resources,
    disk: BTreeMap<String, Vec<u8>>,
    writing: BTreeMap<u64, Vec<RecordWrite>>,
    conn: Option<u64>,
    containers: BTreeMap<String, Container>,
    /// Folders of persistent volumes on its disk by id, and which tasks wrote into each.
    pub volumes: BTreeMap<String, Vec<String>>,
    /// The slice of the overlay that it was given.
    slice: Option<u32>,
    highest_term: u64,
    ticks: BTreeSet<u64>,
    pid: u32,
    /// The term of the frame that is being obeyed.
    obeys: Option<u64>,
}

impl Node {
    /// A machine of some size.
    pub fn new(random: &mut Random) -> Self {
        let mut total = Resources::cpus_mem(random.between(2, 9) as f64, random.between(1, 9) as f64 * 512.0);
        total.add_item(Item::scalar(Name::DISK, Amount::from_f64(random.between(15, 100) as f64)));
        Self {
            core: None,
            life: 0,
            total,
            disk: BTreeMap::new(),
            writing: BTreeMap::new(),
            conn: None,
            containers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            highest_term: 0,
            slice: None,
            ticks: BTreeSet::new(),
            pid: 100,
            obeys: None,
        }
    }

    fn write(&mut self, writes: Vec<RecordWrite>) {
        for RecordWrite { key, body } in writes {
            match body {
                Some(body) => drop(self.disk.insert(key, body)),
                None => drop(self.disk.remove(&key)),
            }
        }
    }

    /// Framework and task of every container that runs or is about to.
    pub fn living(&self) -> impl Iterator<Item = (&str, &str)> {
        let living = |container: &&Container| {
            matches!(container.state, ContainerState::Running | ContainerState::Launching)
        };
        let living = self.containers.values().filter(living);
        living.map(|container| (container.framework.as_str(), container.task.as_str()))
    }

    /// The id that a master gave it.
    pub fn id(&self) -> Option<&str> {
        self.core.as_ref().map(Agent::agent_id).filter(|id| !id.is_empty())
    }

    /// Which of its lives this is.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Whether that life goes on.
    pub fn lives(&self, life: u64) -> bool {
        self.life == life && self.core.is_some()
    }

    /// Its id and what it has, while it runs and has an id.
    pub fn total_now(&self) -> Result<Option<(String, Resources)>, Violation> {
        let Some(core) = self.core.as_ref().filter(|core| core.is_registered()) else { return Ok(None) };
        Ok(Some((core.agent_id().to_owned(), amount(&core.view().agent.resources)?)))
    }

    fn found(&self) -> Vec<Found> {
        let found = |(id, container): (&String, &Container)| {
            let state = match &container.state {
                ContainerState::Running => {
                    FoundState::Running(Started { pid: Some(1), networks: Vec::new(), ..Default::default() })
                }
                ContainerState::Exited(exit) => FoundState::Exited(exit.clone()),
                ContainerState::Launching | ContainerState::Doomed => return None,
            };
            Some(Found { container: id.clone(), state })
        };
        self.containers.iter().filter_map(found).collect()
    }
}

impl World {
    pub(crate) fn agent_starts(&mut self, agent: usize) -> Result<(), Violation> {
        let bug = self.bug;
        let node = &mut self.nodes[agent];
        node.life += 1;
        let settings = Settings {
            hostname: format!("node-{agent}"),
            resources: node.total.to_mesos(),
            overlay: Some(internal::OverlayNode { slices: 1000, address: format!("10.0.0.{agent}") }),
            boot_id: "boot".to_owned(),
            send_starting: agent % 2 == 1,
            deliberate_lost_acknowledgement: bug == Some(Bug::LostAcknowledgement),
            deliberate_second_launch: bug == Some(Bug::LaunchedTwice),
            deliberate_old_term: bug == Some(Bug::OldTerm),
            ..Settings::default()
        };
        let records = node.disk.iter().map(|(key, body)| (key.clone(), body.clone())).collect();
        let recovery = Recovery { records, containers: node.found() };
        // A launch that had not come far enough to be found ends with the process that made it.
        for container in node.containers.values_mut().filter(|one| one.state == ContainerState::Launching) {
            container.state = ContainerState::Doomed;
        }
        node.core = Some(Agent::new(settings));
        self.agent_feed(agent, Event::Recovered(recovery))?;
        let highest = self.nodes[agent].highest_term;
        let term = self.nodes[agent].core.as_ref().map_or(0, Agent::term);
        if term < highest {
            return Err(format!(
                "agent {agent} obeyed term {highest} and has forgotten it: it now knows term {term}"
            ));
        }
        self.soon(Happens::Dial { agent });
        Ok(())
    }

    /// The process dies. What it was writing may or may not be on the disk; containers live on.
    pub(crate) fn kill_agent(&mut self, agent: usize) {
        let node = &mut self.nodes[agent];
        if node.core.take().is_none() {
            return;
        }
        self.totals.crashes += 1;
        let writing = std::mem::take(&mut node.writing);
        let survive = self.random.between(0, writing.len() as u64 + 1) as usize;
        for (_, writes) in writing.into_iter().take(survive) {
            self.nodes[agent].write(writes);
        }
        self.nodes[agent].ticks.clear();
        if let Some(conn) = self.nodes[agent].conn.take() {
            self.soon(Happens::CutAtMaster { conn });
        }
        self.tell(|| format!("agent {agent} dies"));
        let away = self.random.between(50, 30_000);
        self.later(away, Happens::AgentStarts { agent });
    }

    /// A connection breaks; each end learns it in its own time.
    pub(crate) fn cut(&mut self, agent: usize) {
        let Some(conn) = self.nodes[agent].conn else { return };
        self.totals.cuts += 1;
        self.soon(Happens::CutAtMaster { conn });
        self.soon(Happens::CutAtAgent { agent, conn });
    }

    pub(crate) fn dial(&mut self, agent: usize) -> Result<(), Violation> {
        if self.nodes[agent].core.is_none() || self.nodes[agent].conn.is_some() {
            return Ok(());
        }
        let Some(conn) = self.accept(agent) else {
            self.later(1_000, Happens::Dial { agent });
            return Ok(());
        };
        self.nodes[agent].conn = Some(conn);
        self.agent_feed(agent, Event::Connected { conn })
    }

    pub(crate) fn at_agent(&mut self, conn: u64, frame: MasterFrame) -> Result<(), Violation> {
        match self.nodes.iter().position(|node| node.conn == Some(conn)) {
            Some(agent) => {
                self.nodes[agent].obeys = Some(frame.term);
                let fed = self.agent_feed(agent, Event::Master { conn, frame });
                self.nodes[agent].obeys = None;
                fed
            }
            None => Ok(()),
        }
    }

    pub(crate) fn cut_at_agent(&mut self, agent: usize, conn: u64) -> Result<(), Violation> {
        if self.nodes[agent].conn != Some(conn) {
            return Ok(());
        }
        self.nodes[agent].conn = None;
        self.soon(Happens::CutAtMaster { conn });
        self.soon(Happens::Dial { agent });
        self.agent_feed(agent, Event::Disconnected { conn })
    }

    pub(crate) fn written(&mut self, agent: usize, life: u64, token: u64) -> Result<(), Violation> {
        let node = &mut self.nodes[agent];
        if node.life != life || node.core.is_none() {
            return Ok(());
        }
        let done: Vec<u64> = node.writing.range(..=token).map(|(token, _)| *token).collect();
        for token in done {
            if let Some(writes) = self.nodes[agent].writing.remove(&token) {
                self.nodes[agent].write(writes);
                self.agent_feed(agent, Event::Checkpointed { token, result: Ok(()) })?;
            }
        }
        Ok(())
    }

    pub(crate) fn agent_tick(&mut self, agent: usize, life: u64) -> Result<(), Violation> {
        if self.nodes[agent].life != life || self.nodes[agent].core.is_none() {
            return Ok(());
        }
        self.nodes[agent].ticks.remove(&self.time);
        self.agent_feed(agent, Event::Tick)
    }

    pub(crate) fn collected(&mut self, agent: usize, life: u64, container: String) -> Result<(), Violation> {
        if self.nodes[agent].life != life {
            return Ok(());
        }
        self.agent_feed(agent, Event::Collected { container })
    }

    pub(crate) fn container_starts(&mut self, agent: usize, id: &str) -> Result<(), Violation> {
        let fails = self.random.chance(30);
        let Some(container) = self.nodes[agent].containers.get_mut(id) else { return Ok(()) };
        let container_id = id.to_owned();
        if fails || container.state == ContainerState::Doomed {
            self.nodes[agent].containers.remove(id);
            let message = "the program is not there".to_owned();
            return self.agent_feed(
                agent,
                Event::LaunchFailed { container: container_id, stage: LaunchStage::Start, message },
            );
        }
        container.state = ContainerState::Running;
        self.nodes[agent].pid += 1;
        let started =
            Started { pid: Some(self.nodes[agent].pid), networks: Vec::new(), ..Default::default() };
        let life = self.random.between(50, 240_000);
        let code = if self.random.chance(800) { 0 } else { 1 };
        self.later(life, Happens::Ends { agent, container: container_id.clone(), code: Some(code) });
        self.agent_feed(agent, Event::Launched { container: container_id, started })
    }

    pub(crate) fn container_ends(
        &mut self,
        agent: usize,
        id: &str,
        code: Option<i32>,
    ) -> Result<(), Violation> {
        let Some(container) = self.nodes[agent].containers.get_mut(id) else { return Ok(()) };
        if container.state != ContainerState::Running {
            return Ok(());
        }
        let status = code.map_or(ExitStatus::Signal(15), ExitStatus::Code);
        let exit = Exit { status, oom: false, abnormal: false, message: String::new() };
        container.state = ContainerState::Exited(exit.clone());
        self.agent_feed(agent, Event::Exited { container: id.to_owned(), exit })
    }

    /// An offer against what really runs on its agent.
    pub(crate) fn check_offer(&mut self, offer: &Offer, stream: u64) -> Result<(), Violation> {
        let agent = &offer.agent_id.value;
        let Some(node) = self.nodes.iter().find(|node| node.id() == Some(agent)) else { return Ok(()) };
        let mut used = Resources::default();
        for container in node.containers.values() {
            let runs = matches!(container.state, ContainerState::Running | ContainerState::Launching);
            // A removed framework's containers are being ended; the master gives their resources away meanwhile, as Mesos does.
            if runs && !self.removed(&container.framework) {
                used += container.resources.clone();
            }
        }
        // Under that bug much goes wrong; what agents do is to be seen.
        if self.bug != Some(Bug::OldTerm) && !self.store.life(agent)?.serves() {
            return Err(format!("agent {agent} is out of service and is offered all the same"));
        }
        let resources = amount(&offer.resources)?;
        let total = node.total.clone();
        self.seen.offered(&offer.id.value, agent, stream, &resources, &used, &total)
    }

    pub(crate) fn agent_feed(&mut self, agent: usize, event: Event) -> Result<(), Violation> {
        let now = self.now();
        let Some(core) = self.nodes[agent].core.as_mut() else { return Ok(()) };
        let effects = core.handle(event, now, &mut self.random);
        let (wake, term) = (core.next_wake(), core.term());
        self.nodes[agent].highest_term = self.nodes[agent].highest_term.max(term);
        for effect in effects {
            self.agent_effect(agent, effect)?;
        }
        if let Some(Millis(at)) = wake {
            let at = at.max(self.time + 1);
            if self.nodes[agent].ticks.insert(at) {
                let life = self.nodes[agent].life;
                self.at(at, Happens::AgentTick { agent, life });
            }
        }
        Ok(())
    }

    /// A slice of the overlay is one agent's for ever, whoever led when it was given out.
    fn overlay_told(&mut self, agent: usize, slice: Option<u32>) -> Result<(), Violation> {
        let Some(slice) = slice else { return Ok(()) };
        if let Some(other) =
            (0..self.nodes.len()).find(|n| *n != agent && self.nodes[*n].slice == Some(slice))
        {
            return Err(format!("agents {other} and {agent} both have slice {slice} of the overlay"));
        }
        match self.nodes[agent].slice.replace(slice) {
            Some(before) if before != slice => {
                Err(format!("agent {agent} had slice {before} of the overlay and is given {slice}"))
            }
            _ => Ok(()),
        }
    }

    fn agent_effect(&mut self, agent: usize, effect: Effect) -> Result<(), Violation> {
        let life = self.nodes[agent].life;
        let acts = matches!(effect, Effect::Launch(_) | Effect::Kill { .. } | Effect::Checkpoint { .. });
        if let Some(term) =
            self.nodes[agent].obeys.filter(|term| acts && *term < self.nodes[agent].highest_term)
        {
            let highest = self.nodes[agent].highest_term;
            return Err(format!("agent {agent} has obeyed term {highest} and acts on one of term {term}"));
        }
        match effect {
            Effect::Send(kind) => self.say(agent, *kind),
            Effect::Disconnect { reason } => {
                self.tell(|| format!("agent {agent} hangs up: {reason}"));
                if let Some(conn) = self.nodes[agent].conn.take() {
                    let at = self.arrival(conn, true);
                    self.at(at + 1, Happens::CutAtMaster { conn });
                    self.later(500, Happens::Dial { agent });
                }
            }
            Effect::Checkpoint { token, writes } => {
                self.nodes[agent].writing.insert(token, writes);
                self.soon(Happens::Written { agent, life, token });
            }
            Effect::Overlay(news) => self.overlay_told(agent, news.slice)?,
            Effect::Volumes { token, make, remove } => self.volumes_change(agent, token, make, remove)?,
            Effect::SetAside { key } => {
                return Err(format!("agent {agent} cannot read its own record {key}"));
            }
            Effect::Launch(launch) => self.launch(agent, &launch)?,
            Effect::Kill { container, grace } => {
                let within = self.random.between(1, grace.0.max(2));
                self.later(within, Happens::Ends { agent, container, code: None });
            }
            Effect::Destroy { container } => self.destroy(agent, container),
            Effect::Release { container } => {
                if let Some(gone) = self.nodes[agent].containers.remove(&container)
                    && matches!(gone.state, ContainerState::Exited(_))
                {
                    self.seen.ended(&gone.framework, &gone.task);
                }
            }
            Effect::Check(check) => {
                let outcome = ProbeOutcome::Exit(0);
                self.agent_feed(
                    agent,
                    Event::CheckDone {
                        task: check.task,
                        kind: check.kind,
                        generation: check.generation,
                        outcome,
                    },
                )?;
            }
            Effect::Retire { container, .. } => {
                self.later(60_000, Happens::Collected { agent, life, container })
            }
            Effect::Report { level: Level::Warn, text } => self.tell(|| format!("agent {agent}: {text}")),
            Effect::Stop { reason } => {
                self.tell(|| format!("agent {agent} stops: {reason}"));
                self.kill_agent(agent);
            }
            Effect::ExecutorReply { .. }
            | Effect::ExecutorSend { .. }
            | Effect::ExecutorClose { .. }
            | Effect::Report { .. } => {}
        }
        Ok(())
    }

    fn say(&mut self, agent: usize, kind: agent_message::Kind) {
        let Some(conn) = self.nodes[agent].conn else { return };
        let doubled = matches!(kind, agent_message::Kind::StatusUpdate(_)) && self.random.chance(20);
        for _ in 0..=u8::from(doubled) {
            let at = self.arrival(conn, true);
            let message = Box::new(AgentMessage { kind: Some(kind.clone()) });
            self.at(at, Happens::AtMaster { conn, message });
        }
    }

    fn launch(&mut self, agent: usize, launch: &Launch) -> Result<(), Violation> {
        let Some(task) = &launch.task else { return Err("no executor was asked for".to_owned()) };
        let task = task.task_id.value.clone();
        self.seen.starts(&task, agent)?;
        self.volumes_used(agent, &task, &launch.resources)?;
        let container = Container {
            framework: launch.framework.clone(),
            task,
            resources: amount(&launch.resources)?,
            state: ContainerState::Launching,
        };
        self.nodes[agent].containers.insert(launch.container.clone(), container);
        self.soon(Happens::Starts { agent, container: launch.container.clone() });
        Ok(())
    }

    fn destroy(&mut self, agent: usize, id: String) {
        match self.nodes[agent].containers.get_mut(&id).map(|container| &mut container.state) {
            Some(state @ ContainerState::Launching) => *state = ContainerState::Doomed,
            Some(ContainerState::Running) => self.soon(Happens::Ends { agent, container: id, code: None }),
            _ => {}
        }
    }
}

fn amount(resources: &[plenum_api::mesos::Resource]) -> Result<Resources, Violation> {
    Resources::from_mesos(resources).map_err(|error| format!("resources that are none: {error}"))
}
