//! `plenum-shim launch`: takes the description, detaches from the agent, starts the container and answers.

use crate::channel;
use crate::failure::{At, Step, failed, refused};
use crate::files::{self, path};
use crate::ids::Ids;
use crate::init::{self, PACKET_FAILED, PACKET_TASK, PACKET_TERMINAL, PACKET_WARNING};
use crate::logs::Log;
use crate::supervise::{self, Container};
use crate::sys::{self, Cloned};
use crate::task::Image;
use crate::wire::{
    self, Contain, Failed, Flat, Group, Inside, Launch, Logs, More, Pid, Reader, Reply, Request, Size, State,
    ns,
};
use crate::{cgroup, join, proc};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg, send,
    setsockopt, socketpair, sockopt,
};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The name of the control socket in the runtime folder.
pub const CONTROL: &str = "control.sock";
/// The file with the launch description.
pub const LAUNCH: &str = "launch";
/// The file with the [`State`].
pub const STATE: &str = "state";
/// The file with the [`wire::Exit`].
pub const EXIT: &str = "exit";

/// The program.
pub fn run() -> ExitCode {
    sys::reset_signals();
    sys::close_from(3);
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let mut agent = UnixStream::from(sys::adopt_fd(0));
    let Ok((version, asked, raw)) = read_request(&mut agent) else { return ExitCode::from(2) };
    let listener = match claim(&asked.launch, &raw) {
        Ok(listener) => listener,
        Err(failure) => {
            let _agent_gone = channel::write(&mut agent, &Reply::Failed(failure));
            return ExitCode::from(1);
        }
    };
    drop(raw);
    let mut own = cgroup::birth_group(&asked.launch.own_groups);
    let forked = sys::clone(0, own.as_ref().map(AsFd::as_fd)).or_else(|errno| match own.take() {
        Some(_) => sys::clone(0, None),
        None => Err(errno),
    });
    match forked {
        Ok(Cloned::Parent { .. }) => ExitCode::SUCCESS,
        Ok(Cloned::Child) => supervisor(agent, listener, *asked, version, own.is_some()),
        Err(errno) => {
            let _agent_gone =
                channel::write(&mut agent, &Reply::Failed(failed("fork supervisor", "", errno)));
            ExitCode::from(1)
        }
    }
}

fn read_request(agent: &mut UnixStream) -> std::io::Result<(u16, Box<Contain>, Vec<u8>)> {
    let version = channel::take_hello(agent)?;
    let raw = channel::read_payload(agent, wire::FRAME_MAX)?;
    match wire::decode(&raw) {
        Ok(Request::Launch(launch)) => {
            let asked = Contain { launch: *launch, ..Contain::default() };
            Ok((version, Box::new(asked), raw))
        }
        Ok(Request::Contain(asked)) => Ok((version, asked, raw)),
        other => {
            let reason =
                other.err().map_or_else(|| "not a launch description".into(), |error| error.to_string());
            channel::write(agent, &Reply::Refused { reason: reason.clone() })?;
            Err(std::io::Error::other(reason))
        }
    }
}

/// Takes possession of the runtime folder. The socket appears under its name only once it is listened on, and `link`
/// refuses if the name is taken: by another shim, or by a recovering agent that has given this container up.
fn claim(launch: &Launch, raw: &[u8]) -> Step<UnixListener> {
    nix::unistd::chdir(path(&launch.run_dir)).at("runtime folder", &launch.run_dir)?;
    let temporary = format!("{CONTROL}.{}", std::process::id());
    let listener = UnixListener::bind(&temporary).at("bind control socket", &launch.run_dir)?;
    listener.set_nonblocking(true).at("bind control socket", "")?;
    let claimed = std::fs::hard_link(&temporary, CONTROL).at("claim control socket", &launch.run_dir);
    std::fs::remove_file(&temporary).at("bind control socket", &temporary)?;
    claimed?;
    let len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    let file = [&len.to_le_bytes(), raw].concat();
    files::write_atomic(LAUNCH, &file, false).at("save launch description", &launch.run_dir)?;
    Ok(listener)
}

fn supervisor(
    agent: UnixStream,
    listener: UnixListener,
    asked: Contain,
    version: u16,
    born: bool,
) -> ExitCode {
    sys::set_name(c"plenum-shim");
    let (mut agent, mut warnings) =
        match detach(agent, &cgroup::entered_by_write(&asked.launch.own_groups, born)) {
            Ok(detached) => detached,
            Err(_nobody_to_tell) => return ExitCode::from(1),
        };
    // An agent that has gone by now changes nothing: the container was asked for.
    let _agent_gone = channel::write(&mut agent, &channel::hello(version));
    match start(asked, &mut warnings) {
        Ok(container) => {
            let state = encode_state(&container.state);
            if let Err(error) = files::write_atomic(STATE, &state, false) {
                container.abandon();
                return fail(
                    agent,
                    &failed("save state", STATE, Errno::from_raw(error.raw_os_error().unwrap_or(0))),
                );
            }
            let _agent_gone = channel::write(&mut agent, &Reply::Launched(Box::new(container.state.clone())));
            sys::trim_memory();
            supervise::run(container, listener, agent)
        }
        Err(failure) => fail(agent, &failure),
    }
}

fn encode_state(state: &State) -> Vec<u8> {
    wire::encode(&Reply::Status(Box::new(state.clone())))
}

fn fail(mut agent: UnixStream, failure: &Failed) -> ExitCode {
    let _never_listened_to = std::fs::remove_file(CONTROL);
    let _agent_gone = channel::write(&mut agent, &Reply::Failed(failure.clone()));
    ExitCode::from(1)
}

/// A session and control groups of its own, and nothing of the agent's left open.
fn detach(agent: UnixStream, own_groups: &[Vec<u8>]) -> nix::Result<(UnixStream, Vec<String>)> {
    nix::unistd::setsid()?;
    let moved = nix::fcntl::fcntl(&agent, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10))?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    for fd in 0..3 {
        sys::dup_to(null.as_raw_fd(), fd, false)?;
    }
    // Descriptor 0 is /dev/null now; the stream object must not close it.
    std::mem::forget(agent);
    let mut warnings = Vec::new();
    cgroup::enter_all(own_groups.iter().map(|dir| path(dir)), &mut warnings);
    let _without_privilege = sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0);
    sys::spare_from_oom();
    Ok((UnixStream::from(sys::adopt_fd(moved)), warnings))
}

/// Makes the groups, clones init and waits for the task's `execve`.
fn start(asked: Contain, warnings: &mut Vec<String>) -> Step<Container> {
    let Contain { launch, inside, more } = asked;
    let image = Image::of_launch(&launch.process)?;
    let process = &launch.process;
    let ids = more.ids.as_ref().map(Ids::make).transpose()?;
    // On the disk files have the owners that they would have without a user namespace.
    let on_disk = ids.as_ref().map(|ids| ids.inside(process)).transpose()?;
    let on_disk = on_disk.as_ref().unwrap_or(process);
    let owner = process.change_user.then_some((on_disk.uid, on_disk.gid));
    let input = OwnedFd::from(std::fs::File::open("/dev/null").at("open", "/dev/null")?);
    // With a terminal the task writes to that, and to nothing else.
    let (logs, out, err) = match &more.terminal {
        None => outputs(&launch, &more, owner)?,
        Some(_) => (
            Vec::new(),
            input.try_clone().at("open", "/dev/null")?,
            input.try_clone().at("open", "/dev/null")?,
        ),
    };
    let output = [input, out, err];
    let groups = cgroup::create(&launch.groups, warnings);
    // The task may open its ends anew by `/dev/stdout`.
    crate::ids::give(&output.each_ref().map(AsRawFd::as_raw_fd)[1..], process, ids.as_ref());
    let own = Own { terminal: more.terminal.as_ref(), ids: ids.as_ref() };
    let started = start_in(&launch, &inside, &image, &groups, (output, own), warnings);
    if started.is_err() {
        cgroup::kill(&groups);
        cgroup::remove(&groups, Duration::from_secs(2));
    }
    let mut container = Container { logs, ..started? };
    if let Some(terminal) = &container.terminal {
        let copy = terminal.try_clone().at("open output file", "terminal")?;
        container.logs.push(Log::of_terminal(&launch.stdout, owner, more.logs.as_ref(), copy)?);
    }
    Ok(container)
}

/// Files for the task to write to, or pipes and who empties them.
fn outputs(launch: &Launch, more: &More, owner: Option<(u32, u32)>) -> Step<(Vec<Log>, OwnedFd, OwnedFd)> {
    // A file of the machine's could not be opened anew by whoever has ids of its own.
    let unlimited = more.ids.as_ref().map(|_| &crate::logs::NO_BUDGET);
    let mut logs = Vec::new();
    let mut open = |name: &[u8], budget: Option<&Logs>| -> Step<OwnedFd> {
        let Some(budget) = budget.filter(|_| !name.is_empty()) else {
            return files::open_output(name, owner).map(OwnedFd::from);
        };
        let (log, end) = Log::open(name, owner, budget)?;
        logs.push(log);
        Ok(end)
    };
    let all = more.logs.as_ref().or(unlimited);
    let (of_out, of_err) = (all, more.error_logs.as_ref().or(all));
    let out = open(&launch.stdout, of_out)?;
    // Two that rotate one file would be in each other's way.
    let err = if launch.stdout == launch.stderr && of_out.is_some() {
        out.try_clone().at("make pipes", "")?
    } else {
        open(&launch.stderr, of_err.filter(|_| launch.stdout != launch.stderr))?
    };
    Ok((logs, out, err))
}

/// What a container may have besides what each has.
#[derive(Clone, Copy)]
struct Own<'a> {
    terminal: Option<&'a Size>,
    ids: Option<&'a Ids>,
}

fn start_in(
    launch: &Launch,
    inside: &Inside,
    image: &Image,
    groups: &[Group],
    (output, own): ([OwnedFd; 3], Own<'_>),
    warnings: &mut Vec<String>,
) -> Step<Container> {
    let (ours, report) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .at("set-up socket", "")?;
    setsockopt(&ours, sockopt::PassCred, &true).at("set-up socket", "")?;
    let (status, status_in) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).at("status pipe", "")?;
    let mut birth = cgroup::birth_group(groups);
    let flags = clone_flags(made(launch.namespaces, inside));
    join::process_ids(inside)?;
    let mut enter = cgroup::entered_by_write(groups, birth.is_some());
    let mut cloned = sys::clone(flags, birth.as_ref().map(AsFd::as_fd));
    // Before Linux 5.7, or where the tree does not allow it, the group is entered a moment later.
    if cloned.is_err() && birth.take().is_some() {
        enter = cgroup::entered_by_write(groups, false);
        cloned = sys::clone(flags, None);
    }
    let cloned = cloned.at("clone into namespaces", format!("{flags:#x}"))?;
    let (pid, init_fd) = match cloned {
        Cloned::Child => {
            drop(ours);
            let status = status_in;
            let Own { terminal, ids } = own;
            init::run(init::Plan {
                launch,
                inside,
                image,
                enter: &enter,
                output,
                terminal,
                ids,
                report,
                status,
            })
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop((report, status_in, output));
    let deadline = Instant::now() + Duration::from_millis(launch.deadline_ms.clamp(100, 600_000));
    match await_task(&ours, pid, deadline, warnings) {
        Ok(Met { task, task_fd, terminal }) => {
            let state = describe(launch, (pid, task), own, groups, std::mem::take(warnings));
            let groups = groups.to_vec();
            Ok(Container { state, init_fd, task_fd, status, groups, logs: Vec::new(), terminal })
        }
        Err(failure) => {
            let _gone = sys::pidfd_signal(init_fd.as_fd(), libc::SIGKILL);
            let _reaped = sys::wait_raw(pid, true);
            Err(failure)
        }
    }
}

/// Namespaces that are new, not joined.
fn made(namespaces: u32, inside: &Inside) -> u32 {
    let shared = inside.share.as_ref().map_or(0, |share| share.namespaces);
    let network = if inside.network.is_some() { ns::NET } else { 0 };
    namespaces & !(shared | network)
}

fn clone_flags(namespaces: u32) -> u64 {
    let pairs = [
        (ns::PID, libc::CLONE_NEWPID),
        (ns::MOUNT, libc::CLONE_NEWNS),
        (ns::IPC, libc::CLONE_NEWIPC),
        (ns::UTS, libc::CLONE_NEWUTS),
        (ns::NET, libc::CLONE_NEWNET),
    ];
    pairs
        .iter()
        .filter(|(bit, _)| namespaces & bit != 0)
        .map(|(_, flag)| u64::from(flag.cast_unsigned()))
        .sum()
}

fn describe(
    launch: &Launch,
    (init, task): (i32, Pid),
    own: Own<'_>,
    groups: &[Group],
    warnings: Vec<String>,
) -> State {
    State {
        id: launch.id.clone(),
        boot_id: proc::boot_id(),
        shim: proc::identify(i32::try_from(std::process::id()).unwrap_or(0)).unwrap_or_default(),
        init: proc::identify(init).unwrap_or_default(),
        task,
        namespaces: launch.namespaces | own.ids.map_or(0, |_| ns::USER),
        groups: groups.iter().map(|group| group.dir.clone()).collect(),
        warnings,
    }
}

/// A task that runs.
struct Met {
    task: Pid,
    task_fd: OwnedFd,
    terminal: Option<OwnedFd>,
}

/// Follows the set-up until the socket ends (success) or a failure arrives.
fn await_task(from: &OwnedFd, init: i32, deadline: Instant, warnings: &mut Vec<String>) -> Step<Met> {
    let (mut task, mut terminal) = (None, None);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(refused("launch deadline passed before the task's program was running", "")),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(failed("wait for the task", "", errno)),
        }
        let (packet, sender, end) = receive(from)?;
        match packet.split_first() {
            None => break,
            Some((&PACKET_TERMINAL, _)) => terminal = end,
            Some((&PACKET_TASK, _)) => task = Some(meet(from, sender, init)?),
            Some((&PACKET_WARNING, text)) => warnings.push(String::from_utf8_lossy(text).into_owned()),
            Some((&PACKET_FAILED, body)) => {
                let failure = Failed::take(&mut Reader::new(body));
                return Err(failure.unwrap_or_else(|_| {
                    refused("a step that cannot be named (its subject is too long)", "")
                }));
            }
            Some(_) => return Err(refused("set-up protocol", "")),
        }
    }
    let (task, task_fd) = task.ok_or_else(|| refused("init ended before the task was started", ""))?;
    Ok(Met { task, task_fd, terminal })
}

/// Holds on to the task before it goes on.
fn meet(from: &OwnedFd, sender: Option<UnixCredentials>, init: i32) -> Step<(Pid, OwnedFd)> {
    const STEP: &str = "identify the task's process";
    let pid = sender.map_or(0, |credentials| credentials.pid());
    let fd = sys::pidfd_open(pid).at(STEP, pid.to_string())?;
    let stat = proc::stat(pid).filter(|stat| stat.parent == init);
    let stat = stat.ok_or_else(|| refused(STEP, pid.to_string()))?;
    send(from.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL).at(STEP, "")?;
    Ok((Pid { pid, start: stat.start }, fd))
}

/// A packet, who sent it, and a descriptor that came along.
fn receive(from: &OwnedFd) -> Step<(Vec<u8>, Option<UnixCredentials>, Option<OwnedFd>)> {
    const STEP: &str = "read set-up socket";
    let mut buffer = vec![0; 64 * 1024];
    let mut control = nix::cmsg_space!(UnixCredentials, [RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = message.at(STEP, "")?;
    let (mut sender, mut end) = (None, None);
    for control in message.cmsgs().at(STEP, "")? {
        match control {
            ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials),
            ControlMessageOwned::ScmRights(fds) => end = fds.first().map(|fd| sys::adopt_fd(*fd)),
            _ => {}
        }
    }
    let len = message.bytes;
    buffer.truncate(len);
    Ok((buffer, sender, end))
}
