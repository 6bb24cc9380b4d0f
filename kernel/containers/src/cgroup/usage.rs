//! What a container uses, from the files of its groups; of the task's process alone where there are none.

use plenum_shim::{cgroup as files, proc, wire};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A measurement. `None` is not counted on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time so far, nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Time in user mode, nanoseconds.
    pub cpu_user_ns: Option<u64>,
    /// Time in the kernel, nanoseconds.
    pub cpu_system_ns: Option<u64>,
    /// Periods of the processor quota that have passed.
    pub cpu_periods: Option<u64>,
    /// Periods in which the container had to wait.
    pub cpu_throttled_periods: Option<u64>,
    /// Time it waited, nanoseconds.
    pub cpu_throttled_ns: Option<u64>,
    /// Memory that counts against the limit, bytes.
    pub memory_bytes: Option<u64>,
    /// Largest value of that.
    pub memory_peak_bytes: Option<u64>,
    /// The limit, if there is one.
    pub memory_limit_bytes: Option<u64>,
    /// Of it anonymous (not files).
    pub memory_rss_bytes: Option<u64>,
    /// Of it page cache.
    pub memory_cache_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Only the task's own process could be measured, not what it started.
    pub task_only: bool,
}

/// Reads everything there is.
#[must_use]
pub fn read(state: &wire::State) -> Usage {
    let mut usage = Usage::default();
    for group in &state.groups {
        read_group(&mut usage, Path::new(std::ffi::OsStr::from_bytes(group)));
    }
    if usage.cpu_ns.is_none() && usage.memory_bytes.is_none() {
        read_process(&mut usage, &state.task);
    }
    usage
}

fn read_group(usage: &mut Usage, dir: &Path) {
    let number = |file: &str| files::number(&dir.join(file));
    let counter = |file: &str, name: &str| files::counter(&dir.join(file), name);
    let micros = |file: &str, name: &str| counter(file, name).map(|us| us.saturating_mul(1000));
    let limit = |bytes: &u64| *bytes < u64::MAX / 4; // v1 writes "no limit" as a number near 2^63
    let set = |field: &mut Option<u64>, value: Option<u64>| *field = value.or(*field);
    // On a hybrid machine both count; the v1 controller, which also limits, has the last word.
    let cpu = number("cpuacct.usage")
        .or_else(|| usage.cpu_ns.is_none().then(|| micros("cpu.stat", "usage_usec"))?);
    set(&mut usage.cpu_ns, cpu);
    set(&mut usage.cpu_user_ns, number("cpuacct.usage_user").or_else(|| micros("cpu.stat", "user_usec")));
    set(&mut usage.cpu_system_ns, number("cpuacct.usage_sys").or_else(|| micros("cpu.stat", "system_usec")));
    set(&mut usage.cpu_periods, counter("cpu.stat", "nr_periods"));
    set(&mut usage.cpu_throttled_periods, counter("cpu.stat", "nr_throttled"));
    let throttled = counter("cpu.stat", "throttled_time").or_else(|| micros("cpu.stat", "throttled_usec"));
    set(&mut usage.cpu_throttled_ns, throttled);
    set(&mut usage.memory_bytes, number("memory.usage_in_bytes").or_else(|| number("memory.current")));
    set(&mut usage.memory_peak_bytes, number("memory.max_usage_in_bytes").or_else(|| number("memory.peak")));
    let bytes = number("memory.limit_in_bytes").or_else(|| number("memory.max")).filter(limit);
    set(&mut usage.memory_limit_bytes, bytes);
    let rss = counter("memory.stat", "total_rss").or_else(|| counter("memory.stat", "anon"));
    set(&mut usage.memory_rss_bytes, rss);
    let cache = counter("memory.stat", "total_cache").or_else(|| counter("memory.stat", "file"));
    set(&mut usage.memory_cache_bytes, cache);
    set(&mut usage.pids, number("pids.current"));
    set(
        &mut usage.oom_kills,
        counter("memory.oom_control", "oom_kill").or_else(|| counter("memory.events", "oom_kill")),
    );
}

/// 100 ticks a second is what the kernel shows to user space on every architecture we run on.
const TICK_NS: u64 = 10_000_000;

fn read_process(usage: &mut Usage, task: &wire::Pid) {
    usage.task_only = true;
    if let Some(stat) = proc::stat(task.pid).filter(|stat| stat.start == task.start) {
        usage.cpu_ns = Some(stat.cpu_ticks.saturating_mul(TICK_NS));
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
        let bytes = stat.rss_pages.saturating_mul(page.unsigned_abs());
        usage.memory_bytes = Some(bytes);
        usage.memory_rss_bytes = Some(bytes);
    }
}
