//! Filling a sandbox with what a command names in its URIs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use plenum_api::mesos::CommandInfo;
use plenum_containers::fetch::{self, FetchOptions, FetchUri};

/// Fetches everything, in order. The owner is who the files shall belong to.
pub(super) async fn fetch(
    command: &CommandInfo,
    sandbox: &Path,
    owner: Option<(u32, u32)>,
    deadline: Duration,
) -> Result<(), String> {
    let uris: Vec<FetchUri> = command
        .uris
        .iter()
        .map(|uri| FetchUri {
            value: uri.value.clone(),
            extract: uri.extract(),
            executable: uri.executable(),
            output_file: uri.output_file.clone(),
        })
        .collect();
    if uris.is_empty() {
        return Ok(());
    }
    let options = FetchOptions { owner, deadline, ..FetchOptions::default() };
    let silent: fetch::Listener = Arc::new(|_| {});
    fetch::fetch(&uris, sandbox, &options, silent).await.map(drop).map_err(|error| error.to_string())
}
