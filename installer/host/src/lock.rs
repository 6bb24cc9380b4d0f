//! One at a time on a host: the lock that whoever changes it holds.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::events::HostError;

/// Keeps a second `apply` or `remove` away for as long as it lives. The lock is on a folder that every host has: nothing is left behind.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] fs::File);

impl Lock {
    /// Takes it. One whose installer was killed goes on until it is through with what it does, and is waited for.
    ///
    /// # Errors
    /// [`HostError::Busy`] after [`Self::PATIENCE`].
    pub fn take() -> Result<Self, HostError> {
        let folder = Path::new("/var/lib");
        let file = fs::File::open(folder).map_err(HostError::at(folder))?;
        let end = Instant::now() + Self::PATIENCE;
        while file.try_lock().is_err() {
            if Instant::now() >= end {
                return Err(HostError::Busy);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self(file))
    }

    /// How long another one is waited for.
    const PATIENCE: Duration = Duration::from_secs(30);
}
