//! Opening a session: the helper, the descriptors that it sends, and the tasks that read them.

use super::connection::{self, Inbox};
use super::helper::{self, Reaper, shutdown};
use super::{Inner, launch};
use crate::runtime::{Exit, ExitStatus, RuntimeError};
use crate::session::{Hold, Input, Open, Output, Session, Way};
use crate::spec::check_strings;
use bytes::Bytes;
use plenum_shim::wire::{self, Confined, Exec, Reply, Request};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

/// Pieces of output that wait for a reader before the command is held up.
const WAITING: usize = 8;
/// Size of a piece.
const PIECE: usize = 32 * 1024;
/// Time for the command to be running.
const PATIENCE: Duration = Duration::from_secs(10);

/// See [`crate::Runtime::open`].
pub async fn open(inner: &Arc<Inner>, id: &str, open: Open) -> Result<Session, RuntimeError> {
    let (_, state) = inner.running(id)?;
    check_strings(&open.command.argv(), &open.env)?;
    let (shim, dir) = (inner.config.shim.clone(), inner.dir(id));
    let terminal = open.terminal.map(|size| wire::Size { rows: size.rows, columns: size.columns });
    let begin = move || {
        let described = helper::process(&dir, &open.command, &open.env)?;
        Ok((described, launch::spawn(&shim, "exec", Stdio::null(), Stdio::null())?))
    };
    let begun: Result<_, RuntimeError> = tokio::task::spawn_blocking(begin).await.map_err(|_| shutdown())?;
    let ((process, filter), (child, mut stream)) = begun?;
    let reaper = Reaper(Some(child));
    let (init, namespaces, groups) = (state.init, state.namespaces, state.groups);
    let exec = Exec { init, namespaces, groups, process, deadline_ms: u64::MAX };
    let session = wire::Session { confined: Confined { exec, filter }, terminal };
    let _answer_says_why = connection::write(&mut stream, &connection::hello()).await;
    let _answer_says_why = connection::write(&mut stream, &Request::Session(Box::new(session))).await;
    let mut inbox = Inbox::default();
    let opened = tokio::time::timeout(PATIENCE, await_opened(&mut stream, &mut inbox)).await;
    let ends = opened.map_err(|_| RuntimeError::Deadline("opening a session".into()))??;
    connect(ends, stream, inbox, reaper)
}

/// Reads until the reply with the descriptors, or a refusal.
async fn await_opened(stream: &mut UnixStream, inbox: &mut Inbox) -> Result<Vec<OwnedFd>, RuntimeError> {
    loop {
        stream.readable().await.map_err(RuntimeError::io("waiting for a session"))?;
        match stream.try_io(tokio::io::Interest::READABLE, || receive(stream)) {
            Ok((ends, bytes)) => {
                inbox.feed(&bytes);
                if !ends.is_empty() {
                    // `Opened` is written in one call with them, and nothing comes before it.
                    return match inbox.next(stream).await {
                        Ok(Reply::Opened) => Ok(ends),
                        _ => Err(RuntimeError::Refused("the helper's answer makes no sense".into())),
                    };
                }
                return match inbox.next(stream).await {
                    Ok(Reply::Failed(failed)) => Err(RuntimeError::step(failed)),
                    Ok(Reply::Refused { reason }) => Err(RuntimeError::Refused(reason)),
                    Ok(_) => Err(RuntimeError::Refused("the helper sent no descriptors".into())),
                    Err(error) => {
                        Err(RuntimeError::Io { what: "the helper ended without an answer".into(), error })
                    }
                };
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(RuntimeError::Io { what: "receiving a session".into(), error }),
        }
    }
}

pub(super) fn receive(stream: &UnixStream) -> std::io::Result<(Vec<OwnedFd>, Vec<u8>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut frame = vec![0; 4096];
    let mut parts = [IoSliceMut::new(&mut frame)];
    let mut space = nix::cmsg_space!([RawFd; 3]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut ends = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just put these descriptors into our table; nobody else knows of them.
            #[allow(unsafe_code)]
            ends.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let len = message.bytes;
    frame.truncate(len);
    Ok((ends, frame))
}

fn connect(
    ends: Vec<OwnedFd>,
    stream: UnixStream,
    inbox: Inbox,
    reaper: Reaper,
) -> Result<Session, RuntimeError> {
    let bad = || RuntimeError::io("taking over a session");
    let (to, output) = mpsc::channel(WAITING);
    let mut ends = ends.into_iter();
    let input = match (ends.next(), ends.next(), ends.next()) {
        (Some(terminal), None, None) => {
            // SAFETY: an `OwnedFd` names the same open file until it is dropped, and nothing takes it out before.
            #[allow(unsafe_code)]
            let registered = unsafe { AsyncFd::register(terminal) };
            let terminal = Arc::new(registered.map_err(|error| bad()(error.into()))?);
            tokio::spawn(read_terminal(Arc::clone(&terminal), to));
            Way::Terminal(terminal)
        }
        (Some(input), Some(out), Some(err)) => {
            let (out, err) = (
                pipe::Receiver::from_owned_fd(out).map_err(bad())?,
                pipe::Receiver::from_owned_fd(err).map_err(bad())?,
            );
            tokio::spawn(read_pipe(out, to.clone(), Output::Stdout));
            tokio::spawn(read_pipe(err, to, Output::Stderr));
            Way::Pipe(Some(pipe::Sender::from_owned_fd(input).map_err(bad())?))
        }
        _ => return Err(RuntimeError::Refused("the helper sent too few descriptors".into())),
    };
    let (hold, signals) = Hold::new();
    let (end, exit) = oneshot::channel();
    tokio::spawn(follow(stream, inbox, reaper, end, signals));
    Ok(Session { output, input: Input(input), exit, hold })
}

/// Waits for the end of the command, or of the session: then the helper finds its socket closed and kills it.
async fn follow(
    mut stream: UnixStream,
    mut inbox: Inbox,
    reaper: Reaper,
    end: oneshot::Sender<Result<ExitStatus, RuntimeError>>,
    mut signals: mpsc::Receiver<i32>,
) {
    let answer = loop {
        tokio::select! {
            reply = inbox.next(&mut stream) => break match reply {
                Ok(Reply::Exited(exit)) => Ok(Exit::from_wire(&exit).status),
                Ok(Reply::Failed(failed)) => Err(RuntimeError::step(failed)),
                Ok(_) => Err(RuntimeError::Refused("the helper's answer makes no sense".into())),
                Err(error) => Err(RuntimeError::Io { what: "the helper ended without an answer".into(), error }),
            },
            signal = signals.recv() => match signal {
                Some(signal) => {
                    let _its_end_is_heard = connection::write(&mut stream, &Request::Signal { signal }).await;
                }
                None => break Ok(ExitStatus::Unknown),
            },
        }
    };
    drop(stream);
    let _nobody_waits = end.send(answer);
    drop(reaper);
}

async fn read_pipe(mut from: pipe::Receiver, to: mpsc::Sender<Output>, kind: fn(Bytes) -> Output) {
    let mut piece = vec![0; PIECE];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        let bytes = Bytes::copy_from_slice(piece.get(..n).unwrap_or_default());
        if to.send(kind(bytes)).await.is_err() {
            return;
        }
    }
}

/// A terminal that no program has open any more gives an error (`EIO`), which is its end.
async fn read_terminal(from: Arc<AsyncFd<OwnedFd>>, to: mpsc::Sender<Output>) {
    let mut piece = vec![0; PIECE];
    loop {
        let Ok(mut ready) = from.readable().await else { return };
        let read = ready.try_io(|fd| Ok(nix::unistd::read(fd.get_ref(), &mut piece)?));
        let bytes = match read {
            Err(_not_yet) => continue,
            Ok(Ok(n @ 1..)) => Bytes::copy_from_slice(piece.get(..n).unwrap_or_default()),
            Ok(_) => return,
        };
        if to.send(Output::Stdout(bytes)).await.is_err() {
            return;
        }
    }
}
