//! What may be looked at: the agent's state as HTTP shows it, built when somebody asks.

use plenum_api::mesos;
use plenum_api::mesos::{AgentInfo, ExecutorId, ExecutorInfo, FrameworkInfo};

use super::Agent;
use super::event::TaskKey;
use super::model::{ExecutorPhase, Phase, Task};

/// A task and where it lives.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// As Mesos shows it.
    pub task: mesos::Task,
    /// Its container.
    pub container: String,
    /// Its sandbox.
    pub directory: String,
    /// Process id on the host.
    pub pid: Option<u32>,
    /// Where it is in its life: `pending`, `queued`, `launched`, `terminated` (not acknowledged) or `completed`.
    pub stage: &'static str,
}

/// An executor: a custom one, or the one a command task is shown under.
#[derive(Debug, Clone)]
pub struct ExecutorView {
    /// Its description; made up for a command task.
    pub info: ExecutorInfo,
    /// Whether it stands for a command task.
    pub command: bool,
    /// Its container.
    pub container: String,
    /// Its sandbox.
    pub directory: String,
    /// Process id on the host.
    pub pid: Option<u32>,
    /// It has ended.
    pub completed: bool,
    /// Its tasks.
    pub tasks: Vec<TaskView>,
}

/// A framework with something here.
#[derive(Debug, Clone)]
pub struct FrameworkView {
    /// Its id.
    pub id: String,
    /// Its description.
    pub info: FrameworkInfo,
    /// Nothing of it is left but memory.
    pub completed: bool,
    /// Its executors.
    pub executors: Vec<ExecutorView>,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct View {
    /// The agent as offers show it.
    pub agent: AgentInfo,
    /// Operations on resources whose result nobody has taken note of.
    pub operations: Vec<mesos::Operation>,
    /// Identity; empty before the first registration.
    pub agent_id: String,
    /// A master has it registered.
    pub registered: bool,
    /// Draining.
    pub draining: bool,
    /// Highest term.
    pub term: u64,
    /// Frameworks by id.
    pub frameworks: Vec<FrameworkView>,
}

impl Agent {
    /// A picture of everything, for those who look.
    pub fn view(&self) -> View {
        let frameworks = self.frameworks.iter().map(|(id, framework)| {
            let executors = self.executors_of(id);
            let live = executors.iter().any(|executor| !executor.completed);
            FrameworkView { id: id.clone(), info: framework.info.clone(), completed: !live, executors }
        });
        View {
            agent: AgentInfo { resources: self.operations.total.to_mesos(), ..self.agent_info() },
            operations: self.operations.pending(),
            agent_id: self.agent_id.clone(),
            registered: self.is_registered(),
            draining: self.draining.is_some(),
            term: self.term,
            frameworks: frameworks.collect(),
        }
    }

    /// How many tasks are in each stage: launching or queued, running, ended but not acknowledged, remembered.
    pub fn task_counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for task in self.tasks.values() {
            let at = match task.phase {
                Phase::Intent | Phase::Launching | Phase::Queued => 0,
                Phase::Running => 1,
                Phase::Ended => 2,
            };
            counts[at] += 1;
        }
        counts[3] = self.tombstones.len();
        counts
    }

    /// Everything that something may be kept for: containers that live, and pods.
    pub fn kept(&self) -> std::collections::BTreeSet<String> {
        let pods = self.executors.values().map(|executor| executor.container.clone());
        self.containers.keys().cloned().chain(pods).collect()
    }

    /// Container and sandbox of everything that lives, for usage figures.
    pub fn live_containers(&self) -> Vec<String> {
        self.containers.keys().cloned().collect()
    }

    fn executors_of(&self, framework: &str) -> Vec<ExecutorView> {
        let mut views: Vec<ExecutorView> = Vec::new();
        let live = self.executors.iter().filter(|(key, _)| key.framework == framework);
        for (_, executor) in live {
            views.push(ExecutorView {
                info: executor.info.clone(),
                command: false,
                container: executor.container.clone(),
                directory: executor.directory.clone(),
                pid: executor.pid,
                completed: executor.phase == ExecutorPhase::Terminating && !executor.launched,
                tasks: Vec::new(),
            });
        }
        let tasks = self.tasks.iter().filter(|(key, task)| key.framework == framework && !task.volatile);
        for (key, task) in tasks {
            let view = TaskView {
                task: to_task(&self.agent_id, key, task),
                container: task.container.clone(),
                directory: task.directory.clone(),
                pid: task.pid,
                stage: stage(task.phase),
            };
            let ended = task.phase == Phase::Ended;
            place(&mut views, view, task.executor.as_deref(), ended, task.info.command.clone());
        }
        for (_, stone) in self.tombstones.iter().filter(|(key, _)| key.framework == framework) {
            let view = TaskView {
                task: stone.task.clone(),
                container: stone.container.clone(),
                directory: stone.directory.clone(),
                pid: None,
                stage: "completed",
            };
            let executor = stone.task.executor_id.as_ref().map(|id| id.value.clone());
            place(&mut views, view, executor.as_deref(), true, None);
        }
        views
    }
}

/// Puts a task under its executor, making one up where there is none.
fn place(
    views: &mut Vec<ExecutorView>,
    task: TaskView,
    executor: Option<&str>,
    completed: bool,
    command: Option<mesos::CommandInfo>,
) {
    if let Some(id) = executor
        && let Some(view) = views.iter_mut().find(|view| !view.command && view.info.executor_id.value == id)
    {
        view.tasks.push(task);
        return;
    }
    let id = executor.unwrap_or(&task.task.task_id.value).to_owned();
    let name = format!("Command Executor (Task: {id})");
    let info = ExecutorInfo {
        executor_id: ExecutorId::from(id),
        framework_id: Some(task.task.framework_id.clone()),
        resources: task.task.resources.clone(),
        name: Some(if executor.is_some() { String::new() } else { name }),
        command,
        ..Default::default()
    };
    views.push(ExecutorView {
        info,
        command: executor.is_none(),
        container: task.container.clone(),
        directory: task.directory.clone(),
        pid: task.pid,
        completed,
        tasks: vec![task],
    });
}

fn stage(phase: Phase) -> &'static str {
    match phase {
        Phase::Intent | Phase::Launching => "pending",
        Phase::Queued => "queued",
        Phase::Running => "launched",
        Phase::Ended => "terminated",
    }
}

/// A task as Mesos shows it.
pub(crate) fn to_task(agent_id: &str, key: &TaskKey, task: &Task) -> mesos::Task {
    let mut view = mesos::Task {
        name: task.info.name.clone(),
        task_id: key.task.as_str().into(),
        framework_id: key.framework.as_str().into(),
        executor_id: task.executor.as_deref().map(Into::into),
        agent_id: agent_id.into(),
        resources: task.info.resources.clone(),
        statuses: task.latest.iter().cloned().collect(),
        labels: task.info.labels.clone(),
        discovery: task.info.discovery.clone(),
        container: task.info.container.clone(),
        health_check: task.info.health_check.clone(),
        kill_policy: task.info.kill_policy,
        user: task.info.command.as_ref().and_then(|command| command.user.clone()),
        limits: task.info.limits.clone(),
        ..Default::default()
    };
    view.set_state(task.state());
    // The state the master last heard, or will hear next.
    let oldest = task.stream.pending.front().map(|pending| &pending.status).or(task.latest.as_ref());
    if let Some(status) = oldest {
        view.set_status_update_state(status.state());
        view.status_update_uuid = status.uuid.clone();
    }
    view
}
