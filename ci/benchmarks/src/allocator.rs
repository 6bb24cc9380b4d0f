//! The allocator in memory: what a cycle costs and visits after k agents changed, in a small and in a large
//! cluster, while all frameworks but one filter every agent; each kind of cycle compared with the reference
//! in the same run.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use plenum_allocator::reference::Reference;
use plenum_allocator::{AgentSpec, Allocation, Allocator, FrameworkSpec, Holding, Options, Stats};
use plenum_api::resources::{Amount, Name, Quantities, Resources};
use plenum_api::{Millis, Now};

use crate::figures::Figures;

const SIZES: [(usize, usize); 2] = [(1_000, 100), (20_000, 2_000)];
const CHANGED: [usize; 3] = [1, 10, 100];
const ROUNDS: usize = 31;
const DAY: Millis = Millis::from_secs(24 * 3600);

/// Runs everything; takes about a minute.
pub fn run() -> Result<Figures> {
    let mut figures = Figures::new("allocator");
    let mut all = Vec::new();
    for (agents, frameworks) in SIZES {
        let mut cluster = Cluster::new(agents, frameworks)?;
        let size = format!("{agents}x{frameworks}");
        let before = resident();
        let setup = Instant::now();
        cluster.everybody_filters()?;
        let filters = (agents * (frameworks - 1)) as f64;
        eprintln!("{size}: {filters} filters in {:.1} s", setup.elapsed().as_secs_f64());
        figures.note(format!("{size}: memory a filter"), (resident() - before).max(0.0) / filters, "B");
        let (granted, first) = cluster.spent(|c| c.real.cycle(c.now));
        anyhow::ensure!(granted.grants.len() == agents, "the keeper gets every agent");
        figures.note(format!("{size}: everything to the keeper, an offer"), first / agents as f64, "us");
        cluster.seed_reference()?;
        let mut of_size = Vec::new();
        for k in CHANGED {
            of_size.push(cluster.measure(&size, k, &mut figures)?);
        }
        cluster.measure_idle(&size, &mut figures);
        all.push(of_size);
    }
    compare_sizes(&all, &mut figures);
    everybody_willing(&mut figures)?;
    limits(&mut figures)?;
    Ok(figures)
}

/// What one kind of cycle took.
#[derive(Clone, Copy)]
struct Taken {
    median: f64,
    worst: f64,
    stats: Stats,
}

fn compare_sizes(all: &[Vec<[Taken; 2]>], figures: &mut Figures) {
    let [small, large] = all else { return };
    for ((small, large), k) in small.iter().zip(large).zip(CHANGED) {
        for (small, large, what) in
            [(small[0], large[0], "changed"), (small[1], large[1], "free, one revived")]
        {
            let name = |of: &str| format!("k={k} {what}: {of}, large against small");
            let (s, l) = (small.stats, large.stats);
            figures.exactly(name("agents visited"), l.agents_visited as f64, "", s.agents_visited as f64);
            figures.exactly(
                name("frameworks visited"),
                l.frameworks_visited as f64,
                "",
                s.frameworks_visited as f64,
            );
            figures.exactly(name("frameworks compared"), l.compared as f64, "", s.compared as f64);
            figures.note(name("time"), large.median / small.median, "x");
        }
    }
}

struct Cluster {
    agents: Vec<String>,
    frameworks: Vec<String>,
    total: Resources,
    real: Allocator,
    naive: Reference,
    now: Now,
    seed: u64,
}

fn role(framework: usize) -> String {
    format!("team-{}/services", framework % 10)
}

impl Cluster {
    fn new(agents: usize, frameworks: usize) -> Result<Self> {
        let total = Resources::parse("cpus:16;mem:65536;disk:500000;ports:[31000-32000]", "*")?;
        let mut cluster = Cluster {
            agents: (0..agents).map(|i| format!("agent-{i:05}")).collect(),
            frameworks: (0..frameworks).map(|i| format!("framework-{i:04}")).collect(),
            total,
            real: Allocator::new(Options::default()),
            naive: Reference::new(Options::default()),
            now: Now::new(Millis(1000), Millis(0)),
            seed: 1,
        };
        for (i, id) in cluster.frameworks.iter().enumerate() {
            let spec = FrameworkSpec { roles: BTreeSet::from([role(i)]), ..FrameworkSpec::default() };
            cluster.real.add_framework(id, &spec, true)?;
            cluster.naive.add_framework(id, &spec, true);
        }
        let spec = AgentSpec { total: cluster.total.clone(), ..AgentSpec::default() };
        for id in &cluster.agents {
            cluster.real.add_agent(id, &spec)?;
            cluster.naive.add_agent(id, &spec);
        }
        Ok(cluster)
    }

    /// The one that filters nothing stands in the middle.
    fn keeper(&self) -> usize {
        self.frameworks.len() / 2
    }

    fn everybody_filters(&mut self) -> Result<()> {
        let keeper = self.keeper();
        let roles: Vec<String> = (0..self.frameworks.len()).map(role).collect();
        for agent in &self.agents {
            for (i, (framework, role)) in self.frameworks.iter().zip(&roles).enumerate() {
                if i != keeper {
                    let holding = Holding { framework, role, agent, resources: &self.total, offered: true };
                    self.real.refuse(holding, DAY, self.now.mono)?;
                }
            }
        }
        Ok(())
    }

    /// Brings the reference to where the allocator is: everybody filters, the keeper has everything.
    fn seed_reference(&mut self) -> Result<()> {
        let first = self.agents.first().context("there are agents")?.clone();
        for (i, framework) in self.frameworks.iter().enumerate() {
            if i != self.keeper() {
                let role = role(i);
                let holding =
                    Holding { framework, role: &role, agent: &first, resources: &self.total, offered: true };
                self.naive.refuse(holding, DAY, self.now.mono);
            }
        }
        self.naive.copy_filters_everywhere(&first);
        let keeper = self.keeper();
        let role = role(keeper);
        for agent in &self.agents {
            let framework = &self.frameworks[keeper];
            self.naive.hold(Holding { framework, role: &role, agent, resources: &self.total, offered: true });
        }
        Ok(())
    }

    fn timed(&mut self, act: impl FnOnce(&mut Self) -> Allocation) -> (Allocation, f64) {
        let start = Instant::now();
        let allocation = act(self);
        (allocation, start.elapsed().as_nanos() as f64 / 1000.0)
    }

    /// As [`Self::timed`], in processor time; for what takes long enough for the system's accounting.
    fn spent(&mut self, act: impl FnOnce(&mut Self) -> Allocation) -> (Allocation, f64) {
        let before = processor();
        let (allocation, wall) = self.timed(act);
        let spent = processor() - before;
        (allocation, if spent > 0.0 { spent } else { wall })
    }

    /// k different agents, spread by a simple generator.
    fn pick(&mut self, k: usize) -> Vec<String> {
        let mut picked = BTreeSet::new();
        while picked.len() < k {
            self.seed =
                self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            picked.insert((self.seed >> 33) as usize % self.agents.len());
        }
        picked.into_iter().map(|i| self.agents[i].clone()).collect()
    }

    fn give_back(
        &mut self,
        framework: usize,
        agents: &[String],
        refuse: Option<Millis>,
        both: bool,
    ) -> Result<()> {
        let role = role(framework);
        for agent in agents {
            let holding = Holding {
                framework: &self.frameworks[framework],
                role: &role,
                agent,
                resources: &self.total,
                offered: true,
            };
            self.real.recover(holding, refuse, self.now.mono)?;
            if both {
                anyhow::ensure!(
                    self.naive.recover(holding, refuse, self.now.mono),
                    "the reference holds the same"
                );
            }
        }
        Ok(())
    }

    /// Two kinds of cycle: k agents come back from the keeper and go to it again; k agents are free but
    /// filtered by all, and one framework revives.
    fn measure(&mut self, size: &str, k: usize, figures: &mut Figures) -> Result<[Taken; 2]> {
        let mark = 1000.0 + 10.0 * k as f64;
        let (mut changed, mut revived, mut events) = (Vec::new(), Vec::new(), Vec::new());
        let (mut mismatches, mut compared) = (0, 0);
        let mut stats = [Stats::default(); 2];
        for round in 0..ROUNDS {
            // The state after a round is that before it, so the reference need not play them all.
            let both = round == 0;
            let agents = self.pick(k);
            let keeper = self.keeper();
            let start = Instant::now();
            self.give_back(keeper, &agents, None, both)?;
            events.push(start.elapsed().as_nanos() as f64 / 1000.0 / k as f64);
            let (allocation, took) = self.timed(|c| c.real.cycle(c.now));
            changed.push(took);
            stats[0] = allocation.stats;
            self.compare(&allocation, both, k, &mut mismatches, &mut compared)?;
            let (allocation, took) = self.revive_one(&agents, both)?;
            revived.push(took);
            stats[1] = allocation.stats;
            self.compare(&allocation, both, k, &mut mismatches, &mut compared)?;
            self.restore(&agents, both)?;
        }
        let mut taken = [Taken { median: 0.0, worst: 0.0, stats: stats[0] }; 2];
        for (i, (mut times, what)) in
            [(changed, "changed"), (revived, "free, one revived")].into_iter().enumerate()
        {
            times.sort_by(f64::total_cmp);
            taken[i] = Taken { median: times[ROUNDS / 2], worst: times[ROUNDS - 1], stats: stats[i] };
            figures.at_most(format!("{size} k={k} {what}: cycle, median"), taken[i].median, "us", mark);
            // Whatever else the machine does is in the worst; it has no mark.
            figures.note(format!("{size} k={k} {what}: cycle, worst of {ROUNDS}"), taken[i].worst, "us");
            figures.note(format!("{size} k={k} {what}: agents visited"), stats[i].agents_visited as f64, "");
            figures.note(
                format!("{size} k={k} {what}: frameworks visited"),
                stats[i].frameworks_visited as f64,
                "",
            );
        }
        figures.exactly(
            format!("{size} k={k}: offers unlike the reference's, of {compared}"),
            f64::from(mismatches),
            "",
            0.0,
        );
        events.sort_by(f64::total_cmp);
        figures.note(format!("{size} k={k}: an agent's resources come back"), events[ROUNDS / 2], "us");
        Ok(taken)
    }

    fn compare(
        &mut self,
        allocation: &Allocation,
        both: bool,
        k: usize,
        mismatches: &mut u32,
        compared: &mut usize,
    ) -> Result<()> {
        anyhow::ensure!(allocation.grants.len() == k, "{} offers for {k} agents", allocation.grants.len());
        if both {
            let expected = self.naive.cycle(self.now);
            *compared += expected.len().max(k);
            let unlike = expected.iter().zip(&allocation.grants).filter(|(a, b)| a != b).count();
            *mismatches += (unlike + expected.len().abs_diff(k)) as u32;
        }
        Ok(())
    }

    /// The framework that revives: another than the keeper, which is suppressed meanwhile.
    fn reviver(&self) -> usize {
        self.keeper() + 1
    }

    fn revive_one(&mut self, agents: &[String], both: bool) -> Result<(Allocation, f64)> {
        let (keeper, reviver) =
            (self.frameworks[self.keeper()].clone(), self.frameworks[self.reviver()].clone());
        let none = BTreeSet::new();
        self.real.suppress(&keeper, &none)?;
        self.give_back(self.keeper(), agents, None, both)?;
        let quiet = self.real.cycle(self.now);
        anyhow::ensure!(quiet.grants.is_empty(), "all others filter");
        if both {
            self.naive.suppress(&keeper, &none);
            anyhow::ensure!(self.naive.cycle(self.now).is_empty(), "all others filter");
            self.naive.revive(&reviver, &none);
        }
        let start = Instant::now();
        self.real.revive(&reviver, &none)?;
        let allocation = self.real.cycle(self.now);
        Ok((allocation, start.elapsed().as_nanos() as f64 / 1000.0))
    }

    /// Back to where everybody but the keeper filters everything and the keeper has it all.
    fn restore(&mut self, agents: &[String], both: bool) -> Result<()> {
        let (keeper, reviver) = (self.keeper(), self.reviver());
        self.give_back(reviver, agents, Some(DAY), both)?;
        let role = role(reviver);
        for agent in &self.agents {
            let framework = &self.frameworks[reviver];
            let holding = Holding { framework, role: &role, agent, resources: &self.total, offered: true };
            self.real.refuse(holding, DAY, self.now.mono)?;
        }
        if both && let Some(agent) = self.agents.first() {
            let framework = &self.frameworks[reviver];
            let holding = Holding { framework, role: &role, agent, resources: &self.total, offered: true };
            self.naive.refuse(holding, DAY, self.now.mono);
            let first = agent.clone();
            self.naive.copy_filters_everywhere(&first);
        }
        let (keeper, none) = (self.frameworks[keeper].clone(), BTreeSet::new());
        self.real.revive(&keeper, &none)?;
        let given = self.real.cycle(self.now);
        anyhow::ensure!(given.grants.len() == agents.len(), "the keeper takes them again");
        if both {
            self.naive.revive(&keeper, &none);
            anyhow::ensure!(self.naive.cycle(self.now) == given.grants, "the keeper takes the same again");
        }
        // Bits of the revived framework's old filters are swept in the next cycles; that is not part of
        // what is measured next.
        while self.real.cycle(self.now).stats.swept > 0 {}
        Ok(())
    }

    fn measure_idle(&mut self, size: &str, figures: &mut Figures) {
        let mut times: Vec<f64> = (0..ROUNDS).map(|_| self.timed(|c| c.real.cycle(c.now)).1).collect();
        times.sort_by(f64::total_cmp);
        figures.at_most(format!("{size}: cycle, nothing changed"), times[ROUNDS / 2], "us", 1000.0);
    }
}

/// Nobody filters and everything is free: the cost of an offer when all has to be offered.
fn everybody_willing(figures: &mut Figures) -> Result<()> {
    let mut took = Vec::new();
    for (agents, frameworks) in [(5_000, 500), (20_000, 2_000)] {
        let mut cluster = Cluster::new(agents, frameworks)?;
        let (allocation, all) = cluster.spent(|c| c.real.cycle(c.now));
        anyhow::ensure!(allocation.grants.len() == agents, "every agent is offered once");
        figures.at_most(
            format!("{agents}x{frameworks} all free, all willing: an offer"),
            all / agents as f64,
            "us",
            5.0,
        );
        took.push(all);
    }
    if let [small, large] = took[..] {
        figures.at_most("all free, all willing: 20000x2000 against 5000x500", large / small, "x", 4.5);
    }
    Ok(())
}

/// As many roles with a limit as agents and frameworks, all at their limit: a cycle that can offer nothing.
fn limits(figures: &mut Figures) -> Result<()> {
    const N: usize = 3_000;
    let now = Now::new(Millis(1000), Millis(0));
    let mut real = Allocator::new(Options::default());
    let limit =
        Quantities::from_iter([(Name::CPUS, Amount::from_units(8)), (Name::MEM, Amount::from_units(32_768))]);
    let spec = AgentSpec {
        total: Resources::parse("cpus:16;mem:65536;ports:[31000-32000]", "*")?,
        ..AgentSpec::default()
    };
    for i in 0..N {
        let role = format!("role-{i}");
        real.set_quota(&role, Some(&limit))?;
        let framework = FrameworkSpec { roles: BTreeSet::from([role]), ..FrameworkSpec::default() };
        real.add_framework(&format!("framework-{i}"), &framework, true)?;
        real.add_agent(&format!("agent-{i}"), &spec)?;
    }
    let before = processor();
    let first = real.cycle(now);
    let each = (processor() - before) / first.grants.len().max(1) as f64;
    figures.at_most("3000 agents, roles with limits, frameworks: an offer", each, "us", 7.5);
    // The roles had half an agent each, so the last agents are free.
    let free = format!("agent-{}", N - 1);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        // An agent is touched, nobody may have what is free on it.
        real.deactivate_agent(&free)?;
        real.activate_agent(&free)?;
        let start = Instant::now();
        let allocation = real.cycle(now);
        times.push(start.elapsed().as_nanos() as f64 / 1000.0);
        anyhow::ensure!(allocation.grants.is_empty(), "all roles are at their limit");
        anyhow::ensure!(allocation.stats.agents_visited == 1, "only the agent that was touched is visited");
    }
    times.sort_by(f64::total_cmp);
    figures.at_most("3000 roles at their limit, one agent changed: cycle", times[ROUNDS / 2], "us", 1010.0);
    Ok(())
}

/// Processor time of this thread so far in microseconds, as of the last accounting (a few milliseconds ago
/// at most).
fn processor() -> f64 {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .map_or(0.0, |nanos| nanos / 1000.0)
}

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}
