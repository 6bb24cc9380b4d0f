//! `ci/sim`: master, agents and frameworks as pure cores in one process under a seed. Messages are delayed, doubled, dropped with their
//! connection; processes die at any write; clocks jump. The invariants are checked after each step, and a failing seed fails again.
//! `ci/sim services` does the same to the service scheduler, see [`services`].

mod check;
mod master;
mod node;
mod operator;
mod random;
mod scheduler;
mod services;
mod store;
mod volumes;
mod world;

use std::process::ExitCode;

use clap::Parser;

use world::{Bug, World};

/// Simulates clusters under a seed.
#[derive(Parser, Debug)]
struct Arguments {
    /// How many seeds are tried.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; with `--trace`, the only one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Switches a deliberate bug on, to see that it is found.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    /// Tells everything that happens under one seed.
    #[arg(long)]
    trace: bool,
    #[command(subcommand)]
    what: Option<What>,
}

/// What else is simulated.
#[derive(clap::Subcommand, Debug)]
enum What {
    /// The service scheduler: intents, upgrades, failing instances, lost nodes.
    Services(services::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(What::Services(services)) = &arguments.what {
        return services::main(services);
    }
    if arguments.trace {
        return one(&arguments, arguments.seed);
    }
    if arguments.bug.is_some() {
        return hunt(&arguments);
    }
    let mut totals = world::Totals::default();
    let mut broken = 0;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        match World::new(seed, None, false).run() {
            Ok(done) => totals.add(&done),
            Err(violation) => {
                broken += 1;
                println!("seed {seed}: {violation}\n  see it again with: ci/sim --seed {seed} --trace");
            }
        }
    }
    println!("{totals}");
    println!("simulation: {} passed, {broken} failed", arguments.seeds - broken);
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Looks for a deliberate bug; not finding it is the failure.
fn hunt(arguments: &Arguments) -> ExitCode {
    for (tried, seed) in (arguments.seed..arguments.seed.saturating_add(arguments.seeds)).enumerate() {
        if let Err(violation) = World::new(seed, arguments.bug, false).run() {
            println!("found after {} seeds: seed {seed}: {violation}", tried + 1);
            return ExitCode::SUCCESS;
        }
    }
    println!("the bug was not found within {} seeds", arguments.seeds);
    ExitCode::FAILURE
}

fn one(arguments: &Arguments, seed: u64) -> ExitCode {
    match World::new(seed, arguments.bug, true).run() {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
    }
}
