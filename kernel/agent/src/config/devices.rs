//! Settings of device files, as the agent's file has them under `[agent.devices]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Device files that containers are given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DevicesConfig {
    /// The files of each GPU; a container has those of its GPUs only.
    pub gpus: Vec<Vec<PathBuf>>,
    /// Files that every container with a GPU has.
    pub gpu_common: Vec<PathBuf>,
    /// Where none are listed: take `/dev/nvidia0` and so on, with what belongs to them.
    pub detect_gpus: bool,
    /// Variables that tell a container the numbers of its GPUs.
    pub gpu_variables: Vec<String>,
    /// Files that every container with an image has, such as `/dev/fuse`.
    pub always: Vec<PathBuf>,
}

impl Default for DevicesConfig {
    fn default() -> Self {
        Self {
            gpus: Vec::new(),
            gpu_common: Vec::new(),
            detect_gpus: true,
            gpu_variables: vec!["NVIDIA_VISIBLE_DEVICES".to_owned()],
            always: Vec::new(),
        }
    }
}
