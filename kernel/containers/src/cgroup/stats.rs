//! Everything that is counted of a container, under the names of Mesos' `ResourceStatistics` where it has one.

use super::folder::Folder;
use super::usage::{self, Usage};
use crate::runtime::DiskUse;
use crate::traffic::Traffic;
use plenum_shim::wire;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// How long tasks waited for one resource: `some` of them, or all (`full`). Averages are hundredths of a per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stall {
    /// Share of the last ten seconds in which some waited.
    pub some_avg10: u32,
    /// Of the last minute.
    pub some_avg60: u32,
    /// Since the beginning, microseconds.
    pub some_total_us: u64,
    /// Share of the last ten seconds in which all waited.
    pub full_avg10: u32,
    /// Of the last minute.
    pub full_avg60: u32,
    /// Since the beginning, microseconds.
    pub full_total_us: u64,
}

/// What went through one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceIo {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read requests.
    pub reads: u64,
    /// Write requests.
    pub writes: u64,
}

/// A measurement in full. `None` is not counted on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// The cheap part.
    pub usage: Usage,
    /// Mesos' `processes`.
    pub processes: Option<u64>,
    /// Mesos' `threads`.
    pub threads: Option<u64>,
    /// Files of the container that are mapped, bytes (`mem_mapped_file_bytes`).
    pub memory_mapped_bytes: Option<u64>,
    /// Swapped out, bytes (`mem_swap_bytes`).
    pub memory_swap_bytes: Option<u64>,
    /// Cannot be taken back, bytes (`mem_unevictable_bytes`).
    pub memory_unevictable_bytes: Option<u64>,
    /// Memory and swap together, bytes (`mem_total_memsw_bytes`).
    pub memory_and_swap_bytes: Option<u64>,
    /// Of it the kernel's own on behalf of the container, bytes (`mem_kmem_usage_bytes`).
    pub memory_kernel_bytes: Option<u64>,
    /// Buffers of TCP connections, bytes (`mem_kmem_tcp_usage_bytes`).
    pub memory_tcp_bytes: Option<u64>,
    /// How often memory was short since the agent watches: a little, much, critically (v1 only).
    pub memory_pressure: Option<[u64; 3]>,
    /// Read from block devices, bytes.
    pub io_read_bytes: Option<u64>,
    /// Written to block devices, bytes.
    pub io_written_bytes: Option<u64>,
    /// The same for each device.
    pub io: Vec<DeviceIo>,
    /// Through the container's own interfaces; `None` on the machine's network.
    pub network: Option<Traffic>,
    /// What it takes of the disk, if it has a limit and somebody has measured.
    pub disk: Option<DiskUse>,
    /// Waiting for a processor.
    pub cpu_stall: Option<Stall>,
    /// Waiting for memory.
    pub memory_stall: Option<Stall>,
    /// Waiting for block devices.
    pub io_stall: Option<Stall>,
}

impl From<Usage> for Statistics {
    fn from(usage: Usage) -> Self {
        Self { usage, ..Self::default() }
    }
}

/// Reads everything there is. Costs a walk through the processes of the container.
#[must_use]
pub fn read(state: &wire::State) -> Statistics {
    read_as(state, true)
}

/// Processor time and memory, as [`read`] has them, for the price of two files: what has neither used the one nor changed the other is idle.
#[must_use]
pub fn glimpse(state: &wire::State) -> Option<(u64, u64)> {
    let (mut cpu, mut memory) = (None, None);
    for dir in &state.groups {
        let folder = Folder::new(std::ffi::OsStr::from_bytes(dir).as_ref());
        if let Some(v1) = folder.v1("cpuacct").filter(|_| cpu.is_none()) {
            cpu = v1.number("cpuacct.usage");
        }
        if cpu.is_none() && folder.unified() {
            let us = folder.counters("cpu.stat").and_then(|counters| counters.get("usage_usec"));
            cpu = us.map(|us| us.saturating_mul(1000));
        }
        if let Some(of) = folder.of("memory").filter(|_| memory.is_none()) {
            memory = of.either("memory.usage_in_bytes", "memory.current");
        }
    }
    Some((cpu?, memory?))
}

pub(super) fn read_as(state: &wire::State, full: bool) -> Statistics {
    let mut all = Statistics::default();
    let dirs: Vec<PathBuf> =
        state.groups.iter().map(|dir| PathBuf::from(std::ffi::OsStr::from_bytes(dir))).collect();
    let folders: Vec<Folder<'_>> = dirs.iter().map(|dir| Folder::new(dir)).collect();
    for folder in &folders {
        read_processor(&mut all.usage, folder);
        read_memory(&mut all, folder, full);
        set(&mut all.usage.pids, folder.of("pids").and_then(|folder| folder.number("pids.current")));
        if full {
            read_io(&mut all, folder);
            read_stalls(&mut all, folder);
        }
    }
    if all.usage.cpu_ns.is_none() && all.usage.memory_bytes.is_none() {
        usage::read_process(&mut all.usage, &state.task);
    }
    if full {
        // The members are the same in each hierarchy; the v2 tree lists them for less.
        let members = folders.iter().find(|folder| folder.unified()).or_else(|| folders.first());
        let lines = |file: &str| members?.text(file).map(|text| count_lines(&text));
        all.processes = lines("cgroup.procs");
        // What the pids controller counts are threads.
        all.threads = all.usage.pids.or_else(|| lines("cgroup.threads")).or_else(|| lines("tasks"));
        all.network = crate::traffic::of(state.init.pid);
    }
    all
}

fn set(field: &mut Option<u64>, value: Option<u64>) {
    *field = value.or(*field);
}

fn count_lines(text: &str) -> u64 {
    u64::try_from(text.lines().count()).unwrap_or(u64::MAX)
}

/// On a hybrid machine both count; the v1 controller, which also limits, has the last word.
fn read_processor(usage: &mut Usage, folder: &Folder<'_>) {
    if let Some(v1) = folder.v1("cpuacct") {
        set(&mut usage.cpu_ns, v1.number("cpuacct.usage"));
        set(&mut usage.cpu_user_ns, v1.number("cpuacct.usage_user"));
        set(&mut usage.cpu_system_ns, v1.number("cpuacct.usage_sys"));
    }
    // To ask the v2 tree makes the kernel add up: not for what is known already.
    let known = usage.cpu_ns.is_some() && usage.cpu_periods.is_some();
    let Some(counters) = folder.of("cpu").filter(|_| !known).and_then(|cpu| cpu.counters("cpu.stat")) else {
        return;
    };
    let micros = |name: &str| counters.get(name).map(|us| us.saturating_mul(1000));
    if usage.cpu_ns.is_none() {
        usage.cpu_ns = micros("usage_usec");
        usage.cpu_user_ns = micros("user_usec");
        usage.cpu_system_ns = micros("system_usec");
    }
    set(&mut usage.cpu_periods, counters.get("nr_periods"));
    set(&mut usage.cpu_throttled_periods, counters.get("nr_throttled"));
    set(&mut usage.cpu_throttled_ns, counters.get("throttled_time").or_else(|| micros("throttled_usec")));
}

fn read_memory(all: &mut Statistics, folder: &Folder<'_>, full: bool) {
    let Some(memory) = folder.of("memory") else { return };
    let Some(bytes) = memory.either("memory.usage_in_bytes", "memory.current") else { return };
    let limit = |bytes: &u64| *bytes < u64::MAX / 4; // v1 writes "no limit" as a number near 2^63
    let usage = &mut all.usage;
    usage.memory_bytes = Some(bytes);
    set(&mut usage.memory_peak_bytes, memory.either("memory.max_usage_in_bytes", "memory.peak"));
    set(&mut usage.memory_limit_bytes, memory.either("memory.limit_in_bytes", "memory.max").filter(limit));
    let stat = memory.counters("memory.stat").unwrap_or_default();
    let either = |v1: &str, v2: &str| stat.get(v1).or_else(|| stat.get(v2));
    set(&mut usage.memory_rss_bytes, either("total_rss", "anon"));
    set(&mut usage.memory_cache_bytes, either("total_cache", "file"));
    let events = memory.v1("memory").map_or("memory.events", |_| "memory.oom_control");
    let events = memory.counters(events).or_else(|| memory.counters("memory.events"));
    set(&mut usage.oom_kills, events.and_then(|events| events.get("oom_kill")));
    if !full {
        return;
    }
    set(&mut all.memory_mapped_bytes, either("total_mapped_file", "file_mapped"));
    set(&mut all.memory_unevictable_bytes, either("total_unevictable", "unevictable"));
    let swap = stat.get("total_swap").or_else(|| memory.number("memory.swap.current"));
    set(&mut all.memory_swap_bytes, swap);
    match memory.number("memory.memsw.usage_in_bytes") {
        Some(both) => all.memory_and_swap_bytes = Some(both),
        None => set(&mut all.memory_and_swap_bytes, swap.map(|swap| bytes.saturating_add(swap))),
    }
    set(
        &mut all.memory_kernel_bytes,
        stat.get("kernel").or_else(|| memory.number("memory.kmem.usage_in_bytes")),
    );
    set(
        &mut all.memory_tcp_bytes,
        stat.get("sock").or_else(|| memory.number("memory.kmem.tcp.usage_in_bytes")),
    );
}

fn read_io(all: &mut Statistics, folder: &Folder<'_>) {
    let mut devices = BTreeMap::new();
    let v1 = folder.v1("blkio").map(|blkio| {
        let text = |what: &str| {
            let recursive = blkio.text(&format!("blkio.throttle.{what}_recursive"));
            recursive.or_else(|| blkio.text(&format!("blkio.throttle.{what}")))
        };
        (text("io_service_bytes"), text("io_serviced"))
    });
    match v1 {
        Some((Some(bytes), requests)) => {
            io_v1(
                &mut devices,
                &bytes,
                |io, read| if read { &mut io.read_bytes } else { &mut io.written_bytes },
            );
            let requests = requests.unwrap_or_default();
            io_v1(&mut devices, &requests, |io, read| if read { &mut io.reads } else { &mut io.writes });
        }
        _ => match folder.of("io").filter(|io| io.unified()).and_then(|io| io.text("io.stat")) {
            Some(text) => io_v2(&mut devices, &text),
            None => return,
        },
    }
    let sum = |of: fn(&DeviceIo) -> u64| devices.values().map(of).fold(0, u64::saturating_add);
    all.io_read_bytes = Some(sum(|io| io.read_bytes));
    all.io_written_bytes = Some(sum(|io| io.written_bytes));
    all.io = devices.into_values().collect();
}

type Devices = BTreeMap<(u32, u32), DeviceIo>;

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `major:minor Operation number` lines.
fn io_v1(devices: &mut Devices, text: &str, field: impl Fn(&mut DeviceIo, bool) -> &mut u64) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(number), Some(operation), Some(value)) =
            (words.next().and_then(device), words.next(), words.next().and_then(|word| word.parse().ok()))
        else {
            continue;
        };
        if let "Read" | "Write" = operation {
            let one = devices.entry(number).or_insert(DeviceIo { device: number, ..DeviceIo::default() });
            *field(one, operation == "Read") = value;
        }
    }
}

/// `major:minor rbytes=1 wbytes=2 ...` lines.
fn io_v2(devices: &mut Devices, text: &str) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(number) = words.next().and_then(device) else { continue };
        let one = devices.entry(number).or_insert(DeviceIo { device: number, ..DeviceIo::default() });
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match name {
                "rbytes" => one.read_bytes = value,
                "wbytes" => one.written_bytes = value,
                "rios" => one.reads = value,
                "wios" => one.writes = value,
                _ => {}
            }
        }
    }
}

fn read_stalls(all: &mut Statistics, folder: &Folder<'_>) {
    if !folder.unified() {
        return;
    }
    let stall = |file: &str| folder.text(file).and_then(|text| parse_stall(&text));
    all.cpu_stall = stall("cpu.pressure").or(all.cpu_stall);
    all.memory_stall = stall("memory.pressure").or(all.memory_stall);
    all.io_stall = stall("io.pressure").or(all.io_stall);
}

/// What tasks of the whole machine waited for: processor, memory, block devices.
#[must_use]
pub fn machine_stalls() -> [Option<Stall>; 3] {
    ["cpu", "memory", "io"].map(|what| {
        let text = std::fs::read_to_string(format!("/proc/pressure/{what}")).ok()?;
        parse_stall(&text)
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and, except for old kernels' processors, the same for `full`.
fn parse_stall(text: &str) -> Option<Stall> {
    let value = |line: &str, name: &str| {
        line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name).map(str::to_owned))
    };
    let share = |line: &str, name: &str| {
        let text = value(line, name)?;
        let (whole, part) = text.split_once('.')?;
        whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part.get(..2)?.parse().ok()?)
    };
    let parse = |line: &str| {
        Some((share(line, "avg10=")?, share(line, "avg60=")?, value(line, "total=")?.parse::<u64>().ok()?))
    };
    let (some_avg10, some_avg60, some_total_us) =
        parse(text.lines().find(|line| line.starts_with("some "))?)?;
    let full = text.lines().find(|line| line.starts_with("full ")).and_then(parse);
    let (full_avg10, full_avg60, full_total_us) = full.unwrap_or_default();
    Some(Stall { some_avg10, some_avg60, some_total_us, full_avg10, full_avg60, full_total_us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kernels_write() {
        let stall = "some avg10=1.50 avg60=12.05 avg300=0.00 total=77\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=5\n";
        let want = Stall {
            some_avg10: 150,
            some_avg60: 1205,
            some_total_us: 77,
            full_avg10: 10,
            full_avg60: 0,
            full_total_us: 5,
        };
        assert_eq!(parse_stall(stall), Some(want));
        assert_eq!(parse_stall("some avg10=0.00 avg60=0.00 avg300=0.00 total=9").unwrap().some_total_us, 9);
        for broken in ["", "some", "some avg10=x avg60=0.00 total=1", "full avg10=0.00 avg60=0.00 total=1"] {
            assert_eq!(parse_stall(broken), None, "{broken}");
        }
        let v1 = "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n9:0 Read 5\nTotal 35\n";
        let mut devices = Devices::new();
        io_v1(&mut devices, v1, |io, read| if read { &mut io.read_bytes } else { &mut io.written_bytes });
        let eight = DeviceIo { device: (8, 0), read_bytes: 10, written_bytes: 20, ..DeviceIo::default() };
        assert_eq!((devices.len(), devices[&(8, 0)], devices[&(9, 0)].read_bytes), (2, eight, 5));
        let mut devices = Devices::new();
        io_v2(&mut devices, "8:0 rbytes=1 wbytes=2 rios=3\n9:0 rbytes=10 wbytes=x\nodd\n");
        let eight = DeviceIo { device: (8, 0), read_bytes: 1, written_bytes: 2, reads: 3, writes: 0 };
        assert_eq!((devices.len(), devices[&(8, 0)], devices[&(9, 0)].read_bytes), (2, eight, 10));
    }
}
