//! PID 1 of the container: prepares the namespaces, forks the task, reaps what is orphaned, passes signals on.
//!
//! It ends when nothing is left to reap; with it ends the namespace and everything in it.

use crate::cgroup;
use crate::failure::{At, Step};
use crate::files::path;
use crate::ids::{self, Gate, Ids};
use crate::sys::{self, Cloned};
use crate::task::{self, Image};
use crate::wire::{Failed, Flat, Inside, Launch, Size, ns};
use crate::{join, mounts, session};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{ControlMessage, MsgFlags, recv, send, sendmsg};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

/// First byte of a packet: the task's process says who it is (its number is in the socket's credentials).
pub const PACKET_TASK: u8 = b'P';
/// A warning, as text.
pub const PACKET_WARNING: u8 = b'W';
/// The supervisor's end of the task's terminal comes along.
pub const PACKET_TERMINAL: u8 = b'T';
/// A failed step, flat.
pub const PACKET_FAILED: u8 = b'F';

/// What init works with.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The description.
    pub launch: &'a Launch,
    /// What version 2 adds.
    pub inside: &'a Inside,
    /// The checked command.
    pub image: &'a Image,
    /// Folders of the groups that are entered by a write.
    pub enter: &'a [Vec<u8>],
    /// Standard descriptors of the task.
    pub output: [OwnedFd; 3],
    /// A terminal of this size is to take their place.
    pub terminal: Option<&'a Size>,
    /// Its user namespace.
    pub ids: Option<&'a Ids>,
    /// Packets to the supervisor; closed by the task's `execve`.
    pub report: OwnedFd,
    /// Where the task's raw wait status goes.
    pub status: OwnedFd,
}

/// Runs in the freshly cloned process and never returns.
pub fn run(mut plan: Plan<'_>) -> ! {
    sys::set_name(c"plenum-init");
    sys::set_mask(true);
    let prepared = prepare(&plan).and_then(|()| terminal(&mut plan));
    let gate = match prepared.and_then(|()| plan.ids.map(|_| Gate::new()).transpose()) {
        Ok(gate) => gate,
        Err(failure) => give_up(&plan, &failure),
    };
    match sys::clone(0, None).at("fork task", "") {
        Ok(Cloned::Child) => {
            if let Some(gate) = gate {
                gate.wait();
            }
            run_task(&plan)
        }
        Ok(Cloned::Parent { pid, pidfd: _ }) => {
            if let Some(ids) = plan.ids
                && let Err(failure) = ids.become_root().and_then(|()| ids::tie(&plan.report))
            {
                give_up(&plan, &failure);
            }
            drop(gate);
            let named = own_ids(plan.launch);
            keep_only(&plan);
            sys::trim_memory();
            attend(pid, named)
        }
        Err(failure) => give_up(&plan, &failure),
    }
}

fn give_up(plan: &Plan<'_>, failure: &Failed) -> ! {
    report_failure(&plan.report, failure);
    sys::exit_now(70)
}

/// Tells the supervisor of a failure.
pub fn report_failure(report: &OwnedFd, failure: &Failed) {
    let mut packet = vec![PACKET_FAILED];
    failure.put(&mut packet);
    packet.truncate(60_000);
    let _supervisor_gone = send(report.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL);
}

/// Whether init is PID 1 of ids that are the container's own.
fn own_ids(launch: &Launch) -> bool {
    launch.namespaces & (ns::PID | ns::PID_SHARED) == ns::PID
}

fn prepare(plan: &Plan<'_>) -> Step<()> {
    let launch = plan.launch;
    // Nothing runs unseen: without its supervisor a container ends.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).at("tie to supervisor", "")?;
    if !own_ids(launch) {
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).at("adopt orphans", "")?;
    }
    join::others(plan.inside)?;
    let mut warnings = Vec::new();
    cgroup::enter_all(plan.enter.iter().map(|dir| path(dir)), &mut warnings);
    for warning in warnings {
        warn(plan, &warning)?;
    }
    if launch.namespaces & ns::CGROUP != 0 {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).at("control group namespace", "")?;
    }
    if plan.ids.is_some()
        && launch.namespaces & ns::NET != 0
        && let Err(error) = ids::open_ports()
    {
        warn(plan, &format!("ports below 1024 are not the container's: {error}"))?;
    }
    // Killing init kills the container, so the kernel had better choose the task. Lowering the score needs a privilege
    // that a machine may withhold; then init takes its chance with the rest (see `Isolation`).
    sys::spare_from_oom();
    if launch.namespaces & ns::MOUNT != 0 {
        mounts(plan)?;
    }
    if launch.namespaces & ns::UTS != 0
        && let Some(name) = &launch.hostname
    {
        nix::unistd::sethostname(name).at("host name", name)?;
    }
    if launch.namespaces & ns::NET != 0 && plan.inside.network.is_none() {
        sys::loopback_up().at("loopback device", "lo")?;
    }
    Ok(())
}

fn warn(plan: &Plan<'_>, warning: &str) -> Step<()> {
    let packet = [&[PACKET_WARNING], warning.as_bytes()].concat();
    send(plan.report.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL).at("report warning", "").map(drop)
}

/// The terminal is one of the container's own, so it is opened here; the supervisor reads what the task writes there.
fn terminal(plan: &mut Plan<'_>) -> Step<()> {
    const STEP: &str = "hand over the terminal";
    let Some(size) = plan.terminal else { return Ok(()) };
    let (ours, theirs) = session::open_terminal(size, &plan.launch.process)?;
    let descriptors = [ours.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let packet = [IoSlice::new(&[PACKET_TERMINAL])];
    sendmsg::<()>(plan.report.as_raw_fd(), &packet, &control, MsgFlags::MSG_NOSIGNAL, None).at(STEP, "")?;
    let copy = || theirs.try_clone().at(STEP, "");
    plan.output = [copy()?, copy()?, copy()?];
    Ok(())
}

/// Our mounts stay inside; an unmount on the host still reaches the container, so that no device is held busy by it.
fn mounts(plan: &Plan<'_>) -> Step<()> {
    let launch = plan.launch;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).at("private mounts", "/")?;
    if plan.inside.root.is_some() {
        if let Some(ids) = plan.ids {
            ids.act()?;
            ids::tie(&plan.report)?;
        }
        mounts::image(plan.inside, plan.ids)?;
        if let Some(ids) = plan.ids {
            ids.rest();
            ids::tie(&plan.report)?;
        }
        return Ok(());
    }
    if launch.namespaces & ns::PID != 0 {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, none).at("mount", "/proc")?;
    }
    const TARGET: &str = "/etc/resolv.conf";
    // A machine that has none, or a link that leads nowhere, has no place to show one at: no reason not to run.
    let file = launch.resolv_conf.as_ref().filter(|_| std::path::Path::new(TARGET).exists());
    if let Some(file) = file {
        mount(Some(path(file)), TARGET, none, MsFlags::MS_BIND, none)
            .at("bind over /etc/resolv.conf", file)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, TARGET, none, flags, none).at("make read-only", TARGET)?;
    }
    if plan.inside.mounts.is_empty() { Ok(()) } else { mounts::on_host(plan.inside) }
}

fn run_task(plan: &Plan<'_>) -> ! {
    let failure = introduce(plan).err().unwrap_or_else(|| {
        let output = match plan.terminal {
            // One descriptor three times is a terminal.
            Some(_) => [plan.output[0].as_raw_fd(); 3],
            None => plan.output.each_ref().map(AsRawFd::as_raw_fd),
        };
        let filter = &plan.inside.filter;
        let ids = plan.ids.map(|ids| (ids, ids.inside(&plan.launch.process)));
        match ids {
            None => {
                let process = &plan.launch.process;
                task::become_task(process, plan.image, filter, (output, plan.report.as_raw_fd()), None)
            }
            Some((_, Err(failure))) => failure,
            Some((ids, Ok(process))) => {
                let ends = (output, plan.report.as_raw_fd());
                task::become_task(&process, plan.image, filter, ends, Some(ids))
            }
        }
    });
    // The report socket is either where it was or, after the descriptors were rearranged, at REPORT_FD.
    let mut packet = vec![PACKET_FAILED];
    failure.put(&mut packet);
    packet.truncate(60_000);
    if send(plan.report.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL).is_err() {
        let _supervisor_gone = send(task::REPORT_FD, &packet, MsgFlags::MSG_NOSIGNAL);
    }
    sys::exit_now(70)
}

/// Shows the supervisor who the task is and waits until it holds a descriptor of it: from then on the number cannot be
/// mistaken, however short-lived the task.
fn introduce(plan: &Plan<'_>) -> Step<()> {
    if !own_ids(plan.launch) {
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0).at("tie to init", "")?;
    }
    const STEP: &str = "introduce task to supervisor";
    send(plan.report.as_raw_fd(), &[PACKET_TASK], MsgFlags::MSG_NOSIGNAL).at(STEP, "")?;
    let mut answer = [0; 1];
    match recv(plan.report.as_raw_fd(), &mut answer, MsgFlags::empty()).at(STEP, "")? {
        0 => Err(crate::failure::refused("introduce task to supervisor: it has gone", "")),
        _ => Ok(()),
    }
}

const STATUS_FD: i32 = 3;

/// Init keeps the status pipe and nothing else.
fn keep_only(plan: &Plan<'_>) {
    // Where it has a terminal, init must not keep it open, nor belong to it.
    let null = match plan.terminal {
        Some(_) => std::fs::File::open("/dev/null").ok().map(|file| file.into_raw_fd()),
        None => Some(plan.output[0].as_raw_fd()),
    };
    for fd in 0..3 {
        let Some(null) = null else { break };
        let _cannot_fail = sys::dup_to(null, fd, false);
    }
    let _cannot_fail = sys::dup_to(plan.status.as_raw_fd(), STATUS_FD, true);
    sys::close_from(4);
    let _at_root = nix::unistd::chdir("/");
}

/// The loop of PID 1.
fn attend(task: i32, own_pid_namespace: bool) -> ! {
    let mut running = true;
    loop {
        loop {
            match sys::wait_raw(-1, false) {
                Ok(Some((pid, status))) if pid == task => {
                    running = false;
                    write_status(status);
                }
                Ok(Some(_orphan)) => {}
                Ok(None) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_nobody_left) => sys::exit_now(0),
            }
        }
        let signal = sys::next_signal();
        // After the task is reaped its number may be reused, but only by the container's own processes, and only if
        // the container has numbers of its own.
        if passes(signal) && (running || own_pid_namespace) {
            let _nobody_there = sys::kill(-task, signal);
        }
    }
}

fn passes(signal: i32) -> bool {
    use libc::{SIGCHLD, SIGPIPE, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    signal > 0 && ![SIGCHLD, SIGPIPE, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU].contains(&signal)
}

fn write_status(status: i32) {
    let mut pipe = std::mem::ManuallyDrop::new(std::fs::File::from(sys::adopt_fd(STATUS_FD)));
    let _supervisor_gone = std::io::Write::write_all(&mut *pipe, &status.to_le_bytes());
}
