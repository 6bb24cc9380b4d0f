//! Settings of the agent, as its file has them under `[agent]`, and the parts that a process gives it.

mod devices;
mod images;
mod users;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plenum_base::auth::Authenticator;
use plenum_base::cluster::Masters;
use plenum_base::serve::Plain;
use plenum_base::tls::Identity;
use plenum_containers::Runtime;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub use devices::DevicesConfig;
pub use images::ImagesConfig;
pub use users::UsersConfig;

/// Where tasks look for programs: nothing is inherited from the agent.
pub const TASK_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings. Times are in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Agents' doors of the masters (`host:port`), tried in turn.
    pub masters: Vec<String>,
    /// Working folder: records, sandboxes. Made if it is missing.
    pub work_dir: PathBuf,
    /// Folder for what does not outlive a boot (`resolv.conf` of containers).
    pub run_dir: PathBuf,
    /// The agent's own log file, shown as `/slave/log`.
    pub log_file: Option<PathBuf>,
    /// Host name that offers show; the machine's if empty.
    pub hostname: String,
    /// Address under which others reach this agent.
    pub ip: String,
    /// Its HTTP port.
    pub port: u16,
    /// URL of its HTTP API; made from `ip` and `port` if empty.
    pub url: String,
    /// Resources to offer, as text or JSON; what is not named is measured.
    pub resources: String,
    /// Role of resources that name none.
    pub default_role: String,
    /// Ports offered if `resources` names none.
    pub ports: String,
    /// Attributes, `name:value;name:value`.
    pub attributes: String,
    /// Region, if the machine has one.
    pub region: Option<String>,
    /// Zone in the region.
    pub zone: Option<String>,
    /// A program that prints region and zone as `{"fault_domain": {"region": {"name": …}, "zone": {"name": …}}}`, where they are not set.
    pub detect_script: Option<PathBuf>,
    /// The cloud's metadata address that tells the zone, or the same JSON. Asked only when it is set.
    pub metadata_url: Option<String>,
    /// For either of them.
    pub detect_timeout: u64,
    /// Name servers of containers; empty: the machine's.
    pub dns: Vec<String>,
    /// Search domains of containers.
    pub dns_search: Vec<String>,
    /// `PATH` of tasks.
    pub task_path: String,
    /// Whether cpus are a hard limit, not only a share.
    pub cpu_quota: bool,
    /// Processes and threads of one container at most; 0: no limit.
    pub task_processes: u64,
    /// Say TASK_STARTING before TASK_RUNNING.
    pub send_starting: bool,
    /// Whether custom executors must show their token.
    pub require_executor_token: bool,
    /// Grace of a kill that says none.
    pub kill_grace: u64,
    /// Grace of an executor's shutdown that says none.
    pub executor_shutdown_grace: u64,
    /// For an executor to subscribe.
    pub executor_registration_timeout: u64,
    /// For a running executor to subscribe again after a restart.
    pub executor_reregistration_timeout: u64,
    /// How long executors look for a restarted agent.
    pub recovery_timeout: u64,
    /// For fetching all URIs of one container.
    pub fetch_timeout: u64,
    /// Seconds without a byte after which a server counts as stalled, and is asked again.
    pub fetch_stall: u64,
    /// Most attempts with a server that fails, unless each brings the download on.
    pub fetch_attempts: u32,
    /// Most bytes of one download, and of one archive once it is unpacked.
    pub fetch_max: u64,
    /// Bytes of downloads that are kept for the next task of the same user, where a URI says `cache`; 0: none.
    pub fetch_cache: u64,
    /// For starting a container once everything is fetched.
    pub launch_timeout: u64,
    /// How long sandboxes of ended tasks stay while there is room.
    pub gc_delay: u64,
    /// Fraction of the disk that is kept free.
    pub gc_disk_headroom: f64,
    /// How often sandboxes are looked at.
    pub gc_interval: u64,
    /// First wait before an update is sent again.
    pub update_retry: u64,
    /// Longest wait.
    pub update_retry_max: u64,
    /// Whether a task's `disk` limits its sandbox and what it writes over its image: by project quota where the file system has it, otherwise
    /// measured, and the task that exceeds it fails.
    pub enforce_disk: bool,
    /// Bytes of one file of a task's output, which is then renamed (`stdout.1`); 0: tasks write to their files themselves, without limit.
    pub log_file_bytes: u64,
    /// How many such files are kept of each stream.
    pub log_files: u32,
    /// The most bytes that a task may have kept of one stream by `CONTAINER_LOGGER_…` variables of its own; 0: tasks have no say.
    pub log_task_bytes: u64,
    /// Whether a memory limit holds memory and swap together; otherwise tasks may swap as much as the machine has, as with Mesos' default.
    pub limit_swap: bool,
    /// Folders of the machine that tasks may mount, with what is below them. Empty: none.
    pub host_paths: Vec<PathBuf>,
    /// Volume drivers that tasks may use, by name. Empty: none.
    pub volume_drivers: Vec<String>,
    /// Where their plugins are looked for: sockets and files with addresses.
    pub volume_plugins: Vec<PathBuf>,
    /// For a plugin to make, mount or unmount a volume.
    pub volume_driver_timeout: u64,
    /// Whether tasks may be given the machine: `privileged`, capabilities beyond the usual ones, and the like.
    pub allow_privileged: bool,
    /// Whether tasks that run on the machine's own files have the default seccomp filter, too, as those with an image always do. Without it
    /// they may use `io_uring`, `keyctl`, `perf` and user namespaces.
    pub filter_commands: bool,
    /// Users of containers.
    pub user_namespaces: UsersConfig,
    /// Device files that containers are given.
    pub devices: DevicesConfig,
    /// Images.
    pub images: ImagesConfig,
    /// The Docker engine.
    pub docker: EngineConfig,
    /// Networks of containers.
    pub networks: plenum_networks::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            masters: vec!["127.88.0.1:5055".to_owned()],
            work_dir: "/var/lib/plenum/default/agent".into(),
            run_dir: "/run/plenum/default/agent".into(),
            log_file: None,
            hostname: String::new(),
            ip: "127.88.0.1".to_owned(),
            port: 5051,
            url: String::new(),
            resources: String::new(),
            default_role: "*".to_owned(),
            ports: crate::machine::PRIVATE_PORTS.to_owned(),
            attributes: String::new(),
            region: None,
            zone: None,
            detect_script: None,
            metadata_url: None,
            detect_timeout: 10,
            dns: Vec::new(),
            dns_search: Vec::new(),
            task_path: TASK_PATH.to_owned(),
            cpu_quota: true,
            task_processes: 10_000,
            send_starting: false,
            require_executor_token: true,
            kill_grace: 3,
            executor_shutdown_grace: 5,
            executor_registration_timeout: 60,
            executor_reregistration_timeout: 10,
            recovery_timeout: 900,
            fetch_timeout: 600,
            fetch_stall: 60,
            fetch_attempts: 5,
            fetch_max: 16 << 30,
            fetch_cache: 2 << 30,
            launch_timeout: 60,
            gc_delay: 2 * 24 * 3600,
            gc_disk_headroom: 0.1,
            gc_interval: 60,
            update_retry: 10,
            update_retry_max: 600,
            enforce_disk: true,
            log_file_bytes: 10 << 20,
            log_files: 5,
            log_task_bytes: 256 << 20,
            limit_swap: true,
            host_paths: Vec::new(),
            volume_drivers: Vec::new(),
            volume_plugins: ["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"]
                .map(PathBuf::from)
                .to_vec(),
            volume_driver_timeout: 120,
            allow_privileged: false,
            filter_commands: true,
            user_namespaces: UsersConfig::default(),
            devices: DevicesConfig::default(),
            images: ImagesConfig::default(),
            docker: EngineConfig::default(),
            networks: plenum_networks::Settings::default(),
        }
    }
}

impl Config {
    /// The ids of containers with a user namespace, for the runtime.
    #[must_use]
    pub fn users_of_containers(&self) -> Option<plenum_containers::UserNamespaces> {
        self.user_namespaces.ranges(vec![self.work_dir.clone(), self.run_dir.clone()])
    }

    /// Where what is known of containers' networks is.
    #[must_use]
    pub fn network_folder(&self) -> PathBuf {
        self.run_dir.join("networks")
    }

    pub(crate) fn fetch_deadline(&self) -> Duration {
        Duration::from_secs(self.fetch_timeout.max(1))
    }

    /// What is kept of each stream of a task's output; `None`: everything.
    #[must_use]
    pub fn log_budget(&self) -> Option<plenum_containers::LogBudget> {
        let (file_bytes, files) = (self.log_file_bytes, self.log_files);
        (file_bytes > 0).then(|| plenum_containers::LogBudget {
            file_bytes: file_bytes.max(4096),
            files: files.clamp(1, 1000),
        })
    }

    pub(crate) fn launch_deadline(&self) -> Duration {
        Duration::from_secs(self.launch_timeout.max(1))
    }
}

/// The Docker engine, as the agent's file has it under `[agent.docker]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Who runs tasks of the type DOCKER.
    pub runs: EngineUse,
    /// The engine's socket.
    pub socket: PathBuf,
    /// Whether images that it pulled for tasks are removed again as native ones are (`images.gc_delay`, `gc_disk_headroom`).
    pub collect_images: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { runs: EngineUse::Auto, socket: "/var/run/docker.sock".into(), collect_images: true }
    }
}

/// Who runs tasks of the type DOCKER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineUse {
    /// The engine if its socket is there when the agent starts, the agent's own runtime otherwise.
    Auto,
    /// The engine.
    Always,
    /// The agent's own runtime.
    Never,
}

impl EngineConfig {
    /// Whether the engine runs them.
    pub fn wanted(&self) -> bool {
        match self.runs {
            EngineUse::Auto => self.socket.exists(),
            EngineUse::Always => true,
            EngineUse::Never => false,
        }
    }
}

/// What the process gives the agent.
pub struct Parts {
    /// Its certificate: shown to masters and to those who call over TLS.
    pub identity: Identity,
    /// Who may call.
    pub authenticator: Arc<Authenticator>,
    /// Where the masters are, in a fleet; on a single machine [`Config::masters`] holds.
    pub masters: Masters,
    /// Where plain HTTP is taken.
    pub plain: Plain,
    /// Where it serves HTTP.
    pub listener: TcpListener,
    /// What runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// The engine among it, if it runs any.
    pub docker: Option<Arc<plenum_docker::DockerRuntime>>,
    /// The program and arguments that unpack a layer in a confined process; none: a thread of this one does.
    pub unpacker: Option<Vec<OsString>>,
}
