//! Everything that is counted of a container, under the names of Mesos' `ResourceStatistics` where it has one.

use super::usage::{self, Usage};
use plenum_shim::{cgroup as files, wire};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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

/// A measurement in full. `None` is not counted on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// Read from block devices, bytes.
    pub io_read_bytes: Option<u64>,
    /// Written to block devices, bytes.
    pub io_written_bytes: Option<u64>,
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
    let mut all = Statistics::from(usage::read(state));
    let dirs: Vec<PathBuf> =
        state.groups.iter().map(|dir| PathBuf::from(std::ffi::OsStr::from_bytes(dir))).collect();
    for dir in &dirs {
        read_group(&mut all, dir);
    }
    // The members are the same in each hierarchy.
    if let Some(dir) = dirs.first() {
        let lines = |file: &str| std::fs::read_to_string(dir.join(file)).ok().map(|text| count_lines(&text));
        all.processes = lines("cgroup.procs");
        all.threads = lines("tasks").or_else(|| lines("cgroup.threads"));
    }
    all
}

fn count_lines(text: &str) -> u64 {
    u64::try_from(text.lines().count()).unwrap_or(u64::MAX)
}

fn read_group(all: &mut Statistics, dir: &Path) {
    let counter = |file: &str, name: &str| files::counter(&dir.join(file), name);
    let memory = |v1: &str, v2: &str| counter("memory.stat", v1).or_else(|| counter("memory.stat", v2));
    let text = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
    let set = |field: &mut Option<u64>, value: Option<u64>| *field = value.or(*field);
    set(&mut all.memory_mapped_bytes, memory("total_mapped_file", "file_mapped"));
    set(&mut all.memory_unevictable_bytes, memory("total_unevictable", "unevictable"));
    let swap =
        counter("memory.stat", "total_swap").or_else(|| files::number(&dir.join("memory.swap.current")));
    set(&mut all.memory_swap_bytes, swap);
    let blkio = |file: &str| text(file).map(|text| (sum_v1(&text, "Read"), sum_v1(&text, "Write")));
    let io = blkio("blkio.throttle.io_service_bytes_recursive")
        .or_else(|| blkio("blkio.throttle.io_service_bytes"))
        .or_else(|| text("io.stat").map(|text| (sum_v2(&text, "rbytes="), sum_v2(&text, "wbytes="))));
    set(&mut all.io_read_bytes, io.map(|(read, _)| read));
    set(&mut all.io_written_bytes, io.map(|(_, written)| written));
    let stall = |file: &str| text(file).and_then(|text| parse_stall(&text));
    all.cpu_stall = stall("cpu.pressure").or(all.cpu_stall);
    all.memory_stall = stall("memory.pressure").or(all.memory_stall);
    all.io_stall = stall("io.pressure").or(all.io_stall);
}

/// `major:minor Operation bytes` lines.
fn sum_v1(text: &str, operation: &str) -> u64 {
    let bytes = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == operation).then(|| words.next()?.parse::<u64>().ok())?
    });
    bytes.fold(0, u64::saturating_add)
}

/// `major:minor rbytes=1 wbytes=2 ...` lines.
fn sum_v2(text: &str, name: &str) -> u64 {
    let words = text.lines().flat_map(str::split_ascii_whitespace);
    words.filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok()).fold(0, u64::saturating_add)
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
        assert_eq!((sum_v1(v1, "Read"), sum_v1(v1, "Write")), (15, 20));
        let v2 = "8:0 rbytes=1 wbytes=2 rios=3\n9:0 rbytes=10 wbytes=x\n";
        assert_eq!((sum_v2(v2, "rbytes="), sum_v2(v2, "wbytes=")), (11, 2));
    }
}
