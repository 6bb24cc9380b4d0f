//! Helpers that enter a container: a command, or a socket for a probe.

use super::connection::{self, Inbox};
use super::{Inner, launch};
use crate::runtime::{Enter, Entered, ExitStatus, RuntimeError};
use crate::spec::{Command, check_strings};
use plenum_shim::launch::LAUNCH;
use plenum_shim::wire::{Confined, Exec, Process, Reply, Request, Socket, State, ns};
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;

/// Output of a command that is kept.
const OUTPUT_MAX: usize = 64 * 1024;

/// See [`crate::Runtime::enter`].
pub async fn enter(inner: &Arc<Inner>, id: &str, enter: Enter) -> Result<Entered, RuntimeError> {
    let (_, state) = inner.running(id)?;
    check_strings(&enter.command.argv(), &enter.env)?;
    let (inner, dir) = (Arc::clone(inner), inner.dir(id));
    let deadline = enter.deadline;
    let begin = move || {
        let process = process(&dir, &enter.command, &enter.env)?;
        let (read, write) = std::io::pipe().map_err(RuntimeError::io("making a pipe"))?;
        let both = write.try_clone().map_err(RuntimeError::io("making a pipe"))?;
        let shim = &inner.config.shim;
        let (child, stream) = launch::spawn(shim, "exec", Stdio::from(write), Stdio::from(both))?;
        Ok((process, child, stream, OwnedFd::from(read)))
    };
    let begun: Result<_, RuntimeError> = tokio::task::spawn_blocking(begin).await.map_err(|_| shutdown())?;
    let ((process, filter), child, mut stream, output) = begun?;
    let _guard = Reaper(Some(child));
    let output = tokio::net::unix::pipe::Receiver::from_owned_fd(output)
        .map_err(RuntimeError::io("reading a pipe"))?;
    let exec = Exec {
        init: state.init.clone(),
        namespaces: state.namespaces,
        groups: state.groups.clone(),
        process,
        deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
    };
    let request = match filter.is_empty() {
        true => Request::Exec(Box::new(exec)),
        false => Request::Confined(Box::new(Confined { exec, filter })),
    };
    let collected = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let reader = tokio::spawn(collect(output, Arc::clone(&collected)));
    let asked = tokio::time::timeout(deadline + Duration::from_secs(2), ask(&mut stream, request)).await;
    // The command may have left something in the background that holds the pipe open.
    let abort = reader.abort_handle();
    if tokio::time::timeout(Duration::from_millis(100), reader).await.is_err() {
        abort.abort();
    }
    let output = std::mem::take(&mut *collected.lock());
    match asked {
        Err(_) => Ok(Entered { status: ExitStatus::Unknown, timed_out: true, output }),
        Ok(Err(error)) => Err(error),
        Ok(Ok(Reply::Exited(exit))) => {
            let status = crate::runtime::Exit::from_wire(&exit).status;
            Ok(Entered { status, timed_out: exit.timed_out, output })
        }
        Ok(Ok(other)) => Err(RuntimeError::Refused(format!("an unexpected answer: {other:?}"))),
    }
}

pub fn shutdown() -> RuntimeError {
    RuntimeError::Refused("the work was abandoned by a shutdown".into())
}

/// Kills a helper that is still there when its caller has gone, and reaps it.
pub struct Reaper(pub Option<Child>);

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // A helper whose socket closes kills its command; it is given the time for that.
            tokio::task::spawn_blocking(move || {
                for _ in 0..100 {
                    if !matches!(child.try_wait(), Ok(None)) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                let _gone = child.kill();
                let _reaped = child.wait();
            });
        }
    }
}

/// The task's own description with another command.
pub fn process(
    dir: &std::path::Path,
    command: &Command,
    env: &BTreeMap<String, String>,
) -> Result<(Process, Vec<u8>), RuntimeError> {
    let file = dir.join(LAUNCH);
    let what = format!("reading {}", file.display());
    let (launch, filter) = match connection::read_file(&file).map_err(RuntimeError::io(what))? {
        Request::Launch(launch) => (*launch, Vec::new()),
        Request::Contain(contain) => (contain.launch, contain.inside.filter),
        _ => return Err(RuntimeError::Refused(format!("{} is not a launch description", file.display()))),
    };
    let mut process = launch.process;
    process.argv = command.argv();
    for (name, value) in env {
        let prefix = format!("{name}=");
        process.env.retain(|item| !item.starts_with(prefix.as_bytes()));
        process.env.push(format!("{prefix}{value}").into_bytes());
    }
    Ok((process, filter))
}

async fn ask(stream: &mut UnixStream, request: Request) -> Result<Reply, RuntimeError> {
    let _answer_says_why = connection::write(stream, &connection::hello()).await;
    let _answer_says_why = connection::write(stream, &request).await;
    match Inbox::default().next(stream).await {
        Ok(Reply::Failed(failed)) => Err(RuntimeError::step(failed)),
        Ok(Reply::Refused { reason }) => Err(RuntimeError::Refused(reason)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(RuntimeError::Io { what: "the helper ended without an answer".into(), error }),
    }
}

async fn collect(mut from: impl AsyncRead + Unpin, into: Arc<parking_lot::Mutex<Vec<u8>>>) {
    let mut part = vec![0; 4096];
    while let Ok(n @ 1..) = from.read(&mut part).await {
        let mut into = into.lock();
        let room = OUTPUT_MAX.saturating_sub(into.len()).min(n);
        into.extend_from_slice(part.get(..room).unwrap_or_default());
    }
}

/// A stream socket in the container's network, not yet connected.
pub async fn socket(inner: &Arc<Inner>, state: &State, v6: bool) -> Result<OwnedFd, RuntimeError> {
    if state.namespaces & ns::NET == 0 {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let made = socket(family, SockType::Stream, flags, None);
        return made
            .map_err(|errno| RuntimeError::Io { what: "making a socket".into(), error: errno.into() });
    }
    let shim = inner.config.shim.clone();
    let begin = move || launch::spawn(&shim, "socket", Stdio::null(), Stdio::null());
    let (child, mut stream) = tokio::task::spawn_blocking(begin).await.map_err(|_| shutdown())??;
    let _guard = Reaper(Some(child));
    let request = Request::Socket(Socket { init: state.init.clone(), v6 });
    let _answer_says_why = connection::write(&mut stream, &connection::hello()).await;
    let _answer_says_why = connection::write(&mut stream, &request).await;
    loop {
        stream.readable().await.map_err(RuntimeError::io("waiting for a socket"))?;
        match stream.try_io(tokio::io::Interest::READABLE, || receive(&stream)) {
            Ok((Some(socket), _)) => return Ok(socket),
            Ok((None, frame)) => return Err(refusal(&frame)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(RuntimeError::Io { what: "receiving a socket".into(), error }),
        }
    }
}

fn refusal(frame: &[u8]) -> RuntimeError {
    match plenum_shim::wire::decode(frame.get(4..).unwrap_or_default()) {
        Ok(Reply::Failed(failed)) => RuntimeError::step(failed),
        Ok(Reply::Refused { reason }) => RuntimeError::Refused(reason),
        _ => RuntimeError::Refused("the helper sent no socket".into()),
    }
}

/// The helper's only frame is small and was written in one call, with the descriptor.
fn receive(stream: &UnixStream) -> std::io::Result<(Option<OwnedFd>, Vec<u8>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut frame = vec![0; 4096];
    let mut parts = [IoSliceMut::new(&mut frame)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let received = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has just put this descriptor into our table; nobody else knows of it.
    #[allow(unsafe_code)]
    let socket = received.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let len = message.bytes;
    frame.truncate(len);
    Ok((socket, frame))
}
