//! A measurement in Mesos' words (`ResourceStatistics`), and what Mesos has no words for; sums of them. Pure.

use plenum_api::mesos::cgroup_info::blkio::throttling::Statistics as Throttling;
use plenum_api::mesos::cgroup_info::blkio::{self, Operation};
use plenum_api::mesos::device::Number;
use plenum_api::mesos::{self, DiskStatistics, Resource, ResourceStatistics};
use plenum_containers::{DeviceIo, Stall, Statistics};
use serde_json::{Map, Value, json};

use crate::core::TaskView;

/// Everything that is shown of one container, or of several.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    pub mesos: ResourceStatistics,
    /// Largest amount of memory, bytes.
    pub memory_peak: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Processor, memory, block devices.
    pub stalls: [Option<Stall>; 3],
}

/// Names of [`Figures::stalls`].
pub(super) const STALLS: [&str; 3] = ["cpu", "memory", "io"];

/// What a container was promised and may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Promised {
    cpus: f64,
    mem: f64,
    /// `None`: without limit.
    cpus_limit: Option<f64>,
    limited: bool,
}

impl Promised {
    /// To tasks that share a container, and an executor.
    pub fn of(tasks: &[&TaskView], executor: &[Resource]) -> Self {
        let sum = |resources: &[Resource], name: &str| -> f64 {
            let named = resources.iter().filter(|resource| resource.name == name);
            named.filter_map(|resource| resource.scalar.as_ref()).map(|scalar| scalar.value).sum()
        };
        let (cpus, mem) = (sum(executor, "cpus"), sum(executor, "mem"));
        let mut all = Self { cpus, mem, cpus_limit: Some(cpus), limited: false };
        for task in tasks {
            let cpus = sum(&task.task.resources, "cpus");
            all.cpus += cpus;
            all.mem += sum(&task.task.resources, "mem");
            all.limited |= !task.task.limits.is_empty();
            let limit = task.task.limits.get("cpus").map_or(cpus, |limit| limit.value);
            all.cpus_limit = all.cpus_limit.map(|sum| sum + limit).filter(|sum| sum.is_finite());
        }
        all
    }
}

impl Figures {
    /// Of one container, measured at `now` (seconds since 1970).
    pub fn new(found: &Statistics, promised: Promised, now: f64) -> Self {
        let usage = &found.usage;
        let seconds = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e9);
        let count = |count: Option<u64>| count.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let positive = |value: f64| (value > 0.0).then_some(value);
        let mut mesos = ResourceStatistics {
            timestamp: now,
            processes: count(found.processes.or(usage.pids)),
            threads: count(found.threads),
            cpus_user_time_secs: seconds(usage.cpu_user_ns.or(usage.cpu_ns)),
            cpus_system_time_secs: seconds(usage.cpu_system_ns),
            cpus_limit: promised.cpus_limit.and_then(positive),
            cpus_soft_limit: positive(promised.cpus).filter(|_| promised.limited),
            cpus_nr_periods: count(usage.cpu_periods),
            cpus_nr_throttled: count(usage.cpu_throttled_periods),
            cpus_throttled_time_secs: seconds(usage.cpu_throttled_ns),
            mem_total_bytes: usage.memory_bytes,
            mem_total_memsw_bytes: found.memory_and_swap_bytes,
            mem_kmem_usage_bytes: found.memory_kernel_bytes,
            mem_kmem_tcp_usage_bytes: found.memory_tcp_bytes,
            mem_limit_bytes: usage.memory_limit_bytes,
            mem_soft_limit_bytes: positive(promised.mem)
                .filter(|_| promised.limited)
                .map(|mib| (mib * 1_048_576.0) as u64),
            mem_rss_bytes: usage.memory_rss_bytes.or(usage.memory_bytes),
            mem_anon_bytes: usage.memory_rss_bytes,
            mem_cache_bytes: usage.memory_cache_bytes,
            mem_file_bytes: usage.memory_cache_bytes,
            mem_mapped_file_bytes: found.memory_mapped_bytes,
            mem_swap_bytes: found.memory_swap_bytes,
            mem_unevictable_bytes: found.memory_unevictable_bytes,
            mem_low_pressure_counter: found.memory_pressure.map(|levels| levels[0]),
            mem_medium_pressure_counter: found.memory_pressure.map(|levels| levels[1]),
            mem_critical_pressure_counter: found.memory_pressure.map(|levels| levels[2]),
            disk_limit_bytes: found.disk.map(|disk| disk.limit_bytes),
            disk_used_bytes: found.disk.map(|disk| disk.used_bytes),
            blkio_statistics: (!found.io.is_empty()).then(|| block_io(&found.io)),
            ..Default::default()
        };
        if let Some(network) = &found.network {
            mesos.net_rx_bytes = Some(network.rx.bytes);
            mesos.net_rx_packets = Some(network.rx.packets);
            mesos.net_rx_errors = Some(network.rx.errors);
            mesos.net_rx_dropped = Some(network.rx.dropped);
            mesos.net_tx_bytes = Some(network.tx.bytes);
            mesos.net_tx_packets = Some(network.tx.packets);
            mesos.net_tx_errors = Some(network.tx.errors);
            mesos.net_tx_dropped = Some(network.tx.dropped);
        }
        Self {
            mesos,
            memory_peak: usage.memory_peak_bytes,
            oom_kills: usage.oom_kills,
            stalls: [found.cpu_stall, found.memory_stall, found.io_stall],
        }
    }

    /// Both together, of one pod; what one of them does not know is the other's. They share a network: it is counted once. What they waited for
    /// does not add up, and is left out.
    pub fn sum(self, b: &Self) -> Self {
        let count = |a, b| both(a, b, u32::saturating_add);
        let bytes = |a, b| both(a, b, u64::saturating_add);
        let seconds = |a, b| both(a, b, |a: f64, b| a + b);
        let shared = |a: Option<u64>, b| both(a, b, u64::max);
        let (a, b_more, b) = (self.mesos, b, &b.mesos);
        let mesos = ResourceStatistics {
            timestamp: a.timestamp.max(b.timestamp),
            processes: count(a.processes, b.processes),
            threads: count(a.threads, b.threads),
            cpus_user_time_secs: seconds(a.cpus_user_time_secs, b.cpus_user_time_secs),
            cpus_system_time_secs: seconds(a.cpus_system_time_secs, b.cpus_system_time_secs),
            cpus_limit: a.cpus_limit.zip(b.cpus_limit).map(|(a, b)| a + b),
            cpus_soft_limit: seconds(a.cpus_soft_limit, b.cpus_soft_limit),
            cpus_nr_periods: count(a.cpus_nr_periods, b.cpus_nr_periods),
            cpus_nr_throttled: count(a.cpus_nr_throttled, b.cpus_nr_throttled),
            cpus_throttled_time_secs: seconds(a.cpus_throttled_time_secs, b.cpus_throttled_time_secs),
            mem_total_bytes: bytes(a.mem_total_bytes, b.mem_total_bytes),
            mem_total_memsw_bytes: bytes(a.mem_total_memsw_bytes, b.mem_total_memsw_bytes),
            mem_kmem_usage_bytes: bytes(a.mem_kmem_usage_bytes, b.mem_kmem_usage_bytes),
            mem_kmem_tcp_usage_bytes: bytes(a.mem_kmem_tcp_usage_bytes, b.mem_kmem_tcp_usage_bytes),
            mem_limit_bytes: a.mem_limit_bytes.zip(b.mem_limit_bytes).map(|(a, b)| a.saturating_add(b)),
            mem_soft_limit_bytes: bytes(a.mem_soft_limit_bytes, b.mem_soft_limit_bytes),
            mem_rss_bytes: bytes(a.mem_rss_bytes, b.mem_rss_bytes),
            mem_anon_bytes: bytes(a.mem_anon_bytes, b.mem_anon_bytes),
            mem_cache_bytes: bytes(a.mem_cache_bytes, b.mem_cache_bytes),
            mem_file_bytes: bytes(a.mem_file_bytes, b.mem_file_bytes),
            mem_mapped_file_bytes: bytes(a.mem_mapped_file_bytes, b.mem_mapped_file_bytes),
            mem_swap_bytes: bytes(a.mem_swap_bytes, b.mem_swap_bytes),
            mem_unevictable_bytes: bytes(a.mem_unevictable_bytes, b.mem_unevictable_bytes),
            mem_low_pressure_counter: bytes(a.mem_low_pressure_counter, b.mem_low_pressure_counter),
            mem_medium_pressure_counter: bytes(a.mem_medium_pressure_counter, b.mem_medium_pressure_counter),
            mem_critical_pressure_counter: bytes(
                a.mem_critical_pressure_counter,
                b.mem_critical_pressure_counter,
            ),
            disk_limit_bytes: bytes(a.disk_limit_bytes, b.disk_limit_bytes),
            disk_used_bytes: bytes(a.disk_used_bytes, b.disk_used_bytes),
            disk_statistics: [a.disk_statistics, b.disk_statistics.clone()].concat(),
            blkio_statistics: both(a.blkio_statistics, b.blkio_statistics.clone(), |a, b| {
                blkio::Statistics { throttling: add_io(a.throttling, b.throttling), ..Default::default() }
            }),
            net_rx_bytes: shared(a.net_rx_bytes, b.net_rx_bytes),
            net_rx_packets: shared(a.net_rx_packets, b.net_rx_packets),
            net_rx_errors: shared(a.net_rx_errors, b.net_rx_errors),
            net_rx_dropped: shared(a.net_rx_dropped, b.net_rx_dropped),
            net_tx_bytes: shared(a.net_tx_bytes, b.net_tx_bytes),
            net_tx_packets: shared(a.net_tx_packets, b.net_tx_packets),
            net_tx_errors: shared(a.net_tx_errors, b.net_tx_errors),
            net_tx_dropped: shared(a.net_tx_dropped, b.net_tx_dropped),
            ..Default::default()
        };
        let memory_peak = None;
        Self { mesos, memory_peak, oom_kills: bytes(self.oom_kills, b_more.oom_kills), stalls: [None; 3] }
    }

    /// As JSON: Mesos' names, and beside them ours.
    pub fn json(&self) -> Value {
        let mut all = json!(self.mesos);
        if let Some(map) = all.as_object_mut() {
            let mut put = |name: &str, value: Option<u64>| {
                map.extend(value.map(|value| (name.to_owned(), json!(value))));
            };
            put("mem_peak_bytes", self.memory_peak);
            put("mem_oom_kills", self.oom_kills);
            let stalls: Map<String, Value> = STALLS
                .iter()
                .zip(&self.stalls)
                .filter_map(|(name, stall)| Some(((*name).to_owned(), stall_json(stall.as_ref()?))))
                .collect();
            if !stalls.is_empty() {
                map.insert("pressure".to_owned(), Value::Object(stalls));
            }
        }
        all
    }

    /// Bytes to and from block devices.
    pub fn io_bytes(&self) -> Option<(u64, u64)> {
        let throttling = &self.mesos.blkio_statistics.as_ref()?.throttling;
        let sum = |wanted: Operation| -> u64 {
            let values = throttling.iter().filter(|one| one.device.is_some());
            let values = values.flat_map(|one| &one.io_service_bytes).filter(|value| value.op() == wanted);
            values.map(blkio::Value::value).fold(0, u64::saturating_add)
        };
        Some((sum(Operation::Read), sum(Operation::Write)))
    }
}

fn both<T>(a: Option<T>, b: Option<T>, add: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(add(a, b)),
        (a, b) => a.or(b),
    }
}

/// Shares in per cent of the time, sums in seconds.
fn stall_json(stall: &Stall) -> Value {
    let share = |hundredths: u32| f64::from(hundredths) / 100.0;
    let seconds = |us: u64| us as f64 / 1e6;
    json!({
        "some": {
            "avg10": share(stall.some_avg10),
            "avg60": share(stall.some_avg60),
            "total_secs": seconds(stall.some_total_us),
        },
        "full": {
            "avg10": share(stall.full_avg10),
            "avg60": share(stall.full_avg60),
            "total_secs": seconds(stall.full_total_us),
        },
    })
}

fn block_io(devices: &[DeviceIo]) -> blkio::Statistics {
    let value = |op: Operation, number: u64| blkio::Value { op: Some(op.into()), value: Some(number) };
    let values = |read: u64, written: u64| {
        let total = read.saturating_add(written);
        vec![value(Operation::Read, read), value(Operation::Write, written), value(Operation::Total, total)]
    };
    let one = |io: &DeviceIo| Throttling {
        device: Some(Number { major_number: io.device.0.into(), minor_number: io.device.1.into() }),
        io_serviced: values(io.reads, io.writes),
        io_service_bytes: values(io.read_bytes, io.written_bytes),
    };
    blkio::Statistics { throttling: devices.iter().map(one).collect(), ..Default::default() }
}

fn add_io(mut a: Vec<Throttling>, b: Vec<Throttling>) -> Vec<Throttling> {
    fn add(a: &mut [blkio::Value], b: &[blkio::Value]) {
        for (a, b) in a.iter_mut().zip(b) {
            a.value = Some(a.value().saturating_add(b.value()));
        }
    }
    for one in b {
        match a.iter_mut().find(|other| other.device == one.device) {
            Some(same) => {
                add(&mut same.io_serviced, &one.io_serviced);
                add(&mut same.io_service_bytes, &one.io_service_bytes);
            }
            None => a.push(one),
        }
    }
    a
}

/// A persistent volume's use of its disk.
pub(super) fn volume(resource: &Resource, used: Option<u64>) -> DiskStatistics {
    let disk = resource.disk.as_ref();
    let limit = resource.scalar.as_ref().map(|scalar: &mesos::value::Scalar| scalar.value * 1_048_576.0);
    DiskStatistics {
        source: disk.and_then(|disk| disk.source.clone()),
        persistence: disk.and_then(|disk| disk.persistence.clone()),
        limit_bytes: limit.map(|bytes| bytes as u64),
        used_bytes: used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plenum_containers::{DiskUse, Traffic, Usage};

    fn found(cpu_ns: u64, rx: u64) -> Statistics {
        let mut network = Traffic::default();
        network.rx.bytes = rx;
        Statistics {
            usage: Usage {
                cpu_user_ns: Some(cpu_ns),
                memory_bytes: Some(10),
                memory_peak_bytes: Some(12),
                oom_kills: Some(1),
                ..Usage::default()
            },
            processes: Some(2),
            memory_pressure: Some([3, 2, 1]),
            network: Some(network),
            disk: Some(DiskUse { used_bytes: 5, limit_bytes: 50, by_quota: true }),
            io: vec![DeviceIo { device: (8, 0), read_bytes: 7, written_bytes: 1, reads: 1, writes: 1 }],
            cpu_stall: Some(Stall { some_avg10: 150, some_total_us: 2_500_000, ..Stall::default() }),
            ..Statistics::default()
        }
    }

    #[test]
    fn a_measurement_in_mesos_words_and_ours() {
        let promised = Promised { cpus: 0.5, mem: 64.0, cpus_limit: None, limited: true };
        let figures = Figures::new(&found(1_500_000_000, 9), promised, 7.0);
        let json = figures.json();
        for (name, want) in [
            ("timestamp", json!(7.0)),
            ("cpus_user_time_secs", json!(1.5)),
            ("cpus_soft_limit", json!(0.5)),
            ("cpus_limit", Value::Null),
            ("mem_soft_limit_bytes", json!(64 << 20)),
            ("mem_critical_pressure_counter", json!(1)),
            ("net_rx_bytes", json!(9)),
            ("disk_used_bytes", json!(5)),
            ("mem_peak_bytes", json!(12)),
            ("mem_oom_kills", json!(1)),
        ] {
            assert_eq!(json[name], want, "{name}");
        }
        assert_eq!(json["pressure"]["cpu"]["some"], json!({"avg10": 1.5, "avg60": 0.0, "total_secs": 2.5}));
        assert_eq!(json["pressure"]["io"], Value::Null);
        assert_eq!(figures.io_bytes(), Some((7, 1)));
    }

    #[test]
    fn the_tasks_of_a_pod_add_up_and_their_network_is_one() {
        let promised = Promised { cpus: 1.0, mem: 1.0, cpus_limit: Some(1.0), limited: false };
        let a = Figures::new(&found(1_000_000_000, 9), promised, 1.0);
        let b = Figures::new(&found(2_000_000_000, 9), promised, 2.0);
        let sum = a.sum(&b);
        let json = sum.json();
        for (name, want) in [
            ("timestamp", json!(2.0)),
            ("cpus_user_time_secs", json!(3.0)),
            ("cpus_limit", json!(2.0)),
            ("cpus_soft_limit", Value::Null),
            ("processes", json!(4)),
            ("net_rx_bytes", json!(9)),
            ("disk_limit_bytes", json!(100)),
            ("mem_oom_kills", json!(2)),
            ("pressure", Value::Null),
        ] {
            assert_eq!(json[name], want, "{name}");
        }
        assert_eq!(sum.io_bytes(), Some((14, 2)));
        let unlimited = Figures::new(&found(0, 0), Promised::default(), 1.0);
        assert_eq!(sum.sum(&unlimited).mesos.cpus_limit, None, "one without a limit leaves all without");
    }
}
