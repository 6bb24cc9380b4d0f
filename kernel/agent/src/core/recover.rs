//! From the core's memory to records, and back after a restart.

use std::collections::BTreeMap;

use plenum_api::Millis;
use plenum_api::mesos::TaskState;
use plenum_api::mesos::task_status::Reason;

use super::event::{
    Effect, ExecutorKey, Exit, FoundState, Level, RecordWrite, Recovery, Started, TaskKey, Tombstone,
};
use super::model::{Executor, ExecutorPhase, Framework, Kill, KillCause, Mark, Pending, Phase, Task};
use super::records::{
    self, AgentRecord, BootRecord, DrainRecord, ExecutorRecord, FrameworkRecord, TaskRecord, TermRecord,
};
use super::status::{News, lost_or};
use super::{Agent, Cx, Owner, RecordError, view, wire};

impl Agent {
    pub(super) fn framework_record(&self, id: &str) -> Option<RecordWrite> {
        let framework = self.frameworks.get(id)?;
        let record = FrameworkRecord {
            id: id.to_owned(),
            info: Some(framework.info.clone()),
            terminating: framework.terminating,
        };
        Some(records::put(records::framework_key(id), &record))
    }

    pub(super) fn executor_record(&self, key: &ExecutorKey) -> Option<RecordWrite> {
        let executor = self.executors.get(key)?;
        let record = ExecutorRecord {
            framework_id: key.framework.clone(),
            info: Some(executor.info.clone()),
            container_id: executor.container.clone(),
            directory: executor.directory.clone(),
            token: executor.token.clone(),
            gpus: executor.gpus.clone(),
        };
        Some(records::put(records::executor_key(&key.framework, &key.executor), &record))
    }

    pub(super) fn task_record(&self, key: &TaskKey) -> Option<RecordWrite> {
        let task = self.tasks.get(key)?;
        if task.volatile {
            return None;
        }
        let ended = task.phase == Phase::Ended;
        let record = TaskRecord {
            framework_id: key.framework.clone(),
            info: Some(if ended { wire::slim(&task.info) } else { task.info.clone() }),
            executor_id: task.executor.clone(),
            container_id: task.container.clone(),
            directory: task.directory.clone(),
            launch_id: task.launch_id.clone(),
            started: task.started_at.0 > 0,
            pid: task.pid,
            networks: task.networks.clone(),
            latest: task.latest.clone(),
            pending: task.stream.pending.iter().map(|pending| pending.status.clone()).collect(),
            started_at: task.started_at.0,
            finished_at: task.finished_at.0,
            tombstone: false,
            killed: task.kill.map_or(0, |kill| kill.cause as u32),
            known_uuids: task.known_uuids.iter().cloned().collect(),
            pod: task.pod,
            group: task.group,
            image: task.image.clone(),
            gpus: task.gpus.clone(),
        };
        Some(records::put(records::task_key(&key.framework, &key.task), &record))
    }

    pub(super) fn tombstone_record(&self, key: &TaskKey) -> Option<RecordWrite> {
        let stone = self.tombstones.get(key)?;
        let info = plenum_api::mesos::TaskInfo {
            name: stone.task.name.clone(),
            task_id: stone.task.task_id.clone(),
            agent_id: stone.task.agent_id.clone(),
            resources: stone.task.resources.clone(),
            labels: stone.task.labels.clone(),
            discovery: stone.task.discovery.clone(),
            ..Default::default()
        };
        let record = TaskRecord {
            framework_id: key.framework.clone(),
            info: Some(info),
            executor_id: stone.task.executor_id.clone().map(|id| id.value),
            container_id: stone.container.clone(),
            directory: stone.directory.clone(),
            launch_id: stone.launch_id.clone(),
            latest: stone.task.statuses.last().cloned(),
            finished_at: stone.finished.0,
            tombstone: true,
            ..Default::default()
        };
        Some(records::put(records::task_key(&key.framework, &key.task), &record))
    }

    /// The start: records are read, containers found are matched with them, and what is missing is reported.
    pub(super) fn recover(&mut self, recovery: Recovery, cx: &mut Cx<'_>) {
        if self.recovered {
            return;
        }
        self.recovered = true;
        let mut boot = String::new();
        let mut tasks = Vec::new();
        for (key, body) in recovery.records {
            if let Err(error) = self.read_record(&key, &body, &mut boot, &mut tasks, cx) {
                cx.report(Level::Warn, format!("Record {key} is not used and put aside: {error}"));
                cx.out.push(Effect::SetAside { key });
            }
        }
        let rebooted = !boot.is_empty() && boot != self.settings.boot_id;
        if boot != self.settings.boot_id {
            let record = BootRecord { boot_id: self.settings.boot_id.clone() };
            cx.writes.push(records::put("boot_id".to_owned(), &record));
        }
        self.recover_volumes(cx);
        let mut found: BTreeMap<String, FoundState> =
            recovery.containers.into_iter().map(|found| (found.container, found.state)).collect();
        self.recover_executors(&mut found, cx);
        for record in tasks {
            self.recover_task(record, &mut found, rebooted, cx);
        }
        self.recover_pods(cx);
        for (container, state) in found {
            cx.report(Level::Warn, format!("Container {container} belongs to no record and is removed"));
            if matches!(state, FoundState::Running(_)) {
                cx.out.push(Effect::Destroy { container: container.clone() });
            } else {
                cx.out.push(Effect::Release { container });
            }
        }
        let ids: Vec<String> = self.frameworks.keys().cloned().collect();
        for id in ids {
            if self.frameworks.get(&id).is_some_and(|framework| framework.terminating) {
                self.shutdown_framework(&id, cx);
            }
            self.framework_idle(&id, cx);
        }
        self.drain_on(cx);
    }

    fn read_record(
        &mut self,
        key: &str,
        body: &[u8],
        boot: &mut String,
        tasks: &mut Vec<TaskRecord>,
        cx: &mut Cx<'_>,
    ) -> Result<(), RecordError> {
        let missing = |what: &str| RecordError::Body(format!("it has no {what}"));
        let parts: Vec<&str> = key.split('/').collect();
        match parts.as_slice() {
            ["agent"] => {
                let record: AgentRecord = records::open(body)?;
                self.agent_id = record.agent_id;
                self.identity_durable = true;
                self.cluster_id = record.cluster_id;
                if record.hostname != self.settings.hostname {
                    let (old, new) = (record.hostname, &self.settings.hostname);
                    cx.report(Level::Info, format!("The host name changed from {old} to {new}"));
                }
            }
            ["term"] => self.term = records::open::<TermRecord>(body)?.term,
            [records::RECORD] => self.read_resources(records::open(body)?, cx),
            ["drain"] => self.read_drain(&records::open::<DrainRecord>(body)?, cx),
            ["overlay"] => self.read_overlay(&records::open::<records::OverlayRecord>(body)?, cx),
            ["boot_id"] => *boot = records::open::<BootRecord>(body)?.boot_id,
            ["frameworks", _, "framework"] => {
                let record: FrameworkRecord = records::open(body)?;
                let info = record.info.ok_or_else(|| missing("FrameworkInfo"))?;
                let framework = Framework { info, terminating: record.terminating, durable: true };
                self.frameworks.insert(record.id, framework);
            }
            ["frameworks", _, "executors", _] => {
                let record: ExecutorRecord = records::open(body)?;
                let info = record.info.ok_or_else(|| missing("ExecutorInfo"))?;
                let key =
                    ExecutorKey { framework: record.framework_id, executor: info.executor_id.value.clone() };
                let executor = Executor::new(info, record.container_id, record.directory, record.token);
                let executor = Executor { gpus: record.gpus, ..executor };
                self.executors.insert(key, executor);
            }
            ["frameworks", _, "tasks", _] => {
                let record: TaskRecord = records::open(body)?;
                if record.info.is_none() {
                    return Err(missing("TaskInfo"));
                }
                tasks.push(record);
            }
            _ => return Err(RecordError::Body("no record of this release has that key".to_owned())),
        }
        Ok(())
    }

    fn recover_executors(&mut self, found: &mut BTreeMap<String, FoundState>, cx: &mut Cx<'_>) {
        let keys: Vec<ExecutorKey> = self.executors.keys().cloned().collect();
        let deadline = cx.after(self.settings.executor_reregistration_timeout);
        for key in keys {
            let Some(executor) = self.executors.get_mut(&key) else { continue };
            if executor.is_pod() {
                // What holds its shared namespaces goes with it.
                found.remove(&executor.container);
                // Its intent until all its tasks are known again: see `recover_pods`.
                executor.recovered = true;
                continue;
            }
            match found.remove(&executor.container) {
                Some(FoundState::Running(started)) => {
                    executor.phase = ExecutorPhase::Registering;
                    executor.launched = true;
                    executor.recovered = true;
                    executor.pid = started.pid;
                    executor.networks = started.networks;
                    executor.deadline = Some(deadline);
                    let container = executor.container.clone();
                    self.containers.insert(container, Owner::Executor(key.clone()));
                    self.mark(deadline, Mark::Executor(key));
                }
                other => {
                    // Ended while nobody looked, or never started. Its tasks learn it when they are recovered.
                    let container = executor.container.clone();
                    let directory = executor.directory.clone();
                    self.executors.remove(&key);
                    cx.writes.push(records::delete(records::executor_key(&key.framework, &key.executor)));
                    if other.is_some() {
                        cx.out.push(Effect::Release { container: container.clone() });
                    }
                    self.retire(&container, &directory, cx);
                }
            }
        }
    }

    fn recover_task(
        &mut self,
        record: TaskRecord,
        found: &mut BTreeMap<String, FoundState>,
        rebooted: bool,
        cx: &mut Cx<'_>,
    ) {
        let Some(info) = record.info.clone() else { return };
        let key = TaskKey { framework: record.framework_id.clone(), task: info.task_id.value.clone() };
        if record.tombstone {
            self.recover_tombstone(key, record, found, cx);
            return;
        }
        let started = record.started;
        let mut task = restore(&key, info, record);
        let state = found.remove(&task.container);
        if task.phase == Phase::Ended {
            let done = task.stream.pending.is_empty();
            self.tasks.insert(key.clone(), Box::new(task));
            if state.is_some() {
                self.set_released(&key, cx);
            }
            if done {
                self.conclude(&key, cx);
            }
            return;
        }
        if let Some(executor) = task.executor.clone().filter(|_| !task.ours()) {
            task.phase = if started { Phase::Running } else { Phase::Queued };
            self.tasks.insert(key.clone(), Box::new(task));
            let id = ExecutorKey { framework: key.framework.clone(), executor };
            if !self.executors.contains_key(&id) {
                let words = "The executor ended while the agent was away";
                let news = News::agent(TaskState::TaskFailed, Reason::ExecutorTerminated, words);
                self.say(&key, news, cx);
            }
            return;
        }
        self.containers.insert(task.container.clone(), Owner::Task(key.clone()));
        task.phase = Phase::Launching;
        self.tasks.insert(key.clone(), Box::new(task));
        match state {
            Some(FoundState::Running(now)) => self.adopt(&key, now, started, cx),
            Some(FoundState::Exited(exit)) => self.ended_unseen(&key, &exit, cx),
            Some(FoundState::Unstarted) => self.lost(&key, started, false, cx),
            None => self.lost(&key, started, rebooted, cx),
        }
    }

    fn set_released(&mut self, key: &TaskKey, cx: &mut Cx<'_>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.released = true;
        cx.out.push(Effect::Release { container: task.container.clone() });
    }

    fn recover_tombstone(
        &mut self,
        key: TaskKey,
        record: TaskRecord,
        found: &mut BTreeMap<String, FoundState>,
        cx: &mut Cx<'_>,
    ) {
        if found.remove(&record.container_id).is_some() {
            cx.out.push(Effect::Release { container: record.container_id.clone() });
        }
        let finished = Millis(record.finished_at);
        let Some(info) = record.info.clone() else { return };
        let command = record.executor_id.is_none();
        let (container, directory) = (record.container_id.clone(), record.directory.clone());
        let launch_id = record.launch_id.clone();
        let task = restore(&key, info, record);
        let stone = Tombstone {
            task: view::to_task(&self.agent_id, &key, &task),
            container: container.clone(),
            directory: directory.clone(),
            launch_id,
            finished,
        };
        self.tombstones.insert(key.clone(), stone);
        if command {
            self.retired.insert(container.clone(), Some(key));
            cx.out.push(Effect::Retire { container, directory, since: finished });
        }
    }

    /// Its process runs on.
    fn adopt(&mut self, key: &TaskKey, now: Started, started: bool, cx: &mut Cx<'_>) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.pid = now.pid.or(task.pid);
            if !now.networks.is_empty() {
                task.networks = now.networks;
            }
            if !now.image.is_empty() {
                task.image = now.image;
            }
        }
        if !started {
            // It was started just before the agent died: nobody was told.
            self.now_running(key, cx);
            return;
        }
        let Some(task) = self.tasks.get_mut(key) else { return };
        task.phase = Phase::Running;
        let limit = task.info.max_completion_time.as_ref().map(wire::duration);
        let spent = cx.now.wall - task.started_at;
        if let Some(limit) = limit {
            let at = cx.after(limit - spent);
            task.completes_by = Some(at);
            self.mark(at, Mark::Task(key.clone()));
        }
        if self.tasks.get(key).is_some_and(|task| task.kill.is_some()) {
            self.begin_kill(key, cx);
        } else {
            self.start_checks(key, cx);
        }
    }

    fn ended_unseen(&mut self, key: &TaskKey, exit: &Exit, cx: &mut Cx<'_>) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.phase = Phase::Running;
            if let Some(kill) = &mut task.kill {
                kill.began = Some(cx.now.mono);
            }
        }
        self.task_exited(key, exit, cx);
    }

    fn lost(&mut self, key: &TaskKey, started: bool, rebooted: bool, cx: &mut Cx<'_>) {
        let (state, words) = match (started, rebooted) {
            (true, true) => (TaskState::TaskFailed, "The machine was restarted while the task ran"),
            (true, false) => {
                (TaskState::TaskFailed, "The agent restarted and found nothing left of the task's container")
            }
            (false, _) => {
                let info = self.frameworks.get(&key.framework).map(|framework| &framework.info);
                (lost_or(info, TaskState::TaskDropped), "The agent restarted before the task was launched")
            }
        };
        self.say(key, News::agent(state, Reason::AgentRestarted, words), cx);
    }
}

/// A task as its record has it; the phase of one that has not ended is the caller's to find out.
fn restore(key: &TaskKey, info: plenum_api::mesos::TaskInfo, record: TaskRecord) -> Task {
    let mut task = Task::new(&key.framework, info, record.launch_id);
    task.executor = record.executor_id;
    task.pod = record.pod;
    task.group = record.group;
    task.container = record.container_id;
    task.directory = record.directory;
    task.pid = record.pid;
    task.networks = record.networks;
    task.image = record.image;
    task.gpus = record.gpus;
    task.latest = record.latest;
    task.started_at = Millis(record.started_at);
    task.finished_at = Millis(record.finished_at);
    task.known_uuids = record.known_uuids.into_iter().collect();
    task.revision = 1;
    task.durable_revision = 1;
    task.stream.pending = record.pending.into_iter().map(|status| Pending { status, revision: 1 }).collect();
    task.kill = KillCause::from_number(record.killed).map(|cause| Kill {
        cause,
        began: None,
        deadline: Millis(u64::MAX),
    });
    if record.finished_at > 0 || task.latest.as_ref().is_some_and(|status| wire::terminal(status.state())) {
        task.phase = Phase::Ended;
    }
    task
}
