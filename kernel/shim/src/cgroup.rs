//! The container's control groups, as described by the agent: made, entered, counted, emptied, removed.
//!
//! What goes into them is decided by `plenum-containers`; here are only files and folders.

use crate::devices;
use crate::files::path;
use crate::wire::{Group, Write};
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn warn(warnings: &mut Vec<String>, what: &str, at: &Path, error: &std::io::Error) {
    warnings.push(format!("control group: {what} {} failed: {error}", at.display()));
}

/// Writes a control file in a single write.
pub fn put(file: &Path, value: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

/// Makes the groups and their settings. What fails is a warning; a group that could not be made is left out.
pub fn create(groups: &[Group], warnings: &mut Vec<String>) -> Vec<Group> {
    let mut made = Vec::new();
    for group in groups {
        let dir = path(&group.dir);
        if let Err(error) = fs::create_dir(dir)
            && let Err(again) = retry_create(dir, &error)
        {
            warn(warnings, "making", dir, &again);
            continue;
        }
        let (rules, writes): (Vec<_>, Vec<_>) =
            group.writes.iter().partition(|write| group.unified && devices::is_rule(write));
        if !rules.is_empty()
            && let Err(error) = hold_to_devices(dir, &rules)
        {
            warn(warnings, "holding to its devices", dir, &error);
        }
        for write in writes {
            let file = dir.join(&write.file);
            if let Err(error) = put(&file, &write.value) {
                warn(warnings, &format!("writing {} to", write.value), &file, &error);
            }
        }
        made.push(group.clone());
    }
    made
}

fn hold_to_devices(dir: &Path, rules: &[&Write]) -> std::io::Result<()> {
    let group = fs::File::open(dir)?;
    Ok(devices::hold(group.as_fd(), rules)?)
}

/// The parent may have been removed by a tidy operator, and the group may be left over from a launch that failed.
fn retry_create(dir: &Path, first: &std::io::Error) -> std::io::Result<()> {
    match first.kind() {
        std::io::ErrorKind::AlreadyExists => Ok(()),
        std::io::ErrorKind::NotFound => fs::create_dir_all(dir),
        kind => Err(std::io::Error::from(kind)),
    }
}

/// A descriptor of the v2 group, to be born into.
#[must_use]
pub fn birth_group(groups: &[Group]) -> Option<OwnedFd> {
    let group = groups.iter().find(|group| group.unified)?;
    fs::File::open(path(&group.dir)).ok().map(OwnedFd::from)
}

/// The folders that are entered by a write: all but the v2 one, if it was entered at birth.
#[must_use]
pub fn entered_by_write(groups: &[Group], born_into_unified: bool) -> Vec<Vec<u8>> {
    groups
        .iter()
        .filter(|group| !(group.unified && born_into_unified))
        .map(|group| group.dir.clone())
        .collect()
}

/// Opens the file that moves whoever writes `0` into a group, in whatever namespace it is. A single thread that moves
/// itself through v1's `tasks` spares the kernel a wait for all processors, which costs milliseconds.
pub fn door(dir: &Path) -> std::io::Result<fs::File> {
    let open = |file: &str| fs::OpenOptions::new().write(true).open(dir.join(file));
    open("tasks").or_else(|_| open("cgroup.procs"))
}

/// Moves the calling process, which has a single thread, into a group.
pub fn enter(dir: &Path) -> std::io::Result<()> {
    door(dir)?.write_all(b"0")
}

/// Moves the calling process into all groups; failures are warnings.
pub fn enter_all<'a>(dirs: impl Iterator<Item = &'a Path>, warnings: &mut Vec<String>) {
    for dir in dirs {
        if let Err(error) = enter(dir) {
            warn(warnings, "entering", dir, &error);
        }
    }
}

/// Kills every process of the groups with the best means there is. False if there is none.
pub fn kill(groups: &[Group]) -> bool {
    if let Some(group) = groups.iter().find(|group| group.kill)
        && put(&path(&group.dir).join("cgroup.kill"), "1").is_ok()
    {
        return true;
    }
    let Some(group) = groups.iter().find(|group| group.freezer) else { return false };
    let state = path(&group.dir).join("freezer.state");
    let frozen = put(&state, "FROZEN").is_ok();
    signal_members(path(&group.dir));
    // Killed while frozen: nothing can fork away; they die when thawed.
    frozen && put(&state, "THAWED").is_ok()
}

fn signal_members(dir: &Path) {
    for pid in members(dir) {
        let _gone = crate::sys::kill(pid, libc::SIGKILL);
    }
}

/// Processes in a group, as far as they are visible from this process's namespace.
#[must_use]
pub fn members(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// A number after a name in a control file (`oom_kill 3`).
#[must_use]
pub fn counter(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The whole of a control file as a number.
#[must_use]
pub fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// What the groups counted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counted {
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Processor time, nanoseconds.
    pub cpu_ns: u64,
    /// Largest amount of memory, bytes.
    pub memory_peak: u64,
    /// Processes that could not be started because there were as many as allowed.
    pub forks_refused: u64,
}

/// Reads the counters at the end of a container.
#[must_use]
pub fn count(groups: &[Group]) -> Counted {
    let mut counted = Counted::default();
    for group in groups {
        let dir = path(&group.dir);
        if let Some(file) = &group.oom_file {
            counted.oom_kills = counter(&dir.join(file), "oom_kill").unwrap_or(0);
        }
        if group.writes.iter().any(|write| write.file == "pids.max") {
            counted.forks_refused = counter(&dir.join("pids.events"), "max").unwrap_or(0);
        }
        if let Some(ns) = number(&dir.join("cpuacct.usage")) {
            counted.cpu_ns = ns;
        } else if let Some(us) = counter(&dir.join("cpu.stat"), "usage_usec") {
            counted.cpu_ns = counted.cpu_ns.max(us.saturating_mul(1000));
        }
        for file in ["memory.max_usage_in_bytes", "memory.peak"] {
            counted.memory_peak = counted.memory_peak.max(number(&dir.join(file)).unwrap_or(0));
        }
    }
    counted
}

/// Removes the groups; what is still busy after `patience` is left for the agent.
pub fn remove(groups: &[Group], patience: Duration) -> bool {
    let dirs: Vec<PathBuf> = groups.iter().map(|group| path(&group.dir).to_owned()).collect();
    remove_dirs(&dirs, patience)
}

/// See [`remove`].
pub fn remove_dirs(dirs: &[PathBuf], patience: Duration) -> bool {
    let end = Instant::now() + patience;
    let mut left: Vec<&PathBuf> = dirs.iter().collect();
    let mut pause = Duration::from_micros(200);
    loop {
        left.retain(|dir| !gone(dir));
        if left.is_empty() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Removes a group with the groups that a task may have made in it.
fn gone(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(_) => {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    gone(&entry.path());
                }
            }
            fs::remove_dir(dir).is_ok()
        }
    }
}
