//! etcd as a child: its arguments, its start, its end. It dies with the process that started it.

use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::Config;
use crate::folder::Folder;

/// How long etcd may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// How the data begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With what is there.
    Resume,
    /// As a cluster of one.
    New,
    /// As one of these (`--initial-cluster`).
    Existing(String),
    /// With what is there, as the only member.
    Alone,
}

/// The program's arguments.
pub(crate) fn arguments(config: &Config, folder: &Folder, begin: &Begin) -> Vec<String> {
    let (client, peer) = (config.client_url(), config.peer_url());
    let files = &config.component;
    let mut all = vec![
        format!("--name={}", config.name),
        format!("--data-dir={}", folder.data().display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        // Its JSON gateway is not used, and cannot reach itself where client names are checked.
        "--enable-grpc-gateway=false".to_owned(),
        "--client-cert-auth".to_owned(),
        "--peer-client-cert-auth".to_owned(),
        // Agents, too, have certificates of the cluster's authority.
        format!("--client-cert-allowed-hostname={}", plenum_base::pki::STORE_CLIENT),
        format!("--peer-cert-allowed-hostname={}", plenum_base::pki::STORE_MEMBER),
        format!("--heartbeat-interval={}", config.heartbeat_milliseconds),
        format!("--election-timeout={}", config.election_milliseconds),
        "--pre-vote".to_owned(),
        "--strict-reconfig-check".to_owned(),
        "--auto-compaction-mode=periodic".to_owned(),
        format!("--auto-compaction-retention={}m", config.history_minutes),
        format!("--quota-backend-bytes={}", config.quota_bytes()),
        "--logger=zap".to_owned(),
        "--log-outputs=stderr".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    for prefix in ["", "peer-"] {
        all.push(format!("--{prefix}trusted-ca-file={}", files.ca.display()));
        all.push(format!("--{prefix}cert-file={}", files.certificate.display()));
        all.push(format!("--{prefix}key-file={}", files.key.display()));
    }
    let token = format!("plenum-{}", config.component.instance);
    match begin {
        Begin::Resume => {}
        Begin::Alone => all.push("--force-new-cluster".to_owned()),
        Begin::New => {
            all.push("--initial-cluster-state=new".to_owned());
            all.push(format!("--initial-cluster={}={peer}", config.name));
            all.push(format!("--initial-cluster-token={token}"));
        }
        Begin::Existing(members) => {
            all.push("--initial-cluster-state=existing".to_owned());
            all.push(format!("--initial-cluster={members}"));
            all.push(format!("--initial-cluster-token={token}"));
        }
    }
    all
}

/// A running etcd.
#[derive(Debug)]
pub(crate) struct Running {
    pid: Pid,
    ended: oneshot::Receiver<String>,
}

impl Running {
    /// Starts etcd.
    pub(crate) async fn start(config: &Config, folder: &Folder, begin: &Begin) -> io::Result<Self> {
        let program = config.program();
        let mut command = Command::new(&program);
        command.args(arguments(config, folder, begin)).stdin(Stdio::null()).stdout(Stdio::null());
        // Its settings are the arguments and nothing else; Go's own knobs pass.
        let foreign = std::env::vars_os().map(|(name, _)| name);
        foreign.filter(|name| name.to_string_lossy().starts_with("ETCD_")).for_each(|name| {
            command.env_remove(name);
        });
        // It would speak to systemd in our place.
        for name in
            ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"]
        {
            command.env_remove(name);
        }
        tie(&mut command);
        let (started, start) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // The kernel ties the child to the thread that starts it, so that thread stays until the child has ended.
        std::thread::Builder::new().name("etcd".to_owned()).spawn(move || match command.spawn() {
            Ok(mut child) => {
                let _ = started.send(Ok(child.id()));
                let _ = end.send(child.wait().map_or_else(|e| e.to_string(), describe));
            }
            Err(e) => {
                let _ = started.send(Err(e));
            }
        })?;
        let id = start.await.map_err(io::Error::other)?.map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("{} cannot be started: {e}; install etcd 3.4 or newer", program.display()),
            )
        })?;
        let pid = Pid::from_raw(i32::try_from(id).map_err(io::Error::other)?);
        Ok(Self { pid, ended })
    }

    /// Waits for its end and says how it was. Cancel safe.
    pub(crate) async fn ended(&mut self) -> String {
        (&mut self.ended).await.unwrap_or_else(|_| "nobody waited for it".to_owned())
    }

    /// Ends it, with force if it takes long.
    pub(crate) async fn stop(mut self) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // Not ended and waited for yet, so the id is still its own; afterwards the channel says so.
            if self.ended.try_recv().is_ok() || kill(self.pid, signal).is_err() {
                return;
            }
            if timeout(GRACE, &mut self.ended).await.is_ok() {
                return;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with code {code}"),
        (None, signal) => format!("it was killed by signal {}", signal.unwrap_or(0)),
    }
}

/// Has the kernel kill the child when this process ends.
fn tie(command: &mut Command) {
    let parent = Pid::this();
    // SAFETY: between fork and exec only prctl and getppid are called, which are async-signal-safe; nothing is allocated.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if Pid::parent() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
        });
    }
}
