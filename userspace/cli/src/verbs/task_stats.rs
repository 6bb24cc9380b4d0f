//! `plenum task stats`: what running tasks use. Processor time is told as cores in use, by two looks at its sum.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::view;
use crate::Global;
use crate::api::Session;
use crate::api::nodes::ClusterTask;
use crate::error::Result;
use crate::screen::Screen;
use crate::table::{Cell, Table};
use crate::text::{mebibytes, number};

/// Between the two looks of a view that is not watched.
const APART: Duration = Duration::from_millis(1000);

/// A task and what it uses.
#[derive(Debug, Clone, Serialize)]
struct Used {
    id: String,
    node: String,
    container: String,
    /// Cores in use since the last look.
    cpus: Option<f64>,
    statistics: Map<String, Value>,
}

/// Processor seconds and the moment they were read, by container.
type Before = BTreeMap<String, (f64, f64)>;

pub(crate) async fn stats(
    session: &Session,
    global: &Global,
    filter: Option<&str>,
    watch: bool,
    screen: &mut Screen,
) -> Result<()> {
    let mut before = Before::new();
    if !watch {
        look(session, filter, &mut before).await?;
        tokio::time::sleep(APART).await;
    }
    view(screen, watch, async |screen| {
        let all = look(session, filter, &mut before).await?;
        screen.form(global.output, &all, || table(&all))
    })
    .await
}

async fn look(session: &Session, filter: Option<&str>, before: &mut Before) -> Result<Vec<Used>> {
    let mut tasks = session.tasks().await?;
    tasks.retain(|task| {
        task.state == "TASK_RUNNING"
            && !task.completed
            && filter.is_none_or(|part| task.id.contains(part) || task.name.contains(part))
    });
    let mut nodes: Vec<&str> = tasks.iter().map(|task| task.slave_id.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut measured = BTreeMap::new();
    for node in nodes {
        // What a node that is away would say is left out.
        match session.statistics(node).await {
            Ok(found) => measured.extend(found),
            Err(error) if error.may_pass() => {}
            Err(error) => return Err(error),
        }
    }
    let mut all: Vec<Used> = tasks.iter().map(|task| used(task, &measured, before)).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

fn used(task: &ClusterTask, measured: &BTreeMap<String, Map<String, Value>>, before: &mut Before) -> Used {
    let container = task.container().unwrap_or_default();
    let statistics = measured.get(&container).cloned().unwrap_or_default();
    let figure = |name: &str| statistics.get(name).and_then(Value::as_f64);
    let seconds =
        figure("cpus_user_time_secs").map(|user| user + figure("cpus_system_time_secs").unwrap_or(0.0));
    let cpus = seconds.zip(figure("timestamp")).and_then(|(seconds, at)| {
        let (then, since) = before.insert(container.clone(), (seconds, at))?;
        (at > since).then(|| ((seconds - then) / (at - since)).max(0.0))
    });
    Used { id: task.id.clone(), node: task.node().to_owned(), container, cpus, statistics }
}

/// Mebibytes to or from block devices.
fn blocks(statistics: &Map<String, Value>, operation: &str) -> Option<f64> {
    let devices = statistics.get("blkio_statistics")?.get("throttling")?.as_array()?;
    let values = devices.iter().filter_map(|device| device.get("io_service_bytes")?.as_array()).flatten();
    let of = values.filter(|value| value.get("op").and_then(Value::as_str) == Some(operation));
    Some(of.filter_map(|value| value.get("value")?.as_f64()).sum::<f64>() / 1_048_576.0)
}

/// In how much of the last ten seconds some of it waited for processor, memory and block devices, per cent.
fn waits(statistics: &Map<String, Value>) -> String {
    let Some(pressure) = statistics.get("pressure") else { return "-".to_owned() };
    let share = |what: &str| {
        let share = pressure.get(what)?.get("some")?.get("avg10")?.as_f64()?;
        Some(format!("{what} {}%", number(share)))
    };
    let known: Vec<String> = ["cpu", "memory", "io"].into_iter().filter_map(share).collect();
    known.join(" ")
}

fn table(all: &[Used]) -> Table {
    let head = ["ID", "NODE", "CPUS", "OF", "MEM", "OF", "PROCESSES"];
    let wide = [
        "CPU TIME",
        "THROTTLED",
        "CACHE",
        "PEAK",
        "DISK",
        "OF",
        "RX",
        "TX",
        "READ",
        "WRITTEN",
        "OOM KILLS",
        "WAITS",
        "CONTAINER",
    ];
    let mut table = Table::new(&head, &wide, "no task runs; `plenum task list --all` shows those that ended");
    for one in all {
        let figure = |name: &str| one.statistics.get(name).and_then(Value::as_f64);
        let text = |value: Option<f64>, form: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), form);
        let bytes = |name: &str| text(figure(name).map(|bytes| bytes / 1_048_576.0), mebibytes);
        let seconds =
            figure("cpus_user_time_secs").map(|user| user + figure("cpus_system_time_secs").unwrap_or(0.0));
        table.row(vec![
            Cell::from(&one.id),
            Cell::from(&one.node),
            text(one.cpus, number).into(),
            text(figure("cpus_limit"), number).into(),
            bytes("mem_total_bytes").into(),
            bytes("mem_limit_bytes").into(),
            text(figure("processes"), number).into(),
            text(seconds, |seconds| format!("{seconds:.1}s")).into(),
            text(figure("cpus_throttled_time_secs"), |seconds| format!("{seconds:.1}s")).into(),
            bytes("mem_cache_bytes").into(),
            bytes("mem_peak_bytes").into(),
            bytes("disk_used_bytes").into(),
            bytes("disk_limit_bytes").into(),
            bytes("net_rx_bytes").into(),
            bytes("net_tx_bytes").into(),
            text(blocks(&one.statistics, "READ"), mebibytes).into(),
            text(blocks(&one.statistics, "WRITE"), mebibytes).into(),
            text(figure("mem_oom_kills"), number).into(),
            waits(&one.statistics).into(),
            Cell::from(&one.container),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Look;
    use serde_json::json;

    #[test]
    fn processor_time_becomes_cores_in_use() {
        let task: ClusterTask = serde_json::from_value(json!({"id": "t", "hostname": "n1", "statuses": [
            {"state": "TASK_RUNNING", "timestamp": 1, "container_status": {"container_id": {"value": "c", "parent": {"value": "p"}}}}]}))
        .unwrap();
        let mut before = Before::new();
        let mut see = |at: f64, user: f64| {
            let one = json!({"timestamp": at, "cpus_user_time_secs": user, "cpus_system_time_secs": 0.5,
                "mem_total_bytes": 3 << 20, "cpus_limit": 1.5});
            let measured = BTreeMap::from([("p.c".to_owned(), one.as_object().unwrap().clone())]);
            used(&task, &measured, &mut before)
        };
        assert_eq!(see(10.0, 1.0).cpus, None, "nothing to compare with");
        let second = see(12.0, 2.0);
        assert_eq!(second.cpus, Some(0.5));
        let more = json!({"pressure": {"cpu": {"some": {"avg10": 1.5}}}, "blkio_statistics": {"throttling": [
            {"io_service_bytes": [{"op": "READ", "value": 2 << 20}, {"op": "TOTAL", "value": 9}]}]}});
        let more = more.as_object().unwrap();
        assert_eq!((blocks(more, "READ"), waits(more)), (Some(2.0), "cpu 1.5%".to_owned()));
        assert_eq!((blocks(&second.statistics, "READ"), waits(&second.statistics)), (None, "-".to_owned()));
        assert_eq!(
            table(&[second]).render(Look::default()),
            "ID  NODE  CPUS  OF   MEM  OF  PROCESSES\nt   n1    0.5   1.5  3M   -   -\n"
        );
    }
}
