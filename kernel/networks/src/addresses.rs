//! Addresses of containers: a file per address, named after it, holding the container's id. Made by a hard link, so that it is whole or not there.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The addresses of one network; the first (`.1`) is the bridge's.
#[derive(Debug, Clone)]
pub struct Pool {
    folder: PathBuf,
    network: u32,
    bits: u8,
}

impl Pool {
    /// The pool whose files are in `folder`, which exists. `bits` is 8 to 30.
    #[must_use]
    pub fn new(folder: PathBuf, network: Ipv4Addr, bits: u8) -> Self {
        Self { folder, network: u32::from(network), bits }
    }

    /// The container's address: the one it has, or else the lowest free one. `None` when all are taken.
    ///
    /// # Errors
    /// What the system says.
    pub fn take(&self, container: &str) -> io::Result<Option<Ipv4Addr>> {
        let held = self.held()?;
        if let Some((address, _)) = held.iter().find(|(_, who)| who == container) {
            return Ok(Some(*address));
        }
        let taken: std::collections::BTreeSet<u32> = held.iter().map(|(a, _)| u32::from(*a)).collect();
        let size = 1u32 << (32 - u32::from(self.bits.clamp(8, 30)));
        // Network, bridge and broadcast are nobody's.
        let free = (2..size - 1).map(|at| self.network.saturating_add(at)).filter(|a| !taken.contains(a));
        let temporary = self.folder.join(format!(".{container}"));
        for number in free {
            let address = Ipv4Addr::from(number);
            fs::write(&temporary, container)?;
            let linked = fs::hard_link(&temporary, self.folder.join(address.to_string()));
            fs::remove_file(&temporary)?;
            match linked {
                Ok(()) => return Ok(Some(address)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Frees what the container holds.
    ///
    /// # Errors
    /// What the system says.
    pub fn free(&self, container: &str) -> io::Result<()> {
        for (address, _) in self.held()?.into_iter().filter(|(_, who)| who == container) {
            fs::remove_file(self.folder.join(address.to_string()))?;
        }
        Ok(())
    }

    /// Every address that is taken, and by whom.
    ///
    /// # Errors
    /// What the system says.
    pub fn held(&self) -> io::Result<Vec<(Ipv4Addr, String)>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                out.push((address, fs::read_to_string(entry.path())?));
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_has_one_address_until_none_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::new(dir.path().to_owned(), [10, 1, 2, 0].into(), 29);
        let first = pool.take("a").unwrap();
        assert_eq!(first, Some([10, 1, 2, 2].into()));
        assert_eq!(pool.take("a").unwrap(), first);
        for name in ["b", "c", "d", "e"] {
            assert!(pool.take(name).unwrap().is_some());
        }
        assert_eq!(pool.take("f").unwrap(), None);
        pool.free("a").unwrap();
        assert_eq!(pool.take("f").unwrap(), first);
        assert_eq!(pool.held().unwrap().len(), 5);
    }
}
