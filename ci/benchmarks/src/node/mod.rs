//! One node for a measurement: a folder, the real agent as a process of the built program, and the [`master`] that drives it.

pub mod master;
pub mod task;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use plenum_base::pki::{Authority, PeerName, San};
use plenum_base::tls::{Identity, IdentityFiles};

use master::{AGENT, FRAMEWORK, Master};

/// Where master and agent are; the network namespace is the measurement's own.
pub const ADDRESS: &str = "127.88.201.1";
/// The agent's HTTP port.
const PORT: u16 = 5051;
/// For the agent to register.
const START: Duration = Duration::from_secs(60);
/// More than any measurement takes at once.
const RESOURCES: &str = "cpus:4096;mem:16777216;disk:16777216;ports:[31000-32000]";

/// A node and its master.
pub struct Node {
    /// Told what to do.
    pub master: Master,
    /// Name of the instance.
    pub instance: String,
    folder: tempfile::TempDir,
    program: PathBuf,
    agent: Option<Child>,
}

/// The built program: `PLENUM` names it, as for the drills.
///
/// # Errors
/// When it does not.
pub fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PLENUM").context(
        "PLENUM does not name the built program: start this with ci/bench, or build it with `cargo xtask build`",
    )?;
    Ok(PathBuf::from(path))
}

/// A network namespace with nothing but a loopback device: bridges and tables of the measured agent are not the machine's. To be called
/// while there is one thread.
///
/// # Errors
/// Without root.
pub fn own_network() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this measurement needs root: it makes namespaces and control groups");
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    let up =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip (Debian: iproute2)")?;
    if !up.success() {
        bail!("the loopback device does not come up");
    }
    Ok(())
}

/// Ends `work` when this process is asked to end, so that the node is tidied up.
///
/// # Errors
/// What `work` says, or that it was interrupted.
pub async fn or_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("interrupted"),
    }
}

impl Node {
    /// Starts master and agent. `more` are lines of the agent's own settings.
    ///
    /// # Errors
    /// When the agent does not register.
    pub async fn start(name: &str, more: &str) -> Result<Self> {
        plenum_base::service::install_crypto();
        let program = program()?;
        let instance = format!("{name}-{}", std::process::id());
        // The disk is the one under measurement: that of the machine's state, not of /tmp where that is memory.
        let folder = tempfile::Builder::new().prefix("plenum-bench-").tempdir_in("/var/tmp")?;
        let now = SystemTime::now();
        let ca = Authority::create(&instance, now)?;
        let sans = [San::Ip(ADDRESS.parse()?)];
        let issue = |role: &str| -> Result<(String, String)> {
            let name = PeerName::new(&instance, role, "one")?;
            Ok(ca.issue_fresh(&name, &sans, now, Duration::from_secs(24 * 3600))?)
        };
        let (certificate, key) = issue("master")?;
        let identity = Identity::from_pem(ca.certificate_pem(), &certificate, &key)?;
        let master = Master::start(&identity, &format!("{ADDRESS}:0")).await?;
        let (certificate, key) = issue("agent")?;
        let at = |name: &str| folder.path().join(name);
        IdentityFiles { ca: at("ca.pem"), cert: at("agent.pem"), key: at("agent.key") }.write(
            ca.certificate_pem(),
            &certificate,
            &key,
        )?;
        fs::write(at("agent.toml"), settings(folder.path(), &instance, master.address.port(), more))?;
        let mut node = Self { master, instance, folder, program, agent: None };
        node.start_agent().await?;
        // For whoever works on the shim: another than the one in the program.
        if let Some(shim) = std::env::var_os("PLENUM_SHIM") {
            fs::remove_file(node.path("data/plenum-shim"))?;
            fs::copy(shim, node.path("data/plenum-shim"))?;
        }
        Ok(node)
    }

    /// Starts the agent's process and waits for it to register. One that ends at once is started again, as its supervisor does: a shim that
    /// was being started when the agent before was killed keeps the socket for a moment.
    ///
    /// # Errors
    /// When it does not register.
    pub async fn start_agent(&mut self) -> Result<()> {
        let until = Instant::now() + START;
        self.agent = Some(self.spawn_agent()?);
        while self.master.registered(Duration::from_millis(100)).await.is_err() {
            if Instant::now() > until {
                bail!("the agent does not register; its log ends with:\n{}", self.log_end());
            }
            if self.agent.as_mut().map(Child::try_wait).transpose()?.flatten().is_some() {
                self.agent = Some(self.spawn_agent()?);
            }
        }
        Ok(())
    }

    fn spawn_agent(&self) -> Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log"))?;
        Command::new(&self.program)
            .args(["agent", "--config"])
            .arg(self.path("agent.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| self.program.display().to_string())
    }

    /// The agent's process id.
    pub fn agent(&self) -> u32 {
        self.agent.as_ref().map_or(0, Child::id)
    }

    /// kill -9.
    ///
    /// # Errors
    /// When there is none.
    pub fn crash(&mut self) -> Result<()> {
        let mut child = self.agent.take().context("no agent runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Something in the node's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The newest sandbox of a task.
    pub fn sandbox(&self, task: &str) -> PathBuf {
        self.path(&format!("data/slaves/{AGENT}/frameworks/{FRAMEWORK}/executors/{task}/runs/latest"))
    }

    /// Runtime folders of containers that are not forgotten yet.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn runtime_folders(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.path("run/containers"))?;
        Ok(entries.flatten().filter(|e| e.path().is_dir()).map(|e| e.path()).collect())
    }

    /// Waits until no container is left.
    ///
    /// # Errors
    /// When some are after `patience`.
    pub async fn forgotten(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let left = self.runtime_folders()?.len();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{left} containers are not forgotten; the agent's log ends with:\n{}", self.log_end());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The last lines of the agent's log.
    pub fn log_end(&self) -> String {
        let text = fs::read_to_string(self.path("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Ends the agent as a service manager does, and waits.
    ///
    /// # Errors
    /// When it is not there.
    pub fn stop_agent(&mut self) -> Result<()> {
        let mut child = self.agent.take().context("no agent runs")?;
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM)?;
        let until = Instant::now() + Duration::from_secs(20);
        while child.try_wait()?.is_none() {
            if Instant::now() > until {
                child.kill()?;
                child.wait()?;
                bail!("the agent did not end when it was asked to");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Node {
    /// Whatever happened, nothing is left behind.
    fn drop(&mut self) {
        if self.agent.is_some() && self.crash().is_err() {
            eprintln!("the agent of {} cannot be ended", self.folder.path().display());
        }
        for pid in shims(self.folder.path()) {
            // Gone by now, or it goes now; init and all that it runs go with it.
            let _gone =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(50));
        for _ in 0..100 {
            if remove_groups(&self.instance) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        unmount_below(self.folder.path());
        if std::env::var_os("PLENUM_BENCH_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("kept: {}", self.folder.path().display());
        }
    }
}

fn settings(folder: &Path, instance: &str, master: u16, more: &str) -> String {
    let at = |name: &str| toml_text(&folder.join(name));
    format!(
        "[component]\ninstance = \"{instance}\"\nlisten = \"{ADDRESS}:{PORT}\"\ndata = {data}\nca = {ca}\n\
         certificate = {certificate}\nkey = {key}\npolicy = {policy}\nidentity = \"https://{ADDRESS}:1\"\nopen = true\n\
         [agent]\nmasters = [\"{ADDRESS}:{master}\"]\nwork_dir = {data}\nrun_dir = {run}\nhostname = \"bench\"\n\
         ip = \"{ADDRESS}\"\nport = {PORT}\nresources = \"{RESOURCES}\"\nrequire_executor_token = false\n{more}",
        data = at("data"),
        ca = at("ca.pem"),
        certificate = at("agent.pem"),
        key = at("agent.key"),
        policy = at("policy"),
        run = at("run"),
    )
}

fn toml_text(path: &Path) -> String {
    format!("'{}'", path.display())
}

/// Takes away what is mounted below a folder, newest first, so that the folder can be removed.
pub fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let all = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for at in all.filter(|at| Path::new(at).starts_with(folder)).collect::<Vec<_>>().into_iter().rev() {
        let _gone = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Supervisors whose working folder, their container's, is below `folder`.
pub fn shims(folder: &Path) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
            && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "plenum-shim")
    };
    ids.filter(ours).collect()
}

/// The control groups of an instance, in every hierarchy; parents before children.
pub fn groups(instance: &str) -> Vec<PathBuf> {
    let parent = format!("plenum-{instance}");
    let mut found: Vec<PathBuf> = vec![Path::new("/sys/fs/cgroup").join(&parent)];
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    found.extend(hierarchies.filter(|e| e.path().is_dir()).map(|e| e.path().join(&parent)));
    found.retain(|path| path.is_dir());
    // `cpu` and `cpuacct` are links to one hierarchy.
    let mut real: Vec<PathBuf> = found.iter().filter_map(|path| path.canonicalize().ok()).collect();
    real.sort();
    real.dedup();
    let mut next = 0;
    while let Some(at) = real.get(next).cloned() {
        let below = fs::read_dir(at).into_iter().flatten().flatten();
        real.extend(below.filter(|e| e.path().is_dir()).map(|e| e.path()));
        next += 1;
    }
    real
}

/// Whether all are gone.
fn remove_groups(instance: &str) -> bool {
    groups(instance).iter().rev().all(|group| fs::remove_dir(group).is_ok())
}
