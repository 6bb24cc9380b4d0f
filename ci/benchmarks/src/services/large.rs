//! A leader with many apps: how soon it serves after a start, what it takes of memory, how long its lists and a change take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use http::Method;
use serde_json::{Value, json};

use super::leader::{self, Leader};
use super::{WAIT, master, seed, spread};
use crate::figures::Figures;

/// Memory of the leader, in MiB, at most.
const MEMORY: f64 = 400.0;
/// For the whole list, in ms, at most.
const LIST: f64 = 300.0;
/// From the start of the process to an answer, in s, at most.
const RESTART: f64 = 5.0;
/// Lists of each kind.
const LISTS: usize = 11;

/// Starts a leader on these records, which make so many apps, and asks it.
pub fn run(
    figures: &mut Figures,
    runtime: &tokio::runtime::Runtime,
    records: BTreeMap<String, Vec<u8>>,
    apps: usize,
    changes: usize,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let address = runtime.block_on(async {
        let began = Instant::now();
        leader::write(folder.path(), records).await?;
        eprintln!("{apps} apps written, {:.1} s", began.elapsed().as_secs_f64());
        master::serve().await
    })?;
    let instances = apps * seed::EACH as usize;
    let of = format!("{apps} apps, {instances} instances");
    let began = Instant::now();
    let leader = Leader::start(folder.path(), &format!("http://{address}"))?;
    runtime.block_on(async {
        let last = format!("/v2/apps/{}/versions", seed::id(apps - 1));
        leader.until(&last, WAIT, |_| true).await?;
        figures.at_most(format!("start to serving, {of}"), began.elapsed().as_secs_f64(), "s", RESTART);
        let (list, cold) = leader.get("/v2/apps").await?;
        anyhow::ensure!(list["apps"].as_array().map(Vec::len) == Some(apps), "apps are missing");
        figures.note(format!("the first GET /v2/apps after it, {of}"), ms(cold), "ms");
        let running = |metrics: &Value| {
            metrics["gauges"]["service.mesosphere.marathon.task.running.count"]["value"] == json!(instances)
        };
        leader.until("/metrics", WAIT, running).await?;
        figures.note(
            format!("start to every instance known to run, {of}"),
            began.elapsed().as_secs_f64(),
            "s",
        );
        let (_, first) = leader.get("/v2/apps").await?;
        figures.at_most(format!("GET /v2/apps when all have changed, {of}"), ms(first), "ms", LIST);
        let mut lists = Vec::new();
        let mut bytes = 0;
        for _ in 0..LISTS {
            let began = Instant::now();
            bytes = leader.send(Method::GET, "/v2/apps", None).await?.body.len();
            lists.push(began.elapsed());
        }
        let lists = spread(lists);
        figures.at_most(format!("GET /v2/apps, p50, {of}"), lists.p50, "ms", LIST);
        figures.note(format!("GET /v2/apps, longest of {LISTS}, {of}"), lists.most, "ms");
        figures.note(format!("its bytes, {of}"), bytes as f64 / f64::from(1 << 20), "MiB");
        tokio::time::sleep(Duration::from_secs(3)).await;
        figures.at_most(format!("leader's memory, {of}"), mib(leader.memory()?), "MiB", MEMORY);
        let asked = change(&leader, apps, changes).await?;
        figures.note(format!("PUT of an app's instances until it is answered, p50, {of}"), asked.p50, "ms");
        figures.note(format!("PUT of an app's instances until it is answered, p99, {of}"), asked.p99, "ms");
        tokio::time::sleep(Duration::from_secs(3)).await;
        figures.at_most(
            format!("leader's memory after {changes} changes, {of}"),
            mib(leader.memory()?),
            "MiB",
            MEMORY,
        );
        figures.note(format!("the most it ever had, {of}"), mib(leader.peak()?), "MiB");
        anyhow::Ok(())
    })?;
    leader.stop();
    Ok(())
}

/// One more instance of one app after the other, a little apart.
async fn change(leader: &Leader, apps: usize, changes: usize) -> Result<super::Spread> {
    let mut times = Vec::new();
    for n in 0..changes {
        let path = format!("/v2/apps/{}", seed::id(n * 7919 % apps));
        let body = json!({"instances": seed::EACH + 1});
        times.push(leader.change(Method::PUT, &path, Some(&body)).await?);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    leader.until("/v2/deployments", WAIT, |list| *list == json!([])).await?;
    Ok(spread(times))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
