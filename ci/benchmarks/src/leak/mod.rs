//! Whether a node is as it was after thousands of launches, kills and crashes: what containers take is counted before and after.

mod counts;
mod deeds;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::containers::registry;
use crate::figures::Figures;
use crate::node::{Node, or_interrupted, own_network, task};
use counts::Count;
use deeds::{Deeds, Random};

/// Everything an ended task leaves is collected within a second, images stay however full the disk is, and what is said is said again soon.
const SETTINGS: &str = "gc_delay = 0\ngc_interval = 1\ngc_disk_headroom = 0.0\nupdate_retry = 1\nupdate_retry_max = 2\nkill_grace = 1\n";
/// For the node to be as it was.
const SETTLE: Duration = Duration::from_secs(60);
/// Names of things too many that are printed of each kind.
const NAMED: usize = 10;

/// Does `count` deeds, and fails a mark for each kind of which there is more, or less, than at the start.
pub fn run(count: u32) -> Result<Figures> {
    own_network()?;
    plenum_testkit::process::allow_many_files()?;
    // Whoever loses its parent becomes ours: no process is missed.
    nix::sys::prctl::set_child_subreaper(true)?;
    let seed = std::env::var("PLENUM_BENCH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("leak: {count} deeds, PLENUM_BENCH_SEED={seed}");
    let folder = tempfile::Builder::new().prefix("plenum-leak-").tempdir_in("/var/tmp")?;
    let root = folder.path().join("root");
    std::fs::create_dir(&root)?;
    task::compile(&root)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(or_interrupted(async {
        registry::serve(&root).await?;
        let images = format!("{SETTINGS}[agent.images]\ninsecure = [\"{}\"]\n", registry::HOST);
        let node = Node::start("leak", &images).await?;
        measure(Deeds::new(node, Random::new(seed), registry::IMAGE), count).await
    }))
}

async fn measure(mut deeds: Deeds, count: u32) -> Result<Figures> {
    deeds.launch_each();
    tokio::time::sleep(Duration::from_secs(3)).await;
    deeds.end_all().await?;
    let before = steady(&deeds.node).await;
    let began = Instant::now();
    for number in 0..count {
        deeds.next().await?;
        if number % 250 == 249 {
            eprintln!("{} deeds, {:.0} s", number + 1, began.elapsed().as_secs_f64());
        }
    }
    deeds.end_all().await?;
    let after = settled(&deeds.node, &before).await;
    let mut figures = Figures::new("leak");
    figures.note("deeds", f64::from(count), "");
    for (what, times) in &deeds.done {
        figures.note(format!("deeds: {what}"), *times as f64, "");
    }
    for (state, times) in &deeds.ends {
        figures.note(format!("tasks that ended as {state}"), *times as f64, "");
    }
    for (before, after) in before.iter().zip(&after) {
        let name = format!("{}, at the start and now", after.name);
        figures.exactly(name, after.things.len() as f64, "", before.things.len() as f64);
        for thing in after.things.difference(&before.things).take(NAMED).filter(|_| more(before, after)) {
            eprintln!("{}: more than at the start: {thing}", after.name);
        }
    }
    deeds.node.stop_agent()?;
    Ok(figures)
}

fn more(before: &Count, after: &Count) -> bool {
    after.things.len() != before.things.len()
}

/// The counts once they stay the same for some seconds: what was ended for the start is collected by then.
async fn steady(node: &Node) -> Vec<Count> {
    let sizes = |counts: &[Count]| counts.iter().map(|count| count.things.len()).collect::<Vec<_>>();
    let until = Instant::now() + SETTLE;
    let mut last = counts::count(node);
    let mut same = 0;
    while same < 5 && Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = counts::count(node);
        same = if sizes(&now) == sizes(&last) { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// The counts once they are those of the start, or when they have had their time.
async fn settled(node: &Node, before: &[Count]) -> Vec<Count> {
    let until = Instant::now() + SETTLE;
    loop {
        let now = counts::count(node);
        let same = now.iter().zip(before).all(|(now, before)| now.things.len() == before.things.len());
        if same || Instant::now() > until {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
