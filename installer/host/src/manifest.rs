//! `host.json`: what was made on this host and for which spec. Written before anything is made, so that whatever a crash leaves is known
//! to `remove`; completed at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use plenum_plan::HostSpec;
use serde::{Deserialize, Serialize};

use crate::events::HostError;

/// The form that this release writes.
pub const FORMAT: u32 = 1;

/// The manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// [`FORMAT`] of the release that wrote it.
    pub format: u32,
    /// The release.
    pub version: String,
    /// What the host is being made into.
    pub spec: Option<HostSpec>,
    /// The spec's digest once all of it is there; none while something is under way.
    pub digest: Option<String>,
    /// Files outside of the state folder that are ours.
    pub files: BTreeSet<String>,
    /// Folders outside of the state folder that were not there before; removed when they are empty.
    pub folders: BTreeSet<String>,
    /// Units that are ours; their files are in [`Manifest::files`].
    pub units: BTreeSet<String>,
    /// Links and what they lead to.
    pub links: BTreeMap<String, String>,
    /// System users that were not there before.
    pub users: BTreeSet<String>,
    /// Units of others that were stopped and disabled, and how they were: `enabled`, `active`, with a blank between.
    pub silenced: BTreeMap<String, String>,
    /// Empty files that were not there before; removed if they are empty still.
    pub empty: BTreeSet<String>,
    /// The host began the cluster: its etcd member is the first.
    pub founder: bool,
    /// All that a cluster begins with was made.
    pub begun: bool,
    /// Of each service: digest of program, unit and settings that it was last started with.
    pub running: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads it; none where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or a newer release wrote it.
    pub fn read(path: &Path) -> Result<Option<Self>, HostError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HostError::at(path)(error)),
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(HostError::at(path))?;
        if manifest.format > FORMAT {
            let reason = format!("written by the newer release {}; use that one", manifest.version);
            return Err(HostError::at(path)(reason));
        }
        Ok(Some(manifest))
    }

    /// Writes it, if it differs from what is there. It names no secret, and whoever asks how the host is may read it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), HostError> {
        let text = serde_json::to_vec_pretty(self).map_err(HostError::at(path))?;
        if std::fs::read(path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        plenum_base::files::replace(path, &text, 0o644).map_err(HostError::at(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_written_and_newer_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.json");
        assert_eq!(Manifest::read(&path).unwrap(), None);
        let mut manifest = Manifest { format: FORMAT, version: "1".into(), ..Manifest::default() };
        manifest.users.insert("plenum".into());
        manifest.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), Some(manifest.clone()));
        manifest.format = FORMAT + 1;
        manifest.write(&path).unwrap();
        assert!(Manifest::read(&path).unwrap_err().to_string().contains("newer release 1"));
    }
}
