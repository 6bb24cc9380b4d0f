//! The parents of all containers' groups: made once, with what fails noted as missing. I/O.

use super::layout::{Hierarchy, Layout};
use plenum_shim::wire::Group;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A hierarchy that containers can have groups in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usable {
    /// The folder that holds the containers' groups.
    pub parent: PathBuf,
    /// Controllers that children of `parent` have.
    pub controllers: Vec<String>,
    /// The v2 tree.
    pub unified: bool,
    /// Children have `cgroup.kill` (Linux 5.14).
    pub kill: bool,
    /// Children have a limit for swap.
    pub swap: bool,
}

impl Usable {
    /// Whether children have a controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// What the machine allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prepared {
    /// `v1`, `v2`, `hybrid` or `none`.
    pub kind: &'static str,
    /// Hierarchies for containers.
    pub usable: Vec<Usable>,
    /// Groups that supervisors move to, so that they leave those of the agent.
    pub own_groups: Vec<Group>,
    /// What could not be made, in words.
    pub missing: Vec<String>,
}

impl Prepared {
    /// Reads the machine's layout and makes `<parent>` in every hierarchy that matters.
    #[must_use]
    pub fn make(parent: &str) -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let layout = Layout::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let mut prepared = Self { kind: layout.kind(), ..Self::default() };
        for hierarchy in &layout.hierarchies {
            let matters =
                ["cpu", "cpuacct", "memory", "pids", "freezer", "devices"].iter().any(|c| hierarchy.has(c));
            if hierarchy.unified || matters || hierarchy.inside_group {
                prepared.take(hierarchy, parent);
            }
        }
        prepared
    }

    /// Whether some hierarchy gives containers a controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.usable.iter().any(|usable| usable.has(controller))
    }

    /// Removes the parents, which are made again by the next [`make`](Self::make). What has processes stays. Blocks for up to `patience`.
    pub fn remove(&self, patience: Duration) -> bool {
        let parents: Vec<_> = self.usable.iter().map(|usable| usable.parent.clone()).collect();
        plenum_shim::cgroup::remove_dirs(&parents, patience)
    }

    fn take(&mut self, hierarchy: &Hierarchy, parent: &str) {
        let dir = hierarchy.mount.join(parent);
        let shims = dir.join("shims");
        if let Err(error) = fs::create_dir_all(&shims) {
            let what = if hierarchy.unified { "v2".to_owned() } else { hierarchy.controllers.join(",") };
            self.missing.push(format!("{what}: making {} failed: {error}", shims.display()));
            return;
        }
        let controllers = match hierarchy.unified {
            true => self.delegate(&hierarchy.mount, &dir),
            false => hierarchy.controllers.clone(),
        };
        if hierarchy.inside_group {
            let (dir, unified) = (shims.as_os_str().as_bytes().to_vec(), hierarchy.unified);
            self.own_groups.push(Group { dir, unified, ..Group::default() });
        }
        self.usable.push(Usable {
            kill: hierarchy.unified && shims.join("cgroup.kill").exists(),
            swap: shims.join("memory.memsw.limit_in_bytes").exists()
                || shims.join("memory.swap.max").exists(),
            parent: dir,
            controllers,
            unified: hierarchy.unified,
        });
    }

    /// A v2 controller reaches a group only if every group above passes it on.
    fn delegate(&mut self, mount: &Path, parent: &Path) -> Vec<String> {
        let mut path = mount.to_owned();
        let below: Vec<_> = parent.strip_prefix(mount).map(|p| p.components().collect()).unwrap_or_default();
        let mut levels = vec![path.clone()];
        for part in below {
            path.push(part);
            levels.push(path.clone());
        }
        let offered = words(&mount.join("cgroup.controllers"));
        // `io` limits nothing; it counts.
        for controller in ["cpu", "memory", "pids", "io"].iter().filter(|c| offered.iter().any(|o| o == *c)) {
            for level in &levels {
                let file = level.join("cgroup.subtree_control");
                // Groups above that pass it on already belong to somebody else, such as systemd.
                if words(&file).iter().any(|on| on == controller) {
                    continue;
                }
                if let Err(error) = fs::write(&file, format!("+{controller}")) {
                    self.missing
                        .push(format!("{controller}: enabling it in {} failed: {error}", file.display()));
                    break;
                }
            }
        }
        words(&parent.join("cgroup.subtree_control"))
    }
}

fn words(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
}
