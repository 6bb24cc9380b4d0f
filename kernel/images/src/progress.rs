//! What a pull tells while it goes on.

use std::fmt;
use std::sync::Arc;

use crate::digest::Digest;

/// What is done with a layer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It waits for its turn.
    Waiting,
    /// Its bytes arrive.
    Downloading,
    /// It is being unpacked.
    Unpacking,
    /// It is there.
    Ready,
}

/// How far one layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// The layer's place in the image, lowest first, from 0.
    pub index: usize,
    /// How many layers the image has.
    pub layers: usize,
    /// The layer as the registry has it.
    pub digest: Digest,
    /// What is done with it.
    pub stage: Stage,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes as the manifest says.
    pub total: u64,
}

/// Who hears of progress: called often, so it must be quick and must not block.
#[derive(Clone)]
pub struct Listener(Arc<dyn Fn(LayerProgress) + Send + Sync>);

impl Listener {
    /// Calls `hear`.
    pub fn new(hear: impl Fn(LayerProgress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Hears nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    /// Tells.
    pub fn tell(&self, progress: LayerProgress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
