//! How soon a task runs after the agent was told to launch it, how many a second, and what each costs: the real agent as a process of the
//! built program, a stand-in master ([`crate::node`]), and in the same minute, turn by turn, those that are compared with it ([`peers`]).
//!
//! A launch counts from before the order is written to the agent's socket until the task's own first time: TLS, the record on the disk and
//! the sandbox are in it.

mod docker;
mod launches;
mod memory;
mod peers;
pub mod registry;
mod spread;

use std::time::Duration;

use anyhow::{Context, Result};
use plenum_testkit::process::cpu_time;

use crate::figures::Figures;
use crate::node::{Node, or_interrupted, own_network, task};
use launches::Launcher;
use peers::{Peer, Peers};
use spread::Spread;

pub use peers::role;

/// A command with the machine's files against `unshare` and a durable file.
const HOST: f64 = 2.0;
/// An image that is on the node against crun.
const IMAGE: f64 = 0.5;
/// Launches and ends a second, at least; the aim is 300.
const RATE: f64 = 100.0;
/// With all running against with none.
const LAST: f64 = 1.2;
/// KiB for a running container.
const CONTAINER: f64 = 300.0;
/// MiB of the agent.
const AGENT: f64 = 60.0;
/// Percent of a core for an agent with nothing to do.
const IDLE: f64 = 5.0;

/// How much is done.
struct Size {
    /// Turns in which each launches once.
    rounds: usize,
    /// Containers that run at once.
    running: usize,
    /// Single launches while they run.
    more: usize,
    /// How long the agent is watched at rest.
    idle: Duration,
}

const FULL: Size = Size { rounds: 60, running: 1_000, more: 30, idle: Duration::from_secs(10) };
const QUICK: Size = Size { rounds: 10, running: 50, more: 10, idle: Duration::from_secs(3) };

/// Turns that are not counted: programs are read from the disk, the image is pulled.
const WARM: usize = 2;
/// How long memory is left to settle: the agent gives back what a burst took once it is over.
const SETTLE: Duration = Duration::from_secs(4);

/// Measures; `quick` with fewer containers, `running` with another number of them at once.
pub fn run(quick: bool, running: Option<u32>) -> Result<Figures> {
    own_network()?;
    plenum_testkit::process::allow_many_files()?;
    let folder = tempfile::Builder::new().prefix("plenum-peers-").tempdir_in("/var/tmp")?;
    let root = folder.path().join("root");
    for name in ["", "proc", "dev", "sys", "etc", "tmp"] {
        std::fs::create_dir(root.join(name))?;
    }
    let program = task::compile(&root)?;
    let peers = Peers::start(folder.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(or_interrupted(async {
        registry::serve(&root).await?;
        // However full the disk is, sandboxes stay while this measures.
        let images = format!("gc_interval = 86400\n[agent.images]\ninsecure = [\"{}\"]\n", registry::HOST);
        let node = Node::start("bench", &images).await?;
        let launcher = Launcher::new(node, &program);
        let size = if quick { QUICK } else { FULL };
        let running = running.map_or(size.running, |running| running as usize);
        measure(launcher, peers, &Size { running, ..size }).await
    }))
}

async fn measure(mut launcher: Launcher, mut peers: Peers, size: &Size) -> Result<Figures> {
    let mut figures = Figures::new("containers");
    let alone = rounds(&mut launcher, &mut peers, size).await?;
    alone.report(&mut figures);
    crowd(&mut launcher, &mut peers, size, &mut figures).await?;
    launcher.node.stop_agent()?;
    Ok(figures)
}

/// What each took.
struct Rounds {
    host: Spread,
    image: Spread,
    peers: Vec<(Peer, Spread)>,
}

/// Everybody in turn, so that what else the machine does hits all alike.
async fn rounds(launcher: &mut Launcher, peers: &mut Peers, size: &Size) -> Result<Rounds> {
    let mut all = Rounds {
        host: Spread::default(),
        image: Spread::default(),
        peers: peers.here.iter().map(|peer| (*peer, Spread::default())).collect(),
    };
    for round in 0..WARM + size.rounds {
        let counts = round >= WARM;
        for (peer, spread) in &mut all.peers {
            let took = peers.launch(*peer)?;
            if counts {
                spread.push(took);
            }
        }
        let host = launcher.one(None).await.context("with the machine's files")?;
        let image = launcher.one(Some(registry::IMAGE)).await.context("with an image")?;
        if counts {
            all.host.push(host);
            all.image.push(image);
        }
    }
    Ok(all)
}

impl Rounds {
    fn of(&self, peer: Peer) -> Option<&Spread> {
        self.peers.iter().find(|(known, _)| *known == peer).map(|(_, spread)| spread)
    }

    fn report(&self, figures: &mut Figures) {
        let ours =
            [("command, the machine's files", &self.host), ("command, image on the node", &self.image)];
        let peers = self.peers.iter().map(|(peer, spread)| (peer.name(), spread));
        for (name, spread) in peers.chain(ours) {
            figures.note(format!("{name}: median of {}", spread.len()), spread.median(), "ms");
            figures.note(format!("{name}: p99"), spread.at(0.99), "ms");
        }
        let ratio = |ours: &Spread, peer: Peer| Some(ours.median() / self.of(peer)?.median());
        if let Some(ratio) = ratio(&self.host, Peer::Unshare) {
            figures.at_most("machine's files against unshare + fsync", ratio, "x", HOST);
        }
        match ratio(&self.image, Peer::Crun) {
            Some(ratio) => figures.at_most("image against crun", ratio, "x", IMAGE),
            None => eprintln!("image against crun: SKIPPED, crun is not installed"),
        }
        for peer in [Peer::Runc, Peer::Docker] {
            if let Some(ratio) = ratio(&self.image, peer) {
                figures.note(format!("image against {}", peer.name()), ratio, "x");
            }
        }
    }
}

/// Many at once: how fast they come and go, what they cost while they are there, and what one more costs then.
async fn crowd(launcher: &mut Launcher, peers: &mut Peers, size: &Size, figures: &mut Figures) -> Result<()> {
    let agent = launcher.node.agent();
    let mut empty = singles(launcher, peers, size.more).await?;
    tokio::time::sleep(SETTLE).await;
    let before = memory::resident(agent)?;
    let cpu = cpu_time(agent)?;
    let (ids, took) = launcher.many(size.running).await?;
    let rate = ids.len() as f64 / took.as_secs_f64();
    figures.at_least(format!("launches a second, {} at once", ids.len()), rate, "1/s", RATE);
    let spent = cpu_time(agent)?.saturating_sub(cpu);
    figures.note("agent's processor time for a launch", each(spent, ids.len()), "ms");
    tokio::time::sleep(SETTLE).await;
    rest(launcher, size, before, ids.len(), figures).await?;

    let full = singles(launcher, peers, size.more).await?;
    let cpu = cpu_time(agent)?;
    let took = launcher.end(&ids).await?;
    let rate = ids.len() as f64 / took.as_secs_f64();
    figures.at_least("ends a second, until nothing is left", rate, "1/s", RATE);
    let spent = cpu_time(agent)?.saturating_sub(cpu);
    figures.note("agent's processor time for an end", each(spent, ids.len()), "ms");
    // The empty node is measured before and after, with `unshare` beside it as with the full one: what else the machine did in those
    // seconds is not to count.
    let again = singles(launcher, peers, size.more).await?;
    empty = Singles { ours: empty.ours.join(&again.ours), unshare: empty.unshare.join(&again.unshare) };
    for (singles, running) in [(&empty, 0), (&full, ids.len())] {
        figures.note(format!("a launch while {running} run: median"), singles.ours.median(), "ms");
        figures.note(format!("unshare + fsync while {running} run: median"), singles.unshare.median(), "ms");
    }
    let more = full.ours.median() / empty.ours.median();
    let unshare = full.unshare.median() / empty.unshare.median();
    figures.note(format!("one more than {} against the first", ids.len()), more, "x");
    let name = format!("one more than {} against the first, both beside unshare", ids.len());
    figures.at_most(name, more / unshare, "x", LAST);
    figures.note("agent's memory at the end", memory::resident(agent)? / 1024.0, "MiB");
    Ok(())
}

/// What they cost by being there.
async fn rest(
    launcher: &Launcher,
    size: &Size,
    before: f64,
    running: usize,
    figures: &mut Figures,
) -> Result<()> {
    let agent = launcher.node.agent();
    let (cost, counted) = memory::mean(&launcher.node.path(""))?;
    anyhow::ensure!(counted == running, "{counted} of {running} containers have a supervisor");
    let after = memory::resident(agent)?;
    let growth = (after - before).max(0.0) / running as f64;
    figures.note("a container: anonymous pages of supervisor and init", cost.anonymous, "KiB");
    figures.note("a container: files' pages of their own", cost.files, "KiB");
    figures.note("a container: page tables", cost.tables, "KiB");
    figures.note("a container: growth of the agent", growth, "KiB");
    figures.at_most("a container: memory of ours", cost.sum() + growth, "KiB", CONTAINER);
    figures.note("agent's memory, nothing running", before / 1024.0, "MiB");
    figures.at_most(format!("agent's memory, {running} running"), after / 1024.0, "MiB", AGENT);
    let cpu = cpu_time(agent)?;
    tokio::time::sleep(size.idle).await;
    let idle = cpu_time(agent)?.saturating_sub(cpu).as_secs_f64() / size.idle.as_secs_f64() * 100.0;
    figures.at_most(format!("agent at rest, {running} running, of a core"), idle, "%", IDLE);
    Ok(())
}

/// Single launches, each beside one of the same minute that nothing of ours has a part in.
struct Singles {
    ours: Spread,
    unshare: Spread,
}

async fn singles(launcher: &mut Launcher, peers: &mut Peers, count: usize) -> Result<Singles> {
    let mut both = Singles { ours: Spread::default(), unshare: Spread::default() };
    for _ in 0..count {
        both.ours.push(launcher.one(None).await?);
        both.unshare.push(peers.launch(Peer::Unshare)?);
    }
    Ok(both)
}

fn each(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e3 / count.max(1) as f64
}
