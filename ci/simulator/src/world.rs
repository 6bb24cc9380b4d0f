//! A world: its clock, what is going to happen when, and faults. What happens is carried out by the modules of those it happens to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use plenum_api::internal::{AgentMessage, MasterFrame};
use plenum_api::mesos::Resource;
use plenum_api::scheduler;
use plenum_api::{Millis, Now};

use crate::check::{Seen, Violation};
use crate::master::MasterHost;
use crate::node::Node;
use crate::random::Random;
use crate::scheduler::Framework;
use crate::store::Store;
use crate::volumes::Deeds;

/// A bug that a test switches on.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An agent forgets an update once it was sent, before anybody acknowledged it.
    LostAcknowledgement,
    /// The master goes on offering what an accepted offer used.
    DoubleOffer,
    /// An agent starts a task again that it knows.
    LaunchedTwice,
    /// A leader does not look at its lease, and agents obey whoever they are connected to.
    OldTerm,
    /// A master goes on offering an agent that is drained.
    DrainedOffer,
}

/// Something that will happen.
#[derive(Debug)]
pub enum Happens {
    /// A message of an agent arrives at the master.
    AtMaster { conn: u64, message: Box<AgentMessage> },
    /// A frame arrives at an agent.
    AtAgent { conn: u64, frame: Box<MasterFrame> },
    /// An agent dials.
    Dial { agent: usize },
    /// A side of a connection learns that it is cut.
    CutAtMaster { conn: u64 },
    /// See `CutAtMaster`.
    CutAtAgent { agent: usize, conn: u64 },
    /// The store has written.
    Stored { master: usize, life: u64, token: u64 },
    /// An agent's disk has written.
    Written { agent: usize, life: u64, token: u64 },
    /// An agent's disk has made and removed volumes.
    VolumesDone { agent: usize, life: u64, token: u64, make: Vec<Resource>, remove: Vec<Resource> },
    /// An agent dies just now.
    AgentDies { agent: usize, life: u64 },
    /// A container's program starts, or cannot.
    Starts { agent: usize, container: String },
    /// A container ends.
    Ends { agent: usize, container: String, code: Option<i32> },
    /// A sandbox is collected.
    Collected { agent: usize, life: u64, container: String },
    /// A core asked to be woken.
    MasterTick { master: usize, life: u64, at: u64 },
    /// See `MasterTick`.
    AgentTick { agent: usize, life: u64 },
    /// A master starts.
    MasterStarts { master: usize },
    /// A master renews its lease, or looks whether it can have one.
    Lease { master: usize, life: u64 },
    /// A master learns that a framework's stream is cut.
    StreamCut { stream: u64 },
    /// The operator does something.
    Operator,
    /// An agent's process starts.
    AgentStarts { agent: usize },
    /// A framework's call arrives at the master.
    Call { framework: usize, stream: u64, call: Box<scheduler::Call> },
    /// A framework's subscription arrives at the master.
    Subscribes { framework: usize },
    /// An event arrives at a framework.
    AtFramework { framework: usize, stream: u64, event: Box<scheduler::Event> },
    /// A framework learns that its stream has ended.
    StreamEnds { framework: usize, stream: u64 },
    /// A framework does something of its own accord.
    Whim { framework: usize },
    /// Something breaks.
    Fault,
}

/// What a world came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Things that happened.
    pub steps: u64,
    /// Tasks that were started.
    pub tasks: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Connections that were cut.
    pub cuts: u64,
    /// Leaders that there were.
    pub leaders: u64,
    /// Masters that were stopped for a while.
    pub stops: u64,
    /// Drains that were ordered.
    pub drains: u64,
    /// Persistent volumes that were made.
    pub volumes: u64,
    /// Persistent volumes that a task found data in.
    pub found: u64,
}

impl Totals {
    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.tasks += other.tasks;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.leaders += other.leaders;
        self.stops += other.stops;
        self.drains += other.drains;
        self.volumes += other.volumes;
        self.found += other.found;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, tasks, crashes, cuts, leaders, stops, drains, volumes, found } = self;
        write!(
            f,
            "{steps} steps, {tasks} tasks started, {crashes} processes killed, {cuts} connections cut, {leaders} leaders, {stops} masters \
             stopped, {drains} drains, {volumes} volumes made, data found in one {found} times"
        )
    }
}

/// Faults go on for so long (milliseconds).
const STORM: u64 = 10 * 60_000;
/// After which all is quiet for so long: longer than any retry.
const CALM: u64 = 45 * 60_000;

/// Everything there is.
pub struct World {
    pub random: Random,
    pub bug: Option<Bug>,
    pub time: u64,
    wall_offset: u64,
    sequence: u64,
    agenda: BTreeMap<(u64, u64), Happens>,
    pub masters: Vec<MasterHost>,
    pub store: Store,
    pub last_conn: u64,
    pub last_stream: u64,
    pub reply: u64,
    /// When the last message to each end of a connection arrives: order is kept.
    pub arrives: BTreeMap<(u64, bool), u64>,
    pub nodes: Vec<Node>,
    pub frameworks: Vec<Framework>,
    pub seen: Seen,
    pub deeds: Deeds,
    pub totals: Totals,
    trace: bool,
}

impl World {
    /// A world under a seed.
    pub fn new(seed: u64, bug: Option<Bug>, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let (agents, frameworks) = (random.between(1, 5), random.between(1, 4));
        let masters = random.between(1, 4);
        let mut world = Self {
            bug,
            time: 1_000,
            wall_offset: 1_700_000_000_000,
            sequence: 0,
            agenda: BTreeMap::new(),
            masters: (0..masters).map(|_| MasterHost::default()).collect(),
            store: Store::default(),
            last_conn: 0,
            last_stream: 0,
            reply: 0,
            arrives: BTreeMap::new(),
            nodes: (0..agents).map(|_| Node::new(&mut random)).collect(),
            frameworks: (0..frameworks).map(|_| Framework::new(&mut random)).collect(),
            seen: Seen::default(),
            deeds: Deeds::default(),
            totals: Totals::default(),
            trace,
            random,
        };
        for master in 0..world.masters.len() {
            world.soon(Happens::MasterStarts { master });
        }
        world.later(20_000, Happens::Operator);
        for agent in 0..world.nodes.len() {
            world.soon(Happens::AgentStarts { agent });
        }
        for framework in 0..world.frameworks.len() {
            world.soon(Happens::Subscribes { framework });
            world.soon(Happens::Whim { framework });
        }
        world.later(5_000, Happens::Fault);
        world
    }

    /// The time for cores.
    pub fn now(&self) -> Now {
        Now { mono: Millis(self.time), wall: Millis(self.time + self.wall_offset) }
    }

    /// Whether things still break.
    pub fn stormy(&self) -> bool {
        self.time < STORM
    }

    /// Something will happen after a while.
    pub fn soon(&mut self, what: Happens) {
        let delay = self.random.delay();
        self.later(delay, what);
    }

    /// Something will happen after so many milliseconds.
    pub fn later(&mut self, delay: u64, what: Happens) {
        self.sequence += 1;
        self.agenda.insert((self.time + delay, self.sequence), what);
    }

    /// Something will happen at a time, or now where that has passed.
    pub fn at(&mut self, time: u64, what: Happens) {
        self.later(time.saturating_sub(self.time), what);
    }

    /// A line for who watches.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.3} s  {}", self.time as f64 / 1000.0, line());
        }
    }

    /// Lives until all is quiet; the first broken promise ends it.
    pub fn run(mut self) -> Result<Totals, Violation> {
        while let Some(entry) = self.agenda.first_entry() {
            let (time, _) = *entry.key();
            if time > STORM + CALM {
                break;
            }
            let what = entry.remove();
            self.time = time;
            self.totals.steps += 1;
            let at = format!("at {:.3} s", self.time as f64 / 1000.0);
            self.happen(what).map_err(|violation| format!("{at}: {violation}"))?;
        }
        let living: BTreeSet<String> = self.frameworks.iter().filter_map(Framework::living).collect();
        self.seen.settled(&living)?;
        self.volumes_settled()?;
        (self.totals.volumes, self.totals.found) = (self.deeds.made, self.deeds.found);
        self.totals.tasks = self.seen.count();
        Ok(self.totals)
    }

    fn happen(&mut self, what: Happens) -> Result<(), Violation> {
        if let Some(until) = self.stopped_until(&what) {
            self.at(until, what);
            return Ok(());
        }
        if !matches!(what, Happens::MasterTick { .. } | Happens::AgentTick { .. } | Happens::Lease { .. }) {
            self.tell(|| format!("{what:?}"));
        }
        match what {
            Happens::MasterStarts { master } => self.master_starts(master),
            Happens::Lease { master, life } => self.lease_due(master, life),
            Happens::StreamCut { stream } => self.stream_cut(stream),
            Happens::Operator => self.operator(),
            Happens::AtMaster { conn, message } => self.at_master(conn, *message),
            Happens::CutAtMaster { conn } => self.cut_at_master(conn),
            Happens::Stored { master, life, token } => self.stored(master, life, token),
            Happens::MasterTick { master, life, at } => self.master_tick(master, life, at),
            Happens::Call { framework, stream, call } => self.call_arrives(framework, stream, *call),
            Happens::Subscribes { framework } => self.subscription_arrives(framework),
            Happens::AgentStarts { agent } => self.agent_starts(agent),
            Happens::Dial { agent } => self.dial(agent),
            Happens::AtAgent { conn, frame } => self.at_agent(conn, *frame),
            Happens::CutAtAgent { agent, conn } => self.cut_at_agent(agent, conn),
            Happens::Written { agent, life, token } => self.written(agent, life, token),
            Happens::AgentDies { agent, life } => {
                if self.nodes[agent].lives(life) {
                    self.kill_agent(agent);
                }
                Ok(())
            }
            Happens::VolumesDone { agent, life, token, make, remove } => {
                self.volumes_done(agent, life, token, (&make, &remove))
            }
            Happens::Starts { agent, container } => self.container_starts(agent, &container),
            Happens::Ends { agent, container, code } => self.container_ends(agent, &container, code),
            Happens::Collected { agent, life, container } => self.collected(agent, life, container),
            Happens::AgentTick { agent, life } => self.agent_tick(agent, life),
            Happens::AtFramework { framework, stream, event } => self.at_framework(framework, stream, *event),
            Happens::StreamEnds { framework, stream } => {
                self.stream_ends(framework, stream);
                Ok(())
            }
            Happens::Whim { framework } => {
                self.whim(framework);
                Ok(())
            }
            Happens::Fault => self.fault(),
        }
    }

    /// Something breaks; then the next fault is set.
    fn fault(&mut self) -> Result<(), Violation> {
        if !self.stormy() {
            return Ok(());
        }
        let pause = self.random.between(500, 30_000);
        self.later(pause, Happens::Fault);
        let agent = self.random.between(0, self.nodes.len() as u64) as usize;
        let master = self.random.between(0, self.masters.len() as u64) as usize;
        match self.random.between(0, 12) {
            0 | 1 => self.kill_master(master),
            10 | 11 => self.freeze_master(master),
            2..=4 => self.kill_agent(agent),
            5..=7 => self.cut(agent),
            8 => {
                // The time of day jumps by up to a day, either way.
                self.wall_offset = 1_700_000_000_000 - 86_400_000 + self.random.between(0, 2 * 86_400_000);
            }
            _ => {
                let framework = self.random.between(0, self.frameworks.len() as u64) as usize;
                self.drop_stream(framework);
            }
        }
        Ok(())
    }
}
