//! From a forked child to the task's program: user, capabilities, limits, descriptors, `execve`.

use crate::failure::{At, Step, failed, refused};
use crate::files::path;
use crate::ids::{self, Ids};
use crate::sys;
use crate::wire::{Failed, Process};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// Where the report of a failure goes while a task is set up; the first descriptor above the standard three.
pub const REPORT_FD: RawFd = 3;
/// Where the user namespace is meanwhile.
const IDS_FD: RawFd = 4;

/// The program, arguments and environment in the form of the kernel, checked before anything is forked.
#[derive(Debug)]
pub struct Image {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Image {
    /// Refuses NUL bytes and empty commands; finds out where the program may be.
    pub fn new(process: &Process) -> Step<Self> {
        let strings = |what: &str, list: &[Vec<u8>]| {
            list.iter()
                .map(|item| CString::new(item.as_slice()).map_err(|_| failed(what, item, Errno::EINVAL)))
                .collect::<Step<Vec<_>>>()
        };
        let argv = strings("check arguments", &process.argv)?;
        let env = strings("check environment", &process.env)?;
        let program = process.argv.first().filter(|name| !name.is_empty());
        let program = program.ok_or_else(|| refused("check arguments: there is no program", ""))?;
        if process.cwd.contains(&0) {
            return Err(failed("check working directory", &process.cwd, Errno::EINVAL));
        }
        let candidates = candidates(program, &process.env);
        Ok(Self { candidates, argv, env })
    }

    /// As [`Image::new`], but without any argument there is no program: the process waits to be ended.
    pub fn of_launch(process: &Process) -> Step<Self> {
        if process.argv.is_empty() {
            return Ok(Self { candidates: Vec::new(), argv: Vec::new(), env: Vec::new() });
        }
        Self::new(process)
    }

    /// Becomes the program; returns why not. Like a shell, a candidate that exists but may not be run is the better answer.
    fn exec(&self) -> Failed {
        if self.argv.is_empty() {
            sys::set_name(c"plenum-hold");
            // As `execve` would: the supervisor takes it for the sign that all went well.
            sys::close_from(3);
            loop {
                nix::unistd::pause();
            }
        }
        let mut answer =
            failed("find program", self.argv.first().map_or(&b""[..], |a| a.as_bytes()), Errno::ENOENT);
        for candidate in &self.candidates {
            let errno = sys::execve(candidate, &self.argv, &self.env);
            if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
                answer = failed("execve", candidate.as_bytes(), errno);
                if errno != Errno::EACCES {
                    break;
                }
            } else if self.candidates.len() == 1 {
                answer = failed("execve", candidate.as_bytes(), errno);
            }
        }
        answer
    }
}

fn candidates(program: &[u8], env: &[Vec<u8>]) -> Vec<CString> {
    const DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if program.contains(&b'/') {
        return CString::new(program).into_iter().collect();
    }
    let paths = env.iter().find_map(|item| item.strip_prefix(b"PATH=")).unwrap_or(DEFAULT);
    let join = |dir: &[u8]| {
        let dir: &[u8] = if dir.is_empty() { b"." } else { dir };
        CString::new([dir, b"/", program].concat()).ok()
    };
    paths.split(|byte| *byte == b':').filter_map(join).collect()
}

/// Turns the calling, freshly forked process into the task. `output` holds its three standard descriptors, `report` a
/// close-on-exec socket that a failure is written to, `filter` a seccomp program, `ids` the user namespace to be in, whose ids
/// `process` then has. Returns only the failure.
#[must_use]
pub fn become_task(
    process: &Process,
    image: &Image,
    filter: &[u8],
    (output, report): ([RawFd; 3], RawFd),
    ids: Option<&Ids>,
) -> Failed {
    // Only a terminal is all three.
    let terminal = output[0] == output[1] && output[1] == output[2];
    let prepared =
        descriptors(output, report, terminal, ids).and_then(|door| identity(process, filter, door));
    match prepared {
        Ok(()) => image.exec(),
        Err(failure) => failure,
    }
}

/// Gives the user namespace where it is now.
fn descriptors(
    output: [RawFd; 3],
    report: RawFd,
    terminal: bool,
    ids: Option<&Ids>,
) -> Step<Option<OwnedFd>> {
    setsid().at("start session", "")?;
    // The three may overlap with what is asked for: callers hand over descriptors above REPORT_FD.
    for (new, old) in (0..).zip(output) {
        sys::dup_to(old, new, false).at("standard descriptors", "")?;
    }
    sys::dup_to(report, REPORT_FD, true).at("standard descriptors", "")?;
    let door = match ids {
        None => {
            sys::close_from(4);
            None
        }
        Some(ids) => {
            sys::dup_to(ids.namespace().as_raw_fd(), IDS_FD, true).at("standard descriptors", "")?;
            sys::close_from(5);
            Some(sys::adopt_fd(IDS_FD))
        }
    };
    // Whoever leads a session and has a terminal as its input is controlled by it.
    if terminal {
        sys::control_terminal(0).at("controlling terminal", "")?;
    }
    Ok(door)
}

fn identity(process: &Process, filter: &[u8], door: Option<OwnedFd>) -> Step<()> {
    if let Some(score) = process.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string()).at("oom score", score.to_string())?;
    }
    for limit in &process.rlimits {
        let subject = || format!("resource {} soft {} hard {}", limit.resource, limit.soft, limit.hard);
        sys::set_rlimit(limit.resource, limit.soft, limit.hard).at("resource limit", subject())?;
    }
    // What is above takes rights over the machine, what is below none.
    if let Some(door) = door {
        ids::enter(door.as_fd())?;
    }
    // Without `no_new_privs` a filter takes a capability that is about to go.
    if !process.no_new_privs {
        confine(filter)?;
    }
    if process.change_user {
        change_user(process)?;
    }
    chdir(path(&process.cwd)).at("working directory", &process.cwd)?;
    if process.no_new_privs {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at("no new privileges", "")?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(process.umask));
    sys::reset_signals();
    if process.no_new_privs { confine(filter) } else { Ok(()) }
}

fn confine(filter: &[u8]) -> Step<()> {
    if filter.is_empty() { Ok(()) } else { sys::seccomp(filter).at("seccomp filter", "") }
}

/// Bounding set first (it needs a capability), then groups and user, then what is left of the capabilities.
fn change_user(process: &Process) -> Step<()> {
    let last = last_capability();
    for capability in (0..=last).filter(|cap| process.bounding & (1 << cap) == 0) {
        sys::prctl(libc::PR_CAPBSET_DROP, capability, 0)
            .at("capability bounding set", capability.to_string())?;
    }
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    let groups: Vec<Gid> = process.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).at("supplementary groups", "")?;
    setresgid(gid, gid, gid).at("group", gid.to_string())?;
    let known = if last >= 63 { u64::MAX } else { (1 << (last + 1)) - 1 };
    let ambient = process.ambient & process.bounding & known;
    if process.uid == 0 {
        // Root regains its permitted set from the bounding set in execve; nothing is inheritable.
        return sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)
            .and_then(|()| setresuid(uid, uid, uid))
            .and_then(|()| sys::capset(process.bounding & known & permitted(), 0))
            .at("user", uid.to_string());
    }
    if ambient != 0 {
        sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).at("ambient capabilities", "")?;
    }
    setresuid(uid, uid, uid).at("user", uid.to_string())?;
    sys::capset(ambient, ambient).at("capabilities", format!("{ambient:#x}"))?;
    for capability in (0..=last).filter(|cap| ambient & (1 << cap) != 0) {
        sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability)
            .at("ambient capabilities", capability.to_string())?;
    }
    Ok(())
}

/// The capabilities this process has: a machine may have taken some from its root.
pub(crate) fn permitted() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn last_capability() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    text.trim().parse::<u64>().unwrap_or(40).min(63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_like_a_shell_does() {
        let env = vec![b"PATH=/a::/b".to_vec()];
        let names = |program: &[u8]| {
            candidates(program, &env).iter().map(|c| c.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(b"x"), ["/a/x", "./x", "/b/x"]);
        assert_eq!(names(b"./x"), ["./x"]);
        assert_eq!(candidates(b"x", &[]).len(), 6);
    }

    #[test]
    fn hostile_strings_name_their_step() {
        let process = |argv: &[&[u8]], env: &[&[u8]], cwd: &[u8]| Process {
            argv: argv.iter().map(|a| a.to_vec()).collect(),
            env: env.iter().map(|e| e.to_vec()).collect(),
            cwd: cwd.to_vec(),
            ..Process::default()
        };
        for (case, step) in [
            (process(&[b"a\0b"], &[], b"/"), "check arguments"),
            (process(&[], &[], b"/"), "check arguments: there is no program"),
            (process(&[b""], &[], b"/"), "check arguments: there is no program"),
            (process(&[b"a"], &[b"A=\0"], b"/"), "check environment"),
            (process(&[b"a"], &[], b"/\0"), "check working directory"),
        ] {
            assert_eq!(Image::new(&case).unwrap_err().step, step);
        }
    }
}
