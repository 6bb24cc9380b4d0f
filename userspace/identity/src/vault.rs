//! Encryption at rest: what is secret in the store is sealed with AES-256-GCM under a master key, which is a file of the machine and
//! never in the store.

use std::io;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plenum_base::files;

/// First byte of a sealed value: which key and algorithm.
const VERSION: u8 = 1;

/// Why something sealed cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The key's file cannot be read or written.
    #[error("the master key {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file is not a key.
    #[error("the master key {0} does not hold 32 bytes; bring it back from a backup")]
    Key(String),
    /// Wrong key, wrong place, or changed content.
    #[error("{0} cannot be decrypted with this machine's master key")]
    Open(String),
    /// Sealing failed; no known cause.
    #[error("encryption failed")]
    Seal,
}

/// The master key.
pub(crate) struct Vault {
    key: LessSafeKey,
    raw: Vec<u8>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    /// Reads the key, or makes one where `create` says that nothing was sealed yet. A missing key beside sealed records is an error, not a
    /// reason to make another.
    pub(crate) fn open(path: &Path, create: bool) -> Result<Self, VaultError> {
        let fail = |source| VaultError::File { path: path.display().to_string(), source };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                if let Some(folder) = path.parent() {
                    files::private_dir(folder).map_err(fail)?;
                }
                let bytes: [u8; 32] = rand::random();
                files::replace(path, &bytes, files::SECRET).map_err(fail)?;
                bytes.to_vec()
            }
            Err(error) => return Err(fail(error)),
        };
        let key =
            UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| VaultError::Key(path.display().to_string()))?;
        Ok(Self { key: LessSafeKey::new(key), raw: bytes })
    }

    /// The key in base64, for another master of the fleet. A secret.
    pub(crate) fn key_text(&self) -> String {
        STANDARD.encode(&self.raw)
    }

    /// Seals `plain` for `place` (its key in the store and field); it opens nowhere else.
    pub(crate) fn seal(&self, place: &str, plain: &[u8]) -> Result<String, VaultError> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = plain.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| VaultError::Seal)?;
        Ok(STANDARD.encode([&[VERSION], nonce.as_slice(), &sealed].concat()))
    }

    /// Opens what was sealed for `place`.
    pub(crate) fn open_sealed(&self, place: &str, sealed: &str) -> Result<Vec<u8>, VaultError> {
        let wrong = || VaultError::Open(place.to_owned());
        let bytes = STANDARD.decode(sealed).map_err(|_| wrong())?;
        let (version, rest) = bytes.split_first().ok_or_else(wrong)?;
        let (nonce, content) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
        if *version != VERSION {
            return Err(wrong());
        }
        let mut content = content.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain =
            self.key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut content).map_err(|_| wrong())?;
        Ok(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn sealed_values_open_at_their_place_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity/master.key");
        assert!(matches!(Vault::open(&path, false), Err(VaultError::File { .. })));
        let vault = Vault::open(&path, true).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let sealed = vault.seal("ca/key", b"secret").unwrap();
        assert!(!sealed.contains("secret") && sealed != vault.seal("ca/key", b"secret").unwrap());
        let again = Vault::open(&path, true).unwrap();
        assert_eq!(again.open_sealed("ca/key", &sealed).unwrap(), b"secret");
        assert!(again.open_sealed("ca/other", &sealed).is_err());
        let mut flipped = STANDARD.decode(&sealed).unwrap();
        *flipped.last_mut().unwrap() ^= 1;
        for hostile in
            [STANDARD.encode(flipped), String::new(), "AQ==".into(), "!".into(), STANDARD.encode([9; 60])]
        {
            assert!(again.open_sealed("ca/key", &hostile).is_err());
        }
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(Vault::open(&path, true), Err(VaultError::Key(_))));
    }
}
