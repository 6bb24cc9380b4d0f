//! How soon what is asked for runs: from the request to the last instance's first passed health check, by a real master with simulated
//! agents. What is measured is all of it together: planning, the store, offers, launches, updates and their acknowledgements.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use http::Method;
use plenum_testkit::process::cpu_time;
use serde_json::{Value, json};

use super::leader::Leader;
use super::{WAIT, seed};
use crate::figures::Figures;
use crate::kernel::Cluster;

/// Instances a second, at least.
const INSTANCES: f64 = 500.0;
/// How often each shape is deployed; the figure is the median's.
const ROUNDS: usize = 3;

/// Deploys `instances` of one app, then of several of ten instances each, on so many agents.
pub fn run(
    figures: &mut Figures,
    runtime: &tokio::runtime::Runtime,
    agents: u32,
    instances: u32,
) -> Result<()> {
    let mut cluster = Cluster::start()?;
    cluster.register(agents)?;
    let folder = tempfile::tempdir()?;
    let leader = Leader::start(folder.path(), &format!("http://{}", cluster.http))?;
    runtime.block_on(async {
        leader.until("/v2/info", WAIT, |info| info["frameworkId"].is_string()).await?;
        for (apps, each) in [(1, instances), (instances / seed::EACH, seed::EACH)] {
            let name = format!("{apps} × {each} on {agents} agents");
            let mut rates = Vec::new();
            let before = cpu_time(leader.id())?;
            for _ in 0..ROUNDS {
                rates.push(one(&leader, apps, each).await.with_context(|| name.clone())?);
            }
            let cpu = (cpu_time(leader.id())? - before).as_secs_f64();
            rates.sort_unstable_by(f64::total_cmp);
            let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
            figures.at_least(format!("instances to healthy, {name}"), median, "1/s", INSTANCES);
            let launched = f64::from(apps * each) * ROUNDS as f64;
            figures.note(
                format!("scheduler's CPU for each, there and away, {name}"),
                cpu * 1e6 / launched,
                "µs",
            );
        }
        anyhow::Ok(())
    })?;
    leader.stop();
    cluster.stop();
    Ok(())
}

/// One deployment and its end; instances a second.
async fn one(leader: &Leader, apps: u32, each: u32) -> Result<f64> {
    let apps = usize::try_from(apps)?;
    let began = Instant::now();
    let made = (0..apps).map(|n| async move {
        leader.change(Method::POST, "/v2/apps", Some(&Value::Object(seed::body(n, each)))).await
    });
    try_join_all(made).await?;
    let wanted = apps as u64 * u64::from(each);
    leader.until("/v2/apps", WAIT, |list| healthy(list) == wanted).await?;
    let took = began.elapsed();
    // Deployments end with the last update that counts.
    leader.until("/v2/deployments", WAIT, |list| *list == json!([])).await?;
    for n in 0..apps {
        leader.change(Method::DELETE, &format!("/v2/apps/{}", seed::id(n)), None).await?;
    }
    leader.until("/v2/apps", WAIT, |list| *list == json!({"apps": []})).await?;
    leader.until("/v2/deployments", WAIT, |list| *list == json!([])).await?;
    ensure!(took > Duration::ZERO, "no time has passed");
    Ok(wanted as f64 / took.as_secs_f64())
}

fn healthy(list: &Value) -> u64 {
    let apps = list["apps"].as_array().map(Vec::as_slice).unwrap_or_default();
    apps.iter().filter_map(|app| app["tasksHealthy"].as_u64()).sum()
}
