//! A node, played: instances that start late, fail, crash and are never healthy; updates that are sent until somebody acknowledges them.

use std::collections::{BTreeMap, VecDeque};

use plenum_services::core::Launch;
use plenum_services::core::instance::State;
use plenum_services::core::matching::Take;

use super::{Happens, SILENCE, World};

/// The container of a pod that has something to do first and then ends, while the others go on.
pub const SETUP: &str = "setup";

/// What the master says to a node.
#[derive(Debug)]
pub enum Message {
    /// Start this.
    Launch(Box<Launch>),
    /// End this.
    Kill {
        /// The task.
        task: String,
    },
    /// The scheduler has taken note.
    Acknowledged {
        /// Of which task.
        task: String,
        /// Of which update.
        uuid: Vec<u8>,
    },
}

/// Something about a task.
#[derive(Clone, Debug)]
pub struct Update {
    pub uuid: u64,
    pub state: State,
    pub healthy: Option<bool>,
    pub message: &'static str,
}

/// A task.
#[derive(Debug)]
struct Task {
    state: State,
    healthy: Option<bool>,
    /// What it does by itself, and after how many milliseconds each.
    way: Vec<(u64, State, Option<bool>)>,
    updates: VecDeque<Update>,
    sent: bool,
    /// It has missed being told to end once already.
    deaf: bool,
    ending: bool,
}

impl Task {
    /// It has ended, and everybody knows.
    fn is_over(&self) -> bool {
        self.state.is_terminal() && self.updates.is_empty()
    }
}

/// An instance that was launched here.
#[derive(Debug)]
pub struct Run {
    /// Whose.
    pub app: String,
    /// Its command, by which operators tell versions apart.
    pub cmd: String,
    takes: Vec<Take>,
    checked: bool,
    tasks: BTreeMap<String, Task>,
}

impl Run {
    /// Whether any of it lives.
    pub fn lives(&self) -> bool {
        self.tasks.values().any(|task| !task.state.is_terminal())
    }

    /// Whether all of it runs, and is healthy where that is looked at. What only had something to do may have done it.
    pub fn serves(&self) -> bool {
        let serves = |task: &Task| match task.state {
            State::Running => !self.checked || task.healthy == Some(true),
            state => state == State::Finished,
        };
        self.tasks.values().all(serves)
    }
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its id at the master.
    pub id: String,
    pub host: String,
    number: usize,
    /// Counts its connections.
    pub conn: u64,
    /// The connection that it registered by.
    pub known: u64,
    linked: bool,
    /// Counts its boots.
    boot: u64,
    pub runs: BTreeMap<String, Run>,
    pub heard_at: u64,
    said_at: u64,
    updates: u64,
}

impl Node {
    pub fn new(number: usize, host: String) -> Self {
        Self {
            id: format!("S{number}"),
            host,
            number,
            conn: 0,
            known: 0,
            linked: false,
            boot: 0,
            runs: BTreeMap::new(),
            heard_at: 0,
            said_at: 0,
            updates: 0,
        }
    }

    /// Whether it can talk to the master.
    pub fn is_linked(&self) -> bool {
        self.linked
    }

    /// A new connection.
    pub fn connect(&mut self) -> u64 {
        self.linked = true;
        self.conn += 1;
        self.conn
    }

    /// None any more.
    pub fn unlink(&mut self) -> u64 {
        self.linked = false;
        self.conn += 1;
        self.conn
    }

    /// Everything on it ends, and it is another one from now on.
    pub fn start_over(&mut self) {
        self.runs.clear();
        self.boot += 1;
        self.id = format!("S{}-{}", self.number, self.boot);
    }

    /// What it knows of tasks: state, health, instance and what that holds.
    pub fn tasks(&self) -> BTreeMap<String, (State, Option<bool>, String, Vec<Take>)> {
        let each = self.runs.iter().flat_map(|(instance, run)| {
            let of = move |(id, task): (&String, &Task)| {
                // Of an end nobody was told yet the update tells.
                let state = task.updates.front().map_or(task.state, |update| update.state);
                let state = if task.state.is_terminal() && !state.is_terminal() { state } else { task.state };
                (id.clone(), (state, task.healthy, instance.clone(), run.takes.clone()))
            };
            run.tasks.iter().filter(|(_, task)| !task.is_over()).map(of)
        });
        each.collect()
    }

    fn task(&mut self, id: &str) -> Option<&mut Task> {
        self.runs.values_mut().find_map(|run| run.tasks.get_mut(id))
    }
}

impl World {
    /// Whether an instance runs and answers somewhere.
    pub fn serves(&self, instance: &str) -> bool {
        self.nodes.iter().any(|node| node.runs.get(instance).is_some_and(|run| run.lives()))
    }

    pub fn at_node(&mut self, n: usize, conn: u64, message: Message) {
        if self.nodes[n].conn != conn {
            return;
        }
        match message {
            Message::Launch(launch) => self.launch(n, &launch),
            Message::Kill { task } => self.end(n, &task),
            Message::Acknowledged { task, uuid } => self.acknowledged(n, &task, &uuid),
        }
    }

    fn launch(&mut self, n: usize, launch: &Launch) {
        let (instance, definition) = (launch.record.id.to_string(), launch.definition.to_json());
        let text =
            |value: Option<&serde_json::Value>| value.and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let command = definition
            .get("cmd")
            .or_else(|| definition.get("environment").and_then(|environment| environment.get("CMD")));
        let cmd = text(command);
        let checked = launch.definition.has_health_checks();
        let mut run = Run {
            app: launch.record.app.to_string(),
            cmd,
            takes: launch.takes.clone(),
            checked,
            tasks: BTreeMap::new(),
        };
        let boot = self.nodes[n].boot;
        for (container, id) in launch.record.tasks() {
            let checked = launch.definition.has_health_check(container);
            let way = self.way(&run.cmd, container, checked);
            let first = way.first().map_or(1, |step| step.0);
            let task = Task {
                state: State::Staging,
                healthy: None,
                way,
                updates: VecDeque::new(),
                sent: false,
                deaf: false,
                ending: false,
            };
            run.tasks.insert(id.clone(), task);
            self.later(first, Happens::Progress { node: n, boot, task: id, step: 0 });
        }
        self.nodes[n].runs.insert(instance, run);
    }

    /// What a task does by itself, which its command says.
    fn way(&mut self, cmd: &str, container: &str, checked: bool) -> Vec<(u64, State, Option<bool>)> {
        let word = cmd.split('-').next().unwrap_or_default();
        let random = &mut self.random;
        if self.stormy && random.chance(20) {
            // Nothing is heard of its start until its node has had enough.
            return vec![(60_000, State::Failed, None)];
        }
        let start = if word == "slow" { random.between(1_000, 40_000) } else { random.between(10, 2_000) };
        let mut way = Vec::new();
        if random.chance(300) {
            way.push((5, State::Starting, None));
        }
        match word {
            "broken" => way.push((start, State::Failed, None)),
            "crash" => {
                way.push((start, State::Running, None));
                way.push((random.between(10, 20_000), State::Failed, None));
            }
            "sick" if checked => {
                way.push((start, State::Running, None));
                way.extend([(2_000, State::Running, Some(false)); 3]);
                way.push((10, State::Killed, Some(false)));
            }
            _ if container == SETUP => {
                way.push((start, State::Running, None));
                way.push((random.between(10, 20_000), State::Finished, None));
            }
            _ => {
                way.push((start, State::Running, None));
                let until = if word == "slow" { 30_000 } else { 2_000 };
                if checked && random.chance(200) {
                    way.push((random.between(10, until), State::Running, Some(false)));
                }
                if checked {
                    way.push((random.between(10, until), State::Running, Some(true)));
                }
                while checked && random.chance(200) {
                    way.push((random.between(1_000, 60_000), State::Running, Some(false)));
                    way.push((random.between(10, 10_000), State::Running, Some(true)));
                }
                if random.chance(if word == "flaky" { 600 } else { 20 }) {
                    way.push((random.between(1_000, 120_000), State::Failed, None));
                }
            }
        }
        way
    }

    pub fn progress(&mut self, n: usize, boot: u64, id: &str, step: usize) {
        if self.nodes[n].boot != boot {
            return;
        }
        let Some(task) = self.nodes[n].task(id) else { return };
        let Some((_, state, healthy)) = task.way.get(step).copied() else { return };
        if task.state.is_terminal() || (task.ending && !state.is_terminal()) {
            return;
        }
        let calm = !self.stormy && state == State::Failed && step > 1;
        if let Some((after, ..)) = self.nodes[n].task(id).and_then(|task| task.way.get(step + 1).copied()) {
            let task = id.to_owned();
            self.later(after, Happens::Progress { node: n, boot, task, step: step + 1 });
        }
        if calm && !self.is_crashing(n, id) {
            return;
        }
        self.becomes(n, id, state, healthy);
    }

    /// Whether failing is what its command says, and no accident.
    fn is_crashing(&self, n: usize, id: &str) -> bool {
        let run = self.nodes[n].runs.values().find(|run| run.tasks.contains_key(id));
        run.is_some_and(|run| run.cmd.starts_with("crash") || run.cmd.starts_with("broken"))
    }

    /// A task is in another state; its node says so, and what belongs to it goes with it.
    fn becomes(&mut self, n: usize, id: &str, state: State, healthy: Option<bool>) {
        let node = &mut self.nodes[n];
        node.updates += 1;
        let uuid = node.updates;
        let Some(task) = node.task(id).filter(|task| !task.state.is_terminal()) else { return };
        task.state = state;
        task.healthy = healthy.or(task.healthy);
        let message = if state == State::Failed { "it failed" } else { "" };
        let update = Update { uuid, state, healthy: task.healthy, message };
        task.updates.push_back(update);
        self.send(n, id);
        if matches!(state, State::Failed | State::Killed) {
            let others = self.nodes[n].runs.values().find(|run| run.tasks.contains_key(id));
            let others: Vec<String> = others.map_or(Vec::new(), |run| run.tasks.keys().cloned().collect());
            for other in others.into_iter().filter(|other| other != id) {
                self.dies(n, &other);
            }
        }
    }

    /// A task ends because it was told to.
    fn end(&mut self, n: usize, id: &str) {
        let misses = self.stormy && self.random.chance(150);
        let Some(task) = self.nodes[n].task(id) else { return };
        if task.ending || task.state.is_terminal() {
            return;
        }
        if misses && !std::mem::replace(&mut task.deaf, true) {
            return;
        }
        task.ending = true;
        self.becomes(n, id, State::Killing, None);
        self.dies(n, id);
    }

    /// A task will have been killed shortly.
    fn dies(&mut self, n: usize, id: &str) {
        // Some have much to put in order first.
        let most = if self.stormy && self.random.chance(80) { 60_000 } else { 3_000 };
        let after = self.random.between(50, most);
        let boot = self.nodes[n].boot;
        let Some(task) = self.nodes[n].task(id).filter(|task| !task.state.is_terminal()) else { return };
        task.ending = true;
        task.way = vec![(after, State::Killed, None)];
        self.later(after, Happens::Progress { node: n, boot, task: id.to_owned(), step: 0 });
    }

    /// The first update of a task that nobody acknowledged goes out.
    fn send(&mut self, n: usize, id: &str) {
        let node = &mut self.nodes[n];
        if !node.linked {
            return;
        }
        let Some(task) = node.task(id) else { return };
        let Some(update) = task.updates.front().filter(|_| !task.sent).cloned() else { return };
        task.sent = true;
        let at = (self.now + self.random.delay()).max(self.nodes[n].said_at);
        self.nodes[n].said_at = at;
        let conn = self.nodes[n].conn;
        self.at(at, Happens::Updates { node: n, conn, task: id.to_owned(), update });
    }

    /// All of them do.
    pub fn send_all(&mut self, n: usize) {
        let ids: Vec<String> =
            self.nodes[n].runs.values().flat_map(|run| run.tasks.keys().cloned()).collect();
        for id in ids {
            if let Some(task) = self.nodes[n].task(&id) {
                task.sent = false;
            }
            self.send(n, &id);
        }
    }

    pub fn send_again(&mut self, n: usize) {
        self.later(10_000, Happens::Again { node: n });
        self.send_all(n);
    }

    fn acknowledged(&mut self, n: usize, id: &str, uuid: &[u8]) {
        let Some(task) = self.nodes[n].task(id) else { return };
        if task.updates.front().is_none_or(|update| update.uuid.to_le_bytes() != *uuid) {
            return;
        }
        task.updates.pop_front();
        task.sent = false;
        let over = task.is_over();
        self.send(n, id);
        if over {
            self.nodes[n].runs.retain(|_, run| !run.tasks.values().all(Task::is_over));
        }
    }

    /// The machine goes down with everything on it.
    pub fn reboot(&mut self, n: usize) {
        if !self.nodes[n].linked {
            return;
        }
        self.done.losses += 1;
        let conn = self.nodes[n].unlink();
        let agent = self.nodes[n].id.clone();
        self.tell(|| format!("--- {agent} reboots"));
        self.later(SILENCE, Happens::Silent { agent, conn });
        if self.random.chance(500) {
            self.nodes[n].start_over();
        } else {
            let ids: Vec<String> = self.nodes[n].tasks().into_keys().collect();
            for id in ids {
                self.becomes(n, &id, State::Failed, None);
            }
            self.nodes[n].boot += 1;
        }
        let pause = self.random.between(5_000, 200_000);
        self.later(pause, Happens::Returns { node: n });
    }

    pub fn returns(&mut self, n: usize) {
        if self.nodes[n].linked {
            return;
        }
        let conn = self.nodes[n].connect();
        let after = self.random.delay();
        self.later(after, Happens::Registers { node: n, conn });
    }
}
