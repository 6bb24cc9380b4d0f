//! How full persistent volumes are: measured when somebody asks, in the background, and never more than a twentieth of the time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two measurements at least.
const APART: Duration = Duration::from_secs(15);
/// Measuring takes at most this part of the time.
const SHARE: u32 = 20;

/// What nobody asked for in so long is forgotten.
const FORGET: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy)]
struct One {
    bytes: u64,
    next: Instant,
}

#[derive(Debug, Default)]
struct Known {
    folders: BTreeMap<PathBuf, One>,
    under_way: bool,
}

/// What is known. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disks(Arc<Mutex<Known>>);

impl Disks {
    /// What each of these folders held when it was measured last. They are measured again if that is long ago, for whoever asks next.
    pub fn look(&self, folders: BTreeSet<PathBuf>) -> BTreeMap<PathBuf, u64> {
        let mut known = self.known();
        let now = Instant::now();
        let (mut found, mut due) = (BTreeMap::new(), Vec::new());
        for folder in folders {
            let one = known.folders.get(&folder);
            found.extend(one.map(|one| (folder.clone(), one.bytes)));
            if one.is_none_or(|one| now >= one.next) {
                due.push(folder);
            }
        }
        if !due.is_empty() && !known.under_way {
            known.under_way = true;
            let this = self.clone();
            tokio::task::spawn_blocking(move || this.measure(due));
        }
        found
    }

    fn measure(&self, due: Vec<PathBuf>) {
        let start = Instant::now();
        let measured: Vec<(PathBuf, u64)> = due
            .into_iter()
            .map(|folder| {
                // What cannot be looked at is not looked at again at once.
                let bytes = plenum_containers::measure::measure(&folder, u64::MAX).unwrap_or(0);
                (folder, bytes)
            })
            .collect();
        let now = Instant::now();
        let next = now + now.duration_since(start).saturating_mul(SHARE).max(APART);
        let mut known = self.known();
        known.folders.retain(|_, one| now.saturating_duration_since(one.next) < FORGET);
        known.folders.extend(measured.into_iter().map(|(folder, bytes)| (folder, One { bytes, next })));
        known.under_way = false;
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn volumes_are_measured_for_whoever_asks_next() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data"), vec![1; 100_000]).unwrap();
        let disks = Disks::default();
        let wanted = BTreeSet::from([folder.path().to_path_buf()]);
        assert!(disks.look(wanted.clone()).is_empty());
        for _ in 0..1000 {
            if disks.look(wanted.clone()).contains_key(folder.path()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(disks.look(wanted)[folder.path()] >= 100_000);
        assert!(disks.look(BTreeSet::new()).is_empty());
    }
}
