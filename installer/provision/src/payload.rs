//! What travels to the hosts: this program, and an etcd where one is sent along. Read and compressed once, for all hosts.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::OnceCell;

use crate::error::{InstallError, Result};

/// A program to send.
#[derive(Debug)]
pub struct Payload {
    path: PathBuf,
    /// SHA-256 in hexadecimal.
    pub digest: String,
    packed: OnceCell<Arc<[u8]>>,
}

impl Payload {
    /// Reads the file.
    ///
    /// # Errors
    /// [`InstallError::Local`].
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| InstallError::Local(format!("{}: {error}", path.display()));
        let mut file = std::fs::File::open(path).map_err(failed)?;
        let mut hash = Context::new(&SHA256);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = file.read(&mut buffer).map_err(failed)?;
            if n == 0 {
                break;
            }
            hash.update(buffer.get(..n).unwrap_or_default());
        }
        let digest = plenum_plan::spec::hex(hash.finish().as_ref());
        Ok(Self { path: path.to_owned(), digest, packed: OnceCell::new() })
    }

    /// The program that runs now: it is what hosts are given.
    ///
    /// # Errors
    /// [`InstallError::Local`].
    pub fn own() -> Result<Self> {
        // Also where the file was replaced since.
        Self::read(Path::new("/proc/self/exe"))
    }

    /// Its bytes as gzip.
    ///
    /// # Errors
    /// [`InstallError::Local`].
    pub async fn packed(&self) -> Result<Arc<[u8]>> {
        let path = self.path.clone();
        let pack = || async move {
            tokio::task::spawn_blocking(move || pack(&path))
                .await
                .map_err(|error| InstallError::Local(error.to_string()))?
        };
        self.packed.get_or_try_init(pack).await.cloned()
    }
}

fn pack(path: &Path) -> Result<Arc<[u8]>> {
    let failed = |error: std::io::Error| InstallError::Local(format!("{}: {error}", path.display()));
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut file, &mut packed).map_err(failed)?;
    packed.flush().map_err(failed)?;
    Ok(packed.finish().map_err(failed)?.into())
}
