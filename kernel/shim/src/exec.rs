//! The helpers that enter a running container: `exec` runs a command there, `socket` makes a socket there.

use crate::channel;
use crate::failure::{At, Step, failed, refused};
use crate::files::path;
use crate::ids::{self, Ids};
use crate::init::report_failure;
use crate::supervise::decode_status;
use crate::sys::{self, Cloned};
use crate::task::{self, Image};
use crate::wire::{
    self, Confined, Exec, Exit, Failed, Flat, Pid, Reader, Reply, Request, Session, Socket, ns,
};
use crate::{cgroup, proc, session};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socket, socketpair,
};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// `plenum-shim exec`.
pub fn run_command() -> ExitCode {
    helper(|agent, request| match request {
        Request::Exec(exec) => command(agent, &exec, &[], None).map(|exit| Reply::Exited(Box::new(exit))),
        Request::Confined(confined) => {
            command(agent, &confined.exec, &confined.filter, None).map(|exit| Reply::Exited(Box::new(exit)))
        }
        Request::Session(session) => {
            let Confined { exec, filter } = &session.confined;
            command(agent, exec, filter, Some(&session)).map(|exit| Reply::Exited(Box::new(exit)))
        }
        _ => Err(refused("not a command", "")),
    })
}

/// `plenum-shim socket`. The descriptor travels with the reply's first byte.
pub fn run_socket() -> ExitCode {
    sys::reset_signals();
    sys::close_from(3);
    let mut agent = UnixStream::from(sys::adopt_fd(0));
    let request =
        channel::take_hello(&mut agent).and_then(|_| channel::read(&mut agent, wire::CONTROL_FRAME_MAX));
    let made = match request {
        Ok(Request::Socket(wanted)) => make_socket(&wanted),
        _ => return ExitCode::from(2),
    };
    let sent = match made {
        Ok(socket) => {
            let frame = wire::encode(&Reply::Done);
            let descriptors = [socket.as_raw_fd()];
            let control = [ControlMessage::ScmRights(&descriptors)];
            sendmsg::<()>(agent.as_raw_fd(), &[IoSlice::new(&frame)], &control, MsgFlags::MSG_NOSIGNAL, None)
                .is_ok()
        }
        Err(failure) => channel::write(&mut agent, &Reply::Failed(failure)).is_ok(),
    };
    if sent { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn helper(work: impl FnOnce(&UnixStream, Request) -> Step<Reply>) -> ExitCode {
    sys::reset_signals();
    sys::close_from(3);
    let mut agent = UnixStream::from(sys::adopt_fd(0));
    let request = channel::take_hello(&mut agent).and_then(|_| channel::read(&mut agent, wire::FRAME_MAX));
    let Ok(request) = request else { return ExitCode::from(2) };
    let reply = work(&agent, request).unwrap_or_else(Reply::Failed);
    match channel::write(&mut agent, &reply) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}

fn make_socket(wanted: &Socket) -> Step<OwnedFd> {
    join(&wanted.init, ns::NET)?;
    let family = if wanted.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None).at("make socket", "")
}

/// Enters namespaces of a process. Each is opened before the first is entered, for `/proc` may change, and the process
/// is checked to be the one that was meant after they are open.
fn join(who: &Pid, namespaces: u32) -> Step<()> {
    let table = [
        (ns::IPC, "ipc", CloneFlags::CLONE_NEWIPC),
        (ns::UTS, "uts", CloneFlags::CLONE_NEWUTS),
        (ns::NET, "net", CloneFlags::CLONE_NEWNET),
        (ns::CGROUP, "cgroup", CloneFlags::CLONE_NEWCGROUP),
        (ns::PID, "pid", CloneFlags::CLONE_NEWPID),
        (ns::MOUNT, "mnt", CloneFlags::CLONE_NEWNS),
    ];
    let mut open = Vec::new();
    for (bit, name, flag) in table {
        if namespaces & bit != 0 {
            let file = format!("/proc/{}/ns/{name}", who.pid);
            open.push((File::open(&file).at("open namespace", &file)?, name, flag));
        }
    }
    if !proc::alive(who) {
        return Err(failed("find container", who.pid.to_string(), Errno::ESRCH));
    }
    for (file, name, flag) in open {
        setns(file, flag).at("enter namespace", name)?;
    }
    Ok(())
}

fn command(agent: &UnixStream, exec: &Exec, filter: &[u8], session: Option<&Session>) -> Step<Exit> {
    let deadline = Instant::now() + Duration::from_millis(exec.deadline_ms.clamp(1, 86_400_000));
    let image = Image::new(&exec.process)?;
    let null = File::open("/dev/null").at("open", "/dev/null")?;
    // The group files are opened with the host's mounts and written by the child: the helper itself stays outside.
    let groups: Vec<File> = exec.groups.iter().filter_map(|dir| cgroup::door(path(dir)).ok()).collect();
    let ids = (exec.namespaces & ns::USER != 0).then(|| Ids::of(&exec.init)).transpose()?;
    let inside = ids.as_ref().map(|ids| ids.inside(&exec.process)).transpose()?;
    join(&exec.init, exec.namespaces)?;
    if session.is_none() {
        ids::give(&[1, 2], &exec.process, ids.as_ref());
    }
    let mut ends = session.map(|session| session::ends(session, &exec.process)).transpose()?;
    let (ours, report) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .at("set-up socket", "")?;
    match sys::clone(0, None).at("fork command", "")? {
        Cloned::Child => {
            drop(ours);
            let _tied = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
            for mut group in groups {
                let _group_of_a_dying_container = std::io::Write::write_all(&mut group, b"0");
            }
            let output = ends.as_ref().map_or([null.as_raw_fd(), 1, 2], session::Ends::of_command);
            let process = inside.as_ref().unwrap_or(&exec.process);
            let ends = (output, report.as_raw_fd());
            let failure = task::become_task(process, &image, filter, ends, ids.as_ref());
            report_failure_anywhere(report, &failure);
            sys::exit_now(70)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(report);
            if let Some(ends) = ends.take() {
                ends.hand_over(agent, &ours, deadline)?;
            }
            let end = wait(agent, session.is_some(), pid, &pidfd, deadline);
            conclude(&ours, pid, end)
        }
    }
}

fn report_failure_anywhere(report: OwnedFd, failure: &Failed) {
    report_failure(&report, failure);
    let moved = sys::adopt_fd(task::REPORT_FD);
    if report.as_raw_fd() != task::REPORT_FD {
        report_failure(&moved, failure);
    }
    std::mem::forget((report, moved));
}

/// Waits for the command, the deadline or the end of the agent, whichever is first, and says whether it was the command.
/// A session takes signals until then, and what its command leaves behind ends with it.
fn wait(agent: &UnixStream, session: bool, pid: i32, pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut fds =
            [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(agent.as_fd(), PollFlags::POLLIN)];
        let woken = poll(&mut fds, timeout);
        if matches!(woken, Err(Errno::EINTR)) {
            continue;
        }
        if matches!(woken, Ok(1..)) && fds[0].any().unwrap_or(true) {
            if session {
                // Until it is reaped nobody else's group has this number.
                let _gone = sys::kill(-pid, libc::SIGKILL);
            }
            return true;
        }
        if session
            && matches!(woken, Ok(1..))
            && let Ok(mut requests) = agent.try_clone()
            && let Ok(Request::Signal { signal }) = channel::read(&mut requests, wire::CONTROL_FRAME_MAX)
        {
            let _gone = sys::kill(-pid, signal);
            continue;
        }
        // The command has a session of its own; what it started in it goes with it.
        let _gone = sys::kill(-pid, libc::SIGKILL);
        let _gone = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
        return false;
    }
}

/// Reaps the command, and says how it ended or what kept it from beginning.
fn conclude(set_up: &OwnedFd, pid: i32, by_itself: bool) -> Step<Exit> {
    let status = sys::wait_raw(pid, true).at("wait for command", "")?.map_or(0, |(_, status)| status);
    let mut packet = vec![0; 64 * 1024];
    if let Ok(len @ 1..) = recv(set_up.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
        let failure = Failed::take(&mut Reader::new(packet.get(1..len).unwrap_or_default()));
        return Err(failure.unwrap_or_else(|_| refused("a step that cannot be named", "")));
    }
    Ok(Exit { timed_out: !by_itself, ..decode_status(status) })
}
