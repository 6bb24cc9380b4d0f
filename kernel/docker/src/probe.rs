//! Connections from inside a container's network.

use crate::record::Record;
use nix::sched::{CloneFlags, setns};
use plenum_containers::{Probe, Probed, RuntimeError};
use std::time::Duration;
use tokio::net::TcpSocket;

/// See [`plenum_containers::Runtime::probe`].
pub async fn probe(record: &Record, probe: &Probe, deadline: Duration) -> Result<Probed, RuntimeError> {
    let attempt = async {
        let (Probe::Tcp { to } | Probe::Http { to, .. }) = probe;
        let (record, v6) = (record.clone(), to.is_ipv6());
        let made = tokio::task::spawn_blocking(move || socket(&record, v6)).await;
        let socket = made.map_err(|error| RuntimeError::Engine(error.to_string()))??;
        Ok(plenum_containers::native::through(socket, probe).await)
    };
    match tokio::time::timeout(deadline, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Ok(Probed::Failed(format!("no answer within {} ms", deadline.as_millis()))),
    }
}

/// A socket in the network of a process. The thread that goes there ends with it: threads of a pool must not stay in
/// somebody's network.
fn socket(record: &Record, v6: bool) -> Result<TcpSocket, RuntimeError> {
    if !record.alive() {
        return Err(RuntimeError::Ended(record.id.clone()));
    }
    let path = format!("/proc/{}/ns/net", record.pid);
    let what = format!("joining the network of container {}", record.id);
    let work = move || {
        setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        if v6 { TcpSocket::new_v6() } else { TcpSocket::new_v4() }
    };
    let thread = std::thread::Builder::new().name("docker-probe".into()).spawn(work);
    let made =
        thread.and_then(|thread| thread.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())));
    made.map_err(|error| RuntimeError::Io { what, error })
}
