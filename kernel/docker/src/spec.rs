//! What a container of the engine is to be. Everything that the engine can do beyond [`plenum_containers::ContainerSpec`]
//! is here, and nothing of Mesos: [`crate::translate`] makes one from a task. Pure.

use plenum_containers::DiskLimit;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where a container finds its sandbox; Mesos' place for it.
pub const SANDBOX: &str = "/mnt/mesos/sandbox";

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerSpec {
    /// The id as the agent knows it; the engine's name is [`container_name`].
    pub id: String,
    /// The sandbox on the host; exists. Shown at [`SANDBOX`].
    pub sandbox: PathBuf,
    /// Name in the sandbox that standard output is appended to.
    pub stdout: String,
    /// Name in the sandbox that standard error is appended to.
    pub stderr: String,
    /// The image and how it is got.
    pub image: ImageWish,
    /// Program before the arguments; the image's if `None`.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments; the image's if `None`.
    pub cmd: Option<Vec<String>>,
    /// Added to the image's environment.
    pub env: BTreeMap<String, String>,
    /// Network.
    pub network: DockerNetwork,
    /// Host name inside; the engine's choice if `None`.
    pub hostname: Option<String>,
    /// Ports of the host that lead into the container.
    pub ports: Vec<PortMapping>,
    /// Besides the sandbox.
    pub volumes: Vec<DockerVolume>,
    /// Driver of volumes that are named and name none.
    pub volume_driver: Option<String>,
    /// Trusted with the machine.
    pub privileged: bool,
    /// Options of `docker run` without their dashes, in this order, each over what is said elsewhere.
    pub parameters: Vec<(String, String)>,
    /// Limits.
    pub limits: DockerLimits,
    /// What the sandbox, and what is written over the image, may take of the disk. It is measured.
    pub disk: Option<DiskLimit>,
    /// The capabilities that it keeps, by name without `CAP_`; the engine's choice if `None`.
    pub capabilities: Option<Vec<String>>,
    /// No system calls are refused.
    pub seccomp_unconfined: bool,
    /// `host` or `private`.
    pub ipc: Option<String>,
    /// Sees the processes of the host.
    pub host_pids: bool,
    /// Size of `/dev/shm` in bytes.
    pub shm_bytes: Option<u64>,
    /// Resource limits: name as in `--ulimit`, soft, hard (-1 for none).
    pub ulimits: Vec<(String, i64, i64)>,
    /// A terminal instead of two streams; all output goes to [`DockerSpec::stdout`].
    pub tty: bool,
    /// Name servers and search domains, for networks that are not the host's.
    pub dns: Dns,
    /// Added to the labels that adoption needs.
    pub labels: BTreeMap<String, String>,
    /// For creating and starting, without the pull.
    pub launch_deadline: Duration,
}

impl DockerSpec {
    /// A container with the engine's defaults, of the image's own command.
    #[must_use]
    pub fn new(id: impl Into<String>, sandbox: impl Into<PathBuf>, image: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            sandbox: sandbox.into(),
            stdout: "stdout".into(),
            stderr: "stderr".into(),
            image: ImageWish { name: image.into(), force_pull: false, credentials: None },
            entrypoint: None,
            cmd: None,
            env: BTreeMap::new(),
            network: DockerNetwork::Host,
            hostname: None,
            ports: Vec::new(),
            volumes: Vec::new(),
            volume_driver: None,
            privileged: false,
            parameters: Vec::new(),
            limits: DockerLimits::default(),
            disk: None,
            capabilities: None,
            seccomp_unconfined: false,
            ipc: None,
            host_pids: false,
            shm_bytes: None,
            ulimits: Vec::new(),
            tty: false,
            dns: Dns::default(),
            labels: BTreeMap::new(),
            launch_deadline: Duration::from_secs(60),
        }
    }
}

/// An image and how it is got.
#[derive(Clone, PartialEq, Eq)]
pub struct ImageWish {
    /// As in `docker run`.
    pub name: String,
    /// Ask the registry even if the engine has the image.
    pub force_pull: bool,
    /// The text of a `config.json` (or `.dockercfg`) with credentials of registries. Secret.
    pub credentials: Option<String>,
}

impl fmt::Debug for ImageWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageWish")
            .field("name", &self.name)
            .field("force_pull", &self.force_pull)
            .field("credentials", &self.credentials.as_ref().map(|_| "<hidden>"))
            .finish()
    }
}

/// Mesos' networks of a Docker container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerNetwork {
    /// The machine's.
    Host,
    /// The engine's default bridge.
    Bridge,
    /// Loopback only.
    None,
    /// A network that the engine knows by this name.
    User(String),
}

impl DockerNetwork {
    /// As the engine names it.
    #[must_use]
    pub fn mode(&self) -> &str {
        match self {
            Self::Host => "host",
            Self::Bridge => "bridge",
            Self::None => "none",
            Self::User(name) => name,
        }
    }
}

/// A port of the host that leads into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// On the host.
    pub host: u16,
    /// In the container.
    pub container: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerVolume {
    /// What.
    pub source: VolumeSource,
    /// Absolute path in the container.
    pub target: String,
    /// For reading only.
    pub read_only: bool,
    /// `rslave` or `rshared`; private if `None`.
    pub propagation: Option<&'static str>,
}

/// See [`DockerVolume`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A path of the host; made as a folder if missing, as `docker run -v` does.
    Path(PathBuf),
    /// A volume of the engine or of a volume driver; made if missing.
    Named {
        /// Its name.
        name: String,
        /// The driver; [`DockerSpec::volume_driver`] if `None`.
        driver: Option<String>,
        /// For the driver, when the volume is made.
        options: BTreeMap<String, String>,
    },
}

/// What a container may use. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DockerLimits {
    /// Weight; 1024 is one processor.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each tenth of a second.
    pub cpu_quota_us: Option<u64>,
    /// Hard limit in bytes; nothing is swapped beyond it.
    pub memory: Option<u64>,
    /// What the kernel tries to leave it in bytes.
    pub memory_reservation: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Name resolution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
}

/// The engine's name for a container; Mesos' form.
#[must_use]
pub fn container_name(id: &str) -> String {
    format!("mesos-{id}")
}

/// What is wrong with a description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecFault {
    /// A field of the task.
    #[error("{field}: {why}")]
    Field {
        /// Its name.
        field: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A parameter that is no option of `docker run`.
    #[error("docker parameter {name:?}: there is no such option of `docker run`; the nearest is {nearest:?}")]
    Unknown {
        /// As given.
        name: String,
        /// The supported one that looks most like it.
        nearest: &'static str,
    },
    /// A parameter that cannot be given.
    #[error("docker parameter {name:?} is not for tasks: {why}")]
    Refused {
        /// As given.
        name: String,
        /// Why, and what to use instead.
        why: &'static str,
    },
    /// A parameter's value.
    #[error("docker parameter {name:?}: {why}")]
    Value {
        /// As given.
        name: String,
        /// What is wrong, and what is expected.
        why: String,
    },
}

impl SpecFault {
    pub(crate) fn field(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Field { field: field.into(), why: why.into() }
    }
}
