//! The images of a node: resolve, pull, hold, release, collect.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::auth::Auth;
use crate::config::{ImageConfig, Parsed};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Document, choose};
use crate::pins::Pinned;
use crate::platform::Platform;
use crate::progress::Listener;
use crate::pull::{Locks, Pull};
use crate::reference::Reference;
use crate::registry::{Registries, Repository};
use crate::settings::Settings;
use crate::store::Store;
use crate::store::collect::{Collected, Pressure};
use crate::users::{self, User};

/// An image that is on this node: what a container needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As it is pinned.
    pub pinned: Pinned,
    /// The roots of its unpacked layers, lowest first. They are read only: overlayfs' lower folders.
    pub layers: Vec<PathBuf>,
    /// What it asks for.
    pub config: ImageConfig,
    /// Bytes that its layers unpacked to.
    pub bytes: u64,
    /// What was left out of it when it was unpacked.
    pub notes: Vec<String>,
}

impl Image {
    /// Who `wanted` is in this image: `name`, `uid`, `name:group` or `uid:gid`. Reads a few files: blocks for a moment.
    ///
    /// # Errors
    /// [`ImageError::NoUser`].
    pub fn user(&self, wanted: &str) -> Result<User, ImageError> {
        users::resolve(&self.layers, wanted)
    }
}

/// The images of a node. Clones are the same.
#[derive(Debug, Clone)]
pub struct Images(Arc<Node>);

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) store: Arc<Store>,
    pub(crate) registries: Registries,
    pub(crate) locks: Locks,
}

/// Runs what blocks where that is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_cancelled() => Err(ImageError::Cancelled),
        // The input made a library panic: the image is at fault, and the process goes on.
        Err(_) => Err(ImageError::content(what, "it cannot be processed")),
    }
}

impl Images {
    /// Opens the store in `folder`, making it where it is not there, and throws away what was half made. Blocks for a moment.
    ///
    /// # Errors
    /// [`ImageError::Busy`], [`ImageError::Io`], [`ImageError::DiskFull`].
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(folder)?);
        let registries = Registries::new(settings.clone());
        Ok(Self(Arc::new(Node { settings, store, registries, locks: Locks::default() })))
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Reads an image's name with the settings' default registry.
    ///
    /// # Errors
    /// [`ImageError::Reference`], [`ImageError::NoRegistry`].
    pub fn reference(&self, name: &str) -> Result<Reference, ImageError> {
        Reference::parse(name, &self.0.settings)
    }

    /// What a name means now, for this platform. A name with a digest whose documents are here costs no request.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn resolve(
        &self,
        reference: &Reference,
        auth: &Auth,
        platform: &Platform,
    ) -> Result<Pinned, ImageError> {
        let from = Repository { registry: reference.registry(), name: reference.repository(), auth };
        let (bytes, digest) = self.document(&from, &reference.wanted(), reference.digest()).await?;
        let name = reference.to_string();
        let mut manifest = digest.clone();
        if let Document::Index(offers) = Document::parse(&bytes, &name)? {
            manifest = choose(&offers, platform, &name)?.blob.digest.clone();
            let (bytes, _) = self.document(&from, &manifest.to_string(), Some(&manifest)).await?;
            if let Document::Index(_) = Document::parse(&bytes, &name)? {
                return Err(ImageError::content(format!("the index of {name}"), "it leads to another index"));
            }
        }
        let pinned = Pinned {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            digest,
            manifest,
            platform: platform.clone(),
        };
        let (store, kept) = (Arc::clone(&self.0.store), pinned.clone());
        blocking("an image's name", move || store.remember(&name, &kept)).await?;
        Ok(pinned)
    }

    /// What a name meant when it was resolved last, if the image is here, complete; no request is made. Blocks for a moment.
    #[must_use]
    pub fn known(&self, reference: &Reference, platform: &Platform) -> Option<Image> {
        let pinned = self.0.store.remembered(&reference.to_string())?;
        let image = (pinned.platform == *platform).then(|| self.0.find(&pinned)).flatten()?;
        self.0.store.touch(&pinned.manifest, SystemTime::now());
        Some(image)
    }

    /// A document from the store, else from the registry, and then kept.
    async fn document(
        &self,
        from: &Repository<'_>,
        wanted: &str,
        digest: Option<&Digest>,
    ) -> Result<(Vec<u8>, Digest), ImageError> {
        if let Some(digest) = digest
            && let Some(bytes) = self.0.store.get(digest, self.0.settings.manifest_max)
        {
            return Ok((bytes, digest.clone()));
        }
        let (bytes, digest) = self.0.registries.document(from, wanted).await?;
        let (store, kept, name) = (Arc::clone(&self.0.store), bytes.clone(), digest.clone());
        blocking("a manifest", move || store.put(&name, &kept)).await?;
        Ok((bytes, digest))
    }

    /// The image, complete and unpacked; what is here costs no request. Dropping the future ends the pull; what was downloaded is kept for the next.
    ///
    /// # Errors
    /// [`ImageError`].
    pub async fn pull(&self, pinned: &Pinned, auth: &Auth, listener: &Listener) -> Result<Image, ImageError> {
        Pull::new(&self.0, pinned, auth, listener).run().await
    }

    /// The image if it is here, complete; no request is made. Blocks for a moment.
    #[must_use]
    pub fn find(&self, pinned: &Pinned) -> Option<Image> {
        self.0.find(pinned)
    }

    /// The container needs the image until it is released; outlives this process. Hold, then pull: what is held is not collected.
    ///
    /// # Errors
    /// [`ImageError::Io`], [`ImageError::DiskFull`].
    pub async fn hold(&self, container: &str, pinned: &Pinned) -> Result<(), ImageError> {
        let (store, container, pinned) = (Arc::clone(&self.0.store), container.to_owned(), pinned.clone());
        blocking("a hold", move || store.hold(&container, &pinned)).await
    }

    /// The container needs its image no more. Idempotent.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub async fn release(&self, container: &str) -> Result<(), ImageError> {
        let (store, container) = (Arc::clone(&self.0.store), container.to_owned());
        blocking("a hold", move || store.release(&container)).await
    }

    /// Which containers hold which images, as the disk has it: for a start after a crash. Blocks for a moment.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn holds(&self) -> Result<std::collections::BTreeMap<String, Option<Pinned>>, ImageError> {
        self.0.store.holds()
    }

    /// Removes images by age and pressure; never what is held or being pulled.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub async fn collect(&self, now: SystemTime, pressure: Pressure) -> Result<Collected, ImageError> {
        let store = Arc::clone(&self.0.store);
        blocking("the image store", move || store.collect(now, pressure)).await
    }
}

impl Node {
    pub(crate) fn find(&self, pinned: &Pinned) -> Option<Image> {
        let record = self.store.record(&pinned.manifest)?;
        let config = self.store.get(&record.config, self.settings.config_max)?;
        let parsed = Parsed::parse(&config, &pinned.name()).ok()?;
        if !parsed.runs_on(&pinned.platform) {
            return None;
        }
        let notes = record.layers.iter().filter_map(|id| self.store.layer_note(id));
        Some(Image {
            pinned: pinned.clone(),
            layers: record.layers.iter().map(|id| self.store.layer_root(id)).collect(),
            config: parsed.config,
            bytes: record.bytes,
            notes: notes.flat_map(|note| note.notes).collect(),
        })
    }
}
