//! Which container runs which image: a file each, so that a restart knows.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::{RECORD_MAX, Store, names, read};
use crate::error::ImageError;
use crate::pins::Pinned;

impl Store {
    fn hold_path(&self, container: &str) -> Result<PathBuf, ImageError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let valid = !container.is_empty()
            && container.len() <= 200
            && container.bytes().all(plain)
            && !container.starts_with('.')
            && !container.ends_with(".tmp");
        if !valid {
            let reason = "a container's id is letters, digits, '.', '_' and '-'".to_owned();
            return Err(ImageError::Io { what: "holding an image".to_owned(), reason });
        }
        Ok(self.folder.join("holds").join(container))
    }

    /// The container needs the image until it is released. Holding again replaces. It outlives this process, not the machine's power: nor does
    /// the container.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::DiskFull`].
    pub fn hold(&self, container: &str, pinned: &Pinned) -> Result<(), ImageError> {
        let path = self.hold_path(container)?;
        let bytes = serde_json::to_vec(pinned).unwrap_or_default();
        let temporary = path.with_file_name(format!("{container}.tmp"));
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(ImageError::io("holding an image"))
    }

    /// The container needs its image no more. One that holds nothing is fine.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn release(&self, container: &str) -> Result<(), ImageError> {
        match fs::remove_file(self.hold_path(container)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ImageError::io("releasing an image")(error))
            }
            _ => Ok(()),
        }
    }

    /// Who holds what. A hold that cannot be read is `None`: it is known that something is held, but not what.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn holds(&self) -> Result<BTreeMap<String, Option<Pinned>>, ImageError> {
        let folder = self.folder.join("holds");
        let mut holds = BTreeMap::new();
        for name in names(&folder).map_err(ImageError::io("listing holds"))? {
            if name.ends_with(".tmp") {
                continue;
            }
            let pinned = read(&folder.join(&name), RECORD_MAX).ok();
            holds.insert(name, pinned.and_then(|bytes| serde_json::from_slice(&bytes).ok()));
        }
        Ok(holds)
    }
}
