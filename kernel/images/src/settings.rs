//! What the operator may set. Everything has a default; there is no default registry.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::time::Duration;

/// The settings of a node's images.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where names without a host are pulled from: a host with an optional port. `None`: such names are an error.
    pub default_registry: Option<String>,
    /// What is put before names of one part on the default registry (`app` → `<namespace>/app`).
    pub default_namespace: Option<String>,
    /// Base URLs that are asked before a registry itself, in order, by the registry's host as it is written in names.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts (with their ports) that may be spoken to without TLS; the only ones that are.
    pub insecure: BTreeSet<String>,
    /// Certificates (PEM) of private authorities, by host with port; `"*"` for all.
    pub authorities: BTreeMap<String, String>,
    /// Trust the machine's own bundle of authorities.
    pub trust_machine: bool,
    /// Layers of one image that are downloaded at once.
    pub parallel: usize,
    /// Attempts for one request before a registry is given up.
    pub attempts: u32,
    /// The first pause between attempts; it doubles up to 20 times that.
    pub backoff: Duration,
    /// Nothing arriving for this long breaks a download.
    pub stall: Duration,
    /// A layer's download takes at most this long, all attempts together.
    pub layer_deadline: Duration,
    /// The largest manifest or index, in bytes.
    pub manifest_max: u64,
    /// The largest image configuration, in bytes.
    pub config_max: u64,
    /// The largest sum of an image's compressed layers, in bytes.
    pub download_max: u64,
    /// What an image may unpack to, in bytes.
    pub unpacked_max: u64,
    /// How many entries an image's layers may have together.
    pub entries_max: u64,
    /// How many times its compressed size a layer may unpack to, where that is more than [`RATIO_FLOOR`].
    pub ratio_max: u64,
    /// Make the device nodes that are in an image. Otherwise they are left out with a note.
    pub devices: bool,
    /// The program and arguments that unpack a layer in a confined process (see [`crate::unpack::child`]). `None`: a thread of this process does,
    /// confined by how it opens files only.
    pub unpacker: Option<Vec<OsString>>,
}

/// Below this many unpacked bytes the ratio of a layer is not looked at.
pub const RATIO_FLOOR: u64 = 64 << 20;

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_registry: None,
            default_namespace: None,
            mirrors: BTreeMap::new(),
            insecure: BTreeSet::new(),
            authorities: BTreeMap::new(),
            trust_machine: true,
            parallel: 3,
            attempts: 5,
            backoff: Duration::from_millis(500),
            stall: Duration::from_secs(30),
            layer_deadline: Duration::from_secs(3600),
            manifest_max: 4 << 20,
            config_max: 8 << 20,
            download_max: 64 << 30,
            unpacked_max: 128 << 30,
            entries_max: 2_000_000,
            ratio_max: 200,
            devices: false,
            unpacker: None,
        }
    }
}
