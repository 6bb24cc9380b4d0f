//! Settings of user namespaces, as the agent's file has them under `[agent.user_namespaces]`.

use std::path::PathBuf;

use plenum_containers::UserNamespaces;
use serde::{Deserialize, Serialize};

/// User namespaces of containers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsersConfig {
    /// Whether containers with an image have users of their own, none of whom is one of the machine's: root in them has no power outside. Those
    /// that are given the machine (privileged, capabilities beyond the usual ones) or share a pod's process ids or IPC have none.
    pub enabled: bool,
    /// The first id of the machine that they have. Nobody else may have these ids.
    pub first_id: u32,
    /// For how many containers at a time there are ids; each has 65536.
    pub containers: u32,
}

impl Default for UsersConfig {
    fn default() -> Self {
        // What systemd and distributions leave unused: up to 2³¹, above which some programs take an id for negative.
        Self { enabled: false, first_id: 0x7000_0000, containers: 4096 }
    }
}

impl UsersConfig {
    /// What the container runtime is told; `folders` are where files of containers are, those of images first.
    #[must_use]
    pub fn ranges(&self, folders: Vec<PathBuf>) -> Option<UserNamespaces> {
        let Self { enabled, first_id: first, containers } = *self;
        enabled.then_some(UserNamespaces { first, containers, folders })
    }

    /// What is wrong with the numbers, where they count.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.ranges(Vec::new())?.problem()
    }
}
