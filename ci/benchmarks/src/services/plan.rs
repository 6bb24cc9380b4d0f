//! What one change costs the core, and how that grows with the number of apps: everything happens in this process, nothing is written.

use std::time::Duration;

use anyhow::Result;
use plenum_services::core::id::PathId;
use plenum_services::core::requests::Kind;

use super::seed::{Cluster, EACH, body, id};
use super::{Spread, spread};
use crate::figures::Figures;

/// To plan one change, in ms, at most.
const CHANGE: f64 = 5.0;
/// By how much planning may grow from the first size to the last, ten times as large. The trees that everything lies in are then a third
/// deeper, and no processor's cache holds them.
const GROWTH: f64 = 2.0;

/// What was measured at one number of apps.
pub struct Row {
    apps: usize,
    change: Spread,
    read: Spread,
    create: Spread,
    offers: Spread,
    update: Spread,
    tick: Spread,
    idle: Spread,
}

/// One of a row's measurements.
type Of = fn(&Row) -> &Spread;

/// Measures a cluster that is still: scaling, making and removing apps, with and without readers.
pub fn measure(cluster: &mut Cluster, samples: usize) -> Result<Row> {
    let apps = cluster.apps;
    let nth = |n: usize| n * 7919 % apps;
    cluster.times = Default::default();
    let step = samples.min(apps);
    for n in 0..step {
        cluster.scale(nth(n), EACH + 1)?;
    }
    for n in 0..step {
        cluster.scale(nth(n), EACH)?;
    }
    let alone = std::mem::take(&mut cluster.times);
    for n in 0..step {
        let held = cluster.core.state().clone();
        cluster.scale(nth(n), EACH + 1)?;
        cluster.scale(nth(n), EACH)?;
        drop(held);
    }
    let read = std::mem::take(&mut cluster.times);
    for n in 0..step {
        let reply = cluster.ask(Kind::Create(body(apps + n, 1)))?;
        anyhow::ensure!(reply.status == 201, "an app was not made: {reply:?}");
        cluster.ask(Kind::Remove(PathId::parse(&id(apps + n)).map_err(anyhow::Error::msg)?))?;
    }
    let create = std::mem::take(&mut cluster.times);
    let ticks: Vec<Duration> = (0..step).map(|_| cluster.tick()).collect();
    let idle: Result<Vec<Duration>> = (0..step).map(|_| cluster.idle_offers()).collect();
    Ok(Row {
        apps,
        change: spread(alone.changes),
        read: spread(read.changes),
        create: spread(create.changes),
        offers: spread(alone.offers),
        update: spread(alone.updates),
        tick: spread(ticks),
        idle: spread(idle?),
    })
}

/// Each size's figures, and the growth between the first and the last.
pub fn report(figures: &mut Figures, rows: &[Row]) {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
    for row in rows {
        let at = |what: &str| format!("{what}, {} apps", row.apps);
        if row.apps == last.apps {
            figures.at_most(at("one change planned, p99"), row.change.p99, "ms", CHANGE);
            figures.at_most(at("the same while readers hold a snapshot, p99"), row.read.p99, "ms", CHANGE);
            figures.at_most(at("an app made or removed, p99"), row.create.p99, "ms", CHANGE);
        }
        figures.note(at("one change planned, p50"), row.change.p50, "ms");
        figures.note(at("the same while readers hold a snapshot, p50"), row.read.p50, "ms");
        figures.note(at("an app made or removed, p50"), row.create.p50, "ms");
        figures.note(at("offers of 10 nodes used, p50"), row.offers.p50, "ms");
        figures.note(at("a task's update, p50"), row.update.p50, "ms");
        figures.note(at("100 offers that nobody waits for, p50"), row.idle.p50, "ms");
        figures.note(at("a tick, p50"), row.tick.p50, "ms");
    }
    if first.apps == last.apps {
        return;
    }
    let times: [(&str, Of); 5] = [
        ("one change planned", |row| &row.change),
        ("one change while readers hold a snapshot", |row| &row.read),
        ("an app made or removed", |row| &row.create),
        ("offers used", |row| &row.offers),
        ("a task's update", |row| &row.update),
    ];
    for (what, of) in times {
        let factor = of(last).p50 / of(first).p50.max(1e-6);
        figures.at_most(format!("{what}: {} apps to {}", first.apps, last.apps), factor, "×", GROWTH);
    }
}
