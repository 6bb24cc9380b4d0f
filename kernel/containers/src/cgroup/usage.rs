//! What a container uses, from the files of its groups; of the task's process alone where there are none.

use plenum_shim::{proc, wire};

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

/// Reads the cheap part.
#[must_use]
pub fn read(state: &wire::State) -> Usage {
    super::stats::read_as(state, false).usage
}

/// 100 ticks a second is what the kernel shows to user space on every architecture we run on.
const TICK_NS: u64 = 10_000_000;

pub(super) fn read_process(usage: &mut Usage, task: &wire::Pid) {
    usage.task_only = true;
    if let Some(stat) = proc::stat(task.pid).filter(|stat| stat.start == task.start) {
        usage.cpu_ns = Some(stat.cpu_ticks.saturating_mul(TICK_NS));
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
        let bytes = stat.rss_pages.saturating_mul(page.unsigned_abs());
        usage.memory_bytes = Some(bytes);
        usage.memory_rss_bytes = Some(bytes);
    }
}
