//! How many tasks a second the master launches, how soon, and what each task and each agent costs it, at 100, 1,000 and 10,000 agents.
//!
//! Three processes: the master ([`roles`]), the simulated agents ([`roles`], `plenum_testkit::simagents`) and this one, the framework
//! ([`load`]). [`growth`] prints how the figures grow. Every size has a master and agents of its own.

mod growth;
mod load;
mod roles;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use plenum_testkit::process::memory;

use crate::figures::Figures;
use growth::Row;
use load::{Load, Phase};
pub use roles::{Cluster, role};

/// The number of agents that the marks are for.
const MARKED: u32 = 10_000;
/// Tasks a second, at least.
const TASKS: f64 = 2_000.0;
/// Processor time of the master for a task, in µs, at most.
const CPU: f64 = 400.0;
/// Memory of the master for an idle agent, in KiB, at most.
const AGENT: f64 = 64.0;
/// Memory of the master for a live task, in KiB, at most.
const TASK: f64 = 4.0;

/// How long memory is left to settle before it is measured.
const SETTLE: Duration = Duration::from_millis(1_500);

/// What is done at one number of agents.
#[derive(Clone, Copy)]
struct Size {
    agents: u32,
    /// Tasks launched at `rate`, for the latency when the master is not full.
    paced: usize,
    /// Tasks a second of the paced part.
    rate: f64,
    /// Live tasks when the first memory is measured.
    first: usize,
    /// Live tasks at the end.
    last: usize,
}

const FULL: [Size; 3] = [
    Size { agents: 100, paced: 2_000, rate: 500.0, first: 10_000, last: 20_000 },
    Size { agents: 1_000, paced: 2_000, rate: 500.0, first: 10_000, last: 20_000 },
    Size { agents: 10_000, paced: 2_000, rate: 500.0, first: 10_000, last: 100_000 },
];

const QUICK: [Size; 1] = [Size { agents: 100, paced: 100, rate: 200.0, first: 300, last: 1_000 }];

/// Measures; `quick` only whether everything works, which says little about speed.
pub fn run(quick: bool) -> Result<Figures> {
    plenum_base::service::install_crypto();
    plenum_testkit::process::allow_many_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sizes: &[Size] = if quick { &QUICK } else { &FULL };
    let mut rows = Vec::new();
    for size in sizes {
        rows.push(measure(&runtime, *size).with_context(|| format!("at {} agents", size.agents))?);
    }
    growth::print(&rows);
    let mut figures = Figures::new("kernel");
    for row in &rows {
        report(&mut figures, row);
    }
    Ok(figures)
}

fn report(figures: &mut Figures, row: &Row) {
    let at = |what: &str| format!("{what} at {} agents", row.agents);
    if row.agents == MARKED {
        figures.at_least(at("tasks"), row.throughput, "1/s", TASKS);
        figures.at_most(at("master CPU per task"), row.master_cpu, "µs", CPU);
        figures.at_most(at("memory per idle agent"), row.agent_kib, "KiB", AGENT);
        figures.at_most(
            format!("memory per live task, {} to {}", row.first, row.last),
            row.task_kib,
            "KiB",
            TASK,
        );
    } else {
        figures.note(at("tasks"), row.throughput, "1/s");
        figures.note(at("master CPU per task"), row.master_cpu, "µs");
        figures.note(at("memory per idle agent"), row.agent_kib, "KiB");
        figures.note(
            format!("memory per live task, {} to {}, {} agents", row.first, row.last, row.agents),
            row.task_kib,
            "KiB",
        );
    }
    figures.note(at("heap in use per idle agent"), row.agent_heap_kib, "KiB");
    figures.note(at("heap in use per live task"), row.task_heap_kib, "KiB");
    figures.note(at("latency p50, paced"), row.paced.0, "ms");
    figures.note(at("latency p99, paced"), row.paced.1, "ms");
    figures.note(at("latency p50, full"), row.full.0, "ms");
    figures.note(at("latency p99, full"), row.full.1, "ms");
    figures.note(at("agents' CPU per task"), row.agents_cpu, "µs");
    figures.note(at("framework's CPU per task"), row.framework_cpu, "µs");
    figures.note(at("registrations"), row.registrations, "1/s");
}

fn measure(runtime: &tokio::runtime::Runtime, size: Size) -> Result<Row> {
    let mut cluster = Cluster::start()?;
    std::thread::sleep(SETTLE);
    let heap_empty = cluster.trim()?;
    let empty = memory(cluster.master.id())?;
    let began = Instant::now();
    cluster.register(size.agents)?;
    let registering = began.elapsed();
    std::thread::sleep(SETTLE);
    let idle = memory(cluster.master.id())?;
    let heap_idle = cluster.trim()?;
    eprintln!("{} agents registered in {:.1} s", size.agents, registering.as_secs_f64());

    let (paced, before, heap_before, full, cpu) = runtime.block_on(async {
        let mut load = Load::connect(cluster.http).await?;
        // The first offers are of all agents at once.
        load.quiet(SETTLE).await?;
        let paced = load.launch(size.paced, Some(size.rate)).await?;
        load.launch(size.first.saturating_sub(size.paced), None).await?;
        load.quiet(SETTLE).await?;
        // What the tasks need is not to hide in what others have left.
        let heap_before = cluster.trim()?;
        let before = memory(cluster.master.id())?;
        let cpu = cluster.cpu()?;
        let full = load.launch(size.last.saturating_sub(size.first), None).await?;
        let cpu = cluster.cpu()?.map_with(cpu, Duration::saturating_sub);
        load.quiet(SETTLE).await?;
        anyhow::Ok((paced, before, heap_before, full, cpu))
    })?;
    let heap = cluster.trim()?;
    let after = memory(cluster.master.id())?;
    let counts = cluster.counts()?;
    eprintln!(
        "{} tasks in {:.1} s; updates repeated: {}; agents lost: {}",
        full.tasks,
        full.took.as_secs_f64(),
        counts.repeated,
        counts.lost
    );
    eprintln!(
        "master, MiB: empty {}, with idle agents {} (heap {}), {} tasks {}, {} tasks {} (heap {})",
        empty >> 20,
        idle >> 20,
        heap_idle >> 20,
        size.first,
        before >> 20,
        size.last,
        after >> 20,
        heap >> 20
    );
    anyhow::ensure!(counts.lost == 0, "{} agents lost their connection", counts.lost);
    anyhow::ensure!(counts.started == size.last as u64, "the agents started {} tasks", counts.started);
    cluster.stop();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / full.tasks as f64;
    let kib = |more: u64, less: u64, of: f64| (more as f64 - less as f64) / 1024.0 / of;
    Ok(Row {
        agents: size.agents,
        first: size.first,
        last: size.last,
        throughput: full.tasks as f64 / full.took.as_secs_f64(),
        paced: percentiles(&paced),
        full: percentiles(&full),
        master_cpu: each(cpu.master),
        agents_cpu: each(cpu.agents),
        framework_cpu: each(cpu.framework),
        agent_kib: kib(idle, empty, f64::from(size.agents)),
        agent_heap_kib: kib(heap_idle, heap_empty, f64::from(size.agents)),
        task_kib: kib(after, before, full.tasks as f64),
        task_heap_kib: kib(heap, heap_before, full.tasks as f64),
        registrations: f64::from(size.agents) / registering.as_secs_f64(),
    })
}

/// The 50th and the 99th of a hundred, in ms.
fn percentiles(phase: &Phase) -> (f64, f64) {
    let mut sorted = phase.latencies.clone();
    sorted.sort_unstable();
    let at = |share: f64| {
        let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
        sorted.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    (at(0.5), at(0.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members() {
        let latencies = (1..=200).rev().map(Duration::from_millis).collect();
        let phase = Phase { tasks: 200, took: Duration::from_secs(1), latencies };
        assert_eq!(percentiles(&phase), (100.0, 198.0));
    }
}
