//! One process of a role: started with its sockets, or found alive after the supervisor that started it was killed.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitIdOptions};
use serde::{Deserialize, Serialize};

/// The first descriptor handed over, as in `sd_listen_fds`.
const FIRST: i32 = 3;

/// What starting a role takes.
pub struct Launch<'a> {
    /// The role's name: the subcommand.
    pub role: &'a str,
    /// Further arguments.
    pub arguments: &'a [String],
    /// Names and listening sockets, in order.
    pub sockets: &'a [(&'static str, OwnedFd)],
    /// Where the process says that it is ready (`NOTIFY_SOCKET`).
    pub notify: &'a Path,
    /// Where its output is appended.
    pub log: &'a Path,
}

/// A process as it is written down for a later supervisor. Pid and start time name it beyond doubt within one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The role's name.
    pub role: String,
    /// Its process id.
    pub pid: i32,
    /// Start time in clock ticks since boot, from `/proc/<pid>/stat`.
    pub start_time: u64,
    /// Names of the sockets it holds, in the order of their descriptors.
    pub sockets: Vec<String>,
}

/// A process that lives, or lived until [`Child::exit`] says how it ended.
pub struct Child {
    /// What names it.
    pub record: Record,
    pidfd: OwnedFd,
}

impl Child {
    /// Starts a role's process from this very binary.
    pub fn spawn(launch: &Launch<'_>) -> Result<Self> {
        let log = append(launch.log)?;
        let names: Vec<String> = launch.sockets.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.arg(launch.role).args(launch.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        command.env("NOTIFY_SOCKET", launch.notify);
        let sockets: Vec<_> = launch.sockets.iter().map(|(name, socket)| (*name, socket)).collect();
        plenum_base::sockets::hand_over(&mut command, &sockets)?;
        let child = command.spawn().with_context(|| format!("start {}", launch.role))?;
        let pid = i32::try_from(child.id())?;
        let record =
            Record { role: launch.role.to_owned(), pid, start_time: start_time(pid)?, sockets: names };
        Ok(Self { pidfd: pidfd(pid)?, record })
    }

    /// Finds the process that a record names, with the sockets it holds; nothing where it has ended.
    pub fn adopt(record: Record) -> Option<(Self, Vec<OwnedFd>)> {
        let pidfd = pidfd(record.pid).ok()?;
        // The descriptor pins the process: comparing after opening leaves no gap for a reused pid.
        if start_time(record.pid).ok()? != record.start_time {
            return None;
        }
        let sockets = (FIRST..)
            .zip(&record.sockets)
            .map(|(fd, _)| rustix::process::pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()))
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        Some((Self { record, pidfd }, sockets))
    }

    /// Readable once the process has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How the process ended, in words. Reaps it where it is our own child.
    pub fn exit(&self) -> String {
        let waited = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
        match waited {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("ended with exit status {code}"),
                (_, Some(signal)) => {
                    format!("ended by {}", std::process::ExitStatus::from_raw(signal))
                }
                _ => "ended".to_owned(),
            },
            // Started by an earlier supervisor: its status went to whoever adopted it.
            _ => "ended".to_owned(),
        }
    }

    /// Sends a signal; a process that has ended meanwhile is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }
}

/// The role's log, appended to. What an earlier day left beyond the bound is set aside first, so that logs do not grow for ever.
fn append(path: &Path) -> Result<File> {
    const BOUND: u64 = 16 << 20;
    if std::fs::metadata(path).is_ok_and(|found| found.len() > BOUND) {
        let mut old = PathBuf::from(path).into_os_string();
        old.push(".1");
        let _ = std::fs::rename(path, old);
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open the log {}", path.display()))
}

fn pidfd(pid: i32) -> Result<OwnedFd> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Field 22 of `/proc/<pid>/stat`, counted from behind the parenthesised name, which may hold anything.
pub fn start_time(pid: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let Some((_, fields)) = stat.rsplit_once(')') else { bail!("/proc/{pid}/stat has no name") };
    let field = fields.split_ascii_whitespace().nth(19).context("/proc/<pid>/stat is short")?;
    Ok(field.parse()?)
}

/// This boot of the machine; a record of another boot names nobody.
pub fn boot_id() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
