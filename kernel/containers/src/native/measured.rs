//! Measuring containers: what is kept of each for it, from the first time that somebody asks.

use super::actor::Handle;
use super::{Inner, disk, group_dirs};
use crate::cgroup::folder::Folder;
use crate::cgroup::stats;
use crate::runtime::{DiskUse, Statistics};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use plenum_shim::wire::{Disk, State};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug, Default)]
pub struct Measured {
    /// Its disk limit, as written down at the launch.
    limit: OnceLock<Option<Disk>>,
    /// What was measured last where no quota counts.
    disk: Mutex<Option<DiskUse>>,
    pressure: OnceLock<Option<Pressure>>,
    /// The last reading in full.
    last: Mutex<Option<(Instant, Statistics)>>,
}

/// For so long, and up to as long again, the figures of a container that is idle are shown as they were.
const IDLE: Duration = Duration::from_secs(30);

impl Measured {
    /// The last reading, if nothing has happened since. Containers that were read together are not read again together.
    fn unchanged(&self, state: &State) -> Option<Statistics> {
        let last = self.last.lock();
        let (at, found) = last.as_ref()?;
        let more = u64::from(state.init.pid.unsigned_abs()) % IDLE.as_secs();
        let known = found.usage.cpu_ns.zip(found.usage.memory_bytes)?;
        let fresh = at.elapsed() < IDLE + Duration::from_secs(more);
        (fresh && stats::glimpse(state) == Some(known)).then(|| found.clone())
    }

    fn keep(&self, found: Statistics) -> Statistics {
        *self.last.lock() = Some((Instant::now(), found.clone()));
        found
    }

    /// Keeps what the watch over a limit has found.
    pub fn note_disk(&self, found: DiskUse) {
        *self.disk.lock() = Some(found);
    }

    fn disk(&self, inner: &Inner, id: &str) -> Option<DiskUse> {
        let limit = self.limit.get_or_init(|| disk::saved(&inner.dir(id))).as_ref()?;
        if limit.project == 0 {
            return *self.disk.lock();
        }
        let used_bytes = disk::used(inner, limit, u64::MAX).ok()?;
        Some(DiskUse { used_bytes, limit_bytes: limit.bytes, by_quota: true })
    }
}

/// Reads everything there is of one container. Blocks.
pub fn read(inner: &Inner, handle: &Handle, state: &State) -> Statistics {
    let measured = &handle.measured;
    let mut all = measured.unchanged(state).unwrap_or_else(|| measured.keep(stats::read(state)));
    all.disk = handle.measured.disk(inner, &state.id);
    let pressure = handle.measured.pressure.get_or_init(|| Pressure::listen(state));
    all.memory_pressure = pressure.as_ref().map(Pressure::counts);
    all
}

/// The kernel's counters of memory pressure (v1), which wake nobody: they are read when somebody measures.
#[derive(Debug)]
struct Pressure(Mutex<[(EventFd, u64); 3]>);

impl Pressure {
    fn listen(state: &State) -> Option<Self> {
        let dirs = group_dirs(state);
        let known = |dir: &&std::path::PathBuf| {
            let folder = Folder::new(dir);
            !folder.unified() && folder.v1("memory").is_some()
        };
        let dir = dirs.iter().find(known)?;
        let level = |name: &str| Some((level(dir, name)?, 0));
        Some(Self(Mutex::new([level("low")?, level("medium")?, level("critical")?])))
    }

    fn counts(&self) -> [u64; 3] {
        self.0.lock().each_mut().map(|(events, count)| {
            // Nothing happened: the kernel would have us wait.
            *count = count.saturating_add(events.read().unwrap_or(0));
            *count
        })
    }
}

fn level(dir: &Path, name: &str) -> Option<EventFd> {
    let events = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok()?;
    let of = std::fs::File::open(dir.join("memory.pressure_level")).ok()?;
    let order = format!("{} {} {name}", events.as_fd().as_raw_fd(), of.as_raw_fd());
    plenum_shim::cgroup::put(&dir.join("cgroup.event_control"), &order).ok()?;
    Some(events)
}
