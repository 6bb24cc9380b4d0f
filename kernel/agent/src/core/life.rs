//! From a started container to the last word about its task.

use plenum_api::Millis;
use plenum_api::internal::{self, agent_message::Kind as Say};
use plenum_api::mesos::TaskState;
use plenum_api::mesos::task_status::Reason;

use super::event::{Effect, Exit, ExitStatus, LaunchStage, Level, Started, TaskKey, Tombstone};
use super::model::{Kill, KillCause, Mark, Phase};
use super::status::{News, verdict};
use super::{Agent, Cx, ExecutorKey, Owner, records, view, wire};

impl Agent {
    pub(super) fn launched(&mut self, container: &str, started: Started, cx: &mut Cx<'_>) {
        match self.containers.get(container).cloned() {
            Some(Owner::Task(key)) => self.task_launched(&key, started, cx),
            Some(Owner::Executor(key)) => self.executor_launched(&key, started, cx),
            None => {
                cx.report(Level::Warn, format!("Container {container} was started but nobody wants it"));
                cx.out.push(Effect::Destroy { container: container.to_owned() });
            }
        }
    }

    fn task_launched(&mut self, key: &TaskKey, started: Started, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if !matches!(task.phase, Phase::Launching) {
            return;
        }
        task.pid = started.pid;
        task.networks = started.networks;
        task.image = started.image;
        self.now_running(key, cx);
    }

    /// Its process runs: say so, and start everything that counts from now.
    pub(super) fn now_running(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.phase = Phase::Running;
        task.started_at = cx.now.wall;
        if let Some(limit) = &task.info.max_completion_time {
            let at = cx.after(wire::duration(limit));
            task.completes_by = Some(at);
            self.mark(at, Mark::Task(key.clone()));
        }
        if self.tasks.get(key).is_none_or(|task| task.kill.is_none()) {
            self.start_checks(key, cx);
        }
        let mut status = self.make_status(key, News::executor(TaskState::TaskRunning), cx);
        let check = self.tasks.get(key).and_then(|task| task.info.check.as_ref());
        if let Some(check) = check {
            status.check_status = Some(super::checks::first_check_status(check));
        }
        self.forward(key, status, cx);
        self.begin_kill(key, cx);
    }

    pub(super) fn launch_failed(
        &mut self,
        container: &str,
        stage: LaunchStage,
        message: &str,
        cx: &mut Cx<'_>,
    ) {
        let what = match stage {
            LaunchStage::Fetch => "Failed to fetch",
            LaunchStage::Image => "Failed to provide the image",
            LaunchStage::Volume => "Failed to provide a volume",
            LaunchStage::Network => "Failed to join the network",
            LaunchStage::Start => "Failed to launch container",
        };
        let words = format!("{what}: {message}");
        match self.containers.get(container).cloned() {
            Some(Owner::Task(key)) => {
                let Some(task) = self.tasks.get(&key) else { return };
                if task.phase != Phase::Launching {
                    return;
                }
                let news = match task.kill {
                    Some(kill) => Self::killed(kill)
                        .reason(Reason::TaskKilledDuringLaunch)
                        .message("The task was killed while it was being launched"),
                    None => News::agent(TaskState::TaskFailed, Reason::ContainerLaunchFailed, words),
                };
                self.say(&key, news, cx);
            }
            Some(Owner::Executor(key)) => {
                self.executor_verdict(&key, Reason::ContainerLaunchFailed, words);
                self.executor_ended(&key, None, cx);
            }
            None => {}
        }
    }

    pub(super) fn exited(&mut self, container: &str, exit: &Exit, cx: &mut Cx<'_>) {
        match self.containers.get(container).cloned() {
            Some(Owner::Task(key)) => self.task_exited(&key, exit, cx),
            Some(Owner::Executor(key)) => {
                if exit.oom {
                    let words = super::status::memory_exceeded(exit);
                    self.executor_verdict(&key, Reason::ContainerLimitationMemory, words);
                }
                self.executor_ended(&key, wait_status(exit.status), cx);
            }
            // What held a pod's namespaces; its tasks' own ends say what that means for them, and it goes with the pod.
            None if self.executors.values().any(|one| one.is_pod() && one.container == container) => {}
            None => cx.out.push(Effect::Release { container: container.to_owned() }),
        }
    }

    /// As in Mesos there is no grace: whoever fills the disk harms others.
    pub(super) fn disk_exceeded(&mut self, container: &str, cx: &mut Cx<'_>) {
        match self.containers.get(container).cloned() {
            Some(Owner::Task(key)) => {
                self.kill_task(&key, Some(Millis(0)), KillCause::Disk, cx);
                cx.out.push(Effect::Destroy { container: container.to_owned() });
            }
            Some(Owner::Executor(key)) => {
                let words = super::status::DISK_EXCEEDED.to_owned();
                self.executor_verdict(&key, Reason::ContainerLimitationDisk, words);
                cx.out.push(Effect::Destroy { container: container.to_owned() });
            }
            None => {}
        }
    }

    pub(super) fn task_exited(&mut self, key: &TaskKey, exit: &Exit, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get(key) else { return };
        if matches!(task.phase, Phase::Ended | Phase::Intent | Phase::Queued) {
            return;
        }
        // A kill that was asked for but not yet begun did not end it.
        let cause = task.kill.filter(|kill| kill.began.is_some()).map(|kill| kill.cause);
        let news = verdict(exit, cause);
        self.say(key, news, cx);
    }

    /// The last update was acknowledged: only the memory that the id was used stays.
    pub(super) fn conclude(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.remove(key) else { return };
        self.containers.remove(&task.container);
        if task.volatile {
            self.framework_idle(&key.framework, cx);
            return;
        }
        let pod = task.executor.clone().filter(|_| task.pod);
        if !task.released && task.ours() {
            cx.out.push(Effect::Release { container: task.container.clone() });
        }
        let stone = Tombstone {
            task: view::to_task(&self.agent_id, key, &task),
            container: task.container.clone(),
            directory: task.directory.clone(),
            launch_id: task.launch_id.clone(),
            finished: task.finished_at,
        };
        if task.executor.is_none() {
            self.retired.insert(task.container.clone(), Some(key.clone()));
            cx.out.push(Effect::Retire {
                container: task.container.clone(),
                directory: task.directory.clone(),
                since: task.finished_at,
            });
        }
        self.tombstones.insert(key.clone(), stone);
        self.save_lazily(key, cx);
        self.limit_tombstones(cx);
        if let Some(executor) = pod {
            self.pod_idle(&ExecutorKey { framework: key.framework.clone(), executor }, cx);
        }
        self.framework_idle(&key.framework, cx);
    }

    /// Memory of the past is bounded: the oldest go first.
    pub(super) fn limit_tombstones(&mut self, cx: &mut Cx<'_>) {
        while self.tombstones.len() > self.settings.max_tombstones {
            let oldest = self.tombstones.iter().min_by_key(|(_, stone)| stone.finished);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
            self.forget(&key, cx);
        }
    }

    fn forget(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        if self.tombstones.remove(key).is_some() {
            self.lazy.remove(key);
            cx.writes.push(records::delete(records::task_key(&key.framework, &key.task)));
            self.framework_idle(&key.framework, cx);
        }
    }

    /// The sandbox of a container is gone, and with it the memory of its task.
    pub(super) fn collected(&mut self, container: &str, cx: &mut Cx<'_>) {
        if let Some(Some(key)) = self.retired.remove(container) {
            self.forget(&key, cx);
        }
        // Tombstones of a custom executor's tasks go with the executor's sandbox.
        let of_executor: Vec<TaskKey> = self
            .tombstones
            .iter()
            .filter(|(_, stone)| {
                stone.directory.ends_with(&format!("/runs/{container}"))
                    || stone.directory.contains(&format!("/runs/{container}/tasks/"))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in of_executor {
            self.forget(&key, cx);
        }
    }

    /// Forgets a framework that has nothing left here, and the record with it.
    pub(super) fn framework_idle(&mut self, id: &str, cx: &mut Cx<'_>) {
        let busy = self.tasks.keys().any(|key| key.framework == id)
            || self.executors.keys().any(|key| key.framework == id)
            || self.tombstones.keys().any(|key| key.framework == id);
        if !busy && self.frameworks.remove(id).is_some_and(|framework| framework.durable) {
            cx.save_frameworks.remove(id);
            cx.writes.push(records::delete(records::framework_key(id)));
        }
    }

    /// Tells the master that a custom executor has ended.
    pub(super) fn say_executor_exited(key: &ExecutorKey, status: Option<i32>, cx: &mut Cx<'_>) {
        cx.send(Say::ExecutorExited(internal::ExecutorExited {
            framework_id: key.framework.as_str().into(),
            executor_id: key.executor.as_str().into(),
            status,
        }));
    }

    /// The state in which a kill ends a task.
    pub(super) fn killed(kill: Kill) -> News {
        match kill.cause {
            KillCause::Completion => News::executor(TaskState::TaskFailed),
            _ => News::executor(TaskState::TaskKilled),
        }
    }
}

/// As `waitpid` encodes it.
fn wait_status(status: ExitStatus) -> Option<i32> {
    match status {
        ExitStatus::Code(code) => Some((code & 0xff) << 8),
        ExitStatus::Signal(signal) => Some(signal & 0x7f),
        ExitStatus::Unknown => None,
    }
}
