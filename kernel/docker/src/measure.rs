//! What a container uses: from the files of its control groups, found by its first process; from the engine otherwise.

use crate::engine::{Engine, EngineError};
use crate::record::Record;
use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt;
use plenum_containers::cgroup::Layout;
use plenum_containers::{Statistics, Usage};
use plenum_shim::wire;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// Folders of a process's control groups; none if it is gone.
#[must_use]
pub fn groups(pid: i32) -> Vec<PathBuf> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if pid <= 0 {
        return Vec::new();
    }
    let mut found = folders(plenum_containers::cgroup::machine(), &read(&format!("/proc/{pid}/cgroup")));
    found.retain(|dir| dir.is_dir());
    found
}

/// From the text of `/proc/PID/cgroup`. The root groups are everybody's, so they count for nobody.
fn folders(layout: &Layout, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (words.next(), words.next()) else { continue };
        let relative = path.trim_start_matches('/');
        if relative.is_empty() || relative.split('/').any(|part| part == "..") {
            continue;
        }
        let same = |hierarchy: &&plenum_containers::cgroup::Hierarchy| match controllers {
            "" => hierarchy.unified,
            names => !hierarchy.unified && names.split(',').any(|name| hierarchy.has(name)),
        };
        if let Some(hierarchy) = layout.hierarchies.iter().find(same) {
            let dir = hierarchy.mount.join(relative);
            if !found.contains(&dir) {
                found.push(dir);
            }
        }
    }
    found
}

/// Measures by the kernel's files; nothing if they cannot be found.
#[must_use]
pub fn by_groups(record: &Record) -> Option<Statistics> {
    if !record.alive() {
        return None;
    }
    let groups = groups(record.pid);
    if groups.is_empty() {
        return None;
    }
    let state = wire::State {
        id: record.id.clone(),
        boot_id: record.boot_id.clone(),
        shim: record.task(),
        init: record.task(),
        task: record.task(),
        namespaces: 0,
        groups: groups.iter().map(|dir| dir.as_os_str().as_bytes().to_vec()).collect(),
        warnings: Vec::new(),
    };
    let found = plenum_containers::cgroup::stats::read(&state);
    (!found.usage.task_only).then_some(found)
}

/// Asks the engine.
pub async fn by_engine(engine: &Engine, name: &str, deadline: Duration) -> Result<Statistics, EngineError> {
    let what = "measure a container";
    let ask = |docker: bollard::Docker| async move {
        let options = StatsOptions { stream: false, one_shot: true };
        let mut answers = std::pin::pin!(docker.stats(name, Some(options)));
        answers.next().await.unwrap_or(Ok(ContainerStatsResponse::default()))
    };
    engine.call(what, deadline, ask).await.map(|found| statistics(&found))
}

/// The engine's figures in ours. Pure.
#[must_use]
pub fn statistics(found: &ContainerStatsResponse) -> Statistics {
    let cpu = found.cpu_stats.clone().unwrap_or_default();
    let (time, wait) = (cpu.cpu_usage.unwrap_or_default(), cpu.throttling_data.unwrap_or_default());
    let memory = found.memory_stats.clone().unwrap_or_default();
    let detail = memory.stats.unwrap_or_default();
    let named = |v1: &str, v2: &str| detail.get(v1).or_else(|| detail.get(v2)).copied();
    let pids = found.pids_stats.clone().unwrap_or_default().current;
    let usage = Usage {
        cpu_ns: time.total_usage,
        cpu_user_ns: time.usage_in_usermode,
        cpu_system_ns: time.usage_in_kernelmode,
        cpu_periods: wait.periods,
        cpu_throttled_periods: wait.throttled_periods,
        cpu_throttled_ns: wait.throttled_time,
        memory_bytes: memory.usage,
        memory_peak_bytes: memory.max_usage,
        memory_limit_bytes: memory.limit,
        memory_rss_bytes: named("total_rss", "anon"),
        memory_cache_bytes: named("total_cache", "file"),
        pids,
        ..Usage::default()
    };
    Statistics {
        processes: found.num_procs.map(u64::from).filter(|number| *number > 0),
        memory_mapped_bytes: named("total_mapped_file", "file_mapped"),
        memory_unevictable_bytes: named("total_unevictable", "unevictable"),
        ..Statistics::from(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn folders_of_a_process() {
        let mountinfo = "\
30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(mountinfo, "");
        let text =
            "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:pids:/docker/abc\n2:blkio:/\n0::/../x\n";
        let want = ["/sys/fs/cgroup/memory/docker/abc", "/sys/fs/cgroup/cpu,cpuacct/docker/abc"];
        assert_eq!(folders(&layout, text), want.map(PathBuf::from));
        assert_eq!(folders(&layout, "0::/a\n"), ["/sys/fs/cgroup/unified/a"].map(PathBuf::from));
        assert!(folders(&layout, "garbage\n::").is_empty());
    }

    #[test]
    fn figures_of_an_engine() {
        let found = json!({
            "cpu_stats": {"cpu_usage": {"total_usage": 7}, "throttling_data": {"periods": 3}},
            "memory_stats": {"usage": 10, "limit": 20, "stats": {"anon": 4}},
            "pids_stats": {"current": 2}
        });
        let found = statistics(&serde_json::from_value(found).unwrap());
        let usage = found.usage;
        assert_eq!((usage.cpu_ns, usage.cpu_periods, usage.memory_bytes), (Some(7), Some(3), Some(10)));
        assert_eq!((usage.memory_rss_bytes, usage.pids, usage.memory_cache_bytes), (Some(4), Some(2), None));
    }
}
