//! Deaths that the node's own agent tells before any master knows of them: one datagram each on a Unix socket, `{"framework", "task"}` as JSON.
//! Nothing waits for them and none is repeated: what is lost here comes from the publisher a little later.

use std::io;
use std::path::Path;

use plenum_base::service::Shutdown;
use serde::Deserialize;
use tokio::net::UnixDatagram;

use crate::replica::Shared;

/// A task that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Ended {
    /// The framework's id.
    pub framework: String,
    /// The task's id.
    pub task: String,
}

/// Makes the socket, in place of one that an earlier life left.
///
/// # Errors
/// What the operating system says.
pub fn bind(path: &Path) -> io::Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixDatagram::bind(path)
}

/// Takes tasks out of names and tables as their deaths are told, until the end. The folder's mode says who may tell.
pub async fn hear(socket: UnixDatagram, shared: Shared, shutdown: Shutdown) {
    let mut buffer = vec![0; 8192];
    while let Some(received) = shutdown.until(socket.recv(&mut buffer)).await {
        let length = match received {
            Ok(length) => length,
            Err(error) => {
                tracing::warn!(%error, "deaths on this node are heard of from the master only");
                return;
            }
        };
        match serde_json::from_slice::<Ended>(buffer.get(..length).unwrap_or_default()) {
            Ok(ended) => {
                if shared.bury(&ended.framework, &ended.task) {
                    tracing::debug!(task = ended.task, "it ended on this node");
                }
            }
            Err(error) => tracing::debug!(%error, "a death that is not understood"),
        }
    }
}
