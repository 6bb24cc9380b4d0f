//! The supervisor's loop: watches init, answers agents, carries out kills, records the end.

use crate::channel;
use crate::files;
use crate::launch::{CONTROL, EXIT};
use crate::logs::Log;
use crate::sys;
use crate::wire::{self, Appended, Exit, Group, Reply, Request, State, ns};
use crate::{cgroup, proc};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg, sockopt};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// More agents than this at a time are turned away.
const CLIENTS_MAX: usize = 16;

/// A started container.
#[derive(Debug)]
pub struct Container {
    /// As reported.
    pub state: State,
    /// Init.
    pub init_fd: OwnedFd,
    /// The task.
    pub task_fd: OwnedFd,
    /// Read end of the pipe for the task's wait status.
    pub status: OwnedFd,
    /// Control groups that exist.
    pub groups: Vec<Group>,
    /// Output that goes through us.
    pub logs: Vec<Log>,
    /// Our end of the task's terminal.
    pub terminal: Option<OwnedFd>,
}

impl Container {
    /// Kills and removes what was just started.
    pub fn abandon(&self) {
        self.kill_everything();
        let _reaped = sys::wait_raw(self.state.init.pid, true);
        cgroup::remove(&self.groups, Duration::from_secs(2));
    }

    fn named(&self) -> bool {
        self.state.namespaces & (ns::PID | ns::PID_SHARED) == ns::PID
    }

    /// The end of init is the end of its PID namespace, with everything in it. Without a namespace, the processes are
    /// found through the groups, or as descendants (which init and supervisor adopt).
    fn kill_everything(&self) {
        if self.named() {
            let _gone = sys::pidfd_signal(self.init_fd.as_fd(), libc::SIGKILL);
        } else if !cgroup::kill(&self.groups) {
            for pid in proc::descendants(self.state.init.pid) {
                let _gone = sys::kill(pid, libc::SIGKILL);
            }
        }
    }
}

struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    greeted: bool,
    subscribed: bool,
}

impl Client {
    fn new(stream: UnixStream, launcher: bool) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        Some(Self { stream, buffer: Vec::new(), greeted: launcher, subscribed: launcher })
    }

    /// Gives it a descriptor; false if it cannot be written to.
    fn hand_over(&self, end: &OwnedFd) -> bool {
        let frame = wire::encode(&Reply::Opened);
        let descriptors = [end.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&descriptors)];
        let sent = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(&frame)],
            &control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        sent.is_ok()
    }

    /// False if it cannot be written to: replies are small, so the kernel's buffer holds them, or nobody reads.
    fn tell(&mut self, reply: &Reply) -> bool {
        self.stream.write_all(&wire::encode(reply)).is_ok()
    }
}

struct Supervisor {
    container: Container,
    task_status: Option<i32>,
    /// Init has closed its end of the pipe: there is nothing to wait for on ours. It dies a while before it can be reaped, and an
    /// ended pipe would wake us all that time.
    status_ended: bool,
    kill_requested: bool,
    escalated: bool,
    escalate_at: Option<Instant>,
    /// When to kill again, for what was forked during the last time. Only without a PID namespace.
    sweep_at: Option<Instant>,
}

/// Runs until the container has ended and the end is on record.
pub fn run(container: Container, listener: UnixListener, agent: UnixStream) -> ExitCode {
    let mut clients: Vec<Client> = Client::new(agent, true).into_iter().collect();
    let mut me = Supervisor {
        container,
        task_status: None,
        status_ended: false,
        kill_requested: false,
        escalated: false,
        escalate_at: None,
        sweep_at: None,
    };
    let init_status = me.watch(&listener, &mut clients);
    let exit = me.conclude(init_status);
    let mut recorded = record(&exit);
    for client in clients.iter_mut().filter(|client| client.subscribed) {
        client.tell(&Reply::Exited(Box::new(exit.clone())));
    }
    drop(clients);
    // A full disk must not lose the end of a task: it stays here until it can be written down.
    while !recorded {
        serve_ended(&listener, &exit);
        recorded = record(&exit);
    }
    let _removed_by_agent = std::fs::remove_file(CONTROL);
    ExitCode::SUCCESS
}

fn record(exit: &Exit) -> bool {
    match files::write_atomic(EXIT, &wire::encode(&Reply::Exited(Box::new(exit.clone()))), true) {
        Ok(()) => true,
        // The whole folder was removed: nobody will ask.
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

fn serve_ended(listener: &UnixListener, exit: &Exit) {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let _timeout_or_client = poll(&mut fds, PollTimeout::from(2000u16));
    if let Ok((mut stream, _)) = listener.accept() {
        let _best_effort = stream.set_write_timeout(Some(Duration::from_secs(1)));
        let _best_effort = channel::write(&mut stream, &channel::hello(wire::VERSION));
        let _best_effort = channel::write(&mut stream, &Reply::Exited(Box::new(exit.clone())));
    }
}

impl Supervisor {
    /// The loop; ends with init's raw wait status.
    fn watch(&mut self, listener: &UnixListener, clients: &mut Vec<Client>) -> i32 {
        loop {
            let ready = self.wait(listener, clients);
            if ready.status {
                self.read_task_status();
            }
            if ready.init
                && let Ok(Some((_, status))) = sys::wait_raw(self.container.state.init.pid, false)
            {
                self.read_task_status();
                return status;
            }
            for (log, ready) in self.container.logs.iter_mut().zip(&ready.logs) {
                if *ready {
                    log.serve();
                }
            }
            if self.escalate_at.is_some_and(|at| at <= Instant::now()) {
                self.escalate_at = None;
                self.escalated = true;
                self.kill_everything();
            }
            if self.sweep_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_everything();
            }
            for (client, ready) in std::mem::take(clients).into_iter().zip(ready.clients) {
                if let Some(client) = self.serve(client, ready) {
                    clients.push(client);
                }
            }
            if ready.listener {
                accept(listener, clients);
            }
        }
    }

    fn wait(&self, listener: &UnixListener, clients: &[Client]) -> Ready {
        let now = Instant::now();
        let logs = &self.container.logs;
        let rests = logs.iter().filter_map(|log| log.rests_until(now));
        let timeout = match self.escalate_at.into_iter().chain(self.sweep_at).chain(rests).min() {
            Some(at) => PollTimeout::try_from(at.saturating_duration_since(now) + Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let want = |wanted: bool| if wanted { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::new(listener.as_fd(), want(clients.len() < CLIENTS_MAX)),
            PollFd::new(self.container.init_fd.as_fd(), PollFlags::POLLIN),
        ];
        let watch_status = self.task_status.is_none() && !self.status_ended;
        if watch_status {
            fds.push(PollFd::new(self.container.status.as_fd(), PollFlags::POLLIN));
        }
        let first_log = fds.len();
        let awaited: Vec<bool> = logs.iter().map(|log| log.awaited(now).is_some()).collect();
        fds.extend(
            logs.iter().filter_map(|log| log.awaited(now)).map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)),
        );
        let first_client = fds.len();
        fds.extend(clients.iter().map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN)));
        if !matches!(poll(&mut fds, timeout), Ok(1..)) {
            return Ready { clients: vec![false; clients.len()], ..Ready::default() };
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let mut of_logs = fds[first_log..first_client].iter().map(ready);
        Ready {
            logs: awaited.iter().map(|awaited| *awaited && of_logs.next().unwrap_or(false)).collect(),
            listener: ready(&fds[0]),
            init: ready(&fds[1]),
            status: watch_status && ready(&fds[2]),
            clients: fds[first_client..].iter().map(ready).collect(),
        }
    }

    /// The task has ended. What it left behind is killed, unless a grace period is running: then it may finish too.
    fn read_task_status(&mut self) {
        if self.task_status.is_some() {
            return;
        }
        let mut raw = [0; 4];
        match nix::unistd::read(&self.container.status, &mut raw) {
            Ok(4) => {
                self.task_status = Some(i32::from_le_bytes(raw));
                if self.escalate_at.is_none() {
                    self.kill_everything();
                }
            }
            Err(Errno::EINTR) => {}
            _ => self.status_ended = true,
        }
    }

    fn kill_everything(&mut self) {
        self.container.kill_everything();
        if !self.container.named() {
            self.sweep_at = Some(Instant::now() + Duration::from_millis(50));
        }
    }

    fn serve(&mut self, mut client: Client, ready: bool) -> Option<Client> {
        if !ready {
            return Some(client);
        }
        let mut part = [0; 4096];
        match client.stream.read(&mut part) {
            Ok(0) => return None,
            Ok(n) => client.buffer.extend_from_slice(&part[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Some(client);
            }
            Err(_) => return None,
        }
        while let Some(head) = client.buffer.first_chunk::<4>() {
            let len = wire::payload_len(*head, wire::CONTROL_FRAME_MAX).ok()?;
            let Some(payload) = client.buffer.get(4..4 + len) else { break };
            let request = wire::decode::<Request>(payload);
            client.buffer.drain(..4 + len);
            let reply = match request {
                Ok(Request::Terminal) if client.greeted => match &self.container.terminal {
                    Some(terminal) if client.hand_over(terminal) => continue,
                    Some(_) => return None,
                    None => Reply::Refused { reason: "the task has no terminal".into() },
                },
                Ok(request) => self.answer(&mut client, request),
                Err(malformed) => Reply::Refused { reason: malformed.to_string() },
            };
            if !client.tell(&reply) {
                return None;
            }
        }
        client.buffer.shrink_to(1024);
        Some(client)
    }

    fn answer(&mut self, client: &mut Client, request: Request) -> Reply {
        let refused = |reason: &str| Reply::Refused { reason: reason.into() };
        match request {
            Request::Hello { min, max } => match wire::common_version(min, max) {
                Some(version) => {
                    client.greeted = true;
                    channel::hello(version)
                }
                None => Reply::Refused { reason: channel::no_common_version(min, max) },
            },
            _ if !client.greeted => refused("a connection opens with a hello"),
            Request::Status => Reply::Status(Box::new(self.container.state.clone())),
            Request::Subscribe => {
                client.subscribed = true;
                Reply::Done
            }
            Request::Signal { signal } => {
                if self.task_status.is_some() {
                    return refused("the task has ended");
                }
                outcome(sys::pidfd_signal(self.container.task_fd.as_fd(), signal))
            }
            Request::Kill { signal, grace_ms } => self.kill(signal, grace_ms),
            Request::Launch(_)
            | Request::Contain(_)
            | Request::Exec(_)
            | Request::Confined(_)
            | Request::Session(_)
            | Request::Socket(_)
            | Request::Terminal => refused("not on a control socket"),
        }
    }

    /// A later kill may shorten the grace period, never lengthen it.
    fn kill(&mut self, signal: i32, grace_ms: u64) -> Reply {
        if signal == libc::SIGSTOP {
            return Reply::Refused { reason: "SIGSTOP ends nothing".into() };
        }
        self.kill_requested = true;
        if signal == libc::SIGKILL {
            self.kill_everything();
            return Reply::Done;
        }
        let end = Instant::now().checked_add(Duration::from_millis(grace_ms));
        let end = end.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400 * 365));
        if !self.escalated {
            self.escalate_at = Some(self.escalate_at.map_or(end, |at| at.min(end)));
        }
        // Init passes it on to the task's process group.
        outcome(sys::pidfd_signal(self.container.init_fd.as_fd(), signal))
    }

    /// Everything is dead or about to be: count, tidy up, put the end into words.
    fn conclude(&mut self, init_status: i32) -> Exit {
        if !self.container.named() {
            self.reap_adopted();
        }
        self.container.logs.iter_mut().for_each(Log::finish);
        let counted = cgroup::count(&self.container.groups);
        cgroup::remove(&self.container.groups, Duration::from_secs(1));
        let init_died = self.task_status.is_none() && !self.kill_requested;
        let status = match self.task_status {
            Some(status) => status,
            None if self.kill_requested => libc::SIGKILL,
            None => init_status,
        };
        let mut exit = decode_status(status);
        exit.oom_kills = counted.oom_kills;
        exit.cpu_ns = counted.cpu_ns;
        exit.memory_peak = counted.memory_peak;
        exit.forks_refused = Appended(counted.forks_refused);
        exit.kill_requested = self.kill_requested;
        exit.escalated = self.escalated;
        exit.init_died = init_died;
        exit
    }

    /// Without a PID namespace, what init left behind is ours now.
    fn reap_adopted(&self) {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            for pid in proc::descendants(me) {
                let _gone = sys::kill(pid, libc::SIGKILL);
            }
            match sys::wait_raw(-1, false) {
                Err(Errno::ECHILD) => return,
                Ok(Some(_)) => {}
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

#[derive(Default)]
struct Ready {
    listener: bool,
    init: bool,
    status: bool,
    clients: Vec<bool>,
    logs: Vec<bool>,
}

fn outcome(result: nix::Result<()>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(Errno::ESRCH) => Reply::Refused { reason: "the task has ended".into() },
        Err(errno) => Reply::Refused { reason: format!("the kernel refused the signal: {errno}") },
    }
}

fn accept(listener: &UnixListener, clients: &mut Vec<Client>) {
    let Ok((stream, _)) = listener.accept() else { return };
    // The socket's mode and folder say the same; a descriptor that was passed on does not get past this.
    let me = nix::unistd::geteuid().as_raw();
    let allowed =
        getsockopt(&stream, sockopt::PeerCredentials).is_ok_and(|peer| peer.uid() == me || peer.uid() == 0);
    if allowed {
        clients.extend(Client::new(stream, false));
    }
}

/// A raw wait status in words, with the time of day.
#[must_use]
pub fn decode_status(status: i32) -> Exit {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (code, signal) = if libc::WIFEXITED(status) {
        (Some(libc::WEXITSTATUS(status)), None)
    } else {
        (None, Some(libc::WTERMSIG(status)))
    };
    Exit { code, signal, finished_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX), ..Exit::default() }
}
