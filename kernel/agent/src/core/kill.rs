//! Ending things: one task, an executor, a framework, everything.

use plenum_api::Millis;
use plenum_api::internal::{self, agent_message::Kind as Say};
use plenum_api::mesos::TaskState;
use plenum_api::mesos::framework_info::capability::Type as Capability;
use plenum_api::mesos::task_status::Reason;

use super::event::{Effect, ExecutorKey, Level, TaskKey};
use super::model::{ExecutorPhase, Kill, KillCause, Mark, Phase};
use super::status::{News, lost_or};
use super::{Agent, Cx, wire};

/// After the grace period the runtime is given this long before everything is destroyed.
const DESTROY_AFTER: Millis = Millis(1_000);
/// A container that does not end is destroyed again after this long.
const DESTROY_AGAIN: Millis = Millis(10_000);

impl Agent {
    /// Somebody wants a task to end. Repeated kills may shorten the grace period, never lengthen it.
    pub(super) fn kill_task(
        &mut self,
        key: &TaskKey,
        grace: Option<Millis>,
        cause: KillCause,
        cx: &mut Cx<'_>,
    ) {
        let Some(task) = self.tasks.get(key) else {
            self.kill_unknown(key, cx);
            return;
        };
        if task.phase == Phase::Ended {
            return;
        }
        if !task.ours() {
            self.kill_executors_task(key, grace, cause, cx);
            return;
        }
        let grace =
            grace.or_else(|| wire::grace(task.info.kill_policy.as_ref())).unwrap_or(self.settings.kill_grace);
        let deadline = cx.after(grace);
        match task.kill {
            Some(kill) if kill.began.is_none() => {}
            Some(kill) => {
                let began = kill.began.unwrap_or(cx.now.mono);
                let shorter = (began + grace).max(cx.now.mono);
                if shorter < kill.deadline {
                    self.set_kill(key, Kill { deadline: shorter, ..kill });
                    cx.out.push(Effect::Kill {
                        container: self.container_of(key),
                        grace: shorter - cx.now.mono,
                    });
                }
            }
            None => {
                self.set_kill(key, Kill { cause, began: None, deadline });
                cx.save.insert(key.clone());
                self.bump(key);
                match self.tasks.get(key).map(|task| task.phase) {
                    Some(Phase::Launching) => {
                        cx.out.push(Effect::Destroy { container: self.container_of(key) });
                    }
                    Some(Phase::Running) => self.begin_kill_with(key, grace, cx),
                    _ => {}
                }
            }
        }
    }

    fn bump(&mut self, key: &TaskKey) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.revision += 1;
        }
    }

    fn container_of(&self, key: &TaskKey) -> String {
        self.tasks.get(key).map(|task| task.container.clone()).unwrap_or_default()
    }

    fn set_kill(&mut self, key: &TaskKey, kill: Kill) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.kill = Some(kill);
        let at = kill.deadline + DESTROY_AFTER;
        self.mark(at, Mark::Task(key.clone()));
    }

    /// A kill that was asked for while the task was not there yet.
    pub(super) fn begin_kill(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get(key) else { return };
        if task.kill.is_some_and(|kill| kill.began.is_none()) && task.ours() {
            let grace = wire::grace(task.info.kill_policy.as_ref()).unwrap_or(self.settings.kill_grace);
            let grace = self.drain_grace(grace, cx);
            self.begin_kill_with(key, grace, cx);
        }
    }

    fn begin_kill_with(&mut self, key: &TaskKey, grace: Millis, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let Some(kill) = task.kill else { return };
        task.checks.clear();
        task.completes_by = None;
        let kill = Kill { began: Some(cx.now.mono), deadline: cx.after(grace), ..kill };
        self.set_kill(key, kill);
        let framework = self.frameworks.get(&key.framework);
        let wants = framework.is_some_and(|known| wire::capable(&known.info, Capability::TaskKillingState));
        if wants && kill.cause != KillCause::Completion {
            self.say(key, News::executor(TaskState::TaskKilling), cx);
        }
        cx.out.push(Effect::Kill { container: self.container_of(key), grace });
    }

    /// The grace period is over, and something is still there.
    pub(super) fn kill_due(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get(key) else { return };
        let Some(kill) = task.kill else { return };
        let live = matches!(task.phase, Phase::Running | Phase::Launching) && task.ours();
        if live && kill.deadline + DESTROY_AFTER <= cx.now.mono {
            cx.out.push(Effect::Destroy { container: task.container.clone() });
            let again = Kill { deadline: cx.after(DESTROY_AGAIN), ..kill };
            self.set_kill(key, again);
        }
    }

    pub(super) fn completion_due(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.completes_by.is_some_and(|at| at <= cx.now.mono) {
            task.completes_by = None;
            self.kill_task(key, None, KillCause::Completion, cx);
        }
    }

    fn kill_unknown(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        if let Some(stone) = self.tombstones.get(key) {
            // It has ended and that was acknowledged; somebody has forgotten, so it is said again.
            let mut status = stone.task.statuses.last().cloned().unwrap_or_default();
            status.uuid = None;
            let executor = status.executor_id.clone().map_or_else(String::new, |id| id.value);
            let state = status.state();
            cx.send(Say::StatusUpdate(super::updates::status_update(key, &executor, status, state)));
            return;
        }
        let info = self.frameworks.get(&key.framework).map(|framework| &framework.info);
        let state = lost_or(info, TaskState::TaskDropped);
        let words = "The task to kill is not known to this agent";
        self.say_of_unknown(key, News::agent(state, Reason::TaskUnknown, words), cx);
    }

    /// A custom executor kills its tasks itself; one that it never got is taken back.
    fn kill_executors_task(
        &mut self,
        key: &TaskKey,
        grace: Option<Millis>,
        cause: KillCause,
        cx: &mut Cx<'_>,
    ) {
        let deadline = cx.after(grace.unwrap_or(self.settings.kill_grace));
        let Some(task) = self.tasks.get_mut(key) else { return };
        let kill = Kill { cause, began: None, deadline };
        task.kill.get_or_insert(kill);
        match task.phase {
            Phase::Queued => {
                let words = "The task was killed before its executor had it";
                let news =
                    News { source: plenum_api::mesos::task_status::Source::Agent, ..Self::killed(kill) };
                self.say(key, news.reason(Reason::TaskKilledDuringLaunch).message(words), cx);
            }
            Phase::Running => self.kill_in_executor(key, grace, cx),
            Phase::Intent | Phase::Launching | Phase::Ended => {}
        }
    }

    /// SHUTDOWN of the scheduler API: a custom executor, or the command task of that name.
    pub(super) fn shutdown_executor_or_task(&mut self, key: &ExecutorKey, cx: &mut Cx<'_>) {
        if self.executors.contains_key(key) {
            self.shutdown_executor(key, cx);
            return;
        }
        let task = TaskKey { framework: key.framework.clone(), task: key.executor.clone() };
        if self.tasks.contains_key(&task) {
            let grace = self.settings.executor_shutdown_grace;
            self.kill_task(&task, Some(grace), KillCause::Shutdown, cx);
        }
    }

    /// The framework is gone: everything of it ends.
    pub(super) fn shutdown_framework(&mut self, id: &str, cx: &mut Cx<'_>) {
        let Some(framework) = self.frameworks.get_mut(id) else { return };
        if !framework.terminating {
            framework.terminating = true;
            cx.report(Level::Info, format!("Framework {id} was removed; its tasks are killed"));
            if framework.durable {
                cx.save_frameworks.insert(id.to_owned());
            }
        }
        let tasks: Vec<TaskKey> = self.tasks.keys().filter(|key| key.framework == id).cloned().collect();
        for key in tasks {
            let command = self.tasks.get(&key).is_some_and(|task| task.ours());
            if command {
                let grace = self.settings.executor_shutdown_grace;
                self.kill_task(&key, Some(grace), KillCause::Teardown, cx);
            } else if let Some(task) = self.tasks.get_mut(&key) {
                let deadline = cx.now.mono;
                task.kill.get_or_insert(Kill { cause: KillCause::Teardown, began: None, deadline });
            }
        }
        let executors: Vec<ExecutorKey> =
            self.executors.keys().filter(|key| key.framework == id).cloned().collect();
        for key in executors {
            self.shutdown_executor(&key, cx);
        }
        self.framework_idle(id, cx);
    }

    /// The agent was told to leave for good.
    pub(super) fn shutdown_agent(&mut self, words: String, cx: &mut Cx<'_>) {
        cx.report(Level::Warn, format!("The master ordered this agent to leave: {words}"));
        self.stopping = true;
        for container in self.containers.keys() {
            cx.out.push(Effect::Destroy { container: container.clone() });
        }
        cx.send(Say::Unregister(internal::Unregister {
            agent_id: (!self.agent_id.is_empty()).then(|| self.agent_id.as_str().into()),
            message: Some(words.clone()),
        }));
        // A gone agent must not come back under its old name.
        cx.writes.push(super::records::delete("agent".to_owned()));
        cx.writes.push(super::records::delete(super::drain::KEY.to_owned()));
        cx.out.push(Effect::Stop { reason: words });
    }

    /// Drops everything that belonged to an identity the master has given up.
    pub(super) fn abandon_everything(&mut self, cx: &mut Cx<'_>) {
        for container in std::mem::take(&mut self.containers).into_keys() {
            cx.out.push(Effect::Destroy { container: container.clone() });
            cx.out.push(Effect::Release { container });
        }
        for (key, task) in std::mem::take(&mut self.tasks) {
            if !task.volatile {
                cx.writes.push(super::records::delete(super::records::task_key(&key.framework, &key.task)));
            }
            if task.executor.is_none() {
                self.retire(&task.container, &task.directory, cx);
            }
        }
        for (key, executor) in std::mem::take(&mut self.executors) {
            cx.writes
                .push(super::records::delete(super::records::executor_key(&key.framework, &key.executor)));
            cx.out.push(Effect::ExecutorClose { container: executor.container.clone() });
            cx.out.push(Effect::Release { container: executor.container.clone() });
            self.retire(&executor.container, &executor.directory, cx);
        }
        for key in std::mem::take(&mut self.tombstones).into_keys() {
            cx.writes.push(super::records::delete(super::records::task_key(&key.framework, &key.task)));
        }
        for id in std::mem::take(&mut self.frameworks).into_keys() {
            cx.writes.push(super::records::delete(super::records::framework_key(&id)));
        }
        self.lazy.clear();
        self.resume(cx);
    }

    /// A sandbox that no record names any more.
    pub(super) fn retire(&mut self, container: &str, directory: &str, cx: &mut Cx<'_>) {
        if directory.is_empty() {
            return;
        }
        self.retired.insert(container.to_owned(), None);
        cx.out.push(Effect::Retire {
            container: container.to_owned(),
            directory: directory.to_owned(),
            since: cx.now.wall,
        });
    }

    /// Shuts a custom executor down: asks it, then after its grace period destroys it.
    pub(super) fn shutdown_executor(&mut self, key: &ExecutorKey, cx: &mut Cx<'_>) {
        let Some(executor) = self.executors.get(key) else { return };
        if executor.phase == ExecutorPhase::Terminating {
            return;
        }
        if executor.is_pod() {
            self.shutdown_pod(key, KillCause::Shutdown, cx);
            return;
        }
        let grace = self.executor_grace(&executor.info);
        let (container, subscribed) = (executor.container.clone(), executor.stream.is_some());
        let deadline = if subscribed { cx.after(grace) } else { cx.now.mono };
        if let Some(executor) = self.executors.get_mut(key) {
            executor.phase = ExecutorPhase::Terminating;
            executor.deadline = Some(deadline);
        }
        if subscribed {
            let mut event = plenum_api::executor::Event::default();
            event.set_type(plenum_api::executor::event::Type::Shutdown);
            cx.out.push(Effect::ExecutorSend { container, event: Box::new(event) });
        }
        self.mark(deadline, Mark::Executor(key.clone()));
    }

    pub(super) fn executor_grace(&self, info: &plenum_api::mesos::ExecutorInfo) -> Millis {
        let own = info.shutdown_grace_period.as_ref().map(wire::duration);
        own.unwrap_or(self.settings.executor_shutdown_grace)
    }
}
