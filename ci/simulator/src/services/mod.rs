//! The service scheduler under a seed: its pure core, a store, a master and nodes that are played, and an operator who changes their mind. Processes
//! die at any write, calls get lost, nodes fall silent, reboot and return; instances start late, fail, crash and are never healthy. What must
//! always hold is in [`check`]; at the end the faults stop, the operator says a last word, and everything must come to be like that.

mod books;
mod check;
mod master;
mod node;
mod operator;
mod scheduler;
mod tale;

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;

use plenum_services::core::bugs::{self, Bug};
use plenum_services::core::requests::Reply;
use plenum_services::core::{Effect, Event};

use crate::check::Violation;
use crate::random::Random;
use check::Seen;
use master::Master;
use node::{Message, Node, Update};
use operator::Operator;
use scheduler::Scheduler;
use tale::Tale;

/// Simulates the service scheduler.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// How many seeds are tried.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; with `--trace`, the only one.
    #[arg(long, default_value_t = 1, visible_alias = "seed")]
    seed_start: u64,
    /// Switches a deliberate bug on, to see that it is found.
    #[arg(long, value_enum)]
    bug: Option<Deliberate>,
    /// Tells everything that happens under one seed.
    #[arg(long)]
    trace: bool,
}

/// The deliberate bugs.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Deliberate {
    /// Instances are launched before they are written down.
    LaunchBeforeCommit,
    /// An instance gets the id of one that was there before.
    ReusedId,
    /// Whoever was asked to end once is not asked again.
    KilledOnce,
    /// An instance that was given up with its node is not remembered.
    ForgottenUnreachable,
    /// Instances that serve are ended although too few others do.
    CapacityIgnored,
}

impl From<Deliberate> for Bug {
    fn from(bug: Deliberate) -> Self {
        match bug {
            Deliberate::LaunchBeforeCommit => Self::LaunchBeforeCommit,
            Deliberate::ReusedId => Self::ReusedId,
            Deliberate::KilledOnce => Self::KilledOnce,
            Deliberate::ForgottenUnreachable => Self::ForgottenUnreachable,
            Deliberate::CapacityIgnored => Self::CapacityIgnored,
        }
    }
}

/// Runs what was asked for.
pub fn main(arguments: &Arguments) -> ExitCode {
    bugs::switch(arguments.bug.map(Bug::from));
    let first = arguments.seed_start;
    if arguments.trace {
        return match World::new(first, Tale::Printed).run() {
            Ok(done) => {
                println!("{done}");
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("seed {first}: {violation}");
                ExitCode::FAILURE
            }
        };
    }
    let (mut totals, mut broken) = (Totals::default(), 0_u64);
    for (tried, seed) in (first..first.saturating_add(arguments.seeds)).enumerate() {
        match World::new(seed, Tale::Untold).run() {
            Ok(done) => totals.add(&done),
            Err(violation) if arguments.bug.is_some() => {
                println!("found after {} seeds: seed {seed}: {violation}", tried.saturating_add(1));
                return ExitCode::SUCCESS;
            }
            Err(violation) => {
                broken += 1;
                println!("seed {seed}: {violation}");
                last_words(seed);
                println!("  see it again with: ci/sim services --seed {seed} --trace");
            }
        }
    }
    if arguments.bug.is_some() {
        println!("the bug was not found within {} seeds", arguments.seeds);
        return ExitCode::FAILURE;
    }
    println!("{totals}");
    println!("simulation of services: {} passed, {broken} failed", arguments.seeds - broken);
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The last things that happen under a seed, which are what they were.
fn last_words(seed: u64) {
    let mut again = World::new(seed, Tale::kept());
    // How it ends is known.
    let _ = again.run();
    again.tale.last().iter().for_each(|line| println!("  {line}"));
}

/// What a world came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Things that happened.
    steps: u64,
    /// Intents that were taken.
    intents: u64,
    /// Intents that were refused.
    refused: u64,
    /// Instances that were launched.
    launches: u64,
    /// Schedulers that died.
    crashes: u64,
    /// Masters that died.
    masters: u64,
    /// Nodes that fell silent or rebooted.
    losses: u64,
    /// Milliseconds until all was as wanted.
    settled: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.intents += other.intents;
        self.refused += other.refused;
        self.launches += other.launches;
        self.crashes += other.crashes;
        self.masters += other.masters;
        self.losses += other.losses;
        self.settled = self.settled.max(other.settled);
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} steps, {} intents taken, {} refused, {} instances launched, {} schedulers and {} masters died, {} nodes were lost; \
             as wanted after {} s at most",
            self.steps,
            self.intents,
            self.refused,
            self.launches,
            self.crashes,
            self.masters,
            self.losses,
            self.settled / 1000
        )
    }
}

/// Something that will happen.
#[derive(Debug)]
enum Happens {
    /// The scheduler's store has written.
    Stored { life: u64 },
    /// The scheduler's process starts.
    SchedulerStarts,
    /// It asks a master to take it in.
    Subscribes { life: u64 },
    /// It is told something, by a master's stream or beside it.
    Told { life: u64, stream: Option<u64>, event: Box<Event> },
    /// It notices that a master's stream is dead.
    Notices { stream: u64 },
    /// Its core asked to be woken.
    Tick { life: u64, at: u64 },
    /// A call arrives at the master.
    Call { life: u64, stream: u64, effect: Box<Effect> },
    /// Offers are made.
    Round { epoch: u64 },
    /// A master starts.
    MasterStarts,
    /// A master waits no longer for nodes of the one before.
    Recovered { epoch: u64 },
    /// A node has been silent for too long.
    Silent { agent: String, conn: u64 },
    /// A node registers.
    Registers { node: usize, conn: u64 },
    /// A node's update arrives at the master.
    Updates { node: usize, conn: u64, task: String, update: Update },
    /// A message arrives at a node.
    AtNode { node: usize, conn: u64, message: Message },
    /// A task goes its way.
    Progress { node: usize, boot: u64, task: String, step: usize },
    /// A node sends again what nobody acknowledged.
    Again { node: usize },
    /// A node's machine, or its line, is there again.
    Returns { node: usize },
    /// The operator does something.
    Operator,
    /// Something breaks.
    Fault,
    /// The faults end.
    Calm,
    /// What lasts too long is looked for.
    Look,
}

/// How long nodes may be silent.
const SILENCE: u64 = 75_000;
/// After so long without faults everything is as wanted, or something is wrong.
const QUIET: u64 = 1_500_000;

/// A world.
struct World {
    /// Milliseconds since its beginning.
    now: u64,
    number: u64,
    future: BTreeMap<(u64, u64), Happens>,
    random: Random,
    scheduler: Scheduler,
    master: Master,
    nodes: Vec<Node>,
    operator: Operator,
    seen: Seen,
    /// Faults happen.
    stormy: bool,
    calm_at: u64,
    /// When all was as wanted for the first time in a row.
    good_since: Option<u64>,
    tale: Tale,
    done: Totals,
}

impl World {
    fn new(seed: u64, tale: Tale) -> Self {
        let mut random = Random::new(seed);
        let nodes = (0..4).map(|n| Node::new(n, format!("node-{n}"))).collect();
        let mut world = Self {
            now: 0,
            number: 0,
            future: BTreeMap::new(),
            scheduler: Scheduler::new(seed),
            master: Master::default(),
            nodes,
            operator: Operator::new(&mut random),
            seen: Seen::default(),
            stormy: true,
            calm_at: random.between(120_000, 600_000),
            good_since: None,
            tale,
            done: Totals::default(),
            random,
        };
        world.later(0, Happens::MasterStarts);
        world.later(5, Happens::SchedulerStarts);
        for node in 0..world.nodes.len() {
            world.later(10, Happens::Returns { node });
            world.later(10_000, Happens::Again { node });
        }
        world.later(1_000, Happens::Operator);
        let first = world.random.between(1_000, 60_000);
        world.later(first, Happens::Fault);
        world.later(world.calm_at, Happens::Calm);
        world.later(5_000, Happens::Look);
        world
    }

    fn run(&mut self) -> Result<Totals, Violation> {
        while let Some(((at, _), what)) = self.future.pop_first() {
            self.now = at;
            self.done.steps += 1;
            self.tell(|| format!("{what:?}"));
            match self.step(what) {
                Ok(()) => {}
                Err(violation) => {
                    return Err(format!(
                        "after {} s, step {}: {violation}",
                        self.now / 1000,
                        self.done.steps
                    ));
                }
            }
            if let Some(since) = self.good_since
                && self.now >= since + 60_000
            {
                self.done.settled = since.saturating_sub(self.calm_at);
                return Ok(self.done);
            }
            if self.now > self.calm_at + QUIET {
                let wrong = self.as_wanted().err().unwrap_or_default();
                return Err(format!("{} s after the last fault: {wrong}", QUIET / 1000));
            }
        }
        Err("nothing happens any more".to_owned())
    }

    fn step(&mut self, what: Happens) -> Result<(), Violation> {
        match what {
            Happens::Stored { life } => self.stored(life),
            Happens::SchedulerStarts => self.scheduler_starts(),
            Happens::Subscribes { life } => {
                self.subscribes(life);
                Ok(())
            }
            Happens::Told { life, stream, event } => self.told(life, stream, *event),
            Happens::Tick { life, at } => self.ticks(life, at),
            Happens::Call { life, stream, effect } => self.called(life, stream, *effect),
            Happens::Round { epoch } => {
                self.offers_round(epoch);
                Ok(())
            }
            Happens::Look => self.look(),
            Happens::Operator => self.operate(),
            other => {
                self.machinery(other);
                Ok(())
            }
        }
    }

    /// What happens to the machines under the scheduler.
    fn machinery(&mut self, what: Happens) {
        match what {
            Happens::Notices { stream } => self.notices(stream),
            Happens::MasterStarts => self.master_starts(),
            Happens::Recovered { epoch } => self.recovered(epoch),
            Happens::Silent { agent, conn } => self.silent(&agent, conn),
            Happens::Registers { node, conn } => self.registers(node, conn),
            Happens::Updates { node, conn, task, update } => self.updated(node, conn, &task, update),
            Happens::AtNode { node, conn, message } => self.at_node(node, conn, message),
            Happens::Progress { node, boot, task, step } => self.progress(node, boot, &task, step),
            Happens::Again { node } => self.send_again(node),
            Happens::Returns { node } => self.returns(node),
            Happens::Fault => self.fault(),
            Happens::Calm => self.calm(),
            _ => {}
        }
    }

    fn later(&mut self, after: u64, what: Happens) {
        self.at(self.now + after, what);
    }

    fn at(&mut self, at: u64, what: Happens) {
        self.number += 1;
        self.future.insert((at, self.number), what);
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        self.tale.tell(self.now, text);
    }

    /// Something breaks; then the next fault is set.
    fn fault(&mut self) {
        if !self.stormy {
            return;
        }
        let pause = self.random.between(500, 40_000);
        self.later(pause, Happens::Fault);
        let node = self.random.between(0, self.nodes.len() as u64) as usize;
        match self.random.between(0, 10) {
            0..=2 => self.scheduler_dies(),
            3 => self.master_dies(),
            4..=6 => self.cut(node),
            7 => self.reboot(node),
            8 => self.give_up(),
            _ => self.hang_up(),
        }
    }

    /// The faults end, whatever is away comes back, and the operator says a last word.
    fn calm(&mut self) {
        self.stormy = false;
        self.operator.last_word(&mut self.random);
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_linked() {
                let after = self.random.between(0, 20_000);
                self.later(after, Happens::Returns { node });
            }
        }
        self.tell(|| "--- the faults are over".to_owned());
    }

    fn replied(&mut self, token: u64, reply: &Reply) -> Result<(), Violation> {
        self.tell(|| format!("  reply to {token}: {} {:?}", reply.status, reply.body));
        if reply.status < 300 {
            self.done.intents += 1
        } else {
            self.done.refused += 1
        }
        self.operator.replied(token, reply, self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_everything() {
        bugs::switch(None);
        let runs = [3, 3, 4].map(|seed| {
            let mut world = World::new(seed, Tale::kept());
            (world.run(), world.tale.fingerprint(), world.tale.last())
        });
        assert_eq!(runs[0], runs[1]);
        assert!(runs[0].0.is_ok(), "{:?}", runs[0]);
        assert_ne!(runs[0].1, runs[2].1);
    }
}
