//! The agent's decisions: what to launch, kill, write down, say and say again. Pure: see docs/adr/0011-agent.md.
//!
//! Left to the shell: sockets, clocks, files, processes, HTTP. The one door is [`Agent::handle`].

mod checks;
mod drain;
mod event;
mod executors;
mod gpus;
mod kill;
mod life;
mod model;
mod operations;
mod overlay;
mod pods;
mod probes;
mod records;
mod recover;
mod register;
mod run;
mod status;
mod updates;
mod view;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use plenum_api::mesos::{Attribute, DomainInfo, Resource};
use plenum_api::{IdSource, Millis, Now};

pub use event::*;
pub use operations::check_resources;
pub use records::RecordError;
pub use view::{ExecutorView, FrameworkView, TaskView, View};

use drain::Draining;
use model::{Executor, Framework, Mark, Task};
use operations::Operations;
use register::Link;

/// What an agent is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host name that offers show.
    pub hostname: String,
    /// Address of its HTTP port, as executors and frameworks reach it.
    pub ip: String,
    /// Port of its HTTP API.
    pub port: u16,
    /// The same as a URL.
    pub url: String,
    /// Working folder, absolute.
    pub work_dir: String,
    /// Everything it offers.
    pub resources: Vec<Resource>,
    /// Its attributes.
    pub attributes: Vec<Attribute>,
    /// Region and zone.
    pub domain: Option<DomainInfo>,
    /// Version of the program.
    pub version: String,
    /// How many GPUs there are whose device files are known.
    pub gpus: u32,
    /// This node's part in the overlay network, if the master gives it a slice.
    pub overlay: Option<plenum_api::internal::OverlayNode>,
    /// Of this boot of the machine.
    pub boot_id: String,
    /// Name of the cluster it must be; empty: the first it meets.
    pub cluster_id: String,
    /// Whether TASK_STARTING is said before TASK_RUNNING.
    pub send_starting: bool,
    /// Grace of a kill that says none (Mesos: 3 s).
    pub kill_grace: Millis,
    /// Grace of an executor's shutdown that says none (Mesos: 5 s).
    pub executor_shutdown_grace: Millis,
    /// How long an executor may take to subscribe (Mesos: 1 min).
    pub executor_registration_timeout: Millis,
    /// How long a running executor may take to subscribe again after a restart of the agent.
    pub executor_reregistration_timeout: Millis,
    /// How long executors try to find a restarted agent (told to them).
    pub recovery_timeout: Millis,
    /// Heartbeats on executors' streams (Mesos: 30 min).
    pub executor_heartbeat: Millis,
    /// Whether executors must show their token (off only where anonymous callers are allowed).
    pub require_executor_token: bool,
    /// First wait before an update is sent again.
    pub retry_min: Millis,
    /// Longest wait.
    pub retry_max: Millis,
    /// A master that says nothing for so long is given up, until it has told its own interval.
    pub master_silence: Millis,
    /// How many tombstones are kept at most.
    pub max_tombstones: usize,
    /// For tests of the simulator: an update counts as acknowledged once it was sent.
    #[cfg(feature = "deliberate-bugs")]
    pub deliberate_lost_acknowledgement: bool,
    /// For tests of the simulator: a repeated order starts a task again.
    #[cfg(feature = "deliberate-bugs")]
    pub deliberate_second_launch: bool,
    /// For tests of the simulator: a master of an older term is obeyed.
    #[cfg(feature = "deliberate-bugs")]
    pub deliberate_old_term: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            ip: "127.0.0.1".to_owned(),
            port: 5051,
            url: "http://127.0.0.1:5051".to_owned(),
            work_dir: "/var/lib/plenum/default/agent".to_owned(),
            resources: Vec::new(),
            attributes: Vec::new(),
            domain: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gpus: 0,
            overlay: None,
            boot_id: String::new(),
            cluster_id: String::new(),
            send_starting: false,
            kill_grace: Millis(3_000),
            executor_shutdown_grace: Millis(5_000),
            executor_registration_timeout: Millis(60_000),
            executor_reregistration_timeout: Millis(10_000),
            recovery_timeout: Millis(900_000),
            executor_heartbeat: Millis(1_800_000),
            require_executor_token: true,
            retry_min: Millis(10_000),
            retry_max: Millis(600_000),
            master_silence: Millis(30_000),
            max_tombstones: 10_000,
            #[cfg(feature = "deliberate-bugs")]
            deliberate_lost_acknowledgement: false,
            #[cfg(feature = "deliberate-bugs")]
            deliberate_second_launch: false,
            #[cfg(feature = "deliberate-bugs")]
            deliberate_old_term: false,
        }
    }
}

/// Whose a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Task(TaskKey),
    Executor(ExecutorKey),
}

/// What a checkpoint was for.
#[derive(Debug, Clone)]
enum Waiting {
    /// Tasks in these revisions, and the executor that was written with them.
    Tasks { tasks: Vec<(TaskKey, u64)>, executors: Vec<ExecutorKey>, frameworks: Vec<String> },
    /// A term or an identity: the frames held back go on.
    Link { conn: u64, term: u64 },
    /// A step of an operation on resources.
    Operation,
}

/// The state of one agent. Built by [`Agent::new`], then told [`Event::Recovered`].
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    agent_id: String,
    identity_durable: bool,
    /// The number of this node's slice of the overlay.
    slice: Option<u32>,
    cluster_id: String,
    term: u64,
    link: Link,
    recovered: bool,
    frameworks: BTreeMap<String, Framework>,
    executors: BTreeMap<ExecutorKey, Executor>,
    /// Each in a place of its own: a map keeps room for twice what it holds, and a task is large.
    tasks: BTreeMap<TaskKey, Box<Task>>,
    containers: BTreeMap<String, Owner>,
    tombstones: BTreeMap<TaskKey, Tombstone>,
    /// Containers whose sandbox waits for collection, and the tombstone that goes with it.
    retired: BTreeMap<String, Option<TaskKey>>,
    waiting: BTreeMap<u64, Waiting>,
    next_token: u64,
    marks: BTreeSet<(Millis, Mark)>,
    /// Records that changed but need not be on the disk soon.
    lazy: BTreeSet<TaskKey>,
    flush_at: Option<Millis>,
    draining: Option<Draining>,
    operations: Operations,
    stopping: bool,
}

/// What one call of `handle` works with and collects.
struct Cx<'a> {
    now: Now,
    ids: &'a mut dyn IdSource,
    out: Vec<Effect>,
    /// Tasks whose record changed.
    save: BTreeSet<TaskKey>,
    save_executors: BTreeSet<ExecutorKey>,
    save_frameworks: BTreeSet<String>,
    /// Other records.
    writes: Vec<RecordWrite>,
}

impl Cx<'_> {
    fn report(&mut self, level: Level, text: impl Into<String>) {
        self.out.push(Effect::Report { level, text: text.into() });
    }

    fn send(&mut self, message: plenum_api::internal::agent_message::Kind) {
        self.out.push(Effect::Send(Box::new(message)));
    }

    /// A moment `wait` from now (mono).
    fn after(&self, wait: Millis) -> Millis {
        Millis(self.now.mono.0.saturating_add(wait.0))
    }

    fn uuid_text(&mut self) -> String {
        self.ids.uuid_text()
    }
}

impl Agent {
    /// An agent that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            operations: Operations::new(&settings.resources),
            settings,
            agent_id: String::new(),
            identity_durable: false,
            slice: None,
            cluster_id: String::new(),
            term: 0,
            link: Link::Down,
            recovered: false,
            frameworks: BTreeMap::new(),
            executors: BTreeMap::new(),
            tasks: BTreeMap::new(),
            containers: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            retired: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_token: 0,
            marks: BTreeSet::new(),
            lazy: BTreeSet::new(),
            flush_at: None,
            draining: None,
            stopping: false,
        }
    }

    /// The identity a master gave it; empty before.
    pub fn agent_id(&self) -> &str {
        &self.agent_id
    }

    /// Highest term it has obeyed.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether a master has it registered on the present connection.
    pub fn is_registered(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// When the next [`Event::Tick`] is wanted (mono).
    pub fn next_wake(&self) -> Option<Millis> {
        self.marks.first().map(|(at, _)| *at)
    }

    /// The one door: something happened, what is to be done?
    pub fn handle(&mut self, event: Event, now: Now, ids: &mut dyn IdSource) -> Vec<Effect> {
        let mut cx = Cx {
            now,
            ids,
            out: Vec::new(),
            save: BTreeSet::new(),
            save_executors: BTreeSet::new(),
            save_frameworks: BTreeSet::new(),
            writes: Vec::new(),
        };
        if self.recovered || matches!(event, Event::Recovered(_)) {
            self.dispatch(event, &mut cx);
            self.run_due(&mut cx);
            self.write_changes(&mut cx);
        }
        cx.out
    }

    fn dispatch(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Recovered(recovery) => self.recover(recovery, cx),
            Event::Connected { conn } => self.connected(conn, cx),
            Event::Disconnected { conn } => self.disconnected(conn),
            Event::Master { conn, frame } => self.master_frame(conn, frame, cx),
            Event::Checkpointed { token, result } => self.checkpointed(token, result, cx),
            Event::Launched { container, started } => self.launched(&container, started, cx),
            Event::LaunchFailed { container, stage, message } => {
                self.launch_failed(&container, stage, &message, cx);
            }
            Event::Exited { container, exit } => self.exited(&container, &exit, cx),
            Event::DiskExceeded { container } => self.disk_exceeded(&container, cx),
            Event::CheckDone { task, kind, generation, outcome } => {
                self.check_done(&task, kind, generation, &outcome, cx);
            }
            Event::ExecutorCall(call) => self.executor_call(*call, cx),
            Event::ExecutorGone { container, stream } => self.executor_gone(&container, stream, cx),
            Event::Collected { container } => self.collected(&container, cx),
            Event::VolumesDone { token, result } => self.checkpointed(token, result, cx),
            Event::Tick => {}
        }
    }

    /// Makes sure of a tick at that time.
    fn mark(&mut self, at: Millis, mark: Mark) {
        self.marks.insert((at, mark));
    }

    /// Looks at everything whose time has come. Bounded: a mark that is set again for now waits for the next tick.
    fn run_due(&mut self, cx: &mut Cx<'_>) {
        let mut due = Vec::new();
        while let Some((at, _)) = self.marks.first() {
            if *at > cx.now.mono {
                break;
            }
            if let Some((_, mark)) = self.marks.pop_first() {
                due.push(mark);
            }
        }
        for mark in due {
            match mark {
                Mark::Task(key) => self.task_due(&key, cx),
                Mark::Executor(key) => self.executor_due(&key, cx),
                Mark::Master => self.master_due(cx),
                Mark::Flush => self.flush_due(cx),
                Mark::Drain => self.drain_due(cx),
                Mark::Operations => self.pump_operations(cx),
            }
        }
    }

    fn task_due(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        self.retry_due(key, cx);
        self.rewrite_due(key, cx);
        self.kill_due(key, cx);
        self.completion_due(key, cx);
        self.checks_due(key, cx);
    }

    /// Turns everything that changed during this call into one checkpoint.
    fn write_changes(&mut self, cx: &mut Cx<'_>) {
        let mut writes = std::mem::take(&mut cx.writes);
        let mut waiting = (Vec::new(), Vec::new(), Vec::new());
        for id in std::mem::take(&mut cx.save_frameworks) {
            if let Some(write) = self.framework_record(&id) {
                writes.push(write);
                waiting.2.push(id);
            }
        }
        for key in std::mem::take(&mut cx.save_executors) {
            if let Some(write) = self.executor_record(&key) {
                writes.push(write);
                waiting.1.push(key);
            }
        }
        for key in std::mem::take(&mut cx.save) {
            self.lazy.remove(&key);
            if let Some(write) = self.task_record(&key) {
                writes.push(write);
                let revision = self.tasks.get(&key).map_or(0, |task| task.revision);
                waiting.0.push((key, revision));
            }
        }
        if writes.is_empty() {
            return;
        }
        let (tasks, executors, frameworks) = waiting;
        let token = self.token(Waiting::Tasks { tasks, executors, frameworks });
        cx.out.push(Effect::Checkpoint { token, writes });
    }

    fn token(&mut self, waiting: Waiting) -> u64 {
        self.next_token += 1;
        self.waiting.insert(self.next_token, waiting);
        self.next_token
    }
}

#[cfg(test)]
mod tests;
