//! What names meant when they were last asked for: a file each, so that a node runs what it has without asking a registry again.

use std::fs;

use plenum_base::files;
use serde::{Deserialize, Serialize};

use super::{RECORD_MAX, Store, names, read};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::pins::Pinned;

#[derive(Serialize, Deserialize)]
struct Tag {
    name: String,
    pinned: Pinned,
}

impl Store {
    fn tag_path(&self, name: &str) -> std::path::PathBuf {
        self.folder.join("tags").join(Digest::of(name.as_bytes()).file_name())
    }

    /// Remembers what a name means now.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::DiskFull`].
    pub fn remember(&self, name: &str, pinned: &Pinned) -> Result<(), ImageError> {
        if self.remembered(name).as_ref() == Some(pinned) {
            return Ok(());
        }
        let tag = Tag { name: name.to_owned(), pinned: pinned.clone() };
        let bytes = serde_json::to_vec(&tag).unwrap_or_default();
        files::replace(&self.tag_path(name), &bytes, 0o600)
            .map_err(ImageError::io("remembering an image's name"))
    }

    /// What a name meant when it was asked for last.
    #[must_use]
    pub fn remembered(&self, name: &str) -> Option<Pinned> {
        let tag: Tag = serde_json::from_slice(&read(&self.tag_path(name), RECORD_MAX).ok()?).ok()?;
        (tag.name == name).then_some(tag.pinned)
    }

    /// Forgets the names of images that are not here.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub(super) fn sweep_tags(&self) -> Result<(), ImageError> {
        let folder = self.folder.join("tags");
        for name in names(&folder).map_err(ImageError::io("listing the names of images"))? {
            let path = folder.join(&name);
            let tag: Option<Tag> =
                read(&path, RECORD_MAX).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if tag.is_none_or(|tag| self.record(&tag.pinned.manifest).is_none()) {
                // It is asked for again.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}
