//! What is known of a container that ran out of memory: its limit from its launch, what ran from the kernel's log.

use super::actor::recorded;
use super::connection;
use crate::oom::{self, OutOfMemory};
use plenum_shim::launch::LAUNCH;
use plenum_shim::wire::{Group, Request};
use std::path::Path;

/// See [`crate::Runtime::out_of_memory`]. Blocks for some milliseconds.
pub fn find(run_dir: &Path, id: &str) -> Option<OutOfMemory> {
    let mut found = oom::from_kernel(id).unwrap_or_default();
    let groups = match connection::read_file::<Request>(&run_dir.join(LAUNCH)) {
        Ok(Request::Launch(launch)) => launch.groups,
        Ok(Request::Contain(contain)) => contain.launch.groups,
        _ => Vec::new(),
    };
    found.limit_bytes = limit(&groups).or(found.limit_bytes);
    let peak = recorded(run_dir).map(|exit| exit.memory_peak).filter(|peak| *peak > 0);
    found.used_bytes = found.used_bytes.max(peak);
    (found != OutOfMemory::default()).then_some(found)
}

/// What was written as the limit.
fn limit(groups: &[Group]) -> Option<u64> {
    let mut writes = groups.iter().flat_map(|group| &group.writes);
    let found = writes.find(|write| matches!(write.file.as_str(), "memory.limit_in_bytes" | "memory.max"));
    found?.value.parse().ok()
}
