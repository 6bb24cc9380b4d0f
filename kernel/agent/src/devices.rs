//! Device files that containers are given: the machine's GPUs, each to one container at a time, and what the operator lists. Which GPU a
//! task has is the core's decision; here are the files.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use plenum_containers::{ContainerSpec, Device};

use crate::config::DevicesConfig;

/// The machine's devices, as far as containers may have them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// The files of each GPU, by its number.
    gpus: Vec<Vec<PathBuf>>,
    /// What every container with a GPU has.
    common: Vec<PathBuf>,
    /// What every container with an image has.
    always: Vec<PathBuf>,
    /// Variables that say which GPUs a container has.
    variables: Vec<String>,
}

impl Devices {
    /// What the configuration lists, and the GPUs below `dev` if it lists none.
    #[must_use]
    pub fn find(config: &DevicesConfig, dev: &Path) -> Self {
        let mut found = Self {
            gpus: config.gpus.clone(),
            common: config.gpu_common.clone(),
            always: config.always.clone(),
            variables: config.gpu_variables.clone(),
        };
        if found.gpus.is_empty() && config.detect_gpus {
            found.gpus = numbered(dev, "nvidia").into_iter().map(|path| vec![path]).collect();
            if found.common.is_empty() {
                let names = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"];
                found.common =
                    names.map(|name| dev.join(name)).into_iter().filter(|path| path.exists()).collect();
            }
        }
        found
    }

    /// How many GPUs there are.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        u32::try_from(self.gpus.len()).unwrap_or(u32::MAX)
    }

    /// The files of a container with an image and these GPUs.
    ///
    /// # Errors
    /// A sentence about the file that is not there or no device.
    pub fn given(&self, gpus: &[u32]) -> Result<Vec<Device>, String> {
        let common = self.common.iter().filter(|_| !gpus.is_empty());
        let own = gpus.iter().filter_map(|n| self.gpus.get(usize::try_from(*n).ok()?)).flatten();
        self.always.iter().chain(own).chain(common).map(|path| device(path)).collect()
    }

    /// The files of the GPUs that a container does not have. Those that are not there need no hiding.
    #[must_use]
    pub fn of_others(&self, gpus: &[u32]) -> Vec<Device> {
        let numbered = (0u32..).zip(&self.gpus);
        let others = numbered.filter(|(n, _)| !gpus.contains(n)).flat_map(|(_, files)| files);
        let common = self.common.iter().filter(|_| gpus.is_empty());
        others.chain(common).filter_map(|path| device(path).ok()).collect()
    }

    /// Gives a container its devices: with an image it sees nothing else; on the machine's files it sees those of others and may not
    /// use them.
    ///
    /// # Errors
    /// See [`Devices::given`].
    pub fn give(&self, spec: &mut ContainerSpec, gpus: &[u32]) -> Result<(), String> {
        for (name, value) in self.environment(gpus) {
            spec.env.entry(name).or_insert(value);
        }
        if spec.has_image() {
            spec.devices.extend(self.given(gpus)?);
        } else {
            self.given(gpus)?;
            spec.denied_devices = self.of_others(gpus);
        }
        Ok(())
    }

    /// Variables of a container with these GPUs.
    pub fn environment(&self, gpus: &[u32]) -> impl Iterator<Item = (String, String)> {
        let list = gpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let wanted = self.variables.iter().filter(|_| !gpus.is_empty()).cloned().collect::<Vec<_>>();
        wanted.into_iter().map(move |name| (name, list.clone()))
    }
}

/// `dev/<name>0`, `dev/<name>1` and so on, in the order of their numbers.
fn numbered(dev: &Path, name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dev).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix(name)?.parse::<u32>().ok();
    let mut found: Vec<(u32, PathBuf)> =
        entries.filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

fn device(path: &Path) -> Result<Device, String> {
    let wrong = |what: &str| format!("the device file {} {what}; correct `agent.devices`", path.display());
    let meta = std::fs::metadata(path).map_err(|error| wrong(&format!("cannot be looked at ({error})")))?;
    let kind = meta.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Err(wrong("is no device"));
    }
    let number = |part: u64| u32::try_from(part).map_err(|_| wrong("has a number out of range"));
    // Where it lies on the machine is nobody's business: programs look for it in `/dev`.
    let name = path.file_name().ok_or_else(|| wrong("has no name"))?;
    let below = path.strip_prefix("/dev").unwrap_or(Path::new(name));
    Ok(Device {
        path: Path::new("/dev").join(below),
        block: kind.is_block_device(),
        major: number(nix::sys::stat::major(meta.rdev()))?,
        minor: number(nix::sys::stat::minor(meta.rdev()))?,
        mode: meta.mode() & 0o777,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_found_by_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = Devices::find(&DevicesConfig::default(), dir.path());
        let names = |paths: &[PathBuf]| {
            paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&found.gpus.concat()), ["nvidia2", "nvidia10"]);
        assert_eq!(names(&found.common), ["nvidiactl", "nvidia-uvm"]);
        let off = DevicesConfig { detect_gpus: false, ..DevicesConfig::default() };
        assert_eq!(Devices::find(&off, dir.path()).gpus(), 0);
    }

    #[test]
    fn a_container_has_its_own_and_what_all_have() {
        let config = DevicesConfig {
            gpus: vec![vec!["/dev/zero".into()], vec!["/dev/full".into()]],
            gpu_common: vec!["/dev/random".into()],
            always: vec!["/dev/tty".into()],
            ..DevicesConfig::default()
        };
        let devices = Devices::find(&config, Path::new("/nowhere"));
        let minors = |list: Vec<Device>| list.iter().map(|d| (d.major, d.minor)).collect::<Vec<_>>();
        assert_eq!(minors(devices.given(&[1]).unwrap()), [(5, 0), (1, 7), (1, 8)]);
        assert_eq!(minors(devices.given(&[]).unwrap()), [(5, 0)]);
        assert_eq!(minors(devices.of_others(&[1])), [(1, 5)]);
        assert_eq!(minors(devices.of_others(&[])), [(1, 5), (1, 7), (1, 8)]);
        assert_eq!(
            devices.environment(&[0, 1]).collect::<Vec<_>>(),
            [("NVIDIA_VISIBLE_DEVICES".to_owned(), "0,1".to_owned())]
        );
        let wrong = DevicesConfig { always: vec!["/etc/passwd".into()], ..DevicesConfig::default() };
        let sentence = Devices::find(&wrong, Path::new("/nowhere")).given(&[]).unwrap_err();
        assert!(sentence.contains("/etc/passwd is no device"), "{sentence}");
    }
}
