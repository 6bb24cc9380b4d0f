//! Custom executors: launching them, their calls, what they are told, and what happens to their tasks when they end.

use bytes::Bytes;
use plenum_api::Millis;
use plenum_api::executor::{Call, Event as Tell, call, event};
use plenum_api::internal::{self, agent_message::Kind as Say, register};
use plenum_api::mesos::task_status::{Reason, Source};
use plenum_api::mesos::{ContainerId, ExecutorInfo, KillPolicy, TaskState, TaskStatus};

use super::event::{Effect, ExecutorCall, ExecutorKey, ExecutorReply, Level, Started, TaskKey};
use super::model::{Executor, ExecutorPhase, KillCause, Mark, Phase, Verdict};
use super::status::{News, lost_or};
use super::{Agent, Cx, records, wire};

/// A container that does not end is destroyed again after this long.
const DESTROY_AGAIN: Millis = Millis(10_000);

impl Executor {
    pub fn new(info: ExecutorInfo, container: String, directory: String, token: String) -> Self {
        Self {
            info,
            container,
            directory,
            token,
            phase: ExecutorPhase::Intent,
            launched: false,
            pid: None,
            networks: Vec::new(),
            stream: None,
            deadline: None,
            verdict: None,
            heartbeat_at: None,
            recovered: false,
            gpus: Vec::new(),
        }
    }

    /// As a registration names it.
    pub fn for_register(&self, key: &ExecutorKey) -> register::Executor {
        register::Executor {
            framework_id: key.framework.as_str().into(),
            executor_info: self.info.clone(),
            resources: self.info.resources.clone(),
            container_id: Some(ContainerId::from(self.container.as_str())),
        }
    }
}

impl Agent {
    /// Tasks of an executor, by phase.
    pub(super) fn tasks_of(&self, key: &ExecutorKey, phase: Option<Phase>) -> Vec<TaskKey> {
        self.tasks
            .iter()
            .filter(|(id, task)| {
                id.framework == key.framework && task.executor.as_ref() == Some(&key.executor)
            })
            .filter(|(_, task)| phase.is_none_or(|phase| task.phase == phase))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Its intent is on the disk: launch it.
    pub(super) fn executor_written(&mut self, key: &ExecutorKey, cx: &mut Cx<'_>) {
        let fresh = self.executors.get(key).is_some_and(|one| one.phase == ExecutorPhase::Intent);
        if !fresh {
            return;
        }
        if self.executors.get(key).is_some_and(|one| one.is_pod()) {
            self.pod_written(key);
            return;
        }
        let Some(launch) = self.executor_launch(key) else { return };
        let deadline = cx.after(self.settings.executor_registration_timeout);
        if let Some(executor) = self.executors.get_mut(key) {
            executor.phase = ExecutorPhase::Registering;
            executor.deadline = Some(deadline);
        }
        self.mark(deadline, Mark::Executor(key.clone()));
        cx.out.push(Effect::Launch(Box::new(launch)));
    }

    /// Its tasks were refused one by one already.
    pub(super) fn executor_not_written(&mut self, key: &ExecutorKey, _error: &str, _cx: &mut Cx<'_>) {
        if self.executors.get(key).is_some_and(|one| one.phase == ExecutorPhase::Intent)
            && let Some(executor) = self.executors.remove(key)
        {
            self.containers.remove(&executor.container);
        }
    }

    pub(super) fn executor_launched(&mut self, key: &ExecutorKey, started: Started, _cx: &mut Cx<'_>) {
        if let Some(executor) = self.executors.get_mut(key) {
            executor.launched = true;
            executor.pid = started.pid;
            executor.networks = started.networks;
        }
    }

    /// Says why its tasks will have ended; the first word counts.
    pub(super) fn executor_verdict(&mut self, key: &ExecutorKey, reason: Reason, message: String) {
        if let Some(executor) = self.executors.get_mut(key) {
            executor.verdict.get_or_insert(Verdict { reason, message });
        }
    }

    /// Hands a task over if its executor listens.
    pub(super) fn offer_to_executor(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get(key) else { return };
        let Some(id) = task.executor.clone() else { return };
        let id = ExecutorKey { framework: key.framework.clone(), executor: id };
        let Some(executor) = self.executors.get(&id) else {
            let state = lost_or(self.frameworks.get(&key.framework).map(|f| &f.info), TaskState::TaskDropped);
            let news = News::agent(state, Reason::ExecutorTerminated, "The executor has ended");
            self.say(key, news, cx);
            return;
        };
        if executor.stream.is_none() || executor.phase != ExecutorPhase::Subscribed {
            return;
        }
        let mut tell = Tell { launch: Some(event::Launch { task: task.info.clone() }), ..Default::default() };
        tell.set_type(event::Type::Launch);
        cx.out.push(Effect::ExecutorSend { container: executor.container.clone(), event: Box::new(tell) });
        self.handed_over(key, cx);
    }

    fn handed_over(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.phase == Phase::Queued {
            task.phase = Phase::Running;
            task.started_at = cx.now.wall;
            task.revision += 1;
            cx.save.insert(key.clone());
        }
    }

    /// A call that came over HTTP.
    pub(super) fn executor_call(&mut self, call: ExecutorCall, cx: &mut Cx<'_>) {
        let ExecutorCall { request, token, call } = call;
        let reply = match self.admit(&call, token.as_deref()) {
            Err(refusal) => refusal,
            Ok(key) => match call.r#type() {
                call::Type::Subscribe => {
                    self.subscribe(&key, request, call.subscribe.unwrap_or_default(), cx)
                }
                call::Type::Update => self.executor_update(&key, call.update, cx),
                call::Type::Message => self.executor_message(&key, call.message, cx),
                call::Type::Heartbeat => ExecutorReply::Accepted,
                call::Type::Unknown => refused(400, "The call has no type this agent knows"),
            },
        };
        // The answer goes before whatever the call set in motion.
        cx.out.insert(0, Effect::ExecutorReply { request, reply });
    }

    fn admit(&self, call: &Call, token: Option<&str>) -> Result<ExecutorKey, ExecutorReply> {
        let key = ExecutorKey {
            framework: call.framework_id.value.clone(),
            executor: call.executor_id.value.clone(),
        };
        // Nobody speaks for a pod: it has no process.
        let executor = self.executors.get(&key).filter(|executor| !executor.is_pod());
        let expected = executor.map_or("", |executor| executor.token.as_str());
        let presented = token.unwrap_or_default();
        let fits = executor.is_some() && same(expected.as_bytes(), presented.as_bytes());
        if self.settings.require_executor_token && !fits {
            let words = "The executor's token is missing or not the one of its container; \
                         send MESOS_EXECUTOR_AUTHENTICATION_TOKEN as 'Authorization: Bearer'";
            return Err(refused(401, words));
        }
        let Some(executor) = executor else {
            return Err(refused(400, "Executor cannot be found"));
        };
        if call.r#type() != call::Type::Subscribe && executor.stream.is_none() {
            return Err(refused(403, "Executor is not subscribed"));
        }
        Ok(key)
    }

    fn subscribe(
        &mut self,
        key: &ExecutorKey,
        request: u64,
        lists: call::Subscribe,
        cx: &mut Cx<'_>,
    ) -> ExecutorReply {
        let heartbeat = cx.after(self.settings.executor_heartbeat);
        let agent_info = self.agent_info();
        let framework_info = self.frameworks.get(&key.framework).map(|framework| framework.info.clone());
        let Some(executor) = self.executors.get_mut(key) else {
            return refused(400, "Executor cannot be found");
        };
        let container = executor.container.clone();
        // The new stream takes the place of an older one.
        executor.stream = Some(request);
        executor.heartbeat_at = Some(heartbeat);
        let leaving = executor.phase == ExecutorPhase::Terminating;
        if !leaving {
            executor.phase = ExecutorPhase::Subscribed;
            executor.deadline = None;
        }
        let mut executor_info = executor.info.clone();
        executor_info.framework_id = Some(key.framework.as_str().into());
        let mut tell = Tell {
            subscribed: Some(event::Subscribed {
                executor_info,
                framework_info: framework_info.unwrap_or_default(),
                agent_info,
                container_id: Some(container.as_str().into()),
            }),
            ..Default::default()
        };
        tell.set_type(event::Type::Subscribed);
        cx.out.push(Effect::ExecutorSend { container: container.clone(), event: Box::new(tell) });
        self.mark(heartbeat, Mark::Executor(key.clone()));
        self.settle(key, lists, cx);
        if leaving {
            let mut tell = Tell::default();
            tell.set_type(event::Type::Shutdown);
            cx.out.push(Effect::ExecutorSend { container: container.clone(), event: Box::new(tell) });
        }
        ExecutorReply::Stream { container }
    }

    /// Compares what the executor has with what it should have, after a subscription.
    fn settle(&mut self, key: &ExecutorKey, lists: call::Subscribe, cx: &mut Cx<'_>) {
        let has: Vec<&str> =
            lists.unacknowledged_tasks.iter().map(|task| task.task_id.value.as_str()).collect();
        for id in &has {
            self.handed_over(&TaskKey { framework: key.framework.clone(), task: (*id).to_owned() }, cx);
        }
        let reported: Vec<String> =
            lists.unacknowledged_updates.iter().map(|update| update.status.task_id.value.clone()).collect();
        for update in lists.unacknowledged_updates {
            let _ = self.executor_update(key, Some(update), cx);
        }
        for id in self.tasks_of(key, Some(Phase::Running)) {
            let Some(task) = self.tasks.get(&id) else { continue };
            let silent = task.latest.is_none();
            if silent && !has.contains(&id.task.as_str()) && !reported.contains(&id.task) {
                let info = self.frameworks.get(&id.framework).map(|framework| &framework.info);
                let state = lost_or(info, TaskState::TaskDropped);
                let words = "The task was launched while the agent restarted, and its executor never had it";
                self.say(&id, News::agent(state, Reason::AgentRestarted, words), cx);
            }
        }
        for id in self.tasks_of(key, Some(Phase::Queued)) {
            self.offer_to_executor(&id, cx);
        }
        for id in self.tasks_of(key, Some(Phase::Running)) {
            if self.tasks.get(&id).is_some_and(|task| task.kill.is_some()) {
                self.kill_in_executor(&id, None, cx);
            }
        }
    }

    fn executor_update(
        &mut self,
        key: &ExecutorKey,
        update: Option<call::Update>,
        cx: &mut Cx<'_>,
    ) -> ExecutorReply {
        let Some(update) = update else { return refused(400, "UPDATE needs `update`") };
        let mut status = update.status;
        let Some(uuid) = status.uuid.clone().filter(|uuid| uuid.len() == 16) else {
            return refused(400, "The status needs a `uuid` of 16 bytes");
        };
        if status.state() == TaskState::TaskStaging {
            return refused(400, "An executor cannot say TASK_STAGING");
        }
        let id = TaskKey { framework: key.framework.clone(), task: status.task_id.value.clone() };
        let Some(task) = self.tasks.get_mut(&id) else {
            cx.report(Level::Warn, format!("An executor reported on task {}, which is not here", id.task));
            self.confirm_update(&id, &key.executor, uuid, cx);
            return ExecutorReply::Accepted;
        };
        if task.executor.as_ref() != Some(&key.executor) {
            return refused(400, "The task belongs to another executor");
        }
        let late = task.phase == Phase::Ended;
        if late || !Self::remember_uuid(task, &uuid) {
            if !task.unconfirmed.contains(&uuid) {
                self.confirm_update(&id, &key.executor, uuid, cx);
            }
            return ExecutorReply::Accepted;
        }
        task.unconfirmed.push(uuid);
        if task.phase == Phase::Queued {
            task.phase = Phase::Running;
        }
        self.complete(&id, &mut status, key, cx);
        self.forward(&id, status, cx);
        ExecutorReply::Accepted
    }

    /// Fills in what an executor need not say.
    fn complete(&self, id: &TaskKey, status: &mut TaskStatus, key: &ExecutorKey, cx: &Cx<'_>) {
        status.agent_id = Some(self.agent_id.as_str().into());
        status.executor_id = Some(key.executor.as_str().into());
        status.set_source(Source::Executor);
        if status.timestamp.is_none() {
            status.timestamp = Some(cx.now.wall.as_secs_f64());
        }
        let own = self.tasks.get(id).and_then(|task| self.container_status(task));
        match (&mut status.container_status, own) {
            (Some(said), Some(own)) => {
                if said.container_id.is_none() {
                    said.container_id = own.container_id;
                }
                if said.network_infos.is_empty() {
                    said.network_infos = own.network_infos;
                }
                said.executor_pid = said.executor_pid.or(own.executor_pid);
            }
            (said @ None, own) => *said = own,
            (Some(_), None) => {}
        }
    }

    fn executor_message(
        &mut self,
        key: &ExecutorKey,
        message: Option<call::Message>,
        cx: &mut Cx<'_>,
    ) -> ExecutorReply {
        let Some(message) = message else { return refused(400, "MESSAGE needs `message`") };
        cx.send(Say::ExecutorMessage(internal::ExecutorMessage {
            framework_id: key.framework.as_str().into(),
            executor_id: key.executor.as_str().into(),
            data: message.data,
        }));
        ExecutorReply::Accepted
    }

    /// An update of the executor is safe.
    pub(super) fn confirm_update(&self, key: &TaskKey, executor: &str, uuid: Bytes, cx: &mut Cx<'_>) {
        let id = ExecutorKey { framework: key.framework.clone(), executor: executor.to_owned() };
        let Some(executor) = self.executors.get(&id).filter(|executor| executor.stream.is_some()) else {
            return;
        };
        let acknowledged = event::Acknowledged { task_id: key.task.as_str().into(), uuid };
        let mut tell = Tell { acknowledged: Some(acknowledged), ..Default::default() };
        tell.set_type(event::Type::Acknowledged);
        cx.out.push(Effect::ExecutorSend { container: executor.container.clone(), event: Box::new(tell) });
    }

    pub(super) fn message_to_executor(&mut self, key: &ExecutorKey, data: Bytes, cx: &mut Cx<'_>) {
        let listening = self.executors.get(key).filter(|executor| executor.stream.is_some());
        let Some(executor) = listening else {
            cx.report(
                Level::Info,
                format!("A message for executor {} was dropped: it is not there", key.executor),
            );
            return;
        };
        let mut tell = Tell { message: Some(event::Message { data }), ..Default::default() };
        tell.set_type(event::Type::Message);
        cx.out.push(Effect::ExecutorSend { container: executor.container.clone(), event: Box::new(tell) });
    }

    pub(super) fn kill_in_executor(&mut self, key: &TaskKey, grace: Option<Millis>, cx: &mut Cx<'_>) {
        let Some(id) = self.tasks.get(key).and_then(|task| task.executor.clone()) else { return };
        let id = ExecutorKey { framework: key.framework.clone(), executor: id };
        let Some(executor) = self.executors.get(&id).filter(|executor| executor.stream.is_some()) else {
            return;
        };
        let kill_policy = grace.map(|grace| KillPolicy { grace_period: Some(wire::duration_info(grace)) });
        let kill = event::Kill { task_id: key.task.as_str().into(), kill_policy };
        let mut tell = Tell { kill: Some(kill), ..Default::default() };
        tell.set_type(event::Type::Kill);
        cx.out.push(Effect::ExecutorSend { container: executor.container.clone(), event: Box::new(tell) });
    }

    /// Its stream broke. It may come back for a while.
    pub(super) fn executor_gone(&mut self, container: &str, stream: u64, cx: &mut Cx<'_>) {
        let Some(super::Owner::Executor(key)) = self.containers.get(container).cloned() else { return };
        let deadline = cx.after(self.settings.recovery_timeout);
        let Some(executor) = self.executors.get_mut(&key) else { return };
        if executor.stream != Some(stream) {
            return;
        }
        executor.stream = None;
        executor.heartbeat_at = None;
        if executor.phase == ExecutorPhase::Subscribed {
            executor.phase = ExecutorPhase::Registering;
            executor.deadline = Some(deadline);
            self.mark(deadline, Mark::Executor(key));
        }
    }

    /// A time of an executor has come: heartbeat, or the end of patience.
    pub(super) fn executor_due(&mut self, key: &ExecutorKey, cx: &mut Cx<'_>) {
        let now = cx.now.mono;
        let heartbeat = cx.after(self.settings.executor_heartbeat);
        let again = cx.after(DESTROY_AGAIN);
        let Some(executor) = self.executors.get_mut(key) else { return };
        let container = executor.container.clone();
        if executor.heartbeat_at.is_some_and(|at| at <= now) {
            executor.heartbeat_at = Some(heartbeat);
            let mut tell = Tell::default();
            tell.set_type(event::Type::Heartbeat);
            cx.out.push(Effect::ExecutorSend { container: container.clone(), event: Box::new(tell) });
            self.marks.insert((heartbeat, Mark::Executor(key.clone())));
        }
        let Some(executor) = self.executors.get_mut(key) else { return };
        if executor.deadline.is_none_or(|at| at > now) {
            return;
        }
        executor.deadline = Some(again);
        if executor.phase == ExecutorPhase::Registering {
            let (reason, what) = if executor.recovered {
                (Reason::ExecutorReregistrationTimeout, "subscribe again")
            } else {
                (Reason::ExecutorRegistrationTimeout, "subscribe")
            };
            let message = format!("The executor did not {what} in time");
            executor.verdict.get_or_insert(Verdict { reason, message });
        }
        executor.phase = ExecutorPhase::Terminating;
        cx.out.push(Effect::Destroy { container });
        self.mark(again, Mark::Executor(key.clone()));
    }

    /// Its container is no more: its tasks end with it.
    pub(super) fn executor_ended(&mut self, key: &ExecutorKey, status: Option<i32>, cx: &mut Cx<'_>) {
        let Some(executor) = self.executors.get(key) else { return };
        let verdict = executor.verdict.clone().unwrap_or(Verdict {
            reason: Reason::ExecutorTerminated,
            message: "Executor terminated".to_owned(),
        });
        let (container, directory) = (executor.container.clone(), executor.directory.clone());
        for id in self.tasks_of(key, None) {
            let Some(task) = self.tasks.get(&id) else { continue };
            if task.phase == Phase::Ended {
                continue;
            }
            let news = match task.kill {
                Some(kill) if kill.cause == KillCause::Teardown => {
                    News { source: Source::Agent, ..Self::killed(kill) }
                        .reason(Reason::FrameworkRemoved)
                        .message("The framework was removed")
                }
                Some(kill) if matches!(kill.cause, KillCause::Drain | KillCause::DrainGone) => {
                    News { source: Source::Agent, ..Self::killed(kill) }
                        .reason(Reason::AgentDraining)
                        .message("The agent is draining")
                }
                Some(kill) => News { source: Source::Agent, ..Self::killed(kill) }
                    .reason(verdict.reason)
                    .message(verdict.message.clone()),
                None => News::agent(TaskState::TaskFailed, verdict.reason, verdict.message.clone()),
            };
            self.say(&id, news, cx);
        }
        self.executors.remove(key);
        self.containers.remove(&container);
        cx.save_executors.remove(key);
        cx.writes.push(records::delete(records::executor_key(&key.framework, &key.executor)));
        cx.out.push(Effect::ExecutorClose { container: container.clone() });
        cx.out.push(Effect::Release { container: container.clone() });
        Self::say_executor_exited(key, status, cx);
        self.retire(&container, &directory, cx);
        self.framework_idle(&key.framework, cx);
    }
}

fn refused(status: u16, message: &str) -> ExecutorReply {
    ExecutorReply::Refused { status, message: message.to_owned() }
}

/// Compares without telling by time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && !a.is_empty() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}
