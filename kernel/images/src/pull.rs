//! A pull: documents, layers side by side, unpacking in order while the next ones arrive, and the record at the end.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::task::JoinHandle;

use crate::auth::Auth;
use crate::config::{Parsed, chain_ids};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::images::{Image, Node, blocking};
use crate::manifest::{Blob, Document, Layer, Manifest};
use crate::pins::Pinned;
use crate::progress::{LayerProgress, Listener, Stage};
use crate::registry::Repository;
use crate::registry::download::Target;
use crate::settings::RATIO_FLOOR;
use crate::store::layers::Order;
use crate::store::{Record, Store};
use crate::unpack::Limits;

type Lock = tokio::sync::Mutex<()>;

/// One lock a name: two pulls do not download or unpack the same thing twice.
#[derive(Debug, Default)]
pub struct Locks(Mutex<HashMap<String, Weak<Lock>>>);

impl Locks {
    async fn lock(&self, name: String) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(&name).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(Lock::new(()));
                    locks.insert(name, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// Ends the task with its holder.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells a thread to stop when the pull is given up.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pull that goes on.
pub struct Pull<'a> {
    node: &'a Arc<Node>,
    pinned: &'a Pinned,
    auth: &'a Auth,
    listener: &'a Listener,
}

/// A layer with all that is known of it.
#[derive(Debug, Clone)]
struct Piece {
    index: usize,
    layers: usize,
    layer: Layer,
    chain_id: Digest,
    diff_id: Digest,
    below: Vec<Digest>,
}

impl Piece {
    fn tell(&self, listener: &Listener, stage: Stage, done: u64) {
        let (index, layers, total) = (self.index, self.layers, self.layer.blob.size);
        listener.tell(LayerProgress {
            index,
            layers,
            digest: self.layer.blob.digest.clone(),
            stage,
            done,
            total,
        });
    }
}

impl<'a> Pull<'a> {
    pub fn new(node: &'a Arc<Node>, pinned: &'a Pinned, auth: &'a Auth, listener: &'a Listener) -> Self {
        Self { node, pinned, auth, listener }
    }

    pub async fn run(self) -> Result<Image, ImageError> {
        // Named first, looked at then: nobody removes it in between.
        let _image =
            self.node.store.want(vec![self.pinned.manifest.file_name(), self.pinned.digest.file_name()]);
        if let Some(image) = self.here().await? {
            return Ok(image);
        }
        let manifest = self.manifest().await?;
        let _config = self.node.store.want(vec![manifest.config.digest.file_name()]);
        let parsed = self.config(&manifest.config).await?;
        let pieces = self.pieces(manifest.layers, &parsed)?;
        let names = pieces
            .iter()
            .flat_map(|piece| [piece.layer.blob.digest.file_name(), Store::layer_name(&piece.chain_id)]);
        // One want for each name, so that two layers with the same bytes count once.
        let names: BTreeSet<String> = names.collect();
        let _layers = self.node.store.want(names.into_iter().collect());
        self.room(&pieces)?;
        let bytes = self.layers(&pieces).await?;
        let record = Record {
            manifest: self.pinned.manifest.clone(),
            config: manifest.config.digest,
            layers: pieces.iter().map(|piece| piece.chain_id.clone()).collect(),
            bytes,
            pinned: self.pinned.clone(),
            indexes: BTreeSet::from([self.pinned.digest.clone()]),
        };
        let store = Arc::clone(&self.node.store);
        let packed: Vec<_> = pieces.into_iter().map(|piece| piece.layer.blob.digest).collect();
        blocking("an image", move || {
            store.put_record(&record)?;
            store.drop_packed(&packed);
            Ok(())
        })
        .await?;
        self.here().await?.ok_or_else(|| ImageError::Io {
            what: format!("pulling {}", self.pinned),
            reason: "the image was removed while it was pulled".to_owned(),
        })
    }

    fn repository(&self) -> Repository<'a> {
        Repository { registry: &self.pinned.registry, name: &self.pinned.repository, auth: self.auth }
    }

    /// The image if it is complete; that is a use of it.
    async fn here(&self) -> Result<Option<Image>, ImageError> {
        let (node, pinned) = (Arc::clone(self.node), self.pinned.clone());
        blocking("an image", move || {
            let found = node.find(&pinned);
            if found.is_some() {
                node.store.touch(&pinned.manifest, SystemTime::now());
            }
            Ok(found)
        })
        .await
    }

    async fn manifest(&self) -> Result<Manifest, ImageError> {
        let digest = &self.pinned.manifest;
        let bytes = match self.node.store.get(digest, self.node.settings.manifest_max) {
            Some(bytes) => bytes,
            None => {
                let (bytes, _) =
                    self.node.registries.document(&self.repository(), &digest.to_string()).await?;
                self.keep(digest, &bytes).await?;
                bytes
            }
        };
        match Document::parse(&bytes, &self.pinned.name())? {
            Document::Image(manifest) => Ok(manifest),
            Document::Index(_) => {
                Err(ImageError::content(format!("the manifest of {}", self.pinned), "it is an index"))
            }
        }
    }

    async fn keep(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        let (store, digest, bytes) = (Arc::clone(&self.node.store), digest.clone(), bytes.to_vec());
        blocking("a document", move || store.put(&digest, &bytes)).await
    }

    async fn config(&self, blob: &Blob) -> Result<Parsed, ImageError> {
        let limit = self.node.settings.config_max;
        let what = || format!("the configuration of {}", self.pinned);
        if blob.size > limit {
            return Err(ImageError::TooLarge { what: what(), limit });
        }
        let bytes = match self.node.store.get(&blob.digest, limit) {
            Some(bytes) => bytes,
            None => {
                let bytes = self.node.registries.blob(&self.repository(), &blob.digest, blob.size).await?;
                self.keep(&blob.digest, &bytes).await?;
                bytes
            }
        };
        let parsed = Parsed::parse(&bytes, &self.pinned.name())?;
        if !parsed.runs_on(&self.pinned.platform) {
            return Err(ImageError::Platform {
                name: self.pinned.name(),
                wanted: self.pinned.platform.to_string(),
                offered: parsed.platform.to_string().chars().take(100).collect(),
            });
        }
        Ok(parsed)
    }

    fn pieces(&self, layers: Vec<Layer>, parsed: &Parsed) -> Result<Vec<Piece>, ImageError> {
        let count = layers.len();
        if count != parsed.diff_ids.len() {
            let reason = format!("it has {} layers and the manifest {count}", parsed.diff_ids.len());
            return Err(ImageError::content(format!("the configuration of {}", self.pinned), reason));
        }
        if count == 0 {
            return Err(ImageError::content(
                format!("the image {}", self.pinned),
                "it has no layers: there is nothing to run",
            ));
        }
        let limit = self.node.settings.download_max;
        let total = layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.blob.size));
        if total.is_none_or(|total| total > limit) {
            return Err(ImageError::TooLarge { what: format!("the image {}", self.pinned), limit });
        }
        let chain = chain_ids(&parsed.diff_ids);
        let pieces = layers.into_iter().zip(chain.iter().zip(&parsed.diff_ids)).enumerate();
        Ok(pieces
            .map(|(index, (layer, (chain_id, diff_id)))| Piece {
                index,
                layers: count,
                layer,
                chain_id: chain_id.clone(),
                diff_id: diff_id.clone(),
                below: chain.get(..index).unwrap_or_default().to_vec(),
            })
            .collect())
    }

    /// Refuses at once what cannot fit, instead of filling the disk first.
    fn room(&self, pieces: &[Piece]) -> Result<(), ImageError> {
        let store = &self.node.store;
        let missing = pieces.iter().filter(|piece| !store.has_layer(&piece.chain_id));
        let missing: u64 = missing.map(|piece| piece.layer.blob.size).sum();
        if missing > 0 && store.free()? < missing {
            return Err(ImageError::DiskFull {
                what: format!("making room for {missing} bytes of {}", self.pinned),
            });
        }
        Ok(())
    }

    /// Downloads side by side and unpacks in order; returns the bytes of all layers, unpacked.
    async fn layers(&self, pieces: &[Piece]) -> Result<u64, ImageError> {
        let turns = Arc::new(Semaphore::new(self.node.settings.parallel.max(1)));
        let mut downloads = Vec::new();
        for piece in pieces {
            piece.tell(self.listener, Stage::Waiting, 0);
            let (node, pinned, auth) = (Arc::clone(self.node), self.pinned.clone(), self.auth.clone());
            let (turns, piece, listener) = (Arc::clone(&turns), piece.clone(), self.listener.clone());
            downloads.push(Task(tokio::spawn(async move {
                let _turn = turns.acquire_owned().await.map_err(|_| ImageError::Cancelled)?;
                download(&node, &pinned, &auth, &piece, &listener).await
            })));
        }
        let (mut bytes, mut entries) = (0_u64, 0_u64);
        for (piece, mut download) in pieces.iter().zip(downloads) {
            (&mut download.0).await.unwrap_or(Err(ImageError::Cancelled))?;
            let note = self.unpack(piece, bytes, entries).await?;
            bytes = bytes.saturating_add(note.0);
            entries = entries.saturating_add(note.1);
            piece.tell(self.listener, Stage::Ready, piece.layer.blob.size);
        }
        Ok(bytes)
    }

    /// Unpacks a layer that is not yet; returns its bytes and entries.
    async fn unpack(&self, piece: &Piece, bytes: u64, entries: u64) -> Result<(u64, u64), ImageError> {
        let name = Store::layer_name(&piece.chain_id);
        let _turn = self.node.locks.lock(name).await;
        if let Some(note) = self.node.store.layer_note(&piece.chain_id) {
            return Ok((note.bytes, note.entries));
        }
        piece.tell(self.listener, Stage::Unpacking, piece.layer.blob.size);
        let settings = &self.node.settings;
        let by_ratio = piece.layer.blob.size.saturating_mul(settings.ratio_max).max(RATIO_FLOOR);
        let order = Order {
            blob: piece.layer.blob.digest.clone(),
            chain_id: piece.chain_id.clone(),
            diff_id: piece.diff_id.clone(),
            below: piece.below.clone(),
            unpacker: settings.unpacker.clone(),
            limits: Limits {
                bytes: settings.unpacked_max.saturating_sub(bytes).min(by_ratio),
                entries: settings.entries_max.saturating_sub(entries),
                devices: settings.devices,
            },
        };
        let stop = Stop(Arc::default());
        let (store, flag) = (Arc::clone(&self.node.store), Arc::clone(&stop.0));
        let done = blocking("a layer", move || {
            let done = store.unpack_layer(&order, flag);
            if let Err(
                ImageError::Archive { .. }
                | ImageError::Bomb { .. }
                | ImageError::Digest { .. }
                | ImageError::DiskFull { .. },
            ) = done
            {
                // It will not get better, or its space is needed.
                store.drop_packed(std::slice::from_ref(&order.blob));
            }
            done
        })
        .await;
        let note = done?;
        Ok((note.bytes, note.entries))
    }
}

async fn download(
    node: &Arc<Node>,
    pinned: &Pinned,
    auth: &Auth,
    piece: &Piece,
    listener: &Listener,
) -> Result<(), ImageError> {
    let blob = &piece.layer.blob;
    let _turn = node.locks.lock(blob.digest.file_name()).await;
    let whole = node.store.blob_path(&blob.digest);
    let there = tokio::fs::metadata(&whole).await.is_ok_and(|found| found.len() == blob.size);
    if there || node.store.has_layer(&piece.chain_id) {
        piece.tell(listener, Stage::Downloading, blob.size);
        return Ok(());
    }
    let from = Repository { registry: &pinned.registry, name: &pinned.repository, auth };
    let target = Target { part: node.store.partial_path(&blob.digest), whole };
    let tell = |done: u64| piece.tell(listener, Stage::Downloading, done);
    node.registries.download(&from, blob, &target, &tell).await
}
