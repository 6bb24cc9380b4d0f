//! The role `agent`: puts certificate, callers, socket and container runtime together and hands them to the agent.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use plenum_base::component::{Component, ComponentSettings};
use plenum_base::config::Settings;
use plenum_base::places::{Instance, Places, Role};
use plenum_base::service::Shutdown;
use plenum_containers::{NativeRuntime, Runtime, RuntimeConfig};
use plenum_docker::{Both, DockerConfig, DockerRuntime};
use serde::{Deserialize, Serialize};

use super::Choices;

/// The role's file.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentFile {
    /// The parent of containers' control groups, below each hierarchy's mount; none: `plenum-<instance>`. Under systemd it is a group that
    /// was handed over by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// What every role has.
    pub component: ComponentSettings,
    /// The agent's own settings.
    pub agent: plenum_agent::Config,
}

impl AgentFile {
    /// The settings of a single-machine instance.
    pub fn at(places: &Places, choices: Choices) -> Self {
        let mut component = ComponentSettings::at(places, Role::Agent);
        component.open = choices.open;
        let agent = plenum_agent::Config {
            masters: vec![places.agents_door().to_string()],
            work_dir: places.data(Role::Agent),
            run_dir: places.run.join("agent"),
            log_file: Some(places.log(Role::Agent)),
            ip: places.node().to_string(),
            hostname: places.node().to_string(),
            port: places.address(Role::Agent).port(),
            // A resolver's port cannot be said in resolv.conf: without root, containers use the machine's resolvers.
            dns: if places.root { vec![places.dns().ip().to_string()] } else { Vec::new() },
            task_path: task_path(),
            require_executor_token: !choices.open,
            networks: plenum_agent::NetworksConfig {
                instance: places.instance.as_str().to_owned(),
                ..Default::default()
            },
            ..Default::default()
        };
        Self { cgroup: None, component, agent }
    }
}

/// Tasks find this very program, wherever it was put: the package `hello` runs it.
fn task_path() -> String {
    let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(std::path::Path::to_path_buf));
    match own.as_deref().and_then(std::path::Path::to_str) {
        Some(folder) if !folder.contains(':') => format!("{}:{folder}", plenum_agent::TASK_PATH),
        _ => plenum_agent::TASK_PATH.to_owned(),
    }
}

impl Default for AgentFile {
    fn default() -> Self {
        Self::at(&Places::of(Instance::default(), 0), Choices::default())
    }
}

impl Settings for AgentFile {
    fn check(&self, problems: &mut Vec<String>) {
        if let Some(problem) = self.agent.user_namespaces.problem() {
            problems.push(format!("agent.user_namespaces: {problem}"));
        }
        let wrong = |group: &String| {
            group.starts_with('/') || group.split('/').any(|part| matches!(part, "" | "." | ".."))
        };
        if let Some(group) = self.cgroup.as_ref().filter(|group| wrong(group)) {
            problems.push(format!(
                "cgroup: \"{group}\" is no path below a hierarchy's mount, such as plenum.slice/tasks"
            ));
        }
    }
}

/// The container runtime of an instance.
pub fn runtime(file: &AgentFile) -> Result<NativeRuntime> {
    let shim = crate::shim::lay_down(&file.component.data)?;
    let mut config =
        RuntimeConfig::new(file.component.instance.as_str(), shim, file.agent.run_dir.join("containers"));
    if let Some(group) = &file.cgroup {
        config.cgroup_parent.clone_from(group);
    }
    config.projects = Some(projects(&file.component.instance, &file.component.data));
    config.filter_host_root = file.agent.filter_commands;
    config.user_namespaces = file.agent.users_of_containers();
    NativeRuntime::new(config).context("the container runtime")
}

/// Project ids for disk limits: a range of the instance's own, since ids count for a whole file system.
fn projects(instance: &Instance, data: &std::path::Path) -> plenum_containers::Projects {
    const EACH: u32 = 1 << 14;
    let hash = instance
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let first = (1 << 30) | ((hash >> 16) * EACH);
    plenum_containers::Projects { folder: data.join("projects"), first, count: EACH }
}

/// Removes bridges, namespaces and tables of containers. No agent of the instance may run.
pub async fn remove_networks(file: &AgentFile) -> Result<()> {
    let (folder, settings) = (file.agent.network_folder(), file.agent.networks.clone());
    Ok(plenum_networks::Networks::teardown(&folder, settings).await?)
}

/// Everything that runs containers, and the engine among it, where there is one.
type Runtimes = (Arc<dyn Runtime>, Option<Arc<DockerRuntime>>);

fn runtimes(file: &AgentFile) -> Result<Runtimes> {
    let native: Arc<dyn Runtime> = Arc::new(runtime(file)?);
    if !file.agent.docker.wanted() {
        return Ok((native, None));
    }
    let mut config = DockerConfig::new(
        file.component.instance.as_str(),
        &file.agent.docker.socket,
        file.agent.run_dir.join("docker"),
    );
    config.logs = file.agent.log_budget();
    config.images = Some(file.agent.work_dir.join("docker-images.json"));
    let docker = Arc::new(DockerRuntime::new(config).context("the Docker engine")?);
    Ok((Arc::new(Both::new(native, docker.clone())), Some(docker)))
}

/// Runs the role until `shutdown`.
pub async fn run(file: AgentFile, shutdown: Shutdown) -> Result<()> {
    let component = Component::start(file.component.clone(), &shutdown)?;
    let listener = plenum_base::sockets::tcp("http", file.component.listen)?;
    let (runtime, docker) = runtimes(&file)?;
    let parts = plenum_agent::Parts {
        identity: component.identity.clone(),
        authenticator: Arc::clone(&component.authenticator),
        masters: component.masters.clone(),
        plain: file.component.plain,
        listener,
        runtime,
        docker,
        unpacker: Some(vec![std::env::current_exe()?.into(), "unpack-layer".into()]),
    };
    plenum_agent::run(file.agent, parts, shutdown).await?;
    Ok(())
}
