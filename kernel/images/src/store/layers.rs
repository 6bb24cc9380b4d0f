//! Unpacked layers: made in `tmp`, on disk for good before they get their name.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use plenum_base::files;
use serde::{Deserialize, Serialize};

use super::{RECORD_MAX, Store, read};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::unpack::{Fault, Limits, Unpacked, Work, child, unpack};

/// What is known of an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerNote {
    /// Its whole chain id; the folder's name is only the first half.
    pub chain_id: Digest,
    /// The digest of its unpacked archive.
    pub diff_id: Digest,
    /// Bytes of the unpacked archive.
    pub bytes: u64,
    /// Its entries.
    pub entries: u64,
    /// What was left out.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A layer that is to be unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub blob: Digest,
    pub chain_id: Digest,
    pub diff_id: Digest,
    pub below: Vec<Digest>,
    pub limits: Limits,
    pub unpacker: Option<Vec<OsString>>,
}

impl Store {
    /// The name of a layer's folder. Short, because the kernel takes all the layers of a mount in one page of text: 128 bits tell layers apart.
    pub(crate) fn layer_name(chain_id: &Digest) -> String {
        chain_id.hex().chars().take(32).collect()
    }

    fn layer_folder(&self, chain_id: &Digest) -> PathBuf {
        self.folder.join("layers").join(Self::layer_name(chain_id))
    }

    /// The root of an unpacked layer.
    #[must_use]
    pub fn layer_root(&self, chain_id: &Digest) -> PathBuf {
        self.layer_folder(chain_id).join("fs")
    }

    /// What is known of a layer, if it is there.
    #[must_use]
    pub fn layer_note(&self, chain_id: &Digest) -> Option<LayerNote> {
        let note = read(&self.layer_folder(chain_id).join("layer.json"), RECORD_MAX).ok()?;
        let note: LayerNote = serde_json::from_slice(&note).ok()?;
        (note.chain_id == *chain_id).then_some(note)
    }

    pub(crate) fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer_note(chain_id).is_some()
    }

    /// Unpacks a layer whose blob and whose layers below are there. `stop` ends it early.
    pub(crate) fn unpack_layer(&self, order: &Order, stop: Arc<AtomicBool>) -> Result<LayerNote, ImageError> {
        let temporary = self.temporary();
        let made = self.unpack_into(&temporary, order, stop);
        if made.is_err() {
            // What cannot be removed now goes at the next open.
            if let Err(error) = self.remove(&temporary) {
                tracing::warn!(%error, folder = %temporary.display(), "a layer that was not finished cannot be removed");
            }
        }
        made
    }

    fn unpack_into(
        &self,
        temporary: &Path,
        order: &Order,
        stop: Arc<AtomicBool>,
    ) -> Result<LayerNote, ImageError> {
        let what = format!("unpacking the layer {}", order.blob);
        let io = |error| ImageError::io(what.clone())(error);
        let root = temporary.join("fs");
        files::private_dir(temporary).map_err(io)?;
        fs::create_dir(&root).map_err(io)?;
        let packed = File::open(self.blob_path(&order.blob)).map_err(io)?;
        let unpacked = unpacked(packed, &root, order, self, stop)?;
        let Unpacked { bytes, entries, notes } = unpacked.map_err(|fault| explained(fault, order))?;
        let note = LayerNote {
            chain_id: order.chain_id.clone(),
            diff_id: order.diff_id.clone(),
            bytes,
            entries,
            notes,
        };
        let text = serde_json::to_vec(&note).unwrap_or_default();
        files::replace(&temporary.join("layer.json"), &text, 0o600).map_err(io)?;
        // A name stands for a whole layer, also after a power cut.
        let folder = File::open(temporary).map_err(io)?;
        rustix::fs::syncfs(&folder).map_err(io::Error::from).map_err(io)?;
        let name = self.layer_folder(&order.chain_id);
        // A pull that was given up may have ended its work after another did the same: what has the name may be in use and stays.
        let (there, damaged) = {
            let _wanted = self.wanted.lock();
            let there = self.layer_note(&order.chain_id);
            let damaged =
                if there.is_none() && name.exists() { Some(self.discard(&name).map_err(io)?) } else { None };
            if there.is_none() {
                fs::rename(temporary, &name).map_err(io)?;
            }
            (there, damaged)
        };
        for left in damaged.iter().map(PathBuf::as_path).chain(there.is_some().then_some(temporary)) {
            self.remove(left).map_err(io)?;
        }
        File::open(self.folder.join("layers")).and_then(|folder| folder.sync_all()).map_err(io)?;
        Ok(there.unwrap_or(note))
    }
}

/// In a process or in this thread.
fn unpacked(
    packed: File,
    root: &Path,
    order: &Order,
    store: &Store,
    stop: Arc<AtomicBool>,
) -> Result<Result<Unpacked, Fault>, ImageError> {
    let io = |error| ImageError::io(format!("unpacking the layer {}", order.blob))(error);
    let below: Vec<PathBuf> = order.below.iter().map(|id| store.layer_root(id)).collect();
    let (limits, diff_id) = (order.limits.clone(), order.diff_id.clone());
    if let Some(program) = &order.unpacker {
        let order = child::Order { below, limits, diff_id };
        return Ok(child::run(program, &order, packed, root, &stop));
    }
    let below =
        below.iter().map(|root| Ok(File::open(root)?.into())).collect::<io::Result<Vec<_>>>().map_err(io)?;
    let into = File::open(root).map_err(io)?.into();
    Ok(unpack(Work { packed, into, below, limits, diff_id, stop }))
}

fn explained(fault: Fault, order: &Order) -> ImageError {
    let layer = order.blob.clone();
    match fault {
        Fault::Archive(reason) => ImageError::Archive { layer, reason },
        Fault::Bomb(what) => ImageError::Bomb { layer, what },
        Fault::Digest(found) => ImageError::Digest {
            what: format!("the layer {layer}, unpacked,"),
            expected: order.diff_id.clone(),
            found,
        },
        Fault::Full => ImageError::DiskFull { what: format!("unpacking the layer {layer}") },
        Fault::Stopped => ImageError::Cancelled,
    }
}
