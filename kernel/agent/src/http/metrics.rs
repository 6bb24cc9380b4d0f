//! `/system/v1/metrics/v0/...`: figures of this node and its containers in the form of DC/OS' metrics API. The names of the figures and
//! their units are that API's; a figure that nobody measures is left out.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::figures::{Figures, STALLS};
use super::usage::{Look, Place, all_places};
use super::{Http, text};

/// Where the API is.
pub(super) const PREFIX: &str = "/system/v1/metrics/v0";

/// Answers what is below [`PREFIX`].
pub(super) async fn answer(http: &Http, path: &str) -> Result<Response, Response> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["ping"] => Ok(super::json(&json!({ "ok": true, "timestamp": now() }))),
        ["node"] => node(http).await,
        ["containers"] => {
            let (view, _) = http.view().await?;
            let all = all_places(&view).into_iter().map(|place| json!(place.container)).collect();
            Ok(super::json(&Value::Array(all)))
        }
        ["containers", id] => {
            let look = find(http, id).await?;
            let place = look.places().into_iter().find(|place| place.container == *id);
            Ok(place.map_or_else(|| StatusCode::NO_CONTENT.into_response(), |place| container(&look, &place)))
        }
        // What tasks send themselves is not collected here.
        ["containers", id, "app", ..] => {
            find(http, id).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        _ => Err(text(
            StatusCode::NOT_FOUND,
            "The metrics API has ping, node, containers and containers/<id>.",
        )),
    }
}

async fn find(http: &Http, id: &str) -> Result<Look, Response> {
    let look = Look::take(http, Some(id)).await?;
    let found = look.places().iter().any(|place| place.container == id);
    found.then_some(look).ok_or_else(|| {
        text(
            StatusCode::NOT_FOUND,
            &format!("No container {id} runs here; `containers` lists those that do."),
        )
    })
}

fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs())
}

/// Seconds since 1970 as a date and time.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from March of the year 0, so that the odd day is a year's last.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A list of figures with one time.
struct Points {
    at: String,
    all: Vec<Value>,
}

impl Points {
    fn new() -> Self {
        Self { at: now(), all: Vec::new() }
    }

    fn put(&mut self, name: &str, unit: &str, value: Option<f64>) {
        self.tagged(name, unit, value, None);
    }

    fn tagged(&mut self, name: &str, unit: &str, value: Option<f64>, tag: Option<(&str, &str)>) {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        let mut point = json!({ "name": name, "value": value, "unit": unit, "timestamp": self.at });
        if let (Some((key, word)), Some(map)) = (tag, point.as_object_mut()) {
            map.insert("tags".to_owned(), json!({ key: word }));
        }
        self.all.push(point);
    }
}

impl Points {
    /// Shares of the last ten seconds, and seconds so far.
    fn stall(&mut self, name: &str, stall: Option<&plenum_containers::Stall>) {
        let Some(stall) = stall else { return };
        for (part, avg10, total) in
            [("some", stall.some_avg10, stall.some_total_us), ("full", stall.full_avg10, stall.full_total_us)]
        {
            self.put(&format!("{name}.{part}.avg10"), "percent", Some(f64::from(avg10) / 100.0));
            self.put(&format!("{name}.{part}.time"), "seconds", Some(total as f64 / 1e6));
        }
    }
}

fn container(look: &Look, place: &Place<'_>) -> Response {
    let disk = place.task.iter().flat_map(|task| &task.task.resources).filter(|one| one.name == "disk");
    let disk: f64 = disk.filter_map(|one| one.scalar.as_ref()).map(|scalar| scalar.value).sum();
    let points = of_container(look.of(place), (disk > 0.0).then_some(disk * 1024.0 * 1024.0));
    if points.all.is_empty() {
        return StatusCode::NO_CONTENT.into_response();
    }
    let framework = &place.framework.info;
    let labels = place.task.and_then(|task| task.task.labels.as_ref()).map(|labels| &labels.labels);
    let labels: BTreeMap<&str, &str> = labels
        .into_iter()
        .flatten()
        .map(|label| (label.key.as_str(), label.value.as_deref().unwrap_or_default()))
        .collect();
    let dimensions = json!({
        "mesos_id": look.view.agent_id,
        "hostname": look.view.agent.hostname,
        "container_id": place.container,
        "executor_id": place.executor.info.executor_id.value,
        "framework_id": place.framework.id,
        "framework_name": framework.name,
        "framework_role": framework.role(),
        "framework_principal": framework.principal.as_deref().unwrap_or_default(),
        "task_id": place.task.map(|task| &task.task.task_id.value),
        "task_name": place.task.map(|task| &task.task.name),
        "labels": labels,
    });
    super::json(&json!({ "datapoints": points.all, "dimensions": dimensions }))
}

fn of_container(figures: Option<&Figures>, disk_limit: Option<f64>) -> Points {
    let mut points = Points::new();
    let Some(figures) = figures else { return points };
    let known = &figures.mesos;
    let count = |number: Option<u32>| number.map(f64::from);
    let bytes = |number: Option<u64>| number.map(|number| number as f64);
    for (name, unit, value) in [
        ("cpus.user.time", "seconds", known.cpus_user_time_secs),
        ("cpus.system.time", "seconds", known.cpus_system_time_secs),
        ("cpus.limit", "count", known.cpus_limit),
        ("cpus.soft.limit", "count", known.cpus_soft_limit),
        ("cpus.nr.periods", "count", count(known.cpus_nr_periods)),
        ("cpus.nr.throttled", "count", count(known.cpus_nr_throttled)),
        ("cpus.throttled.time", "seconds", known.cpus_throttled_time_secs),
        ("mem.total", "bytes", bytes(known.mem_total_bytes)),
        ("mem.total.memsw", "bytes", bytes(known.mem_total_memsw_bytes)),
        ("mem.limit", "bytes", bytes(known.mem_limit_bytes)),
        ("mem.soft.limit", "bytes", bytes(known.mem_soft_limit_bytes)),
        ("mem.rss", "bytes", bytes(known.mem_rss_bytes)),
        ("mem.cache", "bytes", bytes(known.mem_cache_bytes)),
        ("mem.mapped.file", "bytes", bytes(known.mem_mapped_file_bytes)),
        ("mem.swap", "bytes", bytes(known.mem_swap_bytes)),
        ("mem.unevictable", "bytes", bytes(known.mem_unevictable_bytes)),
        ("mem.kmem.usage", "bytes", bytes(known.mem_kmem_usage_bytes)),
        ("mem.kmem.tcp.usage", "bytes", bytes(known.mem_kmem_tcp_usage_bytes)),
        ("mem.low.pressure.counter", "count", bytes(known.mem_low_pressure_counter)),
        ("mem.medium.pressure.counter", "count", bytes(known.mem_medium_pressure_counter)),
        ("mem.critical.pressure.counter", "count", bytes(known.mem_critical_pressure_counter)),
        ("mem.peak", "bytes", bytes(figures.memory_peak)),
        ("mem.oom.kills", "count", bytes(figures.oom_kills)),
        ("disk.used", "bytes", bytes(known.disk_used_bytes)),
        ("disk.limit", "bytes", bytes(known.disk_limit_bytes).or(disk_limit)),
        ("net.rx.bytes", "bytes", bytes(known.net_rx_bytes)),
        ("net.rx.packets", "count", bytes(known.net_rx_packets)),
        ("net.rx.errors", "count", bytes(known.net_rx_errors)),
        ("net.rx.dropped", "count", bytes(known.net_rx_dropped)),
        ("net.tx.bytes", "bytes", bytes(known.net_tx_bytes)),
        ("net.tx.packets", "count", bytes(known.net_tx_packets)),
        ("net.tx.errors", "count", bytes(known.net_tx_errors)),
        ("net.tx.dropped", "count", bytes(known.net_tx_dropped)),
        ("blkio.read", "bytes", bytes(figures.io_bytes().map(|(read, _)| read))),
        ("blkio.written", "bytes", bytes(figures.io_bytes().map(|(_, written)| written))),
        ("processes", "count", count(known.processes)),
        ("threads", "count", count(known.threads)),
    ] {
        points.put(name, unit, value);
    }
    for (what, stall) in STALLS.iter().zip(&figures.stalls) {
        points.stall(&format!("pressure.{what}"), stall.as_ref());
    }
    for disk in &known.disk_statistics {
        let id = disk.persistence.as_ref().map_or("", |persistence| &persistence.id);
        points.tagged("volume.used", "bytes", bytes(disk.used_bytes), Some(("volume", id)));
        points.tagged("volume.limit", "bytes", bytes(disk.limit_bytes), Some(("volume", id)));
    }
    points
}

async fn node(http: &Http) -> Result<Response, Response> {
    let (view, _) = http.view().await?;
    let work_dir = http.config.work_dir.clone();
    let read = tokio::task::spawn_blocking(move || {
        let file = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
        let disks = ["/", &work_dir.to_string_lossy()].map(|path| (path.to_owned(), disk(path)));
        let stalls = plenum_containers::cgroup::stats::machine_stalls();
        let files = ["/proc/stat", "/proc/meminfo", "/proc/loadavg", "/proc/uptime"].map(file);
        (files, stalls, disks)
    });
    let ([stat, memory, load, uptime], stalls, disks) =
        read.await.map_err(|_| text(StatusCode::SERVICE_UNAVAILABLE, "The agent is ending."))?;
    let mut points = of_machine(&stat, &memory, &load, &uptime);
    for (what, stall) in STALLS.iter().zip(&stalls) {
        points.stall(&format!("pressure.{what}"), stall.as_ref());
    }
    for (path, sizes) in &disks {
        for (name, size) in ["total", "free", "used"].iter().zip(sizes.unwrap_or([f64::NAN; 3])) {
            let name = format!("filesystem.capacity.{name}");
            points.tagged(&name, "bytes", Some(size), Some(("path", path)));
        }
    }
    let dimensions = json!({ "mesos_id": view.agent_id, "hostname": view.agent.hostname });
    Ok(super::json(&json!({ "datapoints": points.all, "dimensions": dimensions })))
}

/// Bytes in all, free and used.
pub(super) fn disk(path: &str) -> Option<[f64; 3]> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let size = |blocks: u64| blocks.saturating_mul(stat.fragment_size()) as f64;
    let (total, free) = (size(stat.blocks()), size(stat.blocks_available()));
    Some([total, free, total - size(stat.blocks_free())])
}

/// From the kernel's files. Shares of processor time are those since the machine started.
fn of_machine(stat: &str, memory: &str, load: &str, uptime: &str) -> Points {
    let mut points = Points::new();
    let numbers =
        |text: &str| text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<f64>>();
    points.put("uptime", "seconds", numbers(uptime).first().copied());
    for (name, value) in ["load.1min", "load.5min", "load.15min"].iter().zip(numbers(load)) {
        points.put(name, "count", Some(value));
    }
    let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    points.put("cpu.cores", "count", Some(cores as f64));
    let ticks = stat.lines().find_map(|line| line.strip_prefix("cpu ")).map(numbers).unwrap_or_default();
    if let [user, nice, system, idle, wait, ..] = ticks.as_slice() {
        // The last two of ten are in the first two already.
        let all: f64 = ticks.iter().take(8).sum();
        let share = |ticks: f64| (all > 0.0).then(|| ticks / all * 100.0);
        points.put("cpu.total", "percent", share(all - idle - wait));
        points.put("cpu.user", "percent", share(user + nice));
        points.put("cpu.system", "percent", share(*system));
        points.put("cpu.idle", "percent", share(*idle));
        points.put("cpu.wait", "percent", share(*wait));
    }
    let memory: BTreeMap<&str, f64> = memory
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, rest)| {
            Some((name, rest.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0))
        })
        .collect();
    for (name, key) in [
        ("memory.total", "MemTotal"),
        ("memory.free", "MemFree"),
        ("memory.buffers", "Buffers"),
        ("memory.cached", "Cached"),
        ("swap.total", "SwapTotal"),
        ("swap.free", "SwapFree"),
    ] {
        points.put(name, "bytes", memory.get(key).copied());
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), want);
        }
    }

    fn value(points: &Points, name: &str) -> Option<f64> {
        points.all.iter().find(|point| point["name"] == name).and_then(|point| point["value"].as_f64())
    }

    #[test]
    fn the_kernels_files_become_figures() {
        let stat = "cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 1\n";
        let points = of_machine(stat, "MemTotal: 4 kB\nMemFree:  1 kB\nodd\n", "0.5 1 2 1/2 3", "99.5 1");
        for (name, want) in [
            ("cpu.total", 20.0),
            ("cpu.cores", 2.0),
            ("cpu.idle", 70.0),
            ("memory.total", 4096.0),
            ("load.15min", 2.0),
            ("uptime", 99.5),
        ] {
            assert_eq!(value(&points, name), Some(want), "{name}");
        }
        assert_eq!(value(&points, "swap.total"), None);
        assert_eq!(of_machine("", "", "", "").all.len(), 1, "no cores");
    }

    #[test]
    fn a_container_shows_what_is_known() {
        let mut known = Figures::default();
        (known.mesos.mem_total_bytes, known.mesos.cpus_limit) = (Some(7), Some(0.5));
        known.stalls[1] = Some(plenum_containers::Stall { full_avg10: 1250, ..Default::default() });
        let points = of_container(Some(&known), Some(1024.0));
        assert_eq!(value(&points, "mem.total"), Some(7.0));
        assert_eq!(value(&points, "disk.limit"), Some(1024.0));
        assert_eq!(value(&points, "pressure.memory.full.avg10"), Some(12.5));
        assert_eq!(points.all.len(), 7);
        assert!(of_container(None, Some(1.0)).all.is_empty());
    }
}
