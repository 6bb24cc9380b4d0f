//! Pods: executors of the type DEFAULT. Such an executor has no process of its own; every task of it is a container of ours below it.
//!
//! Owns when a group falls, when a pod ends and how it is shut down. Launching is in `run`, killing one task in `kill`.

use plenum_api::Millis;
use plenum_api::mesos::executor_info::Type as ExecutorType;
use plenum_api::mesos::{ContainerId, ContainerInfo, ExecutorInfo, TaskState};

use super::event::{Effect, ExecutorKey, TaskKey};
use super::model::{Executor, ExecutorPhase, KillCause, Phase, Task};
use super::{Agent, Cx, records, wire};

/// Whether an executor is a pod.
pub(crate) fn is_pod(info: &ExecutorInfo) -> bool {
    info.r#type() == ExecutorType::Default
}

/// Sandbox of a pod's task, below the pod's own.
pub(crate) fn task_sandbox(pod: &str, task: &str) -> String {
    format!("{pod}/tasks/{task}")
}

/// Id of a task's container, below the pod's.
pub(crate) fn nested(container: &str, pod: &str) -> ContainerId {
    ContainerId { value: container.to_owned(), parent: Some(Box::new(ContainerId::from(pod))) }
}

/// What a pod's task is given: its own, and what the pod has for all.
pub(crate) fn container_info(task: Option<&ContainerInfo>, pod: &ExecutorInfo) -> Option<ContainerInfo> {
    let Some(shared) = &pod.container else { return task.cloned() };
    let mut info =
        task.cloned().unwrap_or_else(|| ContainerInfo { r#type: shared.r#type, ..Default::default() });
    info.network_infos.clone_from(&shared.network_infos);
    info.volumes.extend(shared.volumes.iter().cloned());
    if info.hostname.is_none() {
        info.hostname.clone_from(&shared.hostname);
    }
    Some(info)
}

impl Task {
    /// Its container is this agent's to start and to end: a command task's, or one of a pod.
    pub fn ours(&self) -> bool {
        self.executor.is_none() || self.pod
    }
}

impl Executor {
    pub fn is_pod(&self) -> bool {
        is_pod(&self.info)
    }
}

impl Agent {
    /// The pod a task belongs to.
    pub(super) fn pod_of(&self, key: &TaskKey) -> Option<ExecutorKey> {
        let task = self.tasks.get(key).filter(|task| task.pod)?;
        Some(ExecutorKey { framework: key.framework.clone(), executor: task.executor.clone()? })
    }

    /// A pod is there as soon as it is written down.
    pub(super) fn pod_written(&mut self, key: &ExecutorKey) {
        if let Some(pod) = self.executors.get_mut(key)
            && pod.phase == ExecutorPhase::Intent
        {
            pod.phase = ExecutorPhase::Subscribed;
            pod.launched = true;
        }
    }

    /// A task of a group has ended. Unless it finished, the others end with it, as with Mesos' default executor.
    pub(super) fn group_fell(&mut self, key: &TaskKey, state: TaskState, cx: &mut Cx<'_>) {
        if state == TaskState::TaskFinished {
            return;
        }
        let Some(task) = self.tasks.get(key).filter(|task| task.pod && task.group) else { return };
        let (executor, launch) = (task.executor.clone(), task.launch_id.clone());
        let others: Vec<TaskKey> = self
            .tasks
            .iter()
            .filter(|(id, other)| id.framework == key.framework && *id != key && other.group)
            .filter(|(_, other)| other.executor == executor && other.launch_id == launch)
            .filter(|(_, other)| other.phase != Phase::Ended && other.kill.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for other in others {
            self.kill_task(&other, None, KillCause::Group, cx);
        }
    }

    /// Ends a pod none of whose tasks lives, once the disk knows how each of them ended.
    pub(super) fn pod_idle(&mut self, key: &ExecutorKey, cx: &mut Cx<'_>) {
        if !self.executors.get(key).is_some_and(|pod| pod.is_pod() && pod.phase != ExecutorPhase::Intent) {
            return;
        }
        let over = |id: &TaskKey| {
            self.tasks.get(id).is_none_or(|task| {
                task.phase == Phase::Ended && (task.volatile || task.durable_revision > 0 && task.released)
            })
        };
        if !self.tasks_of(key, None).iter().all(over) {
            return;
        }
        let Some(pod) = self.executors.remove(key) else { return };
        cx.save_executors.remove(key);
        cx.writes.push(records::delete(records::executor_key(&key.framework, &key.executor)));
        // What its tasks shared.
        cx.out.push(Effect::Release { container: pod.container.clone() });
        Self::say_executor_exited(key, Some(0), cx);
        self.retire(&pod.container, &pod.directory, cx);
        self.framework_idle(&key.framework, cx);
    }

    /// Ends every task of a pod, within the pod's grace; the pod ends with the last of them.
    pub(super) fn shutdown_pod(&mut self, key: &ExecutorKey, cause: KillCause, cx: &mut Cx<'_>) {
        let Some(pod) = self.executors.get_mut(key) else { return };
        if pod.phase != ExecutorPhase::Intent {
            pod.phase = ExecutorPhase::Terminating;
        }
        let info = pod.info.clone();
        let most = self.executor_grace(&info);
        for id in self.tasks_of(key, None) {
            let own = self.tasks.get(&id).and_then(|task| wire::grace(task.info.kill_policy.as_ref()));
            let grace: Millis = own.unwrap_or(self.settings.kill_grace).min(most);
            self.kill_task(&id, Some(grace), cause, cx);
        }
        self.pod_idle(key, cx);
    }

    /// After a restart: groups that fell while nobody looked, pods with nothing left.
    pub(super) fn recover_pods(&mut self, cx: &mut Cx<'_>) {
        let fallen: Vec<(TaskKey, TaskState)> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.group && task.phase == Phase::Ended)
            .map(|(key, task)| (key.clone(), task.state()))
            .collect();
        for (key, state) in fallen {
            self.group_fell(&key, state, cx);
        }
        let pods: Vec<ExecutorKey> =
            self.executors.iter().filter(|(_, one)| one.is_pod()).map(|(key, _)| key.clone()).collect();
        for key in pods {
            self.pod_written(&key);
            self.pod_idle(&key, cx);
        }
    }

    /// Everything of this pod that the runtime knows is destroyed.
    pub(super) fn destroy_pod(&mut self, key: &ExecutorKey, cx: &mut Cx<'_>) {
        for id in self.tasks_of(key, None) {
            if let Some(task) = self.tasks.get(&id).filter(|task| task.phase != Phase::Ended) {
                cx.out.push(Effect::Destroy { container: task.container.clone() });
            }
        }
    }
}
