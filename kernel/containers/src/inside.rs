//! What a container has besides command, user and limits: its root, volumes, networks and namespaces of others, and the
//! translation for the shim. Pure.

use crate::capabilities::CapabilitySet;
use crate::spec::{ContainerSpec, Network, Root, SpecError};
use plenum_shim::wire::{self, kind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Where a container with an image finds its sandbox; Mesos' place for it.
pub const SANDBOX: &str = "/mnt/mesos/sandbox";
/// Size of `/dev/shm` unless told otherwise.
pub const SHM_BYTES: u64 = 64 << 20;

/// Hidden in a container with an image: what tells of the machine or reaches its hardware.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Settings of the machine, for reading only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or folder of the machine by its absolute path. Links in it are followed: the path is trusted.
    Path(PathBuf),
    /// A file or folder below a folder whose content is not trusted; nothing leads out of it.
    Beneath {
        /// The folder.
        folder: PathBuf,
        /// Relative to it, without `..`.
        path: PathBuf,
    },
    /// Memory that counts as the container's.
    Tmpfs {
        /// Largest size; half of the machine's memory if `None`.
        bytes: Option<u64>,
        /// Permissions of its root.
        mode: u32,
    },
    /// The content of an image.
    Image {
        /// Folders of its layers, lowest first.
        layers: Vec<PathBuf>,
        /// A folder with `upper` and `work`, which take what is written; nothing can be where there is none.
        over: Option<PathBuf>,
    },
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub source: Source,
    /// Where: absolute in the container's root, or relative to the sandbox; without `..`. It is made if missing, except
    /// for an absolute one with the machine's root.
    pub target: PathBuf,
    /// For reading only.
    pub read_only: bool,
}

/// A device file of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute, below `/dev`.
    pub path: PathBuf,
    /// A block device instead of a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
}

/// System calls that are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// [`Seccomp::Default`] for an image; for a container with the machine's root what the machine's setting says
    /// ([`crate::RuntimeConfig::filter_host_root`]), usually [`Seccomp::Unconfined`].
    #[default]
    ByRoot,
    /// The profile of [`crate::seccomp`].
    Default,
    /// None.
    Unconfined,
}

impl ContainerSpec {
    /// Whether the container has a root of its own.
    #[must_use]
    pub fn has_image(&self) -> bool {
        matches!(self.root, Root::Image { .. })
    }

    /// The seccomp program; empty for none.
    #[must_use]
    pub fn filter(&self) -> Vec<u8> {
        filter(self.seccomp, self.has_image(), self.bounding)
    }

    /// The working directory as the task sees it.
    #[must_use]
    pub fn cwd(&self) -> PathBuf {
        let base = if self.has_image() { Path::new(SANDBOX) } else { &self.sandbox };
        self.working_dir.as_ref().map_or_else(|| base.to_owned(), |dir| base.join(dir))
    }

    /// What the shim is told besides the launch description; `None` if there is nothing to tell. `share` is what
    /// [`ContainerSpec::share`] was found to be.
    #[must_use]
    pub fn describe_inside(&self, run_dir: &Path, share: Option<wire::Share>) -> Option<wire::Inside> {
        let network = match &self.network {
            Network::Join(file) => Some(bytes(file)),
            _ => None,
        };
        let root = self.describe_root(run_dir);
        let mut mounts = Vec::new();
        if root.is_some() {
            mounts.extend(self.etc(run_dir));
        }
        mounts.extend(self.still_writable());
        mounts.extend(self.mounts.iter().map(|mount| self.describe_mount(mount)));
        let filter = self.filter();
        let plain = root.is_none() && mounts.is_empty() && network.is_none() && share.is_none();
        let sandbox = bytes(&self.sandbox);
        (!plain || !filter.is_empty()).then_some(wire::Inside {
            root,
            sandbox,
            mounts,
            network,
            share,
            filter,
        })
    }

    fn describe_root(&self, run_dir: &Path) -> Option<wire::Rootfs> {
        let Root::Image { layers, upper, work } = &self.root else { return None };
        let paths = |list: &[&str]| list.iter().map(|path| path.as_bytes().to_vec()).collect();
        let device = |device: &Device| wire::Device {
            name: bytes(device.path.strip_prefix("/dev").unwrap_or(&device.path)),
            block: device.block,
            major: device.major,
            minor: device.minor,
            mode: device.mode,
            uid: 0,
            gid: 0,
        };
        Some(wire::Rootfs {
            layers: layers.iter().map(|layer| bytes(layer)).collect(),
            upper: bytes(upper),
            work: bytes(work),
            stage: bytes(&run_dir.join(STAGE)),
            sandbox_target: SANDBOX.into(),
            // Below the sandbox it is the task's own affair.
            folders: self
                .working_dir
                .iter()
                .filter(|dir| dir.is_absolute())
                .chain(&self.volumes)
                .map(|dir| bytes(dir))
                .collect(),
            devices: self.devices.iter().map(device).collect(),
            shm_bytes: self.shm_bytes,
            masked: if self.unmasked { Vec::new() } else { paths(&MASKED) },
            read_only_paths: if self.unmasked { Vec::new() } else { paths(&READ_ONLY) },
            read_only: self.readonly_root,
        })
    }

    /// `hosts`, `hostname` and `resolv.conf` of a container with an image.
    fn etc(&self, run_dir: &Path) -> Vec<wire::Mount> {
        let hostname = self.hostname.as_ref().map(|_| run_dir.join(HOSTNAME));
        let files = [
            ("hosts", self.hosts.clone()),
            ("hostname", hostname),
            ("resolv.conf", self.resolv_conf.clone()),
        ];
        let mount = |(name, file): (&str, Option<PathBuf>)| {
            Some(wire::Mount {
                kind: kind::BIND,
                source: bytes(&file?),
                target: format!("/etc/{name}").into_bytes(),
                create: true,
                read_only: true,
                ..wire::Mount::default()
            })
        };
        files.into_iter().filter_map(mount).collect()
    }

    /// Folders that are the image's volumes, where its root cannot be written. Elsewhere they are like the rest of it.
    fn still_writable(&self) -> impl Iterator<Item = wire::Mount> {
        let folders = self.volumes.iter().filter(|_| self.readonly_root && self.has_image());
        folders.map(|folder| wire::Mount {
            kind: kind::ITSELF,
            target: bytes(folder),
            create: true,
            ..wire::Mount::default()
        })
    }

    fn describe_mount(&self, mount: &Mount) -> wire::Mount {
        let common = wire::Mount {
            target: bytes(&mount.target),
            create: self.has_image() || mount.target.is_relative(),
            read_only: mount.read_only,
            ..wire::Mount::default()
        };
        match &mount.source {
            Source::Path(path) => wire::Mount { kind: kind::BIND, source: bytes(path), ..common },
            Source::Beneath { folder, path } => {
                wire::Mount { kind: kind::BIND, source_root: bytes(folder), source: bytes(path), ..common }
            }
            Source::Image { layers, over } => wire::Mount {
                kind: kind::LAYERS,
                source: layers.iter().map(|layer| bytes(layer)).collect::<Vec<_>>().join(&0),
                source_root: over.as_ref().map(|over| bytes(over)).unwrap_or_default(),
                ..common
            },
            Source::Tmpfs { bytes, mode } => {
                let size = bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
                wire::Mount { kind: kind::TMPFS, options: format!("mode={mode:o}{size}"), ..common }
            }
        }
    }

    /// Checks what this module is about.
    pub(crate) fn check_inside(&self) -> Result<(), SpecError> {
        let refuse = |what, path: &Path| Err(SpecError::Inside { what, name: path.display().to_string() });
        for mount in &self.mounts {
            if !stays(&mount.target) || mount.target.components().all(|part| part == Component::RootDir) {
                return refuse("volume", &mount.target);
            }
            match &mount.source {
                Source::Path(path) if !path.is_absolute() => return refuse("volume source", path),
                Source::Beneath { folder, path }
                    if !folder.is_absolute() || !crate::spec::is_inside(path) =>
                {
                    return refuse("volume source", path);
                }
                Source::Image { layers, over } => {
                    let mut paths = layers.iter().chain(over);
                    if let Some(bad) = paths.find(|path| !path.is_absolute() || !stays(path)) {
                        return refuse("volume source", bad);
                    }
                    if layers.is_empty() {
                        return Err(SpecError::Image);
                    }
                }
                Source::Tmpfs { mode, .. } if *mode > 0o7777 => {
                    return Err(SpecError::Range { what: "mode of a volume", value: (*mode).into() });
                }
                _ => {}
            }
        }
        if let Some(bad) = self.volumes.iter().find(|path| !path.is_absolute() || !stays(path)) {
            return refuse("volume", bad);
        }
        for device in &self.devices {
            let name = device.path.strip_prefix("/dev").unwrap_or(Path::new(""));
            if name.as_os_str().is_empty() || !stays(&device.path) {
                return refuse("device", &device.path);
            }
        }
        if let Network::Join(file) = &self.network
            && !file.is_absolute()
        {
            return refuse("network namespace", file);
        }
        self.check_root()
    }

    fn check_root(&self) -> Result<(), SpecError> {
        let Root::Image { layers, upper, work } = &self.root else {
            let unmet = [
                ("devices", !self.devices.is_empty()),
                ("a read-only root", self.readonly_root),
                ("a file of hosts", self.hosts.is_some()),
                ("a user namespace", self.user_namespace),
            ];
            return match unmet.iter().find(|(_, asked)| *asked) {
                Some((what, _)) => Err(SpecError::NeedsImage(what)),
                None => Ok(()),
            };
        };
        if self.user_namespace && self.share.is_some() {
            return Err(SpecError::SharesUsers);
        }
        let paths = || layers.iter().chain([upper, work]);
        if layers.is_empty() || paths().any(|path| !path.is_absolute()) {
            return Err(SpecError::Image);
        }
        Ok(())
    }
}

/// The folder in the runtime folder that an image's root is put together on.
pub(crate) const STAGE: &str = "root";
/// The file in the runtime folder that is shown as `/etc/hostname`.
pub(crate) const HOSTNAME: &str = "hostname";

/// The seccomp program for a container.
#[must_use]
pub fn filter(seccomp: Seccomp, image: bool, capabilities: CapabilitySet) -> Vec<u8> {
    match seccomp {
        Seccomp::Default => crate::seccomp::default_profile(capabilities),
        Seccomp::ByRoot if image => crate::seccomp::default_profile(capabilities),
        Seccomp::ByRoot | Seccomp::Unconfined => Vec::new(),
    }
}

fn stays(path: &Path) -> bool {
    !path.as_os_str().as_bytes().contains(&0)
        && !path.as_os_str().is_empty()
        && path.components().all(|part| part != Component::ParentDir)
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Command;

    fn spec() -> ContainerSpec {
        ContainerSpec::new("c", "/s", Command::Shell("true".into()))
    }

    fn image() -> ContainerSpec {
        let root =
            Root::Image { layers: vec!["/a".into(), "/b".into()], upper: "/u".into(), work: "/w".into() };
        ContainerSpec { root, ..spec() }
    }

    fn mount(source: Source, target: &str) -> Mount {
        Mount { source, target: target.into(), read_only: false }
    }

    #[test]
    fn a_plain_container_is_told_nothing_more() {
        assert_eq!(spec().describe_inside(Path::new("/r"), None), None);
        assert!(spec().filter().is_empty());
    }

    #[test]
    fn an_image_is_described() {
        let mut spec = image();
        spec.hostname = Some("h".into());
        spec.working_dir = Some("/app".into());
        spec.mounts.push(mount(Source::Tmpfs { bytes: Some(9), mode: 0o1777 }, "scratch"));
        spec.validate().unwrap();
        let inside = spec.describe_inside(Path::new("/r"), None).unwrap();
        let root = inside.root.unwrap();
        assert_eq!((root.stage, root.folders), (b"/r/root".to_vec(), vec![b"/app".to_vec()]));
        let mounts: Vec<_> = inside.mounts.iter().map(|m| String::from_utf8_lossy(&m.target)).collect();
        assert_eq!(mounts, ["/etc/hostname", "scratch"]);
        assert_eq!(inside.mounts[1].options, "mode=1777,size=9");
        assert!(!inside.filter.is_empty());
        assert_eq!(spec.cwd(), Path::new("/app"));
        spec.working_dir = None;
        assert_eq!(spec.cwd(), Path::new(SANDBOX));
    }

    #[test]
    fn hostile_paths_are_refused_by_name() {
        let change = |f: &dyn Fn(&mut ContainerSpec)| {
            let mut spec = image();
            f(&mut spec);
            spec.validate().unwrap_err().to_string()
        };
        let beneath = |path: &str| Source::Beneath { folder: "/f".into(), path: path.into() };
        for (text, want) in [
            (change(&|s| s.mounts.push(mount(Source::Path("/x".into()), "/a/../b"))), "volume"),
            (change(&|s| s.mounts.push(mount(Source::Path("/x".into()), "/"))), "volume"),
            (change(&|s| s.mounts.push(mount(Source::Path("x".into()), "/a"))), "volume source"),
            (change(&|s| s.mounts.push(mount(beneath("../x"), "/a"))), "volume source"),
            (change(&|s| s.network = Network::Join("x".into())), "network namespace"),
            (change(&|s| s.working_dir = Some("/a/../..".into())), "working directory"),
            (
                change(&|s| s.root = Root::Image { layers: vec![], upper: "/u".into(), work: "/w".into() }),
                "layer",
            ),
            (
                change(&|s| {
                    let path = "/etc/x".into();
                    s.devices.push(Device { path, block: false, major: 1, minor: 3, mode: 0o666 });
                }),
                "device",
            ),
            (change(&|s| (s.root, s.readonly_root) = (Root::Host, true)), "needs an image"),
            (change(&|s| (s.root, s.user_namespace) = (Root::Host, true)), "needs an image"),
            (
                change(&|s| {
                    s.user_namespace = true;
                    s.share = Some(crate::spec::Share { with: "a".into(), pids: true, ipc: false });
                }),
                "shares neither",
            ),
        ] {
            assert!(text.contains(want), "{text:?} should say {want:?}");
        }
    }
}
