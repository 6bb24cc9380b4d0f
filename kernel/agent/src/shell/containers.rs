//! Carries container effects out against the runtime, each in a task of its own with a deadline, and reports back as events.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plenum_api::mesos::ContainerInfo;
use plenum_containers::{ContainerSpec, Enter, Exit, OutOfMemory, Runtime, RuntimeError};
use plenum_docker::DockerRuntime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::fetching::Fetcher;
use super::provision::{Failure, Provided, Provisioner};
use super::{Input, plan, wanted};
use crate::config::{Config, Parts};
use crate::core::{Check, Event, Launch, LaunchStage, Probe, ProbeOutcome};
use crate::devices::Devices;

/// Signal that asks.
const SIGTERM: i32 = 15;
/// Signal that does not.
const SIGKILL: i32 = 9;
/// What is said of a launch that was called off.
const CALLED_OFF: &str = "the launch was called off";
/// Checks under way at once; more wait, which their timeouts count.
const CHECKS: usize = 64;
/// For the kernel's report on a container that ran out of memory to be found.
const REPORT: Duration = Duration::from_secs(5);
/// Launches under way at once.
const LAUNCHES: usize = 32;

/// The door to the runtime. Clones are the same door.
#[derive(Clone)]
pub(crate) struct Containers(Arc<Inner>);

struct Inner {
    runtime: Arc<dyn Runtime>,
    config: Arc<Config>,
    inbox: mpsc::Sender<Input>,
    docker: Option<Arc<DockerRuntime>>,
    provisioner: Arc<Provisioner>,
    resolv_conf: Option<PathBuf>,
    devices: Devices,
    fetcher: Arc<Fetcher>,
    privileged: bool,
    /// Launches that can still be called off.
    launching: Mutex<BTreeMap<String, CancellationToken>>,
    checks: tokio::sync::Semaphore,
    launches: tokio::sync::Semaphore,
}

impl Containers {
    pub fn new(
        config: &Arc<Config>,
        parts: &Parts,
        provisioner: Arc<Provisioner>,
        inbox: mpsc::Sender<Input>,
        resolv_conf: Option<PathBuf>,
    ) -> Self {
        Self(Arc::new(Inner {
            runtime: parts.runtime.clone(),
            docker: parts.docker.clone(),
            provisioner,
            devices: Devices::find(&config.devices, Path::new("/dev")),
            fetcher: Arc::new(Fetcher::open(config)),
            config: config.clone(),
            inbox,
            resolv_conf,
            privileged: nix::unistd::geteuid().is_root(),
            launching: Mutex::default(),
            checks: tokio::sync::Semaphore::new(CHECKS),
            launches: tokio::sync::Semaphore::new(LAUNCHES),
        }))
    }

    /// Who fetches for its containers.
    pub fn fetcher(&self) -> Arc<Fetcher> {
        Arc::clone(&self.0.fetcher)
    }

    /// Starts a container and watches it.
    pub fn launch(&self, launch: Launch) {
        let off = CancellationToken::new();
        self.0.launching().insert(launch.container.clone(), off.clone());
        let this = self.clone();
        tokio::spawn(async move {
            let container = launch.container.clone();
            let outcome = this.0.launch_now(launch, &off).await;
            this.0.launching().remove(&container);
            match outcome {
                Ok(started) => {
                    this.0.tell(Event::Launched { container: container.clone(), started }).await;
                    this.watch(&container);
                    if off.is_cancelled() {
                        this.destroy(&container);
                    }
                }
                Err((stage, message)) => {
                    this.0.tell(Event::LaunchFailed { container, stage, message }).await;
                }
            }
        });
    }

    /// Reports the end of a container.
    pub fn watch(&self, container: &str) {
        let inner = self.0.clone();
        let container = container.to_owned();
        tokio::spawn(async move {
            let exit = tokio::select! {
                exit = inner.end_of(&container) => exit,
                exit = inner.end_beyond_disk(&container) => exit,
            };
            let memory = out_of_memory(&*inner.runtime, &container, &exit).await;
            inner.tell(Event::Exited { container, exit: plan::exit(&exit, memory.as_ref()) }).await;
        });
    }

    /// Asks a container to end.
    pub fn kill(&self, container: &str, grace: Duration) {
        let signal = self.0.provisioner.stop_signal(container).unwrap_or(SIGTERM);
        self.signal(container, signal, grace);
    }

    /// Ends a container, or calls its launch off.
    pub fn destroy(&self, container: &str) {
        let launching = self.0.launching().get(container).cloned();
        match launching {
            Some(off) => off.cancel(),
            None => self.signal(container, SIGKILL, Duration::ZERO),
        }
    }

    fn signal(&self, container: &str, signal: i32, grace: Duration) {
        let inner = self.0.clone();
        let container = container.to_owned();
        tokio::spawn(async move {
            match inner.runtime.kill(&container, signal, grace).await {
                Ok(()) | Err(RuntimeError::Ended(_) | RuntimeError::NotFound(_)) => {}
                // The core destroys what does not end.
                Err(error) => tracing::warn!(container, signal, %error, "a container cannot be signalled"),
            }
        });
    }

    /// Lets the runtime forget a container.
    pub fn release(&self, container: &str) {
        let inner = self.0.clone();
        let container = container.to_owned();
        tokio::spawn(async move {
            for attempt in 1..=5_u64 {
                match inner.runtime.destroy(&container).await {
                    Ok(_) | Err(RuntimeError::NotFound(_)) => {
                        inner.provisioner.release(&container).await;
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(container, attempt, %error, "what is left of a container cannot be removed");
                    }
                }
                tokio::time::sleep(Duration::from_secs(5 * attempt)).await;
            }
        });
    }

    /// Removes images from the engine, if there is one and the operator lets us.
    pub fn collect_images(&self) {
        let inner = self.0.clone();
        tokio::spawn(async move {
            if let Some(docker) = inner.docker.as_ref().filter(|_| inner.config.docker.collect_images) {
                super::engine::collect_images(docker, &inner.config).await;
            }
        });
    }

    /// Carries a probe out.
    pub fn check(&self, check: Check) {
        let inner = self.0.clone();
        tokio::spawn(async move {
            let timeout = Duration::from(check.timeout);
            let outcome = tokio::time::timeout(timeout, async {
                let _turn = inner.checks.acquire().await;
                inner.probe(&check, timeout).await
            });
            let outcome = outcome.await.unwrap_or(ProbeOutcome::TimedOut);
            let Check { task, kind, generation, .. } = check;
            inner.tell(Event::CheckDone { task, kind, generation, outcome }).await;
        });
    }
}

impl Inner {
    fn launching(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, CancellationToken>> {
        self.launching.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn end_of(&self, container: &str) -> Exit {
        loop {
            match self.runtime.wait(container).await {
                Ok(exit) => return exit,
                Err(RuntimeError::NotFound(_)) => return Exit::lost(),
                Err(error) => {
                    tracing::warn!(container, %error, "waiting for a container failed; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Reports that a container takes too much of the disk, if it ever does, and then its end.
    async fn end_beyond_disk(&self, container: &str) -> Exit {
        match self.runtime.disk_exceeded(container).await {
            Ok(found) => {
                let (used, limit) = (found.used_bytes, found.limit_bytes);
                tracing::warn!(container, used, limit, "a container takes too much of the disk and is ended");
                self.tell(Event::DiskExceeded { container: container.to_owned() }).await;
                self.end_of(container).await
            }
            // It has ended, which the other branch reports.
            Err(_) => std::future::pending().await,
        }
    }

    async fn tell(&self, event: Event) {
        let _ = self.inbox.send(Input::Event(event)).await;
    }

    /// Sandbox, files, image, volumes, network, process. Called off, it fails; once the process is being started, it is started. What fails
    /// leaves nothing.
    async fn launch_now(
        &self,
        launch: Launch,
        off: &CancellationToken,
    ) -> Result<crate::core::Started, Failure> {
        let mut provided = Provided::default();
        let info = launch.container_info.as_ref().filter(|info| wanted::is_docker(info));
        let done = match (&self.docker, info) {
            (Some(docker), Some(info)) => {
                Box::pin(self.launch_by_engine(docker, &launch, info, &mut provided, off)).await
            }
            _ => match self.prepare(&launch, &mut provided, off).await {
                Ok(spec) => self.start(spec).await,
                Err(failure) => Err(failure),
            },
        };
        match done {
            Ok(started) => {
                Ok(crate::core::Started { networks: provided.networks, image: provided.image, ..started })
            }
            Err(failure) => {
                self.provisioner.release(&launch.container).await;
                Err(failure)
            }
        }
    }

    /// The engine pulls and starts; sandbox and files are ours.
    async fn launch_by_engine(
        &self,
        docker: &DockerRuntime,
        launch: &Launch,
        info: &ContainerInfo,
        provided: &mut Provided,
        off: &CancellationToken,
    ) -> Result<crate::core::Started, Failure> {
        let start = |message: String| (LaunchStage::Start, message);
        // What is refused anyway is refused before anything is fetched.
        super::engine::spec(launch, info, &self.config, None).map_err(start)?;
        let user = Some(launch.user.as_str()).filter(|user| self.privileged && !user.is_empty());
        let owner = {
            let _turn = self.launches.acquire().await;
            tokio::task::block_in_place(|| make_sandbox(Path::new(&launch.directory), user)).map_err(start)?
        };
        tokio::select! {
            done = self.fetch(launch, owner) => done?,
            () = off.cancelled() => return Err(start(CALLED_OFF.to_owned())),
        }
        let work_dir = &self.config.work_dir;
        let given = super::engine::give_volumes(launch, work_dir, owner).await;
        given.map_err(|reason| (LaunchStage::Volume, reason))?;
        let credentials = self.provisioner.credentials(launch);
        let spec = super::engine::spec(launch, info, &self.config, credentials.as_deref()).map_err(start)?;
        let launched = tokio::select! {
            launched = docker.start(spec) => launched,
            () = off.cancelled() => {
                // Whatever the engine is doing with it is undone.
                let _ = self.runtime.destroy(&launch.container).await;
                return Err(start(CALLED_OFF.to_owned()));
            }
        };
        let launched = launched.map_err(|error| start(error.to_string()))?;
        provided.image = docker.image(&launch.container).unwrap_or_default();
        provided.networks = super::engine::networks(docker, &launch.container, info);
        if let Err((_, error)) = self.provisioner.keep(&launch.container, provided).await {
            tracing::warn!(container = launch.container, error, "a restart will not know its addresses");
        }
        Ok(plan::started(Some(&launched)))
    }

    /// Everything before the process.
    async fn prepare(
        &self,
        launch: &Launch,
        provided: &mut Provided,
        off: &CancellationToken,
    ) -> Result<ContainerSpec, Failure> {
        let start = |message: String| (LaunchStage::Start, message);
        let wanted = launch.container_info.as_ref().map(wanted::wanted).transpose().map_err(start)?;
        let mut wanted = wanted.unwrap_or_default();
        if let Some(task) = &launch.task {
            wanted.read_only |= wanted::read_only_by_label(task).map_err(start)?;
        }
        let mut spec = plan::container_spec(launch, &wanted, &self.config, self.resolv_conf.as_deref())
            .map_err(start)?;
        // Without privilege nobody can be changed into. Who an image's user is, is known when the image is here.
        spec.user = spec.user.filter(|_| self.privileged && wanted.image.is_none());
        let owner = {
            let _turn = self.launches.acquire().await;
            let (directory, user) = (Path::new(&launch.directory), spec.user.as_deref());
            // A few calls, done where we are: to wake a thread for them takes longer. The agent's runtime has threads to spare.
            tokio::task::block_in_place(|| make_sandbox(directory, user)).map_err(start)?
        };
        let long = async {
            self.fetch(launch, owner).await?;
            self.provisioner.image(&mut spec, launch, &wanted, provided).await?;
            self.provisioner.image_volumes(launch, &mut wanted).await?;
            self.provisioner.driver_volumes(launch, &wanted).await
        };
        tokio::select! {
            done = long => done?,
            () = off.cancelled() => return Err(start(CALLED_OFF.to_owned())),
        }
        self.provisioner.rest(&mut spec, launch, &wanted, provided).await?;
        spec.readonly_root = wanted.read_only;
        spec.user_namespace = plan::own_users(&spec, &wanted, &self.config);
        self.devices.give(&mut spec, &launch.gpus).map_err(start)?;
        if off.is_cancelled() {
            return Err(start(CALLED_OFF.to_owned()));
        }
        Ok(spec)
    }

    async fn fetch(&self, launch: &Launch, owner: Option<(u32, u32)>) -> Result<(), Failure> {
        let fetched = self.fetcher.fetch(&launch.command, Path::new(&launch.directory), owner).await;
        fetched.map_err(|message| (LaunchStage::Fetch, message))
    }

    async fn start(&self, spec: ContainerSpec) -> Result<crate::core::Started, Failure> {
        let id = spec.id.clone();
        match self.runtime.launch(spec).await {
            Ok(launched) => {
                for warning in &launched.warnings {
                    tracing::warn!(container = id, warning, "a container lacks something");
                }
                Ok(plan::started(Some(&launched)))
            }
            Err(error) => {
                let _ = self.runtime.destroy(&id).await;
                Err((LaunchStage::Start, error.to_string()))
            }
        }
    }

    async fn probe(&self, check: &Check, timeout: Duration) -> ProbeOutcome {
        let at = |port: u16, ipv6: bool| {
            let ip = if ipv6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
            SocketAddr::new(ip, port)
        };
        let (probe, http) = match &check.probe {
            Probe::Command(info) => return self.run_check(check, info, timeout).await,
            Probe::Http { scheme, port, path, ipv6 } => {
                let (to, path, tls) = (at(*port, *ipv6), path.clone(), scheme == "https");
                (plenum_containers::Probe::Http { to, path, host: None, tls }, true)
            }
            Probe::Tcp { port, ipv6 } => (plenum_containers::Probe::Tcp { to: at(*port, *ipv6) }, false),
        };
        match self.runtime.probe(&check.container, probe, timeout).await {
            Ok(seen) => plan::probed(seen, http),
            Err(error) => ProbeOutcome::Error(error.to_string()),
        }
    }

    async fn run_check(
        &self,
        check: &Check,
        info: &plenum_api::mesos::CommandInfo,
        timeout: Duration,
    ) -> ProbeOutcome {
        let mut env = BTreeMap::new();
        let command = plan::command(info).and_then(|command| {
            plan::environment(info, &mut env)?;
            Ok(command)
        });
        match command {
            Err(words) => ProbeOutcome::Error(words),
            Ok(command) => {
                match self.runtime.enter(&check.container, Enter { command, env, deadline: timeout }).await {
                    Ok(entered) => plan::entered(&entered),
                    Err(error) => ProbeOutcome::Error(error.to_string()),
                }
            }
        }
    }
}

/// What is known of a container that ended for want of memory.
pub(crate) async fn out_of_memory(
    runtime: &dyn Runtime,
    container: &str,
    exit: &Exit,
) -> Option<OutOfMemory> {
    if !exit.oom {
        return None;
    }
    tokio::time::timeout(REPORT, runtime.out_of_memory(container)).await.ok().flatten()
}

/// Makes a sandbox that belongs to the task's user, and the link `latest` to it. Gives the owner.
fn make_sandbox(directory: &Path, user: Option<&str>) -> Result<Option<(u32, u32)>, String> {
    let step = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| format!("{what} {}: {error}", directory.display())
    };
    let owner = match user {
        None => None,
        Some(user) => {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
            let user = plenum_containers::user::resolve(user, &passwd, &group);
            Some(user.map(|user| (user.uid, user.gid)).map_err(|error| error.to_string())?)
        }
    };
    std::fs::create_dir_all(directory).map_err(step("cannot make the sandbox"))?;
    // The folders above can be passed through by every user; what is in here is its owner's.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o750);
    std::fs::set_permissions(directory, private).map_err(step("cannot close the sandbox"))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(directory, Some(uid), Some(gid))
            .map_err(step("cannot give away the sandbox"))?;
    }
    // A pod's tasks lie in `tasks`, which has no newest.
    let runs = directory.parent().filter(|parent| parent.ends_with("runs"));
    if let (Some(runs), Some(name)) = (runs, directory.file_name()) {
        let temp = runs.join(format!(".latest-{}", name.to_string_lossy()));
        let _ = std::fs::remove_file(&temp);
        std::os::unix::fs::symlink(name, &temp)
            .and_then(|()| std::fs::rename(&temp, runs.join("latest")))
            .map_err(step("cannot link to the sandbox"))?;
    }
    Ok(owner)
}
