//! What is written down of a container before anything is made for it: a file named after it. The folder lies on a file system that is emptied
//! at boot, as namespaces are: nothing is synced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use crate::ports::Port;
use crate::types::{Attached, Network, NetworkError, check_id, file};

/// A container's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its network, never [`Network::Named`].
    pub network: Network,
    /// The number of its address in its network; 0 where plugins choose.
    #[serde(default)]
    pub number: u32,
    /// Its mapped ports.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Addresses that it must have.
    #[serde(default)]
    pub addresses: Vec<std::net::IpAddr>,
    /// What plugins were called with and what they said; none: they were not, or it is not known whether they were.
    #[serde(default)]
    pub cni: Option<crate::cni::Kept>,
}

/// The folder's parts.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    records: PathBuf,
    namespaces: PathBuf,
}

impl Folder {
    /// Makes the folder.
    pub fn open(folder: &Path) -> Result<Self, NetworkError> {
        let out = Self { records: folder.join("containers"), namespaces: folder.join("netns") };
        for path in [&out.records, &out.namespaces] {
            fs::create_dir_all(path).map_err(file("create", path))?;
        }
        Ok(out)
    }

    /// Makes the namespaces' folder a mount of its own that is shared: whoever got copies of its mounts (a container with the machine's files) loses
    /// them when they are unmounted here, so that a namespace ends with its container.
    pub fn share(&self) -> Result<(), NetworkError> {
        let (path, none): (_, Option<&str>) = (&self.namespaces, None);
        let shared = || mount(none, path, none, MsFlags::MS_SHARED, none);
        // Said of what is no mount yet, this is refused.
        let done = shared().or_else(|_| {
            mount(Some(path), path, none, MsFlags::MS_BIND, none)?;
            shared()
        });
        done.map_err(|error| file("share the mounts of", path)(error.into()))
    }

    /// Takes that back.
    pub fn unshare(&self) -> Result<(), NetworkError> {
        match umount2(&self.namespaces, MntFlags::MNT_DETACH) {
            Err(error) if !matches!(error, nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {
                Err(file("unmount", &self.namespaces)(error.into()))
            }
            _ => Ok(()),
        }
    }

    /// A container's namespace.
    pub fn netns(&self, container: &str) -> PathBuf {
        self.namespaces.join(container)
    }

    fn record(&self, container: &str) -> PathBuf {
        self.records.join(container)
    }

    /// Writes a record, whole or not at all.
    pub fn write(&self, container: &str, record: &Record) -> Result<(), NetworkError> {
        let path = self.record(container);
        let temporary = self.records.join(format!(".{container}"));
        let text = serde_json::to_vec(record).map_err(io::Error::from);
        text.and_then(|text| fs::write(&temporary, text))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(file("write", &path))
    }

    /// Removes a record; one that is not there is no error.
    pub fn forget(&self, container: &str) -> Result<(), NetworkError> {
        let path = self.record(container);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Every record that can be read; and every other container of which something is here. Files that were being written are removed.
    pub fn load(&self) -> Result<(BTreeMap<String, Record>, BTreeSet<String>), NetworkError> {
        let (mut records, mut others) = (BTreeMap::new(), BTreeSet::new());
        for folder in [&self.records, &self.namespaces] {
            for entry in fs::read_dir(folder).map_err(file("list", folder))? {
                let path = entry.map_err(file("list", folder))?.path();
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                if name.starts_with('.') {
                    fs::remove_file(&path).map_err(file("remove", &path))?;
                } else if check_id(name).is_ok() && !records.contains_key(name) {
                    let text = if folder == &self.records {
                        fs::read(&path).unwrap_or_default()
                    } else {
                        Vec::new()
                    };
                    match serde_json::from_slice(&text) {
                        Ok(record) => drop(records.insert(name.to_owned(), record)),
                        Err(_) => drop(others.insert(name.to_owned())),
                    }
                }
            }
        }
        Ok((records, others))
    }
}

impl Record {
    /// What the record and plugins say of the container, without what follows from the network's settings.
    pub fn attached(&self, name: &str, netns: PathBuf) -> Attached {
        Attached {
            name: name.to_owned(),
            netns,
            addresses: Vec::new(),
            gateway: None,
            dns: Vec::new(),
            search: Vec::new(),
            ports: self.ports.clone(),
            labels: self.labels.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_removed_or_told() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let (number, ports, labels) = (7, Vec::new(), BTreeMap::new());
        let (network, addresses) = (Network::Overlay("dcos".into()), Vec::new());
        let record = Record { network, number, ports, labels, addresses, cni: None };
        folder.write("a", &record).unwrap();
        for (name, text) in [("containers/.b", "{"), ("containers/c", "{"), ("netns/d", ""), ("netns/a", "")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let (records, others) = folder.load().unwrap();
        assert_eq!(records, BTreeMap::from([("a".to_owned(), record)]));
        assert_eq!(others, ["c", "d"].map(str::to_owned).into());
        assert!(!dir.path().join("containers/.b").exists());
        folder.forget("a").unwrap();
        folder.forget("a").unwrap();
    }
}
