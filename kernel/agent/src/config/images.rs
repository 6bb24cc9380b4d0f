//! Settings of images, as the agent's file has them under `[agent.images]`, and what the image store is told.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use plenum_images::{Auth, ImageError, Settings};
use serde::{Deserialize, Serialize};

/// Settings of images. Times are in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImagesConfig {
    /// Where names without a host are pulled from; none: such names are refused.
    pub default_registry: Option<String>,
    /// What is put before names of one part on the default registry.
    pub default_namespace: Option<String>,
    /// Base URLs that are asked before a registry itself, by the registry's host.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts that may be spoken to without TLS.
    pub insecure: BTreeSet<String>,
    /// Files (PEM) with certificates of private authorities, by host; `*` for all.
    pub authorities: BTreeMap<String, PathBuf>,
    /// Trust the machine's own bundle of authorities.
    pub trust_machine: bool,
    /// A `.docker/config.json` with pull credentials for tasks that bring none.
    pub docker_config: Option<PathBuf>,
    /// Layers of one image downloaded at once.
    pub parallel: usize,
    /// What an image may unpack to, MiB.
    pub unpacked_max: u64,
    /// For pulling one image.
    pub pull_timeout: u64,
    /// A registry that sends nothing for this long is asked again.
    pub stall_timeout: u64,
    /// How long an image stays that nothing runs, while there is room.
    pub gc_delay: u64,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        let defaults = Settings::default();
        Self {
            default_registry: None,
            default_namespace: None,
            mirrors: BTreeMap::new(),
            insecure: BTreeSet::new(),
            authorities: BTreeMap::new(),
            trust_machine: true,
            docker_config: None,
            parallel: defaults.parallel,
            unpacked_max: defaults.unpacked_max >> 20,
            pull_timeout: 3600,
            stall_timeout: defaults.stall.as_secs(),
            gc_delay: 7 * 24 * 3600,
        }
    }
}

impl ImagesConfig {
    /// As the image store takes them. Reads the authorities' files.
    ///
    /// # Errors
    /// A sentence about a file that cannot be read.
    pub(crate) fn settings(&self, unpacker: Option<Vec<OsString>>) -> Result<Settings, String> {
        let mut authorities = BTreeMap::new();
        for (host, file) in &self.authorities {
            let pem = std::fs::read_to_string(file)
                .map_err(|error| format!("images.authorities: {} cannot be read: {error}", file.display()))?;
            authorities.insert(host.clone(), pem);
        }
        Ok(Settings {
            default_registry: self.default_registry.clone(),
            default_namespace: self.default_namespace.clone(),
            mirrors: self.mirrors.clone(),
            insecure: self.insecure.clone(),
            authorities,
            trust_machine: self.trust_machine,
            parallel: self.parallel.max(1),
            unpacked_max: self.unpacked_max.saturating_mul(1 << 20),
            stall: Duration::from_secs(self.stall_timeout.max(1)),
            unpacker,
            ..Settings::default()
        })
    }

    /// The node's own pull credentials, read each time: they may be changed without a restart.
    ///
    /// # Errors
    /// [`ImageError::Credentials`].
    pub(crate) fn auth(&self) -> Result<Auth, ImageError> {
        let Some(file) = &self.docker_config else { return Ok(Auth::none()) };
        let text = std::fs::read_to_string(file).map_err(|error| ImageError::Credentials {
            reason: format!("{} cannot be read: {error}", file.display()),
        })?;
        Auth::from_docker_config(&text)
    }

    pub(crate) fn pull_deadline(&self) -> Duration {
        Duration::from_secs(self.pull_timeout.max(1))
    }
}
