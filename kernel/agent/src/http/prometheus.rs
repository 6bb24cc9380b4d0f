//! `/metrics`: figures of the agent, its node and its containers in Prometheus' text form (0.0.4).
//!
//! Names of ours begin with `plenum_`. A container's figures carry `container_id`, `task_id` and `framework_id`, no more, and exist while it runs:
//! there are as many series as containers run, whatever tasks put in their labels. What else is known of it is in `plenum_container_info`.

use std::fmt::Write;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use plenum_containers::Stall;

use super::figures::{Figures, STALLS};
use super::usage::{Look, Place};
use super::{Http, metrics, state, text};

/// The same below the address of DC/OS' metrics.
pub(super) const DCOS: &str = "/system/v1/metrics/prometheus";

/// The form's name.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Bytes of a label's value at most.
const LABEL_MAX: usize = 256;

/// Answers with everything.
pub(super) async fn answer(http: &Http) -> Result<Response, Response> {
    let look = Look::take(http, None).await?;
    let agent = state::metrics_of(http, &look.view, look.counts);
    let work_dir = http.config.work_dir.clone();
    let written = tokio::task::spawn_blocking(move || {
        let mut page = Page::default();
        for (name, value) in agent {
            let name = format!("plenum_agent_{}", name.trim_start_matches("slave/").replace('/', "_"));
            page.family(&name, GAUGE, "A figure of the agent, by Mesos' name of it.");
            page.sample(&name, "", value);
        }
        node(&mut page, &work_dir.to_string_lossy());
        containers(&mut page, &look);
        page.0
    });
    let page = written.await.map_err(|_| text(StatusCode::SERVICE_UNAVAILABLE, "The agent is ending."))?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], page).into_response())
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into memory does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let page = &mut self.0;
        page.push_str(name);
        if !labels.is_empty() {
            page.push('{');
            page.push_str(labels);
            page.push('}');
        }
        let _ = match value {
            whole if whole.fract() == 0.0 && whole.abs() < 9e15 => writeln!(page, " {}", whole as i64),
            other => writeln!(page, " {other}"),
        };
    }
}

/// `name="value"`, cut where it is long.
fn label(name: &str, value: &str) -> String {
    let mut cut = value.len().min(LABEL_MAX);
    while !value.is_char_boundary(cut) {
        cut -= 1;
    }
    let value = value.get(..cut).unwrap_or_default();
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

type Of = fn(&Figures) -> Option<f64>;

fn bytes(number: Option<u64>) -> Option<f64> {
    number.map(|number| number as f64)
}

fn count(number: Option<u32>) -> Option<f64> {
    number.map(f64::from)
}

/// One number of each container.
const FAMILIES: [(&str, &str, &str, Of); 28] = [
    ("cpu_user_seconds_total", COUNTER, "Processor time in user mode.", |f| f.mesos.cpus_user_time_secs),
    ("cpu_system_seconds_total", COUNTER, "Processor time in the kernel.", |f| f.mesos.cpus_system_time_secs),
    ("cpu_limit", GAUGE, "Processors that it may use.", |f| f.mesos.cpus_limit),
    ("cpu_periods_total", COUNTER, "Periods of its processor quota.", |f| count(f.mesos.cpus_nr_periods)),
    ("cpu_throttled_periods_total", COUNTER, "Periods in which it had to wait for its quota.", |f| {
        count(f.mesos.cpus_nr_throttled)
    }),
    ("cpu_throttled_seconds_total", COUNTER, "Time that it waited for its quota.", |f| {
        f.mesos.cpus_throttled_time_secs
    }),
    ("memory_bytes", GAUGE, "Memory that counts against its limit.", |f| bytes(f.mesos.mem_total_bytes)),
    ("memory_limit_bytes", GAUGE, "The limit.", |f| bytes(f.mesos.mem_limit_bytes)),
    ("memory_peak_bytes", GAUGE, "Largest amount of memory so far.", |f| bytes(f.memory_peak)),
    ("memory_rss_bytes", GAUGE, "Anonymous memory.", |f| bytes(f.mesos.mem_rss_bytes)),
    ("memory_cache_bytes", GAUGE, "Page cache.", |f| bytes(f.mesos.mem_cache_bytes)),
    ("memory_mapped_bytes", GAUGE, "Mapped files.", |f| bytes(f.mesos.mem_mapped_file_bytes)),
    ("memory_swap_bytes", GAUGE, "Swapped out.", |f| bytes(f.mesos.mem_swap_bytes)),
    ("memory_unevictable_bytes", GAUGE, "Memory that cannot be taken back.", |f| {
        bytes(f.mesos.mem_unevictable_bytes)
    }),
    ("memory_kernel_bytes", GAUGE, "The kernel's memory on its behalf.", |f| {
        bytes(f.mesos.mem_kmem_usage_bytes)
    }),
    ("oom_kills_total", COUNTER, "Processes killed for want of memory.", |f| bytes(f.oom_kills)),
    ("processes", GAUGE, "Processes.", |f| count(f.mesos.processes)),
    ("threads", GAUGE, "Threads.", |f| count(f.mesos.threads)),
    ("disk_used_bytes", GAUGE, "Disk taken of its limit.", |f| bytes(f.mesos.disk_used_bytes)),
    ("disk_limit_bytes", GAUGE, "The limit of its disk.", |f| bytes(f.mesos.disk_limit_bytes)),
    ("io_read_bytes_total", COUNTER, "Read from block devices.", |f| {
        bytes(f.io_bytes().map(|(read, _)| read))
    }),
    ("io_written_bytes_total", COUNTER, "Written to block devices.", |f| {
        bytes(f.io_bytes().map(|(_, written)| written))
    }),
    ("network_receive_bytes_total", COUNTER, "Received.", |f| bytes(f.mesos.net_rx_bytes)),
    ("network_receive_packets_total", COUNTER, "Packets received.", |f| bytes(f.mesos.net_rx_packets)),
    ("network_receive_dropped_total", COUNTER, "Packets dropped on their way in.", |f| {
        bytes(f.mesos.net_rx_dropped)
    }),
    ("network_transmit_bytes_total", COUNTER, "Sent.", |f| bytes(f.mesos.net_tx_bytes)),
    ("network_transmit_packets_total", COUNTER, "Packets sent.", |f| bytes(f.mesos.net_tx_packets)),
    ("network_transmit_dropped_total", COUNTER, "Packets dropped on their way out.", |f| {
        bytes(f.mesos.net_tx_dropped)
    }),
];

/// A container's labels and figures.
struct One<'a> {
    labels: String,
    /// The first of a pod, whose network is counted with it.
    first: bool,
    place: Place<'a>,
    figures: Option<&'a Figures>,
}

fn containers(page: &mut Page, look: &Look) {
    let mut pod = "";
    let all: Vec<One<'_>> = look
        .places()
        .into_iter()
        .map(|place| {
            let task = place.task.map_or("", |task| &task.task.task_id.value);
            let labels = [
                label("container_id", place.container),
                label("task_id", task),
                label("framework_id", &place.framework.id),
            ];
            let holder = place.executor.container.as_str();
            let first = !place.in_pod() || pod != holder;
            pod = holder;
            One { labels: labels.join(","), first, figures: look.of(&place), place }
        })
        .collect();
    page.0.reserve(all.len() * 6000);
    information(page, &all);
    for (name, kind, help, of) in FAMILIES {
        let full = format!("plenum_container_{name}");
        let shared = name.starts_with("network_");
        let known = all.iter().filter(|one| one.first || !shared);
        let mut known = known.filter_map(|one| Some((one, of(one.figures?)?))).peekable();
        if known.peek().is_some() {
            page.family(&full, kind, help);
        }
        for (one, value) in known {
            page.sample(&full, &one.labels, value);
        }
    }
    pressure(page, &all);
    volumes(page, &all);
}

fn information(page: &mut Page, all: &[One<'_>]) {
    let name = "plenum_container_info";
    page.family(name, GAUGE, "1 for each container that runs, with what is known of it.");
    for One { labels, place, .. } in all {
        let more = [
            label("task_name", place.task.map_or("", |task| &task.task.name)),
            label("executor_id", &place.executor.info.executor_id.value),
            label("framework_name", &place.framework.info.name),
            label("framework_role", place.framework.info.role()),
            label("pod_container_id", if place.in_pod() { &place.executor.container } else { "" }),
        ];
        page.sample(name, &format!("{labels},{}", more.join(",")), 1.0);
    }
}

fn pressure(page: &mut Page, all: &[One<'_>]) {
    let known = || all.iter().filter_map(|one| Some((&one.labels, one.figures?)));
    let levels = "plenum_container_memory_pressure_events_total";
    page.family(levels, COUNTER, "How often memory was short since the agent watches, by level.");
    for (labels, figures) in known() {
        for (level, value) in [
            ("low", figures.mesos.mem_low_pressure_counter),
            ("medium", figures.mesos.mem_medium_pressure_counter),
            ("critical", figures.mesos.mem_critical_pressure_counter),
        ] {
            if let Some(value) = value {
                page.sample(levels, &format!("{labels},level=\"{level}\""), value as f64);
            }
        }
    }
    for (name, help, of) in STALLED {
        let name = format!("plenum_container_pressure_{name}");
        page.family(&name, COUNTER, help);
        for (labels, figures) in known() {
            for (what, stall) in STALLS.iter().zip(&figures.stalls) {
                if let Some(stall) = stall {
                    page.sample(&name, &format!("{labels},resource=\"{what}\""), of(stall));
                }
            }
        }
    }
}

/// Name, explanation and number.
type Stalled = (&'static str, &'static str, fn(&Stall) -> f64);

const STALLED: [Stalled; 2] = [
    ("waiting_seconds_total", "Time in which some of it waited for a resource.", |stall| {
        stall.some_total_us as f64 / 1e6
    }),
    ("stalled_seconds_total", "Time in which all of it waited for a resource.", |stall| {
        stall.full_total_us as f64 / 1e6
    }),
];

fn volumes(page: &mut Page, all: &[One<'_>]) {
    for (name, help, used) in [
        ("plenum_container_volume_used_bytes", "Disk taken of a persistent volume.", true),
        ("plenum_container_volume_limit_bytes", "Size of a persistent volume.", false),
    ] {
        page.family(name, GAUGE, help);
        for one in all {
            for disk in one.figures.iter().flat_map(|figures| &figures.mesos.disk_statistics) {
                let id = disk.persistence.as_ref().map_or("", |persistence| &persistence.id);
                if let Some(value) = if used { disk.used_bytes } else { disk.limit_bytes } {
                    page.sample(name, &format!("{},{}", one.labels, label("volume", id)), value as f64);
                }
            }
        }
    }
}

/// The machine, from the kernel's files.
fn node(page: &mut Page, work_dir: &str) {
    let file = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
    of_stat(page, &file("/proc/stat"));
    of_memory(page, &file("/proc/meminfo"));
    let load = file("/proc/loadavg");
    for (name, value) in ["load1", "load5", "load15"].iter().zip(load.split_ascii_whitespace()) {
        let name = format!("plenum_node_{name}");
        page.family(&name, GAUGE, "Processes that run or wait, on average.");
        page.sample(&name, "", value.parse().unwrap_or(0.0));
    }
    let stalls = plenum_containers::cgroup::stats::machine_stalls();
    for (name, help, of) in STALLED {
        let name = format!("plenum_node_pressure_{name}");
        page.family(&name, COUNTER, help);
        for (what, stall) in STALLS.iter().zip(&stalls) {
            if let Some(stall) = stall {
                page.sample(&name, &label("resource", what), of(stall));
            }
        }
    }
    let disks = ["/", work_dir].map(|path| (path, metrics::disk(path).unwrap_or_default()));
    for (at, what) in ["size", "free"].iter().enumerate() {
        let name = format!("plenum_node_filesystem_{what}_bytes");
        page.family(&name, GAUGE, "The file systems of the root and of the working folder.");
        for (path, sizes) in &disks {
            page.sample(&name, &label("path", path), sizes.get(at).copied().unwrap_or(0.0));
        }
    }
}

/// 100 ticks a second are shown on every architecture we run on.
const TICKS: f64 = 100.0;

fn of_stat(page: &mut Page, stat: &str) {
    let name = "plenum_node_cpu_seconds_total";
    page.family(name, COUNTER, "Processor time of the machine by mode.");
    let ticks = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let modes = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
    for (mode, ticks) in modes.iter().zip(ticks.split_ascii_whitespace()) {
        page.sample(name, &label("mode", mode), ticks.parse::<f64>().unwrap_or(0.0) / TICKS);
    }
}

fn of_memory(page: &mut Page, text: &str) {
    for (name, key) in [
        ("total", "MemTotal:"),
        ("available", "MemAvailable:"),
        ("free", "MemFree:"),
        ("swap_total", "SwapTotal:"),
        ("swap_free", "SwapFree:"),
    ] {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let kibibytes = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<f64>().ok());
        if let Some(kibibytes) = kibibytes {
            let name = format!("plenum_node_memory_{name}_bytes");
            page.family(&name, GAUGE, "Memory of the machine.");
            page.sample(&name, "", kibibytes * 1024.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_bounded() {
        assert_eq!(label("a", "x\"y\\z\nw"), r#"a="x\"y\\z\nw""#);
        let long = "é".repeat(LABEL_MAX);
        assert_eq!(label("a", &long).len(), LABEL_MAX + 4);
        assert_eq!(label("a", &format!("x{long}")).len(), LABEL_MAX - 1 + 4, "no half letters");
    }

    #[test]
    fn numbers_are_as_the_form_wants_them() {
        let mut page = Page::default();
        page.family("a", GAUGE, "Help.");
        for (labels, value) in [("", 1.0), ("x=\"y\"", 0.25), ("", 3e12), ("", f64::INFINITY)] {
            page.sample("a", labels, value);
        }
        let want = "# HELP a Help.\n# TYPE a gauge\na 1\na{x=\"y\"} 0.25\na 3000000000000\na inf\n";
        assert_eq!(page.0, want);
    }

    #[test]
    fn the_machine_is_read_from_the_kernels_files() {
        let mut page = Page::default();
        of_stat(&mut page, "cpu  150 0 10 70 10 0 0 0 5 5\ncpu0 1 2\n");
        of_memory(&mut page, "MemTotal: 4 kB\nMemFree:  x\n");
        assert!(page.0.contains("plenum_node_cpu_seconds_total{mode=\"user\"} 1.5\n"), "{}", page.0);
        assert!(page.0.contains("plenum_node_memory_total_bytes 4096\n"), "{}", page.0);
        assert!(!page.0.contains("memory_free"), "{}", page.0);
        of_stat(&mut page, "");
    }

    #[test]
    fn names_are_unique_and_counters_end_as_they_should() {
        let mut names: Vec<&str> = FAMILIES.iter().map(|family| family.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len());
        for (name, kind, help, _) in FAMILIES {
            assert_eq!(name.ends_with("_total"), kind == COUNTER, "{name}");
            assert!(help.ends_with('.'), "{name}");
        }
    }
}
