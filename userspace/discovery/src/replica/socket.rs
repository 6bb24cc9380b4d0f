//! The stream of tables for the node's balancer: one JSON object a line over a Unix socket, first everything, then what changes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use plenum_base::service::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;

use super::Shared;
use super::core::VipTable;
use crate::feed::Protocol;
use crate::range::Range;

/// A reader that takes nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

/// One line of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// The publisher's life.
    pub epoch: u64,
    /// The step after which this holds.
    pub generation: u64,
    /// Whether `tables` is everything.
    #[serde(default)]
    pub whole: bool,
    /// The range of virtual addresses.
    pub range: Range,
    /// Tables as they are now.
    #[serde(default)]
    pub tables: Vec<VipTable>,
    /// Tables that are no longer.
    #[serde(default)]
    pub gone: Vec<Gone>,
}

/// A table that has no back end any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The transport.
    pub protocol: Protocol,
    /// The address.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
}

/// Serves readers until the end.
pub async fn serve(listener: UnixListener, shared: Shared, range: Range, shutdown: Shutdown) {
    while let Some(accepted) = shutdown.until(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let (shared, shutdown) = (shared.clone(), shutdown.clone());
                tokio::spawn(async move { shutdown.until(feed(stream, &shared, range)).await });
            }
            Err(error) => {
                tracing::warn!(%error, "a reader of tables could not be accepted");
                shutdown.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn feed(stream: UnixStream, shared: &Shared, range: Range) {
    let (mut reader, mut stream) = stream.into_split();
    let mut heard = [0; 64];
    let mut changes = shared.tables();
    let mut line = whole(shared, range);
    loop {
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        if !matches!(tokio::time::timeout(PATIENCE, stream.write_all(&text)).await, Ok(Ok(()))) {
            return;
        }
        let next = tokio::select! {
            next = changes.recv() => next,
            // The other side has nothing to say: what comes is its end.
            _ = reader.read(&mut heard) => return,
        };
        line = match next {
            Ok(keys) => {
                let mut keys: BTreeSet<_> = keys.iter().copied().collect();
                while let Ok(more) = changes.try_recv() {
                    keys.extend(more.iter().copied());
                }
                let replica = shared.read();
                let (epoch, generation) = replica.step();
                let mut line =
                    Tables { epoch, generation, whole: false, range, tables: vec![], gone: vec![] };
                for key in keys {
                    match replica.vip(&key) {
                        Some(table) => line.tables.push(table),
                        None => line.gone.push(Gone { protocol: key.0, address: key.1, port: key.2 }),
                    }
                }
                line
            }
            Err(RecvError::Lagged(_)) => {
                changes = changes.resubscribe();
                whole(shared, range)
            }
            Err(RecvError::Closed) => return,
        };
    }
}

fn whole(shared: &Shared, range: Range) -> Tables {
    let replica = shared.read();
    let (epoch, generation) = replica.step();
    Tables { epoch, generation, whole: true, range, tables: replica.vips().collect(), gone: Vec::new() }
}
