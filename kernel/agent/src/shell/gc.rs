//! Collecting sandboxes: after `gc_delay`, sooner the fuller the disk is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plenum_api::Millis;

/// A sandbox that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retired {
    pub directory: PathBuf,
    pub since: Millis,
}

/// The list of them, by container.
#[derive(Debug, Default)]
pub(crate) struct Garbage {
    retired: BTreeMap<String, Retired>,
}

impl Garbage {
    pub fn add(&mut self, container: String, directory: PathBuf, since: Millis) {
        self.retired.insert(container, Retired { directory, since });
    }

    pub fn knows(&self, container: &str) -> bool {
        self.retired.contains_key(container)
    }

    /// Takes out what is older than the disk's state allows.
    pub fn due(&mut self, now: Millis, allowed: Duration) -> Vec<(String, Retired)> {
        let allowed = Millis::from(allowed);
        let old = |retired: &Retired| now.since(retired.since) >= allowed;
        let due: Vec<String> =
            self.retired.iter().filter(|(_, one)| old(one)).map(|(id, _)| id.clone()).collect();
        due.into_iter().filter_map(|id| self.retired.remove(&id).map(|one| (id, one))).collect()
    }
}

/// How long a sandbox may stay: `delay × max(0, 1 − headroom − used)`, as in Mesos. `used` is a fraction of the disk.
pub(crate) fn allowed_age(delay: Duration, headroom: f64, used: f64) -> Duration {
    delay.mul_f64((1.0 - headroom - used).clamp(0.0, 1.0))
}

/// The used fraction of the file system that `path` is on: of its bytes or of its inodes, whichever is scarcer.
pub(crate) fn disk_used(path: &Path) -> Option<f64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    scarcer(&[(stat.blocks(), stat.blocks_available()), (stat.files(), stat.files_available())])
}

/// The largest used fraction of these, given as all there is and what is left. A file system without a number of inodes says 0.
fn scarcer(kinds: &[(u64, u64)]) -> Option<f64> {
    let used = |(all, left): &(u64, u64)| (*all > 0).then(|| 1.0 - *left as f64 / *all as f64);
    kinds.iter().filter_map(used).reduce(f64::max)
}

/// Bytes that shall stay free on the file system that `path` is on.
pub(crate) fn headroom(path: &Path, fraction: f64) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let total = stat.blocks().saturating_mul(stat.fragment_size());
    Some((total as f64 * fraction.clamp(0.0, 1.0)) as u64)
}

/// Removes a sandbox, and the folders above it that it leaves empty, up to the agent's own. Symbolic links are not followed.
pub(crate) fn remove(work_dir: &Path, directory: &Path) -> std::io::Result<()> {
    if !directory.starts_with(work_dir.join("slaves")) {
        return Err(std::io::Error::other("a sandbox must be below the working folder"));
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A link that was to become `latest` when the agent was killed.
    if let (Some(runs), Some(name)) = (directory.parent(), directory.file_name()) {
        let _ = std::fs::remove_file(runs.join(format!(".latest-{}", name.to_string_lossy())));
    }
    let top = work_dir.join("slaves");
    let mut at = directory.parent();
    while let Some(dir) = at.filter(|dir| dir.starts_with(&top) && **dir != *top) {
        let latest = dir.join("latest");
        let dangling = latest.symlink_metadata().is_ok() && latest.metadata().is_err();
        if dangling {
            let _ = std::fs::remove_file(&latest);
        }
        // Missing ones are of an agent that was killed while it made or removed them.
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => break,
            _ => {}
        }
        at = dir.parent();
    }
    Ok(())
}

/// Every run folder below the working folder, with its container and the time it was changed last.
pub(crate) fn scan(work_dir: &Path) -> Vec<(String, PathBuf, Millis)> {
    let mut found = Vec::new();
    let list = |dir: &Path| -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let folder = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        entries.flatten().filter(folder).map(|entry| entry.path()).collect()
    };
    for agent in list(&work_dir.join("slaves")) {
        for framework in list(&agent.join("frameworks")) {
            for executor in list(&framework.join("executors")) {
                for run in list(&executor.join("runs")) {
                    let Some(container) = run.file_name().and_then(|name| name.to_str()) else { continue };
                    let changed = run.metadata().and_then(|meta| meta.modified()).ok();
                    let age = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                    found.push((container.to_owned(), run.clone(), Millis::from(age.unwrap_or_default())));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_disk_the_shorter_the_wait() {
        let delay = Duration::from_secs(1000);
        for (used, expect) in [(0.0, 900), (0.5, 400), (0.9, 0), (1.0, 0), (2.0, 0)] {
            let age = allowed_age(delay, 0.1, used);
            assert_eq!(age.as_secs_f64().round() as u64, expect, "{used}");
        }
    }

    #[test]
    fn what_is_scarcest_counts() {
        for (kinds, expect) in [
            (&[(100, 80), (1000, 100)][..], Some(90)),
            (&[(100, 30), (1000, 900)], Some(70)),
            (&[(100, 30), (0, 0)], Some(70)),
            (&[(0, 0), (0, 0)], None),
        ] {
            assert_eq!(scarcer(kinds).map(|used| (used * 100.0).round() as u64), expect, "{kinds:?}");
        }
    }

    #[test]
    fn only_old_sandboxes_go_and_empty_parents_with_them() {
        let work = std::env::temp_dir().join(format!("plenum-agent-gc-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&work);
        let run = work.join("slaves/S/frameworks/F/executors/E/runs/C");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join("stdout"), b"x").unwrap();
        std::os::unix::fs::symlink("/etc", run.join("link")).unwrap();
        std::os::unix::fs::symlink("C", run.parent().unwrap().join("latest")).unwrap();
        std::os::unix::fs::symlink("C", run.parent().unwrap().join(".latest-C")).unwrap();
        assert_eq!(scan(&work).len(), 1);
        let mut garbage = Garbage::default();
        garbage.add("C".to_owned(), run.clone(), Millis(1000));
        assert!(garbage.due(Millis(1500), Duration::from_secs(1)).is_empty());
        let due = garbage.due(Millis(2000), Duration::from_secs(1));
        assert_eq!(due.len(), 1);
        remove(&work, &due[0].1.directory).unwrap();
        assert!(!work.join("slaves/S").exists() && work.join("slaves").exists());
        assert!(Path::new("/etc/passwd").exists());
        assert!(remove(&work, Path::new("/tmp")).is_err());
        // Its agent was killed between two of the folders.
        std::fs::create_dir_all(work.join("slaves/S/frameworks/F/executors/E")).unwrap();
        remove(&work, &run).unwrap();
        assert!(!work.join("slaves/S").exists());
        std::fs::remove_dir_all(work).unwrap();
    }
}
