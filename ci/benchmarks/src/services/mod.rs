//! How fast the service scheduler is and what it takes: instances a second through a real master with simulated agents, planning as clusters
//! grow, a leader with 10,000 apps and 100,000 instances, and a thousand listeners to its events.
//!
//! [`plan`] asks the core itself. The others ([`deploy`], [`large`], [`listeners`]) ask a [`leader`], a process of its own with a store on
//! disk, by its public API. The master of the last two is played ([`master`]).

mod deploy;
mod large;
mod leader;
mod listeners;
mod master;
mod plan;
mod seed;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::figures::Figures;
use seed::Cluster;

pub use leader::role;

/// What is measured.
struct Sizes {
    /// Apps of the two planning measurements; the last is also what the large leader has.
    apps: [usize; 2],
    /// Changes of each kind.
    samples: usize,
    /// Simulated agents.
    agents: u32,
    /// Instances that are deployed on them.
    instances: u32,
    /// Listeners.
    listeners: usize,
    /// Changes that they hear of.
    heard: usize,
}

const FULL: Sizes =
    Sizes { apps: [1_000, 10_000], samples: 400, agents: 100, instances: 500, listeners: 1_000, heard: 200 };

const QUICK: Sizes =
    Sizes { apps: [20, 100], samples: 20, agents: 5, instances: 20, listeners: 20, heard: 10 };

/// Apps of the leader that has listeners.
const LISTENED: usize = 100;
/// Service ports there are, less one for apps that are made and removed.
const MOST: usize = 10_000;
/// For anything that has to happen.
const WAIT: Duration = Duration::from_secs(120);

/// Measures; `quick` only whether everything works, which says little about speed. `apps`: another number of apps, and a tenth of it.
pub fn run(quick: bool, apps: Option<u32>) -> Result<Figures> {
    plenum_base::service::install_crypto();
    plenum_testkit::process::allow_many_files()?;
    let mut sizes = if quick { QUICK } else { FULL };
    if let Some(apps) = apps {
        let apps = usize::try_from(apps)?.clamp(10, MOST);
        sizes.apps = [apps / 10, apps];
    }
    let mut figures = Figures::new("services");
    let mut cluster = Cluster::new();
    let mut rows = Vec::new();
    let mut listened = BTreeMap::new();
    for apps in sizes.apps {
        if apps >= LISTENED && listened.is_empty() {
            cluster.grow(LISTENED)?;
            listened = cluster.records.clone();
        }
        let began = std::time::Instant::now();
        cluster.grow(apps)?;
        eprintln!("{apps} apps with {} instances each, {:.1} s", seed::EACH, began.elapsed().as_secs_f64());
        rows.push(plan::measure(&mut cluster, sizes.samples)?);
    }
    plan::report(&mut figures, &rows);
    let records = std::mem::take(&mut cluster.records);
    drop(cluster);
    let apps = sizes.apps[1];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    deploy::run(&mut figures, &runtime, sizes.agents, sizes.instances)?;
    large::run(&mut figures, &runtime, records, apps, sizes.samples)?;
    listeners::run(&mut figures, &runtime, listened, LISTENED, (sizes.listeners, sizes.heard))?;
    Ok(figures)
}

/// Where the times of something lie, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Spread {
    p50: f64,
    p99: f64,
    most: f64,
}

fn spread(mut times: Vec<Duration>) -> Spread {
    times.sort_unstable();
    let at = |share: f64| {
        let place = ((times.len() as f64 * share).ceil() as usize).saturating_sub(1);
        times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    Spread { p50: at(0.5), p99: at(0.99), most: at(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(spread(times), Spread { p50: 100.0, p99: 198.0, most: 200.0 });
    }

    #[test]
    fn a_cluster_grows_and_every_change_of_it_ends() {
        let mut cluster = Cluster::new();
        cluster.grow(5).unwrap();
        let records =
            |cluster: &Cluster, kind: &str| cluster.records.keys().filter(|k| k.starts_with(kind)).count();
        assert_eq!((records(&cluster, "apps/"), records(&cluster, "instances/")), (5, 50));
        cluster.scale(3, 12).unwrap();
        assert_eq!(records(&cluster, "instances/"), 52);
        plan::measure(&mut cluster, 3).unwrap();
        assert_eq!((records(&cluster, "apps/"), records(&cluster, "deployments/")), (5, 0));
    }
}
