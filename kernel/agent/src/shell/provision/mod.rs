//! What containers get besides a process: images, volumes, networks, and the files that tell of them. Everything is kept under a container's
//! id, can be provided again, and goes with [`Provisioner::release`]; a restart finds what an earlier agent left (`adopt`).

mod image;
mod network;
mod overlay;
mod share;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use plenum_containers::{ContainerSpec, Runtime, remove_tree};
use plenum_images::Images;
use plenum_networks::Networks;

pub(crate) use overlay::offer as overlay_offer;
use prost::Message;

use crate::config::{Config, Parts};
use crate::core::{Launch, LaunchStage};

use super::drivers::{DriverVolume, Drivers};
use super::wanted::{VolumeSource, Wanted, WantedNetwork, WantedVolume};

/// Why something cannot be provided.
pub(crate) type Failure = (LaunchStage, String);

/// What was provided besides what is in the description. It is kept in a file, for an agent that finds the container and no record of its start.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Provided {
    #[prost(message, repeated, tag = "1")]
    pub networks: Vec<plenum_api::mesos::NetworkInfo>,
    /// The image by digest.
    #[prost(string, tag = "2")]
    pub image: String,
}

/// Name of that file.
const PROVIDED: &str = "provided";

/// What is kept for one container.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    image: bool,
    /// Images of volumes, held as `<container>.volume-<number>` below this number.
    image_volumes: u32,
    network: bool,
    /// A folder below `scratch`, with what the container writes over its image.
    scratch: bool,
    /// A folder below `files`.
    files: bool,
    /// A file system in that folder, which its pod shares.
    shm: bool,
    /// Volumes of drivers.
    drivers: bool,
    /// Signal that asks for the end, where the image names one.
    stop_signal: Option<i32>,
}

/// The door to images, volumes and networks.
pub(crate) struct Provisioner {
    config: Arc<Config>,
    images: Option<Images>,
    /// Opened when they are first needed, with which slice of the overlay.
    networks: tokio::sync::Mutex<Option<(Option<u32>, Arc<Networks>)>>,
    overlay: Mutex<overlay::Assigned>,
    /// What containers write over their images; on the disk.
    scratch: PathBuf,
    /// `hosts`, `resolv.conf`, secrets; in memory.
    files: PathBuf,
    /// Volumes of other people's drivers.
    drivers: Drivers,
    privileged: bool,
    runtime: Arc<dyn Runtime>,
    kept: Mutex<BTreeMap<String, Kept>>,
    /// One lock a pod: its network is made once.
    pods: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Provisioner {
    /// Opens the stores. Blocks for a moment.
    ///
    /// # Errors
    /// A sentence about settings or a folder.
    pub fn open(config: &Arc<Config>, parts: &Parts, work_dir: &Path) -> Result<Self, String> {
        let privileged = nix::unistd::geteuid().is_root();
        let (scratch, files) = (work_dir.join("provisioner"), config.run_dir.join("provisioner"));
        for folder in [&scratch, &files] {
            plenum_base::files::private_dir(folder)
                .map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let images = if privileged {
            let settings = config.images.settings(parts.unpacker.clone())?;
            Some(Images::open(&work_dir.join("images"), settings).map_err(|error| error.to_string())?)
        } else {
            None
        };
        Ok(Self {
            config: config.clone(),
            images,
            networks: tokio::sync::Mutex::default(),
            overlay: Mutex::default(),
            scratch,
            files,
            drivers: Drivers::open(config, work_dir)?,
            privileged,
            runtime: parts.runtime.clone(),
            kept: Mutex::default(),
            pods: Mutex::default(),
        })
    }

    /// Puts an image under the container and lets the description follow the image's. May take long; dropping the future ends it.
    pub async fn image(
        &self,
        spec: &mut ContainerSpec,
        launch: &Launch,
        wanted: &Wanted,
        provided: &mut Provided,
    ) -> Result<(), Failure> {
        let Some(image) = &wanted.image else { return Ok(()) };
        // Boxed, as below: a thousand launches that wait for their turn do not hold room for what most of them never do.
        Box::pin(self.provide_image(spec, launch, image, provided)).await
    }

    /// Has the images of volumes here and puts their layers in their place. May take long; dropping the future ends it.
    pub async fn image_volumes(&self, launch: &Launch, wanted: &mut Wanted) -> Result<(), Failure> {
        if !wanted.volumes.iter().any(|volume| matches!(volume.source, VolumeSource::Image(_))) {
            return Ok(());
        }
        Box::pin(self.provide_image_volumes(launch, wanted)).await
    }

    /// Has volume drivers mount what the container wants of them. May take long; dropping the future ends it.
    pub async fn driver_volumes(&self, launch: &Launch, wanted: &Wanted) -> Result<(), Failure> {
        let of = |volume: &WantedVolume| match &volume.source {
            VolumeSource::Driver(volume) => Some(volume.clone()),
            _ => None,
        };
        let volumes: Vec<DriverVolume> = wanted.volumes.iter().filter_map(of).collect();
        if volumes.is_empty() {
            return Ok(());
        }
        let refused = |reason: String| (LaunchStage::Volume, reason);
        if !self.privileged {
            let words = "this agent does not run as root, so it cannot mount volumes";
            return Err(refused(words.to_owned()));
        }
        self.note(&launch.container, |kept| kept.drivers = true);
        let volumes: Vec<&DriverVolume> = volumes.iter().collect();
        self.drivers.mount(&launch.container, &volumes).await.map_err(refused)
    }

    /// Volumes, network and what a pod shares. Short; not to be dropped half way.
    pub async fn rest(
        &self,
        spec: &mut ContainerSpec,
        launch: &Launch,
        wanted: &Wanted,
        provided: &mut Provided,
    ) -> Result<(), Failure> {
        Box::pin(self.provide_volumes(spec, launch, wanted)).await?;
        match &wanted.network {
            WantedNetwork::Host => {}
            WantedNetwork::Loopback => spec.network = plenum_containers::Network::Loopback,
            WantedNetwork::Own(own) => Box::pin(self.provide_network(spec, launch, own, provided)).await?,
        }
        if wanted.share.is_any() {
            Box::pin(self.provide_share(spec, launch, wanted.share)).await?;
        }
        self.keep(&launch.container, provided).await
    }

    /// Writes down what a container was provided with.
    pub async fn keep(&self, container: &str, provided: &Provided) -> Result<(), Failure> {
        if *provided == Provided::default() {
            return Ok(());
        }
        self.note(container, |kept| kept.files = true);
        let (folder, bytes) = (self.files.join(container), provided.encode_to_vec());
        blocking(LaunchStage::Start, move || {
            plenum_base::files::private_dir(&folder)
                .and_then(|()| std::fs::write(folder.join(PROVIDED), bytes))
                .map_err(|error| format!("{}: {error}", folder.display()))
        })
        .await
    }

    /// What a container that runs was provided with.
    pub fn provided(&self, container: &str) -> Provided {
        let bytes = std::fs::read(self.files.join(container).join(PROVIDED)).unwrap_or_default();
        Provided::decode(bytes.as_slice()).unwrap_or_default()
    }

    /// The signal that asks a container to end.
    pub fn stop_signal(&self, container: &str) -> Option<i32> {
        self.kept().get(container).and_then(|kept| kept.stop_signal)
    }

    /// Gives back everything that was provided. Idempotent; errors are logged, and the next start of the agent tries again.
    pub async fn release(&self, container: &str) {
        let Some(kept) = self.kept().remove(container) else { return };
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
        if kept.network
            && let Ok(networks) = self.networks().await
            && let Err(error) = networks.detach(container).await
        {
            tracing::warn!(container, %error, "a container's network is not gone");
        }
        let volumes = (0..kept.image_volumes).map(|number| image::of_volume(container, number));
        for held in kept.image.then(|| container.to_owned()).into_iter().chain(volumes) {
            if let Some(images) = &self.images
                && let Err(error) = images.release(&held).await
            {
                tracing::warn!(container, %error, "a container's image is still held");
            }
        }
        if kept.drivers {
            self.drivers.release(container);
        }
        if kept.shm {
            share::take_away(&self.files.join(container));
        }
        let folders = [(kept.scratch, &self.scratch), (kept.files, &self.files)];
        let folders: Vec<PathBuf> =
            folders.into_iter().filter(|(kept, _)| *kept).map(|(_, folder)| folder.join(container)).collect();
        if !folders.is_empty() {
            let _ =
                tokio::task::spawn_blocking(move || folders.iter().for_each(|folder| remove(folder))).await;
        }
    }

    /// At a start: what belongs to no living container goes, the rest is known again.
    pub async fn adopt(&self, living: &BTreeSet<String>) {
        let mut found: BTreeMap<String, Kept> = BTreeMap::new();
        if let Some(images) = &self.images {
            match images.holds() {
                Ok(holds) => {
                    for (held, pinned) in holds {
                        if let Some((container, number)) = image::volume_of(&held) {
                            let kept = found.entry(container.to_owned()).or_default();
                            kept.image_volumes = kept.image_volumes.max(number.saturating_add(1));
                            continue;
                        }
                        let container = held;
                        let image = pinned.and_then(|pinned| images.find(&pinned));
                        let kept = found.entry(container).or_default();
                        kept.image = true;
                        kept.stop_signal = image.and_then(|image| image::stop_signal(&image.config));
                    }
                }
                Err(error) => tracing::warn!(%error, "it is not known which images are held"),
            }
        }
        for container in self.drivers.found() {
            found.entry(container).or_default().drivers = true;
        }
        for container in names(&self.scratch) {
            found.entry(container).or_default().scratch = true;
        }
        for container in names(&self.files) {
            let shm = share::is_there(&self.files.join(&container));
            let kept = found.entry(container).or_default();
            (kept.files, kept.shm) = (true, shm);
        }
        if self.has_networks() {
            match self.networks().await {
                Ok(networks) => {
                    if let Err(error) = networks.adopt(living).await {
                        tracing::warn!(%error, "networks of containers that are gone cannot be removed");
                    }
                    for container in living {
                        // Detaching what has no network is no error.
                        found.entry(container.clone()).or_default().network = true;
                    }
                }
                Err((_, error)) => tracing::warn!(error, "the networks of containers cannot be looked at"),
            }
        }
        let gone: Vec<String> =
            found.keys().filter(|container| !living.contains(*container)).cloned().collect();
        *self.kept() = found;
        for container in gone {
            self.release(&container).await;
        }
    }

    /// Removes images that nothing runs: by age, and sooner where the disk has less than `free` bytes left.
    pub async fn collect(&self, free: u64) {
        let Some(images) = &self.images else { return };
        let unused_for = std::time::Duration::from_secs(self.config.images.gc_delay);
        let pressure = plenum_images::Pressure { unused_for, free };
        match images.collect(std::time::SystemTime::now(), pressure).await {
            Ok(collected) => {
                for image in collected.images {
                    tracing::info!(image, "image removed: nothing runs it");
                }
            }
            Err(error) => tracing::warn!(%error, "images cannot be collected"),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, container: &str, change: impl FnOnce(&mut Kept)) {
        change(self.kept().entry(container.to_owned()).or_default());
    }
}

fn remove(folder: &Path) {
    if let Err(error) = remove_tree(folder) {
        tracing::warn!(folder = %folder.display(), %error, "what is left of a container cannot be removed");
    }
}

/// Names of what is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(
    stage: LaunchStage,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| (stage, error.to_string()))?;
    done.map_err(|reason| (stage, reason))
}
