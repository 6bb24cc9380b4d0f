//! Collection: by age and by pressure, least recently used first; never what is held, never what a pull needs. What goes is decided by a pure
//! function; the rest carries it out.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use super::{Record, Store, names};
use crate::digest::Digest;
use crate::error::ImageError;

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// Images that nobody used for this long go.
    pub unused_for: Duration,
    /// Bytes that should be free on the disk; while they are not, the least recently used image goes.
    pub free: u64,
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images, by the names under which they were pulled.
    pub images: Vec<String>,
    /// Layers.
    pub layers: usize,
    /// Bytes free afterwards.
    pub free: u64,
}

/// An image just pulled is about to be held: it stays this long whatever the pressure.
const FRESH: Duration = Duration::from_secs(60);
/// A download that was broken off is worth resuming this long.
const PARTIAL: Duration = Duration::from_secs(24 * 3600);
/// What belongs to no image is kept this long: a pull that failed is often tried again.
const ORPHAN: Duration = Duration::from_secs(3600);

/// The images that are too old, and those that may go under pressure, least recently used first.
#[must_use]
pub fn plan(
    images: &[(Digest, SystemTime)],
    held: &BTreeSet<Digest>,
    now: SystemTime,
    unused_for: Duration,
) -> (Vec<Digest>, Vec<Digest>) {
    // A time in the future is a clock that was set back: as if used now.
    let age = |used: SystemTime| now.duration_since(used).unwrap_or_default();
    let mut free: Vec<_> = images.iter().filter(|(image, _)| !held.contains(image)).collect();
    free.sort_by_key(|(image, used)| (*used, image.clone()));
    let (old, rest): (Vec<_>, Vec<_>) = free.into_iter().partition(|(_, used)| age(*used) >= unused_for);
    let names = |list: Vec<&(Digest, SystemTime)>| list.into_iter().map(|(image, _)| image.clone()).collect();
    (names(old), names(rest.into_iter().filter(|(_, used)| age(*used) >= FRESH).collect()))
}

impl Store {
    /// Removes images and what belongs to none.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn collect(&self, now: SystemTime, pressure: Pressure) -> Result<Collected, ImageError> {
        let holds = self.holds()?;
        let mut collected = Collected::default();
        if holds.values().any(Option::is_none) {
            // Something runs, and it is not known what: nothing may go.
            tracing::warn!("a hold of an image cannot be read; no image is removed");
            collected.free = self.free()?;
            return Ok(collected);
        }
        let held: BTreeSet<Digest> = holds.into_values().flatten().map(|pinned| pinned.manifest).collect();
        let known: Vec<_> =
            self.records()?.into_iter().map(|(record, used)| (record.manifest, used)).collect();
        let (old, rest) = plan(&known, &held, now, pressure.unused_for);
        for manifest in old {
            self.remove_image(&manifest, &mut collected)?;
        }
        self.sweep(now, ORPHAN, &held, &mut collected)?;
        let mut rest = rest.into_iter();
        while self.free()? < pressure.free {
            let Some(manifest) = rest.next() else {
                self.sweep(now, Duration::ZERO, &held, &mut collected)?;
                break;
            };
            self.remove_image(&manifest, &mut collected)?;
            self.sweep(now, ORPHAN, &held, &mut collected)?;
        }
        self.sweep_tags()?;
        collected.free = self.free()?;
        Ok(collected)
    }

    /// Removes an image's record, then the layers that no other has.
    fn remove_image(&self, manifest: &Digest, collected: &mut Collected) -> Result<(), ImageError> {
        let io = |error| ImageError::io("removing an image")(error);
        let Some(record) = self.read_record(&self.record_path(manifest)) else { return Ok(()) };
        {
            let wanted = self.wanted.lock();
            // Somebody held it, or pulls it, since it was looked at.
            let holds = self.holds()?;
            let held =
                holds.values().any(|held| held.as_ref().is_none_or(|pinned| pinned.manifest == *manifest));
            if held || wanted.contains_key(&manifest.file_name()) {
                return Ok(());
            }
            fs::remove_file(self.record_path(manifest)).map_err(io)?;
        }
        collected.images.push(record.pinned.name());
        let others = self.records()?;
        let kept: BTreeSet<&Digest> = others.iter().flat_map(|(other, _)| &other.layers).collect();
        for layer in record.layers.iter().rev().filter(|layer| !kept.contains(layer)) {
            collected.layers += usize::from(self.remove_layer(&Self::layer_name(layer))?);
        }
        Ok(())
    }

    fn remove_layer(&self, name: &str) -> Result<bool, ImageError> {
        let io = |error| ImageError::io("removing a layer")(error);
        let gone = {
            let wanted = self.wanted.lock();
            let path = self.folder.join("layers").join(name);
            if wanted.contains_key(name) || !path.exists() {
                return Ok(false);
            }
            self.discard(&path).map_err(io)?
        };
        self.remove(&gone).map_err(io)?;
        Ok(true)
    }

    /// Removes what belongs to no image and was not touched for `older`.
    fn sweep(
        &self,
        now: SystemTime,
        older: Duration,
        held: &BTreeSet<Digest>,
        collected: &mut Collected,
    ) -> Result<(), ImageError> {
        let io = |error| ImageError::io("sweeping the image store")(error);
        let records: Vec<Record> = self.records()?.into_iter().map(|(record, _)| record).collect();
        let mut kept: BTreeSet<String> = held.iter().map(Digest::file_name).collect();
        for record in &records {
            kept.extend(record.layers.iter().map(Self::layer_name));
            kept.extend([&record.manifest, &record.config].map(Digest::file_name));
            kept.extend(record.indexes.iter().map(Digest::file_name));
        }
        for (part, older) in
            [("layers", older), ("blobs", older), ("partial", if older.is_zero() { older } else { PARTIAL })]
        {
            let folder = self.folder.join(part);
            for name in names(&folder).map_err(io)?.into_iter().filter(|name| !kept.contains(name)) {
                let path = folder.join(&name);
                let changed = fs::symlink_metadata(&path).and_then(|found| found.modified());
                let Ok(changed) = changed else { continue };
                if now.duration_since(changed).unwrap_or_default() < older {
                    continue;
                }
                if part == "layers" {
                    collected.layers += usize::from(self.remove_layer(&name)?);
                } else if !self.wanted.lock().contains_key(&name) {
                    fs::remove_file(&path).map_err(io)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_go_and_the_held_stay() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let id = |name: &str| Digest::of(name.as_bytes());
        let images = [
            (id("new"), at(990)),
            (id("old"), at(10)),
            (id("held"), at(5)),
            (id("mid"), at(500)),
            (id("late"), at(2000)),
        ];
        let held = BTreeSet::from([id("held")]);
        let (old, rest) = plan(&images, &held, at(1000), Duration::from_secs(900));
        assert_eq!(old, [id("old")]);
        assert_eq!(rest, [id("mid")], "what was used within the last minute stays");
        let (old, rest) = plan(&images, &held, at(1000), Duration::MAX);
        assert_eq!((old, rest), (vec![], vec![id("old"), id("mid")]));
    }
}
