//! A command inside a container that is talked to: what it writes, what it reads, how it ends.

use crate::runtime::{ExitStatus, RuntimeError};
use crate::spec::Command;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A command for [`crate::Runtime::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The command.
    pub command: Command,
    /// Added to the task's environment.
    pub env: BTreeMap<String, String>,
    /// A terminal of this size instead of pipes.
    pub terminal: Option<Size>,
}

/// Something that the command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To standard output, or to its terminal.
    Stdout(Bytes),
    /// To standard error.
    Stderr(Bytes),
}

/// A running command. Dropping its [`Hold`] kills the command.
#[derive(Debug)]
pub struct Session {
    /// What it writes. It is held up while nobody reads here: nothing is lost and little is kept. Ends when the command
    /// and what it started have closed their ends.
    pub output: mpsc::Receiver<Output>,
    /// What it reads.
    pub input: Input,
    /// How it ended. An error if the helper was killed.
    pub exit: oneshot::Receiver<Result<ExitStatus, RuntimeError>>,
    /// What keeps it running.
    pub hold: Hold,
}

/// Keeps a command running, and passes signals to it. Dropping it kills the command with what it started.
#[derive(Debug)]
pub struct Hold(mpsc::Sender<i32>);

impl Hold {
    /// One, and the other end: signals, then the end of the stream when it is dropped.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<i32>) {
        let (signals, asked) = mpsc::channel(8);
        (Self(signals), asked)
    }

    /// Sends a signal to the command's process group. `false` when it has ended, or takes no signal so soon after others.
    #[must_use]
    pub fn signal(&self, signal: i32) -> bool {
        self.0.try_send(signal).is_ok()
    }
}

/// The way in.
#[derive(Debug)]
pub struct Input(pub(crate) Way);

/// A terminal is one descriptor for both directions.
#[derive(Debug)]
pub(crate) enum Way {
    Pipe(Option<pipe::Sender>),
    Terminal(Arc<AsyncFd<OwnedFd>>),
    /// The command is somebody else's: a pipe to who passes it on, and where sizes go if it has a terminal.
    Passed(Option<pipe::Sender>, Option<mpsc::Sender<Size>>),
}

/// End of transmission (control-D), which is how the end of input is said on a terminal.
const END: u8 = 4;

impl Input {
    /// One of a command that another program keeps: `pipe` takes the bytes, `sizes` the sizes of its terminal.
    #[must_use]
    pub fn passed(pipe: pipe::Sender, sizes: Option<mpsc::Sender<Size>>) -> Self {
        Self(Way::Passed(Some(pipe), sizes))
    }

    /// One that leads nowhere, to put in the place of one that is moved.
    #[must_use]
    pub fn closed() -> Self {
        Self(Way::Pipe(None))
    }

    /// Hands bytes to the command; waits while it does not read. An error (`BrokenPipe`) if it never will.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.0 {
            Way::Pipe(Some(pipe)) | Way::Passed(Some(pipe), _) => pipe.write_all(bytes).await,
            Way::Pipe(None) | Way::Passed(None, _) => Err(std::io::ErrorKind::BrokenPipe.into()),
            Way::Terminal(terminal) => {
                let mut left = bytes;
                while !left.is_empty() {
                    let mut ready = terminal.writable().await?;
                    let write = |fd: &AsyncFd<OwnedFd>| Ok(nix::unistd::write(fd.get_ref(), left)?);
                    if let Ok(written) = ready.try_io(write) {
                        left = left.get(written?..).unwrap_or_default();
                    }
                }
                Ok(())
            }
        }
    }

    /// Says that there is no more.
    pub async fn close(&mut self) -> std::io::Result<()> {
        match &mut self.0 {
            Way::Pipe(pipe) => {
                drop(pipe.take());
                Ok(())
            }
            Way::Passed(pipe, None) => {
                drop(pipe.take());
                Ok(())
            }
            Way::Terminal(_) | Way::Passed(_, Some(_)) => self.write(&[END]).await,
        }
    }

    /// Changes the size of the terminal; without one there is nothing to change.
    pub fn resize(&self, size: Size) -> std::io::Result<()> {
        match &self.0 {
            Way::Pipe(_) | Way::Passed(_, None) => Err(std::io::ErrorKind::Unsupported.into()),
            // Of many sizes at once only the last matters, and it comes when the window is still.
            Way::Passed(_, Some(sizes)) => {
                sizes.try_send(size).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
            }
            Way::Terminal(terminal) => {
                let fd = terminal.get_ref().as_fd();
                Ok(plenum_shim::sys::resize_terminal(fd, size.rows, size.columns)?)
            }
        }
    }
}
