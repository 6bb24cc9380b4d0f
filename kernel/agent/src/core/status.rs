//! How statuses are made: common fields, what is carried over from the status before, and the words for an exit.

use plenum_api::mesos::network_info::IpAddress;
use plenum_api::mesos::task_status::{Reason, Source};
use plenum_api::mesos::{ContainerStatus, FrameworkInfo, Label, Labels, NetworkInfo, TaskState, TaskStatus};

use super::event::{ExecutorKey, Exit, ExitStatus, TaskKey};
use super::model::{KillCause, Task};
use super::{Agent, Cx, wire};

/// Label of a status: the task's image by digest.
const IMAGE_LABEL: &str = "image";

/// What is said of a task that took too much of the disk.
pub(super) const DISK_EXCEEDED: &str = "Disk usage exceeds quota: the sandbox, or what was written over the image, is larger than the task's `disk`; ask for more";

/// What is particular about a status.
#[derive(Debug, Clone)]
pub(crate) struct News {
    pub state: TaskState,
    pub source: Source,
    pub reason: Option<Reason>,
    pub message: Option<String>,
    pub healthy: Option<bool>,
}

impl News {
    /// As the command executor says it.
    pub fn executor(state: TaskState) -> Self {
        Self { state, source: Source::Executor, reason: None, message: None, healthy: None }
    }

    /// As the agent says it.
    pub fn agent(state: TaskState, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            state,
            source: Source::Agent,
            reason: Some(reason),
            message: Some(message.into()),
            healthy: None,
        }
    }

    pub fn reason(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }
}

/// LOST for frameworks that are not partition-aware, the more exact state for the others.
pub(crate) fn lost_or(framework: Option<&FrameworkInfo>, exact: TaskState) -> TaskState {
    use plenum_api::mesos::framework_info::capability::Type;
    match framework {
        Some(info) if wire::capable(info, Type::PartitionAware) => exact,
        _ => TaskState::TaskLost,
    }
}

/// What is said of a container that ran out of memory, with what is known of that.
pub(super) fn memory_exceeded(exit: &Exit) -> String {
    match exit.message.as_str() {
        "" => "Memory limit exceeded".to_owned(),
        known => format!("Memory limit exceeded: {known}"),
    }
}

/// The terminal status of a command task whose process ended, as Mesos' command executor words it.
pub(crate) fn verdict(exit: &Exit, kill: Option<KillCause>) -> News {
    let words = match exit.status {
        ExitStatus::Code(code) => format!("Command exited with status {code}"),
        ExitStatus::Signal(signal) => format!("Command terminated with signal {}", wire::signal_name(signal)),
        ExitStatus::Unknown => "Failed to get exit status for Command".to_owned(),
    };
    if exit.oom && exit.status != ExitStatus::Code(0) {
        let message = format!("{}; {words}", memory_exceeded(exit));
        return News::agent(TaskState::TaskFailed, Reason::ContainerLimitationMemory, message);
    }
    let words = if exit.message.is_empty() { words } else { format!("{words}; {}", exit.message) };
    if kill == Some(KillCause::Disk) {
        return News::agent(TaskState::TaskFailed, Reason::ContainerLimitationDisk, DISK_EXCEEDED);
    }
    let news = match kill {
        Some(KillCause::Completion) => {
            News::executor(TaskState::TaskFailed).reason(Reason::MaxCompletionTimeReached)
        }
        Some(KillCause::Drain | KillCause::DrainGone) => {
            News::executor(TaskState::TaskKilled).reason(Reason::AgentDraining)
        }
        Some(KillCause::Teardown) => News::executor(TaskState::TaskKilled).reason(Reason::FrameworkRemoved),
        Some(KillCause::Health) => News { healthy: Some(false), ..News::executor(TaskState::TaskKilled) },
        Some(KillCause::Framework | KillCause::Shutdown | KillCause::Group) => {
            News::executor(TaskState::TaskKilled)
        }
        // Answered above.
        Some(KillCause::Disk) => News::executor(TaskState::TaskFailed),
        None if exit.abnormal => {
            return News::agent(TaskState::TaskFailed, Reason::ExecutorTerminated, words);
        }
        None if exit.status == ExitStatus::Code(0) => News::executor(TaskState::TaskFinished),
        None => News::executor(TaskState::TaskFailed),
    };
    news.message(words)
}

/// Which bytes a task runs: what a scheduler pins the other instances to.
fn image_label(task: &Task) -> Option<Labels> {
    let label = Label { key: IMAGE_LABEL.to_owned(), value: Some(task.image.clone()) };
    (!task.image.is_empty()).then(|| Labels { labels: vec![label] })
}

impl Agent {
    /// A complete status. What the news do not mention is as in the status before.
    pub(super) fn make_status(&self, key: &TaskKey, news: News, cx: &Cx<'_>) -> TaskStatus {
        let task = self.tasks.get(key);
        let before = task.and_then(|task| task.latest.as_ref());
        let mut status = TaskStatus {
            task_id: key.task.as_str().into(),
            message: news.message,
            agent_id: Some(self.agent_id.as_str().into()),
            executor_id: task.map(|task| task.executor_id().into()),
            timestamp: Some(cx.now.wall.as_secs_f64()),
            healthy: news.healthy.or(before.and_then(|status| status.healthy)),
            check_status: before.and_then(|status| status.check_status),
            container_status: task.and_then(|task| self.container_status(task)),
            labels: task.and_then(|task| image_label(task)),
            ..Default::default()
        };
        status.set_state(news.state);
        status.set_source(news.source);
        if let Some(reason) = news.reason {
            status.set_reason(reason);
        }
        status
    }

    /// Makes and forwards a status.
    pub(super) fn say(&mut self, key: &TaskKey, news: News, cx: &mut Cx<'_>) {
        let status = self.make_status(key, news, cx);
        self.forward(key, status, cx);
    }

    /// Where a task runs. A container on the host's network has the host's address.
    pub(super) fn container_status(&self, task: &Task) -> Option<ContainerStatus> {
        let (container, pid, networks) = match &task.executor {
            _ if task.ours() => (&task.container, task.pid, &task.networks),
            None => (&task.container, task.pid, &task.networks),
            Some(id) => {
                let key = ExecutorKey { framework: task.framework.clone(), executor: id.clone() };
                let executor = self.executors.get(&key)?;
                (&executor.container, executor.pid, &executor.networks)
            }
        };
        if container.is_empty() {
            return None;
        }
        let network_infos = if networks.is_empty() { vec![self.host_network()] } else { networks.clone() };
        let pod = task.executor.as_ref().filter(|_| task.pod).and_then(|id| {
            let key = ExecutorKey { framework: task.framework.clone(), executor: id.clone() };
            self.executors.get(&key)
        });
        let container_id = match pod {
            Some(pod) => super::pods::nested(container, &pod.container),
            None => container.as_str().into(),
        };
        Some(ContainerStatus {
            container_id: Some(container_id),
            network_infos,
            executor_pid: pid,
            ..Default::default()
        })
    }

    fn host_network(&self) -> NetworkInfo {
        let address = IpAddress { ip_address: Some(self.settings.ip.clone()), ..Default::default() };
        NetworkInfo { ip_addresses: vec![address], ..Default::default() }
    }
}
