//! The ends of a command that is talked to: a terminal of the container's, or three pipes.

use crate::failure::{At, Step};
use crate::sys;
use crate::wire::{self, Process, Reply, Session, Size};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Both sides.
#[derive(Debug)]
pub struct Ends {
    command: Vec<OwnedFd>,
    agent: Vec<OwnedFd>,
}

/// Makes them; for a terminal the mount namespace is the container's already.
pub fn ends(session: &Session, process: &Process) -> Step<Ends> {
    match &session.terminal {
        Some(size) => terminal(size, process),
        None => pipes(process),
    }
}

fn terminal(size: &Size, process: &Process) -> Step<Ends> {
    let (master, peer) = open_terminal(size, process)?;
    Ok(Ends { command: vec![peer], agent: vec![master] })
}

/// A new terminal of the container's, whose mounts the caller has: our end, which does not block, and the programs'.
pub fn open_terminal(size: &Size, process: &Process) -> Step<(OwnedFd, OwnedFd)> {
    const STEP: &str = "open terminal";
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let master = open("/dev/ptmx", flags, Mode::empty()).at(STEP, "/dev/ptmx")?;
    let peer = sys::terminal_peer(master.as_fd()).at(STEP, "its other end")?;
    if process.change_user {
        fchown(&peer, Some(Uid::from_raw(process.uid)), None).at(STEP, "owner")?;
    }
    if (size.rows, size.columns) != (0, 0) {
        sys::resize_terminal(master.as_fd(), size.rows, size.columns).at(STEP, "size")?;
    }
    Ok((master, peer))
}

/// The command may open its ends anew by `/dev/stdout`, so they are its user's.
fn pipes(process: &Process) -> Step<Ends> {
    const STEP: &str = "make pipes";
    let mut made = Ends { command: Vec::new(), agent: Vec::new() };
    for index in 0..3 {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).at(STEP, "")?;
        let (theirs, ours) = if index == 0 { (read, write) } else { (write, read) };
        if process.change_user {
            let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
            fchown(&theirs, Some(uid), Some(gid)).at(STEP, "owner")?;
        }
        made.command.push(theirs);
        made.agent.push(ours);
    }
    Ok(made)
}

impl Ends {
    /// Standard input, output and error of the command.
    #[must_use]
    pub fn of_command(&self) -> [RawFd; 3] {
        let raw =
            |index: usize| self.command.get(index).or(self.command.first()).map_or(-1, AsRawFd::as_raw_fd);
        [raw(0), raw(1), raw(2)]
    }

    /// Sends the agent its ends once the command runs; keeps none. If it does not come to that, the failure is left to
    /// be read from `set_up`.
    pub fn hand_over(self, agent: &UnixStream, set_up: &OwnedFd, deadline: Instant) -> Step<()> {
        drop(self.command);
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let _ended_or_late = poll(&mut [PollFd::new(set_up.as_fd(), PollFlags::POLLIN)], timeout);
        let mut peeked = [0; 1];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        if !matches!(recv(set_up.as_raw_fd(), &mut peeked, flags), Ok(0)) {
            return Ok(());
        }
        let frame = wire::encode(&Reply::Opened);
        let descriptors: Vec<RawFd> = self.agent.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<()>(agent.as_raw_fd(), &[IoSlice::new(&frame)], &control, MsgFlags::MSG_NOSIGNAL, None)
            .map(drop)
            .at("hand over the session", "")
    }
}
