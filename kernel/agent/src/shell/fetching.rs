//! Filling a sandbox with what a command names in its URIs.

use std::path::Path;

use plenum_api::mesos::CommandInfo;

/// Fetches everything, in order. The owner is who the files shall belong to.
pub(super) async fn fetch(
    command: &CommandInfo,
    _sandbox: &Path,
    _owner: Option<(u32, u32)>,
) -> Result<(), String> {
    match command.uris.first() {
        None => Ok(()),
        Some(uri) => Err(format!("{}: not fetched", uri.value)),
    }
}
